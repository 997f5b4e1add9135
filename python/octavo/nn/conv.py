"""Conv1d, Conv2d, ConvTranspose2d: convolutions with the weights packed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo.array.activation import Activation
from octavo.array.convolution import (
    Padding,
    PreparedConv,
    Result,
    Size,
    Window,
    make_result,
    make_window,
)
from octavo.array.functional import quantize
from octavo.array.interop import as_float32, read_only
from octavo.array.qparams import QParams
from octavo.array.qtensor import QTensor
from octavo.nn.base import Operator, Weights, restore


class _Convolution(Operator):
    __slots__ = ("_result", "_window")

    _SETTINGS = ("_window", "_result")
    _dims: ClassVar[int] = 2
    _transposed: ClassVar[bool] = False
    _window: Window
    _result: Result

    @classmethod
    def from_float(
        cls,
        w: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        precision: str = "int8",
        method: str = "minmax",
        **options: Any,
    ) -> Self:
        """Quantize float weights, symmetric, a scale for each output channel, and prepare.

        Parameters
        ----------
        w : float array, of the shape that the function of the same name takes
        bias : float array of shape (out,), or int32 at ``x_scale * w_scale``, optional
        precision : {"int8", "float16", "float32"}, default "int8"
        method : {"minmax", "percentile"}, default "minmax"
            How scales are chosen; see `octavo.quantize`.
        **options
            As `from_quantized` takes them.

        Raises
        ------
        ValueError, TypeError
            An unknown precision; shapes, dtypes or arguments that do not go together.

        Examples
        --------
        >>> import numpy as np, octavo as oc
        >>> oc.Conv2d.from_float(np.ones((8, 3, 3, 3)), padding="same", activation="relu")
        Conv2d(in_channels=3, out_channels=8, kernel_size=(3, 3), precision='int8', padding='same', activation='relu')
        """
        weights = np.array(as_float32(w, "w"), order="C")
        dims = cls._dims + 2
        if weights.ndim != dims:
            raise ValueError(f"w has {weights.ndim} dimensions, expected {dims}")
        held: Weights
        if precision == "float32":
            held = read_only(weights)
        elif precision == "float16":
            held = quantize(weights, "float16")
        elif precision == "int8":
            held = quantize(weights, "int8", axis=1 if cls._transposed else 0, method=method)
        else:
            raise ValueError(f"precision is {precision!r}, expected 'int8', 'float16' or 'float32'")
        return cls._prepare(held, bias, **options)

    @classmethod
    def from_quantized(cls, w_q: QTensor, bias: ArrayLike | None = None, **options: Any) -> Self:
        """Prepare the operator for weights that are quantized already.

        Parameters
        ----------
        w_q : QTensor
            One scale, or one for each output channel.
        bias : float array of shape (out,), or int32 at ``x_scale * w_scale``, optional
        **options
            stride, padding, dilation, groups, layout (transposed: output_padding), x_qparams,
            out_qparams, activation, pre_qparams, residual_qparams, sum_qparams, sum_activation, as
            `octavo.conv2d` takes them.

        Raises
        ------
        ValueError, TypeError
            Shapes, dtypes or arguments that do not go together.
        """
        cls._check_quantized(w_q)
        return cls._prepare(w_q, bias, **options)

    @classmethod
    def _prepare(
        cls,
        w: Weights,
        bias: ArrayLike | None,
        *,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        layout: str | None = None,
        output_padding: int | Sequence[int] = 0,
        x_qparams: QParams | None = None,
        out_qparams: QParams | None = None,
        activation: Activation = None,
        pre_qparams: QParams | None = None,
        residual_qparams: QParams | None = None,
        sum_qparams: QParams | None = None,
        sum_activation: Activation = None,
    ) -> Self:
        window = make_window(
            cls._dims, stride, padding, dilation, groups, layout, cls._transposed, output_padding
        )
        result = make_result(
            None,
            None,
            x_qparams,
            out_qparams,
            None,
            activation,
            pre_qparams,
            residual_qparams,
            sum_qparams,
            sum_activation,
        )
        operator = PreparedConv(w, bias, window=window, result=result)
        return restore(cls, operator, window, result)

    def __call__(
        self,
        x: QTensor | ArrayLike,
        residual: QTensor | ArrayLike | None = None,
        *,
        out: NDArray[Any] | None = None,
    ) -> QTensor | NDArray[Any]:
        """Return the convolution of `x`; see `octavo.conv2d`."""
        operator: PreparedConv = self._operator
        return operator(x, residual, out)

    def _prepared(self, w: Weights, bias: NDArray[Any] | None) -> PreparedConv:
        return PreparedConv(w, bias, window=self._window, result=self._result)

    @property
    def in_channels(self) -> int:
        """Channels of `x`."""
        value: int = self._operator.in_channels
        return value

    @property
    def out_channels(self) -> int:
        """Channels of the result."""
        value: int = self._operator.out_channels
        return value

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Height and width of the kernel, or its width."""
        value: tuple[int, ...] = self._operator.kernel_size
        return value

    @property
    def precision(self) -> str:
        """How the weights are stored: "int8", "float16" and the like."""
        value: str = self._operator.dtype
        return value

    @property
    def x_qparams(self) -> QParams | None:
        """How `x` is quantized, or read; None if on the fly."""
        return self._result.x_qparams

    @property
    def out_qparams(self) -> QParams | None:
        """How the result is quantized; None for float32."""
        return self._result.qparams

    def __repr__(self) -> str:
        parts = [
            f"in_channels={self.in_channels}",
            f"out_channels={self.out_channels}",
            f"kernel_size={self.kernel_size}",
            f"precision={self.precision!r}",
        ]
        window, plain = self._window, Window()
        first = 2 - window.dims
        for name in ("stride", "padding", "dilation", "output_padding"):
            value = getattr(window, name)
            if name == "padding" and window.same:
                parts.append("padding='same'")
            elif value != getattr(plain, name):
                shown = value[1::2] if name == "padding" and first else value[first:]
                parts.append(f"{name}={shown}")
        if window.groups != 1:
            parts.append(f"groups={window.groups}")
        if window.layout in {"NHWC", "NWC"}:
            parts.append(f"layout={window.layout!r}")
        for name, value in self._result._asdict().items():
            if value is not None:
                parts.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


