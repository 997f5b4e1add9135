"""Convolution and transposed convolution: prepared once, run often.

Weights of 8 bits, or 4 (one scale for all, or one for each output channel), run in integer kernels;
float16 and float32 weights in float32 kernels. One algorithm: 1-D signals are images one high.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo import _core
from octavo.array.activation import (
    NO_BOUNDS,
    Activation,
    activation_bounds,
    as_activation,
    table,
    table_function,
)
from octavo.array.affine import check_out
from octavo.array.functional import activations
from octavo.array.interop import FLOAT32, as_array, as_float32
from octavo.array.prepared import add_between, as_bias, bias_factor, check_qparams
from octavo.array.qparams import QParams
from octavo.array.qtensor import QTensor, prepared_from, wrap_result

Size = int | Sequence[int]
Padding = int | str | Sequence[int]

_LARGEST_SIZE = 2**31 - 1
# A transposed convolution is one ordinary one for each offset below its strides, each with packed
# weights of its own.
_MOST_OFFSETS = 2**16

_LAYOUTS = {1: {"NCW": "NCHW", "NWC": "NHWC"}, 2: {"NCHW": "NCHW", "NHWC": "NHWC"}}


class Window(NamedTuple):
    """How the kernel moves: everything but the weights. Sizes are (height, width)."""

    dims: int = 2
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    same: bool = False
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    layout: str = "NCHW"
    transposed: bool = False
    output_padding: tuple[int, int] = (0, 0)


class Result(NamedTuple):
    """What becomes of the sums: quantized, put through an activation, added to another tensor."""

    x_qparams: QParams | None = None
    out_qparams: QParams | None = None
    out_dtype: str | None = None
    activation: str | tuple[Any, ...] | None = None
    pre_qparams: QParams | None = None
    residual_qparams: QParams | None = None
    sum_qparams: QParams | None = None
    sum_activation: str | tuple[Any, ...] | None = None

    @property
    def qparams(self) -> QParams | None:
        """How the result is quantized; None: float32 or int32."""
        return self.out_qparams if self.sum_qparams is None else self.sum_qparams


def make_window(
    dims: int,
    stride: Size,
    padding: Padding,
    dilation: Size,
    groups: int,
    layout: str | None,
    transposed: bool = False,
    output_padding: Size = 0,
) -> Window:
    """Return the window that these arguments of a convolution in `dims` dimensions describe."""
    layout = as_layout(layout, dims)
    same = isinstance(padding, str)
    if same and padding != "same":
        raise ValueError(f"padding is {padding!r}, expected 'same', a number, or one for each side")
    steps = as_sizes(stride, "stride", dims, 1, 1)
    if transposed and steps[0] * steps[1] > _MOST_OFFSETS:
        raise ValueError(
            f"stride is {steps}, expected a product of at most {_MOST_OFFSETS} "
            "for a transposed convolution"
        )
    return Window(
        dims,
        steps,
        (0, 0, 0, 0) if isinstance(padding, str) else as_sides(padding, dims),
        same,
        as_sizes(dilation, "dilation", dims, 1, 1),
        as_whole(groups, "groups", 1),
        layout,
        transposed,
        as_sizes(output_padding, "output_padding", dims, 0, 0),
    )


def as_layout(layout: str | None, dims: int = 2) -> str:
    """Return a layout of images (or signals) that is known; None: channels first."""
    layouts = _LAYOUTS[dims]
    layout = next(iter(layouts)) if layout is None else layout
    if layout not in layouts:
        raise ValueError(f"layout is {layout!r}, expected {' or '.join(map(repr, layouts))}")
    return layout


def as_whole(value: Any, name: str, least: int) -> int:
    """Return an integer from `least` to 2**31 - 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} is {value!r}, expected an integer of at least {least}")
    if value < least:
        raise ValueError(f"{name} is {value}, expected at least {least}")
    if value > _LARGEST_SIZE:
        raise ValueError(f"{name} is {value}, expected less than 2**31")
    return int(value)


