"""`octavo run` and `octavo inspect`."""

import json

import numpy as np
import pytest

from octavo import cli
from octavo.graph import Graph, Model, Node, Value


@pytest.fixture
def path(tmp_path):
    a, b = Value("a", "float32", ("n", 2)), Value("b", "float32", (2,))
    nodes = [
        Node("sum", "Add", ["a", "b"], ["s"]),
        Node("last", "MatMul", ["s", "w"], ["y"]),
        Node("other", "Neg", ["a"], ["z"]),
    ]
    w = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    graph = Graph("net", [a, b], [Value("y"), Value("z")], nodes, {"w": w}, {})
    Model(graph).save(tmp_path / "net.octavo")
    return str(tmp_path / "net.octavo")


@pytest.fixture
def data(tmp_path):
    np.savez(tmp_path / "in.npz", a=np.array([[1.0, 0.0]]), b=np.array([0.0, 1.0]))
    return str(tmp_path / "in.npz")


def test_inspect_prints_inputs_layers_and_sizes(path, capsys):
    assert cli.main(["inspect", path, "--layers"]) == 0
    out = capsys.readouterr().out
    for expected in ("input   a: float32[n, 2]", "output  y", "last", "MatMul", "24 B", "3 layers"):
        assert expected in out


def test_inspect_gives_json(path, capsys):
    assert cli.main(["inspect", path, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in report["layers"]] == ["sum", "last", "other"]
    assert report["inputs"][0] == {"name": "a", "dtype": "float32", "shape": ["n", 2]}
    assert (report["bytes"], report["fallbacks"]) == (24, [])


def test_run_prints_and_writes_the_outputs(path, data, tmp_path, capsys):
    out = str(tmp_path / "out.npz")
    assert cli.main(["run", path, "--data", data, "-o", out, "--seconds", "0.01"]) == 0
    printed = capsys.readouterr().out
    assert "(1, 3)" in printed
    assert "median" in printed
    with np.load(out) as results:
        assert results["y"].tolist() == [[5, 7, 9]]
        assert results["z"].tolist() == [[-1, 0]]


def test_run_gives_json(path, data, capsys):
    assert cli.main(["run", path, "--data", data, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["outputs"]["y"] == {
        "dtype": "float32",
        "shape": [1, 3],
        "least": 5.0,
        "mean": 7.0,
        "greatest": 9.0,
    }


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((1, 2))}, "input 'b' is missing, expected 'a', 'b'"),
        ({"a": np.zeros((1, 2)), "c": np.zeros(2)}, "no input 'c', expected 'a', 'b'"),
        (np.zeros((1, 2)), "holds one array, the model has inputs a, b"),
    ],
)
def test_wrong_data_is_named(arrays, message, path, tmp_path, capsys):
    if isinstance(arrays, dict):
        np.savez(tmp_path / "wrong.npz", **arrays)
    else:
        np.save(tmp_path / "wrong.npy", arrays)
    (wrong,) = tmp_path.glob("wrong.*")
    assert cli.main(["run", path, "--data", str(wrong)]) == 1
    assert message in capsys.readouterr().err


def test_what_is_no_model_or_no_npz_is_named(path, data, tmp_path, capsys):
    assert cli.main(["run", path, "--data", data, "-o", str(tmp_path / "out.txt")]) == 1
    assert "expected a name that ends in .npz" in capsys.readouterr().err
    (tmp_path / "broken.octavo").write_bytes(b"PK\x03\x04 nothing")
    assert cli.main(["inspect", str(tmp_path / "broken.octavo")]) == 1
    assert "not a valid .octavo file" in capsys.readouterr().err
    assert cli.main(["inspect", str(tmp_path / "gone.onnx")]) == 1
    assert "gone.onnx" in capsys.readouterr().err


def test_a_single_input_is_read_from_npy(tmp_path, capsys):
    graph = Graph(
        "net", [Value("x", "float32", (2,))], [Value("y")], [Node("n", "Neg", ["x"], ["y"])], {}, {}
    )
    Model(graph).save(tmp_path / "one.octavo")
    np.save(tmp_path / "x.npy", np.array([1.0, 2.0]))
    arguments = ["run", str(tmp_path / "one.octavo"), "--data", str(tmp_path / "x.npy"), "--json"]
    assert cli.main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["outputs"]["y"]["least"] == -2


@pytest.mark.parametrize("command", ["run", "inspect"])
def test_the_commands_have_help_and_version(command, capsys):
    for flag, expected in (("--help", f"usage: octavo {command}"), ("--version", "octavo ")):
        with pytest.raises(SystemExit) as caught:
            cli.main([command, flag])
        assert caught.value.code == 0
        assert capsys.readouterr().out.startswith(expected)
