// |w|·√e_j (arXiv 2306.11695)
#include <cmath>

#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

Scores wanda(const ScoreInput& input) {
  Scores scores;
  scores.column =
      column_factors(input.num_inputs, [&](std::size_t j) { return std::sqrt(input.stats.energy[j]); });
  return scores;
}

}  // namespace

constinit const ScoreKind kWandaScore{.name = "wanda",
                                      .summary = "|w|·√e_j",
                                      .source = "arXiv 2306.11695",
                                      .needs = {.energy = true},
                                      .from_statistics = wanda};

}  // namespace swiftprune