def as_sizes(value: Size, name: str, dims: int, least: int, unused: int) -> tuple[int, int]:
    """Return (height, width); the height of a signal is `unused`."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * dims
    if len(values) != dims:
        raise ValueError(f"{name} has {len(values)} values, expected 1 or {dims}")
    whole = tuple(as_whole(each, name, least) for each in values)
    return (unused, whole[0]) if dims == 1 else (whole[0], whole[1])


def as_sides(value: int | Sequence[int], dims: int) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right)."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * dims
    whole = tuple(as_whole(each, "padding", 0) for each in values)
    if len(whole) == dims:
        whole *= 2
    if len(whole) != 2 * dims:
        expected = "2: (left, right)" if dims == 1 else "2 or 4: (top, left, bottom, right)"
        raise ValueError(f"padding has {len(values)} values, expected 1, {expected}")
    return (0, whole[0], 0, whole[1]) if dims == 1 else (whole[0], whole[1], whole[2], whole[3])


class PreparedConv:
    """A validated operator over packed weights; immutable, usable from many threads at once.

    Only the packed form of the weights is kept.
    """

    def __init__(
        self,
        w: QTensor | NDArray[np.float32],
        bias: ArrayLike | None = None,
        *,
        window: Window,
        result: Result,
    ) -> None:
        if w.ndim != window.dims + 2:
            order = "in, out / groups" if window.transposed else "out, in / groups"
            raise ValueError(
                f"w has {w.ndim} dimensions, expected {window.dims + 2}: ({order}, "
                f"{'width' if window.dims == 1 else 'height, width'})"
            )
        self.window = window
        self.result = result
        for name in ("x_qparams", "out_qparams", "pre_qparams", "residual_qparams", "sum_qparams"):
            check_qparams(getattr(result, name), name)
        if result.out_dtype not in {None, "float32", "int32"}:
            raise ValueError(
                f"out_dtype is {result.out_dtype!r}, expected 'float32', 'int32' or None"
            )
        if result.out_dtype is not None and result.out_qparams is not None:
            raise ValueError(
                f"out_dtype is {result.out_dtype!r} and out_qparams is given; expected one of them"
            )
        out_channels = w.shape[1] * window.groups if window.transposed else w.shape[0]
        self.bias = None if bias is None else as_bias(bias, out_channels)
        options = self._epilogue()
        self.dtype: str
        self.axis: int | None
        self._scale: NDArray[np.float32] | None
        self._zero_point: NDArray[np.int32] | None
        self._codes_of: QParams | None
        self._is_float = isinstance(w, np.ndarray) or w.dtype == "float16"
        if self._is_float:
            self._check_float()
            codes = w if isinstance(w, np.ndarray) else w.data
            self.dtype, self.axis = codes.dtype.name, None
            self._scale = self._zero_point = None
            out = result.out_qparams
            self._codes_of = out  # float kernels give float32: rule 1 follows
            if out is not None:
                options.update(out_dtype="float32", out_scale=None, out_zero_point=0)
            options.update(x_scale=None, x_zero_point=0, x_dtype=None)
        else:
            assert isinstance(w, QTensor)
            self._codes_of = None
            self._take_scales(w)
            codes = self._make_room(w.codes(), options)
        if window.dims == 1:
            codes = codes[:, :, None, :]
        self._op = _core.ConvOp(
            codes,
            None if self._scale is None else np.atleast_1d(self._scale),
            None if self._zero_point is None else np.array(self._zero_point, ndmin=1),
            bias=self.bias,
            stride=window.stride,
            padding=window.padding,
            same=window.same,
            dilation=window.dilation,
            groups=window.groups,
            transposed=window.transposed,
            output_padding=window.output_padding,
            layout=_LAYOUTS[window.dims][window.layout],
            **options,
        )
        self.in_channels: int = self._op.in_channels
        self.out_channels: int = self._op.out_channels
        self.kernel_size: tuple[int, ...] = self._op.kernel_size[2 - window.dims :]
        self.nbytes: int = self._op.nbytes

    def _epilogue(self) -> dict[str, Any]:
        """Return the keyword arguments of the operator that say what becomes of the sums."""
        r = self.result
        function = table_function(r.activation)
        lo, hi = NO_BOUNDS if function else activation_bounds(r.activation)
        out = r.out_qparams
        if function is not None and out is None:
            raise ValueError(
                f"activation {function[0]!r} is a table of codes and needs out_qparams; got None"
            )
        if r.pre_qparams is not None and function is None:
            raise ValueError(
                "pre_qparams is given without an activation that is a table, expected None"
            )
        if r.out_dtype == "int32" and (lo, hi) != NO_BOUNDS:
            raise ValueError("activation is given with out_dtype='int32'; expected None")
        if r.out_dtype == "int32" and r.x_qparams is None:
            raise ValueError("out_dtype is 'int32' without x_qparams; expected the scale of x too")
        if (r.residual_qparams is None) != (r.sum_qparams is None):
            raise ValueError(
                "residual and sum_qparams go together: one is how the second tensor is read, the "
                "other how the sum is quantized; got one of them"
            )
        if r.sum_qparams is not None and out is None:
            raise ValueError(
                "a residual needs out_qparams: the codes that it is added to; got None"
            )
        if r.sum_activation is not None and r.sum_qparams is None:
            raise ValueError("sum_activation is given without sum_qparams, expected None")
        x = r.x_qparams
        options: dict[str, Any] = {
            "x_scale": None if x is None else float(x.scale),
            "x_zero_point": 0 if x is None else int(x.zero_point),
            "x_dtype": None if x is None else x.dtype,
            "lo": lo,
            "hi": hi,
        }
        if out is None:
            return options | {"out_dtype": r.out_dtype or "float32"}
        before = out
        if function is not None:
            before = out if r.pre_qparams is None else r.pre_qparams
            options |= {
                "table": table(function, before, out),
                "table_scale": float(out.scale),
                "table_zero_point": int(out.zero_point),
            }
        options |= {
            "out_dtype": before.dtype,
            "out_scale": float(before.scale),
            "out_zero_point": int(before.zero_point),
        }
        if r.residual_qparams is not None and r.sum_qparams is not None:
            given, total = r.residual_qparams, r.sum_qparams
            options |= {
                "residual": (float(given.scale), int(given.zero_point), given.dtype),
                "sum": (
                    float(total.scale),
                    int(total.zero_point),
                    total.dtype,
                    *activation_bounds(r.sum_activation, "sum_activation"),
                ),
            }
        return options

    def _check_float(self) -> None:
        r = self.result
        if r.out_dtype == "int32":
            raise ValueError("out_dtype is 'int32' with float weights, expected 'float32'")
        if table_function(r.activation) is not None or r.sum_qparams is not None:
            raise ValueError(
                "float weights take relu, relu6 and clip, and no residual; "
                "apply the operators of octavo.nn to the result"
            )
        if self.bias is not None and self.bias.dtype != FLOAT32:
            raise TypeError(f"bias is {self.bias.dtype} with float weights, expected float32")

    def _take_scales(self, w: QTensor) -> None:
        kept = 1 if self.window.transposed else 0
        if w.group_size is not None:
            raise ValueError(
                f"w has groups of {w.group_size} along its channels, expected one scale, or one "
                f"for each output channel (axis={kept})"
            )
        if w.axis not in {None, kept}:
            raise ValueError(
                f"the scale of w varies along axis {w.axis}, which the convolution sums over; "
                f"quantize it with axis={kept}"
            )
        self.dtype, self.axis = w.dtype, w.axis
        self._scale, self._zero_point = w.scale, w.zero_point
        if w.axis is not None and self.window.transposed and self.window.groups > 1:
            self._scale = np.tile(w.scale, self.window.groups)
            self._zero_point = np.tile(
                np.broadcast_to(w.zero_point, w.scale.shape), self.window.groups
            )
        if self.bias is not None and self.bias.dtype != FLOAT32 and self.result.x_qparams is None:
            raise TypeError(f"bias is {self.bias.dtype} without x_qparams; expected float32")

    def _make_room(self, codes: NDArray[Any], options: dict[str, Any]) -> NDArray[Any]:
        """Raise the weight scale of outputs whose bias int32 cannot hold (docs/int8.md)."""
        x_scale = options["x_scale"]
        if x_scale is None or self.bias is None or self.bias.dtype != FLOAT32:
            return codes
        if options["out_dtype"] == "float32":
            return codes
        assert self._scale is not None
        factor = bias_factor(self.bias, self._scale, x_scale, stacklevel=7)
        if factor is None:
            return codes
        n, groups = len(self.bias), self.window.groups
        zero_point = np.broadcast_to(np.asarray(self._zero_point), n)
        self._scale = (np.broadcast_to(self._scale, n) * factor).astype(np.float32)
        self._zero_point = zero_point
        tail = (1,) * self.window.dims
        if self.window.transposed:
            shape = (groups, codes.shape[0] // groups, n // groups, *codes.shape[2:])
            per_output = (groups, 1, n // groups, *tail)
        else:
            shape, per_output = codes.shape, (n, 1, *tail)
            self.axis = 0
        zero = zero_point.reshape(per_output)
        raised = (codes.reshape(shape).astype(np.float64) - zero) / factor.reshape(per_output)
        rounded: NDArray[Any] = (np.rint(raised) + zero).astype(codes.dtype)
        return rounded.reshape(codes.shape)

    def parts(self) -> tuple[QTensor | NDArray[np.float32], NDArray[Any] | None]:
        """Return the weights in their plain form, bit for bit as they are used, and the bias."""
        codes = self._op.unpack()
        if self.window.dims == 1:
            codes = codes[:, :, 0, :]
        if self._is_float:
            return (codes if self.dtype == "float32" else QTensor(codes, 1.0, dtype="float16")), (
                self.bias
            )
        scale, zero_point, axis = self._scale, self._zero_point, self.axis
        assert scale is not None
        assert zero_point is not None
        if self.window.transposed and scale.ndim and self.window.groups > 1:
            scale = scale[: codes.shape[1]]
            zero_point = np.broadcast_to(zero_point, self.out_channels)[: codes.shape[1]]
        if scale.ndim:
            axis = 1 if self.window.transposed else 0
        w = QTensor(codes, scale, zero_point, dtype=self.dtype, axis=axis)
        return w, self.bias

    def run(
        self,
        x: NDArray[Any],
        out: NDArray[Any] | None = None,
        residual: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Run on float32 `x` or on the codes that the operator was prepared for."""
        if self.window.dims == 1:
            x = self._as_images(x, "x")
            if out is not None or residual is not None:
                shape = self._op.output_shape(x.shape)
                out = self._as_images(out, "out", shape)
                residual = self._as_images(residual, "residual", shape)
        q = self._codes_of
        if self._is_float and out is not None:  # before the steps that come first here
            check_out(out, self._op.output_shape(x.shape), "float32" if q is None else q.dtype, x)
        if self._is_float and x.dtype != FLOAT32:
            given = self.result.x_qparams
            assert given is not None  # else codes would not have come this far
            x = _core.dequantize(x, given.scale, given.zero_point, None)
        y: NDArray[Any]
        if q is not None:
            y = _core.quantize(self._op(x), q.scale, q.zero_point, q.dtype, None, out)
        elif residual is not None:
            y = self._op(x, out, residual)
        else:
            y = self._op(x, out)
        if self.window.dims == 2:
            return y
        return y[:, :, 0, :] if self.window.layout == "NCW" else y[:, 0, :, :]

    def add_to(self, plan: _core.PlanBuilder, x: int, residual: int | None = None) -> int:
        """Add the operator to a plan, on images; as `run`."""
        if self.window.dims == 1:
            raise TypeError("x is a batch of signals, expected images")
        if not self._is_float:
            return plan.conv(self._op, x, residual)
        given, q = self.result.x_qparams, self._codes_of
        return add_between(_add_conv, self._op, given, q, plan, x)

    def _as_images(self, x: Any, name: str, expected: tuple[int, ...] | None = None) -> Any:
        """Return signals as images one high, `expected` their shape; None is left alone."""
        if x is None:
            return None
        if not isinstance(x, np.ndarray):
            raise TypeError(f"{name} is {type(x).__name__}, expected numpy.ndarray")
        if x.ndim != 3:
            order = (
                "batch, channels, width"
                if self.window.layout == "NCW"
                else ("batch, width, channels")
            )
            raise ValueError(f"{name} has {x.ndim} dimensions, expected 3: ({order})")
        images = x[:, :, None] if self.window.layout == "NCW" else x[:, None]
        if expected is not None and images.shape != expected:
            height = 2 if self.window.layout == "NCW" else 1
            signals = (*expected[:height], *expected[height + 1 :])
            raise ValueError(f"{name} has shape {x.shape}, expected {signals}")
        return images

    def __call__(
        self,
        x: QTensor | ArrayLike,
        residual: QTensor | ArrayLike | None = None,
        out: NDArray[Any] | None = None,
    ) -> QTensor | NDArray[Any]:
        """Run on anything that `octavo.conv2d` takes."""
        r = self.result
        if (residual is None) != (r.sum_qparams is None):
            raise ValueError(
                "residual is given to an operator that was prepared without"
                if r.sum_qparams is None
                else "residual is None, expected the tensor that the operator was prepared for"
            )
        codes = None if residual is None else activations(residual, r.residual_qparams, "residual")
        if codes is not None and codes.dtype == FLOAT32:
            raise TypeError("residual is float32, expected a QTensor, or codes")
        y = self.run(activations(x, r.x_qparams), out, codes)
        if out is not None:
            return out
        return y if r.qparams is None else wrap_result(y, r.qparams)


