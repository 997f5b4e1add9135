"""If, Loop, Scan: graphs inside a node, run by executors of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.graph.ir import Graph, Node, Subgraph
from octavo.graph.kernel import REFERENCE, Kernel

Run = Callable[[Sequence[Any]], list[Any]]


# What prepares a graph: how it runs, and its operators that have no kernel.
Prepare = Callable[[Graph], tuple[Run, list[str]]]


def control_kernel(node: Node, prepare: Prepare) -> Kernel | None:
    """Return the kernel of If, Loop or Scan; its inputs are the node's, then what subgraphs read."""
    make = {"If": _if, "Loop": _loop, "Scan": _scan}.get(node.op)
    if make is None:
        return None
    bodies = {
        name: _Body(value.graph, node, prepare)
        for name, value in node.attributes.items()
        if isinstance(value, Subgraph)
    }
    run = make(node, bodies)
    single = len(node.outputs) == 1
    lacking = sorted({op for body in bodies.values() for op in body.lacking})
    name = f"graph inside, {', '.join(lacking)} by {REFERENCE}" if lacking else "graph inside"
    return Kernel(lambda *values: run(values)[0] if single else tuple(run(values)), name)


class _Body:
    """A subgraph; called with its own inputs and with all inputs of the node around it."""

    def __init__(self, graph: Graph, node: Node, prepare: Prepare) -> None:
        places = {name: len(node.inputs) + i for i, name in enumerate(node.implicit)}
        self._captured = [places[value.name] for value in graph.inputs if value.name in places]
        self.graph = graph
        self._run, self.lacking = prepare(graph)

    def __call__(self, given: Sequence[Any], around: Sequence[Any]) -> list[Any]:
        return self._run([*given, *(around[place] for place in self._captured)])


def _if(_node: Node, bodies: dict[str, _Body]) -> Run:
    def run(values: Sequence[Any]) -> list[Any]:
        taken = "then_branch" if np.asarray(values[0]).item() else "else_branch"
        return bodies[taken]([], values)

    return run


def _loop(node: Node, bodies: dict[str, _Body]) -> Run:
    body, carried = bodies["body"], len(node.inputs) - 2
    scanned = body.graph.outputs[1 + carried :]

    def run(values: Sequence[Any]) -> list[Any]:
        most = None if values[0] is None else int(np.asarray(values[0]).item())
        going = values[1] is None or bool(np.asarray(values[1]).item())
        state = list(values[2 : 2 + carried])
        rows: list[list[Any]] = [[] for _ in scanned]
        i = 0
        while going and (most is None or i < most):
            goes_on, *made = body([np.array(i), np.array(going), *state], values)
            going = bool(np.asarray(goes_on).item())
            state = made[:carried]
            for row, each in zip(rows, made[carried:], strict=True):
                row.append(each)
            i += 1
        return state + [
            np.stack(row) if row else _no_rows(value.dtype, value.shape)
            for row, value in zip(rows, scanned, strict=True)
        ]

    return run


def _no_rows(dtype: str | None, shape: Any) -> NDArray[Any]:
    sizes = [size if isinstance(size, int) else 0 for size in shape or ()]
    return np.empty((0, *sizes), dtype or "float32")


def _scan(node: Node, bodies: dict[str, _Body]) -> Run:
    body, a = bodies["body"], node.attributes
    count = a["num_scan_inputs"]
    states = len(node.inputs) - count
    outs = len(body.graph.outputs) - states
    in_axes = a.get("scan_input_axes") or (0,) * count
    out_axes = a.get("scan_output_axes") or (0,) * outs
    in_backwards = a.get("scan_input_directions") or (0,) * count
    out_backwards = a.get("scan_output_directions") or (0,) * outs

    def run(values: Sequence[Any]) -> list[Any]:
        state = list(values[:states])
        inputs = [
            np.flip(np.moveaxis(x, axis, 0), 0) if backwards else np.moveaxis(x, axis, 0)
            for x, axis, backwards in zip(
                values[states : states + count], in_axes, in_backwards, strict=True
            )
        ]
        rows: list[list[Any]] = [[] for _ in range(outs)]
        for given in zip(*inputs, strict=True):
            made = body([*state, *map(np.asarray, given)], values)
            state = made[:states]
            for row, each in zip(rows, made[states:], strict=True):
                row.append(each)
        results = []
        for i, row in enumerate(rows):
            value = body.graph.outputs[states + i]
            y = (
                np.stack(row[::-1] if out_backwards[i] else row)
                if row
                else (_no_rows(value.dtype, value.shape))
            )
            results.append(np.moveaxis(y, 0, out_axes[i]))
        return state + results

    return run
