"""``oc.LSTM`` and ``oc.GRU``: float64, compositions of ``oc.linear``, ONNX's own cases."""

import copy
import functools
import importlib.util
import math
import os
import pickle
import threading
import tracemalloc
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

import octavo as oc
from octavo import nn

HAS_ONNX = importlib.util.find_spec("onnx") is not None
IN_QEMU = os.environ.get("OCTAVO_IN_QEMU") == "1"
KINDS = {"lstm": oc.LSTM, "gru": oc.GRU}
GATES = {"lstm": 4, "gru": 3}
PRECISIONS = ["int8", "float16", "float32", "int4/32"]


@pytest.fixture
def rng():
    return np.random.default_rng(3)


# --- the equations, in NumPy ---------------------------------------------------------------------


def clipped(function, clip):
    return function if clip is None else lambda v: function(np.clip(v, -clip, clip))


class Way(NamedTuple):
    """How the equations are computed."""

    dtype: type
    linear: Callable
    functions: dict


EXACTLY = Way(
    np.float64,
    lambda x, w, bias: x @ w.T.astype(np.float64) + (0 if bias is None else bias),
    {
        "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "tanh": np.tanh,
        "relu": lambda v: np.maximum(v, 0),
        "hard_sigmoid": lambda v, alpha, beta: np.clip(alpha * v + beta, 0, 1),
    },
)
# The operators of octavo that a step is said to be made of.
COMPOSED = Way(
    np.float32,
    oc.linear,
    {
        "sigmoid": nn.sigmoid,
        "tanh": nn.tanh,
        "relu": lambda v: np.maximum(v, np.float32(0)),
        "hard_sigmoid": lambda v, alpha, beta: np.clip(
            np.float32(alpha) * v + np.float32(beta), np.float32(0), np.float32(1)
        ),
    },
)


