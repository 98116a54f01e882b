// A model's experts, for what treats all of its layers alike.
#pragma once

#include <algorithm>

#include "swiftprune/model/model_config.h"

namespace swiftprune {

// Of the first block that has experts, null where none has; in all of them as wide and as many a token, and as many but
// for models whose layers were given numbers of their own (layer_sizes.h).
inline const ExpertsConfig* experts_of(const ModelConfig& model) {
  const auto block = std::find_if(model.blocks.begin(), model.blocks.end(),
                                  [](const BlockConfig& b) { return b.experts.has_value(); });
  return block == model.blocks.end() ? nullptr : &*block->experts;
}

}  // namespace swiftprune
