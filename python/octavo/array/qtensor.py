"""QTensor: quantized values with what is needed to read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from octavo.array import affine
from octavo.array.interop import as_array, as_float32, digest, dtype_name, read_only
from octavo.array.prepared import PreparedLinear, prepare
from octavo.array.qparams import RANGES, QParams, as_scale, as_zero_point

DTYPES = (*RANGES, "float16")
_NIBBLES = {"int4", "uint4"}

NO_ZERO_POINT: NDArray[np.int32] = read_only(np.zeros((), np.int32))

# The options of `octavo.linear` that give the plain product ``x @ w.T``.
NO_OPTIONS = (None,) * 6

_new = object.__new__

_NO_ARRAY = (
    "a QTensor does not become an array by itself; "
    "use q.dequantize() for float32 values or q.codes() for integers"
)


class QTensor:
    """A frozen array of codes with scale and zero point, ``real = scale * (q - zero_point)``.

    ``x @ q`` multiplies floating-point `x` of shape (..., K) by a (K, N) tensor, in integers: rows
    of `x` are quantized on the fly, the result is float32. Weights stored (out, in) are used as
    ``x @ q.T``. The scale must not vary along the axis that is summed over. The first product packs
    the codes for this CPU, and the packed form is kept beside them.

    Parameters
    ----------
    data : array of codes
        int8 or uint8, one code a byte; int4 and uint4 of `ml_dtypes`; float16; or, with `dtype`
        given, any integers that it holds. Copied.
    scale : float, array of shape (C,), or grouped array
        Positive and finite. Of shape (C,) with an `axis` of length C. With `group_size`: the shape
        of `data` with its other axis divided by the group size, rounded up.
    zero_point : int or array of the shape of `scale`, default 0
        The code that stands for 0.
    dtype : {"int8", "uint8", "int4", "uint4", "float16"}, optional
        What the codes are; that of `data` if not given.
    axis : int, optional
        The axis that has a scale for each index.
    group_size : int, optional
        For 2 dimensions: how many values along the other axis share a scale; the last group may
        be shorter.

    Raises
    ------
    TypeError
        Data of a dtype that holds no codes.
    ValueError
        Codes outside the dtype, shapes that do not match, a scale that is not positive and finite.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> q = oc.QTensor(np.array([[1, -2], [3, 4]], np.int8), [0.5, 0.25], axis=0)
    >>> q
    QTensor(int8, shape=(2, 2), axis=0, scale=[0.5, 0.25], zero_point=0)
    >>> q.dequantize()
    array([[ 0.5 , -1.  ],
           [ 0.75,  1.  ]], dtype=float32)
    >>> (np.array([[1.0, 0.0]]) @ q.T).round(3)
    array([[0.5 , 0.75]], dtype=float32)
    """

    __slots__ = (
        "__weakref__",
        "_axis",
        "_dtype",
        "_group_size",
        "_prepared",
        "_qparams",
        "_scale",
        "_storage",
        "_stored_shape",
        "_transposed",
        "_zero_point",
    )

    # As it was stored (axis and scale included); `_transposed` says that we are its transpose.
    _storage: NDArray[Any]
    _stored_shape: tuple[int, ...]
    _dtype: str
    _scale: NDArray[np.float32]
    _zero_point: NDArray[np.int32]  # of shape () or that of the scale
    _axis: int | None
    _group_size: int | None
    _transposed: bool
    _qparams: QParams | None  # those of ours that were given, or asked for before
    _prepared: _Prepared

    def __init__(
        self,
        data: ArrayLike,
        scale: ArrayLike,
        zero_point: ArrayLike = 0,
        *,
        dtype: DTypeLike | str | None = None,
        axis: int | None = None,
        group_size: int | None = None,
    ) -> None:
        array = as_array(data, "data")
        name = dtype_name(array.dtype.name if dtype is None else dtype, DTYPES)
        kept = affine.normalized_axis(axis, array.ndim)
        size = affine.check_group_size(group_size, kept, array.ndim)
        scales = as_scale(scale)
        affine.check_scale_shape(scales, "data", array.shape, kept, size)
        if name == "float16":
            if array.dtype != np.float16:
                raise TypeError(f"data is {array.dtype}, expected float16")
            if scales.shape or scales != 1 or np.any(np.asarray(zero_point) != 0):
                raise ValueError("float16 data has no scale or zero point; expected 1 and 0")
            half = read_only(np.array(array, order="C"))
            self._set(half, array.shape, name, scales, NO_ZERO_POINT)
            return
        codes = as_codes(array, name)
        zero_points = as_zero_point(zero_point, name, scales.shape)
        storage = (
            _pack_nibbles(codes) if name in _NIBBLES else np.array(codes, dtype=name, order="C")
        )
        zero_points = _without_zeros(zero_points)
        self._set(read_only(storage), array.shape, name, scales, zero_points, kept, size)

    def _set(
        self,
        storage: NDArray[Any],
        stored_shape: tuple[int, ...],
        dtype: str,
        scale: NDArray[np.float32],
        zero_point: NDArray[np.int32],
        axis: int | None = None,
        group_size: int | None = None,
        transposed: bool = False,
        qparams: QParams | None = None,
        prepared: _Prepared | None = None,
    ) -> None:
        """Take parts that are valid and read-only."""
        self._storage = storage
        self._stored_shape = stored_shape
        self._dtype = dtype
        self._scale = scale
        self._zero_point = zero_point
        self._axis = axis
        self._group_size = group_size
        self._transposed = transposed
        self._qparams = qparams
        self._prepared = _Prepared() if prepared is None else prepared

    @property
    def data(self) -> NDArray[Any]:
        """The storage, read-only: int8, uint8 or float16 of `shape`.

        For 4 bits: uint8 of one dimension, two codes a byte in row-major order, the first in the
        low nibble (ONNX's layout). The bytes of a transpose are those of the tensor it came from.
        """
        if self._dtype in _NIBBLES:
            return self._storage
        return self._storage.T if self._transposed else self._storage

    def codes(self) -> NDArray[Any]:
        """Return the codes as int8 or uint8 of `shape`: a read-only view for 8 bits, else new."""
        if self._dtype == "float16":
            raise TypeError("float16 data has no codes; use q.data or q.dequantize()")
        codes = self._storage
        if self._dtype in _NIBBLES:
            codes = _unpack_nibbles(codes, self._stored_shape, self._dtype == "int4")
        return codes.T if self._transposed else codes

    @property
    def scale(self) -> NDArray[np.float32]:
        """Float32, read-only: (), (C,), or grouped (see the parameters)."""
        return self._scale.T if self._transposed else self._scale

    @property
    def zero_point(self) -> NDArray[np.int32]:
        """Int32 of the shape of `scale`, read-only."""
        return np.broadcast_to(
            self._zero_point.T if self._transposed else self._zero_point, self.scale.shape
        )

    @property
    def qparams(self) -> QParams | None:
        """Scale, zero point, dtype and axis as one value; None for groups and for float16."""
        if self._qparams is None and self._dtype != "float16" and self._group_size is None:
            self._qparams = QParams(self._scale, self._zero_point, self._dtype, axis=self.axis)
        return self._qparams

    @property
    def axis(self) -> int | None:
        """The axis that has a scale for each index, counted from the front; None if there is one."""
        if self._axis is None or not self._transposed:
            return self._axis
        return len(self._stored_shape) - 1 - self._axis

    @property
    def group_size(self) -> int | None:
        """How many values along the other axis share a scale; None if all do."""
        return self._group_size

    @property
    def dtype(self) -> str:
        """Name of the codes' dtype."""
        return self._dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values."""
        return self._stored_shape[::-1] if self._transposed else self._stored_shape

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self._stored_shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self._stored_shape)

    @property
    def nbytes(self) -> int:
        """Bytes of data, scales and zero points. Packed forms kept for products are not counted."""
        return self._storage.nbytes + self._scale.nbytes + self._zero_point.nbytes

    @property
    def T(self) -> QTensor:
        """The transpose of at most 2 dimensions, sharing memory; axis and groups turn with it."""
        if self.ndim > 2:
            raise ValueError(f"q.T takes at most 2 dimensions, got {self.ndim}")
        transposed = not self._transposed and self.ndim == 2
        qparams = self._qparams if self._axis is None else None
        q = _new(QTensor)
        q._set(*(*self._state()[:-1], transposed, qparams, self._prepared))
        return q

    def dequantize(self, *, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Return the real values as float32: ``float32(q - zero_point) * scale``."""
        if self._dtype == "float16":
            if out is None:
                return self.data.astype(np.float32, order="C")
            affine.check_out(out, self.shape, "float32", self._storage)
            np.copyto(out, self.data)
            return out
        zero_points = self._zero_point.T if self._transposed else self._zero_point
        return affine.from_codes(
            self.codes(), self.scale, zero_points, self.axis, self._group_size, out
        )

    def equals(self, other: QTensor) -> bool:
        """Whether `other` has the same dtype, shape, axis, groups, codes, scales and zero points."""
        if not isinstance(other, QTensor):
            raise TypeError(f"other is {type(other).__name__}, expected QTensor")
        if (self.dtype, self.shape, self.axis, self.group_size) != (
            other.dtype,
            other.shape,
            other.axis,
            other.group_size,
        ):
            return False
        if self._dtype == "float16":
            return np.array_equal(self.data, other.data, equal_nan=True)
        return (
            np.array_equal(self.codes(), other.codes())
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    def __repr__(self) -> str:
        parts = [self._dtype, f"shape={self.shape}"]
        if self.axis is not None:
            parts.append(f"axis={self.axis}")
        if self._group_size is not None:
            parts.append(f"group_size={self._group_size}")
        if self._dtype != "float16":
            parts += [f"scale={_brief(self.scale)}", f"zero_point={_brief(self.zero_point)}"]
        return f"QTensor({', '.join(parts)})"

    # Copies: a frozen value is its own copy.

    def __copy__(self) -> QTensor:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> QTensor:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_storage, self._state()

    def _state(self) -> tuple[Any, ...]:
        """All parts, in the order of `_set`, but those that are made when asked for."""
        return (
            self._storage,
            self._stored_shape,
            self._dtype,
            self._scale,
            self._zero_point,
            self._axis,
            self._group_size,
            self._transposed,
        )

    def __dask_tokenize__(self) -> tuple[object, ...]:
        plain = [each for each in self._state() if not isinstance(each, np.ndarray)]
        arrays = digest(self._storage, self._scale, self._zero_point)
        return ("octavo.QTensor", *plain, arrays)

    # Containers and truth: what an array does silently, we refuse.

    __iter__ = None

    def __len__(self) -> int:
        if not self._stored_shape:
            raise TypeError("a QTensor of 0 dimensions has no len()")
        return self.shape[0]

    def __bool__(self) -> NoReturn:
        raise TypeError("a QTensor has no truth value; use q.size, or q is not None")

    # NumPy's protocol: products and shapes are answered, all else raises.

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NoReturn:
        raise TypeError(_NO_ARRAY)

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any
    ) -> NDArray[np.float32]:
        if ufunc is np.matmul and method == "__call__" and kwargs.keys() <= {"out"}:
            x, q = inputs
            (out,) = kwargs.get("out", (None,))
            return _product(x, q, out)
        raise TypeError(f"np.{ufunc.__name__} does not take a QTensor: {_NO_ARRAY}")

    def __array_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        answer = _ANSWERED.get(function)
        if answer is None:
            raise TypeError(f"np.{function.__name__} does not take a QTensor: {_NO_ARRAY}")
        return answer(*args, **kwargs)

    def __matmul__(self, other: object) -> NDArray[np.float32]:
        return _product(self, other)

    def __rmatmul__(self, other: ArrayLike) -> NDArray[np.float32]:
        return _product(other, self)


class _Prepared:
    """Operators prepared from one tensor, shared by it and its transposes."""

    # Replaced, never changed: threads may lose each other's entry, and pack once more, but need no
    # lock (which a fork could leave held).
    operators: Mapping[object, Any] = MappingProxyType({})


Operator = TypeVar("Operator")


def prepared_from(
    w: QTensor, options: tuple[object, ...], make: Callable[[QTensor], Operator]
) -> Operator:
    """Return the operator that `make` builds from `w`; the last four are kept, by their options."""
    kept = w._prepared.operators
    key = (options, w._transposed)
    operator: Operator | None = kept.get(key)
    if operator is None:
        operator = make(w)
        w._prepared.operators = dict([*list(kept.items())[-3:], (key, operator)])
    return operator


def _product(x: Any, q: Any, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return ``x @ q`` for floating-point `x`, in float32; `q` is packed at the first use."""
    if not isinstance(q, QTensor):
        raise TypeError(
            "q @ x: the QTensor must be on the right: x @ q, or x @ q.T for weights (out, in)"
        )
    if isinstance(x, QTensor):
        raise TypeError("q @ q: both sides are QTensors; use oc.linear(x_q, w_q), w_q (out, in)")
    hint = "; for 8-bit x use oc.linear(x, w_q, x_qparams=...) or oc.matmul(x, q.codes())"
    operator: PreparedLinear | None = q._prepared.operators.get((NO_OPTIONS, not q._transposed))
    if operator is not None:
        y: NDArray[np.float32] = operator.run(as_float32(x, "x", hint), out)
        return y
    if q.ndim != 2:
        raise ValueError(f"x @ q: q has {q.ndim} dimensions, expected 2")
    if q.axis == 0:
        raise ValueError(
            "x @ q: the scale of q varies along axis 0, which the product sums over; "
            "use x @ q.T for weights (out, in), or quantize (in, out) with axis=1"
        )
    values = as_float32(x, "x", hint)
    return prepared_from(q.T, NO_OPTIONS, prepare).run(values, out)


def _shape(a: QTensor) -> tuple[int, ...]:
    return a.shape


def _ndim(a: QTensor) -> int:
    return a.ndim


def _size(a: QTensor, axis: int | None = None) -> int:
    return a.size if axis is None else a.shape[axis]


_ANSWERED: dict[Callable[..., Any], Callable[..., Any]] = {
    np.dot: _product,
    np.shape: _shape,
    np.ndim: _ndim,
    np.size: _size,
}


def _without_zeros(zero_point: NDArray[np.int32]) -> NDArray[np.int32]:
    """Zeros need no memory; `QTensor.zero_point` shows them in the shape of `scale` all the same."""
    return read_only(zero_point) if zero_point.any() else NO_ZERO_POINT


def _from_storage(
    storage: NDArray[Any],
    stored_shape: tuple[int, ...],
    dtype: str,
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int32],
    *rest: Any,
) -> QTensor:
    """Make a tensor of parts that are valid and that nobody else writes to."""
    q = _new(QTensor)
    zero_point = _without_zeros(zero_point)
    q._set(read_only(storage), stored_shape, dtype, read_only(scale), zero_point, *rest)
    return q


def wrap_codes(
    codes: NDArray[Any],
    scale: NDArray[np.float32],
    zero_point: NDArray[np.int32],
    dtype: str,
    axis: int | None = None,
    group_size: int | None = None,
) -> QTensor:
    """Wrap valid codes, one a byte, that nobody else writes to."""
    storage = _pack_nibbles(codes) if dtype in _NIBBLES else codes
    return _from_storage(storage, codes.shape, dtype, scale, zero_point, axis, group_size)


def wrap_result(codes: NDArray[Any], qparams: QParams) -> QTensor:
    """Wrap fresh 8-bit codes; `qparams` counts its axis from the front."""
    codes.flags.writeable = False
    q = _new(QTensor)
    q._set(
        codes,
        codes.shape,
        qparams._dtype,
        qparams._scale,
        qparams._zero_point,
        qparams._axis,
        None,
        False,
        qparams,
    )
    return q


def as_codes(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return integers that `dtype` holds."""
    if array.dtype.name in _NIBBLES:  # ml_dtypes: one a byte, the upper bits are anything
        low = array.view(np.uint8) & 0xF
        array = _signed(low) if array.dtype.name == "int4" else low
    if array.dtype.name == dtype:
        return array  # nothing that it cannot hold
    if array.dtype.kind not in "iu":
        raise TypeError(f"data is {array.dtype}, expected integer codes of {dtype}")
    qmin, qmax = RANGES[dtype]
    bad = (array < qmin) | (array > qmax)
    if bad.any():
        raise ValueError(f"data holds {array[bad].flat[0]}, expected {qmin} to {qmax} for {dtype}")
    return array


def _signed(nibbles: NDArray[Any]) -> NDArray[np.int8]:
    """Return the values of two's complement nibbles."""
    return ((nibbles ^ 8).astype(np.int8) - np.int8(8)).astype(np.int8)


def _pack_nibbles(codes: NDArray[Any]) -> NDArray[Any]:
    """Store codes two a byte in row-major order, the first in the low nibble."""
    nibbles = codes.reshape(-1).astype(np.uint8) & 0xF
    if nibbles.size % 2:
        nibbles = np.append(nibbles, np.uint8(0))
    return nibbles[0::2] | nibbles[1::2] << 4


def _unpack_nibbles(
    storage: NDArray[np.uint8], shape: tuple[int, ...], signed: bool
) -> NDArray[Any]:
    nibbles = np.empty(2 * storage.size, np.uint8)
    nibbles[0::2] = storage & 0xF
    nibbles[1::2] = storage >> 4
    codes = nibbles[: math.prod(shape)].reshape(shape)
    return _signed(codes) if signed else codes


def _brief(values: NDArray[Any]) -> str:
    """Return one number if all are equal, else the first few."""
    flat = values.reshape(-1)
    if flat.size and (flat == flat[0]).all():
        return str(flat[0])
    shown = ", ".join(str(value) for value in flat[:4])
    return f"[{shown}, ...]" if flat.size > 4 else f"[{shown}]"
