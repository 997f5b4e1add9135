"""Float functions, softmax and norms against float64, on every instruction set; ONNX's own cases."""

import functools
import importlib.util
import math
import os
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import octavo as oc
from octavo import _core, nn

HAS_ONNX = importlib.util.find_spec("onnx") is not None
IN_QEMU = os.environ.get("OCTAVO_IN_QEMU") == "1"


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def each(function):
    return lambda x: np.array([function(float(v)) for v in x.ravel()]).reshape(x.shape)


def exact_exp(x):
    return math.exp(min(x, 100.0))


def exact_sigmoid(x):
    e = math.exp(-abs(x)) if abs(x) < 700 else 0.0
    return (e if x < 0 else 1) / (1 + e)


def exact_gelu(x):
    tail = abs(x) * math.erfc(abs(x) / math.sqrt(2)) / 2
    return max(x, 0.0) - tail


def exact_gelu_tanh(x):
    return x * exact_sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))


# Name: function, in float64, units in the last place, or so much if that is more.
FUNCTIONS = {
    "exp": (nn.exp, each(exact_exp), 1.1, 0),
    "erf": (nn.erf, each(math.erf), 3, 0),
    "tanh": (nn.tanh, each(math.tanh), 2, 0),
    "sigmoid": (nn.sigmoid, each(exact_sigmoid), 3, 0),
    "silu": (nn.silu, each(lambda x: x * exact_sigmoid(x)), 4, 2.0**-140),
    "gelu": (nn.gelu, each(exact_gelu), 2, 2.0**-23),
    "gelu_tanh": (
        functools.partial(nn.gelu, approximate="tanh"),
        each(exact_gelu_tanh),
        3,
        2.0**-23,
    ),
}
LIMITS = {  # at -infinity and +infinity
    "exp": (0.0, math.inf),
    "erf": (-1.0, 1.0),
    "tanh": (-1.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "silu": (-0.0, math.inf),
    "gelu": (-0.0, math.inf),
    "gelu_tanh": (-0.0, math.inf),
}


@functools.cache
def all_exponents():
    """Finite float32 of every exponent and sign, and more where functions are neither 0 nor 1."""
    step = 1_000_003 if IN_QEMU else 200_003
    x = np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = np.random.default_rng(5).uniform(-20, 20, 1000 if IN_QEMU else 20000)
    return np.concatenate([x[np.isfinite(x)], near.astype(np.float32)])


def bits(x):
    """Comparable bytes: NaN is NaN, whatever its sign and payload."""
    return np.where(np.isnan(x), np.float32(np.nan), x).tobytes()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_keep_their_bounds_at_every_exponent(name):
    function, exact, ulps, least = FUNCTIONS[name]
    x = all_exponents()
    y, wanted = function(x), exact(x)
    with np.errstate(over="ignore"):
        nearest = wanted.astype(np.float32)
    beyond = np.isinf(nearest)
    assert (y[beyond] == nearest[beyond]).all()
    bound = np.maximum(np.abs(np.spacing(nearest[~beyond])).astype(float) * ulps, least)
    error = np.abs(y[~beyond] - wanted[~beyond]) / bound
    assert error.max() <= 1, x[~beyond][error.argmax()]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_at_zero_infinity_and_nan(name):
    function = FUNCTIONS[name][0]
    at = np.array([-math.inf, math.inf, math.nan, 0.0, -0.0], np.float32)
    at_zero = {"exp": 1.0, "sigmoid": 0.5}.get(name)
    zeros = (0.0, -0.0) if at_zero is None else (at_zero, at_zero)
    assert bits(function(at)) == bits(np.array([*LIMITS[name], math.nan, *zeros], np.float32))


def calls(x, rng):
    """Every operator on rows of x, of 3 axes."""
    weight, bias = rng.standard_normal((2, x.shape[-1]), dtype=np.float32)
    by_channel = rng.standard_normal((2, x.shape[1]), dtype=np.float32)
    keep = rng.random(x.shape[1:]) > 0.3
    return {
        **{name: functools.partial(function[0], x) for name, function in FUNCTIONS.items()},
        "softmax": functools.partial(nn.softmax, x),
        "softmax of axis 1": functools.partial(nn.softmax, x, 1, keep),
        "layer_norm": functools.partial(nn.layer_norm, x, weight, bias),
        "layer_norm of 2 axes": functools.partial(nn.layer_norm, x, axis=1),
        "rms_norm": functools.partial(nn.rms_norm, x, weight),
        "group_norm": functools.partial(nn.group_norm, x, 2, *by_channel),
        "instance_norm": functools.partial(nn.instance_norm, x, *by_channel),
    }


@pytest.mark.parametrize("name", calls(np.zeros((1, 2, 1), np.float32), np.random.default_rng()))
@pytest.mark.parametrize("shape", [(3, 4, 1), (2, 6, 77), (5, 130, 300)])
def test_the_same_bits_for_every_instruction_set_and_number_of_threads(rng, name, shape):
    x = (rng.standard_normal(shape) * 4).astype(np.float32)
    x[0, 0, 0], x[-1, -1, -1] = -np.inf, np.nan
    call = calls(x, rng)[name]
    results = set()
    for isa in oc.runtime.available_isas():
        for threads in (1, 2, 8):
            with oc.runtime.force_isa(isa), oc.threads(threads):
                results.add(bits(call()))
                assert oc.runtime.last_kernel().startswith(f"{isa}/")
    assert len(results) == 1


LAYOUTS = {
    "fortran": np.asfortranarray,
    "reversed": lambda x: x[::-1, :, ::-1].copy()[::-1, :, ::-1],
    "every other": lambda x: np.repeat(np.repeat(x, 2, axis=1), 3, axis=2)[:, ::2, ::3],
    "moved": lambda x: np.ascontiguousarray(x.transpose(2, 0, 1)).transpose(1, 2, 0),
    "sliced": lambda x: np.concatenate([x, x], axis=2)[:, :, : x.shape[2]],
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.float32, offset=1).reshape(
        x.shape
    ),
    "float16": lambda x: x.astype(np.float16),
    "float64": lambda x: x.astype(np.float64),
}


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_what_rows_side_by_side_give(layout):
    x = np.random.default_rng(1).standard_normal((3, 4, 37)).astype(np.float16).astype(np.float32)
    given = LAYOUTS[layout](x)
    assert (given == x).all()
    plain = calls(x, np.random.default_rng(2))
    for name, call in calls(given, np.random.default_rng(2)).items():
        wanted = plain[name]()
        assert wanted.dtype == np.float32
        assert np.array_equal(call(), wanted), name
        for target in ("fortran", "reversed", "every other", "moved", "sliced"):
            out = LAYOUTS[target](np.full_like(x, 7))
            assert call(out=out) is out
            assert np.array_equal(out, wanted), (name, target)


