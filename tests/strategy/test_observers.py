"""What observers keep, that it merges exactly, and the ranges that follow from it."""

import functools
import itertools
import math
import operator

import numpy as np
import pytest
from conftest import IN_QEMU
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from octavo.array.affine import choose
from octavo.array.qparams import RANGES
from octavo.strategy import observers
from octavo.strategy.observers import Observed, clip_range, exact_sums, from_exact
from octavo.strategy.statistics import Statistics

RANGE_METHODS = ("minmax", "moving_average", "percentile", "mse", "entropy")
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
TENSORS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 5)),
    elements=FINITE,
)


def whole(seen):
    """All that is kept, in a form that compares bit for bit."""
    return Statistics({"x": seen}, 0, "mse", 99.99, None)


def real_error(x, ends, dtype, symmetric):
    """The mean squared error of `x` quantized by a range, computed value by value."""
    low, high = np.float32([ends[0]]), np.float32([ends[1]])
    scale, zero_point = (each.astype(float) for each in choose(low, high, dtype, symmetric))
    least, greatest = (each - zero_point for each in RANGES[dtype])
    codes = np.clip(np.rint(x.astype(float) / scale), least, greatest)
    return np.mean((x - codes * scale) ** 2)


# --- exact sums -----------------------------------------------------------------------------------


@given(st.lists(FINITE, max_size=40))
def test_exact_sums_are_the_true_sums(values):
    column = np.array(values, float).reshape(-1, 1)
    total = from_exact(exact_sums(column))[0]
    size = math.fsum(map(abs, values))
    assert abs(total - math.fsum(values)) <= size * 2.0**-29


@given(st.lists(FINITE, min_size=1, max_size=20), st.randoms())
def test_exact_sums_do_not_know_order_or_grouping(values, chance):
    column = np.array(values, float).reshape(-1, 1)
    one_by_one = [exact_sums(value[None]) for value in column]
    chance.shuffle(one_by_one)
    assert np.array_equal(exact_sums(column), sum(one_by_one))


def test_sums_that_cancel_leave_what_is_small():
    column = np.array([[2.0**127], [2.0**-100], [-(2.0**127)], [-3.0], [3.0]])
    assert from_exact(exact_sums(column)) == 2.0**-100
    assert from_exact(exact_sums(-column)) == -(2.0**-100)


# --- merging --------------------------------------------------------------------------------------


@given(TENSORS, st.data())
def test_any_cut_merged_in_any_order_is_the_whole(x, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, len(x)))) | {0, len(x)})
    parts = [Observed.of(x[a:b], b - a, histogram=True) for a, b in itertools.pairwise(cuts)]
    shuffled = data.draw(st.permutations(parts))
    merged = functools.reduce(operator.or_, shuffled)
    assert whole(merged) == whole(Observed.of(x, len(x), histogram=True))


@given(TENSORS, TENSORS, TENSORS)
def test_merging_is_associative_also_where_shapes_differ(x, y, z):
    a, b, c = (Observed.of(each, len(each), histogram=True) for each in (x, y, z))
    assert whole((a | b) | c) == whole(a | (b | c)) == whole((c | a) | b)


def test_what_differs_is_seen_to_differ():
    x = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    seen = Observed.of(x, 2, histogram=True)
    swapped = x.copy()
    swapped[0, 0, 0], swapped[0, 0, 1] = x[0, 0, 1], x[0, 0, 0]
    assert whole(seen) != whole(Observed.of(swapped, 2, histogram=True))  # another axis -1
    assert whole(seen) != whole(Observed.of(x, 1, histogram=True))  # other samples
    assert whole(seen) != whole(Observed.of(x, 2, histogram=False))


def test_an_empty_batch_changes_nothing():
    x = np.ones((2, 3), np.float32)
    empty = Observed.of(np.zeros((0, 3), np.float32), 0, histogram=True)
    seen = Observed.of(x, 2, histogram=True)
    assert whole(seen | empty) == whole(empty | seen) == whole(seen)


def test_infinity_anywhere_is_remembered_with_its_first_batch():
    seen = Observed.of(np.ones((2, 3), np.float32), 2, histogram=True)
    bad, worse = Observed(infinite=7), Observed(infinite=3)
    assert whole(seen | bad | worse) == whole(worse | seen | bad) == whole(worse)


# --- what is kept ---------------------------------------------------------------------------------


def test_the_histogram_counts_every_value_in_its_bin():
    x = np.float32([0.0, -0.0, 1.0, 1.0, 1.0078125, 1.015, -1.0, -3.5, 2.0**-140])
    zeros, first, counts = Observed.of(x, 1, histogram=True).histogram
    assert zeros == 3  # what is below 2^-133 with them
    bins = {first + j: tuple(column) for j, column in enumerate(counts.T.tolist()) if any(column)}
    one = 0x3F80
    assert bins == {one: (2, 1), one + 1: (2, 0), 0x4060: (0, 1)}


