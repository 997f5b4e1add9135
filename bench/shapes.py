"""The one list of shapes that the benches time.

A product is (m, n, k): x of m rows and k columns by weights of k rows and n columns.
"""

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
