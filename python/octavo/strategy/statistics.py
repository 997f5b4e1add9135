"""Statistics: what calibration has seen of a model's values."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.array.affine import choose
from octavo.array.interop import dtype_name
from octavo.array.qparams import RANGES, QParams
from octavo.graph.native_file import replacing
from octavo.strategy import observers, report
from octavo.strategy.observers import LANES, Channels, Histogram, Observed, Range

_FORMAT = "octavo.statistics"
_VERSION = 1
_AXES = (1, -1)
_COLUMNS = 256  # of a picture


class Position(NamedTuple):
    """How far a pass over data came: batches, and a checksum of all that was in them."""

    batches: int = 0
    checksum: int = 0


# What "auto" takes for a value: the name of the way, and the range.
Choice = tuple[str, Range]


class Statistics:
    """What was seen of the values of a model; made by `octavo.calibrate`.

    A value of the model has a name, as in ``model.graph``: an input, or what an operator gives.
    ``a | b`` is what both have seen, the same bit for bit in any order and grouping. It pickles.

    Attributes
    ----------
    method : str
        How ranges are chosen where nothing else is said.
    percentile : float
        The percentile of the method of that name.
    samples : int
        How many samples were seen.

    Examples
    --------
    >>> import numpy as np
    >>> import octavo as oc
    >>> from octavo.graph import Graph, Model, Node, Value
    >>> x, y = Value("x", "float32", ("n", 2)), Value("y", "float32", ("n", 2))
    >>> model = Model(Graph("net", [x], [y], [Node("relu", "Relu", ["x"], ["y"])], {}, {}))
    >>> a = oc.calibrate(model, np.array([[-1.0, 2.0]]), method="minmax")
    >>> b = oc.calibrate(model, np.array([[3.0, -5.0]]), method="minmax")
    >>> print(a | b)
    value  by      least  greatest  taken from  to
    x      minmax     -5         3          -5   3
    y      minmax      0         3           0   3
    2 samples, minmax
    >>> (a | b).channel_mean("x", -1)
    array([ 1. , -1.5])
    >>> a | b == b | a
    True
    """

    __slots__ = ("_choices", "_observed", "_position", "method", "percentile", "samples")

    def __init__(
        self,
        observed: Mapping[str, Observed],
        samples: int,
        method: str,
        percentile: float,
        position: Position | None,
        choices: Mapping[str, Choice] | None = None,
    ) -> None:
        self._choices = dict(choices or {})
        self._observed = dict(observed)
        self._position = position
        self.samples = samples
        self.method = method
        self.percentile = percentile

    @property
    def names(self) -> tuple[str, ...]:
        """The values that were observed, in the order they are computed in."""
        return tuple(self._observed)

    @property
    def position(self) -> Position | None:
        """How far the pass over the data came; None for what was merged from several passes."""
        return self._position

    def __contains__(self, name: object) -> bool:
        return name in self._observed

    def __iter__(self) -> Iterator[str]:
        return iter(self._observed)

    def __len__(self) -> int:
        return len(self._observed)

    def finite(self, name: str) -> bool:
        """Return whether a value was finite throughout. A mask of -infinity is not."""
        return self._get(name).infinite < 0

    def range(self, name: str) -> Range:
        """Return the least and the greatest value seen.

        Raises
        ------
        ValueError
            Nothing was observed under that name; or it was infinite, which is said with the batch.
        """
        seen = self._seen(name)
        return seen.least, seen.greatest

    def qparams(self, name: str, dtype: str = "uint8", *, symmetric: bool = False) -> QParams:
        """Return the parameters to quantize a value by, one scale for the tensor.

        Parameters
        ----------
        name : str
            Of the value.
        dtype : {"uint8", "int8", "uint4", "int4"}
            What the codes shall be.
        symmetric : bool
            Codes of equal reach on both sides, as `octavo.quantize` takes for signed dtypes.

        Raises
        ------
        ValueError
            As `range`; an unknown dtype.
        """
        kind = dtype_name(dtype, tuple(RANGES))
        ends = np.asarray(self.clip_range(name, kind, symmetric=symmetric), np.float32)
        scale, zero_point = choose(ends[:1], ends[1:], kind, symmetric)
        return QParams(scale[0], zero_point[0], kind)

    def channel_range(
        self, name: str, axis: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the least and the greatest value of each index along axis 1 or -1: two of (C,).

        Raises
        ------
        ValueError
            As `range`; another axis; the value has no such axis, or its length varies.
        """
        channels = self._channels(name, axis)
        return channels.least.copy(), channels.greatest.copy()

    def channel_mean(self, name: str, axis: int) -> NDArray[np.float64]:
        """Return the mean of each index along axis 1 or -1, (C,); errors as `channel_range`."""
        return self._channels(name, axis).mean

    def clip_range(self, name: str, dtype: str = "uint8", *, symmetric: bool = False) -> Range:
        """Return the range that `qparams` is made for, before it is widened to hold 0; as it."""
        kind = dtype_name(dtype, tuple(RANGES))
        seen = self._seen(name)
        if name in self._choices:
            return self._choices[name][1]
        return observers.clip_range(seen, self.method, kind, symmetric, self.percentile)

    def taken(self, name: str) -> str:
        """Return the name of the method that the range of a value comes from; "auto" chooses one.

        A value that "auto" could measure no error of (nothing computes with it, or the statistics
        were merged since) has its range by "mse".
        """
        self._get(name)
        if name in self._choices:
            return self._choices[name][0]
        return "mse" if self.method == "auto" else self.method

    def observed(self, name: str) -> Observed:
        """Return all that is kept of a value; errors as `range`."""
        return self._seen(name)

    def with_choices(self, choices: Mapping[str, Choice]) -> Statistics:
        """Return the same with ranges chosen for some values, which go before those of the method."""
        args = self._observed, self.samples, self.method, self.percentile, self._position
        return Statistics(*args, choices)

    def plot(self, name: str, ax: Any = None) -> Any:
        """Draw how often the values of one tensor occur, and what is clipped; return the axes.

        Parameters
        ----------
        name : str
            Of the value.
        ax : matplotlib axes, optional
            Where to draw; new ones if not given.

        Raises
        ------
        ValueError
            As `range`; a method that gathers no histogram.
        ImportError
            matplotlib is not installed (the extra "plot").
        """
        low, high = self.range(name)
        edges = np.linspace(low, high if high > low else low + 1.0, _COLUMNS + 1)
        counts = observers.counts_between(self._seen(name), edges)
        ax = report.axes(ax)
        ax.stairs(counts, edges, fill=True)
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.5)  # a single value shows
        for end in self.clip_range(name):
            ax.axvline(end, color="black", linestyle="--")
        ax.set_xlabel(f"{name}: {self.taken(name)}")
        ax.set_ylabel("values")
        return ax

    def _get(self, name: str) -> Observed:
        seen = self._observed.get(name)
        if seen is None:
            raise ValueError(f"no value {name!r} was observed; .names has those that were")
        return seen

    def _seen(self, name: str) -> Observed:
        seen = self._get(name)
        if seen.infinite >= 0:
            raise ValueError(
                f"value {name!r} is infinite in batch {seen.infinite}, expected finite values"
            )
        return seen

    def _channels(self, name: str, axis: int) -> Channels:
        seen = self._seen(name)
        if axis not in _AXES:
            raise ValueError(f"axis is {axis}, expected 1 or -1")
        channels = seen.channels[_AXES.index(axis)]
        if channels is None:
            raise ValueError(f"value {name!r} has no axis {axis}, or one whose length varies")
        return channels

    def __or__(self, other: object) -> Statistics:
        """Return what both have seen.

        Raises
        ------
        ValueError
            They are of different models or methods.
        """
        if not isinstance(other, Statistics):
            return NotImplemented
        odd = self._observed.keys() ^ other._observed.keys()
        if odd:
            raise ValueError(f"the statistics are of different models: one has not {min(odd)!r}")
        for what in ("method", "percentile"):
            mine, theirs = getattr(self, what), getattr(other, what)
            if mine != theirs:
                raise ValueError(f"the statistics differ in {what}: {mine!r} and {theirs!r}")
        merged = {name: seen | other._observed[name] for name, seen in self._observed.items()}
        samples = self.samples + other.samples
        return Statistics(merged, samples, self.method, self.percentile, None)

    def then(self, later: Statistics) -> Statistics:
        """Return ``self | later``, with the position of `later`: the next part of the same pass."""
        merged = self | later
        merged._position = later._position
        return merged

    def __eq__(self, other: object) -> bool:
        """Whether all that is kept is equal, bit for bit."""
        if not isinstance(other, Statistics):
            return NotImplemented
        return self._key() == other._key()

    def _key(self) -> tuple[Any, ...]:
        names = sorted(self._observed)
        parts = _packed([self._observed[name] for name in names])
        kept = tuple(each.tobytes() for each in parts.values())
        return self.method, self.percentile, self.samples, names, kept, self._choices

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> tuple[Any, ...]:
        return (
            self._observed,
            self.samples,
            self.method,
            self.percentile,
            self._position,
            self._choices,
        )

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one ``.npz`` (without pickle), beside the target and then in its place."""
        head = {
            "format": _FORMAT,
            "version": _VERSION,
            "names": list(self._observed),
            "samples": self.samples,
            "method": self.method,
            "percentile": self.percentile,
            "position": self._position,
            "choices": self._choices,
        }
        text = np.frombuffer(json.dumps(head).encode(), np.uint8)
        with replacing(path) as file:
            np.savez(file, **{"head": text, **_packed(list(self._observed.values()))})  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statistics:
        """Read what `save` has written.

        Raises
        ------
        ValueError
            The file is none of that kind, is damaged, or is of a later version.
        """
        try:
            with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                if any(each.compress_type for each in file.zip.infolist()):
                    raise ValueError("it is compressed")  # and might unpack beyond memory
                head = json.loads(bytes(file["head"]))
                if head["format"] != _FORMAT or head["version"] != _VERSION:
                    raise ValueError(
                        f"it is {head['format']} of version {head['version']}, expected "
                        f"{_FORMAT} of version {_VERSION}"
                    )
                observed = _unpacked({name: file[name] for name in _PARTS})
            names, position = head["names"], head["position"]
            return cls(
                dict(zip(names, observed, strict=True)),
                int(head["samples"]),
                str(head["method"]),
                float(head["percentile"]),
                None if position is None else Position(*map(int, position)),
                {
                    name: (str(way), (float(low), float(high)))
                    for name, (way, (low, high)) in head["choices"].items()
                },
            )
        except FileNotFoundError:
            raise
        except (ArithmeticError, AttributeError, EOFError, LookupError, OSError) as error:
            raise ValueError(f"{os.fspath(path)!r} holds no statistics: {error!r}") from error
        except (TypeError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{os.fspath(path)!r} holds no statistics: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return ranges as seen and as chosen, of all values that were finite, as plain numbers."""
        return {
            "method": self.method,
            "samples": self.samples,
            "values": {
                name: {
                    "range": list(self.range(name)),
                    "taken": list(self.clip_range(name)),
                    "method": self.taken(name),
                }
                for name in self
                if self.finite(name)
            },
        }

    def _cells(self) -> tuple[tuple[str, ...], list[tuple[str, ...]], str]:
        rows: list[tuple[str, ...]] = []
        for name in self:
            if self.finite(name):
                ends = (f"{each:.4g}" for each in (*self.range(name), *self.clip_range(name)))
                rows.append((name, self.taken(name), *ends))
            else:
                rows.append((name, "not finite", *"----"))
        heads = ("value", "by", "least", "greatest", "taken from", "to")
        return heads, rows, f"{self.samples} samples, {self.method}"

    def __str__(self) -> str:
        heads, rows, note = self._cells()
        return f"{report.table(heads, rows, 2)}\n{note}"

    def _repr_html_(self) -> str:
        return report.html(*self._cells(), 2)

    def __repr__(self) -> str:
        return f"Statistics({len(self)} values, {self.samples} samples, {self.method!r})"


