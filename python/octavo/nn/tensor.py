"""Operators on 8-bit tensors between the layers: pooling, sums, functions, shapes.

Each takes QTensors of 8 bits with one scale and gives one; by "Elementwise" of docs/int8.md, the same
bits on every CPU. ``out_qparams`` None keeps the parameters of `x`, where an operator may. ``out``,
where one takes it, is an array of the result's shape that shares no memory with an input: the codes
are written there, and it is returned itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo import _core
from octavo.array.activation import Activation, activation_bounds, table, table_function
from octavo.array.convolution import Padding, Size, as_layout, as_sides, as_sizes, as_whole
from octavo.array.prepared import check_qparams
from octavo.array.qparams import QParams
from octavo.array.qtensor import QTensor, wrap_result

Result = QTensor | NDArray[Any]  # the array: `out`


def _codes(x: QTensor, name: str = "x") -> NDArray[Any]:
    if not isinstance(x, QTensor):
        raise TypeError(f"{name} is {type(x).__name__}, expected octavo.QTensor")
    if x.dtype not in {"int8", "uint8"} or x.axis is not None:
        raise ValueError(f"{name} has {x.qparams}, expected 8 bits and one scale")
    return x.codes()


def _out(x: QTensor, out_qparams: QParams | None) -> QParams:
    check_qparams(out_qparams, "out_qparams")
    return _own(x) if out_qparams is None else out_qparams


def _own(x: QTensor) -> QParams:
    assert x.qparams is not None  # _codes() looked
    return x.qparams


def _answer(codes: NDArray[Any], q: QParams, out: NDArray[Any] | None) -> Result:
    return wrap_result(codes, q) if out is None else out


def add(
    a: QTensor,
    b: QTensor,
    *,
    out_qparams: QParams,
    activation: Activation = None,
    out: NDArray[Any] | None = None,
) -> Result:
    """Return ``a + b``, broadcast, clipped by `activation` (relu, relu6 or ("clip", lo, hi)).

    Raises
    ------
    ValueError, TypeError
        Shapes that do not broadcast; tensors without one 8-bit scale; an `out` that the result
        cannot be written to.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> x = oc.QTensor(np.array([1, 2, 3], np.int8), 0.5)
    >>> oc.nn.add(x, x, out_qparams=oc.QParams(1.0)).codes()
    array([1, 2, 3], dtype=uint8)
    """
    return _combined(_core.add, a, b, out_qparams, activation, out)


def multiply(
    a: QTensor,
    b: QTensor,
    *,
    out_qparams: QParams,
    activation: Activation = None,
    out: NDArray[Any] | None = None,
) -> Result:
    """Return ``a * b``, broadcast, clipped by `activation`; as `add`.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> x = oc.QTensor(np.array([1, 2, 3], np.int8), 0.5)
    >>> oc.nn.multiply(x, x, out_qparams=oc.QParams(0.25)).codes()
    array([1, 4, 9], dtype=uint8)
    """
    return _combined(_core.multiply, a, b, out_qparams, activation, out)


def _combined(
    function: Any,
    a: QTensor,
    b: QTensor,
    out_qparams: QParams,
    activation: Activation,
    out: NDArray[Any] | None,
) -> Result:
    left, right = _codes(a, "a"), _codes(b, "b")
    if out_qparams is None:
        raise TypeError("out_qparams is None, expected octavo.QParams: how the result is quantized")
    check_qparams(out_qparams, "out_qparams")
    lo, hi = activation_bounds(activation)
    codes = function(
        left,
        right,
        a.scale,
        a.zero_point,
        b.scale,
        b.zero_point,
        out_qparams.scale,
        out_qparams.zero_point,
        out_qparams.dtype,
        lo=lo,
        hi=hi,
        out=out,
    )
    return _answer(codes, out_qparams, out)


def activate(
    x: QTensor,
    activation: Activation,
    *,
    out_qparams: QParams | None = None,
    out: NDArray[Any] | None = None,
) -> Result:
    """Return a function of each value, by a table of 256 codes.

    Parameters
    ----------
    x : QTensor
    activation : str or tuple
        "relu", "relu6", ("clip", lo, hi), "hard_swish", ("hard_sigmoid", alpha, beta), "sigmoid",
        "silu", "gelu", "gelu_tanh", "tanh", ("leaky_relu", alpha), ("elu", alpha); docs/int8.md
        says what each is, and its parameters where only the name is given.
    out_qparams : QParams, optional
    out : array of the shape of `x`, optional

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> x = oc.QTensor(np.array([-128, 0, 127], np.int8), 0.1)
    >>> oc.nn.activate(x, "sigmoid", out_qparams=oc.QParams(1 / 255)).codes()
    array([  0, 127, 255], dtype=uint8)
    """
    codes, q = _codes(x), _out(x, out_qparams)
    function = table_function(activation)
    if function is None:
        lo, hi = activation_bounds(activation)
        most = float(np.finfo(np.float32).max)
        function = ("clip", -most if lo is None else lo, most if hi is None else hi)
    return _answer(_core.lookup(codes, table(function, _own(x), q), out), q, out)


def max_pool2d(
    x: QTensor,
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: int | Sequence[int] = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    layout: str = "NCHW",
    out: NDArray[Any] | None = None,
) -> Result:
    """Return the greatest value under each window; padding never wins.

    Parameters
    ----------
    x : QTensor of shape (batch, channels, height, width), or as `layout` says
    kernel_size, dilation : int or (height, width)
    stride : int or (height, width), default `kernel_size`
    padding : int, pair or (top, left, bottom, right), default 0
    ceil_mode : bool, default False
        Windows that begin inside but end beyond the padded image count too.
    layout : {"NCHW", "NHWC"}, default "NCHW"
    out : array of the result's shape, optional

    Raises
    ------
    ValueError, TypeError
        A window that does not fit the padded image, or that holds padding alone.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> x = oc.QTensor(np.arange(16, dtype=np.int8).reshape(1, 1, 4, 4), 1.0)
    >>> oc.nn.max_pool2d(x, 2).codes().tolist()
    [[[[5, 7], [13, 15]]]]
    """
    kernel, steps, sides = _pool_window(kernel_size, stride, padding)
    codes = _core.max_pool(
        _codes(x),
        kernel,
        steps,
        sides,
        as_sizes(dilation, "dilation", 2, 1, 1),
        ceil_mode=ceil_mode,
        layout=as_layout(layout),
        out=out,
    )
    return _answer(codes, _own(x), out)


def average_pool2d(
    x: QTensor,
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    out_qparams: QParams | None = None,
    layout: str = "NCHW",
    out: NDArray[Any] | None = None,
) -> Result:
    """Return the mean under each window; as `max_pool2d`.

    `count_include_pad` counts padding as values of zero.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> x = oc.QTensor(np.arange(16, dtype=np.int8).reshape(1, 1, 4, 4), 0.5)
    >>> oc.nn.average_pool2d(x, 2, out_qparams=oc.QParams(0.25)).codes().tolist()
    [[[[5, 9], [21, 25]]]]
    """
    kernel, steps, sides = _pool_window(kernel_size, stride, padding)
    q = _out(x, out_qparams)
    codes = _core.average_pool(
        _codes(x),
        x.scale,
        x.zero_point,
        q.scale,
        q.zero_point,
        q.dtype,
        kernel,
        steps,
        sides,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        layout=as_layout(layout),
        out=out,
    )
    return _answer(codes, q, out)


def global_average_pool2d(
    x: QTensor,
    *,
    out_qparams: QParams | None = None,
    layout: str = "NCHW",
    out: NDArray[Any] | None = None,
) -> Result:
    """Return the mean of each channel of each image, height and width 1.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> x = oc.QTensor(np.array([[[[1, 3], [5, 7]]]], np.int8), 1.0)
    >>> oc.nn.global_average_pool2d(x).codes().tolist()
    [[[[4]]]]
    """
    q = _out(x, out_qparams)
    codes = _core.average_pool(
        _codes(x),
        x.scale,
        x.zero_point,
        q.scale,
        q.zero_point,
        q.dtype,
        None,
        layout=as_layout(layout),
        out=out,
    )
    return _answer(codes, q, out)


def _pool_window(
    kernel_size: Size, stride: Size | None, padding: int | Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    kernel = as_sizes(kernel_size, "kernel_size", 2, 1, 1)
    steps = kernel if stride is None else as_sizes(stride, "stride", 2, 1, 1)
    return kernel, steps, _pad_sides(padding)


def _pad_sides(padding: Padding) -> tuple[int, int, int, int]:
    if isinstance(padding, str):
        raise TypeError(f"padding is {padding!r}, expected a number, or one for each side")
    return as_sides(padding, 2)


def concat(
    tensors: Sequence[QTensor],
    axis: int = 1,
    *,
    out_qparams: QParams | None = None,
    out: NDArray[Any] | None = None,
) -> Result:
    """Return the tensors one after another along `axis`, rescaled where their parameters differ.

    `out_qparams` None: those of the first.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> a = oc.QTensor(np.array([[2]], np.int8), 0.5)
    >>> b = oc.QTensor(np.array([[3]], np.int8), 1.0)
    >>> oc.nn.concat([a, b]).codes()
    array([[2, 6]], dtype=int8)
    """
    if not tensors:
        raise ValueError("tensors is empty, expected at least one")
    codes = [_codes(each, f"tensors[{i}]") for i, each in enumerate(tensors)]
    q = _out(tensors[0], out_qparams)
    tables = [
        None if each.qparams == q else table(("identity",), _own(each), q) for each in tensors
    ]
    return _answer(_core.concat(codes, tables, axis, out), q, out)


def resize(
    x: QTensor,
    size: Size,
    *,
    mode: str = "nearest",
    coordinates: str = "half_pixel",
    rounding: str = "round_prefer_floor",
    out_qparams: QParams | None = None,
    layout: str = "NCHW",
    out: NDArray[Any] | None = None,
) -> Result:
    """Return images of another size.

    Parameters
    ----------
    x : QTensor of shape (batch, channels, height, width), or as `layout` says
    size : int or (height, width)
    mode : {"nearest", "linear"}, default "nearest"
    coordinates, rounding : str
        As ONNX Resize names them; `rounding` is of "nearest" alone.
    out_qparams : QParams, optional
    layout : {"NCHW", "NHWC"}, default "NCHW"
    out : array of the result's shape, optional

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> x = oc.QTensor(np.array([[[[1, 2]]]], np.int8), 1.0)
    >>> oc.nn.resize(x, (1, 4)).codes().tolist()
    [[[[1, 1, 2, 2]]]]
    """
    q = _out(x, out_qparams)
    codes = _core.resize(
        _codes(x),
        as_sizes(size, "size", 2, 1, 1),
        mode,
        coordinates,
        rounding,
        x.scale,
        x.zero_point,
        q.scale,
        q.zero_point,
        q.dtype,
        layout=as_layout(layout),
        out=out,
    )
    return _answer(codes, q, out)


def argmax(
    x: QTensor, axis: int = -1, *, out: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return where the greatest value along `axis` is, the first of equals.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> oc.nn.argmax(oc.QTensor(np.array([[1, 3, 3]], np.int8), 1.0))
    array([1])
    """
    found: NDArray[np.int64] = _core.argmax(_codes(x), axis, out)
    return found


