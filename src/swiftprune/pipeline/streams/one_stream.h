// The calibration windows run through the shrinking model alone, sub-layer by sub-layer: one forward, and the
// inputs of each output projection are seen before it changes. (two_streams.h runs the dense model beside
// it.) In memory: the hidden states and the input of the current output projection. The order of work for
// every device; what it does to rows of hidden states is its Ops.
#pragma once

#include "swiftprune/core/error.h"
#include "swiftprune/pipeline/streams/sub_layers.h"

namespace swiftprune {

template <class Ops>
class OneStream {
 public:
  using Block = typename Ops::Block;
  using Stats = typename Ops::Stats;

  explicit OneStream(Ops& ops) : ops_(ops), hidden_(ops.embed()) {
    if (ops.config().parallel_residual) block_input_ = ops.clone(hidden_);
  }

  // Packed; must outlive finish_block(). Then collect() for kAttentionOutput and kMlpOutput, in this order,
  // the projection being changed and packed again before the next call.
  void start_block(const Block& block) {
    block_ = &block;
    if (ops_.config().parallel_residual) ops_.assign(hidden_, block_input_);
  }

  // Runs up to this input and adds it to the statistics, if given. Where a norm follows the projection,
  // tokens count in the Gram matrix by 1/rms(output), as in two_streams.h.
  void collect(LinearInput output, Stats* stats) {
    expect(block_ != nullptr && is_output(output), "collect: an output projection after start_block()");
    if (output == LinearInput::kMlpOutput) add_output(LinearInput::kAttentionOutput);
    auto& source = reads_block_input(ops_.config(), output) ? block_input_ : hidden_;
    const bool relative = stats != nullptr && ops_.has_gram(*stats) && ops_.norms_output(*block_, output);
    ops_.for_rows([&](std::int64_t first, std::int64_t count) {
      const auto x =
          ops_.keep_inner(first, run_sub_layer(ops_, *block_, output, ops_.rows(source, first, count)));
      if (relative) {
        ops_.add_relative(*stats, x, ops_.project(*block_, output, x));
      } else if (stats != nullptr) {
        ops_.add(*stats, x);
      }
    });
  }

  void finish_block() {
    add_output(LinearInput::kMlpOutput);
    block_ = nullptr;
  }

 private:
  void add_output(LinearInput which) { add_outputs(ops_, *block_, which, hidden_); }

  Ops& ops_;
  const Block* block_ = nullptr;
  typename Ops::Hidden hidden_;       // [N, hidden]
  typename Ops::Hidden block_input_;  // what the MLP reads with a parallel residual; else empty
};

}  // namespace swiftprune
