"""Linear layers, float32 in and out: ours quantizing on the fly or statically, NumPy float32."""

from typing import Any

import numpy as np
import pytest
from operands import X_SCALE, X_ZERO_POINT, Product, quantize
from shapes import PRODUCTS, Shape, name

import octavo as oc


@pytest.fixture(scope="module", params=PRODUCTS, ids=name)
def product(request: pytest.FixtureRequest) -> Product:
    shape: Shape = request.param
    return Product(shape)


def weights(p: Product) -> oc.QTensor:
    return oc.QTensor(p.w_t, p.w_scale, axis=0)


def test_dynamic(benchmark: Any, product: Product) -> None:
    benchmark.group = name(product.shape)
    out = np.empty(product.shape[:2], np.float32)
    benchmark(oc.Linear.from_quantized(weights(product)), product.x, out=out)
    np.testing.assert_array_equal(out, product.answers["dyn"])


def test_static(benchmark: Any, product: Product) -> None:
    benchmark.group = name(product.shape)
    out = np.empty(product.shape[:2], np.float32)
    x_qparams = oc.QParams(X_SCALE, X_ZERO_POINT, "uint8")
    benchmark(oc.Linear.from_quantized(weights(product), x_qparams=x_qparams), product.x, out=out)
    codes = quantize(product.x, X_SCALE, X_ZERO_POINT).astype(np.float64) - X_ZERO_POINT
    sums = (codes @ product.w.astype(np.float64)).astype(np.float32)
    np.testing.assert_array_equal(out, sums * product.float_multiplier)


def test_numpy_float32(benchmark: Any, product: Product) -> None:
    benchmark.group = name(product.shape)
    w = np.ascontiguousarray((product.w * product.w_scale).T)  # (out, in), as layers keep it
    out = np.empty(product.shape[:2], np.float32)
    benchmark(np.matmul, product.x, w.T, out=out)
    np.testing.assert_allclose(
        out, product.float_product, rtol=0, atol=1e-4 * np.abs(product.float_product).max()
    )
