#include "swiftprune/core/checked_math.h"

#include <limits>
#include <vector>

#include <gtest/gtest.h>

namespace swiftprune {
namespace {

constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();
constexpr std::int64_t kMostSigned = std::numeric_limits<std::int64_t>::max();

TEST(CheckedMath, SumsUpToTheLastNumber) {
  EXPECT_EQ(checked_add(2, 3), 5u);
  EXPECT_EQ(checked_add(kMost - 1, 1), kMost);
  EXPECT_EQ(checked_add(kMost, 0), kMost);
  EXPECT_EQ(checked_add(kMost, 1), std::nullopt);
  EXPECT_EQ(checked_add(kMost, kMost), std::nullopt);
}

TEST(CheckedMath, ProductsUpToTheLastNumber) {
  EXPECT_EQ(checked_mul(0, kMost), 0u);
  EXPECT_EQ(checked_mul(kMost / 5, 5), kMost);  // 2^64 - 1 is a multiple of 5
  EXPECT_EQ(checked_mul(kMost / 5 + 1, 5), std::nullopt);
  EXPECT_EQ(checked_mul(std::uint64_t{1} << 32, std::uint64_t{1} << 32), std::nullopt);
}

TEST(CheckedMath, ElementsOfAShape) {
  const auto numel = [](std::vector<std::int64_t> shape) { return checked_numel(shape); };
  EXPECT_EQ(numel({}), 1u);
  EXPECT_EQ(numel({3, 4, 5}), 60u);
  EXPECT_EQ(numel({3, 0, 5}), 0u);
  EXPECT_EQ(numel({3, -1}), std::nullopt);
  EXPECT_EQ(numel({-2, -3}), std::nullopt);
  EXPECT_EQ(numel({std::int64_t{1} << 31, std::int64_t{1} << 31}), std::uint64_t{1} << 62);
  EXPECT_EQ(numel({std::int64_t{1} << 31, (std::int64_t{1} << 31) + 1}), std::nullopt);
  EXPECT_EQ(numel({kMostSigned}), std::nullopt);
  EXPECT_EQ(numel({std::int64_t{1} << 32, std::int64_t{1} << 32, 1}), std::nullopt);  // 2^64 wraps to 0
  EXPECT_EQ(numel({kMostSigned, kMostSigned, 0}), std::nullopt);  // on the way, not only at the end
}

TEST(CheckedMath, RoundsUp) {
  EXPECT_EQ(ceil_div(0, 8), 0);
  EXPECT_EQ(ceil_div(1, 8), 1);
  EXPECT_EQ(ceil_div(8, 8), 1);
  EXPECT_EQ(ceil_div(9, 8), 2);
  EXPECT_EQ(round_up(0, 64), 0);
  EXPECT_EQ(round_up(64, 64), 64);
  EXPECT_EQ(round_up(65, 64), 128);
}

}  // namespace
}  // namespace swiftprune
