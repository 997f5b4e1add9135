"""`octavo.quantize_model`: what is quantized and how, what stays float and why, errors."""

import json
import pickle

import numpy as np
import pytest
from networks import cnn, floats, images, network, rows, signal_to_error, transformer

import octavo as oc
from octavo.graph import Graph, Model, Node, Value
from octavo.graph.ir import Subgraph


def kernels(model):
    return {layer.name: layer.kernel for layer in model.layers}


def reasons(model):
    return {row["layer"]: row["reason"] for row in oc.explain(model).rows}


def precisions(model):
    return {row["layer"]: row["precision"] for row in oc.explain(model).rows}


def test_a_convolution_network_computes_in_integers_from_end_to_end():
    model = cnn()
    q = oc.quantize_model(model, images())
    assert set(precisions(q).values()) == {"int8"}
    named = kernels(q)
    assert named["Conv_0"] == named["Conv_2"] == "conv int8"
    assert named["Gemm_7"] == "linear int8"
    assert "Add_3" not in named  # the convolution adds
    x = images(1)
    assert signal_to_error(model(x), q(x)) > 35
    assert q.nbytes < 0.4 * model.nbytes


def test_the_model_that_is_given_is_not_changed():
    model = transformer()
    before = pickle.dumps(model)
    oc.quantize_model(model, rows(), rounding="gptq")
    assert pickle.dumps(model) == before


@pytest.mark.parametrize("make", [cnn, transformer])
def test_the_same_data_give_the_same_model(make):
    data = images() if make is cnn else rows()
    a, b = (oc.quantize_model(make(), data) for _ in range(2))
    x = data[:3]
    assert a(x).tobytes() == b(x).tobytes()
    assert a.graph.metadata == b.graph.metadata


def test_statistics_stand_in_for_data():
    model = cnn()
    stats = oc.calibrate(model, images(), method="minmax")
    q = oc.quantize_model(model, stats=stats)
    assert set(precisions(q).values()) == {"int8"}
    x = images(1)
    assert signal_to_error(model(x), q(x)) > 30
    codes = next(n for n in q.graph.nodes if n.name == "Conv_0").attributes["x_qparams"]
    assert codes == stats.qparams("x", "uint8")


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_calibration_is_by_the_method_that_is_said(method):
    model = cnn()
    stats = oc.calibrate(model, images(), method=method)
    q = oc.quantize_model(model, images(), method=method, equalize=False)
    codes = next(n for n in q.graph.nodes if n.name == "Conv_0").attributes["x_qparams"]
    assert codes == stats.qparams("x", "uint8")


def test_without_data_activations_are_quantized_as_they_come():
    model = transformer()
    q = oc.quantize_model(model)
    assert kernels(q)["MatMul_1"] == "linear int8"
    assert reasons(q)["MatMul_5"] == "activations are not static"
    x = rows(1)
    assert signal_to_error(model(x), q(x)) > 30
    # Each row by its own range: what lies beside it does not matter.
    assert np.array_equal(q(x)[:2], q(x[:2]))


def test_dynamic_layers_give_what_linear_gives():
    w, b = floats(np.random.default_rng(0), 8, 4), floats(np.random.default_rng(1), 4)
    model = network(
        [("MatMul", ["x", "w"], ["p"], {}), ("Add", ["p", "b"], ["y"], {})],
        {"w": w, "b": b}, {"x": ("n", 8), "p": ("n", 4), "y": ("n", 4)}, "x", "y",
    )  # fmt: skip
    x = floats(np.random.default_rng(2), 5, 8)
    expected = oc.linear(x, oc.quantize(w.T, axis=0), b)
    assert oc.quantize_model(model)(x).tobytes() == expected.tobytes()


@pytest.mark.parametrize("precision", ["int4/32", "int4/128", "int8/64"])
def test_weights_in_groups_give_what_linear_gives(precision):
    dtype, size = precision.split("/")
    w = floats(np.random.default_rng(0), 100, 6)
    model = network(
        [("MatMul", ["x", "w"], ["y"], {})], {"w": w}, {"x": ("n", 100), "y": ("n", 6)}, "x", "y"
    )
    x = floats(np.random.default_rng(2), 5, 100)
    q = oc.quantize_model(model, precision=precision)
    expected = oc.linear(x, oc.quantize(w.T, dtype, axis=0, group_size=int(size)))
    assert q(x).tobytes() == expected.tobytes()


