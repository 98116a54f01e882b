// The block that a shop on the processor has in hand.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <utility>

#include "swiftprune/model/decoder_block.h"
#include "swiftprune/model/model.h"

namespace swiftprune {

class CpuBlock {
 public:
  CpuBlock(const Model& model, const Backend& backend, ComputeType compute)
      : model_(model), backend_(backend), compute_(compute) {}

  // twin: with the dense block beside it, which stays as it is.
  void load(std::int64_t layer, bool twin) {
    release();
    layer_ = layer;
    block_.emplace(model_.load_block(layer));
    if (twin) dense_.emplace(model_.load_block(layer));
    packed_ = {};
  }

  void release() {
    if (!block_) return;
    block_.reset();
    dense_.reset();
    model_.release_block(layer_);
  }

  // Weights or biases of the linears that read `input` are other ones now.
  void changed(LinearInput input) { packed_[static_cast<std::size_t>(input)] = false; }

  // What changed since it was packed.
  void pack() {
    for (std::size_t i = 0; i < packed_.size(); ++i) {
      if (!std::exchange(packed_[i], true)) block_->pack(backend_, compute_, static_cast<LinearInput>(i));
    }
  }

  void pack_dense() { dense_->pack(backend_, compute_); }

  std::int64_t layer() const { return layer_; }
  DecoderBlock& dense() { return *dense_; }
  DecoderBlock& operator*() { return *block_; }
  const DecoderBlock& operator*() const { return *block_; }
  DecoderBlock* operator->() { return &*block_; }
  const DecoderBlock* operator->() const { return &*block_; }

 private:
  const Model& model_;
  const Backend& backend_;
  ComputeType compute_;
  std::int64_t layer_ = -1;
  std::optional<DecoderBlock> block_, dense_;
  std::array<bool, kNumLinearInputs> packed_{};
};

}  // namespace swiftprune
