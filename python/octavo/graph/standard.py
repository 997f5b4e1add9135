"""A graph in ONNX's operators alone: what passes have fused is taken apart again.

Codes stand between QuantizeLinear and DequantizeLinear (QDQ form). What is made here is what passes.py
and quantized.py look for, so `optimize` makes of it a graph with the bits of the one it came from.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.array import QParams, QTensor
from octavo.graph.ir import Constant, Graph, Node, Subgraph, Value
from octavo.graph.passes import HALF_WEIGHTS, remove_dead_code
from octavo.graph.quantized import MOVES, RECURRENT, one_scale

# The first opset with scales for each index of an axis, that with blocks and 4-bit types, and those
# that brought functions.
_QDQ, _BLOCKS = 13, 21
# ONNX's numbers of dtypes.
_FLOAT, _HALF = 1, 10
_SINCE = {"Gelu": 20, "HardSwish": 14, "Swish": 24}
# What says how codes are read is no attribute of ONNX's.
_OURS = frozenset(
    {
        "a_qparams",
        "activation",
        "b_qparams",
        "channels_last",
        "out_qparams",
        "qparams",
        "real",
        "residual_qparams",
        "sum_activation",
        "sum_qparams",
        "x_qparams",
    }
)


def standard_form(graph: Graph, *, blocks: str = "DequantizeLinear") -> Graph:
    """Return the same graph in ONNX's operators alone, codes in QDQ form.

    Names of layers stay those of the operators; what is put around them is named after them.

    Parameters
    ----------
    graph : Graph
        As passes left it; it is not changed.
    blocks : {"DequantizeLinear", "MatMulNBits"}
        How 4-bit weights in groups are read: by ONNX's operator (opset 21), or by the product of
        com.microsoft, which onnxruntime alone has, in integers.

    Raises
    ------
    ValueError
        Another name for `blocks`.
    ImportError
        4-bit weights, which NumPy has no dtype for, without the package ml_dtypes.
    """
    if blocks not in ("DequantizeLinear", "MatMulNBits"):
        raise ValueError(f"blocks is {blocks!r}, expected 'DequantizeLinear' or 'MatMulNBits'")
    if any(node.attributes.get("layout") in ("NCHW", "NHWC") for node in graph.nodes):
        from octavo.graph.layout import to_nchw

        graph = graph.copy()
        to_nchw(graph)
    form = _Form(graph, blocks)
    for node in graph.nodes:
        _TAKEN_APART.get(node.op, _plain)(form, node)
    remove_dead_code(form.graph)
    return form.graph


def _readings(graph: Graph) -> dict[str, QParams]:
    """Return how codes are read: as what makes or takes them says; what moves them passes it on."""
    found: dict[str, QParams] = {}
    moves = []
    for node in graph.nodes:
        a, op = node.attributes, node.op.split(".")[-1]
        made: QParams | None = a.get("sum_qparams") or a.get("out_qparams")
        taken: list[QParams | None] = [a.get("x_qparams") or a.get("a_qparams"), a.get("b_qparams")]
        if op == "QuantizeLinear":
            dtype = graph.value(node.outputs[0]).dtype
            made = one_scale(graph, node.inputs[1], node.input(2), dtype)
        elif op == "DequantizeLinear":
            dtype = graph.value(node.inputs[0]).dtype
            taken = [one_scale(graph, node.inputs[1], node.input(2), dtype)]
        elif node.op == "octavo.Concat":
            taken = list(a["qparams"])
        elif node.op == "octavo.Conv":
            taken += [None, a.get("residual_qparams")]
        elif _moves_codes(node):
            moves.append(node)
        for name, q in zip(node.inputs, taken, strict=False):
            if name and q is not None:
                found.setdefault(name, q)
        if made is not None:
            found[node.outputs[0]] = made
    for node in moves:
        if node.inputs[0] in found:
            found |= dict.fromkeys(node.outputs, found[node.inputs[0]])
    for node in reversed(moves):
        known = next((found[name] for name in node.outputs if name in found), None)
        if known is not None:
            found.setdefault(node.inputs[0], known)
            found |= {name: known for name in node.outputs if name not in found}
    return found


def _moves_codes(node: Node) -> bool:
    return node.op in MOVES or node.op in ("Pad", "Resize", "octavo.MaxPool")


class _Form:
    """The graph that is made, and what of it can be shared."""

    def __init__(self, graph: Graph, blocks: str) -> None:
        self.old = graph
        self.blocks = blocks
        self.readings = _readings(graph)
        plain: dict[str, Constant] = {
            name: each for name, each in graph.constants.items() if not isinstance(each, QTensor)
        }
        made = {name for node in graph.nodes for name in (*node.outputs, *node.implicit)}
        self._taken = {*plain, *made, *(value.name for value in graph.inputs)}
        known = {name: value for name, value in graph.values.items() if name in self._taken}
        self.graph = Graph(
            graph.name, graph.inputs, graph.outputs, [], plain, known, graph.metadata
        )
        self._layers = {node.name for node in graph.nodes}
        self._params: dict[QParams, list[str]] = {}
        self._real: dict[tuple[str, QParams], str] = {}
        self._weights: dict[tuple[str, bool], str] = {}
        self._scalars: dict[tuple[float, str], str] = {}

    def name(self, stem: str) -> str:
        """Return a name that no value has."""
        return _free_name(stem, self._taken)

    def constant(self, stem: str, value: NDArray[Any] | np.generic) -> str:
        """Add a constant."""
        name = self.name(stem)
        self.graph.constants[name] = np.asarray(value)
        return name

    def scalar(self, value: float, stem: str) -> str:
        """Return a float32 constant of this value; there is one of each name."""
        known = self._scalars.get((value, stem))
        if known is None:
            known = self._scalars[value, stem] = self.constant(stem, np.array(value, np.float32))
        return known

    def like(self, stem: str, value: str) -> str:
        """Return the name of a new float32 value of the shape of another."""
        name = self.name(stem)
        self.graph.values[name] = Value(name, "float32", self.graph.value(value).shape)
        return name

    def add(
        self,
        layer: str,
        op: str,
        inputs: Iterable[str],
        outputs: Iterable[str],
        attributes: dict[str, Any] | None = None,
        version: int = _QDQ,
    ) -> None:
        """Add a node; `layer` is its name, with a number behind where another has it."""
        self.graph.nodes.append(Node(layer, op, inputs, outputs, attributes, version))

    def beside(self, layer: str, what: str) -> str:
        """Return a name for a node that belongs to a layer."""
        return _free_name(f"{layer}.{what}", self._layers)

    # Codes.

    def params(self, q: QParams, stem: str) -> list[str]:
        """Return the constants scale and zero point of codes."""
        if q not in self._params:
            zero = np.array(q.zero_point, q.dtype)
            self._params[q] = [
                self.constant(f"{stem}.scale", np.array(q.scale)),
                self.constant(f"{stem}.zero_point", zero),
            ]
        return self._params[q]

    def real(self, codes: str, q: QParams) -> str:
        """Return the values that codes stand for."""
        if (codes, q) not in self._real:
            name = self.like(f"{codes}.real", codes)
            inputs = [codes, *self.params(q, codes)]
            self.add(self.beside(codes, "dequantize"), "DequantizeLinear", inputs, [name])
            self._real[codes, q] = name
        return self._real[codes, q]

    def real_of(self, node: Node, codes: str) -> str:
        """Return the name of a new value for codes that a node makes, its own where it is known."""
        known = node.attributes.get("real") if codes == node.outputs[0] else None
        return self.like(known or f"{codes}.real", codes)

    def quantize(self, layer: str, x: str, codes: str, q: QParams) -> None:
        """Make codes of values."""
        self.add(layer, "QuantizeLinear", [x, *self.params(q, codes)], [codes])

    def weights(self, name: str, turned: bool = False, dtype: str = "float32") -> str:
        """Return the values of constant weights, transposed if wanted."""
        known = self._weights.get((name, turned))
        if known is None:
            w = self.old.constants[name]
            q = w if isinstance(w, QTensor) else QTensor(w, 1.0)  # of float16
            known = self._dequantized(name, q.T if turned else q, dtype)
            self._weights[name, turned] = known
        return known

    def _dequantized(self, name: str, w: QTensor, dtype: str) -> str:
        real = self.name(f"{name}.real")
        self.graph.values[real] = Value(real, dtype, w.shape)
        if w.dtype == "float16":
            half = self.constant(f"{name}.half", w.data)
            if dtype == "float16":
                return half
            self.add(self.beside(name, "cast"), "Cast", [half], [real], {"to": _FLOAT})
            return real
        inputs = [
            self.constant(f"{name}.codes", _stored(w.codes(), w.dtype)),
            self.constant(f"{name}.scale", w.scale.astype(dtype)),
            self.constant(f"{name}.zero_point", _stored(w.zero_point, w.dtype)),
        ]
        attributes: dict[str, Any] = {}
        if w.group_size is not None:
            assert w.axis is not None
            attributes = {"axis": 1 - w.axis, "block_size": w.group_size}
        elif w.axis is not None:
            attributes = {"axis": w.axis}
        version = _BLOCKS if w.group_size is not None or w.dtype.endswith("4") else _QDQ
        layer = self.beside(name, "dequantize")
        self.add(layer, "DequantizeLinear", inputs, [real], attributes, version)
        return real

    def bias(self, node: Node, x: QParams, out: QParams | None) -> str:
        """Return the bias of an operator on codes: integers are dequantized.

        Where the result is codes a bias is added in integers: so it is written as them.
        """
        name = node.input(2)
        bias, w = self.old.array(name), self.old.constants[node.inputs[1]]
        if bias is None:
            return ""
        assert isinstance(w, QTensor)
        scale = np.float64(x.scale) * w.scale.astype(np.float64)
        if bias.dtype == np.float32 and out is not None:
            codes = np.rint(bias.astype(np.float64) / scale)
            if np.abs(codes).max(initial=0) <= np.iinfo(np.int32).max:
                bias = codes.astype(np.int32)
        if bias.dtype == np.float32:
            return name
        real = self.name(f"{name}.real")
        self.graph.values[real] = Value(real, "float32", bias.shape)
        inputs = [
            self.constant(f"{name}.codes", bias),
            self.constant(f"{name}.scale", scale.astype(np.float32)),
        ]
        axis = {"axis": 0} if scale.ndim else {}
        self.add(self.beside(node.name, "bias"), "DequantizeLinear", inputs, [real], axis)
        return real

    # Operators.

    def chain(
        self,
        node: Node,
        op: str,
        inputs: Iterable[str],
        activation: Any = None,
        out: QParams | None = None,
        output: str = "",
        attributes: dict[str, Any] | None = None,
    ) -> None:
        """Add an operator, its activation and QuantizeLinear, if there are; the last makes `output`."""
        last = output or node.outputs[0]
        real = last if out is None else self.real_of(node, last)
        before = real if activation is None else self.like(f"{last}.before", last)
        own = _attributes(node) if attributes is None else attributes
        self.add(node.name, op, inputs, [before], own, max(node.version, _QDQ))
        if activation is not None:
            self.function(self.beside(node.name, "activation"), activation, before, real)
        if out is not None:
            self.quantize(self.beside(node.name, "quantize"), real, last, out)

    def function(self, layer: str, activation: Any, x: str, y: str) -> None:
        """Add the operators of an activation; the last has the name of the layer."""
        kind, *parameters = (activation,) if isinstance(activation, str) else activation
        if kind in ("relu6", "clip"):
            bounds: Iterable[float | None] = parameters or (0.0, 6.0)
            names = [
                "" if each is None else self.scalar(float(each), f"{layer}.{end}")
                for each, end in zip(bounds, ("low", "high"), strict=True)
            ]
            self.add(layer, "Clip", [x, *names], [y])
        elif kind == "silu":
            self._silu(layer, x, y)
        elif kind == "gelu":
            self._gelu(layer, x, y)
        else:
            op, version, *defaults = _FUNCTIONS[kind]
            given = {
                name: value
                for (name, default), value in zip(defaults, parameters, strict=False)
                if value != default
            }
            if kind == "gelu_tanh":
                given = {"approximate": "tanh"}
            self.add(layer, op, [x], [y], given, version)

    def _silu(self, layer: str, x: str, y: str) -> None:
        sigmoid = self.like(f"{y}.sigmoid", x)
        self.add(self.beside(layer, "sigmoid"), "Sigmoid", [x], [sigmoid])
        self.add(layer, "Mul", [x, sigmoid], [y])

    def _gelu(self, layer: str, x: str, y: str) -> None:
        """``x * (1 + erf(x / sqrt(2))) * 0.5``."""
        scaled, erf, more, product = (
            self.like(f"{y}.{part}", x) for part in ("scaled", "erf", "more", "product")
        )
        root, one, half = (
            self.scalar(value, stem)
            for value, stem in ((2**0.5, "gelu.root"), (1.0, "gelu.one"), (0.5, "gelu.half"))
        )
        for part, op, inputs, output in (
            ("scaled", "Div", [x, root], scaled),
            ("erf", "Erf", [scaled], erf),
            ("more", "Add", [erf, one], more),
            ("product", "Mul", [x, more], product),
        ):
            self.add(self.beside(layer, part), op, inputs, [output])
        self.add(layer, "Mul", [product, half], [y])


# Operator, the opset that brought it or made it general, and its parameters with their defaults.
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "elu": ("Elu", 13, ("alpha", 1.0)),
    "gelu_tanh": ("Gelu", 20),
    "hard_sigmoid": ("HardSigmoid", 13, ("alpha", 0.2), ("beta", 0.5)),
    "hard_swish": ("HardSwish", 14),
    "leaky_relu": ("LeakyRelu", 13, ("alpha", 0.01)),
    "relu": ("Relu", 13),
    "sigmoid": ("Sigmoid", 13),
    "tanh": ("Tanh", 13),
}


def _free_name(stem: str, taken: set[str]) -> str:
    name, number = stem, 0
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name)
    return name


def _attributes(node: Node) -> dict[str, Any]:
    return {name: value for name, value in node.attributes.items() if name not in _OURS}


def _stored(codes: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return codes in the dtype that ONNX has for them."""
    if not dtype.endswith("4"):
        return codes.astype(dtype, copy=False)
    try:
        names = importlib.import_module("ml_dtypes")
    except ImportError as error:
        raise ImportError(
            "4-bit weights in ONNX need ml_dtypes: pip install 'octavo[models]'"
        ) from error
    return codes.astype(getattr(names, dtype))


