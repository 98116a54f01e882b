// Models that transformers made, of every architecture, and what llama.cpp has no numbers or names for.
#include "swiftprune/export/export_gguf.h"

#include <cmath>
#include <functional>

#include <gtest/gtest.h>

#include "export/same_tensors.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/checkpoint/gguf.h"
#include "swiftprune/checkpoint/import_gguf.h"
#include "swiftprune/checkpoint/safetensors.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::expect_same_tensors;
using test::gguf_fixture;
using test::read_json;
using test::TempDir;

class ExportFamily : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(
    Families, ExportFamily,
    ::testing::Values("llama", "llama_bias", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gptneox",
                      "smollm3", "mistral3", "granite", "olmo", "olmo2", "olmo3", "exaone4", "glm4",
                      "stablelm", "starcoder2", "phi2", "command_r", "cohere2", "gemma", "arcee", "apertus",
                      "nemotron", "gpt2", "mixtral", "qwen2moe", "qwen3moe", "olmoe", "gpt_oss", "glm4moe",
                      "deepseek_v2", "deepseek_v3", "gpt_oss_mxfp4", "lfm2", "lfm2moe", "falcon_h1",
                      "granitehybrid", "granitehybrid_moe", "granitemoe", "nemotron_h", "nemotron_h_moe",
                      "qwen35", "qwen35moe", "qwen3next", "gemma4", "gemma4_small", "bloom", "mpt", "glm"),
    [](const auto& test_info) { return test_info.param; });

// import() is tested against transformers' own tensors, so import(export(x)) = x says that export is right.
TEST_P(ExportFamily, ImportGivesTheFolderBack) {
  const TempDir dir;
  for (const auto& [name, dtype] : {std::pair{"f32", DType::kF32}, {"bf16", DType::kBF16}}) {
    const fs::path folder = dir.path() / name, file = dir.path() / (std::string(name) + ".gguf"),
                   back = dir.path() / (std::string(name) + "_back");
    import_gguf(gguf_fixture(std::string(GetParam()) + ".gguf"), folder, {.dtype = dtype});
    const auto model = Model::open(folder);
    const ExportReport report = export_gguf(*model, file, {.name = "tiny"});
    EXPECT_EQ(report.type, dtype == DType::kF32 ? "F32" : "BF16");
    import_gguf(file, back, {});
    expect_same_tensors(folder, back);
    for (const char* text : {"config.json", "generation_config.json", "tokenizer.json",
                             "tokenizer_config.json", "special_tokens_map.json"}) {
      EXPECT_EQ(read_json(folder / text), read_json(back / text)) << text;
    }
  }
}

