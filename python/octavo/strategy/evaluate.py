"""Before and after: what a model answers, how long it takes, how large it is, beside others."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from operator import length_hint
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeGuard

import numpy as np

from octavo import runtime
from octavo.strategy import report
from octavo.strategy.dataset import X, as_dataset, feeds_of, samples_in
from octavo.strategy.metrics import Metric, Outputs, as_metric
from octavo.strategy.progress import How, check, progress
from octavo.strategy.timing import interleaved

if TYPE_CHECKING:
    from octavo.graph.model import Model

Callee: TypeAlias = "Model | Callable[[Any], Any]"

_KIND, _VERSION = "evaluation", 1
# How long each model is timed; slow ones take longer.
_SECONDS = 0.7


class EvaluationRow(NamedTuple):
    """One model: its metric, the seconds of a call (median, 99th percentile), the bytes of its weights.

    `nbytes` is None where nobody knows.
    """

    name: str
    value: float
    median: float
    p99: float
    nbytes: int | None


class Evaluation(NamedTuple):
    """Models side by side, the reference first.

    `batch` is the number of samples in a call that is timed, `samples` of those that the metric saw.
    """

    rows: tuple[EvaluationRow, ...]
    metric: str
    greater_is_better: bool
    samples: int
    batch: int
    threads: int
    isa: str

    def __getitem__(self, name: Any) -> Any:
        """Return the row of that name; indices give fields, as those of any tuple."""
        if not isinstance(name, str):
            return tuple.__getitem__(self, name)
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} is none of {', '.join(repr(row.name) for row in self.rows)}")

    def cells(self) -> tuple[tuple[str, ...], list[tuple[str, ...]], str]:
        """Return the headers, the rows and the note that it prints."""
        several = len(self.rows) > 1
        headers = ("model", self.metric, "ms", "p99 ms", *(("faster",) if several else ()), "MB")
        lines = []
        for row in self.rows:
            faster = f"{self.rows[0].median / row.median:.2f}x"
            lines.append(
                (
                    row.name,
                    f"{row.value:.4f}" if abs(row.value) < 10 else f"{row.value:.2f}",
                    f"{row.median * 1e3:.3f}",
                    f"{row.p99 * 1e3:.3f}",
                    *((faster,) if several else ()),
                    "-" if row.nbytes is None else f"{row.nbytes / 1e6:.2f}",
                )
            )
        better = "greater" if self.greater_is_better else "less"
        note = (
            f"{_count(self.samples, 'sample')}; {better} {self.metric} is better; a call is "
            f"{_count(self.batch, 'sample')}, {_count(self.threads, 'thread')}, {self.isa}"
        )
        return headers, lines, note

    def __str__(self) -> str:
        headers, rows, note = self.cells()
        return f"{report.table(headers, rows)}\n{note}"

    def _repr_html_(self) -> str:
        return report.html(*self.cells())

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain Python, the rows as dicts."""
        return self._asdict() | {"rows": [row._asdict() for row in self.rows]}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the figures as JSON."""
        report.write_json(path, _KIND, _VERSION, self.to_dict())

    def plot(self, ax: Any = None) -> Any:
        """Draw the metric over the milliseconds of a call; return the axes.

        Parameters
        ----------
        ax : matplotlib axes, optional
            Where to draw; new ones if not given.

        Raises
        ------
        ImportError
            matplotlib is not installed (the extra "plot").
        """
        ax = report.axes(ax)
        shown = [row for row in self.rows if math.isfinite(row.value)]
        ax.plot([row.median * 1e3 for row in shown], [row.value for row in shown], "o")
        for row in shown:
            size = "" if row.nbytes is None else f", {row.nbytes / 1e6:.2f} MB"
            ax.annotate(f" {row.name}{size}", (row.median * 1e3, row.value))
        ax.set_xlabel(f"ms a call of {_count(self.batch, 'sample')}")
        ax.set_ylabel(self.metric)
        ax.set_xlim(0, 1.4 * max((row.median * 1e3 for row in shown), default=1.0))
        if not self.greater_is_better:
            ax.invert_yaxis()  # what is better is above
        return ax

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Evaluation:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            Another file.
        """
        facts = report.read_json(path, _KIND, _VERSION)
        try:
            rows = [{name: row[name] for name in EvaluationRow._fields} for row in facts["rows"]]
            made = [
                EvaluationRow(
                    **row | {name: float(row[name]) for name in ("value", "median", "p99")}
                )
                for row in rows
            ]
            return cls(tuple(made), **{name: facts[name] for name in cls._fields[1:]})
        except (KeyError, TypeError) as error:
            raise ValueError(f"{os.fspath(path)!r} lacks {error}") from error


def _count(number: int, of: str) -> str:
    return f"{number} {of}{'' if number == 1 else 's'}"


