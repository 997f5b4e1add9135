"""`octavo compare`: two forms of one model, layer by layer."""

from __future__ import annotations

import argparse
import importlib
import os

import octavo as oc
from octavo.cli import data_options, terminal
from octavo.graph.native_file import replacing
from octavo.strategy.compare import Comparison

PICTURES = (".png", ".svg", ".pdf")


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add `octavo compare` to the parser."""
    parser = commands.add_parser(
        "compare",
        parents=[common],
        help="error of each layer of a quantized model",
        description="Run two forms of one model (.onnx or .octavo) side by side on the same data and "
        "print, for each layer, how far its values in the second are from those in the first: "
        "signal over error (SQNR), how much of it this layer loses, cosine, largest error.",
    )
    parser.add_argument("model", metavar="A", help="the model as it was: an .onnx or .octavo file")
    parser.add_argument("other", metavar="B", help="what was made of it")
    data_options.add_data_options(parser)
    parser.add_argument(
        "-n",
        "--worst",
        type=terminal.positive_int,
        metavar="N",
        help="the N layers that lose most, worst first (default: all, as they run)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help=f".json to write the figures to, or {', '.join(PICTURES)} for a picture",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load, run both, print and write; return the exit status."""
    draws = check_output(options.output)
    model, other = oc.load(options.model), oc.load(options.other)
    data = data_options.read_dataset(options, model)
    made = oc.compare(model, other, data, progress=data_options.progress_of(options))
    if draws:
        draw(made, options.output)
    elif options.output:
        made.save(options.output)
    shown = made if options.worst is None else Comparison(made.worst[: options.worst], made.note)
    if options.json:
        terminal.print_json(shown.to_dict())
    else:
        terminal.print_text(str(shown))
    return 0


def check_output(path: str | None) -> bool:
    """Return whether a picture is wanted; refuse what could only fail after the models have run."""
    if path is None:
        return False
    if not path.endswith((".json", *PICTURES)):
        expected = ", ".join((".json", *PICTURES[:-1]))
        raise ValueError(f"-o is {path!r}, expected a name in {expected} or {PICTURES[-1]}")
    folder = os.path.dirname(path)
    if folder and not os.path.isdir(folder):
        raise ValueError(f"there is no folder {folder!r} to write {path!r} to")
    if path.endswith(".json"):
        return False
    try:
        importlib.import_module("matplotlib").use("Agg")  # to a file: no window
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'octavo[plot]'") from error
    return True


def draw(made: Comparison, path: str) -> None:
    """Write the picture; an interruption leaves what was there."""
    figure = made.plot().figure
    with replacing(path) as file:
        figure.savefig(file, format=path.rpartition(".")[2], dpi=150)
