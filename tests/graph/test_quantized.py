"""Quantized models: what the integer operators give, to the bit, and beside onnx's reference."""

import functools
import os
import warnings

import numpy as np
import pytest

import octavo as oc

onnx = pytest.importorskip("onnx", reason="models are not read without onnx")
parse = pytest.importorskip("onnx.parser").parse_model
IN_QEMU = os.environ.get("OCTAVO_IN_QEMU") == "1"

rng = np.random.default_rng(0)


def net(body, opset=21, **constants):
    model = parse(f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]> {body}')
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model


def floats(*shape):
    return rng.normal(size=shape).astype(np.float32)


def int8(*shape):
    return rng.integers(-128, 128, shape).astype(np.int8)


def operators(model):
    return [layer.operator for layer in model.layers]


def reference(proto, feeds):
    return onnx.reference.ReferenceEvaluator(proto).run(None, feeds)


# x: uint8 at 0.05 with zero point 120, read as a; y: what comes of it.
X = {"xs": np.float32(0.05), "xz": np.uint8(120)}
Y = {"ys": np.float32(0.07), "yz": np.uint8(110)}
X_Q, Y_Q = oc.QParams(0.05, 120), oc.QParams(0.07, 110)
WEIGHTS = {"ws": (0.01 + np.abs(floats(4)) / 50).astype(np.float32), "wz": np.zeros(4, np.int8)}
IMAGE = "net (uint8[n, 6, h, w] x) => (uint8[n, c, p, q] y)"
ROWS = "net (uint8[n, 6] x) => (uint8[n, c] y)"
IN, OUT = "a = DequantizeLinear(x, xs, xz)", "y = QuantizeLinear(f, ys, yz)"
SAME = "y = QuantizeLinear(f, xs, xz)"
TWO = "b = DequantizeLinear(z, zs, zz)"
Z = {"zs": np.float32(0.04), "zz": np.uint8(99)}

