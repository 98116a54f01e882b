#include "swiftprune/model/block_linear.h"

#include "swiftprune/core/error.h"

namespace swiftprune {

void pack_linear(const Backend& backend, ComputeType compute, BlockLinear& linear) {
  if (!linear.compact) linear.packed = backend.pack(linear.weight.view(), compute);
  if (!linear.low_rank) return;
  linear.packed_left = backend.pack(linear.low_rank->left.view(), compute);
  linear.packed_right = backend.pack(linear.low_rank->right.view(), compute);
}

void add_low_rank(const BlockLinear& linear, const Backend& backend, ConstMatrixView x, MatrixView y) {
  if (!linear.low_rank) return;
  expect(linear.packed_right != nullptr, "pack() comes before forward()");
  Matrix inner(x.rows, linear.low_rank->rank()), beside(x.rows, linear.tensors.outputs);
  backend.linear(x, *linear.packed_right, {}, inner.view());
  backend.linear(inner.view(), *linear.packed_left, {}, beside.view());
  backend.add(beside.view(), y);
}

Matrix run_linear(const BlockLinear& linear, const Backend& backend, ConstMatrixView x, ComputeType compute) {
  Matrix y(x.rows, linear.tensors.outputs);
  if (linear.compact) {
    linear.compact->forward(x, linear.bias, y.view(), compute);
  } else {
    expect(linear.packed != nullptr, "pack() comes before forward()");
    backend.linear(x, *linear.packed, linear.bias, y.view());
  }
  add_low_rank(linear, backend, x, y.view());
  if (linear.tensors.scale != 1.0f) {
    for (float& value : y.values()) value *= linear.tensors.scale;
  }
  return y;
}

}  // namespace swiftprune
