"""Passes that make integer operators of quantized models: QDQ and QOperator forms alike.

In QDQ form an operator stands between DequantizeLinear and QuantizeLinear. Where octavo has it in
integers the three become one, with the codes on both sides; what is left computes in float.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.array import QParams, QTensor
from octavo.graph.ir import Constant, Graph, Node, Value
from octavo.graph.passes import clip_of, only_use

# Operators that are a function of single values.
FUNCTIONS = (
    "Clip",
    "Elu",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Relu",
    "Sigmoid",
    "Swish",
    "Tanh",
)
# Metadata: the layers, a list of names in JSON, that quantize activations as they come.
DYNAMIC = "octavo.dynamic"
_CODES = ("int8", "uint8")
# What moves values about, and nothing else: so it moves their codes.
RECURRENT = ("GRU", "LSTM")
MOVES = (
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
)
_BITS = {"int8": 8, "uint8": 8, "int4": 4, "uint4": 4}


class Codes(NamedTuple):
    """A value as codes: its name, and how they are read."""

    name: str
    qparams: QParams


def integer_operators(graph: Graph) -> None:
    """Rewrite all that can be computed in integers."""
    infer_dtypes(graph)
    for node in list(graph.nodes):
        lower = _QOPERATORS.get(node.op)
        if lower is not None:
            lower(graph, node)
    _quantize_early(graph)
    found = _Quantized(graph)
    for node in list(graph.nodes):
        fuse = _PATTERNS.get(node.op)
        if fuse is not None and fuse(found, node):
            found.refresh()


# The input that has the dtype of the result, where that is not the first.
_DTYPE_OF = {
    "DequantizeLinear": 1,
    "QGemm": 8,
    "QLinearAdd": 7,
    "QLinearAveragePool": 4,
    "QLinearConcat": 1,
    "QLinearConv": 7,
    "QLinearGlobalAveragePool": 4,
    "QLinearLeakyRelu": 4,
    "QLinearMatMul": 7,
    "QLinearMul": 7,
    "QLinearSigmoid": 4,
    "QLinearSoftmax": 4,
    "QuantizeLinear": 2,
    "Where": 1,
}


def infer_dtypes(graph: Graph) -> None:
    """Fill in dtypes that onnx does not know, since it knows no operators of com.microsoft.

    It knows those of results that have a dtype of their own: what is left has an input's.
    """
    for node in graph.nodes:
        first = node.outputs[0] if node.outputs else ""
        if not first or graph.value(first).dtype is not None:
            continue
        op = node.op.removeprefix("com.microsoft.")
        dtype = graph.value(node.input(_DTYPE_OF.get(op, 0))).dtype
        known = "." not in op and (op in _DTYPE_OF or op == node.op)
        if known and dtype is not None:
            graph.values[first] = Value(first, dtype, graph.value(first).shape)


# Each value goes somewhere, once: its code may go there instead.
_REORDERING = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def _quantize_early(graph: Graph) -> None:
    """Let QuantizeLinear come before what moves values, so that what makes them can make codes."""
    producers, uses = graph.producers(), graph.uses()
    for node in list(graph.nodes):
        if node.op.split(".")[-1] != "QuantizeLinear" or node.attributes.get("block_size", 0):
            continue
        codes = graph.value(node.outputs[0])
        if one_scale(graph, node.inputs[1], node.input(2), codes.dtype) is None:
            continue
        moves: list[Node] = []  # from the last to the first
        source, reader = node.inputs[0], node
        maker = producers.get(source)
        while maker is not None and only_use(uses, source) is reader and maker.op in _REORDERING:
            moves.append(maker)
            source, reader = maker.inputs[0], maker
            maker = producers.get(source)
        if not moves or maker is None or only_use(uses, source) is not reader:
            continue
        if maker.op not in _PATTERNS or maker.op in (*MOVES, "QuantizeLinear"):
            continue
        result = node.outputs[0]
        node.inputs[0], node.outputs = source, [graph.new_name(f"{source}_codes")]
        graph.values[node.outputs[0]] = graph.value(source)._replace(
            name=node.outputs[0], dtype=codes.dtype
        )
        moves[-1].inputs[0] = node.outputs[0]
        for move in moves[1:]:
            value = graph.value(move.outputs[0])
            graph.values[value.name] = value._replace(dtype=codes.dtype)
        moves[0].outputs = [result]
        graph.nodes.remove(node)
        graph.nodes.insert(graph.nodes.index(moves[-1]), node)
        producers, uses = graph.producers(), graph.uses()


# --- constants ------------------------------------------------------------------------------------


def one_scale(graph: Graph, scale: str, zero_point: str, dtype: str | None) -> QParams | None:
    """Return the parameters that constants describe, if there is one scale and 8 bits."""
    scales, zeros = graph.array(scale), graph.array(zero_point)
    if zeros is not None:
        dtype = zeros.dtype.name  # that of the codes, which may not be known
    if scales is None or scales.size != 1 or (zero_point and zeros is None) or dtype not in _CODES:
        return None
    if zeros is not None and zeros.size != 1:
        return None
    zero = 0 if zeros is None else int(zeros.reshape(()))
    try:
        return QParams(float(scales.reshape(())), zero, dtype)
    except ValueError:  # a scale of 0 and the like
        return None


def _quantized_weights(
    codes: NDArray[Any],
    scale: NDArray[Any],
    zero_point: NDArray[Any] | None,
    axis: int,
    block: int = 0,
) -> QTensor | None:
    """Return weights with one scale, one for each index of an axis, or blocks along it."""
    dtype = codes.dtype.name
    if dtype not in _BITS:
        return None
    zeros = np.zeros(scale.shape, np.int32) if zero_point is None else zero_point.astype(np.int32)
    scales = scale.astype(np.float32)
    if _BITS[dtype] == 4:
        codes = codes.astype(np.int8 if dtype == "int4" else np.uint8)
    try:
        if block:
            if codes.ndim != 2:
                return None
            kept = 1 - axis % 2
            return QTensor(codes, scales, zeros, dtype=dtype, axis=kept, group_size=block)
        if scales.size == 1:
            return QTensor(codes, scales.reshape(()), zeros.reshape(()), dtype=dtype)
        return QTensor(codes, scales, zeros, dtype=dtype, axis=axis % codes.ndim)
    except ValueError:
        return None


def _add_constant(graph: Graph, stem: str, value: Constant) -> str:
    name = graph.new_name(stem)
    graph.constants[name] = value
    return name


def _bias_codes(
    graph: Graph, name: str, scale: float, w: QTensor, found: _Quantized | None
) -> tuple[bool, NDArray[Any] | None]:
    """Return whether a bias can be had, and it: int32 at x_scale * w_scale, or float32."""
    if not name:
        return True, None
    bias = graph.array(name)
    if bias is not None:
        return bias.dtype in (np.float32, np.int32), bias.reshape(-1)
    node = None if found is None else found.producers.get(name)
    if node is None or node.op != "DequantizeLinear":
        return False, None
    codes, scales = graph.array(node.inputs[0]), graph.array(node.inputs[1])
    zeros = graph.array(node.input(2))
    if codes is None or scales is None or (node.input(2) and zeros is None):
        return False, None
    if zeros is not None and zeros.any():
        return False, None
    if codes.dtype == np.int32 and np.allclose(
        scales.reshape(-1), scale * w.scale.reshape(-1), rtol=1e-5, atol=0
    ):
        return True, codes.reshape(-1)
    return True, (codes.astype(np.float32) * scales.astype(np.float32)).reshape(-1)


# --- QOperator form -------------------------------------------------------------------------------


def _become(node: Node, op: str, inputs: list[str], **attributes: Any) -> None:
    node.op, node.inputs = op, inputs
    node.attributes |= attributes


def _output(graph: Graph, node: Node, scale: int, zero: int) -> QParams | None:
    zeros = node.input(zero)
    dtype = graph.value(zeros).dtype if zeros else "uint8"
    return one_scale(graph, node.inputs[scale], zeros, dtype)


def _input(graph: Graph, node: Node, first: int) -> QParams | None:
    dtype = graph.value(node.inputs[first]).dtype
    return one_scale(graph, node.inputs[first + 1], node.input(first + 2), dtype)


def _input_weights(graph: Graph, node: Node, first: int, axis: int) -> QTensor | None:
    codes, scale = graph.array(node.inputs[first]), graph.array(node.inputs[first + 1])
    zeros = graph.array(node.input(first + 2))
    if codes is None or scale is None or (node.input(first + 2) and zeros is None):
        return None
    return _quantized_weights(codes, scale, zeros, axis)


def _qlinear_conv(graph: Graph, node: Node) -> None:
    x, w, y = _input(graph, node, 0), _input_weights(graph, node, 3, 0), _output(graph, node, 6, 7)
    bias = node.input(8)
    if x is None or w is None or y is None or w.ndim not in (3, 4):
        return
    if bias and graph.array(bias) is None:
        return
    weights = _add_constant(graph, f"{node.name}.weight", w)
    _become(node, "octavo.Conv", [node.inputs[0], weights, bias], x_qparams=x, out_qparams=y)


def _qlinear_matmul(graph: Graph, node: Node) -> None:
    x, y = _input(graph, node, 0), _output(graph, node, 6, 7)
    w = _input_weights(graph, node, 3, -1)
    if x is None or y is None:
        return
    if w is not None and w.ndim == 2:
        weights = _add_constant(graph, f"{node.name}.weight", w.T)
        _become(node, "octavo.Linear", [node.inputs[0], weights], x_qparams=x, out_qparams=y)
        return
    b = _input(graph, node, 3)
    if b is not None:
        _become(
            node, "octavo.MatMul", [node.inputs[0], node.inputs[3]],
            a_qparams=x, b_qparams=b, out_qparams=y,
        )  # fmt: skip


def _qgemm(graph: Graph, node: Node) -> None:
    a = node.attributes
    flip = bool(a.get("transB", 0))
    x, w = _input(graph, node, 0), _input_weights(graph, node, 3, 0 if flip else 1)
    if x is None or w is None or w.ndim != 2 or a.get("alpha", 1.0) != 1 or a.get("transA", 0):
        return
    y = _output(graph, node, 7, 8) if node.input(7) else None
    bias = graph.array(node.input(6))
    if (node.input(7) and y is None) or (node.input(6) and bias is None):
        return
    weights = _add_constant(graph, f"{node.name}.weight", w if flip else w.T)
    inputs = [node.inputs[0], weights]
    if bias is not None:
        inputs.append(_add_constant(graph, f"{node.name}.bias", bias.reshape(-1)))
    _become(node, "octavo.Linear", inputs, x_qparams=x, out_qparams=y)


def _qlinear_pair(op: str) -> Callable[[Graph, Node], None]:
    def lower(graph: Graph, node: Node) -> None:
        a, b, y = _input(graph, node, 0), _input(graph, node, 3), _output(graph, node, 6, 7)
        if a is not None and b is not None and y is not None:
            _become(
                node, op, [node.inputs[0], node.inputs[3]],
                a_qparams=a, b_qparams=b, out_qparams=y,
            )  # fmt: skip

    return lower


def _qlinear_single(op: str, activation: Callable[[Node], Any] | None = None) -> Any:
    def lower(graph: Graph, node: Node) -> None:
        x, y = _input(graph, node, 0), _output(graph, node, 3, 4)
        shape = graph.value(node.inputs[0]).shape
        if x is None or y is None or node.attributes.get("channels_last", 0):
            return
        if op == "octavo.AveragePool" and shape is not None and len(shape) != 4:
            return
        more = {} if activation is None else {"activation": activation(node)}
        _become(node, op, [node.inputs[0]], x_qparams=x, out_qparams=y, **more)

    return lower


def _qlinear_concat(graph: Graph, node: Node) -> None:
    y = _output(graph, node, 0, 1)
    parts = [_input(graph, node, i) for i in range(2, len(node.inputs), 3)]
    if y is not None and None not in parts:
        _become(node, "octavo.Concat", node.inputs[2::3], qparams=tuple(parts), out_qparams=y)


def _qlinear_softmax(graph: Graph, node: Node) -> None:
    """Softmax is of floats: between DequantizeLinear and QuantizeLinear."""
    real, soft = (graph.new_name(f"{node.name}.{part}") for part in ("real", "softmax"))
    a = node.attributes
    version = a.get("opset", 13)
    axis = {"axis": a["axis"]} if "axis" in a else {}
    before = Node(f"{node.name}.dequantize", "DequantizeLinear", node.inputs[:3], [real], {}, 13)
    middle = Node(f"{node.name}.softmax", "Softmax", [real], [soft], axis, version)
    graph.values[real] = graph.value(node.inputs[0])._replace(name=real, dtype="float32")
    graph.values[soft] = graph.values[real]._replace(name=soft)
    place = graph.nodes.index(node)
    graph.nodes[place:place] = [before, middle]
    node.op, node.attributes, node.version = "QuantizeLinear", {}, 13
    node.inputs = [soft, *node.inputs[3:]]


def _matmul_nbits(graph: Graph, node: Node) -> None:
    """Blocks of 4-bit weights as com.microsoft packs them: two to a byte, the low half first."""
    a = node.attributes
    packed, scales = graph.array(node.inputs[1]), graph.array(node.inputs[2])
    zeros, bias = graph.array(node.input(3)), graph.array(node.input(5))
    n, k, block = a["N"], a["K"], a["block_size"]
    if a.get("bits", 4) != 4 or packed is None or scales is None or node.input(4):
        return
    if (node.input(3) and (zeros is None or zeros.dtype != np.uint8)) or (
        node.input(5) and bias is None
    ):
        return
    blocks = -(-k // block)
    codes = _nibbles(packed.reshape(n, -1))[:, :k]
    points = np.full((n, blocks), 8, np.int32)
    if zeros is not None:
        points = _nibbles(zeros.reshape(n, -1))[:, :blocks].astype(np.int32)
    w = QTensor(
        codes,
        scales.astype(np.float32).reshape(n, blocks),
        points,
        dtype="uint4",
        axis=0,
        group_size=block,
    )
    inputs = [node.inputs[0]]
    level = a.get("accuracy_level", 0)
    if level in (1, 2, 3):  # x is not to be rounded to 8 bits
        inputs.append(_add_constant(graph, f"{node.name}.weight", w.dequantize().T))
        node.op = "MatMul"
    else:
        inputs.append(_add_constant(graph, f"{node.name}.weight", w))
        node.op = "octavo.GroupedLinear"
    if bias is not None:
        inputs.append(_add_constant(graph, f"{node.name}.bias", bias.astype(np.float32)))
    node.inputs, node.attributes = inputs, {}


def _nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1)


_QOPERATORS: dict[str, Callable[[Graph, Node], None]] = {
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    "com.microsoft.MatMulNBits": _matmul_nbits,
    "com.microsoft.QGemm": _qgemm,
    "com.microsoft.QLinearAdd": _qlinear_pair("octavo.Add"),
    "com.microsoft.QLinearAveragePool": _qlinear_single("octavo.AveragePool"),
    "com.microsoft.QLinearConcat": _qlinear_concat,
    "com.microsoft.QLinearGlobalAveragePool": _qlinear_single("octavo.AveragePool"),
    "com.microsoft.QLinearLeakyRelu": _qlinear_single(
        "octavo.Activate", lambda node: ("leaky_relu", node.attributes.get("alpha", 0.01))
    ),
    "com.microsoft.QLinearMul": _qlinear_pair("octavo.Mul"),
    "com.microsoft.QLinearSoftmax": _qlinear_softmax,
    "com.microsoft.QLinearSigmoid": _qlinear_single("octavo.Activate", lambda _: "sigmoid"),
}


def _dynamic_layers(graph: Graph) -> frozenset[str]:
    """Return the layers whose weights are to stay codes though their input is float."""
    try:
        names = json.loads(graph.metadata.get(DYNAMIC, "[]"))
    except ValueError:
        return frozenset()
    return frozenset(each for each in names if isinstance(each, str))


# --- QDQ form -------------------------------------------------------------------------------------


class _Quantized:
    """What is known of codes in a graph, and how operators become ones on codes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.dynamic = _dynamic_layers(graph)
        self.refresh()

    def refresh(self) -> None:
        """Look at the graph again, after a change."""
        self.producers = self.graph.producers()
        self.uses = self.graph.uses()

    def codes(self, name: str) -> Codes | None:
        """Return the codes that a value is dequantized from, if they have one scale and 8 bits."""
        node = self.producers.get(name)
        if node is None or node.op.split(".")[-1] != "DequantizeLinear":
            return None
        dtype = self.graph.value(node.inputs[0]).dtype
        qparams = one_scale(self.graph, node.inputs[1], node.input(2), dtype)
        return None if qparams is None else Codes(node.inputs[0], qparams)

    def weights(self, name: str) -> QTensor | None:
        """Return constant weights: codes, or what is dequantized from them; perhaps transposed."""
        constant = self.graph.constants.get(name)
        if isinstance(constant, QTensor):
            return constant if constant.dtype in _BITS else None
        node = self.producers.get(name)
        if node is not None and node.op == "Transpose":
            w = self.weights(node.inputs[0])
            order = node.attributes.get("perm")
            return w.T if w is not None and w.ndim == 2 and order in (None, (1, 0)) else None
        if node is None or node.op.split(".")[-1] != "DequantizeLinear":
            return None
        arrays = [self.graph.array(node.input(i)) for i in range(3)]
        codes, scale, zeros = arrays
        if codes is None or scale is None or (node.input(2) and zeros is None):
            return None
        a = node.attributes
        return _quantized_weights(codes, scale, zeros, a.get("axis", 1), a.get("block_size", 0))

    def follow(self, name: str, activation: Any = None) -> tuple[list[Node], Any, QParams | None]:
        """Return the nodes after a value that can be fused: a clamp, a QuantizeLinear; what they do.

        `activation` is the clamp that is fused already.
        """
        taken: list[Node] = []
        node = only_use(self.uses, name)
        if activation is None and node is not None and node.inputs[0] == name:
            activation = clip_of(self.graph, node)
            if activation is not None:
                taken.append(node)
                node = only_use(self.uses, node.outputs[0])
        last = taken[-1].outputs[0] if taken else name
        if (
            node is not None
            and node.op.split(".")[-1] == "QuantizeLinear"
            and node.inputs[0] == last
            and not node.attributes.get("block_size", 0)
        ):
            dtype = self.graph.value(node.outputs[0]).dtype
            qparams = one_scale(self.graph, node.inputs[1], node.input(2), dtype)
            if qparams is not None:
                return [*taken, node], activation, qparams
        return taken, activation, None

    def replace(self, node: Node, taken: list[Node], op: str, inputs: list[str], **a: Any) -> bool:
        """Let `node` become `op` and make what the last of `taken` made.

        Where that is codes, the attribute `real` keeps the name of the value that they stand for.
        """
        _become(node, op, inputs, **a)
        if taken:
            node.outputs = [taken[-1].outputs[0]]
            if taken[-1].op.endswith("QuantizeLinear"):
                node.attributes["real"] = taken[-1].inputs[0]
        for each in taken:
            self.graph.nodes.remove(each)
        return True


