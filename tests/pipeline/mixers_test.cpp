// Models with something else than attention in some blocks, and files that hold their linears transposed: what a run
// leaves alone, and what it refuses.
#include <cmath>
#include <cstring>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/expect_error.h"
#include "support/forwards.h"
#include "support/random_windows.h"
#include "support/temp_dir.h"
#include "swiftprune/checkpoint/mapped_file.h"
#include "swiftprune/checkpoint/safetensors.h"
#include "swiftprune/cuda/capabilities.h"
#include "swiftprune/pipeline/capabilities.h"
#include "swiftprune/pipeline/checkpoint_output.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/pipeline/drivers/shrink.h"
#include "swiftprune/pipeline/method.h"
#include "swiftprune/sparse/packed_checkpoint.h"
#include "swiftprune/structure/shrink_shape.h"

namespace swiftprune {
namespace {

using test::kModels;
using test::TempDir;

// By the recommended method, half of each row; the model of `folder`.
std::unique_ptr<Model> pruned(const std::string& name, const std::filesystem::path& folder) {
  const auto model = Model::open(kModels / name);
  const auto backend = make_cpu_backend();
  const Method& method = method_by_name("wanda");
  const PlanDefaults defaults{parse_pattern("row"), 0.5, method.score, method.refine};
  CheckpointWriter writer(folder, plan_like(model->checkpoint()));
  CheckpointOutput output(model->checkpoint(), writer);
  prune(*model, *backend, uniform_plan(*model, defaults, {}), test::random_windows(*model), {}, output);
  output.copy_rest();
  writer.copy_other_files(model->checkpoint());
  writer.finish();
  return Model::open(folder);
}

std::set<std::string> linears_in(const ModelConfig& model) {
  std::set<std::string> names;
  for (const BlockConfig& block : model.blocks) {
    for (const LinearTensors& linear : linears_of(block)) names.insert(linear.name + ".weight");
  }
  return names;
}

TEST(Mixers, ConvolutionsRecurrencesAndOtherPartsStayBitForBit) {
  for (const char* name : {"lfm2", "qwen3_5", "qwen3_5_with_vision", "granite4_mamba", "nemotron_h",
                           "falcon_h1", "gemma4", "gemma4_small", "gemma4_with_vision"}) {
    const TempDir dir;
    const auto small = pruned(name, dir.path() / "out");
    const Checkpoint dense = Checkpoint::open(kModels / name);
    const std::set<std::string> linears = linears_in(small->config());
    std::set<std::string> kept;
    for (const TensorInfo& tensor : dense.tensors()) {
      const TensorInfo& found = small->checkpoint().at(tensor.name);
      const bool same = std::ranges::equal(dense.bytes(tensor), small->checkpoint().bytes(found));
      EXPECT_EQ(same, !linears.contains(tensor.name)) << name << " " << tensor.name;
      if (same) kept.insert(tensor.name.substr(tensor.name.rfind('.', tensor.name.rfind('.') - 1) + 1));
    }
    if (name == std::string("lfm2")) {
      EXPECT_THAT(kept, ::testing::Contains("conv.weight"));
    }
    if (name == std::string("qwen3_5")) {
      EXPECT_THAT(kept,
                  ::testing::IsSupersetOf({"conv1d.weight", "linear_attn.A_log", "linear_attn.dt_bias"}));
      EXPECT_NE(dense.find("mtp.fc.weight"), nullptr) << "the fixture has heads for further tokens";
    }
  }
}

// Attention's and the mixer's of Falcon-H1 stand side by side in what is observed.
TEST(Mixers, EachOfTwoOutputProjectionsIsPrunedByItsOwnInputs) {
  const TempDir dir;
  const auto small = pruned("falcon_h1", dir.path() / "out");
  const auto dense = Model::open(kModels / "falcon_h1");
  const auto backend = make_reference_backend();
  const TokenWindows windows = test::random_windows(*dense);
  std::vector<double> energy;
  const InputObserver observer = [&](LinearInput input, ConstMatrixView x) {
    if (input != LinearInput::kAttentionOutput) return;
    energy.assign(static_cast<std::size_t>(x.cols), 0.0);
    for (std::int64_t t = 0; t < x.rows; ++t) {
      for (std::int64_t i = 0; i < x.cols; ++i)
        energy[static_cast<std::size_t>(i)] += double{x.at(t, i)} * double{x.at(t, i)};
    }
  };
  DecoderBlock block = dense->load_block(0);
  block.pack(*backend, ComputeType::kF32);
  Matrix hidden = dense->embed_windows(windows, 0, windows.num_windows());
  BlockForwardOptions options;
  options.sequence_length = windows.seqlen;
  options.observer = &observer;
  block.forward(*backend, dense->rope_tables(windows.seqlen), hidden.view(), options);
  int projections = 0;
  const DecoderBlock changed = small->load_block(0);
  for (std::size_t l = 0; l < block.linears().size(); ++l) {
    const LinearTensors& linear = block.linears()[l].tensors;
    if (linear.input != LinearInput::kAttentionOutput) continue;
    ++projections;
    for (std::int64_t o = 0; o < linear.outputs; ++o) {
      double largest_gone = 0.0, least_kept = 1e30;
      for (std::int64_t i = 0; i < linear.inputs; ++i) {
        const double score = std::abs(double{block.linears()[l].weight.at(o, i)}) *
                             std::sqrt(energy[static_cast<std::size_t>(linear.first_input + i)]);
        double& bound = changed.linears()[l].weight.at(o, i) == 0.0f ? largest_gone : least_kept;
        bound = &bound == &largest_gone ? std::max(bound, score) : std::min(bound, score);
      }
      EXPECT_LE(largest_gone, least_kept * (1.0 + 1e-5)) << linear.name << " row " << o;
    }
  }
  EXPECT_EQ(projections, 2);
}

TEST(Mixers, HeadsAreNoUnits) {
  const ModelConfig model = Model::open(kModels / "qwen3_5")->config();
  test::expect_error(ErrorKind::kUsage,
                     [&] { check_request(model, {.ratio = 0.2, .units = {UnitKind::kHeads}}); },
                     {"--units: heads cannot be removed", "recurrent mixer", "possible: mlp, layers"});
  // What is left of the blocks is counted with each block's own mixer.
  double weights = 0.0;
  for (const BlockConfig& block : model.blocks) {
    for (const LinearTensors& linear : linears_of(block))
      weights += static_cast<double>(linear.outputs * linear.inputs);
  }
  EXPECT_EQ(static_cast<double>(block_parameters(model, shape_of(model))), weights);
}

TEST(Mixers, LayersOfOnePartAreNotShrunk) {
  const auto model = Model::open(kModels / "nemotron_h");
  for (const UnitKind kind : {UnitKind::kMlp, UnitKind::kHeads, UnitKind::kLayers}) {
    test::expect_error(ErrorKind::kUsage,
                       [&] { check_request(model->config(), {.ratio = 0.2, .units = {kind}}); },
                       {"cannot be removed", "a mixer or an MLP alone", "possible: none"});
  }
  test::expect_error(ErrorKind::kUsage, [&] { check_shrinkable(*model); }, {"nemotron_h", "alone"});
  // Where MLPs have two widths and layers read others' keys, nothing else is left.
  const auto bound = Model::open(kModels / "gemma4_small");
  test::expect_error(ErrorKind::kUsage, [&] { check_shrinkable(*bound); }, {"gemma4", "different widths"});
  test::expect_error(ErrorKind::kUsage,
                     [&] { check_request(bound->config(), {.ratio = 0.2, .units = {UnitKind::kLayers}}); },
                     {"layers cannot be removed", "hang together", "possible: none"});
}

TEST(Mixers, WhatTokensAddIsNotLeftOut) {
  for (const char* size : {"0", "null"}) {
    const test::TempDir dir;
    std::filesystem::copy(kModels / "gemma4_small", dir.path() / "m");
    nlohmann::json config = nlohmann::json::parse(test::read_text(dir.path() / "m/config.json"));
    config["hidden_size_per_layer_input"] = nlohmann::json::parse(size);
    test::write_text(dir.path() / "m/config.json", config.dump());
    test::expect_error(ErrorKind::kBadInput, [&] { Model::open(dir.path() / "m"); },
                       {"embed_tokens_per_layer.weight", "hidden_size_per_layer_input"});
  }
}

TEST(Mixers, AGpuHasThem) {
  for (const char* name : {"lfm2", "qwen3_5", "granite4_mamba", "bloom", "falcon_h1", "gemma4",
                           "gemma4_small", "nemotron_h", "gpt2", "apertus"})
    check_model(Model::open(kModels / name)->config(), cuda::capabilities());
}

// The header and data of one tensor as the file has them.
std::pair<std::vector<std::int64_t>, std::vector<std::byte>> stored(const std::filesystem::path& folder,
                                                                    const std::string& name) {
  const MappedFile file(folder / "model.safetensors");
  const SafetensorsHeader header = parse_safetensors(file.bytes(), "file");
  for (const TensorInfo& tensor : header.tensors) {
    if (tensor.name != name) continue;
    const auto bytes = file.bytes().subspan(header.data_begin + tensor.begin, tensor.end - tensor.begin);
    return {tensor.shape, {bytes.begin(), bytes.end()}};
  }
  ADD_FAILURE() << name;
  return {};
}

TEST(Mixers, TransposedLinearsAreWrittenAsTheyWereRead) {
  const TempDir dir;
  const std::string name = "transformer.h.1.mlp.c_fc.weight";
  const auto small = pruned("gpt2", dir.path() / "out");
  const auto [shape, bytes] = stored(dir.path() / "out", name);
  const auto [dense_shape, dense_bytes] = stored(kModels / "gpt2", name);
  EXPECT_EQ(shape, dense_shape);
  EXPECT_EQ(shape, (std::vector<std::int64_t>{24, 40}));
  const auto half = [](const std::vector<std::byte>& of, std::int64_t element) {
    std::uint16_t value = 0;
    std::memcpy(&value, of.data() + 2 * element, 2);
    return value;
  };
  // Half of each output's inputs, down the columns of the file.
  for (std::int64_t o = 0; o < 40; ++o) {
    std::int64_t zeros = 0;
    for (std::int64_t i = 0; i < 24; ++i) {
      const std::uint16_t value = half(bytes, i * 40 + o);
      zeros += value == 0 ? 1 : 0;
      EXPECT_TRUE(value == 0 || value == half(dense_bytes, i * 40 + o));
    }
    EXPECT_EQ(zeros, 12) << o;
  }
  // Through a packed folder and back.
  const std::set<std::string> linears = linears_in(small->config());
  pack_checkpoint(small->checkpoint(), std::vector<std::string>(linears.begin(), linears.end()),
                  dir.path() / "packed", {});
  const auto packed = Checkpoint::open(dir.path() / "packed");
  ASSERT_TRUE(has_packed_tensors(packed));
  unpack_checkpoint(packed, dir.path() / "again", {});
  EXPECT_EQ(stored(dir.path() / "again", name), std::pair(shape, bytes));
}

}  // namespace
}  // namespace swiftprune
