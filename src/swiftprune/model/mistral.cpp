// Mistral 7B and its descendants, Mistral Small 3 and Ministral 8B among them: LLaMA, with a sliding window in every
// layer, in some or in none (arXiv 2310.06825). Ministral 3 also scales queries by their position.
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig read_mistral(const ConfigReader& c, std::string_view family, const CommonDefaults& defaults,
                         double eps) {
  ModelConfig m;
  m.family = family;
  read_common(c, defaults, m);
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", eps));
  m.activation = read_activation(c, "hidden_act", "silu");
  set_llama_ends(c, false, m);
  return m;
}

void add_blocks(const std::vector<bool>& sliding, std::int64_t window, ModelConfig& m) {
  for (std::size_t i = 0; i < sliding.size(); ++i) {
    BlockConfig b = llama_block(m, fmt::format("model.layers.{}.", i));
    b.attention_window = sliding[i] ? window : 0;
    m.blocks.push_back(std::move(b));
  }
}

// "ministral" alone reads layer_types.
ModelConfig configure_mistral(const ConfigReader& c, bool mixed) {
  ModelConfig m =
      read_mistral(c, mixed ? "ministral" : "mistral", {.max_positions = 4096 * 32, .num_kv_heads = 8}, 1e-6);
  m.ropes = {read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions})};
  const std::int64_t num_layers = read_num_layers(c),
                     window = mixed ? read_needed_window(c, 4096) : read_sliding_window(c, 4096);
  const std::vector<bool> all(static_cast<std::size_t>(num_layers), true);
  add_blocks(mixed ? read_sliding_layers(c, num_layers, [](std::int64_t) { return true; }) : all, window, m);
  return m;
}

constexpr std::string_view kScalingParameters = "llama_4_scaling_beta max_position_embeddings";

ModelConfig configure_ministral3(const ConfigReader& c) {
  ModelConfig m =
      read_mistral(c, "ministral3", {.max_positions = 262144, .num_kv_heads = 8, .head_size = 128}, 1e-5);
  m.ropes = {read_rope(c, {.rotary_size = m.head_size,
                           .max_positions = m.max_positions,
                           .theta = 1e6,
                           .also = kScalingParameters})};
  const ConfigReader parameters = c.child(c.has("rope_scaling") ? "rope_scaling" : "rope_parameters");
  m.query_scaling = QueryScaling{static_cast<float>(parameters.number("llama_4_scaling_beta")),
                                 parameters.integer("original_max_position_embeddings")};
  const std::vector<bool> all(static_cast<std::size_t>(read_num_layers(c)), true);
  add_blocks(all, read_sliding_window(c, 0), m);
  return m;
}

constexpr std::string_view kMistralFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta "
    "rope_scaling rope_parameters sliding_window";
constexpr std::string_view kMinistralFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta "
    "rope_scaling rope_parameters sliding_window layer_types";

constexpr std::array<std::string_view, 1> kMistralTypes = {"mistral"};
constexpr std::array<std::string_view, 1> kMinistralTypes = {"ministral"};
constexpr std::array<std::string_view, 1> kMinistral3Types = {"ministral3"};

}  // namespace

const ModelFamily kMistralFamily{"mistral", kMistralTypes,
                                 [](const ConfigReader& c) { return configure_mistral(c, false); },
                                 kMistralFields};
const ModelFamily kMinistralFamily{"ministral", kMinistralTypes,
                                   [](const ConfigReader& c) { return configure_mistral(c, true); },
                                   kMinistralFields};
const ModelFamily kMinistral3Family{"ministral3", kMinistral3Types, configure_ministral3, kMistralFields};

}  // namespace swiftprune
