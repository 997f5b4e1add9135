"""``oc.Embedding``: rows of a stored table are those of the dequantized one, bit for bit."""

import copy
import functools
import importlib.util
import os
import pickle
import threading
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import octavo as oc

HAS_ONNX = importlib.util.find_spec("onnx") is not None
IN_QEMU = os.environ.get("OCTAVO_IN_QEMU") == "1"
PRECISIONS = ["int8", "int8/16", "int4/32", "int4/128", "int4/7", "float16", "float32"]


@pytest.fixture
def rng():
    return np.random.default_rng(6)


def plain(table):
    w, none = table.unpack()
    assert none is None
    return w if isinstance(w, np.ndarray) else w.dequantize()


def bits(x):
    return x.view(np.uint32).tobytes()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dim", [1, 2, 15, 16, 17, 31, 33, 64, 77, 300])
def test_rows_are_those_of_the_dequantized_table(rng, precision, dim):
    table = oc.Embedding.from_float(rng.standard_normal((23, dim)), precision=precision)
    indices = rng.integers(0, 23, (5, 4))
    indices[0, 0], indices[-1, -1] = 0, 22
    y = table(indices)
    assert (y.shape, y.dtype) == ((5, 4, dim), np.float32)
    assert bits(y) == bits(plain(table)[indices])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_bits_for_every_instruction_set_and_number_of_threads(rng, precision):
    table = oc.Embedding.from_float(rng.standard_normal((40, 1001)), precision=precision)
    indices = rng.integers(0, 40, 300)
    wanted = bits(plain(table)[indices])
    for isa in oc.runtime.available_isas():
        for threads in (1, 2, 8):
            with oc.runtime.force_isa(isa), oc.threads(threads):
                assert bits(table(indices)) == wanted
                assert oc.runtime.last_kernel().startswith(f"{isa}/gather")


@given(data=st.data())
def test_tables_that_are_quantized_already(data):
    rows, dim = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 70))
    dtype = data.draw(st.sampled_from(["int8", "uint8", "int4", "uint4"]))
    size = data.draw(st.sampled_from([None, None, 1, 2, 3, 32, 100]))
    axis = 0 if size else data.draw(st.sampled_from([None, 0]))
    turned = data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    w = rng.standard_normal((rows, dim)).astype(np.float32)
    symmetric = data.draw(st.booleans())
    if turned:
        kept = None if axis is None else 1
        w_q = oc.quantize(w.T, dtype, axis=kept, group_size=size, symmetric=symmetric).T
    else:
        w_q = oc.quantize(w, dtype, axis=axis, group_size=size, symmetric=symmetric)
    table = oc.Embedding.from_quantized(w_q)
    assert table.unpack()[0].equals(w_q)
    indices = rng.integers(0, rows, 11)
    assert bits(table(indices)) == bits(w_q.dequantize()[indices])


@pytest.mark.usefixtures("isa")
def test_every_float16_is_widened_exactly():
    half = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(2048, 32)
    y = oc.Embedding.from_quantized(oc.QTensor(half, 1.0))(np.arange(2048))
    with np.errstate(invalid="ignore"):  # of NaN that signal
        wanted = half.astype(np.float32)
    assert np.array_equal(y, wanted, equal_nan=True)
    assert np.array_equal(np.signbit(y), np.signbit(half))


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i8"]
)
def test_indices_of_any_integer_dtype_and_shape(rng, dtype):
    table = oc.Embedding.from_float(rng.standard_normal((100, 8)))
    full = plain(table)
    for shape in [(), (1,), (0,), (3, 0), (2, 3, 4)]:
        indices = rng.integers(0, 100, shape).astype(dtype)
        assert np.array_equal(table(indices), full[indices.astype(np.int64)])
    wide = rng.integers(0, 100, (6, 8)).astype(dtype)
    for view in (wide.T, wide[::2, ::-1], np.broadcast_to(wide[:1], (3, 8))):
        assert np.array_equal(table(view), full[view.astype(np.int64)])
    assert np.array_equal(table([1, 2]), full[[1, 2]])
    assert np.array_equal(table(7), full[7])


