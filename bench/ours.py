"""Octavo's side of the tables: the same factories as in peers.py."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
from operands import X_SCALE, X_ZERO_POINT, Y_ZERO_POINT, Array, Elements, Product
from operands_conv import ConvOperands
from operands_tensor import ACTIVATIONS, ALPHA, A, B, TensorOperands
from rounds import Entrant, Probe

import octavo as oc
from octavo import _core


def products(p: Product, kinds: set[str], threads: int | None = None) -> list[Entrant]:
    """Every kind of product asked for; with threads, limited to so many of them."""
    m, n = p.shape[:2]
    packed = oc.pack(p.w)
    sums, codes = np.empty((m, n), np.int32), np.empty((m, n), np.uint8)
    real = np.empty((m, n), np.float32)
    a, w, x = p.a, p.w, p.x
    linear = oc.Linear.from_quantized(oc.QTensor(p.w_t, p.w_scale, axis=0))
    multiplier, float_multiplier = p.multiplier, p.float_multiplier
    calls: dict[str, Callable[[], Any]] = {
        "s32": lambda: oc.matmul(a, packed, out=sums),
        "u8": lambda: oc.matmul(
            a,
            packed,
            a_zero_point=X_ZERO_POINT,
            multiplier=multiplier,
            zero_point=Y_ZERO_POINT,
            dtype="uint8",
            out=codes,
        ),
        "f32": lambda: oc.matmul(
            a,
            packed,
            a_zero_point=X_ZERO_POINT,
            multiplier=float_multiplier,
            dtype="float32",
            out=real,
        ),
        "dyn": lambda: linear(x, out=real),
        "runtime": lambda: oc.matmul(a, w, out=sums),
    }
    made = []
    for kind, call in calls.items():
        if kind not in kinds:
            continue
        if threads is None:
            made.append(Entrant(name(kind), kind, "octavo", call, call))
        else:
            made.append(
                Entrant(
                    name(kind, threads), kind, "octavo", call, call, lambda: oc.threads(threads)
                )
            )
    return made


def name(kind: str, threads: int | None = None) -> str:
    return f"octavo_{kind}" + ("" if threads is None else f"_threads{threads}")


def packed_bytes(p: Product) -> int:
    return int(oc.pack(p.w).nbytes)


def convolution(p: ConvOperands, threads: int | None = None) -> Entrant:
    """The prepared operator; with threads, limited to so many of them."""
    s = p.shape
    made = oc.ConvTranspose2d if s.transposed else oc.Conv2d
    operator = made.from_quantized(
        oc.QTensor(p.w, p.w_scale, axis=1 if s.transposed else 0),
        p.bias,
        stride=s.stride,
        padding=s.padding * 2,
        dilation=s.dilation,
        groups=s.groups,
        layout="NHWC",
        x_qparams=oc.QParams(X_SCALE, p.x_zero_point),
        out_qparams=oc.QParams(p.y_scale, Y_ZERO_POINT),
    )
    x, out = p.x, np.empty((1, *s.out, s.o), np.uint8)

    def call() -> Array:
        return operator(x, out=out)

    limit = nullcontext if threads is None else lambda: oc.threads(threads)
    return Entrant(name("u8", threads), "u8", "octavo", call, call, limit)


def tensor(p: TensorOperands) -> Entrant:
    """The function of the operator, its table of 256 codes made ahead."""
    kind, (scale, zero_point) = p.op.kind, p.result
    a, b, out = p.a, p.b, np.empty_like(p.answer)
    same = (*A, scale, zero_point, "uint8")
    pair = (*A, *B, scale, zero_point, "uint8")
    kernel, stride, padding = ((v, v) for v in p.op.window)
    tables, arrays = [None, None], [a, b]
    if kind == "concat_rescaled":
        tables = [
            _core.activation_table("identity", *q, "uint8", scale, zero_point, "uint8")
            for q in (A, B)
        ]
    table = None
    if kind in ACTIVATIONS:
        alpha = ALPHA if kind == "leaky_relu" else None
        table = _core.activation_table(kind, *A, "uint8", scale, zero_point, "uint8", alpha=alpha)
    twice = (2 * a.shape[1], 2 * a.shape[2])
    resize = (*same, "NHWC")
    calls: dict[str, Callable[[], Any]] = {
        "add": lambda: _core.add(a, b, *pair, out=out),
        "multiply": lambda: _core.multiply(a, b, *pair, out=out),
        "scale_channels": lambda: _core.multiply(a, b, *pair, out=out),
        "max_pool": lambda: _core.max_pool(a, kernel, stride, padding * 2, layout="NHWC", out=out),
        "average_pool": lambda: _core.average_pool(
            a, *same, kernel, stride, padding * 2, layout="NHWC", out=out
        ),
        "global_average_pool": lambda: _core.average_pool(a, *same, None, layout="NHWC", out=out),
        "concat": lambda: _core.concat(arrays, tables, 3, out=out),
        "concat_rescaled": lambda: _core.concat(arrays, tables, 3, out=out),
        "resize_nearest": lambda: _core.resize(
            a, twice, "nearest", "asymmetric", "floor", *resize, out=out
        ),
        "resize_linear": lambda: _core.resize(
            a, twice, "linear", "half_pixel", "floor", *resize, out=out
        ),
    }
    call = calls.get(kind, lambda: _core.lookup(a, table, out=out))
    return Entrant(name(kind), kind, "octavo", call, call)


def elements(e: Elements) -> list[Entrant]:
    codes, real = np.empty_like(e.codes), np.empty_like(e.x)
    one = oc.QParams(X_SCALE, X_ZERO_POINT, "uint8")
    rows = oc.QParams(e.scales, e.zero_points, "uint8", axis=0)
    scale, zero_point = np.array(X_SCALE), np.array(X_ZERO_POINT, np.int32)
    calls: list[tuple[str, str, Callable[[], Array]]] = [
        ("quantize", "quantize", lambda: oc.quantize(e.x, qparams=one).codes()),
        (
            "quantize_out",
            "quantize",
            lambda: _core.quantize(e.x, scale, zero_point, "uint8", None, codes),
        ),
        ("quantize_channels", "quantize_channels", lambda: oc.quantize(e.x, qparams=rows).codes()),
        (
            "quantize_channels_out",
            "quantize_channels",
            lambda: _core.quantize(e.x, e.scales, e.zero_points, "uint8", 0, codes),
        ),
        ("dequantize", "dequantize", lambda: oc.dequantize(e.codes, one, out=real)),
        (
            "dequantize_channels",
            "dequantize_channels",
            lambda: oc.dequantize(e.codes, rows, out=real),
        ),
        (
            "requantize",
            "requantize",
            lambda: oc.requantize(e.sums, e.multiplier, X_ZERO_POINT, out=codes),
        ),
    ]
    return [Entrant(name(label), kind, "octavo", call, call) for label, kind, call in calls]


def ceilings(isa: str, read_bytes: int | None) -> list[Probe]:
    """What one core can do at most: products in registers, and a read of so many bytes."""
    probes = [Probe("peak", lambda seconds: _core.measure_peak(isa, seconds))]
    if read_bytes:
        probes.append(
            Probe("bandwidth", lambda seconds: _core.measure_bandwidth(read_bytes, seconds))
        )
    return probes


def describe() -> dict[str, object]:
    return {
        "octavo": oc.__version__,
        "isa": _core.isa(),
        "cpu": _core.cpu_name(),
        "cpu features": _core.cpu_features(),
        "caches": list(_core.cache_sizes()),
    }
