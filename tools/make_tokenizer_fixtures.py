#!/usr/bin/env python3
"""Makes tests/data/text: tiny tokenizers and what the `tokenizers` and `sentencepiece` libraries do with them.

components.json          each normalizer, pre-tokenizer and decoder alone: its JSON, inputs and outputs
tokenizers/NAME.json     a whole tokenizer.json; NAME.cases.json: texts, ids and decoded texts
sentencepiece/NAME.model the same for SentencePiece

usage: tools/make_tokenizer_fixtures.py [--out tests/data/text] [--random 12]   (a larger --random for a
development run: SWIFTPRUNE_TEXT_FIXTURES=DIR makes the tests read DIR)
"""
import argparse
import base64
import io
import json
import random
import struct
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from compare_tokenizers import random_strings

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 2024, and I'll say: don't panic!",
    "She sells sea shells by the sea shore; the shells she sells are sea shells for sure.",
    "Größe, façade, naïve and coöperate are words with accents. Straße too.",
    "def main():\n    return [x * 2 for x in range(100)]\n",
    "日本語のテキストと中文文本 are written without spaces. 한국어는 띄어쓰기를 한다.",
    "Привет, мир! Γειά σου Κόσμε! שלום עולם! مرحبا بالعالم",
    "emoji: 🦙🚀👩‍👩‍👧 and numbers 3.14159, 1,000,000 and ½ or Ⅳ",
] * 3

TEXTS = [
    "", " ", "  ", "\n", "\t\n \r\n", "Hello world", " Hello  world ", "Hello, world!", "HELLO WORLD", "don't I'LL we've",
    "The quick brown fox", "1234567890 3.14 ½Ⅳ", "naïve façade e\u0301 a\u0308\u0323 \u212b \ufb01 ǅ", "Größe Straße",
    "日本語のテキスト 中文", "한국어 \u1112\u1161\u11ab", "Привет, мир", "🦙🚀👩‍👩‍👧", "a\u0000b\u007fc\u200bd\ufeffe",
    "x\u00a0y\u3000z\u180ew\u2028v", "def f():\n    return 1\n\n\n", "<s>Hi</s> <unk>", "<|end|>after <|end|> both <|mask|> x",
    "a<new>b <new> c, ab new", "▁under ▁▁ bar", "=" * 30, "ab" * 70, "\U00031350\U0001f8c0\U00010d4a\U00010d40 \ue000",
    "İstanbul ſ K ΑΣ", "((a)) [b] {c} <d> $5 #1 @me", "one--two---three", "'s 'S 'ſ", "🏳️‍🌈e\u0301\u0301x", "café CAFE\u0301",
]


def state(component):
    return json.loads(component.__getstate__())


def tiny_charsmap():
    """A compiled map of a few rules, made by SentencePiece's trainer from a rule file."""
    rules = Path("/tmp/swiftprune_rules.tsv")
    rules.write_text("A\t61\nE9\t65\n65 301\t65\nFB01\t66 69\n3000\t20\n2460\t31\n1F999\t6C 6C\n200B\t\n"
                     "D\t20\n", encoding="utf-8")
    return trained_model("unigram", 120, normalization_rule_tsv=str(rules)).charsmap


class trained_model:
    def __init__(self, model_type, vocab_size, **options):
        out = io.BytesIO()
        options.setdefault("character_coverage", 0.98)
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([line for text in CORPUS for line in text.split("\n") if line]), model_writer=out,
            model_type=model_type, vocab_size=vocab_size, hard_vocab_limit=False, minloglevel=2, **options)
        self.bytes = out.getvalue()

    @property
    def charsmap(self):
        from sentencepiece import sentencepiece_model_pb2
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(self.bytes)
        return proto.normalizer_spec.precompiled_charsmap


def normalizer_list():
    n = normalizers
    return [n.NFC(), n.NFD(), n.NFKC(), n.NFKD(), n.Lowercase(), n.StripAccents(), n.Strip(), n.Strip(right=False),
            n.Prepend("▁"), n.Replace(" ", "▁"), n.Replace(Regex(r"\s+"), " "), n.Replace(Regex("(?i)[aeiou]"), ""),
            n.Precompiled(tiny_charsmap()), n.ByteLevel(), n.Nmt(),
            n.Sequence([n.NFKD(), n.StripAccents(), n.Lowercase()])]


GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+")


