// The fields of config.json that most families spell alike.
#pragma once

#include "swiftprune/model/config_reader.h"
#include "swiftprune/model/model_config.h"

namespace swiftprune {

Activation read_activation(const ConfigReader& config, std::string_view key,
                           std::optional<std::string> fallback);

// vocab_size, hidden_size, intermediate_size, num_attention_heads, num_key_value_heads, head_dim,
// max_position_embeddings, and attention_scale = 1/sqrt(head size).
void read_common(const ConfigReader& config, ModelConfig& model);

std::int64_t read_num_layers(const ConfigReader& config);

// LLaMA's names under `prefix` ("model.layers.3."): self_attn.{q,k,v,o}_proj, mlp.{gate,up,down}_proj,
// input_layernorm, post_attention_layernorm. Families that differ in part change the part.
BlockConfig llama_block(const ModelConfig& model, const std::string& prefix);

// Embedding, final norm and head as LLaMA names them; the head is the embedding when tie_word_embeddings.
void set_llama_ends(const ConfigReader& config, bool tied_by_default, ModelConfig& model);

}  // namespace swiftprune
