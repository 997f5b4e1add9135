"""Operators on float arrays between the layers: functions of one value, softmax, norms.

Each computes in float32 and gives float32, the same bits on every CPU and for any number of threads
(docs/floats.md says how, and how far results are from exact ones). float16 and float64 are converted
first. Arrays of float32 are read and written where they lie, whatever their strides: with ``out``
nothing is allocated, but by norms over several axes that are not one run of memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo import _core
from octavo.array.convolution import as_whole
from octavo.array.interop import as_array, as_float32, as_indices
from octavo.array.prepared import check_qparams
from octavo.array.qparams import QParams
from octavo.array.qtensor import QTensor, wrap_result

Float32 = NDArray[np.float32]


class QuantizedRows(NamedTuple):
    """Rows of floats, each quantized by its own range: what `octavo.Linear` makes of its input.

    Attributes
    ----------
    codes : array of uint8
    scale : array of float32 of shape ``codes.shape[:-1]``
        NaN for a row that holds NaN or infinity.
    zero_point : array of int32 of the shape of `scale`

    Notes
    -----
    The parameters are those of docs/int8.md, "Dynamic quantization".
    """

    codes: NDArray[np.uint8]
    scale: Float32
    zero_point: NDArray[np.int32]


def _float32(x: ArrayLike, name: str = "x") -> Float32:
    if isinstance(x, QTensor):
        raise TypeError(
            f"{name} is a QTensor, expected a float array: {name}.dequantize() is one; "
            "octavo.nn.activate gives codes from codes"
        )
    return as_float32(x, name)


def _parameter(x: ArrayLike | None, name: str) -> Float32 | None:
    return None if x is None else _float32(x, name)


def _codes_of(out_qparams: QParams | None) -> tuple[float, int, str] | None:
    """Return 8-bit parameters as kernels take them."""
    check_qparams(out_qparams, "out_qparams")
    if out_qparams is None:
        return None
    return float(out_qparams.scale), int(out_qparams.zero_point), out_qparams.dtype


def exp(x: ArrayLike, *, out: Float32 | None = None) -> Float32:
    """Return ``e ** x``, within 1.1 ulp.

    Parameters
    ----------
    x : array of float16, float32 or float64
        Of any shape.
    out : array of float32, optional
        Of the shape of `x`, sharing no memory with it.

    Returns
    -------
    array of float32

    Raises
    ------
    TypeError, ValueError
        `x` that is not floating-point; an `out` of another dtype or shape, or that cannot be written.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> oc.nn.exp(np.array([0.0, -np.inf], np.float32))
    array([1., 0.], dtype=float32)
    """
    return _core.float_function("exp", _float32(x), out)


def erf(x: ArrayLike, *, out: Float32 | None = None) -> Float32:
    """Return the error function, within 3 ulp; as `exp`.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> oc.nn.erf(np.array([0.0, np.inf], np.float32))
    array([0., 1.], dtype=float32)
    """
    return _core.float_function("erf", _float32(x), out)


def tanh(x: ArrayLike, *, out: Float32 | None = None) -> Float32:
    """Return the hyperbolic tangent, within 2 ulp; as `exp`.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> oc.nn.tanh(np.array([0.0, -np.inf], np.float32))
    array([ 0., -1.], dtype=float32)
    """
    return _core.float_function("tanh", _float32(x), out)


def sigmoid(x: ArrayLike, *, out: Float32 | None = None) -> Float32:
    """Return ``1 / (1 + exp(-x))``, within 3 ulp; as `exp`.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> oc.nn.sigmoid(np.array([0.0, np.inf], np.float32))
    array([0.5, 1. ], dtype=float32)
    """
    return _core.float_function("sigmoid", _float32(x), out)


def silu(x: ArrayLike, *, out: Float32 | None = None) -> Float32:
    """Return ``x * sigmoid(x)``, within 4 ulp or 2**-140; as `exp`.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> oc.nn.silu(np.array([0.0, 100.0], np.float32))
    array([  0., 100.], dtype=float32)
    """
    return _core.float_function("silu", _float32(x), out)


def gelu(x: ArrayLike, *, approximate: str = "none", out: Float32 | None = None) -> Float32:
    """Return ``x * Phi(x)``, Phi the distribution function of the normal distribution; as `exp`.

    Within 2 ulp (3 for "tanh") or 2**-23, whichever is more.

    Parameters
    ----------
    x : array of float16, float32 or float64
    approximate : {"none", "tanh"}, default "none"
        "tanh": ``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))``, which many models were
        trained with.
    out : array of float32, optional

    Notes
    -----
    Hendrycks and Gimpel, Gaussian Error Linear Units, arXiv:1606.08415, section 2.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> oc.nn.gelu(np.array([0.0, 100.0], np.float32))
    array([  0., 100.], dtype=float32)
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate is {approximate!r}, expected 'none' or 'tanh'")
    name = "gelu" if approximate == "none" else "gelu_tanh"
    return _core.float_function(name, _float32(x), out)


