#include "swiftprune/checkpoint/gguf_architectures.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

using Json = nlohmann::ordered_json;
using Type = ConfigField::Type;

// ---- helpers of the `complete` functions

std::string key_of(const GgufFile& file, std::string_view suffix) {
  return fmt::format("{}.{}", *file.text("general.architecture"), suffix);
}

// Stored as float32: 1e-05, not 9.999999747378752e-06.
double float_as_written(double value) { return std::stod(fmt::format("{}", static_cast<float>(value))); }

std::int64_t head_dim_of(const GgufFile& file, const Json& config) {
  const auto key_length = file.integer(key_of(file, "attention.key_length"));
  if (key_length.value_or(1) < 1)
    bad_input("{}: {}: expected 1 or more", file.name(), key_of(file, "attention.key_length"));
  if (key_length) return *key_length;
  const std::int64_t hidden = config.at("hidden_size"), heads = config.at("num_attention_heads");
  if (hidden % heads != 0) {
    bad_input("{}: found embedding_length {}, expected a multiple of the {} heads", file.name(), hidden,
              heads);
  }
  return hidden / heads;
}

// The fraction of each head that is rotated.
double rotary_fraction(const GgufFile& file, std::int64_t head_dim) {
  const std::int64_t rotated = file.integer(key_of(file, "rope.dimension_count")).value_or(head_dim);
  if (rotated < 1 || rotated > head_dim) {
    bad_input("{}: {}: found {}, expected 1 to the head size {}", file.name(),
              key_of(file, "rope.dimension_count"), rotated, head_dim);
  }
  return static_cast<double>(rotated) / static_cast<double>(head_dim);
}

void require_full_rotation(const GgufFile& file, std::int64_t head_dim) {
  if (rotary_fraction(file, head_dim) != 1.0) {
    bad_input("{}: {}: expected the head size {}; this architecture rotates whole heads", file.name(),
              key_of(file, "rope.dimension_count"), head_dim);
  }
}

// Llama 3.1 scales rope by a table in the file. It is made from these four numbers (transformers' rope_type
// "llama3"); the factor is its largest entry, the others have been the same in every such model.
Json llama3_rope_scaling(const GgufFile& file, const GgufTensor& tensor, double theta,
                         std::int64_t head_dim) {
  std::vector<float> table(static_cast<std::size_t>(tensor.numel()));
  dequantize(*tensor.type, file.bytes(tensor), table);
  if (static_cast<std::int64_t>(table.size()) != head_dim / 2) {
    bad_input("{}: tensor {}: found {} values, expected {}", file.name(), tensor.name, table.size(),
              head_dim / 2);
  }
  constexpr double kLow = 1.0, kHigh = 4.0, kOriginalContext = 8192.0;
  const double factor = *std::max_element(table.begin(), table.end());
  for (std::size_t i = 0; i < table.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
    const double wavelength = 2.0 * std::numbers::pi * std::pow(theta, exponent);
    const double turns = kOriginalContext / wavelength;
    const double smooth = (turns - kLow) / (kHigh - kLow);
    const double expected = turns < kLow    ? factor
                            : turns > kHigh ? 1.0
                                            : 1.0 / ((1.0 - smooth) / factor + smooth);
    if (!(std::abs(static_cast<double>(table[i]) - expected) <= 1e-3 * expected)) {
      bad_input("{}: tensor {}: found {} at {}, expected {}; this rope scaling is not Llama 3's", file.name(),
                tensor.name, table[i], i, expected);
    }
  }
  return {{"rope_type", "llama3"},
          {"factor", factor},
          {"low_freq_factor", kLow},
          {"high_freq_factor", kHigh},
          {"original_max_position_embeddings", static_cast<std::int64_t>(kOriginalContext)}};
}

