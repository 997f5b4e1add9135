"""Products: ours packed and unpacked, NumPy float32, and NumPy's own int8 @ int8 (which wraps)."""

from typing import Any

import numpy as np
import ours
import pytest
from operands import Product
from shapes import CALLS, PRODUCTS, Shape, name

# NumPy's integer product has no BLAS: a tenth of a second at 512^3 and growing from there
INT8_LIMIT = 512**3


@pytest.fixture(scope="module", params=sorted({*PRODUCTS, *CALLS}), ids=name)
def product(request: pytest.FixtureRequest) -> Product:
    shape: Shape = request.param
    return Product(shape)


@pytest.mark.parametrize("kind", ["s32", "u8", "f32", "runtime"])
def test_octavo(benchmark: Any, product: Product, kind: str) -> None:
    benchmark.group = name(product.shape)
    (entrant,) = ours.products(product, {kind})
    np.testing.assert_array_equal(benchmark(entrant.call), product.answers[kind])


def test_numpy_float32(benchmark: Any, product: Product) -> None:
    benchmark.group = name(product.shape)
    b = product.w * product.w_scale
    out = np.empty(product.shape[:2], np.float32)
    benchmark(np.matmul, product.x, b, out=out)
    np.testing.assert_allclose(
        out, product.float_product, rtol=0, atol=1e-4 * np.abs(product.float_product).max()
    )


def test_numpy_int8(benchmark: Any, product: Product) -> None:
    if product.macs > INT8_LIMIT:
        pytest.skip("NumPy's int8 @ int8 takes too long here")
    benchmark.group = name(product.shape)
    wrapped = benchmark(np.matmul, product.a_signed, product.w)
    np.testing.assert_array_equal(wrapped, product.signed_sums.astype(np.int8))
