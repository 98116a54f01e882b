#include "swiftprune/model/family_config.h"

#include <algorithm>
#include <cmath>

#include "swiftprune/core/error.h"

namespace swiftprune {

Activation read_activation(const ConfigReader& c, std::string_view key, std::optional<std::string> fallback) {
  const std::string name = c.text(key, std::move(fallback));
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_fast" || name == "gelu_pytorch_tanh") return Activation::kGeluTanh;
  if (name == "relu") return Activation::kRelu;
  bad_input("{}: found '{}', expected silu, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh or relu",
            c.where(key), name);
}

void read_common(const ConfigReader& c, ModelConfig& m) {
  m.vocab_size = c.integer("vocab_size");
  m.hidden_size = c.integer("hidden_size");
  m.intermediate_size = c.integer("intermediate_size");
  m.num_heads = c.integer("num_attention_heads");
  m.num_kv_heads = c.integer("num_key_value_heads", m.num_heads);
  if (m.num_heads % m.num_kv_heads != 0) {
    bad_input("{}: found {}, expected a divisor of num_attention_heads ({})", c.where("num_key_value_heads"),
              m.num_kv_heads, m.num_heads);
  }
  if (!c.has("head_dim") && m.hidden_size % m.num_heads != 0) {
    bad_input("{}: found {}, expected a multiple of num_attention_heads ({}) where head_dim is absent",
              c.where("hidden_size"), m.hidden_size, m.num_heads);
  }
  m.head_size = c.integer("head_dim", m.hidden_size / m.num_heads);
  m.max_positions = c.integer("max_position_embeddings", 2048);
  m.attention_scale = 1.0f / std::sqrt(static_cast<float>(m.head_size));
}

std::int64_t read_num_layers(const ConfigReader& c) {
  constexpr std::int64_t kMost = 4096;  // a bound on what a hostile file can make us allocate
  const std::int64_t layers = c.integer("num_hidden_layers");
  if (layers > kMost)
    bad_input("{}: found {}, expected at most {}", c.where("num_hidden_layers"), layers, kMost);
  return layers;
}

BlockConfig llama_block(const ModelConfig& m, const std::string& prefix) {
  const std::string attention = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  const std::int64_t q_size = m.num_heads * m.head_size;
  const std::int64_t kv_size = m.num_kv_heads * m.head_size;
  BlockConfig b;
  b.qkv = {{attention + "q_proj", q_size, m.hidden_size, false, LinearInput::kAttention},
           {attention + "k_proj", kv_size, m.hidden_size, false, LinearInput::kAttention},
           {attention + "v_proj", kv_size, m.hidden_size, false, LinearInput::kAttention}};
  b.attention_output = {attention + "o_proj", m.hidden_size, q_size, false, LinearInput::kAttentionOutput};
  b.up = {{mlp + "gate_proj", m.intermediate_size, m.hidden_size, false, LinearInput::kMlp},
          {mlp + "up_proj", m.intermediate_size, m.hidden_size, false, LinearInput::kMlp}};
  b.down = {mlp + "down_proj", m.hidden_size, m.intermediate_size, false, LinearInput::kMlpOutput};
  b.attention_norm.gain = prefix + "input_layernorm.weight";
  b.mlp_norm.gain = prefix + "post_attention_layernorm.weight";
  return b;
}

void set_llama_ends(const ConfigReader& c, bool tied_by_default, ModelConfig& m) {
  m.embedding = "model.embed_tokens.weight";
  m.final_norm = NormTensors{"model.norm.weight", ""};
  m.head = c.boolean("tie_word_embeddings", tied_by_default) ? m.embedding : "lm_head.weight";
}

}  // namespace swiftprune
