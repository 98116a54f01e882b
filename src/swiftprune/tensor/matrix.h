// Row-major float matrices: MatrixView is a window on somebody's memory, Matrix owns (move-only, 64-byte
// aligned). All arithmetic of swiftprune is done on float; checkpoints' 16-bit weights are converted when a
// block is loaded.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "swiftprune/core/error.h"

namespace swiftprune {

// T is float or const float. `stride`: elements from one row to the next, >= cols.
template <class T>
struct BasicMatrixView {
  T* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;

  T* row(std::int64_t r) const { return data + r * stride; }
  std::span<T> row_span(std::int64_t r) const { return {row(r), static_cast<std::size_t>(cols)}; }
  T& at(std::int64_t r, std::int64_t c) const { return data[r * stride + c]; }
  std::int64_t numel() const { return rows * cols; }
  BasicMatrixView row_block(std::int64_t first, std::int64_t count) const {
    expect(first >= 0 && count >= 0 && first + count <= rows, "row_block: rows inside the matrix");
    return {data + first * stride, count, cols, stride};
  }
  BasicMatrixView col_block(std::int64_t first, std::int64_t count) const {
    expect(first >= 0 && count >= 0 && first + count <= cols, "col_block: columns inside the matrix");
    return {data + first, rows, count, stride};
  }
  operator BasicMatrixView<const T>() const { return {data, rows, cols, stride}; }
};

using MatrixView = BasicMatrixView<float>;
using ConstMatrixView = BasicMatrixView<const float>;

class Matrix {
 public:
  Matrix() = default;
  Matrix(std::int64_t rows, std::int64_t cols);  // uninitialised
  static Matrix zeros(std::int64_t rows, std::int64_t cols);
  Matrix clone() const;

  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  std::int64_t numel() const { return rows_ * cols_; }
  bool empty() const { return numel() == 0; }
  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }
  float* row(std::int64_t r) { return data_.get() + r * cols_; }
  const float* row(std::int64_t r) const { return data_.get() + r * cols_; }
  float& at(std::int64_t r, std::int64_t c) { return data_[static_cast<std::size_t>(r * cols_ + c)]; }
  float at(std::int64_t r, std::int64_t c) const { return data_[static_cast<std::size_t>(r * cols_ + c)]; }
  std::span<float> values() { return {data_.get(), static_cast<std::size_t>(numel())}; }
  std::span<const float> values() const { return {data_.get(), static_cast<std::size_t>(numel())}; }
  MatrixView view() { return {data_.get(), rows_, cols_, cols_}; }
  ConstMatrixView view() const { return {data_.get(), rows_, cols_, cols_}; }

 private:
  struct Free {
    std::size_t bytes;
    void operator()(float* p) const;
  };
  std::unique_ptr<float[], Free> data_;
  std::int64_t rows_ = 0;
  std::int64_t cols_ = 0;
};

// A contiguous copy of any window.
Matrix copy_of(ConstMatrixView m);

}  // namespace swiftprune
