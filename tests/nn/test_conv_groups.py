"""Convolutions of groups of few channels, which share windows of rows."""

import numpy as np
import pytest
import reference

import octavo as oc


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(("channels", "groups"), [(96, 12), (72, 6), (100, 5)])
def test_windows_are_filled_for_a_part_of_a_tall_image_at_a_time(channels, groups):
    rng = np.random.default_rng(channels)
    x = rng.integers(0, 256, (1, channels, 400, 12)).astype(np.uint8)
    w = rng.integers(-128, 128, (channels, channels // groups, 3, 3)).astype(np.int8)
    stride, padding = (2, 1), (2, 1, 1, 0)
    expected = reference.conv_sums(
        x.astype(np.int64) - 120, w, stride, padding, dilation=(1, 1), groups=groups
    )
    for threads in (1, 3):
        with oc.threads(threads):
            y = oc.conv2d(
                x,
                oc.QTensor(w, 1.0),
                x_qparams=oc.QParams(0.05, 120),
                stride=stride,
                padding=padding,
                groups=groups,
                out_dtype="int32",
            )
        assert (y == expected).all()