def softmax(
    x: ArrayLike,
    axis: int = -1,
    mask: ArrayLike | None = None,
    *,
    out_qparams: QParams | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any] | QTensor:
    """Return ``exp(x) / sum(exp(x))`` along an axis.

    Parameters
    ----------
    x : array of float16, float32 or float64
    axis : int, default -1
    mask : array of bool or of floats, optional
        Broadcast to the shape of `x`. bool: only where it is True do values take part, others count
        as -infinity whatever they are. Floats are added to `x`.
    out_qparams : QParams, optional
        The result is quantized by them, as `octavo.quantize` would: along the last axis while the
        rows are in cache. ``QParams(1 / 255)`` holds all that comes.
    out : array of float32, or of the dtype of `out_qparams`, optional
        Of the shape of `x`, sharing no memory with it.

    Returns
    -------
    array of float32, or QTensor if `out_qparams` is given (codes, if `out` is given too)
        Where nothing along the axis takes part (all values are -infinity or masked): zeros. NaN
        along the whole axis where a NaN or +infinity takes part.

    Raises
    ------
    TypeError, ValueError
        Values that are not floating-point; a mask of another dtype, or that does not broadcast to
        `x`; an axis that `x` has not.

    Notes
    -----
    The greatest value is taken from all first, so that nothing overflows. Masks mean what they do in
    ONNX's Attention and in torch's scaled_dot_product_attention, whose rows without any key are zero
    too; torch.softmax of -infinity alone is NaN.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> x = np.zeros((2, 2), np.float32)
    >>> oc.nn.softmax(x, mask=np.array([[True, True], [False, False]]))
    array([[0.5, 0.5],
           [0. , 0. ]], dtype=float32)
    """
    values, kept, codes = _float32(x), None if mask is None else _mask(mask), _codes_of(out_qparams)
    if codes is None or out_qparams is None:
        return _core.softmax(values, axis, kept, None, out)
    if axis in {-1, values.ndim - 1}:
        y = _core.softmax(values, axis, kept, codes, out)
    else:
        real = _core.softmax(values, axis, kept)
        y = _core.quantize(real, out_qparams.scale, out_qparams.zero_point, codes[2], None, out)
    return y if out is not None else wrap_result(y, out_qparams)


def _mask(mask: ArrayLike) -> NDArray[Any]:
    array = as_array(mask, "mask")
    if array.dtype == np.bool_:
        return array.view(np.uint8)
    if array.dtype.kind != "f":
        raise TypeError(f"mask is {array.dtype}, expected bool or a floating-point dtype")
    return as_float32(array, "mask")


