"""Data in batches: from arrays, files, folders and iterables, streamed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from octavo.array.interop import as_array

if TYPE_CHECKING:
    from octavo.graph.model import Model

Array = NDArray[Any]
X = Array | dict[str, Array]
Batch = tuple[X, Array | None]
# Gives the next so many samples of a column.
Read = Callable[[int], Any]

_BATCH = 32
# While samples of one shape wait for more of it, so many batches of all shapes are held at most.
_WAITING_BATCHES = 16


class Dataset:
    """Samples, and labels where there are some, given out in batches.

    Nothing is held but what a batch needs: files are read as they are passed over (``.npy`` is mapped
    into memory), iterables are asked for one item after the other.

    Parameters
    ----------
    x : arrays, path, iterable or callable
        - an array with a sample at each index of axis 0;
        - a dict of such arrays by input name, all of one length. A list of arrays may stand for an
          array, where sequences are of different lengths; so may the path of an ``.npy``;
        - the path of an ``.npy`` or ``.npz``: such an array, or such a dict;
        - the path of a folder: each ``.npy`` in it is one sample (without a batch axis), each
          ``.npz`` one sample with an array for each input, in the order of their names;
        - an iterable of items: a sample each (an array, or a dict by input name), or a pair
          (sample, label), which may be a list if both are arrays. PyTorch's data sets and loaders
          are such iterables. An iterator or generator gives its samples once: where several passes
          are needed it is refused;
        - a callable without arguments that returns such an iterable, called for each pass.
    y : array, list, path or str, optional
        A label for each sample, as an array, a list or the path of an ``.npy``; or the name of
        the labels among the arrays of `x`.
    transform : callable, optional
        Applied to each item before items are put into batches: to a sample (without its label), or
        to a batch where `batch_size` is None. It returns an array, or a dict by input name, of any
        shape: it may read a file, cut an image, or split a text into tokens.
    batch_size : int or None, default 32
        Samples in a batch. None: each item is a batch already, as those of a PyTorch ``DataLoader``
        are.
    limit : int, optional
        How many samples to take at most.

    Raises
    ------
    ValueError
        No samples; `x` and `y`, or the arrays of `x`, of different lengths; a file or folder that
        holds no arrays; `batch_size` or `limit` below 1.
    TypeError
        What gives no samples.

    Notes
    -----
    Samples of different shapes (sentences) never share a batch. Each shape's samples wait until they
    fill a batch, or until too many wait: order changes then, labels stay with their samples. Samples
    of one shape keep their order. It is the same in every pass.

    Any values may be in the data, NaN too; calibration refuses what it cannot use.

    Examples
    --------
    >>> import numpy as np
    >>> import octavo as oc
    >>> data = oc.Dataset(np.arange(10.0).reshape(5, 2), [0, 1, 0, 1, 1], batch_size=3)
    >>> len(data)
    5
    >>> [(x.shape, y.tolist()) for x, y in data.batches()]
    [((3, 2), [0, 1, 0]), ((2, 2), [1, 1])]
    >>> sentences = [[7, 8], [9], [1, 2], [3]]
    >>> [x.tolist() for x, _ in oc.Dataset(sentences, transform=np.array).batches()]
    [[[7, 8], [1, 2]], [[9], [3]]]
    """

    __slots__ = (
        "_key",
        "_labels",
        "_limit",
        "_size",
        "_source",
        "_spent",
        "_transform",
        "repeatable",
    )

    def __init__(
        self,
        x: Any,
        y: Any = None,
        *,
        transform: Callable[[Any], Any] | None = None,
        batch_size: int | None = _BATCH,
        limit: int | None = None,
    ) -> None:
        for name, number in (("batch_size", batch_size), ("limit", limit)):
            if number is None:
                continue
            if isinstance(number, bool) or not hasattr(number, "__index__"):
                raise TypeError(f"{name} is {number!r}, expected an int or None")
            if number < 1:
                raise ValueError(f"{name} is {number}, expected 1 or more")
        if transform is not None and not callable(transform):
            raise TypeError(f"transform is {type(transform).__name__}, expected a callable")
        self._size, self._limit, self._transform = batch_size, limit, transform
        self._source = _source(x)
        self._key: str | None = None
        self._labels: Any = None
        if isinstance(y, str) and not y.endswith(".npy"):
            self._key = y
            if isinstance(self._source, _Columns):
                self._source, self._labels = self._source.without(y)
        elif y is not None:
            self._labels = _column(y, "y")
        known = _length(self._source)
        if known == 0:
            raise ValueError("x holds no samples")
        labels = known if self._labels is None else len(self._labels)
        if batch_size is not None and known is not None and known != labels:
            raise ValueError(f"x has {known} samples, y has {labels}; they must be equal")
        # Whether the samples can be passed over more than once.
        self.repeatable: bool = not isinstance(self._source, Iterator)
        self._spent = False

    @property
    def labelled(self) -> bool | None:
        """Whether there are labels; None where only a pass will show."""
        if self._labels is not None or self._key is not None:
            return True
        return False if isinstance(self._source, _Columns | _Folder) else None

    def __len__(self) -> int:
        """Return the number of samples.

        Raises
        ------
        TypeError
            Nobody knows before they are counted.
        """
        known = None if self._size is None else _length(self._source)
        if known is None:
            raise TypeError("the number of samples is not known before they are read")
        return known if self._limit is None else min(known, self._limit)

    def __bool__(self) -> bool:
        return True

    def batches(self) -> Iterator[Batch]:
        """Return an iterator over ``(x, y)``.

        x is an array, or a dict of arrays by input name, with the samples along axis 0; y is an
        array of their labels, or None.

        Raises
        ------
        ValueError
            A second pass over what gives its samples once; no samples; labels that are fewer or
            more than samples, where that shows only now.
        """
        if self._spent:
            raise ValueError(
                "the data is an iterator, which gives its samples once, and several passes are "
                "needed: give a list, an array, or a function that makes a new iterator"
            )
        self._spent = not self.repeatable
        return self._batches()

    def _batches(self) -> Iterator[Batch]:
        with ExitStack() as stack:
            labels = None if self._labels is None else _reader(self._labels, stack)
            if self._size is None:
                made = self._whole(labels, stack)
            elif isinstance(self._source, _Columns) and self._source.even and not self._transform:
                made = self._direct(self._source, self._size, labels, stack)
            else:
                made = self._grouped(self._size, labels, stack)
            first = next(made, None)
            if first is None:
                raise ValueError("the data holds no samples")
            yield first
            yield from made

    def _direct(
        self, source: _Columns, size: int, labels: Read | None, stack: ExitStack
    ) -> Iterator[Batch]:
        """Slices of arrays."""
        rows, read = len(self), source.reader(stack)
        for begin in range(0, rows, size):
            count = min(size, rows - begin)
            yield read(count), None if labels is None else _labels_of(labels(count), count)

    def _whole(self, labels: Read | None, stack: ExitStack) -> Iterator[Batch]:
        """Items that are batches."""
        left = self._limit
        for x, y in self._items(stack):
            count = samples_in(x)
            if labels is not None:
                y = labels(count)
            if y is not None:
                y = _labels_of(y, count)
            if left is not None and count > left:
                x, y = _first(x, count, left), None if y is None else y[:left]
            yield x, y
            if left is not None:
                left -= count
                if left <= 0:
                    return
        _none_left(labels)

    def _grouped(self, size: int, labels: Read | None, stack: ExitStack) -> Iterator[Batch]:
        """Samples, put together with others of their shape."""
        waiting: dict[Any, list[tuple[Any, Any]]] = {}
        held = 0
        for x, y in itertools.islice(self._items(stack), self._limit):
            if labels is not None:
                y = _labels_of(labels(1), 1)[0]
            named = x if isinstance(x, dict) else {"": x}
            kind = tuple((name, each.shape, each.dtype) for name, each in named.items())
            alike = waiting.setdefault(kind, [])
            alike.append((x, y))
            held += 1
            if len(alike) < size and held < size * _WAITING_BATCHES:
                continue
            if len(alike) < size:
                kind = max(waiting, key=lambda each: len(waiting[each]))
            ready = waiting.pop(kind)
            held -= len(ready)
            yield _together(ready)
        for ready in waiting.values():
            yield _together(ready)
        if self._limit is None:
            _none_left(labels)

    def _items(self, stack: ExitStack) -> Iterator[tuple[X, Any]]:
        """Each item as arrays, transformed, and the label that came with it."""
        source = self._source
        items = source.rows(stack) if isinstance(source, _Columns) else iter(source)
        for item in items:
            x, y = item, None
            if _is_pair(item):
                x, y = item if len(item) == 2 else (item[0], None)
                if y is not None and (self._labels is not None or self._key is not None):
                    raise ValueError("the items of x are pairs (sample, label), and y is given too")
            if self._key is not None and self._labels is None:
                x, y = _without_key(x, self._key)
            if self._transform is not None:
                x = self._transform(_copied(x))  # which may write to what it is given
            yield _as_x(x), y

    def __repr__(self) -> str:
        known = None if self._size is None else _length(self._source)
        count = "samples" if known is None else f"{len(self)} samples"
        labels = ", with labels" if self.labelled else ""
        return f"Dataset({count}{labels}, batch_size={self._size})"


def as_dataset(data: Any, model: Model | None = None) -> Dataset:
    """Return `data` itself if it is a `Dataset`, else one made of it.

    Parameters
    ----------
    data : Dataset, or what `Dataset` takes
        A tuple of two is ``(x, y)``.
    model : Model, optional
        What the data is for, as `dataset_for` says.
    """
    if isinstance(data, Dataset):
        return data
    x, y = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    return Dataset(x, y) if model is None else dataset_for(model, x, y)


def dataset_for(
    model: Model,
    x: Any,
    y: Any = None,
    *,
    transform: Callable[[Any], Any] | None = None,
    limit: int | None = None,
) -> Dataset:
    """Return `Dataset` of these, in batches that the model takes.

    If it takes batches of one size alone, they are of that. If items, files in a folder too, have as
    many axes as its inputs have, they are batches already.
    """
    size = _fixed_batch(model) or _BATCH
    made = Dataset(x, y, transform=transform, batch_size=size, limit=limit)
    ranks = {value.name: len(value.shape) for value in model.inputs if value.shape is not None}
    if isinstance(made._source, _Columns) or not ranks:
        return made
    items = iter(made._source)
    first = next(items, None)
    if first is None:
        raise ValueError("the data holds no samples")
    if isinstance(made._source, Iterator):
        x = itertools.chain([first], items)
    probe = Dataset([first], made._key, transform=transform, batch_size=None)
    ((sample, _),) = probe.batches()
    named = sample if isinstance(sample, dict) else dict.fromkeys(ranks, sample)
    whole = [named[name].ndim == ranks[name] for name in ranks if name in named]
    batch_size = None if whole and all(whole) else size
    return Dataset(x, y, transform=transform, batch_size=batch_size, limit=limit)


def feeds_of(model: Model, x: X) -> dict[str, Array]:
    """Return a batch as the model's inputs by name.

    Raises
    ------
    ValueError
        Inputs that are missing or unknown; one array for a model of several inputs; another number
        of axes, or of samples, than the model takes.
    """
    names = [value.name for value in model.inputs]
    shown = ", ".join(map(repr, names)) or "none"
    if not isinstance(x, Mapping):
        if len(names) != 1:
            raise ValueError(
                f"the data has one array, the model has inputs {shown}: "
                "give a dict of arrays by input name"
            )
        x = {names[0]: x}
    unknown = [name for name in x if name not in names]
    if unknown:
        raise ValueError(
            f"the data has {unknown[0]!r}, which is no input of the model; expected {shown} "
            f"(labels are named by y={unknown[0]!r})"
        )
    for value in model.inputs:
        if value.name not in x:
            raise ValueError(f"the data has no input {value.name!r}, expected {shown}")
        given, shape = np.shape(x[value.name]), value.shape
        if shape is None or len(given) == len(shape):
            continue
        expected = ", ".join("?" if each is None else str(each) for each in shape)
        hint = ""
        if len(given) == len(shape) + 1:
            hint = "; if the items of the data are batches, say Dataset(..., batch_size=None)"
        raise ValueError(
            f"a batch of input {value.name!r} has shape {given}, expected ({expected}){hint}"
        )
    size, count = _fixed_batch(model), samples_in(x) if x else None
    if size is not None and count != size:
        raise ValueError(
            f"a batch has {count} samples, the model takes {size}: "
            f"say Dataset(..., batch_size={size}), and give a number of samples that it divides"
        )
    return dict(x)


def samples_in(x: X) -> int:
    """Return how many samples a batch holds: the length of its first array, 1 if that has no axes."""
    first = next(iter(x.values())) if isinstance(x, Mapping) else x
    return len(first) if first.ndim else 1


def _fixed_batch(model: Model) -> int | None:
    """Return the number of samples that a model takes, if it takes no other."""
    leading = {(value.shape or (None,))[0] for value in model.inputs}
    size = leading.pop() if len(leading) == 1 else None
    return size if isinstance(size, int) and size > 0 else None


# --- where samples come from ----------------------------------------------------------------------


class _Columns:
    """Arrays with a sample at each index: by input name, or one, named None."""

    def __init__(self, columns: Mapping[str | None, Any]) -> None:
        if not columns:
            raise ValueError("x has no arrays")
        lengths = {name: len(column) for name, column in columns.items()}
        if len({*lengths.values()}) > 1:
            shown = ", ".join(f"{name!r} {length}" for name, length in lengths.items())
            raise ValueError(f"the arrays of x have different numbers of samples: {shown}")
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def even(self) -> bool:
        """Whether the samples of each array have one shape."""
        return not any(isinstance(column, list) for column in self.columns.values())

    def without(self, name: str) -> tuple[_Columns, Any]:
        """Return the rest, and the array of that name."""
        if name not in self.columns:
            shown = ", ".join(repr(each) for each in self.columns if each is not None)
            raise ValueError(f"y is {name!r}, expected one of the arrays of x: {shown or 'none'}")
        rest = {each: column for each, column in self.columns.items() if each != name}
        return _Columns(rest), self.columns[name]

    def reader(self, stack: ExitStack) -> Read:
        reads = {name: _reader(column, stack) for name, column in self.columns.items()}
        bare = reads.get(None)
        return bare or (lambda count: {name: read(count) for name, read in reads.items()})

    def rows(self, stack: ExitStack) -> Iterator[Any]:
        read = self.reader(stack)
        for begin in range(0, len(self), _BATCH):
            count = min(_BATCH, len(self) - begin)
            block = read(count)
            for i in range(count):
                yield (
                    {name: column[i] for name, column in block.items()}
                    if isinstance(block, dict)
                    else block[i]
                )


class _Folder:
    """Files of one sample each."""

    def __init__(self, path: str) -> None:
        names = sorted(each for each in os.listdir(path) if each.endswith((".npy", ".npz")))
        if not names:
            raise ValueError(f"folder {path!r} holds no .npy or .npz")
        self._files = [os.path.join(path, name) for name in names]

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Any]:
        for file in self._files:
            loaded = _load(file)
            if isinstance(loaded, np.ndarray):
                yield loaded
            else:
                with loaded:
                    yield {name: loaded[name] for name in loaded.files}


class _Calls:
    """A function that makes an iterable for each pass."""

    def __init__(self, function: Callable[[], Iterable[Any]]) -> None:
        self._function = function

    def __iter__(self) -> Iterator[Any]:
        made = self._function()
        try:
            return iter(made)
        except TypeError as error:
            raise TypeError(
                f"x returned {type(made).__name__}, expected an iterable of samples"
            ) from error


class _Zipped:
    """An array in an ``.npz``, read from its beginning as it is needed, packed or not."""

    def __init__(self, path: str, name: str) -> None:
        import zipfile

        self._path, self._name = path, name
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            self.shape, self._fortran, self.dtype = _header(file)
            size = archive.getinfo(f"{name}.npy").file_size
        expected = int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize
        if self.dtype.hasobject or not self.shape or size < expected:
            raise ValueError(
                f"{name!r} of {path!r} is {self.dtype} of shape {self.shape} in {size} bytes, "
                "expected an array of numbers with the samples along axis 0"
            )

    def __len__(self) -> int:
        return int(self.shape[0])

    def reader(self, stack: ExitStack) -> Read:
        import zipfile

        archive = stack.enter_context(zipfile.ZipFile(self._path))
        file = stack.enter_context(archive.open(f"{self._name}.npy"))
        if self._fortran:  # the samples are spread over the whole of it
            return _reader(np.lib.format.read_array(file, allow_pickle=False), stack)
        _header(file)
        row = int(np.prod(self.shape[1:])) * self.dtype.itemsize

        def read(count: int) -> Array:
            content = file.read(count * row)
            block = np.frombuffer(content, self.dtype).reshape(-1, *self.shape[1:])
            return as_array(block, self._name)

        return read


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether in Fortran's order, and dtype of an .npy."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"an .npy of version {version}, expected 1.0 or 2.0")


def _source(x: Any) -> Any:
    """Return what x says in one of the forms above, or the iterable that it is."""
    if _is_array(x):
        return _Columns({None: _column(x, "x")})
    if isinstance(x, Mapping):
        return _Columns({str(name): _column(each, str(name)) for name, each in x.items()})
    if isinstance(x, str | os.PathLike):
        return _files(os.fspath(x))
    if hasattr(x, "__iter__") or hasattr(x, "__getitem__"):
        if isinstance(x, bytes | bytearray):
            raise TypeError(f"x is {type(x).__name__}, expected arrays, a path or an iterable")
        return x if hasattr(x, "__iter__") else _Calls(partial(iter, x))
    if callable(x):
        return _Calls(x)
    raise TypeError(f"x is {type(x).__name__}, expected arrays, a path or an iterable of samples")


def _files(path: str) -> Any:
    if os.path.isdir(path):
        return _Folder(path)
    if not path.endswith((".npy", ".npz")):
        os.stat(path)  # for its error
        raise ValueError(f"x is {path!r}, expected an .npy, an .npz or a folder of them")
    loaded = _load(path)
    if isinstance(loaded, np.ndarray):
        return _Columns({None: _column(loaded, "x")})
    with loaded:
        names = list(loaded.files)
    return _Columns({name: _Zipped(path, name) for name in names})


def _load(path: str) -> Any:
    """Return an .npy, mapped into memory, or an open .npz."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path!r} cannot be read: {error}") from error


