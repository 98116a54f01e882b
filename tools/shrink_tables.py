#!/usr/bin/env python3
"""Shrinks a model at several ratios by every score with and without compensation, and by whole layers, measures the
perplexity of each result and writes the tables as Markdown.

  tools/shrink_tables.py build/release/swiftprune MODEL --ids IDS --eval-ids IDS --work FOLDER -o TABLE.md
      [--windows 8] [--eval-windows 16] [--eval-seqlen 512] [--threads 2] [--main]

Results are removed once measured; their numbers stay in FOLDER/results.jsonl, so that an interrupted run goes on.
A combination that the model's family has no room for (a bias where config.json knows none) is left out of the table.
"""
import argparse
import json
import pathlib
import shutil
import subprocess

RATIOS = [0.1, 0.2, 0.3, 0.5]
SCORES = ["contribution", "flap", "wanda-sp", "obs", "magnitude"]
COMPENSATIONS = ["none", "bias", "refit"]
# What the papers remove channels by, with what they do to the rest.
PUBLISHED = {("flap", "bias"): "FLAP", ("wanda-sp", "none"): "Wanda-sp"}
OURS = ("contribution", "refit")
REMOVED_LAYERS = [3, 6, 9]
USAGE_ERROR = 2


def jobs(num_layers, everything):
    """The options of each run, in the order of what the tables say first."""
    pairs = [OURS, *PUBLISHED, ("contribution", "none"), ("flap", "none")]
    for score, compensation in pairs:
        for ratio in RATIOS:
            yield {"units": "mlp", "ratio": ratio, "score": score, "compensate": compensation}
    for ratio in RATIOS:
        yield {"units": "mlp", "ratio": ratio, "score": OURS[0], "compensate": OURS[1], "non-uniform": True}
    for compensation in ["none", "aligned"]:
        for count in REMOVED_LAYERS:
            for choice in ["greedy", "influence"]:
                yield {"units": "layers", "ratio": count / num_layers, "layers-by": choice, "compensate": compensation}
    if not everything:
        return
    for score in SCORES:
        for compensation in COMPENSATIONS:
            for ratio in RATIOS:
                if (score, compensation) not in pairs:
                    yield {"units": "mlp", "ratio": ratio, "score": score, "compensate": compensation}


