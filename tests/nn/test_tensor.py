"""The 8-bit operators between layers, on every instruction set, by the rules of docs/int8.md."""

import math
import tracemalloc

import numpy as np
import pytest
import reference
from conftest import IN_QEMU
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import octavo as oc
from octavo.array.qtensor import wrap_result

OUT = oc.QParams(0.07, 90)
THREADS = (1, 2, 3, 8)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def tensor(rng, shape, scale=0.05, zero_point=0, dtype="int8"):
    info = np.iinfo(dtype)
    codes = rng.integers(info.min, info.max + 1, shape).astype(dtype)
    return oc.QTensor(codes, scale, zero_point)


def centred(q):
    return q.codes().astype(np.int64) - int(q.zero_point)


def codes_of(v, q, bounds=(None, None)):
    """Float32 codes less their zero point, clipped in real units."""
    steps = reference.in_steps(bounds, q.scale)
    return reference.to_codes(v, int(q.zero_point), q.dtype, *steps)


BOUNDS = {None: (None, None), "relu": (0, None), "relu6": (0, 6), ("clip", -1.0, 2.0): (-1, 2)}


@st.composite
def params(draw):
    """Parameters whose zero point is anywhere in the range."""
    dtype = draw(st.sampled_from(["uint8", "int8"]))
    least, most = reference.RANGES[dtype]
    zero = draw(st.one_of(st.sampled_from([least, most]), st.integers(least, most)))
    return oc.QParams(draw(st.floats(2**-7, 0.25, width=32)), zero, dtype)


def random_tensor(seed, shape, q):
    rng = np.random.default_rng(seed)
    return tensor(rng, shape, q.scale, int(q.zero_point), q.dtype)


SIZES = [((2, 33, 5, 7), (2, 33, 5, 7)), ((2, 33, 5, 7), (2, 33, 1, 1)), ((2, 5, 7, 33), (33,))]


@pytest.mark.parametrize("name", oc.runtime.available_isas())
@given(
    shapes=st.one_of(
        st.sampled_from(SIZES),  # squeeze and excite among them
        npst.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, min_side=0, max_side=40).map(
            lambda found: found.input_shapes
        ),
    ),
    a_q=params(),
    b_q=params(),
    out=params(),
    activation=st.sampled_from(list(BOUNDS)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=20 if IN_QEMU else 100)
def test_sums_and_products_of_any_tensors(name, shapes, a_q, b_q, out, activation, seed):
    a, b = random_tensor(seed, shapes[0], a_q), random_tensor(seed + 1, shapes[1], b_q)
    bounds = BOUNDS[activation]
    total = reference.add(
        a.codes(),
        b.codes(),
        [float(q.scale) for q in (a_q, b_q, out)],
        [int(q.zero_point) for q in (a_q, b_q, out)],
        out.dtype,
        bounds,
    )
    exact = (centred(a) * centred(b)).astype(np.float32)
    factor = np.float64(a_q.scale) * np.float64(b_q.scale) / np.float64(out.scale)
    product = codes_of(exact * np.float32(factor), out, bounds)
    with oc.runtime.force_isa(name):
        for threads in THREADS:
            with oc.threads(threads):
                y = oc.nn.add(a, b, out_qparams=out, activation=activation)
                z = oc.nn.multiply(a, b, out_qparams=out, activation=activation)
            assert y.shape == z.shape == total.shape
            assert (y.codes() == total).all()
            assert (z.codes() == product).all()


