"""Models written as ONNX: the same bits when they are read again, near ones in other runtimes."""

import os
import re
import shutil

import numpy as np
import pytest

import octavo as oc
from octavo.graph import Graph, Model, Node, Value

onnx = pytest.importorskip("onnx", reason="models are not written without onnx")
from test_quantized import CASES, CHAIN, CHAIN_CONSTANTS, PAIRS, net, operators
from test_standard import FLOATS, blocks, floats, names, same_bits, values_for

from octavo.graph import onnx_writer
from octavo.graph.onnx_reader import read
from octavo.graph.opsets import raise_opset

NEWEST = 23


def written(model, tmp_path, **options):
    """The model read again from its file, and the file's ModelProto."""
    path = tmp_path / "model.onnx"
    model.save(path, **options)
    return oc.load(path), onnx.load(path)


def check(model, tmp_path, most, **options):
    """Same bits after reading; onnx's reference differs by `most` at most. Returns the ModelProto."""
    again, proto = written(model, tmp_path, **options)
    assert operators(again) == operators(model)
    assert names(again) == names(model)
    assert [value.name for value in again.outputs] == [value.name for value in model.outputs]
    assert again.inputs == model.inputs
    feeds = values_for(model)
    results = model.run(feeds)
    for name, y in again.run(feeds).items():
        same_bits(y, results[name])
    for y, wanted in zip(reference(proto, feeds), results.values(), strict=True):
        assert y.dtype == wanted.dtype
        assert np.abs(y.astype(np.float64) - wanted).max() <= most
    return proto


def reference(proto, feeds):
    """What onnx's reference implementation gives; it has DequantizeLinear of late opsets alone."""
    if proto.opset_import[0].version < 21:
        graph = read(proto)
        raise_opset(graph, 21)
        proto = onnx_writer.to_proto(graph)
    return onnx.reference.ReferenceEvaluator(proto).run(None, feeds)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operators_on_codes_are_read_again_to_the_same_bits(case, tmp_path):
    body, constants, _, most = CASES[case]
    check(oc.load(net(body, opset=20, **constants)), tmp_path, most)


@pytest.mark.parametrize("case", PAIRS)
def test_the_operator_form_is_written_between_quantize_and_dequantize(case, tmp_path):
    on_codes, _, constants, inputs = PAIRS[case]
    model = oc.load(net(f"{inputs} {{ {on_codes} }}", **constants))
    again, proto = written(model, tmp_path)
    assert {each.domain for each in proto.opset_import} == {""}
    feeds = values_for(model)
    same_bits(again(**feeds), model(**feeds))


def test_a_block_with_a_residual_is_written_without_a_trace_of_the_fusion(tmp_path):
    proto = check(oc.load(net(CHAIN, opset=13, **CHAIN_CONSTANTS)), tmp_path, 0.08)
    ops = [node.op_type for node in proto.graph.node]
    assert ops.count("Conv") == 2
    assert ops.count("Add") == ops.count("Relu") == 1
    assert proto.opset_import[0].version == 13
    assert proto.producer_name == "octavo"


@pytest.mark.parametrize("case", FLOATS)
def test_float_operators_are_read_again_to_the_same_bits(case, tmp_path):
    body, constants = FLOATS[case]
    proto = check(oc.load(net(body, opset=16, **constants)), tmp_path, 1e-4)
    oldest = 17 if "layer norm" in case else 13 if "written out" in case else 16
    assert proto.opset_import[0].version == oldest


@pytest.mark.parametrize("form", ["DequantizeLinear", "MatMulNBits"])
@pytest.mark.parametrize("dtype", ["int4", "uint4"])
def test_weights_in_groups_are_read_again_to_the_same_bits(dtype, form, tmp_path):
    model, w = blocks(dtype, with_bias=True)
    again, proto = written(model, tmp_path, blocks=form)
    assert form in [node.op_type for node in proto.graph.node]
    stored = sum(len(each.raw_data) for each in proto.graph.initializer)
    assert stored < w.shape[0] * w.shape[1] // 2 + 120
    x = floats(2, 3, 64)
    same_bits(again(x), model(x))
    if form == "DequantizeLinear":
        assert proto.opset_import[0].version == 21
        (y,) = reference(proto, {"x": x})
        assert np.abs(y - model(x)).max() < 0.08 * np.abs(y).max()  # x in 8 bits


