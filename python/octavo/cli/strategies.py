"""`octavo demo --strategies`: what ways of quantizing the digits networks cost and give."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import octavo as oc
from octavo import demo
from octavo.cli import inspect, terminal, timing
from octavo.demo.digits_conv import POOLED
from octavo.graph import Graph, Model, Node, Value
from octavo.graph.optimize import optimize
from octavo.strategy.samples import sqnr

Floats = NDArray[np.float32]
FLOAT32 = "float32"
NAIVE = "int8, naive"
CALIBRATED = "int8, calibrated"
INT4 = "int4 weights"
MEANINGS = {
    FLOAT32: "the network as it was trained, in octavo's float32 kernels",
    NAIVE: "one symmetric scale for each tensor, by the largest value: minmax",
    CALIBRATED: "octavo.quantize_model with 100 images: a scale for each output, ranges by error",
    INT4: 'the same with precision="int4/32": in linear layers a scale for 32 weights',
}


class Outcome(NamedTuple):
    """A network quantized in one way, over the held-out images.

    `sqnr` is the power of float32's logits over that of the difference, in dB.
    """

    layers: str
    strategy: str
    accuracy: float
    sqnr: float
    nbytes: int
    seconds_all_images: float
    seconds_one_image: float


def measure(options: argparse.Namespace, linear: str, convolutions: str) -> list[Outcome]:
    """Quantize both networks in each way, score and time them; their names go into the rows."""
    digits, conv = demo.load_digits(), demo.load_conv_digits()
    models = {linear: linear_model(digits), convolutions: conv_model(conv)}
    return [row for name, each in models.items() for row in _measure(options, name, each, digits)]


def _measure(
    options: argparse.Namespace, layers: str, model: Model, digits: demo.Digits
) -> list[Outcome]:
    terminal.progress(options, f"quantizing: {layers}")
    shape = [size for size in model.inputs[0].shape or () if isinstance(size, int)]
    calibration, images = (x.reshape(-1, *shape) for x in (digits.calibration, digits.images))
    models = quantized(model, calibration)
    logits = {name: each(images) for name, each in models.items()}
    terminal.progress(options, f"timing: {layers}")
    every, one = (
        timing.seconds_per_call(
            {name: partial(each, x) for name, each in models.items()}, options.seconds
        )
        for x in (images, images[:1])
    )
    expected = logits[FLOAT32]
    return [
        Outcome(
            layers=layers,
            strategy=name,
            accuracy=float((logits[name].argmax(axis=1) == digits.labels).mean()),
            sqnr=sqnr(_power(expected), _power(logits[name] - expected)),
            nbytes=each.nbytes,
            seconds_all_images=every[name],
            seconds_one_image=one[name],
        )
        for name, each in models.items()
    ]


def _power(x: Floats) -> float:
    return float(np.square(x, dtype=np.float64).sum())


# --- the networks as graphs -----------------------------------------------------------------------


def linear_model(digits: demo.Digits) -> Model:
    """Return the network of linear layers as a model: images (N, 64) to logits (N, 10)."""
    return _model([("Gemm", w, b) for w, b in digits.layers], (64,))


def conv_model(conv: demo.ConvDigits) -> Model:
    """Return the convolutional network as a model: images (N, 1, 8, 8) to logits (N, 10)."""
    layers = [("Conv", w, b) for w, b in conv.convolutions]
    return _model([*layers, ("Gemm", *conv.linear)], (1, 8, 8))


def _model(layers: Sequence[tuple[str, Floats, Floats]], shape: tuple[int, ...]) -> Model:
    x = Value("x", "float32", ("n", *shape))
    values, nodes = [x], list[Node]()
    constants: dict[str, NDArray[np.float32] | oc.QTensor] = {}

    def add(op: str, shape: tuple[int, ...], *rest: str, **attributes: object) -> None:
        made = Value(f"y{len(nodes)}", "float32", ("n", *shape))
        inputs = [values[-1].name, *rest]
        nodes.append(Node(f"{op}_{len(nodes)}", op, inputs, [made.name], attributes, 13))
        values.append(made)

    for index, (op, w, b) in enumerate(layers):
        names = f"w{index}", f"b{index}"
        constants |= zip(names, (w, b), strict=True)
        if op == "Conv":
            kernel, group = w.shape[2:], shape[0] // w.shape[1]
            shape = (len(w), *shape[1:])
            pads = (kernel[0] // 2,) * 4
            add("Conv", shape, *names, kernel_shape=kernel, pads=pads, group=group)
        else:
            if len(shape) > 1:  # the weights are those of channels that lie last
                add("Transpose", (*shape[1:], shape[0]), perm=(0, 2, 3, 1))
                add("Flatten", (w.shape[1],), axis=1)
            shape = (len(w),)
            add("Gemm", shape, *names, transB=1)
        if index < len(layers) - 1:
            add("Relu", shape)
        if op == "Conv" and index == POOLED:
            shape = (shape[0], *(size // 2 for size in shape[1:]))
            add("MaxPool", shape, kernel_shape=(2, 2), strides=(2, 2))
    known = {value.name: value for value in values}
    return Model(Graph("digits", [x], [values[-1]], nodes, dict(constants), known))


# --- ways to quantize -----------------------------------------------------------------------------


def quantized(model: Model, calibration: Floats) -> dict[str, Model]:
    """Return the model as it is, and quantized in each way."""
    whole = optimized(model.graph.copy())
    return {
        FLOAT32: whole,
        NAIVE: naive(model, calibration),
        CALIBRATED: oc.quantize_model(whole, calibration, progress=None),
        INT4: oc.quantize_model(whole, calibration, "int4/32", progress=None),
    }


def optimized(graph: Graph) -> Model:
    """Return a model of a graph after all passes, as `octavo.load` does."""
    optimize(graph)
    return Model(graph)


def naive(model: Model, calibration: Floats) -> Model:
    """Quantize in the plainest way: one symmetric int8 scale a tensor, by its largest value."""
    graph = model.graph.copy()
    stats = oc.calibrate(model, calibration, method="minmax", progress=None)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op != "Relu":  # which becomes part of the layer before it
            x = graph.value(node.inputs[0])
            scale, zero, codes, real = (f"{x.name}.{what}" for what in ("s", "z", "codes", "real"))
            qparams = stats.qparams(x.name, "int8", symmetric=True)
            graph.constants |= {scale: qparams.scale, zero: qparams.zero_point.astype(np.int8)}
            graph.values |= {codes: Value(codes, "int8", x.shape), real: x._replace(name=real)}
            nodes += [
                Node(f"{x.name}.q", "QuantizeLinear", [x.name, scale, zero], [codes], {}, 13),
                Node(f"{x.name}.dq", "DequantizeLinear", [codes, scale, zero], [real], {}, 13),
            ]
            node.inputs[0] = real
        for name in node.inputs[1:2]:  # the weights
            graph.constants[name] = oc.quantize(graph.constants[name], "int8")
        nodes.append(node)
    graph.nodes = nodes
    return optimized(graph)


# --- the screen -----------------------------------------------------------------------------------


def show(outcomes: Sequence[Outcome]) -> None:
    """Print a table of each network, and what the ways are."""
    for layers in dict.fromkeys(each.layers for each in outcomes):
        terminal.print_text()
        terminal.print_text(layers)
        terminal.print_table(
            ("", "accuracy", "SQNR", "size", "all images", "one image"),
            [
                (
                    each.strategy,
                    f"{each.accuracy:.2%}",
                    f"{each.sqnr:.1f} dB" if np.isfinite(each.sqnr) else "-",
                    inspect.size(each.nbytes),
                    terminal.duration(each.seconds_all_images),
                    terminal.duration(each.seconds_one_image),
                )
                for each in outcomes
                if each.layers == layers
            ],
        )
    terminal.print_text()
    for name, meaning in MEANINGS.items():
        terminal.print_text(f"{name:17} {meaning}")
    terminal.print_text(
        "\nAccuracy and SQNR (power of float32's outputs over that of the difference) are of held-out "
        "images,\nnone of them among those of calibration; times are medians of interleaved runs, "
        "measured now."
    )
