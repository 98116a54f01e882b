// Falcon-H1 (arXiv 2507.22448): attention and Mamba-2 read the same input in every layer, and what both give joins the
// residual. Products of most linears are multiplied with numbers of config.json.
#include <algorithm>
#include <array>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/mamba_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

float read_multiplier(const ConfigReader& c, std::string_view key) {
  return static_cast<float>(c.positive(key, 1.0));
}

template <std::size_t kCount>
std::array<float, kCount> read_multipliers(const ConfigReader& c, std::string_view key) {
  std::array<float, kCount> result;
  result.fill(1.0f);
  if (!c.has(key)) return result;
  const std::vector<double> found = c.numbers(key);
  if (found.size() != kCount ||
      std::any_of(found.begin(), found.end(), [](double x) { return !(x > 0.0); })) {
    bad_input("{}: found [{}], expected {} positive numbers", c.where(key), fmt::join(found, ", "), kCount);
  }
  std::transform(found.begin(), found.end(), result.begin(), [](double x) { return static_cast<float>(x); });
  return result;
}

// A bias is multiplied in some places and not in others; no published model has both.
void set_scale(const ConfigReader& c, std::string_view bias_field, float scale, LinearTensors& linear) {
  linear.scale = scale;
  if (scale == 1.0f || !linear.bias) return;
  bad_input("{}: found true, expected false: products of {} are multiplied with {}", c.where(bias_field),
            linear.name, scale);
}

void set_mixer(const ConfigReader& c, const ModelConfig& m, const std::string& prefix, BlockConfig& b) {
  const std::int64_t expanded = read_mixer_size(c, "mamba_expand", 2) * m.hidden_size;
  const bool given = !c.is_null("mamba_d_ssm");
  const std::int64_t size = given ? read_mixer_size(c, "mamba_d_ssm", 1024) : expanded;
  ParallelMixer beside = read_mamba2(c, m, prefix, size, given ? "mamba_d_ssm" : kExpanded);
  auto& mamba = std::get<Mamba2>(beside.mixer);
  if (!c.boolean("mamba_rms_norm", false)) mamba.norm.clear();
  mamba.norm_before_gate = c.boolean("mamba_norm_before_gate", true);
  mamba.scales = read_multipliers<5>(c, "ssm_multipliers");
  beside.output.bias = c.boolean("projectors_bias", false);
  beside.output.first_input = b.attention_output.inputs;
  set_scale(c, "mamba_proj_bias", read_multiplier(c, "ssm_in_multiplier"), beside.input);
  set_scale(c, "projectors_bias", read_multiplier(c, "ssm_out_multiplier"), beside.output);
  b.beside = std::move(beside);
}

ModelConfig configure_falcon_h1(const ConfigReader& c) {
  ModelConfig m;
  m.family = "falcon_h1";
  read_common(c, {.max_positions = 8192, .num_kv_heads = 8}, m);
  m.attention_bias_field = "attention_bias";
  m.mlp_bias_field = "mlp_bias";
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-5));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.embedding_scale = read_multiplier(c, "embedding_multiplier");
  m.logit_scale = read_multiplier(c, "lm_head_multiplier");
  m.ropes = {read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions})};
  set_llama_ends(c, false, m);
  m.final_norm->gain = "model.final_layernorm.weight";
  const bool attention_bias = c.boolean(m.attention_bias_field, false),
             mlp_bias = c.boolean(m.mlp_bias_field, false);
  const float input = read_multiplier(c, "attention_in_multiplier");
  const auto mlp = read_multipliers<2>(c, "mlp_multipliers");
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    set_attention_bias(attention_bias, attention_bias, b);
    set_mlp_bias(mlp_bias, b);
    for (LinearTensors& linear : b.qkv) set_scale(c, m.attention_bias_field, input, linear);
    set_scale(c, m.attention_bias_field, input * read_multiplier(c, "key_multiplier"), b.qkv[1]);
    set_scale(c, m.attention_bias_field, read_multiplier(c, "attention_out_multiplier"), b.attention_output);
    set_scale(c, m.mlp_bias_field, mlp[0], b.up[0]);
    set_scale(c, m.mlp_bias_field, mlp[1], b.down);
    b.up[0].name = prefix + "feed_forward.gate_proj";
    b.up[1].name = prefix + "feed_forward.up_proj";
    b.down.name = prefix + "feed_forward.down_proj";
    b.mlp_norm->gain = prefix + "pre_ff_layernorm.weight";
    set_mixer(c, m, prefix + "mamba.", b);
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kFalconH1Fields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters attention_bias mlp_bias projectors_bias embedding_multiplier lm_head_multiplier "
    "key_multiplier attention_in_multiplier attention_out_multiplier ssm_in_multiplier ssm_out_multiplier "
    "ssm_multipliers mlp_multipliers mamba_d_ssm mamba_expand mamba_n_heads mamba_n_groups mamba_d_state "
    "mamba_d_head mamba_d_conv mamba_conv_bias mamba_proj_bias mamba_norm_before_gate mamba_rms_norm "
    "time_step_limit";

constexpr std::array<std::string_view, 1> kFalconH1Types = {"falcon_h1"};

}  // namespace

const ModelFamily kFalconH1Family{"falcon_h1", kFalconH1Types, configure_falcon_h1, kFalconH1Fields};

}  // namespace swiftprune
