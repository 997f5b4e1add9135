"""Progress of what takes long: a bar on a terminal or in a notebook, or the caller's own function."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self

# Told of what is done, of how much (None where nobody knows), and of what it is.
Report = Callable[[int, int | None, str], object]
How = Literal["auto"] | Report | None

_WIDTH = 24
_SECONDS = 0.1  # between two drawings


class progress:  # in lower case, since it is used as a function is
    """Count what is done, and show it.

    Parameters
    ----------
    label : str
        What is done, in a word or two.
    total : int or None
        How many steps there are; None where nobody knows.
    how : "auto", None or callable
        "auto": a bar on stderr where that is a terminal or a notebook (drawn by `rich` where it is
        installed), nothing elsewhere. It is wiped at the end. None: nothing. A callable is called
        as ``how(done, total, label)`` after each step.

    Raises
    ------
    TypeError
        Another `how`.

    Examples
    --------
    >>> with progress("count", 3, lambda done, total, label: print(label, done, total)) as step:
    ...     step()
    ...     step(2)
    count 1 3
    count 3 3
    """

    __slots__ = ("_done", "_draw", "_label", "_total")

    def __init__(self, label: str, total: int | None = None, how: How = "auto") -> None:
        check(how)
        self._label, self._total, self._done = label, total, 0
        self._draw: Any = None
        if callable(how):
            self._draw = how
        elif how == "auto":
            self._draw = _drawing(label, total)

    def __enter__(self) -> Self:
        return self

    def __call__(self, count: int = 1) -> None:
        """Say that `count` more steps are done."""
        self._done += count
        if self._draw is not None:
            self._draw(self._done, self._total, self._label)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(self._draw, _Line | _Rich):
            self._draw.close()


def check(how: object) -> None:
    """Raise TypeError where `how` is no way to show progress."""
    if how is not None and how != "auto" and not callable(how):
        raise TypeError(
            f"progress is {how!r}, expected 'auto', None or a callable (done, total, label)"
        )


def _drawing(label: str, total: int | None) -> _Line | _Rich | None:
    stream = sys.stderr
    if stream is None:  # without a console, on Windows
        return None
    # In a notebook, where rich would need widgets, a line that is written over does as well.
    if type(stream).__module__.startswith("ipykernel"):
        return _Line(stream)
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return None
    try:
        return _Rich(label, total)
    except ImportError:
        return _Line(stream)


class _Line:
    """A line that is written over. The first drawing waits too: what is quick shows nothing."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._began, self._width = stream, time.monotonic(), 0
        self._drawn = self._began

    def __call__(self, done: int, total: int | None, label: str) -> None:
        now = time.monotonic()
        if now - self._drawn < _SECONDS:
            return
        self._drawn = now
        text = line(done, total, label, now - self._began)
        print(f"\r{text:<{self._width}}", end="", file=self._stream, flush=True)
        self._width = len(text)

    def close(self) -> None:
        if self._width:
            print(f"\r{'':<{self._width}}\r", end="", file=self._stream, flush=True)


def line(done: int, total: int | None, label: str, seconds: float) -> str:
    """Return progress as a line of text.

    >>> line(3, 12, "calibrate", 2.0)
    'calibrate [######..................] 3/12, 6 s left'
    >>> line(3, None, "calibrate", 2.0)
    'calibrate 3, 2 s'
    """
    if not total:
        return f"{label} {done}, {seconds:.0f} s"
    filled = "#" * (_WIDTH * min(done, total) // total)
    left = seconds * (total - min(done, total)) / max(done, 1)
    return f"{label} [{filled:.<{_WIDTH}}] {done}/{total}, {left:.0f} s left"


class _Rich:
    """The same by `rich`, without its thread: workers may be forked meanwhile."""

    def __init__(self, label: str, total: int | None) -> None:
        rich = importlib.import_module("rich.progress")
        self._bar = rich.Progress(
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeRemainingColumn(),
            console=importlib.import_module("rich.console").Console(stderr=True),
            transient=True,
            auto_refresh=False,
        )
        self._task = self._bar.add_task(label, total=total)
        self._drawn = time.monotonic()
        self._open = False

    def __call__(self, done: int, _total: int | None, _label: str) -> None:
        now = time.monotonic()
        if now - self._drawn < _SECONDS:
            return
        self._drawn = now
        if not self._open:
            self._bar.start()
            self._open = True
        self._bar.update(self._task, completed=done, refresh=True)

    def close(self) -> None:
        if self._open:
            self._bar.stop()
