"""Operators that NumPy computes: shapes, indices, comparisons, arithmetic of single values.

Views where ONNX's meaning allows one. What NumPy leaves to a C library or to the CPU at hand (log,
sin, pow) is computed in float64 and rounded once, so that float32 results do not depend on either.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import _core
from octavo.graph.kernel import (
    NHWC,
    Arg,
    Attributes,
    Given,
    Kernel,
    Make,
    Native,
    channels_first,
    channels_last,
)

Array = NDArray[Any]

_FLOATS = frozenset({"float16", "float32", "float64"})
_INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
NUMBERS = _FLOATS | _INTEGERS | {"bool"}
# ONNX's numbers for the element types that NumPy has; strings and the small floats are not here.
DTYPES = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    3: np.dtype(np.int8),
    4: np.dtype(np.uint16),
    5: np.dtype(np.int16),
    6: np.dtype(np.int32),
    7: np.dtype(np.int64),
    9: np.dtype(np.bool_),
    10: np.dtype(np.float16),
    11: np.dtype(np.float64),
    12: np.dtype(np.uint32),
    13: np.dtype(np.uint64),
}


def are_numbers(args: Sequence[Arg]) -> bool:
    """Whether NumPy can compute with all of these."""
    return all(arg.dtype is None or arg.dtype in NUMBERS for arg in args)


def _is_float(arg: Arg) -> bool:
    return arg.dtype is None or arg.dtype in _FLOATS


def _elementwise(function: Callable[..., Any]) -> Make:
    def make(_a: Attributes, args: Sequence[Arg]) -> Kernel | None:
        return Kernel(function) if are_numbers(args) else None

    return make


def _tensors(function: Callable[[Attributes], Callable[..., Any]]) -> Make:
    """Operators that move values of whatever dtype; sequences are left to the reference."""

    def make(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
        if any(arg.dtype in ("sequence", "optional", "map", "sparse_tensor") for arg in args):
            return None
        return Kernel(function(a))

    return make


def _in_float64(function: Callable[..., Any]) -> Make:
    """Float operators computed in float64 and rounded once."""

    def run(x: Array, *more: Any) -> Array:
        result: Array = function(x.astype(np.float64), *more).astype(x.dtype)
        return result

    def make(_a: Attributes, args: Sequence[Arg]) -> Kernel | None:
        return Kernel(run) if _is_float(args[0]) and are_numbers(args) else None

    return make


def _reduced(function: Any, *arrays: Array) -> Any:
    result = arrays[0]
    for each in arrays[1:]:
        result = function(result, each)
    return result


def _variadic(function: Any) -> Make:
    return _elementwise(partial(_reduced, function))


def _mean(*arrays: Array) -> Any:
    total = _reduced(np.add, *arrays)
    return total / total.dtype.type(len(arrays))


def _divide(a: Array, b: Array) -> Any:
    if a.dtype.kind == "f":
        return np.divide(a, b)
    quotient = np.floor_divide(a, b)
    if a.dtype.kind == "u":
        return quotient
    # ONNX cuts towards zero.
    up = ((a < 0) != (b < 0)) & (quotient * b != a)
    return quotient + up.astype(quotient.dtype)


def _mod(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    if not are_numbers(args):
        return None
    return Kernel(np.fmod if a.get("fmod", 0) else np.mod)


def _pow(_a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    if not are_numbers(args):
        return None
    exponent = args[1].array
    if exponent is not None and exponent.size == 1 and exponent.ndim <= 1 and _is_float(args[0]):
        if exponent.item() == 2:
            return Kernel(
                lambda x, _: np.square(x),
                "numpy",
                lambda given: given.plan.float_pair("multiply", given.value(0), given.value(0)),
            )
        if exponent.item() == 0.5:
            return Kernel(lambda x, _: np.sqrt(x))

    def run(x: Array, y: Array) -> Array:
        if x.dtype.kind == "f" or y.dtype.kind == "f":
            return np.power(x.astype(np.float64), y.astype(np.float64)).astype(x.dtype)
        return np.power(x, y).astype(x.dtype)

    return Kernel(run)


def _shift(a: Attributes, _args: Sequence[Arg]) -> Kernel:
    return Kernel(np.left_shift if a["direction"] == "LEFT" else np.right_shift)


def _clip(_a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    if not are_numbers(args):
        return None

    def run(x: Array, lo: Array | None = None, hi: Array | None = None) -> Array:
        if x.dtype.kind == "f":
            return _clamped(x, *(None if each is None else each.item() for each in (lo, hi)))
        if lo is not None:
            x = np.maximum(x, lo)
        return x if hi is None else np.minimum(x, hi)

    return Kernel(run)


def _clamped(x: Array, lo: float | None, hi: float | None) -> Array:
    least, most = -math.inf if lo is None else lo, math.inf if hi is None else hi
    # Elsewhere than in kernels the sign of a zero at a bound is NumPy's to choose.
    return _core.clip(x, lo, hi) if x.dtype == np.float32 and least <= most else x.clip(least, most)


def _relu(x: Array) -> Any:
    """``x > 0 ? x : +0``, NaN for NaN."""
    zero = x.dtype.type(0)
    if x.dtype == np.float32:
        return _core.clip(x, 0.0, None)
    y = np.maximum(x, zero)
    return y + zero if x.dtype.kind == "f" else y  # -0 + 0 is 0


def _cast(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    dtype = DTYPES.get(a["to"])
    if dtype is None or args[0].dtype not in NUMBERS:
        return None
    return Kernel(lambda x: x.astype(dtype, copy=False))


def _cast_like(_a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    if args[0].dtype not in NUMBERS or args[1].dtype not in NUMBERS:
        return None
    return Kernel(lambda x, like: x.astype(like.dtype, copy=False))


def _isinf(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    if not are_numbers(args):
        return None
    positive, negative = a.get("detect_positive", 1), a.get("detect_negative", 1)

    def run(x: Array) -> Array:
        return np.isinf(x) & (((x > 0) & bool(positive)) | ((x < 0) & bool(negative)))

    return Kernel(run)


# --- functions of one value -----------------------------------------------------------------------


def _leaky_relu(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    alpha = a.get("alpha", 0.01)
    return _if_float(args, lambda x: np.where(x < 0, x * x.dtype.type(alpha), x))


def _prelu(x: Array, slope: Array) -> Any:
    return np.where(x < 0, x * slope, x)


def _planned_line(alpha: float, beta: float, times: bool) -> Native:
    """As `_line`, in a plan; `times`: times x."""

    def native(given: Given) -> int:
        plan, x = given.plan, given.value(0)
        y = plan.float_pair("multiply", x, plan.constant(np.array(alpha, np.float32)))
        y = plan.float_pair("add", y, plan.constant(np.array(beta, np.float32)))
        y = plan.clip(y, 0.0, 1.0)
        return plan.float_pair("multiply", x, y) if times else y

    return native


def _hard_sigmoid(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    alpha, beta = a.get("alpha", 0.2), a.get("beta", 0.5)
    kernel = _if_float(args, lambda x: _line(x, alpha, beta))
    return None if kernel is None else kernel._replace(native=_planned_line(alpha, beta, False))


def _line(x: Array, alpha: float, beta: float) -> Any:
    y = np.asarray(x * x.dtype.type(alpha))
    y += x.dtype.type(beta)
    return y.clip(x.dtype.type(0), x.dtype.type(1), out=y)


def _hard_swish(_a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    kernel = _if_float(args, lambda x: x * _line(x, 1 / 6, 0.5))
    return None if kernel is None else kernel._replace(native=_planned_line(1 / 6, 0.5, True))


def _if_float(args: Sequence[Arg], function: Callable[..., Any]) -> Kernel | None:
    return Kernel(function) if _is_float(args[0]) else None


def _thresholded(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    alpha = a.get("alpha", 1.0)
    return _if_float(args, lambda x: np.where(x > alpha, x, x.dtype.type(0)))


def _exponential(function: Callable[[Attributes, Array], Array]) -> Make:
    """Activations with an exponential in them that octavo.nn has no kernel for."""

    def make(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
        return _in_float64(partial(function, a))(a, args)

    return make


def _elu(a: Attributes, x: Array) -> Any:
    return np.where(x < 0, a.get("alpha", 1.0) * np.expm1(x), x)


def _selu(a: Attributes, x: Array) -> Any:
    alpha, gamma = (
        a.get("alpha", 1.67326319217681884765625),
        a.get("gamma", 1.05070102214813232421875),
    )
    return gamma * np.where(x > 0, x, alpha * np.expm1(x))


def _celu(a: Attributes, x: Array) -> Any:
    alpha = a.get("alpha", 1.0)
    return np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha))


def _softplus(_a: Attributes, x: Array) -> Any:
    return np.logaddexp(x, 0)


def _mish(_a: Attributes, x: Array) -> Any:
    return x * np.tanh(np.logaddexp(x, 0))


# --- shapes ---------------------------------------------------------------------------------------


def _whole(values: Any) -> list[int]:
    return [int(value) for value in np.asarray(values).reshape(-1)]


def _reshape(a: Attributes) -> Callable[..., Any]:
    keep_zero = bool(a.get("allowzero", 0))

    def run(x: Array, shape: Array) -> Array:
        sizes = _whole(shape)
        if not keep_zero and 0 in sizes:
            sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
        return x.reshape(sizes)

    return run


def _flatten(a: Attributes) -> Callable[..., Any]:
    def run(x: Array) -> Array:
        axis = a.get("axis", 1)
        axis += x.ndim if axis < 0 else 0
        return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))

    return run


def _axes(a: Attributes, given: Array | None) -> tuple[int, ...] | None:
    axes = a.get("axes") if given is None else _whole(given)
    return None if axes is None else tuple(axes)


def _squeeze(a: Attributes) -> Callable[..., Any]:
    return lambda x, axes=None: np.squeeze(x, _axes(a, axes))


def _unsqueeze(a: Attributes) -> Callable[..., Any]:
    return lambda x, axes=None: np.expand_dims(x, _axes(a, axes) or ())


def _transpose(a: Attributes) -> Callable[..., Any]:
    order = a.get("perm")
    return lambda x: x.transpose(order)


def _concat(a: Attributes) -> Callable[..., Any]:
    return lambda *arrays: np.concatenate(arrays, a["axis"])


def _split(a: Attributes) -> Callable[..., Any]:
    axis = a.get("axis", 0)

    def run(x: Array, sizes: Array | None = None) -> tuple[Array, ...]:
        parts = a.get("split") if sizes is None else _whole(sizes)
        if parts is None:
            size = -(-x.shape[axis] // a.outputs)
            ends = [size * (i + 1) for i in range(a.outputs - 1)]
        else:
            ends = np.cumsum(parts)[:-1].tolist()
        return tuple(np.split(x, ends, axis))

    def single(x: Array, sizes: Array | None = None) -> Array:
        return run(x, sizes)[0]

    return single if a.outputs == 1 else run


def _slice(_a: Attributes) -> Callable[..., Any]:
    def run(
        x: Array,
        starts: Array,
        ends: Array,
        axes: Array | None = None,
        steps: Array | None = None,
    ) -> Array:
        first, last = _whole(starts), _whole(ends)
        which = range(len(first)) if axes is None else _whole(axes)
        by = [1] * len(first) if steps is None else _whole(steps)
        index = [slice(None)] * x.ndim
        for axis, start, end, step in zip(which, first, last, by, strict=True):
            index[axis] = slice(start, end, step)
        return x[tuple(index)]

    return run


def _gather(a: Attributes) -> Callable[..., Any]:
    axis = a.get("axis", 0)
    return lambda x, index: np.take(x, index, axis)


def _gather_elements(a: Attributes) -> Callable[..., Any]:
    axis = a.get("axis", 0)

    def run(x: Array, index: Array) -> Array:
        # Other axes of the index may be shorter than those of x.
        part = tuple(
            slice(None) if i == axis % x.ndim else slice(size) for i, size in enumerate(index.shape)
        )
        return np.take_along_axis(x[part], index, axis)

    return run


def _gather_nd(a: Attributes) -> Callable[..., Any]:
    dims = a.get("batch_dims", 0)

    def run(x: Array, index: Array) -> Any:
        lead = np.ix_(*(np.arange(size) for size in index.shape[:dims]))
        tail = index.ndim - 1 - dims
        batch = [each.reshape(each.shape + (1,) * tail) for each in lead]
        return x[(*batch, *np.moveaxis(index, -1, 0))]

    return run


_SCATTER = {
    "none": None,
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


def _scatter(x: Array, index: tuple[Any, ...], updates: Array, how: str) -> Any:
    result = np.array(x)
    function = _SCATTER[how]
    if function is None:
        result[index] = updates
    else:
        function.at(result, index, updates)
    return result


def _scatter_elements(a: Attributes) -> Callable[..., Any]:
    axis, how = a.get("axis", 0), a.get("reduction", "none")

    def run(x: Array, index: Array, updates: Array) -> Any:
        where: list[Any] = list(np.ix_(*(np.arange(size) for size in index.shape)))
        where[axis] = index
        return _scatter(x, tuple(where), updates, how)

    return run


def _scatter_nd(a: Attributes) -> Callable[..., Any]:
    how = a.get("reduction", "none")
    return lambda x, index, updates: _scatter(x, tuple(np.moveaxis(index, -1, 0)), updates, how)


def _expand(x: Array, shape: Array) -> Any:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(_whole(shape))))


def _places(a: Attributes, rank: int) -> tuple[int, ...]:
    """Return where the axes are that ONNX counts."""
    if a.get("layout") != NHWC:
        return tuple(range(rank))
    return tuple(map(channels_last(rank).index, range(rank)))


@functools.lru_cache(maxsize=64)
def _padding_indices(size: int, before: int, behind: int, mode: Any) -> Array:
    return np.pad(np.arange(size), (before, behind), mode=mode)


def _pad(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    mode = a.get("mode", "constant")
    if not are_numbers(args):
        return None

    def run(x: Array, pads: Array, value: Array | None = None, axes: Array | None = None) -> Array:
        sides = _whole(pads)
        which = range(x.ndim) if axes is None else _whole(axes)
        places = _places(a, x.ndim)
        widths = [(0, 0)] * x.ndim
        for i, axis in enumerate(which):
            widths[places[axis]] = (sides[i], sides[i + len(sides) // 2])
        inside = tuple(
            slice(-min(before, 0), size + min(after, 0))
            for size, (before, after) in zip(x.shape, widths, strict=True)
        )
        more = [(max(before, 0), max(after, 0)) for before, after in widths]
        y = x[inside]
        if mode != "constant":
            for axis, (before, behind) in enumerate(more):
                if before or behind:
                    y = np.take(y, _padding_indices(y.shape[axis], before, behind, mode), axis)
            return y
        fill = 0 if value is None else np.asarray(value).reshape(())
        shape = [size + sum(ends) for size, ends in zip(y.shape, more, strict=True)]
        wide = np.full(shape, fill, x.dtype)
        middle = (slice(a, a + size) for size, (a, _) in zip(y.shape, more, strict=True))
        wide[tuple(middle)] = y
        return wide

    return Kernel(run)


def _shape(a: Attributes) -> Callable[..., Any]:
    window = slice(a.get("start", 0), a.get("end"))
    return lambda x: np.array(x.shape[window], np.int64)


def _constant_of_shape(a: Attributes) -> Callable[..., Any]:
    value = a.get("value", np.zeros(1, np.float32))
    return lambda shape: np.full(_whole(shape), value.reshape(())[()], value.dtype)


def _range(start: Array, limit: Array, delta: Array) -> Any:
    first, last, step = (np.asarray(each).reshape(()).item() for each in (start, limit, delta))
    count = max(math.ceil((last - first) / step), 0)
    return (first + step * np.arange(count)).astype(start.dtype)


def _trilu(a: Attributes) -> Callable[..., Any]:
    function = np.triu if a.get("upper", 1) else np.tril
    return lambda x, k=None: function(x, 0 if k is None else int(np.asarray(k).item()))


def _depth_to_space(a: Attributes) -> Callable[..., Any]:
    size, rows_first = a["blocksize"], a.get("mode", "DCR") == "DCR"

    def last(x: Array) -> Array:
        n, h, w, c = x.shape
        depth = c // (size * size)
        if rows_first:
            y = x.reshape(n, h, w, size, size, depth).transpose(0, 1, 3, 2, 4, 5)
        else:
            y = x.reshape(n, h, w, depth, size, size).transpose(0, 1, 4, 2, 5, 3)
        return y.reshape(n, h * size, w * size, depth)

    def run(x: Array) -> Array:
        n, c, h, w = x.shape
        depth = c // (size * size)
        if rows_first:
            y = x.reshape(n, size, size, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
        else:
            y = x.reshape(n, depth, size, size, h, w).transpose(0, 1, 4, 2, 5, 3)
        return y.reshape(n, depth, h * size, w * size)

    return last if a.get("layout") == NHWC else run


def _space_to_depth(a: Attributes) -> Callable[..., Any]:
    size, depth_last = a["blocksize"], a.get("mode", "DCR") == "DCR"

    def last(x: Array) -> Array:
        n, h, w, c = x.shape
        y = x.reshape(n, h // size, size, w // size, size, c)
        y = y.transpose(0, 1, 3, 2, 4, 5) if depth_last else y.transpose(0, 1, 3, 5, 2, 4)
        return y.reshape(n, h // size, w // size, c * size * size)

    def run(x: Array) -> Array:
        n, c, h, w = x.shape
        y = x.reshape(n, c, h // size, size, w // size, size)
        y = y.transpose(0, 3, 5, 1, 2, 4) if depth_last else y.transpose(0, 1, 3, 5, 2, 4)
        return y.reshape(n, c * size * size, h // size, w // size)

    return last if a.get("layout") == NHWC else run


def _one_hot(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    axis = a.get("axis", -1)

    def run(index: Array, depth: Array, values: Array) -> Any:
        count = int(np.asarray(depth).item())
        place = axis + index.ndim + 1 if axis < 0 else axis
        position = np.mod(index, count).astype(np.int64)
        inside = (index >= -count) & (index < count)
        hot = (np.expand_dims(position, place) == _along(count, place, index.ndim + 1)) & (
            np.expand_dims(inside, place)
        )
        return np.where(hot, values[1], values[0])

    return Kernel(run) if are_numbers(args) else None


def _along(count: int, axis: int, ndim: int) -> Array:
    shape = [1] * ndim
    shape[axis] = count
    return np.arange(count).reshape(shape)


def _cumsum(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    exclusive, backwards = a.get("exclusive", 0), a.get("reverse", 0)

    def run(x: Array, axis: Array) -> Array:
        along = int(np.asarray(axis).item())
        y = np.flip(x, along) if backwards else x
        total = np.cumsum(y, along, dtype=x.dtype)
        if exclusive:
            total = np.roll(total, 1, along)
            first: list[Any] = [slice(None)] * x.ndim
            first[along] = slice(0, 1)
            total[tuple(first)] = 0
        return np.flip(total, along) if backwards else total

    return Kernel(run) if are_numbers(args) else None


def _top_k(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    axis, largest = a.get("axis", -1), a.get("largest", 1)

    def run(x: Array, k: Array) -> tuple[Array, Array]:
        count = int(np.asarray(k).item())
        if largest:  # the first of equals comes first in both directions
            order = np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
            order = x.shape[axis] - 1 - order
        else:
            order = np.argsort(x, axis, kind="stable")
        index = np.take(order, np.arange(count), axis)
        return np.take_along_axis(x, index, axis), index

    return Kernel(run) if are_numbers(args) and a.outputs == 2 else None


def _arg_reduce(function: Any) -> Make:
    def make(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
        axis, keep, last = (
            a.get("axis", 0),
            bool(a.get("keepdims", 1)),
            a.get("select_last_index", 0),
        )

        def run(x: Array) -> Array:
            if last:
                index = x.shape[axis] - 1 - function(np.flip(x, axis), axis=axis, keepdims=keep)
            else:
                index = function(x, axis=axis, keepdims=keep)
            return np.asarray(index, np.int64)

        return Kernel(run) if are_numbers(args) else None

    return make


def _reverse_sequence(a: Attributes) -> Callable[..., Any]:
    time, batch = a.get("time_axis", 0), a.get("batch_axis", 1)

    def run(x: Array, lengths: Array) -> Array:
        y = np.array(x)
        views = np.moveaxis(x, (batch, time), (0, 1)), np.moveaxis(y, (batch, time), (0, 1))
        for i, length in enumerate(lengths):
            views[1][i, :length] = views[0][i, :length][::-1]
        return y

    return run


def _einsum(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    equation = a["equation"]
    return Kernel(lambda *x: np.einsum(equation, *x)) if are_numbers(args) else None


# --- reductions -----------------------------------------------------------------------------------


def _reduce(function: Callable[..., Any]) -> Make:
    def make(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
        keep, empty_is_none = bool(a.get("keepdims", 1)), bool(a.get("noop_with_empty_axes", 0))

        def run(x: Array, axes: Array | None = None) -> Array:
            which = _axes(a, axes)
            if not which:
                which = () if empty_is_none else None
            result: Array = np.asarray(function(x, which, keep))
            return result.astype(x.dtype, copy=False)

        return Kernel(run) if are_numbers(args) else None

    return make


def _reduce_mean(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    plain = _reduce(lambda x, axes, keep: np.mean(x, axes, keepdims=keep))(a, args)
    if plain is None:
        return None
    first, keep = _first_size(a), bool(a.get("keepdims", 1))

    def run(x: Array, axes: Array | None = None) -> Any:
        which = _axes(a, axes)
        pixels = which is not None and x.ndim == 4 and sorted(i % 4 for i in which) == [2, 3]
        if not pixels or x.dtype.kind != "f":
            return plain.run(x, axes)
        y = _pixel_mean(x, (first, first + 1))
        return y if keep else y.squeeze((first, first + 1))

    known = _axes(a, args[1].array) if len(args) > 1 else _axes(a, None)
    of_images = known is not None and args[0].rank == 4 and sorted(i % 4 for i in known) == [2, 3]
    return Kernel(run, "numpy", _planned_mean(a) if of_images else None)


def _extreme(function: Any, greatest: bool) -> Callable[..., Any]:
    def reduce(x: Array, axes: Any, keep: bool) -> Any:
        if x.size:
            return function.reduce(x, axes, keepdims=keep)
        if x.dtype.kind == "f":
            first: Any = -np.inf if greatest else np.inf
        elif x.dtype.kind == "b":
            first = not greatest
        else:
            first = np.iinfo(x.dtype).min if greatest else np.iinfo(x.dtype).max
        return function.reduce(x, axes, keepdims=keep, initial=first)

    return reduce


def _sum(x: Array, axes: Any, keep: bool) -> Any:
    return np.sum(x, axes, dtype=x.dtype, keepdims=keep)


def _log_sum_exp(x: Array, axes: Any, keep: bool) -> Any:
    wide = x.astype(np.float64)
    top = _extreme(np.maximum, True)(wide, axes, True)
    top = np.where(np.isfinite(top), top, 0.0)
    total = np.log(np.add.reduce(np.exp(wide - top), axes, keepdims=True)) + top
    return total if keep else total.reshape(_sum(wide, axes, False).shape)


# --- resize ---------------------------------------------------------------------------------------

_NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _coordinates(size: int, out: int, scale: float, how: str) -> Array:
    i = np.arange(out, dtype=np.float64)
    if how == "asymmetric":
        return i / scale
    if how == "align_corners":
        length = scale * size  # not rounded, as in ONNX's own implementation
        return i * ((size - 1) / (length - 1)) if length != 1 else np.zeros(out)
    if how == "pytorch_half_pixel" and out == 1:
        return np.zeros(out)
    x = (i + 0.5) / scale - 0.5
    if how == "half_pixel_symmetric":
        middle, width = size / 2, out / (scale * size)
        x += middle * (1 - width)
    return x


def _resize(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    mode = a.get("mode", "nearest")
    how = a.get("coordinate_transformation_mode", "half_pixel")
    nearest = a.get("nearest_mode", "round_prefer_floor")
    if (
        mode not in ("nearest", "linear")
        or how == "tf_crop_and_resize"
        or a.get("antialias", 0)
        or a.get("keep_aspect_ratio_policy", "stretch") != "stretch"
        or not are_numbers(args[:1])
    ):
        return None

    def resized(
        shape: tuple[int, ...], scales: Array | None, sizes: Array | None
    ) -> Iterator[tuple[int, int, Array]]:
        """Yield each axis that gets another size, that, and where its values are taken from."""
        places = _places(a, len(shape))
        which = places if "axes" not in a else [places[axis] for axis in a["axes"]]
        if scales is not None and scales.size:
            factors = scales.astype(np.float64).tolist()
            outs = [math.floor(shape[axis] * f) for axis, f in zip(which, factors, strict=True)]
        else:
            outs = _whole(sizes)
            factors = [out / shape[axis] for axis, out in zip(which, outs, strict=True)]
        for axis, out, factor in zip(which, outs, factors, strict=True):
            if out != shape[axis] or factor != 1:
                yield axis, out, _coordinates(shape[axis], out, factor, how)

    def picked(at: Array, size: int) -> Array:
        return np.clip(_NEAREST[nearest](at), 0, size - 1).astype(np.intp)

    def run(
        x: Array, _roi: Array | None = None, scales: Array | None = None, sizes: Array | None = None
    ) -> Array:
        y = x
        # Innermost last: rows first touch less memory.
        for axis, out, at in resized(x.shape, scales, sizes):
            size = x.shape[axis]
            if mode == "nearest":
                y = np.take(y, picked(at, size), axis)
            else:
                at = np.clip(at, 0, size - 1)
                low = np.floor(at).astype(np.intp)
                high = np.minimum(low + 1, size - 1)
                shape = [1] * x.ndim
                shape[axis] = out
                part = (at - low).astype(np.float32).reshape(shape)
                left = np.take(y, low, axis).astype(np.float32, copy=False)
                y = left + (np.take(y, high, axis) - left) * part
        return y.astype(x.dtype, copy=False)

    def native(given: Given) -> int | None:
        scales, sizes = given.constant(2), given.constant(3)
        if mode != "nearest" or (scales is None and sizes is None) or len(given.shape) != 4:
            return None
        plan, x = given.plan, given.value(0)
        shape, first = plan.shape(x), _first_size(a)
        indices = {
            axis: picked(at, shape[axis]).tolist() for axis, _, at in resized(shape, scales, sizes)
        }
        if not indices.keys() <= {first, first + 1}:
            return None
        rows, columns = (indices.get(i, range(shape[i])) for i in (first, first + 1))
        if a.get("layout") == NHWC:
            return plan.nearest(x, rows, columns)
        y = plan.nearest(plan.transpose(x, channels_last(4)), rows, columns)
        return plan.transpose(y, channels_first(4))

    return Kernel(run, "numpy", native)


# --- pooling of floats ----------------------------------------------------------------------------


def pool_sides(
    a: Attributes, sizes: Sequence[int], kernel: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """Return padding before and behind, and the size of the result, for each axis of the image."""
    dims = len(sizes)
    strides = a.get("strides") or (1,) * dims
    dilations = a.get("dilations") or (1,) * dims
    auto = a.get("auto_pad", "NOTSET")
    pads = a.get("pads") or (0,) * (2 * dims)
    before, behind, outs = [], [], []
    for i, (size, width) in enumerate(zip(sizes, kernel, strict=True)):
        reach = (width - 1) * dilations[i] + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            out = -(-size // strides[i])
            extra = max((out - 1) * strides[i] + reach - size, 0)
            less, more = extra // 2, extra - extra // 2
            left, right = (less, more) if auto == "SAME_UPPER" else (more, less)
        else:
            left, right = (0, 0) if auto == "VALID" else (pads[i], pads[i + dims])
            room = size + left + right - reach
            if room < 0:
                raise ValueError(
                    f"a window over {reach} does not fit an image of {size} with padding "
                    f"{left} and {right}"
                )
            out = room // strides[i] + 1
            if a.get("ceil_mode", 0) and room % strides[i] and (out * strides[i] < size + left):
                out += 1
        before.append(left)
        behind.append(right)
        outs.append(out)
    return before, behind, outs


def _windows(x: Array, a: Attributes, kernel: Sequence[int], outs: Sequence[int]) -> Any:
    """Yield, for each tap of the kernel, the padded image as the windows see it."""
    dims = len(kernel)
    strides = a.get("strides") or (1,) * dims
    dilations = a.get("dilations") or (1,) * dims
    lead = (slice(None),) * _first_size(a)
    for tap in product(*map(range, kernel)):
        index = [
            slice(t * d, t * d + (out - 1) * s + 1, s)
            for t, d, s, out in zip(tap, dilations, strides, outs, strict=True)
        ]
        yield x[(*lead, *index)]


def _reach(a: Attributes, kernel: Sequence[int], outs: Sequence[int]) -> list[int]:
    dims = len(kernel)
    strides = a.get("strides") or (1,) * dims
    dilations = a.get("dilations") or (1,) * dims
    return [
        (out - 1) * s + (k - 1) * d + 1
        for out, s, k, d in zip(outs, strides, kernel, dilations, strict=True)
    ]


def _padded(
    a: Attributes, x: Array, fill: Any, before: Sequence[int], needed: Sequence[int]
) -> Array:
    first, widths = _first_size(a), [(0, 0)] * x.ndim
    for i, (left, most) in enumerate(zip(before, needed, strict=True), first):
        widths[i] = (left, max(most - left - x.shape[i], 0))
    if not any(map(any, widths)):
        return x
    return np.pad(x, widths, constant_values=fill)


def _first_size(a: Attributes) -> int:
    """Return the first axis of an image's size."""
    return 1 if a.get("layout") == NHWC else 2