# name: text, constants, what must be left of it, the most that codes may differ from the reference's.
CASES = {
    "Conv, bias, relu": (
        f"""{IMAGE} {{ {IN} k = DequantizeLinear <axis = 0> (w, ws, wz)
            b = DequantizeLinear <axis = 0> (bq, bs) c = Conv <pads = [1, 1, 1, 1]> (a, k, b)
            f = Relu(c) {OUT} }}""",
        {
            **X, **Y, **WEIGHTS, "w": int8(4, 6, 3, 3), "bs": X["xs"] * WEIGHTS["ws"],
            "bq": rng.integers(-5000, 5000, 4).astype(np.int32),
        },
        ["octavo.Conv"],
        1,
    ),
    "Conv of groups, a float bias, clip": (
        f"""{IMAGE} {{ {IN} k = DequantizeLinear(w, ws, wz)
            c = Conv <group = 2, strides = [2, 2]> (a, k, b) f = Clip(c, lo, hi) {OUT} }}""",
        {
            **X, **Y, "ws": np.float32(0.01), "wz": np.uint8(130), "b": floats(4),
            "w": rng.integers(0, 256, (4, 3, 3, 3)).astype(np.uint8),
            "lo": np.float32(-2), "hi": np.float32(3),
        },
        ["octavo.Conv"],
        1,
    ),
    "ConvTranspose": (
        f"""{IMAGE} {{ {IN} k = DequantizeLinear <axis = 1> (w, ws, wz)
            f = ConvTranspose <strides = [2, 2]> (a, k) {OUT} }}""",
        {**X, **Y, **WEIGHTS, "w": int8(6, 4, 3, 3)},
        ["octavo.ConvTranspose"],
        1,
    ),
    "Gemm": (
        f"""{ROWS} {{ {IN} k = DequantizeLinear <axis = 0> (w, ws, wz)
            f = Gemm <transB = 1> (a, k, b) {OUT} }}""",
        {**X, **Y, **WEIGHTS, "w": int8(4, 6), "b": floats(4)},
        ["octavo.Linear"],
        1,
    ),
    "Gemm of transposed weights": (
        f"""{ROWS} {{ {IN} k = DequantizeLinear <axis = 0> (w, ws, wz)
            t = Transpose <perm = [1, 0]> (k) f = Gemm(a, t) {OUT} }}""",
        {**X, **Y, **WEIGHTS, "w": int8(4, 6)},
        ["octavo.Linear"],
        1,
    ),
    "MatMul, bias, relu": (
        f"""{ROWS} {{ {IN} k = DequantizeLinear <axis = 1> (w, ws, wz)
            m = MatMul(a, k) s = Add(m, b) f = Relu(s) {OUT} }}""",
        {**X, **Y, **WEIGHTS, "w": int8(6, 4), "b": floats(4)},
        ["octavo.Linear"],
        1,
    ),
    "MatMul of two activations": (
        f"""net (uint8[2, 3, 5, 6] x, uint8[2, 3, 6, 4] z) => (uint8[2, 3, 5, 4] y) {{
            {IN} {TWO} f = MatMul(a, b) {OUT} }}""",
        {**X, **Y, **Z},
        ["octavo.MatMul"],
        1,
    ),
    "Add, relu": (
        f"""net (uint8[n, 6] x, uint8[n, 6] z) => (uint8[n, 6] y) {{
            {IN} {TWO} s = Add(a, b) f = Relu(s) {OUT} }}""",
        {**X, **Y, **Z},
        ["octavo.Add"],
        1,
    ),
    "Mul, broadcast": (
        f"""net (uint8[n, 6] x, uint8[6] z) => (uint8[n, 6] y) {{
            {IN} {TWO} f = Mul(a, b) {OUT} }}""",
        {**X, **Y, **Z},
        ["octavo.Mul"],
        1,
    ),
    **{
        op: (f"{ROWS} {{ {IN} f = {op}(a) {OUT} }}", {**X, **Y}, ["octavo.Activate"], 1)
        for op in ("Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Gelu", "LeakyRelu", "Elu", "Relu")
    },
    "a change of scale": (
        f"{ROWS} {{ {IN} y = QuantizeLinear(a, ys, yz) }}",
        {**X, **Y},
        ["octavo.Activate"],
        1,
    ),
    "no change of scale": (
        f"{ROWS} {{ {IN} y = QuantizeLinear(a, xs, xz) }}",
        X,
        ["Identity"],
        0,
    ),
    "MaxPool": (
        f"""{IMAGE} {{ {IN}
            f = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (a)
            {SAME} }}""",
        X,
        ["octavo.MaxPool"],
        0,
    ),
    "AveragePool": (
        f"""{IMAGE} {{ {IN}
            f = AveragePool <kernel_shape = [3, 2], auto_pad = "SAME_UPPER"> (a) {OUT} }}""",
        {**X, **Y},
        ["octavo.AveragePool"],
        1,
    ),
    "GlobalAveragePool": (
        f"{IMAGE} {{ {IN} f = GlobalAveragePool(a) {OUT} }}",
        {**X, **Y},
        ["octavo.AveragePool"],
        1,
    ),
    "ReduceMean of images": (
        f"""net (uint8[n, 6, h, w] x) => (uint8[n, 6] y) {{
            {IN} f = ReduceMean <keepdims = 0> (a, axes) {OUT} }}""",
        {**X, **Y, "axes": np.array([2, 3])},
        ["octavo.AveragePool"],
        1,
    ),
    "a mean that is flattened before it is quantized": (
        f"""net (uint8[n, 6, h, w] x) => (uint8[c, n] y) {{
            {IN} m = GlobalAveragePool(a) r = Flatten(m) f = Transpose(r) {OUT} }}""",
        {**X, **Y},
        ["octavo.AveragePool", "Flatten", "Transpose"],
        1,
    ),
    "Concat": (
        f"""net (uint8[n, 6] x, uint8[n, 6] z) => (uint8[n, 12] y) {{
            {IN} {TWO} f = Concat <axis = 1> (a, b) {OUT} }}""",
        {**X, **Y, **Z},
        ["octavo.Concat"],
        1,
    ),
    "Reshape, Transpose, Slice": (
        f"""net (uint8[n, 6] x) => (uint8[3, k] y) {{
            {IN} f0 = Reshape(a, shape) q0 = QuantizeLinear(f0, xs, xz)
            a1 = DequantizeLinear(q0, xs, xz) f1 = Transpose <perm = [1, 0]> (a1)
            q1 = QuantizeLinear(f1, xs, xz) a2 = DequantizeLinear(q1, xs, xz)
            f = Slice(a2, one, five, one) {SAME} }}""",
        {**X, "shape": np.array([-1, 3]), "one": np.array([1]), "five": np.array([5])},
        ["Reshape", "Transpose", "Slice"],
        0,
    ),
    "Split": (
        """net (uint8[n, 6] x) => (uint8[n, 3] y, uint8[n, 3] v) {
            a = DequantizeLinear(x, xs, xz) f, g = Split <axis = 1, num_outputs = 2> (a)
            y = QuantizeLinear(f, xs, xz) v = QuantizeLinear(g, xs, xz) }""",
        X,
        ["Split"],
        0,
    ),
    "Pad": (
        f"{ROWS} {{ {IN} f = Pad(a, pads) {SAME} }}",
        {**X, "pads": np.array([0, 1, 2, 0])},
        ["Pad"],
        0,
    ),
    "Resize to the nearest": (
        f"{IMAGE} {{ {IN} f = Resize <mode = \"nearest\"> (a, , scales) {SAME} }}",
        {**X, "scales": np.float32([1, 1, 2, 1.5])},
        ["Resize"],
        0,
    ),
}  # fmt: skip


