"""Progress: a bar where somebody watches, silence elsewhere, the caller's function anywhere."""

import io
import sys

import pytest

from octavo.strategy import progress as module
from octavo.strategy.progress import line, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def without_rich(monkeypatch):
    for name in ("rich.progress", "rich.console"):
        monkeypatch.setitem(sys.modules, name, None)


def test_a_function_is_told_of_each_step():
    seen = []
    with progress("work", 5, lambda *args: seen.append(args)) as step:
        step()
        step(4)
    assert seen == [(1, 5, "work"), (5, 5, "work")]


def test_nothing_is_shown_where_nobody_watches_or_wants_it(capsys, monkeypatch, clock):
    with progress("work", 2) as step:
        clock[0] += 1
        step()
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress("work", 2, None) as step:
        clock[0] += 1
        step()
    monkeypatch.setenv("TERM", "dumb")
    with progress("work", 2) as step:
        clock[0] += 1
        step()
    monkeypatch.setattr(sys, "stderr", None)
    with progress("work", 2) as step:
        step()
    assert (screen.getvalue(), *capsys.readouterr()) == ("", "", "")


def test_a_terminal_shows_a_line_that_is_wiped_at_the_end(monkeypatch, clock):
    without_rich(monkeypatch)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress("work", 4) as step:
        step()  # too soon to show
        clock[0] += 2
        step()
    bar = "work [############............] 2/4, 2 s left"
    assert screen.getvalue() == f"\r{bar}\r{'':{len(bar)}}\r"


def test_what_is_quick_shows_nothing(monkeypatch, clock):
    without_rich(monkeypatch)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress("work", 4) as step:
        step(4)
        clock[0] += 9
    assert screen.getvalue() == ""


def test_the_line_is_wiped_after_an_error_too(monkeypatch, clock):
    without_rich(monkeypatch)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")

    def interrupted():
        with progress("work") as step:
            clock[0] += 1
            step(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert screen.getvalue() == "\rwork 3, 1 s\r           \r"


def test_rich_draws_the_bar_where_it_is_installed(monkeypatch, clock):
    pytest.importorskip("rich")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    with progress("work", 4) as step:
        clock[0] += 1
        step(3)
    assert "work" in screen.getvalue()
    assert "3/4" in screen.getvalue()


def test_a_line_never_exceeds_its_total():
    assert line(9, 3, "work", 1.0) == f"work [{'#' * 24}] 9/3, 0 s left"
    assert line(0, 0, "work", 1.0) == "work 0, 1 s"


@pytest.mark.parametrize("how", ["bar", True, 3])
def test_another_way_is_refused(how):
    with pytest.raises(TypeError, match="expected 'auto', None or a callable"):
        progress("work", 1, how)