def pad(x: QTensor, padding: int | Sequence[int], *, layout: str = "NCHW") -> QTensor:
    """Return images with borders of the real value 0; `padding` as `octavo.conv2d` takes it.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> x = oc.QTensor(np.array([[[[5]]]], np.uint8), 1.0, 3)
    >>> oc.nn.pad(x, (0, 1, 0, 0)).codes().tolist()
    [[[[3, 5]]]]
    """
    codes = _codes(x)
    if codes.ndim != 4:
        raise ValueError(f"x has {codes.ndim} dimensions, expected 4")
    top, left, bottom, right = _pad_sides(padding)
    first = 2 if as_layout(layout) == "NCHW" else 1
    widths = [(0, 0)] * 4
    widths[first], widths[first + 1] = (top, bottom), (left, right)
    return wrap_result(np.pad(codes, widths, constant_values=int(x.zero_point)), _own(x))


def transpose(x: QTensor, axes: Sequence[int]) -> QTensor:
    """Return a copy with the axes in another order.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> oc.nn.transpose(oc.QTensor(np.zeros((1, 2, 3), np.int8), 1.0), (0, 2, 1)).shape
    (1, 3, 2)
    """
    return wrap_result(_codes(x).transpose(axes).copy(), _own(x))


def take(x: QTensor, index: Any) -> QTensor:
    """Return a copy of ``x[index]`` (slices).

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> oc.nn.take(oc.QTensor(np.arange(4, dtype=np.int8), 1.0), np.s_[1:3]).codes()
    array([1, 2], dtype=int8)
    """
    return wrap_result(np.array(_codes(x)[index]), _own(x))


def channel_shuffle(x: QTensor, groups: int, *, layout: str = "NCHW") -> QTensor:
    """Return images whose channels are dealt out of `groups` equal blocks in turn.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> x = oc.QTensor(np.arange(4, dtype=np.int8).reshape(1, 4, 1, 1), 1.0)
    >>> oc.nn.channel_shuffle(x, 2).codes().ravel()
    array([0, 2, 1, 3], dtype=int8)
    """
    codes = _codes(x)
    if codes.ndim != 4:
        raise ValueError(f"x has {codes.ndim} dimensions, expected 4")
    axis = 1 if as_layout(layout) == "NCHW" else 3
    groups = as_whole(groups, "groups", 1)
    channels = codes.shape[axis]
    if channels % groups:
        raise ValueError(f"x has {channels} channels, groups is {groups}; it must divide them")
    order = np.arange(channels).reshape(groups, -1).T.reshape(-1)
    return wrap_result(np.take(codes, order, axis=axis), _own(x))
