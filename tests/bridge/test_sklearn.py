"""`octavo.bridge.sklearn.QuantizedEstimator`: estimators that answer in 8-bit arithmetic."""

import copy
import pickle
import sys

import numpy as np
import pytest

import octavo as oc
from octavo.bridge.sklearn import QuantizedEstimator

WHY = "the bridge to scikit-learn is not tested"
pytest.importorskip("sklearn", reason=f"{WHY}: no scikit-learn")
pytest.importorskip("skl2onnx", reason=f"{WHY}: no skl2onnx")
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import (
    ElasticNet,
    LinearRegression,
    LogisticRegression,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.default_rng(0)
# Features of sizes that differ, as a scaler is for.
X = rng.normal(size=(300, 6)) * [1, 10, 0.1, 1, 100, 1] + [0, 50, 0, 1, -100, 0]
SCALED = (X - X.mean(0)) / X.std(0)
SUM = SCALED @ [2.0, -1.0, 1.5, 0.0, 1.0, -0.5]
TWO = np.where(SUM > 0, "yes", "no")
THREE = np.array([30, 10, 20])[np.digitize(SUM, [-1, 1])]


def mlp(kind, **parameters):
    return kind(hidden_layer_sizes=(16,), max_iter=60, random_state=0, **parameters)


CLASSIFIERS = [
    make_pipeline(StandardScaler(), mlp(MLPClassifier)),
    make_pipeline(MinMaxScaler(), mlp(MLPClassifier, activation="tanh")),
    make_pipeline(StandardScaler(), LogisticRegression()),
    make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=0)),
    make_pipeline(StandardScaler(), LinearSVC()),
    make_pipeline(StandardScaler(), RidgeClassifier()),
]
REGRESSORS = [
    make_pipeline(StandardScaler(), mlp(MLPRegressor)),
    make_pipeline(StandardScaler(), LinearRegression()),
    make_pipeline(StandardScaler(), Ridge()),
    make_pipeline(StandardScaler(), ElasticNet(alpha=0.01)),
]


def name(estimator):
    return "-".join(step for step, _ in estimator.steps)


def kernels(q):
    return {layer.kernel for model in q.models_.values() for layer in model.layers}


def close(got, expected, share):
    """The error is at most this share of what varies in the answers."""
    expected = np.asarray(expected)
    assert got.shape == expected.shape
    assert np.sqrt(np.mean((got - expected) ** 2)) < share * expected.std()


@pytest.mark.parametrize("labels", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=name)
def test_classifiers_answer_as_the_float_one_does(estimator, labels):
    q = QuantizedEstimator(estimator).fit(X, labels)
    assert "linear int8" in kernels(q)
    expected = q.estimator_.predict(X)
    got = q.predict(X)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert np.mean(got == expected) > 0.97
    assert q.score(X, labels) == np.mean(got == labels)
    for method in ("predict_proba", "decision_function"):
        assert hasattr(q, method) == hasattr(q.estimator_, method)
        if hasattr(q, method):
            close(getattr(q, method)(X), getattr(q.estimator_, method)(X), 0.03)
    if hasattr(q, "predict_proba"):
        assert (q.classes_[q.predict_proba(X).argmax(1)] == got).all()


@pytest.mark.parametrize("y", [SUM, np.stack([SUM, -2 * SUM], 1)], ids=["one", "two"])
@pytest.mark.parametrize("estimator", REGRESSORS, ids=name)
def test_regressors_answer_as_the_float_one_does(estimator, y):
    q = QuantizedEstimator(estimator).fit(X, y)
    assert "linear int8" in kernels(q)
    close(q.predict(X), q.estimator_.predict(X), 0.03)
    assert q.score(X, y) > q.estimator_.score(X, y) - 0.01
    assert not hasattr(q, "predict_proba")


def test_several_labels_a_row():
    labels = np.stack([SUM > 0, SCALED[:, 0] > 0, SCALED[:, 1] > 0], 1).astype(int)
    q = QuantizedEstimator(make_pipeline(StandardScaler(), mlp(MLPClassifier))).fit(X, labels)
    assert q.predict(X).shape == labels.shape
    assert np.mean(q.predict(X) == q.estimator_.predict(X)) > 0.97


def test_transformers_and_clusters():
    q = QuantizedEstimator(make_pipeline(StandardScaler(), PCA(3))).fit(X)
    close(q.transform(X), q.estimator_.transform(X), 0.03)
    assert not hasattr(q, "predict")
    q = QuantizedEstimator(KMeans(3, random_state=0)).fit(SCALED)
    assert np.mean(q.predict(SCALED) == q.estimator_.predict(SCALED)) > 0.97
    close(q.transform(SCALED), q.estimator_.transform(SCALED), 0.05)


