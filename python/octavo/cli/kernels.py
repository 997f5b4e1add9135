"""`octavo kernels`: how fast each kernel runs here, and how near to what the CPU can do."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from itertools import groupby

import numpy as np

import octavo as oc
from octavo import _core, runtime
from octavo.cli import machine, terminal, timing

SHAPES = ((64, 64, 64), (256, 256, 256), (512, 512, 512), (128, 768, 3072), (1, 4096, 4096))


NOTE = (
    "roof: this core's arithmetic peak times the threads, or the rate at which one core reads that "
    "many bytes, both measured now; GB/s counts each operand and result once"
)


@dataclass(frozen=True)
class Work:
    """One thing to time: what it multiplies and the bytes that it must at least move."""

    kernel: str
    compute: Callable[[], object]
    macs: int
    nbytes: int


@dataclass(frozen=True)
class Row:
    """One measurement. `roof` is what bounds it: the arithmetic peak or the memory bandwidth."""

    kernel: str
    isa: str
    m: int
    n: int
    k: int
    seconds: float
    macs_per_second: float
    bytes_per_second: float
    roof: str
    share_of_roof: float


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add `octavo kernels` to the parser."""
    parser = commands.add_parser(
        "kernels",
        parents=[common],
        help="microbenchmarks of every kernel",
        description="Time matrix products, packing, quantization and linear layers, each beside the "
        "roof that bounds it: this core's measured arithmetic peak or its measured read bandwidth.",
    )
    parser.add_argument(
        "--isa",
        action="append",
        choices=runtime.available_isas(),
        help="instruction set to use (repeatable; default: the best)",
    )
    parser.add_argument(
        "--shape",
        action="append",
        type=shape,
        metavar="M,N,K",
        help="problem size (repeatable)",
    )
    parser.add_argument(
        "--seconds",
        type=terminal.positive_float,
        default=0.1,
        help="time to spend on each measurement (default 0.1)",
    )
    parser.set_defaults(run=run)


def shape(text: str) -> tuple[int, int, int]:
    """Parse "M,N,K"."""
    sizes = tuple(terminal.positive_int(size) for size in text.split(","))
    if len(sizes) != 3:
        raise argparse.ArgumentTypeError(f"{text} is not M,N,K")
    return sizes


def run(options: argparse.Namespace) -> int:
    """Measure and print; return the exit status."""
    notes = [NOTE, *machine.load_notes()]
    rows: list[Row] = []
    for isa in options.isa or [runtime.isa()]:
        with runtime.force_isa(isa):
            for m, n, k in options.shape or SHAPES:
                rows += measure_shape(options, isa, m, n, k)
    if options.json:
        terminal.print_json(
            {
                "machine": machine.describe(),
                "rows": [asdict(row) for row in rows],
                "notes": notes,
            }
        )
    else:
        terminal.print_text(machine.heading())
        print_rows(rows)
    terminal.print_notes(options, notes)
    return 0


def works(m: int, n: int, k: int) -> list[Work]:
    """Return what is timed at one problem size, all of it without allocation where out= exists."""
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (m, k), np.uint8), rng.integers(-128, 128, (k, n), np.int8)
    x = rng.normal(size=(m, k)).astype(np.float32)
    w = rng.normal(size=(n, k)).astype(np.float32)
    multiplier = np.full(n, 1e-4, np.float32)
    packed = oc.pack(b)
    s32, u8, f32 = (np.empty((m, n), dtype) for dtype in (np.int32, np.uint8, np.float32))
    oc.matmul(a, packed, out=s32)
    q = oc.quantize(x, "uint8")
    dynamic = oc.Linear.from_float(w)
    static = oc.Linear.from_float(w, x_qparams=q.qparams)
    codes, reals = q.codes(), np.empty((m, k), np.float32)
    macs, inputs = m * n * k, a.nbytes + b.nbytes
    return [
        Work("matmul s32", lambda: oc.matmul(a, packed, out=s32), macs, inputs + s32.nbytes),
        Work(
            "matmul u8",
            lambda: oc.matmul(
                a, packed, multiplier=multiplier, zero_point=128, dtype="uint8", out=u8
            ),
            macs,
            inputs + u8.nbytes,
        ),
        Work("matmul s32, not packed", lambda: oc.matmul(a, b, out=s32), macs, inputs + s32.nbytes),
        Work("linear, static", lambda: static(codes, out=f32), macs, inputs + f32.nbytes),
        Work(
            "linear, dynamic", lambda: dynamic(x, out=f32), macs, x.nbytes + b.nbytes + f32.nbytes
        ),
        Work("pack", lambda: oc.pack(b), 0, 2 * b.nbytes),
        Work("quantize", lambda: oc.quantize(x, qparams=q.qparams), 0, x.nbytes + codes.nbytes),
        Work("dequantize", lambda: oc.dequantize(q, out=reals), 0, codes.nbytes + reals.nbytes),
        Work(
            "requantize",
            lambda: oc.requantize(s32, multiplier, 128, out=u8),
            0,
            s32.nbytes + u8.nbytes,
        ),
    ]


def measure_shape(options: argparse.Namespace, isa: str, m: int, n: int, k: int) -> list[Row]:
    """Time every kernel at one problem size on the table in force."""
    rows = []
    peak = arithmetic_peak(isa) * runtime.get_num_threads()
    for work in works(m, n, k):
        terminal.progress(options, f"{isa}: {work.kernel} {m} x {n} x {k}")
        (seconds,) = timing.seconds_per_call({work.kernel: work.compute}, options.seconds).values()
        kernel = runtime.last_kernel()
        if not kernel.startswith(f"{isa}/"):
            raise ValueError(f"{work.kernel} ran {kernel or 'no kernel'}, expected one of {isa}")
        shares = {
            "arithmetic": work.macs / seconds / peak,
            "memory": work.nbytes / seconds / read_bandwidth(work.nbytes),
        }
        roof = max(shares, key=shares.__getitem__)
        rows.append(
            Row(
                kernel=work.kernel,
                isa=isa,
                m=m,
                n=n,
                k=k,
                seconds=seconds,
                macs_per_second=work.macs / seconds,
                bytes_per_second=work.nbytes / seconds,
                roof=roof,
                share_of_roof=shares[roof],
            )
        )
    return rows


@cache
def arithmetic_peak(isa: str) -> float:
    """Measure a table's multiply-accumulates per second on one thread, in registers alone."""
    return _core.measure_peak(isa, 0.1)


@cache
def read_bandwidth(nbytes: int) -> float:
    """Measure the bytes per second that one thread reads from a buffer of this size."""
    return _core.measure_bandwidth(max(nbytes, 4096), 0.05)


def print_rows(rows: list[Row]) -> None:
    """Print one table for each instruction set and problem size."""
    for (isa, m, n, k), group in groupby(rows, lambda row: (row.isa, row.m, row.n, row.k)):
        terminal.print_text()
        terminal.print_text(f"{isa}, M x N x K = {m} x {n} x {k}")
        terminal.print_table(
            ("kernel", "time", "GMAC/s", "GB/s", "of roof", "roof"),
            [
                (
                    row.kernel,
                    terminal.duration(row.seconds),
                    f"{row.macs_per_second / 1e9:.1f}" if row.macs_per_second else "-",
                    f"{row.bytes_per_second / 1e9:.1f}",
                    f"{row.share_of_roof:.0%}",
                    row.roof,
                )
                for row in group
            ],
        )
