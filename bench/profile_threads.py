"""What two cores can do at most: the same loops on one core, and on both at once.

    python bench/profile_threads.py

Multiply-accumulates in registers and reads of buffers that fit L2, L3 and neither are timed by one
process on one core, then by two at once, each on its own core. Twice the speed of one is the best
that two threads of a product could reach; less is what the cores share: clock, L3, memory.
Products follow. The best of many is taken, for whatever else runs here only takes away. See
docs/speed.md.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier

import numpy as np

import octavo as oc
from octavo import _core, runtime

SHAPES = ((256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (128, 3072, 768))
READS = {"reads in L2": 1 << 19, "reads in L3": 1 << 23, "reads in memory": 1 << 27}
ROUNDS, SECONDS = 40, 0.02


def loops() -> dict[str, Callable[[], float]]:
    isa = runtime.isa()
    made: dict[str, Callable[[], float]] = {
        "registers": lambda: _core.measure_peak(isa, SECONDS),
    }
    for name, size in READS.items():
        made[name] = lambda size=size: _core.measure_bandwidth(size, SECONDS)  # type: ignore[misc]
    return made


def measure(core: int, start: Barrier, found: "multiprocessing.Queue[list[list[float]]]") -> None:
    os.sched_setaffinity(0, {core})
    figures = []
    for loop in loops().values():
        each = []
        for _ in range(ROUNDS):
            start.wait()
            each.append(loop())
        figures.append(each)
    found.put(figures)


def on_cores(cores: list[int]) -> list[float]:
    """The best sum over the cores of what each reached, of all rounds."""
    start: Barrier = multiprocessing.Barrier(len(cores))
    found: multiprocessing.Queue[list[list[float]]] = multiprocessing.Queue()
    workers = [multiprocessing.Process(target=measure, args=(c, start, found)) for c in cores]
    for worker in workers:
        worker.start()
    figures = [found.get() for _ in workers]
    for worker in workers:
        worker.join()
    by_loop = zip(*figures, strict=True)
    return [max(map(sum, zip(*rounds, strict=True))) for rounds in by_loop]


def product_seconds(m: int, n: int, k: int) -> list[float]:
    """By one thread and by two, in turn."""
    rng = np.random.default_rng(k)
    a = rng.integers(0, 256, (m, k), np.uint8)
    packed = oc.pack(rng.integers(-128, 128, (k, n), np.int8))
    out = np.empty((m, n), np.int32)
    best = [float("inf")] * 2
    for _ in range(max(200, int(4e9 / (m * n * k)))):
        for i in range(2):
            with oc.threads(i + 1):
                oc.matmul(a, packed, out=out)
                begin = time.perf_counter()
                oc.matmul(a, packed, out=out)
                best[i] = min(best[i], time.perf_counter() - begin)
    return best


def main() -> int:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("this process may use one core alone")
    write = sys.stdout.write
    write("| loop | two cores over one |\n|---|---:|\n")
    for name, one, two in zip(loops(), on_cores(cores[1:]), on_cores(cores), strict=True):
        write(f"| {name} | {two / one:.2f} |\n")
    for m, n, k in SHAPES:
        one, two = product_seconds(m, n, k)
        write(f"| product {m} x {n} x {k} | {one / two:.2f} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
