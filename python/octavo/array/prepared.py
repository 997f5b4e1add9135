"""The linear operator ``x @ w.T + b``: prepared once, run often.

How the weights are stored decides how the product is done:

- 8 or 4 bits with one scale for all or one for each output: integer kernels, weights packed;
- 8 or 4 bits in groups: integer kernels too, by "Weights in groups" of docs/int8.md;
- float16 and float32: float32 kernels, each output one chain of fused multiply-adds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo import _core
from octavo.array.activation import Bounds
from octavo.array.affine import check_out
from octavo.array.interop import FLOAT32, as_array, is_floating
from octavo.array.qparams import QParams

if TYPE_CHECKING:
    from octavo.array.qtensor import QTensor


def prepare(
    w: QTensor | NDArray[np.float32],
    bias: ArrayLike | None = None,
    *,
    x_qparams: QParams | None = None,
    out_qparams: QParams | None = None,
    out_dtype: str | None = None,
    bounds: Bounds = (None, None),
) -> PreparedLinear:
    """Validate everything and pack the weights `w` of shape (out, in)."""
    if w.ndim != 2:
        raise ValueError(f"w has {w.ndim} dimensions, expected 2: (out, in)")
    check_qparams(x_qparams, "x_qparams")
    check_qparams(out_qparams, "out_qparams")
    if out_dtype not in {None, "float32", "int32"}:
        raise ValueError(f"out_dtype is {out_dtype!r}, expected 'float32', 'int32' or None")
    if out_dtype is not None and out_qparams is not None:
        raise ValueError(
            f"out_dtype is {out_dtype!r} and out_qparams is given; expected one of them"
        )
    b = None if bias is None else as_bias(bias, w.shape[0])
    if not isinstance(w, np.ndarray) and w.axis == 1:
        raise ValueError(
            "the scale of w varies along axis 1, which the product sums over; w is (out, in): "
            "quantize it with axis=0, or pass w.T if it is (in, out)"
        )
    is_grouped = not isinstance(w, np.ndarray) and w.group_size is not None
    if isinstance(w, np.ndarray) or w.dtype == "float16" or is_grouped:
        kind = "grouped" if is_grouped else "float"
        if out_dtype == "int32":
            raise ValueError(f"out_dtype is 'int32' with {kind} weights, expected 'float32'")
        if b is not None and b.dtype != FLOAT32:
            raise TypeError(f"bias is {b.dtype} with {kind} weights, expected float32")
        if not isinstance(w, np.ndarray) and w.group_size is not None:
            return GroupedLinear(w, b, x_qparams, out_qparams, bounds)
        return FloatLinear(w, b, x_qparams, out_qparams, bounds)
    if x_qparams is None:
        if out_dtype == "int32":
            raise ValueError("out_dtype is 'int32' without x_qparams; expected the scale of x too")
        if b is not None and b.dtype != FLOAT32:
            raise TypeError(f"bias is {b.dtype} without x_qparams; expected float32")
    if out_dtype == "int32" and bounds != (None, None):
        raise ValueError("activation is given with out_dtype='int32'; expected None")
    return IntegerLinear(w, b, x_qparams, out_qparams, out_dtype or "float32", bounds)


def check_qparams(qparams: QParams | None, name: str) -> None:
    """Raise unless `qparams` is None or describes 8-bit codes with one scale."""
    if qparams is None:
        return
    if not isinstance(qparams, QParams):
        raise TypeError(f"{name} is {type(qparams).__name__}, expected octavo.QParams")
    if qparams.axis is not None:
        raise ValueError(f"{name} has axis={qparams.axis}, expected one scale for the whole array")
    if qparams.dtype not in {"int8", "uint8"}:
        raise ValueError(f"{name} has dtype {qparams.dtype}, expected int8 or uint8")


def as_bias(bias: ArrayLike, out_features: int) -> NDArray[Any]:
    """Return a copy of `bias` as float32, or as int32 where it was."""
    array = as_array(bias, "bias")
    if not is_floating(array) and array.dtype != np.int32:
        raise TypeError(f"bias is {array.dtype}, expected float32, or int32 at x_scale * w_scale")
    if array.shape != (out_features,):
        raise ValueError(f"bias has shape {array.shape}, expected ({out_features},)")
    b = np.array(array, dtype=np.float32 if is_floating(array) else np.int32)
    if not np.isfinite(b).all():
        raise ValueError("bias holds NaN or infinity, expected finite values")
    return b


def bias_factor(
    bias: NDArray[np.float32], scale: ArrayLike, x_scale: float, stacklevel: int
) -> NDArray[np.float64] | None:
    """Return what the scale of each output's weights must be raised by; None: nothing, for any.

    Where int32 cannot hold a bias at ``x_scale * scale``, the factor is the power of two that
    brings it to half of int32's range: the rest is for the products.
    """
    scale = np.broadcast_to(scale, bias.shape)
    steps = np.abs(bias.astype(np.float64)) / (x_scale * scale.astype(np.float64))
    too_large = np.rint(steps) > np.iinfo(np.int32).max
    if not too_large.any():
        return None
    factor = np.where(too_large, 2.0 ** np.frexp(steps / 2.0**30)[1], 1.0)
    first = int(np.argmax(too_large))
    warnings.warn(
        f"bias of {np.count_nonzero(too_large)} outputs overflows int32 at x_scale * w_scale "
        f"(output {first}: {steps[first]:.3g} steps); their weight scales were raised, "
        f"by {factor.max():g} at most, and their weights rounded again",
        RuntimeWarning,
        stacklevel=stacklevel,
    )
    return factor


class IntegerLinear:
    """Integer kernels over packed weights. Only the packed form of the codes is kept."""

    def __init__(
        self,
        w: QTensor,
        bias: NDArray[Any] | None,
        x_qparams: QParams | None,
        out_qparams: QParams | None,
        out_dtype: str,
        bounds: Bounds,
    ) -> None:
        self.out_features: int = w.shape[0]
        self.in_features: int = w.shape[1]
        self.dtype = w.dtype
        self.axis = w.axis
        self.group_size: int | None = None
        self.bias = bias
        self.scale = w.scale
        self.zero_point = w.zero_point
        codes = w.codes()
        x_scale = None if x_qparams is None else float(x_qparams.scale)
        if (
            x_scale is not None
            and (out_dtype == "int32" or out_qparams is not None)
            and bias is not None
            and bias.dtype == FLOAT32
        ):
            codes = self._make_room(codes, bias, x_scale)
        lo, hi = bounds
        op = _core.LinearOp(
            codes,
            np.atleast_1d(self.scale),
            np.array(self.zero_point, ndmin=1),
            bias=bias,
            x_scale=x_scale,
            x_zero_point=0 if x_qparams is None else int(x_qparams.zero_point),
            x_dtype=None if x_qparams is None else x_qparams.dtype,
            out_dtype=out_dtype if out_qparams is None else out_qparams.dtype,
            out_scale=None if out_qparams is None else float(out_qparams.scale),
            out_zero_point=0 if out_qparams is None else int(out_qparams.zero_point),
            lo=lo,
            hi=hi,
        )
        self.nbytes: int = op.nbytes
        self.unpack = op.unpack
        self.run = op  # no frame of Python between
        self.add_to = partial(_add_to, op)
        self.run_rows = op.run_rows

    def _make_room(
        self, codes: NDArray[Any], bias: NDArray[np.float32], x_scale: float
    ) -> NDArray[Any]:
        """Double the weight scale of outputs whose bias int32 cannot hold (docs/int8.md).

        Doubling keeps the requantized weights as near as their fewer codes can be.
        """
        factor = bias_factor(bias, self.scale, x_scale, stacklevel=7)
        if factor is None:
            return codes
        scale = np.broadcast_to(self.scale, bias.shape)
        zero_point = np.broadcast_to(self.zero_point, bias.shape)[:, None]
        self.axis = 0
        self.scale = (scale * factor).astype(np.float32)
        self.zero_point = zero_point[:, 0]
        raised = np.rint((codes.astype(np.float64) - zero_point) / factor[:, None]) + zero_point
        return raised.astype(codes.dtype)


class GroupedLinear:
    """Integer kernels over weights in groups. Only the packed form of the codes is kept."""

    def __init__(
        self,
        w: QTensor,
        bias: NDArray[np.float32] | None,
        x_qparams: QParams | None,
        out_qparams: QParams | None,
        bounds: Bounds,
    ) -> None:
        self.out_features: int = w.shape[0]
        self.in_features: int = w.shape[1]
        self.dtype = w.dtype
        self.axis = w.axis
        assert w.group_size is not None  # prepare() looked
        self.group_size = w.group_size
        self.bias = bias
        self.scale = w.scale
        self.zero_point = w.zero_point
        lo, hi = bounds
        op = _core.GroupedLinearOp(
            w.codes(),
            w.scale,
            w.zero_point if w.zero_point.any() else None,
            self.group_size,
            bits=4 if w.dtype.endswith("4") else 8,
            bias=bias,
            lo=lo,
            hi=hi,
        )
        self.nbytes: int = op.nbytes
        self.unpack = op.unpack
        plain = x_qparams is None and out_qparams is None
        self.run: Callable[..., NDArray[Any]] = (
            op if plain else partial(run_between, op, w.shape[0], x_qparams, out_qparams)
        )
        self.add_to = partial(add_between, _add_to, op, x_qparams, out_qparams)


class FloatLinear:
    """float32 kernels over float32 or float16 weights. Only the packed form is kept."""

    def __init__(
        self,
        w: QTensor | NDArray[np.float32],
        bias: NDArray[np.float32] | None,
        x_qparams: QParams | None,
        out_qparams: QParams | None,
        bounds: Bounds,
    ) -> None:
        self.out_features: int = w.shape[0]
        self.in_features: int = w.shape[1]
        self.bias = bias
        lo, hi = bounds
        values = w if isinstance(w, np.ndarray) else w.data.reshape(w.shape)
        op = _core.FloatLinearOp(values, bias=bias, lo=lo, hi=hi)
        self.nbytes: int = op.nbytes
        self.unpack = op.unpack
        plain = x_qparams is None and out_qparams is None
        self.run: Callable[..., NDArray[Any]] = (
            op if plain else partial(run_between, op, w.shape[0], x_qparams, out_qparams)
        )
        self.add_to = partial(add_between, _add_to, op, x_qparams, out_qparams)


def run_between(
    op: Callable[..., NDArray[Any]],
    out_features: int,
    x_qparams: QParams | None,
    out_qparams: QParams | None,
    x: NDArray[Any],
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Run a float32 operator on codes, or for codes."""
    if out is not None:  # before the steps that come first here
        dtype = "float32" if out_qparams is None else out_qparams.dtype
        check_out(out, (*x.shape[:-1], out_features), dtype, x)
    if x.dtype != FLOAT32:
        assert x_qparams is not None  # else codes would not have come this far
        x = _core.dequantize(x, x_qparams.scale, x_qparams.zero_point, None)
    if out_qparams is None:
        return op(x, out)
    codes: NDArray[Any] = _core.quantize(
        op(x), out_qparams.scale, out_qparams.zero_point, out_qparams.dtype, None, out
    )
    return codes


def _add_to(op: Any, plan: _core.PlanBuilder, x: int) -> int:
    return plan.linear(op, x)


def add_between(
    add_to: Callable[..., int],
    op: Any,
    x_qparams: QParams | None,
    out_qparams: QParams | None,
    plan: _core.PlanBuilder,
    x: int,
) -> int:
    """Add a float32 operator on codes, or for codes, to a plan; as `run_between`."""
    if x_qparams is not None and plan.dtype(x) != "float32":
        x = plan.dequantize(x, x_qparams.scale, x_qparams.zero_point, None)
    y = add_to(op, plan, x)
    if out_qparams is None:
        return y
    return plan.quantize(y, out_qparams.scale, out_qparams.zero_point, out_qparams.dtype, None)


# A validated operator, of attributes in_features, out_features, nbytes, run(x, out=None) and
# add_to(plan, x), for values of a plan; immutable, usable from many threads at once.
PreparedLinear = IntegerLinear | GroupedLinear | FloatLinear
