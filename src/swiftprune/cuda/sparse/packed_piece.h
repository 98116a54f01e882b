// Rows of packed weights in the kernels' order (packed_kernels.h), as one launch takes them, and the device memory that
// holds them.
#pragma once

#include <cstdint>
#include <span>

#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/cuda/sparse/entry_buffers.h"
#include "swiftprune/cuda/sparse/packed_kernels.h"
#include "swiftprune/sparse/packed_tensor.h"

namespace swiftprune::cuda {

struct PackedPiece {
  enum class Kind { kDense, kBitmap, kEntries, kTwoFour, kGrid, kTwoFourGrid };

  Kind kind = Kind::kDense;
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  DeviceBuffer values, starts, indices, scales;
  Stored stored = Stored::kHalf;
  std::int64_t most = 0;
  QuantGrid grid = {};
  DeviceBuffer zeros;
  EntryBuffers entries;

  BitmapWeight bitmap() const;
  TwoFourWeight two_four() const;
  GridWeight grid_weight(std::int64_t cols) const;
  TwoFourGridWeight two_four_grid(std::int64_t cols) const;
  std::uint64_t bytes() const;  // but for entries, which tell their own
};

// The kind that a linear of its own becomes.
PackedPiece::Kind kind_of(const PackedTensor& part);
bool is_few_bits(PackedPiece::Kind kind);

// The parts' rows one after another, each from a panel of its own on: parts of one kind, width and, where they have one,
// grid. They wait until the bytes are on the device.
PackedPiece make_bitmap(DeviceMemory& memory, std::span<const PackedTensor> parts, cudaStream_t stream);
PackedPiece make_two_four(DeviceMemory& memory, std::span<const PackedTensor> parts, cudaStream_t stream);
// two_four: as TwoFourGridWeight, else as GridWeight.
PackedPiece make_grid(DeviceMemory& memory, std::span<const PackedTensor> parts, bool two_four,
                      cudaStream_t stream);
// Dense weights of 16 bits; those of grids are rounded.
PackedPiece make_dense(DeviceMemory& memory, std::span<const PackedTensor> parts, DType dtype,
                       cudaStream_t stream);

// A product's operands but for the weight: x [N, I] -> y [N, rows] (+)= · + bias.
CompactArgs compact_args(DeviceView x, std::int64_t rows, const void* bias, DeviceView y, bool accumulate);

}  // namespace swiftprune::cuda
