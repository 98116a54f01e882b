// ADMM towards the dense model: in a pruned model the inputs x of a linear already carry the error of the
// layers before it, so W x is no longer what its output should be. With the inputs x_d of the dense model at
// the same place, G = Σ x xᵀ, C = Σ x_d xᵀ and R = Σ (r_d - r) xᵀ of the residuals that the output is added
// to, the target is
//   T = W·[(1 - α)G + αC] + βR
// and min |B x - target|² + damping·|(B - W)n|² with n_j = √(G_jj + 1e-8·mean) is solved by the steps of
// admm.h with T/n + damping·W' in place of W'A. A full correction (α = β = 1) fits the noise of the
// calibration text; the defaults are measured (docs/method.md). Then each row is scaled by clip(√(e_d/e),
// 1/2, 2)^½, where e_d and e are the energies w G wᵀ of its old and new weights: what sparsity takes from the
// output's variance comes back.
//
// A low-rank part (admm.h) is fit to the weights (T/n + damping·W')A⁻¹ that would be best without zeros, and its rows are
// scaled with the weights'.
//
// Without cross moments (C = G) and residuals (R = 0) T = W·G, and only the scaling differs from admm.
#pragma once

#include <memory>

#include "swiftprune/refinement/refiner.h"

namespace swiftprune {

std::unique_ptr<Refiner> make_aligned_admm(const AlignedAdmmOptions& options);

}  // namespace swiftprune
