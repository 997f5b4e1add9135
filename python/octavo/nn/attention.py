"""Attention in float32 and in 8-bit integers, and a cache of keys and values in int8.

The same bits on every CPU, for any number of threads and any split of a batch: docs/attention.md
writes the arithmetic down.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo import _core
from octavo.array.convolution import as_whole
from octavo.array.interop import as_float32
from octavo.array.qtensor import QTensor
from octavo.nn.floats import _mask

Float32 = NDArray[np.float32]
# Codes; scale and zero point with the axes of the codes, each of its length or 1; whether each row has
# a scale of its own.
_Codes = tuple[NDArray[Any], Float32, NDArray[np.int32], bool]

_PRECISIONS = ("float32", "int8")
_LEAST_CAPACITY = 16
_NO_ZERO = np.zeros((), np.int32)


def attention(
    q: ArrayLike | QTensor,
    k: ArrayLike | QTensor | KVCache,
    v: ArrayLike | QTensor | None = None,
    mask: ArrayLike | None = None,
    *,
    precision: str | None = None,
    causal: bool = False,
    past: int | None = None,
    scale: float | None = None,
    out: Float32 | None = None,
) -> Float32:
    """Return ``softmax(scale * q @ k.T + mask) @ v`` for each head.

    Parameters
    ----------
    q : array of floats, or QTensor of 8 bits, of shape (..., heads, Lq, d)
    k : array of floats, or QTensor of 8 bits, of shape (..., kv_heads, Lk, d); or KVCache
        `heads` is a multiple of `kv_heads`: neighbouring heads of q share one of k and v. The axes
        before heads broadcast.
    v : array of floats, or QTensor of 8 bits, of shape (..., kv_heads, Lk, dv)
        Not with a cache, which holds both.
    mask : array of bool or of floats, optional
        Broadcast to (..., heads, Lq, Lk). bool: keys where it is False are hidden. Floats are added
        to the scores; -infinity hides a key.
    precision : {"float32", "int8"}, optional
        Of both products. Default: "int8" where an operand has 8 bits, else "float32". "int8": floats
        are quantized first, each row of q by its own range, each row of k and v by its greatest
        magnitude, and so are the weights, each row by its greatest. "float32": codes are
        dequantized first.
    causal : bool, default False
        Row i sees keys ``0 .. past + i`` alone.
    past : int, optional
        How many keys come before that of the first row. Default: ``Lk - Lq``, so that the last row
        sees all.
    scale : float, optional
        Default: ``1 / sqrt(d)``.
    out : array of float32 of shape (..., heads, Lq, dv), optional
        Sharing no memory with an input.

    Returns
    -------
    array of float32 of shape (..., heads, Lq, dv)
        A row that sees no key is 0. A value whose weight is 0, hidden or not, takes no part, even if
        it is NaN or infinite; a NaN in a key that is seen, or in q, makes the row NaN.

    Raises
    ------
    TypeError, ValueError
        Operands that are neither floats nor of 8 bits, shapes that do not match, a scale of q or k
        that varies along d, or of q along Lq; zero points of v that vary along Lk.

    Notes
    -----
    Vaswani et al., Attention Is All You Need, arXiv:1706.03762, equation 1; Ainslie et al., GQA,
    arXiv:2305.13245, for shared heads. Masks, and `causal` with `past`, are those of ONNX's
    Attention.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> q = np.zeros((1, 2, 4), np.float32)
    >>> v = np.array([[[1.0], [3.0]]], np.float32)
    >>> oc.attention(q, q, v)[0].ravel(), oc.attention(q, q, v, causal=True)[0].ravel()
    (array([2., 2.], dtype=float32), array([1., 2.], dtype=float32))
    """
    operands = _operands(q, k, v)
    if precision is None:
        has_codes = any(isinstance(x, tuple) for x in operands)
        precision = "int8" if has_codes else "float32"
    if precision not in _PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(_PRECISIONS)}")
    if precision == "float32":
        operands = tuple(_dequantized(x) if isinstance(x, tuple) else x for x in operands)
    queries, keys, values = operands
    q_shape, k_shape = _shape(queries), _shape(keys)
    return _core.attention(
        queries,
        keys,
        values,
        None if mask is None else _mask(mask),
        precision == "int8",
        _past(causal, past, q_shape, k_shape),
        _scale(scale, q_shape),
        out,
    )


def _operands(q: Any, k: Any, v: Any) -> tuple[Float32 | _Codes, ...]:
    if isinstance(k, KVCache):
        if v is not None:
            raise TypeError("v is given, expected none beside a KVCache, which holds the values")
        return (_operand(q, "q"), *k._operands())
    if v is None:
        raise TypeError("v is missing: only a KVCache holds keys and values")
    return _operand(q, "q"), _operand(k, "k"), _operand(v, "v")


def _operand(x: Any, name: str) -> Float32 | _Codes:
    if not isinstance(x, QTensor):
        return as_float32(x, name, " or an octavo.QTensor of 8 bits")
    if x.dtype not in ("int8", "uint8"):
        raise TypeError(
            f"{name} is a QTensor of {x.dtype}, expected int8 or uint8; {name}.dequantize() is float32"
        )
    shape = [1] * x.ndim
    if x.axis is not None:
        along = x.axis - x.ndim
        if (along == -1 and name != "v") or (along == -2 and name == "q"):
            summed = "is summed over" if along == -1 else "has the rows"
            raise ValueError(
                f"{name} has a scale for each index of axis {x.axis}, which {summed}; "
                "expected one scale, or an axis before that"
            )
        if name == "v" and along == -2 and np.ptp(x.zero_point) != 0:
            raise ValueError(
                "v has zero points that vary along its rows, expected one: the rows are summed over"
            )
        shape[x.axis] = x.shape[x.axis]
    zero_point = np.ascontiguousarray(x.zero_point)
    by_row = x.axis == x.ndim - 2
    return x.codes(), x.scale.reshape(shape), zero_point.reshape(shape), by_row


def _dequantized(x: _Codes) -> Float32:
    codes, scale, zero_point, _ = x
    values: Float32 = np.subtract(codes, zero_point, dtype=np.float32)
    return np.multiply(values, scale, out=values)


def _shape(x: Float32 | _Codes) -> tuple[int, ...]:
    return x[0].shape if isinstance(x, tuple) else x.shape


def _past(
    causal: bool, past: int | None, q_shape: tuple[int, ...], k_shape: tuple[int, ...]
) -> int | None:
    if not causal:
        if past is not None:
            raise ValueError(f"past is {past}, expected none without causal=True")
        return None
    if past is not None:
        return as_whole(past, "past", 0)
    if len(q_shape) < 2 or len(k_shape) < 2:
        return 0  # refused with the shapes
    before = k_shape[-2] - q_shape[-2]
    if before < 0:
        raise ValueError(
            f"q has {q_shape[-2]} rows, k {k_shape[-2]}; causal needs past=... where k has fewer"
        )
    return before


def _scale(scale: float | None, q_shape: tuple[int, ...]) -> float:
    if scale is None:
        return 1 / math.sqrt(q_shape[-1]) if q_shape and q_shape[-1] else 1.0
    if isinstance(scale, bool) or not isinstance(scale, int | float | np.integer | np.floating):
        raise TypeError(f"scale is {scale!r}, expected a number")
    return float(scale)


class KVCache:
    """Keys and values of the tokens so far, in int8, for `attention`.

    Each row, one head of one token, is quantized by itself when it is appended, symmetrically:
    scale = its greatest magnitude / 127 (0 for zeros). So it does not matter in how many pieces tokens come, and
    ``attention(q, cache)`` is, bit for bit, ``attention(q, k, v, precision="int8")`` of the floats.
    Memory is taken ahead and doubles when it is used up. One thread at a time may append.

    Parameters
    ----------
    capacity : int, default 0
        Tokens to take memory for at the first append.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> cache = oc.nn.KVCache()
    >>> for token in range(3):
    ...     cache.append(np.ones((1, 1, 4)), np.full((1, 1, 2), float(token)))
    >>> len(cache), oc.attention(np.ones((1, 1, 4)), cache).ravel().round(2)
    (3, array([1., 1.], dtype=float32))
    """

    __slots__ = ("__weakref__", "_arrays", "_capacity", "_length")

    # Codes and scales of keys, then of values; empty before the first append.
    _arrays: tuple[NDArray[Any], ...]
    _capacity: int
    _length: int

    def __init__(self, capacity: int = 0) -> None:
        self._capacity = as_whole(capacity, "capacity", 0)
        self._arrays = ()
        self._length = 0

    def append(self, k: ArrayLike, v: ArrayLike) -> None:
        """Quantize and keep rows of further tokens.

        Parameters
        ----------
        k : array of floats of shape (..., kv_heads, tokens, d)
        v : array of floats of shape (..., kv_heads, tokens, dv)
            Of the same shape but for the tokens in each append. A row that holds NaN or infinity
            has a scale of NaN.

        Raises
        ------
        TypeError, ValueError
            Other dtypes; shapes that do not match each other or what is there. The cache is then
            unchanged.
        """
        keys, values = as_float32(k, "k"), as_float32(v, "v")
        if keys.ndim < 3 or keys.shape[:-1] != values.shape[:-1]:
            raise ValueError(
                f"k has shape {keys.shape}, v {values.shape}, expected (..., kv_heads, tokens, d) "
                "with all but d equal"
            )
        if 0 in (keys.shape[-1], values.shape[-1]):
            raise ValueError(
                f"k has shape {keys.shape}, v {values.shape}; their last axes must not be 0"
            )
        if self._arrays:
            for x, held, name in ((keys, self._arrays[0], "k"), (values, self._arrays[2], "v")):
                if x.shape[:-2] != held.shape[:-2] or x.shape[-1] != held.shape[-1]:
                    expected = (*held.shape[:-2], "tokens", held.shape[-1])
                    raise ValueError(
                        f"{name} has shape {x.shape}, expected ({', '.join(map(str, expected))})"
                    )
        end = self._length + keys.shape[-2]
        if not self._arrays or end > self._capacity:
            self._grow(end, keys, values)
        rows = slice(self._length, end)
        for x, codes, scale in zip(
            (keys, values), self._arrays[::2], self._arrays[1::2], strict=True
        ):
            _core.quantize_symmetric_rows(x, codes[..., rows, :], scale[..., rows])
        self._length = end

    def _grow(self, needed: int, keys: Float32, values: Float32) -> None:
        twice = 2 * self._capacity if self._arrays else self._capacity
        capacity = max(needed, twice, _LEAST_CAPACITY)
        lead = keys.shape[:-2]
        arrays: tuple[NDArray[Any], ...] = (
            np.empty((*lead, capacity, keys.shape[-1]), np.int8),
            np.empty((*lead, capacity), np.float32),
            np.empty((*lead, capacity, values.shape[-1]), np.int8),
            np.empty((*lead, capacity), np.float32),
        )
        if self._arrays:
            rows = (*(slice(None),) * len(lead), slice(self._length))
            for old, new in zip(self._arrays, arrays, strict=True):
                new[rows] = old[rows]
        self._arrays, self._capacity = arrays, capacity

    def _used(self) -> tuple[NDArray[Any], ...]:
        """Return the parts of the arrays that hold tokens."""
        if not self._arrays:
            return ()
        n = self._length
        k, k_scale, v, v_scale = self._arrays
        return k[..., :n, :], k_scale[..., :n], v[..., :n, :], v_scale[..., :n]

    def _operands(self) -> tuple[_Codes, _Codes]:
        if not self._arrays:
            raise ValueError("the KVCache is empty; append the first tokens before it is used")
        k, k_scale, v, v_scale = self._used()
        zero_point = _NO_ZERO.reshape((1,) * k.ndim)
        return (
            (k, k_scale[..., None], zero_point, True),
            (v, v_scale[..., None], zero_point, True),
        )

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on; the memory is kept."""
        if as_whole(length, "length", 0) > self._length:
            raise ValueError(f"length is {length}, expected at most {self._length}, what there is")
        self._length = int(length)

    def dequantize(self) -> tuple[Float32, Float32]:
        """Return keys and values as float32, of shapes (..., kv_heads, tokens, d) and dv."""
        keys, values = self._operands()
        return _dequantized(keys), _dequantized(values)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that is held, used or not."""
        return sum(array.nbytes for array in self._arrays)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self._length

    def __repr__(self) -> str:
        if not self._arrays:
            return "KVCache(empty)"
        k, _, v, _ = self._used()
        return f"KVCache(k={k.shape}, v={v.shape}, capacity={self._capacity})"

    # Copies and pickles hold the tokens, not the memory ahead of them.

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._used(), self._length if self._arrays else self._capacity)

    def __copy__(self) -> KVCache:
        restored, state = self.__reduce__()
        copied: KVCache = restored(*state)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> KVCache:
        return self.__copy__()


def _restored(arrays: tuple[NDArray[Any], ...], capacity: int) -> KVCache:
    cache = KVCache(capacity)
    cache._arrays = tuple(np.array(array, order="C") for array in arrays)
    cache._length = arrays[0].shape[-2] if arrays else 0
    return cache
