// The inverse of a symmetric positive definite matrix on the device, by halves: with M = [A Bᵀ; B D],
// X = B A⁻¹ and the Schur complement S = D - X Bᵀ, the inverse is [A⁻¹ + Xᵀ S⁻¹ X, -(S⁻¹X)ᵀ; -S⁻¹X, S⁻¹]. All
// but the small base blocks is products in float.
#pragma once

#include "swiftprune/cuda/products.h"

namespace swiftprune::cuda {

// Floats of scratch that invert_spd() needs.
std::int64_t inverse_scratch(std::int64_t n);
// a [n, n] (both halves given) becomes its inverse; *bad (device) is set when a pivot was not positive.
void invert_spd(Products& products, DeviceView a, float* scratch, int* bad, cudaStream_t stream);

}  // namespace swiftprune::cuda
