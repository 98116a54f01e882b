"""One OpenMP for torch and for us. Of two, each has threads of its own, which wait on the cores that the other's need.
Libraries that ask for it by the same name get the one that is there already, so it is loaded here: torch's, where torch
is installed and calls it so, else the system's, else the copy that a wheel brings."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path

_NAME = "libgomp.so.1"


def _candidates() -> list[str]:
    found = []
    torch = importlib.util.find_spec("torch")  # not imported: that takes seconds
    if torch is not None and torch.origin is not None:
        found.append(Path(torch.origin).parent / "lib" / _NAME)
    own = Path(__file__).parent / "openmp" / _NAME
    return [str(path) for path in found if path.exists()] + [_NAME] + ([str(own)] if own.exists() else [])


def load_openmp() -> None:
    """Where there is none, importing the library tells of it."""
    for name, mode in [(_NAME, os.RTLD_NOLOAD)] + [(name, os.RTLD_GLOBAL) for name in _candidates()]:
        try:
            ctypes.CDLL(name, mode=mode | os.RTLD_NOW)
            return
        except OSError:
            continue
