"""Data in batches: what comes in, in which order, with which labels, and what is refused."""

import itertools
import pickle
import warnings
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import octavo as oc
from octavo.graph import Graph, Model, Node, Value
from octavo.strategy.dataset import as_dataset, dataset_for, feeds_of, samples_in

X = np.arange(28, dtype=np.float32).reshape(7, 2, 2)
Y = np.arange(7) % 3


def flat(data):
    """The samples in a row, and their labels."""
    xs, ys = zip(*data.batches(), strict=True)
    return np.concatenate(xs), None if ys[0] is None else np.concatenate(ys)


def model_of(*shapes, op="Sum"):
    inputs = [Value(f"x{i}", "float32", shape) for i, shape in enumerate(shapes)]
    nodes = [Node("n", op, [value.name for value in inputs], ["y"])]
    return Model(Graph("net", inputs, [Value("y")], nodes, {}, {}))


class OnlyItems:
    """A sequence of the oldest kind, as PyTorch's map-style data sets are."""

    def __getitem__(self, i):
        if i >= len(X):
            raise IndexError(i)
        return X[i], Y[i]


def saved(kind, folder):
    """The path of X, and Y where it can be beside it."""
    if kind == "npy":
        np.save(folder / "x.npy", X)
        return folder / "x.npy"
    (folder / "samples").mkdir()
    for i, x in enumerate(X):
        np.save(folder / "samples" / f"{i}.npy", x)
    return str(folder / "samples")


@pytest.mark.parametrize("kind", ["npy", "folder"])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_files_give_what_arrays_give(kind, batch_size, tmp_path):
    data = oc.Dataset(saved(kind, tmp_path), Y, batch_size=batch_size)
    expected = list(oc.Dataset(X, Y, batch_size=batch_size).batches())
    assert len(data) == 7
    for _ in range(2):  # passes
        for (x, y), (wanted, labels) in zip(data.batches(), expected, strict=True):
            assert type(x) is np.ndarray
            assert x.dtype == np.float32
            assert np.array_equal(x, wanted)
            assert np.array_equal(y, labels)


@pytest.mark.parametrize(
    "source",
    [
        X,
        list(X),
        X.tolist(),
        tuple(X),
        zip(X, strict=True),
        (x for x in X),
        lambda: (x for x in X),
        OnlyItems(),
        [(x, y) for x, y in zip(X, Y, strict=True)],
        [[x, np.array(y)] for x, y in zip(X, Y, strict=True)],
    ],
    ids=[
        *("array", "list", "lists", "tuple", "ones", "generator", "function", "items", "pairs"),
        "list pairs",
    ],
)
def test_every_kind_of_source_gives_the_same_samples(source):
    x, y = flat(oc.Dataset(source, batch_size=3))
    assert np.array_equal(x, X)
    assert y is None or np.array_equal(y, Y)


def test_batches_are_of_the_size_asked_for_and_limited():
    sizes = [len(x) for x, _ in oc.Dataset(X, batch_size=3).batches()]
    assert sizes == [3, 3, 1]
    for source in (X, list(X), lambda: iter(X)):
        data = oc.Dataset(source, Y, batch_size=3, limit=4)
        assert [y.tolist() for _, y in data.batches()] == [[0, 1, 2], [0]]
    assert len(oc.Dataset(X, limit=4)) == 4
    assert len(oc.Dataset(X, limit=400)) == 7


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("fortran", [False, True])
def test_an_npz_is_read_from_its_beginning_packed_or_not(packed, fortran, tmp_path):
    arrays = {"a": X.copy(order="F") if fortran else X, "b": X[:, 0].astype(np.int16), "y": Y}
    (np.savez_compressed if packed else np.savez)(tmp_path / "d.npz", **arrays)
    data = oc.Dataset(tmp_path / "d.npz", "y", batch_size=4)
    assert len(data) == 7
    for _ in range(2):
        xs, ys = zip(*data.batches(), strict=True)
        assert [sorted(x) for x in xs] == [["a", "b"]] * 2
        for name in ("a", "b"):
            made = np.concatenate([x[name] for x in xs])
            assert made.dtype == arrays[name].dtype
            assert np.array_equal(made, arrays[name])
        assert np.array_equal(np.concatenate(ys), Y)