@pytest.mark.parametrize("precision", ["int8", "int4/32", "float16", "float32"])
def test_out_is_written_and_returned(rng, precision):
    table = oc.Embedding.from_float(rng.standard_normal((9, 20)), precision=precision)
    indices = rng.integers(0, 9, (3, 4))
    out = np.zeros((3, 4, 20), np.float32)
    assert table(indices, out=out) is out
    assert np.array_equal(out, table(indices))
    apart = np.zeros((3, 4, 40), np.float32)
    assert np.array_equal(table(indices, out=apart[..., ::2]), out)
    assert not apart[..., 1::2].any()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_a_table_tells(rng, precision):
    w = rng.standard_normal((64, 256)).astype(np.float32)
    table = oc.Embedding.from_float(w, precision=precision)
    assert (table.rows, table.dim, table.precision) == (64, 256, precision)
    assert repr(table) == f"Embedding(rows=64, dim=256, precision='{precision}')"
    dtype, _, size = precision.partition("/")
    scales = 0 if dtype.startswith("float") else 64 * -(-256 // int(size or 256)) * 4
    width = {"int4": 0.5, "int8": 1, "float16": 2, "float32": 4}[dtype]
    assert table.nbytes == pytest.approx(w.size * width + scales, abs=8)
    with pytest.raises(AttributeError):
        table.rows = 3
    w[:] = 0  # the table is a copy
    assert plain(table).any()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("protocol", [2, 5])
def test_pickles_give_the_same_table(rng, precision, protocol):
    table = oc.Embedding.from_float(rng.standard_normal((9, 21)), precision=precision)
    other = pickle.loads(pickle.dumps(table, protocol))
    indices = np.arange(9)
    assert bits(other(indices)) == bits(table(indices))
    assert repr(other) == repr(table)
    assert other.__dask_tokenize__() == table.__dask_tokenize__()
    different = oc.Embedding.from_float(np.ones((9, 21)), precision=precision)
    assert different.__dask_tokenize__() != table.__dask_tokenize__()
    assert copy.deepcopy(table) is table


def test_tables_without_rows_or_columns():
    for precision in PRECISIONS:
        empty = oc.Embedding.from_float(np.zeros((0, 4), np.float32), precision=precision)
        assert empty(np.zeros((2, 0), np.int64)).shape == (2, 0, 4)
        with pytest.raises(ValueError, match="indices holds 0"):
            empty([0])
        narrow = oc.Embedding.from_float(np.zeros((4, 0), np.float32), precision=precision)
        assert narrow([3, 1]).shape == (2, 0)


TABLE = oc.Embedding.from_float(np.ones((5, 4), np.float32))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TABLE([0, 5]), ValueError, "indices holds 5, expected at least 0 and below .* 5"),
        (lambda: TABLE([-1]), ValueError, "indices holds -1, expected at least 0"),
        (
            lambda: TABLE(np.array(2**63, np.uint64)),
            ValueError,
            "indices holds 9223372036854775807",
        ),
        (lambda: TABLE(np.array([2**31], np.uint32)), ValueError, "indices holds 2147483648"),
        (lambda: TABLE([0.0]), TypeError, "indices is float64, expected integers"),
        (lambda: TABLE([True]), TypeError, "indices is bool, expected integers"),
        (lambda: TABLE([0], out=np.zeros((1, 4))), TypeError, "out has dtype float64"),
        (
            lambda: TABLE([0], out=np.zeros((4, 1), np.float32)),
            ValueError,
            r"out has shape \(4, 1\), the result has \(1, 4\)",
        ),
        (oc.Embedding, TypeError, r"use Embedding\.from_float"),
        (
            lambda: oc.Embedding.from_float(np.ones(3)),
            ValueError,
            "1 dimensions, expected 2: .rows",
        ),
        (lambda: oc.Embedding.from_float(np.ones((3, 2), int)), TypeError, "w is int64"),
        (
            lambda: oc.Embedding.from_float(np.ones((3, 2)), precision="int2"),
            ValueError,
            "precision is 'int2'",
        ),
        (
            lambda: oc.Embedding.from_quantized(np.ones((3, 2))),
            TypeError,
            r"w_q is ndarray, expected octavo\.QTensor",
        ),
        (
            lambda: oc.Embedding.from_quantized(oc.quantize(np.ones((3, 2)), axis=1)),
            ValueError,
            "varies along axis 1",
        ),
        (
            lambda: oc.Embedding.from_quantized(oc.quantize(np.ones((3, 2, 2)))),
            ValueError,
            "3 dimensions, expected 2",
        ),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_wrong_index_stops_the_call_before_anything_is_written():
    out = np.full((2, 4), 7, np.float32)
    with pytest.raises(ValueError, match="indices holds 5"):
        TABLE([0, 5], out=out)
    assert (out == 7).all()


def test_indices_that_another_thread_changes_read_nothing_beyond_the_table(rng):
    # The table lies at the end of what is mapped for its size: an unchecked index would crash.
    table = oc.Embedding.from_float(rng.standard_normal((3, 4096)), precision="float32")
    indices = np.zeros(2000 if not IN_QEMU else 200, np.int64)
    stop = threading.Event()

    def change():
        while not stop.is_set():
            indices[-1] = 2**40
            indices[-1] = 0

    writer = threading.Thread(target=change)
    writer.start()
    try:
        outcomes = set()
        for _ in range(20):
            try:
                outcomes.add(bits(table(indices)[-1]))
            except ValueError:
                outcomes.add("refused")
    finally:
        stop.set()
        writer.join()
    assert outcomes <= {"refused", bits(plain(table)[0])}


@functools.cache
def onnx_cases():
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other operators' cases overflow and divide by zero
        cases = collect_testcases(None)
    return [
        case for case in cases if [node.op_type for node in case.model.graph.node] == ["Gather"]
    ]


@pytest.mark.skipif(not HAS_ONNX, reason="ONNX's node cases are not run without onnx")
@pytest.mark.skipif(IN_QEMU, reason="onnx computes all its cases first, which takes minutes")
def test_onnx_node_cases_of_gather():
    run = 0
    for case in onnx_cases():
        (node,) = case.model.graph.node
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        for (x, indices), (wanted,) in case.data_sets:
            # Along another axis, or of more dimensions: the same rows of the turned matrix.
            turned = np.moveaxis(x, axis, 0).astype(np.float32)
            table = oc.Embedding.from_float(turned.reshape(len(turned), -1), precision="float32")
            # ONNX counts negative indices from the end; a table refuses them.
            rows = table(np.where(indices < 0, indices + len(turned), indices))
            rows = rows.reshape(*indices.shape, *turned.shape[1:])
            front = tuple(range(indices.ndim))
            y = np.moveaxis(rows, front, tuple(axis + i for i in front))
            assert np.array_equal(y, wanted.astype(np.float32)), case.name
            run += 1
    assert run >= 4
