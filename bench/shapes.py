"""The one list of shapes that the benches time.

A product is (m, n, k): x of m rows and k columns by weights of k rows and n columns. Convolutions
and the operators between them have a batch of 1; the layers of a network are written down as its
authors do, block by block.
"""

from collections.abc import Iterator
from dataclasses import dataclass

Shape = tuple[int, int, int]

# Cubes, transformer layers, matrix-vector products, convolutions written as products.
PRODUCTS: tuple[Shape, ...] = (
    (64, 64, 64),
    (256, 256, 256),
    (512, 512, 512),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (128, 768, 768),
    (128, 3072, 768),
    (128, 768, 3072),
    (1, 768, 768),
    (1, 4096, 4096),
    (1, 11008, 4096),
    (8, 4096, 4096),
    (3136, 64, 64),
    (3136, 64, 576),
    (784, 128, 1152),
    (196, 256, 2304),
    (49, 512, 4608),
    (12544, 64, 147),
)

# So small that the call costs as much as the work.
CALLS: tuple[Shape, ...] = ((1, 64, 64), (64, 64, 64))

# What is made of a product.
KINDS: dict[str, str] = {
    "s32": "int32 result",
    "u8": "fused requantization to uint8",
    "f32": "float32 result of uint8 input",
    "dyn": "float32 in and out, quantized on the fly",
    "runtime": "int32 result, weights packed in every call",
}

# Elementwise: 2**20 values, 4 MB of float32; channels lie along axis 0.
ELEMENTS: tuple[int, int] = (1024, 1024)


def name(shape: tuple[int, ...]) -> str:
    """(1, 4096, 768) as "1x4096x768"."""
    return "x".join(map(str, shape))


def parse(text: str) -> Shape:
    """ "1x4096x768" as (1, 4096, 768)."""
    sizes = text.split("x")
    if len(sizes) != 3 or not all(s.isdecimal() and int(s) > 0 for s in sizes):
        raise ValueError(f"shape {text!r}: expected MxNxK, as 128x768x768")
    m, n, k = map(int, sizes)
    return m, n, k


# Convolutions --------------------------------------------------------------------------------------

