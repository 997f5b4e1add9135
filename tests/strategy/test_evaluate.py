"""Before and after: figures beside figures."""

import itertools
import json
import math
import re
import sys

import numpy as np
import pytest

import octavo as oc
from octavo import runtime
from octavo.graph import Graph, Model, Node, Value
from octavo.graph.ir import Subgraph
from octavo.strategy import evaluate as module
from octavo.strategy.evaluate import Evaluation, EvaluationRow
from octavo.strategy.timing import interleaved

rng = np.random.default_rng(0)
X = rng.normal(size=(50, 8)).astype(np.float32)
W = rng.normal(size=(8, 4)).astype(np.float32)
Y = (X @ W).argmax(1)


@pytest.fixture(autouse=True)
def _little_time(monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 1e-3)


def model_of(w, name="net", leading="n"):
    graph = Graph(
        name,
        [Value("x", "float32", (leading, 8))],
        [Value("y", "float32", (leading, 4))],
        [Node("product", "MatMul", ["x", "w"], ["y"])],
        {"w": w},
        {},
    )
    return Model(graph)


@pytest.fixture
def models():
    return {"exact": model_of(W), "rounded": model_of(np.round(W))}


def test_the_first_model_is_the_reference(models):
    made = oc.evaluate(models, X)
    agree = float(((X @ W).argmax(1) == (X @ np.round(W)).argmax(1)).mean())
    assert 0.5 < agree < 1
    assert [(row.name, row.value) for row in made.rows] == [("exact", 1.0), ("rounded", agree)]
    assert (made.metric, made.samples, made.batch) == ("agreement", 50, 32)
    assert made["rounded"] is made.rows[1]
    for row in made.rows:
        assert row.nbytes == 128
        assert 0 < row.median <= row.p99
    swapped = oc.evaluate(dict(reversed(models.items())), X, "sqnr")
    assert swapped["rounded"].value == math.inf
    noise = np.square(X @ np.round(W) - X @ W).sum()
    expected = 10 * math.log10(np.square(X @ np.round(W)).sum() / noise)
    assert swapped["exact"].value == pytest.approx(expected, rel=1e-4)


def test_labels_are_compared_with_where_the_metric_wants_them(models):
    def errors(y_true, y_pred):
        assert y_true.shape == (50,)
        return np.mean(y_true != y_pred.argmax(1))

    top1 = oc.evaluate(models, oc.Dataset(X, Y), "top1")
    wrong = oc.evaluate(models, (X, Y), oc.Metric(errors, greater_is_better=False))
    assert top1["exact"].value == 1
    assert wrong["rounded"].value == pytest.approx(1 - top1["rounded"].value)
    assert "less errors is better" in str(wrong)
    # Data with labels serves metrics that need none.
    assert oc.evaluate(models, (X, Y), "cosine")["exact"].value == pytest.approx(1)


def test_a_model_alone_and_callables_are_evaluated_too():
    alone = oc.evaluate(model_of(W), (X, Y), "top1")
    assert [row.name for row in alone.rows] == ["net"]
    assert "faster" not in str(alone)

    def numpy(x):
        return x @ W

    bare = oc.evaluate(numpy, (X, Y), "top1")
    assert bare["numpy"].value == 1
    assert bare["numpy"].nbytes is None
    assert "-" in str(bare).splitlines()[1]
    mixed = oc.evaluate({"numpy": numpy, "octavo": model_of(W)}, X, "sqnr")
    assert mixed["octavo"].value > 100  # float32's own rounding


def test_callables_are_given_the_batch_as_it_is_and_may_give_several_outputs():
    seen = []

    def several(x):
        seen.append(sorted(x))
        return {"y": x["x"], "z": -x["x"]}

    made = oc.evaluate({"a": lambda x: [x["x"], -x["x"]], "b": several}, {"x": X}, "sqnr")
    assert made["b"].value == math.inf
    assert seen[0] == ["x"]
    with pytest.raises(ValueError, match="2 outputs, the reference 1"):
        oc.evaluate({"a": lambda x: x["x"], "b": several}, {"x": X}, "sqnr")


def test_one_pass_is_enough(models):
    made = oc.evaluate(models, (x for x in X), "sqnr")
    assert made.samples == 50
    fixed = {"a": model_of(W, leading=1)}
    assert oc.evaluate(fixed, iter(X), "sqnr").batch == 1


def test_threads_apply_to_the_models_and_are_told(models):
    before = runtime.get_num_threads()
    seen = set()

    def watching(x):
        seen.add(runtime.get_num_threads())
        return models["exact"](x)

    made = oc.evaluate(watching, X, "sqnr", threads=1)
    assert seen == {1}
    assert made.threads == 1
    assert runtime.get_num_threads() == before


def test_progress_counts_samples(models):
    seen = []
    oc.evaluate(models, X, progress=lambda *args: seen.append(args))
    assert seen == [(32, 50, "evaluate"), (50, 50, "evaluate")]
    with pytest.raises(TypeError, match="progress"):
        oc.evaluate(models, X, progress="bar")


def test_calls_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    timings = interleaved(calls, 0.02)
    assert sorted(timings) == ["a", "b"]
    assert timings["a"].calls + timings["b"].calls < len(order)  # some are not timed
    changes = sum(x != y for x, y in itertools.pairwise(order))
    assert changes >= 4


