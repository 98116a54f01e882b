#include "swiftprune/sparse/packed_checkpoint.h"
#include "swiftprune/checkpoint/config_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "sparse/grid_model.h"
#include "sparse/weights.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/checkpoint_writer.h"
#include "swiftprune/model/generator.h"
#include "swiftprune/model/model.h"
#include "swiftprune/sparse/packed_header.h"

namespace swiftprune {
namespace {

namespace fs = std::filesystem;
using test::expect_error;
using test::read_text;
using test::TempDir;

constexpr std::int64_t kHidden = 64, kInner = 96, kVocab = 80;

nlohmann::json tiny_config() {
  return {{"model_type", "llama"},          {"architectures", {"LlamaForCausalLM"}},
          {"vocab_size", kVocab},           {"hidden_size", kHidden},
          {"intermediate_size", kInner},    {"num_hidden_layers", 2},
          {"num_attention_heads", 4},       {"num_key_value_heads", 2},
          {"max_position_embeddings", 128}, {"rms_norm_eps", 1e-5},
          {"hidden_act", "silu"},           {"tie_word_embeddings", true},
          {"rope_theta", 10000.0},          {"torch_dtype", "bfloat16"}};
}

// A two-block LLaMA whose linears are half zeros (the first block's 2:4), in two shards.
std::vector<std::string> write_tiny_model(const fs::path& folder, DType dtype) {
  std::vector<PlannedTensor> plan = {
      {"model.embed_tokens.weight", dtype, {kVocab, kHidden}, "model-00001-of-00002.safetensors"},
      {"model.norm.weight", dtype, {kHidden}, "model-00002-of-00002.safetensors"}};
  std::vector<std::string> linears;
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    const std::string file = fmt::format("model-0000{}-of-00002.safetensors", layer + 1);
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) {
      plan.push_back({prefix + norm + ".weight", dtype, {kHidden}, file});
    }
    const std::pair<const char*, std::pair<std::int64_t, std::int64_t>> kLinears[] = {
        {"self_attn.q_proj", {kHidden, kHidden}},     {"self_attn.k_proj", {kHidden / 2, kHidden}},
        {"self_attn.v_proj", {kHidden / 2, kHidden}}, {"self_attn.o_proj", {kHidden, kHidden}},
        {"mlp.gate_proj", {kInner, kHidden}},         {"mlp.up_proj", {kInner, kHidden}},
        {"mlp.down_proj", {kHidden, kInner}}};
    for (const auto& [name, shape] : kLinears) {
      plan.push_back({prefix + name + ".weight", dtype, {shape.first, shape.second}, file});
      linears.push_back(plan.back().name);
    }
  }
  CheckpointWriter writer(folder, plan);
  std::uint32_t seed = 0;
  for (const PlannedTensor& tensor : plan) {
    const std::int64_t cols = tensor.shape.back();
    const std::int64_t rows = tensor.shape.size() == 2 ? tensor.shape[0] : 1;
    const bool linear = std::find(linears.begin(), linears.end(), tensor.name) != linears.end();
    if (dtype == DType::kF32) {
      writer.write(tensor.name, std::vector<float>(static_cast<std::size_t>(rows * cols), 0.5f));
      continue;
    }
    testing_sparse::TestWeight weight =
        linear && tensor.name.find("layers.0.") != std::string::npos
            ? testing_sparse::random_nm_weight(rows, cols, dtype, 2, 4, 0.0)
            : testing_sparse::random_weight(rows, cols, dtype, linear ? 0.5 : 0.0, ++seed);
    if (!linear) {
      for (auto& bits : weight.bits) {  // norms and embeddings of ordinary size
        const float value = 20.0f * (dtype == DType::kBF16 ? bf16_to_f32(bits) : f16_to_f32(bits));
        bits = testing_sparse::to_bits(value, dtype);
      }
    }
    writer.write_bytes(tensor.name, std::as_bytes(std::span(weight.bits)));
  }
  writer.write_file("config.json", tiny_config().dump(2));
  writer.write_file("tokenizer.json", "{\"not\": \"read here\"}\n");
  writer.write_file("LICENSE", "a licence\n");
  writer.finish();
  return linears;
}

