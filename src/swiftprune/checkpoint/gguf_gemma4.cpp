// gemma4: two sizes of heads, keys and values of earlier layers, what each token adds to every layer.
#include "swiftprune/checkpoint/gguf_fields.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

using namespace gguf_fields;

constexpr ConfigField kFields[] = {
    {"hidden_size", "embedding_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"max_position_embeddings", "context_length"},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", Type::kPositive},
    {"global_head_dim", "attention.key_length"},
    {"head_dim", "attention.key_length_swa"},
    {"sliding_window", "attention.sliding_window"},
};

constexpr TensorRule kModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"rope_freqs", ""},
    optional_rule({"per_layer_token_embd", "model.embed_tokens_per_layer"}),
    optional_rule({"per_layer_model_proj", "model.per_layer_model_projection"}),
    optional_rule({"per_layer_proj_norm", "model.per_layer_projection_norm"}),
};

// Layers that use keys and values of others have no linears for them; values may be the keys.
constexpr TensorRule kBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    {"attn_q", "model.layers.*.self_attn.q_proj"},
    rule_of(TensorBlocks::kSome, "attn_k", "model.layers.*.self_attn.k_proj"),
    rule_of(TensorBlocks::kSome, "attn_v", "model.layers.*.self_attn.v_proj"),
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"attn_q_norm", "model.layers.*.self_attn.q_norm"},
    rule_of(TensorBlocks::kSome, "attn_k_norm", "model.layers.*.self_attn.k_norm"),
    {"post_attention_norm", "model.layers.*.post_attention_layernorm"},
    {"ffn_norm", "model.layers.*.pre_feedforward_layernorm"},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
    {"post_ffw_norm", "model.layers.*.post_feedforward_layernorm"},
    rule_of(TensorBlocks::kAll, "layer_output_scale.weight", "model.layers.*.layer_scalar",
            TensorForm::kWholeName),
    optional_rule({"inp_gate", "model.layers.*.per_layer_input_gate"}),
    optional_rule({"proj", "model.layers.*.per_layer_projection"}),
    optional_rule({"post_norm", "model.layers.*.post_per_layer_input_norm"}),
};

// One number for each of the layers.
std::vector<std::int64_t> of_layers(const GgufFile& file, std::string_view name, std::int64_t layers) {
  const std::string key = key_of(file, name);
  if (!file.has(key)) bad_input("{}: {} is missing", file.name(), key);
  std::vector<std::int64_t> numbers = *file.integers(key);
  if (numbers.size() == 1) numbers.resize(static_cast<std::size_t>(layers), numbers.front());
  if (std::ssize(numbers) != layers) {
    bad_input("{}: {}: found {} numbers, expected one for each of the {} layers", file.name(), key,
              numbers.size(), layers);
  }
  return numbers;
}

// Layers behind the first `own` have twice the width, or all have one.
void add_widths(const GgufFile& file, std::int64_t own, Json& config) {
  const std::vector<std::int64_t> widths =
      of_layers(file, "feed_forward_length", config.at("num_hidden_layers"));
  config["intermediate_size"] = widths.front();
  const bool wide = widths.back() == 2 * widths.front();
  config["use_double_wide_mlp"] = wide;
  for (std::size_t i = 0; i < widths.size(); ++i) {
    const std::int64_t expected =
        wide && static_cast<std::int64_t>(i) >= own ? 2 * widths.front() : widths.front();
    if (widths[i] == expected) continue;
    bad_input("{}: {}: found {} in layer {}, expected {}", file.name(), key_of(file, "feed_forward_length"),
              widths[i], i, expected);
  }
}

void add_heads(const GgufFile& file, Json& config) {
  const std::int64_t layers = config.at("num_hidden_layers");
  const std::vector<std::int64_t> groups = of_layers(file, "attention.head_count_kv", layers);
  const Json& types = config.at("layer_types");
  std::int64_t sliding = 0, full = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    std::int64_t& known = types[i] == "full_attention" ? full : sliding;
    if (known == 0) known = groups[i];
    if (groups[i] == known && known > 0) continue;
    bad_input("{}: {}: found {} in layer {}, expected {}, as in the layers of its kind before it",
              file.name(), key_of(file, "attention.head_count_kv"), groups[i], i, known);
  }
  config["num_key_value_heads"] = sliding > 0 ? sliding : full;
  bool keys_are_values = false;
  for (std::int64_t i = 0; i < layers; ++i) {
    keys_are_values = keys_are_values || (file.find(fmt::format("blk.{}.attn_k.weight", i)) != nullptr &&
                                          file.find(fmt::format("blk.{}.attn_v.weight", i)) == nullptr);
  }
  config["attention_k_eq_v"] = keys_are_values;
  if (full == 0 || full == config["num_key_value_heads"]) return;
  config["num_global_key_value_heads"] = full;
  if (keys_are_values) return;
  bad_input(
      "{}: {}: found {} in full layers and {} in others, expected one number, or no attn_v in full layers",
      file.name(), key_of(file, "attention.head_count_kv"), full, sliding);
}

