// The calibration windows run through the dense and through the pruned model side by side, sub-layer by
// sub-layer, so that each linear is pruned for the inputs that it will really get and against the ones it got
// in the dense model.
//
// In memory: the hidden states of both streams and the pruned stream's input of the current output projection
// (N·(2·hidden + max(heads·head_size, intermediate)) floats for N calibration tokens; with a parallel
// residual 2·N·hidden more). Work: two forwards of each block.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/model/model.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

class TwoStreams {
 public:
  TwoStreams(const Model& model, const Backend& backend, const TokenWindows& windows);

  // Both packed; they must outlive finish_block(). Then collect() for each LinearInput in order, the linears
  // that read it being changed in `pruned` and packed again before the next call.
  void start_block(const DecoderBlock& dense, const DecoderBlock& pruned);
  // Runs both streams up to this input and adds it to the statistics, if given. Tokens weigh the same but for
  // the inputs of output projections: there an error counts relative to the residual that it joins,
  // 1/rms(residual), and, where the output is normed before it joins, to its own size, 1/rms(output); in the
  // dense stream. (A common factor of all weights cancels in the solution.)
  void collect(LinearInput input, ActivationStats* stats);
  void finish_block();

  const Matrix& hidden() const { return hidden_; }              // [N, hidden] of the pruned stream
  const Matrix& dense_hidden() const { return dense_hidden_; }  // [N, hidden]

 private:
  void for_rows(const std::function<void(std::int64_t first_row, std::int64_t rows)>& body) const;
  void add(ActivationStats& stats, const AlignedWindow& rows) const;
  void collect_normed(LinearInput input, ActivationStats* stats);
  void collect_output(LinearInput which, ActivationStats* stats);
  void add_output(LinearInput which);
  Matrix inner(const DecoderBlock& block, LinearInput which, ConstMatrixView hidden) const;

  const Model& model_;
  const Backend& backend_;
  const TokenWindows& windows_;
  std::vector<RopeTable> ropes_;
  const DecoderBlock* dense_ = nullptr;
  const DecoderBlock* pruned_ = nullptr;
  Matrix hidden_, dense_hidden_;
  Matrix inner_;                            // [N, I] pruned stream's input of the current output projection
  Matrix block_input_, dense_block_input_;  // what the MLP reads with a parallel residual; else empty
};

}  // namespace swiftprune
