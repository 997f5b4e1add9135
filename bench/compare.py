"""Octavo beside NumPy and the other int8 libraries: what is timed, and the bars it must reach.

    python bench/compare.py [all|products|calls|elementwise|conv|tensor] [--isa avx2] [--threads 2] ...
    python bench/compare.py accuracy|float|rows|int4|attention|recurrent|models ...  # a script each

See README.md in this folder. This file starts itself anew where the environment that NumPy, torch
and onnxruntime read at import is not the one of an honest comparison.
"""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

import shapes

SCRIPTS = {
    "accuracy": "accuracy.py",
    "float": "floats.py",
    "rows": "float_rows.py",
    "int4": "int4.py",
    "attention": "attention.py",
    "recurrent": "recurrent.py",
    "models": "models.py",
}
# What torch must be told to stay within an ISA: its int8 products are oneDNN's and FBGEMM's.
CAPS = {
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    },
    "avxvnni": {
        "ONEDNN_MAX_CPU_ISA": "AVX2_VNNI",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    },
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "tables",
        nargs="*",
        metavar="TABLE",
        help="products, calls, elementwise, conv, tensor, or all (the default)",
    )
    parser.add_argument(
        "--isa",
        default=os.environ.get("OCTAVO_ISA"),
        help="hold octavo to this ISA, and torch and numkong too",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of every library")
    parser.add_argument(
        "--baseline-threads",
        type=int,
        default=1,
        metavar="N",
        help="with more threads, also time octavo on N, for the scaling",
    )
    parser.add_argument("--seconds", type=float, default=5, help="time spent on a row (about)")
    parser.add_argument("--rounds", type=int, default=21, help="interleaved rounds, 20 or more")
    parser.add_argument(
        "--shapes",
        type=lambda text: [shapes.parse(s) for s in text.split(",")],
        help="MxNxK,... for the products, instead of the list in shapes.py",
    )
    parser.add_argument(
        "--kinds",
        type=lambda text: text.split(","),
        default=list(shapes.KINDS),
        help="columns of the products: " + ", ".join(shapes.KINDS),
    )
    parser.add_argument(
        "--sources",
        type=lambda text: text.split(","),
        help="where the convolutions are from: " + ", ".join(shapes.SOURCES),
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="rows of conv and tensor whose name holds it"
    )
    parser.add_argument(
        "--zero-point", type=int, default=128, help="of the convolutions' input (default 128)"
    )
    parser.add_argument("--sides", choices=("all", "ours", "peers"), default="all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure of every round")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="what is printed")
    arguments = parser.parse_args()
    known = ("products", "calls", "elementwise", "conv", "tensor")
    arguments.tables = [t for t in arguments.tables if t != "all"] or list(known)
    for value, allowed in (
        (arguments.tables, known),
        (arguments.kinds, tuple(shapes.KINDS)),
        (arguments.sources or (), tuple(shapes.SOURCES)),
    ):
        if unknown := set(value) - set(allowed):
            parser.error(f"{', '.join(sorted(unknown))}: expected some of {', '.join(allowed)}")
    cores = len(os.sched_getaffinity(0))
    if not 1 <= arguments.threads <= cores:
        parser.error(f"--threads {arguments.threads}: this process may use {cores} core(s)")
    if not 0 <= arguments.zero_point <= 255:
        parser.error(f"--zero-point {arguments.zero_point}: expected 0 to 255")
    if arguments.rounds < 20:
        parser.error(f"--rounds {arguments.rounds}: fewer than 20 say nothing of the noise")
    return arguments


def start_in_clean_environment(isa: str | None, threads: int) -> None:
    """Replace this process unless its environment is what the comparison needs already."""
    wanted = dict(os.environ)
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", *CAPS["avx2"]):
        wanted.pop(name, None)
    for name in ("OCTAVO", "OPENBLAS", "OMP", "MKL"):
        wanted[f"{name}_NUM_THREADS"] = str(threads)
    if isa:
        wanted |= {"OCTAVO_ISA": isa} | CAPS.get(isa, {})
    if wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)


def add_timing_options(parser: argparse.ArgumentParser, seconds: float, rounds: int) -> None:
    """Add what the scripts of SCRIPTS have in common."""
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", default=os.environ.get("OCTAVO_ISA"))
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="time spent on a row (about)"
    )
    parser.add_argument("--rounds", type=int, default=rounds)


def start(arguments: argparse.Namespace) -> list[int]:
    """Start anew in a clean environment, pinned; return the cores. NumPy is imported after it."""
    start_in_clean_environment(arguments.isa, arguments.threads)
    cores = sorted(os.sched_getaffinity(0))[-arguments.threads :]
    os.sched_setaffinity(0, cores)
    return cores


def main() -> int:
    if script := SCRIPTS.get(next(iter(sys.argv[1:]), "")):
        path = Path(__file__).with_name(script)
        os.execv(sys.executable, [sys.executable, str(path), *sys.argv[2:]])
    arguments = parse_arguments()
    cores = start(arguments)
    import tables  # these import NumPy, which reads the environment
    from contest import Contest

    try:
        contest = Contest(arguments, cores)
    except ValueError as error:  # an ISA that octavo does not know, or that this CPU lacks
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    contest.run()
    bars, notes = contest.bars(), contest.notes()
    text = tables.document(contest.machine, contest.rows, bars, notes)
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n")
    if arguments.json:
        records = {
            "machine": contest.machine,
            "notes": notes,
            "rows": contest.rows,
            "bars": [dataclasses.asdict(bar) | {"passed": bar.passed} for bar in bars],
        }
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")
    return 1 if contest.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