def test_means_of_quantized_models_keep_their_axes_and_lose_them_when_they_are_read(tmp_path):
    body = """net (float[n, 7, 6] x) => (uint8[n, 6] y) {
        m = ReduceMean <axes = [1], keepdims = 0> (x) f = Mul(m, k) y = QuantizeLinear(f, s, z) }"""
    model = oc.load(net(body, opset=17, k=floats(6), s=np.float32(0.05), z=np.uint8(120)))
    proto = check(model, tmp_path, 1)
    assert [node.op_type for node in proto.graph.node][:3] == ["ReduceMean", "Squeeze", "Mul"]
    assert operators(model)[:2] == ["ReduceMean", "Mul"]


# --- what a model holds besides -------------------------------------------------------------------


def test_metadata_is_kept_by_both_files_and_by_copies(tmp_path):
    model = oc.load(net(CHAIN, **CHAIN_CONSTANTS))
    graph = model.graph.copy()
    graph.metadata["calibration"] = "minmax over 300 images, größte"
    model = Model(graph.copy())
    again, proto = written(model, tmp_path)
    found = {each.key: each.value for each in proto.metadata_props}
    assert found["calibration"] == graph.metadata["calibration"]
    assert found["octavo.arithmetic"] == "1"
    assert again.graph.metadata["calibration"] == graph.metadata["calibration"]
    model.save(tmp_path / "model.octavo")
    assert oc.load(tmp_path / "model.octavo").graph.metadata == graph.metadata


def test_free_dimensions_and_outputs_that_are_constants_are_kept(tmp_path):
    body = """net (float[n, 6, w] x) => (float[n, 6, w] y, float[2] c, float[k] d) {
        y = Relu(x) c = Identity(k) d = Add(k, k) }"""
    model = oc.load(net(body, k=np.float32([1, 2])))
    again, _ = written(model, tmp_path)
    assert again.inputs == model.inputs
    assert [value.name for value in again.outputs] == ["y", "c", "d"]
    x = floats(2, 6, 3)
    for name, y in again.run({"x": x}).items():
        same_bits(y, model.run({"x": x})[name])


@pytest.mark.filterwarnings("ignore:no kernel for:octavo.FallbackWarning")
def test_text_and_sequences_are_written(tmp_path):
    body = """net (string[n] x, float[m] z) => (bool[n] y, seq(float[m]) s) {
        y = Equal(x, k) s = SequenceConstruct(z, z) }"""
    proto = net(body, opset=19)
    proto.graph.initializer.append(onnx.helper.make_tensor("k", 8, (1,), [b"gr\xc3\xbcn"]))
    model = oc.load(proto)
    again, _ = written(model, tmp_path)
    feeds = {"x": np.array(["rot", "grün"], object), "z": floats(3)}
    assert again.run(feeds)["y"].tolist() == [False, True]
    assert [each.tolist() for each in again.run(feeds)["s"]] == [feeds["z"].tolist()] * 2


INSIDE = {
    "If, captured and constant results": (
        """net (float[n, 6] x, bool c) => (float[n, 4] y, float[k] u) {
            h = Relu(x)
            y, u = If (c) <
                then_branch = t () => (float[n, 4] a, float[k] v) {
                    m = MatMul(h, w) a = Relu(m) v = Identity(b) },
                else_branch = e () => (float[n, 4] a, float[k] v) {
                    a = MatMul(h, w) v = Add(b, b) } > }""",
        {"w": floats(6, 4), "b": floats(4)},
        {"c": (np.array(True), np.array(False))},
    ),
    "Loop": (
        """net (float[n, 6] x, int64 times) => (float[n, 6] y, float[k, n, 6] rows) {
            y, rows = Loop (times, go, x) <
                body = b (int64 i, bool c, float[n, 6] s) => (bool d, float[n, 6] t, float[n, 6] r) {
                    d = Identity(c) p = MatMul(s, w) t = Tanh(p) r = Add(t, x) } > }""",
        {"w": floats(6, 6), "go": np.array(True)},
        {"times": (np.array(3), np.array(1))},
    ),
    "Scan": (
        """net (float[6] x, float[7, 6] rows) => (float[6] y, float[7, 6] sums) {
            y, sums = Scan <num_scan_inputs = 1,
                body = b (float[6] s, float[6] r) => (float[6] t, float[6] o) {
                    t = Add(s, r) o = Mul(t, k) } > (x, rows) }""",
        {"k": np.float32(2)},
        {},
    ),
    "a graph in a graph": (
        """net (float[n, 6] x, bool c) => (float[n, 6] y) {
            y = If (c) <
                then_branch = t () => (float[n, 6] a) {
                    g = Relu(x)
                    a = If (c) <
                        then_branch = t2 () => (float[n, 6] q) { q = Mul(g, x) },
                        else_branch = e2 () => (float[n, 6] q) { q = Identity(g) } > },
                else_branch = e () => (float[n, 6] b) { b = Neg(x) } > }""",
        {},
        {"c": (np.array(True), np.array(False))},
    ),
}


