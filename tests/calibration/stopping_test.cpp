// The rule on the tiny models: text that repeats itself stops early, changing text late, and the numbers are
// those of the definition, computed here in double from all activations.
#include "swiftprune/calibration/stopping.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "model/family_fixture.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kLength = 32;

std::unique_ptr<Model> tiny() { return Model::open(test::kModels / "llama2"); }

// Window w holds tokens drawn from [0, vocabulary_of(w)).
TokenWindows draw(const Model& model, std::int64_t windows, bool same, std::int64_t seqlen = kLength) {
  std::mt19937 random(1);
  TokenWindows result{seqlen, {}};
  for (std::int64_t w = 0; w < windows; ++w) {
    if (same) random.seed(1);
    for (std::int64_t t = 0; t < seqlen; ++t)
      result.ids.push_back(
          static_cast<std::int32_t>(random() % static_cast<unsigned>(model.config().vocab_size)));
  }
  return result;
}

StableWindows until_stable(const Model& model, const Backend& backend, const TokenWindows& windows,
                           double tolerance) {
  const auto energies = make_cpu_input_energies(model, backend, windows, ComputeType::kF32);
  return windows_until_stable(model, *energies, windows, tolerance, {});
}

// segments[s][input]: the energies Σ_t x_tj² of segment s, for each linear input of each block.
using Energies = std::vector<std::vector<std::vector<double>>>;
Energies energies_of(const Model& model, const Backend& backend, const TokenWindows& windows) {
  const std::int64_t count = windows.num_windows();
  const std::int64_t per_window = (windows.seqlen + kStoppingSegment - 1) / kStoppingSegment;
  Energies energies(static_cast<std::size_t>(count * per_window));
  const auto ropes = model.rope_tables(windows.seqlen);
  Matrix hidden = model.embed_windows(windows, 0, count);
  for (std::int64_t layer = 0; layer < model.config().num_layers(); ++layer) {
    DecoderBlock block = model.load_block(layer);
    block.pack(backend, ComputeType::kF32);
    const InputObserver observer = [&](LinearInput, ConstMatrixView x) {
      for (std::int64_t s = 0; s < count * per_window; ++s)
        energies[static_cast<std::size_t>(s)].emplace_back(x.cols);
      for (std::int64_t row = 0; row < x.rows; ++row) {
        const std::int64_t segment =
            row / windows.seqlen * per_window + row % windows.seqlen / kStoppingSegment;
        for (std::int64_t j = 0; j < x.cols; ++j)
          energies[static_cast<std::size_t>(segment)].back()[static_cast<std::size_t>(j)] +=
              double{x.at(row, j)} * double{x.at(row, j)};
      }
    };
    BlockForwardOptions options;
    options.sequence_length = windows.seqlen;
    options.observer = &observer;
    block.forward(backend, ropes, hidden.view(), options);
  }
  return energies;
}

// The definition of windows_until_stable() word by word: c behind each window.
std::vector<double> changes_by_definition(const Energies& energies, std::int64_t segments_per_window) {
  std::vector<double> changes;
  double c = 0.0;
  const std::size_t inputs = energies[0].size();
  std::vector<std::vector<double>> sums(inputs), before(inputs);
  for (std::size_t t = 0; t < energies.size(); ++t) {
    double mean = 0.0;
    for (std::size_t i = 0; i < inputs; ++i) {
      std::vector<double>& sum = sums[i];
      sum.resize(energies[t][i].size());
      for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += energies[t][i][j];
      const double total = std::accumulate(sum.begin(), sum.end(), 0.0);
      std::vector<double> p(sum.size());
      for (std::size_t j = 0; j < p.size(); ++j) p[j] = sum[j] / total;
      for (std::size_t j = 0; t > 0 && j < p.size(); ++j)
        mean += 0.5 * std::abs(p[j] - before[i][j]) / static_cast<double>(inputs);
      before[i] = p;
    }
    if (t == 1) c = mean;
    if (t > 1) c = 0.75 * c + 0.25 * mean;
    if ((t + 1) % static_cast<std::size_t>(segments_per_window) == 0) changes.push_back(c);
  }
  return changes;
}

