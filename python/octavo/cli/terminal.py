"""What every command prints with: tables and JSON on stdout, progress and notes on stderr."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence

from octavo.strategy import report as reports

_progress_width = 0


def positive_int(text: str) -> int:
    """Parse an argument that is an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def positive_float(text: str) -> float:
    """Parse an argument that is a finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def progress(options: argparse.Namespace, message: str) -> None:
    """Say on stderr what is being done: on a terminal, or as plain lines with --verbose."""
    global _progress_width
    if options.quiet:
        return
    if sys.stderr.isatty():
        print(f"\r{message:<{_progress_width}}", end="", file=sys.stderr, flush=True)
        _progress_width = len(message)
    elif options.verbose:
        print(message, file=sys.stderr, flush=True)


def clear_progress() -> None:
    """Wipe the progress line, before anything else is printed."""
    global _progress_width
    if _progress_width:
        print(f"\r{'':<{_progress_width}}\r", end="", file=sys.stderr, flush=True)
        _progress_width = 0


def duration(seconds: float) -> str:
    """Return a time in the unit that keeps it readable.

    >>> duration(0.0123), duration(4.56e-6)
    ('12.3 ms', '4.56 us')
    """
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 0.9995:  # which rounds to 1
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def ratio(value: float) -> str:
    """Return a ratio with two digits behind the point where it is below 2.

    >>> ratio(4.07), ratio(0.98)
    ('4.1x', '0.98x')
    """
    return f"{value:.2f}x" if value < 2 else f"{value:.1f}x"


def print_json(report: Mapping[str, object]) -> None:
    """Print a report as JSON; what is not finite as a string, which `float` reads."""
    clear_progress()
    print(json.dumps(reports.finite(report), indent=2, allow_nan=False))


def print_text(text: str = "") -> None:
    """Print a line of the report."""
    clear_progress()
    print(text)


def print_notes(options: argparse.Namespace, notes: Sequence[str]) -> None:
    """Print what a reader of the figures should know, unless --quiet."""
    clear_progress()
    if not options.quiet:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print rows of text, the first columns (one, or `left`) to the left, the others to the right.

    With `rich`, and on a terminal, the table is drawn by it (and in colour unless NO_COLOR is set);
    elsewhere columns are aligned with spaces, so that what is piped never depends on `rich`.
    """
    clear_progress()
    lines = [headers, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    if sys.stdout.isatty() and importlib.util.find_spec("rich"):
        box = importlib.import_module("rich.box")
        style = None if os.environ.get("NO_COLOR") else "bold"
        table = importlib.import_module("rich.table").Table(box=box.SIMPLE_HEAD, header_style=style)
        for index, header in enumerate(headers):
            table.add_column(header, justify="right" if index >= left else "left", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        # rich cuts cells to fit; a long line that the terminal folds is better than a lost figure.
        needed = sum(widths) + 3 * len(widths) + 1
        width = max(needed, shutil.get_terminal_size().columns)
        importlib.import_module("rich.console").Console(width=width).print(table)
        return
    print(reports.table(headers, rows, left))
