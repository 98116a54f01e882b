#!/usr/bin/env python3
"""SparseGPT, Wanda and RIA as their papers have them, in plain PyTorch, beside what swiftprune makes.

  reference_pruning.py prune MODEL OUT --ids c4.u16 --windows 16 --method sparsegpt [--sparsity 0.5 | --pattern 2:4]
  reference_pruning.py compare DENSE REFERENCE OURS
  reference_pruning.py qwen2 LLAMA OUT [--bias 0.02] [--spread 1.0]

`prune` writes an ordinary Hugging Face folder; both sides are then measured by `swiftprune eval`. Calibration ids are
the raw u16 token ids that `swiftprune prune --ids` reads, so both see the same windows. `compare` says, by kind of
linear, on which share of the weights the masks agree and how far the weights are apart. `qwen2` makes a model of the
Qwen2 family from a Llama one: the same function plus random biases of q, k and v; --spread multiplies rows of q, k, v
and up by random factors (log-normal, that deviation) that k, o and down take back, so that rows differ in scale as
they do in models with biases, and the function stays.

SparseGPT: arXiv 2301.00774 (128 columns at a time, 1 % damping, one threshold for the 128 columns of all rows; with
--by-row one for each row). Wanda: arXiv 2306.11695 (each row by |w| times the norm of its input). RIA: Zhang et al., ICLR
2024 (relative importance of a weight in its row and column, times the root of the norm of its input).
Needs: torch, transformers, safetensors, numpy.
"""
import argparse
import json
import pathlib
import shutil

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def keep_n_of_m(scores, n, m):
    """True where a weight is among the n highest of its group of m inputs."""
    groups = scores.reshape(scores.shape[0], -1, m)
    best = groups.topk(n, dim=2).indices
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(2, best, True).reshape(scores.shape)


def keep_in_rows(scores, sparsity):
    pruned = int(scores.shape[1] * sparsity)
    order = scores.argsort(dim=1, stable=True)
    return torch.ones_like(scores, dtype=torch.bool).scatter_(1, order[:, :pruned], False)


def by_score(weight, scores, how):
    return weight * (keep_n_of_m(scores, *how.pattern) if how.pattern else keep_in_rows(scores, how.sparsity))


def wanda(weight, stats, how):
    return by_score(weight, weight.abs() * (stats.gram.diagonal() / stats.tokens).sqrt(), how)


def ria(weight, stats, how):
    size = weight.abs()
    relative = size / size.sum(0, keepdim=True) + size / size.sum(1, keepdim=True)
    return by_score(weight, relative * (stats.gram.diagonal() / stats.tokens).sqrt().sqrt(), how)


def sparsegpt(weight, stats, how, block=128, damping=0.01):
    weight = weight.clone()
    hessian = stats.gram * (2.0 / stats.tokens)
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    weight[:, dead] = 0
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor = torch.linalg.cholesky(inverse, upper=True)
    for first in range(0, weight.shape[1], block):
        last = min(first + block, weight.shape[1])
        part, factor_part = weight[:, first:last].clone(), factor[first:last, first:last]
        errors = torch.zeros_like(part)
        diagonal = factor_part.diagonal()
        if how.pattern is None:
            scores = part**2 / diagonal**2
            if how.by_row:
                kept = keep_in_rows(scores, how.sparsity)
            else:
                kept = scores > scores.flatten().sort().values[int(scores.numel() * how.sparsity)]
        else:
            kept = torch.zeros_like(part, dtype=torch.bool)
        for i in range(last - first):
            if how.pattern and i % how.pattern[1] == 0:
                group = slice(i, i + how.pattern[1])
                kept[:, group] = keep_n_of_m(part[:, group] ** 2 / diagonal[group] ** 2, *how.pattern)
            new = part[:, i] * kept[:, i]
            error = (part[:, i] - new) / diagonal[i]
            part[:, i:] -= error[:, None] * factor_part[i, i:][None, :]
            part[:, i] = new
            errors[:, i] = error
        weight[:, first:last] = part
        weight[:, last:] -= errors @ factor[first:last, last:]
    return weight


class Moments:
    def __init__(self, linear):
        self.gram = torch.zeros(linear.in_features, linear.in_features, device=linear.weight.device)
        self.tokens = 0

    def add(self, _, inputs, __):
        x = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
        self.gram += x.T @ x
        self.tokens += x.shape[0]


class Stop(Exception):
    pass


def first_inputs(model, windows):
    """What the first block is called with, for each window."""
    calls = []

    def seen(_, args, kwargs):
        calls.append((args[0] if args else kwargs.pop("hidden_states"), kwargs))
        raise Stop

    hook = model.model.layers[0].register_forward_pre_hook(seen, with_kwargs=True)
    for window in windows:
        try:
            model(window[None], use_cache=False)
        except Stop:
            pass
    hook.remove()
    return [hidden for hidden, _ in calls], calls[0][1]