def test_convolutions_have_a_scale_for_each_output_where_groups_are_asked_for():
    q = oc.quantize_model(cnn(), images(), "int4/32")
    w = next(q.graph.constants[n.inputs[1]] for n in q.graph.nodes if n.name == "Conv_2")
    assert (w.dtype, w.axis, w.group_size) == ("int4", 0, None)
    assert kernels(q)["Gemm_7"] == "linear int4/32"


def test_float16_weights_are_widened_exactly():
    model = transformer()
    q = oc.quantize_model(model, precision="float16")
    graph = model.graph.copy()
    for node in graph.nodes:
        if node.op == "MatMul" and node.inputs[1] in graph.constants:
            name = f"{node.name}.rounded"
            graph.constants[name] = graph.constants[node.inputs[1]].astype(np.float16).astype("f4")
            node.inputs[1] = name
    x = rows(1)
    assert q(x).tobytes() == Model(graph)(x).tobytes()
    assert q.nbytes < 0.6 * model.nbytes


def test_weights_that_float16_cannot_hold_stay_float32():
    model = network(
        [("MatMul", ["x", "w"], ["y"], {})],
        {"w": np.full((2, 2), 1e5, np.float32)}, {"x": ("n", 2), "y": ("n", 2)}, "x", "y",
    )  # fmt: skip
    q = oc.quantize_model(model, precision="float16")
    assert reasons(q) == {"MatMul_0": "float16 cannot hold its weights"}
    assert precisions(q) == {"MatMul_0": "float32"}


def test_what_has_no_integer_form_stays_float_and_is_listed():
    q = oc.quantize_model(transformer(), rows())
    assert reasons(q)["Softmax_7"] == "Softmax has no integer form"
    assert reasons(q)["Add_10"] == "no 8-bit layer reads its result"
    got = precisions(q)
    assert got["MatMul_5"] == got["MatMul_8"] == got["Gelu_14"] == "int8"
    assert got["LayerNormalization_0"] == "float32"


def test_values_that_follow_from_shapes_alone_stay_float():
    width = 32
    x = rows(width=width)
    model = network(
        [
            ("Shape", ["x"], ["s"], {}),
            ("ConstantOfShape", ["s"], ["c"], {"value": np.ones(1, np.float32)}),
            ("Add", ["x", "c"], ["a"], {}),
            ("MatMul", ["a", "w"], ["h"], {}),
            ("Transpose", ["c"], ["t"], {"perm": (0, 2, 1)}),
            ("MatMul", ["h", "t"], ["y"], {}),
        ],
        {"w": floats(np.random.default_rng(0), width, width)},
        {**dict.fromkeys("xcah", ("n", 5, width)), "s": (3,), "t": ("n", width, 5), "y": ("n", 5, 5)},
        "x", "y", {"s": "int64"},
    )  # fmt: skip
    q = oc.quantize_model(model, x)
    assert precisions(q)["MatMul_3"] == "int8"
    assert precisions(q)["Add_2"] == precisions(q)["MatMul_5"] == "float32"
    assert signal_to_error(model(x), q(x)) > 25


def test_weights_that_a_loop_reads_too_are_not_stored_twice():
    width = 32
    state, square = Value("s", "float32", ("n", width)), Value("v", "float32", (width, width))
    goes_on = Value("c", "bool", ())
    body = Graph(
        "body",
        [Value("i", "int64", ()), goes_on, state, square],
        [goes_on._replace(name="on"), state._replace(name="made"), square._replace(name="kept")],
        [
            Node("going", "Identity", ["c"], ["on"], {}, 18),
            Node("step", "MatMul", ["s", "v"], ["made"], {}, 18),
            Node("keep", "Identity", ["v"], ["kept"], {}, 18),
        ],
        {},
        {"s": state, "made": state, "v": square, "kept": square},
    )
    model = network(
        [
            ("MatMul", ["x", "w"], ["h"], {}),
            ("Loop", ["most", "", "h", "w"], ["y", "last"], {"body": Subgraph(body, b"")}),
        ],
        {"w": floats(np.random.default_rng(0), width, width, scale=0.1), "most": np.array(2)},
        {**dict.fromkeys("xhy", ("n", width)), "last": (width, width)},
        "x", "y",
    )  # fmt: skip
    q = oc.quantize_model(model, floats(np.random.default_rng(1), 8, width))
    assert q.nbytes <= model.nbytes
    assert precisions(q)["MatMul_0"] == "float32"
    assert "inside" in reasons(q)["MatMul_0"]


