#include "swiftprune/model/model_features.h"

#include <array>

#include "swiftprune/core/error.h"
#include "swiftprune/model/experts_config.h"

namespace swiftprune {
namespace {

using enum ModelFeature;

struct Named {
  ModelFeature feature;
  std::string_view name;
};
constexpr std::array kNames = {Named{kRmsNorm, "RMSNorm"},
                               Named{kLayerNorm, "LayerNorm"},
                               Named{kNoInputNorms, "attention or MLP without a norm before it"},
                               Named{kNoFinalNorm, "no final norm"},
                               Named{kNormGainOffset, "norms whose gain is stored less one"},
                               Named{kLayerNormGainOffset, "LayerNorms whose gain is stored less one"},
                               Named{kOutputNorms, "norms behind attention or MLP"},
                               Named{kQueryKeyNorms, "norms of queries and keys"},
                               Named{kNormsOfAllHeads, "norms of queries and keys over all heads"},
                               Named{kNormsOfOwnGains, "norms of queries and keys with a gain for each head"},
                               Named{kSeparateQkv, "separate q, k and v"},
                               Named{kStackedQkv, "stacked q, k and v"},
                               Named{kInterleavedQkv, "interleaved q, k and v"},
                               Named{kGroupedHeads, "grouped query heads"},
                               Named{kSilu, "silu"},
                               Named{kGelu, "gelu"},
                               Named{kGeluTanh, "gelu_tanh"},
                               Named{kRelu, "relu"},
                               Named{kReluSquared, "relu2"},
                               Named{kQuickGelu, "quick_gelu"},
                               Named{kClippedGelu, "gelu_10"},
                               Named{kMish, "mish"},
                               Named{kXielu, "xielu"},
                               Named{kSigmoid, "sigmoid"},
                               Named{kGatedMlp, "a gated MLP"},
                               Named{kPlainMlp, "a plain MLP"},
                               Named{kParallelResidual, "a parallel residual"},
                               Named{kRotary, "rotary embeddings"},
                               Named{kLongRotary, "rotary embeddings that change with the length"},
                               Named{kNoRotary, "blocks without rotary embedding"},
                               Named{kNeighbourRotary, "rotary embeddings of neighbouring elements"},
                               Named{kQueryScaling, "queries scaled by their position"},
                               Named{kLearnedPositions, "learned positions"},
                               Named{kAttentionWindow, "a sliding attention window"},
                               Named{kAttentionSoftcap, "soft-capped attention"},
                               Named{kFinalSoftcap, "soft-capped logits"},
                               Named{kEmbeddingScale, "scaled embeddings"},
                               Named{kResidualScale, "scaled residuals"},
                               Named{kLogitScale, "scaled logits"},
                               Named{kLinearBias, "biases of linears"},
                               Named{kHeadBias, "a bias of the output head"},
                               Named{kLayerSizes, "blocks of different sizes"},
                               Named{kQkvClip, "clipped queries, keys and values"},
                               Named{kAttentionSinks, "attention sinks"},
                               Named{kLatentAttention, "latent attention"},
                               Named{kClampedSwiglu, "clamped SwiGLU"},
                               Named{kSingleParts, "blocks that are a mixer or an MLP alone"},
                               Named{kShortConvolution, "short convolutions"},
                               Named{kGatedDeltaNet, "gated DeltaNet"},
                               Named{kMamba2, "Mamba-2"},
                               Named{kGatedHeads, "gated attention heads"},
                               Named{kSlopes, "ALiBi slopes"},
                               Named{kTransposedLinears, "linears stored as [inputs, outputs]"},
                               Named{kEmbeddingNorm, "a norm of the embeddings"},
                               Named{kExperts, "experts"},
                               Named{kPlainExperts, "experts without gates"},
                               Named{kScaledExperts, "experts in scaled residuals"},
                               Named{kExpertCounts, "layers with different numbers of experts"},
                               Named{kParallelMixers, "a recurrent mixer beside attention"},
                               Named{kLinearScale, "scaled products of linears"},
                               Named{kHeadSizes, "heads of different sizes"},
                               Named{kKeysAreValues, "values that are the keys"},
                               Named{kValueNorms, "norms of values"},
                               Named{kSharedKeys, "keys and values of earlier blocks"},
                               Named{kLayerEmbeddings, "embeddings of each layer"},
                               Named{kOutputScale, "scaled outputs of blocks"},
                               Named{kAdapter, "an adapter beside the linears"}};

constexpr auto kFeatures = [] {
  std::array<ModelFeature, kNames.size()> features{};
  for (std::size_t i = 0; i < kNames.size(); ++i) features[i] = kNames[i].feature;
  return features;
}();

// The switches have no default: a new kind does not compile without its feature.
ModelFeature feature_of(NormKind norm) {
  switch (norm) {
    case NormKind::kRms:
      return kRmsNorm;
    case NormKind::kLayer:
      return kLayerNorm;
  }
  expect(false, "features_of: a known norm");
  return kRmsNorm;
}

ModelFeature feature_of(QkvLayout layout) {
  switch (layout) {
    case QkvLayout::kSeparate:
      return kSeparateQkv;
    case QkvLayout::kStacked:
      return kStackedQkv;
    case QkvLayout::kInterleaved:
      return kInterleavedQkv;
  }
  expect(false, "features_of: a known layout");
  return kSeparateQkv;
}

ModelFeature feature_of(Activation activation) {
  switch (activation) {
    case Activation::kSilu:
      return kSilu;
    case Activation::kGelu:
      return kGelu;
    case Activation::kGeluTanh:
      return kGeluTanh;
    case Activation::kRelu:
      return kRelu;
    case Activation::kReluSquared:
      return kReluSquared;
    case Activation::kQuickGelu:
      return kQuickGelu;
    case Activation::kClippedGelu:
      return kClippedGelu;
    case Activation::kMish:
      return kMish;
    case Activation::kSigmoid:
      return kSigmoid;
  }
  expect(false, "features_of: a known activation");
  return kSilu;
}

ModelFeature feature_of(const ShortConvolution&) { return kShortConvolution; }
ModelFeature feature_of(const GatedDeltaNet&) { return kGatedDeltaNet; }
ModelFeature feature_of(const Mamba2&) { return kMamba2; }

void add_block(const ModelConfig& model, const BlockConfig& block, std::set<ModelFeature>& features) {
  const auto add = [&](bool needed, ModelFeature feature) {
    if (needed) features.insert(feature);
  };
  const bool normed = (block.attention_norm || !block.has_mixer()) && (block.mlp_norm || !block.has_mlp());
  add(!normed, kNoInputNorms);
  add(!block.has_mixer() || !block.has_mlp(), kSingleParts);
  add(block.xielu.has_value(), kXielu);
  add(block.post_attention_norm || block.post_mlp_norm, kOutputNorms);
  add(block.query_norm || block.key_norm, kQueryKeyNorms);
  const bool norms_heads = block.query_norm || block.key_norm;
  add(norms_heads && block.head_norms == HeadNorms::kTogether, kNormsOfAllHeads);
  add(norms_heads && block.head_norms == HeadNorms::kEachOwn, kNormsOfOwnGains);
  add(block.experts.has_value(), kExperts);
  add(block.experts && block.experts->clamped, kClampedSwiglu);
  add(block.experts && !block.experts->gated, kPlainExperts);
  add(block.experts && model.residual_scale != 1.0f, kScaledExperts);
  add(block.experts && block.experts->count != experts_of(model)->count, kExpertCounts);
  add(block.beside.has_value(), kParallelMixers);
  add(block.head_size > 0 || block.kv_heads > 0, kHeadSizes);
  add(block.keys_are_values, kKeysAreValues);
  add(block.norms_values, kValueNorms);
  add(block.carried_keys.has_value(), kSharedKeys);
  add(!block.output_scale.empty(), kOutputScale);
  add(!block.sinks.empty(), kAttentionSinks);
  add(block.latent.has_value(), kLatentAttention);
  if (block.has_state()) {
    features.insert(std::visit([](const auto& mixer) { return feature_of(mixer); }, block.mixer()));
  }
  add(block.gated_heads, kGatedHeads);
  add(block.attention_window > 0, kAttentionWindow);
  const bool attends = block.has_mixer() && !block.recurrent;
  add(block.rope < 0 && attends, kNoRotary);
  const bool rotates = block.rope >= 0 && attends;
  add(rotates, kRotary);
  if (rotates) {
    const RopeConfig& rope = model.ropes[static_cast<std::size_t>(block.rope)];
    add(rope.long_from > 0, kLongRotary);
    add(rope.rotates_neighbours, kNeighbourRotary);
  }
  for (const LinearTensors& linear : linears_of(block)) {
    add(linear.bias, kLinearBias);
    add(linear.scale != 1.0f, kLinearScale);
  }
}

}  // namespace

std::span<const ModelFeature> all_model_features() { return kFeatures; }

std::string_view name_of(ModelFeature feature) {
  for (const Named& named : kNames) {
    if (named.feature == feature) return named.name;
  }
  expect(false, "name_of: a feature of the list");
  return {};
}

std::set<ModelFeature> features_of(const ModelConfig& model) {
  std::set<ModelFeature> features = {feature_of(model.norm), feature_of(model.qkv_layout),
                                     feature_of(model.activation), model.gated_mlp ? kGatedMlp : kPlainMlp};
  const auto add = [&](bool needed, ModelFeature feature) {
    if (needed) features.insert(feature);
  };
  add(!model.final_norm, kNoFinalNorm);
  add(model.norm_gain_offset != 0.0f,
      model.norm == NormKind::kLayer ? kLayerNormGainOffset : kNormGainOffset);
  add(model.num_kv_heads != model.num_heads, kGroupedHeads);
  add(model.parallel_residual, kParallelResidual);
  add(model.position_table.has_value(), kLearnedPositions);
  add(model.attention_softcap > 0.0f, kAttentionSoftcap);
  add(model.final_softcap > 0.0f, kFinalSoftcap);
  add(model.qkv_clip > 0.0f, kQkvClip);
  add(model.query_scaling.has_value(), kQueryScaling);
  add(!model.attention_slopes.empty(), kSlopes);
  add(model.transposed_linears, kTransposedLinears);
  add(model.embedding_norm.has_value(), kEmbeddingNorm);
  add(model.embedding_scale != 1.0f, kEmbeddingScale);
  add(model.residual_scale != 1.0f, kResidualScale);
  add(model.logit_scale != 1.0f, kLogitScale);
  add(model.head_bias.has_value(), kHeadBias);
  add(model.has_layer_sizes, kLayerSizes);
  add(model.has_adapter, kAdapter);
  add(model.layer_embeddings.has_value(), kLayerEmbeddings);
  for (const BlockConfig& block : model.blocks) add_block(model, block, features);
  return features;
}

}  // namespace swiftprune
