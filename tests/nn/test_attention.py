"""Attention against float64 and, in integers, an exact model; the cache; ONNX's own cases."""

import copy
import importlib.util
import math
import os
import pickle
import re
import threading

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import octavo as oc
from octavo.nn import KVCache

F32 = np.float32
HAS_ONNX = importlib.util.find_spec("onnx") is not None
IN_QEMU = os.environ.get("OCTAVO_IN_QEMU") == "1"
# heads, kv_heads, Lq, Lk, d, dv: one of everything, panels and their edges, blocks of rows.
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 1, 3, 7, 5, 3),
    (4, 2, 17, 65, 16, 33),
    (6, 2, 1, 130, 64, 64),
    *(() if IN_QEMU else ((2, 2, 150, 131, 20, 70), (1, 1, 70, 1025, 8, 8))),
]
SCALE = F32(0.3)


@pytest.fixture
def rng():
    return np.random.default_rng(8)


def operands(rng, heads, kv_heads, lq, lk, d, dv, batch=(2,)):
    q = rng.standard_normal((*batch, heads, lq, d), F32) * 2
    k = rng.standard_normal((*batch, kv_heads, lk, d), F32)
    return q, k, rng.standard_normal((*batch, kv_heads, lk, dv), F32)


def repeated(x, heads):
    return np.repeat(x, heads // x.shape[-3], axis=-3)


def seen(lq, lk, past):
    """Which keys a causal row sees."""
    return np.arange(lk) <= np.arange(lq)[:, None] + past


def exact(q, k, v, added=0.0, scale=None):
    """float64, and the bound that docs/attention.md states for float32."""
    q, k, v = (
        x.astype(np.float64) for x in (q, repeated(k, q.shape[-3]), repeated(v, q.shape[-3]))
    )
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(F32(scale))
    scores = scale * (q @ k.swapaxes(-1, -2)) + added
    size = scale * (np.abs(q) @ np.abs(k).swapaxes(-1, -2)) + np.where(
        np.isinf(added), 0, np.abs(added)
    )
    most = scores.max(-1, keepdims=True, initial=-np.inf)
    e = np.exp(scores - np.where(np.isinf(most), 0, most))
    total = e.sum(-1, keepdims=True)
    y = e / np.where(total == 0, 1, total) @ v
    ulps = 2 * (q.shape[-1] + 4) * size.max(-1, keepdims=True, initial=0) + k.shape[-2] + 16
    return y, 2.0**-24 * ulps * np.abs(v).max(initial=0)


def symmetric_rows(x):
    """Rows to int8 by their greatest magnitude; scales of 0 for zeros, NaN for what is not finite."""
    finite = np.isfinite(x).all(-1)
    clean = np.where(finite[..., None], x, F32(0))
    top = np.abs(clean).max(-1)
    scale = np.maximum(top / F32(127), F32(2.0**-126)).astype(F32)
    codes = np.rint(clean / scale[..., None]).astype(np.int64)
    return codes, np.where(finite, np.where(top == 0, F32(0), scale), F32(np.nan))


def multiplied(q, k, factors):
    """Scores of rows q, quantized by rule 6, and centred codes k."""
    codes, scale, zero = reference.quantize_rows(q)
    acc = (codes.astype(np.int64) - zero[..., None]) @ k.swapaxes(-1, -2)
    return acc.astype(F32) * (scale[..., None] * factors)


def lane_sum(x):
    """The sum of rows in 64 lanes, then by halves."""
    lanes = np.concatenate([x, np.zeros((*x.shape[:-1], -x.shape[-1] % 64), F32)], -1)
    lanes = lanes.reshape(*x.shape[:-1], -1, 64)
    total = np.zeros((*x.shape[:-1], 64), F32)
    for part in range(lanes.shape[-2]):
        total = total + lanes[..., part, :]
    while total.shape[-1] > 1:
        half = total.shape[-1] // 2
        total = total[..., :half] + total[..., half:]
    return total


def weighed(scores, v, by_key, factors, mask):
    """Weights, by the scales of keys if there are some, as codes of 8 bits; times centred codes v."""
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    most = scores.max(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        e = oc.nn.exp(scores - np.where(most == -np.inf, F32(0), most))
        w = e if by_key is None else np.where(e == 0, F32(0), e * by_key)
    top = F32(1) if by_key is None else np.maximum(w.max(-1, keepdims=True), F32(2.0**-100))
    codes = np.nan_to_num(np.rint(w * (F32(255) / top))).astype(np.int64)
    total = lane_sum(e)
    with np.errstate(divide="ignore"):
        scale = np.where(total == 0, F32(0), top / F32(255) * (F32(1) / total))
    return (codes @ v).astype(F32) * (scale * factors)


def model(q, k, v, mask=None, scale=SCALE):
    """Floats by the arithmetic of docs/attention.md in int8."""
    k_codes, k_scale = symmetric_rows(repeated(k, q.shape[-3]))
    v_codes, v_scale = symmetric_rows(repeated(v, q.shape[-3]))
    scores = multiplied(q, k_codes, F32(scale) * k_scale[..., None, :])
    return weighed(scores, v_codes, v_scale[..., None, :], F32(1), mask)


def parts(q, k, v, mask=None, scale=SCALE):
    """Floats by chains of multiply-adds and octavo's own softmax."""
    y = np.empty((*q.shape[:-1], v.shape[-1]), F32)
    for at in np.ndindex(*q.shape[:-2]):
        kv = (*at[:-1], at[-1] // (q.shape[-3] // k.shape[-3]))
        scores = reference.float_linear(q[at] * F32(scale), k[kv])
        row_mask = None if mask is None else np.broadcast_to(mask, (*q.shape[:-1], k.shape[-2]))[at]
        p = oc.nn.softmax(scores, mask=row_mask)
        y[at] = reference.float_linear(p, v[kv].T) + F32(0)
    return y


def same_bits(a, b):
    return np.array_equal(a, b, equal_nan=True) and np.array_equal(
        np.signbit(a) | np.isnan(a), np.signbit(b) | np.isnan(b)
    )


# --- float32 ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("causal", [False, True])
def test_float32_keeps_its_bound(rng, shape, causal):
    q, k, v = operands(rng, *shape)
    past = max(0, shape[3] - shape[2]) if causal else None
    hidden = np.where(seen(shape[2], shape[3], past), 0, -np.inf) if causal else 0.0
    y = oc.attention(q, k, v, causal=causal, past=past)
    wanted, bound = exact(q, k, v, hidden)
    assert y.dtype == F32
    assert (np.abs(y - wanted) <= bound).all()
    assert bound.max() < 1e-3


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_float32_is_its_parts(rng, shape):
    q, k, v = operands(rng, *shape)
    past = max(0, shape[3] - shape[2])
    for mask, causal in ((None, False), (seen(shape[2], shape[3], past), True)):
        y = oc.attention(q, k, v, scale=SCALE, causal=causal, past=past if causal else None)
        assert same_bits(y, parts(q, k, v, mask))


# --- int8 ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_of_floats_is_the_model(rng, shape):
    q, k, v = operands(rng, *shape)
    past = max(0, shape[3] - shape[2])
    visible = seen(shape[2], shape[3], past)
    y = oc.attention(q, k, v, precision="int8", scale=SCALE)
    assert same_bits(y, model(q, k, v))
    y = oc.attention(q, k, v, precision="int8", scale=SCALE, causal=True, past=past)
    assert same_bits(y, model(q, k, v, visible))


CODES = [
    ("int8", "int8", "int8"),
    ("uint8", "int8", "uint8"),
    ("int8", "uint8", "int8"),
    ("uint8", "uint8", "uint8"),
]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtypes", CODES)
@pytest.mark.parametrize("axes", [(None, None, None), (0, 1, 1), (1, 2, 3), (None, 2, 2)])
def test_int8_of_codes_is_the_model(rng, dtypes, axes):
    shape = (4, 2, 9, 70, 24, 40)
    floats = operands(rng, *shape)
    # Zero points that vary along the rows of v are refused; those of one scale need not be 0.
    tensors = [
        oc.quantize(x, dtype, axis=axis, symmetric=axis == 2 and name == "v")
        for x, dtype, axis, name in zip(floats, dtypes, axes, "qkv", strict=True)
    ]
    y = oc.attention(*tensors, scale=SCALE, causal=True)

    def spread(values, axis, ndim=4):
        return (
            values
            if axis is None
            else values.reshape([-1 if i == axis else 1 for i in range(ndim)])
        )

    centred, scales = [], []
    for t in tensors:
        zero = spread(np.asarray(t.zero_point, np.int64), t.axis)
        centred.append(repeated(t.codes().astype(np.int64) - zero, 4))
        scales.append(repeated(np.broadcast_to(spread(t.scale, t.axis), t.shape), 4))
    q, k, v = centred
    factors = SCALE * scales[0][..., :1] * scales[1][..., 0][..., None, :]
    scores = (q @ k.swapaxes(-1, -2)).astype(F32) * factors
    by_key = axes[2] == 2
    wanted = weighed(
        scores,
        v,
        scales[2][..., 0][..., None, :] if by_key else None,
        F32(1) if by_key else scales[2][..., :1, :],
        seen(9, 70, 61),
    )
    assert same_bits(y, wanted)


def test_int8_is_near_float32(rng):
    q, k, v = operands(rng, 4, 4, 64, 64, 64, 64)
    y = oc.attention(q, k, v)
    q8, k8, v8 = (oc.quantize(x) for x in (q, k, v))
    for close in (oc.attention(q, k, v, precision="int8"), oc.attention(q8, k8, v8)):
        assert np.linalg.norm(close - y) < 0.05 * np.linalg.norm(y)
        assert not np.array_equal(close, y)


@pytest.mark.usefixtures("isa")
def test_rows_of_zeros_do_not_coarsen_the_others(rng):
    q, k, v = operands(rng, 2, 2, 5, 9, 8, 8)
    v *= F32(1e-3)
    v[..., 4, :] = 0
    k[..., 5, :] = 0
    y = oc.attention(q, k, v, precision="int8", scale=SCALE)
    assert same_bits(y, model(q, k, v))
    wanted = exact(q, k, v, scale=SCALE)[0]
    assert np.linalg.norm(y - wanted) < 0.02 * np.linalg.norm(wanted)
    v[...] = 0
    assert (oc.attention(q, k, v, precision="int8") == 0).all()


def test_precision_follows_the_operands(rng):
    q, k, v = operands(rng, 2, 2, 3, 5, 8, 8)
    q8, k8, v8 = (oc.quantize(x, "uint8") for x in (q, k, v))
    assert same_bits(oc.attention(q, k8, v), oc.attention(q, k8, v, precision="int8"))
    assert same_bits(oc.attention(q, k, v), oc.attention(q, k, v, precision="float32"))
    floats = [x.dequantize() for x in (q8, k8, v8)]
    assert same_bits(oc.attention(q8, k8, v8, precision="float32"), oc.attention(*floats))
    mixed = oc.attention(q, k8, v, scale=SCALE)
    codes = k8.codes().astype(np.int64) - int(k8.zero_point)
    v_codes, v_scale = symmetric_rows(v)
    scores = multiplied(q, codes, SCALE * k8.scale)
    assert same_bits(mixed, weighed(scores, v_codes, v_scale[..., None, :], F32(1), None))


def test_sums_beyond_int32_are_exact():
    keys = 40000  # more than kMaxExactK: 255 * 127 * 40000 fits, 255 * 255 * 40000 does not
    q = np.zeros((1, 1, 1), F32)
    v = oc.QTensor(np.full((1, keys, 1), 255, np.uint8), 1.0)
    k = oc.QTensor(np.zeros((1, keys, 1), np.int8), 1.0)
    assert oc.attention(q, k, v) == pytest.approx(255, rel=1e-5)


# --- masks --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "lead", [(2, 4, 9, 70), (1, 4, 1, 70), (9, 70), (70,), (2, 1, 9, 1), (4, 1, 1), ()]
)
def test_masks_broadcast_and_hide(rng, precision, causal, lead):
    q, k, v = operands(rng, 4, 2, 9, 70, 8, 8)
    keep = rng.random(lead) < 0.6
    added = rng.standard_normal(lead).astype(F32)
    compute = model if precision == "int8" else parts
    staircase = np.where(seen(9, 70, 61), F32(0), F32(-np.inf)) if causal else F32(0)
    options = {"precision": precision, "causal": causal, "scale": SCALE}
    y = oc.attention(q, k, v, keep, **options)
    full = np.broadcast_to(keep, (2, 4, 9, 70)) & (staircase == 0)
    assert same_bits(y, compute(q, k, v, full))
    y = oc.attention(q, k, v, added, **options)
    full = np.broadcast_to(added + staircase, (2, 4, 9, 70))
    assert same_bits(y, compute(q, k, v, full))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_rows_that_see_nothing_are_zero(rng, precision):
    q, k, v = operands(rng, 2, 1, 4, 6, 8, 5)
    keep = np.ones((4, 6), bool)
    keep[1] = False
    q[:, :, 1] = np.nan  # whatever such a row holds
    whole = oc.attention(q, k, v, keep, precision=precision)
    assert (whole[:, :, 1] == 0).all()
    assert not np.signbit(whole[:, :, 1]).any()
    assert (whole[:, :, 0] != 0).all()
    q[:, :, 1] = 1
    added = np.where(keep, F32(0), F32(-np.inf))
    assert same_bits(
        oc.attention(q, k, v, added, precision=precision),
        oc.attention(q, k, v, keep, precision=precision),
    )
    none = oc.attention(q, k[..., :0, :], v[..., :0, :], precision=precision)
    assert none.shape == (2, 2, 4, 5)
    assert (none == 0).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_hidden_takes_no_part(rng, precision, odd):
    q, k, v = operands(rng, 2, 2, 40, 90, 8, 5)
    long = [np.concatenate([x, np.full_like(x[..., :30, :], odd)], axis=-2) for x in (k, v)]
    keep = np.arange(120) < 90
    y = oc.attention(q, *long, keep, precision=precision)
    assert same_bits(y, oc.attention(q, k, v, precision=precision))
    # A causal row does not know what comes after it.
    y = oc.attention(q, *long, causal=True, past=40, precision=precision)
    assert same_bits(y, oc.attention(q, k, v, causal=True, past=40, precision=precision))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_nan_and_infinity_that_are_seen(rng, precision):
    q, k, v = operands(rng, 1, 1, 4, 6, 8, 5, batch=())
    plain = oc.attention(q, k, v, precision=precision)
    for at, odd in ((0, np.nan), (1, np.inf), (2, -np.inf)):
        q[0, at, 0] = odd
    y = oc.attention(q, k, v, precision=precision)
    assert np.isnan(y[0, 0]).all()
    assert same_bits(y[0, 3], plain[0, 3])
    q[...] = 1
    keys = k.copy()
    keys[0, 2, 1] = np.nan
    assert np.isnan(oc.attention(q, keys, v, precision=precision)).all()
    v[0, 2, 1] = np.nan
    y = oc.attention(q, k, v, precision=precision)
    assert np.isnan(y[..., 1]).all()
    assert np.isnan(y).all() == (precision == "int8")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_past_shifts_what_rows_see(rng, precision):
    q, k, v = operands(rng, 2, 2, 5, 8, 8, 8)
    for past in (0, 2, 3, 100):
        y = oc.attention(q, k, v, causal=True, past=past, precision=precision)
        keep = seen(5, 8, past)
        assert same_bits(y, oc.attention(q, k, v, keep, precision=precision))
    assert same_bits(
        oc.attention(q, k, v, causal=True, precision=precision),
        oc.attention(q, k, v, causal=True, past=3, precision=precision),
    )


# --- the same bits, however it is asked ---------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("shape", [(4, 2, 50, 90, 16, 16), (8, 1, 1, 90, 16, 16)])
def test_threads_and_splits_change_nothing(rng, precision, shape):
    q, k, v = operands(rng, *shape)
    found = []
    for isa in oc.runtime.available_isas():
        for threads in (1, 2, 8):
            with oc.runtime.force_isa(isa), oc.threads(threads):
                found.append(oc.attention(q, k, v, precision=precision, causal=True))
    assert all(same_bits(y, found[0]) for y in found)
    one_by_one = [
        oc.attention(q[i], k[i], v[i], precision=precision, causal=True) for i in range(2)
    ]
    assert same_bits(np.stack(one_by_one), found[0])
    by_rows = [
        oc.attention(q[..., i : i + 1, :], k, v, precision=precision, causal=True, past=past)
        for i, past in enumerate(range(shape[3] - shape[2], shape[3]))
    ]
    assert same_bits(np.concatenate(by_rows, axis=-2), found[0])


def test_many_threads_at_once(rng):
    q, k, v = operands(rng, 4, 2, 33, 70, 16, 16)
    wanted = oc.attention(q, k, v, precision="int8")
    found = [None] * 6

    def work(i):
        found[i] = oc.attention(q, k, v, precision="int8")

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(same_bits(y, wanted) for y in found)


@given(data=st.data())
def test_any_shape_is_the_model(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    kv_heads, lq, lk = (data.draw(st.integers(1, n)) for n in (3, 20, 80))
    d, dv = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 70))
    q, k, v = operands(rng, kv_heads * data.draw(st.integers(1, 3)), kv_heads, lq, lk, d, dv)
    past = data.draw(st.integers(0, 80))
    y = oc.attention(q, k, v, precision="int8", scale=SCALE, causal=True, past=past)
    assert same_bits(y, model(q, k, v, seen(lq, lk, past)))


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_strides_and_dtypes(rng, precision):
    q, k, v = operands(rng, 4, 2, 5, 9, 8, 6)
    wanted = oc.attention(q, k, v, precision=precision)
    by_token = [np.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2) for x in (q, k, v)]
    reversed_values = [np.ascontiguousarray(x[..., ::-1])[..., ::-1] for x in (q, k, v)]
    swapped = [x.astype(x.dtype.newbyteorder()) for x in (q, k, v)]
    for arrays in (by_token, reversed_values, swapped, [x.astype(np.float64) for x in (q, k, v)]):
        assert same_bits(oc.attention(*arrays, precision=precision), wanted)
    half = [x.astype(np.float16) for x in (q, k, v)]
    assert same_bits(
        oc.attention(*half, precision=precision),
        oc.attention(*(x.astype(F32) for x in half), precision=precision),
    )
    for x in (q, k, v):
        x.flags.writeable = False
    assert same_bits(oc.attention(q, k, v, precision=precision), wanted)
    shared = oc.attention(q, k[:1], v[0], precision=precision)
    assert same_bits(
        shared,
        oc.attention(q, np.stack([k[0]] * 2), np.stack([v[0]] * 2), precision=precision),
    )


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_out_of_any_strides_is_written(rng, precision):
    q, k, v = operands(rng, 4, 2, 5, 9, 8, 6)
    wanted = oc.attention(q, k, v, precision=precision)
    by_token = np.full((2, 5, 4, 6), 7, F32)
    columns = np.full((2, 4, 5, 12), 7, F32)
    for out in (np.empty_like(wanted), by_token.swapaxes(1, 2), columns[..., ::2]):
        assert oc.attention(q, k, v, precision=precision, out=out) is out
        assert same_bits(out, wanted)
    assert (columns[..., 1::2] == 7).all()


