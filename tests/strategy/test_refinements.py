"""What lessens the error of quantized layers: equalization, smoothing, rounding, bias correction."""

import numpy as np
import pytest
from networks import cnn, floats, images, network, rows, signal_to_error, transformer

import octavo as oc
from octavo.graph import Model
from octavo.graph.layout import to_nchw
from octavo.strategy.equalize import equalize_layers
from octavo.strategy.layers import layer_of, quantized_weights
from octavo.strategy.rounding import round_by_error
from octavo.strategy.samples import Samples


def parts(model, data):
    """A graph to change, its layers, and samples of what they read."""
    graph = model.graph.copy()
    to_nchw(graph)
    found = {node.name: layer_of(graph, node) for node in graph.nodes}
    layers = {name: each for name, each in found.items() if hasattr(each, "kept")}
    return graph, layers, Samples(graph, layers, Model(graph), data)


def gained(model, step):
    return {
        row["layer"]: (gain["before"], gain["after"])
        for row in oc.explain(model).rows
        for gain in row["gains"]
        if gain["step"] == step
    }


def uneven(model, factor=50.0):
    """The same function with channels that differ by far in range."""
    graph = model.graph.copy()
    constants = graph.constants
    by_name = {node.name: node for node in graph.nodes}
    norm, reader = by_name["LayerNormalization_11"], by_name["MatMul_12"]
    by = np.ones(32, np.float32)
    by[::5] = factor
    constants["g2"] = constants[norm.inputs[1]] * by
    constants["w1"] = constants[reader.inputs[1]] / by[:, None]
    norm.inputs[1], reader.inputs[1] = "g2", "w1"
    return Model(graph)


def test_scale_moves_between_a_norm_and_the_product_that_reads_it():
    model = uneven(transformer())
    plain = oc.quantize_model(model, rows(), equalize=False, correct_bias=False)
    moved = oc.quantize_model(model, rows(), correct_bias=False)
    x = rows(1)
    assert signal_to_error(model(x), moved(x)) > signal_to_error(model(x), plain(x)) + 1
    before, after = gained(moved, "equalize")["MatMul_12"]
    assert after > before + 6
    assert not gained(plain, "equalize")
    # The norm has taken the factors in: no operator was added.
    assert [layer.name for layer in moved.layers] == [layer.name for layer in plain.layers]


def test_equalization_does_not_change_the_float_model():
    for model, data in ((uneven(transformer()), rows()), (cnn(), images())):
        graph, layers, samples = parts(model, data)
        wanted = dict.fromkeys(layers, "int8")
        codes = {layer.node.inputs[0]: [(layer.node, 0)] for layer in layers.values()}
        gains, _ = equalize_layers(graph, layers, wanted, codes, (), samples)
        assert gains
        assert np.allclose(Model(graph)(data), model(data), rtol=1e-3, atol=1e-4)


def test_what_others_read_too_is_scaled_by_a_multiplication_of_its_own():
    width = 32
    wide = np.ones(width, np.float32)
    wide[2] = 60.0
    rng = np.random.default_rng(0)
    w = floats(rng, width, width, scale=0.2)
    w[2] /= 60
    row = ("n", width)
    model = network(
        [
            ("LayerNormalization", ["x", "g"], ["h"], {"axis": -1}),
            ("MatMul", ["h", "w"], ["p"], {}),
            ("Add", ["h", "p"], ["y"], {}),
        ],
        {"g": wide, "w": w}, dict.fromkeys("xhpy", row), "x", "y",
    )  # fmt: skip
    data = floats(rng, 64, width)
    q = oc.quantize_model(model, data)
    assert [layer.name for layer in q.layers if layer.operator == "Mul"] == ["h.smooth"]
    before, after = gained(q, "equalize")["MatMul_1"]
    assert after > before + 6
    assert signal_to_error(model(data), q(data)) > 50


