"""Timing of several calls against each other: interleaved rounds in random order, medians.

In every round each entrant is called a few times untimed (the caches hold its operands again),
then in batches whose median is the round's figure. Batches are short beside the slices of a busy
machine's scheduler: most of them pass undisturbed, and the median is one of these. Two entrants are
compared by the median of their ratios round by round, so that a slow second touches both.
"""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import repeat
from typing import Any

BATCHES = 3  # at least, unless one call takes an entrant's whole share
BATCH_SECONDS = 3e-4
WARM_SECONDS = 2e-4
WARM_THREADS_SECONDS = 3e-3  # until a pool that slept is awake, and its core's caches are filled


@dataclass(frozen=True)
class Entrant:
    """One way to do a row's work."""

    name: str
    kind: str
    library: str
    call: Callable[[], object]
    result: Callable[[], Any]  # calls once and gives the answer as an ndarray
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    answer: str = ""  # which of the operands' answers it gives, if not that of its kind


@dataclass(frozen=True)
class Probe:
    """A ceiling of this core, measured in the same rounds: units per second."""

    name: str
    measure: Callable[[float], float]


@dataclass(frozen=True)
class Ratio:
    """Median of the ratios of the rounds, and the 95 % interval of that median."""

    median: float
    low: float
    high: float


def batch_seconds(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in repeat(None, calls):
        call()
    return (time.perf_counter() - start) / calls


def settle() -> None:
    """Wait until no pool of a former entrant spins on a core any more (0.3 s at most).

    OpenBLAS's spins for 0.1 s. The time that running threads have used is brought up to date at
    the scheduler's ticks alone, 4 ms apart: shorter waits see nothing.
    """
    for _ in range(25):
        before = time.process_time()
        time.sleep(0.012)
        if time.process_time() - before < 2e-3:
            return


def call_seconds(entrant: Entrant) -> float:
    """A first estimate, from warm calls."""
    with entrant.context():
        entrant.call()
        calls, spent = 1, batch_seconds(entrant.call, 1)
        while calls * spent < 1e-3:
            calls *= 4
            spent = batch_seconds(entrant.call, calls)
    return spent


def time_rounds(
    entrants: Sequence[Entrant | Probe], *, rounds: int, seconds: float, threads: int
) -> dict[str, list[float]]:
    """Seconds a call (a probe: seconds a unit) of every entrant in every round.

    seconds is shared by all; an entrant slower than its share is called once a round.
    """
    share = seconds / (rounds * max(1, len(entrants)))
    estimate = {e.name: call_seconds(e) for e in entrants if isinstance(e, Entrant)}
    times: dict[str, list[float]] = {e.name: [] for e in entrants}
    warm = min(WARM_SECONDS, share) if threads == 1 else WARM_THREADS_SECONDS
    order, shuffle = list(entrants), random.Random(0).shuffle
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            shuffle(order)
            for entrant in order:
                if threads > 1:
                    settle()
                if isinstance(entrant, Probe):
                    times[entrant.name].append(1 / entrant.measure(share))
                    continue
                once = estimate[entrant.name]
                calls = max(1, round(min(BATCH_SECONDS, share / BATCHES) / once))
                batches = max(1, round(share / (calls * once)))
                with entrant.context():
                    batch_seconds(entrant.call, max(1, round(warm / once)))
                    spent = [batch_seconds(entrant.call, calls) for _ in range(batches)]
                times[entrant.name].append(statistics.median(spent))
    finally:
        gc.enable()
    return times


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """The order statistics that hold the median of the source with 95 % (binomial, no model)."""
    ordered, n = sorted(values), len(values)
    outside, rank = 0.0, 0
    while rank < n // 2 and outside + math.comb(n, rank) / 2**n <= 0.025:
        outside += math.comb(n, rank) / 2**n
        rank += 1
    rank = max(0, rank - 1)
    return ordered[rank], ordered[n - 1 - rank]


def ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """How many times the first takes what the second takes, round by round."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return Ratio(statistics.median(ratios), *median_interval(ratios))


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))
