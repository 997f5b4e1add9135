"""`octavo evaluate`: models side by side: metric, time, size."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import octavo as oc
from octavo.cli import data_options, machine, terminal
from octavo.graph import Model


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add `octavo evaluate` to the parser."""
    parser = commands.add_parser(
        "evaluate",
        parents=[common],
        help="accuracy, time and size of models, side by side",
        description="Run models (.onnx or .octavo) on the same data and print for each the metric, "
        "the milliseconds of a call, and the size of its weights. The first model is the reference: "
        "before and after quantization, say.",
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help="an .onnx or .octavo file")
    data_options.add_data_options(parser)
    data_options.add_metric_option(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help=".json to write the figures to")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load, evaluate, print and write; return the exit status."""
    if options.output and not options.output.endswith(".json"):
        raise ValueError(f"-o is {options.output!r}, expected a name that ends in .json")
    metric = data_options.read_metric(options)
    models = load_models(options.models)
    data = data_options.read_dataset(options, next(iter(models.values())))
    made = oc.evaluate(models, data, metric, progress=data_options.progress_of(options))
    if options.output:
        made.save(options.output)
    if options.json:
        terminal.print_json(made.to_dict())
        return 0
    headers, rows, note = made.cells()
    terminal.print_table(headers, rows)
    terminal.print_text(f"\n{note}")
    terminal.print_notes(options, machine.load_notes())
    return 0


def load_models(paths: Sequence[str]) -> dict[str, Model]:
    """Return the models by the names of their files, or by their paths where names are equal."""
    names = [os.path.basename(path) for path in paths]
    if len({*names}) < len(names):
        names = list(paths)
    if len({*names}) < len(names):
        raise ValueError("a model is named twice")
    return {name: oc.load(path) for name, path in zip(names, paths, strict=True)}
