// Gains of norms, as the file stores them.
#pragma once

#include <span>
#include <vector>

#include "swiftprune/checkpoint/checkpoint.h"
#include "swiftprune/model/model_config.h"

namespace swiftprune {

// Backend::rms_norm() takes the offset; to the gains of a LayerNorm it is added when they are loaded.
inline void add_gain_offset(const ModelConfig& model, std::span<float> gain) {
  if (model.norm != NormKind::kLayer) return;
  for (float& value : gain) value += model.norm_gain_offset;
}

// A norm's gain of `size` numbers, in whatever shape the file has it. Throws Error{kBadInput} naming the tensor.
std::vector<float> load_gain(const Checkpoint& checkpoint, const NormTensors& tensors, std::int64_t size);

}  // namespace swiftprune
