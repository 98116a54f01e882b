// Routers by hand, and files of experts that contradict themselves. What experts compute is tested against transformers in
// family_test.cpp, on the models of tests/data/experts.
#include "swiftprune/model/experts.h"

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/model.h"

namespace swiftprune {
namespace {

using nlohmann::json;
using test::kExpertModels;

Router router_of(const Model& model, std::int64_t layer) {
  return Router(model.checkpoint(), *model.config().blocks[static_cast<std::size_t>(layer)].experts,
                model.config().hidden_size);
}

TEST(Router, ChoosesTheHighestAndThenTheNext) {
  const auto model = Model::open(kExpertModels / "qwen3_moe");  // softmax, 3 of 7, renormalised
  const Router router = router_of(*model, 0);
  const float scores[] = {0.1f, 0.2f, 0.05f, 0.2f, 0.3f, 0.1f, 0.05f};
  std::array<std::int32_t, 5> experts{};
  router.choose(scores, experts);
  EXPECT_THAT(experts, ::testing::ElementsAre(4, 1, 3, 0, 5));  // ties go to the lower index
  std::array<float, 3> gates{};
  router.weigh(scores, std::span(experts).first(3), gates);
  EXPECT_THAT(gates, ::testing::Pointwise(::testing::FloatNear(1e-6f), {3.0f / 7, 2.0f / 7, 2.0f / 7}));
}

TEST(Router, KeepsToItsGroups) {
  const auto model =
      Model::open(kExpertModels / "deepseek_v2");  // 3 of 9 experts, in 2 of 3 groups by their best
  const Router router = router_of(*model, 1);
  const float scores[] = {0.3f, 0.01f, 0.0f, 0.2f, 0.02f, 0.19f, 0.05f, 0.25f, 0.22f};
  std::array<std::int32_t, 8> experts{};
  router.choose(scores, experts);
  EXPECT_THAT(experts, ::testing::ElementsAre(0, 7, 8, 6, 1, 2, -1, -1));
  std::array<float, 3> gates{};
  router.weigh(scores, std::span(experts).first(3), gates);  // as they are, times 1.5
  EXPECT_THAT(gates, ::testing::Pointwise(::testing::FloatNear(1e-6f), {0.45f, 0.375f, 0.33f}));
}

TEST(Router, OverFewerExpertsIsTheSameRouterWithoutTheOthers) {
  const auto model = Model::open(kExpertModels / "deepseek_v3_halves");
  const auto backend = make_cpu_backend();
  const Router router = router_of(*model, 0);
  const std::vector<std::int64_t> kept = {0, 2, 3, 5};
  Matrix x(4, model->config().hidden_size);
  for (std::size_t i = 0; i < x.values().size(); ++i) x.values()[i] = std::sin(static_cast<float>(i));
  const Matrix all = router.scores(*backend, x.view()), fewer = router.with(kept).scores(*backend, x.view());
  for (std::int64_t t = 0; t < x.rows(); ++t) {
    for (std::size_t i = 0; i < kept.size(); ++i) {
      EXPECT_NEAR(fewer.at(t, static_cast<std::int64_t>(i)), all.at(t, kept[i]), 1e-6);
      EXPECT_EQ(router.with(kept).rank(fewer.view().row_span(t), static_cast<std::int64_t>(i)) -
                    fewer.at(t, static_cast<std::int64_t>(i)),
                router.rank(all.view().row_span(t), kept[i]) - all.at(t, kept[i]));
    }
  }
}

TEST(Experts, OneWithoutTokensIsNotTouched) {
  const auto model = Model::open(kExpertModels / "mixtral");
  const auto backend = make_cpu_backend();
  const BlockConfig& block = model->config().blocks[0];
  Experts experts(model->checkpoint(), model->config(), *block.experts, WeightUse::kCompact);
  experts.pack(*backend, ComputeType::kF32);
  Matrix x(1, model->config().hidden_size);
  for (std::size_t i = 0; i < x.values().size(); ++i) x.values()[i] = std::cos(static_cast<float>(i));
  const Routing routing =
      experts.router().route(std::as_const(experts).router().scores(*backend, x.view()).view());
  const std::vector<ExpertTokens> tokens = tokens_by_expert(routing, experts.count());
  const auto used =
      std::count_if(tokens.begin(), tokens.end(), [](const ExpertTokens& t) { return !t.rows.empty(); });
  EXPECT_EQ(used, 2);
  // What a step reads: two experts of five, and the router.
  const std::int64_t router_bytes = 5 * 24 * 4;
  EXPECT_EQ((experts.bytes_for(1) - router_bytes) * 5, (experts.bytes_for(5) - router_bytes) * 2);
  EXPECT_EQ(experts.bytes_for(5), experts.bytes_for(100));
}

// The folder of tests/data/experts with other tensors or another config.json.
class ChangedModel {
 public:
  explicit ChangedModel(const std::string& name) : source_(kExpertModels / name) {
    config_ = read_json_file(source_ / "config.json");
  }
  json& config() { return config_; }
  // The tensor is left out, or takes another shape.
  void drop(const std::string& tensor) { dropped_ = tensor; }
  void reshape(const std::string& tensor, std::vector<std::int64_t> shape) {
    reshaped_ = tensor;
    shape_ = std::move(shape);
  }

