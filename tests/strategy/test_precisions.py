"""Precisions by name, pattern and operator."""

import pytest

from octavo.graph import Node
from octavo.strategy.precisions import precision_of_layers

NODES = [
    Node(name, op, [], [])
    for name, op in [
        ("head", "MatMul"),
        ("head.0", "Conv"),
        ("tail[1]", "Conv"),
        ("soft", "Softmax"),
    ]
]


def of(precision):
    return list(precision_of_layers(NODES, precision).values())


def test_one_precision_is_for_all():
    assert of("int8") == ["int8"] * 4


def test_layers_that_no_key_matches_are_float32():
    assert of({"soft": "int8"}) == ["float32", "float32", "float32", "int8"]


def test_a_name_beats_a_pattern_wherever_it_stands():
    assert of({"head": "float16", "*": "int8"}) == ["float16", "int8", "int8", "int8"]


def test_a_later_pattern_beats_an_earlier_one():
    assert of({"*": "int8", "head*": "float32", "op:Conv": "int4/32"}) == [
        "float32", "int4/32", "int4/32", "int8",
    ]  # fmt: skip


def test_only_star_and_question_mark_are_special():
    assert of({"tail[1]": "int8"})[2] == "int8"
    assert of({"tail[?]": "int8"})[2] == "int8"
    assert of({"head?0": "int8"}) == ["float32", "int8", "float32", "float32"]
    with pytest.raises(ValueError, match="no layer matches"):
        of({"tail1": "int8"})


@pytest.mark.parametrize("key", ["haed", "op:Convv", "he?d.9*"])
def test_a_key_that_matches_nothing_names_the_nearest(key):
    with pytest.raises(ValueError, match=r"no layer matches '.*'; nearest are "):
        of({key: "int8"})


@pytest.mark.parametrize("value", ["int16", "int4", "int4/0", "float32/4", "", 8, None])
def test_an_unknown_precision_is_refused(value):
    with pytest.raises(ValueError, match="precision of 'head' is"):
        of({"head": value})
