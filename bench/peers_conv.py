"""Convolutions of other libraries: uint8 in and out, int8 weights by channel, or float32.

Every peer is asked in each of the ways that are fast for it: images channels last where it need
not convert them, weights packed ahead, bias and requantization fused.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from operands import X_SCALE, Y_ZERO_POINT, Array
from operands_conv import ConvOperands
from peers import Absent, Node, onnx_entrant, onnx_model, torch_entrant, torch_module
from rounds import Entrant

TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


def channels_last(entrant: Entrant) -> Entrant:
    """The same work, its result turned from (1, O, H, W) for the check."""
    return replace(entrant, result=lambda: entrant.result().transpose(TO_NHWC))


# torch -------------------------------------------------------------------------------------------


def _torch_image(p: ConvOperands) -> Any:
    """(1, C, H, W) with channels last in memory."""
    return torch_module().from_numpy(p.x).permute(TO_NCHW)


def _torch_quantized_image(p: ConvOperands) -> Any:
    return torch_module()._make_per_tensor_quantized_tensor(
        _torch_image(p), float(X_SCALE), p.x_zero_point
    )


def torch_float32(p: ConvOperands) -> Entrant:
    torch, s = torch_module(), p.shape
    x = torch.from_numpy(p.x_float).permute(TO_NCHW)
    w = torch.from_numpy(p.w_float).contiguous(memory_format=torch.channels_last)
    bias = torch.from_numpy(p.bias)
    if s.transposed:
        convolve, more = torch.conv_transpose2d, (s.stride, s.padding, 0, s.groups, s.dilation)
    else:
        convolve, more = torch.conv2d, (s.stride, s.padding, s.dilation, s.groups)
    return channels_last(
        torch_entrant("torch_float32", "float32", lambda: convolve(x, w, bias, *more))
    )


def torch_quantized(engine: str) -> Callable[[ConvOperands], Entrant]:
    """The operator of torch's eager quantization. It has no transposed one with scales by channel,
    so that is given one scale.
    """

    def make(p: ConvOperands) -> Entrant:
        torch, s = torch_module(), p.shape
        torch.backends.quantized.engine = engine
        x, w, bias = _torch_quantized_image(p), torch.from_numpy(p.w), torch.from_numpy(p.bias)
        scale, lists = float(p.y_scale), [list(v) for v in (s.stride, s.padding, s.dilation)]
        if s.transposed:
            w = torch._make_per_tensor_quantized_tensor(w, float(p.w_scale[0]), 0)
            packed = torch.ops.quantized.conv_transpose2d_prepack(
                w, bias, lists[0], lists[1], [0, 0], lists[2], s.groups
            )
            convolve, answer = torch.ops.quantized.conv_transpose2d, "u8_tensor"
        else:
            w = torch._make_per_channel_quantized_tensor(
                w,
                torch.from_numpy(p.w_scale).double(),
                torch.zeros(s.o, dtype=torch.int64),
                0,
            )
            packed = torch.ops.quantized.conv2d_prepack(w, bias, *lists, s.groups)
            convolve, answer = torch.ops.quantized.conv2d.new, "u8"
        return channels_last(
            torch_entrant(
                f"torch_{engine}", "u8", lambda: convolve(x, packed, scale, Y_ZERO_POINT), answer
            )
        )

    return make


def torch_pointwise(p: ConvOperands) -> Entrant:
    """The operator that torch's exported (PT2E) models call."""
    torch, s = torch_module(), p.shape
    if s.transposed:
        raise Absent("transposed qconv_pointwise")
    x, w_scale, bias = (
        _torch_image(p),
        torch.from_numpy(p.w_scale),
        torch.from_numpy(p.bias),
    )
    w_zero_point = torch.zeros(s.o, dtype=torch.int64)
    how = (list(s.stride), list(s.padding), list(s.dilation), s.groups)
    x_scale, y_scale, zero_point = float(X_SCALE), float(p.y_scale), p.x_zero_point
    w = torch.ops.onednn.qconv_prepack(
        torch.from_numpy(p.w), w_scale, x_scale, zero_point, *how, list(x.shape)
    )
    convolve = torch.ops.onednn.qconv2d_pointwise.default
    result = (y_scale, Y_ZERO_POINT, torch.uint8, "none", [], "")
    return channels_last(
        torch_entrant(
            "torch_pointwise",
            "u8",
            lambda: convolve(x, x_scale, zero_point, w, w_scale, w_zero_point, bias, *how, *result),
        )
    )


# onnxruntime and OpenVINO, from the same nodes -----------------------------------------------------


def _attributes(p: ConvOperands) -> dict[str, Any]:
    s = p.shape
    return {
        "strides": s.stride,
        "pads": s.padding * 2,
        "dilations": s.dilation,
        "group": s.groups,
    }


def _operator(p: ConvOperands) -> str:
    return "ConvTranspose" if p.shape.transposed else "Conv"


def _parameters(p: ConvOperands) -> dict[str, Array]:
    return {
        "xs": np.array(X_SCALE),
        "xz": np.array(p.x_zero_point, np.uint8),
        "w": p.w,
        "ws": p.w_scale,
        "wz": np.zeros(p.shape.o, np.int8),
        "ys": np.array(p.y_scale),
        "yz": np.array(Y_ZERO_POINT, np.uint8),
    }


def _out(p: ConvOperands, dtype: type[np.generic], nhwc: bool) -> Array:
    shape = (1, *p.shape.out, p.shape.o) if nhwc else (1, p.shape.o, *p.shape.out)
    return np.zeros(shape, dtype)


