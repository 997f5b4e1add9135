"""Post-training quantization: a float32 model in, one that computes in fewer bits out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.array import QParams, QTensor
from octavo.graph.ir import Graph, Node, Value
from octavo.graph.kernel import REFERENCE
from octavo.graph.layout import images_last, to_nchw
from octavo.graph.model import Model
from octavo.graph.optimize import optimize
from octavo.graph.passes import clip_of
from octavo.graph.quantized import DYNAMIC, FUNCTIONS, MOVES, RECURRENT
from octavo.strategy.calibrate import calibrate
from octavo.strategy.correction import correct_biases
from octavo.strategy.equalize import equalize_layers
from octavo.strategy.layers import (
    CONVOLUTIONS,
    Layer,
    layer_of,
    quantized_weights,
    recurrent_weights,
)
from octavo.strategy.observers import METHODS
from octavo.strategy.precisions import Precision, precision_of_layers
from octavo.strategy.rounding import round_by_error
from octavo.strategy.samples import Gain, Samples

Array = NDArray[Any]

# Metadata: what became of each layer, in JSON.
QUANTIZATION = "octavo.quantization"
# Operators with graphs inside, which compute in float.
_CONTROL = ("If", "Loop", "Scan")
_NO_CODES = "an input is constant, or no float32 tensor"
_POOLS = ("AveragePool", "GlobalAveragePool", "MaxPool", "ReduceMean")


class Decision(NamedTuple):
    """What became of a layer: the precision it has, and why it is not the one asked for."""

    layer: str
    operator: str
    precision: str
    reason: str = ""


def quantize_model(
    model: Model,
    data: Any = None,
    precision: Precision = "int8",
    *,
    activations: str = "static",
    stats: Any = None,
    method: str = "auto",
    equalize: bool = True,
    rounding: str = "nearest",
    correct_bias: bool = True,
    progress: Any = "auto",
) -> Model:
    """Quantize a float model after training.

    Parameters
    ----------
    model : Model
        As `octavo.load` gives it, float32 or float16. What is quantized in it already stays so.
    data : Dataset, or what `octavo.Dataset` takes, optional
        Samples to calibrate with: some hundred are enough. Without any, the weights alone are
        quantized, and activations row by row (image by image) as they come.
    precision : str or dict, default "int8"
        "int8", "int4/32", "int4/128" and the like (groups of weights), "float16" (weights alone) or
        "float32"; for each layer: ``{"*": "int8", "head*": "float32", "op:Softmax": "float32"}``.
        A name beats a pattern, a later pattern an earlier one; layers that no key matches stay
        float32.
    activations : {"static", "dynamic"}, default "static"
        Whether 8-bit layers read activations at scales that calibration has found, and give 8-bit
        ones on; or quantize each row (image) by its own range.
    stats : Statistics, optional
        Of `octavo.calibrate` with this model, instead of calibrating here.
    method : str, default "auto"
        How calibration chooses ranges, as `octavo.calibrate` has it.
    equalize : bool, default True
        Move scale between a layer and what makes its input, where that lessens the error of the
        layer's output on the data. Needs `data`.
    rounding : {"nearest", "gptq"}, default "nearest"
        "gptq" rounds weights one input after the other and lets those that follow make up for the
        error. Needs `data`.
    correct_bias : bool, default True
        Take the mean error of each output, on the data, out of the bias. Needs `data`.
    progress : "auto", None or callable, default "auto"
        A bar on a terminal, nothing, or ``callable(done, total, label)``.

    Returns
    -------
    Model
        `octavo.explain` tells what became of each layer, and why.

    Raises
    ------
    ValueError, TypeError
        An unknown precision or option; a key that matches no layer; data that do not fit the model,
        or hold NaN.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> from octavo.graph import Graph, Model, Node, Value
    >>> w = np.array([[0.5, -1.0], [0.25, 2.0]], np.float32)
    >>> x, y = Value("x", "float32", ("n", 2)), Value("y", "float32", ("n", 2))
    >>> node = Node("product", "MatMul", ["x", "w"], ["y"], version=13)
    >>> model = Model(Graph("net", [x], [y], [node], {"w": w}, {}))
    >>> [layer.kernel for layer in oc.quantize_model(model, precision="int8").layers]
    ['linear int8']
    """
    if not isinstance(model, Model):
        raise TypeError(f"model is {type(model).__name__}, expected octavo.graph.Model")
    for name, value, known in (
        ("activations", activations, ("static", "dynamic")),
        ("rounding", rounding, ("nearest", "gptq")),
        ("method", method, METHODS),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}, expected {' or '.join(map(repr, known))}")
    if rounding == "gptq" and data is None:
        raise ValueError("rounding is 'gptq' without data, expected data to round by")
    graph = model.graph.copy()
    to_nchw(graph)
    wanted = precision_of_layers(graph.nodes, precision)
    is_known = data is not None or stats is not None
    kernels = {layer.name: layer.kernel for layer in model.layers}
    plan = _Plan(graph, wanted, kernels, static=activations == "static" and is_known)
    gains: list[Gain] = []
    scaled: list[str] = []
    # As ONNX lays out images; where the model has them so, it is not prepared a second time.
    plain = Model(graph) if images_last(model.graph) else model
    samples = Samples(graph, plan.layers, plain, data) if data is not None else None
    if samples is not None and equalize and stats is None:
        gains, scaled = equalize_layers(
            graph, plan.layers, wanted, plan.codes, plan.integer, samples
        )
    if plan.codes and stats is None:
        stats = calibrate(
            Model(graph) if gains else plain,
            data,
            method=method,
            names=plan.codes,
            progress=progress,
        )
    plan.leave_float([x for x in plan.codes if x not in stats or not stats.finite(x)])
    parameters = plan.parameters(stats)
    stored = plan.stored_weights()
    if samples is not None and rounding == "gptq":
        gains += round_by_error(plan.layers, stored, samples)
    if samples is not None and correct_bias:
        gains += correct_biases(graph, plan.layers, stored, parameters, samples)
    plan.put_weights(stored)
    plan.insert_codes(parameters)
    decisions = plan.decisions()
    graph.metadata[QUANTIZATION] = json.dumps(
        {
            "layers": [each._asdict() for each in decisions],
            "gains": [each._asdict() for each in gains],
            "scaled": scaled,
        }
    )
    graph.metadata[DYNAMIC] = json.dumps(plan.dynamic())
    optimize(graph)
    return Model(graph)


class _Plan:
    """Which values become codes, and how weights are stored."""

    def __init__(
        self,
        graph: Graph,
        wanted: Mapping[str, str],
        kernels: Mapping[str, str],
        *,
        static: bool,
    ) -> None:
        self.graph = graph
        self.wanted = wanted
        self.static = static
        self.layers: dict[str, Layer] = {}
        self.reasons: dict[str, str] = {}
        self.recurrent: dict[str, list[QTensor]] = {}
        # Weights that stay in float in any case: 8-bit ones would stand beside them.
        inside = {name for node in graph.nodes if node.op in _CONTROL for name in node.reads}
        for node in graph.nodes:
            if wanted[node.name] == "float32":
                continue
            if node.op in RECURRENT and REFERENCE in kernels.get(node.name, ""):
                self.reasons[node.name] = f"this form of {node.op} has no kernel"
                continue
            if node.op in RECURRENT:
                stored = recurrent_weights(graph, node, wanted[node.name])
                if isinstance(stored, str):
                    self.reasons[node.name] = stored
                else:
                    self.recurrent[node.name] = stored
                continue
            found = layer_of(graph, node)
            if isinstance(found, Layer) and node.inputs[0 if node.op == "Gather" else 1] in inside:
                found = "a graph inside another operator reads its weights in float"
            if isinstance(found, Layer):
                self.layers[node.name] = found
            elif found is not None:
                self.reasons[node.name] = found
        self.left_float: set[str] = set()
        self._find_codes()

    def _find_codes(self) -> None:
        self.producers, self.uses = self.graph.producers(), self.graph.uses()
        # The values that are to be codes, and the inputs (node, index) that read them so.
        self.codes: dict[str, list[tuple[Node, int]]] = {}
        # Sums that are clamped before they become codes.
        self.clamped: set[str] = set()
        self.integer: set[str] = set()
        for node in reversed(self.graph.nodes) if self.static else ():
            if self._is_clamp(node):
                self.clamped.add(node.inputs[0])
                self.integer.add(node.name)
                continue
            for index in self._read_as_codes(node):
                self.codes.setdefault(node.inputs[index], []).append((node, index))
                self.integer.add(node.name)

    def leave_float(self, names: Iterable[str]) -> None:
        """Have these values not be codes, nor what could only be codes with them."""
        before = len(self.left_float)
        self.left_float.update(names)
        if len(self.left_float) > before:
            self._find_codes()

    # --- which values are codes -------------------------------------------------------------------

    def _read_as_codes(self, node: Node) -> Iterable[int]:
        """Return which inputs of a node are to be codes; those that read its results are known."""
        precision = self.wanted.get(node.name, "float32")  # of what equalization has put in
        if node.name in self.layers:
            takes = precision == "int8" or (node.op in CONVOLUTIONS and precision.startswith("int"))
            return (0,) if takes and node.op != "Gather" and self._can(node.inputs[0]) else ()
        if not precision.startswith("int"):
            return ()
        if node.op == "MatMul":  # of two activations
            return (0, 1) if all(map(self._can, node.inputs[:2])) else ()
        data = self._data_inputs(node)
        known = self.codes.keys() | self.clamped
        if not data or not all(name in known for name in node.outputs):
            return ()
        if not all(self._can(node.inputs[index]) for index in data):
            self.reasons[node.name] = "an input is constant, infinite, or no float32 tensor"
            return ()
        return data

    def _is_clamp(self, node: Node) -> bool:
        """Whether a node only clamps what the operator before it gives, and so becomes part of it."""
        producer = self.producers.get(node.input(0))
        return (
            producer is not None
            and producer.op in ("Add", "Mul")
            and self.wanted.get(node.name, "").startswith("int")
            and self.wanted.get(producer.name, "").startswith("int")
            and node.outputs[0] in self.codes
            and self.uses[node.inputs[0]] == [node]
            and clip_of(self.graph, node) is not None
            and all(map(self._can, producer.inputs))
        )

    def _can(self, name: str) -> bool:
        """Whether a value can be codes."""
        if name in self.graph.constants or name in self.left_float:
            return False
        return self.graph.value(name).dtype == "float32"

    def _data_inputs(self, node: Node) -> tuple[int, ...]:
        """Return which inputs hold the values that an operator on codes takes; () if it has none."""
        graph, op = self.graph, node.op
        shape = graph.value(node.input(0)).shape
        if op in ("Add", "Mul"):
            return (0, 1)
        if op == "Concat":
            return tuple(range(len(node.inputs)))
        if op in _POOLS:
            images = shape is not None and len(shape) == 4 and len(node.outputs) == 1
            return (0,) if images and self._over_images(node) else ()
        if op == "Pad":
            fill = graph.array(node.input(2))
            plain = node.attributes.get("mode", "constant") == "constant"
            zero = not node.input(2) or (fill is not None and not fill.any())
            return (0,) if plain and zero else ()
        if op == "Resize":
            a = node.attributes
            cropped = a.get("coordinate_transformation_mode") == "tf_crop_and_resize"
            return (0,) if a.get("mode", "nearest") == "nearest" and not cropped else ()
        if op == "Swish" and node.attributes.get("alpha", 1.0) != 1:
            return ()
        return (0,) if op in MOVES or op in FUNCTIONS else ()

    def _over_images(self, node: Node) -> bool:
        if node.op == "ReduceMean":
            given = self.graph.array(node.input(1))
            axes = node.attributes.get("axes") if given is None else given.reshape(-1).tolist()
            return axes is not None and sorted(axis % 4 for axis in axes) == [2, 3]
        return node.op == "MaxPool" or tuple(node.attributes.get("dilations") or (1, 1)) == (1, 1)

    # --- weights ----------------------------------------------------------------------------------

    def stored_weights(self) -> dict[str, QTensor]:
        """Return the weights of each layer in its precision."""
        stored: dict[str, QTensor] = {}
        for name, layer in list(self.layers.items()):
            made = quantized_weights(layer, self.wanted[name])
            if isinstance(made, str):
                self.reasons[name] = made
                del self.layers[name]
            else:
                stored[name] = made
        return stored

    def put_weights(self, stored: Mapping[str, QTensor]) -> None:
        """Let layers read these weights."""
        for node in self.graph.nodes:
            if node.name in stored:
                self._put(node, 0 if node.op == "Gather" else 1, stored[node.name])
            for index, w in enumerate(self.recurrent.get(node.name, ()), 1):
                self._put(node, index, w)

    def _put(self, node: Node, index: int, w: QTensor) -> None:
        held = self.graph.new_name(f"{node.name}.weight.{w.dtype}")
        self.graph.constants[held] = w.data if w.dtype == "float16" else w
        node.inputs[index] = held

    # --- activations ------------------------------------------------------------------------------

    def insert_codes(self, parameters: Mapping[str, QParams]) -> None:
        """Put QuantizeLinear and DequantizeLinear where values become codes."""
        added: dict[str, list[Node]] = {}
        inputs = {value.name for value in self.graph.inputs}
        uses = self.graph.uses()
        for name, readers in self.codes.items():
            producer = self.producers.get(name)
            held = producer is None or producer.name in self.integer  # as codes, by what makes it
            steps, real = self._round_trip(name, parameters[name])
            if held and name not in inputs and None in uses[name]:
                held = False  # an output of the model is given in float32 too
            for node in {id(each): each for each in uses[name] if each is not None}.values():
                for index, each in enumerate(node.inputs):
                    if each == name and (held or (node, index) in readers):
                        node.inputs[index] = real
            added.setdefault("" if producer is None else producer.name, []).extend(steps)
        nodes = added.pop("", [])
        for node in self.graph.nodes:
            nodes += [node, *added.get(node.name, ())]
        self.graph.nodes = nodes

    def _round_trip(self, name: str, qparams: QParams) -> tuple[list[Node], str]:
        graph = self.graph
        shape = graph.value(name).shape
        scale, zero, codes, real = (
            graph.new_name(f"{name}.{part}") for part in ("scale", "zero_point", "codes", "real")
        )
        graph.constants[scale] = np.asarray(qparams.scale, np.float32)
        graph.constants[zero] = np.asarray(qparams.zero_point).astype(qparams.dtype)
        graph.values[codes] = Value(codes, qparams.dtype, shape)
        graph.values[real] = Value(real, "float32", shape)
        return [
            Node(f"{name}.quantize", "QuantizeLinear", [name, scale, zero], [codes], {}, 13),
            Node(f"{name}.dequantize", "DequantizeLinear", [codes, scale, zero], [real], {}, 13),
        ], real

    def parameters(self, stats: Any) -> dict[str, QParams]:
        """Return how each value is read; what moves values, and joins them, keeps the reading."""
        self.producers = self.graph.producers()
        found: dict[str, QParams] = {}
        for node in reversed(self.graph.nodes):  # what is joined takes the range of the whole
            if node.op == "Concat" and node.name in self.integer:
                whole = found.get(node.outputs[0]) or stats.qparams(node.outputs[0], "uint8")
                for name in node.inputs:
                    if all(reader is node for reader, _ in self.codes[name]):
                        found[name] = whole
        for name in self.codes:
            if name not in found:
                found[name] = self._qparams(name, stats, found)
        return found

    def _qparams(self, name: str, stats: Any, found: dict[str, QParams]) -> QParams:
        producer = self.producers.get(name)
        moved = producer is not None and (producer.op in MOVES or producer.op in ("MaxPool", "Pad"))
        if producer is not None and moved and producer.name in self.integer:
            source = producer.inputs[0]
            if source not in found:
                found[source] = self._qparams(source, stats, found)
            return found[source]
        if producer is not None and producer.op in ("Sigmoid", "Softmax"):
            return QParams(1 / 255, 0, "uint8")  # all of their range, whatever was seen of it
        qparams: QParams = stats.qparams(name, "uint8")
        return qparams

    def dynamic(self) -> list[str]:
        """Return the layers with 8-bit weights whose input does not come as codes."""
        return [
            name
            for name, layer in self.layers.items()
            if name not in self.integer
            and layer.node.op != "Gather"
            and self.wanted[name].startswith("int")
        ] + [name for name in self.recurrent if self.wanted[name].startswith("int")]

    # --- what became of it ------------------------------------------------------------------------

    def decisions(self) -> list[Decision]:
        """Return a row for each operator of the model that gives floats."""
        rows = []
        dynamic = frozenset(self.dynamic())
        for node in self.graph.nodes:
            made = {self.graph.value(name).dtype for name in node.outputs if name}
            if node.name not in self.wanted or not made & {"float32", "float16", None}:
                continue
            asked = self.wanted[node.name]
            got, reason = "float32", ""
            if node.name in self.layers or node.name in self.recurrent:
                got = asked
                if self.static and got == "int8" and node.name in dynamic:
                    reason = "activations are quantized as they come"
            elif node.name in self.integer:
                got = "int8"
            elif asked != "float32":
                reason = self.reasons.get(node.name) or self._why_float(node)
            rows.append(Decision(node.name, node.op, got, reason))
        return rows

    def _why_float(self, node: Node) -> str:
        known = ("Add", "Mul", "Concat", "Pad", "Resize", *_POOLS, *MOVES, *FUNCTIONS)
        if node.op not in (*known, "MatMul"):
            return f"{node.op} has no integer form"
        if not self.static:
            return "activations are not static"
        return "no 8-bit layer reads its result" if node.op in known else _NO_CODES
