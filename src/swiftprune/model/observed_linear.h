// Whether calibration sees what a linear reads.
#pragma once

#include "swiftprune/model/model_config.h"

namespace swiftprune {

// The inner linears of latent attention (q_b, kv_b) read what the outer ones give, which no observer is handed.
inline bool is_observed(const LinearTensors& linear, std::int64_t hidden_size) {
  return linear.input != LinearInput::kAttention || linear.inputs == hidden_size;
}

}  // namespace swiftprune