def _sizes(a: Attributes, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[_first_size(a) : _first_size(a) + len(shape) - 2]


_Window = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool]


def _native_window(a: Attributes, dtype: Any, shape: tuple[int, ...]) -> _Window | None:
    """Return kernel, stride, padding and ceil mode of windows that octavo pools float32 by."""
    kernel = tuple(a["kernel_shape"])
    if dtype != np.float32 or len(shape) not in (3, 4) or set(a.get("dilations") or (1,)) != {1}:
        return None
    before, behind, _ = pool_sides(a, _sizes(a, shape), kernel)
    if any(side >= size for side, size in zip((*before, *behind), kernel * 2, strict=True)):
        return None  # a window may hold padding alone
    strides = tuple(a.get("strides") or (1,) * len(kernel))
    ceil = bool(a.get("ceil_mode", 0)) and not a.get("auto_pad", "").startswith("SAME")
    if len(shape) == 3:
        return (1, *kernel), (1, *strides), (0, *before, 0, *behind), ceil
    return kernel, strides, (*before, *behind), ceil


def _native_pool(a: Attributes, x: Array, pool: Callable[[Array], Array]) -> Array:
    """Return what `pool` gives for images with channels last, in the layout of `a`; signals too."""
    last = a.get("layout") == NHWC
    images = x if last else x.transpose(channels_last(x.ndim))
    y = pool(images) if x.ndim == 4 else pool(images[:, None])[:, 0]
    return y if last else y.transpose(channels_first(x.ndim))