# --- operators on codes ---------------------------------------------------------------------------


def _conv(form: _Form, node: Node) -> None:
    a, op = node.attributes, node.op.removeprefix("octavo.")
    x, out, total = a["x_qparams"], a.get("out_qparams"), a.get("sum_qparams")
    inputs = [form.real(node.inputs[0], x), form.weights(node.inputs[1])]
    bias = form.bias(node, x, out)
    inputs += [bias] if bias else []
    if total is None:
        form.chain(node, op, inputs, a.get("activation"), out)
        return
    y = node.outputs[0]
    own = form.name(f"{y}.own")
    form.graph.values[own] = form.graph.value(y)._replace(name=own)
    form.chain(node, op, inputs, a.get("activation"), out, own)
    assert out is not None  # or there were no codes to add to
    add = Node(form.beside(node.name, "add"), "Add", [], [y], {"real": a.get("real")})
    pair = [form.real(own, out), form.real(node.inputs[3], a["residual_qparams"])]
    form.chain(add, "Add", pair, a.get("sum_activation"), total)


def _linear(form: _Form, node: Node) -> None:
    a = node.attributes
    x, out, activation = a["x_qparams"], a.get("out_qparams"), a.get("activation")
    left, bias = form.real(node.inputs[0], x), form.bias(node, x, out)
    if len(form.graph.value(node.inputs[0]).shape or ()) == 2:
        inputs = [left, form.weights(node.inputs[1]), *([bias] if bias else [])]
        form.chain(node, "Gemm", inputs, activation, out, attributes={"transB": 1})
        return
    _product(form, node, [left, form.weights(node.inputs[1], turned=True)], bias, activation, out)


