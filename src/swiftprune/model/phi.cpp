// Phi-1, Phi-1.5 and Phi-2 (arXiv 2309.05463): one LayerNorm for attention and MLP, which are parallel; half of each
// head is rotated; every linear has a bias, the head too.
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/even_rotary_size.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig configure_phi(const ConfigReader& c) {
  ModelConfig m;
  m.family = "phi";
  read_common(c, {.max_positions = 2048}, m);
  m.norm = NormKind::kLayer;
  m.norm_eps = static_cast<float>(c.positive("layer_norm_eps", 1e-5));
  m.gated_mlp = false;
  m.activation = read_activation(c, "hidden_act", "gelu_new");
  m.parallel_residual = true;
  m.ropes = {read_rope(c, {.rotary_size = read_even_rotary_size(c, m.head_size, "partial_rotary_factor", 0.5),
                           .max_positions = m.max_positions,
                           .partial = true})};
  set_llama_ends(c, false, m);
  m.final_norm = norm_with_bias("model.final_layernorm");
  m.head_bias = "lm_head.bias";
  const bool norms_heads = c.boolean("qk_layernorm", false);
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    b.attention_output.name = prefix + "self_attn.dense";
    b.attention_norm = b.mlp_norm = norm_with_bias(prefix + "input_layernorm");
    set_plain_mlp(m, prefix + "mlp.fc1", prefix + "mlp.fc2", b);
    set_attention_bias(true, true, b);
    set_mlp_bias(true, b);
    if (norms_heads) {
      b.query_norm = norm_with_bias(prefix + "self_attn.q_layernorm");
      b.key_norm = norm_with_bias(prefix + "self_attn.k_layernorm");
    }
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kPhiFields =
    "intermediate_size num_key_value_heads head_dim layer_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters partial_rotary_factor qk_layernorm";

constexpr std::array<std::string_view, 1> kPhiTypes = {"phi"};

}  // namespace

const ModelFamily kPhiFamily{"phi", kPhiTypes, configure_phi, kPhiFields};

}  // namespace swiftprune
