// Qwen2 and Qwen2.5 (bias on q, k and v; arXiv 2407.10671) and Qwen3 (norms on query and key instead; arXiv
// 2505.09388), also beside a vision model: a text's tokens have one position in all three parts of its rotary embedding.
// Later layers may attend through a sliding window.
#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig configure_qwen(const ConfigReader& c, bool third) {
  ModelConfig m;
  m.family = third ? "qwen3" : "qwen2";
  CommonDefaults defaults{.max_positions = 32768, .num_kv_heads = 32};
  if (third) defaults.head_size = 128;
  read_common(c, defaults, m);
  if (third) m.attention_bias_field = "attention_bias";
  if (!third && !c.boolean("attention_bias", true)) {
    bad_input("{}: found false, expected true or nothing: q, k and v of Qwen 2 always have a bias",
              c.where("attention_bias"));
  }
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-6));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.ropes = {read_rope(
      c, {.rotary_size = m.head_size, .max_positions = m.max_positions, .theta = qwen_default_theta(c)})};
  set_llama_ends(c, false, m);
  const std::int64_t window = c.boolean("use_sliding_window", false) ? read_sliding_window(c, 4096) : 0;
  const std::int64_t first_window_layer = c.integer("max_window_layers", 28, 0);
  const bool attention_bias = third && c.boolean(m.attention_bias_field, false);
  const std::int64_t num_layers = read_num_layers(c);
  const std::vector<bool> sliding =
      read_sliding_layers(c, num_layers, [&](std::int64_t i) { return i >= first_window_layer; });
  if (window == 0 && c.has("layer_types") && std::ranges::find(sliding, true) != sliding.end()) {
    bad_input("{}: found sliding_attention, expected full_attention alone: {} is off", c.where("layer_types"),
              c.is_null("sliding_window") ? "sliding_window" : "use_sliding_window");
  }
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    set_attention_bias(!third || attention_bias, attention_bias, b);
    if (third) {
      b.query_norm = NormTensors{prefix + "self_attn.q_norm.weight", ""};
      b.key_norm = NormTensors{prefix + "self_attn.k_norm.weight", ""};
    }
    if (sliding[static_cast<std::size_t>(i)]) b.attention_window = window;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kQwen2Fields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta "
    "rope_scaling rope_parameters use_sliding_window sliding_window max_window_layers "
    "layer_types attention_bias";
constexpr std::string_view kQwen3Fields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta "
    "rope_scaling rope_parameters use_sliding_window sliding_window max_window_layers "
    "layer_types attention_bias";

constexpr std::array<std::string_view, 3> kQwen2Types = {"qwen2", "qwen2_vl_text", "qwen2_5_vl_text"};
constexpr std::array<std::string_view, 2> kQwen3Types = {"qwen3", "qwen3_vl_text"};

}  // namespace

const ModelFamily kQwen2Family{"qwen2", kQwen2Types,
                               [](const ConfigReader& c) { return configure_qwen(c, false); }, kQwen2Fields};
const ModelFamily kQwen3Family{"qwen3", kQwen3Types,
                               [](const ConfigReader& c) { return configure_qwen(c, true); }, kQwen3Fields};

}  // namespace swiftprune
