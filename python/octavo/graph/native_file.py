"""The file `.octavo`: a graph as it runs here, in a form that NumPy alone reads.

A zip, not compressed, of ``graph.json`` and of one ``.npy`` for each array, each beginning at a multiple
of 64 bytes: arrays are read where they lie in the file, mapped into memory. Nothing in it is code, and
nothing is unpacked: what is read is never larger than the file.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from octavo import _core
from octavo.array import QParams, QTensor
from octavo.errors import ModelError
from octavo.graph.ir import Constant, Graph, Node, Subgraph, Value

MAGIC = b"PK\x03\x04"
_FORMAT = "octavo"
_VERSION = 1
# The rules of docs/int8.md; a file of other rules would give other bits.
ARITHMETIC = 1
_ALIGNMENT = 64
# What is stored of 4-bit codes: two to a byte, the first in the low half.
_FOUR_BITS = ("int4", "uint4")
_PLAIN = (int, float, str, bool, type(None))


# --- writing --------------------------------------------------------------------------------------


def write(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph beside the target, then put it in its place: an interruption leaves the old file.

    Raises
    ------
    ModelError
        A constant of a dtype that NumPy has not.
    """
    import json
    import zipfile

    arrays: list[NDArray[Any]] = []
    description = {
        "format": _FORMAT,
        "version": _VERSION,
        "arithmetic": ARITHMETIC,
        "octavo": _core.__version__,
        "metadata": graph.metadata,
        "graph": _graph_out(graph, arrays),
    }
    text = json.dumps(description, indent=1, allow_nan=False).encode()
    with replacing(path, ".octavo.part") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("graph.json", text)
        for i, array in enumerate(arrays):
            _write_array(archive, f"{i}.npy", array)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], suffix: str = ".part") -> Iterator[IO[bytes]]:
    """Give a file to write beside `path`, and put it in its place if nothing was raised meanwhile."""
    import tempfile

    target = os.path.abspath(os.fspath(path))
    handle, name = tempfile.mkstemp(dir=os.path.dirname(target), suffix=suffix)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_array(archive: Any, name: str, array: NDArray[Any]) -> None:
    import io
    import zipfile

    content = io.BytesIO()
    np.lib.format.write_array(content, np.asarray(array, order="C"), allow_pickle=False)
    info = zipfile.ZipInfo(name)
    # An extra field of zeros moves the content, which follows a header of 30 bytes and the name.
    begin = archive.fp.tell() + 30 + len(name) + 4
    info.extra = b"\xfe\xca" + (-begin % _ALIGNMENT).to_bytes(2, "little")
    info.extra += bytes(-begin % _ALIGNMENT)
    archive.writestr(info, content.getvalue())


def _graph_out(graph: Graph, arrays: list[NDArray[Any]]) -> dict[str, Any]:
    named = {name for node in graph.nodes for name in (*node.inputs, *node.outputs)}
    known = [graph.values[name] for name in sorted(named & graph.values.keys())]
    return {
        "name": graph.name,
        "inputs": [list(value) for value in graph.inputs],
        "outputs": [list(value) for value in graph.outputs],
        "nodes": [
            {
                "name": node.name,
                "op": node.op,
                "version": node.version,
                "inputs": node.inputs,
                "outputs": node.outputs,
                "attributes": {k: _out(v, arrays) for k, v in node.attributes.items()},
                "implicit": node.implicit,
            }
            for node in graph.nodes
        ],
        "values": [list(value) for value in known],
        "constants": {name: _out(each, arrays) for name, each in graph.constants.items()},
    }