def test_a_file_is_not_read_further_than_the_batches_taken(tmp_path, monkeypatch):
    np.savez(tmp_path / "d.npz", x=np.zeros((1000, 64)))
    taken = []
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(
        zipfile.ZipExtFile,
        "read",
        lambda self, n=-1: taken.append(n) or read(self, n),
    )
    batches = oc.Dataset(tmp_path / "d.npz", batch_size=2).batches()
    next(batches)
    assert 2 * 64 * 8 in taken
    assert max(taken) < 20_000  # and never all
    assert min(taken) >= 0


def test_items_are_asked_for_as_they_are_needed():
    asked = []

    def samples():
        for i in range(100):
            asked.append(i)
            yield X[0]

    batches = oc.Dataset(samples(), batch_size=4).batches()
    next(batches)
    assert len(asked) == 4
    limited = oc.Dataset(samples(), batch_size=4, limit=6)
    asked.clear()
    assert [len(x) for x, _ in limited.batches()] == [4, 2]
    assert len(asked) == 6


def test_a_folder_of_npz_gives_the_inputs_by_name(tmp_path):
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", a=X[i], b=np.int64(i), label=Y[i])
    ((x, y),) = oc.Dataset(tmp_path, "label").batches()
    assert x["a"].shape == (3, 2, 2)
    assert x["b"].tolist() == [0, 1, 2]
    assert y.tolist() == [0, 1, 2]


def test_a_dict_may_hold_arrays_lists_and_paths(tmp_path):
    np.save(tmp_path / "b.npy", X)
    data = oc.Dataset({"a": X.tolist(), "b": str(tmp_path / "b.npy"), "y": list(Y)}, "y")
    ((x, y),) = data.batches()
    assert np.array_equal(x["a"], X)
    assert np.array_equal(x["b"], X)
    assert np.array_equal(y, Y)


def test_labels_come_from_a_file_a_list_or_the_items(tmp_path):
    np.save(tmp_path / "y.npy", Y)
    dicts = [{"x": x, "label": y} for x, y in zip(X, Y, strict=True)]
    sources = [
        (X, str(tmp_path / "y.npy")),
        (X, Y.tolist()),
        (list(X), tmp_path / "y.npy"),
        (dicts, "label"),
        (OnlyItems(), None),
    ]
    for x, y in sources:
        data = oc.Dataset(x, y, batch_size=2)
        assert np.array_equal(np.concatenate([y for _, y in data.batches()]), Y)


@pytest.mark.parametrize("labels", ["array", "pairs"])
@hypothesis.given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=40), size=st.integers(1, 4)
)
def test_samples_of_different_lengths_share_no_batch_and_keep_their_labels(labels, lengths, size):
    samples = [np.full(length, i) for i, length in enumerate(lengths)]
    y = range(len(lengths))
    if labels == "pairs":
        data = oc.Dataset(list(zip(samples, y, strict=True)), batch_size=size)
    else:
        data = oc.Dataset(samples, list(y), batch_size=size)
    seen = []
    for x, ids in data.batches():
        assert 1 <= len(x) <= size
        assert np.array_equal(x[:, 0], ids)
        assert [lengths[i] for i in ids] == [x.shape[1]] * len(x)
        seen += ids.tolist()
    assert sorted(seen) == list(y)
    again = [ids.tolist() for _, ids in data.batches()]
    assert list(itertools.chain(*again)) == seen, "another order in the second pass"
    for length in set(lengths):  # samples of one shape keep their order
        alike = [i for i in seen if lengths[i] == length]
        assert alike == sorted(alike)


def test_labels_may_have_shapes_of_their_own():
    boxes = [np.zeros((2, 4)), np.zeros((2, 3)), np.zeros((1, 4))]
    for data in (oc.Dataset(X[:3], boxes), oc.Dataset(list(zip(X[:3], boxes, strict=True)))):
        ((_, y),) = data.batches()
        assert y.dtype == object
        assert [each.shape for each in y] == [(2, 4), (2, 3), (1, 4)]


