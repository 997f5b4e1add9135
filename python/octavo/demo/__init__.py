"""The embedded real job: small trained networks with their data, for `octavo demo` and the tests."""

from octavo.demo.digits import (
    Digits,
    Network,
    forward_float,
    forward_int8,
    load_digits,
    quantize_network,
)
from octavo.demo.digits_conv import (
    ConvDigits,
    ConvNetwork,
    forward_conv_float,
    forward_conv_int8,
    image,
    load_conv_digits,
    quantize_conv_network,
)

__all__ = [
    "ConvDigits",
    "ConvNetwork",
    "Digits",
    "Network",
    "forward_conv_float",
    "forward_conv_int8",
    "forward_float",
    "forward_int8",
    "image",
    "load_conv_digits",
    "load_digits",
    "quantize_conv_network",
    "quantize_network",
]
