// Architectures with Mamba-2: falcon-h1, granitehybrid (and what else llama.cpp makes of Granite's folders), nemotron_h.
#include "swiftprune/checkpoint/gguf_fields.h"

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

using namespace gguf_fields;

constexpr std::string_view kMambaKeys =
    "ssm.conv_kernel ssm.inner_size ssm.state_size ssm.time_step_rank ssm.group_count";

// What one head of a mixer has of its channels.
std::int64_t mamba_head_size(const GgufFile& file) {
  const std::string size_key = key_of(file, "ssm.inner_size"), heads_key = key_of(file, "ssm.time_step_rank");
  const std::int64_t size = file.integer(size_key).value_or(0), heads = file.integer(heads_key).value_or(0);
  if (heads < 1 || size < 1 || size % heads != 0) {
    bad_input("{}: {}: found {}, expected a multiple of {} ({})", file.name(), size_key, size, heads_key,
              heads);
  }
  return size / heads;
}

// ---- falcon-h1: the multipliers are in the weights

constexpr auto kFalconFields = joined(kLlamaFields, {{"mamba_d_ssm", "ssm.inner_size"},
                                                     {"mamba_n_heads", "ssm.time_step_rank"},
                                                     {"mamba_n_groups", "ssm.group_count"},
                                                     {"mamba_d_state", "ssm.state_size"},
                                                     {"mamba_d_conv", "ssm.conv_kernel"}});

constexpr TensorRule kFalconModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.final_layernorm"},
    {"output", "lm_head"},
};

constexpr TensorRule kFalconBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    {"attn_q", "model.layers.*.self_attn.q_proj"},
    {"attn_k", "model.layers.*.self_attn.k_proj"},
    {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"ssm_in", "model.layers.*.mamba.in_proj"},
    with_bias(
        rule_of(TensorBlocks::kAll, "ssm_conv1d", "model.layers.*.mamba.conv1d", TensorForm::kConvolution),
        "required"),
    rule_of(TensorBlocks::kAll, "ssm_dt.bias", "model.layers.*.mamba.dt_bias", TensorForm::kWholeName),
    decay_rule(rule_of(TensorBlocks::kAll, "ssm_a", "model.layers.*.mamba.A_log", TensorForm::kColumn)),
    rule_of(TensorBlocks::kAll, "ssm_d", "model.layers.*.mamba.D", TensorForm::kColumn),
    optional_rule(rule_of(TensorBlocks::kAll, "ssm_norm", "model.layers.*.mamba.norm", TensorForm::kGroups)),
    {"ssm_out", "model.layers.*.mamba.out_proj"},
    rule_of(TensorBlocks::kAll, "ffn_norm", "model.layers.*.pre_ff_layernorm.weight", TensorForm::kWholeName),
    {"ffn_gate", "model.layers.*.feed_forward.gate_proj", "mlp_bias"},
    {"ffn_up", "model.layers.*.feed_forward.up_proj", "mlp_bias"},
    {"ffn_down", "model.layers.*.feed_forward.down_proj", "mlp_bias"},
};

void complete_falcon_h1(const GgufFile& file, Json& config) {
  complete_qwen3(file, config);
  config["mamba_d_head"] = mamba_head_size(file);
  config["mamba_rms_norm"] = file.find("blk.0.ssm_norm.weight") != nullptr;
}

// ---- granitehybrid; granitemoe, and granite for Granite 4 without Mamba

constexpr ConfigField kGraniteExpertFields[] = {{"num_local_experts", "expert_count"},
                                                {"num_experts_per_tok", "expert_used_count"}};
constexpr auto kGraniteFields = granite_fields(Type::kInteger);
constexpr auto kGraniteMoeFields = joined(kGraniteFields, kGraniteExpertFields);
constexpr auto kGraniteHybridFields =
    joined(granite_fields(Type::kLargest), {{"mamba_n_heads", "ssm.time_step_rank"},
                                            {"mamba_n_groups", "ssm.group_count"},
                                            {"mamba_d_state", "ssm.state_size"},
                                            {"mamba_d_conv", "ssm.conv_kernel"}});
