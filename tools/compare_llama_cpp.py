#!/usr/bin/env python3
"""GGUF files there and back against llama.cpp: import, export, import again, and what llama.cpp computes of each file.

    tools/compare_llama_cpp.py build/release/swiftprune [tests/data/checkpoint/gguf/NAME.gguf...]

For each file: the folder that `import --dtype f32` makes, the F32 and F16 files that `export --gguf` makes of it, and the
folder that the F32 file gives back: config.json and every tensor must be the same bit for bit. llama.cpp (PyPI:
xllamacpp) must give the log-probabilities of the next token that transformers gives for the folder, with the file that
came first and with the exported ones. Then every quantised type and mix, which must load. Needs torch, transformers
5.24, safetensors.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import urllib.request

import torch
import transformers
import xllamacpp
from safetensors import safe_open

MIXES = ["bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k"]


class LlamaCpp:
    def __init__(self, path):
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx, parameters.n_parallel, parameters.warmup = 128, 1, False
        parameters.fit_params, parameters.cache_ram_mib, parameters.verbosity = False, 0, -1
        parameters.cpuparams.n_threads = 1
        parameters.cache_type_k = parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        self.server = xllamacpp.Server(parameters)

    def chances(self, ids, vocab_size, plain):
        """Log-probabilities of the token behind ids. plain: one whose text is a letter, since llama.cpp's server keeps
        nothing of a token that is a part of a character; the bias that makes it the answer does not touch them."""
        body = {"prompt": ids, "n_predict": 1, "n_probs": vocab_size, "temperature": 0, "cache_prompt": False,
                "logit_bias": [[plain, 1000]]}
        request = urllib.request.Request(self.server.listening_address + "/completion", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)["completion_probabilities"][0]
        row = torch.full((vocab_size,), -torch.inf)
        for one in found["top_logprobs"]:
            row[one["id"]] = one["logprob"]
        return row


def run(program, *arguments):
    result = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{arguments[0]}: {result.stderr.strip()}")


def tensors_of(folder):
    result = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            result |= {name: opened.get_tensor(name) for name in opened.keys()}
    return result


def same_folders(first, second):
    a, b = tensors_of(first), tensors_of(second)
    wrong = [f"{name}" for name in a.keys() | b.keys() if name not in a or name not in b or not torch.equal(a[name], b[name])]
    configs = [json.loads((folder / "config.json").read_text()) for folder in (first, second)]
    wrong += [f"config.json: {key}" for key in configs[0].keys() | configs[1].keys()
              if configs[0].get(key) != configs[1].get(key)]
    tokenizers = [json.loads((folder / "tokenizer.json").read_text()) for folder in (first, second)]
    return wrong + [f"tokenizer.json: {key}" for key in tokenizers[0] if tokenizers[0][key] != tokenizers[1].get(key)]


def plain_token(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return next(i for text, i in sorted(tokenizer.get_vocab().items()) if len(text) == 1 and text.isascii() and text.isalpha())


def compare(program, path, rng):
    """Lines to print, and whether something is wrong."""
    lines, wrong = [], False
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        run(program, "import", path, work / "folder", "--dtype", "f32", "-q")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            work / "folder", dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
        files = {"the file": path}
        try:
            for kind in ("f32", "f16"):
                run(program, "export", work / "folder", "--gguf", work / f"{kind}.gguf", "--type", kind, "-q")
                files[kind] = work / f"{kind}.gguf"
            run(program, "import", work / "f32.gguf", work / "back", "--dtype", "f32", "-q")
            differ = same_folders(work / "folder", work / "back")
            wrong |= bool(differ)
            lines.append(f"there and back: {'; '.join(differ[:5]) or 'the same'}")
        except RuntimeError as error:
            lines.append(f"not exported: {str(error)[-160:]}")
        prompts = [[rng.randrange(3, model.config.get_text_config().vocab_size) for _ in range(length)] for length in (1, 3, 9, 24)]
        vocab_size, plain = model.config.get_text_config().vocab_size, plain_token(work / "folder")
        with torch.no_grad():
            expected = [model(torch.tensor([ids])).logits[0, -1].float().log_softmax(0) for ids in prompts]
        for name, file in files.items():
            try:
                server = LlamaCpp(file)
                differences = [(server.chances(ids, vocab_size, plain) - row).abs().max().item()
                               for ids, row in zip(prompts, expected)]
                del server
                bound = 2e-2 if name == "f16" else 1e-2  # llama.cpp looks some activations up in tables of f16
                wrong |= not max(differences) < bound
                lines.append(f"{name}: {max(differences):.1e}")
            except Exception as error:
                wrong |= name != "the file"
                lines.append(f"{name}: {type(error).__name__} {str(error)[:100]}")
        if "f32" in files:
            loaded, refused = [], []
            for kind in MIXES:
                try:
                    run(program, "export", work / "folder", "--gguf", work / "q.gguf", "--type", kind, "-q")
                except RuntimeError:
                    refused.append(kind)
                    continue
                try:
                    row = LlamaCpp(work / "q.gguf").chances(prompts[-1], vocab_size, plain)
                    assert torch.isfinite(row).all()
                    loaded.append(kind)
                except Exception as error:
                    wrong = True
                    lines.append(f"{kind}: {type(error).__name__} {str(error)[:100]}")
                (work / "q.gguf").unlink()
            lines.append(f"{len(loaded)} types load" + (f", refused: {' '.join(refused)}" if refused else ""))
    return lines, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    root = pathlib.Path(__file__).resolve().parent.parent / "tests/data/checkpoint/gguf"
    files = arguments.files or [path for path in sorted(root.glob("*.gguf"))
                                if "-of-" not in path.name and (root / f"{path.stem}.config.json").exists()]
    bad = 0
    for path in files:
        try:
            lines, wrong = compare(arguments.program, path, random.Random(path.name))
        except Exception as error:
            lines, wrong = [f"{type(error).__name__}: {str(error)[:200]}"], True
        bad += wrong
        print(f"{'WRONG ' if wrong else ''}{path.stem}: {'; '.join(lines)}", flush=True)
    print(f"{len(files)} files, {bad} wrong")
    sys.exit(bad != 0)


if __name__ == "__main__":
    main()
