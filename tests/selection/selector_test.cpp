// Every exact selector on every instruction set against a stable sort written out here.
#include "swiftprune/selection/selector.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/isas.h"
#include "support/random_matrix.h"
#include "support/spec_text.h"
#include "swiftprune/core/error.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

using ::testing::HasSubstr;
using testing::random_matrix;

struct Engine {
  const char* name;
  Isa isa;
};

std::vector<Engine> engines() {
  std::vector<Engine> all{{"sort", Isa::kBaseline}};
  for (Isa isa : testing::available_isas()) {
    all.push_back({"ewma-window", isa});
    all.push_back({"radix", isa});
  }
  return all;
}

class ExactSelectorTest : public ::testing::TestWithParam<Engine> {
 protected:
  std::unique_ptr<Selector> selector_ = make_selector(GetParam().name, {.isa = GetParam().isa});
};

// The definition: stable ascending sort, the lowest go. `keys` of the whole matrix, row by row.
void prune_lowest(const std::vector<float>& keys, const std::vector<std::int64_t>& places, std::int64_t count,
                  Mask& mask) {
  std::vector<std::int64_t> order = places;
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return keys[static_cast<std::size_t>(a)] < keys[static_cast<std::size_t>(b)];
  });
  for (std::int64_t k = 0; k < count; ++k) {
    const std::int64_t place = order[static_cast<std::size_t>(k)];
    mask.prune(place / mask.cols(), place % mask.cols());
  }
}

std::vector<std::int64_t> range(std::int64_t first, std::int64_t count) {
  std::vector<std::int64_t> places(static_cast<std::size_t>(count));
  std::iota(places.begin(), places.end(), first);
  return places;
}

Mask expected_mask(const ScoreView& scores, const PruneTarget& target) {
  const std::int64_t rows = scores.values.rows;
  const std::int64_t cols = scores.values.cols;
  const Pattern& pattern = target.pattern;
  Mask mask(rows, cols);
  std::vector<float> keys;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      mask.keep(r, c);
      keys.push_back(score_key(scores, r, c));
    }
  }
  if (pattern.kind == Pattern::Kind::kLayer) {
    prune_lowest(keys, range(0, rows * cols), total_prune_count(target, rows, cols), mask);
    return mask;
  }
  const auto counts = row_prune_counts(target, rows, cols);
  for (std::int64_t r = 0; r < rows; ++r) {
    if (pattern.kind == Pattern::Kind::kRow) {
      prune_lowest(keys, range(r * cols, cols), counts[static_cast<std::size_t>(r)], mask);
    } else {
      for (std::int64_t c = 0; c < cols; c += pattern.m) {
        prune_lowest(keys, range(r * cols + c, pattern.m), pattern.m - pattern.n, mask);
      }
    }
  }
  return mask;
}

// Rows of different scale; many equal values, zeros and denormals when `tied`.
Matrix make_weights(std::int64_t rows, std::int64_t cols, unsigned seed, bool tied) {
  Matrix w = random_matrix(rows, cols, seed);
  std::mt19937 generator(seed);
  for (std::int64_t r = 0; r < rows; ++r) {
    const float scale = 0.01f * static_cast<float>(1 + generator() % 100);
    for (std::int64_t c = 0; c < cols; ++c) {
      float& value = w.at(r, c);
      value *= scale;
      if (tied) value = std::round(value * 4.0f) / 4.0f;
      if (tied && generator() % 10 == 0) value = generator() % 2 == 0 ? 1e-44f : -3e-42f;
    }
    if (tied && r % 5 == 3) std::fill_n(w.row(r), cols, r % 2 == 0 ? 0.0f : 0.25f);  // all-equal rows
  }
  return w;
}

std::vector<float> factors(std::int64_t n, unsigned seed) {
  std::vector<float> column(static_cast<std::size_t>(n));
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  for (float& factor : column) factor = generator() % 9 == 0 ? 0.0f : std::exp(normal(generator));
  return column;
}

std::vector<std::byte> converted(const Matrix& w, DType dtype) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(w.numel() * size_of(dtype)));
  convert_from_f32(w.values(), dtype, bytes);
  return bytes;
}

const std::pair<std::int64_t, std::int64_t> kShapes[] = {
    {1, 1},   {3, 2},   {5, 7},    {6, 8},    {40, 15}, {33, 16}, {20, 17},  {35, 64},
    {70, 65}, {9, 257}, {300, 96}, {5, 3000}, {0, 4},   {4, 0},   {140, 480}};

const std::pair<double, PruneTarget::Rounding> kAmounts[] = {{0.0, PruneTarget::Rounding::kFloor},
                                                             {0.3, PruneTarget::Rounding::kExactTotal},
                                                             {0.5, PruneTarget::Rounding::kFloor},
                                                             {0.9, PruneTarget::Rounding::kExactTotal}};

