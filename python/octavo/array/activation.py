"""Activations: ranges that a result is clipped to, and functions of one tensor as tables of codes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import _core
from octavo.array.interop import read_only
from octavo.array.qparams import QParams

Bounds = tuple[float | None, float | None]
Activation = str | Sequence[Any] | None

NO_BOUNDS: Bounds = (None, None)
_BOUNDS: dict[str, Bounds] = {"relu": (0.0, None), "relu6": (0.0, 6.0)}
# How many parameters each function may be given; all have defaults (docs/int8.md).
_TABLES = {
    "elu": 1,
    "gelu": 0,
    "gelu_tanh": 0,
    "hard_sigmoid": 2,
    "hard_swish": 0,
    "leaky_relu": 1,
    "sigmoid": 0,
    "silu": 0,
    "tanh": 0,
}


def as_activation(activation: Activation) -> str | tuple[Any, ...] | None:
    """Return an activation as a value that compares and hashes."""
    return activation if isinstance(activation, str | None) else tuple(activation)


def activation_bounds(activation: Activation, name: str = "activation") -> Bounds:
    """Return the range that an activation clips to; None is an open end."""
    if activation is None:
        return NO_BOUNDS
    if isinstance(activation, str):
        if activation in _BOUNDS:
            return _BOUNDS[activation]
    elif len(activation) == 3 and activation[0] == "clip":
        lo = -math.inf if activation[1] is None else float(activation[1])
        hi = math.inf if activation[2] is None else float(activation[2])
        if not lo <= hi or lo == math.inf or hi == -math.inf:
            raise ValueError(
                f"clip has bounds {lo} and {hi}, expected lo <= hi, both finite or None"
            )
        return (None if lo == -math.inf else lo), (None if hi == math.inf else hi)
    known = ", ".join(map(repr, _BOUNDS))
    raise ValueError(f"{name} is {activation!r}, expected {known}, ('clip', lo, hi) or None")


def table_function(activation: Activation) -> tuple[Any, ...] | None:
    """Return (name, parameter...) of an activation that is computed by a table, else None."""
    parts = (activation,) if isinstance(activation, str) else tuple(activation or ())
    if not parts or parts[0] in _BOUNDS or parts[0] == "clip":
        return None
    if parts[0] not in _TABLES:
        known = ", ".join(map(repr, [*_BOUNDS, *_TABLES]))
        raise ValueError(f"activation is {activation!r}, expected {known} or ('clip', lo, hi)")
    most = _TABLES[parts[0]]
    if len(parts) > 1 + most:
        raise ValueError(f"activation is {activation!r}, expected at most {most} parameters")
    return (parts[0], *(float(each) for each in parts[1:]))


@lru_cache(maxsize=256)
def table(
    function: tuple[Any, ...], x_qparams: QParams, out_qparams: QParams
) -> NDArray[np.int8 | np.uint8]:
    """Return the codes of a function for each byte of its input (docs/int8.md), read-only."""
    name, alpha, beta = (*function, None, None)[:3]
    codes: NDArray[Any] = _core.activation_table(
        name,
        x_qparams.scale,
        x_qparams.zero_point,
        x_qparams.dtype,
        out_qparams.scale,
        out_qparams.zero_point,
        out_qparams.dtype,
        alpha=alpha,
        beta=beta,
    )
    return read_only(codes)
