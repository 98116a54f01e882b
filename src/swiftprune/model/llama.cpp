// LLaMA 1 to 3.2, SmolLM and everything else with model_type "llama"; Mistral is the same with a sliding
// window.
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
  m.family = "llama";
  read_common(c, m);
  m.norm_eps = static_cast<float>(c.number("rms_norm_eps", 1e-6));
  m.activation = read_activation(c, "hidden_act", "silu");
  m.ropes = {read_rope(c, m.head_size, m.max_positions)};
  set_llama_ends(c, false, m);
  const bool attention_bias = c.boolean("attention_bias", false);
  const bool mlp_bias = c.boolean("mlp_bias", false);
  const std::int64_t window = c.has("sliding_window") ? c.integer("sliding_window") : 0;
  const std::int64_t layers = read_num_layers(c);
  for (std::int64_t i = 0; i < layers; ++i) {
    BlockConfig b = llama_block(m, fmt::format("model.layers.{}.", i));
    for (LinearTensors& linear : b.qkv) linear.bias = attention_bias;
    b.attention_output.bias = attention_bias;
    for (LinearTensors& linear : b.up) linear.bias = mlp_bias;
    b.down.bias = mlp_bias;
    b.attention_window = window;
    m.blocks.push_back(std::move(b));
  }
  return m;
}

constexpr std::array<std::string_view, 2> kTypes = {"llama", "mistral"};

}  // namespace

const ModelFamily kLlamaFamily{"llama", kTypes, configure};

}  // namespace swiftprune
