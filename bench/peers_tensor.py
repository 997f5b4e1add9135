"""The operators between convolutions in other libraries, uint8 in and out, channels last where
the library has that, else both ways that it has.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from operands import Array
from operands_tensor import ALPHA, A, B, Quantization, TensorOperands
from peers import Absent, Node, onnx_entrant, torch_entrant, torch_module
from peers_conv import TO_NCHW, channels_last
from rounds import Entrant

MICROSOFT = {"domain": "com.microsoft"}


def numpy_way(p: TensorOperands) -> Entrant:
    """Where NumPy has it in 8 bits: concatenation, and a table of 256 codes."""
    kind, out = p.op.kind, np.empty_like(p.answer)
    if kind == "concat":
        arrays = [p.a, p.b]

        def call() -> Array:
            return np.concatenate(arrays, axis=3, out=out)
    elif kind in ("sigmoid", "hard_swish", "leaky_relu"):
        table = np.zeros(256, np.uint8)
        table[p.a.reshape(-1)] = p.answer.reshape(-1)

        def call() -> Array:
            return table.take(p.a, out=out, mode="clip")
    else:
        raise Absent("8-bit " + kind)
    return Entrant(f"numpy_{kind}", kind, "numpy", call, call)


# torch -------------------------------------------------------------------------------------------


def torch_quantized(p: TensorOperands) -> Entrant:
    """The operator of torch's eager quantization."""
    torch, op = torch_module(), p.op
    functional, quantized = torch.nn.functional, torch.ops.quantized

    def tensor(codes: Array, how: Quantization) -> Any:
        image = torch.from_numpy(codes).permute(TO_NCHW)
        return torch._make_per_tensor_quantized_tensor(image, float(how[0]), how[1])

    a = tensor(p.a, A)
    b = tensor(p.b, A if op.kind == "concat" else B)
    both = [a, b]
    scale, zero_point = float(p.result[0]), p.result[1]
    window = op.window
    calls: dict[str, Callable[[], Any]] = {
        "add": lambda: quantized.add(a, b, scale, zero_point),
        "multiply": lambda: quantized.mul(a, b, scale, zero_point),
        "scale_channels": lambda: quantized.mul(a, b, scale, zero_point),
        "max_pool": lambda: torch.max_pool2d(a, *window),
        "average_pool": lambda: functional.avg_pool2d(a, *window, False, False),
        "global_average_pool": lambda: functional.adaptive_avg_pool2d(a, 1),
        "concat": lambda: quantized.cat(both, 1, scale, zero_point),
        "concat_rescaled": lambda: quantized.cat(both, 1, scale, zero_point),
        "resize_nearest": lambda: functional.interpolate(a, scale_factor=2, mode="nearest"),
        "resize_linear": lambda: functional.interpolate(a, scale_factor=2, mode="bilinear"),
        "sigmoid": lambda: quantized.sigmoid(a, scale, zero_point),
        "hard_swish": lambda: quantized.hardswish(a, scale, zero_point),
        "leaky_relu": lambda: quantized.leaky_relu(a, ALPHA, False, scale, zero_point),
    }
    made = torch_entrant(f"torch_{op.kind}", op.kind, calls[op.kind])
    return channels_last(made)


def torch_bytes(p: TensorOperands) -> Entrant:
    """Plain uint8 tensors, where the result's codes are those of the operand."""
    torch, kind = torch_module(), p.op.kind
    a, b = (torch.from_numpy(codes).permute(TO_NCHW) for codes in (p.a, p.b))
    interpolate, both = torch.nn.functional.interpolate, [a, b]
    calls: dict[str, Callable[[], Any]] = {
        "concat": lambda: torch.cat(both, 1),
        "resize_nearest": lambda: interpolate(a, scale_factor=2, mode="nearest"),
        "resize_linear": lambda: interpolate(a, scale_factor=2, mode="bilinear"),
    }
    if kind not in calls:
        raise Absent(f"{kind} of plain uint8")
    return channels_last(torch_entrant(f"torch_bytes_{kind}", kind, calls[kind]))


