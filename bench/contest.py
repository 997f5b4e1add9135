"""The contest: who takes part in each row, whether the results are right, and the records."""

import argparse
import dataclasses
import importlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import bars
import machine
import numpy as np
import peers
import peers_conv
import peers_tensor
import shapes
from operands import Array, Elements, Product
from operands_conv import ConvOperands
from operands_tensor import TensorOperands
from rounds import Entrant, Probe, ratio, time_rounds

# How far from the exact answer a peer may be: codes for integers, relative for floats.
TOLERANCE = {
    "float32": 1e-5,
    "u8": 1,
    "f32": 1e-6,
    "dyn": 0.03,
    "quantize": 1,
    "quantize_channels": 1,
    "dequantize": 1e-6,
    "dequantize_channels": 1e-6,
    "requantize": 1,
} | {op.kind: 1 for op in shapes.TENSOR_OPS}
Times = Mapping[str, list[float]]


def difference(entrant: Entrant, answers: Mapping[str, Array]) -> float:
    """How far an entrant's result is from the exact one; ours must have no difference at all."""
    got, want = entrant.result(), answers[entrant.answer or entrant.kind]
    if got.shape != want.shape:
        return float("inf")
    if entrant.library == "octavo":
        return 0.0 if np.array_equal(got, want) else float("inf")
    off = got.astype(np.float64) - want
    if got.dtype.kind in "iu":
        return float(np.abs(off).max())
    return float(np.sqrt((off**2).mean() / (want.astype(np.float64) ** 2).mean()))


