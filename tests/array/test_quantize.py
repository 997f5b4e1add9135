import pickle
import warnings

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import octavo as oc

DTYPES = ["int8", "uint8", "int4", "uint4"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# --- given parameters ----------------------------------------------------------------------------


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
def test_rounds_half_to_even_and_saturates_at_the_full_range(dtype):
    qmin, qmax = reference.RANGES[dtype]
    x = np.array([0.25, 0.75, 1.25, -0.25, -0.75, 1e9, -1e9, np.inf, -np.inf, np.nan], np.float32)
    zero_point = 1
    q = oc.quantize(x, dtype, scale=0.5, zero_point=zero_point).codes()
    low = max(qmin, zero_point - 2)
    wanted = [1, 3, 3, 1, max(low, zero_point - 2), qmax, qmin, qmax, qmin, 1]
    assert q.tolist() == wanted


@given(
    x=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=20),
        elements=st.floats(width=32),
    ),
    dtype=st.sampled_from(DTYPES),
    scale=st.floats(2.0**-100, 2.0**100, width=32),
    data=st.data(),
)
def test_given_scales_follow_the_rule(x, dtype, scale, data):
    axis = data.draw(st.none() | st.integers(-x.ndim, x.ndim - 1))
    shape = () if axis is None else (x.shape[axis],)
    scales = np.full(shape, scale, np.float32)
    zero_points = data.draw(
        hnp.arrays(np.int32, shape, elements=st.integers(*reference.RANGES[dtype]))
    )
    q = oc.quantize(x, dtype, axis=axis, scale=scales, zero_point=zero_points)
    assert np.array_equal(q.codes(), reference.quantize(x, scales, zero_points, dtype, axis))
    back = reference.dequantize(q.codes(), scales, zero_points, axis)
    assert np.array_equal(q.dequantize(), back)
    assert np.array_equal(oc.dequantize(q.codes(), q.qparams), back)


@pytest.mark.usefixtures("isa")
def test_huge_values_saturate_in_every_lane():
    q = oc.quantize(np.full(10, 2.0**32, np.float32), "int8", scale=0.5, zero_point=1)
    assert q.codes().tolist() == [127] * 10


@pytest.mark.usefixtures("isa")
def test_division_not_multiplication_by_the_reciprocal(rng):
    scale = np.float32(0.0123)
    x = ((rng.integers(-128, 127, 4096) + 0.5).astype(np.float32) * scale).astype(np.float32)
    by_reciprocal = np.clip(np.rint(x * (np.float32(1) / scale)), -128, 127)
    q = oc.quantize(x, scale=scale).codes()
    assert np.array_equal(q, reference.quantize(x, scale, 0, "int8"))
    assert (q != by_reciprocal).any()


def test_qparams_decide_dtype_axis_and_numbers(rng):
    x = rng.standard_normal((3, 4), np.float32)
    p = oc.QParams([0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4], "uint8", axis=-1)
    q = oc.quantize(x, qparams=p)
    assert (q.dtype, q.axis) == ("uint8", 1)
    assert np.array_equal(q.codes(), reference.quantize(x, p.scale, p.zero_point, "uint8", -1))
    assert q.qparams == oc.QParams(p.scale, p.zero_point, "uint8", axis=1)
    for same in (q.qparams, oc.QParams(0.1)):
        assert oc.quantize(x, qparams=same).qparams is same


