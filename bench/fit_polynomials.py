"""Fits the polynomials of csrc/kernels/float_rows.h anew and prints them.

    python bench/fit_polynomials.py [--check]

Minimax fits in the error that matters to the function, by Lawson's iteration of weighted least
squares. --check compares them with what the kernel holds; it exits with 1 where they differ.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KERNEL = Path(__file__).parents[1] / "csrc/kernels/float_rows.h"
Array = NDArray[np.float64]
Function = Callable[[Array], Array]

LN2 = math.log(2)
# Of more digits than float32 has, coefficients depend on how LAPACK sums.
TOLERANCE = 1e-5


def fit(
    f: Function, low: float, high: float, powers: range, weight: Function, nodes: int, rounds: int
) -> Array:
    """Return the coefficients of `powers` with the least greatest weighted error."""
    angles = np.pi * (np.arange(nodes) + 0.5) / nodes
    x = (high + low) / 2 + (high - low) / 2 * np.cos(angles)
    y, w = f(x), weight(x)
    basis = np.stack([x**power for power in powers], 1)
    share = np.ones(nodes)
    for _ in range(rounds):
        q = np.sqrt(share) * w
        found: Array = np.linalg.lstsq(basis * q[:, None], y * q, rcond=None)[0]
        error = np.abs((basis @ found - y) * w)
        share *= np.sqrt(error / error.max() + 1e-12)
        share /= share.sum()
    return found


def rounded_together(f: Function, high: float, terms: int) -> list[float]:
    """Return float32 coefficients on [0, high]: for parts that are small beside what they join."""
    found = fit(f, 0, high, range(terms), np.ones_like, 4001, 60)
    return [float(np.float32(c)) for c in found]


def rounded_in_turn(
    f: Function, low: float, high: float, terms: int, weight: Function
) -> list[float]:
    """Return float32 coefficients, each rounded before the ones above it are fitted again."""
    done: list[float] = []
    for power in range(terms):
        lower = np.polynomial.Polynomial(done or [0.0])
        found = fit(
            lambda x, lower=lower: f(x) - lower(x),
            low,
            high,
            range(power, terms),
            weight,
            2001,
            40,
        )
        done.append(float(np.float32(found[0])))
    return done


def exp2() -> list[float]:
    """p of 2^-f = 1 - f p(f), |f| <= 1/2: the relative error."""

    def p(f: Array) -> Array:
        z = f * LN2
        safe = np.where(f == 0, 1, f)
        return np.where(np.abs(f) < 1e-5, LN2 * (1 + z / 2 + z * z / 6), np.expm1(z) / safe)

    fitted = rounded_in_turn(p, -0.5005, 0.5005, 6, lambda f: np.abs(f) / 2**f)  # of 2^f
    return [c * (-1) ** i for i, c in enumerate(fitted)]


def normal_tail() -> list[float]:
    """p = log2 Phi(-t), 0 <= t <= 5.8, exact at 0: what t Phi(-t) may err by, 2^-24 or more."""
    phi = np.vectorize(lambda t: math.erfc(t / math.sqrt(2)) / 2)

    def weight(t: Array) -> Array:
        allowed = np.clip(2**-26.5 / (t * phi(t) + 1e-30), 2.0**-24, 2.0**-14) / LN2
        return t / allowed

    return [-1.0, *rounded_in_turn(lambda t: (np.log2(phi(t)) + 1) / t, 1e-6, 5.8, 8, weight)]


def erf() -> list[float]:
    """p of erf(t) = t + t p(t^2), t < 0.9."""
    exact = np.vectorize(math.erf)

    def p(s: Array) -> Array:
        t = np.sqrt(np.abs(s))
        near = 2 / math.sqrt(math.pi) * (1 - s / 3) - 1
        return np.where(t < 1e-4, near, exact(t) / np.where(t == 0, 1, t) - 1)

    return rounded_together(p, 0.9**2, 7)


def tanh() -> list[float]:
    """p of tanh(t) = t + t^3 p(t^2), t < 0.55."""

    def p(s: Array) -> Array:
        t = np.sqrt(np.abs(s))
        near = -1 / 3 + 2 * s / 15 - 17 * s * s / 315
        return np.where(t < 1e-3, near, (np.tanh(t) - t) / np.where(t == 0, 1, t) ** 3)

    return rounded_together(p, 0.55**2, 5)


POLYNOMIALS = (exp2, normal_tail, erf, tanh)


def held_by_kernel() -> dict[str, list[float]]:
    """Return the coefficients of each function of the kernel that has some."""
    lists = re.findall(
        r"static OCTAVO_INLINE F (\w+)\([^)]*\) \{\s*static constexpr float p\[\] = \{([^}]*)\}",
        KERNEL.read_text(),
    )
    return {name: [float(c.strip().rstrip("f")) for c in text.split(",")] for name, text in lists}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    held = held_by_kernel() if arguments.check else {}
    differ = arguments.check and held.keys() != {function.__name__ for function in POLYNOMIALS}
    for function in POLYNOMIALS:
        fitted = function()
        print(f"{function.__name__}: {', '.join(f'{c:.11g}' for c in fitted)}")
        kept = held.get(function.__name__)
        if kept is not None and not (
            len(kept) == len(fitted) and np.allclose(fitted, kept, rtol=TOLERANCE, atol=0)
        ):
            print(f"  the kernel has {kept}", file=sys.stderr)
            differ = True
    if differ:
        print(f"{KERNEL.name} holds other polynomials", file=sys.stderr)
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
