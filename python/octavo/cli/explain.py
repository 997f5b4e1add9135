"""`octavo explain`: what each layer of a model computes in, and why."""

from __future__ import annotations

import argparse

import octavo as oc
from octavo.cli import terminal


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add `octavo explain` to the parser."""
    parser = commands.add_parser(
        "explain",
        parents=[common],
        help="what each layer computes in, and why",
        description="Print the precision of each layer of a model that octavo has quantized (.onnx "
        "or .octavo), why it is not the one asked for, and what was done for the layer: the ratio "
        "of signal to error of its output, before and after each step. Of any other model, the "
        "precision of the kernels.",
    )
    parser.add_argument("model", metavar="MODEL", help="an .onnx or .octavo file")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load and print; return the exit status."""
    explanation = oc.explain(oc.load(options.model))
    if options.json:
        terminal.print_json(explanation.to_dict())
    else:
        terminal.print_text(str(explanation))
    return 0
