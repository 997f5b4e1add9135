"""`octavo kernels`."""

import json

import pytest

from octavo import cli, runtime

ARGUMENTS = ["kernels", "--seconds", "0.001"]
KERNELS = [
    "matmul s32",
    "matmul u8",
    "matmul s32, not packed",
    "linear, static",
    "linear, dynamic",
    "pack",
    "quantize",
    "dequantize",
    "requantize",
]


# Not the fixture `isa`: the command offers no table that only tests have.
@pytest.mark.parametrize("isa", runtime.available_isas())
def test_kernels_times_every_kernel_on_the_isa_asked_for(
    isa: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*ARGUMENTS, "--json", "--isa", isa, "--shape", "3,17,9"]) == 0
    assert runtime.last_kernel().startswith(f"{isa}/")
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["kernel"] for row in rows] == KERNELS
    assert {(row["isa"], row["m"], row["n"], row["k"]) for row in rows} == {(isa, 3, 17, 9)}
    for row in rows:
        multiplies = row["kernel"].startswith(("matmul", "linear"))
        assert row["macs_per_second"] == (3 * 17 * 9 / row["seconds"] if multiplies else 0)
        assert row["bytes_per_second"] > 0
        assert row["share_of_roof"] > 0
        assert row["roof"] in ("arithmetic", "memory")


def test_kernels_takes_several_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*ARGUMENTS, "-q", "--shape", "2,3,4", "--shape", "1,1,1"]) == 0
    captured = capsys.readouterr()
    starts = [line.split("  ")[0] for line in captured.out.splitlines()]
    isa = runtime.isa()
    for m, n, k in ((2, 3, 4), (1, 1, 1)):
        table = starts.index(f"{isa}, M x N x K = {m} x {n} x {k}")
        assert starts[table + 1 : table + 2 + len(KERNELS)] == ["kernel", *KERNELS]
    assert captured.err == ""
