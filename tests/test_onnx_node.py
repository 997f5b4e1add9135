"""ONNX's own cases of the quantization operators, built in memory; integers compared with ``==``."""

import functools
import os
import warnings

import numpy as np
import pytest

import octavo as oc

onnx = pytest.importorskip("onnx", reason="ONNX's node cases are not run without onnx")
pytestmark = pytest.mark.skipif(
    os.environ.get("OCTAVO_IN_QEMU") == "1", reason="x86 tables are run natively; slow in emulation"
)

OPERATORS = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "QLinearMatMul",
    "ConvInteger",
    "QLinearConv",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
}
CASES = [
    "test_quantizelinear",
    "test_quantizelinear_axis",
    "test_quantizelinear_blocked_asymmetric",
    "test_quantizelinear_int4",
    "test_quantizelinear_uint4",
    "test_dequantizelinear",
    "test_dequantizelinear_axis",
    "test_dequantizelinear_blocked",
    "test_dequantizelinear_int4",
    "test_dequantizelinear_uint4",
    "test_dynamicquantizelinear",
    "test_dynamicquantizelinear_max_adjusted",
    "test_dynamicquantizelinear_min_adjusted",
    "test_matmulinteger",
    "test_convinteger_without_padding",
    "test_convinteger_with_padding",
    "test_qlinearconv",
    "test_maxpool_2d_uint8",
    *(
        f"test_qlinearmatmul_{rank}_{codes}_{scales}"
        for rank in ("2D", "3D")
        for codes in ("int8", "uint8")
        for scales in ("float16", "float32")
    ),
]
# Cases of float32 images: run on their codes, beside the case's own graph on what these stand for.
POOLS = [
    *(
        f"test_maxpool_2d_{case}"
        for case in (
            "precomputed_pads",
            "precomputed_strides",
            "precomputed_same_upper",
            "default",
            "same_upper",
            "same_lower",
            "pads",
            "strides",
            "ceil",
            "ceil_output_size_reduce_by_one",
            "dilations",
        )
    ),
    *(
        f"test_averagepool_2d_{case}"
        for case in (
            "precomputed_pads",
            "precomputed_pads_count_include_pad",
            "precomputed_strides",
            "precomputed_same_upper",
            "default",
            "same_upper",
            "same_lower",
            "pads",
            "pads_count_include_pad",
            "strides",
            "ceil",
            "ceil_last_window_starts_on_pad",
        )
    ),
    "test_globalaveragepool",
    "test_globalaveragepool_precomputed",
]
EXCLUDED = {
    "pooling has two dimensions": [
        "test_maxpool_1d_default",
        "test_maxpool_3d_default",
        "test_maxpool_3d_dilations",
        "test_maxpool_3d_dilations_use_ref_impl",
        "test_maxpool_3d_dilations_use_ref_impl_large",
        "test_averagepool_1d_default",
        "test_averagepool_3d_default",
        "test_averagepool_3d_dilations_small",
        *(
            f"test_averagepool_3d_dilations_large_count_include_pad_is_{pad}_ceil_mode_is_{ceil}"
            for pad in (0, 1)
            for ceil in (True, False)
        ),
    ],
    "average pooling is not dilated": ["test_averagepool_2d_dilations"],
    "pooling does not say where the greatest value was": [
        "test_maxpool_with_argmax_2d_precomputed_pads",
        "test_maxpool_with_argmax_2d_precomputed_strides",
    ],
    "8-bit floats are no format of octavo": [
        "test_quantizelinear_e4m3fn",
        "test_quantizelinear_e5m2",
        "test_dequantizelinear_e4m3fn",
        "test_dequantizelinear_e4m3fn_float16",
        "test_dequantizelinear_e4m3fn_zero_point",
        "test_dequantizelinear_e5m2",
    ],
    "4-bit floats are no format of octavo": [
        "test_quantizelinear_float4e2m1",
        "test_dequantizelinear_float4e2m1",
    ],
    "16-bit codes are no format of octavo": [
        "test_quantizelinear_int16",
        "test_quantizelinear_uint16",
        "test_quantizelinear_blocked_symmetric",
        "test_dequantizelinear_int16",
        "test_dequantizelinear_uint16",
    ],
    "2-bit codes are no format of octavo": [
        "test_quantizelinear_int2",
        "test_quantizelinear_uint2",
        "test_dequantizelinear_int2",
        "test_dequantizelinear_uint2",
    ],
}


