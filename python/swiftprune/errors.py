"""Exceptions, by what a person can do about them: the program's exit codes."""

from __future__ import annotations

from typing import Any, Dict, Optional


def is_text(value: Any) -> bool:
    """A str that is UTF-8: no half of a character, as os.fsdecode() makes of other names of files."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


class Error(Exception):
    """The work failed, with one line that says why (exit code 1)."""

    #: What the command had found out before it ended with this, as it would have returned it.
    result: Optional[Dict[str, Any]] = None


class UsageError(Error, ValueError):
    """An argument that cannot be: its name, what was found, what is expected (exit code 2)."""


class InputError(Error, ValueError):
    """A file or model that cannot be read (exit code 3)."""


class DeviceError(Error, RuntimeError):
    """A device that is not there, fails or lacks memory (exit code 4)."""


class GateError(Error):
    """A model that does not keep the limits that were asked for (exit code 5); `result` has the measurements."""


class InternalError(Error, RuntimeError):
    """A bug of swiftprune (exit code 70)."""


class Note(UserWarning):
    """What the program would print as a note."""
