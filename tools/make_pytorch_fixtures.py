"""Makes tests/data/checkpoint/pytorch_*.bin: the same tensors as PyTorch saves them in every form that is read.
Needs torch. Run: python tools/make_pytorch_fixtures.py"""
import collections
import pathlib
import zipfile

import torch

out = pathlib.Path(__file__).resolve().parent.parent / "tests/data/checkpoint"
w = torch.arange(12, dtype=torch.float32).reshape(3, 4) - 2.5
state = collections.OrderedDict(
    w=w, turned=w.t(), rows=w[1:], column=w[:, 2], half=w.half(), brain=w.bfloat16(), double=w.double() / 3,
    mask=w > 0, number=torch.tensor(7), parameter=torch.nn.Parameter(w + 1), empty=torch.zeros(0, 4))
state._metadata = collections.OrderedDict({"": {"version": 1}})

torch.save(state, out / "pytorch_zip.bin")
torch.save(state, out / "pytorch_protocol4.bin", pickle_protocol=4)
torch.save(state, out / "pytorch_legacy.bin", _use_new_zipfile_serialization=False)

# As a machine of the other byte order saves it: every storage's elements turned around.
sizes = {"w": 4, "half": 2, "brain": 2, "double": 8, "mask": 1, "number": 8, "parameter": 4, "empty": 4}
keys = {}
for tensor in ("w", "half", "brain", "double", "mask", "number", "parameter", "empty"):
    keys[str(len(keys))] = sizes[tensor]
with zipfile.ZipFile(out / "pytorch_zip.bin") as source, zipfile.ZipFile(out / "pytorch_big_endian.bin", "w") as target:
    for name in source.namelist():
        content = source.read(name)
        if name.endswith("/byteorder"):
            content = b"big"
        elif "/data/" in name:
            size = keys[name.rsplit("/", 1)[1]]
            content = b"".join(content[i:i + size][::-1] for i in range(0, len(content), size))
        target.writestr(name, content)
