"""What an operator becomes when it is prepared: a function of arrays, and what is known for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo import _core
from octavo.graph.ir import Constant, Shape

# The name of the kernel of operators that have none here.
REFERENCE = "onnx.reference"


class Arg(NamedTuple):
    """An input as it is known when a node is prepared. `dtype` None: not known."""

    dtype: str | None = None
    shape: Shape | None = None
    value: Constant | None = None
    given: bool = True

    @property
    def array(self) -> NDArray[Any] | None:
        """The value, where it is a plain constant."""
        return self.value if isinstance(self.value, np.ndarray) else None

    @property
    def rank(self) -> int | None:
        """How many dimensions there are."""
        return None if self.shape is None else len(self.shape)


NO_ARG = Arg(given=False)


class Attributes(dict[str, Any]):
    """A node's attributes, and its version and number of outputs."""

    version: int
    outputs: int


class Given(NamedTuple):
    """What an operator is given that adds itself to a plan (see `octavo.graph.plan`).

    `value` returns the number of an input's value in the plan, and raises TypeError where the plan can
    hold no such thing; `constant` returns an input that is known beforehand, else None.
    """

    plan: _core.PlanBuilder
    shapes: tuple[tuple[int, ...], ...]  # of the results
    attributes: dict[str, Any]
    value: Callable[[int], int]
    constant: Callable[[int], NDArray[Any] | None]
    inputs: int
    has: Callable[[int], bool]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result, or of the first."""
        return self.shapes[0]

    def is_given(self, index: int) -> bool:
        """Whether there is such an input."""
        return index < self.inputs and self.has(index)


# Adds an operator to a plan; returns the number of its result there, or of each. None, TypeError,
# ValueError: it cannot, for what it is given.
Native = Callable[[Given], int | tuple[int, ...] | None]


class Kernel(NamedTuple):
    """A prepared operator: `run` takes the arrays of its inputs (None where one is left out).

    It returns an array, or a tuple if the operator has several outputs. `name` says what computes:
    "conv int8" and the like for octavo's own, "numpy", "onnx.reference". `native`, where there is one,
    computes the same bits.
    """

    run: Callable[..., Any]
    name: str = "numpy"
    native: Native | None = None


# Prepares an operator; None: not for these inputs. What a kernel cannot do is left to onnx's
# reference implementation.
Make = Callable[[Attributes, Sequence[Arg]], Kernel | None]


# Layouts of images: channels first as in ONNX, channels last as octavo's kernels have them.
NCHW = "NCHW"
NHWC = "NHWC"


def channels_last(rank: int) -> tuple[int, ...]:
    """Return the order of axes that brings the channels from second place to the last."""
    return (0, *range(2, rank), 1)


def channels_first(rank: int) -> tuple[int, ...]:
    """Return the order of axes that brings the channels from the last place to the second."""
    return (0, rank - 1, *range(1, rank - 1))
