"""The native routine of a convolution: loops over tiles, see `convolution_tiles`.

For each tile it runs over the taps of the window; for each tap and in feature, the vectors of out
features of rhs are loaded once, and multiplied with one number of lhs after another. The outermost
loop is that over the batch (over the in features for gradients of weights, which add up in memory).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from functrans.compiler.convolution_tiles import Lanes, Plan, Taps, Tiles, blocks_of, lanes_of
from functrans.compiler.convolution_tiles import tiles_of as tiles_along
from functrans.compiler.loop_text import Index, LoopText
from functrans.compiler.scalar_types import llvm_type
from functrans.runtime import codegen, symbols

# Sums that stay in registers, by the width of vectors: one register each is left for a number of
# lhs and, for up to four vectors, those of rhs.
_SUMS = {512: 28, 256: 12, 128: 12}
_VECTORS = 4
INLINE_TAPS = 4  # runs of more taps are a loop


@functools.cache
def vector_bits() -> int:
    """The width of this machine's vectors."""
    features = symbols.llvm().get_host_cpu_features()
    return 512 if features.get("avx512f") else 256 if features.get("avx2") else 128


@functools.cache
def provide(plan: Plan) -> str:
    """Compile the routine of `plan` and return its symbol."""
    codegen.provide(plan.name, _Routine(plan).text())
    return f"ft_{plan.name}"


@dataclass(frozen=True, slots=True)
class _Tile:
    """Where a tile is: pointers to its first elements, and its extents."""

    lhs: str
    rhs: str
    out: str
    batch: int
    places: Tiles
    lanes: Lanes
    at: tuple[Index, ...]  # along the spatial axes but for the last