def evaluate(
    models: Mapping[str, Callee] | Callee,
    data: Any,
    metric: str | Metric | Callable[[Any, Any], float] = "agreement",
    *,
    threads: int | None = None,
    progress: How = "auto",
) -> Evaluation:
    """Return the metric, the time a call and the size of models, side by side.

    One pass over the data serves all models. Then all are timed on its first batch, in turns, so
    that whatever else the machine does touches each of them.

    Parameters
    ----------
    models : dict of models by name, or one model
        The first is the reference that "sqnr", "cosine" and "agreement" compare with. Instead of a
        `Model` a callable may stand, which is given a batch as the data has it (an array, or a dict
        by input name) and returns an array, or several as a tuple, list or dict.
    data : Dataset, or what `Dataset` takes
        With labels, where the metric needs them.
    metric : str, Metric or callable, default "agreement"
        "sqnr", "cosine", "agreement", "top1", a `Metric`, or a function ``fn(y_true, y_pred)``.
    threads : int, optional
        Threads for Models; those that apply already if not given.
    progress : "auto", None or callable (done, total, label)
        Samples done.

    Returns
    -------
    Evaluation
        Prints as a table; rows are found by name: ``evaluation["int8"].value``.

    Raises
    ------
    ValueError
        No models; data without labels, or without samples; names or shapes that a model does not
        take; outputs that the metric cannot compare.
    TypeError
        What is no model.

    Examples
    --------
    >>> import numpy as np
    >>> import octavo as oc
    >>> w = np.random.default_rng(0).normal(size=(10, 64)).astype(np.float32)
    >>> layers = {name: oc.Linear.from_float(w, precision=name) for name in ("float32", "int8")}
    >>> x = np.random.default_rng(1).normal(size=(100, 64)).astype(np.float32)
    >>> evaluation = oc.evaluate(layers, x, metric="sqnr")
    >>> evaluation["float32"].value
    inf
    >>> 35 < evaluation["int8"].value < 50
    True
    """
    named = _named(models)
    measure = as_metric(metric)
    check(progress)
    first = next((model for model in named.values() if _is_model(model)), None)
    dataset = as_dataset(data, first)
    if measure.against == "labels" and dataset.labelled is False:
        raise _no_labels(measure)
    with runtime.threads(runtime.get_num_threads() if threads is None else threads):
        values, samples, batch = _score(named, dataset, measure, progress)
        calls = {name: _call(model, batch) for name, model in named.items()}
        used = runtime.get_num_threads()
        # Callables may be other runtimes.
        foreign = used > 1 and len(calls) > 1 and not all(map(_is_model, named.values()))
        timings = interleaved(calls, _SECONDS * len(calls), pools=foreign)
    rows = [
        EvaluationRow(name, values[name], timings[name].median, timings[name].p99, _nbytes(model))
        for name, model in named.items()
    ]
    return Evaluation(
        tuple(rows),
        measure.name,
        measure.greater_is_better,
        samples,
        samples_in(batch),
        used,
        runtime.isa(),
    )


def _named(models: Any) -> dict[str, Any]:
    if _is_model(models):
        named = {models.graph.name or "model": models}
    elif isinstance(models, Mapping):
        named = {str(name): model for name, model in models.items()}
    else:
        named = {getattr(models, "__name__", type(models).__name__): models}
    if not named:
        raise ValueError("models is empty, expected models by name, the reference first")
    for name, model in named.items():
        if not callable(model):
            raise TypeError(
                f"model {name!r} is {type(model).__name__}, expected a Model or callable"
            )
    return named


def _is_model(model: Any) -> TypeGuard[Model]:
    from octavo.graph.model import Model

    return isinstance(model, Model)


def _no_labels(metric: Metric) -> ValueError:
    return ValueError(
        f"metric {metric.name!r} compares with labels, and the data has none: Dataset(x, y)"
    )


def _score(
    models: Mapping[str, Any], data: Any, metric: Metric, how: How
) -> tuple[dict[str, float], int, X]:
    """Return the metric of each model, the number of samples, and the first batch."""
    scores = {name: metric.start() for name in models}
    samples, first = 0, None
    with progress("evaluate", length_hint(data) or None, how) as step:
        for x, labels in data.batches():
            if first is None:
                first = x
            truth: Any = labels if metric.against == "labels" else None
            if metric.against == "labels" and labels is None:
                raise _no_labels(metric)
            for name, model in models.items():
                outputs = _outputs(_call(model, x)())
                if metric.against == "reference" and truth is None:
                    truth = outputs
                scores[name].update(outputs, truth)
            samples += samples_in(x)
            step(samples_in(x))
    assert first is not None  # batches() gives one at least
    return {name: score.value() for name, score in scores.items()}, samples, first


def _call(model: Any, x: X) -> Callable[[], Any]:
    """Return a call of the model on a batch."""
    if not _is_model(model):
        return lambda: model(x)
    feeds = feeds_of(model, x)
    return lambda: model.run(feeds)


def _outputs(given: Any) -> Outputs:
    """Return what a callable gave, by name."""
    if isinstance(given, Mapping):
        return given
    several = given if isinstance(given, tuple | list) else [given]
    return {str(i): np.asarray(each) for i, each in enumerate(several)}


def _nbytes(model: Any) -> int | None:
    nbytes = getattr(model, "nbytes", None)
    return int(nbytes) if isinstance(nbytes, int | np.integer) else None
