"""The statistics that the tables rest on."""

import math

import bars
import pytest
import shapes
from rounds import Probe, geometric_mean, median_interval, ratio, time_rounds


def test_interval_of_20_values_holds_the_median_with_95_percent() -> None:
    low, high = median_interval(range(20))
    outside = sum(math.comb(20, i) for i in range(int(low) + 1)) / 2**19
    assert (low, high) == (5, 14)
    assert outside < 0.05 < outside + math.comb(20, 6) / 2**19


def test_ratio_is_the_median_of_the_rounds_not_the_ratio_of_medians() -> None:
    slow_second = [1.0] * 10 + [5.0] * 11  # both entrants suffer from it
    found = ratio([2 * s for s in slow_second], slow_second)
    assert (found.median, found.low, found.high) == (2, 2, 2)


def test_geometric_mean_of_reciprocals_is_one() -> None:
    assert geometric_mean([4, 0.25]) == pytest.approx(1)


def test_every_round_measures_every_entrant_once() -> None:
    probes = [Probe("a", lambda _: 10.0), Probe("b", lambda seconds: 1 / seconds)]
    times = time_rounds(probes, rounds=20, seconds=4, threads=1)
    assert times == {"a": [0.1] * 20, "b": [0.1] * 20}


def test_bar_names_the_worst_shape_and_falls_short() -> None:
    rows = [
        {"shape": shape, "over_peer": {"s32": {"median": median}}}
        for shape, median in (((256, 256, 256), 1.2), ((49, 512, 4608), 0.9))
    ]
    (bar,) = bars.worst(rows, "s32", 0.98, bars.median_of("over_peer", "s32"))
    assert (bar.where, bar.reached, bar.passed) == ("49x512x4608", 0.9, False)
    assert bars.worst(rows, "u8", 0.98, bars.median_of("over_peer", "u8")) == []


@pytest.mark.parametrize("text", ["", "4x4", "4x0x4", "4x-1x4", "axbxc"])
def test_shape_that_is_not_mxnxk_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected MxNxK"):
        shapes.parse(text)


def test_shape_is_read_as_it_is_printed() -> None:
    assert all(shapes.parse(shapes.name(shape)) == shape for shape in shapes.PRODUCTS)
