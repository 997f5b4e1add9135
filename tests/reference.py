"""The arithmetic of docs/int8.md in plain NumPy: the oracle of the Python tests.

Nothing here imports octavo. Sums are int64; float steps are single float32 operations, each
rounded; a fused multiply-add is emulated (`fma`).
"""

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
F32 = np.float32
RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}
LEAST_SCALE = F32(2.0**-126)


def stored(dtype: str) -> str:
    """The NumPy dtype that holds codes one a byte."""
    return dtype.replace("4", "8")


def along(values: ArrayLike, axis: int | None, ndim: int) -> Array:
    """Values per index of `axis`, shaped to broadcast against an array of `ndim` dimensions."""
    array = np.asarray(values)
    if axis is None or array.ndim == 0:
        return array
    return array.reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


def quantize(
    x: Array, scale: ArrayLike, zero_point: ArrayLike, dtype: str, axis: int | None = None
) -> Array:
    """Quantize: a float32 division, half to even, NaN as 0."""
    qmin, qmax = RANGES[dtype]
    zp = along(np.asarray(zero_point, np.int32), axis, x.ndim)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        v = np.asarray(x, F32) / along(np.asarray(scale, F32), axis, x.ndim)
    v = np.where(np.isnan(v), F32(0), v)
    v = np.rint(np.clip(v, (qmin - zp).astype(F32), (qmax - zp).astype(F32)))
    return (v.astype(np.int32) + zp).astype(stored(dtype))


def dequantize(
    q: Array, scale: ArrayLike, zero_point: ArrayLike, axis: int | None = None
) -> NDArray[F32]:
    """Dequantize."""
    zp = along(np.asarray(zero_point, np.int32), axis, q.ndim)
    return (q.astype(np.int32) - zp).astype(F32) * along(np.asarray(scale, F32), axis, q.ndim)


def accumulate(a: Array, b: Array, a_zp: ArrayLike = 0, b_zp: ArrayLike = 0) -> NDArray[np.int64]:
    """Accumulate, exactly; `a_zp` per row of shape a.shape[:-1], `b_zp` per column."""
    rows = np.asarray(a_zp, np.int64)
    rows = rows[..., None] if rows.ndim else rows
    columns = np.asarray(b_zp, np.int64)
    columns = columns[..., None, :] if columns.ndim else columns
    return np.matmul(a.astype(np.int64) - rows, b.astype(np.int64) - columns)


def requantize(
    acc: Array,
    multiplier: ArrayLike,
    zero_point: int,
    dtype: str,
    bias: ArrayLike = 0,
    lo: float = -np.inf,
    hi: float = np.inf,
) -> Array:
    """Requantize, channels on the last axis; lo and hi clamp the value before the zero point."""
    total = acc.astype(np.int64) + np.asarray(bias, np.int64)
    assert np.all(np.abs(total) < 2**31)
    with np.errstate(over="ignore"):
        v = total.astype(np.int32).astype(F32) * np.asarray(multiplier, F32)
    return to_codes(v, zero_point, dtype, lo, hi)


def to_codes(
    v: NDArray[F32], zero_point: int, dtype: str, lo: float = -np.inf, hi: float = np.inf
) -> Array:
    """Clamp, round half to even, add the zero point."""
    qmin, qmax = RANGES[dtype]
    low, high = (
        np.clip(F32(end), F32(qmin - zero_point), F32(qmax - zero_point)) for end in (lo, hi)
    )
    return (np.rint(np.clip(v, low, high)).astype(np.int32) + zero_point).astype(dtype)


def in_steps(bounds: tuple[float | None, float | None], scale: ArrayLike) -> tuple[Any, Any]:
    """The bounds of a clip in real units as `to_codes` takes them; None is an open end."""
    lo, hi = bounds
    return (
        F32(-np.inf) if lo is None else np.rint(F32(lo) / np.asarray(scale, F32)),
        F32(np.inf) if hi is None else np.rint(F32(hi) / np.asarray(scale, F32)),
    )