# --- chosen parameters ---------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [None, True, False])
def test_chosen_parameters(rng, dtype, axis, symmetric):
    x = (rng.standard_normal((5, 7, 6), np.float32) + 1) * np.float32(3)
    q = oc.quantize(x, dtype, axis=axis, symmetric=symmetric)
    other = tuple(i for i in range(3) if axis is None or i != axis % 3)
    least, greatest = x.min(axis=other), x.max(axis=other)
    if symmetric or (symmetric is None and dtype.startswith("int")):
        limit = {"8": 127, "4": 7}[dtype[-1]]
        scale = np.maximum(-least, greatest) / np.float32(limit)
        zero_point = np.full(scale.shape, 0 if dtype.startswith("int") else limit + 1)
        codes = q.codes().astype(int) - reference.along(zero_point, axis, 3)
        assert codes.min() >= -limit
        assert abs(codes).max() == limit
    else:
        scale, zero_point = reference.asymmetric(least, greatest, dtype)
        qmin, qmax = reference.RANGES[dtype]
        assert (q.codes().min(), q.codes().max()) == (qmin, qmax)
    assert np.array_equal(q.scale, scale)
    assert np.array_equal(q.zero_point, zero_point)
    assert np.array_equal(q.codes(), reference.quantize(x, scale, zero_point, dtype, axis))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_range_is_widened_to_hold_zero(dtype, symmetric):
    for x in ([3.0, 5.0], [-5.0, -3.0]):
        q = oc.quantize(np.array(x, np.float32), dtype, symmetric=symmetric)
        zero = oc.quantize(np.zeros(1, np.float32), qparams=q.qparams)
        assert zero.dequantize().tolist() == [0.0]
        assert np.abs(q.dequantize() - x).max() <= q.scale / 2 + 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_all_zero_gives_scale_one_and_zero_point_zero(dtype, symmetric):
    x = np.array([[0.0, -0.0], [1.0, 2.0]], np.float32)
    q = oc.quantize(x, dtype, axis=0, symmetric=symmetric)
    assert (q.scale[0], q.zero_point[0]) == (1.0, 0)
    assert q.codes()[0].tolist() == [0, 0]
    assert q.scale[1] != 1.0


@pytest.mark.parametrize("symmetric", [True, False])
def test_scales_at_the_ends_of_float32_stay_positive_and_finite(symmetric):
    top = np.finfo(np.float32).max
    q = oc.quantize(np.array([-top, top]), symmetric=symmetric)
    assert np.isfinite(q.scale)
    assert q.codes().tolist() == [-127 if symmetric else -128, 127]
    tiny = oc.quantize(np.array([1e-45, 2e-45], np.float32), symmetric=symmetric)
    assert tiny.scale == np.float32(2.0**-126)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "options",
    [{}, {"axis": 0}, {"axis": 1, "group_size": 2}, {"method": "percentile", "percentile": 100}],
)
def test_parameters_are_not_chosen_from_nan_or_infinity(bad, options):
    x = np.ones((6, 7), np.float32)
    x[3, 5] = bad
    with pytest.raises(ValueError, match=r"NaN or infinit"):
        oc.quantize(x, **options)
    x[3, 5] = 2
    assert oc.quantize(x, **options).scale.max() == np.float32(2) / np.float32(127)


def test_percentile_of_magnitudes_clips_within_symmetric_codes(rng):
    x = rng.standard_normal(2000).astype(np.float32)
    x[:2] = [1000, -1000]
    q = oc.quantize(x, method="percentile", percentile=99.5)
    top = np.percentile(np.abs(x).astype(np.float64), 99.5)
    assert q.scale == np.float32(top) / np.float32(127)
    assert q.codes()[:2].tolist() == [127, -127]
    per_row = oc.quantize(x.reshape(2, -1), axis=0, method="percentile", percentile=99.5)
    top = np.float32(np.percentile(np.abs(x[1000:]).astype(float), 99.5))
    assert per_row.scale[1] == top / np.float32(127)


def test_percentile_of_both_tails(rng):
    x = rng.standard_normal(2000).astype(np.float32)
    q = oc.quantize(x, "uint8", method="percentile", percentile=99)
    low, high = np.percentile(x.astype(np.float64), [1, 99]).astype(np.float32)
    scale, zero_point = reference.asymmetric(low, high)
    assert (q.scale, q.zero_point) == (scale, zero_point)


def test_percentile_100_is_minmax(rng):
    x = rng.standard_normal((4, 70)).astype(np.float32)
    for options in ({}, {"axis": 1}, {"axis": 0, "group_size": 32}, {"axis": 1, "group_size": 3}):
        a = oc.quantize(x, "uint4", **options)
        b = oc.quantize(x, "uint4", **options, method="percentile", percentile=100)
        assert a.equals(b), options
    empty = oc.quantize(x[:0], axis=1, method="percentile")
    assert empty.scale.tolist() == [1.0] * 70


