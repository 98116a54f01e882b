// The fields of config.json that most families spell alike, and LLaMA's tensor names, which most share.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "swiftprune/model/config_reader.h"
#include "swiftprune/model/model_config.h"

namespace swiftprune {

Activation read_activation(const ConfigReader& config, std::string_view key, std::string_view fallback);

// What older families call the sizes.
struct SizeNames {
  std::string_view hidden_size = "hidden_size", num_layers = "num_hidden_layers",
                   num_heads = "num_attention_heads", max_positions = "max_position_embeddings";
};

// What a field's absence means: the default of transformers' configuration class. Nothing: the field must be
// there (or, for the last two, follows from others).
struct CommonDefaults {
  std::int64_t max_positions = 2048;
  std::string_view intermediate_field = "intermediate_size";
  bool reads_heads = true;      // else num_key_value_heads and head_dim mean nothing to this family
  bool reads_head_size = true;  // else head_dim does not
  std::optional<std::int64_t> vocab_size = std::nullopt;
  std::optional<std::int64_t> hidden_size = std::nullopt;
  std::optional<std::int64_t> intermediate_size = std::nullopt;
  std::optional<std::int64_t> num_heads = std::nullopt;
  // Else as many as num_attention_heads; null means that too.
  std::optional<std::int64_t> num_kv_heads = std::nullopt;
  std::optional<std::int64_t> head_size = std::nullopt;  // else hidden_size / num_attention_heads
  SizeNames names = {};
};

// vocab_size, hidden_size, intermediate_size, num_attention_heads, num_key_value_heads, head_dim,
// max_position_embeddings, and attention_scale = 1/sqrt(head size).
void read_common(const ConfigReader& config, const CommonDefaults& defaults, ModelConfig& model);

std::int64_t read_num_layers(const ConfigReader& config, std::optional<std::int64_t> fallback = std::nullopt,
                             std::string_view key = "num_hidden_layers");

// The window in tokens of sliding-window attention: `absent` when the field is absent, 0 (no window) when
// null.
std::int64_t read_sliding_window(const ConfigReader& config, std::int64_t absent);

// The same of families that transformers computes with a window alone: null is refused, as there.
std::int64_t read_needed_window(const ConfigReader& config, std::int64_t absent);

// What an absent rope_theta means to Qwen 2 and 3: another base beside a vision model.
double qwen_default_theta(const ConfigReader& config);

// A number that null turns off (0) and that is `absent` when the field is absent.
float read_optional_number(const ConfigReader& config, std::string_view key, double absent);

// Which layers attend through the sliding window: as layer_types says, else as `otherwise` says.
std::vector<bool> read_sliding_layers(const ConfigReader& config, std::int64_t num_layers,
                                      const std::function<bool(std::int64_t layer)>& otherwise);

// config.json's layer_types: a name of `known` for each layer; where it is absent as `otherwise` says.
std::vector<std::string> read_layer_types(const ConfigReader& config, std::int64_t num_layers,
                                          std::span<const std::string_view> known,
                                          const std::function<std::string(std::int64_t layer)>& otherwise);

// A size of a recurrent mixer, 2^24 at most: a bound on what is computed before the tensors' shapes are known.
std::int64_t read_mixer_size(const ConfigReader& config, std::string_view key, std::int64_t fallback);

// LLaMA's names under `prefix` ("model.layers.3."): self_attn.{q,k,v,o}_proj, mlp.{gate,up,down}_proj,
// input_layernorm, post_attention_layernorm. Families that differ in part change the part.
BlockConfig llama_block(const ModelConfig& model, const std::string& prefix);
void set_attention_bias(bool qkv, bool output, BlockConfig& block);
void set_mlp_bias(bool bias, BlockConfig& block);
// Gate and up in one linear of this name; a plain MLP of two linears.
void fuse_gate_and_up(const std::string& name, BlockConfig& block);
void set_plain_mlp(const ModelConfig& model, const std::string& up, const std::string& down,
                   BlockConfig& block);
// No norms before attention and MLP but post_attention_layernorm and post_feedforward_layernorm behind them.
void move_norms_behind(const std::string& prefix, BlockConfig& block);
NormTensors norm_with_bias(const std::string& module);  // "<module>.weight" and "<module>.bias"

// The head of this name, or the embedding when tie_word_embeddings; model.embedding is set.
void set_head(const ConfigReader& config, bool tied_by_default, std::string name, ModelConfig& model);

// Embedding, final norm and head as LLaMA names them; the head is the embedding when tie_word_embeddings.
void set_llama_ends(const ConfigReader& config, bool tied_by_default, ModelConfig& model);

// Numbers of experts, and their width, by these fields of config.json; top_k of num_experts_per_tok. Names follow
// `prefix` ("model.layers.3.mlp."): gate.weight, experts.{i}.{gate,up,down}_proj. Call check_experts() when all is
// set.
struct ExpertFields {
  std::string_view count = "num_experts";
  std::string_view width = "moe_intermediate_size";
  std::optional<std::int64_t> default_count = std::nullopt;
  std::optional<std::int64_t> default_width = std::nullopt;
  std::optional<std::int64_t> default_top_k = std::nullopt;
};
ExpertsConfig read_experts(const ConfigReader& config, const ExpertFields& fields, const std::string& prefix);
// Throws Error{kBadInput} naming the fields for a router that cannot be.
void check_experts(const ConfigReader& config, const ExpertsConfig& experts);
// With DeepSeek-V3's router: a sigmoid, gate.e_score_correction_bias, n_group and topk_group, norm_topk_prob and
// routed_scaling_factor; checked.
struct SigmoidDefaults {
  std::int64_t groups = 1, top_groups = 1;
  double scale = 1.0;
};
ExpertsConfig read_sigmoid_experts(const ConfigReader& config, const ExpertFields& fields,
                                   const SigmoidDefaults& defaults, const std::string& prefix);
// Which layers have experts, as decoder_sparse_step and mlp_only_layers say (Qwen's).
std::vector<bool> read_sparse_layers(const ConfigReader& config, std::int64_t num_layers);
// Qwen's experts in the block: norm_topk_prob, and where `shared_width` is given (the default of
// shared_expert_intermediate_size) a shared expert behind a gate of its own.
void set_qwen_experts(const ConfigReader& config, const ModelConfig& model, const ExpertFields& fields,
                      bool renormalised_by_default, std::optional<std::int64_t> shared_width,
                      const std::string& prefix, BlockConfig& block);
// The block's MLP becomes experts; `shared_width` > 0: beside a shared one, {prefix}{shared}.{gate,up,down}_proj.
void set_experts(const ModelConfig& model, ExpertsConfig experts, const std::string& prefix,
                 std::string_view shared, std::int64_t shared_width, BlockConfig& block);

}  // namespace swiftprune
