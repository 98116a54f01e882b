// The dense stream beside the pruned one, and whole models pruned with it: over every tiny model.
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "support/collected_output.h"
#include "swiftprune/core/parallel.h"
#include "swiftprune/pipeline/drivers/prune.h"
#include "swiftprune/pipeline/streams/cpu_stream_ops.h"
#include "swiftprune/pipeline/streams/two_streams.h"

namespace swiftprune {
namespace {

using test::Expected;
using test::kModels;
using test::max_difference;
using test::model_names;

using Weights = std::map<std::string, std::vector<float>>;

Weights weights_of(const test::Collected& output) {
  Weights weights;
  for (const auto& [name, bytes] : output.tensors) weights[name] = output.values(name);
  return weights;
}

const Backend& backend() {
  static const auto cpu = make_cpu_backend();
  return *cpu;
}

void set_weights(DecoderBlock& block, const Weights& weights) {
  for (BlockLinear& linear : block.linears()) {
    const auto it = weights.find(linear.tensors.name + ".weight");
    if (it != weights.end()) std::copy(it->second.begin(), it->second.end(), linear.weight.data());
  }
}

Matrix embed(const Model& model, const TokenWindows& windows) {
  Matrix hidden(windows.num_windows() * windows.seqlen, model.config().row_size());
  model.embed(windows.ids, windows.seqlen, 0, hidden.view());
  return hidden;
}

// The hidden states behind the last block, with these weights instead of the checkpoint's.
Matrix final_hidden(const Model& model, const TokenWindows& windows, const Weights& weights) {
  Matrix hidden = embed(model, windows);
  const auto ropes = model.rope_tables(windows.seqlen);
  BlockForwardOptions options;
  options.sequence_length = windows.seqlen;
  for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer) {
    DecoderBlock block = model.load_block(layer);
    set_weights(block, weights);
    block.pack(backend(), ComputeType::kF32);
    block.forward(backend(), ropes, hidden.view(), options);
  }
  return hidden;
}

// Changes of weights between the steps, as pruning makes them.
void halve(DecoderBlock& block, LinearInput input) {
  for (BlockLinear& linear : block.linears()) {
    if (linear.tensors.input != input) continue;
    for (std::int64_t r = 0; r < linear.weight.rows(); ++r) {
      for (std::int64_t c = r % 2; c < linear.weight.cols(); c += 2) linear.weight.at(r, c) = 0.0f;
    }
  }
  block.pack(backend(), ComputeType::kF32, input);
}

TEST(TwoStreams, EachIsItsModelsForward) {
  for (const std::string& name : model_names()) {
    SCOPED_TRACE(name);
    const auto model = Model::open(kModels / name);
    const TokenWindows windows = Expected(name).windows();
    CpuStreamOps ops(*model, backend(), windows);
    TwoStreams<CpuStreamOps> streams(ops);
    Weights halved;
    for (std::int64_t layer = 0; layer < model->config().num_layers(); ++layer) {
      DecoderBlock dense = model->load_block(layer);
      DecoderBlock pruned = model->load_block(layer);
      dense.pack(backend(), ComputeType::kF32);
      streams.start_block(dense, pruned);
      for (int i = 0; i < kNumLinearInputs; ++i) {
        streams.collect(static_cast<LinearInput>(i), nullptr);
        halve(pruned, static_cast<LinearInput>(i));
      }
      streams.finish_block();
      for (const BlockLinear& linear : pruned.linears()) {
        halved[linear.tensors.name + ".weight"].assign(linear.weight.values().begin(),
                                                       linear.weight.values().end());
      }
    }
    EXPECT_EQ(max_difference(streams.dense_hidden().view(), final_hidden(*model, windows, {}).view()), 0.0);
    EXPECT_EQ(max_difference(streams.hidden().view(), final_hidden(*model, windows, halved).view()), 0.0);
    EXPECT_GT(max_difference(streams.hidden().view(), streams.dense_hidden().view()), 1e-3);
  }
}

// Σ τ a_t b_tᵀ in double.
double moment(ConstMatrixView a, std::int64_t i, ConstMatrixView b, std::int64_t j,
              const std::vector<double>& weights) {
  double sum = 0.0;
  for (std::int64_t t = 0; t < a.rows; ++t) {
    sum += weights[static_cast<std::size_t>(t)] * double{a.at(t, i)} * double{b.at(t, j)};
  }
  return sum;
}

TEST(ActivationStats, WeightedMomentsOfBothStreams) {
  constexpr std::int64_t kTokens = 9, kInputs = 5, kHidden = 3;
  const auto fill = [](std::int64_t rows, std::int64_t cols, int seed) {
    Matrix m(rows, cols);
    int k = seed;
    for (float& value : m.values()) value = static_cast<float>((k = (k * 37 + 11) % 101) - 50) / 25.0f;
    return m;
  };
  const Matrix x = fill(kTokens, kInputs, 1), dense = fill(kTokens, kInputs, 2);
  const Matrix r = fill(kTokens, kHidden, 3), dense_r = fill(kTokens, kHidden, 4);
  std::vector<float> weights;
  for (std::int64_t t = 0; t < kTokens; ++t) weights.push_back(0.25f * static_cast<float>(t));
  ActivationStats stats(kInputs, {.energy = true, .gram = true, .alignment = true}, kHidden);
  for (const auto& [first, count] : {std::pair<std::int64_t, std::int64_t>{0, 4}, {4, 5}}) {
    stats.add_window(backend(), {x.view().row_block(first, count), dense.view().row_block(first, count),
                                 r.view().row_block(first, count), dense_r.view().row_block(first, count),
                                 std::span(weights).subspan(static_cast<std::size_t>(first),
                                                            static_cast<std::size_t>(count))});
  }
  stats.finish("x");
  const LayerStats found = stats.view();
  const std::vector<double> tau(weights.begin(), weights.end());
  EXPECT_EQ(found.num_tokens, kTokens);
  ASSERT_NE(found.cross, nullptr);
  ASSERT_NE(found.residual, nullptr);
  for (std::int64_t j = 0; j < kInputs; ++j) {
    for (std::int64_t i = 0; i < kInputs; ++i) {
      EXPECT_NEAR(found.gram->at(i, j), moment(x.view(), i, x.view(), j, tau), 1e-4);
      EXPECT_NEAR(found.cross->at(i, j), moment(dense.view(), i, x.view(), j, tau), 1e-4);
    }
    for (std::int64_t h = 0; h < kHidden; ++h) {
      EXPECT_NEAR(found.residual->at(h, j),
                  moment(dense_r.view(), h, x.view(), j, tau) - moment(r.view(), h, x.view(), j, tau), 1e-4);
    }
  }
}

Weights pruned_weights(const Model& model, const TokenWindows& windows, const std::string& refine,
                       const std::string& pattern, Propagation propagation = Propagation::kPruned) {
  PlanDefaults defaults;
  defaults.pattern = parse_pattern(pattern);
  defaults.sparsity = 0.5;
  defaults.score = parse_score("wanda");
  defaults.refine = parse_refine(refine);
  PruneOptions options;
  options.propagation = propagation;
  test::Collected output(model.checkpoint());
  prune(model, backend(), uniform_plan(model, defaults, {}), windows, options, output);
  return weights_of(output);
}

TEST(AlignedPrune, PatternHoldsAndThreadsDoNotMatter) {
  for (const std::string& name : model_names()) {
    const auto model = Model::open(kModels / name);
    const TokenWindows windows = Expected(name).windows();
    for (const char* pattern : {"row", "1:2"}) {
      SCOPED_TRACE(name + " " + pattern);
      set_num_threads(1);
      const Weights one = pruned_weights(*model, windows, "aligned-admm(6)", pattern);
      set_num_threads(2);
      const Weights two = pruned_weights(*model, windows, "aligned-admm(6)", pattern);
      set_num_threads(0);
      EXPECT_EQ(one, two);
      for (std::int64_t layer = 0; layer < model->config().num_layers(); ++layer) {
        const DecoderBlock block = model->load_block(layer);
        for (const BlockLinear& linear : block.linears()) {
          const auto it = one.find(linear.tensors.name + ".weight");
          ASSERT_NE(it, one.end());
          const std::int64_t span = std::string_view(pattern) == "row" ? linear.tensors.inputs : 2;
          for (std::size_t first = 0; first < it->second.size(); first += static_cast<std::size_t>(span)) {
            const auto begin = it->second.begin() + static_cast<std::ptrdiff_t>(first);
            EXPECT_GE(std::count(begin, begin + span, 0.0f), span / 2);
            EXPECT_TRUE(std::all_of(begin, begin + span, [](float v) { return std::isfinite(v); }));
          }
        }
      }
    }
  }
}

// Mean over the tokens of |h - h_dense|² / |h_dense|².
double output_change(const Model& model, const TokenWindows& windows, const Weights& weights) {
  const Matrix dense = final_hidden(model, windows, {});
  const Matrix pruned = final_hidden(model, windows, weights);
  double sum = 0.0;
  for (std::int64_t t = 0; t < dense.rows(); ++t) {
    double change = 0.0, size = 0.0;
    for (std::int64_t k = 0; k < dense.cols(); ++k) {
      change += std::pow(double{pruned.at(t, k)} - double{dense.at(t, k)}, 2);
      size += std::pow(double{dense.at(t, k)}, 2);
    }
    sum += change / size;
  }
  return sum / static_cast<double>(dense.rows());
}

// On the calibration text, over all families and both patterns: the geometric mean of the ratios.
TEST(AlignedPrune, ComesNearerToTheDenseModelThanAdmm) {
  set_num_threads(1);  // tiny products: threads would only wait for each other
  double log_ratio = 0.0;
  int count = 0;
  for (const std::string& name : model_names()) {
    const auto model = Model::open(kModels / name);
    const TokenWindows windows = Expected(name).windows();
    for (const char* pattern : {"row", "1:2"}) {
      const double plain = output_change(*model, windows, pruned_weights(*model, windows, "admm", pattern));
      const double aligned =
          output_change(*model, windows, pruned_weights(*model, windows, "aligned-admm", pattern));
      log_ratio += std::log(aligned / plain);
      EXPECT_LT(aligned, 1.1 * plain) << name << " " << pattern;
      ++count;
    }
  }
  set_num_threads(0);
  EXPECT_LT(std::exp(log_ratio / count), 0.97);
}

// Without the effect of the pruned blocks there is nothing to align to: admm up to the scale of the rows.
TEST(AlignedPrune, DensePropagationIsPlain) {
  const auto model = Model::open(kModels / "llama3");
  const TokenWindows windows = Expected("llama3").windows();
  const Weights plain = pruned_weights(*model, windows, "admm", "1:2", Propagation::kDense);
  const Weights aligned = pruned_weights(*model, windows, "aligned-admm", "1:2", Propagation::kDense);
  for (const auto& [name, values] : plain) {
    const std::vector<float>& other = aligned.at(name);
    std::size_t same = 0;
    for (std::size_t i = 0; i < values.size(); ++i) same += (values[i] == 0.0f) == (other[i] == 0.0f) ? 1 : 0;
    EXPECT_GT(same, values.size() * 99 / 100) << name;
  }
}

}  // namespace
}  // namespace swiftprune