// Prefill, then eight greedy tokens one at a time; all logits.
struct Trace {
  std::vector<float> logits;
  std::vector<std::int32_t> tokens;
};
Trace generate(const fs::path& folder, ComputeType compute) {
  const auto model = Model::open(folder);
  const auto backend = make_cpu_backend();
  Generator generator(*model, *backend, compute, 1, 64);
  std::vector<std::int32_t> ids(20);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * 7 % kVocab);
  Trace trace;
  for (int step = 0; step < 8; ++step) {
    const std::span<const float> logits = generator.append(ids).row_span(0);
    trace.logits.insert(trace.logits.end(), logits.begin(), logits.end());
    const auto best = std::max_element(logits.begin(), logits.end());
    ids = {static_cast<std::int32_t>(best - logits.begin())};
    trace.tokens.push_back(ids[0]);
  }
  return trace;
}

TEST(PackedCheckpoint, RoundTripIsBitEqual) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const TempDir dir;
    const std::vector<std::string> linears = write_tiny_model(dir.path() / "dense", dtype);
    const Checkpoint dense = Checkpoint::open(dir.path() / "dense");
    const PackReport report = pack_checkpoint(dense, linears, dir.path() / "packed", {});
    EXPECT_EQ(report.linears.size(), 14u);
    EXPECT_EQ(report.linears[0].format, (PackFormat{PackedKind::kNm16, 2, 4}));
    EXPECT_EQ(report.linears[7].format, (PackFormat{PackedKind::kBitmap16}));
    const Checkpoint packed = Checkpoint::open(dir.path() / "packed");
    EXPECT_TRUE(has_packed_tensors(packed));
    EXPECT_FALSE(has_packed_tensors(dense));
    for (const std::string& name : linears) {
      EXPECT_EQ(packed.find(name), nullptr);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(packed.bytes(packed.at(name + kPackedSuffix)).data()) % 64,
                0u);
      EXPECT_EQ(packed.at(name + kPackedSuffix).file, dense.at(name).file);
    }
    unpack_checkpoint(packed, dir.path() / "back", {});
    const Checkpoint back = Checkpoint::open(dir.path() / "back");
    ASSERT_EQ(back.tensors().size(), dense.tensors().size());
    for (const TensorInfo& tensor : dense.tensors()) {
      const TensorInfo& other = back.at(tensor.name);
      EXPECT_EQ(other.dtype, tensor.dtype);
      EXPECT_EQ(other.shape, tensor.shape);
      EXPECT_EQ(other.file, tensor.file);
      EXPECT_TRUE(std::ranges::equal(back.bytes(other), dense.bytes(tensor))) << tensor.name;
    }
    for (const char* file : {"tokenizer.json", "LICENSE"}) {
      EXPECT_EQ(read_text(dir.path() / "back" / file), read_text(dir.path() / "dense" / file));
    }
    // Other programs refuse the packed folder's type; read here, and unpacked, it is the model's own.
    const auto config_of = [&](const char* folder) {
      return nlohmann::json::parse(read_text(dir.path() / folder / "config.json"));
    };
    EXPECT_EQ(config_of("packed").at("model_type"), kPackedType);
    EXPECT_EQ(config_of("packed").at(kPackedModelType), dense.config().at("model_type"));
    EXPECT_EQ(packed.config(), dense.config());
    EXPECT_EQ(config_of("back"), config_of("dense"));
    EXPECT_FALSE(fs::exists(dir.path() / "back" / kPackedRecordFile));
    EXPECT_TRUE(fs::exists(dir.path() / "packed" / kPackedRecordFile));
  }
}

// The model with its linears on a grid, as a solver writes it; -> the values that they stand for.
std::map<std::string, Matrix> write_grid_model(const fs::path& dense, const fs::path& folder,
                                               int table_bits) {
  const Checkpoint source = Checkpoint::open(dense);
  const std::string table = "model.embed_tokens.weight";
  std::vector<std::string> linears;
  for (const TensorInfo& tensor : source.tensors()) {
    if (tensor.shape.size() == 2 && tensor.name != table) linears.push_back(tensor.name);
  }
  return testing_sparse::write_grid_model(source, linears, {4, 32, true}, table, table_bits, folder);
}

