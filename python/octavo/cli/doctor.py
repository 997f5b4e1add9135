"""`octavo doctor`: does every kernel of this CPU compute the same bits, and how fast can int8 be here."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

import octavo as oc
from octavo import _core, runtime
from octavo.cli import machine, terminal, timing

# M, N, K around the register tiles of every table: single elements, primes, exact tiles, one beyond.
SHAPES = ((1, 1, 1), (1, 67, 131), (5, 16, 64), (13, 65, 257), (33, 130, 96), (64, 256, 512))
SHOWN_FAILURES = 5  # of each table; --json lists all
MATMUL_SIZE = 512  # of the product that NumPy and oc.matmul are measured by
# What an instruction of each table can do against float32 in vectors of the same width. A 32-bit lane
# holds one float32 product, or four of int8 where there is a four-way dot product (eight in i8mm's
# 2x2 blocks), or two after widening to int16 (one on NEON, which widens each product).
THEORY = {"avx512vnni": 4, "avxvnni": 4, "avx2": 2, "neoni8mm": 8, "neondot": 4, "neon": 1}

Result = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One computation of the self-test, with its exact result where NumPy's integers give it."""

    name: str
    compute: Callable[[], Result]
    exact: Result | None = None


@dataclass(frozen=True)
class Check:
    """The self-test of one table."""

    isa: str
    cases: int
    failed: tuple[str, ...]


@dataclass(frozen=True)
class Ceiling:
    """The int8 speed of one table on one thread, in multiply-accumulates per second."""

    isa: str
    peak: float
    matmul: float


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add `octavo doctor` to the parser."""
    parser = commands.add_parser(
        "doctor",
        parents=[common],
        help="check this installation and this CPU",
        description="Print the configuration, compare every instruction set's results with the "
        "scalar code's, and measure how fast int8 can be here beside float32. "
        "Exit status 1 if any result differs.",
    )
    parser.add_argument(
        "--seconds",
        type=terminal.positive_float,
        default=0.3,
        help="time to spend on each measurement (default 0.3)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check, measure and print; return 1 if a self-test failed."""
    notes = machine.load_notes() + machine.blas_notes()
    if not options.json:
        oc.show_config()
        terminal.print_text()
    checks = [check_isa(options, isa) for isa in runtime.available_isas()]
    if not options.json:
        print_checks(checks)
    float32 = measure_float(options)
    ceilings = [measure_ceiling(options, isa) for isa in runtime.available_isas()]
    if options.json:
        terminal.print_json(
            {
                "config": oc.show_config(mode="dicts"),
                "blas": machine.blas_name(),
                "checks": [asdict(check) for check in checks],
                "float32_macs_per_second": float32,
                "ceilings": [asdict(ceiling) for ceiling in ceilings],
                "notes": notes,
            }
        )
    else:
        terminal.print_text()
        print_ceilings(ceilings, float32)
    terminal.print_notes(options, notes)
    return 1 if any(check.failed for check in checks) else 0


def cases() -> list[Case]:
    """Return the computations of the self-test; each gives the same bits on every table."""
    rng = np.random.default_rng(0)
    found: list[Case] = []
    for m, n, k in SHAPES:
        multiplier = rng.uniform(1e-4, 1e-3, n).astype(np.float32)
        bias = rng.integers(-1000, 1000, n, np.int32)
        for a_dtype, b_dtype in product(("uint8", "int8"), repeat=2):
            a, b = _codes(rng, (m, k), a_dtype), _codes(rng, (k, n), b_dtype)
            exact = a.astype(np.int64) @ b.astype(np.int64)
            shifted = (a.astype(np.int64) - 3) @ (b.astype(np.int64) - 5)
            name = f"{m} x {n} x {k}, {a_dtype} by {b_dtype}"
            found += [
                Case(name, partial(oc.matmul, a, b), exact),
                Case(f"{name}, packed, zero points", partial(_packed, a, b), shifted),
                Case(f"{name}, to uint8", partial(_to_uint8, a, b, bias, multiplier)),
                Case(f"{name}, to float32", partial(_to_float32, a, b, multiplier)),
            ]
        x = rng.normal(size=(m, k)).astype(np.float32)
        w = oc.quantize(rng.normal(size=(n, k)).astype(np.float32), axis=0)
        found += [
            Case(f"{m} x {n} x {k}, linear, dynamic", partial(_linear, x, w)),
            Case(f"{m} x {k}, quantize, dequantize", partial(_round_trip, x)),
        ]
    return found


