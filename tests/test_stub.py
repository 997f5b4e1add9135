"""python/octavo/_core.pyi is what pybind11-stubgen makes of the module, with the types below.

`python tests/test_stub.py python/octavo/_core.pyi` writes it anew.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import octavo

# What the generator cannot know of functions that take any Python object.
TYPES = {
    "__setstate__(self, arg0: tuple)": "__setstate__(self, arg0: tuple[numpy.ndarray])",
    "__call__(self, *args, **kwargs):": (
        "__call__(self, x: numpy.ndarray, out: numpy.ndarray | None = None) -> numpy.ndarray:"
    ),
    "axis: typing.Any) -> tuple:": "axis: int | None) -> tuple[numpy.ndarray, numpy.ndarray]:",
    "(x: typing.Any) -> tuple:": (
        "(x: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:"
    ),
    ") -> typing.Any:": ") -> numpy.ndarray:",
    "def shape(self, x: typing.SupportsInt | typing.SupportsIndex) -> tuple:": (
        "def shape(self, x: typing.SupportsInt | typing.SupportsIndex) -> tuple[int, ...]:"
    ),
    "isa_context: _contextvars.ContextVar": "isa_context: _contextvars.ContextVar[str | None]",
    "threads_context: _contextvars.ContextVar": (
        "threads_context: _contextvars.ContextVar[int | None]"
    ),
}


def generate(folder: Path) -> str:
    command = [sys.executable, "-m", "pybind11_stubgen", "octavo._core", "--output-dir", folder]
    subprocess.run([*command, "--exit-code"], check=True)
    text = (folder / "octavo/_core.pyi").read_text()
    for guess, known in TYPES.items():
        assert guess in text, f"the module has no {guess!r} any more"
        text = text.replace(guess, known)
    text = re.sub(
        r"(class ConvOp:.*?out: numpy\.ndarray \| None = None)\)",
        r"\1, residual: numpy.ndarray | None = None)",
        text,
        count=1,
        flags=re.DOTALL,
    )
    text = re.sub(
        r"(class Plan:.*?)\(self, x: numpy\.ndarray, out: .*? = None\) -> numpy\.ndarray:",
        r"\1(self, *inputs: numpy.ndarray) -> tuple[numpy.ndarray, ...] | None:",
        text,
        count=1,
        flags=re.DOTALL,
    )
    text = re.sub("^__version__: str = .*", "__version__: str", text, flags=re.MULTILINE)
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def test_the_stub_is_generated_from_the_module(tmp_path: Path) -> None:
    pytest.importorskip("pybind11_stubgen", reason="the stub is not checked without it")
    stub = Path(octavo.__file__).with_name("_core.pyi").read_text()
    assert stub == generate(tmp_path), "run: python tests/test_stub.py python/octavo/_core.pyi"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        Path(sys.argv[1]).write_text(generate(Path(scratch)))
