// LLaMA 1 to 3.3, SmolLM and everything else with model_type "llama".
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig configure_llama(const ConfigReader& c) {
  ModelConfig m;
  m.family = "llama";
  read_common(c, {}, m);
  m.heads_divide_hidden_size = true;
  m.attention_bias_field = "attention_bias";
  m.mlp_bias_field = "mlp_bias";
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-6));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.ropes = {read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions})};
  set_llama_ends(c, false, m);
  const bool attention_bias = c.boolean(m.attention_bias_field, false);
  const bool mlp_bias = c.boolean(m.mlp_bias_field, false);
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    BlockConfig b = llama_block(m, fmt::format("model.layers.{}.", i));
    set_attention_bias(attention_bias, attention_bias, b);
    set_mlp_bias(mlp_bias, b);
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kLlamaFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta "
    "rope_scaling rope_parameters attention_bias mlp_bias";

constexpr std::array<std::string_view, 1> kLlamaTypes = {"llama"};

}  // namespace

const ModelFamily kLlamaFamily{"llama", kLlamaTypes, configure_llama, kLlamaFields};

}  // namespace swiftprune
