// Models that transformers made: same names, values and configuration.
#include "swiftprune/checkpoint/import_gguf.h"

#include <cmath>
#include <cstring>
#include <fstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "checkpoint/gguf_fixture.h"
#include "support/expect_error.h"
#include "support/gguf_builder.h"
#include "swiftprune/checkpoint/safetensors.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::gguf_fixture;
using test::read_json;
using test::TempDir;

class ImportFamily : public testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Families, ImportFamily,
                         testing::Values("llama", "llama_bias", "qwen2", "qwen3", "gemma2", "gemma3", "phi3",
                                         "gptneox", "smollm3", "mistral3", "granite", "olmo", "olmo2",
                                         "olmo3", "exaone4", "glm4", "stablelm", "starcoder2", "phi2",
                                         "command_r", "cohere2", "gemma", "arcee", "apertus", "nemotron",
                                         "gpt2", "mixtral", "qwen2moe", "qwen3moe", "olmoe", "gpt_oss",
                                         "glm4moe", "deepseek_v2", "deepseek_v3", "lfm2", "lfm2moe",
                                         "falcon_h1", "granitehybrid", "granitehybrid_moe", "granitemoe",
                                         "nemotron_h", "nemotron_h_moe", "qwen35", "qwen35moe", "qwen3next",
                                         "gemma4", "gemma4_small", "bloom", "mpt", "glm"),
                         [](const auto& test_info) { return test_info.param; });

// What Apertus' activations learned stands in keys.
TEST(ImportActivationNumbers, WhatIsMissingOrNoNumberIsNamed) {
  const TempDir dir;
  const std::string file = test::read_text(gguf_fixture("apertus.gguf"));
  const auto damaged = [&](std::string_view key, std::size_t behind, std::string_view bytes) {
    std::string text = file;
    text.replace(text.find(key) + behind, bytes.size(), bytes);
    const fs::path path = dir.path() / "m.gguf";
    std::ofstream(path, std::ios::binary) << text;
    return path;
  };
  const auto expect_refused = [&](const fs::path& path, const std::string& message) {
    test::expect_error(ErrorKind::kBadInput, [&] { import_gguf(path, dir.path() / "out", {}); }, {message});
  };
  expect_refused(damaged("xielu.beta", 9, "b"), "xielu.beta: is missing");
  // Behind the key: the types of list and element, 4 bytes each, the count, 8 bytes, the numbers.
  expect_refused(damaged("xielu.beta", 10 + 4, "\x04"),
                 "xielu.beta: found an array of uint32, expected floats");
  constexpr std::size_t kNumbers = 10 + 4 + 4 + 8;
  expect_refused(damaged("xielu.beta", kNumbers + 4, std::string_view("\0\0\xc0\x7f", 4)),
                 "xielu.beta: found nan in layer 1, expected a finite number");
  expect_refused(damaged("xielu.beta", kNumbers, std::string_view("\0\0\x80\xff", 4)),
                 "xielu.beta: found -inf in layer 0");
}

// A number that the folder's own reader would refuse is named by its key.
TEST(ImportNumbers, WhatMustBeAboveZero) {
  const TempDir dir;
  const std::string zero("\0\0\0\0", 4), negative("\0\0\x80\xbf", 4);
  const std::tuple<const char*, const char*, std::string> cases[] = {
      {"olmo3", "olmo2.attention.layer_norm_rms_epsilon", zero},
      {"olmo3", "olmo2.rope.freq_base", zero},
      {"llama", "llama.attention.layer_norm_rms_epsilon", negative},
      {"llama", "llama.rope.freq_base", negative},
      {"gptneox", "gptneox.attention.layer_norm_epsilon", zero},
      {"gemma2", "gemma2.attn_logit_softcapping", zero},
      {"gemma3", "gemma3.rope.freq_base", zero},
      {"gemma4", "gemma4.rope.freq_base", zero},
      {"gemma4", "gemma4.rope.freq_base_swa", negative},
      {"granite", "granite.logit_scale", negative},
      {"lfm2", "lfm2.attention.layer_norm_rms_epsilon", zero},
  };
  for (const auto& [name, key, bytes] : cases) {
    SCOPED_TRACE(key);
    std::string text = test::read_text(gguf_fixture(fmt::format("{}.gguf", name)));
    const std::size_t at = text.find(test::raw_text(key));  // with its length, for one begins another
    ASSERT_NE(at, std::string::npos);
    text.replace(at + 8 + std::string_view(key).size() + 4, 4, bytes);
    test::write_text(dir.path() / "m.gguf", text);
    test::expect_error(
        ErrorKind::kBadInput, [&] { import_gguf(dir.path() / "m.gguf", dir.path() / "out", {}); },
        {fmt::format("{}: found {}, expected a number above 0", key, bytes == zero ? "0" : "-1")});
  }
}