constexpr auto kGraniteHybridMoeFields = joined(kGraniteHybridFields, kGraniteExpertFields);

constexpr TensorRule kGraniteMixing[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    in_order(with_bias(rule_of(TensorBlocks::kAttention, "attn_q", "model.layers.*.self_attn.q_proj"),
                       "attention_bias"),
             RowOrder::kRotaryPairsOfQ),
    in_order(with_bias(rule_of(TensorBlocks::kAttention, "attn_k", "model.layers.*.self_attn.k_proj"),
                       "attention_bias"),
             RowOrder::kRotaryPairsOfK),
    with_bias(rule_of(TensorBlocks::kAttention, "attn_v", "model.layers.*.self_attn.v_proj"),
              "attention_bias"),
    with_bias(rule_of(TensorBlocks::kAttention, "attn_output", "model.layers.*.self_attn.o_proj"),
              "attention_bias"),
    rule_of(TensorBlocks::kMixer, "ssm_in", "model.layers.*.mamba.in_proj"),
    with_bias(
        rule_of(TensorBlocks::kMixer, "ssm_conv1d", "model.layers.*.mamba.conv1d", TensorForm::kConvolution),
        "required"),
    rule_of(TensorBlocks::kMixer, "ssm_dt.bias", "model.layers.*.mamba.dt_bias", TensorForm::kWholeName),
    decay_rule(rule_of(TensorBlocks::kMixer, "ssm_a", "model.layers.*.mamba.A_log", TensorForm::kColumn)),
    rule_of(TensorBlocks::kMixer, "ssm_d", "model.layers.*.mamba.D", TensorForm::kColumn),
    rule_of(TensorBlocks::kMixer, "ssm_norm", "model.layers.*.mamba.norm", TensorForm::kGroups),
    rule_of(TensorBlocks::kMixer, "ssm_out", "model.layers.*.mamba.out_proj"),
    {"ffn_norm", "model.layers.*.post_attention_layernorm"},
};

constexpr auto kGraniteBlock = joined(
    kGraniteMixing,
    {rule_of(TensorBlocks::kDense, "ffn_gate", "model.layers.*.shared_mlp.input_linear",
             TensorForm::kGateRows),
     rule_of(TensorBlocks::kDense, "ffn_up", "model.layers.*.shared_mlp.input_linear", TensorForm::kUpRows),
     rule_of(TensorBlocks::kDense, "ffn_down", "model.layers.*.shared_mlp.output_linear")});

constexpr auto kGraniteMoeBlock =
    joined(kGraniteMixing,
           {rule_of(TensorBlocks::kSparse, "ffn_gate_inp", "model.layers.*.block_sparse_moe.router.layer"),
            rule_of(TensorBlocks::kSparse, "ffn_gate_exps",
                    "model.layers.*.block_sparse_moe.input_linear.weight", TensorForm::kGateExperts),
            rule_of(TensorBlocks::kSparse, "ffn_up_exps",
                    "model.layers.*.block_sparse_moe.input_linear.weight", TensorForm::kUpExperts),
            rule_of(TensorBlocks::kSparse, "ffn_down_exps",
                    "model.layers.*.block_sparse_moe.output_linear.weight", TensorForm::kDownExperts),
            optional_rule(rule_of(TensorBlocks::kSparse, "ffn_gate_shexp",
                                  "model.layers.*.shared_mlp.input_linear", TensorForm::kGateRows)),
            optional_rule(rule_of(TensorBlocks::kSparse, "ffn_up_shexp",
                                  "model.layers.*.shared_mlp.input_linear", TensorForm::kUpRows)),
            optional_rule(rule_of(TensorBlocks::kSparse, "ffn_down_shexp",
                                  "model.layers.*.shared_mlp.output_linear"))});

constexpr std::string_view kSharedKey = "expert_shared_feed_forward_length";

void complete_granite_moe(const GgufFile& file, Json& config) {
  check_expert_counts(file);
  complete_granite(file, config);
  const std::int64_t shared = file.integer(key_of(file, kSharedKey)).value_or(0);
  if (shared == 0) return;
  config["model_type"] = "granitemoeshared";
  config["architectures"] = {"GraniteMoeSharedForCausalLM"};
  config["shared_intermediate_size"] = shared;
}

