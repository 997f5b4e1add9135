import copy
import pickle

import numpy as np
import pytest

import octavo as oc


def random_codes(shape, dtype, seed=0):
    low, high = {"int8": (-128, 128), "uint8": (0, 256), "int4": (-8, 8), "uint4": (0, 16)}[dtype]
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype.replace("4", "8"))


def examples():
    """One tensor of each kind."""
    rng = np.random.default_rng(2)
    return {
        "int8": oc.QTensor(random_codes((3, 5), "int8"), 0.5),
        "uint8 per channel": oc.QTensor(
            random_codes((3, 5), "uint8"), [0.5, 0.25, 2.0], [1, 2, 3], axis=0
        ),
        "int4": oc.QTensor(random_codes((3, 5), "int4"), 0.5, 2, dtype="int4"),
        "uint4 in groups": oc.QTensor(
            random_codes((3, 5), "uint4"),
            rng.random((3, 2)) + 0.5,
            rng.integers(0, 16, (3, 2)),
            dtype="uint4",
            axis=0,
            group_size=4,
        ),
        "float16": oc.QTensor(rng.standard_normal((3, 5)).astype(np.float16), 1.0),
    }


@pytest.fixture(params=examples())
def q(request):
    return examples()[request.param]


# --- construction --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4"])
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 5), (2, 4), (0, 3), (2, 3, 5)])
def test_codes_come_back_as_they_were(dtype, shape):
    codes = random_codes(shape, dtype)
    q = oc.QTensor(codes, 0.5, dtype=dtype)
    assert q.codes().dtype == codes.dtype
    assert q.codes().shape == q.shape == shape
    assert np.array_equal(q.codes(), codes)
    assert (q.dtype, q.ndim, q.size) == (dtype, len(shape), codes.size)
    assert q.data.nbytes == (codes.size if dtype[-1] == "8" else (codes.size + 1) // 2)
    assert not q.data.flags.writeable


def test_four_bits_are_stored_as_onnx_stores_them():
    # onnx.helper.make_tensor("", INT4, [3], [-8, -1, 7]).raw_data == b"\xf8\x07"
    q = oc.QTensor([-8, -1, 7], 1.0, dtype="int4")
    assert q.data.tobytes() == b"\xf8\x07"
    assert oc.QTensor([[1, 2, 3], [4, 5, 6]], 1.0, dtype="uint4").data.tobytes() == b"\x21\x43\x65"


def test_any_integers_that_fit_are_taken_with_a_dtype():
    assert oc.QTensor([1, 2, 255], 1.0, dtype="uint8").codes().dtype == np.uint8
    assert oc.QTensor(np.array([-7, 7]), 1.0, dtype=np.int8).codes().tolist() == [-7, 7]


def test_later_writes_to_the_callers_arrays_change_nothing():
    codes, scale, zero_point = np.array([1, 2], np.int8), np.ones(2, np.float32), np.ones(2, int)
    q = oc.QTensor(codes, scale, zero_point, axis=0)
    codes[:], scale[:], zero_point[:] = 9, 9, 9
    assert q.codes().tolist() == [1, 2]
    assert q.dequantize().tolist() == [0.0, 1.0]


def test_frozen(q):
    with pytest.raises(AttributeError):
        q.scale = 2.0
    with pytest.raises(AttributeError):
        q.other = 2.0
    for array in (q.data, q.scale, q.zero_point):
        assert not array.flags.writeable


def test_strided_and_fortran_codes_are_stored_row_major():
    codes = random_codes((4, 6), "int8")
    for view in (
        codes.T,
        codes[::-1, ::2],
        np.asfortranarray(codes),
        np.broadcast_to(codes[0], (3, 6)),
    ):
        for dtype in ("int8", "int4"):
            data = view // 16 if dtype == "int4" else view
            q = oc.QTensor(data, 1.0, dtype=dtype)
            assert np.array_equal(q.codes(), data)
            assert q.codes().flags.c_contiguous


C = np.zeros((3, 4), np.int8)
ERRORS = [
    ((np.zeros(3), 1.0), {}, ValueError, r"dtype is 'float64', expected one of int8, uint8, int4"),
    ((C, 1.0), {"dtype": "int16"}, ValueError, r"dtype is 'int16', expected one of"),
    ((np.zeros(3), 1.0), {"dtype": "int8"}, TypeError, r"data is float64, expected integer codes"),
    (([8], 1.0), {"dtype": "int4"}, ValueError, r"data holds 8, expected -8 to 7 for int4"),
    (([-1], 1.0), {"dtype": "uint8"}, ValueError, r"data holds -1, expected 0 to 255 for uint8"),
    ((C, [1.0, 1.0, 1.0]), {}, ValueError, r"scale has shape \(3,\), expected \(\) for data of"),
    ((C, [1.0, 1.0, 1.0]), {"axis": 1}, ValueError, r"scale has shape \(3,\), expected \(4,\)"),
    ((C, 1.0), {"axis": 1}, ValueError, r"scale has shape \(\), expected \(4,\)"),
    ((C, 1.0), {"axis": 2}, ValueError, r"axis is 2, expected -2 to 1 for 2 dimensions"),
    (
        (C, np.ones((3, 1))),
        {"axis": 0, "group_size": 2},
        ValueError,
        r"scale has shape \(3, 1\), expected \(3, 2\) .*axis=0, group_size=2",
    ),
    ((C, 1.0), {"group_size": 2}, ValueError, r"group_size=2 needs the axis to keep"),
    ((C, 0.0), {}, ValueError, r"scale holds 0\.0, expected positive and finite"),
    ((C, np.inf), {}, ValueError, r"scale holds inf"),
    ((C, 1.0, 200), {}, ValueError, r"zero_point holds 200, expected -128 to 127 for int8"),
    ((C, 1.0, [1, 2]), {}, ValueError, r"zero_point has shape \(2,\), scale has \(\)"),
    ((C, 1.0), {"dtype": "float16"}, TypeError, r"data is int8, expected float16"),
    ((C.astype(np.float16), 2.0), {}, ValueError, r"float16 data has no scale or zero point"),
    ((C.astype(np.float16), 1.0, 1), {}, ValueError, r"float16 data has no scale or zero point"),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), ERRORS)
