"""ONNX to the graph. A model file is untrusted: everything is checked here, once."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.errors import ModelError
from octavo.graph.ir import Constant, Graph, Node, Subgraph, Value, unique_names

# Of onnx, which is imported where it is needed, and may not be there.
Proto = Any

OLDEST_OPSET = 11
# Constants of more bytes are no shapes, and nothing is inferred from what they hold.
_LARGE = 2**16
# A tensor of more is in no memory; sizes of what is made of it still fit 64 bits.
_MOST_VALUES = 2**40
# Attributes that are axes, or numbers of them, and the most that NumPy has; and operators that may
# have any whole number as an attribute.
_AXES = frozenset({"axes", "axis", "batch_axis", "batch_dims", "perm", "time_axis"})
_MOST_AXES = 64
_TERM = rb"[A-Za-z ]*(?:[.]{3})?[A-Za-z ]*"
_EQUATION = re.compile(rb"%b(?:,%b)*(?:->%b)?" % (_TERM, _TERM, _TERM))
_WIDE = frozenset({"Constant", "Shape", "Slice"})
# For how many elements of vectors onnx may keep what it knows of each: it takes 80 bytes for one.
_MOST_ELEMENTS = 2**22


def import_onnx() -> Any:
    """Return the package onnx, or raise an error that says how to get it."""
    import importlib

    try:
        for part in ("checker", "helper", "inliner", "numpy_helper", "reference"):
            importlib.import_module(f"onnx.{part}")
        return importlib.import_module("onnx")
    except ImportError as error:
        raise ImportError(
            "ONNX models need the package onnx: pip install 'octavo[models]'"
        ) from error


def read(source: str | os.PathLike[str] | bytes | Proto) -> Graph:
    """Return the graph of a model: a path, the bytes of a file, or a ModelProto.

    Raises
    ------
    ModelError
        What is no ONNX model, or one that contradicts itself; an opset before 11 or after what the
        installed onnx knows.
    FileNotFoundError, ImportError
    """
    content = Path(source).read_bytes() if isinstance(source, str | os.PathLike) else source
    onnx = import_onnx()
    model = _parse(onnx, source, content)
    try:
        light = _without_weights(onnx, model)
        onnx.checker.check_model(light)
        for tensor in model.graph.initializer:
            if tensor.ByteSize() > _LARGE:
                onnx.checker.check_tensor(tensor)
    except ModelError:
        raise
    except Exception as error:  # ValidationError, and whatever else a malformed model provokes
        raise ModelError(f"not a valid ONNX model: {_first_line(error)}") from error
    opsets = {each.domain or "ai.onnx": each.version for each in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    opset = opsets.get("ai.onnx", newest)
    if not OLDEST_OPSET <= opset <= newest:
        raise ModelError(
            f"the model has opset {opset}, expected {OLDEST_OPSET} to {newest}; "
            "onnx.version_converter.convert_version converts it"
        )
    try:
        if model.functions:
            light = onnx.inliner.inline_local_functions(light)
        light = _infer_shapes(onnx, light)
    except Exception as error:
        raise ModelError(f"shapes or types contradict: {_first_line(error)}") from error
    try:
        graph = _graph(onnx, light.graph, opsets, {}, model.graph.initializer)
        graph.metadata = {each.key: each.value for each in model.metadata_props}
        return graph
    except ModelError:
        raise
    except Exception as error:  # what the checker let through
        raise ModelError(f"not a valid ONNX model: {_first_line(error)}") from error


def _without_weights(onnx: Any, model: Proto) -> Proto:
    """Return the model with large constants as inputs: onnx copies what it looks at, several times."""
    light: Proto = onnx.ModelProto()
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = model.graph
    light.graph.name = graph.name
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(light.graph, field).extend(getattr(graph, field))
    given = {each.name for each in graph.input}
    for tensor in graph.initializer:
        if tensor.ByteSize() <= _LARGE:
            light.graph.initializer.append(tensor)
        elif tensor.name not in given:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            light.graph.input.append(info)
    _check_sizes(light.graph)
    return light


def _check_sizes(graph: Proto) -> None:
    """Raise for sizes that nothing has, which onnx would compute with; negative ones are unknown."""
    for tensor in graph.initializer:
        _check_dims(tensor.name, tensor.dims)
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        for each in dims:
            if each.dim_value < 0:
                each.ClearField("dim_value")
        _check_dims(value.name, [each.dim_value for each in dims if each.dim_value])
    for node in graph.node:
        for attribute in node.attribute:
            _check_dims(attribute.name, attribute.t.dims)
            _check_whole(node, attribute)
            # onnx's inference would never come to the end of others.
            if node.op_type == "Einsum" and not _EQUATION.fullmatch(attribute.s):
                raise ModelError(f"the equation of Einsum {node.name!r} is {attribute.s!r}")
            # onnx's inference counts outputs by this, and writes beyond them.
            counted = node.op_type == "Split" and attribute.name == "num_outputs"
            if counted and attribute.i != len(node.output):
                raise ModelError(
                    f"Split {node.name!r} has {len(node.output)} outputs, "
                    f"num_outputs is {attribute.i}"
                )
            for inside in (attribute.g, *attribute.graphs):
                _check_sizes(inside)


def _check_whole(node: Proto, attribute: Proto) -> None:
    """Raise for axes and sizes that onnx's inference takes in 32 bits, and reads and writes by."""
    if node.op_type in _WIDE:
        return
    most = _MOST_AXES if attribute.name in _AXES else 2**31 - 1
    for value in (attribute.i, *attribute.ints):
        if not -most <= value <= most:
            raise ModelError(
                f"{attribute.name} of {node.op_type} {node.name!r} is {value}, "
                f"expected {-most} to {most}"
            )


