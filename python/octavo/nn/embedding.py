"""Embedding: rows of a table that is stored in few bits, by index."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo import _core
from octavo.array.interop import as_indices
from octavo.array.qtensor import QTensor
from octavo.nn.base import Operator, Weights, restore
from octavo.nn.linear import as_weights


class Embedding(Operator):
    """The operator that gives rows of a table by index, made by `from_float` or `from_quantized`.

    Only the rows asked for are dequantized; the result is ``q.dequantize()[indices]`` to the bit.
    Frozen, picklable, and usable from many threads at once and after a fork.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> table = oc.Embedding.from_float(np.array([[1.0, -1.0], [0.5, 0.25]]))
    >>> table
    Embedding(rows=2, dim=2, precision='int8')
    >>> table([1, 0, 1]).round(2)
    array([[ 0.5 ,  0.25],
           [ 1.  , -1.  ],
           [ 0.5 ,  0.25]], dtype=float32)
    """

    __slots__ = ()

    @classmethod
    def from_float(
        cls,
        w: ArrayLike,
        *,
        precision: str = "int8",
        group_size: int | None = None,
        method: str = "minmax",
    ) -> Embedding:
        """Quantize a float table, symmetric.

        Parameters
        ----------
        w : float array of shape (rows, dim)
        precision : str, default "int8"
            "int8": a scale for each row. "int4/32", "int8/128" and the like: a scale for each group
            of so many values of a row. "float16", "float32": no scales.
        group_size : int, optional
            Another way to give the size of groups.
        method : {"minmax", "percentile"}, default "minmax"
            How scales are chosen; see `octavo.quantize`.

        Returns
        -------
        Embedding

        Raises
        ------
        ValueError, TypeError
            An unknown precision; a table that is not of two dimensions, or not of finite floats.

        Examples
        --------
        >>> import numpy as np, octavo as oc
        >>> oc.Embedding.from_float(np.ones((3, 100)), precision="int4/32").nbytes
        202
        """
        return cls._prepare(as_weights(w, precision, group_size, method, "(rows, dim)"))

    @classmethod
    def from_quantized(cls, w_q: QTensor) -> Embedding:
        """Take a table that is quantized already.

        Parameters
        ----------
        w_q : QTensor of shape (rows, dim)
            With one scale, one for each row (axis 0), or groups along the rows.

        Returns
        -------
        Embedding

        Raises
        ------
        ValueError, TypeError
            Not two dimensions; a scale for each column.

        Examples
        --------
        >>> import numpy as np, octavo as oc
        >>> w_q = oc.QTensor([[1, -1], [2, 1]], 0.5, dtype="int8")
        >>> oc.Embedding.from_quantized(w_q)(np.array([[1], [1]])).shape
        (2, 1, 2)
        """
        cls._check_quantized(w_q)
        return cls._prepare(w_q)

    @classmethod
    def _prepare(cls, w: Weights) -> Embedding:
        return restore(cls, Table(w))

    def _prepared(self, w: Weights, _bias: Any = None) -> Table:
        return Table(w)

    def __call__(
        self, indices: ArrayLike, *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the rows of these indices.

        Parameters
        ----------
        indices : array of integers
            Of any shape and integer dtype, each at least 0 and below `rows`.
        out : array of float32 of shape ``indices.shape + (dim,)``, optional

        Returns
        -------
        array of float32 of shape ``indices.shape + (dim,)``

        Raises
        ------
        TypeError, ValueError
            Indices that are not integers; one that is negative or beyond the table; an `out` of
            another dtype or shape.
        """
        table: Table = self._operator
        rows: NDArray[np.float32] = table.run(as_indices(indices, "indices"), out)
        return rows

    @property
    def rows(self) -> int:
        """How many rows the table has."""
        table: Table = self._operator
        return table.w.shape[0]

    @property
    def dim(self) -> int:
        """Length of a row."""
        table: Table = self._operator
        return table.w.shape[1]

    @property
    def precision(self) -> str:
        """How the table is stored: "int8", "int4/32", "float32" and the like."""
        w = self._operator.w
        if isinstance(w, np.ndarray):
            return "float32"
        return w.dtype if w.group_size is None else f"{w.dtype}/{w.group_size}"

    def unpack(self) -> tuple[Any, ...]:
        """Return the table in its plain form, and None."""
        return self._operator.w, None

    def __repr__(self) -> str:
        return f"Embedding(rows={self.rows}, dim={self.dim}, precision={self.precision!r})"


class Table:
    """A table as it is stored, and the kernel that takes rows of it."""

    def __init__(self, w: Weights) -> None:
        if w.ndim != 2:
            raise ValueError(f"w has {w.ndim} dimensions, expected 2: (rows, dim)")
        rows, dim = w.shape
        if isinstance(w, np.ndarray):
            self.run = _core.GatherOp(w, rows, dim, "float32")
        else:
            if w.axis == 1:
                raise ValueError(
                    "the scale of w varies along axis 1; expected one for the whole table, one for "
                    "each row (axis 0), or groups along the rows"
                )
            if w._transposed:  # rows must lie side by side
                values = w.data if w.dtype == "float16" else w.codes()
                scale, zero_point, axis = w.scale, w.zero_point, w.axis
                w = QTensor(
                    values, scale, zero_point, dtype=w.dtype, axis=axis, group_size=w.group_size
                )
            zeros = w.zero_point if w.zero_point.any() else None
            size = 0 if w.axis is None else w.group_size or dim
            self.run = _core.GatherOp(w.data, rows, dim, w.dtype, w.scale, zeros, size)
        self.w = w
        self.nbytes: int = w.nbytes
