#!/usr/bin/env python3
"""Checks what `swiftprune import` made against transformers: not part of the tests, which use no Python.

check_import.py GGUF FOLDER          weights and logits against transformers' own GGUF loading (needs accelerate)
check_import.py NAME.config.json FOLDER
                                     logits against the model that tools/make_gguf_fixtures.py made of NAME
FOLDER should be imported with --dtype f32; then differences are 0 or rounding.
"""
import pathlib
import shutil
import sys
import tempfile

import torch
import transformers

given, folder = map(pathlib.Path, sys.argv[1:3])
ours = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
if given.suffix == ".gguf":
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        given.parent, gguf_file=given.name, dtype=torch.float32)
else:
    with tempfile.TemporaryDirectory() as temporary:
        shutil.copy(given, pathlib.Path(temporary) / "config.json")
        shutil.copy(given.with_name(given.name.replace(".config.json", ".safetensors")),
                    pathlib.Path(temporary) / "model.safetensors")
        reference = transformers.AutoModelForCausalLM.from_pretrained(temporary, dtype=torch.float32)
reference.eval()

weights, expected = ours.state_dict(), reference.state_dict()
assert weights.keys() == expected.keys(), weights.keys() ^ expected.keys()
weight_error = max((weights[k] - expected[k]).abs().max().item() for k in weights)
torch.manual_seed(0)
ids = torch.randint(0, ours.config.vocab_size, (2, 48))
with torch.no_grad():
    found, wanted = ours(ids).logits, reference(ids).logits
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
text = "Hello world, 2024!\n"
print(f"{type(ours).__name__}: max weight difference {weight_error:.3g}, "
      f"max logit difference {(found - wanted).abs().max().item():.3g} of {wanted.abs().max().item():.3g}, "
      f"tokenizer {len(tokenizer)} tokens, round trip {tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text}")