def _fuse_conv(q: _Quantized, node: Node) -> bool:
    x, w = q.codes(node.inputs[0]), q.weights(node.inputs[1])
    kept = 0 if node.op == "Conv" else 1
    if x is None and w is not None:
        return _keep_codes(q, node, w)
    if x is None or w is None or w.group_size is not None or w.axis not in (None, kept):
        return False
    if w.ndim not in (3, 4):
        return False
    known, bias = _bias_codes(q.graph, node.input(2), float(x.qparams.scale), w, q)
    if not known:
        return False
    taken, activation, out = q.follow(node.outputs[0], node.attributes.get("activation"))
    inputs = [x.name, _add_constant(q.graph, f"{node.name}.weight", w)]
    if bias is not None:
        inputs.append(_add_constant(q.graph, f"{node.name}.bias", bias))
    return q.replace(
        node,
        taken,
        f"octavo.{node.op}",
        inputs,
        x_qparams=x.qparams,
        out_qparams=out,
        activation=activation,
    )


def _fuse_recurrent(q: _Quantized, node: Node) -> bool:
    """Weights of recurrent layers, row by row, that are to stay codes."""
    if node.name not in q.dynamic:
        return False
    found = []
    for name in node.inputs[1:3]:
        reshape = q.producers.get(name)
        w = None if reshape is None or reshape.op != "Reshape" else q.weights(reshape.inputs[0])
        if w is None or w.ndim != 2 or w.axis != 0:
            return False
        found.append(_add_constant(q.graph, f"{node.name}.weight", w))
    node.inputs[1:3] = found
    return True