def model(
    kind,
    way,
    x,
    w,
    r,
    b=None,
    p=None,
    h=None,
    c=None,
    lengths=None,
    direction="forward",
    activations=None,
    clip=None,
    variant=False,
):
    """Steps first; `w` and `r` are one matrix for each direction. Returns (y, y_h, y_c)."""
    reverse = {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[direction]
    steps, batch, _ = x.shape
    n = r[0].shape[1]
    per = 3 if kind == "lstm" else 2
    names = activations or (("sigmoid",), ("tanh",), ("tanh",))[:per] * 2
    lengths = np.full(batch, steps) if lengths is None else lengths
    zeros = np.zeros((len(reverse), batch, n), way.dtype)
    states = [np.array(zeros if s is None else s, way.dtype) for s in (h, c)]
    y = np.zeros((steps, len(reverse), batch, n), way.dtype)
    for d, backwards in enumerate(reverse):
        f, g, last = (
            functools.partial(call_with, way.functions[name], rest)
            for name, *rest in [*names[d * per : (d + 1) * per], ("tanh",)][:3]
        )
        f, g = clipped(f, clip), clipped(g, clip)
        of_x, of_h = (None, None) if b is None else np.split(b[d], 2)
        peep = None if p is None else np.split(p[d], 3)
        hs, cs = states[0][d], states[1][d]
        for t in range(steps)[:: -1 if backwards else 1]:
            here = t < lengths
            gates = way.linear(x[t], w[d], of_x)
            state = way.linear(hs, r[d], of_h)
            if kind == "lstm":
                i, o, forget, candidate = np.split(state + gates, 4, axis=-1)
                if peep:
                    i, forget = i + peep[0] * cs, forget + peep[2] * cs
                i, candidate = f(i), g(candidate)
                forget = 1 - i if variant else f(forget)
                new_c = forget * cs + i * candidate
                o = f(o + peep[1] * new_c if peep else o)
                new_h = o * last(new_c)
                cs = np.where(here[:, None], new_c, cs)
            else:
                z, reset = np.split(f((state + gates)[:, : 2 * n]), 2, axis=-1)
                if variant:
                    candidate = reset * state[:, 2 * n :] + gates[:, 2 * n :]
                else:
                    product = way.linear(reset * hs, r[d], of_h)
                    candidate = product[:, 2 * n :] + gates[:, 2 * n :]
                new_h = (1 - z) * g(candidate) + z * hs
            hs = np.where(here[:, None], new_h, hs)
            y[t, d] = np.where(here[:, None], new_h, 0)
        states[0][d], states[1][d] = hs, cs
    return (y, *states)[: 3 if kind == "lstm" else 2]


def call_with(function, parameters, v):
    return function(np.ascontiguousarray(v), *parameters)


def weights(rng, kind, directions=1, inputs=7, hidden=5, spread=1.0):
    rows = GATES[kind] * hidden
    bound = spread / math.sqrt(hidden)
    return tuple(
        rng.uniform(-bound, bound, shape).astype(np.float32)
        for shape in [
            (directions, rows, inputs),
            (directions, rows, hidden),
            (directions, 2 * rows),
            (directions, 3 * hidden),
        ]
    )


def stored(w, precision):
    """One matrix for each direction, as the operator holds it."""
    dtype, _, size = precision.partition("/")
    if dtype == "float32":
        return list(w)
    if dtype == "float16":
        return [oc.quantize(each, dtype) for each in w]
    return [oc.quantize(m, dtype, axis=0, group_size=int(size) if size else None) for m in w]


VARIANT = {"lstm": "input_forget", "gru": "linear_before_reset"}
ALL = (("hard_sigmoid", 0.3, 0.4), ("relu",), ("sigmoid",))
OPTIONS = {
    "plain": {},
    "reverse": {"direction": "reverse"},
    "bidirectional": {"direction": "bidirectional"},
    "clip": {"clip": 0.25},
    "variant": {"variant": True},
    "activations": {"activations": ALL},
    "of each direction": {
        "direction": "bidirectional",
        "activations": (*ALL, ("tanh",), ("hard_sigmoid",), ("relu",)),
    },
    "all": {
        "direction": "bidirectional",
        "clip": 0.5,
        "variant": True,
        "activations": ALL,
        "parts": True,
    },
}


def made(kind, w, r, b, p, options, precision="float32", layout=0):
    given = {VARIANT[kind] if k == "variant" else k: v for k, v in options.items() if k != "parts"}
    if "activations" in given and kind == "gru":
        names = given["activations"]
        given["activations"] = [a for i, a in enumerate(names) if i % 3 != 2]
    arguments = (w, r, b, p) if kind == "lstm" else (w, r, b)
    return KINDS[kind].from_float(*arguments, precision=precision, layout=layout, **given)


def case(rng, kind, options, *, steps=6, batch=3, inputs=7, hidden=5, spread=1.0):
    """Weights, input, initial state and lengths; what `options` leaves out is None."""
    directions = 2 if options.get("direction") == "bidirectional" else 1
    w, r, b, p = weights(rng, kind, directions, inputs, hidden, spread)
    x = rng.standard_normal((steps, batch, inputs)).astype(np.float32)
    if not options.get("parts"):
        return (w, r, b, None), x, {}
    given = {"initial_h": rng.uniform(-1, 1, (directions, batch, hidden)).astype(np.float32)}
    if kind == "lstm":
        given["initial_c"] = rng.uniform(-2, 2, (directions, batch, hidden)).astype(np.float32)
    given["sequence_lens"] = rng.integers(0, steps + 1, batch).astype(np.int32)
    return (w, r, b, p if kind == "lstm" else None), x, given


def modelled(kind, way, parts, x, given, options, precision="float32"):
    w, r, b, p = parts
    options = {k: v for k, v in options.items() if k != "parts"}
    if "activations" in options:
        defaults = {"hard_sigmoid": (0.2, 0.5)}
        names = [(n, *(rest or defaults.get(n, ()))) for n, *rest in options["activations"]]
        if kind == "gru":
            names = [each for i, each in enumerate(names) if i % 3 != 2]
        options["activations"] = names * 2
    return model(
        kind,
        way,
        x,
        stored(w, precision),
        stored(r, precision),
        b,
        p,
        given.get("initial_h"),
        given.get("initial_c"),
        given.get("sequence_lens"),
        **options,
    )


def bits(arrays):
    return b"".join(a.tobytes() for a in arrays)


# --- results -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_float32_lies_by_the_bound_from_float64(rng, kind, options):
    steps, hidden = (6, 9) if IN_QEMU else (20, 40)
    parts, x, given = case(rng, kind, options, steps=steps, hidden=hidden, inputs=33)
    results = made(kind, *parts, options)(x, **given)
    wanted = modelled(kind, EXACTLY, parts, x, given, options)
    for y, exact in zip(results, wanted, strict=True):
        assert y.dtype == np.float32
        assert y.shape == exact.shape
        # docs/recurrent.md: values up to 1, or their size.
        assert (np.abs(y - exact) <= 2e-6 * np.maximum(1, np.abs(exact))).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_step_is_the_composition_of_linear_and_functions(rng, kind, options, precision):
    parts, x, given = case(rng, kind, options)
    results = made(kind, *parts, options, precision)(x, **given)
    wanted = modelled(kind, COMPOSED, parts, x, given, options, precision)
    for y, exact in zip(results, wanted, strict=True):
        assert np.array_equal(y, exact)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("steps", "batch", "inputs", "hidden"),
    [(1, 1, 1, 1), (3, 1, 2, 3), (2, 17, 3, 16), (3, 2, 64, 17), (2, 3, 5, 65), (70, 2, 1, 300)],
)
def test_odd_sizes(rng, kind, steps, batch, inputs, hidden):
    if IN_QEMU and hidden == 300:
        pytest.skip("long")
    for options in ({}, {"variant": True}):
        parts, x, given = case(
            rng, kind, options, steps=steps, batch=batch, inputs=inputs, hidden=hidden
        )
        results = made(kind, *parts, options, "int8")(x, **given)
        wanted = modelled(kind, COMPOSED, parts, x, given, options, "int8")
        assert bits(results) == bits(wanted)


