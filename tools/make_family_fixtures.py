#!/usr/bin/env python3
"""Writes tests/data/model: for every case below a tiny random model as transformers saves it, with token ids, the
logits in float32 and the inputs of the last block's linears; and ropes.json, tables of every rope type.

Made with torch 2.15.0 and transformers 5.23.0, the later half with 5.24.0. The expected values come from the saved
folder, loaded again. With names of cases: writes those alone and leaves the others as they are.
"""
import json
import pathlib
import re
import shutil
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "model"
NUM_SEQUENCES, SEQLEN, WINDOW = 2, 20, 8

# Sizes that most cases share; 3 heads of 8 over 1 key/value head in a hidden size that is no power of two.
SMALL = dict(vocab_size=64, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
             num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0)
GEMMA = SMALL | dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=WINDOW,
                     query_pre_attn_scalar=12)
PHI3 = SMALL | dict(num_attention_heads=3, num_key_value_heads=3, pad_token_id=0)
LLAMA3 = dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
QWEN3_5 = SMALL | dict(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=12,
                       linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=6,
                       linear_value_head_dim=5, linear_conv_kernel_dim=4, rope_parameters=dict(
                           rope_type="default", rope_theta=100.0, partial_rotary_factor=0.5, mrope_section=[1, 1, 1],
                           mrope_interleaved=True))
NEMOTRON_H = {key: value for key, value in SMALL.items() if key != "num_hidden_layers"} | dict(
    num_attention_heads=4, num_key_value_heads=2, head_dim=8, mamba_num_heads=6, mamba_head_dim=4, n_groups=2,
    ssm_state_size=5, chunk_size=8)
GEMMA4 = SMALL | dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8, global_head_dim=12, sliding_window=WINDOW,
                      hidden_size_per_layer_input=0, rope_parameters=dict(
                          full_attention=dict(rope_type="proportional", rope_theta=100.0, partial_rotary_factor=0.5),
                          sliding_attention=dict(rope_type="default", rope_theta=50.0)))
GEMMA4_SMALL = GEMMA4 | dict(num_hidden_layers=5, hidden_size_per_layer_input=6, vocab_size_per_layer_input=64,
                             num_kv_shared_layers=2, use_double_wide_mlp=True, layer_types=[
                                 "sliding_attention", "full_attention", "sliding_attention", "sliding_attention",
                                 "full_attention"])
FALCON_H1 = SMALL | dict(num_attention_heads=4, num_key_value_heads=2, mamba_n_heads=6, mamba_d_state=5,
                         mamba_chunk_size=8)
SHORT, LONG = [1.0, 1.25, 1.5], [1.0, 2.5, 4.0]


