// Phi-3, Phi-3.5 and Phi-4 with dense blocks (arXiv 2404.14219): LLaMA with q, k, v in one product and gate,
// up in one; longrope beyond 4k positions.
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig configure_phi3(const ConfigReader& c) {
  ModelConfig m;
  m.family = "phi3";
  read_common(c, {.max_positions = 4096}, m);
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-5));
  m.qkv_layout = QkvLayout::kStacked;
  m.activation = read_activation(c, "hidden_act", "silu");
  m.ropes = {read_rope(c, {.rotary_size = read_rotary_size(c, m.head_size, "partial_rotary_factor", 1.0),
                           .max_positions = m.max_positions,
                           .original_positions = c.integer("original_max_position_embeddings", 4096),
                           .partial = true})};
  set_llama_ends(c, false, m);
  const std::int64_t window = c.has("sliding_window") ? c.integer("sliding_window") : 0;
  const std::int64_t num_layers = read_num_layers(c);
  const std::int64_t qkv_size = (m.num_heads + 2 * m.num_kv_heads) * m.head_size;
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    b.qkv = {{prefix + "self_attn.qkv_proj", qkv_size, m.hidden_size, false, LinearInput::kAttention}};
    fuse_gate_and_up(prefix + "mlp.gate_up_proj", b);
    b.attention_window = window;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kPhi3Fields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta "
    "rope_scaling rope_parameters sliding_window partial_rotary_factor "
    "original_max_position_embeddings";

constexpr std::array<std::string_view, 1> kPhi3Types = {"phi3"};

}  // namespace

const ModelFamily kPhi3Family{"phi3", kPhi3Types, configure_phi3, kPhi3Fields};

}  // namespace swiftprune
