#include "swiftprune/cuda/inverse.h"

#include "swiftprune/core/checked_math.h"
#include "swiftprune/cuda/kernels.h"

namespace swiftprune::cuda {
namespace {

// Rows of the first half: whole base blocks.
std::int64_t first_half(std::int64_t n) { return round_up(ceil_div(n, 2), kInverseBlock); }

}  // namespace

std::int64_t inverse_scratch(std::int64_t n) {
  if (n <= kInverseBlock) return 0;
  const std::int64_t h = first_half(n);
  return std::max(inverse_scratch(h), round_up((n - h) * h, 64) + inverse_scratch(n - h));
}

void invert_spd(Products& products, DeviceView a, float* scratch, int* bad, cudaStream_t stream) {
  const std::int64_t n = a.rows;
  if (n <= kInverseBlock) {
    if (n > 0) invert_block(static_cast<float*>(a.data), a.stride, n, bad, stream);
    return;
  }
  const std::int64_t h = first_half(n);
  const DeviceView top = a.row_block(0, h).col_block(0, h);
  const DeviceView side = a.row_block(h, n - h).col_block(0, h);
  const DeviceView rest = a.row_block(h, n - h).col_block(h, n - h);
  const DeviceView upper = a.row_block(0, h).col_block(h, n - h);
  invert_spd(products, top, scratch, bad, stream);
  const DeviceView x = view_of(scratch, DType::kF32, n - h, h);
  products.run({.a = side, .b = top, .c = x});
  products.run({.a = x, .b = side, .c = rest, .b_transposed = true, .alpha = -1.0f, .beta = 1.0f});
  invert_spd(products, rest, scratch + round_up((n - h) * h, 64), bad, stream);
  products.run({.a = rest, .b = x, .c = side, .alpha = -1.0f});
  products.run({.a = x, .b = side, .c = top, .a_transposed = true, .alpha = -1.0f, .beta = 1.0f});
  transpose(static_cast<const float*>(side.data), side.stride, n - h, h, static_cast<float*>(upper.data),
            upper.stride, stream);
}

}  // namespace swiftprune::cuda
