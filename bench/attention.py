"""Attention beside torch and onnxruntime.

    python bench/attention.py [--tokens 128,512] [--heads 12] [--depth 64] [--causal] [--threads N]

Results are compared with float64 first: float32 must lie within 1e-5 of it, 8 bits and bfloat16
within a twentieth of its norm. Timing as in compare.py (README.md); prints Markdown, exits with 1 if
ours is wrong. onnxruntime takes heads side by side in a row, as its models do, and so moves them
itself.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from typing import Any

from compare import add_timing_options, start

BARS = {"octavo int8 codes": {"peer": 1.5, "octavo float32": 2.0}}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--tokens", type=lambda text: [int(n) for n in text.split(",")], default=[128, 512]
    )
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--depth", type=int, default=64)
    parser.add_argument("--causal", action="store_true")
    add_timing_options(parser, seconds=4, rounds=31)
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

    libraries, absent = peers.libraries(_core.isa(), arguments.threads)
    causal, depth = arguments.causal, arguments.depth

    def exact(q: Any, k: Any, v: Any) -> Any:
        q, k, v = (x.astype(np.float64) for x in (q, k, v))
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(depth)
        if causal:
            scores[..., ~np.tri(scores.shape[-1], dtype=bool)] = -np.inf
        e = np.exp(scores - scores.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True) @ v

    def ours(q: Any, k: Any, v: Any) -> list[Entrant]:
        codes = [oc.quantize(x, "int8") for x in (q, k, v)]
        cache = oc.nn.KVCache(k.shape[-2])
        cache.append(k, v)
        out = np.empty_like(q)
        calls: dict[str, Callable[[], Any]] = {
            "int8 codes": lambda: oc.attention(*codes, causal=causal, out=out),
            "int8 cache": lambda: oc.attention(q, cache, causal=causal, out=out),
            "int8 floats": lambda: oc.attention(q, k, v, precision="int8", causal=causal, out=out),
            "float32": lambda: oc.attention(q, k, v, causal=causal, out=out),
        }
        return [
            Entrant(f"octavo {name}", name, "octavo", call, call) for name, call in calls.items()
        ]

    def torch(q: Any, k: Any, v: Any) -> list[Entrant]:
        module = peers.torch_module()
        attend = module.nn.functional.scaled_dot_product_attention
        floats = [module.from_numpy(x) for x in (q, k, v)]
        halves = [x.to(module.bfloat16) for x in floats]

        def rounded() -> Any:
            return attend(*halves, is_causal=causal)

        half = peers.torch_entrant("torch bfloat16", "bfloat16", rounded)
        return [
            peers.torch_entrant(
                "torch float32", "float32", lambda: attend(*floats, is_causal=causal)
            ),
            Entrant(
                half.name,
                half.kind,
                half.library,
                half.call,
                peers.torch_entrant("", "", lambda: rounded().float()).result,
                half.context,
            ),
        ]

    def onnxruntime(q: Any, k: Any, v: Any) -> list[Entrant]:
        batch, heads, tokens, _ = q.shape

        def in_rows(x: Any) -> Any:
            return np.ascontiguousarray(x.swapaxes(1, 2)).reshape(batch, tokens, -1)

        feeds = dict(zip("qkv", map(in_rows, (q, k, v)), strict=True))
        attributes = {
            "domain": "com.microsoft",
            "num_heads": heads,
            "unidirectional": int(causal),
        }
        node = ("MultiHeadAttention", "q k v -> y", attributes)
        entrant = peers.onnx_entrant(
            "onnxruntime float32", "float32", [node], feeds, {}, np.empty_like(feeds["q"])
        )

        def by_head() -> Any:
            return entrant.result().reshape(batch, tokens, heads, -1).swapaxes(1, 2)

        return [
            Entrant(entrant.name, entrant.kind, entrant.library, entrant.call, by_head),
        ]

    makers = {"octavo": ours, "torch": torch, "onnxruntime": onnxruntime}
    lines, wrong = [], False
    for tokens in arguments.tokens:
        shape = (1, arguments.heads, tokens, depth)
        print(" x ".join(map(str, shape)), file=sys.stderr, flush=True)
        rng = np.random.default_rng(shape)
        q, k, v = (rng.standard_normal(shape, np.float32) for _ in range(3))
        wanted = exact(q, k, v)
        entrants: list[Entrant] = []
        for library, make in makers.items():
            if library == "octavo" or library in libraries:
                entrants += make(q, k, v)
        for entrant in entrants:
            difference = entrant.result() - wanted
            if entrant.kind == "float32":
                right = np.abs(difference).max() <= 1e-5
            else:
                right = np.linalg.norm(difference) <= np.linalg.norm(wanted) / 20
            if not right:
                print(f"WRONG: {entrant.name} by {np.abs(difference).max():.3g}", file=sys.stderr)
                wrong |= entrant.library == "octavo"
        times = time_rounds(
            entrants,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
            threads=arguments.threads,
        )
        middle = {name: statistics.median(spent) for name, spent in times.items()}
        rivals = [e.name for e in entrants if e.library != "octavo"]
        best = min(rivals, key=middle.__getitem__, default=None)
        for entrant in entrants:
            name = entrant.name
            line = [name, str(tokens), f"{middle[name] * 1e6:.0f}"]
            for label, other in (("peer", best), ("octavo float32", "octavo float32")):
                if other is None or entrant.library != "octavo" or other == name:
                    line += ["-", "-"]
                    continue
                over = ratio(times[other], times[name])
                line += [f"{over.median:.2f} [{over.low:.2f}, {over.high:.2f}]"]
                line += [str(BARS.get(name, {}).get(label, "-"))]
            lines.append(line)
    about = {"isa": _core.isa()} | machine.describe(cores, arguments.threads) | libraries
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    for library in sorted(set(absent) & set(makers)):
        print(f"without {library}: {absent[library]}")
    causally = ", causal" if causal else ""
    print(f"\n{arguments.heads} heads of {depth}{causally}: microseconds\n")
    columns = ["", "tokens", "us", "best peer over it", "bar", "our float32 over it", "bar"]
    print(tables.table(columns, lines))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
