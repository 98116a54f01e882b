// The rows' effects against a direct change of the model, and their budgets against the definition.
#include "swiftprune/pipeline/choices/row_budgets.h"

#include <cmath>
#include <numeric>
#include <random>

#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

std::vector<float> random_values(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

std::vector<std::int64_t> budgets_of(const Matrix& weight, std::span<const double> energy,
                                     std::span<const float> effects, double sparsity) {
  const PruneTarget target = row_threshold_target(sparsity);
  return row_budgets(row_threshold_counts(weight.view(), energy, effects, target), weight.cols(),
                     total_prune_count(target, weight.rows(), weight.cols()));
}

TEST(RowBudgets, KeepTheTotalAndFollowTheEffects) {
  for (const std::int64_t rows : {1, 7, 32}) {
    for (const std::int64_t cols : {1, 16, 65}) {
      Matrix weight(rows, cols);
      const auto values = random_values(static_cast<std::size_t>(rows * cols), 3);
      std::copy(values.begin(), values.end(), weight.data());
      const std::vector<double> energy(static_cast<std::size_t>(cols), 2.0);
      std::vector<float> effects(static_cast<std::size_t>(rows), 1.0f);
      effects.back() = 8.0f;
      for (const double sparsity : {0.0, 0.3, 0.5, 0.9}) {
        const auto counts = budgets_of(weight, energy, effects, sparsity);
        EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}),
                  std::llround(static_cast<double>(rows * cols) * sparsity));
        for (const std::int64_t count : counts) {
          EXPECT_GE(count, 0);
          EXPECT_LE(count, cols);
        }
        if (rows > 1 && cols > 1 && sparsity == 0.5) {
          EXPECT_LT(counts.back(), counts.front());
        }
      }
    }
  }
}

TEST(RowBudgets, EqualRowsShareEqually) {
  Matrix weight(4, 8);
  for (std::int64_t r = 0; r < 4; ++r) {
    for (std::int64_t c = 0; c < 8; ++c) weight.at(r, c) = static_cast<float>(c + 1);
  }
  const std::vector<double> energy(8, 1.0);
  for (const std::int64_t count : budgets_of(weight, energy, std::vector<float>(4, 1.0f), 0.5)) {
    EXPECT_EQ(count, 4);
  }
}

// Every linear of every family gets one finite, positive effect a row.
TEST(RowEffects, CoverEveryRowOfEveryFamily) {
  set_num_threads(1);
  for (const std::string& name : test::model_names()) {
    SCOPED_TRACE(name);
    const auto model = Model::open(test::kModels / name);
    const auto backend = make_cpu_backend();
    const RowEffects effects(*model);
    for (std::int64_t layer = 0; layer < model->config().num_layers(); ++layer) {
      const DecoderBlock block = model->load_block(layer);
      for (int i = 0; i < kNumLinearInputs; ++i) {
        const auto input = static_cast<LinearInput>(i);
        std::vector<const BlockLinear*> readers;
        for (const BlockLinear& linear : block.linears()) {
          if (linear.tensors.input == input) readers.push_back(&linear);
        }
        if (readers.empty()) continue;  // a layer that is a mixer or an MLP alone
        const std::int64_t inputs = readers.front()->weight.cols();
        ActivationStats stats(inputs, StatNeeds{.energy = true, .gram = true, .sample = true});
        Matrix x(8, inputs);
        const auto values = random_values(static_cast<std::size_t>(x.numel()), 5);
        std::copy(values.begin(), values.end(), x.data());
        stats.add_window(*backend, x.view());
        stats.finish(name);
        const auto found = effects.of(*backend, block, layer, input, stats.view());
        ASSERT_EQ(found.size(), readers.size());
        for (std::size_t r = 0; r < readers.size(); ++r) {
          ASSERT_EQ(static_cast<std::int64_t>(found[r].size()), readers[r]->weight.rows());
          for (const float effect : found[r]) {
            EXPECT_TRUE(std::isfinite(effect));
            EXPECT_GT(effect, 0.0f);
          }
        }
      }
    }
  }
  set_num_threads(0);
}

// A row of the gate or up projection times (1 + h) moves the MLP's output by h·r, to first order.
TEST(RowEffects, OfTheMlpAreTheChangesOfItsOutput) {
  const auto model = Model::open(test::kModels / "llama3");
  const auto backend = make_reference_backend();
  const RowEffects effects(*model);
  DecoderBlock block = model->load_block(0);
  const std::size_t gate = model->config().blocks[0].qkv.size() + 1;
  const std::int64_t inputs = block.linears()[gate].weight.cols();
  ActivationStats stats(inputs, StatNeeds{.energy = true, .sample = true});
  Matrix x(64, inputs);
  const auto values = random_values(static_cast<std::size_t>(x.numel()), 7);
  std::copy(values.begin(), values.end(), x.data());
  stats.add_window(*backend, x.view());
  const auto found = effects.of(*backend, block, 0, LinearInput::kMlp, stats.view());
  const auto output = [&] {
    block.pack(*backend, ComputeType::kF32);
    return block.project(*backend, LinearInput::kMlpOutput, block.mlp(*backend, x.view()).view());
  };
  const Matrix before = output();
  constexpr float kShift = 1e-2f;
  for (std::size_t linear = 0; linear < 2; ++linear) {
    for (const std::int64_t row : {0, 5}) {
      // A constant added to the row's output: the effect is the size of the change for a unit of it.
      BlockLinear& changed = block.linears()[gate + linear];
      std::vector<float> bias = changed.bias;
      changed.bias.assign(static_cast<std::size_t>(changed.weight.rows()), 0.0f);
      changed.bias[static_cast<std::size_t>(row)] = kShift;
      const Matrix after = output();
      changed.bias = bias;
      double change = 0.0;
      for (std::int64_t t = 0; t < before.rows(); ++t) {
        for (std::int64_t c = 0; c < before.cols(); ++c)
          change += std::pow(double{after.at(t, c)} - double{before.at(t, c)}, 2);
      }
      const double effect = double{found[linear][static_cast<std::size_t>(row)]};
      EXPECT_NEAR(std::sqrt(change / static_cast<double>(before.rows())) / double{kShift}, effect,
                  0.02 * effect);
    }
  }
}

}  // namespace
}  // namespace swiftprune
