// The calibration windows on the device: hidden states of all windows, one stream of them or the dense and
// the pruned one side by side (pipeline/streams/two_streams.h, whose order of work and weights this follows).
#pragma once

#include <functional>

#include "swiftprune/cuda/forward/block.h"
#include "swiftprune/cuda/statistics/calibration.h"
#include "swiftprune/text/token_windows.h"

namespace swiftprune::cuda {

// Windows of one pass share their rows: about so many tokens.
inline constexpr std::int64_t kTokensPerPass = 4096;
std::int64_t rows_per_pass(const TokenWindows& windows);

// Calls body(first_row, rows) over all rows, whole windows at a time.
void for_passes(const TokenWindows& windows, const std::function<void(std::int64_t, std::int64_t)>& body);

// Embedded windows on the device [N, hidden] F32.
DeviceMatrix embed(DeviceMemory& memory, const Model& model, const TokenWindows& windows,
                   cudaStream_t stream);

// The same shape and dtype, contiguous, on the device.
void copy(DeviceView from, DeviceView to, cudaStream_t stream);

// One stream, sub-layer by sub-layer (pipeline/streams/one_stream.h).
class DeviceOneStream {
 public:
  // scratch: with room for weighted inputs where a norm follows the projections (Gemma).
  DeviceOneStream(DeviceMemory& memory, Products& products, BlockForward& forward,
                  const StatisticsScratch& scratch, const Model& model, const TokenWindows& windows,
                  cudaStream_t stream);
  // Then collect() for kAttentionOutput and kMlpOutput, in this order; the projection may change after its
  // call.
  void start_block(const BlockWeights& block);
  void collect(LinearInput output, DeviceStats* stats);
  void finish_block();

 private:
  void add_output(LinearInput which);

  Products& products_;
  BlockForward& forward_;
  const StatisticsScratch& scratch_;
  const ModelConfig& model_;
  const TokenWindows& windows_;
  cudaStream_t stream_;
  const BlockWeights* block_ = nullptr;
  DeviceMatrix hidden_;       // [N, hidden]
  DeviceMatrix block_input_;  // what the MLP reads with a parallel residual; else empty
  DeviceBuffer inner_;        // [N, I] input of the current output projection
  std::int64_t inner_cols_ = 0;
  DeviceBuffer roots_;
};

class DeviceTwoStreams {
 public:
  DeviceTwoStreams(DeviceMemory& memory, Products& products, BlockForward& forward,
                   const StatisticsScratch& scratch, const Model& model, const TokenWindows& windows,
                   cudaStream_t stream);
  void start_block(const BlockWeights& dense, const BlockWeights& pruned);
  void collect(LinearInput input, DeviceStats* stats);
  void finish_block();

 private:
  void collect_normed(LinearInput input, DeviceStats& stats);
  void collect_output(LinearInput which, DeviceStats* stats);
  void add_output(LinearInput which);
  DeviceView inner(const BlockWeights& block, LinearInput which, DeviceView hidden);
  DeviceView source(LinearInput input, bool dense) const;

  Products& products_;
  BlockForward& forward_;
  const StatisticsScratch& scratch_;
  const ModelConfig& model_;
  const TokenWindows& windows_;
  cudaStream_t stream_;
  const BlockWeights* dense_ = nullptr;
  const BlockWeights* pruned_ = nullptr;
  DeviceMatrix hidden_, dense_hidden_;
  DeviceMatrix block_input_, dense_block_input_;  // what the MLP reads with a parallel residual; else empty
  DeviceBuffer inner_;  // [N, I] pruned stream's input of the current output projection
  std::int64_t inner_cols_ = 0;
  DeviceBuffer roots_;
};

}  // namespace swiftprune::cuda