@functools.cache
def collected():
    """ONNX's cases of our operators by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other operators' cases overflow and divide by zero
        cases = collect_testcases(None)
    return {
        case.name: case for case in cases if {n.op_type for n in case.model.graph.node} <= OPERATORS
    }


def to_array(value):
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def code_name(array):
    return array.dtype.name


def in_blocks(x, axis):
    """The axis that is cut into blocks last, all others before it as one."""
    return np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])


def quantizer(scale, zero_point, attributes):
    """QuantizeLinear's and DequantizeLinear's parameters as octavo takes them."""
    axis = attributes.get("axis", 1) if scale.ndim else None
    if "block_size" not in attributes:
        return {"axis": axis, "scale": scale, "zero_point": zero_point.reshape(scale.shape)}
    return {
        "axis": 0,
        "group_size": attributes["block_size"],
        "scale": in_blocks(scale, axis),
        "zero_point": in_blocks(zero_point, axis),
    }


def integers(array):
    return array.astype(np.int32)


def sides(attributes, x_shape, y_shape):
    """(top, left, bottom, right), also where the case says how many outputs there are."""
    if "auto_pad" not in attributes:
        return attributes.get("pads", (0, 0, 0, 0))
    kernel, steps = attributes["kernel_shape"], attributes.get("strides", (1, 1))
    extra = [max((y_shape[2 + i] - 1) * steps[i] + kernel[i] - x_shape[2 + i], 0) for i in range(2)]
    less, more = [each // 2 for each in extra], [each - each // 2 for each in extra]
    upper = attributes["auto_pad"] == b"SAME_UPPER"
    return (*less, *more) if upper else (*more, *less)


def pool(x, operator, attributes, y_shape):
    if operator == "GlobalAveragePool":
        return oc.nn.global_average_pool2d(x)
    options = {
        "stride": attributes.get("strides", (1, 1)),
        "padding": sides(attributes, x.shape, y_shape),
        "ceil_mode": bool(attributes.get("ceil_mode", 0)),
    }
    kernel = attributes["kernel_shape"]
    if operator == "MaxPool":
        dilation = attributes.get("dilations", (1, 1))
        return oc.nn.max_pool2d(x, kernel, dilation=dilation, **options)
    include = bool(attributes.get("count_include_pad", 0))
    return oc.nn.average_pool2d(x, kernel, count_include_pad=include, **options)


def run(operator, attributes, inputs):
    """What octavo answers, as the list of the operator's outputs."""
    if operator == "QuantizeLinear":
        x, scale, zero_point = inputs
        options = quantizer(scale, integers(zero_point), attributes)
        if "group_size" in options:
            x = in_blocks(x, attributes["axis"])
        return [oc.quantize(x, code_name(zero_point), **options).codes()]
    if operator == "DequantizeLinear":
        q, scale, zero_point = inputs
        options = quantizer(scale, integers(zero_point), attributes)
        if "group_size" not in options:
            return [oc.QTensor(q, **options).dequantize()]
        axis = attributes["axis"]
        real = oc.QTensor(in_blocks(q, axis), **options).dequantize()
        moved = real.reshape(np.moveaxis(q, axis, -1).shape)
        return [np.moveaxis(moved, -1, axis)]
    if operator == "DynamicQuantizeLinear":
        q = oc.quantize(inputs[0], "uint8")
        return [q.codes(), q.scale, q.zero_point]
    if operator == "MatMulInteger":
        a, b, a_zero_point, b_zero_point = inputs
        return [
            oc.matmul(
                a,
                b,
                a_zero_point=integers(a_zero_point).reshape(()),
                b_zero_point=integers(b_zero_point).reshape(()),
            )
        ]
    if operator == "ConvInteger":
        x, w, x_zero_point, *given = inputs
        w_zero_point = integers(given[0]) if given else np.int32(0)
        axis = 0 if w_zero_point.ndim else None
        return [
            oc.conv2d(
                x,
                oc.QTensor(w, np.ones(w_zero_point.shape), w_zero_point, axis=axis),
                x_qparams=oc.QParams(1.0, integers(x_zero_point).reshape(()), code_name(x)),
                padding=attributes.get("pads", 0),
                out_dtype="int32",
            )
        ]
    if operator == "QLinearConv":
        x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = inputs
        return [
            oc.conv2d(
                x,
                oc.QTensor(w, w_scale.reshape(-1), integers(w_zero).reshape(-1), axis=0),
                x_qparams=oc.QParams(x_scale, integers(x_zero), code_name(x)),
                out_qparams=oc.QParams(y_scale, integers(y_zero), code_name(y_zero)),
            ).codes()
        ]
    if operator == "MaxPool":
        return [pool(oc.QTensor(inputs[0], 1.0), operator, attributes, None).codes()]
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs
    scales = [np.float32(scale.reshape(())) for scale in (a_scale, b_scale, y_scale)]
    return [
        oc.matmul(
            a,
            b,
            a_zero_point=integers(a_zero).reshape(()),
            b_zero_point=integers(b_zero).reshape(()),
            multiplier=scales[0] * scales[1] / scales[2],
            zero_point=int(y_zero[0]),
            dtype=code_name(y_zero),
        )
    ]


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", CASES)
def test_onnx_node_case(name):
    case = collected()[name]
    (node,) = case.model.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    for given, wanted in case.data_sets:
        results = run(node.op_type, attributes, [to_array(value) for value in given])
        assert len(results) == len(wanted)
        for got, value in zip(results, wanted, strict=True):
            expected = to_array(value)
            if expected.dtype.name in {"int4", "uint4"}:
                expected = expected.astype(got.dtype)
            assert got.shape == expected.shape
            assert np.array_equal(got, expected)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", POOLS)
def test_onnx_pooling_case_on_codes(name):
    from onnx.reference import ReferenceEvaluator

    model = collected()[name].model
    (node,) = model.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    for (given,), _ in collected()[name].data_sets:
        x = oc.quantize(to_array(given), "uint8")
        feeds = {model.graph.input[0].name: x.dequantize()}
        (expected,) = ReferenceEvaluator(model).run(None, feeds)
        y = pool(x, node.op_type, attributes, expected.shape)
        assert y.shape == expected.shape
        # A mean may lie half-way between two codes in one arithmetic and not in the other.
        most = 0 if node.op_type == "MaxPool" else 1
        codes = oc.quantize(expected, qparams=x.qparams).codes()
        assert np.abs(codes.astype(int) - y.codes()).max() <= most


def test_every_case_is_run_or_excluded_for_a_reason():
    excluded = [name for names in EXCLUDED.values() for name in names]
    assert sorted(collected()) == sorted(CASES + POOLS + excluded)
