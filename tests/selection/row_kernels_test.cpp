// Every kernel of every instruction set against plain definitions, over lengths around the vector lanes.
#include "swiftprune/selection/row_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "support/isas.h"
#include "swiftprune/core/checked_math.h"
#include "swiftprune/selection/exact_selector.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {
namespace {

constexpr std::int64_t kLengths[] = {0,  1,  2,  7,  8,  9,   15,  16,  17,  31,  32,  33,  47,
                                     63, 64, 65, 95, 96, 127, 128, 129, 191, 255, 257, 1000};
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class RowKernelsTest : public ::testing::TestWithParam<Isa> {
 protected:
  const RowKernels& kernels_ = row_kernels(GetParam());
};

std::int64_t padded(std::int64_t n) { return round_up(n, kKeyBlock); }

// Keys with many ties, zeros and denormals.
std::vector<float> tied_keys(std::int64_t n, unsigned seed) {
  std::mt19937 generator(seed);
  const float values[] = {0.0f, 1e-45f, 1e-40f, 0.5f, 1.0f, std::nextafter(1.0f, 2.0f), 3.0f, 1e30f};
  std::vector<float> keys(static_cast<std::size_t>(padded(n) + kKeySlack), kInfinity);
  for (std::int64_t j = 0; j < n; ++j) {
    keys[static_cast<std::size_t>(j)] = generator() % 4 == 0
                                            ? std::abs(static_cast<float>(generator()) * 1e-9f)
                                            : values[generator() % std::size(values)];
  }
  return keys;
}

bool bit(const std::vector<std::uint64_t>& words, std::int64_t j) {
  return (words[static_cast<std::size_t>(j / 64)] >> (j % 64)) & 1u;
}

TEST_P(RowKernelsTest, ScoreGivesTheDefinedBits) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  for (std::int64_t n : kLengths) {
    const auto size = static_cast<std::size_t>(n);
    std::vector<float> values(size);
    std::vector<float> column(size);
    std::vector<float> slope(size);
    for (std::size_t j = 0; j < size; ++j) {
      values[j] = j % 11 == 3 ? -0.0f : normal(generator) * (j % 7 == 2 ? 1e-39f : 1.0f);
      column[j] = std::abs(normal(generator));
      slope[j] = std::abs(normal(generator));
    }
    for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      // One byte before the weights: nothing may ask for alignment.
      std::vector<std::byte> bytes(size * static_cast<std::size_t>(size_of(dtype)) + 1);
      convert_from_f32(values, dtype, std::span(bytes).subspan(1));
      const WeightView weight{bytes.data() + 1, dtype, 1, n, n};
      const float row[] = {1.7f};
      const ScoreView views[] = {{weight, {}, {}, {}, 1},
                                 {weight, column, {}, {}, 1},
                                 {weight, {}, row, slope, 1},
                                 {weight, column, row, slope, 1}};
      for (const ScoreView& view : views) {
        ScoredRows rows(kernels_, view);
        std::vector<float> keys(static_cast<std::size_t>(rows.buffer_size()), -1.0f);
        const KeyRow key_row = rows.load(0, keys.data());
        double sum = 0.0;
        for (std::int64_t j = 0; j < n; ++j) {
          const float expected = score_key(view, 0, j);
          ASSERT_EQ(std::memcmp(&keys[static_cast<std::size_t>(j)], &expected, 4), 0)
              << n << " " << j << " " << name_of(dtype);
          sum += double{expected};
        }
        for (std::int64_t j = n; j < padded(n); ++j) ASSERT_EQ(keys[static_cast<std::size_t>(j)], kInfinity);
        ASSERT_NEAR(key_row.sum, sum, 1e-4 * sum);
      }
    }
  }
}

TEST_P(RowKernelsTest, SumShowsWhatIsNotFinite) {
  for (float bad : {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()}) {
    for (std::int64_t n : kLengths) {
      for (std::int64_t at : {std::int64_t{0}, n / 2, n - 1}) {
        if (n == 0) continue;
        std::vector<float> weights(static_cast<std::size_t>(n), 1.0f);
        weights[static_cast<std::size_t>(at)] = bad;
        std::vector<float> keys(static_cast<std::size_t>(padded(n) + kKeySlack));
        EXPECT_FALSE(
            std::isfinite(kernels_.score_f32(weights.data(), n, nullptr, 0.0f, nullptr, keys.data())));
      }
    }
  }
}

