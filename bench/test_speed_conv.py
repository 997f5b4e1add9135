"""Convolutions and the operators between them: ours, and what NumPy has in 8 bits."""

from typing import Any

import numpy as np
import ours
import pytest
from operands_conv import ConvOperands
from operands_tensor import TensorOperands
from peers import Absent
from peers_tensor import numpy_way
from shapes import TENSOR_OPS, Convolution, TensorOp, convolutions

SHAPES = [shape for _, shape in convolutions(["first", "basic", "grouped", "audio", "transposed"])]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_convolution(benchmark: Any, shape: Convolution) -> None:
    benchmark.group = shape.kind
    p = ConvOperands(shape, x_zero_point=128)
    np.testing.assert_array_equal(benchmark(ours.convolution(p).call), p.answers["u8"])


@pytest.mark.parametrize("op", TENSOR_OPS, ids=lambda op: op.name)
def test_operator(benchmark: Any, op: TensorOp) -> None:
    benchmark.group = op.name
    p = TensorOperands(op)
    np.testing.assert_array_equal(benchmark(ours.tensor(p).call), p.answer)


@pytest.mark.parametrize("op", TENSOR_OPS, ids=lambda op: op.name)
def test_numpy(benchmark: Any, op: TensorOp) -> None:
    benchmark.group = op.name
    p = TensorOperands(op)
    try:
        entrant = numpy_way(p)
    except Absent:
        pytest.skip("NumPy has no such operator in 8 bits")
    np.testing.assert_array_equal(benchmark(entrant.call), p.answer)