# --- the cache ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("pieces", [(40,), (1,) * 40, (3, 20, 0, 17)])
def test_cache_is_the_whole(rng, pieces):
    q, k, v = operands(rng, 4, 2, 3, 40, 8, 5)
    cache, at = KVCache(), 0
    for piece in pieces:
        cache.append(k[..., at : at + piece, :], v[..., at : at + piece, :])
        at += piece
    assert len(cache) == 40
    y = oc.attention(q, cache, causal=True)
    assert same_bits(y, oc.attention(q, k, v, precision="int8", causal=True))
    keys, values = cache.dequantize()
    for x, floats in ((k, keys), (v, values)):
        codes, scale = symmetric_rows(x)
        assert same_bits(floats, codes.astype(F32) * scale[..., None])
    y = oc.attention(q, cache, precision="float32")
    assert same_bits(y, oc.attention(q, keys, values))


def test_decoding_is_the_whole_causal(rng):
    q, k, v = operands(rng, 4, 2, 20, 20, 8, 8)
    cache = KVCache(capacity=4)
    rows = []
    for i in range(20):
        token = slice(i, i + 1)
        cache.append(k[..., token, :], v[..., token, :])
        rows.append(oc.attention(q[..., token, :], cache, causal=True))
    whole = oc.attention(q, k, v, precision="int8", causal=True)
    assert same_bits(np.concatenate(rows, axis=-2), whole)