def test_few_samples_wait_for_others_of_their_shape():
    taken = []

    def samples():
        for length in range(1, 1000):
            taken.append(length)
            yield np.zeros(length)

    next(oc.Dataset(samples(), batch_size=2).batches())
    assert len(taken) <= 32


def test_dicts_of_sequences_are_batched_by_all_their_shapes():
    a = [np.zeros(2), np.zeros(3), np.zeros(2)]
    b = [np.zeros(1), np.zeros(1), np.zeros(4)]
    shapes = [(x["a"].shape, x["b"].shape) for x, _ in oc.Dataset({"a": a, "b": b}).batches()]
    assert shapes == [((1, 2), (1, 1)), ((1, 3), (1, 1)), ((1, 2), (1, 4))]


def test_transform_is_given_samples_or_batches_without_their_labels():
    seen = []

    def double(x):
        seen.append(np.shape(x))
        return {"x": x * 2}

    for source in (X, list(X), OnlyItems()):
        seen.clear()
        ((x, _),) = oc.Dataset(source, transform=double).batches()
        assert np.array_equal(x["x"], X * 2)
        assert seen == [(2, 2)] * 7
    seen.clear()
    batches = list(oc.Dataset([X[:4], X[4:]], Y, transform=double, batch_size=None).batches())
    assert seen == [(4, 2, 2), (3, 2, 2)]
    assert [y.tolist() for _, y in batches] == [[0, 1, 2, 0], [1, 2, 0]]
    ((x, y),) = oc.Dataset(
        {"a": X, "y": Y}, "y", transform=lambda sample: {"b": sample["a"][0]}
    ).batches()
    assert np.array_equal(x["b"], X[:, 0])
    assert np.array_equal(y, Y)


def test_a_transform_may_write_to_what_it_is_given(tmp_path):
    def shift(x):
        array = x["a"] if isinstance(x, dict) else x
        array -= 1
        return array

    before = X.copy()
    np.save(tmp_path / "x.npy", X)
    np.savez(tmp_path / "x.npz", a=X)
    sources = (X, list(X), {"a": X}, OnlyItems(), tmp_path / "x.npy", tmp_path / "x.npz")
    for source in sources:
        data = oc.Dataset(source, transform=shift)
        for _ in range(2):
            assert np.array_equal(flat(data)[0], before - 1)
    assert np.array_equal(X, before)


def test_pytorchs_data_sets_and_loaders_are_read():
    torch = pytest.importorskip("torch", reason="NOT TESTED: torch is not installed")
    pairs = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    loader = torch.utils.data.DataLoader(pairs, batch_size=3)
    for data in (oc.Dataset(pairs, batch_size=3), oc.Dataset(loader, batch_size=None)):
        for _ in range(2):
            batches = list(data.batches())
            assert [len(x) for x, _ in batches] == [3, 3, 1]
            assert np.array_equal(np.concatenate([x for x, _ in batches]), X)
            assert np.array_equal(np.concatenate([y for _, y in batches]), Y)
    x, y = flat(oc.Dataset(torch.tensor(X), torch.tensor(Y)))
    assert np.array_equal(x, X)
    assert np.array_equal(y, Y)


def test_batches_given_as_items_pass_as_they_are_and_are_limited():
    loader = [(X[:4], Y[:4]), (X[4:], Y[4:])]
    data = oc.Dataset(loader, batch_size=None)
    assert [len(x) for x, _ in data.batches()] == [4, 3]
    limited = list(oc.Dataset(loader, batch_size=None, limit=5).batches())
    assert [len(x) for x, _ in limited] == [4, 1]
    assert limited[1][1].tolist() == [1]
    with pytest.raises(TypeError, match="not known before"):
        len(data)
    state = {"x": X[:1], "state": np.zeros((2, 1, 8)), "rate": np.array(16000)}
    ((x, _),) = oc.Dataset([state], batch_size=None).batches()
    assert samples_in(x) == 1
    assert x["rate"].shape == ()


def test_an_iterator_gives_its_samples_once_and_the_error_says_what_to_do():
    data = oc.Dataset(iter(X))
    assert not data.repeatable
    assert len(list(data.batches())) == 1
    with pytest.raises(ValueError, match=r"once.*give a list, an array, or a function"):
        data.batches()
    for source in (X, list(X), lambda: iter(X), OnlyItems()):
        assert oc.Dataset(source).repeatable


