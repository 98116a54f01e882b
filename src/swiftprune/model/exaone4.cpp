// EXAONE 4 (arXiv 2507.11407): norms behind attention and MLP, norms of each head's query and key; where layers attend
// through a window, the others have no rotary embedding.
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

// One full layer in each so many; the 32B model writes it as "LLLG" beside layer_types.
std::int64_t read_pattern(const ConfigReader& c) {
  constexpr std::string_view kKey = "sliding_window_pattern";
  if (c.has("layer_types") && c.has(kKey) && c.object().at(kKey).is_string()) return 0;
  return c.is_null(kKey) ? 0 : c.integer(kKey, 4, 0);
}

ModelConfig configure_exaone4(const ConfigReader& c) {
  ModelConfig m;
  m.family = "exaone4";
  read_common(c, {.max_positions = 2048, .num_kv_heads = 32}, m);
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-5));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.ropes = {read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions})};
  set_llama_ends(c, false, m);
  const std::int64_t num_layers = read_num_layers(c);
  const std::int64_t window = read_sliding_window(c, 4096), pattern = read_pattern(c);
  const std::vector<bool> sliding = read_sliding_layers(
      c, num_layers, [&](std::int64_t i) { return window > 0 && pattern > 0 && (i + 1) % pattern != 0; });
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    move_norms_behind(prefix, b);
    b.query_norm = NormTensors{prefix + "self_attn.q_norm.weight", ""};
    b.key_norm = NormTensors{prefix + "self_attn.k_norm.weight", ""};
    const bool slides = sliding[static_cast<std::size_t>(i)];
    b.attention_window = slides ? window : 0;
    b.rope = window == 0 || slides ? 0 : -1;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kExaone4Fields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta rope_scaling "
    "rope_parameters sliding_window sliding_window_pattern layer_types";

constexpr std::array<std::string_view, 1> kExaone4Types = {"exaone4"};

}  // namespace

const ModelFamily kExaone4Family{"exaone4", kExaone4Types, configure_exaone4, kExaone4Fields};

}  // namespace swiftprune
