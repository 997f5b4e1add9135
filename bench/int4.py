"""Weights of 4 bits in groups beside onnxruntime's MatMulNBits and our own int8.

    python bench/int4.py [--shapes 1x4096x4096,...] [--groups 32,128] [--threads N] [--isa avx2]

float32 in and out; rows quantized on the fly; onnxruntime with accuracy_level 4 (int8 rows). Results
are compared with rule 7 of docs/int8.md (ours: the same bits) and with float32 weights (theirs) first.
Timing as in compare.py (README.md); prints Markdown, exits with 1 if ours is wrong.
"""

import argparse
import statistics
import sys
from typing import Any

import shapes
from compare import add_timing_options, start

# M, N, K: in L2, in L3, partly and wholly in memory; few and many rows.
SHAPES = [
    (1, 768, 768),
    (1, 1024, 1024),
    (1, 4096, 4096),
    (1, 11008, 4096),
    (1, 32768, 4096),
    (2, 4096, 4096),
    (4, 4096, 4096),
    (8, 4096, 4096),
    (16, 4096, 4096),
    (128, 768, 768),
    (128, 4096, 4096),
]


def bar(m: int, macs_of_weights: int, group: int) -> tuple[float, float]:
    """What ours must be over the peer, and over our int8 (0: no bar)."""
    if m == 1:
        in_memory = macs_of_weights > 100_000_000
        return 1.4, (1.65 if group == 32 else 1.8) if in_memory else 0
    return 1.3 if m == 8 else 0, 0.75 if m == 128 else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--shapes", type=lambda t: [shapes.parse(s) for s in t.split(",")], default=SHAPES
    )
    parser.add_argument(
        "--groups", type=lambda t: [int(g) for g in t.split(",")], default=[32, 128]
    )
    add_timing_options(parser, seconds=3, rounds=21)
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

    import octavo as oc
    from octavo import _core
    from octavo.array.blocked import to_matmul_nbits

    libraries, absent = peers.libraries(_core.isa(), arguments.threads)

    def ours(name: str, layer: Any, x: Any, n: int) -> Entrant:
        out = np.empty((len(x), n), np.float32)
        return Entrant(name, "int4", "octavo", lambda: layer(x, out=out), lambda: layer(x, out=out))

    def theirs(q: Any, x: Any) -> Entrant:
        n, k = q.shape
        b, scales, _ = to_matmul_nbits(q)
        attributes = {
            "domain": "com.microsoft",
            "K": k,
            "N": n,
            "bits": 4,
            "block_size": q.group_size,
            "accuracy_level": 4,
        }
        return peers.onnx_entrant(
            "onnxruntime",
            "int4",
            [("MatMulNBits", "x b scales -> y", attributes)],
            {"x": x},
            {"b": b, "scales": scales},
            np.empty((len(x), n), np.float32),
        )

    def wanted(q: Any, x: Any) -> Any:
        """Rule 7. Scales are powers of two here: the product in a fused multiply-add is exact."""
        scale = np.maximum(np.abs(x).max(axis=1) / np.float32(127), np.float32(2.0**-126))
        rows = np.rint(x / scale[:, None]).astype(np.float32)
        s = np.zeros((len(x), q.shape[0]), np.float32)
        codes = q.codes()
        for g in range(q.scale.shape[1]):
            part = slice(g * q.group_size, (g + 1) * q.group_size)
            s += (rows[:, part] @ codes[:, part].T.astype(np.float32)) * q.scale[:, g]
        return s * scale[:, None]

    lines, wrong = [], False
    for m, n, k in arguments.shapes:
        for group in arguments.groups:
            print(f"{m}x{n}x{k} in groups of {group}", file=sys.stderr, flush=True)
            rng = np.random.default_rng((m, n, k, group))
            x = rng.standard_normal((m, k), dtype=np.float32)
            scale = np.exp2(rng.integers(-9, -5, (n, -(-k // group)))).astype(np.float32)
            codes = rng.integers(-7, 8, (n, k), dtype=np.int8)
            q = oc.QTensor(codes, scale, dtype="int4", axis=0, group_size=group)
            layer = oc.Linear.from_quantized(q)
            entrants = [ours("int4", layer, x, n)]
            if not np.array_equal(entrants[0].result(), wanted(q, x)):
                wrong = True
                print(f"WRONG: {m}x{n}x{k} differs from rule 7", file=sys.stderr)
            eight = oc.QTensor(codes, np.full(n, 0.01, np.float32), axis=0)
            entrants.append(ours("int8", oc.Linear.from_quantized(eight), x, n))
            if "onnxruntime" in libraries:
                peer = theirs(q, x)
                real = x @ q.dequantize().T
                off = float(np.sqrt(((peer.result() - real) ** 2).mean() / (real**2).mean()))
                if off > 0.03:
                    print(f"onnxruntime is off by {off:.3g}", file=sys.stderr)
                entrants.append(peer)
            times = time_rounds(
                entrants,
                rounds=arguments.rounds,
                seconds=arguments.seconds,
                threads=arguments.threads,
            )
            speed = {
                name: m * n * k / statistics.median(spent) / 1e9 for name, spent in times.items()
            }
            over_int8 = ratio(times["int8"], times["int4"])
            peer_bar, int8_bar = bar(m, n * k, group)
            line = [f"{m} x {n} x {k}", str(group), f"{speed['int4']:.0f}", f"{speed['int8']:.0f}"]
            line += [f"{over_int8.median:.2f}", f"{int8_bar}" if int8_bar else "-"]
            if "onnxruntime" in libraries:
                over = ratio(times["onnxruntime"], times["int4"])
                line += [f"{speed['onnxruntime']:.0f}"]
                line += [f"{over.median:.2f} [{over.low:.2f}, {over.high:.2f}]"]
                line += [f"{peer_bar}" if peer_bar else "-"]
            else:
                line += ["-", "-", "-"]
            lines.append(line)
    header = ["M x N x K", "group", "int4", "int8", "over int8", "bar"]
    header += ["onnxruntime", "over it", "its bar"]
    about = {"isa": _core.isa()} | machine.describe(cores, arguments.threads) | libraries
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    for library in sorted(set(absent) & {"onnxruntime"}):
        print(f"without {library}: {absent[library]}")
    print("\n10^9 multiply-accumulates per second, float32 in and out\n")
    print(tables.table(header, lines))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
