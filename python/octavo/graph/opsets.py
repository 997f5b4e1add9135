"""Nodes of an older opset as those of a later one: a model has one opset for all.

What is not named here means the same in all opsets from 11 on (https://onnx.ai/onnx/operators has
what changed in each).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from octavo.errors import ModelError
from octavo.graph.ir import Graph, Node, Subgraph

# Changes a node; returns the nodes to put in its place, itself among them.
Change = Callable[[Graph, Node], list[Node]]


def newest(graph: Graph) -> dict[str, int]:
    """Return the newest version of each domain's operators, graphs inside included; ONNX's is ""."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        domains = {node.op.rpartition(".")[0]: node.version}
        for value in node.attributes.values():
            if isinstance(value, Subgraph):
                inner = newest(value.graph).items()
                domains |= {domain: max(v, domains.get(domain, 0)) for domain, v in inner}
        found |= {domain: max(v, found.get(domain, 0)) for domain, v in domains.items()}
    return found


def raise_opset(graph: Graph, opset: int) -> None:
    """Rewrite all of ONNX's own operators for an opset that is at least as new, in place.

    Raises
    ------
    ModelError
        An operator that the later opset has no form for.
    """
    nodes = []
    for node in graph.nodes:
        for value in node.attributes.values():
            if isinstance(value, Subgraph):
                raise_opset(value.graph, opset)
        made = [node]
        if "." not in node.op:
            for since, change in _CHANGES.get(node.op, ()):
                if node.version < since <= opset:
                    made = change(graph, node)
            for each in made:
                each.version = opset
        nodes += made
    graph.nodes = nodes


def _constant(graph: Graph, stem: str, value: Any, dtype: Any = np.int64) -> str:
    name = graph.new_name(stem)
    graph.constants[name] = np.asarray(value, dtype)
    return name


def _attribute_to_input(attribute: str, index: int) -> Change:
    """A list of integers became an input."""

    def change(graph: Graph, node: Node) -> list[Node]:
        value = node.attributes.pop(attribute, None)
        if value is not None:
            node.inputs += [""] * (index - len(node.inputs))
            node.inputs.append(_constant(graph, f"{node.name}.{attribute}", value))
        return [node]

    return change


def _count_of_parts(_graph: Graph, node: Node) -> list[Node]:
    """Split into equal parts must be told how many."""
    if not node.input(1):
        node.inputs = node.inputs[:1]
        node.attributes["num_outputs"] = len(node.outputs)
    return [node]


def _one_axis(graph: Graph, node: Node) -> list[Node]:
    """Softmax went over all axes from `axis` on, as one."""
    axis = node.attributes.get("axis", 1)
    shape = graph.value(node.inputs[0]).shape or graph.value(node.outputs[0]).shape
    last = -1 if shape is None else len(shape) - 1
    node.attributes["axis"] = -1
    if axis in (-1, last):
        return [node]
    size, flat, soft = (graph.new_name(f"{node.name}.{part}") for part in ("size", "flat", "soft"))
    before = [
        Node(size, "Shape", node.inputs[:1], [size]),
        Node(flat, "Flatten", node.inputs[:1], [flat], {"axis": axis}),
    ]
    after = Node(f"{node.name}.shape", "Reshape", [soft, size], node.outputs)
    node.inputs, node.outputs = [flat], [soft]
    return [*before, node, after]


def _no_ratio(_graph: Graph, node: Node) -> list[Node]:
    """Dropout's ratio, which says nothing at inference, is no attribute any more."""
    node.attributes.pop("ratio", None)
    return [node]


def _one_output(_graph: Graph, node: Node) -> list[Node]:
    """Batch norm has no statistics to give at inference."""
    node.outputs = node.outputs[:1]
    return [node]


def _no_empty_scales(graph: Graph, node: Node) -> list[Node]:
    """Resize leaves out scales where sizes are given; they were empty."""
    scales = graph.array(node.input(2))
    if node.input(3) and scales is not None and scales.size == 0:
        node.inputs[2] = ""
    if node.attributes.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        raise ModelError(f"{node.name}: tf_half_pixel_for_nn is in no opset after 12")
    return [node]


def _for_each_channel(graph: Graph, node: Node) -> list[Node]:
    """Group norm takes scale and bias of each channel; it took those of each group."""
    channels = (graph.value(node.inputs[0]).shape or (None, None))[1]
    groups = node.attributes["num_groups"]
    for i in (1, 2):
        values = graph.array(node.inputs[i])
        if values is None or not isinstance(channels, int):
            raise ModelError(f"{node.name}: GroupNormalization of opset 18 needs known channels")
        repeated = np.repeat(values, channels // groups)
        node.inputs[i] = _constant(graph, f"{node.inputs[i]}.channels", repeated, repeated.dtype)
    return [node]


def _new_modes(_graph: Graph, node: Node) -> list[Node]:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = node.attributes.get("mode", "bilinear")
    node.attributes["mode"] = names.get(mode, mode)
    return [node]


def _axis_of_transform(graph: Graph, node: Node) -> list[Node]:
    axis = node.attributes.pop("axis", 1)
    node.inputs += [""] * (2 - len(node.inputs))
    node.inputs.append(_constant(graph, f"{node.name}.axis", axis))
    return [node]


def _pixels_from_corners(_graph: Graph, node: Node) -> list[Node]:
    node.attributes.setdefault("coordinate_transformation_mode", "output_half_pixel")
    return [node]


_AXES = _attribute_to_input("axes", 1)
_CHANGES: dict[str, tuple[tuple[int, Change], ...]] = {
    "BatchNormalization": ((14, _one_output),),
    "DFT": ((20, _axis_of_transform),),
    "Dropout": ((12, _no_ratio),),
    "GridSample": ((20, _new_modes),),
    "GroupNormalization": ((21, _for_each_channel),),
    "Resize": ((13, _no_empty_scales),),
    "RoiAlign": ((16, _pixels_from_corners),),
    "Split": ((13, _attribute_to_input("split", 1)), (18, _count_of_parts)),
    **dict.fromkeys(("ReduceSum", "Squeeze", "Unsqueeze"), ((13, _AXES),)),
    **dict.fromkeys(("Hardmax", "LogSoftmax", "Softmax"), ((13, _one_axis),)),
    **dict.fromkeys(
        (
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
            "ReduceLogSumExp",
            "ReduceMax",
            "ReduceMean",
            "ReduceMin",
            "ReduceProd",
            "ReduceSumSquare",
        ),
        ((18, _AXES),),
    ),
}
