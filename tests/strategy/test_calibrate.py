"""Calibration: the same statistics however the data is cut and shared out; what it refuses."""

import concurrent.futures
import functools
import json
import operator
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from conftest import IN_QEMU

import octavo as oc
from octavo.graph import Graph, Model, Node, Value
from octavo.strategy import calibrate as calibration
from octavo.strategy.observers import METHODS as ALL_METHODS

DEPTH = 6
METHODS = ("auto", "moving_average") if IN_QEMU else ALL_METHODS
WITHOUT_AUTO = [method for method in METHODS if method != "auto"]


def network():
    """Tokens (n, length, 6): two products with what stands between them, and an attention."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.standard_normal((DEPTH, 8)).astype(np.float32),
        "v": rng.standard_normal((8, DEPTH)).astype(np.float32),
        "bias": rng.standard_normal(8).astype(np.float32),
    }
    nodes = [
        Node("up", "MatMul", ["x", "w"], ["up"]),
        Node("bias", "Add", ["up", "bias"], ["sum"]),
        Node("relu", "Relu", ["sum"], ["hidden"], version=14),
        Node("down", "MatMul", ["hidden", "v"], ["down"]),
        Node("turn", "Transpose", ["down"], ["turned"], {"perm": [0, 2, 1]}),
        Node("score", "MatMul", ["down", "turned"], ["score"]),
        Node("softmax", "Softmax", ["score"], ["y"], {"axis": -1}, version=13),
    ]
    x = Value("x", "float32", ("n", "length", DEPTH))
    return Model(Graph("net", [x], [Value("y")], nodes, constants, {}))


def sentences(count, seed=1, lengths=(3, 5, 7)):
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((lengths[i % len(lengths)], DEPTH)).astype(np.float32)
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def model():
    return network()


def one_node(op, **attributes):
    x, y = Value("x", "float32", ("n", 2)), Value("y")
    return Model(Graph("net", [x], [y], [Node("node", op, ["x"], ["y"], attributes, 13)], {}, {}))


# --- what is observed -----------------------------------------------------------------------------


def test_every_value_is_observed_as_numpy_computes_it(model):
    x = np.stack(sentences(10, lengths=(4,)))
    stats = oc.calibrate(model, x, method="minmax")
    w, v, bias = (model.graph.constants[name] for name in ("w", "v", "bias"))
    values = {"x": x, "up": x @ w}
    values["sum"] = values["up"] + bias
    values["hidden"] = np.maximum(values["sum"], 0)
    values["down"] = values["hidden"] @ v
    assert stats.samples == 10
    for name, value in values.items():
        assert name in stats
        assert np.allclose(stats.range(name), (value.min(), value.max()), rtol=1e-5)
        for axis in (1, -1):
            others = tuple(i for i in range(3) if i != axis % 3)
            low, high = stats.channel_range(name, axis)
            assert np.allclose(low, value.min(others), rtol=1e-5, atol=1e-6)
            assert np.allclose(high, value.max(others), rtol=1e-5, atol=1e-6)
            assert np.allclose(stats.channel_mean(name, axis), value.mean(others), atol=1e-6)
    assert {"turned", "score", "y"} <= set(stats.names)


def test_what_may_not_be_quantized_is_not_observed():
    nodes = [
        Node("shape", "Shape", ["x"], ["shape"], version=15),
        Node("float", "Cast", ["shape"], ["size"], {"to": 1}, 13),
        Node("whole", "Cast", ["x"], ["whole"], {"to": 6}, 13),
        Node("scaled", "Mul", ["x", "x"], ["y"], version=14),
    ]
    x, ids = Value("x", "float32", ("n", 2)), Value("ids", "int64", ("n",))
    outputs = [Value("y"), Value("size"), Value("whole")]
    nodes.append(Node("next", "Add", ["ids", "ids"], ["more"], version=14))
    net = Model(Graph("net", [x, ids], [*outputs, Value("more")], nodes, {}, {}))
    data = {"x": np.ones((5, 2), np.float32), "ids": np.arange(5)}
    for size in (1, 2, 5):
        stats = oc.calibrate(net, oc.Dataset(data, batch_size=size), method="minmax")
        assert stats.names == ("x", "y")


def test_of_a_model_with_control_flow_the_outer_values_are_observed():
    onnx = pytest.importorskip("onnx")
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (bool flag, float[n, 2] x) => (float[n, 2] z) {
        a = Neg(x)
        y = If(flag) <
            then_branch = g () => (float[n, 2] b) { inner = Exp(a) b = Add(inner, a) },
            else_branch = h () => (float[n, 2] c) { c = Neg(a) }
        >
        z = Relu(y)
    }"""
    net = oc.load(onnx.parser.parse_model(text))
    x = np.array([[1.0, -2.0]], np.float32)
    stats = oc.calibrate(net, [{"flag": np.array(True), "x": x}], method="minmax")
    assert set(stats.names) >= {"x", "z"}
    assert "inner" not in stats
    assert stats.range("z")[1] == oc.nn.exp(np.float32([2]))[0] + 2


