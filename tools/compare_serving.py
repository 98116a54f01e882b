#!/usr/bin/env python3
"""Greedy answers of `swiftprune serve` against transformers' generate(), for each model folder that is given.

    tools/compare_serving.py build/release/swiftprune FOLDER... [--prompts 20] [--tokens 32]

Completions whole and streamed, several at a time, and chats where there is a template; a folder without a tokenizer
(tests/data/model/*) is copied with one of a letter a token and a template. Both compute in float. An answer may part
from transformers' where the two best tokens lie within 1e-4 of each other. Needs torch and transformers.
"""
import argparse
import concurrent.futures
import http.client
import json
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ."
TEMPLATE = ("{% for m in messages %}{{ m['role'] }}. {{ m['content'] | trim }} {% endfor %}"
            "{% if add_generation_prompt %}assistant. {% endif %}")
WORDS = "the sun is a star and we see it by day while the moon has no light of its own".split()


def add_tokenizer(folder, vocab_size):
    letters = LETTERS[:vocab_size]
    # Letters that stand for pictures and sounds in a tiny vocabulary are letters here.
    config = json.loads((folder / "config.json").read_text())
    places = {key: 10**6 for key in config if re.match("(image|audio|video)_token_(id|index)$", key)}
    (folder / "config.json").write_text(json.dumps(config | places))
    vocabulary = {"\u0120" if letter == " " else letter: i for i, letter in enumerate(letters)}
    tokenizer = {"version": "1.0", "added_tokens": [], "normalizer": None, "post_processor": None,
                 "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
                 "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
                 "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE, "clean_up_tokenization_spaces": False}))


class Server:
    def __init__(self, program, folder):
        self.process = subprocess.Popen([program, "serve", folder, "--port", "0", "--compute", "f32"], stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)
        said = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found.group(1))
                return
        raise RuntimeError("".join(said))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def ask(self, path, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {data[:300]!r}")
        if not body.get("stream"):
            choice = json.loads(data)["choices"][0]
            return choice["message"]["content"] if "message" in choice else choice["text"]
        text = ""
        for line in data.decode().splitlines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    text += choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
        return text


def their_answer(model, tokenizer, ids, tokens):
    """The text behind the prompt, and the text up to the first token that was nearly another."""
    made = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
                          max_new_tokens=tokens, output_logits=True, return_dict_in_generate=True, pad_token_id=0)
    new = made.sequences[0, len(ids):].tolist()
    sure = len(new)
    for i, logits in enumerate(made.logits):
        best = logits[0].float().topk(2).values
        if best[0] - best[1] < 1e-4 * max(1.0, best[0].abs().item()):
            sure = i
            break
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    kept = new[:-1] if new and new[-1] in ends else new
    before = tokenizer.decode(ids, skip_special_tokens=True)
    behind = lambda count: tokenizer.decode(ids + kept[:count], skip_special_tokens=True)[len(before):]
    return behind(len(kept)), behind(sure), sure < len(new)


def compare(program, folder, prompts, tokens, rng):
    # A model that sees, too: its class for text alone would look for other names.
    sees = "text_config" in json.loads((folder / "config.json").read_text())
    kind = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    asked = []
    for number in range(prompts):
        text = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 5)))
        if tokenizer.chat_template and number % 3 == 2:
            messages = [{"role": "user", "content": text}]
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
            asked.append(("/v1/chat/completions", {"messages": messages}, list(ids)))
        else:
            asked.append(("/v1/completions", {"prompt": text}, tokenizer(text)["input_ids"]))
    wrong = nearly = 0
    with Server(program, folder) as server, concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(server.ask, path, {**body, "max_tokens": tokens, "temperature": 0, "stream": number % 2 == 1})
                   for number, (path, body, _) in enumerate(asked)]
        for (path, body, ids), answer in zip(asked, answers):
            with torch.no_grad():
                whole, sure, parted = their_answer(model, tokenizer, ids, tokens)
            found = answer.result()
            if found == whole:
                continue
            if parted and found.startswith(sure.rstrip("\ufffd")):
                nearly += 1
                continue
            wrong += 1
            print(f"  {path} {body}:\n    ours   {found!r}\n    theirs {whole!r}")
    print(f"{folder.name:28} {len(asked)} answers of up to {tokens} tokens: {wrong} wrong"
          f"{f', {nearly} part at tokens that are as good' if nearly else ''}", flush=True)
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("folders", nargs="+", type=pathlib.Path)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=32)
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    wrong = 0
    for folder in arguments.folders:
        with tempfile.TemporaryDirectory() as temporary:
            if not (folder / "tokenizer.json").exists():
                copy = pathlib.Path(temporary) / folder.name
                shutil.copytree(folder, copy)
                add_tokenizer(copy, json.loads((folder / "config.json").read_text()).get("vocab_size", 64))
                folder = copy
            try:
                wrong += compare(arguments.program, folder, arguments.prompts, arguments.tokens, random.Random(folder.name))
            except Exception as error:
                wrong += 1
                print(f"{folder.name:28} {type(error).__name__}: {str(error)[:300]}", flush=True)
    print(f"{len(arguments.folders)} models, {wrong} wrong")
    sys.exit(wrong != 0)


if __name__ == "__main__":
    main()
