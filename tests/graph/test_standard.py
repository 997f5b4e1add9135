"""Graphs in ONNX's operators alone: what was fused and taken apart is fused to the same again."""

import numpy as np
import pytest

import octavo as oc
from octavo.graph import Graph, Model, Node, Value
from octavo.graph.optimize import optimize
from octavo.graph.standard import standard_form

pytest.importorskip("onnx", reason="models are not read without onnx")
from test_quantized import (
    CASES,
    CHAIN,
    CHAIN_CONSTANTS,
    NBITS,
    PAIRS,
    grouped_graph,
    int8,
    net,
    operators,
    packed_nibbles,
)

SIZES = {"n": 5, "h": 7, "w": 8}
rng = np.random.default_rng(0)


def floats(*shape):
    return rng.normal(size=shape).astype(np.float32)


def values_for(model):
    """Inputs that a model takes: codes, or floats."""
    feeds = {}
    for value in model.inputs:
        shape = [SIZES.get(size, size) for size in value.shape]
        is_float = value.dtype.startswith("float")
        x = rng.normal(size=shape) if is_float else rng.integers(0, 256, shape)
        feeds[value.name] = x.astype(value.dtype)
    return feeds


def same_bits(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


def names(model):
    """Names of layers, but of those that only turn images about."""
    return [layer.name for layer in model.layers if not layer.name.endswith(".turn")]


def there_and_back(model):
    """The standard form of a model, checked to have ONNX's operators alone, and it fused again."""
    standard = standard_form(model.graph)
    for node in standard.nodes:
        assert not node.op.startswith("octavo."), node
        assert not {"activation", "out_qparams", "x_qparams"} & node.attributes.keys(), node
    assert all(isinstance(each, np.ndarray) for each in standard.constants.values())
    made = [node.name for node in standard.nodes]
    assert len(set(made)) == len(made)
    assert set(names(model)) <= set(made)
    fused = standard.copy()
    optimize(fused)
    return Model(standard), Model(fused)


def check(model, *, same_operators=True, exact_as_written=False):
    standard, fused = there_and_back(model)
    if same_operators:
        assert operators(fused) == operators(model)
        assert names(fused) == names(model)
    feeds = values_for(model)
    results = model.run(feeds)
    for name, y in fused.run(feeds).items():
        same_bits(y, results[name])
    for name, y in standard.run(feeds).items():
        if exact_as_written:
            same_bits(y, results[name])
        else:
            assert np.abs(y.astype(float) - results[name]).max() <= 1


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operators_on_codes_come_back_with_their_bits(case):
    body, constants, *_ = CASES[case]
    check(oc.load(net(body, **constants)))


@pytest.mark.parametrize("case", PAIRS)
def test_the_operator_form_becomes_that_between_quantize_and_dequantize(case):
    on_codes, _, constants, inputs = PAIRS[case]
    model = oc.load(net(f"{inputs} {{ {on_codes} }}", **constants))
    check(model, same_operators=case != "QLinearSoftmax" or operators(model)[1] == "Softmax")


def test_a_residual_comes_back_into_its_convolution():
    check(oc.load(net(CHAIN, **CHAIN_CONSTANTS)))


FLOATS = {
    "Conv, relu": (
        """net (float[n, 6, h, w] x) => (float[n, 4, p, q] y) {
            c = Conv(x, k, b) y = Relu(c) }""",
        {"k": floats(4, 6, 3, 3), "b": floats(4)},
    ),
    "Conv, batch norm, clip": (
        """net (float[n, 6, h, w] x) => (float[n, 4, p, q] y) {
            c = Conv <pads = [1, 1, 1, 1]> (x, k) d = BatchNormalization(c, s, b, m, v)
            y = Clip(d, lo, hi) }""",
        {
            "k": floats(4, 6, 3, 3), "s": floats(4), "b": floats(4), "m": floats(4),
            "v": np.abs(floats(4)), "lo": np.float32(-1), "hi": np.float32(1),
        },
    ),
    "ConvTranspose, relu": (
        """net (float[n, 6, h, w] x) => (float[n, 4, p, q] y) {
            c = ConvTranspose(x, k) y = Relu(c) }""",
        {"k": floats(6, 4, 3, 3)},
    ),
    "MatMul, bias, relu": (
        """net (float[n, 7, 6] x) => (float[n, 7, 4] y) {
            m = MatMul(x, k) s = Add(m, b) y = Relu(s) }""",
        {"k": floats(6, 4), "b": floats(4)},
    ),
    "Gemm, relu": (
        """net (float[n, 6] x) => (float[n, 4] y) {
            m = Gemm <transB = 1> (x, k, b) y = Relu(m) }""",
        {"k": floats(4, 6), "b": floats(4)},
    ),
    "GELU written out": (
        """net (float[n, 6] x) => (float[n, 6] y) {
            a = Div(x, root) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half) }""",
        {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)},
    ),
    "SiLU written out": (
        "net (float[n, 6] x) => (float[n, 6] y) { s = Sigmoid(x) y = Mul(x, s) }",
        {},
    ),
    "layer norm, softmax": (
        """net (float[n, 6] x) => (float[n, 6] y) {
            m = ReduceMean <axes = [-1]> (x) d = Sub(x, m) s = Mul(d, d)
            v = ReduceMean <axes = [-1]> (s) e = Add(v, eps) r = Sqrt(e) q = Div(d, r)
            k = Mul(q, w) f = Add(k, b) y = Softmax(f) }""",
        {"eps": np.float32(1e-5), "w": floats(6), "b": floats(6)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("case", FLOATS)
def test_float_operators_come_back_with_their_bits(case, opset):
    body, constants = FLOATS[case]
    model = oc.load(net(body, opset=opset, **constants))
    check(model, exact_as_written="written out" not in case)


def blocks(dtype, with_bias=False, values="float32"):
    low, high = (-8, 8) if dtype == "int4" else (0, 16)
    codes = rng.integers(low, high, (64, 5)).astype(np.int8 if dtype == "int4" else np.uint8)
    zeros = None if dtype == "int4" else rng.integers(0, 16, (2, 5))
    w = oc.QTensor(
        codes, 0.01 + np.abs(floats(2, 5)), 0 if zeros is None else zeros,
        dtype=dtype, axis=1, group_size=32,
    )  # fmt: skip
    x, y = Value("x", values, ("n", "m", 64)), Value("y", values, ("n", "m", 5))
    constants = {"w": w.T} | ({"b": floats(5)} if with_bias else {})
    inputs = ["x", *constants]
    node = Node("product", "octavo.GroupedLinear", inputs, ["y"], {}, 21)
    return Model(Graph("net", [x], [y], [node], constants, {"x": x, "y": y})), w


@pytest.mark.parametrize("form", ["DequantizeLinear", "MatMulNBits"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", ["int4", "uint4"])
def test_weights_in_groups_come_back_with_their_bits(dtype, with_bias, form):
    model, _ = blocks(dtype, with_bias)
    standard = standard_form(model.graph, blocks=form)
    assert form in [node.op.split(".")[-1] for node in standard.nodes]
    optimize(standard)
    assert operators(Model(standard)) == ["octavo.GroupedLinear"]
    x = floats(2, 3, 64)
    same_bits(Model(standard)(x), model(x))


@pytest.mark.parametrize("form", ["DequantizeLinear", "MatMulNBits"])
def test_float16_values_are_widened_for_weights_in_groups(form):
    model, _ = blocks("uint4", with_bias=True, values="float16")
    standard = standard_form(model.graph, blocks=form)
    optimize(standard)
    assert operators(Model(standard)) == ["Cast", "octavo.GroupedLinear", "Cast"]
    x = floats(2, 3, 64).astype(np.float16)
    same_bits(Model(standard)(x), model(x))


def test_4_bit_blocks_of_other_tools_survive():
    codes = rng.integers(0, 16, (5, 64)).astype(np.uint8)
    constants = {"w": packed_nibbles(codes).reshape(5, 2, 16), "s": 0.01 + np.abs(floats(10))}
    model = oc.load(net(NBITS.format(more="", zero=""), **constants))
    _, fused = there_and_back(model)
    x = floats(3, 64)
    same_bits(fused(x), model(x))


HALF = {
    "MatMul": (("n", 6), {"w": (6, 4)}),
    "Gemm": (("n", 6), {"w": (6, 4), "b": (4,)}),
    "Conv": (("n", 6, 9, 9), {"w": (4, 6, 3, 3), "b": (4,)}),
    "ConvTranspose": (("n", 6, 9, 9), {"w": (6, 4, 3, 3)}),
}


@pytest.mark.parametrize(
    "held", [np.asarray, lambda w: oc.QTensor(w, 1.0)], ids=["array", "QTensor"]
)
@pytest.mark.parametrize("operator", HALF)
def test_float16_weights_are_cast_where_values_are_float32_and_stay_16_bits_wide(operator, held):
    shape, sizes = HALF[operator]
    x, y = Value("x", "float32", shape), Value("y", "float32")
    node = Node("product", operator, ["x", *sizes], ["y"], {"activation": "relu"}, 13)
    constants = {name: floats(*size) for name, size in sizes.items()}
    constants["w"] = held(constants["w"].astype(np.float16))
    model = Model(Graph("net", [x], [y], [node], constants, {"x": x, "y": y}))
    standard, fused = there_and_back(model)
    assert [node.op for node in standard.graph.nodes] == ["Cast", operator, "Relu"]
    kernels = [layer.kernel for each in (model, fused) for layer in each.layers
               if layer.name == "product"]  # fmt: skip
    assert kernels[0] == kernels[1]
    assert "float16" in kernels[0]
    given = values_for(model)
    same_bits(fused(**given), model(**given))
    same_bits(standard(**given), model(**given))


def test_rows_of_a_float16_table_are_float32_where_that_is_said():
    i, y = Value("i", "int64", ("n",)), Value("y", "float32", ("n", 4))
    table = floats(9, 4).astype(np.float16)
    node = Node("rows", "Gather", ["t", "i"], ["y"], {}, 13)
    graph = Graph("net", [i], [y], [node], {"t": table}, {"i": i, "y": y})
    optimize(graph)
    model = Model(graph)
    assert [layer.kernel for layer in model.layers] == ["embedding float16"]
    rows = np.array([3, -1, 0])
    same_bits(model(rows), table[rows].astype(np.float32))
    standard, fused = there_and_back(model)
    assert [each.op for each in standard.graph.nodes] == ["Cast", "Gather"]
    assert [layer.kernel for layer in fused.layers] == ["embedding float16"]
    same_bits(fused(rows), model(rows))


def test_a_bias_is_added_to_products_of_float16_weights():
    body = """net (float[n, 7, 6] x) => (float[n, 7, 4] y) {
        k = Cast <to = 1> (w) m = MatMul(x, k) s = Add(m, b) y = Relu(s) }"""
    model = oc.load(net(body, w=floats(6, 4).astype(np.float16), b=floats(4)))
    assert [layer.kernel for layer in model.layers] == ["linear float16"]
    check(model, exact_as_written=True)


def test_moves_of_codes_that_nobody_reads_stay_moves_of_codes():
    body = "net (uint8[n, 6] x) => (uint8[6, n] y) { y = Transpose <perm = [1, 0]> (x) }"
    model = oc.load(net(body))
    assert [node.op for node in standard_form(model.graph).nodes] == ["Transpose"]
    check(model, exact_as_written=True)


def test_graphs_inside_are_taken_apart_too():
    body = """net (float[n, 6] x, bool c) => (float[n, 4] y) {
        y = If (c) <
            then_branch = t () => (float[n, 4] a) { m = MatMul(x, k) a = Relu(m) },
            else_branch = e () => (float[n, 4] b) { b = MatMul(x, k) } > }"""
    model = oc.load(net(body, k=floats(6, 4)))
    standard, fused = there_and_back(model)
    (node,) = standard.graph.nodes
    assert [each.op for each in node.attributes["then_branch"].graph.nodes] == ["MatMul", "Relu"]
    x = floats(3, 6)
    for taken in (True, False):
        same_bits(fused(x=x, c=np.array(taken)), model(x=x, c=np.array(taken)))


def test_names_of_values_that_codes_stand_for_are_kept():
    model = oc.load(net(CHAIN, **CHAIN_CONSTANTS))
    standard = standard_form(model.graph)
    quantized = [node.inputs[0] for node in standard.nodes if node.op == "QuantizeLinear"]
    assert {"x", "c0", "r"} <= set(quantized)  # c1's name went when the sum was fused


def test_the_graph_that_is_given_is_not_changed():
    model = oc.load(net(CHAIN, **CHAIN_CONSTANTS))
    before = [(repr(node), dict(node.attributes)) for node in model.graph.nodes]
    constants = dict(model.graph.constants)
    standard_form(model.graph)
    assert [(repr(node), node.attributes) for node in model.graph.nodes] == before
    assert model.graph.constants == constants


def test_an_unknown_form_of_blocks_is_refused():
    model, _ = blocks("int4")
    with pytest.raises(ValueError, match="blocks is 'rows', expected 'DequantizeLinear' or"):
        standard_form(model.graph, blocks="rows")


def test_a_float_bias_that_int32_cannot_hold_stays_float():
    w, bias = (
        oc.QTensor(rng.integers(-128, 128, (4, 6)).astype(np.int8), 1e-6),
        np.float32([1, 1e6, -1, 0]),
    )
    x, y = Value("x", "uint8", ("n", 6)), Value("y", "uint8", ("n", 4))
    a = {"x_qparams": oc.QParams(1e-4, 3), "out_qparams": oc.QParams(1e4, 9), "activation": None}
    node = Node("product", "octavo.Linear", ["x", "w", "b"], ["y"], a, 13)
    graph = Graph("net", [x], [y], [node], {"w": w, "b": bias}, {"x": x, "y": y})
    with pytest.warns(RuntimeWarning, match="overflows int32"):
        model = Model(graph)
    standard = standard_form(graph)
    assert "b" in standard.constants
    optimize(standard)
    with pytest.warns(RuntimeWarning, match="overflows int32"):
        fused = Model(standard)
    codes = rng.integers(0, 256, (5, 6)).astype(np.uint8)
    same_bits(fused(codes), model(codes))


def test_tables_of_codes_come_back():
    model = oc.load(
        net(
            """net (int64[n] i) => (float[n, k] y) {
                t = DequantizeLinear <axis = 0> (w, ws, wz) y = Gather <axis = 0> (t, i) }""",
            w=int8(5, 7), ws=np.abs(floats(5)) + np.float32(0.01), wz=np.zeros(5, np.int8),
        )
    )  # fmt: skip
    _, again = there_and_back(model)
    assert operators(again) == ["octavo.Embedding"]
    i = np.array([4, 0, -1])
    same_bits(again(i), model(i))


def test_a_clamped_product_of_weights_in_groups_comes_back():
    _, graph = grouped_graph("relu")
    optimize(graph)
    model = Model(graph)
    x = floats(4, 64)
    _, again = there_and_back(model)
    assert (again(x) >= 0).all()
    same_bits(again(x), model(x))