def test_samples_are_counted_where_that_is_possible():
    assert len(oc.Dataset(list(X))) == 7
    for source in (iter(X), lambda: iter(X)):
        data = oc.Dataset(source)
        with pytest.raises(TypeError, match="not known"):
            len(data)
        assert data


def test_nan_passes_and_odd_arrays_are_read(tmp_path):
    odd = X[::-2].astype(">f4")
    odd[0, 0, 0] = np.nan
    np.save(tmp_path / "x.npy", odd)
    np.savez(tmp_path / "x.npz", odd)
    for source in (odd, list(odd), tmp_path / "x.npy", tmp_path / "x.npz"):
        ((x, _),) = oc.Dataset(source).batches()
        x = x["arr_0"] if isinstance(x, dict) else x
        assert np.array_equal(x, odd, equal_nan=True)
        assert x.dtype.isnative


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, Y[:5], "x has 7 samples, y has 5"),
        (list(X), Y[:5], "x has 7 samples, y has 5"),
        ({"a": X, "b": X[:3]}, None, "different numbers of samples: 'a' 7, 'b' 3"),
        (X[:0], None, "x holds no samples"),
        ([], None, "x holds no samples"),
        ({}, None, "x has no arrays"),
        (np.float32(3), None, "x is a single value"),
        (X, np.float32(3), "y is a single value"),
        ({"a": X}, "labels", "y is 'labels', expected one of the arrays of x: 'a'"),
    ],
)
def test_what_contradicts_itself_is_refused_at_once(x, y, message):
    with pytest.raises(ValueError, match=message):
        oc.Dataset(x, y)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": X, "batch_size": 0}, ValueError, "batch_size is 0, expected 1 or more"),
        ({"x": X, "limit": -1}, ValueError, "limit is -1, expected 1 or more"),
        ({"x": X, "batch_size": 2.0}, TypeError, r"batch_size is 2\.0, expected an int or None"),
        ({"x": X, "transform": "f"}, TypeError, "transform is str, expected a callable"),
        ({"x": 3}, TypeError, "x is int, expected arrays, a path or an iterable"),
        ({"x": b"x"}, TypeError, "x is bytes"),
        ({"x": None}, TypeError, "x is NoneType"),
    ],
)
def test_arguments_are_checked_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        oc.Dataset(**arguments)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (lambda: iter(X), Y[:5], "0 labels are left of y for 1 samples"),
        (lambda: iter(X[:5]), Y, "y has more labels than x has samples"),
        (lambda: iter([]), None, "the data holds no samples"),
        ([(x, 1) for x in X], Y, "pairs"),
        ([(X[0], 1), X[1]], None, "some items of x have labels and some have none"),
        ([{"a": x} for x in X], "y", "y is 'y', which an item of x has not: 'a'"),
        (list(X), "y", "y is 'y', which an item of x has not: ndarray"),
    ],
)
def test_what_contradicts_itself_later_is_refused_then(x, y, message):
    with pytest.raises(ValueError, match=message):
        list(oc.Dataset(x, y).batches())


