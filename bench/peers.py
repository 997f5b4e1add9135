"""The same work done by other libraries: factories of entrants.

Each factory takes the row's operands and returns an Entrant. Weights are packed ahead and results
written into buffers made ahead wherever the library's interface allows it. A library that is not
installed, or that cannot be held to the ISA under test, is left out by `libraries`.
"""

import importlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from operands import X_SCALE, X_ZERO_POINT, Y_ZERO_POINT, Array, Elements, Product
from rounds import Entrant

Node = tuple[str, str, dict[str, Any]]
# numkong's names of instruction sets that are at most the one under test
NUMKONG_WITHIN = {"avx2": {"haswell"}, "avxvnni": {"haswell", "alder"}}


class Absent(Exception):
    """A library has no such operator; what it lacks needs no note at every row."""


def libraries(isa: str, threads: int) -> tuple[dict[str, str], dict[str, str]]:
    """Versions of the libraries that take part, and why the others do not."""
    versions, absent = dict[str, str](), dict[str, str]()
    for library in ("numpy", "torch", "onnxruntime", "onnx", "openvino", "numkong"):
        try:
            versions[library] = str(importlib.import_module(library).__version__)
        except ImportError as error:
            absent[library] = str(error)
    if "onnx" not in versions:
        for library in ("onnxruntime", "openvino"):
            absent[library] = "needs onnx, which builds its models"
    if isa in NUMKONG_WITHIN:
        absent["onnxruntime"] = f"has no setting that holds it to {isa}"
    if threads > 1:
        absent["numkong"] = "runs on one thread"
    versions = {library: found for library, found in versions.items() if library not in absent}
    if "torch" in versions:
        torch_module().set_num_threads(threads)
        warnings.filterwarnings("ignore", message=".*quantized tensor creation")
    if "numkong" in versions and isa in NUMKONG_WITHIN:
        numkong = importlib.import_module("numkong")
        for name, present in numkong.get_capabilities().items():
            if present and name not in NUMKONG_WITHIN[isa] | {"serial"}:
                numkong.disable_capability(name)
    return versions, absent


# NumPy -------------------------------------------------------------------------------------------


def numpy_float32(p: Product) -> Entrant:
    a, b = p.x, p.w * p.w_scale
    out = np.empty((p.shape[0], p.shape[1]), np.float32)
    return Entrant(
        "numpy_float32",
        "float32",
        "numpy",
        lambda: np.matmul(a, b, out=out),
        lambda: np.matmul(a, b, out=out),
    )


def numpy_copy(kind: str, array: Array) -> Entrant:
    """A copy of the float side: as fast as an elementwise operation could be hoped to be."""
    out = np.empty_like(array)
    return Entrant(f"copy_{kind}", kind, "copy", lambda: np.copyto(out, array), lambda: array)


def numpy_quantize(e: Elements) -> Entrant:
    def call() -> Array:
        v: Array = np.rint(e.x / X_SCALE) + np.float32(X_ZERO_POINT)
        codes: Array = np.clip(v, 0, 255, out=v).astype(np.uint8)
        return codes

    return Entrant("numpy_quantize", "quantize", "numpy", call, call)


# torch -------------------------------------------------------------------------------------------


@cache
def torch_module() -> Any:
    return importlib.import_module("torch")


def torch_entrant(name: str, kind: str, call: Callable[[], Any], answer: str = "") -> Entrant:
    torch = torch_module()

    def result() -> Array:
        with torch.inference_mode():
            y = call()
            return np.asarray((y.int_repr() if y.is_quantized else y).numpy())

    return Entrant(name, kind, "torch", call, result, torch.inference_mode, answer)


def torch_float32(p: Product) -> Entrant:
    torch = torch_module()
    a, b = torch.from_numpy(p.x), torch.from_numpy(p.w * p.w_scale)
    out = torch.empty(p.shape[0], p.shape[1])
    return torch_entrant("torch_float32", "float32", lambda: torch.mm(a, b, out=out))


def torch_int_mm(p: Product) -> Entrant:
    torch = torch_module()
    a, b = torch.from_numpy(p.a_signed), torch.from_numpy(p.w)
    out = torch.empty((p.shape[0], p.shape[1]), dtype=torch.int32)
    return torch_entrant("torch_int_mm", "s32", lambda: torch._int_mm(a, b, out=out), "signed")


