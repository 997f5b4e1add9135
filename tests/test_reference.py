"""The oracle itself: against exact fractions, and against numbers worked out by hand."""

from fractions import Fraction

import numpy as np
import reference
from hypothesis import given
from hypothesis import strategies as st

finite = st.floats(width=32, min_value=-(2.0**40), max_value=2.0**40)


@given(finite, finite, finite)
def test_fma_rounds_the_exact_value_once(a, b, c):
    arrays = [np.array([value], np.float32) for value in (a, b, c)]
    got = reference.fma(*arrays)[0]
    exact = Fraction(float(arrays[0][0])) * Fraction(float(arrays[1][0])) + Fraction(
        float(arrays[2][0])
    )
    near = [got, np.nextafter(got, np.float32(np.inf)), np.nextafter(got, np.float32(-np.inf))]
    distances = [abs(Fraction(float(value)) - exact) for value in near]
    assert distances[0] == min(distances)
    if distances.count(distances[0]) > 1:  # a tie goes to the even significand
        assert got.view(np.int32) % 2 == 0


def test_fma_differs_from_two_roundings_where_it_should():
    # RIVALS' case: -791 * 4.956984e-04 + 0.4499524
    a, b, c = (np.array([v], np.float32) for v in (-791, 4.956984e-04, 0.4499524))
    assert reference.fma(a, b, c)[0] != (a * b + c)[0]


def test_quantize_by_hand():
    x = np.array([0.5, 1.5, 2.5, -0.5, np.nan, np.inf, -np.inf, 300], np.float32)
    assert reference.quantize(x, 1.0, 10, "uint8").tolist() == [10, 12, 12, 10, 10, 255, 0, 255]
    assert reference.quantize(x, 1.0, 0, "int4").tolist() == [0, 2, 2, 0, 0, 7, -8, 7]


def test_dynamic_rows_by_hand():
    x = np.array([[-1, 0, 1.55], [0, 0, 0], [1, np.nan, 2], [2, 4, 5.1]], np.float32)
    q, scale, zero_point = reference.quantize_rows(x)
    assert zero_point[[0, 1, 3]].tolist() == [100, 0, 0]
    assert scale[[0, 1, 3]].tolist() == [np.float32(0.01), 1.0, np.float32(0.02)]
    assert q[[0, 1, 3]].tolist() == [[0, 100, 255], [0, 0, 0], [100, 200, 255]]
    assert np.isnan(scale[2])


def test_accumulate_by_hand():
    a = np.array([[255, 255, 0, 0]], np.uint8)
    b = np.array([[127], [127], [0], [0]], np.int8)
    assert reference.accumulate(a, b).tolist() == [[64770]]
    assert reference.accumulate(a, b, [5], [-1]).tolist() == [[2 * 250 * 128 - 5 * 2]]