def _product(
    form: _Form,
    node: Node,
    pair: list[str],
    bias: str,
    activation: Any = None,
    out: QParams | None = None,
    output: str = "",
) -> None:
    """``MatMul``, then its bias."""
    y = output or node.outputs[0]
    if not bias:
        form.chain(node, "MatMul", pair, activation, out, y, attributes={})
        return
    product = form.like(f"{y}.product", y)
    form.add(node.name, "MatMul", pair, [product], {}, max(node.version, _QDQ))
    more = {"real": node.attributes.get("real")}
    add = Node(form.beside(node.name, "add"), "Add", [], [y], more)
    form.chain(add, "Add", [product, bias], activation, out)


def _grouped(form: _Form, node: Node) -> None:
    w = form.old.constants[node.inputs[1]]
    assert isinstance(w, QTensor)
    x, y, bias = node.inputs[0], node.outputs[0], node.input(2)
    activation = node.attributes.get("activation")
    half = form.graph.value(x).dtype == "float16"
    if half:  # scales and bias are float32, and so is the product
        wide, made = form.like(f"{x}.wide", x), form.like(f"{y}.wide", y)
        form.add(form.beside(node.name, "widen"), "Cast", [x], [wide], {"to": _FLOAT})
        x, y = wide, made
    if form.blocks == "MatMulNBits" and w.dtype.endswith("4") and activation is None:
        _nbits(form, node, w, [x, bias, y])
    else:
        pair = [x, form.weights(node.inputs[1], turned=True)]
        _product(form, node, pair, bias, activation, output=y)
    if half:
        form.add(form.beside(node.name, "narrow"), "Cast", [y], node.outputs, {"to": _HALF})