// Unpacked, grids are the F32 tensors that they stand for, and config.json says so; readers of the dense folder
// compute what readers of the packed one do.
TEST(PackedCheckpoint, GridsUnpackExactly) {
  const TempDir dir;
  write_tiny_model(dir.path() / "dense", DType::kBF16);
  for (const int table_bits : {0, 8, 4}) {
    const fs::path packed = dir.path() / fmt::format("packed{}", table_bits);
    const fs::path back = dir.path() / fmt::format("back{}", table_bits);
    const std::map<std::string, Matrix> values = write_grid_model(dir.path() / "dense", packed, table_bits);
    EXPECT_EQ(values.size(), table_bits == 0 ? 14u : 15u);
    unpack_checkpoint(Checkpoint::open(packed), back, {});
    const Checkpoint dense = Checkpoint::open(back);
    for (const auto& [name, expected] : values) {
      EXPECT_EQ(dense.at(name).dtype, DType::kF32);
      EXPECT_FALSE(find_packed_shape(dense, name));
      const auto shape = find_packed_shape(Checkpoint::open(packed), name);
      ASSERT_TRUE(shape);
      EXPECT_EQ(shape->rows, expected.rows());
      const Matrix found = dense.load_matrix(name, expected.rows(), expected.cols());
      EXPECT_TRUE(std::ranges::equal(found.values(), expected.values())) << name;
    }
    EXPECT_EQ(dense.at("model.norm.weight").dtype, DType::kBF16);
    EXPECT_EQ(dense.config().at("torch_dtype"), "float32");
    EXPECT_EQ(dense.config().at("vocab_size"), kVocab);
    const Trace a = generate(packed, ComputeType::kF32);
    const Trace b = generate(back, ComputeType::kF32);
    float largest = 0.0f;
    for (const float v : b.logits) largest = std::max(largest, std::abs(v));
    ASSERT_GT(largest, 0.1f);
    for (std::size_t i = 0; i < static_cast<std::size_t>(kVocab); ++i) {
      ASSERT_NEAR(a.logits[i], b.logits[i], 1e-3f * largest) << i;
    }
  }
}

TEST(PackedCheckpoint, GridsAreNotPackedAgain) {
  const TempDir dir;
  const auto linears = write_tiny_model(dir.path() / "dense", DType::kBF16);
  write_grid_model(dir.path() / "dense", dir.path() / "packed", 0);
  const Checkpoint packed = Checkpoint::open(dir.path() / "packed");
  expect_error(
      ErrorKind::kBadInput, [&] { pack_checkpoint(packed, linears, dir.path() / "again", {}); },
      "packed already");
  EXPECT_FALSE(fs::exists(dir.path() / "again"));
}

