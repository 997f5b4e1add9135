"""Convolutions and matrix products: float32 and float16 weights, and codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import _core
from octavo.array import QTensor
from octavo.array.activation import activation_bounds
from octavo.array.convolution import PreparedConv, Result, Window
from octavo.array.prepared import PreparedLinear, prepare
from octavo.graph.arrays import are_numbers, pool_sides
from octavo.graph.kernel import NCHW, NHWC, NO_ARG, Arg, Attributes, Given, Kernel, Make, Native

Array = NDArray[Any]
Weights = QTensor | NDArray[np.float32]
_HALF_OR_FLOAT = (None, "float32", "float16")


def as_float32(x: Array) -> Array:
    """Return float32 values; what is float32 already, as it is."""
    return x if x.dtype == np.float32 else x.astype(np.float32)


def are_float32(args: Sequence[Arg]) -> bool:
    """Whether float32 holds all of these; weights that are stored as codes stand for floats."""
    return all(
        arg.dtype in _HALF_OR_FLOAT or isinstance(arg.value, QTensor) for arg in args if arg.given
    )


def widened(function: Callable[..., Any]) -> Callable[..., Array]:
    """Return `function` of float32 arrays for float16 ones too; the result is of the first's dtype."""

    def run(x: Array, *more: Array | None) -> Array:
        if x.dtype == np.float32:
            result: Array = function(x, *more)
            return result
        rest = [each if each is None else as_float32(each) for each in more]
        y: Array = function(as_float32(x), *rest)
        return y.astype(x.dtype)

    return run


def as_weights(value: Array | QTensor) -> Weights:
    """Return constant weights as operators take them: float16 stays 16 bits wide."""
    if isinstance(value, QTensor):
        return value
    if value.dtype == np.float16:
        return QTensor(value, 1.0)
    return np.ascontiguousarray(value, np.float32)


def argument(args: Sequence[Arg], index: int) -> Arg:
    """Return an argument, one that is not given where there are fewer."""
    return args[index] if index < len(args) else NO_ARG


# --- convolution ----------------------------------------------------------------------------------


