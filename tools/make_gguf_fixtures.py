#!/usr/bin/env python3
"""Writes tests/data/checkpoint/gguf/: what the GGUF tests compare with.

blocks.bin          random blocks of every type that swiftprune reads, and their values by the `gguf` package
NAME.gguf           a tiny random model as llama.cpp's converter would store it
NAME.safetensors    the same weights as transformers names and orders them
NAME.config.json    transformers' configuration of that model
spm.*, byte.*       tiny tokenizers and the merges that transformers derives from them

Used: gguf 0.19.0, transformers 5.23.0 (for the later half 5.24.0), torch 2.15.0, sentencepiece 0.2.3. With names of
models: writes those alone and leaves the others as they are.
"""
import io
import json
import pathlib
import re
import sys
import tempfile

import gguf
import numpy as np
import sentencepiece
import torch
import transformers
from gguf.quants import dequantize
from safetensors.torch import load_file, save_file
from transformers.tokenization_utils_base import generate_merges

from gguf_byte_tokenizer import VOCAB, byte_tokenizer

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "checkpoint" / "gguf"


def write_blocks():
    random = np.random.default_rng(1)
    # Where the f16 numbers of a block lie: they are made finite, so that values can be compared.
    halves = {"F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82],
              "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
              "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0],
              "IQ3_XXS": [0], "IQ3_S": [0], "IQ1_S": [0]}
    with open(OUT / "blocks.bin", "wb") as file:
        for name in ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
                     "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS",
                     "IQ3_S", "IQ1_S", "IQ1_M"]:
            kind = gguf.GGMLQuantizationType[name]
            block_size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
            count = 3 if block_size > 1 else 40
            raw = random.integers(0, 256, (count, block_bytes), dtype=np.uint8)
            if name == "F32":
                raw = random.standard_normal((count, 1), dtype=np.float32).view(np.uint8)
            if name == "BF16":
                raw[:, 1] &= 0x3F  # below 2.0
            if name == "IQ1_M":
                raw[:, 55] &= 0xBF  # the upper bits of its f16, which four numbers share: finite
            if name == "MXFP4":
                raw[:, 0] = [0, 1, 120]  # subnormal powers and one of everyday size
            for at in halves.get(name, []):
                half = random.standard_normal(count).astype(np.float16)
                half[0] = 6e-7  # a subnormal
                raw[:, at:at + 2] = half.reshape(-1, 1).view(np.uint8)
            values = dequantize(raw.reshape(1, -1), kind).astype(np.float32).reshape(-1)
            assert np.isfinite(values).all() and values.size == count * block_size
            np.array([kind, count], dtype=np.uint32).tofile(file)
            raw.tofile(file)
            values.tofile(file)


def rotary_pairs(weight, heads):
    """llama.cpp's order of q and k rows: rotary pairs side by side."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def split_qkv(weight, heads):
    """llama.cpp's order of fused rows: all q, all k, all v."""
    parts = weight.reshape(heads, 3, -1, *weight.shape[1:])
    return parts.swapaxes(0, 1).reshape(weight.shape)


