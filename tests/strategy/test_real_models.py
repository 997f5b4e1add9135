"""Real networks in int8: classes as good as float32's, the same bits from both files.

OCTAVO_DATA names the folder of networks and images, else one called data beside the repository's is
looked for.
"""

import io
import itertools
import os
from pathlib import Path

import numpy as np
import pytest

import octavo as oc

if os.environ.get("OCTAVO_IN_QEMU") == "1":
    pytest.skip("real networks are run natively; slow in emulation", allow_module_level=True)
pytest.importorskip("onnx", reason="NOT TESTED: models are not read without onnx")
Image = pytest.importorskip("PIL.Image", reason="NOT TESTED: images are not decoded without Pillow")

IMAGES, CALIBRATION = 1000, 96
LOSS = 0.5  # points, the most that top-1 may lose
MEAN = np.array([125.3, 123.0, 113.9], np.float32)
DEVIATION = np.array([63.0, 62.1, 66.7], np.float32)


def found(name):
    named = os.environ.get("OCTAVO_DATA")
    beside = sorted(Path(__file__).parents[3].glob("*/data"))
    folders = named.split(os.pathsep) if named else beside
    for folder in folders:
        if Path(folder, name).exists():
            return Path(folder, name)
    pytest.skip(f"NOT TESTED: {name} is not there; OCTAVO_DATA names its folder")


def images(split, count):
    with np.load(found(f"cifar10_{split}_jpeg.npz")) as archive:
        jpeg, offsets, labels = archive["jpeg"], archive["offsets"], archive["labels"]
    ends = itertools.pairwise(offsets[: count + 1])
    pixels = [np.asarray(Image.open(io.BytesIO(jpeg[a:b].tobytes()))) for a, b in ends]
    x = (np.stack(pixels).astype(np.float32) - MEAN) / DEVIATION
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), labels[:count]


@pytest.fixture(scope="module")
def asked():
    return images("test", IMAGES)


@pytest.fixture(scope="module", params=["resnet20", "mobilenet", "vit"])
def pair(request):
    """A network in float32 and in int8."""
    model = oc.load(found(f"{request.param}.onnx"), strict=True)
    x, _ = images("train", CALIBRATION)
    return model, oc.quantize_model(model, oc.Dataset(x, batch_size=32))


def top1(model, x, y):
    parts = [model(x[i : i + 50]).argmax(1) for i in range(0, len(x), 50)]
    return 100 * np.mean(np.concatenate(parts) == y)


def test_classes_are_found_as_in_float32(pair, asked):
    model, q = pair
    assert top1(q, *asked) >= top1(model, *asked) - LOSS
    integer = [row["precision"] == "int8" for row in oc.explain(q).rows]
    assert np.mean(integer) > 0.5
    assert q.nbytes < 0.35 * model.nbytes


@pytest.mark.parametrize("ending", ["onnx", "octavo"])
def test_files_give_the_same_bits(pair, asked, ending, tmp_path):
    _, q = pair
    q.save(tmp_path / f"q.{ending}")
    read, x = oc.load(tmp_path / f"q.{ending}"), asked[0][:50]
    assert read(x).tobytes() == q(x).tobytes()
