#!/usr/bin/env python3
"""Writes into tests/data/checkpoint/gguf/ the models with Mamba-2 or gated DeltaNet, Gemma 4, BLOOM, MPT and GLM-4-9B, as
make_gguf_fixtures.py does with the others: NAME.gguf as llama.cpp's converter would store it, NAME.safetensors with the names and shapes that
transformers writes, NAME.config.json. granite4 has names of its own in an architecture of others.

Used: gguf 0.19.0, transformers 5.24.0, torch 2.15.0, safetensors. With names of models: writes those alone.
"""
import json
import pathlib
import sys
import tempfile

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

from gguf_byte_tokenizer import VOCAB, byte_tokenizer

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "checkpoint" / "gguf"
HIDDEN, WIDTH, HEADS, KV_HEADS, HEAD, THETA = 8, 12, 2, 1, 8, 5000.0
EXPERTS, USED, EXPERT_WIDTH, SHARED_WIDTH = 4, 2, 8, 12  # whole vectors, as llama.cpp wants them
MAMBA_HEADS, MAMBA_HEAD, GROUPS, STATE, TAPS = 4, 4, 2, 8, 4
KEY_HEADS, VALUE_HEADS, KEY = 2, 4, 8  # a value is as long as a key: llama.cpp knows no other

ATTENTION = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "q_norm": "attn_q_norm",
             "k_norm": "attn_k_norm"}
MIXER = {"in_proj": "ssm_in", "conv1d": "ssm_conv1d", "norm": "ssm_norm", "out_proj": "ssm_out"}
MLP = {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}


def rotary_pairs(weight, heads):
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def tiled(weight, axis=0, size=1):
    """Value heads, which lie key head by key head: the first of each key head, then the second of each."""
    shape = weight.shape
    parts = weight.reshape(*shape[:axis], KEY_HEADS, VALUE_HEADS // KEY_HEADS, size, *shape[axis + 1:])
    return parts.swapaxes(axis, axis + 1).reshape(shape)


def behind_keys(weight):
    keys = 2 * KEY_HEADS * KEY
    return np.concatenate([weight[:keys], tiled(weight[keys:], 0, KEY)])


def mixer_tensor(stem, value):
    """What all of them do with a mixer's tensors that are no projections: (suffix, value), or nothing."""
    if stem == "A_log":
        return "ssm_a", -np.exp(value)
    if stem == "D":
        return "ssm_d", value.reshape(-1, 1)
    if stem == "dt_bias":
        return "ssm_dt.bias", value
    if stem == "conv1d.weight":
        return "ssm_conv1d.weight", value.squeeze(1)
    return None


def mamba_tensor(stem, value):
    if stem == "norm.weight":
        return "ssm_norm.weight", value.reshape(GROUPS, -1)
    found = mixer_tensor(stem, value)
    if found:
        return found[0], found[1].reshape(-1, 1) if found[0] == "ssm_a" else found[1]
    module, part = stem.rsplit(".", 1)
    return f"{MIXER[module]}.{part}", value


def falcon_h1(name, value):
    if name.startswith("mamba."):
        return [mamba_tensor(name[6:], value)]
    if name == "pre_ff_layernorm.weight":
        return [("ffn_norm", value)]
    module, part = name.rsplit(".", 1)
    known = {"input_layernorm": "attn_norm"} | {f"self_attn.{k}": v for k, v in ATTENTION.items()} | {
        f"feed_forward.{k}": v for k, v in MLP.items()}
    return [(f"{known[module]}.{part}", value)]


def granite(name, value):
    if name.startswith("mamba."):
        return [mamba_tensor(name[6:], value)]
    if name.endswith("input_linear.weight"):
        half = value.shape[-2] // 2
        kind = "_exps" if name.startswith("block_sparse_moe") else "_shexp" if granite.experts else ""
        return [(f"ffn_gate{kind}.weight", value[..., :half, :]), (f"ffn_up{kind}.weight", value[..., half:, :])]
    if name.endswith("output_linear.weight"):
        kind = "_exps" if name.startswith("block_sparse_moe") else "_shexp" if granite.experts else ""
        return [(f"ffn_down{kind}.weight", value)]
    module, part = name.rsplit(".", 1)
    if module in ("self_attn.q_proj", "self_attn.k_proj"):
        value = rotary_pairs(value, HEADS if "q_proj" in module else KV_HEADS)
    known = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
             "block_sparse_moe.router.layer": "ffn_gate_inp"} | {f"self_attn.{k}": v for k, v in ATTENTION.items()}
    return [(f"{known[module]}.{part}", value)]


