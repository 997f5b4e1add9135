import numpy as np
import pytest

from octavo.array.interop import as_array, as_float32, dtype_name


class Exporter:
    """An array of another library: DLPack and nothing else."""

    def __init__(self, array, error=None):
        self._array = array
        self._error = error

    def __dlpack__(self, **kwargs):
        if self._error:
            raise self._error
        return self._array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


def test_native_arrays_pass_without_a_copy():
    x = np.arange(6, dtype=np.float32)[::-2]
    assert as_array(x, "x") is x
    assert as_float32(x, "x") is x


def test_byte_swapped_arrays_are_converted():
    x = np.array([1.5, -2.0], ">f4")
    y = as_array(x, "x")
    assert y.dtype == np.dtype("=f4")
    assert y.dtype.isnative
    assert y.tolist() == [1.5, -2.0]


def test_unaligned_arrays_are_copied():
    x = np.frombuffer(b"\0" + np.array([1.5, 2.5], np.float32).tobytes(), np.float32, offset=1)
    assert not x.flags.aligned
    y = as_array(x, "x")
    assert y.flags.aligned
    assert y.tolist() == [1.5, 2.5]


def test_dlpack_arrays_are_read_without_a_copy():
    x = np.array([1.0, 2.0], np.float32)
    assert np.shares_memory(as_array(Exporter(x), "x"), x)


@pytest.mark.parametrize(
    "error", [BufferError("grad"), RuntimeError("bfloat16"), ValueError("gpu")]
)
def test_dlpack_failures_say_what_would_work(error):
    with pytest.raises(
        TypeError, match=r"w is a test_interop\.Exporter that NumPy cannot read .*cpu"
    ):
        as_array(Exporter(np.zeros(1, np.float32), error), "w")


def test_float16_and_float64_become_float32_and_overflow_becomes_infinity():
    assert as_float32(np.array([0.1], np.float16), "x").dtype == np.float32
    assert as_float32(np.array([1e300, -1e300]), "x").tolist() == [np.inf, -np.inf]


def test_bfloat16_is_a_floating_point_input():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert as_float32(np.array([1.5], ml_dtypes.bfloat16), "x").tolist() == [1.5]


@pytest.mark.parametrize("x", [[1, 2], [True], [1j], ["a"], [None]])
def test_other_dtypes_are_refused(x):
    with pytest.raises(TypeError, match=r"x is .*, expected float16, float32 or float64, or codes"):
        as_float32(x, "x", ", or codes")


def test_dtype_names():
    assert dtype_name(np.int8, ("int8",)) == "int8"
    assert dtype_name(np.dtype("uint8"), ("uint8",)) == "uint8"
    assert dtype_name("int4", ("int4",)) == "int4"
    with pytest.raises(ValueError, match=r"dtype is 'int16', expected one of int8, int4"):
        dtype_name("int16", ("int8", "int4"))
