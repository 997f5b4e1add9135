"""One object, eight threads, all at once."""

import os
import pickle
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import octavo as oc

THREADS = 8
P = oc.QParams(0.05, 120)


@pytest.fixture(autouse=True)
def frequent_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def run_threaded(function, repeat=5):
    """Call function(i) in each of the threads, started together; raise what any of them raised."""
    barrier = threading.Barrier(THREADS)
    errors = []

    def work(i):
        try:
            barrier.wait(30)
            for _ in range(repeat):
                function(i)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


def operands(seed=0, n=96, k=200):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((n, k)).astype(np.float32)
    b = rng.standard_normal(n).astype(np.float32)
    xs = [rng.standard_normal((m, k)).astype(np.float32) for m in (1, 2, 3, 17, 64, 65, 100, 129)]
    return w, b, xs


MAKERS = {
    "dynamic": lambda w, b: oc.Linear.from_float(w, b, activation="relu"),
    "static": lambda w, b: oc.Linear.from_float(w, b, x_qparams=P, out_qparams=P),
    "unpickled": lambda w, b: pickle.loads(pickle.dumps(oc.Linear.from_float(w, b))),
    "grouped": lambda w, b: oc.Linear.from_float(w, b, precision="int4/32"),
    "float16": lambda w, b: oc.Linear.from_float(w, b, precision="float16"),
}


def plain(y):
    return y.codes() if isinstance(y, oc.QTensor) else y


@pytest.mark.parametrize("kind", MAKERS)
def test_a_layer_serves_many_threads(kind):
    w, b, xs = operands()
    alone = MAKERS[kind](w, b)
    wanted = [plain(alone(x)) for x in xs]
    for _ in range(3):  # the first call of a fresh layer is the risky one
        shared = MAKERS[kind](w, b)

        def function(i, shared=shared):
            assert np.array_equal(plain(shared(xs[i])), wanted[i])

        run_threaded(function)


def test_a_layer_writes_to_each_threads_own_out():
    w, b, xs = operands()
    layer = oc.Linear.from_float(w, b)
    wanted = [layer(x) for x in xs]
    outs = [np.empty_like(y) for y in wanted]

    def function(i):
        outs[i][:] = 0
        layer(xs[i], out=outs[i])
        assert np.array_equal(outs[i], wanted[i])

    run_threaded(function, 20)


def kernels(*shape):
    return np.random.default_rng(2).standard_normal(shape).astype(np.float32)


CONVOLUTIONS = {
    "dense": lambda: oc.Conv2d.from_float(kernels(24, 16, 3, 3), padding=1),
    "codes": lambda: oc.Conv2d.from_float(
        kernels(24, 16, 3, 3), x_qparams=P, out_qparams=P, activation="hard_swish", layout="NHWC"
    ),
    "depthwise": lambda: oc.Conv2d.from_float(kernels(16, 1, 3, 3), stride=2, groups=16),
    "grouped": lambda: oc.Conv2d.from_float(kernels(12, 4, 3, 3), groups=4, padding="same"),
    "one dimension": lambda: oc.Conv1d.from_float(kernels(24, 16, 9), dilation=3, padding=9),
    "transposed": lambda: oc.ConvTranspose2d.from_float(kernels(16, 6, 4, 4), stride=2),
    "float16": lambda: oc.Conv2d.from_float(kernels(24, 16, 3, 3), precision="float16"),
    "unpickled": lambda: pickle.loads(pickle.dumps(CONVOLUTIONS["dense"]())),
}


def images(layer):
    """Images (signals) of another size, or another number, for each thread."""
    rng = np.random.default_rng(3)
    for i in range(THREADS):
        shape = [1 + i % 3, 16, 5 + 3 * i, 7 + i]
        if isinstance(layer, oc.Conv1d):
            del shape[2]
        x = rng.standard_normal(shape).astype(np.float32)
        yield np.moveaxis(x, 1, -1) if "NHWC" in repr(layer) else x


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_serves_many_threads_on_every_isa(kind):
    alone = CONVOLUTIONS[kind]()
    xs = list(images(alone))
    wanted = [plain(alone(x)) for x in xs]
    isas = oc.runtime.available_isas()
    for _ in range(3):  # the first call of a fresh operator is the risky one
        shared = CONVOLUTIONS[kind]()
        outs = [np.empty_like(y) for y in wanted]

        def function(i, shared=shared, outs=outs):
            with oc.runtime.force_isa(isas[i % len(isas)]), oc.threads(1 + i % 3):
                assert np.array_equal(plain(shared(xs[i])), wanted[i])
                assert oc.runtime.last_kernel().startswith(isas[i % len(isas)])
                outs[i][...] = 0
                shared(xs[i], out=outs[i])
                assert np.array_equal(outs[i], wanted[i])

        run_threaded(function)


