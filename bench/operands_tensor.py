"""Operands of the operators between convolutions, and the exact answers to them (rule 8)."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from operands import Array, quantize
from shapes import LIGHT, TensorOp

# (scale, zero point) of the operands and of a result that is quantized anew
Quantization = tuple[np.float32, int]
A: Quantization = (np.float32(0.02), 128)
B: Quantization = (np.float32(0.03), 110)
SUM: Quantization = (np.float32(0.04), 120)
PRODUCT: Quantization = (np.float32(0.06), 120)
ALPHA = 0.1  # of leaky_relu
BEYOND_CACHE = 2**21  # bytes: no core's level 2 cache holds them
ACTIVATIONS: dict[str, Quantization] = {
    "sigmoid": (np.float32(1 / 256), 0),
    "hard_swish": (np.float32(0.012), 31),
    "leaky_relu": (np.float32(0.012), 22),
}


def windows(x: Array, kernel: int, stride: int, padding: int, fill: int) -> Array:
    """Views (kernel * kernel, h, w, C) of x (H, W, C), one for each tap."""
    padded = np.pad(x, ((padding, padding), (padding, padding), (0, 0)), constant_values=fill)
    height, width = ((n + 2 * padding - kernel) // stride + 1 for n in (x.shape[0], x.shape[1]))
    return np.stack(
        [
            padded[i : i + (height - 1) * stride + 1 : stride, j:][
                :, : (width - 1) * stride + 1 : stride
            ]
            for i in range(kernel)
            for j in range(kernel)
        ]
    )


def activate(kind: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    if kind == "sigmoid":
        return 1 / (1 + np.exp(-x))
    if kind == "hard_swish":
        return x * np.clip(x / 6 + 0.5, 0, 1)
    return np.where(x < 0, ALPHA * x, x)


class TensorOperands:
    """a and b, (1, H, W, C) uint8; b is (1, 1, 1, C) where it scales channels."""

    def __init__(self, op: TensorOp) -> None:
        self.op = op
        rng = np.random.default_rng(op.image)
        self.a = rng.integers(0, 256, (1, *op.image), dtype=np.uint8)
        b_shape = (1, 1, 1, op.image[2]) if op.kind == "scale_channels" else self.a.shape
        self.b = rng.integers(0, 256, b_shape, dtype=np.uint8)

    @property
    def name(self) -> str:
        return self.op.name

    @property
    def result(self) -> Quantization:
        """How the result is quantized. Pooling and resizing keep their input's way, as torch must."""
        if self.op.kind in ACTIVATIONS:
            return ACTIVATIONS[self.op.kind]
        return {
            "add": SUM,
            "multiply": PRODUCT,
            "scale_channels": PRODUCT,
            "concat_rescaled": SUM,
        }.get(self.op.kind, A)

    @property
    def two(self) -> bool:
        return self.op.kind in ("add", "multiply", "scale_channels", "concat", "concat_rescaled")

    @property
    def moved(self) -> int:
        """Bytes that must be read and written at least."""
        return self.a.size + (self.b.size if self.two else 0) + self.answer.size

    @property
    def bound(self) -> bool:
        """Whether memory limits it: small windows and tables, beyond the level 2 cache."""
        light = self.op.kind in LIGHT or (self.op.kind == "max_pool" and self.op.window[0] == 2)
        return light and self.moved > BEYOND_CACHE

    def _rescale(self, codes: Array, source: Quantization) -> NDArray[np.uint8]:
        real = np.float64(source[0]) * (codes.astype(np.float64) - source[1])
        return quantize(real.astype(np.float32), *self.result)

    def _resize_linear(self) -> NDArray[np.uint8]:
        x = self.a[0].astype(np.float32) - A[1]
        for axis in (1, 0):
            n = x.shape[axis]
            at = (np.arange(2 * n) + 0.5) / 2 - 0.5
            left = np.floor(at).astype(int)
            inside = (left >= 0) & (left < n - 1)
            t = np.where(inside, at - left, 0).astype(np.float32)
            left = np.clip(left, 0, n - 1)
            right = np.where(inside, left + 1, left)
            t = t.reshape([-1 if i == axis else 1 for i in range(3)])
            low = np.take(x, left, axis)
            x = low + (np.take(x, right, axis) - low) * t
        return quantize(x[None], np.float32(1), A[1])

    @cached_property
    def answer(self) -> NDArray[np.uint8]:
        kind, (scale, zero) = self.op.kind, self.result
        a, b = self.a.astype(np.float32) - A[1], self.b.astype(np.float32) - B[1]
        one = np.float32(1)
        if kind == "add":
            return quantize(a * (A[0] / scale) + b * (B[0] / scale), one, zero)
        if kind in ("multiply", "scale_channels"):
            multiplier = np.float32(np.float64(A[0]) * B[0] / scale)
            return quantize(a * b * multiplier, one, zero)
        if kind == "concat":
            return np.concatenate([self.a, self.b], axis=3)
        if kind == "concat_rescaled":
            parts = [self._rescale(self.a, A), self._rescale(self.b, B)]
            return np.concatenate(parts, axis=3)
        if kind == "resize_nearest":
            return self.a.repeat(2, axis=1).repeat(2, axis=2)
        if kind == "resize_linear":
            return self._resize_linear()
        if kind in ACTIVATIONS:
            real = activate(kind, np.float64(A[0]) * (self.a.astype(np.float64) - A[1]))
            return quantize(real.astype(np.float32), scale, zero)
        if kind == "max_pool":
            return windows(self.a[0], *self.op.window, 0).max(axis=0)[None]
        if kind == "global_average_pool":
            total, count = a.sum(axis=(1, 2), keepdims=True), np.float32(a[0, :, :, 0].size)
        else:
            total = windows(a[0], *self.op.window, 0).sum(axis=0)[None]
            ones = np.ones((*a.shape[1:3], 1), np.float32)
            count = windows(ones, *self.op.window, 0).sum(axis=0)[None]
        return quantize(total * (A[0] / scale) / count, one, zero)

    @property
    def answers(self) -> dict[str, Array]:
        return {self.op.kind: self.answer}