FUNCTIONS = {
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    ("clip", -1.0, 2.0): lambda x: min(max(x, -1.0), 2.0),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2))),
    "hard_swish": lambda x: x * min(max(x / 6 + 0.5, 0.0), 1.0),
    "gelu_tanh": lambda x: x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ("hard_sigmoid", 0.3, 0.4): lambda x: min(max(0.3 * x + 0.4, 0.0), 1.0),
    ("leaky_relu", 0.1): lambda x: x if x > 0 else 0.1 * x,
    ("elu", 0.5): lambda x: x if x > 0 else 0.5 * math.expm1(x),
    # The parameters of docs/int8.md where none is given.
    "hard_sigmoid": lambda x: min(max(0.2 * x + 0.5, 0.0), 1.0),
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    ("clip", None, 1.0): lambda x: min(x, 1.0),
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
    two = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, dilation = draw(st.tuples(st.integers(1, 5), st.integers(1, 5))), draw(two)
    side = st.integers(0, 5)
    return {
        "shape": draw(
            st.tuples(
                st.integers(1, 2), st.sampled_from([1, 3, 17, 40, 65]), *[st.integers(1, 14)] * 2
            )
        ),
        "kernel": kernel,
        "stride": draw(st.none() | two),
        "padding": tuple(min(draw(side), k - 1) for k in (*kernel, *kernel)),
        "dilation": draw(st.sampled_from([(1, 1), dilation])),
        "ceil_mode": draw(st.booleans()),
        "include": draw(st.booleans()),
        "x": draw(params()),
        "out": draw(params()),
        "layout": draw(st.sampled_from(["NCHW", "NHWC"])),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


@pytest.mark.parametrize("name", oc.runtime.available_isas())
@given(case=pools())
@settings(max_examples=20 if IN_QEMU else 100)
def test_pools_of_any_geometry(name, case):
    x, out, layout = (
        random_tensor(case["seed"], case["shape"], case["x"]),
        case["out"],
        case["layout"],
    )
    images = oc.QTensor(reference.to_layout(x.codes(), layout), x.scale, x.zero_point)
    geometry = {key: case[key] for key in ("stride", "padding", "ceil_mode", "layout")}
    averages = {"count_include_pad": case["include"], "out_qparams": out, **geometry}
    window = (case["kernel"], case["stride"] or case["kernel"], case["padding"])
    try:
        most, *_ = reference.pool_windows(centred(x), *window, case["dilation"], case["ceil_mode"])
    except ValueError:  # it does not fit, or one has no pixel
        with pytest.raises(ValueError, match=r"exceeds the padded|without a pixel"):
            oc.nn.max_pool2d(images, case["kernel"], dilation=case["dilation"], **geometry)
        return
    try:
        _, sums, inside, padded = reference.pool_windows(centred(x), *window, (1, 1),
                                                         case["ceil_mode"])  # fmt: skip
    except ValueError:
        with pytest.raises(ValueError, match=r"exceeds the padded|without a pixel"):
            oc.nn.average_pool2d(images, case["kernel"], **averages)
        sums = None
    with oc.runtime.force_isa(name):
        for threads in THREADS:
            with oc.threads(threads):
                y = oc.nn.max_pool2d(
                    images, case["kernel"], dilation=case["dilation"], **geometry
                ).codes()
                assert (reference.from_layout(y, layout) == most + int(x.zero_point)).all()
                if sums is None:
                    continue
                y = oc.nn.average_pool2d(images, case["kernel"], **averages).codes()
            count = (padded if case["include"] else inside).astype(np.float32)
            mean = sums.astype(np.float32) * reference.multiplier(x.scale, 1.0, out.scale) / count
            assert (reference.from_layout(y, layout) == codes_of(mean, out)).all()


@pytest.mark.parametrize("name", oc.runtime.available_isas())
@given(
    shape=st.tuples(
        st.integers(1, 3), st.sampled_from([1, 3, 16, 37, 65]), *[st.integers(1, 20)] * 2
    ),
    x_q=params(),
    out=st.none() | params(),
    layout=st.sampled_from(["NCHW", "NHWC"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=10 if IN_QEMU else 50)
def test_global_average_is_the_mean_of_the_image(name, shape, x_q, out, layout, seed):
    x = random_tensor(seed, shape, x_q)
    images = oc.QTensor(reference.to_layout(x.codes(), layout), x.scale, x.zero_point)
    with oc.runtime.force_isa(name):
        y = oc.nn.global_average_pool2d(images, out_qparams=out, layout=layout)
    out = x_q if out is None else out
    sums = centred(x).sum(axis=(2, 3), keepdims=True).astype(np.float32)
    mean = sums * reference.multiplier(x_q.scale, 1.0, out.scale) / np.float32(shape[2] * shape[3])
    assert (reference.from_layout(y.codes(), layout) == codes_of(mean, out)).all()


@st.composite
def concats(draw):
    dims = draw(st.integers(1, 4))
    axis = draw(st.integers(-dims, dims - 1))
    shape = draw(st.tuples(*[st.integers(0, 9)] * dims))
    tensors = []
    for _ in range(draw(st.integers(1, 4))):
        own = list(shape)
        own[axis] = draw(st.integers(0, 70))
        tensors.append(random_tensor(draw(st.integers(0, 2**32 - 1)), own, draw(params())))
    if draw(st.booleans()):  # parameters of the first: nothing to rescale
        tensors.append(oc.QTensor(tensors[0].codes(), tensors[0].scale, tensors[0].zero_point))
    return tensors, axis, draw(st.none() | params())


@pytest.mark.parametrize("name", oc.runtime.available_isas())
@given(case=concats())
@settings(max_examples=15 if IN_QEMU else 60)
def test_concat_rescales_any_tensors(name, case):
    tensors, axis, out = case
    q = tensors[0].qparams if out is None else out
    parts = [
        reference.quantize(t.dequantize(), q.scale, q.zero_point, q.dtype)
        if t.qparams != q
        else t.codes()
        for t in tensors
    ]
    with oc.runtime.force_isa(name):
        for threads in THREADS:
            with oc.threads(threads):
                y = oc.nn.concat(tensors, axis, out_qparams=out)
            assert y.qparams == q
            assert np.array_equal(y.codes(), np.concatenate(parts, axis))


@pytest.mark.parametrize("name", oc.runtime.available_isas())
@given(
    shape=st.tuples(st.integers(1, 2), st.sampled_from([1, 3, 16, 33]), *[st.integers(1, 20)] * 2),
    size=st.tuples(st.integers(1, 24), st.integers(1, 40)),
    mode=st.sampled_from(["nearest", "linear"]),
    coordinates=st.sampled_from(
        ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "tf_half_pixel_for_nn"]
    ),
    rounding=st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    x_q=params(),
    out=st.none() | params(),
    layout=st.sampled_from(["NCHW", "NHWC"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=20 if IN_QEMU else 100)
def test_resize_of_any_images(
    name, shape, size, mode, coordinates, rounding, x_q, out, layout, seed
):
    x = random_tensor(seed, shape, x_q)
    q = x_q if out is None else out
    if mode == "nearest":
        expected = reference.resize_nearest(x.codes(), size, coordinates, rounding)
        if q != x_q:
            real = reference.dequantize(expected, x_q.scale, x_q.zero_point)
            expected = reference.quantize(real, q.scale, q.zero_point, q.dtype)
    else:
        smooth = reference.resize_linear(centred(x), size, coordinates)
        expected = codes_of(smooth * reference.multiplier(x_q.scale, 1.0, q.scale), q)
    images = oc.QTensor(reference.to_layout(x.codes(), layout), x.scale, x.zero_point)
    with oc.runtime.force_isa(name):
        for threads in THREADS:
            with oc.threads(threads):
                y = oc.nn.resize(images, size, mode=mode, coordinates=coordinates,
                                 rounding=rounding, out_qparams=out, layout=layout)  # fmt: skip
            assert (reference.from_layout(y.codes(), layout) == expected).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_resize_to_twice_the_size_repeats_pixels(rng, layout):
    x = tensor(rng, (2, 3, 4, 5), 0.05, 11)
    images = oc.QTensor(reference.to_layout(x.codes(), layout), x.scale, x.zero_point)
    twice = reference.from_layout(oc.nn.resize(images, (8, 10), layout=layout).codes(), layout)
    assert (twice == x.codes().repeat(2, axis=2).repeat(2, axis=3)).all()


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