def test_cache_keeps_what_it_was_given(rng):
    q, k, v = operands(rng, 2, 2, 1, 30, 8, 8)
    cache = KVCache()
    cache.append(k[..., :20, :], v[..., :20, :])
    wanted = oc.attention(q, cache)
    for other in (pickle.loads(pickle.dumps(cache, 5)), copy.copy(cache), copy.deepcopy(cache)):
        assert same_bits(oc.attention(q, other), wanted)
        other.append(k[..., 20:, :], v[..., 20:, :])
        assert (len(other), len(cache)) == (30, 20)
        assert same_bits(oc.attention(q, cache), wanted)
        other.truncate(20)
        assert same_bits(oc.attention(q, other), wanted)
        other.truncate(0)
        other.append(k, v)
        assert same_bits(oc.attention(q, other), oc.attention(q, k, v, precision="int8"))
    assert repr(cache) == "KVCache(k=(2, 2, 20, 8), v=(2, 2, 20, 8), capacity=20)"


def test_cache_grows_geometrically(rng):
    _, k, v = operands(rng, 1, 1, 1, 1, 8, 8, batch=())
    cache = KVCache()
    sizes = []
    for _ in range(200):
        cache.append(k, v)
        sizes.append(cache.nbytes)
    assert len(set(sizes)) == 5  # 16, 32, 64, 128, 256
    assert sizes[-1] == 256 * (8 + 4) * 2
    assert KVCache(capacity=100).nbytes == 0
    empty = pickle.loads(pickle.dumps(KVCache(capacity=100)))
    empty.append(k, v)
    assert empty.nbytes == 100 * (8 + 4) * 2


