"""Operators on codes: ONNX's, and those that the passes make of them ("octavo." before the name).

The latter have QParams among their attributes and QTensors for weights; values between them are plain
arrays of codes. Arithmetic: docs/int8.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import _core
from octavo.array import QParams, QTensor, quantize
from octavo.array.activation import activation_bounds, table, table_function
from octavo.array.convolution import Result
from octavo.array.prepared import prepare
from octavo.graph.arrays import pool_sides
from octavo.graph.kernel import NCHW, NHWC, Arg, Attributes, Given, Kernel, Make
from octavo.graph.products import (
    Convolution,
    are_float32,
    argument,
    as_float32,
    linear_native,
)

Array = NDArray[Any]

EIGHT_BITS = ("int8", "uint8")


def _integers(x: Array | None) -> Array:
    return np.zeros((), np.int32) if x is None else x.astype(np.int32)


def _axis_of(scale: Array, axis: int, ndim: int) -> int | None:
    """Return the kept axis of a scale, None if there is one for all."""
    return axis % ndim if scale.ndim == 1 and (scale.size > 1 or ndim == 1) else None


def _params(scale: Array, zero_point: Array | None, axis: int, ndim: int) -> tuple[Any, ...]:
    kept = _axis_of(scale, axis, ndim)
    shape: tuple[int, ...] = () if kept is None else (-1,)
    scales = as_float32(scale).reshape(shape)
    return scales, np.broadcast_to(_integers(zero_point).reshape(shape), scales.shape), kept


def _constant_params(given: Given, axis: int) -> tuple[Any, ...] | None:
    """Return the parameters of codes in a plan, None where they are no constants."""
    scale, zero_point = given.constant(1), given.constant(2)
    if scale is None or (zero_point is None and given.is_given(2)):
        return None
    return _params(scale, zero_point, axis, len(given.shape))


# --- ONNX's own operators -------------------------------------------------------------------------

_CODE_NUMBERS = {2: "uint8", 3: "int8"}


def _quantize_linear(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    zero_point = argument(args, 2)
    dtype = zero_point.dtype or _CODE_NUMBERS.get(a.get("output_dtype") or 2)
    if dtype not in EIGHT_BITS or a.get("block_size", 0) or not are_float32(args[:2]):
        return None
    axis = a.get("axis", 1)

    def run(x: Array, scale: Array, zero_point: Array | None = None) -> Array:
        scales, zeros, kept = _params(scale, zero_point, axis, x.ndim)
        codes: Array = _core.quantize(as_float32(x), scales, zeros, dtype, kept)
        return codes

    def native(given: Given) -> int | None:
        known = _constant_params(given, axis)
        if known is None:
            return None
        scales, zeros, kept = known
        return given.plan.quantize(given.value(0), scales, zeros, dtype, kept)

    return Kernel(run, "quantize", native)


def _dequantize_linear(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    plain = (None, "int8", "uint8", "int16", "uint16", "int32")
    if args[0].dtype not in plain or a.get("block_size", 0) or not are_float32(args[1:2]):
        return None
    axis = a.get("axis", 1)

    def run(x: Array, scale: Array, zero_point: Array | None = None) -> Array:
        scales, zeros, kept = _params(scale, zero_point, axis, x.ndim)
        real: Array
        if x.dtype.name in EIGHT_BITS:
            real = _core.dequantize(x, scales, zeros, kept)
        else:
            shape = tuple(-1 if i == kept else 1 for i in range(x.ndim)) if kept is not None else ()
            shifted = x.astype(np.int64) - zeros.reshape(shape)
            real = shifted.astype(np.float32) * scales.reshape(shape)
        return real.astype(scale.dtype, copy=False)

    def native(given: Given) -> int | None:
        known = _constant_params(given, axis)
        return None if known is None else given.plan.dequantize(given.value(0), *known)

    return Kernel(run, "dequantize", native)


def _dynamic_quantize(_a: Attributes, _args: Sequence[Arg]) -> Kernel:
    def run(x: Array) -> tuple[Array, Array, Array]:
        q = quantize(x, "uint8")
        return q.codes(), q.scale, q.zero_point.astype(np.uint8)

    return Kernel(run, "quantize")


def _row_zero_point(zero_point: Array | None) -> Array:
    """Return the zero point of a's rows: one, or one for each row."""
    zeros = _integers(zero_point)
    if zeros.size == 1:
        return zeros.reshape(())
    return zeros if zeros.ndim == 1 else zeros[..., 0]


def _column_zero_point(zero_point: Array | None) -> Array:
    zeros = _integers(zero_point)
    if zeros.size == 1:
        return zeros.reshape(())
    return zeros if zeros.ndim == 1 else zeros[..., 0, :]


def _are_codes(args: Sequence[Arg]) -> bool:
    return all(arg.dtype in EIGHT_BITS for arg in args)


