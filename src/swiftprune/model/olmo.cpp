// OLMo (arXiv 2402.00838: norms without parameters, clipped queries, keys and values), OLMo 2 (arXiv 2501.00656: norms
// behind attention and MLP instead of before them, norms of queries and keys over all heads) and OLMo 3 (three layers
// of four attend through a window; only the others stretch their rotary embedding).
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig read_olmo(const ConfigReader& c, std::string_view family) {
  ModelConfig m;
  m.family = family;
  read_common(c, {.max_positions = 2048}, m);
  m.attention_bias_field = "attention_bias";
  m.activation = read_activation(c, "hidden_act", "silu");
  set_llama_ends(c, false, m);
  return m;
}

BlockConfig olmo_block(const ConfigReader& c, const ModelConfig& m, const std::string& prefix) {
  BlockConfig b = llama_block(m, prefix);
  const bool bias = c.boolean(m.attention_bias_field, false);
  set_attention_bias(bias, bias, b);
  return b;
}

ModelConfig configure_olmo(const ConfigReader& c) {
  ModelConfig m = read_olmo(c, "olmo");
  m.heads_divide_hidden_size = true;
  m.norm = NormKind::kLayer;
  m.norm_eps = 1e-5f;  // fixed in the architecture
  m.qkv_clip = read_optional_number(c, "clip_qkv", 0.0);
  m.ropes = {read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions})};
  m.final_norm = NormTensors{};
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    BlockConfig b = olmo_block(c, m, fmt::format("model.layers.{}.", i));
    b.attention_norm = b.mlp_norm = NormTensors{};
    m.blocks.push_back(std::move(b));
  }
  return m;
}

BlockConfig olmo2_block(const ConfigReader& c, const ModelConfig& m, const std::string& prefix) {
  BlockConfig b = olmo_block(c, m, prefix);
  move_norms_behind(prefix, b);
  b.query_norm = NormTensors{prefix + "self_attn.q_norm.weight", ""};
  b.key_norm = NormTensors{prefix + "self_attn.k_norm.weight", ""};
  b.head_norms = HeadNorms::kTogether;
  return b;
}

ModelConfig configure_olmo2(const ConfigReader& c) {
  ModelConfig m = read_olmo(c, "olmo2");
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-5));
  m.ropes = {read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions})};
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    m.blocks.push_back(olmo2_block(c, m, fmt::format("model.layers.{}.", i)));
  }
  return m;
}

ModelConfig configure_olmo3(const ConfigReader& c) {
  ModelConfig m = read_olmo(c, "olmo3");
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-5));
  const RopeOptions sliding_rope{
      .rotary_size = m.head_size, .max_positions = m.max_positions, .theta = 500000.0};
  RopeOptions full_rope = sliding_rope;
  full_rope.theta =
      c.positive("rope_theta", full_rope.theta);  // of full layers alone, as transformers 5 reads it
  m.ropes = read_ropes_by_layer(c, sliding_rope, full_rope);
  const std::int64_t num_layers = read_num_layers(c);
  const std::int64_t window = read_needed_window(c, 4096);
  const std::vector<bool> sliding =
      read_sliding_layers(c, num_layers, [](std::int64_t i) { return (i + 1) % 4 != 0; });
  for (std::int64_t i = 0; i < num_layers; ++i) {
    BlockConfig b = olmo2_block(c, m, fmt::format("model.layers.{}.", i));
    const bool slides = sliding[static_cast<std::size_t>(i)];
    b.attention_window = slides ? window : 0;
    b.rope = slides ? kSlidingRope : kFullRope;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kOlmoFields =
    "intermediate_size num_key_value_heads head_dim hidden_act rope_theta rope_scaling rope_parameters "
    "attention_bias clip_qkv";
constexpr std::string_view kOlmo2Fields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters attention_bias";
constexpr std::string_view kOlmo3Fields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters attention_bias sliding_window layer_types";

constexpr std::array<std::string_view, 1> kOlmoTypes = {"olmo"};
constexpr std::array<std::string_view, 1> kOlmo2Types = {"olmo2"};
constexpr std::array<std::string_view, 1> kOlmo3Types = {"olmo3"};

}  // namespace

const ModelFamily kOlmoFamily{"olmo", kOlmoTypes, configure_olmo, kOlmoFields};
const ModelFamily kOlmo2Family{"olmo2", kOlmo2Types, configure_olmo2, kOlmo2Fields};
const ModelFamily kOlmo3Family{"olmo3", kOlmo3Types, configure_olmo3, kOlmo3Fields};

}  // namespace swiftprune
