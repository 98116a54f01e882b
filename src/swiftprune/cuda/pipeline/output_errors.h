// The relative change of each linear's outputs on its calibration inputs (TensorResult::error), on the
// device: the same rows as on the processor, sums in double.
#pragma once

#include <optional>
#include <vector>

#include "swiftprune/cuda/refinement/refiner.h"
#include "swiftprune/cuda/runtime/products.h"
#include "swiftprune/cuda/runtime/runtime.h"
#include "swiftprune/cuda/statistics/calibration.h"
#include "swiftprune/model/model.h"

namespace swiftprune::cuda {

class OutputErrors {
 public:
  OutputErrors(DeviceMemory& memory, Products& products, const Model& model, cudaStream_t stream);

  void start_block();
  // The sampled rows of a weight that is about to change. slot: number of the linear in its block, or, of an expert's
  // parts, behind those of all blocks; one linear at a time uses it.
  void keep(std::size_t linear, std::size_t slot, DeviceView weight, cudaStream_t lane);
  // Of a weight whose rows were kept, else nothing. refiner: prepared for its input, or null when nothing was
  // refined and the statistics are as they were collected.
  void measure(std::size_t linear, DeviceView pruned, const DeviceStats& stats, DeviceRefiner* refiner);
  // Begins to copy the sums to the host; the stream tells when they are there.
  void download();
  std::optional<double> error(std::size_t linear) const;

 private:
  struct Linear {
    std::uint64_t offset = 0;   // of its rows in kept_, once they are
    std::int64_t num_kept = 0;  // 0: not pruned
    bool measured = false;
  };
  void energies(DeviceView rows, const DeviceStats& stats, DeviceRefiner* refiner, double* sums);
  double* sums_of(std::size_t linear, int which) const;

  Products& products_;
  cudaStream_t stream_;
  std::vector<Linear> linears_;       // those of an expert behind those that every token passes
  std::vector<std::uint64_t> slots_;  // where the rows of each begin in kept_
  DeviceBuffer kept_;                 // the sampled rows of all linears of a block, and of one expert
  DeviceBuffer rows_, product_;       // [sampled rows, I] F32 of the linear in hand
  DeviceBuffer pruned_rows_;          // in the weight's dtype
  DeviceBuffer sums_;                 // by linear: energies of the change and of the whole, by row
  PinnedBuffer host_;
};

}  // namespace swiftprune::cuda
