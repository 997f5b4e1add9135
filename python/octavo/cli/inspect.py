"""`octavo inspect`: what a model is made of, what runs each layer, and how large it is."""

from __future__ import annotations

import argparse

import octavo as oc
from octavo.cli import terminal
from octavo.graph import Value


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add `octavo inspect` to the parser."""
    parser = commands.add_parser(
        "inspect",
        parents=[common],
        help="layers, kernels and sizes of a model",
        description="Load a model (.onnx or .octavo) and print its inputs, outputs and layers: "
        "the operator, the kernel that runs it, and the bytes of its constants.",
    )
    parser.add_argument("model", metavar="MODEL", help="an .onnx or .octavo file")
    parser.add_argument("--layers", action="store_true", help="a line for each layer")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Load and print; return the exit status."""
    model = oc.load(options.model)
    layers, rows = model.layers, model.coverage().rows
    if options.json:
        terminal.print_json(
            {
                "inputs": [value._asdict() for value in model.inputs],
                "outputs": [value._asdict() for value in model.outputs],
                "layers": [layer._asdict() for layer in layers],
                "fallbacks": [row.operator for row in rows if row.fallback],
                "bytes": sum(layer.nbytes for layer in layers),
            }
        )
        return 0
    for kind, values in (("input", model.inputs), ("output", model.outputs)):
        for value in values:
            terminal.print_text(f"{kind:7} {describe(value)}")
    terminal.print_text()
    if options.layers:
        terminal.print_table(
            ("layer", "operator", "kernel", "constants"),
            [(each.name, each.operator, each.kernel, size(each.nbytes)) for each in layers],
        )
        terminal.print_text()
    sizes: dict[tuple[str, str], int] = {}
    for layer in layers:
        key = layer.operator, layer.kernel
        sizes[key] = sizes.get(key, 0) + layer.nbytes
    terminal.print_table(
        ("operator", "kernel", "layers", "constants"),
        [
            (
                row.operator,
                f"{row.kernel} (fallback)" if row.fallback else row.kernel,
                str(row.layers),
                size(sizes[row.operator, row.kernel]),
            )
            for row in rows
        ],
    )
    total = sum(layer.nbytes for layer in layers)
    terminal.print_text(f"\n{len(layers)} layers, {size(total)} of constants")
    return 0


def describe(value: Value) -> str:
    """Return a value's name, dtype and shape in a line.

    >>> describe(Value("x", "float32", ("n", None, 3)))
    'x: float32[n, ?, 3]'
    """
    if value.shape is None:
        return f"{value.name}: {value.dtype or '?'}"
    sizes = ", ".join("?" if each is None else str(each) for each in value.shape)
    return f"{value.name}: {value.dtype or '?'}[{sizes}]"


def size(count: int) -> str:
    """Return a number of bytes in the unit that keeps it readable.

    >>> size(0), size(999), size(123456), size(23456789)
    ('-', '999 B', '123 kB', '23.5 MB')
    """
    if not count:
        return "-"
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} B"
