"""`octavo demo`, in this process and as a user starts it."""

import json
import os

import numpy as np
import pytest

import octavo as oc
from octavo import cli, runtime
from octavo.cli import demo, machine


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
        assert 0 < int8["seconds_one_image"] < int8["seconds_all_images"]
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