def test_large_arrays_are_counted_in_blocks(monkeypatch):
    x = np.random.default_rng(10).standard_normal((3, 1000)).astype(np.float32)
    at_once = Observed.of(x, 3, histogram=True)
    monkeypatch.setattr(observers, "_BLOCK", 77)
    assert whole(Observed.of(x, 3, histogram=True)) == whole(at_once)


def test_no_tensor_needs_more_than_all_bins():
    bits = np.random.default_rng(0).integers(0, 2**32, 1 << 18, np.uint32)
    x = bits.view(np.float32)
    seen = Observed.of(x[np.isfinite(x)], 1, histogram=True)
    assert seen.histogram.counts.shape == (2, 0x7F80 - 1)  # and the zeros
    assert seen.histogram.counts.sum() + seen.histogram.zeros == seen.size


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 4), (6, 3, 4, 5)])
def test_channels_have_their_ranges_and_means(shape):
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    seen = Observed.of(x, 6, histogram=False)
    for axis, channels in zip((1, -1), seen.channels, strict=True):
        rows = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
        assert np.array_equal(channels.least, rows.min(1))
        assert np.array_equal(channels.greatest, rows.max(1))
        assert np.allclose(channels.mean, rows.mean(1, dtype=float), rtol=0, atol=1e-9)


def test_an_axis_of_varying_length_has_no_channels():
    a, b = (Observed.of(np.ones((2, n, 4), np.float32), 2, histogram=False) for n in (3, 5))
    first, last = (a | b).channels
    assert first is None
    assert np.array_equal(last.mean, np.ones(4))
    back = (a | b) | a  # it does not come back
    assert back.channels[0] is None


def test_arrays_in_any_order_of_memory_are_alike():
    x = np.random.default_rng(2).standard_normal((4, 5, 6)).astype(np.float32)
    views = np.asfortranarray(x), x[:, ::-1][:, ::-1]
    for view in views:
        assert whole(Observed.of(view, 4, histogram=True)) == whole(
            Observed.of(x, 4, histogram=True)
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    x = np.ones((3, 5), np.float32)
    x[2, 4] = bad
    with pytest.raises(ValueError, match="finite"):
        Observed.of(x, 3, histogram=True)


# --- ranges ---------------------------------------------------------------------------------------


def observed(x):
    return Observed.of(np.asarray(x, np.float32), len(x), histogram=True)


@pytest.mark.parametrize("method", RANGE_METHODS)
@pytest.mark.parametrize(
    "x",
    [
        np.zeros((2, 3)),
        np.full((2, 3), 5.0),
        np.full((2, 3), -5.0),
        np.full((2, 3), 2.0**-149),
        np.array([[-3e38, 3e38], [1e-30, -1e-30]]),
        np.array([[1.5]]),
    ],
)
@pytest.mark.parametrize(("dtype", "symmetric"), [("uint8", False), ("int8", True), ("int4", True)])
def test_extreme_tensors_have_finite_ranges_within_what_was_seen(method, x, dtype, symmetric):
    seen = observed(x)
    low, high = clip_range(seen, method, dtype, symmetric, 99.99)
    reach = max(abs(seen.least), abs(seen.greatest)) if symmetric else 0.0
    assert min(seen.least, 0, -reach) <= low <= high <= max(seen.greatest, 0, reach)


def test_moving_average_is_the_mean_of_each_samples_range():
    x = np.random.default_rng(3).standard_normal((50, 7, 3)).astype(np.float32)
    low, high = clip_range(observed(x), "moving_average", "uint8", False, 0)
    rows = x.reshape(50, -1)
    assert np.isclose(low, rows.min(1).mean(dtype=float), rtol=1e-6)
    assert np.isclose(high, rows.max(1).mean(dtype=float), rtol=1e-6)


def test_moving_average_of_single_values_is_their_range():
    assert clip_range(observed([[1.0], [-4.0], [9.0]]), "moving_average", "uint8", False, 0) == (
        -4,
        9,
    )


@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32)),
    st.sampled_from([50.1, 75.0, 99.0, 99.99, 100.0]),
)
def test_percentiles_are_numpys_but_for_a_bin(x, percentile):
    seen = observed(x[None])
    low, high = clip_range(seen, "percentile", "uint8", False, percentile)
    # NumPy goes from one value to the next in a line: a range lies between its neighbours.
    for got, q in ((low, 100 - percentile), (high, percentile)):
        below, above = (float(np.percentile(x, q, method=method)) for method in ("lower", "higher"))
        slack = max(abs(below), abs(above)) / 128 + 2.0**-133
        assert below - slack <= got <= above + slack
    if percentile == 100:
        assert np.allclose((low, high), (seen.least, seen.greatest), rtol=0, atol=2.0**-133)


