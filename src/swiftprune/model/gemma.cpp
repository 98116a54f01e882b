// Gemma (arXiv 2403.08295), Gemma 2 (arXiv 2408.00118: soft caps, sliding and global layers in turn) and the text model of Gemma 3
// (arXiv 2503.19786: norms on query and key, a rotary base for each kind of layer). Both: four norms a block
// that hold gain − 1, scaled embeddings. Products are float here, so the embedding scale is not rounded to
// bf16 as it is in a bf16 run.
#include <array>
#include <cmath>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

void read_gemma(const ConfigReader& c, const CommonDefaults& defaults, ModelConfig& m) {
  read_common(c, defaults, m);
  m.heads_divide_hidden_size = true;
  m.attention_bias_field = "attention_bias";
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-6));
  m.norm_gain_offset = 1.0f;
  m.activation = read_activation(c, "hidden_activation", "gelu_pytorch_tanh");
  m.attention_scale = static_cast<float>(1.0 / std::sqrt(c.positive("query_pre_attn_scalar", 256.0)));
  m.needs_bos = true;
  m.embedding_scale = std::sqrt(static_cast<float>(m.hidden_size));
  if (c.boolean("use_bidirectional_attention", false)) {
    bad_input("{}: found true, expected false: only causal models are pruned",
              c.where("use_bidirectional_attention"));
  }
}

BlockConfig gemma_block(const ConfigReader& c, const ModelConfig& m, const std::string& prefix) {
  BlockConfig b = llama_block(m, prefix);
  const bool bias = c.boolean(m.attention_bias_field, false);
  set_attention_bias(bias, bias, b);
  b.post_attention_norm = NormTensors{prefix + "post_attention_layernorm.weight", ""};
  b.mlp_norm = NormTensors{prefix + "pre_feedforward_layernorm.weight", ""};
  b.post_mlp_norm = NormTensors{prefix + "post_feedforward_layernorm.weight", ""};
  return b;
}

ModelConfig configure_gemma(const ConfigReader& c) {
  ModelConfig m;
  m.family = "gemma";
  read_common(c, {.max_positions = 8192, .num_kv_heads = 16, .head_size = 256}, m);
  m.attention_bias_field = "attention_bias";
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-6));
  m.norm_gain_offset = 1.0f;
  m.activation = read_activation(c, c.has("hidden_activation") ? "hidden_activation" : "hidden_act",
                                 "gelu_pytorch_tanh");
  // The first files said "gelu" and meant this, as transformers knows.
  if (m.activation == Activation::kGelu) m.activation = Activation::kGeluTanh;
  m.needs_bos = true;
  m.embedding_scale = std::sqrt(static_cast<float>(m.hidden_size));
  m.ropes = {read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions})};
  set_llama_ends(c, true, m);
  const bool bias = c.boolean(m.attention_bias_field, false);
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    BlockConfig b = llama_block(m, fmt::format("model.layers.{}.", i));
    set_attention_bias(bias, bias, b);
    m.blocks.push_back(std::move(b));
  }
  return m;
}

ModelConfig configure_gemma2(const ConfigReader& c) {
  ModelConfig m;
  m.family = "gemma2";
  read_gemma(c, {.max_positions = 8192, .num_kv_heads = 4, .head_size = 256}, m);
  m.attention_softcap = read_optional_number(c, "attn_logit_softcapping", 50.0);
  m.final_softcap = read_optional_number(c, "final_logit_softcapping", 30.0);
  m.ropes = {read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions})};
  set_llama_ends(c, true, m);
  const std::int64_t window = read_needed_window(c, 4096);
  const std::int64_t num_layers = read_num_layers(c);
  const std::vector<bool> sliding =
      read_sliding_layers(c, num_layers, [](std::int64_t i) { return i % 2 == 0; });
  for (std::int64_t i = 0; i < num_layers; ++i) {
    BlockConfig b = gemma_block(c, m, fmt::format("model.layers.{}.", i));
    if (sliding[static_cast<std::size_t>(i)]) b.attention_window = window;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

// Beside a vision model, files leave out fields that have the class's default, all of which are therefore known here.
ModelConfig configure_gemma3(const ConfigReader& c) {
  ModelConfig m;
  m.family = "gemma3";
  read_gemma(c,
             {.max_positions = 131072,
              .vocab_size = 262208,
              .hidden_size = 2304,
              .intermediate_size = 9216,
              .num_heads = 8,
              .num_kv_heads = 4,
              .head_size = 256},
             m);
  m.final_softcap = read_optional_number(c, "final_logit_softcapping", 0.0);
  RopeOptions local{.rotary_size = m.head_size,
                    .max_positions = m.max_positions,
                    .theta = c.positive("rope_local_base_freq", 10000.0)};
  RopeOptions global = local;
  global.theta = c.positive("rope_theta", 1e6);
  m.ropes = read_ropes_by_layer(c, local, global);
  set_llama_ends(c, true, m);
  const std::int64_t window = read_needed_window(c, 4096);
  const std::int64_t pattern = c.integer("sliding_window_pattern", c.integer("_sliding_window_pattern", 6));
  const std::int64_t num_layers = read_num_layers(c, 26);
  const std::vector<bool> sliding =
      read_sliding_layers(c, num_layers, [&](std::int64_t i) { return (i + 1) % pattern != 0; });
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string name = fmt::format("model.layers.{}.", i);
    BlockConfig b = gemma_block(c, m, name);
    b.query_norm = NormTensors{name + "self_attn.q_norm.weight", ""};
    b.key_norm = NormTensors{name + "self_attn.k_norm.weight", ""};
    const bool slides = sliding[static_cast<std::size_t>(i)];
    b.attention_window = slides ? window : 0;
    b.rope = slides ? kSlidingRope : kFullRope;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kGemmaFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act hidden_activation attention_bias "
    "rope_theta rope_scaling rope_parameters";
constexpr std::string_view kGemma2Fields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_activation "
    "query_pre_attn_scalar attention_bias use_bidirectional_attention sliding_window "
    "layer_types final_logit_softcapping rope_theta rope_scaling rope_parameters "
    "attn_logit_softcapping";
constexpr std::string_view kGemma3Fields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_activation "
    "query_pre_attn_scalar attention_bias use_bidirectional_attention sliding_window "
    "layer_types final_logit_softcapping rope_theta rope_scaling rope_parameters "
    "rope_local_base_freq sliding_window_pattern _sliding_window_pattern";

constexpr std::array<std::string_view, 1> kGemmaTypes = {"gemma"};
constexpr std::array<std::string_view, 1> kGemma2Types = {"gemma2"};
constexpr std::array<std::string_view, 2> kGemma3Types = {"gemma3_text", "gemma3"};

}  // namespace

const ModelFamily kGemmaFamily{"gemma", kGemmaTypes, configure_gemma, kGemmaFields};
const ModelFamily kGemma2Family{"gemma2", kGemma2Types, configure_gemma2, kGemma2Fields};
const ModelFamily kGemma3Family{"gemma3", kGemma3Types, configure_gemma3, kGemma3Fields};

}  // namespace swiftprune
