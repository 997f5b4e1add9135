"""Quantize, dequantize, requantize 2**20 values: ours, NumPy, and a copy of the 4-byte side."""

from typing import Any

import numpy as np
import ours
import peers
import pytest
from operands import Elements
from rounds import Entrant
from shapes import ELEMENTS

OPERANDS = Elements(ELEMENTS)
ENTRANTS = [*ours.elements(OPERANDS), peers.numpy_quantize(OPERANDS)]


@pytest.mark.parametrize("entrant", ENTRANTS, ids=[e.name for e in ENTRANTS])
def test_elementwise(benchmark: Any, entrant: Entrant) -> None:
    benchmark.group = entrant.kind
    np.testing.assert_array_equal(benchmark(entrant.call), OPERANDS.answers[entrant.kind])


@pytest.mark.parametrize("kind", OPERANDS.answers)
def test_copy(benchmark: Any, kind: str) -> None:
    benchmark.group = kind
    source = OPERANDS.sums if kind == "requantize" else OPERANDS.x
    target = np.empty_like(source)
    benchmark(np.copyto, target, source)
    np.testing.assert_array_equal(target, source)
