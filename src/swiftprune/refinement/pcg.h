// Least squares on a fixed support: min tr (W - B)(G + δI)(W - B)ᵀ with B zero where the mask is, by T steps
// of conjugate gradients with the Jacobi preconditioner, each row by itself; δ = damping·mean(diag G).
// Source: Hestenes and Stiefel 1952; the step product of all rows is one matrix product.
#pragma once

#include <memory>

#include "swiftprune/refinement/refiner.h"

namespace swiftprune {

std::unique_ptr<Refiner> make_pcg(const PcgOptions& options);

}  // namespace swiftprune
