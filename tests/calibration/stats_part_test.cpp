#include "swiftprune/calibration/stats_part.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace swiftprune {
namespace {

Matrix counted(std::int64_t rows, std::int64_t cols) {
  Matrix m(rows, cols);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) m.at(r, c) = static_cast<float>(10 * r + c);
  }
  return m;
}

TEST(StatsPart, HoldsTheRowsAndColumnsOfItsInputs) {
  const std::vector<double> energy = {1, 2, 3, 4, 5}, sum = {6, 7, 8, 9, 10};
  const Matrix gram = counted(5, 5), cross = counted(5, 5), residual = counted(3, 5), sample = counted(2, 5);
  LayerStats stats{.num_tokens = 7, .energy = energy, .sum = sum, .gram = &gram, .sample = &sample};
  stats.cross = &cross;
  stats.residual = &residual;
  const StatsPart part(stats, 2, 3);
  EXPECT_EQ(part.stats().num_tokens, 7);
  EXPECT_THAT(part.stats().energy, ::testing::ElementsAre(3, 4, 5));
  EXPECT_THAT(part.stats().sum, ::testing::ElementsAre(8, 9, 10));
  EXPECT_TRUE(part.stats().ewma_energy.empty());
  for (const Matrix* square : {part.stats().gram, part.stats().cross}) {
    ASSERT_EQ(square->rows(), 3);
    EXPECT_THAT(square->values(), ::testing::ElementsAre(22, 23, 24, 32, 33, 34, 42, 43, 44));
  }
  EXPECT_THAT(part.stats().residual->values(), ::testing::ElementsAre(2, 3, 4, 12, 13, 14, 22, 23, 24));
  EXPECT_THAT(part.stats().sample->values(), ::testing::ElementsAre(2, 3, 4, 12, 13, 14));
}

TEST(StatsPart, OfAllInputsCopiesNothing) {
  const std::vector<double> energy = {1, 2};
  const Matrix gram = counted(2, 2);
  const LayerStats stats{.energy = energy, .gram = &gram};
  const StatsPart part(stats, 0, 2);
  EXPECT_EQ(part.stats().gram, &gram);
  EXPECT_EQ(part.stats().energy.data(), energy.data());
}

}  // namespace
}  // namespace swiftprune
