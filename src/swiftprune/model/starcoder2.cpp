// StarCoder2 (arXiv 2402.19173): grouped heads and rotary embedding with LayerNorm, biases and a plain MLP.
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig configure_starcoder2(const ConfigReader& c) {
  ModelConfig m;
  m.family = "starcoder2";
  read_common(c, {.max_positions = 4096, .num_kv_heads = 2}, m);
  m.norm = NormKind::kLayer;
  m.norm_eps = static_cast<float>(c.positive("norm_epsilon", 1e-5));
  m.gated_mlp = false;
  m.activation = read_activation(c, "hidden_act", "gelu_pytorch_tanh");
  m.ropes = {read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions})};
  set_llama_ends(c, true, m);
  m.final_norm = norm_with_bias("model.norm");
  const bool bias = c.boolean("use_bias", true);
  const std::int64_t window = read_sliding_window(c, 0);
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    b.attention_norm = norm_with_bias(prefix + "input_layernorm");
    b.mlp_norm = norm_with_bias(prefix + "post_attention_layernorm");
    set_plain_mlp(m, prefix + "mlp.c_fc", prefix + "mlp.c_proj", b);
    set_attention_bias(bias, bias, b);
    set_mlp_bias(bias, b);
    b.attention_window = window;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kStarcoder2Fields =
    "intermediate_size num_key_value_heads head_dim norm_epsilon hidden_act rope_theta rope_scaling "
    "rope_parameters use_bias sliding_window";

constexpr std::array<std::string_view, 1> kStarcoder2Types = {"starcoder2"};

}  // namespace

const ModelFamily kStarcoder2Family{"starcoder2", kStarcoder2Types, configure_starcoder2, kStarcoder2Fields};

}  // namespace swiftprune
