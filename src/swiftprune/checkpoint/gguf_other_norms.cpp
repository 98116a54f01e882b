// Architectures whose norms stand elsewhere, are stored otherwise or are LayerNorm.
#include "swiftprune/checkpoint/gguf_fields.h"

#include <cmath>

#include "swiftprune/core/error.h"
#include "swiftprune/core/json.h"

namespace swiftprune {
namespace {

using namespace gguf_fields;

// ---- gemma2, gemma3: norm weights are stored as 1 + w

constexpr TensorRule kGemmaModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm", "none", RowOrder::kSame, -1.0f},
    {"output", "lm_head"},
};

constexpr TensorRule kGemma2Block[] = {
    {"attn_norm", "model.layers.*.input_layernorm", "none", RowOrder::kSame, -1.0f},
    {"attn_q", "model.layers.*.self_attn.q_proj"},
    {"attn_k", "model.layers.*.self_attn.k_proj"},
    {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"post_attention_norm", "model.layers.*.post_attention_layernorm", "none", RowOrder::kSame, -1.0f},
    {"ffn_norm", "model.layers.*.pre_feedforward_layernorm", "none", RowOrder::kSame, -1.0f},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
    {"post_ffw_norm", "model.layers.*.post_feedforward_layernorm", "none", RowOrder::kSame, -1.0f},
};

constexpr TensorRule kGemma3Block[] = {
    {"attn_norm", "model.layers.*.input_layernorm", "none", RowOrder::kSame, -1.0f},
    {"attn_q", "model.layers.*.self_attn.q_proj"},
    {"attn_k", "model.layers.*.self_attn.k_proj"},
    {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"attn_q_norm", "model.layers.*.self_attn.q_norm", "none", RowOrder::kSame, -1.0f},
    {"attn_k_norm", "model.layers.*.self_attn.k_norm", "none", RowOrder::kSame, -1.0f},
    {"post_attention_norm", "model.layers.*.post_attention_layernorm", "none", RowOrder::kSame, -1.0f},
    {"ffn_norm", "model.layers.*.pre_feedforward_layernorm", "none", RowOrder::kSame, -1.0f},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
    {"post_ffw_norm", "model.layers.*.post_feedforward_layernorm", "none", RowOrder::kSame, -1.0f},
};

// Files do not say what the queries are scaled by; llama.cpp knows the one size of each generation where it
// is not the head size by its number of layers.
void complete_gemma(const GgufFile& file, Json& config, std::int64_t layers_of_27b) {
  const std::int64_t head_dim = head_dim_of(file, config);
  const std::int64_t heads = config.at("num_attention_heads"), hidden = config.at("hidden_size");
  require_full_rotation(file, head_dim);
  config["head_dim"] = head_dim;
  config["query_pre_attn_scalar"] =
      config.at("num_hidden_layers") == layers_of_27b ? hidden / heads : head_dim;
}

void complete_gemma2(const GgufFile& file, Json& config) {
  complete_gemma(file, config, 46);
  config["layer_types"] = sliding_layers(config.at("num_hidden_layers"), 2);
  config["sliding_window"] = file.integer(key_of(file, "attention.sliding_window")).value_or(4096);
  config["attn_logit_softcapping"] = positive_of(file, "attn_logit_softcapping", 50.0);
  config["final_logit_softcapping"] = positive_of(file, "final_logit_softcapping", 30.0);
  if (Json scaling = rope_scaling(file); !scaling.is_null()) config["rope_scaling"] = std::move(scaling);
}

void complete_gemma3(const GgufFile& file, Json& config) {
  complete_gemma(file, config, 62);
  constexpr std::int64_t kPeriod = 6;
  config["layer_types"] = sliding_layers(config.at("num_hidden_layers"), kPeriod);
  config["sliding_window_pattern"] = kPeriod;
  config["rope_local_base_freq"] = positive_of(file, "rope.freq_base_swa", 10000.0);
  config["rope_scaling"] = rope_scaling(file);
  config["final_logit_softcapping"] = cap_of(file, "final_logit_softcapping");
}

constexpr ConfigField kGemma3Fields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv", Type::kInteger, false},
    {"max_position_embeddings", "context_length"},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon", Type::kPositive},
    {"rope_theta", "rope.freq_base", Type::kPositive},
    {"sliding_window", "attention.sliding_window"},
};

