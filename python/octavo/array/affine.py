"""The affine map between real numbers and codes: choosing its parameters, applying it, undoing it.

Scales come as () for a whole tensor, (C,) along a kept axis, or, for a matrix in groups, as the
matrix with its other axis divided by the group size (rounded up: the last group may be short).
"""

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import _core
from octavo.array.qparams import RANGES

METHODS = ("minmax", "percentile")

# Least normal float32: no smaller scale is chosen, so that no CPU mode can flush it to zero.
_LEAST_SCALE = np.float32(2.0**-126)


def normalized_axis(axis: int | None, ndim: int) -> int | None:
    """Return `axis` counted from the front."""
    if axis is None:
        return None
    index = operator.index(axis)
    if not -ndim <= index < ndim:
        raise ValueError(f"axis is {index}, expected {-ndim} to {ndim - 1} for {ndim} dimensions")
    return index % ndim


def check_group_size(group_size: int | None, axis: int | None, ndim: int) -> int | None:
    """Return `group_size` as an int, or None. Groups need two dimensions and an axis to keep."""
    if group_size is None:
        return None
    size = operator.index(group_size)
    if size < 1:
        raise ValueError(f"group_size is {size}, expected at least 1")
    if ndim != 2:
        raise ValueError(f"group_size={size} needs 2 dimensions, got {ndim}")
    if axis is None:
        raise ValueError(
            f"group_size={size} needs the axis to keep: 0 for weights (out, in), 1 for (in, out)"
        )
    return size


