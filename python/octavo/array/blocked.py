"""Matrices in groups as onnx stores them, from and to `QTensor`.

Two layouts: that of onnxruntime's operator ``com.microsoft::MatMulNBits``, and that of
DequantizeLinear with ``block_size`` (opset 21).
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo.array.interop import as_array
from octavo.array.qparams import RANGES
from octavo.array.qtensor import QTensor

_BITS = {4: "uint4", 8: "uint8"}


def from_matmul_nbits(
    b: ArrayLike,
    scales: ArrayLike,
    zero_points: ArrayLike | None = None,
    *,
    k: int,
    n: int,
    block_size: int,
    bits: int = 4,
) -> QTensor:
    """Read the weights of MatMulNBits, whose result is ``a @ w.T``.

    Parameters
    ----------
    b : uint8 array of n * ceil(k / block_size) * block_size * bits / 8 values
        Blocks along `k`, each padded to its full length; of 4 bits the first in the low nibble.
    scales : float array of n * ceil(k / block_size) values
    zero_points : uint8 array, or float array of whole numbers, optional
        uint8: packed as the codes are, each row of blocks filled up to a byte. Float: one a block.
        ``2 ** (bits - 1)`` if not given.
    k, n, block_size, bits : int
        The operator's attributes; 4 or 8 bits.

    Returns
    -------
    QTensor
        Of shape (n, k), uint4 or uint8, in groups of `block_size` along axis 1.

    Raises
    ------
    ValueError, TypeError
        Arrays of another size or dtype; zero points that are no codes.

    Notes
    -----
    The layout is that of the operator's description in onnxruntime's ContribOperators.md.

    Examples
    --------
    >>> import numpy as np
    >>> from octavo.array.blocked import from_matmul_nbits
    >>> b = np.full((1, 1, 16), 0x98, np.uint8)
    >>> from_matmul_nbits(b, [0.5], k=3, n=1, block_size=32).dequantize()
    array([[0. , 0.5, 0. ]], dtype=float32)
    """
    k, n, block_size = operator.index(k), operator.index(n), operator.index(block_size)
    if bits not in _BITS:
        raise ValueError(f"bits is {bits}, expected 4 or 8")
    if k < 0 or n < 0 or block_size < 2:
        raise ValueError(
            f"k, n, block_size are {k}, {n}, {block_size}; expected none below 0, 0, 2"
        )
    blocks = -(-k // block_size)
    values = _sized(b, n * blocks * block_size * bits // 8, "b")
    if values.dtype != np.uint8:
        raise TypeError(f"b is {values.dtype}, expected uint8")
    codes = _unpacked(values, bits).reshape(n, blocks * block_size)[:, :k]
    scale = _sized(scales, n * blocks, "scales").reshape(n, blocks)
    if zero_points is None:
        zeros = np.full((n, blocks), 1 << bits - 1, np.int32)
    elif as_array(zero_points, "zero_points").dtype == np.uint8:
        row = -(-blocks * bits // 8)
        packed = _sized(zero_points, n * row, "zero_points").reshape(n, row)
        zeros = _unpacked(packed, bits)[:, :blocks].astype(np.int32)
    else:
        real = _sized(zero_points, n * blocks, "zero_points").reshape(n, blocks)
        if not ((real == np.rint(real)) & (real >= 0) & (real < 1 << bits)).all():
            raise ValueError(f"zero_points must be whole numbers in [0, {(1 << bits) - 1}]")
        zeros = real.astype(np.int32)
    return QTensor(codes, scale, zeros, dtype=_BITS[bits], axis=0, group_size=block_size)


def to_matmul_nbits(
    q: QTensor,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8] | None]:
    """Write weights (out, in) in groups as MatMulNBits reads them.

    Parameters
    ----------
    q : QTensor
        Of shape (n, k), 4 or 8 bits, in groups along axis 1.

    Returns
    -------
    b : uint8 array of shape (n, ceil(k / group_size), group_size * bits / 8)
    scales : float32 array of shape (n * ceil(k / group_size),)
    zero_points : uint8 array, packed, or None where all are ``2 ** (bits - 1)``

    Raises
    ------
    ValueError
        No groups along axis 1, or groups that do not fill bytes.

    Notes
    -----
    Signed codes get ``2 ** (bits - 1)`` added, as their zero points do: the values stay.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> from octavo.array.blocked import to_matmul_nbits
    >>> q = oc.QTensor([[1, -2, 3]], [[0.5, 0.25]], dtype="int4", axis=0, group_size=2)
    >>> b, scales, zero_points = to_matmul_nbits(q)
    >>> b.tolist(), scales.tolist(), zero_points
    ([[[105], [139]]], [0.5, 0.25], None)
    """
    if q.axis != 0 or q.group_size is None:
        raise ValueError(
            f"q has axis={q.axis}, group_size={q.group_size}; "
            "MatMulNBits needs weights (out, in) in groups along the inputs"
        )
    bits = 4 if q.dtype.endswith("4") else 8
    size = q.group_size
    if size * bits % 8:
        raise ValueError(f"group_size is {size}, expected an even number for 4 bits")
    n, k = q.shape
    blocks = -(-k // size)
    least, middle = RANGES[q.dtype][0], 1 << bits - 1
    zeros = (q.zero_point - least).astype(np.uint8)
    # What fills a block stands for 0, whatever its zero point.
    codes: NDArray[Any] = np.repeat(zeros, size, axis=1)
    codes[:, :k] = (q.codes().astype(np.int16) - least).astype(np.uint8)
    b = _packed(codes, bits).reshape(n, blocks, size * bits // 8)
    scales = np.array(q.scale, order="C").reshape(-1)
    if (zeros == middle).all():
        return b, scales, None
    return b, scales, _packed(zeros, bits).reshape(-1)


def from_blocked(
    x: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike | None = None,
    *,
    axis: int,
    block_size: int,
) -> QTensor:
    """Read the matrix that DequantizeLinear with `block_size` takes.

    Parameters
    ----------
    x : array of codes, 2 dimensions
        int8 or uint8, or int4 and uint4 of `ml_dtypes`.
    scale : float array of the shape of `x`, with axis `axis` divided by `block_size`, rounded up
    zero_point : array of codes of the shape of `scale`, optional
    axis, block_size : int
        The operator's attributes: the axis that is cut into blocks.

    Returns
    -------
    QTensor
        Of the shape and dtype of `x`; it keeps the other axis, and has `group_size` `block_size`.

    Raises
    ------
    ValueError, TypeError
        Not two dimensions, shapes that do not match.

    Notes
    -----
    https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html, blocked quantization.

    Examples
    --------
    >>> import numpy as np
    >>> from octavo.array.blocked import from_blocked
    >>> w = np.array([[1, 2], [3, 4], [5, 6]], np.int8)  # (in, out)
    >>> from_blocked(w, np.array([[1, 10], [2, 20]], np.float32), axis=0, block_size=2).dequantize()
    array([[  1.,  20.],
           [  3.,  40.],
           [ 10., 120.]], dtype=float32)
    """
    codes = as_array(x, "x")
    if codes.ndim != 2:
        raise ValueError(f"x has {codes.ndim} dimensions, expected 2")
    if not -2 <= axis < 2:
        raise ValueError(f"axis is {axis}, expected -2 to 1")
    zeros: Any = 0
    if zero_point is not None:
        zeros = as_array(zero_point, "zero_point").astype(np.int32)
    return QTensor(codes, scale, zeros, axis=1 - axis % 2, group_size=block_size)


def to_blocked(
    q: QTensor,
) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[Any] | None, int, int]:
    """Write a matrix in groups as DequantizeLinear with ``block_size`` takes it.

    Parameters
    ----------
    q : QTensor
        2 dimensions, in groups.

    Returns
    -------
    x : int8 or uint8 array of the shape of `q`, one code a byte
        (`QTensor.data` of an int4 or uint4 tensor that is no transpose is the raw data of its
        TensorProto.)
    scale : float32 array
    zero_point : array of the dtype of `x` and the shape of `scale`, or None where all are 0
    axis, block_size : int
        The operator's attributes.

    Raises
    ------
    ValueError
        No groups.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> from octavo.array.blocked import to_blocked
    >>> q = oc.QTensor([[1, -2, 3]], [[0.5, 0.25]], dtype="int4", axis=0, group_size=2)
    >>> to_blocked(q)[2:]
    (None, 1, 2)
    """
    if q.group_size is None or q.axis is None:
        raise ValueError(f"q has axis={q.axis} and no groups, expected groups")
    x = np.array(q.codes(), order="C")
    zero_point = None
    if q.zero_point.any():
        zero_point = np.array(q.zero_point, dtype=x.dtype, order="C")
    return x, np.array(q.scale, order="C"), zero_point, 1 - q.axis, q.group_size


def _sized(values: ArrayLike, size: int, name: str) -> NDArray[Any]:
    array = as_array(values, name)
    if array.size != size:
        raise ValueError(f"{name} has shape {array.shape}, expected {size} values")
    return array


def _unpacked(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Return codes one a byte along the last axis; of 4 bits the low nibble comes first."""
    if bits == 8:
        return packed
    codes = np.empty((*packed.shape[:-1], packed.shape[-1] * 2), np.uint8)
    codes[..., 0::2] = packed & 0xF
    codes[..., 1::2] = packed >> 4
    return codes


def _packed(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Undo `_unpacked`; an odd last axis is filled with 0."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, 1)])
    packed: NDArray[np.uint8] = codes[..., 0::2] | codes[..., 1::2] << 4
    return packed
