// Orders of inputs for N:M patterns, against all orders of small problems.
#include "swiftprune/selection/channel_order.h"

#include <algorithm>
#include <numeric>

#include <gtest/gtest.h>

#include "support/random_matrix.h"
#include "swiftprune/core/parallel.h"

namespace swiftprune {
namespace {

using Order = std::vector<std::int64_t>;

Order counted(std::int64_t n) {
  Order order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

// The definition, with a sort.
double kept(const Matrix& scores, const Order& order, const Pattern& pattern) {
  double sum = 0.0;
  for (std::int64_t r = 0; r < scores.rows(); ++r) {
    for (std::size_t p = 0; p < order.size(); p += static_cast<std::size_t>(pattern.m)) {
      std::vector<double> group;
      for (std::int64_t i = 0; i < pattern.m; ++i)
        group.push_back(scores.at(r, order[p + static_cast<std::size_t>(i)]));
      std::sort(group.rbegin(), group.rend());
      sum = std::accumulate(group.begin(), group.begin() + pattern.n, sum);
    }
  }
  return sum;
}

Matrix random_scores(std::int64_t rows, std::int64_t cols, unsigned seed) {
  Matrix scores = testing::random_matrix(rows, cols, seed);
  for (float& score : scores.values()) score *= score;
  return scores;
}

TEST(ChannelOrder, AssignmentIsTheBestOfAll) {
  for (std::int64_t n = 1; n <= 6; ++n) {
    const Matrix gains = testing::random_matrix(n, n, static_cast<unsigned>(n));
    const auto sum = [&](const Order& columns) {
      double total = 0.0;
      for (std::int64_t r = 0; r < n; ++r) total += gains.at(r, columns[static_cast<std::size_t>(r)]);
      return total;
    };
    Order all = counted(n);
    double best = sum(all);
    while (std::next_permutation(all.begin(), all.end())) best = std::max(best, sum(all));
    Order found = best_assignment(gains.view());
    EXPECT_NEAR(sum(found), best, 1e-6) << n;
    std::sort(found.begin(), found.end());
    EXPECT_EQ(found, counted(n));
  }
}

TEST(ChannelOrder, KeptScoreIsTheSumOfTheHighestOfEachGroup) {
  const Matrix scores = random_scores(5, 16, 1);
  Order order = counted(16);
  std::rotate(order.begin(), order.begin() + 3, order.end());
  for (const char* text : {"2:4", "1:2", "4:8", "3:4"}) {
    const Pattern pattern = parse_pattern(text);
    EXPECT_NEAR(kept_score(scores.view(), order, pattern), kept(scores, order, pattern), 1e-5) << text;
  }
}

// The important inputs stand together at first: as they are, half of them would go.
TEST(ChannelOrder, SpreadsImportantInputsOverTheGroups) {
  Matrix scores = random_scores(3, 8, 2);
  for (std::int64_t r = 0; r < 3; ++r) {
    for (std::int64_t c = 0; c < 4; ++c) scores.at(r, c) += 10.0f;
  }
  const Pattern pattern = parse_pattern("2:4");
  double best = 0.0;
  for (Order all = counted(8); std::next_permutation(all.begin(), all.end());)
    best = std::max(best, kept(scores, all, pattern));
  const Order found = grouped_order(scores.view(), pattern);
  EXPECT_NEAR(kept(scores, found, pattern), best, 1e-4);
  EXPECT_GT(best, kept(scores, counted(8), pattern) + 30.0);
}

TEST(ChannelOrder, IsAnOrderThatKeepsNoLess) {
  for (const auto& [rows, cols, text] :
       {std::tuple(7, 64, "2:4"), std::tuple(40, 2080, "2:4"), std::tuple(9, 96, "4:8"),
        std::tuple(3, 4, "2:4"), std::tuple(1, 12, "1:2")}) {
    const Pattern pattern = parse_pattern(text);
    const Matrix scores = random_scores(rows, cols, 3);
    Order found = grouped_order(scores.view(), pattern);
    EXPECT_GE(kept(scores, found, pattern), kept(scores, counted(cols), pattern));
    std::sort(found.begin(), found.end());
    EXPECT_EQ(found, counted(cols)) << cols;
  }
  // Nothing can be gained where all are alike.
  Matrix even(2, 16);
  std::fill(even.values().begin(), even.values().end(), 1.0f);
  EXPECT_EQ(grouped_order(even.view(), parse_pattern("2:4")), counted(16));
}

// More groups than exchange inputs at a time.
TEST(ChannelOrder, IsTheSameWithAnyNumberOfThreads) {
  const Matrix scores = random_scores(24, 2400, 4);
  set_num_threads(1);
  const Order one = grouped_order(scores.view(), parse_pattern("2:4"));
  set_num_threads(3);
  EXPECT_EQ(grouped_order(scores.view(), parse_pattern("2:4")), one);
  set_num_threads(0);
  EXPECT_GT(kept(scores, one, parse_pattern("2:4")),
            1.01 * kept(scores, counted(2400), parse_pattern("2:4")));
}

}  // namespace
}  // namespace swiftprune
