#!/usr/bin/env python3
"""Prunes a model by every method and pattern, measures each result, and writes the table into docs/evaluation.md
(between the two `results` comments).

  tools/results_page.py build/release/swiftprune MODEL --calibration C4 --text TEXT --work FOLDER [--windows 8] [--device cuda]

Models are removed once measured; their numbers stay in FOLDER/results.jsonl, so that an interrupted run goes on.
"""
import argparse
import datetime
import json
import pathlib
import shutil
import subprocess
import time

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
PATTERNS = {"50 %": ["--sparsity", "0.5"], "60 %": ["--sparsity", "0.6"], "70 %": ["--sparsity", "0.7"],
            "4:8": ["--pattern", "4:8"], "2:4": ["--pattern", "2:4"]}


def run_json(command):
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def evaluate(arguments, folder):
    return run_json([arguments.swiftprune, "eval", str(folder), "--text", arguments.text, "--windows",
                     str(arguments.eval_windows), "--seqlen", str(arguments.eval_seqlen), "--compute", arguments.compute,
                     "--device", arguments.device, "--json", "--quiet"])


def measure(arguments, method, pattern):
    folder = arguments.work / "pruned"
    shutil.rmtree(folder, ignore_errors=True)
    command = [arguments.swiftprune, "prune", arguments.model, "--out", str(folder), "--method", method,
               *PATTERNS[pattern], "--calibration", arguments.calibration, "--seqlen", str(arguments.seqlen),
               "--compute", arguments.compute, "--device", arguments.device, "--json", "--quiet"]
    if arguments.windows:
        command += ["--windows", str(arguments.windows)]
    start = time.time()
    record = run_json(command)
    seconds = time.time() - start
    result = evaluate(arguments, folder)
    shutil.rmtree(folder)
    return {"method": method, "pattern": pattern, "perplexity": result["perplexity"], "seconds": seconds,
            "sparsity": record["sparsity"], "windows": record["calibration"]["windows"],
            "device": "GPU" if arguments.device.startswith("cuda") else f"{result['threads']} CPU threads"}


def number(value):
    return f"{value:.2e}" if value >= 1e5 else f"{value:.0f}" if value >= 1000 else f"{value:.{1 if value >= 100 else 2}f}"


def machine(dense):
    if dense["device"] != "cpu":
        return dense["device"]
    return f"{dense['threads']} threads, {dense['instruction_set']}"


def windows(count):
    return "1 window" if count == 1 else f"{count} windows"


def paper_sentence(results):
    parts = []
    for pattern in PATTERNS:
        found = {m: results.get((m, pattern)) for m in ["paper", "wanda", "magnitude"]}
        if all(found.values()):
            values = {m: number(r["perplexity"]) for m, r in found.items()}
            parts.append(f"{values['paper']} at {pattern} (wanda {values['wanda']}, magnitude {values['magnitude']})")
    if not parts:
        return ""
    return ("The score of the paper that this project is named after (`paper`, arXiv 2501.16376, as published) gives "
            + "; ".join(parts) + ". Same calibration, same selection code, same clock.\n")


def table(arguments, dense, results, methods):
    lines = [BEGIN, "## Every method and pattern", "",
             f"Model: {pathlib.Path(arguments.model).name}; dense perplexity **{number(dense['perplexity'])}**. "
             f"Text: {pathlib.Path(arguments.text).name}, {windows(arguments.eval_windows)} of {arguments.eval_seqlen} tokens "
             f"(Hugging Face / GPTQ convention, {arguments.compute}). Calibration: {pathlib.Path(arguments.calibration).name}, "
             f"windows of {arguments.seqlen} tokens. {machine(dense)}; {datetime.date.today().isoformat()}. "
             "In brackets: seconds to prune, reading and writing included.", "",
             "| method | windows | pruned on | " + " | ".join(arguments.patterns) + " |", "|---" * (len(arguments.patterns) + 3) + "|"]
    best = {p: min((r["perplexity"] for (m, q), r in results.items() if q == p), default=None) for p in arguments.patterns}
    for method in methods:
        counts = sorted({r["windows"] for (m, p), r in results.items() if m == method and p in arguments.patterns})
        devices = sorted({r["device"] for (m, p), r in results.items() if m == method and p in arguments.patterns})
        cells = [", ".join(map(str, counts)) or "–", ", ".join(devices) or "–"]
        for pattern in arguments.patterns:
            result = results.get((method, pattern))
            if result is None:
                cells.append("–")
                continue
            text = number(result["perplexity"])
            text = f"**{text}**" if result["perplexity"] == best[pattern] else text
            cells.append(f"{text} ({result['seconds']:.0f} s)")
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    lines += ["", paper_sentence(results)] if paper_sentence(results) else [""]
    command = (f"tools/results_page.py build/release/swiftprune MODEL --calibration C4 --text TEXT --work FOLDER "
               f"{f'--windows {arguments.windows} ' if arguments.windows else ''}--device {arguments.device} --seqlen {arguments.seqlen} --eval-windows {arguments.eval_windows} "
               f"--eval-seqlen {arguments.eval_seqlen} --compute {arguments.compute}")
    return "\n".join(lines + [f"`{command}`", END]) + "\n"


def write_section(path, section):
    text = path.read_text(encoding="utf-8") if path.exists() else "# Evaluation\n"
    if BEGIN in text and END in text:
        before, rest = text.split(BEGIN, 1)
        text = before + section.rstrip("\n") + rest.split(END, 1)[1]
    else:
        text = text.rstrip("\n") + "\n\n" + section
    path.write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("swiftprune")
    parser.add_argument("model")
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--windows", type=int, help="calibration windows of every method; default: each method's own number")
    parser.add_argument("--seqlen", type=int, default=2048)
    parser.add_argument("--eval-windows", type=int, default=32)
    parser.add_argument("--eval-seqlen", type=int, default=2048)
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", nargs="+", help="default: all but random")
    parser.add_argument("--patterns", nargs="+", default=list(PATTERNS), choices=list(PATTERNS))
    parser.add_argument("--doc", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent / "docs" / "evaluation.md")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    known = [m["name"] for m in run_json([arguments.swiftprune, "methods", "--json"])["methods"]]
    methods = arguments.methods or [m for m in known if m != "random"]

    log = arguments.work / "results.jsonl"
    results = {}
    if log.exists():
        for line in log.read_text().splitlines():
            result = json.loads(line)
            results[result["method"], result["pattern"]] = result
    dense = evaluate(arguments, arguments.model)
    for method in methods:
        for pattern in arguments.patterns:
            if (method, pattern) in results:
                continue
            try:
                results[method, pattern] = measure(arguments, method, pattern)
            except subprocess.CalledProcessError as error:
                print(f"{method} {pattern}: {error.stderr.strip()}")
                continue
            with log.open("a") as file:
                file.write(json.dumps(results[method, pattern]) + "\n")
            print(f"{method} {pattern}: {number(results[method, pattern]['perplexity'])}", flush=True)
            write_section(arguments.doc, table(arguments, dense, results, methods))
    write_section(arguments.doc, table(arguments, dense, results, methods))


if __name__ == "__main__":
    main()