def _keep_codes(q: _Quantized, node: Node, w: QTensor) -> bool:
    """Let a layer that quantizes activations as they come have its weights as codes."""
    if (
        node.name not in q.dynamic
        or node.inputs[1] in q.graph.constants
        or w.group_size is not None
    ):
        return False
    held = q.weights(node.inputs[1])  # as the operator has them, not as (out, in)
    assert held is not None
    node.inputs[1] = _add_constant(q.graph, f"{node.name}.weight", held)
    return True


def _fuse_linear(q: _Quantized, node: Node) -> bool:
    a = node.attributes
    gemm = node.op == "Gemm"
    if gemm and (a.get("alpha", 1.0) != 1 or a.get("beta", 1.0) != 1 or a.get("transA", 0)):
        return False
    x, w = q.codes(node.inputs[0]), q.weights(node.inputs[1])
    if w is not None and w.ndim == 2 and not (gemm and a.get("transB", 0)):
        w = w.T  # (out, in)
    if w is None or w.ndim != 2:
        return not gemm and x is not None and _fuse_product(q, node, x)
    if w.group_size is not None:
        return _fuse_grouped(q, node, w)
    if x is None:
        return _keep_codes(q, node, w)
    if w.axis == 1:
        return False
    known, bias = _bias_codes(q.graph, node.input(2), float(x.qparams.scale), w, q)
    if not known or (bias is not None and bias.shape != (w.shape[0],)):
        return False
    taken: list[Node] = []
    last = node.outputs[0]
    add = only_use(q.uses, last)
    clamp = a.get("activation")
    if bias is None and clamp is None and add is not None and add.op == "Add":
        other = add.inputs[1] if add.inputs[0] == last else add.inputs[0]
        known, addend = _bias_codes(q.graph, other, float(x.qparams.scale), w, q)
        fits = known and addend is not None and addend.shape == (w.shape[0],)
        if fits and _is_row(q, other):
            bias, taken, last = addend, [add], add.outputs[0]
    more, activation, out = q.follow(last, clamp)
    inputs = [x.name, _add_constant(q.graph, f"{node.name}.weight", w)]
    if bias is not None:
        inputs.append(_add_constant(q.graph, f"{node.name}.bias", bias))
    node.attributes = {}
    return q.replace(
        node,
        [*taken, *more],
        "octavo.Linear",
        inputs,
        x_qparams=x.qparams,
        out_qparams=out,
        activation=activation,
    )


