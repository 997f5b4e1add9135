"""`octavo quantize`: a float model in, one that computes in fewer bits out."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Sequence

import octavo as oc
from octavo.cli import data_options, inspect, machine, terminal
from octavo.graph import Model
from octavo.strategy.dataset import Dataset
from octavo.strategy.explain import Explanation
from octavo.strategy.observers import METHODS
from octavo.strategy.statistics import Statistics

# Operators that are named beside a reason.
_NAMED = 5


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add `octavo quantize` to the parser."""
    parser = commands.add_parser(
        "quantize",
        parents=[common],
        help="quantize a model",
        description="Quantize a float model (.onnx or .octavo) after training, write it, and say "
        "what became of it. With --data, 8-bit layers read and give 8-bit values; without, weights "
        "alone are stored in fewer bits, and each row (image) is quantized as it comes.",
    )
    parser.add_argument("model", metavar="MODEL", help="an .onnx or .octavo file")
    parser.add_argument(
        "-o", "--output", metavar="OUT", required=True, help="an .onnx or .octavo file to write"
    )
    data_options.add_data_options(parser, required=False)
    parser.add_argument(
        "--precision",
        metavar="[LAYERS=]P",
        action="append",
        default=[],
        help="int8 (default), int4/32 and the like, float16 or float32, for all layers or for those "
        "named: --precision 'head*=float32' --precision op:Conv=int8. A name beats a pattern, a "
        "later pattern an earlier one",
    )
    parser.add_argument(
        "--activations",
        choices=("static", "dynamic"),
        help="8-bit values between layers at scales found on the data, or each row (image) by its "
        "own range (default: static with data)",
    )
    parser.add_argument(
        "--method", choices=METHODS, help="how ranges are chosen in calibration (default: auto)"
    )
    parser.add_argument(
        "--rounding", choices=("nearest", "gptq"), default="nearest", help="of weights"
    )
    parser.add_argument(
        "--no-equalize", action="store_true", help="leave scales between layers as they are"
    )
    parser.add_argument(
        "--no-bias-correction", action="store_true", help="leave mean errors in the outputs"
    )
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--stats", metavar="FILE", help="statistics to use (.npz), instead of calibrating"
    )
    given.add_argument(
        "--resume", metavar="FILE", help="statistics of an interrupted call (.npz), to go on from"
    )
    parser.add_argument(
        "--save-stats",
        metavar="FILE",
        help="write statistics to an .npz, on Ctrl-C those gathered so far",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check, load, calibrate, quantize, write and print; return the exit status."""
    check(options)
    precision = read_precision(options.precision)
    model = oc.load(options.model)
    data = None if options.data is None else data_options.read_dataset(options, model)
    apart = options.resume or options.save_stats
    try:
        stats = Statistics.load(options.stats) if options.stats else None
        if apart:
            assert data is not None  # as `check` has seen
            stats = calibrate(model, data, options)
        terminal.progress(options, "quantizing")
        quantized = oc.quantize_model(
            model,
            data,
            precision,
            activations=options.activations or "static",
            stats=stats,
            method=options.method or "auto",
            equalize=not options.no_equalize,
            rounding=options.rounding,
            correct_bias=not options.no_bias_correction,
            progress=data_options.progress_of(options),
        )
    except KeyboardInterrupt as interruption:
        if apart:
            keep(options, getattr(interruption, "statistics", None))
        raise
    terminal.progress(options, f"writing {options.output}")
    quantized.save(options.output)
    show(options, model, quantized)
    notes = machine.load_notes() if options.verbose else []
    if stats is not None and not options.no_equalize:
        notes.append(
            "no scale was moved between layers: the statistics are of the model as it was given"
        )
    terminal.print_notes(options, notes)
    return 0


def check(options: argparse.Namespace) -> None:
    """Refuse, before any work, what could only fail after it.

    Raises
    ------
    ValueError
        Names of files that do not fit; options that need data, without any.
    ImportError
        ONNX is to be written, and onnx is not installed.
    """
    if not options.output.endswith((".onnx", ".octavo")):
        raise ValueError(f"-o is {options.output!r}, expected a name that ends in .onnx or .octavo")
    for name in ("stats", "resume", "save_stats"):
        path = getattr(options, name)
        if path is not None and not path.endswith(".npz"):
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} is {path!r}, expected a name that ends in .npz")
    for path in (options.output, options.save_stats):
        folder = os.path.dirname(path or "")
        if folder and not os.path.isdir(folder):
            raise ValueError(f"there is no folder {folder!r} to write {path!r} to")
    if os.path.exists(options.output) and os.path.samefile(options.model, options.output):
        raise ValueError("-o is the model itself, expected another file")
    if options.output.endswith(".onnx") and importlib.util.find_spec("onnx") is None:
        raise ImportError("writing ONNX needs onnx: pip install 'octavo[models]'")
    if options.stats and (options.method or options.save_stats):
        option = "--method" if options.method else "--save-stats"
        raise ValueError(f"{option} is for calibration, and --stats stands in its place")
    if options.data is None:
        for name in ("method", "resume", "save_stats"):
            if getattr(options, name):
                raise ValueError(f"--{name.replace('_', '-')} needs --data to calibrate with")
        if options.activations == "static" and not options.stats:
            raise ValueError("--activations static needs --data (or --stats) to find scales by")
        if options.rounding == "gptq":
            raise ValueError("--rounding gptq needs --data to round by")


def read_precision(given: Sequence[str]) -> dict[str, str]:
    """Return the precision of layers by their names, int8 where no option says otherwise.

    >>> read_precision([]), read_precision(["int4/32", "head*=float32"])
    ({'*': 'int8'}, {'*': 'int4/32', 'head*': 'float32'})
    """
    found: dict[str, str] = {}
    for text in given:
        layers, _, precision = text.rpartition("=")
        key = layers or "*"
        if key in found:
            raise ValueError(f"--precision says twice what {key!r} is: {found[key]}, {precision}")
        found[key] = precision
    return {"*": found.pop("*", "int8"), **found}


def calibrate(model: Model, data: Dataset, options: argparse.Namespace) -> Statistics:
    """Calibrate as the options say, and write the statistics where they are to be kept."""
    stats = oc.calibrate(
        model,
        data,
        method=options.method or "auto",
        resume=Statistics.load(options.resume) if options.resume else None,
        progress=data_options.progress_of(options),
    )
    if options.save_stats:
        stats.save(options.save_stats)
    return stats


def keep(options: argparse.Namespace, stats: Statistics | None) -> None:
    """Save what an interrupted calibration has gathered, and say how to go on."""
    terminal.clear_progress()
    if stats is None or not options.save_stats:
        return
    stats.save(options.save_stats)
    if not options.quiet:
        print(
            f"octavo quantize: interrupted; {stats.samples} samples are in {options.save_stats}: "
            f"go on with --resume {options.save_stats}",
            file=sys.stderr,
        )


def show(options: argparse.Namespace, before: Model, after: Model) -> None:
    """Print what became of the model."""
    explanation = oc.explain(after)
    sizes = [model.nbytes for model in (before, after)]
    files = [os.path.getsize(path) for path in (options.model, options.output)]
    if options.json:
        terminal.print_json(
            {
                "model": options.model,
                "output": options.output,
                "bytes": dict(zip(("before", "after"), sizes, strict=True)),
                "file_bytes": dict(zip(("before", "after"), files, strict=True)),
                "layers": explanation.to_dict()["rows"],
            }
        )
        return
    terminal.print_table(
        ("", "before", "after", "ratio"),
        [
            (name, *map(inspect.size, (old, new)), f"{new / old:.2f}" if old else "-")
            for name, (old, new) in (("constants", sizes), ("file", files))
        ],
    )
    terminal.print_text()
    rows = explanation.rows
    counts = Counter(row["precision"] for row in rows)
    fewer = len(rows) - counts.pop("float32", 0)
    kinds = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    terminal.print_text(
        f"{fewer} of {len(rows)} layers in fewer bits{f': {kinds}' if kinds else ''}"
    )
    if options.verbose:
        terminal.print_text(f"\n{explanation}")
    elif fewer < len(rows):
        terminal.print_text("\nfloat32 as before:")
        terminal.print_table(("why", "operators", "layers"), stayed(explanation), left=2)
    terminal.print_text(f"\nwritten to {options.output}")


def stayed(explanation: Explanation) -> list[tuple[str, str, str]]:
    """Return why layers stayed float32, of which operators, and how many, most first."""
    found: dict[str, Counter[str]] = {}
    for row in explanation.rows:
        if row["precision"] == "float32":
            reason = row["reason"].removeprefix(f"{row['operator']} has ") or "asked for"
            found.setdefault(reason, Counter())[row["operator"]] += 1
    lines = []
    for reason, operators in sorted(found.items(), key=lambda each: -each[1].total()):
        named = [f"{name} {count}" for name, count in operators.most_common(_NAMED)]
        others = operators.total() - sum(count for _, count in operators.most_common(_NAMED))
        named += [f"others {others}"] if others else []
        lines.append((reason, ", ".join(named), str(operators.total())))
    return lines