def rope_before_v5(config):
    """The spelling of transformers 4: rope_theta beside rope_scaling, torch_dtype."""
    config["torch_dtype"] = config.pop("dtype")
    rope = config.pop("rope_parameters")
    if config["model_type"] == "gemma3_text":
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
        del config["layer_types"]
        config["sliding_window_pattern"] = config.pop("_sliding_window_pattern")
    if config["model_type"] == "gpt_neox":
        config["rotary_emb_base"] = rope.pop("rope_theta")
        config["rotary_pct"] = rope.pop("partial_rotary_factor")
    else:
        config["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope


def rope_before_v5_without_layer_types(config):
    rope_before_v5(config)
    without_layer_types(config)
    config["full_attention_interval"] = 2


def hub_lfm2(config):
    """What the files on the hub have beside, and in place of, what transformers 5 writes."""
    config["block_ff_dim"] = config.pop("intermediate_size")
    config["tie_embedding"] = config.pop("tie_word_embeddings")
    config["full_attn_idxs"] = [i for i, kind in enumerate(config.pop("layer_types")) if kind == "full_attention"]
    config |= dict(block_dim=24, block_norm_eps=1e-5, block_use_swiglu=True, conv_dim=24, conv_dim_out=24,
                   conv_use_xavier_init=True, block_use_xavier_init=True, block_mlp_init_scale=1.0,
                   block_out_init_scale=1.0, num_heads=4, use_pos_enc=True, theta=config["rope_parameters"]["rope_theta"])


def hub_gemma4(config):
    """The fields that per_layer_config was made of."""
    text = config.get("text_config", config)
    layer = text.pop("per_layer_config")["1"]
    text["global_head_dim"] = layer["head_dim"]
    text["num_global_key_value_heads"] = layer.get("num_key_value_heads")


def old_granite(config):
    """As transformers wrote it before 5.24."""
    config["layer_types"] = ["attention", "mamba"]
    del config["time_step_limit"]


def pattern_of_layers(config):
    """A letter for each layer, as on the hub."""
    letters = dict(linear_attention="M", full_attention="*", mlp="-")
    config["hybrid_override_pattern"] = "".join(letters[kind] for kind in config.pop("layers_block_type"))
    config["num_hidden_layers"] = len(config["hybrid_override_pattern"])


def without_layer_types(config):
    del config["layer_types"]


def without_defaults(config):
    """Nested text configurations on the hub hold only what differs from the class."""
    for key in ["query_pre_attn_scalar", "rms_norm_eps", "layer_types", "tie_word_embeddings", "rope_parameters",
                "hidden_activation", "attention_bias"]:
        del config["text_config"][key]


# name: (model_type, dtype of the file, configuration, change to the written config.json)
CASES = {
    "llama2": ("llama", "float16", SMALL | dict(num_attention_heads=4, num_key_value_heads=4), rope_before_v5),
    "llama3": ("llama", "bfloat16", SMALL | dict(hidden_size=36, num_attention_heads=9, num_key_value_heads=3,
               tie_word_embeddings=True, rope_parameters=dict(LLAMA3)), rope_before_v5),
    "llama3_v5": ("llama", "bfloat16", SMALL | dict(num_hidden_layers=3, rope_parameters=dict(LLAMA3)), None),
    "llama_bias": ("llama", "float32", SMALL | dict(head_dim=10, attention_bias=True, mlp_bias=True, hidden_act="gelu",
                   rope_parameters=dict(rope_type="yarn", rope_theta=100.0, factor=4.0,
                                        original_max_position_embeddings=16)), None),
    "mistral": ("mistral", "bfloat16", SMALL | dict(sliding_window=WINDOW), rope_before_v5),
    "mistral_no_window": ("mistral", "bfloat16", SMALL | dict(sliding_window=None, head_dim=12), None),
    "qwen2": ("qwen2", "bfloat16", SMALL | dict(tie_word_embeddings=True), rope_before_v5),
    "qwen2_sliding": ("qwen2", "bfloat16", SMALL | dict(num_hidden_layers=3, use_sliding_window=True,
                      sliding_window=WINDOW, max_window_layers=1), without_layer_types),
    "qwen3": ("qwen3", "bfloat16", SMALL | dict(head_dim=12, use_sliding_window=True, sliding_window=WINDOW,
              layer_types=["sliding_attention", "full_attention"]), None),
    "gemma2": ("gemma2", "bfloat16", GEMMA | dict(num_hidden_layers=3, attn_logit_softcapping=2.0,
               final_logit_softcapping=3.0), rope_before_v5),
    "gemma3_text": ("gemma3_text", "bfloat16", GEMMA | dict(num_hidden_layers=3, sliding_window_pattern=3,
                    rope_parameters={"full_attention": dict(rope_type="linear", factor=8.0, rope_theta=1e4),
                                     "sliding_attention": dict(rope_type="default", rope_theta=1e2)}),
                    rope_before_v5),
    "gemma3_text_v5": ("gemma3_text", "float16", GEMMA | dict(attention_bias=True, tie_word_embeddings=False,
                       layer_types=["full_attention", "sliding_attention"],
                       rope_parameters={"full_attention": dict(rope_type="default", rope_theta=3e3),
                                        "sliding_attention": dict(rope_type="default", rope_theta=30.0)}), None),
    "gemma3_with_vision": ("gemma3", "bfloat16", dict(
        text_config=SMALL | dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=WINDOW,
                                 num_hidden_layers=6),
        vision_config=dict(model_type="siglip_vision_model", hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                           num_attention_heads=1, image_size=8, patch_size=4),
        mm_tokens_per_image=4, image_token_index=63, boi_token_index=62, eoi_token_index=61), without_defaults),
    "pythia": ("gpt_neox", "float16", SMALL | dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0,
               partial_rotary_factor=0.25)), rope_before_v5),
    # A rotary size of int(8 * 0.65) = 5, which rotates 6 elements.
    "gpt_neox_sequential": ("gpt_neox", "bfloat16", SMALL | dict(use_parallel_residual=False, attention_bias=False,
                            hidden_act="gelu_fast", tie_word_embeddings=True, rope_parameters=dict(
                                rope_type="default", rope_theta=1000.0, partial_rotary_factor=0.65)), None),
    "phi3": ("phi3", "bfloat16", PHI3 | dict(sliding_window=WINDOW), rope_before_v5),
    "phi3_longrope": ("phi3", "bfloat16", PHI3 | dict(num_key_value_heads=1, original_max_position_embeddings=16,
                      tie_word_embeddings=True, rope_parameters=dict(
                          rope_type="longrope", rope_theta=100.0, partial_rotary_factor=0.75, short_factor=SHORT,
                          long_factor=LONG)), rope_before_v5),
    "opt": ("opt", "float16", SMALL | dict(ffn_dim=40), None),
    "opt_no_bias": ("opt", "bfloat16", SMALL | dict(ffn_dim=40, enable_bias=False, tie_word_embeddings=False,
                    layer_norm_elementwise_affine=False, activation_function="gelu"), None),
    "smollm3": ("smollm3", "bfloat16", SMALL | dict(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                no_rope_layer_interval=2), rope_before_v5),
    "smollm3_sliding": ("smollm3", "bfloat16", SMALL | dict(num_hidden_layers=3, head_dim=10, attention_bias=True,
                        mlp_bias=True, tie_word_embeddings=False, no_rope_layers=[0, 1, 0], use_sliding_window=True,
                        sliding_window=WINDOW), None),
    "olmo": ("olmo", "bfloat16", SMALL | dict(clip_qkv=0.75, attention_bias=True), None),
    "olmo2": ("olmo2", "bfloat16", SMALL | dict(num_attention_heads=4, num_key_value_heads=2), rope_before_v5),
    "olmo3": ("olmo3", "bfloat16", SMALL | dict(num_hidden_layers=3, sliding_window=WINDOW, attention_bias=True,
              layer_types=["sliding_attention", "full_attention", "sliding_attention"], rope_parameters={
                  "full_attention": dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16,
                                         rope_theta=500.0),
                  "sliding_attention": dict(rope_type="default", rope_theta=500.0)}), None),
    "granite": ("granite", "bfloat16", SMALL | dict(embedding_multiplier=3.0, attention_multiplier=0.25,
                residual_multiplier=0.4, logits_scaling=2.5, tie_word_embeddings=True, attention_bias=True,
                mlp_bias=True), rope_before_v5),
    "granite4": ("granitemoehybrid", "bfloat16", SMALL | dict(
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=0, shared_intermediate_size=40,
        layer_types=["attention", "attention"], position_embedding_type="rope", embedding_multiplier=3.0,
        attention_multiplier=0.25, residual_multiplier=0.4, logits_scaling=2.5, mamba_n_heads=4, mamba_d_head=12), None),
    "granite4_no_rope": ("granitemoehybrid", "bfloat16", SMALL | dict(
        num_local_experts=0, shared_intermediate_size=40, layer_types=["attention", "attention"],
        tie_word_embeddings=True, mamba_n_heads=4, mamba_d_head=12), None),
    "ministral": ("ministral", "bfloat16", SMALL | dict(sliding_window=WINDOW, head_dim=12,
                  layer_types=["sliding_attention", "full_attention"]), None),
    "ministral3": ("ministral3", "bfloat16", SMALL | dict(head_dim=12, tie_word_embeddings=True, rope_parameters=dict(
        rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=8, beta_fast=32.0,
        beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.3)), None),
    "exaone4": ("exaone4", "bfloat16", SMALL | dict(num_hidden_layers=3, sliding_window=WINDOW,
                sliding_window_pattern=2), rope_before_v5),
    "exaone4_full": ("exaone4", "bfloat16", SMALL | dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                     sliding_window=None, layer_types=["full_attention"] * 2, tie_word_embeddings=True,
                     rope_parameters=dict(LLAMA3)), None),
    "glm": ("glm", "bfloat16", SMALL | dict(head_dim=8, rope_parameters=dict(
        rope_type="default", rope_theta=100.0, partial_rotary_factor=0.5)), rope_before_v5),
    "glm4": ("glm4", "bfloat16", SMALL | dict(num_attention_heads=4, num_key_value_heads=2, head_dim=12,
             attention_bias=False, rope_parameters=dict(rope_type="default", rope_theta=100.0,
                                                        partial_rotary_factor=0.5)), None),
    "starcoder2": ("starcoder2", "bfloat16", SMALL | dict(sliding_window=WINDOW), rope_before_v5),
    "starcoder2_no_bias": ("starcoder2", "bfloat16", SMALL | dict(num_attention_heads=4, num_key_value_heads=2,
                           head_dim=8, use_bias=False, tie_word_embeddings=False), None),
    "stablelm": ("stablelm", "bfloat16", SMALL | dict(use_qkv_bias=True, num_key_value_heads=3, rope_parameters=dict(
        rope_type="default", rope_theta=100.0, partial_rotary_factor=0.25)), rope_before_v5),
    "stablelm_parallel": ("stablelm", "bfloat16", SMALL | dict(qk_layernorm=True, use_parallel_residual=True,
                          num_attention_heads=4, num_key_value_heads=2, rope_parameters=dict(
                              rope_type="default", rope_theta=100.0, partial_rotary_factor=0.7)), None),
    "phi": ("phi", "float16", SMALL | dict(num_key_value_heads=3, rope_parameters=dict(
        rope_type="default", rope_theta=100.0, partial_rotary_factor=0.5)), rope_before_v5),
    "phi_head_norms": ("phi", "bfloat16", SMALL | dict(qk_layernorm=True, rope_parameters=dict(
        rope_type="default", rope_theta=100.0, partial_rotary_factor=0.5)), None),
    "cohere": ("cohere", "bfloat16", SMALL | dict(logit_scale=0.4, num_attention_heads=4, num_key_value_heads=2,
               head_dim=8), rope_before_v5),
    "cohere_head_norms": ("cohere", "bfloat16", SMALL | dict(use_qk_norm=True, attention_bias=True), None),
    "cohere2": ("cohere2", "bfloat16", SMALL | dict(num_hidden_layers=3, sliding_window=WINDOW, logit_scale=0.4,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"]), None),
    "gemma": ("gemma", "bfloat16", SMALL | dict(num_attention_heads=4, num_key_value_heads=2, head_dim=10), None),
    "gptj": ("gptj", "float16", dict(vocab_size=64, n_embd=24, n_inner=40, n_layer=2, n_head=3, n_positions=64,
             rotary_dim=6, pad_token_id=0), None),
    "apertus": ("apertus", "bfloat16", SMALL | dict(num_attention_heads=4, num_key_value_heads=2, attention_bias=True),
                None),
    "nemotron_h": ("nemotron_h", "bfloat16", NEMOTRON_H | dict(
        layers_block_type=["mamba", "mlp", "mamba", "attention", "mlp"]), None),
    "nemotron_h_bias": ("nemotron_h", "float16", NEMOTRON_H | dict(
        layers_block_type=["attention", "mlp", "mamba"], mlp_bias=True, use_bias=True, use_conv_bias=False,
        mlp_hidden_act="silu"), pattern_of_layers),
    "arcee": ("arcee", "bfloat16", SMALL | dict(num_attention_heads=4, num_key_value_heads=2, mlp_bias=True,
              attention_bias=True), rope_before_v5),
    "arcee_mish": ("arcee", "float16", SMALL | dict(hidden_act="mish"), None),
    "nemotron": ("nemotron", "bfloat16", SMALL | dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                 mlp_bias=True, attention_bias=True), None),
    "nemotron_quick_gelu": ("nemotron", "float16", SMALL | dict(num_attention_heads=4, num_key_value_heads=2,
                            head_dim=12, hidden_act="quick_gelu", tie_word_embeddings=True), rope_before_v5),
    "gpt2": ("gpt2", "float16", dict(vocab_size=64, n_embd=24, n_inner=40, n_layer=2, n_head=3, n_positions=64,
             pad_token_id=0), None),
    "gpt2_untied": ("gpt2", "bfloat16", dict(vocab_size=64, n_embd=24, n_inner=36, n_layer=2, n_head=4, n_positions=64,
                    pad_token_id=0, tie_word_embeddings=False, activation_function="gelu_10"), None),
    "bloom": ("bloom", "bfloat16", dict(vocab_size=64, hidden_size=24, n_layer=2, n_head=3, pad_token_id=0), None),
    "bloom_untied": ("bloom", "float16", dict(vocab_size=64, hidden_size=24, n_layer=2, n_head=4, pad_token_id=0,
                     tie_word_embeddings=False), None),
    "mpt": ("mpt", "bfloat16", dict(vocab_size=64, d_model=24, n_layers=2, n_heads=3, max_seq_len=64, pad_token_id=0),
            None),
    "mpt_clipped": ("mpt", "bfloat16", dict(vocab_size=64, d_model=24, n_layers=2, n_heads=4, max_seq_len=64,
                    pad_token_id=0, attn_config=dict(clip_qkv=1.5, softmax_scale=0.3)), None),
    "lfm2": ("lfm2", "bfloat16", SMALL | dict(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             intermediate_size=64, block_multiple_of=8, layer_types=["conv", "full_attention", "conv"]), hub_lfm2),
    "lfm2_bias": ("lfm2", "bfloat16", SMALL | dict(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                  block_auto_adjust_ff_dim=False, conv_bias=True, conv_L_cache=4, tie_word_embeddings=False,
                  layer_types=["full_attention", "conv", "full_attention"]), None),
    "qwen3_5": ("qwen3_5_text", "bfloat16", QWEN3_5 | dict(
        layer_types=["linear_attention", "linear_attention", "full_attention"]), None),
    "qwen3_5_interval": ("qwen3_5_text", "float16", QWEN3_5 | dict(
        num_hidden_layers=4, linear_num_value_heads=2, linear_conv_kernel_dim=2, attention_bias=True,
        tie_word_embeddings=True, layer_types=["linear_attention", "full_attention"] * 2,
        full_attention_interval=2), rope_before_v5_without_layer_types),
    "qwen3_5_linear_last": ("qwen3_5_text", "bfloat16", QWEN3_5 | dict(
        layer_types=["full_attention", "linear_attention", "linear_attention"]), None),
    "granite4_mamba": ("granitemoehybrid", "bfloat16", SMALL | dict(
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=0,
        shared_intermediate_size=40, layer_types=["mamba", "attention", "mamba"], embedding_multiplier=3.0,
        attention_multiplier=0.25, residual_multiplier=0.4, logits_scaling=2.5, mamba_n_heads=6, mamba_d_head=8,
        mamba_n_groups=2, mamba_d_state=5, mamba_chunk_size=8), None),
    "granite4_mamba_bias": ("granitemoehybrid", "float16", SMALL | dict(
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=0,
        shared_intermediate_size=40, layer_types=["attention", "mamba"], position_embedding_type="rope",
        mamba_n_heads=4, mamba_d_head="auto", mamba_d_state=16, mamba_d_conv=3, mamba_proj_bias=True,
        mamba_conv_bias=False, tie_word_embeddings=True), old_granite),
    "falcon_h1": ("falcon_h1", "bfloat16", FALCON_H1 | dict(
        mamba_d_ssm=36, mamba_n_groups=2, embedding_multiplier=2.5, lm_head_multiplier=0.6, key_multiplier=0.7,
        attention_in_multiplier=0.8, attention_out_multiplier=1.4, ssm_in_multiplier=1.3, ssm_out_multiplier=0.7,
        ssm_multipliers=[0.6, 0.9, 0.7, 1.3, 0.8], mlp_multipliers=[1.2, 0.7]), None),
    "falcon_h1_norm": ("falcon_h1", "float16", FALCON_H1 | dict(
        mamba_d_ssm=None, mamba_d_head=8, mamba_rms_norm=True, mamba_norm_before_gate=False, tie_word_embeddings=True,
        attention_bias=True, mlp_bias=True, projectors_bias=True, mamba_proj_bias=True, mamba_conv_bias=False), None),
    # Values that are the keys in full layers; then what the small models have.
    "gemma4": ("gemma4_text", "bfloat16", GEMMA4 | dict(
        num_hidden_layers=3, attention_k_eq_v=True, num_global_key_value_heads=1, final_logit_softcapping=30.0,
        layer_types=["sliding_attention", "full_attention", "full_attention"]), None),
    "gemma4_small": ("gemma4_text", "bfloat16", GEMMA4_SMALL, hub_gemma4),
    # Text models beside others.
    "gemma4_with_vision": ("gemma4", "bfloat16", dict(
        text_config=GEMMA4_SMALL | dict(use_double_wide_mlp=False, attention_bias=True),
        vision_config=dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
                           num_key_value_heads=2, head_dim=4, patch_size=4, position_embedding_size=16),
        image_token_id=63, video_token_id=62, audio_token_id=61), hub_gemma4),
    "qwen3_5_with_vision": ("qwen3_5", "bfloat16", dict(
        text_config=QWEN3_5 | dict(layer_types=["linear_attention", "linear_attention", "full_attention"]),
        vision_config=dict(depth=1, hidden_size=8, intermediate_size=8, num_heads=2, out_hidden_size=24, patch_size=4,
                           num_position_embeddings=4),
        image_token_id=63, video_token_id=62, vision_start_token_id=61, vision_end_token_id=60), None),
    "mistral3": ("mistral3", "bfloat16", dict(
        text_config=SMALL | dict(model_type="ministral3", head_dim=12, rope_parameters=dict(
            rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=8, mscale=1.0,
            mscale_all_dim=1.0, llama_4_scaling_beta=0.3)),
        vision_config=dict(model_type="pixtral", hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                           num_attention_heads=2, image_size=8, patch_size=4), image_token_index=63), None),
    "llava": ("llava", "bfloat16", dict(
        text_config=SMALL | dict(model_type="llama", tie_word_embeddings=True),
        vision_config=dict(model_type="clip_vision_model", hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                           num_attention_heads=2, image_size=8, patch_size=4), image_token_index=63), None),
    "qwen2_5_vl": ("qwen2_5_vl", "bfloat16", dict(
        text_config=SMALL | dict(num_attention_heads=4, num_key_value_heads=2, rope_parameters=dict(
            rope_type="default", rope_theta=100.0, mrope_section=[1, 1, 1])),
        vision_config=dict(depth=1, hidden_size=8, intermediate_size=8, num_heads=2, out_hidden_size=24, patch_size=4,
                           fullatt_block_indexes=[0]),
        image_token_id=63, video_token_id=62, vision_start_token_id=61), None),
    "qwen3_vl": ("qwen3_vl", "bfloat16", dict(
        text_config=SMALL | dict(num_attention_heads=4, num_key_value_heads=2, head_dim=8, rope_parameters=dict(
            rope_type="default", rope_theta=100.0, mrope_section=[2, 1, 1])),
        vision_config=dict(depth=1, hidden_size=8, intermediate_size=8, num_heads=2, out_hidden_size=24, patch_size=4,
                           num_position_embeddings=4, deepstack_visual_indexes=[0]),
        image_token_id=63, video_token_id=62, vision_start_token_id=61), None),
    "smolvlm": ("smolvlm", "bfloat16", dict(
        text_config=SMALL | dict(model_type="llama"),
        vision_config=dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8,
                           patch_size=4), scale_factor=2, image_token_id=63), None),
}
TOWERS = ("gemma4", "qwen3_5", "mistral3", "llava", "qwen2_5_vl", "qwen3_vl", "smolvlm")

