#include "swiftprune/tensor/mask.h"

#include <gtest/gtest.h>

namespace swiftprune {
namespace {

TEST(Mask, StartsWithNothingKept) {
  const Mask mask(3, 65);
  EXPECT_EQ(mask.words_per_row(), 2);
  EXPECT_EQ(mask.num_kept(), 0);
}

TEST(Mask, KeepsAndPrunesSingleBits) {
  Mask mask(2, 130);
  for (const std::int64_t c : {0, 63, 64, 129}) mask.keep(1, c);
  EXPECT_EQ(mask.num_kept(0), 0);
  EXPECT_EQ(mask.num_kept(1), 4);
  EXPECT_TRUE(mask.kept(1, 64));
  mask.prune(1, 64);
  EXPECT_FALSE(mask.kept(1, 64));
  EXPECT_TRUE(mask.kept(1, 63));
  EXPECT_EQ(mask.num_kept(), 3);
}

TEST(Mask, EmptyShapes) {
  EXPECT_EQ(Mask(0, 10).num_kept(), 0);
  EXPECT_EQ(Mask(10, 0).num_kept(), 0);
}

}  // namespace
}  // namespace swiftprune