LLAMA_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}
GEMMA_NAMES = LLAMA_NAMES | {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
NEOX_NAMES = {
    "gpt_neox.embed_in": "token_embd", "gpt_neox.final_layer_norm": "output_norm", "embed_out": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
}


GPT2_NAMES = {
    "transformer.wte": "token_embd", "transformer.wpe": "position_embd", "transformer.ln_f": "output_norm",
    "lm_head": "output", "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}
BEHIND_NAMES = LLAMA_NAMES | {
    "post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm",
}
GLM4_NAMES = LLAMA_NAMES | {
    "post_self_attn_layernorm": "post_attention_norm", "post_mlp_layernorm": "post_ffw_norm",
}
PLAIN_NAMES = LLAMA_NAMES | {
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
    "self_attn.dense": "attn_output", "model.final_layernorm": "output_norm",
}
# Their converters are LLaMA's or repeat it: rotary pairs side by side.
PERMUTED = ("llama", "smollm3", "mistral3", "granite", "olmo", "arcee")
# Stored as 1 + w.
OFFSET = re.compile(r"norm.*\.weight$")


def gguf_name(name, names):
    stem, part = name.rsplit(".", 1)
    prefix = ""
    if found := re.search(r"\.(?:layers|h)\.(\d+)\.(.*)", stem):
        block, stem = found.groups()
        prefix = f"blk.{block}."
    return f"{prefix}{names[stem]}.{part}"


def write_model(name, arch, config, names, pre, extra, parts=0):
    """parts: of how many tensors, where the file is to be split."""
    if sys.argv[1:] and name not in sys.argv[1:]:
        return
    torch.manual_seed(len(name.removesuffix("_split")))
    state = {}
    for key, value in transformers.AutoModelForCausalLM.from_config(config).state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if "rotary" in key or key.endswith(".attention.bias") or key.endswith("masked_bias"):
            continue
        if arch == "gptneox":
            key = key.replace("lm_head.", "embed_out.")  # its name in files
        # Norms start as ones and biases as zeros: make every value count.
        state[key] = torch.randn_like(value, dtype=torch.float32) * 0.3
    if not parts:  # else those of the whole
        save_file(state, OUT / f"{name}.safetensors", metadata={"format": "pt"})
        text = json.dumps(json.loads(config.to_json_string(use_diff=False)), indent=1)
        (OUT / f"{name}.config.json").write_text(text)

    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", arch, split_max_tensors=parts)
    writer.add_name(name.removesuffix("_split"))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.n_inner if arch == "gpt2" else config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    if arch not in ("gptneox", "gpt2"):
        writer.add_head_count_kv(config.num_key_value_heads)
        if hasattr(config, "rms_norm_eps"):
            writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    extra(writer, config)
    byte_tokenizer(writer, pre)
    for number in ("alpha_n", "alpha_p", "beta", "eps") if arch == "apertus" else ():
        of_layers = [float(v) for k, v in state.items() if k.endswith(f".act_fn.{number}")]
        getattr(writer, f"add_xielu_{number}")(of_layers)
    for key, value in state.items():
        if ".act_fn." in key:
            continue
        data = value.numpy()
        if arch in PERMUTED and ".q_proj." in key:
            data = rotary_pairs(data, config.num_attention_heads)
        if arch in PERMUTED and ".k_proj." in key:
            data = rotary_pairs(data, config.num_key_value_heads)
        if arch == "gptneox" and "query_key_value" in key:
            data = split_qkv(data, config.num_attention_heads)
        if arch.startswith(("gemma", "nemotron")) and OFFSET.search(key):
            data = data + np.float32(1)
        if arch == "gpt2" and re.search(r"\.c_\w+\.weight$", key):
            data = data.T
        writer.add_tensor(gguf_name(key, names), np.ascontiguousarray(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    # What these norms come back as: 1 + w is rounded.
    if arch.startswith(("gemma", "nemotron")):
        state = {k: ((v + 1) - 1 if OFFSET.search(k) else v) for k, v in state.items()}
        save_file(state, OUT / f"{name}.safetensors", metadata={"format": "pt"})


SMALL = dict(vocab_size=VOCAB, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, max_position_embeddings=64, bos_token_id=263, eos_token_id=264, pad_token_id=264)


LLAMA3_ROPE = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=8192)


def llama_extra(writer, config):
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if config.rope_parameters["rope_type"] == "llama3":
        inv, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        plain = 1.0 / 500000.0 ** (torch.arange(0, config.head_dim, 2).float() / config.head_dim)
        writer.add_tensor("rope_freqs.weight", (plain / inv).numpy().astype(np.float32))


def write_models():
    head = dict(head_dim=4)
    write_model(
        "llama", "llama",
        transformers.LlamaConfig(**(SMALL | dict(head_dim=16, num_hidden_layers=1)), rope_parameters=LLAMA3_ROPE, tie_word_embeddings=True),
        LLAMA_NAMES, "llama-bpe", lambda w, c: (llama_extra(w, c), w.add_key_length(16), w.add_value_length(16)))
    write_model(
        "llama_bias", "llama",
        transformers.LlamaConfig(**(SMALL | head), attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5),
        LLAMA_NAMES, "smollm", llama_extra)

    def qwen_extra(writer, config):
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])

    write_model(
        "qwen2", "qwen2",
        transformers.Qwen2Config(**SMALL, rope_parameters=dict(
            rope_type="yarn", factor=4.0, original_max_position_embeddings=16, rope_theta=1e6)),
        LLAMA_NAMES, "qwen2",
        lambda w, c: (qwen_extra(w, c), w.add_rope_scaling_type(gguf.RopeScalingType.YARN),
                      w.add_rope_scaling_factor(4.0), w.add_rope_scaling_orig_ctx_len(16)))
    for name, parts in [("qwen3", 0), ("qwen3_split", 9)]:
        write_model(
            name, "qwen3",
            transformers.Qwen3Config(**SMALL, head_dim=6, tie_word_embeddings=True,
                                     rope_parameters=dict(rope_type="default", rope_theta=1e6)),
            LLAMA_NAMES, "qwen2", lambda w, c: (qwen_extra(w, c), w.add_key_length(6), w.add_value_length(6)), parts)

    def gemma_extra(writer, config):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)

    write_model(
        "gemma2", "gemma2",
        transformers.Gemma2Config(**SMALL, head_dim=6, query_pre_attn_scalar=6, sliding_window=8,
                                  attn_logit_softcapping=40.0, final_logit_softcapping=20.0),
        GEMMA_NAMES, "gpt-2",
        lambda w, c: (gemma_extra(w, c), w.add_attn_logit_softcapping(40.0), w.add_final_logit_softcapping(20.0)))
    write_model(
        "gemma3", "gemma3",
        transformers.Gemma3TextConfig(**(SMALL | dict(num_hidden_layers=7)), head_dim=6, query_pre_attn_scalar=6,
                                      sliding_window=8, rope_parameters=dict(
                                          full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                                          sliding_attention=dict(rope_type="default", rope_theta=10000.0))),
        GEMMA_NAMES, "gpt-2",
        lambda w, c: (gemma_extra(w, c), w.add_rope_freq_base(1e6),
                      w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), w.add_rope_scaling_factor(8.0)))

    def phi3_extra(writer, config):
        rope = config.rope_parameters
        writer.add_rope_dimension_count(4)
        writer.add_rope_freq_base(rope["rope_theta"])
        writer.add_rope_scaling_orig_ctx_len(32)
        writer.add_sliding_window(7)
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], dtype=np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], dtype=np.float32))

    write_model(
        "phi3", "phi3",
        transformers.Phi3Config(**(SMALL | dict(hidden_size=16)), original_max_position_embeddings=32, sliding_window=7,
                                rope_parameters=dict(rope_type="longrope", rope_theta=10000.0,
                                                     partial_rotary_factor=0.5,
                                                     original_max_position_embeddings=32,
                                                     short_factor=[1.0, 1.25], long_factor=[1.5, 4.0])),
        LLAMA_NAMES, "gpt-4o", phi3_extra)

    def neox_extra(writer, config):
        writer.add_rope_dimension_count(2)
        writer.add_parallel_residual(config.use_parallel_residual)
        writer.add_layer_norm_eps(config.layer_norm_eps)

    small = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
    write_model(
        "gptneox", "gptneox",
        transformers.GPTNeoXConfig(**small, use_parallel_residual=False, layer_norm_eps=1e-5, rope_parameters=dict(
            rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5)),
        NEOX_NAMES, "olmo", neox_extra)