@pytest.mark.usefixtures("isa")
def test_long_strided_arrays_are_taken_in_pieces(rng):
    x = rng.standard_normal(30011, dtype=np.float32)
    assert np.array_equal(nn.exp(np.repeat(x, 2)[::2]), nn.exp(x))
    assert np.array_equal(nn.exp(x[::-1])[::-1], nn.exp(x))


@pytest.mark.usefixtures("isa")
def test_an_array_that_repeats_itself_is_read_where_it_lies(rng):
    x = np.broadcast_to(rng.standard_normal((1, 5, 1), dtype=np.float32), (3, 5, 9))
    assert np.array_equal(nn.softmax(x, 1), nn.softmax(x.copy(), 1))
    assert np.array_equal(nn.softmax(x), np.full(x.shape, np.float32(1) / np.float32(9)))


@pytest.mark.parametrize("threads", [1, 2])
def test_calls_with_out_allocate_nothing(rng, threads):
    x = rng.standard_normal((4, 64, 96), dtype=np.float32)
    mask = rng.random((64, 96)) > 0.1
    given, out = x.transpose(0, 2, 1), np.empty((64, 4, 96), np.float32).transpose(1, 2, 0)
    with oc.threads(threads):
        run = [
            lambda: nn.gelu(given, out=out),
            lambda: nn.softmax(given, 1, mask.T, out=out),
            lambda: nn.softmax(given, 2, out=out),
            lambda: nn.layer_norm(given, out=out),
        ]
        for call in run * 10:
            call()
        for call in run:
            tracemalloc.start()
            call()
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < 1500


