"""The commands as functions. Names, options, defaults and texts are those of the option parser, so that there is
nothing here that the program has not; commands.pyi, made when the package is built, tells type checkers."""

from __future__ import annotations

import inspect as _inspect
import json
import keyword
import numbers
import os
import warnings
from typing import Any, Callable, Dict, List

from . import _swiftprune
from .errors import Error, Note, UsageError, is_text
from .progress import Listener
from .results import Result

#: Commands that Python has under another name.
NAMES = {"eval": "evaluate", "import": "import_gguf"}
#: Commands for a terminal; Model writes, and its tokenizer is open.
LEFT_OUT = ("serve", "generate", "chat", "tokenize", "completion", "man")
#: Options that say how to print.
_PRINTING = ("json", "quiet", "progress")


def parameter_name(option: Dict[str, Any]) -> str:
    name = option["name"].lower().replace("-", "_")
    return name + "_" if keyword.iskeyword(name) else name


def options_of(command: Dict[str, Any]) -> List[Dict[str, Any]]:
    """In the order of the function's parameters: positional arguments, required options, the rest."""
    options = [option for option in command["options"] if option["name"] not in _PRINTING]
    return sorted(options, key=lambda option: (not option["positional"], not option["required"]))


def _flag_of(option: Dict[str, Any]) -> str:
    return parameter_name(option) if option["positional"] else "--" + option["name"]


def _text(option: Dict[str, Any], value: Any) -> str:
    if option["positional"] and not isinstance(value, (str, os.PathLike)):  # 5 is no folder
        raise UsageError(f"{_flag_of(option)}: found {value!r}, expected a str or a path")
    # NumPy's numbers are of numbers.Real, too.
    if isinstance(value, bool) or not isinstance(value, (str, numbers.Real, os.PathLike)):
        kind = {"int": "an int", "float": "a number", "text": "a str"}[option["type"]]
        raise UsageError(f"{_flag_of(option)}: found {value!r}, expected {kind}")
    text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    if not is_text(text) or "\0" in text:
        raise UsageError(f"{_flag_of(option)}: found {text!r}, expected text")
    return text


def _values(option: Dict[str, Any], value: Any) -> List[Any]:
    if not option["many"]:
        return [value]
    # Something with two values each is a list of pairs, or one pair.
    if not isinstance(value, (list, tuple)):
        return [value]
    if option["values_each"] == 2 and len(value) == 2 and all(isinstance(part, str) for part in value):
        return [value]
    return list(value)


def _arguments(option: Dict[str, Any], value: Any) -> List[str]:
    if value is None:
        return []
    flag = _flag_of(option)
    if option["type"] == "flag":
        if not isinstance(value, bool):
            raise UsageError(f"{flag}: found {value!r}, expected True or False")
        return [flag] if value else []
    arguments: List[str] = []
    for one in _values(option, value):
        if option["positional"]:
            text = _text(option, one)
            arguments.append("./" + text if text.startswith("-") else text)
        elif option["values_each"] == 2:
            if not isinstance(one, (list, tuple)) or len(one) != 2:
                raise UsageError(f"{flag}: found {one!r}, expected a pair of str")
            arguments += [flag, *(_text(option, part) for part in one)]
        else:
            arguments.append(f"{flag}={_text(option, one)}")
    return arguments


def _run(arguments: List[str], progress: Any) -> Result:
    result = Result()
    with Listener(progress) as listener:
        text, page, notes, error = _swiftprune.run_command(arguments, listener)
    for note in notes:
        warnings.warn(note, Note, stacklevel=3)
    if text is not None:
        result = Result(json.loads(text))
        result.page = page
    if error is not None:
        if isinstance(error, Error):
            error.result = result or None
        raise error
    return result


def _documentation(command: Dict[str, Any]) -> str:
    lines = [command["description"] + ".", "", "Args:"]
    for option in options_of(command):
        lines.append(f"    {parameter_name(option)}: {option['description']}")
    lines.append("    progress: True for a bar, or a callable (stage, done, total); total is 0 where it is unknown.")
    lines += ["", "Returns:", f"    What `swiftprune {command['name']} --json` prints, as a dict that notebooks show.", "", "Raises:",
              "    swiftprune.Error: see swiftprune.errors. KeyboardInterrupt: says what was kept."]
    if command["notes"]:
        lines += ["", "On the command line:", *("    " + line for line in command["notes"].splitlines())]
    return "\n".join(lines)


def _function(command: Dict[str, Any]) -> Callable[..., Result]:
    options = {parameter_name(option): option for option in options_of(command)}
    parameters = []
    for name, option in options.items():
        leads = option["positional"] or option["required"]
        parameters.append(_inspect.Parameter(
            name,
            _inspect.Parameter.POSITIONAL_OR_KEYWORD if leads else _inspect.Parameter.KEYWORD_ONLY,
            default=_inspect.Parameter.empty if option["required"] else option["default"]))
    parameters.append(_inspect.Parameter("progress", _inspect.Parameter.KEYWORD_ONLY, default=None))
    signature = _inspect.Signature(parameters, return_annotation=Result)
    name = NAMES.get(command["name"], command["name"])

    def function(*args: Any, **kwargs: Any) -> Result:
        for given in kwargs:
            if given not in signature.parameters:
                import difflib  # takes long to import, and is seldom needed

                near = difflib.get_close_matches(given, signature.parameters, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise TypeError(f"{name}() got an unexpected keyword argument {given!r}{hint}")
        given_values = signature.bind(*args, **kwargs).arguments
        progress = given_values.pop("progress", None)
        arguments = [command["name"]]
        for given, value in given_values.items():
            arguments += _arguments(options[given], value)
        return _run(arguments, progress)

    function.__name__ = function.__qualname__ = name
    function.__module__ = __name__
    function.__doc__ = _documentation(command)
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function


#: The program's commands that are functions here, as cli/option_table.h describes them.
TABLE = [command for command in json.loads(_swiftprune.option_table()) if command["name"] not in LEFT_OUT]

globals().update({NAMES.get(command["name"], command["name"]): _function(command) for command in TABLE})
