"""`octavo demo`, in this process and as a user starts it."""

import dataclasses
import json
import os

import numpy as np
import pytest

import octavo as oc
import octavo.demo
from octavo import cli, runtime
from octavo.cli import demo, machine, strategies
from octavo.demo import forward_conv_float, forward_float, image, load_conv_digits, load_digits


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two small products, and an environment in which the command measures in this process."""
    monkeypatch.setattr(demo, "SHAPES", ((4, 16, 8), (1, 33, 65)))
    for name in machine.BLAS_THREADS:
        monkeypatch.setenv(name, "1")


@pytest.mark.usefixtures("quick")
def test_demo_reports_both_precisions_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--json", "--quiet", "--seconds", "0.001"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert captured.err == ""
    assert report["machine"]["isa"] == runtime.isa()
    assert report["machine"]["threads"] == 1
    assert (report["images"], report["calibration_images"]) == (797, 100)
    linear, convolutions = report["networks"][:2], report["networks"][2:]
    assert {network["layers"] for network in linear} == {demo.LINEAR}
    assert {network["layers"] for network in convolutions} == {demo.CONVOLUTIONS}
    for float32, int8 in (linear, convolutions):
        assert [float32["precision"], int8["precision"]] == ["float32", "int8"]
        assert float32["agreement"] == 1
        assert float32["accuracy"] > 0.97
        assert int8["accuracy"] > 0.97
        assert int8["agreement"] > 0.99
        assert int8["nbytes"] < 0.4 * float32["nbytes"]
        assert int8["seconds_one_image"] > 0 < int8["seconds_all_images"]
    assert [(p["m"], p["n"], p["k"]) for p in report["products"]] == [(4, 16, 8), (1, 33, 65)]
    assert all(p["ratio"] == p["float32_seconds"] / p["int8_seconds"] for p in report["products"])


@pytest.mark.usefixtures("quick")
def test_demo_prints_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert cli.main(["demo", "--seconds", "0.001"]) == 0
    captured = capsys.readouterr()
    for text in ("797 held-out images", demo.LINEAR, demo.CONVOLUTIONS, "1 x 33 x 65"):
        assert text in captured.out
    assert captured.out.count("float32 (NumPy)") == captured.out.count("int8 (octavo)") == 2
    assert "NumPy has no convolution" in captured.out
    assert "OPENBLAS_CORETYPE=Haswell" in captured.err


@pytest.mark.usefixtures("quick")
def test_demo_refuses_to_time_wrong_integers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*_arguments: object, out: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> None:
        out[...] = 1

    monkeypatch.setattr(oc, "matmul", wrong)
    assert cli.main(["demo", "--seconds", "0.001"]) == 1
    assert "wrong integers at 4 x 16 x 8" in capsys.readouterr().err


def test_demo_gives_numpy_as_many_threads(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in machine.BLAS_THREADS:
        monkeypatch.delenv(name, raising=False)
    # The child inherits no monkeypatched shapes: a command that only prints stands in for it.
    status = machine.rerun_with_equal_threads(["--version"], 2)
    assert status == 0
    assert capfd.readouterr().out == f"octavo {oc.__version__}\n"
    monkeypatch.setattr(os, "environ", os.environ | dict.fromkeys(machine.BLAS_THREADS, "2"))
    assert machine.rerun_with_equal_threads(["--version"], 2) is None


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of the held-out images: emulated, all of them take minutes."""
    digits = load_digits()
    few = dataclasses.replace(digits, images=digits.images[:150], labels=digits.labels[:150])
    monkeypatch.setattr(octavo.demo, "load_digits", lambda: few)


@pytest.mark.usefixtures("quick", "few_images")
def test_strategies_are_compared_on_both_networks(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--strategies", "--json", "--quiet", "--seconds", "0.001"]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    outcomes = json.loads(captured.out)["outcomes"]
    names = [strategies.FLOAT32, strategies.NAIVE, strategies.CALIBRATED, strategies.INT4]
    for layers, part in ((demo.LINEAR, outcomes[:4]), (demo.CONVOLUTIONS, outcomes[4:])):
        assert [(each["layers"], each["strategy"]) for each in part] == [(layers, n) for n in names]
        assert all(each["accuracy"] > 0.98 for each in part)
        assert all(each["seconds_one_image"] > 0 < each["seconds_all_images"] for each in part)
        whole, naive, calibrated, int4 = part
        assert float(whole["sqnr"]) == float("inf")
        assert calibrated["sqnr"] > naive["sqnr"] + 2 > int4["sqnr"] + 2 > 20
        assert int4["nbytes"] < 0.75 * naive["nbytes"]
        assert naive["nbytes"] < calibrated["nbytes"] < 0.3 * whole["nbytes"]


@pytest.mark.usefixtures("quick", "few_images")
def test_strategies_fit_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "--strategies", "--quiet", "--seconds", "0.001"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 110
    for name, meaning in strategies.MEANINGS.items():
        assert sum(line.startswith(name) for line in lines) == 3
        assert f"{name:17} {meaning}" in lines


def test_graphs_of_the_networks_compute_what_the_networks_do() -> None:
    digits, conv = load_digits(), load_conv_digits()
    x = digits.images[:50]
    expected = forward_float(digits, x)[-1]
    assert np.allclose(strategies.linear_model(digits)(x), expected, atol=1e-4)
    expected = forward_conv_float(conv, image(x))
    got = strategies.conv_model(conv)(x.reshape(-1, 1, 8, 8))
    assert np.allclose(got, expected, atol=1e-4)


def test_naive_layers_compute_in_integers_by_scales_of_whole_tensors() -> None:
    digits = load_digits()
    model = strategies.linear_model(digits)
    made = strategies.naive(model, digits.calibration)
    assert [layer.kernel for layer in made.layers] == ["quantize", *["linear int8"] * 3]
    for (w, _), node in zip(digits.layers, made.graph.nodes[1:], strict=True):
        held = made.graph.constants[node.inputs[1]]
        assert held.equals(oc.quantize(w, "int8"))
        assert held.axis is None
        assert node.attributes["x_qparams"].dtype == "int8"
    largest = np.float32(np.abs(digits.calibration).max())
    codes = made.graph.nodes[1].attributes["x_qparams"]
    assert (codes.scale, codes.zero_point) == (largest / np.float32(127), 0)
