#!/usr/bin/env python3
"""What of each parser the fuzzers' inputs reach, as the table of docs/reliability.md.

    tools/fuzz_coverage.py PROGRAMS CORPUS [CORPUS...] [--missed FILE...]      (make fuzz-coverage)

PROGRAMS: the targets of the preset fuzz; CORPUS/<target>/*: inputs. Functions are those that a file defines and that
were not inlined, in the targets that have them. --missed checkpoint/gguf: tells instead which were not reached, and the
lines of branches in the others that were not; many of those are the sanitizers' and those of exceptions. Needs llvm-19.
"""
import argparse
import fnmatch
import os
import pathlib
import re
import subprocess
import sys
import tempfile

# A file counts for the first parser that has it.
PARSERS = {
    "safetensors, index, folder": ["checkpoint/safetensors", "checkpoint/checkpoint", "checkpoint/tensor_names"],
    "GGUF": ["checkpoint/gguf*", "checkpoint/import_gguf"],
    "pytorch_model.bin": ["checkpoint/pickle", "checkpoint/pytorch_file", "checkpoint/zip_file"],
    "config.json": ["model/config_*", "model/family_*", "model/mamba_config", "model/layer_sizes", "model/rope"],
    "JSON, text files": ["core/json", "core/python_json", "text/json_lines", "text/corpus", "text/text_file"],
    "tokenizers": ["text/*"],
    "packed tensors": ["sparse/packed_tensor", "sparse/packed_checks", "sparse/unpack", "sparse/grid_codes"],
    "adapters": ["model/adapter"],
    "chat templates": ["templates/*"],
    "requests, schemas": ["serving/openai_api", "serving/request_fields", "serving/json_schema", "serving/json_acceptor",
                          "serving/token_mask", "serving/token_table"],
    "HTTP": ["serving/http_front"],
    "plans, journals, records": ["pipeline/plan", "pipeline/journal", "report/prune_record"],
}
NO_PARSERS = ["text/mixed_windows", "text/token_windows", "text/split_text", "text/text_stream", "text/text_kind",
              "text/tiktoken*", "checkpoint/gguf_folder"]


def coverage(program, folders, work):
    """((file, function), (edges reached, edges, lines that were not reached)) of each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": work, "ASAN_OPTIONS": "detect_leaks=0",
                                "ASAN_SYMBOLIZER_PATH": "/usr/bin/llvm-symbolizer-19"}
    ran = subprocess.run([program, "-runs=0", "-print_coverage=1", "-timeout=60", *folders], env=environment,
                         capture_output=True, text=True, errors="replace", check=False)
    if ran.returncode != 0:
        sys.exit(f"{program}: exit code {ran.returncode}\n{ran.stderr[-2000:]}")
    functions, current, place = [], None, ""  # of a template one for each instance
    for line in ran.stderr.splitlines():
        if found := re.match(r"(?:UN)?COVERED_FUNC: hits: \d+ edges: (\d+)/(\d+) (.*) (\S+?):(\d+)", line):
            reached, edges, _, place, number = found.groups()
            current = [int(reached), int(edges), set()]
            functions.append(((place.partition("src/swiftprune/")[2], int(number)), current))
        elif current is not None and (found := re.match(r"\s+UNCOVERED_PC: (\S+?):(\d+)", line)):
            if found.group(1) == place and int(found.group(2)) > 0:  # else inlined from a header
                current[2].add(int(found.group(2)))
    return functions


def all_coverage(programs, corpora):
    """The best that any target reached of each function, in any instance, by file."""
    files = {}
    for program in programs:
        with tempfile.TemporaryDirectory() as work:
            folders = [corpus / program.name for corpus in corpora if (corpus / program.name).is_dir()]
            found = coverage(program, folders, work)
        for (file, line), (reached, edges, missed) in found:
            if not file.endswith(".cpp"):
                continue
            functions = files.setdefault(file.removesuffix(".cpp"), {})
            best = functions.setdefault(line, [reached, edges, missed])
            if reached / max(1, edges) > best[0] / max(1, best[1]):
                best[0], best[1] = reached, edges
            best[2] = best[2] & missed
    return files


def table(files):
    print("| parser | functions | reached | each file, in percent |\n|---|---|---|---|")
    for parser, patterns in PARSERS.items():
        mine = [name for name in sorted(files) if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
                and not any(fnmatch.fnmatch(name, pattern) for pattern in NO_PARSERS)]
        each, all_reached, number = [], 0, 0
        for name in mine:
            functions = files.pop(name).values()
            reached = sum(edges_reached > 0 for edges_reached, _, _ in functions)
            all_reached, number = all_reached + reached, number + len(functions)
            each.append(f"{name.rpartition('/')[2]} {100 * reached // len(functions)}")
        print(f"| {parser} | {number} | {100 * all_reached / number:.0f} % | {', '.join(each)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=pathlib.Path)
    parser.add_argument("corpora", nargs="+", type=pathlib.Path)
    parser.add_argument("--missed", nargs="+", default=[])
    arguments = parser.parse_args()
    files = all_coverage(sorted(arguments.programs.glob("*_fuzz")), arguments.corpora)
    if not arguments.missed:
        return table(files)
    root = pathlib.Path(__file__).resolve().parent.parent / "src/swiftprune"
    for name in sorted(files):
        if not any(fnmatch.fnmatch(name, pattern) for pattern in arguments.missed):
            continue
        source = (root / f"{name}.cpp").read_text().splitlines()
        for line, (reached, _, _) in sorted(files[name].items()):
            if reached == 0:
                print(f"{name}.cpp:{line}: not reached: {source[line - 1].strip()}")
        for line in sorted({line for function in files[name].values() for line in function[2]}):
            print(f"{name}.cpp:{line}: {source[line - 1].strip()}")


main()
