"""PyTorch's modules as models: exported by torch itself, layers named as the module names them."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from octavo.errors import ModelError
from octavo.graph import load
from octavo.graph.ir import unique_names
from octavo.graph.model import Model
from octavo.graph.onnx_reader import import_onnx
from octavo.strategy.precisions import Precision
from octavo.strategy.ptq import quantize_model

# What a layer is named after in ONNX: a list of modules' names, the operator's name at its end.
_SCOPES = "pkg.torch.onnx.name_scopes"
# Of several operators that a module becomes, the one that is named as the module is.
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "Gather", "GRU", "LSTM", "MatMul", "RNN"})

Dynamic = Mapping[str, Mapping[int, str]]


def from_torch(
    module: Any,
    example: Any,
    data: Any = None,
    *,
    precision: Precision | None = None,
    dynamic: Dynamic | None = None,
    **options: Any,
) -> Model:
    """Turn a PyTorch module into a model, through ``torch.onnx.export``.

    The module is exported as it computes in eval mode; it is left in the mode it was in. Where the
    package onnxscript is missing, torch's older exporter does it, which follows one call: what
    Python decides on the way, and sizes that it computes with, are fixed in the model.

    Parameters
    ----------
    module : torch.nn.Module
        What it returns is one tensor, or a tuple, list or dict of tensors, nested too.
    example : tensor, array, tuple or dict
        What the module is called with: its argument, a tuple of its arguments, or a dict of them by
        name. Tensors and arrays become the model's inputs, named as the arguments of ``forward``
        are; those inside an argument that is a tuple, list or dict have their index or key behind
        it (``state_0``). Anything else is a constant of the model.
    data : Dataset, or what `octavo.Dataset` takes, optional
        Samples to calibrate with; the model is quantized then.
    precision : str or dict, optional
        As `octavo.quantize_model` says: "int8" with data. Given without data, weights alone are
        quantized; if neither is given, the model stays as it is. Layers have their module's names:
        ``{"*": "int8", "head": "float32"}``.
    dynamic : dict of dict, optional
        Which axes are free, by input and axis, and what they are called:
        ``{"ids": {0: "batch", 1: "length"}}``; axes of one name are of one size. By default axis 0
        of the first input, and of all that are as long there, is the batch. ``{}``: none.
    **options
        For `octavo.quantize_model`.

    Returns
    -------
    Model
        Its outputs are named "output", or "output_0", "output_1", or by the keys of a dict.

    Raises
    ------
    ModelError
        What torch cannot export, or only with an axis fixed that `dynamic` frees.
    ValueError, TypeError
        No module; an example that does not fit `forward`, or holds no tensor; what `quantize_model`
        refuses.
    ImportError
        The packages torch and onnx are not installed (the extra "torch").
    """
    torch = _import_torch()
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module is {type(module).__name__}, expected torch.nn.Module")
    if data is None and precision is None and options:
        raise TypeError(f"{min(options)!r} is given, and neither data nor a precision")
    args, kwargs, named = _bound(torch, module, example)
    inputs = {name: each for name, each in _leaves("", named) if isinstance(each, torch.Tensor)}
    if not inputs:
        raise ValueError("example holds no tensor, expected one for each input")
    axes = _free_axes(inputs, dynamic)
    with _evaluating(torch, module):
        found = _leaves("", module(*args, **kwargs))
        outputs = [name for name, each in found if isinstance(each, torch.Tensor)]
        model = _exported(torch, _flat(torch, module, args, kwargs), inputs, outputs, axes)
    if data is None and precision is None:
        return model
    return quantize_model(model, data, "int8" if precision is None else precision, **options)


def _import_torch() -> Any:
    try:
        importlib.import_module("onnx")
        return importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(
            "PyTorch's modules need the packages torch and onnx: pip install 'octavo[torch]'"
        ) from error


@contextmanager
def _evaluating(torch: Any, module: Any) -> Iterator[None]:
    """Eval mode without gradients; each submodule gets its own mode back."""
    modes = [(each, each.training) for each in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()  # has operators that ONNX has not
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for each, mode in modes:
            each.training = mode


# --- inputs ---------------------------------------------------------------------------------------


def _bound(
    torch: Any, module: Any, example: Any
) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    """Return how the module is called, and the same values by the names of its parameters."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, Mapping):
        kwargs = {str(name): _as_tensors(torch, each) for name, each in example.items()}
    else:
        given = example if isinstance(example, tuple) else (example,)
        args = tuple(_as_tensors(torch, each) for each in given)
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"example does not fit {type(module).__name__}.forward: {error}") from error
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        named |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return bound.args, bound.kwargs, named


