"""Model: a graph that runs."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from octavo import runtime
from octavo.array.interop import as_array
from octavo.errors import FallbackWarning, UnsupportedOpError
from octavo.graph import native_file
from octavo.graph.executor import RUNS_TO_PLAN, Executor, Step, Watch
from octavo.graph.ir import Constant, Graph, Subgraph, Value
from octavo.graph.kernel import REFERENCE
from octavo.graph.onnx_reader import read
from octavo.graph.optimize import optimize

Feeds = Mapping[str, ArrayLike]


class Layer(NamedTuple):
    """One operator of a model. Names are unique, and stay when operators are fused.

    `nbytes` is what its constants take in their plain form, weights above all.
    """

    name: str
    operator: str
    kernel: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nbytes: int


class Benchmark(NamedTuple):
    """How long a model takes: seconds a call, and the most memory that the process took so far."""

    median: float
    p99: float
    runs: int
    threads: int
    peak_mb: float

    def __str__(self) -> str:
        return (
            f"median {self.median * 1e3:.3f} ms, p99 {self.p99 * 1e3:.3f} ms "
            f"({self.runs} runs, {self.threads} threads), peak {self.peak_mb:.0f} MB"
        )


class CoverageRow(NamedTuple):
    """The layers of a model that one kernel runs for one operator. `share` of the time, if known."""

    operator: str
    kernel: str
    layers: int
    fallback: bool
    seconds: float | None
    share: float | None


class Coverage(NamedTuple):
    """What runs a model: a row an operator and kernel, the slowest first where times are known.

    Where inputs were given: how many of the layers that need their values run inside plans in C++,
    and how many bytes those plans take for what lies between layers.
    """

    rows: tuple[CoverageRow, ...]
    planned: int | None = None
    planned_bytes: int | None = None

    @property
    def fallbacks(self) -> tuple[CoverageRow, ...]:
        """The rows that onnx's reference implementation runs."""
        return tuple(row for row in self.rows if row.fallback)

    def __str__(self) -> str:
        head = ("operator", "kernel", "layers", "time", "share")
        lines = [head, *map(_cells, self.rows)]
        tail = ""
        if self.planned is not None and self.planned_bytes is not None:
            tail = f"\n\n{self.planned} layers in plans, {self.planned_bytes / 1e6:.2f} MB between"
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = "\n".join(
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )
        return table + tail


def _cells(row: CoverageRow) -> tuple[str, ...]:
    kernel = f"{row.kernel} (fallback)" if row.fallback else row.kernel
    spent = "-" if row.seconds is None else f"{row.seconds * 1e3:.3f} ms"
    share = "-" if row.share is None else f"{row.share:.1%}"
    return row.operator, kernel, str(row.layers), spent, share


def load_model(source: Any, strict: bool) -> Model:
    """Load a model; `octavo.load` says how."""
    if _is_native(source):
        graph = native_file.read(source)
    else:
        graph = read(source)
        optimize(graph)
    model = Model(graph)
    rows = model.coverage().fallbacks
    if rows:
        names = ", ".join(
            f"{row.operator} ({row.layers})"
            if row.kernel == REFERENCE
            else f"what is in {row.operator} ({row.kernel})"
            for row in rows
        )
        if strict:
            raise UnsupportedOpError(f"no kernel for {names}; strict=False runs them slowly")
        warnings.warn(
            f"no kernel for {names}: run by onnx's reference implementation, slowly; "
            "model.coverage(feeds) shows what they take of the time",
            FallbackWarning,
            stacklevel=3,
        )
    return model


def _is_native(source: Any) -> bool:
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            return file.read(4) == native_file.MAGIC
    return isinstance(source, bytes) and source[:4] == native_file.MAGIC


