#!/usr/bin/env python3
"""Trains a small mixture-of-experts model to measure expert removal on: Qwen3-MoE's shape, 32 experts of which a token uses
4, about 30 million parameters with a vocabulary of 32 thousand.

  tools/train_small_moe.py TEXTS... --tokenizer tokenizer.json --out FOLDER --seconds 140

TEXTS are files or folders, of which every .txt, .jsonl (field "text"), .raw, .md and .py is read. One piece in twenty is
not trained on and is written to FOLDER.heldout.txt, what the model is then evaluated on. FOLDER becomes a bfloat16 model
folder. On a GPU the time given is enough; on a CPU --steps 3 shows that it runs. Made with torch 2.15.0 and
transformers 5.24.0.
"""
import argparse
import json
import math
import pathlib
import shutil
import time

import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

SUFFIXES = {".txt", ".jsonl", ".raw", ".md", ".py"}
PIECE = 4000  # characters of a piece of a file without documents


def pieces_of(path):
    if path.suffix == ".jsonl":
        for line in path.read_text(errors="replace").splitlines():
            text = json.loads(line).get("text")
            if isinstance(text, str):
                yield text
        return
    text = path.read_text(errors="replace")
    for begin in range(0, len(text), PIECE):
        yield text[begin:begin + PIECE]


def read_texts(paths):
    files = []
    for path in map(pathlib.Path, paths):
        files += sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES) if path.is_dir() else [path]
    return [piece for file in files for piece in pieces_of(file)]


def make_config(arguments, vocab_size):
    return Qwen3MoeConfig(
        vocab_size=vocab_size, hidden_size=arguments.hidden, intermediate_size=3 * arguments.hidden,
        num_hidden_layers=arguments.layers, num_attention_heads=8, num_key_value_heads=4,
        head_dim=arguments.hidden // 8, max_position_embeddings=2048, moe_intermediate_size=arguments.hidden // 2,
        num_experts=arguments.experts, num_experts_per_tok=4, norm_topk_prob=True, tie_word_embeddings=True,
        output_router_logits=True, router_aux_loss_coef=arguments.balance, rope_parameters=dict(
            rope_type="default", rope_theta=10000.0))


def learning_rate(share, peak):
    warm = 0.03
    return peak * (share / warm if share < warm else 0.5 * (1 + math.cos(math.pi * (share - warm) / (1 - warm))))


class Training:
    def __init__(self, arguments, ids, vocab_size):
        self.a, self.ids = arguments, ids
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModelForCausalLM.from_config(make_config(arguments, vocab_size)).to(self.device)
        self.model.set_experts_implementation("grouped_mm" if self.device == "cuda" else "eager")
        decayed = [p for p in self.model.parameters() if p.dim() >= 2]
        others = [p for p in self.model.parameters() if p.dim() < 2]
        self.optimizer = torch.optim.AdamW([dict(params=decayed, weight_decay=0.1), dict(params=others, weight_decay=0.0)],
                                           lr=arguments.rate, betas=(0.9, 0.95))

    def batch(self, ids):
        starts = torch.randint(0, len(ids) - self.a.seqlen, (self.a.batch,))
        return torch.stack([ids[s:s + self.a.seqlen] for s in starts]).to(self.device)

    def loss(self, x):
        with torch.autocast(self.device, torch.bfloat16):
            return self.model(input_ids=x, labels=x)

    def step(self, share):
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(share, self.a.rate)
        x = self.batch(self.ids)
        try:
            result = self.loss(x)
        except (RuntimeError, NotImplementedError) as error:
            print(f"grouped products do not run here ({error}); expert by expert", flush=True)
            self.model.set_experts_implementation("eager")
            result = self.loss(x)
        result.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return result

    def run(self):
        begin, step = time.time(), 0
        while True:
            share = step / self.a.steps if self.a.steps else (time.time() - begin) / self.a.seconds
            if share >= 1.0:
                break
            result = self.step(share)
            if step % 100 == 0:
                print(f"step {step:6} {time.time() - begin:6.1f} s loss {result.loss.item():.3f}", flush=True)
            step += 1
        print(f"{step} steps of {self.a.batch * self.a.seqlen} tokens in {time.time() - begin:.1f} s")

    @torch.no_grad()
    def perplexity(self, ids):
        count = min(64, (len(ids) - 1) // self.a.seqlen)
        self.model.eval()
        self.model.config.output_router_logits = False
        losses = []
        for i in range(count):
            x = ids[i * self.a.seqlen:(i + 1) * self.a.seqlen][None].to(self.device)
            losses.append(self.loss(x).loss.item())
        return math.exp(sum(losses) / len(losses)) if losses else float("nan")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+")
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seconds", type=float, default=140.0)
    parser.add_argument("--steps", type=int, default=0, help="instead of --seconds")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--balance", type=float, default=0.01, help="weight of the router's balance in the loss")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(arguments.seed)
    out = pathlib.Path(arguments.out)
    tokenizer = Tokenizer.from_file(arguments.tokenizer)
    pieces = read_texts(arguments.texts)
    held = pieces[::20]
    encode = lambda texts: torch.tensor([i for e in tokenizer.encode_batch(texts, add_special_tokens=False) for i in e.ids])
    ids, held_ids = encode([p for i, p in enumerate(pieces) if i % 20]), encode(held)
    print(f"{len(ids)} tokens to train on, {len(held_ids)} held out", flush=True)
    training = Training(arguments, ids, -(-tokenizer.get_vocab_size() // 64) * 64)
    print(f"{sum(p.numel() for p in training.model.parameters())} parameters on {training.device}", flush=True)
    training.run()
    print(f"perplexity of held-out text {training.perplexity(held_ids):.2f}")
    training.model.config.output_router_logits = False
    training.model.to(torch.bfloat16).save_pretrained(out)
    shutil.copyfile(arguments.tokenizer, out / "tokenizer.json")
    pathlib.Path(f"{out}.heldout.txt").write_text("\n\n".join(held))


if __name__ == "__main__":
    main()
