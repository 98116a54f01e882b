// What is left of experts that were taken out, in the output biases of those that stay: each bias takes the mean of what
// the layer lacks where its expert is used. As MoNE (arXiv 2507.00390) puts its mean output in a removed expert's place,
// where the router has no row for that one any more.
#pragma once

#include <cstdint>
#include <span>

#include "swiftprune/model/router.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

// A = Σ_t w_t·g_t g_tᵀ [members, members] of the weights g_t of the experts that each token uses. weights w [N].
Matrix gate_moments(const Routing& routing, std::span<const double> weights, std::int64_t members);

// argmin over B [members, hidden] of Σ_t w_t·|lacking_t − Bᵀg_t|² + damping·Σ_j A_jj·|B_j|², from A = gate_moments() and
// L = Σ_t w_t·g_t lacking_tᵀ [members, hidden]. A member whose row of A is zero gets zeros.
Matrix fit_expert_biases(Matrix gates, Matrix lacking, double damping);

}  // namespace swiftprune
