"""Real networks beside onnx's reference implementation.

OCTAVO_DATA names their folder, else one called data beside the repository's is looked for.
"""

import os
from pathlib import Path

import numpy as np
import pytest

import octavo as oc

if os.environ.get("OCTAVO_IN_QEMU") == "1":
    pytest.skip("real networks are run natively; slow in emulation", allow_module_level=True)
onnx = pytest.importorskip("onnx", reason="models are not read without onnx")

NETWORKS = ["resnet20", "mobilenet", "vit"]


def folder():
    if named := os.environ.get("OCTAVO_DATA"):
        return Path(named)
    found = sorted(Path(__file__).parents[3].glob("*/data/resnet20.onnx"))
    return found[0].parent if found else None


@pytest.fixture(params=NETWORKS)
def path(request):
    where = folder()
    if where is None or not (where / f"{request.param}.onnx").exists():
        pytest.skip(f"NOT TESTED: {request.param}.onnx is not there; OCTAVO_DATA names its folder")
    return where / f"{request.param}.onnx"


def test_a_real_network_gives_the_references_answers(path):
    model = oc.load(path, strict=True)
    x = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    (expected,) = onnx.reference.ReferenceEvaluator(str(path)).run(None, {"x": x})
    y = model(x)
    assert y.dtype == np.float32
    assert np.abs(y - expected).max() < 1e-5 * np.abs(expected).max()


def test_batches_and_threads_change_no_bit(path):
    model = oc.load(path)
    x = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    whole = model(x)
    assert np.array_equal(np.concatenate([model(x[i : i + 1]) for i in range(3)]), whole)
    with oc.threads(1):
        assert np.array_equal(model(x), whole)
