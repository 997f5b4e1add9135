"""Passes leave a graph that means the same, beside onnx's reference implementation of the model."""

import numpy as np
import pytest

import octavo as oc

onnx = pytest.importorskip("onnx", reason="models are not read without onnx")
parse = pytest.importorskip("onnx.parser").parse_model

rng = np.random.default_rng(0)


def floats(*shape):
    return rng.normal(size=shape).astype(np.float32)


def net(body, opset=17, **constants):
    model = parse(f'<ir_version: 8, opset_import: ["" : {opset}]> {body}')
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return model


def scalar(value):
    return np.float32(value)


IMAGES = "net (float[n, 6, h, w] x) => (float[n, c, p, q] y)"
BATCH_NORM = {
    "scale": floats(4),
    "offset": floats(4),
    "mean": floats(4),
    "variance": np.abs(floats(4)) + 0.1,
}
NORM = {"weight": floats(8), "bias": floats(8), "eps": scalar(1e-3), "two": scalar(2)}
CASES = {
    "batch norm into Conv": (
        f"{IMAGES} {{ a = Conv(x, k, b) y = BatchNormalization(a, scale, offset, mean, variance) }}",
        {"k": floats(4, 6, 3, 3), "b": floats(4), **BATCH_NORM},
        ["Conv"],
    ),
    "batch norm into ConvTranspose": (
        f"""{IMAGES} {{ a = ConvTranspose(x, k)
        y = BatchNormalization(a, scale, offset, mean, variance) }}""",
        {"k": floats(6, 4, 3, 3), **BATCH_NORM},
        ["ConvTranspose"],
    ),
    "bias and clip into Conv": (
        f"{IMAGES} {{ a = Conv(x, k) b = Add(a, c) y = Clip(b, lo, hi) }}",
        {"k": floats(4, 6, 3, 3), "c": floats(1, 4, 1, 1), "lo": scalar(-1), "hi": scalar(2)},
        ["Conv"],
    ),
    "an addend along another axis stays": (
        f"{IMAGES} {{ a = Conv(x, k) y = Add(a, c) }}",
        {"k": floats(4, 6, 3, 5), "c": floats(4)},
        ["Conv", "Add"],
    ),
    "what others read stays": (
        """net (float[n, 6, h, w] x) => (float[n, c, p, q] y, float[n, c, p, q] a)
        { a = Conv(x, k) y = Relu(a) }""",
        {"k": floats(4, 6, 3, 3)},
        ["Conv", "Relu"],
    ),
    "bias and relu into MatMul": (
        "net (float[n, 6] x) => (float[n, 8] y) { a = MatMul(x, w) b = Add(c, a) y = Relu(b) }",
        {"w": floats(6, 8), "c": floats(8)},
        ["MatMul"],
    ),
    "relu into Gemm": (
        "net (float[n, 6] x) => (float[n, 8] y) { a = Gemm <transB = 1> (x, w, c) y = Relu(a) }",
        {"w": floats(8, 6), "c": floats(8)},
        ["Gemm"],
    ),
    "no relu into a Gemm that adds a matrix": (
        "net (float[5, 6] x) => (float[5, 8] y) { a = Gemm (x, w, c) y = Relu(a) }",
        {"w": floats(6, 8), "c": floats(5, 8)},
        ["Gemm", "Relu"],
    ),
    "gelu": (
        """net (float[n, 6] x) => (float[n, 6] y)
        { a = Div(x, r) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half) }""",
        {"r": scalar(2**0.5), "one": scalar(1), "half": scalar(0.5)},
        ["Gelu"],
    ),
    "gelu, halved first": (
        """net (float[n, 6] x) => (float[n, 6] y)
        { a = Div(x, r) b = Erf(a) c = Add(b, one) d = Mul(half, c) y = Mul(x, d) }""",
        {"r": scalar(2**0.5), "one": scalar(1), "half": scalar(0.5)},
        ["Gelu"],
    ),
    "another divisor is no gelu": (
        """net (float[n, 6] x) => (float[n, 6] y)
        { a = Div(x, r) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half) }""",
        {"r": scalar(1.5), "one": scalar(1), "half": scalar(0.5)},
        ["Div", "Erf", "Add", "Mul", "Mul"],
    ),
    "silu": (
        "net (float[n, 6] x) => (float[n, 6] y) { a = Sigmoid(x) y = Mul(a, x) }",
        {},
        ["Swish"],
    ),
    "sigmoid of another value is no silu": (
        "net (float[n, 6] x, float[n, 6] z) => (float[n, 6] y) { a = Sigmoid(z) y = Mul(a, x) }",
        {},
        ["Sigmoid", "Mul"],
    ),
    "hard swish": (
        """net (float[n, 6] x) => (float[n, 6] y)
        { a = Add(x, three) b = Clip(a, zero, six) c = Mul(x, b) y = Div(c, six) }""",
        {"three": scalar(3), "zero": scalar(0), "six": scalar(6)},
        ["HardSwish"],
    ),
    "layer norm": (
        """net (float[n, 8] x) => (float[n, 8] y) {
            m = ReduceMean <axes = [-1]> (x) d = Sub(x, m) s = Pow(d, two)
            v = ReduceMean <axes = [-1]> (s) e = Add(v, eps) r = Sqrt(e) q = Div(d, r)
            t = Mul(q, weight) y = Add(t, bias) }""",
        NORM,
        ["LayerNormalization"],
    ),
    "means over another axis are no layer norm": (
        """net (float[8, 8] x) => (float[8, 8] y) {
            m = ReduceMean <axes = [0]> (x) d = Sub(x, m) s = Pow(d, two)
            v = ReduceMean <axes = [-1]> (s) e = Add(v, eps) r = Sqrt(e) q = Div(d, r)
            t = Mul(q, weight) y = Add(t, bias) }""",
        NORM,
        ["ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add"],
    ),
    "identities, dropout, constants and dead code": (
        """net (float[n, 6] x) => (float[n, 6] y) {
            a = Identity(x) b = Dropout(a) dead = Exp(b) c = Constant <value_float = 2.0> ()
            d = Mul(c, c) y = Mul(b, d) }""",
        {},
        ["Mul"],
    ),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_pass_keeps_the_meaning(case):
    body, constants, operators = CASES[case]
    proto = net(body, **constants)
    model = oc.load(proto, strict=True)
    assert [layer.operator for layer in model.layers] == operators
    sizes = {"n": 5, "h": 7, "w": 8}
    feeds = {
        value.name: floats(*(sizes.get(size, size) for size in value.shape))
        for value in model.inputs
    }
    expected = onnx.reference.ReferenceEvaluator(proto).run(None, feeds)
    for got, wanted in zip(model.run(feeds).values(), expected, strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_batch_norm_is_folded_by_group():
    chain = "a = ConvTranspose <group = 2> (x, k) y = BatchNormalization(a, scale, offset, mean, variance)"
    constants = {"k": floats(6, 2, 3, 3), **BATCH_NORM}
    folded = oc.load(net(f"{IMAGES} {{ {chain} }}", **constants))
    both = f"{IMAGES[:-1]}, float[n, c, p, q] a)"  # what is given out is not folded
    apart = oc.load(net(f"{both} {{ {chain} }}", **constants))
    assert (len(folded.layers), len(apart.layers)) == (1, 2)
    x = floats(2, 6, 5, 5)
    np.testing.assert_allclose(folded(x), apart(x)["y"], rtol=1e-5, atol=1e-5)


def test_a_fused_clamp_changes_no_bit():
    constants = {"k": floats(4, 6, 3, 3), "b": floats(4)}
    x = floats(2, 6, 9, 9)
    plain = oc.load(net(f"{IMAGES} {{ y = Conv(x, k, b) }}", **constants))
    fused = oc.load(net(f"{IMAGES} {{ a = Conv(x, k, b) y = Relu(a) }}", **constants))
    assert np.array_equal(fused(x), np.maximum(plain(x), 0))


def test_names_of_layers_stay_when_they_are_fused():
    proto = net(f"{IMAGES} {{ a = Conv(x, k) y = Relu(a) }}", k=floats(4, 6, 3, 3))
    proto.graph.node[0].name = "first"
    (layer,) = oc.load(proto).layers
    assert layer.name == "first"
    assert layer.outputs == ("y",)
