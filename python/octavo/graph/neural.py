"""Float operators that octavo.nn has kernels for, and recurrent layers made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import nn
from octavo.graph.kernel import Arg, Attributes, Kernel, Make
from octavo.graph.products import are_float32, argument, as_float32, as_weights, widened
from octavo.nn import Linear

Array = NDArray[Any]


def _function(function: Callable[..., Any], wide: Callable[[Array], Any] | None = None) -> Make:
    """A function of single values; `wide` computes it for float64."""

    def make(_a: Attributes, args: Sequence[Arg]) -> Kernel | None:
        if are_float32(args[:1]):
            return Kernel(widened(function), function.__name__)
        return Kernel(wide) if wide is not None and args[0].dtype == "float64" else None

    return make


def _float32(make: Callable[[Attributes], Kernel]) -> Make:
    """An operator with one output on values that float32 holds."""

    def checked(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
        return make(a) if are_float32(args) and a.outputs == 1 else None

    return checked


def _gelu(a: Attributes) -> Kernel:
    return Kernel(widened(partial(nn.gelu, approximate=a.get("approximate", "none"))), "gelu")


def _bias_gelu(approximate: str) -> Callable[[Attributes], Kernel]:
    def run(x: Array, bias: Array | None = None) -> Any:
        return nn.gelu(x if bias is None else x + bias, approximate=approximate)

    return lambda _a: Kernel(widened(run), "gelu")


def _silu(a: Attributes) -> Kernel:
    """``x * sigmoid(alpha * x)``."""
    alpha = np.float32(a.get("alpha", 1.0))
    if alpha == 1:
        return Kernel(widened(nn.silu), "silu")
    return Kernel(widened(lambda x: x * nn.sigmoid(x * alpha)), "sigmoid")


def _softmax(a: Attributes) -> Kernel:
    axis = a.get("axis", -1 if a.version >= 13 else 1)
    if a.version >= 13:
        return Kernel(widened(lambda x: nn.softmax(x, axis)), "softmax")

    def run(x: Array) -> Any:  # all axes from this one on are one
        shape = x.shape[: axis % x.ndim]
        y: Any = nn.softmax(x.reshape(*shape, -1))
        return y.reshape(x.shape)

    return Kernel(widened(run), "softmax")


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

    return Kernel(widened(run), "layer_norm")


def _rms_norm(a: Attributes) -> Kernel:
    axis, eps = a.get("axis", -1), a.get("epsilon", 1e-5)

    def run(x: Array, weight: Array) -> Any:
        return nn.rms_norm(x, np.broadcast_to(weight, x.shape[axis % x.ndim :]), axis=axis, eps=eps)

    return Kernel(widened(run), "rms_norm")


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
    gates = {"LSTM": 4, "GRU": 3}[op]

    def make(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
        w, r, b = args[1], args[2], argument(args, 3)
        if (
            not are_float32([*args[:4], *args[5:]])
            or w.array is None
            or r.array is None
            or (b.given and b.array is None)
            or argument(args, 7).given  # peepholes
            or a.get("clip")
            or a.get("input_forget")
            or tuple(a.get("activations") or ())
            not in ((), _DEFAULT_ACTIVATIONS[op] * len(w.array))
        ):
            return None
        size = a["hidden_size"]
        bias = np.zeros((len(w.array), 2 * gates * size), np.float32)
        if b.array is not None:
            bias = as_float32(b.array)
        cell = _lstm_cell if op == "LSTM" else _gru_cell(bool(a.get("linear_before_reset", 0)))
        cells = [
            _Direction(w.array[i], r.array[i], bias[i], cell, size) for i in range(len(w.array))
        ]
        backwards = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
        directions = list(zip(cells, backwards[a.get("direction", "forward")], strict=True))
        batch_first = bool(a.get("layout", 0))

        def run(x: Array, _w: Array, _r: Array, _b: Any = None, lengths: Any = None,
                *state: Any) -> tuple[Array, ...]:  # fmt: skip
            dtype, x = x.dtype, as_float32(x)
            first = [None if each is None else as_float32(each) for each in state[:2]]
            if batch_first:
                x = x.swapaxes(0, 1)
                first = [None if each is None else each.swapaxes(0, 1) for each in first]
            first += [None] * (2 - len(first))
            made = [
                direction(x, lengths, [None if s is None else s[i] for s in first], reverse)
                for i, (direction, reverse) in enumerate(directions)
            ]
            y = np.stack([each[0] for each in made], 1)
            last = [np.stack(each, 0) for each in zip(*(each[1] for each in made), strict=True)]
            if batch_first:
                y = y.transpose(2, 0, 1, 3)
                last = [each.swapaxes(0, 1) for each in last]
            results = tuple(each.astype(dtype, copy=False) for each in (y, *last))
            return results[: a.outputs]

        if a.outputs == 1:
            return Kernel(lambda *given: run(*given)[0], f"{op.lower()} float32")
        return Kernel(run, f"{op.lower()} float32")

    return make


class _Direction:
    """One direction of a recurrent layer."""

    def __init__(self, w: Array, r: Array, bias: Array, cell: Any, size: int) -> None:
        w_bias, r_bias = np.split(bias, 2)  # of the product with the input, of the recurrent one
        self._size = size
        self._lstm = cell is _lstm_cell
        if self._lstm:
            w_bias, r_bias = w_bias + r_bias, np.zeros_like(r_bias)
        self._inputs = _linear(w, w_bias)
        self._cell = cell(r, r_bias, size)

    def __call__(
        self, x: Array, lengths: Array | None, first: list[Array | None], reverse: bool
    ) -> tuple[Array, list[Array]]:
        steps, batch = x.shape[:2]
        zeros = np.zeros((batch, self._size), np.float32)
        state = [zeros if each is None else each for each in first[: 1 + self._lstm]]
        gates: Array = self._inputs(x)
        y = np.zeros((steps, batch, self._size), np.float32)
        for t in reversed(range(steps)) if reverse else range(steps):
            after = self._cell(gates[t], *state)
            if lengths is None:
                state = after
                y[t] = state[0]
                continue
            # What lies behind the end of a sequence changes nothing and gives zeros.
            inside = (t < lengths)[:, None]
            state = [np.where(inside, new, old) for new, old in zip(after, state, strict=True)]
            y[t] = np.where(inside, state[0], np.float32(0))
        return y, state


def _linear(w: Array, bias: Array) -> Any:
    weights = as_weights(w)
    if isinstance(weights, np.ndarray):
        return Linear.from_float(weights, bias, precision="float32")
    return Linear.from_quantized(weights, bias)


def _lstm_cell(r: Array, bias: Array, size: int) -> Any:
    """Return the step of ONNX's LSTM, equations of its documentation; gates i, o, f, c."""
    recurrent = _linear(r, bias)

    def step(x: Array, h: Array, c: Array) -> list[Array]:
        gates = x + recurrent(h)
        i, o, f = np.split(nn.sigmoid(gates[:, : 3 * size]), 3, 1)
        c = f * c + i * nn.tanh(gates[:, 3 * size :])
        return [o * nn.tanh(c), c]

    return step


def _gru_cell(linear_before_reset: bool) -> Any:
    """Return a maker of the step of ONNX's GRU; gates z, r, h."""

    def cell(r: Array, bias: Array, size: int) -> Any:
        gates_of = _linear(r[: 2 * size], bias[: 2 * size])
        hidden = _linear(r[2 * size :], bias[2 * size :])

        def step(x: Array, h: Array) -> list[Array]:
            z, reset = np.split(nn.sigmoid(x[:, : 2 * size] + gates_of(h)), 2, 1)
            part = reset * hidden(h) if linear_before_reset else hidden(reset * h)
            candidate = nn.tanh(x[:, 2 * size :] + part)
            return [(np.float32(1) - z) * candidate + z * h]

        return step

    return cell


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
}