def _embedding(form: _Form, node: Node) -> None:
    table = form.weights(node.inputs[0])
    form.add(node.name, "Gather", [table, node.inputs[1]], node.outputs, {"axis": 0}, _QDQ)


def _nbits(form: _Form, node: Node, w: QTensor, ends: list[str]) -> None:
    """com.microsoft's product of 4-bit weights: two to a byte, the first in the low half."""
    x, bias, y = ends
    n, k = w.shape
    block, name = w.group_size, node.inputs[1]
    assert block is not None
    count = -(-k // block)
    shift = 8 if w.dtype == "int4" else 0
    padded = np.full((n, count * block), shift, np.uint8)
    padded[:, :k] = w.codes().astype(np.int32) + shift
    zeros = np.zeros((n, count + count % 2), np.uint8)
    zeros[:, :count] = w.zero_point + shift
    inputs = [
        x,
        form.constant(f"{name}.codes", _two_to_a_byte(padded).reshape(n, count, -1)),
        form.constant(f"{name}.scale", w.scale.reshape(-1)),
        form.constant(f"{name}.zero_point", _two_to_a_byte(zeros).reshape(-1)),
        *(("", bias) if bias else ()),
    ]
    attributes = {"K": k, "N": n, "bits": 4, "block_size": block, "accuracy_level": 4}
    form.add(node.name, "com.microsoft.MatMulNBits", inputs, [y], attributes, 1)


def _two_to_a_byte(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4))


