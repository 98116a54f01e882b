// A row-major float matrix of a great many rows of which few may ever be written: memory comes with the first write to
// it and goes with release_from(), in the system's small pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "swiftprune/tensor/matrix.h"

namespace swiftprune {

class GrowingMatrix {
 public:
  GrowingMatrix() = default;
  // Throws std::bad_alloc when even the addresses cannot be had.
  GrowingMatrix(std::int64_t rows, std::int64_t cols);

  std::int64_t rows() const { return rows_; }
  float* row(std::int64_t r) { return data_.get() + r * cols_; }
  ConstMatrixView view() const { return {data_.get(), rows_, cols_, cols_}; }
  // The first rows become those of a matrix of as many columns.
  void copy_rows(const GrowingMatrix& other, std::int64_t count);
  // The rows from this one on hold nothing any more.
  void release_from(std::int64_t row);

 private:
  struct Unmap {
    std::size_t bytes;
    void operator()(float* data) const;
  };
  std::unique_ptr<float[], Unmap> data_;
  std::int64_t rows_ = 0;
  std::int64_t cols_ = 0;
};

}  // namespace swiftprune
