"""``x @ q.T`` and ``x @ q``."""

import gc
import weakref

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import octavo as oc


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def expected(x, q):
    """``x @ q`` by the rules, for q (K, N) without groups."""
    scale, zero_point = (np.broadcast_to(v, q.shape[1]) for v in (q.scale, q.zero_point))
    rows = np.asarray(x).astype(np.float32)
    return reference.dynamic_linear(rows, q.codes().T, scale, zero_point)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4"])
@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (1, 17, 5), (7, 33, 64), (3, 16, 129)])
def test_products_follow_the_rules(rng, dtype, axis, m, n, k):
    w = oc.quantize(rng.standard_normal((n, k)), dtype, axis=axis, symmetric=False)
    x = rng.standard_normal((m, k)).astype(np.float32)
    y = x @ w.T
    assert y.dtype == np.float32
    assert np.array_equal(y, expected(x, w.T))
    stored_in_out = oc.QTensor(
        w.codes().T, w.scale, w.zero_point, dtype=dtype, axis=None if axis is None else 1
    )
    assert np.array_equal(x @ stored_in_out, y)


@given(
    lead=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    n=st.integers(0, 40),
    k=st.integers(0, 70),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    seed=st.integers(0, 99),
)
def test_leading_axes_and_dtypes(lead, n, k, dtype, seed):
    rng = np.random.default_rng(seed)
    w = oc.quantize(rng.standard_normal((n, k)), axis=0)
    x = rng.standard_normal((*lead, k)).astype(dtype)
    y = x @ w.T
    assert y.shape == (*lead, n)
    assert np.array_equal(y, expected(x, w.T))


def test_every_spelling_of_the_product(rng):
    w = oc.quantize(rng.standard_normal((5, 8)), axis=0)
    x = rng.standard_normal((3, 8)).astype(np.float32)
    y = x @ w.T
    out = np.empty_like(y)
    assert np.matmul(x, w.T, out=out) is out
    for other in (np.matmul(x, w.T), np.dot(x, w.T), x.tolist() @ w.T, oc.linear(x, w), out):
        assert np.array_equal(other, y)
    assert (x[0] @ w.T).shape == (5,)
    assert np.array_equal(x[0] @ w.T, y[0])


def test_both_sides_of_a_square_tensor_with_one_scale(rng):
    q = oc.quantize(rng.standard_normal((6, 6)))
    x = rng.standard_normal((2, 6)).astype(np.float32)
    for _ in range(2):  # the second time from the cache
        assert np.array_equal(x @ q, expected(x, q))
        assert np.array_equal(x @ q.T, expected(x, q.T))
    assert not np.array_equal(x @ q, x @ q.T)


@pytest.mark.usefixtures("isa")
def test_rows_with_nan_or_infinity_give_nan_and_leave_the_others(rng):
    w = oc.quantize(rng.standard_normal((5, 8)), axis=0)
    x = rng.standard_normal((4, 8)).astype(np.float32)
    clean = x @ w.T
    x[1, 3], x[2, 0] = np.nan, -np.inf
    y = x @ w.T
    assert np.isnan(y[1:3]).all()
    assert np.array_equal(y[[0, 3]], clean[[0, 3]])


def test_an_all_zero_row_gives_zeros(rng):
    w = oc.quantize(rng.standard_normal((5, 8)), "uint8", axis=0)
    assert (np.zeros((2, 8)) @ w.T).tolist() == [[0.0] * 5] * 2


def test_no_inputs_give_zeros():
    w = oc.quantize(np.ones((5, 0)), axis=0)
    assert (np.ones((2, 0)) @ w.T).tolist() == [[0.0] * 5] * 2


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x[::-1, ::-1],
        lambda x: np.asfortranarray(x),
        lambda x: x.astype(">f4"),
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: np.frombuffer(b"\0" + x.tobytes(), np.float32, offset=1).reshape(x.shape),
    ],
    ids=["negative", "fortran", "swapped", "zero", "unaligned"],
)
def test_odd_inputs(rng, make):
    w = oc.quantize(rng.standard_normal((5, 8)), axis=0)
    x = make(rng.standard_normal((4, 8)).astype(np.float32))
    plain = np.array(x.astype(np.float32), order="C")
    assert np.array_equal(x @ w.T, plain @ w.T)


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8", "uint8"])
@pytest.mark.parametrize(("k", "group_size"), [(100, 32), (64, 32), (7, 128), (5, 1), (0, 4)])
def test_grouped_weights_follow_the_rule(rng, dtype, k, group_size):
    w = oc.quantize(rng.standard_normal((9, k)), dtype, axis=0, group_size=group_size)
    x = rng.standard_normal((2, 3, k)).astype(np.float32)
    y = x @ w.T
    wanted = reference.grouped_linear(
        x.reshape(6, k), w.codes(), w.scale, w.zero_point, group_size
    ).reshape(2, 3, 9)
    assert np.array_equal(y, wanted)
    in_out = oc.QTensor(
        w.codes().T, w.scale.T, w.zero_point.T, dtype=dtype, axis=1, group_size=group_size
    )
    assert np.array_equal(x @ in_out, y)


