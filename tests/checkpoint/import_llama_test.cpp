// A small llama in a GGUF file, with every type and every mistake.
#include <cmath>
#include <functional>
#include <map>

#include <gtest/gtest.h>

#include "checkpoint/gguf_fixture.h"
#include "support/expect_error.h"
#include "support/gguf_builder.h"
#include "support/require.h"
#include "swiftprune/checkpoint/gguf.h"
#include "swiftprune/checkpoint/import_gguf.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::expect_error;
using test::GgufBuilder;
using test::raw;
using test::read_json;
using test::TempDir;

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

LlamaFile with(std::function<void(GgufBuilder&)> extra) { return {.extra = std::move(extra)}; }

class ImportLlama : public testing::Test {
 protected:
  ImportReport import_file(const LlamaFile& file, const ImportOptions& options = {}) {
    test::write_text(dir_.path() / "m.gguf", file.build());
    fs::remove_all(out());
    return import_gguf(dir_.path() / "m.gguf", out(), options);
  }
  void expect_bad(const LlamaFile& file, const std::string& text, const std::string& text2 = "") {
    expect_error(ErrorKind::kBadInput, [&] { import_file(file); }, {"m.gguf: ", text, text2});
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
  const ImportReport report = import_file({});
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
  EXPECT_EQ(import_file({.matrix_type = 30}).dtype, DType::kBF16);
  EXPECT_EQ(import_file({.matrix_type = 1}).dtype, DType::kF16);
  EXPECT_EQ(import_file({.matrix_type = 8}).dtype, DType::kF16);
  EXPECT_EQ(import_file({.matrix_type = 8}, {.dtype = DType::kBF16}).dtype, DType::kBF16);
  EXPECT_EQ(Checkpoint::open(out()).at("model.norm.weight").dtype, DType::kBF16);
}

TEST_F(ImportLlama, SplitsIntoShards) {
  import_file({.blocks = 2}, {.max_shard_bytes = 10'000});
  EXPECT_FALSE(fs::exists(out() / "model.safetensors"));
  EXPECT_EQ(Checkpoint::open(out()).tensors().size(), 20u);
}

TEST_F(ImportLlama, TakesTokenizerFilesAsTheyAre) {
  fs::create_directory(folder() / "tok");
  expect_error(
      ErrorKind::kBadInput, [&] { import_file({}, {.tokenizer_folder = folder() / "tok"}); },
      "tok: found neither tokenizer.json nor tokenizer.model");
  test::write_text(folder() / "tok/tokenizer.json", "mine");
  test::write_text(folder() / "tok/model.safetensors", "not mine");
  import_file(with([](GgufBuilder& b) { b.u32("tokenizer.ggml.bos_token_id", 2); }),
              {.tokenizer_folder = folder() / "tok"});
  EXPECT_EQ(test::read_text(out() / "tokenizer.json"), "mine");
  EXPECT_FALSE(fs::exists(out() / "tokenizer_config.json"));
  EXPECT_EQ(read_json(out() / "config.json").at("bos_token_id"), 2);
}

TEST_F(ImportLlama, EndOfTurnEndsGeneration) {
  import_file(with([](GgufBuilder& b) { b.u32("tokenizer.ggml.eot_token_id", 1); }));
  EXPECT_EQ(read_json(out() / "generation_config.json").at("eos_token_id"), json({3, 1}));
}

TEST_F(ImportLlama, RefusesWhatItDoesNotKnow) {
  expect_bad({.architecture = "mamba"},
             "general.architecture: found \"mamba\", expected one of llama, deci, qwen2");
  expect_bad({.skip = "general.architecture"}, "general.architecture is missing");
  expect_bad(with([](GgufBuilder& b) {
               b.floats("blk.0.ffn_gate_inp.weight", {32, 2});
             }),
             "tensor blk.0.ffn_gate_inp.weight: not a tensor of the architecture llama");
  expect_bad(with([](GgufBuilder& b) { b.floats("blk.x.attn_q.weight", {32, 2}); }), "blk.x.attn_q.weight");
  expect_bad(with([](GgufBuilder& b) { b.floats("output_norm.scale", {32}); }), "output_norm.scale");
  expect_bad(with([](GgufBuilder& b) { b.floats("output_norm.bias", {32}); }), "output_norm.bias");
  expect_bad(with([](GgufBuilder& b) {
               b.floats("blk.1.attn_q.weight", {32, 32});
             }),
             "tensor blk.1.attn_q.weight: found block 1, but block_count is 1");
  expect_bad(with([](GgufBuilder& b) { b.u32("split.count", 3).u32("split.no", 1); }),
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
  expect_bad(with([](GgufBuilder& b) { b.floats("blk.0.attn_q.bias", {32}); }),
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
  expect_bad(with([](GgufBuilder& b) { b.u32("llama.rope.dimension_count", 8); }),
             "llama.rope.dimension_count: expected the head size 16");
  expect_bad(with([](GgufBuilder& b) { b.u32("llama.rope.dimension_count", 17); }),
             "found 17, expected 1 to the head size 16");
  expect_bad(with([](GgufBuilder& b) { b.u32("llama.attention.key_length", 0); }), "attention.key_length");
  expect_bad(with([](GgufBuilder& b) { b.u32("tokenizer.ggml.bos_token_id", 4); }),
             "tokenizer.ggml.bos_token_id: found 4, expected 0 to 3");
}

// Layers of different sizes: the whole way is tested in export/export_gguf_test.cpp.
TEST_F(ImportLlama, RefusesLayersThatItDoesNotKnow) {
  const auto with_lists = [](std::map<std::string, std::vector<std::int32_t>> lists) {
    return LlamaFile{.blocks = 2, .architecture = "deci", .lists = std::move(lists)};
  };
  expect_bad(with_lists({{"feed_forward_length", {32, 0}}}),
             "deci.feed_forward_length: found 0 in layer 1, expected 1 or more");
  expect_bad(with_lists({{"attention.head_count", {0, 2}}, {"attention.head_count_kv", {0, 1}}}),
             "deci.attention.head_count: found 0 in layer 0, expected 1 or more");
  expect_bad(with_lists({{"attention.head_count_kv", {1, -1}}}),
             "deci.attention.head_count_kv: found -1 in layer 1");
  expect_bad(with_lists({{"feed_forward_length", {32, 32, 32}}}),
             "deci.feed_forward_length: found 3 numbers, expected one for each of the 2 layers");
  expect_bad(with_lists({{"feed_forward_length", {}}}),
             "deci.feed_forward_length: found 0, expected 1 to 2^31");
  expect_bad(with_lists({{"attention.head_count", {2, 1}}}),
             "found 1 attention heads in layer 1, expected 2 for each of its 1 key heads");
  expect_bad(with_lists({{"attention.head_count", {4, 2}}, {"attention.head_count_kv", {2, 1}}}),
             "deci.attention.key_length is missing");
  expect_bad({.blocks = 2, .lists = {{"feed_forward_length", {32, 16}}}},
             "llama.feed_forward_length: found 16 in layer 1 and 32 in another, expected one number for all");
}

TEST_F(ImportLlama, LayersOfOneSizeMakeAnOrdinaryFolder) {
  const std::map<std::string, std::vector<std::int32_t>> equal = {{"feed_forward_length", {32, 32}}};
  import_file({.blocks = 2, .architecture = "deci", .lists = equal});
  const json config = read_json(out() / "config.json");
  EXPECT_EQ(config.at("model_type"), "llama");
  EXPECT_EQ(config.at("intermediate_size"), 32);
  EXPECT_FALSE(config.contains("swiftprune_layer_sizes"));
}

TEST_F(ImportLlama, ListsOfOneNumberALayer) {
  const std::map<std::string, std::vector<std::int32_t>> equal = {{"feed_forward_length", {32, 32}},
                                                                  {"attention.head_count_kv", {1, 1}}};
  import_file({.blocks = 2, .lists = equal});
  EXPECT_EQ(read_json(out() / "config.json").at("intermediate_size"), 32);
  expect_bad({.blocks = 2, .lists = {{"feed_forward_length", {32, 32, 32}}}},
             "llama.feed_forward_length: found 3 numbers, expected one for each of the 2 layers");
}

TEST_F(ImportLlama, TokensOfTypeZeroAreOrdinary) {
  import_file(with([](GgufBuilder& b) {
    std::string types;
    for (const std::int32_t type : {1, 0, 1, 3}) types += raw(type);
    b.array("tokenizer.ggml.token_type", test::kI32, 4, types);
  }));
  EXPECT_TRUE(fs::exists(out() / "tokenizer.json"));
}

TEST_F(ImportLlama, RopeFactorsWithoutAType) {
  const auto factor = [](float value) {
    return LlamaFile{.extra = [value](GgufBuilder& b) { b.f32("llama.rope.scaling.factor", value); }};
  };
  import_file(factor(4.0f));
  EXPECT_EQ(read_json(out() / "config.json").at("rope_scaling"),
            json({{"rope_type", "linear"}, {"factor", 4.0}}));
  for (const float none : {0.0f, 1.0f}) {
    import_file(factor(none));
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
  import_file(file("yarn", 1.0f));
  EXPECT_FALSE(read_json(out() / "config.json").at("rope_scaling").contains("attention_factor"));
  import_file(file("yarn", 2.0f));
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
    import_file(u32(key, 0));
    fs::remove_all(out());
  }
  const auto causal = [](bool value) {
    return LlamaFile{.extra = [=](GgufBuilder& b) { b.flag("llama.attention.causal", value); }};
  };
  import_file(causal(true));
  fs::remove_all(out());
  expect_bad(causal(false), "llama.attention.causal: found 0, which swiftprune does not read");
  expect_bad(u32("llama.expert_count", 8), "llama.expert_used_count is missing");  // Mixtral, then
  import_file(u32("llama.expert_count", 0));
  fs::remove_all(out());
  expect_bad(with([](GgufBuilder& b) { b.f32("llama.attention.scale", 0.5f); }), "llama.attention.scale");
  expect_bad(with([](GgufBuilder& b) { b.text("llama.pooling", "mean"); }), "llama.pooling: found \"mean\"");
  expect_bad(u32("llama.attention.value_length", 8), "llama.attention.value_length: found 8, expected");
  import_file(with([](GgufBuilder& b) {
    b.text("llama.tensor_data_layout", "Meta AI original pth").u32("llama.vocab_size", 4);
    b.u32("other.expert_count", 8);
  }));
}

TEST_F(ImportLlama, RefusesUnknownRope) {
  const auto scaling = [](const char* type) {
    return LlamaFile{.extra = [type](GgufBuilder& b) { b.text("llama.rope.scaling.type", type); }};
  };
  expect_bad(scaling("magic"), "llama.rope.scaling.type: found \"magic\", expected none, linear or yarn");
  expect_bad(scaling("linear"), "llama.rope.scaling.factor is missing");
  import_file(scaling("none"));
  EXPECT_TRUE(read_json(out() / "config.json").at("rope_scaling").is_null());
  fs::remove_all(out());
  expect_bad(
      with([](GgufBuilder& b) { b.f32("llama.rope.scaling.factor", 4.0f).floats("rope_freqs.weight", {8}); }),
      "llama.rope.scaling: found a rope scaling beside the tensor rope_freqs.weight");
  expect_bad(with([](GgufBuilder& b) { b.floats("rope_freqs.weight", {8}); }),
             "tensor rope_freqs.weight: found 0 at 0, expected 1; this rope scaling is not Llama 3's");
  expect_bad(with([](GgufBuilder& b) { b.floats("rope_freqs.weight", {5}); }), "found 5 values, expected 8");
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
  import_file(bias(65519.0f));
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
  import_file(damaged(20, 0, "\x77\x33"));
  expect_bad(damaged(20, 0, "\xff\x7f"),
             "tensor blk.0.attn_output.weight: found nan, expected finite values");
  expect_bad(damaged(2, 0, std::string_view("\0\x7c", 2)), "found -inf, expected finite values");
  expect_bad(damaged(39, 0, "\xff"), "tensor blk.0.attn_output.weight: found inf, expected finite values");
}

TEST_F(ImportLlama, OutputFolderMustBeNew) {
  import_file({});
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
