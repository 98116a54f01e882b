// ria's scores from the sums of |w|, for who has them already.
#pragma once

#include <span>

#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/scoring/scores.h"

namespace swiftprune {

// column_sums [I] = Σ_i |w_ij|, row_sums [O] = Σ_j |w_ij|; reads stats.energy and num_tokens.
Scores ria_scores(double exponent, std::span<const double> column_sums, std::span<const double> row_sums,
                  const LayerStats& stats);

}  // namespace swiftprune
