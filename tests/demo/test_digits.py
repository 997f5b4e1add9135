"""The embedded network and its data."""

from importlib.resources import files

import numpy as np

import octavo as oc
from octavo import runtime
from octavo.demo import forward_float, forward_int8, load_digits, quantize_network

DIGITS = load_digits()


def test_data_is_small_and_held_out_images_are_not_calibration_images() -> None:
    folder = files("octavo.demo")
    assert len(folder.joinpath("digits.npz").read_bytes()) < 300_000
    assert "CC BY 4.0" in folder.joinpath("README.md").read_text()
    calibration = {image.tobytes() for image in DIGITS.calibration}
    assert len(calibration) == 100
    assert not calibration & {image.tobytes() for image in DIGITS.images}


def test_images_are_float32_between_0_and_1() -> None:
    for images, count in ((DIGITS.calibration, 100), (DIGITS.images, 797)):
        assert images.shape == (count, 64)
        assert images.dtype == np.float32
        assert (images.min(), images.max()) == (0, 1)
    assert set(DIGITS.labels.tolist()) == set(range(10))


def test_int8_answers_as_float32_does() -> None:
    expected = forward_float(DIGITS, DIGITS.images)[-1].argmax(axis=1)
    answers = forward_int8(quantize_network(DIGITS), DIGITS.images).argmax(axis=1)
    assert (expected == DIGITS.labels).mean() > 0.97
    assert (answers == DIGITS.labels).mean() > 0.97
    assert (answers == expected).mean() > 0.99


def test_codes_stay_8_bit_between_layers() -> None:
    first, second, _ = quantize_network(DIGITS)
    hidden = first(DIGITS.images[:3])
    assert isinstance(hidden, oc.QTensor)
    assert isinstance(second(hidden), oc.QTensor)
    assert hidden.codes().dtype == np.uint8


def test_logits_are_the_same_bits_on_every_isa(isa: str) -> None:
    with runtime.force_isa("scalar"):
        expected = forward_int8(quantize_network(DIGITS), DIGITS.images)
    assert runtime.isa() == isa
    logits = forward_int8(quantize_network(DIGITS), DIGITS.images)
    assert len(np.unique(expected)) > 1000
    assert logits.tobytes() == expected.tobytes()
