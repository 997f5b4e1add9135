"""What layers read on some samples: kept, so that changes to a layer can be tried on it alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.graph.ir import Graph
from octavo.graph.model import Model
from octavo.strategy.dataset import as_dataset, feeds_of, samples_in
from octavo.strategy.layers import CONVOLUTIONS, Layer

Array = NDArray[Any]
# The samples that are run, and how many values of the input of one layer are kept.
MOST_SAMPLES = 64
MOST_VALUES = 2**18


class Gain(NamedTuple):
    """What a step gained for a layer: the ratio of signal to error of its output, in dB."""

    layer: str
    step: str
    before: float
    after: float


class Samples:
    """The inputs of layers, by the name of the value."""

    def __init__(self, graph: Graph, layers: Mapping[str, Layer], model: Model, data: Any) -> None:
        self._values: dict[str, list[Array]] = {
            layer.node.inputs[0]: [] for layer in layers.values() if layer.node.op != "Gather"
        }
        self._images = {
            layer.node.inputs[0] for layer in layers.values() if layer.node.op in CONVOLUTIONS
        }
        self._room = dict.fromkeys(self._values, MOST_VALUES)
        # As the model has them, before anything is changed.
        self._feeds_into = {value.name for value in graph.inputs}.intersection(self._values)
        for feeds in few_feeds(model, data):
            for name in self._feeds_into:
                self._take(name, np.asarray(feeds[name], np.float32))
            model.trace(feeds, self._watch)

    def _watch(self, step: Any, _inputs: list[Any], outputs: list[Any]) -> None:
        for name, value in zip(step.node.outputs, outputs, strict=True):
            if name in self._values:
                self._take(name, value)

    def _take(self, name: str, value: Array) -> None:
        """Keep what there is room for: whole images, or rows spread over all that there are."""
        room = self._room[name]
        if value.size == 0 or room <= 0:
            return
        parts = value if name in self._images else value.reshape(-1, value.shape[-1])
        size = parts[0].size
        count = min(len(parts), max(1, room // size))
        spread = np.linspace(0, len(parts) - 1, count).astype(np.intp)
        self._room[name] -= count * size
        self._values[name].append(parts[spread].astype(np.float32))

    def of(self, name: str) -> list[Array]:
        """Return what was kept of a value."""
        return self._values.get(name, [])

    def scale(self, name: str, by: Array, into: str) -> None:
        """Multiply the channels of a value, since what layers read was changed: now `into`."""
        self._values[into] = [each * by for each in self._values[name]]


def few_feeds(model: Model, data: Any) -> Iterator[dict[str, Any]]:
    """Yield inputs, batch by batch, until there are samples enough."""
    left = MOST_SAMPLES
    for x, _ in as_dataset(data, model).batches():
        yield feeds_of(model, x)
        left -= samples_in(x)
        if left <= 0:
            return


def sqnr(signal: float, error: float) -> float:
    """Return the ratio of two sums of squares in dB."""
    if error == 0:
        return float("inf") if signal else 0.0
    return float(10 * np.log10(signal / error)) if signal else float("-inf")
