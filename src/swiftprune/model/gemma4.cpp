// Gemma 4's text model (https://ai.google.dev/gemma/docs/core): Gemma 3 whose full layers have larger heads, of which
// values may be the keys; the small ones (E2B, E4B) add something of each token to every layer (LayerEmbeddings), and their
// last layers use keys and values of earlier ones. Experts are refused by name.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/family_config.h"
#include "swiftprune/model/rope.h"

namespace swiftprune {
namespace {

constexpr std::string_view kGemma4Sliding = "sliding_attention", kGemma4Full = "full_attention";

struct Heads {
  std::int64_t size = 0, kv_heads = 0;
  bool operator==(const Heads&) const = default;
};

// What per_layer_config, which transformers writes, says of a layer.
Heads read_layer_heads(const ConfigReader& layers, const std::string& layer, Heads heads) {
  if (!layers.has(layer)) return heads;
  const ConfigReader c = layers.child(layer);
  for (const auto& [name, value] : c.object().items()) {
    if (name == "head_dim" || name == "num_key_value_heads") continue;
    bad_input("{}: found {}, expected head_dim and num_key_value_heads alone", c.where(name),
              json_excerpt(value, 40));
  }
  return {c.integer("head_dim", heads.size), c.integer("num_key_value_heads", heads.kv_heads)};
}

Heads heads_of_list(const ConfigReader& c, const Heads& of_model, const std::vector<std::string>& types) {
  const ConfigReader layers = c.child("per_layer_config");
  for (const auto& [name, value] : layers.object().items()) {
    const bool number = !name.empty() && name.find_first_not_of("0123456789") == std::string::npos &&
                        name.size() < 6 && std::stoul(name) < types.size();
    if (!number) {
      bad_input("{}: found {}, expected numbers of layers below {}", layers.where(name),
                json_excerpt(value, 40), types.size());
    }
  }
  std::map<std::string, Heads> by_type;
  for (std::size_t i = 0; i < types.size(); ++i) {
    const Heads heads = read_layer_heads(layers, std::to_string(i), of_model);
    if (by_type.try_emplace(types[i], heads).first->second == heads) continue;
    bad_input("{}: found layer {} with other heads than the layers of type {} before it, expected the same",
              c.where("per_layer_config"), i, types[i]);
  }
  const auto sliding = by_type.find(std::string(kGemma4Sliding));
  if (sliding != by_type.end() && sliding->second != of_model) {
    bad_input("{}: found other heads in a sliding layer, expected head_dim and num_key_value_heads",
              c.where("per_layer_config"));
  }
  return by_type.at(std::string(kGemma4Full));
}

// Of full layers.
Heads read_full_heads(const ConfigReader& c, const ModelConfig& m, const std::vector<std::string>& types) {
  const Heads of_model{m.head_size, m.num_kv_heads};
  Heads heads{c.integer("global_head_dim", 512), of_model.kv_heads};
  if (c.has("num_global_key_value_heads")) {
    const std::int64_t kv_heads = c.integer("num_global_key_value_heads");
    if (c.boolean("attention_k_eq_v", false)) heads.kv_heads = kv_heads;
  }
  if (c.has("per_layer_config")) heads = heads_of_list(c, of_model, types);
  constexpr std::int64_t kMost = 65536;  // a bound on what is computed before the tensors' shapes are known
  if (heads.size > kMost || heads.kv_heads > m.num_heads || m.num_heads % heads.kv_heads != 0) {
    bad_input(
        "{}: found heads of {} and {} key heads in full layers, expected at most {}, and a divisor of "
        "num_attention_heads ({})",
        c.where(c.has("per_layer_config") ? "per_layer_config" : "global_head_dim"), heads.size,
        heads.kv_heads, kMost, m.num_heads);
  }
  return heads;
}

std::vector<std::string> read_types(const ConfigReader& c, std::int64_t num_layers) {
  std::vector<std::string> types = read_layer_types(
      c, num_layers, std::array{kGemma4Sliding, kGemma4Full},
      [](std::int64_t i) { return std::string((i + 1) % 6 != 0 ? kGemma4Sliding : kGemma4Full); });
  types.back() = kGemma4Full;  // as transformers makes it
  return types;
}

// Where rope_parameters is there transformers fills in neither a kind of layers nor its base.
std::vector<RopeConfig> read_gemma4_ropes(const ConfigReader& c, const ModelConfig& m, std::int64_t full_size,
                                          const std::vector<std::string>& types) {
  const RopeOptions sliding{.rotary_size = m.head_size, .max_positions = m.max_positions},
      full{.rotary_size = full_size, .max_positions = m.max_positions, .theta = 1e6};
  if (!c.has("rope_parameters")) {
    const nlohmann::json usual = {
        {"rope_type", "proportional"}, {"partial_rotary_factor", 0.25}, {"rope_theta", full.theta}};
    return {plain_rope(sliding), rope_from_parameters(ConfigReader(usual), full)};
  }
  const ConfigReader by_type = c.child("rope_parameters");
  for (const std::string& type : types) {
    if (!by_type.has(type))
      bad_input("{}: absent, expected it as layer_types has such layers", by_type.where(type));
    static_cast<void>(by_type.child(type).positive("rope_theta"));
  }
  return read_ropes_by_layer(c, sliding, full);
}

void check_what_is_missing(const ConfigReader& c) {
  if (c.boolean("enable_moe_block", false)) {
    bad_input("{}: found true, expected false: of Gemma 4 only the models without experts are supported",
              c.where("enable_moe_block"));
  }
  const auto field = c.object().find("use_bidirectional_attention");
  if (field != c.object().end() && !field->is_null() && *field != false && *field != "vision") {
    bad_input("{}: found {}, expected null or \"vision\": text attends to what stands before it alone",
              c.where("use_bidirectional_attention"), json_excerpt(*field, 40));
  }
}

void set_gemma4_attention(const ModelConfig& m, const std::string& prefix, bool keys_are_values,
                          BlockConfig& b) {
  const std::string attention = prefix + "self_attn.";
  const std::int64_t q = m.num_heads * m.head_size_in(b), kv = b.kv_heads * m.head_size_in(b);
  b.qkv[0].outputs = q;
  b.attention_output.inputs = q;
  b.qkv[1].outputs = b.qkv[2].outputs = kv;
  b.keys_are_values = keys_are_values;
  if (keys_are_values) b.qkv.pop_back();
  b.query_norm = NormTensors{attention + "q_norm.weight", ""};
  b.key_norm = NormTensors{attention + "k_norm.weight", ""};
  b.norms_values = true;
  b.post_attention_norm = NormTensors{prefix + "post_attention_layernorm.weight", ""};
  b.mlp_norm = NormTensors{prefix + "pre_feedforward_layernorm.weight", ""};
  b.post_mlp_norm = NormTensors{prefix + "post_feedforward_layernorm.weight", ""};
}

// Keys and values of the last layer of each type before `first` serve those of the type from there on.
void share_keys(const ConfigReader& c, std::int64_t first, const std::vector<std::string>& types,
                ModelConfig& m) {
  const bool wide = c.boolean("use_double_wide_mlp", false);
  std::map<std::string, std::int64_t> source;  // by type
  for (std::int64_t i = 0; i < m.num_layers(); ++i) {
    const std::string& type = types[static_cast<std::size_t>(i)];
    BlockConfig& b = m.blocks[static_cast<std::size_t>(i)];
    if (i < first) {
      source[type] = i;
      continue;
    }
    if (!source.contains(type)) {
      bad_input("{}: found {}, expected fewer: no layer of type {} has keys of its own",
                c.where("num_kv_shared_layers"), m.num_layers() - first, type);
    }
    BlockConfig& from = m.blocks[static_cast<std::size_t>(source[type])];
    if (!from.carried_keys) {
      from.carried_keys = CarriedKeys{m.row_size(), false};
      m.carried += 2 * m.kv_size_in(from);
    }
    b.carried_keys = CarriedKeys{from.carried_keys->first, true};
    b.qkv.resize(1);
    b.key_norm.reset();
    b.keys_are_values = b.norms_values = false;
    if (!wide) continue;
    for (LinearTensors& up : b.up) up.outputs *= 2;
    b.down.inputs *= 2;
  }
}

void set_layer_embeddings(const ConfigReader& c, ModelConfig& m) {
  constexpr std::string_view kSize = "hidden_size_per_layer_input";
  const std::int64_t size = c.is_null(kSize) ? 0 : c.integer(kSize, 256, 0);
  const std::int64_t words = c.integer("vocab_size_per_layer_input", 262144);
  if (size == 0) return;
  constexpr std::int64_t kMost = 65536;  // as above
  if (size > kMost) bad_input("{}: found {}, expected at most {}", c.where(kSize), size, kMost);
  if (words != m.vocab_size) {
    bad_input("{}: found {}, expected vocab_size ({})", c.where("vocab_size_per_layer_input"), words,
              m.vocab_size);
  }
  m.layer_embeddings = LayerEmbeddings{.table = "model.embed_tokens_per_layer.weight",
                                       .projection = "model.per_layer_model_projection.weight",
                                       .norm = {"model.per_layer_projection_norm.weight", ""},
                                       .size = size};
  m.carried = 1;  // the token's id
  for (std::int64_t i = 0; i < m.num_layers(); ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    m.blocks[static_cast<std::size_t>(i)].layer_input =
        LayerInput{.gate = prefix + "per_layer_input_gate.weight",
                   .projection = prefix + "per_layer_projection.weight",
                   .norm = {prefix + "post_per_layer_input_norm.weight", ""}};
  }
}

// Beside other models, files leave out fields that have the class's default, all of which are therefore known here.
ModelConfig configure_gemma4(const ConfigReader& c) {
  check_what_is_missing(c);
  ModelConfig m;
  m.family = "gemma4";
  read_common(c,
              {.max_positions = 131072,
               .vocab_size = 262144,
               .hidden_size = 2304,
               .intermediate_size = 9216,
               .num_heads = 8,
               .num_kv_heads = 4,
               .head_size = 256},
              m);
  m.attention_bias_field = "attention_bias";
  m.attention_scale = 1.0f;
  m.norm_eps = static_cast<float>(c.positive("rms_norm_eps", 1e-6));
  m.activation = read_activation(c, "hidden_activation", "gelu_pytorch_tanh");
  m.final_softcap = read_optional_number(c, "final_logit_softcapping", 0.0);
  m.embedding_scale = std::sqrt(static_cast<float>(m.hidden_size));
  m.needs_bos = true;
  set_llama_ends(c, true, m);
  const std::int64_t num_layers = read_num_layers(c, 30);
  const std::int64_t window = read_needed_window(c, 512);
  const std::vector<std::string> types = read_types(c, num_layers);
  const Heads full = read_full_heads(c, m, types);
  m.ropes = read_gemma4_ropes(c, m, full.size, types);
  const bool bias = c.boolean(m.attention_bias_field, false), equal = c.boolean("attention_k_eq_v", false);
  for (std::int64_t i = 0; i < num_layers; ++i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    BlockConfig b = llama_block(m, prefix);
    const bool is_full = types[static_cast<std::size_t>(i)] == kGemma4Full;
    b.layer_type = types[static_cast<std::size_t>(i)];
    b.kv_heads = is_full ? full.kv_heads : m.num_kv_heads;
    b.head_size = is_full ? full.size : m.head_size;
    set_gemma4_attention(m, prefix, equal && is_full, b);
    set_attention_bias(bias, bias, b);
    b.attention_window = is_full ? 0 : window;
    b.rope = is_full ? kFullRope : kSlidingRope;
    b.output_scale = prefix + "layer_scalar";
    m.blocks.push_back(std::move(b));
  }
  set_layer_embeddings(c, m);
  const std::int64_t shared = c.integer("num_kv_shared_layers", 0, 0);
  if (shared >= num_layers) {
    bad_input("{}: found {}, expected less than num_hidden_layers ({})", c.where("num_kv_shared_layers"),
              shared, num_layers);
  }
  share_keys(c, num_layers - shared, types, m);
  return m;
}

constexpr std::string_view kGemma4Fields =
    "intermediate_size num_key_value_heads head_dim rms_norm_eps hidden_activation attention_bias "
    "attention_k_eq_v per_layer_config global_head_dim num_global_key_value_heads "
    "use_bidirectional_attention "
    "sliding_window layer_types final_logit_softcapping rope_parameters "
    "vocab_size_per_layer_input hidden_size_per_layer_input num_kv_shared_layers use_double_wide_mlp "
    "enable_moe_block";

constexpr std::array<std::string_view, 1> kGemma4Types = {"gemma4_text"};

}  // namespace

const ModelFamily kGemma4Family{"gemma4", kGemma4Types, configure_gemma4, kGemma4Fields};

}  // namespace swiftprune