def test_a_fitted_estimator_is_calibrated_as_it_is():
    fitted = make_pipeline(StandardScaler(), mlp(MLPClassifier)).fit(X, THREE)
    q = QuantizedEstimator(fitted).calibrate(X)
    assert q.estimator_ is fitted
    assert np.mean(q.predict(X) == fitted.predict(X)) > 0.97
    with pytest.raises(NotFittedError):
        QuantizedEstimator(clone(fitted)).calibrate(X)


def test_precision_is_that_of_quantize_model():
    estimator = make_pipeline(StandardScaler(), Ridge())
    assert "linear float32" in kernels(QuantizedEstimator(estimator, "float32").fit(X, SUM))
    by_layer = QuantizedEstimator(estimator, {"op:MatMul": "int4/32"}).fit(X, SUM)
    assert "linear int4/32" in kernels(by_layer)
    with pytest.raises(ValueError, match="int3"):
        QuantizedEstimator(estimator, "int3").fit(X, SUM)


def test_it_is_an_estimator_of_scikit_learn():
    estimator = make_pipeline(StandardScaler(), LogisticRegression(C=2.0))
    q = QuantizedEstimator(estimator, precision="int8")
    assert is_classifier(q)
    assert not is_regressor(q)
    assert q.get_params()["estimator__logisticregression__C"] == 2.0
    assert q.get_params(deep=False) == {"estimator": estimator, "precision": "int8"}
    other = clone(q).set_params(precision="float32", estimator__logisticregression__C=3.0)
    assert other.estimator is not estimator
    assert other.get_params()["estimator__logisticregression__C"] == 3.0
    assert q.get_params()["estimator__logisticregression__C"] == 2.0
    with pytest.raises(ValueError, match="'depth' is no parameter"):
        q.set_params(depth=3)
    with pytest.raises(NotFittedError):
        q.predict(X)
    search = GridSearchCV(q, {"estimator__logisticregression__C": [0.001, 1.0]}, cv=2).fit(X, TWO)
    assert search.best_estimator_.score(X, TWO) > 0.9
    assert cross_val_score(make_pipeline(q), X, TWO, cv=2).mean() > 0.9


def test_copies_and_pickles_give_the_same_bits():
    q = QuantizedEstimator(make_pipeline(StandardScaler(), mlp(MLPClassifier))).fit(X, TWO)
    for other in (pickle.loads(pickle.dumps(q)), copy.deepcopy(q)):
        assert other.predict_proba(X).tobytes() == q.predict_proba(X).tobytes()
        assert (other.predict(X) == q.predict(X)).all()
        assert other.n_features_in_ == 6
    assert pickle.loads(pickle.dumps(clone(q))).get_params()["precision"] == "int8"


def test_the_same_data_give_the_same_answers_row_by_row():
    estimator = make_pipeline(StandardScaler(), mlp(MLPRegressor))
    a, b = (QuantizedEstimator(estimator).fit(X, SUM) for _ in range(2))
    assert a.predict(X).tobytes() == b.predict(X).tobytes()
    assert a.predict(X[5:9]).tobytes() == a.predict(X)[5:9].tobytes()


def test_bad_data_are_refused():
    q = QuantizedEstimator(make_pipeline(StandardScaler(), Ridge())).fit(X, SUM)
    with pytest.raises(ValueError, match=r"shape \(300, 5\), expected \(\?, 6\)"):
        q.predict(X[:, :5])
    with pytest.raises(ValueError, match=r"X has shape \(6,\), expected one row or more"):
        q.predict(X[0])
    sparse = pytest.importorskip("scipy.sparse").csr_matrix(X)
    with pytest.raises(TypeError, match="X is sparse, expected a dense array"):
        q.predict(sparse)


def test_what_cannot_be_converted_says_so():
    class Mine(LogisticRegression):
        pass

    with pytest.raises(oc.ModelError, match="skl2onnx cannot convert Mine"):
        QuantizedEstimator(Mine()).fit(SCALED, TWO)


def test_a_conversion_that_answers_otherwise_is_refused():
    labels = np.stack([SUM > 0, SCALED[:, 0] > 0], 1).astype(int)
    with pytest.raises(oc.ModelError, match="conversion of RidgeClassifier gives another"):
        QuantizedEstimator(RidgeClassifier()).fit(SCALED, labels)


def test_what_has_no_matrix_product_stays_float_and_is_announced():
    with pytest.warns(oc.FallbackWarning, match="TreeEnsembleClassifier"):
        q = QuantizedEstimator(DecisionTreeClassifier(max_depth=4)).fit(SCALED, THREE)
    assert np.mean(q.predict(SCALED) == q.estimator_.predict(SCALED)) > 0.97


@pytest.mark.parametrize("missing", ["sklearn.base", "skl2onnx"])
def test_without_the_packages_the_error_names_the_extra(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install 'octavo\[sklearn\]'"):
        QuantizedEstimator(Ridge()).fit(X, SUM)
