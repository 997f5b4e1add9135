"""Several calls timed against each other."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import NamedTuple

import numpy as np

# One turn of a call: long beside the clock, short beside the slices of a busy machine.
_TURN_SECONDS = 2e-3
_LEAST_TURNS = 5
# Calls from here on fill the caches themselves before it shows.
_LONG_SECONDS = 0.05


class Timing(NamedTuple):
    """Seconds a call: median and 99th percentile of so many."""

    median: float
    p99: float
    calls: int


def interleaved(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Timing]:
    """Time calls in turns, in random order, for about `seconds` in all.

    A machine that slows down slows all of them, and none always follows the same other. In its turn
    each is called once untimed, if that is short, so that its data is in the caches again; then for
    some milliseconds, or once. Garbage is collected before and not during.

    Examples
    --------
    >>> timings = interleaved({"a": lambda: sum(range(100)), "b": lambda: None}, 0.02)
    >>> all(0 < each.median <= each.p99 for each in timings.values())
    True
    """
    for call in calls.values():
        call()  # plans, packs, touches memory
    warm = {name: _once(call) < _LONG_SECONDS for name, call in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    order, shuffle = list(calls), random.Random(0).shuffle
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        turns, end = 0, perf_counter() + seconds
        while turns < _LEAST_TURNS or perf_counter() < end:
            shuffle(order)
            for name in order:
                if warm[name]:
                    calls[name]()
                spent = 0.0
                while spent < _TURN_SECONDS:
                    taken[name].append(_once(calls[name]))
                    spent += taken[name][-1]
            turns += 1
    finally:
        if collecting:
            gc.enable()
    return {
        name: Timing(float(np.median(each)), float(np.percentile(each, 99)), len(each))
        for name, each in taken.items()
    }


def _once(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    return max(perf_counter() - began, 1e-9)