def _add_conv(op: _core.ConvOp, plan: _core.PlanBuilder, x: int) -> int:
    return plan.conv(op, x)


def make_result(
    x: QTensor | ArrayLike | None,
    residual: QTensor | ArrayLike | None,
    x_qparams: QParams | None,
    out_qparams: QParams | None,
    out_dtype: str | None,
    activation: Activation,
    pre_qparams: QParams | None,
    residual_qparams: QParams | None,
    sum_qparams: QParams | None,
    sum_activation: Activation,
) -> Result:
    """Return what these arguments say; a QTensor has parameters of its own."""
    if isinstance(x, QTensor) and x_qparams is None and x.dtype != "float16":
        x_qparams = x.qparams
    if isinstance(residual, QTensor) and residual_qparams is None:
        residual_qparams = residual.qparams
    return Result(
        x_qparams,
        out_qparams,
        out_dtype,
        as_activation(activation),
        pre_qparams,
        residual_qparams,
        sum_qparams,
        as_activation(sum_activation),
    )


def convolve(
    window: Window,
    x: QTensor | ArrayLike,
    w: QTensor | ArrayLike,
    bias: ArrayLike | None,
    residual: QTensor | ArrayLike | None,
    out: NDArray[Any] | None,
    *options: Any,
) -> QTensor | NDArray[Any]:
    """Prepare, or find what was prepared with `w`, and run; `options` as of `make_result`."""
    result = make_result(x, residual, *options)
    if bias is not None:
        bias = as_array(bias, "bias")
    make = partial(PreparedConv, bias=bias, window=window, result=result)
    operator: PreparedConv
    if isinstance(w, QTensor):
        key = None if bias is None else (bias.dtype, bias.shape, bias.tobytes())
        operator = prepared_from(w, (key, window, result), make)
    else:
        operator = make(as_float32(w, "w", ", or a QTensor"))
    return operator(x, residual, out)