def _planned_pool(a: Attributes, pool: Callable[[_core.PlanBuilder, int, _Window], int]) -> Native:
    """As `_native_pool`, in a plan; `pool` is given the window too."""
    last = a.get("layout") == NHWC

    def native(given: Given) -> int | None:
        plan, x = given.plan, given.value(0)
        rank = len(plan.shape(x))
        window = _native_window(a, np.dtype(plan.dtype(x)), plan.shape(x))
        if window is None:
            return None
        y = x if last else plan.transpose(x, channels_last(rank))
        if rank == 3:
            n, width, channels = plan.shape(y)
            y = plan.reshape(y, (n, 1, width, channels))
        y = pool(plan, y, window)
        if rank == 3:
            n, _, width, channels = plan.shape(y)
            y = plan.reshape(y, (n, width, channels))
        return y if last else plan.transpose(y, channels_first(rank))

    return native


def max_pool(a: Attributes, x: Array) -> Array:
    """Return the greatest value under each window of images, laid out as `a` says."""
    window = _native_window(a, x.dtype, x.shape)
    if window is not None:
        return _native_pool(a, x, lambda images: _core.float_max_pool(images, *window))
    kernel = a["kernel_shape"]
    before, _, outs = pool_sides(a, _sizes(a, x.shape), kernel)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    image = _padded(a, x, lowest, before, _reach(a, kernel, outs))
    views = _windows(image, a, kernel, outs)
    result = np.array(next(views))
    for view in views:
        np.maximum(result, view, out=result)
    return result


