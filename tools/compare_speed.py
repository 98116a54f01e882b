#!/usr/bin/env python3
"""Tokens a second of a dense model and of models made from it, one sequence, in swiftprune, in transformers (bf16, greedy
with the KV cache) and in llama.cpp (F16 GGUF, by llama-cpp-python), as a Markdown table.

  tools/compare_speed.py build/release/swiftprune DENSE [SHRUNK ...] --work FOLDER [--programs swiftprune,llama.cpp]
      [--prompt 512] [--decode 64] [--rounds 5] [--threads 2] [--device cpu|cuda]

A program holds all models at once and takes them in turn, round after round, after a round that is not counted. Tokens a
second are medians; gains are medians of a round's dense time over the model's. The ratio of parameters is the dense
model's number over the model's, embeddings included. GGUF files stay in --work and are made again for a newer folder;
llama.cpp runs on the processor, unless llama-cpp-python was built for the GPU.
"""
import argparse
import concurrent.futures
import json
import multiprocessing
import pathlib
import statistics
import struct
import subprocess
import time

import numpy


def header(folder, part):
    with open(folder / part, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(size))


def parameters(folder):
    return sum(int(numpy.prod(tensor["shape"])) for part in folder.glob("*.safetensors")
               for name, tensor in header(folder, part.name).items() if name != "__metadata__")


def random_prompt(folder, count):
    config = json.loads((folder / "config.json").read_text())
    vocab_size = config.get("text_config", config)["vocab_size"]
    return numpy.random.default_rng(1).integers(vocab_size, size=count).tolist()


def run_swiftprune(a):
    against = [part for model in a.models[:-1] for part in ("--against", model)]
    command = [a.swiftprune, "bench", a.models[-1], *against, "--batch", 1, "--prompt", a.prompt, "--decode", a.decode,
               "--rounds", a.rounds, "--threads", a.threads, "--device", a.device, "--json", "--quiet"]
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
    return [model["batches"][0] for model in json.loads(done.stdout)["models"]]


def summary(times, a):
    """What `swiftprune bench` reports of its own rounds."""
    result = []
    for rounds in times:
        speed = {}
        for part, (name, tokens) in enumerate([("prefill", a.prompt), ("decode", a.decode)]):
            speed[f"{name}_tokens_per_second"] = tokens / statistics.median(t[part] for t in rounds)
            speed[f"{name}_ratio"] = statistics.median(dense[part] / t[part] for dense, t in zip(times[0], rounds))
        result.append(speed)
    return result


def in_turn(runs, a):
    """runs: for each model a function that reads the prompt and decodes, and returns the seconds of both."""
    for run in runs:
        run()
    times = [[] for _ in runs]
    for _ in range(a.rounds):
        for model, run in enumerate(runs):
            times[model].append(run())
    return summary(times, a)


def transformers_run(folder, a):
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(a.threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval().to(a.device)
    prompt = torch.tensor([random_prompt(folder, a.prompt)], device=a.device)

    def step(ids, cache):
        out = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(-1)
        token.cpu()  # waits for the device
        return token, out.past_key_values

    @torch.inference_mode()
    def run():
        start = time.perf_counter()
        token, cache = step(prompt, None)
        middle = time.perf_counter()
        for _ in range(a.decode):
            token, cache = step(token, cache)
        return middle - start, time.perf_counter() - middle

    return run


def gguf_of(folder, a):
    file = a.work / f"{folder.resolve().name}.f16.gguf"
    if file.exists() and file.stat().st_mtime < (folder / "config.json").stat().st_mtime:
        file.unlink()
    if not file.exists():
        subprocess.run([a.swiftprune, "export", folder, "--gguf", file, "--type", "f16", "--quiet"], check=True,
                       stdout=subprocess.DEVNULL)
    return file


def llama_cpp_run(folder, a):
    import llama_cpp
    gpu_layers = 0 if a.device == "cpu" else -1
    llama = llama_cpp.Llama(str(gguf_of(folder, a)), n_ctx=a.prompt + a.decode, n_batch=a.prompt, n_threads=a.threads,
                            n_threads_batch=a.threads, n_gpu_layers=gpu_layers, verbose=False)
    context = llama.ctx
    prompt = random_prompt(folder, a.prompt)

    def step(tokens):
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(tokens))) != 0:
            raise RuntimeError(f"{folder}: llama_decode failed")
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        return int(numpy.ctypeslib.as_array(logits, shape=(llama.n_vocab(),)).argmax())

    def run():
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        start = time.perf_counter()
        token = step(prompt)
        middle = time.perf_counter()
        for _ in range(a.decode):
            token = step([token])
        return middle - start, time.perf_counter() - middle

    run.owner = llama  # the context lives as long as the function
    return run


def run_transformers(a):
    return in_turn([transformers_run(model, a) for model in a.models], a)


def run_llama_cpp(a):
    return in_turn([llama_cpp_run(model, a) for model in a.models], a)


PROGRAMS = {"swiftprune": run_swiftprune, "transformers": run_transformers, "llama.cpp": run_llama_cpp}


def table(a, results):
    sizes = [parameters(model) for model in a.models]
    lines = ["| model | parameters | ratio | program | decode | gain | gain / ratio | prefill | gain | gain / ratio |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for index, (model, size) in enumerate(zip(a.models, sizes)):
        ratio = sizes[0] / size
        for program, speeds in results.items():
            speed = speeds[index]
            cells = [model.resolve().name, f"{size / 1e6:.1f} M", f"{ratio:.2f}", program]
            for part in ["decode", "prefill"]:
                gain = speed[f"{part}_ratio"]
                cells += [f"{speed[f'{part}_tokens_per_second']:.1f}", f"{gain:.2f}", f"{gain / ratio:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("swiftprune")
    parser.add_argument("models", type=pathlib.Path, nargs="+", help="the dense folder first")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for GGUF files")
    parser.add_argument("--programs", default=",".join(PROGRAMS))
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    a = parser.parse_args()
    programs = a.programs.split(",")
    if unknown := [program for program in programs if program not in PROGRAMS]:
        parser.error(f"--programs: found {', '.join(unknown)}, expected some of {', '.join(PROGRAMS)}")
    a.work.mkdir(parents=True, exist_ok=True)
    if "llama.cpp" in programs:
        for model in a.models:
            gguf_of(model, a)
    results = {}
    for program in programs:
        # A process each: idle threads of one library do not spin beside another's.
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            results[program] = pool.submit(PROGRAMS[program], a).result()
    print(f"{a.threads} threads, prompts of {a.prompt} tokens, {a.decode} decoded, medians of {a.rounds} rounds\n")
    print(table(a, results))


if __name__ == "__main__":
    main()
