"""Plans in C++: the same bits as the steps they stand for, whatever they are given."""

import os
import pickle
import signal
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import octavo as oc
from octavo import _core, runtime
from octavo.graph import Graph, Model, Node, Value
from octavo.graph import plan as plans
from octavo.graph.plan import Segment

IN_QEMU = os.environ.get("OCTAVO_IN_QEMU") == "1"

Q = oc.QParams(0.05, 120)
PAIR = {"a_qparams": Q, "b_qparams": Q, "out_qparams": Q}
TURN = {"x_qparams": Q, "out_qparams": Q, "activation": ("leaky_relu", 0.5)}


def rng():
    return np.random.default_rng(0)


def codes(*shape):
    return rng().integers(0, 256, shape).astype(np.uint8)


def graph(nodes, inputs, outputs, constants=None, dtype="uint8"):
    """A graph on codes: nodes as (op, inputs, outputs, attributes), inputs as {name: shape}."""
    constants = constants or {}
    made = [Node(f"{op}_{i}", op, *rest) for i, (op, *rest) in enumerate(nodes)]
    given = [Value(name, dtype, shape) for name, shape in inputs.items()]
    names = [name for node in made for name in node.outputs]
    values = {name: Value(name, dtype) for name in names} | {v.name: v for v in given}
    return Graph("net", given, [Value(name, dtype) for name in outputs], made, constants, values)


def units(model, *shapes):
    """What runs for inputs of these shapes."""
    return model._executor._plans[shapes].units


def is_planned(model, *shapes):
    """Whether one plan runs all of it."""
    made = units(model, *shapes)
    return len(made) == 1 and isinstance(made[0], Segment)


def thrice(model, feeds):
    """Results of the run that steps do, of that which plans, and of the plan; and of steps once more.

    They are compared at once, after all ran.
    """
    results = [model.run(feeds) for _ in range(3)]
    results.append(model.trace(feeds, lambda *_: None))
    for other in results[1:]:
        assert other.keys() == results[0].keys()
        for name, value in results[0].items():
            assert other[name].dtype == value.dtype
            assert np.array_equal(other[name], value, equal_nan=value.dtype.kind == "f")
    return results[0]


def chain(count=100):
    nodes = [
        ("octavo.Add", [f"v{i}" if i else "x", "z"], [f"v{i + 1}"], PAIR) for i in range(count)
    ]
    return Model(graph(nodes, {"x": ("n",), "z": ("n",)}, [f"v{count}"]))


def chain_feeds(count):
    z = rng().integers(110, 131, count).astype(np.uint8)
    return {"x": codes(count), "z": z}


def test_a_chain_is_one_call_in_two_places_of_memory():
    model = chain()
    thrice(model, chain_feeds(64))
    (segment,) = units(model, (64,), (64,))
    assert segment.plan.steps == 100
    assert segment.plan.nbytes == 2 * 64
    assert len(segment.steps) == 100


@pytest.mark.usefixtures("isa")
def test_a_plan_made_on_one_instruction_set_runs_on_each():
    model, feeds = chain(5), chain_feeds(1000)
    expected = thrice(model, feeds)["v5"]
    for name in runtime.available_isas():
        with runtime.force_isa(name):
            assert np.array_equal(model.run(feeds)["v5"], expected)
    assert np.array_equal(model.run(feeds)["v5"], expected)


def test_an_unknown_instruction_set_is_an_error_in_a_plan_too():
    model, feeds = chain(5), chain_feeds(8)
    thrice(model, feeds)
    with pytest.raises(ValueError, match="avx9"), runtime.force_isa("avx9"):
        model.run(feeds)


def test_shapes_that_change_are_planned_anew():
    model = chain(7)
    for count in (3, 64, 1, 0, 64, 3):
        thrice(model, chain_feeds(count))
    for count in (3, 64, 1, 0):
        assert is_planned(model, (count,), (count,))


def test_a_shape_seen_once_is_not_planned():
    model = chain(7)
    model.run(chain_feeds(3))
    assert units(model, (3,), (3,)) is None


def test_preparing_plans():
    model = chain(7)
    model.prepare(chain_feeds(3))
    assert is_planned(model, (3,), (3,))


