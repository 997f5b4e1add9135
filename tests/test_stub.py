"""python/octavo/_core.pyi is what pybind11-stubgen makes of the module.

`python tests/test_stub.py python/octavo/_core.pyi` writes it anew.
"""

import subprocess
import sys
from pathlib import Path

import pytest

import octavo


def generate(folder: Path) -> str:
    command = [sys.executable, "-m", "pybind11_stubgen", "octavo._core", "--output-dir", folder]
    subprocess.run([*command, "--exit-code"], check=True)
    return (folder / "octavo/_core.pyi").read_text()


def test_the_stub_is_generated_from_the_module(tmp_path: Path) -> None:
    pytest.importorskip("pybind11_stubgen", reason="the stub is not checked without it")
    stub = Path(octavo.__file__).with_name("_core.pyi").read_text()
    assert stub == generate(tmp_path), "run: python tests/test_stub.py python/octavo/_core.pyi"


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        Path(sys.argv[1]).write_text(generate(Path(scratch)))
