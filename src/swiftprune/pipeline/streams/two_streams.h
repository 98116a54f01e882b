// The calibration windows run through the dense and through the pruned model side by side, sub-layer by
// sub-layer, so that each linear is pruned for the inputs that it will really get and against the ones it got
// in the dense model. The order of work for every device; what it does to rows of hidden states is its Ops.
//
// In memory: the hidden states of both streams and the pruned stream's input of the current output projection
// (N·(2·hidden + heads·head_size or intermediate) values for N calibration tokens; with a parallel residual
// 2·N·hidden more). Work: two forwards of each block.
#pragma once

#include "swiftprune/core/error.h"
#include "swiftprune/pipeline/streams/sub_layers.h"

namespace swiftprune {

template <class Ops>
class TwoStreams {
 public:
  using Block = typename Ops::Block;
  using Stats = typename Ops::Stats;
  using Hidden = typename Ops::Hidden;

  explicit TwoStreams(Ops& ops) : ops_(ops), hidden_(ops.embed()), dense_hidden_(ops.clone(hidden_)) {
    if (!ops.config().parallel_residual) return;
    block_input_ = ops.clone(hidden_);
    dense_block_input_ = ops.clone(hidden_);
  }

  // Both packed; they must outlive finish_block(). Then collect() for each LinearInput in order, the linears
  // that read it being changed in `pruned` and packed again before the next call.
  void start_block(const Block& dense, const Block& pruned) {
    dense_ = &dense;
    pruned_ = &pruned;
    if (!ops_.config().parallel_residual) return;
    ops_.assign(hidden_, block_input_);
    ops_.assign(dense_hidden_, dense_block_input_);
  }

  // Runs both streams up to this input and adds it to the statistics, if given. Tokens weigh the same but for
  // the inputs of output projections: there an error counts relative to the residual that it joins,
  // 1/rms(residual), and, where the output is normed before it joins, to its own size, 1/rms(output); in the
  // dense stream. (A common factor of all weights cancels in the solution.)
  void collect(LinearInput input, Stats* stats) {
    expect(dense_ != nullptr, "collect: start_block() comes first");
    if (input == LinearInput::kMlp) add_output(LinearInput::kAttentionOutput);
    if (is_output(input)) {
      collect_output(input, stats);
    } else if (stats != nullptr) {
      collect_normed(input, *stats);
    }
  }

  void finish_block() {
    add_output(LinearInput::kMlpOutput);
    dense_ = pruned_ = nullptr;
  }

  // Instead of finish_block(), where what is behind collect(kMlp) was done to the hidden states elsewhere (the
  // experts of a block, expert_stream.h).
  void leave_block() { dense_ = pruned_ = nullptr; }

  Hidden& hidden() { return hidden_; }
  Hidden& dense_hidden() { return dense_hidden_; }
  const Hidden& hidden() const { return hidden_; }              // [N, row_size] of the pruned stream
  const Hidden& dense_hidden() const { return dense_hidden_; }  // [N, row_size]

 private:
  void collect_normed(LinearInput input, Stats& stats) {
    ops_.for_rows([&](std::int64_t first, std::int64_t count) {
      const auto x = ops_.hold(ops_.input_of(*pruned_, input, ops_.rows(source(input, false), first, count)));
      const auto dense = ops_.input_of(*dense_, input, ops_.rows(source(input, true), first, count));
      ops_.add_aligned(stats, ops_.view(x), ops_.view(dense));
    });
  }

  void collect_output(LinearInput which, Stats* stats) {
    ops_.for_rows([&](std::int64_t first, std::int64_t count) {
      const auto x = ops_.keep_inner(
          first, run_sub_layer(ops_, *pruned_, which, ops_.rows(source(which, false), first, count)));
      const auto dense = run_sub_layer(ops_, *dense_, which, ops_.rows(source(which, true), first, count));
      auto dense_out = ops_.project(*dense_, which, ops_.view(dense));
      const auto dense_hidden = ops_.rows(dense_hidden_, first, count);
      if (stats != nullptr) {
        ops_.add_aligned_output(*stats, *dense_, which, x, ops_.view(dense), ops_.rows(hidden_, first, count),
                                dense_hidden, ops_.norms_output(*dense_, which) ? &dense_out : nullptr);
      }
      ops_.add_projected(*dense_, which, dense_out, dense_hidden);
    });
  }

  void add_output(LinearInput which) { add_outputs(ops_, *pruned_, which, hidden_); }

  // What a sub-layer reads.
  Hidden& source(LinearInput input, bool dense) {
    const bool from_input = reads_block_input(ops_.config(), input);
    if (dense) return from_input ? dense_block_input_ : dense_hidden_;
    return from_input ? block_input_ : hidden_;
  }

  Ops& ops_;
  const Block* dense_ = nullptr;
  const Block* pruned_ = nullptr;
  Hidden hidden_, dense_hidden_;
  Hidden block_input_, dense_block_input_;  // what the MLP reads with a parallel residual; else empty
};

}  // namespace swiftprune