class Model:
    """A graph, prepared to run; made by `octavo.load`.

    Usable from many threads at once and after a fork; it pickles as plain arrays. What follows from
    the shapes of the inputs alone is computed once for each shape and kept.

    Examples
    --------
    >>> import numpy as np
    >>> from octavo.graph import Graph, Model, Node, Value
    >>> a, b = (Value(name, "float32", ("n",)) for name in ("a", "b"))
    >>> nodes = [Node("sum", "Add", ["a", "b"], ["y"]), Node("product", "Mul", ["a", "b"], ["z"])]
    >>> model = Model(Graph("net", [a, b], [Value("y"), Value("z")], nodes, {}, {}))
    >>> model.run({"a": np.array([1.0, 2.0]), "b": np.array([3.0, 4.0])}, ["z"])
    {'z': array([3., 8.], dtype=float32)}
    >>> print(model.coverage())
    operator  kernel  layers  time  share
    Add       numpy        1     -      -
    Mul       numpy        1     -      -
    """

    __slots__ = ("__weakref__", "_executor", "_expected", "_graph")

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._executor = Executor(graph)
        # NumPy has one object for each of its own dtypes: what is that object is native too.
        self._expected = tuple((value, _DTYPES.get(value.dtype or "")) for value in graph.inputs)

    @property
    def graph(self) -> Graph:
        """What is run, after all passes. It is shared: copy it before you change it."""
        return self._graph

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Name, dtype and shape of each input."""
        return tuple(self._graph.inputs)

    @property
    def outputs(self) -> tuple[Value, ...]:
        """Name, dtype and shape of each output."""
        return tuple(self._graph.outputs)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The operators, in the order they run in."""
        constants = self._graph.constants
        return tuple(
            Layer(
                node.name,
                node.op,
                kernel.name,
                tuple(node.inputs),
                tuple(node.outputs),
                sum(constants[name].nbytes for name in node.inputs if name in constants),
            )
            for node, kernel, _, _ in self._executor.steps
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all constants, weights above all, in their plain form; shared ones count once."""
        return sum(each.nbytes for each in _constants(self._graph).values())

    def __call__(self, *args: ArrayLike, **named: ArrayLike) -> Any:
        """Return the output for inputs in order or by name; a dict if there are several."""
        if len(args) > len(self._graph.inputs):
            raise ValueError(f"got {len(args)} inputs, expected {self._names()}")
        feeds = {v.name: x for v, x in zip(self._graph.inputs, args, strict=False)}
        twice = feeds.keys() & named.keys()
        if twice:
            raise ValueError(f"input {min(twice)!r} is given twice")
        results = self.run(feeds | named)
        return next(iter(results.values())) if len(results) == 1 else results

    def run(
        self,
        feeds: Feeds,
        outputs: Iterable[str] | None = None,
        *,
        out: Mapping[str, NDArray[Any]] | None = None,
    ) -> dict[str, Any]:
        """Return outputs by name.

        Parameters
        ----------
        feeds : dict of arrays by input name
            float16, float32 and float64 are converted to what the model takes; integers where
            nothing is lost by their dtype.
        outputs : list of str, optional
            Which outputs; all if not given.
        out : dict of arrays by output name, optional
            Where to write results, of their dtype and shape; those arrays are returned.

        Raises
        ------
        ValueError, TypeError
            Inputs that are missing or unknown, or of another dtype or shape than the model takes.
        """
        if not isinstance(feeds, Mapping):
            raise TypeError(
                f"feeds is {type(feeds).__name__}, expected a dict of arrays by input name: "
                "model.run(feeds, outputs=None), not run(outputs, feeds)"
            )
        arrays = self._arrays(feeds)
        names = [value.name for value in self._graph.outputs]
        wanted = names if outputs is None else [outputs] if isinstance(outputs, str) else [*outputs]
        unknown = [name for name in (*wanted, *(out or ())) if name not in names]
        if unknown:
            raise ValueError(f"no output {unknown[0]!r}, expected {', '.join(map(repr, names))}")
        made = self._executor.run(arrays, wanted)
        results: dict[str, Any] = {}
        for name, value in zip(wanted, made, strict=True):
            place = None if out is None else out.get(name)
            if place is None:
                results[name] = self._own(value, arrays, results)
            else:
                results[name] = _written(name, value, place)
        return results

    @staticmethod
    def _own(value: Any, arrays: list[Any], results: Mapping[str, Any]) -> Any:
        """Return an array that is the caller's alone: no input, constant, or view of one."""
        if not isinstance(value, np.ndarray):
            return value
        shared = value.base is not None or not value.flags.writeable
        shared = shared or any(value is each for each in (*arrays, *results.values()))
        return np.array(value) if shared else value

    def _names(self) -> str:
        return ", ".join(repr(value.name) for value in self._graph.inputs) or "none"

    def _arrays(self, feeds: Feeds) -> list[Any]:
        names = {value.name for value, _ in self._expected}
        if feeds.keys() != names:
            for name in sorted(map(str, feeds.keys() - names)):
                raise ValueError(f"no input {name!r}, expected {self._names()}")
            for name in sorted(names - feeds.keys()):
                raise ValueError(f"input {name!r} is missing, expected {self._names()}")
        arrays = []
        for value, dtype in self._expected:
            given: Any = feeds[value.name]
            fits = type(given) is np.ndarray and given.dtype is dtype and _fits(value, given.shape)
            arrays.append(given if fits and given.flags.aligned else _as_input(value, given))
        return arrays

    def prepare(self, feeds: Feeds) -> None:
        """Run until what depends on these shapes is planned and its memory has been touched."""
        arrays, names = self._arrays(feeds), [value.name for value in self._graph.outputs]
        for _ in range(RUNS_TO_PLAN):
            self._executor.run(arrays, names)

    def trace(self, feeds: Feeds, watch: Watch) -> dict[str, Any]:
        """Run, and show a function what each operator is given and gives; return the outputs.

        Parameters
        ----------
        feeds : dict of arrays by input name
            As `run` takes them.
        watch : callable
            Called as ``watch(step, inputs, outputs)`` after each operator, in the order they run
            in: ``step.node`` is the graph's node, ``step.kernel.run`` computes it, the arrays are
            those of ``node.inputs`` and what ``node.implicit`` names, and of ``node.outputs``, None
            where one is left out. They are not to be written to. What follows from input shapes
            alone is computed once and not shown.
        """
        names = [value.name for value in self._graph.outputs]
        made = self._executor.run(self._arrays(feeds), names, watch=watch)
        return dict(zip(names, made, strict=True))

    def benchmark(
        self, feeds: Feeds, *, threads: int | None = None, seconds: float = 2.0
    ) -> Benchmark:
        """Return how long a call takes: median and 99th percentile of runs over some seconds.

        Raises
        ------
        ValueError
            As `run`; `seconds` not above 0.
        """
        if not seconds > 0:
            raise ValueError(f"seconds is {seconds}, expected more than 0")
        names = [value.name for value in self._graph.outputs]
        arrays = self._arrays(feeds)
        with runtime.threads(runtime.get_num_threads() if threads is None else threads):
            self.prepare(feeds)
            taken: list[float] = []
            end = time.perf_counter() + seconds
            while len(taken) < 3 or time.perf_counter() < end:
                began = time.perf_counter()
                self._executor.run(arrays, names)
                taken.append(time.perf_counter() - began)
            used = runtime.get_num_threads()
        return Benchmark(
            float(np.median(taken)), float(np.percentile(taken, 99)), len(taken), used, _peak_mb()
        )

    def coverage(self, feeds: Feeds | None = None, *, runs: int = 5) -> Coverage:
        """Return what runs each operator; with `feeds`, also how much of the time it takes.

        What is computed once for each input shape takes no time here: `runs` come after it.
        """
        spent: dict[str, float] = {}

        def timer(step: Step, seconds: float) -> None:
            spent[step.node.name] = spent.get(step.node.name, 0.0) + seconds / runs

        if feeds is not None:
            names = [value.name for value in self._graph.outputs]
            arrays = self._arrays(feeds)
            self.prepare(feeds)
            for _ in range(runs):
                self._executor.run(arrays, names, timer)
        groups: dict[tuple[str, str], list[str]] = {}
        for layer in self.layers:
            groups.setdefault((layer.operator, layer.kernel), []).append(layer.name)
        total = sum(spent.values()) or 1.0
        rows = []
        for (operator, kernel), layers in groups.items():
            seconds = None if feeds is None else sum(spent.get(name, 0.0) for name in layers)
            share = None if seconds is None else seconds / total
            fallback = REFERENCE in kernel
            rows.append(CoverageRow(operator, kernel, len(layers), fallback, seconds, share))
        rows.sort(key=lambda row: (-(row.seconds or 0.0), row.operator, row.kernel))
        if feeds is None:
            return Coverage(tuple(rows))
        return Coverage(tuple(rows), *self._executor.planned(arrays))

    def save(self, path: str | os.PathLike[str], *, blocks: str = "DequantizeLinear") -> None:
        """Write the model to a file that `octavo.load` reads to the same bits.

        Parameters
        ----------
        path : str or path
            Ends in ".octavo", which NumPy alone reads, or in ".onnx", for every runtime: codes
            between QuantizeLinear and DequantizeLinear, checked by onnx (the extra "models").
            What was there is replaced when the new file is whole. Weights of more than 2 GB go
            to a file beside an ONNX model.
        blocks : {"DequantizeLinear", "MatMulNBits"}
            How 4-bit weights in groups are written to ONNX: with ONNX's own operator, or as
            the product that onnxruntime alone has, which is faster there.

        Raises
        ------
        ValueError
            Another ending; another name for `blocks`; what the file cannot hold (ModelError).
        ImportError
            ONNX, and the package onnx is not installed.
        """
        name = os.fspath(path)
        if name.endswith(".onnx"):
            from octavo.graph import onnx_writer

            onnx_writer.write(self._graph, path, blocks=blocks)
        elif name.endswith(".octavo"):
            native_file.write(self._graph, path)
        else:
            raise ValueError(f"path is {name!r}, expected one that ends in '.octavo' or '.onnx'")

    # A model is frozen: its own copy.

    def __copy__(self) -> Model:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Model, (self._graph,)

    def __repr__(self) -> str:
        shown = [", ".join(map(_describe, each)) for each in (self.inputs, self.outputs)]
        count = len(self.layers)
        layers = f"{count} layer{'' if count == 1 else 's'}"
        return f"Model({self._graph.name!r}, {shown[0]} -> {shown[1]}, {layers})"


def _constants(graph: Graph) -> dict[int, Constant]:
    """Return the constants of a graph and of those inside its nodes, by identity."""
    found = {id(each): each for each in graph.constants.values()}
    for node in graph.nodes:
        for value in node.attributes.values():
            if isinstance(value, Subgraph):
                found |= _constants(value.graph)
    return found


def _peak_mb() -> float:
    try:
        import resource
    except ImportError:  # not on Windows
        return float("nan")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _describe(value: Value) -> str:
    if value.shape is None:
        return f"{value.name}: {value.dtype}"
    shape = ", ".join("?" if size is None else str(size) for size in value.shape)
    return f"{value.name}: {value.dtype}[{shape}]"


_DTYPES = {name: np.dtype(name) for name in ("float32", "int8", "int32", "int64", "uint8")}


def _fits(value: Value, shape: tuple[int, ...]) -> bool:
    if value.shape is None:
        return True
    if len(shape) != len(value.shape):
        return False
    for size, got in zip(value.shape, shape, strict=True):
        if size != got and isinstance(size, int):
            return False
    return True


def _as_input(value: Value, given: Any) -> Any:
    if value.dtype is None or value.dtype in ("sequence", "optional", "map", "sparse_tensor"):
        return given
    array = as_array(given, value.name)
    if value.dtype == "object":
        array = array if array.dtype.kind == "O" else array.astype(object)
    elif array.dtype.name != value.dtype:
        dtype = np.dtype(value.dtype)
        floats = array.dtype.kind == "f" and dtype.kind == "f"
        if not floats and not np.can_cast(array.dtype, dtype, "safe"):
            raise TypeError(f"input {value.name!r} is {array.dtype}, expected {value.dtype}")
        array = array.astype(dtype)
    if not _fits(value, array.shape):
        expected = ", ".join("?" if each is None else str(each) for each in value.shape or ())
        raise ValueError(f"input {value.name!r} has shape {array.shape}, expected ({expected})")
    return array


def _written(name: str, value: Any, place: Any) -> NDArray[Any]:
    if not isinstance(place, np.ndarray):
        raise TypeError(f"out[{name!r}] is {type(place).__name__}, expected numpy.ndarray")
    if place.shape != value.shape or place.dtype != value.dtype:
        raise ValueError(
            f"out[{name!r}] is {place.dtype} of shape {place.shape}, "
            f"expected {value.dtype} of shape {value.shape}"
        )
    np.copyto(place, value)
    return place
