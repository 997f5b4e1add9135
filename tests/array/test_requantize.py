"""``oc.requantize`` against plain NumPy."""

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import octavo as oc
from octavo import runtime


@pytest.mark.usefixtures("isa")
def test_rounds_half_to_even_and_saturates():
    acc = np.array([1, 3, 5, -1, -3, 2**31 - 1, -(2**31), 1000], np.int32)
    assert oc.requantize(acc, 0.5, 10).tolist() == [10, 12, 12, 10, 8, 255, 0, 255]
    assert oc.requantize(acc, 0.5, 10, dtype="int8").tolist() == [10, 12, 12, 10, 8, 127, -128, 127]


@pytest.mark.usefixtures("isa")
def test_the_product_is_not_fused_with_what_follows():
    # Reported elsewhere as rounded differently with and without fused multiply-add.
    acc, multiplier = np.int32([-791] * 40), np.float32(4.956984e-04)
    wanted = reference.requantize(acc, multiplier, 3, "int8")
    assert np.array_equal(oc.requantize(acc, multiplier, 3, dtype="int8"), wanted)


@given(
    acc=hnp.arrays(
        np.int32,
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=40),
        elements=st.integers(-(2**30), 2**30),
    ),
    multiplier=st.floats(2.0**-40, 2.0**10, width=32),
    dtype=st.sampled_from(["uint8", "int8"]),
    data=st.data(),
)
def test_any_accumulators(acc, multiplier, dtype, data):
    axis = data.draw(st.integers(-acc.ndim, acc.ndim - 1))
    channels = acc.shape[axis]
    zero = data.draw(st.integers(*reference.RANGES[dtype]))
    factors = np.float32(multiplier) * np.linspace(1, 2, channels, dtype=np.float32)
    bias = data.draw(
        hnp.arrays(np.int32, channels, elements=st.integers(-(2**29), 2**29)) | st.just(0)
    )
    channels_last = np.moveaxis(acc, axis, -1)
    wanted = np.moveaxis(reference.requantize(channels_last, factors, zero, dtype, bias), -1, axis)
    with runtime.force_isa(data.draw(st.sampled_from(runtime.available_isas()))):
        y = oc.requantize(acc, factors, zero, bias=bias, dtype=dtype, axis=axis)
    assert np.array_equal(y, wanted)
    low, high = sorted(data.draw(st.tuples(*[st.integers(*reference.RANGES[dtype])] * 2)))
    y = oc.requantize(acc, factors, zero, bias=bias, dtype=dtype, axis=axis, clip=(low, high))
    assert np.array_equal(y, np.clip(wanted, low, high))


@pytest.mark.usefixtures("isa")
def test_strides_empty_arrays_and_out():
    acc = np.arange(-300, 300, dtype=np.int32).reshape(20, 30)
    wanted = reference.requantize(acc, 0.3, 128, "uint8")
    assert np.array_equal(oc.requantize(acc[::-1, ::3], 0.3, 128), wanted[::-1, ::3])
    assert np.array_equal(oc.requantize(acc.T, 0.3, 128), wanted.T)
    assert oc.requantize(acc[:0], 0.3).shape == (0, 30)
    out = np.empty((20, 30), np.uint8)
    assert oc.requantize(acc, 0.3, 128, out=out) is out
    assert np.array_equal(out, wanted)
    strided = np.zeros((20, 60), np.uint8)
    oc.requantize(acc, 0.3, 128, out=strided[:, ::2])
    assert np.array_equal(strided[:, ::2], wanted)
    assert not strided[:, 1::2].any()


ACC = np.ones((3, 4), np.int32)
MEMORY = np.zeros(12, np.int32)
ERRORS = {
    "float acc": ((ACC.astype(np.float32), 1.0), {}, TypeError, r"acc must be int32, got float32"),
    "int64 acc": ((ACC.astype(np.int64), 1.0), {}, TypeError, r"acc must be int32, got int64"),
    "dtype": ((ACC, 1.0), {"dtype": "int32"}, (TypeError, ValueError), r"dtype .*int32"),
    "zero multiplier": ((ACC, 0.0), {}, ValueError, r"multiplier must be positive and finite, got 0"),
    "negative": ((ACC, -1.0), {}, ValueError, r"multiplier must be positive and finite, got -1"),
    "infinite": ((ACC, np.inf), {}, ValueError, r"multiplier must be positive and finite, got inf"),
    "length": ((ACC, np.ones(3, np.float32)), {}, ValueError, r"multiplier .*3.*4"),
    "bias length": ((ACC, 1.0), {"bias": np.ones(3, np.int32)}, ValueError, r"bias .*3.*4"),
    "float bias": ((ACC, 1.0), {"bias": np.ones(4)}, TypeError, r"bias"),
    "zero point": ((ACC, 1.0, 256), {}, ValueError, r"zero_point must be in \[0, 255\] for uint8"),
    "clip": ((ACC, 1.0), {"clip": (5, 300)}, ValueError, r"clip must hold codes lo <= hi in"),
    "clip no tuple": ((ACC, 1.0), {"clip": 5}, TypeError, r"clip must be a tuple \(lo, hi\) or None"),
    "axis": ((ACC, 1.0), {"axis": 2}, ValueError, r"axis .*2"),
    "out dtype": ((ACC, 1.0), {"out": np.empty((3, 4), np.int8)}, (TypeError, ValueError),
                  r"out .*int8.*uint8|out .*uint8.*int8"),
    "out overlaps": ((MEMORY.reshape(3, 4), 1.0), {"out": MEMORY.view(np.uint8)[:12].reshape(3, 4)},
                     ValueError, r"out .*(overlap|share)"),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_requantize_refuses(name):
    args, options, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        oc.requantize(*args, **options)