def test_construction_refuses(args, options, error, message):
    with pytest.raises(error, match=message):
        oc.QTensor(*args, **options)


# --- the transpose -------------------------------------------------------------------------------


def test_the_transpose_shares_memory_and_turns_axis_and_groups(q):
    t = q.T
    assert np.shares_memory(t.data, q.data)
    assert t.shape == (5, 3)
    assert t.axis == (None if q.axis is None else 1)
    assert t.group_size == q.group_size
    assert np.array_equal(t.scale, q.scale.T)
    assert np.array_equal(t.zero_point, q.zero_point.T)
    assert np.array_equal(t.dequantize(), q.dequantize().T)
    if q.dtype != "float16":
        assert np.array_equal(t.codes(), q.codes().T)
    assert t.T.equals(q)
    assert t.nbytes == q.nbytes


def test_the_transpose_of_fewer_than_two_dimensions_is_the_same():
    for shape in ((), (3,)):
        q = oc.QTensor(np.ones(shape, np.int8), 1.0)
        assert q.T.equals(q)


def test_the_transpose_of_three_dimensions_is_refused():
    with pytest.raises(ValueError, match=r"q\.T takes at most 2 dimensions, got 3"):
        _ = oc.QTensor(np.ones((2, 2, 2), np.int8), 1.0).T


# --- reading -------------------------------------------------------------------------------------


def test_qparams(q):
    if q.group_size is not None or q.dtype == "float16":
        assert q.qparams is None
    else:
        assert q.qparams == oc.QParams(q.scale, q.zero_point, q.dtype, axis=q.axis)
        assert q.T.qparams == oc.QParams(q.scale, q.zero_point, q.dtype, axis=q.T.axis)
        assert q.qparams is q.qparams  # made once


def test_codes_of_eight_bits_are_a_view_and_float16_has_none():
    kinds = examples()
    assert np.shares_memory(kinds["int8"].codes(), kinds["int8"].data)
    with pytest.raises(TypeError, match=r"float16 data has no codes; use q\.data or q\.dequantize"):
        kinds["float16"].codes()


def test_nbytes_counts_data_scales_and_zero_points():
    kinds = examples()
    assert kinds["int8"].nbytes == 15 + 4 + 4
    assert kinds["uint8 per channel"].nbytes == 15 + 12 + 12
    assert kinds["uint4 in groups"].nbytes == 8 + 24 + 24
    symmetric = oc.quantize(np.ones((64, 64)), "int4", axis=0, group_size=32)
    assert symmetric.nbytes == 64 * 32 + 64 * 2 * 4 + 4


def test_equals_compares_everything():
    kinds = examples()
    for name, q in kinds.items():
        assert [other for other, r in examples().items() if q.equals(r)] == [name]
    codes, q = kinds["int8"].codes(), kinds["int8"]
    assert not q.equals(q.T)
    assert not q.equals(oc.QTensor(codes, 0.25))
    assert not q.equals(oc.QTensor(codes, 0.5, 1))
    assert not q.equals(oc.QTensor(codes ^ 1, 0.5))
    nan = oc.QTensor(np.array([np.nan], np.float16), 1.0)
    assert nan.equals(pickle.loads(pickle.dumps(nan)))
    with pytest.raises(TypeError, match=r"other is ndarray, expected QTensor"):
        q.equals(codes)