def codes_of(value):
    sizes = {"n": 5, "h": 7, "w": 8}
    shape = [sizes.get(size, size) for size in value.shape]
    return rng.integers(0, 256, shape).astype(value.dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operator_between_codes_becomes_one_on_codes(case):
    body, constants, expected_operators, most = CASES[case]
    proto = net(body, **constants)
    model = oc.load(proto, strict=True)
    assert operators(model) == expected_operators
    feeds = {value.name: codes_of(value) for value in model.inputs}
    for got, wanted in zip(model.run(feeds).values(), reference(proto, feeds), strict=True):
        assert got.dtype == wanted.dtype
        assert got.shape == wanted.shape
        # A value may lie half-way between two codes in one arithmetic and not in the other.
        difference = np.abs(got.astype(int) - wanted)
        assert difference.max() <= most
        assert np.count_nonzero(difference) <= 0.02 * got.size


def test_what_others_read_is_not_quantized_early():
    body = f"""net (uint8[n, 6, h, w] x) => (uint8[n, c] y, float[n, c] r) {{
        {IN} m = GlobalAveragePool(a) r = Flatten(m) y = QuantizeLinear(r, ys, yz) }}"""
    left = ["DequantizeLinear", "GlobalAveragePool", "Flatten", "QuantizeLinear"]
    assert operators(oc.load(net(body, **X, **Y), strict=True)) == left


def test_a_convolution_gives_the_bits_of_the_operator():
    body, constants, *_ = CASES["Conv, bias, relu"]
    x = codes_of(oc.load(net(body, **constants)).inputs[0])
    w = oc.QTensor(constants["w"], constants["ws"], axis=0)
    expected = oc.conv2d(
        oc.QTensor(x, X_Q.scale, X_Q.zero_point),
        w,
        constants["bq"],
        padding=1,
        activation="relu",
        out_qparams=Y_Q,
    )
    assert np.array_equal(oc.load(net(body, **constants))(x), expected.codes())


def test_a_product_gives_the_bits_of_the_operator():
    body, constants, *_ = CASES["MatMul, bias, relu"]
    model = oc.load(net(body, **constants))
    x = codes_of(model.inputs[0])
    w = oc.QTensor(constants["w"], constants["ws"], axis=1)
    expected = oc.linear(x, w.T, constants["b"], x_qparams=X_Q, out_qparams=Y_Q, activation="relu")
    assert np.array_equal(model(x), expected.codes())


def test_without_codes_behind_it_the_result_is_float():
    body = f"""net (uint8[n, 6] x) => (float[n, 4] y) {{
        {IN} k = DequantizeLinear <axis = 0> (w, ws, wz) y = Gemm <transB = 1> (a, k, b) }}"""
    constants = {**X, **WEIGHTS, "w": int8(4, 6), "b": floats(4)}
    model = oc.load(net(body, **constants), strict=True)
    assert operators(model) == ["octavo.Linear"]
    x = codes_of(model.inputs[0])
    w = oc.QTensor(constants["w"], constants["ws"], axis=0)
    assert np.array_equal(model(x), oc.linear(x, w, constants["b"], x_qparams=X_Q))


def test_what_others_read_is_not_fused():
    body = f"""net (uint8[n, 6] x) => (uint8[n, 6] y, float[n, 6] f) {{
        {IN} f = Sigmoid(a) {OUT} }}"""
    model = oc.load(net(body, **X, **Y), strict=True)
    assert operators(model) == ["DequantizeLinear", "Sigmoid", "QuantizeLinear"]


CHAIN = """net (float[1, 6, 8, 8] x) => (float[1, 4, 8, 8] y) {
    q = QuantizeLinear(x, xs, xz) a = DequantizeLinear(q, xs, xz)
    k = DequantizeLinear <axis = 0> (w, ws, wz) c0 = Conv <pads = [1, 1, 1, 1]> (a, k)
    q0 = QuantizeLinear(c0, ys, yz) a0 = DequantizeLinear(q0, ys, yz)
    k1 = DequantizeLinear <axis = 0> (v, ws, wz) c1 = Conv <pads = [1, 1, 1, 1]> (a0, k1)
    q1 = QuantizeLinear(c1, zs, zz) a1 = DequantizeLinear(q1, zs, zz)
    s = Add(a0, a1) r = Relu(s) q2 = QuantizeLinear(r, ys, yz) y = DequantizeLinear(q2, ys, yz) }"""
CHAIN_CONSTANTS = {**X, **Y, **Z, **WEIGHTS, "w": int8(4, 6, 3, 3), "v": int8(4, 4, 3, 3)}


@pytest.mark.usefixtures("isa")
def test_a_block_with_a_residual_is_two_convolutions_on_every_instruction_set():
    model = oc.load(net(CHAIN, **CHAIN_CONSTANTS), strict=True)
    assert operators(model) == ["QuantizeLinear", "octavo.Conv", "octavo.Conv", "DequantizeLinear"]
    x = np.random.default_rng(1).normal(size=(1, 6, 8, 8)).astype(np.float32)
    c = CHAIN_CONSTANTS
    first, second = (oc.QTensor(c[name], c["ws"], axis=0) for name in ("w", "v"))
    q0 = oc.conv2d(oc.quantize(x, qparams=X_Q), first, padding=1, out_qparams=Y_Q)
    q1 = oc.conv2d(q0, second, padding=1, out_qparams=oc.QParams(0.04, 99))
    expected = oc.nn.add(q0, q1, out_qparams=Y_Q, activation="relu").dequantize()
    assert np.array_equal(model(x), expected)


# --- QOperator form -------------------------------------------------------------------------------


def both(operator, pattern, constants, inputs="net (uint8[n, 6] x) => (uint8[n, c] y)"):
    """Models of an operator on codes and of its QDQ form, which must give the same bits."""
    models = [oc.load(net(f"{inputs} {{ {body} }}", **constants), strict=True)
              for body in (operator, pattern)]  # fmt: skip
    feeds = {value.name: codes_of(value) for value in models[0].inputs}
    return models, [model.run(feeds)["y"] for model in models]


PAIRS = {
    "QLinearConv": (
        "y = QLinearConv <pads = [1, 1, 1, 1]> (x, xs, xz, w, ws, wz, ys, yz, bq)",
        f"""{IN} k = DequantizeLinear <axis = 0> (w, ws, wz) b = DequantizeLinear <axis = 0> (bq, bs)
            f = Conv <pads = [1, 1, 1, 1]> (a, k, b) {OUT}""",
        CASES["Conv, bias, relu"][1],
        IMAGE,
    ),
    "QLinearMatMul": (
        "y = QLinearMatMul(x, xs, xz, w, ws, wz, ys, yz)",
        f"{IN} k = DequantizeLinear <axis = 1> (w, ws, wz) f = MatMul(a, k) {OUT}",
        {**X, **Y, **WEIGHTS, "w": int8(6, 4)},
        ROWS,
    ),
    "QGemm": (
        "y = com.microsoft.QGemm <transB = 1> (x, xs, xz, w, ws, wz, bq, ys, yz)",
        f"""{IN} k = DequantizeLinear <axis = 0> (w, ws, wz) b = DequantizeLinear <axis = 0> (bq, bs)
            f = Gemm <transB = 1> (a, k, b) {OUT}""",
        {
            **X,
            **Y,
            **WEIGHTS,
            "w": int8(4, 6),
            "bq": rng.integers(-500, 500, 4).astype(np.int32),
            "bs": X["xs"] * WEIGHTS["ws"],
        },
        ROWS,
    ),
    "QLinearAdd": (
        "y = com.microsoft.QLinearAdd(x, xs, xz, z, zs, zz, ys, yz)",
        f"{IN} {TWO} f = Add(a, b) {OUT}",
        {**X, **Y, **Z},
        "net (uint8[n, 6] x, uint8[n, 6] z) => (uint8[n, 6] y)",
    ),
    "QLinearMul": (
        "y = com.microsoft.QLinearMul(x, xs, xz, z, zs, zz, ys, yz)",
        f"{IN} {TWO} f = Mul(a, b) {OUT}",
        {**X, **Y, **Z},
        "net (uint8[n, 6] x, uint8[n, 6] z) => (uint8[n, 6] y)",
    ),
    "QLinearConcat": (
        "y = com.microsoft.QLinearConcat <axis = 1> (ys, yz, x, xs, xz, z, zs, zz)",
        f"{IN} {TWO} f = Concat <axis = 1> (a, b) {OUT}",
        {**X, **Y, **Z},
        "net (uint8[n, 6] x, uint8[n, 6] z) => (uint8[n, 12] y)",
    ),
    "QLinearSigmoid": (
        "y = com.microsoft.QLinearSigmoid(x, xs, xz, ys, yz)",
        f"{IN} f = Sigmoid(a) {OUT}",
        {**X, **Y},
        ROWS,
    ),
    "QLinearLeakyRelu": (
        "y = com.microsoft.QLinearLeakyRelu <alpha = 0.2> (x, xs, xz, ys, yz)",
        f"{IN} f = LeakyRelu <alpha = 0.2> (a) {OUT}",
        {**X, **Y},
        ROWS,
    ),
    "QLinearSoftmax": (
        "y = com.microsoft.QLinearSoftmax <axis = -1, opset = 13> (x, xs, xz, ys, yz)",
        f"{IN} f = Softmax <axis = -1> (a) {OUT}",
        {**X, "ys": np.float32(1 / 256), "yz": np.uint8(0)},
        ROWS,
    ),
    "QLinearAveragePool": (
        "y = com.microsoft.QLinearAveragePool <kernel_shape = [2, 2]> (x, xs, xz, ys, yz)",
        f"{IN} f = AveragePool <kernel_shape = [2, 2]> (a) {OUT}",
        {**X, **Y},
        IMAGE,
    ),
    "QLinearGlobalAveragePool": (
        "y = com.microsoft.QLinearGlobalAveragePool(x, xs, xz, ys, yz)",
        f"{IN} f = GlobalAveragePool(a) {OUT}",
        {**X, **Y},
        IMAGE,
    ),
}


@pytest.mark.parametrize("operator", PAIRS)
def test_both_forms_give_the_same_bits(operator):
    on_codes, between, constants, inputs = PAIRS[operator]
    models, (y, expected) = both(on_codes, between, constants, inputs)
    assert operators(models[0]) == operators(models[1])
    assert np.array_equal(y, expected)
    assert len(np.unique(y)) > 5


@functools.cache
def node_cases():
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in collect_testcases(None)}


