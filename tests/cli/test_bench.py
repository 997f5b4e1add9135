"""`octavo bench`: beside other runtimes, installed or not."""

import importlib
import json
import sys
import types

import numpy as np
import pytest

from octavo import cli, runtime
from octavo.cli import bench, data_options
from octavo.graph import Graph, Model, Node, Value


def saved(path, inputs, op="Sum"):
    nodes = [Node("n", op, [value.name for value in inputs], ["y"])]
    Model(Graph("net", inputs, [Value("y")], nodes, {}, {})).save(path)
    return str(path)


@pytest.fixture(autouse=True)
def others(monkeypatch):
    """Two runtimes that are not installed; a test may put modules in their place."""
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
    threads = runtime.get_num_threads()
    yield lambda name, module: monkeypatch.setitem(sys.modules, name, module)
    runtime.set_num_threads(threads)  # as --threads leaves it


@pytest.fixture
def negation(tmp_path):
    return saved(tmp_path / "neg.octavo", [Value("x", "float32", ("n", "w"))], "Neg")


def figures(capsys, *arguments):
    assert cli.main(["bench", *arguments, "--seconds", "0.001", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def onnxruntime_of(answer):
    """A stand-in for the module onnxruntime whose sessions answer so."""
    seen = {}

    class Session:
        def __init__(self, path, options, providers):
            seen.update(path=path, threads=options.intra_op_num_threads, providers=providers)

        def run(self, outputs, feeds):
            assert outputs is None
            return answer(feeds)

    module = types.ModuleType("onnxruntime")
    module.__version__ = "9.9"
    module.SessionOptions = types.SimpleNamespace
    module.InferenceSession = Session
    return module, seen


def openvino_of(answer):
    seen = {}

    class Request:
        def infer(self, feeds, share_inputs):
            assert share_inputs
            outputs = answer(feeds)
            self.output_tensors = [types.SimpleNamespace(data=each) for each in outputs]

    class Core:
        def read_model(self, path):
            return types.SimpleNamespace(path=path, reshape=lambda shapes: seen.update(shapes))

        def compile_model(self, model, device, settings):
            seen.update(path=model.path, device=device, **settings)
            return types.SimpleNamespace(create_infer_request=Request)

    module = types.ModuleType("openvino")
    module.__version__ = "2026.1-abc"
    module.Core = Core
    return module, seen


def test_what_is_not_installed_is_said(negation, capsys):
    arguments = ["bench", negation, "--shape", "2x5", "--seconds", "0.001"]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert "neg.octavo: x 2x5" in captured.out
    assert "note: onnxruntime: is not installed" in captured.err
    assert "note: openvino: is not installed" in captured.err
    report = figures(capsys, negation, "--shape", "x=2x5")
    assert [row["runtime"] for row in report["rows"]] == ["octavo"]
    assert report["absent"] == dict.fromkeys(("onnxruntime", "openvino"), "is not installed")
    assert report["inputs"] == {"x": [2, 5]}


def test_others_are_timed_beside_with_equal_threads(negation, others, monkeypatch, capsys):
    ort, seen = onnxruntime_of(lambda feeds: [-feeds["x"]])
    ov, told = openvino_of(lambda feeds: [-1.5 * feeds["x"]])
    others("onnxruntime", ort)
    others("openvino", ov)
    monkeypatch.setattr(Model, "save", lambda *_: None)
    report = figures(capsys, negation, "--shape", "2x5", "--threads", "1")
    rows = {row["runtime"]: row for row in report["rows"]}
    assert list(rows) == ["octavo", "onnxruntime", "openvino"]
    assert (rows["onnxruntime"]["version"], rows["openvino"]["version"]) == ("9.9", "2026.1")
    assert rows["onnxruntime"]["difference"] == 0
    assert rows["openvino"]["difference"] == pytest.approx(0.5)
    for row in rows.values():
        assert 0 < row["median"] <= row["p99"]
        assert row["ratio"] == row["median"] / rows["octavo"]["median"]
    assert (seen["threads"], seen["providers"]) == (1, ["CPUExecutionProvider"])
    assert (told["INFERENCE_NUM_THREADS"], told["INFERENCE_PRECISION_HINT"]) == (1, "f32")
    assert told["x"] == [2, 5]
    assert seen["path"].endswith("model.onnx")  # not the .octavo, which they do not read
    assert cli.main(["bench", negation, "--shape", "2x5", "--seconds", "0.001"]) == 0
    out = capsys.readouterr().out
    assert "onnxruntime 9.9" in out
    assert "0.5" in out


def test_a_runtime_that_fails_is_noted_and_the_others_go_on(negation, others, monkeypatch, capsys):
    def fails(_feeds):
        raise RuntimeError("no such operator\nand more")

    others("onnxruntime", onnxruntime_of(fails)[0])
    others("openvino", openvino_of(lambda feeds: [-feeds["x"]])[0])
    monkeypatch.setattr(Model, "save", lambda *_: None)
    report = figures(capsys, negation, "--shape", "2x5")
    assert report["absent"] == {"onnxruntime": "cannot run it: no such operator"}
    assert [row["runtime"] for row in report["rows"]] == ["octavo", "openvino"]


def test_inputs_come_from_data(tmp_path, negation, capsys):
    np.save(tmp_path / "x.npy", np.zeros((9, 4)))  # float64, which others would refuse
    report = figures(capsys, negation, "--data", str(tmp_path / "x.npy"))
    assert report["inputs"] == {"x": [1, 4]}
    report = figures(capsys, negation, "--data", str(tmp_path / "x.npy"), "--batch", "3")
    assert report["inputs"] == {"x": [3, 4]}


def test_made_inputs_fit_the_model():
    inputs = [
        Value("x", "float32", ("n", 3, 4)),
        Value("ids", "int64", ("n", 4)),
        Value("mask", "bool", ()),
        Value("h", "float16", ("n", "t")),
    ]
    model = Model(Graph("net", inputs, [Value("x")], [], {}, {}))
    feeds = data_options.made_feeds(model, [("h", (2, 7))], 2)
    assert {name: x.shape for name, x in feeds.items()} == {
        "x": (2, 3, 4),
        "ids": (2, 4),
        "mask": (),
        "h": (2, 7),
    }
    assert [x.dtype.name for x in feeds.values()] == ["float32", "int64", "bool", "float16"]
    assert feeds["ids"].min() == feeds["ids"].max() == 1
    assert len(np.unique(feeds["x"])) == 24
    with pytest.raises(ValueError, match=r"'h' has free dimensions: say --shape h=1x16"):
        data_options.made_feeds(model, [])
    with pytest.raises(ValueError, match="names input 'z', expected 'x', 'ids'"):
        data_options.made_feeds(model, [("z", (1,))])
    with pytest.raises(ValueError, match="names input ''"):
        data_options.made_feeds(model, [("", (1,))])
    text = Model(Graph("net", [Value("s", "object", (1,))], [Value("s")], [], {}, {}))
    with pytest.raises(ValueError, match="'s' is object, which is not made: give --data"):
        data_options.made_feeds(text, [])


@pytest.mark.parametrize("shape", ["x=1xn", "x=0x3", "", "x=1,2", "x=-1"])
def test_shapes_are_misused_with_status_2(shape, negation, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", negation, "--shape", shape])
    assert caught.value.code == 2
    assert "is not NAME=1x3x32x32" in capsys.readouterr().err


def test_data_or_shapes_but_not_both(negation, capsys):
    assert cli.main(["bench", negation, "--data", "x.npy", "--shape", "1x2"]) == 1
    assert "--data and --shape are both given" in capsys.readouterr().err
    assert cli.main(["bench", negation]) == 1
    assert "say --shape x=1x16, or give --data" in capsys.readouterr().err


def test_the_difference_is_relative_to_the_largest_value():
    ours = [np.array([4.0, 1.0]), np.array([100, 0], np.uint8)]
    assert bench.difference([np.array([4.0, 3.0]), np.array([99, 0], np.uint8)], ours) == 0.5
    assert bench.difference([np.array([0.5])], [np.array([0.0])]) == 0.5


def test_real_runtimes_agree(tmp_path, monkeypatch, capsys):
    for name in ("onnxruntime", "openvino"):
        monkeypatch.delitem(sys.modules, name)
    found = [name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name)]
    if not found:
        pytest.skip("NOT TESTED: neither onnxruntime nor openvino is installed")
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    x = helper.make_tensor_value_info("x", 1, ["n", 8])
    y = helper.make_tensor_value_info("y", 1, ["n", 8])
    graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "net", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "tanh.onnx")
    report = figures(capsys, str(tmp_path / "tanh.onnx"), "--batch", "2")
    rows = {row["runtime"]: row for row in report["rows"]}
    assert set(rows) == {"octavo", *found}
    assert all(row["difference"] < 1e-5 for row in rows.values())
    assert report["machine"]["threads"] == runtime.get_num_threads()
