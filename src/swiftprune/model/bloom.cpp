// BLOOM (arXiv 2211.05100): positions by ALiBi (arXiv 2108.12409), a norm on the embeddings, biases, tanh GELU; query, key
// and value of a head side by side.
#include <array>
#include <bit>
#include <cmath>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"

namespace swiftprune {
namespace {

// 2^(-8·i/n), i = 1..n, for the largest power of two n <= heads; the other heads take every second one of 2n.
std::vector<float> bloom_slopes(std::int64_t heads) {
  const auto power = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(heads)));
  std::vector<float> slopes;
  const auto add = [&](std::int64_t count, std::int64_t i) {
    slopes.push_back(
        static_cast<float>(std::pow(2.0, -8.0 * static_cast<double>(i) / static_cast<double>(count))));
  };
  for (std::int64_t i = 1; i <= power; ++i) add(power, i);
  for (std::int64_t i = 1; std::ssize(slopes) < heads; i += 2) add(2 * power, i);
  return slopes;
}

ModelConfig configure_bloom(const ConfigReader& c) {
  ModelConfig m;
  m.family = "bloom";
  const SizeNames names = {.hidden_size = c.has("n_embed") ? "n_embed" : "hidden_size",
                           .num_layers = c.has("n_layer") ? "n_layer" : "num_hidden_layers",
                           .num_heads = c.has("n_head") ? "n_head" : "num_attention_heads"};
  // Nothing of the file bounds the positions, and nothing in the model does.
  constexpr std::int64_t kTrainedPositions = 2048;
  read_common(c,
              {.max_positions = c.has("seq_length") ? c.integer("seq_length") : kTrainedPositions,
               .intermediate_field = "n_inner",
               .reads_heads = false,
               .intermediate_size = 4 * c.integer(names.hidden_size),
               .names = names},
              m);
  m.has_width_field = false;
  if (m.intermediate_size != 4 * m.hidden_size) {
    bad_input("{}: found {}, expected four times {}, as BLOOM's MLPs always are", c.where("n_inner"),
              m.intermediate_size, names.hidden_size);
  }
  if (c.boolean("apply_residual_connection_post_layernorm", false)) {
    bad_input("{}: found true, expected false: residuals around the norms are not supported",
              c.where("apply_residual_connection_post_layernorm"));
  }
  m.norm = NormKind::kLayer;
  m.norm_eps = static_cast<float>(c.positive("layer_norm_epsilon", 1e-5));
  m.gated_mlp = false;
  m.activation = Activation::kGeluTanh;
  m.qkv_layout = QkvLayout::kInterleaved;
  m.attention_slopes = bloom_slopes(m.num_heads);
  m.embedding = "transformer.word_embeddings.weight";
  m.embedding_norm = norm_with_bias("transformer.word_embeddings_layernorm");
  m.final_norm = norm_with_bias("transformer.ln_f");
  set_head(c, true, "lm_head.weight", m);
  const std::int64_t num_layers = read_num_layers(c, std::nullopt, names.num_layers), hidden = m.hidden_size;
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("transformer.h.{}.", i);
    BlockConfig b;
    b.qkv = {{prefix + "self_attention.query_key_value", 3 * hidden, hidden, true, LinearInput::kAttention}};
    b.attention_output = {prefix + "self_attention.dense", hidden, hidden, true,
                          LinearInput::kAttentionOutput};
    set_plain_mlp(m, prefix + "mlp.dense_h_to_4h", prefix + "mlp.dense_4h_to_h", b);
    set_mlp_bias(true, b);
    b.attention_norm = norm_with_bias(prefix + "input_layernorm");
    b.mlp_norm = norm_with_bias(prefix + "post_attention_layernorm");
    b.rope = -1;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kBloomFields =
    "n_embed n_layer n_head n_inner seq_length layer_norm_epsilon apply_residual_connection_post_layernorm";

constexpr std::array<std::string_view, 1> kBloomTypes = {"bloom"};

}  // namespace

const ModelFamily kBloomFamily{"bloom", kBloomTypes, configure_bloom, kBloomFields};

}  // namespace swiftprune
