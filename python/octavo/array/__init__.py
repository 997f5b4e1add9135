"""Quantized arrays and functions of them."""

from octavo.array.functional import dequantize, linear, quantize
from octavo.array.qparams import QParams
from octavo.array.qtensor import QTensor

__all__ = ["QParams", "QTensor", "dequantize", "linear", "quantize"]