def _check_dims(name: str, dims: Iterable[int]) -> None:
    sizes = tuple(dims)
    if any(size < 0 for size in sizes) or math.prod(sizes) > _MOST_VALUES:
        raise ModelError(
            f"{name} has dimensions {sizes}, expected 0 or more, "
            f"of at most {_MOST_VALUES} values together"
        )


def _infer_shapes(onnx: Any, model: Proto) -> Proto:
    """Return the model with the types and shapes that follow, through values of shapes if it can be.

    For these onnx keeps an object for each element of any vector: so vectors must be short.
    """
    inferred: Proto = onnx.shape_inference.infer_shapes(model)
    graph = inferred.graph
    shapes = [each.type.tensor_type.shape.dim for each in (*graph.input, *graph.value_info)]
    lengths = [shape[0].dim_value for shape in shapes if len(shape) == 1]
    if max(lengths, default=0) * len(graph.node) <= _MOST_ELEMENTS:
        inferred = onnx.shape_inference.infer_shapes(inferred, data_prop=True)
    return inferred


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _parse(onnx: Any, source: Any, content: Any) -> Proto:
    model: Proto = onnx.ModelProto()
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        _decode(model, content, f"{path} is")
        try:
            onnx.load_external_data_for_model(model, os.path.dirname(os.path.abspath(path)))
        except Exception as error:
            raise ModelError(f"{path}: external data: {_first_line(error)}") from error
        return model
    if isinstance(content, bytes | bytearray | memoryview):
        _decode(model, bytes(content), "the bytes are")
    elif isinstance(content, onnx.ModelProto):
        model = content
    else:
        raise TypeError(
            f"source is {type(source).__name__}, expected a path, bytes or an onnx.ModelProto"
        )
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(
                f"{tensor.name} has external data; expected a path, so that its folder is known"
            )
    return model


def _decode(model: Proto, content: bytes, what: str) -> None:
    try:
        model.ParseFromString(content)
    except Exception as error:
        raise ModelError(f"{what} no ONNX model: {_first_line(error)}") from error
    if not model.graph.ByteSize() or not model.opset_import:
        raise ModelError(f"{what} no ONNX model: no graph, or no opset")