def _as_tensors(torch: Any, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, tuple | list):
        made = [_as_tensors(torch, each) for each in value]
        return made if isinstance(value, list) else tuple(made)
    if isinstance(value, Mapping):
        return {name: _as_tensors(torch, each) for name, each in value.items()}
    return value


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Each value in tuples, lists and dicts, named by the way to it."""
    if isinstance(value, Mapping):
        parts: Any = value.items()
    elif isinstance(value, tuple | list):
        parts = enumerate(value)
    else:
        yield name, value
        return
    for key, each in parts:
        yield from _leaves(f"{name}_{key}" if name else str(key), each)


def _free_axes(inputs: Mapping[str, Any], dynamic: Dynamic | None) -> dict[str, dict[int, str]]:
    if dynamic is None:
        sizes = {name: len(each) for name, each in inputs.items() if each.ndim}
        first = next(iter(sizes.values()), None)
        return {name: {0: "batch"} for name, size in sizes.items() if size == first}
    for name, axes in dynamic.items():
        if name not in inputs:
            raise ValueError(f"dynamic names {name!r}, expected inputs of {', '.join(inputs)}")
        for axis in axes:
            if not 0 <= axis < inputs[name].ndim:
                raise ValueError(
                    f"dynamic has axis {axis} of {name!r}, which has {inputs[name].ndim} axes"
                )
    return {name: dict(axes) for name, axes in dynamic.items()}


# --- export ---------------------------------------------------------------------------------------


def _flat(torch: Any, module: Any, args: Any, kwargs: Any) -> Any:
    """Return a module that calls `module`, of tensors alone: the exporters differ in the rest."""

    def filled(value: Any, tensors: Iterator[Any]) -> Any:
        if isinstance(value, Mapping):
            return {name: filled(each, tensors) for name, each in value.items()}
        if isinstance(value, tuple | list):
            made = [filled(each, tensors) for each in value]
            return made if isinstance(value, list) else tuple(made)
        return next(tensors) if isinstance(value, torch.Tensor) else value

    class Flat(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *tensors: Any) -> Any:
            given = iter(tensors)
            results = self.module(*filled(args, given), **filled(kwargs, given))
            return tuple(each for _, each in _leaves("", results) if isinstance(each, torch.Tensor))

    return Flat().eval()


def _exported(
    torch: Any,
    flat: Any,
    inputs: Mapping[str, Any],
    outputs: list[str],
    axes: dict[str, dict[int, str]],
) -> Model:
    onnx = import_onnx()
    numbered = [
        f"output_{name}".rstrip("_") if name[:1].isdigit() or not name else name for name in outputs
    ]
    names = unique_names([*inputs, *numbered])  # an output may have the name of an input
    how: dict[str, Any] = {"dynamo": False, "dynamic_axes": axes}
    if importlib.util.find_spec("onnxscript") is not None:
        how = {"dynamo": True}
        if axes:
            how["dynamic_shapes"] = (tuple(axes.get(name) for name in inputs),)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "module.onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            try:
                torch.onnx.export(
                    flat,
                    tuple(inputs.values()),
                    path,
                    input_names=names[: len(inputs)],
                    output_names=names[len(inputs) :],
                    verbose=False,
                    **how,
                )
            except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
                reason = " ".join(str(error.__cause__ or error).split())[:500]
                raise ModelError(
                    f"torch cannot export {type(flat.module).__name__} with the free axes {axes} "
                    f"(dynamic={{}} frees none): {reason}"
                ) from error
        proto = onnx.load(path, load_external_data=False)
        _name_layers(torch, proto.graph, dict(flat.named_modules()))
        onnx.save(proto, path)
        return load(path)


# --- names of layers ------------------------------------------------------------------------------


def _name_layers(torch: Any, graph: Any, modules: Mapping[str, Any]) -> None:
    """Name nodes after the modules they come from: one as the module, others with their operator.

    A node whose module is not known keeps its name.
    """
    weights = {each.name for each in graph.initializer}
    places = [_place(torch, node, modules, weights) for node in graph.node]
    positions = range(len(places))
    owners: dict[str, int] = {}
    # The first with weights, else the last: what is fused of several keeps the name of that.
    for wanted, order in ((_LAYERS, positions), (None, positions[::-1])):
        for i in order:
            place = places[i]
            # Inside the module that was given: it has no name itself, nor has what calls it.
            if place is None or not place.startswith("module."):
                continue
            fits = wanted is None or graph.node[i].op_type in wanted
            if fits and not any(modules[place].children()):
                owners.setdefault(place, i)
    others = [i for i in positions if i not in owners.values()]
    wanted_names = [*owners]
    for i in others:
        node, place = graph.node[i], places[i]
        wanted_names.append(node.name if place is None else f"{place}.{node.op_type}")
    names = unique_names(each.removeprefix("module").removeprefix(".") for each in wanted_names)
    for i, name in zip([*owners.values(), *others], names, strict=True):
        graph.node[i].name = name


def _place(torch: Any, node: Any, modules: Mapping[str, Any], weights: set[str]) -> str | None:
    """Return the name of the module that a node comes from, None if it is not known."""
    place = _scope(node)
    if place is None or place not in modules:
        return None
    norm = isinstance(modules[place], torch.nn.modules.batchnorm._NormBase)
    for name in node.input:
        owner: str = name.rpartition(".")[0]
        if name in weights and owner in modules:
            # A product that a module computes with a submodule's weights; or a convolution, which
            # exporters name after the batch norm that they have folded into it.
            below = owner.startswith(f"{place}.") if place else bool(owner)
            if below or (norm and node.op_type in _LAYERS):
                return owner
    return place


def _scope(node: Any) -> str | None:
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes = ast.literal_eval(entry.value)
            return str(scopes[-2]) if len(scopes) > 1 else None
    if not node.name.startswith("/"):
        return None
    # The older exporter's: /blocks/blocks.0/conv/Conv is of blocks.0.conv.
    path, last = "", ""
    parts: list[str] = node.name.split("/")[1:-1]
    for part in parts:
        if last and part.startswith(f"{last}."):
            path = path[: len(path) - len(last)] + part
        else:
            path = f"{path}.{part}" if path else part
        last = part
    return path
