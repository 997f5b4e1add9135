"""Equalization and smoothing: scale moved between a layer and what makes its input.

A layer's inputs share one 8-bit scale; a channel far larger than the others leaves few steps to
these. Dividing each channel by a factor where it is made, and multiplying the weights that read it,
changes nothing in exact arithmetic. Two rules give the factors:

- cross-layer equalization, between weights: ``sqrt(r1 / r2)`` with the ranges of the weights that
  make a channel and of those that read it (Nagel et al. 2019, arXiv:1906.04721, equation 11);
- smoothing, between activations and weights: ``max|x|**a / max|w|**(1 - a)`` (Xiao et al. 2023,
  arXiv:2211.10438, equation 4).

Which rule, with which a, or none: what the data say, by the error of the outputs of the layers. Where
others read the value too, or what makes it has no weights, products read it through a multiplication
of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.array import QParams
from octavo.graph.ir import Graph, Node
from octavo.strategy.layers import (
    CONVOLUTIONS,
    PRODUCTS,
    Layer,
    alone,
    fake_quantize,
    layer_of,
    quantized_weights,
)
from octavo.strategy.samples import Gain, Samples, sqnr

Array = NDArray[Any]
ALPHAS = (0.3, 0.5, 0.7, 0.85)
# What must be gained, in dB: less may be chance, or not be worth a multiplication.
LEAST_GAIN = 0.2
LEAST_GAIN_OF_A_NODE = 1.0


class Place(NamedTuple):
    """A value whose channels can be scaled: what makes it, and the layers that read it.

    `producer` is None where its weights cannot take the factors.
    """

    value: str
    producer: Node | None
    readers: list[Layer]


def equalize_layers(
    graph: Graph,
    layers: dict[str, Layer],
    wanted: Mapping[str, str],
    codes: dict[str, list[tuple[Node, int]]],
    integer: Collection[str],
    samples: Samples,
) -> tuple[list[Gain], list[str]]:
    """Scale where it helps; `graph`, `layers`, `codes` and `samples` are changed.

    `codes` are the values that are read at one scale, found in calibration, and who reads them so;
    `integer` the nodes that compute on codes. The values that were scaled come back beside the gains.
    """
    gains, scaled = [], []
    for found in list(_places(graph, layers, integer)):
        place = found._replace(readers=[layers[each.node.name] for each in found.readers])
        xs = samples.of(place.value)
        if not xs:
            continue
        static = place.value in codes
        plain = _error(place, wanted, xs, None, static)
        best, factors = plain, None
        for candidate in _candidates(graph, place, xs):
            error = _error(place, wanted, xs, candidate, static)
            if error < best:
                best, factors = error, candidate
        least = LEAST_GAIN_OF_A_NODE if place.producer is None else LEAST_GAIN
        if factors is None or sqnr(1, best) - sqnr(1, plain) < least:
            continue
        for reader in place.readers:
            _replace(graph, layers, reader, _scaled(reader, factors))
        inverse = 1 / _along(factors, place.readers[0].channels, xs[0].ndim)
        if place.producer is None:
            value = _multiplied(graph, place, inverse.reshape(-1), codes)
        else:
            value = place.value
            scaled.append(value)
            _scale_producer(graph, layers, place.producer, factors)
        samples.scale(place.value, inverse, value)
        gains.append(Gain(place.readers[0].node.name, "equalize", sqnr(1, plain), sqnr(1, best)))
    return gains, scaled


# --- where ----------------------------------------------------------------------------------------


def _places(graph: Graph, layers: Mapping[str, Layer], integer: Collection[str]) -> Iterable[Place]:
    producers, uses = graph.producers(), graph.uses()
    for name in dict.fromkeys(layer.node.inputs[0] for layer in layers.values()):
        producer = producers.get(name)
        named = [layers.get("" if each is None else each.name) for each in uses[name]]
        readers = [
            each
            for each in named
            if each is not None
            and each.node.op != "Gather"
            and each.node.inputs[0] == name
            and each.node.inputs.count(name) == 1
        ]
        if not readers or len({each.channels for each in readers}) > 1:
            continue
        axis = readers[0].channels
        count = _channels_made(graph, producer, axis) if len(readers) == len(named) else None
        if count is not None and producer is not None and name == producer.outputs[0]:
            if all(_reads(each, count) for each in readers):
                yield Place(name, producer, readers)
        elif axis == -1 and len({each.w.shape[_axis_read(each)] for each in readers}) == 1:
            if producer is not None and producer.name in integer:
                continue  # its codes are there already
            yield Place(name, None, readers)


def _channels_made(graph: Graph, node: Node | None, axis: int) -> int | None:
    """Return how many channels a node makes, if each can be scaled by itself; None if not."""
    if node is None or (node.op in CONVOLUTIONS) != (axis == 1):
        return None
    if node.op in ("LayerNormalization", "RMSNormalization"):
        line = [graph.array(name) for name in node.inputs[1:] if name]
        last = node.attributes.get("axis", -1) == -1 and len(node.outputs) == 1
        plain = all(each is not None and each.ndim == 1 for each in line) and bool(line)
        return line[0].size if last and plain and line[0] is not None else None
    if node.op not in (*CONVOLUTIONS, *PRODUCTS) or node.attributes.get("activation") not in (
        None,
        "relu",
    ):
        return None
    layer = layer_of(graph, node)
    if not isinstance(layer, Layer) or (node.input(2) and graph.array(node.input(2)) is None):
        return None
    if node.op == "ConvTranspose" and node.attributes.get("group", 1) != 1:
        return None
    return int(layer.w.shape[layer.kept])


def _reads(layer: Layer, count: int) -> bool:
    """Whether a layer reads so many channels, each by weights of its own."""
    groups = layer.node.attributes.get("group", 1) if layer.node.op in CONVOLUTIONS else 1
    if groups == 1:
        return int(layer.w.shape[_axis_read(layer)]) == count
    return bool(layer.node.op == "Conv" and groups == count)  # depthwise


def _axis_read(layer: Layer) -> int:
    return 0 if layer.kept == 1 else 1


# --- how much -------------------------------------------------------------------------------------


def _candidates(graph: Graph, place: Place, xs: list[Array]) -> Iterable[Array]:
    axis = place.readers[0].channels
    over = tuple(i for i in range(xs[0].ndim) if i != axis % xs[0].ndim)
    size = np.max([np.abs(x).max(over) for x in xs], 0).astype(np.float64)
    read = np.max([_range_read(each, len(size)) for each in place.readers], 0)
    alive = (size > 0) & (read > 0)
    for alpha in ALPHAS:
        yield _factors(size**alpha / np.where(alive, read, 1) ** (1 - alpha), alive)
    producer = None if place.producer is None else layer_of(graph, place.producer)
    if isinstance(producer, Layer):
        made = np.abs(producer.matrix()).max(1).astype(np.float64)
        yield _factors(np.sqrt(made / np.where(alive, read, 1)), alive & (made > 0))


def _factors(factors: Array, alive: Array) -> Array:
    """Return factors of geometric mean 1; channels without values keep theirs."""
    if not alive.any():
        return np.ones(len(factors), np.float32)
    factors = np.where(alive, factors, 1.0)
    factors[alive] /= np.exp(np.log(factors[alive]).mean())
    return np.clip(factors, 1e-3, 1e3).astype(np.float32)


def _range_read(layer: Layer, count: int) -> Array:
    """Return the largest magnitude of the weights that read each channel."""
    axis = _axis_read(layer)
    depthwise = layer.w.shape[axis] != count  # its outputs lie in the order of the channels
    parts = layer.w if depthwise else np.moveaxis(layer.w, axis, 0)
    size: Array = np.abs(parts).reshape(count, -1).max(1)
    return size


def _scaled(layer: Layer, factors: Array) -> Array:
    axis = _axis_read(layer)
    if layer.w.shape[axis] != len(factors):  # depthwise
        axis, factors = 0, np.repeat(factors, layer.w.shape[0] // len(factors))
    scaled: Array = layer.w * _along(factors, axis, layer.w.ndim)
    return scaled


def _along(factors: Array, axis: int, rank: int) -> Array:
    shape = [1] * rank
    shape[axis] = -1
    return factors.reshape(shape)


def _error(
    place: Place,
    wanted: Mapping[str, str],
    xs: list[Array],
    factors: Array | None,
    static: bool,
) -> float:
    """Return the ratio of what quantization does to the readers' outputs to these, in squares."""
    inputs = xs
    if factors is not None:
        by = 1 / _along(factors, place.readers[0].channels, xs[0].ndim)
        inputs = [x * by for x in xs]
    qparams = None
    if static:
        lo, hi = min(float(x.min()) for x in inputs), max(float(x.max()) for x in inputs)
        qparams = _over_range(lo, hi)
    ratio = 0.0
    for layer in place.readers:
        precision = wanted[layer.node.name]
        real = layer if factors is None else layer._replace(w=_scaled(layer, factors))
        stored = quantized_weights(real, precision)
        if isinstance(stored, str):
            return np.inf
        exact, rounded = alone(layer, layer.w, None), alone(layer, stored.dequantize(), None)
        signal = error = 0.0
        for x, z in zip(xs, inputs, strict=True):
            y = exact(x)
            off = rounded(fake_quantize(z, qparams, symmetric="/" in precision)) - y
            signal += float(np.sum(np.square(y), dtype=np.float64))
            error += float(np.sum(np.square(off), dtype=np.float64))
        ratio += error / signal if signal else 0.0
    return ratio / len(place.readers)


