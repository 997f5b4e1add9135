"""The graph to ONNX: operators of one opset, codes in QDQ form, checked before the file is there."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import _core
from octavo.errors import ModelError
from octavo.graph.ir import Constant, Graph, Node, Subgraph, Value
from octavo.graph.native_file import ARITHMETIC, replacing
from octavo.graph.onnx_reader import Proto, import_onnx, node_proto
from octavo.graph.opsets import newest, raise_opset
from octavo.graph.passes import axes_of
from octavo.graph.standard import standard_form

# Scales for each index of an axis are in no older one.
_OLDEST_OPSET = 13
# protobuf holds less than 2 GB: beyond, weights lie in a file of their own, but for small ones.
_MOST_INSIDE = 2**31 - 2**24
_SMALL = 1024
_ALIGNMENT = 4096

# Where an array lies in the file of weights: its name, the first byte, how many.
Place = tuple[str, int, int]


def write(graph: Graph, path: str | os.PathLike[str], *, blocks: str = "DequantizeLinear") -> None:
    """Write a graph as ONNX beside the target, then put it in its place.

    Weights that protobuf cannot hold go into a file of the same folder, named after the model and
    their digest: so the old model has its own until the new one is there.

    Raises
    ------
    ModelError
        What ONNX has no form for.
    ImportError
        Without the package onnx.
    """
    onnx = import_onnx()
    target = os.path.abspath(os.fspath(path))
    standard = standard_form(graph, blocks=blocks)
    raise_opset(standard, max(_OLDEST_OPSET, newest(standard).get("", 0)))
    _keep_axes(standard)
    arrays = list({id(each): each for each in _arrays(standard)}.values())
    if sum(each.nbytes for each in arrays) <= _MOST_INSIDE:
        model = to_proto(standard)
        _check(onnx, model)
        with replacing(target) as file:
            file.write(model.SerializeToString())
        weights = ""
    else:
        large = [each for each in arrays if each.nbytes > _SMALL and each.dtype != object]
        weights = f"{os.path.basename(target)}.{_digest(large)}.data"
        with _weights_file(os.path.join(os.path.dirname(target), weights), large) as places:
            model = to_proto(standard, {i: (weights, *place) for i, place in places.items()})
            with _beside(target, model) as name:
                _check(onnx, name)
            with replacing(target) as file:
                file.write(model.SerializeToString())
    _remove_others(target, weights)


def _keep_axes(graph: Graph) -> None:
    """Let means of quantized models keep their axes, and a Squeeze take them away.

    OpenVINO (2026.4) gives wrong values for ReduceMean without them between a product with a
    constant for each channel and QuantizeLinear. `optimize` makes one operator of the two.
    """
    if all(node.op != "QuantizeLinear" for node in graph.nodes):
        return
    nodes = []
    for node in graph.nodes:
        nodes.append(node)
        axes = axes_of(graph, node)
        if node.op == "ReduceMean" and not node.attributes.get("keepdims", 1) and axes is not None:
            y = node.outputs[0]
            mean, name = graph.new_name(f"{y}.mean"), graph.new_name(f"{y}.axes")
            graph.constants[name] = np.array(axes, np.int64)
            node.attributes["keepdims"], node.outputs = 1, [mean]
            graph.values[mean] = Value(mean, graph.value(y).dtype)
            nodes.append(
                Node(f"{node.name}.squeeze", "Squeeze", [mean, name], [y], {}, node.version)
            )
    graph.nodes = nodes


def _arrays(graph: Graph) -> Iterator[NDArray[Any]]:
    for each in graph.constants.values():
        assert isinstance(each, np.ndarray)  # the form is standard
        yield each
    for node in graph.nodes:
        for value in node.attributes.values():
            if isinstance(value, Subgraph):
                yield from _arrays(value.graph)


def _check(onnx: Any, model: Any) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # ValidationError, InferenceError, and others below them
        raise ModelError(f"the graph is no valid ONNX model: {error}") from error


def _digest(arrays: list[NDArray[Any]]) -> str:
    import hashlib

    digest = hashlib.blake2b(digest_size=8)
    for each in arrays:
        digest.update(repr((each.dtype.name, each.shape)).encode())
        digest.update(_packed(each).data)
    return digest.hexdigest()


@contextlib.contextmanager
def _weights_file(path: str, arrays: list[NDArray[Any]]) -> Iterator[dict[int, tuple[int, int]]]:
    """Write arrays to a file; it goes if something is raised, but where it was there before."""
    known = os.path.exists(path)
    places = {}
    with replacing(path) as file:
        for each in arrays:
            file.write(bytes(-file.tell() % _ALIGNMENT))
            packed = _packed(each)
            places[id(each)] = file.tell(), packed.nbytes
            file.write(packed.data)
    try:
        yield places
    except BaseException:
        if not known:
            os.unlink(path)
        raise


@contextlib.contextmanager
def _beside(target: str, model: Proto) -> Iterator[str]:
    """Have a model in the folder of another for a while: what it reads is looked for there."""
    import tempfile

    handle, name = tempfile.mkstemp(dir=os.path.dirname(target), suffix=".onnx.part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(model.SerializeToString())
        yield name
    finally:
        os.unlink(name)


def _remove_others(target: str, weights: str) -> None:
    """Remove the weights of the model that was there before."""
    folder, name = os.path.split(target)
    ours = re.compile(re.escape(name) + r"\.[0-9a-f]{16}\.data")
    for each in os.listdir(folder):
        if ours.fullmatch(each) and each != weights:
            os.unlink(os.path.join(folder, each))


# --- the model ------------------------------------------------------------------------------------


def to_proto(graph: Graph, places: dict[int, Place] | None = None) -> Proto:
    """Return a ModelProto of a graph in standard form and of one opset.

    `places` has those arrays, by id, that lie in another file.
    """
    onnx = import_onnx()
    domains = {"": _OLDEST_OPSET} | newest(graph)
    imports = [onnx.helper.make_opsetid(*each) for each in domains.items()]
    proto = _Scope(onnx, graph, {}, set(), places or {}).proto(graph.name or "octavo")
    model: Proto = onnx.helper.make_model(
        proto,
        producer_name="octavo",
        producer_version=_core.__version__,
        opset_imports=imports,
        ir_version=onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True),
    )
    ours = {"octavo.version": _core.__version__, "octavo.arithmetic": str(ARITHMETIC)}
    onnx.helper.set_model_props(model, graph.metadata | ours)
    if not all(each.HasField("type") for each in model.graph.output):
        _infer_outputs(onnx, model)
    return model


def _infer_outputs(onnx: Any, model: Proto) -> None:
    """Fill in the types of outputs that are no tensors, which the graph does not know."""
    inferred = onnx.shape_inference.infer_shapes(model)
    for mine, found in zip(model.graph.output, inferred.graph.output, strict=True):
        mine.CopyFrom(found)


class _Scope:
    """A graph in its place: ONNX lets no name inside a graph be one of those around it."""

    def __init__(
        self,
        onnx: Any,
        graph: Graph,
        captured: dict[str, str],
        around: set[str],
        places: dict[int, Place],
    ) -> None:
        self._onnx = onnx
        self._graph = graph
        self._captured = captured
        self._places = places
        self._names = dict(captured)
        self._taken = set(around)
        made = [name for node in graph.nodes for name in node.outputs if name]
        for name in (*(v.name for v in graph.inputs), *graph.constants, *made):
            if name not in captured:
                self._names[name] = self._new(name)

    def _new(self, stem: str) -> str:
        name, number = stem, 0
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name

    def proto(self, name: str) -> Proto:
        """Return the graph as ONNX has it."""
        graph, helper = self._graph, self._onnx.helper
        stored = {each: self._names[each] for each in graph.constants}
        nodes = []
        for value in graph.outputs:  # must be made by an operator of this graph
            if value.name in graph.constants:
                stored[value.name] = self._new(f"{value.name}.value")
                ends = stored[value.name], self._names[value.name]
            elif value.name in self._captured:
                ends = self._names[value.name], self._new(f"{value.name}.inside")
                self._names[value.name] = ends[1]
            else:
                continue
            nodes.append(helper.make_node("Identity", ends[:1], ends[1:], f"{ends[1]}.identity"))
        nodes += [self._node(node) for node in graph.nodes]
        known = {value.name for value in graph.outputs}
        own = [value for value in graph.inputs if value.name not in self._captured]
        between = [
            self._info(graph.values[each], self._names[each])
            for each in dict.fromkeys(each for node in graph.nodes for each in node.outputs)
            if each in graph.values and each not in known and _is_tensor(graph.values[each])
        ]
        return helper.make_graph(
            nodes,
            name,
            [self._info(each, self._names[each.name]) for each in own],
            [self._info(value, self._names[value.name]) for value in graph.outputs],
            [self._tensor(each, stored[key]) for key, each in graph.constants.items()],
            value_info=between,
        )

    def _node(self, node: Node) -> Proto:
        def inside(subgraph: Subgraph) -> Proto:
            captured = {inner: self._names[name] for inner, name in node.implicit.items()}
            inner = subgraph.graph
            scope = _Scope(self._onnx, inner, captured, self._taken, self._places)
            return scope.proto(inner.name or node.name)

        proto = node_proto(self._onnx, node, inside)
        proto.input[:] = [self._names[name] if name else "" for name in node.inputs]
        proto.output[:] = [self._names[name] if name else "" for name in node.outputs]
        return proto

    def _info(self, value: Value, name: str) -> Proto:
        helper = self._onnx.helper
        if not _is_tensor(value):
            return self._onnx.ValueInfoProto(name=name)
        number = _element_type(self._onnx, value.dtype)
        shape = None if value.shape is None else list(value.shape)
        return helper.make_tensor_value_info(name, number, shape)

    def _tensor(self, array: Constant, name: str) -> Proto:
        assert isinstance(array, np.ndarray)  # the form is standard
        onnx = self._onnx
        place = self._places.get(id(array))
        if array.dtype == object:
            strings = [each.encode("utf-8", "surrogateescape") for each in array.flat]
            kind = onnx.TensorProto.STRING
            return onnx.TensorProto(
                name=name, data_type=kind, dims=array.shape, string_data=strings
            )
        tensor = onnx.TensorProto(
            name=name, data_type=_element_type(onnx, array.dtype.name), dims=array.shape
        )
        if place is None:
            tensor.raw_data = _packed(array).tobytes()
        else:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in zip(("location", "offset", "length"), place, strict=True):
                tensor.external_data.add(key=key, value=str(value))
        return tensor


def _is_tensor(value: Value) -> bool:
    return value.dtype not in (None, "sequence", "optional", "map", "sparse_tensor")


def _element_type(onnx: Any, dtype: str | None) -> int:
    """Return ONNX's number of a dtype, which NumPy may not have itself."""
    if dtype == "object":
        return int(onnx.TensorProto.STRING)
    try:
        return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    except TypeError:
        names = importlib.import_module("ml_dtypes")
        return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(getattr(names, str(dtype)))))


def _packed(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes that ONNX stores: little endian, 4-bit codes two to one, the low half first."""
    if array.dtype.name in ("int4", "uint4"):
        codes = array.astype(np.int8).reshape(-1).view(np.uint8) & np.uint8(15)
        codes = np.append(codes, np.zeros(codes.size % 2, np.uint8))
        return codes[0::2] | (codes[1::2] << np.uint8(4))
    plain = np.ascontiguousarray(array)
    if plain.dtype.byteorder == ">":
        plain = plain.astype(plain.dtype.newbyteorder("<"))
    return plain.reshape(-1).view(np.uint8)
