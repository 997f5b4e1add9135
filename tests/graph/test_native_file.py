"""The file `.octavo`: the same bits again, by NumPy alone; whatever is no such file is refused."""

import contextlib
import io
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import octavo as oc
from octavo.graph import Graph, Model, Node, Value


def network():
    """One of each kind of constant and attribute, made without onnx."""
    rng = np.random.default_rng(0)
    w = oc.quantize(rng.normal(size=(4, 3, 3, 3)).astype(np.float32), axis=0)
    blocks = oc.quantize(rng.normal(size=(5, 64)).astype(np.float32), "int4", axis=0, group_size=32)
    half = oc.quantize(rng.normal(size=(6, 5)).astype(np.float32), "float16")
    x_q, y_q = oc.QParams(0.03, 128), oc.QParams(1 / 3, 7)
    constants = {
        "w": w,
        "b": rng.normal(size=4).astype(np.float32),
        "blocks": blocks,
        "half": half,
        "lo": np.full((), -np.inf, np.float32),
        "shape": np.array([2, 64]),
        "xs": np.array(0.03, np.float32),
        "xz": np.array(128, np.uint8),
    }
    nodes = [
        Node("q", "QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        Node(
            "conv",
            "octavo.Conv",
            ["xq", "w", "b"],
            ["yq"],
            {
                "x_qparams": x_q,
                "out_qparams": y_q,
                "activation": ("clip", None, 1e30),
                "pads": (1, 1, 1, 1),
            },
        ),
        Node(
            "wide",
            "octavo.Activate",
            ["yq"],
            ["z"],
            {"x_qparams": y_q, "out_qparams": oc.QParams(0.5, 1), "activation": "identity"},
        ),
        Node("real", "Cast", ["z"], ["zf"], {"to": 1}),
        Node("flat", "Reshape", ["zf", "shape"], ["r"]),
        Node("clip", "Clip", ["r", "lo"], ["c"]),
        Node("linear", "octavo.GroupedLinear", ["c", "blocks"], ["l"]),
        Node("last", "Elu", ["l"], ["y"], {"alpha": float("inf")}),
    ]
    values = {"xq": Value("xq", "uint8"), "z": Value("z", "uint8")}
    x = Value("x", "float32", (1, 3, "h", None))
    return Model(Graph("net", [x], [Value("y")], nodes, constants, values))


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(size=(1, 3, 4, 8)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    where = tmp_path / "net.octavo"
    network().save(where)
    return where


def test_a_saved_model_gives_the_same_bits(path, x):
    model = network()
    for source in (path, str(path), path.read_bytes()):
        again = oc.load(source)
        assert np.array_equal(again(x), model(x), equal_nan=True)
        assert again.inputs == model.inputs
        assert again.outputs == model.outputs
        assert again.layers == model.layers
    assert np.isfinite(model(x)).any()


def test_a_loaded_model_saves_to_the_same_file(path, tmp_path):
    oc.load(path).save(tmp_path / "again.octavo")
    assert json.loads(zipfile.ZipFile(tmp_path / "again.octavo").read("graph.json")) == json.loads(
        zipfile.ZipFile(path).read("graph.json")
    )


def test_arrays_are_aligned_in_the_file_and_numpy_reads_them(path):
    content = path.read_bytes()
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            if name == "graph.json":
                continue
            array = archive[name]
            assert content.index(array.tobytes()) >= 0
    for info in zipfile.ZipFile(path).infolist()[1:]:
        header = content[info.header_offset :][:30]
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        assert (info.header_offset + 30 + names) % 64 == 0


def test_it_is_loaded_without_onnx(path):
    code = f"""
import sys
sys.modules["onnx"] = None
import numpy as np, octavo as oc
print(oc.load({str(path)!r})(np.zeros((1, 3, 4, 8), np.float32)).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(2, 5)\n"


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected one that ends in '\.octavo'"):
        network().save(tmp_path / "net.zip")


def test_an_interruption_leaves_the_old_file_and_no_other(path, monkeypatch):
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        network().save(path)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["net.octavo"]


def test_a_file_can_be_replaced_by_what_was_loaded_from_it(path, x):
    model = oc.load(path)
    expected = model(x)
    model.save(path)
    assert np.array_equal(oc.load(path)(x), expected, equal_nan=True)
    assert np.array_equal(model(x), expected, equal_nan=True)


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """The bytes of the file with its description changed."""
    made = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w", compression) as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename == "graph.json":
                description = json.loads(content)
                change(description)
                content = json.dumps(description).encode()
            new.writestr(info.filename, content)
    return made.getvalue()


def replace(*keys, value):
    def change(description):
        for key in keys[:-1]:
            description = description[key]
        description[keys[-1]] = value

    return change


WRONG = {
    "format": replace("format", value="other"),
    "version": replace("version", value=2),
    "arithmetic": replace("arithmetic", value=2),
    "no graph": lambda d: d.pop("graph"),
    "nodes are text": replace("graph", "nodes", value="abc"),
    "an array too many": replace("graph", "constants", "b", value={"array": 99}),
    "an array by name": replace("graph", "constants", "b", value={"array": "x"}),
    "a constant that is a number": replace("graph", "constants", "b", value=3),
    "an unknown kind": replace("graph", "constants", "b", value={"pickle": 0}),
    "codes of another shape": replace(
        "graph", "constants", "blocks", "qtensor", "shape", value=[9, 99]
    ),
    "a name that is a list": replace("graph", "nodes", 0, "name", value=[]),
    "a missing value": replace("graph", "nodes", 0, "inputs", value=["nowhere", "xs", "xz"]),
    "a value made twice": replace("graph", "nodes", 1, "outputs", value=["xq"]),
    "a cycle": replace("graph", "nodes", 0, "inputs", value=["y", "xs", "xz"]),
    "no such output": replace("graph", "outputs", value=[["q", None, None]]),
    "a scale of zero": replace(
        "graph", "nodes", 1, "attributes", "x_qparams", value={"qparams": [0.0, 0, "uint8", None]}
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_description_that_is_wrong_is_refused(what, path):
    with pytest.raises(oc.ModelError):
        oc.load(rewritten(path, WRONG[what]))


def test_an_unchanged_description_is_read(path, x):
    again = oc.load(rewritten(path, lambda _: None))
    assert np.array_equal(again(x), network()(x), equal_nan=True)


def test_what_is_compressed_is_refused(path):
    with pytest.raises(oc.ModelError, match="nothing compressed"):
        oc.load(rewritten(path, lambda _: None, zipfile.ZIP_DEFLATED))


def test_broken_bytes_are_refused(path):
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for length in (4, 30, 100, len(content) // 2, len(content) - 1):
        with pytest.raises(oc.ModelError):
            oc.load(content[:length])
    for _ in range(100):  # a byte of an array may change and leave a file; nothing else may happen
        broken = bytearray(content)
        broken[rng.integers(4, len(content))] ^= 1 << rng.integers(8)
        with contextlib.suppress(oc.ModelError):
            oc.load(bytes(broken))


def test_a_dtype_that_numpy_has_not_is_refused(tmp_path):
    odd = np.zeros(2, np.complex64)
    graph = Graph("net", [], [Value("c")], [], {"c": odd}, {})
    with pytest.raises(oc.ModelError, match="a constant of dtype complex64 cannot be saved"):
        Model(graph).save(tmp_path / "net.octavo")
    assert list(tmp_path.iterdir()) == []


def test_graphs_inside_are_saved(tmp_path):
    parse = pytest.importorskip("onnx.parser").parse_model
    model = oc.load(
        parse(
            """<ir_version: 8, opset_import: ["" : 17]>
            net (int64 trips, float[2] x) => (float[2] y) {
                step = Constant <value_floats = [1.0, 10.0]> ()
                y = Loop(trips, , x) <body = inside (int64 i, bool c, float[2] a)
                    => (bool going, float[2] b) { going = Identity(c) b = Add(a, step) }> }"""
        )
    )
    model.save(tmp_path / "net.octavo")
    x = np.array([1, 2], np.float32)
    assert oc.load(tmp_path / "net.octavo")(np.array(3), x).tolist() == [4, 32]
