#!/usr/bin/env python3
"""Writes tests/data/checkpoint/by_library.safetensors with the `safetensors` package (0.8.0 was used)."""
import pathlib

import torch
from safetensors.torch import save_file

folder = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "checkpoint"
folder.mkdir(parents=True, exist_ok=True)
save_file(
    {
        "b.half": torch.tensor([[1.0, -2.5, 65504.0], [6e-8, 0.0, -0.0]], dtype=torch.float16),
        "a.brain": torch.tensor([3.140625, -1e30, float("inf")], dtype=torch.bfloat16),
        "c.float": torch.tensor([[0.1, 1e-40]], dtype=torch.float32),
        "d.long": torch.tensor([[[-1]], [[2**40]]], dtype=torch.int64),
        "e.empty": torch.zeros((0, 4), dtype=torch.float16),
        "f.scalar": torch.tensor(7.0, dtype=torch.float32),
        "g.mask": torch.tensor([True, False, True]),
    },
    folder / "by_library.safetensors",
    metadata={"format": "pt"},
)