  std::optional<Error> error() const {
    const test::TempDir dir;
    const Checkpoint source = Checkpoint::open(source_);
    std::vector<PlannedTensor> plan;
    for (PlannedTensor& tensor : plan_like(source)) {
      if (tensor.name == dropped_) continue;
      if (tensor.name == reshaped_) tensor.shape = shape_;
      plan.push_back(std::move(tensor));
    }
    CheckpointWriter writer(dir.path() / "m", plan);
    for (const PlannedTensor& tensor : plan) {
      std::vector<std::byte> bytes(source.bytes(source.at(tensor.name)).begin(),
                                   source.bytes(source.at(tensor.name)).end());
      std::int64_t size = size_of(tensor.dtype);
      for (const std::int64_t extent : tensor.shape) size *= extent;
      bytes.resize(static_cast<std::size_t>(size));
      writer.write_bytes(tensor.name, bytes);
    }
    writer.write_file("config.json", config_.dump());
    writer.finish();
    return test::error_of([&] { Model::open(dir.path() / "m"); });
  }

 private:
  std::filesystem::path source_;
  json config_;
  std::string dropped_, reshaped_;
  std::vector<std::int64_t> shape_;
};

void expect_bad(const ChangedModel& model, const std::vector<std::string>& texts) {
  const auto error = model.error();
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kBadInput);
  for (const std::string& text : texts) EXPECT_THAT(error->what(), ::testing::HasSubstr(text));
}

TEST(BadExperts, AsTheyAreTheyOpen) {
  for (const std::string& name : test::expert_model_names()) EXPECT_FALSE(ChangedModel(name).error()) << name;
}

TEST(BadExperts, RouterAndExpertsThatDisagree) {
  ChangedModel model("mixtral");
  model.reshape("model.layers.1.block_sparse_moe.gate.weight", {4, 24});
  expect_bad(model, {"block_sparse_moe.gate.weight", "[4, 24]", "[5, 24]", "num_local_experts"});
}

TEST(BadExperts, HalfOfTheExperts) {
  ChangedModel fewer("mixtral");
  fewer.config()["num_local_experts"] = 10;
  expect_bad(fewer, {"gate.weight", "[5, 24]", "[10, 24]"});
  ChangedModel missing("mixtral");
  missing.drop("model.layers.0.block_sparse_moe.experts.3.w2.weight");
  expect_bad(missing, {"experts.3.w2.weight", "missing"});
}

TEST(BadExperts, MoreExpertsThanTheFileSays) {
  ChangedModel model("mixtral");
  model.config()["num_local_experts"] = 4;
  model.reshape("model.layers.0.block_sparse_moe.gate.weight", {4, 24});
  expect_bad(model, {"experts.4.w1.weight", "an expert more than the 4", "num_local_experts"});
}

TEST(BadExperts, FusedTensorsOfAWrongShape) {
  ChangedModel model("qwen3_moe_fused");
  model.reshape("model.layers.1.mlp.experts.gate_up_proj", {6, 12, 24});
  expect_bad(model, {"gate_up_proj", "[6, 12, 24]", "[6, 24, 24]", "moe_intermediate_size"});
  ChangedModel mxfp4("gpt_oss_mxfp4");
  mxfp4.reshape("model.layers.0.mlp.experts.down_proj_scales", {5, 32, 2});
  expect_bad(mxfp4, {"down_proj_scales", "[5, 32, 2]", "[5, 32, 1]"});
}

TEST(BadExperts, WithoutTheCorrectionBias) {
  ChangedModel model("deepseek_v3");
  model.drop("model.layers.1.mlp.gate.e_score_correction_bias");
  expect_bad(model, {"e_score_correction_bias", "missing", "chooses experts"});
}

TEST(BadExperts, RoutersThatCannotBe) {
  ChangedModel many("mixtral");
  many.config()["num_experts_per_tok"] = 6;
  expect_bad(many, {"num_experts_per_tok", "6 experts a token", "at most the 5"});
  ChangedModel groups("deepseek_v3");
  groups.config()["n_group"] = 4;
  expect_bad(groups, {"n_group", "4 groups", "divisor of the 9"});
  ChangedModel few("deepseek_v3");
  few.config()["topk_group"] = 1;
  few.config()["num_experts_per_tok"] = 4;
  expect_bad(few, {"topk_group", "1 of 3 groups of 3", "4 experts a token"});
  ChangedModel twice("mixtral");
  twice.config()["num_experts"] = 7;
  expect_bad(twice, {"num_experts", "found 7", "expected 5", "num_local_experts"});
}

TEST(BadExperts, QuantisedInAnyOtherWay) {
  ChangedModel model("gpt_oss");
  model.config()["quantization_config"] = {{"quant_method", "awq"}};
  expect_bad(model, {"quantization_config"});
}

}  // namespace
}  // namespace swiftprune