// The table's look-ups and the head's product use the same codes; nothing else of the model changes.
TEST(PackedCheckpoint, EmbeddingsInFewBits) {
  const TempDir dir;
  const auto linears = write_tiny_model(dir.path() / "dense", DType::kBF16);
  const Checkpoint dense = Checkpoint::open(dir.path() / "dense");
  const std::string table = "model.embed_tokens.weight";
  const Matrix original = dense.load_matrix(table, kVocab, kHidden);
  const Trace a = generate(dir.path() / "dense", ComputeType::kF32);
  float largest = 0.0f;
  for (const float v : a.logits) largest = std::max(largest, std::abs(v));
  for (const auto& [bits, error] : {std::pair{8, 0.05f}, {4, 0.4f}}) {
    const fs::path folder = dir.path() / fmt::format("int{}", bits);
    PackOptions options;
    options.table_bits = bits;
    options.tables = {table};
    const PackReport report = pack_checkpoint(dense, linears, folder, options);
    ASSERT_EQ(report.tables.size(), 1u);
    const auto packed_model = Model::open(folder);
    const Checkpoint& packed = packed_model->checkpoint();
    EXPECT_EQ(packed.find(table), nullptr);
    std::int64_t bytes = 0;
    for (const TensorInfo& tensor : packed.tensors()) bytes += tensor.num_bytes();
    EXPECT_EQ(bytes, report.target_bytes);
    // Nearest codes: half a step off at most, of the row's or the group's range.
    const Matrix stored = unpack_f32(*find_packed(packed, table, kVocab, kHidden));
    for (std::int64_t row = 0; row < kVocab; ++row) {
      const std::int64_t width = bits == 8 ? kHidden : 32;
      for (std::int64_t first = 0; first < kHidden; first += width) {
        float low = 0.0f, high = 0.0f;
        for (std::int64_t c = first; c < first + width; ++c) {
          low = std::min(low, original.at(row, c));
          high = std::max(high, original.at(row, c));
        }
        const float step = bits == 8 ? std::max(high, -low) / 127.0f : (high - low) / 15.0f;
        for (std::int64_t c = first; c < first + width; ++c) {
          // f16 scales are a little wider; the ends of an asymmetric range move with its rounded zero point.
          ASSERT_NEAR(stored.at(row, c), original.at(row, c), (bits == 8 ? 0.51f : 1.02f) * step);
        }
      }
    }
    const std::int32_t ids[] = {0, 17, static_cast<std::int32_t>(kVocab - 1)};
    Matrix hidden(3, kHidden);
    packed_model->embed(ids, 3, 0, hidden.view());
    for (std::int64_t n = 0; n < 3; ++n) {
      for (std::int64_t c = 0; c < kHidden; ++c) ASSERT_EQ(hidden.at(n, c), stored.at(ids[n], c));
    }
    const Trace b = generate(folder, ComputeType::kF32);
    for (std::size_t i = 0; i < static_cast<std::size_t>(kVocab); ++i) {
      ASSERT_NEAR(a.logits[i], b.logits[i], error * largest) << bits << " " << i;
    }
    const nlohmann::json record = nlohmann::json::parse(read_text(folder / kPackedRecordFile));
    EXPECT_EQ(record.at("quantize_embeddings"), fmt::format("int{}", bits));
    EXPECT_EQ(record.at("packed_tensors"), 15);
  }
}

TEST(PackedCheckpoint, EmbeddingsThatFewBitsCannotHold) {
  const Matrix table = Matrix::zeros(3, 40);
  const QuantizedWeight zeros = quantize_table(table.view(), 8, "t");
  EXPECT_EQ(num_nonzero(zeros), 0);
  Matrix bad = Matrix::zeros(3, 40);
  bad.at(1, 7) = NAN;
  expect_error(
      ErrorKind::kBadInput, [&] { quantize_table(bad.view(), 4, "t"); }, "finite");
  bad.at(1, 7) = 1e9f;
  expect_error(
      ErrorKind::kBadInput, [&] { quantize_table(bad.view(), 8, "t"); }, "too large for f16");
}

TEST(PackedCheckpoint, PackedModelGivesTheDenseModelsText) {
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const TempDir dir;
    const auto linears = write_tiny_model(dir.path() / "dense", dtype);
    const Checkpoint dense = Checkpoint::open(dir.path() / "dense");
    pack_checkpoint(dense, linears, dir.path() / "packed", {});
    for (const Quantize quantize : {Quantize::kInt8, Quantize::kFp8}) {
      PackOptions options;
      options.quantize = quantize;
      pack_checkpoint(dense, linears, dir.path() / name_of(quantize), options);
    }
    for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBF16}) {
      const Trace a = generate(dir.path() / "dense", compute);
      const Trace b = generate(dir.path() / "packed", compute);
      EXPECT_EQ(a.tokens, b.tokens);
      ASSERT_EQ(a.logits.size(), b.logits.size());
      float largest = 0.0f;
      for (const float v : a.logits) largest = std::max(largest, std::abs(v));
      ASSERT_GT(largest, 0.1f);
      const float tolerance = compute == ComputeType::kF32 ? 1e-5f : 1e-2f;
      for (std::size_t i = 0; i < a.logits.size(); ++i) {
        ASSERT_NEAR(a.logits[i], b.logits[i], tolerance * largest) << i;
      }
      for (const auto& [quantized, error] : {std::pair{"int8", 0.1f}, {"fp8", 0.15f}}) {
        const Trace c = generate(dir.path() / quantized, compute);
        for (std::size_t i = 0; i < static_cast<std::size_t>(kVocab);
             ++i) {  // the same prompt: close, not equal
          ASSERT_NEAR(a.logits[i], c.logits[i], error * largest) << quantized << " " << i;
        }
      }
    }
  }
}