def _is_array(x: Any) -> bool:
    return isinstance(x, np.ndarray) or hasattr(x, "__dlpack__") or hasattr(x, "__array__")


def _column(x: Any, name: str) -> Any:
    """Return samples as an array, or as a list where their shapes differ."""
    if isinstance(x, str | os.PathLike):
        x = _load(os.fspath(x))
        if not isinstance(x, np.ndarray):
            x.close()
            raise ValueError(f"{name} is the path of an .npz, expected an .npy")  # noqa: TRY004
    if isinstance(x, list | tuple):
        x = list(x)
        shapes = {np.shape(each) for each in x} if all(map(_is_array, x)) else None
        if shapes is not None and len(shapes) > 1:
            return x
        try:
            x = np.asarray(x)
        except ValueError:  # lists of different lengths
            return x
    if not isinstance(x, np.ndarray):  # of which each batch is converted, where it must be
        x = as_array(x, name)
    if x.ndim == 0:
        raise ValueError(f"{name} is a single value, expected the samples along axis 0")
    return x


def _reader(column: Any, stack: ExitStack) -> Read:
    if isinstance(column, _Zipped):
        return column.reader(stack)
    position = 0

    def read(count: int) -> Any:
        nonlocal position
        block = column[position : position + count]
        position += count
        return block if isinstance(block, list) else as_array(np.asarray(block), "x")

    return read