def _torch_packed(p: Product, engine: str) -> Any:
    torch = torch_module()
    torch.backends.quantized.engine = engine
    w = torch._make_per_channel_quantized_tensor(
        torch.from_numpy(p.w_t),
        torch.from_numpy(p.w_scale).double(),
        torch.zeros(p.shape[1], dtype=torch.int64),
        0,
    )
    return torch.ops.quantized.linear_prepack(w, None)


def torch_linear(engine: str) -> Callable[[Product], Entrant]:
    def make(p: Product) -> Entrant:
        torch = torch_module()
        packed, linear = _torch_packed(p, engine), torch.ops.quantized.linear
        x = torch._make_per_tensor_quantized_tensor(
            torch.from_numpy(p.a), float(X_SCALE), X_ZERO_POINT
        )
        scale = float(p.y_scale)
        return torch_entrant(
            f"torch_{engine}", "u8", lambda: linear(x, packed, scale, Y_ZERO_POINT)
        )

    return make


def torch_dynamic(engine: str) -> Callable[[Product], Entrant]:
    def make(p: Product) -> Entrant:
        torch = torch_module()
        packed, linear = _torch_packed(p, engine), torch.ops.quantized.linear_dynamic
        x = torch.from_numpy(p.x)
        return torch_entrant(
            f"torch_dynamic_{engine}", "dyn", lambda: linear(x, packed, False), "float32"
        )

    return make


def torch_pointwise(kind: str) -> Callable[[Product], Entrant]:
    """The operator that torch's exported (PT2E) models call."""

    def make(p: Product) -> Entrant:
        torch = torch_module()
        w = torch.ops.onednn.qlinear_prepack(torch.from_numpy(p.w_t), list(p.a.shape))
        x, w_scale = torch.from_numpy(p.a), torch.from_numpy(p.w_scale)
        w_zero_point = torch.zeros(p.shape[1], dtype=torch.int64)
        scale, zero_point, dtype = (
            (float(p.y_scale), Y_ZERO_POINT, torch.uint8)
            if kind == "u8"
            else (1.0, 0, torch.float32)
        )
        linear, x_scale = torch.ops.onednn.qlinear_pointwise.default, float(X_SCALE)
        return torch_entrant(
            f"torch_pointwise_{kind}",
            kind,
            lambda: linear(
                x,
                x_scale,
                X_ZERO_POINT,
                w,
                w_scale,
                w_zero_point,
                None,
                scale,
                zero_point,
                dtype,
                "none",
                [],
                "",
            ),
        )

    return make


def torch_quantize(e: Elements) -> Entrant:
    torch, x = torch_module(), torch_module().from_numpy(e.x)
    return torch_entrant(
        "torch_quantize",
        "quantize",
        lambda: torch.quantize_per_tensor(x, float(X_SCALE), X_ZERO_POINT, torch.quint8),
    )


def torch_quantize_channels(e: Elements) -> Entrant:
    torch, x = torch_module(), torch_module().from_numpy(e.x)
    scales, zero_points = torch.from_numpy(e.scales), torch.from_numpy(e.zero_points)
    return torch_entrant(
        "torch_quantize_channels",
        "quantize_channels",
        lambda: torch.quantize_per_channel(x, scales, zero_points, 0, torch.quint8),
    )


def torch_dequantize(e: Elements) -> Entrant:
    q = torch_module()._make_per_tensor_quantized_tensor(
        torch_module().from_numpy(e.codes), float(X_SCALE), X_ZERO_POINT
    )
    return torch_entrant("torch_dequantize", "dequantize", q.dequantize)


def torch_dequantize_channels(e: Elements) -> Entrant:
    torch = torch_module()
    q = torch._make_per_channel_quantized_tensor(
        torch.from_numpy(e.codes),
        torch.from_numpy(e.scales).double(),
        torch.from_numpy(e.zero_points).long(),
        0,
    )
    return torch_entrant("torch_dequantize_channels", "dequantize_channels", q.dequantize)


def torch_requantize(e: Elements) -> Entrant:
    """torch has no operator for it: to float32, then quantized."""
    torch, sums = torch_module(), torch_module().from_numpy(e.sums)
    scale = 1 / float(e.multiplier)
    return torch_entrant(
        "torch_requantize",
        "requantize",
        lambda: torch.quantize_per_tensor(sums.float(), scale, X_ZERO_POINT, torch.quint8),
    )


