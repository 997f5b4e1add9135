"""Convolutions: functions and operators, on every instruction set, against plain NumPy in int64."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import reference
from conftest import IN_QEMU
from hypothesis import given, settings
from hypothesis import strategies as st

import octavo as oc

X = oc.QParams(0.05, 120)
OUT = oc.QParams(0.3, 17, "int8")


def to_layout(x, layout):
    return x if layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def from_layout(y, layout):
    return y if layout == "NCHW" else y.transpose(0, 3, 1, 2)


@st.composite
def cases(draw):
    size = st.integers(1, 9)
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 8]))
    kind = draw(st.sampled_from(["plain", "depthwise", "transposed"]))
    group_in, group_out = draw(st.sampled_from([1, 2, 3, 5, 16, 33])), draw(size)
    if kind == "depthwise":
        groups, group_in, group_out = draw(st.integers(2, 40)), 1, draw(st.integers(1, 2))
    two = st.tuples(st.integers(1, 3), st.integers(1, 3))
    stride, dilation = draw(two), draw(two)
    side = st.integers(0, 3)
    return {
        "kind": kind,
        "x": (draw(st.integers(1, 2)), groups * group_in, draw(size), draw(size)),
        "groups": groups,
        "group_in": group_in,
        "group_out": group_out,
        "kernel": draw(st.tuples(st.integers(1, 5), st.integers(1, 5))),
        "stride": stride,
        "dilation": dilation,
        "padding": draw(st.tuples(side, side, side, side)),
        "more": tuple(draw(st.integers(0, s - 1)) for s in stride),
        "x_dtype": draw(st.sampled_from(["uint8", "int8"])),
        "w_zero": draw(st.booleans()),
        "layout": draw(st.sampled_from(["NCHW", "NHWC"])),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


@pytest.mark.parametrize("name", oc.runtime.available_isas())
@given(case=cases())
@settings(max_examples=10 if IN_QEMU else 60)
def test_sums_are_exact_for_any_geometry(name, case):
    rng = np.random.default_rng(case["seed"])
    info = np.iinfo(case["x_dtype"])
    x = rng.integers(info.min, info.max + 1, case["x"]).astype(case["x_dtype"])
    zero = int(rng.integers(info.min, info.max + 1))
    is_transposed = case["kind"] == "transposed"
    out = case["groups"] * case["group_out"]
    shape = (
        (case["x"][1], case["group_out"], *case["kernel"])
        if is_transposed
        else (out, case["group_in"], *case["kernel"])
    )
    w = rng.integers(-128, 128, shape).astype(np.int8)
    w_zero = rng.integers(-128, 128, out) if case["w_zero"] and not is_transposed else 0
    bias = rng.integers(-(2**20), 2**20, out).astype(np.int32)
    geometry = (case["stride"], case["padding"], case["dilation"], case["groups"])
    centred = x.astype(np.int64) - zero
    if is_transposed:
        expected = reference.transposed_sums(centred, w, *geometry, case["more"])
    else:
        reach = [(k - 1) * d + 1 for k, d in zip(case["kernel"], case["dilation"], strict=True)]
        top, left, bottom, right = case["padding"]
        fits = x.shape[2] + top + bottom >= reach[0] and x.shape[3] + left + right >= reach[1]
        zeros = np.reshape(w_zero, (-1, 1, 1, 1))
        expected = (
            reference.conv_sums(centred, w.astype(np.int64) - zeros, *geometry) if fits else None
        )
    options = {
        "x_qparams": oc.QParams(1.0, zero, case["x_dtype"]),
        "stride": case["stride"],
        "padding": case["padding"],
        "dilation": case["dilation"],
        "groups": case["groups"],
        "layout": case["layout"],
        "out_dtype": "int32",
    }
    function = oc.conv2d
    if is_transposed:
        function = oc.conv_transpose2d
        options["output_padding"] = case["more"]
    w_q = oc.QTensor(w, np.ones(out) if np.ndim(w_zero) else 1.0, w_zero,
                     axis=0 if np.ndim(w_zero) else None)  # fmt: skip
    with oc.runtime.force_isa(name):
        if expected is None or 0 in expected.shape or min(expected.shape) < 1:
            with pytest.raises(ValueError, match="no output is left"):
                function(to_layout(x, case["layout"]), w_q, bias, **options)
            return
        y = function(to_layout(x, case["layout"]), w_q, bias, **options)
        for threads in (2, 3, 8):
            with oc.threads(threads):
                again = function(to_layout(x, case["layout"]), w_q, bias, **options)
            assert (again == y).all()
    expected = expected + bias.reshape(-1, 1, 1)
    assert y.dtype == np.int32
    assert (from_layout(y, case["layout"]) == expected).all()


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def example(rng, c=12, o=20, k=3, size=9, batch=2):
    w = rng.standard_normal((o, c, k, k)).astype(np.float32)
    bias = rng.standard_normal(o).astype(np.float32)
    x = rng.integers(0, 256, (batch, c, size, size)).astype(np.uint8)
    return x, w, bias


def requantized(sums, multiplier, q, lo=None, hi=None):
    info = np.iinfo(q.dtype)
    least, most = np.float32(info.min - q.zero_point), np.float32(info.max - q.zero_point)
    if lo is not None:
        least = np.clip(np.rint(np.float32(lo) / q.scale), least, most)
    if hi is not None:
        most = np.clip(np.rint(np.float32(hi) / q.scale), least, most)
    v = np.clip(sums.astype(np.float32) * multiplier, least, most)
    return (np.rint(v).astype(np.int64) + q.zero_point).astype(q.dtype)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("activation", [None, "relu", "relu6", ("clip", -1.5, 2.5)])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_quantized_and_float_results_follow_the_rules(rng, activation, layout):
    x, w, bias = example(rng)
    w_q = oc.quantize(w, axis=0)
    scale = np.float64(X.scale) * w_q.scale.astype(np.float64)
    codes = np.rint(bias.astype(np.float64) / scale)
    sums = reference.conv_sums(
        x.astype(np.int64) - 120, w_q.codes(), (1, 1), (1, 1, 1, 1), (1, 1), 1
    )
    column = (1, -1, 1, 1)
    bounds = {None: (None, None), "relu": (0, None), "relu6": (0, 6)}.get(activation, (-1.5, 2.5))
    options = {"x_qparams": X, "padding": 1, "activation": activation, "layout": layout}
    y = oc.conv2d(to_layout(x, layout), w_q, bias, out_qparams=OUT, **options)
    multiplier = (scale / np.float64(OUT.scale)).astype(np.float32).reshape(column)
    expected = requantized(sums + codes.reshape(column).astype(np.int64), multiplier, OUT, *bounds)
    assert (from_layout(y.codes(), layout) == expected).all()
    real = oc.conv2d(to_layout(x, layout), w_q, bias, **options)
    expected = sums.astype(np.float32) * scale.astype(np.float32).reshape(column)
    expected = expected + bias.reshape(column)
    lo, hi = bounds
    expected = np.clip(expected, lo, hi) if activation else expected
    assert (from_layout(real, layout) == expected).all()


@pytest.mark.usefixtures("isa")
def test_dynamic_input_is_quantized_image_by_image(rng):
    _, w, bias = example(rng)
    w_q = oc.quantize(w, axis=0)
    x = rng.standard_normal((3, 12, 7, 8)).astype(np.float32) * [[[[1]]], [[[9]]], [[[0.1]]]]
    x = x.astype(np.float32)
    whole = oc.conv2d(x, w_q, bias, padding="same")
    parts = [oc.conv2d(x[i : i + 1], w_q, bias, padding="same") for i in range(3)]
    assert (whole == np.concatenate(parts)).all()
    exact = oc.conv2d(x, w, bias, padding="same")
    assert np.abs(whole - exact).max() < 0.05 * np.abs(exact).max()
    x[1, 0, 0, 0] = np.nan
    spoilt = oc.conv2d(x, w_q, bias, padding="same")
    assert np.isnan(spoilt[1]).all()
    assert (spoilt[[0, 2]] == whole[[0, 2]]).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("transposed", [False, True])
def test_fusing_a_table_and_a_sum_changes_no_bit(rng, layout, transposed):
    x, w, bias = example(rng, c=20, o=20)
    function = oc.conv_transpose2d if transposed else oc.conv2d
    w_q = oc.quantize(w, axis=1 if transposed else 0)
    pre, total = oc.QParams(0.25, 100), oc.QParams(0.2, 3)
    options = {"x_qparams": X, "padding": 1, "layout": layout}
    x = to_layout(x, layout)
    plain = function(x, w_q, bias, out_qparams=pre, **options)
    activated = oc.nn.activate(plain, "hard_swish", out_qparams=OUT)
    fused = function(
        x, w_q, bias, out_qparams=OUT, pre_qparams=pre, activation="hard_swish", **options
    )
    assert fused.equals(activated)
    second = oc.QTensor(rng.integers(-128, 128, plain.shape).astype(np.int8), 0.4, -7)
    added = oc.nn.add(activated, second, out_qparams=total, activation="relu")
    fused = function(
        x,
        w_q,
        bias,
        out_qparams=OUT,
        pre_qparams=pre,
        activation="hard_swish",
        residual=second,
        sum_qparams=total,
        sum_activation="relu",
        **options,
    )
    assert fused.equals(added)


@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("groups", [1, 4])
def test_float_weights_give_the_same_bits_everywhere(rng, precision, groups):
    w = rng.integers(-8, 9, (20, 12 // groups, 3, 3))
    x = rng.integers(-8, 9, (2, 12, 9, 9))
    expected = reference.conv_sums(x, w, (1, 1), (1, 1, 1, 1), (1, 1), groups)
    layer = oc.Conv2d.from_float(w.astype(np.float32), precision=precision, padding=1,
                                 groups=groups)  # fmt: skip
    noise = rng.standard_normal((2, 12, 9, 9)).astype(np.float32)
    found = set()
    for name in oc.runtime.available_isas():
        with oc.runtime.force_isa(name):
            assert (layer(x.astype(np.float32)) == expected).all()
            for threads in (1, 2, 8):
                with oc.threads(threads):
                    found.add(layer(noise).tobytes())
    assert len(found) == 1


@pytest.mark.usefixtures("isa")
def test_one_dimension_is_two_with_one_row(rng):
    w = oc.QTensor(rng.integers(-128, 128, (5, 4, 3)).astype(np.int8), 0.01)
    x = rng.integers(0, 256, (2, 4, 30)).astype(np.uint8)
    options = {"x_qparams": X, "out_qparams": OUT}
    y = oc.conv1d(x, w, stride=2, padding=(3, 1), dilation=4, **options)
    wide = oc.conv2d(
        x[:, :, None], oc.QTensor(w.codes()[:, :, None], 0.01), stride=(1, 2),
        padding=(0, 3, 0, 1), dilation=(1, 4), **options,
    )  # fmt: skip
    assert (y.codes() == wide.codes()[:, :, 0]).all()
    last = oc.conv1d(x.transpose(0, 2, 1), w, stride=2, padding=(3, 1), dilation=4, layout="NWC",
                     **options)  # fmt: skip
    assert (last.codes().transpose(0, 2, 1) == y.codes()).all()


@pytest.mark.parametrize("size", [5, 6, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_is_onnx_same_upper(rng, size, stride):
    x = rng.integers(0, 256, (1, 3, size, size)).astype(np.uint8)
    w = oc.QTensor(rng.integers(-128, 128, (4, 3, 4, 4)).astype(np.int8), 0.01)
    total = max((-(-size // stride) - 1) * stride + 4 - size, 0)
    before, behind = total // 2, total - total // 2
    options = {"x_qparams": X, "stride": stride, "out_dtype": "int32"}
    same = oc.conv2d(x, w, padding="same", **options)
    given_sides = oc.conv2d(x, w, padding=(before, before, behind, behind), **options)
    assert same.shape[2] == -(-size // stride)
    assert (same == given_sides).all()


def operators(rng):
    w = rng.standard_normal((6, 6, 3, 3)).astype(np.float32)
    bias = rng.standard_normal(6).astype(np.float32)
    yield oc.Conv2d.from_float(w, bias, padding=1, x_qparams=X, out_qparams=OUT, activation="relu")
    yield oc.Conv2d.from_float(w[:, :1], bias, padding=1, groups=6, x_qparams=X, layout="NHWC")
    yield oc.Conv2d.from_float(w, bias, padding="same", precision="float16")
    yield oc.Conv1d.from_float(w[:, :, 0], bias, dilation=2, x_qparams=X)
    yield oc.ConvTranspose2d.from_float(w, bias, stride=2, output_padding=1, x_qparams=X)
    yield oc.ConvTranspose2d.from_float(w[:, :2], bias, groups=3, stride=2, x_qparams=X,
                                        out_qparams=OUT)  # fmt: skip


def input_of(layer, rng):
    dims = 1 if isinstance(layer, oc.Conv1d) else 2
    dtype = np.uint8 if layer.x_qparams is not None else np.float32
    shape = (2, 6, *(8,) * dims)
    if "NHWC" in repr(layer):
        shape = (2, 8, 8, 6)
    return rng.integers(0, 200, shape).astype(dtype)


def data_of(y):
    return y.codes() if isinstance(y, oc.QTensor) else y


def test_operators_pickle_copy_and_run_from_many_threads(rng):
    for layer in operators(rng):
        x = input_of(layer, rng)
        y = data_of(layer(x))
        twin = pickle.loads(pickle.dumps(layer, protocol=5))
        assert repr(twin) == repr(layer)
        assert (data_of(twin(x)) == y).all()
        assert copy.deepcopy(layer) is layer
        assert twin.__dask_tokenize__() == layer.__dask_tokenize__()
        w, bias = layer.unpack()
        again = twin.unpack()
        plain, other = (np.asarray(getattr(each, "data", each)) for each in (w, again[0]))
        assert (plain == other).all()
        assert (bias == again[1]).all()
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _, x=x, layer=layer: data_of(layer(x)), range(8)):
                assert (found == y).all()


def test_out_is_written_and_returned(rng):
    for layer in operators(rng):
        x = input_of(layer, rng)
        y = data_of(layer(x))
        out = np.empty_like(y)
        assert layer(x, out=out) is out
        assert (out == y).all()
        spread = np.zeros((*y.shape[:-1], 2 * y.shape[-1]), y.dtype)[..., ::2]
        assert layer(x, out=spread) is spread
        assert (spread == y).all()
        with pytest.raises(ValueError, match="out"):
            layer(x, out=np.empty((1, *y.shape[1:]), y.dtype))
        with pytest.raises(TypeError, match="out"):
            layer(x, out=np.empty(y.shape, np.float64))
        out.flags.writeable = False
        with pytest.raises(ValueError, match=r"read-only|writ"):
            layer(x, out=out)


def test_any_strides_are_read(rng):
    x, w, _ = example(rng, size=6)
    w_q = oc.quantize(w, axis=0)
    y = oc.conv2d(x, w_q, x_qparams=X, out_qparams=OUT).codes()
    turned = np.asfortranarray(x)
    gaps = np.repeat(x, 2, axis=3)[..., ::2]
    backwards = x[:, :, :, ::-1].copy()[:, :, :, ::-1]
    for other in (turned, gaps, backwards):
        assert (oc.conv2d(other, w_q, x_qparams=X, out_qparams=OUT).codes() == y).all()


def test_an_empty_batch_gives_an_empty_result(rng):
    _, w, bias = example(rng)
    x = np.empty((0, 12, 9, 9), np.uint8)
    assert oc.conv2d(x, oc.quantize(w, axis=0), bias, x_qparams=X).shape == (0, 20, 7, 7)


def test_a_bias_too_large_for_int32_raises_the_scale_of_its_weights(rng):
    x, w, bias = example(rng)
    w = w * np.float32(1e-7)
    bias[3] = 1e4
    with pytest.warns(RuntimeWarning, match="bias of .* overflows int32"):
        layer = oc.Conv2d.from_float(w, bias, x_qparams=oc.QParams(1e-4, 0), out_qparams=OUT)
    assert layer(x).shape == (2, 20, 7, 7)


W = oc.QTensor(np.ones((4, 2, 3, 3), np.int8), 1.0)
IMAGE = np.zeros((1, 2, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"groups": 3}, ValueError, "groups=3 must divide"),
        ({"groups": 0}, ValueError, "groups is 0, expected at least 1"),
        ({"stride": 0}, ValueError, "stride is 0, expected at least 1"),
        ({"dilation": 0}, ValueError, "dilation is 0, expected at least 1"),
        ({"padding": -1}, ValueError, "padding is -1, expected at least 0"),
        ({"padding": (1, 2, 3)}, ValueError, "padding has 3 values"),
        ({"padding": "valid"}, ValueError, "padding is 'valid', expected 'same'"),
        ({"stride": (1, 2, 3)}, ValueError, "stride has 3 values"),
        ({"stride": 1.5}, TypeError, "stride is 1.5, expected an integer"),
        ({"dilation": 9}, ValueError, "no output is left"),
        ({"layout": "CHWN"}, ValueError, "layout is 'CHWN', expected 'NCHW' or 'NHWC'"),
        ({"activation": "softmax"}, ValueError, "activation is 'softmax'"),
        ({"activation": "silu"}, ValueError, "needs out_qparams"),
        ({"pre_qparams": OUT}, ValueError, "pre_qparams is given without"),
        ({"out_dtype": "int16"}, ValueError, "out_dtype is 'int16'"),
        ({"out_dtype": "int32", "activation": "relu"}, ValueError, "out_dtype='int32'"),
        ({"sum_qparams": OUT}, ValueError, "residual and sum_qparams go together"),
        ({"x": np.zeros((1, 3, 8, 8), np.uint8)}, ValueError, "in_channels=2, x has 3"),
        ({"x": np.zeros((2, 8, 8), np.uint8)}, ValueError, "x must have 4 dimensions"),
        ({"x": IMAGE.astype(np.int8)}, TypeError, "x is int8, x_qparams has uint8"),
        ({"x_qparams": None}, ValueError, "x is uint8 without x_qparams"),
        ({"w": oc.QTensor(np.ones((4, 2), np.int8), 1.0)}, ValueError, "w has 2 dimensions"),
        (
            {"w": oc.QTensor(np.ones((4, 2, 3, 3), np.int8), np.ones(2), axis=1)},
            ValueError,
            "varies along axis 1",
        ),
        ({"bias": np.zeros(3, np.float32)}, ValueError, "bias has shape"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    options = {"x": IMAGE, "w": W, "bias": None, "x_qparams": X} | change
    with pytest.raises(error, match=message):
        oc.conv2d(options.pop("x"), options.pop("w"), options.pop("bias"), **options)


def test_output_padding_must_be_below_the_stride():
    with pytest.raises(ValueError, match="output_padding must be below the stride"):
        oc.conv_transpose2d(IMAGE, oc.QTensor(np.ones((2, 2, 3, 3), np.int8), 1.0), x_qparams=X,
                            output_padding=1)  # fmt: skip


def test_operators_are_made_by_their_class_methods():
    with pytest.raises(TypeError, match=r"use Conv2d\.from_float"):
        oc.Conv2d()
    with pytest.raises(TypeError, match=r"expected octavo\.QTensor"):
        oc.Conv2d.from_quantized(np.ones((1, 1, 1, 1)))
    with pytest.raises(ValueError, match="precision is 'int2'"):
        oc.Conv2d.from_float(np.ones((1, 1, 1, 1)), precision="int2")