def test_float16_weights_are_multiplied_in_float32(rng):
    w = oc.quantize(rng.standard_normal((5, 8)), "float16")
    x = rng.standard_normal((3, 8)).astype(np.float32)
    assert np.array_equal(x @ w.T, reference.float_linear(x, w.data.astype(np.float32)))


def test_the_packed_form_is_kept_and_shared_by_transposes(rng):
    w = oc.quantize(rng.standard_normal((5, 8)), axis=0)
    x = rng.standard_normal((3, 8)).astype(np.float32)
    _ = x @ w.T
    (operator,) = w._prepared.operators.values()
    _ = x @ w.T
    _ = x @ w.T.T.T
    oc.linear(x, w)
    assert list(w._prepared.operators.values()) == [operator]


def test_the_packed_form_goes_with_the_tensor(rng):
    w = oc.quantize(rng.standard_normal((5, 8)), axis=0)
    _ = np.ones((1, 8)) @ w.T
    packed = weakref.ref(next(iter(w._prepared.operators.values())))
    del w
    gc.collect()
    assert packed() is None


Q = oc.quantize(np.ones((4, 4)))
W = oc.quantize(np.ones((3, 4)), axis=0)
G = oc.quantize(np.ones((3, 4)), axis=0, group_size=2)
H = oc.quantize(np.ones((3, 4)), "float16")
X = np.ones((2, 4), np.float32)
ERRORS = {
    "q @ x": (lambda: Q @ X.T, TypeError, r"q @ x: the QTensor must be on the right"),
    "q @ q": (lambda: Q @ Q, TypeError, r"q @ q: both sides are QTensors; use oc\.linear"),
    "contracted axis": (
        lambda: X[:, :3] @ W,
        ValueError,
        r"scale of q varies along axis 0, .*use x @ q\.T .*quantize .*axis=1",
    ),
    "contracted groups": (lambda: X[:, :3] @ G, ValueError, r"scale of q varies along axis 0"),
    "integer x": (
        lambda: X.astype(np.int64) @ Q,
        TypeError,
        r"x is int64, expected float16, .*; for 8-bit x use oc\.linear\(x, w_q, x_qp",
    ),
    "uint8 x": (
        lambda: X.astype(np.uint8) @ Q,
        TypeError,
        r"x is uint8, .*oc\.matmul\(x, q\.codes",
    ),
    "1-D q": (
        lambda: X @ oc.QTensor([1, 2, 3, 4], 1.0, dtype="int8"),
        ValueError,
        r"q has 1 dimensions, expected 2",
    ),
    "3-D q": (
        lambda: X @ oc.QTensor(np.ones((1, 4, 4), np.int8), 1.0),
        ValueError,
        r"q has 3 dimensions, expected 2",
    ),
    "lengths": (lambda: X[:, :3] @ Q, ValueError, r"in_features=4, x has 3; they must be equal"),
    "lengths of groups": (lambda: X[:, :3] @ G.T, ValueError, r"in_features=4, x has 3; they must"),
    "0-d x": (lambda: np.matmul(np.float32(1), Q), ValueError, r"x .*dimension"),
    "0-d x by groups": (lambda: np.matmul(np.float32(1), G.T), ValueError, r"x .*dimension"),
    "out dtype": (
        lambda: np.matmul(X, Q, out=np.empty((2, 4))),
        (TypeError, ValueError),
        r"out .*float64.*float32|out .*float32.*float64",
    ),
    "out dtype of groups": (
        lambda: np.matmul(X, G.T, out=np.empty((2, 3))),
        (TypeError, ValueError),
        r"out .*float64.*float32|out .*float32.*float64",
    ),
    "out shape of groups": (
        lambda: np.matmul(X, G.T, out=np.empty((3, 3), np.float32)),
        ValueError,
        r"out has shape \(3, 3\), the result has \(2, 3\)",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_refused_products_name_the_way(case):
    call, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "w",
    [
        Q,
        oc.quantize(np.ones((4, 4)), axis=0, group_size=2),
        oc.quantize(np.ones((4, 4)), "float16"),
    ],
    ids=["integer", "grouped", "float16"],
)
def test_out_must_not_overlap_the_input_or_be_read_only(w):
    x = np.ones((4, 4), np.float32)
    with pytest.raises(ValueError, match=r"out .*(overlap|share)"):
        np.matmul(x, w.T, out=x)
    assert (x == 1).all()
    frozen = np.empty((4, 4), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match=r"read-only|writ"):
        np.matmul(x, w.T, out=frozen)
