"""The convolutional digits network in float32 and in int8."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import octavo as oc
from octavo.demo.digits import Digits, Floats, load_digits

POOLED = 1  # maximum pooling follows the convolution of this index
BATCH = 64  # NumPy's patches of so many images stay in a cache: 1.6 times as fast as all at once


@dataclass(frozen=True)
class ConvDigits:
    """A trained convolutional network and the images of `Digits`.

    Attributes
    ----------
    convolutions : tuple of (w, b)
        float32 weights (out, in / groups, height, width) and biases (out,): 3x3 to 32 channels, 3x3
        to 64, 3x3 depthwise, 1x1. ReLU follows each, 2x2 maximum pooling the second.
    linear : tuple (w, b)
        float32 weights (10, 1024) of the 4x4x64 values that are left, and biases.
    digits : Digits
        The images; `image` gives them their two dimensions.
    """

    convolutions: tuple[tuple[Floats, Floats], ...]
    linear: tuple[Floats, Floats]
    digits: Digits

    @property
    def nbytes(self) -> int:
        """Bytes of the float32 weights and biases."""
        return sum(w.nbytes + b.nbytes for w, b in (*self.convolutions, self.linear))

    @cached_property
    def channels_last(self) -> tuple[Floats, ...]:
        """The convolutions' weights as (height, width, in / groups, out), for NumPy."""
        return tuple(np.ascontiguousarray(w.transpose(2, 3, 1, 0)) for w, _ in self.convolutions)


@dataclass(frozen=True)
class ConvNetwork:
    """The network in int8: its operators in order, images (N, 8, 8, 1) to logits (N, 10)."""

    convolutions: tuple[oc.Conv2d, ...]
    linear: oc.Linear

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return sum(layer.nbytes for layer in self.convolutions) + self.linear.nbytes


def load_conv_digits() -> ConvDigits:
    """Read the shipped network and images."""
    path = files("octavo.demo").joinpath("digits_conv.npz")
    with path.open("rb") as file, np.load(file) as arrays:
        count = sum(name.startswith("w") for name in arrays)
        *convolutions, linear = ((arrays[f"w{i}"], arrays[f"b{i}"]) for i in range(count))
    return ConvDigits(tuple(convolutions), linear, load_digits())


def image(x: Floats) -> Floats:
    """Give images (N, 64) their two dimensions and a channel: (N, 8, 8, 1)."""
    return x.reshape(-1, 8, 8, 1)


def convolve_float(x: Floats, w: Floats, b: Floats) -> Floats:
    """Convolve x (N, H, W, C) with w (kh, kw, C / groups, O), padded to keep its size; clip at 0.

    NumPy has no convolution. A dense one lays the patches side by side and multiplies them by the
    weights, one product in the BLAS; a depthwise one adds up the shifted images, each times its
    weight.
    """
    n, height, width, channels = x.shape
    kh, kw, in_channels, out = w.shape
    top, left = kh // 2, kw // 2
    padded = np.zeros((n, height + kh - 1, width + kw - 1, channels), np.float32)
    padded[:, top : top + height, left : left + width] = x
    if in_channels < channels:
        y = np.zeros_like(x)
        for i in range(kh):
            for j in range(kw):
                y += padded[:, i : i + height, j : j + width] * w[i, j, 0]
    else:
        patches = sliding_window_view(padded, (kh, kw), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
        y = (patches.reshape(-1, w[..., 0].size) @ w.reshape(-1, out)).reshape(
            n, height, width, out
        )
    y += b
    return np.maximum(y, 0, out=y)


def conv_outputs(network: ConvDigits, x: Floats) -> list[Floats]:
    """Run the network in float32 with NumPy; return each layer's output, the logits last."""
    outputs: list[Floats] = []
    for index, (w, (_, b)) in enumerate(
        zip(network.channels_last, network.convolutions, strict=True)
    ):
        x = convolve_float(x, w, b)
        outputs.append(x)
        if index == POOLED:
            n, height, width, channels = x.shape
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
    w, b = network.linear
    outputs.append(x.reshape(len(x), -1) @ w.T + b)
    return outputs


def forward_conv_float(network: ConvDigits, x: Floats) -> Floats:
    """Run the network in float32 with NumPy, `BATCH` images at a time; return the logits."""
    batches = (x[start : start + BATCH] for start in range(0, len(x), BATCH))
    return np.concatenate([conv_outputs(network, batch)[-1] for batch in batches])


def activation_range(values: Floats) -> oc.QParams:
    """Return the uint8 parameters that hold the values."""
    qparams = oc.quantize(values, "uint8").qparams
    assert qparams is not None  # there are no groups
    return qparams


def quantize_conv_network(network: ConvDigits) -> ConvNetwork:
    """Calibrate on the calibration images and return the network in int8.

    Weights are symmetric int8 for each output channel. Activations are uint8 with the range seen in
    float32; the image's range is that of its pixels. Logits are float32.
    """
    x = image(network.digits.calibration)
    *values, _ = (x, *conv_outputs(network, x))
    ranges = [activation_range(value) for value in values]
    convolutions = tuple(
        oc.Conv2d.from_float(
            w,
            b,
            padding="same",
            groups=values[index].shape[3] // w.shape[1],
            layout="NHWC",
            x_qparams=ranges[index],
            out_qparams=ranges[index + 1],
            activation="relu",
        )
        for index, (w, b) in enumerate(network.convolutions)
    )
    w, b = network.linear
    return ConvNetwork(convolutions, oc.Linear.from_float(w, b, x_qparams=ranges[-1]))


def forward_conv_int8(network: ConvNetwork, x: Floats) -> Floats:
    """Run the network in int8: float32 images in, float32 logits out, 8-bit codes between."""
    y: Floats | oc.QTensor = x
    for index, convolution in enumerate(network.convolutions):
        y = convolution(y)
        if index == POOLED:
            assert isinstance(y, oc.QTensor)  # out_qparams say so
            y = oc.nn.max_pool2d(y, 2, layout="NHWC")
    assert isinstance(y, oc.QTensor)
    logits = network.linear(y.codes().reshape(len(x), -1))
    assert isinstance(logits, np.ndarray)  # there are no out_qparams
    return logits
