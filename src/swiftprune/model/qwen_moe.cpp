// Qwen1.5-MoE and Qwen2-MoE (a shared expert behind a gate of its own; arXiv 2407.10671) and Qwen3-MoE (none; arXiv
// 2505.09388): Qwen2 and Qwen3 whose MLPs are experts, in all layers but those that config.json leaves dense.
#include <array>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig configure_qwen_moe(const ConfigReader& c, bool third) {
  ModelConfig m;
  m.family = third ? "qwen3_moe" : "qwen2_moe";
  CommonDefaults defaults{.max_positions = 32768};
  defaults.num_kv_heads = third ? 4 : 16;
  defaults.intermediate_size = third ? 6144 : 5632;
  read_common(c, defaults, m);
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-6));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.ropes = {read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions})};
  set_llama_ends(c, false, m);
  const std::int64_t num_layers = read_num_layers(c);
  const std::vector<bool> sparse = read_sparse_layers(c, num_layers);
  const std::int64_t window = c.boolean("use_sliding_window", false) ? read_sliding_window(c, 4096) : 0;
  const std::int64_t window_layers = c.integer("max_window_layers", 28, 0);
  // Qwen2: every other one of the first layers; Qwen3: all, whatever max_window_layers says.
  const std::vector<bool> sliding = third ? std::vector<bool>(static_cast<std::size_t>(num_layers), true)
                                          : read_sliding_layers(c, num_layers, [&](std::int64_t l) {
                                              return l % 2 == 0 && l < window_layers;
                                            });
  const bool attention_bias = third && c.boolean("attention_bias", false);
  const bool qkv_bias = third ? attention_bias : c.boolean("qkv_bias", true);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    set_attention_bias(qkv_bias, attention_bias, b);
    if (third) {
      b.query_norm = NormTensors{prefix + "self_attn.q_norm.weight", ""};
      b.key_norm = NormTensors{prefix + "self_attn.k_norm.weight", ""};
    }
    if (sliding[static_cast<std::size_t>(i)]) b.attention_window = window;
    if (sparse[static_cast<std::size_t>(i)]) {
      set_qwen_experts(c, m,
                       {.default_count = third ? 128 : 60,
                        .default_width = third ? 768 : 1408,
                        .default_top_k = third ? 8 : 4},
                       false, third ? std::nullopt : std::optional<std::int64_t>(5632), prefix + "mlp.", b);
    }
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kQwen2MoeFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters num_experts num_local_experts n_routed_experts num_experts_per_tok "
    "norm_topk_prob moe_intermediate_size shared_expert_intermediate_size decoder_sparse_step "
    "mlp_only_layers use_sliding_window sliding_window max_window_layers qkv_bias "
    "layer_types";

constexpr std::string_view kQwen3MoeFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters num_experts num_local_experts n_routed_experts num_experts_per_tok "
    "norm_topk_prob moe_intermediate_size decoder_sparse_step mlp_only_layers use_sliding_window "
    "sliding_window max_window_layers attention_bias";

constexpr std::array<std::string_view, 1> kQwen2MoeTypes = {"qwen2_moe"};
constexpr std::array<std::string_view, 1> kQwen3MoeTypes = {"qwen3_moe"};

}  // namespace

const ModelFamily kQwen2MoeFamily{"qwen2_moe", kQwen2MoeTypes,
                                  [](const ConfigReader& c) { return configure_qwen_moe(c, false); },
                                  kQwen2MoeFields};
const ModelFamily kQwen3MoeFamily{"qwen3_moe", kQwen3MoeTypes,
                                  [](const ConfigReader& c) { return configure_qwen_moe(c, true); },
                                  kQwen3MoeFields};

}  // namespace swiftprune
