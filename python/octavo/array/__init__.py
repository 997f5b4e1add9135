"""Quantized arrays and functions of them."""

from octavo.array.convolution import conv1d, conv2d, conv_transpose2d
from octavo.array.functional import dequantize, linear, quantize
from octavo.array.qparams import QParams
from octavo.array.qtensor import QTensor

__all__ = [
    "QParams",
    "QTensor",
    "conv1d",
    "conv2d",
    "conv_transpose2d",
    "dequantize",
    "linear",
    "quantize",
]
