// Architectures of the Llama kind (GgufArchitecture): RMSNorm before attention and MLP, gated MLPs.
#include "swiftprune/checkpoint/gguf_fields.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

using namespace gguf_fields;

// ---- llama (also Mistral and SmolLM, which llama.cpp stores as llama)

constexpr TensorRule kLlamaBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "attention_bias", RowOrder::kRotaryPairsOfQ},
    {"attn_k", "model.layers.*.self_attn.k_proj", "attention_bias", RowOrder::kRotaryPairsOfK},
    {"attn_v", "model.layers.*.self_attn.v_proj", "attention_bias"},
    {"attn_output", "model.layers.*.self_attn.o_proj", "attention_bias"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm"},
    {"ffn_gate", "model.layers.*.mlp.gate_proj", "mlp_bias"},
    {"ffn_up", "model.layers.*.mlp.up_proj", "mlp_bias"},
    {"ffn_down", "model.layers.*.mlp.down_proj", "mlp_bias"},
    {"attn_rot_embd", ""},
};

// ---- deci: llama with numbers of heads and channels for each layer

constexpr ConfigField kDeciFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length", Type::kLargest},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count", Type::kLargest},
    {"num_key_value_heads", "attention.head_count_kv", Type::kLargest},
    {"max_position_embeddings", "context_length"},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", Type::kPositive},
    {"rope_theta", "rope.freq_base", Type::kPositive, false},
};

// One number for all layers or one for each, 1 or more: llama.cpp also knows layers without attention or MLP.
std::vector<std::int64_t> layer_numbers(const GgufFile& file, std::string_view suffix, std::int64_t layers) {
  const std::string key = key_of(file, suffix);
  const std::vector<std::int64_t> numbers = *file.integers(key);
  if (numbers.size() != 1 && std::ssize(numbers) != layers) {
    bad_input("{}: {}: found {} numbers, expected one for each of the {} layers", file.name(), key,
              numbers.size(), layers);
  }
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (numbers[i] < 1) {
      bad_input("{}: {}: found {} in layer {}, expected 1 or more: swiftprune knows no layers without them",
                file.name(), key, numbers[i], i);
    }
  }
  return numbers;
}

// Layers of different sizes become "swiftprune_layer_sizes" (docs/structured.md).
void complete_deci(const GgufFile& file, Json& config) {
  const std::int64_t layers = config.at("num_hidden_layers");
  const auto widths = layer_numbers(file, "feed_forward_length", layers);
  const auto heads = layer_numbers(file, "attention.head_count", layers);
  const auto groups = layer_numbers(file, "attention.head_count_kv", layers);
  const std::int64_t shared = config.at("num_attention_heads").get<std::int64_t>() /
                              config.at("num_key_value_heads").get<std::int64_t>();
  for (std::size_t i = 0; i < std::max(heads.size(), groups.size()); ++i) {
    const std::int64_t h = heads[heads.size() == 1 ? 0 : i], g = groups[groups.size() == 1 ? 0 : i];
    if (h != shared * g) {
      bad_input("{}: found {} attention heads in layer {}, expected {} for each of its {} key heads",
                file.name(), h, i, shared, g);
    }
  }
  const auto differ = [](const std::vector<std::int64_t>& numbers) {
    return std::adjacent_find(numbers.begin(), numbers.end(), std::not_equal_to<>()) != numbers.end();
  };
  if (const std::string key = key_of(file, "attention.key_length"); differ(heads) && !file.has(key)) {
    bad_input("{}: {} is missing", file.name(), key);
  }
  if (differ(widths)) config["swiftprune_layer_sizes"]["intermediate_size"] = widths;
  if (differ(groups)) config["swiftprune_layer_sizes"]["num_key_value_heads"] = groups;
  complete_llama(file, config);
}

// ---- qwen2 (also Qwen 2.5), qwen3

constexpr TensorRule kQwen2Block[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "required"},
    {"attn_k", "model.layers.*.self_attn.k_proj", "required"},
    {"attn_v", "model.layers.*.self_attn.v_proj", "required"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm"},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
};

constexpr TensorRule kQwen3Block[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "attention_bias"},
    {"attn_k", "model.layers.*.self_attn.k_proj", "attention_bias"},
    {"attn_v", "model.layers.*.self_attn.v_proj", "attention_bias"},
    {"attn_output", "model.layers.*.self_attn.o_proj", "attention_bias"},
    {"attn_q_norm", "model.layers.*.self_attn.q_norm"},
    {"attn_k_norm", "model.layers.*.self_attn.k_norm"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm"},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
};