def run_json(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode == USAGE_ERROR and "--compensate" in done.stderr:
        return None  # the family has no room for it
    if done.returncode != 0:
        raise SystemExit(f"{command}: {done.stderr}")
    return json.loads(done.stdout)


def evaluate(a, folder):
    return run_json([a.swiftprune, "eval", folder, "--ids", a.eval_ids, "--windows", a.eval_windows, "--seqlen",
                     a.eval_seqlen, "--compute", a.compute, "--threads", a.threads, "--json", "--quiet"])["perplexity"]


def measure(a, options):
    folder = a.work / "shrunk"
    shutil.rmtree(folder, ignore_errors=True)
    flags = [part for name, value in options.items()
             for part in ((f"--{name}",) if value is True else (f"--{name}", value))]
    record = run_json([a.swiftprune, "shrink", a.model, "--out", folder, *flags, "--ids", a.ids, "--windows", a.windows,
                       "--compute", a.compute, "--threads", a.threads, "--json", "--quiet"])
    if record is None:
        return {"perplexity": None}
    result = {"perplexity": evaluate(a, folder), "removed": record["ratio"], "layers": record["removed_layers"],
              "seconds": record["seconds"]["total"]}
    shutil.rmtree(folder)
    return result


def number(value):
    return "–" if value is None else f"{value:.2e}" if value >= 1e5 else f"{value:.0f}" if value >= 1000 else f"{value:.2f}"


def unit_table(results):
    units = [r for r in results if r["options"]["units"] == "mlp"]
    by_layer = {r["options"]["ratio"]: r["perplexity"] for r in units if "non-uniform" in r["options"]}
    value = {(r["options"]["score"], r["options"]["compensate"], r["options"]["ratio"]): r["perplexity"]
             for r in units if "non-uniform" not in r["options"]}
    lines = ["| score | compensation | " + " | ".join(f"{100 * r:.0f} %" for r in RATIOS) + " |",
             "|---|---|" + "---|" * len(RATIOS)]
    best = {r: min((p for (_, _, ratio), p in value.items() if ratio == r and p is not None), default=None) for r in RATIOS}
    for score in SCORES:
        for compensation in COMPENSATIONS:
            row = [value.get((score, compensation, r)) for r in RATIOS]
            if all(p is None for p in row):
                continue
            name = PUBLISHED.get((score, compensation))
            label = f"{score} ({name} as published)" if name else score
            cells = [f"**{number(p)}**" if p is not None and p == best[r] else number(p) for p, r in zip(row, RATIOS)]
            lines.append(f"| {label} | {compensation} | " + " | ".join(cells) + " |")
    if by_layer:
        cells = " | ".join(number(by_layer.get(r)) for r in RATIOS)
        lines.append(f"| {OURS[0]}, `--non-uniform` | {OURS[1]} | {cells} |")
    factors = []
    for ratio in RATIOS:
        ours = value.get((*OURS, ratio))
        others = [value.get((*pair, ratio)) for pair in PUBLISHED]
        others = [p for p in others if p is not None]
        factors.append(f"{min(others) / ours:.2f}" if ours and others else "–")
    lines.append(f"| best published / {OURS[0]} + {OURS[1]} | | " + " | ".join(factors) + " |")
    return lines


def layer_table(results):
    lines = ["| layers gone | choice | compensation | which | perplexity |", "|---|---|---|---|---|"]
    for r in sorted((r for r in results if r["options"]["units"] == "layers"),
                    key=lambda r: (r["options"]["ratio"], r["options"]["layers-by"], r["options"]["compensate"])):
        o = r["options"]
        lines.append(f"| {len(r['layers'])} | {o['layers-by']} | {o['compensate']} | "
                     f"{', '.join(map(str, r['layers']))} | {number(r['perplexity'])} |")
    return lines


def write(a, dense, results):
    name = pathlib.Path(a.model).name
    commands = [f"swiftprune shrink {name} -o OUT --units mlp --ratio R --score S --compensate C --ids {pathlib.Path(a.ids).name} "
                f"--windows {a.windows} --compute {a.compute}",
                f"swiftprune shrink {name} -o OUT --units layers --ratio R --layers-by L --compensate C ...",
                f"swiftprune eval OUT --ids {pathlib.Path(a.eval_ids).name} --windows {a.eval_windows} "
                f"--seqlen {a.eval_seqlen} --compute {a.compute}"]
    lines = [f"{name}: dense {number(dense)}", "", *(f"    {c}" for c in commands), "", *unit_table(results), "",
             *layer_table(results)]
    a.output.write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("swiftprune")
    parser.add_argument("model")
    parser.add_argument("--ids", required=True, help="calibration: token ids")
    parser.add_argument("--eval-ids", required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("-o", "--output", type=pathlib.Path, required=True)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--eval-windows", type=int, default=16)
    parser.add_argument("--eval-seqlen", type=int, default=512)
    parser.add_argument("--compute", default="bf16")
    parser.add_argument("--main", action="store_true", help="only ours, the published methods and layers")
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    journal = a.work / "results.jsonl"
    results = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    config = json.loads((pathlib.Path(a.model) / "config.json").read_text())
    num_layers = config.get("text_config", config)["num_hidden_layers"]
    dense = next((r["perplexity"] for r in results if r["options"] == {}), None)
    if dense is None:
        dense = evaluate(a, a.model)
        with journal.open("a") as file:
            file.write(json.dumps({"options": {}, "perplexity": dense}) + "\n")
    results = [r for r in results if r["options"]]
    for options in jobs(num_layers, not a.main):
        if any(r["options"] == options for r in results):
            continue
        results.append({"options": options, **measure(a, options)})
        with journal.open("a") as file:
            file.write(json.dumps(results[-1]) + "\n")
        print(json.dumps(results[-1]), flush=True)
        write(a, dense, results)
    write(a, dense, results)


if __name__ == "__main__":
    main()