// A tuner that finds every packed linear slow: the model is run dense, with the same text.
TEST(PackedCheckpoint, TunedModelGivesTheSameText) {
  const TempDir dir;
  const auto linears = write_tiny_model(dir.path() / "dense", DType::kBF16);
  pack_checkpoint(Checkpoint::open(dir.path() / "dense"), linears, dir.path() / "packed", {});
  const auto model = Model::open(dir.path() / "packed");
  const auto backend = make_cpu_backend();
  int asked = 0;
  Autotuner tuner({});
  tuner.set_stopwatch([&](const PackedTensor&, std::int64_t tokens, ComputeType) {
    EXPECT_EQ(tokens, 1);
    ++asked;
    return TuneResult{2.0, 1.0};
  });
  Generator tuned(*model, *backend, ComputeType::kF32, 1, 16, &tuner);
  Generator plain(*model, *backend, ComputeType::kF32, 1, 16);
  EXPECT_GT(asked, 0);
  const std::vector<std::int32_t> ids = {1, 2, 3};
  const ConstMatrixView a = tuned.append(ids);
  const ConstMatrixView b = plain.append(ids);
  for (std::int64_t i = 0; i < kVocab; ++i) EXPECT_NEAR(a.at(0, i), b.at(0, i), 1e-4f);
}

TEST(PackedCheckpoint, WhatCannotBePacked) {
  const TempDir dir;
  const auto linears = write_tiny_model(dir.path() / "dense", DType::kBF16);
  const Checkpoint dense = Checkpoint::open(dir.path() / "dense");
  pack_checkpoint(dense, linears, dir.path() / "packed", {});
  const Checkpoint packed = Checkpoint::open(dir.path() / "packed");
  expect_error(
      ErrorKind::kBadInput, [&] { pack_checkpoint(packed, linears, dir.path() / "x", {}); },
      "packed already");
  expect_error(
      ErrorKind::kBadInput, [&] { unpack_checkpoint(dense, dir.path() / "x", {}); }, "not packed");
  const std::string norm = "model.norm.weight";
  expect_error(
      ErrorKind::kBadInput,
      [&] {
        pack_checkpoint(dense, {&norm, 1}, dir.path() / "x", {});
      },
      "rank 1");
  expect_error(
      ErrorKind::kBadInput, [&] { find_packed(packed, linears[0], 64, 65); }, "expected [64, 65]");
  EXPECT_FALSE(find_packed(packed, norm, 1, 1));
  const auto float_linears = write_tiny_model(dir.path() / "f32", DType::kF32);
  expect_error(
      ErrorKind::kBadInput,
      [&] { pack_checkpoint(Checkpoint::open(dir.path() / "f32"), float_linears, dir.path() / "x", {}); },
      "no BF16 or F16");
  EXPECT_FALSE(fs::exists(dir.path() / "x"));
}

TEST(PackedCheckpoint, DamageIsNamed) {
  const TempDir dir;
  const auto linears = write_tiny_model(dir.path() / "dense", DType::kBF16);
  pack_checkpoint(Checkpoint::open(dir.path() / "dense"), linears, dir.path() / "packed", {});
  const fs::path file = dir.path() / "packed" / "model-00001-of-00002.safetensors";
  std::string content = read_text(file);
  const std::size_t blob = content.find("SWPK");
  ASSERT_NE(blob, std::string::npos);
  content[blob + 200] = static_cast<char>(content[blob + 200] ^ 0x10);
  test::write_text(file, content);
  const auto model = Model::open(dir.path() / "packed");
  expect_error(ErrorKind::kBadInput, [&] { model->load_block(0); },
               {"model-00001-of-00002", "checksum mismatch"});
  expect_error(
      ErrorKind::kBadInput,
      [&] { unpack_checkpoint(Checkpoint::open(dir.path() / "packed"), dir.path() / "x", {}); },
      "checksum mismatch");
}

}  // namespace
}  // namespace swiftprune
