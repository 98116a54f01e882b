// SmolLM3 (Hugging Face, July 2025): LLaMA without rotary embedding in every fourth layer.
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

// Does the layer rotate? no_rope_layers says 1 where it does.
std::vector<bool> read_rotated_layers(const ConfigReader& c, std::int64_t num_layers) {
  const std::int64_t interval = c.integer("no_rope_layer_interval", 4);
  std::vector<bool> rotated;
  if (!c.has("no_rope_layers")) {
    for (std::int64_t i = 0; i < num_layers; ++i) rotated.push_back((i + 1) % interval != 0);
    return rotated;
  }
  for (const std::int64_t value : c.integers("no_rope_layers")) rotated.push_back(value != 0);
  if (std::ssize(rotated) < num_layers) {
    bad_input("{}: found {} numbers, expected one for each of the {} layers", c.where("no_rope_layers"),
              rotated.size(), num_layers);
  }
  return rotated;
}

ModelConfig configure_smollm3(const ConfigReader& c) {
  ModelConfig m;
  m.family = "smollm3";
  read_common(c, {.max_positions = 32768, .num_kv_heads = 4}, m);
  m.attention_bias_field = "attention_bias";
  m.mlp_bias_field = "mlp_bias";
  m.rotated_layers_field = "no_rope_layers";
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-6));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.ropes = {read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions, .theta = 2e6})};
  set_llama_ends(c, true, m);
  const std::int64_t num_layers = read_num_layers(c);
  const std::int64_t window = read_sliding_window(c, 0);
  const bool uses_window = c.boolean("use_sliding_window", false) && window > 0;
  const std::vector<bool> rotated = read_rotated_layers(c, num_layers);
  const std::vector<bool> sliding = read_sliding_layers(
      c, num_layers, [&](std::int64_t i) { return uses_window && !rotated[static_cast<std::size_t>(i)]; });
  if (!uses_window && std::ranges::find(sliding, true) != sliding.end()) {
    // transformers' kinds of attention disagree about it: some slide, some do not.
    bad_input(
        "{}: found sliding_attention, expected full_attention alone: use_sliding_window or "
        "sliding_window is off",
        c.where("layer_types"));
  }
  const bool attention_bias = c.boolean(m.attention_bias_field, false);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    BlockConfig b = llama_block(m, fmt::format("model.layers.{}.", i));
    set_attention_bias(attention_bias, attention_bias, b);
    set_mlp_bias(c.boolean(m.mlp_bias_field, false), b);
    b.rope = rotated[static_cast<std::size_t>(i)] ? 0 : -1;
    b.attention_window = sliding[static_cast<std::size_t>(i)] ? window : 0;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kSmollm3Fields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters attention_bias mlp_bias no_rope_layers no_rope_layer_interval use_sliding_window "
    "sliding_window layer_types";

constexpr std::array<std::string_view, 1> kSmollm3Types = {"smollm3"};

}  // namespace

const ModelFamily kSmolLm3Family{"smollm3", kSmollm3Types, configure_smollm3, kSmollm3Fields};

}  // namespace swiftprune
