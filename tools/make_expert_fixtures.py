#!/usr/bin/env python3
"""Writes tests/data/experts: tiny random models with experts, as tools/make_family_fixtures.py writes those without, and
for each layer with experts what a plain PyTorch implementation of the experts' scores finds (docs/structured.md).

Made with torch 2.15.0 and transformers 5.24.0. The expected values come from the saved folder, loaded again. Names on the
command line: only these cases.
"""
import json
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import make_family_fixtures as kit

FOLDER = kit.FOLDER.parent / "experts"
WINDOW = kit.WINDOW
SMALL = dict(vocab_size=64, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0)
GPT_OSS = SMALL | dict(head_dim=8, num_local_experts=5, num_experts_per_tok=2, sliding_window=WINDOW)
QWEN3_NEXT = SMALL | dict(
    num_hidden_layers=3, head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=6,
    linear_value_head_dim=5, moe_intermediate_size=12, shared_expert_intermediate_size=16, num_experts=6,
    num_experts_per_tok=3, layer_types=["linear_attention", "linear_attention", "full_attention"],
    rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=0.5))
GRANITE = SMALL | dict(num_local_experts=5, num_experts_per_tok=2, embedding_multiplier=3.0, attention_multiplier=0.25,
                       residual_multiplier=0.4, logits_scaling=2.5)
LATENT = SMALL | dict(num_key_value_heads=4, moe_intermediate_size=12, n_routed_experts=6, n_shared_experts=2,
                      num_experts_per_tok=3, kv_lora_rank=10, q_lora_rank=14, qk_rope_head_dim=4, qk_nope_head_dim=6,
                      v_head_dim=8)


def fused(tensors, config):
    """The experts of each layer in two tensors, which transformers loads as well."""
    result = dict(tensors)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}.mlp.experts."
        if prefix + "0.gate_proj.weight" not in tensors:
            continue
        take = lambda part: torch.stack(
            [result.pop(f"{prefix}{e}.{part}.weight") for e in range(config["num_local_experts"])])
        gate, up = take("gate_proj"), take("up_proj")
        result[prefix + "gate_up_proj"] = torch.cat([gate, up], 1)
        result[prefix + "down_proj"] = take("down_proj")
    return result


