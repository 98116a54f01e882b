#!/usr/bin/env python3
"""LoRA folders of PEFT for some of the tiny models of tests/data/model, and the logits that transformers and PEFT compute
with them: tests/data/adapter/NAME. Needs torch, transformers and peft."""
import json
import pathlib
import shutil

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

DATA = pathlib.Path(__file__).parent.parent / "tests" / "data"

# name: (model, options of LoraConfig). Scalings by the rank, by its root, of single modules; one and several linears;
# linears that are fused, that have biases, that are stored transposed.
CASES = {
    "llama3": ("llama3", dict(r=4, lora_alpha=6, target_modules="all-linear",
                              rank_pattern={"q_proj": 2, "layers.0.mlp.up_proj": 3}, alpha_pattern={"k_proj": 5})),
    "llama_bias": ("llama_bias", dict(r=3, lora_alpha=3, use_rslora=True,
                                      target_modules=["o_proj", "down_proj", "q_proj"])),
    "phi3": ("phi3", dict(r=2, lora_alpha=4, target_modules=["qkv_proj", "gate_up_proj", "down_proj"])),
    "gpt2": ("gpt2", dict(r=3, lora_alpha=5, fan_in_fan_out=True, target_modules=["c_attn", "c_proj", "c_fc"])),
    "pythia": ("pythia", dict(r=2, lora_alpha=2, target_modules=["query_key_value"])),
}


def main():
    transformers.logging.set_verbosity_error()
    for index, (name, (model, options)) in enumerate(CASES.items()):
        torch.manual_seed(index)
        folder = DATA / "adapter" / name
        shutil.rmtree(folder, ignore_errors=True)
        base = transformers.AutoModelForCausalLM.from_pretrained(
            DATA / "model" / model, dtype=torch.float32, attn_implementation="eager")
        adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options)).eval()
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                parameter.data = 0.2 * torch.randn_like(parameter)
        ids = load_file(DATA / "model" / model / "expected.safetensors")["ids"].long()
        with torch.no_grad():
            logits = adapted(ids).logits
        adapted.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = model
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        save_file({"logits": logits.contiguous()}, folder / "expected.safetensors")
        for path in folder.glob("*.safetensors"):
            path.chmod(0o644)
    size = sum(path.stat().st_size for path in (DATA / "adapter").rglob("*") if path.is_file())
    print(f"{size} bytes in {DATA / 'adapter'}")


if __name__ == "__main__":
    main()
