"""Two models layer by layer: how far the values of one are from those of the other."""

from __future__ import annotations

import importlib
import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.array import QParams, QTensor
from octavo.graph.ir import Node
from octavo.graph.layout import images_last
from octavo.graph.model import Model
from octavo.strategy.dataset import as_dataset, feeds_of, samples_in
from octavo.strategy.layer_report import LayerReport
from octavo.strategy.progress import progress as progress_bar
from octavo.strategy.ptq import QUANTIZATION

Array = NDArray[Any]


class Comparison(LayerReport):
    """The error of each layer, in the order they run in; made by `octavo.compare`.

    `rows` have ``layer``, ``operator``, ``kernel``, ``sqnr`` (signal over error, in dB), ``lost``
    (by how many dB it is lower than that of the least exact of the layer's inputs, at least 0), ``cosine`` and
    ``max`` (the largest error).
    """

    KIND = "comparison"
    HEADS = ("layer", "operator", "kernel", "SQNR dB", "lost dB", "cosine", "max error")
    TEXTS = 3

    __slots__ = ()

    @property
    def worst(self) -> tuple[dict[str, Any], ...]:
        """The rows by the error over signal that the layer adds, most first: keep more bits there.

        Not by the dB that it loses: layers that read exact inputs lose all there are, however
        exact their outputs.
        """
        return tuple(sorted(self.rows, key=_added, reverse=True))

    def _cells(self, row: dict[str, Any]) -> tuple[str, ...]:
        return (
            row["layer"],
            row["operator"],
            row["kernel"],
            f"{row['sqnr']:.1f}",
            f"{row['lost']:.1f}",
            f"{row['cosine']:.5f}",
            f"{row['max']:.3g}",
        )

    @staticmethod
    def _row(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, **{name: float(row[name]) for name in ("sqnr", "lost", "cosine", "max")}}

    def plot(self, ax: Any = None) -> Any:
        """Draw the SQNR of each layer, and what each loses; needs matplotlib (the extra "plot")."""
        axes = ax
        if axes is None:
            try:
                pyplot = importlib.import_module("matplotlib.pyplot")
            except ImportError as error:
                raise ImportError("plots need matplotlib: pip install 'octavo[plot]'") from error
            height = max(2.5, 0.22 * len(self.rows) + 1.2)
            axes = pyplot.subplots(figsize=(8, height), layout="constrained")[1]
        finite = [row["sqnr"] for row in self.rows if math.isfinite(row["sqnr"])]
        top = max(finite, default=1.0)
        worst = {row["layer"] for row in self.worst[:3] if row["lost"] > 0}
        places = range(len(self.rows))
        axes.barh(
            places,
            [min(row["sqnr"], top) for row in self.rows],
            color=["#c44e52" if row["layer"] in worst else "#4c72b0" for row in self.rows],
        )
        axes.set_yticks(places, [row["layer"] for row in self.rows], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("signal over error of the output, dB (red: the layers that add most error)")
        axes.margins(y=0.01)
        return axes


def _added(row: dict[str, Any]) -> float:
    """Return the error over signal of a layer's output, less what came in with its inputs."""
    if row["lost"] == 0:
        return 0.0
    return float(10 ** (-row["sqnr"] / 10) * (1 - 10 ** (-row["lost"] / 10)))


class _Sums:
    """Sums over the values of a layer."""

    def __init__(self, node: Node, kernel: str) -> None:
        self.node = node
        self.kernel = kernel
        self.signal = self.error = self.dot = self.own = self.most = 0.0

    def add(self, expected: Array, got: Array) -> None:
        if expected.size != got.size:
            raise ValueError(
                f"layer {self.node.name!r} makes {expected.shape} in one model and {got.shape} in "
                "the other, expected two forms of one model"
            )
        a, b = (each.astype(np.float64).reshape(-1) for each in (expected, got))
        off = b - a
        self.signal += float(a @ a)
        self.error += float(off @ off)
        self.dot += float(a @ b)
        self.own += float(b @ b)
        self.most = max(self.most, float(np.abs(off).max(initial=0.0)))

    @property
    def ratio(self) -> float:
        """Error over signal, in squares."""
        return self.error / self.signal if self.signal else 0.0

    def row(self, noise: float) -> dict[str, Any]:
        """Return the figures; `noise` is the ratio of error to signal of the inputs."""
        ratio = self.ratio
        length = math.sqrt(self.signal * self.own)
        lost = 0.0
        if ratio:
            lost = max(_decibel(ratio) - _decibel(noise), 0.0) if noise else math.inf
        return {
            "layer": self.node.name,
            "operator": self.node.op.removeprefix("octavo."),
            "kernel": self.kernel,
            "sqnr": _decibel(1 / ratio) if ratio else math.inf,
            "lost": lost,
            "cosine": self.dot / length if length else 1.0,
            "max": self.most,
        }


def _decibel(ratio: float) -> float:
    return 10 * math.log10(ratio)


def compare(model: Model, other: Model, data: Any, *, progress: Any = "auto") -> Comparison:
    """Return the error of each layer of a model against another, float32 for the first as a rule.

    Both run side by side, batch by batch: layers are compared by the values that they make, which
    keep their names through passes, `octavo.quantize_model` and files.

    Parameters
    ----------
    model, other : Model
        `other` is what `octavo.quantize_model` has made of `model`, or another form of it.
    data : Dataset, or what `octavo.Dataset` takes
    progress : "auto", None or callable, default "auto"

    Returns
    -------
    Comparison
        Of the layers whose values both models have.

    Raises
    ------
    ValueError
        Models that have no value in common; data that do not fit them.

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> from octavo.graph import Graph, Model, Node, Value
    >>> w = np.array([[0.5, -1.0], [0.25, 2.0]], np.float32)
    >>> x, y = Value("x", "float32", ("n", 2)), Value("y", "float32", ("n", 2))
    >>> node = Node("product", "MatMul", ["x", "w"], ["y"], version=13)
    >>> model = Model(Graph("net", [x], [y], [node], {"w": w}, {}))
    >>> result = oc.compare(model, oc.quantize_model(model), np.ones((4, 2), np.float32))
    >>> [(row["layer"], row["kernel"]) for row in result.rows]
    [('product', 'linear int8')]
    """
    scaled = json.loads(other.graph.metadata.get(QUANTIZATION, "{}")).get("scaled", ())
    known = {name for node in model.graph.nodes for name in node.outputs if name} - {*scaled}
    sums: dict[str, _Sums] = {}
    real = _real_values(other)
    for layer, node in zip(other.layers, other.graph.nodes, strict=True):
        name = real.get(node.outputs[0], node.outputs[0])
        if name in known and node.op not in _NO_LAYERS:
            sums[name] = _Sums(node, layer.kernel)
    if not sums:
        raise ValueError("the models have no value in common; expected two forms of one model")
    dataset = as_dataset(data, model)
    with progress_bar("compare", _count(dataset), progress) as step:
        for x, _ in dataset.batches():
            feeds = feeds_of(model, x)
            expected: dict[str, Array] = {}
            model.trace(feeds, _keep(expected, sums, images_last(model.graph)))
            other.trace(feeds, _add(expected, sums, real, images_last(other.graph)))
            step(samples_in(x))
    return Comparison(_rows(other, sums, real))


_NO_LAYERS = ("QuantizeLinear", "DequantizeLinear")


def _real_values(model: Model) -> dict[str, str]:
    """Return the value that each value of codes stands for."""
    return {
        node.outputs[0]: node.attributes["real"]
        for node in model.graph.nodes
        if "real" in node.attributes
    }


def _keep(expected: dict[str, Array], wanted: dict[str, _Sums], last: set[str]) -> Any:
    def watch(step: Any, _inputs: list[Any], outputs: list[Any]) -> None:
        for name, value in zip(step.node.outputs, outputs, strict=True):
            if name in wanted:
                expected[name] = _plain(step.node, value, name in last)

    return watch


def _add(
    expected: dict[str, Array], sums: dict[str, _Sums], real: dict[str, str], last: set[str]
) -> Any:
    def watch(step: Any, _inputs: list[Any], outputs: list[Any]) -> None:
        made = step.node.outputs[0]
        name = real.get(made, made)
        # What follows from shapes alone is not shown again.
        if name in sums and sums[name].node.name == step.node.name and name in expected:
            sums[name].add(expected.pop(name), _plain(step.node, outputs[0], made in last))

    return watch


def _plain(node: Node, value: Any, is_last: bool) -> Array:
    """Return a value in float32, with channels where ONNX has them; `is_last`: they come last."""
    qparams: QParams | None = node.attributes.get("sum_qparams") or node.attributes.get(
        "out_qparams"
    )
    array: Array = value
    if qparams is not None and value.dtype == np.dtype(qparams.dtype):
        array = QTensor(value, qparams.scale, qparams.zero_point, dtype=qparams.dtype).dequantize()
    return np.moveaxis(array, -1, 1) if is_last else array


def _rows(model: Model, sums: dict[str, _Sums], real: dict[str, str]) -> list[dict[str, Any]]:
    """Return the figures of each layer; noise comes in with its inputs."""
    rows: list[dict[str, Any]] = []
    noise: dict[str, float] = {}
    for node in model.graph.nodes:
        coming = max((noise.get(name, 0.0) for name in node.reads), default=0.0)
        made = node.outputs[0]
        found = sums.get(real.get(made, made))
        if found is not None and found.node is node:
            rows.append(found.row(coming))
            coming = found.ratio
        noise |= dict.fromkeys(node.outputs, coming)
    return rows


def _count(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:
        return None
