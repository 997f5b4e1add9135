"""``oc.linear``."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import octavo as oc

SHAPES = [(1, 1, 1), (1, 17, 5), (5, 33, 64), (3, 16, 129)]


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def case(rng, m, n, k, w_dtype="int8", axis=0, symmetric=True):
    w = oc.quantize(rng.standard_normal((n, k)), w_dtype, axis=axis, symmetric=symmetric)
    x = (rng.standard_normal((m, k)) * 2 + 1).astype(np.float32)
    b = rng.standard_normal(n).astype(np.float32)
    return x, w, b


def accumulators(x_q, x_qparams, w):
    zero_points = np.broadcast_to(w.zero_point, w.shape[0])
    return reference.accumulate(x_q, w.codes().T, x_qparams.zero_point, zero_points)


STATIC = [oc.QParams(0.03, 97), oc.QParams(0.05, -3, "int8"), oc.QParams(0.04)]
OUT = [oc.QParams(0.11, 30), oc.QParams(0.2, 5, "int8")]
ACTIVATIONS = {
    "none": (None, None, None),
    "relu": ("relu", 0.0, None),
    "relu6": ("relu6", 0.0, 6.0),
    "clip": (("clip", -1.5, 2.5), -1.5, 2.5),
    "half open": (["clip", None, 1], None, 1.0),
}


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_dynamic(rng, m, n, k, has_bias, activation):
    x, w, b = case(rng, m, n, k)
    given_activation, lo, hi = ACTIVATIONS[activation]
    bias = b if has_bias else None
    y = oc.linear(x, w, bias, activation=given_activation)
    wanted = reference.dynamic_linear(x, w.codes(), w.scale, w.zero_point, bias)
    assert np.array_equal(y, reference.clip(wanted, lo, hi))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("w_dtype", ["int8", "uint8", "int4", "uint4"])
@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("x_qparams", STATIC, ids=repr)
def test_static_with_float_output(rng, w_dtype, axis, x_qparams):
    x, w, b = case(rng, 5, 33, 64, w_dtype, axis, symmetric=False)
    x_q = reference.quantize(x, x_qparams.scale, x_qparams.zero_point, x_qparams.dtype)
    acc = accumulators(x_q, x_qparams, w)
    wanted = reference.float_output(acc, x_qparams.scale, w.scale, b)
    quantized = oc.quantize(x, qparams=x_qparams)
    for form in (x, x.astype(np.float64), x_q, quantized):
        y = oc.linear(form, w, b, x_qparams=x_qparams, activation="relu")
        assert np.array_equal(y, reference.clip(wanted, 0.0, None))
    assert np.array_equal(oc.linear(quantized, w, b), wanted)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("x_qparams", STATIC, ids=repr)
@pytest.mark.parametrize("bias", ["none", "float32", "int32"])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_integer_output(rng, m, n, k, x_qparams, bias):
    x, w, b = case(rng, m, n, k)
    x_q = reference.quantize(x, x_qparams.scale, x_qparams.zero_point, x_qparams.dtype)
    integers = reference.integer_bias(b, x_qparams.scale, w.scale)
    given = {"none": None, "float32": b, "int32": integers.astype(np.int32)}[bias]
    wanted = accumulators(x_q, x_qparams, w) + (0 if bias == "none" else integers)
    y = oc.linear(x, w, given, x_qparams=x_qparams, out_dtype="int32")
    assert y.dtype == np.int32
    assert np.array_equal(y, wanted)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("out_qparams", OUT, ids=repr)
@pytest.mark.parametrize("x_qparams", STATIC, ids=repr)
def test_quantized_output(rng, x_qparams, out_qparams, activation):
    x, w, b = case(rng, 5, 33, 64)
    given_activation, lo, hi = ACTIVATIONS[activation]
    x_q = reference.quantize(x, x_qparams.scale, x_qparams.zero_point, x_qparams.dtype)
    wanted = reference.requantize(
        accumulators(x_q, x_qparams, w),
        reference.multiplier(x_qparams.scale, w.scale, out_qparams.scale),
        int(out_qparams.zero_point),
        out_qparams.dtype,
        reference.integer_bias(b, x_qparams.scale, w.scale),
    )
    # A fused clip is a tighter clamp: of the codes that its bounds quantize to.
    zero, scale = int(out_qparams.zero_point), out_qparams.scale
    for bound, tighten in ((lo, np.maximum), (hi, np.minimum)):
        if bound is not None:
            code = reference.quantize(np.float32([bound]), scale, zero, out_qparams.dtype)[0]
            wanted = tighten(wanted, code)
    y = oc.linear(
        x, w, b, x_qparams=x_qparams, out_qparams=out_qparams, activation=given_activation
    )
    assert isinstance(y, oc.QTensor)
    assert y.qparams == out_qparams
    assert np.array_equal(y.codes(), wanted)
    assert len(np.unique(wanted)) > 5, "nearly all clamped: the test shows little"


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("out_qparams", OUT, ids=repr)
def test_dynamic_input_with_quantized_output_quantizes_the_float_result(rng, out_qparams):
    x, w, b = case(rng, 5, 33, 64)
    y = oc.linear(x, w, b, out_qparams=out_qparams, activation="relu")
    real = reference.clip(reference.dynamic_linear(x, w.codes(), w.scale, 0, b), 0.0, None)
    assert y.equals(oc.quantize(real, qparams=out_qparams))


@given(st.integers(0, 5), st.integers(0, 20), st.integers(0, 40), st.integers(0, 9))
def test_any_size(m, n, k, seed):
    x, w, b = case(np.random.default_rng(seed), m, n, k)
    y = oc.linear(x, w, b)
    assert y.shape == (m, n)
    assert np.array_equal(y, reference.dynamic_linear(x, w.codes(), w.scale, 0, b))
    p = STATIC[0]
    y = oc.linear(x, w, b, x_qparams=p, out_qparams=OUT[0])
    assert y.shape == (m, n)
    if k == 0:
        wanted = reference.requantize(
            np.zeros((m, n), np.int64),
            reference.multiplier(p.scale, w.scale, OUT[0].scale),
            int(OUT[0].zero_point),
            "uint8",
            reference.integer_bias(b, p.scale, w.scale),
        )
        assert np.array_equal(y.codes(), wanted)


@pytest.mark.usefixtures("isa")
def test_rows_do_not_know_their_neighbours(rng):
    x, w, b = case(rng, 37, 19, 50)
    whole = oc.linear(x, w, b)
    parts = [oc.linear(x[i:j], w, b) for i, j in ((0, 1), (1, 8), (8, 37))]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(oc.linear(x.reshape(37, 1, 50), w, b), whole[:, None])


@pytest.mark.usefixtures("isa")
def test_rivals_multiplier_is_not_fused():
    # -791 * 4.956984e-04 + 0.4499524 is rounded differently with and without fused multiply-add.
    x = oc.QTensor([[-7, 1]], 1.0, dtype="int8")
    w = oc.QTensor([[113, 0]], np.float32(4.956984e-04), dtype="int8")
    b = np.array([0.4499524], np.float32)
    y = oc.linear(x, w, b)
    product = np.float32(-791) * np.float32(4.956984e-04)
    assert y.tolist() == [[product + b[0]]]
    fused = reference.fma(np.float32([-791]), np.float32([4.956984e-04]), b)
    assert y[0, 0] != fused[0]


# --- the bias that int32 cannot hold -------------------------------------------------------------


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(
    "options",
    [{"out_dtype": "int32"}, {"out_qparams": oc.QParams(0.05, 128)}],
    ids=["int32", "uint8"],
)
def test_a_bias_that_overflows_raises_the_weight_scale(options):
    # Reported elsewhere: input scale .5, weight scale 7.843e-10, bias [5, -4.5], codes near 1e11.
    w = oc.QTensor([[127, -127, 64], [1, 2, 3]], [7.843e-10, 7.843e-10], dtype="int8", axis=0)
    b = np.array([5, -4.5], np.float32)
    x_qparams = oc.QParams(0.5, 128)
    x = np.array([[1.0, -2.0, 3.0]], np.float32)
    with pytest.warns(
        RuntimeWarning, match=r"bias of 2 outputs overflows int32 .*scales were raised"
    ) as caught:
        y = oc.linear(x, w, b, x_qparams=x_qparams, **options)
    assert caught[0].filename == __file__
    if "out_dtype" in options:
        layer_scale = 7.843e-10 * 2.0**4  # 5 / (.5 * 7.843e-10) / 2**30 = 11.9 -> 16
        assert np.abs(y * 0.5 * layer_scale - b).max() < 1e-5
    else:
        assert np.abs(y.dequantize() - b).max() <= 0.025 + 1e-6


def test_only_the_outputs_concerned_are_raised():
    w = oc.QTensor([[100, -50], [100, -50]], [1e-9, 0.01], [0, 4], dtype="int8", axis=0)
    b = np.array([4, 1], np.float32)
    with pytest.warns(
        RuntimeWarning, match=r"bias of 1 outputs .*output 0: 8e\+09 steps.*by 8 at"
    ) as caught:
        layer = oc.Linear.from_quantized(
            w, b, x_qparams=oc.QParams(0.5), out_qparams=oc.QParams(0.05, 128)
        )
    assert caught[0].filename == __file__
    raised, _ = layer.unpack()
    assert raised.scale.tolist() == [np.float32(8e-9), np.float32(0.01)]
    assert raised.zero_point.tolist() == [0, 4]
    assert raised.codes().tolist() == [[12, -6], [100, -50]]


def test_float_output_needs_no_room_for_the_bias():
    w = oc.QTensor([[100, -50]], 1e-9, dtype="int8")
    y = oc.linear(np.ones((1, 2)), w, np.array([4.0]), x_qparams=oc.QParams(0.5))
    assert y.tolist() == [[4.0]]


def test_sums_beyond_int32_are_refused_in_int32_and_right_in_float32():
    w = oc.QTensor(np.full((2, 70000), 127, np.int8), 0.5)
    x = np.full((1, 70000), 255, np.uint8)
    with pytest.raises(OverflowError, match="a result does not fit int32; ask for a float32"):
        oc.linear(x, w, x_qparams=oc.QParams(1.0), out_dtype="int32")
    y = oc.linear(x, w, x_qparams=oc.QParams(1.0))
    assert y.tolist() == [[np.float32(255 * 127 * 70000) * 0.5] * 2]


# --- plain paths ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float32", "float16", "grouped"])
def test_plain_paths_take_all_inputs_and_outputs(rng, kind):
    real = rng.standard_normal((6, 10)).astype(np.float32)
    x = rng.standard_normal((2, 3, 10)).astype(np.float32)
    b = rng.standard_normal(6).astype(np.float32)
    w = {
        "float32": real,
        "float16": oc.quantize(real, "float16"),
        "grouped": oc.quantize(real, "uint4", axis=0, group_size=4),
    }[kind]

    def product(values):
        rows = values.reshape(-1, 10)
        if kind == "grouped":
            y = reference.grouped_linear(rows, w.codes(), w.scale, w.zero_point, 4)
        else:
            y = reference.float_linear(values, w if kind == "float32" else w.dequantize())
        return reference.clip(y.reshape(2, 3, 6) + b, 0.0, 6.0)

    assert np.array_equal(oc.linear(x, w, b, activation="relu6"), product(x))
    x_q = oc.quantize(x, "uint8")
    for form, options in ((x_q, {}), (x_q.codes(), {"x_qparams": x_q.qparams})):
        y = oc.linear(form, w, b, activation="relu6", **options)
        assert np.array_equal(y, product(x_q.dequantize()))
    y = oc.linear(x, w, b, activation="relu6", out_qparams=OUT[0])
    assert y.equals(oc.quantize(product(x), qparams=OUT[0]))
    out = np.empty((2, 3, 6), np.float32)
    assert oc.linear(x, w, b, activation="relu6", out=out) is out
    assert np.array_equal(out, product(x))
    codes = np.empty((2, 3, 6), np.uint8)
    assert oc.linear(x, w, b, activation="relu6", out_qparams=OUT[0], out=codes) is codes
    assert np.array_equal(codes, y.codes())


def test_relu_gives_plus_zero_and_keeps_nan():
    w = np.eye(3, dtype=np.float32)
    y = oc.linear(np.array([[-0.0, np.nan, -1.0]], np.float32), w, activation="relu")
    assert not np.signbit(y[0, [0, 2]]).any()
    assert np.isnan(y[0, 1])


def test_a_float16_qtensor_is_an_input_too(rng):
    x, w, b = case(rng, 2, 3, 4)
    x_q = oc.quantize(x, "float16")
    assert np.array_equal(oc.linear(x_q, w, b), oc.linear(x_q.dequantize(), w, b))


# --- out -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("isa")
def test_out_is_written_and_returned(rng):
    x, w, b = case(rng, 5, 33, 64)
    p = STATIC[0]
    for options, dtype in (
        ({}, np.float32),
        ({"x_qparams": p}, np.float32),
        ({"x_qparams": p, "out_dtype": "int32"}, np.int32),
        ({"x_qparams": p, "out_qparams": OUT[0]}, np.uint8),
        ({"out_qparams": OUT[1]}, np.int8),
    ):
        out = np.empty((5, 33), dtype)
        assert oc.linear(x, w, b, out=out, **options) is out
        y = oc.linear(x, w, b, **options)
        assert np.array_equal(out, y.codes() if isinstance(y, oc.QTensor) else y)
        strided = np.zeros((5, 66), dtype)
        assert np.array_equal(oc.linear(x, w, b, out=strided[:, ::2], **options), out)
        assert not strided[:, 1::2].any()


# --- the cache -----------------------------------------------------------------------------------


def test_operators_are_cached_by_everything_that_matters(rng):
    x, w, b = case(rng, 2, 3, 4)
    calls = [
        (x, None, {}),
        (x, b, {}),
        (x, b, {"x_qparams": STATIC[0]}),
        (x, b, {"x_qparams": STATIC[0], "activation": "relu"}),
        (x, b + 1, {"x_qparams": STATIC[0], "activation": "relu"}),
        (x, b, {"x_qparams": STATIC[0], "out_dtype": "int32"}),
        (x, b, {"x_qparams": STATIC[0], "out_qparams": OUT[0]}),
        (x, b, {"x_qparams": STATIC[2], "out_qparams": OUT[0]}),
    ]

    def run(w):
        results = [oc.linear(x, w, bias, **options) for x, bias, options in calls]
        return [r.dequantize() if isinstance(r, oc.QTensor) else r for r in results]

    fresh = [run(oc.QTensor(w.codes(), w.scale, axis=0))[i] for i in range(len(calls))]
    for _ in range(2):
        assert all(np.array_equal(a, b) for a, b in zip(run(w), fresh, strict=True))
    assert len(w._prepared.operators) == 4  # bounded
    kept = dict(w._prepared.operators)
    run_last = calls[-1]
    oc.linear(run_last[0], w, run_last[1].copy(), **run_last[2])
    assert w._prepared.operators == kept


# --- errors --------------------------------------------------------------------------------------

X = np.ones((2, 4), np.float32)
W = oc.quantize(np.ones((3, 4)), axis=0)
G = oc.quantize(np.ones((3, 4)), axis=0, group_size=2)
F = np.ones((3, 4), np.float32)
P = oc.QParams(0.5, 128)
B = np.ones(3, np.float32)
B32 = np.ones(3, np.int32)
ERRORS = {
    "w 1-D": ((X, F[0]), {}, ValueError, r"w has 1 dimensions, expected 2: \(out, in\)"),
    "w integer": ((X, F.astype(np.int8)), {}, TypeError, r"w is int8, expected .*, or a QTensor"),
    "w per input": (
        (X, oc.quantize(F, axis=1)),
        {},
        ValueError,
        r"scale of w varies along axis 1, .*quantize it with axis=0, or pass w\.T",
    ),
    "w grouped along outputs": (
        (X, oc.quantize(F, axis=1, group_size=2)),
        {},
        ValueError,
        r"scale of w varies along axis 1",
    ),
    "x length": ((X[:, :3], W), {}, ValueError, r"in_features=4, x has 3; they must be equal"),
    "x length, float w": ((X[:, :3], F), {}, ValueError, r"w has in_features=4, x has 3"),
    "x int64": (
        (X.astype(np.int64), W),
        {},
        TypeError,
        r"x is int64, expected .*, or int8 or uint8",
    ),
    "x uint8 alone": (
        (X.astype(np.uint8), W),
        {},
        ValueError,
        r"x is uint8 without x_qparams; expected how to read it",
    ),
    "x int8 read as uint8": (
        (X.astype(np.int8), W),
        {"x_qparams": P},
        TypeError,
        r"x is int8, x_qparams has uint8; expected the same",
    ),
    "x of another scale": (
        (oc.quantize(X), W),
        {"x_qparams": P},
        ValueError,
        r"x has QParams\(.*\), expected x_qparams=QParams\(0\.5, 128, 'uint8'\)",
    ),
    "x in groups": (
        (oc.quantize(X, axis=0, group_size=2), W),
        {},
        ValueError,
        r"x has None, expected x_qparams=None; dequantize x",
    ),
    "x per channel": (
        (oc.quantize(X, axis=1), W),
        {},
        ValueError,
        r"x_qparams has axis=1, expected one scale for the whole array",
    ),
    "x of 4 bits": (
        (oc.quantize(X, "int4"), W),
        {},
        ValueError,
        r"x_qparams has dtype int4, expected int8 or uint8",
    ),
    "x_qparams a number": (
        (X, W),
        {"x_qparams": 0.5},
        TypeError,
        r"x_qparams is float, expected octavo\.QParams",
    ),
    "out_qparams per channel": (
        (X, W),
        {"out_qparams": oc.QParams([1.0], axis=0)},
        ValueError,
        r"out_qparams has axis=0, expected one scale",
    ),
    "out_qparams of 4 bits": (
        (X, W),
        {"out_qparams": oc.QParams(1.0, dtype="uint4")},
        ValueError,
        r"out_qparams has dtype uint4",
    ),
    "out_dtype": (
        (X, W),
        {"out_dtype": "int8"},
        ValueError,
        r"out_dtype is 'int8', expected 'float32', 'int32' or None",
    ),
    "out_dtype twice": (
        (X, W),
        {"out_dtype": "int32", "out_qparams": P, "x_qparams": P},
        ValueError,
        r"out_dtype is 'int32' and out_qparams is given; expected one of them",
    ),
    "int32 without a scale": (
        (X, W),
        {"out_dtype": "int32"},
        ValueError,
        r"out_dtype is 'int32' without x_qparams; expected the scale of x",
    ),
    "int32 of groups": (
        (X, G),
        {"out_dtype": "int32", "x_qparams": P},
        ValueError,
        r"out_dtype is 'int32' with grouped weights, expected 'float32'",
    ),
    "int32 of floats": (
        (X, F),
        {"out_dtype": "int32"},
        ValueError,
        r"out_dtype is 'int32' with float weights",
    ),
    "int32 and relu": (
        (X, W),
        {"out_dtype": "int32", "x_qparams": P, "activation": "relu"},
        ValueError,
        r"activation is given with out_dtype='int32'; expected None",
    ),
    "bias length": ((X, W, B[:2]), {}, ValueError, r"bias has shape \(2,\), expected \(3,\)"),
    "bias int64": (
        (X, W, [1, 2, 3]),
        {},
        TypeError,
        r"bias is int64, expected float32, or int32 at x_scale \* w_scale",
    ),
    "bias NaN": ((X, W, [1, np.nan, 3]), {}, ValueError, r"bias holds NaN or infinity"),
    "int32 bias, dynamic": (
        (X, W, B32),
        {},
        TypeError,
        r"bias is int32 without x_qparams; expected float32",
    ),
    "int32 bias, groups": ((X, G, B32), {}, TypeError, r"bias is int32 with grouped weights"),
    "int32 bias, floats": ((X, F, B32), {}, TypeError, r"bias is int32 with float weights"),
    "activation": (
        (X, W),
        {"activation": "gelu"},
        ValueError,
        r"activation is 'gelu', expected 'relu', 'relu6', \('clip', lo, hi\) or None",
    ),
    "clip short": ((X, W), {"activation": ("clip", 1)}, ValueError, r"activation is \('clip', 1\)"),
    "clip crossed": (
        (X, W),
        {"activation": ("clip", 1, 0)},
        ValueError,
        r"clip has bounds 1\.0 and 0\.0, expected lo <= hi",
    ),
    "clip NaN": ((X, W), {"activation": ("clip", np.nan, 0)}, ValueError, r"clip has bounds nan"),
    "clip at infinity": (
        (X, W),
        {"activation": ("clip", np.inf, np.inf)},
        ValueError,
        r"clip has bounds inf and inf",
    ),
    "out dtype": ((X, W), {"out": np.empty((2, 3))}, (TypeError, ValueError), r"out .*float"),
    "out shape": ((X, W), {"out": np.empty((3, 2), np.float32)}, ValueError, r"out .*\(3, 2\)"),
    "out no array": ((X, F), {"out": [1]}, TypeError, r"out must be a numpy\.ndarray, got list"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_linear_refuses(name):
    args, options, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        oc.linear(*args, **options)
