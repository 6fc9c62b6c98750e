"""Large loops: shared among threads, and their sums taken pairwise.

An outermost loop whose iterations are independent, or that only share sums, is a function of a
range, `@kernel.shared(buffers, numbers, captured, partials, begin, end)`. Where there is enough to
do at run time, the pool (`runtime/threads`) runs it in pieces through `@kernel.piece(env, begin,
end)`; else it is called for the whole range.

Long sums of floats are sums of blocks of `BLOCK`, added up as a binary tree, so that the rounding
error grows with the logarithm of the length, as in NumPy's pairwise summation (Higham, "The
accuracy of floating point summation", SIAM J. Sci. Comput. 14(4), 1993). A shared loop with sums
is cut into spans of fixed length, each with sums of its own, which are then added up as a tree,
too: which thread takes a span makes no difference to the result. Sums in memory, over the rows of
a matrix, say, are such sums: each span has rows of its own to add to.

A piece that finds an index out of bounds ends there. The caller then runs the loop once more from
the first such piece, alone, and so reports the failure that comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from functrans import loop_ir as ir
from functrans.compiler.code.function_text import FunctionBody
from functrans.compiler.loops import loop_sizes
from functrans.compiler.loops.loop_sizes import BLOCK, ENOUGH, SPAN_OF_ROWS
from functrans.compiler.words.scalar_types import literal, llvm_type, memory_type
from functrans.runtime import threads

LEVELS = 48  # of the tree: more than the logarithm of any number of blocks
SPAN = 64 * BLOCK  # iterations of an innermost loop with sums of their own
SPANS = 16  # of a loop with sums in memory, each of which costs memory
LEAST_ROWS = 4  # and has at least these iterations to make up for it
PIECE = 1 << 15  # and the least of them that a piece is cut to
PIECES = 16  # more are not needed for two threads, or eight, to end together
_SLOT_BYTES = 16  # hold any scalar
_SLOT = f"[{_SLOT_BYTES} x i8]"
# Stacks are small, 256 KiB in some threads: what grows with shapes comes from the heap.
_TAKE = """declare ptr @malloc(i64)
define internal ptr @ft.take(i64 %nbytes, i1 %wanted) alwaysinline {
  br i1 %wanted, label %take, label %none
take:
  %memory = call ptr @malloc(i64 %nbytes)
  ret ptr %memory
none:
  ret ptr null
}"""
_GIVE = """declare void @free(ptr)
define internal void @ft.give(ptr %memory) alwaysinline {
  %some = icmp ne ptr %memory, null
  br i1 %some, label %give, label %none
give:
  call void @free(ptr %memory)
  br label %none
none:
  ret void
}"""


# ---------------------------------------------------------------------------- names


def _operands(s: ir.Stmt) -> Iterator[Any]:
    """The scalars a statement reads, by name; other things, too, which are no names of scalars."""
    for a in getattr(s, "index", ()) if isinstance(getattr(s, "index", None), tuple) else ():
        yield from (name for name, _ in a.terms)
    if isinstance(s, ir.IndexValue | ir.ArgUpdate):
        yield from (name for name, _ in s.index.terms)
    if isinstance(s, ir.Load):
        yield s.guard
    if isinstance(s, ir.Let):
        yield from s.args
    if isinstance(s, ir.Store | ir.StoreReduce | ir.Update | ir.ArgUpdate | ir.CheckIndex):
        yield s.value


def _captured(f: Any, loop: ir.Loop, updated: dict[str, str]) -> list[str]:
    """The scalars from outside that a loop reads, in order."""
    numbers = {name for name, _ in f.kernel.numbers}
    known = (f.values.keys() | f.accumulators.keys()) - numbers - updated.keys()
    own = {getattr(s, "name", None) for s in ir.walk(loop.body)}
    names = dict.fromkeys(x for s in ir.walk(loop.body) for x in _operands(s))
    return [x for x in names if isinstance(x, str) and x in known and x not in own]


# ---------------------------------------------------------------------------- sharing


def emit(f: Any, loop: ir.Loop) -> None:
    """Append a loop to the kernel that `f` writes, as a function that threads may share."""
    shared = _Shared(f, loop)
    function = shared.function()
    f.parts |= shared.text.parts
    f.need(function)
    f.need(shared.piece())
    shared.call()


class _Shared:
    """One shared loop: its function, the piece that the pool calls, and the call."""

    def __init__(self, f: Any, loop: ir.Loop):
        self.f, self.loop = f, loop
        self.updated = loop_sizes.updated(loop)
        self.summed = {s.buffer: s for s in loop_sizes.summed(loop)}
        self.has_spans = bool(self.updated or self.summed)
        self.has_checks = any(isinstance(s, ir.CheckIndex) for s in ir.walk(loop.body))
        self.captured = _captured(f, loop, self.updated)
        self.arguments = self._arguments()
        self.name = f"{f.name}.shared{f.count}"
        self.text = type(f)(f.kernel, self.name)
        self.text.depth = 1

    def _arguments(self) -> list[tuple[str, str]]:
        """The type and the value of what is passed along."""
        f = self.f
        out = [("ptr", f"%{p.name}") for p in f.kernel.params]
        out += [(llvm_type(d), f"%{n}") for n, d in f.kernel.numbers]
        for name in self.captured:
            out.append((llvm_type(f.dtypes[name]), f.operand(name, f.dtypes[name])))
        return out

    # ------------------------------------------------------------------ the function

    def function(self) -> str:
        """The loop over a range of iterations, or of spans of them."""
        g = self.text
        params = g.parameters()
        for name in self.captured:
            dtype = self.f.dtypes[name]
            g.define(name, f"%{name}.captured", dtype)
            params.append(f"{llvm_type(dtype)} %{name}.captured")
        for buffer in self.summed:
            params += [f"ptr noalias %{buffer}.spans", f"i64 %{buffer}.size"]
        g.declare(self.loop.body)
        if self.has_spans:
            self._spans(g)
        else:
            g.over(self.loop, "%begin", "%end")
        params += ["ptr noalias %partials", "i64 %span", "ptr %status", "i64 %begin", "i64 %end"]
        return g.text(params, "i32", "ret i32 0")

    def _spans(self, g: Any) -> None:
        """For each span: its sums, from nothing, into its places among the partial results."""
        for name in self.updated:
            g.dtypes[name] = self.f.dtypes[name]
            g.accumulators[name] = g.slot(memory_type(g.dtypes[name]))
        span, close = _counted(g, "%begin", "%end")
        for name, op in self.updated.items():
            g.write(g.accumulators[name], _identity(op, g.dtypes[name]), g.dtypes[name])
        for store in self.summed.values():
            self._fill(g, span, store)
        low = g.emit(f"mul nuw nsw i64 {span}, %span")
        high = _least(g, g.emit(f"add nuw nsw i64 {low}, %span"), g.extent(self.loop.extent))
        if self.loop.is_pairwise:
            emit_sum(g, self.loop, low, high)
        else:
            g.over(self.loop, low, high)
        first = g.emit(f"mul nuw nsw i64 {span}, {len(self.updated)}")
        for k, name in enumerate(self.updated):
            place = _slot_at(g, "%partials", g.emit(f"add nuw nsw i64 {first}, {k}"))
            g.write(place, g.read(g.accumulators[name], g.dtypes[name]), g.dtypes[name])
        close()

    def _fill(self, g: Any, span: str, store: ir.StoreReduce) -> None:
        """Sums in memory of a span: in memory of its own, nothing as yet."""
        buffer, dtype = store.buffer, g.params[store.buffer].dtype
        t, size = memory_type(dtype), f"%{store.buffer}.size"
        offset = g.emit(f"mul nuw nsw i64 {span}, {size}")
        own = g.emit(f"getelementptr {t}, ptr %{buffer}.spans, i64 {offset}")
        g.pointers[buffer] = own
        i, close = _counted(g, "0", size)
        g.write(g.emit(f"getelementptr {t}, ptr {own}, i64 {i}"), _identity(store.op, dtype), dtype)
        close()

    # ------------------------------------------------------------------ the piece

    def piece(self) -> str:
        """What the pool calls: it takes the arguments out of their slots."""
        g = FunctionBody()
        args = []
        types = self._types()
        for i, t in enumerate(types):
            place = _slot_at(g, "%env", str(i))
            args.append(f"{t} {g.emit(f'load {t}, ptr {place}')}")
        args += [f"ptr {g.emit('alloca [2 x i64]')}", "i64 %begin", "i64 %end"]
        result = g.emit(f"call i32 @{self.name}({', '.join(args)})")
        if self.has_checks:
            failed, done = g.fresh_label("failed"), g.fresh_label("finished")
            g.do(f"br i1 {g.emit(f'icmp ne i32 {result}, 0')}, label %{failed}, label %{done}")
            g.start(failed)
            place = _slot_at(g, "%env", str(len(types)))
            g.emit(f"atomicrmw umin ptr {place}, i64 %begin seq_cst")
            g.do(f"br label %{done}")
            g.start(done)
        head = (
            f"define internal void @{self.name}.piece(ptr %env, i64 %begin, i64 %end) nounwind {{"
        )
        return "\n".join([head, "entry:", *g.lines, "  ret void", "}"])

    # ------------------------------------------------------------------ the call

    def _types(self) -> list[str]:
        """The types of all arguments but the range."""
        return [*(t for t, _ in self.arguments), *["ptr", "i64"] * len(self.summed), "ptr", "i64"]

    def call(self) -> None:
        """Run all of the loop, shared where there is enough to do; then add up the partial sums."""
        f = self.f
        extent = f.extent(self.loop.extent)
        each = _work(f, self.loop.body)
        enough = f.emit(f"icmp ugt i64 {f.emit(f'mul i64 {extent}, {each}')}, {ENOUGH}")
        sizes = {buffer: self._size(s.index[0]) for buffer, s in self.summed.items()}
        span, count, enough, rows = self._cut(extent, enough, sizes)
        partials, taken = self._partials(count, enough) if self.updated else ("null", "null")
        values = [v for _, v in self.arguments]
        spans = {}
        for buffer, size in sizes.items():
            place = f.emit(f"select i1 {enough}, ptr {rows[buffer]}, ptr %{buffer}")
            spans[buffer] = place
            values += [place, size]
        arguments = list(zip(self._types(), [*values, partials, span], strict=True))
        if self.has_spans:
            each = f.emit(f"mul i64 {each}, {span}")
        self._choose(arguments, enough, each, count)
        for k, (name, op) in enumerate(self.updated.items()):
            self._add_up(name, op, partials, count, k)
        for buffer, store in self.summed.items():
            self._add_up_memory(buffer, store, sizes[buffer], spans[buffer], count, enough)
        for memory in (taken, *rows.values()):
            self._give(memory)

    def _cut(
        self, extent: str, enough: str, sizes: dict[str, str]
    ) -> tuple[str, str, str, dict[str, str]]:
        """The length of a span; how many there are; whether it is worth it; memory for sums.

        Without memory for all spans of sums in memory there is one, which has all iterations.
        """
        f = self.f
        if not self.has_spans:
            return "1", extent, enough, {}
        if not self.summed:
            is_innermost = loop_sizes.is_innermost(self.loop)
            span = str(SPAN if is_innermost else SPAN_OF_ROWS)
            return span, _quotient(f, extent, span), enough, {}
        part = _greatest(f, _quotient(f, extent, str(SPANS)), str(LEAST_ROWS))
        count = _quotient(f, extent, part)
        enough = f.emit(f"and i1 {enough}, {f.emit(f'icmp ugt i64 {count}, 1')}")
        wanted = enough
        rows = {}
        for buffer, size in sizes.items():
            itemsize = f.params[buffer].dtype.itemsize
            nbytes = f.emit(f"mul i64 {f.emit(f'mul i64 {size}, {count}')}, {itemsize}")
            rows[buffer] = self._take(nbytes, wanted)
            enough = f.emit(f"and i1 {enough}, {f.emit(f'icmp ne ptr {rows[buffer]}, null')}")
        span = f.emit(f"select i1 {enough}, i64 {part}, i64 {extent}")
        return span, f.emit(f"select i1 {enough}, i64 {count}, i64 1"), enough, rows

    def _partials(self, count: str, enough: str) -> tuple[str, str]:
        """Memory for the partial results of spans; and that of it which is to be given back."""
        f = self.f
        places = f.emit(f"mul nuw nsw i64 {count}, {len(self.updated)}")
        taken = self._take(f.emit(f"mul nuw nsw i64 {places}, {_SLOT_BYTES}"), enough)
        none = f.emit(f"icmp eq ptr {taken}, null")
        few = f.emit(f"select i1 {none}, i64 {places}, i64 0")
        near = f.emit(f"alloca {_SLOT}, i64 {few}, align 16")
        return f.emit(f"select i1 {none}, ptr {near}, ptr {taken}"), taken

    def _take(self, nbytes: str, wanted: str) -> str:
        """Memory from the heap; null where it is not wanted, or there is none."""
        f = self.f
        f.need(_TAKE)
        return f.emit(f"call ptr @ft.take(i64 {nbytes}, i1 {wanted})")

    def _give(self, memory: str) -> None:
        if memory != "null":
            self.f.need(_GIVE)
            self.f.do(f"call void @ft.give(ptr {memory})")

    def _size(self, index: ir.Affine) -> str:
        """How many elements sums in memory have: one more than the last index."""
        f, extents = self.f, loop_sizes.extents(self.loop)
        total = f.emit(f"add i64 {f.extent(index.offset)}, 1")
        for name, coefficient in index.terms:
            last = f.emit(f"sub i64 {f.extent(extents[name])}, 1")
            reach = f.emit(f"mul i64 {last}, {f.extent(coefficient)}")
            total = f.emit(f"add i64 {total}, {reach}")
        return total

    def _choose(self, arguments: list[tuple[str, str]], enough: str, each: str, count: str) -> None:
        f = self.f
        f.need("@ft.pool = external global i64")
        place = f.emit(f"getelementptr i64, ptr @ft.pool, i64 {threads.SHARE}")
        share = f.emit(f"load ptr, ptr {place}")
        ready = f.emit(f"icmp ne ptr {share}, null")
        both = f.emit(f"and i1 {enough}, {ready}")
        many, few, done = (f.fresh_label(x) for x in ("share", "alone", "finished"))
        f.do(f"br i1 {both}, label %{many}, label %{few}")
        args = ", ".join(f"{t} {value}" for t, value in arguments)
        f.start(few)
        self._alone(args, "0", count)
        f.do(f"br label %{done}")
        f.start(many)
        env = f.slot(f"[{len(arguments) + 1} x {_SLOT}], align 16")
        for i, (t, value) in enumerate(arguments):
            f.do(f"store {t} {value}, ptr {_slot_at(f, env, str(i))}")
        failed = _slot_at(f, env, str(len(arguments)))
        f.do(f"store i64 -1, ptr {failed}")
        size = self._piece_size(each, count)
        f.do(f"call void {share}(ptr @{self.name}.piece, ptr {env}, i64 {count}, i64 {size})")
        if self.has_checks:
            again = f.fresh_label("again")
            first = f.emit(f"load i64, ptr {failed}")
            f.do(f"br i1 {f.emit(f'icmp eq i64 {first}, -1')}, label %{done}, label %{again}")
            f.start(again)
            self._alone(args, first, count)
        f.do(f"br label %{done}")
        f.start(done)

    def _alone(self, args: str, begin: str, end: str) -> None:
        """Run a range in the caller, and leave the kernel with what failed."""
        f = self.f
        result = f.emit(f"call i32 @{self.name}({args}, ptr %status, i64 {begin}, i64 {end})")
        if self.has_checks:
            left, fine = f.fresh_label("left"), f.fresh_label("fine")
            f.do(f"br i1 {f.emit(f'icmp ne i32 {result}, 0')}, label %{left}, label %{fine}")
            f.start(left)
            f.do(f"ret i32 {result}")
            f.start(fine)

    def _piece_size(self, each: str, count: str) -> str:
        """How many iterations, or spans, are a piece; of single elements whole vectors."""
        f = self.f
        least = f.emit(f"udiv i64 {PIECE}, {each}")
        part = f.emit(f"udiv i64 {count}, {PIECES}")
        size = f.emit(f"add i64 {_greatest(f, least, part)}, 1")
        if self.has_spans or not loop_sizes.is_innermost(self.loop):
            return size
        return f.emit(f"and i64 {f.emit(f'add i64 {size}, 63')}, -64")

    def _add_up_memory(
        self, buffer: str, store: ir.StoreReduce, size: str, spans: str, count: str, enough: str
    ) -> None:
        """`buffer[i] = op(buffer[i], span[i])` for all spans in order, where there are several."""
        f, dtype = self.f, self.f.params[buffer].dtype
        t = memory_type(dtype)
        several, done = f.fresh_label("several"), f.fresh_label("added")
        f.do(f"br i1 {enough}, label %{several}, label %{done}")
        f.start(several)
        span, close_spans = _counted(f, "0", count)
        row = f.emit(f"mul i64 {span}, {size}")
        i, close = _counted(f, "0", size)
        at = f.emit(f"getelementptr {t}, ptr {spans}, i64 {f.emit(f'add i64 {row}, {i}')}")
        place = f.emit(f"getelementptr {t}, ptr %{buffer}, i64 {i}")
        total = f.combined(store.op, f.read(place, dtype), f.read(at, dtype), dtype)
        f.write(place, total, dtype)
        close()
        close_spans()
        f.do(f"br label %{done}")
        f.start(done)

    def _add_up(self, name: str, op: str, partials: str, count: str, k: int) -> None:
        """Combine partial results as a tree, in place, and the first of them with the sum."""
        f, stride = self.f, len(self.updated)
        dtype = f.dtypes[name]
        width, widen = _doubling(f, count)
        at, close = _counted_by(f, width, count)
        left = _slot_at(f, partials, f.emit(f"add i64 {f.emit(f'mul i64 {at}, {stride}')}, {k}"))
        other = f.emit(f"add i64 {at}, {width}")
        right = _slot_at(
            f, partials, f.emit(f"add i64 {f.emit(f'mul i64 {other}, {stride}')}, {k}")
        )
        f.write(left, f.combined(op, f.read(left, dtype), f.read(right, dtype), dtype), dtype)
        close()
        widen()
        first = f.read(_slot_at(f, partials, str(k)), dtype)
        slot = f.accumulators[name]
        f.write(slot, f.combined(op, f.read(slot, dtype), first, dtype), dtype)


def _work(f: Any, body: tuple[ir.Stmt, ...]) -> str:
    """About how many statements an iteration runs, as an operand."""
    fixed = 0
    total = ""
    for s in body:
        if isinstance(s, ir.Loop):
            part = f.emit(f"mul i64 {_work(f, s.body)}, {f.extent(s.extent)}")
            total = f.emit(f"add i64 {total}, {part}") if total else part
        else:
            fixed += loop_sizes.cost(s)
    return f.emit(f"add i64 {total}, {fixed}") if total else str(max(fixed, 1))


# ---------------------------------------------------------------------------- pairwise sums


def emit_sum(f: Any, loop: ir.Loop, begin: str, end: str) -> None:
    """Append an innermost loop with sums over `begin <= i < end`, a block at a time."""
    updated = loop_sizes.updated(loop).items()
    sums = [name for name, op in updated if op == "add" and _is_float(f, name)]
    before = {name: f.read(f.accumulators[name], f.dtypes[name]) for name in sums}
    trees = {name: f.slot(f"[{LEVELS} x {memory_type(f.dtypes[name])}]") for name in sums}
    length = f.emit(f"sub nuw nsw i64 {end}, {begin}")
    blocks = f.emit(f"udiv i64 {f.emit(f'add nuw nsw i64 {length}, {BLOCK - 1}')}, {BLOCK}")
    block, close = _counted(f, "0", blocks)
    for name in sums:
        f.write(f.accumulators[name], literal(0, f.dtypes[name]), f.dtypes[name])
    low = f.emit(f"add nuw nsw i64 {begin}, {f.emit(f'mul nuw nsw i64 {block}, {BLOCK}')}")
    f.over(loop, low, _least(f, f.emit(f"add nuw nsw i64 {low}, {BLOCK}"), end))
    for name in sums:
        _carry(f, name, trees[name], block)
    close()
    for name in sums:
        _fold(f, name, trees[name], blocks, before[name])


def _is_float(f: Any, name: str) -> bool:
    return f.dtypes[name].kind in "fc"


def _carry(f: Any, name: str, tree: str, block: str) -> None:
    """Add the sum of a block to the tree: as a carry runs through a binary counter."""
    dtype, slot = f.dtypes[name], f.accumulators[name]
    t = memory_type(dtype)
    look, add, put = (f.fresh_label(x) for x in ("look", "carry", "put"))
    before = f.label
    f.do(f"br label %{look}")
    f.start(look)
    level, level_next, bits, bits_next = (f"%{x}.{look}" for x in ("level", "up", "bits", "rest"))
    f.lines.append(f"  {level} = phi i64 [ 0, %{before} ], [ {level_next}, %{add} ]")
    f.lines.append(f"  {bits} = phi i64 [ {block}, %{before} ], [ {bits_next}, %{add} ]")
    place = f.emit(f"getelementptr {t}, ptr {tree}, i64 {level}")
    odd = f.emit(f"trunc i64 {bits} to i1")
    f.do(f"br i1 {odd}, label %{add}, label %{put}")
    f.start(add)
    total = f.combined("add", f.read(place, dtype), f.read(slot, dtype), dtype)
    f.write(slot, total, dtype)
    f.do(f"{level_next} = add i64 {level}, 1")
    f.do(f"{bits_next} = lshr i64 {bits}, 1")
    f.do(f"br label %{look}")
    f.start(put)
    f.write(place, f.read(slot, dtype), dtype)


def _fold(f: Any, name: str, tree: str, blocks: str, before: str) -> None:
    """The whole sum: of the levels that the number of blocks has bits for, lowest first."""
    dtype, slot = f.dtypes[name], f.accumulators[name]
    f.write(slot, literal(0, dtype), dtype)
    head, take, skip, done = (f.fresh_label(x) for x in ("fold", "take", "skip", "folded"))
    level, up, bits, rest = (f"%{x}.{head}" for x in ("level", "up", "bits", "rest"))
    start = f.label
    f.do(f"br label %{head}")
    f.start(head)
    f.lines.append(f"  {level} = phi i64 [ 0, %{start} ], [ {up}, %{skip} ]")
    f.lines.append(f"  {bits} = phi i64 [ {blocks}, %{start} ], [ {rest}, %{skip} ]")
    f.do(f"br i1 {f.emit(f'trunc i64 {bits} to i1')}, label %{take}, label %{skip}")
    f.start(take)
    place = f.emit(f"getelementptr {memory_type(dtype)}, ptr {tree}, i64 {level}")
    f.write(slot, f.combined("add", f.read(place, dtype), f.read(slot, dtype), dtype), dtype)
    f.do(f"br label %{skip}")
    f.start(skip)
    f.do(f"{up} = add i64 {level}, 1")
    f.do(f"{rest} = lshr i64 {bits}, 1")
    f.do(f"br i1 {f.emit(f'icmp ne i64 {rest}, 0')}, label %{head}, label %{done}")
    f.start(done)
    f.write(slot, f.combined("add", before, f.read(slot, dtype), dtype), dtype)


# ---------------------------------------------------------------------------- small loops


def _counted(f: Any, begin: str, end: str) -> tuple[str, Any]:
    """Begin `for i in range(begin, end)`, which has iterations; the second result ends it."""
    head, done, before = f.fresh_label("count"), f.fresh_label("counted"), f.label
    variable = f"%i.{head}"
    f.do(f"br label %{head}")
    f.start(head)
    at = len(f.lines)
    f.lines.append("")

    def close() -> None:
        following = f.emit(f"add nuw nsw i64 {variable}, 1")
        phi = f"phi i64 [ {begin}, %{before} ], [ {following}, %{f.label} ]"
        f.lines[at] = f"  {variable} = {phi}"
        more = f.emit(f"icmp ult i64 {following}, {end}")
        f.do(f"br i1 {more}, label %{head}, label %{done}")
        f.start(done)

    return variable, close


def _doubling(f: Any, limit: str) -> tuple[str, Any]:
    """Begin `width = 1; while width < limit: ...; width *= 2`."""
    head, inside, done = (f.fresh_label(x) for x in ("width", "wide", "widest"))
    before, width = f.label, f"%width.{head}"
    f.do(f"br label %{head}")
    f.start(head)
    at = len(f.lines)
    f.lines.append("")
    more = f.emit(f"icmp ult i64 {width}, {limit}")
    f.do(f"br i1 {more}, label %{inside}, label %{done}")
    f.start(inside)

    def close() -> None:
        twice = f.emit(f"shl i64 {width}, 1")
        f.lines[at] = f"  {width} = phi i64 [ 1, %{before} ], [ {twice}, %{f.label} ]"
        f.do(f"br label %{head}")
        f.start(done)

    return width, close


def _counted_by(f: Any, width: str, limit: str) -> tuple[str, Any]:
    """Begin `i = 0; while i + width < limit: ...; i += 2 * width`."""
    head, inside, done = (f.fresh_label(x) for x in ("pair", "pairs", "paired"))
    before, variable = f.label, f"%i.{head}"
    f.do(f"br label %{head}")
    f.start(head)
    at = len(f.lines)
    f.lines.append("")
    more = f.emit(f"icmp ult i64 {f.emit(f'add i64 {variable}, {width}')}, {limit}")
    f.do(f"br i1 {more}, label %{inside}, label %{done}")
    f.start(inside)

    def close() -> None:
        following = f.emit(f"add i64 {variable}, {f.emit(f'shl i64 {width}, 1')}")
        f.lines[at] = f"  {variable} = phi i64 [ 0, %{before} ], [ {following}, %{f.label} ]"
        f.do(f"br label %{head}")
        f.start(done)

    return variable, close


def _slot_at(f: Any, base: str, position: str) -> str:
    return f.emit(f"getelementptr {_SLOT}, ptr {base}, i64 {position}")


def _least(f: Any, a: str, b: str) -> str:
    return f.emit(f"call i64 @llvm.umin.i64(i64 {a}, i64 {b})")


def _quotient(f: Any, a: str, b: str) -> str:
    """`a / b`, rounded up."""
    beyond = f.emit(f"add nuw nsw i64 {a}, {f.emit(f'sub i64 {b}, 1')}")
    return f.emit(f"udiv i64 {beyond}, {b}")


def _greatest(f: Any, a: str, b: str) -> str:
    return f.emit(f"call i64 @llvm.umax.i64(i64 {a}, i64 {b})")


def _identity(op: str, dtype: np.dtype) -> str:
    """What an accumulator of a span begins with, as an operand."""
    return literal(ir.identity(op, dtype), dtype)