def _is_row(q: _Quantized, name: str) -> bool:
    """Whether a constant, or what it is dequantized from, lies along the last axis alone."""
    node = q.producers.get(name)
    array = q.graph.array(name if node is None else node.inputs[0])
    return array is not None and array.shape[-1:] == (array.size,)


def _fuse_grouped(q: _Quantized, node: Node, w: QTensor) -> bool:
    """Weights in blocks: octavo quantizes each row of x to 8 bits (docs/int8.md)."""
    name, taken = node.input(2), []
    add = only_use(q.uses, node.outputs[0])
    if not name and add is not None and add.op == "Add":
        other = add.inputs[1] if add.inputs[0] == node.outputs[0] else add.inputs[0]
        row = q.graph.array(other)
        if row is not None and row.dtype == np.float32 and row.shape == (w.shape[0],):
            name, taken = other, [add]
    bias = q.graph.array(name)
    if w.axis != 0 or (name and (bias is None or bias.dtype != np.float32)):
        return False
    if q.graph.value(node.inputs[0]).dtype not in ("float32", "float16"):
        return False
    inputs = [node.inputs[0], _add_constant(q.graph, f"{node.name}.weight", w)]
    if bias is not None:
        if bias.size != w.shape[0]:
            return False
        inputs.append(_add_constant(q.graph, f"{node.name}.bias", bias.reshape(-1)))
    clamp = node.attributes.get("activation")
    if clamp is not None and taken:
        return False  # what is clamped is not the sum
    node.attributes = {} if clamp is None else {"activation": clamp}
    return q.replace(node, taken, "octavo.GroupedLinear", inputs)


