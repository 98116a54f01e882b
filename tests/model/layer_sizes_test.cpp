// Sizes that differ from layer to layer: what config.json may say, and what every wrong list answers.
#include "swiftprune/model/layer_sizes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/model.h"
#include "swiftprune/model/model_features.h"

namespace swiftprune {
namespace {

using nlohmann::json;
using test::kModels;
namespace fs = std::filesystem;

json config_in(const std::string& name) { return read_json_file(kModels / name / "config.json"); }

json with_sizes(json config, json sizes) {
  json& text = config.contains("text_config") ? config["text_config"] : config;
  text[std::string(kLayerSizesField)] = std::move(sizes);
  return config;
}

// [outputs, inputs] of the block's linears.
std::vector<std::pair<std::int64_t, std::int64_t>> shapes(const BlockConfig& block) {
  std::vector<std::pair<std::int64_t, std::int64_t>> result;
  for (const LinearTensors& linear : linears_of(block)) result.emplace_back(linear.outputs, linear.inputs);
  return result;
}

TEST(LayerSizes, ScaleEveryLayoutOfTheLinears) {
  for (const char* name : {"llama3", "gemma3_with_vision", "phi3", "pythia", "opt"}) {
    SCOPED_TRACE(name);
    const ModelConfig dense = model_config(config_in(name));
    EXPECT_FALSE(dense.has_layer_sizes);
    std::vector<std::int64_t> widths(dense.blocks.size(), dense.intermediate_size);
    std::vector<std::int64_t> groups(dense.blocks.size(), dense.num_kv_heads);
    widths[1] = 5;
    groups[1] = 1;
    const ModelConfig found =
        model_config(with_sizes(config_in(name), {{kLayerWidths, widths}, {kLayerGroups, groups}}));
    EXPECT_TRUE(found.has_layer_sizes);
    EXPECT_EQ(shapes(found.blocks[0]), shapes(dense.blocks[0]));
    const std::int64_t heads = dense.num_heads / dense.num_kv_heads, d = dense.head_size;
    EXPECT_EQ(found.heads_in(found.blocks[1]), heads);
    EXPECT_EQ(found.kv_heads_in(found.blocks[1]), 1);
    EXPECT_EQ(found.blocks[1].attention_output.inputs, heads * d);
    EXPECT_EQ(found.blocks[1].down.inputs, 5);
    std::int64_t qkv = 0, up = 0;
    for (const LinearTensors& linear : found.blocks[1].qkv) qkv += linear.outputs;
    for (const LinearTensors& linear : found.blocks[1].up) up += linear.outputs;
    EXPECT_EQ(qkv, (heads + 2) * d);
    EXPECT_EQ(up, dense.gated_mlp ? 10 : 5);
    EXPECT_EQ(found.intermediate_size, dense.intermediate_size);
  }
}

TEST(LayerSizes, EveryWrongListIsNamed) {
  const auto bad = [](json sizes, const std::string& found, const std::string& expected) {
    test::expect_error(
        ErrorKind::kBadInput, [&] { model_config(with_sizes(config_in("llama3"), std::move(sizes))); }, found,
        expected);
  };
  const ModelConfig m = model_config(config_in("llama3"));
  ASSERT_EQ(m.num_layers(), 2);
  ASSERT_EQ(m.intermediate_size, 40);
  ASSERT_EQ(m.num_kv_heads, 3);
  const std::string field = "config.json: field 'swiftprune_layer_sizes";
  bad(7, field + "'", "expected an object");
  bad({{"intermediate_size", {40}}}, field + ".intermediate_size': found 1 numbers", "the 2 layers");
  bad({{"intermediate_size", {40, 40, 40}}}, field + ".intermediate_size': found 3 numbers", "the 2 layers");
  bad({{"intermediate_size", {40, 41}}}, "found 41 for layer 1", "from 1 to 40");
  bad({{"intermediate_size", {0, 40}}}, "found 0 for layer 0", "from 1 to 40");
  bad({{"intermediate_size", {-3, 40}}}, "found -3 for layer 0", "from 1 to 40");
  bad({{"intermediate_size", {40, 8.5}}}, "found 8.5 at 1", "expected integers");
  bad({{"intermediate_size", {40, "8"}}}, "found \"8\" at 1", "expected integers");
  bad({{"intermediate_size", {40, 18446744073709551615u}}}, "found 18446744073709551615 at 1",
      "expected integers");
  bad({{"intermediate_size", 40}}, ".intermediate_size'", "expected an array of integers");
  bad({{"num_key_value_heads", {2, 4}}}, field + ".num_key_value_heads': found 4 for layer 1", "from 1 to 3");
  bad({{"hidden_size", {40, 40}}}, field + ".hidden_size': unknown", "or num_experts");
  bad({{"num_experts", {0, 4}}}, field + ".num_experts': found 4 for layer 1", "0, since it has no experts");
}

TEST(LayerSizes, ExpertsOfEachLayer) {
  const auto config = [](const char* name) {
    return read_json_file(test::kExpertModels / name / "config.json");
  };
  const ModelConfig dense = model_config(config("mixtral"));  // 2 of 5 experts a token
  ASSERT_EQ(dense.blocks[0].experts->count, 5);
  std::vector<std::int64_t> counts(dense.blocks.size(), 5);
  counts.back() = 3;
  const ModelConfig found = model_config(with_sizes(config("mixtral"), {{kLayerExperts, counts}}));
  EXPECT_TRUE(found.has_layer_sizes);
  EXPECT_EQ(found.blocks.front().experts->count, 5);
  EXPECT_EQ(found.blocks.back().experts->count, 3);
  EXPECT_TRUE(features_of(found).contains(ModelFeature::kExpertCounts));
  EXPECT_FALSE(features_of(dense).contains(ModelFeature::kExpertCounts));
  const auto bad = [&](const char* name, std::vector<std::int64_t> sizes, const std::string& text,
                       const std::string& expected) {
    test::expect_error(
        ErrorKind::kBadInput,
        [&] {
          model_config(with_sizes(config(name), {{kLayerExperts, sizes}}));
        },
        text, expected);
  };
  counts.back() = 6;
  bad("mixtral", counts, "found 6", "from 1 to 5, as 'num_local_experts' says");
  counts.back() = 0;
  bad("mixtral", counts, "found 0", "from 1 to 5");
  counts.back() = 1;
  bad("mixtral", counts, "found 1", "2 experts a token");
  counts.pop_back();
  bad("mixtral", counts, "one for each of the", "layers");
  // The first layer is dense, and the router has three groups.
  const ModelConfig groups = model_config(config("deepseek_v2"));
  ASSERT_FALSE(groups.blocks.front().experts);
  std::vector<std::int64_t> of_groups(groups.blocks.size(), 9);
  bad("deepseek_v2", of_groups, "found 9 for layer 0", "no experts");
  of_groups.front() = 0;
  of_groups.back() = 6;
  EXPECT_EQ(model_config(with_sizes(config("deepseek_v2"), {{kLayerExperts, of_groups}}))
                .blocks.back()
                .experts->count,
            6);
  of_groups.back() = 7;
  bad("deepseek_v2", of_groups, "found 7", "3 groups");
}

// The tensors must be what the lists say.
TEST(LayerSizes, TensorsOfAnotherShapeAreNamed) {
  const test::TempDir dir;
  fs::copy(kModels / "llama3", dir.path() / "m");
  const auto write = [&](const json& sizes) {
    test::write_text(dir.path() / "m/config.json", with_sizes(config_in("llama3"), sizes).dump());
  };
  write({{"intermediate_size", {40, 40}}});
  EXPECT_NO_THROW(Model::open(dir.path() / "m"));
  write({{"intermediate_size", {40, 39}}});
  test::expect_error(
      ErrorKind::kBadInput, [&] { Model::open(dir.path() / "m"); },
      "tensor 'model.layers.1.mlp.gate_proj.weight': found shape [40,", "(swiftprune_layer_sizes)");
  write({{"num_key_value_heads", {1, 3}}});
  test::expect_error(
      ErrorKind::kBadInput, [&] { Model::open(dir.path() / "m"); },
      "tensor 'model.layers.0.self_attn.q_proj.weight': found shape", "(swiftprune_layer_sizes)");
}

}  // namespace
}  // namespace swiftprune