def conv2d(
    x: QTensor | ArrayLike,
    w: QTensor | ArrayLike,
    bias: ArrayLike | None = None,
    *,
    x_qparams: QParams | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    activation: Activation = None,
    layout: str = "NCHW",
    out_qparams: QParams | None = None,
    out_dtype: str | None = None,
    pre_qparams: QParams | None = None,
    residual: QTensor | ArrayLike | None = None,
    residual_qparams: QParams | None = None,
    sum_qparams: QParams | None = None,
    sum_activation: Activation = None,
    out: NDArray[Any] | None = None,
) -> QTensor | NDArray[Any]:
    """Return ``activation(convolution of images x with kernels w + bias)``.

    Parameters
    ----------
    x : QTensor or array of shape (batch, channels, height, width), or as `layout` says
        Floating-point values, quantized by `x_qparams`, else on the fly with a range for each
        image; or 8-bit codes, which need `x_qparams`; or a QTensor, which has its own.
    w : QTensor, or float array, of shape (out, channels / groups, height, width)
        Of a QTensor: one scale, or one for each output channel (axis 0). Packed at the first call,
        and kept with the QTensor. Of floats: the result is computed in float32.
    bias : float array of shape (out,), or int32 at ``x_scale * w_scale``, optional
    x_qparams : QParams of 8 bits and one scale, optional
    stride, dilation : int or (height, width), default 1
    padding : int, pair, (top, left, bottom, right), or "same", default 0
        "same" keeps ``ceil(size / stride)``, with the odd one behind (ONNX SAME_UPPER). Padding is
        the real value 0, whatever the zero point.
    groups : int, default 1
    activation : {"relu", "relu6"}, ("clip", lo, hi), or a table's name, optional
        "hard_swish", "hard_sigmoid", "sigmoid", "silu", "gelu", "gelu_tanh", "tanh",
        ("leaky_relu", alpha), ("elu", alpha) need `out_qparams`.
    layout : {"NCHW", "NHWC"}, default "NCHW"
    out_qparams : QParams of 8 bits and one scale, optional
        Quantize the result.
    out_dtype : {"float32", "int32"}, optional
        int32: the accumulators, bias included, at ``x_scale * w_scale``.
    pre_qparams : QParams, optional
        How the value that a table's activation reads is quantized; default `out_qparams`.
    residual : QTensor, or codes that `residual_qparams` describes, optional
        Added to the quantized result; `sum_qparams` and `sum_activation` (a clip) say what the sum
        becomes. The bits are those of adding it afterwards.
    out : array of the result's shape, optional
        Where to write the result: float32, int32, or codes.

    Returns
    -------
    QTensor if the result is quantized, else array; `out` itself if given

    Raises
    ------
    ValueError, TypeError
        Shapes, dtypes or arguments that do not go together; a kernel larger than the padded image.
    OverflowError
        A sum that int32 cannot hold, with `out_dtype` int32.

    Warns
    -----
    RuntimeWarning
        A bias that int32 cannot hold: the scale of that output's weights is raised.

    Notes
    -----
    Every CPU gives the same bits, by the rules of docs/int8.md. They are those of ONNX's
    QLinearConv, with a float32 multiplier.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> w = oc.quantize(np.ones((1, 1, 2, 2), np.float32), axis=0)
    >>> x = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> oc.conv2d(x, w, activation="relu").round(1)
    array([[[[ 8., 12.],
             [20., 24.]]]], dtype=float32)
    """
    return convolve(
        make_window(2, stride, padding, dilation, groups, layout),
        x,
        w,
        bias,
        residual,
        out,
        x_qparams,
        out_qparams,
        out_dtype,
        activation,
        pre_qparams,
        residual_qparams,
        sum_qparams,
        sum_activation,
    )


