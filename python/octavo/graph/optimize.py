"""The order of the passes: each sees what those before it left."""

from __future__ import annotations

from octavo.errors import ModelError
from octavo.graph import passes
from octavo.graph.ir import Graph, Subgraph
from octavo.graph.layout import choose_layout, to_nchw
from octavo.graph.quantized import fuse_residual, integer_operators


def optimize(graph: Graph) -> None:
    """Run all passes.

    Raises
    ------
    ModelError
        An operator without the inputs or attributes that it must have.
    """
    try:
        _run_all(graph)
    except ModelError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(f"the graph contradicts itself: {error!r}") from error


def _run_all(graph: Graph) -> None:
    to_nchw(graph)  # of a graph that the passes have seen before
    _take_in_constants(graph)
    passes.remove_identities(graph)
    passes.keep_half_weights(graph)
    passes.fold_constants(graph, keep={"DequantizeLinear"})  # integer weights stay integers
    passes.remove_dead_code(graph)
    passes.fuse_squeeze(graph)
    passes.fuse_functions(graph)
    passes.fuse_layer_norm(graph)
    integer_operators(graph)
    passes.remove_dead_code(graph)
    fuse_residual(graph)
    passes.remove_identities(graph)
    passes.fold_constants(graph)
    passes.remove_dead_code(graph)
    passes.fold_batch_norm(graph)
    passes.fuse_bias(graph)
    passes.fuse_activation(graph)
    passes.remove_dead_code(graph)
    choose_layout(graph)


def _take_in_constants(graph: Graph) -> None:
    """Give graphs inside the constants that they read around them, and optimize those graphs."""
    for node in graph.nodes:
        if node.op not in ("If", "Loop", "Scan"):
            continue
        known = {
            inner: graph.constants[name]
            for inner, name in node.implicit.items()
            if name in graph.constants
        }
        for value in node.attributes.values():
            if isinstance(value, Subgraph):
                own = value.graph
                taken = {v.name for v in own.inputs if v.name in known}
                own.inputs = [v for v in own.inputs if v.name not in taken]
                own.constants |= {name: known[name] for name in taken}
                optimize(own)
        node.implicit = {i: name for i, name in node.implicit.items() if i not in known}
