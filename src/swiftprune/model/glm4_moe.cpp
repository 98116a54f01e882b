// GLM-4.5 and GLM-4.5-Air (arXiv 2508.06471): grouped heads that are rotated in part, the first layers dense, then experts
// that a sigmoid with a correction bias chooses, beside a shared one.
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig configure_glm4_moe(const ConfigReader& c) {
  ModelConfig m;
  m.family = "glm4_moe";
  read_common(c, {.max_positions = 131072, .num_kv_heads = 8}, m);
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-5));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.ropes = {read_rope(c, {.rotary_size = read_rotary_size(c, m.head_size, "partial_rotary_factor", 1.0),
                           .max_positions = m.max_positions,
                           .partial = true})};
  set_llama_ends(c, false, m);
  const bool bias = c.boolean("attention_bias", false), norms = c.boolean("use_qk_norm", false);
  const std::int64_t first_sparse = c.integer("first_k_dense_replace", 1, 0);
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    set_attention_bias(bias, false, b);
    if (norms) {
      b.query_norm = NormTensors{prefix + "self_attn.q_norm.weight", ""};
      b.key_norm = NormTensors{prefix + "self_attn.k_norm.weight", ""};
    }
    if (i >= first_sparse) {
      const std::string mlp = prefix + "mlp.";
      ExpertsConfig experts = read_sigmoid_experts(
          c, {.count = "n_routed_experts", .default_count = 128, .default_width = 1408, .default_top_k = 8},
          {}, mlp);
      const std::int64_t shared = experts.width * c.integer("n_shared_experts", 1, 0);
      set_experts(m, std::move(experts), mlp, "shared_experts", shared, b);
    }
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kGlm4MoeFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta "
    "rope_scaling rope_parameters num_experts num_local_experts n_routed_experts "
    "num_experts_per_tok norm_topk_prob moe_intermediate_size n_shared_experts n_group topk_group "
    "routed_scaling_factor first_k_dense_replace attention_bias use_qk_norm partial_rotary_factor";

constexpr std::array<std::string_view, 1> kGlm4MoeTypes = {"glm4_moe"};

}  // namespace

const ModelFamily kGlm4MoeFamily{"glm4_moe", kGlm4MoeTypes, configure_glm4_moe, kGlm4MoeFields};

}  // namespace swiftprune