def test_it_prints_as_a_table_and_as_html():
    made = Evaluation(
        (
            EvaluationRow("float32", 0.883, 2e-3, 3e-3, 4_000_000),
            EvaluationRow("<int8>", 0.8825, 5e-4, 6e-4, None),
        ),
        "top1",
        True,
        10_000,
        1,
        2,
        "avx2",
    )
    assert str(made) == (
        "model      top1     ms  p99 ms  faster    MB\n"
        "float32  0.8830  2.000   3.000   1.00x  4.00\n"
        "<int8>   0.8825  0.500   0.600   4.00x     -\n"
        "10000 samples; greater top1 is better; a call is 1 sample, 2 threads, avx2"
    )
    html = made._repr_html_()
    assert "<int8>" not in html
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t", html)
    assert cells[6:12] == ["float32", "0.8830", "2.000", "3.000", "1.00x", "4.00"]
    with pytest.raises(KeyError, match="int4"):
        made["int4"]


class Axes:
    """What a picture calls, noted."""

    def __init__(self):
        self.seen = {}

    def __getattr__(self, name):
        return lambda *args, **_: self.seen.setdefault(name, []).append(args)


def test_it_is_drawn_without_what_is_infinite(models, monkeypatch):
    made = oc.evaluate(models, X, "sqnr")
    axes = Axes()
    assert made.plot(axes) is axes
    (ms, values, _) = axes.seen["plot"][0]
    assert (ms, values) == ([made["rounded"].median * 1e3], [made["rounded"].value])
    assert axes.seen["annotate"][0][0] == " rounded, 0.00 MB"
    assert "invert_yaxis" not in axes.seen
    made._replace(greater_is_better=False).plot(axes)
    assert "invert_yaxis" in axes.seen
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"octavo\[plot\]"):
        made.plot()


def test_it_is_drawn_by_matplotlib(models):
    matplotlib = pytest.importorskip("matplotlib", reason="NOT TESTED: no matplotlib")
    matplotlib.use("agg")
    axes = oc.evaluate(models, X).plot()
    assert axes.get_ylabel() == "agreement"
    assert len(axes.texts) == 2
    matplotlib.pyplot.close("all")


def test_it_is_saved_and_loaded(models, tmp_path):
    made = oc.evaluate(models, X, "sqnr")
    made.save(tmp_path / "e.json")
    again = Evaluation.load(tmp_path / "e.json")
    assert again == made
    assert again["exact"].value == math.inf
    facts = json.loads((tmp_path / "e.json").read_text(), parse_constant=pytest.fail)
    assert (facts["format"], facts["version"]) == ("octavo.evaluation", 1)
    assert made.to_dict()["rows"][0]["name"] == "exact"
    before = (tmp_path / "e.json").read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        made._replace(isa=object()).save(tmp_path / "e.json")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("e.json", before)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "is not JSON"),
        ("[]", "is None, expected 'octavo.evaluation'"),
        ('{"format": "octavo.statistics"}', "is 'octavo.statistics'"),
        ('{"format": "octavo.evaluation", "version": 2}', "version 2, expected 1 to 1"),
        ('{"format": "octavo.evaluation", "version": 1}', "lacks 'rows'"),
        ('{"format": "octavo.evaluation", "version": 1, "rows": [{}]}', "lacks 'name'"),
    ],
)
def test_another_file_is_refused(text, message, tmp_path):
    (tmp_path / "e.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Evaluation.load(tmp_path / "e.json")


@pytest.mark.parametrize(
    ("models", "data", "metric", "error", "message"),
    [
        ({}, X, "sqnr", ValueError, "models is empty"),
        ({"a": 3}, X, "sqnr", TypeError, "model 'a' is int, expected a Model or callable"),
        (model_of(W), X, "top1", ValueError, "'top1' compares with labels, and the data has none"),
        (model_of(W), list(X), "top1", ValueError, "compares with labels"),
        (model_of(W), X, "f1", ValueError, "metric is 'f1'"),
        (model_of(W), [], "sqnr", ValueError, "no samples"),
        (model_of(W), {"z": X}, "sqnr", ValueError, "'z', which is no input.*expected 'x'"),
        (model_of(W), X[:, :3], "sqnr", ValueError, "shape"),
        (lambda x: x[:, 0], X, "agreement", ValueError, "has not; use 'sqnr'"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(models, data, metric, error, message):
    with pytest.raises(error, match=message):
        oc.evaluate(models, data, metric)


def test_a_models_bytes_count_each_constant_once():
    w = oc.quantize(W)
    shared = Graph("g", [], [Value("z")], [Node("n", "Neg", ["w"], ["z"])], {"w": W}, {})
    inner = Graph("g", [], [Value("z")], [Node("n", "Neg", ["v"], ["z"])], {"v": W.copy()}, {})
    nodes = [
        Node("a", "MatMul", ["x", "w"], ["y"]),
        Node("b", "MatMul", ["x", "w"], ["z"]),
        Node(
            "if",
            "If",
            ["c"],
            ["u"],
            {"then_branch": Subgraph(shared, b""), "else_branch": Subgraph(inner, b"")},
        ),
    ]
    inputs = [Value("x", "float32", ("n", 8)), Value("c", "bool", ())]
    graph = Graph("net", inputs, [Value("y")], nodes, {"w": W, "q": w}, {})
    assert Model(graph).nbytes == W.nbytes * 2 + w.nbytes
