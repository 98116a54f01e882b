#include "swiftprune/pipeline/plan.h"

#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/temp_dir.h"
#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

const std::filesystem::path kModel = SWIFTPRUNE_TEST_DATA "/model/llama2";

PlanDefaults half() { return {parse_pattern("row"), 0.5, parse_score("wanda"), parse_refine("none")}; }

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class PlanTest : public ::testing::Test {
 protected:
  std::string write(const std::string& text) {
    std::ofstream(path_) << text;
    return path_;
  }
  std::unique_ptr<Model> model_ = Model::open(kModel);
  test::TempDir folder_;  // of this process alone: ctest runs several tests at once
  std::string path_ = (folder_.path() / "plan_test.json").string();
};

TEST_F(PlanTest, HoldsEveryLinearOfEveryBlock) {
  const Plan plan = uniform_plan(*model_, half(), {});
  EXPECT_EQ(static_cast<std::int64_t>(plan.entries.size()), 7 * model_->config().num_layers());
  EXPECT_NEAR(plan.sparsity(), 0.5, 1e-12);
}

TEST_F(PlanTest, TheDefaultGroupDividesEveryWidth) {
  ModelConfig config = model_->config();
  const auto widths = [&](std::int64_t hidden, std::int64_t inner) {
    for (BlockConfig& block : config.blocks) {
      for (LinearTensors& linear : block.qkv) linear.inputs = hidden;
      for (LinearTensors& linear : block.up) linear.inputs = hidden;
      block.attention_output.inputs = hidden;
      block.down.inputs = inner;
    }
    return default_group(config);
  };
  EXPECT_EQ(widths(128, 192), 64);
  EXPECT_EQ(widths(128, 96), 32);
  EXPECT_EQ(widths(100, 96), 0);
}

TEST_F(PlanTest, SkipLeavesTensorsDense) {
  const Plan plan = uniform_plan(*model_, half(), {"*.down_proj.weight"});
  for (const PlanEntry& entry : plan.entries) {
    EXPECT_EQ(entry.prune, entry.tensor.find("down_proj") == std::string::npos) << entry.tensor;
  }
  EXPECT_LT(plan.sparsity(), 0.5);
}

TEST_F(PlanTest, OverridesChangeWhatTheyName) {
  Plan plan = uniform_plan(*model_, half(), {});
  apply_override("*.down_proj.weight", "sparsity=0.25,refine=admm(20,15)", plan);
  apply_override("*.layers.0.*q_proj*", "pattern=1:2", plan);
  apply_override("*.o_proj.weight", "prune=no", plan);
  for (const PlanEntry& entry : plan.entries) {
    const auto is = [&](const char* part) { return entry.tensor.find(part) != std::string::npos; };
    const bool down = is("down_proj");
    EXPECT_EQ(entry.sparsity, down ? 0.25 : 0.5) << entry.tensor;
    EXPECT_EQ(format(entry.refine), down ? "admm(20,15)" : "none");
    EXPECT_EQ(format(entry.pattern), is("layers.0.self_attn.q_proj") ? "1:2" : "row");
    EXPECT_EQ(entry.prune, !is("o_proj"));
    EXPECT_EQ(entry.fixed, down || is("layers.0.self_attn.q_proj"));
  }
}

TEST_F(PlanTest, RefusesOverridesThatMakeNoSense) {
  const std::string tensors = "*.down_proj.weight";
  const std::pair<const char*, const char*> cases[] = {
      {"sparsity=2", "sparsity"},   {"sparsity=half", "half"},           {"speed=3", "speed"},
      {"sparsity", "settings"},     {"pattern=2:4,sparsity=0.3", "2:4"}, {"prune=maybe", "maybe"},
      {"score=nothing", "nothing"}, {"pattern=3:7", "down_proj"},
  };
  for (const auto& [settings, expected] : cases) {
    Plan plan = uniform_plan(*model_, half(), {});
    EXPECT_THAT(error_of([&] { apply_override(tensors, settings, plan); }), ::testing::HasSubstr(expected));
  }
  Plan plan = uniform_plan(*model_, half(), {});
  EXPECT_THAT(error_of([&] { apply_override("*.nothing", "sparsity=0.1", plan); }),
              ::testing::HasSubstr("--override"));
}

TEST_F(PlanTest, RefusesOverridesThatMatchNothingAndSparsityOutOfRange) {
  EXPECT_THAT(error_of([&] { uniform_plan(*model_, half(), {"*.nothing"}); }),
              ::testing::HasSubstr("--skip"));
  for (const double sparsity : {-0.1, 1.0, 2.0, std::nan("")}) {
    PlanDefaults defaults = half();
    defaults.sparsity = sparsity;
    EXPECT_THAT(error_of([&] { uniform_plan(*model_, defaults, {}); }), ::testing::HasSubstr("--sparsity"));
  }
}

TEST_F(PlanTest, RefusesAPatternThatDoesNotDivideTheInputs) {
  PlanDefaults defaults = half();
  defaults.pattern = parse_pattern("1:31");
  EXPECT_THAT(error_of([&] { uniform_plan(*model_, defaults, {}); }),
              ::testing::AllOf(::testing::HasSubstr("q_proj"), ::testing::HasSubstr("--skip")));
}

TEST_F(PlanTest, ReadsBackWhatItWrites) {
  Plan plan = uniform_plan(*model_, half(), {"*.layers.0.*"});
  plan.entries.back().sparsity = 0.25;
  Plan other = uniform_plan(*model_, half(), {});
  apply_plan_file(write(to_json(plan).dump()), other);
  ASSERT_EQ(other.entries.size(), plan.entries.size());
  for (std::size_t i = 0; i < plan.entries.size(); ++i) {
    EXPECT_EQ(other.entries[i].prune, plan.entries[i].prune);
    EXPECT_DOUBLE_EQ(other.entries[i].asked_sparsity(), plan.entries[i].asked_sparsity());
  }
}

TEST_F(PlanTest, RefusesDamagedPlanFiles) {
  const std::string name = uniform_plan(*model_, half(), {}).entries.front().tensor;
  const std::pair<std::string, std::string> cases[] = {
      {"{", "plan_test.json"},
      {"[]", "'tensors'"},
      {R"({"tensors": [{"name": "no.such.tensor"}]})", "no.such.tensor"},
      {R"({"tensors": [{}]})", "tensors[0]"},
      {R"({"tensors": [{"name": ")" + name + R"("}, {"name": ")" + name + R"("}]})", "second time"},
      {R"({"tensors": [{"name": ")" + name + R"(", "sparsity": 1.5}]})", "1.5"},
      {R"({"tensors": [{"name": ")" + name + R"(", "sparsity": 0.3, "pattern": "2:4"}]})", "contradicts"},
      {R"({"tensors": [{"name": ")" + name + R"(", "pattern": "4:2"}]})", "4:2"},
      {R"({"tensors": [{"name": ")" + name + R"(", "score": "no-such"}]})", "no-such"},
      {R"({"tensors": [{"name": ")" + name + R"(", "shape": [3, 4]}]})", "another model"},
  };
  for (const auto& [text, expected] : cases) {
    Plan plan = uniform_plan(*model_, half(), {});
    EXPECT_THAT(error_of([&] { apply_plan_file(write(text), plan); }), ::testing::HasSubstr(expected))
        << text;
  }
}

}  // namespace
}  // namespace swiftprune