// What llama.cpp's converter wrote for the same model: every key that it has, but those that only name the
// file, is there with the same value, and every tensor has the same bytes.
TEST_P(ExportFamily, FileIsThatOfTheConverter) {
  const TempDir dir;
  const fs::path original = gguf_fixture(std::string(GetParam()) + ".gguf");
  import_gguf(original, dir.path() / "m", {.dtype = DType::kF32});
  export_gguf(*Model::open(dir.path() / "m"), dir.path() / "m.gguf", {});
  const GgufFile expected = GgufFile::open(original), found = GgufFile::open(dir.path() / "m.gguf");
  EXPECT_EQ(found.text("general.architecture"), expected.text("general.architecture"));
  const std::string a(*found.text("general.architecture"));
  for (const char* key : {"context_length",
                          "embedding_length",
                          "block_count",
                          "feed_forward_length",
                          "attention.head_count",
                          "attention.head_count_kv",
                          "attention.layer_norm_rms_epsilon",
                          "attention.layer_norm_epsilon",
                          "attention.key_length",
                          "attention.sliding_window",
                          "rope.freq_base",
                          "rope.dimension_count",
                          "rope.scaling.factor",
                          "rope.scaling.original_context_length",
                          "attn_logit_softcapping",
                          "final_logit_softcapping",
                          "rope.scaling.yarn_log_multiplier",
                          "rope.scaling.yarn_beta_fast",
                          "rope.scaling.yarn_beta_slow",
                          "attention.temperature_scale",
                          "attention.scale",
                          "attention.clamp_kqv",
                          "attention.max_alibi_bias",
                          "embedding_scale",
                          "residual_scale",
                          "logit_scale",
                          "expert_count",
                          "expert_used_count",
                          "expert_feed_forward_length",
                          "expert_shared_feed_forward_length",
                          "expert_shared_count",
                          "expert_weights_scale",
                          "expert_gating_func",
                          "expert_group_count",
                          "expert_group_used_count",
                          "leading_dense_block_count",
                          "attention.q_lora_rank",
                          "attention.kv_lora_rank",
                          "attention.value_length",
                          "attention.key_length_mla",
                          "attention.value_length_mla",
                          "shortconv.l_cache",
                          "ssm.conv_kernel",
                          "ssm.inner_size",
                          "ssm.state_size",
                          "ssm.time_step_rank",
                          "ssm.group_count",
                          "full_attention_interval",
                          "rope.dimension_sections",
                          "attention.key_length_swa",
                          "attention.value_length_swa",
                          "attention.shared_kv_layers",
                          "embedding_length_per_layer_input",
                          "rope.freq_base_swa",
                          "rope.dimension_count_swa"}) {
    const std::string name = a + "." + key;
    if (expected.has(name)) {
      EXPECT_EQ(found.one_or_more(name), expected.one_or_more(name)) << name;
    }
  }
  const std::string normalised = a + ".expert_weights_norm";
  EXPECT_EQ(found.boolean(normalised).value_or(false), expected.boolean(normalised).value_or(false));
  if (const std::string pattern = a + ".attention.sliding_window_pattern"; expected.has(pattern)) {
    EXPECT_EQ(found.numbers(pattern), expected.numbers(pattern));
  }
  for (const char* key : {"tokenizer.ggml.model", "tokenizer.ggml.pre"}) {
    EXPECT_EQ(found.text(key), expected.text(key)) << key;
  }
  for (const char* key : {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"}) {
    EXPECT_EQ(found.texts(key), expected.texts(key)) << key;
  }
  EXPECT_EQ(found.numbers("tokenizer.ggml.token_type"), expected.numbers("tokenizer.ggml.token_type"));
  ASSERT_EQ(found.tensors().size(), expected.tensors().size());
  for (const GgufTensor& tensor : expected.tensors()) {
    const GgufTensor* other = found.find(tensor.name);
    ASSERT_NE(other, nullptr) << tensor.name;
    EXPECT_EQ(other->shape, tensor.shape) << tensor.name;
    std::vector<float> x(static_cast<std::size_t>(tensor.numel())), y = x;
    dequantize(*tensor.type, expected.bytes(tensor), x);
    dequantize(*other->type, found.bytes(*other), y);
    // Tables of the rotary embedding are computed, everything else is copied.
    const bool computed = tensor.name.starts_with("rope_freqs") || tensor.name.ends_with(".ssm_a");
    const float tolerance = computed ? 1e-6f : 0.0f;
    for (std::size_t k = 0; k < x.size(); ++k)
      EXPECT_NEAR(y[k], x[k], tolerance * std::abs(x[k])) << tensor.name;
  }
}

// ---- what llama.cpp has no numbers or no names for

// The fixture's tensors and configuration as transformers wrote them, with the tokenizer of the GGUF files.
fs::path folder_of_transformers(const TempDir& dir, const std::string& name) {
  const fs::path folder = dir.path() / name;
  import_gguf(gguf_fixture("granitehybrid.gguf"), folder, {});
  fs::copy_file(gguf_fixture(name + ".safetensors"), folder / "model.safetensors",
                fs::copy_options::overwrite_existing);
  fs::copy_file(gguf_fixture(name + ".config.json"), folder / "config.json",
                fs::copy_options::overwrite_existing);
  return folder;
}

// Granite 4 without Mamba is an architecture of Granite 3 to llama.cpp, which has other names for it.
TEST(ExportGguf, Granite4WithoutMambaIsGranite) {
  const TempDir dir;
  const fs::path file = dir.path() / "m.gguf";
  export_gguf(*Model::open(folder_of_transformers(dir, "granite4")), file, {});
  const GgufFile expected = GgufFile::open(gguf_fixture("granite4.gguf")), found = GgufFile::open(file);
  EXPECT_EQ(found.text("general.architecture"), "granite");
  EXPECT_EQ(found.boolean("granite.rope.scaling.finetuned"), true);
  EXPECT_EQ(found.integer("granite.feed_forward_length"), expected.integer("granite.feed_forward_length"));
  ASSERT_EQ(found.tensors().size(), expected.tensors().size());
  for (const GgufTensor& tensor : expected.tensors()) {
    const GgufTensor* other = found.find(tensor.name);
    ASSERT_NE(other, nullptr) << tensor.name;
    EXPECT_EQ(other->shape, tensor.shape) << tensor.name;
    EXPECT_TRUE(std::ranges::equal(found.bytes(*other), expected.bytes(tensor))) << tensor.name;
  }
}

// With rotation it comes back as Granite 3, without as what it was.
TEST(ExportGguf, Granite4WithoutPositionsComesBack) {
  const TempDir dir;
  const fs::path folder = folder_of_transformers(dir, "granite4"), file = dir.path() / "m.gguf",
                 back = dir.path() / "back";
  export_gguf(*Model::open(folder), file, {});
  import_gguf(file, dir.path() / "rotated", {});
  EXPECT_EQ(read_json(dir.path() / "rotated" / "config.json").at("model_type"), "granite");
  json config = read_json(folder / "config.json");
  config["position_embedding_type"] = nullptr;
  test::write_text(folder / "config.json", config.dump());
  fs::remove(file);
  export_gguf(*Model::open(folder), file, {});
  import_gguf(file, back, {.dtype = DType::kF32});
  expect_same_tensors(folder, back);
  const json found = read_json(back / "config.json");
  for (const char* field :
       {"model_type", "position_embedding_type", "layer_types", "shared_intermediate_size"})
    EXPECT_EQ(found.at(field), config.at(field)) << field;
}

// Falcon-H1's multipliers have no place in GGUF: they are in the weights, and the model that comes back has none.
TEST(ExportGguf, MultipliersAreInTheWeights) {
  const TempDir dir;
  const fs::path folder = dir.path() / "m", file = dir.path() / "m.gguf", back = dir.path() / "back";
  import_gguf(gguf_fixture("falcon_h1.gguf"), folder, {.dtype = DType::kF32});
  json config = read_json(folder / "config.json");
  config.update({{"embedding_multiplier", 2.5},
                 {"lm_head_multiplier", 0.5},
                 {"key_multiplier", 0.75},
                 {"attention_in_multiplier", 0.5},
                 {"attention_out_multiplier", 1.25},
                 {"ssm_in_multiplier", 2.0},
                 {"ssm_out_multiplier", 0.75},
                 {"ssm_multipliers", {0.5, 0.75, 1.25, 1.5, 3.0}}});
  test::write_text(folder / "config.json", config.dump());
  export_gguf(*Model::open(folder), file, {});
  import_gguf(file, back, {.dtype = DType::kF32});
  const Checkpoint before = Checkpoint::open(folder), after = Checkpoint::open(back);
  // Of the mixer's projection: 16 rows of z, 16 of x, 16 of B, 16 of C, 4 of dt.
  const auto mixer = [](std::int64_t row) {
    return 2.0f * (row < 16 ? 0.5f : row < 32 ? 0.75f : row < 48 ? 1.25f : row < 64 ? 1.5f : 3.0f);
  };
  const std::tuple<const char*, std::function<float(std::int64_t)>> cases[] = {
      {"model.embed_tokens.weight", [](std::int64_t) { return 2.5f; }},
      {"lm_head.weight", [](std::int64_t) { return 0.5f; }},
      {"model.layers.1.self_attn.q_proj.weight", [](std::int64_t) { return 0.5f; }},
      {"model.layers.1.self_attn.k_proj.weight", [](std::int64_t) { return 0.375f; }},
      {"model.layers.1.self_attn.v_proj.weight", [](std::int64_t) { return 0.5f; }},
      {"model.layers.1.self_attn.o_proj.weight", [](std::int64_t) { return 1.25f; }},
      {"model.layers.1.mamba.in_proj.weight", mixer},
      {"model.layers.1.mamba.out_proj.weight", [](std::int64_t) { return 0.75f; }},
      {"model.layers.1.feed_forward.gate_proj.weight", [](std::int64_t) { return 1.0f; }}};
  for (const auto& [tensor, factor] : cases) {
    const std::string name = tensor;
    const auto& shape = before.at(name).shape;
    const Matrix x = before.load_matrix(name, shape[0], shape[1]),
                 y = after.load_matrix(name, shape[0], shape[1]);
    for (std::int64_t r = 0; r < shape[0]; ++r) {
      for (std::int64_t c = 0; c < shape[1]; ++c)
        EXPECT_EQ(y.at(r, c), factor(r) * x.at(r, c)) << name << " " << r;
    }
  }
  EXPECT_EQ(read_json(back / "config.json").at("embedding_multiplier"), 1.0);
}

// Where embedding and head are one tensor with two multipliers, the file has two.
TEST(ExportGguf, TiedTensorWithTwoMultipliersIsTwo) {
  const TempDir dir;
  const fs::path folder = dir.path() / "m", file = dir.path() / "m.gguf";
  import_gguf(gguf_fixture("falcon_h1.gguf"), folder, {.dtype = DType::kF32});
  json config = read_json(folder / "config.json");
  config.update({{"tie_word_embeddings", true}, {"embedding_multiplier", 2.0}, {"lm_head_multiplier", 0.5}});
  test::write_text(folder / "config.json", config.dump());
  {
    std::string weights = test::read_text(folder / "model.safetensors");
    const SafetensorsHeader header = parse_safetensors(std::as_bytes(std::span(weights)), "m");
    const auto place = [&](const char* name) {
      const auto found = std::find_if(header.tensors.begin(), header.tensors.end(),
                                      [&](const TensorInfo& tensor) { return tensor.name == name; });
      return std::pair(header.data_begin + found->begin, found->end - found->begin);
    };
    const auto [from, size] = place("model.embed_tokens.weight");
    weights.replace(place("lm_head.weight").first, size, weights.substr(from, size));
    test::write_text(folder / "model.safetensors", weights);
  }
  export_gguf(*Model::open(folder), file, {});
  const GgufFile gguf = GgufFile::open(file);
  const GgufTensor *words = gguf.find("token_embd.weight"), *head = gguf.find("output.weight");
  ASSERT_NE(head, nullptr);
  std::vector<float> a(static_cast<std::size_t>(words->numel())), b = a;
  dequantize(*words->type, gguf.bytes(*words), a);
  dequantize(*head->type, gguf.bytes(*head), b);
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i], 4.0f * b[i]);
}

}  // namespace
}  // namespace swiftprune
