#include "swiftprune/export/export_gguf.h"

#include <cmath>
#include <functional>
#include <map>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/random_windows.h"
#include "support/temp_dir.h"
#include "support/tiny_llama.h"
#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/checkpoint/gguf.h"
#include "swiftprune/checkpoint/import_gguf.h"
#include "swiftprune/checkpoint/safetensors.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::expect_error;
using test::TempDir;
using test::TinyLlama;

fs::path fixture(const std::string& name) { return fs::path(SWIFTPRUNE_TEST_DATA "/checkpoint/gguf") / name; }

json read_json(const fs::path& path) { return json::parse(test::read_text(path)); }

std::string bytes_of(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  const auto bytes = checkpoint.bytes(tensor);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// GGUF has -e^x of decays, which does not tell all floats apart.
bool is_decay(const std::string& tensor) { return tensor.ends_with("A_log"); }

void expect_near(const Checkpoint& a, const Checkpoint& b, const std::string& name) {
  const std::vector<float> x = a.load_vector(name, a.at(name).numel()),
                           y = b.load_vector(name, b.at(name).numel());
  for (std::size_t i = 0; i < x.size(); ++i)
    EXPECT_NEAR(y[i], x[i], 2e-7f * std::max(1.0f, std::abs(x[i]))) << name;
}

void expect_same_tensors(const fs::path& a, const fs::path& b) {
  const Checkpoint first = Checkpoint::open(a), second = Checkpoint::open(b);
  ASSERT_EQ(first.tensors().size(), second.tensors().size());
  for (const TensorInfo& tensor : first.tensors()) {
    const TensorInfo* other = second.find(tensor.name);
    ASSERT_NE(other, nullptr) << tensor.name;
    EXPECT_EQ(tensor.shape, other->shape) << tensor.name;
    EXPECT_EQ(tensor.dtype, other->dtype) << tensor.name;
    if (is_decay(tensor.name)) {
      expect_near(first, second, tensor.name);
    } else {
      EXPECT_EQ(bytes_of(first, tensor), bytes_of(second, *other)) << tensor.name;
    }
  }
}

// ---- models that transformers made, of every architecture

class ExportFamily : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(
    Families, ExportFamily,
    ::testing::Values("llama", "llama_bias", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "gptneox",
                      "smollm3", "mistral3", "granite", "olmo", "olmo2", "olmo3", "exaone4", "glm4",
                      "stablelm", "starcoder2", "phi2", "command_r", "cohere2", "gemma", "arcee", "nemotron",
                      "gpt2", "mixtral", "qwen2moe", "qwen3moe", "olmoe", "gpt_oss", "glm4moe", "deepseek_v2",
                      "deepseek_v3", "gpt_oss_mxfp4", "lfm2", "lfm2moe", "falcon_h1", "granitehybrid",
                      "granitehybrid_moe", "granitemoe", "nemotron_h", "nemotron_h_moe", "qwen35",
                      "qwen35moe", "qwen3next", "gemma4", "gemma4_small", "bloom", "mpt", "glm"),
    [](const auto& test_info) { return test_info.param; });

// import() is tested against transformers' own tensors, so import(export(x)) = x says that export is right.
TEST_P(ExportFamily, ImportGivesTheFolderBack) {
  const TempDir dir;
  for (const auto& [name, dtype] : {std::pair{"f32", DType::kF32}, {"bf16", DType::kBF16}}) {
    const fs::path folder = dir.path() / name, file = dir.path() / (std::string(name) + ".gguf"),
                   back = dir.path() / (std::string(name) + "_back");
    import_gguf(fixture(std::string(GetParam()) + ".gguf"), folder, {.dtype = dtype});
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
  const fs::path original = fixture(std::string(GetParam()) + ".gguf");
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
  import_gguf(fixture("granitehybrid.gguf"), folder, {});
  fs::copy_file(fixture(name + ".safetensors"), folder / "model.safetensors",
                fs::copy_options::overwrite_existing);
  fs::copy_file(fixture(name + ".config.json"), folder / "config.json", fs::copy_options::overwrite_existing);
  return folder;
}

// Granite 4 without Mamba is an architecture of Granite 3 to llama.cpp, which has other names for it.
TEST(ExportGguf, Granite4WithoutMambaIsGranite) {
  const TempDir dir;
  const fs::path file = dir.path() / "m.gguf";
  export_gguf(*Model::open(folder_of_transformers(dir, "granite4")), file, {});
  const GgufFile expected = GgufFile::open(fixture("granite4.gguf")), found = GgufFile::open(file);
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
  import_gguf(fixture("falcon_h1.gguf"), folder, {.dtype = DType::kF32});
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
  import_gguf(fixture("falcon_h1.gguf"), folder, {.dtype = DType::kF32});
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

// ---- experts

class ExportExperts : public ::testing::Test {
 protected:
  // The fixture's model, its config.json changed.
  fs::path folder_of(const std::string& name, const json& changes = json::object(),
                     std::optional<DType> dtype = std::nullopt) {
    fs::remove_all(folder());
    import_gguf(fixture(name + ".gguf"), folder(), {.dtype = dtype});
    json config = read_json(folder() / "config.json");
    config.update(changes);
    test::write_text(folder() / "config.json", config.dump());
    return folder();
  }
  ExportReport export_it(const char* type = "auto") {
    fs::remove(file());
    return export_gguf(*Model::open(folder()), file(), {.mix = find_gguf_mix(type)});
  }
  void expect_bad(const std::string& name, const json& changes, const std::string& text) {
    folder_of(name, changes);
    expect_error(
        ErrorKind::kBadInput, [&] { export_it(); }, text);
    EXPECT_FALSE(fs::exists(file()));
  }
  fs::path folder() const { return dir_.path() / "m"; }
  fs::path file() const { return dir_.path() / "m.gguf"; }

 private:
  TempDir dir_;
};

// No type of 4.25 bits or more makes anything better of MXFP4; smaller ones take its values.
TEST_F(ExportExperts, MxFp4StaysBitForBit) {
  folder_of("gpt_oss_mxfp4");
  const GgufFile expected = GgufFile::open(fixture("gpt_oss_mxfp4.gguf"));
  for (const char* type : {"auto", "f32", "q8_0", "q4_0", "q4_k_m"}) {
    export_it(type);
    const GgufFile found = GgufFile::open(file());
    for (const GgufTensor& tensor : expected.tensors()) {
      if (tensor.type->type != GgmlType::kMXFP4) continue;
      const GgufTensor& other = *found.find(tensor.name);
      ASSERT_EQ(other.type->type, GgmlType::kMXFP4) << type << " " << tensor.name;
      EXPECT_TRUE(std::ranges::equal(expected.bytes(tensor), found.bytes(other)))
          << type << " " << tensor.name;
    }
  }
  EXPECT_EQ(GgufFile::open(file()).find("blk.0.attn_q.weight")->type->type, GgmlType::kQ5_0);
  EXPECT_EQ(GgufFile::open(file()).find("blk.0.ffn_gate_inp.weight")->type->type, GgmlType::kF32);
  EXPECT_EQ(GgufFile::open(file()).find("blk.0.ffn_up_exps.bias")->type->type, GgmlType::kF32);
}

// Experts have the type of an MLP's matrices, each row rounded by itself; zeros of pruning stay.
TEST_F(ExportExperts, ExpertsTakeEveryType) {
  folder_of("gpt_oss_mxfp4", json::object(), DType::kF32);
  const Checkpoint source = Checkpoint::open(folder());
  const TensorInfo& down = source.at("model.layers.1.mlp.experts.down_proj");  // [E, I, hidden]
  Matrix rows(4 * 64, 32);
  convert_to_f32(source.bytes(down), DType::kF32, rows.values());
  for (const char* type : {"f16", "q8_0", "q4_0", "q5_1", "q4_k", "q2_k"}) {
    export_it(type);
    const GgufFile gguf = GgufFile::open(file());
    const GgufTensor& tensor = *gguf.find("blk.1.ffn_down_exps.weight");  // [E, hidden, I]
    ASSERT_EQ(tensor.shape, (std::vector<std::int64_t>{4, 32, 64}));
    std::vector<float> found(static_cast<std::size_t>(tensor.numel()));
    dequantize(*tensor.type, gguf.bytes(tensor), found);
    double error = 0.0, energy = 0.0;
    for (std::int64_t e = 0; e < 4; ++e) {
      for (std::int64_t o = 0; o < 32; ++o) {
        for (std::int64_t i = 0; i < 64; ++i) {
          const double x = rows.at(e * 64 + i, o), y = found[static_cast<std::size_t>((e * 32 + o) * 64 + i)];
          error += (x - y) * (x - y);
          energy += x * x;
          if (x == 0.0) {
            ASSERT_EQ(y, 0.0) << type;
          }  // a sixteenth of MXFP4's random codes is 0, another -0
        }
      }
    }
    EXPECT_LT(error, 0.02 * energy) << type;
  }
}

TEST_F(ExportExperts, NamesWhatLlamaCppCannotHold) {
  expect_bad(
      "qwen3moe", {{"norm_topk_prob", false}},
      "norm_topk_prob': found false, which llama.cpp's qwen3moe cannot hold: its weights of experts are "
      "renormalised");
  expect_bad("olmoe", {{"norm_topk_prob", true}}, "its weights of experts are not renormalised");
  expect_bad("olmoe", {{"clip_qkv", 2.0}}, "clip_qkv': found 2, which llama.cpp's olmoe cannot hold");
  expect_bad("gpt_oss", {{"swiglu_limit", 5.0}}, "swiglu_limit': found 5, which llama.cpp's gpt-oss");
  expect_bad("deepseek_v3", {{"rope_interleave", false}}, "rope_interleave': found false");
  expect_bad("deepseek_v3", {{"topk_group", 3}}, "it is to be fewer than the 3 groups");
  json rope = read_json(folder() / "config.json").at("rope_scaling");
  rope["mscale"] = 0.5;
  expect_bad("deepseek_v3", {{"rope_scaling", rope}}, "yarn with another mscale than mscale_all_dim");
}

TEST_F(ExportExperts, SaysWhatLlamaCppDoesOtherwise) {
  folder_of("deepseek_v2", {{"n_group", 5}, {"topk_group", 2}, {"topk_method", "group_limited_greedy"}});
  const ExportReport report = export_it();
  ASSERT_EQ(report.notes.size(), 1u);
  EXPECT_NE(report.notes[0].find("ranks groups of experts by the sum of their best two"), std::string::npos);
  folder_of("gpt_oss");
  EXPECT_NE(export_it().notes.at(0).find("truncate is false"), std::string::npos);
}

// Layers of num_nextn_predict_layers lie behind the model's.
TEST_F(ExportExperts, LeavesOutLayersThatPredictFurtherTokens) {
  folder_of("qwen3moe", {{"num_hidden_layers", 1}, {"num_nextn_predict_layers", 1}});
  const ExportReport report = export_it();
  ASSERT_EQ(report.notes.size(), 1u);
  EXPECT_NE(report.notes[0].find("tensors that predict further tokens are left out"), std::string::npos);
  const GgufFile gguf = GgufFile::open(file());
  EXPECT_NE(gguf.find("blk.0.ffn_up_exps.weight"), nullptr);
  EXPECT_EQ(gguf.find("blk.1.ffn_up_exps.weight"), nullptr);
  EXPECT_EQ(gguf.find("blk.1.attn_norm.weight"), nullptr);
}

// DeepSeek's tokenizer.json has a list of normalizers with nothing in it.
TEST_F(ExportExperts, AnEmptyListOfNormalizersIsNone) {
  folder_of("deepseek_v3");
  json tokenizer = read_json(folder() / "tokenizer.json");
  EXPECT_EQ(tokenizer.at("pre_tokenizer").at("pretokenizers").size(), 4u);
  tokenizer["normalizer"] = {{"type", "Sequence"}, {"normalizers", json::array()}};
  test::write_text(folder() / "tokenizer.json", tokenizer.dump());
  export_it();
  EXPECT_EQ(GgufFile::open(file()).text("tokenizer.ggml.pre"), "deepseek-v3");
  tokenizer["normalizer"]["normalizers"] = {{{"type", "NFKC"}}};
  test::write_text(folder() / "tokenizer.json", tokenizer.dump());
  fs::remove(file());
  expect_error(
      ErrorKind::kBadInput, [&] { export_it(); }, "swiftprune knows no llama.cpp name for");
}

TEST_F(ExportExperts, RoundingByTextIsRefused) {
  folder_of("qwen3moe");
  const auto model = Model::open(folder());
  const TokenWindows windows = test::random_windows(*model, 1, 8);
  const auto backend = make_cpu_backend();
  expect_error(
      ErrorKind::kUsage,
      [&] {
        export_gguf(*model, file(),
                    {.mix = find_gguf_mix("q8_0"), .calibration = GgufCalibration{*backend, windows}});
      },
      "found experts, expected a model without; leave out --calibration");
}

// ---- types

// A folder with the tokenizer of an imported one.
void write_tiny(const TinyLlama& tiny, const fs::path& folder, const fs::path& scratch) {
  import_gguf(fixture("llama_bias.gguf"), scratch, {});
  TinyLlama copy = tiny;
  copy.files["tokenizer.json"] = test::read_text(scratch / "tokenizer.json");
  copy.files["tokenizer_config.json"] = test::read_text(scratch / "tokenizer_config.json");
  copy.write(folder);
}

// The fixture's tokenizer has 270 tokens.
TinyLlama tiny_llama() {
  TinyLlama tiny;
  tiny.config.replace(tiny.config.find("\"vocab_size\": 40"), 16, "\"vocab_size\": 270");
  tiny.add("model.embed_tokens.weight", {270, 32});
  return tiny;
}

class ExportLlama : public ::testing::Test {
 protected:
  ExportReport export_it(const TinyLlama& tiny, const char* type = "auto") {
    fs::remove_all(dir_.path() / "m");
    fs::remove_all(dir_.path() / "scratch");
    fs::remove(file());
    write_tiny(tiny, dir_.path() / "m", dir_.path() / "scratch");
    return export_gguf(*Model::open(dir_.path() / "m"), file(), {.mix = find_gguf_mix(type)});
  }
  void expect_bad(const TinyLlama& tiny, const std::string& text, const char* type = "auto") {
    expect_error(
        ErrorKind::kBadInput, [&] { export_it(tiny, type); }, text);
    EXPECT_FALSE(fs::exists(file()));
  }
  fs::path file() const { return dir_.path() / "m.gguf"; }
  fs::path folder() const { return dir_.path(); }

 private:
  TempDir dir_;
};

TEST_F(ExportLlama, VectorsStayF32InEveryType) {
  for (const auto& [type, number, file_type] :
       {std::tuple{"f16", 1u, 1}, {"bf16", 30u, 32}, {"q8_0", 8u, 7}, {"f32", 0u, 0}}) {
    export_it(tiny_llama(), type);
    const GgufFile gguf = GgufFile::open(file());
    EXPECT_EQ(gguf.integer("general.file_type"), file_type);
    for (const GgufTensor& tensor : gguf.tensors()) {
      const auto found = static_cast<std::uint32_t>(tensor.type->type);
      EXPECT_EQ(found, tensor.shape.size() == 1 ? 0u : number) << tensor.name;
    }
  }
}

TEST_F(ExportLlama, RowsWithoutWholeBlocksBecomeF16) {
  TinyLlama tiny = tiny_llama();
  tiny.config.replace(tiny.config.find("\"intermediate_size\": 64"), 23, "\"intermediate_size\": 40");
  for (const std::string block : {"model.layers.0.", "model.layers.1."}) {
    tiny.add(block + "mlp.gate_proj.weight", {40, 32}), tiny.add(block + "mlp.up_proj.weight", {40, 32});
    tiny.add(block + "mlp.down_proj.weight", {32, 40});
  }
  export_it(tiny, "q8_0");
  const GgufFile gguf = GgufFile::open(file());
  EXPECT_EQ(gguf.find("blk.0.ffn_down.weight")->type->type, GgmlType::kF16);
  EXPECT_EQ(gguf.find("blk.0.ffn_up.weight")->type->type, GgmlType::kQ8_0);
}

TEST_F(ExportLlama, PrunedZerosSurviveQuantization) {
  TinyLlama tiny = tiny_llama();
  tiny.prune(2, 4);
  export_it(tiny, "q8_0");
  const GgufFile gguf = GgufFile::open(file());
  const GgufTensor& down = *gguf.find("blk.1.ffn_down.weight");
  std::vector<float> values(static_cast<std::size_t>(down.numel()));
  dequantize(*down.type, gguf.bytes(down), values);
  EXPECT_EQ(std::count(values.begin(), values.end(), 0.0f), 32 * 64 / 2);
}

// Rows of 256 have K-quants, rows of 32 what stands in for them, vectors stay as they are.
TinyLlama wide_llama() {
  TinyLlama tiny = tiny_llama();
  tiny.config.replace(tiny.config.find("\"intermediate_size\": 64"), 23, "\"intermediate_size\": 256");
  for (const std::string block : {"model.layers.0.", "model.layers.1."}) {
    tiny.add(block + "mlp.gate_proj.weight", {256, 32}), tiny.add(block + "mlp.up_proj.weight", {256, 32});
    tiny.add(block + "mlp.down_proj.weight", {32, 256});
  }
  return tiny;
}

std::map<std::string, std::string> types_in(const fs::path& file) {
  std::map<std::string, std::string> types;
  const GgufFile gguf = GgufFile::open(file);
  for (const GgufTensor& tensor : gguf.tensors()) types[tensor.name] = std::string(tensor.type->name);
  return types;
}

TEST_F(ExportLlama, AMixGivesEachMatrixItsType) {
  const ExportReport report = export_it(wide_llama(), "q4_k_m");
  EXPECT_EQ(report.type, "Q4_K_M");
  auto types = types_in(file());
  EXPECT_EQ(types["blk.0.ffn_down.weight"], "Q4_K");
  EXPECT_EQ(types["blk.1.ffn_down.weight"], "Q6_K");
  EXPECT_EQ(types["blk.0.ffn_up.weight"], "Q5_0");
  EXPECT_EQ(types["blk.1.attn_v.weight"], "Q8_0");
  EXPECT_EQ(types["token_embd.weight"], "Q8_0");
  EXPECT_EQ(types["blk.0.attn_norm.weight"], "F32");
  EXPECT_EQ(report.types,
            (std::map<std::string, std::int64_t>{{"Q4_K", 1}, {"Q5_0", 11}, {"Q6_K", 1}, {"Q8_0", 2}}));
  const std::vector<std::string> notes = {
      "11 matrices are Q5_0 and not Q4_K: rows of 32 are no multiple of 256",
      "2 matrices are Q8_0 and not Q6_K: rows of 32 are no multiple of 256"};
  EXPECT_EQ(report.notes, notes);
  EXPECT_EQ(GgufFile::open(file()).integer("general.file_type"), 15);
}

// Whatever the type, the values are near the weights, and zeros of pruning are zeros.
TEST_F(ExportLlama, EveryTypeKeepsValuesAndPrunedZeros) {
  TinyLlama tiny = wide_llama();
  tiny.prune(2, 4);
  for (const std::string& type : gguf_mix_names()) {
    export_it(tiny, type.c_str());
    const GgufFile gguf = GgufFile::open(file());
    for (const auto& [ours, theirs] : {std::pair{"mlp.down_proj", "ffn_down"}, {"mlp.up_proj", "ffn_up"}}) {
      const auto& expected = tiny.values.at(std::string("model.layers.0.") + ours + ".weight");
      const GgufTensor& tensor = *gguf.find(std::string("blk.0.") + theirs + ".weight");
      std::vector<float> found(expected.size());
      dequantize(*tensor.type, gguf.bytes(tensor), found);
      double error = 0.0, energy = 0.0;
      for (std::size_t i = 0; i < found.size(); ++i) {
        if (expected[i] == 0.0f) {
          ASSERT_EQ(found[i], 0.0f) << type << " " << theirs << " " << i;
        }
        error += std::pow(double{found[i]} - double{expected[i]}, 2);
        energy += std::pow(double{expected[i]}, 2);
      }
      EXPECT_LT(error, (type == "q2_k" || type.starts_with("q3_k") ? 0.05 : 0.01) * energy)
          << type << " " << theirs;
    }
  }
}

// Squares of differences between the logits of two models.
double logit_distance(const fs::path& a, const fs::path& b, const TokenWindows& windows) {
  const auto backend = make_cpu_backend();
  const auto logits = [&](const fs::path& folder) {
    const auto model = Model::open(folder);
    Matrix hidden = model->embed_windows(windows, 0, windows.num_windows());
    BlockForwardOptions options;
    options.sequence_length = windows.seqlen;
    for (std::int64_t layer = 0; layer < model->config().num_layers(); ++layer) {
      DecoderBlock block = model->load_block(layer);
      block.pack(*backend, ComputeType::kF32);
      block.forward(*backend, model->rope_tables(windows.seqlen), hidden.view(), options);
    }
    Matrix result(hidden.rows(), model->config().vocab_size);
    model->load_head(*backend, ComputeType::kF32).logits(*backend, hidden.view(), result.view());
    return result;
  };
  const Matrix x = logits(a), y = logits(b);
  double total = 0.0;
  for (std::int64_t k = 0; k < x.numel(); ++k)
    total += std::pow(double{x.data()[k]} - double{y.data()[k]}, 2);
  return total;
}

TEST_F(ExportLlama, CalibratedTextBringsTheOutputsNearer) {
  TinyLlama tiny = wide_llama();
  for (auto& [name, values] : tiny.values) {
    if (!TinyLlama::is_linear(name)) continue;
    for (float& value : values) value *= 0.05f;
  }
  export_it(tiny, "q3_k");
  import_gguf(file(), folder() / "plain", {});
  fs::remove(file());
  const auto model = Model::open(folder() / "m");
  const TokenWindows windows = test::random_windows(*model, 8, 64);
  const auto backend = make_cpu_backend();
  export_gguf(*model, file(),
              {.mix = find_gguf_mix("q3_k"), .calibration = GgufCalibration{*backend, windows}});
  auto types = types_in(file());
  EXPECT_EQ(types["blk.0.ffn_down.weight"], "Q3_K");
  EXPECT_EQ(types["blk.0.attn_q.weight"], "Q4_0");
  import_gguf(file(), folder() / "calibrated", {});
  EXPECT_LT(logit_distance(folder() / "m", folder() / "calibrated", windows),
            0.7 * logit_distance(folder() / "m", folder() / "plain", windows));
}

TEST_F(ExportLlama, TiedEmbeddingsHaveNoOutputTensor) {
  TinyLlama tiny = tiny_llama();
  export_it(tiny);
  EXPECT_EQ(GgufFile::open(file()).find("output.weight"), nullptr);
}

TEST_F(ExportLlama, HeadsBesideTiedEmbeddingsAreKept) {
  TinyLlama tiny = tiny_llama();
  tiny.add("lm_head.weight", {270, 32});  // other values than the embedding's
  export_it(tiny);
  EXPECT_NE(GgufFile::open(file()).find("output.weight"), nullptr);
}

// ---- layers of different sizes

// The second layer has half of the heads and 40 of 64 channels.
TinyLlama layered_llama() {
  TinyLlama tiny = tiny_llama();
  tiny.config.replace(tiny.config.rfind('}'), 1, R"(, "head_dim": 8, "swiftprune_layer_sizes":
      {"intermediate_size": [64, 40], "num_key_value_heads": [2, 1]}})");
  const std::string block = "model.layers.1.";
  tiny.add(block + "self_attn.q_proj.weight", {16, 32}), tiny.add(block + "self_attn.k_proj.weight", {8, 32});
  tiny.add(block + "self_attn.v_proj.weight", {8, 32}), tiny.add(block + "self_attn.o_proj.weight", {32, 16});
  tiny.add(block + "mlp.gate_proj.weight", {40, 32}), tiny.add(block + "mlp.up_proj.weight", {40, 32});
  tiny.add(block + "mlp.down_proj.weight", {32, 40});
  return tiny;
}

TEST_F(ExportLlama, LayersOfDifferentSizesBecomeDeci) {
  const TinyLlama tiny = layered_llama();
  EXPECT_EQ(export_it(tiny).architecture, "deci");
  const GgufFile gguf = GgufFile::open(file());
  EXPECT_EQ(gguf.text("general.architecture"), "deci");
  EXPECT_EQ(gguf.numbers("deci.feed_forward_length"), (std::vector<double>{64, 40}));
  EXPECT_EQ(gguf.numbers("deci.attention.head_count"), (std::vector<double>{4, 2}));
  EXPECT_EQ(gguf.numbers("deci.attention.head_count_kv"), (std::vector<double>{2, 1}));
  EXPECT_EQ(gguf.integer("deci.attention.key_length"), 8);
  EXPECT_EQ(gguf.integer("deci.rope.dimension_count"), 8);
  // Rotary pairs side by side: row 8h + 4i + p of a head of 8 becomes its row 2p + i.
  for (const auto& [ours, theirs, heads] :
       {std::tuple{"self_attn.q_proj", "attn_q", 2}, {"self_attn.k_proj", "attn_k", 1}}) {
    const auto& expected = tiny.values.at(std::string("model.layers.1.") + ours + ".weight");
    const GgufTensor& tensor = *gguf.find(std::string("blk.1.") + theirs + ".weight");
    ASSERT_EQ(tensor.shape, (std::vector<std::int64_t>{8 * heads, 32}));
    std::vector<float> found(expected.size());
    dequantize(*tensor.type, gguf.bytes(tensor), found);
    for (int h = 0; h < heads; ++h) {
      for (int i = 0; i < 2; ++i) {
        for (int p = 0; p < 4; ++p) {
          const auto from = static_cast<std::size_t>(32 * (8 * h + 4 * i + p));
          const auto to = static_cast<std::size_t>(32 * (8 * h + 2 * p + i));
          EXPECT_NEAR(found[to], expected[from], 4e-3f) << theirs << " " << h << " " << i << " " << p;
        }
      }
    }
  }
  import_gguf(file(), folder() / "back", {});
  expect_same_tensors(folder() / "m", folder() / "back");
  EXPECT_EQ(read_json(folder() / "back/config.json").at("swiftprune_layer_sizes"),
            read_json(folder() / "m/config.json").at("swiftprune_layer_sizes"));
  EXPECT_TRUE(Model::open(folder() / "back")->config().has_layer_sizes);
}

TEST(ExportGguf, RefusesLayersOfDifferentSizesInOtherFamilies) {
  const TempDir dir;
  import_gguf(fixture("qwen3.gguf"), dir.path() / "m", {.dtype = DType::kF32});
  json config = read_json(dir.path() / "m/config.json");
  const std::size_t layers = config.at("num_hidden_layers");
  config["swiftprune_layer_sizes"]["intermediate_size"] =
      std::vector<std::int64_t>(layers, config.at("intermediate_size"));
  test::write_text(dir.path() / "m/config.json", config.dump());
  expect_error(
      ErrorKind::kBadInput, [&] { export_gguf(*Model::open(dir.path() / "m"), dir.path() / "m.gguf", {}); },
      "field 'swiftprune_layer_sizes': found the family qwen3, all of whose layers have one size in "
      "llama.cpp; "
      "export takes layers of different sizes of llama and mistral");
  EXPECT_FALSE(fs::exists(dir.path() / "m.gguf"));
}

// ---- what GGUF cannot hold

TEST_F(ExportLlama, NamesWhatLlamaCppCannotHold) {
  TinyLlama tiny = tiny_llama();
  tiny.config.replace(tiny.config.find("\"silu\""), 6, "\"relu\"");
  expect_bad(tiny, "config.json: found the activation relu, expected silu: llama.cpp's llama knows no other");

  tiny = tiny_llama();
  tiny.add("model.layers.0.extra.weight", {2});
  expect_bad(tiny, "tensor 'model.layers.0.extra.weight': llama.cpp's llama has no place for it");

  tiny = tiny_llama();
  tiny.config.replace(tiny.config.rfind('}'), 1,
                      R"(, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}})");
  expect_bad(tiny, "'rope_scaling.rope_type': found dynamic, which llama.cpp's llama cannot hold");

  tiny = tiny_llama();
  tiny.values["model.layers.0.mlp.up_proj.weight"][3] = 1e5f;
  tiny.dtype = DType::kF32;
  expect_bad(tiny, "found 100000, which f16 cannot hold; use --type bf16", "f16");
  expect_bad(tiny, "found 100000, which a type with f16 scales cannot hold; use --type bf16", "q4_k_m");
  for (const char* type : {"q8_0", "q4_k", "q2_k", "q5_0", "f32"}) {
    tiny.values["model.layers.0.mlp.up_proj.weight"][3] = std::nanf("");
    expect_bad(tiny, "tensor 'model.layers.0.mlp.up_proj.weight': found nan, expected finite weights", type);
  }
}

TEST(ExportGguf, SaysWhatLlamaCppDropsAndRefusesWhatItCannotLoad) {
  const TempDir dir;
  import_gguf(fixture("qwen3.gguf"), dir.path() / "m", {.dtype = DType::kF32});
  const json whole = read_json(dir.path() / "m/config.json");
  const auto notes_of = [&](const json& more) {
    json config = whole;
    config.update(more);
    test::write_text(dir.path() / "m/config.json", config.dump());
    fs::remove(dir.path() / "m.gguf");
    return export_gguf(*Model::open(dir.path() / "m"), dir.path() / "m.gguf", {}).notes;
  };
  EXPECT_THAT(notes_of(json::object()), ::testing::IsEmpty());
  const json window = {{"use_sliding_window", true}, {"sliding_window", 4}, {"max_window_layers", 0}};
  EXPECT_THAT(notes_of(window),
              ::testing::ElementsAre(::testing::HasSubstr("sliding window of 4 tokens is not kept")));
  json wide = window;
  wide["sliding_window"] = whole.at("max_position_embeddings");
  EXPECT_THAT(notes_of(wide), ::testing::IsEmpty()) << "as long as the context";
  const json yarn = {{"rope_type", "yarn"}, {"factor", 2.0}};
  EXPECT_THAT(notes_of({{"rope_scaling", yarn}}), ::testing::IsEmpty());
  json betas = yarn;
  betas["beta_fast"] = 3.0, betas["beta_slow"] = 1.0;
  EXPECT_THAT(notes_of({{"rope_scaling", betas}}),
              ::testing::ElementsAre(::testing::HasSubstr("beta_fast 32")));
  betas["truncate"] = false;
  expect_error(
      ErrorKind::kBadInput,
      [&] {
        notes_of({{"rope_scaling", betas}});
      },
      "rope_scaling.truncate", "found false");
}

TEST_F(ExportLlama, RefusesTokenizersWithoutAName) {
  const auto with = [&](const std::string& tokenizer) {
    fs::remove_all(folder() / "m");
    TinyLlama tiny = tiny_llama();
    tiny.files["tokenizer.json"] = tokenizer;
    tiny.write(folder() / "m");
    export_gguf(*Model::open(folder() / "m"), file(), {});
  };
  const std::pair<const char*, const char*> cases[] = {
      {R"({})", "tokenizer.json"},
      {R"({"model": {"type": "Unigram", "vocab": [], "merges": []}})", "found \"Unigram\", expected BPE"},
      {R"({"model": {"type": "BPE", "vocab": {"a": 270}, "merges": []}})",
       "token \"a\": found id 270, expected less than the 270 rows"},
      {R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}, "pre_tokenizer":
          {"type": "ByteLevel", "add_prefix_space": false}})",
       "model.merges: found \"a\", expected two tokens"},
      {R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": {"type": "Whitespace"}})",
       "found a pre-tokenizer that swiftprune knows no llama.cpp name for"},
      {R"({"model": {"type": "BPE", "vocab": {"a": "x"}, "merges": []}})", "tokenizer.json"}};
  for (const auto& [tokenizer, message] : cases) {
    expect_error(
        ErrorKind::kBadInput, [&] { with(tokenizer); }, message);
    EXPECT_FALSE(fs::exists(file()));
  }
  TinyLlama tiny = tiny_llama();
  tiny.files.clear();
  fs::remove_all(folder() / "m");
  tiny.write(folder() / "m");
  expect_error(
      ErrorKind::kBadInput, [&] { export_gguf(*Model::open(folder() / "m"), file(), {}); },
      "found no tokenizer.json");
}