# onnxruntime -------------------------------------------------------------------------------------


@cache
def _session_options() -> Any:
    options = importlib.import_module("onnxruntime").SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def onnx_model(
    kind: str,
    nodes: Sequence[Node],
    feeds: Mapping[str, Array],
    constants: Mapping[str, Array],
    out: Array,
) -> bytes:
    """A model of a few nodes, each (operator, "inputs -> output", attributes); _ is no input."""
    onnx = importlib.import_module("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper

    def value(label: str, array: Array) -> Any:
        element = helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_tensor_value_info(label, element, array.shape)

    made = []
    for operator, wiring, attributes in nodes:
        inputs, output = wiring.split(" -> ")
        names = ["" if label == "_" else label for label in inputs.split()]
        made.append(helper.make_node(operator, names, [output], **attributes))
    graph = helper.make_graph(
        made,
        kind,
        [value(label, array) for label, array in feeds.items()],
        [value("y", out)],
        [numpy_helper.from_array(array, label) for label, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return model


def onnx_entrant(
    name: str,
    kind: str,
    nodes: Sequence[Node],
    feeds: Mapping[str, Array],
    constants: Mapping[str, Array],
    out: Array,
    answer: str = "",
    bound: bool = True,
) -> Entrant:
    """A model for onnxruntime; its buffers bound, or its result a new array in every call."""
    ort = importlib.import_module("onnxruntime")
    session = ort.InferenceSession(
        onnx_model(kind, nodes, feeds, constants, out),
        _session_options(),
        providers=["CPUExecutionProvider"],
    )

    def fresh() -> Array:
        return np.asarray(session.run(None, feeds)[0])

    if not bound:
        return Entrant(name, kind, "onnxruntime", fresh, fresh, answer=answer)
    binding = session.io_binding()
    for label, array in feeds.items():
        binding.bind_ortvalue_input(label, ort.OrtValue.ortvalue_from_numpy(array))
    y = ort.OrtValue.ortvalue_from_numpy(out)
    binding.bind_ortvalue_output("y", y)

    def result() -> Array:
        session.run_with_iobinding(binding)
        return np.asarray(y.numpy())

    return Entrant(
        name,
        kind,
        "onnxruntime",
        lambda: session.run_with_iobinding(binding),
        result,
        answer=answer,
    )


def _out(p: Product, dtype: type[np.generic]) -> Array:
    return np.zeros((p.shape[0], p.shape[1]), dtype)


def onnx_matmul_integer(p: Product) -> Entrant:
    return onnx_entrant(
        "onnx_matmul_integer",
        "s32",
        [("MatMulInteger", "x w -> y", {})],
        {"x": p.a},
        {"w": p.w},
        _out(p, np.int32),
    )


def onnx_matmul_unpacked(p: Product) -> Entrant:
    return onnx_entrant(
        "onnx_matmul_unpacked",
        "runtime",
        [("MatMulInteger", "x w -> y", {})],
        {"x": p.a, "w": p.w},
        {},
        _out(p, np.int32),
    )


def _x_parameters() -> dict[str, Array]:
    return {"xs": np.array(X_SCALE), "xz": np.array(X_ZERO_POINT, np.uint8)}


def onnx_qlinear_matmul(p: Product) -> Entrant:
    constants = _x_parameters() | {
        "w": p.w,
        "ws": p.w_scale,
        "wz": np.zeros(p.shape[1], np.int8),
        "ys": np.array(p.y_scale),
        "yz": np.array(Y_ZERO_POINT, np.uint8),
    }
    return onnx_entrant(
        "onnx_qlinear_matmul",
        "u8",
        [("QLinearMatMul", "x xs xz w ws wz ys yz -> y", {})],
        {"x": p.a},
        constants,
        _out(p, np.uint8),
    )


def onnx_integer_to_float(p: Product) -> Entrant:
    constants = _x_parameters() | {"w": p.w, "ws": p.w_scale}
    return onnx_entrant(
        "onnx_integer_to_float",
        "f32",
        [("MatMulIntegerToFloat", "x w xs ws xz -> y", {"domain": "com.microsoft"})],
        {"x": p.a},
        constants,
        _out(p, np.float32),
    )


def onnx_dynamic(p: Product) -> Entrant:
    return onnx_entrant(
        "onnx_dynamic",
        "dyn",
        [("DynamicQuantizeMatMul", "x w ws -> y", {"domain": "com.microsoft"})],
        {"x": p.x},
        {"w": p.w, "ws": p.w_scale},
        _out(p, np.float32),
        "float32",
    )


def _row_parameters(e: Elements) -> dict[str, Array]:
    return {"s": e.scales, "z": e.zero_points.astype(np.uint8)}


def _tensor_parameters() -> dict[str, Array]:
    return {"s": np.array(X_SCALE), "z": np.array(X_ZERO_POINT, np.uint8)}


def onnx_quantize(e: Elements) -> Entrant:
    return onnx_entrant(
        "onnx_quantize",
        "quantize",
        [("QuantizeLinear", "x s z -> y", {})],
        {"x": e.x},
        _tensor_parameters(),
        np.zeros_like(e.codes),
        bound=False,  # as oc.quantize, which gives a new QTensor
    )


def onnx_quantize_channels(e: Elements) -> Entrant:
    return onnx_entrant(
        "onnx_quantize_channels",
        "quantize_channels",
        [("QuantizeLinear", "x s z -> y", {"axis": 0})],
        {"x": e.x},
        _row_parameters(e),
        np.zeros_like(e.codes),
        bound=False,  # as oc.quantize, which gives a new QTensor
    )


def onnx_dequantize(e: Elements) -> Entrant:
    return onnx_entrant(
        "onnx_dequantize",
        "dequantize",
        [("DequantizeLinear", "x s z -> y", {})],
        {"x": e.codes},
        _tensor_parameters(),
        np.zeros_like(e.x),
    )


def onnx_dequantize_channels(e: Elements) -> Entrant:
    return onnx_entrant(
        "onnx_dequantize_channels",
        "dequantize_channels",
        [("DequantizeLinear", "x s z -> y", {"axis": 0})],
        {"x": e.codes},
        _row_parameters(e),
        np.zeros_like(e.x),
    )


def onnx_requantize(e: Elements) -> Entrant:
    """Two nodes, as no operator does it alone."""
    constants = _tensor_parameters() | {"m": np.array(e.multiplier), "one": np.array(np.float32(1))}
    return onnx_entrant(
        "onnx_requantize",
        "requantize",
        [("DequantizeLinear", "x m -> r", {}), ("QuantizeLinear", "r one z -> y", {})],
        {"x": e.sums},
        constants,
        np.zeros_like(e.codes),
    )


# numkong -----------------------------------------------------------------------------------------


def numkong_dots(p: Product) -> Entrant:
    numkong = importlib.import_module("numkong")
    packed = numkong.dots_pack(p.w_t)
    a, out = p.a_signed, numkong.zeros((p.shape[0], p.shape[1]), dtype="int32")

    def result() -> Array:
        return np.asarray(numkong.dots_packed(a, packed, out=out))

    return Entrant(
        "numkong_dots",
        "s32",
        "numkong",
        lambda: numkong.dots_packed(a, packed, out=out),
        result,
        answer="signed",
    )


PRODUCTS: dict[str, list[Callable[[Product], Entrant]]] = {
    "numpy": [numpy_float32],
    "torch": [
        torch_float32,
        torch_int_mm,
        torch_linear("x86"),
        torch_linear("onednn"),
        torch_pointwise("u8"),
        torch_pointwise("f32"),
        torch_dynamic("x86"),
        torch_dynamic("onednn"),
    ],
    "onnxruntime": [
        onnx_matmul_integer,
        onnx_matmul_unpacked,
        onnx_qlinear_matmul,
        onnx_integer_to_float,
        onnx_dynamic,
    ],
    "numkong": [numkong_dots],
}
ELEMENTS: dict[str, list[Callable[[Elements], Entrant]]] = {
    "numpy": [numpy_quantize],
    "torch": [
        torch_quantize,
        torch_quantize_channels,
        torch_dequantize,
        torch_dequantize_channels,
        torch_requantize,
    ],
    "onnxruntime": [
        onnx_quantize,
        onnx_quantize_channels,
        onnx_dequantize,
        onnx_dequantize_channels,
        onnx_requantize,
    ],
}