// llama.cpp turns all layers of a file by one base.
TEST(ImportOlmo3, HasARotationOfEachKindOfLayers) {
  const TempDir dir;
  import_gguf(gguf_fixture("olmo3.gguf"), dir.path() / "m", {});
  const nlohmann::json config = test::read_json(dir.path() / "m/config.json"),
                       &ropes = config.at("rope_parameters");
  for (const char* type : {"sliding_attention", "full_attention"}) {
    EXPECT_EQ(ropes.at(type).at("rope_type"), "default");
    EXPECT_EQ(ropes.at(type).at("rope_theta"), config.at("rope_theta"));
  }
  EXPECT_FALSE(config.contains("rope_scaling"));
}

// The file of qwen3 in three parts, by any of them.
TEST(ImportSplit, IsWhatTheWholeFileGives) {
  const TempDir dir;
  import_gguf(gguf_fixture("qwen3.gguf"), dir.path() / "whole", {});
  const Checkpoint whole = Checkpoint::open(dir.path() / "whole");
  for (const int part : {1, 2, 3}) {
    const fs::path out = dir.path() / std::to_string(part);
    import_gguf(gguf_fixture(fmt::format("qwen3_split-{:05}-of-00003.gguf", part)), out, {});
    const Checkpoint found = Checkpoint::open(out);
    EXPECT_EQ(found.config(), whole.config());
    EXPECT_EQ(test::read_text(out / "tokenizer.json"),
              test::read_text(dir.path() / "whole" / "tokenizer.json"));
    ASSERT_EQ(found.tensors().size(), whole.tensors().size());
    for (const TensorInfo& tensor : whole.tensors()) {
      EXPECT_TRUE(std::ranges::equal(found.bytes(found.at(tensor.name)), whole.bytes(tensor))) << tensor.name;
    }
  }
}

std::vector<std::byte> copied(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  const auto bytes = checkpoint.bytes(tensor);
  return {bytes.begin(), bytes.end()};
}

// The file has -e^x of decays, which does not tell all floats apart.
bool is_decay(const std::string& tensor) { return tensor.ends_with("A_log"); }

void expect_near(std::span<const std::byte> found, std::string_view expected, const std::string& name) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t at = 0; at < found.size(); at += sizeof(float)) {
    float a = 0.0f, b = 0.0f;
    std::memcpy(&a, found.data() + at, sizeof(float));
    std::memcpy(&b, expected.data() + at, sizeof(float));
    EXPECT_NEAR(a, b, 2e-7f * std::max(1.0f, std::abs(b))) << name;
  }
}

// F32, as the file has it.
std::vector<std::byte> turned(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  const Matrix matrix = checkpoint.load_matrix(tensor.name, tensor.shape[0], tensor.shape[1]);
  Matrix result(matrix.cols(), matrix.rows());
  for (std::int64_t r = 0; r < matrix.rows(); ++r) {
    for (std::int64_t c = 0; c < matrix.cols(); ++c) result.at(c, r) = matrix.at(r, c);
  }
  const auto bytes = std::as_bytes(result.values());
  return {bytes.begin(), bytes.end()};
}

