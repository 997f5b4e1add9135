import copy
import pickle

import numpy as np
import pytest

import octavo as oc


def test_scalars():
    p = oc.QParams(0.1, 128)
    assert p.scale.dtype == np.float32
    assert p.scale.shape == p.zero_point.shape == ()
    assert (p.scale, p.zero_point, p.dtype, p.axis) == (np.float32(0.1), 128, "uint8", None)


def test_one_zero_point_serves_every_channel():
    p = oc.QParams([0.5, 0.25, 2.0], -3, "int8", axis=1)
    assert p.zero_point.tolist() == [-3, -3, -3]
    assert p.zero_point.dtype == np.int32
    assert p.axis == 1


def test_the_callers_arrays_are_copied_and_ours_are_read_only():
    scale = np.array([0.5, 0.25], np.float32)
    zero_point = np.array([1, 2], np.int32)
    p = oc.QParams(scale, zero_point, axis=0)
    scale[0] = 9
    zero_point[0] = 9
    assert p.scale.tolist() == [0.5, 0.25]
    assert p.zero_point.tolist() == [1, 2]
    for array in (p.scale, p.zero_point):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_frozen():
    p = oc.QParams(1.0)
    with pytest.raises(AttributeError):
        p.scale = 2.0
    with pytest.raises(AttributeError):
        p.other = 2.0


def test_equal_values_compare_and_hash_equal():
    a, b = oc.QParams([0.5, 1.0], 3, axis=0), oc.QParams([0.5, 1.0], [3, 3], axis=0)
    assert a == b
    assert hash(a) == hash(b)
    others = [
        oc.QParams([0.5, 1.0], 4, axis=0),
        oc.QParams([0.5, 2.0], 3, axis=0),
        oc.QParams([0.5, 1.0], 3, axis=1),
        oc.QParams([0.5, 1.0], 3, "int8", axis=0),
        oc.QParams(0.5, 3),
    ]
    assert all(a != other for other in others)
    assert a != "something else"


@pytest.mark.parametrize("p", [oc.QParams(0.1, 7), oc.QParams([0.1, 3], [1, -2], "int4", axis=-1)])
def test_pickle_and_copy_give_equal_frozen_values(p):
    for q in (pickle.loads(pickle.dumps(p)), copy.copy(p), copy.deepcopy(p)):
        assert q == p
        assert not q.scale.flags.writeable
    assert p.__dask_tokenize__() == pickle.loads(pickle.dumps(p)).__dask_tokenize__()


def test_repr_gives_the_value_back():
    for p in (oc.QParams(0.1, 7), oc.QParams([0.1, 3e-9], [1, -2], "int4", axis=-1)):
        assert eval(repr(p), {"QParams": oc.QParams}) == p


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 1e-60, 1e60, [1.0, 0.0]])
def test_a_scale_that_is_not_positive_and_finite_is_refused(scale):
    axis = 0 if isinstance(scale, list) else None
    with pytest.raises(ValueError, match=r"scale holds .*, expected positive and finite float32"):
        oc.QParams(scale, axis=axis)


@pytest.mark.parametrize("scale", ["a", True, 1j, None])
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(TypeError, match=r"scale is .*, expected real numbers"):
        oc.QParams(scale)


@pytest.mark.parametrize(
    ("dtype", "zero_point"),
    [("uint8", -1), ("uint8", 256), ("int8", -129), ("int8", 128), ("int4", 8), ("uint4", 16)],
)
def test_a_zero_point_outside_the_dtype_is_refused(dtype, zero_point):
    with pytest.raises(
        ValueError, match=rf"zero_point holds {zero_point}, expected .* for {dtype}"
    ):
        oc.QParams(1.0, zero_point, dtype)


@pytest.mark.parametrize("zero_point", [0.0, 1.5, True, "a"])
def test_a_zero_point_that_is_no_integer_is_refused(zero_point):
    with pytest.raises(TypeError, match=r"zero_point is .*, expected integers"):
        oc.QParams(1.0, zero_point)


@pytest.mark.parametrize(
    ("scale", "axis"), [([1.0, 2.0], None), (1.0, 0), ([[1.0]], 0), ([1.0], None)]
)
def test_the_shape_of_the_scale_must_go_with_the_axis(scale, axis):
    with pytest.raises(ValueError, match=r"scale has shape .* with axis=.*; expected \(\) without"):
        oc.QParams(scale, axis=axis)


@pytest.mark.parametrize(("scale", "axis"), [([1.0, 2.0], 0), (1.0, None)])
def test_the_zero_point_must_have_the_shape_of_the_scale(scale, axis):
    with pytest.raises(ValueError, match=r"zero_point has shape \(3,\), scale has .*; expected"):
        oc.QParams(scale, [1, 2, 3], axis=axis)


def test_unknown_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"dtype is 'float16', expected one of int8, uint8, int4"):
        oc.QParams(1.0, dtype="float16")
    with pytest.raises(TypeError):
        oc.QParams(1.0, axis=1.5)