def add(
    a: Array,
    b: Array,
    scales: tuple[float, float, float],
    zero_points: tuple[int, int, int],
    dtype: str,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Array:
    """Sum of two tensors of codes; scales and zero points of a, b and the result."""
    parts = [
        (q.astype(np.int32) - zero_point).astype(F32) * multiplier(scale, 1.0, scales[2])
        for q, scale, zero_point in zip((a, b), scales, zero_points, strict=False)
    ]
    return to_codes(parts[0] + parts[1], zero_points[2], dtype, *in_steps(bounds, scales[2]))


def float_output(
    acc: Array, x_scale: ArrayLike, w_scale: ArrayLike, bias: ArrayLike | None = None
) -> NDArray[F32]:
    """Float results; `x_scale` broadcasts over rows, `w_scale` over columns."""
    y = acc.astype(F32) * (np.asarray(x_scale, F32) * np.asarray(w_scale, F32))
    return y if bias is None else y + np.asarray(bias, F32)


def clip(y: NDArray[F32], lo: float | None, hi: float | None) -> NDArray[F32]:
    """An activation in real units: NaN stays, -0 becomes +0 at a bound of 0."""
    y = y.copy()
    if lo is not None:
        y[y <= F32(lo)] = F32(lo)
    if hi is not None:
        y[y >= F32(hi)] = F32(hi)
    return y


def asymmetric(least: Array, greatest: Array, dtype: str = "uint8") -> tuple[Array, Array]:
    """Scale and zero point of a range, widened to hold 0, for any dtype."""
    qmin, qmax = RANGES[dtype]
    steps = F32(qmax - qmin)
    lo, hi = np.minimum(least, F32(0)), np.maximum(greatest, F32(0))
    with np.errstate(over="ignore", under="ignore"):
        span = (hi - lo).astype(F32)
        step = np.where(np.isinf(span), hi / steps - lo / steps, span / steps)
    scale = np.maximum(step, LEAST_SCALE).astype(F32)
    zero_point = np.clip(np.rint(-lo / scale), 0, steps).astype(np.int32) + qmin
    empty = (lo == 0) & (hi == 0)
    return np.where(empty, F32(1), scale), np.where(empty, 0, zero_point).astype(np.int32)


def quantize_rows(x: NDArray[F32]) -> tuple[Array, Array, Array]:
    """Dynamic quantization: each row to uint8; a row that is not finite has scale NaN."""
    finite = np.isfinite(x).all(axis=-1)
    clean = np.where(finite[..., None], x, F32(0))
    least = clean.min(axis=-1, initial=0)
    greatest = clean.max(axis=-1, initial=0)
    scale, zero_point = asymmetric(least, greatest)
    rows = clean.reshape(-1, x.shape[-1]) if x.size else clean.reshape(scale.size, x.shape[-1])
    q = quantize(rows, scale.reshape(-1), zero_point.reshape(-1), "uint8", 0).reshape(x.shape)
    return q, np.where(finite, scale, F32(np.nan)), zero_point


def dynamic_linear(
    x: NDArray[F32],
    w: Array,
    w_scale: ArrayLike,
    w_zero_point: ArrayLike = 0,
    bias: ArrayLike | None = None,
) -> NDArray[F32]:
    """Float in, float out, rows quantized on the fly; `w` codes of shape (N, K)."""
    q, scale, zero_point = quantize_rows(x)
    acc = accumulate(q, w.T, zero_point, w_zero_point)
    return float_output(acc, scale[..., None], w_scale, bias)


def integer_bias(bias: ArrayLike, x_scale: float, w_scale: ArrayLike) -> NDArray[np.int64]:
    """The bias at x_scale * w_scale."""
    steps = np.float64(F32(x_scale)) * np.asarray(w_scale, F32).astype(np.float64)
    return np.rint(np.asarray(bias, F32).astype(np.float64) / steps).astype(np.int64)


def multiplier(x_scale: float, w_scale: ArrayLike, y_scale: float) -> NDArray[F32]:
    """x_scale * w_scale / y_scale: computed in float64, rounded once."""
    steps = np.float64(F32(x_scale)) * np.asarray(w_scale, F32).astype(np.float64)
    return (steps / np.float64(F32(y_scale))).astype(F32)


def fma(a: Array, b: Array, c: Array) -> NDArray[F32]:
    """float32(a * b + c), rounded once.

    The product of two float32 is exact in float64. The sum is rounded to odd there: 53 bits are
    enough for the second rounding to be right then (Boldo and Melquiond, "Emulation of FMA and
    correctly rounded sums: proved algorithms using rounding to odd", 2008, theorem 2).
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = c.astype(np.float64)
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    bits = total.view(np.int64).copy()
    even = (bits & 1) == 0
    # Step one unit towards the exact sum where it was rounded away from it, then it is odd.
    towards = np.where((error > 0) == (total > 0), 1, -1)
    bits += np.where((error != 0) & even, towards, 0)
    return bits.view(np.float64).astype(F32)


def grouped_linear(
    x: NDArray[F32],
    w: Array,
    w_scale: NDArray[F32],
    w_zero_point: Array,
    group_size: int,
    bias: ArrayLike | None = None,
) -> NDArray[F32]:
    """Weights in groups; `w` codes (N, K), scales and zero points (N, G).

    Rows of x become symmetric int8; one fma for each group, ascending; then the scale of the row.
    """
    top = np.abs(x).max(axis=-1, initial=0)
    scale = np.maximum(top / F32(127), LEAST_SCALE).astype(F32)
    scale = np.where(top == 0, F32(1), scale)
    q = quantize(x, scale, np.zeros_like(scale, np.int32), "int8", 0)
    s = np.zeros((len(x), len(w)), F32)
    for g in range(w_scale.shape[1]):
        k = slice(g * group_size, (g + 1) * group_size)
        part = w[:, k].astype(np.int64) - w_zero_point[:, g, None]
        acc = (q[:, k].astype(np.int64) @ part.T).astype(F32)
        s = fma(acc, np.broadcast_to(w_scale[:, g], s.shape), s)
    y = s * scale[:, None]
    return y if bias is None else y + np.asarray(bias, F32)


def float_linear(x, w):
    """``x @ w.T`` as one chain of fused multiply-adds for each output, k ascending from +0."""
    rows = np.reshape(x, (-1, x.shape[-1])).astype(np.longdouble)
    sums = np.zeros((len(rows), len(w)), np.float32)
    for k in range(x.shape[-1]):
        # An extended product is exact and its sum rounds once more at worst: never seen in practice.
        sums = (rows[:, k, None] * w[None, :, k].astype(np.longdouble) + sums).astype(np.float32)
    return sums.reshape(*x.shape[:-1], len(w))


def to_layout(x: Array, layout: str) -> Array:
    """Channels-first images or signals in another layout, in C order."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if layout.endswith("C") else x


def from_layout(y: Array, layout: str) -> Array:
    """The inverse of `to_layout`."""
    return np.moveaxis(y, -1, 1) if layout.endswith("C") else y


def conv_sums(x, w, stride, padding, dilation, groups):
    """Convolution of centred NCHW codes, w (out, in / groups, h, w), exactly.

    Padding is (top, left, bottom, right).
    """
    n, _, h, width = x.shape
    out, group_in, kh, kw = w.shape
    top, left, bottom, right = padding
    padded = np.zeros((n, x.shape[1], h + top + bottom, width + left + right), np.int64)
    padded[:, :, top : top + h, left : left + width] = x
    oh = (padded.shape[2] - (kh - 1) * dilation[0] - 1) // stride[0] + 1
    ow = (padded.shape[3] - (kw - 1) * dilation[1] - 1) // stride[1] + 1
    y = np.zeros((n, out, oh, ow), np.int64)
    group_out = out // groups
    for g in range(groups):
        for i in range(kh):
            for j in range(kw):
                rows = slice(i * dilation[0], i * dilation[0] + (oh - 1) * stride[0] + 1, stride[0])
                cols = slice(j * dilation[1], j * dilation[1] + (ow - 1) * stride[1] + 1, stride[1])
                part = padded[:, g * group_in : (g + 1) * group_in, rows, cols]
                into = slice(g * group_out, (g + 1) * group_out)
                y[:, into] += np.einsum("nchw,oc->nohw", part, w[into, :, i, j].astype(np.int64))
    return y


def transposed_sums(x, w, stride, padding, dilation, groups, more):
    """Transposed convolution, w (in, out / groups, h, w), exactly."""
    n, channels, h, width = x.shape
    _, group_out, kh, kw = w.shape
    top, left, bottom, right = padding
    oh = (h - 1) * stride[0] + (kh - 1) * dilation[0] + 1 + more[0]
    ow = (width - 1) * stride[1] + (kw - 1) * dilation[1] + 1 + more[1]
    y = np.zeros((n, group_out * groups, oh, ow), np.int64)
    group_in = channels // groups
    for g in range(groups):
        source = slice(g * group_in, (g + 1) * group_in)
        for i in range(kh):
            for j in range(kw):
                rows = slice(i * dilation[0], i * dilation[0] + (h - 1) * stride[0] + 1, stride[0])
                cols = slice(
                    j * dilation[1], j * dilation[1] + (width - 1) * stride[1] + 1, stride[1]
                )
                y[:, g * group_out : (g + 1) * group_out, rows, cols] += np.einsum(
                    "nchw,co->nohw", x[:, source], w[source, :, i, j].astype(np.int64)
                )
    return y[:, :, top : max(oh - bottom, 0), left : max(ow - right, 0)]


def pool_windows(x, kernel, stride, padding, dilation=(1, 1), ceil_mode=False):
    """Greatest value and sum under each window of NCHW integers, and how many taps it has.

    Taps are counted inside the image, and inside the image or its padding. Raises ValueError where
    the window does not fit, or one has no pixel.
    """

    def axis(size, k, step, before, behind, d):
        reach = (k - 1) * d + 1
        room = size + before + behind - reach
        if room < 0:
            raise ValueError("the window does not fit")
        count = room // step + 1
        if ceil_mode and room % step and count * step < size + before:
            count += 1
        for o in range(count):
            taps = [o * step - before + i * d for i in range(k)]
            inside = [t for t in taps if 0 <= t < size]
            if not inside:
                raise ValueError("a window has no pixel")
            yield inside, sum(t < size + behind for t in taps)

    rows = list(axis(x.shape[2], kernel[0], stride[0], padding[0], padding[2], dilation[0]))
    columns = list(axis(x.shape[3], kernel[1], stride[1], padding[1], padding[3], dilation[1]))
    most, sums, inside, padded = (
        np.empty((*x.shape[:2], len(rows), len(columns)), np.int64) for _ in range(4)
    )
    for i, (row_taps, row_count) in enumerate(rows):
        for j, (column_taps, column_count) in enumerate(columns):
            window = x[:, :, row_taps][..., column_taps]
            most[..., i, j] = window.max(axis=(2, 3))
            sums[..., i, j] = window.sum(axis=(2, 3))
            inside[..., i, j] = len(row_taps) * len(column_taps)
            padded[..., i, j] = row_count * column_count
    return most, sums, inside, padded


def resize_coordinates(size: int, outputs: int, coordinates: str) -> list[Fraction]:
    """The input coordinate of each output along one axis, by the names of ONNX's Resize."""
    ratio = Fraction(size, outputs)
    ends = Fraction(size - 1, max(outputs - 1, 1)) if outputs > 1 else Fraction(0)
    half = Fraction(1, 2)
    return [
        {
            "half_pixel": (o + half) * ratio - half,
            "pytorch_half_pixel": (o + half) * ratio - half if outputs > 1 else Fraction(0),
            "asymmetric": o * ratio,
            "align_corners": o * ends,
            "tf_half_pixel_for_nn": (o + half) * ratio,
        }[coordinates]
        for o in range(outputs)
    ]


def resize_nearest(x: Array, sizes: tuple[int, int], coordinates: str, rounding: str) -> Array:
    """Nearest pixels of NCHW images."""
    for axis, outputs in ((2, sizes[0]), (3, sizes[1])):
        half = Fraction(1, 2)
        at = [
            {
                "round_prefer_floor": -((half - c) // 1),
                "round_prefer_ceil": (c + half) // 1,
                "floor": c // 1,
                "ceil": -(-c // 1),
            }[rounding]
            for c in resize_coordinates(x.shape[axis], outputs, coordinates)
        ]
        x = x.take(np.clip(np.array(at, np.int64), 0, x.shape[axis] - 1), axis)
    return x


def resize_linear(x: Array, sizes: tuple[int, int], coordinates: str) -> NDArray[F32]:
    """NCHW integers interpolated along the width, then the height; each step rounded to float32."""
    y = x.astype(F32)
    for axis, outputs in ((3, sizes[1]), (2, sizes[0])):
        last = x.shape[axis] - 1
        at = resize_coordinates(x.shape[axis], outputs, coordinates)
        low = np.array([min(max(c // 1, 0), last) for c in at], np.int64)
        # Beyond the first or last pixel there is nothing to go towards.
        t = np.array([F32(float(c - c // 1)) if 0 <= c < last else F32(0) for c in at], F32)
        t = t.reshape([-1 if i == axis else 1 for i in range(4)])
        a, b = y.take(low, axis), y.take(np.minimum(low + 1, last), axis)
        y = a + (b - a) * t
    return y