def _fuse_product(q: _Quantized, node: Node, a: Codes) -> bool:
    b = q.codes(node.inputs[1])
    if b is None:
        return False
    taken, activation, out = q.follow(node.outputs[0])
    if activation is not None:
        taken, out = [], None
    return q.replace(
        node,
        taken,
        "octavo.MatMul",
        [a.name, b.name],
        a_qparams=a.qparams,
        b_qparams=b.qparams,
        out_qparams=out,
    )


def _fuse_pair(q: _Quantized, node: Node) -> bool:
    a, b = q.codes(node.inputs[0]), q.codes(node.inputs[1])
    taken, activation, out = q.follow(node.outputs[0])
    if a is None or b is None or out is None:
        return False
    return q.replace(
        node,
        taken,
        f"octavo.{node.op}",
        [a.name, b.name],
        a_qparams=a.qparams,
        b_qparams=b.qparams,
        out_qparams=out,
        activation=activation,
    )


def _function(node: Node, graph: Graph) -> Any:
    """Return the table activation that a node is, None if it is none."""
    a = node.attributes
    if node.op == "Gelu":
        return "gelu_tanh" if a.get("approximate", "none") == "tanh" else "gelu"
    if node.op == "Swish":
        return "silu" if a.get("alpha", 1.0) == 1 else None
    if node.op == "LeakyRelu":
        return ("leaky_relu", a.get("alpha", 0.01))
    if node.op == "Elu":
        return ("elu", a.get("alpha", 1.0))
    if node.op == "HardSigmoid":
        return ("hard_sigmoid", a.get("alpha", 0.2), a.get("beta", 0.5))
    named = {"HardSwish": "hard_swish", "Sigmoid": "sigmoid", "Tanh": "tanh"}.get(node.op)
    return named or clip_of(graph, node)