INPUTS = {
    "attention": r"q_proj|qkv_proj|query_key_value|c_attn|Wqkv|in_proj|in_proj_qkvz?",
    "attention_output": r"o_proj|out_proj|attention\.dense|attn\.dense|attn\.c_proj",
    "mlp": r"gate_proj|gate_up_proj|dense_h_to_4h|fc1|fc_in|c_fc|shared_mlp\.input_linear|(mlp|mixer)\.up_proj|ffn\.up_proj|feed_forward\.w1",
    "mlp_output": r"down_proj|dense_4h_to_h|fc2|fc_out|mlp\.c_proj|shared_mlp\.output_linear|feed_forward\.w2",
}


# Tensors that a file has beside the model's: heads for multi-token prediction.
EXTRA = {"qwen3_5": {"mtp.fc.weight": (24, 48), "mtp.norm.weight": (24,)},
         "qwen3_5_with_vision": {"mtp.fc.weight": (24, 48), "mtp.layers.0.mlp.down_proj.weight": (24, 40)}}


# Of models whose layers are a mixer or an MLP alone: which of the two the last one is.
LAST = {"nemotron_h": "mlp", "nemotron_h_bias": "mixer"}


def add_tensors(path, shapes):
    tensors = load_file(path)
    for name, shape in shapes.items():
        tensors[name] = torch.randn(shape, dtype=torch.bfloat16)
    save_file(tensors, path, metadata={"format": "pt"})


