"""wheel_contents.py WHEEL: what is in a wheel, what must not be, how large it is."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LIMIT = 3_000_000
SYMBOLS = {"octavo_get_num_threads", "octavo_set_num_threads", "octavo_get_version"}


def main(path: str) -> None:
    names = zipfile.ZipFile(path).namelist()
    (module,) = (n for n in names if n.startswith("octavo/_core.") and n.endswith(".so"))
    for wanted in ("octavo/_core.pyi", "octavo/py.typed", "/licenses/LICENSE"):
        assert any(n.endswith(wanted) for n in names), f"{wanted} is missing"
    unwanted = [n for n in names if n.endswith((".cpp", ".h", ".inc", ".o", ".pyc"))]
    unwanted += [n for n in names if not n.startswith(("octavo/", "octavo-"))]
    assert not unwanted, unwanted
    assert Path(path).stat().st_size < LIMIT, f"{Path(path).stat().st_size} bytes"

    with tempfile.TemporaryDirectory() as folder:
        extracted = zipfile.ZipFile(path).extract(module, folder)

        def nm(*options: str) -> str:
            command = ["nm", *options, extracted]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        exported = {line.split()[-1] for line in nm("-D", "--defined-only").splitlines()}
        assert exported == {"PyInit__core", *SYMBOLS}, exported
        assert not nm().strip(), "the module is not stripped"
    print(f"{path}: {Path(path).stat().st_size} bytes, {len(names)} files")


if __name__ == "__main__":
    main(sys.argv[1])
