"""The operators that have a kernel here, by name."""

from __future__ import annotations

from octavo.graph import arrays, integers, neural, products
from octavo.graph.arrays import SHAPED_BY, VALUE_SHAPED
from octavo.graph.kernel import Make

__all__ = ["KERNELS", "SHAPED_BY", "VALUE_SHAPED"]

KERNELS: dict[str, Make] = {
    **arrays.KERNELS,
    **neural.KERNELS,
    **products.KERNELS,
    **integers.KERNELS,
}
