"""The graph: nodes in topological order, named values, constants."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.array import QTensor

Constant = NDArray[Any] | QTensor
Shape = tuple[int | str | None, ...]


class Value(NamedTuple):
    """What is known of a value before anything runs.

    `dtype` is NumPy's name, "sequence" and the like for what is no tensor, None where not known. A
    dimension is a number, the name of one that is free, or None; `shape` None: not even how many.
    """

    name: str
    dtype: str | None = None
    shape: Shape | None = None


class Node:
    """One operator applied: `op` is its name, with the domain before it where that is not ONNX's own.

    An input that is left out is "". `implicit` are values that subgraphs read from around them: the
    name inside, and the value here.
    """

    __slots__ = ("attributes", "implicit", "inputs", "name", "op", "outputs", "version")

    def __init__(
        self,
        name: str,
        op: str,
        inputs: Iterable[str],
        outputs: Iterable[str],
        attributes: dict[str, Any] | None = None,
        version: int = 0,
        implicit: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.op = op
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.attributes = dict(attributes or {})
        self.version = version
        self.implicit = dict(implicit or {})

    def copy(self) -> Node:
        """Return a node of its own: what it holds is shared, its lists are not."""
        return Node(
            self.name,
            self.op,
            self.inputs,
            self.outputs,
            self.attributes,
            self.version,
            self.implicit,
        )

    @property
    def reads(self) -> list[str]:
        """Names of all values that the node needs."""
        return [name for name in (*self.inputs, *self.implicit.values()) if name]

    def input(self, index: int) -> str:
        """Return the name of an input, "" where it was left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def __repr__(self) -> str:
        return f"Node({self.name!r}, {self.op!r}, {self.inputs}, {self.outputs})"


class Graph:
    """Nodes in topological order. Each value has one producer: an input, a constant or a node.

    `metadata` is what is said of the model besides, text by name: files keep it.
    """

    __slots__ = ("constants", "inputs", "metadata", "name", "nodes", "outputs", "values")

    def __init__(
        self,
        name: str,
        inputs: Iterable[Value],
        outputs: Iterable[Value],
        nodes: Iterable[Node],
        constants: dict[str, Constant],
        values: dict[str, Value],
        metadata: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.nodes = list(nodes)
        self.constants = constants
        self.values = values
        self.metadata = dict(metadata or {})

    def copy(self) -> Graph:
        """Return a graph of its own; constants and graphs inside attributes are shared."""
        nodes = [node.copy() for node in self.nodes]
        constants, values = dict(self.constants), dict(self.values)
        return Graph(self.name, self.inputs, self.outputs, nodes, constants, values, self.metadata)

    def value(self, name: str) -> Value:
        """Return what is known of a value."""
        constant = self.constants.get(name)
        if constant is not None:
            return Value(name, str(constant.dtype), constant.shape)
        return self.values.get(name) or Value(name)

    def array(self, name: str) -> NDArray[Any] | None:
        """Return a plain constant, None where `name` is none."""
        constant = self.constants.get(name)
        return constant if isinstance(constant, np.ndarray) else None

    def producers(self) -> dict[str, Node]:
        """Return the node that each value comes from."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def uses(self) -> dict[str, list[Node | None]]:
        """Return the nodes that read each value; None stands for the graph's own outputs."""
        found: dict[str, list[Node | None]] = {}
        for node in self.nodes:
            for name in node.reads:
                found.setdefault(name, []).append(node)
        for value in self.outputs:
            found.setdefault(value.name, []).append(None)
        return found

    def rename(self, old: str, new: str) -> None:
        """Let every node that reads `old` read `new`."""
        for node in self.nodes:
            node.inputs = [new if name == old else name for name in node.inputs]
            for inner, name in node.implicit.items():
                if name == old:
                    node.implicit[inner] = new

    def new_name(self, stem: str) -> str:
        """Return a name that no value has."""
        taken = {*self.constants, *self.values, *self.producers()}
        return next(name for name in _numbered(stem) if name not in taken)


class Subgraph(NamedTuple):
    """A graph inside an attribute (If, Loop, Scan).

    What it reads from around it are inputs, after its own. `proto` is it as ONNX serializes it.
    """

    graph: Graph
    proto: bytes


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    number = 1
    while True:
        yield f"{stem}_{number}"
        number += 1


def unique_names(wanted: Iterable[str]) -> list[str]:
    """Return the names in order, those that were there before with a number behind."""
    taken: set[str] = set()
    names = []
    for stem in wanted:
        name = next(name for name in _numbered(stem) if name not in taken)
        taken.add(name)
        names.append(name)
    return names
