// The calibration windows run through the shrinking model alone, sub-layer by sub-layer: one forward, and the
// inputs of each output projection are seen before it changes. (two_streams.h runs the dense model beside
// it.) In memory: the hidden states and the input of the current output projection.
#pragma once

#include <functional>
#include <vector>

#include "swiftprune/calibration/activation_stats.h"
#include "swiftprune/model/model.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune {

class OneStream {
 public:
  OneStream(const Model& model, const Backend& backend, const TokenWindows& windows);

  // Packed; must outlive finish_block(). Then collect() for kAttentionOutput and kMlpOutput, in this order,
  // the projection being changed and packed again before the next call.
  void start_block(const DecoderBlock& block);
  // Runs up to this input and adds it to the statistics, if given.
  void collect(LinearInput output, ActivationStats* stats);
  void finish_block();

 private:
  void for_rows(const std::function<void(std::int64_t first_row, std::int64_t rows)>& body) const;
  void add_output(LinearInput which);
  // [rows, I] tokens weighted by 1/rms(output), as two_streams.h does where a norm follows: x_t /
  // √rms(output_t).
  Matrix relative_to_output(LinearInput which, ConstMatrixView x) const;

  const Model& model_;
  const Backend& backend_;
  const TokenWindows& windows_;
  std::vector<RopeTable> ropes_;
  const DecoderBlock* block_ = nullptr;
  Matrix hidden_;  // [N, hidden]
  Matrix inner_;   // [N, largest I] input of the current output projection, in the first columns
  std::int64_t inner_size_ = 0;
  Matrix block_input_;  // what the MLP reads with a parallel residual; else empty
};

}  // namespace swiftprune
