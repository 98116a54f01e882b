// The blocks of a model on the device, one after the other: while one is in hand the next loads into a second
// slot.
#pragma once

#include <functional>
#include <vector>

#include "swiftprune/cuda/forward/streaming.h"

namespace swiftprune::cuda {

class BlockSlots {
 public:
  BlockSlots(DeviceMemory& memory, const Model& model, DType compute, int device, const Stream& stream)
      : loader_(model, device), stream_(stream) {
    for (int i = 0; i < 2; ++i) slots_.emplace_back(memory, model, compute);
  }

  // Makes block `layer` the one in hand and begins to load `next` (-1: none) in place of the one before.
  // before_next: what else must be done with that one's weights, besides the stream.
  void load(std::int64_t layer, std::int64_t next, const std::function<void()>& before_next = {}) {
    if (loading_ != layer) {
      if (loading_ >= 0) loader_.finish();
      start(layer, before_next);
    }
    loader_.finish();
    loading_ = -1;
    in_hand_ = 1 - in_hand_;
    if (next >= 0) start(next, before_next);
    block().refresh(stream_);
  }
  // Begins to load a block that load() will ask for.
  void prefetch(std::int64_t layer) { start(layer, {}); }

  BlockWeights& block() { return slots_[in_hand_]; }
  const BlockWeights& block() const { return slots_[in_hand_]; }
  std::vector<BlockWeights>& slots() { return slots_; }
  double busy_seconds() const { return loader_.busy_seconds(); }

 private:
  void start(std::int64_t layer, const std::function<void()>& before) {
    stream_.synchronize();  // the block before may still be running on the weights that are replaced now
    if (before) before();
    loader_.start(layer, slots_[1 - in_hand_]);
    loading_ = layer;
  }

  std::vector<BlockWeights> slots_;
  BlockLoader loader_;
  const Stream& stream_;
  std::size_t in_hand_ = 0;  // the other slot gets the next block
  std::int64_t loading_ = -1;
};

}  // namespace swiftprune::cuda
