// Apertus (arXiv 2509.14233): LLaMA with norms of queries and keys and a plain MLP of xIELU (arXiv 2411.13010), whose two
// numbers each layer learns.
#include <array>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

// Without parameters of its own the class has Llama 3.1's scaling, and transformers then leaves rope_theta aside.
RopeConfig read_scaled_rope(const ConfigReader& c, const RopeOptions& options) {
  if (c.has("rope_parameters") || c.has("rope_scaling")) return read_rope(c, options);
  if (const double theta = c.positive("rope_theta", options.theta); theta != options.theta) {
    bad_input("{}: found {} without rope_scaling or rope_parameters, expected them, or {}",
              c.where("rope_theta"), theta, options.theta);
  }
  const nlohmann::json parameters = {{"rope_type", "llama3"},
                                     {"factor", 8.0},
                                     {"low_freq_factor", 1.0},
                                     {"high_freq_factor", 4.0},
                                     {"original_max_position_embeddings", 8192}};
  return rope_from_parameters(ConfigReader(parameters), options);
}

ModelConfig configure_apertus(const ConfigReader& c) {
  ModelConfig m;
  m.family = "apertus";
  read_common(c, {.max_positions = 65536}, m);
  m.attention_bias_field = "attention_bias";
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-5));
  m.gated_mlp = false;
  const bool xielu = c.text("hidden_act", "xielu") == "xielu";
  if (!xielu) m.activation = read_activation(c, "hidden_act", "xielu");
  m.ropes = {
      read_scaled_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions, .theta = 12e6})};
  set_llama_ends(c, false, m);
  const bool attention_bias = c.boolean(m.attention_bias_field, false);
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i), act = prefix + "mlp.act_fn.";
    BlockConfig b = llama_block(m, prefix);
    set_plain_mlp(m, prefix + "mlp.up_proj", prefix + "mlp.down_proj", b);
    set_attention_bias(attention_bias, attention_bias, b);
    if (xielu) b.xielu = Xielu{act + "alpha_p", act + "alpha_n", act + "beta", act + "eps"};
    b.attention_norm = NormTensors{prefix + "attention_layernorm.weight", ""};
    b.mlp_norm = NormTensors{prefix + "feedforward_layernorm.weight", ""};
    b.query_norm = NormTensors{prefix + "self_attn.q_norm.weight", ""};
    b.key_norm = NormTensors{prefix + "self_attn.k_norm.weight", ""};
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kApertusFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters "
    "attention_bias";

constexpr std::array<std::string_view, 1> kApertusTypes = {"apertus"};

}  // namespace

const ModelFamily kApertusFamily{"apertus", kApertusTypes, configure_apertus, kApertusFields};

}  // namespace swiftprune
