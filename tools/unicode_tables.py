#!/usr/bin/env python3
"""Prints src/swiftprune/text/unicode_tables.cpp: where the `tokenizers` library's Unicode differs from ours.

The library mixes several Unicode versions (its regular expressions, Rust's char methods, old crates for
punctuation, marks and normal forms). This script asks the installed library about every code point and compares
with utf8proc (found as libutf8proc.so.2) and with PCRE2's tables (Unicode 14, the version of Python 3.11's
unicodedata, which stands for them here).

usage: tools/unicode_tables.py > src/swiftprune/text/unicode_tables.cpp   (needs the package tokenizers)
"""
import ctypes
import unicodedata

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

assert unicodedata.unidata_version == "14.0.0", "run with a Python whose unicodedata is PCRE2's Unicode version"
CATEGORIES = ("Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co").split()
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, CODE_POINTS))

utf8proc = ctypes.CDLL("libutf8proc.so.2")
utf8proc.utf8proc_map.argtypes = [ctypes.c_char_p, ctypes.c_ssize_t, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int]
utf8proc.utf8proc_map.restype = ctypes.c_ssize_t
libc = ctypes.CDLL("libc.so.6")
libc.free.argtypes = [ctypes.c_void_p]


def utf8proc_category(c):
    return CATEGORIES[utf8proc.utf8proc_category(c)]


def utf8proc_normalized(text, form):
    options = {"NFC": 2 | 8, "NFD": 2 | 16, "NFKC": 2 | 4 | 8, "NFKD": 2 | 4 | 16}[form]
    raw = text.encode()
    out = ctypes.c_void_p()
    size = utf8proc.utf8proc_map(raw, len(raw), ctypes.byref(out), options)
    result = ctypes.string_at(out, size).decode()
    libc.free(out)
    return result


def matched(pre_tokenizer):
    """Code points that a removing pre-tokenizer takes out of the text of all code points."""
    found = set(CODE_POINTS)
    for _, (begin, end) in pre_tokenizer.pre_tokenize_str(TEXT):
        found.difference_update(CODE_POINTS[begin:end])
    return found


def regex_class(pattern):
    return matched(pre_tokenizers.Split(Regex(pattern + "+"), "removed"))


def ranges(values):
    """{code point: value} -> rows (first, last, value) of equal neighbours."""
    rows = []
    for c in sorted(values):
        if rows and rows[-1][1] == c - 1 and rows[-1][2] == values[c]:
            rows[-1][1] = c
        else:
            rows.append([c, c, values[c]])
    return rows


def print_table(name, comment, rows):
    print(f"// {comment}")
    print(f"constexpr CodePointRange {name}Rows[] = {{")
    line = "   "
    for first, last, value in rows:
        cell = f" {{0x{first:X}, 0x{last:X}, 0x{value:X}}},"
        if len(line) + len(cell) > 110:
            print(line)
            line = "   "
        line += cell
    print(line)
    print("};\n")


def regex_stand_ins():
    category = {}
    for name in CATEGORIES:
        if name != "Cs":
            for c in regex_class(rf"\p{{{name}}}"):
                category[c] = name
    classes = [regex_class(pattern) for pattern in (r"\w", r"\p{Han}", r"\p{Hiragana}", r"\p{Katakana}")]

    def kind(c):
        return category[c], len(chr(c).encode()), *(c in found for found in classes)

    same = {}
    for c in CODE_POINTS:
        # Cased neighbours of ASCII (Kelvin sign, long s) would match caseless ASCII patterns.
        if unicodedata.category(chr(c)) == category[c] and chr(c).casefold() == chr(c).lower() and c > 0x7F \
                and not chr(c).lower().isascii() and c != 0x180E:
            same.setdefault(kind(c), c)
    values = {c: same[kind(c)] for c in CODE_POINTS if unicodedata.category(chr(c)) != category[c]}
    values[0x180E] = same[kind(0x180E)]  # PCRE2's \s takes it for a space, Unicode since 6.3 does not
    return ranges(values)


def differing(library, ours):
    return ranges({c: int(c in library) for c in CODE_POINTS if (c in library) != ours(c)})


def numeric():
    text = "".join("x" + chr(c) for c in CODE_POINTS)
    found = set()
    for _, (begin, end) in pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str(text):
        if end - begin == 1 and begin % 2 == 1:
            found.add(CODE_POINTS[begin // 2])
    return found


def lowercase():
    lower = normalizers.Lowercase()
    values = {}
    for c in CODE_POINTS:
        image = lower.normalize_str(chr(c))
        if image != chr(utf8proc.utf8proc_tolower(c)) and c != 0x130:
            assert len(image) == 1
            values[c] = ord(image) - c & 0xFFFFFFFF
    return ranges(values)


def inert():
    forms = {"NFC": normalizers.NFC(), "NFD": normalizers.NFD(), "NFKC": normalizers.NFKC(),
             "NFKD": normalizers.NFKD()}
    # 11935 + 11930 compose to 11938 since Unicode 13.
    values = {c: 1 for c in (0x11930, 0x11935, 0x11938)}
    for form, library in forms.items():
        for c in CODE_POINTS[1:]:
            x = chr(c)
            for probe in (x, f"a{x}\u0315e\u0301{x}x\u3099{x}\u0345{x}"):
                if library.normalize_str(probe) != utf8proc_normalized(probe, form):
                    values[c] = 1
    return ranges(values)


def main():
    punctuation = matched(pre_tokenizers.Punctuation("removed"))
    kept = set(normalizers.StripAccents().normalize_str(TEXT))
    marks = {c for c in CODE_POINTS if chr(c) not in kept}
    ascii_punctuation = set(map(ord, "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"))
    print(f"// Written by tools/unicode_tables.py with tokenizers {tokenizers.__version__}. Do not edit.")
    print('#include "swiftprune/text/unicode_tables.h"\n\nnamespace swiftprune::text {\nnamespace {\n\n// clang-format off')
    print_table("kRegexStandIn", "Value: a code point that PCRE2 puts into the same classes, of the same length in UTF-8.",
                regex_stand_ins())
    print_table("kNumeric", "Value: 1 where the library calls it numeric, 0 where not.",
                differing(numeric(), lambda c: utf8proc_category(c)[0] == "N"))
    print_table("kPunctuation", "Value: 1 where the library calls it punctuation, 0 where not.",
                differing(punctuation, lambda c: c in ascii_punctuation or utf8proc_category(c)[0] == "P"))
    print_table("kMark", "Value: 1 where the library calls it a combining mark, 0 where not.",
                differing(marks, lambda c: utf8proc_category(c)[0] == "M"))
    print_table("kLowercase", "Value: what to add (modulo 2^32) to get the lower-case letter.", lowercase())
    print_table("kInert", "Unknown to the library's normal forms: neither decomposed, composed nor reordered.", inert())
    print("// clang-format on\n\n}  // namespace\n")
    for name in ("RegexStandIn", "Numeric", "Punctuation", "Mark", "Lowercase", "Inert"):
        print(f"const std::span<const CodePointRange> k{name}Table = k{name}Rows;")
    print("\n}  // namespace swiftprune::text")


if __name__ == "__main__":
    main()