def _graph(
    onnx: Any,
    proto: Proto,
    opsets: dict[str, int],
    around: dict[str, Value],
    initializers: Iterable[Proto],
) -> Graph:
    """Return a graph; `around` are the values that it can read if it is inside another."""
    constants: dict[str, Constant] = {e.name: _array(onnx, e) for e in initializers}
    for each in proto.sparse_initializer:
        constants[each.values.name] = _dense(onnx, each)
    values = {
        each.name: _value(onnx, each) for each in (*proto.input, *proto.value_info, *proto.output)
    }
    names = unique_names(each.name or f"{each.op_type}_{i}" for i, each in enumerate(proto.node))
    nodes = []
    for name, each in zip(names, proto.node, strict=True):
        known = (
            around
            | values
            | {name: Value(name, str(c.dtype), c.shape) for name, c in constants.items()}
            if _has_graph(each)
            else {}
        )
        node = _node(onnx, name, each, opsets, known)
        if node.op == "Constant":
            constants[node.outputs[0]] = _constant(onnx, each)
        else:
            nodes.append(node)
    inputs = [values[each.name] for each in proto.input if each.name not in constants]
    inputs += [around.get(name) or Value(name) for name in _free(proto, set())]
    outputs = [values[each.name] for each in proto.output]
    return Graph(proto.name, inputs, outputs, nodes, constants, values)


def _has_graph(proto: Proto) -> bool:
    return any(attribute.HasField("g") for attribute in proto.attribute)


def _node(
    onnx: Any, name: str, proto: Proto, opsets: dict[str, int], around: dict[str, Value]
) -> Node:
    domain = proto.domain or "ai.onnx"
    op = proto.op_type if domain == "ai.onnx" else f"{domain}.{proto.op_type}"
    attributes: dict[str, Any] = {}
    implicit: dict[str, str] = {}
    for each in proto.attribute:
        if each.type == onnx.AttributeProto.GRAPH:
            implicit |= {free: free for free in _free(each.g, set())}
            graph = _graph(onnx, each.g, opsets, around, each.g.initializer)
            attributes[each.name] = Subgraph(graph, each.g.SerializeToString())
        elif each.type == onnx.AttributeProto.TENSOR:
            attributes[each.name] = _array(onnx, each.t)
        else:
            attributes[each.name] = _plain(onnx.helper.get_attribute_value(each))
    return Node(name, op, proto.input, proto.output, attributes, opsets.get(domain, 1), implicit)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if (
        hasattr(value, "__iter__")
        and not isinstance(value, str)
        and not hasattr(value, "DESCRIPTOR")
    ):
        return tuple(_plain(each) for each in value)
    return value.SerializeToString() if hasattr(value, "DESCRIPTOR") else value


def _free(graph: Proto, around: set[str]) -> list[str]:
    """Return the names that a subgraph reads and nothing inside makes."""
    known = around | {each.name for each in (*graph.input, *graph.initializer)}
    known |= {each.values.name for each in graph.sparse_initializer}
    free: dict[str, None] = {}
    for node in graph.node:
        free |= dict.fromkeys(name for name in node.input if name and name not in known)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                free |= dict.fromkeys(_free(attribute.g, known))
        known |= set(node.output)
    free |= dict.fromkeys(each.name for each in graph.output if each.name not in known)
    return list(free)


def _constant(onnx: Any, proto: Proto) -> NDArray[Any]:
    (attribute,) = proto.attribute
    if attribute.name == "value":
        return _array(onnx, attribute.t)
    if attribute.name == "sparse_value":
        return _dense(onnx, attribute.sparse_tensor)
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name.startswith("value_string"):
        return np.array(_plain(value), dtype=object)
    return np.array(value, np.float32 if "float" in attribute.name else np.int64)


def _array(onnx: Any, tensor: Proto) -> NDArray[Any]:
    """Return a tensor; its bytes were counted before memory is taken."""
    _check_dims(tensor.name, tensor.dims)
    count = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        bits = _bits(onnx, tensor.data_type)
        expected = -(-count * bits // 8)
        if len(tensor.raw_data) != expected:
            raise ModelError(
                f"{tensor.name} has {len(tensor.raw_data)} bytes, expected {expected} "
                f"for {tuple(tensor.dims)}"
            )
    try:
        array: NDArray[Any] = onnx.numpy_helper.to_array(tensor)
    except Exception as error:
        raise ModelError(f"{tensor.name} cannot be read: {_first_line(error)}") from error
    if array.dtype == object:
        array = np.array([_plain(each) for each in array.flat], object).reshape(array.shape)
    if array.flags.writeable:
        array.flags.writeable = False
    return array


def _bits(onnx: Any, data_type: int) -> int:
    name = onnx.TensorProto.DataType.Name(data_type)
    for bits, ends in ((4, ("INT4", "UINT4", "FLOAT4E2M1")), (2, ("INT2", "UINT2"))):
        if name in ends:
            return bits
    return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize) * 8


