"""Which precision each layer gets: by name, by pattern, by operator."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from octavo.graph import Node

# float32, float16; 8 bits with a scale for each output; 8 or 4 bits with one for each group.
_KNOWN = re.compile(r"float32|float16|int8(/[1-9][0-9]*)?|int4/[1-9][0-9]*")
_OPERATOR = "op:"

Precision = str | Mapping[str, str]


def precision_of_layers(nodes: Iterable[Node], precision: Precision) -> dict[str, str]:
    """Return the precision of each node by its name.

    Parameters
    ----------
    nodes : nodes of a graph
    precision : str or dict
        One precision for all, or a dict of them: the keys are names of layers, patterns of names in
        which "*" stands for any characters and "?" for one, or "op:" and the name (or pattern) of
        an operator. A name beats a pattern; a later pattern, of either kind, beats an earlier one.
        Layers that no key matches are float32.

    Raises
    ------
    ValueError
        A precision that is none; a key that matches nothing.
    """
    given = {"*": precision} if isinstance(precision, str) else dict(precision)
    for key, value in given.items():
        if _KNOWN.fullmatch(str(value)) is None:
            raise ValueError(
                f"precision of {key!r} is {value!r}, expected 'int8', 'int4/32', 'int4/128' and "
                "the like, 'float16' or 'float32'"
            )
    layers = [(node.name, node.op) for node in nodes]
    result = {name: "float32" for name, _ in layers}
    unused = set(given)
    for key, value in given.items():
        by_operator = key.startswith(_OPERATOR)
        pattern = _pattern(key[len(_OPERATOR) :] if by_operator else key)
        for name, op in layers:
            if pattern.fullmatch(op if by_operator else name):
                unused.discard(key)
                result[name] = value
    result |= {name: given[name] for name in result if name in given}
    for key in given:
        if key in unused and key != "*":
            raise ValueError(f"no layer matches {key!r}{_nearest(key, layers)}")
    return result


def _pattern(text: str) -> re.Pattern[str]:
    parts = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in text)
    return re.compile("".join(parts), re.DOTALL)


def _nearest(key: str, layers: list[tuple[str, str]]) -> str:
    known = [name for name, _ in layers] + [f"{_OPERATOR}{op}" for _, op in layers]
    near = difflib.get_close_matches(key, dict.fromkeys(known), n=3, cutoff=0.4)
    return f"; nearest are {', '.join(map(repr, near))}" if near else ""