// Granite 4 without Mamba and without positions.
void complete_unrotated_granite(const GgufFile& file, Json& config) {
  complete_granite(file, config);
  config["shared_intermediate_size"] = config.at("intermediate_size");
  config["layer_types"] = std::vector<std::string>(config.at("num_hidden_layers"), "full_attention");
}

void complete_granite_hybrid(const GgufFile& file, Json& config) {
  complete_granite(file, config);
  const std::string size_key = key_of(file, "ssm.inner_size");
  const std::int64_t head_size = mamba_head_size(file), size = *file.integer(size_key),
                     hidden = config.at("hidden_size");
  if (size % hidden != 0) {
    bad_input("{}: {}: found {}, expected a multiple of embedding_length ({})", file.name(), size_key, size,
              hidden);
  }
  config["mamba_expand"] = size / hidden;
  config["mamba_d_head"] = head_size;
  const bool has_experts = file.integer(key_of(file, "expert_count")).value_or(0) != 0;
  if (has_experts) {
    check_expert_counts(file);
    config["shared_intermediate_size"] = file.integer(key_of(file, kSharedKey)).value_or(0);
  } else {
    config["num_local_experts"] = 0;
    config["shared_intermediate_size"] = config.at("intermediate_size");
  }
  const bool rotates = file.boolean(key_of(file, "rope.scaling.finetuned")).value_or(true);
  config["position_embedding_type"] = rotates ? Json("rope") : Json();
  Json types = Json::array();
  for (const GgufBlock& block : gguf_blocks(file, has_experts))
    types.push_back(block.attention ? "full_attention" : "linear_attention");
  config["layer_types"] = std::move(types);
}

// ---- nemotron_h, nemotron_h_moe: each block is a mixer, attention, an MLP or experts alone

constexpr ConfigField kNemotronHFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length", Type::kLargest},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv", Type::kLargest},
    {"max_position_embeddings", "context_length"},
    {"layer_norm_epsilon", "attention.layer_norm_rms_epsilon", Type::kPositive},
    {"mamba_num_heads", "ssm.time_step_rank"},
    {"n_groups", "ssm.group_count"},
    {"ssm_state_size", "ssm.state_size"},
    {"conv_kernel", "ssm.conv_kernel"},
};
constexpr auto kNemotronHMoeFields =
    joined(kNemotronHFields, {{"n_routed_experts", "expert_count"},
                              {"num_experts_per_tok", "expert_used_count"},
                              {"moe_intermediate_size", "expert_feed_forward_length"},
                              {"moe_shared_expert_intermediate_size", kSharedKey}});

constexpr TensorRule kNemotronHModelTensors[] = {
    {"token_embd", "backbone.embeddings"},
    {"output_norm", "backbone.norm_f"},
    {"output", "lm_head"},
};

constexpr TensorRule kNemotronHMixing[] = {
    {"attn_norm", "backbone.layers.*.norm"},
    rule_of(TensorBlocks::kAttention, "attn_q", "backbone.layers.*.mixer.q_proj"),
    rule_of(TensorBlocks::kAttention, "attn_k", "backbone.layers.*.mixer.k_proj"),
    rule_of(TensorBlocks::kAttention, "attn_v", "backbone.layers.*.mixer.v_proj"),
    rule_of(TensorBlocks::kAttention, "attn_output", "backbone.layers.*.mixer.o_proj"),
    rule_of(TensorBlocks::kMixer, "ssm_in", "backbone.layers.*.mixer.in_proj"),
    with_bias(rule_of(TensorBlocks::kMixer, "ssm_conv1d", "backbone.layers.*.mixer.conv1d",
                      TensorForm::kConvolution),
              "required"),
    rule_of(TensorBlocks::kMixer, "ssm_dt.bias", "backbone.layers.*.mixer.dt_bias", TensorForm::kWholeName),
    decay_rule(rule_of(TensorBlocks::kMixer, "ssm_a", "backbone.layers.*.mixer.A_log", TensorForm::kColumn)),
    rule_of(TensorBlocks::kMixer, "ssm_d", "backbone.layers.*.mixer.D", TensorForm::kColumn),
    rule_of(TensorBlocks::kMixer, "ssm_norm", "backbone.layers.*.mixer.norm", TensorForm::kGroups),
    rule_of(TensorBlocks::kMixer, "ssm_out", "backbone.layers.*.mixer.out_proj"),
};

