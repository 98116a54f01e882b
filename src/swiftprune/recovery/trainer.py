"""Trains the weights that pruning left towards the dense model, for `swiftprune recover`.

Runs as `python3 trainer.py job.json`, or under torchrun for several GPUs. job.json: what recovery.cpp writes.
Standard output has one JSON object a line: {"stage", "done", "total"} while it works, {"result": {...}} at the end,
{"error": text, "input": bool} when it cannot go on. The trained model goes to job["out"], a folder of transformers.

The loss is the divergence KL(dense || pruned) of the next token's distribution, over whole windows. A weight that is
zero stays zero: its gradient is masked, and so is its value behind every step. Norms, biases, embedding and output
projection stay as they are.
"""

import json
import math
import os
import sys
import time


def say(**line):
    if int(os.environ.get("RANK", "0")) == 0:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


class CannotTrain(Exception):
    """input: what was given is at fault, not the machine."""

    def __init__(self, text, input=False):
        super().__init__(text)
        self.input = input


try:
    import torch
    import torch.distributed as dist
    import transformers
except ImportError as missing:
    say(error=f"the Python package {missing.name} is not there: pip install torch transformers safetensors",
        input=False)
    sys.exit(3)


class Ranks:
    """One process a GPU, as torchrun starts them; else this process alone."""

    def __init__(self, device):
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise CannotTrain(f"--device {device}: PyTorch sees no GPU here", input=True)
        if self.size > 1:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
            dist.init_process_group("nccl", device_id=torch.device(device))
        self.device = torch.device(device)

    def shard(self, model, precision):
        """Each process holds its part of every layer (FSDP); a layer is gathered when it computes."""
        if self.size == 1:
            return model.to(self.device)
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        policy = MixedPrecisionPolicy(param_dtype=precision, reduce_dtype=torch.float32)
        layers = max((m for m in model.modules() if isinstance(m, torch.nn.ModuleList)), key=len)
        for layer in layers:
            fully_shard(layer, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
        return model.to(self.device)

    def mean(self, value):
        if self.size == 1:
            return value
        total = torch.tensor(value, device=self.device, dtype=torch.float64)
        dist.all_reduce(total)
        return total.item() / self.size

    def whole_state(self, model):
        """Every tensor of the model on the processor (of rank 0)."""
        if self.size == 1:
            return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))

    def close(self):
        if self.size > 1:
            dist.destroy_process_group()