def _matmul_integer(_a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    if not _are_codes(args[:2]):
        return None
    b = args[1].array
    packed = _core.pack(b) if b is not None and b.ndim == 2 else None

    def run(a: Array, b: Array, a_zero: Array | None = None, b_zero: Array | None = None) -> Array:
        return _core.matmul(
            a,
            b if packed is None else packed,
            a_zero_point=_row_zero_point(a_zero),
            b_zero_point=_column_zero_point(b_zero),
        )

    return Kernel(run, "matmul int8")


def _conv_integer(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    """Sums with the zero point of x taken out afterwards, so that it may differ with each call.

    ``sum (x - z) w = sum x w - z sum w`` over the taps inside the image: the latter sum is the
    convolution of ones, which depends on the size alone.
    """
    w, w_zero = args[1], argument(args, 3)
    if not _are_codes(args[:2]) or w.array is None or w.rank not in (3, 4):
        return None
    if w_zero.given and w_zero.array is None:
        return None
    zeros = _integers(w_zero.array)
    per_output = zeros.size > 1
    zeros = zeros.reshape(-1 if per_output else ())
    scale = np.ones(zeros.shape, np.float32)
    weights = QTensor(w.array, scale, zeros, axis=0 if per_output else None)
    x_dtype = args[0].dtype
    assert x_dtype is not None  # they are codes
    result = Result(x_qparams=QParams(1.0, 0, x_dtype), out_dtype="int32")
    operator = Convolution(a, weights, None, result, False)

    def run(x: Array, _w: Array, x_zero: Array | None = None, _w_zero: Any = None) -> Array:
        sums = operator(x)
        zero = int(_integers(x_zero).reshape(()))
        if zero:
            sums = sums - np.int32(zero) * operator(np.ones((1, *x.shape[1:]), x.dtype))
        return sums

    return Kernel(run, "conv int8")


# --- what the passes make -------------------------------------------------------------------------


def _result(a: Attributes) -> Result:
    return Result(
        x_qparams=a["x_qparams"],
        out_qparams=a.get("out_qparams"),
        activation=a.get("activation"),
        residual_qparams=a.get("residual_qparams"),
        sum_qparams=a.get("sum_qparams"),
        sum_activation=a.get("sum_activation"),
    )


def _weights(args: Sequence[Arg]) -> tuple[QTensor, Array | None]:
    w = args[1].value
    assert isinstance(w, QTensor)  # the pass made it
    return w, argument(args, 2).array


def _conv(transposed: bool) -> Make:
    def make(a: Attributes, args: Sequence[Arg]) -> Kernel:
        w, bias = _weights(args)
        operator = Convolution(a, w, bias, _result(a), transposed)
        name = f"conv {w.dtype}"
        if a.get("sum_qparams") is not None:
            return Kernel(
                lambda x, _w, _b, residual: operator(x, residual),
                name,
                lambda given: operator.add_to(given, given.value(3)),
            )
        return Kernel(lambda x, *_: operator(x), name, operator.add_to)

    return make


def _linear(a: Attributes, args: Sequence[Arg]) -> Kernel:
    w, bias = _weights(args)
    operator = prepare(
        w,
        bias,
        x_qparams=a["x_qparams"],
        out_qparams=a.get("out_qparams"),
        bounds=activation_bounds(a.get("activation")),
    )
    run = operator.run
    return Kernel(lambda x, *_: run(x), f"linear {w.dtype}", linear_native(operator))


def _grouped_linear(a: Attributes, args: Sequence[Arg]) -> Kernel:
    """Weights in groups; x is float32, quantized row by row."""
    w, bias = _weights(args)
    operator = prepare(w, bias, bounds=activation_bounds(a.get("activation")))
    run = operator.run
    name = f"linear {w.dtype}/{w.group_size}"

    def call(x: Array, *_: Any) -> Array:
        return run(as_float32(x)).astype(x.dtype, copy=False)

    return Kernel(call, name, linear_native(operator))


def _matmul(a: Attributes, _args: Sequence[Arg]) -> Kernel:
    x, w, out = a["a_qparams"], a["b_qparams"], a.get("out_qparams")
    scale = np.float64(x.scale) * np.float64(w.scale)
    options: dict[str, Any] = {
        "a_zero_point": int(x.zero_point),
        "b_zero_point": int(w.zero_point),
        "multiplier": np.float32(scale if out is None else scale / np.float64(out.scale)),
        "dtype": "float32" if out is None else out.dtype,
    }
    if out is not None:
        options["zero_point"] = int(out.zero_point)
    return Kernel(
        lambda a, b: _core.matmul(a, b, **options),
        "matmul int8",
        lambda given: given.plan.matmul(given.value(0), given.value(1), **options),
    )


def _combine(function: Callable[..., Array]) -> Make:
    def make(a: Attributes, _args: Sequence[Arg]) -> Kernel:
        parts = [
            (q.scale, q.zero_point) for q in (a["a_qparams"], a["b_qparams"], a["out_qparams"])
        ]
        flat = [each for pair in parts for each in pair]
        dtype = a["out_qparams"].dtype
        lo, hi = activation_bounds(a.get("activation"))
        name = function.__name__

        def native(given: Given) -> int:
            add: Callable[..., int] = getattr(given.plan, name)
            return add(given.value(0), given.value(1), *flat, dtype, lo=lo, hi=hi)

        return Kernel(
            lambda left, right: function(left, right, *flat, dtype, lo=lo, hi=hi),
            f"{name} int8",
            native,
        )

    return make


def _activate(a: Attributes, _args: Sequence[Arg]) -> Kernel:
    x, out = a["x_qparams"], a["out_qparams"]
    function = table_function(a["activation"]) if a["activation"] != "identity" else ("identity",)
    if function is None:
        lo, hi = activation_bounds(a["activation"])
        most = float(np.finfo(np.float32).max)
        function = ("clip", -most if lo is None else lo, most if hi is None else hi)
    codes = table(function, x, out)
    return Kernel(
        lambda x: _core.lookup(x, codes),
        "lookup int8",
        lambda given: given.plan.lookup(given.value(0), codes),
    )


def _layout(a: Attributes) -> tuple[str, slice]:
    """Return the layout of images, and which of their axes are height and width."""
    return (NHWC, slice(1, 3)) if a.get("layout") == NHWC else (NCHW, slice(2, 4))


def _average_pool(a: Attributes, _args: Sequence[Arg]) -> Kernel:
    x, out = a["x_qparams"], a["out_qparams"]
    params = (x.scale, x.zero_point, out.scale, out.zero_point, out.dtype)
    layout, sizes = _layout(a)
    if "kernel_shape" not in a:
        flat, pixels = not a.get("keepdims", 1), (sizes.start, sizes.start + 1)

        def whole(images: Array, *_: Any) -> Array:
            y: Array = _core.average_pool(images, *params, None, layout=layout)
            return y.squeeze(pixels) if flat else y

        def native_whole(given: Given) -> int:
            y = given.plan.average_pool(given.value(0), *params, None, layout=layout)
            return given.plan.reshape(y, given.shape)

        return Kernel(whole, "average_pool int8", native_whole)
    kernel = tuple(a["kernel_shape"])
    strides = tuple(a.get("strides") or (1, 1))
    ceil, include = bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0))

    def run(images: Array) -> Array:
        before, behind, _ = pool_sides(a, images.shape[sizes], kernel)
        y: Array = _core.average_pool(
            images, *params, kernel, strides, (*before, *behind), ceil, include, layout
        )
        return y

    def native(given: Given) -> int:
        x, plan = given.value(0), given.plan
        before, behind, _ = pool_sides(a, plan.shape(x)[sizes], kernel)
        return plan.average_pool(
            x, *params, kernel, strides, (*before, *behind), ceil, include, layout
        )

    return Kernel(run, "average_pool int8", native)