def test_operators_on_shapes_and_indices_are_not_listed():
    model = network(
        [
            ("Shape", ["x"], ["s"], {}),
            ("MatMul", ["x", "w"], ["p"], {}),
            ("Reshape", ["p", "s"], ["y"], {}),
        ],
        {"w": floats(np.random.default_rng(0), 8, 8)},
        {**dict.fromkeys("xpy", ("n", 8)), "s": (2,)}, "x", "y", {"s": "int64"},
    )  # fmt: skip
    assert set(precisions(oc.quantize_model(model))) == {"MatMul_1", "Reshape_2"}


def test_precision_is_given_layer_by_layer():
    q = oc.quantize_model(
        transformer(), rows(),
        {"*": "int8", "MatMul_1?": "float32", "MatMul_2": "int4/32", "op:Gelu": "float32"},
    )  # fmt: skip
    named = kernels(q)
    assert named["MatMul_12"] == named["MatMul_15"] == "linear float32"
    assert named["MatMul_1"] == "linear int8"
    assert named["MatMul_2"] == "linear int4/32"
    assert named["Gelu_14"] == "gelu"


def test_a_model_in_float32_all_over_keeps_its_bits():
    model, x = cnn(), images(1)
    assert oc.quantize_model(model, images(), "float32")(x).tobytes() == model(x).tobytes()


def test_tables_are_stored_row_by_row():
    table = floats(np.random.default_rng(0), 7, 12)
    model = network(
        [("Gather", ["t", "x"], ["y"], {"axis": 0})],
        {"t": table}, {"x": ("n",), "y": ("n", 12)}, "x", "y", {"x": "int64"},
    )  # fmt: skip
    q = oc.quantize_model(model)
    x = np.array([3, 0, -1])
    assert kernels(q) == {"Gather_0": "embedding int8"}
    assert np.array_equal(q(x), oc.quantize(table, axis=0).dequantize()[x])


def recurrent(op, direction="forward", seed=0):
    rng = np.random.default_rng(seed)
    gates, hidden, width = {"LSTM": 4, "GRU": 3}[op], 6, 5
    d = 2 if direction == "bidirectional" else 1
    return network(
        [
            (op, ["x", "w", "r", "b"], ["h"], {"hidden_size": hidden, "direction": direction}),
            ("Relu", ["h"], ["y"], {}),
        ],
        {"w": floats(rng, d, gates * hidden, width), "r": floats(rng, d, gates * hidden, hidden),
         "b": floats(rng, d, 2 * gates * hidden)},
        {"x": (7, "n", width), "h": (7, d, "n", hidden), "y": (7, d, "n", hidden)}, "x", "y",
    )  # fmt: skip


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("op", ["LSTM", "GRU"])
@pytest.mark.parametrize("precision", ["int8", "int4/32", "float16"])
def test_recurrent_layers_give_what_their_operators_give(op, direction, precision):
    model = recurrent(op, direction)
    q = oc.quantize_model(model, precision=precision)
    node = next(n for n in model.graph.nodes if n.op == op)
    w, r, b = (model.graph.constants[name] for name in node.inputs[1:4])
    layer = getattr(oc, op).from_float(w, r, b, precision=precision, direction=direction)
    x = floats(np.random.default_rng(1), 7, 3, 5)
    assert q(x).tobytes() == np.maximum(layer(x)[0], 0).tobytes()
    assert kernels(q)[f"{op}_0"] == f"{op.lower()} {precision}"
    assert precisions(q)[f"{op}_0"] == precision


def test_a_form_of_a_recurrent_layer_without_kernel_stays_float():
    pytest.importorskip("onnx", reason="what has no kernel runs through onnx")
    graph = recurrent("LSTM").graph.copy()
    node = next(n for n in graph.nodes if n.op == "LSTM")
    node.attributes["clip"] = 0.5
    q = oc.quantize_model(Model(graph))
    assert precisions(q)["LSTM_0"] == "float32"
    assert reasons(q)["LSTM_0"] == "this form of LSTM has no kernel"


