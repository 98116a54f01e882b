// Mistral 7B and its descendants: LLaMA with a sliding window in every layer (arXiv 2310.06825).
#include <array>

#include <fmt/format.h>

#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

ModelConfig configure(const nlohmann::json& json) {
  const ConfigReader c(json);
  ModelConfig m;
  m.family = "mistral";
  read_common(c, {.max_positions = 4096 * 32, .num_kv_heads = 8}, m);
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-6));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.ropes = {read_rope(c, {.rotary_size = m.head_size, .max_positions = m.max_positions})};
  set_llama_ends(c, false, m);
  const std::int64_t window = read_sliding_window(c, 4096);
  const std::int64_t num_layers = read_num_layers(c);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    BlockConfig b = llama_block(m, fmt::format("model.layers.{}.", i));
    b.attention_window = window;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::string_view kFields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_act rope_theta "
    "rope_scaling rope_parameters sliding_window";

constexpr std::array<std::string_view, 1> kTypes = {"mistral"};

}  // namespace

const ModelFamily kMistralFamily{"mistral", kTypes, configure, kFields};

}  // namespace swiftprune
