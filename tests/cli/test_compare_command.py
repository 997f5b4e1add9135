"""`octavo compare`: figures, the worst layers, files, the picture, errors."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

import octavo as oc
from octavo import cli
from octavo.graph import Graph, Model, Node, Value
from octavo.strategy.compare import Comparison

rng = np.random.default_rng(0)
X = rng.normal(size=(24, 16)).astype(np.float32)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """The current folder, with a model of three products, and the second one in 4 bits."""
    monkeypatch.chdir(tmp_path)
    values = {name: Value(name, "float32", ("n", 16)) for name in "xaby"}
    nodes = [
        Node(name, "MatMul", [given, f"w_{name}"], [made], version=13)
        for name, given, made in (("first", "x", "a"), ("second", "a", "b"), ("third", "b", "y"))
    ]
    constants = {f"w_{n.name}": rng.normal(size=(16, 16)).astype(np.float32) for n in nodes}
    model = Model(Graph("net", [values["x"]], [values["y"]], nodes, constants, values))
    model.save("net.octavo")
    oc.quantize_model(model, precision={"*": "int8", "second": "int4/16"}).save("q.octavo")
    np.save("x.npy", X)


MODELS = ["compare", "net.octavo", "q.octavo", "--data", "x.npy"]


def made(limit=None):
    data = oc.Dataset(X, limit=limit)
    return oc.compare(oc.load("net.octavo"), oc.load("q.octavo"), data)


def test_layers_are_shown_as_they_run(capsys):
    assert cli.main(MODELS) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{made()}\n"
    assert [line.split()[0] for line in captured.out.splitlines()[1:4]] == [
        "first", "second", "third",
    ]  # fmt: skip
    assert captured.err == ""


def test_the_worst_come_first_where_their_number_is_said(capsys):
    assert cli.main([*MODELS, "-n", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("second")


def test_json_and_limit(capsys):
    assert cli.main([*MODELS, "--json", "--limit", "5"]) == 0
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    expected = made(5)
    assert [row["layer"] for row in report["rows"]] == ["first", "second", "third"]
    assert [row["sqnr"] for row in report["rows"]] == [row["sqnr"] for row in expected.rows]
    assert report["rows"][0]["lost"] == "inf"


def test_all_figures_are_written(capsys):
    assert cli.main([*MODELS, "-o", "c.json", "-n", "1"]) == 0
    assert Comparison.load("c.json").rows == made().rows
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_picture_is_drawn(capsys):
    pytest.importorskip("matplotlib", reason="NOT TESTED: no pictures without matplotlib")
    assert cli.main([*MODELS, "-o", "c.png"]) == 0
    assert Path("c.png").read_bytes().startswith(b"\x89PNG")
    assert cli.main([*MODELS, "-o", "c.svg"]) == 0
    assert "<svg" in Path("c.svg").read_text()
    assert "second" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "c.txt"], "-o is 'c.txt', expected a name in .json, .png, .svg or .pdf"),
        (["-o", "gone/c.json"], "there is no folder 'gone'"),
        (["--data", "gone.npy"], "gone.npy"),
        (["--labels", "label"], "y is 'label'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(arguments, message, capsys):
    assert cli.main([*MODELS, *arguments]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_matplotlib_is_missed_before_any_work(monkeypatch, capsys):
    def no_matplotlib(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", no_matplotlib)
    monkeypatch.setattr(oc, "load", pytest.fail)
    assert cli.main([*MODELS, "-o", "c.png"]) == 1
    assert "pip install 'octavo[plot]'" in capsys.readouterr().err


def test_models_that_are_no_two_forms_of_one_are_refused(capsys):
    x, y = Value("other", "float32", ("n", 16)), Value("z", "float32", ("n", 16))
    node = Node("relu", "Relu", ["other"], ["z"], version=14)
    Model(Graph("net", [x], [y], [node], {}, {"other": x, "z": y})).save("relu.octavo")
    assert cli.main(["compare", "net.octavo", "relu.octavo", "--data", "x.npy"]) == 1
    assert "no value in common" in capsys.readouterr().err
