// One model's blocks passing through device memory: two slots, of which one is read while the other computes.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "swiftprune/cuda/forward/block.h"
#include "swiftprune/cuda/forward/streaming.h"
#include "swiftprune/cuda/sparse/tuning.h"

namespace swiftprune::cuda {

// Rows of whole sequences that go through a block together.
struct Pass {
  std::int64_t first_row = 0;
  std::int64_t rows = 0;
  std::int64_t length = 0;  // of each sequence
};

class BlockStream {
 public:
  // Passes of at most `rows` rows, sequences of at most `longest` positions. tuner (or null): packed weights
  // take the form that is fastest for such passes.
  BlockStream(DeviceMemory& memory, Products& products, const Model& model, int device, DeviceTuner* tuner,
              std::int64_t rows, std::int64_t longest, DType compute, cudaStream_t stream);

  // hidden becomes the output of the last block. step(): behind each block.
  void run(DeviceView hidden, std::span<const Pass> passes, const std::function<void()>& step);
  // Loads block `layer`, and from then on the next one; layers come in order, from 0.
  BlockWeights& load(std::int64_t layer);
  // Packed weights of a loaded block in their form for so many passes.
  void choose_forms(BlockWeights& block, std::int64_t rows, std::int64_t passes);
  BlockForward& forward() { return forward_; }

 private:
  DeviceMemory& memory_;
  const Model& model_;
  DeviceTuner* tuner_;
  cudaStream_t stream_;
  BlockForward forward_;
  std::vector<BlockWeights> slots_;
  BlockLoader loader_;  // ends before the slots that it fills
};

}  // namespace swiftprune::cuda
