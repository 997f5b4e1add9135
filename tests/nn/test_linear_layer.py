"""``oc.Linear``."""

import copy
import pickle

import numpy as np
import pytest

import octavo as oc

P = oc.QParams(0.05, 120)
OUT = oc.QParams(0.1, 30)
PRECISIONS = ["int8", "int4/32", "int8/128", "int4/7", "float16", "float32"]


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def weights(rng, n=9, k=50):
    return rng.standard_normal((n, k)).astype(np.float32), rng.standard_normal(n).astype(np.float32)


def quantized(w, precision):
    dtype, _, size = precision.partition("/")
    if dtype == "float32":
        return w
    if dtype == "float16":
        return oc.quantize(w, dtype)
    return oc.quantize(w, dtype, axis=0, group_size=int(size) if size else None)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "relu"},
        {"x_qparams": P},
        {"out_qparams": OUT},
        {"x_qparams": P, "out_qparams": OUT, "activation": ("clip", -1, 3)},
    ],
    ids=["dynamic", "relu", "static", "out", "all"],
)
def test_a_layer_gives_what_linear_gives(rng, precision, options):
    w, b = weights(rng)
    layer = oc.Linear.from_float(w, b, precision=precision, **options)
    x = rng.standard_normal((2, 3, 50)).astype(np.float32)
    unaligned = np.empty(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    unaligned[:] = x
    for given in (x, x.astype(np.float64), np.asfortranarray(x), x.astype(">f4"), unaligned):
        wanted = oc.linear(given, quantized(w, precision), b, **options)
        y = layer(given)
        if "out_qparams" in options:
            assert y.equals(wanted)
        else:
            assert np.array_equal(y, wanted)
    if "x_qparams" in options:
        x_q = oc.quantize(x, qparams=P)
        a, b, c = (layer(each) for each in (x_q, x_q.codes(), x_q.dequantize()))
        if "out_qparams" in options:
            a, b, c = a.codes(), b.codes(), c.codes()
        assert np.array_equal(a, b)
        assert np.array_equal(a, c)


@pytest.mark.parametrize("precision", PRECISIONS[:-1])  # float32 weights are no QTensor
def test_from_quantized_is_from_float_in_two_steps(rng, precision):
    w, b = weights(rng)
    x = rng.standard_normal((3, 50)).astype(np.float32)
    layer = oc.Linear.from_quantized(quantized(w, precision), b, activation="relu6")
    assert layer.precision == precision
    assert np.array_equal(
        layer(x), oc.Linear.from_float(w, b, precision=precision, activation="relu6")(x)
    )


def test_group_size_may_be_said_either_way(rng):
    w, _ = weights(rng)
    a = oc.Linear.from_float(w, precision="int4", group_size=16)
    assert a.precision == "int4/16"
    assert a.unpack()[0].equals(oc.Linear.from_float(w, precision="int4/16").unpack()[0])
    assert oc.Linear.from_float(w, precision="int4/16", group_size=16).precision == "int4/16"


def test_method_chooses_the_scales(rng):
    w, _ = weights(rng)
    w[0, 0] = 100
    layer = oc.Linear.from_float(w, method="percentile")
    assert layer.unpack()[0].equals(oc.quantize(w, axis=0, method="percentile"))


def test_what_a_layer_tells(rng):
    w, b = weights(rng)
    layer = oc.Linear.from_float(w, b, x_qparams=P, out_qparams=OUT, activation=["clip", 0, 1])
    assert (layer.in_features, layer.out_features, layer.precision) == (50, 9, "int8")
    assert (layer.x_qparams, layer.out_qparams, layer.activation) == (P, OUT, ("clip", 0, 1))
    assert repr(layer) == (
        "Linear(in_features=50, out_features=9, precision='int8', x_qparams=QParams(0.05, 120, "
        "'uint8'), out_qparams=QParams(0.1, 30, 'uint8'), activation=('clip', 0, 1))"
    )
    with pytest.raises(AttributeError):
        layer.precision = "int4"
    with pytest.raises(AttributeError):
        layer.other = 1


def test_nbytes_is_what_the_precision_takes(rng):
    w, b = weights(rng, 256, 512)
    sizes = {p: oc.Linear.from_float(w, b, precision=p).nbytes for p in PRECISIONS}
    assert sizes["float32"] == pytest.approx(w.nbytes + b.nbytes, rel=0.01)
    assert sizes["float16"] == pytest.approx(w.nbytes / 2, rel=0.02)
    assert sizes["int8"] == pytest.approx(w.nbytes / 4, rel=0.1)
    assert sizes["int4/32"] == pytest.approx(w.nbytes / 8 * 1.25, rel=0.02)


def test_weights_are_copied(rng):
    w, b = weights(rng)
    x = rng.standard_normal((3, 50)).astype(np.float32)
    for precision in PRECISIONS:
        w2, b2 = w.copy(), b.copy()
        layer = oc.Linear.from_float(w2, b2, precision=precision)
        before = layer(x)
        w2[:], b2[:] = 9, 9
        assert np.array_equal(layer(x), before)


@pytest.mark.usefixtures("isa")
def test_unpack_gives_the_plain_weights_back_bit_for_bit(rng):
    w, b = weights(rng)
    for dtype in ("int8", "uint8", "int4", "uint4"):
        for axis in (None, 0):
            w_q = oc.quantize(w, dtype, axis=axis, symmetric=False)
            layer = oc.Linear.from_quantized(w_q, b)
            layer(np.ones((1, 50), np.float32))
            unpacked, bias = layer.unpack()
            assert unpacked.equals(w_q)
            assert np.array_equal(bias, b)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("protocol", [2, 5])
def test_pickles_give_the_same_layer(rng, precision, protocol):
    w, b = weights(rng)
    x = rng.standard_normal((3, 50)).astype(np.float32)
    layer = oc.Linear.from_float(
        w, b, precision=precision, x_qparams=P, out_qparams=OUT, activation="relu"
    )
    other = pickle.loads(pickle.dumps(layer, protocol))
    again = pickle.loads(pickle.dumps(other, protocol))  # before its first call
    for each in (other, again):
        assert each(x).equals(layer(x))
        assert repr(each) == repr(layer)
        assert each.nbytes == layer.nbytes
    assert other.__dask_tokenize__() == layer.__dask_tokenize__()


def test_pickles_hold_plain_arrays_only_and_work_on_another_isa(rng):
    w, b = weights(rng, 64, 128)
    x = rng.standard_normal((3, 128)).astype(np.float32)
    layer = oc.Linear.from_float(w, b)
    buffers = []
    data = pickle.dumps(layer, 5, buffer_callback=buffers.append)
    assert len(data) < 2000
    assert sum(len(buffer.raw()) for buffer in buffers) < 1.2 * w.size
    with oc.runtime.force_isa("scalar"):
        frozen = [memoryview(bytes(buffer.raw())) for buffer in buffers]
        other = pickle.loads(data, buffers=frozen)
        assert np.array_equal(other(x), layer(x))
        assert oc.runtime.last_kernel().startswith("scalar/")
    assert np.array_equal(other(x), layer(x))


def test_a_raised_weight_scale_travels_without_a_second_warning():
    w = oc.QTensor([[100, -50]], 1e-9, dtype="int8")
    with pytest.warns(RuntimeWarning, match="overflows int32"):
        layer = oc.Linear.from_quantized(
            w, np.array([4.0]), x_qparams=oc.QParams(0.5), out_qparams=OUT
        )
    other = pickle.loads(pickle.dumps(layer))
    x = np.ones((1, 2), np.float32)
    assert other(x).equals(layer(x))


def test_results_keep_the_parameters_they_were_given(rng):
    w, b = weights(rng)
    x = rng.standard_normal((2, 50))
    for layer in (
        oc.Linear.from_float(w, b, out_qparams=OUT),
        oc.Linear.from_float(w, b, x_qparams=P, out_qparams=OUT),
        oc.Linear.from_float(w, b, precision="int4/32", out_qparams=OUT),
    ):
        y = layer(x)
        assert y.qparams is layer.out_qparams is OUT
        assert (y.dtype, y.shape, y.axis, y.scale, y.zero_point) == (
            "uint8",
            (2, 9),
            None,
            OUT.scale,
            OUT.zero_point,
        )
        assert y.equals(oc.QTensor(y.codes(), OUT.scale, OUT.zero_point))
        assert not y.data.flags.writeable


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("options", [{}, {"x_qparams": P}, {"x_qparams": P, "out_qparams": OUT}])
def test_a_bad_out_is_refused_before_any_work(rng, precision, options):
    w, b = weights(rng)
    layer = oc.Linear.from_float(w, b, precision=precision, **options)
    x = rng.standard_normal((2, 50)).astype(np.float32)
    y = layer(x)
    y = y.codes() if isinstance(y, oc.QTensor) else y
    fixed = np.zeros_like(y)
    fixed.flags.writeable = False
    memory = x.copy()
    overlapping = memory.view(y.dtype).reshape(-1)[: y.size].reshape(y.shape)
    oc.matmul(np.ones((1, 1), np.int8), np.ones((1, 1), np.int8))
    before = oc.runtime.last_kernel()
    for given, out, error, message in (
        (x, y.tolist(), TypeError, r"out (is|must be)"),
        (x, np.zeros(y.shape, np.float64), TypeError, "out (is|has dtype) float64"),
        (x, np.zeros((3, 9), y.dtype), ValueError, "out has shape"),
        (x, fixed, ValueError, "out is read-only"),
        (memory, overlapping, ValueError, r"out (overlaps|shares memory with) an input"),
    ):
        with pytest.raises(error, match=message):
            layer(given, out=out)
    assert oc.runtime.last_kernel() == before
    assert not fixed.any()
    assert np.array_equal(memory, x)


def test_parameters_of_the_input_may_be_the_same_or_equal(rng):
    w, _ = weights(rng)
    layer = oc.Linear.from_float(w, x_qparams=P)
    x_q = oc.quantize(rng.standard_normal((50, 50)), qparams=P)
    equal = oc.QTensor(x_q.codes(), P.scale, P.zero_point)
    assert x_q.qparams is P
    assert equal.qparams is not P
    wanted = layer(x_q.codes())
    assert np.array_equal(layer(x_q), wanted)
    assert np.array_equal(layer(equal), wanted)
    assert np.array_equal(layer(x_q.T.T), wanted)
    assert np.array_equal(layer(x_q.T), layer(x_q.codes().T))


def test_copies_are_the_layer_itself(rng):
    layer = oc.Linear.from_float(weights(rng)[0])
    assert copy.copy(layer) is layer
    assert copy.deepcopy({"layer": layer})["layer"] is layer


def test_tokens_differ_with_weights_bias_and_settings(rng):
    w, b = weights(rng)
    layers = [
        oc.Linear.from_float(w, b),
        oc.Linear.from_float(w, b + 1),
        oc.Linear.from_float(w + 1, b),
        oc.Linear.from_float(w),
        oc.Linear.from_float(w, b, activation="relu"),
        oc.Linear.from_float(w, b, x_qparams=P),
        oc.Linear.from_float(w, b, precision="float32"),
    ]
    assert len({str(layer.__dask_tokenize__()) for layer in layers}) == len(layers)


SPLIT = {
    "dynamic": {},
    "dynamic to codes": {"out_qparams": OUT, "activation": "relu"},
    "static": {"x_qparams": P},
    "codes to codes": {"x_qparams": P, "out_qparams": oc.QParams(0.4, 128)},
    "groups": {"precision": "int4/32"},
}


@pytest.mark.parametrize("name", SPLIT)
def test_isas_threads_and_splits_give_the_same_bytes(rng, name):
    w, b = weights(rng, 260, 300)
    m = 130
    x = (rng.standard_normal((m, 300)) * rng.uniform(0.1, 5, (m, 1))).astype(np.float32)
    if name == "codes to codes":
        x = oc.quantize(x, qparams=P).codes()
    layer = oc.Linear.from_float(w, b, **SPLIT[name])
    isas, ran, results = oc.runtime.available_isas(), set(), set()
    for isa in isas:
        for threads in (1, 2, 3, 8):
            with oc.runtime.force_isa(isa), oc.threads(threads):
                for step in (m, 64, 7):
                    parts = [layer(x[i : i + step]) for i in range(0, m, step)]
                    if layer.out_qparams is not None:
                        parts = [part.codes() for part in parts]
                    results.add(np.concatenate(parts).tobytes())
                    ran.add(oc.runtime.last_kernel().split("/")[0])
    assert len(results) == 1
    assert ran == set(isas) or name == "groups"  # one plain loop, whatever the ISA
    assert len(set(results.pop())) > 100, "nearly all clamped: the test shows little"


def test_out_is_written_and_returned(rng):
    w, b = weights(rng, 256, 512)
    x = rng.standard_normal((64, 512)).astype(np.float32)
    for options, dtype in (({}, np.float32), ({"x_qparams": P, "out_qparams": OUT}, np.uint8)):
        layer = oc.Linear.from_float(w, b, **options)
        out = np.empty((64, 256), dtype)
        assert layer(x, out=out) is out
        y = layer(x)
        assert np.array_equal(out, y.codes() if isinstance(y, oc.QTensor) else y)


W = np.ones((3, 4), np.float32)
ERRORS = {
    "no constructor": (
        lambda: oc.Linear(W),
        TypeError,
        r"takes 1 positional|use Linear\.from_float",
    ),
    "bare constructor": (oc.Linear, TypeError, r"use Linear\.from_float\(w, \.\.\.\) or"),
    "precision": (
        lambda: oc.Linear.from_float(W, precision="int16"),
        ValueError,
        r"precision is 'int16', expected 'int8', 'int4/32', 'int4/128'",
    ),
    "int4 alone": (
        lambda: oc.Linear.from_float(W, precision="int4"),
        ValueError,
        r"precision is 'int4' without a group size, expected 'int4/32'",
    ),
    "group of 0": (
        lambda: oc.Linear.from_float(W, precision="int4/0"),
        ValueError,
        r"precision is 'int4/0', expected",
    ),
    "two group sizes": (
        lambda: oc.Linear.from_float(W, precision="int4/32", group_size=16),
        ValueError,
        r"group_size is 16, precision is 'int4/32'; expected the same",
    ),
    "group of floats": (
        lambda: oc.Linear.from_float(W, precision="float16", group_size=16),
        ValueError,
        r"group_size is 16 with precision 'float16', expected None",
    ),
    "group of floats by name": (
        lambda: oc.Linear.from_float(W, precision="float32/16"),
        ValueError,
        r"group_size is 16 with precision 'float32'",
    ),
    "w 1-D": (lambda: oc.Linear.from_float(W[0]), ValueError, r"w has 1 dimensions, expected 2"),
    "w integer": (
        lambda: oc.Linear.from_float(W.astype(np.int8)),
        TypeError,
        r"w is int8, expected",
    ),
    "w NaN": (lambda: oc.Linear.from_float(W * np.nan), ValueError, r"NaN or infinity"),
    "w no QTensor": (
        lambda: oc.Linear.from_quantized(W),
        TypeError,
        r"w_q is ndarray, expected octavo\.QTensor; Linear\.from_float takes float",
    ),
    "w per input": (
        lambda: oc.Linear.from_quantized(oc.quantize(W, axis=1)),
        ValueError,
        r"scale of w varies along axis 1",
    ),
    "bias": (lambda: oc.Linear.from_float(W, np.ones(4)), ValueError, r"bias has shape \(4,\)"),
    "activation": (
        lambda: oc.Linear.from_float(W, activation="tanh"),
        ValueError,
        r"activation is 'tanh', expected 'relu'",
    ),
    "x length": (
        lambda: oc.Linear.from_float(W)(np.ones(3)),
        ValueError,
        r"in_features=4, x has 3",
    ),
    "x codes": (
        lambda: oc.Linear.from_float(W)(np.ones((1, 4), np.uint8)),
        ValueError,
        r"x is uint8 without x_qparams",
    ),
    "x of another scale": (
        lambda: oc.Linear.from_float(W, x_qparams=P)(oc.quantize(np.ones((1, 4)), "uint8")),
        ValueError,
        r"x has QParams\(.*\), expected x_qparams=QParams\(0\.05, 120",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_layers_refuse(name):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()