def conv1d(
    x: QTensor | ArrayLike,
    w: QTensor | ArrayLike,
    bias: ArrayLike | None = None,
    *,
    x_qparams: QParams | None = None,
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    activation: Activation = None,
    layout: str = "NCW",
    out_qparams: QParams | None = None,
    out_dtype: str | None = None,
    pre_qparams: QParams | None = None,
    residual: QTensor | ArrayLike | None = None,
    residual_qparams: QParams | None = None,
    sum_qparams: QParams | None = None,
    sum_activation: Activation = None,
    out: NDArray[Any] | None = None,
) -> QTensor | NDArray[Any]:
    """Return ``activation(convolution of signals x with kernels w + bias)``.

    As `conv2d`, with `x` of shape (batch, channels, width) ("NCW") or (batch, width, channels)
    ("NWC"), `w` of shape (out, channels / groups, width) and `padding` an int, (left, right) or
    "same".

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> w = oc.quantize(np.ones((1, 1, 2), np.float32), axis=0)
    >>> oc.conv1d(np.array([[[1.0, 2.0, 4.0]]], np.float32), w, padding="same").round(1)
    array([[[3., 6., 4.]]], dtype=float32)
    """
    return convolve(
        make_window(1, stride, padding, dilation, groups, layout),
        x,
        w,
        bias,
        residual,
        out,
        x_qparams,
        out_qparams,
        out_dtype,
        activation,
        pre_qparams,
        residual_qparams,
        sum_qparams,
        sum_activation,
    )


