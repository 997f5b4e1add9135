"""What int8 costs real models: octavo beside onnxruntime's and NNCF's quantizers, each model's own metric.

    python bench/accuracy.py --data DIR [--data DIR ...] [MODEL ...] [--limit N] [--json FILE]

DIR holds models and data (OCTAVO_DATA where none is named). All quantizers are given the same
calibration samples. Octavo runs what octavo quantized, onnxruntime what the others did. A model, a
program or a package that is not there is named on stderr and left out.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np
import tables
import tasks
from tasks import Feeds, Run, Scores, Task

import octavo as oc

# How each quantizes: (model, samples, path of the float32 model) -> what runs it.
Way = Callable[[oc.graph.Model, list[Feeds], Path], Run]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(tasks.TASKS))
    parser.add_argument("--data", action="append", type=Path, default=[], metavar="DIR")
    parser.add_argument(
        "--limit", type=int, default=0, help="samples that are asked about; 0: as many as there are"
    )
    parser.add_argument(
        "--ways", default=",".join(WAYS), help="some of " + ", ".join(WAYS) + " (default: all)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="what is printed")
    arguments = parser.parse_args()
    arguments.ways = arguments.ways.split(",")
    for given, known in ((arguments.models, tasks.TASKS), (arguments.ways, WAYS)):
        if unknown := set(given) - set(known):
            parser.error(f"{', '.join(sorted(unknown))}: expected some of {', '.join(known)}")
    if named := os.environ.get("OCTAVO_DATA"):
        arguments.data += [Path(each) for each in named.split(os.pathsep)]
    return arguments


def run_of(model: oc.graph.Model) -> Run:
    return lambda feeds: list(model.run(dict(feeds)).values())


def octavo(**options: Any) -> Way:
    def quantize(model: oc.graph.Model, samples: list[Feeds], _: Path) -> Run:
        data = oc.Dataset(samples, batch_size=None)
        return run_of(oc.quantize_model(model, data, progress=None, **options))

    return quantize


def octavo_plain(model: oc.graph.Model, samples: list[Feeds], _: Path) -> Run:
    """Whole ranges, weights to the nearest, nothing more."""
    data = oc.Dataset(samples, batch_size=None)
    stats = oc.calibrate(model, data, method="minmax", progress=None)
    return run_of(oc.quantize_model(model, stats=stats, progress=None))


def session(model: Any) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    held = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return lambda feeds: list(held.run(None, dict(feeds)))


def at_least_opset_13(path: Path) -> Any:
    """Return the model in an opset that has scales for each channel."""
    import onnx
    from onnx import version_converter

    model = onnx.load(path)
    opset = next(each.version for each in model.opset_import if each.domain == "")
    return model if opset >= 13 else version_converter.convert_version(model, 13)


def onnxruntime_static(method: str, per_channel: bool = True) -> Way:
    def quantize(_: oc.graph.Model, samples: list[Feeds], path: Path) -> Run:
        import onnx
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
            left = iter(samples)

            def get_next(self) -> Feeds | None:
                return next(self.left, None)

        with tempfile.TemporaryDirectory() as folder:
            source, made = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
            onnx.save(at_least_opset_13(path), source)
            try:
                quant_pre_process(source, source, skip_symbolic_shape=True)
            except Exception as error:  # noqa: BLE001 - of any kind
                say(f"{path.stem}: onnxruntime's preparation failed, left out: {short(error)}")
            quantization.quantize_static(
                source,
                made,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=per_channel,
                calibrate_method=quantization.CalibrationMethod[method],
            )
            return session(made)

    return quantize


def nncf(transformer: bool = False) -> Way:
    def quantize(_: oc.graph.Model, samples: list[Feeds], path: Path) -> Run:
        import nncf as them

        them.set_log_level(40)
        kind = {"model_type": them.ModelType.TRANSFORMER} if transformer else {}
        made = them.quantize(
            at_least_opset_13(path),
            them.Dataset(samples),
            subset_size=len(samples),
            **kind,
        )
        return session(made)

    return quantize


WAYS: dict[str, Way] = {
    "octavo": octavo(),
    "octavo dynamic": octavo(activations="dynamic"),
    "octavo minmax": octavo_plain,
    "ort minmax": onnxruntime_static("MinMax"),
    "ort percentile": onnxruntime_static("Percentile"),
    "ort entropy": onnxruntime_static("Entropy"),
    "ort tensor minmax": onnxruntime_static("MinMax", per_channel=False),
    "nncf": nncf(),
    "nncf transformer": nncf(transformer=True),
}


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


def measure(task: Task, ways: list[str]) -> dict[str, Any]:
    """Return the scores of the float32 model and of each way, and the seconds each way took."""
    model = oc.load(task.path)
    run = run_of(model)
    samples = task.calibration(run)
    wanted = task.answers(run)
    scores: dict[str, Scores] = {"float32": task.score(wanted, wanted)}
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    for way in ways:
        say(f"{task.name}: {way}")
        began = time.perf_counter()
        try:
            made = WAYS[way](model, samples, task.path)
            seconds[way] = time.perf_counter() - began
            scores[way] = task.score(task.answers(made), wanted)
        except Exception as error:  # noqa: BLE001 - a quantizer that cannot do a model is a result
            failed[way] = short(error)
            say(f"NOT MEASURED: {task.name}: {way}: {failed[way]}")
    fallbacks = sorted({row.operator for row in model.coverage().fallbacks})
    return {
        "model": task.name,
        "scores": scores,
        "seconds": seconds,
        "failed": failed,
        "fallbacks": fallbacks,
    }


def rows(found: dict[str, Any], ways: list[str]) -> list[list[str]]:
    """Return a row for each metric of a model."""
    scores = found["scores"]
    made = []
    for metric in scores["float32"]:
        cells = [
            figure(scores[way][metric]) if way in scores else "failed" for way in ["float32", *ways]
        ]
        made.append([found["model"], metric, *cells])
    return made


def figure(value: float) -> str:
    return f"{value:.2f}" if value > 1.5 else f"{value:.4f}"


# The most that top-1 may lose, and how near it must come to the best of the others, in points.
LOSS, BEHIND = 0.15, 0.05


def bars(found: dict[str, Any]) -> list[list[str]]:
    """Return what must be reached, and what was, for a model that has been measured."""
    scores = found["scores"]
    if "octavo" not in scores:
        return []
    ours, name = scores["octavo"], found["model"]
    made = []

    def bar(what: str, need: float, got: float) -> None:
        made.append([name, what, f"{need:.2f}", f"{got:.4f}", "pass" if got >= need else "SHORT"])

    if "top-1, %" in ours:
        top = {way: each["top-1, %"] for way, each in scores.items()}
        bar("top-1 over float32's", -LOSS, round(top["octavo"] - top["float32"], 4))
        if peers := {w: t for w, t in top.items() if w.startswith(("ort", "nncf"))}:
            best = max(peers, key=lambda way: peers[way])
            bar(f"top-1 over {best}'s", -BEHIND, round(top["octavo"] - peers[best], 4))
    if "same passage" in ours:
        bar("cosine, mean", 0.99, ours["cosine, mean"])
        bar("same passage", 0.98, ours["same passage"])
    return made


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main() -> int:
    arguments = parse_arguments()
    ways = list(arguments.ways)
    for package, prefix in (("onnxruntime", "ort"), ("nncf", "nncf")):
        if version(package) == "not installed" and any(w.startswith(prefix) for w in ways):
            say(f"NOT MEASURED: {package} is not installed")
            ways = [way for way in ways if not way.startswith(prefix)]
    cores = sorted(os.sched_getaffinity(0))
    facts = machine.describe(cores, len(cores)) | {
        "isa": oc.runtime.isa(),
        **{name: version(name) for name in ("numpy", "onnxruntime", "nncf")},
    }
    found = []
    for name in arguments.models or tasks.TASKS:
        try:
            task = tasks.TASKS[name](arguments.data, arguments.limit)
        except (tasks.Missing, ImportError) as error:
            say(f"NOT MEASURED: {name}: {error}")
            continue
        found.append(measure(task, ways))
    lines = [line for each in found for line in rows(each, ways)]
    parts = ["\n".join(f"- {key}: {value}" for key, value in facts.items())]
    if lines:
        parts.append(tables.table(["model", "metric", "float32", *ways], lines))
        took = [
            [each["model"], *(f"{each['seconds'][w]:.1f}" if w in each["seconds"] else "-" for w in ways)]
            for each in found
        ]  # fmt: skip
        parts += ["Seconds to quantize", tables.table(["model", *ways], took)]
    if reached := [bar for each in found for bar in bars(each)]:
        parts.append(tables.table(["model", "bar", "need", "reached", ""], reached))
    parts += [
        f"- {each['model']}: through onnx's reference: {', '.join(each['fallbacks'])}"
        for each in found
        if each["fallbacks"]
    ]
    parts += [
        f"- {each['model']}, {way}: {why}" for each in found for way, why in each["failed"].items()
    ]
    text = "\n\n".join(parts)
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": facts, "models": found}, indent=1) + "\n")
    return 0 if found else 1


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main())
