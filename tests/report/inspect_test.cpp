#include "swiftprune/report/inspect.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "support/tiny_llama.h"
#include "swiftprune/report/block_linears.h"

namespace swiftprune {
namespace {

using test::TempDir;
using test::TinyLlama;

const ProgressFn kNoProgress = [](std::string_view, std::int64_t, std::int64_t) {};

ModelInspection inspect(const TinyLlama& model) {
  const TempDir dir;
  model.write(dir.path() / "m");
  return inspect_model(dir.path() / "m", kNoProgress);
}

TEST(Inspect, DenseModel) {
  const ModelInspection found = inspect({});
  EXPECT_EQ(found.architecture, "LlamaForCausalLM");
  EXPECT_EQ(found.model_type, "llama");
  ASSERT_TRUE(found.config) << found.problem;
  EXPECT_EQ(found.config->num_layers(), 2);
  EXPECT_EQ(found.config->num_kv_heads, 2);
  EXPECT_TRUE(found.is_tied);
  EXPECT_FALSE(found.has_record);
  const std::int64_t linears = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32);
  EXPECT_EQ(found.num_parameters, 40 * 32 + linears + 5 * 32);
  EXPECT_EQ(found.num_bytes, 2 * found.num_parameters);
  EXPECT_EQ(found.bytes_of_dtype, (std::map<std::string, std::int64_t>{{"F16", found.num_bytes}}));
  EXPECT_EQ(found.linears.count, 14);
  EXPECT_EQ(found.linears.numel, linears);
  EXPECT_EQ(found.linears.num_zeros, 0);
  EXPECT_EQ(found.linears.patterns, (std::map<std::string, std::int64_t>{{"dense", 14}}));
}

// Tokens that no text had leave rows of zeros.
TEST(Inspect, AnEmbeddingWithAnEmptyRowIsNotPruned) {
  TinyLlama model;
  std::vector<float>& table = model.values.at("model.embed_tokens.weight");
  std::fill_n(table.begin(), 32, 0.0f);
  const ModelInspection found = inspect(model);
  const auto is_table = [](const auto& tensor) { return tensor.name == "model.embed_tokens.weight"; };
  const auto tensor = std::ranges::find_if(found.tensors, is_table);
  ASSERT_NE(tensor, found.tensors.end());
  EXPECT_EQ(tensor->zeros->num_zeros, 32);
  EXPECT_EQ(tensor->pattern, "dense");
}

TEST(Inspect, PrunedModel) {
  TinyLlama model;
  model.prune(2, 4);
  model.values["model.layers.1.mlp.up_proj.weight"].assign(64 * 32, 0.0f);
  model.files["swiftprune.json"] = "{}";
  model.max_shard_bytes = 10'000;
  const ModelInspection found = inspect(model);
  EXPECT_TRUE(found.has_record);
  EXPECT_GT(found.bytes_of_file.size(), 1u);
  EXPECT_EQ(found.linears.patterns, (std::map<std::string, std::int64_t>{{"2:4", 13}, {"all zero", 1}}));
  EXPECT_EQ(found.linears.num_zeros, found.linears.numel / 2 + 64 * 32 / 2);
  for (const TensorGroup& group : group_tensors(found)) {
    if (group.name == "model.layers.*.mlp.up_proj.weight") {
      EXPECT_EQ(group.count, 2);
      EXPECT_EQ(group.pattern, "mixed");
      EXPECT_EQ(group.min_sparsity, 0.5);
      EXPECT_EQ(group.max_sparsity, 1.0);
    }
  }
  const auto document = to_json(found, true);
  EXPECT_EQ(document.at("block_linears").at("patterns").at("2:4"), 13);
  EXPECT_EQ(document.at("tensors").size(), found.tensors.size());
  EXPECT_FALSE(to_json(found, false).contains("tensors"));
}

TEST(Inspect, UnknownArchitectureIsShownWithTheReason) {
  TinyLlama model;
  model.config = R"({"architectures": ["MambaForCausalLM"], "model_type": "mamba"})";
  model.prune(1, 4);
  const ModelInspection found = inspect(model);
  EXPECT_FALSE(found.config);
  EXPECT_NE(found.problem.find("found 'mamba', which is not supported"), std::string::npos) << found.problem;
  EXPECT_EQ(found.linears.count, 14);
  EXPECT_EQ(found.linears.patterns.begin()->first, "1:4");
  EXPECT_EQ(to_json(found, false).at("supported"), false);
}

TEST(Inspect, ConfigThatContradictsTheTensorsIsTold) {
  TinyLlama model;
  model.add("model.layers.0.mlp.up_proj.weight", {60, 32});
  const ModelInspection found = inspect(model);
  EXPECT_FALSE(found.config);
  EXPECT_NE(found.problem.find("up_proj"), std::string::npos) << found.problem;
}

TEST(Inspect, ConfigOfTheWrongTypesIsNoCrash) {
  for (const char* config : {"{}", R"({"architectures": 3, "model_type": [1], "tie_word_embeddings": "x"})",
                             R"({"architectures": [], "model_type": null})"}) {
    TinyLlama model;
    model.config = config;
    const ModelInspection found = inspect(model);
    EXPECT_EQ(found.architecture, "");
    EXPECT_FALSE(found.problem.empty());
  }
}

TEST(Inspect, FolderThatCannotBeRead) {
  test::expect_error(
      ErrorKind::kBadInput, [] { inspect_model("/nonexistent", kNoProgress); }, "no such folder");
}

TEST(BlockLinears, Star) {
  EXPECT_EQ(with_block_star("model.layers.12.mlp.2.weight"), "model.layers.*.mlp.2.weight");
  EXPECT_EQ(with_block_star("h.0"), "h.*");
  EXPECT_EQ(with_block_star("7"), "*");
  EXPECT_EQ(with_block_star("lm_head.weight"), "lm_head.weight");
  EXPECT_EQ(with_block_star("a..3.b."), "a..*.b.");
  EXPECT_EQ(with_block_star(""), "");
}

}  // namespace
}  // namespace swiftprune
