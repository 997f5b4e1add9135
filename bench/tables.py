"""The records of compare.py as Markdown that also reads well on a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import bars
import shapes
from rounds import geometric_mean

Row = Mapping[str, Any]


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Columns in which nothing stands are left out."""
    columns = zip(header, *lines, strict=True)
    kept = [column for column in columns if set(column[1:]) - {"-", ""} or column[0] == ""]
    cells = list(zip(*kept, strict=True))
    widths = [max(len(line[i]) for line in cells) for i in range(len(kept))]

    def draw(line: Sequence[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        return "| " + " | ".join([first.strip().ljust(widths[0]), *others]) + " |"

    rule = (
        "|"
        + "|".join("-" * (w + 2 - (i > 0)) + (":" if i else "") for i, w in enumerate(widths))
        + "|"
    )
    return "\n".join([draw(cells[0]), rule, *map(draw, cells[1:])])


def interval(found: Mapping[str, float] | None) -> str:
    if not found:
        return "-"
    return f"{found['median']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def best(row: Row, kind: str, key: str, mine: bool) -> str:
    """The best figure of one side for one kind of product, with the peer's name."""
    found = [
        (entrant[key], name)
        for name, entrant in row["entrants"].items()
        if entrant["kind"] == kind
        and (entrant["library"] == "octavo") == mine
        and "_threads" not in name
    ]
    if not found:
        return "-"
    value, name = max(found) if key == "giga_a_second" else min(found)
    figure = f"{value:.0f}" if key == "giga_a_second" else f"{value:.2f}"
    return figure if mine or kind == "float32" else f"{figure} {short(name)}"


def short(name: str) -> str:
    """The peer's name, less the words that the column says already."""
    return (
        name.replace("torch_dynamic_", "torch_")
        .replace("pointwise_u8", "pointwise")
        .replace("pointwise_f32", "pointwise")
    )


def entrant(row: Row, name: str, key: str = "giga_a_second") -> str:
    found = row["entrants"].get(name)
    return "-" if not found else f"{found[key]:.0f}" if key[0] == "g" else f"{found[key]:.2f}"


def speeds(rows: Sequence[Row], key: str) -> str:
    header = ["M x N x K", "NumPy f32", "torch f32"]
    for kind in shapes.KINDS:
        header += [f"{kind} ours", "best peer"]

    def line(row: Row) -> list[str]:
        cells = [
            shapes.name(row["shape"]),
            entrant(row, "numpy_float32", key),
            entrant(row, "torch_float32", key),
        ]
        for kind in shapes.KINDS:
            cells += [best(row, kind, key, mine=True), best(row, kind, key, mine=False)]
        return cells

    return table(header, map(line, rows))


def ratios(rows: Sequence[Row]) -> str:
    kinds = ("s32", "u8", "f32", "dyn")
    header = [
        "M x N x K",
        *(f"{kind} over peer" for kind in kinds),
        "s32 over NumPy f32",
        "dyn over NumPy f32",
        "s32 of peak",
        "s32 of bandwidth",
        "run-time / packed",
        "packed bytes",
    ]

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    def line(row: Row) -> list[str]:
        return [
            shapes.name(row["shape"]),
            *(interval(row["over_peer"].get(k)) for k in kinds),
            *(interval(row["over_numpy"].get(k)) for k in ("s32", "dyn")),
            share(row["of_peak"].get("s32")),
            share(row["of_bandwidth"].get("s32")),
            interval(row["runtime_over_packed"]),
            share(row["packed_over_plain"]),
        ]

    def mean(label: str, rows: Sequence[Row]) -> list[str]:
        def cell(group: str, kind: str) -> str:
            found = [row[group][kind]["median"] for row in rows if kind in row[group]]
            return f"{geometric_mean(found):.2f}" if found else "-"

        over_numpy = (cell("over_numpy", kind) for kind in ("s32", "dyn"))
        return [label, *(cell("over_peer", kind) for kind in kinds), *over_numpy, "", "", "", ""]

    ordinary = [row for row in rows if bars.ordinary(row["shape"])]
    means = [mean("geometric mean", rows), mean("... without M = 1, 64^3", ordinary)]
    return table(header, [*map(line, rows), *means])


def scaling(rows: Sequence[Row]) -> str:
    return table(
        ["M x N x K", *(f"{kind}: threads" for kind in shapes.KINDS)],
        [
            [shapes.name(row["shape"]), *(interval(row["scaling"].get(k)) for k in shapes.KINDS)]
            for row in rows
        ],
    )


def elementwise(rows: Sequence[Row]) -> str:
    header = [
        "",
        "ours",
        "ours, out=",
        "NumPy",
        "torch",
        "onnxruntime",
        "copy",
        "ours over copy",
        "peer over ours",
        "best peer",
    ]

    def line(row: Row) -> list[str]:
        kind, peer = row["kind"], row["over_peer"]
        names = (
            f"octavo_{kind}",
            f"octavo_{kind}_out",
            f"numpy_{kind}",
            f"torch_{kind}",
            f"onnx_{kind}",
            f"copy_{kind}",
        )
        return [
            kind,
            *(entrant(row, name, "microseconds") for name in names),
            interval(row["over_copy"]),
            interval(peer),
            peer["peer"] if peer else "-",
        ]

    return table(header, map(line, rows))


def fastest(row: Row, kind: str, mine: bool) -> str:
    """The least time of one side, with the peer's name; * where its result is not right."""
    found = [
        (entrant["microseconds"], name, entrant["error"])
        for name, entrant in row["entrants"].items()
        if entrant["kind"] == kind
        and (entrant["library"] == "octavo") == mine
        and entrant["library"] != "copy"
        and "_threads" not in name
    ]
    if not found:
        return "-"
    time, name, error = min(found)
    return f"{time:.1f}" + ("" if mine else f" {name}{'*' if kind == 'u8' and error > 1 else ''}")


def convolutions(rows: Sequence[Row]) -> str:
    header = ["", "ours", "best int8 peer", "over peer", "best float32", "over float32"]
    header += ["G", "of peak", "threads"]

    def line(row: Row) -> list[str]:
        ours = row["entrants"].get("octavo_u8")
        return [
            row["name"],
            fastest(row, "u8", mine=True),
            fastest(row, "u8", mine=False),
            interval(row["over_peer"]),
            fastest(row, "float32", mine=False),
            interval(row["over_float32"]),
            f"{ours['giga_a_second']:.0f}" if ours else "-",
            f"{row['of_peak']:.2f}" if ours else "-",
            interval(row["scaling"]),
        ]

    return table(header, map(line, rows))


def conv_means(rows: Sequence[Row]) -> str:
    """Each class of convolutions: the geometric mean and the least."""
    groups = ("over_peer", "over_torch", "over_float32", "scaling")
    header = ["geometric mean (least)", "shapes", *(g.replace("_", " ") for g in groups)]

    def cell(found: Sequence[Row], group: str) -> str:
        mean = bars.conv_mean(found, group)
        if mean is None:
            return "-"
        return f"{mean:.2f} ({min(row[group]['median'] for row in found if row[group]):.2f})"

    return table(
        header,
        [
            [name, str(len(found)), *(cell(found, group) for group in groups)]
            for name, found in bars.by_class(rows).items()
        ],
    )


def tensor(rows: Sequence[Row]) -> str:
    return table(
        ["", "ours", "best peer", "over peer", "copy", "ours over copy", "bound by memory"],
        [
            [
                row["name"],
                fastest(row, row["kind"], mine=True),
                fastest(row, row["kind"], mine=False),
                interval(row["over_peer"]),
                f"{row['entrants']['copy_' + row['kind']]['microseconds']:.1f}",
                interval(row["over_copy"]),
                "yes" if row["bound"] else "",
            ]
            for row in rows
        ],
    )


def verdicts(found: Sequence[bars.Bar]) -> str:
    return table(
        ["bar", "need", "reached", "where", ""],
        [
            [
                bar.what,
                f"{'<=' if bar.at_most else '>='} {bar.need:.2f}",
                f"{bar.reached:.2f}",
                bar.where,
                "pass" if bar.passed else "SHORT",
            ]
            for bar in found
        ],
    )


def document(
    about: Mapping[str, object],
    rows: Sequence[Row],
    found: Sequence[bars.Bar],
    notes: Sequence[str],
) -> str:
    parts = [
        "## Octavo beside NumPy and other int8 libraries",
        "\n".join(f"- {key}: {value}" for key, value in about.items()),
    ]
    products = [row for row in rows if row["table"] == "products"]
    calls = [row for row in rows if row["table"] == "calls"]
    elements = [row for row in rows if row["table"] == "elementwise"]
    if products:
        parts += [
            "### Products, 10^9 multiply-accumulates per second",
            speeds(products, "giga_a_second"),
            "### Ratios (median of the rounds, 95 % interval)",
            ratios(products),
        ]
        ceilings = [row["ceilings"] for row in products if row.get("ceilings")]
        if ceilings:
            peak = max(c["peak"] for c in ceilings)
            parts.append(
                f"Peak in registers, one thread: {peak / 1e9:.0f} G. Read bandwidth: "
                + (
                    ", ".join(
                        f"{shapes.name(row['shape'])} {row['ceilings']['bandwidth'] / 1e9:.0f} GB/s"
                        for row in products
                        if "bandwidth" in row.get("ceilings", {})
                    )
                    or "-"
                )
                + "."
            )
        if any(row["scaling"] for row in products):
            parts += ["### Speed-up over fewer threads", scaling(products)]
    if calls:
        parts += ["### Calls from Python, microseconds", speeds(calls, "microseconds")]
    if elements:
        parts += [
            f"### Elementwise, {shapes.ELEMENTS[0] * shapes.ELEMENTS[1]} values, microseconds",
            elementwise(elements),
        ]
    conv = [row for row in rows if row["table"] == "conv"]
    if conv:
        for source in dict.fromkeys(row["source"] for row in conv):
            parts += [
                f"### Convolutions ({source}), microseconds",
                convolutions([row for row in conv if row["source"] == source]),
            ]
        parts += ["### Convolutions by class", conv_means(conv)]
    operators = [row for row in rows if row["table"] == "tensor"]
    if operators:
        parts += ["### 8-bit operators, microseconds", tensor(operators)]
    if found:
        short_of = sum(not bar.passed for bar in found)
        parts += [f"### Bars: {len(found) - short_of} pass, {short_of} short", verdicts(found)]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts)
