#include "swiftprune/model/config_fields.h"

#include <algorithm>
#include <array>

#include <fmt/ranges.h>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/layer_sizes.h"

namespace swiftprune {
namespace {

// Read by every family (family_config.h and model_config()).
constexpr std::string_view kReadByAll =
    "model_type vocab_size hidden_size num_hidden_layers num_attention_heads max_position_embeddings "
    "tie_word_embeddings layer_types quantization_config auto_map";

// Of training, generation, tokens, files and versions: nothing that a forward computes.
constexpr std::string_view kHarmless =
    "architectures torch_dtype dtype transformers_version _name_or_path name_or_path _commit_hash "
    "bos_token_id eos_token_id pad_token_id sep_token_id unk_token_id cls_token_id mask_token_id "
    "decoder_start_token_id forced_bos_token_id forced_eos_token_id tokenizer_class prefix "
    "use_cache cache_implementation initializer_range initializer_factor init_std "
    "id2label label2id num_labels problem_type finetuning_task task_specific_params classifier_dropout "
    "return_dict output_attentions output_hidden_states output_scores return_dict_in_generate torchscript "
    "use_bfloat16 "
    "tf_legacy_loss gradient_checkpointing is_decoder tie_encoder_decoder cross_attention_hidden_size "
    "chunk_size_feed_forward "
    "max_length min_length max_new_tokens do_sample early_stopping num_beams num_beam_groups "
    "diversity_penalty "
    "temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size "
    "encoder_no_repeat_ngram_size bad_words_ids num_return_sequences remove_invalid_values "
    "exponential_decay_length_penalty "
    "suppress_tokens begin_suppress_tokens generation_config "
    "attention_dropout attn_pdrop embd_pdrop resid_pdrop dropout hidden_dropout hidden_dropout_prob "
    "attention_probs_dropout_prob activation_dropout embd_dropout layerdrop summary_type "
    "attn_implementation _attn_implementation _attn_implementation_internal _attn_implementation_autoset "
    "_flash_attn_2_enabled pretraining_tp model_max_length seq_length "
    "unsloth_version unsloth_fixed router_aux_loss_coef output_router_logits vision_config text_config "
    "router_jitter_noise seq_aux aux_loss_alpha num_nextn_predict_layers num_mtp_layers "
    // Other names for what is read elsewhere in the same file.
    "experts_per_token initial_context_length qk_head_dim "
    "image_token_index image_token_id boi_token_index eoi_token_index mm_tokens_per_image "
    "video_token_id video_token_index vision_start_token_id vision_end_token_id vision_token_id audio_config "
    "transformers.js_config base_model_tp_plan rope_theta hidden_act "
    "resid_dropout residual_dropout embedding_dropout emb_pdrop "
    // In which precision, and with which fused kernels, something was computed.
    "reorder_and_upcast_attn attention_softmax_in_fp32 masked_softmax_fusion bias_dropout_fusion "
    "skip_bias_add "
    "skip_bias_add_qkv slow_but_exact offset_alibi mamba_ssm_dtype init_device mamba_ssm_cache_dtype "
    "use_mamba_kernels "
    "chunk_size residual_in_fp32 "
    // Of heads for other tasks, and of training.
    "summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout embedding_fraction "
    "mamba_dt_max mamba_dt_limit mamba_dt_init_floor mtp_num_hidden_layers mtp_use_dedicated_embeddings "
    "conv_use_xavier_init block_use_xavier_init "
    "block_mlp_init_scale block_out_init_scale rescale_prenorm_residual time_step_max time_step_floor "
    // What transformers writes and does not read, or reads under another name.
    "num_logits_to_keep expand n_ctx learned_pos_emb block_dim block_norm_eps conv_dim conv_dim_out "
    "num_heads "
    // Of layers of other kinds, which layer_types and num_local_experts would name.
    "mamba_n_heads mamba_n_groups mamba_d_state mamba_d_head mamba_d_conv mamba_expand mamba_chunk_size "
    "mamba_conv_bias mamba_proj_bias time_step_limit num_experts_per_tok n_group topk_group norm_topk_prob "
    "routed_scaling_factor n_shared_experts moe_shared_expert_intermediate_size moe_latent_size "
    "moe_shared_expert_overlap mtp_layers_block_type mtp_hybrid_override_pattern "
    // Where a family does not read them, the shapes of its tensors say what it has.
    "num_key_value_heads intermediate_size";

constexpr std::string_view kFalse = "false", kZero = "0 false []", kOne = "1 1.0", kNone = "";
constexpr NeutralField kNeutral[] = {
    // Attention: where, how wide, with what around it.
    {"sliding_window", kZero},
    {"use_sliding_window", kFalse},
    {"attention_window", kZero},
    {"attention_window_size", kZero},
    {"window_size", kZero},
    {"local_attention_window", kZero},
    {"sliding_window_pattern", kZero},
    {"_sliding_window_pattern", kZero},
    {"attention_chunk_size", kZero},
    {"attn_layer_period", kZero},
    {"attention_bias", kFalse},
    {"qkv_bias", kFalse},
    {"use_qkv_bias", kFalse},
    {"attention_out_bias", kFalse},
    {"o_bias", kFalse},
    {"clip_qkv", kNone},
    {"qk_norm", kFalse},
    {"use_qk_norm", kFalse},
    {"qk_layernorm", kFalse},
    {"attention_sinks", kFalse},
    {"use_attention_sinks", kFalse},
    {"attention_multiplier", kNone},
    {"attention_scale", kNone},
    {"query_pre_attn_scalar", kNone},
    {"attn_logit_softcapping", kZero},
    {"attn_temperature_tuning", "false 0"},
    {"use_bidirectional_attention", kFalse},
    {"is_causal", "true"},
    {"head_dim", kNone},
    {"kv_lora_rank", kNone},
    {"q_lora_rank", kNone},
    {"v_head_dim", kNone},
    {"qk_nope_head_dim", kNone},
    {"qk_rope_head_dim", kNone},
    {"num_kv_shared_layers", kZero},
    {"pruned_heads", "{} []"},
    {"is_encoder_decoder", kFalse},
    {"add_cross_attention", kFalse},
    // Positions.
    {"rope_scaling", "{}"},
    {"rope_parameters", "{}"},
    {"partial_rotary_factor", kOne},
    {"rotary_pct", kOne},
    {"rotary_percent", kOne},
    {"rotary_emb_fraction", kOne},
    {"rotary_dim", kNone},
    {"rotary_emb_base", kNone},
    {"rope_local_base_freq", kNone},
    {"rope_interleave", kFalse},
    {"rope_interleaved", kFalse},
    {"no_rope_layers", "[]"},
    {"no_rope_layer_interval", kZero},
    {"original_max_position_embeddings", kNone},
    {"use_mrope", kFalse},
    {"alibi", kFalse},
    {"use_alibi", kFalse},
    {"position_embedding_type", R"("rotary" "rope" "absolute")"},
    // MLP, norms, residuals.
    {"mlp_bias", kFalse},
    {"use_bias", kFalse},
    {"use_mlp_bias", kFalse},
    {"num_experts", kZero},
    {"num_local_experts", kZero},
    {"n_routed_experts", kZero},
    {"moe_intermediate_size", kZero},
    {"use_parallel_residual", kFalse},
    {"parallel_attn", kFalse},
    {"block_use_swiglu", "true"},
    {"use_pos_enc", "true"},
    {"do_layer_norm_before", "true"},
    {"use_post_norm", kFalse},
    {"norm_after", kFalse},
    {"residual_multiplier", kOne},
    {"scale_depth", kNone},
    {"hidden_size_per_layer_input", kZero},
    {"layers_block_type", kNone},
    {"activation_sparsity_pattern", "[]"},
    {"laurel_rank", kZero},
    // Embedding and head.
    {"embedding_multiplier", kOne},
    {"embedding_scale", kOne},
    {"scale_embedding", kFalse},
    {"scale_emb", kOne},
    {"dim_model_base", kNone},
    {"word_embed_proj_dim", kNone},
    {"logits_scaling", kOne},
    {"logit_scale", kOne},
    {"logits_scale", kOne},
    {"lm_head_multiplier", kOne},
    {"final_logit_softcapping", kZero},
    {"lm_head_bias", kFalse},
    {"head_bias", kFalse},
    // Weights of another kind.
    {"compression_config", kNone},
    {"sparsity_config", kNone},
};

// Numbers that only repeat what others say.
bool repeats_another(const ConfigReader& c, std::string_view name, const nlohmann::json& value) {
  const auto equals = [&](std::string_view other, std::int64_t divisor) {
    const auto it = c.object().find(other);
    return it != c.object().end() && it->is_number_integer() && value.is_number_integer() && divisor > 0 &&
           it->get<std::int64_t>() / divisor == value.get<std::int64_t>();
  };
  if (name == "head_dim")
    return c.has("num_attention_heads") && equals("hidden_size", c.integer("num_attention_heads"));
  // read_rope() reads it.
  if (name == "original_max_position_embeddings") return value.is_number();
  if (name == "sliding_window" && value.is_number_integer() && c.has("max_position_embeddings"))
    return value.get<std::int64_t>() >= c.integer("max_position_embeddings");
  return false;
}

bool changes_nothing(const ConfigReader& c, const NeutralField& field, const nlohmann::json& value) {
  return value.is_null() || is_in_list(value.dump(), field.values) || repeats_another(c, field.name, value);
}

}  // namespace

std::span<const NeutralField> neutral_fields() { return kNeutral; }

bool is_in_list(std::string_view word, std::string_view list) {
  for (std::size_t at = 0; at < list.size();) {
    const std::size_t end = std::min(list.find(' ', at), list.size());
    if (list.substr(at, end - at) == word) return true;
    at = end + 1;
  }
  return false;
}

void check_fields(const ConfigReader& c, std::string_view family, std::string_view fields,
                  std::vector<std::string>* notes) {
  std::vector<std::string> unknown;
  for (const auto& [name, value] : c.object().items()) {
    if (is_in_list(name, fields) || is_in_list(name, kReadByAll) || is_in_list(name, kHarmless) ||
        name == kLayerSizesField) {
      continue;
    }
    const auto neutral = std::find_if(std::begin(kNeutral), std::end(kNeutral),
                                      [&](const NeutralField& field) { return field.name == name; });
    if (neutral == std::end(kNeutral)) {
      if (!value.is_null()) unknown.push_back(json_quoted(name));
    } else if (!changes_nothing(c, *neutral, value)) {
      bad_input(
          "{}: found {}, expected {}: it changes what a model computes, and {} has no such part here",
          c.where(name), json_excerpt(value, 60),
          neutral->values.empty() ? std::string("null") : fmt::format("null or one of {}", neutral->values),
          family);
    }
  }
  if (unknown.empty() || notes == nullptr) return;
  notes->push_back(fmt::format("config.json: fields that swiftprune does not know are left aside: {}",
                               fmt::join(unknown, ", ")));
}

}  // namespace swiftprune
