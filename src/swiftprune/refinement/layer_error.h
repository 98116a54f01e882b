// The change of a linear's outputs on the calibration inputs: E(D) = tr D G Dᵀ for a change D of the weights.
#pragma once

#include <optional>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/scoring/layer_stats.h"
#include "swiftprune/tensor/low_rank.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

// w_r G w_rᵀ of each row, sums in double. [O]
std::vector<double> row_energies(ConstMatrixView weight, ConstMatrixView gram, const Backend& backend);
// The same with the Gram matrix of `stats`, or, where none was kept, from the inputs' energies, as if they
// were uncorrelated.
std::vector<double> row_energies(ConstMatrixView weight, const LayerStats& stats, const Backend& backend);
// Their sum, rows added in order: E of a change [O, I].
double layer_error(ConstMatrixView change, ConstMatrixView gram, const Backend& backend);

// Relative change of the linear's outputs on its calibration inputs, |X (W - B)ᵀ|² / |X Wᵀ|²; nothing without
// calibration. Over every output_error_step(rows)-th row (256 to 511 of them) where the Gram matrix is known, else from
// the channels' energies, as if they were uncorrelated.
std::optional<double> output_error(ConstMatrixView dense, ConstMatrixView pruned, const LayerStats& stats,
                                   const Backend& backend);
std::int64_t output_error_step(std::int64_t rows);
// Of the change to the whole; 0 where there is nothing.
double relative_error(double change, double whole);

// weight + L [O, I], where L stands beside it.
Matrix sum_of(ConstMatrixView weight, const LowRank& low_rank, const Backend& backend);

// a - b over every `step`-th row, as a matrix of those rows; b may be empty (counts as zero).
Matrix sampled_difference(ConstMatrixView a, ConstMatrixView b, std::int64_t step);

}  // namespace swiftprune
