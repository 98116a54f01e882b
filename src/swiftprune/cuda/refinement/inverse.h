// The inverse Cholesky factor of a symmetric positive definite matrix on the device, by halves: with
// M = [A Bᵀ; B D] and W₁ = L₁⁻¹ of A = L₁L₁ᵀ, L₂₁ = B W₁ᵀ, the Schur complement is S = D - L₂₁L₂₁ᵀ with
// factor W₂, and W = [W₁ 0; -W₂L₂₁W₁ W₂]. All but the small base blocks is products in float. (The same
// recursion on inverses instead of factors loses digits with the square of the condition number.)
#pragma once

#include "swiftprune/cuda/runtime/products.h"

namespace swiftprune::cuda {

// Floats of scratch that inverse_factor() needs.
std::int64_t inverse_scratch(std::int64_t n);
// a [n, n] = L Lᵀ (both halves given) becomes W = L⁻¹, lower triangular with zeros above: a⁻¹ = WᵀW. *bad
// (device) is set when a pivot was not positive. tf32: products in TF32, for matrices with a large diagonal.
void inverse_factor(Products& products, DeviceView a, float* scratch, int* bad, bool tf32,
                    cudaStream_t stream);

// The same; waits for the device and returns whether every pivot was positive. bad: an int of the device.
bool try_inverse_factor(Products& products, DeviceView a, float* scratch, int* bad, bool tf32,
                        cudaStream_t stream);

}  // namespace swiftprune::cuda