// transformers' rope_scaling, or null.
Json rope_scaling(const GgufFile& file) {
  const std::string type_key = key_of(file, "rope.scaling.type");
  // A factor without a type stretches linearly (llama.cpp's load_hparams); rope.scale_linear is its older
  // key.
  const std::string type(file.text(type_key).value_or("linear"));
  auto factor = file.number(key_of(file, "rope.scaling.factor"));
  if (!factor || *factor == 0.0) factor = file.number(key_of(file, "rope.scale_linear"));
  const std::string magnitude_key = key_of(file, "rope.scaling.attn_factor");
  const double magnitude = file.number(magnitude_key).value_or(1.0);
  if (type != "yarn" && magnitude != 1.0) {
    bad_input("{}: {}: found {}, expected 1 with the rope scaling {}: transformers has no place for it",
              file.name(), magnitude_key, magnitude, json_quoted(type));
  }
  if (type == "none") return Json();
  if (!file.has(type_key) && factor.value_or(0.0) == 0.0) return Json();
  if (type != "linear" && type != "yarn") {
    bad_input("{}: {}: found {}, expected none, linear or yarn", file.name(), type_key, json_quoted(type));
  }
  if (!factor) bad_input("{}: {} is missing", file.name(), key_of(file, "rope.scaling.factor"));
  if (type == "linear" && *factor == 1.0) return Json();
  Json scaling = {{"rope_type", type}, {"factor", *factor}};
  if (type == "yarn") {
    if (const auto n = file.integer(key_of(file, "rope.scaling.original_context_length"))) {
      scaling["original_max_position_embeddings"] = *n;
    }
    if (const auto beta = file.number(key_of(file, "rope.scaling.yarn_beta_fast")))
      scaling["beta_fast"] = *beta;
    if (const auto beta = file.number(key_of(file, "rope.scaling.yarn_beta_slow")))
      scaling["beta_slow"] = *beta;
    // llama.cpp multiplies it with yarn's own; transformers' takes its place.
    if (magnitude != 1.0) scaling["attention_factor"] = magnitude * (1.0 + 0.1 * std::log(*factor));
  }
  return scaling;
}

Json float_table(const GgufFile& file, std::string_view name) {
  const GgufTensor* tensor = file.find(name);
  if (tensor == nullptr) bad_input("{}: tensor {} is missing", file.name(), name);
  std::vector<float> table(static_cast<std::size_t>(tensor->numel()));
  dequantize(*tensor->type, file.bytes(*tensor), table);
  return table;
}

// ---- what all decoders of the Llama kind share

constexpr ConfigField kLlamaFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv", Type::kInteger, false},
    {"max_position_embeddings", "context_length"},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", Type::kNumber},
    {"rope_theta", "rope.freq_base", Type::kNumber, false},
};

constexpr TensorRule kLlamaModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
    {"rope_freqs", ""},
};

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

void complete_llama(const GgufFile& file, Json& config) {
  const std::int64_t head_dim = head_dim_of(file, config);
  require_full_rotation(file, head_dim);
  config["head_dim"] = head_dim;
  const GgufTensor* table = file.find("rope_freqs.weight");
  config["rope_scaling"] = table == nullptr
                               ? rope_scaling(file)
                               : llama3_rope_scaling(file, *table, config.at("rope_theta"), head_dim);
}

// ---- deci: llama with numbers of heads and channels for each layer

constexpr ConfigField kDeciFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length", Type::kLargest},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count", Type::kLargest},
    {"num_key_value_heads", "attention.head_count_kv", Type::kLargest},
    {"max_position_embeddings", "context_length"},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", Type::kNumber},
    {"rope_theta", "rope.freq_base", Type::kNumber, false},
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

void complete_qwen2(const GgufFile& file, Json& config) {
  const std::int64_t head_dim = head_dim_of(file, config);
  require_full_rotation(file, head_dim);
  const std::int64_t heads = config.at("num_attention_heads");
  if (head_dim * heads != config.at("hidden_size")) {
    bad_input("{}: found {} heads of {}, expected them to make the embedding_length", file.name(), heads,
              head_dim);
  }
  config["rope_scaling"] = rope_scaling(file);
}

void complete_qwen3(const GgufFile& file, Json& config) {
  const std::int64_t head_dim = head_dim_of(file, config);
  require_full_rotation(file, head_dim);
  config["head_dim"] = head_dim;
  config["rope_scaling"] = rope_scaling(file);
}

// ---- gemma2, gemma3: norm weights are stored as 1 + w

constexpr TensorRule kGemmaModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm", "none", RowOrder::kSame, -1.0f},
    {"output", "lm_head"},
};

constexpr TensorRule kGemma2Block[] = {
    {"attn_norm", "model.layers.*.input_layernorm", "none", RowOrder::kSame, -1.0f},
    {"attn_q", "model.layers.*.self_attn.q_proj"},
    {"attn_k", "model.layers.*.self_attn.k_proj"},
    {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"post_attention_norm", "model.layers.*.post_attention_layernorm", "none", RowOrder::kSame, -1.0f},
    {"ffn_norm", "model.layers.*.pre_feedforward_layernorm", "none", RowOrder::kSame, -1.0f},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
    {"post_ffw_norm", "model.layers.*.post_feedforward_layernorm", "none", RowOrder::kSame, -1.0f},
};