// ---- gemma

constexpr TensorRule kGemmaBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm", "none", RowOrder::kSame, -1.0f},
    {"attn_q", "model.layers.*.self_attn.q_proj"},
    {"attn_k", "model.layers.*.self_attn.k_proj"},
    {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm", "none", RowOrder::kSame, -1.0f},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
};

// ---- gptneox (Pythia)

constexpr ConfigField kGptNeoxFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"max_position_embeddings", "context_length"},
    {"layer_norm_eps", "attention.layer_norm_epsilon", Type::kPositive},
    {"use_parallel_residual", "use_parallel_residual", Type::kBoolean},
};

constexpr TensorRule kGptNeoxModelTensors[] = {
    {"token_embd", "gpt_neox.embed_in"},
    {"output_norm", "gpt_neox.final_layer_norm", "required"},
    {"output", "embed_out"},
};

constexpr TensorRule kGptNeoxBlock[] = {
    {"attn_norm", "gpt_neox.layers.*.input_layernorm", "required"},
    {"attn_qkv", "gpt_neox.layers.*.attention.query_key_value", "attention_bias", RowOrder::kSplitQkv},
    {"attn_output", "gpt_neox.layers.*.attention.dense", "attention_bias"},
    {"ffn_norm", "gpt_neox.layers.*.post_attention_layernorm", "required"},
    {"ffn_up", "gpt_neox.layers.*.mlp.dense_h_to_4h", "required"},
    {"ffn_down", "gpt_neox.layers.*.mlp.dense_4h_to_h", "required"},
};

void complete_gptneox(const GgufFile& file, Json& config) {
  config["rotary_pct"] = rotary_fraction(file, head_dim_of(file, config));
  config["rotary_emb_base"] = positive_of(file, "rope.freq_base", 10000.0);
  if (Json scaling = rope_scaling(file); !scaling.is_null()) config["rope_scaling"] = std::move(scaling);
}

// ---- olmo: norms without parameters

constexpr ConfigField kOlmoFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv", Type::kInteger, false},
    {"max_position_embeddings", "context_length"},
    {"rope_theta", "rope.freq_base", Type::kPositive, false},
};

constexpr TensorRule kOlmoModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    {"output", "lm_head"},
};

constexpr TensorRule kOlmoBlock[] = {
    {"attn_q", "model.layers.*.self_attn.q_proj", "none", RowOrder::kRotaryPairsOfQ},
    {"attn_k", "model.layers.*.self_attn.k_proj", "none", RowOrder::kRotaryPairsOfK},
    {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
};

void complete_olmo(const GgufFile& file, Json& config) {
  complete_qwen2(file, config);
  const std::string key = key_of(file, "attention.layer_norm_epsilon");
  if (const double eps = file.number(key).value_or(1e-5); std::abs(eps - 1e-5) > 1e-9) {
    bad_input("{}: {}: found {}, expected 1e-5: OLMo has no other", file.name(), key, eps);
  }
  config["clip_qkv"] = cap_of(file, "attention.clamp_kqv");
}

// ---- olmo2 (also OLMo 3) and exaone4: norms behind attention and MLP

constexpr TensorRule kOlmo2Block[] = {
    {"attn_q", "model.layers.*.self_attn.q_proj"},
    {"attn_k", "model.layers.*.self_attn.k_proj"},
    {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"attn_q_norm", "model.layers.*.self_attn.q_norm"},
    {"attn_k_norm", "model.layers.*.self_attn.k_norm"},
    {"post_attention_norm", "model.layers.*.post_attention_layernorm"},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
    {"post_ffw_norm", "model.layers.*.post_feedforward_layernorm"},
};

void complete_olmo2(const GgufFile& file, Json& config) {
  complete_qwen2(file, config);
  const std::int64_t window = file.integer(key_of(file, "attention.sliding_window")).value_or(0);
  if (window <= 0) return;
  config["model_type"] = "olmo3";
  config["architectures"] = {"Olmo3ForCausalLM"};
  config["sliding_window"] = window;
  config["layer_types"] = layer_types_of(file, config.at("num_hidden_layers"), 4);
  // llama.cpp turns all layers by one base and scales full ones alone. transformers 5 takes a rope_theta beside them for
  // full layers alone; older ones read no other.
  const Json sliding = {{"rope_type", "default"}, {"rope_theta", config.at("rope_theta")}};
  Json full = sliding;
  if (config.at("rope_scaling").is_object()) full.update(config.at("rope_scaling"));
  config["rope_parameters"] = {{"sliding_attention", sliding}, {"full_attention", full}};
  config.erase("rope_scaling");
}

void complete_exaone4(const GgufFile& file, Json& config) {
  complete_llama(file, config);
  constexpr std::int64_t kLayersOf32b = 64;  // the one that llama.cpp lets slide
  const std::int64_t layers = config.at("num_hidden_layers");
  const std::int64_t window = file.integer(key_of(file, "attention.sliding_window")).value_or(0);
  if (window > 0 && layers == kLayersOf32b) {
    config["sliding_window"] = window;
    config["layer_types"] = layer_types_of(file, layers, 4);
  } else {
    config["sliding_window"] = nullptr;
    config["layer_types"] = std::vector<std::string>(static_cast<std::size_t>(layers), "full_attention");
  }
}

// ---- stablelm, starcoder2, phi2: LayerNorm

constexpr ConfigField kStableLmFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv", Type::kInteger, false},
    {"max_position_embeddings", "context_length"},
    {"layer_norm_eps", "attention.layer_norm_epsilon", Type::kPositive},
    {"rope_theta", "rope.freq_base", Type::kPositive, false},
    {"use_parallel_residual", "use_parallel_residual", Type::kBoolean, false},
};

