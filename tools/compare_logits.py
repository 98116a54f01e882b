#!/usr/bin/env python3
"""The largest difference between the logits of build/.../bench/dump_logits and of transformers, in float:
compare_logits.py DUMP_LOGITS MODEL IDS.u16|IDS.u32 [seqlen] [ADAPTER], with a LoRA folder through PEFT, where one is given."""
import subprocess
import sys
import tempfile

import numpy
import torch
from transformers import AutoModelForCausalLM

program, folder, ids_file = sys.argv[1:4]
seqlen = int(sys.argv[4]) if len(sys.argv) > 4 else 2048
adapter = sys.argv[5] if len(sys.argv) > 5 else None
ids = numpy.fromfile(ids_file, dtype=numpy.uint16 if ids_file.endswith("u16") else numpy.uint32)[:seqlen]
with tempfile.NamedTemporaryFile(suffix=".f32") as out:
    beside = ["--adapter", adapter] if adapter else []
    subprocess.run([program, folder, ids_file, out.name, "--seqlen", str(seqlen), *beside], check=True)
    ours = numpy.fromfile(out.name, dtype=numpy.float32).reshape(seqlen, -1)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
if adapter:
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, adapter).eval()
with torch.no_grad():
    theirs = model(torch.from_numpy(ids.astype(numpy.int64))[None]).logits[0].numpy()
difference = numpy.abs(ours - theirs)
print(f"{folder}{f' + {adapter}' if adapter else ''}: {seqlen} tokens, largest difference {difference.max():.2e}, "
      f"mean {difference.mean():.2e}, largest logit {numpy.abs(theirs).max():.1f}, "
      f"same best token {(ours.argmax(1) == theirs.argmax(1)).mean():.5f}")
