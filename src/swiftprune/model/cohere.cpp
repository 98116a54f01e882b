// Command R (https://docs.cohere.com/docs/command-r) and Command R7B: one LayerNorm without bias for attention and MLP,
// which are parallel; neighbours are rotated, logits scaled. In the second generation three layers of four attend
// through a window and only those rotate.
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig read_cohere(const ConfigReader& c, std::string_view family, bool reads_head_size) {
  ModelConfig m;
  m.family = family;
  read_common(c, {.max_positions = 8192, .reads_head_size = reads_head_size}, m);
  m.attention_bias_field = "attention_bias";
  m.norm = NormKind::kLayer;
  m.norm_eps = static_cast<float>(c.positive("layer_norm_eps", 1e-5));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.parallel_residual = true;
  m.logit_scale = static_cast<float>(c.positive("logit_scale", 0.0625));
  m.ropes = {read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions, .theta = 500000.0})};
  m.ropes.front().rotates_neighbours = true;
  set_llama_ends(c, true, m);
  return m;
}

BlockConfig cohere_block(const ConfigReader& c, const ModelConfig& m, const std::string& prefix) {
  BlockConfig b = llama_block(m, prefix);
  b.mlp_norm = b.attention_norm;
  const bool bias = c.boolean(m.attention_bias_field, false);
  set_attention_bias(bias, bias, b);
  return b;
}

ModelConfig configure_cohere(const ConfigReader& c) {
  ModelConfig m = read_cohere(c, "cohere", true);
  const bool norms_heads = c.boolean("use_qk_norm", false);
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = cohere_block(c, m, prefix);
    if (norms_heads) {
      b.head_norms = HeadNorms::kEachOwn;
      b.query_norm = NormTensors{prefix + "self_attn.q_norm.weight", ""};
      b.key_norm = NormTensors{prefix + "self_attn.k_norm.weight", ""};
    }
    m.blocks.push_back(std::move(b));
  }
  return m;
}

ModelConfig configure_cohere2(const ConfigReader& c) {
  ModelConfig m = read_cohere(c, "cohere2", false);
  const std::int64_t num_layers = read_num_layers(c);
  const std::int64_t window = read_needed_window(c, 4096), period = c.integer("sliding_window_pattern", 4);
  const std::vector<bool> sliding =
      read_sliding_layers(c, num_layers, [&](std::int64_t i) { return (i + 1) % period != 0; });
  for (std::int64_t i = 0; i < num_layers; ++i) {
    BlockConfig b = cohere_block(c, m, fmt::format("model.layers.{}.", i));
    b.attention_window = sliding[static_cast<std::size_t>(i)] ? window : 0;
    b.rope = b.attention_window > 0 ? 0 : -1;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kCohereFields =
    "intermediate_size num_key_value_heads head_dim layer_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters attention_bias logit_scale use_qk_norm";
constexpr std::string_view kCohere2Fields =
    "intermediate_size num_key_value_heads layer_norm_eps hidden_act rope_theta rope_scaling rope_parameters "
    "attention_bias logit_scale sliding_window sliding_window_pattern layer_types";

constexpr std::array<std::string_view, 1> kCohereTypes = {"cohere"};
constexpr std::array<std::string_view, 1> kCohere2Types = {"cohere2"};

}  // namespace

const ModelFamily kCohereFamily{"cohere", kCohereTypes, configure_cohere, kCohereFields};
const ModelFamily kCohere2Family{"cohere2", kCohere2Types, configure_cohere2, kCohere2Fields};

}  // namespace swiftprune