def _length(source: Any) -> int | None:
    try:
        return len(source)
    except TypeError:
        return None


# --- samples and labels ---------------------------------------------------------------------------


def _is_pair(item: Any) -> bool:
    """Whether an item is (sample, label), or (sample,). PyTorch's loaders make lists of tuples."""
    if isinstance(item, list):
        return len(item) in (1, 2) and all(map(_is_array, item))
    return isinstance(item, tuple) and len(item) in (1, 2)


def _copied(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {name: _copied(each) for name, each in x.items()}
    return x.copy() if isinstance(x, np.ndarray) else x


def _as_x(x: Any) -> X:
    if isinstance(x, Mapping):
        return {str(name): as_array(each, str(name)) for name, each in x.items()}
    if x is None:
        raise TypeError("a sample is None, expected an array or a dict of arrays by input name")
    return as_array(x, "x")


def _without_key(item: Any, key: str) -> tuple[Any, Any]:
    if not isinstance(item, Mapping) or key not in item:
        shown = ", ".join(map(repr, item)) if isinstance(item, Mapping) else type(item).__name__
        raise ValueError(f"y is {key!r}, which an item of x has not: {shown}")
    return {name: each for name, each in item.items() if name != key}, item[key]


def _labels_of(y: Any, count: int) -> Array:
    """Return labels of so many samples as an array: of arrays, where their shapes differ."""
    y = [as_array(each, "y") for each in y] if isinstance(y, list) else as_array(y, "y")
    got = len(y) if isinstance(y, list) or y.ndim else 0
    if got != count:
        raise ValueError(f"{got} labels are left of y for {count} samples of x")
    if not isinstance(y, list) or len({each.shape for each in y}) == 1:
        return np.asarray(y)
    labels = np.empty(len(y), object)
    for i, each in enumerate(y):  # NumPy would try to broadcast the list
        labels[i] = each
    return labels


def _none_left(labels: Read | None) -> None:
    if labels is not None and len(labels(1)):
        raise ValueError("y has more labels than x has samples; they must be equal")


def _first(x: X, count: int, limit: int) -> X:
    """Return the first samples of a batch."""
    if not isinstance(x, dict):
        return x[:limit]
    if any(len(each) != count if each.ndim else True for each in x.values()):
        raise ValueError(f"a batch of {count} samples would exceed limit={limit}: it cannot be cut")
    return {name: each[:limit] for name, each in x.items()}


def _together(samples: list[tuple[Any, Any]]) -> Batch:
    xs, ys = zip(*samples, strict=True)
    x: X = (
        {name: np.stack([each[name] for each in xs]) for name in xs[0]}
        if isinstance(xs[0], dict)
        else np.stack(xs)
    )
    missing = sum(y is None for y in ys)
    if missing == len(ys):
        return x, None
    if missing:
        raise ValueError("some items of x have labels and some have none")
    return x, _labels_of(list(ys), len(ys))
