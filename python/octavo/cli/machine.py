"""What the figures were measured on, and how NumPy's own float32 is kept comparable."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

import octavo as oc

# Read by OpenBLAS, MKL, Accelerate and BLIS while NumPy is imported, never later.
BLAS_THREADS = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
)
_BLAS_OVERRIDES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")

_FLOAT_PEAK = """
import time, numpy as np
a, b, c = (np.ones(({size}, {size}), np.float32) for _ in range(3))
best = 1e9
end = time.perf_counter() + {seconds}
while best == 1e9 or time.perf_counter() < end:
    start = time.perf_counter()
    np.matmul(a, b, out=c)
    best = min(best, time.perf_counter() - start)
print({size}**3 / best)
"""


def describe() -> dict[str, object]:
    """Return the machine, the table in use and the versions."""
    config = oc.show_config(mode="dicts")
    return {
        "cpu": config["cpu"]["name"],
        "isa": config["isa"]["used"],
        "threads": config["threads"]["used"],
        "cores": config["threads"]["cores"],
        "system": f"{platform.system()} {platform.machine()}",
        **config["octavo"],
        "blas": blas_name(),
    }


def heading() -> str:
    """Return `describe()` as two lines of text."""
    found = describe()
    threads = f"{found['threads']} thread{'s' if found['threads'] != 1 else ''}"
    return (
        f"{found['cpu']} ({found['system']}), {found['isa']}, {threads} on {found['cores']} cores\n"
        f"octavo {found['version']}, NumPy {found['numpy']} with {found['blas']}, "
        f"Python {found['python']}"
    )


def blas_name() -> str:
    """Return the name and version of the BLAS that NumPy was built with."""
    config: Any = np.show_config(mode="dicts")
    blas = config["Build Dependencies"]["blas"]
    return f"{blas.get('name', 'unknown BLAS')} {blas.get('version', '')}".strip()


def load_notes() -> list[str]:
    """Return a note if other programs want this machine's cores."""
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load <= cores:
        return []
    return [f"this machine is busy (load {load:.1f} on {cores} cores): the figures are not steady"]


def blas_notes() -> list[str]:
    """Return a note if the environment holds NumPy's float32 to another CPU's kernels."""
    found = [f"{name}={os.environ[name]}" for name in _BLAS_OVERRIDES if os.environ.get(name)]
    if not found:
        return []
    unset = " ".join(f"-u {name}" for name in _BLAS_OVERRIDES)
    note = (
        f"{' '.join(found)}: NumPy's float32 may be slower than it can be here, and the ratios too "
        f"kind to int8. Compare with: env {unset} octavo ..."
    )
    return [note]


def rerun_with_equal_threads(arguments: Sequence[str], threads: int) -> int | None:
    """Run this command in a child whose BLAS uses `threads` threads; return its exit status.

    None when this process is that child already (or was started with equal settings). A BLAS takes
    its thread count from the environment while NumPy is imported, and a comparison in which one side
    has more cores says nothing.
    """
    wanted = dict.fromkeys(BLAS_THREADS, str(threads))
    if all(os.environ.get(name) == value for name, value in wanted.items()):
        return None
    command = [sys.executable, "-P", "-m", "octavo", *arguments, "--threads", str(threads)]
    return subprocess.run(command, env=os.environ | wanted, check=False).returncode


def float_peak(size: int, seconds: float, *, without_overrides: bool = False) -> float | None:
    """Measure NumPy's float32 on one thread: multiply-accumulates per second of a square product.

    In a child, for the reason above. None where that child dies (an OPENBLAS_CORETYPE that this CPU
    cannot run kills it).
    """
    environment = os.environ | dict.fromkeys(BLAS_THREADS, "1")
    if without_overrides:
        for name in _BLAS_OVERRIDES:
            environment.pop(name, None)
    code = _FLOAT_PEAK.format(size=size, seconds=seconds)
    child = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    return float(child.stdout) if child.returncode == 0 else None
