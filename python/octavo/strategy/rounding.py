"""Error-compensated rounding of weights (GPTQ: Frantar et al. 2022, arXiv:2210.17323, algorithm 1).

Weights are rounded one input after the other; what rounding one did to the outputs, on the data, the
inputs that are not yet rounded make up for. With ``H = sum x x^T`` over the rows that a layer reads,
and U the upper Cholesky factor of its inverse, the error ``(w_i - q_i) / U_ii`` is taken from each
later weight j ``U_ij`` times. Scales are those of rounding to nearest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from octavo.array import QTensor
from octavo.graph.arrays import pool_sides
from octavo.graph.kernel import Attributes
from octavo.strategy.layers import CONVOLUTIONS, Layer
from octavo.strategy.samples import Gain, Samples, sqnr

Array = NDArray[Any]
# So much of the mean of H's diagonal is added to it: data may not tell all inputs apart.
DAMPING = 0.01
# Inputs that are rounded before what they did is taken from all later ones.
BLOCK = 64
_LARGEST = {"int8": 127, "int4": 7}  # codes of the scales that octavo chooses


def round_by_error(
    layers: Mapping[str, Layer], stored: dict[str, QTensor], samples: Samples
) -> list[Gain]:
    """Round weights anew in `stored`, where that lessens the error; return what was gained."""
    gains = []
    for name, w in list(stored.items()):
        layer = layers[name]
        if w.dtype not in _LARGEST or layer.node.op in ("Gather", "ConvTranspose"):
            continue
        hessian = _hessian(layer, samples.of(layer.node.inputs[0]))
        if hessian is None:
            continue
        groups = len(hessian)
        real = layer.matrix().astype(np.float64)
        real = real.reshape(groups, -1, real.shape[1])
        scale = _scales(w, layer).reshape(real.shape)
        codes = _round(real, scale, hessian, _LARGEST[w.dtype])
        near = layer.matrix(w.codes().astype(np.float64)).reshape(real.shape)
        signal = _energy(real, hessian)
        before = _energy(real - near * scale, hessian)
        after = _energy(real - codes * scale, hessian)
        if not after < before:
            continue
        stored[name] = QTensor(
            _unflattened(codes.reshape(-1, codes.shape[-1]), layer).astype(np.int8),
            w.scale, w.zero_point, dtype=w.dtype, axis=w.axis, group_size=w.group_size,
        )  # fmt: skip
        gains.append(Gain(name, "gptq", sqnr(signal, before), sqnr(signal, after)))
    return gains


def _hessian(layer: Layer, xs: list[Array]) -> Array | None:
    """Return ``sum x x^T`` over the rows of what each group of outputs sums over."""
    total: Array | None = None
    for x in xs:
        rows = _rows(layer, x).astype(np.float64)
        part = np.matmul(rows.swapaxes(-1, -2), rows)
        total = part if total is None else total + part
    return total


def _rows(layer: Layer, x: Array) -> Array:
    """Return the rows that outputs are products of, (groups, rows, inputs)."""
    if layer.node.op not in CONVOLUTIONS:
        return x.reshape(1, -1, x.shape[-1])
    a = Attributes(layer.node.attributes)
    kernel = layer.w.shape[2:]
    dims = len(kernel)
    steps = tuple(a.get("strides") or (1,) * dims)
    dilations = tuple(a.get("dilations") or (1,) * dims)
    before, behind, _ = pool_sides(a, x.shape[2:], kernel)
    padded = np.pad(x, ((0, 0), (0, 0), *zip(before, behind, strict=True)))
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    taps = sliding_window_view(padded, reach, tuple(range(2, 2 + dims)))
    whole = (slice(None), slice(None))
    places = tuple(slice(None, None, step) for step in steps)
    taps = taps[(*whole, *places, *(slice(None, None, d) for d in dilations))]
    groups = a.get("group", 1)
    n, c = x.shape[:2]
    split = taps.reshape(n, groups, c // groups, *taps.shape[2:])
    outer = tuple(range(3, 3 + dims))
    inner = tuple(range(3 + dims, 3 + 2 * dims))
    moved = split.transpose(1, 0, *outer, 2, *inner)
    return moved.reshape(groups, -1, c // groups * int(np.prod(kernel)))


def _scales(w: QTensor, layer: Layer) -> Array:
    """Return the scale of each weight, (outputs, inputs)."""
    outputs, inputs = layer.matrix().shape
    scale = w.scale.astype(np.float64)
    if w.group_size is None:
        return np.broadcast_to(scale.reshape(-1, 1), (outputs, inputs))
    by_output = scale if layer.kept == 0 else scale.T
    return np.repeat(by_output, w.group_size, 1)[:, :inputs]


def _round(real: Array, scale: Array, hessian: Array, largest: int) -> Array:
    """Return codes as floats; all arrays have the groups of a convolution first."""
    w, count = real.copy(), real.shape[-1]
    diagonal = np.einsum("gii->gi", hessian)
    dead = diagonal == 0  # inputs that are always 0
    damp = DAMPING * diagonal.mean(1, keepdims=True)
    h = hessian.copy()
    np.einsum("gii->gi", h)[...] += np.where(dead, 1.0, np.maximum(damp, 1e-12))
    upper = np.linalg.cholesky(np.linalg.inv(h)).swapaxes(-1, -2)
    codes = np.empty_like(w)
    for start in range(0, count, BLOCK):
        end = min(start + BLOCK, count)
        errors = np.empty((*w.shape[:-1], end - start))
        for i in range(start, end):
            codes[..., i] = np.clip(np.rint(w[..., i] / scale[..., i]), -largest, largest)
            off = w[..., i] - codes[..., i] * scale[..., i]
            errors[..., i - start] = off / upper[:, None, i, i]
            w[..., i:end] -= errors[..., i - start, None] * upper[:, None, i, i:end]
        w[..., end:] -= errors @ upper[:, start:end, end:]
    return codes


def _energy(w: Array, hessian: Array) -> float:
    """Return the sum of squares of the outputs."""
    return float(np.sum((w @ hessian) * w))


def _unflattened(matrix: Array, layer: Layer) -> Array:
    moved = np.moveaxis(layer.w, layer.kept, 0).shape
    return np.moveaxis(matrix.reshape(moved), 0, layer.kept)