constexpr auto kNemotronHBlock = joined(
    kNemotronHMixing,
    {with_bias(rule_of(TensorBlocks::kDense, "ffn_up", "backbone.layers.*.mixer.up_proj"), "mlp_bias"),
     with_bias(rule_of(TensorBlocks::kDense, "ffn_down", "backbone.layers.*.mixer.down_proj"), "mlp_bias")});

constexpr auto kNemotronHMoeBlock = joined(
    kNemotronHMixing,
    {rule_of(TensorBlocks::kSparse, "ffn_gate_inp", "backbone.layers.*.mixer.gate"),
     rule_of(TensorBlocks::kSparse, "exp_probs_b.bias",
             "backbone.layers.*.mixer.gate.e_score_correction_bias", TensorForm::kWholeName),
     rule_of(TensorBlocks::kSparse, "ffn_up_exps", "backbone.layers.*.mixer.experts.#.up_proj",
             TensorForm::kUpExperts),
     rule_of(TensorBlocks::kSparse, "ffn_down_exps", "backbone.layers.*.mixer.experts.#.down_proj",
             TensorForm::kDownExperts),
     rule_of(TensorBlocks::kSparse, "ffn_up_shexp", "backbone.layers.*.mixer.shared_experts.up_proj"),
     rule_of(TensorBlocks::kSparse, "ffn_down_shexp", "backbone.layers.*.mixer.shared_experts.down_proj")});

void complete_nemotron_h(const GgufFile& file, Json& config) {
  config["head_dim"] = head_dim_of(file, config);
  config["mamba_head_dim"] = mamba_head_size(file);
  const bool has_experts = file.integer(key_of(file, "expert_count")).value_or(0) != 0;
  const std::int64_t layers = config.at("num_hidden_layers").get<std::int64_t>() - gguf_extra_blocks(file);
  config["num_hidden_layers"] = layers;
  Json types = Json::array();
  const std::vector<GgufBlock> blocks = gguf_blocks(file, has_experts);
  for (std::int64_t i = 0; i < layers; ++i) {
    const GgufBlock& block = blocks[static_cast<std::size_t>(i)];
    types.push_back(block.attention ? "full_attention"
                    : block.mixer   ? "linear_attention"
                    : block.experts ? "moe"
                                    : "mlp");
  }
  config["layers_block_type"] = std::move(types);
}

void complete_nemotron_h_moe(const GgufFile& file, Json& config) {
  check_expert_counts(file);
  complete_nemotron_h(file, config);
  const std::string groups_key = key_of(file, "expert_group_count");
  const std::int64_t groups = file.integer(groups_key).value_or(1);
  if (groups > 1) bad_input("{}: {}: found {}, expected 1", file.name(), groups_key, groups);
  config["n_group"] = config["topk_group"] = 1;
  const double scale = file.number(key_of(file, "expert_weights_scale")).value_or(0.0);
  config["routed_scaling_factor"] = scale == 0.0 ? 1.0 : float_as_written(scale);
  config["norm_topk_prob"] = file.boolean(key_of(file, "expert_weights_norm")).value_or(false);
  config["n_shared_experts"] = file.integer(key_of(file, "expert_shared_count")).value_or(1);
}

constexpr std::string_view kNemotronConstants =
    R"({"mamba_hidden_act": "silu", "mlp_hidden_act": "relu2", "use_bias": false, "use_conv_bias": true,
        "attention_bias": false})";
constexpr std::string_view kGraniteConstants = R"({"hidden_act": "silu", "rope_theta": 10000.0})";
constexpr std::string_view kHybridConstants =
    R"({"hidden_act": "silu", "rope_theta": 10000.0, "mamba_conv_bias": true, "mamba_proj_bias": false})";

