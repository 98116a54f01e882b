#!/usr/bin/env python3
"""Writes into tests/data/checkpoint/gguf/ the models with another mixer than attention in some layers, as
make_gguf_fixtures.py does with the others: NAME.gguf as llama.cpp's converter would store it, NAME.safetensors with the
names and shapes that transformers has (those of tests/data/model/lfm2, which transformers wrote), NAME.config.json.

Used: gguf 0.19.0, transformers 5.24.0 (its configuration classes alone; no torch is needed), safetensors.
"""
import json
import pathlib

import gguf
import numpy as np
import transformers
from safetensors.numpy import save_file

from gguf_byte_tokenizer import VOCAB, byte_tokenizer

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "checkpoint" / "gguf"
HIDDEN, WIDTH, HEADS, KV_HEADS, HEAD = 8, 12, 2, 1, 4

BLOCK = {
    "operator_norm": "attn_norm", "ffn_norm": "ffn_norm", "feed_forward.w1": "ffn_gate", "feed_forward.w3": "ffn_up",
    "feed_forward.w2": "ffn_down", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output", "self_attn.q_layernorm": "attn_q_norm", "self_attn.k_layernorm": "attn_k_norm",
    "conv.in_proj": "shortconv.in_proj", "conv.conv": "shortconv.conv", "conv.out_proj": "shortconv.out_proj",
    "feed_forward.gate": "ffn_gate_inp",
}
EXPERTS, EXPERT_WIDTH, DENSE = 4, 6, 1
EXPERT_PARTS = {"w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps"}


def lfm2_shapes(types, taps, sparse):
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.embedding_norm.weight": (HIDDEN,)}
    for i, kind in enumerate(types):
        prefix = f"model.layers.{i}."
        shapes |= {prefix + "operator_norm.weight": (HIDDEN,), prefix + "ffn_norm.weight": (HIDDEN,)}
        mlp = prefix + "feed_forward."
        if sparse and i >= DENSE:
            shapes |= {mlp + "gate.weight": (EXPERTS, HIDDEN), mlp + "expert_bias": (EXPERTS,)}
        for mlp, width in ([(f"{mlp}experts.{e}.", EXPERT_WIDTH) for e in range(EXPERTS)] if sparse and i >= DENSE
                           else [(mlp, WIDTH)]):
            shapes |= {mlp + "w1.weight": (width, HIDDEN), mlp + "w2.weight": (HIDDEN, width),
                       mlp + "w3.weight": (width, HIDDEN)}
        if kind == "conv":
            shapes |= {prefix + "conv.conv.weight": (HIDDEN, 1, taps), prefix + "conv.in_proj.weight": (3 * HIDDEN, HIDDEN),
                       prefix + "conv.out_proj.weight": (HIDDEN, HIDDEN)}
            continue
        prefix += "self_attn."
        shapes |= {prefix + "q_proj.weight": (HEADS * HEAD, HIDDEN), prefix + "k_proj.weight": (KV_HEADS * HEAD, HIDDEN),
                   prefix + "v_proj.weight": (KV_HEADS * HEAD, HIDDEN), prefix + "out_proj.weight": (HIDDEN, HEADS * HEAD),
                   prefix + "q_layernorm.weight": (HEAD,), prefix + "k_layernorm.weight": (HEAD,)}
    return shapes


def gguf_name(name):
    if not name.startswith("model.layers."):
        return {"model.embed_tokens.weight": "token_embd.weight", "model.embedding_norm.weight": "token_embd_norm.weight"}[name]
    _, _, block, stem = name.split(".", 3)
    return f"blk.{block}.{BLOCK[stem.removesuffix('.weight')]}.weight"


def add_tensors(writer, state, layers):
    for name, value in state.items():
        if ".experts." in name:
            continue
        if name.endswith("expert_bias"):
            writer.add_tensor(f"blk.{name.split('.')[2]}.exp_probs_b.bias", value)
            continue
        writer.add_tensor(gguf_name(name), value.squeeze(1) if value.ndim == 3 else value)
    for i in range(layers):
        for part, stem in EXPERT_PARTS.items():
            names = [f"model.layers.{i}.feed_forward.experts.{e}.{part}.weight" for e in range(EXPERTS)]
            if names[0] in state:
                writer.add_tensor(f"blk.{i}.{stem}.weight", np.stack([state[n] for n in names]))


def write_lfm2(name, kind, sparse, extra):
    types = ["conv", "full_attention", "conv"]
    config = kind(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=WIDTH, num_hidden_layers=len(types), num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, max_position_embeddings=64, layer_types=types,
        conv_L_cache=3, bos_token_id=263, eos_token_id=264, pad_token_id=264,
        rope_parameters=dict(rope_type="default", rope_theta=5000.0), **extra)
    random = np.random.default_rng(5)
    state = {tensor: (0.3 * random.standard_normal(shape)).astype(np.float32)
             for tensor, shape in lfm2_shapes(types, config.conv_L_cache, sparse).items()}
    save_file(state, OUT / f"{name}.safetensors", metadata={"format": "pt"})
    (OUT / f"{name}.config.json").write_text(json.dumps(json.loads(config.to_json_string(use_diff=False)), indent=1))

    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", name)
    writer.add_name(name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(len(types))
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv([KV_HEADS if kind == "full_attention" else 0 for kind in types])
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(VOCAB)
    writer.add_shortconv_l_cache(config.conv_L_cache)
    if sparse:
        writer.add_expert_count(EXPERTS)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(EXPERT_WIDTH)
        writer.add_leading_dense_block_count(DENSE)
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    byte_tokenizer(writer, "llama-bpe")  # what llama.cpp takes "lfm2" for
    add_tensors(writer, state, len(types))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    write_lfm2("lfm2", transformers.Lfm2Config, False, dict(block_auto_adjust_ff_dim=False))
    write_lfm2("lfm2moe", transformers.Lfm2MoeConfig, True, dict(
        moe_intermediate_size=EXPERT_WIDTH, num_dense_layers=DENSE, num_experts=EXPERTS, num_experts_per_tok=2,
        routed_scaling_factor=1.0, norm_topk_prob=True, use_expert_bias=True))
