"""The embedded real job: a small trained network with its data, for `octavo demo` and the tests."""

from octavo.demo.digits import (
    Digits,
    Network,
    forward_float,
    forward_int8,
    load_digits,
    quantize_network,
)

__all__ = ["Digits", "Network", "forward_float", "forward_int8", "load_digits", "quantize_network"]
