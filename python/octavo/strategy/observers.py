"""Observers: what is kept of a tensor's values while calibration runs, and the ranges it gives.

The state is made of integers, least and greatest values alone, so that merging is exact: in any order
and any grouping the result is the same, bit for bit. Three parts need a word.

**Histogram.** Values are counted by sign and by the upper 15 bits of their magnitude as a float32:
8 bits of exponent, 7 of mantissa, 128 bins an octave. The width of a bin is a power of two and its
edges are the same for all data, so nothing is ever counted anew, whatever comes later; relative to a
value a bin is never wider than 1/128. There are 65,280 bins at the very most, and a tensor keeps
those between its least and greatest magnitude that occurred: some 50 kB, however many samples.

**Sums.** Sums for means are kept in fixed point, in lanes of 32 bits that cover float32's whole range
(the long accumulator of Kulisch, "Computer Arithmetic and Validity", 2008): no rounding, no order.
What is added is the sum over one sample, in float64 and in one order.

**Moving average.** The usual one (Jacob et al. 2018, section 3.1) forgets by a factor a batch: its
result hangs on the order of the data and on how it was cut into batches. Here it is the average over
samples of each one's own least and greatest value, the limit of the usual one over data in random
order as the factor goes to 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo import _core
from octavo.array.affine import choose
from octavo.array.qparams import RANGES

Range = tuple[float, float]

# --- exact sums -----------------------------------------------------------------------------------

LANES = 12
_LANE_BITS = 32
# The sum of lane i is in units of 2^(32 i - 191): 2^-160 for the least exponent, 31 bits below it.
_LEAST_EXPONENT = 160


def exact_sums(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the sums of (k, C) values over k in fixed point, (12, C): of the upper 31 bits of each.

    Magnitudes must be below 2^160; those below 2^-160 count as 0. Sums of float32 are neither.
    """
    sums = np.zeros((LANES, values.shape[1]), np.int64)
    bits = np.ascontiguousarray(values).view(np.int64)
    # A value is wide * 2^(32 lane - 191); exponents of float64 are biased by 1023.
    shift = (bits >> 52 & 0x7FF) - 1022 + _LEAST_EXPONENT
    wide = (bits & 0xFFFFFFFFFFFFF | 1 << 52) >> 22
    wide[shift < 0] = 0
    shift[shift < 0] = 0
    wide <<= shift % _LANE_BITS
    np.negative(wide, out=wide, where=bits < 0)
    lane = shift // _LANE_BITS
    if values.size:
        for i in range(int(lane.min()), int(lane.max()) + 1):
            here = wide * (lane == i)
            sums[i] += (here & 0xFFFFFFFF).sum(0)
            sums[i + 1] += (here >> _LANE_BITS).sum(0)
    return sums


