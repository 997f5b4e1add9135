"""Fixtures that every test may use."""

import os
import signal
import sys
from collections.abc import Iterator

import hypothesis
import pytest

from octavo import _core, runtime

# Time under emulation and sanitizers says nothing; small shapes keep it bearable.
IN_QEMU = os.environ.get("OCTAVO_IN_QEMU") == "1"
hypothesis.settings.register_profile("octavo", deadline=None)
hypothesis.settings.register_profile(
    "emulated",
    deadline=None,
    max_examples=10,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("emulated" if IN_QEMU else "octavo")

# Under qemu a child started by the true sys.executable would not be emulated.
sys.executable = os.environ.get("OCTAVO_TEST_PYTHON", sys.executable)

# A shell that starts a job in the background has it ignore Ctrl-C, and all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# MXCSR keeps sticky exception flags in its low bits; the rest is the mode.
STICKY_FLAGS = 0x3F


def pytest_report_header() -> str:
    return f"octavo: {_core.isa()} of {', '.join(_core.available_isas())}; {_core.cpu_name()}"


def pytest_sessionstart() -> None:
    _core.set_dots_per_thread(1)  # products of any size are shared out among threads
    expected = os.environ.get("OCTAVO_EXPECT_ISA")
    if expected and expected != _core.isa():
        raise pytest.UsageError(f"octavo chose {_core.isa()}, this run expects {expected}")


@pytest.fixture(params=_core.known_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test under each instruction set; it fails if its last kernel was of another one."""
    name: str = request.param
    try:
        _core.check_isa(name)
    except ValueError as error:
        pytest.skip(str(error))
    with runtime.force_isa(name):
        yield name
        assert _core.last_kernel().startswith(f"{name}/"), "the test did not run what it asked for"


@pytest.fixture(autouse=True)
def _floating_point_mode_is_left_as_found() -> Iterator[None]:
    before = _core.fp_control()
    yield
    assert _core.fp_control() & ~STICKY_FLAGS == before & ~STICKY_FLAGS