def test_channels_of_convolutions_are_evened_out():
    model = cnn()
    graph = model.graph.copy()
    by_name = {node.name: node for node in graph.nodes}
    by = np.ones(16, np.float32)
    by[::4] = 40.0
    first, second = by_name["Conv_0"], by_name["Conv_2"]
    add = by_name["Add_3"]
    for node, index, value in (
        (first, 1, graph.constants[first.inputs[1]] * by[:, None, None, None]),
        (first, 2, graph.constants[first.inputs[2]] * by),
        (second, 1, graph.constants[second.inputs[1]] / by[:, None, None]),
    ):
        name = f"{node.name}.{index}"
        graph.constants[name] = value
        node.inputs[index] = name
    add.inputs[1] = add.inputs[0]  # so that the second convolution alone reads the first
    wide = Model(graph)
    q = oc.quantize_model(wide, images(), correct_bias=False)
    before, after = gained(q, "equalize")["Conv_2"]
    assert after > before + 3
    assert signal_to_error(wide(images(1)), q(images(1))) > 30


@pytest.mark.parametrize("precision", ["int4/32", "int8"])
@pytest.mark.parametrize("make", [cnn, transformer])
def test_error_compensated_rounding_lessens_the_error(make, precision):
    data = images() if make is cnn else rows(n=64)
    q = oc.quantize_model(make(), data, precision, rounding="gptq", equalize=False)
    found = gained(q, "gptq")
    assert found
    assert all(after > before for before, after in found.values())
    if precision == "int4/32":
        assert max(after - before for before, after in found.values()) > 3


def test_rounding_measures_the_error_that_the_layer_makes():
    """The gain that is told is that of the outputs, computed by the layer's own kernel."""
    for model, data in ((cnn(), images()), (transformer(), rows(n=64))):
        _, layers, samples = parts(model, data)
        stored = {name: quantized_weights(each, "int4/32") for name, each in layers.items()}
        nearest = dict(stored)
        for gain in round_by_error(layers, stored, samples):
            layer = layers[gain.layer]
            assert np.array_equal(stored[gain.layer].scale, nearest[gain.layer].scale)
            assert np.abs(stored[gain.layer].codes()).max() <= 7
            for w, told in ((nearest, gain.before), (stored, gain.after)):
                assert told == pytest.approx(measured(layer, w[gain.layer], samples), abs=0.05)


def measured(layer, w, samples):
    from octavo.strategy.layers import alone

    exact, rounded = alone(layer, layer.w, None), alone(layer, w.dequantize(), None)
    pairs = [(exact(x), rounded(x)) for x in samples.of(layer.node.inputs[0])]
    signal = sum(np.sum(np.square(a, dtype=np.float64)) for a, _ in pairs)
    error = sum(np.sum(np.square(b - a, dtype=np.float64)) for a, b in pairs)
    return 10 * np.log10(signal / error)


def test_grouped_and_strided_convolutions_are_rounded_too():
    rng = np.random.default_rng(0)
    model = network(
        [
            ("Conv", ["x", "w"], ["a"],
             {"kernel_shape": (3, 3), "group": 2, "strides": (2, 1), "pads": (1, 0, 1, 2)}),
            ("Conv", ["a", "v"], ["y"],
             {"kernel_shape": (3, 3), "group": 6, "dilations": (1, 2), "auto_pad": "SAME_UPPER"}),
        ],
        {"w": floats(rng, 6, 4, 3, 3), "v": floats(rng, 6, 1, 3, 3)},
        {"x": ("n", 8, 9, 8), "a": ("n", 6, 5, 8), "y": ("n", 6, 5, 8)}, "x", "y",
    )  # fmt: skip
    data = floats(rng, 16, 8, 9, 8)
    _, layers, samples = parts(model, data)
    stored = {name: quantized_weights(each, "int4/32") for name, each in layers.items()}
    gains = round_by_error(layers, stored, samples)
    assert {gain.layer for gain in gains} == {"Conv_0", "Conv_1"}
    for gain in gains:
        told = measured(layers[gain.layer], stored[gain.layer], samples)
        assert gain.after == pytest.approx(told, abs=0.05)


def test_correction_takes_the_mean_error_out():
    model, x = cnn(), images(1, n=64)
    plain, right = (
        oc.quantize_model(model, images(n=64), "int4/32", correct_bias=each, equalize=False)
        for each in (False, True)
    )
    off = [np.abs((q(x) - model(x)).mean(0)).max() for q in (plain, right)]
    assert off[1] < off[0] / 2
    assert all(after >= before for before, after in gained(right, "bias").values())


def test_a_layer_without_bias_gets_one():
    q = oc.quantize_model(transformer(), rows(), "int4/32")
    node = next(n for n in q.graph.nodes if n.name == "MatMul_1")
    assert q.graph.constants[node.inputs[2]].shape == (32,)
