"""LSTM and GRU beside torch and onnxruntime, float32 and int8 weights with dynamic activations.

    python bench/recurrent.py [--shapes 128x1x50,...] [--operators lstm,gru] [--threads N]

Shapes are hidden x batch x steps, and as many inputs as hidden. Results are compared with float64
first: float32 must lie within 1e-5 of it, int8 within 0.1. Timing as in compare.py (README.md);
prints Markdown, exits with 1 if ours is wrong.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

from compare import add_timing_options, start

SHAPES = [(128, 1, 50), (128, 8, 50), (512, 1, 50)]
BARS = {("lstm", "int8", 1): 1.3}
NEAR = {"float32": 1e-5, "int8": 0.1}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--shapes",
        type=lambda text: [tuple(map(int, s.split("x"))) for s in text.split(",")],
        default=SHAPES,
    )
    parser.add_argument("--operators", type=lambda text: text.split(","), default=["lstm", "gru"])
    add_timing_options(parser, seconds=2, rounds=31)
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

    def exact(kind: str, x: Any, w: Any, r: Any, b: Any) -> Any:
        """H of each step in float64; a GRU multiplies by its reset gate after the product."""
        w, r, b = (each[0].astype(np.float64) for each in (w, r, b))
        of_x, of_h = np.split(b, 2)
        n = r.shape[1]
        h = c = np.zeros((x.shape[1], n))
        steps = []
        for gates in x @ w.T + of_x:
            state = h @ r.T + of_h
            if kind == "lstm":
                i, o, f, g = np.split(gates + state, 4, axis=1)
                i, o, f = (1 / (1 + np.exp(-each)) for each in (i, o, f))
                c = f * c + i * np.tanh(g)
                h = o * np.tanh(c)
            else:
                z, reset = np.split(1 / (1 + np.exp(-(gates + state)[:, : 2 * n])), 2, axis=1)
                candidate = np.tanh(gates[:, 2 * n :] + reset * state[:, 2 * n :])
                h = (1 - z) * candidate + z * h
            steps.append(h)
        return np.stack(steps)

    def ours(kind: str, precision: str, x: Any, parts: Any) -> Entrant:
        if kind == "lstm":
            layer: Any = oc.LSTM.from_float(*parts, precision=precision)
        else:
            layer = oc.GRU.from_float(*parts, precision=precision, linear_before_reset=True)
        out = tuple(np.empty_like(each) for each in layer(x))
        return Entrant(
            "octavo", precision, "octavo", lambda: layer(x, out=out), lambda: layer(x)[0][:, 0]
        )

    def onnxruntime(kind: str, x: Any, parts: Any) -> list[Entrant]:
        w, r, b = parts
        hidden = r.shape[2]
        out = np.empty((*x.shape[:1], 1, x.shape[1], hidden), np.float32)
        made = []

        def add(name: str, precision: str, node: peers.Node, given: dict[str, Any]) -> None:
            entrant = peers.onnx_entrant(name, precision, [node], {"x": x}, given, out)
            result = entrant.result
            made.append(
                Entrant(name, precision, "onnxruntime", entrant.call, lambda: result()[:, 0])
            )

        attributes = {"hidden_size": hidden}
        more = {} if kind == "lstm" else {"linear_before_reset": 1}
        node: peers.Node = (kind.upper(), "x w r b -> y", attributes | more)
        add("onnxruntime", "float32", node, {"w": w, "r": r, "b": b})
        if kind == "lstm":  # no GRU has int8 weights there
            for name, axes in (("a scale", (0, 1, 2)), ("a scale a row", (2,))):
                given = {"b": b}
                for label, each in (("w", w), ("r", r)):
                    scale = np.abs(each).max(axis=axes, keepdims=True) / np.float32(127)
                    codes = np.rint(each / scale).astype(np.int8).transpose(0, 2, 1)
                    scales = scale.reshape((1,) if len(axes) == 3 else (1, -1))
                    given |= {
                        label: np.ascontiguousarray(codes),
                        f"{label}s": scales,
                        f"{label}z": np.zeros(scales.shape, np.int8),
                    }
                wiring = "x w r b _ _ _ _ ws wz rs rz -> y"
                node = (
                    "DynamicQuantizeLSTM",
                    wiring,
                    attributes | {"domain": "com.microsoft"},
                )
                add(f"onnxruntime, {name}", "int8", node, given)
        return made

    def torch(kind: str, x: Any, parts: Any) -> list[Entrant]:
        module = peers.torch_module()
        hidden = parts[1].shape[2]
        # Its order is i, f, c, o and r, z, h.
        order = [0, 2, 3, 1] if kind == "lstm" else [1, 0, 2]
        w, r = (
            np.concatenate([np.split(each[0], len(order))[i] for i in order]) for each in parts[:2]
        )
        of_x, of_h = (
            np.concatenate([np.split(each, len(order))[i] for i in order])
            for each in np.split(parts[2][0], 2)
        )
        layer = getattr(module.nn, kind.upper())(hidden, hidden).eval()
        named = {"weight_ih_l0": w, "weight_hh_l0": r, "bias_ih_l0": of_x, "bias_hh_l0": of_h}
        layer.load_state_dict({name: module.from_numpy(each) for name, each in named.items()})
        t = module.from_numpy(x)
        module.backends.quantized.engine = "x86"
        dynamic = module.ao.quantization.quantize_dynamic(
            layer, {type(layer)}, dtype=module.qint8, inplace=False
        )
        return [
            peers.torch_entrant("torch", "float32", lambda: layer(t)[0]),
            peers.torch_entrant("torch, dynamic", "int8", lambda: dynamic(t)[0]),
        ]

    makers: dict[str, Callable[[str, Any, Any], list[Entrant]]] = {
        "torch": torch,
        "onnxruntime": onnxruntime,
    }
    lines, wrong = [], False
    for hidden, batch, steps in arguments.shapes:
        for kind in arguments.operators:
            label = f"{hidden} x {batch} x {steps}"
            print(f"{kind} {label}", file=sys.stderr, flush=True)
            rng = np.random.default_rng((hidden, batch, steps))
            rows, bound = (4 if kind == "lstm" else 3) * hidden, hidden**-0.5
            parts = tuple(
                rng.uniform(-bound, bound, shape).astype(np.float32)
                for shape in ((1, rows, hidden), (1, rows, hidden), (1, 2 * rows))
            )
            x = rng.standard_normal((steps, batch, hidden)).astype(np.float32)
            wanted = exact(kind, x, *parts)
            entrants = [ours(kind, precision, x, parts) for precision in NEAR]
            for library, make in makers.items():
                if library in libraries:
                    entrants += make(kind, x, parts)
            for entrant in entrants:
                error = float(np.abs(entrant.result() - wanted).max())
                if error > NEAR[entrant.kind]:
                    text = f"WRONG: {entrant.name} in {entrant.kind} is off by {error:.3g}"
                    print(text, file=sys.stderr)
                    wrong |= entrant.library == "octavo"
            for precision in NEAR:
                taking = [entrant for entrant in entrants if entrant.kind == precision]
                times = time_rounds(
                    taking,
                    rounds=arguments.rounds,
                    seconds=arguments.seconds,
                    threads=arguments.threads,
                )
                middle = {entrant: statistics.median(spent) for entrant, spent in times.items()}
                line = [kind, precision, label, f"{middle['octavo'] * 1e6:.1f}"]
                rivals = [entrant for entrant in middle if entrant != "octavo"]
                if rivals:
                    best = min(rivals, key=middle.__getitem__)
                    over = ratio(times[best], times["octavo"])
                    line += [f"{middle[best] * 1e6:.1f} {best}"]
                    line += [f"{over.median:.2f} [{over.low:.2f}, {over.high:.2f}]"]
                else:
                    line += ["-", "-"]
                bar = BARS.get((kind, precision, batch)) if hidden == 128 else None
                lines.append([*line, "-" if bar is None else str(bar)])
    about = {"isa": _core.isa()} | machine.describe(cores, arguments.threads) | libraries
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    for library in sorted(set(absent) & set(makers)):
        print(f"without {library}: {absent[library]}")
    print("\nMicroseconds, hidden x batch x steps\n")
    head = ["operator", "weights", "shape", "octavo", "best peer", "over it", "bar"]
    print(tables.table(head, lines))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
