"""Exact 8-bit neural network arithmetic on CPUs: the same bits on every instruction set."""

import importlib
import os
import warnings
from typing import TYPE_CHECKING, Any

from octavo import runtime
from octavo._core import PackedMatrix, __version__, matmul, pack, requantize
from octavo.array import (
    QParams,
    QTensor,
    conv1d,
    conv2d,
    conv_transpose2d,
    dequantize,
    linear,
    quantize,
)
from octavo.errors import FallbackWarning, ModelError, UnsupportedOpError
from octavo.graph import load
from octavo.nn import GRU, LSTM, Conv1d, Conv2d, ConvTranspose2d, Embedding, Linear, attention
from octavo.runtime import set_num_threads, show_config, threads
from octavo.strategy import HOMES

if TYPE_CHECKING:
    from octavo.strategy.calibrate import calibrate
    from octavo.strategy.compare import compare
    from octavo.strategy.dataset import Dataset
    from octavo.strategy.evaluate import evaluate
    from octavo.strategy.explain import explain
    from octavo.strategy.metrics import Metric
    from octavo.strategy.ptq import quantize_model
    from octavo.strategy.statistics import Statistics

__all__ = [
    "GRU",
    "LSTM",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "Dataset",
    "Embedding",
    "FallbackWarning",
    "Linear",
    "Metric",
    "ModelError",
    "PackedMatrix",
    "QParams",
    "QTensor",
    "Statistics",
    "UnsupportedOpError",
    "__version__",
    "attention",
    "calibrate",
    "compare",
    "conv1d",
    "conv2d",
    "conv_transpose2d",
    "dequantize",
    "evaluate",
    "explain",
    "linear",
    "load",
    "matmul",
    "pack",
    "quantize",
    "quantize_model",
    "requantize",
    "runtime",
    "set_num_threads",
    "show_config",
    "threads",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'octavo' has no attribute {name!r}")
    return getattr(importlib.import_module(f"octavo.strategy.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})


if runtime.available_isas()[0] == "scalar" and not os.environ.get("OCTAVO_ISA"):
    warnings.warn(
        "this CPU has none of the instructions that octavo has kernels for "
        f"({', '.join(name for name in runtime.known_isas() if not name.startswith('scalar'))}); "
        "results are the same, but slow",
        FallbackWarning,
        stacklevel=2,
    )
