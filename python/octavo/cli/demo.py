"""`octavo demo`: two trained networks answer in int8 beside float32."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

import octavo as oc
from octavo import demo
from octavo.cli import machine, strategies, terminal, timing
from octavo.demo.digits_conv import BATCH

# M, N, K: square products, a transformer's layer at 128 tokens, one and eight rows of a large layer.
SHAPES = (
    (256, 256, 256),
    (512, 512, 512),
    (1024, 1024, 1024),
    (128, 768, 3072),
    (8, 4096, 4096),
    (1, 4096, 4096),
)


# What a child that measures is told again.
FLAGS = ("json", "quiet", "verbose", "strategies")

# What each network is made of, for the tables.
LINEAR = "Linear layers, 64-256-128-10"
CONVOLUTIONS = (
    "Convolutions, 3x3 to 32 and 64 channels, pooling, 3x3 depthwise, 1x1, then a linear layer"
)


@dataclass(frozen=True)
class Network:
    """A digits network at one precision, over the held-out images."""

    layers: str
    precision: str
    accuracy: float
    agreement: float  # share of images with float32's answer
    nbytes: int
    seconds_all_images: float
    seconds_one_image: float


@dataclass(frozen=True)
class Product:
    """One matrix product: NumPy's float32 and ours, u8 by packed s8 to int32."""

    m: int
    n: int
    k: int
    float32_seconds: float
    int8_seconds: float
    ratio: float
    int8_macs_per_second: float


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add `octavo demo` to the parser."""
    parser = commands.add_parser(
        "demo",
        parents=[common],
        help="trained digit classifiers in int8 beside float32",
        description="Run two small trained networks, of linear layers and of convolutions, on "
        "held-out images in float32 (NumPy) and in int8, then a few matrix products. Everything is "
        "measured now, on this machine, with one thread unless --threads says otherwise.",
    )
    parser.add_argument(
        "--seconds",
        type=terminal.positive_float,
        default=0.4,
        help="time to spend on each comparison (default 0.4)",
    )
    parser.add_argument(
        "--strategies",
        action="store_true",
        help="instead: what ways of quantizing the two networks cost in accuracy, and give in size "
        "and speed",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Give NumPy as many threads as us, measure and print; return the exit status."""
    # One thread unless asked: on a busy machine a BLAS with several threads can be a hundred times
    # slower than it is alone, and the comparison would say so.
    threads = options.threads or 1
    arguments = ["demo", "--seconds", str(options.seconds)]
    arguments += [f"--{name}" for name in FLAGS if getattr(options, name)]
    status = machine.rerun_with_equal_threads(arguments, threads)
    if status is not None:
        return status
    with oc.threads(threads):
        return measure_strategies(options) if options.strategies else measure(options)


def measure_strategies(options: argparse.Namespace) -> int:
    """Quantize both networks in several ways, measure and print; return the exit status."""
    notes = machine.load_notes()
    outcomes = strategies.measure(options, LINEAR, CONVOLUTIONS)
    if options.json:
        terminal.print_json(
            {
                "machine": machine.describe(),
                "outcomes": [each._asdict() for each in outcomes],
                "notes": notes,
            }
        )
    else:
        terminal.print_text(machine.heading())
        strategies.show(outcomes)
    terminal.print_notes(options, notes)
    return 0


def measure(options: argparse.Namespace) -> int:
    """Measure and print; return the exit status."""
    notes = machine.load_notes() + machine.blas_notes()
    networks, images, calibrated = measure_networks(options)
    products = [measure_product(options, *shape) for shape in SHAPES]
    if options.json:
        terminal.print_json(
            {
                "machine": machine.describe(),
                "images": images,
                "calibration_images": calibrated,
                "networks": [asdict(network) for network in networks],
                "products": [asdict(product) for product in products],
                "notes": notes,
            }
        )
    else:
        terminal.print_text(machine.heading())
        terminal.print_text()
        print_networks(networks, images, calibrated)
        terminal.print_text()
        print_products(products)
        terminal.print_text()
        terminal.print_text(
            "Measured now, on this machine: medians of interleaved runs, as many threads for NumPy "
            "as for octavo."
        )
    terminal.print_notes(options, notes)
    return 0


def measure_networks(options: argparse.Namespace) -> tuple[list[Network], int, int]:
    """Quantize both networks and run both versions; also return the numbers of images."""
    terminal.progress(options, "calibrating the digits networks")
    digits, conv = demo.load_digits(), demo.load_conv_digits()
    layers, conv_layers = demo.quantize_network(digits), demo.quantize_conv_network(conv)
    networks = measure_network(
        options,
        digits,
        LINEAR,
        {
            "float32": lambda x: demo.forward_float(digits, x)[-1],
            "int8": partial(demo.forward_int8, layers),
        },
        {"float32": digits.nbytes, "int8": sum(layer.nbytes for layer in layers)},
    )
    networks += measure_network(
        options,
        digits,
        CONVOLUTIONS,
        {
            "float32": lambda x: demo.forward_conv_float(conv, demo.image(x)),
            "int8": lambda x: demo.forward_conv_int8(conv_layers, demo.image(x)),
        },
        {"float32": conv.nbytes, "int8": conv_layers.nbytes},
    )
    return networks, len(digits.images), len(digits.calibration)