class Convolution:
    """A convolution of images or signals, prepared anew only where padding follows from the size.

    Signals are images one high.
    """

    def __init__(
        self, a: Attributes, w: Weights, bias: Array | None, result: Result, transposed: bool
    ) -> None:
        self._a = a
        self._w = w
        self._bias = bias
        self._result = result
        self._transposed = transposed
        self.dims = w.ndim - 2
        self._layout = NHWC if a.get("layout") == NHWC else NCHW
        self._sizes = slice(1, -1) if self._layout == NHWC else slice(2, None)
        self._row = 1 if self._layout == NHWC else 2  # where the height of a signal belongs
        self._prepared: dict[tuple[Any, ...], PreparedConv] = {}
        if a.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") and not a.get("output_shape"):
            self._operator((0,) * self.dims)  # and so errors come early
            self._fixed = True
        else:
            self._fixed = False

    def __call__(self, x: Array, residual: Array | None = None) -> Array:
        """Return the result for `x`, float32 or codes."""
        if x.ndim != self.dims + 2:
            raise ValueError(f"x has {x.ndim} dimensions, expected {self.dims + 2}")
        operator = (
            next(iter(self._prepared.values()))
            if self._fixed
            else self._operator(x.shape[self._sizes])
        )
        if self.dims == 2:
            return operator.run(x, None, residual)
        more = None if residual is None else np.expand_dims(residual, self._row)
        y = operator.run(np.expand_dims(x, self._row), None, more)
        return np.squeeze(y, self._row)

    def add_to(self, given: Given, residual: int | None = None) -> int:
        """Add the convolution to a plan."""
        plan, x = given.plan, given.value(0)
        operator = self._operator(plan.shape(x)[self._sizes])
        y = operator.add_to(plan, *self._images(plan, operator, x, residual))
        return y if self.dims == 2 else plan.reshape(y, given.shape)

    def _images(
        self, plan: _core.PlanBuilder, operator: PreparedConv, *values: int | None
    ) -> list[Any]:
        """Return signals as images one high."""
        if self.dims == 2:
            return [*values]
        row = 1 if operator.window.layout == "NHWC" else 2
        shapes = [() if value is None else plan.shape(value) for value in values]
        return [
            None if value is None else plan.reshape(value, (*shape[:row], 1, *shape[row:]))
            for value, shape in zip(values, shapes, strict=True)
        ]

    def _operator(self, sizes: tuple[int, ...]) -> PreparedConv:
        sides, more = self._sides(sizes)
        key = (sides, more)
        operator = self._prepared.get(key)
        if operator is None:
            window = Window(
                2,
                self._pair("strides", 1),
                sides,
                False,
                self._pair("dilations", 1),
                self._a.get("group", 1),
                self._layout,
                self._transposed,
                more,
            )
            w = _as_images(self._w) if self.dims == 1 else self._w
            operator = PreparedConv(w, self._bias, window=window, result=self._result)
            self._prepared = {**self._prepared, key: operator}
        return operator

    def _pair(self, name: str, single: int) -> tuple[int, int]:
        values = tuple(self._a.get(name) or (1,) * self.dims)
        return (single, values[0]) if self.dims == 1 else (values[0], values[1])

    def _sides(self, sizes: tuple[int, ...]) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
        kernel = self._w.shape[2:]
        more = list(self._a.get("output_padding") or (0,) * self.dims)
        if self._transposed:
            before, behind = self._transposed_sides(sizes, kernel, more)
        elif self._fixed_pads():
            pads = self._a.get("pads") or (0,) * (2 * self.dims)
            before, behind = list(pads[: self.dims]), list(pads[self.dims :])
        else:
            before, behind, _ = pool_sides(self._a, sizes, kernel)
        if self.dims == 1:
            return (0, before[0], 0, behind[0]), (0, more[0])
        return (before[0], before[1], behind[0], behind[1]), (more[0], more[1])

    def _fixed_pads(self) -> bool:
        return bool(self._a.get("auto_pad", "NOTSET") == "NOTSET")

    def _transposed_sides(
        self, sizes: tuple[int, ...], kernel: tuple[int, ...], more: list[int]
    ) -> tuple[list[int], list[int]]:
        """By ONNX's ConvTranspose: padding follows where the size of the result is given."""
        auto = self._a.get("auto_pad", "NOTSET")
        wanted = self._a.get("output_shape")
        pads = self._a.get("pads") or (0,) * (2 * self.dims)
        if not wanted and auto in ("NOTSET", "VALID"):
            pads = pads if auto == "NOTSET" else (0,) * (2 * self.dims)
            return list(pads[: self.dims]), list(pads[self.dims :])
        strides = self._a.get("strides") or (1,) * self.dims
        dilations = self._a.get("dilations") or (1,) * self.dims
        before, behind = [], []
        for i, size in enumerate(sizes):
            out = wanted[i - self.dims] if wanted else size * strides[i]
            total = strides[i] * (size - 1) + more[i] + (kernel[i] - 1) * dilations[i] + 1 - out
            if total < 0:
                more[i] -= total
                total = 0
            less = total // 2
            first = total - less if auto != "SAME_UPPER" else less
            before.append(first)
            behind.append(total - first)
        return before, behind


def _as_images(w: Weights) -> Weights:
    if isinstance(w, np.ndarray):
        return w[:, :, None]
    if w.dtype == "float16":
        return QTensor(w.data[:, :, None], 1.0)
    return QTensor(w.codes()[:, :, None], w.scale, w.zero_point, dtype=w.dtype, axis=w.axis)