class Conv2d(_Convolution):
    """The operator of `octavo.conv2d`, made by `from_float` or `from_quantized`.

    Call it with `x` as the function takes it, and with the second tensor where it was prepared for
    one; with ``out=`` an array (codes, where the result is quantized) is written and returned.
    Frozen, and usable from many threads at once and after a fork. It pickles as plain arrays and
    packs again, for the CPU it finds, at its first call.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> layer = oc.Conv2d.from_float(np.ones((1, 1, 2, 2)), activation="relu")
    >>> layer(np.ones((1, 1, 2, 3), np.float32)).round(2)
    array([[[[4., 4.]]]], dtype=float32)
    """

    __slots__ = ()


class Conv1d(_Convolution):
    """The operator of `octavo.conv1d`; as `Conv2d`.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> layer = oc.Conv1d.from_float(np.ones((1, 1, 2)))
    >>> layer(np.ones((1, 1, 3), np.float32)).round(2)
    array([[[2., 2.]]], dtype=float32)
    """

    __slots__ = ()
    _dims = 1


class ConvTranspose2d(_Convolution):
    """The operator of `octavo.conv_transpose2d`; as `Conv2d`.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> layer = oc.ConvTranspose2d.from_float(np.ones((1, 1, 1, 2)), stride=2)
    >>> layer(np.ones((1, 1, 1, 2), np.float32)).shape
    (1, 1, 1, 4)
    """

    __slots__ = ()
    _transposed = True
