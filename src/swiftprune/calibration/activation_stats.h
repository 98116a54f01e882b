// Statistics of one input of a block's linears over the calibration windows: what scores and refinements
// read.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "swiftprune/backend/backend.h"
#include "swiftprune/scoring/layer_stats.h"

namespace swiftprune {

class ActivationStats {
 public:
  ActivationStats(std::int64_t num_inputs, const StatNeeds& needs);

  // x [T, I]: the inputs of one window; windows come in their order (the EWMA depends on it).
  void add_window(const Backend& backend, ConstMatrixView x);
  // After the last window. Throws Error{kBadInput} naming `input` when an activation was not finite.
  void finish(std::string_view input);

  LayerStats view() const;

 private:
  StatNeeds needs_;
  std::int64_t num_tokens_ = 0;
  std::int64_t num_windows_ = 0;
  std::vector<double> energy_, ewma_energy_, sum_;
  Matrix gram_;
};

}  // namespace swiftprune
