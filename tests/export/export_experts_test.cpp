// Experts in GGUF files.
#include <optional>

#include <gtest/gtest.h>

#include "checkpoint/gguf_fixture.h"
#include "support/expect_error.h"
#include "support/random_windows.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/checkpoint/gguf.h"
#include "swiftprune/checkpoint/import_gguf.h"
#include "swiftprune/export/export_gguf.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::expect_error;
using test::gguf_fixture;
using test::read_json;
using test::TempDir;

class ExportExperts : public ::testing::Test {
 protected:
  // The fixture's model, its config.json changed.
  fs::path folder_of(const std::string& name, const json& changes = json::object(),
                     std::optional<DType> dtype = std::nullopt) {
    fs::remove_all(folder());
    import_gguf(gguf_fixture(name + ".gguf"), folder(), {.dtype = dtype});
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
  const GgufFile expected = GgufFile::open(gguf_fixture("gpt_oss_mxfp4.gguf"));
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

}  // namespace
}  // namespace swiftprune