@pytest.mark.parametrize("form", ["every other", "backwards", "read-only", "unaligned"])
def test_inputs_lie_in_memory_as_they_like(form):
    model, feeds = chain(3), chain_feeds(64)
    expected = thrice(model, feeds)["v3"]
    x = feeds["x"]
    if form == "every other":
        other = np.repeat(x, 2)[::2]
    elif form == "backwards":
        other = x[::-1].copy()[::-1]
    elif form == "read-only":
        other = x.copy()
        other.flags.writeable = False
    else:
        other = np.zeros(65, np.uint8)[1:]
        other[:] = x
    before = other.copy()
    assert np.array_equal(model.run({**feeds, "x": other})["v3"], expected)
    assert np.array_equal(other, before)


def test_results_belong_to_the_caller():
    model = Model(
        graph(
            [
                ("octavo.Add", ["x", "x"], ["a"], PAIR),
                ("octavo.Activate", ["a"], ["b"], TURN),
                ("Reshape", ["a", "shape"], ["c"]),
                ("Transpose", ["x"], ["d"], {"perm": [1, 0]}),
                ("Identity", ["x"], ["e"]),
            ],
            {"x": (2, 6)},
            ["a", "b", "c", "d", "e"],
            {"shape": np.array([3, 4])},
        )
    )
    x = codes(2, 6)
    kept = x.copy()
    expected = {name: value.copy() for name, value in thrice(model, {"x": x}).items()}
    assert is_planned(model, (2, 6))
    first = model.run({"x": x})
    for name, value in first.items():
        assert value.base is None
        assert value.flags.writeable
        for other in (*(v for n, v in first.items() if n != name), x):
            assert not np.shares_memory(value, other)
    for value in first.values():
        value[...] = 0
    assert np.array_equal(x, kept)
    for name, value in model.run({"x": x}).items():
        assert np.array_equal(value, expected[name])


def test_results_can_be_written_where_the_caller_says():
    model, feeds = chain(3), chain_feeds(8)
    expected = thrice(model, feeds)["v3"]
    place = np.zeros(8, np.uint8)
    assert model.run(feeds, out={"v3": place})["v3"] is place
    assert np.array_equal(place, expected)


def test_steps_of_python_stand_between_plans():
    model = Model(
        graph(
            [
                ("octavo.Add", ["x", "x"], ["a"], PAIR),
                ("octavo.Activate", ["a"], ["b"], TURN),
                ("ArgMax", ["b"], ["i"], {"axis": 1}),  # has no description for plans
                ("octavo.Activate", ["b"], ["c"], TURN),
                ("octavo.Add", ["c", "a"], ["d"], PAIR),
            ],
            {"x": (2, 6)},
            ["i", "d"],
        )
    )
    thrice(model, {"x": codes(2, 6)})
    made = units(model, (2, 6))
    assert [isinstance(unit, Segment) for unit in made] == [True, False, True]
    assert made[1].node.op == "ArgMax"


def test_an_input_of_another_dtype_than_planned_runs_in_steps():
    model, feeds = chain(3), chain_feeds(8)
    thrice(model, feeds)
    (segment,) = units(model, (8,), (8,))
    assert segment.plan(feeds["x"].view(np.int8), feeds["z"]) is None
    assert segment.plan(feeds["x"][:7], feeds["z"]) is None
    assert segment.plan(feeds["x"].reshape(1, 8), feeds["z"]) is None
    assert segment.plan([1, 2], feeds["z"]) is None
    with pytest.raises(TypeError, match="takes 2 arrays, got 1"):
        segment.plan(feeds["x"])
    with pytest.raises(TypeError, match="no keywords"):
        segment.plan(feeds["x"], z=feeds["z"])


def test_a_sum_beyond_int32_is_the_operators_error():
    k = 70000
    w = oc.QTensor(np.full((1, k), 127, np.int8), 1.0)
    operator = _core.LinearOp(
        w.codes(), np.ones(1, np.float32), np.zeros(1, np.int32),
        x_scale=1.0, x_zero_point=0, x_dtype="uint8", out_dtype="int32",
    )  # fmt: skip
    builder = _core.PlanBuilder()
    y = builder.linear(operator, builder.input("uint8", (1, k)))
    assert (builder.dtype(y), builder.shape(y)) == ("int32", (1, 1))
    made = builder.finish([y], _core.ArenaPool())
    assert made(np.full((1, k), 255, np.uint8)) is None
    assert made(np.ones((1, k), np.uint8))[0] == 127 * k