def randomise(model, gemma, zero_centred=False):
    """Everything away from its default: gains and biases too, which hide faults when they are 1 and 0."""
    for name, parameter in model.named_parameters():
        if re.search(r"norm(_[\df])?\d?\.(norms\.\d+\.)?weight", name):
            parameter.data = 0.3 * torch.randn_like(parameter) + (0.0 if gemma or zero_centred else 1.0)
        elif name.endswith("bias"):
            parameter.data = 0.2 * torch.randn_like(parameter)
        elif "embed" in name:
            parameter.data = (0.2 if gemma else 1.0) * torch.randn_like(parameter)
        else:
            parameter.data = 1.2 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5


def auto_class(model_type):
    return AutoModelForImageTextToText if model_type in TOWERS else AutoModelForCausalLM


def save_model(name, case):
    model_type, dtype, settings, change = case
    folder = FOLDER / name
    config = AutoConfig.for_model(model_type, **settings)
    model = auto_class(model_type).from_config(config)
    randomise(model, re.match("gemma[23]?(_|$)", model_type), model_type.startswith(("qwen3_5", "nemotron")))
    if model_type.startswith("gemma4"):  # embeddings are scaled up and tied to the head, scores are not scaled down
        for parameter_name, parameter in model.named_parameters():
            if "embed_tokens" in parameter_name:
                parameter.data *= 0.2
            if "q_norm" in parameter_name:
                parameter.data *= 0.4
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("layer_scalar"):
            buffer.fill_(0.6 + 0.6 * torch.rand(()).item())
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    if name in EXTRA:
        add_tensors(folder / "model.safetensors", EXTRA[name])
    (folder / "generation_config.json").unlink(missing_ok=True)
    path = folder / "config.json"
    written = json.loads(path.read_text())
    if change:
        change(written)
    path.write_text(json.dumps(written, indent=1) + "\n")


