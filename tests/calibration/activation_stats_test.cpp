// Statistics over windows that ranks share out: the very bits of one process, on every rank.
#include "swiftprune/calibration/activation_stats.h"

#include <cstring>

#include <gtest/gtest.h>

#include "support/random_matrix.h"
#include "support/thread_ranks.h"

namespace swiftprune {
namespace {

using testing::random_matrix;

constexpr std::int64_t kWindows = 7, kTokens = 20, kResidual = 300;

struct Text {
  std::vector<Matrix> x, dense, residual, dense_residual;
  std::vector<float> weights;
};

Text random_text(std::int64_t inputs) {
  Text text;
  for (unsigned w = 0; w < kWindows; ++w) {
    text.x.push_back(random_matrix(kTokens, inputs, 10 * w));
    text.dense.push_back(random_matrix(kTokens, inputs, 10 * w + 1));
    text.residual.push_back(random_matrix(kTokens, kResidual, 10 * w + 2));
    text.dense_residual.push_back(random_matrix(kTokens, kResidual, 10 * w + 3));
  }
  for (std::int64_t t = 0; t < kTokens; ++t) text.weights.push_back(0.5f + 0.1f * static_cast<float>(t));
  return text;
}

struct Case {
  StatNeeds needs;
  bool aligned = false;
  ComputeType compute = ComputeType::kF32;
};

// Windows [first, first + count).
void add(ActivationStats& stats, const Backend& backend, const Text& text, const Case& of, Share share) {
  for (std::int64_t i = share.first; i < share.first + share.count; ++i) {
    const auto w = static_cast<std::size_t>(i);
    if (!of.aligned) {
      stats.add_window(backend, std::as_const(text.x[w]).view());
      continue;
    }
    stats.add_window(backend, AlignedWindow{.x = std::as_const(text.x[w]).view(),
                                            .dense_x = std::as_const(text.dense[w]).view(),
                                            .residual = std::as_const(text.residual[w]).view(),
                                            .dense_residual = std::as_const(text.dense_residual[w]).view(),
                                            .weights = text.weights});
  }
}

template <class T>
bool same(std::span<const T> a, std::span<const T> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

bool same(const Matrix* a, const Matrix* b) {
  if (a == nullptr || b == nullptr) return a == b;
  return a->rows() == b->rows() && a->cols() == b->cols() && same(a->values(), b->values());
}

void expect_same(const LayerStats& a, const LayerStats& b) {
  EXPECT_EQ(a.num_tokens, b.num_tokens);
  EXPECT_TRUE(same(a.energy, b.energy));
  EXPECT_TRUE(same(a.ewma_energy, b.ewma_energy));
  EXPECT_TRUE(same(a.sum, b.sum));
  EXPECT_TRUE(same(a.gram, b.gram));
  EXPECT_TRUE(same(a.sample, b.sample));
  EXPECT_TRUE(same(a.cross, b.cross));
  EXPECT_TRUE(same(a.residual, b.residual));
}

TEST(ActivationStats, RanksFindTheBitsOfOneProcess) {
  const std::vector<Case> cases = {
      {{.energy = true}},
      {{.energy = true, .ewma_energy = true, .sum = true, .sample = true}},
      {{.energy = true, .gram = true}, false, ComputeType::kBF16},
      {{.energy = true, .gram = true, .alignment = true}, true},
      {{.energy = true, .ewma_energy = true, .gram = true, .alignment = true}, true, ComputeType::kBF16}};
  for (const std::int64_t inputs : {24, 600}) {  // within a tile, and several
    const Text text = random_text(inputs);
    for (const Case& of : cases) {
      const auto backend = make_cpu_backend();
      const std::int64_t residual = of.aligned ? kResidual : 0;
      ActivationStats whole(inputs, of.needs, residual, of.compute);
      add(whole, *backend, text, of, {0, kWindows});
      whole.finish("one process");
      for (const int size : {2, 3, 4, 9}) {  // of nine some have no window
        test::ThreadRanks(size).run([&](Communicator& ranks) {
          ActivationStats stats(inputs, of.needs, residual, of.compute, true);
          add(stats, *backend, text, of, share_of(kWindows, ranks.rank(), size));
          stats.combine(*backend, ranks);
          stats.finish("ranks");
          expect_same(stats.view(), whole.view());
        });
      }
    }
  }
}

TEST(ActivationStats, PlainLoopsAddRowsAsTheyAddAll) {
  const auto backend = make_reference_backend();
  const Case of{{.energy = true, .gram = true, .alignment = true}, true};
  const Text text = random_text(30);
  ActivationStats whole(30, of.needs, kResidual);
  add(whole, *backend, text, of, {0, kWindows});
  test::ThreadRanks(2).run([&](Communicator& ranks) {
    ActivationStats stats(30, of.needs, kResidual, ComputeType::kF32, true);
    add(stats, *backend, text, of, share_of(kWindows, ranks.rank(), 2));
    stats.combine(*backend, ranks);
    expect_same(stats.view(), whole.view());
  });
}

}  // namespace
}  // namespace swiftprune
