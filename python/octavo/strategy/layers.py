"""Layers with weights: what they are in a graph, and how to compute one alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.array import QParams, QTensor, quantize
from octavo.graph.executor import prepare_node
from octavo.graph.ir import Graph, Node, Value

Array = NDArray[Any]
CONVOLUTIONS = ("Conv", "ConvTranspose")
PRODUCTS = ("Gemm", "MatMul")


class Layer(NamedTuple):
    """A convolution, a product with constant weights, or a table that rows are taken from.

    `w` is float32 as the graph holds it; `kept` is the axis of the outputs in it, `channels` that of
    the inputs of the layer in x.
    """

    node: Node
    w: Array
    kept: int
    channels: int

    def matrix(self, w: Array | None = None) -> Array:
        """Return weights as (outputs, inputs): what each output sums over, in a row."""
        moved = np.moveaxis(self.w if w is None else w, self.kept, 0)
        return moved.reshape(len(moved), -1)


def layer_of(graph: Graph, node: Node) -> Layer | str | None:
    """Return a node as a layer with weights, why its weights stay as they are, or None: it has none."""
    op = node.op
    if op == "Gather":
        table = graph.array(node.inputs[0])
        if table is None or table.ndim != 2 or node.attributes.get("axis", 0) != 0:
            return None
        return _layer(node, table, 0, -1)
    if op not in (*CONVOLUTIONS, *PRODUCTS):
        return None
    w = graph.array(node.inputs[1])
    if w is None:
        return None if op == "MatMul" else "its weights are not constant"
    if op in CONVOLUTIONS:
        if w.ndim not in (3, 4):
            return f"convolutions of {w.ndim - 2} dimensions have no integer kernel"
        return _layer(node, w, 0 if op == "Conv" else 1, 1)
    if w.ndim != 2:
        return f"its weights have {w.ndim} dimensions"
    a = node.attributes
    if op == "Gemm":
        if a.get("alpha", 1.0) != 1 or a.get("beta", 1.0) != 1 or a.get("transA", 0):
            return "alpha, beta or transA is set"
        bias = graph.array(node.input(2))
        if node.input(2) and (bias is None or bias.size != w.shape[0 if a.get("transB", 0) else 1]):
            return "its bias is no constant for each output"
    return _layer(node, w, 0 if a.get("transB", 0) else 1, -1)


def _layer(node: Node, w: Array, kept: int, channels: int) -> Layer | str:
    if w.dtype not in (np.float32, np.float16):
        return f"its weights are {w.dtype}"
    if w.size == 0 or not np.isfinite(w).all():
        return "its weights are empty, or hold NaN or infinity"
    return Layer(node, w.astype(np.float32, copy=False), kept, channels)


def recurrent_weights(graph: Graph, node: Node, precision: str) -> list[QTensor] | str:
    """Return W and R of an LSTM or GRU, rows of all directions one after the other, or why not."""
    found = []
    for name in node.inputs[1:3]:
        w = graph.array(name)
        if w is None or w.ndim != 3 or w.dtype not in (np.float32, np.float16):
            return "its weights are not constant"
        if not np.isfinite(w).all():
            return "its weights hold NaN or infinity"
        dtype, _, group = precision.partition("/")
        rows = w.astype(np.float32, copy=False).reshape(-1, w.shape[2])
        if dtype == "float16":
            if np.abs(rows).max(initial=0) > np.finfo(np.float16).max:
                return "float16 cannot hold its weights"
            found.append(quantize(w.astype(np.float32, copy=False), "float16"))
        else:
            found.append(quantize(rows, dtype, axis=0, group_size=int(group) if group else None))
    return found


def quantized_weights(layer: Layer, precision: str) -> QTensor | str:
    """Return the weights of a layer as a precision stores them, or why it cannot hold them.

    8 bits: a scale for each output. Groups ("int4/32") go along what an output sums over; the
    integer kernels have them for products and tables, a convolution gets a scale for each output.
    """
    dtype, _, group = precision.partition("/")
    if dtype == "float16":
        if np.abs(layer.w).max() > np.finfo(np.float16).max:
            return "float16 cannot hold its weights"
        return quantize(layer.w, "float16")
    size = int(group) if group and layer.w.ndim == 2 else None
    return quantize(layer.w, dtype, axis=layer.kept, group_size=size)


def alone(layer: Layer, w: Array, bias: Array | None) -> Callable[[Array], Array]:
    """Return the layer as a float function of x, with other weights, and without activation."""
    attributes = {k: v for k, v in layer.node.attributes.items() if k != "activation"}
    names = ["x", "w"] if bias is None else ["x", "w", "b"]
    node = Node(layer.node.name, layer.node.op, names, ["y"], attributes, layer.node.version)
    constants = {"w": np.ascontiguousarray(w)} | ({} if bias is None else {"b": bias})
    x, y = Value("x", "float32"), Value("y", "float32")
    graph = Graph("layer", [x], [y], [node], dict(constants), {"x": x, "y": y})
    run = prepare_node(node, graph).run
    rest = [constants[name] for name in names[1:]]

    def call(x: Array) -> Array:
        result: Array = run(x, *rest)
        return result

    return call


def fake_quantize(x: Array, qparams: QParams | None, *, symmetric: bool = False) -> Array:
    """Return x as a layer reads it: at a fixed scale, or each row (image) by its own range."""
    if qparams is not None:
        return quantize(x, qparams=qparams).dequantize()
    axes = tuple(range(1, x.ndim))
    lo = np.minimum(x.min(axes, keepdims=True), 0)
    hi = np.maximum(x.max(axes, keepdims=True), 0)
    if symmetric:
        scale = np.maximum(hi, -lo) / np.float32(127)
        zero = np.zeros_like(scale)
        least, most = -127, 127
    else:
        scale = (hi - lo) / np.float32(255)
        least, most = 0, 255
    scale = np.where(scale > 0, scale, np.float32(1))
    if not symmetric:
        zero = np.clip(np.rint(-lo / scale), 0, 255)
    codes = np.clip(np.rint(x / scale) + zero, least, most)
    real: Array = (codes - zero) * scale
    return real
