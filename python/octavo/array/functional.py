"""Quantize, dequantize, and operators as functions."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from octavo.array import affine
from octavo.array.activation import Activation, activation_bounds
from octavo.array.interop import FLOAT32, as_array, as_float32, dtype_name, is_floating
from octavo.array.prepared import prepare
from octavo.array.qparams import EIGHT_BITS, RANGES, QParams, as_scale, as_zero_point
from octavo.array.qtensor import (
    DTYPES,
    QTensor,
    as_codes,
    prepared_from,
    wrap_codes,
    wrap_result,
)


def quantize(
    x: ArrayLike,
    dtype: DTypeLike | str = "int8",
    *,
    axis: int | None = None,
    group_size: int | None = None,
    symmetric: bool | None = None,
    scale: ArrayLike | None = None,
    zero_point: ArrayLike | None = None,
    qparams: QParams | None = None,
    method: str = "minmax",
    percentile: float = 99.99,
) -> QTensor:
    """Quantize an array: ``q = clamp(rint(x / scale) + zero_point)``, half to even, NaN as 0.

    Without `scale` or `qparams` the scale is chosen from the values. Values beyond the range of the
    codes take the nearest code.

    Parameters
    ----------
    x : array of float16, float32 or float64
        Of any shape; computed in float32.
    dtype : {"int8", "uint8", "int4", "uint4", "float16"}, default "int8"
        What the codes are. float16 rounds the values and has no scale.
    axis : int, optional
        The axis that gets a scale for each index; one scale for all if not given.
    group_size : int, optional
        For 2 dimensions and with `axis`: so many values along the other axis share a scale.
    symmetric : bool, optional
        How to choose the zero point: fixed (0; 128 for uint8, 8 for uint4), codes from -127 to 127
        (-7 to 7) about it; or so that the codes span the least to the greatest value. Default:
        symmetric for signed dtypes.
    scale : float, array of shape (C,), or grouped array, optional
        Scales to use instead of choosing them; then every code of the dtype is used. Grouped: of
        the shape of `x` with the other axis divided by `group_size`, rounded up.
    zero_point : int or array of the shape of `scale`, default 0
        The code for 0; goes with `scale`.
    qparams : QParams, optional
        Scale, zero point, dtype and axis to use.
    method : {"minmax", "percentile"}, default "minmax"
        Which range to cover: all values, or those up to a percentile.
    percentile : float, default 99.99
        In percent, above 50: of the magnitudes if symmetric, else of both tails.

    Returns
    -------
    QTensor
        Of the shape of `x`.

    Raises
    ------
    ValueError
        A parameter to be chosen where `x` holds NaN or infinity; arguments that do not go together.
    TypeError
        Values that are not floating-point.

    Warns
    -----
    RuntimeWarning
        Finite values that float16 cannot hold became infinite.

    Notes
    -----
    The rule is that of ONNX's QuantizeLinear; docs/int8.md says how scales are chosen.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> q = oc.quantize(np.array([-1.0, 0.25, 1.27], np.float32))
    >>> q.codes()
    array([-100,   25,  127], dtype=int8)
    >>> oc.quantize(np.array([[1.0, 2.0], [3.0, 4.0]]), axis=0).scale.shape
    (2,)
    >>> oc.quantize(np.array([0.0, 1.0]), scale=0.5, dtype="uint8").codes()
    array([0, 2], dtype=uint8)
    """
    values = as_array(x, "x")
    if not is_floating(values):
        raise TypeError(
            f"x is {values.dtype}, expected float16, float32 or float64; "
            "oc.QTensor wraps codes you have"
        )
    name = dtype_name(dtype, DTYPES)
    given = {
        "axis": axis,
        "group_size": group_size,
        "symmetric": symmetric,
        "scale": scale,
        "zero_point": zero_point,
        "qparams": qparams,
        "method": None if method == "minmax" else method,
    }
    if name == "float16":
        _refuse(given, "dtype='float16', which has no scale")
        return _to_float16(values)
    values = as_float32(values, "x")
    if qparams is not None:
        if not isinstance(qparams, QParams):
            raise TypeError(f"qparams is {type(qparams).__name__}, expected octavo.QParams")
        _refuse({**given, "qparams": None}, "qparams, which holds them")
        if name not in {"int8", qparams.dtype}:
            raise ValueError(f"dtype is {name!r}, qparams has {qparams.dtype!r}; expected the same")
        return _quantize_by(values, qparams)
    kept = affine.normalized_axis(axis, values.ndim)
    size = affine.check_group_size(group_size, kept, values.ndim)
    if scale is not None:
        _refuse(
            {"symmetric": symmetric, "method": given["method"]}, "scale, which leaves no choice"
        )
        scales = as_scale(scale)
        affine.check_scale_shape(scales, "x", values.shape, kept, size)
        zero_points = as_zero_point(0 if zero_point is None else zero_point, name, scales.shape)
        codes = affine.to_codes(values, scales, zero_points, name, kept, size)
        return wrap_codes(codes, scales, zero_points, name, kept, size)
    if zero_point is not None:
        raise ValueError("zero_point is given without scale; expected both or neither")
    balanced = name.startswith("int") if symmetric is None else bool(symmetric)
    least, greatest = affine.observed_range(values, kept, size, method, percentile, balanced)
    scales, zero_points = affine.choose(least, greatest, name, balanced)
    codes = affine.to_codes(values, scales, zero_points, name, kept, size)
    if balanced and method != "minmax":
        # Values beyond the chosen range stay within the symmetric codes too.
        np.maximum(codes, codes.dtype.type(RANGES[name][0] + 1), out=codes)
    return wrap_codes(codes, scales, zero_points, name, kept, size)


def _quantize_by(x: NDArray[np.float32], qparams: QParams) -> QTensor:
    """Quantize by parameters that were checked when they were made."""
    kept = affine.normalized_axis(qparams.axis, x.ndim)
    scale, zero_point, dtype = qparams.scale, qparams.zero_point, qparams.dtype
    affine.check_scale_shape(scale, "x", x.shape, kept, None)
    codes = affine.to_codes(x, scale, zero_point, dtype, kept, None)
    if qparams.axis == kept and dtype in ("int8", "uint8"):
        return wrap_result(codes, qparams)
    # 4 bits, or an axis that is counted from the end.
    return wrap_codes(codes, scale, zero_point, dtype, kept)


def _refuse(given: dict[str, Any], reason: str) -> None:
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise ValueError(f"{', '.join(names)} given with {reason}; expected without")


def _to_float16(x: NDArray[Any]) -> QTensor:
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    lost = int(np.count_nonzero(np.isinf(half) & np.isfinite(x)))
    if lost:
        warnings.warn(
            f"{lost} of {x.size} values are beyond float16's range (65504) and became infinite",
            RuntimeWarning,
            stacklevel=3,
        )
    return QTensor(half, 1.0)


def dequantize(
    q: QTensor | ArrayLike,
    qparams: QParams | None = None,
    *,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return the real values of codes as float32: ``float32(q - zero_point) * scale``.

    Parameters
    ----------
    q : QTensor, or array of int8, uint8, int4 or uint4
        Codes; an array needs `qparams`. 4-bit codes come one a byte.
    qparams : QParams, optional
        How to read an array.
    out : float32 array of the shape of `q`, optional
        Where to write the result.

    Returns
    -------
    float32 array of the shape of `q`

    Raises
    ------
    ValueError
        An array without `qparams`, or a QTensor with them; shapes that do not match.
    TypeError
        Codes of another dtype than `qparams` says.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> oc.dequantize(np.array([126, 128, 130], np.uint8), oc.QParams(0.5, 128))
    array([-1.,  0.,  1.], dtype=float32)
    """
    if isinstance(q, QTensor):
        if qparams is not None:
            raise ValueError("qparams given with a QTensor, which has its own; expected without")
        return q.dequantize(out=out)
    if qparams is None:
        raise ValueError("q is an array without qparams; expected how to read it")
    array = as_array(q, "q")
    if array.dtype != qparams._codes and array.dtype.name != qparams.dtype:
        raise TypeError(f"q is {array.dtype}, expected {qparams._codes} codes of {qparams.dtype}")
    codes = as_codes(array, qparams.dtype)
    kept = affine.normalized_axis(qparams.axis, codes.ndim)
    affine.check_scale_shape(qparams.scale, "q", codes.shape, kept, None)
    return affine.from_codes(codes, qparams.scale, qparams.zero_point, kept, None, out)


