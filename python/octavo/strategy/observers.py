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

Range = tuple[float, float]

# --- exact sums -----------------------------------------------------------------------------------

LANES = 12
_LANE_BITS = 32
# The sum of lane i is in units of 2^(32 i - 191): 2^-160 for the least exponent, 31 bits below it.
_LEAST_EXPONENT = 160
_LARGEST = 2.0**_LEAST_EXPONENT


def exact_sums(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the sums of (k, C) values over k in fixed point, (12, C): exact to 31 bits of each.

    Magnitudes above 2^160 count as that, those below 2^-160 as 0: sums of float32 are neither.
    """
    sums = np.zeros((LANES, values.shape[1]), np.int64)
    fraction, exponent = np.frexp(np.clip(values, -_LARGEST, _LARGEST))
    shift = exponent.astype(np.int64) + _LEAST_EXPONENT
    fraction[shift < 0] = 0
    shift = np.clip(shift, 0, 2 * _LEAST_EXPONENT)
    wide = np.rint(np.ldexp(fraction, _LANE_BITS - 1)).astype(np.int64) << shift % _LANE_BITS
    lane = shift // _LANE_BITS
    if values.size:
        for i in range(int(lane.min()), int(lane.max()) + 1):
            here = np.where(lane == i, wide, 0)
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
        counts = np.bincount(upper, minlength=1 << 16).reshape(2, -1)
        zeros = int(counts[:, 0].sum())
        counts[:, 0] = 0
        used = np.flatnonzero(counts.any(0))
        first, end = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
        return Histogram(zeros, first, counts[:, first:end].astype(np.int64))

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
            float(least.min()),
            float(greatest.max()),
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
    # Each sample by itself: how sums are ordered must not hang on what else is in the batch.
    wide = [part.astype(np.float64) for part in x.reshape(samples, -1, *x.shape[1:])]
    found = []
    for axis in axes:
        sums = exact_sums(np.stack([_channel_sums(part, axis) for part in wide]))
        ends = _core.minmax(x, axis % x.ndim)
        found.append(Channels(x.size // x.shape[axis], *ends, sums))
    return found[0], found[-1]


def _channel_sums(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    rows = x.reshape(-1, x.shape[-1]) if axis == -1 else x.reshape(*x.shape[:2], -1).sum(2)
    return np.asarray(rows.sum(0))


# --- ranges ---------------------------------------------------------------------------------------


def minmax(seen: Observed, _dtype: str, _symmetric: bool) -> Range:
    """Return the whole range."""
    return seen.least, seen.greatest


def moving_average(seen: Observed, dtype: str, symmetric: bool) -> Range:
    """Return the mean of the samples' own ranges; the whole one where a sample is a single value."""
    if seen.samples == seen.size:
        return minmax(seen, dtype, symmetric)
    low, high = from_exact(seen.ends) / seen.samples
    return float(np.float32(low)), float(np.float32(high))


METHODS = {"minmax": minmax, "moving_average": moving_average}
WITHOUT_HISTOGRAM = frozenset({"minmax", "moving_average"})