@pytest.mark.parametrize("case", INSIDE)
def test_graphs_inside_are_written_and_read_again(case, tmp_path):
    body, constants, choices = INSIDE[case]
    model = oc.load(net(body, opset=16, **constants))
    again, proto = written(model, tmp_path)
    first = {
        value.name: floats(*[{"n": 3}.get(size, size) for size in value.shape])
        for value in model.inputs
        if value.name not in choices
    }
    for i in range(max([1, *(len(each) for each in choices.values())])):
        feeds = first | {name: given[i] for name, given in choices.items()}
        results = model.run(feeds)
        for name, y in again.run(feeds).items():
            same_bits(y, results[name])
        for y, wanted in zip(reference(proto, feeds), results.values(), strict=True):
            # The reference puts the rows of a loop behind each other, not above.
            np.testing.assert_allclose(y.reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-5)


def test_a_name_inside_that_is_also_around_gets_another(tmp_path):
    """A pass may have made both: in ONNX no graph may have a name of those around it."""
    x, y = Value("x", "float32", ("n", 2)), Value("y", "float32", ("n", 2))
    inner = Graph(
        "inner", [x._replace(name="h")], [y._replace(name="k")],
        [Node("more", "Add", ["h", "w"], ["k"], {}, 13)], {"w": np.float32([1, 2])}, {},
    )  # fmt: skip
    from octavo.graph.ir import Subgraph

    branches = {each: Subgraph(inner, b"") for each in ("then_branch", "else_branch")}
    nodes = [
        Node("scaled", "Mul", ["x", "w"], ["k"], {}, 13),
        Node("choice", "If", ["c"], ["y"], branches, 13, {"h": "k"}),
    ]
    inputs = [x, Value("c", "bool", ())]
    graph = Graph(
        "net", inputs, [y], nodes, {"w": np.float32([3, 4])}, {each.name: each for each in inputs}
    )
    again, proto = written(Model(graph), tmp_path)
    (branch, _) = (each.g for each in proto.graph.node[1].attribute)
    made = {each.name for each in branch.initializer} | {each.output[0] for each in branch.node}
    assert not made & {"w", "k", "x", "c"}
    given = floats(3, 2)
    assert np.array_equal(
        again(given, np.array(True)), given * np.float32([3, 4]) + np.float32([1, 2])
    )


# --- opsets ---------------------------------------------------------------------------------------

OLDER = {
    "Softmax over all axes from one on": (
        "net (float[2, 3, 4] x) => (float[2, 3, 4] y) { y = Softmax <axis = 1> (x) }", {}),
    "Softmax over the last axis": (
        "net (float[2, 3, 4] x) => (float[2, 3, 4] y) { y = LogSoftmax <axis = 2> (x) }", {}),
    "Squeeze, Unsqueeze": (
        """net (float[2, 1, 4] x) => (float[2, 4, 1] y) {
            s = Squeeze <axes = [1]> (x) y = Unsqueeze <axes = [2]> (s) }""", {}),
    "ReduceSum": (
        "net (float[2, 3, 4] x) => (float[2, 4] y) { y = ReduceSum <axes = [1], keepdims = 0> (x) }",
        {}),
    "ReduceMax, ReduceMean": (
        """net (float[2, 3, 4] x) => (float[2, 3, 1] y, float[1, 1, 1] z) {
            y = ReduceMax <axes = [-1]> (x) z = ReduceMean(x) }""", {}),
    "Split": (
        """net (float[2, 4] x) => (float[2, 1] y, float[2, 3] z) {
            y, z = Split <axis = 1, split = [1, 3]> (x) }""", {}),
    "Split into equal parts": (
        "net (float[2, 4] x) => (float[2, 2] y, float[2, 2] z) { y, z = Split <axis = 1> (x) }", {}),
    "Dropout": ("net (float[2, 4] x) => (float[2, 4] y) { d = Dropout <ratio = 0.3> (x) y = Neg(d) }", {}),
    "BatchNormalization": (
        """net (float[2, 4, 3, 3] x) => (float[2, 4, 3, 3] y) {
            y = BatchNormalization(x, s, b, m, v) }""",
        {"s": floats(4), "b": floats(4), "m": floats(4), "v": np.abs(floats(4))}),
    "Resize by sizes": (
        """net (float[1, 2, 3, 3] x) => (float[1, 2, 6, 6] y) {
            y = Resize <mode = "nearest"> (x, roi, none, sizes) }""",
        {"roi": np.zeros(0, np.float32), "none": np.zeros(0, np.float32),
         "sizes": np.array([1, 2, 6, 6])}),
}  # fmt: skip


