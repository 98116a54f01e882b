#!/usr/bin/env python3
"""Random valid variants of every family's configuration against transformers: tiny random models, logits in float.

    tools/compare_configs.py build/ci/bench/dump_logits [--variants 20] [--seed 1] [--only PART] [--keep FOLDER]

Each case of tools/make_family_fixtures.py and tools/make_expert_fixtures.py is changed at random: sizes, layers, biases,
activations, ties, rope, windows, multipliers, routing, whatever field its class has; a part is written in the spelling
of transformers 4, and a part loses fields of its config.json, or has null in their place. Logits are those of one pass,
and of a cache that is filled half at once and then token by token, in a batch. What transformers itself builds and computes must be computed alike, or be refused with a message that
names why. Needs torch and transformers 5.24. Exit code 1: a difference, a crash, or a refusal without a name.
"""
import argparse
import collections
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile

import numpy
import torch
import transformers

import make_expert_fixtures as experts
import make_family_fixtures as families

TOKENS = 20
ACTIVATIONS = ["silu", "gelu", "relu", "gelu_pytorch_tanh", "gelu_new", "gelu_fast", "quick_gelu", "relu2", "mish"]


def rope(rng, partial):
    base = dict(rope_theta=rng.choice([10.0, 100.0, 1e4, 5e5]))
    kind = rng.choice(["default"] * 3 + ["linear", "dynamic", "yarn", "llama3"])
    if partial:
        base["partial_rotary_factor"] = rng.choice([0.25, 0.5, 0.5, 0.75, 1.0])
    if kind != "default":
        base["factor"] = rng.choice([1.5, 2.0, 8.0])
    if kind in ("yarn", "llama3"):
        base["original_max_position_embeddings"] = rng.choice([8, 16, 32])
    if kind == "llama3":
        base |= dict(low_freq_factor=1.0, high_freq_factor=rng.choice([2.0, 4.0]))
    if kind == "yarn":
        for name, values in dict(beta_fast=[16.0, 32.0], beta_slow=[1.0, 2.0], attention_factor=[1.25], mscale=[0.7, 1.0],
                                 mscale_all_dim=[0.5, 1.0], truncate=[False]).items():
            if rng.random() < 0.3:
                base[name] = rng.choice(values)
    return dict(rope_type=kind, **base)


# Fields that have a range of their own whatever the class is; a case takes those that its class has.
FIELDS = dict(
    vocab_size=[64, 67, 96], intermediate_size=[20, 40, 44, 52], num_hidden_layers=[1, 2, 3, 4], n_layer=[1, 2, 3],
    n_layers=[1, 2, 3], tie_word_embeddings=[True, False], attention_bias=[True, False], mlp_bias=[True, False],
    use_qkv_bias=[True, False], use_bias=[True, False], enable_bias=[True, False], qk_layernorm=[True, False],
    use_qk_norm=[True, False], use_parallel_residual=[True, False], norm_topk_prob=[True, False],
    rms_norm_eps=[1e-6, 1e-5, 1e-2], layer_norm_eps=[1e-6, 1e-5, 1e-2], layer_norm_epsilon=[1e-5, 1e-2],
    norm_eps=[1e-5, 1e-2], norm_epsilon=[1e-5, 1e-2], layer_norm_elementwise_affine=[True, False],
    do_layer_norm_before=[True], clip_qkv=[None, 0.75, 2.0], embedding_multiplier=[1.0, 3.0], residual_multiplier=[1.0, 0.4],
    attention_multiplier=[0.25, 1.0], logits_scaling=[1.0, 2.5], logit_scale=[0.4, 1.0], final_logit_softcapping=[None, 3.0],
    attn_logit_softcapping=[None, 2.0], query_pre_attn_scalar=[8, 12], routed_scaling_factor=[1.0, 1.7],
    num_experts_per_tok=[1, 2, 3], n_shared_experts=[1, 2], first_k_dense_replace=[0, 1], num_dense_layers=[0, 1],
    decoder_sparse_step=[1, 2], shared_intermediate_size=[16, 20], moe_intermediate_size=[8, 12, 20],
    shared_expert_intermediate_size=[8, 16], max_position_embeddings=[32, 64, 128], sliding_window=[1, 3, 8, 19, 64],
    max_window_layers=[0, 1, 2], use_sliding_window=[True, False], bos_token_id=[None, 1], eos_token_id=[None, 2, [2, 3]],
    conv_bias=[True, False], conv_L_cache=[2, 3, 4], block_auto_adjust_ff_dim=[True, False], rotary_dim=[2, 4, 6, 8],
    n_inner=[None, 40, 52], scale_attn_weights=[True, False], scale_attn_by_inverse_layer_idx=[True, False],
    reorder_and_upcast_attn=[False], mamba_conv_bias=[True, False], mamba_proj_bias=[True, False], mamba_d_conv=[2, 4],
    mamba_d_state=[4, 5], ssm_state_size=[4, 5], conv_kernel=[2, 4], mamba_rms_norm=[True, False],
    mamba_norm_before_gate=[True, False], linear_conv_kernel_dim=[2, 4], position_embedding_type=["rope", "nope"],
    rope_interleave=[True, False], apply_residual_connection_post_layernorm=[True, False], no_rope_layer_interval=[2, 3],
    hidden_dropout=[0.0], attention_dropout=[0.0], swiglu_limit=[7.0, 2.0], initializer_range=[0.02])


