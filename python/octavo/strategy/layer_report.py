"""Reports with a row for each layer."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

from octavo.strategy import report

VERSION = 1


class LayerReport(ABC):
    """Rows that are shown as a table, and saved as JSON.

    A class made of it names its `KIND`, the heads of its columns and how many of these are text, and
    gives the cells of a row.
    """

    KIND: ClassVar[str]
    HEADS: ClassVar[tuple[str, ...]]
    TEXTS: ClassVar[int]

    __slots__ = ("note", "rows")

    def __init__(self, rows: Iterable[dict[str, Any]], note: str = "") -> None:
        self.rows = tuple(rows)
        self.note = note

    @abstractmethod
    def _cells(self, row: dict[str, Any]) -> Sequence[str]:
        """Return a row as text."""

    def __str__(self) -> str:
        text = report.table(self.HEADS, list(map(self._cells, self.rows)), self.TEXTS)
        return f"{text}\n{self.note}" if self.note else text

    def _repr_html_(self) -> str:
        return report.html(self.HEADS, list(map(self._cells, self.rows)), self.note, self.TEXTS)

    def to_dict(self) -> dict[str, Any]:
        """Return rows and note: what `save` writes."""
        return {"rows": [dict(row) for row in self.rows], "note": self.note}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON; what was there is replaced when the new file is whole."""
        report.write_json(path, self.KIND, VERSION, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` has written.

        Raises
        ------
        ValueError
            A file of another kind, or of a later version.
        """
        facts = report.read_json(path, cls.KIND, VERSION)
        return cls(map(cls._row, facts["rows"]), facts["note"])

    @staticmethod
    def _row(row: dict[str, Any]) -> dict[str, Any]:
        """Return a row as it was before it was JSON."""
        return row