NODE_CASES = [
    "test_qlinearconv",
    *(f"test_qlinearmatmul_{rank}_{codes}_float32" for rank in ("2D", "3D")
      for codes in ("int8", "uint8")),
    "test_matmulinteger",
    "test_convinteger_with_padding",
    "test_convinteger_without_padding",
    "test_dynamicquantizelinear",
    "test_quantizelinear_axis",
    "test_dequantizelinear_axis",
]  # fmt: skip


@pytest.mark.skipif(IN_QEMU, reason="ONNX's node cases are run natively; slow in emulation")
@pytest.mark.parametrize("name", NODE_CASES)
def test_onnx_cases_with_constant_parameters_give_their_integers(name):
    case = node_cases()[name]
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.opset_import[0].version = max(model.opset_import[0].version, 11)
    ((first, *rest), (wanted, *_)) = case.data_sets[0]
    for value, array in zip(model.graph.input[1:], rest, strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), value.name))
    del model.graph.input[1:]
    loaded = oc.load(model, strict=True)
    got = next(iter(loaded.run({loaded.inputs[0].name: first}).values()))
    assert got.dtype == wanted.dtype
    assert np.array_equal(got, wanted)


# --- weights alone, and activations on the fly ----------------------------------------------------


def packed_nibbles(codes):
    return (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8)