def _pair(form: _Form, node: Node) -> None:
    a = node.attributes
    inputs = [
        form.real(name, a[key])
        for name, key in zip(node.inputs, ("a_qparams", "b_qparams"), strict=True)
    ]
    op = node.op.removeprefix("octavo.")
    form.chain(node, op, inputs, a.get("activation"), a.get("out_qparams"))


def _activate(form: _Form, node: Node) -> None:
    a, y = node.attributes, node.outputs[0]
    x = form.real(node.inputs[0], a["x_qparams"])
    if a["activation"] == "identity":
        form.quantize(node.name, x, y, a["out_qparams"])
        return
    real = form.real_of(node, y)
    form.function(node.name, a["activation"], x, real)
    form.quantize(form.beside(node.name, "quantize"), real, y, a["out_qparams"])


def _average(form: _Form, node: Node) -> None:
    a = _attributes(node)
    a.pop("dilations", None)  # they are 1, and few opsets have them
    op = "AveragePool"
    if "kernel_shape" not in a:
        flat = not a.pop("keepdims", 1)
        op, a = (
            ("ReduceMean", {"axes": (2, 3), "keepdims": 0}) if flat else ("GlobalAveragePool", {})
        )
    x = form.real(node.inputs[0], node.attributes["x_qparams"])
    if op == "ReduceMean":
        node = Node(node.name, op, [], node.outputs, node.attributes, _QDQ)
    form.chain(node, op, [x], None, node.attributes["out_qparams"], attributes=a)


def _concat(form: _Form, node: Node) -> None:
    a = node.attributes
    parts = [form.real(name, q) for name, q in zip(node.inputs, a["qparams"], strict=True)]
    form.chain(node, "Concat", parts, None, a["out_qparams"])


