// What a model's forward does beyond the plainest decoder, as a list to hold a device against: one that lacks
// a feature refuses the model by the feature's name (Device::check_model) and never computes without it.
#pragma once

#include <string_view>
#include <vector>

#include "swiftprune/model/model_config.h"

namespace swiftprune {

enum class ModelFeature {
  kLayerNorm,         // in place of RMSNorm
  kStackedQkv,        // QkvLayout::kStacked
  kInterleavedQkv,    // QkvLayout::kInterleaved
  kPlainMlp,          // without a gate
  kParallelResidual,  // attention and MLP read the same input
  kAttentionSoftcap,
  kFinalSoftcap,
  kSlidingWindow,
  kHeadNorms,    // of queries and keys
  kOutputNorms,  // of attention and MLP, before the residual sum
  kPositionTable,
  kLongRope,
  kHeadBias,
  kLayerSizes,  // blocks of different sizes
  kWideHeads,   // of more than kWideHead numbers
};
inline constexpr std::int64_t kWideHead = 256;

std::string_view name_of(ModelFeature feature);  // for people
std::vector<ModelFeature> features_of(const ModelConfig& model);

}  // namespace swiftprune
