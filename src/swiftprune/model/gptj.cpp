// GPT-J (https://github.com/kingoflolz/mesh-transformer-jax): one LayerNorm for attention and MLP, which are parallel;
// neighbours of the first rotary_dim elements are rotated; the head has a bias.
#include <array>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

constexpr SizeNames kGptjSizeNames = {
    .hidden_size = "n_embd", .num_layers = "n_layer", .num_heads = "n_head", .max_positions = "n_positions"};

ModelConfig configure_gptj(const ConfigReader& c) {
  ModelConfig m;
  m.family = "gptj";
  read_common(c,
              {.max_positions = 2048,
               .intermediate_field = "n_inner",
               .reads_heads = false,
               .intermediate_size = 4 * c.integer(kGptjSizeNames.hidden_size),
               .names = kGptjSizeNames},
              m);
  m.norm = NormKind::kLayer;
  m.norm_eps = static_cast<float>(c.positive("layer_norm_epsilon", 1e-5));
  m.gated_mlp = false;
  m.activation = read_activation(c, "activation_function", "gelu_new");
  m.parallel_residual = true;
  const std::int64_t rotary_size = c.integer("rotary_dim", 64, 2);
  if (rotary_size > m.head_size || rotary_size % 2 != 0) {
    bad_input("{}: found {}, expected an even number up to the head size {}", c.where("rotary_dim"),
              rotary_size, m.head_size);
  }
  m.ropes = {plain_rope({.rotary_size = rotary_size, .max_positions = m.max_positions})};
  m.ropes.front().rotates_neighbours = true;
  m.embedding = "transformer.wte.weight";
  m.final_norm = norm_with_bias("transformer.ln_f");
  set_head(c, false, "lm_head.weight", m);
  m.head_bias = "lm_head.bias";
  const std::int64_t num_layers = read_num_layers(c, std::nullopt, kGptjSizeNames.num_layers);
  const std::int64_t hidden = m.hidden_size;
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("transformer.h.{}.", i);
    BlockConfig b;
    for (const char* part : {"q_proj", "k_proj", "v_proj"}) {
      b.qkv.push_back(
          {fmt::format("{}attn.{}", prefix, part), hidden, hidden, false, LinearInput::kAttention});
    }
    b.attention_output = {prefix + "attn.out_proj", hidden, hidden, false, LinearInput::kAttentionOutput};
    set_plain_mlp(m, prefix + "mlp.fc_in", prefix + "mlp.fc_out", b);
    set_mlp_bias(true, b);
    b.attention_norm = b.mlp_norm = norm_with_bias(prefix + "ln_1");
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kGptjFields =
    "n_embd n_layer n_head n_positions n_inner layer_norm_epsilon activation_function rotary_dim";

constexpr std::array<std::string_view, 1> kGptjTypes = {"gptj"};

}  // namespace

const ModelFamily kGptJFamily{"gptj", kGptjTypes, configure_gptj, kGptjFields};

}  // namespace swiftprune
