"""`octavo doctor`: it must pass here, and fail where a table is wrong."""

import json
from functools import partial

import numpy as np
import pytest

import octavo as oc
from octavo import cli, runtime
from octavo.cli import doctor
from octavo.cli.doctor import Case, Result

ARGUMENTS = ["doctor", "--seconds", "0.001"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SHAPES", ((1, 1, 1), (5, 16, 64), (13, 65, 131)))
    monkeypatch.setattr(doctor, "MATMUL_SIZE", 32)


def test_doctor_finds_every_table_equal(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*ARGUMENTS, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    isas = list(runtime.available_isas())
    assert [check["isa"] for check in report["checks"]] == isas
    assert all(check["cases"] == 54 and check["failed"] == [] for check in report["checks"])
    assert [ceiling["isa"] for ceiling in report["ceilings"]] == isas
    assert all(ceiling["peak"] > 0 and ceiling["matmul"] > 0 for ceiling in report["ceilings"])
    assert report["float32_macs_per_second"]["as set up here"] > 0


def test_doctor_prints_configuration_checks_and_ceiling(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(ARGUMENTS) == 0
    out = capsys.readouterr().out
    for text in (
        runtime.isa(),
        "Self-test",
        "equal",
        "int8 peak",
        "The ceiling of int8 on this CPU",
    ):
        assert text in out


def scaled_by_isa(factor: int) -> Result:
    """A matrix product that is wrong on every table but the scalar one."""
    a = np.ones((2, 2), np.uint8)
    result = oc.matmul(a, a)
    return result if runtime.isa() == "scalar" else result * factor


@pytest.mark.skipif(runtime.isa() == "scalar", reason="the scalar table is the reference")
def test_doctor_exits_with_1_where_a_table_differs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "cases", lambda: [Case("ones", partial(scaled_by_isa, 2))])
    assert cli.main(ARGUMENTS) == 1
    out = capsys.readouterr().out
    assert f"FAILED {runtime.available_isas()[0]}: ones: 4 differ from scalar" in out
    assert "FAILED scalar" not in out


def test_doctor_exits_with_1_where_all_tables_are_wrong_alike(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = np.ones((2, 2), np.uint8)
    wrong = Case("ones", partial(oc.matmul, one, one), exact=np.full((2, 2), 3))
    monkeypatch.setattr(doctor, "cases", lambda: [wrong])
    assert cli.main(ARGUMENTS) == 1
    assert "FAILED scalar: ones: 4 differ from NumPy" in capsys.readouterr().out


def test_doctor_exits_with_1_where_forcing_did_not_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runtime, "last_kernel", lambda: "other/gemm_u8s8s32")
    assert cli.main(ARGUMENTS) == 1
    assert "ran other/gemm_u8s8s32" in capsys.readouterr().out


def test_self_test_cases_are_not_all_zero() -> None:
    results = [case.compute() for case in doctor.cases()]
    assert sum(np.any(result != 0) for result in results) > 0.9 * len(results)