def write_dense_models():
    """Architectures of 2024 to 2026."""
    def theta(writer, config):
        rope = config.rope_parameters
        writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])

    def pattern(writer, config):
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([t == "sliding_attention" for t in config.layer_types])

    four = SMALL | dict(num_hidden_layers=4)
    rope = dict(rope_type="default", rope_theta=5000.0)
    half = rope | dict(partial_rotary_factor=0.5)
    write_model("smollm3", "smollm3", transformers.SmolLM3Config(**four, tie_word_embeddings=True, rope_parameters=rope),
                LLAMA_NAMES, "llama-bpe", theta)
    write_model(
        "mistral3", "mistral3",
        transformers.Ministral3Config(**SMALL, head_dim=4, rope_parameters=dict(
            rope_type="yarn", rope_theta=5000.0, factor=4.0, original_max_position_embeddings=16, beta_fast=32.0,
            beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.25)),
        LLAMA_NAMES, "tekken",
        lambda w, c: (theta(w, c), w.add_key_length(4), w.add_value_length(4),
                      w.add_rope_scaling_type(gguf.RopeScalingType.YARN), w.add_rope_scaling_factor(4.0),
                      w.add_rope_scaling_orig_ctx_len(16), w.add_rope_scaling_yarn_beta_fast(32.0),
                      w.add_rope_scaling_yarn_beta_slow(1.0), w.add_rope_scaling_yarn_log_mul(1.0),
                      w.add_attn_temperature_scale(0.25)))
    write_model(
        "granite", "granite",
        transformers.GraniteConfig(**SMALL, attention_bias=True, embedding_multiplier=12.0, attention_multiplier=0.125,
                                   residual_multiplier=0.22, logits_scaling=8.0, rope_parameters=rope),
        LLAMA_NAMES, "smollm",
        lambda w, c: (theta(w, c), w.add_attention_scale(0.125), w.add_embedding_scale(12.0),
                      w.add_residual_scale(0.22), w.add_logit_scale(8.0)))
    write_model("olmo", "olmo", transformers.OlmoConfig(**SMALL, clip_qkv=8.0, rope_parameters=rope), LLAMA_NAMES, "olmo",
                lambda w, c: (theta(w, c), w.add_layer_norm_eps(1e-5), w.add_clamp_kqv(8.0)))
    write_model("olmo2", "olmo2", transformers.Olmo2Config(**SMALL, rope_parameters=rope), BEHIND_NAMES, "dbrx", theta)
    write_model(
        "olmo3", "olmo2",
        transformers.Olmo3Config(**four, sliding_window=8, layer_types=["sliding_attention", "full_attention"] * 2,
                                 rope_parameters=dict(full_attention=rope, sliding_attention=rope)),
        BEHIND_NAMES, "dbrx", lambda w, c: (theta(w, c), pattern(w, c)))
    write_model("exaone4", "exaone4",
                transformers.Exaone4Config(**SMALL, sliding_window=None, layer_types=["full_attention"] * 2,
                                           tie_word_embeddings=True, rope_parameters=rope),
                BEHIND_NAMES, "gpt-2", theta)
    write_model("glm4", "glm4", transformers.Glm4Config(**SMALL, head_dim=8, rope_parameters=half), GLM4_NAMES, "dbrx",
                lambda w, c: (theta(w, c), w.add_rope_dimension_count(4), w.add_key_length(8), w.add_value_length(8)))
    write_model("stablelm", "stablelm", transformers.StableLmConfig(**SMALL, use_qkv_bias=True, rope_parameters=half),
                LLAMA_NAMES, "qwen2",
                lambda w, c: (theta(w, c), w.add_rope_dimension_count(2), w.add_layer_norm_eps(1e-5),
                              w.add_parallel_residual(False)))
    write_model("starcoder2", "starcoder2", transformers.Starcoder2Config(**SMALL, rope_parameters=rope), PLAIN_NAMES,
                "smollm", lambda w, c: (theta(w, c), w.add_layer_norm_eps(1e-5)))
    write_model("phi2", "phi2", transformers.PhiConfig(**SMALL, rope_parameters=half), PLAIN_NAMES, "gpt-2",
                lambda w, c: (theta(w, c), w.add_rope_dimension_count(2), w.add_layer_norm_eps(1e-5)))
    write_model("command_r", "command-r", transformers.CohereConfig(**SMALL, logit_scale=0.5, rope_parameters=rope),
                LLAMA_NAMES, "command-r",
                lambda w, c: (theta(w, c), w.add_layer_norm_eps(1e-5), w.add_logit_scale(0.5),
                              w.add_rope_scaling_type(gguf.RopeScalingType.NONE)))
    write_model(
        "cohere2", "cohere2",
        transformers.Cohere2Config(**four, logit_scale=0.5, sliding_window=8, rope_parameters=rope), LLAMA_NAMES,
        "command-r",
        lambda w, c: (theta(w, c), w.add_layer_norm_eps(1e-5), w.add_logit_scale(0.5), w.add_sliding_window(8),
                      w.add_rope_dimension_count(4), w.add_rope_scaling_type(gguf.RopeScalingType.NONE)))
    write_model("gpt2", "gpt2",
                transformers.GPT2Config(vocab_size=VOCAB, n_embd=8, n_inner=12, n_layer=2, n_head=2, n_positions=64,
                                        bos_token_id=263, eos_token_id=264, pad_token_id=264),
                GPT2_NAMES, "gpt-2", lambda w, c: w.add_layer_norm_eps(1e-5))
    write_model("arcee", "arcee", transformers.ArceeConfig(**SMALL, head_dim=4, rope_parameters=rope), LLAMA_NAMES,
                "llama-bpe", lambda w, c: (theta(w, c), w.add_rope_dimension_count(4)))
    apertus = transformers.ApertusConfig(**SMALL, attention_bias=True, rope_parameters=LLAMA3_ROPE)
    apertus.head_dim = 16
    write_model("apertus", "apertus", apertus,
                LLAMA_NAMES | {"attention_layernorm": "attn_norm", "feedforward_layernorm": "ffn_norm"}, "tekken",
                lambda w, c: (llama_extra(w, c), w.add_key_length(16), w.add_value_length(16)))
    write_model("nemotron", "nemotron",
                transformers.NemotronConfig(**SMALL, head_dim=4, attention_bias=True, rope_parameters=half), LLAMA_NAMES,
                "llama-bpe", lambda w, c: (theta(w, c), w.add_rope_dimension_count(2), w.add_layer_norm_eps(1e-5),
                                           w.add_rope_scaling_type(gguf.RopeScalingType.NONE)))
    write_model("gemma", "gemma", transformers.GemmaConfig(**SMALL, head_dim=6, rope_parameters=rope), LLAMA_NAMES,
                "gpt-2", lambda w, c: (theta(w, c), w.add_key_length(6), w.add_value_length(6)))