# --- softmax -------------------------------------------------------------------------------------


def exact_softmax(x, axis, mask=None):
    if mask is not None:  # added in float32
        x = np.where(mask, x, -np.inf) if mask.dtype == np.bool_ else x + mask.astype(np.float32)
    x = x.astype(np.float64)
    most = x.max(axis=axis, keepdims=True, initial=-np.inf)
    e = np.exp(x - np.where(np.isinf(most), 0, most))
    total = e.sum(axis=axis, keepdims=True)
    return np.divide(e, total, out=np.zeros_like(e), where=total > 0)


@given(data=st.data())
def test_softmax_of_any_axis_and_mask(data):
    shape = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=4))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    kind = data.draw(st.sampled_from(["none", "bool", "float", "float64"]))
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(shape) * 10).astype(np.float32)
    mask = None
    if kind != "none":
        kept = data.draw(st.integers(0, len(shape)))
        parts = [n if rng.random() < 0.6 else 1 for n in shape[kept:]]
        mask = rng.random(parts) > 0.4
        if kind != "bool":
            mask = np.where(mask, rng.standard_normal(parts), -np.inf)
            mask = mask.astype("float32" if kind == "float" else "float64")
    y = nn.softmax(x, axis, mask)
    assert y.shape == x.shape
    assert np.allclose(y, exact_softmax(x, axis, mask), rtol=1e-5, atol=1e-37)
    moved = None if mask is None else np.moveaxis(np.broadcast_to(mask, shape), axis, -1)
    assert np.array_equal(
        nn.softmax(np.moveaxis(x, axis, -1), mask=moved), np.moveaxis(y, axis, -1)
    )


@pytest.mark.usefixtures("isa")
def test_softmax_where_nothing_takes_part_is_zero():
    x = np.array([[1, 2], [-np.inf, -np.inf], [3, np.nan], [np.inf, 0]], np.float32)
    keep = np.array([[False, False], [True, True], [True, False], [False, True]])
    assert np.array_equal(nn.softmax(x, mask=keep), [[0, 0], [0, 0], [1, 0], [0, 1]])
    added = np.where(keep, 0, -np.inf).astype(np.float32)
    assert np.array_equal(nn.softmax(x[:2], mask=added[:2]), np.zeros((2, 2)))
    # The mask alone is what is masked: adding it first is the same.
    assert np.array_equal(nn.softmax(x[:2] + added[:2]), np.zeros((2, 2)))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 63, 64, 65, 200])
def test_softmax_of_nan_or_infinity_is_nan_in_that_row_alone(n):
    x = np.zeros((4, n), np.float32)
    x[1, n // 2], x[2, -1] = np.nan, np.inf
    y = nn.softmax(x)
    assert np.isnan(y[1:3]).all()
    assert np.array_equal(y[[0, 3]], np.full((2, n), np.float32(1) / np.float32(n)))


@pytest.mark.usefixtures("isa")
def test_softmax_of_great_values_does_not_overflow():
    x = np.array([[3e38, -3e38, 3e38], [-3e38, -3e38, -np.inf]], np.float32)
    assert np.array_equal(nn.softmax(x), [[0.5, 0, 0.5], [0.5, 0.5, 0]])


@pytest.mark.usefixtures("isa")
def test_rows_of_one_value_and_none(rng):
    nn.exp(np.zeros(1, np.float32))  # a kernel of this instruction set, whatever follows
    x = rng.standard_normal((5, 1), dtype=np.float32)
    assert np.array_equal(nn.softmax(x), np.ones((5, 1)))
    assert np.array_equal(nn.softmax(x, 0).ravel(), nn.softmax(x.ravel()))
    assert np.array_equal(nn.layer_norm(x), np.zeros((5, 1)))
    for shape in [(0,), (0, 3), (3, 0), (2, 0, 3)]:
        empty = np.empty(shape, np.float32)
        for call in (nn.exp, nn.softmax, nn.layer_norm, nn.rms_norm):
            assert call(empty).shape == shape
    for shape in [(0, 4, 3), (2, 4, 0)]:
        assert nn.group_norm(np.empty(shape, np.float32), 2).shape == shape
    assert nn.instance_norm(np.empty((2, 0, 3), np.float32)).shape == (2, 0, 3)
    assert nn.gelu(np.float32(100.0)).shape == ()


# --- norms ---------------------------------------------------------------------------------------


def exact_norm(x, axes, eps, *, centred=True):
    x = x.astype(np.float64)
    d = x - x.mean(axis=axes, keepdims=True) if centred else x
    return d / np.sqrt((d * d).mean(axis=axes, keepdims=True) + eps)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("axis", [-1, 1, 0, -2])
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 3, 200), (4, 64, 1)])
def test_layer_and_rms_norm_against_float64(rng, shape, axis):
    x = (rng.standard_normal(shape) * 3 + 1).astype(np.float32)
    weight, bias = rng.standard_normal((2, *shape[axis:]), dtype=np.float32)
    axes = tuple(range(axis % 3, 3))
    plain = exact_norm(x, axes, 1e-3)
    for w, b in [(None, None), (weight, None), (None, bias), (weight, bias)]:
        wanted = plain * (1 if w is None else w) + (0 if b is None else b)
        assert np.allclose(nn.layer_norm(x, w, b, axis=axis, eps=1e-3), wanted, atol=3e-5)
    plain = exact_norm(x, axes, 1e-3, centred=False)
    assert np.allclose(nn.rms_norm(x, weight, axis=axis, eps=1e-3), plain * weight, atol=1e-6)
    assert np.allclose(nn.rms_norm(x, axis=axis, eps=1e-3), plain, atol=1e-6)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", [(2, 6), (3, 6, 5), (2, 6, 9, 11)])
