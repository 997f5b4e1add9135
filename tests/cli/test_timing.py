"""The timer, on a clock that the timed functions turn themselves."""

import pytest

from octavo.cli import timing


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing, "perf_counter", clock)
    return clock


def test_median_is_per_call_whatever_the_number_of_calls_in_a_sample(clock: Clock) -> None:
    def fast() -> None:
        clock.now += 1e-5

    def slow() -> None:
        clock.now += 0.5

    found = timing.seconds_per_call({"fast": fast, "slow": slow}, 1.0)
    assert found == {"fast": pytest.approx(1e-5), "slow": pytest.approx(0.5)}


def test_median_ignores_one_slow_sample(clock: Clock) -> None:
    calls = iter(range(10**6))

    def function() -> None:
        clock.now += 100.0 if next(calls) == 4 else 1.0

    assert timing.seconds_per_call({"it": function}, 1.0) == {"it": 1.0}


def test_summary_may_be_the_best_sample(clock: Clock) -> None:
    calls = iter(range(10**6))

    def function() -> None:
        clock.now += 1.0 if next(calls) == 4 else 2.0

    assert timing.seconds_per_call({"it": function}, 1.0, min) == {"it": 1.0}


def test_samples_alternate_and_are_at_least_five(clock: Clock) -> None:
    order = ""

    def function(name: str) -> None:
        nonlocal order
        order += name
        clock.now += 1.0

    timing.seconds_per_call({"a": lambda: function("a"), "b": lambda: function("b")}, 1e-9)
    assert order.endswith("ab" * 5)