def test_many_threads_run_one_plan():
    model, count = chain(30), 5000
    z = chain_feeds(count)["z"]
    inputs = [rng().integers(0, 256 - i, count).astype(np.uint8) for i in range(8)]
    expected = [thrice(model, {"x": x, "z": z})["v30"] for x in inputs]
    assert is_planned(model, (count,), (count,))
    wrong = []

    def work(index):
        for _ in range(20):
            got = model.run({"x": inputs[index], "z": z})["v30"]
            if not np.array_equal(got, expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_that_plan_at_once_get_the_same():
    model, feeds = chain(30), chain_feeds(64)
    results = []
    threads = [
        threading.Thread(target=lambda: results.extend(model.run(feeds)["v30"] for _ in range(4)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 32
    assert all(np.array_equal(results[0], each) for each in results)


@pytest.mark.skipif(not hasattr(os, "fork") or IN_QEMU, reason="forks are not emulated safely")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_plan_runs_after_a_fork():
    model, feeds = chain(30), chain_feeds(64)
    expected = thrice(model, feeds)["v30"]
    child = os.fork()
    if child == 0:
        right = np.array_equal(model.run(feeds)["v30"], expected)
        os._exit(0 if right else 3)
    signal.alarm(60)
    assert os.waitpid(child, 0)[1] == 0
    signal.alarm(0)
    assert np.array_equal(model.run(feeds)["v30"], expected)


def test_a_pickled_model_plans_anew():
    model, feeds = chain(5), chain_feeds(64)
    expected = thrice(model, feeds)["v5"]
    copy = pickle.loads(pickle.dumps(model, 5))
    assert copy._executor._plans == {}
    assert np.array_equal(thrice(copy, feeds)["v5"], expected)
    assert is_planned(copy, (64,), (64,))


def test_coverage_times_each_step():
    model, feeds = chain(5), chain_feeds(64)
    thrice(model, feeds)
    coverage = model.coverage(feeds)
    (row,) = coverage.rows
    assert row.layers == 5
    assert row.seconds > 0
    assert (coverage.planned, coverage.planned_bytes) == (5, 128)
    assert str(coverage).endswith("5 layers in plans, 0.00 MB between")
    assert model.coverage().planned is None


# --- each operator --------------------------------------------------------------------------------

W = oc.QTensor(rng().integers(-128, 128, (5, 6)).astype(np.int8), 0.02)
KERNELS = oc.QTensor(rng().integers(-128, 128, (5, 6, 3, 3)).astype(np.int8), 0.02)
BIAS = rng().normal(size=5).astype(np.float32)
POOL = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 1, 1, 0]}
ONE = {"x_qparams": Q, "out_qparams": Q}
HALF = oc.QParams(0.1, 100)

OPERATORS = {
    "Linear": (("octavo.Linear", ["x", "w", "b"], ["y"], ONE), (4, 6), {"w": W, "b": BIAS}),
    "Linear of many axes": (("octavo.Linear", ["x", "w", ""], ["y"], ONE), (2, 3, 6), {"w": W}),
    "Linear to float": (
        ("octavo.Linear", ["x", "w", "b"], ["y"], {"x_qparams": Q}),
        (4, 6),
        {"w": W, "b": BIAS},
    ),
    "Conv": (
        (
            "octavo.Conv",
            ["x", "w", "b"],
            ["y"],
            {**ONE, "pads": [1, 1, 0, 0], "activation": "relu"},
        ),
        (2, 6, 7, 8),
        {"w": KERNELS, "b": BIAS},
    ),
    "Conv with a residual": (
        (
            "octavo.Conv",
            ["x", "w", "b", "r"],
            ["y"],
            {**ONE, "pads": [1] * 4, "residual_qparams": Q, "sum_qparams": HALF},
        ),
        (2, 6, 7, 8),
        {"w": KERNELS, "b": BIAS, "r": codes(2, 5, 7, 8)},
    ),
    "Conv of signals": (
        ("octavo.Conv", ["x", "w", "b"], ["y"], {**ONE, "pads": [1, 1]}),
        (2, 6, 9),
        {"w": oc.QTensor(KERNELS.codes()[:, :, 0], 0.02), "b": BIAS},
    ),
    "ConvTranspose": (
        ("octavo.ConvTranspose", ["x", "w", ""], ["y"], {**ONE, "strides": [2, 2]}),
        (2, 6, 3, 4),
        {"w": oc.QTensor(KERNELS.codes().swapaxes(0, 1).copy(), 0.02)},
    ),
    "Add": (("octavo.Add", ["x", "c"], ["y"], PAIR), (3, 4, 5), {"c": codes(4, 1)}),
    "Mul": (
        ("octavo.Mul", ["x", "c"], ["y"], {**PAIR, "activation": "relu"}),
        (3, 4, 5),
        {"c": codes(5)},
    ),
    "Activate": (("octavo.Activate", ["x"], ["y"], TURN), (3, 4), {}),
    "AveragePool": (("octavo.AveragePool", ["x"], ["y"], {**ONE, **POOL}), (2, 3, 7, 8), {}),
    "AveragePool of all": (
        ("octavo.AveragePool", ["x"], ["y"], {**ONE, "keepdims": 0}),
        (2, 3, 7, 8),
        {},
    ),
    "MaxPool": (("octavo.MaxPool", ["x"], ["y"], POOL), (2, 3, 7, 8), {}),
    "Concat": (
        (
            "octavo.Concat",
            ["x", "c", "x"],
            ["y"],
            {"qparams": [Q, HALF, Q], "out_qparams": Q, "axis": -2},
        ),
        (2, 3, 4),
        {"c": codes(2, 5, 4)},
    ),
    "DequantizeLinear": (
        ("DequantizeLinear", ["x", "s", "z"], ["y"], {"axis": 1}),
        (2, 3, 4),
        {"s": np.float32([0.1, 0.2, 0.3]), "z": np.uint8([3, 2, 1])},
    ),
    "Reshape": (("Reshape", ["x", "s"], ["y"], {}), (2, 6), {"s": np.array([-1, 4])}),
    "Flatten": (("Flatten", ["x"], ["y"], {}), (2, 3, 4), {}),
    "Squeeze": (("Squeeze", ["x", "axes"], ["y"], {}), (2, 1, 4), {"axes": np.array([1])}),
    "Transpose": (("Transpose", ["x"], ["y"], {"perm": [2, 0, 1]}), (2, 3, 4), {}),
    "Transpose of all": (("Transpose", ["x"], ["y"], {}), (2, 3, 4), {}),
    "Slice": (
        ("Slice", ["x", "from", "to", "axes", "steps"], ["y"], {}),
        (5, 9),
        {
            "from": np.array([1, 7]),
            "to": np.array([9, -99]),
            "axes": np.array([0, -1]),
            "steps": np.array([2, -3]),
        },
    ),
    "Slice of images with channels last": (
        ("Slice", ["x", "from", "to", "axes"], ["y"], {"layout": "NHWC"}),
        (2, 4, 4, 4),
        {"from": np.array([0, 1]), "to": np.array([3, 3]), "axes": np.array([1, -2])},
    ),
    "Conv of images with channels last": (
        ("octavo.Conv", ["x", "w", "b"], ["y"], {**ONE, "pads": [1] * 4, "layout": "NHWC"}),
        (2, 7, 8, 6),
        {"w": KERNELS, "b": BIAS},
    ),
    "Conv of signals with channels last": (
        ("octavo.Conv", ["x", "w", "b"], ["y"], {**ONE, "pads": [1, 1], "layout": "NHWC"}),
        (2, 9, 6),
        {"w": oc.QTensor(KERNELS.codes()[:, :, 0], 0.02), "b": BIAS},
    ),
    "MaxPool of images with channels last": (
        ("octavo.MaxPool", ["x"], ["y"], {**POOL, "layout": "NHWC"}),
        (2, 7, 8, 3),
        {},
    ),
    "AveragePool of images with channels last": (
        ("octavo.AveragePool", ["x"], ["y"], {**ONE, "layout": "NHWC"}),
        (2, 7, 8, 3),
        {},
    ),
    "Gather of one": (("Gather", ["x", "i"], ["y"], {"axis": 1}), (3, 4, 5), {"i": np.array(-2)}),
    "Gather of one, kept": (("Gather", ["x", "i"], ["y"]), (3, 4, 5), {"i": np.array([1])}),
    "Pad": (
        ("Pad", ["x", "p", "v"], ["y"]),
        (3, 4, 5),
        {"p": np.array([1, 0, -1, 2, 0, 3]), "v": np.uint8(7)},
    ),
    "Pad of some axes with what is there": (
        ("Pad", ["x", "p", "", "axes"], ["y"], {"mode": "reflect"}),
        (3, 6, 5),
        {"p": np.array([2, 1, 3, 0]), "axes": np.array([1, -1])},
    ),
    "Pad of images with channels last": (
        ("Pad", ["x", "p"], ["y"], {"mode": "edge", "layout": "NHWC"}),
        (2, 4, 5, 3),
        {"p": np.array([0, 0, 1, 2, 0, 0, 0, 1])},
    ),
    "Slice to nothing": (
        ("Slice", ["x", "from", "to"], ["y"], {}),
        (5, 9),
        {"from": np.array([4]), "to": np.array([2])},
    ),
}


def around(case, monkeypatch):
    """A model of an operator between two others, so that it reads and gives values of the plan."""
    monkeypatch.setattr(plans, "_LEAST_STEPS", 1)
    node, shape, constants = OPERATORS[case]
    first, *rest = node[1]
    assert first == "x"
    operator = (node[0], ["a", *("a" if name == "x" else name for name in rest)], *node[2:])
    nodes = [("octavo.Activate", ["x"], ["a"], TURN), operator]
    return Model(graph(nodes, {"x": shape}, ["y"], dict(constants))), shape


@pytest.mark.parametrize("case", OPERATORS)
def test_an_operator_in_a_plan_gives_its_bits(case, monkeypatch):
    model, shape = around(case, monkeypatch)
    y = thrice(model, {"x": codes(*shape)})["y"]
    assert is_planned(model, shape)
    assert y.size == 0 or len(np.unique(y)) > 3


@pytest.mark.parametrize("case", OPERATORS)
def test_an_operator_on_inputs_of_the_plan_gives_its_bits(case, monkeypatch):
    monkeypatch.setattr(plans, "_LEAST_STEPS", 0)
    node, shape, constants = OPERATORS[case]
    model = Model(graph([node], {"x": shape}, ["y"], dict(constants)))
    thrice(model, {"x": codes(*shape)})
    assert is_planned(model, shape)


A = {"x_qparams": Q, "a_qparams": Q, "b_qparams": HALF}


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize(("op", "gates", "outputs"), [("LSTM", 4, "yhc"), ("GRU", 3, "yh")])
def test_recurrent_layers_in_a_plan_give_their_bits(op, gates, outputs, state, layout):
    random = np.random.default_rng(3)
    w, r = (random.normal(size=(1, gates * 8, n)).astype(np.float32) for n in (6, 8))
    states = ["s", "s"][: len(outputs) - 1] if state else []
    attributes = {"hidden_size": 8, "layout": layout}
    names = ["x", "w", "r", "", "", *states]
    nodes = [
        ("Relu", ["x"], ["a"]),
        (op, ["a", *names[1:]], [*outputs], attributes),
        (op, ["a", *names[1:]], ["", "h2"], attributes),
        ("Mul", ["y", "y"], ["z"]),
    ]
    shape = (4, 2, 6) if layout == 0 else (2, 4, 6)
    held = (1, 2, 8) if layout == 0 else (2, 1, 8)
    made = graph(nodes, {"x": shape, "s": held}, [*outputs, "z", "h2"], {"w": w, "r": r}, "float32")
    model = Model(made)
    feeds = {"x": random.normal(size=shape).astype(np.float32)}
    feeds["s"] = random.normal(size=held).astype(np.float32)
    results = thrice(model, feeds)
    assert np.array_equal(results["h"], results["h2"])
    assert is_planned(model, shape, held)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_parts_of_a_value_are_views_of_it(layout):
    attributes = {"axis": 1, "layout": "NHWC"} if layout == "NHWC" else {"axis": -3}
    nodes = [
        ("octavo.Activate", ["x"], ["a"], TURN),
        ("Split", ["a", "sizes"], ["b", "c"], attributes),
        ("octavo.Add", ["b", "b"], ["y"], PAIR),
    ]
    made = graph(nodes, {"x": (2, 5, 5, 5)}, ["y", "c"], {"sizes": np.array([2, 3])})
    made.values["a"] = Value("a", "uint8", (2, 5, 5, 5))
    model = Model(made)
    result = thrice(model, {"x": codes(2, 5, 5, 5)})["c"]
    assert is_planned(model, (2, 5, 5, 5))
    assert result.shape == ((2, 5, 5, 3) if layout == "NHWC" else (2, 3, 5, 5))


MATRICES = {
    "to codes": ({**A, "out_qparams": Q}, (2, 3, 4, 6), (2, 1, 6, 5)),
    "to int8": ({**A, "out_qparams": oc.QParams(0.5, -3, "int8")}, (4, 6), (3, 6, 5)),
    "to float": (A, (4, 6), (6, 5)),
    "of none": ({**A, "out_qparams": Q}, (3, 0, 6), (3, 6, 5)),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("case", MATRICES)
def test_products_of_activations_in_a_plan_give_their_bits(case, turned, monkeypatch):
    monkeypatch.setattr(plans, "_LEAST_STEPS", 1)
    attributes, a, b = MATRICES[case]
    order = [*range(len(b) - 2), len(b) - 1, len(b) - 2]
    given = tuple(b[axis] for axis in order) if turned else b
    nodes = [
        ("Transpose", ["z"], ["w"], {"perm": order if turned else list(range(len(b)))}),
        ("octavo.MatMul", ["x", "w"], ["y"], attributes),
    ]
    model = Model(graph(nodes, {"x": a, "z": given}, ["y"]))
    y = thrice(model, {"x": codes(*a), "z": codes(*given)})["y"]
    assert is_planned(model, a, given)
    assert y.size == 0 or len(np.unique(y)) > 3


FLOATS = {
    "Add": (("Add", ["x", "c"], ["y"]), (3, 4, 5), {"c": (4, 1)}),
    "Sub": (("Sub", ["c", "x"], ["y"]), (3, 4, 5), {"c": ()}),
    "Sub of a row": (("Sub", ["x", "c"], ["y"]), (3, 4, 5), {"c": (5,)}),
    "Mul": (("Mul", ["x", "x"], ["y"]), (3, 4, 5), {}),
    "Div": (("Div", ["x", "c"], ["y"]), (4, 5), {"c": (3, 1, 5)}),
    "Add of channels last": (
        ("Add", ["x", "c"], ["y"], {"layout": "NHWC"}), (2, 4, 5, 3), {"c": ()},
    ),
    "Relu": (("Relu", ["x"], ["y"]), (3, 5), {}),
    "Sqrt": (("Sqrt", ["x"], ["y"]), (3, 70), {}),
    "Clip": (("Clip", ["x", "c", "d"], ["y"]), (30, 5), {"c": np.float32(-1), "d": np.float32(1)}),
    "Clip from below": (("Clip", ["x", "c"], ["y"]), (30, 5), {"c": np.float32(-1)}),
    **{
        op: ((op, ["x"], ["y"]), (3, 70), {})
        for op in ("Erf", "Exp", "Gelu", "Sigmoid", "Swish", "Tanh")
    },
    "Gelu by tanh": (("Gelu", ["x"], ["y"], {"approximate": "tanh"}), (3, 70), {}),
    "Softmax": (("Softmax", ["x"], ["y"], {"axis": -1}), (3, 4, 70), {}),
    "Softmax along another axis": (("Softmax", ["x"], ["y"], {"axis": 1}), (3, 4, 70), {}),
    "Softmax of one": (("Softmax", ["x"], ["y"], {"axis": 1}), (3, 1, 70), {}),
    "LayerNormalization": (
        ("LayerNormalization", ["x", "c", "d"], ["y"]), (3, 4, 70), {"c": (70,), "d": (70,)},
    ),
    "LayerNormalization of two axes": (
        ("LayerNormalization", ["x", "c"], ["y"], {"axis": 1}), (3, 4, 70), {"c": (4, 70)},
    ),
    "RMSNormalization": (("RMSNormalization", ["x", "c"], ["y"]), (3, 4, 70), {"c": (70,)}),
    "MatMul": (("MatMul", ["x", "x"], ["y"]), (2, 3, 6, 6), {}),
}  # fmt: skip


def float_model(case):
    """A model of an operator on floats."""
    node, shape, constants = FLOATS[case]
    values = {
        name: np.random.default_rng(1).normal(size=c).astype(np.float32)
        if isinstance(c, tuple)
        else c
        for name, c in constants.items()
    }
    made = graph([node], {"x": shape}, ["y"], values, "float32")
    made.nodes[-1].version = 21
    return Model(made), shape


@pytest.mark.parametrize("case", FLOATS)
@pytest.mark.usefixtures("isa")
def test_an_operator_on_floats_in_a_plan_gives_its_bits(case, monkeypatch):
    monkeypatch.setattr(plans, "_LEAST_STEPS", 1)
    model, shape = float_model(case)
    x = rng().normal(size=shape).astype(np.float32)
    x.flat[:6] = [-0.0, 0.0, np.nan, np.inf, -np.inf, 1e-42]
    thrice(model, {"x": x})
    assert is_planned(model, shape)


@pytest.mark.parametrize("case", FLOATS)
def test_an_operator_on_a_view_of_floats_gives_its_bits(case, monkeypatch):
    monkeypatch.setattr(plans, "_LEAST_STEPS", 1)
    node, shape, _ = FLOATS[case]
    order = list(range(len(shape)))[::-1]
    before = [
        ("Transpose", ["x"], ["t"], {"perm": order}),
        ("Exp", ["t"], ["e"]),
        ("Transpose", ["e"], ["f"], {"perm": order}),  # lies in memory as t does
    ]
    model, shape = float_model(case)
    operator = (node[0], ["f" if name == "x" else name for name in node[1]], *node[2:])
    made = graph([*before, operator], {"x": shape}, ["y"], model.graph.constants, "float32")
    made.nodes[-1].version = 21
    model = Model(made)
    thrice(model, {"x": rng().normal(size=shape).astype(np.float32)})
    assert is_planned(model, shape)


def test_softmax_of_old_opsets_takes_axes_from_one_on_together():
    nodes = [("Exp", ["x"], ["a"]), ("Softmax", ["a"], ["y"], {"axis": 1})]
    made = graph(nodes, {"x": (2, 3, 4)}, ["y"], {}, "float32")
    made.nodes[-1].version = 11
    model = Model(made)
    y = thrice(model, {"x": rng().normal(size=(2, 3, 4)).astype(np.float32)})["y"]
    assert is_planned(model, (2, 3, 4))
    np.testing.assert_allclose(y.sum((1, 2)), 1, rtol=1e-6)


def test_zeros_keep_their_sign_as_the_operators_say():
    nodes = [("Relu", ["x"], ["a"]), ("Exp", ["x"], ["b"]), ("Mul", ["x", "x"], ["c"])]
    model = Model(graph(nodes, {"x": (3,)}, ["a", "b", "c"], {}, "float32"))
    x = np.array([-0.0, 0.0, -1.0], np.float32)
    made = [model.run({"x": x})["a"] for _ in range(3)]
    assert is_planned(model, (3,))
    assert not any(np.signbit(each).any() for each in made)


def test_floats_of_16_bits_run_in_steps():
    nodes = [("Exp", ["x"], ["a"]), ("Add", ["a", "a"], ["b"]), ("Relu", ["b"], ["c"])]
    model = Model(graph(nodes, {"x": (3,)}, ["c"], {}, "float16"))
    thrice(model, {"x": np.array([1, 2, 3], np.float16)})
    assert not any(isinstance(unit, Segment) for unit in units(model, (3,)))


def test_floats_are_quantized_and_computed_in_a_plan():
    w = rng().normal(size=(5, 6)).astype(np.float32)
    kernels = rng().normal(size=(6, 6, 3, 3)).astype(np.float32)
    made = graph(
        [
            ("Conv", ["x", "k"], ["a"], {"pads": [1] * 4, "activation": "relu"}),
            ("Transpose", ["a"], ["t"], {"perm": [0, 2, 3, 1]}),
            ("MatMul", ["t", "w"], ["b"]),
            ("octavo.GroupedLinear", ["t", "g"], ["e"]),
            ("QuantizeLinear", ["b", "s", "z"], ["y"]),
            ("DequantizeLinear", ["y", "s", "z"], ["f"]),
        ],
        {"x": (2, 6, 7, 8)},
        ["y", "f", "e"],
        {
            "k": kernels,
            "w": w.T.copy(),
            "s": np.float32(0.1),
            "z": np.uint8(99),
            "g": oc.quantize(w, "int4", axis=0, group_size=3),
        },
    )
    made.inputs[0] = made.values["x"] = Value("x", "float32", (2, 6, 7, 8))
    for name in "atbef":
        made.values[name] = Value(name, "float32", (2, 6, 7, 8) if name == "a" else None)
    made.outputs[1:] = [Value("f", "float32"), Value("e", "float32")]
    model = Model(made)
    x = rng().normal(size=(2, 6, 7, 8)).astype(np.float32)
    results = thrice(model, {"x": x})
    assert is_planned(model, (2, 6, 7, 8))
    assert len(np.unique(results["y"])) > 20


def test_all_quantized_models_give_the_bits_of_their_steps(monkeypatch):
    pytest.importorskip("onnx", reason="models are not read without onnx")
    monkeypatch.setattr(plans, "_LEAST_STEPS", 0)  # some are views alone
    import test_quantized

    planned = 0
    for body, constants, *_ in test_quantized.CASES.values():
        model = oc.load(test_quantized.net(body, **constants))
        feeds = {value.name: test_quantized.codes_of(value) for value in model.inputs}
        thrice(model, feeds)
        planned += is_planned(model, *(feeds[value.name].shape for value in model.inputs))
    assert planned == len(test_quantized.CASES)


# --- random graphs --------------------------------------------------------------------------------


@st.composite
def random_graphs(draw):
    """Nodes of some kinds, each on values made before; some of the values are outputs."""
    shapes = {"x": (4, 6), "z": (6,)}
    nodes, constants = [], {}
    for i in range(draw(st.integers(1, 14))):
        x, y = draw(st.sampled_from(sorted(shapes))), f"v{i}"
        shape = shapes[x]
        kind = draw(st.sampled_from(["add", "activate", "concat", "reshape", "transpose", "slice"]))
        if kind == "add":
            other = draw(st.sampled_from(sorted(n for n in shapes if _fit(shapes[n], shape))))
            nodes.append(("octavo.Add", [x, other], [y], PAIR))
            shape = np.broadcast_shapes(shape, shapes[other])
        elif kind == "activate":
            nodes.append(("octavo.Activate", [x], [y], TURN))
        elif kind == "concat" and np.prod(shape) < 500:
            axis = draw(st.integers(0, len(shape) - 1))
            nodes.append(
                ("octavo.Concat", [x, x], [y], {"qparams": [Q, Q], "out_qparams": Q, "axis": axis})
            )
            shape = tuple(n * 2 if at == axis else n for at, n in enumerate(shape))
        elif kind == "reshape":
            shape = (*shape[:-2], int(np.prod(shape[-2:])))
            constants[f"s{i}"] = np.array(shape)
            nodes.append(("Reshape", [x, f"s{i}"], [y]))
        elif kind == "slice" and shape[0] > 1:
            constants |= {f"a{i}": np.array([shape[0] - 1]), f"b{i}": np.array([0])}
            constants |= {f"c{i}": np.array([0]), f"d{i}": np.array([-1])}
            nodes.append(("Slice", [x, f"a{i}", f"b{i}", f"c{i}", f"d{i}"], [y]))
            shape = (shape[0] - 1, *shape[1:])
        else:
            order = draw(st.permutations(range(len(shape))))
            nodes.append(("Transpose", [x], [y], {"perm": list(order)}))
            shape = tuple(shape[axis] for axis in order)
        shapes[y] = shape
    made = [f"v{i}" for i in range(len(nodes))]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, unique=True))
    return graph(nodes, {"x": (4, 6), "z": (6,)}, outputs, constants)


def _fit(one, other):
    try:
        np.broadcast_shapes(one, other)
    except ValueError:
        return False
    return True


@settings(max_examples=10 if IN_QEMU else 150)
@given(random_graphs())
def test_random_graphs_give_the_bits_of_their_steps(made):
    thrice(Model(made), {"x": codes(4, 6), "z": codes(6)})


# --- errors of the builder ------------------------------------------------------------------------


def test_the_builder_says_what_does_not_fit():
    builder = _core.PlanBuilder()
    x, f = builder.input("uint8", (2, 3)), builder.input("float32", (2, 3))
    params = (1.0, 0, 1.0, 0, 1.0, 0, "uint8")
    with pytest.raises(TypeError, match="b must be int8 or uint8, got float32"):
        builder.add(x, f, *params)
    with pytest.raises(ValueError, match="do not broadcast"):
        builder.add(x, builder.input("uint8", (4,)), *params)
    with pytest.raises(ValueError, match="does not reshape to"):
        builder.reshape(x, (5,))
    with pytest.raises(ValueError, match="must be an order of the 2 axes"):
        builder.transpose(x, (0, 0))
    with pytest.raises(ValueError, match="leaves an axis of length 3"):
        builder.slice(x, 1, 1, 3)
    with pytest.raises(TypeError, match="x must be float32, got uint8"):
        builder.quantize(x, 1.0, 0, "uint8", None)
    with pytest.raises(TypeError, match="table must hold 256 codes"):
        builder.lookup(x, np.zeros(255, np.uint8))
    with pytest.raises(ValueError, match="dtype must be one of"):
        builder.input("float64", (2,))
    with pytest.raises(ValueError, match="lengths of at least 0"):
        builder.input("uint8", (-1,))
    with pytest.raises(TypeError, match="holds no arrays of float64"):
        builder.constant(np.zeros(2))
    with pytest.raises(IndexError):
        builder.shape(99)
    with pytest.raises(ValueError, match="they must be equal"):
        builder.linear(
            _core.LinearOp(
                np.ones((2, 4), np.int8), np.ones(1, np.float32), np.zeros(1, np.int32),
                x_scale=1.0, x_dtype="uint8",
            ),
            x,
        )  # fmt: skip
    builder.finish([x], _core.ArenaPool())
    with pytest.raises(IndexError):
        builder.shape(x)