def test_layers_whose_activations_are_not_codes_say_so():
    q = oc.quantize_model(recurrent("LSTM"), floats(np.random.default_rng(1), 7, 3, 5)[:, :1])
    assert reasons(q)["LSTM_0"] == "activations are quantized as they come"


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_files_keep_the_bits_of_recurrent_layers(op, tmp_path):
    pytest.importorskip("onnx", reason="models are not written without onnx")
    q = oc.quantize_model(recurrent(op, "bidirectional"))
    x = floats(np.random.default_rng(1), 7, 3, 5)
    for name in ("net.onnx", "net.octavo"):
        q.save(tmp_path / name)
        again = oc.load(tmp_path / name)
        assert again(x).tobytes() == q(x).tobytes()
        assert kernels(again)[f"{op}_0"] == f"{op.lower()} int8"


def test_sigmoid_and_softmax_have_all_of_their_range():
    q = oc.quantize_model(transformer(), rows())
    product = next(n for n in q.graph.nodes if n.name == "MatMul_8")
    assert product.attributes["a_qparams"] == oc.QParams(1 / 255, 0)


def test_what_is_joined_has_the_range_of_the_whole():
    rng = np.random.default_rng(0)
    image = ("n", 4, 6, 6)
    model = network(
        [
            ("Conv", ["x", "w1"], ["a"], {"kernel_shape": (1, 1)}),
            ("Conv", ["x", "w2"], ["b"], {"kernel_shape": (1, 1)}),
            ("Concat", ["a", "b"], ["c"], {"axis": 1}),
            ("Conv", ["c", "w3"], ["y"], {"kernel_shape": (1, 1)}),
        ],
        {"w1": floats(rng, 4, 3, 1, 1), "w2": floats(rng, 4, 3, 1, 1, scale=9.0),
         "w3": floats(rng, 5, 8, 1, 1)},
        {"x": ("n", 3, 6, 6), "a": image, "b": image, "c": ("n", 8, 6, 6), "y": ("n", 5, 6, 6)},
        "x", "y",
    )  # fmt: skip
    data = floats(rng, 8, 3, 6, 6)
    q = oc.quantize_model(model, data)
    join = next(n for n in q.graph.nodes if n.name == "Concat_2")
    assert set(join.attributes["qparams"]) == {join.attributes["out_qparams"]}
    assert signal_to_error(model(data), q(data)) > 30


def test_values_that_become_infinite_stay_float():
    rng = np.random.default_rng(0)
    row = ("n", 8)
    model = network(
        [
            ("MatMul", ["x", "w"], ["a"], {}),
            ("Less", ["a", "zero"], ["c"], {}),
            ("Where", ["c", "low", "a"], ["b"], {}),
            ("Relu", ["b"], ["r"], {}),
            ("MatMul", ["r", "v"], ["y"], {}),
        ],
        {"w": floats(rng, 8, 8), "v": floats(rng, 8, 8), "zero": np.zeros((), np.float32),
         "low": np.array(-np.inf, np.float32)},
        {**dict.fromkeys("xabry", row), "c": row}, "x", "y", {"c": "bool"},
    )  # fmt: skip
    data = floats(rng, 32, 8)
    q = oc.quantize_model(model, data)
    assert precisions(q)["Relu_3"] == "float32"
    assert kernels(q)["MatMul_4"] == "linear int8"
    assert signal_to_error(model(data), q(data)) > 30


def test_an_output_that_layers_read_too_is_given_as_it_was_computed():
    rng = np.random.default_rng(0)
    a = Value("a", "float32", ("n", 4, 6, 6))
    graph = cnn_of_two(rng, [a, Value("y", "float32", ("n", 5, 6, 6))])
    model, x = Model(graph), floats(rng, 8, 3, 6, 6)
    q = oc.quantize_model(model, x, correct_bias=False, equalize=False)
    got = q(x)["a"]
    assert len(np.unique(got)) > 256  # not what codes can say
    assert signal_to_error(model(x)["a"], got) > 35


def cnn_of_two(rng, outputs):
    x = Value("x", "float32", ("n", 3, 6, 6))
    nodes = [
        Node("one", "Conv", ["x", "w1"], ["a"], {"kernel_shape": (1, 1)}, 18),
        Node("two", "Conv", ["a", "w2"], ["y"], {"kernel_shape": (1, 1)}, 18),
    ]
    constants = {"w1": floats(rng, 4, 3, 1, 1), "w2": floats(rng, 5, 4, 1, 1)}
    values = {v.name: v for v in (x, Value("a", "float32", ("n", 4, 6, 6)), *outputs)}
    return Graph("net", [x], outputs, nodes, constants, values)