constexpr TensorRule kLayerNormModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm", "required"},
    {"output", "lm_head"},
};

constexpr TensorRule kStableLmBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm", "required"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "use_qkv_bias"},
    {"attn_k", "model.layers.*.self_attn.k_proj", "use_qkv_bias"},
    {"attn_v", "model.layers.*.self_attn.v_proj", "use_qkv_bias"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm", "required"},
    {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
};

void complete_stablelm(const GgufFile& file, Json& config) {
  complete_partial(file, config);
  // What llama.cpp goes by is whether there is a second norm.
  if (file.find("blk.0.ffn_norm.weight") == nullptr) {
    bad_input(
        "{}: tensor blk.0.ffn_norm.weight is missing: the parallel layout of StableLM 12B is not read from "
        "GGUF",
        file.name());
  }
  config["use_parallel_residual"] = false;
}

// Of decoders with LayerNorms, whose epsilon each family calls otherwise.
constexpr std::array<ConfigField, 8> layer_norm_fields(const char* epsilon) {
  return {{{"hidden_size", "embedding_length"},
           {"intermediate_size", "feed_forward_length"},
           {"num_hidden_layers", "block_count"},
           {"num_attention_heads", "attention.head_count"},
           {"num_key_value_heads", "attention.head_count_kv", Type::kInteger, false},
           {"max_position_embeddings", "context_length"},
           {epsilon, "attention.layer_norm_epsilon", Type::kPositive},
           {"rope_theta", "rope.freq_base", Type::kPositive, false}}};
}

constexpr auto kStarcoder2Fields = layer_norm_fields("norm_epsilon");

constexpr TensorRule kStarcoder2Block[] = {
    {"attn_norm", "model.layers.*.input_layernorm", "required"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "required"},
    {"attn_k", "model.layers.*.self_attn.k_proj", "required"},
    {"attn_v", "model.layers.*.self_attn.v_proj", "required"},
    {"attn_output", "model.layers.*.self_attn.o_proj", "required"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm", "required"},
    {"ffn_up", "model.layers.*.mlp.c_fc", "required"},
    {"ffn_down", "model.layers.*.mlp.c_proj", "required"},
};

void complete_starcoder2(const GgufFile& file, Json& config) {
  complete_qwen2(file, config);
  config["sliding_window"] = nullptr;
}

constexpr auto kPhi2Fields = layer_norm_fields("layer_norm_eps");

constexpr TensorRule kPhi2ModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.final_layernorm", "required"},
    {"output", "lm_head", "required"},
};

constexpr TensorRule kPhi2Block[] = {
    {"attn_norm", "model.layers.*.input_layernorm", "required"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "required"},
    {"attn_k", "model.layers.*.self_attn.k_proj", "required"},
    {"attn_v", "model.layers.*.self_attn.v_proj", "required"},
    {"attn_output", "model.layers.*.self_attn.dense", "required"},
    {"ffn_up", "model.layers.*.mlp.fc1", "required"},
    {"ffn_down", "model.layers.*.mlp.fc2", "required"},
};

// ---- nemotron: LayerNorms whose gain is stored as 1 + w, a plain MLP of squared ReLU

constexpr auto kNemotronFields = layer_norm_fields("norm_eps");

constexpr TensorRule kNemotronModelTensors[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm", "required", RowOrder::kSame, -1.0f},
    {"output", "lm_head"},
    {"rope_freqs", ""},
};

constexpr TensorRule kNemotronBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm", "required", RowOrder::kSame, -1.0f},
    {"attn_q", "model.layers.*.self_attn.q_proj", "attention_bias"},
    {"attn_k", "model.layers.*.self_attn.k_proj", "attention_bias"},
    {"attn_v", "model.layers.*.self_attn.v_proj", "attention_bias"},
    {"attn_output", "model.layers.*.self_attn.o_proj", "attention_bias"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm", "required", RowOrder::kSame, -1.0f},
    {"ffn_up", "model.layers.*.mlp.up_proj", "mlp_bias"},
    {"ffn_down", "model.layers.*.mlp.down_proj", "mlp_bias"},
    {"attn_rot_embd", ""},
};

// ---- gpt2: learned positions; Hugging Face has the linears transposed

constexpr ConfigField kGpt2Fields[] = {
    {"hidden_size", "embedding_length"},
    {"n_inner", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"n_positions", "context_length"},
    {"layer_norm_epsilon", "attention.layer_norm_epsilon", Type::kPositive},
};

constexpr TensorRule kGpt2ModelTensors[] = {
    {"token_embd", "transformer.wte"},
    {"position_embd", "transformer.wpe"},
    {"output_norm", "transformer.ln_f", "required"},
    {"output", "lm_head"},
};

constexpr TensorRule kGpt2Block[] = {
    {"attn_norm", "transformer.h.*.ln_1", "required"},
    {"attn_qkv", "transformer.h.*.attn.c_attn", "required"},
    {"attn_output", "transformer.h.*.attn.c_proj", "required"},
    {"ffn_norm", "transformer.h.*.ln_2", "required"},
    {"ffn_up", "transformer.h.*.mlp.c_fc", "required"},
    {"ffn_down", "transformer.h.*.mlp.c_proj", "required"},
};

void complete_gpt2(const GgufFile&, Json&) {}

// ---- command-r, cohere2

constexpr ConfigField kCohereFields[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv", Type::kInteger, false},
    {"max_position_embeddings", "context_length"},
    {"layer_norm_eps", "attention.layer_norm_epsilon", Type::kPositive},
    {"rope_theta", "rope.freq_base", Type::kPositive, false},
    {"logit_scale", "logit_scale", Type::kNumber, false},
};

constexpr TensorRule kCohereBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},    {"attn_q", "model.layers.*.self_attn.q_proj"},
    {"attn_k", "model.layers.*.self_attn.k_proj"},      {"attn_v", "model.layers.*.self_attn.v_proj"},
    {"attn_output", "model.layers.*.self_attn.o_proj"}, {"ffn_gate", "model.layers.*.mlp.gate_proj"},
    {"ffn_up", "model.layers.*.mlp.up_proj"},           {"ffn_down", "model.layers.*.mlp.down_proj"},
};

