#include "swiftprune/model/sampler.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "swiftprune/model/logit_rules.h"
#include "swiftprune/model/token_chances.h"

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

TEST(Sampler, TopKAndMinPLeaveTheLikeliest) {
  const std::vector<int> two = counts({.temperature = 1.0, .seed = 1, .top_k = 2}, 8000);
  EXPECT_EQ(two[2] + two[3], 0);
  EXPECT_NEAR(two[1], 5000, 5.0 * std::sqrt(8000 * 0.625 * 0.375));
  EXPECT_EQ(counts({.temperature = 2.0, .seed = 1, .top_k = 1}, 50)[1], 50);
  EXPECT_EQ(counts({.temperature = 1.0, .seed = 1, .top_k = 1000}, 200),
            counts({.temperature = 1.0, .seed = 1, .min_p = 1e-9}, 200));
  // 0.15 is less than 0.4 times 0.5, 0.3 is more.
  const std::vector<int> near = counts({.temperature = 1.0, .seed = 1, .min_p = 0.4}, 8000);
  EXPECT_EQ(near[2] + near[3], 0);
  EXPECT_GT(near[0], 2000);
  // top_p counts what top_k left: 0.5 of 0.8.
  EXPECT_EQ(counts({.temperature = 1.0, .top_p = 0.6, .seed = 1, .top_k = 2}, 50)[1], 50);
}

TEST(Sampler, RefusesLogitsThatSayNothing) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const double temperature : {0.0, 1.0}) {
    Sampler sampler({.temperature = temperature});
    for (const float wrong : {std::nanf(""), inf}) {
      test::expect_error(
          ErrorKind::kFailure,
          [&] {
            sampler.next(std::vector<float>{1.0f, wrong, 0.0f});
          },
          "not finite");
    }
    test::expect_error(
        ErrorKind::kFailure,
        [&] {
          sampler.next(std::vector<float>{-inf, -inf});
        },
        "no token");
    EXPECT_EQ(sampler.next(std::vector<float>{-inf, -3.0f, -inf}), 1);
  }
}

TEST(LogitRules, AreWhatTheirFormulasSay) {
  const std::vector<std::int32_t> prompt = {0, 1};
  LogitEditor editor(
      {.bias = {{3, -100.0f}}, .presence_penalty = 0.5, .frequency_penalty = 0.25, .repetition_penalty = 2.0},
      prompt);
  editor.add(2);
  editor.add(2);
  std::vector<float> logits = {4.0f, -4.0f, 4.0f, 4.0f, 4.0f};
  editor.apply(logits);
  EXPECT_EQ(logits, (std::vector<float>{2.0f, -8.0f, 2.0f - 0.5f - 2 * 0.25f, -96.0f, 4.0f}));
  EXPECT_TRUE(LogitEditor({}, prompt).changes_nothing());
}

TEST(TokenChances, AreLogProbabilities) {
  const TokenChances chances = token_chances(kLogits, 3, 2);
  EXPECT_NEAR(chances.logprob, std::log(0.15), 1e-6);
  ASSERT_EQ(chances.top.size(), 2u);
  EXPECT_EQ(chances.top[0].id, 1);
  EXPECT_NEAR(chances.top[0].logprob, std::log(0.5), 1e-6);
  EXPECT_EQ(chances.top[1].id, 0);
  EXPECT_EQ(token_chances(std::vector<float>{1.0f, 2.0f, 2.0f}, 0, 9).top[0].id, 1);
  EXPECT_THROW(token_chances(std::vector<float>{1.0f, std::nanf("")}, 0, 1), Error);
}

TEST(Sampler, SeedDecides) {
  EXPECT_EQ(counts({.temperature = 1.0, .seed = 5}, 100), counts({.temperature = 1.0, .seed = 5}, 100));
  EXPECT_NE(counts({.temperature = 1.0, .seed = 5}, 100), counts({.temperature = 1.0, .seed = 6}, 100));
}

}  // namespace
}  // namespace swiftprune
