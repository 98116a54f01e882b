// Nemotron-4 and Minitron (arXiv 2402.16819, 2407.14679): LayerNorm whose gain is stored less one, a plain MLP of squared
// ReLU, half of each head rotated.
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig configure_nemotron(const ConfigReader& c) {
  ModelConfig m;
  m.family = "nemotron";
  read_common(c, {.max_positions = 4096}, m);
  m.attention_bias_field = "attention_bias";
  m.mlp_bias_field = "mlp_bias";
  m.norm = NormKind::kLayer;
  m.norm_eps = static_cast<float>(c.positive("norm_eps", 1e-5));
  m.norm_gain_offset = 1.0f;
  m.gated_mlp = false;
  m.activation = read_activation(c, "hidden_act", "relu2");
  const std::int64_t rotary_size = read_rotary_size(c, m.head_size, "partial_rotary_factor", 0.5);
  m.ropes = {read_rope(c, {.rotary_size = rotary_size, .max_positions = m.max_positions, .partial = true})};
  set_llama_ends(c, false, m);
  m.final_norm = norm_with_bias("model.norm");
  const bool attention_bias = c.boolean(m.attention_bias_field, false);
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    b.attention_norm = norm_with_bias(prefix + "input_layernorm");
    b.mlp_norm = norm_with_bias(prefix + "post_attention_layernorm");
    set_plain_mlp(m, prefix + "mlp.up_proj", prefix + "mlp.down_proj", b);
    set_attention_bias(attention_bias, attention_bias, b);
    set_mlp_bias(c.boolean(m.mlp_bias_field, false), b);
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kNemotronFields =
    "intermediate_size num_key_value_heads head_dim norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters "
    "partial_rotary_factor attention_bias mlp_bias";

constexpr std::array<std::string_view, 1> kNemotronTypes = {"nemotron"};

}  // namespace

const ModelFamily kNemotronFamily{"nemotron", kNemotronTypes, configure_nemotron, kNemotronFields};

}  // namespace swiftprune