def pre_tokenizer_list():
    p = pre_tokenizers
    found = [p.ByteLevel(add_prefix_space=False), p.ByteLevel(add_prefix_space=True),
             p.ByteLevel(add_prefix_space=False, use_regex=False), p.Digits(), p.Digits(individual_digits=True),
             p.Whitespace(), p.WhitespaceSplit(), p.BertPreTokenizer(), p.CharDelimiterSplit("a"),
             p.Punctuation(), p.Metaspace(), p.Metaspace(prepend_scheme="first", split=False),
             p.Metaspace(prepend_scheme="never"), p.FixedLength(3),
             p.Split(Regex(GPT4), "isolated"), p.Split(Regex(r"\w+|[^\w\s]+"), "removed", invert=True),
             p.Split(Regex(r"\b"), "isolated"), p.Split(Regex(r"\p{N}{1,2}+"), "isolated"),
             p.Split(Regex(r"(?m:a.)|\h{2}|\p{Lowercase_Letter}\p{^L}"), "isolated"),
             p.Split(Regex(r"^.|.$"), "isolated"), p.Split(Regex(r"x*"), "isolated"), p.Split(Regex(r"[\s\d]++"), "merged_with_next"),
             p.Split(Regex(r"\p{Han}+|\p{Lo}+?|\p{S}"), "contiguous"), p.Split(Regex(r"[\p{M}\p{P}]"), "merged_with_previous"),
             p.Sequence([p.Digits(individual_digits=True), p.ByteLevel(add_prefix_space=False)])]
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        found += [p.Split("-", behavior), p.Split(Regex(r"\s"), behavior), p.Split(Regex(r"\p{L}+"), behavior, invert=True),
                  p.Punctuation(behavior)]
    return found


def decoder_list():
    d = decoders
    return [d.ByteLevel(), d.ByteFallback(), d.Fuse(), d.Replace("▁", " "), d.Replace(Regex("[0-9]+"), "#"),
            d.Strip(" ", 1, 0), d.Strip("l", 1, 2), d.Metaspace(), d.Metaspace(prepend_scheme="never"), d.BPEDecoder(),
            d.WordPiece(), d.WordPiece(cleanup=False),
            d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)])]


TOKEN_LISTS = [["▁Hello", "▁wor", "ld", "!"], ["<0x41>", "<0xE2>", "<0x82>", "<0xAC>", "x", "<0xFF>", "<0x41>"],
               ["Ġthe", "Ċ", "Ã", "©", "â", "Ĥ"], ["low</w>", "er", "new</w>"], ["un", "##aff", "##able", ".", "don", "'", "t"],
               ["  a", "lll", " 12", "3"], ["日", "▁▁", "ðŁ¦", "Ļ"], ["<0x4>", "<0xzz>", "▁"], ["do not", " n't", "x </w>"]]


def components(count):
    texts = TEXTS + random_strings(count, [], 3)
    return {
        "texts": texts,
        "token_lists": TOKEN_LISTS,
        # outputs in the order of the texts; null: the text itself
        "normalizers": [{"component": state(c), "outputs": [None if c.normalize_str(t) == t else c.normalize_str(t) for t in texts]}
                        for c in normalizer_list()],
        "pre_tokenizers": [{"component": state(c), "outputs": [[piece for piece, _ in c.pre_tokenize_str(t)] for t in texts]}
                           for c in pre_tokenizer_list()],
        "decoders": [{"component": state(c), "outputs": [c.decode(tokens) for tokens in TOKEN_LISTS]} for c in decoder_list()],
    }


def byte_level_bpe(vocab_size, pre, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=vocab_size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"]))
    return tokenizer


def digits_like():  # SmolLM2
    tokenizer = byte_level_bpe(330, pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def neox_like():  # NFC, added runs of spaces, special tokens of every kind
    tokenizer = byte_level_bpe(300, pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in (4, 3, 2)])
    tokenizer.add_tokens([AddedToken("<new>", lstrip=True, rstrip=True, normalized=False), AddedToken("new", single_word=True),
                          AddedToken("café", normalized=True)])
    tokenizer.add_special_tokens([AddedToken("<|mask|>", lstrip=True), AddedToken("</s>", rstrip=True)])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def llama3_like():
    tokenizer = byte_level_bpe(320, pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(GPT4), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        ignore_merges=True)
    data = json.loads(tokenizer.to_str())  # a token that no merge makes
    data["model"]["vocab"]["ĠHello"] = max(data["model"]["vocab"].values()) + 1
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", tokenizer.token_to_id("<s>")),
                                                                            ("</s>", tokenizer.token_to_id("</s>"))])])
    return tokenizer