@torch.no_grad()
def prune(args):
    from transformers import AutoModelForCausalLM

    how = args
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(device).eval()
    ids = np.fromfile(args.ids, dtype=np.uint16)[: args.windows * args.seqlen].astype(np.int64)
    windows = torch.from_numpy(ids.reshape(args.windows, args.seqlen)).to(device)
    hidden, kwargs = first_inputs(model, windows)
    method = {"sparsegpt": sparsegpt, "wanda": wanda, "ria": ria}[args.method]
    dtype = AutoModelForCausalLM.from_pretrained(args.model, dtype="auto").dtype

    def run(layer, x):
        out = layer(x, **kwargs)
        return out[0] if isinstance(out, tuple) else out

    for number, layer in enumerate(model.model.layers):
        linears = {n: m for n, m in layer.named_modules() if isinstance(m, torch.nn.Linear)}
        stats = {name: Moments(linear) for name, linear in linears.items()}
        hooks = [linear.register_forward_hook(stats[name].add) for name, linear in linears.items()]
        for x in hidden:
            run(layer, x)
        for hook in hooks:
            hook.remove()
        for name, linear in linears.items():
            # Rounded to the file's type before the next block sees it.
            linear.weight.copy_(method(linear.weight.float(), stats[name], how).to(dtype).float())
        hidden = [run(layer, x) for x in hidden]
        print(f"\rblock {number + 1} of {len(model.model.layers)}", end="", flush=True)
    print()
    out = pathlib.Path(args.out)
    shutil.copytree(args.model, out, ignore=shutil.ignore_patterns("*.safetensors*"))
    state = {name: tensor.to(dtype).cpu().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})


def tensors_of(folder):
    tensors = {}
    for file in sorted(pathlib.Path(folder).glob("model*.safetensors")):
        with safe_open(file, "pt") as opened:
            tensors.update({name: opened.get_tensor(name).float() for name in opened.keys()})
    return tensors


def agreement(pairs):
    """Share of the weights whose masks agree, and the relative difference of the weights."""
    same = total = difference = size = 0.0
    for a, b in pairs:
        same += ((a == 0) == (b == 0)).sum().item()
        total += a.numel()
        difference += ((a - b) ** 2).sum().item()
        size += (a**2).sum().item()
    return f"{same / total:.5f} {(difference / size) ** 0.5:.4f}"


def compare(args):
    dense, reference, ours = (tensors_of(f) for f in (args.dense, args.reference, args.ours))
    print("masks that agree, relative difference of the weights: of the first block, and of all")
    for kind in LINEARS:
        names = [n for n in dense if n.endswith(f"{kind}.weight")]
        pairs = [(reference[n], ours[n]) for n in names]
        first = [(reference[n], ours[n]) for n in names if ".layers.0." in n]
        print(f"{kind:10} {agreement(first)}   {agreement(pairs)}")


def qwen2(args):
    folder, out = pathlib.Path(args.llama), pathlib.Path(args.out)
    config = json.loads((folder / "config.json").read_text())
    random = torch.Generator().manual_seed(1)
    tensors, heads = tensors_of(folder), config["num_attention_heads"]
    kv_heads, size = config["num_key_value_heads"], config["hidden_size"] // heads

    def factors(n):
        return torch.exp(args.spread * torch.randn(n, generator=random))

    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}.self_attn."
        mlp = f"model.layers.{i}.mlp."
        # A rotary pair takes one factor: elements j and j + size/2 of a head; all heads of a group share it.
        pairs = factors(kv_heads * size // 2).reshape(kv_heads, size // 2).repeat(1, 2)
        tensors[at + "k_proj.weight"] *= pairs.reshape(-1, 1)
        tensors[at + "q_proj.weight"] /= pairs.repeat_interleave(heads // kv_heads, 0).reshape(-1, 1)
        values = factors(kv_heads * size).reshape(kv_heads, size)
        tensors[at + "v_proj.weight"] *= values.reshape(-1, 1)
        tensors[at + "o_proj.weight"] /= values.repeat_interleave(heads // kv_heads, 0).reshape(1, -1)
        ups = factors(config["intermediate_size"])
        tensors[mlp + "up_proj.weight"] *= ups[:, None]
        tensors[mlp + "down_proj.weight"] /= ups[None, :]
        for name in "qkv":
            rows = tensors[at + f"{name}_proj.weight"].norm(dim=1)  # what a normed input makes of it is of this size
            tensors[at + f"{name}_proj.bias"] = torch.randn(rows.numel(), generator=random) * args.bias * rows
    config.update({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": False})
    for key in ("attention_bias", "mlp_bias", "head_dim", "pretraining_tp"):
        config.pop(key, None)
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns("*.safetensors*", "config.json"))
    (out / "config.json").write_text(json.dumps(config, indent=1))
    save_file({n: t.to(torch.bfloat16).contiguous() for n, t in tensors.items()}, out / "model.safetensors",
              metadata={"format": "pt"})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("prune")
    command.add_argument("model")
    command.add_argument("out")
    command.add_argument("--ids", required=True)
    command.add_argument("--windows", type=int, default=16)
    command.add_argument("--seqlen", type=int, default=2048)
    command.add_argument("--method", choices=("sparsegpt", "wanda", "ria"), required=True)
    command.add_argument("--sparsity", type=float, default=0.5)
    command.add_argument("--pattern", type=lambda text: tuple(int(n) for n in text.split(":")))
    command.add_argument("--by-row", action="store_true", help="SparseGPT with a threshold for each row")
    command.set_defaults(run=prune)
    command = commands.add_parser("compare")
    for name in ("dense", "reference", "ours"):
        command.add_argument(name)
    command.set_defaults(run=compare)
    command = commands.add_parser("qwen2")
    command.add_argument("llama")
    command.add_argument("out")
    command.add_argument("--bias", type=float, default=0.02, help="deviation, in norms of the bias's row of weights")
    command.add_argument("--spread", type=float, default=0.0)
    command.set_defaults(run=qwen2)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