# --- as arrays ------------------------------------------------------------------------------------

# A row a tensor: count, samples, infinite, counted (whether there is a histogram), zeros, first,
# width; then length and count of each of both channels, 0 where there are none.
_TABLE = 11
_PARTS = ("table", "ends", "sums", "counts", "channel_ends", "channel_sums")


def _packed(observed: list[Observed]) -> dict[str, NDArray[Any]]:
    """Return all of it as one array for each part; equal exactly if what is kept is equal."""
    table, counts = np.zeros((len(observed), _TABLE), np.int64), [np.zeros(0, np.int64)]
    ends, sums = [np.zeros((2, 0), np.float32)], [np.zeros((LANES, 0), np.int64)]
    for row, seen in zip(table, observed, strict=True):
        row[:4] = seen.size, seen.samples, seen.infinite, seen.histogram is not None
        if seen.histogram is not None:
            zeros, first, tail = seen.histogram
            row[4:7] = zeros, first, tail.shape[1]
            counts.append(tail.reshape(-1))
        for i, channels in enumerate(seen.channels):
            if channels is not None:
                row[7 + 2 * i : 9 + 2 * i] = len(channels.least), channels.size
                ends.append(np.stack([channels.least, channels.greatest]))
                sums.append(channels.sums)
    return {
        "table": table,
        "ends": np.array([(e.least, e.greatest) for e in observed], np.float32).reshape(-1, 2),
        "sums": np.array([e.ends for e in observed], np.int64).reshape(-1, LANES, 2),
        "counts": np.concatenate(counts),
        "channel_ends": np.concatenate(ends, axis=1),
        "channel_sums": np.concatenate(sums, axis=1),
    }