# --- the same, however it is done -----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_batches_of_different_length_are_as_one_after_the_other(model, method):
    data = sentences(12)
    alone = oc.Dataset([each[None] for each in data], batch_size=None)
    one_by_one = oc.calibrate(model, alone, method=method)
    together = oc.calibrate(model, oc.Dataset(data, batch_size=4), method=method)
    kept = one_by_one.with_choices({}), together.with_choices({})
    assert kept[0] == kept[1]
    if method != "auto":  # it tries ranges on the same samples in other batches
        for name in together:
            assert together.qparams(name) == one_by_one.qparams(name)


@pytest.mark.parametrize("method", WITHOUT_AUTO)
def test_statistics_merge_in_any_order(model, method):
    data = sentences(9)
    parts = [oc.calibrate(model, data[i : i + 3], method=method) for i in (0, 3, 6)]
    whole = oc.calibrate(model, data, method=method)
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        merged = functools.reduce(operator.or_, [parts[i] for i in order])
        assert merged == whole
        assert merged.samples == 9
    assert parts[0] | (parts[1] | parts[2]) == whole
    assert parts[0] | parts[1] != whole


def test_merged_statistics_of_auto_forget_what_was_tried(model):
    a, b = (oc.calibrate(model, sentences(6, seed)) for seed in (1, 2))
    assert any(a.taken(name) != "mse" for name in a)
    assert a | b == b | a
    assert {(a | b).taken(name) for name in a} == {"mse"}


@pytest.mark.parametrize("method", ["percentile", "auto"])
def test_a_function_like_map_gives_the_same(model, method):
    data = oc.Dataset(sentences(40), batch_size=2)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        shared = oc.calibrate(model, data, method=method, workers=pool.map)
    assert shared == oc.calibrate(model, data, method=method)


@pytest.mark.skipif(IN_QEMU, reason="children of an emulated process are not emulated")
def test_processes_give_the_same(model):
    data = oc.Dataset(sentences(40), batch_size=2)
    assert oc.calibrate(model, data, workers=2) == oc.calibrate(model, data)


@pytest.mark.skipif(IN_QEMU, reason="children of an emulated process are not emulated")
@pytest.mark.filterwarnings("ignore")  # its own
def test_a_dask_cluster_gives_the_same(model):
    distributed = pytest.importorskip("distributed")
    data = oc.Dataset(sentences(40), batch_size=2)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert len(client.scheduler_info()["workers"]) == 2
        shared = oc.calibrate(model, data, workers=client.get_executor().map)
    assert shared == oc.calibrate(model, data)


def test_statistics_survive_saving_and_pickling(model, tmp_path):
    stats = oc.calibrate(model, sentences(6))
    path = tmp_path / "stats.npz"
    stats.save(path)
    loaded = oc.Statistics.load(path)
    assert loaded == stats == pickle.loads(pickle.dumps(stats))
    assert loaded.names == stats.names
    assert [loaded.qparams(name) for name in loaded] == [stats.qparams(name) for name in stats]
    assert [*tmp_path.iterdir()] == [path]
    assert oc.calibrate(model, sentences(6), resume=loaded) == stats


# --- bad data -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("bad", "kind"), [(np.nan, "NaN"), (np.inf, "infinity")])
@pytest.mark.parametrize("workers", [1, map])
def test_one_bad_value_is_named_with_tensor_and_batch(model, method, bad, kind, workers):
    data = np.stack(sentences(12, lengths=(4,)))
    data[7, 2, 3] = bad
    with pytest.raises(ValueError, match=f"input 'x' holds {kind} in batch 3"):
        oc.calibrate(model, oc.Dataset(data, batch_size=2), method=method, workers=workers)


