// config.json files that cannot be: each is refused by file and field.
#include <gmock/gmock.h>

#include "model/family_fixture.h"
#include "support/expect_error.h"
#include "support/temp_dir.h"
#include "swiftprune/core/json.h"
#include "swiftprune/model/family.h"
#include "swiftprune/model/model.h"

namespace swiftprune {
namespace {

using nlohmann::json;
using test::config_of;
using test::kModels;

// `change` is merged into the config; a null removes a field.
struct BadConfig {
  const char* model;
  const char* change;
  std::vector<std::string> texts;
};

const BadConfig kBadConfigs[] = {
    {"llama2", R"({"model_type": null})", {"'model_type'", "absent"}},
    {"llama2", R"({"model_type": 7})", {"'model_type'", "found 7"}},
    {"llama2",
     R"({"model_type": "mamba"})",
     {"'model_type'", "'mamba'", "llama, mistral, qwen2", "opt", "docs/"}},
    {"llama2",
     R"({"quantization_config": {"quant_method": "gptq"}})",
     {"'quantization_config'", "dequantise"}},
    {"llama2", R"({"vocab_size": null})", {"'vocab_size'", "absent"}},
    {"llama2", R"({"hidden_size": null})", {"'hidden_size'", "absent"}},
    {"llama2", R"({"intermediate_size": null})", {"'intermediate_size'", "absent"}},
    {"llama2", R"({"num_hidden_layers": null})", {"'num_hidden_layers'", "absent"}},
    {"llama2", R"({"num_attention_heads": null})", {"'num_attention_heads'", "absent"}},
    {"opt", R"({"ffn_dim": null})", {"'ffn_dim'", "absent"}},
    {"llama2", R"({"vocab_size": 0})", {"'vocab_size'", "found 0", "from 1"}},
    {"llama2", R"({"vocab_size": -5})", {"'vocab_size'", "found -5"}},
    {"llama2", R"({"vocab_size": 99999999999999999999})", {"'vocab_size'", "expected an integer"}},
    {"llama2", R"({"hidden_size": 18446744073709551615})", {"'hidden_size'", "found 18446744073709551615"}},
    {"llama2", R"({"hidden_size": "24"})", {"'hidden_size'", "found \"24\""}},
    {"llama2", R"({"hidden_size": 24.5})", {"'hidden_size'", "found 24.5"}},
    {"llama2", R"({"hidden_size": [24]})", {"'hidden_size'", "found [24]"}},
    {"llama2", R"({"num_hidden_layers": 1000000})", {"'num_hidden_layers'", "found 1000000", "at most"}},
    {"llama2",
     R"({"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": null})",
     {"'hidden_size'", "num_attention_heads (5)"}},
    {"llama2", R"({"num_key_value_heads": 3})", {"'num_key_value_heads'", "found 3", "divisor"}},
    {"llama2", R"({"head_dim": 2147483647})", {"'head_dim'", "2147483647", "at most"}},
    {"opt", R"({"hidden_size": 2147483646, "num_attention_heads": 1})", {"'hidden_size'", "at most"}},
    {"llama2", R"({"rms_norm_eps": 0})", {"'rms_norm_eps'", "found 0", "positive"}},
    {"llama2", R"({"rms_norm_eps": 1e300})", {"'rms_norm_eps'", "found 1e+300", "a float holds"}},
    {"llama2", R"({"rms_norm_eps": 1e-300})", {"'rms_norm_eps'", "found 1e-300", "positive"}},
    {"phi3_longrope",
     R"({"rope_scaling": {"short_factor": [1, 1e300, 1]}})",
     {"'rope_scaling.short_factor'", "found 1e+300 at 1", "a float holds"}},
    {"llama2", R"({"rms_norm_eps": "1e-5"})", {"'rms_norm_eps'", "found \"1e-5\""}},
    {"llama2", R"({"hidden_act": "laplace"})", {"'hidden_act'", "'laplace'", "silu"}},
    {"llama2", R"({"tie_word_embeddings": 1})", {"'tie_word_embeddings'", "found 1", "true or false"}},
    {"llama2", R"({"rope_scaling": {"rope_type": "spiral"}})", {"'rope_scaling.rope_type'", "'spiral'"}},
    {"llama2", R"({"rope_theta": 0})", {"'rope_theta'", "found 0"}},
    {"mistral", R"({"sliding_window": 0})", {"'sliding_window'", "found 0"}},
    {"qwen3",
     R"({"layer_types": ["full_attention"]})",
     {"'layer_types'", "found 1", "num_hidden_layers (2)"}},
    {"qwen3",
     R"({"layer_types": ["full_attention", "linear_attention"]})",
     {"'layer_types'", "'linear_attention' at 1"}},
    {"qwen3", R"({"layer_types": "full_attention"})", {"'layer_types'", "array"}},
    {"qwen3", R"({"layer_types": [1, 2]})", {"'layer_types'", "found 1 at 0"}},
    {"gemma2", R"({"attn_logit_softcapping": -1})", {"'attn_logit_softcapping'", "found -1"}},
    {"gemma2", R"({"query_pre_attn_scalar": 0})", {"'query_pre_attn_scalar'", "found 0"}},
    {"gemma3_text", R"({"use_bidirectional_attention": true})", {"'use_bidirectional_attention'", "causal"}},
    {"gemma3_text", R"({"sliding_window_pattern": 0})", {"'sliding_window_pattern'", "found 0"}},
    {"gemma3_text", R"({"rope_local_base_freq": -1})", {"'rope_local_base_freq'", "found -1"}},
    {"gemma3_with_vision", R"({"text_config": 3})", {"'text_config'", "object"}},
    {"qwen3_5_with_vision", R"({"text_config": null})", {"'text_config'", "absent", "as qwen3_5 has them"}},
    {"gemma3_with_vision",
     R"({"text_config": {"hidden_size": -1}})",
     {"'text_config.hidden_size'", "found -1"}},
    {"pythia", R"({"rotary_pct": 2})", {"'rotary_pct'", "found 2"}},
    {"phi3_longrope",
     R"({"rope_scaling": {"short_factor": [1]}})",
     {"'rope_scaling.short_factor'", "found 1", "expected 3"}},
    {"opt", R"({"do_layer_norm_before": false})", {"'do_layer_norm_before'", "350M"}},
    {"opt", R"({"word_embed_proj_dim": 12})", {"'word_embed_proj_dim'", "found 12", "350M"}},
    {"smollm3", R"({"no_rope_layers": [1]})", {"'no_rope_layers'", "found 1 numbers", "3 layers"}},
    {"smollm3",
     R"({"layer_types": ["full_attention", "sliding_attention", "full_attention"], "sliding_window": 8})",
     {"'layer_types'", "sliding_attention", "use_sliding_window"}},
    {"stablelm", R"({"partial_rotary_factor": 0.4})", {"'partial_rotary_factor'", "3 elements", "even"}},
    {"phi",
     R"({"partial_rotary_factor": null, "rope_parameters": {"partial_rotary_factor": 0.4}})",
     {"'partial_rotary_factor'", "3 elements", "even"}},
    {"glm4",
     R"({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "partial_rotary_factor": 0.25}})",
     {"'rope_parameters.rope_type'", "'yarn'", "3 elements"}},
    {"apertus",
     R"({"rope_parameters": null, "rope_theta": 10000.0})",
     {"'rope_theta'", "found 10000", "expected them, or 12000000"}},
    {"granite4",
     R"({"num_local_experts": 4, "num_experts_per_tok": 5})",
     {"'num_experts_per_tok'", "5 experts a token", "at most the 4"}},
    {"gemma4", R"({"enable_moe_block": true})", {"'enable_moe_block'", "found true", "without experts"}},
    {"gemma4",
     R"({"rope_parameters": {"full_attention": null}})",
     {"'rope_parameters.full_attention'", "absent", "layer_types"}},
    {"gemma4",
     R"({"rope_parameters": {"sliding_attention": null}})",
     {"'rope_parameters.sliding_attention'", "absent"}},
    {"gemma4",
     R"({"rope_parameters": {"full_attention": {"rope_theta": null}}})",
     {"'rope_parameters.full_attention.rope_theta'", "absent"}},
    {"gemma4",
     R"({"rope_parameters": {"sliding_attention": {"rope_theta": null}}})",
     {"'rope_parameters.sliding_attention.rope_theta'", "absent"}},
    {"gemma4", R"({"rope_scaling": {"rope_type": "linear", "factor": 2.0}})", {"'rope_scaling'", "linear"}},
    {"gemma4", R"({"final_logit_softcapping": 0.0})", {"'final_logit_softcapping'", "found 0", "null"}},
    {"gemma3_text_v5",
     R"({"rope_scaling": {"rope_type": "linear", "factor": 2.0}})",
     {"'rope_scaling'", "beside rope_parameters"}},
    {"gemma4", R"({"use_bidirectional_attention": "all"})", {"'use_bidirectional_attention'", "\"all\""}},
    {"gemma4", R"({"per_layer_config": {"9": {"head_dim": 12}}})", {"'per_layer_config.9'", "below 3"}},
    {"gemma4",
     R"({"per_layer_config": {"1": {"sliding_window": 5}}})",
     {"'per_layer_config.1.sliding_window'", "found 5", "head_dim"}},
    {"gemma4", R"({"per_layer_config": {"0": {"head_dim": 12}}})", {"'per_layer_config'", "sliding layer"}},
    {"gemma4", R"({"per_layer_config": {"1": {"head_dim": 16}}})", {"'per_layer_config'", "layer 2"}},
    {"gemma4", R"({"num_kv_shared_layers": 3})", {"'num_kv_shared_layers'", "found 3", "less than"}},
    {"gemma4_small",
     R"({"num_kv_shared_layers": 4})",
     {"'num_kv_shared_layers'", "found 4", "no layer of type full_attention"}},
    {"gemma4_small",
     R"({"num_global_key_value_heads": 3, "attention_k_eq_v": true})",
     {"3 key heads", "(4)"}},
    {"gemma4_small", R"({"vocab_size_per_layer_input": 7})", {"'vocab_size_per_layer_input'", "found 7"}},
    {"gemma4_with_vision",
     R"({"text_config": {"layer_types": ["full_attention"]}})",
     {"'text_config.layer_types'", "found 1 layers"}},
    {"falcon_h1", R"({"attention_bias": true})", {"'attention_bias'", "found true", "q_proj"}},
    {"falcon_h1", R"({"mlp_multipliers": [1]})", {"'mlp_multipliers'", "found [1]", "2 positive"}},
    {"falcon_h1", R"({"ssm_multipliers": [1, 1, 0, 1, 1]})", {"'ssm_multipliers'", "5 positive"}},
    {"falcon_h1", R"({"mamba_n_heads": 5})", {"'mamba_n_heads'", "found 5", "mamba_d_ssm (36)"}},
    {"falcon_h1", R"({"hidden_act": "gelu"})", {"'hidden_act'", "found gelu", "silu"}},
    {"granite4",
     R"({"layer_types": ["full_attention", "conv"]})",
     {"'layer_types'", "found 'conv' at 1", "mamba"}},
    {"granite4_mamba",
     R"({"mamba_d_state": 2000000000})",
     {"'mamba_d_state'", "found 2000000000", "at most"}},
    {"granite4_mamba", R"({"hidden_act": "gelu"})", {"'hidden_act'", "found gelu", "silu"}},
    {"granite4_mamba", R"({"mamba_n_groups": 4})", {"'mamba_n_groups'", "found 4", "divisor"}},
    {"granite4_mamba", R"({"mamba_n_heads": 5})", {"'mamba_n_heads'", "found 5", "(48)"}},
    {"granite4_mamba", R"({"mamba_d_head": 3})", {"'mamba_d_head'", "found 3", "expected 8"}},
    {"granite4_mamba", R"({"time_step_limit": [0.1, 2]})", {"'time_step_limit'", "[0.1,2]", "no limit"}},
    {"lfm2", R"({"conv_L_cache": 0})", {"'conv_L_cache'", "found 0"}},
    {"lfm2", R"({"block_ffn_dim_multiplier": 1e300})", {"'block_ffn_dim_multiplier'", "found 1e+300"}},
    {"lfm2", R"({"layer_types": ["conv", "mamba", "conv"]})", {"'layer_types'", "'mamba' at 1", "conv or"}},
    {"lfm2", R"({"use_pos_enc": false})", {"'use_pos_enc'", "found false"}},
    {"qwen3_5", R"({"attn_output_gate": false})", {"'attn_output_gate'", "found false", "gates"}},
    {"qwen3_5", R"({"linear_num_value_heads": 3})", {"'linear_num_value_heads'", "found 3", "multiple"}},
    {"qwen3_5", R"({"linear_num_key_heads": 99999999})", {"'linear_num_"}},
    {"qwen3_5", R"({"hidden_act": "gelu"})", {"'hidden_act'", "found gelu", "silu"}},
    {"qwen3_5_with_vision",
     R"({"text_config": {"layer_types": ["full_attention"]}})",
     {"'text_config.layer_types'", "found 1 layers"}},
    {"gpt2",
     R"({"scale_attn_by_inverse_layer_idx": true})",
     {"'scale_attn_by_inverse_layer_idx'", "found true"}},
    {"nemotron_h",
     R"({"layers_block_type": ["mlp", "moe", "mlp", "mlp", "mlp"], "moe_latent_size": 8})",
     {"'moe_latent_size'", "found 8", "expected null"}},
    {"nemotron_h",
     R"({"layers_block_type": ["mlp", "conv", "mlp", "mlp", "mlp"]})",
     {"'layers_block_type'", "'conv' at 1", "moe"}},
    {"nemotron_h", R"({"num_hidden_layers": 4})", {"'layers_block_type'", "found 5", "num_hidden_layers"}},
    {"nemotron_h_bias", R"({"hybrid_override_pattern": "M*X"})", {"'hybrid_override_pattern'", "found 'X'"}},
    {"falcon_h1", R"({"layers_block_type": ["hybrid"]})", {"'layers_block_type'", "hybrid"}},
    {"gpt2", R"({"num_hidden_layers": 1})", {"'num_hidden_layers'", "found 1", "n_layer"}},
    {"gptj", R"({"n_embd": null, "hidden_size": 24})", {"'n_embd'", "absent"}},
    {"mpt", R"({"num_attention_heads": 5})", {"'num_attention_heads'", "found 5", "n_heads"}},
    {"nemotron_h", R"({"n_groups": 4})", {"'n_groups'", "found 4", "divisor"}},
    {"nemotron_h", R"({"tie_word_embeddings": true})", {"'tie_word_embeddings'", "found true"}},
    {"gpt2", R"({"add_cross_attention": true})", {"'add_cross_attention'", "found true"}},
    {"bloom", R"({"n_inner": 90})", {"'n_inner'", "found 90", "four times hidden_size"}},
    {"bloom",
     R"({"apply_residual_connection_post_layernorm": true})",
     {"'apply_residual_connection_post_layernorm'", "found true"}},
    {"mpt", R"({"attn_config": {"alibi": false}})", {"'attn_config.alibi'", "found false"}},
    {"mpt", R"({"attn_config": {"alibi_bias_max": 16}})", {"'attn_config.alibi_bias_max'", "found 16"}},
    {"mpt", R"({"attn_config": {"new_thing": 1}})", {"'attn_config.new_thing'", "found 1"}},
    {"mpt", R"({"no_bias": false})", {"'no_bias'", "found false"}},
    {"granite4", R"({"position_embedding_type": "alibi"})", {"'position_embedding_type'", "found 'alibi'"}},
    {"ministral3",
     R"({"rope_parameters": {"llama_4_scaling_beta": null}})",
     {"'rope_parameters.llama_4_scaling_beta'"}},
    {"exaone4",
     R"({"layer_types": null, "sliding_window_pattern": "LLLG"})",
     {"'sliding_window_pattern'", "LLLG"}},
    {"gptj", R"({"rotary_dim": 7})", {"'rotary_dim'", "found 7", "even"}},
    {"gptj", R"({"n_embd": 25})", {"'n_embd'", "found 25", "multiple"}},
    {"mistral3", R"({"text_config": {"hidden_size": null}})", {"'text_config.hidden_size'"}},
    {"mistral3",
     R"({"text_config": {"model_type": "minstral"}})",
     {"'text_config.model_type'", "found 'minstral'", "expected one of llama, mistral"}},
};

TEST(BadConfigs, NameFileAndField) {
  for (const BadConfig& bad : kBadConfigs) {
    json config = config_of(bad.model);
    config.merge_patch(json::parse(bad.change));
    const auto error = test::error_of([&] { model_config(config); });
    ASSERT_TRUE(error) << bad.change;
    EXPECT_EQ(error->kind(), ErrorKind::kBadInput);
    EXPECT_THAT(error->what(), ::testing::StartsWith("config.json: field ")) << bad.change;
    for (const std::string& text : bad.texts) EXPECT_THAT(error->what(), ::testing::HasSubstr(text));
  }
}

TEST(BadConfigs, AnUnknownTypeIsAnsweredWithItsRelative) {
  for (const auto& [type, relative] :
       {std::pair{"qwen3_omni", "qwen3"}, {"granitemoe_swa", "granitemoe"}, {"gemma3n", "gemma3"}}) {
    test::expect_error(
        ErrorKind::kBadInput,
        [&] {
          model_config({{"model_type", type}});
        },
        "nearest relative that is supported is " + std::string(relative));
  }
  const auto error = test::error_of([] { model_config({{"model_type", "bert"}}); });
  ASSERT_TRUE(error);
  EXPECT_THAT(error->what(), ::testing::Not(::testing::HasSubstr("relative")));
  test::expect_error(
      ErrorKind::kBadInput,
      [] {
        model_config({{"model_type", "sees"}, {"text_config", {{"model_type", "llama"}}}});
      },
      "found 'sees'", "of models with a text_config gemma3, gemma4, mistral3");
}

TEST(BadConfigs, NotAnObject) {
  for (const char* text : {"[]", "3", "null", "\"llama\""}) {
    test::expect_error(
        ErrorKind::kBadInput, [&] { model_config(json::parse(text)); }, "config.json", "model_type");
  }
}

// Fields that contradict the tensors.
const BadConfig kContradictions[] = {
    {"llama2",
     R"({"vocab_size": 65})",
     {"'model.embed_tokens.weight'", "[64, 24]", "[65, 24]", "vocab_size"}},
    {"llama2", R"({"vocab_size": 2147483647})", {"'model.embed_tokens.weight'", "vocab_size"}},
    {"llama2", R"({"hidden_size": 28, "head_dim": 6})", {"'model.embed_tokens.weight'", "hidden_size"}},
    {"llama2",
     R"({"intermediate_size": 41})",
     {"gate_proj.weight'", "[40, 24]", "[41, 24]", "intermediate_size"}},
    {"opt", R"({"ffn_dim": 41})", {"fc1.weight'", "[40, 24]", "[41, 24]", "ffn_dim"}},
    {"llama2",
     R"({"num_key_value_heads": 2})",
     {"k_proj.weight'", "[24, 24]", "[12, 24]", "num_key_value_heads"}},
    {"llama2", R"({"num_hidden_layers": 3})", {"model.layers.2.self_attn.q_proj.weight"}},
    {"llama2", R"({"head_dim": 65536})", {"q_proj.weight'", "head_dim"}},
    {"llama2", R"({"attention_bias": true})", {"model.layers.0.self_attn.q_proj.bias"}},
    {"llama3", R"({"tie_word_embeddings": false})", {"lm_head.weight"}},
    {"opt",
     R"({"max_position_embeddings": 65})",
     {"'model.decoder.embed_positions.weight'", "[66, 24]", "[67, 24]", "max_position_embeddings"}},
    {"llama2", R"({"model_type": "qwen3"})", {"model.layers.0.self_attn.q_norm.weight"}},
    {"llama2", R"({"model_type": "gpt_neox"})", {"gpt_neox.embed_in.weight"}},
    {"qwen3_5",
     R"({"linear_conv_kernel_dim": 5})",
     {"'model.layers.0.linear_attn.conv1d.weight'", "[44, 1, 4]", "[44, 1, 5]", "mixer"}},
    {"qwen3_5",
     R"({"linear_key_head_dim": 16000000, "linear_value_head_dim": 16000000})",
     {"4 times 16000000 times 16000000", "remember of a sequence"}},
    {"lfm2", R"({"conv_L_cache": 4})", {"'model.layers.0.conv.conv.weight'", "[24, 1, 3]", "[24, 1, 4]"}},
    {"granite4_mamba", R"({"mamba_d_state": 6})", {"'model.layers.0.mamba.conv1d.weight'", "mixer"}},
    {"gpt2", R"({"n_inner": 44})", {"'transformer.h.0.mlp.c_fc.weight'", "[40, 24]", "[44, 24]"}},
};

TEST(BadConfigs, ContradictTensorShapes) {
  for (const BadConfig& bad : kContradictions) {
    const test::TempDir dir;
    std::filesystem::copy_file(kModels / bad.model / kSafetensorsFile, dir.path() / kSafetensorsFile);
    json config = config_of(bad.model);
    config.merge_patch(json::parse(bad.change));
    test::write_text(dir.path() / "config.json", config.dump());
    const auto error = test::error_of([&] { Model::open(dir.path()); });
    ASSERT_TRUE(error) << bad.change;
    EXPECT_EQ(error->kind(), ErrorKind::kBadInput);
    for (const std::string& text : bad.texts) EXPECT_THAT(error->what(), ::testing::HasSubstr(text));
  }
}

}  // namespace
}  // namespace swiftprune
