"""Float operators that octavo.nn has kernels for, and recurrent layers made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import nn
from octavo.array import QTensor
from octavo.graph.kernel import Arg, Attributes, Given, Kernel, Make, Native
from octavo.graph.products import are_float32, argument, as_float32, widened

Array = NDArray[Any]


def _function(function: Callable[..., Any], wide: Callable[[Array], Any] | None = None) -> Make:
    """A function of single values; `wide` computes it for float64."""

    def make(_a: Attributes, args: Sequence[Arg]) -> Kernel | None:
        if are_float32(args[:1]):
            return Kernel(widened(function), function.__name__, _native(function.__name__))
        return Kernel(wide) if wide is not None and args[0].dtype == "float64" else None

    return make


def _native(name: str) -> Native:
    """Return how a function of single values that has a kernel of this name adds itself to a plan."""
    return lambda given: given.plan.float_function(name, given.value(0))


def _float32(make: Callable[[Attributes], Kernel]) -> Make:
    """An operator with one output on values that float32 holds."""

    def checked(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
        return make(a) if are_float32(args) and a.outputs == 1 else None

    return checked


def _gelu(a: Attributes) -> Kernel:
    how = a.get("approximate", "none")
    native = _native("gelu_tanh" if how == "tanh" else "gelu")
    return Kernel(widened(partial(nn.gelu, approximate=how)), "gelu", native)


def _bias_gelu(approximate: str) -> Callable[[Attributes], Kernel]:
    def run(x: Array, bias: Array | None = None) -> Any:
        return nn.gelu(x if bias is None else x + bias, approximate=approximate)

    return lambda _a: Kernel(widened(run), "gelu")


def _silu(a: Attributes) -> Kernel:
    """``x * sigmoid(alpha * x)``."""
    alpha = np.float32(a.get("alpha", 1.0))
    if alpha == 1:
        return Kernel(widened(nn.silu), "silu", _native("silu"))
    return Kernel(widened(lambda x: x * nn.sigmoid(x * alpha)), "sigmoid")


def _softmax(a: Attributes) -> Kernel:
    axis = a.get("axis", -1 if a.version >= 13 else 1)
    if a.version >= 13:
        return Kernel(
            widened(lambda x: nn.softmax(x, axis)),
            "softmax",
            lambda given: given.plan.softmax(given.value(0), axis),
        )

    def run(x: Array) -> Any:  # all axes from this one on are one
        shape = x.shape[: axis % x.ndim]
        y: Any = nn.softmax(x.reshape(*shape, -1))
        return y.reshape(x.shape)

    def native(given: Given) -> int:
        plan, shape = given.plan, given.shape
        lead = shape[: axis % len(shape)]
        rows = plan.reshape(given.value(0), (*lead, math.prod(shape[len(lead) :])))
        return plan.reshape(plan.softmax(rows, -1), shape)

    return Kernel(widened(run), "softmax", native)


def _log_softmax(a: Attributes) -> Kernel:
    axis = a.get("axis", -1 if a.version >= 13 else 1)

    def run(x: Array) -> Any:
        y = x if a.version >= 13 else x.reshape(*x.shape[: axis % x.ndim], -1)
        along = axis if a.version >= 13 else -1
        wide = y.astype(np.float64)
        wide -= wide.max(along, keepdims=True)
        wide -= np.log(np.exp(wide).sum(along, keepdims=True))
        return wide.astype(np.float32).reshape(x.shape)

    return Kernel(widened(run))


def _layer_norm(a: Attributes) -> Kernel:
    axis, eps = a.get("axis", -1), a.get("epsilon", 1e-5)

    def run(x: Array, weight: Array, bias: Array | None = None) -> Any:
        shape = x.shape[axis:] if axis < 0 else x.shape[axis % x.ndim :]
        w = np.broadcast_to(weight, shape)
        b = None if bias is None else np.broadcast_to(bias, shape)
        return nn.layer_norm(x, w, b, axis=axis, eps=eps)

    def native(given: Given) -> int:
        bias = given.value(2) if given.is_given(2) else None
        return given.plan.layer_norm(given.value(0), given.value(1), bias, axis, eps)

    return Kernel(widened(run), "layer_norm", native)


def _rms_norm(a: Attributes) -> Kernel:
    axis, eps = a.get("axis", -1), a.get("epsilon", 1e-5)

    def run(x: Array, weight: Array) -> Any:
        return nn.rms_norm(x, np.broadcast_to(weight, x.shape[axis % x.ndim :]), axis=axis, eps=eps)

    def native(given: Given) -> int:
        return given.plan.rms_norm(given.value(0), given.value(1), None, axis, eps)

    return Kernel(widened(run), "rms_norm", native)


def _group_norm(a: Attributes) -> Kernel:
    groups, eps = a["num_groups"], a.get("epsilon", 1e-5)

    def run(x: Array, weight: Array, bias: Array) -> Any:
        if a.version < 21:  # one for each group
            weight, bias = (np.repeat(each, x.shape[1] // groups) for each in (weight, bias))
        return nn.group_norm(x, groups, weight, bias, eps=eps)

    return Kernel(widened(run), "group_norm")


def _instance_norm(a: Attributes) -> Kernel:
    eps = a.get("epsilon", 1e-5)
    return Kernel(
        widened(lambda x, w, b: nn.instance_norm(x, w, b, eps=eps)),
        "instance_norm",
    )


def _batch_norm(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    if not are_float32(args) or a.get("training_mode", 0) or a.outputs > 1:
        return None
    eps = a.get("epsilon", 1e-5)

    def run(x: Array, scale: Array, bias: Array, mean: Array, variance: Array) -> Any:
        factor, offset = batch_norm_line(scale, bias, mean, variance, eps)
        shape = (-1, *(1,) * (x.ndim - 2))
        return x * factor.reshape(shape) + offset.reshape(shape)

    return Kernel(widened(run))


def batch_norm_line(
    scale: Array, bias: Array, mean: Array, variance: Array, eps: float
) -> tuple[Array, Array]:
    """Return factor and offset of a batch norm at inference, computed in float64, as float32."""
    factor = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + eps)
    offset = bias.astype(np.float64) - mean.astype(np.float64) * factor
    return factor.astype(np.float32), offset.astype(np.float32)


# --- recurrent layers -----------------------------------------------------------------------------

_DEFAULT_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh")}


def _recurrent(op: str) -> Make:
    layers: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU}

    def make(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
        w, r, b = args[1].value, args[2].value, argument(args, 3)
        directions = 2 if a.get("direction", "forward") == "bidirectional" else 1
        if (
            not are_float32([*args[:4], *args[5:]])
            or w is None
            or r is None
            or isinstance(w, QTensor) != isinstance(r, QTensor)
            or (b.given and b.array is None)
            or argument(args, 7).given  # peepholes
            or a.get("clip")
            or a.get("input_forget")
            or tuple(a.get("activations") or ()) not in ((), _DEFAULT_ACTIVATIONS[op] * directions)
        ):
            return None
        options: dict[str, Any] = {
            "layout": int(a.get("layout", 0)),
            "direction": a.get("direction", "forward"),
        }
        if op == "GRU":
            options["linear_before_reset"] = bool(a.get("linear_before_reset", 0))
        bias = None if b.array is None else as_float32(b.array)
        if isinstance(w, QTensor) or isinstance(r, QTensor):
            layer = layers[op].from_quantized(w, r, bias, **options)
        else:
            half = w.dtype == r.dtype == np.float16
            options["precision"] = "float16" if half else "float32"
            layer = layers[op].from_float(as_float32(w), as_float32(r), bias, **options)
        name = f"{op.lower()} {layer.precision}"

        def run(x: Array, _w: Array, _r: Array, _b: Any = None, lengths: Any = None,
                *state: Any) -> tuple[Array, ...]:  # fmt: skip
            first = (None if each is None else as_float32(each) for each in state[:2])
            results = layer(as_float32(x), *first, sequence_lens=lengths)
            return tuple(each.astype(x.dtype, copy=False) for each in results)[: a.outputs]

        def native(given: Given) -> tuple[int, ...] | None:
            if given.is_given(4):
                return None
            states = [given.value(i) if given.is_given(i) else None for i in (5, 6)]
            results: tuple[int, ...] = layer.add_to(given.plan, given.value(0), *states)
            return results[: a.outputs]

        if a.outputs == 1:
            return Kernel(lambda *given: run(*given)[0], name, native)
        return Kernel(run, name, native)

    return make


def _embedding(_a: Attributes, args: Sequence[Arg]) -> Kernel:
    """Rows of a table; ONNX counts negative indices from the end."""
    table = args[0].value
    assert isinstance(table, QTensor)  # the pass made it
    rows = len(table)
    operator = nn.Embedding.from_quantized(table)
    name = table.dtype if table.group_size is None else f"{table.dtype}/{table.group_size}"

    def run(_table: Any, indices: Array) -> Array:
        if indices.size and indices.min() < 0:
            indices = np.where(indices < 0, indices + rows, indices)
        y: Array = operator(indices)
        return y

    return Kernel(run, f"embedding {name}")


KERNELS: dict[str, Make] = {
    "BatchNormalization": _batch_norm,
    "Erf": _function(nn.erf),
    "Exp": _function(nn.exp, np.exp),
    "GRU": _recurrent("GRU"),
    "Gelu": _float32(_gelu),
    "GroupNormalization": _float32(_group_norm),
    "InstanceNormalization": _float32(_instance_norm),
    "LSTM": _recurrent("LSTM"),
    "LayerNormalization": _float32(_layer_norm),
    "LogSoftmax": _float32(_log_softmax),
    "RMSNormalization": _float32(_rms_norm),
    "Sigmoid": _function(nn.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "Softmax": _float32(_softmax),
    "Swish": _float32(_silu),
    "Tanh": _function(nn.tanh, np.tanh),
    "com.microsoft.BiasGelu": _float32(_bias_gelu("none")),
    "com.microsoft.FastGelu": _float32(_bias_gelu("tanh")),
    "com.microsoft.Gelu": _float32(_gelu),
    "com.microsoft.QuickGelu": _float32(
        lambda a: _silu(a if "alpha" in a else Attributes(alpha=1.702))
    ),
    "octavo.Embedding": _embedding,
}