# onnxruntime -------------------------------------------------------------------------------------


def _parameters(p: TensorOperands) -> dict[str, Array]:
    constants: dict[str, Array] = {}
    for label, (scale, zero_point) in (
        ("a", A),
        ("b", A if p.op.kind == "concat" else B),
        ("y", p.result),
    ):
        constants |= {f"{label}s": np.array(scale), f"{label}z": np.array(zero_point, np.uint8)}
    return constants


def onnx_quantized(nhwc: bool) -> Callable[[TensorOperands], Entrant]:
    def make(p: TensorOperands) -> Entrant:
        kind, (kernel, stride, padding) = p.op.kind, p.op.window
        if kind.startswith("concat") and not nhwc:
            raise Absent("channels first it is two copies: other work")
        last = {"channels_last": int(nhwc)}
        window = {
            "kernel_shape": [kernel] * 2,
            "strides": [stride] * 2,
            "pads": [padding] * 4,
        }
        ratios = np.array([1, 2, 2, 1] if nhwc else [1, 1, 2, 2], np.float32)
        axis = {"axis": 3 if nhwc else 1}
        nearest = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
        pool = ("NhwcMaxPool", window | MICROSOFT) if nhwc else ("MaxPool", window)
        single, pair = "a as az ys yz -> y", "a as az b bs bz ys yz -> y"
        average = MICROSOFT | last
        ways: dict[str, list[Node]] = {
            "add": [("QLinearAdd", pair, MICROSOFT)],
            "multiply": [("QLinearMul", pair, MICROSOFT)],
            "scale_channels": [("QLinearMul", pair, MICROSOFT)],
            "max_pool": [(pool[0], "a -> y", pool[1])],
            "average_pool": [("QLinearAveragePool", single, average | window)],
            "global_average_pool": [("QLinearGlobalAveragePool", single, average)],
            "concat": [("Concat", "a b -> y", axis)],
            "concat_rescaled": [("QLinearConcat", "ys yz a as az b bs bz -> y", MICROSOFT | axis)],
            "resize_nearest": [("Resize", "a _ ratios -> y", nearest)],
            "resize_linear": [("Resize", "a _ ratios -> y", {"mode": "linear"})],
            "sigmoid": [("QLinearSigmoid", single, MICROSOFT)],
            "leaky_relu": [("QLinearLeakyRelu", single, MICROSOFT | {"alpha": ALPHA})],
            "hard_swish": [
                ("DequantizeLinear", "a as az -> real", {}),
                ("HardSwish", "real -> active", {}),
                ("QuantizeLinear", "active ys yz -> y", {}),
            ],
        }
        inputs = " ".join(wiring.split(" -> ")[0] for _, wiring, _ in ways[kind]).split()
        feeds, out = {"a": p.a}, np.zeros_like(p.answer)
        if "b" in inputs:
            feeds["b"] = p.b
        if not nhwc:
            feeds = {k: np.ascontiguousarray(v.transpose(TO_NCHW)) for k, v in feeds.items()}
            out = np.ascontiguousarray(out.transpose(TO_NCHW))
        constants = _parameters(p) | {"ratios": ratios}
        used = {label: array for label, array in constants.items() if label in inputs}
        name = f"onnx_{kind}_{'nhwc' if nhwc else 'nchw'}"
        made = onnx_entrant(name, kind, ways[kind], feeds, used, out)
        return made if nhwc else channels_last(made)

    return make


TENSOR_OPS: dict[str, list[Callable[[TensorOperands], Entrant]]] = {
    "numpy": [numpy_way],
    "torch": [torch_quantized, torch_bytes],
    "onnxruntime": [onnx_quantized(False), onnx_quantized(True)],
}
