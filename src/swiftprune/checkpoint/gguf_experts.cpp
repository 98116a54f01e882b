// Architectures with experts (GgufArchitecture).
#include "swiftprune/checkpoint/gguf_fields.h"

#include <cmath>

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

using namespace gguf_fields;

constexpr TensorRule experts_of_block(TensorForm form, std::string_view gguf, std::string_view name,
                                      std::string_view bias = "none") {
  return {gguf, name, bias, RowOrder::kSame, 0.0f, form, TensorBlocks::kSparse};
}
constexpr TensorRule latent_part(TensorForm form, std::string_view gguf) {
  return {gguf, "model.layers.*.self_attn.kv_b_proj", "none", RowOrder::kSame, 0.0f, form, TensorBlocks::kAll,
          true};
}
constexpr TensorRule optional_tensor(std::string_view gguf, std::string_view name) {
  return {gguf, name, "none", RowOrder::kSame, 0.0f, TensorForm::kPlain, TensorBlocks::kAll, true};
}
constexpr TensorRule whole_name(TensorBlocks blocks, std::string_view gguf, std::string_view name,
                                bool optional = false) {
  return {gguf, name, "none", RowOrder::kSame, 0.0f, TensorForm::kWholeName, blocks, optional};
}

// Groups of experts, and how many of them a token may use.
void add_groups(const GgufFile& file, Json& config) {
  const std::string key = key_of(file, "expert_group_count"), used = key_of(file, "expert_group_used_count");
  const std::int64_t groups = std::max<std::int64_t>(1, file.integer(key).value_or(1));
  const std::int64_t top = std::max<std::int64_t>(1, file.integer(used).value_or(1));
  const std::int64_t count = *file.integer(key_of(file, "expert_count"));
  if (count % groups != 0) {
    bad_input("{}: {}: found {}, expected a divisor of expert_count ({})", file.name(), key, groups, count);
  }
  if (top > groups) {
    bad_input("{}: {}: found {}, expected at most {} ({})", file.name(), used, top, key, groups);
  }
  config["n_group"] = groups;
  config["topk_group"] = top;
}

// What DeepSeek's and GLM's routers have beside their numbers of experts.
void add_router(const GgufFile& file, Json& config) {
  check_expert_counts(file);
  add_groups(file, config);
  const double scale = file.number(key_of(file, "expert_weights_scale")).value_or(0.0);
  config["routed_scaling_factor"] = scale == 0.0 ? 1.0 : float_as_written(scale);
  config["norm_topk_prob"] = file.boolean(key_of(file, "expert_weights_norm")).value_or(false);
  const std::int64_t dense = gguf_dense_blocks(file);
  const std::int64_t blocks = config.at("num_hidden_layers").get<std::int64_t>() - gguf_extra_blocks(file);
  if (dense >= blocks) {
    bad_input("{}: {}: found {}, expected fewer than the {} blocks", file.name(),
              key_of(file, "leading_dense_block_count"), dense, blocks);
  }
  config["num_hidden_layers"] = blocks;
  config["first_k_dense_replace"] = dense;
  config["n_shared_experts"] = file.integer(key_of(file, "expert_shared_count")).value_or(0);
}

constexpr double kSoftmax = 1.0, kSigmoid = 2.0;  // expert_gating_func

// ---- llama with experts: Mixtral

constexpr auto kMixtralFields = joined(
    kLlamaFields, {{"num_local_experts", "expert_count"}, {"num_experts_per_tok", "expert_used_count"}});

constexpr TensorRule kMixtralBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "none", RowOrder::kRotaryPairsOfQ},
    {"attn_k", "model.layers.*.self_attn.k_proj", "none", RowOrder::kRotaryPairsOfK},
    {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm"},
    {"ffn_gate_inp", "model.layers.*.block_sparse_moe.gate"},
    experts_of_block(TensorForm::kGateExperts, "ffn_gate_exps",
                     "model.layers.*.block_sparse_moe.experts.#.w1"),
    experts_of_block(TensorForm::kUpExperts, "ffn_up_exps", "model.layers.*.block_sparse_moe.experts.#.w3"),
    experts_of_block(TensorForm::kDownExperts, "ffn_down_exps",
                     "model.layers.*.block_sparse_moe.experts.#.w2"),
    {"attn_rot_embd", ""},
};

void complete_mixtral(const GgufFile& file, Json& config) {
  check_expert_counts(file);
  complete_llama(file, config);
  config["sliding_window"] = nullptr;
}

// ---- qwen2moe, qwen3moe, olmoe