def test_nan_that_the_model_makes_is_named():
    x = np.array([[1.0, 1.0], [1.0, -1.0]], np.float32)
    with pytest.raises(ValueError, match="value 'y' holds NaN in batch 1"):
        oc.calibrate(one_node("Log"), oc.Dataset(x, batch_size=1), method="minmax")


@pytest.mark.parametrize("method", METHODS)
def test_an_infinity_of_the_models_own_is_refused_where_it_is_asked_for(method):
    x = np.array([[1.0, 1.0], [2.0, 3.0], [1.0, 0.0]], np.float32)
    stats = oc.calibrate(one_node("Log"), oc.Dataset(x, batch_size=1), method=method)
    assert stats.finite("x")
    assert not stats.finite("y")
    for ask in (stats.range, stats.qparams, stats.clip_range):
        with pytest.raises(ValueError, match="'y' is infinite in batch 2"):
            ask("y")
    assert "y" not in stats.to_dict()["values"]
    assert "not finite" in str(stats)


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.skipif(IN_QEMU, reason="slow there, and nothing in it depends on the CPU")
@pytest.mark.parametrize("method", ["minmax", "percentile"])  # without and with a histogram
def test_memory_does_not_grow_with_samples(model, method):
    def peak(samples):
        rng = np.random.default_rng(3)
        made = (rng.standard_normal((1, 16, DEPTH)).astype(np.float32) for _ in range(samples))
        tracemalloc.start()
        try:
            oc.calibrate(model, oc.Dataset(made, batch_size=None), method=method)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(32)  # what is imported and planned the first time
    # The histogram still finds some new bins; every sample kept would be 256 * 6 kB and more.
    assert peak(256) < peak(32) + 100_000


# --- interruption ---------------------------------------------------------------------------------


def stop_at(done):
    def progress(now, *_):
        if now >= done:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("workers", [1, map])
def test_an_interrupted_calibration_goes_on(model, method, workers):
    data = oc.Dataset(sentences(40), batch_size=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        oc.calibrate(model, data, method=method, workers=workers, progress=stop_at(20))
    half = caught.value.statistics
    assert 20 <= half.samples < 40
    whole = oc.calibrate(model, data, method=method)
    assert half != whole
    assert oc.calibrate(model, data, method=method, resume=half, workers=workers) == whole
    # Once more, from what has all: nothing is counted twice.
    assert oc.calibrate(model, data, method=method, resume=whole) == whole


SCRIPT = """
import sys, time
import numpy as np
import octavo as oc
sys.path[:0] = {path!r}
from test_calibrate import network, sentences

def progress(done, total, label):
    print(done, flush=True)
    time.sleep(60)

if __name__ == "__main__":
    data = oc.Dataset(sentences(60), batch_size=1)
    try:
        oc.calibrate(network(), data, workers=2, progress=progress)
    except KeyboardInterrupt as error:
        error.statistics.save({out!r})
"""


@pytest.mark.skipif(IN_QEMU or not hasattr(os, "killpg"), reason="needs children and their group")
def test_ctrl_c_on_a_terminal_stops_processes_and_keeps_what_they_gathered(model, tmp_path):
    out, script = tmp_path / "half.npz", tmp_path / "script.py"
    here = os.path.dirname(__file__)
    path = [here, os.path.dirname(here)]
    script.write_text(SCRIPT.format(path=path, out=str(out)))
    child = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, start_new_session=True
    )
    with child:
        assert child.stdout.readline()  # some are done
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to all of them
        child.stdout.read()
    assert child.returncode == 0
    half = oc.Statistics.load(out)
    assert 0 < half.samples < 60
    data = oc.Dataset(sentences(60), batch_size=1)
    assert oc.calibrate(model, data, resume=half) == oc.calibrate(model, data)


