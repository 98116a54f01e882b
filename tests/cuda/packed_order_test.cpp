// The order of codes in the device's memory, against its definition; needs no GPU.
#include <gtest/gtest.h>

#include "sparse/weights.h"
#include "swiftprune/cuda/sparse/packed_order.h"
#include "swiftprune/sparse/pack_quantized.h"

namespace swiftprune::cuda {
namespace {

using testing_sparse::random_grid_weight;

// The code of a place of the padded panel; what does not exist has none.
int code_at(const QuantizedWeight& weight, std::int64_t row, std::int64_t column) {
  if (row >= weight.rows || column >= weight.cols) return -1;
  return weight.codes[static_cast<std::size_t>(row * weight.cols + column)];
}

TEST(PackedOrder, CodesOfAGrid) {
  for (const std::int64_t cols : {64, 96, 130}) {
    const QuantizedWeight weight = random_grid_weight(20, cols, {4, 0, false}, 0.2);
    const std::int64_t blocks = (cols + 63) / 64;
    for (std::int64_t panel = 0; panel < 2; ++panel) {
      std::vector<std::uint32_t> words(static_cast<std::size_t>(blocks * kPanelCodes));
      order_codes(weight, panel, blocks, words.data());
      for (std::int64_t b = 0; b < blocks; ++b) {
        for (std::int64_t lane = 0; lane < kLanes; ++lane) {
          for (std::int64_t i = 0; i < 4; ++i) {
            const std::uint32_t word = words[static_cast<std::size_t>((b * kLanes + lane) * 4 + i)];
            for (std::int64_t c = 0; c < 8; ++c) {
              const int code =
                  code_at(weight, panel * 16 + lane / 4 * 2 + i / 2, 64 * b + i % 2 * 32 + lane % 4 * 8 + c);
              const auto stored = static_cast<int>(word >> (4 * (c / 2 + c % 2 * 4)) & 15u);
              if (code >= 0) {
                ASSERT_EQ(stored, code);
              }
            }
          }
        }
      }
    }
  }
}

TEST(PackedOrder, CodesOfEightBits) {
  for (const std::int64_t cols : {64, 96, 131}) {
    const QuantizedWeight weight = random_grid_weight(20, cols, {8, 0, true}, 0.2);
    const std::int64_t blocks = (cols + 63) / 64;
    for (std::int64_t panel = 0; panel < 2; ++panel) {
      std::vector<std::uint32_t> words(static_cast<std::size_t>(blocks * kPanelByteCodes));
      order_byte_codes(weight, panel, blocks, words.data());
      const auto* bytes = reinterpret_cast<const std::uint8_t*>(words.data());
      for (std::int64_t row = panel * 16; row < std::min<std::int64_t>(weight.rows, panel * 16 + 16); ++row) {
        for (std::int64_t column = 0; column < cols; ++column) {
          const std::int64_t half = column / 32, lane = row % 16 / 2 * 4 + column % 32 / 8;
          const std::int64_t at = (half * kLanes + lane) * 16 + row % 2 * 8 + column % 8;
          ASSERT_EQ(bytes[at], code_at(weight, row, column)) << row << " " << column;
        }
      }
    }
  }
}

// Every four columns again from their two codes and places.
TEST(PackedOrder, TwoOfFourOfAGrid) {
  for (const int n : {0, 1, 2}) {
    for (const std::int64_t cols : {32, 128, 192, 384}) {
      const QuantizedWeight weight = random_grid_weight(37, cols, {4, 32, true}, 0.2, n);
      const std::int64_t units = (cols + 127) / 128;
      for (std::int64_t panel = 0; panel < 3; ++panel) {
        std::vector<std::uint32_t> words(static_cast<std::size_t>(units * kPanelTwoFourCodes));
        std::vector<std::uint32_t> indices(static_cast<std::size_t>(units * kPanelTwoFourIndices));
        order_two_four_codes(weight, panel, units, words.data(), indices.data());
        for (std::int64_t row = panel * 16; row < std::min<std::int64_t>(weight.rows, panel * 16 + 16);
             ++row) {
          for (std::int64_t four = 0; four < cols / 4; ++four) {
            const std::int64_t u = four / 32, s = four % 32 / 8, of_step = four % 8;
            const std::int64_t g = row % 16 / 2, second = row % 2;
            const auto lane = static_cast<std::size_t>(u * kLanes + 4 * g + of_step % 4);
            const std::int64_t q = of_step / 4 * 2 + second;
            const std::uint32_t word = words[lane * 4 + static_cast<std::size_t>(s)];
            const std::int64_t of_block = four % 16;
            const auto holder = static_cast<std::size_t>(u * kLanes + 4 * g + of_block / 4);
            const std::uint32_t places = indices[holder * 2 + static_cast<std::size_t>(four % 32 / 16)] >>
                                         (4 * (of_block % 4) + 16 * second);
            const std::uint32_t first = places & 3u, other = places >> 2 & 3u;
            ASSERT_LT(first, other);
            const int zero = weight.zero_of(row, 4 * four / 32);
            int found[4] = {zero, zero, zero, zero};
            found[first] = static_cast<int>(word >> (4 * q) & 15u);
            found[other] = static_cast<int>(word >> (4 * (q + 4)) & 15u);
            for (std::int64_t i = 0; i < 4; ++i) ASSERT_EQ(found[i], code_at(weight, row, 4 * four + i));
          }
        }
      }
    }
  }
}

TEST(PackedOrder, WhatKeepsTwoOfFour) {
  const auto keeps = [](int n, const PackFormat& format) {
    return keeps_two_of_four(pack(random_grid_weight(40, 96, {4, 32, false}, 0.1, n), format));
  };
  EXPECT_TRUE(keeps(2, {PackedKind::kNmGrid, 2, 4}));
  EXPECT_TRUE(keeps(1, {PackedKind::kNmGrid, 1, 4}));
  EXPECT_FALSE(keeps(3, {PackedKind::kNmGrid, 3, 4}));
  EXPECT_TRUE(keeps(2, {PackedKind::kBitmapGrid}));
  EXPECT_FALSE(keeps(3, {PackedKind::kBitmapGrid}));
  EXPECT_FALSE(keeps(2, {PackedKind::kDenseGrid}));
}

}  // namespace
}  // namespace swiftprune::cuda