class Contest:
    """What the command line asked for, who takes part, and what came out."""

    def __init__(self, arguments: argparse.Namespace, cores: list[int]) -> None:
        self.arguments, self.remarks = arguments, list[str]()
        self.inexact: dict[str, float] = {}  # the peers that are, each with its greatest error
        self.isa: str = arguments.isa or "unknown"
        about: dict[str, object] = {}
        self.ours: Any = None
        if arguments.sides != "peers":
            self.ours = importlib.import_module("ours")
            about = self.ours.describe()
            self.isa = str(about["isa"])
        self.libraries, absent = peers.libraries(self.isa, arguments.threads)
        self.remarks += [f"without {library}: {why}" for library, why in absent.items()]
        self.machine = about | machine.describe(cores, arguments.threads) | self.libraries
        self.rows: list[dict[str, Any]] = []
        self.wrong = False

    def invite(self, factories: Mapping[str, Sequence[Any]], operands: Any) -> list[Entrant]:
        """The peers that can do this row; what one of them refuses is noted."""
        found = []
        for library, makes in factories.items():
            if library not in self.libraries or self.arguments.sides == "ours":
                continue
            for make in makes:
                try:
                    found.append(make(operands))
                except peers.Absent:
                    continue
                except Exception as refusal:  # noqa: BLE001  another library may raise anything
                    self.remarks.append(f"{library} refuses {operands.name}: {refusal}")
        return found

    def verify(
        self, entrants: list[Entrant], answers: Mapping[str, Array], where: str
    ) -> dict[str, float]:
        """The error of each entrant. Ours wrong fails the run; a peer wrong is marked and noted."""
        errors = {}
        for entrant in entrants:
            errors[entrant.name] = found = difference(entrant, answers)
            if entrant.library == "octavo" and found:
                self.wrong = True
                self.remarks.append(
                    f"WRONG: {entrant.name} at {where} differs from the exact result"
                )
            elif found > TOLERANCE.get(entrant.kind, 0):
                self.inexact[entrant.name] = max(found, self.inexact.get(entrant.name, 0))
        return errors

    def race(
        self,
        table: str,
        name: str,
        entrants: list[Entrant],
        answers: Mapping[str, Array],
        work: int,
        probes: Sequence[Probe] = (),
    ) -> tuple[dict[str, Any], Times]:
        """Check and time a row; what is noted of every row, and the times."""
        errors = self.verify([e for e in entrants if e.library != "copy"], answers, name)
        times = time_rounds(
            [*entrants, *probes],
            rounds=self.arguments.rounds,
            seconds=self.arguments.seconds,
            threads=self.arguments.threads,
        )
        row = {
            "table": table,
            "name": name,
            "isa": self.isa,
            "threads": self.arguments.threads,
            "entrants": {
                e.name: {
                    "kind": e.kind,
                    "library": e.library,
                    "error": errors.get(e.name, 0.0),
                    "microseconds": statistics.median(times[e.name]) * 1e6,
                    "giga_a_second": work / statistics.median(times[e.name]) / 1e9,
                    "seconds_by_round": times[e.name],
                }
                for e in entrants
            },
        }
        return row, times

    def product(self, shape: shapes.Shape, table: str) -> None:
        p, kinds, threads = Product(shape), set(self.arguments.kinds), self.arguments.threads
        baseline = self.arguments.baseline_threads
        entrants = [e for e in self.invite(peers.PRODUCTS, p) if e.kind in kinds | {"float32"}]
        probes = []
        if self.ours:
            entrants += self.ours.products(p, kinds)
            probes = self.ours.ceilings(self.isa, p.w.size if shape[0] == 1 else None)
            if threads > 1:
                entrants += self.ours.products(p, kinds, baseline)
        row, times = self.race(table, p.name, entrants, p.answers, p.macs, probes)
        row |= {
            "shape": shape,
            "over_peer": {},
            "over_numpy": {},
            "of_peak": {},
            "of_bandwidth": {},
            "scaling": {},
            "runtime_over_packed": None,
            "packed_over_plain": None,
        }
        if self.ours:
            name = self.ours.name
            for kind in kinds:
                mine = times[name(kind)]
                row["of_peak"][kind] = p.macs * ratio(times["peak"], mine).median / threads
                if "bandwidth" in times:
                    row["of_bandwidth"][kind] = p.w.size * ratio(times["bandwidth"], mine).median
                if best := closest(entrants, times, kind, mine):
                    row["over_peer"][kind] = best
                if "numpy_float32" in times:
                    row["over_numpy"][kind] = dataclasses.asdict(
                        ratio(times["numpy_float32"], mine)
                    )
                if threads > 1:
                    row["scaling"][kind] = dataclasses.asdict(
                        ratio(times[name(kind, baseline)], mine)
                    )
            if {"s32", "runtime"} <= kinds:
                row["runtime_over_packed"] = dataclasses.asdict(
                    ratio(times[name("s32")], times[name("runtime")])
                )
            columns = -(-shape[1] // 16) * 16
            row["packed_over_plain"] = self.ours.packed_bytes(p) / (shape[2] * columns)
            row["ceilings"] = {
                label: 1 / sorted(times[label])[len(times[label]) // 2]
                for label in ("peak", "bandwidth")
                if label in times
            }
        self.rows.append(row)

    def elementwise(self) -> None:
        e = Elements(shapes.ELEMENTS)
        invited = self.invite(peers.ELEMENTS, e)
        if self.ours:
            invited += self.ours.elements(e)
        answers = e.answers
        for kind in answers:
            copied = e.sums if kind == "requantize" else e.x
            entrants = [entrant for entrant in invited if entrant.kind == kind]
            entrants.append(peers.numpy_copy(kind, copied))
            row, times = self.race("elementwise", kind, entrants, answers, e.x.size)
            row |= {"kind": kind, "shape": e.shape, "over_peer": None, "over_copy": None}
            if self.ours:
                mine = times[self.ours.name(kind)]
                row["over_copy"] = dataclasses.asdict(ratio(mine, times[f"copy_{kind}"]))
                row["over_peer"] = closest(entrants, times, kind, mine)
            self.rows.append(row)

    def convolution(self, source: str, shape: shapes.Convolution) -> None:
        p, threads = ConvOperands(shape, self.arguments.zero_point), self.arguments.threads
        baseline = self.arguments.baseline_threads
        entrants = self.invite(peers_conv.CONVOLUTIONS, p)
        probes = []
        if self.ours:
            entrants.append(self.ours.convolution(p))
            probes = self.ours.ceilings(self.isa, None)
            if threads > 1:
                entrants.append(self.ours.convolution(p, baseline))
        row, times = self.race("conv", p.name, entrants, p.answers, shape.macs, probes)
        row |= {"source": source, "kind": shape.kind, "macs": shape.macs}
        row |= {"stride": shape.stride[0], "pixels": shape.h * shape.w}
        row |= dict.fromkeys(("over_peer", "over_torch", "over_float32", "of_peak", "scaling"))
        if self.ours:
            name = self.ours.name
            mine = times[name("u8")]
            row["over_peer"] = closest(entrants, times, "u8", mine)
            row["over_torch"] = closest(
                [e for e in entrants if e.library == "torch"], times, "u8", mine
            )
            row["over_float32"] = closest(entrants, times, "float32", mine)
            row["of_peak"] = shape.macs * ratio(times["peak"], mine).median / threads
            if threads > 1:
                row["scaling"] = dataclasses.asdict(ratio(times[name("u8", baseline)], mine))
        self.rows.append(row)

    def tensor(self, op: shapes.TensorOp) -> None:
        p = TensorOperands(op)
        entrants = self.invite(peers_tensor.TENSOR_OPS, p)
        if self.ours:
            entrants.append(self.ours.tensor(p))
        moved = np.zeros(p.moved // 2, np.uint8)
        entrants.append(peers.numpy_copy(op.kind, moved))
        row, times = self.race("tensor", op.name, entrants, p.answers, p.moved)
        row |= {"kind": op.kind, "bound": p.bound, "over_peer": None, "over_copy": None}
        if self.ours:
            mine = times[self.ours.name(op.kind)]
            row["over_copy"] = dataclasses.asdict(ratio(mine, times[f"copy_{op.kind}"]))
            row["over_peer"] = closest(entrants, times, op.kind, mine)
        self.rows.append(row)

    def run(self) -> None:
        tables, only = self.arguments.tables, self.arguments.only
        chosen = self.arguments.shapes or shapes.PRODUCTS
        for table, listed in (("products", chosen), ("calls", shapes.CALLS)):
            for shape in listed if table in tables else ():
                print(f"{table} {shapes.name(shape)}", file=sys.stderr, flush=True)
                self.product(shape, table)
        if "elementwise" in tables:
            print("elementwise", file=sys.stderr, flush=True)
            self.elementwise()
        if "conv" in tables:
            for source, convolution in shapes.convolutions(self.arguments.sources):
                if only in f"{convolution.kind} {convolution.name}":
                    print(f"{source}: {convolution.name}", file=sys.stderr, flush=True)
                    self.convolution(source, convolution)
        for op in shapes.TENSOR_OPS if "tensor" in tables else ():
            if only in op.name:
                print(op.name, file=sys.stderr, flush=True)
                self.tensor(op)

    def notes(self) -> list[str]:
        """What a reader of the tables should know."""
        return list(dict.fromkeys(self.remarks)) + [
            f"inexact: {name} is off by up to {error:.3g}" for name, error in self.inexact.items()
        ]

    def bars(self) -> list[bars.Bar]:
        def rows(table: str) -> list[dict[str, Any]]:
            return [row for row in self.rows if row["table"] == table]

        if not self.ours:
            return []
        found = bars.products(rows("products"), self.isa, self.arguments.threads)
        if self.arguments.threads == 1 and self.isa == "avx512vnni":
            found += bars.calls(rows("calls")) + bars.elements(rows("elementwise"))
        found += bars.convolutions(rows("conv"), self.isa, self.arguments.threads)
        if self.arguments.threads == 1 and self.isa == "avx512vnni":
            found += bars.tensor(rows("tensor"))
        return found


def closest(
    entrants: Sequence[Entrant], times: Times, kind: str, mine: list[float]
) -> dict[str, Any] | None:
    """The peer that ours beats by the least, and by how much."""
    found = [
        (ratio(times[e.name], mine), e.name)
        for e in entrants
        if e.kind == kind and e.library not in ("octavo", "copy")
    ]
    if not found:
        return None
    best, name = min(found, key=lambda pair: pair[0].median)
    return {"peer": name} | dataclasses.asdict(best)
