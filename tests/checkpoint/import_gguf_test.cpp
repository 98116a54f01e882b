#include "swiftprune/checkpoint/import_gguf.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/gguf_builder.h"
#include "support/require.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/checkpoint/gguf.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/model/expert_tensors.h"
#include "swiftprune/model/model.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::expect_error;
using test::GgufBuilder;
using test::raw;
using test::TempDir;

fs::path fixture(const std::string& name) { return fs::path(SWIFTPRUNE_TEST_DATA "/checkpoint/gguf") / name; }

json read_json(const fs::path& path) { return json::parse(test::read_text(path)); }

// ---- models that transformers made: same names, values and configuration

class ImportFamily : public testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Families, ImportFamily,
                         testing::Values("llama", "llama_bias", "qwen2", "qwen3", "gemma2", "gemma3", "phi3",
                                         "gptneox", "smollm3", "mistral3", "granite", "olmo", "olmo2",
                                         "olmo3", "exaone4", "glm4", "stablelm", "starcoder2", "phi2",
                                         "command_r", "cohere2", "gemma", "arcee", "nemotron", "gpt2",
                                         "mixtral", "qwen2moe", "qwen3moe", "olmoe", "gpt_oss", "glm4moe",
                                         "deepseek_v2", "deepseek_v3", "lfm2", "lfm2moe", "falcon_h1",
                                         "granitehybrid", "granitehybrid_moe", "granitemoe", "nemotron_h",
                                         "nemotron_h_moe", "qwen35", "qwen35moe", "qwen3next", "gemma4",
                                         "gemma4_small", "bloom", "mpt", "glm"),
                         [](const auto& test_info) { return test_info.param; });

