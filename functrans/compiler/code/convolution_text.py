"""The native routine of a convolution: loops over tiles, see `convolution_tiles`.

For each tile it runs over the taps of the window; for each tap and in feature, the vectors of out
features of rhs are loaded once, and multiplied with one number of lhs after another. The outermost
loop is that over the batch; for gradients of weights it is that over the in features, which are
images there, some at a time: sums of theirs add up in memory. Where there are few out features,
vectors run over the in features, and are added up at the end.

Threads share the images, or, of few images, rows of the result. Gradients of weights are cut into
chunks of images, each of which adds up in a result of its own; these are added up in order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from functrans.compiler.code.convolution_tiles import (
    Lanes,
    Plan,
    Taps,
    Tiles,
    blocks_of,
    lanes_of,
    tiles_of,
)
from functrans.compiler.code.loop_text import Index, LoopText
from functrans.compiler.words.scalar_types import llvm_type
from functrans.runtime import codegen, symbols, threads
from functrans.runtime.codegen import Unit

# Sums that stay in registers, by the width of vectors: one register each is left for a number of
# lhs and, for up to four vectors, those of rhs.
_SUMS = {512: 28, 256: 12, 128: 12}
_VECTORS = 4
INLINE_TAPS = 4  # runs of more taps are a loop
# Products added up before a sum goes to memory, where the images are: best of 64..1024.
LONG_SUM = 256
# Products that a piece has at least, about 10 us of work; and how many pieces there are at most.
PIECE = 1 << 18
PIECES = 16
# Chunks of a gradient of weights. Each costs memory, of which more than two may take so much.
CHUNKS = 8
CHUNK_BYTES = 4 << 20


@functools.cache
def vector_bits() -> int:
    """The width of this machine's vectors."""
    return 8 * symbols.vector_bytes()


def sums_in_registers() -> int:
    """How many vectors a tile may have."""
    return _SUMS[vector_bits()]


@functools.cache
def unit_of(plan: Plan) -> Unit:
    """The routine of a plan."""
    routine = _Dots(plan) if plan.lanes == "inputs" else _Routine(plan)
    return codegen.routine(plan.name, routine.text())


# ---------------------------------------------------------------------------- pieces


def result_size(plan: Plan) -> int:
    """How many elements the result has."""
    return plan.groups * plan.batch * plan.outputs * math.prod(a.places for a in plan.axes)


