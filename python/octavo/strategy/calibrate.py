"""Calibration: a model run over data while its values are observed."""

from __future__ import annotations

import contextlib
import itertools
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo import _core, runtime
from octavo.array.affine import choose
from octavo.graph.executor import Step
from octavo.graph.ir import Subgraph
from octavo.graph.kernel import REFERENCE
from octavo.graph.model import Model
from octavo.strategy import observers
from octavo.strategy.dataset import Dataset, as_dataset, feeds_of
from octavo.strategy.observers import METHODS, WITHOUT_HISTOGRAM, Observed, Range
from octavo.strategy.progress import How
from octavo.strategy.progress import check as check_progress
from octavo.strategy.progress import progress as show
from octavo.strategy.statistics import Position, Statistics

Feeds = dict[str, NDArray[Any]]
# Applies a function to items, as the built-in `map` does.
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]

# What the second pass of "auto" looks at: so many samples, spread over the data.
TRIAL_SAMPLES = 32
# Work is handed to workers in parts of so many batches or bytes, whichever is reached first.
_PART_BATCHES, _PART_BYTES = 8, 1 << 22
# Parts handed to a map-like callable at a time: memory stays bounded.
_PARTS = 32


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while calibrating. `statistics` is what a later call goes on from, None if nothing."""

    def __init__(self, statistics: Statistics | None) -> None:
        super().__init__("calibration was interrupted; resume=error.statistics goes on from there")
        self.statistics = statistics


def calibrate(
    model: Model,
    data: Any,
    *,
    method: str = "auto",
    percentile: float = 99.99,
    workers: int | Map = 1,
    resume: Statistics | None = None,
    names: Collection[str] | None = None,
    progress: How = "auto",
) -> Statistics:
    """Run a model over data and return what was seen of its values.

    Parameters
    ----------
    model : Model
        A float32 model. Its float32 values are observed, inputs among them: not what follows from
        shapes alone, nor what is inside of control flow.
    data : Dataset, or what it takes
        Some hundred samples like those the model will see. Each is read once, but for "auto".
    method : {"auto", "minmax", "moving_average", "percentile", "mse", "entropy"}
        How ranges are chosen. "auto" tries for each value the ranges of the others in a second pass
        over at most 32 samples and takes that of least error at the outputs of the operators that
        read it; it needs data that can be read twice.
    percentile : float, default 99.99
        For the method of that name: above 50, at most 100.
    workers : int or callable, default 1
        How many processes share the work (-1: one for each core), or a function like `map`:
        ``executor.map`` of `concurrent.futures`, or ``client.get_executor().map`` of Dask. The
        result is the same, bit for bit. Scripts that ask for processes need the usual
        ``if __name__ == "__main__":``.
    resume : Statistics, optional
        What an interrupted call has gathered of the same data; batches that are in it are skipped.
    names : collection of str, optional
        The values that "auto" tries ranges for; all if not given. Others get those of "mse".
    progress : "auto", None or callable
        A bar on a terminal, nothing, or a function ``(done, total, label)``.

    Raises
    ------
    ValueError
        A value that is NaN, or an input that is infinite, which are named with the batch; an
        unknown method; an iterator for "auto"; data that do not fit the model, or not `resume`.
    KeyboardInterrupt
        On Ctrl-C: its attribute `statistics` is what was gathered, for `resume`.

    Examples
    --------
    >>> import numpy as np
    >>> import octavo as oc
    >>> from octavo.graph import Graph, Model, Node, Value
    >>> x, y = Value("x", "float32", ("n", 2)), Value("y", "float32", ("n", 2))
    >>> model = Model(Graph("net", [x], [y], [Node("relu", "Relu", ["x"], ["y"])], {}, {}))
    >>> stats = oc.calibrate(model, np.array([[-1.0, 2.0], [3.0, -5.0]]), method="minmax")
    >>> stats.range("x"), stats.range("y"), stats.samples
    ((-5.0, 3.0), (0.0, 3.0), 2)
    >>> stats.qparams("y")
    QParams(0.011764706, 0, 'uint8')
    """
    if not isinstance(model, Model):
        raise TypeError(f"model is {type(model).__name__}, expected a Model, as octavo.load gives")
    dataset = as_dataset(data, model)
    _check(dataset, method, percentile, resume)
    check_progress(progress)
    total = _length(dataset)
    function = _Observe(model, method not in WITHOUT_HISTOGRAM).run
    stats = resume
    try:
        with _mapping(workers, function) as mapped, show("calibrate", total, progress) as step:
            position = Position()
            start = position if resume is None else resume.position
            new = _unseen(model, dataset, start, step)
            for part, seen in mapped(_parts(new, workers)):
                samples, position = sum(batch.samples for batch in part), part[-1].position
                made = Statistics(seen, samples, method, percentile, position)
                # One assignment: an interruption finds a part counted with its position, or neither.
                stats = made if stats is None else stats.then(made)
                step(samples)
        assert stats is not None  # data without samples are an error of their own
        if method == "auto":
            stats = _choose(model, dataset, stats, names, workers, progress)
    except KeyboardInterrupt as error:
        raise Interrupted(stats) from error
    return stats


def _check(dataset: Dataset, method: str, percentile: float, resume: Statistics | None) -> None:
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile is {percentile}, expected above 50, at most 100")
    if method == "auto" and not dataset.repeatable:
        raise ValueError(
            "the data is an iterator, which gives its samples once, and method='auto' reads them "
            "twice: give a list, an array or a function that makes an iterator, or another method"
        )
    if resume is None:
        return
    if not isinstance(resume, Statistics):
        raise TypeError(f"resume is {type(resume).__name__}, expected Statistics")
    if (resume.method, resume.percentile) != (method, percentile):
        raise ValueError(
            f"resume is of method {resume.method!r}, percentile {resume.percentile}; "
            f"expected {method!r}, {percentile}"
        )
    if resume.position is None:
        raise ValueError("resume was merged from several passes, expected what one has gathered")


def _length(dataset: Dataset) -> int | None:
    try:
        return len(dataset)
    except TypeError:
        return None


# --- batches --------------------------------------------------------------------------------------


class _Batch(NamedTuple):
    """What a worker is given. `position` is that after it."""

    feeds: Feeds
    samples: int
    position: Position

    @property
    def number(self) -> int:
        return self.position.batches - 1


def _batches(model: Model, dataset: Dataset) -> Iterator[_Batch]:
    position = Position()
    for x, _ in dataset.batches():
        feeds = feeds_of(model, x)
        position = Position(position.batches + 1, _checksum(feeds, position.checksum))
        # Samples lie along axis 0 of the first input that has axes.
        sizes = (np.shape(feeds[value.name]) for value in model.inputs)
        yield _Batch(feeds, next((size[0] for size in sizes if size), 1), position)


def _checksum(feeds: Feeds, before: int) -> int:
    for name in sorted(feeds):
        array = np.asarray(feeds[name])
        content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
        head = f"{name} {array.dtype.str} {array.shape}".encode()
        before = zlib.crc32(content, zlib.crc32(head, before))
    return before


def _unseen(
    model: Model, dataset: Dataset, start: Position | None, step: Callable[[int], None]
) -> Iterator[_Batch]:
    """Yield the batches after `start`, and check that those before are the ones it has seen."""
    last = Position()
    for batch in _batches(model, dataset):
        last = batch.position
        if start is None or last.batches > start.batches:
            yield batch
        elif last.batches == start.batches and last != start:
            raise ValueError(f"the first {last.batches} batches are not those resume has seen")
        else:
            step(batch.samples)
    if start is not None and last.batches < start.batches:
        raise ValueError(f"resume has seen {start.batches} batches, the data has {last.batches}")


def _parts(batches: Iterator[_Batch], workers: int | Map) -> Iterator[list[_Batch]]:
    """Put batches together: one by one where there is one process, so that an interruption loses one."""
    part: list[_Batch] = []
    held = 0
    for batch in batches:
        part.append(batch)
        held += sum(np.asarray(each).nbytes for each in batch.feeds.values())
        if workers == 1 or len(part) == _PART_BATCHES or held >= _PART_BYTES:
            yield part
            part, held = [], 0
    if part:
        yield part


# --- workers --------------------------------------------------------------------------------------

_Function = Callable[[list[_Batch]], Any]
_Parts = Iterator[list[_Batch]]
_Mapped = Callable[[_Parts], Iterator[tuple[list[_Batch], Any]]]


@contextlib.contextmanager
def _mapping(workers: int | Map, function: _Function) -> Iterator[_Mapped]:
    """Give what applies a function to parts, each beside its result, in order."""
    if callable(workers):
        yield lambda parts: _in_windows(workers, function, parts, _PARTS)
        return
    if isinstance(workers, bool) or not hasattr(workers, "__index__"):
        raise TypeError(f"workers is {workers!r}, expected an int or a function like map")
    count = _core.usable_cores() if workers == -1 else workers
    if count < 1:
        raise ValueError(f"workers is {workers}, expected 1 or more, or -1 for all cores")
    if count == 1:
        yield lambda parts: _in_windows(map, function, parts, 1)
        return
    import concurrent.futures
    import multiprocessing

    # Not fork: threads of the caller's would be missing in the child.
    kind = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    threads = max(1, runtime.get_num_threads() // count)
    pool = concurrent.futures.ProcessPoolExecutor(
        count, multiprocessing.get_context(kind), _begin, (function, threads)
    )
    try:
        yield lambda parts: _in_windows(pool.map, _work, parts, 2 * count)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_windows(
    mapped: Map, function: Callable[[Any], Any], parts: _Parts, size: int
) -> Iterator[tuple[list[_Batch], Any]]:
    """Map so many parts at a time: executors read all that they are given before they begin."""
    while window := list(itertools.islice(parts, size)):
        yield from zip(window, mapped(function, window), strict=True)


# What a process of our own does: the model comes to it once, not with each part.
_function: Callable[[list[_Batch]], Any] | None = None


def _begin(function: Callable[[list[_Batch]], Any], threads: int) -> None:
    import signal

    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to answer
    runtime.set_num_threads(threads)
    _function = function


def _work(part: list[_Batch]) -> Any:
    assert _function is not None
    return _function(part)


# --- the first pass: what is seen -----------------------------------------------------------------


class _Observe(NamedTuple):
    """Runs batches and returns what was seen of each value."""

    model: Model
    histogram: bool

    def run(self, part: list[_Batch]) -> dict[str, Observed]:
        seen: dict[str, Observed] = {}
        for batch in part:
            for name, observed in self._batch(batch).items():
                seen[name] = seen[name] | observed if name in seen else observed
        return seen

    def _batch(self, batch: _Batch) -> dict[str, Observed]:
        seen: dict[str, Observed] = {}
        inputs = {value.name for value in self.model.inputs}

        def look(name: str, value: Any) -> None:
            if not _is_float(value):
                return
            try:
                seen[name] = Observed.of(value, batch.samples, self.histogram)
            except ValueError as error:
                nan = np.isnan(value).any()
                if nan or name in inputs:
                    raise ValueError(
                        f"{'input' if name in inputs else 'value'} {name!r} holds "
                        f"{'NaN' if nan else 'infinity'} in batch {batch.number}, "
                        "expected finite values"
                    ) from error
                # A mask of the model's own making, say: refused if its parameters are asked for.
                seen[name] = Observed(infinite=batch.number)

        def watch(step: Step, given: list[Any], made: list[Any]) -> None:
            for name, value in zip(_read(step), given, strict=True):
                if name in inputs and name not in seen:
                    look(name, value)
            for name, value in zip(step.node.outputs, made, strict=False):
                if name:
                    look(name, value)

        self.model.trace(batch.feeds, watch)
        return seen


def _read(step: Step) -> list[str]:
    return [*step.node.inputs, *step.node.implicit.values()]


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float32


# --- the second pass: which range is best ---------------------------------------------------------

# The candidates: each method, other percentiles, and the whole range brought in.
_PERCENTILES = (99.9, 99.99, 99.999)
_SHRUNK = (0.9, 0.75)
# Candidates whose ends differ by less than this part of the whole range are one.
_ALIKE = 0.01
# Operators that only move values: an error there says nothing of what it does further on.
_MOVES = {
    *("Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad"),
    *("Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
}
# Those that move every value once: what is best for the output is for the input.
_FORMS = {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
_TOO_LARGE = 1e45  # squared errors beyond are as bad


def candidates(seen: Observed) -> list[tuple[str, Range]]:
    """Return the ranges that "auto" tries for a value, each with the name of where it comes from."""
    found: list[tuple[str, Range]] = []
    for method in ("minmax", "moving_average", "mse", "entropy"):
        found.append((method, observers.clip_range(seen, method, "uint8", False, 100.0)))
    for percentile in _PERCENTILES:
        ends = observers.clip_range(seen, "percentile", "uint8", False, percentile)
        found.append((f"percentile {percentile}", ends))
    low, high = min(seen.least, 0.0), max(seen.greatest, 0.0)
    found += [(f"{part} of minmax", (low * part, high * part)) for part in _SHRUNK]
    apart = _ALIKE * (high - low)
    kept: list[tuple[str, Range]] = []
    for name, (least, greatest) in found:
        ends = min(least, 0.0), max(greatest, 0.0)
        if all(max(abs(ends[0] - a), abs(ends[1] - b)) >= apart for _, (a, b) in kept):
            kept.append((name, ends))
    return kept


class _Try(NamedTuple):
    """Runs each operator on what it read, quantized by each candidate.

    For each value and each operator that reads it, sums (exact): the squared errors of its outputs,
    one a candidate, then those of the value itself, and last the outputs' squares.
    """

    model: Model
    ranges: dict[str, list[Range]]

    def run(self, part: list[_Batch]) -> dict[tuple[str, str], NDArray[np.int64]]:
        sums: dict[tuple[str, str], NDArray[np.int64]] = {}

        def watch(step: Step, given: list[Any], made: list[Any]) -> None:
            outputs = [each for each in made if _is_float(each)]
            if not outputs or not _computes(step):
                return
            names = _read(step)
            for name in dict.fromkeys(names):
                if name in self.ranges:
                    errors = zip(*self._errors(step, name, names, given, made), strict=True)
                    power = sum(map(_squares, outputs))
                    values = np.array([*itertools.chain(*errors), power])
                    values = np.minimum(np.nan_to_num(values, nan=np.inf), _TOO_LARGE)
                    key = name, step.node.name
                    sums[key] = sums.get(key, 0) + observers.exact_sums(values[None])

        for batch in part:
            self.model.trace(batch.feeds, watch)
        return sums

    def _errors(
        self, step: Step, name: str, names: list[str], given: list[Any], made: list[Any]
    ) -> Iterator[tuple[float, float]]:
        """Yield for each candidate the squared errors of the outputs, and of the value itself."""
        x = given[names.index(name)]
        lows, highs = np.array(self.ranges[name], np.float32).T
        for scale, zero_point in zip(*choose(lows, highs, "uint8", False), strict=True):
            codes = _core.quantize(x, scale, zero_point, "uint8", None)
            coded = _core.dequantize(codes, scale, zero_point, None)
            inputs = [coded if each == name else y for each, y in zip(names, given, strict=True)]
            result = step.kernel.run(*inputs)
            results = result if isinstance(result, tuple) else (result,)
            errors = (
                _squares(np.subtract(a, b))
                for a, b in zip(results, made, strict=False)
                if _is_float(b)
            )
            yield sum(errors), _squares(x - coded)


def _squares(x: NDArray[np.float32]) -> float:
    return float(np.square(x, dtype=np.float64).sum())  # not by BLAS, whose order of sums varies


def _computes(step: Step) -> bool:
    inside = any(isinstance(each, Subgraph) for each in step.node.attributes.values())
    return not inside and step.kernel.name != REFERENCE and step.node.op not in _MOVES


def _choose(
    model: Model,
    dataset: Dataset,
    stats: Statistics,
    names: Collection[str] | None,
    workers: int | Map,
    progress: How,
) -> Statistics:
    """Return `stats` with the best range of each value, measured over some samples."""
    wanted = (name for name in stats if names is None or name in names)
    tried = {name: candidates(stats.observed(name)) for name in wanted if stats.finite(name)}
    ranges = {name: [ends for _, ends in each] for name, each in tried.items() if len(each) > 1}
    assert stats.position is not None
    batches = stats.position.batches
    share, stride = max(1, TRIAL_SAMPLES // batches), -(-batches // TRIAL_SAMPLES)
    some = (
        _first(model, batch, share)
        for batch in _batches(model, dataset)
        if batch.number % stride == 0
    )
    sums: dict[tuple[str, str], NDArray[np.int64]] = {}
    total = -(-batches // stride)
    with (
        _mapping(workers, _Try(model, ranges).run) as mapped,
        show("choose", total, progress) as step,
    ):
        for part, found in mapped(_parts(some, workers)):
            for key, each in found.items():
                sums[key] = sums.get(key, 0) + each
            step(len(part))
    errors: dict[str, NDArray[np.float64]] = {}
    for (name, _), each in sums.items():
        *squares, power = observers.from_exact(each)
        out, own = np.reshape(squares, (2, -1))
        # What the histogram has of the error in all samples, passed on as those tried passed on
        # theirs: few of them have a value so large that it is clipped. Relative to the output.
        overall = observers.squared_error(stats.observed(name), ranges[name])
        passed_on = np.divide(out, own, out=np.zeros_like(out), where=own > 0)
        errors[name] = errors.get(name, 0.0) + overall * passed_on / (power or 1.0)
    choices = {name: tried[name][int(np.argmin(each))] for name, each in errors.items()}
    for node in reversed(model.graph.nodes):  # the same values in another form
        if node.op in _FORMS and node.outputs[0] in choices and node.inputs[0] in tried:
            choices.setdefault(node.inputs[0], choices[node.outputs[0]])
    return stats.with_choices(choices)


def _first(model: Model, batch: _Batch, count: int) -> _Batch:
    """Return the first samples of a batch, where the model takes batches of any size."""
    free = all(
        v.shape is None or not v.shape or not isinstance(v.shape[0], int) for v in model.inputs
    )
    if not free or any(np.shape(each)[:1] != (batch.samples,) for each in batch.feeds.values()):
        return batch
    feeds = {name: each[:count] for name, each in batch.feeds.items()}
    return _Batch(feeds, min(count, batch.samples), batch.position)
