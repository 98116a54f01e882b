// What the kernels of weights on a grid share (grid.cu, grid_descent.cu).
#pragma once

#include "swiftprune/cuda/refinement/grid_kernels.h"
#include "swiftprune/cuda/runtime/device_math.cuh"

namespace swiftprune::cuda {

constexpr int kGridThreads = 256;
constexpr int kGridWarps = kGridThreads / kWarp;

__device__ __forceinline__ int top_code(const GridRows& grid) { return (1 << grid.bits) - 1; }
__device__ __forceinline__ float middle_code(const GridRows& grid) {
  return static_cast<float>(1 << (grid.bits - 1));
}

// The nearest f16 that is normal.
__device__ __forceinline__ float scale_of(double scale) {
  const double inside = fmin(fmax(scale, 6.103515625e-05), 65504.0);
  return __half2float(__float2half_rn(static_cast<float>(inside)));
}

struct Group {
  float scale = 1.0f, lowest = 0.0f, highest = 0.0f;
};
__device__ __forceinline__ Group make_group(float scale, float zero, int top) {
  return {scale, -zero, static_cast<float>(top) - zero};
}
__device__ __forceinline__ float on_grid(const Group& group, float value) {
  return group.scale * rintf(fminf(fmaxf(value / group.scale, group.lowest), group.highest));
}
__device__ __forceinline__ float code_of(float w, float scale) { return rintf(w / scale); }

}  // namespace swiftprune::cuda