def pieces_of(plan: Plan) -> int:
    """How many pieces the work makes."""
    taps = math.prod(axis.window for axis in plan.axes)
    return max(1, min(PIECES, result_size(plan) * taps * plan.inputs // PIECE))


def group_of(batch: int, pieces: int, least: int) -> int:
    """How many images a task has, so that there are about so many tasks, with none left over."""
    pieces = max(1, min(pieces, batch // least))
    even = (n for n in range(pieces, pieces // 2, -1) if batch % n == 0)
    return -(-batch // next(even, pieces)) if batch else 1


def images_at_once(plan: Plan) -> list[tuple[int, int, int]]:
    """(first, count, images) of a gradient's images: `count` times some whose sums are one."""
    taps = math.prod(axis.window for axis in plan.axes)
    return blocks_of(plan.inputs, -(-LONG_SUM // taps))


def chunks_of(plan: Plan) -> int:
    """In how many results of their own a gradient's images are added up."""
    room = CHUNK_BYTES // (result_size(plan) * plan.dtype.itemsize)
    count = images_at_once(plan)[0][1]
    wanted = min(CHUNKS, pieces_of(plan), max(2, room), count)
    return -(-count // -(-count // wanted))


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
        self.most = vector_bits() // (8 * plan.dtype.itemsize)
        self.images = 1  # whose products are added up before a sum goes to memory, `by_input`
        self.group = 0  # images of a task, where a tile may have several
        self.rows: tuple[Index, Index] | None = None  # of a task, along the first axis
        self.declared: set[str] = set()

    def text(self) -> str:
        """The function, and the one that does a piece of the work."""
        if self.plan.by_input:
            tasks, size = self._chunks()
        elif self._most_images() > 1:
            tasks, size = self._groups_of_images()
        else:
            tasks, size = self._images()
        piece = self.f.piece(self.plan.name)
        self.f = LoopText()
        self.f.do(
            f"call void @ft_shared(ptr @piece_{self.plan.name}, ptr %buffers, i64 {tasks}, "
            f"i64 {size})"
        )
        self._finish(tasks)
        self.declared.add("declare i64 @llvm.umin.i64(i64, i64)")
        whole = self.f.function(self.plan.name)
        return "\n".join([threads.POOL, threads.SHARED, *sorted(self.declared), piece, whole])

    # ------------------------------------------------------------------ what threads share

    def _images(self) -> tuple[int, int]:
        """A task for each image, or for some rows of one: how many, and how many are a piece."""
        f, plan = self.f, self.plan
        lhs, rhs, out = (f.buffer(i) for i in range(3))
        wanted = pieces_of(plan)
        rows = plan.axes[0].places if len(plan.axes) > 1 else 1
        size = max(1, rows * plan.batch // wanted) if plan.batch < wanted else rows
        parts = -(-rows // size)
        with f.loop("%end", "%begin") as task:
            n = task if parts == 1 else f.emit(f"udiv i64 {task}, {parts}")
            if parts > 1:
                low = f.total((f.emit(f"urem i64 {task}, {parts}"), size))
                self.rows = low, f.least(f.total((low, 1), plus=size), rows)
            l_image, o_image = (
                self._at(x, (n, at[1])) for x, at in ((lhs, plan.lhs_at), (out, plan.out_at))
            )
            self._features(l_image, rhs, o_image, 1)
        tasks = plan.batch * parts
        return tasks, -(-tasks // wanted)

    def _groups_of_images(self) -> tuple[int, int]:
        """A task for some images; what is left over, `_finish` does."""
        f, plan = self.f, self.plan
        lhs, rhs, out = (f.buffer(i) for i in range(3))
        self.group = group_of(plan.batch, pieces_of(plan), self._most_images())
        with f.loop("%end", "%begin") as task:
            l_image = self._at(lhs, (task, self.group * plan.lhs_at[1]))
            o_image = self._at(out, (task, self.group * plan.out_at[1]))
            self._features(l_image, rhs, o_image, self.group)
        return plan.batch // self.group, 1

    def _chunks(self) -> tuple[int, int]:
        """A task for each chunk of a gradient's images."""
        f, plan = self.f, self.plan
        lhs, rhs, out, others = (f.buffer(i) for i in range(4))
        _, count, images = images_at_once(plan)[0]
        each = -(-count // chunks_of(plan))
        with f.loop("%end", "%begin") as chunk:
            before = f.emit(f"sub i64 {chunk}, 1")
            own = self._at(others, (before, result_size(plan)))
            is_first = f.emit(f"icmp eq i64 {chunk}, 0")
            target = f.emit(f"select i1 {is_first}, ptr {out}, ptr {own}")
            self._clear(target)
            low = f.total((chunk, each))
            with f.loop(f.least(f.total((low, 1), plus=each), count), low) as i:
                self._some_images(lhs, rhs, target, f.total((i, images)), images)
        return chunks_of(plan), 1

    def _some_images(self, lhs: str, rhs: str, out: str, first: Index, count: int) -> None:
        plan, self.images = self.plan, count
        l_image = self._at(lhs, (first, plan.lhs_at[2]))
        self._features(l_image, self._at(rhs, (first, plan.rhs_at[2])), out, plan.batch)

    def _finish(self, tasks: int) -> None:
        """What is to be done when all tasks are."""
        f, plan = self.f, self.plan
        if plan.by_input:
            lhs, rhs, out, others = (f.buffer(i) for i in range(4))
            self._add_chunks(out, others, tasks)
            for first, _, images in images_at_once(plan)[1:]:
                self._some_images(lhs, rhs, out, first, images)
        elif self.group and plan.batch % self.group:
            lhs, rhs, out = (f.buffer(i) for i in range(3))
            done = tasks * self.group
            l_image, o_image = (
                self._at(x, (done, at[1])) for x, at in ((lhs, plan.lhs_at), (out, plan.out_at))
            )
            self._features(l_image, rhs, o_image, plan.batch - done)

    def _add_chunks(self, out: str, others: str, count: int) -> None:
        f, size = self.f, result_size(self.plan)
        add = "fadd" if self.plan.dtype.kind == "f" else "add"
        if count > 1:
            with f.loop(count - 1) as chunk, f.loop(size) as i:
                x = f.emit(f"load {self.t}, ptr {self._at(others, (chunk, size), (i, 1))}")
                place = self._at(out, (i, 1))
                y = f.emit(f"load {self.t}, ptr {place}")
                f.do(f"store {self.t} {f.emit(f'{add} {self.t} {y}, {x}')}, ptr {place}")

    # ------------------------------------------------------------------ loops around the tiles

    def lanes(self) -> list[Lanes]:
        """The out features in blocks."""
        return lanes_of(self.plan.outputs, self.most, _VECTORS)

    def _capacity(self, lanes: Lanes) -> int:
        return max(1, sums_in_registers() // len(lanes.widths))

    def _batch_capacity(self, lanes: Lanes) -> int:
        return max(1, self._capacity(lanes) // self.plan.axes[-1].places)

    def _most_images(self) -> int:
        return max(map(self._batch_capacity, self.lanes()))

    def _features(self, lhs: str, rhs: str, out: str, batch: int) -> None:
        f, plan = self.f, self.plan
        with f.loop(plan.groups) as g:
            lhs, rhs = self._at(lhs, (g, plan.lhs_at[0])), self._at(rhs, (g, plan.rhs_at[0]))
            out = self._at(out, (g, plan.out_at[0]))
            for lanes in self.lanes():
                with f.loop(lanes.count) as o:
                    at = f.total((o, lanes.size), plus=lanes.first)
                    moved = self._at(lhs, (at, int(plan.lanes == "groups")))
                    weights = self._at(rhs, (at, plan.rhs_at[1]))
                    self._blocks(moved, weights, self._at(out, (at, 1)), lanes, batch)

    def _blocks(self, lhs: str, rhs: str, out: str, lanes: Lanes, batch: int) -> None:
        f, plan = self.f, self.plan
        tiles = tiles_of(plan.axes[-1], self._capacity(lanes))
        with ExitStack() as loops:
            spans: list[tuple[Index, Index]] = [(0, a.places) for a in plan.axes[:-1]]
            if self.rows:
                spans[0] = self.rows
            places = tuple(loops.enter_context(f.loop(end, begin)) for begin, end in spans)
            out = self._at(out, *zip(places, plan.out_at[2:], strict=False))
            for first, count, size in blocks_of(batch, self._batch_capacity(lanes)):
                for tile in tiles:
                    with f.loop(count) as b, f.loop(tile.count) as i:
                        n = f.total((b, size), plus=first)
                        begin = f.total((i, tile.begin_step), plus=tile.begin)
                        place = f.total((i, tile.width), plus=tile.place)
                        l_tile = self._at(lhs, (n, plan.lhs_at[1]), (begin, plan.lhs_at[-1]))
                        o_tile = self._at(out, (n, plan.out_at[1]), (place, plan.out_at[-1]))
                        self._tile(_Tile(l_tile, rhs, o_tile, size, tile, lanes, places))

    # ------------------------------------------------------------------ a tile

    def _tile(self, tile: _Tile) -> None:
        f, plan, lanes = self.f, self.plan, tile.lanes
        sums = {
            (b, j, v): (f.local(self._vector(width)), self._vector(width))
            for b in range(tile.batch)
            for j in range(tile.places.width)
            for v, width in enumerate(lanes.widths)
        }
        targets = {
            (b, j, v): f.at(
                self.t, tile.out, b * plan.out_at[1] + j * plan.out_at[-1] + lanes.steps[v]
            )
            for b, j, v in sums
        }
        for spot, (place, t) in sums.items():
            v = spot[2]
            first = "zeroinitializer" if t != self.t else "0.0" if plan.dtype.kind == "f" else "0"
            if plan.by_input:
                first = self._load(targets[spot], lanes.widths[v], lanes.used[v])
            f.do(f"store {t} {first}, ptr {place}")
        with f.loop(self.images) as c:
            starts = (
                self._at(tile.lhs, (c, plan.lhs_at[2])),
                self._at(tile.rhs, (c, plan.rhs_at[2])),
            )
            with self._outer_taps(*starts, tile.at) as (lhs, rhs):
                for taps in tile.places.taps:
                    self._run(tile, taps, lhs, rhs, sums)
        for spot, (place, t) in sums.items():
            self.finish(f.emit(f"load {t}, ptr {place}"), targets[spot], lanes, spot[2])

    @contextmanager
    def _outer_taps(
        self, lhs: str, rhs: str, places: tuple[Index, ...]
    ) -> Iterator[tuple[str, str]]:
        """Loops over the taps of all axes but the last: where lhs and rhs are for them."""
        f, plan = self.f, self.plan
        with ExitStack() as loops:
            for axis, place, l_step, r_step in zip(
                plan.axes[:-1], places, plan.lhs_at[3:], plan.rhs_at[3:], strict=False
            ):
                tap = loops.enter_context(f.loop(axis.window))
                i = f.total((place, axis.stride), (tap, axis.rhs_dilation), plus=-axis.low)
                if axis.lhs_dilation > 1:
                    step = axis.lhs_dilation
                    i, rest = (f.emit(f"{op} i64 {i}, {step}") for op in ("sdiv", "srem"))
                    loops.enter_context(f.when(f.emit(f"icmp eq i64 {rest}, 0")))
                if not axis.is_inside:
                    loops.enter_context(f.when(f.emit(f"icmp ult i64 {i}, {axis.space}")))
                lhs, rhs = self._at(lhs, (i, l_step)), self._at(rhs, (tap, r_step))
            yield lhs, rhs

    def _run(self, tile: _Tile, taps: Taps, lhs: str, rhs: str, sums: dict) -> None:
        """The products of a run of taps, written out if it is short."""
        f, plan = self.f, self.plan
        inputs = 1 if plan.by_input else plan.inputs
        if self.is_row(taps):
            taps, inputs = replace(taps, count=1), taps.count * inputs
        inline = taps.count <= INLINE_TAPS
        for k in range(taps.count if inline else 1):
            with f.loop(1 if inline else taps.count) as i:
                tap = f.total((i, taps.step), plus=taps.first + k * taps.step)
                element = f.total((i, taps.element_step), plus=k * taps.element_step)
                l_tap = self._at(lhs, (element, plan.lhs_at[-1]))
                r_tap = self._at(rhs, (tap, plan.rhs_at[-1]))
                if inputs == 1:
                    l_tap = self._opaque(l_tap)
                self.inputs(tile, taps, l_tap, r_tap, inputs, sums)

    def _opaque(self, pointer: str) -> str:
        """The same pointer, from which LLVM cannot tell that other taps load the same numbers.

        It would keep all of them in registers, of which there are none left.
        """
        return self.f.emit(f'call ptr asm "", "=r,0"(ptr {pointer})')

    def is_row(self, taps: Taps) -> bool:
        """Whether the features of one tap are followed by those of the next, in lhs and rhs."""
        plan = self.plan
        steps = taps.element_step * plan.lhs_at[-1], taps.step * plan.rhs_at[-1]
        features = plan.inputs * plan.lhs_at[2], plan.inputs * plan.rhs_at[2]
        return taps.count * plan.inputs > INLINE_TAPS and not plan.by_input and steps == features

    def inputs(self, tile: _Tile, taps: Taps, lhs: str, rhs: str, count: int, sums: dict) -> None:
        """The products of `count` in features, for one tap or for a row of taps."""
        plan, lanes = self.plan, tile.lanes
        with self.f.loop(count) as c:
            lhs, rhs = self._at(lhs, (c, plan.lhs_at[2])), self._at(rhs, (c, plan.rhs_at[2]))
            weights = [
                self._load(self.f.at(self.t, rhs, step * plan.rhs_at[1]), width, used)
                for width, used, step in zip(lanes.widths, lanes.used, lanes.steps, strict=True)
            ]
            for b in range(tile.batch):
                for j, element in taps.elements:
                    place = self._at(lhs, (b, plan.lhs_at[1]), (element, plan.lhs_at[-1]))
                    xs = self._of_lhs(place, lanes)
                    for v, (x, weight) in enumerate(zip(xs, weights, strict=True)):
                        self.add_product(sums[b, j, v], x, weight, lanes.widths[v])

    def _of_lhs(self, place: str, lanes: Lanes) -> list[str]:
        """What the vectors of weights are multiplied with."""
        rows = list(zip(lanes.widths, lanes.used, lanes.steps, strict=True))
        if self.plan.lanes == "groups":
            return [self._load(self.f.at(self.t, place, s), w, used) for w, used, s in rows]
        number = self.f.emit(f"load {self.t}, ptr {place}")
        return [self._splat(number, w) for w, _, _ in rows]

    # ------------------------------------------------------------------ instructions

    def _at(self, base: str, *terms: tuple[Index, int]) -> str:
        return self.f.at(self.t, base, self.f.total(*terms))

    def _vector(self, width: int) -> str:
        return self.t if width == 1 else f"<{width} x {self.t}>"

    def letter(self, width: int = 1) -> str:
        """How names of intrinsics end."""
        kind = "f" if self.plan.dtype.kind == "f" else "i"
        return f"{f'v{width}' if width > 1 else ''}{kind}{8 * self.plan.dtype.itemsize}"

    def _splat(self, number: str, width: int) -> str:
        if width == 1:
            return number
        v = self._vector(width)
        one = self.f.emit(f"insertelement {v} poison, {self.t} {number}, i64 0")
        return self.f.emit(f"shufflevector {v} {one}, {v} poison, <{width} x i32> zeroinitializer")

    def _masked(self, width: int, used: int) -> str:
        bits = ", ".join(f"i1 {str(i < used).lower()}" for i in range(width))
        return f"<{width} x i1> <{bits}>"

    def _load(self, place: str, width: int, used: int) -> str:
        t, align = self._vector(width), self.plan.dtype.itemsize
        if used == width:
            return self.f.emit(f"load {t}, ptr {place}, align {align}")
        name = f"@llvm.masked.load.{self.letter(width)}.p0"
        self.declared.add(f"declare {t} {name}(ptr, i32, <{width} x i1>, {t})")
        given = f"ptr {place}, i32 {align}, {self._masked(width, used)}, {t} zeroinitializer"
        return self.f.emit(f"call {t} {name}({given})")

    def finish(self, value: str, place: str, lanes: Lanes, v: int) -> None:
        """Store a sum."""
        width, used, align = lanes.widths[v], lanes.used[v], self.plan.dtype.itemsize
        t = self._vector(width)
        if used == width:
            self.f.do(f"store {t} {value}, ptr {place}, align {align}")
            return
        name = f"@llvm.masked.store.{self.letter(width)}.p0"
        self.declared.add(f"declare void {name}({t}, ptr, i32, <{width} x i1>)")
        given = f"ptr {place}, i32 {align}, {self._masked(width, used)}"
        self.f.do(f"call void {name}({t} {value}, {given})")

    def add_product(self, total: tuple[str, str], x: str, y: str, width: int) -> None:
        """Add `x * y` to a sum."""
        f, (place, t) = self.f, total
        before = f.emit(f"load {t}, ptr {place}")
        if self.plan.dtype.kind == "f":
            name = f"@llvm.fma.{self.letter(width)}"
            self.declared.add(f"declare {t} {name}({t}, {t}, {t})")
            after = f.emit(f"call {t} {name}({t} {x}, {t} {y}, {t} {before})")
        else:
            after = f.emit(f"add {t} {before}, {f.emit(f'mul {t} {x}, {y}')}")
        f.do(f"store {t} {after}, ptr {place}")

    def _clear(self, out: str) -> None:
        self.declared.add("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
        size = result_size(self.plan) * self.plan.dtype.itemsize
        self.f.do(f"call void @llvm.memset.p0.i64(ptr {out}, i8 0, i64 {size}, i1 false)")


class _Dots(_Routine):
    """Vectors run over the in features: a sum is a vector per out feature."""

    def lanes(self) -> list[Lanes]:
        size, count = min(self.plan.outputs, _VECTORS), self.plan.outputs
        blocks = [(0, count // size, size), (count // size * size, 1, count % size)]
        return [
            Lanes(first, n, size, (self.most,) * size, (1,) * size)
            for first, n, size in blocks
            if n and size
        ]

    def inputs(self, tile: _Tile, taps: Taps, lhs: str, rhs: str, count: int, sums: dict) -> None:
        whole, rest = divmod(count, self.most)
        if whole:
            with self.f.loop(whole) as c:
                at = (c, self.most)
                self._dots(tile, taps, self._at(lhs, at), self._at(rhs, at), self.most, sums)
        if rest:
            at = (1, whole * self.most)
            self._dots(tile, taps, self._at(lhs, at), self._at(rhs, at), rest, sums)

    def _dots(self, tile: _Tile, taps: Taps, lhs: str, rhs: str, used: int, sums: dict) -> None:
        plan, width = self.plan, self.most
        weights = [
            self._load(self._at(rhs, (v, plan.rhs_at[1])), width, used)
            for v in range(tile.lanes.size)
        ]
        for b in range(tile.batch):
            for j, element in taps.elements:
                place = self._at(lhs, (b, plan.lhs_at[1]), (element, plan.lhs_at[-1]))
                x = self._load(place, width, used)
                for v, weight in enumerate(weights):
                    self.add_product(sums[b, j, v], x, weight, width)

    def finish(self, value: str, place: str, lanes: Lanes, v: int) -> None:
        t, vector = self.t, self._vector(self.most)
        if self.plan.dtype.kind == "f":
            name = f"@llvm.vector.reduce.fadd.{self.letter(self.most)}"
            self.declared.add(f"declare {t} {name}({t}, {vector})")
            total = self.f.emit(f"call reassoc {t} {name}({t} -0.0, {vector} {value})")
        else:
            name = f"@llvm.vector.reduce.add.{self.letter(self.most)}"
            self.declared.add(f"declare {t} {name}({vector})")
            total = self.f.emit(f"call {t} {name}({vector} {value})")
        self.f.do(f"store {t} {total}, ptr {place}")


__all__ = ["chunks_of", "result_size", "sums_in_registers", "unit_of", "vector_bits"]
