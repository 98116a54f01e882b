// gpt-oss-20b and -120b (arXiv 2508.10925): a bias on every linear, attention sinks, windows in every other layer, experts
// of a clamped SwiGLU, in fused tensors or in MXFP4.
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig configure_gpt_oss(const ConfigReader& c) {
  ModelConfig m;
  m.family = "gpt_oss";
  read_common(c, {.max_positions = 131072, .num_kv_heads = 8, .head_size = 64}, m);
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-5));
  RopeOptions rope{.rotary_size = m.head_size, .max_positions = m.max_positions, .theta = 150000.0};
  if (c.has("rope_parameters") || c.has("rope_scaling")) {
    m.ropes = {read_rope(c, rope)};
  } else {  // what an absent field means to transformers' class
    const nlohmann::json parameters = {{"rope_type", "yarn"},
                                       {"rope_theta", c.positive("rope_theta", rope.theta)},
                                       {"factor", 32.0},
                                       {"beta_fast", 32.0},
                                       {"beta_slow", 1.0},
                                       {"truncate", false},
                                       {"original_max_position_embeddings", 4096}};
    m.ropes = {rope_from_parameters(ConfigReader(parameters), rope)};
  }
  set_llama_ends(c, false, m);
  const std::int64_t window = read_needed_window(c, 128);
  const bool bias = c.boolean("attention_bias", true);
  const std::int64_t num_layers = read_num_layers(c);
  const std::vector<bool> sliding =
      read_sliding_layers(c, num_layers, [](std::int64_t i) { return i % 2 == 0; });
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    const std::string mlp = prefix + "mlp.";
    BlockConfig b = llama_block(m, prefix);
    set_attention_bias(bias, bias, b);
    b.sinks = prefix + "self_attn.sinks";
    if (sliding[static_cast<std::size_t>(i)]) b.attention_window = window;
    ExpertsConfig experts = read_experts(c,
                                         {.count = "num_local_experts",
                                          .width = "intermediate_size",
                                          .default_count = 128,
                                          .default_top_k = 4},
                                         mlp);
    experts.router.weight = mlp + "router.weight";
    experts.router.bias = mlp + "router.bias";
    experts.router.renormalised = true;
    experts.bias = true;
    experts.fused_by_input = true;
    experts.clamped = ClampedSwiglu{.alpha = static_cast<float>(c.positive("swiglu_alpha", 1.702)),
                                    .limit = static_cast<float>(c.positive("swiglu_limit", 7.0))};
    check_experts(c, experts);
    set_experts(m, std::move(experts), mlp, "", 0, b);
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kGptOssFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps rope_theta rope_scaling "
    "rope_parameters num_experts num_local_experts n_routed_experts num_experts_per_tok "
    "sliding_window attention_bias swiglu_alpha swiglu_limit layer_types";

constexpr std::array<std::string_view, 1> kGptOssTypes = {"gpt_oss"};

}  // namespace

const ModelFamily kGptOssFamily{"gpt_oss", kGptOssTypes, configure_gpt_oss, kGptOssFields, true};

}  // namespace swiftprune
