"""`octavo.load` and what it returns: names, inputs and outputs, errors, fallbacks, copies."""

import os
import pickle
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

import octavo as oc

onnx = pytest.importorskip("onnx", reason="models are not read without onnx")
IN_QEMU = os.environ.get("OCTAVO_IN_QEMU") == "1"
parse = pytest.importorskip("onnx.parser").parse_model


def net(body, opset=17, **constants):
    """A model from ONNX's text: `net (inputs) => (outputs) {nodes}`, and arrays by name."""
    model = parse(f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]> {body}')
    for name, value in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return model


RELU = "net (float[n, 2] x) => (float[n, 2] y) { y = Relu(x) }"
# No kernel for it here, and nothing to fold.
DET = "net (float[n, n] x) => (float y) { y = Det(x) }"


def test_inputs_outputs_and_layers_are_named():
    model = oc.load(
        net("net (float[n, 2] x, int64 k) => (float[n, 2] y, int64 z) { y = Neg(x) z = Add(k, k) }")
    )
    assert [tuple(v) for v in model.inputs] == [("x", "float32", ("n", 2)), ("k", "int64", ())]
    assert [v.name for v in model.outputs] == ["y", "z"]
    assert [(each.name, each.operator) for each in model.layers] == [
        ("Neg_0", "Neg"),
        ("Add_1", "Add"),
    ]


def test_names_of_layers_are_unique():
    model = net(RELU)
    model.graph.node.append(onnx.helper.make_node("Neg", ["x"], ["z"], name="same"))
    model.graph.node.append(onnx.helper.make_node("Abs", ["x"], ["w"], name="same"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, ["n", 2]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("w", 1, ["n", 2]))
    assert [each.name for each in oc.load(model).layers] == ["Relu_0", "same", "same_1"]


def test_a_model_is_called_in_order_by_name_and_with_run():
    model = oc.load(net("net (float[2] a, float[2] b) => (float[2] y) { y = Sub(a, b) }"))
    a, b = np.array([3, 5], np.float32), np.array([1, 1], np.float32)
    for y in (model(a, b), model(a, b=b), model(b=b, a=a), model.run({"b": b, "a": a})["y"]):
        assert np.array_equal(y, [2, 4])
        assert y.dtype == np.float32


def test_several_outputs_come_as_a_dict_and_some_can_be_asked_for():
    model = oc.load(net("net (float[2] a) => (float[2] y, float[2] z) { y = Neg(a) z = Abs(a) }"))
    a = np.array([-1, 2], np.float32)
    assert {name: y.tolist() for name, y in model(a).items()} == {"y": [1, -2], "z": [1, 2]}
    assert list(model.run({"a": a}, ["z"])) == ["z"]
    assert list(model.run({"a": a}, "y")) == ["y"]


def test_results_are_written_to_out():
    model = oc.load(net(RELU))
    x, y = np.array([[-1, 2]], np.float32), np.empty((1, 2), np.float32)
    assert model.run({"x": x}, out={"y": y})["y"] is y
    assert y.tolist() == [[0, 2]]
    for wrong in (np.empty((2, 2), np.float32), np.empty((1, 2), np.int32)):
        with pytest.raises(ValueError, match=r"expected float32 of shape \(1, 2\)"):
            model.run({"x": x}, out={"y": wrong})
    with pytest.raises(TypeError, match=r"out\['y'\] is list, expected numpy.ndarray"):
        model.run({"x": x}, out={"y": [[0, 0]]})


def test_onnxruntimes_order_of_arguments_fails_with_a_hint():
    model = oc.load(net(RELU))
    with pytest.raises(TypeError, match=r"not run\(outputs, feeds\)"):
        model.run(None, {"x": np.zeros((1, 2), np.float32)})


@pytest.mark.parametrize(
    ("feeds", "error", "says"),
    [
        ({}, ValueError, "input 'x' is missing, expected 'x'"),
        ({"x": np.zeros((1, 2)), "w": 1}, ValueError, "no input 'w', expected 'x'"),
        ({"x": np.zeros((1, 3))}, ValueError, r"shape \(1, 3\), expected \(n, 2\)"),
        ({"x": np.zeros(2)}, ValueError, r"shape \(2,\), expected \(n, 2\)"),
        ({"x": np.zeros((1, 2), np.int64)}, TypeError, "is int64, expected float32"),
        ({"x": np.zeros((1, 2), complex)}, TypeError, "is complex128, expected float32"),
    ],
)
def test_wrong_feeds_are_named(feeds, error, says):
    with pytest.raises(error, match=says):
        oc.load(net(RELU)).run(feeds)


def test_wrong_calls_are_named():
    model = oc.load(net(RELU))
    x = np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match="got 2 inputs, expected 'x'"):
        model(x, x)
    with pytest.raises(ValueError, match="input 'x' is given twice"):
        model(x, x=x)
    with pytest.raises(ValueError, match="no output 'q', expected 'y'"):
        model.run({"x": x}, ["q"])
    with pytest.raises(ValueError, match="seconds is 0, expected more than 0"):
        model.benchmark({"x": x}, seconds=0)


