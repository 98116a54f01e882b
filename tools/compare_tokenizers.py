#!/usr/bin/env python3
"""Compares swiftprune's ids and decoded texts with those of the `tokenizers` and `sentencepiece` libraries.

A development run (needs both packages): wiki text and random Unicode strings through `swiftprune tokenize` and
through the library, for each tokenizer file that is given. Files ending in .json go to `tokenizers`, others to
`sentencepiece`, unless they are tiktoken rank files, which go to `tiktoken`.

--components tests/data/text/components.json: beside the files, a pipeline for every normalizer, pre-tokenizer and
decoder there, the other parts and the model (of the files) taken in turn.

usage: tools/compare_tokenizers.py --swiftprune build/release/swiftprune --text wiki.raw [--strings 10000] [--jobs 1] FILE...
"""
import argparse
import base64
import concurrent.futures
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

WORDS = ("the of and a to in is you that it he was for on are as with his they I at be this have from Hello World "
         "don't I'll we've HELLO'S it'D naïve façade Größe Straße éclair İstanbul ſhort ﬁne ﬆ").split()
RANGES = {
    "ascii": [(0x20, 0x7E)],
    "latin": [(0xA0, 0x24F), (0x1E00, 0x1EFF)],
    "greek_cyrillic": [(0x370, 0x3FF), (0x400, 0x52F)],
    "semitic_indic": [(0x590, 0x6FF), (0x900, 0xDFF)],
    "sea": [(0xE00, 0xFFF), (0x1780, 0x17FF)],
    "hangul": [(0x1100, 0x11FF), (0xAC00, 0xD7A3)],
    "cjk": [(0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xFF00, 0xFFEF)],
    "emoji": [(0x1F300, 0x1FAFF), (0x2600, 0x27BF), (0xFE0F, 0xFE0F), (0x200D, 0x200D), (0x1F1E6, 0x1F1FF)],
    "combining": [(0x300, 0x36F), (0x1AB0, 0x1AFF), (0x20D0, 0x20F0)],
    "controls": [(0x00, 0x1F), (0x7F, 0x9F), (0x200B, 0x200F), (0x2028, 0x202E), (0xFEFF, 0xFEFF), (0x180E, 0x180E)],
    "spaces": [(0x20, 0x20), (0x09, 0x0D), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A),
               (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0x2581, 0x2581)],
    "digits": [(0x30, 0x39), (0x660, 0x669), (0x966, 0x96F), (0xB2, 0xB3), (0xBD, 0xBE), (0x2150, 0x218B),
               (0x2460, 0x249B), (0x1D7CE, 0x1D7FF), (0x10D40, 0x10D49)],
    "private": [(0xE000, 0xF8FF), (0xF0000, 0xF00FF), (0x10FF00, 0x10FFFF)],
    "planes": [(0x10000, 0x1FFFF), (0x20000, 0x323AF), (0xE0100, 0xE01EF)],
    "any": [(0x00, 0xD7FF), (0xE000, 0x10FFFF)],
}


def random_piece(rng, specials):
    kind = rng.randrange(20)
    if kind < 5:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 6)))
    if kind == 5 and specials:
        return rng.choice(specials)
    if kind == 6:
        return rng.choice([" ", "\n", "\t", "\r\n", "  \n", "\u3000"]) * rng.randrange(1, 40)
    if kind == 7:
        return "".join(rng.choice("0123456789") for _ in range(rng.randrange(1, 12)))
    if kind == 8:
        return rng.choice(["a", "=", "-", "\u2581", "ab", "!?", "'s", "é", "\u0301"]) * rng.randrange(1, 60)
    ranges = RANGES[rng.choice(list(RANGES))]
    out = []
    for _ in range(rng.randrange(1, 14)):
        low, high = rng.choice(ranges)
        out.append(chr(rng.randint(low, high)))
    return "".join(out)


def random_strings(count, specials, seed):
    rng = random.Random(seed)
    strings = ["", " ", "\n", *specials[:40]]
    while len(strings) < count:
        pieces = []
        for _ in range(rng.randrange(1, 9)):
            pieces.append(random_piece(rng, specials))
            if rng.random() < 0.4:
                pieces.append(" ")
        strings.append("".join(pieces))
    return [s.encode("utf-8", "replace").decode() for s in strings[:count]]


