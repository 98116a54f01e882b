// The packed linears of all experts of a block that read one input, on the device: rows of one after those of the other,
// each linear from a panel of its own on, so that an expert's number says where its weights lie. Grids are codes of 4
// bits (of 8 where theirs are of 8), all others bitmaps.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "swiftprune/cuda/runtime/products.h"
#include "swiftprune/cuda/sparse/packed_piece.h"

namespace swiftprune::cuda {

class ExpertStack {
 public:
  // Why linears of these shapes, which read one input, make no stack for products in `dtype`, as "found .., expected ..";
  // nothing where they do. All must be on one grid, or on none and of `dtype`.
  static std::optional<std::string> problem(const PackedShape& first, const PackedShape& other, DType dtype);

  // parts: expert by expert, `linears` of each, all of one shape [rows, cols] and without a problem(). Waits until the
  // bytes are on the device. dtype: of x, BF16 or F16. Bitmaps of 8 bits stay what they are where all are; else those and
  // dense weights of 8 bits are rounded to 16.
  ExpertStack(DeviceMemory& memory, std::span<const PackedTensor> parts, std::int64_t linears, DType dtype,
              cudaStream_t stream);

  std::int64_t outputs() const { return linears_ * rows_; }  // of an expert
  std::int64_t cols() const { return cols_; }
  std::uint64_t bytes() const { return piece_.bytes(); }
  std::uint64_t expert_bytes() const { return bytes() / static_cast<std::uint64_t>(experts_); }  // on average
  // All of it, for kernels that find the expert themselves.
  StackedWeight weight() const;

  // x [N, I] -> y [N, outputs()] = x Wᵀ + bias with the weights of one expert; bias of y's dtype or null. Few tokens read
  // the packed bytes; more a dense copy, made in `scratch`: outputs()·I elements of x's dtype at least.
  void linear(Products& products, std::int64_t expert, DeviceView x, const void* bias, DeviceView y,
              DeviceView scratch, cudaStream_t stream) const;

 private:
  bool multiply(std::int64_t panel, DeviceView x, const void* bias, DeviceView y, cudaStream_t stream) const;
  void expand(std::int64_t panel, std::int64_t rows, void* dense, cudaStream_t stream) const;

  PackedPiece piece_;
  std::int64_t experts_ = 0, linears_ = 0, rows_ = 0, cols_ = 0;
  DType dtype_;
};

}  // namespace swiftprune::cuda
