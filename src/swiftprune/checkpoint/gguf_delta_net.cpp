// Architectures with gated DeltaNet: qwen3next, qwen35, qwen35moe.
#include "swiftprune/checkpoint/gguf_fields.h"

#include "swiftprune/core/error.h"

namespace swiftprune {
namespace {

using namespace gguf_fields;

constexpr ConfigField kMixerFields[] = {{"linear_conv_kernel_dim", "ssm.conv_kernel"},
                                        {"linear_key_head_dim", "ssm.state_size"},
                                        {"linear_num_key_heads", "ssm.group_count"},
                                        {"linear_num_value_heads", "ssm.time_step_rank"},
                                        {"full_attention_interval", "full_attention_interval"}};
constexpr ConfigField kExpertFields[] = {
    {"num_experts", "expert_count"},
    {"num_experts_per_tok", "expert_used_count"},
    {"moe_intermediate_size", "expert_feed_forward_length"},
    {"shared_expert_intermediate_size", "expert_shared_feed_forward_length"}};
// A model all of whose MLPs are experts may have no number for others.
constexpr std::array<ConfigField, 8> decoder_fields(bool has_mlp) {
  return {{{"hidden_size", "embedding_length"},
           {"intermediate_size", "feed_forward_length", Type::kInteger, has_mlp},
           {"num_hidden_layers", "block_count"},
           {"num_attention_heads", "attention.head_count"},
           {"num_key_value_heads", "attention.head_count_kv", Type::kInteger, false},
           {"max_position_embeddings", "context_length"},
           {"rms_norm_eps", "attention.layer_norm_rms_epsilon", Type::kPositive},
           {"rope_theta", "rope.freq_base", Type::kPositive, false}}};
}
constexpr auto kDenseFields = joined(decoder_fields(true), kMixerFields);
constexpr auto kMoeFields = joined(joined(decoder_fields(false), kMixerFields), kExpertFields);

constexpr TensorRule kModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    stored_plus_one({"output_norm", "model.norm"}),
    {"output", "lm_head"},
};

constexpr TensorRule kAttention[] = {
    stored_plus_one({"attn_norm", "model.layers.*.input_layernorm"}),
    stored_plus_one({"post_attention_norm", "model.layers.*.post_attention_layernorm"}),
    rule_of(TensorBlocks::kAttention, "attn_q", "model.layers.*.self_attn.q_proj"),
    rule_of(TensorBlocks::kAttention, "attn_k", "model.layers.*.self_attn.k_proj"),
    rule_of(TensorBlocks::kAttention, "attn_v", "model.layers.*.self_attn.v_proj"),
    rule_of(TensorBlocks::kAttention, "attn_output", "model.layers.*.self_attn.o_proj"),
    stored_plus_one(rule_of(TensorBlocks::kAttention, "attn_q_norm", "model.layers.*.self_attn.q_norm")),
    stored_plus_one(rule_of(TensorBlocks::kAttention, "attn_k_norm", "model.layers.*.self_attn.k_norm")),
    rule_of(TensorBlocks::kMixer, "ssm_norm", "model.layers.*.linear_attn.norm"),
};

constexpr TensorRule in_columns(TensorRule rule, RowOrder order) {
  rule.columns = order;
  return rule;
}

constexpr auto kQwen35Mixing = joined(
    kAttention, {in_order(rule_of(TensorBlocks::kMixer, "attn_qkv", "model.layers.*.linear_attn.in_proj_qkv"),
                          RowOrder::kValuesBehindKeys),
                 in_order(rule_of(TensorBlocks::kMixer, "attn_gate", "model.layers.*.linear_attn.in_proj_z"),
                          RowOrder::kValueHeads),
                 in_order(rule_of(TensorBlocks::kMixer, "ssm_beta", "model.layers.*.linear_attn.in_proj_b"),
                          RowOrder::kOneAValueHead),
                 in_order(rule_of(TensorBlocks::kMixer, "ssm_alpha", "model.layers.*.linear_attn.in_proj_a"),
                          RowOrder::kOneAValueHead),
                 in_order(rule_of(TensorBlocks::kMixer, "ssm_conv1d", "model.layers.*.linear_attn.conv1d",
                                  TensorForm::kConvolution),
                          RowOrder::kValuesBehindKeys),
                 in_order(rule_of(TensorBlocks::kMixer, "ssm_dt.bias", "model.layers.*.linear_attn.dt_bias",
                                  TensorForm::kWholeName),
                          RowOrder::kOneAValueHead),
                 in_order(decay_rule(rule_of(TensorBlocks::kMixer, "ssm_a",
                                             "model.layers.*.linear_attn.A_log", TensorForm::kWholeName)),
                          RowOrder::kOneAValueHead),
                 in_columns(rule_of(TensorBlocks::kMixer, "ssm_out", "model.layers.*.linear_attn.out_proj"),
                            RowOrder::kValueHeads)});

constexpr auto kQwen35Block = joined(kQwen35Mixing, {{"ffn_gate", "model.layers.*.mlp.gate_proj"},
                                                     {"ffn_up", "model.layers.*.mlp.up_proj"},
                                                     {"ffn_down", "model.layers.*.mlp.down_proj"}});

constexpr TensorRule kExperts[] = {
    {"ffn_gate_inp", "model.layers.*.mlp.gate"},
    rule_of(TensorBlocks::kSparse, "ffn_gate_exps", "model.layers.*.mlp.experts.#.gate_proj",
            TensorForm::kGateExperts),
    rule_of(TensorBlocks::kSparse, "ffn_up_exps", "model.layers.*.mlp.experts.#.up_proj",
            TensorForm::kUpExperts),
    rule_of(TensorBlocks::kSparse, "ffn_down_exps", "model.layers.*.mlp.experts.#.down_proj",
            TensorForm::kDownExperts),
    {"ffn_gate_inp_shexp", "model.layers.*.mlp.shared_expert_gate", "none", RowOrder::kSame, 0.0f,
     TensorForm::kOneRow},
    {"ffn_gate_shexp", "model.layers.*.mlp.shared_expert.gate_proj"},
    {"ffn_up_shexp", "model.layers.*.mlp.shared_expert.up_proj"},
    {"ffn_down_shexp", "model.layers.*.mlp.shared_expert.down_proj"},
};

constexpr auto kQwen35MoeBlock = joined(kQwen35Mixing, kExperts);

constexpr auto kQwen3NextBlock =
    joined(joined(kAttention, kExperts),
           {rule_of(TensorBlocks::kMixer, "attn_qkv", "model.layers.*.linear_attn.in_proj_qkvz",
                    TensorForm::kGroupedQkv),
            rule_of(TensorBlocks::kMixer, "attn_gate", "model.layers.*.linear_attn.in_proj_qkvz",
                    TensorForm::kGroupedGate),
            rule_of(TensorBlocks::kMixer, "ssm_ba", "model.layers.*.linear_attn.in_proj_ba"),
            rule_of(TensorBlocks::kMixer, "ssm_conv1d", "model.layers.*.linear_attn.conv1d",
                    TensorForm::kConvolution),
            rule_of(TensorBlocks::kMixer, "ssm_dt.bias", "model.layers.*.linear_attn.dt_bias",
                    TensorForm::kWholeName),
            decay_rule(rule_of(TensorBlocks::kMixer, "ssm_a", "model.layers.*.linear_attn.A_log",
                               TensorForm::kWholeName)),
            rule_of(TensorBlocks::kMixer, "ssm_out", "model.layers.*.linear_attn.out_proj")});

void add_mixer_sizes(const GgufFile& file, Json& config) {
  const std::int64_t keys = config.at("linear_num_key_heads"), values = config.at("linear_num_value_heads"),
                     size = config.at("linear_key_head_dim");
  const std::string key = key_of(file, "ssm.inner_size"), rank_key = key_of(file, "ssm.time_step_rank");
  if (values % keys != 0) {
    bad_input("{}: {}: found {}, expected a multiple of ssm.group_count ({})", file.name(), rank_key, values,
              keys);
  }
  if (const std::int64_t inner = file.integer(key).value_or(0); inner != values * size) {
    bad_input("{}: {}: found {}, expected ssm.time_step_rank times ssm.state_size ({})", file.name(), key,
              inner, values * size);
  }
  config["linear_value_head_dim"] = size;
}

void complete_next(const GgufFile& file, Json& config) {
  complete_glm4(file, config);
  add_mixer_sizes(file, config);
  const std::int64_t layers = config.at("num_hidden_layers").get<std::int64_t>() - gguf_extra_blocks(file);
  config["num_hidden_layers"] = layers;
  Json types = Json::array();
  const std::vector<GgufBlock> blocks = gguf_blocks(file, false);
  for (std::int64_t i = 0; i < layers; ++i) {
    types.push_back(blocks[static_cast<std::size_t>(i)].attention ? "full_attention" : "linear_attention");
  }
  config["layer_types"] = std::move(types);
}

// Sections of the rotary embedding, which differ with images alone, have a place in rope_parameters.
void complete_qwen35(const GgufFile& file, Json& config) {
  complete_next(file, config);
  Json rope =
      config.at("rope_scaling").is_null() ? Json{{"rope_type", "default"}} : config.at("rope_scaling");
  rope["rope_theta"] = config.at("rope_theta");
  rope["partial_rotary_factor"] = config.at("partial_rotary_factor");
  const std::string key = key_of(file, "rope.dimension_sections");
  if (file.has(key)) {
    std::vector<std::int64_t> sections = *file.integers(key);
    sections.resize(std::min<std::size_t>(sections.size(), 3));  // the fourth is none of transformers'
    rope["mrope_section"] = sections;
    rope["mrope_interleaved"] = true;
  }
  for (const char* name : {"rope_scaling", "rope_theta", "partial_rotary_factor"}) config.erase(name);
  config["rope_parameters"] = std::move(rope);
}

void complete_qwen35_moe(const GgufFile& file, Json& config) {
  check_expert_counts(file);
  complete_qwen35(file, config);
}
void complete_qwen3_next(const GgufFile& file, Json& config) {
  check_expert_counts(file);
  complete_next(file, config);
}

constexpr std::string_view kDenseKeys =
    "ssm.conv_kernel ssm.inner_size ssm.state_size ssm.time_step_rank ssm.group_count "
    "full_attention_interval "
    "rope.dimension_sections nextn_predict_layers";
constexpr std::string_view kMoeKeys =
    "ssm.conv_kernel ssm.inner_size ssm.state_size ssm.time_step_rank ssm.group_count "
    "full_attention_interval "
    "rope.dimension_sections nextn_predict_layers expert_count expert_used_count expert_feed_forward_length "
    "expert_shared_feed_forward_length";

constexpr GgufArchitecture kArchitectures[] = {
    {"qwen35", "qwen3_5_text", "Qwen3_5ForCausalLM",
     R"({"hidden_act": "silu", "rope_theta": 10000.0, "attention_bias": false})", kDenseFields, kModelTensors,
     kQwen35Block, complete_qwen35, "qwen35", false, kDenseKeys},
    {"qwen35moe", "qwen3_5_moe_text", "Qwen3_5MoeForCausalLM",
     R"({"hidden_act": "silu", "rope_theta": 10000.0, "attention_bias": false})", kMoeFields, kModelTensors,
     kQwen35MoeBlock, complete_qwen35_moe, "qwen35", false, kMoeKeys, true},
    {"qwen3next", "qwen3_next", "Qwen3NextForCausalLM",
     R"({"hidden_act": "silu", "rope_theta": 10000.0, "attention_bias": false, "norm_topk_prob": true,
         "decoder_sparse_step": 1, "mlp_only_layers": []})",
     kMoeFields, kModelTensors, kQwen3NextBlock, complete_qwen3_next, "qwen2", false, kMoeKeys, true},
};

}  // namespace

std::span<const GgufArchitecture> gguf_delta_net() { return kArchitectures; }

}  // namespace swiftprune
