"""Operands of a convolution, and the exact answers to them.

Images are kept channels last, as octavo's kernels and the best of the peers' take them. The
answers are sums of shifted products in float64, which holds every integer here exactly.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from operands import X_SCALE, Y_ZERO_POINT, Array, quantize
from shapes import Convolution


def convolve(c: Convolution, x: Array, w: Array) -> NDArray[np.int64]:
    """The sums over x (H, W, C), no zero points, by w (O, C / groups, kh, kw), or transposed
    (C, O / groups, kh, kw): one product for each tap, gathered (transposed: scattered).
    """
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = c.kernel, c.stride, c.padding, c.dilation
    per_group = (c.c // c.groups, c.o // c.groups)
    image = x.reshape(c.h, c.w, c.groups, per_group[0]).astype(np.float64)
    if c.transposed:
        taps = w.reshape(c.groups, *per_group, kh, kw).transpose(3, 4, 0, 1, 2)
    else:
        taps = w.reshape(c.groups, *per_group[::-1], kh, kw).transpose(3, 4, 0, 2, 1)
    taps = np.ascontiguousarray(taps, np.float64)

    def product(a: Array, b: Array) -> Array:  # (h, w, G, C) by (G, C, O) to (h, w, G, O)
        if per_group == (1, 1):
            return a * b[..., 0]
        by_group = a.reshape(-1, *a.shape[2:]).transpose(1, 0, 2)
        found: Array = np.matmul(by_group, b).transpose(1, 0, 2)
        return found.reshape(*a.shape[:3], -1)

    height, width = c.out
    if c.transposed:
        y = np.zeros((height + 2 * ph, width + 2 * pw, c.groups, per_group[1]))
        for i in range(kh):
            for j in range(kw):
                rows = slice(i * dh, i * dh + (c.h - 1) * sh + 1, sh)
                columns = slice(j * dw, j * dw + (c.w - 1) * sw + 1, sw)
                y[rows, columns] += product(image, taps[i, j])
        y = y[ph : ph + height, pw : pw + width]
    else:
        padded = np.pad(image, ((ph, ph), (pw, pw), (0, 0), (0, 0)))
        y = np.zeros((height, width, c.groups, per_group[1]))
        for i in range(kh):
            for j in range(kw):
                rows = slice(i * dh, i * dh + (height - 1) * sh + 1, sh)
                columns = slice(j * dw, j * dw + (width - 1) * sw + 1, sw)
                y += product(padded[rows, columns], taps[i, j])
    return y.reshape(1, height, width, c.o).astype(np.int64)


class ConvOperands:
    """x (1, H, W, C) uint8 by int8 weights, a scale for each output channel, and a bias."""

    def __init__(self, shape: Convolution, x_zero_point: int) -> None:
        self.shape, self.x_zero_point = shape, x_zero_point
        rng = np.random.default_rng([shape.c, shape.h, shape.o, *shape.kernel])
        self.x = rng.integers(0, 256, (1, shape.h, shape.w, shape.c), dtype=np.uint8)
        outer, inner = (shape.c, shape.o) if shape.transposed else (shape.o, shape.c)
        self.w = rng.integers(
            -127, 128, (outer, inner // shape.groups, *shape.kernel), dtype=np.int8
        )
        self.w_scale = rng.uniform(0.005, 0.015, shape.o).astype(np.float32)
        # results spread over the 256 codes: a standard deviation of about 40 of them
        terms = shape.macs / (shape.out[0] * shape.out[1] * shape.o)
        spread = np.float32(73.9 * 73.3 * np.sqrt(terms)) * X_SCALE * np.float32(0.01)
        self.y_scale = np.float32(spread / 40)
        self.bias = (rng.standard_normal(shape.o) * 20 * self.y_scale).astype(np.float32)

    @property
    def name(self) -> str:
        return self.shape.name

    @property
    def x_nchw(self) -> Array:
        return np.ascontiguousarray(self.x.transpose(0, 3, 1, 2))

    @property
    def x_float(self) -> NDArray[np.float32]:
        """The same image in float32, channels last."""
        return (self.x.astype(np.float32) - np.float32(self.x_zero_point)) * X_SCALE

    @property
    def w_float(self) -> NDArray[np.float32]:
        return self.w * (
            self.w_scale.reshape(self.shape.groups, 1, -1, 1, 1)
            .repeat(self.shape.c // self.shape.groups, axis=1)
            .reshape(self.shape.c, -1, 1, 1)
            if self.shape.transposed
            else self.w_scale[:, None, None, None]
        )

    @cached_property
    def sums(self) -> NDArray[np.int64]:
        return convolve(self.shape, self.x.astype(np.int64) - self.x_zero_point, self.w)

    def bias_sums(self, w_scale: Array) -> NDArray[np.int32]:
        """The bias in units of the sums: rule 4."""
        return np.rint(self.bias.astype(np.float64) / (np.float64(X_SCALE) * w_scale)).astype(
            np.int32
        )

    def codes(self, w_scale: Array) -> NDArray[np.uint8]:
        """Rule 4."""
        sums = (self.sums + self.bias_sums(w_scale)).astype(np.float32)
        multiplier = (np.float64(X_SCALE) * w_scale / self.y_scale).astype(np.float32)
        return quantize(sums * multiplier, np.float32(1), Y_ZERO_POINT)

    @cached_property
    def answers(self) -> dict[str, Array]:
        """ "u8" has a weight scale for each channel, "u8_tensor" the first one for all."""
        return {
            "u8": self.codes(self.w_scale),
            "u8_tensor": self.codes(self.w_scale[:1]),
            "float32": self.sums * (np.float64(X_SCALE) * self.w_scale) + self.bias,
        }
