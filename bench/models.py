"""Whole ONNX models beside onnxruntime: time to load, time a call.

    python bench/models.py MODEL.onnx ... [--batch 1,64] [--size NAME=N ...] [--threads N]

Inputs are random, of the shapes that the model says: the first free dimension is the batch, others are
those of --size, else 16. Results are compared with onnxruntime's; the largest difference, relative to
the largest value, is printed. Timing as in compare.py (README.md); prints Markdown.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from compare import add_timing_options, start


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx")
    parser.add_argument(
        "--batch", type=lambda text: [int(each) for each in text.split(",")], default=[1]
    )
    parser.add_argument("--size", action="append", default=[], metavar="NAME=N")
    add_timing_options(parser, seconds=2, rounds=15)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    cores = start(arguments)
    # These import NumPy, which reads the environment.
    import machine
    import numpy as np
    import onnxruntime
    import tables
    from rounds import Entrant, ratio, time_rounds

    import octavo as oc

    sizes = dict(each.split("=", 1) for each in arguments.size)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = arguments.threads, 3

    def feeds_of(model: Any, batch: int) -> dict[str, Any]:
        rng = np.random.default_rng(0)
        feeds = {}
        for value in model.inputs:
            shape = [
                each if isinstance(each, int) else int(sizes.get(each, 16 if i else batch))
                for i, each in enumerate(value.shape)
            ]
            array = rng.normal(size=shape)
            feeds[value.name] = (np.abs(array) if "int" in value.dtype else array).astype(
                value.dtype
            )
        return feeds

    lines = []
    for path in arguments.models:
        print(path.name, file=sys.stderr, flush=True)
        began = time.perf_counter()
        model = oc.load(path)
        loaded = time.perf_counter()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        theirs = time.perf_counter()
        for batch in arguments.batch:
            feeds = feeds_of(model, batch)
            wanted = session.run(None, feeds)
            errors = [
                float(np.abs(y - w).max() / max(np.abs(w).max(), 1e-30))
                for y, w in zip(model.run(feeds).values(), wanted, strict=True)
            ]
            entrants = [
                Entrant(
                    "octavo",
                    "model",
                    "octavo",
                    lambda feeds=feeds, model=model: model.run(feeds),
                    lambda: None,
                    lambda: oc.threads(arguments.threads),
                ),
                Entrant(
                    "onnxruntime",
                    "model",
                    "onnxruntime",
                    lambda feeds=feeds, session=session: session.run(None, feeds),
                    lambda: None,
                ),
            ]
            times = time_rounds(
                entrants,
                rounds=arguments.rounds,
                seconds=arguments.seconds,
                threads=arguments.threads,
            )
            won = ratio(times["onnxruntime"], times["octavo"])
            fallbacks = ", ".join(row.operator for row in model.coverage().fallbacks)
            lines.append(
                (
                    path.stem,
                    str(batch),
                    f"{(loaded - began) * 1e3:.0f} / {(theirs - loaded) * 1e3:.0f}",
                    f"{np.median(times['octavo']) * 1e3:.3f}",
                    f"{np.median(times['onnxruntime']) * 1e3:.3f}",
                    f"{won.median:.2f} ({won.low:.2f} - {won.high:.2f})",
                    f"{max(errors):.1g}",
                    fallbacks or "none",
                )
            )
    facts = machine.describe(cores, arguments.threads)
    print(
        f"{facts['cpu']}, {arguments.threads} threads, {oc.runtime.isa()}; commit {facts['commit']}"
    )
    print(f"\nonnxruntime {onnxruntime.__version__}\n")
    header = ("model", "batch", "load, ms: octavo / onnxruntime", "octavo, ms", "onnxruntime, ms",
              "faster by", "difference", "fallbacks")  # fmt: skip
    print(tables.table(header, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