class StoppingDefinition : public ::testing::TestWithParam<std::pair<std::string, std::int64_t>> {
 protected:
  void SetUp() override { set_num_threads(1); }  // tiny products: threads would only wait for each other
  void TearDown() override { set_num_threads(0); }
};

TEST_P(StoppingDefinition, GivesTheNumbers) {
  const auto& [name, seqlen] = GetParam();
  const auto model = Model::open(test::kModels / name);
  const auto backend = make_cpu_backend();
  const TokenWindows windows = draw(*model, 5, false, seqlen);
  const StableWindows found = until_stable(*model, *backend, windows, 0.0);
  const std::int64_t per_window = (seqlen + kStoppingSegment - 1) / kStoppingSegment;
  const std::vector<double> expected =
      changes_by_definition(energies_of(*model, *backend, windows), per_window);
  ASSERT_EQ(found.changes.size(), expected.size());
  for (std::size_t w = 0; w < expected.size(); ++w)
    EXPECT_NEAR(found.changes[w], expected[w], 1e-4 * expected[w]) << w;
  EXPECT_GT(expected.back(), 0.0);
  // And the first window below a tolerance is the last.
  const double tolerance = 1.0001 * std::max(expected[2], expected[3]);
  const auto first = std::find_if(expected.begin() + (per_window == 1 ? 1 : 0), expected.end(),
                                  [&](double c) { return c < tolerance; });
  const StableWindows stopped = until_stable(*model, *backend, windows, tolerance);
  EXPECT_EQ(stopped.windows, first - expected.begin() + 1);
  EXPECT_TRUE(stopped.stable);
}

// One segment a window, and two of different length; families whose inputs differ.
INSTANTIATE_TEST_SUITE_P(Models, StoppingDefinition,
                         ::testing::Values(std::pair("llama2", std::int64_t{32}),
                                           std::pair("pythia", std::int64_t{32}),
                                           std::pair("llama2", kStoppingSegment + 44)),
                         [](const auto& p) { return p.param.first + "_" + std::to_string(p.param.second); });

TEST(Stopping, RepeatedTextIsEnoughAfterTwoWindows) {
  set_num_threads(1);
  const auto model = tiny();
  const auto backend = make_cpu_backend();
  const StableWindows found = until_stable(*model, *backend, draw(*model, 8, true), 1e-3);
  EXPECT_TRUE(found.stable);
  EXPECT_EQ(found.windows, 2);
  set_num_threads(0);
}

TEST(Stopping, ChangesFallWithTheTextAndATighterToleranceReadsMore) {
  set_num_threads(1);
  const auto model = tiny();
  const auto backend = make_cpu_backend();
  const TokenWindows windows = draw(*model, 16, false);
  const StableWindows all = until_stable(*model, *backend, windows, 0.0);
  EXPECT_FALSE(all.stable);
  EXPECT_EQ(all.windows, 16);
  ASSERT_EQ(all.changes.size(), 16u);
  EXPECT_LT(all.changes[15], 0.5 * all.changes[1]);
  std::int64_t before = 0;
  for (const std::size_t window : {std::size_t{3}, std::size_t{9}}) {
    const double tolerance = all.changes[window] * 1.0000001;
    const StableWindows found = until_stable(*model, *backend, windows, tolerance);
    EXPECT_TRUE(found.stable);
    EXPECT_LE(found.windows, static_cast<std::int64_t>(window) + 1);
    EXPECT_LT(found.changes.back(), tolerance);
    EXPECT_GE(found.windows, before);
    before = found.windows;
    for (std::size_t i = 0; i < found.changes.size(); ++i) EXPECT_EQ(found.changes[i], all.changes[i]);
  }
  set_num_threads(0);
}

}  // namespace
}  // namespace swiftprune
