// The weights of one expert while it is pruned, in the checkpoint's dtype, as they were and as they become. The block
// itself holds its experts in the compute dtype alone (block_weights.h).
#pragma once

#include <span>
#include <vector>

#include "swiftprune/cuda/forward/block_weights.h"

namespace swiftprune::cuda {

class HeldExpert {
 public:
  // Room for an expert of any block of the model, which has some.
  HeldExpert(DeviceMemory& memory, const Model& model, cudaStream_t stream);

  // Would the next take() write where an earlier expert's pruned weights are, which then must have been read?
  bool wraps() const { return next_ == slots_.size(); }
  // From now on this is about an expert of the block, which stays where it is until drop().
  void take(const BlockWeights& block, std::int64_t expert);
  void drop() { expert_ = -1; }
  std::int64_t expert() const { return expert_; }  // -1: none

  // Its linears in the order of parts_of(); without offsets.
  std::span<const BlockLayout::Weight> parts() const { return parts_; }
  DeviceView dense(std::size_t part) const;
  DeviceView pruned(std::size_t part) const;
  // The pruned weight becomes the block's own.
  void put(std::size_t part, BlockWeights& block) const;

 private:
  const Model& model_;
  cudaStream_t stream_;
  std::vector<DeviceBuffer> slots_;  // pruned weights of the last experts
  DeviceBuffer original_;            // where the block holds others than the checkpoint
  std::size_t next_ = 0;
  std::int64_t expert_ = -1;
  std::vector<BlockLayout::Weight> parts_;
  std::vector<DeviceView> dense_;
  std::vector<std::uint64_t> offsets_;  // of the parts in a slot and in original_
};

}  // namespace swiftprune::cuda