def _unpacked(parts: Mapping[str, NDArray[Any]]) -> Iterator[Observed]:
    """Undo `_packed`."""
    table, counts = parts["table"], parts["counts"]
    if table.ndim != 2 or table.shape[1] != _TABLE or table.dtype != np.int64:
        raise ValueError("its table is damaged")
    channels_in_all = int(table[:, [7, 9]].sum())
    expected = {
        "ends": ((len(table), 2), np.float32),
        "sums": ((len(table), LANES, 2), np.int64),
        "counts": ((2 * int(table[:, 6].sum()),), np.int64),
        "channel_ends": ((2, channels_in_all), np.float32),
        "channel_sums": ((LANES, channels_in_all), np.int64),
    }
    whole = all(
        parts[name].shape == shape and parts[name].dtype == np.dtype(dtype)
        for name, (shape, dtype) in expected.items()
    )
    if not whole or (table[:, [0, 1, *range(3, _TABLE)]] < 0).any() or (counts < 0).any():
        raise ValueError("its arrays do not fit each other")
    at = channel = 0
    for row, ends, sums in zip(table.tolist(), parts["ends"], parts["sums"], strict=True):
        count, samples, infinite, counted, zeros, first, width = row[:7]
        histogram = None
        if counted:
            histogram = Histogram(zeros, first, counts[at : at + 2 * width].reshape(2, width))
            at += 2 * width
        channels: list[Channels | None] = []
        for length, each in (row[7:9], row[9:11]):
            part = slice(channel, channel + length)
            channel += length
            of_part = *parts["channel_ends"][:, part], parts["channel_sums"][:, part]
            channels.append(Channels(each, *of_part) if length else None)
        yield Observed(
            count,
            samples,
            float(ends[0]),
            float(ends[1]),
            sums,
            histogram,
            (channels[0], channels[1]),
            infinite,
        )
