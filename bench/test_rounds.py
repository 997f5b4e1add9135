"""The statistics that the tables rest on."""

import math

import bars
import numpy as np
import pytest
import shapes
from operands_conv import convolve
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
        {"shape": shape, "name": shapes.name(shape), "over_peer": {"s32": {"median": median}}}
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


@pytest.mark.parametrize("transposed", [False, True])
def test_convolve_is_the_sum_over_every_tap(transposed: bool) -> None:
    c = shapes.Convolution(
        4, 7, 9, 6, (3, 2), (2, 3), (1, 0), (2, 1), groups=2, transposed=transposed
    )
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 9, (c.h, c.w, c.c))
    w = rng.integers(-9, 9, (4, 3, 3, 2) if transposed else (6, 2, 3, 2))
    want = np.zeros((*c.out, c.o), int)
    for o, k, i, j in np.ndindex(c.o, c.c // c.groups, *c.kernel):
        group = o // (c.o // c.groups)
        channel = group * (c.c // c.groups) + k
        value = w[channel, o % 3, i, j] if transposed else w[o, k, i, j]
        for a, b in np.ndindex(*(x.shape[:2] if transposed else want.shape[:2])):
            row, column = 2 * a - 1 + 2 * i, 3 * b + j  # in the larger of the two
            if transposed and 0 <= row < want.shape[0] and 0 <= column < want.shape[1]:
                want[row, column, o] += x[a, b, channel] * value
            elif not transposed and 0 <= row < c.h and 0 <= column < c.w:
                want[a, b, o] += x[row, column, channel] * value
    assert np.abs(want).max() > 100
    assert np.array_equal(convolve(c, x, w)[0], want)


def test_list_has_every_kind_of_convolution_once() -> None:
    listed = shapes.convolutions()
    assert {c.kind for _, c in listed} == {
        "first", "dense", "depthwise", "grouped", "audio", "transposed"
    }  # fmt: skip
    assert len({c.name for _, c in listed}) == len(listed)
    resnet = [c for _, c in shapes.convolutions(["first", "basic", "resnet50"])]
    assert set(shapes.resnet50()) <= set(resnet)
    assert sum(c.macs for c in shapes.resnet50()) == pytest.approx(4.09e9, rel=0.01)
    assert sum(c.macs for c in shapes.mobilenet_v2()) == pytest.approx(0.300e9, rel=0.01)


def test_bars_of_convolutions_tell_classes_apart() -> None:
    def row(kind: str, over: float, **more: object) -> dict[str, object]:
        made = {"kind": kind, "name": kind, "source": "basic", "stride": 1, "pixels": 9}
        ratio = {"median": over}
        return made | {"over_peer": ratio, "over_float32": ratio, "macs": 2 * 10**7} | more

    rows = [row("dense", 1.0), row("dense", 1.2), row("depthwise", 1.9, stride=2)]
    found = {bar.what: bar for bar in bars.convolutions(rows, "avx512vnni", 1)}
    assert found["dense, basic: every shape over the best int8 peer"].passed
    mean = found["dense, basic: geometric mean over the best int8 peer"]
    assert mean.reached == pytest.approx(math.sqrt(1.2))
    assert found["depthwise, stride 2: every shape over the best int8 peer"].need == 1.5
    rows = [row("dense", 1.0, scaling={"median": 1.7})]
    assert [bar.passed for bar in bars.convolutions(rows, "avx512vnni", 2)] == [True, False]