def test_operators_between_layers_serve_many_threads():
    rng = np.random.default_rng(4)
    xs = [
        oc.QTensor(rng.integers(0, 256, (2, 5, 6 + i, 20 - i), np.uint8), 0.05, 100 + i)
        for i in range(THREADS)
    ]

    def chain(x):
        y = oc.nn.average_pool2d(oc.nn.max_pool2d(x, 2, stride=1), 3, padding=1, stride=1)
        y = oc.nn.concat([y, oc.nn.activate(y, "silu", out_qparams=P)], out_qparams=P)
        y = oc.nn.multiply(y, oc.nn.global_average_pool2d(y), out_qparams=P)
        return oc.nn.resize(oc.nn.add(y, y, out_qparams=P), (9, 7), mode="linear").codes()

    wanted = [chain(x) for x in xs]

    def function(i):
        with oc.threads(1 + i % 3):
            assert np.array_equal(chain(xs[i]), wanted[i])

    run_threaded(function, 20)


def test_a_tensor_is_packed_by_whoever_comes_first():
    w, _, xs = operands()
    wanted = [x @ oc.quantize(w, axis=0).T for x in xs]
    for _ in range(5):
        q = oc.quantize(w, axis=0)

        def function(i, q=q):
            assert np.array_equal(xs[i] @ q.T, wanted[i])

        run_threaded(function)
        assert len(q._prepared.operators) == 1


def test_different_operators_of_one_tensor_do_not_disturb_each_other():
    w, b, xs = operands()
    q = oc.quantize(w, axis=0)
    options = [{"bias": b + i, "activation": ("clip", -i, None)} for i in range(THREADS)]
    wanted = [oc.linear(xs[i], oc.quantize(w, axis=0), **options[i]) for i in range(THREADS)]

    def function(i):
        assert np.array_equal(oc.linear(xs[i], q, **options[i]), wanted[i])

    run_threaded(function, 20)


def test_a_packed_matrix_serves_many_threads_on_every_isa():
    rng = np.random.default_rng(1)
    b = rng.integers(-128, 128, (200, 96), np.int8)
    a = [rng.integers(0, 256, (m, 200), np.uint8) for m in (1, 2, 3, 17, 64, 65, 100, 129)]
    wanted = [x.astype(np.int64) @ b.astype(np.int64) for x in a]
    isas = oc.runtime.available_isas()
    for _ in range(3):
        packed = oc.pack(b)

        def function(i, packed=packed):
            with oc.runtime.force_isa(isas[i % len(isas)]), oc.threads(1 + i % 3):
                assert np.array_equal(oc.matmul(a[i], packed), wanted[i])
                assert oc.runtime.last_kernel().startswith(isas[i % len(isas)])

        run_threaded(function)


def test_functions_serve_many_threads():
    _, _, xs = operands()
    wanted = [oc.quantize(x, "uint8", axis=1) for x in xs]

    def function(i):
        q = oc.quantize(xs[i], "uint8", axis=1)
        assert q.equals(wanted[i])
        assert np.array_equal(q.dequantize(), wanted[i].dequantize())

    run_threaded(function)


@pytest.mark.skipif(
    not hasattr(signal, "pthread_kill") or os.environ.get("OCTAVO_IN_QEMU") == "1",
    reason="signals between processes, as POSIX has them, and no emulator",
)
def test_ctrl_c_ends_a_call_sequence_and_leaves_the_pool_usable():
    code = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under `command &`
import numpy as np, octavo as oc
oc.set_num_threads(4)
a, b = np.ones((300, 400), np.uint8), oc.pack(np.ones((400, 500), np.int8))
count = 0
try:
    while True:
        oc.matmul(a, b)
        if count == 0:
            print("started", flush=True)
        count += 1
except KeyboardInterrupt:
    assert (oc.matmul(a, b) == 400).all()
    print("stopped", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, output) == (0, "stopped\n"), errors
