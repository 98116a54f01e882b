// GPT-2 (https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf): learned
// positions, LayerNorm, biases; the file holds the linears' weights as [inputs, outputs].
#include <array>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"

namespace swiftprune {
namespace {

constexpr SizeNames kGpt2SizeNames = {
    .hidden_size = "n_embd", .num_layers = "n_layer", .num_heads = "n_head", .max_positions = "n_positions"};

void refuse(const ConfigReader& c, std::string_view field, bool usual, std::string_view what) {
  if (c.boolean(field, usual) == usual) return;
  bad_input("{}: found {}, expected {}: {} is not supported", c.where(field), !usual, usual, what);
}

ModelConfig configure_gpt2(const ConfigReader& c) {
  ModelConfig m;
  m.family = "gpt2";
  read_common(c,
              {.max_positions = 1024,
               .intermediate_field = "n_inner",
               .reads_heads = false,
               .intermediate_size = 4 * c.integer(kGpt2SizeNames.hidden_size),
               .names = kGpt2SizeNames},
              m);
  refuse(c, "scale_attn_weights", true, "attention without the scale 1/sqrt(head size)");
  refuse(c, "scale_attn_by_inverse_layer_idx", false, "attention scaled by the layer");
  m.norm = NormKind::kLayer;
  m.norm_eps = static_cast<float>(c.positive("layer_norm_epsilon", 1e-5));
  m.gated_mlp = false;
  m.activation = read_activation(c, "activation_function", "gelu_new");
  m.qkv_layout = QkvLayout::kStacked;
  m.transposed_linears = true;
  m.embedding = "transformer.wte.weight";
  m.position_table = "transformer.wpe.weight";
  m.final_norm = norm_with_bias("transformer.ln_f");
  set_head(c, true, "lm_head.weight", m);
  const std::int64_t num_layers = read_num_layers(c, std::nullopt, kGpt2SizeNames.num_layers),
                     hidden = m.hidden_size;
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("transformer.h.{}.", i);
    BlockConfig b;
    b.qkv = {{prefix + "attn.c_attn", 3 * hidden, hidden, true, LinearInput::kAttention}};
    b.attention_output = {prefix + "attn.c_proj", hidden, hidden, true, LinearInput::kAttentionOutput};
    set_plain_mlp(m, prefix + "mlp.c_fc", prefix + "mlp.c_proj", b);
    set_mlp_bias(true, b);
    b.attention_norm = norm_with_bias(prefix + "ln_1");
    b.mlp_norm = norm_with_bias(prefix + "ln_2");
    b.rope = -1;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kGpt2Fields =
    "n_embd n_layer n_head n_positions n_inner layer_norm_epsilon activation_function scale_attn_weights "
    "scale_attn_by_inverse_layer_idx";

constexpr std::array<std::string_view, 1> kGpt2Types = {"gpt2"};

}  // namespace

const ModelFamily kGpt2Family{"gpt2", kGpt2Types, configure_gpt2, kGpt2Fields};

}  // namespace swiftprune