TEST_P(ExactSelectorTest, RowsAndLayersEqualTheStableSort) {
  set_num_threads(1);  // thousands of tiny matrices
  for (const auto& [rows, cols] : kShapes) {
    for (bool tied : {false, true}) {
      const Matrix w = make_weights(rows, cols, static_cast<unsigned>(rows * 1000 + cols), tied);
      const auto column = factors(cols, 7);
      const auto slope = factors(cols, 8);
      const auto row = factors(rows, 9);
      for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        const auto bytes = converted(w, dtype);
        const WeightView weight{bytes.data(), dtype, rows, cols, cols};
        const ScoreView views[] = {
            {weight, {}, {}, {}, 1}, {weight, column, {}, {}, 2}, {weight, column, row, slope, 1}};
        for (const ScoreView& view : views) {
          if (dtype != DType::kF32 && view.column.empty()) continue;
          for (const auto& [sparsity, rounding] : kAmounts) {
            for (const char* pattern : {"row", "layer"}) {
              const PruneTarget target{
                  .pattern = parse_pattern(pattern), .sparsity = sparsity, .rounding = rounding};
              ASSERT_EQ(selector_->select(view, target).mask, expected_mask(view, target))
                  << rows << "x" << cols << " tied " << tied << " " << name_of(dtype) << " " << pattern << " "
                  << sparsity;
            }
          }
        }
      }
    }
  }
  set_num_threads(0);
}

TEST_P(ExactSelectorTest, EveryNofMEqualsTheStableSort) {
  for (std::int64_t m = 2; m <= kMaxGroup; ++m) {
    for (std::int64_t n = 1; n < m; n += m < 9 ? 1 : 3) {
      const Matrix w = make_weights(11, m * 5, static_cast<unsigned>(m), m % 2 == 0);
      const auto column = factors(w.cols(), 3);
      const ScoreView view{weight_view(w.view()), column, {}, {}, 1};
      const PruneTarget target{.pattern = {.kind = Pattern::Kind::kNofM, .n = n, .m = m}};
      const Selection selection = selector_->select(view, target);
      ASSERT_EQ(selection.mask, expected_mask(view, target)) << n << ":" << m;
      ASSERT_DOUBLE_EQ(selection.report.sparsity, target_sparsity(target));
    }
  }
}

TEST_P(ExactSelectorTest, GivenRowCountsAreExact) {
  const Matrix w = make_weights(50, 130, 5, true);
  std::vector<std::int64_t> counts(50);
  for (std::size_t r = 0; r < counts.size(); ++r) counts[r] = static_cast<std::int64_t>(r * 130 / 49);
  const ScoreView view = plain_scores(w.view());
  const PruneTarget target{.row_counts = counts};
  const Mask mask = selector_->select(view, target).mask;
  EXPECT_EQ(mask, expected_mask(view, target));
  for (std::int64_t r = 0; r < 50; ++r)
    EXPECT_EQ(mask.num_kept(r), 130 - counts[static_cast<std::size_t>(r)]);
}

TEST_P(ExactSelectorTest, StridedRows) {
  const auto strided = testing::random_strided(30, 70, 4);
  const ScoreView view = plain_scores(strided.view);
  const PruneTarget target{.sparsity = 0.5};
  EXPECT_EQ(selector_->select(view, target).mask, expected_mask(view, target));
}

TEST_P(ExactSelectorTest, BlocksAreKeptByTheirSummedScores) {
  Matrix w = random_matrix(8, 12, 3, 0.01f);
  for (std::int64_t r = 4; r < 6; ++r) w.at(r, 8) = 5.0f;  // tile (2, 2) of 2x4
  w.at(0, 3) = -4.0f;                                      // tile (0, 0)
  const PruneTarget target{.pattern = parse_pattern("block:2x4"), .sparsity = 10.0 / 12.0};
  const Mask mask = selector_->select(plain_scores(w.view()), target).mask;
  for (std::int64_t r = 0; r < 8; ++r) {
    for (std::int64_t c = 0; c < 12; ++c) {
      EXPECT_EQ(mask.kept(r, c), (r / 2 == 2 && c / 4 == 2) || (r / 2 == 0 && c / 4 == 0)) << r << " " << c;
    }
  }
  // One large weight against many of middling size: their squares order the other way round than their sizes.
  Matrix v = Matrix::zeros(1, 8);
  v.at(0, 0) = 3.0f;
  for (std::int64_t c = 4; c < 8; ++c) v.at(0, c) = 1.0f;
  const PruneTarget half{.pattern = parse_pattern("block:1x4"), .sparsity = 0.5};
  EXPECT_TRUE(selector_->select(plain_scores(v.view(), 1), half).mask.kept(0, 4));
  EXPECT_TRUE(selector_->select(plain_scores(v.view(), 2), half).mask.kept(0, 0));
  // Equal tiles: the lower one goes.
  const Matrix equal = [] {
    Matrix m(4, 4);
    std::fill(m.values().begin(), m.values().end(), 1.0f);
    return m;
  }();
  const Mask ties =
      selector_->select(plain_scores(equal.view()), {.pattern = parse_pattern("block:2x2"), .sparsity = 0.5})
          .mask;
  EXPECT_FALSE(ties.kept(1, 3));
  EXPECT_TRUE(ties.kept(2, 0));
}

