"""QParams: how real numbers and integer codes correspond, ``real = scale * (q - zero_point)``."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from octavo.array.interop import as_array, dtype_name, is_floating, read_only

# The codes that each dtype holds, and what NumPy has for them, one a byte.
RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}
EIGHT_BITS = INT8, UINT8 = np.dtype(np.int8), np.dtype(np.uint8)
CODES = {"int8": INT8, "uint8": UINT8, "int4": INT8, "uint4": UINT8}


class QParams:
    """Scale, zero point and dtype of quantized values: ``real = scale * (q - zero_point)``.

    A frozen value: its arrays are read-only copies; equal parameters compare and hash equal.

    Parameters
    ----------
    scale : float or array of shape (C,)
        Positive and finite; kept as float32.
    zero_point : int or array of shape (C,), default 0
        The code that stands for 0; within the range of `dtype`.
    dtype : {"uint8", "int8", "uint4", "int4"}
        What the codes are.
    axis : int, optional
        The axis that has a scale for each index; needed exactly if there are C of them.

    Raises
    ------
    ValueError
        A scale that is not positive and finite, a zero point outside the dtype, or shapes that do
        not match.
    TypeError
        A scale that is not a number, or a zero point that is not an integer.

    Examples
    --------
    >>> import octavo as oc
    >>> oc.QParams(0.5, 128)
    QParams(0.5, 128, 'uint8')
    >>> oc.QParams([0.5, 0.25], dtype="int8", axis=0)
    QParams([0.5, 0.25], [0, 0], 'int8', axis=0)
    """

    __slots__ = ("_axis", "_codes", "_dtype", "_key", "_scale", "_zero_point")

    def __init__(
        self,
        scale: ArrayLike,
        zero_point: ArrayLike = 0,
        dtype: DTypeLike | str = "uint8",
        *,
        axis: int | None = None,
    ) -> None:
        self._dtype = dtype_name(dtype, tuple(RANGES))
        self._codes = CODES[self._dtype]
        self._axis = None if axis is None else operator.index(axis)
        scales = as_scale(scale)
        if scales.ndim != (axis is not None):
            raise ValueError(
                f"scale has shape {scales.shape} with axis={axis}; "
                "expected () without an axis, (C,) with one"
            )
        self._scale = scales
        self._zero_point = np.broadcast_to(
            as_zero_point(zero_point, self._dtype, scales.shape), scales.shape
        )
        self._key = (self._dtype, self._axis, scales.tobytes(), self._zero_point.tobytes())

    @property
    def scale(self) -> NDArray[np.float32]:
        """Float32 array of shape () or (C,), read-only."""
        return self._scale

    @property
    def zero_point(self) -> NDArray[np.int32]:
        """Int32 array of the shape of `scale`, read-only."""
        return self._zero_point

    @property
    def dtype(self) -> str:
        """Name of the codes' dtype."""
        return self._dtype

    @property
    def axis(self) -> int | None:
        """The kept axis, or None if one scale serves all."""
        return self._axis

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, QParams) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._scale, np.array(self._zero_point), self._dtype, self._axis)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return ("octavo.QParams", *self._key)

    def __repr__(self) -> str:
        axis = "" if self._axis is None else f", axis={self._axis}"
        # str() is the shortest decimal that gives the same float32 back.
        scales = ", ".join(str(scale) for scale in self._scale.reshape(-1))
        zero_points = ", ".join(str(zero_point) for zero_point in self._zero_point.reshape(-1))
        if self._axis is not None:
            scales, zero_points = f"[{scales}]", f"[{zero_points}]"
        return f"QParams({scales}, {zero_points}, {self._dtype!r}{axis})"


def _restore(
    scale: NDArray[np.float32], zero_point: NDArray[np.int32], dtype: str, axis: int | None
) -> QParams:
    return QParams(scale, zero_point, dtype, axis=axis)


def as_scale(scale: ArrayLike) -> NDArray[np.float32]:
    """Return a read-only float32 copy of `scale`, all of it positive and finite."""
    array = as_array(scale, "scale")
    if not is_floating(array) and array.dtype.kind not in "iu":
        raise TypeError(f"scale is {array.dtype}, expected real numbers")
    with np.errstate(over="ignore"):
        scales = np.array(array, dtype=np.float32, order="C")
    bad = ~(np.isfinite(scales) & (scales > 0))
    if bad.any():
        raise ValueError(
            f"scale holds {array[bad].flat[0]}, expected positive and finite float32 values"
        )
    return read_only(scales)


def as_zero_point(zero_point: ArrayLike, dtype: str, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Return a read-only int32 copy of `zero_point`, of shape () or `shape`, that `dtype` holds."""
    array = as_array(zero_point, "zero_point")
    if array.dtype.kind not in "iu":
        raise TypeError(f"zero_point is {array.dtype}, expected integers")
    if array.shape not in {(), shape}:
        raise ValueError(
            f"zero_point has shape {array.shape}, scale has {shape}; expected the same"
        )
    qmin, qmax = RANGES[dtype]
    bad = (array < qmin) | (array > qmax)
    if bad.any():
        raise ValueError(
            f"zero_point holds {array[bad].flat[0]}, expected {qmin} to {qmax} for {dtype}"
        )
    return read_only(np.array(array, dtype=np.int32, order="C"))
