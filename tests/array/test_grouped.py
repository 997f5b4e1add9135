"""Weights in groups: products, layers, and the layouts that onnx has for them."""

import pickle

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import octavo as oc
from octavo import _core
from octavo.array.blocked import from_blocked, from_matmul_nbits, to_blocked, to_matmul_nbits

DTYPES = ["int4", "uint4", "int8", "uint8"]


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def codes(rng, shape, dtype, extreme=False):
    qmin, qmax = reference.RANGES[dtype]
    values = rng.choice([qmin, qmax], shape) if extreme else rng.integers(qmin, qmax + 1, shape)
    return values.astype(reference.stored(dtype))


def tensor(rng, n, k, dtype, size, zeros="each", extreme=False, half=False):
    """Weights (out, in) in groups; `zeros`: none, one for all, or one for each group."""
    groups = -(-k // size)
    scale = rng.uniform(0.01, 1, (n, groups)).astype(np.float16 if half else np.float32)
    zero_point = np.zeros((n, groups), np.int64)
    if zeros == "one":
        zero_point += codes(rng, (), dtype, extreme)
    elif zeros == "each":
        zero_point += codes(rng, (n, groups), dtype, extreme)
    return oc.QTensor(
        codes(rng, (n, k), dtype, extreme),
        scale.astype(np.float32),
        zero_point,
        dtype=dtype,
        axis=0,
        group_size=size,
    )


def product(x, w, bias=None):
    return reference.grouped_linear(x, w.codes(), w.scale, w.zero_point, w.group_size, bias)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zeros", ["none", "one", "each"])
@pytest.mark.parametrize(
    ("n", "k", "size"), [(70, 96, 32), (65, 130, 64), (3, 300, 128), (17, 100, 100), (5, 9, 2)]
)
def test_products_of_every_height_follow_the_rule(rng, dtype, zeros, n, k, size):
    w = tensor(rng, n, k, dtype, size, zeros, half=size == 64)
    for m in (1, 2, 3, 4, 5, 7, 16, 40):
        x = rng.standard_normal((m, k)).astype(np.float32)
        y = x @ w.T
        assert np.array_equal(y, product(x, w))
        with oc.threads(3):
            assert np.array_equal(x @ w.T, y)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ends_of_every_range_are_exact(rng, dtype):
    w = tensor(rng, 20, 600, dtype, 256, extreme=True)
    x = rng.choice([-1, 1], (5, 600)).astype(np.float32)
    assert np.array_equal(x @ w.T, product(x, w))


@given(
    m=st.integers(0, 9),
    n=st.integers(0, 70),
    k=st.integers(0, 200),
    size=st.integers(1, 220),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_any_shape_and_group(m, n, k, size, dtype, seed):
    rng = np.random.default_rng(seed)
    w = tensor(rng, n, k, dtype, size)
    x = rng.standard_normal((m, k)).astype(np.float32)
    assert np.array_equal(x @ w.T, product(x, w))


@pytest.mark.usefixtures("isa")
def test_rows_do_not_meet_their_neighbours(rng):
    w = tensor(rng, 40, 100, "int4", 32)
    x = rng.standard_normal((6, 100)).astype(np.float32)
    clean = x @ w.T
    x[1, 3], x[2, 99], x[4] = np.nan, -np.inf, 0
    y = x @ w.T
    assert np.isnan(y[1:3]).all()
    assert (y[4] == 0).all()
    assert np.array_equal(y[[0, 3, 5]], clean[[0, 3, 5]])
    for i in range(6):
        assert np.array_equal(x[i] @ w.T, y[i], equal_nan=True)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("precision", ["int4/32", "int4/7", "int8/64"])
def test_bias_and_activation_come_after_the_product(rng, precision):
    w = rng.standard_normal((33, 100)).astype(np.float32)
    b = rng.standard_normal(33).astype(np.float32)
    x = rng.standard_normal((5, 100)).astype(np.float32)
    dtype, size = precision.split("/")
    w_q = oc.quantize(w, dtype, axis=0, group_size=int(size))
    layer = oc.Linear.from_float(w, b, precision=precision, activation=("clip", -0.5, 2))
    wanted = reference.clip(product(x, w_q, b), -0.5, 2)
    assert np.array_equal(layer(x), wanted)
    out = np.empty_like(wanted)
    assert layer(x, out=out) is out
    assert np.array_equal(out, wanted)
    restored = pickle.loads(pickle.dumps(layer))
    assert restored.unpack()[0].equals(w_q)
    assert np.array_equal(restored(x), wanted)


def test_a_form_packed_for_one_isa_serves_the_others(rng):
    w = tensor(rng, 33, 100, "uint4", 32)
    x = rng.standard_normal((3, 100)).astype(np.float32)
    wanted = x @ w.T
    for name in _core.available_isas():
        with oc.runtime.force_isa(name):
            assert np.array_equal(x @ w.T, wanted)


def test_packed_weights_take_half_a_byte_each(rng):
    w = rng.standard_normal((256, 1024)).astype(np.float32)
    layer = oc.Linear.from_float(w, precision="int4/32")
    scales = 4 * w.size // 32
    assert layer.nbytes == w.size // 2 + scales
    # float16 scales are kept as such.
    q = tensor(rng, 256, 1024, "int4", 32, "none", half=True)
    assert oc.Linear.from_quantized(q).nbytes == w.size // 2 + scales // 2


def op(w=None, scale=None, zero_point=None, group_size=2, **options):
    w = np.ones((3, 4), np.int8) if w is None else w
    scale = np.ones((3, 2), np.float32) if scale is None else scale
    return _core.GroupedLinearOp(w, scale, zero_point, group_size, **{"bits": 4, **options})


REFUSED = {
    "bits": ({"bits": 5}, ValueError, "bits must be 4 or 8, got 5"),
    "group": ({"group_size": 0}, ValueError, "group_size must be at least 1, got 0"),
    "w dtype": ({"w": np.ones((3, 4), np.int16)}, TypeError, "w must be int8 or uint8, got int16"),
    "w shape": ({"w": np.ones(4, np.int8)}, ValueError, r"w must have shape \(out_features"),
    "w range": ({"w": np.full((3, 4), 8, np.int8)}, ValueError, r"w must be in \[-8, 7\].* got 8"),
    "scale shape": (
        {"scale": np.ones((3, 3), np.float32)},
        ValueError,
        r"scale has shape \(3, 3\), expected \(3, 2\)",
    ),
    "scale dtype": ({"scale": np.ones((3, 2))}, TypeError, "scale must be float32 or float16"),
    "scale": (
        {"scale": np.array([[1, 1], [1, 0], [1, 1]], np.float32)},
        ValueError,
        "scale must be positive and finite, got 0",
    ),
    "zero point": (
        {"zero_point": np.full((3, 2), -9, np.int32)},
        ValueError,
        r"zero_point must be in \[-8, 7\]",
    ),
    "zero point shape": ({"zero_point": np.zeros(2, np.int32)}, ValueError, "zero_point has shape"),
    "bias": ({"bias": np.ones(2, np.float32)}, ValueError, r"bias has shape \(2,\), expected"),
    "clip": ({"lo": 2.0, "hi": 1.0}, ValueError, "lo <= hi"),
    "long group": (
        {
            "w": np.ones((1, 70000), np.int8),
            "scale": np.ones((1, 1), np.float32),
            "group_size": 70000,
        },
        ValueError,
        "a group has 70000 values, expected at most 65536",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_operator_refuses(case):
    arguments, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        op(**arguments)


def test_scales_of_float16_are_widened():
    y = op(scale=np.full((3, 2), 0.5, np.float16))(np.ones((1, 4), np.float32))
    assert np.array_equal(
        y, op(scale=np.full((3, 2), 0.5, np.float32))(np.ones((1, 4), np.float32))
    )


# MatMulNBits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zeros", ["none", "one", "each"])
@pytest.mark.parametrize(("k", "size"), [(96, 32), (100, 32), (16, 16), (0, 16), (129, 128)])
def test_matmul_nbits_there_and_back(rng, dtype, zeros, k, size):
    q = tensor(rng, 5, k, dtype, size, zeros)
    b, scales, zero_points = to_matmul_nbits(q)
    bits = 4 if dtype.endswith("4") else 8
    blocks = -(-k // size)
    assert b.shape == (5, blocks, size * bits // 8)
    back = from_matmul_nbits(b, scales, zero_points, k=k, n=5, block_size=size, bits=bits)
    assert np.array_equal(back.dequantize(), q.dequantize())
    assert back.dtype == dtype.replace("int", "uint").replace("uu", "u")
    if zero_points is not None:
        real = back.zero_point.astype(np.float32)
        again = from_matmul_nbits(b, scales, real, k=k, n=5, block_size=size, bits=bits)
        assert again.equals(back)


def test_matmul_nbits_refuses(rng):
    q = tensor(rng, 2, 64, "uint4", 32)
    b, scales, _ = to_matmul_nbits(q)
    attributes = {"k": 64, "n": 2, "block_size": 32}
    with pytest.raises(ValueError, match=r"b has shape .*, expected 64 values"):
        from_matmul_nbits(b[:, :1], scales, **attributes)
    with pytest.raises(ValueError, match="scales has shape"):
        from_matmul_nbits(b, scales[:3], **attributes)
    with pytest.raises(TypeError, match="b is int8, expected uint8"):
        from_matmul_nbits(b.view(np.int8), scales, **attributes)
    with pytest.raises(ValueError, match="whole numbers"):
        from_matmul_nbits(b, scales, np.full(4, 7.5, np.float32), **attributes)
    with pytest.raises(ValueError, match="bits is 3"):
        from_matmul_nbits(b, scales, bits=3, **attributes)
    with pytest.raises(ValueError, match="expected none below"):
        from_matmul_nbits(b, scales, k=64, n=2, block_size=0)
    with pytest.raises(ValueError, match="in groups along the inputs"):
        to_matmul_nbits(q.T)
    with pytest.raises(ValueError, match="expected an even number"):
        to_matmul_nbits(tensor(rng, 2, 9, "int4", 3))


@pytest.mark.parametrize("zeros", ["none", "each"])
@pytest.mark.parametrize("dtype", ["int4", "uint8"])
def test_onnxruntime_reads_what_we_write(rng, zeros, dtype):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    q = tensor(rng, 6, 100, dtype, 32, zeros)
    b, scales, zero_points = to_matmul_nbits(q)
    weights = {"b": b, "scales": scales}
    if zero_points is not None:
        weights["zero_points"] = zero_points
    h = onnx.helper
    bits = 4 if dtype.endswith("4") else 8
    node = h.make_node(
        "MatMulNBits", ["a", *weights], ["y"], domain="com.microsoft", K=100, N=6, bits=bits,
        block_size=32,
    )  # fmt: skip
    graph = h.make_graph(
        [node],
        "g",
        [h.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [3, 100])],
        [h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3, 6])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [h.make_opsetid("", 21), h.make_opsetid("com.microsoft", 1)]
    model = h.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    a = rng.standard_normal((3, 100)).astype(np.float32)
    (y,) = session.run(None, {"a": a})
    wanted = a.astype(np.float64) @ q.dequantize().T.astype(np.float64)
    assert np.abs(y - wanted).max() < 1e-4 * np.abs(wanted).max()


# DequantizeLinear ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zeros", ["none", "each"])
@pytest.mark.parametrize("transposed", [False, True])
def test_blocked_there_and_back(rng, dtype, zeros, transposed):
    q = tensor(rng, 5, 70, dtype, 32, zeros)
    q = q.T if transposed else q
    x, scale, zero_point, axis, block_size = to_blocked(q)
    assert (axis, block_size) == (0 if transposed else 1, 32)
    given = x
    if dtype.endswith("4"):
        ml_dtypes = pytest.importorskip("ml_dtypes")
        given = x.astype(getattr(ml_dtypes, dtype))
    back = from_blocked(given, scale, zero_point, axis=axis, block_size=block_size)
    assert back.equals(q)


@pytest.mark.parametrize("dtype", DTYPES)
def test_onnx_dequantizes_what_we_write(rng, dtype):
    onnx = pytest.importorskip("onnx")
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
    q = tensor(rng, 5, 64, dtype, 32)
    x, scale, zero_point, axis, block_size = to_blocked(q)
    kind = getattr(onnx.TensorProto, dtype.upper())
    h = onnx.helper
    node = h.make_node(
        "DequantizeLinear", ["x", "scale", "zero_point"], ["y"], axis=axis, block_size=block_size
    )
    graph = h.make_graph(
        [node],
        "g",
        [],
        [h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, x.shape)],
        [
            # The storage of a 4-bit tensor is the raw data of its TensorProto.
            h.make_tensor("x", kind, x.shape, q.data.tobytes(), raw=True),
            onnx.numpy_helper.from_array(scale, "scale"),
            h.make_tensor("zero_point", kind, scale.shape, zero_point.reshape(-1).tolist()),
        ],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 21)], ir_version=10)
    (y,) = evaluator(model).run(None, {})
    assert np.array_equal(y, q.dequantize())


def test_blocked_refuses(rng):
    q = tensor(rng, 3, 8, "int8", 4)
    x, scale, _, axis, _ = to_blocked(q)
    with pytest.raises(ValueError, match="x has 1 dimensions, expected 2"):
        from_blocked(x[0], scale, axis=axis, block_size=4)
    with pytest.raises(ValueError, match="axis is 2"):
        from_blocked(x, scale, axis=2, block_size=4)
    with pytest.raises(ValueError, match="scale has shape"):
        from_blocked(x, scale, axis=0, block_size=4)
    with pytest.raises(ValueError, match="expected groups"):
        to_blocked(oc.quantize(np.ones((3, 8), np.float32), axis=0))