def local(tensor):
    """The part of a sharded tensor that this process holds."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def load(folder, dtype):
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise CannotTrain(f"{folder}: transformers {transformers.__version__} cannot open it: {error}", input=True)
    model.config.use_cache = False
    return model


def divergence(dense_logits, logits):
    """Mean over tokens of KL(dense || pruned), in nats."""
    dense = torch.log_softmax(dense_logits.float(), dim=-1)
    pruned = torch.log_softmax(logits.float(), dim=-1)
    return torch.nn.functional.kl_div(pruned, dense, log_target=True, reduction="none").sum(-1).mean()


class Trainer:
    def __init__(self, job):
        self.job = job
        self.ranks = Ranks(job["device"])
        torch.manual_seed(job["seed"])
        torch.set_num_threads(job["threads"] or torch.get_num_threads())
        on_gpu = self.ranks.device.type == "cuda"
        self.precision = torch.bfloat16 if on_gpu else torch.float32
        say(stage="load", done=0, total=2)
        self.dense = self.ranks.shard(load(job["dense"], self.precision), self.precision).eval().requires_grad_(False)
        say(stage="load", done=1, total=2)
        self.model = load(job["pruned"], torch.float32)
        self.choose_weights()
        if sum(p.numel() for p in self.model.parameters()) > 400_000_000:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model = self.ranks.shard(self.model, self.precision)
        self.names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.masks = [local(p.detach()) != 0 for p in self.trained]
        # Several windows at once keep a GPU busy where the model is small; their logits are the largest tensors.
        vocabulary = self.model.config.get_text_config().vocab_size
        self.at_once = max(1, (1 << 29) // (job["seqlen"] * vocabulary)) if on_gpu else 1
        ids = torch.frombuffer(bytearray(open(job["tokens"], "rb").read()), dtype=torch.int32)
        windows = ids.view(-1, job["seqlen"]).long()
        self.check, self.windows = windows[: job["check_windows"]], windows[job["check_windows"]:]
        if len(self.windows) < self.ranks.size:
            raise CannotTrain(f"{len(self.windows)} windows for {self.ranks.size} GPUs; use more --windows", input=True)

    def choose_weights(self):
        """What pruning changed: matrices with zeros. Of a model without zeros (shrunk) all matrices of its blocks."""
        tables = {id(table.weight) for table in (self.model.get_input_embeddings(), self.model.get_output_embeddings())
                  if table is not None}
        matrices = [p for p in self.model.parameters() if p.dim() > 1 and id(p) not in tables]
        pruned = [p for p in matrices if (p == 0).float().mean().item() > 0.001]
        self.model.requires_grad_(False)
        for parameter in pruned or matrices:
            parameter.requires_grad_(True)

    def loss(self, windows):
        """Mean over the windows' tokens."""
        windows = windows.to(self.ranks.device)
        with torch.no_grad():
            dense = self.dense(windows).logits
        with torch.autocast(self.ranks.device.type, self.precision, enabled=self.precision != torch.float32):
            logits = self.model(windows).logits
        return divergence(dense, logits)

    @torch.no_grad()
    def check_divergence(self):
        """On the windows that are kept out of the training; every process does all (their number may be odd)."""
        self.model.eval()
        return sum(self.loss(part).item() * len(part) for part in self.check.split(self.at_once)) / len(self.check)

    def step(self, optimizer, schedule, batch):
        for part in batch.split(self.at_once):
            (self.loss(part) * (len(part) / len(batch))).backward()
        for parameter, mask in zip(self.trained, self.masks):
            if parameter.grad is not None:
                local(parameter.grad).mul_(mask)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        if not math.isfinite(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)):
            raise CannotTrain("the gradient is not finite; use a smaller --learning-rate")
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for parameter, mask in zip(self.trained, self.masks):
                local(parameter).mul_(mask)

    def run(self):
        job = self.job
        batch = max(1, job["batch"] // self.ranks.size)
        mine = len(self.windows) // self.ranks.size
        steps_an_epoch = math.ceil(mine / batch)
        steps = steps_an_epoch * job["epochs"]
        warmup = max(1, steps // 20)
        optimizer = torch.optim.AdamW(self.trained, lr=job["learning_rate"], betas=(0.9, 0.95), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min(1.0, (step + 1) / warmup)
            * (0.55 + 0.45 * math.cos(math.pi * min(1.0, step / steps))))
        order = torch.Generator().manual_seed(job["seed"])
        say(stage="check", done=0, total=1)
        before = self.check_divergence()
        divergences, best, best_state = [], before, None
        done, begin = 0, time.monotonic()
        for _ in range(job["epochs"]):
            self.model.train()
            chosen = torch.randperm(len(self.windows), generator=order)[self.ranks.rank:: self.ranks.size][:mine]
            for first in range(0, mine, batch):
                self.step(optimizer, schedule, self.windows[chosen[first: first + batch]])
                done += 1
                say(stage="train", done=done, total=steps)
            divergences.append(self.check_divergence())
            if divergences[-1] < best:
                state = self.ranks.whole_state(self.model)
                best, best_state = divergences[-1], {name: state[name] for name in self.names if name in state}
        seconds = time.monotonic() - begin
        peak = torch.cuda.max_memory_allocated(self.ranks.device) if self.ranks.device.type == "cuda" else 0
        if best_state is None:
            raise CannotTrain(
                f"the divergence on {len(self.check)} windows that were kept out did not fall: {before:.4f} before, "
                f"{', '.join(f'{d:.4f}' for d in divergences)} behind the epochs; use more text (--windows) or a "
                f"smaller --learning-rate")
        if self.ranks.rank == 0:
            say(stage="write", done=0, total=1)
            self.model.save_pretrained(job["out"], state_dict=best_state)
        say(result={"kl_before": before, "kl_after": divergences, "kl": best, "steps": steps, "train_seconds": seconds,
                    "gpus": self.ranks.size if self.ranks.device.type == "cuda" else 0, "peak_gpu_bytes": peak,
                    "torch": torch.__version__, "transformers": transformers.__version__})
        self.ranks.close()


def main():
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with open(sys.argv[1]) as file:
            job = json.load(file)
        if job.get("only_check"):
            Ranks(job["device"])
            say(result={})
        else:
            Trainer(job).run()
    except CannotTrain as error:
        say(error=str(error), input=error.input)
        sys.exit(2)
    except torch.cuda.OutOfMemoryError as error:
        say(error=f"GPU memory is not enough: {str(error).splitlines()[0]}; use a shorter --seqlen or more --gpus",
            input=False)
        sys.exit(4)


main()