def observe_both(layer, tensors):
    """Attention and a mixer side by side: their common input before its multipliers, and both outputs' inputs."""
    rows = lambda x: x.reshape(NUM_SEQUENCES, SEQLEN, -1)[-1].clone()
    layer.input_layernorm.register_forward_hook(lambda *args: tensors.__setitem__("attention", rows(args[2])))
    layer.mamba.in_proj._forward_pre_hooks.clear()
    layer.mamba.out_proj._forward_pre_hooks.clear()
    layer.self_attn.q_proj._forward_pre_hooks.clear()
    layer.mamba.out_proj.register_forward_pre_hook(lambda _, args: tensors.__setitem__("beside", rows(args[0])))


def save_expected(name):
    folder = FOLDER / name
    model = auto_class(CASES[name][0]).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(1, 61, (NUM_SEQUENCES, SEQLEN), dtype=torch.int32)
    tensors = {"ids": ids}
    layers = model.config.get_text_config().num_hidden_layers
    for module_name, module in model.named_modules():
        for key, pattern in INPUTS.items():
            if re.search(rf"(layers|\bh|blocks)\.{layers - 1}\..*({pattern})$", module_name) and "vision" not in module_name:
                module.register_forward_pre_hook(
                    lambda _, args, key=key: tensors.__setitem__(
                        key, args[0].reshape(NUM_SEQUENCES, SEQLEN, -1)[-1].clone()))
    if model.config.model_type == "falcon_h1":
        observe_both(model.model.layers[-1], tensors)
    with torch.no_grad():
        tensors["logits"] = model(ids.long()).logits.float()
    if "beside" in tensors:
        tensors["attention_output"] = torch.cat([tensors["attention_output"], tensors.pop("beside")], -1)
    last = {"mlp": {"mlp", "mlp_output"}, "mixer": {"attention", "attention_output"}}.get(LAST.get(name), set(INPUTS))
    assert set(tensors) == {"ids", "logits", *last}, tensors.keys()
    print(f"{name:22} logits up to {tensors['logits'].abs().max():.2f}")
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "expected.safetensors")


