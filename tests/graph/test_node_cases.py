"""ONNX's own cases of every operator, through `octavo.load`: each is run, or excluded for a reason."""

import functools
import os
import warnings

import numpy as np
import pytest

import octavo as oc

if os.environ.get("OCTAVO_IN_QEMU") == "1":
    pytest.skip("ONNX's node cases are run natively; slow in emulation", allow_module_level=True)
onnx = pytest.importorskip("onnx", reason="ONNX's node cases are not run without onnx")

# Beginnings of names.
EXCLUDED = {
    "chance decides what comes out": ["test_bernoulli"],
    "onnx's reference implementation needs Pillow": ["test_image_decoder"],
    "onnx's reference implementation has no such operator at the case's opset": [
        "test_flexattention_causal_mask",
        "test_flexattention_relative_positional",
    ],
    "gone from ONNX before opset 11": ["test_scatter_with", "test_upsample"],
    "onnx's reference implementation puts an optional sequence into one more list": ["test_if_opt"],
    "the inputs of opset 8's Scan": ["test_scan_sum"],
}
# float16 attention is rounded at each step where the expected values were rounded once.
ROUNDED_TWICE = {"test_attention_4d_causal_fp16_expanded"}
OLDEST_OPSET = 11
# Operators that have a kernel, each for what is listed left to onnx's reference implementation.
NO_FALLBACK = {
    "Add", "And", "ArgMax", "ArgMin", "AveragePool", "Clip", "Concat", "ConstantOfShape", "CumSum",
    "DepthToSpace", "Div", "Equal", "Erf", "Exp", "Expand", "Flatten", "Gather", "GatherElements",
    "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "Greater", "GroupNormalization",
    "HardSigmoid", "HardSwish", "If", "InstanceNormalization", "LeakyRelu", "Less", "Log", "LogSoftmax",
    "Loop", "MatMul", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow",
    "RMSNormalization", "Range", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "Relu", "Reshape", "Scan", "ScatterElements", "ScatterND", "Selu", "Shape", "Sigmoid",
    "Slice", "Softmax", "Softplus", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Swish",
    "Tanh", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Where", "Xor",
}  # fmt: skip


@functools.cache
def collected():
    """The cases, by the operator of their first node."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some overflow and divide by zero
        cases = collect_testcases(None)
    groups = {}
    for case in cases:
        groups.setdefault(case.model.graph.node[0].op_type, []).append(case)
    return groups


def is_excluded(name):
    return any(name.startswith(each) for names in EXCLUDED.values() for each in names)


def loaded(case):
    """The case's model; operators that are older than the oldest opset mean the same in it."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for each in model.opset_import:
        if each.domain == "":
            each.version = max(each.version, OLDEST_OPSET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", oc.FallbackWarning)
        return oc.load(model)


def as_arrays(value):
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return onnx.numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return onnx.numpy_helper.to_optional(value)
    return value


def difference(got, wanted, case):
    """What is wrong with a result, "" if nothing."""
    if isinstance(wanted, list):
        if not isinstance(got, list) or len(got) != len(wanted):
            return f"{case.name}: {got!r}, expected {len(wanted)} arrays"
        return "".join(difference(*pair, case) for pair in zip(got, wanted, strict=True))
    if isinstance(got, list):
        return f"{case.name}: a list of {len(got)}, expected {wanted!r}"
    if wanted is None:
        return "" if got is None else f"{case.name}: {got!r}, expected None"
    wanted = np.asarray(wanted)
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return f"{case.name}: {got.dtype}{got.shape}, expected {wanted.dtype}{wanted.shape}"
    if wanted.dtype.kind in "iubOSU":
        return "" if np.array_equal(got, wanted) else f"{case.name}: {got}, expected {wanted}"
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    rtol = 2 * case.rtol if case.name in ROUNDED_TWICE else case.rtol
    close = np.allclose(a, b, rtol=rtol, atol=max(case.atol, rtol * 1e-3), equal_nan=True)
    return "" if close else f"{case.name}: off by {np.nanmax(np.abs(a - b))}"


def faults(case):
    model = loaded(case)
    found = []
    for given, wanted in case.data_sets:
        feeds = {
            value.name: as_arrays(x) for value, x in zip(case.model.graph.input, given, strict=True)
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the reference implementation's own
            results = model.run(feeds)
        found += [
            difference(got, as_arrays(value), case)
            for got, value in zip(results.values(), wanted, strict=True)
        ]
    return [each for each in found if each]


@pytest.mark.parametrize("operator", sorted(collected()))
def test_onnx_node_cases_of(operator):
    cases = [case for case in collected()[operator] if not is_excluded(case.name)]
    if not cases:
        pytest.skip("all are excluded")
    assert [fault for case in cases for fault in faults(case)] == []


def is_plain(case):
    """Whether every value is of a type that kernels take."""
    graph = case.model.graph
    plain = {"FLOAT", "FLOAT16", "INT64", "INT32", "BOOL", "UINT8", "INT8"}
    kinds = [value.type for value in (*graph.input, *graph.output)]
    return all(
        kind.HasField("tensor_type")
        and onnx.TensorProto.DataType.Name(kind.tensor_type.elem_type) in plain
        for kind in kinds
    )


@pytest.mark.parametrize("operator", sorted(NO_FALLBACK))
def test_no_case_of_plain_dtypes_falls_back_for(operator):
    cases = [c for c in collected().get(operator, []) if is_plain(c) and not is_excluded(c.name)]
    assert cases, "onnx has no case of it"
    fallbacks = {
        case.name: [row.operator for row in loaded(case).coverage().fallbacks]
        for case in cases
        if operator == case.model.graph.node[0].op_type and len(case.model.graph.node) == 1
    }
    assert not {name: ops for name, ops in fallbacks.items() if operator in ops}


def test_every_exclusion_names_a_case():
    names = [case.name for cases in collected().values() for case in cases]
    for beginnings in EXCLUDED.values():
        for each in beginnings:
            assert any(name.startswith(each) for name in names), each
