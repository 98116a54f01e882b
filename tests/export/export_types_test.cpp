// A small llama in every type, and what a file cannot hold.
#include <cmath>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "export/same_tensors.h"
#include "support/expect_error.h"
#include "support/random_windows.h"
#include "support/temp_dir.h"
#include "support/tiny_llama.h"
#include "swiftprune/checkpoint/gguf.h"
#include "swiftprune/checkpoint/import_gguf.h"
#include "swiftprune/export/export_gguf.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::expect_error;
using test::expect_same_tensors;
using test::gguf_fixture;
using test::read_json;
using test::TempDir;
using test::TinyLlama;

// A folder with the tokenizer of an imported one.
void write_tiny(const TinyLlama& tiny, const fs::path& folder, const fs::path& scratch) {
  import_gguf(gguf_fixture("llama_bias.gguf"), scratch, {});
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
  import_gguf(gguf_fixture("qwen3.gguf"), dir.path() / "m", {.dtype = DType::kF32});
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
  import_gguf(gguf_fixture("qwen3.gguf"), dir.path() / "m", {.dtype = DType::kF32});
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
      "found the family opt, which GGUF export does not know; expected one of apertus, arcee, bloom, cohere, "
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

// llama.cpp's has no windows; one as long as the context changes nothing.
TEST(ExportGguf, WindowsOfSmolLm3AreNotDropped) {
  const TempDir dir;
  import_gguf(gguf_fixture("smollm3.gguf"), dir.path() / "m", {.dtype = DType::kF32});
  json config = read_json(dir.path() / "m/config.json");
  const std::int64_t context = config.at("max_position_embeddings");
  const auto export_with = [&](std::int64_t window) {
    config["use_sliding_window"] = true;
    config["sliding_window"] = window;
    test::write_text(dir.path() / "m/config.json", config.dump());
    std::filesystem::remove(dir.path() / "m.gguf");
    export_gguf(*Model::open(dir.path() / "m"), dir.path() / "m.gguf", {});
  };
  export_with(context);
  expect_error(ErrorKind::kBadInput, [&] { export_with(context - 1); },
               {"'sliding_window': found " + std::to_string(context - 1), "smollm3 cannot hold"});
}

// OLMo 3 as transformers 5 saves it: a rope for each kind of layers.
TEST(ExportGguf, RopesOfSlidingLayersAreThoseOfTheOthers) {
  const TempDir dir;
  import_gguf(gguf_fixture("olmo3.gguf"), dir.path() / "m", {.dtype = DType::kF32});
  json config = read_json(dir.path() / "m/config.json");
  config.erase("rope_theta");
  config.erase("rope_scaling");
  const auto export_with = [&](const json& full, const json& sliding) {
    config["rope_parameters"] = {{"full_attention", full}, {"sliding_attention", sliding}};
    test::write_text(dir.path() / "m/config.json", config.dump());
    export_gguf(*Model::open(dir.path() / "m"), dir.path() / "m.gguf", {});
    import_gguf(dir.path() / "m.gguf", dir.path() / "back", {});
    for (const char* name : {"back", "m.gguf"}) std::filesystem::remove_all(dir.path() / name);
  };
  const json plain = {{"rope_type", "default"}, {"rope_theta", 5e3}};
  json yarn = {{"rope_type", "yarn"},
               {"rope_theta", 5e3},
               {"factor", 8.0},
               {"original_max_position_embeddings", 16},
               {"attention_factor", 0.1 * std::log(8.0) + 1.0}};
  export_with(plain, plain);
  export_with(yarn, plain);
  const auto expect_refused = [&](const json& full, const json& sliding, const std::string& text) {
    SCOPED_TRACE(text);
    expect_error(ErrorKind::kBadInput, [&] { export_with(full, sliding); }, {text});
  };
  expect_refused(plain, {{"rope_type", "default"}, {"rope_theta", 1e4}},
                 "rope_theta 10000 of sliding layers");
  expect_refused(plain, yarn, "yarn in sliding layers");
  yarn["attention_factor"] = 1.5;
  expect_refused(yarn, plain, "attention_factor': GGUF has no place for it");
  // Beside the layers' own: of full layers alone.
  config["rope_theta"] = 1e4;
  expect_refused({{"rope_type", "default"}}, {{"rope_type", "default"}},
                 "rope_theta 500000 of sliding layers");
  export_with({{"rope_type", "default"}}, {{"rope_type", "default"}, {"rope_theta", 1e4}});
}

// Layers taken out of a Gemma break the order of its sliding layers, which llama.cpp fixes.
TEST(ExportGguf, RefusesAnotherOrderOfSlidingLayers) {
  const TempDir dir;
  import_gguf(gguf_fixture("gemma3.gguf"), dir.path() / "m", {.dtype = DType::kF32});
  json config = read_json(dir.path() / "m/config.json");
  config["layer_types"][5] = "sliding_attention";
  test::write_text(dir.path() / "m/config.json", config.dump());
  expect_error(
      ErrorKind::kBadInput, [&] { export_gguf(*Model::open(dir.path() / "m"), dir.path() / "m.gguf", {}); },
      "found sliding attention in layer 5, expected full attention in every 6th layer");
}

}  // namespace
}  // namespace swiftprune
