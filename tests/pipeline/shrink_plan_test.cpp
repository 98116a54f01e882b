// The file of what is left of each layer: as it is written it is read, and what is not such a file is refused by its place.
#include "swiftprune/pipeline/shrink_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/model/family.h"

namespace swiftprune {
namespace {

using test::expect_error;
using ::testing::ElementsAre;
using Json = nlohmann::ordered_json;

// Four layers of 8 channels and 2 head groups.
ModelConfig four_layers() {
  return model_config(nlohmann::json::parse(R"({"model_type": "llama", "vocab_size": 16, "hidden_size": 4,
    "intermediate_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "hidden_act": "silu", "head_dim": 2})"));
}

class ShrinkPlanTest : public ::testing::Test {
 protected:
  ShapeChoice read(const Json& document) {
    test::write_text(file(), document.dump());
    return read_shrink_plan(file(), model_);
  }
  std::string file() const { return (folder_.path() / "plan.json").string(); }
  void expect_refused(const Json& document, std::initializer_list<std::string> texts,
                      ErrorKind kind = ErrorKind::kBadInput) {
    expect_error(
        kind, [&] { read(document); }, texts);
  }

  test::TempDir folder_;
  ModelConfig model_ = four_layers();
  ShapeChoice plan_{shape_of_layers({8, 6, 0, 4}, {2, 2, 0, 1}), {2}, {}};
};

TEST_F(ShrinkPlanTest, IsReadAsItWasWritten) {
  const Json document = shrink_plan_document(model_, plan_);
  EXPECT_EQ(document["layers"][2], (Json{{"removed", true}}));
  EXPECT_EQ(document["layers"][3], (Json{{"intermediate_size", 4}, {"num_key_value_heads", 1}}));
  const ShapeChoice read = this->read(document);
  EXPECT_EQ(read.shape, plan_.shape);
  EXPECT_THAT(read.removed_layers, ElementsAre(2));
  // Layers that stay and are alike need no lists.
  plan_ = {{6, 2, 3}, {0}, {}};
  const ShapeChoice uniform = this->read(shrink_plan_document(model_, plan_));
  EXPECT_EQ(uniform.shape, plan_.shape);
  EXPECT_THAT(uniform.removed_layers, ElementsAre(0));
}

TEST_F(ShrinkPlanTest, CountsWhatIsLeft) {
  // 12 weights a channel, 32 a group.
  EXPECT_EQ(block_parameters(model_, plan_.shape), 12 * (8 + 6 + 4) + 32 * (2 + 2 + 1));
  const ShrinkShape narrow = shape_of_layers({8, 0, 8, 4}, {2, 0, 2, 2});
  EXPECT_EQ(narrow.layers, 3);
  EXPECT_EQ(block_parameters(model_, narrow), 12 * 20 + 32 * 6);
}

TEST_F(ShrinkPlanTest, WhatIsNoPlanOfThisModelIsRefused) {
  const Json good = shrink_plan_document(model_, plan_);
  Json bad = good;
  bad["dense"]["intermediate_size"] = 16;
  expect_refused(bad, {"plan.json: dense", "intermediate_size", "found 16, expected 8", "another model"});
  bad = good;
  bad["dense"].erase("family");
  expect_refused(bad, {"plan.json: dense", "family"});
  bad = good;
  bad["layers"].erase(0);
  expect_refused(bad, {"found 3 layers, expected 4"});
  bad = good;
  bad["layers"][1]["intermediate_size"] = 9;
  expect_refused(bad, {"layers[1]", "intermediate_size", "found 9"});
  bad = good;
  bad["layers"][1].erase("num_key_value_heads");
  expect_refused(bad, {"layers[1]", "num_key_value_heads"});
  bad = good;
  for (Json& layer : bad["layers"]) layer = {{"removed", true}};
  expect_refused(bad, {"every layer is removed"});
  expect_refused(shrink_plan_document(model_, {shape_of(model_), {}, {}}), {"nothing is removed"});
  expect_refused({{"tensors", Json::array()}}, {"a plan of linears, which prune --plan runs"});
  expect_refused(Json::array(), {"plan.json"});
  // One key head serves all: no group can go.
  model_.num_kv_heads = 1;
  plan_ = {shape_of(model_), {}, {}};
  Json one = shrink_plan_document(model_, plan_);
  one["dense"]["num_key_value_heads"] = 1;
  model_.has_width_field = false;
  one["layers"][0]["intermediate_size"] = 4;
  expect_refused(one, {"--plan: mlp cannot be removed from this model"}, ErrorKind::kUsage);
}

}  // namespace
}  // namespace swiftprune
