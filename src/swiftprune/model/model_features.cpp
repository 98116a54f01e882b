#include "swiftprune/model/model_features.h"

#include <algorithm>

namespace swiftprune {

std::string_view name_of(ModelFeature feature) {
  using enum ModelFeature;
  switch (feature) {
    case kLayerNorm:
      return "LayerNorm";
    case kStackedQkv:
      return "stacked query, key and value";
    case kInterleavedQkv:
      return "interleaved query, key and value";
    case kPlainMlp:
      return "an MLP without a gate";
    case kParallelResidual:
      return "a parallel residual";
    case kAttentionSoftcap:
      return "soft-capped attention";
    case kFinalSoftcap:
      return "soft-capped logits";
    case kSlidingWindow:
      return "sliding windows";
    case kHeadNorms:
      return "norms of queries and keys";
    case kOutputNorms:
      return "norms behind attention and MLP";
    case kPositionTable:
      return "learned positions";
    case kLongRope:
      return "other rotary frequencies for long sequences";
    case kHeadBias:
      return "a bias of the output projection";
    case kLayerSizes:
      return "blocks of different sizes";
    case kWideHeads:
      return "heads of more than 256 numbers";
  }
  return "";
}

std::vector<ModelFeature> features_of(const ModelConfig& model) {
  using enum ModelFeature;
  std::vector<ModelFeature> features;
  const auto add = [&](bool has, ModelFeature feature) {
    if (has) features.push_back(feature);
  };
  const auto any_block = [&](const auto& has) {
    return std::any_of(model.blocks.begin(), model.blocks.end(), has);
  };
  add(model.norm == NormKind::kLayer, kLayerNorm);
  add(model.qkv_layout == QkvLayout::kStacked, kStackedQkv);
  add(model.qkv_layout == QkvLayout::kInterleaved, kInterleavedQkv);
  add(!model.gated_mlp, kPlainMlp);
  add(model.parallel_residual, kParallelResidual);
  add(model.attention_softcap > 0.0f, kAttentionSoftcap);
  add(model.final_softcap > 0.0f, kFinalSoftcap);
  add(any_block([](const BlockConfig& b) { return b.attention_window > 0; }), kSlidingWindow);
  add(any_block([](const BlockConfig& b) { return b.query_norm || b.key_norm; }), kHeadNorms);
  add(any_block([](const BlockConfig& b) { return b.post_attention_norm || b.post_mlp_norm; }), kOutputNorms);
  add(model.position_table.has_value(), kPositionTable);
  add(std::any_of(model.ropes.begin(), model.ropes.end(),
                  [](const RopeConfig& rope) { return !rope.long_inverse_frequency.empty(); }),
      kLongRope);
  add(model.head_bias.has_value(), kHeadBias);
  add(model.has_layer_sizes, kLayerSizes);
  add(model.head_size > kWideHead, kWideHeads);
  return features;
}

}  // namespace swiftprune
