"""Linear: ``activation(x @ w.T + b)`` with the weights packed once."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo.array.activation import Activation, activation_bounds, as_activation
from octavo.array.functional import activations, quantize
from octavo.array.interop import as_float32, read_only
from octavo.array.prepared import FloatLinear, IntegerLinear, PreparedLinear, prepare
from octavo.array.qparams import QParams
from octavo.array.qtensor import QTensor, wrap_result
from octavo.nn.base import Operator, Parts, Weights, restore
from octavo.nn.floats import QuantizedRows

_PRECISION = re.compile(r"(int8|int4|float16|float32)(?:/([1-9][0-9]*))?")


def as_weights(
    w: ArrayLike, precision: str, group_size: int | None, method: str, axes: str = "(out, in)"
) -> Weights:
    """Return a copy of the float matrix `w` as `precision` stores it."""
    match = _PRECISION.fullmatch(precision)
    if match is None:
        raise ValueError(
            f"precision is {precision!r}, expected 'int8', 'int4/32', 'int4/128' and the like, "
            "'float16' or 'float32'"
        )
    dtype, in_name = match.groups()
    if in_name is not None and group_size not in {None, int(in_name)}:
        raise ValueError(
            f"group_size is {group_size}, precision is {precision!r}; expected the same"
        )
    size = group_size if in_name is None else int(in_name)
    if dtype == "int4" and size is None:
        raise ValueError("precision is 'int4' without a group size, expected 'int4/32' or such")
    if dtype.startswith("float") and size is not None:
        raise ValueError(f"group_size is {size} with precision {dtype!r}, expected None")
    weights = np.array(as_float32(w, "w"), order="C")
    if weights.ndim != 2:
        raise ValueError(f"w has {weights.ndim} dimensions, expected 2: {axes}")
    if dtype == "float32":
        return read_only(weights)
    if dtype == "float16":
        return quantize(weights, "float16")
    return quantize(weights, dtype, axis=0, group_size=size, method=method)


class Linear(Operator):
    """The operator ``activation(x @ w.T + bias)``, made by `from_float` or `from_quantized`.

    Call it with `x` of shape (..., in) as `octavo.linear` takes it; the result is a QTensor if the
    operator has `out_qparams`, else float32. With ``out=`` an array (codes, where there are
    `out_qparams`) is written and returned, and nothing is allocated. Frozen, and usable from many
    threads at once and after a fork. It pickles as plain arrays and packs again, for the CPU it
    finds, at its first call.

    Quantized weights run in integer kernels: with one scale, one for each output, or one for each
    group of inputs. Float weights run in float32 kernels, the same bits on every CPU.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> layer = oc.Linear.from_float(np.array([[1.0, -1.0], [0.5, 0.25]]), activation="relu")
    >>> layer
    Linear(in_features=2, out_features=2, precision='int8', activation='relu')
    >>> layer(np.array([2.0, 1.0])).round(2)
    array([1.  , 1.25], dtype=float32)
    """

    __slots__ = ("_activation", "_out_qparams", "_precision", "_x_qparams")

    _SETTINGS = ("_precision", "_x_qparams", "_out_qparams", "_activation")
    _precision: str
    _x_qparams: QParams | None
    _out_qparams: QParams | None
    _activation: str | tuple[Any, ...] | None

    @classmethod
    def from_float(
        cls,
        w: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        precision: str = "int8",
        group_size: int | None = None,
        method: str = "minmax",
        x_qparams: QParams | None = None,
        out_qparams: QParams | None = None,
        activation: Activation = None,
    ) -> Linear:
        """Quantize float weights, symmetric, and prepare the operator.

        Parameters
        ----------
        w : float array of shape (out, in)
        bias : float array of shape (out,), or int32 at ``x_scale * w_scale``, optional
        precision : str, default "int8"
            "int8": a scale for each output. "int4/32", "int8/128" and the like: a scale for each
            group of so many inputs. "float16", "float32": no scales.
        group_size : int, optional
            Another way to give the size of groups.
        method : {"minmax", "percentile"}, default "minmax"
            How scales are chosen; see `octavo.quantize`.
        x_qparams, out_qparams, activation
            See `octavo.linear`.

        Returns
        -------
        Linear

        Raises
        ------
        ValueError, TypeError
            An unknown precision; shapes, dtypes or arguments that do not go together.

        Examples
        --------
        >>> import numpy as np, octavo as oc
        >>> oc.Linear.from_float(np.ones((3, 100), np.float32), precision="int4/32")
        Linear(in_features=100, out_features=3, precision='int4/32')
        """
        held = as_weights(w, precision, group_size, method)
        return cls._prepare(held, bias, x_qparams, out_qparams, activation)

    @classmethod
    def from_quantized(
        cls,
        w_q: QTensor,
        bias: ArrayLike | None = None,
        *,
        x_qparams: QParams | None = None,
        out_qparams: QParams | None = None,
        activation: Activation = None,
    ) -> Linear:
        """Prepare the operator for weights that are quantized already.

        Parameters
        ----------
        w_q : QTensor of shape (out, in)
            With one scale, one for each output (axis 0), or groups along the inputs.
        bias, x_qparams, out_qparams, activation
            See `octavo.linear`.

        Returns
        -------
        Linear

        Raises
        ------
        ValueError, TypeError
            Shapes, dtypes or arguments that do not go together.

        Examples
        --------
        >>> import numpy as np, octavo as oc
        >>> w_q = oc.QTensor([[1, -1], [2, 1]], 0.5, dtype="int8")
        >>> layer = oc.Linear.from_quantized(w_q, x_qparams=oc.QParams(0.5))
        >>> layer(np.array([3, 2], np.uint8))  # 1.5 and 1.0
        array([0.25, 2.  ], dtype=float32)
        """
        cls._check_quantized(w_q)
        return cls._prepare(w_q, bias, x_qparams, out_qparams, activation)

    @classmethod
    def _prepare(
        cls,
        w: QTensor | NDArray[np.float32],
        bias: ArrayLike | None,
        x_qparams: QParams | None,
        out_qparams: QParams | None,
        activation: Activation,
    ) -> Linear:
        operator = prepare(
            w,
            bias,
            x_qparams=x_qparams,
            out_qparams=out_qparams,
            bounds=activation_bounds(activation),
        )
        activation = as_activation(activation)
        if isinstance(w, np.ndarray):
            precision = "float32"
        else:
            precision = w.dtype if w.group_size is None else f"{w.dtype}/{w.group_size}"
        return restore(cls, operator, precision, x_qparams, out_qparams, activation)

    def __call__(
        self, x: QTensor | QuantizedRows | ArrayLike, *, out: NDArray[Any] | None = None
    ) -> QTensor | NDArray[Any]:
        """Return ``activation(x @ w.T + bias)``; see `octavo.linear`.

        `x` may be `octavo.nn.QuantizedRows`, too, where rows of floats are quantized on the fly.
        """
        held = self._held
        operator: PreparedLinear = self._operator if isinstance(held, tuple) else held
        if type(x) is QuantizedRows:
            if not isinstance(operator, IntegerLinear) or self._x_qparams is not None:
                raise ValueError(
                    f"x is QuantizedRows, which {self!r} cannot take; "
                    "expected precision 'int8' and no x_qparams"
                )
            y = operator.run_rows(*x, out)
        else:
            y = operator.run(activations(x, self._x_qparams), out)
        if out is not None or self._out_qparams is None:
            return y
        return wrap_result(y, self._out_qparams)

    def _prepared(self, w: Weights, bias: NDArray[Any] | None) -> PreparedLinear:
        return prepare(
            w,
            bias,
            x_qparams=self._x_qparams,
            out_qparams=self._out_qparams,
            bounds=activation_bounds(self._activation),
        )

    @property
    def in_features(self) -> int:
        """Length of the last axis of `x`."""
        count: int = self._operator.in_features
        return count

    @property
    def out_features(self) -> int:
        """Length of the last axis of the result."""
        count: int = self._operator.out_features
        return count

    @property
    def precision(self) -> str:
        """How the weights are stored: "int8", "int4/32", "float32" and the like."""
        return self._precision

    @property
    def x_qparams(self) -> QParams | None:
        """How `x` is quantized, or read; None if on the fly."""
        return self._x_qparams

    @property
    def out_qparams(self) -> QParams | None:
        """How the result is quantized; None for float32."""
        return self._out_qparams

    @property
    def activation(self) -> str | tuple[Any, ...] | None:
        """The activation, as it was given."""
        return self._activation

    def unpack(self) -> Parts:
        """Return the weights in their plain form, bit for bit as they are used, and the bias."""
        operator: PreparedLinear = self._operator
        values = operator.unpack()
        if not isinstance(operator, FloatLinear):
            w: Weights = QTensor(
                values,
                operator.scale,
                operator.zero_point,
                dtype=operator.dtype,
                axis=operator.axis,
                group_size=operator.group_size,
            )
        elif values.dtype == np.float32:
            w = values
        else:
            w = QTensor(values, 1.0, dtype="float16")
        return w, operator.bias

    def __repr__(self) -> str:
        parts = [
            f"in_features={self.in_features}",
            f"out_features={self.out_features}",
            f"precision={self._precision!r}",
        ]
        for name in ("x_qparams", "out_qparams", "activation"):
            value = getattr(self, name)
            if value is not None:
                parts.append(f"{name}={value!r}")
        return f"Linear({', '.join(parts)})"