def _out(value: Any, arrays: list[NDArray[Any]]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return _out(value.item(), arrays)
    if isinstance(value, Subgraph):
        proto = _array_out(np.frombuffer(value.proto, np.uint8), arrays)
        return {"subgraph": _graph_out(value.graph, arrays), "proto": proto}
    if isinstance(value, tuple | list):
        return [_out(each, arrays) for each in value]
    if isinstance(value, bytes):
        return {"bytes": _array_out(np.frombuffer(value, np.uint8), arrays)}
    if isinstance(value, np.ndarray):
        if value.dtype == object:
            return {"strings": value.reshape(-1).tolist(), "shape": list(value.shape)}
        return {"array": _array_out(value, arrays)}
    if isinstance(value, QParams):
        return {
            "qparams": [*map(_listed, (value.scale, value.zero_point)), value.dtype, value.axis]
        }
    if isinstance(value, QTensor):
        return {"qtensor": _qtensor_out(value, arrays)}
    raise ModelError(f"{type(value).__name__} cannot be saved")


def _listed(array: NDArray[Any]) -> Any:
    return array.tolist()  # float64 holds each float32, and prints it exactly


def _array_out(array: NDArray[Any], arrays: list[NDArray[Any]]) -> int:
    if array.dtype.kind not in "biuf" or not array.dtype.isbuiltin:
        raise ModelError(f"a constant of dtype {array.dtype} cannot be saved")
    for i, each in enumerate(arrays):  # graphs inside share constants with those around them
        if each is array:
            return i
    arrays.append(array)
    return len(arrays) - 1


def _qtensor_out(q: QTensor, arrays: list[NDArray[Any]]) -> dict[str, Any]:
    if q.dtype == "float16":
        return {"dtype": q.dtype, "data": _array_out(q.data, arrays)}
    codes = q.codes()
    if q.dtype in _FOUR_BITS:
        flat = np.append(codes.reshape(-1).view(np.uint8) & 15, np.zeros(codes.size % 2, np.uint8))
        codes = flat[0::2] | flat[1::2] << 4
    zero_point = q.zero_point
    return {
        "dtype": q.dtype,
        "shape": list(q.shape),
        "data": _array_out(codes, arrays),
        "scale": _array_out(q.scale, arrays),
        "zero_point": _array_out(zero_point, arrays) if zero_point.any() else None,
        "axis": q.axis,
        "group_size": q.group_size,
    }


# --- reading --------------------------------------------------------------------------------------


def read(source: str | os.PathLike[str] | bytes) -> Graph:
    """Return the graph of a file, or of its bytes.

    Raises
    ------
    ModelError
        Anything but a file that `write` has written.
    """
    import io
    import json
    import zipfile

    if isinstance(source, bytes):
        content = np.frombuffer(source, np.uint8)
        file: Any = io.BytesIO(source)
    else:
        content = np.memmap(source, np.uint8, "r").view(np.ndarray)
        file = source
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
                raise ModelError("an .octavo file holds nothing compressed")
            description = json.loads(archive.read("graph.json"))
        found = description.get("format"), description.get("version")
        if found != (_FORMAT, _VERSION) or description.get("arithmetic") != ARITHMETIC:
            raise ModelError(
                f"a file of format {found[0]!r}, version {found[1]!r}, arithmetic "
                f"{description.get('arithmetic')!r}; expected {_FORMAT!r}, {_VERSION}, {ARITHMETIC}"
            )
        arrays = [_read_array(content, members[f"{i}.npy"]) for i in range(len(members) - 1)]
        graph = _Reader(arrays).graph(description["graph"])
        said = description.get("metadata", {})  # older files have none
        graph.metadata = {_text(name): _text(value) for name, value in said.items()}
    except ModelError:
        raise
    except Exception as error:  # of zipfile, json, NumPy's parser, or of what was made of it
        raise ModelError(f"not a valid .octavo file: {error!r}") from error
    _check_order(graph, ())
    return graph


def _read_array(content: NDArray[np.uint8], info: Any) -> NDArray[Any]:
    """Return an array where it lies."""
    import io

    header = content[info.header_offset : info.header_offset + 30].tobytes()
    names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    begin = info.header_offset + 30 + names
    end = begin + info.file_size
    if header[:4] != MAGIC or end > content.size:
        raise ModelError(f"{info.filename} lies beyond the end of the file")
    start = io.BytesIO(content[begin : min(end, begin + 2**16)].tobytes())
    if np.lib.format.read_magic(start) != (1, 0):
        raise ModelError(f"{info.filename} is of another version of .npy")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(start)
    count = math.prod(shape)
    first = begin + start.tell()
    if dtype.kind not in "biuf" or fortran or first + count * dtype.itemsize != end:
        raise ModelError(f"{info.filename} is {dtype} of shape {shape}: not what its bytes hold")
    return np.frombuffer(content, dtype, count, first).reshape(shape)


class _Reader:
    """Makes a graph of its description; whatever does not fit raises some error."""

    def __init__(self, arrays: list[NDArray[Any]]) -> None:
        self._arrays = arrays

    def graph(self, d: dict[str, Any]) -> Graph:
        constants: dict[str, Constant] = {}
        for name, each in d["constants"].items():
            constant = self.value(each)
            if not isinstance(constant, np.ndarray | QTensor):
                raise ModelError(f"constant {name!r} is {type(constant).__name__}")
            constants[name] = constant
        return Graph(
            _text(d["name"]),
            map(_value_in, d["inputs"]),
            map(_value_in, d["outputs"]),
            [self.node(each) for each in d["nodes"]],
            constants,
            {each[0]: _value_in(each) for each in d["values"]},
        )

    def node(self, d: dict[str, Any]) -> Node:
        return Node(
            _text(d["name"]),
            _text(d["op"]),
            map(_text, d["inputs"]),
            map(_text, d["outputs"]),
            {_text(name): self.value(each) for name, each in d["attributes"].items()},
            int(d["version"]),
            {_text(inner): _text(name) for inner, name in d["implicit"].items()},
        )

    def value(self, d: Any) -> Any:
        if isinstance(d, _PLAIN):
            return d
        if isinstance(d, list):
            return tuple(self.value(each) for each in d)
        if "array" in d:
            return self._arrays[d["array"]]
        if "float" in d:
            return float(d["float"])
        if "bytes" in d:
            return self._arrays[d["bytes"]].tobytes()
        if "strings" in d:
            return np.array(list(map(_text, d["strings"])), object).reshape(d["shape"])
        if "qparams" in d:
            scale, zero_point, dtype, axis = d["qparams"]
            return QParams(np.float32(scale), np.array(zero_point, np.int64), dtype, axis=axis)
        if "subgraph" in d:
            return Subgraph(self.graph(d["subgraph"]), self._arrays[d["proto"]].tobytes())
        return self.qtensor(d["qtensor"])

    def qtensor(self, d: dict[str, Any]) -> QTensor:
        data = self._arrays[d["data"]]
        if d["dtype"] == "float16":
            return QTensor(data, 1.0)
        if d["dtype"] in _FOUR_BITS:
            halves = np.stack([data & 15, data >> 4], -1).reshape(-1)
            data = halves[: math.prod(d["shape"])].reshape(d["shape"])
            if d["dtype"] == "int4":
                data = ((data ^ 8).astype(np.int8) - 8).astype(np.int8)
        zero_point = 0 if d["zero_point"] is None else self._arrays[d["zero_point"]]
        return QTensor(
            data,
            self._arrays[d["scale"]],
            zero_point,
            dtype=d["dtype"],
            axis=d["axis"],
            group_size=d["group_size"],
        )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ModelError(f"{value!r} where a name belongs")
    return value


def _value_in(d: list[Any]) -> Value:
    name, dtype, shape = d
    if dtype is not None:
        _text(dtype)
    sizes = None if shape is None else tuple(shape)
    if not all(size is None or isinstance(size, int | str) for size in sizes or ()):
        raise ModelError(f"{shape!r} where a shape belongs")
    return Value(_text(name), dtype, sizes)


def _check_order(graph: Graph, around: Iterable[str]) -> None:
    """Raise unless each value is there before it is read, and made once."""
    made = {"", *around, *graph.constants, *(value.name for value in graph.inputs)}
    for node in graph.nodes:
        for name in node.reads:
            if name not in made:
                raise ModelError(f"{node.name!r} reads {name!r}, which nothing before it makes")
        for name in node.outputs:
            if name and name in made:
                raise ModelError(f"{name!r} is made twice")
            made.add(name)
        for value in node.attributes.values():
            if isinstance(value, Subgraph):
                _check_order(value.graph, ())
    for output in graph.outputs:
        if output.name not in made:
            raise ModelError(f"nothing makes the output {output.name!r}")
