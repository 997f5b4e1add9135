"""Whole ONNX models in float32 and int8, beside onnxruntime and OpenVINO: time a call.

    python bench/models.py MODEL.onnx ... [--batch 1,64 | --shapes 1x16,1x128] [--size NAME=N ...]
                           [--data STEM=FILE.npz ...] [--threads N]

Each model is quantized here (`octavo.quantize_model`, static) and by onnxruntime (`quantize_static`,
QDQ, a scale for each channel; where that fails, `quantize_dynamic`) with the same samples: those of
--data, else random ones. Peers in int8: onnxruntime with its own quantized model and with the one that
octavo has written, OpenVINO with that one. In float32 OpenVINO is held to float32 (it would compute in
bfloat16 otherwise). Inputs are random, of the shapes that the model says; free dimensions are those of
--batch and --size, else 16; --shapes gives those of all inputs. Timing as in compare.py (README.md);
prints Markdown.
"""

import argparse
import contextlib
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from compare import add_timing_options, start

SAMPLES = 64  # to calibrate with, where no data are given
INT8_PEERS = ("onnxruntime int8", "onnxruntime, our file", "openvino, our file")
FLOAT_PEERS = ("onnxruntime float32", "openvino float32")


def pairs(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx")
    parser.add_argument(
        "--batch", type=lambda text: [int(each) for each in text.split(",")], default=[1]
    )
    parser.add_argument(
        "--shapes",
        type=lambda text: [tuple(map(int, each.split("x"))) for each in text.split(",")],
        help="1x16,1x128: shapes of all inputs, instead of --batch",
    )
    parser.add_argument("--size", action="append", type=pairs, default=[], metavar="NAME=N")
    parser.add_argument("--data", action="append", type=pairs, default=[], metavar="STEM=FILE.npz")
    add_timing_options(parser, seconds=4, rounds=15)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    cores = start(arguments)
    # These import NumPy, which reads the environment.
    import machine
    import numpy as np
    import tables
    from rounds import Entrant, geometric_mean, ratio, time_rounds

    import octavo as oc

    sizes, files = dict(arguments.size), dict(arguments.data)
    random = np.random.default_rng(0)

    def feeds_of(model: Any, batch: int, shape: tuple[int, ...] | None = None) -> dict[str, Any]:
        feeds = {}
        for value in model.inputs:
            given = shape or [
                each if isinstance(each, int) else int(sizes.get(each, 16 if i else batch))
                for i, each in enumerate(value.shape)
            ]
            if value.dtype.startswith(("int", "bool")):
                array = random.integers(0, 2 if "mask" in value.name else 1000, given)
            else:
                array = random.normal(size=given)
            feeds[value.name] = array.astype(value.dtype)
        return feeds

    def samples_of(path: Path, model: Any) -> list[dict[str, Any]]:
        """Batches to calibrate with."""
        if path.stem not in files:
            fixed = isinstance((model.inputs[0].shape or (None,))[0], int)
            count = SAMPLES if fixed else SAMPLES // 16
            return [feeds_of(model, 16, None) for _ in range(count)]
        with np.load(files[path.stem]) as held:
            arrays = {value.name: held[value.name] for value in model.inputs}
        count = len(next(iter(arrays.values())))
        return [{k: x[i : i + 16] for k, x in arrays.items()} for i in range(0, count, 16)]

    lines, won = [], {"int8": [], "float32": [], "own": []}
    with tempfile.TemporaryDirectory() as folder:
        for path in arguments.models:
            print(path.name, file=sys.stderr, flush=True)
            model = oc.load(path)
            samples = samples_of(path, model)
            began = time.perf_counter()
            quantized = oc.quantize_model(model, oc.Dataset(samples, batch_size=None))
            seconds = time.perf_counter() - began
            ours = Path(folder) / "ours.onnx"
            quantized.save(ours)
            calls: dict[str, Callable[[Any], Any]] = {
                "octavo float32": model.run,
                "octavo int8": quantized.run,
                **onnxruntime_calls(path, ours, Path(folder), samples, arguments.threads),
                **openvino_calls(path, ours, arguments.threads),
            }
            for shape in arguments.shapes or arguments.batch:
                batch = shape if isinstance(shape, int) else shape[0]
                feeds = feeds_of(model, batch, None if isinstance(shape, int) else shape)
                entrants = [
                    Entrant(
                        name, "model", name.split()[0], lambda c=call, f=feeds: c(f), lambda: None,
                        (lambda: oc.threads(arguments.threads)) if name.startswith("octavo")
                        else contextlib.nullcontext,
                    )
                    for name, call in calls.items()
                ]  # fmt: skip
                times = time_rounds(
                    entrants, rounds=arguments.rounds, seconds=arguments.seconds,
                    threads=arguments.threads,
                )  # fmt: skip
                middle = {name: float(np.median(each)) for name, each in times.items()}
                contests = (
                    ("int8", "octavo int8", INT8_PEERS),
                    ("float32", "octavo int8", FLOAT_PEERS),
                    ("own", "octavo float32", FLOAT_PEERS[:1]),
                )
                cells = []
                for key, mine, peers in contests:
                    known = [name for name in peers if name in middle]
                    if not known:
                        cells.append("-")
                        continue
                    found = ratio(times[min(known, key=middle.__getitem__)], times[mine])
                    won[key].append(found.median)
                    cells.append(f"{found.median:.2f} ({found.low:.2f} - {found.high:.2f})")
                fallbacks = ", ".join(row.operator for row in model.coverage().fallbacks)
                lines.append(
                    (
                        path.stem,
                        str(shape) if isinstance(shape, int) else "x".join(map(str, shape)),
                        f"{seconds:.1f}",
                        *(milliseconds(middle.get(name)) for name in
                          ("octavo float32", *FLOAT_PEERS, "octavo int8", *INT8_PEERS)),
                        *cells,
                        fallbacks or "none",
                    )
                )  # fmt: skip
    facts = machine.describe(cores, arguments.threads)
    print(
        f"{facts['cpu']}, {arguments.threads} threads, {oc.runtime.isa()}; commit {facts['commit']}"
    )
    print(f"\n{versions()}; milliseconds a call\n")
    header = ("model", "batch", "quantized in s", "octavo float32", *FLOAT_PEERS, "octavo int8",
              *INT8_PEERS, "int8 over best int8", "int8 over best float32",
              "float32 over onnxruntime", "fallbacks")  # fmt: skip
    print(tables.table(header, lines))
    said = {
        "int8 over the best int8 peer (1.00 each, mean 1.50)": won["int8"],
        "int8 over the best float32 peer (mean 3.00)": won["float32"],
        "float32 over onnxruntime (1.00 each)": won["own"],
    }
    print()
    for what, found in said.items():
        if found:
            print(f"- {what}: least {min(found):.2f}, mean {geometric_mean(found):.2f}")
    return 0


def milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.3f}"


def versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("onnxruntime", "openvino"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found) or "no peers are installed"


def onnxruntime_calls(
    path: Path, ours: Path, folder: Path, samples: list[Any], threads: int
) -> dict[str, Callable[[Any], Any]]:
    try:
        import onnxruntime
        from onnxruntime import quantization
    except ImportError:
        print("NOT TIMED: onnxruntime is not installed", file=sys.stderr)
        return {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4

    def session(file: Path) -> Callable[[Any], Any]:
        made = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda feeds: made.run(None, feeds)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Any] = iter(samples)

        def get_next(self) -> Any:
            return next(self.left, None)

    theirs = folder / "theirs.onnx"
    kinds = quantization.QuantType
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            quantization.quantize_static(
                path, theirs, Reader(), quant_format=quantization.QuantFormat.QDQ,
                per_channel=True, activation_type=kinds.QUInt8, weight_type=kinds.QInt8,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - whatever it does not manage
            print(f"onnxruntime quantizes dynamically: {error}", file=sys.stderr)
            quantization.quantize_dynamic(path, theirs, per_channel=True)
    calls = {"onnxruntime float32": session(path)}
    for name, file in zip(INT8_PEERS, (theirs, ours), strict=False):
        try:
            calls[name] = session(file)
        except Exception as error:  # noqa: BLE001 - models that it writes but does not read
            print(f"NOT TIMED: {name}: {error}", file=sys.stderr)
    return calls


def openvino_calls(path: Path, ours: Path, threads: int) -> dict[str, Callable[[Any], Any]]:
    try:
        import openvino
    except ImportError:
        print("NOT TIMED: openvino is not installed", file=sys.stderr)
        return {}
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    calls = {}
    for name, file in (("openvino float32", path), (INT8_PEERS[2], ours)):
        try:
            request = core.compile_model(file, "CPU", settings).create_infer_request()
        except Exception as error:  # noqa: BLE001 - operators that it does not know
            print(f"NOT TIMED: {name}: {error}", file=sys.stderr)
            continue
        calls[name] = request.infer
    return calls


if __name__ == "__main__":
    sys.exit(main())
