// GPT-NeoX and Pythia (arXiv 2204.06745, 2304.01373): LayerNorm with bias, one fused q/k/v product whose rows
// are interleaved by head, rotary embedding on part of each head, parallel or sequential residual.
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig configure_gpt_neox(const ConfigReader& c) {
  ModelConfig m;
  m.family = "gpt_neox";
  read_common(c, {.reads_heads = false}, m);
  m.norm = NormKind::kLayer;
  m.norm_eps = static_cast<float>(c.positive("layer_norm_eps", 1e-5));
  m.qkv_layout = QkvLayout::kInterleaved;
  m.gated_mlp = false;
  m.activation = read_activation(c, "hidden_act", "gelu");
  m.parallel_residual = c.boolean("use_parallel_residual", true);
  m.ropes = {read_rope(c, {.rotary_size = read_rotary_size(c, m.head_size, "rotary_pct", 0.25),
                           .max_positions = m.max_positions,
                           .theta = c.positive("rotary_emb_base", 10000.0),
                           .partial = true})};
  m.embedding = "gpt_neox.embed_in.weight";
  m.final_norm = norm_with_bias("gpt_neox.final_layer_norm");
  set_head(c, false, "embed_out.weight", m);
  const bool attention_bias = c.boolean("attention_bias", true);
  const std::int64_t num_layers = read_num_layers(c);
  const std::int64_t hidden = m.hidden_size;
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("gpt_neox.layers.{}.", i);
    BlockConfig b;
    b.qkv = {
        {prefix + "attention.query_key_value", 3 * hidden, hidden, attention_bias, LinearInput::kAttention}};
    b.attention_output = {prefix + "attention.dense", hidden, hidden, attention_bias,
                          LinearInput::kAttentionOutput};
    b.up = {{prefix + "mlp.dense_h_to_4h", m.intermediate_size, hidden, true, LinearInput::kMlp}};
    b.down = {prefix + "mlp.dense_4h_to_h", hidden, m.intermediate_size, true, LinearInput::kMlpOutput};
    b.attention_norm = norm_with_bias(prefix + "input_layernorm");
    b.mlp_norm = norm_with_bias(prefix + "post_attention_layernorm");
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kGptNeoxFields =
    "intermediate_size layer_norm_eps hidden_act rope_theta rope_scaling rope_parameters "
    "rotary_pct rotary_emb_base use_parallel_residual attention_bias";

constexpr std::array<std::string_view, 1> kGptNeoxTypes = {"gpt_neox"};

}  // namespace

const ModelFamily kGptNeoxFamily{"gpt_neox", kGptNeoxTypes, configure_gpt_neox, kGptNeoxFields};

}  // namespace swiftprune