def test_group_and_instance_norm_against_float64(rng, shape):
    x = rng.standard_normal(shape, dtype=np.float32)
    weight, bias = rng.standard_normal((2, 6), dtype=np.float32)
    per_channel = (slice(None), *[None] * (len(shape) - 2))
    for groups in (1, 2, 3, 6):
        rows = x.reshape(shape[0], groups, -1)
        plain = exact_norm(rows, -1, 1e-5).reshape(shape)
        assert np.allclose(nn.group_norm(x, groups), plain, atol=1e-5)
        assert np.array_equal(nn.group_norm(x, groups).reshape(rows.shape), nn.layer_norm(rows))
        wanted = plain * weight[per_channel] + bias[per_channel]
        assert np.allclose(nn.group_norm(x, groups, weight, bias), wanted, atol=1e-5)
    assert np.array_equal(nn.instance_norm(x, weight, bias), nn.group_norm(x, 6, weight, bias))


@pytest.mark.usefixtures("isa")
def test_norms_of_constant_and_not_finite_rows():
    x = np.array([[5, 5, 5], [1, np.nan, 2], [1, np.inf, 2], [1, 2, 3]], np.float32)
    y = nn.layer_norm(x)
    assert np.array_equal(y[0], np.zeros(3))
    assert np.isnan(y[1:3]).all()
    assert np.isfinite(y[3]).all()
    assert np.array_equal(nn.rms_norm(np.zeros((1, 3), np.float32)), np.zeros((1, 3)))


# --- sums before norms, codes after them and after softmax ---------------------------------------