// ---- phi3 (also Phi-3.5 and Phi-4)

constexpr TensorRule kPhi3ModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"rope_factors_long", ""},
    {"rope_factors_short", ""},
};

constexpr TensorRule kPhi3Block[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    {"attn_qkv", "model.layers.*.self_attn.qkv_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm"},
    {"ffn_up", "model.layers.*.mlp.gate_up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
};

void complete_phi3(const GgufFile& file, Json& config) {
  config["partial_rotary_factor"] = rotary_fraction(file, head_dim_of(file, config));
  const auto window = file.integer(key_of(file, "attention.sliding_window")).value_or(0);
  config["sliding_window"] = window > 0 ? Json(window) : Json();
  config["original_max_position_embeddings"] =
      file.integer(key_of(file, "rope.scaling.original_context_length"))
          .value_or(config.at("max_position_embeddings").get<std::int64_t>());
  if (file.find("rope_factors_long.weight") == nullptr) {
    if (!rope_scaling(file).is_null()) {
      bad_input("{}: {}: found rope scaling, expected none or rope_factors_long: Phi-3 has no other",
                file.name(), key_of(file, "rope.scaling.factor"));
    }
    config["rope_scaling"] = nullptr;
    return;
  }
  // llama.cpp takes the factor of cos and sin from the file, transformers from the two context lengths.
  const auto longest = config.at("max_position_embeddings").get<double>();
  const auto original = config.at("original_max_position_embeddings").get<double>();
  const double expected =
      longest > original ? std::sqrt(1.0 + std::log(longest / original) / std::log(original)) : 1.0;
  const std::string magnitude_key = key_of(file, "rope.scaling.attn_factor");
  const double magnitude = file.number(magnitude_key).value_or(expected);
  if (!(std::abs(magnitude - expected) <= 1e-3 * expected)) {
    bad_input("{}: {}: found {}, expected {} for contexts of {} and {}", file.name(), magnitude_key,
              magnitude, expected, original, longest);
  }
  config["rope_scaling"] = {{"type", "longrope"},  // the only key for it that Phi3Config has always taken
                            {"short_factor", float_table(file, "rope_factors_short.weight")},
                            {"long_factor", float_table(file, "rope_factors_long.weight")}};
}

// ---- smollm3: llama without rotary embedding in every fourth layer, as llama.cpp computes it

void complete_smollm3(const GgufFile& file, Json& config) {
  complete_llama(file, config);
  config["no_rope_layer_interval"] = 4;
}

constexpr TensorRule kMistral3Block[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "none", RowOrder::kRotaryPairsOfQ},
    {"attn_k", "model.layers.*.self_attn.k_proj", "none", RowOrder::kRotaryPairsOfK},
    {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm"},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
};

// ---- mistral3: llama; Ministral 3 scales queries by their position

void complete_mistral3(const GgufFile& file, Json& config) {
  complete_llama(file, config);
  const std::string key = key_of(file, "attention.temperature_scale");
  const double beta = file.number(key).value_or(0.0);
  const double multiplier = file.number(key_of(file, "rope.scaling.yarn_log_multiplier")).value_or(0.0);
  config["sliding_window"] = nullptr;
  if (beta == 0.0 && multiplier == 0.0) return;
  Json& scaling = config["rope_scaling"];
  if (!scaling.is_object() || scaling.at("rope_type") != "yarn" ||
      !scaling.contains("original_max_position_embeddings")) {
    bad_input("{}: {}: found {}, expected it beside the rope scaling yarn with its original context",
              file.name(), key, beta);
  }
  config["model_type"] = "ministral3";
  config["architectures"] = {"Ministral3ForCausalLM"};
  scaling["llama_4_scaling_beta"] = float_as_written(beta);
  if (multiplier != 0.0) scaling["mscale"] = scaling["mscale_all_dim"] = float_as_written(multiplier);
}

// ---- granite

constexpr auto kGraniteFields = granite_fields(Type::kInteger);

// ---- glm4

constexpr TensorRule kGlm4Block[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "attention_bias"},
    {"attn_k", "model.layers.*.self_attn.k_proj", "attention_bias"},
    {"attn_v", "model.layers.*.self_attn.v_proj", "attention_bias"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"post_attention_norm", "model.layers.*.post_self_attn_layernorm"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm"},
    {"ffn_up", "model.layers.*.mlp.gate_up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
    {"post_ffw_norm", "model.layers.*.post_mlp_layernorm"},
};

// ---- arcee: llama with a plain MLP of squared ReLU

constexpr TensorRule kArceeBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "none", RowOrder::kRotaryPairsOfQ},
    {"attn_k", "model.layers.*.self_attn.k_proj", "none", RowOrder::kRotaryPairsOfK},
    {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
    {"attn_rot_embd", ""},
};

// ---- apertus: llama with norms of queries and keys, and a plain MLP of xIELU

constexpr TensorRule kApertusBlock[] = {
    {"attn_norm", "model.layers.*.attention_layernorm"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "attention_bias"},
    {"attn_k", "model.layers.*.self_attn.k_proj", "attention_bias"},
    {"attn_v", "model.layers.*.self_attn.v_proj", "attention_bias"},
    {"attn_output", "model.layers.*.self_attn.o_proj", "attention_bias"},
    {"attn_q_norm", "model.layers.*.self_attn.q_norm"},
    {"attn_k_norm", "model.layers.*.self_attn.k_norm"},
    {"ffn_norm", "model.layers.*.feedforward_layernorm"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
    {"attn_rot_embd", ""},
};

// transformers' class scales rope as Llama 3.1 unless it is told not to.
void complete_apertus(const GgufFile& file, Json& config) {
  complete_llama(file, config);
  if (config.at("rope_scaling").is_null()) config["rope_scaling"] = {{"rope_type", "default"}};
}

constexpr GgufArchitecture kLlamaLikeArchitectures[] = {
    {"llama", "llama", "LlamaForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})", kLlamaFields,
     kLlamaModelTensors, kLlamaBlock, complete_llama, "llama-bpe"},
    {"deci", "llama", "LlamaForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})", kDeciFields,
     kLlamaModelTensors, kLlamaBlock, complete_deci, "llama-bpe"},
    {"qwen2", "qwen2", "Qwen2ForCausalLM",
     R"({"hidden_act": "silu", "rope_theta": 10000.0, "use_sliding_window": false})", kLlamaFields,
     kLlamaModelTensors, kQwen2Block, complete_qwen2, "qwen2"},
    {"qwen3", "qwen3", "Qwen3ForCausalLM",
     R"({"hidden_act": "silu", "rope_theta": 10000.0, "use_sliding_window": false})", kLlamaFields,
     kLlamaModelTensors, kQwen3Block, complete_qwen3, "qwen2"},
    {"phi3", "phi3", "Phi3ForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})", kLlamaFields,
     kPhi3ModelTensors, kPhi3Block, complete_phi3, "llama-bpe", false, "attention.sliding_window"},
    {"smollm3", "smollm3", "SmolLM3ForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kLlamaFields, kLlamaModelTensors, kLlamaBlock, complete_smollm3, "llama-bpe"},
    {"mistral3", "mistral", "MistralForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kLlamaFields, kLlamaModelTensors, kMistral3Block, complete_mistral3, "tekken", false,
     "attention.temperature_scale rope.scaling.yarn_log_multiplier"},
    {"granite", "granite", "GraniteForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kGraniteFields, kLlamaModelTensors, kLlamaBlock, complete_granite, "refact", false, kGraniteKeys},
    {"arcee", "arcee", "ArceeForCausalLM", R"({"hidden_act": "relu2", "rope_theta": 10000.0})", kLlamaFields,
     kLlamaModelTensors, kArceeBlock, complete_llama, "llama-bpe"},
    {"apertus",
     "apertus",
     "ApertusForCausalLM",
     R"({"hidden_act": "xielu", "rope_theta": 10000.0})",
     kLlamaFields,
     kLlamaModelTensors,
     kApertusBlock,
     complete_apertus,
     "tekken",
     false,
     {},
     false,
     false,
     {},
     false,
     "alpha_p alpha_n beta eps"},
    {"glm4", "glm4", "Glm4ForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})", kLlamaFields,
     kLlamaModelTensors, kGlm4Block, complete_glm4, "glm4"},
};

}  // namespace

std::span<const GgufArchitecture> gguf_llama_like() { return kLlamaLikeArchitectures; }

}  // namespace swiftprune
