"""Where and with what a table was made."""

import datetime
import importlib
import os
import platform
import subprocess
from pathlib import Path


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def commit() -> str:
    """The commit that is checked out; "+" when files differ from it."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + (
        "+" if git("status", "--porcelain") else ""
    )


def openblas() -> str:
    """The kernels that NumPy's OpenBLAS chose, if threadpoolctl is there to tell."""
    try:
        threadpoolctl = importlib.import_module("threadpoolctl")
    except ImportError:
        return "unknown (threadpoolctl is not installed)"
    return ", ".join(
        f"{library.get('architecture')} {library.get('version')}"
        for library in threadpoolctl.threadpool_info()
        if library["internal_api"] == "openblas"
    )


def describe(cores: list[int], threads: int) -> dict[str, object]:
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "cpu": cpu_name(),
        "cores": cores,
        "threads": threads,
        "load before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "openblas": openblas(),
    }
