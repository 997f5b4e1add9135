"""Operators that hold their weights, packed for this CPU."""

from octavo.nn.linear import Linear

__all__ = ["Linear"]