constexpr TensorRule kGemma3Block[] = {
    {"attn_norm", "model.layers.*.input_layernorm", "none", RowOrder::kSame, -1.0f},
    {"attn_q", "model.layers.*.self_attn.q_proj"},
    {"attn_k", "model.layers.*.self_attn.k_proj"},
    {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"attn_q_norm", "model.layers.*.self_attn.q_norm", "none", RowOrder::kSame, -1.0f},
    {"attn_k_norm", "model.layers.*.self_attn.k_norm", "none", RowOrder::kSame, -1.0f},
    {"post_attention_norm", "model.layers.*.post_attention_layernorm", "none", RowOrder::kSame, -1.0f},
    {"ffn_norm", "model.layers.*.pre_feedforward_layernorm", "none", RowOrder::kSame, -1.0f},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
    {"post_ffw_norm", "model.layers.*.post_feedforward_layernorm", "none", RowOrder::kSame, -1.0f},
};

// One full-attention layer in each `period`, the others slide.
Json sliding_layers(std::int64_t num_layers, std::int64_t period) {
  Json layers = Json::array();
  for (std::int64_t i = 0; i < num_layers; ++i) {
    layers.push_back((i + 1) % period == 0 ? "full_attention" : "sliding_attention");
  }
  return layers;
}

// Files do not say what the queries are scaled by; llama.cpp knows the one size of each generation where it
// is not the head size by its number of layers.
void complete_gemma(const GgufFile& file, Json& config, std::int64_t layers_of_27b) {
  const std::int64_t head_dim = head_dim_of(file, config);
  const std::int64_t heads = config.at("num_attention_heads"), hidden = config.at("hidden_size");
  require_full_rotation(file, head_dim);
  config["head_dim"] = head_dim;
  config["query_pre_attn_scalar"] =
      config.at("num_hidden_layers") == layers_of_27b ? hidden / heads : head_dim;
}

void complete_gemma2(const GgufFile& file, Json& config) {
  complete_gemma(file, config, 46);
  config["layer_types"] = sliding_layers(config.at("num_hidden_layers"), 2);
  config["sliding_window"] = file.integer(key_of(file, "attention.sliding_window")).value_or(4096);
  config["attn_logit_softcapping"] = file.number(key_of(file, "attn_logit_softcapping")).value_or(50.0);
  config["final_logit_softcapping"] = file.number(key_of(file, "final_logit_softcapping")).value_or(30.0);
  if (Json scaling = rope_scaling(file); !scaling.is_null()) config["rope_scaling"] = std::move(scaling);
}

void complete_gemma3(const GgufFile& file, Json& config) {
  complete_gemma(file, config, 62);
  constexpr std::int64_t kPeriod = 6;
  config["layer_types"] = sliding_layers(config.at("num_hidden_layers"), kPeriod);
  config["sliding_window_pattern"] = kPeriod;
  config["rope_local_base_freq"] = file.number(key_of(file, "rope.freq_base_swa")).value_or(10000.0);
  config["rope_scaling"] = rope_scaling(file);
  const auto cap = file.number(key_of(file, "final_logit_softcapping"));
  config["final_logit_softcapping"] = cap ? Json(*cap) : Json();
}

constexpr ConfigField kGemma3Fields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv", Type::kInteger, false},
    {"max_position_embeddings", "context_length"},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", Type::kNumber},
    {"rope_theta", "rope.freq_base", Type::kNumber},
    {"sliding_window", "attention.sliding_window"},
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

// ---- gptneox (Pythia)

constexpr ConfigField kGptNeoxFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"max_position_embeddings", "context_length"},
    {"layer_norm_eps", "attention.layer_norm_epsilon", Type::kNumber},
    {"use_parallel_residual", "use_parallel_residual", Type::kBoolean},
};

constexpr TensorRule kGptNeoxModelTensors[] = {
    {"token_embd", "gpt_neox.embed_in"},
    {"output_norm", "gpt_neox.final_layer_norm", "required"},
    {"output", "embed_out"},
};

constexpr TensorRule kGptNeoxBlock[] = {
    {"attn_norm", "gpt_neox.layers.*.input_layernorm", "required"},
    {"attn_qkv", "gpt_neox.layers.*.attention.query_key_value", "attention_bias", RowOrder::kSplitQkv},
    {"attn_output", "gpt_neox.layers.*.attention.dense", "attention_bias"},
    {"ffn_norm", "gpt_neox.layers.*.post_attention_layernorm", "required"},
    {"ffn_up", "gpt_neox.layers.*.mlp.dense_h_to_4h", "required"},
    {"ffn_down", "gpt_neox.layers.*.mlp.dense_4h_to_h", "required"},
};