class Library:
    """ids(text, special) and text(ids) of the reference library."""

    def __init__(self, path):
        self.path = Path(path)
        head = self.path.read_bytes()[:64]
        if self.path.suffix == ".json":
            from tokenizers import Tokenizer
            self.kind = "tokenizers"
            self.model = Tokenizer.from_file(str(path))
            self.model.no_truncation()
            self.model.no_padding()
            self.specials = [t.content for t in self.model.get_added_tokens_decoder().values()]
        elif head[:1] == b"\n":
            import sentencepiece
            self.kind = "sentencepiece"
            self.model = sentencepiece.SentencePieceProcessor(model_file=str(path))
            self.specials = ["<s>", "</s>", "<unk>", "<pad>", "[INST]", "<0x41>"]
        else:
            import tiktoken
            self.kind = "tiktoken"
            ranks = {}
            for line in self.path.read_bytes().splitlines():
                token, rank = line.split()
                ranks[base64.b64decode(token)] = int(rank)
            pattern, specials = tiktoken_rules(len(ranks))
            self.model = tiktoken.Encoding(name="t", pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)
            self.specials = list(specials)[:16]

    def all_ids(self, texts, special):
        if self.kind != "tokenizers":
            return [self.ids(text, special) for text in texts]
        return [encoding.ids for start in range(0, len(texts), 1000)
                for encoding in self.model.encode_batch_fast(texts[start:start + 1000], add_special_tokens=special)]

    def ids(self, text, special):
        if self.kind == "tokenizers":
            return self.model.encode(text, add_special_tokens=special).ids
        if self.kind == "sentencepiece":
            return self.model.encode(text)
        return self.model.encode(text, allowed_special="all")

    def text(self, ids):
        if self.kind == "tiktoken":
            return self.model.decode(ids)
        if self.kind == "sentencepiece":
            return self.model.decode(ids)
        return self.model.decode(ids, skip_special_tokens=False)


def tiktoken_rules(num_ranks):
    llama3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
              r"\s*[\r\n]+|\s+(?!\S)|\s+")
    if num_ranks == 128000:
        names = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
                 "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>",
                 "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>"]
        names += [f"<|reserved_special_token_{2 + i}|>" for i in range(256 - len(names))]
        return llama3, {name: num_ranks + i for i, name in enumerate(names)}
    raise SystemExit(f"no rules known for a tiktoken file of {num_ranks} ranks")


def run(program, *arguments):
    result = subprocess.run([program, "tokenize", *map(str, arguments)], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(f"{arguments}: {result.stderr}")
    return [line for line in result.stdout.split("\n")][:-1]


def compare(program, path, text_file, count, seed, model):
    library = Library(path)
    special = library.kind == "tokenizers"
    flags = [] if special else ["--no-special"]
    strings = random_strings(count, library.specials, seed)
    failures = panics = 0
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "strings.jsonl"
        lines.write_text("".join(json.dumps({"text": s}) + "\n" for s in strings))
        ours = [[int(x) for x in line.split()] for line in run(program, model, "--text", lines, "--show", "ids", *flags)]
        texts = [json.loads(line) for line in run(program, model, "--text", lines, "--show", "text", *flags)]
        assert len(ours) == len(strings) == len(texts)
        for string, ids, text, expected in zip(strings, ours, texts, library.all_ids(strings, special)):
            if ids != expected:
                failures += 1
                if failures <= 5:
                    print(f"  ids differ for {string!r}\n    ours    {ids}\n    library {expected}")
                continue
            try:
                decoded = library.text(expected)
            except BaseException as error:  # a panic of the library: Strip's decoder on tokens shorter than it strips
                if type(error).__name__ != "PanicException":
                    raise
                panics += 1
                continue
            if text != decoded:
                failures += 1
                if failures <= 5:
                    print(f"  text differs for {string!r}\n    ours    {text!r}\n    library {decoded!r}")
        wiki = Path(text_file).read_bytes().decode()
        ids_file = Path(folder) / "wiki.u32"
        run(program, model, "--text", text_file, "--ids-out", ids_file, *flags)
        raw = ids_file.read_bytes()
        ids = [int.from_bytes(raw[i:i + 4], "little") for i in range(0, len(raw), 4)]
        expected = library.ids(wiki, special)
        same = ids == expected
        failures += not same
    print(f"{path}: {library.kind}, {count} strings and {len(expected)} tokens of text, "
          f"{'identical' if failures == 0 else str(failures) + ' differences'}"
          f"{f', {panics} texts on which the library panics' if panics else ''}", flush=True)
    return failures


def pipelines(components_file, files, folder):
    """A tokenizer.json for each component."""
    components = {kind: [one["component"] for one in json.loads(Path(components_file).read_text())[kind + "s"]]
                  for kind in ("normalizer", "pre_tokenizer", "decoder")}
    bases = [json.loads(Path(file).read_text()) for file in files if str(file).endswith(".json")]
    made = []
    for kind, ones in components.items():
        for number, one in enumerate(ones):
            tokenizer = dict(bases[number % len(bases)])
            for other, choices in components.items():
                if other != kind and (number + len(made)) % 3 == 0:  # else the model's own
                    tokenizer[other] = choices[(7 * number + 3) % len(choices)]
            tokenizer[kind] = one
            path = Path(folder) / f"{kind}-{number}-{one['type']}.json"
            path.write_text(json.dumps(tokenizer))
            made.append(path)
    return made


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--swiftprune", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--strings", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", help="what swiftprune opens, when it is not FILE itself")
    parser.add_argument("--jobs", type=int, default=1, help="files at a time")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--components")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = args.files + (pipelines(args.components, args.files, folder) if args.components else [])
        with concurrent.futures.ProcessPoolExecutor(args.jobs) as pool:
            failures = sum(pool.map(compare, *zip(*[(args.swiftprune, path, args.text, args.strings, args.seed,
                                                     args.model or path) for path in files])))
    print(f"{len(files)} tokenizers, {failures} differences")
    sys.exit(failures != 0)


if __name__ == "__main__":
    main()