def layer_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: int = -1,
    eps: float = 1e-5,
    residual: ArrayLike | None = None,
    out_sum: Float32 | None = None,
    out_qparams: QParams | Literal["rows"] | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any] | QTensor | QuantizedRows:
    """Return ``(x - mean) / sqrt(variance + eps) * weight + bias``.

    Parameters
    ----------
    x : array of float16, float32 or float64
    weight, bias : array of floats of shape ``x.shape[axis:]``, optional
    axis : int, default -1
        The first of the axes that mean and variance go over: this and all after it.
    eps : float, default 1e-5
    residual : array of floats of the shape of `x`, optional
        Added to `x` first, while its row is in cache.
    out_sum : array of float32 of the shape of `x`, optional
        Where ``x + residual`` goes: `residual` itself, or an array that shares no memory with an
        input.
    out_qparams : QParams or "rows", optional
        Quantize each row while it is in cache: by these parameters, as `octavo.quantize` would, or
        by its own range, as an `octavo.Linear` without `x_qparams` would.
    out : array of float32, or of the dtype of `out_qparams`, optional
        Of the shape of `x`, sharing no memory with an input. Not with "rows".

    Returns
    -------
    array of float32, QTensor (codes, if `out` is given) or QuantizedRows

    Raises
    ------
    TypeError, ValueError
        Values that are not floating-point; a weight, bias or residual of another shape; a negative
        `eps`; "rows" over several axes.

    Notes
    -----
    The variance is the mean of squares of ``x - mean``, in a second pass. Ba, Kiros and Hinton, Layer
    Normalization, arXiv:1607.06450, equations 3 and 4; ONNX's LayerNormalization.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> oc.nn.layer_norm(np.array([[1.0, 3.0]], np.float32), eps=0.0)
    array([[-1.,  1.]], dtype=float32)
    """
    return _norm(_core.layer_norm, x, weight, bias, axis, eps, residual, out_sum, out_qparams, out)


def _norm(
    function: Callable[..., Any],
    x: ArrayLike,
    weight: ArrayLike | None,
    bias: ArrayLike | None,
    axis: int,
    eps: float,
    residual: ArrayLike | None,
    out_sum: Float32 | None,
    out_qparams: QParams | Literal["rows"] | None,
    out: NDArray[Any] | None,
) -> NDArray[Any] | QTensor | QuantizedRows:
    values, w, b = _float32(x), _parameter(weight, "weight"), _parameter(bias, "bias")
    added = _parameter(residual, "residual")
    if isinstance(out_qparams, str):
        if out_qparams != "rows":
            raise ValueError(f"out_qparams is {out_qparams!r}, expected QParams, 'rows' or None")
        if axis not in {-1, values.ndim - 1}:
            raise ValueError(f"axis is {axis} with out_qparams='rows', expected -1")
        if out is not None:
            raise ValueError("out is given with out_qparams='rows', expected None")
        return QuantizedRows(*function(values, w, b, axis, eps, added, out_sum, "rows"))
    codes = _codes_of(out_qparams)
    y = function(values, w, b, axis, eps, added, out_sum, codes, out)
    return y if out_qparams is None or out is not None else wrap_result(y, out_qparams)


def rms_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: int = -1,
    eps: float = 1e-5,
    residual: ArrayLike | None = None,
    out_sum: Float32 | None = None,
    out_qparams: QParams | Literal["rows"] | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any] | QTensor | QuantizedRows:
    """Return ``x / sqrt(mean of x**2 + eps) * weight``; as `layer_norm`.

    Notes
    -----
    Zhang and Sennrich, Root Mean Square Layer Normalization, arXiv:1910.07467, equation 4; ONNX's
    RMSNormalization.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> oc.nn.rms_norm(np.array([[2.0, -2.0]], np.float32), eps=0.0)
    array([[ 1., -1.]], dtype=float32)
    """
    return _norm(_core.rms_norm, x, weight, None, axis, eps, residual, out_sum, out_qparams, out)


def group_norm(
    x: ArrayLike,
    groups: int,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    out: Float32 | None = None,
) -> Float32:
    """Return the layer norm of each group of channels of each image, then weighed by channel.

    Parameters
    ----------
    x : array of float16, float32 or float64 of shape (batch, channels, ...)
    groups : int
        How many groups of neighbouring channels; it must divide them.
    weight, bias : array of floats of shape (channels,), optional
    eps : float, default 1e-5
    out : array of float32, optional

    Notes
    -----
    Wu and He, Group Normalization, arXiv:1803.08494, equation 7; ONNX's GroupNormalization.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> x = np.array([[[1.0], [3.0], [5.0], [9.0]]], np.float32)
    >>> oc.nn.group_norm(x, 2, eps=0.0).ravel()
    array([-1.,  1., -1.,  1.], dtype=float32)
    """
    values, w, b = _float32(x), _parameter(weight, "weight"), _parameter(bias, "bias")
    return _core.group_norm(values, as_whole(groups, "groups", 1), w, b, eps, out)


