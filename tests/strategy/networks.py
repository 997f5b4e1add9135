"""Small networks, made without onnx, that the tests of strategies quantize."""

import numpy as np

from octavo.graph import Graph, Model, Node, Value
from octavo.graph.optimize import optimize


def floats(rng, *shape, scale=1.0):
    return (scale * rng.normal(size=shape)).astype(np.float32)


def network(nodes, constants, shapes, x, y, dtypes=None):
    """A model of nodes (op, inputs, outputs, attributes); `shapes` are those of its values."""
    dtypes = dtypes or {}
    values = {n: Value(n, dtypes.get(n, "float32"), shape) for n, shape in shapes.items()}
    made = [
        Node(f"{op}_{i}", op, inputs, outputs, attributes, 18)
        for i, (op, inputs, outputs, attributes) in enumerate(nodes)
    ]
    graph = Graph("net", [values[x]], [values[y]], made, constants, values)
    optimize(graph)
    return Model(graph)


def images(seed=0, n=32):
    return floats(np.random.default_rng(seed), n, 3, 8, 8)


def cnn(seed=0):
    """Two convolutions with a residual, a pool, a product."""
    rng = np.random.default_rng(seed)
    constants = {
        "w1": floats(rng, 16, 3, 3, 3, scale=0.3),
        "b1": floats(rng, 16),
        "w2": floats(rng, 16, 16, 3, 3, scale=0.1),
        "b2": floats(rng, 16),
        "w3": floats(rng, 5, 16),
        "b3": floats(rng, 5),
    }
    pads = {"pads": (1, 1, 1, 1), "kernel_shape": (3, 3)}
    image = ("n", 16, 8, 8)
    return network(
        [
            ("Conv", ["x", "w1", "b1"], ["a"], pads),
            ("Relu", ["a"], ["r"], {}),
            ("Conv", ["r", "w2", "b2"], ["c"], pads),
            ("Add", ["c", "r"], ["s"], {}),
            ("Relu", ["s"], ["t"], {}),
            ("GlobalAveragePool", ["t"], ["p"], {}),
            ("Flatten", ["p"], ["f"], {"axis": 1}),
            ("Gemm", ["f", "w3", "b3"], ["y"], {"transB": 1}),
        ],
        constants,
        {"x": ("n", 3, 8, 8), **dict.fromkeys("arcst", image), "p": ("n", 16, 1, 1),
         "f": ("n", 16), "y": ("n", 5)},
        "x", "y",
    )  # fmt: skip


def rows(seed=0, n=24, length=5, width=32):
    return floats(np.random.default_rng(seed), n, length, width)


def transformer(seed=0, width=32, outlier=1.0):
    """A block of one head: norm, attention, residual, norm, GELU between products."""
    rng = np.random.default_rng(seed)
    wide = np.ones(width, np.float32)
    wide[3] = outlier
    constants = {
        "g1": wide, "z1": np.zeros(width, np.float32), "g2": wide, "z2": np.zeros(width, np.float32),
        **{f"w{k}": floats(rng, width, width, scale=0.2) for k in "qkvo"},
        "w1": floats(rng, width, 64, scale=0.2), "b1": floats(rng, 64),
        "w2": floats(rng, 64, width, scale=0.2), "b2": floats(rng, width),
        "half": np.array(width**-0.5, np.float32),
    }  # fmt: skip
    row, square = ("n", 5, width), ("n", 5, 5)
    return network(
        [
            ("LayerNormalization", ["x", "g1", "z1"], ["h"], {"axis": -1}),
            ("MatMul", ["h", "wq"], ["q"], {}),
            ("MatMul", ["h", "wk"], ["k"], {}),
            ("MatMul", ["h", "wv"], ["v"], {}),
            ("Transpose", ["k"], ["kt"], {"perm": (0, 2, 1)}),
            ("MatMul", ["q", "kt"], ["s"], {}),
            ("Mul", ["s", "half"], ["m"], {}),
            ("Softmax", ["m"], ["p"], {"axis": -1}),
            ("MatMul", ["p", "v"], ["a"], {}),
            ("MatMul", ["a", "wo"], ["o"], {}),
            ("Add", ["x", "o"], ["r"], {}),
            ("LayerNormalization", ["r", "g2", "z2"], ["h2"], {"axis": -1}),
            ("MatMul", ["h2", "w1"], ["u1"], {}),
            ("Add", ["u1", "b1"], ["u"], {}),
            ("Gelu", ["u"], ["g"], {}),
            ("MatMul", ["g", "w2"], ["d1"], {}),
            ("Add", ["d1", "b2"], ["d"], {}),
            ("Add", ["r", "d"], ["y"], {}),
        ],
        constants,
        {**dict.fromkeys(("x", "h", "q", "k", "v", "a", "o", "r", "h2", "d1", "d", "y"), row),
         "kt": ("n", width, 5), **dict.fromkeys("smp", square),
         **dict.fromkeys(("u1", "u", "g"), ("n", 5, 64))},
        "x", "y",
    )  # fmt: skip


def signal_to_error(expected, got):
    """In dB."""
    off = np.sum(np.square(got.astype(np.float64) - expected))
    return 10 * np.log10(np.sum(np.square(expected.astype(np.float64))) / off)
