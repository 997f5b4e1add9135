"""`octavo bench`: a model here, beside onnxruntime and OpenVINO."""

from __future__ import annotations

import argparse
import importlib
import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

import octavo as oc
from octavo import runtime
from octavo.cli import data_options, machine, terminal
from octavo.graph import Model
from octavo.strategy.dataset import feeds_of
from octavo.strategy.timing import interleaved

Feeds = Mapping[str, np.ndarray[Any, Any]]
# Returns the outputs, in the model's order.
Call = Callable[[], list[Any]]


class Row(NamedTuple):
    """A runtime's figures: seconds a call, how many times octavo's, the largest difference.

    The difference is to octavo's outputs, relative to the largest value of each.
    """

    runtime: str
    version: str
    median: float
    p99: float
    calls: int
    ratio: float
    difference: float


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add `octavo bench` to the parser."""
    parser = commands.add_parser(
        "bench",
        parents=[common],
        help="time a model, beside onnxruntime and OpenVINO",
        description="Time a model (.onnx or .octavo) here and in onnxruntime and OpenVINO, where "
        "these are installed: in turns, in one process, with equal threads and the same inputs.",
    )
    parser.add_argument("model", metavar="MODEL", help="an .onnx or .octavo file")
    data_options.add_data_options(parser, required=False)
    parser.add_argument(
        "--shape",
        metavar="NAME=1x3x32x32",
        action="append",
        default=[],
        type=data_options.shape_option,
        help="the shape of an input that is made, where the model leaves dimensions free; once for "
        "each such input",
    )
    parser.add_argument(
        "--seconds",
        type=terminal.positive_float,
        default=2.0,
        metavar="S",
        help="how long to time each runtime (default: 2)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load, time and print; return the exit status."""
    if options.data is not None and options.shape:
        raise ValueError("--data and --shape are both given; expected one of them")
    model = oc.load(options.model)
    feeds = _feeds(options, model)
    calls, versions, absent = _runtimes(options.model, model, feeds)
    outputs = {name: call() for name, call in calls.items()}
    terminal.progress(options, f"timing {', '.join(calls)} ...")
    threads = runtime.get_num_threads()
    timings = interleaved(calls, options.seconds * len(calls), pools=threads > 1 and len(calls) > 1)
    rows = [
        Row(
            name,
            versions[name],
            *timings[name],
            timings[name].median / timings["octavo"].median,
            difference(outputs[name], outputs["octavo"]),
        )
        for name in calls
    ]
    notes = [f"{name}: {why}" for name, why in absent.items()] + machine.load_notes()
    if options.json:
        shapes = {name: list(x.shape) for name, x in feeds.items()}
        terminal.print_json(
            {
                "model": options.model,
                "machine": machine.describe(),
                "inputs": shapes,
                "rows": [row._asdict() for row in rows],
                "absent": absent,
            }
        )
        return 0
    terminal.print_text(machine.heading())
    shown = ", ".join(f"{name} {'x'.join(map(str, x.shape))}" for name, x in feeds.items())
    terminal.print_text(f"{os.path.basename(options.model)}: {shown}\n")
    terminal.print_table(
        ("runtime", "median", "p99", "octavo is faster by", "differs by"),
        [
            (
                f"{row.runtime} {row.version}",
                terminal.duration(row.median),
                terminal.duration(row.p99),
                "" if row.runtime == "octavo" else terminal.ratio(row.ratio),
                "" if row.runtime == "octavo" else f"{row.difference:.2g}",
            )
            for row in rows
        ],
    )
    terminal.print_notes(options, notes)
    return 0


def _feeds(options: argparse.Namespace, model: Model) -> dict[str, np.ndarray[Any, Any]]:
    """Return the first batch of the data, or made inputs, as the model's dtypes."""
    if options.data is None:
        return data_options.made_feeds(model, options.shape, options.batch or 1)
    if options.batch is None:
        options.batch = 1
    x, _ = next(data_options.read_dataset(options, model).batches())
    feeds = feeds_of(model, x)
    return {
        value.name: np.asarray(feeds[value.name], value.dtype or feeds[value.name].dtype)
        for value in model.inputs
    }


def _runtimes(
    path: str, model: Model, feeds: Feeds
) -> tuple[dict[str, Call], dict[str, str], dict[str, str]]:
    """Return calls by runtime, their versions, and why others are absent."""
    calls: dict[str, Call] = {"octavo": lambda: [*model.run(feeds).values()]}
    versions, absent = {"octavo": oc.__version__}, dict[str, str]()
    with tempfile.TemporaryDirectory() as folder:
        for name, start in (("onnxruntime", _onnxruntime), ("openvino", _openvino)):
            try:
                module = importlib.import_module(name)
            except ImportError:
                absent[name] = "is not installed"
                continue
            try:
                if path.endswith(".octavo"):
                    path = os.path.join(folder, "model.onnx")
                    model.save(path)
                calls[name] = start(module, path, feeds, runtime.get_num_threads())
                calls[name]()
                versions[name] = str(module.__version__).partition("-")[0]
            except Exception as error:  # noqa: BLE001 - theirs are of any kind
                calls.pop(name, None)
                absent[name] = (
                    "cannot run it: " + (str(error).strip() or repr(error)).split("\n")[0]
                )
    return calls, versions, absent


def _onnxruntime(onnxruntime: Any, path: str, feeds: Feeds, threads: int) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: list(session.run(None, dict(feeds)))


def _openvino(openvino: Any, path: str, feeds: Feeds, threads: int) -> Call:
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({name: list(x.shape) for name, x in feeds.items()})  # faster than free shapes
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # Else float32 is computed in 16 bits where a CPU has them.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def call() -> list[Any]:
        request.infer(dict(feeds), share_inputs=True)
        return [tensor.data for tensor in request.output_tensors]

    return call


def difference(outputs: list[Any], ours: list[Any]) -> float:
    """Return the largest difference, relative to the largest value of the same output of ours.

    >>> difference([np.array([1.0, 4.5])], [np.array([1.0, 4.0])])
    0.125
    """
    largest = 0.0
    for y, r in zip(outputs, ours, strict=True):
        a, b = np.asarray(y), np.asarray(r)
        if a.shape != b.shape or a.dtype.kind not in "fiub" or not a.size:
            continue
        scale = float(np.abs(b.astype(np.float64)).max()) or 1.0
        largest = max(largest, float(np.abs(a.astype(np.float64) - b).max()) / scale)
    return largest
