"""Writes commands.pyi: the types of every command's function, from the program's option parser.

    make_python_stubs.py FOLDER commands.pyi     FOLDER holds the package swiftprune
"""

import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from swiftprune import commands  # noqa: E402

HEAD = '''# Made by tools/make_python_stubs.py from the option parser.
import os
from typing import Literal, Sequence, Tuple, Union

from .progress import Progress
from .results import Result

Text = Union[str, int, float, os.PathLike[str]]

'''


def type_of(option):
    if option["type"] == "flag":
        return "bool"
    if option["values_each"] == 2:
        return "Union[Tuple[str, str], Sequence[Tuple[str, str]]]"
    one = {"int": "int", "float": "float", "text": "Text"}[option["type"]]
    if option["values"]:
        one = f"Literal[{', '.join(map(repr, option['values']))}]"
    return f"Union[{one}, Sequence[{one}]]" if option["many"] else one


def parameter(option):
    name, kind = commands.parameter_name(option), type_of(option)
    if option["required"]:
        return f"{name}: {kind}"
    if option["default"] is None:
        return f"{name}: Union[{kind}, None] = None"
    return f"{name}: {kind} = {option['default']!r}"


def function(command):
    options = commands.options_of(command)
    leading = [parameter(option) for option in options if option["positional"] or option["required"]]
    rest = [parameter(option) for option in options if not (option["positional"] or option["required"])]
    parameters = [*leading, "*", *rest, "progress: Progress = None"]
    name = commands.NAMES.get(command["name"], command["name"])
    joined = "".join(f"    {one},\n" for one in parameters)
    return f"def {name}(\n{joined}) -> Result:\n    \"\"\"{command['description']}.\"\"\"\n"


def main():
    text = HEAD + "\n".join(function(command) for command in commands.TABLE)
    Path(sys.argv[2]).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