TEST_P(ExactSelectorTest, PruneZeroesExactlyWhatTheMaskSays) {
  const Matrix w = make_weights(45, 96, 12, true);
  Scores scores;
  scores.column = factors(96, 1);
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const char* pattern : {"row", "layer", "2:4", "3:8", "block:3x8"}) {
      const auto dense = converted(w, dtype);
      auto pruned = dense;
      const PruneTarget target{.pattern = parse_pattern(pattern), .sparsity = 0.6};
      const WeightView before{dense.data(), dtype, 45, 96, 96};
      const Selection selection = selector_->prune({pruned.data(), dtype, 45, 96, 96}, scores, target);
      EXPECT_EQ(selection.mask, selector_->select(scores.view(before), target).mask);
      const auto size = static_cast<std::size_t>(size_of(dtype));
      for (std::int64_t i = 0; i < w.numel(); ++i) {
        const auto* p = pruned.data() + static_cast<std::size_t>(i) * size;
        if (selection.mask.kept(i / 96, i % 96)) {
          ASSERT_TRUE(std::equal(p, p + size, dense.data() + static_cast<std::size_t>(i) * size));
        } else {
          ASSERT_TRUE(std::all_of(p, p + size, [](std::byte b) { return b == std::byte{0}; }));
        }
      }
    }
  }
}

TEST_P(ExactSelectorTest, SameMaskWithAnyNumberOfThreads) {
  const Matrix w = make_weights(333, 200, 2, true);
  for (const char* pattern : {"row", "layer", "2:4", "block:3x4"}) {
    const PruneTarget target{.pattern = parse_pattern(pattern), .sparsity = 0.55};
    set_num_threads(1);
    const Mask one = selector_->select(plain_scores(w.view()), target).mask;
    for (int threads : {2, 3}) {
      set_num_threads(threads);
      EXPECT_EQ(selector_->select(plain_scores(w.view()), target).mask, one) << pattern << " " << threads;
    }
  }
  set_num_threads(0);
}

TEST_P(ExactSelectorTest, WhatIsNotFiniteIsNamed) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const char* pattern : {"row", "layer", "2:4", "block:1x4"}) {
      Matrix w = random_matrix(40, 64, 6);
      w.at(23, 63) = bad;
      w.at(37, 1) = bad;
      const PruneTarget target{.pattern = parse_pattern(pattern), .sparsity = 0.5, .tensor = "up_proj"};
      try {
        selector_->select(plain_scores(w.view()), target);
        ADD_FAILURE() << pattern;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
        EXPECT_THAT(error.what(), HasSubstr("up_proj"));
        EXPECT_THAT(error.what(), HasSubstr("row 23, column 63"));
      }
    }
  }
  Matrix w = random_matrix(2, 8, 6);
  w.at(1, 3) = 1e30f;
  const std::vector<float> column(8, 1e10f);
  try {
    selector_->select({weight_view(w.view()), column, {}, {}, 1}, {.sparsity = 0.5, .tensor = "t"});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("score inf at row 1, column 3"));
  }
}

TEST_P(ExactSelectorTest, FiniteKeysWhoseSumOverflows) {
  Matrix w = random_matrix(20, 100, 8);
  for (float& value : w.values()) value = 1e38f * (1.0f + std::abs(value) / 8.0f);
  const PruneTarget target{.sparsity = 0.5};
  EXPECT_EQ(selector_->select(plain_scores(w.view()), target).mask,
            expected_mask(plain_scores(w.view()), target));
}

INSTANTIATE_TEST_SUITE_P(Engines, ExactSelectorTest, ::testing::ValuesIn(engines()), [](const auto& test) {
  std::string name = std::string(test.param.name) + "_" + testing::isa_label(test.param.isa);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(Selector, WindowPredictionHitsOnAlikeRows) {
  const Matrix w = random_matrix(256, 4096, 1);
  const Selection selection = make_selector("ewma-window")->select(plain_scores(w.view()), {.sparsity = 0.5});
  EXPECT_LT(selection.report.missed_windows, 8);
  EXPECT_DOUBLE_EQ(selection.report.sparsity, 0.5);
}

TEST(Selector, ListAndNames) {
  EXPECT_EQ(selectors().size(), 4u);
  for (const SelectorInfo& info : selectors()) {
    EXPECT_EQ(make_selector(info.kind)->name(), info.name);
    EXPECT_EQ(parse_select(name_of(info.kind)), info.kind);
    EXPECT_FALSE(info.summary.empty());
    EXPECT_FALSE(info.source.empty());
  }
  EXPECT_THROW(parse_select("quick"), Error);
}

}  // namespace
}  // namespace swiftprune
