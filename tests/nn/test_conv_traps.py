"""Where other libraries go wrong: shapes that leave little of an image, inputs that users reported.

Every convolution and pooling on every instruction set, in both layouts, against the exact sums of
tests/reference.py.
"""

from typing import NamedTuple

import numpy as np
import pytest
import reference
from conftest import IN_QEMU

import octavo as oc

THREADS = (1, 3) if IN_QEMU else (1, 2, 3, 8)


@pytest.fixture
def rng():
    return np.random.default_rng(46)


class Trap(NamedTuple):
    """A convolution: x (batch, channels, height, width), w as the function takes it."""

    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    transposed: bool = False
    more: tuple[int, int] = (0, 0)

    @property
    def outputs(self):
        return self.w[1] * self.groups if self.transposed else self.w[0]

    def function(self):
        return oc.conv_transpose2d if self.transposed else oc.conv2d

    def options(self):
        options = self._asdict()
        for name in ("x", "w", "transposed", "more"):
            del options[name]
        return options | ({"output_padding": self.more} if self.transposed else {})

    def sums(self, x, w):
        """Exact sums of centred codes."""
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        if self.transposed:
            return reference.transposed_sums(x, w, *geometry, self.more)
        return reference.conv_sums(x, w, *geometry)


def all_sides(padding):
    return (padding,) * 4


TRAPS = {
    # Padding as large as the kernel, and larger, around a single pixel.
    **{
        f"one pixel, kernel {k}, padding {p}": Trap((2, c, 1, 1), (o, c, k, k), padding=all_sides(p))
        for k, p, c, o in ((1, 1, 3, 5), (2, 2, 1, 4), (3, 3, 17, 9), (3, 7, 4, 33), (5, 5, 3, 2))
    },
    "one pixel, padded on one side": Trap((1, 5, 1, 1), (3, 5, 3, 3), padding=(0, 2, 4, 0)),
    "one pixel, nothing else": Trap((1, 1, 1, 1), (1, 1, 1, 1)),
    "one pixel, depthwise": Trap((2, 19, 1, 1), (19, 1, 3, 3), padding=all_sides(3), groups=19),
    "one pixel, transposed": Trap((2, 3, 1, 1), (3, 5, 4, 3), (2, 2), (1, 1, 0, 1),
                                  transposed=True, more=(1, 0)),
    # Dilation beyond the image.
    "dilation 9 of 5 x 4": Trap((2, 3, 5, 4), (7, 3, 3, 3), padding=all_sides(11),
                                dilation=(9, 9)),
    "dilation 9 along the width": Trap((1, 16, 5, 4), (6, 16, 3, 3), padding=(1, 9, 1, 9),
                                       dilation=(1, 9)),
    "dilation 30, depthwise": Trap((1, 33, 4, 7), (33, 1, 3, 5), padding=(30, 60, 30, 60),
                                   dilation=(30, 30), groups=33),
    "dilation 7, transposed": Trap((1, 5, 3, 4), (5, 4, 3, 2), (1, 2), dilation=(7, 9),
                                   transposed=True),
    # Stride beyond the kernel.
    "stride 7, kernel 2": Trap((2, 5, 20, 23), (9, 5, 2, 2), (7, 7), (1, 0, 0, 1)),
    "stride 3, kernel 1": Trap((2, 33, 13, 12), (17, 33, 1, 1), (3, 3), (0, 2, 1, 0)),
    "stride 5, depthwise": Trap((1, 20, 16, 11), (40, 1, 3, 3), (5, 4), all_sides(1), groups=20),
    "stride beyond the image": Trap((1, 3, 6, 6), (4, 3, 3, 3), (100, 64), all_sides(1)),
    "stride 5, kernel 2, transposed": Trap((2, 3, 4, 5), (3, 7, 2, 3), (5, 4), transposed=True,
                                           more=(4, 1)),
    # Groups with odd channel counts.
    **{
        f"{g} groups of {i} to {o}": Trap((1, g * i, 6, 7), (g * o, i, 3, 3), padding=all_sides(1),
                                          groups=g)
        for g in (2, 3, 8)
        for i, o in ((1, 3), (3, 1), (5, 7), (17, 9))
    },
    "8 groups of 7 to 5, kernel 1, stride 2": Trap((2, 56, 7, 6), (40, 7, 1, 1), (2, 2), groups=8),
    "3 groups of 5 to 3, transposed": Trap((1, 15, 4, 3), (15, 3, 3, 3), (2, 2), all_sides(1),
                                           groups=3, transposed=True, more=(1, 1)),
    "groups = channels = 17": Trap((2, 17, 9, 8), (17, 1, 5, 3), padding=(2, 1, 2, 1), groups=17),
    "3 outputs a channel": Trap((1, 13, 9, 8), (39, 1, 3, 3), (2, 2), all_sides(1), groups=13),
    # Degenerate, and far from square.
    "one channel": Trap((1, 1, 9, 9), (1, 1, 3, 3)),
    "three channels, kernel 7": Trap((1, 3, 21, 22), (16, 3, 7, 7), (2, 2), all_sides(3)),
    "kernel 11 x 2": Trap((1, 4, 12, 12), (6, 4, 11, 2), padding=(5, 0, 5, 1)),
    "kernel as large as the image": Trap((3, 5, 6, 7), (11, 5, 6, 7)),
    "one row": Trap((1, 6, 1, 700), (5, 6, 1, 7), padding=(0, 6, 0, 3)),
    "one column": Trap((1, 6, 300, 1), (5, 6, 9, 1), padding=(8, 0, 8, 0), dilation=(5, 1)),
    "prime everything": Trap((1, 31, 13, 11), (37, 31, 5, 3), (3, 2), (2, 1, 1, 0), (2, 3)),
    "odd one of 34 channels": Trap((1, 34, 7, 5), (13, 34, 3, 3), padding=all_sides(1)),
}  # fmt: skip