def instance_norm(
    x: ArrayLike,
    weight: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    out: Float32 | None = None,
) -> Float32:
    """Return the group norm with every channel a group; as `group_norm`.

    Notes
    -----
    Ulyanov, Vedaldi and Lempitsky, Instance Normalization, arXiv:1607.08022; ONNX's
    InstanceNormalization.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> oc.nn.instance_norm(np.array([[[1.0, 3.0]]], np.float32), eps=0.0)
    array([[[-1.,  1.]]], dtype=float32)
    """
    values, w, b = _float32(x), _parameter(weight, "weight"), _parameter(bias, "bias")
    return _core.group_norm(values, None, w, b, eps, out)


def rotary(
    x: ArrayLike,
    cos: ArrayLike,
    sin: ArrayLike,
    position_ids: ArrayLike | None = None,
    *,
    interleaved: bool = False,
    num_heads: int | None = None,
    out: Float32 | None = None,
) -> Float32:
    """Return `x` with pairs of each head's values turned by the angles of their token's position.

    A pair (a, b) becomes ``(a cos - b sin, a sin + b cos)``. Where `cos` has fewer pairs than half
    the size of a head, only the first ``2 * pairs`` values turn.

    Parameters
    ----------
    x : array of float16, float32 or float64
        Of shape (batch, heads, tokens, head size), or (batch, tokens, hidden) with `num_heads`.
    cos, sin : array of floats
        Of shape (positions, pairs) with `position_ids`, else (batch, tokens, pairs).
    position_ids : array of integers of shape (batch, tokens), optional
        Rows of `cos` and `sin`.
    interleaved : bool, default False
        Pairs are neighbours; else value i and value ``pairs + i``.
    num_heads : int, optional
        For 3 dimensions: how many heads `hidden` holds.
    out : array of float32, optional
        Of the shape of `x`, sharing no memory with an input.

    Returns
    -------
    array of float32

    Raises
    ------
    TypeError, ValueError
        Values that are not floating-point, shapes that do not go together, positions that `cos`
        has not (negative ones among them).

    Notes
    -----
    The first product of each sum is rounded, the second is a fused multiply-add. Su et al., RoFormer,
    arXiv:2104.09864, equation 34; ONNX's RotaryEmbedding.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> x = np.array([[[[1.0, 2.0, 3.0]]]], np.float32)
    >>> oc.nn.rotary(x, [[[0.0]]], [[[1.0]]])
    array([[[[-2.,  1.,  3.]]]], dtype=float32)
    """
    values, c, s = _float32(x), _float32(cos, "cos"), _float32(sin, "sin")
    positions = None if position_ids is None else as_indices(position_ids, "position_ids")
    y = np.empty(values.shape, np.float32) if out is None else out
    if not isinstance(y, np.ndarray):
        raise TypeError(f"out is {type(y).__name__}, expected an array of float32")
    if y.shape != values.shape:
        raise ValueError(f"out has shape {y.shape}, expected {values.shape}")
    heads = None if num_heads is None else as_whole(num_heads, "num_heads", 1)
    by_heads = _by_heads(values, heads)
    _core.rotate(by_heads, c, s, positions, bool(interleaved), _by_heads(y, heads))
    return y


def _by_heads(x: NDArray[Any], heads: int | None) -> NDArray[Any]:
    """Return a view of shape (batch, heads, tokens, head size)."""
    if x.ndim == 4 and heads in {None, x.shape[1]}:
        return x
    if x.ndim != 3 or heads is None or x.shape[2] % heads:
        raise ValueError(
            f"x has shape {x.shape} with num_heads={heads}, expected (batch, heads, tokens, "
            "head size), or (batch, tokens, hidden) with num_heads that divides hidden"
        )
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(0, 2, 1, 3)
