"""``oc.matmul`` and ``oc.pack`` against int64 NumPy."""

import pickle

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import octavo as oc
from octavo import runtime

DTYPES = [np.uint8, np.int8]
ISAS = runtime.available_isas()
PAIRS = [(a, b) for a in DTYPES for b in DTYPES]


def codes(rng, shape, dtype):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def zero_point(rng, dtype, shape=()):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(np.int32)


@pytest.fixture
def rng():
    return np.random.default_rng(6)


# --- exactness -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(
    ("a", "b", "exact"),
    [
        # Products that saturate int16 on the way, in other libraries.
        (np.uint8([255, 255, 0, 0]), np.int8([127, 127, 0, 0]), 64770),
        (np.int8([127, 127]), np.int8([127, 127]), 32258),
        (np.uint8([211, 171]), np.int8([71, 107]), 33278),
        (np.uint8([255] * 4), np.int8([-128] * 4), -130560),
        (np.int8([-128] * 4), np.int8([-128] * 4), 65536),
    ],
    ids=["u8s8", "s8s8", "pair", "least", "least by least"],
)
def test_nothing_saturates_on_the_way(a, b, exact):
    for columns in (1, 7, 64):
        wide = np.repeat(b[:, None], columns, axis=1)
        for right in (wide, oc.pack(wide)):
            assert (oc.matmul(np.repeat(a[None], 9, axis=0), right) == exact).all()
    assert oc.matmul(a, b) == exact


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("a_dtype", "b_dtype"), PAIRS)
def test_extremes_at_every_k_up_to_two_tiles(a_dtype, b_dtype):
    for k in range(1, 130):
        for x in (np.iinfo(a_dtype).min, np.iinfo(a_dtype).max):
            for y in (np.iinfo(b_dtype).min, np.iinfo(b_dtype).max):
                a, b = np.full((2, k), x, a_dtype), np.full((k, 3), y, b_dtype)
                assert (oc.matmul(a, b) == k * int(x) * int(y)).all(), (k, x, y)


@pytest.mark.slow
@pytest.mark.usefixtures("isa")
def test_a_thousand_random_products():
    rng = np.random.default_rng(7)
    for _ in range(1000):
        (a_dtype, b_dtype) = PAIRS[rng.integers(4)]
        m, n, k = (int(rng.integers(0, 70)) if rng.random() < 0.9 else 257 for _ in range(3))
        a, b = codes(rng, (m, k), a_dtype), codes(rng, (k, n), b_dtype)
        az = zero_point(rng, a_dtype, [(), (m,)][rng.integers(2)])
        bz = zero_point(rng, b_dtype, [(), (n,)][rng.integers(2)])
        right = oc.pack(b) if rng.random() < 0.5 else b
        y = oc.matmul(a, right, a_zero_point=az, b_zero_point=bz)
        assert np.array_equal(y, reference.accumulate(a, b, az, bz)), (m, n, k, a_dtype, b_dtype)


