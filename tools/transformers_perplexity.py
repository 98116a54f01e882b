#!/usr/bin/env python3
"""Perplexity by transformers, in the convention of `swiftprune eval`: transformers_perplexity.py MODEL IDS.u16|IDS.u32
[windows] [seqlen] [f32|bf16]"""
import math
import sys

import numpy
import torch
from transformers import AutoModelForCausalLM

folder, ids_file = sys.argv[1:3]
windows, seqlen, dtype = (sys.argv[3:] + ["32", "2048", "f32"][len(sys.argv) - 3:])
windows, seqlen = int(windows), int(seqlen)
device = "cuda" if torch.cuda.is_available() else "cpu"
ids = numpy.fromfile(ids_file, dtype=numpy.uint16 if ids_file.endswith("u16") else numpy.uint32).astype(numpy.int64)
ids = torch.from_numpy(ids[: windows * seqlen].reshape(windows, seqlen)).to(device)
model = AutoModelForCausalLM.from_pretrained(
    folder, dtype={"f32": torch.float32, "bf16": torch.bfloat16}[dtype], attn_implementation="sdpa").to(device).eval()
losses = []
with torch.no_grad():
    for window in ids:
        logits = model(window[None]).logits[0].float()
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], window[1:]).item())
print(f"{folder}: {math.exp(sum(losses) / len(losses)):.4f} over {windows} windows of {seqlen}")
