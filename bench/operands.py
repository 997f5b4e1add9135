"""Operands of one row of a table, and the exact answers to them.

Everything timed on a row works on these arrays, so that all do the same work. The answers are
computed with int64 and float32 NumPy alone, by the rules of the project's arithmetic.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shapes import Shape, name

Array = NDArray[Any]
X_SCALE = np.float32(0.02)
X_ZERO_POINT = 128
Y_ZERO_POINT = 128


def exact_product(a: Array, b: Array) -> NDArray[np.int64]:
    """a @ b of integers as int64: float64 holds every partial sum here exactly (below 2**53)."""
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)


def quantize(x: Array, scale: Array | np.float32, zero_point: Array | int) -> NDArray[np.uint8]:
    """Rule 1, to uint8."""
    v = np.clip(x / scale, np.float32(0) - zero_point, np.float32(255) - zero_point)
    return (np.rint(v) + zero_point).astype(np.uint8)


@dataclass
class Product:
    """x (m, k) by weights (k, n), in every form that somebody here multiplies."""

    shape: Shape

    def __post_init__(self) -> None:
        m, n, k = self.shape
        rng = np.random.default_rng(self.shape)
        self.a = rng.integers(0, 256, (m, k), dtype=np.uint8)
        self.a_signed = (self.a ^ 0x80).view(np.int8)  # a - 128
        self.w = rng.integers(-127, 128, (k, n), dtype=np.int8)
        self.w_t = np.ascontiguousarray(self.w.T)
        self.w_scale = rng.uniform(0.005, 0.015, n).astype(np.float32)
        self.x = rng.standard_normal((m, k), dtype=np.float32)
        # results spread over the 256 codes: a standard deviation of about 40 of them
        spread = np.float32(73.9 * 73.3 * np.sqrt(k)) * X_SCALE * np.float32(0.01)
        self.y_scale = np.float32(spread / 40)

    @property
    def name(self) -> str:
        return name(self.shape)

    @property
    def macs(self) -> int:
        m, n, k = self.shape
        return m * n * k

    @property
    def float_multiplier(self) -> NDArray[np.float32]:
        return X_SCALE * self.w_scale

    @property
    def multiplier(self) -> NDArray[np.float32]:
        return (X_SCALE * self.w_scale) / self.y_scale

    @cached_property
    def signed_sums(self) -> NDArray[np.int64]:
        """(a - 128) @ w: the answer to signed activations, and to unsigned ones less 128."""
        return exact_product(self.a_signed, self.w)

    @cached_property
    def float_product(self) -> NDArray[np.float64]:
        """x by the dequantized weights: what float32 and dynamic quantization come close to."""
        return self.x.astype(np.float64) @ (self.w * self.w_scale).astype(np.float64)

    @cached_property
    def answers(self) -> dict[str, Array]:
        """The exact answer of each kind of product, and of signed activations."""
        sums = exact_product(self.a, self.w)
        codes = quantize(
            self.signed_sums.astype(np.float32) * self.multiplier, np.float32(1), Y_ZERO_POINT
        )
        real = self.signed_sums.astype(np.float32) * self.float_multiplier
        return {
            "s32": sums,
            "signed": self.signed_sums,
            "runtime": sums,
            "u8": codes,
            "f32": real,
            "dyn": self._dynamic(),
            "float32": self.float_product,
        }

    def _dynamic(self) -> NDArray[np.float32]:
        """Rule 6: every row quantized to uint8 by its own range, then rule 5."""
        low = np.minimum(self.x.min(axis=1, keepdims=True), np.float32(0))
        high = np.maximum(self.x.max(axis=1, keepdims=True), np.float32(0))
        scale = np.maximum((high - low) / np.float32(255), np.float32(2.0**-126))
        zero_point = np.clip(np.rint(-low / scale), 0, 255)
        codes = quantize(self.x, scale, zero_point)
        sums = exact_product(codes.astype(np.int64) - zero_point.astype(np.int64), self.w)
        y: NDArray[np.float32] = sums.astype(np.float32) * (scale * self.w_scale)
        return y


@dataclass
class Elements:
    """Arrays for the elementwise operations: one scale, and one scale for each of the rows."""

    shape: tuple[int, int]

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.shape)
        rows = self.shape[0]
        self.x = rng.standard_normal(self.shape, dtype=np.float32)
        self.codes = rng.integers(0, 256, self.shape, dtype=np.uint8)
        self.sums = rng.integers(-300_000, 300_000, self.shape, dtype=np.int32)
        self.scales = rng.uniform(0.01, 0.03, rows).astype(np.float32)
        self.zero_points = rng.integers(100, 156, rows, dtype=np.int32)
        self.multiplier = np.float32(127 / 300_000)

    @property
    def name(self) -> str:
        return name(self.shape)

    @cached_property
    def answers(self) -> dict[str, Array]:
        by_row = self.zero_points[:, None]
        real = self.codes.astype(np.float32)
        return {
            "quantize": quantize(self.x, X_SCALE, X_ZERO_POINT),
            "quantize_channels": quantize(self.x, self.scales[:, None], by_row.astype(np.float32)),
            "dequantize": (real - X_ZERO_POINT) * X_SCALE,
            "dequantize_channels": (real - by_row.astype(np.float32)) * self.scales[:, None],
            "requantize": quantize(
                self.sums.astype(np.float32) * self.multiplier, np.float32(1), X_ZERO_POINT
            ),
        }
