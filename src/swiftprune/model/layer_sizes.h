// Widths, numbers of heads and numbers of experts that differ from block to block: a key of config.json that only this
// project knows,
//   "swiftprune_layer_sizes": {"intermediate_size": [1408, 896, ...], "num_key_value_heads": [3, 2, ...],
//                              "num_experts": [0, 48, 61, ...]}
// with one number a block in each list, or in some of them; 0 experts stand for a block without. The usual fields of
// config.json then hold the largest number, so that other programs find tensors of the wrong shape and refuse the model.
#pragma once

#include <string_view>

#include <nlohmann/json.hpp>

#include "swiftprune/model/model_config.h"

namespace swiftprune {

inline constexpr std::string_view kLayerSizesField = "swiftprune_layer_sizes";
inline constexpr std::string_view kLayerWidths = "intermediate_size";
inline constexpr std::string_view kLayerGroups = "num_key_value_heads";
inline constexpr std::string_view kLayerExperts = "num_experts";

// Gives the blocks of `model` the sizes that config.json lists, if it does. Throws Error{kBadInput} when a
// list has another length than there are blocks, a number that is not between 1 and the model's own, or one of experts
// that the block's router cannot choose from.
void apply_layer_sizes(const nlohmann::json& config, ModelConfig& model);

}  // namespace swiftprune