def linear(
    x: QTensor | ArrayLike,
    w: QTensor | ArrayLike,
    bias: ArrayLike | None = None,
    *,
    x_qparams: QParams | None = None,
    out_qparams: QParams | None = None,
    out_dtype: str | None = None,
    activation: Activation = None,
    out: NDArray[Any] | None = None,
) -> QTensor | NDArray[Any]:
    """Return ``activation(x @ w.T + bias)``.

    Parameters
    ----------
    x : QTensor, or array of shape (..., in)
        Floating-point values, quantized by `x_qparams`, else on the fly with a range for each row;
        or 8-bit codes, which need `x_qparams`; or a QTensor, which has its own.
    w : QTensor, or float array, of shape (out, in)
        Scales: one, or one for each output (axis 0), or in groups along the inputs. Packed at the
        first call, and kept with the QTensor.
    bias : float array of shape (out,), or int32 at ``x_scale * w_scale``, optional
    x_qparams : QParams of 8 bits and one scale, optional
        How codes of `x` are read, and, where the weights have 8 or 4 bits and no groups, how
        floating-point `x` is quantized.
    out_qparams : QParams of 8 bits and one scale, optional
        Quantize the result.
    out_dtype : {"float32", "int32"}, optional
        int32: the accumulators, bias included, at ``x_scale * w_scale``.
    activation : {"relu", "relu6"}, or ("clip", lo, hi), optional
        In real units; None in place of lo or hi leaves that end open.
    out : array of shape (..., out), optional
        Where to write the result: float32, int32, or codes of `out_qparams`.

    Returns
    -------
    QTensor if `out_qparams` is given, else array of shape (..., out); `out` itself if given

    Raises
    ------
    ValueError, TypeError
        Shapes, dtypes or arguments that do not go together.
    OverflowError
        A sum that int32 cannot hold, with `out_dtype` int32.

    Warns
    -----
    RuntimeWarning
        A bias that int32 cannot hold: the scale of that output's weights is raised.

    Notes
    -----
    Every CPU gives the same bits for weights of 8 bits and of 4, by the rules of docs/int8.md; they
    are those of Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference" (2018), equations 4, 5 and 7, with a float32 multiplier.
    Weights in groups follow "Weights in groups" on that page, float weights "Float weights".

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> w = oc.quantize(np.array([[1.0, -1.0], [0.5, 0.25]], np.float32), axis=0)
    >>> x = np.array([[2.0, 1.0]], np.float32)
    >>> oc.linear(x, w, np.array([0.0, 1.0], np.float32), activation="relu").round(2)
    array([[1.  , 2.25]], dtype=float32)
    """
    if isinstance(x, QTensor) and x_qparams is None:
        x_qparams = x.qparams
    if bias is not None:
        bias = as_array(bias, "bias")
    bounds = activation_bounds(activation)
    make = partial(
        prepare,
        bias=bias,
        x_qparams=x_qparams,
        out_qparams=out_qparams,
        out_dtype=out_dtype,
        bounds=bounds,
    )
    if isinstance(w, QTensor):
        key = None if bias is None else (bias.dtype, bias.shape, bias.tobytes())
        options = (key, x_qparams, out_qparams, out_dtype, *bounds)
        operator = prepared_from(w, options, make)
    else:
        operator = make(as_float32(w, "w", ", or a QTensor"))
    y = operator.run(activations(x, x_qparams), out)
    return y if out is not None or out_qparams is None else wrap_result(y, out_qparams)