def test_a_batch_in_the_middle_of_which_it_is_interrupted_is_not_counted(model):
    seen = []

    def transform(x):
        seen.append(x)
        if len(seen) == 5:
            signal.raise_signal(signal.SIGINT)
        return x

    samples = sentences(8, lengths=(4,))
    data = oc.Dataset(samples, transform=transform, batch_size=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        oc.calibrate(model, data, method="minmax")
    assert caught.value.statistics.samples == 4
    assert caught.value.statistics == oc.calibrate(model, samples[:4], method="minmax")


def test_an_interruption_inside_the_model_loses_that_batch_alone(model, monkeypatch):
    calls = []
    observe = calibration.Observed.of

    def of(*args):
        calls.append(args)
        if len(calls) == 13:  # in the second batch, of 8 values each
            raise KeyboardInterrupt
        return observe(*args)

    monkeypatch.setattr(calibration.Observed, "of", of)
    samples = sentences(6, lengths=(4,))
    with pytest.raises(KeyboardInterrupt) as caught:
        oc.calibrate(model, oc.Dataset(samples, batch_size=2), method="minmax")
    monkeypatch.undo()
    assert caught.value.statistics == oc.calibrate(model, samples[:2], method="minmax")


def test_an_interruption_before_anything_was_gathered_says_so(model):
    def transform(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        oc.calibrate(model, oc.Dataset(sentences(3), transform=transform), method="minmax")
    assert caught.value.statistics is None


def test_an_interruption_while_ranges_are_tried_keeps_the_first_pass(model):
    def progress(*args):
        if args[2] != "calibrate":
            raise KeyboardInterrupt

    data = sentences(12)
    with pytest.raises(KeyboardInterrupt) as caught:
        oc.calibrate(model, data, progress=progress)
    assert caught.value.statistics.samples == 12
    assert oc.calibrate(model, data, resume=caught.value.statistics) == oc.calibrate(model, data)


def test_resume_needs_the_same_data_and_method(model):
    data = oc.Dataset(sentences(8, lengths=(4,)), batch_size=2)
    with pytest.raises(KeyboardInterrupt) as caught:
        oc.calibrate(model, data, method="minmax", progress=stop_at(4))
    half = caught.value.statistics
    other = oc.Dataset(sentences(8, seed=9, lengths=(4,)), batch_size=2)
    with pytest.raises(ValueError, match="the first 2 batches are not those"):
        oc.calibrate(model, other, method="minmax", resume=half)
    short = oc.Dataset(sentences(2, lengths=(4,)), batch_size=2)
    with pytest.raises(ValueError, match="has seen 2 batches, the data has 1"):
        oc.calibrate(model, short, method="minmax", resume=half)
    with pytest.raises(ValueError, match="is of method 'minmax'"):
        oc.calibrate(model, data, method="mse", resume=half)
    with pytest.raises(ValueError, match="merged from several passes"):
        oc.calibrate(model, data, method="minmax", resume=half | half)
    with pytest.raises(TypeError, match="expected Statistics"):
        oc.calibrate(model, data, method="minmax", resume="half.npz")
    with pytest.raises(ValueError, match="different models"):
        oc.calibrate(one_node("Relu"), np.ones((4, 2)), method="minmax") | half


def test_progress_is_told_of_every_sample_once(model):
    told = []
    data = oc.Dataset(sentences(10, lengths=(4,)), batch_size=4)
    oc.calibrate(model, data, progress=lambda *args: told.append(args))
    assert [each for each in told if each[2] == "calibrate"] == [
        (4, 10, "calibrate"),
        (8, 10, "calibrate"),
        (10, 10, "calibrate"),
    ]
    assert [each[:2] for each in told if each[2] != "calibrate"] == [(1, 3), (2, 3), (3, 3)]


# --- which range ----------------------------------------------------------------------------------


def outlier_model(weight):
    """A product whose input has one channel of outliers, which counts by `weight`."""
    rng = np.random.default_rng(4)
    w = rng.standard_normal((8, 16)).astype(np.float32)
    w[3] *= weight
    x, y = Value("x", "float32", ("n", 8)), Value("y")
    model = Model(Graph("net", [x], [y], [Node("fc", "MatMul", ["x", "w"], ["y"])], {"w": w}, {}))
    data = rng.standard_normal((32, 8)).astype(np.float32)
    data[:, 3] *= 100
    return model, data


def test_auto_gives_up_outliers_that_nothing_reads():
    model, data = outlier_model(0.0)
    stats = oc.calibrate(model, data)
    low, high = stats.clip_range("x")
    whole = stats.range("x")
    assert high - low < 0.6 * (whole[1] - whole[0])
    assert stats.taken("x") not in ("minmax", "mse")


def test_auto_keeps_outliers_that_count():
    model, data = outlier_model(1.0)
    stats = oc.calibrate(model, data)
    low, high = stats.clip_range("x")
    whole = stats.range("x")
    assert high - low > 0.9 * (whole[1] - whole[0])


@pytest.mark.parametrize("weight", [0.0, 0.02, 1.0])
def test_auto_has_the_least_error_at_the_output_of_all_methods(weight):
    model, data = outlier_model(weight)
    wanted = model(data)

    def error(method):
        qparams = oc.calibrate(model, data, method=method).qparams("x")
        coded = oc.quantize(data, "uint8", qparams=qparams).dequantize()
        return np.square(model(coded) - wanted).sum()

    least = error("auto")
    for method in WITHOUT_AUTO:
        # Candidates that are all but alike are tried once.
        assert least <= 1.1 * error(method) + 1e-12


def test_a_value_in_another_form_has_the_range_of_what_is_computed_with():
    rng = np.random.default_rng(6)
    w, v = (rng.standard_normal(size).astype(np.float32) for size in ((DEPTH, 5), (4, 3)))
    v[2] = 0  # outliers at the third of four tokens count for nothing
    nodes = [
        Node("up", "MatMul", ["x", "w"], ["up"]),
        Node("turn", "Transpose", ["up"], ["turned"], {"perm": [0, 2, 1]}),
        Node("down", "MatMul", ["turned", "v"], ["y"]),
    ]
    x = Value("x", "float32", ("n", 4, DEPTH))
    net = Model(Graph("net", [x], [Value("y")], nodes, {"w": w, "v": v}, {}))
    data = rng.standard_normal((16, 4, DEPTH)).astype(np.float32)
    data[:, 2] *= 100
    stats = oc.calibrate(net, data)
    assert stats.taken("y") == "mse"  # an output: nothing computes with it
    assert stats.taken("turned") != "mse"
    assert stats.taken("up") == stats.taken("turned")
    assert stats.clip_range("up") == stats.clip_range("turned")
    assert stats.clip_range("up")[1] < 0.9 * stats.range("up")[1]


def test_qparams_are_those_that_quantize_would_choose(model):
    x = np.stack(sentences(8, lengths=(4,)))
    stats = oc.calibrate(model, x, method="minmax")
    assert stats.qparams("x") == oc.quantize(x, "uint8").qparams
    assert stats.qparams("x", "int8", symmetric=True) == oc.quantize(x, "int8").qparams
    zeros = oc.calibrate(one_node("Relu"), -np.ones((3, 2)), method="mse")
    assert zeros.qparams("y") == oc.QParams(1.0, 0)
    assert zeros.qparams("x") == oc.QParams(np.float32(1) / np.float32(255), 255)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("dtype", "symmetric"), [("uint8", False), ("int8", True), ("uint4", False)]
)
def test_every_method_gives_parameters_for_every_value(model, method, dtype, symmetric):
    stats = oc.calibrate(model, sentences(6), method=method)
    for name in stats:
        qparams = stats.qparams(name, dtype, symmetric=symmetric)
        assert qparams.dtype == dtype
        assert qparams.axis is None
        if symmetric:
            assert qparams.zero_point == 0


# --- what is shown and refused --------------------------------------------------------------------


def test_statistics_read_as_a_table_and_as_plain_numbers(model):
    stats = oc.calibrate(model, sentences(6), method="minmax")
    lines = str(stats).splitlines()
    assert lines[-1] == "6 samples, minmax"
    assert lines[0].split() == ["value", "by", "least", "greatest", "taken", "from", "to"]
    assert len(lines) == 2 + len(stats)
    low, high = (f"{each:.4g}" for each in stats.range("hidden"))
    assert f"hidden minmax {low} {high} {low} {high}" in [" ".join(line.split()) for line in lines]
    page = stats._repr_html_()
    assert page.count("<tr>") == 1 + len(stats)
    assert f">{high}</td>" in page
    assert json.loads(json.dumps(stats.to_dict()))["values"]["x"]["range"] == [*stats.range("x")]
    assert repr(stats) == f"Statistics({len(stats)} values, 6 samples, 'minmax')"


def test_a_picture_shows_every_value_and_what_is_clipped(model):
    pytest.importorskip("matplotlib", reason="no pictures without matplotlib").use("Agg")
    stats = oc.calibrate(model, sentences(6), method="percentile", percentile=90)
    axes = stats.plot("hidden")
    (stairs,) = axes.patches
    assert np.isclose(stairs.get_data().values.sum(), stats.observed("hidden").size)
    assert [line.get_xdata()[0] for line in axes.lines] == [*stats.clip_range("hidden")]
    assert axes.get_xlabel() == "hidden: percentile"
    with pytest.raises(ValueError, match="no histogram was gathered"):
        oc.calibrate(model, sentences(6), method="minmax").plot("hidden")


def test_bad_arguments_are_refused_before_any_work(model):
    def transform(_):
        pytest.fail("the data was read")

    data = oc.Dataset(sentences(3), transform=transform)
    cases = [
        (ValueError, "method is 'max'", {"method": "max"}),
        (ValueError, "percentile is 50", {"method": "percentile", "percentile": 50}),
        (ValueError, "percentile is 101", {"method": "percentile", "percentile": 101}),
        (ValueError, "workers is 0", {"workers": 0}),
        (ValueError, "workers is -2", {"workers": -2}),
        (TypeError, "workers is 1.5", {"workers": 1.5}),
        (TypeError, "workers is True", {"workers": True}),
        (TypeError, "progress is 'bar'", {"progress": "bar"}),
    ]
    for error, message, options in cases:
        with pytest.raises(error, match=message):
            oc.calibrate(model, data, **options)
    with pytest.raises(TypeError, match="model is function, expected a Model"):
        oc.calibrate(network, data)


def test_auto_refuses_data_that_can_be_read_once(model):
    samples = iter(sentences(3))
    with pytest.raises(ValueError, match="method='auto' reads them twice"):
        oc.calibrate(model, oc.Dataset(samples))
    assert oc.calibrate(model, oc.Dataset(samples), method="mse").samples == 3


def test_what_was_not_observed_is_refused_by_name(model):
    stats = oc.calibrate(model, sentences(6), method="minmax")
    with pytest.raises(ValueError, match="no value 'z' was observed"):
        stats.qparams("z")
    with pytest.raises(ValueError, match="axis is 0, expected 1 or -1"):
        stats.channel_range("x", 0)
    with pytest.raises(ValueError, match="'x' has no axis 1, or one whose length varies"):
        stats.channel_mean("x", 1)
    with pytest.raises(ValueError, match="dtype is 'int16'"):
        stats.qparams("x", "int16")
    mse = oc.calibrate(model, sentences(6), method="mse")
    with pytest.raises(ValueError, match="differ in method: 'minmax' and 'mse'"):
        stats | mse
    assert stats != mse
    assert stats != "stats"


def test_a_damaged_file_is_refused(model, tmp_path):
    path = tmp_path / "stats.npz"
    stats = oc.calibrate(model, sentences(6), method="mse")
    stats.save(path)
    whole = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)

    def refused(message):
        with pytest.raises(ValueError, match=message):
            oc.Statistics.load(path)

    for content in (b"", b"PK", whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(content)
        refused("holds no statistics")
    np.savez(path, x=np.ones(3))
    refused("holds no statistics")
    np.savez_compressed(path, **arrays)
    refused("compressed")
    later = json.loads(bytes(arrays["head"])) | {"version": 2}
    np.savez(path, **arrays | {"head": np.frombuffer(json.dumps(later).encode(), np.uint8)})
    refused("version 2, expected octavo.statistics of version 1")
    for part in ("table", "sums", "counts", "channel_ends", "channel_sums"):
        np.savez(path, **arrays | {part: arrays[part][..., :-1]})
        refused("holds no statistics")
    np.savez(path, **arrays | {"head": np.array([{}], object)})
    refused("holds no statistics")
    with pytest.raises(FileNotFoundError):
        oc.Statistics.load(tmp_path / "none.npz")


def test_auto_tries_the_values_that_are_named(model):
    x = np.stack(sentences(10, lengths=(4,)))
    every = oc.calibrate(model, x)
    some = oc.calibrate(model, x, names=["x", "hidden"])
    for name in some:
        if name in ("x", "hidden"):
            assert some.taken(name) == every.taken(name)
            assert some.qparams(name) == every.qparams(name)
        else:
            assert some.taken(name) == "mse"
