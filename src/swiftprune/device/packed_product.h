// A packed weight in a GPU's memory with its products, for programs whose tensors and streams are another library's
// (torch). Its code lies in the GPU library (device/cuda_library.h).
#pragma once

#include <cstdint>
#include <memory>

#include "swiftprune/sparse/packed_tensor.h"
#include "swiftprune/tensor/dtype.h"

namespace swiftprune {

class PackedProduct {
 public:
  virtual ~PackedProduct() = default;
  // Of x: 16 bits, the weight's own but for grids, which have none.
  virtual DType dtype() const = 0;
  virtual std::uint64_t bytes() const = 0;  // in the GPU's memory

  // x [tokens, cols] of dtype() -> y [tokens, rows] = x Wᵀ + bias, contiguous and in the GPU's memory; y and bias [rows]
  // (or null) are of y_dtype, dtype() or F32. Given to `stream`, a cudaStream_t, and not waited for. Sums are F32.
  // Throws Error{kDevice}.
  virtual void multiply(const void* x, std::int64_t tokens, const void* bias, void* y, DType y_dtype,
                        void* stream) const = 0;
};

// On GPU `index`; the packed bytes are not needed any more behind the call. Products of many tokens expand the weight into
// memory that all weights of a stream share. Throws Error{kDevice} where there is no GPU code or no such GPU.
std::unique_ptr<PackedProduct> make_packed_product(const PackedTensor& weight, int index, DType grid_dtype);

// What the GPU library exports for it (cuda/library.cpp).
inline constexpr const char* kPackedProductSymbol = "swiftprune_make_packed_product";
using MakePackedProductFn = PackedProduct* (*)(const PackedTensor& weight, int index, DType grid_dtype);

}  // namespace swiftprune