def measure_network(
    options: argparse.Namespace,
    digits: demo.Digits,
    layers: str,
    forward: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]],
    nbytes: dict[str, int],
) -> list[Network]:
    """Score and time one network at each precision of `forward`, which gives the logits."""
    terminal.progress(options, f"timing: {layers}")
    predicted = {name: run(digits.images).argmax(axis=1) for name, run in forward.items()}
    every, one = (
        timing.seconds_per_call(
            {name: partial(run, x) for name, run in forward.items()}, options.seconds
        )
        for x in (digits.images, digits.images[:1])
    )
    return [
        Network(
            layers=layers,
            precision=name,
            accuracy=float((answers == digits.labels).mean()),
            agreement=float((answers == predicted["float32"]).mean()),
            nbytes=nbytes[name],
            seconds_all_images=every[name],
            seconds_one_image=one[name],
        )
        for name, answers in predicted.items()
    ]


def measure_product(options: argparse.Namespace, m: int, n: int, k: int) -> Product:
    """Time one product in float32 and int8, and check the integers."""
    terminal.progress(options, f"timing {m} x {n} x {k}")
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (m, k), np.uint8)
    b = rng.integers(-128, 128, (k, n), np.int8)
    packed, out = oc.pack(b), np.empty((m, n), np.int32)
    a_float, b_float = a.astype(np.float32), b.astype(np.float32)
    out_float = np.empty((m, n), np.float32)
    seconds = timing.seconds_per_call(
        {
            "float32": lambda: np.matmul(a_float, b_float, out=out_float),
            "int8": lambda: oc.matmul(a, packed, out=out),
        },
        options.seconds,
    )
    rows, columns = slice(None, None, max(1, m // 16)), slice(None, None, max(1, n // 64))
    exact = a[rows].astype(np.float64) @ b[:, columns].astype(np.float64)  # below 2^53: no rounding
    if not np.array_equal(out[rows, columns], exact):
        raise ValueError(f"oc.matmul gave wrong integers at {m} x {n} x {k}: run octavo doctor")
    return Product(
        m=m,
        n=n,
        k=k,
        float32_seconds=seconds["float32"],
        int8_seconds=seconds["int8"],
        ratio=seconds["float32"] / seconds["int8"],
        int8_macs_per_second=m * n * k / seconds["int8"],
    )


def print_networks(networks: list[Network], images: int, calibrated: int) -> None:
    """Print a table of each digits network."""
    terminal.print_text(
        f"Handwritten digits: {images} held-out images, int8 calibrated on {calibrated} others"
    )
    for layers in (LINEAR, CONVOLUTIONS):
        terminal.print_text()
        print_network(layers, [network for network in networks if network.layers == layers])
    terminal.print_text(
        f"NumPy has no convolution. Here, its fastest way: patches of {BATCH} images side by side for "
        "one\nproduct in the BLAS, and nine shifted images added up for the depthwise one."
    )


def print_network(layers: str, networks: list[Network]) -> None:
    """Print the table of one digits network."""
    terminal.print_text(layers)
    terminal.print_table(
        ("", "accuracy", "agreement", "size", "all images", "one image"),
        [
            (
                f"{network.precision} ({'NumPy' if network.precision == 'float32' else 'octavo'})",
                f"{network.accuracy:.2%}",
                f"{network.agreement:.2%}",
                f"{network.nbytes / 1000:.0f} kB",
                terminal.duration(network.seconds_all_images),
                terminal.duration(network.seconds_one_image),
            )
            for network in networks
        ],
    )
    float32, int8 = networks
    every = terminal.ratio(float32.seconds_all_images / int8.seconds_all_images)
    one = terminal.ratio(float32.seconds_one_image / int8.seconds_one_image)
    terminal.print_text(
        f"int8 beside float32: {terminal.ratio(float32.nbytes / int8.nbytes)} smaller; "
        f"speed {every} on all images, {one} on one at a time"
    )


def print_products(products: list[Product]) -> None:
    """Print the table of matrix products."""
    terminal.print_text("Matrix products: NumPy float32 beside oc.matmul (uint8 by packed int8)")
    terminal.print_table(
        ("M x N x K", "float32", "int8", "int8 GMAC/s", "speed of int8"),
        [
            (
                f"{product.m} x {product.n} x {product.k}",
                terminal.duration(product.float32_seconds),
                terminal.duration(product.int8_seconds),
                f"{product.int8_macs_per_second / 1e9:.0f}",
                terminal.ratio(product.ratio),
            )
            for product in products
        ],
    )
