// w²·ē_j: the loss change of zeroing w as each calibration window saw it, ē an EWMA over the windows'
// energies. With a plain sum it would order like Wanda.
#include <cmath>

#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

Scores contribution(const ScoreInput& input) {
  Scores scores;
  scores.power = 2;
  scores.column =
      column_factors(input.num_inputs, [&](std::size_t j) { return std::sqrt(input.stats.ewma_energy[j]); });
  return scores;
}

}  // namespace

constinit const ScoreKind kContributionScore{.name = "contribution",
                                             .summary = "w²·EWMA over windows of e_j",
                                             .source = "SwiftPrune",
                                             .needs = {.ewma_energy = true},
                                             .from_statistics = contribution};

}  // namespace swiftprune