constexpr auto kQwenMoeFields =
    joined(kLlamaFields,
           {{"num_experts", "expert_count"},
            {"num_experts_per_tok", "expert_used_count"},
            {"moe_intermediate_size", "expert_feed_forward_length"},
            {"shared_expert_intermediate_size", "expert_shared_feed_forward_length", Type::kInteger, false}});

constexpr TensorRule kGateOfExperts =
    experts_of_block(TensorForm::kGateExperts, "ffn_gate_exps", "model.layers.*.mlp.experts.#.gate_proj");
constexpr TensorRule kUpOfExperts =
    experts_of_block(TensorForm::kUpExperts, "ffn_up_exps", "model.layers.*.mlp.experts.#.up_proj");
constexpr TensorRule kDownOfExperts =
    experts_of_block(TensorForm::kDownExperts, "ffn_down_exps", "model.layers.*.mlp.experts.#.down_proj");

constexpr TensorRule kQwen2MoeBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "qkv_bias"},
    {"attn_k", "model.layers.*.self_attn.k_proj", "qkv_bias"},
    {"attn_v", "model.layers.*.self_attn.v_proj", "qkv_bias"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm"},
    {"ffn_gate_inp", "model.layers.*.mlp.gate"},
    kGateOfExperts,
    kUpOfExperts,
    kDownOfExperts,
    {"ffn_gate_inp_shexp", "model.layers.*.mlp.shared_expert_gate", "none", RowOrder::kSame, 0.0f,
     TensorForm::kOneRow},
    {"ffn_gate_shexp", "model.layers.*.mlp.shared_expert.gate_proj"},
    {"ffn_up_shexp", "model.layers.*.mlp.shared_expert.up_proj"},
    {"ffn_down_shexp", "model.layers.*.mlp.shared_expert.down_proj"},
};

constexpr TensorRule kQwen3MoeBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    {"attn_q", "model.layers.*.self_attn.q_proj"},
    {"attn_k", "model.layers.*.self_attn.k_proj"},
    {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"attn_q_norm", "model.layers.*.self_attn.q_norm"},
    {"attn_k_norm", "model.layers.*.self_attn.k_norm"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm"},
    {"ffn_gate_inp", "model.layers.*.mlp.gate"},
    kGateOfExperts,
    kUpOfExperts,
    kDownOfExperts,
};

void complete_qwen2_moe(const GgufFile& file, Json& config) {
  check_expert_counts(file);
  complete_qwen2(file, config);
  if (!config.contains("shared_expert_intermediate_size")) {
    config["shared_expert_intermediate_size"] = config.at("intermediate_size");  // as llama.cpp takes it
  }
}

void complete_qwen3_moe(const GgufFile& file, Json& config) {
  check_expert_counts(file);
  complete_qwen3(file, config);
}

constexpr auto kOlmoeFields =
    joined(kLlamaFields, {{"num_experts", "expert_count"}, {"num_experts_per_tok", "expert_used_count"}});

void complete_olmoe(const GgufFile& file, Json& config) {
  check_expert_counts(file);
  complete_qwen2(file, config);
}

// ---- gpt-oss

constexpr ConfigField kGptOssFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "expert_feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv"},
    {"max_position_embeddings", "context_length"},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", Type::kPositive},
    {"rope_theta", "rope.freq_base", Type::kPositive},
    {"sliding_window", "attention.sliding_window"},
    {"num_local_experts", "expert_count"},
    {"num_experts_per_tok", "expert_used_count"},
};

constexpr TensorRule kGptOssBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "required"},
    {"attn_k", "model.layers.*.self_attn.k_proj", "required"},
    {"attn_v", "model.layers.*.self_attn.v_proj", "required"},
    {"attn_output", "model.layers.*.self_attn.o_proj", "required"},
    whole_name(TensorBlocks::kAll, "attn_sinks.weight", "model.layers.*.self_attn.sinks"),
    {"post_attention_norm", "model.layers.*.post_attention_layernorm"},
    {"ffn_gate_inp", "model.layers.*.mlp.router", "required"},
    experts_of_block(TensorForm::kGateExperts, "ffn_gate_exps", "model.layers.*.mlp.experts.gate_up_proj",
                     "required"),
    experts_of_block(TensorForm::kUpExperts, "ffn_up_exps", "model.layers.*.mlp.experts.gate_up_proj",
                     "required"),
    experts_of_block(TensorForm::kDownExperts, "ffn_down_exps", "model.layers.*.mlp.experts.down_proj",
                     "required"),
};