def test_a_bias_that_int32_cannot_hold_raises_the_scale_of_its_weights():
    # RIVALS of ours overflow: steps near 1e11.
    w = np.full((2, 4, 1, 1), 1e-7, np.float32)
    b = np.array([5, -4.5], np.float32)
    model = network(
        [
            ("Conv", ["x", "w", "b"], ["c"], {"kernel_shape": (1, 1)}),
            ("Conv", ["c", "v"], ["y"], {"kernel_shape": (1, 1)}),
        ],
        {"w": w, "b": b, "v": np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1)},
        {"x": ("n", 4, 3, 3), "c": ("n", 2, 3, 3), "y": ("n", 2, 3, 3)}, "x", "y",
    )  # fmt: skip
    data = np.random.default_rng(0).uniform(0, 127, (4, 4, 3, 3)).astype(np.float32)
    with pytest.warns(RuntimeWarning, match="overflows int32"):
        q = oc.quantize_model(model, data, correct_bias=False)
    assert np.abs(q(data) - model(data)).max() < 0.05


def test_files_keep_the_bits(tmp_path):
    for make, data, options in (
        (cnn, images(), {}),
        (transformer, rows(), {}),
        (transformer, rows(), {"activations": "dynamic"}),
        (transformer, rows(), {"precision": "int4/32"}),
        (cnn, None, {}),
    ):
        q = oc.quantize_model(make(), data, **options)
        q.save(tmp_path / "net.octavo")
        again = oc.load(tmp_path / "net.octavo")
        x = images(1) if make is cnn else rows(1)
        assert again(x).tobytes() == q(x).tobytes()
        assert precisions(again) == precisions(q)
        assert pickle.loads(pickle.dumps(q))(x).tobytes() == q(x).tobytes()


def test_onnx_files_keep_the_bits(tmp_path):
    pytest.importorskip("onnx", reason="models are not written without onnx")
    for make, data, options in (
        (cnn, images(), {}),
        (transformer, rows(), {}),
        (transformer, rows(), {"activations": "dynamic"}),
        (cnn, None, {}),
    ):
        q = oc.quantize_model(make(), data, **options)
        q.save(tmp_path / "net.onnx")
        again = oc.load(tmp_path / "net.onnx")
        x = images(1) if make is cnn else rows(1)
        assert again(x).tobytes() == q(x).tobytes()


def test_what_became_of_layers_is_kept_as_metadata():
    held = json.loads(oc.quantize_model(cnn(), images()).graph.metadata["octavo.quantization"])
    assert held["layers"][0] == {
        "layer": "Conv_0", "operator": "Conv", "precision": "int8", "reason": "",
    }  # fmt: skip


@pytest.mark.parametrize("isa", oc.runtime.available_isas())
def test_every_instruction_set_gives_the_same_model(isa):
    with oc.runtime.force_isa(isa):
        q = oc.quantize_model(cnn(), images(n=4))
        y = q(images(1, n=2))
    with oc.runtime.force_isa("scalar"):
        expected = oc.quantize_model(cnn(), images(n=4))
        assert expected.graph.metadata == q.graph.metadata
        assert expected(images(1, n=2)).tobytes() == y.tobytes()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"activations": "fixed"}, ValueError, "activations is 'fixed', expected 'static' or"),
        ({"method": "best"}, ValueError, "method is 'best', expected 'auto' or 'minmax' or"),
        ({"rounding": "up"}, ValueError, "rounding is 'up', expected 'nearest' or 'gptq'"),
        ({"rounding": "gptq"}, ValueError, "without data, expected data to round by"),
        ({"precision": "int3"}, ValueError, "precision of '\\*' is 'int3', expected"),
        ({"precision": {"Conv_9": "int8"}}, ValueError, "no layer matches 'Conv_9'; nearest"),
        ({"data": np.zeros((2, 3, 9, 8), np.float32)}, ValueError, "has shape"),
        ({"data": np.full((2, 3, 8, 8), np.nan, np.float32)}, ValueError, "NaN"),
        ({"data": {"z": np.zeros((2, 3, 8, 8), np.float32)}}, ValueError, "z"),
    ],
)
def test_bad_arguments_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        oc.quantize_model(cnn(), **options)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"model is str, expected octavo\.graph\.Model"):
        oc.quantize_model("net.onnx")
