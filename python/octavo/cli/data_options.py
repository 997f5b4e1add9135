"""Options that the commands with data have in common, and what they stand for."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from octavo.cli import terminal
from octavo.graph import Model
from octavo.strategy.dataset import Dataset, dataset_for
from octavo.strategy.metrics import NAMED, Metric, as_metric
from octavo.strategy.progress import How

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def add_data_options(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add --data, --labels, --transform, --batch and --limit."""
    parser.add_argument(
        "--data",
        metavar="D",
        required=required,
        help=".npz with an array of samples for each input, .npy for a model with one input, a folder "
        "of .npy or .npz with one sample each, or PKG:FN, which returns an iterable of samples",
    )
    parser.add_argument(
        "--labels", metavar="L", help=".npy, or the name of the labels among the arrays of --data"
    )
    parser.add_argument(
        "--transform", metavar="PKG:FN", help="a function applied to each sample, without its label"
    )
    parser.add_argument(
        "--batch",
        type=terminal.positive_int,
        metavar="N",
        help="samples in a call (default: 32, or what the model takes)",
    )
    parser.add_argument(
        "--limit", type=terminal.positive_int, metavar="N", help="take so many samples at most"
    )


def add_metric_option(parser: argparse.ArgumentParser) -> None:
    """Add --metric."""
    parser.add_argument(
        "--metric",
        metavar="NAME|PKG:FN",
        help=f"{', '.join(NAMED)}, or a function (labels, predictions) -> float "
        "(default: top1 with labels, else agreement)",
    )


def read_dataset(options: argparse.Namespace, model: Model | None = None) -> Dataset:
    """Return the data that the options name, in batches that the model takes."""
    transform = None if options.transform is None else load_function(options.transform, "transform")
    source: Any = options.data
    if _FUNCTION.fullmatch(source) and not os.path.exists(source):
        source = load_function(source, "data")
    if options.batch is None and model is not None:
        return dataset_for(model, source, options.labels, transform=transform, limit=options.limit)
    size = 32 if options.batch is None else options.batch
    return Dataset(
        source, options.labels, transform=transform, batch_size=size, limit=options.limit
    )


def read_metric(options: argparse.Namespace) -> Metric:
    """Return the metric that the options name."""
    name = options.metric or ("agreement" if options.labels is None else "top1")
    return as_metric(load_function(name, "metric") if ":" in name else name)


def progress_of(options: argparse.Namespace) -> How:
    """Return how progress is shown."""
    return None if options.quiet else "auto"


def load_function(text: str, what: str) -> Any:
    """Import what PKG:FN names; modules are also looked for in the current folder.

    Raises
    ------
    ValueError
        Another form; a module, or a name in it, that is not there; what cannot be called.
    """
    if not _FUNCTION.fullmatch(text):
        raise ValueError(f"--{what} is {text!r}, expected PACKAGE.MODULE:FUNCTION")
    module, _, path = text.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # what the module itself imports
        raise ValueError(f"--{what} is {text!r}, and there is no module {error.name!r}") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise ValueError(f"--{what} is {text!r}, and {module!r} has no {path!r}")
        found = getattr(found, name)
    if not callable(found):
        raise ValueError(  # noqa: TRY004 - of an argument
            f"--{what} is {text!r}, a {type(found).__name__}, expected a function"
        )
    return found


def shape_option(text: str) -> tuple[str, tuple[int, ...]]:
    """Parse NAME=1x3x32x32; the name may be left out where a model has one input.

    >>> shape_option("x=1x3x32x32"), shape_option("8"), shape_option("state=")
    (('x', (1, 3, 32, 32)), ('', (8,)), ('state', ()))
    """
    name, equals, sizes = text.rpartition("=")
    try:
        shape = tuple(terminal.positive_int(each) for each in sizes.split("x")) if sizes else ()
    except (ValueError, argparse.ArgumentTypeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=1x3x32x32") from error
    if not equals and not sizes:
        raise argparse.ArgumentTypeError("'' is not NAME=1x3x32x32")
    return name, shape


def made_feeds(
    model: Model, shapes: Sequence[tuple[str, tuple[int, ...]]], batch: int = 1
) -> dict[str, np.ndarray[Any, Any]]:
    """Return inputs of the model's shapes: normal numbers, ones for integers and bools.

    Parameters
    ----------
    shapes : list of (name, shape)
        Of inputs with free dimensions; the first dimension alone may be free without: the batch.
    """
    given = _named_shapes(model, shapes)
    rng = np.random.default_rng(0)
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    for value in model.inputs:
        shape = given.get(value.name)
        if shape is None:
            known = value.shape or ()
            sizes = [batch if not i and not isinstance(n, int) else n for i, n in enumerate(known)]
            if value.shape is None or not all(isinstance(n, int) for n in sizes):
                example = "x".join(str(n) if isinstance(n, int) else "16" for n in sizes) or "1x16"
                raise ValueError(
                    f"input {value.name!r} has free dimensions: say --shape "
                    f"{value.name}={example}, or give --data"
                )
            shape = tuple(int(n) for n in sizes if isinstance(n, int))
        dtype = value.dtype or "float32"
        if dtype not in np.sctypeDict or np.dtype(dtype).kind not in "fiub":
            raise ValueError(f"input {value.name!r} is {dtype}, which is not made: give --data")
        floats = np.dtype(dtype).kind == "f"
        feeds[value.name] = (rng.normal(size=shape) if floats else np.ones(shape)).astype(dtype)
    return feeds


def _named_shapes(
    model: Model, shapes: Sequence[tuple[str, tuple[int, ...]]]
) -> Mapping[str, tuple[int, ...]]:
    names = [value.name for value in model.inputs]
    given: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes:
        if not name and len(names) == 1:
            name = names[0]
        if name not in names:
            raise ValueError(
                f"--shape names input {name!r}, expected {', '.join(map(repr, names))}"
            )
        given[name] = shape
    return given