void complete_gpt_oss(const GgufFile& file, Json& config) {
  check_expert_counts(file);
  const std::int64_t head_dim = head_dim_of(file, config);
  require_full_rotation(file, head_dim);
  config["head_dim"] = head_dim;
  config["layer_types"] = layer_types_of(file, config.at("num_hidden_layers"), 2);
  if (Json scaling = rope_scaling(file); !scaling.is_null()) {
    scaling["truncate"] = false;  // as OpenAI's models have it; files do not say
    config["rope_scaling"] = std::move(scaling);
  } else {
    config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", config.at("rope_theta")}};
  }
}

// ---- glm4moe

constexpr auto kGlm4MoeFields =
    joined(kLlamaFields, {{"n_routed_experts", "expert_count"},
                          {"num_experts_per_tok", "expert_used_count"},
                          {"moe_intermediate_size", "expert_feed_forward_length"}});

constexpr TensorRule kGlm4MoeBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "attention_bias"},
    {"attn_k", "model.layers.*.self_attn.k_proj", "attention_bias"},
    {"attn_v", "model.layers.*.self_attn.v_proj", "attention_bias"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    optional_tensor("attn_q_norm", "model.layers.*.self_attn.q_norm"),
    optional_tensor("attn_k_norm", "model.layers.*.self_attn.k_norm"),
    {"post_attention_norm", "model.layers.*.post_attention_layernorm"},
    rule_of(TensorBlocks::kDense, "ffn_gate", "model.layers.*.mlp.gate_proj"),
    rule_of(TensorBlocks::kDense, "ffn_up", "model.layers.*.mlp.up_proj"),
    rule_of(TensorBlocks::kDense, "ffn_down", "model.layers.*.mlp.down_proj"),
    rule_of(TensorBlocks::kSparse, "ffn_gate_inp", "model.layers.*.mlp.gate"),
    whole_name(TensorBlocks::kSparse, "exp_probs_b.bias", "model.layers.*.mlp.gate.e_score_correction_bias"),
    kGateOfExperts,
    kUpOfExperts,
    kDownOfExperts,
    rule_of(TensorBlocks::kSparse, "ffn_gate_shexp", "model.layers.*.mlp.shared_experts.gate_proj"),
    rule_of(TensorBlocks::kSparse, "ffn_up_shexp", "model.layers.*.mlp.shared_experts.up_proj"),
    rule_of(TensorBlocks::kSparse, "ffn_down_shexp", "model.layers.*.mlp.shared_experts.down_proj"),
};

void complete_glm4_moe(const GgufFile& file, Json& config) {
  complete_glm4(file, config);
  add_router(file, config);
  config["use_qk_norm"] = file.find("blk.0.attn_q_norm.weight") != nullptr;
  const std::string key = key_of(file, "expert_gating_func");
  if (const double kind = file.number(key).value_or(kSigmoid); kind != kSigmoid && kind != 0.0) {
    bad_input("{}: {}: found {}, expected {} (sigmoid)", file.name(), key, kind, kSigmoid);
  }
}

// ---- deepseek2: DeepSeek-V2 and -V3 with latent attention

constexpr ConfigField kDeepseekFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"max_position_embeddings", "context_length"},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", Type::kPositive},
    {"rope_theta", "rope.freq_base", Type::kPositive, false},
    {"kv_lora_rank", "attention.kv_lora_rank"},
    {"qk_rope_head_dim", "rope.dimension_count"},
    {"n_routed_experts", "expert_count"},
    {"num_experts_per_tok", "expert_used_count"},
    {"moe_intermediate_size", "expert_feed_forward_length"},
};

constexpr TensorRule kDeepseekBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    optional_tensor("attn_q", "model.layers.*.self_attn.q_proj"),
    optional_tensor("attn_q_a", "model.layers.*.self_attn.q_a_proj"),
    optional_tensor("attn_q_a_norm", "model.layers.*.self_attn.q_a_layernorm"),
    optional_tensor("attn_q_b", "model.layers.*.self_attn.q_b_proj"),
    {"attn_kv_a_mqa", "model.layers.*.self_attn.kv_a_proj_with_mqa"},
    {"attn_kv_a_norm", "model.layers.*.self_attn.kv_a_layernorm"},
    latent_part(TensorForm::kLatentKeys, "attn_k_b"),
    latent_part(TensorForm::kLatentValues, "attn_v_b"),
    optional_tensor("attn_kv_b", "model.layers.*.self_attn.kv_b_proj"),  // files from before May 2025
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm"},
    rule_of(TensorBlocks::kDense, "ffn_gate", "model.layers.*.mlp.gate_proj"),
    rule_of(TensorBlocks::kDense, "ffn_up", "model.layers.*.mlp.up_proj"),
    rule_of(TensorBlocks::kDense, "ffn_down", "model.layers.*.mlp.down_proj"),
    rule_of(TensorBlocks::kSparse, "ffn_gate_inp", "model.layers.*.mlp.gate"),
    whole_name(TensorBlocks::kSparse, "exp_probs_b.bias", "model.layers.*.mlp.gate.e_score_correction_bias",
               true),
    kGateOfExperts,
    kUpOfExperts,
    kDownOfExperts,
    rule_of(TensorBlocks::kSparse, "ffn_gate_shexp", "model.layers.*.mlp.shared_experts.gate_proj"),
    rule_of(TensorBlocks::kSparse, "ffn_up_shexp", "model.layers.*.mlp.shared_experts.up_proj"),
    rule_of(TensorBlocks::kSparse, "ffn_down_shexp", "model.layers.*.mlp.shared_experts.down_proj"),
};

