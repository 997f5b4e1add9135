"""Channels last inside a graph: the same bits as channels first, and few transpositions."""

import copy
import os
import pickle
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import octavo as oc
from octavo.graph import Graph, Model, Node, Value, layout
from octavo.graph.executor import RUNS_TO_PLAN
from octavo.graph.layout import choose_layout, images_last, to_nchw
from octavo.graph.optimize import optimize

IN_QEMU = os.environ.get("OCTAVO_IN_QEMU") == "1"
CODES = oc.QParams(0.04, 117)
FEWER = oc.QParams(0.05, 101)


class Net:
    """A graph in the making: a value is a name, and its shape is known to the test."""

    def __init__(self, seed, rank=4, dtype="float32", known=True):
        self.rng = np.random.default_rng(seed)
        self.rank, self.dtype, self.known = rank, dtype, known
        self.nodes, self.constants, self.values, self.shapes = [], {}, {}, {}
        self.inputs = []

    def input(self, *shape):
        name = f"x{len(self.inputs)}"
        self.inputs.append(Value(name, self.dtype, ("n", *shape[1:])))
        self.shapes[name] = shape
        return name

    def constant(self, array):
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def floats(self, *shape):
        return self.constant(self.rng.normal(size=shape).astype(np.float32))

    def integers(self, *values):
        return self.constant(np.array(values, np.int64))

    def node(self, op, inputs, shape, version=18, dtype=None, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(Node(f"{op}.{len(self.nodes)}", op, inputs, [name], attributes, version))
        self.shapes[name] = shape
        dtype = self.dtype if dtype is None else dtype
        self.values[name] = Value(name, dtype, ("n", *shape[1:]) if self.known else None)
        return name

    def graph(self, *outputs):
        given = [self.values[name]._replace(shape=self.shapes[name]) for name in outputs]
        return Graph("net", self.inputs, given, self.nodes, self.constants, self.values)

    # Operators on float32 and on codes alike.

    def conv(self, x, out, kernel=3, stride=1, groups=1, residual=None, **more):
        n, c, *sizes = self.shapes[x]
        dims = len(sizes)
        attributes = {
            "strides": (stride,) * dims,
            "pads": (kernel // 2,) * (2 * dims),
            "group": groups,
            **more,
        }
        shape = (n, out, *((size - 1) // stride + 1 for size in sizes))
        weights = (out, c // groups, *(kernel,) * dims)
        if self.dtype == "float32":
            return self.node(
                "Conv", [x, self.floats(*weights), self.floats(out)], shape, **attributes
            )
        scale = self.rng.uniform(0.001, 0.01, out).astype(np.float32)
        codes = self.rng.integers(-127, 128, weights).astype(np.int8)
        w = self.constant(oc.QTensor(codes, scale, axis=0))
        inputs = [x, w, self.floats(out)]
        attributes |= {"x_qparams": CODES, "out_qparams": CODES, "activation": None}
        if residual is not None:
            inputs.append(residual)
            attributes |= {
                "residual_qparams": CODES,
                "sum_qparams": CODES,
                "sum_activation": "relu",
            }
        return self.node("octavo.Conv", inputs, shape, **attributes)

    def upsample(self, x, out):
        n, c, *sizes = self.shapes[x]
        dims, shape = len(sizes), (n, out, *(2 * size for size in sizes))
        attributes = {"strides": (2,) * dims}
        weights = (c, out, *(2,) * dims)
        if self.dtype == "float32":
            return self.node("ConvTranspose", [x, self.floats(*weights)], shape, **attributes)
        codes = self.rng.integers(-127, 128, weights).astype(np.int8)
        w = self.constant(oc.QTensor(codes, np.float32(0.01)))
        attributes |= {"x_qparams": CODES, "out_qparams": CODES, "activation": None}
        return self.node("octavo.ConvTranspose", [x, w], shape, **attributes)

    def pool(self, x, op, **more):
        n, c, *sizes = self.shapes[x]
        dims = len(sizes)
        attributes = {
            "kernel_shape": (3,) * dims,
            "strides": (2,) * dims,
            "pads": (1,) * (2 * dims),
            **more,
        }
        if self.dtype != "float32":
            op = f"octavo.{op}"
            attributes |= {"x_qparams": CODES, "out_qparams": CODES}
        return self.node(op, [x], (n, c, *((size - 1) // 2 + 1 for size in sizes)), **attributes)

    def pair(self, op, a, b):
        if self.dtype == "float32":
            return self.node(op, [a, b], self.shapes[a])
        more = {"a_qparams": CODES, "b_qparams": CODES, "out_qparams": CODES, "activation": None}
        return self.node(f"octavo.{op}", [a, b], self.shapes[a], **more)

    def single(self, x, op):
        shape = self.shapes[x]
        if self.dtype == "float32":
            return self.node(op, [x], shape)
        name = {"HardSwish": "hard_swish", "Sigmoid": "sigmoid", "Relu": "relu"}[op]
        more = {"x_qparams": CODES, "out_qparams": CODES, "activation": name}
        return self.node("octavo.Activate", [x], shape, **more)

    def concat(self, *parts):
        n, _, *sizes = self.shapes[parts[0]]
        shape = (n, sum(self.shapes[each][1] for each in parts), *sizes)
        if self.dtype == "float32":
            return self.node("Concat", parts, shape, axis=1)
        more = {"qparams": (CODES,) * len(parts), "out_qparams": FEWER}
        y = self.node("octavo.Concat", parts, shape, axis=1 - self.rank, **more)
        change = {"x_qparams": FEWER, "out_qparams": CODES, "activation": "identity"}
        return self.node("octavo.Activate", [y], shape, **change)

    def mean(self, x):
        shape = (*self.shapes[x][:2], *(1,) * (self.rank - 2))
        if self.dtype == "float32":
            return self.node("GlobalAveragePool", [x], shape)
        return self.node("octavo.AveragePool", [x], shape, x_qparams=CODES, out_qparams=CODES)

    def excite(self, x):
        c = self.shapes[x][1]
        return self.pair("Mul", x, self.single(self.conv(self.mean(x), c, 1), "Sigmoid"))

    # Of float32, or moving codes.

    def moved(self, x, how):
        n, c, *sizes = self.shapes[x]
        dims = len(sizes)
        if how == "pad":
            pads = (0, 0, *(1,) * dims, 0, 0, *(0,) * dims)
            fill = self.constant(np.array(3, self.dtype))
            inputs = [x, self.integers(*pads), fill]
            return self.node("Pad", inputs, (n, c, *(size + 1 for size in sizes)))
        if how == "resize":
            scales = self.constant(np.array([1, 1, *(2,) * dims], np.float32))
            mode = "linear" if self.dtype == "float32" else "nearest"
            shape = (n, c, *(2 * size for size in sizes))
            return self.node("Resize", [x, "", scales], shape, mode=mode)
        if how == "slice":
            ends = [self.integers(1), self.integers(c), self.integers(1)]
            return self.node("Slice", [x, *ends], (n, c - 1, *sizes))
        if how == "depth":
            mode = str(self.rng.choice(["DCR", "CRD"]))
            y = self.conv(x, 8, 1)
            shape = (n, 2, *(2 * size for size in sizes))
            return self.node("DepthToSpace", [y], shape, blocksize=2, mode=mode)
        assert how == "space"
        shape = (n, 4 * c, *(size // 2 for size in sizes))
        return self.node("SpaceToDepth", [x], shape, blocksize=2)

    def scaled(self, x, how):
        """Operators that have no form on codes."""
        c, shape = self.shapes[x][1], self.shapes[x]
        if how == "channels":
            factors = self.floats(c, *(1,) * (self.rank - 2))
            return self.node("Mul", [factors, x], shape)
        if how == "norm":
            line = [self.floats(c) for _ in range(3)]
            variance = self.constant(np.abs(self.rng.normal(size=c)).astype(np.float32))
            return self.node("BatchNormalization", [x, *line, variance], shape)
        if how == "softmax":
            return self.node("Softmax", [x], shape, axis=1)
        if how == "instance":  # stays with channels first
            return self.node("InstanceNormalization", [x, self.floats(c), self.floats(c)], shape)
        assert how == "prelu"
        return self.node("PRelu", [x, self.floats(c, *(1,) * (self.rank - 2))], shape)


def feeds_of(graph, shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {
        value.name: rng.normal(size=shapes[value.name]).astype(np.float32)
        if value.dtype == "float32"
        else rng.integers(0, 256, shapes[value.name]).astype(np.uint8)
        for value in graph.inputs
    }


def turns(graph):
    return [n for n in graph.nodes if n.op == "Transpose" and "layout" in n.attributes]


def laid_out(graph):
    changed = graph.copy()
    choose_layout(changed)
    return changed


def check(net, graph):
    """Whether the pass keeps all bits, and undoing it gives the graph back; returns what it made."""
    plain = Model(graph.copy())
    feeds = feeds_of(graph, net.shapes)
    expected = plain.run(feeds)
    changed = laid_out(graph)
    model = Model(changed)
    for _ in range(RUNS_TO_PLAN):  # step by step, and as plans
        results = model.run(feeds)
        for name, y in expected.items():
            assert results[name].shape == y.shape
            assert results[name].dtype == y.dtype
            assert results[name].tobytes() == y.tobytes()
    back = changed.copy()
    to_nchw(back)
    assert [describe(node) for node in back.nodes] == [describe(node) for node in graph.nodes]
    for name, value in graph.values.items():
        if value.shape is not None:
            assert back.value(name) == value
    return changed


def describe(node):
    return node.name, node.op, node.inputs, node.outputs, node.attributes


KINDS = {
    "layers": ["conv", "stride", "depthwise", "same", "up", "residual", "excite"],
    "images": ["max", "average", "concat", "pad", "resize", "slice", "depth", "space"],
    "values": ["relu", "swish", "add", "channels", "norm", "softmax", "instance", "prelu"],
}
STEPS = st.lists(
    st.sampled_from(list(KINDS.values())).flatmap(st.sampled_from), min_size=1, max_size=12
)
ENDS = st.sampled_from(["images", "rows", "both", "shape"])


def built(net, steps, end):
    """Return the graph of some steps one after another; what a step cannot do is left out."""
    size = 6 if net.rank == 4 else 10
    x = net.input(2, 3, *(size,) * (net.rank - 2))
    images = [x]
    for step in steps:
        n, c, *sizes = net.shapes[x]
        same = [each for each in images if net.shapes[each] == net.shapes[x]]
        near = [each for each in images if net.shapes[each][2:] == net.shapes[x][2:]]
        other = same[int(net.rng.integers(len(same)))]
        if max(sizes) > 12 and step in ("up", "resize", "depth"):
            continue
        if step in ("channels", "norm", "softmax", "instance", "prelu"):
            x = net.scaled(x, step) if net.dtype == "float32" else x
        elif step in ("pad", "resize", "slice", "depth", "space"):
            square = net.rank == 4 and not any(each % 2 for each in sizes)
            if (step not in ("depth", "space") or square) and (step != "slice" or c > 1):
                x = net.moved(x, step)
        elif step == "conv":
            x = net.conv(x, int(net.rng.integers(1, 20)))
        elif step == "residual" and net.dtype != "float32":
            x = net.conv(x, c, residual=other)
        elif step in ("stride", "residual"):
            x = net.conv(x, 8, 3, 2)
        elif step == "same":
            x = net.conv(x, 5, 2, auto_pad="SAME_UPPER")
        elif step == "depthwise":
            x = net.conv(x, c, groups=c)
        elif step == "relu":
            x = net.single(x, "Relu")
        elif step == "swish":
            x = net.single(x, "HardSwish")
        elif step == "add":
            x = net.pair("Add", x, other)
        elif step == "excite" and (net.rank == 4 or net.dtype == "float32"):
            x = net.excite(x)
        elif step == "max" and (net.rank == 4 or net.dtype == "float32"):
            x = net.pool(x, "MaxPool")
        elif step == "average" and (net.rank == 4 or net.dtype == "float32"):
            x = net.pool(x, "AveragePool", count_include_pad=int(net.rng.integers(2)))
        elif step == "concat":
            x = net.concat(x, near[int(net.rng.integers(len(near)))])
        elif step == "up":
            x = net.upsample(x, 4)
        images.append(x)
    outputs = (
        []
        if end in ("rows", "shape")
        else [e for e in dict.fromkeys(images) if e != images[0]][-2:]
    )
    if x == images[0]:
        x = net.single(x, "Relu")
        outputs = [x]
    if end in ("rows", "both"):
        n, c = net.shapes[x][:2]
        if net.rank == 4 or net.dtype == "float32":
            outputs.append(net.node("Flatten", [net.mean(x)], (n, c)))
        else:
            count = int(np.prod(net.shapes[x][1:]))
            outputs.append(net.node("Flatten", [x], (n, count)))
    if end == "shape":
        outputs = [x, net.node("Shape", [x], (net.rank,), dtype="int64")]
    return net.graph(*outputs)


@settings(max_examples=15 if IN_QEMU else 300)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([3, 4]),
    st.sampled_from(["float32", "uint8"]),
    st.booleans(),
    STEPS,
    ENDS,
)
def test_any_net_gives_the_same_bits_in_either_layout(seed, rank, dtype, known, steps, end):
    net = Net(seed, rank, dtype, known)
    graph = built(net, steps, end)
    with mock.patch.object(layout, "_STEP", 0):  # though the images are small
        check(net, graph)


EVERY = ["conv", "relu", "add", "depthwise", "swish", "excite", "max", "conv", "average", "concat"]
EVERY += ["resize", "pad", "slice", "up", "conv", "residual", "same"]


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("rank", [3, 4])
def test_a_net_of_operators_that_can_is_turned_at_its_ends_alone(rank, dtype):
    net = Net(0, rank, dtype)
    with mock.patch.object(layout, "_STEP", 1):  # not 0: a pixel is the same in both layouts
        graph = check(net, built(net, EVERY, "rows"))
    ends = 1 if rank == 4 or dtype == "float32" else 2  # codes of signals are not averaged here
    assert len(turns(graph)) == ends
    assert turns(graph)[0].inputs == ["x0"]
    images = {n for n, shape in net.shapes.items() if len(shape) == rank and n[0] == "v"}
    assert images <= images_last(graph)


def test_one_convolution_is_left_alone():
    net = Net(0)
    graph = net.graph(net.single(net.conv(net.input(1, 3, 6, 6), 4), "Relu"))
    assert [describe(node) for node in laid_out(graph).nodes] == [describe(n) for n in graph.nodes]


def test_a_graph_without_convolutions_is_left_alone():
    net = Net(0)
    graph = net.graph(net.mean(net.single(net.input(1, 3, 6, 6), "Relu")))
    assert [describe(node) for node in laid_out(graph).nodes] == [describe(n) for n in graph.nodes]


def test_an_operator_that_cannot_is_given_channels_first():
    net = Net(0)
    x = net.conv(net.conv(net.input(1, 3, 16, 16), 8), 8)
    graph = net.graph(net.conv(net.conv(net.scaled(x, "instance"), 8), 8))
    changed = check(net, graph)
    assert [node.attributes["layout"] for node in turns(changed)] == ["NHWC", "NCHW"] * 2


def test_what_the_graph_gives_out_and_reads_again_is_turned_once():
    net = Net(0)
    x = net.conv(net.conv(net.input(1, 3, 16, 16), 8), 8)
    y = net.conv(x, 8)
    changed = check(net, net.graph(x, y))
    assert [node.outputs for node in turns(changed)] == [["x0.nhwc"], [x], [y]]
    assert changed.value(f"{x}.nhwc").shape == ("n", 16, 16, 8)
    assert [value.shape for value in changed.outputs] == [(1, 8, 16, 16)] * 2


def test_names_that_are_taken_are_not_given_again():
    net = Net(0)
    x = net.conv(net.conv(net.input(1, 3, 16, 16), 8), 8)
    taken = net.node("Relu", [x], net.shapes[x])
    for node in net.nodes:
        node.outputs = ["x0.nhwc" if name == taken else name for name in node.outputs]
    net.values["x0.nhwc"] = net.values[taken]._replace(name="x0.nhwc")
    net.shapes["x0.nhwc"] = net.shapes[taken]
    changed = check(net, net.graph("x0.nhwc"))
    assert turns(changed)[0].outputs == ["x0.nhwc_1"]


def test_known_shapes_are_those_that_values_have():
    net = Net(1)
    graph = laid_out(built(net, [*EVERY, "softmax", "norm", "prelu", "channels", "depth"], "both"))
    model = Model(graph)
    seen = {}

    def watch(step, _inputs, outputs):
        seen.update(zip(step.node.outputs, (y.shape for y in outputs), strict=True))

    model.trace(feeds_of(graph, net.shapes), watch)
    for name, shape in seen.items():
        assert graph.value(name).shape[1:] == shape[1:], name


def test_the_passes_may_see_a_graph_again():
    net = Net(0)
    graph = built(net, EVERY, "both")
    optimize(graph)
    once = [describe(node) for node in graph.nodes]
    assert turns(graph)
    optimize(graph)
    assert [describe(node) for node in graph.nodes] == once


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_saved_pickled_and_copied_it_stays_the_same(tmp_path, dtype):
    net = Net(0, dtype=dtype)
    graph = laid_out(built(net, EVERY, "both"))
    model, feeds = Model(graph), feeds_of(graph, net.shapes)
    model.save(tmp_path / "net.octavo")
    expected = model.run(feeds)
    loaded = oc.load(tmp_path / "net.octavo")
    assert turns(loaded.graph)
    for other in (loaded, pickle.loads(pickle.dumps(model)), Model(copy.deepcopy(graph))):
        for name, y in other.run(feeds).items():
            assert y.tobytes() == expected[name].tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (7, 13), (11, 64)])
def test_the_mean_of_an_image_is_summed_in_64_lanes(dtype, size):
    x = np.random.default_rng(0).normal(size=(2, 3, *size)).astype(dtype)
    node = Node("mean", "GlobalAveragePool", ["x"], ["y"])
    image = Value("x", dtype, x.shape)
    y = Model(Graph("net", [image], [Value("y", dtype)], [node], {}, {})).run({"x": x})["y"]
    wide = x.astype(np.float32) if dtype == "float16" else x
    lanes = np.zeros((2, 3, 64), wide.dtype)
    for k, pixel in enumerate(np.moveaxis(wide.reshape(2, 3, -1), -1, 0)):
        lanes[..., k % 64] += pixel
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    expected = (lanes[..., None] / wide.dtype.type(np.prod(size))).astype(dtype)
    assert np.array_equal(y, expected)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("rank", [3, 4])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_windows_of_float32_give_what_those_of_float64_give(op, rank):
    rng = np.random.default_rng(rank)
    for _ in range(4 if IN_QEMU else 20):
        dims = rank - 2
        kernel = tuple(rng.integers(1, 4, dims).tolist())
        attributes = {
            "kernel_shape": kernel,
            "strides": tuple(rng.integers(1, 4, dims).tolist()),
            "pads": tuple(int(rng.integers(size)) for size in kernel * 2),
            "ceil_mode": int(rng.integers(2)),
        }
        if op == "AveragePool":
            attributes["count_include_pad"] = int(rng.integers(2))
        x = rng.integers(-9, 10, (2, 3, *rng.integers(3, 9, dims))).astype(np.float64)
        x[0, 0].flat[1] = np.nan
        results = []
        for dtype in ("float32", "float64"):
            node = Node("pool", op, ["x"], ["y"], attributes, 19)
            image = Value("x", dtype, x.shape)
            model = Model(Graph("net", [image], [Value("y", dtype)], [node], {}, {}))
            results.append(model.run({"x": x.astype(dtype)})["y"])
        assert np.array_equal(results[0], results[1].astype(np.float32), equal_nan=True)


def test_a_window_of_padding_alone_gives_what_numpy_makes_of_it():
    attributes = {"kernel_shape": (2,), "strides": (2,), "pads": (2, 0)}
    node = Node("pool", "MaxPool", ["x"], ["y"], attributes, 19)
    image = Value("x", "float32", (1, 1, 2))
    model = Model(Graph("net", [image], [Value("y", "float32")], [node], {}, {}))
    y = model.run({"x": np.array([[[1, 2]]], np.float32)})["y"]
    assert y.tolist() == [[[-np.inf, 2]]]
