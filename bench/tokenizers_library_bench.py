#!/usr/bin/env python3
"""The same measurement as tokenizer_bench, of the `tokenizers` and `sentencepiece` libraries on one thread.

usage: bench/tokenizers_library_bench.py TEXT_FILE TOKENIZER...   (files; .json: tokenizers, else sentencepiece)
"fast" is the library's own path without offsets, which swiftprune does not compute either.
"""
import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
RUNS = 5


def median_seconds(encode):
    encode()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        encode()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    text = Path(sys.argv[1]).read_bytes().decode()
    megabytes = len(text.encode()) / 1e6
    for file in sys.argv[2:]:
        if file.endswith(".json"):
            from tokenizers import Tokenizer
            model = Tokenizer.from_file(file)
            model.no_truncation()
            plain = median_seconds(lambda: model.encode(text, add_special_tokens=False))
            fast = median_seconds(lambda: model.encode_batch_fast([text], add_special_tokens=False))
            result = {"warm_mb_per_s": megabytes / plain, "fast_warm_mb_per_s": megabytes / fast}
        else:
            import sentencepiece
            model = sentencepiece.SentencePieceProcessor(model_file=file)
            result = {"warm_mb_per_s": megabytes / median_seconds(lambda: model.encode(text))}
        print(json.dumps({"tokenizer": file, **result}))


if __name__ == "__main__":
    main()
