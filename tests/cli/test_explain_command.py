"""`octavo explain`: what became of each layer."""

import json

import numpy as np
import pytest

import octavo as oc
from octavo import cli
from octavo.graph import Graph, Model, Node, Value


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """The current folder, with a model and what quantization has made of it."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    values = {name: Value(name, "float32", ("n", 8)) for name in "xzy"}
    nodes = [
        Node("product", "MatMul", ["x", "w"], ["z"], version=13),
        Node("soft", "Softmax", ["z"], ["y"], version=13),
    ]
    w = rng.normal(size=(8, 8)).astype(np.float32)
    model = Model(Graph("net", [values["x"]], [values["y"]], nodes, {"w": w}, values))
    model.save("net.octavo")
    oc.quantize_model(model).save("q.octavo")


def test_each_layer_has_a_line(capsys):
    assert cli.main(["explain", "q.octavo"]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{oc.explain(oc.load('q.octavo'))}\n"
    lines = printed.splitlines()
    assert lines[1].split() == ["product", "MatMul", "int8"]
    assert lines[2].split(maxsplit=3) == [
        "soft",
        "Softmax",
        "float32",
        "Softmax has no integer form",
    ]


def test_a_model_that_was_not_quantized_has_the_precision_of_its_kernels(capsys):
    assert cli.main(["explain", "net.octavo"]) == 0
    assert "0 of 2 layers in fewer bits" in capsys.readouterr().out


def test_json(capsys):
    assert cli.main(["explain", "q.octavo", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == oc.explain(oc.load("q.octavo")).to_dict()


def test_a_file_that_is_no_model_is_an_error(capsys):
    assert cli.main(["explain", "gone.octavo"]) == 1
    captured = capsys.readouterr()
    assert "gone.octavo" in captured.err
    assert captured.out == ""
