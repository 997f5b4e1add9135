"""Images with channels last between operators that have them so, channels first at the edges.

A node with the attribute ``layout="NHWC"`` is given images and signals with channels last and gives
them so: arrays of 3 or 4 axes that are no constants. Whatever else it has (axes, pads, constants) is as
ONNX says it, for channels first. Values keep their names. A Transpose with the attribute `layout` stands
where the layout changes, and says to which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from octavo.graph.ir import Graph, Node, Value, unique_names
from octavo.graph.kernel import NCHW, NHWC, Arg, Kernel, channels_first, channels_last

_IMAGE_RANKS = (3, 4)
# A dimension that is not known counts as so many; the first, of the batch, as one.
_LIKELY_SIZE = 16
# What a Transpose costs beside the bytes that it moves, in bytes.
_STEP = 1024
_WIDTHS = {"bool": 1, "float16": 2, "float64": 8, "int64": 8, "int8": 1, "uint8": 1}

_CONVOLUTIONS = frozenset(
    {"Conv", "ConvInteger", "ConvTranspose", "octavo.Conv", "octavo.ConvTranspose"}
)
# Their kernels have channels last, and turn what has not.
_TURNING = _CONVOLUTIONS | {"octavo.AveragePool", "octavo.MaxPool"}
# The same in any layout, if all inputs have the axes of the result, or one element.
_ELEMENTWISE = frozenset(
    {
        "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Cast", "CastLike", "Ceil",
        "Celu", "Clip", "Cos", "Cosh", "DequantizeLinear", "Div", "Elu", "Equal", "Erf", "Exp",
        "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity",
        "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish",
        "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu",
        "Round", "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub",
        "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
        "com.microsoft.DequantizeLinear", "com.microsoft.QuantizeLinear", "com.microsoft.QuickGelu",
        "octavo.Activate", "octavo.Add", "octavo.Mul",
    }
)  # fmt: skip
# One axis among their attributes, and the one where none is said.
_ALONG = {"Concat": 1, "Softmax": -1, "Split": 0, "octavo.Concat": 1}
# Their results have as many axes as what they are given, as those of all above.
_READING = _TURNING | {
    "AveragePool", "DepthToSpace", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Pad", "Resize",
    "SpaceToDepth",
}  # fmt: skip
_VIEWING = frozenset({"BatchNormalization", "ReduceMax", "ReduceMin", "Slice"})
_READING_TOO = frozenset({"DynamicQuantizeLinear", "ReduceMean", "Transpose"})
# Of images of one pixel they make the same in any layout: rows of channels.
_FLATTENING = frozenset({"Flatten", "Reshape"})


def is_last(node: Node) -> bool:
    """Whether images come to a node and go from it with channels last."""
    return bool(node.attributes.get("layout") == NHWC)


def images_last(graph: Graph) -> set[str]:
    """Return the names of the values that have channels last."""
    return {
        name
        for node in graph.nodes
        if is_last(node)
        for name in node.outputs
        if _rank(graph.value(name)) in _IMAGE_RANKS
    }


def _rank(value: Value) -> int | None:
    return None if value.shape is None else len(value.shape)


def _turned(value: Value, order: Callable[[int], tuple[int, ...]]) -> Value:
    shape = value.shape
    if shape is None or len(shape) not in _IMAGE_RANKS:
        return value
    return value._replace(shape=tuple(shape[axis] for axis in order(len(shape))))


# --- kernels --------------------------------------------------------------------------------------


def as_it_runs(node: Node, args: Sequence[Arg]) -> Node | None:
    """Return what a kernel is made of for a node with channels last; None: see `shown_first`."""
    if node.op in _READING or node.op in _FLATTENING or node.op in _READING_TOO:
        return node  # their kernels read the attribute, or need not know
    ranks = {arg.rank for arg in args if arg.given and arg.value is None and arg.rank != 0}
    rank = next(iter(ranks)) if len(ranks) == 1 else None
    if rank not in _IMAGE_RANKS:
        return None
    constants = [arg.value for arg in args if arg.value is not None]
    if node.op in _ELEMENTWISE:
        return node if all(math.prod(each.shape) == 1 for each in constants) else None
    if node.op in _ALONG and (node.op == "Split" or not constants):
        axis = int(node.attributes.get("axis", _ALONG[node.op]))
        turned = node.copy()
        turned.attributes["axis"] = channels_last(rank).index(axis % rank)
        return turned
    return None


def as_first(node: Node, args: Sequence[Arg]) -> tuple[Node, list[Arg]]:
    """Return a node with channels last, and its inputs, as they are with channels first."""
    plain = node.copy()
    del plain.attributes["layout"]
    turned = []
    for arg in args:
        shape = _turned(Value("", arg.dtype, arg.shape), channels_first).shape
        turned.append(arg if arg.value is not None else arg._replace(shape=shape))
    return plain, turned


def shown_first(kernel: Kernel, args: Sequence[Arg]) -> Kernel:
    """Return the kernel for channels last of one for channels first: it sees views."""
    turns = [arg.given and arg.value is None for arg in args]

    def run(*arrays: Any) -> Any:
        shown = [
            x.transpose(channels_first(x.ndim)) if turn and x.ndim in _IMAGE_RANKS else x
            for x, turn in zip(arrays, turns, strict=True)
        ]
        made = kernel.run(*shown)
        return tuple(map(_last, made)) if isinstance(made, tuple) else _last(made)

    return Kernel(run, kernel.name)


def _last(y: Any) -> Any:
    return y.transpose(channels_last(y.ndim)) if y.ndim in _IMAGE_RANKS else y


# --- the pass -------------------------------------------------------------------------------------


def choose_layout(graph: Graph) -> None:
    """Give nodes channels last where that saves turning images; what counts is bytes turned."""
    if any(node.op in _TURNING for node in graph.nodes):
        _Choice(graph).apply()


class _Choice:
    """Which nodes have channels last: all that can, but those that this brings nothing."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._known = {value.name: value for value in graph.inputs} | graph.values
        self._readers: dict[str, list[int]] = {}
        self._makers: dict[str, int] = {}
        for i, node in enumerate(graph.nodes):
            for name in dict.fromkeys(node.reads):
                self._readers.setdefault(name, []).append(i)
            for name in node.outputs:
                self._makers[name] = i
        self._given_out = {value.name for value in graph.outputs}
        # By the place of each node that can have channels last: whether it has.
        self._last = {i: True for i, node in enumerate(graph.nodes) if self._can(node)}
        self._improve()
        self._drop_useless()

    def _shape(self, name: str) -> tuple[int | str | None, ...] | None:
        value = self._known.get(name)
        return None if value is None else value.shape

    def _rank(self, name: str) -> int | None:
        shape = self._shape(name)
        return None if shape is None else len(shape)

    def _images(self, names: Iterable[str]) -> list[str]:
        """Return those of some values that have a layout."""
        return [
            name
            for name in dict.fromkeys(names)
            if name not in self.graph.constants and self._rank(name) in _IMAGE_RANKS
        ]

    # What a node can.

    def _can(self, node: Node) -> bool:
        """Whether a node can have channels last. Asked in order: notes the ranks of results."""
        free = [name for name in node.inputs if name and name not in self.graph.constants]
        images = self._images(free)
        ranks = {self._rank(name) for name in images}
        if len(ranks) != 1 or node.implicit or any(self._rank(name) is None for name in free):
            return False
        rank = next(iter(ranks))
        assert rank is not None  # that of an image
        results = [rank] * len(node.outputs)
        if node.op in _CONVOLUTIONS:
            w = self.graph.constants.get(node.inputs[1])
            can = w is not None and len(w.shape) == rank
        elif node.op in _ELEMENTWISE or node.op in _ALONG:
            constants = [self.graph.constants.get(name) for name in node.inputs]
            can = all(each is None or len(each.shape) <= rank for each in constants)
            can = can and (node.op != "Softmax" or node.version >= 13)
        elif node.op in ("AveragePool", "MaxPool"):
            can = len(node.outputs) == 1
        elif node.op in ("ReduceMax", "ReduceMin"):
            can = bool(node.attributes.get("keepdims", 1))
        elif node.op in ("ReduceMean", "octavo.AveragePool"):
            can = rank == 4 and (node.op != "ReduceMean" or self._is_over_pixels(node))
            results = [rank if node.attributes.get("keepdims", 1) else 2]
        elif node.op in _FLATTENING:
            can, results = self._pixels(images[0]) == 1 and self._gives_rows(node), [2]
        elif node.op == "Shape":
            can, results = True, [1]
        elif node.op == "DynamicQuantizeLinear":
            can, results = True, [rank, 0, 0]
        else:
            can = node.op in _READING or node.op in _VIEWING
        if not can:
            return False
        for name, count in zip(node.outputs, results, strict=True):
            if name and self._rank(name) is None:
                value = self._known.get(name) or Value(name)
                shape = (None, self._channels(node), *(None,) * count)[:count]
                self._known[name] = value._replace(shape=shape)
            if name and self._rank(name) != count:
                return False
        return True

    def _channels(self, node: Node) -> int | None:
        """Return how many channels the result has that a node's weights, or what it is given, say."""
        w = self.graph.constants.get(node.inputs[1]) if node.op in _CONVOLUTIONS else None
        if w is None:
            size = (self._shape(node.inputs[0]) or (None, None))[1:2]
            return next((each for each in size if isinstance(each, int)), None)
        if node.op.endswith("Transpose"):
            return w.shape[1] * int(node.attributes.get("group", 1))
        return w.shape[0]

    def _is_over_pixels(self, node: Node) -> bool:
        given = self.graph.array(node.input(1))
        axes = node.attributes.get("axes") if given is None else given.reshape(-1).tolist()
        floats = self._known[node.inputs[0]].dtype in ("float16", "float32", "float64")
        return floats and axes is not None and sorted(axis % 4 for axis in axes) == [2, 3]

    def _gives_rows(self, node: Node) -> bool:
        if node.op == "Flatten":
            return bool(node.attributes.get("axis", 1) == 1)
        sizes = self.graph.array(node.input(1))
        return sizes is not None and sizes.shape == (2,) and int(sizes[1]) != 0

    # What it costs.

    def _sizes(self, name: str) -> list[int]:
        shape = self._shape(name)
        assert shape is not None  # that of an image
        sizes = [each if isinstance(each, int) else _LIKELY_SIZE for each in shape]
        return sizes if isinstance(shape[0], int) else [1, *sizes[1:]]

    def _pixels(self, name: str) -> int:
        return math.prod(self._sizes(name)[2:])

    def _bytes(self, name: str) -> int:
        """Return the bytes of an image; 0 if it is the same in both layouts."""
        sizes = self._sizes(name)
        if sizes[1] == 1 or self._pixels(name) == 1:
            return 0
        return math.prod(sizes) * _WIDTHS.get(self._known[name].dtype or "", 4)

    def _touched(self, i: int) -> list[str]:
        node = self.graph.nodes[i]
        return self._images([*node.inputs, *node.outputs])

    def _is_turned(self, name: str) -> bool:
        layouts = {self._last.get(i, False) for i in self._readers.get(name, ())}
        layouts.add(self._last.get(self._makers.get(name, -1), False))
        return len(layouts) > 1 or (name in self._given_out and True in layouts)

    def _cost(self, nodes: Iterable[int]) -> int:
        """Return the bytes that are turned in and around some nodes, and the steps that do it."""
        values: set[str] = set()
        total = 0
        for i in nodes:
            touched = self._touched(i)
            values.update(touched)
            if self.graph.nodes[i].op in _TURNING and not self._last[i]:
                total += sum(map(self._bytes, touched))
        return total + sum(_STEP + self._bytes(name) for name in values if self._is_turned(name))

    def _improve(self) -> None:
        """Change single nodes while that saves bytes; of two ways the same, channels first."""
        changed = True
        while changed:
            changed = False
            for i in [*reversed(self._last), *self._last]:
                before = self._cost([i])
                self._last[i] = not self._last[i]
                after = self._cost([i])
                if after < before or (after == before and not self._last[i]):
                    changed = True
                else:
                    self._last[i] = not self._last[i]

    def _drop_useless(self) -> None:
        """Leave neighbours as they were that together save little: sizes are guessed at times."""
        left = {i for i, last in self._last.items() if last}
        while left:
            group, found = set(), [left.pop()]
            while found:
                i = found.pop()
                group.add(i)
                for name in self._touched(i):
                    near = {*self._readers.get(name, ()), self._makers.get(name, -1)} & left
                    left -= near
                    found.extend(near)
            before = self._cost(group)
            self._last |= dict.fromkeys(group, False)
            if self._cost(group) * 8 > before * 9:
                self._last |= dict.fromkeys(group, True)

    # What becomes of the graph.

    def apply(self) -> None:
        """Mark the nodes, and put a Transpose where the layout changes."""
        graph, nodes = self.graph, self.graph.nodes
        last = [self._last.get(i, False) for i in range(len(nodes))]
        names = {node.name for node in nodes}
        values = {*graph.constants, *self._known, *self._makers}
        made_last = {
            name for i, node in enumerate(nodes) if last[i] for name in self._images(node.outputs)
        }
        graph.nodes = []

        def turn(name: str, source: str, result: str, layout: str) -> None:
            rank = self._rank(name)
            assert rank is not None  # that of an image
            order = channels_last(rank) if layout == NHWC else channels_first(rank)
            attributes = {"perm": order, "layout": layout}
            node = _new(f"{result}.turn", names)
            graph.nodes.append(Node(node, "Transpose", [source], [result], attributes, 13))

        # The names of each value in the two layouts. What the graph gives out has its own name with
        # channels first, all else as it is made.
        in_first, in_last = {}, {}
        for name in made_last:
            value = self._known[name]
            if name in self._given_out:
                in_first[name], in_last[name] = name, _new(f"{name}.nhwc", values)
            else:
                in_last[name] = name
            graph.values[in_last[name]] = _turned(value, channels_last)._replace(name=in_last[name])

        def read(name: str, is_last: bool) -> str:
            if not self._images([name]):
                return name
            if is_last and name not in in_last:
                value = self._known[name]
                in_last[name] = result = _new(f"{name}.nhwc", values)
                graph.values[result] = _turned(value, channels_last)._replace(name=result)
                turn(name, name, result, NHWC)
            if not is_last and name in made_last and name not in in_first:
                in_first[name] = result = _new(f"{name}.nchw", values)
                graph.values[result] = self._known[name]._replace(name=result)
                turn(name, name, result, NCHW)
            return in_last[name] if is_last else in_first.get(name, name)

        for i, node in enumerate(nodes):
            node.inputs = [read(name, last[i]) for name in node.inputs]
            node.implicit = {inner: read(name, last[i]) for inner, name in node.implicit.items()}
            graph.nodes.append(node)
            if not last[i]:
                continue
            node.attributes["layout"] = NHWC
            made, node.outputs = node.outputs, [in_last.get(name, name) for name in node.outputs]
            for name in made:
                if name in made_last and name in self._given_out:
                    turn(name, in_last[name], name, NCHW)


def _new(stem: str, among: set[str]) -> str:
    """Return a name that is not among others, and put it there."""
    name = unique_names([*among, stem])[-1]
    among.add(name)
    return name


def to_nchw(graph: Graph) -> None:
    """Undo `choose_layout`: channels first everywhere, as in ONNX, and its attribute gone."""
    given_out = {value.name for value in graph.outputs}
    last = images_last(graph)
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.nodes:
        if node.op == "Transpose" and node.attributes.get("layout") in (NHWC, NCHW):
            source, result = node.inputs[0], node.outputs[0]
            old, new = (source, result) if result in given_out else (result, source)
            renamed[old] = new
            last.discard(old)
            graph.values.pop(old, None)
            continue
        if is_last(node):
            del node.attributes["layout"]
        kept.append(node)
    for node in kept:
        node.inputs = [renamed.get(name, name) for name in node.inputs]
        node.outputs = [renamed.get(name, name) for name in node.outputs]
        node.implicit = {inner: renamed.get(name, name) for inner, name in node.implicit.items()}
    graph.nodes = kept
    for name in last & graph.values.keys():
        graph.values[name] = _turned(graph.values[name], channels_first)
