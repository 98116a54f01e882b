#!/usr/bin/env python3
"""Writes src/swiftprune/checkpoint/gguf_grids.cpp: the grids of GGUF's IQ1, IQ2 and IQ3 types, which are tables of the
file format, as the PyPI package `gguf` (0.19.0, MIT licence) has them. A grid's entry is the positions of 8 (or 4) values in
a short list, packed into 16 bits.
"""
import pathlib

import gguf
import numpy as np

OUT = pathlib.Path(__file__).resolve().parent.parent / "src" / "swiftprune" / "checkpoint" / "gguf_grids.cpp"
GRIDS = [("kGridIq2Xxs", "IQ2_XXS"), ("kGridIq2Xs", "IQ2_XS"), ("kGridIq2S", "IQ2_S"), ("kGridIq3Xxs", "IQ3_XXS"),
         ("kGridIq3S", "IQ3_S"), ("kGridIq1", "IQ1_S")]
PER_LINE = 14


def main():
    text = ["// Written by tools/make_gguf_grids.py: tables of the file format, from the PyPI package `gguf` 0.19.0.",
            '#include "swiftprune/checkpoint/gguf_grids.h"', "", "namespace swiftprune {", "", "// clang-format off"]
    for name, kind in GRIDS:
        of = gguf.quants._type_traits[gguf.GGMLQuantizationType[kind]]
        entries = np.frombuffer(bytes.fromhex(of.grid_hex.decode()), dtype="<u2")
        assert entries.size == of.grid_shape[0], kind
        text.append(f"const std::array<std::uint16_t, {entries.size}> {name} = {{")
        for first in range(0, entries.size, PER_LINE):
            text.append("    " + ", ".join(f"0x{x:04x}" for x in entries[first:first + PER_LINE]) + ",")
        text[-1] = text[-1].rstrip(",") + "};"
    text += ["// clang-format on", "", "}  // namespace swiftprune", ""]
    OUT.write_text("\n".join(text))


if __name__ == "__main__":
    main()