TEST(ExportGguf, RefusesFamiliesThatItDoesNotKnow) {
  const TempDir dir;
  const auto model = Model::open(SWIFTPRUNE_TEST_DATA "/model/opt");
  expect_error(
      ErrorKind::kBadInput, [&] { export_gguf(*model, dir.path() / "m.gguf", {}); },
      "found the family opt, which GGUF export does not know; expected one of arcee, bloom, cohere, "
      "cohere2, deepseek_v2");
}

// What llama.cpp's architectures take for granted.
TEST(ExportGguf, RefusesWhatAnArchitectureCannotHold) {
  const std::tuple<const char*, const char*, const char*> cases[] = {
      {"smollm3", "no_rope_layers", "every fourth layer has none"},
      {"smollm3_sliding", "attention_bias", "no biases"},
      {"exaone4", "layer_types", "only the 32B model"},
      {"stablelm_parallel", "k_layernorm.norms.0.weight", "stablelm has no place for it"},
      {"starcoder2_no_bias", "use_bias", "always has biases"},
      {"phi_head_norms", "k_layernorm.bias", "phi2 has no place for it"},
      {"cohere_head_norms", "k_norm.weight", "command-r has no place for it"},
      {"cohere", "head_dim", "its heads make up the hidden size"},
      {"falcon_h1_norm", "mamba.in_proj.bias", "falcon-h1 has no place for it"},
      {"granite4_mamba_bias", "mamba.in_proj.bias", "granitehybrid has no place for it"},
      {"nemotron_h_bias", "mixer.in_proj.bias", "nemotron_h has no place for it"},
      {"qwen3_5", "linear_value_head_dim", "it is linear_key_head_dim (6)"},
      {"mpt_clipped", "attn_config", "it scales by 1/sqrt(head size)"},
      {"mpt", "n_heads", "no power of two"}};
  const TempDir dir;
  for (const auto& [name, field, reason] : cases) {
    const auto model = Model::open(std::string(SWIFTPRUNE_TEST_DATA "/model/") + name);
    expect_error(ErrorKind::kBadInput, [&] { export_gguf(*model, dir.path() / "m.gguf", {}); },
                 {field, reason});
  }
}

// Layers taken out of a Gemma break the order of its sliding layers, which llama.cpp fixes.
TEST(ExportGguf, RefusesAnotherOrderOfSlidingLayers) {
  const TempDir dir;
  import_gguf(fixture("gemma3.gguf"), dir.path() / "m", {.dtype = DType::kF32});
  json config = read_json(dir.path() / "m/config.json");
  config["layer_types"][5] = "sliding_attention";
  test::write_text(dir.path() / "m/config.json", config.dump());
  expect_error(
      ErrorKind::kBadInput, [&] { export_gguf(*Model::open(dir.path() / "m"), dir.path() / "m.gguf", {}); },
      "found sliding attention in layer 5, expected full attention in every 6th layer");
}

}  // namespace
}  // namespace swiftprune
