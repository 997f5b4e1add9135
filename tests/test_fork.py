"""After a fork the child computes, and so does the parent: no lock or thread is taken for granted.

Each case runs in a process of its own, under a time limit: a hang is what is looked for.
"""

import os
import signal
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.skipif(
        os.environ.get("OCTAVO_IN_QEMU") == "1",
        reason="an emulator does not fork safely beside threads itself",
    ),
]

LIMIT = 60  # seconds

PRELUDE = """
import multiprocessing, os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: fork beside threads
import numpy as np
import octavo as oc

oc.set_num_threads(4)
oc._core.set_dots_per_thread(1)
rng = np.random.default_rng(0)
A = rng.integers(0, 256, (257, 300), np.uint8)
B = rng.integers(-128, 128, (300, 513), np.int8)
W = rng.standard_normal((200, 300)).astype(np.float32)
X = rng.standard_normal((64, 300)).astype(np.float32)
PACKED = oc.pack(B)
LAYER = oc.Linear.from_float(W)
Q = oc.quantize(W, axis=0)
WANTED = oc.matmul(A, B)
assert np.array_equal(WANTED, A.astype(np.int64) @ B.astype(np.int64))
Y = LAYER(X)
KERNELS = rng.standard_normal((40, 32, 3, 3)).astype(np.float32)
IMAGES = rng.standard_normal((3, 32, 19, 17)).astype(np.float32)
CONVOLUTIONS = [
    oc.Conv2d.from_float(KERNELS, padding=1),
    oc.Conv2d.from_float(KERNELS[:32, :1], padding=1, groups=32),
    oc.ConvTranspose2d.from_float(KERNELS[:32], stride=2),
]
Z = [layer(IMAGES) for layer in CONVOLUTIONS]

def convolves():
    return all(np.array_equal(f(IMAGES), z) for f, z in zip(CONVOLUTIONS, Z, strict=True))

def right(_=None):
    return bool(
        np.array_equal(oc.matmul(A, PACKED), WANTED)
        and np.array_equal(LAYER(X), Y)
        and np.array_equal(X @ Q.T, Y)
        and convolves()
    )

def in_child(function=right):
    # Forks; True if the child's answer was right.
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if function() else 3)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(4)
    return os.waitpid(pid, 0)[1] == 0
"""

CASES = {
    "idle": """
assert right()
time.sleep(0.2)  # the workers sleep
assert in_child()
""",
    "while another thread multiplies": """
stop = threading.Event()
def work():
    while not stop.is_set():
        assert right()
threads = [threading.Thread(target=work) for _ in range(2)]
for t in threads: t.start()
try:
    assert all(in_child() for _ in range(20))
finally:
    stop.set()
for t in threads: t.join()
""",
    "two threads fork at once": """
results = []
barrier = threading.Barrier(2)
def work():
    for _ in range(10):
        barrier.wait()
        results.append(in_child())
threads = [threading.Thread(target=work) for _ in range(2)]
for t in threads: t.start()
for t in threads: t.join()
assert results == [True] * 20, results
""",
    "the child forks again": """
assert right()
assert in_child(lambda: right() and in_child(lambda: right() and in_child()))
""",
    "the child exits and the parent goes on": """
for _ in range(10):
    assert right()
    assert in_child(lambda: True)
    assert in_child()
    assert right()
""",
    "set_num_threads first in the child": """
assert right()
def function():
    oc.set_num_threads(2)
    with oc.threads(3), oc.runtime.force_isa("scalar"):
        if not right(): return False
    return right()
assert in_child(function)
assert oc.runtime.get_num_threads() == 4
""",
    "a first parallel call in the child": """
oc.set_num_threads(1)
def function():
    oc.set_num_threads(4)
    return right()
assert in_child(function)
""",
    "a lazily packed layer": """
import pickle
layer, convolutions = pickle.loads(pickle.dumps((LAYER, CONVOLUTIONS)))
def function():
    return np.array_equal(layer(X), Y) and all(
        np.array_equal(f(IMAGES), z) for f, z in zip(convolutions, Z, strict=True)
    )
assert in_child(function)
assert function()
""",
}

POOL = """
if __name__ == "__main__":
    assert right()
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        assert pool.map(right, range(8)) == [True] * 8
        assert all(np.array_equal(y, Y) for y in pool.map(LAYER, [X] * 4))
        assert all(np.array_equal(z, Z[0]) for z in pool.map(CONVOLUTIONS[0], [IMAGES] * 4))
    assert right()
"""


def run_limited(command, **options):
    """Run in a process group of its own, and end the whole group at the limit."""
    process = subprocess.Popen(
        command, start_new_session=True, stderr=subprocess.PIPE, text=True, **options
    )
    try:
        _, errors = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"hung for {LIMIT} s")
    assert process.returncode == 0, errors


@pytest.mark.parametrize("case", CASES)
def test_after_a_fork(case):
    run_limited([sys.executable, "-c", PRELUDE + CASES[case]])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method, tmp_path):
    script = tmp_path / "main.py"
    script.write_text(PRELUDE + POOL.format(method=method))
    run_limited([sys.executable, str(script)])