void complete_cohere(const GgufFile& file, Json& config) {
  complete_qwen2(file, config);
  if (config.value("logit_scale", 0.0) == 0.0) config["logit_scale"] = 1.0;  // llama.cpp's own default
}

void complete_cohere2(const GgufFile& file, Json& config) {
  complete_cohere(file, config);
  const std::string key = key_of(file, "attention.sliding_window");
  const auto window = file.integer(key);
  if (!window || *window < 1) bad_input("{}: {} is missing", file.name(), key);
  config["sliding_window"] = *window;
  config["layer_types"] = layer_types_of(file, config.at("num_hidden_layers"), 4);
}

// ---- bloom, mpt: positions by ALiBi, MLPs four times as wide

void require_fourfold(const GgufFile& file, const Json& config) {
  const std::string key = key_of(file, "feed_forward_length");
  const std::int64_t width = file.integer(key).value_or(0), hidden = config.at("hidden_size");
  if (width != 4 * hidden) {
    bad_input("{}: {}: found {}, expected four times embedding_length ({})", file.name(), key, width,
              4 * hidden);
  }
}

constexpr ConfigField kBloomFields[] = {
    {"hidden_size", "embedding_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"seq_length", "context_length"},
    {"layer_norm_epsilon", "attention.layer_norm_epsilon", Type::kPositive},
};

constexpr TensorRule kBloomModelTensors[] = {
    {"token_embd", "transformer.word_embeddings"},
    {"token_embd_norm", "transformer.word_embeddings_layernorm", "required"},
    {"output_norm", "transformer.ln_f", "required"},
    {"output", "lm_head"},
};

constexpr TensorRule kBloomBlock[] = {
    {"attn_norm", "transformer.h.*.input_layernorm", "required"},
    {"attn_qkv", "transformer.h.*.self_attention.query_key_value", "required", RowOrder::kSplitQkv},
    {"attn_output", "transformer.h.*.self_attention.dense", "required"},
    {"ffn_norm", "transformer.h.*.post_attention_layernorm", "required"},
    {"ffn_up", "transformer.h.*.mlp.dense_h_to_4h", "required"},
    {"ffn_down", "transformer.h.*.mlp.dense_4h_to_h", "required"},
};

void complete_bloom(const GgufFile& file, Json& config) { require_fourfold(file, config); }

constexpr ConfigField kMptFields[] = {
    {"hidden_size", "embedding_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"max_seq_len", "context_length"},
    {"layer_norm_epsilon", "attention.layer_norm_epsilon", Type::kPositive},
};

constexpr TensorRule kMptModelTensors[] = {
    {"token_embd", "transformer.wte"},
    {"output_norm", "transformer.norm_f"},
    {"output", "lm_head"},
};

constexpr TensorRule kMptBlock[] = {
    {"attn_norm", "transformer.blocks.*.norm_1"},          {"attn_qkv", "transformer.blocks.*.attn.Wqkv"},
    {"attn_output", "transformer.blocks.*.attn.out_proj"}, {"ffn_norm", "transformer.blocks.*.norm_2"},
    {"ffn_up", "transformer.blocks.*.ffn.up_proj"},        {"ffn_down", "transformer.blocks.*.ffn.down_proj"},
};

void complete_mpt(const GgufFile& file, Json& config) {
  require_fourfold(file, config);
  constexpr double kBias = 8.0;
  const std::string key = key_of(file, "attention.max_alibi_bias");
  if (const double bias = file.number(key).value_or(0.0); bias != kBias)
    bad_input("{}: {}: found {}, expected {}: transformers' MPT has no other", file.name(), key, bias, kBias);
  config["attn_config"] = {
      {"alibi", true}, {"alibi_bias_max", 8}, {"clip_qkv", cap_of(file, "attention.clamp_kqv")}};
}

// ---- chatglm: GLM-4-9B

constexpr TensorRule kGlmBlock[] = {
    {"attn_norm", "model.layers.*.input_layernorm"},
    {"attn_q", "model.layers.*.self_attn.q_proj", "attention_bias"},
    {"attn_k", "model.layers.*.self_attn.k_proj", "attention_bias"},
    {"attn_v", "model.layers.*.self_attn.v_proj", "attention_bias"},
    {"attn_output", "model.layers.*.self_attn.o_proj"},
    {"ffn_norm", "model.layers.*.post_attention_layernorm"},
    {"ffn_up", "model.layers.*.mlp.gate_up_proj"},
    {"ffn_down", "model.layers.*.mlp.down_proj"},
};

constexpr GgufArchitecture kOtherNormArchitectures[] = {
    {"bloom", "bloom", "BloomForCausalLM", R"({"apply_residual_connection_post_layernorm": false})",
     kBloomFields, kBloomModelTensors, kBloomBlock, complete_bloom, "bloom", false, "", false, false,
     "num_hidden_layers n_layer num_attention_heads n_head"},
    {"mpt", "mpt", "MptForCausalLM", R"({"no_bias": true, "expansion_ratio": 4})", kMptFields,
     kMptModelTensors, kMptBlock, complete_mpt, "olmo", false, "attention.max_alibi_bias attention.clamp_kqv",
     false, false, "hidden_size d_model num_hidden_layers n_layers num_attention_heads n_heads"},
    {"chatglm", "glm", "GlmForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})", kLlamaFields,
     kLlamaModelTensors, kGlmBlock, complete_glm4, "glm4"},
    {"gemma2", "gemma2", "Gemma2ForCausalLM",
     R"({"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh", "rope_theta": 10000.0})",
     kLlamaFields, kGemmaModelTensors, kGemma2Block, complete_gemma2, "", true,
     "attention.sliding_window attn_logit_softcapping final_logit_softcapping"},
    {"gemma3", "gemma3_text", "Gemma3ForCausalLM",
     R"({"hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": null})", kGemma3Fields,
     kGemmaModelTensors, kGemma3Block, complete_gemma3, "", true,
     "attention.sliding_window final_logit_softcapping rope.freq_base_swa"},
    {"gemma", "gemma", "GemmaForCausalLM",
     R"({"hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh", "rope_theta": 10000.0})",
     kLlamaFields, kGemmaModelTensors, kGemmaBlock, complete_qwen3, "", true},
    {"olmo", "olmo", "OlmoForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})", kOlmoFields,
     kOlmoModelTensors, kOlmoBlock, complete_olmo, "olmo", false, "attention.clamp_kqv"},
    {"olmo2", "olmo2", "Olmo2ForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})", kLlamaFields,
     kLlamaModelTensors, kOlmo2Block, complete_olmo2, "dbrx", false,
     "attention.sliding_window attention.sliding_window_pattern"},
    {"exaone4", "exaone4", "Exaone4ForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kLlamaFields, kLlamaModelTensors, kOlmo2Block, complete_exaone4, "exaone4", false,
     "attention.sliding_window attention.sliding_window_pattern"},
    {"stablelm", "stablelm", "StableLmForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kStableLmFields, kLayerNormModelTensors, kStableLmBlock, complete_stablelm, "stablelm2"},
    {"starcoder2", "starcoder2", "Starcoder2ForCausalLM",
     R"({"hidden_act": "gelu_pytorch_tanh", "rope_theta": 10000.0, "use_bias": true})", kStarcoder2Fields,
     kLayerNormModelTensors, kStarcoder2Block, complete_starcoder2, "starcoder"},
    {"phi2", "phi", "PhiForCausalLM", R"({"hidden_act": "gelu_new", "rope_theta": 10000.0})", kPhi2Fields,
     kPhi2ModelTensors, kPhi2Block, complete_partial, "gpt-2"},
    {"nemotron", "nemotron", "NemotronForCausalLM", R"({"hidden_act": "relu2", "rope_theta": 10000.0})",
     kNemotronFields, kNemotronModelTensors, kNemotronBlock, complete_glm4, "llama-bpe"},
    {"command-r", "cohere", "CohereForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kCohereFields, kLlamaModelTensors, kCohereBlock, complete_cohere, "command-r", false, "logit_scale"},
    {"cohere2", "cohere2", "Cohere2ForCausalLM", R"({"hidden_act": "silu", "rope_theta": 10000.0})",
     kCohereFields, kLlamaModelTensors, kCohereBlock, complete_cohere2, "command-r", false,
     "logit_scale attention.sliding_window attention.sliding_window_pattern"},
    {"gpt2", "gpt2", "GPT2LMHeadModel", R"({"activation_function": "gelu_new"})", kGpt2Fields,
     kGpt2ModelTensors, kGpt2Block, complete_gpt2, "gpt-2", false, "", false, false,
     "hidden_size n_embd num_hidden_layers n_layer num_attention_heads n_head"},
    {"gptneox", "gpt_neox", "GPTNeoXForCausalLM", R"({"hidden_act": "gelu"})", kGptNeoxFields,
     kGptNeoxModelTensors, kGptNeoxBlock, complete_gptneox, "olmo"},
};

}  // namespace

std::span<const GgufArchitecture> gguf_other_norms() { return kOtherNormArchitectures; }

}  // namespace swiftprune
