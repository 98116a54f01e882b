#include "swiftprune/model/block_linear.h"

#include "swiftprune/core/error.h"

namespace swiftprune {

Matrix run_linear(const BlockLinear& linear, const Backend& backend, ConstMatrixView x, ComputeType compute) {
  Matrix y(x.rows, linear.tensors.outputs);
  if (linear.compact) {
    linear.compact->forward(x, linear.bias, y.view(), compute);
  } else {
    expect(linear.packed != nullptr, "pack() comes before forward()");
    backend.linear(x, *linear.packed, linear.bias, y.view());
  }
  if (linear.tensors.scale != 1.0f) {
    for (float& value : y.values()) value *= linear.tensors.scale;
  }
  return y;
}

}  // namespace swiftprune