# name: (model_type, positions of the sequence, rope fields of config.json)
ROPES = {
    "default": ("llama", 2048, dict(rope_theta=10000.0)),
    "default_v5": ("llama", 2048, dict(rope_parameters=dict(rope_type="default", rope_theta=500000.0))),
    "linear": ("llama", 2048, dict(rope_theta=10000.0, rope_scaling=dict(type="linear", factor=4.0))),
    "dynamic": ("llama", 2048, dict(rope_theta=10000.0, rope_scaling=dict(rope_type="dynamic", factor=2.0))),
    "llama3": ("llama", 2048, dict(rope_theta=500000.0, rope_scaling=dict(
        rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=1024))),
    "yarn": ("llama", 2048, dict(rope_theta=10000.0, rope_scaling=dict(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=512))),
    "yarn_all_fields": ("qwen2", 2048, dict(rope_parameters=dict(
        rope_type="yarn", rope_theta=1e6, factor=8.0, original_max_position_embeddings=256, beta_fast=16.0,
        beta_slow=2.0, mscale=0.8, mscale_all_dim=0.4, truncate=False))),
    "proportional": ("llama", 2048, dict(rope_parameters=dict(
        rope_type="proportional", rope_theta=1e6, partial_rotary_factor=0.25, factor=2.0))),
    "yarn_attention_factor": ("llama", 2048, dict(rope_theta=10000.0, rope_scaling=dict(
        rope_type="yarn", factor=2.0, attention_factor=1.5))),
    "longrope_short": ("phi3", 64, dict(
        rope_theta=10000.0, original_max_position_embeddings=128,
        rope_scaling=dict(type="longrope", short_factor=[1 + i / 32 for i in range(16)],
                          long_factor=[2.0 + i for i in range(16)]))),
    "longrope_long": ("phi3", 129, dict(
        rope_theta=10000.0, original_max_position_embeddings=128,
        rope_scaling=dict(type="longrope", short_factor=[1 + i / 32 for i in range(16)],
                          long_factor=[2.0 + i for i in range(16)]))),
    "partial_odd": ("gpt_neox", 2048, dict(rotary_pct=0.3, rotary_emb_base=25000)),
    "gemma3_hub": ("gemma3_text", 2048, dict(rope_theta=1e6, rope_local_base_freq=1e4, sliding_window_pattern=2,
                                             rope_scaling=dict(rope_type="linear", factor=8.0))),
}
ROPE_SHAPE = dict(vocab_size=64, hidden_size=96, intermediate_size=8, num_hidden_layers=2, num_attention_heads=3,
                  num_key_value_heads=3, head_dim=32, max_position_embeddings=2048, pad_token_id=0)