@st.composite
def strided(draw, shape, dtype):
    """An array of the shape with any order, steps, direction, offset, or repeated along an axis."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    steps = [draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in shape]
    order = draw(st.permutations(range(len(shape))))
    held = [length * abs(step) + 1 for length, step in zip(shape, steps, strict=True)]
    base = codes(rng, [held[i] for i in order], dtype).transpose(np.argsort(order))
    view = base[tuple(slice(None, None, step) for step in steps)]
    view = view[tuple(slice(0, length) for length in shape)]
    if draw(st.booleans()) and shape:
        axis = draw(st.integers(0, len(shape) - 1))
        if shape[axis]:
            view = np.broadcast_to(view.take([0], axis), shape)
    if draw(st.booleans()):
        view.flags.writeable = False
    return view


@given(st.data())
def test_any_shape_stride_dtype_and_zero_point(data):
    draw = data.draw
    m, n, k = (draw(st.integers(0, 40)) for _ in range(3))
    batch = draw(st.lists(st.integers(0, 3), max_size=2))
    a_batch = [draw(st.sampled_from([1, length])) for length in batch]
    b_batch = [
        length if short == 1 else draw(st.sampled_from([1, length]))
        for length, short in zip(batch, a_batch, strict=True)
    ]
    a_batch = a_batch[draw(st.integers(0, len(batch))) if a_batch == [1] * len(batch) else 0 :]
    a_dtype, b_dtype = draw(st.sampled_from(PAIRS))
    a = draw(strided((*a_batch, m, k), a_dtype))
    b = draw(strided((*b_batch, k, n), b_dtype))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    az = zero_point(rng, a_dtype, draw(st.sampled_from([(), (m,), a.shape[:-1]])))
    bz = zero_point(rng, b_dtype, draw(st.sampled_from([(), (n,), (*b.shape[:-2], n)])))
    before = a.tobytes(), b.tobytes()
    with runtime.force_isa(draw(st.sampled_from(ISAS))), oc.threads(draw(st.sampled_from([1, 3]))):
        y = oc.matmul(a, b, a_zero_point=az, b_zero_point=bz)
    assert y.dtype == np.int32
    assert y.flags.c_contiguous
    wanted = np.matmul(
        a.astype(np.int64) - az[..., None],
        b.astype(np.int64) - (bz[..., None, :] if bz.ndim else bz),
    )
    assert y.shape == wanted.shape
    assert np.array_equal(y, wanted)
    assert (a.tobytes(), b.tobytes()) == before


@pytest.mark.usefixtures("isa")
def test_vectors(rng):
    a, b = codes(rng, (5, 9), np.uint8), codes(rng, (9, 4), np.int8)
    wide = a.astype(int) @ b.astype(int)
    assert np.array_equal(oc.matmul(a[0], b), wide[0])
    assert np.array_equal(oc.matmul(a, b[:, 0]), wide[:, 0])
    dot = oc.matmul(a[0], b[:, 0])
    assert dot.shape == ()
    assert dot == wide[0, 0]
    assert np.array_equal(oc.matmul(a[0], oc.pack(b)), wide[0])
    batch = codes(rng, (3, 9, 4), np.int8)
    assert np.array_equal(oc.matmul(a[0], batch), np.matmul(a[0].astype(int), batch.astype(int)))


def test_empty_operands():
    for m, n, k in ((0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)):
        a, b = np.zeros((m, k), np.uint8), np.zeros((k, n), np.int8)
        for right in (b, oc.pack(b)):
            assert oc.matmul(a, right, a_zero_point=3).tolist() == [[0] * n] * m
        y = oc.matmul(a, b, bias=np.arange(n, dtype=np.int32), multiplier=1.0, dtype="uint8")
        assert y.tolist() == [list(range(n))] * m


# --- results of every dtype ----------------------------------------------------------------------


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("a_dtype", "b_dtype"), PAIRS)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("per_column", [False, True])
def test_fused_requantization(rng, a_dtype, b_dtype, dtype, per_column):
    m, n, k = 13, 35, 70
    a, b = codes(rng, (m, k), a_dtype), codes(rng, (k, n), b_dtype)
    # Near the middle, so that the results spread over the codes.
    az = 131 if a_dtype is np.uint8 else 3
    bz = rng.integers(-20, 20, n).astype(np.int32) + (128 if b_dtype is np.uint8 else 0)
    bias = rng.integers(-50000, 50000, n).astype(np.int32)
    multiplier = np.float32(rng.uniform(4e-4, 2e-3, n if per_column else ()))
    zero = 100 if dtype == "uint8" else -20
    acc = reference.accumulate(a, b, az, bz)
    wanted = reference.requantize(acc, multiplier, zero, dtype, bias)
    assert len(np.unique(wanted)) > 50, "nearly all clamped: the test shows little"
    options = {
        "a_zero_point": az,
        "b_zero_point": bz,
        "bias": bias,
        "multiplier": multiplier,
        "zero_point": zero,
        "dtype": dtype,
    }
    for right in (b, oc.pack(b)):
        y = oc.matmul(a, right, **options)
        assert y.dtype == dtype
        assert np.array_equal(y, wanted)
        clipped = oc.matmul(a, right, **options, clip=(zero, zero + 40))
        assert np.array_equal(clipped, np.clip(wanted, zero, zero + 40))
    # Fusing changes no bit.
    parts = oc.matmul(a, b, a_zero_point=az, b_zero_point=bz)
    assert np.array_equal(
        oc.requantize(parts, multiplier, zero, bias=bias, dtype=dtype, axis=-1), wanted
    )


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("per_column", [False, True])
def test_float_results(rng, per_column):
    m, n, k = 13, 35, 70
    a, b = codes(rng, (m, k), np.uint8), codes(rng, (k, n), np.int8)
    multiplier = rng.uniform(1e-4, 2e-3, n if per_column else ()).astype(np.float32)
    bias = rng.standard_normal(n).astype(np.float32)
    wanted = reference.accumulate(a, b, 7, 0).astype(np.float32) * multiplier + bias
    for right in (b, oc.pack(b)):
        y = oc.matmul(a, right, a_zero_point=7, bias=bias, multiplier=multiplier, dtype=np.float32)
        assert np.array_equal(y, wanted)
        y = oc.matmul(
            a,
            right,
            a_zero_point=7,
            bias=bias,
            multiplier=multiplier,
            dtype="float32",
            clip=(0.0, np.inf),
        )
        assert np.array_equal(y, reference.clip(wanted, 0.0, None))
    assert np.array_equal(oc.matmul(a, b, dtype="float32"), reference.accumulate(a, b))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("k", [33025, 33026, 70000])
def test_sums_beyond_int32_are_exact_in_int64_and_refused_in_int32(k):
    a, b = np.full((2, k), 255, np.uint8), np.full((k, 3), 255, np.uint8)
    b[:, 1] = 1
    exact = k * 255 * 255
    for right in (b, oc.pack(b)):
        y = oc.matmul(a, right, dtype="int64")
        assert y.dtype == np.int64
        assert y.tolist() == [[exact, k * 255, exact]] * 2
        assert oc.matmul(a, right, a_zero_point=255).tolist() == [[0] * 3] * 2
        if exact < 2**31:
            assert oc.matmul(a, right).tolist() == y.tolist()
        else:
            with pytest.raises(OverflowError, match=r'does not fit int32; ask for dtype="int64"'):
                oc.matmul(a, right)


@pytest.mark.usefixtures("isa")
def test_a_bias_that_takes_the_sum_beyond_int32_is_refused():
    a, b = np.full((1, 100), 255, np.uint8), np.full((100, 2), 127, np.int8)
    bias = np.array([0, 2**31 - 1], np.int32)
    with pytest.raises(OverflowError, match=r"int32"):
        oc.matmul(a, b, bias=bias)
    y = oc.matmul(a, b, bias=bias, dtype="int64")
    assert y.tolist() == [[3238500, 3238500 + 2**31 - 1]]


@pytest.mark.usefixtures("isa")
def test_long_sums_that_fit_int32_stay_exact(rng):
    k = 100_003
    a, b = codes(rng, (3, k), np.uint8), codes(rng, (k, 5), np.int8)
    wanted = reference.accumulate(a, b, 128, [1, -2, 3, 0, 127])
    y = oc.matmul(a, oc.pack(b), a_zero_point=128, b_zero_point=np.int32([1, -2, 3, 0, 127]))
    assert np.array_equal(y, wanted)


# --- the same bits everywhere --------------------------------------------------------------------


SPLIT = {  # dtypes of a and b, rows' zero points?, options
    "uint8": ("uint8", "int8", False, {"multiplier": 1e-4, "zero_point": 128, "dtype": "uint8"}),
    "int8, scales": ("int8", "int8", False, {"multiplier": "columns", "dtype": "int8"}),
    "float32": ("uint8", "uint8", True, {"multiplier": "columns", "dtype": "float32"}),
    "int32": ("int8", "uint8", True, {}),
    "int64": ("uint8", "int8", True, {"dtype": "int64"}),
}


@pytest.mark.parametrize("is_packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("name", SPLIT)
def test_isas_threads_and_splits_give_the_same_bytes(name, is_packed):
    a_dtype, b_dtype, has_row_zeros, options = SPLIT[name]
    rng = np.random.default_rng(8)
    m, n, k = 130, 260, 300
    a, b = codes(rng, (m, k), a_dtype), codes(rng, (k, n), b_dtype)
    right = oc.pack(b) if is_packed else b
    a_zero = zero_point(rng, a_dtype, m if has_row_zeros else ())
    options = {**options, "b_zero_point": zero_point(rng, b_dtype, n)}
    if options.get("multiplier") == "columns":
        options["multiplier"] = rng.uniform(1e-5, 2e-4, n).astype(np.float32)
    ran, results = set(), set()
    for isa in ISAS:
        for threads in (1, 2, 3, 8):
            with runtime.force_isa(isa), oc.threads(threads):
                for step in (m, 64, 7):
                    parts = []
                    for i in range(0, m, step):
                        zero = a_zero[i : i + step] if has_row_zeros else a_zero
                        parts.append(
                            oc.matmul(a[i : i + step], right, a_zero_point=zero, **options)
                        )
                    results.add(np.concatenate(parts).tobytes())
                    ran.add(runtime.last_kernel().split("/")[0])
    assert len(results) == 1
    assert ran == set(ISAS)
    assert len(set(results.pop())) > 100, "nearly all clamped: the test shows little"


# --- packing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (7, 17), (64, 64), (130, 33)])
def test_pack_and_unpack(rng, dtype, shape):
    b = codes(rng, shape, dtype)
    for name in ISAS:
        with runtime.force_isa(name):
            packed = oc.pack(b)
            assert (packed.shape, packed.dtype, packed.isa) == (shape, dtype, name)
            assert np.array_equal(packed.unpack(), b)
        # Another table repacks, and gives the plain form back all the same.
        a = codes(rng, (2, shape[0]), np.uint8)
        assert np.array_equal(oc.matmul(a, packed), reference.accumulate(a, b))
        assert np.array_equal(packed.unpack(), b)


def test_packed_matrices_pickle_and_do_not_follow_later_writes(rng):
    b = codes(rng, (40, 30), np.int8)
    a = codes(rng, (3, 40), np.uint8)
    packed = oc.pack(b)
    wanted = reference.accumulate(a, b)
    b[:] = 0
    for each in (packed, pickle.loads(pickle.dumps(packed, 5))):
        assert np.array_equal(oc.matmul(a, each), wanted)
    assert "40" in repr(packed)


def test_packed_bytes_are_within_a_tenth_of_the_plain(rng):
    for shape in ((768, 768), (3072, 768), (147, 64)):
        b = codes(rng, shape, np.int8)
        assert oc.pack(b).nbytes <= 1.1 * shape[0] * (-(-shape[1] // 16) * 16)


# --- out -----------------------------------------------------------------------------------------


def test_out_is_written_and_returned(rng):
    a, b = codes(rng, (6, 9), np.uint8), codes(rng, (9, 4), np.int8)
    wanted = reference.accumulate(a, b)
    out = np.empty((6, 4), np.int32)
    assert oc.matmul(a, b, out=out) is out
    assert np.array_equal(out, wanted)
    for make in (
        lambda: np.zeros((12, 8), np.int32)[::2, ::2],
        lambda: np.zeros((6, 4), np.int32, order="F"),
        lambda: np.zeros((6, 4), np.int32)[::-1],
    ):
        out = make()
        assert oc.matmul(a, oc.pack(b), out=out) is out
        assert np.array_equal(out, wanted)


A, B = np.ones((3, 4), np.uint8), np.ones((4, 5), np.int8)
READ_ONLY = np.zeros((3, 5), np.int32)
READ_ONLY.flags.writeable = False
MEMORY = np.zeros(100, np.int8)
ERRORS = {
    "float a": ((A.astype(np.float32), B), {}, TypeError, r"a must be int8 or uint8, got float32"),
    "float b": ((A, B.astype(np.float64)), {}, TypeError, r"b must be int8 or uint8, got float64"),
    "a list": (([[1]], B), {}, TypeError, r"a .*ndarray"),
    "b list": ((A, [[1]]), {}, TypeError, r"b must be a numpy\.ndarray or a PackedMatrix, got list"),
    "b QTensor": ((A, oc.QTensor(B, 1.0)), {}, TypeError, r"b must be .*PackedMatrix, got .*QTensor"),
    "0-d": ((np.array(1, np.uint8), B), {}, ValueError, r"a must have at least 1 dimension, got 0"),
    "shapes": ((A[:, :3], B), {}, ValueError,
               r"a has shape \(3, 3\), b \(4, 5\); a\.shape\[-1\] and b\.shape\[-2\] must be equal"),
    "packed shapes": ((A[:, :3], oc.pack(B)), {}, ValueError, r"a has shape \(3, 3\), b \(4, 5\)"),
    "batches": ((np.ones((2, 3, 4), np.uint8), np.ones((3, 4, 5), np.int8)), {}, ValueError,
                r"batch shapes \(2,\) and \(3,\), which do not broadcast"),
    "dtype": ((A, B), {"dtype": "int16"}, (TypeError, ValueError), r"dtype .*int16"),
    "a zero point": ((A, B), {"a_zero_point": 256}, ValueError,
                     r"a_zero_point must be in \[0, 255\] for uint8, got 256"),
    "b zero point": ((A, B), {"b_zero_point": -129}, ValueError,
                     r"b_zero_point must be in \[-128, 127\] for int8, got -129"),
    "float zero point": ((A, B), {"a_zero_point": 1.5}, TypeError, r"a_zero_point"),
    "zero point shape": ((A, B), {"a_zero_point": np.ones(4, np.int32)}, ValueError,
                         r"a_zero_point has shape \(4,\), which does not broadcast to \(3,\)"),
    "no multiplier": ((A, B), {"dtype": "uint8"}, ValueError, r"uint8 needs a multiplier"),
    "multiplier for int32": ((A, B), {"multiplier": 1.0}, ValueError, r"multiplier needs an 8-bit"),
    "zero multiplier": ((A, B), {"dtype": "uint8", "multiplier": 0.0}, ValueError,
                        r"multiplier must be positive and finite, got 0"),
    "NaN multiplier": ((A, B), {"dtype": "uint8", "multiplier": np.nan}, ValueError,
                       r"multiplier must be positive and finite, got"),
    "multiplier length": ((A, B), {"dtype": "uint8", "multiplier": np.ones(4, np.float32)},
                          ValueError, r"multiplier .*4.*5"),
    "bias length": ((A, B), {"bias": np.ones(4, np.int32)}, ValueError, r"bias .*4.*5"),
    "float bias": ((A, B), {"bias": np.ones(5, np.float32)}, TypeError, r"bias"),
    "out zero point": ((A, B), {"dtype": "int8", "multiplier": 1.0, "zero_point": 128}, ValueError,
                       r"zero_point must be in \[-128, 127\] for dtype int8, got 128"),
    "zero point for int32": ((A, B), {"zero_point": 1}, ValueError, r"zero_point must be in \[0, 0\]"),
    "clip for int32": ((A, B), {"clip": (0, 1)}, ValueError, r"clip needs an 8-bit or float32"),
    "clip crossed": ((A, B), {"dtype": "uint8", "multiplier": 1.0, "clip": (3, 1)}, ValueError,
                     r"clip must hold codes lo <= hi in \[0, 255\], got \(3, 1\)"),
    "clip no tuple": ((A, B), {"dtype": "uint8", "multiplier": 1.0, "clip": 3}, TypeError,
                      r"clip must be a tuple \(lo, hi\) or None"),
    "out dtype": ((A, B), {"out": np.empty((3, 5), np.int64)}, (TypeError, ValueError),
                  r"out .*int64.*int32|out .*int32.*int64"),
    "out shape": ((A, B), {"out": np.empty((5, 3), np.int32)}, ValueError, r"out .*\(5, 3\)"),
    "out read-only": ((A, B), {"out": READ_ONLY}, ValueError, r"out .*(read-only|writ)"),
    "out overlaps": ((MEMORY[:12].reshape(3, 4), B),
                     {"dtype": "int8", "multiplier": 1.0, "out": MEMORY[10:25].reshape(3, 5)},
                     ValueError, r"out .*(overlap|share)"),
    "unknown argument": ((A, B), {"axis": 0}, TypeError, r"matmul.*axis"),
    "no b": ((A,), {}, TypeError, r"matmul.*b"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_matmul_refuses(name):
    args, options, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        oc.matmul(*args, **options)


@pytest.mark.parametrize(
    ("b", "error", "message"),
    [
        (B.astype(np.float32), TypeError, r"b must be int8 or uint8, got float32"),
        (B[0], ValueError, r"b must have 2 dimensions \(K, N\), got shape \(5,\)"),
        ([[1]], TypeError, r"b .*ndarray"),
    ],
    ids=["float", "1-D", "list"],
)
def test_pack_refuses(b, error, message):
    with pytest.raises(error, match=message):
        oc.pack(b)