def nemotron_h(name, value):
    if name == "norm.weight":
        return [("attn_norm.weight", value)]
    name = name.removeprefix("mixer.")
    if name == "gate.e_score_correction_bias":
        return [("exp_probs_b.bias", value)]
    module, part = name.rsplit(".", 1) if "." in name else (name, "")
    known = ATTENTION | {"up_proj": "ffn_up", "down_proj": "ffn_down", "gate": "ffn_gate_inp",
                         "shared_experts.up_proj": "ffn_up_shexp", "shared_experts.down_proj": "ffn_down_shexp"}
    return [(f"{known[module]}.{part}", value)] if module in known else [mamba_tensor(name, value)]


def qwen(name, value, reordered):
    module, part = name.rsplit(".", 1)
    if name.startswith("linear_attn."):
        stem = name[12:]
        orders = {"in_proj_qkv.weight": behind_keys, "in_proj_z.weight": lambda v: tiled(v, 0, KEY), "in_proj_b.weight": tiled,
                  "in_proj_a.weight": tiled, "A_log": tiled, "dt_bias": tiled, "conv1d.weight": behind_keys,
                  "out_proj.weight": lambda v: tiled(v, 1, KEY)}
        if reordered and stem in orders:
            value = orders[stem](value)
        found = mixer_tensor(stem, value)
        if found:
            return [found]
        if stem == "in_proj_qkvz.weight":
            own = VALUE_HEADS // KEY_HEADS * KEY
            parts = np.split(value.reshape(KEY_HEADS, -1, HIDDEN), [KEY, 2 * KEY, 2 * KEY + own], axis=1)
            q, k, v, z = [p.reshape(-1, HIDDEN) for p in parts]
            return [("attn_qkv.weight", np.concatenate([q, k, v])), ("attn_gate.weight", z)]
        known = {"in_proj_qkv": "attn_qkv", "in_proj_z": "attn_gate", "in_proj_b": "ssm_beta", "in_proj_a": "ssm_alpha",
                 "in_proj_ba": "ssm_ba", "norm": "ssm_norm", "out_proj": "ssm_out"}
        return [(f"{known[stem.rsplit('.', 1)[0]]}.weight", value)]
    if module.endswith("norm"):
        value = value + 1
    known = {"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm", "mlp.gate": "ffn_gate_inp",
             "mlp.shared_expert_gate": "ffn_gate_inp_shexp"} | {f"self_attn.{k}": v for k, v in ATTENTION.items()} | {
        f"mlp.{k}": v for k, v in MLP.items()} | {f"mlp.shared_expert.{k}": v + "_shexp" for k, v in MLP.items()}
    return [(f"{known[module]}.{part}", value.reshape(-1) if module == "mlp.shared_expert_gate" else value)]


def gemma4(name, value):
    if name == "layer_scalar":
        return [("layer_output_scale.weight", value)]
    module, part = name.rsplit(".", 1)
    known = {"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
             "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
             "per_layer_input_gate": "inp_gate", "per_layer_projection": "proj", "post_per_layer_input_norm": "post_norm"
             } | {f"self_attn.{k}": v for k, v in ATTENTION.items()} | {f"mlp.{k}": v for k, v in MLP.items()}
    return [(f"{known[module]}.{part}", value)]


def renamed(names):
    def convert(name, value):
        module, part = name.rsplit(".", 1)
        if module == "self_attention.query_key_value":  # q, k and v of each head: all q, all k, all v
            value = value.reshape(HEADS, 3, -1, *value.shape[1:]).swapaxes(0, 1).reshape(value.shape)
        return [(f"{names[module]}.{part}", value)]
    return convert