def scale_shape(
    shape: tuple[int, ...], axis: int | None, group_size: int | None
) -> tuple[int, ...]:
    """Return the shape that the scales of an array of `shape` have."""
    if axis is None:
        return ()
    if group_size is None:
        return (shape[axis],)
    groups = -(-shape[1 - axis] // group_size)
    return (shape[0], groups) if axis == 0 else (groups, shape[1])


def check_scale_shape(
    scale: NDArray[np.float32],
    name: str,
    shape: tuple[int, ...],
    axis: int | None,
    group_size: int | None,
) -> None:
    """Refuse a scale of another shape than that of an array called `name` has."""
    expected = scale_shape(shape, axis, group_size)
    if scale.shape != expected:
        raise ValueError(
            f"scale has shape {scale.shape}, expected {expected} "
            f"for {name} of shape {shape}, axis={axis}, group_size={group_size}"
        )


def observed_range(
    x: NDArray[np.float32],
    axis: int | None,
    group_size: int | None,
    method: str,
    percentile: float,
    symmetric: bool,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the least and greatest value that the codes shall reach, one pair for each scale.

    Percentiles are those of the magnitude if `symmetric`, else of both tails.
    """
    shape = scale_shape(x.shape, axis, group_size)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    if method == "minmax":
        if group_size is None:
            return _core.minmax(x, axis)
        # The zeros that fill a short group change nothing: every range is widened to hold 0.
        least, greatest = _core.minmax(_blocks(x, axis, group_size), 0)
        return _unblocks(least, shape, axis), _unblocks(greatest, shape, axis)
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile is {percentile}, expected above 50, at most 100")
    _core.minmax(x, None)  # raises where a value is not finite
    if x.size == 0:
        return np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    # float64: the interpolation between two float32 values may overflow float32.
    values = (np.abs(x) if symmetric else x).astype(np.float64)
    tails = [100 - percentile, percentile]
    if axis is None:
        low, high = np.percentile(values, tails)
    elif group_size is None:
        low, high = np.percentile(np.moveaxis(values, axis, 0).reshape(shape[0], -1), tails, axis=1)
    else:
        rows = values.T if axis == 1 else values
        whole = rows.shape[1] // group_size * group_size
        parts = [rows[:, :whole].reshape(len(rows), -1, group_size), rows[:, None, whole:]]
        found = [np.percentile(part, tails, axis=2) for part in parts if part.size]
        low, high = (_unblocks(each, shape, axis) for each in np.concatenate(found, axis=2))
    least = np.negative(high) if symmetric else low
    return np.asarray(least, np.float32), np.asarray(high, np.float32)


def choose(
    least: NDArray[np.float32], greatest: NDArray[np.float32], dtype: str, symmetric: bool
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return scale and zero point for values of that range, widened to hold 0.

    Symmetric: codes from -127 to 127 (-7 to 7) about a zero point of 0, or of 128 (8) if the dtype
    is unsigned. Else ``scale = (greatest - least) / 255`` (15), which uses every code.
    """
    qmin, qmax = RANGES[dtype]
    shape = least.shape
    # One dimension at least: NumPy 1 computes with scalars in float64.
    least = np.minimum(np.atleast_1d(least), np.float32(0))
    greatest = np.maximum(np.atleast_1d(greatest), np.float32(0))
    if symmetric:
        limit = np.float32((qmax - qmin) // 2)
        scale = np.maximum(np.maximum(-least, greatest) / limit, _LEAST_SCALE)
        zero_point = np.full(scale.shape, (qmin + qmax + 1) // 2, np.int32)
    else:
        steps = np.float32(qmax - qmin)
        with np.errstate(over="ignore"):
            span = greatest - least
        scale = np.where(np.isfinite(span), span / steps, greatest / steps - least / steps)
        scale = np.maximum(scale, _LEAST_SCALE)
        # rint first: adding qmin in float32 before it would round twice.
        zero_point = np.clip(np.rint(-least / scale), 0, steps).astype(np.int32) + qmin
    zero = (least == 0) & (greatest == 0)
    scale = np.where(zero, np.float32(1), scale)
    zero_point = np.where(zero, 0, zero_point).astype(np.int32)
    return scale.reshape(shape), zero_point.reshape(shape)


def to_codes(
    x: NDArray[np.float32],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int32],
    dtype: str,
    axis: int | None,
    group_size: int | None,
) -> NDArray[Any]:
    """Quantize `x` by given parameters (docs/int8.md): one code a byte, C order."""
    codes: NDArray[Any]
    if group_size is None:
        codes = _core.quantize(x, scale, zero_point, dtype, axis)
        return codes
    blocks = _blocks(x, axis, group_size)
    codes = _core.quantize(blocks, *_block_params(scale, zero_point, axis), dtype, 0)
    return _unblocks(codes, x.shape, axis)


def from_codes(
    codes: NDArray[Any],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int32],
    axis: int | None,
    group_size: int | None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Dequantize codes: ``float32(q - zero_point) * scale``."""
    real: NDArray[np.float32]
    if group_size is None:
        real = _core.dequantize(codes, scale, zero_point, axis, out)
        return real
    blocks = _blocks(codes, axis, group_size)
    real = _core.dequantize(blocks, *_block_params(scale, zero_point, axis), 0)
    values = _unblocks(real, codes.shape, axis)
    if out is None:
        return values
    check_out(out, values.shape, "float32", codes)
    np.copyto(out, values)
    return out


def check_out(out: Any, shape: tuple[int, ...], dtype: str, *inputs: NDArray[Any]) -> None:
    """Refuse an `out` that a result cannot be written to."""
    if not isinstance(out, np.ndarray) or out.dtype != np.dtype(dtype):
        raise TypeError(f"out is {getattr(out, 'dtype', type(out).__name__)}, expected {dtype}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, expected {shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    if any(np.may_share_memory(out, x) for x in inputs):
        raise ValueError("out overlaps an input; expected memory of its own")


def _blocks(x: NDArray[Any], axis: int | None, group_size: int) -> NDArray[Any]:
    """Cut a matrix into its groups, one a row; a short last group is filled with 0."""
    rows = x.T if axis == 1 else x
    short = -rows.shape[1] % group_size
    return np.pad(rows, ((0, 0), (0, short))).reshape(-1, group_size)


def _unblocks(blocks: NDArray[Any], shape: tuple[int, ...], axis: int | None) -> NDArray[Any]:
    """Undo `_blocks`: the matrix of `shape`, in C order."""
    count, length = shape[::-1] if axis == 1 else shape
    rows = blocks.reshape(count, blocks.size // count if count else length)[:, :length]
    return np.ascontiguousarray(rows.T if axis == 1 else rows)


def _block_params(
    scale: NDArray[np.float32], zero_point: NDArray[np.int32], axis: int | None
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    zero_points = np.broadcast_to(zero_point, scale.shape)
    return _blocks(scale, axis, 1).reshape(-1), _blocks(zero_points, axis, 1).reshape(-1)
