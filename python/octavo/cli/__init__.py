"""The command line: one file per command, argparse and NumPy alone.

Data goes to stdout, progress and messages to stderr. Exit status: 0 done, 1 failed, 2 misused,
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import octavo as oc
from octavo.cli import (
    bench,
    compare,
    demo,
    doctor,
    evaluate,
    explain,
    inspect,
    kernels,
    quantize,
    run,
    terminal,
)

__all__ = ["build_parser", "main"]

COMMANDS = (
    demo,
    doctor,
    kernels,
    run,
    inspect,
    quantize,
    explain,
    compare,
    evaluate,
    bench,
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `octavo`, one subparser a command."""
    version = argparse.ArgumentParser(add_help=False)
    version.add_argument("--version", action="version", version=f"octavo {oc.__version__}")
    common = argparse.ArgumentParser(add_help=False, parents=[version])
    common.add_argument("--json", action="store_true", help="print JSON")
    common.add_argument("--threads", type=terminal.positive_int, metavar="N", help="threads to use")
    loudness = common.add_mutually_exclusive_group()
    loudness.add_argument("-q", "--quiet", action="store_true", help="no progress, no notes")
    loudness.add_argument("-v", "--verbose", action="store_true", help="more detail, tracebacks")

    parser = argparse.ArgumentParser(
        prog="octavo", description="Exact int8 inference on any CPU.", parents=[version]
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add_command(commands, common)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (default: `sys.argv[1:]`) names and return its exit status."""
    options = build_parser().parse_args(argv)
    try:
        if options.threads is not None:
            oc.set_num_threads(options.threads)
        status = int(options.run(options))
        sys.stdout.flush()  # here, so that a closed pipe is noticed here
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has left. Python would flush again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, TypeError, OverflowError, OSError, ImportError) as error:
        if options.verbose:
            raise
        print(f"octavo {options.command}: error: {error}", file=sys.stderr)
        return 1
    finally:
        terminal.clear_progress()
