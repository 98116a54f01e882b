// SparseGPT (Frantar and Alistarh, arXiv 2301.00774, algorithm 1): column by column, each pruned weight's
// error is compensated in the columns after it through the Cholesky factor of the inverse Hessian, H⁻¹ = Uᵀ
// U. Unstructured masks are chosen for a block of 128 columns at once (one threshold of (w / U_jj)² for all
// rows), n:m masks group by group; columns beyond the block are updated by one product a block.
#pragma once

#include <memory>

#include "swiftprune/refinement/refiner.h"

namespace swiftprune {

std::unique_ptr<Refiner> make_sparsegpt(const SparseGptOptions& options);

}  // namespace swiftprune
