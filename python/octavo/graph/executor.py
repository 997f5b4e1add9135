"""Runs a graph: each node is prepared once; what follows from input shapes alone, once a shape."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from octavo import _core
from octavo.errors import ModelError, UnsupportedOpError
from octavo.graph.control import control_kernel
from octavo.graph.ir import Graph, Node, Subgraph
from octavo.graph.kernel import NO_ARG, REFERENCE, Arg, Attributes, Kernel
from octavo.graph.layout import as_first, as_it_runs, is_last, shown_first
from octavo.graph.onnx_reader import import_onnx, to_model
from octavo.graph.operators import KERNELS, SHAPED_BY, VALUE_SHAPED
from octavo.graph.plan import NOTHING, Segment, planned, spec_of

# How many input shapes are kept planned.
MOST_PLANS = 16
# The third run of a shape is the first that does nothing but compute.
RUNS_TO_PLAN = 3


class Step(NamedTuple):
    """A prepared node between slots."""

    node: Node
    kernel: Kernel
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


# Told of a step and the seconds it took; of a step, its inputs and its outputs.
Timer = Callable[[Step, float], None]
Watch = Callable[[Step, list[Any], list[Any]], None]


class Plan(NamedTuple):
    """Steps for one shape of the inputs: those that depend on more than the shape.

    `units` are the same, where they can be as plans in C++; None until a second run has shown the
    shapes of what lies between: many shapes are seen but once.
    """

    template: list[Any]
    steps: tuple[Step, ...]
    # For each step: the slots that nothing reads after it.
    frees: tuple[tuple[int, ...], ...]
    units: tuple[Step | Segment, ...] | None = None
    unit_frees: tuple[tuple[int, ...], ...] = ()


def prepare_node(node: Node, graph: Graph) -> Kernel:
    """Return the node's kernel: octavo's or NumPy's, else onnx's reference implementation."""
    try:
        return _kernel_of(node, graph)
    except (ImportError, MemoryError, ModelError):
        raise
    except Exception as error:  # inputs or attributes that the operator does not have
        raise ModelError(f"{node.op} {node.name!r} cannot be prepared: {error}") from error


def _kernel_of(node: Node, graph: Graph) -> Kernel:
    control = control_kernel(node, _prepare_graph)
    if control is not None:
        return control
    args = [_arg(name, graph) for name in node.inputs]
    if not is_last(node):
        return _own_kernel(node, args) or Kernel(_Reference(node), REFERENCE)
    as_given = as_it_runs(node, args)
    kernel = None if as_given is None else _own_kernel(as_given, args)
    if kernel is None:
        node, args = as_first(node, args)
        kernel = _own_kernel(node, args) or Kernel(_Reference(node), REFERENCE)
        kernel = shown_first(kernel, args)
    return kernel


def _own_kernel(node: Node, args: Sequence[Arg]) -> Kernel | None:
    make = KERNELS.get(node.op)
    if make is None:
        return None
    attributes = Attributes(node.attributes)
    attributes.version, attributes.outputs = node.version, len(node.outputs)
    return make(attributes, args)


def _prepare_graph(graph: Graph) -> tuple[Callable[[Sequence[Any]], list[Any]], list[str]]:
    executor = Executor(graph)
    names = [value.name for value in graph.outputs]
    lacking = [step.node.op for step in executor.steps if REFERENCE in step.kernel.name]
    return lambda arrays: executor.run(arrays, names), lacking


def _arg(name: str, graph: Graph) -> Arg:
    if not name:
        return NO_ARG
    value = graph.value(name)
    return Arg(value.dtype, value.shape, graph.constants.get(name))


class _Reference:
    """A node run by onnx's reference implementation, an evaluator a thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._names = [f"x{i}" if name else "" for i, name in enumerate(node.inputs)]
        self._names += node.implicit
        self._local = threading.local()
        try:
            self._evaluator()
        except RuntimeError as error:  # or of a class made from it, where onnx has none
            raise UnsupportedOpError(
                f"{node.name}: {node.op} has no kernel here and none in onnx's reference "
                f"implementation of opset {node.version}"
            ) from error

    def _evaluator(self) -> Any:
        evaluator = getattr(self._local, "evaluator", None)
        if evaluator is None:
            make = import_onnx().reference.ReferenceEvaluator
            evaluator = self._local.evaluator = make(to_model(self._node))
        return evaluator

    def __call__(self, *values: Any) -> Any:
        feeds = {name: value for name, value in zip(self._names, values, strict=True) if name}
        results = iter(self._evaluator().run(None, feeds))
        outputs = tuple(_tensor(next(results)) if name else None for name in self._node.outputs)
        return outputs if len(outputs) > 1 else outputs[0]