def _over_range(lo: float, hi: float) -> QParams:
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    if hi == lo:
        return QParams(1.0, 0, "uint8")
    scale = max((hi - lo) / 255, 2.0**-126)
    return QParams(scale, int(np.clip(np.rint(-lo / scale), 0, 255)), "uint8")


# --- the change -----------------------------------------------------------------------------------


def _replace(graph: Graph, layers: dict[str, Layer], layer: Layer, w: Array) -> None:
    layers[layer.node.name] = layer._replace(w=w)
    _put(graph, layer.node, 1, w)


def _put(graph: Graph, node: Node, index: int, value: Array) -> None:
    name = graph.new_name(f"{node.name}.equalized")
    graph.constants[name] = np.ascontiguousarray(value, np.float32)
    node.inputs[index] = name


def _multiplied(
    graph: Graph, place: Place, by: Array, codes: dict[str, list[tuple[Node, int]]]
) -> str:
    """Let the readers of a place read a product of the value; return its name."""
    old = place.value
    value, factors = graph.new_name(f"{old}.smoothed"), graph.new_name(f"{old}.factors")
    graph.constants[factors] = np.ascontiguousarray(by, np.float32)
    graph.values[value] = graph.value(old)._replace(name=value)
    nodes = [layer.node for layer in place.readers]
    multiply = Node(f"{old}.smooth", "Mul", [old, factors], [value], {}, 14)
    graph.nodes.insert(min(map(graph.nodes.index, nodes)), multiply)
    for node in nodes:
        node.inputs[0] = value
    before = codes.pop(old, [])
    taken = [each for each in before if each[0] in nodes]
    left = [each for each in before if each[0] not in nodes]
    codes.update({name: each for name, each in ((old, left), (value, taken)) if each})
    return value


def _scale_producer(graph: Graph, layers: dict[str, Layer], node: Node, factors: Array) -> None:
    layer = layers.get(node.name) or layer_of(graph, node)
    if isinstance(layer, Layer):
        w = layer.w / _along(factors, layer.kept, layer.w.ndim)
        _put(graph, node, 1, w)
        if node.name in layers:
            layers[node.name] = layer._replace(w=w)
        indices: tuple[int, ...] = (2,)
    else:
        indices = (1, 2)
    for index in indices:
        line = graph.array(node.input(index))
        if line is not None:
            _put(graph, node, index, line.astype(np.float32).reshape(-1) / factors)
