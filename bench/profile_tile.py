"""What a tile of the product costs beside its multiply-accumulates.

    python bench/profile_tile.py [--isa avx2] [--core 1]

The time of a tile is taken as t = fixed + K / rate: entry, the start of the accumulators, their
stores and the refill of the pipeline do not depend on K. Two widths of B are timed at each K, and
their difference is the tiles that only the wider one has: the call and what is done once a block
of rows drop out. B of all columns stays in L2 and C in L1 or L2, so that memory plays no part.
Whole products follow, with int32 results and with uint8 ones, which are a quarter of the bytes:
what they fall short of the tile's figure is the call, memory and, for int32, the writes of C.
The least of many times is taken: whatever else runs here only adds to it. See docs/speed.md.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

import octavo as oc
from octavo import _core, runtime

# Rows by columns of the register tile of each instruction set (csrc/isa/).
TILES = {"avx512vnni": (6, 64), "avxvnni": (6, 16), "avx2": (6, 16)}
DEPTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024)
ROWS = 96
# Whose bars this explains: M, N, K.
SHAPES = ((256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (128, 3072, 768))


def least_seconds(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """The least time of each call; short ones are timed four at a time."""
    found = [float("inf")] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            call()
            repeats = 4 if found[i] < 1e-4 else 1
            begin = time.perf_counter()
            for _ in range(repeats):
                call()
            found[i] = min(found[i], (time.perf_counter() - begin) / repeats)
    return found


def tile_seconds(depth: int, mr: int, nr: int, rounds: int) -> float:
    rng = np.random.default_rng(depth)
    a = rng.integers(0, 256, (ROWS, depth), np.uint8)
    widths = (2 * nr, 6 * nr)
    calls = []
    for width in widths:
        packed = oc.pack(rng.integers(-128, 128, (depth, width), np.int8))
        out = np.empty((ROWS, width), np.int32)
        calls.append(lambda packed=packed, out=out: oc.matmul(a, packed, out=out))
    narrow, wide = least_seconds(calls, rounds)
    tiles = ROWS / mr * (widths[1] - widths[0]) / nr
    return (wide - narrow) / tiles


def product_seconds(m: int, n: int, k: int) -> list[float]:
    """With an int32 result, and with a uint8 one."""
    rng = np.random.default_rng(k)
    a = rng.integers(0, 256, (m, k), np.uint8)
    packed = oc.pack(rng.integers(-128, 128, (k, n), np.int8))
    sums, codes = np.empty((m, n), np.int32), np.empty((m, n), np.uint8)
    options = {"multiplier": 1e-4, "zero_point": 128, "dtype": "uint8", "out": codes}
    calls: list[Callable[[], object]] = [
        lambda: oc.matmul(a, packed, out=sums),
        lambda: oc.matmul(a, packed, **options),
    ]
    return least_seconds(calls, max(100, int(4e9 / (m * n * k))))


def main() -> int:
    parser = argparse.ArgumentParser(description="What a tile costs beside its arithmetic.")
    parser.add_argument("--isa", choices=[i for i in TILES if i in runtime.available_isas()])
    parser.add_argument("--core", type=int, help="the core to keep to (default: the last)")
    parser.add_argument("--rounds", type=int, default=400)
    options = parser.parse_args()
    core = max(os.sched_getaffinity(0)) if options.core is None else options.core
    os.sched_setaffinity(0, {core})
    isa = options.isa or runtime.isa()
    if isa not in TILES:
        sys.exit(f"the tile of {isa} is not listed here")
    runtime.force_isa(isa)
    oc.set_num_threads(1)
    mr, nr = TILES[isa]
    peaks, times = [], []
    for depth in DEPTHS:  # the clock may change meanwhile: the greatest peak of all counts
        peaks += [_core.measure_peak(isa, 0.02) for _ in range(5)]
        times.append(tile_seconds(depth, mr, nr, options.rounds))
    peak = max(peaks)
    # Theil and Sen: the median of all slopes, which a spoilt time or two do not move.
    slopes = [
        (times[j] - times[i]) / (DEPTHS[j] - DEPTHS[i])
        for i in range(len(DEPTHS))
        for j in range(i + 1, len(DEPTHS))
        if DEPTHS[j] >= 2 * DEPTHS[i]
    ]
    slope = statistics.median(slopes)
    fixed = statistics.median(t - slope * k for t, k in zip(times, DEPTHS, strict=True))
    write = sys.stdout.write
    write(f"{isa}, tile {mr} x {nr}, peak in registers {peak / 1e9:.0f} G\n\n")
    write("| K | ns a tile | fixed + K / rate | share of peak |\n|---|---:|---:|---:|\n")
    for depth, seconds in zip(DEPTHS, times, strict=True):
        share = mr * nr * depth / seconds / peak
        model = fixed + slope * depth
        write(f"| {depth} | {seconds * 1e9:.1f} | {model * 1e9:.1f} | {share:.3f} |\n")
    write(
        f"\nrate: {mr * nr / slope / peak:.3f} of the peak; fixed: {fixed * 1e9:.1f} ns a tile, "
        f"the time of {fixed / slope:.0f} values of K\n"
    )
    write("\n| M x N x K | tiles alone | int32 result | uint8 result |\n|---|---:|---:|---:|\n")
    for m, n, k in SHAPES:
        alone = mr * nr * k / (fixed + slope * k) / peak
        reached = [m * n * k / seconds / peak for seconds in product_seconds(m, n, k)]
        write(f"| {m} x {n} x {k} | {alone:.3f} | {reached[0]:.3f} | {reached[1]:.3f} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
