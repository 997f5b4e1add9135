"""LSTM and GRU: ONNX's recurrent operators with the weights packed once (docs/recurrent.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo import _core
from octavo.array.interop import as_array, as_float32, read_only
from octavo.array.qtensor import QTensor
from octavo.nn.base import Operator, Weights, restore
from octavo.nn.linear import Linear

Float32 = NDArray[np.float32]
CellActivation = str | Sequence[Any]
Rows = tuple[int, int]

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
# Parameters of each activation, with their defaults.
ACTIVATIONS: dict[str, tuple[float, ...]] = {
    "sigmoid": (),
    "tanh": (),
    "relu": (),
    "hard_sigmoid": (0.2, 0.5),
}


class _Held:
    """The operator and the layers that it calls: those of x by direction, then those of H."""

    def __init__(self, op: Any, x: list[Linear], h: list[list[Linear]], p: Float32 | None) -> None:
        self.op = op
        self.x = x
        self.h = h
        self.p = p
        layers = [*x, *(layer for parts in h for layer in parts)]
        self.nbytes = sum(layer.nbytes for layer in layers) + (0 if p is None else p.nbytes)

    def parts(self) -> tuple[Any, ...]:
        w, w_bias = _joined(self.x)
        r, r_bias = _joined([layer for parts in self.h for layer in parts])
        if w_bias is None or r_bias is None:
            return w, r, None, self.p
        directions = len(self.x)
        both = [each.reshape(directions, -1) for each in (w_bias, r_bias)]
        return w, r, np.concatenate(both, axis=1), self.p


class _Recurrent(Operator):
    __slots__ = ("_activations", "_clip", "_direction", "_layout", "_precision", "_variant")

    _SETTINGS = ("_precision", "_direction", "_activations", "_clip", "_layout", "_variant")
    _precision: str
    _direction: str
    _activations: tuple[tuple[Any, ...], ...]  # (name, alpha, beta) of all directions
    _clip: float | None
    _layout: int
    _variant: bool  # input_forget of an LSTM, linear_before_reset of a GRU

    _GATES: ClassVar[int]
    _DEFAULTS: ClassVar[tuple[str, ...]]  # activations of a direction
    _VARIANT: ClassVar[str]

    @classmethod
    def _from_float(
        cls,
        w: ArrayLike,
        r: ArrayLike,
        b: ArrayLike | None,
        p: ArrayLike | None,
        precision: str,
        method: str,
        **options: Any,
    ) -> Self:
        made = cls._with_settings(precision, **options)
        directions, gates = len(DIRECTIONS[made._direction]), cls._GATES
        weights, state = as_float32(w, "w"), as_float32(r, "r")
        if (
            state.ndim != 3
            or state.shape[0] != directions
            or state.shape[1] != gates * state.shape[2]
        ):
            raise ValueError(
                f"r has shape {state.shape}, expected ({directions}, {gates} * hidden, hidden)"
            )
        rows = state.shape[1]
        if weights.ndim != 3 or weights.shape[:2] != (directions, rows):
            raise ValueError(f"w has shape {weights.shape}, expected ({directions}, {rows}, in)")

        def layer(weights: Any, bias: Any) -> Linear:
            return Linear.from_float(weights, bias, precision=precision, method=method)

        w, r = (each.reshape(directions * rows, each.shape[2]) for each in (weights, state))
        made._held = made._assembled(w, r, b, p, layer)
        made._precision = made._held.x[0].precision
        return made

    @classmethod
    def _from_quantized(
        cls, w_q: QTensor, r_q: QTensor, b: ArrayLike | None, p: ArrayLike | None, **options: Any
    ) -> Self:
        made = cls._with_settings("", **options)
        for name, each in (("w_q", w_q), ("r_q", r_q)):
            if not isinstance(each, QTensor):
                raise TypeError(
                    f"{name} is {type(each).__name__}, expected octavo.QTensor; "
                    f"{cls.__name__}.from_float takes float weights"
                )
            if each.ndim != 2:
                raise ValueError(f"{name} has {each.ndim} dimensions, expected 2: (rows, in)")
            if each.axis == 1:
                raise ValueError(
                    f"the scale of {name} varies along axis 1, expected axis 0 or none"
                )
        directions, hidden = len(DIRECTIONS[made._direction]), r_q.shape[1]
        rows = directions * cls._GATES * hidden
        for name, each in (("w_q", w_q), ("r_q", r_q)):
            if each.shape[0] != rows:
                raise ValueError(
                    f"{name} has {each.shape[0]} rows, expected {rows}: "
                    f"{directions} * {cls._GATES} * hidden, hidden={hidden} as of r_q"
                )
        made._held = made._assembled(w_q, r_q, b, p, Linear.from_quantized)
        made._precision = made._held.x[0].precision
        return made

    @classmethod
    def _with_settings(
        cls,
        precision: str,
        *,
        direction: str,
        activations: Sequence[CellActivation] | None,
        clip: float | None,
        layout: int,
        variant: bool,
    ) -> Self:
        if direction not in DIRECTIONS:
            raise ValueError(
                f"direction is {direction!r}, expected 'forward', 'reverse' or 'bidirectional'"
            )
        if layout not in (0, 1):
            raise ValueError(f"layout is {layout!r}, expected 0 (steps first) or 1 (batch first)")
        if not isinstance(variant, bool | np.bool_ | int):
            raise TypeError(f"{cls._VARIANT} is {variant!r}, expected True or False")
        if clip is not None:
            clip = float(clip)
            if not clip > 0 or math.isinf(clip):
                raise ValueError(f"clip is {clip}, expected None, or more than 0 and finite")
        per = len(cls._DEFAULTS)
        count = per * len(DIRECTIONS[direction])
        given = cls._DEFAULTS if activations is None else tuple(activations)
        if isinstance(activations, str) or len(given) not in (per, count):
            raise ValueError(
                f"activations is {activations!r}, expected {per} of them for all directions"
                + (f", or {count}" if count > per else "")
            )
        named = tuple(_activation(each) for each in given) * (count // len(given))
        settings = (precision, direction, named, clip, int(layout), bool(variant))
        return restore(cls, (), *settings)

    def _prepared(self, w: Weights, r: Weights, b: Any, p: Any) -> _Held:
        def layer(weights: Any, bias: Any) -> Linear:
            if isinstance(weights, QTensor):
                return Linear.from_quantized(weights, bias)
            return Linear.from_float(weights, bias, precision="float32")

        return self._assembled(w, r, b, p, layer)

    def _assembled(
        self,
        w: Any,
        r: Any,
        b: ArrayLike | None,
        p: ArrayLike | None,
        layer: Callable[[Any, Any], Linear],
    ) -> _Held:
        """Make the layers of weights (rows of all directions, in), and the operator that calls them."""
        reverse, gates, hidden = DIRECTIONS[self._direction], self._GATES, r.shape[1]
        rows = gates * hidden
        bias = _given(b, "b", (len(reverse), 2 * rows))
        peepholes = _given(p, "p", (len(reverse), 3 * hidden))
        is_lstm = isinstance(self, LSTM)
        # A GRU that resets before the product takes the candidate's weights by themselves.
        cuts = [0, rows] if is_lstm or self._variant else [0, 2 * hidden, rows]
        per = len(self._DEFAULTS)
        x_layers, h_layers, described = [], [], []
        for d, is_reverse in enumerate(reverse):
            of_x, of_h = (None, None) if bias is None else np.split(bias[d], 2)
            x_layer = layer(_rows(w, (d * rows, (d + 1) * rows)), of_x)
            parts = [
                layer(
                    _rows(r, (d * rows + first, d * rows + last)),
                    None if of_h is None else of_h[first:last],
                )
                for first, last in pairwise(cuts)
            ]
            x_layers.append(x_layer)
            h_layers.append(parts)
            described.append(
                (
                    is_reverse,
                    x_layer._operator.run,
                    [part._operator.run for part in parts],
                    None if peepholes is None else peepholes[d],
                    list(self._activations[d * per : (d + 1) * per]),
                )
            )
        op = _core.RecurrentOp(
            is_lstm=is_lstm,
            hidden=hidden,
            directions=described,
            clip=self._clip,
            couples_forget=is_lstm and self._variant,
            batch_first=self._layout == 1,
        )
        return _Held(op, x_layers, h_layers, peepholes)

    def _run(
        self,
        x: ArrayLike,
        initial: Sequence[ArrayLike | None],
        sequence_lens: ArrayLike | None,
        out: tuple[Float32 | None, ...] | None,
    ) -> tuple[Float32, ...]:
        h, c = (
            None if each is None else as_float32(each, name)
            for name, each in zip(("initial_h", "initial_c"), initial, strict=True)
        )
        if isinstance(x, QTensor):
            raise TypeError("x is a QTensor, expected a float array: x.dequantize() is one")
        if sequence_lens is not None:
            sequence_lens = as_array(sequence_lens, "sequence_lens")
        held: _Held = self._operator
        results: tuple[Float32, ...] = held.op(as_float32(x, "x"), h, c, sequence_lens, out)
        return results

    def add_to(
        self, plan: _core.PlanBuilder, x: int, initial_h: int | None, initial_c: int | None
    ) -> tuple[int, ...]:
        """Add the layer to a plan (`octavo.graph`); return the numbers of its results there."""
        return plan.recurrent(self._operator.op, x, initial_h, initial_c)

    def unpack(self) -> tuple[Weights, Weights, Float32 | None, Float32 | None]:
        """Return ``(w, r, b, p)``: the weights bit for bit as they are used, bias and peepholes.

        `w` and `r` have 2 dimensions: rows of all directions one after the other, as
        `from_quantized` takes them.
        """
        w, r, b, p = self._operator.parts()
        return w, r, b, p

    @property
    def in_features(self) -> int:
        """Length of the last axis of `x`."""
        return self._layers[0].in_features

    @property
    def hidden_size(self) -> int:
        """Length of the last axis of the results."""
        return self._layers[0].out_features // self._GATES

    @property
    def _layers(self) -> list[Linear]:
        layers: list[Linear] = self._operator.x
        return layers

    @property
    def precision(self) -> str:
        """How the weights are stored: "int8", "float32" and the like."""
        return self._precision

    @property
    def direction(self) -> str:
        """ "forward", "reverse" or "bidirectional"."""
        return self._direction

    @property
    def activations(self) -> tuple[tuple[Any, ...], ...]:
        """The activations of all directions, each a name with its parameters."""
        return tuple(
            (name, *parameters[: len(ACTIVATIONS[name])]) for name, *parameters in self._activations
        )

    @property
    def clip(self) -> float | None:
        """What gates are clipped to before their activations; None: nothing."""
        return self._clip

    @property
    def layout(self) -> int:
        """0: steps first, 1: batch first."""
        return self._layout

    def _shown(self) -> Iterator[str]:
        yield f"in_features={self.in_features}"
        yield f"hidden_size={self.hidden_size}"
        yield f"precision={self._precision!r}"
        if self._direction != "forward":
            yield f"direction={self._direction!r}"
        defaults = tuple(map(_activation, self._DEFAULTS)) * len(DIRECTIONS[self._direction])
        if self._activations != defaults:
            yield f"activations={self.activations}"
        if self._clip is not None:
            yield f"clip={self._clip}"
        if self._layout:
            yield f"layout={self._layout}"
        if self._variant:
            yield f"{self._VARIANT}=True"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._shown())})"


class LSTM(_Recurrent):
    """The operator LSTM of ONNX, made by `from_float` or `from_quantized`.

    Call it with `x` of shape (steps, batch, in), or (batch, steps, in) with ``layout=1``; it
    returns ``(y, y_h, y_c)``: H of all steps, of shape (steps, directions, batch, hidden) or
    (batch, steps, directions, hidden), and H and C after each row's last step, of shape
    (directions, batch, hidden) or (batch, directions, hidden). All float32.

    With 8-bit weights rows of `x` and H are quantized on the fly, as `octavo.linear` does it: each
    step's gates are the sum of two of its results. The same bits on every CPU, for any number of
    threads, and whatever else is in the batch. Frozen, and usable from many threads at once and
    after a fork. It pickles as plain arrays and packs again, for the CPU it finds, at its first
    call.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> w, r = np.ones((1, 8, 3), np.float32), np.zeros((1, 8, 2), np.float32)
    >>> lstm = oc.LSTM.from_float(w, r)
    >>> lstm
    LSTM(in_features=3, hidden_size=2, precision='int8')
    >>> y, y_h, y_c = lstm(np.zeros((5, 1, 3), np.float32))
    >>> y.shape, y_h.shape, y_c.shape
    ((5, 1, 1, 2), (1, 1, 2), (1, 1, 2))
    """

    __slots__ = ()
    _GATES = 4
    _DEFAULTS = ("sigmoid", "tanh", "tanh")
    _VARIANT = "input_forget"

    @classmethod
    def from_float(
        cls,
        w: ArrayLike,
        r: ArrayLike,
        b: ArrayLike | None = None,
        p: ArrayLike | None = None,
        *,
        precision: str = "int8",
        method: str = "minmax",
        direction: str = "forward",
        activations: Sequence[CellActivation] | None = None,
        clip: float | None = None,
        input_forget: bool = False,
        layout: int = 0,
    ) -> LSTM:
        """Quantize float weights, symmetric, a scale for each row, and prepare the operator.

        Parameters
        ----------
        w : float array of shape (directions, 4 * hidden, in)
            Rows of the gates i, o, f, c, as ONNX has them.
        r : float array of shape (directions, 4 * hidden, hidden)
        b : float array of shape (directions, 8 * hidden), optional
            The bias of ``x @ w.T``, then that of ``h @ r.T``.
        p : float array of shape (directions, 3 * hidden), optional
            Peepholes of i, o, f.
        precision, method
            As `Linear.from_float` takes them: "int8", "float16", "float32", "int4/32" and the like.
        direction : {"forward", "reverse", "bidirectional"}
        activations : sequence of 3, or of 3 for each direction, optional
            Of the gates, the candidate and the cell: "sigmoid", "tanh", "relu", "hard_sigmoid", or
            ("hard_sigmoid", alpha, beta), where the default is 0.2 and 0.5. Default: "sigmoid",
            "tanh", "tanh".
        clip : float, optional
            What gates and candidate are clipped to before their activations, from -clip to clip.
        input_forget : bool, default False
            Let the forget gate be 1 - i.
        layout : {0, 1}, default 0
            1: the batch is the first axis of `x` and all results.

        Returns
        -------
        LSTM

        Raises
        ------
        ValueError, TypeError
            Shapes, dtypes or arguments that do not go together.

        Notes
        -----
        Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 9(8), 1997; forget
        gate and peepholes of Gers, Schraudolph and Schmidhuber, JMLR 3, 2002; ONNX's LSTM-22.

        Examples
        --------
        >>> import numpy as np, octavo as oc
        >>> w, r = np.ones((2, 8, 3), np.float32), np.zeros((2, 8, 2), np.float32)
        >>> oc.LSTM.from_float(w, r, direction="bidirectional", precision="float32")
        LSTM(in_features=3, hidden_size=2, precision='float32', direction='bidirectional')
        """
        return cls._from_float(
            w,
            r,
            b,
            p,
            precision,
            method,
            direction=direction,
            activations=activations,
            clip=clip,
            layout=layout,
            variant=input_forget,
        )

    @classmethod
    def from_quantized(
        cls,
        w_q: QTensor,
        r_q: QTensor,
        b: ArrayLike | None = None,
        p: ArrayLike | None = None,
        *,
        direction: str = "forward",
        activations: Sequence[CellActivation] | None = None,
        clip: float | None = None,
        input_forget: bool = False,
        layout: int = 0,
    ) -> LSTM:
        """Prepare the operator for weights that are quantized already.

        Parameters
        ----------
        w_q : QTensor of shape (directions * 4 * hidden, in)
            Rows of all directions one after the other; one scale, one for each row (axis 0), or
            groups along the inputs.
        r_q : QTensor of shape (directions * 4 * hidden, hidden)
        b, p, direction, activations, clip, input_forget, layout
            See `from_float`.

        Returns
        -------
        LSTM

        Raises
        ------
        ValueError, TypeError
            Shapes, dtypes or arguments that do not go together.
        """
        return cls._from_quantized(
            w_q,
            r_q,
            b,
            p,
            direction=direction,
            activations=activations,
            clip=clip,
            layout=layout,
            variant=input_forget,
        )

    def __call__(
        self,
        x: ArrayLike,
        initial_h: ArrayLike | None = None,
        initial_c: ArrayLike | None = None,
        *,
        sequence_lens: ArrayLike | None = None,
        out: tuple[Float32 | None, ...] | None = None,
    ) -> tuple[Float32, ...]:
        """Return ``(y, y_h, y_c)`` of `x`.

        Parameters
        ----------
        x : float array of shape (steps, batch, in), or (batch, steps, in)
        initial_h, initial_c : float array of the shape of `y_h`, optional
            Zeros if not given.
        sequence_lens : array of integers of shape (batch,), optional
            How many steps each row has; `y` is 0 beyond, and `y_h` and `y_c` are of the last of
            them (of the first, in reverse).
        out : tuple of 3 arrays of float32, or None for a new one, optional
            Where the results go; they share no memory with an input or with each other.

        Raises
        ------
        ValueError, TypeError
            Shapes, dtypes or lengths that do not go together.
        """
        return self._run(x, (initial_h, initial_c), sequence_lens, out)

    @property
    def input_forget(self) -> bool:
        """Whether the forget gate is 1 - i."""
        return self._variant


class GRU(_Recurrent):
    """The operator GRU of ONNX, made by `from_float` or `from_quantized`; as `LSTM`.

    It has no cell state: calls return ``(y, y_h)``.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> w, r = np.ones((1, 6, 3), np.float32), np.zeros((1, 6, 2), np.float32)
    >>> gru = oc.GRU.from_float(w, r, linear_before_reset=True)
    >>> gru
    GRU(in_features=3, hidden_size=2, precision='int8', linear_before_reset=True)
    >>> y, y_h = gru(np.zeros((5, 1, 3), np.float32))
    >>> y.shape, y_h.shape
    ((5, 1, 1, 2), (1, 1, 2))
    """

    __slots__ = ()
    _GATES = 3
    _DEFAULTS = ("sigmoid", "tanh")
    _VARIANT = "linear_before_reset"

    @classmethod
    def from_float(
        cls,
        w: ArrayLike,
        r: ArrayLike,
        b: ArrayLike | None = None,
        *,
        precision: str = "int8",
        method: str = "minmax",
        direction: str = "forward",
        activations: Sequence[CellActivation] | None = None,
        clip: float | None = None,
        linear_before_reset: bool = False,
        layout: int = 0,
    ) -> GRU:
        """Quantize float weights, symmetric, a scale for each row, and prepare the operator.

        Parameters
        ----------
        w : float array of shape (directions, 3 * hidden, in)
            Rows of the gates z, r and the candidate h, as ONNX has them.
        r : float array of shape (directions, 3 * hidden, hidden)
        b : float array of shape (directions, 6 * hidden), optional
            The bias of ``x @ w.T``, then that of ``h @ r.T``.
        precision, method, direction, clip, layout
            See `LSTM.from_float`.
        activations : sequence of 2, or of 2 for each direction, optional
            Of the gates and the candidate. Default: "sigmoid", "tanh".
        linear_before_reset : bool, default False
            Multiply by r the candidate's product with H, not H itself.

        Returns
        -------
        GRU

        Raises
        ------
        ValueError, TypeError
            Shapes, dtypes or arguments that do not go together.

        Notes
        -----
        Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, arXiv:1406.1078,
        equations 5 to 8; ONNX's GRU-22.
        """
        return cls._from_float(
            w,
            r,
            b,
            None,
            precision,
            method,
            direction=direction,
            activations=activations,
            clip=clip,
            layout=layout,
            variant=linear_before_reset,
        )

    @classmethod
    def from_quantized(
        cls,
        w_q: QTensor,
        r_q: QTensor,
        b: ArrayLike | None = None,
        *,
        direction: str = "forward",
        activations: Sequence[CellActivation] | None = None,
        clip: float | None = None,
        linear_before_reset: bool = False,
        layout: int = 0,
    ) -> GRU:
        """Prepare the operator for weights that are quantized already; as `LSTM.from_quantized`.

        Parameters
        ----------
        w_q : QTensor of shape (directions * 3 * hidden, in)
        r_q : QTensor of shape (directions * 3 * hidden, hidden)
        b, direction, activations, clip, linear_before_reset, layout
            See `from_float`.
        """
        return cls._from_quantized(
            w_q,
            r_q,
            b,
            None,
            direction=direction,
            activations=activations,
            clip=clip,
            layout=layout,
            variant=linear_before_reset,
        )

    def __call__(
        self,
        x: ArrayLike,
        initial_h: ArrayLike | None = None,
        *,
        sequence_lens: ArrayLike | None = None,
        out: tuple[Float32 | None, ...] | None = None,
    ) -> tuple[Float32, ...]:
        """Return ``(y, y_h)`` of `x`; as `LSTM`, without `initial_c` and `y_c`."""
        return self._run(x, (initial_h, None), sequence_lens, out)

    @property
    def linear_before_reset(self) -> bool:
        """Whether r multiplies the candidate's product with H, not H itself."""
        return self._variant


