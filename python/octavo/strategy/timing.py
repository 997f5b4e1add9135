"""Several calls timed against each other."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping
from time import perf_counter, process_time, sleep
from typing import NamedTuple

import numpy as np

# One turn of a call: long beside the clock, short beside the slices of a busy machine.
_TURN_SECONDS = 2e-3
_LEAST_TURNS = 5
# Where pools of threads have to be awake first, and the turn is to be long beside that.
_WAKE_SECONDS, _AWAKE_SECONDS = 3e-3, 2e-2
# Calls from here on fill the caches themselves before it shows.
_LONG_SECONDS = 0.05


class Timing(NamedTuple):
    """Seconds a call: median and 99th percentile of so many."""

    median: float
    p99: float
    calls: int


def interleaved(
    calls: Mapping[str, Callable[[], object]], seconds: float, *, pools: bool = False
) -> dict[str, Timing]:
    """Time calls in turns, in random order, for about `seconds` in all.

    A machine that slows down slows all of them, and none always follows the same other. In its turn
    each is called once untimed, if that is short, so that its data is in the caches again; then for
    some milliseconds, or once. Garbage is collected before and not during.

    `pools` says that calls have thread pools of their own, which go on spinning on the cores after a
    call: then each turn waits until they sleep.

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
                if pools:
                    _settle()
                _spend(calls[name], (_WAKE_SECONDS if pools else 1e-9) if warm[name] else 0)
                taken[name] += _spend(calls[name], _AWAKE_SECONDS if pools else _TURN_SECONDS)
            turns += 1
    finally:
        if collecting:
            gc.enable()
    return {
        name: Timing(float(np.median(each)), float(np.percentile(each, 99)), len(each))
        for name, each in taken.items()
    }


def _spend(call: Callable[[], object], seconds: float) -> list[float]:
    """Call for so many seconds; return those of each call."""
    taken, spent = list[float](), 0.0
    while spent < seconds:
        taken.append(_once(call))
        spent += taken[-1]
    return taken


def _settle() -> None:
    """Wait until the process uses no core any more, 0.3 s at most.

    The system brings the time that running threads have used up to date at its ticks alone, some
    milliseconds apart.
    """
    for _ in range(25):
        before = process_time()
        sleep(0.012)
        if process_time() - before < 2e-3:
            return


def _once(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    return max(perf_counter() - began, 1e-9)