void complete_gptneox(const GgufFile& file, Json& config) {
  config["rotary_pct"] = rotary_fraction(file, head_dim_of(file, config));
  config["rotary_emb_base"] = file.number(key_of(file, "rope.freq_base")).value_or(10000.0);
  if (Json scaling = rope_scaling(file); !scaling.is_null()) config["rope_scaling"] = std::move(scaling);
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

constexpr ConfigField kGraniteFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv", Type::kInteger, false},
    {"max_position_embeddings", "context_length"},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", Type::kNumber},
    {"rope_theta", "rope.freq_base", Type::kNumber, false},
    {"attention_multiplier", "attention.scale", Type::kNumber, false},
    {"embedding_multiplier", "embedding_scale", Type::kNumber, false},
    {"residual_multiplier", "residual_scale", Type::kNumber, false},
    {"logits_scaling", "logit_scale", Type::kNumber},
};

void complete_granite(const GgufFile& file, Json& config) {
  complete_llama(file, config);
  // 0: llama.cpp's own default.
  for (const char* field : {"embedding_multiplier", "residual_multiplier", "logits_scaling"}) {
    if (config.value(field, 0.0) == 0.0) config[field] = 1.0;
  }
  if (config.value("attention_multiplier", 0.0) == 0.0) {
    config["attention_multiplier"] = 1.0 / std::sqrt(config.at("head_dim").get<double>());
  }
}

// ---- olmo: norms without parameters

constexpr ConfigField kOlmoFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv", Type::kInteger, false},
    {"max_position_embeddings", "context_length"},
    {"rope_theta", "rope.freq_base", Type::kNumber, false},
    {"clip_qkv", "attention.clamp_kqv", Type::kNumber, false},
};

constexpr TensorRule kOlmoModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    {"output", "lm_head"},
};

constexpr TensorRule kOlmoBlock[] = {
    {"attn_q", "model.layers.*.self_attn.q_proj", "none", RowOrder::kRotaryPairsOfQ},
    {"attn_k", "model.layers.*.self_attn.k_proj", "none", RowOrder::kRotaryPairsOfK},
    {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
};

void complete_olmo(const GgufFile& file, Json& config) {
  complete_qwen2(file, config);
  const std::string key = key_of(file, "attention.layer_norm_epsilon");
  if (const double eps = file.number(key).value_or(1e-5); std::abs(eps - 1e-5) > 1e-9) {
    bad_input("{}: {}: found {}, expected 1e-5: OLMo has no other", file.name(), key, eps);
  }
  if (config.value("clip_qkv", 0.0) == 0.0) config["clip_qkv"] = nullptr;
}

// ---- olmo2 (also OLMo 3) and exaone4: norms behind attention and MLP

constexpr TensorRule kOlmo2Block[] = {
    {"attn_q", "model.layers.*.self_attn.q_proj"},
    {"attn_k", "model.layers.*.self_attn.k_proj"},
    {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"attn_q_norm", "model.layers.*.self_attn.q_norm"},
    {"attn_k_norm", "model.layers.*.self_attn.k_norm"},
    {"post_attention_norm", "model.layers.*.post_attention_layernorm"},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
    {"post_ffw_norm", "model.layers.*.post_feedforward_layernorm"},
};

// attention.sliding_window_pattern: one number for each layer (1: it slides), one full layer in so many, or nothing.
Json layer_types_of(const GgufFile& file, std::int64_t num_layers, std::int64_t period) {
  const std::string key = key_of(file, "attention.sliding_window_pattern");
  if (!file.has(key)) return sliding_layers(num_layers, period);
  const std::vector<double> pattern = file.one_or_more(key);
  if (pattern.size() == 1 && num_layers > 1) {
    if (!(pattern[0] >= 1.0 && pattern[0] <= 4096.0))
      bad_input("{}: {}: found {}", file.name(), key, pattern[0]);
    return sliding_layers(num_layers, static_cast<std::int64_t>(pattern[0]));
  }
  if (std::ssize(pattern) != num_layers) {
    bad_input("{}: {}: found {} layers, expected {}", file.name(), key, pattern.size(), num_layers);
  }
  Json layers = Json::array();
  for (const double slides : pattern)
    layers.push_back(slides != 0.0 ? "sliding_attention" : "full_attention");
  return layers;
}

void complete_olmo2(const GgufFile& file, Json& config) {
  complete_qwen2(file, config);
  const std::int64_t window = file.integer(key_of(file, "attention.sliding_window")).value_or(0);
  if (window <= 0) return;
  config["model_type"] = "olmo3";
  config["architectures"] = {"Olmo3ForCausalLM"};
  config["sliding_window"] = window;
  config["layer_types"] = layer_types_of(file, config.at("num_hidden_layers"), 4);
}

void complete_exaone4(const GgufFile& file, Json& config) {
  complete_llama(file, config);
  constexpr std::int64_t kLayersOf32b = 64;  // the one that llama.cpp lets slide
  const std::int64_t layers = config.at("num_hidden_layers");
  const std::int64_t window = file.integer(key_of(file, "attention.sliding_window")).value_or(0);
  if (window > 0 && layers == kLayersOf32b) {
    config["sliding_window"] = window;
    config["layer_types"] = layer_types_of(file, layers, 4);
  } else {
    config["sliding_window"] = nullptr;
    config["layer_types"] = std::vector<std::string>(static_cast<std::size_t>(layers), "full_attention");
  }
}

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

void complete_glm4(const GgufFile& file, Json& config) {
  const std::int64_t head_dim = head_dim_of(file, config);
  config["head_dim"] = head_dim;
  config["partial_rotary_factor"] = rotary_fraction(file, head_dim);
  config["rope_scaling"] = rope_scaling(file);
}

// ---- stablelm, starcoder2, phi2: LayerNorm

constexpr ConfigField kStableLmFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv", Type::kInteger, false},
    {"max_position_embeddings", "context_length"},
    {"layer_norm_eps", "attention.layer_norm_epsilon", Type::kNumber},
    {"rope_theta", "rope.freq_base", Type::kNumber, false},
    {"use_parallel_residual", "use_parallel_residual", Type::kBoolean, false},
};