constexpr std::string_view kGraniteMoeKeys =
    "attention.scale embedding_scale residual_scale logit_scale expert_count expert_used_count "
    "expert_shared_feed_forward_length";
constexpr std::string_view kHybridKeys =
    "attention.scale embedding_scale residual_scale logit_scale ssm.conv_kernel ssm.inner_size "
    "ssm.state_size "
    "ssm.time_step_rank ssm.group_count";
constexpr std::string_view kHybridMoeKeys =
    "attention.scale embedding_scale residual_scale logit_scale ssm.conv_kernel ssm.inner_size "
    "ssm.state_size "
    "ssm.time_step_rank ssm.group_count expert_count expert_used_count expert_shared_feed_forward_length";
constexpr std::string_view kNemotronMoeKeys =
    "ssm.conv_kernel ssm.inner_size ssm.state_size ssm.time_step_rank ssm.group_count expert_count "
    "expert_used_count expert_feed_forward_length expert_shared_feed_forward_length expert_shared_count "
    "expert_group_count expert_weights_scale expert_weights_norm nextn_predict_layers";

constexpr GgufArchitecture kArchitectures[] = {
    {"falcon-h1", "falcon_h1", "FalconH1ForCausalLM",
     R"({"hidden_act": "silu", "rope_theta": 10000.0, "attention_bias": false, "projectors_bias": false,
         "mamba_conv_bias": true, "mamba_proj_bias": false, "mamba_norm_before_gate": false,
         "embedding_multiplier": 1.0, "lm_head_multiplier": 1.0, "key_multiplier": 1.0,
         "attention_in_multiplier": 1.0, "attention_out_multiplier": 1.0, "ssm_in_multiplier": 1.0,
         "ssm_out_multiplier": 1.0, "ssm_multipliers": [1.0, 1.0, 1.0, 1.0, 1.0],
         "mlp_multipliers": [1.0, 1.0]})",
     kFalconFields, kFalconModelTensors, kFalconBlock, complete_falcon_h1, "falcon-h1", false, kMambaKeys},
    {"granite", "granitemoehybrid", "GraniteMoeHybridForCausalLM",
     R"({"hidden_act": "silu", "rope_theta": 10000.0, "position_embedding_type": null, "num_local_experts": 0,
         "mamba_expand": 2, "mamba_n_heads": 2})",  // of no mixers, but transformers looks at their sizes
     kGraniteFields, kLlamaModelTensors, kGraniteBlock, complete_unrotated_granite, "dbrx", false,
     kGraniteKeys, false, false, "", true},
    {"granitemoe", "granitemoe", "GraniteMoeForCausalLM", kGraniteConstants, kGraniteMoeFields,
     kLlamaModelTensors, kGraniteMoeBlock, complete_granite_moe, "refact", false, kGraniteMoeKeys, true},
    {"granitehybrid", "granitemoehybrid", "GraniteMoeHybridForCausalLM", kHybridConstants,
     kGraniteHybridFields, kLlamaModelTensors, kGraniteBlock, complete_granite_hybrid, "dbrx", false,
     kHybridKeys},
    {"granitehybrid", "granitemoehybrid", "GraniteMoeHybridForCausalLM", kHybridConstants,
     kGraniteHybridMoeFields, kLlamaModelTensors, kGraniteMoeBlock, complete_granite_hybrid, "dbrx", false,
     kHybridMoeKeys, true},
    {"nemotron_h", "nemotron_h", "NemotronHForCausalLM", kNemotronConstants, kNemotronHFields,
     kNemotronHModelTensors, kNemotronHBlock, complete_nemotron_h, "llama-bpe", false, kMambaKeys},
    {"nemotron_h_moe", "nemotron_h", "NemotronHForCausalLM", kNemotronConstants, kNemotronHMoeFields,
     kNemotronHModelTensors, kNemotronHMoeBlock, complete_nemotron_h_moe, "llama-bpe", false,
     kNemotronMoeKeys, true},
};

}  // namespace

std::span<const GgufArchitecture> gguf_mamba() { return kArchitectures; }

}  // namespace swiftprune