NBITS = """net (float[n, 64] x) => (float[n, 5] y) {{
    y = com.microsoft.MatMulNBits <K = 64, N = 5, bits = 4, block_size = 32 {more}> (x, w, s {zero}) }}"""


@pytest.mark.parametrize("with_zero", [False, True])
def test_blocks_of_4_bit_weights_give_the_bits_of_the_operator(with_zero):
    codes = rng.integers(0, 16, (5, 64)).astype(np.uint8)
    scale = (0.01 + np.abs(floats(5, 2))).astype(np.float32)
    zeros = rng.integers(0, 16, (5, 2)).astype(np.uint8) if with_zero else np.full((5, 2), 8)
    w = oc.QTensor(codes, scale, zeros, dtype="uint4", axis=0, group_size=32)
    constants = {"w": packed_nibbles(codes).reshape(5, 2, 16), "s": scale.reshape(-1)}
    if with_zero:
        constants["z"] = packed_nibbles(zeros).reshape(-1)
    zero = ", z" if with_zero else ""
    x = floats(3, 64)
    model = oc.load(net(NBITS.format(more="", zero=zero), **constants), strict=True)
    assert model.layers[0].kernel == "linear uint4/32"
    assert np.array_equal(model(x), oc.linear(x, w))
    exact = oc.load(net(NBITS.format(more=", accuracy_level = 1", zero=zero), **constants))
    np.testing.assert_allclose(exact(x), x @ w.dequantize().T, rtol=1e-5, atol=1e-4)