def rope_rows(embedding, seqlen, positions, layer_type):
    extra = () if layer_type is None else (layer_type,)
    cos, sin = embedding(torch.zeros(1), torch.arange(seqlen)[None], *extra)
    half = cos.shape[-1] // 2
    return {"cos": cos[0, positions, :half].tolist(), "sin": sin[0, positions, :half].tolist()}


def save_ropes():
    result = []
    for name, (model_type, seqlen, fields) in ROPES.items():
        fields = {"model_type": model_type, **ROPE_SHAPE, **fields}
        config = AutoConfig.for_model(**json.loads(json.dumps(fields)))
        model = AutoModelForCausalLM.from_config(config)
        embedding = getattr(model, "gpt_neox", None) or model.model
        positions = [0, 1, 7, seqlen // 2, seqlen - 1]
        types = ["sliding_attention", "full_attention"] if model_type == "gemma3_text" else [None]
        tables = [rope_rows(embedding.rotary_emb, seqlen, positions, t) for t in types]
        result.append({"name": name, "config": fields, "seqlen": seqlen, "positions": positions, "tables": tables})
    (FOLDER / "ropes.json").write_text(json.dumps(result) + "\n")


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    names = sys.argv[1:]
    for index, (name, case) in enumerate(CASES.items()):
        if names and name not in names:
            continue
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        torch.manual_seed(index)
        save_model(name, case)
        save_expected(name)
    if not names:
        save_ropes()
    for path in FOLDER.rglob("*.safetensors"):
        path.chmod(0o644)
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    print(f"{size} bytes in {FOLDER}")


if __name__ == "__main__":
    main()