TEST_P(ImportFamily, TensorsAreThoseOfTransformersBitForBit) {
  const TempDir dir;
  const std::string name = GetParam();
  import_gguf(gguf_fixture(name + ".gguf"), dir.path() / "out", {.dtype = DType::kF32});
  const Checkpoint out = Checkpoint::open(dir.path() / "out");
  const std::string file = test::read_text(gguf_fixture(name + ".safetensors"));
  const SafetensorsHeader expected = parse_safetensors(std::as_bytes(std::span(file)), name);
  EXPECT_EQ(out.tensors().size(), expected.tensors.size());
  for (const TensorInfo& tensor : expected.tensors) {
    const TensorInfo* found = out.find(tensor.name);
    ASSERT_NE(found, nullptr) << tensor.name;
    auto shape = found->shape;
    if (found->transposed) std::swap(shape[0], shape[1]);
    EXPECT_EQ(shape, tensor.shape) << tensor.name;
    const auto bytes = found->transposed ? turned(out, *found) : copied(out, *found);
    const std::string_view found_bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const std::string wanted = file.substr(expected.data_begin + tensor.begin, tensor.end - tensor.begin);
    if (is_decay(tensor.name)) {
      expect_near(bytes, wanted, tensor.name);
    } else {
      EXPECT_EQ(found_bytes, wanted) << tensor.name;
    }
  }
}

// transformers 5 keeps rope's numbers in one object; we write the fields that version 4 reads too.
void expect_same_rope(const json& config, const json& expected) {
  if (!expected.contains("rope_parameters")) return;  // GPT-2, Nemotron-H
  // Qwen 3.5's sections have a place there alone.
  if (config.contains("rope_parameters")) {
    EXPECT_EQ(config.at("rope_parameters"), expected.at("rope_parameters"));
    return;
  }
  const json scaling = config.value("rope_scaling", json());
  const json& rope = expected.at("rope_parameters");
  const json& full = rope.contains("full_attention") ? rope.at("full_attention") : rope;
  const char* theta = config.contains("rotary_emb_base") ? "rotary_emb_base" : "rope_theta";
  EXPECT_EQ(config.at(theta), full.at("rope_theta"));
  if (rope.contains("sliding_attention") &&
      rope.at("sliding_attention").at("rope_theta") != full.at("rope_theta")) {
    EXPECT_EQ(config.at("rope_local_base_freq"), rope.at("sliding_attention").at("rope_theta"));
  }
  const char* fraction = config.contains("rotary_pct") ? "rotary_pct" : "partial_rotary_factor";
  EXPECT_EQ(config.value(fraction, 1.0), full.value("partial_rotary_factor", 1.0));
  if (full.at("rope_type") == "default") {
    EXPECT_TRUE(scaling.is_null()) << scaling;
    return;
  }
  EXPECT_EQ(scaling.value("rope_type", scaling.value("type", "")), full.at("rope_type"));
  for (const auto& [key, value] : full.items()) {
    if (key == "rope_type" || key == "rope_theta" || key == "partial_rotary_factor") continue;
    if (key == "original_max_position_embeddings" && config.contains(key)) {
      EXPECT_EQ(config.at(key), value);
    } else {
      EXPECT_EQ(scaling.value(key, json()), value) << key;
    }
  }
}

