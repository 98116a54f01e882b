#!/usr/bin/env python3
"""Runs llama.cpp's tokenizer test vectors (*.inp, *.out) through `swiftprune tokenize` and the reference library.

The texts of a .inp file stand between lines "__ggml_vocab_test__"; a .out file has the ids of one text a line,
without special tokens around.

usage: tools/llama_cpp_vectors.py --swiftprune build/release/swiftprune VECTORS.inp TOKENIZER [VECTORS.inp TOKENIZER]...
"""
import argparse
import json
import sys
import tempfile
from pathlib import Path

from compare_tokenizers import Library, run


def vectors(inp):
    texts = Path(inp).read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(inp).with_suffix(".out").read_text().split("\n")
    ids = [[int(x) for x in line.split()] for line in lines]
    assert texts.pop() == "" and ids.pop() == []  # both files end with a separator
    assert len(texts) == len(ids), (len(texts), len(ids))
    return texts, ids


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--swiftprune", required=True)
    parser.add_argument("pairs", nargs="+")
    args = parser.parse_args()
    failed = 0
    for inp, tokenizer in zip(args.pairs[::2], args.pairs[1::2]):
        texts, expected = vectors(inp)
        library = Library(tokenizer)
        with tempfile.TemporaryDirectory() as folder:
            lines = Path(folder) / "texts.jsonl"
            lines.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
            ours = [[int(x) for x in line.split()]
                    for line in run(args.swiftprune, tokenizer, "--text", lines, "--show", "ids", "--no-special")]
        passed = sum(a == b for a, b in zip(ours, expected))
        print(f"{Path(inp).name} with {Path(tokenizer).name}: {passed} of {len(texts)} pass")
        for text, mine, wanted in zip(texts, ours, expected):
            if mine != wanted:
                theirs = library.ids(text, False)
                failed += theirs != mine
                print(f"  {text!r}\n    vector  {wanted}\n    ours    {mine}\n    "
                      f"{library.kind} {'the same as ours' if theirs == mine else theirs}")
    sys.exit(failed != 0)


if __name__ == "__main__":
    main()