def vary(rng, settings, have):
    """A copy with random changes; have: the fields of the class as its configuration has them."""
    new = dict(settings)
    for name, values in FIELDS.items():
        if name in have and rng.random() < 0.3:
            new[name] = rng.choice(values)
    for name in ("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act"):
        if isinstance(have.get(name), str) and rng.random() < 0.3:
            new[name] = rng.choice(ACTIVATIONS)
    if "num_attention_heads" in have and "num_key_value_heads" in have and rng.random() < 0.5:
        heads = rng.choice([2, 3, 4, 6])
        new["num_attention_heads"] = heads
        new["num_key_value_heads"] = rng.choice([n for n in range(1, heads + 1) if heads % n == 0])
        new["hidden_size"] = heads * rng.choice([8, 12]) if rng.random() < 0.7 else 24
    if "head_dim" in settings and rng.random() < 0.5:
        new["head_dim"] = rng.choice([6, 8, 10, 12, 16])
    parameters = have.get("rope_parameters")
    if isinstance(parameters, dict) and rng.random() < 0.6:
        given = settings.get("rope_parameters") or {}
        partial = "partial_rotary_factor" in parameters
        if "full_attention" in parameters:
            new["rope_parameters"] = {kind: given.get(kind) if given.get(kind, {}).get("rope_type") == "proportional"
                                      else rope(rng, "partial_rotary_factor" in (parameters[kind] or {}))
                                      for kind in parameters if isinstance(parameters[kind], dict)}
        elif given.get("rope_type") not in ("longrope", "proportional"):
            kept = {key: given[key] for key in ("mrope_section", "mrope_interleaved", "llama_4_scaling_beta") if key in given}
            new["rope_parameters"] = rope(rng, partial) | kept
    for name in ("layer_types", "layers_block_type"):
        kinds = settings.get(name) or (["sliding_attention", "full_attention"]
                                       if isinstance(have.get(name), list) and new.get("sliding_window") else None)
        if kinds and (rng.random() < 0.5 or len(kinds) != new.get("num_hidden_layers", len(kinds))):
            count = new.get("num_hidden_layers") or rng.choice([2, 3, 4, 5])
            new[name] = [rng.choice(kinds) for _ in range(count)]
    return new


def spell_as_before(rng, written):
    """rope_theta beside rope_scaling, torch_dtype: what most folders have."""
    if rng.random() < 0.5 or not isinstance(written.get("rope_parameters"), dict) or "dtype" not in written:
        return
    kinds = written["rope_parameters"]
    if written["model_type"] in ("olmo3", "gemma3_text") and isinstance(kinds.get("full_attention"), dict):
        full, sliding = dict(kinds["full_attention"]), kinds["sliding_attention"]
        if rng.random() < 0.5:  # a part stands beside the kinds of layers
            written["rope_theta"] = full.pop("rope_theta")
            written["rope_parameters"] = {"full_attention": full, "sliding_attention": sliding}
            return
        del written["rope_parameters"]
        written["rope_theta"] = full.pop("rope_theta")
        if written["model_type"] == "gemma3_text":
            written["rope_local_base_freq"] = sliding["rope_theta"]
        if full["rope_type"] != "default":
            written["rope_scaling"] = full
        return
    if any(isinstance(value, dict) for value in written["rope_parameters"].values()) or \
            written["model_type"] in ("gpt_neox", "gemma3_text"):
        return
    families.rope_before_v5(written)


def lose_fields(rng, written):
    """A field or two are absent, or null; in nested objects, too. What was done."""
    done = []
    if rng.random() < 0.5:
        return done
    for _ in range(rng.choice([1, 1, 2])):
        target = written
        nested = [key for key, value in written.items() if isinstance(value, dict) and value and key != "vision_config"]
        if nested and rng.random() < 0.4:
            target = written[rng.choice(nested)]
            inner = [key for key, value in target.items() if isinstance(value, dict) and value]
            if inner and rng.random() < 0.5:
                target = target[rng.choice(inner)]
        # Neither what names the model nor sizes, whose defaults are those of real models.
        names = [key for key in target if key not in ("model_type", "architectures", "dtype", "torch_dtype") and
                 not re.search("vocab|_size$|_config$|num_hidden_layers|n_embd|d_model|n_layer", key)]
        if not names:
            continue
        name = rng.choice(names)
        null = rng.random() < 0.3
        done.append(f"{name} {'null' if null else 'absent'}")
        if null:
            target[name] = None
        else:
            del target[name]
    return done