def _codes(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Result:
    """Return random codes, a quarter of them the least or the greatest of their dtype."""
    info = np.iinfo(dtype)
    codes = rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    extreme = rng.choice(np.array([info.min, info.max], dtype), shape)
    return np.where(rng.random(shape) < 0.25, extreme, codes)


def _packed(a: Result, b: Result) -> Result:
    return oc.matmul(a, oc.pack(b), a_zero_point=3, b_zero_point=5)


def _to_uint8(a: Result, b: Result, bias: Result, multiplier: Result) -> Result:
    return oc.matmul(a, b, bias=bias, multiplier=multiplier, zero_point=7, dtype="uint8")


def _to_float32(a: Result, b: Result, multiplier: Result) -> Result:
    return oc.matmul(a, b, multiplier=multiplier, dtype="float32")


def _linear(x: NDArray[np.float32], w: oc.QTensor) -> Result:
    y = oc.linear(x, w)
    assert isinstance(y, np.ndarray)  # no out_qparams
    return y


def _round_trip(x: NDArray[np.float32]) -> Result:
    return oc.quantize(x, "uint8").dequantize()


def check_isa(options: argparse.Namespace, isa: str) -> Check:
    """Run every case on `isa`: integer products must be NumPy's, all else the scalar table's."""
    terminal.progress(options, f"checking {isa}")
    failed = []
    found = cases()
    for case in found:
        with runtime.force_isa("scalar"):
            expected = case.compute()
        with runtime.force_isa(isa):
            result = case.compute()
            kernel = runtime.last_kernel()
        if not kernel.startswith(f"{isa}/"):
            failed.append(f"{case.name}: ran {kernel or 'no kernel'}")
        elif result.tobytes() != expected.tobytes():
            failed.append(f"{case.name}: {np.count_nonzero(result != expected)} differ from scalar")
        elif case.exact is not None and not np.array_equal(result, case.exact):
            failed.append(
                f"{case.name}: {np.count_nonzero(result != case.exact)} differ from NumPy"
            )
    return Check(isa, len(found), tuple(failed))


def measure_float(options: argparse.Namespace) -> dict[str, float | None]:
    """Measure NumPy's float32 on one thread, as it is set up and without the environment's overrides."""
    terminal.progress(options, "measuring NumPy's float32")
    found = {"as set up here": machine.float_peak(MATMUL_SIZE, options.seconds)}
    if machine.blas_notes():
        found["without OPENBLAS overrides"] = machine.float_peak(
            MATMUL_SIZE, options.seconds, without_overrides=True
        )
    return found


def measure_ceiling(options: argparse.Namespace, isa: str) -> Ceiling:
    """Measure a table's register-only loop and its matrix product, on one thread."""
    terminal.progress(options, f"measuring {isa}")
    size = MATMUL_SIZE
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (size, size), np.uint8)
    packed = oc.pack(rng.integers(-128, 128, (size, size), np.int8))
    out = np.empty((size, size), np.int32)
    with runtime.force_isa(isa), oc.threads(1):
        seconds = timing.seconds_per_call(
            {isa: lambda: oc.matmul(a, packed, out=out)}, options.seconds
        )
    return Ceiling(isa, _core.measure_peak(isa, options.seconds), size**3 / seconds[isa])


def print_checks(checks: list[Check]) -> None:
    """Print the outcome of the self-tests."""
    terminal.print_text(
        "Self-test: every table against the scalar one, bit for bit, and its integers against NumPy"
    )
    terminal.print_table(
        ("ISA", "cases", "result"),
        [(c.isa, str(c.cases), f"{len(c.failed)} FAILED" if c.failed else "equal") for c in checks],
    )
    for check in checks:
        for failure in check.failed[:SHOWN_FAILURES]:
            terminal.print_text(f"FAILED {check.isa}: {failure}")
        if len(check.failed) > SHOWN_FAILURES:
            terminal.print_text(f"... and {len(check.failed) - SHOWN_FAILURES} more; see --json")


def print_ceilings(ceilings: list[Ceiling], float32: dict[str, float | None]) -> None:
    """Print int8's speed beside float32's, and name the ceiling."""
    terminal.print_text("Speed on one thread, in GMAC/s (10^9 multiply-accumulates per second)")
    for name, speed in float32.items():
        figure = f"{speed / 1e9:.0f}" if speed else "could not run"
        terminal.print_text(f"NumPy float32, {MATMUL_SIZE}^3, {name}: {figure}")
    best = max((speed for speed in float32.values() if speed), default=None)

    def times(speed: float) -> str:
        return terminal.ratio(speed / best) if best else "-"

    terminal.print_table(
        ("ISA", "int8 peak", "of float32", f"oc.matmul {MATMUL_SIZE}^3", "of peak", "in theory"),
        [
            (
                c.isa,
                f"{c.peak / 1e9:.0f}",
                times(c.peak),
                f"{c.matmul / 1e9:.0f}",
                f"{c.matmul / c.peak:.0%}",
                f"{THEORY[c.isa]}x" if c.isa in THEORY else "-",
            )
            for c in ceilings
        ],
    )
    terminal.print_text(
        "int8 peak: a loop in registers alone. In theory: against float32 in vectors of the same width."
    )
    used = next(c for c in ceilings if c.isa == runtime.isa())
    if best:
        terminal.print_text(
            f"The ceiling of int8 on this CPU, with {used.isa}, is {times(used.peak)} NumPy's float32; "
            f"oc.matmul reaches {times(used.matmul)}."
        )