EXPERT_NAMES = LLAMA_NAMES | {
    "block_sparse_moe.gate": "ffn_gate_inp", "mlp.gate": "ffn_gate_inp", "mlp.router": "ffn_gate_inp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
} | {f"mlp.{shared}.{part}_proj": f"ffn_{part}_shexp"
     for shared in ("shared_expert", "shared_experts") for part in ("gate", "up", "down")} | {
    "self_attn.q_a_proj": "attn_q_a", "self_attn.q_b_proj": "attn_q_b", "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
}
EXPERT_PARTS = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "w1": "gate", "w3": "up", "w2": "down"}


def ggml_mxfp4(blocks, scales):
    """Hugging Face's MXFP4 (pairs of neighbours in a byte) as GGUF's blocks: the scale, then numbers i and i + 16."""
    codes = np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:-1], 32)
    packed = np.concatenate([scales[..., None], codes[..., :16] | codes[..., 16:] << 4], -1)
    return packed.reshape(*packed.shape[:2], -1)


def split_experts(state, config):
    """What llama.cpp's converter makes of experts and latent attention: (GGUF name, array, MXFP4?), and the keys it
    took."""
    made, taken = {}, set()
    for key, value in state.items():
        block = key.split(".")[2] if ".layers." in key else ""
        data = value.numpy()
        found = re.search(r"experts\.(\d+)\.(\w+)\.weight$", key)
        if found:
            name = f"blk.{block}.ffn_{EXPERT_PARTS[found[2]]}_exps.weight"
            made.setdefault(name, {})[int(found[1])] = data
        elif ".experts.gate_up_proj" in key or ".experts.down_proj" in key:  # gpt-oss
            parts = ["down"] if "down_proj" in key else ["gate", "up"]
            for i, part in enumerate(parts):
                name, n = f"blk.{block}.ffn_{part}_exps.", len(parts)
                if key.endswith("_bias"):
                    made[name + "bias"] = data[:, i::n]
                elif key.endswith("_blocks"):
                    scales = state[key.replace("_blocks", "_scales")].numpy()
                    made[name + "weight"] = ggml_mxfp4(data[:, i::n], scales[:, i::n])
                elif not key.endswith("_scales"):
                    made[name + "weight"] = data.swapaxes(1, 2)[:, i::n]
        elif key.endswith("kv_b_proj.weight"):
            heads = data.reshape(config.num_attention_heads, -1, data.shape[-1])
            keys, values = heads[:, :config.qk_nope_head_dim], heads[:, config.qk_nope_head_dim:]
            made[f"blk.{block}.attn_k_b.weight"] = keys.swapaxes(1, 2)
            made[f"blk.{block}.attn_v_b.weight"] = values
        elif key.endswith("e_score_correction_bias"):
            made[f"blk.{block}.exp_probs_b.bias"] = data
        elif key.endswith("self_attn.sinks"):
            made[f"blk.{block}.attn_sinks.weight"] = data
        else:
            continue
        taken.add(key)
    for name, value in made.items():
        if isinstance(value, dict):
            made[name] = np.stack([value[e] for e in sorted(value)])
    return made, taken


