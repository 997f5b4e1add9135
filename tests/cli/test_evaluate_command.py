"""`octavo evaluate`, and the options that commands with data share."""

import argparse
import json
import sys

import numpy as np
import pytest

from octavo import cli, runtime
from octavo.cli import data_options
from octavo.graph import Graph, Model, Node, Value
from octavo.strategy import evaluate as module
from octavo.strategy.evaluate import Evaluation

rng = np.random.default_rng(0)
X = rng.normal(size=(20, 6)).astype(np.float32)
W = rng.normal(size=(6, 3)).astype(np.float32)
Y = (X @ W).argmax(1)

FUNCTIONS = """
import numpy as np
calls = []

class Holder:
    @staticmethod
    def zero(x):
        return x * 0

def errors(y_true, y_pred):
    return float(np.mean(y_true != y_pred.argmax(1)))

def samples():
    return iter(np.ones((5, 6), np.float32))

constant = 3
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """The current folder, with models, data and a module of functions."""
    monkeypatch.setattr(module, "_SECONDS", 1e-3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    for name, w in (("exact", W), ("rounded", np.round(W))):
        x, y = Value("x", "float32", ("n", 6)), Value("y", "float32", ("n", 3))
        nodes = [Node("product", "MatMul", ["x", "w"], ["y"])]
        Model(Graph("net", [x], [y], nodes, {"w": w}, {})).save(f"{name}.octavo")
    np.savez("data.npz", x=X, label=Y)
    np.save("x.npy", X)
    np.save("y.npy", Y)
    (tmp_path / "functions_of_mine.py").write_text(FUNCTIONS)
    (tmp_path / "needs_another.py").write_text("import not_there_at_all\n")
    threads = runtime.get_num_threads()
    yield
    runtime.set_num_threads(threads)  # as --threads leaves it
    for name in ("functions_of_mine", "needs_another"):
        sys.modules.pop(name, None)


def figures(capsys, *arguments):
    assert cli.main(["evaluate", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_models_are_compared_with_the_first_one(capsys):
    assert cli.main(["evaluate", "exact.octavo", "rounded.octavo", "--data", "x.npy"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split() == ["model", "agreement", "ms", "p99", "ms", "faster", "MB"]
    assert lines[1].startswith("exact.octavo       1.0000")
    assert lines[2].startswith("rounded.octavo")
    assert "20 samples; greater agreement is better; a call is 20 samples" in captured.out
    report = figures(capsys, "exact.octavo", "rounded.octavo", "--data", "x.npy")
    agree = float(((X @ W).argmax(1) == (X @ np.round(W)).argmax(1)).mean())
    assert [row["value"] for row in report["rows"]] == [1.0, agree]


@pytest.mark.parametrize("data", [["data.npz", "label"], ["x.npy", "y.npy"]])
def test_with_labels_the_metric_is_top1(data, capsys):
    report = figures(capsys, "exact.octavo", "--data", data[0], "--labels", data[1])
    assert (report["metric"], report["rows"][0]["value"]) == ("top1", 1.0)


def test_functions_of_the_current_folder_are_found(capsys):
    report = figures(
        capsys,
        "exact.octavo",
        *("--data", "x.npy", "--labels", "y.npy", "--metric", "functions_of_mine:errors"),
        *("--transform", "functions_of_mine:Holder.zero"),
    )
    assert report["metric"] == "errors"
    assert report["rows"][0]["value"] == pytest.approx(np.mean(Y != 0))
    made = figures(capsys, "exact.octavo", "--data", "functions_of_mine:samples")
    assert made["samples"] == 5


def test_what_is_infinite_is_a_string_in_json(capsys):
    assert (
        figures(capsys, "exact.octavo", "--data", "x.npy", "--metric", "sqnr")["rows"][0]["value"]
        == "inf"
    )


def test_batch_limit_and_threads_apply(capsys):
    options = ("--data", "x.npy", "--batch", "4", "--limit", "9", "--metric", "cosine")
    report = figures(capsys, "exact.octavo", *options, "--threads", "1")
    assert (report["batch"], report["samples"], report["threads"]) == (4, 9, 1)


def test_the_figures_are_written(capsys):
    report = figures(capsys, "exact.octavo", "--data", "x.npy", "-o", "e.json")
    assert json.loads(json.dumps(Evaluation.load("e.json").to_dict())) == report


def test_equal_names_are_told_apart_by_their_folders(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "exact.octavo").write_bytes((tmp_path / "rounded.octavo").read_bytes())
    report = figures(capsys, "exact.octavo", "a/exact.octavo", "--data", "x.npy")
    assert [row["name"] for row in report["rows"]] == ["exact.octavo", "a/exact.octavo"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "gone.npy"], "gone.npy"),
        (["--data", "x.npy", "-o", "e.txt"], "expected a name that ends in .json"),
        (["--data", "x.npy", "--metric", "f1"], "metric is 'f1'"),
        (["--data", "x.npy", "--metric", "top1"], "compares with labels"),
        (["--data", "data.npz"], "'label', which is no input of the model; expected 'x'"),
        (["--data", "x.npy", "--labels", "l"], "y is 'l', expected one of the arrays of x: none"),
        (["--data", "x.npy", "--transform", "f"], "--transform is 'f', expected PACKAGE.MODULE:F"),
        (["--data", "x.npy", "--transform", "no_such.m:f"], "there is no module 'no_such'"),
        (["--data", "x.npy", "--metric", "functions_of_mine:f"], "'functions_of_mine' has no 'f'"),
        (["--data", "functions_of_mine:constant"], "a int, expected a function"),
        (["--data", "x.npy", "--metric", "needs_another:f"], "No module named 'not_there_at_all'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(arguments, message, capsys):
    assert cli.main(["evaluate", "exact.octavo", *arguments]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_one_model_is_not_named_twice(capsys):
    assert cli.main(["evaluate", "exact.octavo", "exact.octavo", "--data", "x.npy"]) == 1
    assert "named twice" in capsys.readouterr().err


def test_data_are_needed(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["evaluate", "exact.octavo"])
    assert caught.value.code == 2
    assert "--data" in capsys.readouterr().err


def test_progress_is_wanted_unless_quiet():
    assert data_options.progress_of(argparse.Namespace(quiet=True)) is None
    assert data_options.progress_of(argparse.Namespace(quiet=False)) == "auto"
