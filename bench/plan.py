"""What a model of small layers costs beside its arithmetic: a chain of quantized additions.

    python bench/plan.py [--layers 100] [--values 64] [--threads N]

Microseconds a call of the model, of its plan alone (one call from Python), and of its steps, each a
call of its own as in `Model.trace`. Timing as in compare.py (README.md); exits with 1 if results differ,
or if a call of the model takes longer than the bar.
"""

import argparse
import statistics
import sys

from compare import add_timing_options, start

# A chain of 100 additions of 64 values, on one thread.
BAR_MICROSECONDS = 15.0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--values", type=int, default=64)
    add_timing_options(parser, seconds=2, rounds=31)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    start(arguments)
    # These import NumPy, which reads the environment.
    import numpy as np
    from rounds import Entrant, time_rounds

    import octavo as oc
    from octavo.graph import Graph, Model, Node, Value

    count, last = arguments.values, f"v{arguments.layers}"
    q = oc.QParams(0.05, 120)
    attributes = {"a_qparams": q, "b_qparams": q, "out_qparams": q}
    nodes = [
        Node(f"add{i}", "octavo.Add", [f"v{i}", "z"], [f"v{i + 1}"], attributes)
        for i in range(arguments.layers)
    ]
    inputs = [Value(name, "uint8", (count,)) for name in ("v0", "z")]
    model = Model(Graph("chain", inputs, [Value(last, "uint8", (count,))], nodes, {}, {}))
    rng = np.random.default_rng(0)
    feeds = {
        "v0": rng.integers(0, 256, count).astype(np.uint8),
        "z": rng.integers(110, 131, count).astype(np.uint8),
    }
    model.prepare(feeds)
    ((segment,),) = (plan.units for plan in model._executor._plans.values())

    calls = {
        "a call of the model": lambda: model.run(feeds)[last],
        "its plan alone": lambda: segment.plan(*feeds.values())[0],
        "its steps": lambda: model.trace(feeds, lambda *_: None)[last],
    }
    expected = model.trace(feeds, lambda *_: None)[last]
    wrong = [name for name, call in calls.items() if not np.array_equal(call(), expected)]
    entrants = [Entrant(name, name, "octavo", call, call) for name, call in calls.items()]
    times = time_rounds(
        entrants, rounds=arguments.rounds, seconds=arguments.seconds, threads=arguments.threads
    )
    medians = {name: statistics.median(times[name]) * 1e6 for name in calls}
    print(
        f"{arguments.layers} additions of {count} values, us a call, {arguments.threads} threads:"
    )
    for name, value in medians.items():
        print(f"  {name:20} {value:8.2f}")
    if wrong:
        print(f"wrong: {', '.join(wrong)}", file=sys.stderr)
    is_the_bars = (arguments.layers, count, arguments.threads) == (100, 64, 1)
    missed = is_the_bars and medians["a call of the model"] > BAR_MICROSECONDS
    if missed:
        print(f"bar missed: {BAR_MICROSECONDS} us a call", file=sys.stderr)
    return int(bool(wrong) or missed)


if __name__ == "__main__":
    sys.exit(main())
