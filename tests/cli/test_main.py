"""The command line as a whole: arguments, exit statuses, streams."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

import octavo as oc
from octavo import cli, runtime
from octavo.cli import demo, doctor, kernels, machine


def octavo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "octavo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def raising(error: BaseException) -> Callable[[object], int]:
    def run(_options: object) -> int:
        raise error

    return run


def test_python_dash_m_prints_the_version() -> None:
    done = octavo("--version")
    assert (done.returncode, done.stdout) == (0, f"octavo {oc.__version__}\n")


@pytest.mark.parametrize("module", [demo, doctor, kernels], ids=lambda module: module.__name__)
def test_every_command_has_help_and_version(
    module: object, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(module.__name__).rpartition(".")[2]  # type: ignore[attr-defined]
    for flag, expected in (("--help", f"usage: octavo {name}"), ("--version", "octavo ")):
        with pytest.raises(SystemExit) as exit_info:
            cli.main([name, flag])
        assert exit_info.value.code == 0
        assert capsys.readouterr().out.startswith(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["sing"], "invalid choice: 'sing'"),
        (["demo", "--threads", "0"], "0 is not 1 or more"),
        (["demo", "--threads", "two"], "invalid positive_int value: 'two'"),
        (["demo", "--seconds", "0"], "0 is not a positive number"),
        (["demo", "--seconds", "nan"], "nan is not a positive number"),
        (["demo", "-q", "-v"], "not allowed with"),
        (["kernels", "--shape", "3,4"], "3,4 is not M,N,K"),
        (["kernels", "--shape", "3,4,0"], "0 is not 1 or more"),
        (["kernels", "--isa", "mmx"], "invalid choice: 'mmx'"),
    ],
)
def test_misuse_exits_with_2_and_says_why(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    captured = capsys.readouterr()
    assert exit_info.value.code == 2
    assert message in captured.err
    assert captured.out == ""


def test_an_error_exits_with_1_and_one_line_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "run", raising(ValueError("got 3, expected 4")))
    assert cli.main(["demo"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "octavo demo: error: got 3, expected 4\n"
    assert captured.out == ""


def test_verbose_shows_the_traceback_of_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "run", raising(ValueError("got 3, expected 4")))
    with pytest.raises(ValueError, match="got 3"):
        cli.main(["demo", "-v"])


def test_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "run", raising(KeyboardInterrupt()))
    assert cli.main(["demo"]) == 130


def test_threads_apply_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    before = runtime.get_num_threads()
    seen = []

    def run(_options: object) -> int:
        seen.append(runtime.get_num_threads())
        return 0

    monkeypatch.setattr(kernels, "run", run)
    try:
        assert cli.main(["kernels", "--threads", "3"]) == 0
    finally:
        oc.set_num_threads(before)
    assert seen == [3]


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    command = [sys.executable, "-m", "octavo", "kernels", "--shape", "8,8,8", "--seconds", "0.001"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) == 1
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors


def test_a_busy_machine_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (9.0, 0.0, 0.0), raising=False)
    assert machine.load_notes() == [
        "this machine is busy (load 9.0 on 2 cores): the figures are not steady"
    ]
    monkeypatch.setattr(os, "getloadavg", lambda: (1.0, 9.0, 9.0), raising=False)
    assert machine.load_notes() == []