def test_the_percentile_of_the_magnitude_where_codes_are_symmetric():
    x = np.random.default_rng(4).standard_normal((10, 5000)).astype(np.float32) - 1
    low, high = clip_range(observed(x), "percentile", "int8", True, 99.0)
    assert low == -high
    assert abs(high / np.percentile(abs(x), 99) - 1) < 0.005


DISTRIBUTIONS = {
    "normal": lambda rng: rng.standard_normal((20, 4000)),
    "relu": lambda rng: np.maximum(rng.standard_normal((20, 4000)), 0),
    "shifted": lambda rng: rng.standard_normal((20, 4000)) * 0.1 + 3,
    "laplace": lambda rng: rng.laplace(size=(20, 4000)),
    "heavy": lambda rng: rng.standard_t(2, (20, 4000)),
    "clipped": lambda rng: np.clip(6 * rng.standard_normal((20, 4000)), 0, 6),
}
if IN_QEMU:
    DISTRIBUTIONS = {"laplace": DISTRIBUTIONS["laplace"]}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(
    ("dtype", "symmetric"), [("uint8", False), ("int8", True), ("uint4", False)]
)
def test_mse_has_less_error_than_every_other_method(name, dtype, symmetric):
    x = DISTRIBUTIONS[name](np.random.default_rng(5)).astype(np.float32)
    seen = observed(x)
    errors = {
        method: real_error(x, clip_range(seen, method, dtype, symmetric, 99.99), dtype, symmetric)
        for method in RANGE_METHODS
    }
    least = errors.pop("mse")
    assert least <= 1.01 * min(errors.values())
    # Nor does a search over many more ranges find much less.
    low, high = clip_range(seen, "mse", dtype, symmetric, 0)
    near = (real_error(x, (low * a, high * b), dtype, symmetric) for a in NEAR for b in NEAR)
    assert least <= 1.03 * min(near)


NEAR = (0.8, 0.9, 0.97, 1.0, 1.03, 1.1, 1.25)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_error_that_mse_weighs_is_the_real_one(name):
    x = DISTRIBUTIONS[name](np.random.default_rng(6)).astype(np.float32)
    seen = observed(x)
    for part in (1.0, 0.5, 0.1):
        ends = min(seen.least, 0) * part, max(seen.greatest, 0) * part
        args = np.array([ends[0]]), np.array([ends[1]]), "uint8", False
        weighed = observers._squared_error(observers._bins(seen), *args)[0] / x.size
        assert np.isclose(weighed, real_error(x, ends, "uint8", False), rtol=0.02)


def test_mse_finds_the_step_that_max_has_for_the_normal_distribution():
    # J. Max, "Quantizing for Minimum Distortion", 1960, table II: 16 levels, step 0.3352.
    x = np.random.default_rng(7).standard_normal((50, 10_000)).astype(np.float32)
    low, high = clip_range(observed(x), "mse", "uint4", False, 0)
    assert np.isclose((high - low) / 15, 0.3352, rtol=0.05)


def test_entropy_gives_up_an_outlier_and_nothing_else():
    rng = np.random.default_rng(8)
    x = rng.uniform(0, 1, (20, 4000)).astype(np.float32)
    low, high = clip_range(observed(x), "entropy", "uint8", False, 0)
    assert (low, high) == (0.0, x.max())
    x[3, 3] = 1000
    low, high = clip_range(observed(x), "entropy", "uint8", False, 0)
    assert 0.9 <= high <= 16


def test_entropy_does_not_count_zeros():
    x = np.random.default_rng(9).laplace(size=(20, 4000)).astype(np.float32)
    sparse = np.concatenate([x, np.zeros_like(x)], 1)
    for dtype in ("uint8", "uint4"):
        found = [clip_range(observed(each), "entropy", dtype, False, 0) for each in (x, sparse)]
        assert found[0] == found[1]


def test_counts_between_edges_that_bins_share_are_numpys():
    x = np.concatenate([np.random.default_rng(11).standard_normal(5000) * 3, np.zeros(7), [4.0]])
    edges = np.array([-16.0, -4.0, -2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 4.0, 16.0])
    counted = observers.counts_between(observed(x[None]), edges)
    assert np.allclose(counted, np.histogram(x.astype(np.float32), edges)[0])


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_a_range_needs_the_histogram_that_its_method_gathers(method):
    seen = Observed.of(np.ones((2, 2), np.float32), 2, histogram=False)
    with pytest.raises(ValueError, match="no histogram"):
        clip_range(seen, method, "uint8", False, 99.9)
