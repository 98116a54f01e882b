#!/usr/bin/env python3
"""Perplexity in llama.cpp of a model folder's quantised GGUF files: ours and llama-quantize's, at the same types.

    tools/compare_gguf_quantize.py build/release/swiftprune MODEL --llama FOLDER --calibration TEXT --text TEXT \
        --work FOLDER [--types q4_k_m,q3_k_m] [--chunks 16] [--calibration-chunks 16]

--llama: where llama-quantize, llama-imatrix and llama-perplexity are. Calibration text is plain text; llama-imatrix
reads its first chunks of 512 tokens, swiftprune draws as many windows of 512 from it. Files that are in --work already
are used again.
"""
import argparse
import pathlib
import re
import subprocess


def run(*arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{arguments[0]}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout + done.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("swiftprune"), parser.add_argument("model")
    for name in ("--llama", "--calibration", "--text", "--work"):
        parser.add_argument(name, required=True, type=pathlib.Path)
    parser.add_argument("--types", default="q4_k_m,q3_k_m")
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--calibration-chunks", type=int, default=16)
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)

    def made(name, *arguments):
        """arguments: a command that writes this file, its place given by None."""
        path = a.work / name
        if not path.exists():
            run(*[path if x is None else x for x in arguments])
        return path

    def perplexity(path):
        found = re.search(r"PPL = ([0-9.]+)",
                          run(a.llama / "llama-perplexity", "-m", path, "-f", a.text, "--chunks", a.chunks))
        return float(found.group(1))

    export = (a.swiftprune, "export", a.model, "--quiet", "--gguf", None, "--type")
    dense = made("f16.gguf", *export, "f16")
    imatrix = made("imatrix.gguf", a.llama / "llama-imatrix", "-m", dense, "-f", a.calibration, "-o", None,
                   "--chunks", a.calibration_chunks)
    calibrated = ("--calibration", a.calibration, "--windows", a.calibration_chunks, "--seqlen", 512)
    quantize = a.llama / "llama-quantize"
    print("| type | made by | MB | perplexity |\n|---|---|---|---|")
    print(f"| f16 | | {dense.stat().st_size / 1e6:.1f} | {perplexity(dense):.2f} |", flush=True)
    for kind in a.types.split(","):
        rows = [
            ("llama-quantize", made(f"llama-{kind}.gguf", quantize, dense, None, kind)),
            ("llama-quantize, imatrix",
             made(f"imatrix-{kind}.gguf", quantize, "--imatrix", imatrix, dense, None, kind)),
            ("export", made(f"plain-{kind}.gguf", *export, kind)),
            ("export --calibration", made(f"calibrated-{kind}.gguf", *export, kind, *calibrated)),
        ]
        for name, path in rows:
            print(f"| {kind} | {name} | {path.stat().st_size / 1e6:.1f} | {perplexity(path):.2f} |", flush=True)


if __name__ == "__main__":
    main()