# --- groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("k", "group_size"), [(100, 32), (64, 32), (7, 1), (5, 9), (0, 4)])
def test_groups_are_quantized_each_by_its_own_range(rng, dtype, axis, symmetric, k, group_size):
    rows = rng.standard_normal((3, k)).astype(np.float32)
    x = rows if axis == 0 else rows.T
    q = oc.quantize(x, dtype, axis=axis, group_size=group_size, symmetric=symmetric)
    groups = -(-k // group_size)
    assert q.scale.shape == ((3, groups) if axis == 0 else (groups, 3))
    assert (q.axis, q.group_size, q.qparams) == (axis, group_size, None)
    assert q.codes().flags.c_contiguous
    codes = q.codes() if axis == 0 else q.codes().T
    real = q.dequantize() if axis == 0 else q.dequantize().T
    scales, zero_points = (q.scale, q.zero_point) if axis == 0 else (q.scale.T, q.zero_point.T)
    for n in range(3):
        for g in range(groups):
            part = slice(g * group_size, (g + 1) * group_size)
            alone = oc.quantize(rows[n, part], dtype, symmetric=symmetric)
            assert (alone.scale, alone.zero_point) == (scales[n, g], zero_points[n, g])
            assert np.array_equal(alone.codes(), codes[n, part])
            assert np.array_equal(alone.dequantize(), real[n, part])


def test_given_grouped_scales(rng):
    x = rng.standard_normal((2, 5)).astype(np.float32)
    scale = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], np.float32)
    q = oc.quantize(x, "uint8", axis=0, group_size=2, scale=scale, zero_point=7)
    each = np.repeat(scale, 2, axis=1)[:, :5]
    assert np.array_equal(q.codes(), np.clip(np.rint(x / each), -7, 248) + 7)


# --- inputs as they come -------------------------------------------------------------------------


def odd_inputs():
    x = np.random.default_rng(1).standard_normal((6, 10)).astype(np.float32)
    readonly = x.copy()
    readonly.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.float32, offset=1).reshape(x.shape)
    return {
        "fortran": np.asfortranarray(x),
        "negative strides": x[::-1, ::-1],
        "steps": np.repeat(x, 2, axis=1)[:, ::2],
        "zero strides": np.broadcast_to(x[:1], x.shape),
        "byte-swapped": x.astype(">f4"),
        "unaligned": unaligned,
        "read-only": readonly,
        "float64": x.astype(np.float64),
        "float16": x.astype(np.float16),
        "list": x.tolist(),
        "one value": x[0, 0],
        "empty": x[:0],
    }


@pytest.mark.parametrize("kind", odd_inputs())
@pytest.mark.parametrize("axis", [None, 1])
def test_odd_inputs_give_what_plain_ones_give(kind, axis):
    x = odd_inputs()[kind]
    if np.ndim(x) == 0:
        axis = None
    plain = np.ascontiguousarray(np.asarray(x).astype(np.float32)).reshape(np.shape(x))
    before = pickle.dumps(x)
    assert oc.quantize(x, axis=axis).equals(oc.quantize(plain, axis=axis))
    p = oc.QParams(0.05, 3) if axis is None else oc.QParams(np.full(10, 0.05), 3, axis=1)
    q = oc.quantize(x, qparams=p)
    assert np.array_equal(q.codes(), reference.quantize(plain, 0.05, 3, "uint8"))
    assert pickle.dumps(x) == before


def test_empty_arrays_and_empty_channels():
    q = oc.quantize(np.zeros((0, 3), np.float32))
    assert (q.shape, q.scale, q.zero_point, q.size) == ((0, 3), 1.0, 0, 0)
    assert q.dequantize().shape == (0, 3)
    q = oc.quantize(np.zeros((0, 3), np.float32), "int4", axis=0)
    assert q.scale.shape == (0,)
    assert q.codes().shape == (0, 3)


# --- float16 -------------------------------------------------------------------------------------


def test_float16_rounds_and_has_no_scale():
    x = np.array([0.1, 1 + 2.0**-11, 65504.0, np.nan, np.inf], np.float64)
    q = oc.quantize(x, "float16")
    assert np.array_equal(q.data, x.astype(np.float16), equal_nan=True)
    assert (q.dtype, q.qparams, q.axis, q.scale, q.zero_point) == ("float16", None, None, 1.0, 0)
    assert np.array_equal(q.dequantize(), x.astype(np.float16).astype(np.float32), equal_nan=True)


def test_float16_counts_what_became_infinite():
    with pytest.warns(RuntimeWarning, match=r"2 of 4 values are beyond float16's range \(65504\)"):
        q = oc.quantize(np.array([1e6, -1e6, np.inf, 1]), "float16")
    assert q.data.tolist() == [np.inf, -np.inf, np.inf, 1.0]


def test_no_other_warning_escapes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        oc.quantize(np.array([1e300, np.nan]), scale=1.0)
        oc.quantize(np.array([-3.4e38, 3.4e38]), "uint8")