def _dense(onnx: Any, sparse: Proto) -> NDArray[Any]:
    values, where = _array(onnx, sparse.values), _array(onnx, sparse.indices)
    shape = tuple(sparse.dims)
    dense = np.zeros(shape, values.dtype)
    try:
        if where.ndim == 1:
            dense.reshape(-1)[where] = values
        else:
            dense[tuple(where.T)] = values
    except (IndexError, ValueError) as error:
        raise ModelError(f"{sparse.values.name} cannot be read: {_first_line(error)}") from error
    return dense


def _value(onnx: Any, proto: Proto) -> Value:
    kind = proto.type.WhichOneof("value")
    if kind != "tensor_type":
        return Value(proto.name, kind and kind.removesuffix("_type"))
    tensor = proto.type.tensor_type
    dtype = (
        np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
        if tensor.elem_type
        else None
    )
    shape = tuple(map(_dimension, tensor.shape.dim)) if tensor.HasField("shape") else None
    return Value(proto.name, dtype, shape)


def _dimension(proto: Any) -> int | str | None:
    if proto.HasField("dim_value") and proto.dim_value >= 0:  # -1 stands for any in some files
        return int(proto.dim_value)
    return proto.dim_param or None


def to_model(node: Node, opsets: Iterable[tuple[str, int]] = ()) -> Proto:
    """Return a model of one node, which onnx's reference implementation runs."""
    onnx = import_onnx()
    domain = node.op.rpartition(".")[0]
    inputs = [f"x{i}" if name else "" for i, name in enumerate(node.inputs)]
    outputs = [f"y{i}" if name else "" for i, name in enumerate(node.outputs)]
    proto = node_proto(onnx, node, lambda inside: onnx.GraphProto.FromString(inside.proto))
    proto.input[:], proto.output[:] = inputs, outputs
    given = [name for name in (*inputs, *node.implicit) if name]
    graph = onnx.helper.make_graph(
        [proto],
        "node",
        [onnx.helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(given)],
        [onnx.helper.make_empty_tensor_value_info(name) for name in outputs if name],
    )
    imports = dict(opsets) | {domain: node.version}
    if node.implicit or any(isinstance(v, Subgraph) for v in node.attributes.values()):
        imports.setdefault("", node.version)
    model: Proto = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid(*each) for each in imports.items()]
    )
    return model


def node_proto(onnx: Any, node: Node, inside: Callable[[Subgraph], Proto]) -> Proto:
    """Return a node as ONNX has it; `inside` makes the graphs in its attributes."""
    domain, _, op = node.op.rpartition(".")
    proto = onnx.helper.make_node(op, node.inputs, node.outputs, node.name, domain=domain or None)
    for name, value in node.attributes.items():
        if isinstance(value, Subgraph):
            proto.attribute.append(onnx.helper.make_attribute(name, inside(value)))
        elif isinstance(value, np.ndarray):
            tensor = onnx.numpy_helper.from_array(value)
            proto.attribute.append(onnx.helper.make_attribute(name, tensor))
        else:
            proto.attribute.append(_attribute(onnx, domain, op, node.version, name, value))
    return proto


def _attribute(onnx: Any, domain: str, op: str, version: int, name: str, value: Any) -> Any:
    """Return an attribute of the type that the operator's schema gives it (lists may be empty)."""
    kind = None
    if onnx.defs.has(op, version, domain):
        declared = onnx.defs.get_schema(op, version, domain).attributes.get(name)
        if declared is not None:
            kind = onnx.AttributeProto.AttributeType.Value(declared.type.name)
    if kind == onnx.AttributeProto.TYPE_PROTO:
        value = onnx.TypeProto.FromString(value)
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")
    return onnx.helper.make_attribute(name, value, attr_type=kind)