class _Routine:
    """Writes the text of one plan."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.f = LoopText()
        self.t = llvm_type(plan.dtype)
        self.declared: set[str] = set()

    def text(self) -> str:
        f, plan = self.f, self.plan
        lhs, rhs, out = (f.buffer(i) for i in range(3))
        if plan.by_input:
            self._clear(out)
        with ExitStack() as loops:
            if plan.by_input:
                feature = loops.enter_context(f.loop(plan.inputs))
                lhs = self._at(lhs, (feature, plan.lhs_at[2]))
                rhs = self._at(rhs, (feature, plan.rhs_at[1]))
            if plan.by_input or self._is_wide():
                self._features(lhs, rhs, out)
            else:
                self._images(lhs, rhs, out)
        return "\n".join([*sorted(self.declared), f.function(plan.name)])

    # ------------------------------------------------------------------ loops around the tiles

    def _is_wide(self) -> bool:
        """Whether a tile takes in several of the batch."""
        return max(self._batch_capacity(lanes) for lanes in self._lanes()) > 1

    def _images(self, lhs: str, rhs: str, out: str) -> None:
        plan = self.plan
        with self.f.loop(plan.batch) as n:
            self._features(
                self._at(lhs, (n, plan.lhs_at[1])), rhs, self._at(out, (n, plan.out_at[1])), 1
            )

    def _features(self, lhs: str, rhs: str, out: str, batch: int | None = None) -> None:
        f, plan = self.f, self.plan
        batch = plan.batch if batch is None else batch
        with f.loop(plan.groups) as g:
            lhs = self._at(lhs, (g, plan.lhs_at[0]))
            rhs, out = self._at(rhs, (g, plan.rhs_at[0])), self._at(out, (g, plan.out_at[0]))
            for lanes in self._lanes():
                with f.loop(lanes.count) as o:
                    at = f.total((o, lanes.size), plus=lanes.first)
                    shifted = f.total((at, plan.lane_step))
                    self._blocks(
                        f.at(self.t, lhs, shifted), f.at(self.t, rhs, at), f.at(self.t, out, at),
                        lanes, batch,
                    )  # fmt: skip

    def _blocks(self, lhs: str, rhs: str, out: str, lanes: Lanes, batch: int) -> None:
        f, plan = self.f, self.plan
        tiles = tiles_along(plan.axes[-1], self._capacity(lanes))
        with ExitStack() as loops:
            places = tuple(loops.enter_context(f.loop(a.places)) for a in plan.axes[:-1])
            out = self._at(out, *zip(places, plan.out_at[2:], strict=False))
            for first, count, size in blocks_of(batch, self._batch_capacity(lanes)):
                for tile in tiles:
                    with f.loop(count) as b, f.loop(tile.count) as i:
                        n = f.total((b, size), plus=first)
                        begin = f.total((i, tile.begin_step), plus=tile.begin)
                        place = f.total((i, tile.width), plus=tile.place)
                        self._tile(
                            _Tile(
                                self._at(lhs, (n, plan.lhs_at[1]), (begin, plan.lhs_at[-1])),
                                rhs,
                                self._at(out, (n, plan.out_at[1]), (place, plan.out_at[-1])),
                                size, tile, lanes, places,
                            )
                        )  # fmt: skip

    def _lanes(self) -> list[Lanes]:
        most = vector_bits() // (8 * self.plan.dtype.itemsize)
        return lanes_of(self.plan.outputs, most, _VECTORS)

    def _capacity(self, lanes: Lanes) -> int:
        return max(1, _SUMS[vector_bits()] // len(lanes.widths))

    def _batch_capacity(self, lanes: Lanes) -> int:
        return max(1, self._capacity(lanes) // max(1, self.plan.axes[-1].places))

    # ------------------------------------------------------------------ a tile

    def _tile(self, tile: _Tile) -> None:
        f, plan = self.f, self.plan
        spots = [
            (b, j, v)
            for b in range(tile.batch)
            for j in range(tile.places.width)
            for v in range(len(tile.lanes.widths))
        ]
        sums = {spot: f.local(self._vector(tile.lanes.widths[spot[2]])) for spot in spots}
        targets = {}
        for spot, place in sums.items():
            t = self._vector(tile.lanes.widths[spot[2]])
            targets[spot] = self._spot(tile.out, spot, tile.lanes)
            first = self._load(targets[spot], spot[2], tile.lanes) if plan.by_input else None
            f.do(f"store {t} {first or self._zero(t)}, ptr {place}")
        with self._outer_taps(tile) as (lhs, rhs):
            for taps in tile.places.taps:
                self._run(tile, taps, lhs, rhs, sums)
        for spot, place in sums.items():
            t = self._vector(tile.lanes.widths[spot[2]])
            self._store(f.emit(f"load {t}, ptr {place}"), targets[spot], spot[2], tile.lanes)

    @contextmanager
    def _outer_taps(self, tile: _Tile) -> Iterator[tuple[str, str]]:
        """Loops over the taps of all axes but the last: where lhs and rhs are for them."""
        f, plan = self.f, self.plan
        lhs, rhs = tile.lhs, tile.rhs
        with ExitStack() as loops:
            for axis, place, l_step, r_step in zip(
                plan.axes[:-1], tile.at, plan.lhs_at[3:], plan.rhs_at[2:], strict=False
            ):
                tap = loops.enter_context(f.loop(axis.window))
                i = f.total((place, axis.stride), (tap, axis.rhs_dilation), plus=-axis.low)
                if axis.lhs_dilation > 1:
                    i, rest = (
                        f.emit(f"{op} i64 {i}, {axis.lhs_dilation}") for op in ("sdiv", "srem")
                    )
                    loops.enter_context(f.when(f.emit(f"icmp eq i64 {rest}, 0")))
                if not axis.is_inside:
                    loops.enter_context(f.when(f.emit(f"icmp ult i64 {i}, {axis.space}")))
                lhs, rhs = self._at(lhs, (i, l_step)), self._at(rhs, (tap, r_step))
            yield lhs, rhs

    def _run(self, tile: _Tile, taps: Taps, lhs: str, rhs: str, sums: dict) -> None:
        """The products of a run of taps, written out if it is short."""
        f, plan = self.f, self.plan
        inputs = 1 if plan.by_input else plan.inputs
        if self._is_row(taps):
            taps, inputs = replace(taps, count=1), taps.count * inputs
        inline = taps.count <= INLINE_TAPS
        for k in range(taps.count if inline else 1):
            with f.loop(1 if inline else taps.count) as i:
                tap = f.total((i, taps.step), plus=taps.first + k * taps.step)
                element = f.total((i, taps.element_step), plus=k * taps.element_step)
                l_tap = self._at(lhs, (element, plan.lhs_at[-1]))
                r_tap = self._at(rhs, (tap, plan.rhs_at[-1]))
                with f.loop(inputs) as c:
                    self._products(
                        tile, taps, self._at(l_tap, (c, plan.lhs_at[2])),
                        self._at(r_tap, (c, plan.rhs_at[1])), sums,
                    )  # fmt: skip

    def _is_row(self, taps: Taps) -> bool:
        """Whether the features of one tap are followed by those of the next, in lhs and rhs."""
        plan = self.plan
        steps = taps.element_step * plan.lhs_at[-1], taps.step * plan.rhs_at[-1]
        features = plan.inputs * plan.lhs_at[2], plan.inputs * plan.rhs_at[1]
        return 1 < taps.count and plan.inputs > 1 and not plan.by_input and steps == features

    def _products(self, tile: _Tile, taps: Taps, lhs: str, rhs: str, sums: dict) -> None:
        plan, lanes = self.plan, tile.lanes
        weights = [
            self._load(self._spot(rhs, (0, 0, v), lanes), v, lanes)
            for v in range(len(lanes.widths))
        ]
        for b in range(tile.batch):
            for j, element in taps.elements:
                at = b * plan.lhs_at[1] + element * plan.lhs_at[-1]
                number = None
                for v, weight in enumerate(weights):
                    if plan.lane_step:
                        place = self.f.at(self.t, lhs, at + v * lanes.widths[0])
                        x = self._load(place, v, lanes)
                    else:
                        number = number or self.f.emit(
                            f"load {self.t}, ptr {self.f.at(self.t, lhs, at)}"
                        )
                        x = self._splat(number, lanes.widths[v])
                    self._add_product(sums[b, j, v], x, weight, lanes.widths[v])

    # ------------------------------------------------------------------ instructions

    def _at(self, base: str, *terms: tuple[Index, int]) -> str:
        return self.f.at(self.t, base, self.f.total(*terms))

    def _spot(self, base: str, spot: tuple[int, int, int], lanes: Lanes) -> str:
        """Where a vector of the tile that begins at `base` is."""
        b, j, v = spot
        at = b * self.plan.out_at[1] + j * self.plan.out_at[-1] + v * lanes.widths[0]
        return self.f.at(self.t, base, at)

    def _vector(self, width: int) -> str:
        return self.t if width == 1 else f"<{width} x {self.t}>"

    def _zero(self, t: str) -> str:
        return "zeroinitializer" if t != self.t else "0.0" if self.plan.dtype.kind == "f" else "0"

    def _splat(self, number: str, width: int) -> str:
        if width == 1:
            return number
        v = self._vector(width)
        one = self.f.emit(f"insertelement {v} poison, {self.t} {number}, i64 0")
        return self.f.emit(f"shufflevector {v} {one}, {v} poison, <{width} x i32> zeroinitializer")

    def _mask(self, v: int, lanes: Lanes) -> str:
        """The lanes in use of a vector that is not full, else nothing."""
        width, used = lanes.widths[v], lanes.size - v * lanes.widths[0]
        if used >= width:
            return ""
        bits = ", ".join(f"i1 {str(i < used).lower()}" for i in range(width))
        return f"<{width} x i1> <{bits}>"

    def _load(self, place: str, v: int, lanes: Lanes) -> str:
        width, align = lanes.widths[v], self.plan.dtype.itemsize
        t, mask = self._vector(width), self._mask(v, lanes)
        if not mask:
            return self.f.emit(f"load {t}, ptr {place}, align {align}")
        name = f"@llvm.masked.load.v{width}{self._letter()}.p0"
        self.declared.add(f"declare {t} {name}(ptr, i32, <{width} x i1>, {t})")
        given = f"ptr {place}, i32 {align}, {mask}, {t} zeroinitializer"
        return self.f.emit(f"call {t} {name}({given})")

    def _store(self, value: str, place: str, v: int, lanes: Lanes) -> None:
        width, align = lanes.widths[v], self.plan.dtype.itemsize
        t, mask = self._vector(width), self._mask(v, lanes)
        if not mask:
            self.f.do(f"store {t} {value}, ptr {place}, align {align}")
            return
        name = f"@llvm.masked.store.v{width}{self._letter()}.p0"
        self.declared.add(f"declare void {name}({t}, ptr, i32, <{width} x i1>)")
        self.f.do(f"call void {name}({t} {value}, ptr {place}, i32 {align}, {mask})")

    def _letter(self) -> str:
        return f"{'f' if self.plan.dtype.kind == 'f' else 'i'}{8 * self.plan.dtype.itemsize}"

    def _add_product(self, place: str, x: str, y: str, width: int) -> None:
        f, t = self.f, self._vector(width)
        before = f.emit(f"load {t}, ptr {place}")
        if self.plan.dtype.kind == "f":
            name = f"@llvm.fma.{f'v{width}' if width > 1 else ''}{self._letter()}"
            self.declared.add(f"declare {t} {name}({t}, {t}, {t})")
            after = f.emit(f"call {t} {name}({t} {x}, {t} {y}, {t} {before})")
        else:
            after = f.emit(f"add {t} {before}, {f.emit(f'mul {t} {x}, {y}')}")
        f.do(f"store {t} {after}, ptr {place}")

    def _clear(self, out: str) -> None:
        plan = self.plan
        points = plan.groups * plan.batch * plan.outputs
        for axis in plan.axes:
            points *= axis.places
        self.declared.add("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
        size = points * plan.dtype.itemsize
        self.f.do(f"call void @llvm.memset.p0.i64(ptr {out}, i8 0, i64 {size}, i1 false)")


__all__ = ["provide"]
