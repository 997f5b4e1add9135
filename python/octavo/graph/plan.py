"""Steps that follow each other as plans that run in C++, by one call for all of them.

A kernel with a native description adds itself to a `_core.PlanBuilder`; views of arrays, whatever their
dtype, need none. Everything else stays a step of Python between two plans. A plan is made for the shapes
and dtypes that a run has shown, and gives the same bits as its steps: where a call brings others, the
steps run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from octavo import _core
from octavo.graph.kernel import NHWC, Given, Native, channels_last

if TYPE_CHECKING:
    from octavo.graph.executor import Step

Spec = tuple[str, tuple[int, ...]]  # dtype and shape

# The slot of what is left out.
NOTHING = 0
# Plans of fewer operators would save nothing.
_LEAST_STEPS = 2


class Segment(NamedTuple):
    """Steps as one plan; `inputs` and `outputs` are slots."""

    plan: _core.Plan
    steps: tuple[Step, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def spec_of(value: Any) -> Spec | None:
    """Return the dtype and shape of an array; None for what is none."""
    return (value.dtype.name, value.shape) if isinstance(value, np.ndarray) else None


def planned(
    steps: Sequence[Step],
    specs: Mapping[int, Spec | None],
    constants: Sequence[Any],
    results: frozenset[int],
    arenas: _core.ArenaPool,
) -> tuple[Step | Segment, ...]:
    """Return the steps, those that can be planned as segments.

    Parameters
    ----------
    specs : what a run has shown of each slot that is no constant.
    constants : arrays by slot, None where there is none.
    results : slots that are read after the last step.
    arenas : memory that plans share.
    """
    needed = [set(results)]  # after each step, the last first
    for step in reversed(steps):
        needed.append(needed[-1] | set(step.inputs))
    needed.reverse()
    units: list[Step | Segment] = []
    draft = _Draft(specs, constants)
    for step, after in zip(steps, needed[:-1], strict=True):
        if not draft.take(step):
            units += draft.finish(after, arenas)
            draft = _Draft(specs, constants)
            if not draft.take(step):
                units.append(step)
                draft = _Draft(specs, constants)
    units += draft.finish(needed[-1], arenas)
    return tuple(units)


class _Draft:
    """A segment in the making."""

    def __init__(self, specs: Mapping[int, Spec | None], constants: Sequence[Any]) -> None:
        self._specs = specs
        self._constants = constants
        self._builder = _core.PlanBuilder()
        self._values: dict[int, int] = {}  # by slot
        self._inputs: list[int] = []
        self._steps: list[Step] = []

    def take(self, step: Step) -> bool:
        """Add a step; False: it cannot be planned."""
        native = step.kernel.native or _KNOWN.get(step.node.op)
        specs = [self._specs.get(slot) for slot in step.outputs]
        shown = [spec for slot, spec in zip(step.outputs, specs, strict=True) if slot != NOTHING]
        if native is None or None in shown:
            return False
        given = Given(
            self._builder,
            tuple(() if spec is None else spec[1] for spec in specs),
            step.node.attributes,
            lambda i: self._value(step.inputs[i]),
            lambda i: self._constants[step.inputs[i]] if i < len(step.inputs) else None,
            len(step.inputs),
            lambda i: step.inputs[i] != NOTHING,
        )
        try:
            made = native(given)
        except (TypeError, ValueError):  # not for these dtypes
            return False
        if made is None:
            return False
        results = made if isinstance(made, tuple) else (made,)
        made_here = [pair for pair in zip(step.outputs, results, strict=True) if pair[0] != NOTHING]
        dtype, shape = self._builder.dtype, self._builder.shape
        if [(dtype(each), shape(each)) for _, each in made_here] != shown:
            return False
        self._values |= made_here
        self._steps.append(step)
        return True

    def _value(self, slot: int) -> int:
        value = self._values.get(slot)
        if value is None:
            constant, spec = self._constants[slot], self._specs.get(slot)
            if constant is not None:
                value = self._builder.constant(constant)
            elif spec is not None:
                value = self._builder.input(*spec)
                self._inputs.append(slot)
            else:
                raise TypeError("no array, or left out")
            self._values[slot] = value
        return value

    def finish(self, needed: set[int], arenas: _core.ArenaPool) -> list[Step | Segment]:
        """Return the steps as one segment, or as they are where that saves nothing."""
        if self._builder.steps < _LEAST_STEPS:
            return [*self._steps]
        outputs = [slot for step in self._steps for slot in step.outputs if slot in needed]
        plan = self._builder.finish([self._values[slot] for slot in outputs], arenas)
        return [Segment(plan, tuple(self._steps), tuple(self._inputs), tuple(outputs))]


# --- views, of any dtype --------------------------------------------------------------------------


def _reshape(given: Given) -> int:
    return given.plan.reshape(given.value(0), given.shape)


def _transpose(given: Given) -> int:
    x = given.value(0)
    axes = given.attributes.get("perm") or range(len(given.shape))[::-1]
    return given.plan.transpose(x, tuple(axes))


def _slice(given: Given) -> int | None:
    starts, ends, axes, steps = (given.constant(i) for i in range(1, 5))
    if starts is None or ends is None:
        return None
    if (axes is None and given.is_given(3)) or (steps is None and given.is_given(4)):
        return None
    x, plan = given.value(0), given.plan
    rank = len(given.shape)
    which = range(starts.size) if axes is None else axes.reshape(-1).tolist()
    if given.attributes.get("layout") == NHWC:
        which = [channels_last(rank).index(axis % rank) for axis in which]
    by = [1] * starts.size if steps is None else steps.reshape(-1).tolist()
    for axis, start, end, step in zip(
        which, starts.reshape(-1).tolist(), ends.reshape(-1).tolist(), by, strict=True
    ):
        indices = range(*slice(start, end, step).indices(plan.shape(x)[axis]))
        x = plan.slice(x, axis, indices.start if indices else 0, len(indices), step)
    return x


# --- arithmetic of NumPy --------------------------------------------------------------------------


def _pair(name: str) -> Native:
    return lambda given: given.plan.float_pair(name, _operand(given, 0), _operand(given, 1))


def _operand(given: Given, index: int) -> int:
    """Return an input; a constant with channels last, where images have them so."""
    rank, constant = len(given.shape), given.constant(index)
    if given.attributes.get("layout") != NHWC:
        return given.value(index)
    if constant is None:
        x = given.value(index)
        if len(given.plan.shape(x)) != rank:
            raise TypeError("of other axes than the result")
        return x
    if constant.size > 1:
        lead = (1,) * (rank - constant.ndim)
        constant = constant.reshape(lead + constant.shape).transpose(channels_last(rank))
    return given.plan.constant(constant)


def _pad(given: Given) -> int | None:
    pads, fill, axes = (given.constant(i) for i in (1, 2, 3))
    if pads is None or any(
        each is None and given.is_given(i) for i, each in ((2, fill), (3, axes))
    ):
        return None
    plan, x, rank = given.plan, given.value(0), len(given.shape)
    sides = pads.reshape(-1).tolist()
    which = range(rank) if axes is None else axes.reshape(-1).tolist()
    order = channels_last(rank) if given.attributes.get("layout") == NHWC else tuple(range(rank))
    mode = given.attributes.get("mode", "constant")
    for i, axis in enumerate(which):
        at = order.index(axis % rank)
        before, behind = sides[i], sides[i + len(sides) // 2]
        size = plan.shape(x)[at] + min(before, 0) + min(behind, 0)
        x = plan.slice(x, at, -min(before, 0), size)
        ends = max(before, 0), max(behind, 0)
        if not any(ends):
            continue
        shape = plan.shape(x)
        outer, inner = shape[:at], shape[at + 1 :]
        if mode == "constant":
            value = 0 if fill is None else fill.item()
            dtype = np.dtype(plan.dtype(x))
            one, other = (
                plan.constant(np.full((*outer, end, *inner), value, dtype)) for end in ends
            )
            x = plan.concat([one, x, other], [None] * 3, at)
        else:
            index = np.pad(np.arange(size), ends, mode=mode).tolist()
            images = plan.reshape(x, (math.prod(outer), size, 1, math.prod(inner)))
            x = plan.reshape(plan.nearest(images, index, [0]), (*outer, len(index), *inner))
    return x


def _clip(given: Given) -> int | None:
    lo, hi = (given.constant(i) for i in (1, 2))
    if (lo is None and given.is_given(1)) or (hi is None and given.is_given(2)):
        return None
    return given.plan.clip(given.value(0), lo, hi)


def _concat(given: Given) -> int | None:
    rank, axis, count = len(given.shape), given.attributes["axis"], given.inputs
    if given.attributes.get("layout") == NHWC:
        if any(given.constant(i) is not None for i in range(count)):
            return None
        axis = channels_last(rank).index(axis % rank)
    return given.plan.concat([*map(given.value, range(count))], [None] * count, axis)


# Operators whose kernels know nothing of plans.
def _split(given: Given) -> tuple[int, ...]:
    axis = given.attributes.get("axis", 0)
    if given.attributes.get("layout") == NHWC:
        axis = channels_last(len(given.shape)).index(axis % len(given.shape))
    x, start, parts = given.value(0), 0, []
    for shape in given.shapes:
        parts.append(given.plan.slice(x, axis, start, shape[axis]))
        start += shape[axis]
    return tuple(parts)


def _gather(given: Given) -> int | None:
    """One index alone: a view."""
    index, axis = given.constant(1), given.attributes.get("axis", 0)
    if index is None or index.size != 1 or given.attributes.get("layout") == NHWC:
        return None
    x, plan = given.value(0), given.plan
    size, at = plan.shape(x)[axis], int(index.item())
    return plan.reshape(plan.slice(x, axis, at + size if at < 0 else at, 1), given.shape)


_KNOWN: dict[str, Native] = {
    "Add": _pair("add"),
    "Clip": _clip,
    "Concat": _concat,
    "Div": _pair("divide"),
    "Dropout": _reshape,
    "Flatten": _reshape,
    "Gather": _gather,
    "Identity": _reshape,
    "Mul": _pair("multiply"),
    "Relu": lambda given: given.plan.clip(given.value(0), 0.0, None),
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Sqrt": lambda given: given.plan.square_root(given.value(0)),
    "Squeeze": _reshape,
    "Sub": _pair("subtract"),
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}