# --- errors --------------------------------------------------------------------------------------

X = np.ones((4, 6), np.float32)
ERRORS = [
    (X.astype(np.int8), {}, TypeError, r"x is int8, expected float16, .*oc\.QTensor wraps codes"),
    (X, {"dtype": "int16"}, ValueError, r"dtype is 'int16', expected one of int8, uint8, int4"),
    (X, {"axis": 2}, ValueError, r"axis is 2, expected -2 to 1 for 2 dimensions"),
    (X, {"axis": -3}, ValueError, r"axis is -3, expected -2 to 1"),
    (X, {"axis": 0.5}, TypeError, r"float"),
    (X, {"group_size": 2}, ValueError, r"group_size=2 needs the axis to keep: 0 for weights"),
    (X[None], {"group_size": 2, "axis": 0}, ValueError, r"group_size=2 needs 2 dimensions, got 3"),
    (X, {"group_size": 0, "axis": 0}, ValueError, r"group_size is 0, expected at least 1"),
    (X, {"method": "mse"}, ValueError, r"method is 'mse', expected one of minmax, percentile"),
    (
        X,
        {"method": "percentile", "percentile": 50},
        ValueError,
        r"percentile is 50, expected above",
    ),
    (X, {"method": "percentile", "percentile": 101}, ValueError, r"percentile is 101, expected"),
    (X, {"method": "percentile", "percentile": np.nan}, ValueError, r"percentile is nan, expected"),
    (X, {"scale": 0.0}, ValueError, r"scale holds 0\.0, expected positive and finite"),
    (X, {"scale": -1.0}, ValueError, r"scale holds -1\.0"),
    (X, {"scale": np.nan}, ValueError, r"scale holds nan"),
    (X, {"scale": [1.0, 1.0]}, ValueError, r"scale has shape \(2,\), expected \(\) for x of shape"),
    (X, {"scale": [1.0], "axis": 0}, ValueError, r"scale has shape \(1,\), expected \(4,\)"),
    (
        X,
        {"scale": np.ones((4, 3)), "axis": 0, "group_size": 4},
        ValueError,
        r"scale has shape \(4, 3\), expected \(4, 2\) .*group_size=4",
    ),
    (
        X,
        {"scale": 1.0, "zero_point": 128},
        ValueError,
        r"zero_point holds 128, expected -128 to 127",
    ),
    (X, {"scale": 1.0, "zero_point": 1.0}, TypeError, r"zero_point is float64, expected integers"),
    (X, {"scale": 1.0, "zero_point": [1, 1]}, ValueError, r"zero_point has shape \(2,\)"),
    (X, {"zero_point": 1}, ValueError, r"zero_point is given without scale; expected both"),
    (X, {"scale": 1.0, "symmetric": True}, ValueError, r"symmetric given with scale, which leaves"),
    (
        X,
        {"scale": 1.0, "method": "percentile"},
        ValueError,
        r"method given with scale, which leaves",
    ),
    (X, {"qparams": 1.0}, TypeError, r"qparams is float, expected octavo\.QParams"),
    (
        X,
        {"qparams": oc.QParams(1.0), "scale": 1.0, "axis": 0},
        ValueError,
        r"axis, scale given with qparams, which holds them; expected without",
    ),
    (
        X,
        {"qparams": oc.QParams(1.0), "dtype": "int4"},
        ValueError,
        r"dtype is 'int4', qparams has 'uint8'; expected the same",
    ),
    (X, {"qparams": oc.QParams([1.0], axis=5)}, ValueError, r"axis is 5, expected -2 to 1"),
    (X, {"dtype": "float16", "axis": 0}, ValueError, r"axis given with dtype='float16', which has"),
    (np.float32(1), {"axis": 0}, ValueError, r"axis is 0, expected .* for 0 dimensions"),
]


@pytest.mark.parametrize(("x", "options", "error", "message"), ERRORS)
def test_quantize_refuses(x, options, error, message):
    with pytest.raises(error, match=message):
        oc.quantize(x, **options)