# --- bad input ----------------------------------------------------------------------------------

Q, K = np.zeros((2, 4, 5, 8), F32), np.zeros((2, 2, 6, 8), F32)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((Q, K), {}, TypeError, "v is missing"),
        ((Q, K, K.astype(np.int32)), {}, TypeError, "v is int32, expected float16"),
        ((Q.astype(int), K, K), {}, TypeError, "q is int64"),
        ((Q[0, 0], K, K), {}, ValueError, "q must have at least 3 dimensions"),
        ((Q, K[..., :7], K), {}, ValueError, "last axes must be equal"),
        ((Q[..., :0], K[..., :0], K), {}, ValueError, "and not 0"),
        ((Q, K, K[:, :, :5]), {}, ValueError, "same number of rows"),
        ((Q, K, K[:, :1]), {}, ValueError, "same number of heads"),
        ((Q[:, :3], K, K), {}, ValueError, "must be a multiple of those of k"),
        ((Q, K[:, :0], K[:, :0]), {}, ValueError, "must be a multiple of those of k"),
        ((np.zeros((3, 4, 5, 8), F32), K, K), {}, ValueError, "axes before heads must broadcast"),
        ((Q, K, K, np.zeros((5, 7), bool)), {}, ValueError, "it must broadcast to that of the scor"),
        ((Q, K, K, np.zeros((1, 1, 1, 5, 6))), {}, ValueError, "it must broadcast"),
        ((Q, K, K, np.zeros((5, 6), int)), {}, TypeError, "mask is int64"),
        ((Q, K, K), {"precision": "int4"}, ValueError, "precision is 'int4'"),
        ((Q, K, K), {"scale": math.inf}, ValueError, "scale must be finite"),
        ((Q, K, K), {"scale": "big"}, TypeError, "scale is 'big'"),
        ((Q, K, K), {"past": 3}, ValueError, "without causal=True"),
        ((Q, K, K), {"causal": True, "past": -1}, ValueError, "past is -1"),
        ((Q, K[:, :, :4], K[:, :, :4]), {"causal": True}, ValueError, "causal needs past"),
        ((Q, K, K), {"out": np.zeros((2, 4, 5, 7), F32)}, ValueError, "out has shape"),
        ((Q, K, K), {"out": np.zeros((2, 4, 5, 8))}, TypeError, "out has dtype float64"),
        ((Q, K, K), {"out": Q}, ValueError, "shares memory"),
        ((oc.quantize(Q, axis=3), K, K), {}, ValueError, "q has a scale for each index of axis 3"),
        ((oc.quantize(Q, axis=2), K, K), {}, ValueError, "q has a scale for each index of axis 2"),
        ((Q, oc.quantize(K, axis=3), K), {}, ValueError, "k has a scale for each index of axis 3"),
        ((oc.quantize(Q, "int4"), K, K), {}, TypeError, "q is a QTensor of int4"),
        ((Q, K, oc.QTensor(np.zeros((2, 2, 6, 8), np.uint8), np.ones(6), np.arange(6), axis=2)),
         {}, ValueError, "v has zero points that vary"),
        ((Q, KVCache()), {}, ValueError, "the KVCache is empty"),
        ((Q, KVCache(), K), {}, TypeError, "v is given"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(arguments, options, error, message):
    out = options.get("out")
    before = None if out is None else out.copy()
    with pytest.raises(error, match=re.escape(message)):
        oc.attention(*arguments, **options)
    assert out is None or np.array_equal(out, before)


def test_the_cache_refuses_other_shapes():
    cache = KVCache()
    for k, v in ((Q, K), (Q[0, 0], Q[0, 0]), (K[..., :0], K)):
        with pytest.raises(ValueError, match="k has shape"):
            cache.append(k, v)
    with pytest.raises(TypeError, match="k is int64"):
        cache.append(K.astype(int), K)
    cache.append(K, K)
    with pytest.raises(ValueError, match=r"expected \(2, 2, tokens, 8\)"):
        cache.append(K[..., :4], K[..., :4])
    with pytest.raises(ValueError, match="length is 7, expected at most 6"):
        cache.truncate(7)
    with pytest.raises(ValueError, match="capacity is -1"):
        KVCache(-1)
    assert len(cache) == 6


# --- ONNX's own cases ---------------------------------------------------------------------------


def reason_to_skip(name, attributes, wanted):
    if "softcap" in attributes:
        return "a tanh between the product and the softmax is not fused"
    if wanted.dtype != F32 or name.endswith("bf16"):
        return "of 16 bits: each step of theirs is rounded to them"
    return None


def onnx_cases():
    """Name, attributes, inputs and first output of each case."""
    import onnx
    from onnx.backend.test.case.node import collect_testcases

    # Of all operators: onnx makes no others later, where it was asked for one before.
    for case in collect_testcases(None):
        nodes = case.model.graph.node
        if not nodes or nodes[0].op_type != "Attention" or case.name.endswith("_expanded"):
            continue
        node = nodes[0]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        names = [name for name in node.input if name]
        inputs = dict(zip(names, case.data_sets[0][0], strict=True))
        yield case.name, attributes, inputs, case.data_sets[0][1][0]


@pytest.mark.skipif(not HAS_ONNX or IN_QEMU, reason="needs onnx, and time")
@pytest.mark.filterwarnings("ignore")  # those of the other operators' cases
def test_onnx_node_cases():
    run, left = [], {}
    for name, attributes, inputs, wanted in onnx_cases():
        if attributes.get("softcap") == 0:
            del attributes["softcap"]
        if (why := reason_to_skip(name, attributes, wanted)) is not None:
            left[name] = why
            continue
        q, k, v = inputs["Q"], inputs["K"], inputs["V"]
        mask = inputs.get("attn_mask")
        if q.ndim == 3:
            heads = attributes["q_num_heads"], *(attributes["kv_num_heads"],) * 2
            q, k, v = (
                x.reshape(*x.shape[:2], n, -1).swapaxes(1, 2)
                for x, n in zip((q, k, v), heads, strict=True)
            )
        past = 0
        if "past_key" in inputs:
            past = inputs["past_key"].shape[2]
            k = np.concatenate([inputs["past_key"], k], axis=2)
            v = np.concatenate([inputs["past_value"], v], axis=2)
        if mask is not None and mask.shape[-1] < k.shape[-2]:
            more = [(0, 0)] * (mask.ndim - 1) + [(0, k.shape[-2] - mask.shape[-1])]
            fill = False if mask.dtype == bool else -np.inf
            mask = np.pad(mask, more, constant_values=fill)
        causal = bool(attributes.get("is_causal"))
        if "nonpad_kv_seqlen" in inputs or "window" in " ".join(attributes):
            # Lengths and windows come as masks.
            lengths = inputs.get("nonpad_kv_seqlen", np.full(len(q), k.shape[2])).reshape(
                -1, 1, 1, 1
            )
            offset = lengths - q.shape[2] if "nonpad_kv_seqlen" in inputs else past
            key = np.arange(k.shape[2])
            behind = np.arange(q.shape[2])[:, None] + offset - key
            keep = (key < lengths) & ((behind >= 0) | (not causal))
            for side, sign in (("left", 1), ("right", -1)):
                size = attributes.get(f"{side}_window_size", -1)
                keep &= (sign * behind <= size) | (size < 0)
            causal = False
            if mask is not None and mask.dtype != bool:
                mask = np.where(keep, mask, F32(-np.inf))
            else:
                mask = keep if mask is None else keep & mask
        scale = attributes.get("scale")
        y = oc.attention(q, k, v, mask, causal=causal, past=past if causal else None, scale=scale)
        if wanted.ndim == 3:
            y = y.swapaxes(1, 2).reshape(wanted.shape)
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6, err_msg=name)
        run.append(name)
    assert len(run) >= 40, (run, left)