def _max_pool(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    if a.outputs > 1 or not are_numbers(args):
        return None
    native = _planned_pool(a, lambda plan, x, window: plan.float_max_pool(x, *window))
    return Kernel(partial(max_pool, a), "numpy", native)


def _average_pool(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    if not _is_float(args[0]):
        return None
    kernel, include = a["kernel_shape"], bool(a.get("count_include_pad", 0))

    def run(x: Array) -> Any:
        window = _native_window(a, x.dtype, x.shape)
        if window is not None:
            return _native_pool(
                a,
                x,
                lambda images: _core.float_average_pool(images, *window, count_include_pad=include),
            )
        sizes = _sizes(a, x.shape)
        before, behind, outs = pool_sides(a, sizes, kernel)
        needed = _reach(a, kernel, outs)
        image = _padded(a, x, 0, before, needed)
        total = _reduced(np.add, *_windows(image, a, kernel, outs))
        if include:  # what is padded counts, but not what is beyond
            sides = zip(before, sizes, behind, strict=True)
            sizes = tuple(left + size + right for left, size, right in sides)
            before = [0] * len(sizes)
        one = [1] * x.ndim
        one[_first_size(a) : _first_size(a) + len(sizes)] = sizes
        ones = _padded(a, np.ones(one, x.dtype), 0, before, needed)
        count = _reduced(np.add, *_windows(ones, a, kernel, outs))
        return total / count

    native = _planned_pool(
        a, lambda plan, x, window: plan.float_average_pool(x, *window, count_include_pad=include)
    )
    return Kernel(run, "numpy", native)


def _global(function: Callable[[Array, tuple[int, ...]], Any]) -> Make:
    def make(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
        first = _first_size(a)
        return _if_float(args, lambda x: function(x, tuple(range(first, first + x.ndim - 2))))

    return make


def _global_mean(a: Attributes, args: Sequence[Arg]) -> Kernel | None:
    kernel = _global(_pixel_mean)(a, args)
    return None if kernel is None else kernel._replace(native=_planned_mean(a))


def _global_max(x: Array, axes: tuple[int, ...]) -> Any:
    return np.max(x, axes, keepdims=True)


_LANES = 64


def _planned_mean(a: Attributes) -> Native:
    def native(given: Given) -> int:
        plan, x = given.plan, given.value(0)
        shape = plan.shape(x)
        if a.get("layout") != NHWC:
            x = plan.transpose(x, channels_last(len(shape)))
        n, *sizes, channels = plan.shape(x)
        y = plan.float_mean(plan.reshape(x, (n, 1, math.prod(sizes), channels)))
        return plan.reshape(y, given.shape)

    return native


def _pixel_mean(x: Array, axes: tuple[int, ...]) -> Array:
    """Return the mean over neighbouring axes, kept, summed as docs/floats.md says: in lanes.

    Pixel k goes to lane k mod 64, lanes are added by halves: the same bits in either layout.
    """
    shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    count = math.prod(x.shape[axis] for axis in axes)
    if not x.size:
        return np.asarray(np.mean(x, axes, keepdims=True))
    lanes = np.ascontiguousarray(x).reshape(math.prod(x.shape[: axes[0]]), count, -1)
    if x.dtype != np.float64:
        images = lanes.astype(np.float32, copy=False)
        if lanes.shape[2] == 1:  # channels first
            images = images.reshape(x.shape[0], -1, count).transpose(0, 2, 1)
        return _core.float_mean(images[:, None]).reshape(shape).astype(x.dtype, copy=False)
    if count > _LANES:
        whole = count - count % _LANES
        rest = lanes[:, whole:]
        lanes = np.add.reduce(lanes[:, :whole].reshape(len(lanes), -1, _LANES, lanes.shape[2]), 1)
        lanes[:, : rest.shape[1]] += rest
    while lanes.shape[1] > 1:
        half = 1 << (lanes.shape[1] - 1).bit_length() - 1  # lanes that are not there add nothing
        low, high = lanes[:, :half], lanes[:, half:]
        if low.shape == high.shape:
            lanes = low + high
        else:
            lanes = low.copy()
            lanes[:, : high.shape[1]] += high
    mean: Array = lanes / lanes.dtype.type(count)
    return mean.reshape(shape)


_UFUNCS: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Add": np.add,
    "And": np.logical_and,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseNot": np.invert,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
    "Ceil": np.ceil,
    "Div": _divide,
    "Equal": np.equal,
    "Floor": np.floor,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "IsNaN": np.isnan,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "PRelu": _prelu,
    "Reciprocal": lambda x: x.dtype.type(1) / x,
    "Relu": _relu,
    "Round": np.rint,
    "Sign": np.sign,
    "Softsign": lambda x: x / (x.dtype.type(1) + np.abs(x)),
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Where": np.where,
    "Xor": np.logical_xor,
}
_WIDE: dict[str, Callable[..., Any]] = {
    "Acos": np.arccos,
    "Acosh": np.arccosh,
    "Asin": np.arcsin,
    "Asinh": np.arcsinh,
    "Atan": np.arctan,
    "Atanh": np.arctanh,
    "Cos": np.cos,
    "Cosh": np.cosh,
    "Log": np.log,
    "Sin": np.sin,
    "Sinh": np.sinh,
    "Tan": np.tan,
}
_MOVES: dict[str, Callable[[Attributes], Callable[..., Any]]] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": lambda _a: _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Identity": lambda _a: lambda x: x,
    "NonZero": lambda _a: lambda x: np.array(np.nonzero(np.atleast_1d(x)), np.int64),
    "Reshape": _reshape,
    "ReverseSequence": _reverse_sequence,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Size": lambda _a: lambda x: np.array(x.size, np.int64),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda _a: lambda x, repeats: np.tile(x, _whole(repeats)),
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceL1": lambda x, axes, keep: _sum(np.abs(x), axes, keep),
    "ReduceL2": lambda x, axes, keep: np.sqrt(_sum(np.square(x), axes, keep)),
    "ReduceLogSum": lambda x, axes, keep: np.log(_sum(x.astype(np.float64), axes, keep)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _extreme(np.maximum, True),
    "ReduceMin": _extreme(np.minimum, False),
    "ReduceProd": lambda x, axes, keep: np.multiply.reduce(x, axes, keepdims=keep, dtype=x.dtype),
    "ReduceSum": _sum,
    "ReduceSumSquare": lambda x, axes, keep: _sum(np.square(x), axes, keep),
}

KERNELS: dict[str, Make] = {
    **{op: _elementwise(function) for op, function in _UFUNCS.items()},
    **{op: _in_float64(function) for op, function in _WIDE.items()},
    **{op: _tensors(function) for op, function in _MOVES.items()},
    **{op: _reduce(function) for op, function in _REDUCTIONS.items()},
    "ArgMax": _arg_reduce(np.argmax),
    "ArgMin": _arg_reduce(np.argmin),
    "AveragePool": _average_pool,
    "BitShift": _shift,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Celu": _exponential(_celu),
    "Clip": _clip,
    "CumSum": _cumsum,
    "Einsum": _einsum,
    "Elu": _exponential(_elu),
    "GlobalAveragePool": _global_mean,
    "GlobalMaxPool": _global(_global_max),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "IsInf": _isinf,
    "LeakyRelu": _leaky_relu,
    "Max": _variadic(np.maximum),
    "MaxPool": _max_pool,
    "Mean": _elementwise(_mean),
    "Min": _variadic(np.minimum),
    "Mish": _exponential(_mish),
    "Mod": _mod,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Pow": _pow,
    "Range": _elementwise(_range),
    "ReduceMean": _reduce_mean,
    "Resize": _resize,
    "Selu": _exponential(_selu),
    "Softplus": _exponential(_softplus),
    "Sum": _variadic(np.add),
    "ThresholdedRelu": _thresholded,
    "TopK": _top_k,
}
# Inputs whose values decide the shape of the result, by their places.
SHAPED_BY: dict[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
    **dict.fromkeys([*_REDUCTIONS, "ReduceMean"], (1,)),
}
# Operators whose result has a shape that depends on the values of their first input.
VALUE_SHAPED = frozenset({"NonZero"})