@pytest.mark.parametrize("precision", ["int8", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_for_every_isa_number_of_threads_and_batch(rng, kind, precision):
    options = {"direction": "bidirectional"}
    batch, hidden = (4, 33) if IN_QEMU else (5, 130)
    parts, x, _ = case(rng, kind, options, steps=9, batch=batch, hidden=hidden)
    lengths = np.arange(batch) * 2
    x[0, 1, 0] = np.nan  # of one row; not seen by that of length 0
    layer, found = made(kind, *parts, options, precision), set()
    for isa in oc.runtime.available_isas():
        for threads in (1, 2, 8):
            with oc.runtime.force_isa(isa), oc.threads(threads):
                y = layer(x, sequence_lens=lengths)
                assert oc.runtime.last_kernel().startswith(f"{isa}/")
                found.add(bits([np.nan_to_num(a, nan=7) for a in y]))
    assert len(found) == 1
    assert np.isnan(y[1][:, 1]).all()
    rest = np.delete(np.arange(batch), 1)
    assert np.isfinite(y[1][:, rest]).all()
    for row in rest:
        alone = layer(x[:, [row]], sequence_lens=lengths[[row]])
        assert np.array_equal(alone[0][:, :, 0], y[0][:, :, row])
        assert np.array_equal(alone[1][:, 0], y[1][:, row])


@pytest.mark.parametrize("kind", KINDS)
def test_many_steps_go_on_where_a_part_of_them_ended(rng, kind):
    """Longer than what is done at a time, in both directions."""
    hidden, steps = (8, 40) if IN_QEMU else (64, 700)
    options = {"direction": "bidirectional"}
    parts, x, _ = case(rng, kind, options, steps=steps, batch=4, inputs=3, hidden=hidden)
    layer = made(kind, *parts, options, "int8")
    y, y_h, *rest = layer(x)
    cut = steps // 3
    first, *state = layer(x[:cut])
    second, *state = layer(x[cut:], *state)
    assert np.array_equal(np.concatenate([first, second])[:, 0], y[:, 0])
    assert np.array_equal(state[0][0], y_h[0])
    first, *state = layer(x[cut:])
    second, *state = layer(x[:cut], *state)
    assert np.array_equal(np.concatenate([second, first])[:, 1], y[:, 1])
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(state, [y_h, *rest], strict=True))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["int8", "float32"])
def test_batch_first_is_steps_first_turned(rng, kind, precision):
    options = OPTIONS["all"]
    parts, x, given = case(rng, kind, options, batch=4)
    y, *states = made(kind, *parts, options, precision)(x, **given)
    turned = {
        name: value if value.ndim == 1 else np.swapaxes(value, 0, 1)
        for name, value in given.items()
    }
    layer = made(kind, *parts, options, precision, layout=1)
    y_turned, *states_turned = layer(np.swapaxes(x, 0, 1), **turned)
    assert np.array_equal(y_turned, y.transpose(2, 0, 1, 3))
    for state, other in zip(states, states_turned, strict=True):
        assert np.array_equal(other, np.swapaxes(state, 0, 1))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_no_steps_keeps_its_state(rng, kind):
    options = OPTIONS["all"]
    parts, x, given = case(rng, kind, options)
    layer = made(kind, *parts, options)
    lengths = np.array([0, 6, 2])
    y, *states = layer(x, **{**given, "sequence_lens": lengths})
    initial = [given[name] for name in ("initial_h", "initial_c") if name in given]
    for state, before in zip(states, initial, strict=True):
        assert np.array_equal(state[:, 0], before[:, 0])
    assert not y[:, :, 0].any()
    assert not y[2:, :, 2].any()
    assert np.array_equal(y[5, 0, 1], states[0][0, 1])
    assert np.array_equal(y[1, 0, 2], states[0][0, 2])
    assert np.array_equal(y[0, 1], np.where(lengths[:, None] > 0, states[0][1], 0))
    # All at once, and in a dtype of the caller's.
    for wide in (lengths.astype(np.int64), lengths.astype(np.uint8), lengths.tolist()):
        assert np.array_equal(layer(x, **{**given, "sequence_lens": wide})[0], y)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_do(rng, kind):
    nn.exp(np.zeros(1, np.float32))  # a kernel of this instruction set, whatever follows
    parts, _, _ = case(rng, kind, {})
    layer = made(kind, *parts, {})
    h = rng.standard_normal((1, 3, 5)).astype(np.float32)
    y, y_h, *_ = layer(np.zeros((0, 3, 7), np.float32), h)
    assert y.shape == (0, 1, 3, 5)
    assert np.array_equal(y_h, h)
    y, y_h, *_ = layer(np.zeros((4, 0, 7), np.float32))
    assert y.shape == (4, 1, 0, 5)
    assert y_h.shape == (1, 0, 5)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("kind", KINDS)
