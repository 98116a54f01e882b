#include "waiting.h"

#include <gtest/gtest.h>

namespace swiftprune::cli {
namespace {

TEST(IsBusy, CountsWhatCanRunBesideUs) {
  EXPECT_FALSE(is_busy("0.37 2.13 2.39 1/92 9011", 2));
  EXPECT_FALSE(is_busy("9.00 9.13 9.39 2/92 9011", 2));  // what was is not what is
  EXPECT_TRUE(is_busy("0.37 2.13 2.39 3/92 9011", 2));
  EXPECT_TRUE(is_busy("0.37 2.13 2.39 17/92 9011", 16));
}

TEST(IsBusy, WhatIsNoLoadIsNotBusy) {
  for (const char* text : {"", "1 2", "1 2 3", "1 2 3 x/9", "1 2 3 99", "1 2 3 99999999999999/1"})
    EXPECT_FALSE(is_busy(text, 2)) << text;
}

}  // namespace
}  // namespace swiftprune::cli