def test_files_that_hold_no_arrays_are_refused(tmp_path):
    for name in ("x.npy", "x.npz"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(ValueError, match="cannot be read"):
            oc.Dataset(tmp_path / name)
    np.save(tmp_path / "o.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read"):
        oc.Dataset(tmp_path / "o.npy")
    np.savez(tmp_path / "o.npz", x=np.array([{}]))
    with pytest.raises(ValueError, match="is object of shape"):
        oc.Dataset(tmp_path / "o.npz")
    with zipfile.ZipFile(tmp_path / "cut.npz", "w") as archive:
        whole = (tmp_path / "y.npy", np.save(tmp_path / "y.npy", np.zeros(1000)))[0].read_bytes()
        archive.writestr("x.npy", whole[:500])
    with pytest.raises(ValueError, match="in 500 bytes"):
        oc.Dataset(tmp_path / "cut.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no \.npy or \.npz"):
        oc.Dataset(tmp_path / "empty")
    (tmp_path / "x.txt").write_text("1")
    with pytest.raises(ValueError, match=r"expected an \.npy, an \.npz or a folder"):
        oc.Dataset(tmp_path / "x.txt")
    with pytest.raises(FileNotFoundError):
        oc.Dataset(tmp_path / "gone.npy")
    with pytest.raises(FileNotFoundError):
        oc.Dataset("gone")


def test_a_pass_that_is_given_up_leaves_no_file_open(tmp_path):
    np.savez(tmp_path / "d.npz", x=X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches = oc.Dataset(tmp_path / "d.npz", batch_size=1).batches()
        next(batches)
        batches.close()
    (tmp_path / "d.npz").unlink()


def test_a_dataset_pickles_and_is_passed_through():
    data = oc.Dataset(X, Y, batch_size=4)
    assert as_dataset(data) is data
    again = pickle.loads(pickle.dumps(data))
    assert np.array_equal(flat(again)[0], X)
    assert repr(data) == "Dataset(7 samples, with labels, batch_size=4)"
    x, y = flat(as_dataset((X, Y)))
    assert np.array_equal(x, X)
    assert np.array_equal(y, Y)


def test_for_a_model_batches_are_of_the_size_that_it_takes():
    fixed, free = model_of((2, 2, 2)), model_of(("n", 2, 2))
    assert [len(x) for x, _ in as_dataset(X[:4], fixed).batches()] == [2, 2]
    assert [len(x) for x, _ in as_dataset(X, free).batches()] == [7]
    for source in ([X[:2], X[2:4]], iter([X[:2], X[2:4]]), [(X[:2], Y[:2]), (X[2:4], Y[2:4])]):
        assert [len(x) for x, _ in as_dataset(source, fixed).batches()] == [2, 2]
    assert [len(x) for x, _ in as_dataset(list(X), free).batches()] == [7]
    feeds = [{"x0": x[None], "x1": x[None]} for x in X]
    both = model_of(("n", 2, 2), ("n", 2, 2))
    assert [samples_in(x) for x, _ in as_dataset(feeds, both).batches()] == [1] * 7


def test_items_that_a_transform_makes_whole_batches_and_files_of_batches_stay_so(tmp_path):
    free = model_of(("n", 2, 2))
    data = dataset_for(free, list(X), Y, transform=lambda x: x[None], limit=3)
    assert [(x.shape, y.tolist()) for x, y in data.batches()] == [
        ((1, 2, 2), [0]),
        ((1, 2, 2), [1]),
        ((1, 2, 2), [2]),
    ]
    dicts = [{"x0": x[None], "y": y[None]} for x, y in zip(X, Y, strict=True)]
    assert [y.tolist() for _, y in dataset_for(free, dicts, "y").batches()][:2] == [[0], [1]]
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", X[:4])
    assert [x.shape for x, _ in dataset_for(free, tmp_path).batches()] == [(4, 2, 2)] * 2
    assert [x.shape for x, _ in oc.Dataset(tmp_path).batches()] == [(2, 4, 2, 2)]


def test_feeds_are_named_and_checked_before_a_model_runs():
    one, two = model_of(("n", 2, 2)), model_of((1, 2), (1, 2))
    assert feeds_of(one, X)["x0"] is X
    assert feeds_of(one, {"x0": X})["x0"] is X
    pair = {"x0": X[:1, 0], "x1": X[:1, 1]}
    assert feeds_of(two, pair) == pair
    for model, x, message in (
        (two, X, r"one array, the model has inputs 'x0', 'x1'"),
        (one, {"x0": X, "y": Y}, r"'y', which is no input.*expected 'x0'.*y='y'"),
        (two, {"x0": X[:1, 0]}, "no input 'x1', expected 'x0', 'x1'"),
        (one, X[:, 0], r"shape \(7, 2\), expected \(n, 2, 2\)$"),
        (one, X[None], r"expected \(n, 2, 2\); if the items .*batch_size=None"),
        (two, {"x0": X[:, 0], "x1": X[:, 0]}, r"7 samples, the model takes 1: .*batch_size=1"),
    ):
        with pytest.raises(ValueError, match=message):
            feeds_of(model, x)
