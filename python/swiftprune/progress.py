"""Progress of long work: a callable, or a bar on standard error."""

from __future__ import annotations

import sys
from typing import Any, Callable, Optional, Union

from .errors import UsageError

#: Called with (stage, done, total) some times a second; total is 0 where it is unknown.
ProgressFn = Callable[[str, int, int], Any]
#: None or False: none; True: a bar (tqdm's where it is installed).
Progress = Union[None, bool, ProgressFn]


class _TqdmBar:
    """One bar for each stage."""

    def __init__(self, tqdm: Any) -> None:
        self._tqdm = tqdm
        self._bar: Any = None
        self._stage: Optional[str] = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self.close()
            self._stage, self._bar = stage, self._tqdm(desc=stage, total=total or None)
        self._bar.total = total or None
        self._bar.n = done
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


class _Line:
    """One line that is drawn again and again."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        share = f"{100 * done / total:3.0f} % ({done}/{total})" if total else str(done)
        sys.stderr.write(f"\r\033[K{stage}: {share}")
        sys.stderr.flush()

    def close(self) -> None:
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()


def _bar() -> Union[_TqdmBar, _Line]:
    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return _Line()
    return _TqdmBar(tqdm)


class Listener:
    """What the caller's `progress` means, for as long as one command runs."""

    def __init__(self, progress: Progress) -> None:
        self._bar = _bar() if progress is True else None
        if not (progress is None or isinstance(progress, bool) or callable(progress)):
            raise UsageError(f"progress: found {progress!r}, expected None, True or a callable")
        self.function: Optional[ProgressFn] = self._bar if self._bar else (progress if callable(progress) else None)

    def __enter__(self) -> Optional[ProgressFn]:
        return self.function

    def __exit__(self, *_: Any) -> None:
        if self._bar:
            self._bar.close()
