"""Operators that hold their weights, packed for this CPU, and the 8-bit ones between them."""

from octavo.nn.conv import Conv1d, Conv2d, ConvTranspose2d
from octavo.nn.linear import Linear
from octavo.nn.tensor import (
    activate,
    add,
    argmax,
    average_pool2d,
    channel_shuffle,
    concat,
    global_average_pool2d,
    max_pool2d,
    multiply,
    pad,
    resize,
    take,
    transpose,
)

__all__ = [
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "Linear",
    "activate",
    "add",
    "argmax",
    "average_pool2d",
    "channel_shuffle",
    "concat",
    "global_average_pool2d",
    "max_pool2d",
    "multiply",
    "pad",
    "resize",
    "take",
    "transpose",
]
