// StableLM 2 and StableLM 3B (arXiv 2402.17834): LLaMA with LayerNorm and a rotary embedding on a quarter of each head;
// the 12B model has a parallel residual and norms of queries and keys, a gain for each head.
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/even_rotary_size.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig configure_stablelm(const ConfigReader& c) {
  ModelConfig m;
  m.family = "stablelm";
  read_common(c, {.max_positions = 4096, .reads_head_size = false, .num_kv_heads = 32}, m);
  m.norm = NormKind::kLayer;
  m.norm_eps = static_cast<float>(c.positive("layer_norm_eps", 1e-5));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.parallel_residual = c.boolean("use_parallel_residual", false);
  m.ropes = {
      read_rope(c, {.rotary_size = read_even_rotary_size(c, m.head_size, "partial_rotary_factor", 0.25),
                    .max_positions = m.max_positions,
                    .partial = true})};
  set_llama_ends(c, false, m);
  m.final_norm = norm_with_bias("model.norm");
  const bool bias = c.boolean("use_qkv_bias", false), norms_heads = c.boolean("qk_layernorm", false);
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    set_attention_bias(bias, false, b);
    b.attention_norm = norm_with_bias(prefix + "input_layernorm");
    b.mlp_norm = m.parallel_residual ? b.attention_norm : norm_with_bias(prefix + "post_attention_layernorm");
    if (norms_heads) {
      b.head_norms = HeadNorms::kEachOwn;
      b.query_norm = NormTensors{prefix + "self_attn.q_layernorm.norms.*.weight", "", m.num_heads};
      b.key_norm = NormTensors{prefix + "self_attn.k_layernorm.norms.*.weight", "", m.num_kv_heads};
    }
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kStablelmFields =
    "intermediate_size num_key_value_heads layer_norm_eps hidden_act rope_theta rope_scaling rope_parameters "
    "partial_rotary_factor use_parallel_residual use_qkv_bias qk_layernorm";

constexpr std::array<std::string_view, 1> kStablelmTypes = {"stablelm"};

}  // namespace

const ModelFamily kStableLmFamily{"stablelm", kStablelmTypes, configure_stablelm, kStablelmFields};

}  // namespace swiftprune