// Full layers turn the first pairs of a head: the others' frequencies are divided by 1e30.
double rotated_fraction(const GgufFile& file, std::int64_t head_size) {
  const std::vector<float> table = float_table(file, "rope_freqs.weight");
  if (std::ssize(table) != head_size / 2) {
    bad_input("{}: tensor rope_freqs.weight: found {} values, expected {}", file.name(), table.size(),
              head_size / 2);
  }
  const auto first = std::find_if(table.begin(), table.end(), [](float f) { return f != 1.0f; });
  constexpr float kNone = 1e29f;
  if (!std::all_of(first, table.end(), [](float f) { return f > kNone; })) {
    bad_input("{}: tensor rope_freqs.weight: found {} behind ones, expected 1e30", file.name(), *first);
  }
  const auto pairs = static_cast<double>(first - table.begin());
  double fraction = 2.0 * pairs / static_cast<double>(head_size);
  // What transformers makes of it is rounded down.
  while (std::floor(fraction * static_cast<double>(head_size) / 2.0) < pairs)
    fraction = std::nextafter(fraction, 2.0);
  return fraction;
}

void add_ropes(const GgufFile& file, Json& config) {
  const std::int64_t sliding_size = config.at("head_dim");
  const std::string turned_key = key_of(file, "rope.dimension_count_swa");
  if (const std::int64_t turned = file.integer(turned_key).value_or(sliding_size); turned != sliding_size)
    bad_input("{}: {}: found {}, expected {}", file.name(), turned_key, turned, sliding_size);
  const double theta = positive_of(file, "rope.freq_base", 10000.0);
  config["rope_parameters"] = {
      {"sliding_attention",
       {{"rope_type", "default"}, {"rope_theta", positive_of(file, "rope.freq_base_swa", theta)}}},
      {"full_attention",
       {{"rope_type", "proportional"},
        {"partial_rotary_factor", rotated_fraction(file, config.at("global_head_dim"))},
        {"rope_theta", theta}}}};
  if (!rope_scaling(file).is_null())
    bad_input("{}: {}: found a scaling, expected none", file.name(), key_of(file, "rope.scaling.type"));
}

void complete(const GgufFile& file, Json& config) {
  const std::int64_t layers = config.at("num_hidden_layers");
  config["layer_types"] = layer_types_of(file, layers, 6);
  const std::string shared_key = key_of(file, "attention.shared_kv_layers"),
                    size_key = key_of(file, "embedding_length_per_layer_input");
  const std::int64_t shared = file.integer(shared_key).value_or(0);
  if (shared < 0 || shared >= layers)
    bad_input("{}: {}: found {}, expected less than {}", file.name(), shared_key, shared, layers);
  config["num_kv_shared_layers"] = shared;
  add_widths(file, layers - shared, config);
  add_heads(file, config);
  add_ropes(file, config);
  config["final_logit_softcapping"] = cap_of(file, "final_logit_softcapping");
  const std::int64_t size = file.integer(size_key).value_or(0);
  if (size < 0) bad_input("{}: {}: found {}, expected 0 or more", file.name(), size_key, size);
  config["hidden_size_per_layer_input"] = size;
  if (size == 0) return;
  const GgufTensor* table = file.find("per_layer_token_embd.weight");
  if (table == nullptr || table->shape.size() != 2)
    bad_input("{}: tensor per_layer_token_embd.weight: expected a matrix", file.name());
  config["vocab_size_per_layer_input"] = table->shape[0];
}

constexpr GgufArchitecture kArchitectures[] = {
    {"gemma4", "gemma4_text", "Gemma4ForCausalLM",
     R"({"hidden_activation": "gelu_pytorch_tanh", "attention_bias": false, "enable_moe_block": false})",
     kFields, kModelTensors, kBlock, complete, "", true,
     "attention.key_length_swa attention.value_length_swa attention.sliding_window "
     "attention.sliding_window_pattern attention.shared_kv_layers embedding_length_per_layer_input "
     "rope.freq_base_swa rope.dimension_count_swa final_logit_softcapping"},
};

}  // namespace

std::span<const GgufArchitecture> gguf_gemma4() { return kArchitectures; }

}  // namespace swiftprune
