"""`octavo run`: run a model on arrays from files."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import octavo as oc
from octavo.cli import terminal
from octavo.graph import Model
from octavo.graph.native_file import replacing


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add `octavo run` to the parser."""
    parser = commands.add_parser(
        "run",
        parents=[common],
        help="run a model",
        description="Run a model (.onnx or .octavo) on arrays from a file, print what its outputs "
        "hold, and write them to another.",
    )
    parser.add_argument("model", metavar="MODEL", help="an .onnx or .octavo file")
    parser.add_argument(
        "--data",
        metavar="FILE",
        required=True,
        help=".npz with an array for each input, or .npy for a model with one",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help=".npz to write the outputs to")
    parser.add_argument(
        "--seconds",
        type=terminal.positive_float,
        metavar="S",
        help="also measure for so long: time a call, and each operator's share of it",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load, run, print and write; return the exit status."""
    if options.output and not options.output.endswith(".npz"):
        raise ValueError(f"-o is {options.output!r}, expected a name that ends in .npz")
    model = oc.load(options.model)
    feeds = read_feeds(model, options.data)
    results = model.run(feeds)
    if options.output:
        write(results, options.output)
    timing = None if options.seconds is None else model.benchmark(feeds, seconds=options.seconds)
    if options.json:
        report: dict[str, Any] = {"outputs": {name: summary(y) for name, y in results.items()}}
        if timing is not None:
            report["seconds"] = timing._asdict()
            report["operators"] = [row._asdict() for row in model.coverage(feeds).rows]
        terminal.print_json(report)
        return 0
    rows = []
    for name, y in results.items():
        facts = summary(y)
        shown = [facts[key] for key in ("least", "mean", "greatest")]
        numbers = ["-" if each is None else f"{each:.6g}" for each in shown]
        rows.append((name, facts["dtype"], str(tuple(facts["shape"])), *numbers))
    terminal.print_table(("output", "dtype", "shape", "least", "mean", "greatest"), rows)
    if timing is not None:
        terminal.print_text(f"\n{timing}\n\n{model.coverage(feeds)}")
    return 0


def read_feeds(model: Model, path: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of a file by input name."""
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        if len(model.inputs) != 1:
            names = ", ".join(value.name for value in model.inputs)
            raise ValueError(f"{path} holds one array, the model has inputs {names}; give an .npz")
        return {model.inputs[0].name: loaded}
    with loaded:
        return {name: loaded[name] for name in loaded.files}


def write(results: dict[str, Any], path: str) -> None:
    """Write outputs to an .npz; an interruption leaves what was there."""
    with replacing(path) as file:
        np.savez(file, **results)


def summary(y: Any) -> dict[str, Any]:
    """Return what is worth knowing of an output at a glance.

    >>> summary(np.array([1.0, 3.0], np.float32))
    {'dtype': 'float32', 'shape': [2], 'least': 1.0, 'mean': 2.0, 'greatest': 3.0}
    """
    array = np.asarray(y)
    known = array.dtype.kind in "biuf" and array.size > 0
    least, mean, greatest = (
        (float(array.min()), float(array.mean(dtype=np.float64)), float(array.max()))
        if known
        else (None, None, None)
    )
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "least": least,
        "mean": mean,
        "greatest": greatest,
    }