def _conv(transposed: bool) -> Make:
    def make(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
        w, bias = args[1], argument(args, 2)
        if w.rank not in (3, 4) or not are_float32(args):
            return None
        result = Result(activation=a.get("activation"))
        if w.value is None or (bias.given and bias.array is None):

            def run(x: Array, w: Array, b: Array | None = None) -> Array:
                operator = Convolution(
                    a, as_weights(w), None if b is None else as_float32(b), result, transposed
                )
                return widened(operator)(x)

            return Kernel(run, "conv float32, weights not constant")
        b = None if bias.array is None else as_float32(bias.array)
        weights = as_weights(w.value)
        convolution = Convolution(a, weights, b, result, transposed)
        operator = widened(convolution)
        return Kernel(lambda x, *_: operator(x), f"conv {weights.dtype}", convolution.add_to)

    return make


# --- matrix products ------------------------------------------------------------------------------


def linear_kernel(w: Weights, bias: Array | None, activation: Any) -> Kernel:
    """Return the kernel of ``activation(x @ w.T + bias)`` with float or grouped weights (out, in)."""
    operator = prepare(w, bias, bounds=activation_bounds(activation))
    run = widened(operator.run)
    group = None if isinstance(w, np.ndarray) else w.group_size
    name = f"linear {w.dtype}" if group is None else f"linear {w.dtype}/{group}"
    return Kernel(lambda x, *_: run(x), name, linear_native(operator))


def linear_native(operator: PreparedLinear) -> Native:
    """Return how a linear operator of octavo adds itself to a plan."""
    return lambda given: operator.add_to(given.plan, given.value(0))


def _matmul(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    x, w = args[0], args[1]
    bias = argument(args, 2)  # of a fused addition
    if not are_float32(args):
        return Kernel(np.matmul) if are_numbers(args) and not bias.given else None
    if w.value is not None and len(w.value.shape) == 2:
        weights = transposed(w.value)
        b = None if bias.array is None else as_float32(bias.array)
        return linear_kernel(weights, b, a.get("activation"))
    if x.dtype is None or w.dtype is None:
        return Kernel(lambda x, w: product(x, w) if x.dtype.kind == "f" else np.matmul(x, w))
    return Kernel(
        widened(product),
        "matmul float32",
        lambda given: given.plan.product(given.value(0), given.value(1)),
    )


def transposed(w: Array | QTensor) -> Weights:
    """Return constant weights (in, out) as (out, in)."""
    return w.T if isinstance(w, QTensor) else as_weights(w.T)


def product(a: Array, b: Array) -> Array:
    """Return ``a @ b`` for float32 arrays as `numpy.matmul` broadcasts: the same bits on every CPU.

    Each output is one chain of fused multiply-adds, as octavo's linear operator computes it.
    """
    if b.ndim == 1:
        return product(a, b[:, None])[..., 0]
    if a.ndim == 1:
        return product(a[None], b)[..., 0, :]
    if b.ndim == 2:
        return _core.FloatLinearOp(b.T)(a)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    left = np.broadcast_to(a, (*lead, *a.shape[-2:]))
    right = np.broadcast_to(b, (*lead, *b.shape[-2:])).swapaxes(-1, -2)
    y = np.empty((*lead, a.shape[-2], b.shape[-1]), np.float32)
    for index in np.ndindex(*lead):
        _core.FloatLinearOp(right[index])(left[index], y[index])
    return y


def _gemm(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    if not are_float32(args):
        return None
    alpha, beta = a.get("alpha", 1.0), a.get("beta", 1.0)
    flip_x, flip_w = bool(a.get("transA", 0)), bool(a.get("transB", 0))
    w, c = args[1], argument(args, 2)
    n = None if w.value is None else w.value.shape[0 if flip_w else 1]
    native: Native | None = None
    bias, added = None, c.given
    if c.array is not None and alpha == 1 and c.array.size == n and c.array.shape[-1:] == (n,):
        bias, added = np.float32(beta) * as_float32(c.array).reshape(-1), False
    activation = a.get("activation")
    if w.value is None:
        inner: Callable[..., Array] = _turned_product(flip_w)
        name = "matmul float32"
    else:
        value = w.value
        weights = (
            (value if isinstance(value, QTensor) else as_weights(value))
            if flip_w
            else (transposed(value))
        )
        fused = None if added or alpha != 1 else activation
        inner, name, native = linear_kernel(weights, bias, fused)
        if fused is not None:
            activation = None
        if flip_x or added or alpha != 1 or activation is not None:
            native = None

    def run(x: Array, w: Array, c: Array | None = None) -> Array:
        y = inner(x.T if flip_x else x, w)
        if alpha != 1:
            y = y * np.float32(alpha)
        if added and c is not None:
            y = y + np.float32(beta) * c
        if activation is not None:
            y = np.maximum(y, np.float32(0))
        return y

    return Kernel(widened(run), name, native)


def _turned_product(flip: bool) -> Callable[..., Array]:
    return lambda x, w: product(x, w.T if flip else w)


KERNELS: dict[str, Make] = {
    "Conv": _conv(False),
    "ConvTranspose": _conv(True),
    "Gemm": _gemm,
    "MatMul": _matmul,
}