# Zero points at the ends of their range, and none of the weights' or one for each output channel.
CODES = [("uint8", 0, False), ("int8", 77, True), ("uint8", 255, True), ("int8", -128, False)]
if IN_QEMU:
    CODES = CODES[:2]


def random_codes(rng, shape, dtype):
    info = np.iinfo(dtype)
    codes = rng.integers(info.min, info.max + 1, shape).astype(dtype)
    ends = rng.random(shape) < 0.2
    codes[ends] = rng.choice([info.min, info.max], shape)[ends]
    return codes


def quantized_weights(rng, trap, has_zero_points):
    """Weights with scales, and perhaps zero points, of their own for each output channel."""
    codes = random_codes(rng, trap.w, "int8")
    axis = 1 if trap.transposed else 0
    scale = rng.uniform(0.001, 0.01, trap.w[axis]).astype(np.float32)
    zero_point = rng.integers(-128, 128, trap.w[axis]) if has_zero_points else 0
    return oc.QTensor(codes, scale, zero_point, axis=axis)


def centred_weights(w_q, trap):
    zero_point = np.broadcast_to(w_q.zero_point, w_q.scale.shape).astype(np.int64)
    return w_q.codes() - zero_point.reshape((1, -1, 1, 1) if trap.transposed else (-1, 1, 1, 1))


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", TRAPS)
def test_shapes_that_leave_little_of_an_image(rng, name, layout):
    trap = TRAPS[name]
    function, options = trap.function(), trap.options() | {"layout": layout}
    bias = rng.integers(-(2**16), 2**16, trap.outputs).astype(np.int32)
    for dtype, zero, has_zero_points in CODES:
        x = random_codes(rng, trap.x, dtype)
        given = reference.to_layout(x, layout)
        w_q = quantized_weights(rng, trap, has_zero_points)
        sums = trap.sums(x.astype(np.int64) - zero, centred_weights(w_q, trap))
        last = np.moveaxis(sums, 1, -1)  # as tests/reference.py has channels
        q = oc.QParams(0.05, zero, dtype)
        options["x_qparams"] = q
        for threads in THREADS:
            with oc.threads(threads):
                y = function(given, w_q, bias, out_dtype="int32", **options)
            assert (reference.from_layout(y, layout) == sums + bias.reshape(-1, 1, 1)).all()
        w_scale = np.tile(w_q.scale, trap.outputs // len(w_q.scale))
        out = oc.QParams((1 + np.abs(sums).max()) * 0.05 * 0.01 / 100, 3, "int8")
        y = function(given, w_q, bias, out_qparams=out, **options).codes()
        expected = reference.requantize(
            last, reference.multiplier(q.scale, w_scale, out.scale), 3, "int8", bias
        )
        assert (np.moveaxis(reference.from_layout(y, layout), 1, -1) == expected).all()
        y = function(given, w_q, **options)
        expected = reference.float_output(last, q.scale, w_scale)
        assert (np.moveaxis(reference.from_layout(y, layout), 1, -1) == expected).all()


SIGNALS = {
    "one value, padding as the kernel": Trap((2, 3, 1, 1), (5, 3, 1, 3), padding=(0, 3, 0, 3)),
    "dilation beyond the signal": Trap((1, 8, 1, 20), (8, 8, 1, 3), padding=(0, 64, 0, 64),
                                       dilation=(1, 64)),
    "causal, dilated": Trap((2, 5, 1, 90), (7, 5, 1, 9), padding=(0, 64, 0, 0), dilation=(1, 8)),
    "kernel 25": Trap((1, 3, 1, 200), (16, 3, 1, 25), (1, 2), (0, 12, 0, 12)),
    "stride beyond the kernel": Trap((1, 4, 1, 97), (6, 4, 1, 3), (1, 10), (0, 1, 0, 2)),
    "depthwise": Trap((1, 33, 1, 120), (33, 1, 1, 15), padding=(0, 7, 0, 7), groups=33),
    **{
        f"{g} groups, odd channels": Trap((1, g * 5, 1, 40), (g * 3, 5, 1, 3),
                                          padding=(0, 2, 0, 2), dilation=(1, 2), groups=g)
        for g in (2, 3, 8)
    },
}  # fmt: skip


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("layout", ["NCW", "NWC"])
@pytest.mark.parametrize("name", SIGNALS)
def test_signals_are_images_one_high(rng, name, layout):
    trap = SIGNALS[name]
    x = random_codes(rng, trap.x, "uint8")
    w = random_codes(rng, trap.w, "int8")
    sums = trap.sums(x.astype(np.int64) - 200, w)
    for threads in THREADS:
        with oc.threads(threads):
            y = oc.conv1d(
                reference.to_layout(x[:, :, 0], layout),
                oc.QTensor(w[:, :, 0], 0.01),
                x_qparams=oc.QParams(0.05, 200),
                stride=trap.stride[1],
                padding=trap.padding[1::2],
                dilation=trap.dilation[1],
                groups=trap.groups,
                layout=layout,
                out_dtype="int32",
            )
        assert (reference.from_layout(y, layout) == sums[:, :, 0]).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation"),
    [
        ((1, 1), (3, 3), 1, 1),
        ((5, 4), (3, 3), 1, 9),
        ((9, 8), (2, 2), 5, 1),
        ((6, 7), (4, 5), 2, 3),
    ],
)
def test_same_padding_of_trapped_shapes(rng, size, kernel, stride, dilation):
    x = random_codes(rng, (2, 5, *size), "uint8")
    w = random_codes(rng, (7, 5, *kernel), "int8")
    reach = [(k - 1) * dilation + 1 for k in kernel]
    total = [
        max((-(-s // stride) - 1) * stride + r - s, 0) for s, r in zip(size, reach, strict=True)
    ]
    before = [each // 2 for each in total]
    padding = (*before, *(t - b for t, b in zip(total, before, strict=True)))
    expected = reference.conv_sums(
        x.astype(np.int64) - 9, w, (stride,) * 2, padding, (dilation,) * 2, 1
    )
    y = oc.conv2d(x, oc.QTensor(w, 1.0), x_qparams=oc.QParams(1.0, 9), stride=stride,
                  dilation=dilation, padding="same", out_dtype="int32")  # fmt: skip
    assert y.shape[2:] == tuple(-(-s // stride) for s in size)
    assert (y == expected).all()


# --- pooling ---------------------------------------------------------------------------------------


class Pool(NamedTuple):
    """A window over x (batch, channels, height, width)."""

    x: tuple[int, int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False


POOLS = {
    "one pixel": Pool((2, 17, 1, 1), (1, 1)),
    "one pixel, padding one below the kernel": Pool((2, 3, 1, 1), (3, 3), padding=all_sides(2)),
    "one pixel, kernel 5": Pool((1, 33, 1, 1), (5, 5), padding=all_sides(4)),
    "padding on one side": Pool((1, 5, 3, 4), (3, 2), padding=(0, 1, 2, 0)),
    "dilation beyond the image": Pool((1, 7, 5, 4), (3, 3), padding=all_sides(9), dilation=(9, 9)),
    "dilation 3": Pool((2, 17, 11, 12), (3, 2), (2, 1), (3, 1, 3, 1), (3, 3)),
    "stride beyond the kernel": Pool((2, 5, 20, 23), (2, 2), (7, 7), (1, 0, 0, 1)),
    "stride beyond the image": Pool((1, 3, 6, 6), (3, 3), (64, 100), all_sides(1)),
    "the whole image": Pool((2, 37, 7, 5), (7, 5)),
    "kernel 1, stride 2": Pool((1, 65, 8, 9), (1, 1), (2, 2)),
    "one row": Pool((1, 3, 1, 300), (1, 9), (1, 2), (0, 4, 0, 4)),
    "one column": Pool((1, 3, 300, 1), (9, 1), (2, 1), (4, 0, 4, 0)),
    "last window sticks out": Pool((1, 16, 7, 6), (3, 3), (2, 2), ceil_mode=True),
    "last window starts on padding": Pool((1, 31, 5, 5), (2, 2), (3, 3), all_sides(1),
                                          ceil_mode=True),
    "last window sticks out by half": Pool((2, 1, 9, 10), (4, 5), (4, 3), (1, 2, 2, 1),
                                           ceil_mode=True),
    "ceil without remainder": Pool((1, 3, 8, 8), (2, 2), (2, 2), ceil_mode=True),
}  # fmt: skip


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", POOLS)
def test_pools_of_trapped_shapes(rng, name, layout):
    pool = POOLS[name]
    q = oc.QParams(0.07, 90)
    for dtype, zero, _ in CODES:
        codes = random_codes(rng, pool.x, dtype)
        x = oc.QTensor(reference.to_layout(codes, layout), 0.05, zero)
        options = {"stride": pool.stride, "padding": pool.padding, "ceil_mode": pool.ceil_mode,
                   "layout": layout}  # fmt: skip
        most, sums, inside, padded = reference.pool_windows(
            codes.astype(np.int64) - zero, *pool[1:]
        )
        for threads in THREADS:
            with oc.threads(threads):
                y = oc.nn.max_pool2d(x, pool.kernel, dilation=pool.dilation, **options)
            assert (reference.from_layout(y.codes(), layout) == most + zero).all()
            if pool.dilation != (1, 1):
                continue
            factor = reference.multiplier(0.05, 1.0, 0.07)
            for include, count in ((False, inside), (True, padded)):
                with oc.threads(threads):
                    y = oc.nn.average_pool2d(
                        x, pool.kernel, count_include_pad=include, out_qparams=q, **options
                    )
                mean = sums.astype(np.float32) * factor / count.astype(np.float32)
                expected = np.rint(np.clip(mean, -90, 165)) + 90
                assert (reference.from_layout(y.codes(), layout) == expected).all()


# --- one call or many, whatever the layout, the threads, the instruction set ------------------------

SHAPES = {
    "dense": Trap((3, 12, 9, 7), (20, 12, 3, 3), padding=all_sides(1)),
    "dense of even channels": Trap((3, 32, 8, 9), (18, 32, 3, 3), padding=all_sides(1)),
    "pointwise": Trap((3, 33, 5, 6), (17, 33, 1, 1)),
    "first layer": Trap((3, 3, 20, 21), (16, 3, 5, 5), (2, 2), all_sides(2)),
    "depthwise": Trap((3, 35, 9, 8), (35, 1, 3, 3), (1, 1), all_sides(1), groups=35),
    "depthwise, stride 2": Trap((3, 35, 9, 8), (70, 1, 5, 5), (2, 2), all_sides(2), groups=35),
    "grouped": Trap((3, 15, 9, 8), (21, 5, 3, 3), padding=all_sides(1), groups=3),
    "many groups": Trap((3, 64, 9, 8), (48, 4, 3, 3), (2, 2), all_sides(1), groups=16),
    "dilated": Trap((3, 5, 9, 8), (6, 5, 3, 3), padding=all_sides(3), dilation=(3, 2)),
    "transposed": Trap((3, 6, 5, 4), (6, 7, 4, 4), (2, 2), all_sides(1), transposed=True),
}
X = oc.QParams(0.05, 120)
CODES_OUT = oc.QParams(0.25, 17, "int8")
TABLE = {"activation": "hard_swish", "pre_qparams": oc.QParams(0.2, 100), "out_qparams": CODES_OUT}
SUM = {"sum_qparams": oc.QParams(0.3, 40), "sum_activation": "relu"}
RESULTS = {
    "int32": {"x_qparams": X, "out_dtype": "int32"},
    "float32": {"x_qparams": X, "activation": "relu"},
    "uint8": {"x_qparams": X, "out_qparams": oc.QParams(0.2, 90), "activation": ("clip", -3, 9)},
    "int8": {"x_qparams": X, "out_qparams": CODES_OUT},
    "table": {"x_qparams": X, **TABLE},
    "residual": {"x_qparams": X, "out_qparams": CODES_OUT, **SUM},
    "table and residual": {"x_qparams": X, **TABLE, **SUM},
    "on the fly": {"activation": "relu6"},
    "on the fly, int8": {"out_qparams": CODES_OUT},
    "on the fly, table and residual": {**TABLE, **SUM},
}


def data_of(y):
    return y.codes() if isinstance(y, oc.QTensor) else y


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("name", SHAPES)
def test_layouts_batches_threads_and_instructions_change_no_bit(rng, name, result):
    trap, options = SHAPES[name], RESULTS[result]
    function = trap.function()
    if "x_qparams" in options:
        x = random_codes(rng, trap.x, "uint8")
    else:
        x = rng.standard_normal(trap.x).astype(np.float32)
    w_q = quantized_weights(rng, trap, has_zero_points=False)
    bias = rng.standard_normal(trap.outputs).astype(np.float32)
    options = options | trap.options()
    residual = None
    if "sum_qparams" in options:
        shape = trap.sums(np.zeros(trap.x, np.int64), w_q.codes()).shape
        residual = random_codes(rng, shape, "uint8")
        options["residual_qparams"] = oc.QParams(0.1, 7)

    def run(part, layout):
        more = {} if residual is None else {"residual": reference.to_layout(residual[part], layout)}
        y = function(
            reference.to_layout(x[part], layout), w_q, bias, layout=layout, **options, **more
        )
        return reference.from_layout(data_of(y), layout)

    whole = run(slice(None), "NCHW")
    assert len(np.unique(whole)) > 20  # not all clamped
    for isa in oc.runtime.available_isas():
        with oc.runtime.force_isa(isa):
            for layout in ("NCHW", "NHWC"):
                for threads in THREADS:
                    with oc.threads(threads):
                        again = run(slice(None), layout)
                        assert again.tobytes() == whole.tobytes()
                parts = [run(slice(i, i + 1), layout) for i in range(trap.x[0])]
                assert np.concatenate(parts).tobytes() == whole.tobytes()


# --- inputs that users of other libraries reported ---------------------------------------------------


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("kind", ["channels", "columns", "rows", "depthwise"])
@pytest.mark.parametrize(
    ("x", "w", "expected"),
    [
        (np.uint8([255, 255, 0, 0]), np.int8([127, 127, 0, 0]), 64770),
        (np.int8([127, 127]), np.int8([127, 127]), 32258),
        (np.uint8([211, 171]), np.int8([71, 107]), 33278),
        (np.uint8([255] * 9), np.int8([-128] * 9), -9 * 255 * 128),
        (np.int8([-128] * 9), np.int8([-128] * 9), 9 * 128 * 128),
    ],
)
def test_nothing_saturates_on_the_way(kind, x, w, expected):
    # Instructions that add neighbouring products into int16 give 32767, 255 and 32767 first.
    k = len(x)
    shape = {"channels": (1, k, 1, 1), "rows": (1, 1, k, 1)}.get(kind, (1, 1, 1, k))
    channels = 19 if kind == "depthwise" else 1
    images = np.repeat(x.reshape(shape), channels, axis=1)
    kernels = np.repeat(w.reshape(shape), channels, axis=0)
    y = oc.conv2d(images, oc.QTensor(kernels, 1.0), x_qparams=oc.QParams(1.0, 0, x.dtype.name),
                  groups=channels, out_dtype="int32")  # fmt: skip
    assert (y == expected).all()
    assert y.shape == (1, channels, 1, 1)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("groups", [1, 2])  # 2: depthwise, which has a driver of its own
def test_weights_with_a_zero_point_for_each_output_channel(layout, groups):
    x = reference.to_layout(np.full((1, groups, 3, 3), 130, np.uint8), layout)
    w_q = oc.QTensor(np.full((2, 1, 2, 2), 100, np.uint8), [0.02, 0.02], [5, 90], axis=0)
    y = oc.conv2d(x, w_q, x_qparams=oc.QParams(0.05, 128), out_qparams=oc.QParams(0.1, 128),
                  groups=groups, layout=layout)  # fmt: skip
    codes = reference.from_layout(y.codes(), layout)
    assert codes.shape == (1, 2, 2, 2)
    assert (codes[0, 0] == 136).all()
    assert (codes[0, 1] == 129).all()


@pytest.mark.usefixtures("isa")
def test_weights_that_clip(rng):
    x = random_codes(rng, (1, 1, 5, 5), "uint8")
    w = np.linspace(-1, 1, 9).astype(np.float32).reshape(1, 1, 3, 3)
    w_q = oc.quantize(w, axis=0, scale=[0.0007])
    assert w_q.codes().min() == -128
    assert w_q.codes().max() == 127
    y = oc.conv2d(x, w_q, x_qparams=oc.QParams(0.15, 120), out_qparams=oc.QParams(0.0009, 121))
    sums = reference.conv_sums(
        x.astype(np.int64) - 120, w_q.codes(), (1, 1), all_sides(0), (1, 1), 1
    )
    factor = reference.multiplier(0.15, 0.0007, 0.0009)
    assert (y.codes() == reference.requantize(sums, factor, 121, "uint8")).all()
    assert set(np.unique(y.codes())) >= {0, 255}


@pytest.mark.usefixtures("isa")
def test_huge_values_take_the_last_code():
    x = np.full((1, 3, 5, 7), 2.0**32, np.float32)
    w = oc.QTensor(np.eye(3, dtype=np.int8).reshape(3, 3, 1, 1), 1.0)
    y = oc.conv2d(x, w, x_qparams=oc.QParams(0.5, 1, "int8"), out_dtype="int32")
    assert (y == 127 - 1).all()


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [1, 40])
def test_no_multiply_add_is_fused_before_the_bias(layout, channels):
    # -791 * 4.956984e-04 + 0.4499524 is rounded differently with and without fused multiply-add.
    scale, bias = np.float32(4.956984e-04), np.full(channels, 0.4499524, np.float32)
    w = oc.QTensor(np.full((channels, 1, 1, 1), -113, np.int8), scale)
    x = reference.to_layout(np.full((1, channels, 1, 5), 7, np.uint8), layout)
    y = oc.conv2d(x, w, bias, x_qparams=oc.QParams(1.0, 0), groups=channels, layout=layout)
    product = np.float32(-791) * scale
    assert (y == product + bias[0]).all()
    assert reference.fma(np.float32([-791]), scale.reshape(1), bias[:1])[0] != product + bias[0]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("kind", ["dense", "depthwise", "grouped", "transposed"])
def test_a_bias_beyond_int32_raises_the_scale_of_its_weights(kind):
    # Input scale .5, weight scale 7.843e-10, bias [5, -4.5]: codes near 1e11.
    shape = {"dense": (2, 2, 1, 1), "grouped": (4, 2, 1, 1), "transposed": (2, 2, 1, 1)}
    groups = {"depthwise": 4, "grouped": 2}.get(kind, 1)
    w = np.full(shape.get(kind, (4, 1, 1, 1)), 100, np.int8)
    transposed = kind == "transposed"
    axis, outputs = (1, w.shape[1]) if transposed else (0, len(w))
    w_q = oc.QTensor(w, np.full(outputs, 7.843e-10), axis=axis)
    bias = np.tile(np.float32([5, -4.5]), outputs // 2)
    make = oc.ConvTranspose2d if transposed else oc.Conv2d
    out = oc.QParams(0.05, 128)
    with pytest.warns(RuntimeWarning, match="overflows int32"):
        layer = make.from_quantized(
            w_q, bias, groups=groups, x_qparams=oc.QParams(0.5, 0), out_qparams=out
        )
    x = np.full((1, layer.in_channels, 3, 5), 200, np.uint8)
    real = layer(x).dequantize()
    # The weights add less than a millionth; the bias is what must come out.
    assert np.abs(real - bias.reshape(-1, 1, 1)).max() <= 0.025 + 1e-6
    raised, _ = layer.unpack()
    assert (raised.scale > 7.843e-10).all()


BEYOND = {
    "depthwise": Trap((1, 8, 5, 5), (16, 1, 3, 3), groups=8),
    "dense": Trap((1, 8, 5, 5), (8, 8, 3, 3)),
    "grouped": Trap((1, 8, 5, 5), (8, 4, 3, 3), groups=2),
    "transposed": Trap((1, 8, 3, 3), (8, 5, 3, 3), (2, 2), transposed=True),
}


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("kind", BEYOND)
def test_sums_beyond_int32_are_exact_or_refused(kind, layout):
    trap = BEYOND[kind]
    w = np.full(trap.w, 127, np.int8)
    w_q = oc.QTensor(w, 1e-9)
    x = np.full(trap.x, 255, np.uint8)
    bias = np.full(trap.outputs, 2**31 - 1, np.int32)
    sums = trap.sums(x.astype(np.int64), w) + (2**31 - 1)
    function, given = trap.function(), reference.to_layout(x, layout)
    options = trap.options() | {"layout": layout, "x_qparams": oc.QParams(1.0, 0)}
    with pytest.raises(OverflowError, match="does not fit int32"):
        function(given, w_q, bias, out_dtype="int32", **options)
    real = function(given, w_q, bias, **options)
    expected = reference.float_output(sums, 1.0, 1e-9)
    assert (reference.from_layout(real, layout) == expected).all()
    out = oc.QParams(0.02, 3)
    y = function(given, w_q, bias, out_qparams=out, **options)
    factor = reference.multiplier(1.0, 1e-9, out.scale)
    expected = reference.to_codes(sums.astype(np.float32) * factor, 3, "uint8")
    assert (reference.from_layout(y.codes(), layout) == expected).all()


# --- bad input ---------------------------------------------------------------------------------------

BIG = 2**31 - 1
IMAGE = np.zeros((1, 2, 8, 8), np.uint8)
CALLS = {
    "conv1d": (oc.conv1d, IMAGE[:, :, 0], oc.QTensor(np.ones((4, 2, 3), np.int8), 1.0)),
    "conv2d": (oc.conv2d, IMAGE, oc.QTensor(np.ones((4, 2, 3, 3), np.int8), 1.0)),
    "conv_transpose2d": (
        oc.conv_transpose2d, IMAGE, oc.QTensor(np.ones((2, 4, 3, 3), np.int8), 1.0)
    ),
}  # fmt: skip
BAD = [
    ({"groups": 3}, "w has [24] (in|out)put channels; groups=3 must divide them"),
    ({"groups": 0}, "groups is 0, expected at least 1"),
    ({"groups": -2}, "groups is -2, expected at least 1"),
    ({"groups": 2**70}, f"groups is {2**70}, expected less than 2"),
    ({"stride": 0}, "stride is 0, expected at least 1"),
    ({"stride": -1}, "stride is -1, expected at least 1"),
    ({"stride": 2**31}, "stride is 2147483648, expected less than 2"),
    ({"dilation": 0}, "dilation is 0, expected at least 1"),
    ({"dilation": -3}, "dilation is -3, expected at least 1"),
    ({"dilation": 2**70}, f"dilation is {2**70}, expected less than 2"),
    ({"padding": -1}, "padding is -1, expected at least 0"),
    ({"padding": (0, -2)}, "padding is -2, expected at least 0"),
    ({"padding": 2**70}, f"padding is {2**70}, expected less than 2"),
    ({"padding": (1, 2, 3)}, "padding has 3 values, expected"),
    ({"padding": "valid"}, "padding is 'valid', expected 'same'"),
    ({"layout": "CHWN"}, "layout is 'CHWN', expected 'N"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
@pytest.mark.parametrize("name", CALLS)
def test_bad_geometry_is_named(name, change, message):
    function, x, w = CALLS[name]
    with pytest.raises(ValueError, match=message):
        function(x, w, x_qparams=X, **change)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("change", [{}, {"padding": 2}, {"dilation": 5}, {"stride": 3}])
def test_a_kernel_larger_than_the_padded_input_is_named(layout, change):
    w = oc.QTensor(np.ones((4, 2, 14, 3), np.int8), 1.0)
    options = {"x_qparams": X, "layout": layout, **change}
    reach = 13 * change.get("dilation", 1) + 1
    p = change.get("padding", 0)
    message = (
        f"no output is left along the height: x has 8, padding {p} and {p}, a kernel of 14 with "
        f"dilation {change.get('dilation', 1)} reaches over {reach}"
    )
    with pytest.raises(ValueError, match=message):
        oc.conv2d(reference.to_layout(IMAGE, layout), w, **options)
    with pytest.raises(ValueError, match=message.replace("height", "width")):
        oc.conv1d(reference.to_layout(IMAGE[:, :, 0], layout), oc.QTensor(w.codes()[..., 0], 1.0),
                  **options | {"layout": layout.replace("H", "")})  # fmt: skip


def test_a_transposed_result_that_padding_cuts_away_is_named():
    function, x, w = CALLS["conv_transpose2d"]
    with pytest.raises(ValueError, match="no output is left along the height: x has 8, padding 5"):
        function(x, w, x_qparams=X, padding=5)
    with pytest.raises(ValueError, match="takes no padding='same'"):
        function(x, w, x_qparams=X, padding="same")
    with pytest.raises(ValueError, match=r"got 2 with stride 2 and dilation 1"):
        function(x, w, x_qparams=X, stride=2, output_padding=2)
    with pytest.raises(ValueError, match="output_padding is -1"):
        function(x, w, x_qparams=X, output_padding=-1)


@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_sizes_that_overflow_are_named(name):
    function, x, w = CALLS[name]
    change = {"dilation": BIG} if name == "conv_transpose2d" else {"padding": BIG}
    with pytest.raises(
        ValueError, match=r"1 x 4 x 4294967\d+ x 4294967\d+ values, more than memory"
    ):
        function(x, w, x_qparams=X, **change)


def test_errors_of_signals_speak_of_signals():
    x, w = np.zeros((1, 2, 9), np.uint8), oc.quantize(np.ones((4, 2, 3), np.float32), axis=0)
    with pytest.raises(ValueError, match=r"x has 3 channels \(its second axis\)"):
        oc.conv1d(np.zeros((1, 3, 9), np.uint8), w, x_qparams=X)
    with pytest.raises(ValueError, match=r"x has 3 channels \(its last axis\)"):
        oc.conv1d(np.zeros((1, 9, 3), np.uint8), w, x_qparams=X, layout="NWC")
    for layout, shape, expected in [("NCW", (1, 4, 9), "1, 4, 7"), ("NWC", (1, 7, 5), "1, 7, 4")]:
        given = x if layout == "NCW" else x.transpose(0, 2, 1)
        out = np.zeros(shape, np.float32)
        with pytest.raises(ValueError, match=rf"out has shape .*, expected \({expected}\)"):
            oc.conv1d(given, w, x_qparams=X, layout=layout, out=out)
        residual = oc.QTensor(np.zeros(shape, np.uint8), 0.1)
        with pytest.raises(ValueError, match=rf"residual has shape .*, expected \({expected}\)"):
            oc.conv1d(given, w, x_qparams=X, out_qparams=X, layout=layout, residual=residual,
                      sum_qparams=X)  # fmt: skip


def test_a_transposed_stride_beyond_all_use_is_named():
    function, x, w = CALLS["conv_transpose2d"]
    with pytest.raises(
        ValueError, match=r"stride is \(2147483647, 2147483647\), expected a product"
    ):
        function(x, w, x_qparams=X, stride=BIG)
    with pytest.raises(ValueError, match=r"stride is \(257, 256\), expected a product"):
        function(x, w, x_qparams=X, stride=(257, 256))
    y = function(x[:, :, :1, :1], w, x_qparams=X, stride=(1, 2**16), out_dtype="int32")
    assert y.shape == (1, 4, 3, 3)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("layout", ["first", "last"])
@pytest.mark.parametrize(
    "result", [{}, {"x_qparams": X}, {"x_qparams": X, "out_qparams": X}, {"x_qparams": X, **TABLE}]
)
def test_an_empty_batch_gives_an_empty_result(name, layout, result):
    function, x, w = CALLS[name]
    x = x[:0] if "x_qparams" in result else x[:0].astype(np.float32)
    names = ("NCW", "NWC") if x.ndim == 3 else ("NCHW", "NHWC")
    layout = names[layout == "last"]
    y = data_of(function(reference.to_layout(x, layout), w, layout=layout, padding=1, **result))
    assert reference.from_layout(y, layout).shape == (0, 4, *(8,) * (x.ndim - 2))
    assert y.dtype == (result["out_qparams"].dtype if "out_qparams" in result else np.float32)


Q = oc.QTensor(IMAGE, 0.1, 3)


@pytest.mark.parametrize("function", [oc.nn.max_pool2d, oc.nn.average_pool2d])
@pytest.mark.parametrize(
    ("kernel", "change", "message"),
    [
        (0, {}, "kernel_size is 0, expected at least 1"),
        (-1, {}, "kernel_size is -1, expected at least 1"),
        (2**70, {}, f"kernel_size is {2**70}, expected less than 2"),
        ((1, 2, 3), {}, "kernel_size has 3 values, expected 1 or 2"),
        (9, {}, r"kernel 9 with dilation 1 exceeds the padded height 8 \+ 0 \+ 0"),
        ((3, 11), {"padding": 1}, r"kernel 11 .* exceeds the padded width 8 \+ 1 \+ 1"),
        (2, {"stride": 0}, "stride is 0, expected at least 1"),
        (2, {"stride": (1, 2, 3)}, "stride has 3 values, expected 1 or 2"),
        (2, {"padding": -1}, "padding is -1, expected at least 0"),
        (2, {"padding": (1, 2, 3)}, "padding has 3 values"),
        (2, {"padding": 2}, r"padding 2 \+ 2 of the height leaves a window of kernel 2 with dil"),
        (2, {"padding": (0, 0, 0, BIG)}, rf"padding 0 \+ {BIG} of the width leaves a window"),
        (2, {"layout": "CHWN"}, "layout is 'CHWN', expected 'NCHW' or 'NHWC'"),
    ],
)
def test_bad_windows_are_named(function, kernel, change, message):
    with pytest.raises(ValueError, match=message):
        function(Q, kernel, **change)


def test_bad_windows_of_one_operator_are_named():
    with pytest.raises(ValueError, match="dilation is 0, expected at least 1"):
        oc.nn.max_pool2d(Q, 2, dilation=0)
    with pytest.raises(ValueError, match="kernel 2 with dilation 9 exceeds the padded height"):
        oc.nn.max_pool2d(Q, 2, dilation=9)
    with pytest.raises(ValueError, match=r"less than 2.* values, got 4096 x 4096"):
        oc.nn.average_pool2d(Q, 4096, padding=2048)
    empty = oc.QTensor(IMAGE[..., :0], 0.1)
    with pytest.raises(ValueError, match="kernel 2 with dilation 1 exceeds the padded width 0"):
        oc.nn.max_pool2d(empty, 2)
    with pytest.raises(ValueError, match="x must have at least one pixel, got 8 x 0"):
        oc.nn.global_average_pool2d(empty)
    with pytest.raises(ValueError, match=r"x must have 4 dimensions \(NCHW\), got"):
        oc.nn.max_pool2d(oc.QTensor(IMAGE[0], 0.1), 2)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_pools_of_an_empty_batch_are_empty(layout):
    empty = oc.QTensor(reference.to_layout(IMAGE[:0], layout), 0.1, 3)
    pools = (
        (oc.nn.max_pool2d(empty, 2, layout=layout), (4, 4)),
        (oc.nn.average_pool2d(empty, 3, layout=layout), (2, 2)),
        (oc.nn.global_average_pool2d(empty, layout=layout), (1, 1)),
        (oc.nn.resize(empty, 5, layout=layout), (5, 5)),
    )
    for y, size in pools:
        assert reference.from_layout(y.codes(), layout).shape == (0, 2, *size)
        assert y.qparams == empty.qparams
