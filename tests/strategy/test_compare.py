"""`octavo.compare` and `octavo.explain`."""

import math

import numpy as np
import pytest
from networks import cnn, images, network, rows, transformer

import octavo as oc
from octavo.graph import Model
from octavo.strategy.compare import Comparison


@pytest.fixture(scope="module")
def pair():
    model = cnn()
    return model, oc.quantize_model(model, images(), equalize=False)


def test_each_layer_is_compared_by_the_value_that_it_makes(pair):
    model, q = pair
    x = images(1)
    result = oc.compare(model, q, x)
    assert [row["layer"] for row in result.rows] == [
        "Conv_0", "Conv_2", "GlobalAveragePool_5", "Gemm_7",
    ]  # fmt: skip
    last = result.rows[-1]
    a, b = model(x).astype(np.float64), q(x).astype(np.float64)
    assert last["sqnr"] == pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()))
    assert last["cosine"] == pytest.approx((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
    assert last["max"] == pytest.approx(np.abs(a - b).max())


def test_values_are_compared_with_channels_where_onnx_has_them(pair):
    model, q = pair
    seen = {}

    def watch(step, _inputs, outputs):
        seen[step.node.name] = outputs[0]

    x = images(1)
    flat = Model(model.graph.copy())
    flat.trace({"x": x}, watch)
    row = oc.compare(model, q, x).rows[0]
    assert row["sqnr"] > 25  # turned otherwise than the other, it would be near 0


def test_batches_add_up(pair):
    whole, parts = (
        oc.compare(*pair, oc.Dataset(images(1, n=30), batch_size=size)) for size in (30, 7)
    )
    for a, b in zip(whole.rows, parts.rows, strict=True):
        assert a["sqnr"] == pytest.approx(b["sqnr"])
        assert a["max"] == b["max"]


def test_a_model_is_equal_to_itself():
    model = transformer()
    result = oc.compare(model, model, rows())
    assert all(row["sqnr"] == math.inf and row["lost"] == 0 for row in result.rows)
    assert all(row["cosine"] == pytest.approx(1) and row["max"] == 0 for row in result.rows)


def test_what_loses_most_comes_first():
    model = transformer()
    q = oc.quantize_model(model, rows(), {"MatMul_12": "int4/32"}, equalize=False)
    result = oc.compare(model, q, rows(1))
    assert result.worst[0]["layer"] == "MatMul_12"
    assert result.worst[0]["lost"] == math.inf  # nothing before it has an error
    assert {row["layer"] for row in result.rows if row["sqnr"] == math.inf} >= {"MatMul_1"}


def test_models_that_only_share_names_are_refused():
    made = [
        network(
            [("MatMul", ["x", "w"], ["y"], {})],
            {"w": np.ones((4, size), np.float32)},
            {"x": ("n", 4), "y": ("n", size)},
            *"xy",
        )
        for size in (3, 5)
    ]
    with pytest.raises(ValueError, match=r"'MatMul_0' makes \(2, 3\) in one model and \(2, 5\)"):
        oc.compare(*made, np.ones((2, 4), np.float32))


def test_a_first_layer_is_not_worst_for_reading_exact_inputs():
    row = {"operator": "Conv", "kernel": "conv int8", "cosine": 1.0, "max": 0.1}
    made = Comparison(
        [
            {**row, "layer": "first", "sqnr": 42.0, "lost": math.inf},
            {**row, "layer": "bad", "sqnr": 20.0, "lost": 6.0},
            {**row, "layer": "better than its input", "sqnr": 21.0, "lost": 0.0},
            {**row, "layer": "exact", "sqnr": math.inf, "lost": 0.0},
            {**row, "layer": "good", "sqnr": 20.0, "lost": 0.001},
        ]
    )
    worst = [row["layer"] for row in made.worst]
    assert worst == ["bad", "first", "good", "better than its input", "exact"]


def test_values_that_equalization_has_scaled_are_left_out():
    wide = transformer(outlier=40.0)
    q = oc.quantize_model(wide, rows())
    result = oc.compare(wide, q, rows(1))
    named = {row["layer"] for row in result.rows}
    assert "LayerNormalization_0" not in named
    assert {"MatMul_1", "MatMul_12"} <= named


def test_tables_and_files_hold_what_was_found(pair, tmp_path):
    result = oc.compare(*pair, images(1))
    text = str(result)
    assert text.splitlines()[0].split() == [
        "layer", "operator", "kernel", "SQNR", "dB", "lost", "dB", "cosine", "max", "error",
    ]  # fmt: skip
    assert "Conv_0" in text
    assert "<td" in result._repr_html_()
    result.save(tmp_path / "result.json")
    again = type(result).load(tmp_path / "result.json")
    assert again.rows == result.rows
    with pytest.raises(ValueError, match=r"expected 'octavo\.explanation'"):
        type(oc.explain(pair[1])).load(tmp_path / "result.json")


def test_models_without_a_common_value_are_refused():
    other = network([("Exp", ["u"], ["z"], {})], {}, dict.fromkeys("uz", ("n", 3)), "u", "z")
    with pytest.raises(ValueError, match="no value in common"):
        oc.compare(cnn(), other, images())


def test_the_picture_has_a_bar_for_each_layer(pair):
    matplotlib = pytest.importorskip("matplotlib", reason="no pictures without matplotlib")
    matplotlib.use("Agg")
    result = oc.compare(*pair, images(1))
    axes = result.plot()
    assert len(axes.patches) == len(result.rows)
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        row["layer"] for row in result.rows
    ]


def test_progress_counts_samples(pair):
    told = []
    oc.compare(*pair, images(1, n=10), progress=lambda *each: told.append(each))
    assert told[-1] == (10, 10, "compare")


def test_explain_tells_precision_reason_and_gain(pair, tmp_path):
    _, q = pair
    result = oc.explain(q)
    row = next(row for row in result.rows if row["layer"] == "Conv_2")
    assert row["precision"] == "int8"
    assert [gain["step"] for gain in row["gains"]] == ["bias"]
    result.save(tmp_path / "why.json")
    assert type(result).load(tmp_path / "why.json").rows == result.rows
    assert "7 of 7 layers in fewer bits" in str(result)


def test_explain_knows_models_that_were_never_quantized_by_their_kernels():
    rows_of = {row["layer"]: row["precision"] for row in oc.explain(cnn()).rows}
    assert rows_of["Conv_0"] == "float32"
    assert rows_of["GlobalAveragePool_5"] == "float32"