def test_an_error_while_running_names_the_layer():
    model = oc.load(net("net (float[n] a, float[m] b) => (float[k] y) { y = Add(a, b) }"))
    with pytest.raises(ValueError, match="broadcast") as caught:
        model(np.zeros(2), np.zeros(3))
    assert caught.value.__notes__ == ["in Add 'Add_0'"]


@pytest.mark.parametrize(
    "source",
    [b"", b"not a model", b"\x08\x08", bytes(range(256)), net(RELU).SerializeToString()[:-9]],
)
def test_what_is_no_model_is_refused(source, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(source)
    for given in (source, path, str(path)):
        with pytest.raises(oc.ModelError):
            oc.load(given)


def mutated(content, rng):
    """The bytes with a few changed, cut out or put in."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at, length = rng.integers(len(changed)), rng.integers(1, 9)
        piece = bytes(rng.integers(0, 256, length, np.uint8))
        changed[at : at + (0, 1, length)[rng.integers(3)]] = piece[: rng.integers(3)]
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")
def test_changed_bytes_give_a_model_or_a_model_error(rng):
    constants = {"k": np.ones((4, 3, 3, 3), np.float32), "step": np.ones(2, np.float32)}
    seeds = [net(body, **constants).SerializeToString() for body in (RELU, SHAPES, LOOP, CONV)]
    refused = 0
    for i in range(50 if IN_QEMU else 200):
        try:
            oc.load(mutated(seeds[i % len(seeds)], rng))
        except oc.ModelError:
            refused += 1
    assert refused > 0


def test_a_source_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="source is int, expected a path, bytes or an"):
        oc.load(3)


def test_a_tensor_that_contradicts_itself_is_refused():
    model = net("net (float[2] x) => (float[2] y) { y = Add(x, w) }", w=np.ones(2, np.float32))
    model.graph.initializer[0].dims[0] = 2**40
    with pytest.raises(oc.ModelError):
        oc.load(model)
    negative = net("net (float[2] x) => (float[2] y) { y = Add(x, w) }", w=np.ones(2, np.float32))
    negative.graph.initializer[0].dims[0] = -2
    with pytest.raises(oc.ModelError):
        oc.load(negative)


@pytest.mark.parametrize(
    "body",
    [
        "net (float[2] x) => (float[2] y) { y = Add(x, missing) }",
        "net (float[2] x) => (float[2] y) { a = Add(x, b) b = Neg(a) y = Neg(b) }",
        "net (float[2] x) => (float[2] y) { y = NoSuchOperator(x) }",
        "net (float[2] x) => (float[2] y) { z = Neg(x) }",
    ],
)
def test_a_graph_that_contradicts_itself_is_refused(body):
    with pytest.raises(oc.ModelError):
        oc.load(net(body))


@pytest.mark.parametrize("opset", [10, 99])
def test_other_opsets_are_refused(opset):
    with pytest.raises(oc.ModelError):
        oc.load(net(RELU, opset))


def external(folder, location):
    w = np.arange(2000, dtype=np.float32)
    model = net("net (float[2000] x) => (float[2000] y) { y = Add(x, w) }", w=w)
    onnx.external_data_helper.convert_model_to_external_data(model, location="w.bin")
    onnx.save(model, folder / "model.onnx")
    saved = onnx.load(folder / "model.onnx", load_external_data=False)
    saved.graph.initializer[0].external_data[0].value = location
    (folder / "model.onnx").write_bytes(saved.SerializeToString())
    return w


def test_external_data_is_read_from_the_folder_of_the_file(tmp_path):
    w = external(tmp_path, "w.bin")
    assert np.array_equal(oc.load(tmp_path / "model.onnx")(np.zeros(2000)), w)
    with pytest.raises(oc.ModelError, match="external data; expected a path"):
        oc.load((tmp_path / "model.onnx").read_bytes())


@pytest.mark.parametrize("location", ["../w.bin", "gone.bin", "/etc/passwd"])
def test_external_data_from_elsewhere_is_refused(location, tmp_path):
    (tmp_path / "inner").mkdir()
    external(tmp_path / "inner", location)
    (tmp_path / "inner" / "w.bin").rename(tmp_path / "w.bin")
    with pytest.raises(oc.ModelError):
        oc.load(tmp_path / "inner" / "model.onnx")


def test_an_operator_without_a_kernel_falls_back_with_one_warning():
    with pytest.warns(oc.FallbackWarning, match=r"no kernel for Det \(1\)") as caught:
        model = oc.load(net(DET))
    assert len(caught) == 1
    assert model(np.diag([2.0, 3.0])) == 6
    (row,) = model.coverage().fallbacks
    assert (row.operator, row.layers) == ("Det", 1)
    assert "fallback" in str(model.coverage())
    with pytest.raises(oc.UnsupportedOpError, match=r"no kernel for Det \(1\)"):
        oc.load(net(DET), strict=True)


def test_a_model_of_kernels_alone_is_strict_and_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = oc.load(net(RELU), strict=True)
    assert model.coverage().fallbacks == ()


def test_coverage_with_feeds_gives_the_shares_of_the_time():
    model = oc.load(net("net (float[n] x) => (float[n] y) { a = Exp(x) y = Neg(a) }"))
    rows = model.coverage({"x": np.zeros(1000)}).rows
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert {row.operator for row in rows} == {"Exp", "Neg"}
    assert all(row.seconds > 0 for row in rows)


def test_benchmark_measures():
    result = oc.load(net(RELU)).benchmark({"x": np.zeros((1, 2))}, threads=1, seconds=0.01)
    assert 0 < result.median <= result.p99
    assert result.runs >= 3
    assert result.threads == 1
    assert "median" in str(result)


def test_inputs_of_other_memory_are_read_and_never_written():
    model = oc.load(net("net (float[n, 2] x) => (float[n, 2] y) { a = Relu(x) y = Relu(a) }"))
    x = np.asfortranarray(np.arange(-4, 4, dtype=">f4").reshape(4, 2))[::-1]
    x.flags.writeable = False
    before = x.copy()
    assert np.array_equal(model(x), np.maximum(x, 0))
    assert np.array_equal(x, before)


def test_results_share_no_memory_with_inputs_constants_or_each_other():
    model = oc.load(
        net(
            """net (float[2] x) => (float[2] a, float[1, 2] b, float[2] c, float[2] d) {
                a = Identity(x) b = Unsqueeze(x, axes) c = Identity(w) d = Identity(a) }""",
            w=np.ones(2, np.float32),
            axes=np.array([0]),
        )
    )
    x = np.array([1, 2], np.float32)
    results = model(x)
    for y in results.values():
        y += 5
    assert x.tolist() == [1, 2]
    again = model(x)
    assert [again[name].tolist() for name in "abcd"] == [[1, 2], [[1, 2]], [1, 1], [1, 2]]


SHAPES = """net (float[n, m] x) => (float[k] y, int64[2] s) {
    s = Shape(x) p = ReduceProd <keepdims = 1> (s) y = Reshape(x, p) }"""


def test_a_window_that_does_not_fit_is_named():
    body = """net (float[n, 1, h, w] x) => (float[n, 1, p, q] y) {
        y = MaxPool <kernel_shape = [2, 2]> (x) }"""
    with pytest.raises(ValueError, match="a window over 2 does not fit an image of 1"):
        oc.load(net(body))(np.zeros((1, 1, 1, 4)))


def test_what_follows_from_shapes_is_computed_once_for_each_shape():
    model = oc.load(net(SHAPES))
    for shape in [(2, 3), (4, 1), (2, 3), (0, 5), (2, 3)]:
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        results = model(x)
        assert np.array_equal(results["y"], x.reshape(-1))
        assert results["s"].tolist() == list(shape)
        results["s"][:] = 0  # the caller's alone
    spent = {row.operator: row.seconds for row in model.coverage({"x": np.zeros((2, 3))}).rows}
    assert spent["Shape"] == spent["ReduceProd"] == 0
    assert spent["Reshape"] > 0


def test_more_shapes_than_are_kept_still_run():
    model = oc.load(net(SHAPES))
    for n in [*range(1, 40), *range(1, 40)]:
        assert model(np.zeros((n, 2)))["y"].shape == (2 * n,)


def test_a_constant_of_any_size_is_made_only_when_it_is_needed():
    model = oc.load(
        net(
            """net (float[1] x) => (float[1] y, float[n] z) {
            y = Neg(x) s = Add(big, big) z = ConstantOfShape(s) }""",
            big=np.array([2**45]),
        )
    )
    assert [layer.operator for layer in model.layers] == ["Neg", "ConstantOfShape"]


def test_values_that_decide_shapes_are_not_taken_from_an_earlier_call():
    model = oc.load(net("net (float[n] x, int64[1] s) => (float[m] y) { y = Expand(x, s) }"))
    for n in (2, 3):
        assert model(np.zeros(1), np.array([n])).shape == (n,)
    nonzero = oc.load(net("net (float[n] x) => (int64[2] y) { z = NonZero(x) y = Shape(z) }"))
    assert nonzero(np.array([0.0, 1.0])).tolist() == [1, 1]
    assert nonzero(np.array([1.0, 1.0])).tolist() == [1, 2]


LOOP = """net (int64 trips, float[2] x) => (float[2] y, float[k, 2] rows) {
    y, rows = Loop(trips, , x) <body = inside (int64 i, bool c, float[2] a)
        => (bool going, float[2] b, float[2] row) {
            going = Identity(c) b = Add(a, step) row = Mul(b, x) }> }"""


def test_graphs_inside_run_by_the_same_kernels():
    model = oc.load(net(LOOP, step=np.float32([1, 10])), strict=True)
    x = np.array([1, 2], np.float32)
    results = model(np.array(2), x)
    assert results["y"].tolist() == [3, 22]
    assert results["rows"].tolist() == [[2, 24], [3, 44]]
    assert model(np.array(0), x)["rows"].shape == (0, 2)


def test_fallbacks_in_graphs_inside_are_named_too():
    body = """net (int64 trips, float[2, 2] x) => (float[2, 2] y) {
        y = Loop(trips, , x) <body = inside (int64 i, bool c, float[2, 2] a)
            => (bool going, float[2, 2] b) { going = Identity(c) d = Det(a) b = Mul(a, d) }> }"""
    with pytest.warns(oc.FallbackWarning, match=r"what is in Loop \(graph inside, Det by"):
        model = oc.load(net(body))
    assert model(np.array(1), np.diag([2.0, 1.0])).tolist() == [[4, 0], [0, 2]]
    with pytest.raises(oc.UnsupportedOpError, match="Det by"):
        oc.load(net(body), strict=True)


def test_if_takes_one_branch_and_reads_around_it():
    body = """net (bool c, float[2] x) => (float[2] y) {
        a = Neg(x)
        y = If (c) <then_branch = t () => (float[2] p) { p = Identity(a) },
                    else_branch = e () => (float[2] q) { q = Add(a, x) }> }"""
    model = oc.load(net(body), strict=True)
    x = np.array([1, 2], np.float32)
    assert model(np.array(True), x).tolist() == [-1, -2]
    assert model(np.array(False), x).tolist() == [0, 0]


CONV = (
    "net (float[n, 3, h, w] x) => (float y) { a = Conv <pads = [1, 1, 1, 1]> (x, k) y = Relu(a) }"
)


def conv_model(rng):
    return oc.load(net(CONV, k=rng.normal(size=(4, 3, 3, 3)).astype(np.float32)))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_model_pickles_and_gives_the_same_bits(rng):
    model = conv_model(rng)
    x = rng.normal(size=(2, 3, 5, 6)).astype(np.float32)
    expected = model(x)
    again = pickle.loads(pickle.dumps(model, protocol=5))
    assert np.array_equal(again(x), expected)
    assert again.layers == model.layers
    assert again.inputs == model.inputs


def test_threads_share_a_model(rng):
    model = conv_model(rng)
    xs = [rng.normal(size=(1, 3, 4 + i, 5)).astype(np.float32) for i in range(8)]
    expected = [conv_model(np.random.default_rng(0))(x) for x in xs]
    results = [None] * 8

    def work(i):
        for _ in range(20):
            results[i] = model(xs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert all(np.array_equal(*pair) for pair in zip(results, expected, strict=True))


@pytest.mark.usefixtures("isa")
def test_every_instruction_set_gives_the_same_bits(rng):
    x = rng.normal(size=(1, 3, 7, 9)).astype(np.float32)
    y = conv_model(np.random.default_rng(1))(x)
    with oc.runtime.force_isa("scalar"):
        expected = conv_model(np.random.default_rng(1))(x)
    assert np.array_equal(y, expected)
    conv_model(np.random.default_rng(1))(x)  # so that the last kernel is of this one


def test_without_onnx_the_error_names_the_extra(monkeypatch):
    import sys

    for name in [each for each in sys.modules if each.split(".")[0] == "onnx"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"octavo\[models\]"):
        oc.load(b"x")


def test_trace_shows_what_each_operator_is_given_and_gives():
    model = oc.load(net("net (float[n] x) => (float[n] z) { a = Neg(x) y = Add(x, a) z = Exp(y) }"))
    seen = {}

    def watch(step, inputs, outputs):
        assert len(inputs) == len(step.node.reads)
        seen[step.node.op] = [*inputs, *outputs]

    x = np.array([1, -2], np.float32)
    result = model.trace({"x": x}, watch)
    assert [*seen] == ["Neg", "Add", "Exp"]
    assert all(np.array_equal(*pair) for pair in zip(seen["Add"], [x, -x, 0 * x], strict=True))
    assert result["z"] is seen["Exp"][1]
    assert np.array_equal(result["z"], [1, 1])


def test_a_copy_of_the_graph_is_its_own():
    model = oc.load(net("net (float[n] x) => (float[n] y) { a = Neg(x) y = Exp(a) }"))
    graph = model.graph.copy()
    graph.nodes[1].inputs[0] = "x"
    del graph.nodes[0]
    x = np.array([1, -2], np.float32)
    assert np.array_equal(oc.graph.Model(graph)(x), oc.nn.exp(x))
    assert np.array_equal(model(x), oc.nn.exp(-x))


LONG = """
import resource, onnx.parser, octavo as oc
text = '<ir_version: 8, opset_import: ["" : 17]> net (float[16777216] x) => (int64 y) {y = Size(x)}'
model = onnx.parser.parse_model(text)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
oc.load(model, strict=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux" or IN_QEMU, reason="counts the kilobytes of Linux")
def test_a_long_vector_takes_no_memory_while_shapes_are_inferred():
    """onnx keeps an object for each of its elements where it follows values of shapes."""
    done = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2**19  # it took 1.4 GB


def test_shapes_follow_from_large_weights_and_from_values_of_shapes():
    body = """net (float[n, 300] x) => (float[p, q] y) {
        m = MatMul(x, w) s = Shape <start = 1> (m) t = Concat <axis = 0> (minus, s)
        y = Reshape(m, t) }"""
    weights = np.zeros((300, 200), np.float32)
    model = oc.load(net(body, opset=18, w=weights, minus=np.array([-1])))
    assert [tuple(value) for value in model.inputs] == [("x", "float32", ("n", 300))]
    assert model.graph.values["m"].shape == ("n", 200)
    assert model.graph.values["y"].shape[1] == 200
    assert model(np.ones((2, 300))).shape == (2, 200)


ODD_SIZES = {
    "more values than any memory holds": "net (float[4611686018427387904] x) => (int64 y) { y = Size(x) }",
    "parts that nobody counted": """net (float[n, 6] x) => (float[n, 3] y, float[n, 3] z) {
        y, z = Split <axis = 1, num_outputs = 1> (x) }""",
    "an axis that 32 bits do not hold": """net (float[2, 4, 5] x, float[5] w) => (float[2, 4, 5] y) {
        y = LayerNormalization <axis = 2147483648> (x, w) }""",
    "an equation of other characters": """net (float[n] x) => (float[n] y) {
        y = Einsum <equation = "a1->b"> (x) }""",
    "an equation with two dots": """net (float[n] x) => (float[n] y) {
        y = Einsum <equation = "a.."> (x) }""",
    "axes of no array": "net (float[n, 6] x) => (float y) { y = ReduceMax <axes = [9999]> (x) }",
    "more values inside a graph": """net (float[n] x, bool c) => (float[n] y) {
        y = If (c) <
            then_branch = t () => (float[1099511627776, 2] a) { a = Relu(x) },
            else_branch = e () => (float[n] b) { b = Relu(x) } > }""",
}


@pytest.mark.parametrize("body", ODD_SIZES.values(), ids=list(ODD_SIZES))
def test_sizes_that_onnx_would_compute_with_are_refused_before(body):
    """Each took all memory, or ended the process, in onnx's shape inference."""
    with pytest.raises(
        oc.ModelError, match=r"values together|num_outputs is 1|expected -64 to 64|the equation of"
    ):
        oc.load(net(body, opset=18))


def test_a_negative_dimension_is_one_that_is_free():
    proto = net("net (float[n, 6] x) => (float[p, 3] y) { y = Slice(x, a, b, c) }",
                a=np.array([1]), b=np.array([4]), c=np.array([1]))  # fmt: skip
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -(2**31)
    model = oc.load(proto)
    assert model.inputs[0].shape == (None, 6)
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == -(2**31)
