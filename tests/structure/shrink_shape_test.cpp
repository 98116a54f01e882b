#include "swiftprune/structure/shrink_shape.h"

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "swiftprune/model/family.h"

namespace swiftprune {
namespace {

using test::expect_error;

// SmolLM2-135M: 576 wide, MLP 1536, 9 heads of 64 over 3 key heads, 30 layers.
ModelConfig smollm2() {
  return model_config(nlohmann::json::parse(R"({"model_type": "llama", "vocab_size": 49152,
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 1e5,
    "hidden_act": "silu", "tie_word_embeddings": true, "head_dim": 64})"));
}

TEST(ShrinkShape, CountsTheBlocksWeights) {
  const ModelConfig m = smollm2();
  EXPECT_EQ(block_parameters(m, shape_of(m)), 30 * (3 * 576 * 1536 + 2 * 576 * 576 + 2 * 192 * 576));
  EXPECT_DOUBLE_EQ(ratio_of(m, {1536, 3, 15}), 0.5);
  EXPECT_NEAR(ratio_of(m, {768, 3, 30}), 0.375, 1e-12);  // the MLP has three quarters
}

TEST(ShrinkShape, WidthThatReachesTheRatio) {
  const ModelConfig m = smollm2();
  const auto exact = shapes_for(m, {0.375, {UnitKind::kMlp}, 64});
  ASSERT_EQ(exact.size(), 1u);
  EXPECT_EQ(exact[0], (ShrinkShape{768, 3, 30}));
  // 1126.4 channels: the nearest multiple.
  EXPECT_EQ(shapes_for(m, {0.2, {UnitKind::kMlp}, 128})[0].channels, 1152);
  EXPECT_EQ(shapes_for(m, {0.2, {UnitKind::kMlp}, 1})[0].channels, 1126);
}

TEST(ShrinkShape, LayersAndHeadsComeInPieces) {
  const ModelConfig m = smollm2();
  EXPECT_EQ(shapes_for(m, {0.2, {UnitKind::kLayers}, 1}), (std::vector<ShrinkShape>{{1536, 3, 24}}));
  EXPECT_EQ(shapes_for(m, {0.11, {UnitKind::kLayers}, 1}), (std::vector<ShrinkShape>{{1536, 3, 27}}));
  EXPECT_EQ(shapes_for(m, {0.08, {UnitKind::kHeads}, 1}), (std::vector<ShrinkShape>{{1536, 2, 30}}));
}

TEST(ShrinkShape, MixturesHitTheRatioWithTheWidth) {
  const ModelConfig m = smollm2();
  const auto shapes = shapes_for(m, {0.2, {UnitKind::kMlp, UnitKind::kLayers, UnitKind::kHeads}, 16});
  EXPECT_GT(shapes.size(), 10u);
  for (const ShrinkShape& shape : shapes) {
    EXPECT_NEAR(ratio_of(m, shape), 0.2, 0.75 * 8 / 1536) << shape.layers << " " << shape.groups;
    EXPECT_TRUE(shape.channels % 16 == 0);
  }
}

// Layers and groups come in large pieces, and so do channels by 512.
TEST(ShrinkShape, TakesTheNearestWhereThereIsAGap) {
  ModelConfig m = smollm2();
  m.blocks.resize(2);
  const auto shapes = shapes_for(m, {0.45, {UnitKind::kLayers, UnitKind::kHeads}, 1});
  ASSERT_EQ(shapes.size(), 1u);
  EXPECT_EQ(shapes[0], (ShrinkShape{1536, 3, 1}));
  const auto narrow = shapes_for(m, {0.76, {UnitKind::kMlp, UnitKind::kLayers}, 512});
  ASSERT_EQ(narrow.size(), 1u);
  EXPECT_EQ(narrow[0], (ShrinkShape{512, 3, 1}));
}

TEST(ShrinkShape, RefusesWhatLeavesNothing) {
  const ModelConfig m = smollm2();
  const auto bad = [&](const ShapeRequest& request, const std::string& a, const std::string& b) {
    expect_error(
        ErrorKind::kUsage, [&] { shapes_for(m, request); }, a, b);
  };
  bad({0.8, {UnitKind::kMlp}, 32}, "--ratio: found 0.8, expected at most 0.734", "32 channels");
  bad({0.3, {UnitKind::kHeads}, 1}, "--ratio: found 0.3, expected at most 0.167", "one head group");
  bad({1.0, {UnitKind::kMlp}, 1}, "--ratio: found 1, expected more than 0 and less than 1", "");
  bad({0.0, {UnitKind::kMlp}, 1}, "--ratio: found 0", "");
  bad({0.2, {UnitKind::kMlp}, 2048}, "--align: found 2048, expected at most the MLP's width 1536", "");
}

TEST(ShrinkShape, RatioForANumberOfParameters) {
  const ModelConfig m = smollm2();
  const std::int64_t blocks = block_parameters(m, shape_of(m)), total = blocks + 1'000'000;
  EXPECT_DOUBLE_EQ(ratio_for_parameters(m, total, total - blocks / 4), 0.25);
  for (const std::int64_t target : {total, total + 1, std::int64_t{1'000'000}, std::int64_t{5}}) {
    expect_error(
        ErrorKind::kUsage, [&] { ratio_for_parameters(m, total, target); },
        fmt::format("--target-params: found {}, expected between 1000000", target));
  }
}

TEST(ShrinkShape, NamesInseparableUnitsAndWhatIsPossible) {
  ModelConfig m = smollm2();
  m.num_kv_heads = 1;
  expect_error(
      ErrorKind::kUsage,
      [&] {
        shapes_for(m, {0.1, {UnitKind::kMlp, UnitKind::kHeads}, 1});
      },
      "--units: heads cannot be removed from this model: all 9 query heads share one key head",
      "possible: mlp, layers");
}

}  // namespace
}  // namespace swiftprune
