// w² / [(G + 1 % of its mean diagonal)⁻¹]_jj: Optimal Brain Surgeon (Hassibi, Stork 1992) with the Hessian of
// the layer's output error.
#include "swiftprune/scoring/obs.h"

#include <cmath>

#include "swiftprune/backend/damped_inverse.h"
#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune {
namespace {

Scores obs(const ScoreInput& input) {
  const ConstMatrixView gram = input.stats.gram->view();
  const DampedInverse inverse = damped_inverse(gram, {.relative = kObsDamping, .unit = damping_unit(gram)},
                                               input.backend, input.tensor);
  Scores scores;
  scores.power = 2;
  scores.column = column_factors(input.num_inputs, [&](std::size_t j) {
    const auto i = static_cast<std::int64_t>(j);
    return 1.0 / std::sqrt(double{inverse.inverse.at(i, i)});
  });
  return scores;
}

}  // namespace

constinit const ScoreKind kObsScore{.name = "obs",
                                    .summary = "w² / [(XᵀX + damping)⁻¹]_jj",
                                    .source = "Hassibi and Stork 1992",
                                    .needs = {.gram = true},
                                    .from_statistics = obs};

}  // namespace swiftprune