def _fuse_function(q: _Quantized, node: Node) -> bool:
    x, activation = q.codes(node.inputs[0]), _function(node, q.graph)
    follower = only_use(q.uses, node.outputs[0])
    if x is None or activation is None or follower is None:
        return False
    taken, clip, out = q.follow(node.outputs[0])
    if out is None or clip is not None:
        return False
    node.attributes = {}
    return q.replace(
        node, taken, "octavo.Activate", [x.name],
        x_qparams=x.qparams, out_qparams=out, activation=activation,
    )  # fmt: skip


def _fuse_average(q: _Quantized, node: Node) -> bool:
    x, shape = q.codes(node.inputs[0]), q.graph.value(node.inputs[0]).shape
    taken, activation, out = q.follow(node.outputs[0])
    if x is None or out is None or activation is not None or shape is None or len(shape) != 4:
        return False
    a = node.attributes
    if node.op == "ReduceMean":
        given = q.graph.array(node.input(1))
        axes = a.get("axes") if given is None else tuple(given.reshape(-1).tolist())
        if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
            return False
        node.attributes = {"keepdims": a.get("keepdims", 1)}
    elif tuple(a.get("dilations") or (1, 1)) != (1, 1):
        return False
    return q.replace(
        node, taken, "octavo.AveragePool", [x.name], x_qparams=x.qparams, out_qparams=out
    )


