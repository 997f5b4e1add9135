"""`octavo quantize`: what it writes and says, options, statistics, interruption, errors."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import octavo as oc
from octavo import cli
from octavo.cli import quantize
from octavo.graph import Graph, Model, Node, Value
from octavo.strategy.calibrate import Interrupted
from octavo.strategy.explain import Explanation
from octavo.strategy.statistics import Statistics

rng = np.random.default_rng(0)
X = rng.normal(size=(24, 16)).astype(np.float32)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """The current folder, with a model (product, ReLU, product, softmax) and data for it."""
    monkeypatch.chdir(tmp_path)
    sizes = {"x": 16, "a": 32, "b": 32, "c": 8, "y": 8}
    values = {name: Value(name, "float32", ("n", size)) for name, size in sizes.items()}
    nodes = [
        Node("body", "MatMul", ["x", "w"], ["a"], version=13),
        Node("relu", "Relu", ["a"], ["b"], version=14),
        Node("head", "MatMul", ["b", "v"], ["c"], version=13),
        Node("soft", "Softmax", ["c"], ["y"], version=13),
    ]
    constants = {
        "w": rng.normal(size=(16, 32)).astype(np.float32),
        "v": rng.normal(size=(32, 8)).astype(np.float32),
    }
    graph = Graph("net", [values["x"]], [values["y"]], nodes, constants, values)
    Model(graph).save("net.octavo")
    np.save("x.npy", X)


def quantized(*arguments):
    assert cli.main(["quantize", "net.octavo", "-o", "q.octavo", "--quiet", *arguments]) == 0
    return oc.load("q.octavo")


def precisions(model):
    return {row["layer"]: row["precision"] for row in oc.explain(model).rows}


def same(a, b):
    return a(X).tobytes() == b(X).tobytes() and precisions(a) == precisions(b)


def test_the_model_is_that_of_quantize_model(capsys):
    model = oc.load("net.octavo")
    assert same(quantized("--data", "x.npy"), oc.quantize_model(model, oc.Dataset(X)))
    assert same(quantized(), oc.quantize_model(model))
    assert not same(quantized(), quantized("--data", "x.npy"))
    assert capsys.readouterr().err == ""


def test_before_and_after_are_shown(capsys):
    assert cli.main(["quantize", "net.octavo", "-o", "q.octavo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    before, after = (oc.load(name).nbytes for name in ("net.octavo", "q.octavo"))
    assert lines[0].split() == ["before", "after", "ratio"]
    assert lines[1].split()[0::5] == ["constants", f"{after / before:.2f}"]
    assert lines[2].split()[0] == "file"
    assert "2 of 4 layers in fewer bits: 2 int8" in lines
    assert "float32 as before:" in lines
    assert lines[-4].split() == ["activations", "are", "not", "static", "Relu", "1", "1"]
    assert lines[-3].split() == ["no", "integer", "form", "Softmax", "1", "1"]
    assert lines[-1] == "written to q.octavo"


def test_verbose_has_a_line_for_each_layer(capsys):
    arguments = ["quantize", "net.octavo", "-o", "q.octavo", "--precision", "head=float32", "-v"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert str(oc.explain(oc.load("q.octavo"))) in printed
    assert "float32 as before" not in printed


def test_json_has_sizes_and_layers(capsys):
    assert cli.main(["quantize", "net.octavo", "-o", "q.octavo", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["layers"] == oc.explain(oc.load("q.octavo")).to_dict()["rows"]
    assert report["bytes"]["after"] < 0.4 * report["bytes"]["before"]
    assert report["file_bytes"]["after"] == Path("q.octavo").stat().st_size
    assert (report["model"], report["output"]) == ("net.octavo", "q.octavo")


def test_layers_have_the_precision_that_is_said_for_them(capsys):
    q = quantized("--precision", "head=float32", "--precision", "int4/32")
    assert precisions(q) == {
        **dict.fromkeys(("relu", "soft", "head"), "float32"),
        "body": "int4/32",
    }
    q = quantized("--precision", "op:MatMul=float16")
    assert precisions(q)["body"] == precisions(q)["head"] == "float16"
    capsys.readouterr()
    cli.main(["quantize", "net.octavo", "-o", "q.octavo", "--precision", "float32"])
    printed = capsys.readouterr().out
    assert "0 of 4 layers in fewer bits\n" in printed
    assert "asked for  MatMul 2, Relu 1, Softmax 1       4\n" in printed


@pytest.mark.parametrize(
    ("given", "keyword"),
    [
        (("--no-bias-correction",), {"correct_bias": False}),
        (("--rounding", "gptq"), {"rounding": "gptq"}),
        (("--method", "mse"), {"method": "mse"}),
        (("--activations", "dynamic"), {"activations": "dynamic"}),
        (("--no-equalize",), {"equalize": False}),
    ],
)
def test_options_are_those_of_quantize_model(given, keyword, monkeypatch):
    asked = []
    whole = oc.quantize_model

    def seen(*arguments, **keywords):
        asked.append(keywords)
        return whole(*arguments, **keywords)

    monkeypatch.setattr(oc, "quantize_model", seen)
    made = quantized("--data", "x.npy", *given)
    defaults = {
        "activations": "static",
        "stats": None,
        "method": "auto",
        "equalize": True,
        "rounding": "nearest",
        "correct_bias": True,
        "progress": None,
    }
    assert asked == [defaults | keyword]
    assert same(made, whole(oc.load("net.octavo"), X, **keyword))


def test_statistics_are_kept_and_read(capsys):
    made = quantized("--data", "x.npy", "--method", "mse", "--save-stats", "s.npz")
    stats = Statistics.load("s.npz")
    assert stats == oc.calibrate(oc.load("net.octavo"), X, method="mse")
    assert same(made, oc.quantize_model(oc.load("net.octavo"), X, stats=stats))
    assert same(made, quantized("--data", "x.npy", "--stats", "s.npz"))
    alone = quantized("--stats", "s.npz")
    assert same(alone, oc.quantize_model(oc.load("net.octavo"), stats=stats))
    assert capsys.readouterr().err == ""
    cli.main(["quantize", "net.octavo", "-o", "q.octavo", "--stats", "s.npz"])
    assert "no scale was moved between layers" in capsys.readouterr().err


def test_an_interrupted_call_is_resumed(monkeypatch, capsys):
    whole = oc.calibrate

    def interrupted(model, _data, **keywords):
        raise Interrupted(whole(model, oc.Dataset(X[:8], batch_size=8), **keywords))

    arguments = ["--data", "x.npy", "--batch", "8"]
    Path("q.octavo").write_bytes(b"what was there")
    monkeypatch.setattr(oc, "calibrate", interrupted)
    command = ["quantize", "net.octavo", "-o", "q.octavo", "--save-stats", "part.npz"]
    assert cli.main([*command, *arguments]) == 130
    assert Path("q.octavo").read_bytes() == b"what was there"
    message = "8 samples are in part.npz: go on with --resume part.npz"
    assert message in capsys.readouterr().err
    monkeypatch.setattr(oc, "calibrate", whole)
    made = quantized(*arguments, "--resume", "part.npz", "--save-stats", "all.npz")
    data = oc.Dataset(X, batch_size=8)
    assert Statistics.load("all.npz") == whole(oc.load("net.octavo"), data)
    assert same(made, quantized(*arguments, "--stats", "all.npz"))


def test_an_interruption_without_a_file_for_statistics_writes_nothing(
    monkeypatch, tmp_path, capsys
):
    def interrupted(*_arguments, **_keywords):
        raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(oc, "quantize_model", interrupted)
    assert cli.main(["quantize", "net.octavo", "-o", "q.octavo", "--data", "x.npy"]) == 130
    assert sorted(tmp_path.iterdir()) == before
    assert capsys.readouterr().out == ""


def test_onnx_is_written_and_read(capsys):
    pytest.importorskip("onnx")
    assert cli.main(["quantize", "net.octavo", "-o", "q.onnx", "--data", "x.npy", "--quiet"]) == 0
    assert "written to q.onnx" in capsys.readouterr().out
    assert same(oc.load("q.onnx"), quantized("--data", "x.npy"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "q.tflite"], "-o is 'q.tflite', expected a name that ends in .onnx or .octavo"),
        (["-o", "gone/q.octavo"], "there is no folder 'gone' to write 'gone/q.octavo' to"),
        (["-o", "net.octavo"], "-o is the model itself"),
        (["--stats", "s.json"], "--stats is 's.json', expected a name that ends in .npz"),
        (["--stats", "gone.npz"], "gone.npz"),
        (["--stats", "x.npz", "--method", "mse"], "--method is for calibration"),
        (["--save-stats", "s.npz"], "--save-stats needs --data"),
        (["--resume", "s.npz"], "--resume needs --data"),
        (["--method", "mse"], "--method needs --data"),
        (["--activations", "static"], "--activations static needs --data (or --stats)"),
        (["--rounding", "gptq"], "--rounding gptq needs --data to round by"),
        (["--precision", "int3"], "precision of '*' is 'int3'"),
        (["--precision", "haed=int8"], "no layer matches 'haed'; nearest are 'head'"),
        (
            ["--precision", "int8", "--precision", "int4/32"],
            "says twice what '*' is: int8, int4/32",
        ),
        (["--data", "gone.npy"], "gone.npy"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(arguments, message, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    assert cli.main(["quantize", "net.octavo", "-o", "q.octavo", *arguments]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_onnx_is_missed_before_any_work(monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnx" else found(name)
    )
    monkeypatch.setattr(oc, "load", pytest.fail)
    assert cli.main(["quantize", "net.octavo", "-o", "q.onnx"]) == 1
    assert "writing ONNX needs onnx: pip install 'octavo[models]'" in capsys.readouterr().err


def test_stats_and_resume_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(
            ["quantize", "net.octavo", "-o", "q.octavo", "--stats", "s.npz", "--resume", "s.npz"]
        )
    assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_reasons_name_the_operators_that_are_most():
    counts = {"Add": 3, "Mul": 1, "Div": 2, "Sub": 1, "Max": 1, "Exp": 1, "Abs": 1}
    rows = [
        {"operator": op, "precision": "float32", "reason": f"{op} has no integer form"}
        for op, count in counts.items()
        for _ in range(count)
    ]
    rows.append({"operator": "Conv", "precision": "int8", "reason": ""})
    rows += [{"operator": "Add", "precision": "float32", "reason": "r"}] * 11
    assert quantize.stayed(Explanation(rows)) == [
        ("r", "Add 11", "11"),
        ("no integer form", "Add 3, Div 2, Mul 1, Sub 1, Max 1, others 2", "10"),
    ]


def test_names_of_layers_may_hold_equals_signs():
    assert quantize.read_precision(["a=b=float32"]) == {"*": "int8", "a=b": "float32"}