constexpr TensorRule kLayerNormModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm", "required"},
    {"output", "lm_head"},
};

constexpr TensorRule kStableLmBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm", "required"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "use_qkv_bias"},
    {"attn_k", "model.layers.*.self_attn.k_proj", "use_qkv_bias"},
    {"attn_v", "model.layers.*.self_attn.v_proj", "use_qkv_bias"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm", "required"},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
};

void complete_partial(const GgufFile& file, Json& config) {
  config["partial_rotary_factor"] = rotary_fraction(file, head_dim_of(file, config));
  config["rope_scaling"] = rope_scaling(file);
}

void complete_stablelm(const GgufFile& file, Json& config) {
  complete_partial(file, config);
  // What llama.cpp goes by is whether there is a second norm.
  if (file.find("blk.0.ffn_norm.weight") == nullptr) {
    bad_input(
        "{}: tensor blk.0.ffn_norm.weight is missing: the parallel layout of StableLM 12B is not read from "
        "GGUF",
        file.name());
  }
  config["use_parallel_residual"] = false;
}

constexpr ConfigField kStarcoder2Fields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv", Type::kInteger, false},
    {"max_position_embeddings", "context_length"},
    {"norm_epsilon", "attention.layer_norm_epsilon", Type::kNumber},
    {"rope_theta", "rope.freq_base", Type::kNumber, false},
};

constexpr TensorRule kStarcoder2Block[] = {
    {"attn_norm", "model.layers.*.input_layernorm", "required"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "required"},
    {"attn_k", "model.layers.*.self_attn.k_proj", "required"},
    {"attn_v", "model.layers.*.self_attn.v_proj", "required"},
    {"attn_output", "model.layers.*.self_attn.o_proj", "required"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm", "required"},
    {"ffn_up", "model.layers.*.mlp.c_fc", "required"},
    {"ffn_down", "model.layers.*.mlp.c_proj", "required"},
};

void complete_starcoder2(const GgufFile& file, Json& config) {
  complete_qwen2(file, config);
  config["sliding_window"] = nullptr;
}

constexpr ConfigField kPhi2Fields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv", Type::kInteger, false},
    {"max_position_embeddings", "context_length"},
    {"layer_norm_eps", "attention.layer_norm_epsilon", Type::kNumber},
    {"rope_theta", "rope.freq_base", Type::kNumber, false},
};

constexpr TensorRule kPhi2ModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.final_layernorm", "required"},
    {"output", "lm_head", "required"},
};

constexpr TensorRule kPhi2Block[] = {
    {"attn_norm", "model.layers.*.input_layernorm", "required"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "required"},
    {"attn_k", "model.layers.*.self_attn.k_proj", "required"},
    {"attn_v", "model.layers.*.self_attn.v_proj", "required"},
    {"attn_output", "model.layers.*.self_attn.dense", "required"},
    {"ffn_up", "model.layers.*.mlp.fc1", "required"},
    {"ffn_down", "model.layers.*.mlp.fc2", "required"},
};