def _fuse_max(q: _Quantized, node: Node) -> bool:
    shape = q.graph.value(node.inputs[0]).shape
    if shape is None or len(shape) != 4 or len(node.outputs) > 1:
        return False
    if not _fuse_move(q, node):
        return False
    node.op = "octavo.MaxPool"
    return True


def _fuse_concat(q: _Quantized, node: Node) -> bool:
    parts = [q.codes(name) for name in node.inputs]
    taken, activation, out = q.follow(node.outputs[0])
    known = [each for each in parts if each is not None]
    if len(known) < len(parts) or out is None or activation is not None:
        return False
    return q.replace(
        node,
        taken,
        "octavo.Concat",
        [each.name for each in known],
        qparams=tuple(each.qparams for each in known),
        out_qparams=out,
    )


def _fuse_move(q: _Quantized, node: Node) -> bool:
    """What moves values about moves their codes, if they are read the same before and after."""
    x = q.codes(node.inputs[0])
    if x is None:
        return False
    ends = []
    for name in node.outputs:
        taken, activation, out = q.follow(name)
        if activation is not None or out != x.qparams:
            return False
        ends.append(taken[-1])
    node.inputs[0] = x.name
    node.outputs = [each.outputs[0] for each in ends]
    for each in ends:
        q.graph.nodes.remove(each)
    return True