NORMS = {"layer_norm": nn.layer_norm, "rms_norm": nn.rms_norm}
CODES = [oc.QParams(1 / 255), oc.QParams(0.05, 100), oc.QParams(0.03, -5, "int8")]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("axis", [-1, 1])
def test_a_residual_is_added_before_the_norm(rng, norm, axis):
    x, residual = rng.standard_normal((2, 3, 4, 37), dtype=np.float32)
    weight = rng.standard_normal(x.shape[axis:], dtype=np.float32)
    norm = NORMS[norm]
    wanted = norm(x + residual, weight, axis=axis)
    assert np.array_equal(norm(x, weight, axis=axis, residual=residual), wanted)
    for layout in ("fortran", "reversed", "every other", "moved", "sliced"):
        given, added = LAYOUTS[layout](x), LAYOUTS[layout](residual)
        out_sum = LAYOUTS[layout](np.full_like(x, 7))
        y = norm(given, weight, axis=axis, residual=added, out_sum=out_sum)
        assert np.array_equal(y, wanted), layout
        assert np.array_equal(out_sum, x + residual), layout
        assert np.array_equal(added, residual), layout
        y = norm(given, weight, axis=axis, residual=added, out_sum=added)
        assert np.array_equal(y, wanted), layout
        assert np.array_equal(added, x + residual), layout


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("qparams", CODES, ids=str)
@pytest.mark.parametrize("shape", [(2, 3), (5, 77), (3, 40, 130), (2, 9000), (0, 3), (3, 1)])
def test_codes_are_those_of_the_quantized_result(rng, qparams, shape):
    x = (rng.standard_normal(shape) * 4).astype(np.float32)
    residual = rng.standard_normal(shape, dtype=np.float32)
    if x.size > 30:
        x[-1, ..., 0] = np.nan
    mask = rng.random(shape[-1]) > 0.3
    calls = [
        functools.partial(nn.softmax, x),
        functools.partial(nn.softmax, x, 0),
        functools.partial(nn.softmax, x, mask=mask),
        functools.partial(nn.softmax, np.asfortranarray(x)),
        functools.partial(nn.layer_norm, x, residual=residual),
        functools.partial(nn.layer_norm, x, axis=0),
        functools.partial(nn.rms_norm, np.repeat(x, 2, axis=-1)[..., ::2]),
    ]
    for call in calls:
        wanted = oc.quantize(call(), qparams=qparams)
        for threads in (1, 2):
            with oc.threads(threads):
                assert call(out_qparams=qparams).equals(wanted)
        out = np.full(shape, 7, qparams.dtype)
        assert call(out_qparams=qparams, out=out) is out
        assert np.array_equal(out, wanted.codes())
        apart = np.full((*shape[:-1], 2 * shape[-1]), 7, qparams.dtype)
        call(out_qparams=qparams, out=apart[..., ::2])
        assert np.array_equal(apart[..., ::2], wanted.codes())


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(3,), (1, 3), (70, 130), (2, 3, 50), (2, 9000), (0, 5)])
def test_rows_are_those_that_a_linear_layer_makes(rng, norm, shape):
    norm = NORMS[norm]
    x = (rng.standard_normal(shape) * 4).astype(np.float32)
    if x.ndim > 1 and len(x) > 1:
        x[1, ..., 0] = np.nan
    real = norm(x)
    rows = norm(x, out_qparams="rows")
    for got, wanted in zip(rows, _core.quantize_rows(real), strict=True):
        assert got.dtype == wanted.dtype
        assert np.array_equal(got, wanted, equal_nan=got.dtype == np.float32)
    w, b = rng.standard_normal((9, shape[-1])), rng.standard_normal(9)
    for options in ({}, {"activation": "relu"}, {"out_qparams": oc.QParams(0.1, 128)}):
        for w_q in (oc.quantize(w, axis=0), oc.quantize(w, "uint8", axis=0, symmetric=False)):
            layer = oc.Linear.from_quantized(w_q, b, **options)
            wanted, got = layer(real), layer(rows)
            if options.get("out_qparams"):
                wanted, got = wanted.codes(), got.codes()
            assert np.array_equal(got, wanted, equal_nan=got.dtype == np.float32)
            out = np.zeros_like(got)
            assert layer(rows, out=out) is out
            assert np.array_equal(out, wanted, equal_nan=got.dtype == np.float32)


def test_rows_of_long_sums_and_of_many_outputs(rng):
    x = rng.standard_normal((300, 40), dtype=np.float32)  # more rows than are finished together
    layer = oc.Linear.from_float(rng.standard_normal((5, 40)), out_qparams=oc.QParams(0.1, 128))
    assert layer(nn.layer_norm(x, out_qparams="rows")).equals(layer(nn.layer_norm(x)))
    x = rng.standard_normal((2, 40000), dtype=np.float32)  # sums that int32 may not hold
    layer = oc.Linear.from_float(np.ones((3, 40000)))
    assert np.array_equal(layer(nn.layer_norm(x, out_qparams="rows")), layer(nn.layer_norm(x)))


# --- rotary embedding ----------------------------------------------------------------------------