def _tensor(value: Any) -> Any:
    """Return strings as ONNX tensors hold them; the reference gives NumPy's own."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        return value.astype(object)
    return value


class Executor:
    """A graph, prepared. Immutable but for the plans, which are replaced as a whole."""

    def __init__(self, graph: Graph) -> None:
        slots = {"": NOTHING}
        for name in (
            *(value.name for value in graph.inputs),
            *graph.constants,
            *(name for node in graph.nodes for name in node.outputs),
        ):
            slots.setdefault(name, len(slots))
        self._template: list[Any] = [None] * len(slots)
        for name, constant in graph.constants.items():
            self._template[slots[name]] = _kept(constant)
        self.steps = tuple(
            Step(
                node,
                prepare_node(node, graph),
                tuple(slots[name] for name in (*node.inputs, *node.implicit.values())),
                tuple(slots[name] for name in node.outputs),
            )
            for node in graph.nodes
        )
        # A slot read by kernels that took the constant in need not be kept for them.
        self._inputs = tuple(slots[value.name] for value in graph.inputs)
        self._outputs = {value.name: slots[value.name] for value in graph.outputs}
        self._static = self._shape_values(graph, slots)
        self._arenas = _core.ArenaPool()
        self._plans: Mapping[tuple[Any, ...], Plan] = {}

    def _shape_values(self, graph: Graph, slots: dict[str, int]) -> frozenset[int]:
        """Return the slots of nodes whose values follow from the input shapes alone."""
        shapes = {NOTHING, *self._inputs, *(slots[name] for name in graph.constants)}
        values = {NOTHING, *(slots[name] for name in graph.constants)}
        static: set[int] = set()
        for step in self.steps:
            op, inputs = step.node.op, step.inputs
            known = op in ("Shape", "Size") and inputs[0] in shapes
            if "Random" not in op and op not in _CHANCE and not _is_control(step.node):
                known = known or all(slot in values for slot in inputs)
            if known:
                values.update(step.outputs)
                static.update(step.outputs)
            shaped = SHAPED_BY.get(op, ())
            if known or (
                step.kernel.name != REFERENCE
                and op not in VALUE_SHAPED
                and not _is_control(step.node)
                and all(slot in shapes for slot in inputs)
                and all(inputs[i] in values for i in shaped if i < len(inputs))
            ):
                shapes.update(step.outputs)
        return frozenset(static - {NOTHING})

    def run(
        self,
        arrays: Sequence[Any],
        outputs: Sequence[str],
        timer: Timer | None = None,
        watch: Watch | None = None,
    ) -> list[Any]:
        """Return the outputs of these names; `timer` and `watch` are told of each step."""
        key = _shapes(arrays)
        plan = self._plans.get(key)
        if plan is None:
            with np.errstate(all="ignore"):
                return self._first_run(key, arrays, outputs, timer, watch)
        values = plan.template.copy()
        for slot, array in zip(self._inputs, arrays, strict=True):
            values[slot] = array
        if timer is not None or watch is not None:
            with np.errstate(all="ignore"):
                for step, free in zip(plan.steps, plan.frees, strict=True):
                    _run_step(step, values, timer, watch)
                    for slot in free:
                        values[slot] = None
        elif plan.units is None:
            self._second_run(key, plan, values)
        elif len(plan.units) == 1 and isinstance(plan.units[0], Segment):
            _run_segment(plan.units[0], values)
        else:
            with np.errstate(all="ignore"):
                for unit, free in zip(plan.units, plan.unit_frees, strict=True):
                    if isinstance(unit, Segment):
                        _run_segment(unit, values)
                    else:
                        _run_step(unit, values)
                    for slot in free:
                        values[slot] = None
        return [values[self._outputs[name]] for name in outputs]

    def planned(self, arrays: Sequence[Any]) -> tuple[int, int]:
        """Return how many steps plans in C++ run for arrays of these shapes, and in how many bytes.

        Plans run one after another, in the same memory.
        """
        plan = self._plans.get(_shapes(arrays))
        units = () if plan is None else plan.units or ()
        segments = [unit for unit in units if isinstance(unit, Segment)]
        steps = sum(len(segment.steps) for segment in segments)
        return steps, max((segment.plan.nbytes for segment in segments), default=0)

    def _second_run(self, key: tuple[Any, ...], plan: Plan, values: list[Any]) -> None:
        """Run every step, and plan in C++ what can be, for the shapes that there are."""
        specs = {slot: spec_of(values[slot]) for slot in self._inputs}
        with np.errstate(all="ignore"):
            for step, free in zip(plan.steps, plan.frees, strict=True):
                _run_step(step, values)
                specs |= {slot: spec_of(values[slot]) for slot in step.outputs}
                for slot in free:
                    values[slot] = None
        results = frozenset(self._outputs.values())
        units = planned(plan.steps, specs, plan.template, results, self._arenas)
        plan = plan._replace(units=units, unit_frees=self._frees(units))
        self._plans = {**self._plans, key: plan}

    def _first_run(
        self,
        key: tuple[Any, ...],
        arrays: Sequence[Any],
        outputs: Sequence[str],
        timer: Timer | None,
        watch: Watch | None,
    ) -> list[Any]:
        """Run every step, keep what follows from the shapes, and plan the rest."""
        template = self._template.copy()
        values = self._template.copy()
        for slot, array in zip(self._inputs, arrays, strict=True):
            values[slot] = array
        steps = tuple(step for step in self.steps if not self._static.issuperset(step.outputs))
        for step, free in zip(self.steps, self._frees(self.steps), strict=True):
            known = self._static.issuperset(step.outputs)  # no data: it is not shown
            _run_step(step, values, timer, None if known else watch)
            for slot in free:
                values[slot] = None
        for slot in self._static:
            values[slot] = template[slot] = _kept(values[slot])
        plans = list(self._plans.items())[-(MOST_PLANS - 1) :]
        self._plans = dict([*plans, (key, Plan(template, steps, self._frees(steps)))])
        return [values[self._outputs[name]] for name in outputs]

    def _frees(self, steps: Sequence[Step | Segment]) -> tuple[tuple[int, ...], ...]:
        kept = {*self._outputs.values(), *self._static, NOTHING}
        kept |= {slot for slot, value in enumerate(self._template) if value is not None}
        frees: list[tuple[int, ...]] = []
        for step in reversed(steps):
            dead = {*step.inputs, *step.outputs} - kept
            kept |= dead
            frees.append(tuple(sorted(dead)))
        return tuple(reversed(frees))


def _shapes(arrays: Sequence[Any]) -> tuple[Any, ...]:
    return tuple([getattr(each, "shape", None) for each in arrays])


def _kept(value: Any) -> Any:
    """Return what is kept from one run to the next: arrays read-only, so that none is given out."""
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    return value


def _is_control(node: Node) -> bool:
    return any(isinstance(value, Subgraph) for value in node.attributes.values())


_CHANCE = frozenset({"Bernoulli", "Multinomial"})


def _run_segment(segment: Segment, values: list[Any]) -> None:
    made = segment.plan(*[values[slot] for slot in segment.inputs])
    if made is not None:
        for slot, each in zip(segment.outputs, made, strict=True):
            values[slot] = each
        return
    # Of other shapes, or to raise what the operator does.
    with np.errstate(all="ignore"):
        for step in segment.steps:
            _run_step(step, values)


def _run_step(
    step: Step, values: list[Any], timer: Timer | None = None, watch: Watch | None = None
) -> None:
    given = [values[slot] for slot in step.inputs]
    began = 0.0 if timer is None else time.perf_counter()
    try:
        made = step.kernel.run(*given)
    except Exception as error:
        error.add_note(f"in {step.node.op} {step.node.name!r}")
        raise
    if timer is not None:
        timer(step, time.perf_counter() - began)
    if len(step.outputs) == 1:
        # NumPy makes scalars of arrays without dimensions.
        values[step.outputs[0]] = np.asarray(made) if isinstance(made, np.generic) else made
    else:
        for slot, each in zip(step.outputs, made, strict=False):
            if slot != NOTHING:
                values[slot] = each
    if watch is not None:
        watch(step, given, [values[slot] for slot in step.outputs])