def test_repr_tells_what_matters():
    kinds = examples()
    assert repr(kinds["int8"]) == "QTensor(int8, shape=(3, 5), scale=0.5, zero_point=0)"
    assert repr(kinds["float16"]) == "QTensor(float16, shape=(3, 5))"
    assert repr(kinds["uint8 per channel"].T) == (
        "QTensor(uint8, shape=(5, 3), axis=1, scale=[0.5, 0.25, 2.0], zero_point=[1, 2, 3])"
    )
    assert "axis=0, group_size=4, scale=[" in repr(kinds["uint4 in groups"])
    many = oc.quantize(np.diag(np.arange(1.0, 8)) * 127, axis=0)
    assert repr(many).endswith("scale=[1.0, 2.0, 3.0, 4.0, ...], zero_point=0)")
    empty = oc.QTensor(np.zeros((0, 2), np.int8), np.zeros(0), axis=0)
    assert "scale=[], zero_point=[]" in repr(empty)


# --- copies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_give_the_same_frozen_tensor(q, protocol):
    for each in (q, q.T):
        r = pickle.loads(pickle.dumps(each, protocol))
        assert r.equals(each)
        assert not r.data.flags.writeable
        assert r.__dask_tokenize__() == each.__dask_tokenize__()


def test_protocol_5_leaves_the_data_out_of_band():
    q = oc.quantize(np.ones((100, 100)), axis=0)
    buffers = []
    data = pickle.dumps(q, 5, buffer_callback=buffers.append)
    assert len(data) < 1000
    assert sum(len(buffer.raw()) for buffer in buffers) >= 100 * 100
    # Read-only buffers, as joblib's memory maps and ray's object store give them.
    r = pickle.loads(data, buffers=[memoryview(bytes(buffer.raw())) for buffer in buffers])
    assert r.equals(q)
    assert np.array_equal(np.ones((1, 100)) @ r.T, np.ones((1, 100)) @ q.T)


def test_prepared_products_do_not_travel():
    q = oc.quantize(np.ones((50, 50)), axis=0)
    before = len(pickle.dumps(q))
    _ = np.ones((1, 50)) @ q.T
    assert len(pickle.dumps(q)) == before


def test_copies_are_the_tensor_itself(q):
    assert copy.copy(q) is q
    assert copy.deepcopy([q])[0] is q


def test_tokens_differ_with_the_content():
    tokens = {str(q.__dask_tokenize__()) for q in examples().values()}
    tokens |= {str(q.T.__dask_tokenize__()) for q in examples().values()}
    assert len(tokens) == 10


# --- NumPy's protocol ----------------------------------------------------------------------------


def test_shapes_are_answered(q):
    assert (np.shape(q), np.ndim(q), np.size(q), np.size(q, 1), len(q)) == ((3, 5), 2, 15, 5, 3)


REFUSED = {
    "asarray": np.asarray,
    "sum": np.sum,
    "abs": np.abs,
    "concatenate": lambda q: np.concatenate([q, q]),
    "array_equal": lambda q: np.array_equal(q, q),
    "add": lambda q: q + 1,
    "multiply": lambda q: np.ones((3, 5)) * q,
    "equal": lambda q: np.ones((3, 5)) == q,
    "matmul with dtype": lambda q: np.matmul(np.ones((1, 3)), q, dtype=np.float32),
    "matmul into one": lambda q: np.matmul(np.ones((3, 2)), np.ones((2, 5)), out=q),
    "reduce": lambda q: np.add.reduce(q),
    "iteration": lambda q: list(q),
    "index": lambda q: q[0],
}


@pytest.mark.parametrize("function", REFUSED)
def test_all_else_raises(function):
    with pytest.raises(TypeError):
        REFUSED[function](examples()["int8"])


def test_what_raises_names_the_way():
    q = examples()["int8"]
    with pytest.raises(TypeError, match=r"does not become an array by itself; use q\.dequantize"):
        np.asarray(q)
    with pytest.raises(TypeError, match=r"np\.add does not take a QTensor: .*q\.dequantize"):
        np.ones(5) + q
    with pytest.raises(TypeError, match=r"np\.sum does not take a QTensor: .*q\.codes"):
        np.sum(q)


def test_truth_and_length_are_refused_where_they_mean_nothing():
    with pytest.raises(TypeError, match=r"a QTensor has no truth value; use q\.size"):
        bool(examples()["int8"])
    with pytest.raises(TypeError, match=r"a QTensor of 0 dimensions has no len"):
        len(oc.QTensor(np.int8(1), 1.0))