# --- all others -----------------------------------------------------------------------------------


def _plain(form: _Form, node: Node) -> None:
    """An operator of ONNX's, or of another domain: perhaps on codes, perhaps with an activation."""
    node = node.copy()
    for name, value in node.attributes.items():
        if isinstance(value, Subgraph):
            inner = standard_form(value.graph, blocks=form.blocks)
            node.attributes[name] = Subgraph(inner, value.proto)
    dtype = _float_of(form, node)
    halves = HALF_WEIGHTS.get(node.op, ()) if dtype == "float32" else ()
    for i, name in enumerate(node.inputs):
        constant = form.old.constants.get(name)
        if isinstance(constant, QTensor) or (
            i in halves and constant is not None and constant.dtype == np.float16
        ):
            node.inputs[i] = form.weights(name, dtype=dtype)
    if node.op in RECURRENT:
        _stack_directions(form, node)
    if _moves_codes(node) and _move(form, node):
        return
    activation = node.attributes.pop("activation", None)
    if node.op == "MatMul":
        _product(form, node, node.inputs[:2], node.input(2), activation)
    elif node.version < _SINCE.get(node.op, 0):
        kind = {"Gelu": "gelu", "Swish": "silu", "HardSwish": "hard_swish"}[node.op]
        form.function(node.name, kind, node.inputs[0], node.outputs[0])
    elif activation is not None:
        form.chain(node, node.op, node.inputs, activation)
    else:
        form.graph.nodes.append(node)


def _stack_directions(form: _Form, node: Node) -> None:
    """Codes of a recurrent layer lie row by row, directions one after the other: give each its own."""
    directions = 2 if node.attributes.get("direction", "forward") == "bidirectional" else 1
    for index in (1, 2):
        rows = form.graph.values.get(node.inputs[index])
        if rows is None or rows.shape is None or len(rows.shape) != 2:
            continue
        shape = (directions, -1, int(rows.shape[1] or 0))
        stacked = form.name(f"{node.inputs[index]}.stacked")
        form.graph.values[stacked] = Value(stacked, rows.dtype, (directions, None, shape[2]))
        inputs = [node.inputs[index], form.constant(f"{stacked}.shape", np.array(shape))]
        form.add(form.beside(node.name, "stack"), "Reshape", inputs, [stacked])
        node.inputs[index] = stacked


def _float_of(form: _Form, node: Node) -> str:
    """Return the dtype that weights must have beside the first input."""
    dtype = form.graph.value(node.inputs[0]).dtype
    return dtype if dtype == "float16" else "float32"


def _move(form: _Form, node: Node) -> bool:
    """Let values be moved instead of their codes, if it is known how those are read."""
    a, q = node.attributes, form.readings.get(node.inputs[0])
    if q is None and node.op == "octavo.MaxPool":  # any will do: the greatest code is what is taken
        q = QParams(1.0, 0, form.graph.value(node.inputs[0]).dtype or "uint8")
    node.op = node.op.removeprefix("octavo.")
    if q is None or node.op == "Identity":
        return False
    if node.op == "Resize" and (
        a.get("mode", "nearest") != "nearest"
        or a.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    ):
        return False
    if node.op == "Pad" and node.input(2):
        fill = form.old.array(node.input(2))
        if fill is None or fill.item() != int(q.zero_point):
            return False
        node.inputs[2] = form.scalar(0.0, "zero")
    codes = node.outputs
    node.inputs[0] = form.real(node.inputs[0], q)
    node.outputs = [form.like(f"{name}.real", name) if name else "" for name in codes]
    form.graph.nodes.append(node)
    for made, name in zip(node.outputs, codes, strict=True):
        if name:
            form.quantize(form.beside(node.name, "quantize"), made, name, q)
    return True


_TAKEN_APART: dict[str, Callable[[_Form, Node], None]] = {
    "octavo.Activate": _activate,
    "octavo.Add": _pair,
    "octavo.AveragePool": _average,
    "octavo.Concat": _concat,
    "octavo.Conv": _conv,
    "octavo.ConvTranspose": _conv,
    "octavo.Embedding": _embedding,
    "octavo.GroupedLinear": _grouped,
    "octavo.Linear": _linear,
    "octavo.MatMul": _pair,
    "octavo.Mul": _pair,
}
