#include "swiftprune/cuda/refinement/inverse.h"

#include <algorithm>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/cuda/refinement/refinement_kernels.h"

namespace swiftprune::cuda {
namespace {

// Rows of the first half: whole base blocks.
std::int64_t first_half(std::int64_t n) { return round_up(ceil_div(n, 2), inverse_block()); }
// Floats of one off-diagonal block, aligned.
std::int64_t side_size(std::int64_t n) { return round_up((n - first_half(n)) * first_half(n), 64); }

}  // namespace

std::int64_t inverse_scratch(std::int64_t n) {
  if (n <= inverse_block()) return 0;
  const std::int64_t h = first_half(n);
  return std::max(inverse_scratch(h), side_size(n) + std::max(side_size(n), inverse_scratch(n - h)));
}

void inverse_factor(Products& products, DeviceView a, float* scratch, int* bad, bool tf32,
                    cudaStream_t stream) {
  const std::int64_t n = a.rows;
  if (n <= inverse_block()) {
    if (n > 0) invert_block(static_cast<float*>(a.data), a.stride, n, bad, stream);
    return;
  }
  const std::int64_t h = first_half(n);
  const DeviceView top = a.row_block(0, h).col_block(0, h);
  const DeviceView side = a.row_block(h, n - h).col_block(0, h);
  const DeviceView rest = a.row_block(h, n - h).col_block(h, n - h);
  const DeviceView upper = a.row_block(0, h).col_block(h, n - h);
  inverse_factor(products, top, scratch, bad, tf32, stream);
  const DeviceView factor = view_of(scratch, DType::kF32, n - h, h);  // L₂₁
  products.run({.a = side, .b = top, .c = factor, .b_transposed = true, .tf32 = tf32});
  products.run({.a = factor,
                .b = factor,
                .c = rest,
                .b_transposed = true,
                .alpha = -1.0f,
                .beta = 1.0f,
                .tf32 = tf32});
  inverse_factor(products, rest, scratch + side_size(n), bad, tf32, stream);
  const DeviceView product = view_of(scratch + side_size(n), DType::kF32, n - h, h);  // L₂₁W₁
  products.run({.a = factor, .b = top, .c = product, .tf32 = tf32});
  products.run({.a = rest, .b = product, .c = side, .alpha = -1.0f, .tf32 = tf32});
  check(cudaMemset2DAsync(upper.data, static_cast<std::size_t>(upper.stride) * sizeof(float), 0,
                          static_cast<std::size_t>(upper.cols) * sizeof(float),
                          static_cast<std::size_t>(upper.rows), stream));
}

bool try_inverse_factor(Products& products, DeviceView a, float* scratch, int* bad, bool tf32,
                        cudaStream_t stream) {
  check(cudaMemsetAsync(bad, 0, sizeof(int), stream));
  inverse_factor(products, a, scratch, bad, tf32, stream);
  int found = 0;
  check(cudaMemcpyAsync(&found, bad, sizeof(int), cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  return found == 0;
}

}  // namespace swiftprune::cuda