// ---- command-r, cohere2

constexpr ConfigField kCohereFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv", Type::kInteger, false},
    {"max_position_embeddings", "context_length"},
    {"layer_norm_eps", "attention.layer_norm_epsilon", Type::kNumber},
    {"rope_theta", "rope.freq_base", Type::kNumber, false},
    {"logit_scale", "logit_scale", Type::kNumber, false},
};

constexpr TensorRule kCohereBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},    {"attn_q", "model.layers.*.self_attn.q_proj"},
    {"attn_k", "model.layers.*.self_attn.k_proj"},      {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"}, {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},           {"ffn_down", "model.layers.*.mlp.down_proj"},
};

void complete_cohere(const GgufFile& file, Json& config) {
  complete_qwen2(file, config);
  if (config.value("logit_scale", 0.0) == 0.0) config["logit_scale"] = 1.0;  // llama.cpp's own default
}

void complete_cohere2(const GgufFile& file, Json& config) {
  complete_cohere(file, config);
  const std::string key = key_of(file, "attention.sliding_window");
  const auto window = file.integer(key);
  if (!window || *window < 1) bad_input("{}: {} is missing", file.name(), key);
  config["sliding_window"] = *window;
  config["layer_types"] = layer_types_of(file, config.at("num_hidden_layers"), 4);
}

// ---- gemma

constexpr TensorRule kGemmaBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm", "none", RowOrder::kSame, -1.0f},
    {"attn_q", "model.layers.*.self_attn.q_proj"},
    {"attn_k", "model.layers.*.self_attn.k_proj"},
    {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm", "none", RowOrder::kSame, -1.0f},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
};

