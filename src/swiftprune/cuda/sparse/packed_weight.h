// Packed linears on the device: bitmaps and 2:4 as they are (their bytes in the order of packed_kernels.h), grids of 4
// and 3 bits as codes of 4 bits with their scales, 2:4 of them without what is pruned, others with zeros among them;
// grids of 8 bits as dense weights of 16 bits; other kinds as whichever of bitmap16 and dense takes fewer bytes.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "swiftprune/cuda/runtime/products.h"
#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/cuda/sparse/packed_piece.h"
#include "swiftprune/cuda/sparse/structured.h"
#include "swiftprune/sparse/packed_tensor.h"

namespace swiftprune::cuda {

// y [N, O] (+)= x [N, I] Wᵀ + bias for a dense weight that nothing on the stream writes any more: few tokens by a kernel
// that reads it while the work before still runs, others by the library.
void linear_at_rest(Products& products, DeviceView x, DeviceView weight, const void* bias, DeviceView y,
                    bool accumulate, cudaStream_t stream);

class DevicePacked {
 public:
  // The rows of `parts` one after another, as one weight [ΣO, I]; parts of one dtype and width. Waits until
  // the bytes are on the device. Dense 8-bit kinds become 16-bit weights (value · scale, rounded). dtype: BF16 or F16,
  // of x and of what is expanded; that of the parts but for grids, which have none of their own.
  DevicePacked(DeviceMemory& memory, std::span<const PackedTensor> parts, DType dtype, cudaStream_t stream);

  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  DType dtype() const { return dtype_; }
  std::uint64_t bytes() const { return bytes_; }  // on the device: read by a product of a few tokens
  bool is_dense() const;                          // nothing in it is left out
  bool has_grids() const;  // few bits, whose second form would take several times as many
  // Shape, kinds, dtype and density in twentieths: what its speed depends on.
  const std::string& description() const { return description_; }

  // Memory for the length of a call.
  struct Scratch {
    void* data = nullptr;
    std::uint64_t bytes = 0;
  };
  // x [N, I] of dtype() -> y [N, ΣO] (+)= x Wᵀ + bias [ΣO] of y's dtype (dtype() or F32; sums only F32). Up
  // to kMaxDecodeTokens tokens (of grids and, on newer devices, of bitmaps and 2:4 a few times as many) read the packed
  // bytes; more use the second form, where there is one, else
  // expanded weights (bytes times scale, rounded to 16 bits) and a dense product, for which `scratch` holds
  // ΣO·I elements.
  void linear(Products& products, DeviceView x, const void* bias, DeviceView y, bool accumulate,
              Scratch scratch, cudaStream_t stream) const;
  // dense [ΣO, I], contiguous
  void expand(void* dense, cudaStream_t stream) const;

  // A dense copy in place of the packed bytes, or beside them for many tokens.
  void become_dense(DeviceMemory& memory, cudaStream_t stream);
  void keep_dense(DeviceMemory& memory, cudaStream_t stream);
  // The same weight as entries (entries.h) in place of bitmaps of 16 bits, which is for very few tokens; only when
  // can_be_entries(). Needs memory for a dense copy on the way.
  bool can_be_entries() const;
  bool has_entries() const { return pieces_.front().kind == PackedPiece::Kind::kEntries; }
  DevicePacked as_entries(DeviceMemory& memory, cudaStream_t stream) const;
  // A copy in cuSPARSELt's form for many tokens without bias; only when can_be_structured(). Keeps a
  // reference to the library.
  bool can_be_structured() const;
  bool is_structured() const { return structured_.has_value(); }
  void keep_structured(DeviceMemory& memory, StructuredProducts& library,
                       const StructuredProducts::Algorithm& algorithm, cudaStream_t stream);

 private:
  DevicePacked() = default;
  void multiply_packed(Products& products, DeviceView x, const void* bias, DeviceView y, bool accumulate,
                       cudaStream_t stream) const;
  bool multiply_batch(DeviceView x, const void* bias, DeviceView y, bool accumulate,
                      cudaStream_t stream) const;
  bool multiply_structured(Products& products, DeviceView x, DeviceView y, bool accumulate, Scratch scratch,
                           cudaStream_t stream) const;

  // The second form.
  struct Structured {
    StructuredProducts* library = nullptr;
    StructuredProducts::Algorithm algorithm;
    StructuredProducts::Weight weight;
  };
  std::optional<Structured> structured_;
  DeviceBuffer dense_;

  std::vector<PackedPiece> pieces_;  // parts whose panels follow each other
  std::string description_;
  std::int64_t rows_ = 0, cols_ = 0;
  DType dtype_ = DType::kBF16;
  std::uint64_t bytes_ = 0;
};

}  // namespace swiftprune::cuda