def write_expert_model(name, arch, config, pre, extra, names=EXPERT_NAMES, mxfp4=False):
    if sys.argv[1:] and name not in sys.argv[1:]:
        return
    torch.manual_seed(len(name))
    with tempfile.TemporaryDirectory() as folder:  # the names that files have are not those of the modules
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        state = load_file(pathlib.Path(folder) / "model.safetensors")
    state = {key: torch.randn_like(value, dtype=torch.float32) * 0.3 for key, value in state.items()}
    for key in [key for key in state if mxfp4 and re.search(r"experts\.\w+_proj$", key)]:
        experts, inputs, outputs = state.pop(key).shape
        state[key + "_blocks"] = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
        state[key + "_scales"] = torch.randint(122, 126, (experts, outputs, inputs // 32), dtype=torch.uint8)
    save_file({key: value.contiguous() for key, value in state.items()}, OUT / f"{name}.safetensors",
              metadata={"format": "pt"})
    (OUT / f"{name}.safetensors").chmod(0o644)
    (OUT / f"{name}.config.json").write_text(json.dumps(json.loads(config.to_json_string(use_diff=False)), indent=1))

    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", arch, split_max_tensors=parts)
    writer.add_name(name.removesuffix("_split"))
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    count = [getattr(config, n) for n in ("n_routed_experts", "num_local_experts", "num_experts") if hasattr(config, n)][0]
    writer.add_expert_count(count)
    writer.add_expert_used_count(config.num_experts_per_tok)
    extra(writer, config)
    byte_tokenizer(writer, pre)
    made, taken = split_experts(state, config)
    for key, value in state.items():
        if key in taken:
            continue
        data = value.numpy()
        if arch == "llama" and (".q_proj." in key or ".k_proj." in key):
            data = rotary_pairs(data, config.num_attention_heads if ".q_proj." in key else config.num_key_value_heads)
        made[gguf_name(key, names)] = data.reshape(-1) if "shared_expert_gate" in key else data
    for key, data in made.items():
        kind = gguf.GGMLQuantizationType.MXFP4 if data.dtype == np.uint8 else None
        writer.add_tensor(key, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_expert_models():
    """Architectures with experts."""
    rope = dict(rope_parameters=dict(rope_type="default", rope_theta=5000.0))
    grouped = lambda w, c: w.add_head_count_kv(c.num_key_value_heads)
    heads = lambda w, size: (w.add_key_length(size), w.add_value_length(size))

    def latent(writer, c):
        writer.add_head_count_kv(1)
        writer.add_q_lora_rank(c.q_lora_rank or 0)
        writer.add_kv_lora_rank(c.kv_lora_rank)
        writer.add_key_length(c.kv_lora_rank + c.qk_rope_head_dim)
        writer.add_value_length(c.kv_lora_rank)
        writer.add_key_length_mla(c.qk_nope_head_dim + c.qk_rope_head_dim)
        writer.add_value_length_mla(c.v_head_dim)
        writer.add_rope_dimension_count(c.qk_rope_head_dim)

    def router(writer, c, kind):
        writer.add_leading_dense_block_count(c.first_k_dense_replace)
        writer.add_expert_feed_forward_length(c.moe_intermediate_size)
        writer.add_expert_shared_count(c.n_shared_experts)
        writer.add_expert_weights_scale(c.routed_scaling_factor)
        writer.add_expert_weights_norm(c.norm_topk_prob)
        writer.add_expert_gating_func(kind)

    soft, sigmoid = gguf.ExpertGatingFuncType.SOFTMAX, gguf.ExpertGatingFuncType.SIGMOID
    write_expert_model(
        "mixtral", "llama", transformers.MixtralConfig(**SMALL, head_dim=4, num_local_experts=4, num_experts_per_tok=2, **rope),
        "llama-bpe", lambda w, c: (grouped(w, c), w.add_rope_dimension_count(4)))
    write_expert_model(
        "qwen2moe", "qwen2moe",
        transformers.Qwen2MoeConfig(**SMALL, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=6,
                                    shared_expert_intermediate_size=10, **rope),
        "qwen2", lambda w, c: (grouped(w, c), w.add_expert_feed_forward_length(6),
                               w.add_expert_shared_feed_forward_length(10)))
    write_expert_model(
        "qwen3moe", "qwen3moe",
        transformers.Qwen3MoeConfig(**SMALL, head_dim=6, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=10,
                                    norm_topk_prob=True, mlp_only_layers=[], **rope),
        "qwen2", lambda w, c: (grouped(w, c), heads(w, 6), w.add_expert_feed_forward_length(10)))
    write_expert_model(
        "olmoe", "olmoe", transformers.OlmoeConfig(**(SMALL | dict(num_key_value_heads=2)), num_experts=5, num_experts_per_tok=2, **rope),
        "olmo", grouped)

    def gpt_oss(writer, c):
        grouped(writer, c)
        heads(writer, c.head_dim)
        writer.add_expert_feed_forward_length(c.intermediate_size)
        writer.add_sliding_window(c.sliding_window)
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(16)
        writer.add_rope_scaling_yarn_beta_fast(32.0)
        writer.add_rope_scaling_yarn_beta_slow(1.0)

    yarn = dict(rope_type="yarn", rope_theta=5000.0, factor=4.0, original_max_position_embeddings=16)
    oss = dict(num_local_experts=4, num_experts_per_tok=2, sliding_window=8, head_dim=4, attention_bias=True,
               rope_parameters=yarn | dict(beta_fast=32.0, beta_slow=1.0, truncate=False))
    oss_names = EXPERT_NAMES | {"post_attention_layernorm": "post_attention_norm"}
    write_expert_model("gpt_oss", "gpt-oss", transformers.GptOssConfig(**SMALL, **oss), "gpt-4o", gpt_oss, oss_names)
    write_expert_model("gpt_oss_mxfp4", "gpt-oss",
                       transformers.GptOssConfig(**(SMALL | dict(hidden_size=32, intermediate_size=64)), **oss),
                       "gpt-4o", gpt_oss, oss_names, mxfp4=True)
    write_expert_model(
        "glm4moe", "glm4moe",
        transformers.Glm4MoeConfig(**SMALL, head_dim=8, n_routed_experts=6, num_experts_per_tok=2, n_shared_experts=2,
                                   moe_intermediate_size=6, first_k_dense_replace=1, routed_scaling_factor=1.7,
                                   use_qk_norm=True, attention_bias=True, n_group=1, topk_group=1,
                                   rope_parameters=dict(rope_type="default", rope_theta=5000.0, partial_rotary_factor=0.5)),
        "dbrx", lambda w, c: (grouped(w, c), heads(w, 8), w.add_rope_dimension_count(4), router(w, c, sigmoid)),
        oss_names)
    sizes = SMALL | dict(num_key_value_heads=2, moe_intermediate_size=6, first_k_dense_replace=1, kv_lora_rank=10,
                         qk_rope_head_dim=4, qk_nope_head_dim=6, v_head_dim=8)
    write_expert_model(
        "deepseek_v2", "deepseek2",
        transformers.DeepseekV2Config(**sizes, q_lora_rank=None, n_routed_experts=5, n_shared_experts=1, num_experts_per_tok=2,
                                      n_group=1, topk_group=1, topk_method="greedy", routed_scaling_factor=1.5, **rope),
        "llama-bpe", lambda w, c: (latent(w, c), router(w, c, soft)))
    write_expert_model(
        "deepseek_v3", "deepseek2",
        transformers.DeepseekV3Config(**sizes, q_lora_rank=6, n_routed_experts=9, n_shared_experts=2, num_experts_per_tok=3,
                                      n_group=3, topk_group=2, routed_scaling_factor=2.5, norm_topk_prob=True,
                                      rope_parameters=yarn | dict(mscale=0.75, mscale_all_dim=0.75)),
        "deepseek-v3",
        lambda w, c: (latent(w, c), router(w, c, sigmoid), w.add_expert_group_count(3), w.add_expert_group_used_count(2),
                      w.add_rope_scaling_type(gguf.RopeScalingType.YARN), w.add_rope_scaling_factor(4.0),
                      w.add_rope_scaling_orig_ctx_len(16), w.add_rope_scaling_yarn_log_mul(0.075)))


def write_sentencepiece():
    """A SentencePiece BPE tokenizer, stored as llama.cpp's converter does (added tokens lose their score)."""
    model = io.BytesIO()
    text = (OUT.parents[3] / "LICENSE").read_text().splitlines()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=420, model_type="bpe", byte_fallback=True,
        user_defined_symbols=["<tag>", "▁▁", "▁▁▁", "\n"], normalization_rule_name="identity",
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, minloglevel=2)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    tokens, scores, types = [], [], []
    for i in range(sp.get_piece_size()):
        piece = sp.id_to_piece(i)
        kind = (gguf.TokenType.UNKNOWN if sp.is_unknown(i) else gguf.TokenType.CONTROL if sp.is_control(i)
                else gguf.TokenType.BYTE if sp.is_byte(i) else gguf.TokenType.NORMAL)
        score = sp.get_score(i)
        if piece in ("<tag>", "▁▁", "▁▁▁", "\n"):
            kind, score = gguf.TokenType.USER_DEFINED, -1000.0
            piece = piece.replace("▁", " ")
        tokens.append(piece), scores.append(score), types.append(kind)
    writer = gguf.GGUFWriter(OUT / "spm.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(sp.bos_id()), writer.add_eos_token_id(sp.eos_id()), writer.add_unk_token_id(sp.unk_id())
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 1), dtype=np.float32))
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()

    pieces = {sp.id_to_piece(i): i for i in range(len(tokens))}
    merges = generate_merges(pieces, {p: sp.get_score(i) for p, i in pieces.items()})
    cases = ["Hello world", "  two  spaces   three\n", "a<tag>b", "π ≈ 3.14159 — ünïcödé 🙂", "", " ", "def f(x):\n    return x"]

    def ids(text):
        # Llama's tokenizer.json and llama.cpp encode each piece between added tokens by itself, with its own prefix.
        found = [sp.bos_id()]
        for piece in re.split("(<tag>|\n)", text):
            found += [pieces[piece]] if piece in ("<tag>", "\n") else sp.encode(piece)
        return found

    (OUT / "spm.json").write_text(json.dumps(
        {"vocab": pieces, "merges": [" ".join(m) for m in merges],
         "cases": [{"text": t, "ids": ids(t)} for t in cases]}, ensure_ascii=False, indent=0))


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    if not sys.argv[1:]:
        write_blocks()
        write_sentencepiece()
    write_models()
    write_dense_models()
    write_expert_models()
