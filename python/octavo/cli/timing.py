"""Timing for the commands: interleaved samples."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from time import perf_counter

SAMPLE_SECONDS = 3e-4  # long for the clock, short beside the slices of a busy machine
LEAST_SAMPLES = 5


def _sample(function: Callable[[], object], calls: int) -> float:
    start = perf_counter()
    for _ in range(calls):
        function()
    return perf_counter() - start


def seconds_per_call(
    functions: Mapping[str, Callable[[], object]],
    seconds: float,
    summary: Callable[[list[float]], float] = statistics.median,
) -> dict[str, float]:
    """Time functions in turn, for about `seconds` in all; return the seconds a call of each.

    Samples alternate, so a machine that slows down slows all of them. Each sample repeats its
    function for at least `SAMPLE_SECONDS`; `summary` makes one figure of a function's samples.
    """
    calls: dict[str, int] = {}
    for name, function in functions.items():
        function()  # first touch: packing, page faults, threads
        count = 1
        while (elapsed := _sample(function, count)) < SAMPLE_SECONDS:
            count = max(count * 2, int(count * SAMPLE_SECONDS / max(elapsed, 1e-7)))
        calls[name] = count
    samples: dict[str, list[float]] = {name: [] for name in functions}
    end = perf_counter() + seconds
    while len(next(iter(samples.values()))) < LEAST_SAMPLES or perf_counter() < end:
        for name, function in functions.items():
            samples[name].append(_sample(function, calls[name]) / calls[name])
    return {name: summary(values) for name, values in samples.items()}
