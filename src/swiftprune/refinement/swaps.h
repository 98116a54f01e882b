// The kept weights stay as they are, only the mask changes: greedy exchanges of one kept weight p and one
// pruned weight q of a row, each by its exact change of the error. With d the pruned part of the row and
// c = G d:  ΔE = 2 w_p c_p + w_p² G_pp - 2 w_q c_q + w_q² G_qq - 2 w_p w_q G_pq.
// Unstructured rows look at the 32 × 32 pairs that are best by themselves, n:m at all pairs inside a group.
// The error never rises.
#pragma once

#include <memory>

#include "swiftprune/refinement/refiner.h"

namespace swiftprune {

std::unique_ptr<Refiner> make_swaps(const SwapsOptions& options);

}  // namespace swiftprune
