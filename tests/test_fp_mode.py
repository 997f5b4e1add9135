"""Other libraries may set another floating-point mode: results and the mode stay as they are."""

import platform

import numpy as np
import pytest

import octavo as oc
from octavo import _core

# Bits of MXCSR and of FPCR.
MODES = {
    "x86_64": {"flush": 0x8040, "down": 0x2000, "up": 0x4000, "truncate": 0x6000},
    "aarch64": {"flush": 1 << 24, "down": 2 << 22, "up": 1 << 22, "truncate": 3 << 22},
}.get({"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine()), {})


@pytest.fixture(params=sorted(MODES))
def mode(request):
    """Runs a function in another mode, and checks that the mode is still there after it."""

    def run(function):
        before = _core.fp_control()
        bits = MODES[request.param]
        _core.set_fp_control(before | bits)
        try:
            result = function()
            kept = _core.fp_control() & bits == bits
        finally:
            _core.set_fp_control(before)
        assert kept, "the call changed the mode of its caller"
        return result

    return run


def work():
    """Results that depend on rounding and on denormal numbers, as bytes."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (70, 90), np.uint8)
    b = rng.integers(-128, 128, (90, 300), np.int8)
    x = rng.standard_normal((70, 90)).astype(np.float32)
    x[3] = np.float32(1e-40) * np.arange(90)
    acc = rng.integers(-(2**30), 2**30, (40, 50)).astype(np.int32)
    # Made here: the mode is not to change what is asked for.
    scales = np.full(90, 1.2e-38, np.float32)
    zeros = np.zeros(90, np.int32)
    multiplier, other = np.float32([3.3e-4]), np.float32([1.1e-7])
    return [
        lambda: oc.matmul(a, b),
        lambda: oc.matmul(a, b, multiplier=multiplier, zero_point=100, dtype="uint8"),
        lambda: oc.matmul(a, b, multiplier=multiplier, dtype="float32"),
        lambda: oc.requantize(acc, other, 3, dtype="int8"),
        lambda: _core.quantize(x, scales, zeros, "int8", 1),
        lambda: _core.dequantize(b, multiplier, zeros[:1], None),
        lambda: np.stack(_core.minmax(x, 0)),
        lambda: b"".join(part.tobytes() for part in _core.quantize_rows(x)),
    ]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("call", range(len(work())))
def test_results_are_the_same_in_every_mode(mode, call):
    function = work()[call]
    wanted = bytes(function())
    assert any(wanted)
    with oc.threads(3):
        assert mode(lambda: bytes(function())) == wanted


@pytest.mark.usefixtures("isa")
def test_workers_do_not_keep_a_callers_mode(mode):
    rng = np.random.default_rng(1)
    w = rng.standard_normal((200, 300)).astype(np.float32)
    x = rng.standard_normal((150, 300)).astype(np.float32) * np.float32(1e-36)
    layer = oc.Linear.from_float(w)
    with oc.threads(4):
        wanted = layer(x)
        assert np.array_equal(mode(lambda: layer(x)), wanted)
        assert np.array_equal(layer(x), wanted)


@pytest.mark.usefixtures("isa")
def test_parameters_are_read_in_the_plain_mode(mode):
    a, b = np.full((1, 4), 200, np.uint8), np.full((4, 1), 100, np.int8)

    def layer():
        return oc.Linear.from_quantized(
            oc.QTensor(b.T, 0.3), x_qparams=oc.QParams(0.1), out_qparams=oc.QParams(0.7)
        )(np.full((1, 4), 20, np.uint8)).codes()

    for function in (lambda: oc.matmul(a, b, multiplier=0.1, dtype="float32"), layer):
        wanted = bytes(function())
        assert mode(lambda function=function: bytes(function())) == wanted


def test_errors_leave_the_mode_too(mode):
    def fail():
        with pytest.raises(ValueError, match="must be equal"):
            oc.matmul(np.ones((2, 3), np.uint8), np.ones((2, 3), np.int8))

    mode(fail)
