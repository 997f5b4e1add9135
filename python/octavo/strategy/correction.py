"""Bias correction: the mean error of each output, on data, taken out of its bias.

Rounding weights shifts the mean of an output wherever the mean of its inputs is not 0 (Nagel et al.
2019, arXiv:1906.04721, section 4.2). Here the shift is measured: the layer is computed alone, once in
float and once with its input and weights as they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.array import QParams, QTensor
from octavo.graph.ir import Graph
from octavo.strategy.layers import Layer, alone, fake_quantize
from octavo.strategy.samples import Gain, Samples, sqnr

Array = NDArray[Any]


def correct_biases(
    graph: Graph,
    layers: Mapping[str, Layer],
    stored: Mapping[str, QTensor],
    parameters: Mapping[str, QParams],
    samples: Samples,
) -> list[Gain]:
    """Change biases in the graph where that lessens the error; return what was gained."""
    gains = []
    for name, w in stored.items():
        layer, node = layers[name], layers[name].node
        xs = samples.of(node.inputs[0]) if node.op != "Gather" else []
        bias = graph.array(node.input(2))
        if not xs or w.dtype == "float16" or (node.input(2) and bias is None):
            continue
        exact, rounded = alone(layer, layer.w, None), alone(layer, w.dequantize(), None)
        qparams = parameters.get(node.inputs[0])
        signal, errors = 0.0, []
        for x in xs:
            y = exact(x)
            signal += float(np.sum(np.square(y), dtype=np.float64))
            z = fake_quantize(x, qparams, symmetric=w.group_size is not None)
            off = np.moveaxis(rounded(z) - y, layer.channels, -1)
            errors.append(off.reshape(-1, off.shape[-1]))
        every = np.concatenate(errors).astype(np.float64)
        shift = every.mean(0)
        before = float(np.square(every).sum())
        after = before - float(np.square(shift).sum()) * len(every)
        old = np.zeros(len(shift)) if bias is None else bias.reshape(-1).astype(np.float64)
        if not before or len(every) < 2:
            continue
        held = graph.new_name(f"{name}.corrected")
        graph.constants[held] = (old - shift).astype(np.float32)
        node.inputs = [*node.inputs[:2], held]
        gains.append(Gain(name, "bias", sqnr(signal, before), sqnr(signal, max(after, 0.0))))
    return gains