void require_tensor(const GgufFile& file, const std::string& name, std::string_view because) {
  if (file.find(name) == nullptr) bad_input("{}: tensor {} is missing: {}", file.name(), name, because);
}

// Head sizes stand in keys of their own; key_length and value_length are those of the one compressed head, but in
// files from before May 2025.
void add_latent_sizes(const GgufFile& file, Json& config) {
  const bool compressed = file.has(key_of(file, "attention.key_length_mla"));
  const char* suffix = compressed ? "_mla" : "";
  const auto size = [&](std::string_view name) {
    const std::string key = key_of(file, fmt::format("attention.{}{}", name, suffix));
    const auto found = file.integer(key);
    if (!found || *found < 1) bad_input("{}: {} is missing", file.name(), key);
    return std::pair(key, *found);
  };
  const auto [key, keys] = size("key_length");
  const std::int64_t rotated = config.at("qk_rope_head_dim");
  if (keys <= rotated) {
    bad_input("{}: {}: found {}, expected more than rope.dimension_count ({})", file.name(), key, keys,
              rotated);
  }
  config["qk_nope_head_dim"] = keys - rotated;
  config["v_head_dim"] = size("value_length").second;
  require_tensor(
      file, compressed ? "blk.0.attn_k_b.weight" : "blk.0.attn_kv_b.weight",
      compressed ? "the file has attention.key_length_mla" : "the file has no attention.key_length_mla");
  const std::int64_t rank = file.integer(key_of(file, "attention.q_lora_rank")).value_or(0);
  config["q_lora_rank"] = rank > 0 ? Json(rank) : Json();
  require_tensor(file, rank > 0 ? "blk.0.attn_q_a.weight" : "blk.0.attn_q.weight",
                 fmt::format("attention.q_lora_rank is {}", rank));
}

void add_deepseek_rope(const GgufFile& file, Json& config) {
  Json scaling = rope_scaling(file);
  const std::string key = key_of(file, "rope.scaling.yarn_log_multiplier");
  if (scaling.is_object() && scaling.at("rope_type") == "yarn") {
    // A tenth of mscale_all_dim; llama.cpp takes mscale to be the same.
    const double multiplier = file.number(key).value_or(0.0);
    if (multiplier == 0.0 || scaling.contains("attention_factor")) {
      bad_input("{}: {}: found {}, expected it beside the rope scaling yarn, and no attn_factor", file.name(),
                key, multiplier);
    }
    scaling["mscale"] = scaling["mscale_all_dim"] =
        float_as_written(double{static_cast<float>(multiplier) / 0.1f});
  }
  config["rope_scaling"] = std::move(scaling);
}

void complete_deepseek(const GgufFile& file, Json& config) {
  config["num_key_value_heads"] = config.at("num_attention_heads");
  add_latent_sizes(file, config);
  add_deepseek_rope(file, config);
  add_router(file, config);
  const std::string key = key_of(file, "expert_gating_func");
  const double kind = file.number(key).value_or(kSoftmax);
  const std::string correction = fmt::format("blk.{}.exp_probs_b.bias", gguf_dense_blocks(file));
  if (kind == kSigmoid) {
    require_tensor(file, correction, "expert_gating_func is 2 (sigmoid)");
    config["scoring_func"] = "sigmoid";
    config["topk_method"] = "noaux_tc";
    return;
  }
  if (kind != kSoftmax && kind != 0.0) {
    bad_input("{}: {}: found {}, expected {} (softmax) or {} (sigmoid)", file.name(), key, kind, kSoftmax,
              kSigmoid);
  }
  if (file.find(correction) != nullptr) {
    bad_input("{}: tensor {}: was not expected: expert_gating_func is 1 (softmax)", file.name(), correction);
  }
  if (config.at("norm_topk_prob") == true) {
    bad_input("{}: {}: found true, expected false with a softmax: transformers computes no such model",
              file.name(), key_of(file, "expert_weights_norm"));
  }
  config["model_type"] = "deepseek_v2";
  config["architectures"] = {"DeepseekV2ForCausalLM"};
  config["topk_method"] = config.at("n_group") == 1 ? "greedy" : "group_limited_greedy";
}

