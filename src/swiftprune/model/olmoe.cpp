// OLMoE: LLaMA with experts, norms of queries and keys over all heads together, and a clip of both and of the values
// (arXiv 2409.02060).
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig configure_olmoe(const ConfigReader& c) {
  ModelConfig m;
  m.family = "olmoe";
  read_common(c, {.max_positions = 4096}, m);
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-5));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.ropes = {read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions})};
  m.qkv_clip = read_optional_number(c, "clip_qkv", 0.0);
  set_llama_ends(c, false, m);
  const bool bias = c.boolean("attention_bias", false);
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    set_attention_bias(bias, bias, b);
    b.query_norm = NormTensors{prefix + "self_attn.q_norm.weight", ""};
    b.key_norm = NormTensors{prefix + "self_attn.k_norm.weight", ""};
    b.head_norms = HeadNorms::kTogether;
    const std::string mlp = prefix + "mlp.";
    ExpertsConfig experts =
        read_experts(c, {.width = "intermediate_size", .default_count = 64, .default_top_k = 8}, mlp);
    experts.router.renormalised = c.boolean("norm_topk_prob", false);
    check_experts(c, experts);
    set_experts(m, std::move(experts), mlp, "", 0, b);
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kOlmoeFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters num_experts num_local_experts n_routed_experts num_experts_per_tok "
    "norm_topk_prob clip_qkv attention_bias";

constexpr std::array<std::string_view, 1> kOlmoeTypes = {"olmoe"};

}  // namespace

const ModelFamily kOlmoeFamily{"olmoe", kOlmoeTypes, configure_olmoe, kOlmoeFields};

}  // namespace swiftprune
