#include "swiftprune/masking/apply_mask.h"

#include <cmath>
#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "support/random_matrix.h"

namespace swiftprune {
namespace {

using testing::random_matrix;

Mask random_mask(std::int64_t rows, std::int64_t cols, unsigned seed) {
  std::mt19937 generator(seed);
  Mask mask(rows, cols);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      if (generator() % 2 == 0) mask.keep(r, c);
    }
  }
  return mask;
}

TEST(ApplyMask, PrunedBecomePlusZeroTheRestStays) {
  for (const auto& [rows, cols] :
       {std::pair{0, 5}, std::pair{5, 0}, std::pair{1, 1}, std::pair{3, 15}, std::pair{70, 16},
        std::pair{2, 17}, std::pair{9, 64}, std::pair{4, 129}}) {
    const Mask mask = random_mask(rows, cols, 3);
    auto strided = testing::random_strided(rows, cols, 4);
    const Matrix before = strided.storage.clone();
    apply_mask(mask, strided.view);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < cols + 5; ++c) {
        const bool pruned = c >= 3 && c < cols + 3 && !mask.kept(r, c - 3);
        EXPECT_EQ(strided.storage.at(r, c), pruned ? 0.0f : before.at(r, c));
        if (pruned) {
          EXPECT_FALSE(std::signbit(strided.storage.at(r, c)));
        }
      }
    }
    if (rows * cols > 0) {
      EXPECT_EQ(nonzero_mask(weight_view(strided.view)), mask);
    }
  }
}

TEST(ApplyMask, SixteenBit) {
  const Mask mask = random_mask(7, 41, 5);
  const Matrix w = random_matrix(7, 41, 6);
  for (DType dtype : {DType::kF16, DType::kBF16}) {
    std::vector<std::byte> bytes(7 * 41 * 2);
    convert_from_f32(w.values(), dtype, bytes);
    const auto before = bytes;
    apply_mask(mask, MutableWeightView{bytes.data(), dtype, 7, 41, 41});
    for (std::int64_t i = 0; i < 7 * 41; ++i) {
      std::uint16_t found = 0;
      std::uint16_t was = 0;
      std::memcpy(&found, bytes.data() + 2 * i, 2);
      std::memcpy(&was, before.data() + 2 * i, 2);
      EXPECT_EQ(found, mask.kept(i / 41, i % 41) ? was : 0);
    }
    EXPECT_EQ(nonzero_mask({bytes.data(), dtype, 7, 41, 41}), mask);
  }
}

TEST(NonzeroMask, ZerosOfEitherSign) {
  Matrix w(1, 4);
  w.at(0, 0) = 0.0f;
  w.at(0, 1) = -0.0f;
  w.at(0, 2) = 1e-45f;
  w.at(0, 3) = -1.0f;
  const Mask mask = nonzero_mask(weight_view(w.view()));
  EXPECT_EQ(mask.row(0)[0], 0b1100u);
}

TEST(CheckPattern, CountsZeros) {
  Matrix w = random_matrix(2, 8, 1);
  for (std::int64_t c : {0, 1, 4}) w.at(0, c) = 0.0f;
  w.at(1, 7) = -0.0f;
  const PatternCheck check = check_pattern(weight_view(w.view()), parse_pattern("row"));
  EXPECT_EQ(check.num_zeros, 4);
  EXPECT_DOUBLE_EQ(check.sparsity, 0.25);
  EXPECT_DOUBLE_EQ(check.max_row_deviation, 0.125);
  EXPECT_TRUE(check.holds);
}

TEST(CheckPattern, NofMNamesTheFirstBadGroup) {
  Matrix w = random_matrix(3, 12, 1);
  for (std::int64_t r = 0; r < 3; ++r) {
    for (std::int64_t g = 0; g < 12; g += 4) w.at(r, g + r) = w.at(r, g + 3) = 0.0f;
  }
  EXPECT_TRUE(check_pattern(weight_view(w.view()), parse_pattern("2:4")).holds);
  EXPECT_TRUE(check_pattern(weight_view(w.view()), parse_pattern("3:4")).holds);
  EXPECT_FALSE(check_pattern(weight_view(w.view()), parse_pattern("1:4")).holds);
  w.at(1, 9) = 1.0f;
  const PatternCheck check = check_pattern(weight_view(w.view()), parse_pattern("2:4"));
  EXPECT_FALSE(check.holds);
  EXPECT_EQ(check.bad_row, 1);
  EXPECT_EQ(check.bad_column, 8);
}

TEST(CheckPattern, BlocksAreWhole) {
  Matrix w = random_matrix(4, 8, 1);
  for (std::int64_t r = 2; r < 4; ++r) std::fill_n(w.row(r) + 4, 4, 0.0f);
  w.at(0, 1) = 0.0f;  // one zero by chance breaks nothing
  EXPECT_TRUE(check_pattern(weight_view(w.view()), parse_pattern("block:2x4")).holds);
  w.at(3, 6) = 2.0f;
  const PatternCheck check = check_pattern(weight_view(w.view()), parse_pattern("block:2x4"));
  EXPECT_FALSE(check.holds);
  EXPECT_EQ(check.bad_row, 2);
  EXPECT_EQ(check.bad_column, 4);
}

}  // namespace
}  // namespace swiftprune