def test_nan_in_an_input_stays_in_its_row(rng, kind):
    parts, x, _ = case(rng, kind, {})
    x[2, 1, 3] = np.nan
    for precision in ("int8", "float32"):
        for options in ({"activations": ALL}, {"clip": 1.0}):
            y = made(kind, *parts, options, precision)(x)[0]
            assert np.isnan(y[2:, 0, 1]).all()
            assert np.isfinite(y[:2]).all()
            assert np.isfinite(y[:, 0, [0, 2]]).all()


# --- the operator --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", [*PRECISIONS, "int8 of one scale"])
def test_from_quantized_unpack_and_pickles(rng, kind, precision):
    options = OPTIONS["all"]
    parts, x, given = case(rng, kind, options)
    w, r, b, p = parts
    directions, rows = w.shape[:2]
    layer = made(kind, *parts, options, precision.split()[0])
    if precision.endswith("scale"):
        whole = [oc.quantize(each.reshape(directions * rows, -1), "int8") for each in (w, r)]
        settings = {"direction": "bidirectional", VARIANT[kind]: True}
        biases = (b, p) if kind == "lstm" else (b,)
        layer = KINDS[kind].from_quantized(*whole, *biases, **settings)
    y = layer(x, **given)
    w_back, r_back, *rest = layer.unpack()
    assert w_back.shape == (directions * rows, 7)
    assert r_back.shape == (directions * rows, 5)
    assert np.array_equal(rest[0], b)
    assert p is None if rest[1] is None else np.array_equal(rest[1], p)
    if precision == "float32":
        assert np.array_equal(w_back, w.reshape(-1, 7))
    else:
        settings = {
            "direction": layer.direction,
            "activations": layer.activations,
            "clip": layer.clip,
            VARIANT[kind]: getattr(layer, VARIANT[kind]),
        }
        again = KINDS[kind].from_quantized(
            w_back, r_back, *rest[: 2 if kind == "lstm" else 1], **settings
        )
        assert again.precision == layer.precision == precision.split()[0]
        assert bits(again(x, **given)) == bits(y)
        assert again.__dask_tokenize__() == layer.__dask_tokenize__()
    assert copy.deepcopy(layer) is layer
    loaded = pickle.loads(pickle.dumps(layer, protocol=5))
    assert repr(loaded) == repr(layer)
    assert bits(loaded(x, **given)) == bits(y)
    assert bits(pickle.loads(pickle.dumps(loaded))(x, **given)) == bits(y)
    assert loaded.nbytes == layer.nbytes > (w.size + r.size) / 2


