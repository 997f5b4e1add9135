"""Train the digits network that `octavo demo` runs, and write it with its data.

    python bench/train_digits.py [--check]        # needs scikit-learn, for the images alone

The network is three Linear layers, 64-256-128-10, with ReLU between them, trained in NumPy (Adam,
cross-entropy) on slightly moved and turned copies of 1,000 of the UCI handwritten digits, drawn at
random; the other 797 are held out and never looked at while training. Seeds are fixed, so the same
NumPy on the same CPU writes the same file; another BLAS rounds differently and may end an image away.
"""

from __future__ import annotations

import argparse
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Layers = list[tuple[Floats, Floats]]  # (w (out, in), b (out,)), as oc.Linear takes them

TARGET = Path(__file__).resolve().parents[1] / "python" / "octavo" / "demo" / "digits.npz"
WIDTHS = (64, 256, 128, 10)
TRAIN_IMAGES = 1000
CALIBRATION_IMAGES = 100
EPOCHS = 400
BATCH = 50
PIXEL_MAX = 16  # the images hold counts of 0 to 16 set pixels in blocks of 4x4


def load_images() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return all images, (1797, 64) in [0, 16], and their digits, in one fixed random order."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.data))
    return digits.data[order].astype(np.uint8), digits.target[order].astype(np.uint8)


def move(images: Floats, rng: np.random.Generator) -> Floats:
    """Turn, stretch and shift each 8x8 image a little at random (bilinear, zero outside)."""
    count = len(images)
    turn = rng.uniform(-0.3, 0.3, count)  # radians
    stretch = rng.uniform(0.8, 1.2, (2, count))
    shift = rng.uniform(-0.6, 0.6, (2, count))  # pixels
    rows, columns = np.arange(64) // 8 - 3.5, np.arange(64) % 8 - 3.5
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    y = (cos * rows - sin * columns) * stretch[0, :, None] + shift[0, :, None] + 3.5
    x = (sin * rows + cos * columns) * stretch[1, :, None] + shift[1, :, None] + 3.5
    # A border of two zeros on each side makes every neighbour that counts exist.
    padded = np.pad(images.reshape(count, 8, 8), ((0, 0), (2, 2), (2, 2)))
    y, x = np.clip(y + 2, 0, 10.999), np.clip(x + 2, 0, 10.999)
    top, left = y.astype(np.intp), x.astype(np.intp)
    down, right = y - top, x - left
    image = np.arange(count)[:, None]
    return np.asarray(
        (1 - down) * (1 - right) * padded[image, top, left]
        + (1 - down) * right * padded[image, top, left + 1]
        + down * (1 - right) * padded[image, top + 1, left]
        + down * right * padded[image, top + 1, left + 1],
        np.float32,
    )


def forward(layers: Layers, x: Floats) -> list[Floats]:
    """Return the input of every layer and, last, the logits."""
    values = [x]
    for index, (w, b) in enumerate(layers):
        y = values[-1] @ w.T + b
        values.append(np.maximum(y, 0) if index < len(layers) - 1 else y)
    return values


def gradients(layers: Layers, x: Floats, labels: NDArray[np.uint8]) -> list[Floats]:
    """Return the gradient of the mean cross-entropy for every w and b, in the order of `layers`."""
    *inputs, logits = forward(layers, x)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    error = exponentials / exponentials.sum(axis=1, keepdims=True)
    error[np.arange(len(x)), labels] -= 1
    error /= len(x)
    result: list[Floats] = []
    for index in reversed(range(len(layers))):
        result = [error.T @ inputs[index], error.sum(axis=0), *result]
        error = (error @ layers[index][0]) * (inputs[index] > 0)
    return result


def train(x: Floats, labels: NDArray[np.uint8], seed: int = 0) -> Layers:
    """Train on `x` (N, 64) in [0, 1] with Adam (Kingma and Ba 2015, algorithm 1), weights decayed."""
    rng = np.random.default_rng(seed)
    layers: Layers = []
    for fan_in, fan_out in pairwise(WIDTHS):
        w = rng.normal(0, np.sqrt(2 / fan_in), (fan_out, fan_in)).astype(np.float32)
        layers.append((w, np.zeros(fan_out, np.float32)))
    parameters = [array for layer in layers for array in layer]
    mean = [np.zeros_like(p) for p in parameters]
    square = [np.zeros_like(p) for p in parameters]
    steps = EPOCHS * (len(x) // BATCH)
    step = 0
    for _ in range(EPOCHS):
        moved, order = move(x, rng), rng.permutation(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            step += 1
            rate = np.float32(2e-3 * 0.5 * (1 + np.cos(np.pi * step / steps)))
            found = gradients(layers, moved[batch], labels[batch])
            for p, g, m, s in zip(parameters, found, mean, square, strict=True):
                m += np.float32(0.1) * (g - m)
                s += np.float32(0.001) * (g * g - s)
                unbiased = m / np.float32(1 - 0.9**step)
                deviation = np.sqrt(s / np.float32(1 - 0.999**step))
                p -= rate * (unbiased / (deviation + np.float32(1e-8)) + np.float32(1e-3) * p)
    return layers


def main() -> int:
    """Train, print the held-out accuracy, write the file."""
    parser = argparse.ArgumentParser(description="train the network of `octavo demo`")
    parser.add_argument("--check", action="store_true", help="train and score, write nothing")
    options = parser.parse_args()

    images, labels = load_images()
    x = images.astype(np.float32) / np.float32(PIXEL_MAX)
    layers = train(x[:TRAIN_IMAGES], labels[:TRAIN_IMAGES])
    predicted = forward(layers, x[TRAIN_IMAGES:])[-1].argmax(axis=1)
    correct = int((predicted == labels[TRAIN_IMAGES:]).sum())
    held_out = len(images) - TRAIN_IMAGES
    print(f"{correct} of {held_out} held-out images right ({correct / held_out:.2%})")
    if options.check:
        return 0

    arrays: dict[str, NDArray[np.uint8] | Floats] = {
        "calibration": images[:CALIBRATION_IMAGES],
        "images": images[TRAIN_IMAGES:],
        "labels": labels[TRAIN_IMAGES:],
    }
    for index, (w, b) in enumerate(layers):
        arrays |= {f"w{index}": w, f"b{index}": b}
    np.savez_compressed(TARGET, **arrays)  # type: ignore[arg-type]
    print(f"{TARGET}: {TARGET.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
