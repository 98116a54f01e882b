#include "swiftprune/tensor/matrix.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "swiftprune/core/checked_math.h"
#include "swiftprune/tensor/large_buffer.h"

namespace swiftprune {

void Matrix::Free::operator()(float* p) const {
  if (bytes >= kLargeBytes) {
    free_large(p, bytes);
  } else {
    ::operator delete[](p, std::align_val_t{64});
  }
}

Matrix::Matrix(std::int64_t rows, std::int64_t cols) : rows_(rows), cols_(cols) {
  const std::int64_t shape[] = {rows, cols};
  expect(checked_numel(shape).has_value(), "Matrix: a size that fits");
  const auto bytes = static_cast<std::size_t>(std::max<std::int64_t>(1, rows * cols)) * sizeof(float);
  void* const memory =
      bytes >= kLargeBytes ? allocate_large(bytes) : ::operator new[](bytes, std::align_val_t{64});
  data_ = {static_cast<float*>(memory), Free{bytes}};
}

Matrix Matrix::zeros(std::int64_t rows, std::int64_t cols) {
  Matrix m(rows, cols);
  std::fill(m.values().begin(), m.values().end(), 0.0f);
  return m;
}

Matrix Matrix::clone() const {
  Matrix copy(rows_, cols_);
  if (!empty()) std::memcpy(copy.data(), data(), static_cast<std::size_t>(numel()) * sizeof(float));
  return copy;
}

Matrix copy_of(ConstMatrixView m) {
  Matrix copy(m.rows, m.cols);
  for (std::int64_t r = 0; r < m.rows; ++r) std::copy_n(m.row(r), m.cols, copy.row(r));
  return copy;
}

}  // namespace swiftprune