def mxfp4(tensors, config):
    """Random MXFP4 experts in place of the ones there are."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    result, expanded = dict(tensors), dict(tensors)
    for layer in range(config["num_hidden_layers"]):
        for part in ["gate_up_proj", "down_proj"]:
            name = f"model.layers.{layer}.mlp.experts.{part}"
            experts, inputs, outputs = result.pop(name).shape
            blocks = torch.randint(0, 256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
            scales = torch.randint(122, 126, (experts, outputs, inputs // 32), dtype=torch.uint8)
            result[name + "_blocks"], result[name + "_scales"] = blocks, scales
            expanded[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16).contiguous()
    return result, expanded


# name: (model_type, dtype of the file, configuration, change to the written tensors)
CASES = {
    # A dense layer, three of seven experts.
    "qwen3_moe": ("qwen3_moe", "bfloat16", SMALL | dict(
        num_hidden_layers=3, head_dim=8, moe_intermediate_size=12, num_experts=7, num_experts_per_tok=3,
        norm_topk_prob=True, mlp_only_layers=[1]), None),
    "qwen3_moe_fused": ("qwen3_moe", "bfloat16", SMALL | dict(
        head_dim=8, moe_intermediate_size=12, num_experts=6, num_experts_per_tok=2, norm_topk_prob=True), fused),
    "mixtral": ("mixtral", "float16", SMALL | dict(num_local_experts=5, num_experts_per_tok=2, sliding_window=WINDOW),
                None),
    "olmoe": ("olmoe", "float32", SMALL | dict(num_experts=6, num_experts_per_tok=3, clip_qkv=1.5), None),
    # Not renormalised, a gated shared expert, every other layer dense.
    "qwen2_moe": ("qwen2_moe", "bfloat16", SMALL | dict(
        moe_intermediate_size=12, shared_expert_intermediate_size=16, num_experts=6, num_experts_per_tok=2,
        decoder_sparse_step=2, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2), None),
    "qwen3_next": ("qwen3_next", "bfloat16", QWEN3_NEXT | dict(mlp_only_layers=[1]), None),
    "qwen3_5_moe": ("qwen3_5_moe_text", "bfloat16", QWEN3_NEXT | dict(
        layer_types=["full_attention", "linear_attention", "full_attention"]), None),
    "granitemoe": ("granitemoe", "bfloat16", GRANITE, None),
    "granitemoe_shared": ("granitemoeshared", "float16", GRANITE | dict(
        shared_intermediate_size=16, attention_bias=True, tie_word_embeddings=True), None),
    "granite4_moe": ("granitemoehybrid", "bfloat16", GRANITE | dict(
        num_hidden_layers=3, head_dim=8, intermediate_size=12, shared_intermediate_size=20, mamba_n_heads=6,
        mamba_d_head=8, mamba_n_groups=2, mamba_d_state=5, mamba_chunk_size=8,
        layer_types=["linear_attention", "linear_attention", "full_attention"]), None),
    # The first layer dense.
    "lfm2_moe": ("lfm2_moe", "bfloat16", SMALL | dict(
        num_hidden_layers=3, num_dense_layers=1, moe_intermediate_size=12, num_experts=6, num_experts_per_tok=2,
        routed_scaling_factor=1.5, layer_types=["conv", "conv", "full_attention"]), None),
    # Experts without gates; layers are a mixer or experts alone.
    "nemotron_h_moe": ("nemotron_h", "bfloat16", {
        key: value for key, value in SMALL.items() if key != "num_hidden_layers"} | dict(
        head_dim=8, mamba_num_heads=6, mamba_head_dim=4, n_groups=2, ssm_state_size=5, chunk_size=8,
        n_routed_experts=7, num_experts_per_tok=3, moe_intermediate_size=12,
        moe_shared_expert_intermediate_size=16, routed_scaling_factor=1.3,
        layers_block_type=["linear_attention", "moe", "full_attention", "mlp", "moe"]), None),
    "glm4_moe": ("glm4_moe", "bfloat16", SMALL | dict(
        head_dim=8, moe_intermediate_size=12, n_routed_experts=6, n_shared_experts=2, num_experts_per_tok=2,
        routed_scaling_factor=1.7, use_qk_norm=True, attention_bias=True, rope_parameters=dict(
            rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5)), None),
    "gpt_oss": ("gpt_oss", "bfloat16", GPT_OSS, None),
    "gpt_oss_mxfp4": ("gpt_oss", "bfloat16", GPT_OSS | dict(hidden_size=32, intermediate_size=32), mxfp4),
    # Queries of one linear, groups of experts.
    "deepseek_v2": ("deepseek_v2", "bfloat16", LATENT | dict(
        q_lora_rank=None, n_routed_experts=9, n_group=3, topk_group=2, topk_method="group_limited_greedy", routed_scaling_factor=1.5,
        first_k_dense_replace=1), None),
    "deepseek_v3": ("deepseek_v3", "float16", LATENT | dict(
        n_routed_experts=9, n_group=3, topk_group=2, first_k_dense_replace=1, attention_bias=True, rope_parameters=dict(
            rope_type="yarn", rope_theta=100.0, factor=4.0, original_max_position_embeddings=16, mscale=0.8,
            mscale_all_dim=0.6)), None),
    "deepseek_v3_halves": ("deepseek_v3", "bfloat16", LATENT | dict(
        n_group=1, topk_group=1, first_k_dense_replace=0, rope_interleave=False, norm_topk_prob=False), None),
}

INPUTS = {
    "attention": ("self_attn.kv_a_proj_with_mqa", "self_attn.v_proj"),
    "attention_output": ("self_attn.o_proj", "self_attn.out_proj"),
    "mlp": ("mlp.gate", "mlp.router", "feed_forward.gate", "block_sparse_moe.router", "mixer.gate"),
    "mlp_output": ("mlp.shared_expert.down_proj", "shared_experts.down_proj", "shared_mlp.output_linear"),
}


def save_model(name, case):
    model_type, dtype, settings, change = case
    folder = FOLDER / name
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **settings))
    kit.randomise(model, False, model_type.startswith(("qwen3_next", "qwen3_5")))
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith(("e_score_correction_bias", "expert_bias")):
            buffer.copy_(0.2 * torch.randn_like(buffer))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if not change:
        return None
    path = folder / "model.safetensors"
    tensors = change(load_file(path), json.loads((folder / "config.json").read_text()))
    if not isinstance(tensors, tuple):
        write(tensors, path)
        return None
    write(tensors[1], path)  # what transformers is to compute with
    return tensors[0]


def write(tensors, path):
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata={"format": "pt"})


def quantise(name, tensors):
    """The folder with its real tensors, once the expected values are there."""
    write(tensors, FOLDER / name / "model.safetensors")
    path = FOLDER / name / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": {"quant_method": "mxfp4"}}
    path.write_text(json.dumps(config, indent=1) + "\n")


def expert_outputs(experts, x):
    """[E, N, hidden]: every expert on every token."""
    ones = torch.ones(len(x), 1)
    return torch.stack([experts(x, torch.full((len(x), 1), e), ones) for e in range(experts.num_experts)])


def scores_of(experts, x, index, gates):
    """The published scores of each expert over the tokens that are routed to it (REAP, arXiv 2510.13999)."""
    norms = expert_outputs(experts, x).norm(dim=-1)  # [E, N]
    shares = gates / gates.sum(-1, keepdim=True)
    result = {key: torch.zeros(len(norms)) for key in ["tokens", "reap", "ean", "router_weight"]}
    for e in range(len(norms)):
        token, place = torch.where(index == e)
        if len(token) == 0:
            continue
        result["tokens"][e] = len(token)
        result["reap"][e] = (shares[token, place] * norms[e, token]).mean()
        result["ean"][e] = norms[e, token].sum()
        result["router_weight"][e] = shares[token, place].sum()
    return result


def save_expected(name):
    folder = FOLDER / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                 experts_implementation="eager").eval()
    ids = torch.randint(1, 61, (kit.NUM_SEQUENCES, kit.SEQLEN), dtype=torch.int32)
    tensors, routed = {"ids": ids}, {}
    last = f"layers.{model.config.num_hidden_layers - 1}."
    for module_name, module in model.named_modules():
        if module_name.endswith(".experts"):
            layer = module_name.split(".")[2]
            module.register_forward_pre_hook(
                lambda module, args, layer=layer: routed.__setitem__(layer, (module, *[a.clone() for a in args])))
        for key, ends in INPUTS.items():
            if last in module_name and module_name.endswith(ends):
                module.register_forward_pre_hook(lambda _, args, key=key: tensors.__setitem__(
                    key, args[0].reshape(kit.NUM_SEQUENCES, kit.SEQLEN, -1)[-1].clone()))
    with torch.no_grad():
        tensors["logits"] = model(ids.long()).logits.float()
        for layer, arguments in dict(routed).items():
            for key, value in scores_of(*arguments).items():
                tensors[f"{key}.{layer}"] = value
    of_mixer = set() if name.startswith("nemotron_h") else {"attention", "attention_output"}
    assert {"ids", "logits", "mlp"} | of_mixer <= set(tensors), tensors.keys()
    assert routed
    print(f"{name:22} logits up to {tensors['logits'].abs().max():.2f}")
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "expected.safetensors")


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for index, (name, case) in enumerate(CASES.items()):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        torch.manual_seed(index)
        tensors = save_model(name, case)
        save_expected(name)
        if tensors:
            quantise(name, tensors)
    for path in FOLDER.rglob("*.safetensors"):
        path.chmod(0o644)
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    print(f"{size} bytes in {FOLDER}")


if __name__ == "__main__":
    main()
