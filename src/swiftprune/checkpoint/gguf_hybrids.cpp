// Architectures with another mixer than attention in some blocks (GgufArchitecture).
#include "swiftprune/checkpoint/gguf_fields.h"

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

using namespace gguf_fields;

// ---- lfm2, lfm2moe: short convolutions

constexpr ConfigField kLfm2Fields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv", Type::kLargest},
    {"max_position_embeddings", "context_length"},
    {"norm_eps", "attention.layer_norm_rms_epsilon", Type::kPositive},
    {"rope_theta", "rope.freq_base", Type::kPositive, false},
    {"conv_L_cache", "shortconv.l_cache"},
};

constexpr TensorRule kLfm2ModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    {"token_embd_norm", "model.embedding_norm"},
    {"output", "lm_head"},
};

// Of both, before the MLP.
constexpr TensorRule kLfm2Mixing[] = {
    {"attn_norm", "model.layers.*.operator_norm"},
    rule_of(TensorBlocks::kAttention, "attn_q", "model.layers.*.self_attn.q_proj"),
    rule_of(TensorBlocks::kAttention, "attn_k", "model.layers.*.self_attn.k_proj"),
    rule_of(TensorBlocks::kAttention, "attn_v", "model.layers.*.self_attn.v_proj"),
    rule_of(TensorBlocks::kAttention, "attn_output", "model.layers.*.self_attn.out_proj"),
    rule_of(TensorBlocks::kAttention, "attn_q_norm", "model.layers.*.self_attn.q_layernorm"),
    rule_of(TensorBlocks::kAttention, "attn_k_norm", "model.layers.*.self_attn.k_layernorm"),
    rule_of(TensorBlocks::kMixer, "shortconv.in_proj", "model.layers.*.conv.in_proj"),
    rule_of(TensorBlocks::kMixer, "shortconv.conv", "model.layers.*.conv.conv", TensorForm::kConvolution),
    rule_of(TensorBlocks::kMixer, "shortconv.out_proj", "model.layers.*.conv.out_proj"),
    {"ffn_norm", "model.layers.*.ffn_norm"},
};

constexpr auto kLfm2Block = joined(kLfm2Mixing, {{"ffn_gate", "model.layers.*.feed_forward.w1"},
                                                 {"ffn_up", "model.layers.*.feed_forward.w3"},
                                                 {"ffn_down", "model.layers.*.feed_forward.w2"}});

void complete_lfm2(const GgufFile& file, Json& config) {
  const std::int64_t head_dim = head_dim_of(file, config);
  require_full_rotation(file, head_dim);
  if (head_dim * config.at("num_attention_heads").get<std::int64_t>() !=
      config.at("hidden_size").get<std::int64_t>()) {
    bad_input("{}: {}: found {}, expected heads that make up the hidden size", file.name(),
              key_of(file, "attention.key_length"), head_dim);
  }
  Json types = Json::array();
  for (const GgufBlock& block : gguf_blocks(file, false))
    types.push_back(block.attention ? "full_attention" : "conv");
  config["layer_types"] = std::move(types);
  config["rope_scaling"] = rope_scaling(file);
}

constexpr auto kLfm2MoeFields =
    joined(kLfm2Fields, {{"num_experts", "expert_count"},
                         {"num_experts_per_tok", "expert_used_count"},
                         {"moe_intermediate_size", "expert_feed_forward_length"}});

constexpr auto kLfm2MoeBlock =
    joined(kLfm2Mixing, {rule_of(TensorBlocks::kDense, "ffn_gate", "model.layers.*.feed_forward.w1"),
                         rule_of(TensorBlocks::kDense, "ffn_up", "model.layers.*.feed_forward.w3"),
                         rule_of(TensorBlocks::kDense, "ffn_down", "model.layers.*.feed_forward.w2"),
                         rule_of(TensorBlocks::kSparse, "ffn_gate_inp", "model.layers.*.feed_forward.gate"),
                         rule_of(TensorBlocks::kSparse, "exp_probs_b.bias",
                                 "model.layers.*.feed_forward.expert_bias", TensorForm::kWholeName),
                         rule_of(TensorBlocks::kSparse, "ffn_gate_exps",
                                 "model.layers.*.feed_forward.experts.#.w1", TensorForm::kGateExperts),
                         rule_of(TensorBlocks::kSparse, "ffn_up_exps",
                                 "model.layers.*.feed_forward.experts.#.w3", TensorForm::kUpExperts),
                         rule_of(TensorBlocks::kSparse, "ffn_down_exps",
                                 "model.layers.*.feed_forward.experts.#.w2", TensorForm::kDownExperts)});

// Its router is that of sigmoids, renormalised, with a correction bias.
void complete_lfm2_moe(const GgufFile& file, Json& config) {
  check_expert_counts(file);
  complete_lfm2(file, config);
  constexpr double kSigmoidGates = 2.0;
  const std::string key = key_of(file, "expert_gating_func");
  if (const double kind = file.number(key).value_or(kSigmoidGates); kind != kSigmoidGates) {
    bad_input("{}: {}: found {}, expected {} (sigmoid)", file.name(), key, kind, kSigmoidGates);
  }
  config["num_dense_layers"] = gguf_dense_blocks(file);
}

constexpr GgufArchitecture kHybridArchitectures[] = {
    {"lfm2", "lfm2", "Lfm2ForCausalLM",
     R"({"rope_theta": 10000.0, "conv_bias": false, "block_auto_adjust_ff_dim": false})", kLfm2Fields,
     kLfm2ModelTensors, kLfm2Block, complete_lfm2, "lfm2", false, "shortconv.l_cache"},
    {"lfm2moe", "lfm2_moe", "Lfm2MoeForCausalLM",
     R"({"rope_theta": 10000.0, "conv_bias": false, "norm_topk_prob": true, "use_expert_bias": true,
         "routed_scaling_factor": 1.0})",
     kLfm2MoeFields, kLfm2ModelTensors, kLfm2MoeBlock, complete_lfm2_moe, "lfm2", false,
     "shortconv.l_cache expert_count expert_used_count expert_feed_forward_length leading_dense_block_count "
     "expert_gating_func",
     true},
};

}  // namespace

std::span<const GgufArchitecture> gguf_hybrids() { return kHybridArchitectures; }

}  // namespace swiftprune
