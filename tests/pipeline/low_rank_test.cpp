// Sparse + low rank through the pipeline: what later blocks see, what is written, and what is refused when the plan is made.
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/family_fixture.h"
#include "support/expect_error.h"
#include "swiftprune/cuda/capabilities.h"
#include "swiftprune/pipeline/adapter_output.h"
#include "swiftprune/pipeline/capabilities.h"
#include "swiftprune/pipeline/drivers/prune.h"

namespace swiftprune {
namespace {

using nlohmann::json;
using test::expect_error;

// By tensor, in whatever dtype.
class Kept final : public PruneOutput {
 public:
  void write_part(const std::string& name, std::int64_t, std::span<const std::byte> bytes) override {
    sizes[name] += bytes.size();
  }
  std::map<std::string, std::size_t> sizes;
};

class LowRankPrune : public ::testing::Test {
 protected:
  Plan plan(std::int64_t rank, std::string_view refine, std::string_view pattern = "1:2") const {
    PlanDefaults defaults{parse_pattern(pattern), 0.5, parse_score("wanda"), parse_refine(refine)};
    defaults.low_rank = rank;
    return uniform_plan(*model_, defaults, {});
  }
  PruneResult run(const Plan& plan, Kept& output) const {
    return prune(*model_, *backend_, plan, test::Expected("llama3").windows(), {}, output);
  }
  std::unique_ptr<Model> model_ = Model::open(test::kModels / "llama3");
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
};

TEST_F(LowRankPrune, WritesBothFactorsAndLosesLess) {
  for (const char* refine : {"admm(10,8)", "aligned-admm(10,8)"}) {
    Kept without, with;
    const PruneResult plain = run(plan(0, refine), without), low = run(plan(3, refine), with);
    ASSERT_EQ(low.tensors.size(), plain.tensors.size());
    EXPECT_EQ(with.sizes.size(), 3 * without.sizes.size());
    for (std::size_t i = 0; i < low.tensors.size(); ++i) {
      const TensorResult& tensor = low.tensors[i];
      EXPECT_EQ(tensor.low_rank, 3);
      EXPECT_EQ(plain.tensors[i].low_rank, 0);
      EXPECT_EQ(tensor.sparsity, plain.tensors[i].sparsity);
      if (tensor.name.find("layers.0.") != std::string::npos) {  // the same inputs in both
        EXPECT_LT(*tensor.error, *plain.tensors[i].error) << refine << " " << tensor.name;
      }
      const auto size = static_cast<std::size_t>(size_of(model_->checkpoint().at(tensor.name).dtype));
      const std::string linear = linear_of(tensor.name);
      EXPECT_EQ(with.sizes.at(adapter_left_name(linear)), size * 3u * static_cast<std::size_t>(tensor.rows));
      EXPECT_EQ(with.sizes.at(adapter_right_name(linear)), size * 3u * static_cast<std::size_t>(tensor.cols));
    }
  }
}

// Of full rank S + L is the dense weight: the next block sees what it would see behind a dense one.
TEST_F(LowRankPrune, LaterBlocksSeeTheSum) {
  Plan only_last = plan(0, "admm(10,8)"), whole = plan(0, "admm(10,8)");
  for (PlanEntry& entry : only_last.entries) entry.prune = entry.layer > 0;
  Plan full = whole;
  for (PlanEntry& entry : full.entries)
    if (entry.layer == 0) entry.low_rank = std::min(entry.rows, entry.cols);
  Kept output;
  const auto errors = [&](const Plan& plan) {
    std::map<std::string, double> result;
    for (const TensorResult& tensor : run(plan, output).tensors) result[tensor.name] = *tensor.error;
    return result;
  };
  const auto dense_before = errors(only_last), sum_before = errors(full), sparse_before = errors(whole);
  double moved = 0.0;
  for (const auto& [name, error] : dense_before) {
    EXPECT_NEAR(sum_before.at(name), error, 0.03 * error) << name;
    moved = std::max(moved, std::abs(sparse_before.at(name) - error) / error);
  }
  EXPECT_GT(moved, 0.05);
}

TEST_F(LowRankPrune, ThePlanSaysTheRank) {
  Plan some = plan(3, "admm");
  apply_override("*.down_proj.weight", "low_rank=2", some);
  apply_override("*.k_proj.weight", "low_rank=0", some);
  EXPECT_EQ(some.low_rank(), 3);
  Plan read = plan(0, "none");
  apply_plan(json::parse(to_json(some).dump()), "plan.json", read);
  for (std::size_t i = 0; i < some.entries.size(); ++i)
    EXPECT_EQ(read.entries[i].low_rank, some.entries[i].low_rank);
  expect_error(ErrorKind::kUsage, [&] { apply_override("*.q_proj.weight", "low_rank=x", some); },
               {"low_rank", "'x'"});

  const json config = json::parse(adapter_config(*model_, some, "BASE"));
  EXPECT_EQ(config.at("r"), 3);
  EXPECT_EQ(config.at("lora_alpha"), 3);
  EXPECT_EQ(config.at("base_model_name_or_path"), "BASE");
  EXPECT_EQ(config.at("rank_pattern").at("model.layers.0.mlp.down_proj"), 2);
  EXPECT_EQ(config.at("alpha_pattern"), config.at("rank_pattern"));
  // All of a name have a part, but for k_proj.
  EXPECT_EQ(config.at("target_modules"),
            (json{"down_proj", "gate_proj", "o_proj", "q_proj", "up_proj", "v_proj"}));
  apply_override("*.layers.1.*q_proj.weight", "low_rank=0", some);
  const json paths = json::parse(adapter_config(*model_, some, "BASE")).at("target_modules");
  EXPECT_EQ(paths.size(), plan_adapter(model_->checkpoint(), some).size() / 2);
  EXPECT_EQ(paths.at(0), "model.layers.0.self_attn.q_proj");
  const auto gpt2 = Model::open(test::kModels / "gpt2");
  EXPECT_EQ(json::parse(adapter_config(*gpt2, some, "")).at("fan_in_fan_out"), true);
}

TEST_F(LowRankPrune, WhatCannotBeIsRefusedWhenThePlanIsMade) {
  const auto refused = [&](std::int64_t rank, std::string_view refine,
                           std::initializer_list<std::string> texts) {
    expect_error(
        ErrorKind::kUsage, [&] { plan(rank, refine); }, texts);
  };
  refused(3, "none", {"layers.0", "low rank", "refine none", "admm or aligned-admm alone"});
  refused(3, "admm+pcg", {"low rank", "admm+pcg"});
  refused(-1, "admm", {"low rank", "found -1"});
  refused(4000, "admm", {"low rank", "found 4000", "the smaller side of"});
  Plan some = plan(3, "admm");
  expect_error(ErrorKind::kUsage, [&] { apply_override("*q_proj.weight", "quantize=int8(row)", some); },
               {"low rank", "quantize int8(row)"});
  check_plan(plan(3, "admm"), kDefaultSelector, cpu_capabilities());
  expect_error(ErrorKind::kUsage,
               [&] { check_plan(plan(3, "admm"), kDefaultSelector, cuda::capabilities()); },
               {"--low-rank: found 3", "expected 0 on a GPU", "--device cpu"});
  Plan permuted = plan(3, "admm");
  permuted.permute = Permute::kAll;
  expect_error(ErrorKind::kUsage, [&] { check_low_rank_plan(permuted, *model_); },
               {"--low-rank", "--permute all"});
}

TEST_F(LowRankPrune, ModelsWithoutSuchFoldersAreRefused) {
  PlanDefaults defaults{parse_pattern("row"), 0.5, parse_score("wanda"), parse_refine("admm")};
  for (const auto& [name, text] :
       {std::pair{"lfm2", "recurrent mixers"}, {"llava", "a model that also sees"}}) {
    const auto model = Model::open(test::model_folder(name));
    Plan plan = uniform_plan(*model, defaults, {});
    check_low_rank_plan(plan, *model);
    for (PlanEntry& entry : plan.entries) entry.low_rank = 2;
    expect_error(ErrorKind::kUsage, [&] { check_low_rank_plan(plan, *model); },
                 {"--low-rank: found 2", text});
  }
  defaults.low_rank = 2;
  const auto experts = Model::open(test::model_folder("qwen3_moe"));
  expect_error(ErrorKind::kUsage, [&] { uniform_plan(*experts, defaults, {}); },
               {"low rank", "of an expert"});
}

}  // namespace
}  // namespace swiftprune
