#!/usr/bin/env python3
"""Prints src/swiftprune/templates/python_case_tables.cpp: where Python's str methods differ from single code points.

upper() and title() of some characters have several code points; isdigit(), islower() and isupper() hold for some
characters beyond the categories Nd, Ll and Lu. Everything else is utf8proc's.

usage: tools/python_case_tables.py > src/swiftprune/templates/python_case_tables.cpp
"""
import unicodedata

POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


def category(c):
    return unicodedata.category(chr(c))


def ranges(points):
    result = []
    for c in points:
        if result and result[-1][1] == c - 1:
            result[-1][1] = c
        else:
            result.append([c, c])
    return result


def print_ranges(name, points):
    print(f"const std::vector<CharacterRange> {name} = {{")
    for first, last in ranges(points):
        print(f"    {{0x{first:X}, 0x{last:X}}},")
    print("};\n")


def print_images(name, image):
    print(f"const std::vector<CharacterImage> {name} = {{")
    for c in POINTS:
        if len(image(chr(c))) > 1:
            parts = [ord(x) for x in image(chr(c))] + [0, 0]
            print(f"    {{0x{c:X}, {{" + ", ".join(f"0x{x:X}" for x in parts[:3]) + "}},")
    print("};\n")


print(f"""// Made by tools/python_case_tables.py with Unicode {unicodedata.unidata_version}: do not edit.
#include "swiftprune/templates/python_case_tables.h"

// clang-format off
namespace swiftprune::templates {{
""")
print_images("kUpperImages", str.upper)
print_images("kTitleImages", str.title)
print_ranges("kOtherDigits", [c for c in POINTS if chr(c).isdigit() and category(c) != "Nd"])
print_ranges("kOtherLower", [c for c in POINTS if chr(c).islower() and category(c) != "Ll"])
print_ranges("kOtherUpper", [c for c in POINTS if chr(c).isupper() and category(c) != "Lu"])
print("}  // namespace swiftprune::templates\n// clang-format on")
assert all(chr(c).islower() for c in POINTS if category(c) == "Ll")
assert all(chr(c).isupper() for c in POINTS if category(c) == "Lu")
assert all(chr(c).isdecimal() == (category(c) == "Nd") for c in POINTS)
assert all(chr(c).isalpha() == (category(c)[0] == "L") for c in POINTS)
assert all(chr(c).isalnum() == (category(c)[0] in "LN") for c in POINTS)
