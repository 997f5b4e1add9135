"""The order of the passes: each sees what those before it left."""

from __future__ import annotations

from octavo.graph import passes
from octavo.graph.ir import Graph
from octavo.graph.quantized import fuse_residual, integer_operators


def optimize(graph: Graph) -> None:
    """Run all passes."""
    passes.remove_identities(graph)
    passes.fold_constants(graph, keep={"DequantizeLinear"})  # integer weights stay integers
    passes.remove_dead_code(graph)
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
