// Statistics of one input of a block's linears over the calibration windows: what scores and refinements
// read.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/scoring/layer_stats.h"

namespace swiftprune {

// One window of the pruned stream beside the dense one.
struct AlignedWindow {
  ConstMatrixView x{};         // [T, I] inputs of the pruned stream
  ConstMatrixView dense_x{};   // [T, I] of the dense stream
  ConstMatrixView residual{};  // [T, hidden] of the pruned stream, before the output is added; may be empty
  ConstMatrixView dense_residual{};  // [T, hidden]
  std::span<const float> weights{};  // [T] of the tokens in all sums, >= 0; empty: 1
};

// Inputs of the first window that StatNeeds::sample keeps, at most.
inline constexpr std::int64_t kSampledTokens = 1024;

// How much window number `window` (from 0) moves the EWMA over the windows: the mean of the first eight, then
// a memory of about eight.
double ewma_window_weight(std::int64_t window);

class ActivationStats {
 public:
  // residual_size: hidden size where residual moments are wanted, else 0. compute: how Gram and other moments
  // are multiplied; the linears of a bf16 forward round their inputs in the same way.
  ActivationStats(std::int64_t num_inputs, const StatNeeds& needs, std::int64_t residual_size = 0,
                  ComputeType compute = ComputeType::kF32);

  // x [T, I]: the inputs of one window; windows come in their order (the EWMA depends on it). for_gram: the
  // same tokens as the Gram matrix is to count them; empty: x. A window may be without tokens.
  void add_window(const Backend& backend, ConstMatrixView x, ConstMatrixView for_gram = {});
  // The same with the moments against the dense stream, where they are needed.
  void add_window(const Backend& backend, const AlignedWindow& window);
  // After the last window. Throws Error{kBadInput} naming `input` when an activation was not finite.
  void finish(std::string_view input);

  LayerStats view() const;
  bool has_gram() const { return needs_.gram; }

 private:
  StatNeeds needs_;
  ComputeType compute_;
  std::int64_t num_tokens_ = 0;
  std::int64_t num_windows_ = 0;
  std::vector<double> energy_, ewma_energy_, sum_;
  Matrix gram_, cross_, residual_, sample_;
};

}  // namespace swiftprune
