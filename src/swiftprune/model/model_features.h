// What a model's forward needs, as a list of features: a device names those it computes and refuses a model
// that needs another one (pipeline/capabilities.h). A new field of ModelConfig that changes the forward adds
// a feature here.
#pragma once

#include <set>
#include <span>
#include <string_view>

#include "swiftprune/model/model_config.h"

namespace swiftprune {

enum class ModelFeature {
  kRmsNorm,
  kLayerNorm,
  kNoInputNorms,  // attention or MLP reads the hidden states as they are
  kNoFinalNorm,
  kNormGainOffset,       // of RMSNorm
  kLayerNormGainOffset,  // of LayerNorm
  kOutputNorms,          // on the output of attention or MLP, before the residual sum
  kQueryKeyNorms,        // per head
  kNormsOfAllHeads,      // of queries and keys, all heads together
  kNormsOfOwnGains,      // of queries and keys, a gain for each head
  kSeparateQkv,
  kStackedQkv,
  kInterleavedQkv,
  kGroupedHeads,
  kSilu,
  kGelu,
  kGeluTanh,
  kRelu,
  kReluSquared,
  kQuickGelu,
  kClippedGelu,
  kMish,
  kXielu,
  kSigmoid,
  kGatedMlp,
  kPlainMlp,
  kParallelResidual,
  kRotary,
  kLongRotary,       // other frequencies for long sequences
  kNoRotary,         // a block without
  kNeighbourRotary,  // pairs are neighbours
  kQueryScaling,     // queries grow with their position
  kLearnedPositions,
  kAttentionWindow,
  kAttentionSoftcap,
  kFinalSoftcap,
  kEmbeddingScale,
  kResidualScale,
  kLogitScale,
  kLinearBias,
  kHeadBias,
  kLayerSizes,  // blocks of different width
  kQkvClip,     // queries, keys and values kept within limits
  kAttentionSinks,
  kLatentAttention,
  kClampedSwiglu,
  kSingleParts,  // blocks that are a mixer or an MLP alone
  kShortConvolution,
  kGatedDeltaNet,
  kMamba2,
  kGatedHeads,         // a gate on what each head of attention gives
  kSlopes,             // ALiBi
  kTransposedLinears,  // stored as [inputs, outputs]
  kEmbeddingNorm,      // a norm on the embeddings
  kExperts,            // MLPs of which each token uses a few
  kPlainExperts,       // of up and down alone
  kScaledExperts,      // what they add is scaled as the residual is
  kExpertCounts,       // blocks with different numbers of experts
  kParallelMixers,     // attention and a recurrent mixer side by side
  kLinearScale,        // products of linears are scaled
  kHeadSizes,          // blocks whose heads differ in size
  kKeysAreValues,
  kValueNorms,
  kSharedKeys,       // blocks that use keys and values of earlier ones
  kLayerEmbeddings,  // what tokens add to each block
  kOutputScale,      // of a block
  kAdapter,          // low-rank parts beside linears
};

std::span<const ModelFeature> all_model_features();
std::string_view name_of(ModelFeature feature);
std::set<ModelFeature> features_of(const ModelConfig& model);

}  // namespace swiftprune
