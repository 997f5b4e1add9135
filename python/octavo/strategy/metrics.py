"""Metrics: one figure for a model's answers, gathered batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# The outputs of a model for a batch, by name; the first is what a model of one output gives.
Outputs = Mapping[str, Any]
Takes = Literal["predictions", "classes", "outputs"]
_TAKES = ("predictions", "classes", "outputs")


class Score(Protocol):
    """A metric on its way through the data."""

    def update(self, outputs: Outputs, truth: Any) -> None:
        """Take a batch in; `truth` is its labels, or the reference's outputs."""

    def value(self) -> float:
        """Return the metric of all batches so far."""


class Metric:
    """How good a model's answers are, in one number.

    Parameters
    ----------
    fn : callable
        ``fn(y_true, y_pred) -> float``, the order of scikit-learn's metrics, called once with the
        labels and the predictions of all samples: arrays with the samples along axis 0, or lists of
        one array a sample where their shapes differ.
    greater_is_better : bool, default True
        False for errors and losses.
    takes : {"predictions", "classes", "outputs"}, default "predictions"
        What y_pred is: the model's (first) output as it is; the index of the greatest value along
        the last axis of that, which is what `sklearn.metrics.accuracy_score` takes; or a dict of
        all outputs by name.

    Raises
    ------
    TypeError
        `fn` that is not callable.
    ValueError
        Another `takes`.

    Notes
    -----
    The metrics that have names hold sums alone, however many samples there are:

    - "sqnr", in dB: ``10 log10(sum r**2 / sum (r - y)**2)`` over all values of an output, r being
      the reference's, y the model's, in float64; infinite where they are equal. The mean over
      outputs.
    - "cosine": the cosine of the angle between a sample's r and y, flattened; the mean over samples,
      then outputs. Two vectors of zeros have 1.
    - "agreement": how often the greatest value along the last axis of the first output is at the
      same index as the reference's. Outputs of integers or strings are compared value by value.
    - "top1": how often that index is the label.

    Examples
    --------
    >>> import numpy as np
    >>> import octavo as oc
    >>> def worst(y_true, y_pred):
    ...     return np.abs(y_true - y_pred).max()
    >>> metric = oc.Metric(worst, greater_is_better=False)
    >>> score = metric.start()
    >>> score.update({"y": np.array([1.0, 2.0])}, np.array([1.0, 2.5]))
    >>> score.update({"y": np.array([3.0])}, np.array([2.0]))
    >>> score.value()
    1.0
    """

    __slots__ = ("_fn", "against", "greater_is_better", "name", "takes")

    def __init__(
        self,
        fn: Callable[[Any, Any], float],
        *,
        greater_is_better: bool = True,
        takes: Takes = "predictions",
    ) -> None:
        if not callable(fn):
            raise TypeError(
                f"fn is {type(fn).__name__}, expected a callable (y_true, y_pred) -> float"
            )
        if takes not in _TAKES:
            raise ValueError(f"takes is {takes!r}, expected one of {', '.join(map(repr, _TAKES))}")
        self._fn = fn
        self.name: str = getattr(fn, "__name__", type(fn).__name__)
        self.greater_is_better = greater_is_better
        self.takes: Takes = takes
        # What predictions are compared with.
        self.against: Literal["labels", "reference"] = "labels"

    def start(self) -> Score:
        """Return what takes in the batches of one model."""
        return _Gathered(self._fn, self.takes)

    def better(self, a: float, b: float) -> bool:
        """Return whether `a` is better than `b`. NaN never is."""
        return a > b if self.greater_is_better else a < b

    def __repr__(self) -> str:
        return f"Metric({self.name})"


class _Gathered:
    """All predictions and labels, for a function that wants them at once."""

    def __init__(self, fn: Callable[[Any, Any], float], takes: Takes) -> None:
        self._fn, self._takes = fn, takes
        self._truths: list[Any] = []
        self._outputs: dict[str, list[Any]] = {}

    def update(self, outputs: Outputs, truth: Any) -> None:
        self._truths.append(truth)
        if self._takes == "outputs":
            taken = dict(outputs)
        else:
            name, first = next(iter(outputs.items()))
            taken = {name: first if self._takes == "predictions" else _classes(first, "classes")}
        for name, y in taken.items():
            self._outputs.setdefault(name, []).append(y)

    def value(self) -> float:
        if not self._truths:
            raise ValueError("a metric of no samples")
        y = {name: _joined(batches) for name, batches in self._outputs.items()}
        y_pred = y if self._takes == "outputs" else next(iter(y.values()))
        return float(self._fn(_joined(self._truths), y_pred))


def _joined(batches: list[Any]) -> Any:
    """Return batches as one array, or as a list of samples where these have different shapes."""
    arrays = [np.asarray(each) for each in batches]
    if len({each.shape[1:] for each in arrays}) == 1 and all(each.ndim for each in arrays):
        return np.concatenate(arrays)
    return [sample for each in arrays for sample in (each if each.ndim else [each])]


