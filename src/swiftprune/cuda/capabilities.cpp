#include "swiftprune/cuda/capabilities.h"

#include "swiftprune/scoring/scorer_list.h"

namespace swiftprune::cuda {
namespace {

Capabilities make_capabilities() {
  using enum Pattern::Kind;
  using enum ModelFeature;
  Capabilities c;
  c.where = "on a GPU";
  c.instead = "use --device cpu";
  // Gram matrices stay on the device.
  c.score_statistics = {.energy = true, .ewma_energy = true, .sum = true};
  c.own_scores = {&kRandomScore, &kRiaScore, &kObsScore};  // cuda/selection/selector.cpp
  // Exact selections all prune the same weights; the threshold of ewma goes from weight to weight in order.
  c.selections = {SelectKind::kEwmaWindow, SelectKind::kRadix, SelectKind::kSort};
  c.patterns = {kRow, kLayer, kNofM, kBlock};
  c.refinements = {{PcgOptions{}, {kRow, kLayer, kNofM, kBlock}},
                   {AdmmOptions{}, {kRow, kLayer, kNofM, kBlock}, true},
                   {AlignedAdmmOptions{}, {kRow, kLayer, kNofM, kBlock}, true},
                   {SwapsOptions{}, {kRow, kLayer, kNofM}},
                   {SparseGptOptions{}, {kRow, kLayer, kNofM}},
                   {RtnOptions{}, {kRow, kLayer, kNofM, kBlock}, true},
                   {GptqOptions{}, {kRow, kLayer, kNofM, kBlock}, true}};
  c.chains = true;
  c.ranks = true;
  c.mixed_refinements = false;  // admm uses the Gram matrix up, and one is kept for an input
  // What cuda/forward/ computes. A feature is added here together with its code there.
  c.features = {kRmsNorm,
                kNoInputNorms,
                kLayerNormGainOffset,
                kNormsOfAllHeads,
                kNormsOfOwnGains,
                kReluSquared,
                kQuickGelu,
                kClippedGelu,
                kMish,
                kXielu,
                kNeighbourRotary,
                kQueryScaling,
                kResidualScale,
                kLogitScale,
                kQkvClip,
                kAttentionSinks,
                kClampedSwiglu,
                kLayerNorm,
                kNoFinalNorm,
                kNormGainOffset,
                kOutputNorms,
                kQueryKeyNorms,
                kSeparateQkv,
                kStackedQkv,
                kInterleavedQkv,
                kGroupedHeads,
                kSilu,
                kGelu,
                kGeluTanh,
                kRelu,
                kGatedMlp,
                kPlainMlp,
                kParallelResidual,
                kRotary,
                kLongRotary,
                kNoRotary,
                kLearnedPositions,
                kAttentionWindow,
                kAttentionSoftcap,
                kFinalSoftcap,
                kEmbeddingScale,
                kLinearBias,
                kHeadBias,
                kLayerSizes,
                kSingleParts,
                kShortConvolution,
                kGatedDeltaNet,
                kMamba2,
                kParallelMixers,
                kGatedHeads,
                kLatentAttention,
                kHeadSizes,
                kKeysAreValues,
                kValueNorms,
                kOutputScale,
                kSharedKeys,
                kLayerEmbeddings,
                kAdapter,
                kSlopes,
                kLinearScale,
                kEmbeddingNorm,
                kTransposedLinears,
                kExperts,
                kPlainExperts,
                kScaledExperts,
                kExpertCounts};
  c.max_head_size = kMaxHeadSize;
  return c;
}

}  // namespace

const Capabilities& capabilities() {
  static const Capabilities all = make_capabilities();
  return all;
}

}  // namespace swiftprune::cuda