def char_bpe(fuse, byte_fallback, normalizer, pre, vocab_size=260, **options):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse, byte_fallback=byte_fallback, **options))
    tokenizer.normalizer = normalizer
    if pre:
        tokenizer.pre_tokenizer = pre
    special = ["<unk>", "<s>", "</s>"]
    if byte_fallback:
        special += [f"<0x{b:02X}>" for b in range(256)]
        vocab_size += 256
    train_pre = Tokenizer(models.BPE(unk_token="<unk>", **options))
    train_pre.normalizer = normalizer
    train_pre.pre_tokenizer = pre or pre_tokenizers.Metaspace()
    train_pre.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=vocab_size, show_progress=False, limit_alphabet=90, special_tokens=special,
        continuing_subword_prefix=options.get("continuing_subword_prefix") or "",
        end_of_word_suffix=options.get("end_of_word_suffix") or ""))
    data = json.loads(tokenizer.to_str())
    trained = json.loads(train_pre.to_str())
    data["model"]["vocab"] = trained["model"]["vocab"]
    data["model"]["merges"] = trained["model"]["merges"]
    data["added_tokens"] = [t for t in trained["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(data))


def llama2_like():  # whole texts as one piece
    tokenizer = char_bpe(True, True, normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None, 160)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def fused_unknown():
    tokenizer = char_bpe(True, False, normalizers.NFKC(), pre_tokenizers.Metaspace(prepend_scheme="first"), 180)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return tokenizer


def word_affixes():
    tokenizer = char_bpe(False, False, normalizers.Lowercase(), pre_tokenizers.Whitespace(), 260, end_of_word_suffix="</w>",
                         continuing_subword_prefix="##")
    tokenizer.decoder = decoders.BPEDecoder()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    return tokenizer


def unigram(byte_fallback):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=160, show_progress=False, unk_token="<unk>",
                                                                  special_tokens=["<unk>", "<s>"]))
    data = json.loads(tokenizer.to_str())
    rare = set("Gßöщ日🦙xq")
    data["model"]["vocab"] = [[t, s] for t, s in data["model"]["vocab"] if not (set(t) & rare)]
    if byte_fallback:
        data["model"]["vocab"] += [[f"<0x{b:02X}>", -20.0] for b in range(256)]
        data["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(data))


def word_level():
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(CORPUS, trainers.WordLevelTrainer(vocab_size=60, show_progress=False, special_tokens=["<unk>"]))
    return tokenizer


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=220, show_progress=False, limit_alphabet=80,
                                                                    special_tokens=["[UNK]", "[CLS]", "[SEP]"]))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


TOKENIZERS = {"digits_like": digits_like, "neox_like": neox_like, "llama3_like": llama3_like, "llama2_like": llama2_like,
              "fused_unknown": fused_unknown, "word_affixes": word_affixes, "unigram": lambda: unigram(False),
              "unigram_bytes": lambda: unigram(True), "word_level": word_level, "word_piece": word_piece}


def write_tokenizer(name, tokenizer, out, count):
    text = tokenizer.to_str()
    (out / f"{name}.json").write_text(text, encoding="utf-8")
    tokenizer = Tokenizer.from_str(text)  # as a reader of the file gets it
    specials = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
    cases = []
    for t in TEXTS + random_strings(count + len(specials[:40]) + 3, specials, 5):
        ids = tokenizer.encode(t).ids
        cases.append({"text": t, "ids": ids, "plain": tokenizer.encode(t, add_special_tokens=False).ids,
                      "decoded": tokenizer.decode(ids, skip_special_tokens=False) if ids else "",
                      "skipped": tokenizer.decode(ids, skip_special_tokens=True) if ids else ""})
    dump(out / f"{name}.cases.json", cases)


def dump(path, data):
    path.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


SENTENCEPIECE = {
    "bpe_bytes": lambda: trained_model("bpe", 420, byte_fallback=True, normalization_rule_name="identity",
                                       remove_extra_whitespaces=False, user_defined_symbols=["<sep>", "▁▁"]),
    "bpe_plain": lambda: trained_model("bpe", 150, normalization_rule_name="identity", add_dummy_prefix=False),
    "unigram_rules": lambda: trained_model("unigram", 120, normalization_rule_tsv="/tmp/swiftprune_rules.tsv"),
}


def write_sentencepiece(name, model, out, count):
    (out / f"{name}.model").write_bytes(model.bytes)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.bytes)
    cases = []
    for t in TEXTS + random_strings(count + 8, ["<s>", "<sep>", "<unk>", "<0x41>"], 6):
        ids = processor.encode(t)
        cases.append({"text": t, "plain": ids, "decoded": processor.decode(ids)})
    dump(out / f"{name}.cases.json", cases)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="tests/data/text")
    parser.add_argument("--random", type=int, default=12)
    args = parser.parse_args()
    out = Path(args.out)
    (out / "tokenizers").mkdir(parents=True, exist_ok=True)
    (out / "sentencepiece").mkdir(parents=True, exist_ok=True)
    dump(out / "components.json", components(args.random))
    for name, make in TOKENIZERS.items():
        write_tokenizer(name, make(), out / "tokenizers", args.random)
    for name, make in SENTENCEPIECE.items():
        write_sentencepiece(name, make(), out / "sentencepiece", args.random)


if __name__ == "__main__":
    main()
