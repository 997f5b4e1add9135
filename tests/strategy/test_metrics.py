"""Metrics against their formulas, streamed, and what they refuse."""

import itertools
import math
import pickle

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import octavo as oc
from octavo.strategy.metrics import NAMED, as_metric

rng = np.random.default_rng(0)


def score(metric, pairs):
    """The metric of batches of (outputs, truth); bare arrays stand for one output."""
    made = as_metric(metric).start()
    for outputs, truth in pairs:
        outputs = outputs if isinstance(outputs, dict) else {"y": outputs}
        if as_metric(metric).against == "reference" and not isinstance(truth, dict):
            truth = {"r": truth}
        made.update(outputs, truth)
    return made.value()


def test_sqnr_is_ten_logarithms_of_signal_over_noise():
    r = np.array([3.0, 4.0])
    assert score("sqnr", [(1.1 * r, r)]) == pytest.approx(20)
    assert score("sqnr", [(r, r)]) == math.inf
    assert score("sqnr", [(r, r * 0)]) == -math.inf
    assert score("sqnr", [(r * 0, r * 0)]) == math.inf
    assert math.isnan(score("sqnr", [(r * np.nan, r)]))


def test_cosine_is_the_mean_over_samples():
    r = np.array([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    y = np.array([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert score("cosine", [(y, r)]) == pytest.approx((1 + 0 - 1 + 1 + 0) / 5)
    assert score("cosine", [(y * 1e-100, r * 1e-100)]) == pytest.approx(0.2)
    assert score("cosine", [(y * 1e100, r * 1e100)]) == pytest.approx(0.2)
    assert math.isnan(score("cosine", [(y * np.nan, r)]))


def test_agreement_is_the_share_of_equal_classes():
    r = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    assert score("agreement", [(r[[0, 1, 0, 3]], r)]) == 0.75
    assert score("agreement", [(np.array([1, 2, 3]), np.array([1, 5, 3]))]) == pytest.approx(2 / 3)
    assert score("agreement", [(np.array(["a", "b"]), np.array(["a", "c"]))]) == 0.5
    tokens = rng.normal(size=(2, 5, 7))
    assert score("agreement", [(tokens, tokens)]) == 1


def test_top1_is_the_share_of_labels_found():
    y = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    assert score("top1", [(y, np.array([1, 0, 1]))]) == pytest.approx(2 / 3)


def test_several_outputs_count_alike_whatever_their_size():
    r = {"a": np.array([[3.0, 4.0]]), "b": np.full((1, 900), 100.0)}
    y = {"a": np.array([[3.3, 4.4]]), "b": np.full((1, 900), 101.0)}
    assert score("sqnr", [(y, r)]) == pytest.approx((20 + 40) / 2)
    y["b"] = -r["b"]
    assert score("cosine", [(y, r)]) == pytest.approx(0)


@pytest.mark.parametrize("name", ["sqnr", "cosine", "agreement", "top1"])
@hypothesis.given(cuts=st.lists(st.integers(1, 19), max_size=4))
def test_batches_change_nothing(name, cuts):
    r = rng.normal(size=(20, 6))
    y = r + rng.normal(size=r.shape)
    truth = rng.integers(6, size=20) if name == "top1" else r
    edges = sorted({0, *cuts, 20})
    parts = [(y[a:b], truth[a:b]) for a, b in itertools.pairwise(edges)]
    assert score(name, parts) == pytest.approx(score(name, [(y, truth)]), rel=1e-12)


def test_float32_outputs_are_summed_in_float64():
    r = np.full((1, 2), 2.0**12, np.float32)
    y = r + np.float32(2.0**-10)
    expected = 10 * math.log10(4.0**12 / 4.0**-10)
    assert score("sqnr", [(y, r)] * 1000) == pytest.approx(expected, rel=1e-12)


def test_a_users_function_gets_all_labels_and_predictions_in_scikit_learns_order():
    seen = []

    def mine(y_true, y_pred):
        seen.append((y_true.tolist(), y_pred.tolist()))
        return np.float32(0.5)

    metric = oc.Metric(mine, greater_is_better=False)
    value = score(metric, [(np.array([1.0, 2.0]), [5, 6]), (np.array([3.0]), [7])])
    assert (value, type(value)) == (0.5, float)
    assert seen == [([5, 6, 7], [1, 2, 3])]
    assert metric.name == "mine"
    assert metric.against == "labels"


def test_predictions_may_be_classes_or_all_outputs():
    y = np.array([[0.0, 1.0], [1.0, 0.0]])
    seen = []
    for takes in ("classes", "outputs"):
        metric = oc.Metric(lambda _, y_pred: seen.append(y_pred) or 1.0, takes=takes)
        score(metric, [({"y": y, "z": y[:, 0]}, [0, 0])] * 2)
    assert seen[0].tolist() == [1, 0, 1, 0]
    assert seen[1]["z"].tolist() == [0, 1, 0, 1]
    assert seen[1]["y"].shape == (4, 2)


def test_predictions_of_different_shapes_come_as_a_list_of_samples():
    seen = []
    metric = oc.Metric(lambda y_true, y_pred: seen.append((y_true, y_pred)) or 1.0)
    score(metric, [(np.zeros((2, 3)), ["a", "b"]), (np.ones((1, 4)), ["c"])])
    assert [each.shape for each in seen[0][1]] == [(3,), (3,), (4,)]
    assert seen[0][0].tolist() == ["a", "b", "c"]


def test_better_knows_the_direction_and_nan_never_is():
    more, less = oc.Metric(max), oc.Metric(max, greater_is_better=False)
    assert more.better(2, 1)
    assert less.better(1, 2)
    assert not more.better(1, 1)
    assert not more.better(math.nan, 1)
    assert not less.better(math.nan, 1)


@pytest.mark.parametrize(
    ("name", "y", "truth", "message"),
    [
        ("agreement", np.zeros(3), np.zeros(3), r"an output of shape \(3,\) has not; use 'sqnr'"),
        ("agreement", np.zeros((3, 1)), np.zeros((3, 1)), r"shape \(3, 1\) has not"),
        ("top1", np.zeros((3, 2)), np.zeros((3, 2), int), r"shape \(3,\) with \(3, 2\)"),
        ("sqnr", np.zeros((3, 2)), np.zeros((3, 1)), r"'y' has shape \(3, 2\).*\(3, 1\)"),
        ("cosine", {"a": np.zeros(3), "b": np.zeros(3)}, np.zeros(3), "2 outputs, the reference 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(name, y, truth, message):
    with pytest.raises(ValueError, match=message):
        score(name, [(y, truth)])


def test_a_metric_is_named_given_or_made_of_a_function():
    assert sorted(NAMED) == ["agreement", "cosine", "sqnr", "top1"]
    assert as_metric("sqnr") is NAMED["sqnr"]
    metric = oc.Metric(max)
    assert as_metric(metric) is metric
    assert as_metric(max).name == "max"
    with pytest.raises(
        ValueError, match="metric is 'f1', expected a Metric or one of sqnr, cosine"
    ):
        as_metric("f1")
    for wrong in (3, None):
        with pytest.raises(TypeError, match="expected a callable"):
            as_metric(wrong)
    with pytest.raises(ValueError, match="takes is 'labels', expected one of 'predictions'"):
        oc.Metric(max, takes="labels")


def test_metrics_pickle():
    assert pickle.loads(pickle.dumps(NAMED["sqnr"])) is NAMED["sqnr"]
    again = pickle.loads(pickle.dumps(oc.Metric(max, greater_is_better=False, takes="classes")))
    assert (again.name, again.greater_is_better, again.takes) == ("max", False, "classes")