def conv_transpose2d(
    x: QTensor | ArrayLike,
    w: QTensor | ArrayLike,
    bias: ArrayLike | None = None,
    *,
    x_qparams: QParams | None = None,
    stride: Size = 1,
    padding: int | Sequence[int] = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    activation: Activation = None,
    layout: str = "NCHW",
    out_qparams: QParams | None = None,
    out_dtype: str | None = None,
    pre_qparams: QParams | None = None,
    residual: QTensor | ArrayLike | None = None,
    residual_qparams: QParams | None = None,
    sum_qparams: QParams | None = None,
    sum_activation: Activation = None,
    out: NDArray[Any] | None = None,
) -> QTensor | NDArray[Any]:
    """Return ``activation(transposed convolution of images x with kernels w + bias)``.

    As `conv2d`, with `w` of shape (channels, out / groups, height, width), a scale for each output
    channel on axis 1. The result has ``(size - 1) * stride - padding + dilation * (kernel - 1) + 1
    + output_padding`` rows and columns, `padding` of both sides together.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> w = oc.quantize(np.ones((1, 1, 2, 2), np.float32), axis=1)
    >>> oc.conv_transpose2d(np.array([[[[1.0, 3.0]]]], np.float32), w, stride=2).round(1)
    array([[[[1., 1., 3., 3.],
             [1., 1., 3., 3.]]]], dtype=float32)
    """
    return convolve(
        make_window(2, stride, padding, dilation, groups, layout, True, output_padding),
        x,
        w,
        bias,
        residual,
        out,
        x_qparams,
        out_qparams,
        out_dtype,
        activation,
        pre_qparams,
        residual_qparams,
        sum_qparams,
        sum_activation,
    )
