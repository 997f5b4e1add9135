"""Models: ONNX files read into a graph, small passes over it, and what runs it.

All but `load` is imported when it is asked for: `import octavo` is quick for those who have matrices.
"""

from typing import TYPE_CHECKING, Any

from octavo.graph.loading import load

if TYPE_CHECKING:
    from octavo.graph.ir import Graph, Node, Value
    from octavo.graph.model import Benchmark, Coverage, CoverageRow, Layer, Model

__all__ = [
    "Benchmark",
    "Coverage",
    "CoverageRow",
    "Graph",
    "Layer",
    "Model",
    "Node",
    "Value",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from octavo.graph import ir, model

    return getattr(ir if name in ("Graph", "Node", "Value") else model, name)
