"""scikit-learn's estimators with integer arithmetic inside, through skl2onnx."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.errors import ModelError
from octavo.graph import load
from octavo.graph.model import Model
from octavo.strategy.precisions import Precision
from octavo.strategy.ptq import quantize_model

Array = NDArray[Any]

# Rows to calibrate with, taken evenly from all that are given.
_ROWS = 1024
# Rows to check the conversion with.
_FEW = 32
# Methods of classifiers that predictions follow from.
_SCORES = ("predict_proba", "decision_function")
# What ONNX has for scikit-learn alone; without them skl2onnx writes matrix products.
_WITHOUT = {"LinearClassifier", "LinearRegressor", "Normalizer", "Scaler"}


class _IfWrappedHas:
    """A method that is there where the estimator inside has it too."""

    def __init__(self, method: Callable[..., Any]) -> None:
        self.method = method
        self.__doc__ = method.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self.method
        name = self.method.__name__
        if name not in _methods(instance.estimator):
            raise AttributeError(f"{type(instance.estimator).__name__} has no {name} to quantize")
        return MethodType(self.method, instance)


class QuantizedEstimator:
    """A scikit-learn estimator that answers in 8-bit arithmetic.

    `fit` fits a clone of the estimator, converts it by skl2onnx, and quantizes it on the data it was
    given; `calibrate` does the same with an estimator that is fitted already. What the estimator
    offers is offered: `predict`, `predict_proba` and `decision_function` of classifiers, `predict`
    of regressors, `transform` and `predict` of others. It is an estimator itself: for pipelines,
    searches, `clone`, pickle.

    Parameters
    ----------
    estimator : scikit-learn estimator
        Or a pipeline. Inputs are dense float32; layers are matrix products (`MLPClassifier`,
        `MLPRegressor`, linear models, `PCA`). What is something else (trees, kernels) computes in
        float, and slowly where it has no kernel here: `octavo.FallbackWarning` says so.
    precision : str or dict, default "int8"
        As `octavo.quantize_model` says.

    Attributes
    ----------
    estimator_ : estimator
        The fitted one. Its own attributes (`classes_`, `n_features_in_`) are this one's too.
    models_ : dict of octavo models by method
        For `octavo.explain`, `save` and kin; of classifiers there is one for each kind of score.

    Notes
    -----
    A classifier predicts the class with the largest probability, or decision value where it has no
    probabilities.
    """

    estimator_: Any
    models_: dict[str, Model]
    _prediction_ndim: int | None

    def __init__(self, estimator: Any, precision: Precision = "int8") -> None:
        self.estimator = estimator
        self.precision = precision

    # --- scikit-learn's protocol ------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, those of the estimator as ``estimator__name``."""
        params: dict[str, Any] = {"estimator": self.estimator, "precision": self.precision}
        if deep:
            inner = self.estimator.get_params()
            params |= {f"estimator__{name}": value for name, value in inner.items()}
        return params

    def set_params(self, **params: Any) -> QuantizedEstimator:
        """Set parameters, those of the estimator as ``estimator__name``."""
        unknown = [name for name in params if name not in self.get_params()]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no parameter, expected one of get_params()")
        inner = {}
        for name, value in params.items():
            if name.startswith("estimator__"):
                inner[name.removeprefix("estimator__")] = value
            else:
                setattr(self, name, value)
        if inner:
            self.estimator.set_params(**inner)
        return self

    def __sklearn_tags__(self) -> Any:
        return _sklearn("utils").get_tags(self.estimator)

    def __sklearn_is_fitted__(self) -> bool:
        return "models_" in vars(self)

    def __getattr__(self, name: str) -> Any:
        # Attributes that fitting leaves, and no others: pickle asks for some before there are any.
        if (
            name.endswith("_")
            and not name.startswith("_")
            and name not in ("estimator_", "models_")
        ):
            fitted = vars(self).get("estimator_")
            if fitted is not None:
                return getattr(fitted, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"QuantizedEstimator({self.estimator!r}, precision={self.precision!r})"

    # --- fitting ----------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> QuantizedEstimator:
        """Fit a clone of the estimator, and quantize it on X.

        Raises
        ------
        ModelError
            An estimator that skl2onnx cannot convert, or converts to something else.
        ValueError, TypeError
            What the estimator or `octavo.quantize_model` refuses; sparse data.
        ImportError
            The packages scikit-learn and skl2onnx are not installed (the extra "sklearn").
        """
        rows = _as_rows(X)
        estimator = _sklearn("base").clone(self.estimator).fit(X, y, **fit_params)
        return self._quantize(estimator, X, rows)

    def calibrate(self, X: Any) -> QuantizedEstimator:
        """Quantize the estimator as it is, fitted already, on X. Raises as `fit` does."""
        rows = _as_rows(X)
        _sklearn("utils.validation").check_is_fitted(self.estimator)
        return self._quantize(self.estimator, X, rows)

    def _quantize(self, estimator: Any, X: Any, rows: Array) -> QuantizedEstimator:
        few = X.iloc[:_FEW] if hasattr(X, "iloc") else np.asarray(X)[:_FEW]
        ndim = np.ndim(estimator.predict(few)) if "predict" in _methods(estimator) else None
        made = QuantizedEstimator(estimator, self.precision)
        made.estimator_, made._prediction_ndim = estimator, ndim
        made.models_ = dict(_converted(estimator, rows[:1]))
        for method in made.models_:
            made._check_conversion(method, few)
        data = rows[:: -(-len(rows) // _ROWS)]
        for method, model in made.models_.items():
            made.models_[method] = quantize_model(model, data, self.precision, progress=None)
        vars(self).update(vars(made), estimator=self.estimator)
        return self

    def _check_conversion(self, method: str, few: Any) -> None:
        """See that before it is quantized the model answers as the estimator does."""
        expected = getattr(self.estimator_, method)(few)
        try:
            got = getattr(self, method)(few)
            # float32 may take another branch of a tree now and then.
            near = np.isclose(got, expected, rtol=0.01, atol=0.01 * np.abs(expected).max())
            right = got.shape == expected.shape and near.mean() > 0.9
        except ValueError:  # of shapes that do not fit
            right = False
        if not right:
            name = type(self.estimator_).__name__
            raise ModelError(f"skl2onnx's conversion of {name} gives another {method}")

    # --- answers ----------------------------------------------------------------------------------

    @_IfWrappedHas
    def predict(self, X: Any) -> Array:
        """Return the class of each row, a regressor's values, or the cluster."""
        self._check_fitted()
        if not _is("classifier", self.estimator_):
            made = self._run(X)[0]  # skl2onnx puts several values of a row below each other
            return made.reshape(-1 if self._prediction_ndim == 1 else (len(X), -1))
        method: str = next(iter(self.models_))
        scores = self._run(X, method)[-1]
        threshold = 0.5 if method == "predict_proba" else 0.0
        above: Array = scores > threshold
        if self._prediction_ndim == 2:  # any number of classes a row
            return np.asarray(above, int)
        several = scores.ndim == 2 and scores.shape[1] > 1
        index = scores.argmax(1) if several else above.reshape(-1).astype(int)
        labels: Array = np.asarray(self.classes_)[index]
        return labels

    @_IfWrappedHas
    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, float32."""
        return self._run(X, "predict_proba")[-1]

    @_IfWrappedHas
    def decision_function(self, X: Any) -> Array:
        """Return the score of each class, of two classes that of the second; float32."""
        scores = self._run(X, "decision_function")[-1]
        two = self._prediction_ndim == 1 and len(self.classes_) == 2
        return scores.reshape(len(scores), -1)[:, -1] if two else scores

    @_IfWrappedHas
    def transform(self, X: Any) -> Array:
        """Return X transformed, float32."""
        return self._run(X)[-1]

    @_IfWrappedHas
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy of a classifier, the R² of a regressor."""
        metrics = _sklearn("metrics")
        metric = metrics.accuracy_score if _is("classifier", self.estimator) else metrics.r2_score
        return float(metric(y, self.predict(X), sample_weight=sample_weight))

    def _check_fitted(self) -> None:
        _sklearn("utils.validation").check_is_fitted(self)

    def _run(self, X: Any, method: str | None = None) -> list[Array]:
        self._check_fitted()
        model = self.models_[next(iter(self.models_)) if method is None else method]
        return [*model.run({model.inputs[0].name: _as_rows(X)}).values()]


# --- the estimator inside -------------------------------------------------------------------------


def _sklearn(part: str) -> Any:
    with _extra():
        return importlib.import_module(f"sklearn.{part}")


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(
            "scikit-learn's estimators need the packages scikit-learn and skl2onnx: "
            "pip install 'octavo[sklearn]'"
        ) from error


def _is(kind: str, estimator: Any) -> bool:
    return bool(getattr(_sklearn("base"), f"is_{kind}")(estimator))


def _methods(estimator: Any) -> set[str]:
    """Return which methods of an estimator are quantized."""
    wanted: tuple[str, ...] = ("transform",)
    if _is("classifier", estimator):
        wanted = ("predict", "score", *_SCORES)
    elif _is("regressor", estimator):
        wanted = ("predict", "score")
    elif _is("clusterer", estimator):
        wanted = ("predict", "transform")
    return {name for name in wanted if hasattr(estimator, name)}


def _as_rows(X: Any) -> Array:
    if hasattr(X, "toarray"):
        raise TypeError("X is sparse, expected a dense array: X.toarray()")
    rows = np.asarray(X, np.float32)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"X has shape {rows.shape}, expected one row or more of features")
    return rows


def _converted(estimator: Any, row: Array) -> Iterator[tuple[str, Model]]:
    """Each kind of answer, and the model that gives it."""
    methods = _methods(estimator)
    scores = [name for name in _SCORES if name in methods]
    if not methods or (_is("classifier", estimator) and not scores):
        raise TypeError(
            f"{type(estimator).__name__} gives no scores, values or features to quantize"
        )
    for kind in scores or ["predict" if "predict" in methods else "transform"]:
        proto = _exported(estimator, row, kind)
        if kind in scores:
            del proto.graph.output[0]  # the label: it follows from the scores
        yield kind, load(proto)


def _exported(estimator: Any, row: Array, kind: str) -> Any:
    with _extra():
        to_onnx = importlib.import_module("skl2onnx").to_onnx
    last = estimator
    while hasattr(last, "steps"):
        last = last.steps[-1][1]
    raw, plain = {"raw_scores": kind == "decision_function"}, {"zipmap": False}
    # Converters refuse options that they do not have, with a NameError.
    tries = [{id(last): plain | raw}, {id(last): raw}, {id(last): plain}]
    for options in tries if kind in _SCORES else [None]:
        try:
            return to_onnx(estimator, row, options=options, black_op=_WITHOUT)
        except NameError:
            continue
        except Exception as error:  # converters raise what they like
            raise ModelError(
                f"skl2onnx cannot convert {type(last).__name__}: {' '.join(str(error).split())}"
            ) from error
    raise ModelError(f"skl2onnx has no {kind} of {type(last).__name__}")
