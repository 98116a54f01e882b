#include "swiftprune/checkpoint/gguf_fields.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune::gguf_fields {

std::string key_of(const GgufFile& file, std::string_view suffix) {
  return fmt::format("{}.{}", *file.text("general.architecture"), suffix);
}

double float_as_written(double value) { return std::stod(fmt::format("{}", static_cast<float>(value))); }

double positive_of(const GgufFile& file, std::string_view suffix, double absent) {
  const std::string key = key_of(file, suffix);
  const auto number = file.number(key);
  if (!number) return absent;
  if (const double value = float_as_written(*number); value > 0.0 && std::isfinite(value)) return value;
  bad_input("{}: {}: found {}, expected a number above 0", file.name(), key, *number);
}

Json cap_of(const GgufFile& file, std::string_view suffix) {
  if (file.number(key_of(file, suffix)).value_or(0.0) == 0.0) return Json();
  return positive_of(file, suffix, 0.0);
}

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

Json sliding_layers(std::int64_t num_layers, std::int64_t period) {
  Json layers = Json::array();
  for (std::int64_t i = 0; i < num_layers; ++i) {
    layers.push_back((i + 1) % period == 0 ? "full_attention" : "sliding_attention");
  }
  return layers;
}

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

void complete_llama(const GgufFile& file, Json& config) {
  const std::int64_t head_dim = head_dim_of(file, config);
  require_full_rotation(file, head_dim);
  config["head_dim"] = head_dim;
  const GgufTensor* table = file.find("rope_freqs.weight");
  Json scaling = rope_scaling(file);
  if (table != nullptr) {
    // llama.cpp applies both.
    if (!scaling.is_null()) {
      bad_input(
          "{}: {}: found a rope scaling beside the tensor {}, expected one of them: transformers has one",
          file.name(), key_of(file, "rope.scaling"), table->name);
    }
    scaling = llama3_rope_scaling(file, *table, config.at("rope_theta"), head_dim);
  }
  config["rope_scaling"] = std::move(scaling);
}

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

void complete_partial(const GgufFile& file, Json& config) {
  config["partial_rotary_factor"] = rotary_fraction(file, head_dim_of(file, config));
  config["rope_scaling"] = rope_scaling(file);
}

void complete_glm4(const GgufFile& file, Json& config) {
  const std::int64_t head_dim = head_dim_of(file, config);
  config["head_dim"] = head_dim;
  config["partial_rotary_factor"] = rotary_fraction(file, head_dim);
  config["rope_scaling"] = rope_scaling(file);
}

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

}  // namespace swiftprune::gguf_fields
