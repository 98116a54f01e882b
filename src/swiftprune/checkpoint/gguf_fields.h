// What reads the fields of GGUF files for several architectures: helpers of their `complete` functions, and the tables
// that all decoders of the Llama kind share.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "swiftprune/checkpoint/gguf_architectures.h"

namespace swiftprune::gguf_fields {

using Json = nlohmann::ordered_json;
using Type = ConfigField::Type;

std::string key_of(const GgufFile& file, std::string_view suffix);  // "<architecture>.<suffix>"
// Stored as float32: 1e-05, not 9.999999747378752e-06.
double float_as_written(double value);
// The number, above 0, or `absent`.
double positive_of(const GgufFile& file, std::string_view suffix, double absent);
Json cap_of(const GgufFile& file, std::string_view suffix);  // null where it is absent or 0
// attention.key_length, else hidden_size / num_attention_heads of the configuration so far.
std::int64_t head_dim_of(const GgufFile& file, const Json& config);
// The fraction of each head that is rotated.
double rotary_fraction(const GgufFile& file, std::int64_t head_dim);
void require_full_rotation(const GgufFile& file, std::int64_t head_dim);
Json rope_scaling(const GgufFile& file);  // transformers' rope_scaling, or null
// Of GgufArchitecture::activation_numbers.
inline std::string activation_key(std::string_view name) { return fmt::format("xielu.{}", name); }

// Llama 3.1 scales rope by a table in the file. It is made from four numbers (transformers' rope_type "llama3"); the
// factor is its largest entry, the others have been the same in every such model.
Json llama3_rope_scaling(const GgufFile& file, const GgufTensor& tensor, double theta, std::int64_t head_dim);
Json float_table(const GgufFile& file, std::string_view name);
// One full-attention layer in each `period`, the others slide.
Json sliding_layers(std::int64_t num_layers, std::int64_t period);
// attention.sliding_window_pattern: one number for each layer (1: it slides), one full layer in so many, or nothing.
Json layer_types_of(const GgufFile& file, std::int64_t num_layers, std::int64_t period);

// `complete` functions: whole heads are rotated, with head_dim in config.json or without; a part of each is.
void complete_llama(const GgufFile& file, Json& config);
void complete_qwen2(const GgufFile& file, Json& config);
void complete_qwen3(const GgufFile& file, Json& config);
void complete_partial(const GgufFile& file, Json& config);
void complete_glm4(const GgufFile& file, Json& config);  // as complete_partial(), with head_dim

// Granite's: as complete_llama(), with its multipliers.
void complete_granite(const GgufFile& file, Json& config);

// Throws where expert_count and expert_used_count are not what a model can have.
void check_expert_counts(const GgufFile& file);

inline constexpr ConfigField kLlamaFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv", Type::kInteger, false},
    {"max_position_embeddings", "context_length"},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", Type::kPositive},
    {"rope_theta", "rope.freq_base", Type::kPositive, false},
};

// A tensor of some blocks alone, without a bias.
constexpr TensorRule rule_of(TensorBlocks blocks, std::string_view gguf, std::string_view name,
                             TensorForm form = TensorForm::kPlain) {
  return {gguf, name, "none", RowOrder::kSame, 0.0f, form, blocks};
}

// Rules that differ from another in one thing.
constexpr TensorRule with_bias(TensorRule rule, std::string_view field) {
  rule.bias = field;
  return rule;
}
constexpr TensorRule optional_rule(TensorRule rule) {
  rule.optional = true;
  return rule;
}
constexpr TensorRule stored_plus_one(TensorRule rule) {
  rule.offset = -1.0f;
  return rule;
}
constexpr TensorRule in_order(TensorRule rule, RowOrder order) {
  rule.order = order;
  return rule;
}
constexpr TensorRule decay_rule(TensorRule rule) {
  rule.values = TensorValues::kMinusExp;
  return rule;
}

// A table of fields or of tensors and what an architecture has behind it.
template <class Entry, std::size_t kCount, std::size_t kMore>
constexpr std::array<Entry, kCount + kMore> joined(const Entry (&table)[kCount], const Entry (&more)[kMore]) {
  std::array<Entry, kCount + kMore> all{};
  std::copy_n(table, kCount, all.begin());
  std::copy_n(more, kMore, all.begin() + kCount);
  return all;
}
template <class Entry, std::size_t kCount, std::size_t kMore>
constexpr std::array<Entry, kCount + kMore> joined(const std::array<Entry, kCount>& table,
                                                   const Entry (&more)[kMore]) {
  std::array<Entry, kCount + kMore> all{};
  std::copy_n(table.begin(), kCount, all.begin());
  std::copy_n(more, kMore, all.begin() + kCount);
  return all;
}

// Key heads of one number, or (Type::kLargest) of one a layer.
constexpr std::array<ConfigField, 12> granite_fields(Type key_heads) {
  return {{{"hidden_size", "embedding_length"},
           {"intermediate_size", "feed_forward_length"},
           {"num_hidden_layers", "block_count"},
           {"num_attention_heads", "attention.head_count"},
           {"num_key_value_heads", "attention.head_count_kv", key_heads, false},
           {"max_position_embeddings", "context_length"},
           {"rms_norm_eps", "attention.layer_norm_rms_epsilon", Type::kPositive},
           {"rope_theta", "rope.freq_base", Type::kPositive, false},
           {"attention_multiplier", "attention.scale", Type::kNumber, false},
           {"embedding_multiplier", "embedding_scale", Type::kNumber, false},
           {"residual_multiplier", "residual_scale", Type::kNumber, false},
           {"logits_scaling", "logit_scale", Type::kNumber}}};
}
inline constexpr std::string_view kGraniteKeys = "attention.scale embedding_scale residual_scale logit_scale";

inline constexpr TensorRule kLlamaModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"rope_freqs", ""},
};

}  // namespace swiftprune::gguf_fields
