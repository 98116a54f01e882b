// Selection over whole matrices: the patterns layer and block. Its memory grows with what it is asked for.
#pragma once

#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/cuda/selection/selection_kernels.h"
#include "swiftprune/selection/pattern.h"

namespace swiftprune::cuda {

class MatrixSelect {
 public:
  MatrixSelect(DeviceMemory& memory, cudaStream_t stream) : memory_(memory), stream_(stream) {}

  // How many of the `count` lowest weights of the matrix each row has, on the device: for prune_rows().
  // Stands until the next call.
  const std::int32_t* row_counts(const PruneRowsArgs& args, std::int64_t count);
  // The same on the host.
  std::vector<std::int64_t> host_row_counts(const PruneRowsArgs& args, std::int64_t count);
  // Fills the mask [rows, cols] of Kind::kBlock by the tiles' sums of key^power. Waits for the device.
  void tiles(const PruneRowsArgs& args, const PruneTarget& target, int power, std::uint8_t* mask);

 private:
  DeviceMemory& memory_;
  cudaStream_t stream_;
  DeviceBuffer scratch_, counts_, sums_, kept_;
};

}  // namespace swiftprune::cuda