Model = tuple[Sequence[Node], Mapping[str, Array], Mapping[str, Array], Array]


def float_model(p: ConvOperands, nhwc: bool) -> Model:
    constants = {"w": p.w_float, "b": p.bias}
    x = p.x_float if nhwc else np.ascontiguousarray(p.x_float.transpose(TO_NCHW))
    nodes: list[Node] = [(_operator(p), "x w b -> y", _attributes(p))]
    if nhwc:
        nodes = [
            ("Transpose", "x -> xt", {"perm": TO_NCHW}),
            (_operator(p), "xt w b -> yt", _attributes(p)),
            ("Transpose", "yt -> y", {"perm": TO_NHWC}),
        ]
    return nodes, {"x": x}, constants, _out(p, np.float32, nhwc)


def qdq_model(p: ConvOperands, nhwc: bool) -> Model:
    """Dequantize, convolve, quantize. The axes are turned between these, where OpenVINO makes
    nothing of the turn and keeps the convolution in int8.
    """
    axis = 1 if p.shape.transposed else 0
    if p.shape.transposed and p.shape.groups > 1:
        raise Absent("QDQ scales by channel for grouped transposed weights")
    constants = _parameters(p) | {"b": p.bias}
    if not p.shape.transposed:
        constants |= {"b": p.bias_sums(p.w_scale), "bs": X_SCALE * p.w_scale}
        constants |= {"bz": np.zeros(p.shape.o, np.int32)}
    nodes: list[Node] = [
        ("DequantizeLinear", "x xs xz -> xf", {}),
        ("DequantizeLinear", "w ws wz -> wf", {"axis": axis}),
    ]
    bias = "b"
    if not p.shape.transposed:
        nodes.append(("DequantizeLinear", "b bs bz -> bf", {"axis": 0}))
        bias = "bf"
    if nhwc:
        nodes += [
            ("Transpose", "xf -> xt", {"perm": TO_NCHW}),
            (_operator(p), f"xt wf {bias} -> yt", _attributes(p)),
            ("Transpose", "yt -> yf", {"perm": TO_NHWC}),
        ]
    else:
        nodes.append((_operator(p), f"xf wf {bias} -> yf", _attributes(p)))
    nodes.append(("QuantizeLinear", "yf ys yz -> y", {}))
    x = p.x if nhwc else p.x_nchw
    return nodes, {"x": x}, constants, _out(p, np.uint8, nhwc)


def onnx_float32(p: ConvOperands) -> Entrant:
    return channels_last(onnx_entrant("onnx_float32", "float32", *float_model(p, False)))


def onnx_qlinear(nhwc: bool) -> Callable[[ConvOperands], Entrant]:
    """QLinearConv, or com.microsoft's with channels last; transposed there is only QDQ."""

    def make(p: ConvOperands) -> Entrant:
        name = f"onnx_{'nhwc' if nhwc else 'nchw'}"
        if p.shape.transposed:
            if nhwc:
                raise Absent("transposed QLinearConv")
            return channels_last(onnx_entrant("onnx_qdq", "u8", *qdq_model(p, False)))
        attributes = _attributes(p)
        if nhwc:
            attributes |= {"domain": "com.microsoft", "channels_last": 1}
        made = onnx_entrant(
            name,
            "u8",
            [("QLinearConv", "x xs xz w ws wz ys yz b -> y", attributes)],
            {"x": p.x if nhwc else p.x_nchw},
            _parameters(p) | {"b": p.bias_sums(p.w_scale)},
            _out(p, np.uint8, nhwc),
        )
        return made if nhwc else channels_last(made)

    return make


@cache
def _openvino_core() -> Any:
    return importlib.import_module("openvino").Core()


def openvino(kind: str, nhwc: bool) -> Callable[[ConvOperands], Entrant]:
    def make(p: ConvOperands) -> Entrant:
        ov, core = importlib.import_module("openvino"), _openvino_core()
        make_model = float_model if kind == "float32" else qdq_model
        nodes, feeds, constants, out = make_model(p, nhwc)
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch_module().get_num_threads(),
            "ENABLE_CPU_PINNING": False,
        }
        model = core.read_model(onnx_model(kind, nodes, feeds, constants, out))
        request = core.compile_model(model, "CPU", config).create_infer_request()
        x = feeds["x"]
        request.set_input_tensor(ov.Tensor(x, shared_memory=True))
        request.set_output_tensor(ov.Tensor(out, shared_memory=True))

        def result(_keep: Array = x) -> Array:  # OpenVINO does not keep x alive
            request.infer()
            return out.copy()

        layout = "nhwc" if nhwc else "nchw"
        name = f"openvino_{'float32_' if kind == 'float32' else ''}{layout}"
        made = Entrant(name, kind, "openvino", request.infer, result)
        return made if nhwc else channels_last(made)

    return make


CONVOLUTIONS: dict[str, list[Callable[[ConvOperands], Entrant]]] = {
    "torch": [
        torch_float32,
        torch_quantized("x86"),
        torch_quantized("onednn"),
        torch_quantized("fbgemm"),
        torch_pointwise,
    ],
    "onnxruntime": [onnx_float32, onnx_qlinear(False), onnx_qlinear(True)],
    "openvino": [
        openvino("float32", False),
        openvino("float32", True),
        openvino("u8", False),
        openvino("u8", True),
    ],
}
