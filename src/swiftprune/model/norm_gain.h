// Gains of norms that the file stores less one.
#pragma once

#include <span>

#include "swiftprune/model/model_config.h"

namespace swiftprune {

// Backend::rms_norm() takes the offset; to the gains of a LayerNorm it is added when they are loaded.
inline void add_gain_offset(const ModelConfig& model, std::span<float> gain) {
  if (model.norm != NormKind::kLayer) return;
  for (float& value : gain) value += model.norm_gain_offset;
}

}  // namespace swiftprune
