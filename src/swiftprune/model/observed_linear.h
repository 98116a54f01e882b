// Which of the observed inputs a linear reads.
#pragma once

#include <algorithm>

#include "swiftprune/model/model_config.h"

namespace swiftprune {

// Does calibration see what it reads? The inner linears of latent attention (q_b, kv_b) read what the outer ones give,
// which no observer is handed.
inline bool is_observed(const LinearTensors& linear, std::int64_t hidden_size) {
  return linear.input != LinearInput::kAttention || linear.inputs == hidden_size;
}

// Width of what is observed of the block's input, of which a linear may read a part (ParallelMixer).
inline std::int64_t observed_width(const BlockConfig& block, LinearInput input, std::int64_t hidden_size) {
  std::int64_t width = 0;
  for (const LinearTensors& linear : linears_of(block)) {
    if (linear.input == input && is_observed(linear, hidden_size))
      width = std::max(width, linear.first_input + linear.inputs);
  }
  return width;
}

}  // namespace swiftprune