# --- dequantize ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("isa")
def test_dequantize_of_a_qtensor_and_of_codes(rng):
    x = rng.standard_normal((5, 9)).astype(np.float32)
    for dtype in DTYPES:
        q = oc.quantize(x, dtype, axis=1, symmetric=False)
        wanted = reference.dequantize(q.codes(), q.scale, q.zero_point, 1)
        assert np.array_equal(oc.dequantize(q), wanted)
        assert np.array_equal(oc.dequantize(q.codes(), q.qparams), wanted)
        assert np.array_equal(oc.dequantize(q.T), wanted.T)
        out = np.empty_like(wanted)
        assert oc.dequantize(q, out=out) is out
        assert np.array_equal(out, wanted)
        assert oc.dequantize(q.codes(), q.qparams, out=out) is out


def test_dequantize_in_groups_writes_to_out(rng):
    for q in (
        oc.quantize(rng.standard_normal((3, 7)), "int4", axis=0, group_size=4),
        oc.quantize(rng.standard_normal((3, 7)), "float16"),
    ):
        out = np.empty((3, 7), np.float32)
        assert q.dequantize(out=out) is out
        assert np.array_equal(out, q.dequantize())


def test_ml_dtypes_codes_are_read_whatever_their_upper_bits():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    raw = np.array([0xF8, 0x08, 0x07, 0x3F], np.uint8)
    p = oc.QParams(1.0, 0, "int4")
    assert oc.dequantize(raw.view(ml_dtypes.int4), p).tolist() == [-8, -8, 7, -1]
    assert oc.QTensor(raw.view(ml_dtypes.int4), 1.0).codes().tolist() == [-8, -8, 7, -1]
    assert oc.QTensor(raw.view(ml_dtypes.uint4), 1.0).codes().tolist() == [8, 8, 7, 15]


Q = oc.QTensor(np.ones((2, 3), np.int8), 0.5)
GROUPED = oc.quantize(np.ones((2, 3)), axis=0, group_size=2)
HALF = oc.quantize(np.ones((2, 3)), "float16")
FROZEN = np.zeros((2, 3), np.float32)
FROZEN.flags.writeable = False
DEQUANTIZE_ERRORS = [
    (
        Q,
        {"qparams": oc.QParams(1.0)},
        ValueError,
        r"qparams given with a QTensor, which has its own",
    ),
    (Q.codes(), {}, ValueError, r"q is an array without qparams; expected how to read it"),
    (
        Q.codes(),
        {"qparams": oc.QParams(1.0)},
        TypeError,
        r"q is int8, expected uint8 codes of uint8",
    ),
    (np.ones(2), {"qparams": oc.QParams(1.0)}, TypeError, r"q is float64, expected uint8 codes"),
    (
        np.array([8], np.int8),
        {"qparams": oc.QParams(1.0, dtype="int4")},
        ValueError,
        r"data holds 8, expected -8 to 7 for int4",
    ),
    (Q.codes(), {"qparams": oc.QParams([1.0], dtype="int8", axis=2)}, ValueError, r"axis is 2"),
    (
        Q.codes(),
        {"qparams": oc.QParams([1.0], dtype="int8", axis=1)},
        ValueError,
        r"scale has shape \(1,\), expected \(3,\) for q of shape \(2, 3\), axis=1",
    ),
] + [
    (q, {"out": out}, error, message)
    for q in (Q, GROUPED, HALF)
    for out, error, message in [
        (np.empty((2, 3)), (TypeError, ValueError), r"out .*float64.*float32"),
        (np.empty((3, 2), np.float32), ValueError, r"out .*\(3, 2\).*\(2, 3\)"),
        (FROZEN, ValueError, r"out .*read-only"),
        ([[0.0]], TypeError, r"out|incompatible"),
    ]
]


@pytest.mark.parametrize(("q", "options", "error", "message"), DEQUANTIZE_ERRORS)
def test_dequantize_refuses(q, options, error, message):
    with pytest.raises(error, match=message):
        oc.dequantize(q, **options)


def test_parameters_need_not_be_aligned():
    x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(4, 3)
    scale, zero_point = np.full(4, 0.02, np.float32), np.array([1, 2, 3, 4], np.int32)
    apart = [
        np.frombuffer(b"\0" + array.tobytes(), array.dtype, offset=1)
        for array in (scale, zero_point)
    ]
    assert not apart[0].flags.aligned
    for dtype in ("int8", "uint8"):
        wanted = oc.quantize(x, dtype, axis=0, scale=scale, zero_point=zero_point)
        q = oc.quantize(x, dtype, axis=0, scale=apart[0], zero_point=apart[1])
        assert q.equals(wanted)
        assert np.array_equal(oc.QTensor(q.codes(), *apart, axis=0).dequantize(), q.dequantize())