def prepare(model, model_type):
    families.randomise(model, bool(re.match("gemma[23]?(_|$)", model_type)),
                       model_type.startswith(("qwen3_5", "qwen3_next", "nemotron")))
    for name, parameter in model.named_parameters():
        if model_type.startswith("gemma4"):
            parameter.data *= 0.2 if "embed_tokens" in name else 0.4 if "q_norm" in name else 1.0
    for name, buffer in model.named_buffers():
        if name.endswith(("e_score_correction_bias", "expert_bias")):
            buffer.copy_(0.2 * torch.randn_like(buffer))
        if name.endswith("layer_scalar"):
            buffer.fill_(0.6 + 0.6 * torch.rand(()).item())


def compute(program, folder, way, vocab):
    """Logits, or a word and its explanation."""
    ran = subprocess.run([program, folder, folder / "ids.u16", folder / "out.f32", "--seqlen", str(TOKENS), *way],
                         capture_output=True, text=True, check=False)
    message = ran.stderr.strip().replace(str(folder), "FOLDER")
    if ran.returncode != 0:
        named = ran.returncode == 1 and ("found" in message or "expected" in message or "not supported" in message)
        return None, "refused" if named else "crash", message[-300:]
    return numpy.fromfile(folder / "out.f32", dtype=numpy.float32).reshape(TOKENS, vocab), "", ""


def one(program, rng, case, folder):
    """What came of a variant: a word and its explanation."""
    model_type, dtype, settings, _ = case
    lost = []
    try:
        have = transformers.AutoConfig.for_model(model_type, **settings).to_dict()
        settings = vary(rng, settings, have)
        config = transformers.AutoConfig.for_model(model_type, **settings)
        model = families.auto_class(model_type).from_config(config)
        prepare(model, model_type)
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        written = json.loads((folder / "config.json").read_text())
        vocab = config.get_text_config().vocab_size
        spell_as_before(rng, written)
        ids = torch.randint(1, 61, (1, TOKENS))
        ids.numpy().astype(numpy.uint16).tofile(folder / "ids.u16")
        lost = lose_fields(rng, written)
        settings = written
        (folder / "config.json").write_text(json.dumps(written, indent=1))
        theirs, loading = families.auto_class(model_type).from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
        if loading["missing_keys"] or loading["mismatched_keys"] or loading["unexpected_keys"]:
            return "invalid", "tensors of another model", settings
        with torch.no_grad():
            expected = theirs.eval()(ids).logits[0].float().numpy()
        if not numpy.isfinite(expected).all():
            return "invalid", "logits that are not finite", settings
    except Exception as error:  # transformers does not take it
        text = f"{type(error).__name__}: {str(error)[:90]}".replace("\n", " ")
        strict = "StrictDataclassFieldValidationError" in text and any(field.endswith(" null") for field in lost)
        if lost and not strict and compute(program, folder, [], vocab)[0] is not None:
            return "laxer", f"{', '.join(lost)}: {text}", settings
        return "invalid", text, settings
    worst = 0.0
    for way in ([], ["--cached"]):
        found, outcome, message = compute(program, folder, way, expected.shape[1])
        if found is None:
            return outcome, f"{message} {lost or ''}", settings
        worst = max(worst, numpy.abs(found - expected).max() / max(1.0, numpy.abs(expected).max()))
    return ("same" if worst < 1e-4 else "differs"), f"{worst:.2e} {lost or ''}", settings


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--variants", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", type=pathlib.Path, help="folders of what differs")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    outcomes, refusals, laxer, bad = collections.Counter(), collections.defaultdict(set), collections.defaultdict(set), 0
    cases = {name: case for name, case in {**families.CASES, **experts.CASES}.items() if arguments.only in name}
    for name, case in cases.items():
        counts = collections.Counter()
        for number in range(arguments.variants):
            seed = f"{arguments.seed} {name} {number}"
            torch.manual_seed(random.Random(seed).randrange(2 ** 31))
            with tempfile.TemporaryDirectory() as temporary:
                folder = pathlib.Path(temporary) / "m"
                outcome, text, settings = one(arguments.program, random.Random(seed), case, folder)
                counts[outcome] += 1
                if outcome == "refused":
                    refusals[re.sub(r"\d+", "N", text)].add(name)
                elif outcome == "laxer":
                    laxer[re.sub(r"\d+", "N", text)].add(name)
                elif outcome in ("differs", "crash"):
                    bad += 1
                    print(f"{outcome}: {seed}: {text}\n    {settings}", flush=True)
                    if arguments.keep:
                        shutil.copytree(folder, arguments.keep / seed.replace(" ", "-"), dirs_exist_ok=True)
        outcomes += counts
        print(f"{name:24} {dict(counts)}", flush=True)
    print("refused:")
    for text, names in sorted(refusals.items()):
        print(f"  {text}   ({', '.join(sorted(names))})")
    print("computed where transformers raises:")
    for text, names in sorted(laxer.items()):
        print(f"  {text}   ({', '.join(sorted(names))})")
    print(f"{len(cases)} cases, {dict(outcomes)}")
    sys.exit(bad != 0)


if __name__ == "__main__":
    main()