def _fuse_gather(q: _Quantized, node: Node) -> bool:
    """Rows of a constant table stay codes until they are taken; else codes are moved about."""
    table = q.weights(node.inputs[0])
    half = q.graph.array(node.inputs[0])
    if half is not None and half.dtype == np.float16:
        if q.graph.value(node.outputs[0]).dtype != "float32":
            return False
        table = QTensor(half, 1.0)
    if table is None or table.ndim != 2 or node.attributes.get("axis", 0) != 0 or table.axis == 1:
        return _fuse_move(q, node)
    name = _add_constant(q.graph, f"{node.name}.weight", table)
    return q.replace(node, [], "octavo.Embedding", [name, node.inputs[1]])


def _fuse_pad(q: _Quantized, node: Node) -> bool:
    x, fill = q.codes(node.inputs[0]), q.graph.array(node.input(2))
    if x is None or node.attributes.get("mode", "constant") != "constant":
        return False
    if node.input(2) and (fill is None or fill.any()):
        return False
    if not _fuse_move(q, node):
        return False
    zero = np.array(int(x.qparams.zero_point), x.qparams.dtype)
    fill_codes = _add_constant(q.graph, f"{node.name}.zero", zero)
    node.inputs = [*node.inputs[:2], fill_codes, *node.inputs[3:]]
    return True


def _fuse_nearest(q: _Quantized, node: Node) -> bool:
    a = node.attributes
    cropped = a.get("coordinate_transformation_mode") == "tf_crop_and_resize"  # fills with floats
    return a.get("mode", "nearest") == "nearest" and not cropped and _fuse_move(q, node)


def _fuse_change(q: _Quantized, node: Node) -> bool:
    """DequantizeLinear and QuantizeLinear in a row: nothing, or a change of scale."""
    x = q.codes(node.inputs[0])
    dtype = q.graph.value(node.outputs[0]).dtype
    out = one_scale(q.graph, node.inputs[1], node.input(2), dtype)
    if x is None or out is None or node.attributes.get("block_size", 0):
        return False
    node.attributes = {}
    if x.qparams == out:
        return q.replace(node, [], "Identity", [x.name])
    return q.replace(
        node, [], "octavo.Activate", [x.name],
        x_qparams=x.qparams, out_qparams=out, activation="identity",
    )  # fmt: skip


def fuse_residual(graph: Graph) -> None:
    """Let a convolution add the tensor that was added to its codes: the bits are the same."""
    producers, uses = graph.producers(), graph.uses()
    for add in [node for node in graph.nodes if node.op == "octavo.Add"]:
        for i in (0, 1):
            conv = producers.get(add.inputs[i])
            other = add.inputs[1 - i]
            if (
                conv is None
                or conv.op != "octavo.Conv"
                or conv.attributes.get("sum_qparams") is not None
                or only_use(uses, add.inputs[i]) is not add
                or not _same_shape(graph, add.inputs[i], other)
                or other in graph.constants
            ):
                continue
            a = add.attributes
            conv.inputs = [*[*conv.inputs, ""][:3], other]
            conv.attributes |= {
                "residual_qparams": a["b_qparams" if i == 0 else "a_qparams"],
                "sum_qparams": a["out_qparams"],
                "sum_activation": a.get("activation"),
            }
            if "real" in a:
                conv.attributes["real"] = a["real"]
            conv.outputs = add.outputs
            # Both operands are there where the sum was.
            graph.nodes.remove(conv)
            graph.nodes[graph.nodes.index(add)] = conv
            break


def _same_shape(graph: Graph, a: str, b: str) -> bool:
    shape = graph.value(a).shape
    return shape is not None and None not in shape and shape == graph.value(b).shape


_PATTERNS: dict[str, Callable[[_Quantized, Node], bool]] = {
    **dict.fromkeys(FUNCTIONS, _fuse_function),
    **dict.fromkeys(MOVES, _fuse_move),
    "Add": _fuse_pair,
    "AveragePool": _fuse_average,
    "Concat": _fuse_concat,
    "Conv": _fuse_conv,
    **dict.fromkeys(RECURRENT, _fuse_recurrent),
    "ConvTranspose": _fuse_conv,
    "Gemm": _fuse_linear,
    "Gather": _fuse_gather,
    "GlobalAveragePool": _fuse_average,
    "MatMul": _fuse_linear,
    "MaxPool": _fuse_max,
    "Mul": _fuse_pair,
    "Pad": _fuse_pad,
    "QuantizeLinear": _fuse_change,
    "ReduceMean": _fuse_average,
    "Resize": _fuse_nearest,
}
