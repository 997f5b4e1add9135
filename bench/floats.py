"""float32 products and convolutions beside NumPy, torch and onnxruntime.

    python bench/floats.py [--products 512x512x512,...] [--only TEXT] [--threads N] [--isa avx2]

Weights float32 (and ours also in float16), packed ahead; results into buffers made ahead where the
library allows it (torch's convolutions allocate). Every result must lie within 1e-4 of the exact
one, of its largest value. Images NHWC for us and for torch's channels_last, which leaves that layout only
where it gains; NCHW for onnxruntime. Timing as in compare.py (README.md); prints Markdown, exits with
1 if ours is wrong.
"""

import argparse
import statistics
import sys
from typing import Any

import shapes
from compare import add_timing_options, start

PRODUCTS = [
    *((n, n, n) for n in (64, 256, 512, 1024)),
    (128, 768, 768),
    (128, 3072, 768),
    (1, 768, 768),
    (1, 4096, 4096),
    (8, 4096, 4096),
]
BAR = 0.98  # of the best peer, on each row


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--products",
        type=lambda text: [shapes.parse(s) for s in text.split(",")],
        default=PRODUCTS,
        help="MxNxK,...",
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name holds it")
    add_timing_options(parser, seconds=1, rounds=21)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    cores = start(arguments)
    # These import NumPy, which reads the environment.
    import machine
    import numpy as np
    import peers
    import tables
    from operands_conv import convolve
    from rounds import Entrant, ratio, time_rounds

    import octavo as oc
    from octavo import _core

    libraries, _ = peers.libraries(_core.isa(), arguments.threads)

    def product(m: int, n: int, k: int) -> tuple[list[Entrant], Any]:
        rng = np.random.default_rng((m, n, k))
        x = rng.standard_normal((m, k), dtype=np.float32)
        w = rng.standard_normal((k, n), dtype=np.float32)
        entrants = []
        for precision in ("float32", "float16"):
            layer, out = oc.Linear.from_float(w.T, precision=precision), np.empty((m, n), "f4")

            def call(layer: Any = layer, out: Any = out) -> Any:
                return layer(x, out=out)

            entrants.append(Entrant(f"octavo {precision}", "f", "octavo", call, call))
        y = np.empty((m, n), np.float32)
        entrants.append(
            Entrant("numpy", "f", "numpy", lambda: np.matmul(x, w, out=y), lambda: np.matmul(x, w))
        )
        if "torch" in libraries:
            torch = peers.torch_module()
            tx, tw, ty = torch.from_numpy(x), torch.from_numpy(w), torch.empty(m, n)
            entrants.append(peers.torch_entrant("torch", "f", lambda: torch.mm(tx, tw, out=ty)))
        if "onnxruntime" in libraries:
            node: peers.Node = ("MatMul", "x w -> y", {})
            entrants.append(
                peers.onnx_entrant("onnxruntime", "f", [node], {"x": x}, {"w": w}, np.empty_like(y))
            )
        return entrants, x.astype(float) @ w.astype(float)

    def convolution(s: shapes.Convolution) -> tuple[list[Entrant], Any]:
        rng = np.random.default_rng(0)
        # Whole numbers, of which the exact sums are easily had.
        x = rng.integers(-9, 10, (1, s.c, s.h, s.w)).astype(np.float32)
        w = rng.integers(-9, 10, (s.o, s.c // s.groups, *s.kernel)).astype(np.float32)
        last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        options = {"stride": s.stride, "dilation": s.dilation, "groups": s.groups}
        layer = oc.Conv2d.from_float(
            w, precision="float32", padding=s.padding * 2, layout="NHWC", **options
        )
        out = np.empty((1, *s.out, s.o), np.float32)

        def result() -> Any:
            return layer(last, out=out).transpose(0, 3, 1, 2)

        entrants = [Entrant("octavo float32", "f", "octavo", lambda: layer(last, out=out), result)]
        if "torch" in libraries:
            torch = peers.torch_module()
            for name, form in (("torch", "contiguous_format"), ("torch last", "channels_last")):
                given = [torch.from_numpy(a).to(memory_format=getattr(torch, form)) for a in (x, w)]

                def call(given: Any = given) -> Any:
                    return torch.nn.functional.conv2d(*given, padding=s.padding, **options)

                entrants.append(peers.torch_entrant(name, "f", call))
        if "onnxruntime" in libraries:
            attributes = {
                "strides": s.stride,
                "pads": s.padding * 2,
                "dilations": s.dilation,
                "group": s.groups,
            }
            node: peers.Node = ("Conv", "x w -> y", attributes)
            y = np.empty((1, s.o, *s.out), np.float32)
            entrants.append(peers.onnx_entrant("onnxruntime", "f", [node], {"x": x}, {"w": w}, y))
        return entrants, convolve(s, last, w).transpose(0, 3, 1, 2)

    rows = [
        (f"product {' x '.join(map(str, p))}", p[0] * p[1] * p[2], product, p)
        for p in arguments.products
    ]
    rows += [
        (f"conv {s.name}", s.macs, convolution, (s,))
        for _, s in shapes.convolutions(["basic", "grouped", "depthwise"])
        if not s.transposed
    ]
    lines, wrong = [], False
    for name, macs, make, about in rows:
        if arguments.only not in name:
            continue
        print(name, file=sys.stderr, flush=True)
        entrants, exact = make(*about)
        for entrant in entrants:
            error = np.abs(entrant.result() - exact).max() / np.abs(exact).max()
            if error > (1e-3 if "float16" in entrant.name else 1e-4):
                print(f"WRONG: {entrant.name} is off by {error:.3g}", file=sys.stderr)
                wrong |= entrant.library == "octavo"
        times = time_rounds(
            entrants, rounds=arguments.rounds, seconds=arguments.seconds, threads=arguments.threads
        )
        middle = {entrant: statistics.median(spent) for entrant, spent in times.items()}
        rivals = [entrant for entrant in middle if not entrant.startswith("octavo")]
        beside = ["-", "-"]
        if rivals:
            best = min(rivals, key=middle.__getitem__)
            over = ratio(times[best], times["octavo float32"])
            beside = [
                f"{middle[best] * 1e6:.1f} {best}",
                f"{over.median:.2f} [{over.low:.2f}, {over.high:.2f}]"
                + (" SHORT" if over.median < BAR else ""),
            ]
        half = middle.get("octavo float16")
        lines.append(
            [
                name,
                f"{middle['octavo float32'] * 1e6:.1f}",
                f"{macs / middle['octavo float32'] / 1e9:.0f}",
                f"{half * 1e6:.1f}" if half else "-",
                *beside,
            ]
        )
    known = {"isa": _core.isa()} | machine.describe(cores, arguments.threads) | libraries
    print(", ".join(f"{name} {value}" for name, value in known.items()))
    print("\nMicroseconds\n")
    heads = ["row", "float32", "10^9 macs/s", "float16 weights", "best peer", f"over it ({BAR})"]
    print(tables.table(heads, lines))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
