// Granite 3 (https://www.ibm.com/granite/docs): LLaMA with multipliers of embedding, attention, residual and logits
// (arXiv 2408.13359), and the models of Granite 4 without experts, most of whose layers may be Mamba-2; experts are
// refused by name.
#include <array>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
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

void check_without_experts(const ConfigReader& c) {
  if (const std::int64_t experts = c.integer("num_local_experts", 8, 0); experts > 0) {
    bad_input("{}: found {}, expected 0: of Granite 4 only the models without experts are supported",
              c.where("num_local_experts"), experts);
  }
}

// transformers clips the time steps in one of its two ways of computing them alone.
void check_time_steps(const ConfigReader& c) {
  if (!c.has("time_step_limit")) return;
  const nlohmann::json& limit = c.object().at("time_step_limit");
  const bool none = limit.is_array() && limit.size() == 2 && limit[0].is_number() && limit[0] == 0.0 &&
                    limit[1] == nlohmann::json{{"__float__", "Infinity"}};
  if (none) return;
  bad_input("{}: found {}, expected no limit: from 0 to infinity", c.where("time_step_limit"),
            json_excerpt(limit, 60));
}

std::int64_t read_mamba_head_size(const ConfigReader& c, std::int64_t size, std::int64_t heads) {
  const auto field = c.object().find("mamba_d_head");
  const bool automatic = field == c.object().end() || field->is_null() || *field == "auto";
  if (size % heads != 0) {
    bad_input("{}: found {}, expected a divisor of mamba_expand times hidden_size ({})",
              c.where("mamba_n_heads"), heads, size);
  }
  const std::int64_t head_size = automatic ? size / heads : c.integer("mamba_d_head");
  if (head_size * heads != size) {
    bad_input("{}: found {}, expected {}: mamba_expand times hidden_size over mamba_n_heads",
              c.where("mamba_d_head"), head_size, size / heads);
  }
  return head_size;
}

void set_mamba(const ConfigReader& c, const ModelConfig& m, const std::string& prefix, BlockConfig& b) {
  Mamba2 mixer;
  const std::int64_t size = read_mixer_size(c, "mamba_expand", 2) * m.hidden_size;
  mixer.heads = read_mixer_size(c, "mamba_n_heads", 128);
  mixer.groups = read_mixer_size(c, "mamba_n_groups", 1);
  mixer.state_size = read_mixer_size(c, "mamba_d_state", 256);
  mixer.head_size = read_mamba_head_size(c, size, mixer.heads);
  if (mixer.heads % mixer.groups != 0) {
    bad_input("{}: found {}, expected a divisor of mamba_n_heads ({})", c.where("mamba_n_groups"),
              mixer.groups, mixer.heads);
  }
  const bool bias = c.boolean("mamba_proj_bias", false);
  const std::int64_t channels = size + 2 * mixer.groups * mixer.state_size;
  mixer.convolution = {.weight = prefix + "conv1d.weight",
                       .bias = c.boolean("mamba_conv_bias", true) ? prefix + "conv1d.bias" : "",
                       .channels = channels,
                       .taps = c.integer("mamba_d_conv", 4)};
  mixer.decay = prefix + "A_log";
  mixer.step_bias = prefix + "dt_bias";
  mixer.skip = prefix + "D";
  mixer.norm = prefix + "norm.weight";
  b.qkv = {{prefix + "in_proj", size + channels + mixer.heads, m.hidden_size, bias, LinearInput::kAttention}};
  b.attention_output = {prefix + "out_proj", m.hidden_size, size, bias, LinearInput::kAttentionOutput};
  b.recurrent = std::move(mixer);
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
  check_without_experts(c);
  check_time_steps(c);
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
    fuse_gate_and_up(prefix + "shared_mlp.input_linear", b);
    b.down.name = prefix + "shared_mlp.output_linear";
    b.rope = rotated ? 0 : -1;
    b.layer_type = types[static_cast<std::size_t>(i)];
    if (b.layer_type == kMamba || b.layer_type == kLinear) set_mamba(c, m, prefix + "mamba.", b);
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
