#!/usr/bin/env python3
"""What several ranks would take for a run that one process did (docs/ranks.md): a prediction, to be checked.

  tools/scaling_model.py MODEL/config.json OUT/swiftprune.json [--ranks 2,4,8] [--gbit 10,400] [--model config.json]

OUT/swiftprune.json is the record of that run, of `prune`, `shrink` of channels and heads, or `shrink --units experts`:
the seconds of its stages, its windows and its method; or what `eval --json` printed. --model: the seconds are carried
over to a model of these sizes first, each stage by its arithmetic.

Stages and how they are shared out:
  allocate   windows through the dense model by every rank, the rest every n-th block
  calibrate  forwards by whole passes of windows; moments too, and the ranks wait for the first rows and for the last
  refine     parts of the linears of one input to the rank with least, as src/swiftprune/pipeline/drivers/
             shared_refinement.cpp; the inverse by every rank
  forward    (shrink) windows by whole passes, moments as above; of experts and of `eval` everything, of experts in parts
             of the text
  solve      (shrink) by every rank, linears beside one another to the rank with least; of experts the forwards of the
             rounds and refits are shared out, their moments are added by one rank after the other, the solves by every rank
  others     load, score, select as in one process and write shared out; on a GPU, where files are read and written beside
             the computation, score and select alone
  transfer   of the moments from rank to rank and back to all, of the new weights to all, over --gbit Gbit/s
Blocks are taken to be of the LLaMA kind: attention, gated MLP.
"""
import argparse
import json
import math

BF16_PANEL = 1024
PROBE_WINDOWS = 4
PROBE_TOKENS = 512
TEXT_PARTS = 8  # of a model with experts
ROUNDS = 4      # of `shrink --units experts`
FLOAT = 4  # bytes


class Shape:
    def __init__(self, config):
        self.hidden = config["hidden_size"]
        self.inner = config["intermediate_size"]
        self.layers = config["num_hidden_layers"]
        heads = config["num_attention_heads"]
        head = config.get("head_dim") or self.hidden // heads
        self.attention = heads * head
        self.kv = config.get("num_key_value_heads", heads) * head
        # Each input: its channels, the outputs of the linears that read it, whether the output joins the residual.
        self.inputs = [
            (self.hidden, [self.attention, self.kv, self.kv], False),
            (self.attention, [self.hidden], True),
            (self.hidden, [self.inner, self.inner], False),
            (self.inner, [self.hidden], True),
        ]

        self.experts = config.get("num_experts") or config.get("num_local_experts") or 0
        self.width = config.get("moe_intermediate_size") or self.inner
        self.top_k = config.get("num_experts_per_tok") or 0

    def forward(self):
        """Multiplications of a token in a block's linears."""
        return sum(i * sum(outputs) for i, outputs, _ in self.inputs)


class Processor:
    tokens_a_pass = 2048
    tile = 256  # rows that may be refined alone, where there are more than that many inputs
    parts_that_pass = 8
    weight = 4  # bytes of one, as it goes to all


class Gpu:
    tokens_a_pass = 4096
    tile = 1024
    parts_that_pass = 4
    weight = 2


