// GLM-4 with dense blocks: "glm" (GLM-4-9B, arXiv 2406.12793) and "glm4" (GLM-4-0414, with norms behind attention and
// MLP too). Half of each head is rotated, neighbours paired; gate and up are one product.
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig configure_glm4(const ConfigReader& c, bool fourth) {
  ModelConfig m;
  m.family = fourth ? "glm4" : "glm";
  read_common(c, {.max_positions = 131072, .num_kv_heads = 2, .head_size = 128}, m);
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1.5625e-7));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.ropes = {read_rope(c, {.rotary_size = read_rotary_size(c, m.head_size, "partial_rotary_factor", 0.5),
                           .max_positions = m.max_positions,
                           .partial = true})};
  m.ropes.front().rotates_neighbours = true;
  set_llama_ends(c, false, m);
  const bool bias = c.boolean("attention_bias", true);
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    set_attention_bias(bias, false, b);
    fuse_gate_and_up(prefix + "mlp.gate_up_proj", b);
    if (fourth) {
      b.post_attention_norm = NormTensors{prefix + "post_self_attn_layernorm.weight", ""};
      b.post_mlp_norm = NormTensors{prefix + "post_mlp_layernorm.weight", ""};
    }
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kGlm4Fields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters attention_bias partial_rotary_factor";

constexpr std::array<std::string_view, 1> kGlmTypes = {"glm"};
constexpr std::array<std::string_view, 1> kGlm4Types = {"glm4"};

}  // namespace

const ModelFamily kGlmFamily{"glm", kGlmTypes, [](const ConfigReader& c) { return configure_glm4(c, false); },
                             kGlm4Fields};
const ModelFamily kGlm4Family{"glm4", kGlm4Types,
                              [](const ConfigReader& c) { return configure_glm4(c, true); }, kGlm4Fields};

}  // namespace swiftprune
