#!/usr/bin/env python3
"""The published procedures of Wanda (arXiv 2306.11695) and SparseGPT (arXiv 2301.00774) in PyTorch, from the papers, to
time them on the same GPU as swiftprune: gpu_pytorch.py FOLDER [--method wanda|sparsegpt] [--pattern row|2:4]
[--windows 128] [--layers N]. FOLDER: a LLaMA checkpoint (tools/make_random_model makes one). Needs torch and
transformers. As published: windows one by one, statistics through forward hooks in float, two forwards of each block
(the second through the pruned weights), weights in 16 bit."""
import argparse
import json
import math
import time
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

SEQLEN = 2048


def load(folder, name, files):
    if not files:
        for path in sorted(Path(folder).glob("*.safetensors")):
            handle = safe_open(path, "pt")
            files.update({key: handle for key in handle.keys()})
    return files[name].get_tensor(name)


class Wanda:
    """|W|·||x||: the running mean of squared input norms."""

    def __init__(self, linear):
        self.linear = linear
        self.scale = torch.zeros(linear.in_features, device=linear.weight.device)
        self.count = 0

    def add(self, x):
        x = x.reshape(-1, x.shape[-1]).t().float()
        self.scale *= self.count / (self.count + 1)
        self.count += 1
        self.scale += torch.norm(x, p=2, dim=1) ** 2 / self.count

    def prune(self, pattern, sparsity):
        weight = self.linear.weight.data
        metric = weight.abs() * self.scale.reshape(1, -1).sqrt()
        mask = torch.zeros_like(metric, dtype=torch.bool)
        if pattern == "2:4":
            for i in range(0, metric.shape[1], 4):
                part = metric[:, i : i + 4].float()
                mask.scatter_(1, i + torch.topk(part, 2, dim=1, largest=False)[1], True)
        else:
            order = torch.sort(metric, dim=-1, stable=True)[1]
            mask.scatter_(1, order[:, : int(metric.shape[1] * sparsity)], True)
        weight[mask] = 0


class SparseGpt:
    """Algorithm 1: 128-column blocks, 1 % damping, one threshold a block or n:m group by group."""

    def __init__(self, linear):
        self.linear = linear
        n = linear.in_features
        self.hessian = torch.zeros(n, n, device=linear.weight.device)
        self.count = 0

    def add(self, x):
        x = x.reshape(-1, x.shape[-1]).t()
        self.hessian *= self.count / (self.count + 1)
        self.count += 1
        x = math.sqrt(2 / self.count) * x.float()
        self.hessian += x.matmul(x.t())

    def prune(self, pattern, sparsity, block=128):
        weight = self.linear.weight.data.float()
        h = self.hessian
        dead = torch.diag(h) == 0
        h[dead, dead] = 1
        weight[:, dead] = 0
        diagonal = torch.arange(h.shape[0], device=h.device)
        h[diagonal, diagonal] += 0.01 * torch.mean(torch.diag(h))
        h = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
        columns = weight.shape[1]
        for first in range(0, columns, block):
            last = min(first + block, columns)
            w = weight[:, first:last].clone()
            q = torch.zeros_like(w)
            errors = torch.zeros_like(w)
            factor = h[first:last, first:last]
            if pattern == "row":
                score = w**2 / torch.diag(factor).reshape(1, -1) ** 2
                limit = torch.sort(score.flatten())[0][int(score.numel() * sparsity)]
                mask = score <= limit
            else:
                mask = torch.zeros_like(w, dtype=torch.bool)
            for i in range(last - first):
                d = factor[i, i]
                if pattern == "2:4" and i % 4 == 0:
                    score = w[:, i : i + 4] ** 2 / torch.diag(factor)[i : i + 4].reshape(1, -1) ** 2
                    mask.scatter_(1, i + torch.topk(score, 2, dim=1, largest=False)[1], True)
                kept = w[:, i].clone()
                kept[mask[:, i]] = 0
                q[:, i] = kept
                error = (w[:, i] - kept) / d
                w[:, i:] -= error.unsqueeze(1).matmul(factor[i, i:].unsqueeze(0))
                errors[:, i] = error
            weight[:, first:last] = q
            weight[:, last:] -= errors.matmul(h[first:last, last:])
        self.linear.weight.data = weight.to(self.linear.weight.dtype)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--method", choices=["wanda", "sparsegpt"], default="wanda")
    parser.add_argument("--pattern", choices=["row", "2:4"], default="row")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--layers", type=int, default=0, help="only the first so many blocks (0: all)")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    config = LlamaConfig(**json.loads((Path(args.folder) / "config.json").read_text()))
    config._attn_implementation = "sdpa"
    files = {}
    ids = torch.randint(3, config.vocab_size, (args.windows, SEQLEN), generator=torch.Generator().manual_seed(0))
    embedding = load(args.folder, "model.embed_tokens.weight", files)
    hidden = embedding[ids].cuda()
    rotary = LlamaRotaryEmbedding(config=config).cuda()
    positions = torch.arange(SEQLEN, device="cuda").unsqueeze(0)
    angles = rotary(hidden[:1], positions)
    seconds = {"load": 0.0, "forward": 0.0, "prune": 0.0}

    def timed(stage, start):
        torch.cuda.synchronize()
        seconds[stage] += time.time() - start

    make = Wanda if args.method == "wanda" else SparseGpt
    layers = args.layers or config.num_hidden_layers
    begin = time.time()
    with torch.no_grad():
        for i in range(layers):
            start = time.time()
            layer = LlamaDecoderLayer(config, layer_idx=i).to(torch.bfloat16)
            state = {k: load(args.folder, f"model.layers.{i}.{k}", files) for k in layer.state_dict()}
            layer.load_state_dict(state)
            layer = layer.cuda().eval()
            timed("load", start)

            def forward(into):
                for w in range(args.windows):
                    out = layer(hidden[w : w + 1], position_embeddings=angles)
                    into[w] = (out[0] if isinstance(out, tuple) else out).squeeze(0)

            start = time.time()
            linears = [m for m in layer.modules() if isinstance(m, torch.nn.Linear)]
            statistics = {linear: make(linear) for linear in linears}
            hooks = [
                linear.register_forward_hook(lambda m, x, y: statistics[m].add(x[0])) for linear in linears
            ]
            outputs = torch.empty_like(hidden)
            forward(outputs)
            for hook in hooks:
                hook.remove()
            timed("forward", start)
            start = time.time()
            for linear in linears:
                statistics[linear].prune(args.pattern, args.sparsity)
            timed("prune", start)
            start = time.time()
            forward(outputs)
            hidden = outputs
            timed("forward", start)
    total = time.time() - begin
    print(json.dumps({"method": args.method, "pattern": args.pattern, "windows": args.windows, "layers": layers,
                      "gpu": torch.cuda.get_device_name(), "seconds": total, **seconds}))


if __name__ == "__main__":
    main()