Pair = tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """c channels of h x w to o channels; padding is the same on both sides."""

    c: int
    h: int
    w: int
    o: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    transposed: bool = False

    @property
    def out(self) -> Pair:
        """Height and width of the result."""
        sizes = []
        for size, k, s, p, d in zip(
            (self.h, self.w), self.kernel, self.stride, self.padding, self.dilation, strict=True
        ):
            reach = d * (k - 1)
            if self.transposed:
                sizes.append((size - 1) * s - 2 * p + reach + 1)
            else:
                sizes.append((size + 2 * p - reach - 1) // s + 1)
        return sizes[0], sizes[1]

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those with padding included."""
        height, width = (self.h, self.w) if self.transposed else self.out
        taps = self.kernel[0] * self.kernel[1]
        return height * width * taps * self.c * self.o // self.groups

    @property
    def kind(self) -> str:
        """What the bars of bars.py tell apart."""
        if self.transposed:
            return "transposed"
        if self.groups == self.c > 1:
            return "depthwise"
        if self.groups > 1:
            return "grouped"
        if self.h == 1 < self.w or self.dilation != (1, 1):
            return "audio"
        return "first" if self.c <= 4 and self.h > 1 else "dense"

    @property
    def name(self) -> str:
        """For instance "64x56x56 to 128, 3x3 stride 2 pad 1"."""
        words = [f"{self.kernel[0]}x{self.kernel[1]}"]
        for word, pair, plain in (
            ("stride", self.stride, 1),
            ("pad", self.padding, 0),
            ("dilation", self.dilation, 1),
        ):
            if self.h == 1:
                pair = (pair[1], pair[1])
            if pair != (plain, plain):
                text = str(pair[0]) if pair[0] == pair[1] else f"{pair[0]},{pair[1]}"
                words.append(f"{word} {text}")
        if self.groups > 1:
            words.append("depthwise" if self.kind == "depthwise" else f"groups {self.groups}")
        if self.transposed:
            words.append("transposed")
        return f"{self.c}x{self.h}x{self.w} to {self.o}, " + " ".join(words)


def square(
    c: int, size: int, o: int, k: int, stride: int = 1, padding: int | None = None, groups: int = 1
) -> Convolution:
    """A square image and kernel; without padding given, a result of size / stride."""
    p = k // 2 if padding is None else padding
    return Convolution(c, size, size, o, (k, k), (stride, stride), (p, p), groups=groups)


def depthwise(c: int, size: int, k: int, stride: int = 1) -> Convolution:
    return square(c, size, c, k, stride, groups=c)


def audio(c: int, length: int, o: int, k: int, stride: int = 1, dilation: int = 1) -> Convolution:
    """One-dimensional, padded to keep its length (divided by the stride)."""
    padding = dilation * (k - 1) // 2
    return Convolution(c, 1, length, o, (1, k), (1, stride), (0, padding), (1, dilation))


def transposed(c: int, size: int, o: int, k: int) -> Convolution:
    """Twice as high and wide."""
    p = (k - 2) // 2
    return Convolution(c, size, size, o, (k, k), (2, 2), (p, p), transposed=True)


def resnet50() -> Iterator[Convolution]:
    """He et al. 2015, with the stride in the 3x3 as torchvision has it."""
    yield square(3, 224, 64, 7, 2)
    c, size = 64, 56
    for blocks, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
        for block in range(blocks):
            s = stride if block == 0 else 1
            yield square(c, size, width, 1)
            yield square(width, size, width, 3, s)
            yield square(width, size // s, 4 * width, 1)
            if block == 0:
                yield square(c, size, 4 * width, 1, s)
            c, size = 4 * width, size // s


def inverted_residuals(
    c: int, size: int, blocks: list[tuple[int, int, int, int, int]]
) -> Iterator[Convolution]:
    """Blocks (expanded, out, kernel, stride, channels of squeeze and excitation or 0)."""
    for expanded, out, k, stride, squeezed in blocks:
        if expanded != c:
            yield square(c, size, expanded, 1)
        yield depthwise(expanded, size, k, stride)
        size //= stride
        if squeezed:
            yield square(expanded, 1, squeezed, 1)
            yield square(squeezed, 1, expanded, 1)
        yield square(expanded, size, out, 1)
        c = out


def mobilenet_v2() -> Iterator[Convolution]:
    """Sandler et al. 2018, table 2."""
    yield square(3, 224, 32, 3, 2)
    c, blocks = 32, []
    for expansion, out, count, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for i in range(count):
            blocks.append((expansion * c, out, 3, stride if i == 0 else 1, 0))
            c = out
    yield from inverted_residuals(32, 112, blocks)
    yield square(320, 7, 1280, 1)


def mobilenet_v3() -> Iterator[Convolution]:
    """Howard et al. 2019, tables 1 and 2 (large and small)."""
    yield square(3, 224, 16, 3, 2)
    large = (
        (16, 16, 3, 1, 0),
        (64, 24, 3, 2, 0),
        (72, 24, 3, 1, 0),
        (72, 40, 5, 2, 24),
        (120, 40, 5, 1, 32),
        (240, 80, 3, 2, 0),
        (200, 80, 3, 1, 0),
        (184, 80, 3, 1, 0),
        (480, 112, 3, 1, 120),
        (672, 112, 3, 1, 168),
        (672, 160, 5, 2, 168),
        (960, 160, 5, 1, 240),
    )
    yield from inverted_residuals(16, 112, list(large))
    yield square(160, 7, 960, 1)
    small = (
        (16, 16, 3, 2, 8),
        (72, 24, 3, 2, 0),
        (88, 24, 3, 1, 0),
        (96, 40, 5, 2, 24),
        (240, 40, 5, 1, 64),
        (120, 48, 5, 1, 32),
        (144, 48, 5, 1, 40),
        (288, 96, 5, 2, 72),
        (576, 96, 5, 1, 144),
    )
    yield from inverted_residuals(16, 112, list(small))
    yield square(96, 7, 576, 1)


def efficientnet_b0() -> Iterator[Convolution]:
    """Tan and Le 2019, table 1; squeeze and excitation to a quarter of the block's input."""
    yield square(3, 224, 32, 3, 2)
    c, blocks = 32, []
    for expansion, out, count, k, stride in (
        (1, 16, 1, 3, 1),
        (6, 24, 2, 3, 2),
        (6, 40, 2, 5, 2),
        (6, 80, 3, 3, 2),
        (6, 112, 3, 5, 1),
        (6, 192, 4, 5, 2),
        (6, 320, 1, 3, 1),
    ):
        for i in range(count):
            blocks.append((expansion * c, out, k, stride if i == 0 else 1, c // 4))
            c = out
    yield from inverted_residuals(32, 112, blocks)
    yield square(320, 7, 1280, 1)


# Where the convolutions come from, and they. A row that two sources share is the first's.
SOURCES: dict[str, tuple[Convolution, ...]] = {
    "first": (  # 3 channels and 1: photographs and digits
        square(3, 224, 64, 7, 2),
        square(3, 224, 32, 3, 2),
        square(3, 224, 16, 3, 2),
        square(3, 224, 64, 3),
        square(3, 224, 64, 11, 4, 2),
        square(3, 224, 96, 4, 4, 0),
        square(3, 32, 32, 3),
        square(1, 28, 16, 5),
    ),
    "basic": (  # the shapes that octavo's kernels were designed by
        square(64, 56, 64, 3),
        square(64, 56, 256, 1),
        square(128, 28, 128, 3),
        square(256, 14, 256, 3),
        square(512, 7, 512, 3),
        square(1024, 14, 256, 1),
        square(512, 28, 1024, 1, 2),
        depthwise(32, 112, 3),
        depthwise(144, 56, 3, 2),
        depthwise(192, 28, 3),
        depthwise(576, 14, 3),
        depthwise(960, 7, 3),
        square(128, 28, 128, 3, groups=4),
    ),
    "resnet50": tuple(resnet50()),
    "mobilenetv2": tuple(mobilenet_v2()),
    "mobilenetv3": tuple(mobilenet_v3()),
    "efficientnetb0": tuple(efficientnet_b0()),
    "depthwise": (  # channel counts that no vector divides too
        *(depthwise(c, 28, k, s) for k in (3, 5) for s in (1, 2) for c in (33, 72, 100)),
        *(depthwise(17, 56, k, s) for k in (3, 5) for s in (1, 2)),
        *(depthwise(c, 14, k) for k in (3, 5) for c in (250, 363)),
    ),
    "grouped": (
        *(square(g * each, 28, g * each, 3, groups=g) for g in (2, 4, 8) for each in (16, 32, 64)),
        *(square(32 * each, 14, 32 * each, 3, groups=32) for each in (4, 8, 16)),
        square(128, 56, 128, 3, groups=32),  # ResNeXt-50's first stage
        square(256, 56, 256, 3, 2, groups=32),
        square(96, 28, 96, 3, groups=8),
        square(240, 28, 240, 1, groups=3),  # ShuffleNet
        square(96, 27, 256, 5, groups=2),  # AlexNet
    ),
    "audio": (
        audio(40, 1000, 128, 5),  # features of speech
        audio(64, 4000, 64, 3),
        audio(64, 16000, 64, 9),
        audio(128, 2000, 128, 25),
        audio(256, 500, 256, 11),
        audio(32, 8000, 64, 15, stride=2),
        audio(1, 16000, 64, 10, stride=5),  # the wave itself
        *(audio(64, 4000, 128, 3, dilation=d) for d in (2, 8, 64)),
        Convolution(256, 28, 28, 256, (3, 3), (1, 1), (2, 2), (2, 2)),  # DeepLab
        Convolution(64, 56, 56, 64, (3, 3), (1, 1), (6, 6), (6, 6)),
    ),
    "transposed": tuple(
        transposed(c, size, o, k)
        for k in (2, 4)
        for c, size, o in ((64, 56, 32), (128, 28, 64), (256, 14, 128), (24, 60, 24))
    ),
}


def convolutions(sources: list[str] | None = None) -> list[tuple[str, Convolution]]:
    """Every distinct convolution with its source, in the list's order."""
    seen: dict[Convolution, str] = {}
    for source, found in SOURCES.items():
        for convolution in found:
            seen.setdefault(convolution, source)
    return [(s, c) for c, s in seen.items() if sources is None or s in sources]


# Operators on 8-bit images, (height, width, channels) each -----------------------------------------


@dataclass(frozen=True)
class TensorOp:
    """One operator on images of height x width x channels; window is (kernel, stride, padding)."""

    kind: str
    image: Shape
    window: tuple[int, int, int] = (0, 0, 0)

    @property
    def name(self) -> str:
        """For instance "max_pool 112x112x64, 3x3 stride 2 pad 1"."""
        text = f"{self.kind} {name(self.image)}"
        k, stride, padding = self.window
        if not k:
            return text
        return f"{text}, {k}x{k} stride {stride}" + (f" pad {padding}" if padding else "")


# Of most, one that no level 2 cache holds, so that memory limits it, and one of a network's middle.
TENSOR_OPS: tuple[TensorOp, ...] = (
    *(TensorOp("add", image) for image in ((56, 56, 256), (14, 14, 1024), (28, 28, 40))),
    *(TensorOp("multiply", image) for image in ((56, 56, 256), (14, 14, 480))),
    *(TensorOp("scale_channels", i) for i in ((112, 112, 96), (28, 28, 120), (7, 7, 960))),
    TensorOp("max_pool", (112, 112, 64), (3, 2, 1)),
    TensorOp("max_pool", (112, 112, 192), (2, 2, 0)),
    TensorOp("max_pool", (56, 56, 128), (2, 2, 0)),
    TensorOp("max_pool", (20, 20, 256), (5, 1, 2)),
    TensorOp("average_pool", (56, 56, 128), (2, 2, 0)),
    TensorOp("average_pool", (14, 14, 480), (3, 1, 1)),
    *(TensorOp("global_average_pool", i) for i in ((7, 7, 2048), (7, 7, 1280), (28, 28, 120))),
    *(TensorOp("concat", image) for image in ((56, 56, 256), (28, 28, 128), (14, 14, 256))),
    *(TensorOp("concat_rescaled", image) for image in ((56, 56, 256), (28, 28, 128))),
    *(TensorOp("resize_nearest", image) for image in ((64, 64, 128), (28, 28, 128), (40, 40, 64))),
    *(TensorOp("resize_linear", image) for image in ((28, 28, 128), (40, 40, 64))),
    *(TensorOp("sigmoid", image) for image in ((112, 112, 96), (14, 14, 480))),
    *(TensorOp("hard_swish", image) for image in ((112, 112, 96), (14, 14, 480))),
    TensorOp("leaky_relu", (52, 52, 128)),
)
# Those whose arithmetic is nothing beside the memory that they read and write.
LIGHT = {"add", "multiply", "scale_channels", "concat", "concat_rescaled", "resize_nearest"}
LIGHT |= {"sigmoid", "hard_swish", "leaky_relu"}
