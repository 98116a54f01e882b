// Granite 3 (https://www.ibm.com/granite/docs): LLaMA with multipliers of embedding, attention, residual and logits
// (arXiv 2408.13359), with experts or without; and Granite 4, most of whose layers may be Mamba-2, and whose experts
// stand beside a shared MLP.
#include <array>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/mamba_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig read_granite(const ConfigReader& c, std::string_view family,
                         std::string_view intermediate_field) {
  ModelConfig m;
  m.family = family;
  read_common(c, {.max_positions = 2048, .intermediate_field = intermediate_field}, m);
  m.attention_bias_field = "attention_bias";
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-6));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.embedding_scale = static_cast<float>(c.positive("embedding_multiplier", 1.0));
  m.attention_scale = static_cast<float>(c.positive("attention_multiplier", 1.0));
  m.residual_scale = static_cast<float>(c.positive("residual_multiplier", 1.0));
  m.logit_scale = static_cast<float>(1.0 / c.positive("logits_scaling", 1.0));
  set_llama_ends(c, false, m);
  return m;
}

RopeConfig granite_rope(const ConfigReader& c, const ModelConfig& m) {
  return read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions});
}

ModelConfig configure_granite(const ConfigReader& c) {
  ModelConfig m = read_granite(c, "granite", "intermediate_size");
  m.mlp_bias_field = "mlp_bias";
  m.ropes = {granite_rope(c, m)};
  const bool attention_bias = c.boolean(m.attention_bias_field, false);
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    BlockConfig b = llama_block(m, fmt::format("model.layers.{}.", i));
    set_attention_bias(attention_bias, attention_bias, b);
    set_mlp_bias(c.boolean(m.mlp_bias_field, false), b);
    m.blocks.push_back(std::move(b));
  }
  return m;
}

// The block's MLP, if it has one, becomes the shared one beside them.
void set_granite_experts(const ConfigReader& c, const std::string& prefix, BlockConfig& b) {
  const std::string module = prefix + "block_sparse_moe.";
  ExpertsConfig experts = read_experts(c,
                                       {.count = "num_local_experts",
                                        .width = "intermediate_size",
                                        .default_count = 8,
                                        .default_width = 11008,
                                        .default_top_k = 2},
                                       module);
  experts.router.weight = module + "router.layer.weight";
  experts.router.renormalised = true;
  experts.fused = {module + "input_linear.weight", module + "output_linear.weight"};
  check_experts(c, experts);
  b.experts = std::move(experts);
}

void set_shared_mlp(const std::string& prefix, BlockConfig& b) {
  fuse_gate_and_up(prefix + "shared_mlp.input_linear", b);
  b.down.name = prefix + "shared_mlp.output_linear";
}

ModelConfig configure_moe(const ConfigReader& c) {
  const std::int64_t shared = c.integer("shared_intermediate_size", 0, 0);
  ModelConfig m =
      read_granite(c, "granitemoe", shared > 0 ? "shared_intermediate_size" : "intermediate_size");
  m.ropes = {granite_rope(c, m)};
  const bool attention_bias = c.boolean(m.attention_bias_field, false);
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    set_attention_bias(attention_bias, attention_bias, b);
    set_granite_experts(c, prefix, b);
    if (shared > 0) {
      set_shared_mlp(prefix, b);
    } else {
      b.up.clear();
      b.down = {};
    }
    m.blocks.push_back(std::move(b));
  }
  return m;
}

void set_granite_mamba(const ConfigReader& c, const ModelConfig& m, const std::string& prefix,
                       BlockConfig& b) {
  ParallelMixer read =
      read_mamba2(c, m, prefix, read_mixer_size(c, "mamba_expand", 2) * m.hidden_size, kExpanded);
  b.qkv = {std::move(read.input)};
  b.attention_output = std::move(read.output);
  b.recurrent = std::move(read.mixer);
}

// Does position_embedding_type say "rope"? Nothing means no positions at all.
bool rotates(const ConfigReader& c) {
  const std::string type = c.text("position_embedding_type", "");
  if (!type.empty() && type != "rope") {
    bad_input("{}: found '{}', expected rope or null", c.where("position_embedding_type"), type);
  }
  return !type.empty();
}

ModelConfig configure_hybrid(const ConfigReader& c) {
  ModelConfig m = read_granite(c, "granitemoehybrid", "shared_intermediate_size");
  const std::int64_t num_layers = read_num_layers(c);
  const bool has_experts = c.integer("num_local_experts", 8, 0) > 0;
  // The names of transformers before 5.24 and since.
  constexpr std::string_view kMamba = "mamba", kLinear = "linear_attention", kAttention = "attention",
                             kFull = "full_attention";
  const std::vector<std::string> types =
      read_layer_types(c, num_layers, std::array{kAttention, kMamba, kFull, kLinear},
                       [&](std::int64_t) { return std::string(kLinear); });
  m.ropes = {granite_rope(c, m)};
  const bool rotated = rotates(c);
  const bool attention_bias = c.boolean(m.attention_bias_field, false);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    set_attention_bias(attention_bias, attention_bias, b);
    set_shared_mlp(prefix, b);
    if (has_experts) set_granite_experts(c, prefix, b);
    b.rope = rotated ? 0 : -1;
    b.layer_type = types[static_cast<std::size_t>(i)];
    if (b.layer_type == kMamba || b.layer_type == kLinear) set_granite_mamba(c, m, prefix + "mamba.", b);
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kGraniteFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters attention_bias mlp_bias embedding_multiplier attention_multiplier residual_multiplier "
    "logits_scaling";
constexpr std::string_view kHybridFields =
    "shared_intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters attention_bias embedding_multiplier attention_multiplier residual_multiplier "
    "logits_scaling num_local_experts layer_types position_embedding_type";
constexpr std::string_view kGraniteMoeFields =
    "intermediate_size shared_intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act "
    "rope_theta "
    "rope_scaling rope_parameters attention_bias embedding_multiplier attention_multiplier "
    "residual_multiplier "
    "logits_scaling num_experts num_local_experts n_routed_experts num_experts_per_tok";

constexpr std::array<std::string_view, 1> kGraniteTypes = {"granite"};
constexpr std::array<std::string_view, 2> kGraniteMoeTypes = {"granitemoe", "granitemoeshared"};
constexpr std::array<std::string_view, 1> kHybridTypes = {"granitemoehybrid"};

}  // namespace

const ModelFamily kGraniteFamily{"granite", kGraniteTypes, configure_granite, kGraniteFields};
const ModelFamily kGraniteMoeFamily{"granitemoe", kGraniteMoeTypes, configure_moe, kGraniteMoeFields};
const ModelFamily kGraniteHybridFamily{"granitemoehybrid", kHybridTypes, configure_hybrid, kHybridFields};

}  // namespace swiftprune
