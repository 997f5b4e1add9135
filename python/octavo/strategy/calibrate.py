"""Calibration: a model run over data while its values are observed."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.graph.executor import Step
from octavo.graph.model import Model
from octavo.strategy import progress as progress_
from octavo.strategy.dataset import as_dataset, feeds_of
from octavo.strategy.observers import METHODS, WITHOUT_HISTOGRAM, Observed
from octavo.strategy.statistics import Position, Statistics

Feeds = dict[str, NDArray[Any]]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while calibrating. `statistics` has what was gathered: the `resume` of a later call."""

    def __init__(self, statistics: Statistics) -> None:
        super().__init__(
            f"interrupted after {statistics.samples} samples; .statistics has what was gathered, "
            "calibrate(..., resume=it) goes on"
        )
        self.statistics = statistics


def observe(
    model: Model, feeds: Feeds, samples: int, batch: int, histogram: bool
) -> dict[str, Observed]:
    """Run one batch and return what was seen of each value."""
    seen: dict[str, Observed] = {}
    inputs = {value.name for value in model.inputs}
    static = model._executor._static  # shown the first time only: no data, and no two alike

    def look(name: str, value: Any) -> None:
        if not name or not isinstance(value, np.ndarray) or value.dtype != np.float32:
            return
        try:
            seen[name] = Observed.of(value, samples, histogram)
        except ValueError as error:
            if name in inputs or np.isnan(value).any():
                kind = "NaN" if np.isnan(value).any() else "infinity"
                what = "input" if name in inputs else "value"
                raise ValueError(
                    f"{what} {name!r} holds {kind} in batch {batch}, expected finite values"
                ) from error
            seen[name] = Observed(infinite=batch)

    def watch(step: Step, given: list[Any], made: list[Any]) -> None:
        if static.issuperset(step.outputs):
            return
        for name, value in zip(
            (*step.node.inputs, *step.node.implicit.values()), given, strict=False
        ):
            if name in inputs and name not in seen:
                look(name, value)
        for name, value in zip(step.node.outputs, made, strict=False):
            look(name, value)

    model.trace(feeds, watch)
    return seen


def calibrate(
    model: Model,
    data: Any,
    *,
    method: str = "minmax",
    percentile: float = 99.99,
    resume: Statistics | None = None,
    progress: Any = "auto",
) -> Statistics:
    """Run a model over data and return what was seen of its values."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    dataset = as_dataset(data, model)
    histogram = method not in WITHOUT_HISTOGRAM
    stats = resume
    start = Position() if resume is None else resume.position
    if start is None:
        raise ValueError(
            "resume was merged from several passes; expected that of an interrupted one"
        )
    position = Position()
    total = _count(dataset)
    with progress_.progress("calibrate", total, progress) as step:
        try:
            for x, _ in dataset.batches():
                feeds = feeds_of(model, x)
                samples = _samples(model, feeds)
                after = Position(position.batches + 1, _checksum(feeds, position.checksum))
                if after.batches <= start.batches:
                    if after.batches == start.batches and after != start:
                        raise ValueError("resume was gathered from other data")
                else:
                    seen = observe(model, feeds, samples, position.batches, histogram)
                    made = Statistics(seen, samples, method, percentile, after)
                    stats = made if stats is None else stats.then(made)
                position = after
                step(samples)
        except KeyboardInterrupt as error:
            if stats is None:
                raise
            raise Interrupted(stats) from error
    assert stats is not None  # a Dataset without samples is an error of its own
    return stats


def _count(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:
        return None


def _samples(model: Model, feeds: Feeds) -> int:
    """Return how many samples a batch has: axis 0 of the model's first input that has axes."""
    sizes = (np.shape(feeds[value.name]) for value in model.inputs)
    return next((size[0] for size in sizes if size), 1)


def _checksum(feeds: Feeds, before: int) -> int:
    for name in sorted(feeds):
        array = np.ascontiguousarray(feeds[name])
        content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
        before = zlib.crc32(
            content, zlib.crc32(f"{name}{array.dtype}{array.shape}".encode(), before)
        )
    return before
