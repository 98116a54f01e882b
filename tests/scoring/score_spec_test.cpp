// Specs of scores: text in and out, numbers to the bit, and a score that no list knows yet.
#include "swiftprune/scoring/score_spec.h"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/spec_text.h"
#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

TEST(ScoreSpec, EveryKindOfTheListIsWhole) {
  EXPECT_EQ(score_kinds().size(), 8u);
  for (const ScoreKind* kind : score_kinds()) {
    EXPECT_EQ(parse_score(kind->name), ScoreSpec(*kind));
    EXPECT_EQ(&parse_score(kind->name).kind(), kind);
    EXPECT_FALSE(kind->summary.empty());
    EXPECT_FALSE(kind->source.empty());
    EXPECT_NE(kind->from_statistics == nullptr, kind->from_weights == nullptr) << kind->name;
  }
}

// Records and plan files keep what the user wrote.
TEST(ScoreSpec, PrintsTheTextThatWasGiven) {
  for (const char* text : {"wanda", "ria", "ria(0.7)", "ria(0.70)", "ria(7e-1)", "random", "random(12)"}) {
    EXPECT_EQ(format(parse_score(text)), text);
    EXPECT_EQ(parse_score(format(parse_score(text))), parse_score(text));
  }
  EXPECT_EQ(parse_score("ria"), parse_score("ria(0.70)"));
  EXPECT_NE(parse_score("ria"), parse_score("ria(0.5)"));
  EXPECT_NE(parse_score("wanda"), parse_score("stade"));
  EXPECT_EQ(format(ScoreSpec(kRiaScore)), "ria(0.7)");
  EXPECT_EQ(format(ScoreSpec(kWandaScore)), "wanda");
  EXPECT_EQ(format(ScoreSpec()), "magnitude");
}

TEST(ScoreSpec, NumbersComeBackToTheBit) {
  std::mt19937_64 generator(1);
  std::uniform_real_distribution<double> exponent(0.0, 4.0);
  std::uniform_int_distribution<std::int64_t> seed(0, std::int64_t{1} << 53);
  for (int i = 0; i < 2000; ++i) {
    // Also numbers of very different sizes.
    const ScoreSpec ria(kRiaScore, i % 2 == 0 ? exponent(generator) : std::ldexp(exponent(generator), -i));
    EXPECT_EQ(parse_score(format(ria)).parameter(), ria.parameter()) << format(ria);
    const ScoreSpec random(kRandomScore, static_cast<double>(seed(generator)));
    EXPECT_EQ(parse_score(format(random)).parameter(), random.parameter()) << format(random);
  }
}

TEST(ScoreSpec, FactsComeFromTheKind) {
  EXPECT_TRUE(parse_score("contribution").needs().ewma_energy);
  EXPECT_TRUE(parse_score("obs").needs().gram);
  EXPECT_FALSE(parse_score("magnitude").needs().any());
  EXPECT_TRUE(parse_score("ria").reads_weights());
  EXPECT_FALSE(parse_score("wanda").reads_weights());
}

TEST(ScoreSpec, RefusesWhatIsNoSpec) {
  for (const char* text : {"", "l2", "wanda(1)", "wanda()", "ria(", "ria()", "ria(x)", "ria(-1)", "ria(nan)",
                           "ria(9)", "ria(0.5,1)", "random(1.5)", "random(-1)", "ria(0.5)x", "ria(0.5"}) {
    test::expect_error(
        ErrorKind::kUsage, [&] { parse_score(text); }, "score", text);
  }
  test::expect_error(
      ErrorKind::kUsage, [] { parse_score("ria(9)"); }, "from 0 to 4", "default 0.7");
  test::expect_error(
      ErrorKind::kUsage, [] { parse_score("l2"); }, "wanda, ria");
}

// What a new score takes: one constant in a file of its own, and its name in the list.
const ScoreKind kExercise{.name = "exercise",
                          .summary = "|w|·e_j^a",
                          .source = "this test",
                          .needs = {.energy = true},
                          .parameter = {.meaning = "a", .fallback = 2.0, .range = {.min = 0.0, .max = 3.0}},
                          .from_statistics = [](const ScoreInput& input) {
                            Scores scores;
                            scores.column = column_factors(input.num_inputs, [&](std::size_t j) {
                              return std::pow(input.stats.energy[j], input.parameter);
                            });
                            return scores;
                          }};

TEST(ScoreSpec, ANewScoreIsParsedAndComputedFromItsConstant) {
  std::vector<const ScoreKind*> kinds(score_kinds().begin(), score_kinds().end());
  kinds.push_back(&kExercise);
  const ScoreSpec spec = parse_score("exercise(1.5)", kinds);
  EXPECT_EQ(format(spec), "exercise(1.5)");
  EXPECT_EQ(spec.parameter(), 1.5);
  EXPECT_EQ(parse_score("exercise", kinds).parameter(), 2.0);
  test::expect_error(
      ErrorKind::kUsage, [&] { parse_score("exercise(4)", kinds); }, "from 0 to 3");
  const std::vector<double> energy = {1.0, 4.0, 9.0};
  const auto backend = make_reference_backend();
  const LayerStats stats{.num_tokens = 1, .energy = energy};
  const Scores scores = make_scorer(spec)->factors(3, stats, *backend, "t");
  EXPECT_EQ(scores.column, (std::vector<float>{1.0f, 8.0f, 27.0f}));
}

}  // namespace
}  // namespace swiftprune
