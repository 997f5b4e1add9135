"""What the figures must reach, and whether they do.

A row here is a record of compare.py: shape, ratios over the best peer by kind, and so on. A bar
whose shapes were not timed is left out. "No slower" means 0.98: what lies closer is noise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rounds import geometric_mean
from shapes import Shape

Row = Mapping[str, Any]
NO_SLOWER = 0.98
# The mean that each kind must reach, and the shapes that it is taken over.
MEANS = {"s32": 1.10, "u8": 1.15, "dyn": 1.20}
ORDINARY_MEANS = {"s32"}
COMPUTE_BOUND = {
    (256, 256, 256),
    (512, 512, 512),
    (1024, 1024, 1024),
    (128, 768, 768),
    (128, 3072, 768),
    (128, 768, 3072),
}


@dataclass(frozen=True)
class Bar:
    what: str
    need: float
    reached: float
    where: str = ""
    at_most: bool = False

    @property
    def passed(self) -> bool:
        return self.reached <= self.need if self.at_most else self.reached >= self.need


def macs(shape: Shape) -> int:
    return shape[0] * shape[1] * shape[2]


def ordinary(shape: Shape) -> bool:
    """Neither matrix-vector nor as small as the call itself."""
    return shape[0] > 1 and shape != (64, 64, 64)


def worst(
    rows: Sequence[Row],
    what: str,
    need: float,
    value: Callable[[Row], float | None],
    fits: Callable[[Shape], bool] | None = None,
) -> list[Bar]:
    """A bar that every shape that fits must pass, with the one that comes last."""
    found = [
        (v, row["name"])
        for row in rows
        if (fits is None or fits(row["shape"])) and (v := value(row)) is not None
    ]
    return [Bar(what, need, *min(found))] if found else []


def median_of(group: str, kind: str) -> Callable[[Row], float | None]:
    return lambda row: row[group][kind]["median"] if kind in row[group] else None


def mean_over_peer(rows: Sequence[Row], kind: str) -> float | None:
    found = [
        row["over_peer"][kind]["median"]
        for row in rows
        if kind in row["over_peer"] and (kind not in ORDINARY_MEANS or ordinary(row["shape"]))
    ]
    return geometric_mean(found) if found else None


def matrix_vector(kind: str) -> Callable[[Row], float | None]:
    """1 where a product of one row is 1.25x the best peer or reads at 0.95 of the bandwidth."""

    def value(row: Row) -> float | None:
        reached = [
            v / need
            for v, need in (
                (median_of("over_peer", kind)(row), 1.25),
                (row["of_bandwidth"].get(kind), 0.95),
            )
            if v
        ]
        return max(reached, default=None)

    return value


def products(rows: Sequence[Row], isa: str, threads: int) -> list[Bar]:
    if threads > 1:
        bars = []
        for kind in ("s32", "u8", "f32", "dyn"):
            scaling = median_of("scaling", kind)
            if threads == 2:
                bars += worst(
                    rows,
                    f"{kind}: two threads over one, 512^3 and above",
                    1.9,
                    scaling,
                    lambda s: s[0] > 1 and macs(s) >= 512**3,
                )
            bars += worst(rows, f"{kind}: no shape slower than one thread", NO_SLOWER, scaling)
        return bars

    def of_peak(row: Row) -> float | None:
        share: float | None = row["of_peak"].get("s32")
        return share

    def packing(row: Row) -> float | None:
        return row["runtime_over_packed"]["median"] if row["runtime_over_packed"] else None

    over_float32 = median_of("over_numpy", "s32")

    bars = []
    cube = {(512, 512, 512)}
    if isa == "avx512vnni":
        for kind, need in MEANS.items():
            bars += worst(
                rows,
                f"{kind}: every shape over the best peer",
                NO_SLOWER,
                median_of("over_peer", kind),
            )
            mean = mean_over_peer(rows, kind)
            if mean is not None:
                bars.append(
                    Bar(
                        f"{kind}: geometric mean over the best peer",
                        need,
                        mean,
                        "without M = 1 and 64^3" if kind in ORDINARY_MEANS else "all shapes",
                    )
                )
        bars += worst(rows, "s32: of the measured peak", 0.95, of_peak, COMPUTE_BOUND.__contains__)
        for kind in MEANS:
            bars += worst(
                rows,
                f"{kind}, M = 1: 1.25x the best peer or 0.95 of the bandwidth (1 = reached)",
                1.0,
                matrix_vector(kind),
                lambda s: s[0] == 1,
            )
        bars += worst(
            rows,
            "s32 over NumPy float32, 256^3 and above",
            4.0,
            over_float32,
            lambda s: s[0] > 1 and macs(s) >= 256**3,
        )
        bars += worst(
            rows, "s32 over NumPy float32", 8.0, over_float32, {(1, 4096, 4096)}.__contains__
        )
    elif isa == "avxvnni":
        bars += worst(rows, "s32: of the measured peak", 0.90, of_peak, cube.__contains__)
    elif isa == "avx2":
        bars += worst(rows, "s32: of the measured peak", 0.75, of_peak, cube.__contains__)
        for kind in MEANS:
            bars += worst(
                rows,
                f"{kind}: every shape over torch held to AVX2",
                NO_SLOWER,
                median_of("over_peer", kind),
            )
    bars += worst(
        rows,
        "run-time packing over packed, 256^3 and above",
        0.90,
        packing,
        # Packing costs as much as about 8 rows of the product: fewer rows cannot reach the bar.
        lambda s: min(s) >= 256,
    )
    memory = [(row["packed_over_plain"], row["name"]) for row in rows if row["packed_over_plain"]]
    if memory:
        bars.append(Bar("packed bytes over int8 bytes", 1.1, *max(memory), at_most=True))
    return bars


def calls(rows: Sequence[Row]) -> list[Bar]:
    bars = []
    for row in rows:
        where = row["name"]
        if "s32" in row["over_numpy"]:
            bars.append(
                Bar(
                    "s32 call over np.matmul(out=)",
                    1.5,
                    1 / row["over_numpy"]["s32"]["median"],
                    where,
                    at_most=True,
                )
            )
        bars += [
            Bar(
                f"{kind}: call over the best int8 peer's speed",
                1.0,
                row["over_peer"][kind]["median"],
                where,
            )
            for kind in MEANS
            if kind in row["over_peer"]
        ]
    return bars


def elements(rows: Sequence[Row]) -> list[Bar]:
    bars = []
    for row in rows:
        if row["over_copy"]:
            bars.append(
                Bar(
                    f"{row['kind']}: time over a copy of the 4-byte side",
                    1.3,
                    row["over_copy"]["median"],
                    at_most=True,
                )
            )
        if row["over_peer"]:
            bars.append(
                Bar(
                    f"{row['kind']}: speed over the best peer",
                    1.0,
                    row["over_peer"]["median"],
                    row["over_peer"]["peer"],
                )
            )
    return bars


# Convolutions: what each kind must reach over the best int8 peer, at the least.
LEAST = {
    "first": 1.2,
    "depthwise, stride 1": 1.8,
    "depthwise, stride 2": 1.5,
    "grouped": 1.0,
    "audio": 1.2,
    "transposed": 1.2,
}
BASIC = "dense, basic"  # the shapes that the means are taken over
LARGE_MACS = 10_000_000


def conv_class(row: Row) -> str:
    """The class of a convolution that a bar is about."""
    if row["kind"] == "depthwise":
        return f"depthwise, stride {row['stride']}"
    if row["kind"] != "dense":
        return str(row["kind"])
    if row["source"] == "basic":
        return BASIC
    return "dense, 1x1 image" if row["pixels"] == 1 else "dense, networks"


def by_class(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Convolutions by class, in the order they come."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(conv_class(row), []).append(row)
    return found


def median(group: str) -> Callable[[Row], float | None]:
    return lambda row: row[group]["median"] if row[group] else None


def conv_mean(rows: Sequence[Row], group: str) -> float | None:
    """The geometric mean of a ratio over the rows that have it."""
    found = [v for row in rows if (v := median(group)(row)) is not None]
    return geometric_mean(found) if found else None


def mean_bar(rows: Sequence[Row], what: str, need: float, group: str, where: str) -> list[Bar]:
    mean = conv_mean(rows, group)
    return [] if mean is None else [Bar(what, need, mean, where)]


def convolutions(rows: Sequence[Row], isa: str, threads: int) -> list[Bar]:
    classes = by_class(rows)
    dense = [row for row in rows if row["kind"] == "dense" and row["pixels"] > 1]
    if threads > 1:
        bars = worst(rows, "no convolution slower than on one thread", NO_SLOWER, median("scaling"))
        if threads == 2:
            large = [row for row in dense if row["macs"] > LARGE_MACS]
            bars += worst(
                large, "dense, over 10 M MACs: two threads over one", 1.8, median("scaling")
            )
        return bars
    if isa == "avx2":
        what = "dense: every shape over torch held to AVX2"
        return worst(dense, what, NO_SLOWER, median("over_torch"))
    if isa != "avx512vnni":
        return []
    bars = []
    for found, rows_of in classes.items():
        what = f"{found}: every shape over the best int8 peer"
        bars += worst(rows_of, what, LEAST.get(found, NO_SLOWER), median("over_peer"))
        if found.startswith("depthwise"):
            what = f"{found}: geometric mean over the best int8 peer"
            bars += mean_bar(rows_of, what, LEAST[found], "over_peer", f"{len(rows_of)} shapes")
    basic, where = classes.get(BASIC, []), f"{len(classes.get(BASIC, []))} shapes"
    what = f"{BASIC}: geometric mean over the best int8 peer"
    bars += mean_bar(basic, what, 1.08, "over_peer", where)
    what = f"{BASIC}: geometric mean over the best float32"
    bars += mean_bar(basic, what, 3.5, "over_float32", where)
    what = "dense: geometric mean over the best float32"
    return bars + mean_bar(dense, what, 3.5, "over_float32", f"{len(dense)} shapes")


def tensor(rows: Sequence[Row]) -> list[Bar]:
    bars = worst(rows, "8-bit operators: every one over the best peer", 1.2, median("over_peer"))
    copies = [(row["over_copy"]["median"], row["name"]) for row in rows if row["bound"]]
    if copies:
        what = "8-bit operators bound by memory: time over a plain copy"
        bars.append(Bar(what, 1.5, *max(copies), at_most=True))
    return bars
