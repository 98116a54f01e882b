// A window on row-major weights in their checkpoint's element type (F32, F16 or BF16, little endian, any
// alignment): what is scored and pruned without a float copy.
#pragma once

#include <cstddef>
#include <cstdint>

#include "swiftprune/core/error.h"
#include "swiftprune/tensor/dtype.h"
#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

// Byte is std::byte or const std::byte. `stride`: elements from one row to the next, >= cols.
template <class Byte>
struct BasicWeightView {
  Byte* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;

  Byte* row(std::int64_t r) const { return data + r * stride * size_of(dtype); }
  std::int64_t numel() const { return rows * cols; }
  BasicWeightView row_block(std::int64_t first, std::int64_t count) const {
    expect(first >= 0 && count >= 0 && first + count <= rows, "row_block: rows inside the matrix");
    return {row(first), dtype, count, cols, stride};
  }
  operator BasicWeightView<const Byte>() const { return {data, dtype, rows, cols, stride}; }
};

using MutableWeightView = BasicWeightView<std::byte>;
using WeightView = BasicWeightView<const std::byte>;

inline WeightView weight_view(ConstMatrixView m) {
  return {reinterpret_cast<const std::byte*>(m.data), DType::kF32, m.rows, m.cols, m.stride};
}
inline MutableWeightView mutable_weight_view(MatrixView m) {
  return {reinterpret_cast<std::byte*>(m.data), DType::kF32, m.rows, m.cols, m.stride};
}

}  // namespace swiftprune