constexpr GgufArchitecture kArchitectures[] = {
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
    {"gemma2", "gemma2", "Gemma2ForCausalLM",
     R"({"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh", "rope_theta": 10000.0})",
     kLlamaFields, kGemmaModelTensors, kGemma2Block, complete_gemma2, "", true},
    {"gemma3", "gemma3_text", "Gemma3ForCausalLM",
     R"({"hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": null})", kGemma3Fields,
     kGemmaModelTensors, kGemma3Block, complete_gemma3, "", true},
    {"phi3", "phi3", "Phi3ForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})", kLlamaFields,
     kPhi3ModelTensors, kPhi3Block, complete_phi3, "llama-bpe"},
    {"smollm3", "smollm3", "SmolLM3ForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kLlamaFields, kLlamaModelTensors, kLlamaBlock, complete_smollm3, "llama-bpe"},
    {"mistral3", "mistral", "MistralForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kLlamaFields, kLlamaModelTensors, kMistral3Block, complete_mistral3, "tekken"},
    {"granite", "granite", "GraniteForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kGraniteFields, kLlamaModelTensors, kLlamaBlock, complete_granite, "refact"},
    {"olmo", "olmo", "OlmoForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})", kOlmoFields,
     kOlmoModelTensors, kOlmoBlock, complete_olmo, "olmo"},
    {"olmo2", "olmo2", "Olmo2ForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})", kLlamaFields,
     kLlamaModelTensors, kOlmo2Block, complete_olmo2, "dbrx"},
    {"exaone4", "exaone4", "Exaone4ForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kLlamaFields, kLlamaModelTensors, kOlmo2Block, complete_exaone4, "exaone4"},
    {"glm4", "glm4", "Glm4ForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})", kLlamaFields,
     kLlamaModelTensors, kGlm4Block, complete_glm4, "glm4"},
    {"stablelm", "stablelm", "StableLmForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kStableLmFields, kLayerNormModelTensors, kStableLmBlock, complete_stablelm, "stablelm2"},
    {"starcoder2", "starcoder2", "Starcoder2ForCausalLM",
     R"({"hidden_act": "gelu_pytorch_tanh", "rope_theta": 10000.0, "use_bias": true})", kStarcoder2Fields,
     kLayerNormModelTensors, kStarcoder2Block, complete_starcoder2, "starcoder"},
    {"phi2", "phi", "PhiForCausalLM", R"({"hidden_act": "gelu_new", "rope_theta": 10000.0})", kPhi2Fields,
     kPhi2ModelTensors, kPhi2Block, complete_partial, "gpt-2"},
    {"command-r", "cohere", "CohereForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kCohereFields, kLlamaModelTensors, kCohereBlock, complete_cohere, "command-r"},
    {"cohere2", "cohere2", "Cohere2ForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kCohereFields, kLlamaModelTensors, kCohereBlock, complete_cohere2, "command-r"},
    {"gemma", "gemma", "GemmaForCausalLM",
     R"({"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh", "rope_theta": 10000.0})",
     kLlamaFields, kGemmaModelTensors, kGemmaBlock, complete_qwen3, "", true},
    {"gptneox", "gpt_neox", "GPTNeoXForCausalLM", R"({"hidden_act": "gelu"})", kGptNeoxFields,
     kGptNeoxModelTensors, kGptNeoxBlock, complete_gptneox, "olmo"},
};

void add_field(const GgufFile& file, const ConfigField& field, Json& config) {
  const std::string key = key_of(file, field.gguf);
  if (!file.has(key)) {
    if (field.required) bad_input("{}: {} is missing", file.name(), key);
    return;
  }
  Json& target = config[std::string(field.hugging_face)];
  if (field.type == Type::kBoolean) {
    target = *file.boolean(key);
  } else if (field.type == Type::kNumber) {
    target = float_as_written(*file.number(key));
  } else {
    // One number, or one for each layer: equal ones, but where config.json names the largest.
    const std::vector<std::int64_t> values = *file.integers(key);
    const std::int64_t value = values.empty() ? 0 : *std::max_element(values.begin(), values.end());
    const auto layers = file.integer(key_of(file, "block_count"));
    if (values.size() > 1 && layers && std::ssize(values) != *layers) {
      bad_input("{}: {}: found {} numbers, expected one for each of the {} layers", file.name(), key,
                values.size(), *layers);
    }
    const auto other = std::find_if(values.begin(), values.end(), [&](std::int64_t v) { return v != value; });
    if (field.type == Type::kInteger && other != values.end()) {
      bad_input(
          "{}: {}: found {} in layer {} and {} in another, expected one number for all: only llama's layers "
          "(architecture deci) may differ",
          file.name(), key, *other, other - values.begin(), value);
    }
    if (value < 1 || value > (std::int64_t{1} << 31)) {
      bad_input("{}: {}: found {}, expected 1 to 2^31", file.name(), key, value);
    }
    target = value;
  }
}

// Keys after "<architecture>." that every architecture's code above reads, and those that change nothing
// here.
constexpr std::string_view kReadKeys[] = {"vocab_size",
                                          "context_length",
                                          "embedding_length",
                                          "block_count",
                                          "feed_forward_length",
                                          "attention.head_count",
                                          "attention.head_count_kv",
                                          "attention.key_length",
                                          "attention.layer_norm_epsilon",
                                          "attention.layer_norm_rms_epsilon",
                                          "rope.dimension_count",
                                          "rope.freq_base",
                                          "rope.scaling.type",
                                          "rope.scaling.factor",
                                          "rope.scaling.attn_factor",
                                          "rope.scaling.original_context_length",
                                          "rope.scaling.yarn_beta_fast",
                                          "rope.scaling.yarn_beta_slow",
                                          "rope.scale_linear",
                                          "use_parallel_residual",
                                          "tensor_data_layout",
                                          "rope.scaling.finetuned"};
// Those that some architectures read: their names and the keys.
constexpr std::pair<std::string_view, std::string_view> kOwnKeys[] = {
    {"gemma2", "attention.sliding_window"},
    {"gemma3", "attention.sliding_window"},
    {"phi3", "attention.sliding_window"},
    {"gemma2", "attn_logit_softcapping"},
    {"gemma2", "final_logit_softcapping"},
    {"gemma3", "final_logit_softcapping"},
    {"gemma3", "rope.freq_base_swa"},
    {"mistral3", "attention.temperature_scale"},
    {"mistral3", "rope.scaling.yarn_log_multiplier"},
    {"granite", "attention.scale"},
    {"granite", "embedding_scale"},
    {"granite", "residual_scale"},
    {"granite", "logit_scale"},
    {"olmo", "attention.clamp_kqv"},
    {"olmo2", "attention.sliding_window"},
    {"olmo2", "attention.sliding_window_pattern"},
    {"exaone4", "attention.sliding_window"},
    {"exaone4", "attention.sliding_window_pattern"},
    {"command-r", "logit_scale"},
    {"cohere2", "logit_scale"},
    {"cohere2", "attention.sliding_window"},
    {"cohere2", "attention.sliding_window_pattern"}};
// Switches whose value here is what is computed anyway.
constexpr std::pair<std::string_view, double> kNeutralKeys[] = {{"attention.causal", 1.0},
                                                                {"rope.scaling.yarn_ext_factor", 1.0},
                                                                {"rope.scaling.yarn_attn_factor", 1.0},
                                                                {"attention.scale", 0.0},
                                                                {"logit_scale", 1.0},
                                                                {"residual_scale", 1.0},
                                                                {"embedding_scale", 1.0}};

// A key that is not read would make another model: experts, scales, windows. 0, false and empty lists are
// none.
void check_keys(const GgufFile& file, const GgufArchitecture& architecture) {
  const std::string prefix = std::string(architecture.name) + ".";
  for (const std::string_view key : file.keys()) {
    if (!key.starts_with(prefix)) continue;
    const std::string_view suffix = key.substr(prefix.size());
    if (std::find(std::begin(kReadKeys), std::end(kReadKeys), suffix) != std::end(kReadKeys)) continue;
    if (std::find(std::begin(kOwnKeys), std::end(kOwnKeys), std::pair(architecture.name, suffix)) !=
        std::end(kOwnKeys)) {
      continue;
    }
    if (suffix == "attention.value_length") {
      const auto keys = file.integer(key_of(file, "attention.key_length")), values = file.integer(key);
      if (keys == values) continue;
      bad_input("{}: {}: found {}, expected attention.key_length ({}): heads of one size", file.name(), key,
                values.value_or(0), keys ? std::to_string(*keys) : "absent");
    }
    const bool is_text = file.is_text(key);
    const std::vector<double> numbers = is_text ? std::vector<double>{} : file.one_or_more(key);
    const auto neutral = std::find_if(std::begin(kNeutralKeys), std::end(kNeutralKeys),
                                      [&](const auto& entry) { return entry.first == suffix; });
    const double none = neutral == std::end(kNeutralKeys) ? 0.0 : neutral->second;
    const auto differs = [&](double number) { return number != none && number != 0.0; };
    if (!is_text && std::none_of(numbers.begin(), numbers.end(), differs)) continue;
    bad_input("{}: {}: found {}, which swiftprune does not read: the model would come out as another one",
              file.name(), key,
              is_text ? json_quoted(file.text(key).value_or("a list")) : fmt::format("{}", numbers[0]));
  }
}

}  // namespace

std::int64_t stored_row(RowOrder order, std::int64_t row, std::int64_t heads, std::int64_t head_dim) {
  if (order == RowOrder::kSame) return row;
  if (order == RowOrder::kSplitQkv) {
    const std::int64_t head = row / (3 * head_dim), part = row / head_dim % 3;
    return (part * heads + head) * head_dim + row % head_dim;
  }
  const std::int64_t head = row / head_dim, within = row % head_dim;
  const std::int64_t half = within / (head_dim / 2), pair = within % (head_dim / 2);
  return head * head_dim + 2 * pair + half;
}

std::span<const GgufArchitecture> gguf_architectures() { return kArchitectures; }

const GgufArchitecture& gguf_architecture_of(const GgufFile& file) {
  const auto name = file.text("general.architecture");
  if (!name) bad_input("{}: general.architecture is missing", file.name());
  std::vector<std::string_view> known;
  for (const GgufArchitecture& architecture : kArchitectures) {
    if (architecture.name == *name) return architecture;
    known.push_back(architecture.name);
  }
  bad_input("{}: general.architecture: found {}, expected one of {}; docs/formats.md tells how to add one",
            file.name(), json_quoted(*name), fmt::join(known, ", "));
}

Json gguf_config(const GgufFile& file, const GgufArchitecture& architecture) {
  Json config;
  check_keys(file, architecture);
  config["architectures"] = {architecture.model_class};
  config["model_type"] = architecture.model_type;
  config.update(Json::parse(architecture.constants));
  for (const ConfigField& field : architecture.fields) add_field(file, field, config);
  const bool has_groups =
      std::any_of(architecture.fields.begin(), architecture.fields.end(),
                  [](const ConfigField& f) { return f.hugging_face == "num_key_value_heads"; });
  if (has_groups && !config.contains("num_key_value_heads")) {
    config["num_key_value_heads"] = config.at("num_attention_heads");
  }
  if (const std::int64_t heads = config.at("num_attention_heads"),
      groups = config.value("num_key_value_heads", heads);
      heads % groups != 0) {
    bad_input("{}: found {} attention heads, expected a multiple of the {} key heads", file.name(), heads,
              groups);
  }
  const GgufTensor* embedding = file.find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    bad_input("{}: tensor token_embd.weight: expected a matrix", file.name());
  }
  config["vocab_size"] = embedding->shape[0];
  config["tie_word_embeddings"] = file.find("output.weight") == nullptr;
  architecture.complete(file, config);
  return config;
}

}  // namespace swiftprune
