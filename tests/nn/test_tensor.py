"""The 8-bit operators between layers, on every instruction set, by the rules of docs/int8.md."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import octavo as oc
from octavo.array.qtensor import wrap_result

OUT = oc.QParams(0.07, 90)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def tensor(rng, shape, scale=0.05, zero_point=0, dtype="int8"):
    info = np.iinfo(dtype)
    codes = rng.integers(info.min, info.max + 1, shape).astype(dtype)
    return oc.QTensor(codes, scale, zero_point)


def rounded(v, q, lo=None, hi=None):
    """Clamp the float32 code, round half to even, add the zero point."""
    info = np.iinfo(q.dtype)
    least, most = (np.float32(end - q.zero_point) for end in (info.min, info.max))
    if lo is not None:
        least = np.clip(np.rint(np.float32(lo) / q.scale), least, most)
    if hi is not None:
        most = np.clip(np.rint(np.float32(hi) / q.scale), least, most)
    return (np.rint(np.clip(v, least, most)).astype(np.int64) + q.zero_point).astype(q.dtype)


def centred(q):
    return q.codes().astype(np.int64) - int(q.zero_point)


def ratio(a, b):
    return np.float32(np.float64(a) / np.float64(b))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("activation", [None, "relu", ("clip", -1.0, 2.0)])
@pytest.mark.parametrize(
    ("a_shape", "b_shape"),
    [((2, 33, 5, 7), (2, 33, 5, 7)), ((2, 33, 5, 7), (2, 33, 1, 1)), ((5, 17), (17,)), ((3,), ())],
)
def test_add_and_multiply(rng, activation, a_shape, b_shape):
    a = tensor(rng, a_shape, 0.05, 3)
    b = tensor(rng, b_shape, 0.02, 140, "uint8")
    bounds = {None: (None, None), "relu": (0, None)}.get(activation, (-1.0, 2.0))
    total = oc.nn.add(a, b, out_qparams=OUT, activation=activation)
    parts = [
        centred(q).astype(np.float32) * ratio(q.scale, OUT.scale) for q in (a, b)
    ]  # each rounded
    assert (total.codes() == rounded(parts[0] + parts[1], OUT, *bounds)).all()
    product = oc.nn.multiply(a, b, out_qparams=OUT, activation=activation)
    multiplier = np.float32(np.float64(a.scale) * np.float64(b.scale) / np.float64(OUT.scale))
    exact = (centred(a) * centred(b)).astype(np.float32)
    assert (product.codes() == rounded(exact * multiplier, OUT, *bounds)).all()


FUNCTIONS = {
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    ("clip", -1.0, 2.0): lambda x: min(max(x, -1.0), 2.0),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2))),
    "hard_swish": lambda x: x * min(max(x / 6 + 0.5, 0.0), 1.0),
    ("hard_sigmoid", 0.2, 0.5): lambda x: min(max(0.2 * x + 0.5, 0.0), 1.0),
    ("leaky_relu", 0.1): lambda x: x if x > 0 else 0.1 * x,
    ("elu", 1.0): lambda x: x if x > 0 else math.expm1(x),
}


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", FUNCTIONS, ids=str)
def test_activations_are_their_functions(name):
    x = oc.QTensor(np.arange(-128, 128).astype(np.int8), 0.06, 5)
    q = oc.QParams(0.031, 40)
    y = oc.nn.activate(x, name, out_qparams=q)
    real = np.array([FUNCTIONS[name](float(np.float32(v))) for v in x.dequantize()])
    exact = real / float(q.scale) + 40
    assert np.abs(y.codes() - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-4
    assert (y.codes() == oc.quantize(real.astype(np.float32), qparams=q).codes()).mean() > 0.99


@st.composite
def pools(draw):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    return {
        "shape": draw(st.tuples(st.integers(1, 2), st.sampled_from([1, 3, 17, 40]),
                                st.integers(4, 9), st.integers(4, 9))),
        "kernel": kernel,
        "stride": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in (*kernel, *kernel)),
        "layout": draw(st.sampled_from(["NCHW", "NHWC"])),
        "include": draw(st.booleans()),
        "seed": draw(st.integers(0, 999)),
    }  # fmt: skip


@pytest.mark.parametrize("name", oc.runtime.available_isas())
@given(case=pools())
def test_pools_of_any_geometry(name, case):
    rng = np.random.default_rng(case["seed"])
    x = tensor(rng, case["shape"], 0.05, 11)
    top, left, bottom, right = case["padding"]
    widths = ((0, 0), (0, 0), (top, bottom), (left, right))
    least = np.pad(centred(x), widths, constant_values=-1000)
    zeros = np.pad(centred(x), widths)
    inside = np.pad(np.ones(x.shape, np.int64), widths)
    (kh, kw), (sh, sw) = case["kernel"], case["stride"]
    oh, ow = (least.shape[2] - kh) // sh + 1, (least.shape[3] - kw) // sw + 1
    most = np.empty((*x.shape[:2], oh, ow), np.int64)
    sums, counts = np.empty_like(most), np.empty_like(most)
    for i in range(oh):
        for j in range(ow):
            window = (..., slice(i * sh, i * sh + kh), slice(j * sw, j * sw + kw))
            most[..., i, j] = least[window].max(axis=(2, 3))
            sums[..., i, j] = zeros[window].sum(axis=(2, 3))
            counts[..., i, j] = kh * kw if case["include"] else inside[window].sum(axis=(2, 3))
    is_last = case["layout"] == "NHWC"
    given_x = oc.nn.transpose(x, (0, 2, 3, 1)) if is_last else x
    options = {"stride": case["stride"], "padding": case["padding"], "layout": case["layout"]}
    with oc.runtime.force_isa(name):
        greatest = oc.nn.max_pool2d(given_x, case["kernel"], **options).codes()
        mean = oc.nn.average_pool2d(
            given_x, case["kernel"], out_qparams=OUT, count_include_pad=case["include"], **options
        ).codes()
    if is_last:
        greatest, mean = (y.transpose(0, 3, 1, 2) for y in (greatest, mean))
    assert (greatest == most + 11).all()
    expected = sums.astype(np.float32) * ratio(x.scale, OUT.scale) / counts.astype(np.float32)
    assert (mean == rounded(expected, OUT)).all()


@pytest.mark.usefixtures("isa")
def test_global_average_is_the_mean_of_the_image(rng):
    x = tensor(rng, (2, 37, 7, 7), 0.05, 11)
    y = oc.nn.global_average_pool2d(x, out_qparams=OUT)
    expected = centred(x).sum(axis=(2, 3), keepdims=True).astype(np.float32)
    expected = expected * ratio(x.scale, OUT.scale) / np.float32(49)
    assert (y.codes() == rounded(expected, OUT)).all()
    last = oc.nn.global_average_pool2d(
        oc.nn.transpose(x, (0, 2, 3, 1)), out_qparams=OUT, layout="NHWC"
    )
    assert (last.codes().ravel() == y.codes().ravel()).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat_rescales(rng, axis):
    a, b = tensor(rng, (3, 4, 5), 0.05, 3), tensor(rng, (3, 4, 5), 0.11, 100, "uint8")
    y = oc.nn.concat([a, b], axis, out_qparams=OUT)
    parts = [oc.quantize(q.dequantize(), qparams=OUT).codes() for q in (a, b)]
    assert np.abs(y.codes().astype(int) - np.concatenate(parts, axis)).max() <= 1
    same = oc.nn.concat([a, a], axis)
    assert (same.codes() == np.concatenate([a.codes(), a.codes()], axis)).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_resize(rng, layout):
    x = tensor(rng, (2, 3, 4, 5), 0.05, 11)
    given_x = x if layout == "NCHW" else oc.nn.transpose(x, (0, 2, 3, 1))
    twice = oc.nn.resize(given_x, (8, 10), layout=layout).codes()
    twice = twice if layout == "NCHW" else twice.transpose(0, 3, 1, 2)
    assert (twice == x.codes().repeat(2, axis=2).repeat(2, axis=3)).all()
    smooth = oc.nn.resize(given_x, (8, 10), mode="linear", layout=layout).codes()
    smooth = smooth if layout == "NCHW" else smooth.transpose(0, 3, 1, 2)
    real = centred(x).astype(np.float64)
    for axis, size in ((3, 10), (2, 8)):
        at = np.clip((np.arange(size) + 0.5) / 2 - 0.5, 0, real.shape[axis] - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, real.shape[axis] - 1)
        t = (at - low).reshape([-1 if i == axis else 1 for i in range(4)])
        real = real.take(low, axis) * (1 - t) + real.take(high, axis) * t
    assert (smooth == np.rint(real) + 11).mean() > 0.99
    assert np.abs(smooth - (real + 11)).max() <= 0.5 + 1e-4


@pytest.mark.usefixtures("isa")
def test_argmax_takes_the_first_of_equals():
    x = oc.QTensor(np.array([[1, 7, 7, 2], [9, 0, 9, 9]], np.int8), 1.0)
    assert oc.nn.argmax(x).tolist() == [1, 0]
    assert oc.nn.argmax(x, 0).tolist() == [1, 0, 1, 1]


def test_shapes(rng):
    x = tensor(rng, (1, 6, 2, 3), 0.05, 11)
    assert (oc.nn.pad(x, 1).codes()[:, :, 1:-1, 1:-1] == x.codes()).all()
    assert (oc.nn.pad(x, 1).codes()[:, :, 0] == 11).all()
    assert (oc.nn.take(x, np.s_[:, ::2]).codes() == x.codes()[:, ::2]).all()
    assert (oc.nn.channel_shuffle(x, 3).codes() == x.codes()[:, [0, 2, 4, 1, 3, 5]]).all()
    last = oc.nn.transpose(x, (0, 2, 3, 1))
    assert (oc.nn.channel_shuffle(last, 3, layout="NHWC").codes()
            == last.codes()[..., [0, 2, 4, 1, 3, 5]]).all()  # fmt: skip


def larger(x):
    return x.shape[2] + 3, x.shape[3] + 5


# Every operator that takes `out`, of one image tensor.
WITH_OUT = {
    "add": lambda x, **o: oc.nn.add(x, x, out_qparams=OUT, **o),
    "multiply": lambda x, **o: oc.nn.multiply(x, x, out_qparams=OUT, **o),
    "activate": lambda x, **o: oc.nn.activate(x, "hard_swish", out_qparams=OUT, **o),
    "max_pool2d": lambda x, **o: oc.nn.max_pool2d(x, 2, stride=1, **o),
    "average_pool2d": lambda x, **o: oc.nn.average_pool2d(x, 2, stride=1, out_qparams=OUT, **o),
    "global_average_pool2d": lambda x, **o: oc.nn.global_average_pool2d(x, out_qparams=OUT, **o),
    "concat": lambda x, **o: oc.nn.concat([x, x], out_qparams=OUT, **o),
    "resize nearest": lambda x, **o: oc.nn.resize(x, larger(x), out_qparams=OUT, **o),
    "resize linear": lambda x, **o: oc.nn.resize(x, larger(x), mode="linear", **o),
    "argmax": lambda x, **o: oc.nn.argmax(x, 1, **o),
}


def array_of(y):
    return y.codes() if isinstance(y, oc.QTensor) else y


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", WITH_OUT)
def test_out_is_written_and_returned(rng, name):
    function = WITH_OUT[name]
    x = tensor(rng, (2, 5, 6, 8), 0.05, 3)
    y = array_of(function(x))
    out = np.full_like(y, 77)
    assert function(x, out=out) is out
    assert (out == y).all()
    spread = np.full((*y.shape[:-1], 2 * y.shape[-1]), 77, y.dtype)
    assert function(x, out=spread[..., ::2]).base is spread
    assert (spread[..., ::2] == y).all()
    assert (spread[..., 1::2] == 77).all()


@pytest.mark.parametrize("name", WITH_OUT)
def test_with_out_no_result_is_allocated(rng, name):
    function = WITH_OUT[name]
    x = tensor(rng, (1, 3, 256, 256), 0.05, 3)
    out = np.empty_like(array_of(function(x)))
    large = 1 << 16  # but for the mean of an image every result is larger
    assert out.nbytes > large or name == "global_average_pool2d"

    def allocated(**options):
        tracemalloc.start()
        try:
            function(x, **options)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert allocated() >= out.nbytes
    assert allocated(out=out) < large


@pytest.mark.parametrize("name", WITH_OUT)
def test_a_bad_out_is_refused_before_any_work(rng, name):
    function = WITH_OUT[name]
    x = tensor(rng, (1, 4, 6, 8), 0.05, 3)
    y = array_of(function(x))
    memory = np.zeros(x.size + 4096, np.int8)
    memory[: x.size] = x.codes().ravel()
    inside = wrap_result(memory[: x.size].reshape(x.shape), x.qparams)
    overlapping = memory[x.size - 8 : x.size - 8 + y.nbytes].view(y.dtype).reshape(y.shape)
    fixed = np.zeros_like(y)
    fixed.flags.writeable = False
    oc.matmul(np.ones((1, 1), np.int8), np.ones((1, 1), np.int8))
    before = oc.runtime.last_kernel()
    for given_x, out, error, message in (
        (x, y.tolist(), TypeError, "out must be a numpy"),
        (x, np.zeros(y.shape, np.float64), TypeError, "out has dtype float64, the result has"),
        (x, np.zeros((2, *y.shape[1:]), y.dtype), ValueError, "out has shape .* the result has"),
        (x, fixed, ValueError, "out is read-only"),
        (inside, overlapping, ValueError, "out shares memory with an input"),
    ):
        with pytest.raises(error, match=message):
            function(given_x, out=out)
    assert oc.runtime.last_kernel() == before
    assert not fixed.any()
    assert (inside.codes() == x.codes()).all()


def test_bad_arguments_are_named(rng):
    x = tensor(rng, (1, 2, 3, 4))
    with pytest.raises(TypeError, match=r"a is ndarray, expected octavo\.QTensor"):
        oc.nn.add(x.codes(), x, out_qparams=OUT)
    with pytest.raises(ValueError, match="expected 8 bits and one scale"):
        oc.nn.activate(oc.quantize(np.ones((2, 3), np.float32), axis=0), "relu")
    with pytest.raises(ValueError, match="activation is 'softmax'"):
        oc.nn.activate(x, "softmax")
    with pytest.raises(ValueError, match="layout is 'CHWN'"):
        oc.nn.max_pool2d(x, 2, layout="CHWN")
    with pytest.raises(ValueError, match="kernel_size is 0"):
        oc.nn.max_pool2d(x, 0)
    with pytest.raises(ValueError, match="stride is 0"):
        oc.nn.average_pool2d(x, 2, stride=0)
    with pytest.raises(TypeError, match="padding is 'same'"):
        oc.nn.max_pool2d(x, 2, padding="same")
    with pytest.raises(ValueError, match="tensors is empty"):
        oc.nn.concat([])
    with pytest.raises(ValueError, match="it must divide"):
        oc.nn.channel_shuffle(x, 3)
