// Granite 3 (https://www.ibm.com/granite/docs): LLaMA with multipliers of embedding, attention, residual and logits
// (arXiv 2408.13359), and the dense models of Granite 4, whose class knows experts and Mamba layers too; those are
// refused by name.
#include <array>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
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

// No experts, no Mamba.
void check_dense(const ConfigReader& c, std::int64_t num_layers) {
  if (const std::int64_t experts = c.integer("num_local_experts", 8, 0); experts > 0) {
    bad_input("{}: found {}, expected 0: of Granite 4 only the dense models are supported",
              c.where("num_local_experts"), experts);
  }
  std::vector<std::string> types(static_cast<std::size_t>(num_layers), "linear_attention");  // the class's
  if (c.has("layer_types")) types = c.texts("layer_types");
  for (const std::string& type : types) {
    if (type == "attention" || type == "full_attention") continue;
    bad_input("{}: found '{}', expected attention in every layer: Mamba's layers are not supported",
              c.where("layer_types"), type);
  }
  if (std::ssize(types) != num_layers) {
    bad_input("{}: found {} layers, expected num_hidden_layers ({})", c.where("layer_types"), types.size(),
              num_layers);
  }
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
  check_dense(c, num_layers);
  m.ropes = {granite_rope(c, m)};
  const bool rotated = rotates(c);
  const bool attention_bias = c.boolean(m.attention_bias_field, false);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    set_attention_bias(attention_bias, attention_bias, b);
    fuse_gate_and_up(prefix + "shared_mlp.input_linear", b);
    b.down.name = prefix + "shared_mlp.output_linear";
    b.rope = rotated ? 0 : -1;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters attention_bias mlp_bias embedding_multiplier attention_multiplier residual_multiplier "
    "logits_scaling";
constexpr std::string_view kHybridFields =
    "shared_intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters attention_bias embedding_multiplier attention_multiplier residual_multiplier "
    "logits_scaling num_local_experts layer_types position_embedding_type";

constexpr std::array<std::string_view, 1> kTypes = {"granite"};
constexpr std::array<std::string_view, 1> kHybridTypes = {"granitemoehybrid"};

}  // namespace

const ModelFamily kGraniteFamily{"granite", kTypes, configure_granite, kFields};
const ModelFamily kGraniteHybridFamily{"granitemoehybrid", kHybridTypes, configure_hybrid, kHybridFields};

}  // namespace swiftprune