TEST_P(RowKernelsTest, WindowCountsAndPacks) {
  for (std::int64_t n : kLengths) {
    const auto keys = tied_keys(n, static_cast<unsigned>(n));
    for (const auto& [low, high] :
         {std::pair{0.0f, kInfinity}, std::pair{0.5f, 1.0f}, std::pair{1e-45f, 3.0f}, std::pair{4.0f, 5.0f},
          std::pair{1.0f, std::nextafter(1.0f, 2.0f)}}) {
      std::vector<float> expected;
      for (std::int64_t j = 0; j < n; ++j) {
        const float key = keys[static_cast<std::size_t>(j)];
        if (key >= low && key < high) expected.push_back(key);
      }
      std::vector<float> inside(static_cast<std::size_t>(padded(n) + kKeySlack), -1.0f);
      std::int64_t num_inside = 0;
      const std::int64_t below =
          kernels_.window(keys.data(), padded(n), low, high, inside.data(), &num_inside);
      EXPECT_EQ(below, std::count_if(keys.begin(), keys.begin() + n, [&](float k) { return k < low; }));
      ASSERT_EQ(num_inside, std::ssize(expected));
      for (std::int64_t i = num_inside; i < padded(num_inside); ++i) {
        ASSERT_EQ(inside[static_cast<std::size_t>(i)], kInfinity);
      }
      inside.resize(expected.size());
      EXPECT_EQ(inside, expected);
    }
  }
}

TEST_P(RowKernelsTest, ThresholdAndMaskAreThoseOfAStableSort) {
  for (std::int64_t n : kLengths) {
    for (unsigned seed = 0; seed < 3; ++seed) {
      auto keys = tied_keys(n, 100 + seed);
      if (seed == 2) std::fill_n(keys.begin(), n, 0.25f);
      std::vector<std::int64_t> order(static_cast<std::size_t>(n));
      std::iota(order.begin(), order.end(), std::int64_t{0});
      std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
        return keys[static_cast<std::size_t>(a)] < keys[static_cast<std::size_t>(b)];
      });
      for (std::int64_t rank : {std::int64_t{0}, std::int64_t{1}, n / 3, n / 2, n - 2, n - 1}) {
        if (rank < 0 || rank >= n) continue;
        std::int64_t ties = -1;
        const float value = kernels_.threshold(keys.data(), padded(n), rank, 0.0f, kInfinity, &ties);
        std::vector<std::uint64_t> words(static_cast<std::size_t>(padded(n) / 64), ~std::uint64_t{0});
        kernels_.keep_above(keys.data(), padded(n), value, ties, words.data());
        for (std::int64_t i = 0; i < n; ++i) {
          ASSERT_EQ(bit(words, order[static_cast<std::size_t>(i)]), i >= rank)
              << "n " << n << " rank " << rank << " place " << i;
        }
      }
    }
  }
}

TEST_P(RowKernelsTest, KeepNofMIsAStableSortOfEachGroup) {
  for (int m = 2; m <= 32; ++m) {
    for (int n = 1; n < m; ++n) {
      const std::int64_t cols = m * 9;
      const auto keys = tied_keys(cols, static_cast<unsigned>(m * 64 + n));
      std::vector<std::uint64_t> words(static_cast<std::size_t>(padded(cols) / 64), ~std::uint64_t{0});
      kernels_.keep_n_of_m(keys.data(), padded(cols), n, m, words.data());
      for (std::int64_t first = 0; first < cols; first += m) {
        std::vector<std::int64_t> order(static_cast<std::size_t>(m));
        std::iota(order.begin(), order.end(), first);
        std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
          return keys[static_cast<std::size_t>(a)] < keys[static_cast<std::size_t>(b)];
        });
        for (int i = 0; i < m; ++i) {
          ASSERT_EQ(bit(words, order[static_cast<std::size_t>(i)]), i >= m - n) << n << ":" << m;
        }
      }
    }
  }
}

TEST_P(RowKernelsTest, ZeroWritesPlusZeroInsideTheRowOnly) {
  for (std::int64_t n : kLengths) {
    std::mt19937_64 generator(static_cast<unsigned>(n));
    std::vector<std::uint64_t> words(static_cast<std::size_t>(padded(n) / 64));
    for (auto& word : words) word = generator();
    for (std::int64_t bytes : {std::int64_t{2}, std::int64_t{4}}) {
      std::vector<unsigned char> weights(static_cast<std::size_t>(n * bytes + 3), 0x81);
      (bytes == 4 ? kernels_.zero_32 : kernels_.zero_16)(weights.data() + 1, n, words.data());
      EXPECT_EQ(weights.front(), 0x81);
      EXPECT_EQ(weights[weights.size() - 1], 0x81);
      EXPECT_EQ(weights[weights.size() - 2], 0x81);
      for (std::int64_t i = 0; i < n * bytes; ++i) {
        ASSERT_EQ(weights[static_cast<std::size_t>(i + 1)], bit(words, i / bytes) ? 0x81 : 0)
            << n << " " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, RowKernelsTest, ::testing::ValuesIn(testing::available_isas()),
                         [](const auto& test) { return testing::isa_label(test.param); });

}  // namespace
}  // namespace swiftprune
