// Mixtral 8x7B and 8x22B: Mistral whose MLPs are experts (arXiv 2401.04088).
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig configure_mixtral(const ConfigReader& c) {
  ModelConfig m;
  m.family = "mixtral";
  read_common(c, {.max_positions = 4096 * 32, .num_kv_heads = 8}, m);
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-5));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.ropes = {
      read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions, .theta = 1000000.0})};
  set_llama_ends(c, false, m);
  const std::int64_t window = c.has("sliding_window") ? read_sliding_window(c, 0) : 0;
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    b.attention_window = window;
    const std::string mlp = prefix + "block_sparse_moe.";
    ExpertsConfig experts = read_experts(
        c,
        {.count = "num_local_experts", .width = "intermediate_size", .default_count = 8, .default_top_k = 2},
        mlp);
    experts.parts = {"w1", "w3", "w2"};
    experts.router.renormalised = true;
    check_experts(c, experts);
    set_experts(m, std::move(experts), mlp, "", 0, b);
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kMixtralFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta "
    "rope_scaling rope_parameters num_experts num_local_experts n_routed_experts "
    "num_experts_per_tok sliding_window";

constexpr std::array<std::string_view, 1> kMixtralTypes = {"mixtral"};

}  // namespace

const ModelFamily kMixtralFamily{"mixtral", kMixtralTypes, configure_mixtral, kMixtralFields};

}  // namespace swiftprune
