"""The machine: which instructions are used, on how many threads, and how to say otherwise."""

import operator
import os
import sys
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Literal, overload

import numpy as np

from octavo import _core

__all__ = [
    "available_isas",
    "force_isa",
    "get_num_threads",
    "isa",
    "known_isas",
    "last_kernel",
    "set_num_threads",
    "show_config",
    "threads",
]


def isa() -> str:
    """Return the instruction set that the next call here uses.

    The best that CPU and operating system support, unless `force_isa` or the environment variable
    ``OCTAVO_ISA`` (read at the first use) names another. The results have the same bits on all.

    Returns
    -------
    str
        One of `known_isas`.

    Raises
    ------
    ValueError
        ``OCTAVO_ISA`` names one that is not known, or that this machine lacks.

    Examples
    --------
    >>> from octavo import runtime
    >>> runtime.isa() in runtime.available_isas()
    True
    """
    return _core.isa()


def known_isas() -> list[str]:
    """Return the instruction sets that this build has kernels for, best first.

    Examples
    --------
    >>> from octavo import runtime
    >>> "scalar" in runtime.known_isas()
    True
    """
    return _core.known_isas()


def available_isas() -> list[str]:
    """Return those of `known_isas` that this machine can run, best first.

    Examples
    --------
    >>> from octavo import runtime
    >>> "scalar" in runtime.available_isas()
    True
    """
    return _core.available_isas()


def last_kernel() -> str:
    """Return the kernel that this thread's last call ran, as "isa/kernel"; "" before any.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> from octavo import runtime
    >>> with runtime.force_isa("scalar"):
    ...     _ = oc.matmul(np.ones((4, 4), np.uint8), np.ones((4, 4), np.int8))
    >>> runtime.last_kernel()
    'scalar/gemm_u8s8s32'
    """
    return _core.last_kernel()


class _Setting:
    """Sets a context variable when made; used with ``with``, puts the old value back."""

    def __init__(self, variable: ContextVar[Any], value: object) -> None:
        _core.enable_contexts()
        self._variable = variable
        self._value = value
        self._before = variable.get()
        variable.set(value)

    def __enter__(self) -> None:
        self._variable.set(self._value)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._variable.set(self._before)


class force_isa(_Setting):
    """Use the named instruction set from here on, in this thread.

    As a plain call it stays in force; in a ``with`` statement, until its end. Threads started later
    choose for themselves.

    Parameters
    ----------
    name : str or None
        One of `available_isas`; None for the default.

    Raises
    ------
    ValueError
        A name that is not known, or that this machine cannot run; it lists the known ones.

    Examples
    --------
    >>> from octavo import runtime
    >>> with runtime.force_isa("scalar"):
    ...     runtime.isa()
    'scalar'
    """

    def __init__(self, name: str | None) -> None:
        if name is not None:
            if not isinstance(name, str):
                raise TypeError(f"name is {type(name).__name__}, expected str or None")
            _core.check_isa(name)
        super().__init__(_core.isa_context, name)


class threads(_Setting):
    """Use at most `count` threads for calls from this thread: in a ``with`` statement, until its end.

    As a plain call it stays in force. Threads started later choose for themselves.

    Parameters
    ----------
    count : int or None
        At least 1, the calling thread included; None for `set_num_threads`' value.

    Raises
    ------
    ValueError
        A count below 1.

    Examples
    --------
    >>> import octavo as oc
    >>> with oc.threads(1):
    ...     oc.runtime.get_num_threads()
    1
    """

    def __init__(self, count: int | None) -> None:
        super().__init__(_core.threads_context, None if count is None else _check_count(count))


def set_num_threads(count: int) -> None:
    """Use at most `count` threads for calls from any thread of this process.

    Without it: ``OCTAVO_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the cores that the affinity
    mask and the cgroup quota allow. Results have the same bits whatever the count.

    Parameters
    ----------
    count : int
        At least 1, the calling thread included.

    Raises
    ------
    ValueError
        A count below 1.

    Examples
    --------
    >>> import octavo as oc
    >>> oc.set_num_threads(oc.runtime.get_num_threads())
    """
    _core.set_num_threads(_check_count(count))


def get_num_threads() -> int:
    """Return how many threads the next call here may use.

    Examples
    --------
    >>> import octavo as oc
    >>> oc.runtime.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def _check_count(count: int) -> int:
    if isinstance(count, bool):
        raise TypeError("count is bool, expected an integer of at least 1")
    number = operator.index(count)
    if number < 1:
        raise ValueError(f"count is {number}, expected at least 1")
    return number


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, dict[str, Any]]: ...
def show_config(mode: str = "stdout") -> dict[str, dict[str, Any]] | None:
    """Print what octavo is and what it found on this machine.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default "stdout"
        Print, or return the same as a dict of dicts, as `numpy.show_config` does.

    Raises
    ------
    ValueError
        Another mode, or ``OCTAVO_ISA`` names what this machine cannot run.

    Examples
    --------
    >>> import octavo as oc
    >>> sorted(oc.show_config(mode="dicts"))
    ['cpu', 'isa', 'octavo', 'threads']
    """
    if mode not in {"stdout", "dicts"}:
        raise ValueError(f"mode is {mode!r}, expected 'stdout' or 'dicts'")
    l1d, l2, l3 = _core.cache_sizes()
    config: dict[str, dict[str, Any]] = {
        "octavo": {
            "version": _core.__version__,
            "python": sys.version.split()[0],
            "numpy": np.__version__,
        },
        "cpu": {
            "name": _core.cpu_name(),
            "features": _core.cpu_features().split(),
            "caches": {"l1d": l1d, "l2": l2, "l3": l3},
        },
        "isa": {
            "used": isa(),
            "because": _reason(),
            "available": available_isas(),
            "known": known_isas(),
        },
        "threads": {"used": get_num_threads(), "cores": _core.usable_cores()},
    }
    if mode == "dicts":
        return config
    for section, entries in config.items():
        sys.stdout.write(f"{section}:\n")
        for name, value in entries.items():
            sys.stdout.write(f"  {name}: {_text(value)}\n")
    return None


def _reason() -> str:
    if _core.isa_context.get() is not None:
        return "runtime.force_isa"
    if os.environ.get("OCTAVO_ISA"):
        return "OCTAVO_ISA"
    return "the best that CPU and operating system support"


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {size >> 10} KiB" for name, size in value.items())
    return " ".join(value) if isinstance(value, list) else str(value)
