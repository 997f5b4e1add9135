"""Train the convolutional network that `octavo demo` runs, and write its weights.

    python bench/train_digits_conv.py [--check]        # needs torch, and scikit-learn for the images

The images, their split and the way they are moved about while training are those of
train_digits.py. The network, on 8x8 images: 3x3 convolutions to 32 and 64 channels, 2x2 maximum
pooling, a 3x3 depthwise and a 1x1 convolution, Linear to 10; ReLU after each convolution. Seeds are
fixed and one thread computes, so the same torch on the same CPU writes the same file; others round
differently and may end an image away.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from train_digits import PIXEL_MAX, TRAIN_IMAGES, load_images, move

TARGET = Path(__file__).resolve().parents[1] / "python" / "octavo" / "demo" / "digits_conv.npz"
EPOCHS = 160
BATCH = 50


def make_network() -> nn.Sequential:
    """The layers, with weights drawn anew."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1, groups=64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, 10),
    )


def train(x: NDArray[np.float32], labels: NDArray[np.uint8], seed: int = 0) -> nn.Sequential:
    """Train on `x` (N, 64) in [0, 1] with AdamW (Loshchilov and Hutter 2019), the rate a cosine."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network, targets = make_network(), torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(EPOCHS):
        moved = torch.from_numpy(move(x, rng).reshape(-1, 1, 8, 8))
        order = rng.permutation(len(x))
        for start in range(0, len(x) - BATCH + 1, BATCH):
            batch = torch.from_numpy(order[start : start + BATCH])
            loss = nn.functional.cross_entropy(network(moved[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network


def main() -> int:
    """Train, print the held-out accuracy, write the file."""
    parser = argparse.ArgumentParser(description="train the convolutions of `octavo demo`")
    parser.add_argument("--check", action="store_true", help="train and score, write nothing")
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    images, labels = load_images()
    x = images.astype(np.float32) / np.float32(PIXEL_MAX)
    network = train(x[:TRAIN_IMAGES], labels[:TRAIN_IMAGES])
    with torch.inference_mode():
        logits = network(torch.from_numpy(x[TRAIN_IMAGES:].reshape(-1, 1, 8, 8)))
    correct = int((logits.argmax(dim=1).numpy() == labels[TRAIN_IMAGES:]).sum())
    held_out = len(images) - TRAIN_IMAGES
    print(f"{correct} of {held_out} held-out images right ({correct / held_out:.2%})")
    if options.check:
        return 0

    arrays: dict[str, NDArray[np.float32]] = {}
    layers = [layer for layer in network if isinstance(layer, nn.Conv2d | nn.Linear)]
    for index, layer in enumerate(layers):
        w = layer.weight.detach().numpy()
        if isinstance(layer, nn.Linear):  # its inputs in the order of images with channels last
            w = w.reshape(10, 64, 4, 4).transpose(0, 2, 3, 1).reshape(10, -1)
        assert layer.bias is not None
        arrays |= {f"w{index}": w, f"b{index}": layer.bias.detach().numpy()}
    np.savez_compressed(TARGET, **arrays)  # type: ignore[arg-type]
    print(f"{TARGET}: {TARGET.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