def test_blocks_between_dequantize_and_matmul_are_kept_as_blocks():
    codes = rng.integers(-8, 8, (64, 5)).astype(np.int8)
    scale = (0.01 + np.abs(floats(2, 5))).astype(np.float32)
    body = """net (float[n, 64] x) => (float[n, 5] y) {
        k = DequantizeLinear <axis = 0, block_size = 32> (w, s) y = MatMul(x, k) }"""
    proto = net(body, s=scale)
    proto.graph.initializer.append(
        onnx.helper.make_tensor("w", onnx.TensorProto.INT4, (64, 5), codes.reshape(-1).tolist())
    )
    model = oc.load(proto, strict=True)
    x = floats(3, 64)
    w = oc.QTensor(codes, scale, dtype="int4", axis=1, group_size=32)
    assert np.array_equal(model(x), oc.linear(x, w.T))


def test_weights_alone_are_computed_as_floats():
    body = """net (float[n, 6] x) => (float[n, 4] y) {
        k = DequantizeLinear <axis = 1> (w, ws, wz) y = MatMul(x, k) }"""
    w, x = int8(6, 4), floats(3, 6)
    model = oc.load(net(body, w=w, **WEIGHTS), strict=True)
    assert model.layers[0].kernel == "linear float32"
    np.testing.assert_allclose(model(x), x @ (w * WEIGHTS["ws"]), rtol=1e-5, atol=1e-5)


def test_activations_quantized_on_the_fly_give_the_references_integers():
    body = """net (float[n, 6, h, w] x) => (int32[n, 4, p, q] y, float s) {
        q, s, z = DynamicQuantizeLinear(x)
        y = ConvInteger <pads = [1, 1, 0, 0], strides = [2, 1]> (q, k, z) }"""
    proto = net(body, k=int8(4, 6, 3, 3))
    model = oc.load(proto, strict=True)
    for shift in (0, 3, -3):  # another zero point each
        x = floats(2, 6, 7, 8) + np.float32(shift)
        got = model(x)
        expected = reference(proto, {"x": x})
        assert np.array_equal(got["y"], expected[0])
        assert np.array_equal(got["s"], expected[1])


