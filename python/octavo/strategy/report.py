"""What results have in common: a table as text and as HTML, and JSON that says what it is."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from octavo import _core

Rows = Sequence[Sequence[str]]


def table(headers: Sequence[str], rows: Rows, left: int = 1) -> str:
    """Return rows as text, the first columns (one, or `left`) to the left, others to the right.

    >>> print(table(("name", "GB/s"), [("pack", "5"), ("quantize", "123.4")]))
    name       GB/s
    pack          5
    quantize  123.4
    """
    lines = [headers, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column >= left else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def html(headers: Sequence[str], rows: Rows, note: str = "", left: int = 1) -> str:
    """Return rows as an HTML table, with a note below."""
    from html import escape

    def line(cells: Sequence[str], tag: str) -> str:
        style = (' style="text-align: left"', ' style="text-align: right"')
        made = (f"<{tag}{style[i >= left]}>{escape(cell)}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    below = f"<p>{escape(note)}</p>" if note else ""
    return f"<table><thead>{line(headers, 'th')}</thead><tbody>{body}</tbody></table>{below}"


def write_json(path: str | os.PathLike[str], kind: str, version: int, facts: Any) -> None:
    """Write facts beside the target, then put them in its place: an interruption leaves the old.

    What is not finite is written as a string, which `float` reads: JSON has no such numbers.
    """
    import json

    from octavo.graph.native_file import replacing

    head = {"format": f"octavo.{kind}", "version": version, "octavo": _core.__version__}
    text = json.dumps(head | finite(facts), indent=1, allow_nan=False)
    with replacing(path) as file:
        file.write(text.encode() + b"\n")


def finite(value: Any) -> Any:
    """Return a value of plain Python with what is not finite as a string, for JSON.

    >>> finite({"sqnr": [float("inf"), 3.0]})
    {'sqnr': ['inf', 3.0]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value


def read_json(path: str | os.PathLike[str], kind: str, version: int) -> dict[str, Any]:
    """Return what `write_json` wrote.

    Raises
    ------
    ValueError
        A file that is no such JSON, of another kind, or of a later version.
    """
    import json

    with open(path, encoding="utf-8") as file:
        try:
            facts: Any = json.load(file)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)!r} is not JSON: {error}") from error
    found = facts.get("format") if isinstance(facts, dict) else None
    if found != f"octavo.{kind}":
        raise ValueError(f"{os.fspath(path)!r} is {found!r}, expected 'octavo.{kind}'")
    if not isinstance(facts.get("version"), int) or not 1 <= facts["version"] <= version:
        raise ValueError(
            f"{os.fspath(path)!r} has version {facts.get('version')!r}, "
            f"expected 1 to {version}: it is of another octavo"
        )
    return dict(facts)


def axes(ax: Any) -> Any:
    """Return matplotlib axes to draw on, new ones where `ax` is None."""
    if ax is not None:
        return ax
    try:
        plt: Any = importlib.import_module("matplotlib.pyplot")
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'octavo[plot]'") from error
    return plt.subplots()[1]
