// The memory that holds a weight's entries (entries.h), made of a dense matrix on the device.
#pragma once

#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/cuda/sparse/entries.h"

namespace swiftprune::cuda {

// The entries of a dense matrix, which are its weights whose bits are not all 0, and the memory that holds them.
class EntryBuffers {
 public:
  EntryBuffers() = default;
  // dense [rows, cols] of 16-bit numbers, contiguous; cols <= kMostEntryCols. Waits for the stream.
  EntryBuffers(DeviceMemory& memory, const void* dense, std::int64_t rows, std::int64_t cols,
               cudaStream_t stream);
  EntryWeight weight() const;
  std::uint64_t bytes() const;

 private:
  DeviceBuffer tiles_, ranges_, first_panels_, range_columns_, panel_columns_, lengths_, rows_;
  int blocks_ = 0;
  int most_panels_ = 0;
};

}  // namespace swiftprune::cuda