BLOOM = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attention.query_key_value": "attn_qkv",
         "self_attention.dense": "attn_output", "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down"}
MPT = {"norm_1": "attn_norm", "norm_2": "ffn_norm", "attn.Wqkv": "attn_qkv", "attn.out_proj": "attn_output",
       "ffn.up_proj": "ffn_up", "ffn.down_proj": "ffn_down"}
GLM = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_up_proj": "ffn_up",
       "mlp.down_proj": "ffn_down"} | {f"self_attn.{k}": v for k, v in ATTENTION.items()}


def plain_fields(writer, config):
    if config.model_type == "glm":
        writer.add_feed_forward_length(WIDTH)
        writer.add_head_count_kv(KV_HEADS)
        return
    writer.add_feed_forward_length(4 * HIDDEN)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    if config.model_type == "mpt":
        writer.add_max_alibi_bias(8.0)
        writer.add_clamp_kqv(config.attn_config.clip_qkv)


def stacked_experts(state):
    """Experts with tensors of their own, in one."""
    result, parts = {}, {}
    for name, value in state.items():
        pieces = name.split(".experts.")
        if len(pieces) == 2 and pieces[1][0].isdigit():
            expert, part = pieces[1].split(".", 1)
            parts.setdefault((pieces[0].split(".")[2], part.split("_")[0]), []).append((int(expert), value))
        else:
            result[name] = value
    return result, {(block, f"ffn_{part}_exps.weight"): np.stack([v for _, v in sorted(values, key=lambda e: e[0])])
                    for (block, part), values in parts.items()}


def ssm(writer, inner, state, rank, groups):
    writer.add_ssm_conv_kernel(TAPS)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_ssm_group_count(groups)


def mamba(writer):
    ssm(writer, MAMBA_HEADS * MAMBA_HEAD, STATE, MAMBA_HEADS, GROUPS)


def delta_net(writer):
    ssm(writer, VALUE_HEADS * KEY, KEY, VALUE_HEADS, KEY_HEADS)


def experts(writer, width=True):
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(USED)
    if width:
        writer.add_expert_feed_forward_length(EXPERT_WIDTH)
    writer.add_expert_shared_feed_forward_length(SHARED_WIDTH)


MIXING = ["linear_attention", "full_attention", "linear_attention"]
QWEN = ["linear_attention", "full_attention"] * 2
NEMOTRON = ["linear_attention", "mlp", "full_attention", "mlp"]


def falcon_fields(writer, config):
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count_kv(KV_HEADS)
    mamba(writer)


def granite_fields(writer, config):
    writer.add_feed_forward_length(EXPERT_WIDTH if granite.experts else WIDTH)
    hybrid = config.model_type == "granitemoehybrid"
    mixes = hybrid and "linear_attention" in config.layer_types
    writer.add_head_count_kv([KV_HEADS if kind == "full_attention" else 0 for kind in config.layer_types] if mixes else KV_HEADS)
    writer.add_attention_scale(config.attention_multiplier)
    writer.add_embedding_scale(config.embedding_multiplier)
    writer.add_residual_scale(config.residual_multiplier)
    writer.add_logit_scale(config.logits_scaling)
    if granite.experts:
        experts(writer, False)
    if mixes:
        mamba(writer)
    if hybrid:
        writer.add_rope_scaling_finetuned(config.position_embedding_type == "rope")


def nemotron_fields(writer, config):
    width = EXPERT_WIDTH if "moe" in config.layers_block_type else WIDTH
    writer.add_feed_forward_length([width if kind in ("mlp", "moe") else 0 for kind in config.layers_block_type])
    writer.add_head_count_kv([KV_HEADS if kind == "full_attention" else 0 for kind in config.layers_block_type])
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    mamba(writer)
    if "moe" in config.layers_block_type:
        experts(writer)
        writer.add_expert_shared_count(1)
        writer.add_expert_group_count(1)
        writer.add_expert_weights_norm(True)
        writer.add_expert_weights_scale(config.routed_scaling_factor)


