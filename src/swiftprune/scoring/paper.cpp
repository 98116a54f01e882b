// w² / (1 - e_j/(S + ε)), S = Σ e_j, ε = 1e-6·S: the SwiftPrune paper's loss change. It is Optimal Brain
// Surgeon's w²/(2[H⁻¹]_jj) for the rank-one Hessian xxᵀ + λI by Sherman-Morrison.
#include <cmath>
#include <numeric>

#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

Scores paper(const ScoreInput& input) {
  const std::span<const double> energy = input.stats.energy;
  const double total = std::accumulate(energy.begin(), energy.end(), 0.0);
  const double bound = total > 0.0 ? total * (1.0 + 1e-6) : 1.0;
  Scores scores;
  scores.power = 2;
  scores.column = column_factors(input.num_inputs,
                                 [&](std::size_t j) { return 1.0 / std::sqrt(1.0 - energy[j] / bound); });
  return scores;
}

}  // namespace

constinit const ScoreKind kPaperScore{.name = "paper",
                                      .summary = "w² / (1 - e_j/(S + ε))",
                                      .source = "SwiftPrune",
                                      .needs = {.energy = true},
                                      .from_statistics = paper};

}  // namespace swiftprune