def test_tokens_tell_weights_and_settings_apart(rng):
    (w, r, b, p), _, _ = case(rng, "lstm", {"parts": True})
    layers = [
        oc.LSTM.from_float(w, r),
        oc.LSTM.from_float(w, r, b),
        oc.LSTM.from_float(w, r, b, p),
        oc.LSTM.from_float(w, r * 2),
        oc.LSTM.from_float(w, r, precision="float32"),
        oc.LSTM.from_float(w, r, direction="reverse"),
        oc.LSTM.from_float(w, r, clip=2),
        oc.LSTM.from_float(w, r, layout=1),
        oc.LSTM.from_float(w, r, input_forget=True),
        oc.LSTM.from_float(w, r, activations=["sigmoid", "tanh", "relu"]),
        oc.GRU.from_float(w[:, :15], r[:, :15]),
    ]
    assert len({layer.__dask_tokenize__() for layer in layers}) == len(layers)
    assert repr(layers[6]) == "LSTM(in_features=7, hidden_size=5, precision='int8', clip=2.0)"
    assert "activations=(('sigmoid',), ('tanh',), ('relu',))" in repr(layers[9])
    assert (layers[7].layout, layers[8].input_forget, layers[0].hidden_size) == (1, True, 5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_call_with_out_allocates_nothing(rng, kind, threads):
    parts, x, _ = case(rng, kind, {}, steps=100, batch=4, hidden=64)
    layer = made(kind, *parts, {}, "int8")
    wanted = layer(x)
    out = tuple(np.full_like(a, 7) for a in wanted)
    with oc.threads(threads):
        for _ in range(20):
            results = layer(x, out=out)
        assert all(a is b for a, b in zip(results, out, strict=True))
        assert bits(results) == bits(wanted)
        tracemalloc.start()
        layer(x, out=out)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1500
    strided = np.empty((100, 1, 4, 128), np.float32)[..., ::2]
    some = layer(x, out=(strided, *[None] * (len(out) - 1)))
    assert some[0] is strided
    assert np.array_equal(strided, wanted[0])


@pytest.mark.parametrize("kind", KINDS)
def test_any_layout_of_the_input(rng, kind):
    parts, x, _ = case(rng, kind, {"parts": True})
    layer = made(kind, *parts, {})
    x = x.astype(np.float16).astype(np.float32)
    h = rng.standard_normal((1, 3, 5)).astype(np.float16)
    wanted = bits(layer(x, h.astype(np.float32)))
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.float32, offset=1).reshape(x.shape)
    for given in (x.astype(np.float64), x.astype(np.float16), np.asfortranarray(x)):
        assert bits(layer(given, h)) == wanted
    for given in (x.astype(">f4"), unaligned, x[::-1].copy()[::-1], np.repeat(x, 2, 2)[..., ::2]):
        assert bits(layer(given, np.asfortranarray(h))) == wanted


def test_many_threads_may_call_one_operator(rng):
    parts, _, _ = case(rng, "lstm", {})
    layer = made("lstm", *parts, {}, "int8")
    inputs = rng.standard_normal((4, 30, 3, 7)).astype(np.float32)
    wanted = [bits(layer(x)) for x in inputs]
    found = [set() for _ in inputs]

    def call(i):
        for _ in range(20):
            found[i].add(bits(layer(inputs[i])))

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [list(each) for each in found] == [[each] for each in wanted]


# --- bad input -----------------------------------------------------------------------------------