def qwen_fields(writer, config):
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count_kv(KV_HEADS)
    delta_net(writer)
    writer.add_full_attention_interval(2)
    if config.model_type != "qwen3_next":
        writer.add_rope_dimension_sections([1, 1, 1, 0])
    if config.model_type != "qwen3_5_text":
        experts(writer)


def gemma4_fields(writer, config):
    own = config.num_hidden_layers - config.num_kv_shared_layers
    writer.add_feed_forward_length([WIDTH * (2 if i >= own else 1) for i in range(config.num_hidden_layers)]
                                   if config.use_double_wide_mlp else WIDTH)
    full = KV_HEADS if not config.attention_k_eq_v else GLOBAL_KV_HEADS
    heads = [full if kind == "full_attention" else KV_HEADS for kind in config.layer_types]
    writer.add_head_count_kv(heads if config.attention_k_eq_v else KV_HEADS)
    writer.add_key_length_swa(HEAD)
    writer.add_value_length_swa(HEAD)
    writer.add_sliding_window(config.sliding_window)
    writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    writer.add_shared_kv_layers(config.num_kv_shared_layers)
    writer.add_embedding_length_per_layer_input(config.hidden_size_per_layer_input)
    writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
    writer.add_rope_dimension_count_swa(HEAD)
    if config.final_logit_softcapping:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    turned = int(GLOBAL_HEAD * config.rope_parameters["full_attention"]["partial_rotary_factor"] / 2)
    writer.add_tensor("rope_freqs.weight", np.array([1.0] * turned + [1e30] * (GLOBAL_HEAD // 2 - turned), np.float32))


GLOBAL_HEAD, GLOBAL_KV_HEADS = 16, 2


def decoder(**more):
    return dict(vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=WIDTH, num_attention_heads=HEADS,
                num_key_value_heads=KV_HEADS, head_dim=HEAD, max_position_embeddings=64, bos_token_id=263, eos_token_id=264,
                pad_token_id=264) | more


FALCON = decoder(
    num_hidden_layers=2, rope_parameters=dict(rope_type="default", rope_theta=THETA), mamba_d_ssm=MAMBA_HEADS * MAMBA_HEAD,
    mamba_n_heads=MAMBA_HEADS, mamba_d_head=MAMBA_HEAD, mamba_n_groups=GROUPS, mamba_d_state=STATE, mamba_d_conv=TAPS,
    mamba_rms_norm=True, mamba_norm_before_gate=False, mamba_chunk_size=8, mlp_bias=True,
    ssm_multipliers=[1.0] * 5, mlp_multipliers=[1.0, 1.0])
GRANITE = decoder(
    num_hidden_layers=3, layer_types=MIXING, rope_parameters=dict(rope_type="default", rope_theta=THETA),
    attention_multiplier=0.25, embedding_multiplier=3.0, residual_multiplier=0.5, logits_scaling=2.0,
    shared_intermediate_size=WIDTH, num_local_experts=0, mamba_n_heads=MAMBA_HEADS, mamba_d_head=MAMBA_HEAD, mamba_expand=2,
    mamba_n_groups=GROUPS, mamba_d_state=STATE, mamba_d_conv=TAPS, mamba_chunk_size=8)
NEMOTRON_H = decoder(
    layers_block_type=NEMOTRON, mamba_num_heads=MAMBA_HEADS, mamba_head_dim=MAMBA_HEAD, n_groups=GROUPS, ssm_state_size=STATE,
    conv_kernel=TAPS, chunk_size=8, mlp_bias=True)
QWEN35 = decoder(
    num_hidden_layers=4, layer_types=QWEN, full_attention_interval=2, linear_num_key_heads=KEY_HEADS, linear_num_value_heads=VALUE_HEADS,
    linear_key_head_dim=KEY, linear_value_head_dim=KEY, linear_conv_kernel_dim=TAPS,
    rope_parameters=dict(rope_type="default", rope_theta=THETA, partial_rotary_factor=0.5, mrope_section=[1, 1, 1],
                         mrope_interleaved=True))
GEMMA4 = decoder(
    global_head_dim=GLOBAL_HEAD, sliding_window=8, hidden_size_per_layer_input=0, vocab_size_per_layer_input=VOCAB,
    rope_parameters=dict(
        sliding_attention=dict(rope_type="default", rope_theta=1000.0),
        full_attention=dict(rope_type="proportional", rope_theta=THETA, partial_rotary_factor=0.25)))
NEXT_ROPE = dict(rope_type="default", rope_theta=THETA, partial_rotary_factor=0.5)
QWEN_EXPERTS = dict(num_experts=EXPERTS, num_experts_per_tok=USED, moe_intermediate_size=EXPERT_WIDTH,
                    shared_expert_intermediate_size=SHARED_WIDTH)
GRANITE_EXPERTS = dict(num_local_experts=EXPERTS, num_experts_per_tok=USED, intermediate_size=EXPERT_WIDTH,
                       shared_intermediate_size=SHARED_WIDTH)
GRANITE3 = {key: value for key, value in GRANITE.items() if not key.startswith("mamba_") and key not in ("layer_types", "head_dim")}

TOKENS = dict(vocab_size=VOCAB, bos_token_id=263, eos_token_id=264, pad_token_id=264)
MODELS = {
    "bloom": ("bloom", transformers.BloomConfig, TOKENS | dict(hidden_size=HIDDEN, n_layer=2, n_head=HEADS, seq_length=64),
              renamed(BLOOM), plain_fields),
    "mpt": ("mpt", transformers.MptConfig, TOKENS | dict(d_model=HIDDEN, n_layers=2, n_heads=HEADS, max_seq_len=64,
            attn_config=dict(clip_qkv=1.5)), renamed(MPT), plain_fields),
    "glm": ("chatglm", transformers.GlmConfig, decoder(num_hidden_layers=2, head_dim=HIDDEN // HEADS, attention_bias=True,
            rope_parameters=dict(rope_type="default", rope_theta=THETA, partial_rotary_factor=0.5)), renamed(GLM), plain_fields),
    "falcon_h1": ("falcon-h1", transformers.FalconH1Config, FALCON, falcon_h1, falcon_fields),
    "granitehybrid": ("granitehybrid", transformers.GraniteMoeHybridConfig, GRANITE | dict(tie_word_embeddings=True), granite,
                      granite_fields),
    "granitehybrid_moe": ("granitehybrid", transformers.GraniteMoeHybridConfig,
                          GRANITE | GRANITE_EXPERTS | dict(position_embedding_type="rope", attention_bias=True), granite,
                          granite_fields),
    "granite4": ("granite", transformers.GraniteMoeHybridConfig, GRANITE | dict(
        layer_types=["full_attention"] * 2, num_hidden_layers=2, position_embedding_type="rope"), granite, granite_fields),
    "granitemoe": ("granitemoe", transformers.GraniteMoeSharedConfig, GRANITE3 | GRANITE_EXPERTS, granite, granite_fields),
    "nemotron_h": ("nemotron_h", transformers.NemotronHConfig, NEMOTRON_H, nemotron_h, nemotron_fields),
    "nemotron_h_moe": ("nemotron_h_moe", transformers.NemotronHConfig, NEMOTRON_H | dict(
        layers_block_type=["linear_attention", "moe", "full_attention", "moe"], n_routed_experts=EXPERTS, num_experts_per_tok=USED,
        moe_intermediate_size=EXPERT_WIDTH, moe_shared_expert_intermediate_size=SHARED_WIDTH, routed_scaling_factor=1.5,
        intermediate_size=EXPERT_WIDTH, mlp_bias=False), nemotron_h, nemotron_fields),
    "gemma4": ("gemma4", transformers.Gemma4TextConfig, GEMMA4 | dict(
        num_hidden_layers=3, layer_types=["sliding_attention", "full_attention", "full_attention"], attention_k_eq_v=True,
        num_global_key_value_heads=GLOBAL_KV_HEADS, final_logit_softcapping=25.0), gemma4, gemma4_fields),
    "gemma4_small": ("gemma4", transformers.Gemma4TextConfig, GEMMA4 | dict(
        num_hidden_layers=5, hidden_size_per_layer_input=4, num_kv_shared_layers=2, use_double_wide_mlp=True,
        layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]),
        gemma4, gemma4_fields),
    "qwen35": ("qwen35", transformers.Qwen3_5TextConfig, QWEN35, lambda n, v: qwen(n, v, True), qwen_fields),
    "qwen35moe": ("qwen35moe", transformers.Qwen3_5MoeTextConfig, QWEN35 | QWEN_EXPERTS, lambda n, v: qwen(n, v, True), qwen_fields),
    "qwen3next": ("qwen3next", transformers.Qwen3NextConfig, QWEN35 | QWEN_EXPERTS | dict(rope_parameters=NEXT_ROPE),
                  lambda n, v: qwen(n, v, False), qwen_fields),
}


def write(name):
    architecture, kind, fields, convert, add_fields = MODELS[name]
    config = kind(**fields)
    granite.experts = bool(getattr(config, "num_local_experts", 0))
    torch.manual_seed(sum(name.encode()))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        tensors = dict(model.named_parameters()) | {n: b for n, b in model.named_buffers() if "correction" in n}
        for tensor, parameter in tensors.items():
            parameter.copy_(0.3 * torch.randn_like(parameter))
            if "norm" in tensor:  # so that 1 + w is exact
                parameter.copy_(torch.round(256 * parameter) / 256 + 0.0)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        state = load_file(pathlib.Path(folder) / "model.safetensors")
    save_file(state, OUT / f"{name}.safetensors", metadata={"format": "pt"})
    (OUT / f"{name}.config.json").write_text(json.dumps(json.loads(config.to_json_string(use_diff=False)), indent=1))

    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", architecture)
    writer.add_name(name)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(HEADS)
    own_heads = name in ("granitemoe", "bloom", "mpt", "glm")  # that make up the hidden size
    size = GLOBAL_HEAD if architecture == "gemma4" else HIDDEN // HEADS if own_heads else HEAD
    if not own_heads:
        writer.add_key_length(size)
        writer.add_value_length(size)
    if name not in ("bloom", "mpt"):
        writer.add_layer_norm_rms_eps(getattr(config, "rms_norm_eps", 1e-5))
    writer.add_vocab_size(VOCAB)
    if "rope_parameters" in fields:
        writer.add_rope_freq_base(THETA)
        writer.add_rope_dimension_count(int(size * fields["rope_parameters"].get("partial_rotary_factor", 1.0)))
    add_fields(writer, config)
    byte_tokenizer(writer, "llama-bpe")
    model_names = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output",
                   "model.embed_tokens_per_layer.weight": "per_layer_token_embd",
                   "model.per_layer_model_projection.weight": "per_layer_model_proj",
                   "model.per_layer_projection_norm.weight": "per_layer_proj_norm",
                   "transformer.word_embeddings.weight": "token_embd", "transformer.wte.weight": "token_embd",
                   "transformer.word_embeddings_layernorm.weight": "token_embd_norm",
                   "transformer.word_embeddings_layernorm.bias": "token_embd_norm", "transformer.ln_f.weight": "output_norm",
                   "transformer.ln_f.bias": "output_norm", "transformer.norm_f.weight": "output_norm",
                   "model.final_layernorm.weight": "output_norm", "backbone.embeddings.weight": "token_embd",
                   "backbone.norm_f.weight": "output_norm"}
    singles, together = stacked_experts({n: v.numpy() for n, v in state.items()})
    for tensor, value in singles.items():
        if tensor in model_names:
            shift = 1 if architecture.startswith("qwen") and tensor == "model.norm.weight" else 0
            writer.add_tensor(f"{model_names[tensor]}.{tensor.rsplit('.', 1)[1]}", value + np.float32(shift))
            continue
        _, _, block, stem = tensor.split(".", 3)
        for own, part in convert(stem, value):
            writer.add_tensor(f"blk.{block}.{own}", np.ascontiguousarray(part))
    for (block, own), value in together.items():
        writer.add_tensor(f"blk.{block}.{own}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    for model_name in sys.argv[1:] or MODELS:
        write(model_name)