def test_float16_weights_stay_16_bits_wide():
    w, b = floats(4, 6).astype(np.float16), floats(4).astype(np.float16)
    body = "net (float16[n, 6] x) => (float16[n, 4] y) { y = Gemm <transB = 1> (x, w, b) }"
    model = oc.load(net(body, w=w, b=b), strict=True)
    assert model.layers[0].kernel == "linear float16"
    x = floats(3, 6).astype(np.float16)
    expected = (x.astype(np.float64) @ w.T.astype(np.float64) + b).astype(np.float16)
    y = model(x)
    assert y.dtype == np.float16
    np.testing.assert_allclose(
        y.astype(np.float64), expected.astype(np.float64), rtol=2e-3, atol=1e-3
    )


def test_an_operator_that_nobody_has_is_refused_when_it_is_loaded():
    body = "net (float[n] x) => (float[n] y) { y = com.microsoft.NoSuchThing(x) }"
    with pytest.raises(
        oc.UnsupportedOpError, match=r"com\.microsoft\.NoSuchThing has no kernel here"
    ):
        oc.load(net(body))


def test_quantized_models_pickle():
    import pickle

    model = oc.load(net(CHAIN, **CHAIN_CONSTANTS))
    x = floats(1, 6, 8, 8)
    assert np.array_equal(pickle.loads(pickle.dumps(model, 5))(x), model(x))


def test_inputs_of_codes_stay_writable():
    body, constants, *_ = CASES["Add, relu"]
    model = oc.load(net(body, **constants))
    feeds = {value.name: codes_of(value) for value in model.inputs}
    model.run(feeds)["y"][:] = 0
    assert all(x.flags.writeable for x in feeds.values())


@pytest.mark.parametrize("indices", [[1, 0, 4], [[-1, 2], [3, -5]]])
def test_rows_of_a_table_of_codes_are_taken_before_they_are_dequantized(indices):
    model = net(
        """net (int64[n, m] i) => (float[n, m, k] y) {
            t = DequantizeLinear <axis = 0> (w, ws, wz) y = Gather <axis = 0> (t, i) }""",
        w=int8(5, 7), ws=np.abs(floats(5)) + 0.01, wz=np.zeros(5, np.int8),
    )  # fmt: skip
    loaded = oc.load(model)
    assert operators(loaded) == ["octavo.Embedding"]
    feeds = {"i": np.atleast_2d(np.array(indices, np.int64))}
    assert np.array_equal(loaded(**feeds), reference(model, feeds)[0])


def grouped_graph(activation):
    w = oc.quantize(floats(3, 64), "int4", axis=0, group_size=32)
    x, y = (oc.graph.Value(n, "float32", ("n", k)) for n, k in (("x", 64), ("y", 3)))
    attributes = {"activation": activation} if activation else {}
    node = oc.graph.Node("p", "MatMul", ["x", "w"], ["y"], attributes, 13)
    return w, oc.graph.Graph("g", [x], [y], [node], {"w": w.T}, {"x": x, "y": y})


def test_weights_in_groups_keep_the_clamp_that_was_fused():
    from octavo.graph.optimize import optimize

    w, graph = grouped_graph("relu")
    optimize(graph)
    model = oc.graph.Model(graph)
    assert operators(model) == ["octavo.GroupedLinear"]
    x = floats(4, 64)
    assert np.array_equal(model(x), oc.linear(x, w, activation="relu"))
    assert (model(x) == 0).any()


def test_codes_name_the_values_that_they_stand_for():
    text, constants, _, _ = CASES["Conv, bias, relu"]
    (layer,) = oc.load(net(text, **constants)).graph.nodes
    assert layer.attributes["real"] == "f"


def test_what_resize_fills_with_is_a_value_not_a_code():
    model = net(
        f"""net (uint8[n, 1, 4, 4] x) => (uint8[n, 1, p, q] y) {{ {IN}
            f = Resize <mode = "nearest", coordinate_transformation_mode = "tf_crop_and_resize",
                extrapolation_value = 3.0> (a, roi, , sizes) {SAME} }}""",
        **X, roi=np.array([0, 0, -0.5, -0.5, 1, 1, 1.5, 1.5], np.float32),
        sizes=np.array([1, 1, 6, 6], np.int64),
    )  # fmt: skip
    x = rng.integers(0, 256, (1, 1, 4, 4)).astype(np.uint8)
    with pytest.warns(oc.FallbackWarning, match="Resize"):
        loaded = oc.load(model)
    assert np.array_equal(loaded(x), reference(model, {"x": x})[0])
