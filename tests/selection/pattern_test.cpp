#include "swiftprune/selection/pattern.h"

#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string message_of(const auto& action, ErrorKind kind) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

TEST(Pattern, ParsesAndFormats) {
  EXPECT_EQ(parse_pattern("unstructured"), parse_pattern("row"));
  for (const char* text : {"row", "layer", "2:4", "1:32", "31:32", "block:16x16", "block:1x8"}) {
    EXPECT_EQ(format(parse_pattern(text)), text);
  }
  const Pattern tile = parse_pattern("block:16x8");
  EXPECT_EQ(tile.block_rows, 16);
  EXPECT_EQ(tile.block_cols, 8);
}

TEST(Pattern, RefusesWhatItCannotRead) {
  for (const char* text :
       {"", "4:4", "4:2", "0:4", "2:33", "2:", ":4", "2:4:8", "-1:4", "2:4 ", "block:", "block:0x4",
        "block:4", "block:4x", "block:99999999999999999999x1", "rows", "2x4"}) {
    EXPECT_THAT(message_of([&] { parse_pattern(text); }, ErrorKind::kUsage), HasSubstr(text)) << text;
  }
}

TEST(Pattern, SparsityOutOfRangeIsRefused) {
  for (double sparsity : {-0.1, 1.0, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
    const PruneTarget target{.sparsity = sparsity, .tensor = "q_proj"};
    EXPECT_THAT(message_of([&] { check_target(target, 4, 8); }, ErrorKind::kUsage), HasSubstr("q_proj"));
  }
}

TEST(Pattern, WhatDoesNotDivideIsRefusedWithTheTensorsName) {
  const PruneTarget group{.pattern = parse_pattern("2:4"), .tensor = "blocks.3.q_proj"};
  const std::string message = message_of([&] { check_target(group, 3, 10); }, ErrorKind::kBadInput);
  EXPECT_THAT(message, HasSubstr("blocks.3.q_proj"));
  EXPECT_THAT(message, HasSubstr("10"));
  EXPECT_THAT(message, HasSubstr("--skip"));
  const PruneTarget tile{.pattern = parse_pattern("block:4x4"), .sparsity = 0.5, .tensor = "t"};
  message_of([&] { check_target(tile, 6, 8); }, ErrorKind::kBadInput);
  message_of([&] { check_target(tile, 8, 6); }, ErrorKind::kBadInput);
  check_target(tile, 8, 8);
}

TEST(Pattern, FloorCountsAreTheMathematicalFloor) {
  // 100 · 0.29 is 28.999999999999996 in double.
  EXPECT_THAT(row_prune_counts({.sparsity = 0.29}, 2, 100), ElementsAre(29, 29));
  EXPECT_THAT(row_prune_counts({.sparsity = 0.5}, 3, 5), ElementsAre(2, 2, 2));
  EXPECT_THAT(row_prune_counts({.pattern = parse_pattern("3:8")}, 2, 16), ElementsAre(10, 10));
}

TEST(Pattern, ExactTotalSpreadsTheRemainder) {
  PruneTarget target{.sparsity = 0.5, .rounding = PruneTarget::Rounding::kExactTotal};
  EXPECT_THAT(row_prune_counts(target, 4, 5), ElementsAre(2, 3, 2, 3));
  for (double sparsity : {0.0, 0.123, 0.5, 0.7, 0.999}) {
    target.sparsity = sparsity;
    for (const auto& [rows, cols] :
         {std::pair{7, 13}, std::pair{192, 576}, std::pair{1, 1}, std::pair{0, 4}}) {
      const auto counts = row_prune_counts(target, rows, cols);
      const auto total = std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
      EXPECT_EQ(total, std::llround(sparsity * rows * cols));
      EXPECT_EQ(total, total_prune_count(target, rows, cols));
      if (rows == 0) continue;
      const auto [low, high] = std::minmax_element(counts.begin(), counts.end());
      EXPECT_LE(*high - *low, 1);
    }
  }
}

TEST(Pattern, GivenRowCountsAreUsed) {
  const std::int64_t counts[] = {0, 3, 8};
  const PruneTarget target{.row_counts = counts};
  check_target(target, 3, 8);
  EXPECT_THAT(row_prune_counts(target, 3, 8), ElementsAre(0, 3, 8));
  EXPECT_EQ(total_prune_count(target, 3, 8), 11);
}

TEST(Pattern, BlockCountsAreTiles) {
  const PruneTarget target{.pattern = parse_pattern("block:2x4"), .sparsity = 0.5};
  EXPECT_EQ(total_prune_count(target, 6, 8), 3);
  EXPECT_DOUBLE_EQ(target_sparsity({.pattern = parse_pattern("3:8")}), 0.625);
}

}  // namespace
}  // namespace swiftprune