def from_exact(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what (12, C) sums of `exact_sums`, or sums of them, stand for: (C,) float64."""
    negative = _carried(sums)[-1] < 0
    lanes = _carried(np.where(negative, -sums, sums))
    total = np.zeros(sums.shape[1])
    for i, lane in enumerate(lanes):  # none is negative: nothing cancels
        total += np.ldexp(lane.astype(np.float64), _LANE_BITS * i - _LEAST_EXPONENT - 31)
    return np.where(negative, -total, total)


def _carried(sums: NDArray[np.int64]) -> NDArray[np.int64]:
    lanes = sums.copy()
    for i in range(LANES - 1):
        lanes[i + 1] += lanes[i] >> _LANE_BITS
        lanes[i] &= 0xFFFFFFFF
    return lanes


# --- what is kept ---------------------------------------------------------------------------------


_BLOCK = 1 << 20


class Histogram(NamedTuple):
    """Counts of values. `counts`, (2, k) int64: positive, then negative ones by magnitude.

    Column j holds those whose float32 has the upper 16 bits ``first + j``, sign aside; zeros are
    counted by themselves (and what is below 2^-133 with them).
    """

    zeros: int
    first: int
    counts: NDArray[np.int64]

    @staticmethod
    def of(x: NDArray[np.float32]) -> Histogram:
        """Count the values of a contiguous array."""
        upper = x.reshape(-1).view(np.uint16)[1::2]  # the upper half: all are little-endian here
        counts = np.zeros((2, 1 << 15), np.int64)
        for begin in range(0, upper.size, _BLOCK):  # NumPy takes 8 bytes a value meanwhile
            block = upper[begin : begin + _BLOCK]
            counts += np.bincount(block, minlength=1 << 16).reshape(2, -1)
        zeros = int(counts[:, 0].sum())
        counts[:, 0] = 0
        used = np.flatnonzero(counts.any(0))
        first, end = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        return Histogram(zeros, first, counts[:, first:end].copy())

    def __or__(self, other: object) -> Histogram:
        """Return the counts of both."""
        if not isinstance(other, Histogram):
            return NotImplemented
        filled = [each for each in (self, other) if each.counts.size]
        first = min((each.first for each in filled), default=0)
        end = max((each.first + each.counts.shape[1] for each in filled), default=0)
        counts = np.zeros((2, end - first), np.int64)
        for each in filled:
            begin = each.first - first
            counts[:, begin : begin + each.counts.shape[1]] += each.counts
        return Histogram(self.zeros + other.zeros, first, counts)


class Channels(NamedTuple):
    """Of each index along an axis: how many values, the least, the greatest, the sum (exact)."""

    size: int
    least: NDArray[np.float32]
    greatest: NDArray[np.float32]
    sums: NDArray[np.int64]

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean of each, (C,)."""
        return from_exact(self.sums) / self.size

    def __or__(self, other: object) -> Channels | None:
        """Return that of both; None where they have different lengths."""
        if not isinstance(other, Channels):
            return NotImplemented
        if len(self.least) != len(other.least):
            return None
        return Channels(
            self.size + other.size,
            np.minimum(self.least, other.least),
            np.maximum(self.greatest, other.greatest),
            self.sums + other.sums,
        )


class Observed(NamedTuple):
    """What is kept of one tensor.

    `ends` are the exact sums of each sample's least and greatest value. `channels` are those of axis
    1 and of axis -1: None where there is no such axis or its length varies. `infinite` is the first
    batch in which the tensor held an infinity, -1 if none: then nothing else is kept.
    """

    size: int = 0
    samples: int = 0
    least: float = 0.0
    greatest: float = 0.0
    ends: NDArray[np.int64] = np.zeros((LANES, 2), np.int64)
    histogram: Histogram | None = None
    channels: tuple[Channels | None, Channels | None] = (None, None)
    infinite: int = -1

    @staticmethod
    def of(x: NDArray[np.float32], samples: int, histogram: bool) -> Observed:
        """Observe one batch: an array of the values of so many samples, along axis 0.

        Where the length of axis 0 is no multiple of `samples`, the array counts as one sample.

        Raises
        ------
        ValueError
            A value is NaN or infinite.
        """
        if x.size == 0:
            return Observed()
        x = np.ascontiguousarray(x)
        rows = samples if x.ndim and samples > 0 and x.shape[0] % samples == 0 else 1
        least, greatest = _core.minmax(x.reshape(rows, -1), 0)
        return Observed(
            x.size,
            rows,
            float(least.min()) + 0.0,  # of -0 and +0, which are equal, +0
            float(greatest.max()) + 0.0,
            exact_sums(np.stack([least, greatest], 1).astype(np.float64)),
            Histogram.of(x) if histogram else None,
            _channels(x, rows),
        )

    def __or__(self, other: object) -> Observed:
        """Return what is known of both: the same in any order, bit for bit."""
        if not isinstance(other, Observed):
            return NotImplemented
        if self.infinite >= 0 or other.infinite >= 0:
            return Observed(infinite=min(e.infinite for e in (self, other) if e.infinite >= 0))
        if not self.size or not other.size:
            return self if self.size else other
        both = zip(self.channels, other.channels, strict=True)
        first, last = (None if a is None or b is None else a | b for a, b in both)
        counted = self.histogram is not None and other.histogram is not None
        return Observed(
            self.size + other.size,
            self.samples + other.samples,
            min(self.least, other.least),
            max(self.greatest, other.greatest),
            self.ends + other.ends,
            self.histogram | other.histogram if counted else None,  # type: ignore[operator]
            (first, last),
        )


def _channels(x: NDArray[np.float32], samples: int) -> tuple[Channels | None, Channels | None]:
    """Return the channels of axis 1 and of axis -1, which are the same in a matrix."""
    if x.ndim < 2:
        return None, None
    axes = (1, -1) if x.ndim > 2 else (-1,)
    sums: list[list[NDArray[np.float64]]] = [[] for _ in axes]
    # Each sample by itself: how sums are ordered must not hang on what else is in the batch.
    for part in x.reshape(samples, -1, *x.shape[1:]):
        wide = part.astype(np.float64)
        for axis, of_axis in zip(axes, sums, strict=True):
            of_axis.append(_channel_sums(wide, axis))
    found = []
    for axis, of_axis in zip(axes, sums, strict=True):
        least, greatest = _core.minmax(x, axis % x.ndim)
        ends = least + np.float32(0), greatest + np.float32(0)  # of -0 and +0, which are equal, +0
        found.append(Channels(x.size // x.shape[axis], *ends, exact_sums(np.stack(of_axis))))
    return found[0], found[-1]


def _channel_sums(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    rows = x.reshape(-1, x.shape[-1]) if axis == -1 else x.reshape(*x.shape[:2], -1).sum(2)
    return np.asarray(rows.sum(0))


# --- ranges ---------------------------------------------------------------------------------------


def clip_range(
    seen: Observed, method: str, dtype: str, symmetric: bool, percentile: float
) -> Range:
    """Return the range to quantize by, before it is widened to hold 0."""
    if not seen.size:
        return 0.0, 0.0
    if method == "minmax":
        return minmax(seen)
    if method == "moving_average":
        return moving_average(seen)
    if method == "percentile":
        return percentiles(seen, symmetric, percentile)
    return entropy(seen, dtype, symmetric) if method == "entropy" else mse(seen, dtype, symmetric)


METHODS = ("auto", "minmax", "moving_average", "percentile", "mse", "entropy")
WITHOUT_HISTOGRAM = ("minmax", "moving_average")


def minmax(seen: Observed) -> Range:
    """Return the whole range."""
    return seen.least, seen.greatest


def moving_average(seen: Observed) -> Range:
    """Return the mean of the samples' own ranges; the whole one where a sample is a single value."""
    if seen.samples == seen.size:
        return minmax(seen)
    low, high = from_exact(seen.ends) / seen.samples
    return float(np.float32(low)), float(np.float32(high))


def percentiles(seen: Observed, symmetric: bool, percentile: float) -> Range:
    """Return the range between the percentiles of both tails, or up to that of the magnitude.

    As `numpy.percentile`, with the values of a bin spread evenly over it: off by a bin at most.
    """
    if symmetric:
        high = _quantile(_bins(seen, folded=True), percentile / 100)
        return -high, high
    bins = _bins(seen)
    return _quantile(bins, 1 - percentile / 100), _quantile(bins, percentile / 100)


def mse(seen: Observed, dtype: str, symmetric: bool) -> Range:
    """Return the range of least mean squared error of the quantized values.

    Both ends are brought in together, then each alone, by steps of 2^(1/2) to 2^(1/64). The
    error of a range is that of its codes, rounding and clipping both (Sung et al. 2015),
    with the values of a bin spread evenly over it and the integral over each bin in closed form.
    """
    bins = _bins(seen, joined=2)
    low, high = _widened(seen, symmetric)

    def best(lows: NDArray[np.float64], highs: NDArray[np.float64]) -> Range:
        lows, highs = np.broadcast_arrays(lows, highs)
        at = int(np.argmin(_squared_error(bins, lows, highs, dtype, symmetric)))
        return float(lows[at]), float(highs[at])

    shrink = 2.0 ** (-np.arange(21) / 2)
    least, greatest = best(low * shrink, high * shrink)
    if not symmetric:
        least, greatest = best(low * shrink, np.array(greatest))
        least, greatest = best(np.array(least), high * shrink)
    for step in (4, 16, 64):
        near = 2.0 ** (np.arange(-2, 3) / step)
        one, other = (near, near) if symmetric else np.meshgrid(near, near)
        lows, highs = least * one.reshape(-1), greatest * other.reshape(-1)
        least, greatest = best(np.maximum(lows, low), np.minimum(highs, high))
    return least, greatest


def squared_error(seen: Observed, ranges: list[Range]) -> NDArray[np.float64]:
    """Return the sum of squared errors of all values in uint8, for each of the ranges."""
    lows, highs = np.array(ranges).T
    return _squared_error(_bins(seen), lows, highs, "uint8", False)


def entropy(seen: Observed, dtype: str, symmetric: bool) -> Range:
    """Return the range whose codes keep most of what the distribution tells.

    That of least Kullback-Leibler divergence from the distribution, what is outside moved to its
    ends, to that of the codes, each spread evenly over its step (Migacz, "8-bit Inference with
    TensorRT", GTC 2017; there in bins of 1/2048 of the whole range and over those of them that hold
    values, which tells nothing of ranges far too wide). Both ends are brought in together, by steps
    of 2^(1/8). Exact zeros, which every range has a code for, are left out.
    """
    bins = _bins(seen, cut=False)
    some = (bins.low != 0) | (bins.high != 0)
    bins = _Bins(*(each[some] for each in bins))
    if not bins.counts.size:
        return minmax(seen)
    low, high = _widened(seen, symmetric)
    shrink = 2.0 ** (-np.arange(57) / 8)
    lows, highs = low * shrink, high * shrink
    scales, zero_points = _codes(lows, highs, dtype, symmetric)
    edges = np.arange(RANGES[dtype][0], RANGES[dtype][1] + 2) - 0.5
    found = [
        _divergence(bins, (edges - zero_point) * scale)
        for scale, zero_point in zip(scales, zero_points, strict=True)
    ]
    at = int(np.argmin(found))
    return float(lows[at]), float(highs[at])


def _divergence(bins: _Bins, edges: NDArray[np.float64]) -> float:
    """Return the divergence from the counts to those of codes whose steps lie between `edges`."""
    middle = (bins.low + bins.high) / 2
    first, end = np.searchsorted(middle, [edges[0], edges[-1]])
    if first == end:
        return np.inf
    before = np.concatenate([[0], np.cumsum(bins.counts)])
    inside = slice(first, end)
    low, high = bins.low[inside], bins.high[inside]
    knots = np.stack([low, high], 1).reshape(-1)
    heights = np.stack([before[first:end], before[first + 1 : end + 1]], 1).reshape(-1)
    coded = np.interp(edges, knots, heights)  # up to each edge, by codes
    q = np.diff(np.interp(knots, edges, coded))[::2]
    p = bins.counts[inside].astype(np.float64)
    p[0] += before[first]
    p[-1] += before[-1] - before[end]
    q = np.maximum(q / (coded[-1] - coded[0]), 1e-9)
    p /= p.sum()
    return float(np.sum(p * np.log(p / q)))


def counts_between(seen: Observed, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many values lie between each two of the ascending edges, as the bins have it."""
    bins = _bins(seen)
    reached = np.concatenate([[0], np.cumsum(bins.counts)])
    knots = np.stack([bins.low, bins.high], 1).reshape(-1)
    heights = np.stack([reached[:-1], reached[1:]], 1).reshape(-1)
    # A bin that is one value counts where it begins; the last edge takes in what lies on it.
    up_to = np.interp(np.nextafter(edges, -np.inf), knots, heights, 0.0, reached[-1])
    up_to[-1] = np.interp(edges[-1], knots, heights, 0.0, reached[-1])
    return np.diff(up_to)


class _Bins(NamedTuple):
    """Ascending intervals that hold values, and how many."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    counts: NDArray[np.int64]


def _bins(seen: Observed, folded: bool = False, joined: int = 0, cut: bool = True) -> _Bins:
    """Return a histogram as intervals, of magnitudes if `folded`; 2^joined of its bins are one.

    The first and the last end at the extremes if `cut`, else they are whole.
    """
    if seen.histogram is None:
        raise ValueError("no histogram was gathered by this method")
    zeros, first, counts = seen.histogram
    before, after = first % (1 << joined), -(first + counts.shape[1]) % (1 << joined)
    counts = np.pad(counts, ((0, 0), (before, after))).reshape(2, -1, 1 << joined).sum(2)
    keys = (first >> joined) + np.arange(counts.shape[1] + 1, dtype=np.uint32)
    bits = (keys << np.uint32(16 + joined)).astype(np.uint32)
    edges = bits.view(np.float32).astype(np.float64)
    least, greatest = seen.least, seen.greatest
    positive, negative = counts
    if folded:
        least, greatest = 0.0, max(-least, greatest)
        positive, negative = positive + negative, np.zeros_like(negative)
    low = np.concatenate([-edges[:0:-1], [0.0], edges[:-1]])
    high = np.concatenate([-edges[-2::-1], [0.0], edges[1:]])
    held = np.concatenate([negative[::-1], [zeros], positive])
    some = held > 0
    low, high = low[some], high[some]
    if cut:
        low, high = np.clip(low, least, greatest), np.clip(high, least, greatest)
    return _Bins(low, high, held[some])


def _quantile(bins: _Bins, q: float) -> float:
    reached = np.cumsum(bins.counts)
    place = q * (reached[-1] - 1)
    if place <= 0 or place >= reached[-1] - 1:
        return float(bins.low[0] if place <= 0 else bins.high[-1])
    at = int(np.searchsorted(reached, place, side="right"))
    count = int(bins.counts[at])
    inside = (place - (reached[at] - count)) / (count - 1) if count > 1 else 0.5
    low, high = bins.low[at], bins.high[at]
    return float(np.float32(low + min(inside, 1.0) * (high - low)))


def _widened(seen: Observed, symmetric: bool) -> Range:
    low, high = min(seen.least, 0.0), max(seen.greatest, 0.0)
    return (-max(-low, high), max(-low, high)) if symmetric else (low, high)


def _codes(
    lows: NDArray[np.float64], highs: NDArray[np.float64], dtype: str, symmetric: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scale and zero point of each range."""
    ends = lows.astype(np.float32), highs.astype(np.float32)
    scale, zero_point = choose(*ends, dtype, symmetric)
    return scale.astype(np.float64), zero_point.astype(np.float64)


def _squared_error(
    bins: _Bins,
    lows: NDArray[np.float64],
    highs: NDArray[np.float64],
    dtype: str,
    symmetric: bool,
) -> NDArray[np.float64]:
    """Return the sum of squared errors of all values, for each of the ranges."""
    scale, zero_point = (each[:, None] for each in _codes(lows, highs, dtype, symmetric))
    least, greatest = (each - zero_point for each in RANGES[dtype])
    low, high = bins.low / scale, bins.high / scale
    width = high - low
    point = width <= 1e-6 * np.maximum(np.abs(low), np.abs(high))
    area = _error_area(high, least, greatest) - _error_area(low, least, greatest)
    at_point = (low - np.rint(np.clip(low, least, greatest))) ** 2
    mean = np.where(point, at_point, area / np.where(point, 1.0, width))
    return np.asarray((mean * bins.counts).sum(1) * scale[:, 0] ** 2)


def _error_area(
    t: NDArray[np.float64], least: NDArray[np.float64], greatest: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the integral from 0 to t of the squared distance to the next code; steps are 1 wide."""
    inside = np.clip(t, least, greatest)
    code = np.rint(inside)
    rounded, clipped = inside - code, t - inside
    return code / 12 + (rounded * rounded * rounded + clipped * clipped * clipped) / 3
