// The change of a linear's outputs on the calibration inputs: E(D) = tr D G Dᵀ for a change D of the weights.
#pragma once

#include "swiftprune/backend/backend.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

// change [O, I], gram [I, I] -> E, each row's sum in double, rows added in order.
double layer_error(ConstMatrixView change, ConstMatrixView gram, const Backend& backend);

// a - b over every `step`-th row, as a matrix of those rows; b may be empty (counts as zero).
Matrix sampled_difference(ConstMatrixView a, ConstMatrixView b, std::int64_t step);

}  // namespace swiftprune
