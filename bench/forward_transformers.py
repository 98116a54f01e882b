#!/usr/bin/env python3
"""Tokens a second of the same forward in transformers: forward_transformers.py MODEL f32|bf16 [threads] [windows]
[rounds]. Attention by torch's scaled_dot_product_attention; logits of every position."""
import statistics
import sys
import time

import torch
from transformers import AutoModelForCausalLM

folder, dtype = sys.argv[1:3]
threads, windows, rounds = (int(v) for v in (sys.argv[3:] + ["2", "2", "5"][len(sys.argv) - 3:]))
torch.set_num_threads(threads)
model = AutoModelForCausalLM.from_pretrained(
    folder, dtype={"f32": torch.float32, "bf16": torch.bfloat16}[dtype], attn_implementation="sdpa").eval()
ids = torch.randint(0, model.config.get_text_config().vocab_size, (windows, 2048))
rates = []
with torch.no_grad():
    for index in range(rounds + 1):  # the first is a warm-up
        start = time.perf_counter()
        for window in ids:
            model(window[None], use_cache=False).logits
        if index:
            rates.append(windows * 2048 / (time.perf_counter() - start))
print(f"transformers {dtype}: {statistics.median(rates):.1f} tokens/s (best {max(rates):.1f})")
