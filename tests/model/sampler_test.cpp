#include "swiftprune/model/sampler.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace swiftprune {
namespace {

// log of 0.5, 0.3, 0.15, 0.05
const std::vector<float> kLogits = {std::log(0.3f), std::log(0.5f), std::log(0.05f), std::log(0.15f)};

std::vector<int> counts(const SamplerOptions& options, int draws) {
  Sampler sampler(options);
  std::vector<int> result(kLogits.size());
  for (int i = 0; i < draws; ++i) ++result[static_cast<std::size_t>(sampler.next(kLogits))];
  return result;
}

TEST(Sampler, GreedyTakesTheFirstMaximum) {
  Sampler sampler({});
  EXPECT_EQ(sampler.next(kLogits), 1);
  EXPECT_EQ(sampler.next(std::vector<float>{1.0f, 3.0f, 3.0f}), 1);
}

TEST(Sampler, DrawsWithTheProbabilities) {
  constexpr int kDraws = 20000;
  const std::vector<int> found = counts({.temperature = 1.0, .seed = 7}, kDraws);
  const double expected[] = {0.3, 0.5, 0.05, 0.15};
  // Five standard deviations of a count.
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_NEAR(found[i], kDraws * expected[i], 5.0 * std::sqrt(kDraws * expected[i] * (1.0 - expected[i])));
  }
}

TEST(Sampler, TopPKeepsTheSmallestSetThatHoldsIt) {
  // 0.5 + 0.3 reaches 0.75, so only those two are drawn, as 5 to 3.
  const std::vector<int> found = counts({.temperature = 1.0, .top_p = 0.75, .seed = 1}, 8000);
  EXPECT_EQ(found[2], 0);
  EXPECT_EQ(found[3], 0);
  EXPECT_NEAR(found[1], 5000, 5.0 * std::sqrt(8000 * 0.625 * 0.375));
  EXPECT_EQ(counts({.temperature = 1.0, .top_p = 0.4, .seed = 1}, 50)[1], 50);
}

TEST(Sampler, TemperatureSharpensAndFlattens) {
  EXPECT_GT(counts({.temperature = 0.2, .seed = 3}, 1000)[1], 900);
  EXPECT_LT(counts({.temperature = 10.0, .seed = 3}, 1000)[1], 350);
}

TEST(Sampler, SeedDecides) {
  EXPECT_EQ(counts({.temperature = 1.0, .seed = 5}, 100), counts({.temperature = 1.0, .seed = 5}, 100));
  EXPECT_NE(counts({.temperature = 1.0, .seed = 5}, 100), counts({.temperature = 1.0, .seed = 6}, 100));
}

}  // namespace
}  // namespace swiftprune