class Run:
    def __init__(self, record):
        self.kind = {"shrink": "shrink", "shrink experts": "experts"}.get(record.get("method"), "prune")
        if "mean_nll" in record:
            self.kind = "eval"
            self.device = Processor if record["device"] == "cpu" else Gpu
            self.seconds = {"forward": record["seconds"]}
            self.windows = sum(text["windows"] for text in record["texts"])
            self.seqlen = record["seqlen"]
            return
        self.device = Gpu if "gpu" in record["machine"] else Processor
        self.seconds = record["seconds"]
        self.windows = record["calibration"]["windows"]
        self.seqlen = record["calibration"]["seqlen"]
        self.bf16 = record.get("compute") == "bf16"
        self.aligned = (any("aligned" in str(t.get("refine", "")) for t in record["tensors"]) or record["method"] == "best"
                        or record.get("compensation") == "aligned")
        self.refined = record["weights_changed"] and self.kind == "prune"

    def streams(self):
        return 2 if self.aligned else 1

    def passes(self):
        return math.ceil(self.windows / max(1, self.device.tokens_a_pass // self.seqlen))

    def share(self, ranks):
        """Of the windows, of the busiest rank."""
        return math.ceil(self.passes() / ranks) / self.passes()


def moments(shape, aligned):
    """Multiplications of a token in the sums of a block."""
    return sum(i * i / 2 + (i * i + (shape.hidden * i if joins else 0) if aligned else 0) for i, _, joins in shape.inputs)


def moment_bytes(shape, run):
    """Of a block, as they pass from rank to rank (on a processor half of a Gram matrix), and whole."""
    cross = sum(i * i + (shape.hidden * i if joins else 0) for i, _, joins in shape.inputs) if run.aligned else 0
    gram = sum(i * i for i, _, _ in shape.inputs)
    return FLOAT * (gram if run.device is Gpu else gram / 2) + FLOAT * cross, FLOAT * (gram + cross)


def refinement(shape, run, ranks):
    """Rows times inputs squared of the busiest rank in a block, and of inverses, which each rank makes."""
    steps = 2 * 20  # products of `steps` iterations, 2 operations each
    work = inverses = 0.0
    for inputs, outputs, _ in shape.inputs:
        parts = []
        for rows in outputs:
            tile = run.device.tile
            alone = run.device is Gpu or (inputs > (BF16_PANEL if run.bf16 else tile) and
                                          (rows % tile == 0 or not run.bf16))
            step = tile if alone else rows
            parts += [min(step, rows - first) for first in range(0, rows, step)]
        load = [0] * ranks
        for part in sorted(parts, reverse=True):
            load[load.index(min(load))] += part
        work += steps * max(load) * inputs**2
        inverses += 2 * inputs**3
    return work + inverses


def allocation(shape, run, ranks):
    forward = shape.forward()
    windows = min(PROBE_WINDOWS, run.windows) * run.seqlen
    tokens = min(PROBE_TOKENS, run.seqlen)
    dense = windows * forward
    earlier = shape.layers / 2 * tokens * forward
    probes = windows * moments(shape, False) + 9 * tokens * forward
    probes += sum(10 * i * i * sum(outputs) + i**3 for i, outputs, _ in shape.inputs)
    own = math.ceil(shape.layers / ranks) / shape.layers
    return dense + own * (earlier + probes)


def calibration(shape, run, ranks):
    share = run.share(ranks)
    waits = 1 + (ranks - 1) / run.device.parts_that_pass if ranks > 1 else 1
    return share * (run.streams() * shape.forward() + moments(shape, run.aligned) * waits)


def least_squares(shape, run, ranks):
    """Of `shrink`: factors by every rank, linears that read one input to the rank with least."""
    work = 0.0
    for inputs, outputs, joins in shape.inputs:
        if not (run.aligned or joins):
            continue
        load = [0] * (1 if joins else ranks)
        for rows in outputs:
            load[load.index(min(load))] += rows
        work += inputs**3 + 2 * max(load) * inputs**2
    return work


def expert_forward(shape, run, ranks):
    return (math.ceil(TEXT_PARTS / ranks) / TEXT_PARTS if ranks <= TEXT_PARTS else 1 / TEXT_PARTS) * shape.top_k


def expert_solve(shape, run, ranks):
    """Of a layer. Each token of an expert: gate, up and down in each round, twice, and for the sums; of a refit gate and up
    twice, the change of down, and the moments, which wait for those of the ranks before."""
    tokens = run.windows * run.seqlen * shape.top_k
    inner, down = 2 * shape.hidden * shape.width, shape.hidden * shape.width
    forwards = (2 * ROUNDS + 1) * (inner + down) + 2 * inner + down
    moments = shape.width**2 + shape.hidden * shape.width
    solves = shape.experts * (shape.width**3 + 2 * shape.hidden * shape.width**2)
    return tokens * (forwards * expert_forward(shape, run, ranks) / shape.top_k + moments) + solves


def expert_bytes(shape, run):
    return FLOAT * shape.experts * (shape.width**2 + shape.hidden * shape.width)


def transfer(shape, run, ranks, gbit):
    if ranks == 1 or run.kind == "eval":
        return 0.0
    if run.kind == "experts":
        bits = 8 * shape.layers * expert_bytes(shape, run)
        return bits * (ranks - 1 + math.ceil(math.log2(ranks))) / (gbit * 1e9)
    passing, whole = moment_bytes(shape, run)
    weights = run.device.weight * shape.forward() if run.refined else 0
    waits = 1 + (ranks - 2) / run.device.parts_that_pass
    spread = math.ceil(math.log2(ranks))
    return shape.layers * (passing * waits + (whole + weights) * spread) * 8 / (gbit * 1e9)


def predict(shape, run, ranks, gbit, measured_shape):
    s = run.seconds
    layers = shape.layers / measured_shape.layers

    def carried(stage, work):
        return s[stage] * layers * work(shape, run, ranks) / work(measured_shape, run, 1)

    size = layers * shape.forward() / measured_shape.forward()
    files = 0.0 if run.device is Gpu else s.get("load", 0.0) + s.get("write", 0.0) / ranks
    if run.kind == "eval":
        stages = {"forward": s["forward"] * size * run.share(ranks)}
    elif run.kind == "shrink":
        stages = {"forward": carried("forward", calibration), "solve": carried("solve", least_squares),
                  "others": size * files}
    elif run.kind == "experts":
        stages = {"forward": carried("forward", expert_forward), "solve": carried("solve", expert_solve),
                  "others": layers * files}
    else:
        stages = {
            "allocate": carried("allocate", allocation) if s.get("allocate") else 0.0,
            "calibrate": carried("calibrate", calibration),
            "refine": carried("refine", refinement if run.refined else lambda shape, *_: shape.forward()),
            "others": size * (s["score"] + s["select"] + files),
        }
    if run.kind != "eval":
        stages["transfer"] = transfer(shape, run, ranks, gbit)
    stages["total"] = sum(stages.values())
    return stages


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("record")
    parser.add_argument("--ranks", default="2,4,8")
    parser.add_argument("--gbit", default="10,400")
    parser.add_argument("--model", help="config.json of the model to predict for, where it is another one")
    options = parser.parse_args()
    with open(options.config) as file:
        measured = Shape(json.load(file))
    shape = measured
    if options.model:
        with open(options.model) as file:
            shape = Shape(json.load(file))
    with open(options.record) as file:
        run = Run(json.load(file))
    if run.kind == "experts":
        print(f"moments of a layer's refits: {expert_bytes(shape, run) / 1e6:.0f} MB")
    elif run.kind != "eval":
        passing, whole = moment_bytes(shape, run)
        print(f"moments of a block: {passing / 1e6:.0f} MB from rank to rank, {whole / 1e6:.0f} MB to all; "
              f"weights {run.device.weight * shape.forward() / 1e6:.0f} MB")
    print(f"{run.windows} windows of {run.seqlen} in {run.passes()} passes")
    one = predict(shape, run, 1, 1, measured)
    names = list(one)
    print("| ranks | Gbit/s | " + " | ".join(names) + " | of one process |")
    print("|---" * (len(names) + 3) + "|")
    print("| 1 | | " + " | ".join(f"{one[name]:.1f} s" for name in names) + " | |")
    for gbit in (float(text) for text in options.gbit.split(",")):
        for ranks in (int(text) for text in options.ranks.split(",")):
            stages = predict(shape, run, ranks, gbit, measured)
            print(f"| {ranks} | {gbit:g} | " + " | ".join(f"{stages[name]:.1f} s" for name in names) +
                  f" | {one['total'] / stages['total']:.2f}x |")


if __name__ == "__main__":
    main()
