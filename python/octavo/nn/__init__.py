"""Operators that hold their weights, packed for this CPU, and those between them: 8-bit and float."""

from octavo.nn.attention import KVCache, attention
from octavo.nn.conv import Conv1d, Conv2d, ConvTranspose2d
from octavo.nn.floats import (
    erf,
    exp,
    gelu,
    group_norm,
    instance_norm,
    layer_norm,
    rms_norm,
    sigmoid,
    silu,
    softmax,
    tanh,
)
from octavo.nn.linear import Linear
from octavo.nn.recurrent import GRU, LSTM
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
    "GRU",
    "LSTM",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "KVCache",
    "Linear",
    "activate",
    "add",
    "argmax",
    "attention",
    "average_pool2d",
    "channel_shuffle",
    "concat",
    "erf",
    "exp",
    "gelu",
    "global_average_pool2d",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "max_pool2d",
    "multiply",
    "pad",
    "resize",
    "rms_norm",
    "sigmoid",
    "silu",
    "softmax",
    "take",
    "tanh",
    "transpose",
]