def _max_pool(a: Attributes, _args: Sequence[Arg]) -> Kernel:
    kernel = tuple(a["kernel_shape"])
    strides, dilations = tuple(a.get("strides") or (1, 1)), tuple(a.get("dilations") or (1, 1))
    ceil = bool(a.get("ceil_mode", 0))
    layout, sizes = _layout(a)

    def run(images: Array) -> Array:
        before, behind, _ = pool_sides(a, images.shape[sizes], kernel)
        y: Array = _core.max_pool(
            images, kernel, strides, (*before, *behind), dilations, ceil, layout
        )
        return y

    def native(given: Given) -> int:
        x, plan = given.value(0), given.plan
        before, behind, _ = pool_sides(a, plan.shape(x)[sizes], kernel)
        return plan.max_pool(x, kernel, strides, (*before, *behind), dilations, ceil, layout)

    return Kernel(run, "max_pool int8", native)


def _concat(a: Attributes, _args: Sequence[Arg]) -> Kernel:
    out = a["out_qparams"]
    tables = [None if q == out else table(("identity",), q, out) for q in a["qparams"]]
    axis = a["axis"]
    return Kernel(
        lambda *codes: _core.concat(list(codes), tables, axis),
        "concat int8",
        lambda given: given.plan.concat([*map(given.value, range(given.inputs))], tables, axis),
    )


KERNELS: dict[str, Make] = {
    "ConvInteger": _conv_integer,
    "DequantizeLinear": _dequantize_linear,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "MatMulInteger": _matmul_integer,
    "QuantizeLinear": _quantize_linear,
    "com.microsoft.DequantizeLinear": _dequantize_linear,
    "com.microsoft.QuantizeLinear": _quantize_linear,
    "octavo.Activate": _activate,
    "octavo.Add": _combine(_core.add),
    "octavo.AveragePool": _average_pool,
    "octavo.Concat": _concat,
    "octavo.Conv": _conv(False),
    "octavo.ConvTranspose": _conv(True),
    "octavo.GroupedLinear": _grouped_linear,
    "octavo.Linear": _linear,
    "octavo.MatMul": _matmul,
    "octavo.MaxPool": _max_pool,
    "octavo.Mul": _combine(_core.multiply),
}