@pytest.mark.parametrize("case", OLDER)
@pytest.mark.parametrize("opset", [17, NEWEST])
def test_operators_of_opset_11_mean_the_same_in_later_ones(case, opset):
    body, constants = OLDER[case]
    proto = net(body, opset=11, **constants)
    graph = read(proto)
    raise_opset(graph, opset)
    assert {node.version for node in graph.nodes} == {opset}
    later = onnx_writer.to_proto(graph)
    onnx.checker.check_model(later, full_check=True)
    feeds = values_for(oc.load(proto))
    results = oc.load(proto).run(feeds)
    for name, y in oc.load(later).run(feeds).items():
        same_bits(y, results[name])
    for y, wanted in zip(reference(later, feeds), results.values(), strict=True):
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)


CHANGED = {
    "GridSample": (
        16, 20,
        """net (float[1, 1, 3, 3] x, float[1, 2, 2, 2] g) => (float[1, 1, 2, 2] y) {
            y = GridSample <mode = "bilinear"> (x, g) }""",
        # and as it is written since
        """net (float[1, 1, 3, 3] x, float[1, 2, 2, 2] g) => (float[1, 1, 2, 2] y) {
            y = GridSample <mode = "linear"> (x, g) }""",
    ),
    "DFT": (
        17, 20,
        "net (float[1, 4, 1] x) => (float[1, 4, 2] y) { y = DFT <axis = 1> (x) }",
        """net (float[1, 4, 1] x) => (float[1, 4, 2] y) {
            axis = Constant <value = int64 {1}> () y = DFT(x, , axis) }""",
    ),
    "RoiAlign": (
        11, 16,
        """net (float[1, 1, 6, 6] x, float[2, 4] r, int64[2] i) => (float[2, 1, 2, 2] y) {
            y = RoiAlign <output_height = 2, output_width = 2> (x, r, i) }""",
        """net (float[1, 1, 6, 6] x, float[2, 4] r, int64[2] i) => (float[2, 1, 2, 2] y) {
            y = RoiAlign <output_height = 2, output_width = 2,
                coordinate_transformation_mode = "output_half_pixel"> (x, r, i) }""",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:no kernel for:octavo.FallbackWarning")
@pytest.mark.parametrize("operator", CHANGED)
def test_operators_that_later_opsets_changed_mean_the_same(operator):
    first, opset, body, expected = CHANGED[operator]
    graph = read(net(body, opset=first))
    raise_opset(graph, opset)
    later = onnx_writer.to_proto(graph)
    onnx.checker.check_model(later, full_check=True)
    wanted = oc.load(net(expected, opset=opset))
    feeds = values_for(wanted)
    if operator == "RoiAlign":
        feeds |= {"r": np.float32([[0, 0, 4, 4], [1, 2, 5, 5]]), "i": np.zeros(2, np.int64)}
    same_bits(oc.load(later)(**feeds), wanted(**feeds))


def test_group_norm_has_scales_of_channels_where_it_had_those_of_groups():
    """The checker refuses the old form, which is deprecated: a pass may have kept it."""
    x, row = Value("x", "float32", (1, 4, 3)), np.float32([1, 2])
    a = {"num_groups": 2}
    nodes = [Node("norm", "GroupNormalization", ["x", "s", "b"], ["y"], a, 18)]
    constants = {"s": row, "b": row + 2}
    graph = Graph("net", [x], [x._replace(name="y")], nodes, constants, {"x": x})
    before = Model(graph.copy())
    raise_opset(graph, 21)
    later = onnx_writer.to_proto(graph)
    onnx.checker.check_model(later, full_check=True)
    given = floats(1, 4, 3)
    same_bits(oc.load(later)(given), before(given))


def test_a_mode_that_no_later_opset_has_is_refused():
    x = Value("x", "float32", (1, 1, 2, 2))
    a = {"coordinate_transformation_mode": "tf_half_pixel_for_nn"}
    nodes = [Node("larger", "Resize", ["x", "", "s"], ["y"], a, 11)]
    constants = {"s": np.float32([1, 1, 2, 2])}
    graph = Graph("net", [x], [x._replace(name="y")], nodes, constants, {"x": x})
    with pytest.raises(oc.ModelError, match="larger: tf_half_pixel_for_nn is in no opset after 12"):
        raise_opset(graph, 13)


# --- files ----------------------------------------------------------------------------------------


def in_folder(folder):
    return sorted(os.listdir(folder))


@pytest.fixture
def small_protobuf(monkeypatch):
    """A limit that everything is beyond."""
    monkeypatch.setattr(onnx_writer, "_MOST_INSIDE", 0)
    monkeypatch.setattr(onnx_writer, "_SMALL", 64)


@pytest.mark.usefixtures("small_protobuf")
def test_large_weights_lie_beside_the_model(tmp_path):
    model = oc.load(net(CHAIN, **CHAIN_CONSTANTS))
    (tmp_path / "a").mkdir()
    again, _ = written(model, tmp_path / "a")
    data, name = sorted(in_folder(tmp_path / "a"), key=len, reverse=True)
    assert name == "model.onnx"
    assert re.fullmatch(r"model\.onnx\.[0-9a-f]{16}\.data", data)
    x = values_for(model)
    same_bits(again(**x), model(**x))
    shutil.move(tmp_path / "a", tmp_path / "b")
    same_bits(oc.load(tmp_path / "b" / "model.onnx")(**x), model(**x))


@pytest.mark.usefixtures("small_protobuf")
def test_a_new_model_takes_the_old_weights_away_and_a_failed_one_does_not(tmp_path, monkeypatch):
    first = oc.load(net(CHAIN, **CHAIN_CONSTANTS))
    changed = CHAIN_CONSTANTS | {"w": CHAIN_CONSTANTS["v"][:, [0, 1, 2, 3, 0, 1]]}
    second = oc.load(net(CHAIN, **changed))
    path = tmp_path / "model.onnx"
    first.save(path)
    (tmp_path / "model.onnx.mine.data").write_text("not ours")
    before = in_folder(tmp_path)
    real = os.replace

    def interrupted(source, target):
        if str(target).endswith(".onnx"):
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            second.save(path)
    assert in_folder(tmp_path) == before
    x = values_for(first)
    same_bits(oc.load(path)(**x), first(**x))
    second.save(path)
    same_bits(oc.load(path)(**x), second(**x))
    assert len(in_folder(tmp_path)) == 3
    assert in_folder(tmp_path) != before


@pytest.mark.usefixtures("small_protobuf")
def test_4_bit_weights_lie_beside_the_model_two_to_a_byte(tmp_path):
    model, _ = blocks("uint4")
    again, _ = written(model, tmp_path)
    assert {"linear uint4/32"} <= {layer.kernel for layer in again.layers}
    x = floats(2, 3, 64)
    same_bits(again(x), model(x))


def test_an_interruption_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        oc.load(net(CHAIN, **CHAIN_CONSTANTS)).save(path)
    assert path.read_bytes() == b"old"
    assert in_folder(tmp_path) == ["model.onnx"]


def test_what_is_no_valid_model_is_not_written(tmp_path):
    x = Value("x", "float32", ("n", 2))
    nodes = [Node("odd", "Relu", ["x"], ["y"], {"no such": 1}, 13)]
    model = Model(Graph("net", [x], [x._replace(name="y")], nodes, {}, {"x": x}))
    with pytest.raises(oc.ModelError, match=r"is no valid ONNX model: .*no such"):
        model.save(tmp_path / "model.onnx")
    assert in_folder(tmp_path) == []


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected one that ends in '\.octavo' or '\.onnx'"):
        oc.load(net(CHAIN, **CHAIN_CONSTANTS)).save(tmp_path / "model.pb")


# --- other runtimes -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["Conv, bias, relu", "MatMul, bias, relu", "Add, relu", "Sigmoid"])
def test_onnxruntime_gives_codes_that_differ_by_one_at_most(case, tmp_path):
    ort = pytest.importorskip("onnxruntime", reason="the other runtime is not installed")
    body, constants, _, most = CASES[case]
    model = oc.load(net(body, opset=20, **constants))
    path = tmp_path / "model.onnx"
    model.save(path)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = values_for(model)
    (y,) = session.run(None, feeds)
    assert np.abs(y.astype(int) - model(**feeds)).max() <= most
