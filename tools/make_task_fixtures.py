#!/usr/bin/env python3
"""Writes tests/data/evaluation: a tiny random llama with a byte-level BPE tokenizer that adds BOS, small task files in
the fields of the published datasets, and expected.json: what lm-evaluation-harness makes of them with its own task
definitions and its own Hugging Face model class (prompts, log-likelihoods, accuracies).

Made with lm_eval 0.4.13, torch 2.15.0, transformers 5.23.0 and tokenizers 0.23.3. No network is needed.
"""
import json
import os
import pathlib
import shutil

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval.tasks
import torch
import transformers
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "evaluation"
TASKS = pathlib.Path(lm_eval.tasks.__file__).parent
POSITIONS = 160

LINES = {
    "piqa": ("piqa/piqa.yaml", [
        {"goal": "To dry a wet shoe", "sol1": "stuff it with paper", "sol2": "fill it with water", "label": 0},
        {"goal": "How do I open a jar?\n", "sol1": "hit it with a hammer until it is dust", "sol2": "turn the lid",
         "label": 1},
        {"goal": "Caf\u00e9 cr\u00e8me ", "sol1": "lait chaud", "sol2": "lait chaud \u00e9t\u00e9", "label": 0}]),
    "arc_easy": ("arc/arc_easy.yaml", [
        {"question": "What do plants need?", "choices": {"text": ["light", "light and sound", "coins"],
                                                        "label": ["A", "B", "C"]}, "answerKey": "A"},
        {"question": "Which is hot?", "choices": {"text": ["ice", "the sun", "snow", "rain", "fog"],
                                                 "label": ["1", "2", "3", "4", "5"]}, "answerKey": "2"}]),
    "arc_challenge": ("arc/arc_challenge.yaml", [
        {"question": "Why is the sky blue?", "choices": {"text": ["paint", "light is scattered", "sea", "glass"],
                                                        "label": ["A", "B", "C", "D"]}, "answerKey": "B"}]),
    "openbookqa": ("openbookqa/openbookqa.yaml", [
        {"question_stem": "The sun is a", "choices": {"text": ["star", "planet", "moon", "stone"],
                                                     "label": ["A", "B", "C", "D"]}, "answerKey": "A"},
        {"question_stem": "Fish live in ", "choices": {"text": ["water", "sand", "air", "trees"],
                                                      "label": ["A", "B", "C", "D"]}, "answerKey": "A"}]),
    "boolq": ("super_glue/boolq/default.yaml", [
        {"passage": "Cats are animals. They like milk and they sleep all day.", "question": "are cats animals",
         "label": 1},
        {"passage": "A long text that does not fit. " * 30, "question": "is it short", "label": 0}]),
    "copa": ("super_glue/copa/default.yaml", [
        {"premise": "The man turned on the faucet.", "choice1": "The toilet filled with water.",
         "choice2": "Water flowed from the spout.", "question": "effect", "label": 1},
        {"premise": "The girl was late. ", "choice1": "She slept.", "choice2": "\u00c9cole was closed.",
         "question": "cause", "label": 0}]),
    "hellaswag": ("hellaswag/hellaswag.yaml", [
        {"activity_label": "Roof shingle removal", "ctx_a": "A man is on a roof.", "ctx_b": "he", "label": "3",
         "endings": ["is using wrap.", "is ripping tiles.", "holds a cube.", "starts pulling up roofing."]},
        {"activity_label": "Home", "ctx_a": "[header] How to cook [title] Take a pot. [step] Fill  it.",
         "ctx_b": "Then HEAT it", "label": 0,
         "endings": ["[substeps] Wait a [bit.", "Go  home [now]."]}]),
    "winogrande": ("winogrande/default.yaml", [
        {"sentence": "Sarah was better than Maria so _ got the easier cases.", "option1": "Sarah",
         "option2": "Maria", "answer": "2"},
        {"sentence": "The cup did not fit the box because the _ was too big .", "option1": "cup", "option2": "box",
         "answer": "1"}]),
    "rte": ("glue/rte/default.yaml", [
        {"sentence1": "No weapons were found.", "sentence2": "Weapons were found.", "label": 1},
        {"sentence1": "A dog sleeps.", "sentence2": "An animal sleeps.", "label": 0}]),
    "lambada": ("lambada/lambada_openai.yaml", [
        {"text": "He took the key and opened the door"},
        {"text": "it was the the the the the the the the"}]),
}


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [json.dumps(line) for _, lines in LINES.values() for line in lines]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def make_model(vocab_size):
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=vocab_size, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=POSITIONS, pad_token_id=None, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=1)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        scale = 1.0 if "embed" in name else 1.2 / parameter.shape[-1] ** 0.5
        parameter.data = torch.randn_like(parameter) * (0.2 if "norm" in name else scale) + ("norm" in name)
    return model.to(torch.bfloat16)


def expected(model, name, yaml, path):
    config = load_yaml(TASKS / yaml, resolve_func=True)
    for key in ["tag", "dataset_name", "training_split", "test_split"]:
        config.pop(key, None)
    config |= dict(task=name, dataset_path="json", validation_split="validation",
                   dataset_kwargs=dict(data_files={"validation": str(path)}))
    task = ConfigurableTask(config=config)
    task.build_all_requests(limit=None, rank=0, world_size=1)
    scores = model.loglikelihood(task.instances, disable_tqdm=True)
    items = {}
    for instance, (log_prob, greedy) in zip(task.instances, scores):
        item = items.setdefault(instance.doc_id, {"requests": [], "log_probs": [], "greedy": [], "doc": instance.doc})
        item["requests"].append(list(instance.args))
        item["log_probs"].append(log_prob)
        item["greedy"].append(bool(greedy))
    for item in items.values():
        results = task.process_results(item["doc"], list(zip(item["log_probs"], item["greedy"])))
        item["acc"] = float(results["acc"])
        if "acc_norm" in results:
            item["acc_norm"] = float(results["acc_norm"])
        del item["doc"]
    return list(items.values())


def main():
    transformers.logging.set_verbosity_error()
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "model").mkdir(parents=True)
    tokenizer = make_tokenizer()
    make_model(len(tokenizer)).save_pretrained(FOLDER / "model")
    tokenizer.save_pretrained(FOLDER / "model")
    for path in (FOLDER / "model").iterdir():
        path.chmod(0o644)
        if path.name not in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            path.unlink()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(FOLDER / "model", dtype=torch.float32)
    model = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=1, device="cpu", max_length=POSITIONS)
    result = {}
    for name, (yaml, lines) in LINES.items():
        path = FOLDER / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        result[name] = expected(model, name, yaml, path)
    (FOLDER / "expected.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    print(f"{size} bytes in {FOLDER}")


if __name__ == "__main__":
    main()