def activations(x: QTensor | ArrayLike, x_qparams: QParams | None, name: str = "x") -> NDArray[Any]:
    """Return `x` as an operator takes it: float32, or 8-bit codes that `x_qparams` describes."""
    # What comes most goes first: a small product takes no longer than all that follows.
    if type(x) is np.ndarray:
        if x.dtype is FLOAT32 or (x_qparams is not None and x.dtype is x_qparams._codes):
            return x
    elif isinstance(x, QTensor):
        if x_qparams is not None and x._qparams is x_qparams:
            return x.codes()
        if x.dtype == "float16":
            return x.dequantize()
        if x_qparams is None or x.qparams != x_qparams:
            raise ValueError(
                f"{name} has {x.qparams}, expected {name}_qparams={x_qparams}; "
                f"dequantize {name}, or prepare the operator for its parameters"
            )
        return x.codes()
    array = as_array(x, name)
    if array.dtype not in EIGHT_BITS:
        return as_float32(array, name, ", or int8 or uint8 codes")
    if x_qparams is None:
        raise ValueError(f"{name} is {array.dtype} without {name}_qparams; expected how to read it")
    if array.dtype != x_qparams._codes:
        raise TypeError(
            f"{name} is {array.dtype}, {name}_qparams has {x_qparams.dtype}; expected the same"
        )
    return array
