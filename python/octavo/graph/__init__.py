"""Models: ONNX files read into a graph, small passes over it, and what runs it."""

from octavo.graph.ir import Graph, Node, Value
from octavo.graph.model import Benchmark, Coverage, CoverageRow, Layer, Model, load

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
