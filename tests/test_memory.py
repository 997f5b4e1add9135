"""What is kept, and what a call with `out` takes beside it."""

import ctypes
import gc
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import octavo as oc

resource = pytest.importorskip("resource", reason="this system does not count page faults")

N, K = 4096, 10240  # 40 MiB of weights: more than malloc ever takes from its heap
P = oc.QParams(0.05, 120)
LIBC = ctypes.CDLL(None)
PR_SET_THP_DISABLE = 41
OUT = oc.QParams(2.0, 128)

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/statm")
    or os.environ.get("OCTAVO_IN_QEMU") == "1"
    or "asan" in os.environ.get("LD_PRELOAD", ""),
    reason="Linux tells what is resident; emulators and sanitizers keep memory of their own",
)


def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def multiplied(w):
    q = oc.QTensor(w, 0.01)
    np.ones((1, w.shape[1]), np.float32) @ q.T
    return q


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize(
    ("make", "forms"),
    [
        (lambda w: oc.pack(w.T), 1),
        (lambda w: oc.Linear.from_quantized(oc.QTensor(w, 0.01)), 1),
        (multiplied, 2),  # the codes, which are the tensor's to show, and the packed form
    ],
    ids=["pack", "Linear", "QTensor"],
)
def test_nothing_is_kept_but_the_packed_form(make, forms):
    rng = np.random.default_rng(0)
    make(rng.integers(-127, 128, (64, K), np.int8))  # what is taken but once
    oc.matmul(np.ones((1, 4), np.uint8), np.ones((4, 1), np.int8))
    before = resident()
    kept = make(rng.integers(-127, 128, (N, K), np.int8))
    taken = resident() - before
    assert 0.95 * forms * N * K < taken < 1.1 * forms * N * K
    del kept
    assert resident() - before < 0.1 * N * K


def product(rng, **options):
    a = rng.integers(0, 256, (192, 340), np.uint8)
    packed = oc.pack(rng.integers(-128, 128, (340, 1024), np.int8))
    return lambda out: oc.matmul(a, packed, out=out, **options)


def layer(rng, x_dtype, **options):
    w, b = rng.standard_normal((1024, 340)), rng.standard_normal(1024)
    linear = oc.Linear.from_float(w, b, **options)
    x = rng.integers(0, 200, (192, 340)).astype(x_dtype)
    return lambda out: linear(x, out=out)


TO_CODES = {"multiplier": 1e-4, "zero_point": 128, "dtype": "uint8"}
CALLS = {
    "matmul to int32": (np.int32, lambda rng: product(rng)),
    "matmul to uint8": (np.uint8, lambda rng: product(rng, a_zero_point=120, **TO_CODES)),
    "dynamic to float32": (np.float32, lambda rng: layer(rng, np.float32)),
    "dynamic to codes": (np.uint8, lambda rng: layer(rng, np.float32, out_qparams=OUT)),
    "static to float32": (np.float32, lambda rng: layer(rng, np.float32, x_qparams=P)),
    "codes to codes": (np.uint8, lambda rng: layer(rng, np.uint8, x_qparams=P, out_qparams=OUT)),
}


def faults(call):
    """Pages that a call takes from the system, the least of some: others may take some meanwhile."""
    counts = []
    LIBC.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # else a fault brings many pages
    for _ in range(5):
        LIBC.malloc_trim(0)  # so that memory that is free already counts too
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        call()
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    LIBC.prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)
    return min(counts)


@pytest.mark.skipif(not hasattr(LIBC, "malloc_trim"), reason="needs glibc")
@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", CALLS)
def test_a_call_with_out_allocates_nothing_once_warm(name):
    dtype, make = CALLS[name]
    call = make(np.random.default_rng(0))
    out = np.empty((192, 1024), dtype)
    with oc.threads(3):
        for _ in range(10):  # until each worker has done each of the tasks
            call(out)
        tracemalloc.start()  # NumPy and Python both report to it
        call(out)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1000
        result = out.nbytes // resource.getpagesize()
        assert faults(lambda: call(None)) > 0.2 * result  # the meter works
        assert faults(lambda: call(out)) < 8  # a little, here and there


OUT_OF_MEMORY = """
import resource
import numpy as np, octavo as oc
rng = np.random.default_rng(0)
oc.set_num_threads({threads})
small = rng.integers(-128, 128, (300, 300), np.int8)
expected = small.astype(np.int32) @ small.astype(np.int32)
wide = np.broadcast_to(np.uint8(1), (64, 1 << 22))  # one byte, of which each block is copied
calls = {{
    "packed anew": lambda b=np.broadcast_to(np.int8(1), (1 << 14, 1 << 14)): oc.matmul(b[:1], b),
    "rows copied": lambda b=oc.pack(np.ones((1 << 22, 1), np.int8)): oc.matmul(wide, b),
    "result": lambda b=np.ones((1 << 16, 1), np.int8): oc.matmul(b, b.T),
}}
assert (oc.matmul(small, small) == expected).all()
with open("/proc/self/statm") as file:
    taken = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (24 << 20), resource.RLIM_INFINITY))
for _ in range(2):
    for name, call in calls.items():
        try:
            call()
        except MemoryError:
            print(name)
        assert (oc.matmul(small, small) == expected).all()
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_no_memory_is_an_error_and_not_the_end(threads):
    shown = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY.format(threads=threads)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines() == ["packed anew", "rows copied", "result"] * 2