TEST_P(ImportFamily, ConfigIsThatOfTransformers) {
  const TempDir dir;
  const std::string name = GetParam();
  import_gguf(gguf_fixture(name + ".gguf"), dir.path() / "out", {});
  const json config = read_json(dir.path() / "out/config.json");
  const json expected = read_json(gguf_fixture(name + ".config.json"));
  int compared = 0;
  for (const auto& [key, value] : expected.items()) {
    if (!config.contains(key) || key == "architectures" || key.starts_with("rope")) continue;
    if (value.is_object()) {  // MPT's attn_config: what it says of attention
      for (const auto& [field, own] : config.at(key).items()) EXPECT_EQ(own, value.at(field)) << key << field;
    } else {
      EXPECT_EQ(config.at(key), value) << key;
    }
    ++compared;
  }
  EXPECT_GE(compared, 12);
  // What defines the model and has no default that would do.
  for (const char* key : {"model_type",
                          "hidden_size",
                          "intermediate_size",
                          "num_hidden_layers",
                          "vocab_size",
                          "num_attention_heads",
                          "num_key_value_heads",
                          "head_dim",
                          "rms_norm_eps",
                          "layer_norm_eps",
                          "sliding_window",
                          "query_pre_attn_scalar",
                          "layer_types",
                          "layers_block_type",
                          "mamba_n_heads",
                          "mamba_d_head",
                          "mamba_d_ssm",
                          "mamba_expand",
                          "mamba_num_heads",
                          "mamba_head_dim",
                          "n_groups",
                          "ssm_state_size",
                          "linear_num_key_heads",
                          "linear_num_value_heads",
                          "linear_key_head_dim",
                          "linear_value_head_dim",
                          "shared_intermediate_size",
                          "position_embedding_type",
                          "moe_shared_expert_intermediate_size",
                          "attn_logit_softcapping",
                          "final_logit_softcapping",
                          "use_parallel_residual",
                          "attention_bias",
                          "mlp_bias",
                          "num_local_experts",
                          "num_experts",
                          "n_routed_experts",
                          "num_experts_per_tok",
                          "moe_intermediate_size",
                          "shared_expert_intermediate_size",
                          "n_shared_experts",
                          "first_k_dense_replace",
                          "routed_scaling_factor",
                          "norm_topk_prob",
                          "n_group",
                          "topk_group",
                          "topk_method",
                          "use_qk_norm",
                          "q_lora_rank",
                          "kv_lora_rank",
                          "qk_rope_head_dim",
                          "qk_nope_head_dim",
                          "v_head_dim",
                          "tie_word_embeddings",
                          "bos_token_id",
                          "eos_token_id",
                          "pad_token_id"}) {
    const json wanted = expected.value(key, json());
    // DeepSeek's configuration has one that nothing is computed with.
    const bool is_unused =
        (std::string_view(key) == "head_dim" && expected.contains("qk_rope_head_dim")) ||
        (std::string_view(key) == "sliding_window" && expected.value("use_sliding_window", true) == false) ||
        (std::string_view(key) == "num_local_experts" && config.value("num_experts", 0) == wanted);
    // Numbers of experts and of a mixer's width, where the model has others in their place.
    const json kinds = expected.value("layers_block_type", json::array());
    const bool without_experts = expected.value("num_local_experts", -1) == 0 ||
                                 (!kinds.empty() && std::count(kinds.begin(), kinds.end(), "moe") == 0);
    constexpr std::string_view kOfExperts =
        " num_experts_per_tok n_routed_experts moe_intermediate_size moe_shared_expert_intermediate_size "
        "n_shared_experts routed_scaling_factor norm_topk_prob n_group topk_group ";
    const bool is_of_others =
        (without_experts && kOfExperts.find(fmt::format(" {} ", key)) != std::string_view::npos) ||
        (std::string_view(key) == "mamba_expand" && expected.value("mamba_d_ssm", 0) > 0);
    const bool is_default =
        is_unused || is_of_others || wanted.is_null() || wanted == false ||
        (wanted.is_array() && std::all_of(wanted.begin(), wanted.end(),
                                          [](const json& type) { return type == "full_attention"; })) ||
        (std::string_view(key) == "head_dim" &&
         wanted == expected.at("hidden_size").get<int>() / expected.at("num_attention_heads").get<int>());
    if (is_default) continue;
    EXPECT_TRUE(config.contains(key)) << key;
  }
  expect_same_rope(config, expected);
}

}  // namespace
}  // namespace swiftprune
