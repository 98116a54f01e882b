#!/usr/bin/env python3
"""Makes a `continuation` task of last words from plain text: a passage without its last word, and the word.

    tools/make_last_word_task.py wiki.valid.raw last_words.jsonl [--items 500] [--words 40]

Perplexity flatters pruned models; the last word of a passage that holds it already is closer to use. A passage is
--words words of one paragraph that end with a word of at least five letters which the passage has used before, so
that reading the context is what finds it (as in LAMBADA, arXiv 1606.06031, where people chose such passages).
Passages do not overlap; every one that fits is counted, and --items of them are taken at equal distances.
"""
import argparse
import json
import re


def passages(text, words):
    for paragraph in text.splitlines():
        parts = paragraph.split()
        end = words
        while end <= len(parts):
            passage = parts[end - words:end]
            last = passage[-1]
            found = re.fullmatch(r"[A-Za-z]{5,}", last) and last in passage[:-1]
            if found:
                yield {"context": " ".join(passage[:-1]), "continuation": last}
            end += words if found else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("out")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--words", type=int, default=40)
    arguments = parser.parse_args()
    with open(arguments.text, encoding="utf-8") as file:
        found = list(passages(file.read(), arguments.words))
    if not found:
        parser.error(f"{arguments.text}: no passage of {arguments.words} words ends with a word that it has used")
    count = min(arguments.items, len(found))
    with open(arguments.out, "w", encoding="utf-8") as file:
        for i in range(count):
            file.write(json.dumps(found[i * len(found) // count], ensure_ascii=False) + "\n")
    print(f"{arguments.out}: {count} of {len(found)} passages")


main()
