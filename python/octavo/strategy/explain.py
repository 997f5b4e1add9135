"""What quantization did to a model, layer by layer, and why."""

from __future__ import annotations

import json
from typing import Any

from octavo.graph.model import Model
from octavo.strategy.layer_report import LayerReport
from octavo.strategy.ptq import QUANTIZATION


class Explanation(LayerReport):
    """What each layer computes in, and why; made by `octavo.explain`.

    `rows` have ``layer``, ``operator``, ``precision``, ``reason`` (why it is not the precision asked
    for) and ``gains``: the ratio of signal to error of the layer's output in dB, on the data, before
    and after each step that changed the layer.
    """

    KIND = "explanation"
    HEADS = ("layer", "operator", "precision", "why, and what was done")
    TEXTS = 4

    __slots__ = ()

    def _cells(self, row: dict[str, Any]) -> tuple[str, ...]:
        said = [row["reason"]] if row["reason"] else []
        said += [
            f"{gain['step']}: {gain['before']:.1f} to {gain['after']:.1f} dB"
            for gain in row["gains"]
        ]
        return row["layer"], row["operator"], row["precision"], "; ".join(said)


def explain(model: Model) -> Explanation:
    """Return what each layer of a model computes in, and why.

    Parameters
    ----------
    model : Model
        Of `octavo.quantize_model`, or loaded from a file that it was saved to. Any other model: the
        kernels of its layers.

    Returns
    -------
    Explanation

    Examples
    --------
    >>> import numpy as np, octavo as oc
    >>> from octavo.graph import Graph, Model, Node, Value
    >>> w = np.array([[0.5, -1.0], [0.25, 2.0]], np.float32)
    >>> x, y = Value("x", "float32", ("n", 2)), Value("y", "float32", ("n", 2))
    >>> nodes = [
    ...     Node("product", "MatMul", ["x", "w"], ["z"], version=13),
    ...     Node("soft", "Softmax", ["z"], ["y"], version=13),
    ... ]
    >>> model = Model(Graph("net", [x], [y], nodes, {"w": w}, {}))
    >>> print(oc.explain(oc.quantize_model(model)))
    layer    operator  precision  why, and what was done
    product  MatMul    int8
    soft     Softmax   float32    Softmax has no integer form
    1 of 2 layers in fewer bits; weights 16 bytes
    """
    layers = {layer.name: layer for layer in model.layers}
    held = json.loads(model.graph.metadata.get(QUANTIZATION, "{}"))
    gains: dict[str, list[dict[str, Any]]] = {}
    for gain in held.get("gains", ()):
        gains.setdefault(gain["layer"], []).append(gain)
    rows = [{**each, "gains": gains.get(each["layer"], [])} for each in held.get("layers", ())] or [
        {
            "layer": layer.name,
            "operator": layer.operator.removeprefix("octavo."),
            "precision": _precision(layer.kernel),
            "reason": "",
            "gains": [],
        }
        for layer in layers.values()
    ]
    fewer = sum(row["precision"] != "float32" for row in rows)
    size = sum(layer.nbytes for layer in layers.values())
    note = f"{fewer} of {len(rows)} layers in fewer bits; weights {size:,} bytes"
    return Explanation(rows, note)


def _precision(kernel: str) -> str:
    """Return the precision that the name of a kernel ends in."""
    last = kernel.split(" ")[-1]
    known = ("int", "uint", "float")
    return last if last.startswith(known) else "float32"
