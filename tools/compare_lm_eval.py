#!/usr/bin/env python3
"""Runs lm-evaluation-harness (its own task definitions and model class, no network) and `swiftprune eval` on the same
items and compares accuracies and choice scores.

  tools/compare_lm_eval.py build/release/swiftprune MODEL piqa=FILE.jsonl arc_easy=FILE.jsonl --limit 200

The files hold {"query", "choices", "gold"} lines; they are turned into the fields of the published datasets, from which
the harness makes its own prompts. Needs lm_eval, torch, transformers, accelerate.
"""
import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval.tasks
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml

TASKS = pathlib.Path(lm_eval.tasks.__file__).parent
LETTERS = "ABCDEFGHIJ"


def piqa(line):
    return {"goal": line["query"].removeprefix("Question: ").rstrip("\n"), "sol1": line["choices"][0],
            "sol2": line["choices"][1], "label": line["gold"]}


def arc(line):
    return {"question": line["query"].removeprefix("Question: "), "answerKey": LETTERS[line["gold"]],
            "choices": {"text": line["choices"], "label": list(LETTERS[:len(line["choices"])])}}


def openbookqa(line):
    return {"question_stem": line["query"], "answerKey": LETTERS[line["gold"]],
            "choices": {"text": line["choices"], "label": list(LETTERS[:len(line["choices"])])}}


FIELDS = {"piqa": ("piqa/piqa.yaml", piqa), "arc_easy": ("arc/arc_easy.yaml", arc),
          "arc_challenge": ("arc/arc_challenge.yaml", arc), "openbookqa": ("openbookqa/openbookqa.yaml", openbookqa)}


def harness(model, name, file, limit):
    yaml, convert = FIELDS[name]
    lines = [json.loads(line) for line in open(file, encoding="utf-8")][:limit]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "items.jsonl"
        path.write_text("".join(json.dumps(convert(line)) + "\n" for line in lines), encoding="utf-8")
        config = load_yaml(TASKS / yaml, resolve_func=True)
        for key in ["tag", "dataset_name", "training_split", "test_split"]:
            config.pop(key, None)
        config |= dict(task=name, dataset_path="json", validation_split="validation",
                       dataset_kwargs=dict(data_files={"validation": str(path)}))
        task = ConfigurableTask(config=config)
        task.build_all_requests(limit=None, rank=0, world_size=1)
    scores = model.loglikelihood(task.instances, disable_tqdm=True)
    items = {}
    for instance, score in zip(task.instances, scores):
        items.setdefault(instance.doc_id, (instance.doc, []))[1].append(score)
    results = [task.process_results(doc, item) for doc, item in items.values()]
    return results, [[log_prob for log_prob, _ in item] for _, item in items.values()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("swiftprune")
    parser.add_argument("model")
    parser.add_argument("tasks", nargs="+", help="NAME=FILE")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--compute", default="f32")
    arguments = parser.parse_args()
    ours = json.loads(subprocess.run(
        [arguments.swiftprune, "eval", arguments.model, "--task", *arguments.tasks, "--limit", str(arguments.limit),
         "--items", "--json", "--compute", arguments.compute], check=True, capture_output=True).stdout)
    model = HFLM(pretrained=arguments.model, dtype="float32", device="cpu", batch_size=8)
    failed = False
    for spec, result in zip(arguments.tasks, ours["tasks"]):
        name, file = spec.split("=", 1)
        start = time.time()
        theirs, log_probs = harness(model, name, file, arguments.limit)
        seconds = time.time() - start
        difference = max(abs(a - b) for x, y in zip(log_probs, result["results"]) for a, b in zip(x, y["log_probs"]))
        for metric, key in [("acc", "correct"), ("acc_norm", "correct_norm")]:
            hits = sum(r[metric] for r in theirs)
            own = sum(r[key] for r in result["results"])
            differing = sum(bool(a[metric]) != b[key] for a, b in zip(theirs, result["results"]))
            failed |= abs(hits - own) > 1
            print(f"{name:14} {metric:8} harness {hits:.0f}/{len(theirs)}  swiftprune {own}/{len(theirs)}  "
                  f"items that differ {differing}")
        print(f"{name:14} largest difference of a log-likelihood {difference:.2g}; seconds: harness {seconds:.1f}, "
              f"swiftprune {result['seconds']:.1f}")
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