// The file of qwen3 in three parts, by any of them.
TEST(ImportSplit, IsWhatTheWholeFileGives) {
  const TempDir dir;
  import_gguf(fixture("qwen3.gguf"), dir.path() / "whole", {});
  const Checkpoint whole = Checkpoint::open(dir.path() / "whole");
  for (const int part : {1, 2, 3}) {
    const fs::path out = dir.path() / std::to_string(part);
    import_gguf(fixture(fmt::format("qwen3_split-{:05}-of-00003.gguf", part)), out, {});
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
  import_gguf(fixture(name + ".gguf"), dir.path() / "out", {.dtype = DType::kF32});
  const Checkpoint out = Checkpoint::open(dir.path() / "out");
  const std::string file = test::read_text(fixture(name + ".safetensors"));
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
  import_gguf(fixture(name + ".gguf"), dir.path() / "out", {});
  const json config = read_json(dir.path() / "out/config.json");
  const json expected = read_json(fixture(name + ".config.json"));
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

std::string bytes_of(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  const auto bytes = checkpoint.bytes(tensor);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// ---- experts

// gpt-oss alone has a place for experts in MXFP4: they stay as they are, bit for bit.
TEST(ImportExperts, MxFp4Stays) {
  const TempDir dir;
  const ImportReport report = import_gguf(fixture("gpt_oss_mxfp4.gguf"), dir.path() / "out", {});
  EXPECT_EQ(report.dtype, DType::kF32);  // of all but the experts
  const std::string file = test::read_text(fixture("gpt_oss_mxfp4.safetensors"));
  const SafetensorsHeader expected = parse_safetensors(std::as_bytes(std::span(file)), "expected");
  const Checkpoint out = Checkpoint::open(dir.path() / "out");
  ASSERT_EQ(out.tensors().size(), expected.tensors.size());
  for (const TensorInfo& tensor : expected.tensors) {
    const TensorInfo& found = out.at(tensor.name);
    EXPECT_EQ(found.shape, tensor.shape) << tensor.name;
    EXPECT_EQ(found.dtype, tensor.dtype) << tensor.name;
    EXPECT_EQ(bytes_of(out, found),
              file.substr(expected.data_begin + tensor.begin, tensor.end - tensor.begin))
        << tensor.name;
  }
  EXPECT_EQ(read_json(dir.path() / "out/config.json").at("quantization_config"),
            json({{"quant_method", "mxfp4"}}));
}

// The same experts as numbers, where a dtype is asked for.
TEST(ImportExperts, MxFp4IsExpandedOnRequest) {
  const TempDir dir;
  import_gguf(fixture("gpt_oss_mxfp4.gguf"), dir.path() / "packed", {});
  import_gguf(fixture("gpt_oss_mxfp4.gguf"), dir.path() / "plain", {.dtype = DType::kBF16});
  EXPECT_FALSE(read_json(dir.path() / "plain/config.json").contains("quantization_config"));
  const auto packed = Model::open(dir.path() / "packed"), plain = Model::open(dir.path() / "plain");
  const auto config = [](const Model& model) -> const ExpertsConfig& {
    return *model.config().blocks[1].experts;
  };
  const ExpertTensors a(packed->checkpoint(), config(*packed), 32),
      b(plain->checkpoint(), config(*plain), 32);
  EXPECT_EQ(a.form(), ExpertForm::kMxfp4);
  EXPECT_EQ(b.form(), ExpertForm::kFusedByInput);
  for (const ExpertPart part : kExpertParts) {
    for (std::int64_t e = 0; e < 4; ++e) {
      const BlockLinear x = a.load(e, part, WeightUse::kFloat), y = b.load(e, part, WeightUse::kFloat);
      for (std::int64_t k = 0; k < x.weight.numel(); ++k) ASSERT_EQ(x.weight.data()[k], y.weight.data()[k]);
    }
  }
}

// A fixture with some of its values and tensors changed.
class ExpertFile {
 public:
  explicit ExpertFile(const std::string& name) : file_(GgufFile::open(fixture(name + ".gguf"))) {}

  std::map<std::string, std::uint32_t> numbers;  // keys that get another number; 0: no such key
  std::map<std::string, std::vector<std::uint64_t>>
      shapes;  // tensors of another shape; empty: no such tensor
  std::function<void(GgufBuilder&)> extra = [](GgufBuilder&) {};

  std::string build() const {
    GgufBuilder b;
    for (const std::string_view key : file_.keys()) {
      if (file_.is_text(key)) {
        if (key == "tokenizer.ggml.tokens" || key == "tokenizer.ggml.merges") {
          const auto texts = file_.texts(key);
          b.texts(key, {texts->begin(), texts->end()});
        } else {
          b.text(key, *file_.text(key));
        }
        continue;
      }
      const std::string suffix(key.substr(key.find('.') + 1));
      if (const auto changed = numbers.find(suffix); changed != numbers.end()) continue;
      if (suffix == "expert_weights_norm") {
        b.add(key, test::kBool, std::string(1, *file_.boolean(key) ? '\1' : '\0'));
      } else if (key == "tokenizer.ggml.token_type") {
        std::string elements;
        const std::vector<std::int64_t> types = *file_.integers(key);
        for (const std::int64_t type : types) elements += raw(static_cast<std::int32_t>(type));
        b.array(key, test::kI32, types.size(), elements);
      } else if (const double number = *file_.number(key); number == std::floor(number) && number < 1e6) {
        b.u32(key, static_cast<std::uint32_t>(number));
      } else {
        b.f32(key, static_cast<float>(number));
      }
    }
    const std::string prefix = std::string(*file_.text("general.architecture")) + ".";
    for (const auto& [key, number] : numbers) {
      if (number > 0) b.u32(prefix + key, number);
    }
    for (const GgufTensor& tensor : file_.tensors()) {
      const auto changed = shapes.find(tensor.name);
      if (changed != shapes.end()) {
        if (!changed->second.empty()) b.floats(tensor.name, changed->second);
        continue;
      }
      const auto bytes = file_.bytes(tensor);
      b.tensor(tensor.name, {tensor.shape.rbegin(), tensor.shape.rend()},
               static_cast<std::uint32_t>(tensor.type->type),
               {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    }
    extra(b);
    return b.build();
  }

 private:
  GgufFile file_;
};

void expect_bad_experts(const ExpertFile& file, const std::string& text) {
  const TempDir dir;
  test::write_text(dir.path() / "m.gguf", file.build());
  expect_error(ErrorKind::kBadInput, [&] { import_gguf(dir.path() / "m.gguf", dir.path() / "out", {}); },
               {"m.gguf: ", text});
  EXPECT_FALSE(fs::exists(dir.path() / "out"));
}

TEST(ImportExperts, UnchangedFilesAreRead) {
  for (const char* name : {"qwen3moe", "deepseek_v3", "gpt_oss"}) {
    const TempDir dir;
    test::write_text(dir.path() / "m.gguf", ExpertFile(name).build());
    EXPECT_NO_THROW(import_gguf(dir.path() / "m.gguf", dir.path() / "out", {})) << name;
  }
}

TEST(ImportExperts, RefusesNumbersThatDisagreeWithTensors) {
  const auto change = [](const char* name, const std::string& key, std::uint32_t number) {
    ExpertFile file(name);
    file.numbers[key] = number;
    return file;
  };
  expect_bad_experts(
      change("qwen3moe", "expert_count", 3),
      "tensor blk.0.ffn_gate_inp.weight: found shape [6, 8], expected [3, 8] from expert_count");
  expect_bad_experts(change("qwen3moe", "expert_count", 0), "qwen3moe.expert_count is missing");
  expect_bad_experts(change("qwen3moe", "expert_count", 70000), "found 70000, expected 1 to 65536");
  expect_bad_experts(change("qwen3moe", "expert_used_count", 7),
                     "expert_used_count: found 7, expected 1 to qwen3moe.expert_count (6)");
  expect_bad_experts(change("qwen3moe", "expert_feed_forward_length", 20),
                     "tensor blk.0.ffn_gate_exps.weight: found shape [6, 10, 8], expected [6, 20, 8] from "
                     "expert_count, expert_feed_forward_length and embedding_length");
  expect_bad_experts(change("qwen3moe", "expert_weights_scale", 3), "qwen3moe.expert_weights_scale: found 3");
  expect_bad_experts(change("mixtral", "expert_count", 0),
                     "llama.expert_used_count: found 2, which swiftprune does not read");
  expect_bad_experts(change("deepseek_v3", "expert_group_count", 4),
                     "expected a divisor of expert_count (9)");
  expect_bad_experts(change("deepseek_v3", "expert_group_used_count", 4), "expected at most");
  expect_bad_experts(change("deepseek_v3", "expert_gating_func", 4), "expected 1 (softmax) or 2 (sigmoid)");
  expect_bad_experts(change("deepseek_v3", "expert_gating_func", 1), "exp_probs_b.bias: was not expected");
  expect_bad_experts(change("deepseek_v3", "leading_dense_block_count", 3), "expected 0 to block_count (2)");
  expect_bad_experts(change("deepseek_v3", "leading_dense_block_count", 2),
                     "leading_dense_block_count: found 2, expected fewer than the 2 blocks");
  expect_bad_experts(change("deepseek_v3", "block_count", 2000000000),
                     "block_count: found 2000000000, expected at most the");
  expect_bad_experts(change("deepseek_v3", "nextn_predict_layers", 2), "expected 0 to block_count (2) - 1");
  expect_bad_experts(change("deepseek_v3", "attention.value_length_mla", 9),
                     "tensor blk.0.attn_v_b.weight: found shape [2, 8, 10], expected [2, 9, 10]");
  expect_bad_experts(change("deepseek_v3", "attention.key_length_mla", 4),
                     "expected more than rope.dimension_count");
  expect_bad_experts(change("deepseek_v3", "attention.q_lora_rank", 0),
                     "tensor blk.0.attn_q.weight is missing");
  expect_bad_experts(change("deepseek_v3", "rope.scaling.yarn_log_multiplier", 0),
                     "yarn_log_multiplier: found 0");
}

TEST(ImportExperts, RefusesTensorsOfAnotherShape) {
  const auto change = [](const char* name, const std::string& tensor,
                         const std::vector<std::uint64_t>& shape) {
    ExpertFile file(name);
    file.shapes[tensor] = shape;
    return file;
  };
  // Half of the experts.
  expect_bad_experts(change("qwen3moe", "blk.1.ffn_up_exps.weight", {8, 10, 3}),
                     "tensor blk.1.ffn_up_exps.weight: found shape [3, 10, 8], expected [6, 10, 8]");
  expect_bad_experts(change("qwen3moe", "blk.1.ffn_down_exps.weight", {8, 10, 6}),
                     "tensor blk.1.ffn_down_exps.weight: found shape [6, 10, 8], expected [6, 8, 10]");
  expect_bad_experts(change("qwen3moe", "blk.0.ffn_up_exps.weight", {80, 6}), "found shape [6, 80]");
  expect_bad_experts(change("qwen3moe", "blk.0.ffn_up_exps.weight", {}),
                     "blk.0.ffn_up_exps.weight: is missing");
  expect_bad_experts(change("qwen3moe", "blk.1.ffn_gate_inp.weight", {8, 5}),
                     "found shape [5, 8], expected [6, 8]");
  expect_bad_experts(change("gpt_oss", "blk.0.ffn_gate_exps.bias", {12, 2}),
                     "found shape [2, 12], expected [4, 12]");
  expect_bad_experts(change("gpt_oss", "blk.0.ffn_down_exps.bias", {}),
                     "blk.0.ffn_down_exps.bias: is missing");
  expect_bad_experts(change("gpt_oss", "blk.0.attn_sinks.weight", {}), "blk.0.attn_sinks.weight: is missing");
  expect_bad_experts(change("deepseek_v3", "blk.1.exp_probs_b.bias", {4}), "found shape [4], expected [9]");
  expect_bad_experts(change("deepseek_v3", "blk.1.exp_probs_b.bias", {}),
                     "tensor blk.1.exp_probs_b.bias is missing: expert_gating_func is 2");
  expect_bad_experts(change("deepseek_v3", "blk.1.attn_k_b.weight", {10, 6, 2}),
                     "found shape [2, 6, 10], expected [2, 10, 6]");
  expect_bad_experts(change("deepseek_v3", "blk.1.attn_q_b.weight", {}), "blk.1.attn_q_b.weight: is missing");
  expect_bad_experts(change("deepseek_v3", "blk.0.attn_k_b.weight", {}), "blk.0.attn_k_b.weight is missing");
}

// Blocks that predict further tokens are no layers of the model.
TEST(ImportExperts, LeavesOutBlocksBehindTheModel) {
  const TempDir dir;
  ExpertFile file("glm4moe");
  file.numbers["block_count"] = 3;
  file.numbers["nextn_predict_layers"] = 1;
  test::write_text(dir.path() / "m.gguf", file.build());
  const ImportReport report = import_gguf(dir.path() / "m.gguf", dir.path() / "out", {});
  EXPECT_EQ(read_json(dir.path() / "out/config.json").at("num_hidden_layers"), 2);
  EXPECT_TRUE(report.notes.empty());  // the file has none of their tensors
  file.extra = [](GgufBuilder& b) {
    b.floats("blk.2.nextn.eh_proj.weight", {16, 8}).floats("blk.2.attn_norm.weight", {8});
  };
  test::write_text(dir.path() / "m.gguf", file.build());
  const ImportReport with_tensors = import_gguf(dir.path() / "m.gguf", dir.path() / "again", {});
  EXPECT_EQ(with_tensors.num_tensors, report.num_tensors);
  ASSERT_EQ(with_tensors.notes.size(), 1u);
  EXPECT_NE(with_tensors.notes[0].find("2 tensors of a block are left out"), std::string::npos);
}

// Files from before May 2025 have kv_b as it is and the heads' own sizes.
TEST(ImportExperts, ReadsLatentAttentionOfOldFiles) {
  const TempDir dir;
  import_gguf(fixture("deepseek_v2.gguf"), dir.path() / "new", {});
  const Checkpoint expected = Checkpoint::open(dir.path() / "new");
  ExpertFile file("deepseek_v2");
  file.numbers = {{"attention.key_length_mla", 0},
                  {"attention.value_length_mla", 0},
                  {"attention.key_length", 10},
                  {"attention.value_length", 8}};
  for (const char* block : {"blk.0.", "blk.1."}) {
    for (const char* part : {"attn_k_b.weight", "attn_v_b.weight"})
      file.shapes[block + std::string(part)] = {};
  }
  expect_bad_experts(file,
                     "tensor blk.0.attn_kv_b.weight is missing: the file has no attention.key_length_mla");
  file.extra = [&](GgufBuilder& b) {
    for (const std::string block : {"0", "1"}) {
      const TensorInfo& tensor = expected.at("model.layers." + block + ".self_attn.kv_b_proj.weight");
      b.tensor("blk." + block + ".attn_kv_b.weight", {10, 28}, 0, bytes_of(expected, tensor));
    }
  };
  test::write_text(dir.path() / "m.gguf", file.build());
  import_gguf(dir.path() / "m.gguf", dir.path() / "old", {});
  const Checkpoint found = Checkpoint::open(dir.path() / "old");
  ASSERT_EQ(found.tensors().size(), expected.tensors().size());
  for (const TensorInfo& tensor : expected.tensors()) {
    EXPECT_EQ(bytes_of(found, found.at(tensor.name)), bytes_of(expected, tensor)) << tensor.name;
  }
  EXPECT_EQ(read_json(dir.path() / "old/config.json"), read_json(dir.path() / "new/config.json"));
}

// ---- a small llama, with every type and every mistake

struct LlamaFile {
  std::uint32_t heads = 2, kv_heads = 1, blocks = 1;
  std::string architecture = "llama";
  std::uint32_t matrix_type = 0;
  std::string skip = {};                                        // a tensor or key to leave out
  std::map<std::string, std::vector<std::int32_t>> lists = {};  // keys with a number for each layer
  std::function<void(GgufBuilder&)> extra = [](GgufBuilder&) {};

  std::string build() const {
    GgufBuilder b;
    const auto u32 = [&](const std::string& key, std::uint32_t value) {
      if (key == skip) return;
      const std::string name = architecture + "." + key;
      const auto list = lists.find(key);
      if (list == lists.end()) {
        b.u32(name, value);
        return;
      }
      std::string elements;
      for (const std::int32_t element : list->second) elements += raw(element);
      b.array(name, test::kI32, list->second.size(), elements);
    };
    if (skip != "general.architecture") b.text("general.architecture", architecture);
    u32("context_length", 16), u32("embedding_length", 32), u32("block_count", blocks);
    u32("feed_forward_length", 32), u32("attention.head_count", heads),
        u32("attention.head_count_kv", kv_heads);
    b.f32(architecture + ".attention.layer_norm_rms_epsilon", 1e-5f);
    b.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "gpt-2");
    b.texts("tokenizer.ggml.tokens", {"a", "b", "ab", "<e>"}).texts("tokenizer.ggml.merges", {"a b"});
    b.u32("tokenizer.ggml.eos_token_id", 3);
    const auto matrix = [&](const std::string& name, std::uint64_t rows) {
      if (name == skip) return;
      const GgmlTypeTraits* type = find_ggml_type(matrix_type);
      const auto bytes = static_cast<std::size_t>(32 / type->block_size * type->block_bytes) * rows;
      std::string data(bytes, '\0');
      for (std::size_t i = 0; i < bytes; i += 2) data[i] = static_cast<char>(i % 100);
      b.tensor(name, {32, rows}, matrix_type, data);
    };
    const auto vector = [&](const std::string& name) {
      if (name != skip) b.floats(name, {32});
    };
    matrix("token_embd.weight", 4), vector("output_norm.weight");
    for (std::uint32_t i = 0; i < blocks; ++i) {
      const std::string block = "blk." + std::to_string(i) + ".";
      vector(block + "attn_norm.weight"), vector(block + "ffn_norm.weight");
      matrix(block + "attn_q.weight", 32), matrix(block + "attn_k.weight", 32 * kv_heads / heads);
      matrix(block + "attn_v.weight", 32 * kv_heads / heads), matrix(block + "attn_output.weight", 32);
      for (const char* name : {"ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"})
        matrix(block + name, 32);
    }
    extra(b);
    return b.build();
  }
};

class ImportLlama : public testing::Test {
 protected:
  ImportReport import(const LlamaFile& file, const ImportOptions& options = {}) {
    test::write_text(dir_.path() / "m.gguf", file.build());
    fs::remove_all(out());
    return import_gguf(dir_.path() / "m.gguf", out(), options);
  }
  void expect_bad(const LlamaFile& file, const std::string& text, const std::string& text2 = "") {
    expect_error(ErrorKind::kBadInput, [&] { import(file); }, {"m.gguf: ", text, text2});
    EXPECT_FALSE(fs::exists(out()));
    EXPECT_EQ(std::distance(fs::directory_iterator(dir_.path()), fs::directory_iterator()), 1)
        << "something is left";
  }
  fs::path out() const { return dir_.path() / "out"; }
  fs::path folder() const { return dir_.path(); }

 private:
  TempDir dir_;
};

TEST_F(ImportLlama, WritesAWholeFolder) {
  const ImportReport report = import({});
  EXPECT_EQ(report.model_class, "LlamaForCausalLM");
  EXPECT_EQ(report.num_tensors, 11);
  EXPECT_EQ(report.dtype, DType::kF32);
  for (const char* name : {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
                           "special_tokens_map.json", "generation_config.json"}) {
    EXPECT_TRUE(fs::exists(out() / name)) << name;
  }
  const json config = read_json(out() / "config.json");
  EXPECT_EQ(config.at("tie_word_embeddings"), true);
  EXPECT_EQ(config.at("rms_norm_eps"), 1e-5);
  EXPECT_EQ(config.at("torch_dtype"), "float32");
  EXPECT_EQ(config.at("bos_token_id"), nullptr);
  EXPECT_EQ(read_json(out() / "generation_config.json").at("eos_token_id"), 3);
}

TEST_F(ImportLlama, ChoosesTheDType) {
  EXPECT_EQ(import({.matrix_type = 30}).dtype, DType::kBF16);
  EXPECT_EQ(import({.matrix_type = 1}).dtype, DType::kF16);
  EXPECT_EQ(import({.matrix_type = 8}).dtype, DType::kF16);
  EXPECT_EQ(import({.matrix_type = 8}, {.dtype = DType::kBF16}).dtype, DType::kBF16);
  EXPECT_EQ(Checkpoint::open(out()).at("model.norm.weight").dtype, DType::kBF16);
}

TEST_F(ImportLlama, SplitsIntoShards) {
  import({.blocks = 2}, {.max_shard_bytes = 10'000});
  EXPECT_FALSE(fs::exists(out() / "model.safetensors"));
  EXPECT_EQ(Checkpoint::open(out()).tensors().size(), 20u);
}

TEST_F(ImportLlama, TakesTokenizerFilesAsTheyAre) {
  fs::create_directory(folder() / "tok");
  expect_error(
      ErrorKind::kBadInput, [&] { import({}, {.tokenizer_folder = folder() / "tok"}); },
      "tok: found neither tokenizer.json nor tokenizer.model");
  test::write_text(folder() / "tok/tokenizer.json", "mine");
  test::write_text(folder() / "tok/model.safetensors", "not mine");
  import({.extra = [](GgufBuilder& b) { b.u32("tokenizer.ggml.bos_token_id", 2);
}
}  // namespace
,
         {.tokenizer_folder = folder() / "tok"});
EXPECT_EQ(test::read_text(out() / "tokenizer.json"), "mine");
EXPECT_FALSE(fs::exists(out() / "tokenizer_config.json"));
EXPECT_EQ(read_json(out() / "config.json").at("bos_token_id"), 2);
}  // namespace swiftprune

TEST_F(ImportLlama, EndOfTurnEndsGeneration) {
  import({.extra = [](GgufBuilder& b) { b.u32("tokenizer.ggml.eot_token_id", 1);
}
});
EXPECT_EQ(read_json(out() / "generation_config.json").at("eos_token_id"), json({3, 1}));
}

TEST_F(ImportLlama, RefusesWhatItDoesNotKnow) {
  expect_bad({.architecture = "mamba"},
             "general.architecture: found \"mamba\", expected one of llama, deci, qwen2");
  expect_bad({.skip = "general.architecture"}, "general.architecture is missing");
  expect_bad({.extra =
                  [](GgufBuilder& b) {
                    b.floats("blk.0.ffn_gate_inp.weight", {32, 2});
                  }},
             "tensor blk.0.ffn_gate_inp.weight: not a tensor of the architecture llama");
  expect_bad({.extra =
                  [](GgufBuilder& b) {
                    b.floats("blk.x.attn_q.weight", {32, 2});
                  }},
             "blk.x.attn_q.weight");
  expect_bad({.extra = [](GgufBuilder& b) { b.floats("output_norm.scale", {32}); }}, "output_norm.scale");
  expect_bad({.extra = [](GgufBuilder& b) { b.floats("output_norm.bias", {32}); }}, "output_norm.bias");
  expect_bad({.extra =
                  [](GgufBuilder& b) {
                    b.floats("blk.1.attn_q.weight", {32, 32});
                  }},
             "tensor blk.1.attn_q.weight: found block 1, but block_count is 1");
  expect_bad({.extra = [](GgufBuilder& b) { b.u32("split.count", 3).u32("split.no", 1); }},
             "found part 2 of 3, expected a name that ends with -00002-of-00003.gguf");
}

TEST_F(ImportLlama, RefusesWhatIsMissing) {
  for (const char* name : {"token_embd.weight", "output_norm.weight", "blk.0.attn_norm.weight",
                           "blk.0.attn_k.weight", "blk.0.ffn_down.weight"}) {
    expect_bad({.skip = name}, name);
  }
  for (const char* key :
       {"context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count"}) {
    expect_bad({.skip = key}, std::string("llama.") + key + " is missing");
  }
  expect_bad({.blocks = 0}, "llama.block_count: found 0, expected 1 to 2^31");
  expect_bad({.extra = [](GgufBuilder& b) { b.floats("blk.0.attn_q.bias", {32}); }},
             "tensor blk.0.attn_k.bias: is missing");
}

TEST_F(ImportLlama, RefusesContradictions) {
  expect_bad({.heads = 5}, "found embedding_length 32, expected a multiple of the 5 heads");
  expect_bad({.heads = 4, .kv_heads = 3}, "found 4 attention heads, expected a multiple of the 3 key heads");
  expect_bad({.skip = "blk.0.attn_k.weight",
              .extra =
                  [](GgufBuilder& b) {
                    b.floats("blk.0.attn_k.weight", {32, 12});
                  }},
             "tensor blk.0.attn_k.weight: found 12 rows, expected 16 for 1 heads of 16");
  expect_bad({.extra = [](GgufBuilder& b) { b.u32("llama.rope.dimension_count", 8); }},
             "llama.rope.dimension_count: expected the head size 16");
  expect_bad({.extra = [](GgufBuilder& b) { b.u32("llama.rope.dimension_count", 17); }},
             "found 17, expected 1 to the head size 16");
  expect_bad({.extra = [](GgufBuilder& b) { b.u32("llama.attention.key_length", 0); }},
             "attention.key_length");
  expect_bad({.extra = [](GgufBuilder& b) { b.u32("tokenizer.ggml.bos_token_id", 4); }},
             "tokenizer.ggml.bos_token_id: found 4, expected 0 to 3");
}

// Layers of different sizes: the whole way is tested in export/export_gguf_test.cpp.
TEST_F(ImportLlama, RefusesLayersThatItDoesNotKnow) {
  const auto with = [](std::map<std::string, std::vector<std::int32_t>> lists) {
    return LlamaFile{.blocks = 2, .architecture = "deci", .lists = std::move(lists)};
  };
  expect_bad(with({{"feed_forward_length", {32, 0}}}),
             "deci.feed_forward_length: found 0 in layer 1, expected 1 or more");
  expect_bad(with({{"attention.head_count", {0, 2}}, {"attention.head_count_kv", {0, 1}}}),
             "deci.attention.head_count: found 0 in layer 0, expected 1 or more");
  expect_bad(with({{"attention.head_count_kv", {1, -1}}}),
             "deci.attention.head_count_kv: found -1 in layer 1");
  expect_bad(with({{"feed_forward_length", {32, 32, 32}}}),
             "deci.feed_forward_length: found 3 numbers, expected one for each of the 2 layers");
  expect_bad(with({{"feed_forward_length", {}}}), "deci.feed_forward_length: found 0, expected 1 to 2^31");
  expect_bad(with({{"attention.head_count", {2, 1}}}),
             "found 1 attention heads in layer 1, expected 2 for each of its 1 key heads");
  expect_bad(with({{"attention.head_count", {4, 2}}, {"attention.head_count_kv", {2, 1}}}),
             "deci.attention.key_length is missing");
  expect_bad({.blocks = 2, .lists = {{"feed_forward_length", {32, 16}}}},
             "llama.feed_forward_length: found 16 in layer 1 and 32 in another, expected one number for all");
}

TEST_F(ImportLlama, LayersOfOneSizeMakeAnOrdinaryFolder) {
  import({.blocks = 2, .architecture = "deci", .lists = { { "feed_forward_length", { 32, 32 } } }});
  const json config = read_json(out() / "config.json");
  EXPECT_EQ(config.at("model_type"), "llama");
  EXPECT_EQ(config.at("intermediate_size"), 32);
  EXPECT_FALSE(config.contains("swiftprune_layer_sizes"));
}

TEST_F(ImportLlama, ListsOfOneNumberALayer) {
  import({.blocks = 2, .lists = {
            {"feed_forward_length",
             { 32,
               32 }},
            { "attention.head_count_kv",
              { 1,
                1 } }
          }});
  EXPECT_EQ(read_json(out() / "config.json").at("intermediate_size"), 32);
  expect_bad({.blocks = 2, .lists = {{"feed_forward_length", {32, 32, 32}}}},
             "llama.feed_forward_length: found 3 numbers, expected one for each of the 2 layers");
}

TEST_F(ImportLlama, TokensOfTypeZeroAreOrdinary) {
  import({.extra = [](GgufBuilder& b) {
    std::string types;
  for (const std::int32_t type : {1, 0, 1, 3}) types += raw(type);
  b.array("tokenizer.ggml.token_type", test::kI32, 4, types);
}
});
EXPECT_TRUE(fs::exists(out() / "tokenizer.json"));
}

TEST_F(ImportLlama, RopeFactorsWithoutAType) {
  const auto factor = [](float value) {
    return LlamaFile{.extra = [value](GgufBuilder& b) { b.f32("llama.rope.scaling.factor", value); }};
  };
  import(factor(4.0f));
  EXPECT_EQ(read_json(out() / "config.json").at("rope_scaling"),
            json({{"rope_type", "linear"}, {"factor", 4.0}}));
  for (const float none : {0.0f, 1.0f}) {
    import(factor(none));
    EXPECT_TRUE(read_json(out() / "config.json").at("rope_scaling").is_null()) << none;
  }
}

TEST_F(ImportLlama, TheFactorOfCosAndSin) {
  const auto file = [](const char* type, float magnitude) {
    return LlamaFile{.extra = [=](GgufBuilder& b) {
      b.text("llama.rope.scaling.type", type).f32("llama.rope.scaling.factor", 4.0f);
      b.f32("llama.rope.scaling.attn_factor", magnitude);
    }};
  };
  import(file("yarn", 1.0f));
  EXPECT_FALSE(read_json(out() / "config.json").at("rope_scaling").contains("attention_factor"));
  import(file("yarn", 2.0f));
  EXPECT_NEAR(read_json(out() / "config.json").at("rope_scaling").at("attention_factor").get<double>(),
              2.0 * (1.0 + 0.1 * std::log(4.0)), 1e-6);
  fs::remove_all(out());
  expect_bad(file("linear", 2.0f), "llama.rope.scaling.attn_factor: found 2, expected 1");
}

TEST_F(ImportLlama, KeysThatWouldChangeTheModel) {
  const auto u32 = [](const char* key, std::uint32_t value) {
    return LlamaFile{.extra = [=](GgufBuilder& b) { b.u32(key, value); }};
  };
  for (const char* key :
       {"llama.expert_weights_norm", "llama.attention.sliding_window", "llama.a_key_of_tomorrow"}) {
    expect_bad(u32(key, 8), std::string(key) + ": found 8, which swiftprune does not read");
    import(u32(key, 0));
    fs::remove_all(out());
  }
  const auto causal = [](bool value) {
    return LlamaFile{.extra = [=](GgufBuilder& b) { b.flag("llama.attention.causal", value); }};
  };
  import(causal(true));
  fs::remove_all(out());
  expect_bad(causal(false), "llama.attention.causal: found 0, which swiftprune does not read");
  expect_bad(u32("llama.expert_count", 8), "llama.expert_used_count is missing");  // Mixtral, then
  import(u32("llama.expert_count", 0));
  fs::remove_all(out());
  expect_bad({.extra = [](GgufBuilder& b) { b.f32("llama.attention.scale", 0.5f); }},
             "llama.attention.scale");
  expect_bad({.extra = [](GgufBuilder& b) { b.text("llama.pooling", "mean"); }},
             "llama.pooling: found \"mean\"");
  expect_bad(u32("llama.attention.value_length", 8), "llama.attention.value_length: found 8, expected");
  import({.extra = [](GgufBuilder& b) {
    b.text("llama.tensor_data_layout", "Meta AI original pth").u32("llama.vocab_size", 4);
  b.u32("other.expert_count", 8);
}
});
}

TEST_F(ImportLlama, RefusesUnknownRope) {
  const auto scaling = [](const char* type) {
    return LlamaFile{.extra = [type](GgufBuilder& b) { b.text("llama.rope.scaling.type", type); }};
  };
  expect_bad(scaling("magic"), "llama.rope.scaling.type: found \"magic\", expected none, linear or yarn");
  expect_bad(scaling("linear"), "llama.rope.scaling.factor is missing");
  import(scaling("none"));
  EXPECT_TRUE(read_json(out() / "config.json").at("rope_scaling").is_null());
  fs::remove_all(out());
  expect_bad(
      {.extra =
           [](GgufBuilder& b) { b.f32("llama.rope.scaling.factor", 4.0f).floats("rope_freqs.weight", {8}); }},
      "llama.rope.scaling: found a rope scaling beside the tensor rope_freqs.weight");
  expect_bad({.extra = [](GgufBuilder& b) { b.floats("rope_freqs.weight", {8}); }},
             "tensor rope_freqs.weight: found 0 at 0, expected 1; this rope scaling is not Llama 3's");
  expect_bad({.extra = [](GgufBuilder& b) { b.floats("rope_freqs.weight", {5}); }},
             "found 5 values, expected 8");
}

TEST_F(ImportLlama, RefusesValuesThatAreNotFiniteOrDoNotFit) {
  const auto bias = [](float value) {
    return LlamaFile{.matrix_type = 1, .skip = "output_norm.weight", .extra = [value](GgufBuilder& b) {
                       std::string data(31 * 4, '\0');
                       b.tensor("output_norm.weight", {32}, 0, data + raw(value));
                     }};
  };
  expect_bad(bias(NAN), "tensor output_norm.weight: found nan, expected finite values");
  expect_bad(bias(INFINITY), "found inf");
  expect_bad(bias(65520.0f), "found 65520, which f16 cannot hold; import it with --dtype bf16");
  import(bias(65519.0f));
  EXPECT_EQ(Checkpoint::open(out()).load_vector("model.norm.weight", 32)[31], 65504.0f);
}

// A block whose scale was damaged: no bits of a block's codes are wrong, but its scale can be.
TEST_F(ImportLlama, RefusesDamagedScalesOfBlocks) {
  const auto damaged = [](std::uint32_t type, std::size_t scale, std::string_view bytes) {
    return LlamaFile{.skip = "blk.0.attn_output.weight", .extra = [=](GgufBuilder& b) {
                       const auto size = static_cast<std::size_t>(find_ggml_type(type)->block_bytes);
                       std::string data(32 * size, '\x77');
                       data.replace(31 * size + scale, bytes.size(), bytes);
                       b.tensor("blk.0.attn_output.weight", {32, 32}, type, data);
                     }};
  };
  import(damaged(20, 0, "\x77\x33"));
  expect_bad(damaged(20, 0, "\xff\x7f"),
             "tensor blk.0.attn_output.weight: found nan, expected finite values");
  expect_bad(damaged(2, 0, std::string_view("\0\x7c", 2)), "found -inf, expected finite values");
  expect_bad(damaged(39, 0, "\xff"), "tensor blk.0.attn_output.weight: found inf, expected finite values");
}

TEST_F(ImportLlama, OutputFolderMustBeNew) {
  import({});
  test::write_text(folder() / "m2.gguf", LlamaFile{}.build());
  expect_error(
      ErrorKind::kBadInput, [&] { import_gguf(folder() / "m2.gguf", out(), {}); },
      "out: the folder is not empty");
}

TEST_F(ImportLlama, EveryTruncationIsRefused) {
  const std::string file = LlamaFile{}.build();
  for (std::size_t n = 0; n + 32 < file.size(); n += 1 + n / 64) {
    test::write_text(folder() / "cut.gguf", file.substr(0, n));
    expect_error(
        ErrorKind::kBadInput, [&] { import_gguf(folder() / "cut.gguf", out(), {}); }, "cut.gguf");
  }
  EXPECT_FALSE(fs::exists(out()));
}

// A real file, where the machine has it.
TEST_F(ImportLlama, RealFile) {
  const auto shared = test::shared_folder();
  if (!shared) return;
  const ImportReport report =
      import_gguf(*shared / "data/models/llama-2-tiny-random.gguf", out(), {.dtype = DType::kF32});
  EXPECT_EQ(report.num_parameters, 513048);
  const json tokenizer = read_json(out() / "tokenizer.json");
  EXPECT_EQ(tokenizer.at("model").at("vocab").size(), 32000u);
  EXPECT_EQ(tokenizer.at("model").at("merges").at(0), "\xe2\x96\x81 t");
}

}  // namespace
}  // namespace swiftprune
