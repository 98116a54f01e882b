// Specs of refinements: text in and out, numbers to the bit, facts of parts and chains.
#include "swiftprune/refinement/refine_spec.h"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

#include "support/expect_error.h"
#include "support/spec_text.h"

namespace swiftprune {
namespace {

TEST(RefineSpec, ListAndDefaults) {
  ASSERT_EQ(refiners().size(), 8u);
  EXPECT_EQ(refiners().front().name, "none");
  ASSERT_EQ(all_refine_parts().size() + 1, refiners().size());
  for (std::size_t i = 0; i < all_refine_parts().size(); ++i) {
    const RefinePart& part = all_refine_parts()[i];
    EXPECT_EQ(name_of(part), refiners()[i + 1].name);
    EXPECT_EQ(parse_refine(name_of(part)), RefineSpec({part}));
    EXPECT_EQ(part.index(), i);
  }
  EXPECT_EQ(parse_refine("admm").parts().front(), RefinePart(AdmmOptions{}));
  EXPECT_EQ(parse_refine("admm(10)").parts().front(), RefinePart(AdmmOptions{.steps = 10, .ramp = 8}));
  EXPECT_EQ(parse_refine("aligned-admm(8)").parts().front(),
            RefinePart(AlignedAdmmOptions{.steps = 8, .ramp = 6}));
  EXPECT_EQ(AdmmOptions{}.ramp, 15);
}

// Records and plan files keep what the user wrote.
TEST(RefineSpec, PrintsTheTextThatWasGiven) {
  for (const char* text :
       {"none", "pcg", "pcg(20)", "pcg(2e1,0.10)", "admm", "admm(20)", "admm(20,15)", "admm(20,15,0.05,1)",
        "aligned-admm(20,15)", "aligned-admm(20,15,0,0.25)", "swaps(50)", "sparsegpt", "sparsegpt(0.1)",
        "admm(20,15)+pcg(20)", "swaps+pcg", "rtn", "gptq", "gptq(0.05,1)", "aligned-admm(20,15)+gptq"}) {
    EXPECT_EQ(format(parse_refine(text)), text);
    EXPECT_EQ(parse_refine(format(parse_refine(text))), parse_refine(text));
  }
  EXPECT_EQ(parse_refine("admm"), parse_refine("admm(20,15,0.1)"));
  EXPECT_NE(parse_refine("admm"), parse_refine("admm(20,14)"));
  EXPECT_NE(parse_refine("admm"), parse_refine("none"));
  EXPECT_EQ(format(RefineSpec()), "none");
  EXPECT_EQ(format(RefineSpec({AdmmOptions{}, PcgOptions{}})), "admm(20,15)+pcg(20)");
  EXPECT_EQ(format(RefineSpec({SparseGptOptions{}})), "sparsegpt");
  EXPECT_EQ(format(RefineSpec({PcgOptions{.steps = 5, .damping = 0.1}})), "pcg(5,0.1)");
}

TEST(RefineSpec, NumbersComeBackToTheBit) {
  std::mt19937_64 generator(1);
  std::uniform_int_distribution<int> steps(1, 1000);
  std::uniform_real_distribution<double> exponent(-6.0, 3.0);
  std::uniform_real_distribution<double> share(0.0, 1.0);
  const auto damping = [&] { return std::pow(10.0, exponent(generator)); };
  for (int i = 0; i < 2000; ++i) {
    const RefineSpec specs[] = {
        RefineSpec({PcgOptions{.steps = steps(generator), .damping = damping()}}),
        RefineSpec({AdmmOptions{
            .steps = steps(generator), .ramp = steps(generator), .damping = damping(), .rho = damping()}}),
        RefineSpec({AlignedAdmmOptions{.steps = steps(generator),
                                       .ramp = steps(generator),
                                       .alpha = share(generator),
                                       .beta = share(generator)},
                    SwapsOptions{.max_swaps = steps(generator)}, PcgOptions{.damping = damping()}}),
        RefineSpec({SparseGptOptions{.damping = damping()}})};
    for (const RefineSpec& spec : specs) EXPECT_EQ(parse_refine(format(spec)), spec) << format(spec);
  }
}

TEST(RefineSpec, Facts) {
  const auto facts = [](std::string_view text) { return parse_refine(text).facts(); };
  EXPECT_TRUE(facts("none").uses_mask && facts("none").keeps_weights && !facts("none").uses_gram);
  EXPECT_FALSE(parse_refine("none").needs().any());
  EXPECT_FALSE(facts("admm+pcg").uses_mask);
  EXPECT_TRUE(facts("aligned-admm+pcg").uses_alignment);
  EXPECT_FALSE(facts("admm+pcg").uses_alignment);
  EXPECT_TRUE(facts("swaps+pcg").uses_mask);
  EXPECT_TRUE(facts("swaps").keeps_weights);
  EXPECT_FALSE(facts("swaps+pcg").keeps_weights);
  EXPECT_TRUE(facts("admm+swaps").moves_single_weights);
  EXPECT_TRUE(parse_refine("sparsegpt").needs().gram && parse_refine("sparsegpt").needs().energy);
  // Only the last part puts the weights on the grid.
  EXPECT_TRUE(facts("admm").finds_grid && !facts("admm").needs_grid);
  EXPECT_FALSE(facts("admm+pcg").finds_grid);
  EXPECT_TRUE(facts("admm+gptq").finds_grid && facts("admm+gptq").needs_grid);
  EXPECT_TRUE(facts("rtn").uses_mask && !parse_refine("rtn").needs().any());
  // The refiner that is made of a spec has the spec's facts.
  for (const char* text : {"none", "pcg", "admm", "aligned-admm", "swaps", "sparsegpt", "swaps+pcg",
                           "admm+swaps", "rtn", "gptq", "admm+rtn"}) {
    const auto refiner = make_refiner(text);
    EXPECT_EQ(refiner->uses_gram(), facts(text).uses_gram) << text;
    EXPECT_EQ(refiner->uses_mask(), facts(text).uses_mask) << text;
    EXPECT_EQ(refiner->keeps_weights(), facts(text).keeps_weights) << text;
    EXPECT_EQ(refiner->uses_alignment(), facts(text).uses_alignment) << text;
  }
}

TEST(RefineSpec, RefusesWhatIsNoSpec) {
  for (const char* text : {"",
                           "newton",
                           "pcg(",
                           "pcg()",
                           "pcg(0)",
                           "pcg(1.5)",
                           "pcg(5,)",
                           "pcg(5,1,2)",
                           "pcg(5)x",
                           "pcg(nan)",
                           "admm(20;15)",
                           "none(1)",
                           "sparsegpt(0)",
                           "aligned-admm(20,15,2)",
                           "pcg+",
                           "+pcg",
                           "pcg+admm",
                           "rtn(1)",
                           "gptq(0.01,2)",
                           "rtn+pcg",
                           "gptq+rtn",
                           "none+pcg",
                           "admm+none",
                           "admm(1e9)"}) {
    test::expect_error(
        ErrorKind::kUsage, [&] { parse_refine(text); }, "refine");
  }
  test::expect_error(
      ErrorKind::kUsage, [] { parse_refine("pcg(0)"); }, "steps 20, damping 0.01");
  test::expect_error(
      ErrorKind::kUsage, [] { parse_refine("pcg+admm"); }, "pcg+admm", "can follow");
  test::expect_error(
      ErrorKind::kUsage, [] { parse_refine("newton"); }, "none, pcg, admm");
  test::expect_error(
      ErrorKind::kUsage,
      [] {
        RefineSpec({PcgOptions{}, AdmmOptions{}});
      },
      "can follow");
}

TEST(RefineSpec, PatternsThatARefinementCannotKeep) {
  const Pattern tiles = parse_pattern("block:4x8");
  test::expect_error(
      ErrorKind::kUsage, [&] { check_pattern(parse_refine("admm+swaps").facts(), tiles, "w"); }, "swaps",
      "block:4x8");
  check_pattern(parse_refine("admm+pcg").facts(), tiles, "w");
  check_pattern(parse_refine("swaps").facts(), parse_pattern("2:4"), "w");
}

}  // namespace
}  // namespace swiftprune
