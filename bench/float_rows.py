"""Float operators between layers beside torch and onnxruntime.

    python bench/float_rows.py [--shapes 128x768,...] [--operators softmax,...] [--threads N]

float32 in and out, along the last axis. Results are compared with float64 first: all must lie within
1e-5 of it. Timing as in compare.py (README.md); prints Markdown, exits with 1 if ours is wrong.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from typing import Any

from compare import add_timing_options, start

SHAPES = [(128, 768), (12, 128, 128)]
OPERATORS = ("softmax", "layer_norm", "rms_norm", "gelu", "gelu_tanh", "silu", "sigmoid", "exp")
BARS = dict.fromkeys(("softmax", "layer_norm", "gelu"), 1.3)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--shapes",
        type=lambda text: [tuple(map(int, s.split("x"))) for s in text.split(",")],
        default=SHAPES,
    )
    parser.add_argument("--operators", type=lambda text: text.split(","), default=OPERATORS)
    add_timing_options(parser, seconds=1, rounds=31)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    cores = start(arguments)
    # These import NumPy, which reads the environment.
    import machine
    import numpy as np
    import peers
    import tables
    from rounds import Entrant, ratio, time_rounds

    from octavo import _core, nn

    libraries, absent = peers.libraries(_core.isa(), arguments.threads)
    erf = np.vectorize(math.erf, otypes=[float])
    cubic = math.sqrt(2 / math.pi)

    def centred(x: Any) -> Any:
        return x - x.mean(-1, keepdims=True)

    def by_root_mean_square(x: Any) -> Any:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)

    exact: dict[str, Callable[[Any], Any]] = {
        "softmax": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
        "layer_norm": lambda x: by_root_mean_square(centred(x)),
        "rms_norm": by_root_mean_square,
        "gelu": lambda x: x / 2 * (1 + erf(x / math.sqrt(2))),
        "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(cubic * (x + 0.044715 * x**3))),
        "silu": lambda x: x / (1 + np.exp(-x)),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "exp": np.exp,
    }

    def ours(name: str, x: Any) -> Entrant:
        size = x.shape[-1]
        out, w, b = np.empty_like(x), np.ones(size, np.float32), np.zeros(size, np.float32)
        function = getattr(nn, name.removesuffix("_tanh"))
        calls: dict[str, Callable[[], Any]] = {
            "layer_norm": lambda: nn.layer_norm(x, w, b, out=out),
            "rms_norm": lambda: nn.rms_norm(x, w, out=out),
            "gelu_tanh": lambda: nn.gelu(x, approximate="tanh", out=out),
        }
        call = calls.get(name, lambda: function(x, out=out))
        return Entrant("octavo", name, "octavo", call, call)

    def torch(name: str, x: Any) -> Entrant:
        module = peers.torch_module()
        f, t = module.nn.functional, module.from_numpy(x)
        size = (x.shape[-1],)
        w, b, out = module.ones(size), module.zeros(size), module.empty_like(t)
        calls: dict[str, Callable[[], Any]] = {
            "softmax": lambda: module.softmax(t, -1, out=out),
            "layer_norm": lambda: f.layer_norm(t, size, w, b),
            "rms_norm": lambda: f.rms_norm(t, size, w, 1e-5),
            "gelu": lambda: f.gelu(t),
            "gelu_tanh": lambda: f.gelu(t, approximate="tanh"),
            "silu": lambda: f.silu(t),
            "sigmoid": lambda: module.sigmoid(t, out=out),
            "exp": lambda: module.exp(t, out=out),
        }
        return peers.torch_entrant("torch", name, calls[name])

    def onnxruntime(name: str, x: Any) -> Entrant:
        microsoft = {"domain": "com.microsoft"}
        nodes: dict[str, peers.Node] = {
            "softmax": ("Softmax", "x -> y", {"axis": -1}),
            "layer_norm": ("LayerNormalization", "x w b -> y", {"axis": -1}),
            "rms_norm": ("SimplifiedLayerNormalization", "x w -> y", {"axis": -1}),
            "gelu": ("Gelu", "x -> y", microsoft),
            "gelu_tanh": ("FastGelu", "x -> y", microsoft),
            "silu": ("QuickGelu", "x -> y", microsoft | {"alpha": 1.0}),
            "sigmoid": ("Sigmoid", "x -> y", {}),
            "exp": ("Exp", "x -> y", {}),
        }
        size, node = x.shape[-1], nodes[name]
        given = {"w": np.ones(size, np.float32), "b": np.zeros(size, np.float32)}
        constants = {label: a for label, a in given.items() if label in node[1].split()}
        return peers.onnx_entrant(
            "onnxruntime", name, [node], {"x": x}, constants, np.empty_like(x)
        )

    makers = {"torch": torch, "onnxruntime": onnxruntime}
    lines, wrong = [], False
    for shape in arguments.shapes:
        for name in arguments.operators:
            label = " x ".join(map(str, shape))
            print(f"{name} {label}", file=sys.stderr, flush=True)
            x = np.random.default_rng(shape).standard_normal(shape, dtype=np.float32) * 2
            wanted = exact[name](x.astype(np.float64))
            entrants = [ours(name, x)]
            entrants += [make(name, x) for library, make in makers.items() if library in libraries]
            for entrant in entrants:
                error = np.abs(entrant.result() - wanted) / np.maximum(1, np.abs(wanted))
                if error.max() > 1e-5:
                    print(f"WRONG: {entrant.name} is off by {error.max():.3g}", file=sys.stderr)
                    wrong |= entrant.library == "octavo"
            times = time_rounds(
                entrants,
                rounds=arguments.rounds,
                seconds=arguments.seconds,
                threads=arguments.threads,
            )
            middle = {entrant: statistics.median(spent) for entrant, spent in times.items()}
            rivals = [entrant for entrant in middle if entrant != "octavo"]
            line = [name, label, f"{middle['octavo'] * 1e6:.1f}"]
            if rivals:
                best = min(rivals, key=middle.__getitem__)
                over = ratio(times[best], times["octavo"])
                line += [f"{middle[best] * 1e6:.1f} {best}"]
                line += [f"{over.median:.2f} [{over.low:.2f}, {over.high:.2f}]"]
            else:
                line += ["-", "-"]
            lines.append([*line, str(BARS.get(name, "-"))])
    about = {"isa": _core.isa()} | machine.describe(cores, arguments.threads) | libraries
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    for library in sorted(set(absent) & set(makers)):
        print(f"without {library}: {absent[library]}")
    print("\nMicroseconds, float32 in and out\n")
    print(tables.table(["operator", "shape", "octavo", "best peer", "over it", "bar"], lines))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
