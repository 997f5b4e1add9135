"""Tables, progress and durations."""

import argparse
import io
import sys

import pytest

from octavo.cli import terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


QUIET = argparse.Namespace(quiet=True, verbose=False)
NORMAL = argparse.Namespace(quiet=False, verbose=False)
VERBOSE = argparse.Namespace(quiet=False, verbose=True)


def test_table_aligns_names_left_and_figures_right(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_table(("name", "GB/s"), [("pack", "5"), ("quantize", "123.4")])
    assert capsys.readouterr().out == (
        "name       GB/s\n"
        "pack          5\n"
        "quantize  123.4\n"
    )  # fmt: skip


def test_table_on_a_terminal_holds_the_same_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "10")
    cells = ["a long name", "GB/s", "pack and unpack", "123.4"]
    terminal.print_table(cells[:2], [cells[2:]])
    text = screen.getvalue()
    assert all(cell in text for cell in cells), "a cell was cut to fit"
    assert "\x1b[3" not in text, "a colour in spite of NO_COLOR"


def test_progress_is_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.progress(NORMAL, "working")
    terminal.clear_progress()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_progress_is_a_plain_line_with_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.progress(VERBOSE, "working")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "working\n")


def test_progress_on_a_terminal_is_wiped_before_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    terminal.progress(QUIET, "never seen")
    terminal.progress(NORMAL, "a long message")
    terminal.progress(NORMAL, "short")
    terminal.print_text()
    shown = screen.getvalue()
    assert "never seen" not in shown
    assert shown == "\ra long message\rshort         \r     \r"


def test_notes_go_to_stderr_unless_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_notes(NORMAL, ["mind the gap"])
    terminal.print_notes(QUIET, ["unsaid"])
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "note: mind the gap\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (2.5, "2.5 s"),
        (0.99999, "1 s"),
        (0.0123, "12.3 ms"),
        (0.0009999, "1 ms"),
        (4.56e-6, "4.56 us"),
        (7e-8, "0.07 us"),
    ],
)
def test_duration_keeps_three_digits(seconds: float, text: str) -> None:
    assert terminal.duration(seconds) == text