def exact_rotary(x, cos, sin, interleaved):
    """Of x (batch, heads, tokens, size) and angles (batch, tokens, pairs), in float64."""
    pairs = cos.shape[-1]
    y = x.astype(np.float64)
    first, second = (
        (np.s_[..., : 2 * pairs : 2], np.s_[..., 1 : 2 * pairs : 2])
        if interleaved
        else (np.s_[..., :pairs], np.s_[..., pairs : 2 * pairs])
    )
    a, b, c, s = y[first].copy(), y[second].copy(), cos[:, None], sin[:, None]
    y[first], y[second] = a * c - b * s, a * s + b * c
    return y


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("size", [2, 8, 9, 33, 64, 128])
def test_rotary_against_float64(rng, interleaved, size):
    x = rng.standard_normal((2, 3, 5, size), dtype=np.float32)
    for pairs in {0, 1, size // 4, size // 2}:
        angles = rng.uniform(0, 7, (50, pairs))
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        positions = rng.integers(0, 50, (2, 5))
        wanted = exact_rotary(x, cos[positions], sin[positions], interleaved)
        y = nn.rotary(x, cos, sin, positions, interleaved=interleaved)
        assert np.allclose(y, wanted, atol=1e-6)
        assert np.array_equal(y[..., 2 * pairs :], x[..., 2 * pairs :])
        given = cos[positions], sin[positions]
        assert np.array_equal(nn.rotary(x, *given, interleaved=interleaved), y)
        flat = np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(2, 5, -1)
        out = np.zeros((2, 5, 2 * 3 * size), np.float32)[..., ::2]
        nn.rotary(flat, *given, interleaved=interleaved, num_heads=3, out=out)
        assert np.array_equal(out.reshape(2, 5, 3, size).transpose(0, 2, 1, 3), y)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_gives_the_same_bits_everywhere(rng, interleaved):
    x = rng.standard_normal((2, 4, 150, 70), dtype=np.float32)
    cos, sin = rng.standard_normal((2, 2, 150, 31), dtype=np.float32)
    results = set()
    for isa in oc.runtime.available_isas():
        for threads in (1, 2, 8):
            with oc.runtime.force_isa(isa), oc.threads(threads):
                for given in (x, np.asfortranarray(x)):
                    results.add(bits(nn.rotary(given, cos, sin, interleaved=interleaved)))
                assert oc.runtime.last_kernel().startswith(f"{isa}/rotate")
    assert len(results) == 1


# --- bad input -----------------------------------------------------------------------------------

X, Y = np.zeros((2, 2, 3), np.float32)
HEADS, ONE = np.zeros((2, 1, 3, 4), np.float32), np.ones((2, 3, 1), np.float32)
ROWS = nn.layer_norm(X, out_qparams="rows")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nn.exp(np.zeros(3, np.int32)), TypeError, "x is int32, expected float16"),
        (lambda: nn.softmax(np.zeros(3, np.complex64)), TypeError, "x is complex64"),
        (lambda: nn.softmax(oc.quantize(X)), TypeError, r"x is a QTensor.*x\.dequantize\(\)"),
        (lambda: nn.layer_norm(X, oc.quantize(X)), TypeError, "weight is a QTensor"),
        (lambda: nn.gelu(X, approximate="erf"), ValueError, "approximate is 'erf', expected"),
        (lambda: nn.softmax(np.float32(1)), ValueError, "at least 1 dimension, got 0"),
        (lambda: nn.softmax(X, 2), ValueError, "axis 2 is out of range for an array of 2"),
        (lambda: nn.softmax(X, -3), ValueError, "axis -3 is out of range"),
        (lambda: nn.softmax(X, mask=np.zeros(3, np.int32)), TypeError, "mask is int32, expected"),
        (lambda: nn.softmax(X, mask=np.ones(2, bool)), ValueError, r"mask has shape \(2,\), x has"),
        (lambda: nn.softmax(X, mask=np.ones((1, 2, 3), bool)), ValueError, "must broadcast"),
        (lambda: nn.layer_norm(X, np.zeros(2, np.float32)), ValueError, r"weight has shape \(2,\)"),
        (
            lambda: nn.layer_norm(X, None, np.zeros((1, 3), np.float32)),
            ValueError,
            "bias has shape",
        ),
        (lambda: nn.layer_norm(X, np.zeros(3, np.int8)), TypeError, "weight is int8"),
        (lambda: nn.layer_norm(X, eps=-1.0), ValueError, "eps must be at least 0 and finite"),
        (lambda: nn.rms_norm(X, eps=math.nan), ValueError, "eps must be .*, got nan"),
        (lambda: nn.layer_norm(X, axis=2), ValueError, "axis 2 is out of range"),
        (lambda: nn.group_norm(X, 2), ValueError, "divide the 3 channels of x, got 2"),
        (lambda: nn.group_norm(X, 0), ValueError, "groups is 0, expected at least 1"),
        (lambda: nn.group_norm(X, 1.0), TypeError, "groups is 1.0, expected an integer"),
        (lambda: nn.group_norm(X[0], 1), ValueError, "at least 2 dimensions"),
        (lambda: nn.instance_norm(X, np.zeros(2, np.float32)), ValueError, "weight has shape"),
        (
            lambda: nn.exp(X, out=np.zeros((3, 2), np.float32)),
            ValueError,
            r"out has shape \(3, 2\)",
        ),
        (lambda: nn.exp(X, out=np.zeros((2, 3))), TypeError, "out has dtype float64"),
        (lambda: nn.exp(X, out=X), ValueError, "out shares memory with an input"),
        (
            lambda: nn.softmax(X, out_qparams=oc.QParams([0.1, 0.2], axis=0)),
            ValueError,
            "out_qparams has axis=0",
        ),
        (lambda: nn.softmax(X, out_qparams="rows"), TypeError, "out_qparams is str, expected"),
        (
            lambda: nn.softmax(X, out_qparams=oc.QParams(0.1), out=np.empty_like(X)),
            TypeError,
            "out has dtype float32, the result has uint8",
        ),
        (lambda: nn.rms_norm(X, out_qparams="row"), ValueError, "out_qparams is 'row', expected"),
        (lambda: nn.rms_norm(X, axis=0, out_qparams="rows"), ValueError, "axis is 0 with out_qp"),
        (
            lambda: nn.rms_norm(X, out_qparams="rows", out=np.empty((2, 3), np.uint8)),
            ValueError,
            "out is given with",
        ),
        (lambda: nn.layer_norm(X, residual=X[:1]), ValueError, r"residual has shape \(1, 3\), x"),
        (lambda: nn.layer_norm(X, residual=X.astype(int)), TypeError, "residual is int64"),
        (lambda: nn.layer_norm(X, out_sum=X.copy()), ValueError, "out_sum is given without"),
        (
            lambda: nn.layer_norm(X, residual=X.copy(), out_sum=X),
            ValueError,
            "shares memory with an input",
        ),
        (lambda: nn.layer_norm(X, residual=Y, out_sum=Y[:]), ValueError, "that array itself"),
        (
            lambda: nn.layer_norm(X, residual=Y, out_sum=Y, out=Y),
            ValueError,
            "out shares memory",
        ),
        (
            lambda: oc.Linear.from_float(X, precision="int4/32")(ROWS),
            ValueError,
            "expected precision 'int8' and no x_qparams",
        ),
        (
            lambda: oc.Linear.from_float(X, x_qparams=oc.QParams(1.0))(ROWS),
            ValueError,
            "x_qparams=.* cannot take; expected precision 'int8'",
        ),
        (
            lambda: oc.Linear.from_float(X)(ROWS._replace(scale=np.ones(3, np.float32))),
            ValueError,
            r"scale has shape \(3,\), expected \(2,\)",
        ),
        (
            lambda: oc.Linear.from_float(X)(ROWS._replace(zero_point=np.full(2, 256, np.int32))),
            ValueError,
            r"zero_point must be in \[0, 255\], got 256",
        ),
        (
            lambda: oc.Linear.from_float(X)(ROWS._replace(codes=ROWS.codes.view(np.int8))),
            TypeError,
            "must be uint8",
        ),
        (lambda: nn.rotary(X, X, X), ValueError, r"x has shape \(2, 3\) with num_heads=None"),
        (lambda: nn.rotary(HEADS, ONE, ONE[:, :1]), ValueError, r"sin has shape \(2, 1, 1\)"),
        (lambda: nn.rotary(HEADS, ONE, ONE, [[0, 1, 2]] * 2), ValueError, "expected .positions"),
        (
            lambda: nn.rotary(HEADS, ONE[0], ONE[0], [[0, 1, 3]] * 2),
            ValueError,
            "position_ids holds 3, expected at least 0 and below .* 3",
        ),
        (
            lambda: nn.rotary(HEADS, ONE[0], ONE[0], [[0, -1, 2]] * 2),
            ValueError,
            "position_ids holds -1",
        ),
        (
            lambda: nn.rotary(HEADS, ONE[0], ONE[0], [[0, 1]]),
            ValueError,
            r"position_ids has shape \(1, 2\)",
        ),
        (lambda: nn.rotary(HEADS, ONE[0], ONE[0], [[0.0]]), TypeError, "position_ids is float64"),
        (
            lambda: nn.rotary(HEADS, np.ones((2, 3, 3)), np.ones((2, 3, 3))),
            ValueError,
            "cos has 3 pairs of values, heads have 4",
        ),
        (lambda: nn.rotary(HEADS, ONE, ONE, num_heads=3), ValueError, "num_heads=3"),
        (lambda: nn.rotary(HEADS, ONE, ONE, out=HEADS), ValueError, "out shares"),
        (lambda: nn.rotary(HEADS, ONE, ONE, out=HEADS[:1]), ValueError, "out has shape"),
        (lambda: nn.rotary(HEADS, ONE, ONE, out=[1]), TypeError, "out is list"),
        (lambda: nn.softmax(X, out=np.broadcast_to(X[:1], (2, 3))), ValueError, "read-only"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- ONNX's cases --------------------------------------------------------------------------------


def affine(inputs):
    return (*inputs, None, None)[:3]


OPERATORS = {
    "Exp": lambda _, x: nn.exp(x),
    "Erf": lambda _, x: nn.erf(x),
    "Tanh": lambda _, x: nn.tanh(x),
    "Sigmoid": lambda _, x: nn.sigmoid(x),
    "Gelu": lambda a, x: nn.gelu(x, approximate=a.get("approximate", b"none").decode()),
    "Softmax": lambda a, x: nn.softmax(x, a.get("axis", -1)),
    "LayerNormalization": lambda a, *inputs: nn.layer_norm(
        *affine(inputs), axis=a.get("axis", -1), eps=a.get("epsilon", 1e-5)
    ),
    "RMSNormalization": lambda a, x, weight: nn.rms_norm(
        x, weight, axis=a.get("axis", -1), eps=a.get("epsilon", 1e-5)
    ),
    "GroupNormalization": lambda a, x, weight, bias: nn.group_norm(
        x, a["num_groups"], weight, bias, eps=a.get("epsilon", 1e-5)
    ),
    "RotaryEmbedding": lambda a, x, cos, sin, *positions: nn.rotary(
        x,
        cos,
        sin,
        *positions,
        interleaved=bool(a.get("interleaved", 0)),
        num_heads=a.get("num_heads"),
    ),
    "InstanceNormalization": lambda a, x, weight, bias: nn.instance_norm(
        x, weight, bias, eps=a.get("epsilon", 1e-5)
    ),
}


@functools.cache
def onnx_cases(operator):
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other operators' cases overflow and divide by zero
        cases = collect_testcases(None)
    return [
        case
        for case in cases
        if [node.op_type for node in case.model.graph.node] == [operator]
        and not case.model.functions
    ]


@pytest.mark.skipif(not HAS_ONNX, reason="ONNX's node cases are not run without onnx")
@pytest.mark.skipif(IN_QEMU, reason="onnx computes all its cases first, which takes minutes")
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("operator", OPERATORS)
def test_onnx_node_cases(operator):
    import onnx

    cases = onnx_cases(operator)
    assert cases
    for case in cases:
        (node,) = case.model.graph.node
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        for inputs, wanted in case.data_sets:
            y = OPERATORS[operator](attributes, *map(as_array, inputs))
            expected = as_array(wanted[0])
            assert y.shape == expected.shape, case.name
            assert np.allclose(y, expected, rtol=2e-6, atol=1e-5), case.name


def as_array(value):
    from onnx import TensorProto, numpy_helper

    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
