"""Arrays of other libraries, and odd NumPy arrays, at the border."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

FLOAT32 = np.dtype(np.float32)


def as_array(x: ArrayLike, name: str) -> NDArray[Any]:
    """Return `x` as an aligned ndarray of native byte order, without a copy where one can be saved.

    Anything with ``__dlpack__`` is read through DLPack, the rest as `numpy.asarray` reads it.
    """
    if not isinstance(x, np.ndarray):
        x = _from_dlpack(x, name) if hasattr(x, "__dlpack__") else np.asarray(x)
    if not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="))
    return x if x.flags.aligned else x.copy()


def _from_dlpack(x: Any, name: str) -> NDArray[Any]:
    try:
        return np.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name} is a {type(x).__module__}.{type(x).__name__} that NumPy cannot read ({error}); "
            "expected an array in CPU memory, of a dtype that NumPy has, without gradients: "
            "for torch, x.detach().cpu().float()"
        ) from error


def as_float32(x: ArrayLike, name: str, hint: str = "") -> NDArray[np.float32]:
    """Return floating-point `x` as float32. What float32 cannot hold becomes infinite."""
    array = as_array(x, name)
    if array.dtype == FLOAT32:
        return array
    if not is_floating(array):
        raise TypeError(f"{name} is {array.dtype}, expected float16, float32 or float64{hint}")
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def as_indices(x: ArrayLike, name: str) -> NDArray[Any]:
    """Return integers of any dtype as int32 or int64."""
    array = as_array(x, name)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} is {array.dtype}, expected integers")
    if array.dtype == np.uint64:
        array = np.asarray(np.minimum(array, np.uint64(2**63 - 1)))  # beyond any table too
    return array if array.dtype in (np.int32, np.int64) else array.astype(np.int64)


def is_floating(x: NDArray[Any]) -> bool:
    """Whether `x` holds real floating-point values (bfloat16 of ml_dtypes included)."""
    return x.dtype.kind == "f" or x.dtype.name == "bfloat16"


def read_only(x: NDArray[Any]) -> NDArray[Any]:
    """Mark an array that we own as read-only, and return it."""
    x.flags.writeable = False
    return x


def digest(*arrays: NDArray[Any]) -> str:
    """Return a hash of the arrays' bytes."""
    import hashlib  # a fifth of the time that importing octavo takes

    found = hashlib.sha256()
    for array in arrays:
        found.update(array.tobytes())
    return found.hexdigest()


def dtype_name(dtype: DTypeLike | str, known: tuple[str, ...]) -> str:
    """Return the name of `dtype`, which must be one of `known` (int4 need not be known to NumPy)."""
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    if name not in known:
        raise ValueError(f"dtype is {name!r}, expected one of {', '.join(known)}")
    return name
