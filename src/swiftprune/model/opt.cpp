// OPT (arXiv 2205.01068): learned positions, LayerNorm, biases, ReLU. The 350M model alone normalises after
// the sums and projects its embeddings; that layout is refused.
#include <array>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"

namespace swiftprune {
namespace {

void refuse_350m(const ConfigReader& c, const ModelConfig& m) {
  if (!c.boolean("do_layer_norm_before", true)) {
    bad_input("{}: found false, expected true: the layout of OPT-350M is not supported",
              c.where("do_layer_norm_before"));
  }
  const std::int64_t width = c.integer("word_embed_proj_dim", m.hidden_size);
  if (width != m.hidden_size) {
    bad_input("{}: found {}, expected hidden_size ({}): the layout of OPT-350M is not supported",
              c.where("word_embed_proj_dim"), width, m.hidden_size);
  }
}

ModelConfig configure_opt(const ConfigReader& c) {
  ModelConfig m;
  m.family = "opt";
  read_common(c, {.intermediate_field = "ffn_dim", .reads_heads = false}, m);
  refuse_350m(c, m);
  m.norm = NormKind::kLayer;
  m.norm_eps = 1e-5f;  // fixed in the architecture
  m.gated_mlp = false;
  m.activation = read_activation(c, "activation_function", "relu");
  const std::string prefix = "model.decoder.";
  m.embedding = prefix + "embed_tokens.weight";
  m.position_table = prefix + "embed_positions.weight";
  m.position_offset = 2;
  set_head(c, true, "lm_head.weight", m);
  const bool bias = c.boolean("enable_bias", true);
  const bool affine = c.boolean("layer_norm_elementwise_affine", true);
  const auto norm = [&](const std::string& name) {
    return affine ? NormTensors{name + ".weight", name + ".bias"} : NormTensors{};
  };
  if (!c.boolean("_remove_final_layer_norm", false)) m.final_norm = norm(prefix + "final_layer_norm");
  const std::int64_t num_layers = read_num_layers(c);
  const std::int64_t hidden = m.hidden_size;
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string layer = fmt::format("{}layers.{}.", prefix, i);
    const std::string attention = layer + "self_attn.";
    BlockConfig b;
    b.qkv = {{attention + "q_proj", hidden, hidden, bias, LinearInput::kAttention},
             {attention + "k_proj", hidden, hidden, bias, LinearInput::kAttention},
             {attention + "v_proj", hidden, hidden, bias, LinearInput::kAttention}};
    b.attention_output = {attention + "out_proj", hidden, hidden, bias, LinearInput::kAttentionOutput};
    b.up = {{layer + "fc1", m.intermediate_size, hidden, bias, LinearInput::kMlp}};
    b.down = {layer + "fc2", hidden, m.intermediate_size, bias, LinearInput::kMlpOutput};
    b.attention_norm = norm(layer + "self_attn_layer_norm");
    b.mlp_norm = norm(layer + "final_layer_norm");
    b.rope = -1;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kOptFields =
    "ffn_dim activation_function do_layer_norm_before word_embed_proj_dim enable_bias "
    "layer_norm_elementwise_affine _remove_final_layer_norm";

constexpr std::array<std::string_view, 1> kOptTypes = {"opt"};

}  // namespace

const ModelFamily kOptFamily{"opt", kOptTypes, configure_opt, kOptFields};

}  // namespace swiftprune
