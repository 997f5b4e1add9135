"""The digits network in float32 and in int8."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

import octavo as oc

Floats = NDArray[np.float32]
Network = list[oc.Linear]

PIXEL_MAX = np.float32(16)


@dataclass(frozen=True)
class Digits:
    """A trained 64-256-128-10 network and its images.

    Attributes
    ----------
    layers : tuple of (w, b)
        float32 weights (out, in) and biases (out,); ReLU follows every layer but the last.
    calibration : ndarray (100, 64), float32 in [0, 1]
        Training images, to choose activation ranges by.
    images : ndarray (797, 64), float32 in [0, 1]
        Held-out images: neither training nor calibration saw them.
    labels : ndarray (797,), uint8
        The digits that `images` show.
    """

    layers: tuple[tuple[Floats, Floats], ...]
    calibration: Floats
    images: Floats
    labels: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Bytes of the float32 weights and biases."""
        return sum(w.nbytes + b.nbytes for w, b in self.layers)


def load_digits() -> Digits:
    """Read the shipped network and images."""
    with files("octavo.demo").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        count = sum(name.startswith("w") for name in arrays)
        return Digits(
            layers=tuple((arrays[f"w{i}"], arrays[f"b{i}"]) for i in range(count)),
            calibration=arrays["calibration"].astype(np.float32) / PIXEL_MAX,
            images=arrays["images"].astype(np.float32) / PIXEL_MAX,
            labels=arrays["labels"],
        )


def forward_float(digits: Digits, x: Floats) -> list[Floats]:
    """Run the network in float32 with NumPy; return each layer's output, the logits last."""
    outputs: list[Floats] = []
    for index, (w, b) in enumerate(digits.layers):
        x = x @ w.T
        x += b
        if index < len(digits.layers) - 1:
            np.maximum(x, 0, out=x)
        outputs.append(x)
    return outputs


def quantize_network(digits: Digits) -> Network:
    """Calibrate on the calibration images and return the network in int8.

    Weights are symmetric int8 per output channel. Activations are uint8 with the range seen in
    float32, so that codes stay 8-bit from the first layer's input to the last one's; logits are
    float32.
    """
    outputs = forward_float(digits, digits.calibration)
    ranges = [oc.quantize(x, "uint8").qparams for x in (digits.calibration, *outputs[:-1])]
    last = len(digits.layers) - 1
    return [
        oc.Linear.from_float(
            w,
            b,
            x_qparams=ranges[index],
            out_qparams=ranges[index + 1] if index < last else None,
            activation="relu" if index < last else None,
        )
        for index, (w, b) in enumerate(digits.layers)
    ]


def forward_int8(network: Network, x: Floats) -> Floats:
    """Run the network in int8: float32 images in, float32 logits out, 8-bit codes between."""
    y: Floats | oc.QTensor = x
    for layer in network:
        y = layer(y)
    assert isinstance(y, np.ndarray)  # the last layer has no out_qparams
    return y