W, R, B = (np.zeros(shape, np.float32) for shape in [(1, 8, 3), (1, 8, 2), (1, 16)])
W_Q, R_Q = oc.quantize(W[0], axis=0), oc.quantize(R[0], axis=0)
X = np.zeros((4, 3, 3), np.float32)
LAYER = oc.LSTM.from_float(W, R)
GRU_LAYER = oc.GRU.from_float(np.zeros((1, 6, 3)), np.zeros((1, 6, 2)))
S = np.zeros((1, 3, 2), np.float32)
lstm, lstm_q = oc.LSTM.from_float, oc.LSTM.from_quantized


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (oc.LSTM, TypeError, r"use LSTM.from_float\(w, ...\) or LSTM.from_quantized"),
        (lambda: lstm(W, R[0]), ValueError, r"r has shape \(8, 2\), expected \(1, 4 \* hidden"),
        (lambda: lstm(W, R[:, :6]), ValueError, r"r has shape \(1, 6, 2\), expected"),
        (lambda: lstm(W[:, :6], R), ValueError, r"w has shape \(1, 6, 3\), expected \(1, 8, in\)"),
        (lambda: lstm(W, R, direction="bidirectional"), ValueError, r"expected \(2, 4 \* hidden"),
        (lambda: lstm(W, R, direction="back"), ValueError, "direction is 'back', expected"),
        (lambda: lstm(W, R, B[:, :8]), ValueError, r"b has shape \(1, 8\), expected \(1, 16\)"),
        (lambda: lstm(W, R, B, B), ValueError, r"p has shape \(1, 16\), expected \(1, 6\)"),
        (lambda: lstm(W, R, B + np.nan), ValueError, "b holds NaN or infinity"),
        (lambda: lstm(W + np.nan, R), ValueError, "NaN"),
        (lambda: lstm(W.astype(int), R), TypeError, "w is int64, expected float16"),
        (lambda: lstm(W, R, precision="int3"), ValueError, "precision is 'int3', expected"),
        (lambda: lstm(W, R, clip=0), ValueError, "clip is 0.0, expected None, or more than 0"),
        (lambda: lstm(W, R, clip=math.inf), ValueError, "clip is inf"),
        (lambda: lstm(W, R, layout=2), ValueError, "layout is 2, expected 0"),
        (lambda: lstm(W, R, input_forget="no"), TypeError, "input_forget is 'no'"),
        (lambda: lstm(W, R, activations=["tanh"]), ValueError, r"is \['tanh'\], expected 3"),
        (lambda: lstm(W, R, activations="tanh"), ValueError, "is 'tanh', expected 3 of them"),
        (lambda: lstm(W, R, activations=["elu"] * 3), ValueError, "activation is 'elu', expected"),
        (lambda: lstm(W, R, activations=[("tanh", 1)] * 3), ValueError, "at most 0 parameters"),
        (lambda: lstm(W, R, activations=[()] * 3), ValueError, "expected one of 'sigmoid'"),
        (
            lambda: lstm(W, R, activations=[("hard_sigmoid", math.nan)] * 3),
            ValueError,
            "expected finite parameters",
        ),
        (lambda: lstm(W[:, :0], R[:, :0, :0]), ValueError, "hidden size is 0"),
        (
            lambda: lstm_q(W[0], R_Q),
            TypeError,
            "w_q is ndarray, expected octavo.QTensor; LSTM.from",
        ),
        (lambda: lstm_q(oc.quantize(W), R_Q), ValueError, "w_q has 3 dimensions, expected 2"),
        (lambda: lstm_q(oc.quantize(W[0], axis=1), R_Q), ValueError, "w_q varies along axis 1"),
        (lambda: lstm_q(W_Q, oc.quantize(R[0, :6])), ValueError, "r_q has 6 rows, expected 8"),
        (lambda: LAYER(X[0]), ValueError, r"x must have shape \(steps, batch, in\), got \(3, 3\)"),
        (lambda: LAYER(X[:, :, :2]), ValueError, "w has in_features=3, x has 2"),
        (lambda: LAYER(X.astype(np.int8)), TypeError, "x is int8, expected float16"),
        (lambda: LAYER(oc.quantize(X)), TypeError, r"x is a QTensor.*x.dequantize\(\)"),
        (lambda: LAYER(X, S[:, :2]), ValueError, r"initial_h has shape \(1, 2, 2\), expected"),
        (
            lambda: LAYER(X, S, S[0]),
            ValueError,
            r"initial_c has shape \(3, 2\), expected \(1, 3, 2",
        ),
        (lambda: LAYER(X, S.astype(int)), TypeError, "initial_h is int64"),
        (lambda: GRU_LAYER(X, S, S), TypeError, "positional"),
        (
            lambda: LAYER(X, sequence_lens=[1, 2]),
            ValueError,
            "sequence_lens has 2 values, expected",
        ),
        (lambda: LAYER(X, sequence_lens=[1, 2, 5]), ValueError, r"holds 5, expected .*\[0, 4\]"),
        (lambda: LAYER(X, sequence_lens=[1, 2, -1]), ValueError, "holds -1, expected"),
        (
            lambda: LAYER(X, sequence_lens=[1, 2, 3.5]),
            TypeError,
            "sequence_lens must be an integer",
        ),
        (lambda: LAYER(X, out=X), TypeError, "out must be a tuple, got numpy.ndarray"),
        (lambda: LAYER(X, out=(None,)), ValueError, "out has 1 arrays, expected 3"),
        (lambda: LAYER(X, out=(None, X, None)), ValueError, r"out has shape \(4, 3, 3\)"),
        (lambda: LAYER(X, out=(None, S, S)), ValueError, "arrays of out share memory"),
        (lambda: LAYER(X, S, out=(None, S, None)), ValueError, "out shares memory with an input"),
        (lambda: LAYER(X, out=(None, S.astype(float), None)), TypeError, "out has dtype float64"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# --- ONNX's cases --------------------------------------------------------------------------------

CASES = {
    "LSTM": [
        "test_lstm_defaults",
        "test_lstm_with_initial_bias",
        "test_lstm_with_peepholes",
        "test_lstm_batchwise",
        "test_lstm_reverse",
        "test_lstm_bidirectional",
    ],
    "GRU": [
        "test_gru_defaults",
        "test_gru_with_initial_bias",
        "test_gru_seq_length",
        "test_gru_batchwise",
        "test_gru_reverse",
        "test_gru_bidirectional",
    ],
}


@functools.cache
def onnx_cases():
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other operators' cases overflow and divide by zero
        cases = collect_testcases(None)
    return {
        case.name: case for case in cases if {n.op_type for n in case.model.graph.node} <= {*CASES}
    }


def from_onnx(operator, attributes, inputs):
    """What octavo answers: y, y_h and, of an LSTM, y_c."""
    x, w, r, b, lengths, h, c, p = (*inputs, *[None] * 8)[:8]
    options = {
        "direction": attributes.get("direction", b"forward").decode(),
        "layout": attributes.get("layout", 0),
        "precision": "float32",
    }
    if operator == "GRU":
        before = bool(attributes.get("linear_before_reset", 0))
        gru = oc.GRU.from_float(w, r, b, linear_before_reset=before, **options)
        return gru(x, h, sequence_lens=lengths)
    lstm = oc.LSTM.from_float(w, r, b, p, **options)
    return lstm(x, h, c, sequence_lens=lengths)


onnx_only = [
    pytest.mark.skipif(not HAS_ONNX, reason="ONNX's node cases are not run without onnx"),
    pytest.mark.skipif(IN_QEMU, reason="onnx computes all its cases first, which takes minutes"),
]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=onnx_only) for names in CASES.values() for name in names]
)
@pytest.mark.usefixtures("isa")
def test_onnx_node_cases(name):
    import onnx

    def as_array(value):
        return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value

    found = onnx_cases().get(name)
    if found is None:
        pytest.skip(f"this onnx has no {name}")
    (node,) = found.model.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    for inputs, wanted in found.data_sets:
        given = dict(zip([i for i in node.input if i], map(as_array, inputs), strict=True))
        results = from_onnx(node.op_type, attributes, [given.get(i) for i in node.input])
        named = [y for y, label in zip(results, node.output, strict=False) if label]
        for y, expected in zip(named, map(as_array, wanted), strict=True):
            assert y.shape == expected.shape
            assert np.allclose(y, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.skipif(not HAS_ONNX, reason="ONNX's node cases are not run without onnx")
@pytest.mark.skipif(IN_QEMU, reason="onnx computes all its cases first, which takes minutes")
def test_every_onnx_case_is_run():
    assert {*onnx_cases()} <= {name for names in CASES.values() for name in names}