def _classes(y: Any, metric: str) -> Array:
    """Return the index of the greatest value along the last axis; integers and strings as they are."""
    array = np.asarray(y)
    if array.dtype.kind not in "fc":
        return array
    if array.ndim < 2 or array.shape[-1] < 2:
        raise ValueError(
            f"{metric} takes the greatest value along the last axis, which an output of shape "
            f"{array.shape} has not; use 'sqnr', 'cosine' or a Metric of your own"
        )
    return np.asarray(array.argmax(-1))


class _Share:
    """How often two things are equal."""

    def __init__(self, name: str, truth_of: Callable[[Any], Array]) -> None:
        self._name, self._truth_of = name, truth_of
        self._equal = self._count = 0

    def update(self, outputs: Outputs, truth: Any) -> None:
        got = _classes(next(iter(outputs.values())), self._name)
        expected = self._truth_of(truth)
        if got.shape != expected.shape:
            raise ValueError(
                f"{self._name} compares predictions of shape {got.shape} "
                f"with {expected.shape}; they must be equal"
            )
        self._equal += int(np.count_nonzero(got == expected))
        self._count += got.size

    def value(self) -> float:
        return self._equal / self._count if self._count else math.nan


class _Distance:
    """A figure of each output's numbers beside the reference's; their mean."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._scores: list[_Sqnr | _Cosine] = []

    def update(self, outputs: Outputs, truth: Outputs) -> None:
        if len(outputs) != len(truth):
            raise ValueError(
                f"a model has {len(outputs)} outputs, the reference {len(truth)}; "
                "they must be equal"
            )
        if not self._scores:
            self._scores = [(_Sqnr if self._name == "sqnr" else _Cosine)() for _ in truth]
        for (name, y), r, score in zip(outputs.items(), truth.values(), self._scores, strict=True):
            if np.shape(y) != np.shape(r):
                raise ValueError(
                    f"output {name!r} has shape {np.shape(y)}, the reference's {np.shape(r)}; "
                    "they must be equal"
                )
            with np.errstate(all="ignore"):  # infinities and NaN count as what they are
                score.update(np.asarray(y, np.float64), np.asarray(r, np.float64))

    def value(self) -> float:
        values = [score.value() for score in self._scores]
        return sum(values) / len(values) if values else math.nan


class _Sqnr:
    def __init__(self) -> None:
        self._signal = self._noise = 0.0

    def update(self, y: Array, r: Array) -> None:
        self._signal += float(np.vdot(r, r))
        self._noise += float(np.square(r - y).sum())

    def value(self) -> float:
        if self._noise == 0:
            return math.inf
        return 10 * math.log10(self._signal / self._noise) if self._signal else -math.inf


class _Cosine:
    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def update(self, y: Array, r: Array) -> None:
        y, r = (each.reshape(len(each) if each.ndim else 1, -1) for each in (y, r))
        lengths = np.sqrt((y * y).sum(1)) * np.sqrt((r * r).sum(1))
        cosines = np.where(lengths == 0, 0.0, (y * r).sum(1) / lengths)
        cosines[~(y.any(1) | r.any(1))] = 1.0
        self._sum += float(cosines.sum())
        self._count += len(cosines)

    def value(self) -> float:
        return self._sum / self._count if self._count else math.nan


class _Named(Metric):
    """A metric that sums."""

    __slots__ = ("_make",)

    def __init__(
        self, name: str, against: Literal["labels", "reference"], make: Callable[[], Score]
    ) -> None:
        self.name, self.against, self._make = name, against, make
        self.greater_is_better = True
        self.takes = "outputs"

    def start(self) -> Score:
        return self._make()

    def __reduce__(self) -> tuple[Any, ...]:
        return as_metric, (self.name,)


def _reference_classes(truth: Outputs) -> Array:
    return _classes(next(iter(truth.values())), "agreement")


NAMED: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _Named("sqnr", "reference", lambda: _Distance("sqnr")),
        _Named("cosine", "reference", lambda: _Distance("cosine")),
        _Named("agreement", "reference", lambda: _Share("agreement", _reference_classes)),
        _Named("top1", "labels", lambda: _Share("top1", np.asarray)),
    )
}


def as_metric(metric: str | Metric | Callable[[Any, Any], float]) -> Metric:
    """Return the metric of that name, `metric` itself, or one made of a function.

    Raises
    ------
    ValueError
        A name that none has.
    TypeError
        What is neither.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric not in NAMED:
            raise ValueError(
                f"metric is {metric!r}, expected a Metric or one of {', '.join(NAMED)}"
            )
        return NAMED[metric]
    return Metric(metric)
