"""The embedded convolutional network."""

import os
from importlib.resources import files

import numpy as np

from octavo import runtime
from octavo.demo import (
    forward_conv_float,
    forward_conv_int8,
    image,
    load_conv_digits,
    quantize_conv_network,
)
from octavo.demo.digits_conv import conv_outputs, convolve_float

CONV = load_conv_digits()
IMAGES, LABELS = image(CONV.digits.images), CONV.digits.labels
if os.environ.get("OCTAVO_IN_QEMU") == "1":  # 10^9 multiply-accumulates take long there
    IMAGES, LABELS = IMAGES[:100], LABELS[:100]


def test_both_networks_and_their_images_are_below_500_kb() -> None:
    folder = files("octavo.demo")
    names = ("digits.npz", "digits_conv.npz")
    assert sum(len(folder.joinpath(name).read_bytes()) for name in names) < 500_000


def test_float_convolution_is_the_sum_over_every_tap() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 4, 6), np.float32)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for in_channels, out in ((6, 3), (1, 6)):
        w = rng.standard_normal((3, 3, in_channels, out), np.float32)
        b = rng.standard_normal(out, np.float32)
        expected = np.zeros((2, 5, 4, out))
        for n, i, j, o, di, dj in np.ndindex(2, 5, 4, out, 3, 3):
            channels = slice(None) if in_channels == 6 else slice(o, o + 1)
            expected[n, i, j, o] += padded[n, i + di, j + dj, channels] @ w[di, dj, :, o]
        expected = np.maximum(expected + b, 0)
        assert expected.max() > 3
        np.testing.assert_allclose(convolve_float(x, w, b), expected, atol=1e-5)


def test_batches_give_the_logits_of_all_at_once() -> None:
    logits = forward_conv_float(CONV, IMAGES)
    assert logits.shape == (len(IMAGES), 10)
    np.testing.assert_allclose(logits, conv_outputs(CONV, IMAGES)[-1], rtol=1e-4, atol=1e-4)


def test_int8_answers_as_float32_does() -> None:
    expected = forward_conv_float(CONV, IMAGES).argmax(axis=1)
    answers = forward_conv_int8(quantize_conv_network(CONV), IMAGES).argmax(axis=1)
    assert (expected == LABELS).mean() >= 0.99
    assert (answers == LABELS).mean() >= 0.99
    assert (answers == expected).mean() >= 0.99


def test_codes_stay_8_bit_between_layers() -> None:
    first, second, *_ = quantize_conv_network(CONV).convolutions
    hidden = first(IMAGES[:3])
    assert (hidden.dtype, hidden.shape) == ("uint8", (3, 8, 8, 32))
    assert second(hidden).dtype == "uint8"


def test_logits_are_the_same_bits_on_every_isa(isa: str) -> None:
    with runtime.force_isa("scalar"):
        expected = forward_conv_int8(quantize_conv_network(CONV), IMAGES[:100])
    assert runtime.isa() == isa
    logits = forward_conv_int8(quantize_conv_network(CONV), IMAGES[:100])
    assert len(np.unique(expected)) > 500
    assert logits.tobytes() == expected.tobytes()