constexpr GgufArchitecture kExpertArchitectures[] = {
    {"llama", "mixtral", "MixtralForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kMixtralFields, kLlamaModelTensors, kMixtralBlock, complete_mixtral, "llama-bpe", false,
     "expert_count expert_used_count", true},
    {"qwen2moe", "qwen2_moe", "Qwen2MoeForCausalLM",
     R"({"hidden_act": "silu", "rope_theta": 10000.0, "use_sliding_window": false, "norm_topk_prob": false,
         "decoder_sparse_step": 1, "mlp_only_layers": []})",
     kQwenMoeFields, kLlamaModelTensors, kQwen2MoeBlock, complete_qwen2_moe, "qwen2", false,
     "expert_count expert_used_count expert_feed_forward_length expert_shared_feed_forward_length", true},
    {"qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM",
     R"({"hidden_act": "silu", "rope_theta": 10000.0, "use_sliding_window": false, "norm_topk_prob": true,
         "attention_bias": false, "decoder_sparse_step": 1, "mlp_only_layers": []})",
     kQwenMoeFields, kLlamaModelTensors, kQwen3MoeBlock, complete_qwen3_moe, "qwen2", false,
     "expert_count expert_used_count expert_feed_forward_length", true},
    {"olmoe", "olmoe", "OlmoeForCausalLM",
     R"({"hidden_act": "silu", "rope_theta": 10000.0, "norm_topk_prob": false, "attention_bias": false,
         "clip_qkv": null})",
     kOlmoeFields, kLlamaModelTensors, kQwen3MoeBlock, complete_olmoe, "olmo", false,
     "expert_count expert_used_count", true},
    {"gpt-oss", "gpt_oss", "GptOssForCausalLM",
     R"({"hidden_act": "silu", "attention_bias": true, "swiglu_limit": 7.0})", kGptOssFields,
     kLlamaModelTensors, kGptOssBlock, complete_gpt_oss, "gpt-4o", false,
     "expert_count expert_used_count expert_feed_forward_length attention.sliding_window "
     "attention.sliding_window_pattern",
     true, true},
    {"glm4moe", "glm4_moe", "Glm4MoeForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kGlm4MoeFields, kLlamaModelTensors, kGlm4MoeBlock, complete_glm4_moe, "glm4", false,
     "expert_count expert_used_count expert_feed_forward_length expert_shared_count expert_group_count "
     "expert_group_used_count expert_weights_scale expert_weights_norm expert_gating_func "
     "leading_dense_block_count nextn_predict_layers",
     true},
    {"deepseek2", "deepseek_v3", "DeepseekV3ForCausalLM",
     R"({"hidden_act": "silu", "rope_theta": 10000.0, "attention_bias": false})", kDeepseekFields,
     kLlamaModelTensors, kDeepseekBlock, complete_deepseek, "deepseek-v3", false,
     "expert_count expert_used_count expert_feed_forward_length expert_shared_count expert_group_count "
     "expert_group_used_count expert_weights_scale expert_weights_norm expert_gating_func "
     "leading_dense_block_count nextn_predict_layers attention.q_lora_rank attention.kv_lora_rank "
     "attention.value_length attention.key_length_mla attention.value_length_mla "
     "rope.scaling.yarn_log_multiplier",
     true},
};

}  // namespace

namespace gguf_fields {

void check_expert_counts(const GgufFile& file) {
  const std::string count_key = key_of(file, "expert_count"), used_key = key_of(file, "expert_used_count");
  constexpr std::int64_t kMost = 65536;
  const std::int64_t count = file.integer(count_key).value_or(0), used = file.integer(used_key).value_or(0);
  if (count < 1 || count > kMost) {
    bad_input("{}: {}: found {}, expected 1 to {}", file.name(), count_key, count, kMost);
  }
  if (used < 1 || used > count) {
    bad_input("{}: {}: found {}, expected 1 to {} ({})", file.name(), used_key, used, count_key, count);
  }
}

}  // namespace gguf_fields

std::span<const GgufArchitecture> gguf_with_experts() { return kExpertArchitectures; }

}  // namespace swiftprune