def _activation(given: CellActivation) -> tuple[Any, ...]:
    """Return an activation as (name, alpha, beta)."""
    name, *parameters = (given,) if isinstance(given, str) else tuple(given) or ("",)
    if name not in ACTIVATIONS:
        known = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"activation is {given!r}, expected one of {known}")
    defaults = ACTIVATIONS[name]
    if len(parameters) > len(defaults):
        raise ValueError(f"activation is {given!r}, expected at most {len(defaults)} parameters")
    values = [float(each) for each in parameters]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"activation is {given!r}, expected finite parameters")
    alpha, beta = [*values, *defaults[len(values) :], 0.0, 0.0][:2]
    return name, alpha, beta


def _given(x: ArrayLike | None, name: str, shape: tuple[int, ...]) -> Float32 | None:
    """Return a copy of bias or peepholes, read-only."""
    if x is None:
        return None
    array = np.array(as_float32(x, name))
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity, expected finite values")
    return read_only(array)


def _rows(w: Weights, rows: Rows) -> Weights:
    """Return rows of weights of 2 dimensions."""
    part = slice(*rows)
    if not isinstance(w, QTensor):
        return w[part]
    if w.dtype == "float16":
        return QTensor(w.data.reshape(w.shape)[part], 1.0)
    if w.axis is None:
        return QTensor(w.codes()[part], w.scale, w.zero_point, dtype=w.dtype)
    return QTensor(
        w.codes()[part],
        w.scale[part],
        w.zero_point[part],
        dtype=w.dtype,
        axis=0,
        group_size=w.group_size,
    )


def _joined(layers: list[Linear]) -> tuple[Weights, Float32 | None]:
    """Return the weights of layers, which `_rows` took apart, and their bias."""
    weights, biases = zip(*(layer.unpack() for layer in layers), strict=True)
    bias = None if biases[0] is None else np.concatenate(biases)
    first = weights[0]
    if not isinstance(first, QTensor):
        return np.concatenate(weights), bias
    if first.dtype == "float16":
        return QTensor(np.concatenate([w.data for w in weights]), 1.0), bias
    codes = np.concatenate([w.codes() for w in weights])
    if first.axis is None:
        return QTensor(codes, first.scale, first.zero_point, dtype=first.dtype), bias
    return QTensor(
        codes,
        np.concatenate([w.scale for w in weights]),
        np.concatenate([w.zero_point for w in weights]),
        dtype=first.dtype,
        axis=0,
        group_size=first.group_size,
    ), bias
