"""Kernels as LLVM text: one function per distinct loop nest.

A kernel is a `codegen.Unit`, `i32 f(ptr buffers, ptr numbers, ptr status)`, which takes pointers
and numbers out of their tables for the function that has the loops. That one gets raw pointers that
do not overlap. A kernel returns 0, or 1 + the position of the index check that failed, having
written the offending index to the second status word.

Large loops whose iterations are independent, or that only share sums, are functions of a range, so
that threads can share them; `shared_loops` has what that takes.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from functrans import loop_ir as ir
from functrans.compiler.code import shared_loops
from functrans.compiler.code.function_text import FunctionBody
from functrans.compiler.loops import loop_sizes
from functrans.compiler.words import complex_math, scalar_math
from functrans.compiler.words.scalar_types import literal, llvm_type, memory_type, part_dtype
from functrans.runtime.codegen import Unit

# Only accumulators may be reordered, and a product may go into one unrounded; see loop_ir.Update.
# Neither nnan nor ninf: reductions see infinities and NaNs.
UNROLL_EXTENT = 7  # sums of 6 columns take 6 times longer rolled, of 8 a third
UNROLL_STATEMENTS = 64
_REDUCE_FLAGS = "reassoc nsz contract"


@functools.lru_cache(maxsize=1024)
def kernel_unit(kernel: ir.Kernel) -> Unit:
    """The native function of a kernel."""

    def parts(name: str) -> Iterable[str]:
        text = KernelText(kernel, f"{name}.loops")
        function = text.function()
        return [*text.parts, function, _wrapper(kernel, name)]

    loops = [s for s in ir.walk(kernel.body) if isinstance(s, ir.Loop)]
    # Vectors that gather are hardly quicker than lookups one by one, and take three times as long
    # to compile.
    only_looks_up = bool(loops) and all(map(_looks_up, loops))
    return Unit(kernel_key(kernel), parts, runs_passes=not only_looks_up, has_loops=bool(loops))


LOOKUP_WORK = 8  # statements of an iteration up to which its lookup is what takes time


def _looks_up(loop: ir.Loop) -> bool:
    """Whether a loop does little but to read or write where its own scalars say."""
    if any(isinstance(s, ir.Loop) for s in loop.body):
        return True
    own = {s.name for s in loop.body if isinstance(s, ir.Load | ir.Let | ir.CheckIndex)}
    places = (s.index for s in loop.body if isinstance(s, ir.Load | ir.Store | ir.StoreReduce))
    names = {name for index in places for axis in index for name, _ in axis.terms}
    return bool(names & own) and sum(map(loop_sizes.cost, loop.body)) <= LOOKUP_WORK


def kernel_key(kernel: ir.Kernel) -> str:
    """A text that only equal kernels have."""
    out: list[str] = []
    _write_key(kernel, out)
    return " ".join(out)


def _write_key(x: Any, out: list[str]) -> None:
    if type(x) is str:
        out.append(x)
    elif type(x) is tuple:
        out.append(f"({len(x)}")
        for y in x:
            _write_key(y, out)
    elif x is None or isinstance(x, int):
        out.append(repr(x))
    elif isinstance(x, np.dtype):
        out.append(x.str)
    elif isinstance(x, ir.Const):
        out.append(f"{x.value.dtype.str}:{x.value.tobytes().hex()}")
    else:
        out.append(type(x).__name__)
        for field in x.__slots__:
            _write_key(getattr(x, field), out)


class KernelText(FunctionBody):
    """The statements of a kernel as instructions."""

    def __init__(self, kernel: ir.Kernel, name: str):
        super().__init__(fastmath=kernel.fastmath)
        self.kernel = kernel
        self.name = name
        self.params = {p.name: p for p in kernel.params}
        self.values: dict[str, str] = {n: f"%{n}" for n, _ in kernel.numbers}  # LLVM operands
        self.dtypes: dict[str, np.dtype] = dict(kernel.numbers)
        self.variables: dict[str, str] = {}  # loop variable -> LLVM operand
        self.accumulators: dict[str, str] = {}  # accumulator -> its stack slot
        self.checks = {code: i for i, code in enumerate(kernel.checks)}
        self.products = _products_of_sums(kernel.body)
        self.pointers = {p.name: f"%{p.name}" for p in kernel.params}
        self.slots: list[str] = []  # stack memory, allocated once at the beginning
        self.depth = 0

    def function(self) -> str:
        """The text of the function that has the loops."""
        self.declare(self.kernel.body)
        self.body(self.kernel.body)
        return self.text([*self.parameters(), "ptr %status"], "i32", "ret i32 0")

    def declare(self, body: tuple[ir.Stmt, ...]) -> None:
        """Give every accumulator of some statements a slot."""
        for s in ir.walk(body):
            if isinstance(s, ir.Init):
                self.accumulators[s.name] = self.slot(memory_type(s.dtype))
                self.dtypes[s.name] = s.dtype

    def slot(self, t: str) -> str:
        """Stack memory of a type."""
        self.count += 1
        self.slots.append(f"  %slot{self.count} = alloca {t}")
        return f"%slot{self.count}"

    def parameters(self) -> list[str]:
        """The buffers and numbers of the kernel, as they are declared."""
        params = [f"ptr noalias {_extent(p)} %{p.name}" for p in self.kernel.params]
        return params + [f"{llvm_type(d)} %{n}" for n, d in self.kernel.numbers]

    def text(self, params: Sequence[str], result: str, end: str) -> str:
        """The function of what was emitted."""
        head = f"define internal {result} @{self.name}({', '.join(params)})"
        # Constants of long formulas go to the stack, whole cache lines each.
        attributes = 'noinline nounwind alignstack(64) "prefer-vector-width"="512"'
        lines = [f"{head} {attributes} {{", "entry:", *self.slots, *self.lines, f"  {end}", "}"]
        return "\n".join(lines)

    def body(self, statements: Iterable[ir.Stmt]) -> None:
        for stmt in statements:
            getattr(self, "_" + type(stmt).__name__.lower())(stmt)

    # ------------------------------------------------------------------ operands and places

    def operand(self, x: ir.Operand, dtype: np.dtype) -> str:
        if isinstance(x, ir.Const):
            return literal(x.value, dtype)
        if x in self.accumulators:
            return self.read(self.accumulators[x], self.dtypes[x])
        return self.values[x]

    def dtype_of(self, x: ir.Operand) -> np.dtype:
        return x.value.dtype if isinstance(x, ir.Const) else self.dtypes[x]

    def extent(self, value: ir.Extent) -> str:
        """An extent as an operand."""
        return self.values[value] if isinstance(value, str) else str(value)

    def affine(self, index: ir.Affine) -> str:
        total = self.extent(index.offset) if index.offset or not index.terms else None
        for name, coefficient in index.terms:
            term = self._index_operand(name)
            if coefficient != 1:
                term = self.emit(f"mul nsw i64 {term}, {self.extent(coefficient)}")
            total = term if total is None else self.emit(f"add nsw i64 {total}, {term}")
        return total or "0"

    def _index_operand(self, name: str) -> str:
        if name in self.variables:
            return self.variables[name]
        value, dtype = self.operand(name, self.dtypes[name]), self.dtypes[name]
        if dtype.itemsize == 8:
            return value
        how = "sext" if dtype.kind == "i" else "zext"
        return self.emit(f"{how} {llvm_type(dtype)} {value} to i64")

    def place(self, buffer: str, index: Sequence[ir.Affine]) -> str:
        param = self.params[buffer]
        flat = self.affine(index[0] if len(index) == 1 else _flat(index, param.shape))
        t = memory_type(param.dtype)
        return self.emit(f"getelementptr inbounds {t}, ptr {self.pointers[buffer]}, i64 {flat}")

    def read(self, pointer: str, dtype: np.dtype) -> str:
        """The value in memory."""
        value = self.emit(f"load {memory_type(dtype)}, ptr {pointer}")
        return self.emit(f"icmp ne i8 {value}, 0") if dtype.kind == "b" else value

    def write(self, pointer: str, value: str, dtype: np.dtype) -> None:
        """Put a value into memory."""
        if dtype.kind == "b":
            value = self.emit(f"zext i1 {value} to i8")
        self.do(f"store {memory_type(dtype)} {value}, ptr {pointer}")

    def define(self, name: str, value: str, dtype: np.dtype) -> None:
        self.values[name] = value
        self.dtypes[name] = dtype

    # ------------------------------------------------------------------ statements

    def _load(self, s: ir.Load) -> None:
        pointer = self.place(s.buffer, s.index)
        if s.guard is None:
            self.define(s.name, self.read(pointer, s.dtype), s.dtype)
            return
        if 0 in self.params[s.buffer].shape:
            self.define(s.name, self.other(s), s.dtype)
            return
        # A branch becomes a masked load of a vector; of a selected pointer it would be a lookup.
        inside, after, before = self.fresh_label("inside"), self.fresh_label("after"), self.label
        self.do(f"br i1 {self.values[s.guard]}, label %{inside}, label %{after}")
        self.start(inside)
        value = self.read(pointer, s.dtype)
        self.do(f"br label %{after}")
        self.start(after)
        pairs = f"[ {value}, %{inside} ], [ {self.other(s)}, %{before} ]"
        self.define(s.name, self.emit(f"phi {llvm_type(s.dtype)} {pairs}"), s.dtype)

    def other(self, s: ir.Load) -> str:
        return literal(s.other.value if s.other else s.dtype.type(0), s.dtype)

    def _let(self, s: ir.Let) -> None:
        in_dtypes = [self.dtype_of(a) for a in s.args]
        args = [self.operand(a, d) for a, d in zip(s.args, in_dtypes, strict=True)]
        if s.name in self.products and s.dtype.kind == "f" and s.dtype.itemsize > 2:
            product = f"fmul contract {llvm_type(s.dtype)} {args[0]}, {args[1]}"
            self.define(s.name, self.emit(product), s.dtype)
            return
        self.define(s.name, scalar_math.lower_scalar(self, s.op, args, in_dtypes, s.dtype), s.dtype)

    def _indexvalue(self, s: ir.IndexValue) -> None:
        i64 = np.dtype(np.int64)
        value = scalar_math.lower_scalar(self, "convert", [self.affine(s.index)], [i64], s.dtype)
        self.define(s.name, value, s.dtype)

    def _store(self, s: ir.Store) -> None:
        dtype = self.params[s.buffer].dtype
        value = self.operand(s.value, dtype)
        self.write(self.place(s.buffer, s.index), value, dtype)

    def _storereduce(self, s: ir.StoreReduce) -> None:
        dtype = self.params[s.buffer].dtype
        pointer, new = self.place(s.buffer, s.index), self.operand(s.value, dtype)
        self.write(pointer, self.combined(s.op, self.read(pointer, dtype), new, dtype), dtype)

    def combined(self, op: str, before: str, new: str, dtype: np.dtype) -> str:
        """One step of a reduction."""
        if dtype.kind == "c" and op == "add":
            pairs = zip(
                complex_math.parts(self, before, dtype),
                complex_math.parts(self, new, dtype),
                strict=True,
            )
            t = llvm_type(part_dtype(dtype))
            sums = [self.emit(f"fadd {_REDUCE_FLAGS} {t} {x}, {y}") for x, y in pairs]
            return complex_math.pack(self, sums[0], sums[1], dtype)
        if dtype.kind == "f" and dtype.itemsize > 2 and op != "logaddexp":
            t, bits = llvm_type(dtype), 8 * dtype.itemsize
            if op in ("add", "mul"):
                return self.emit(f"f{op} {_REDUCE_FLAGS} {t} {before}, {new}")
            # NaN wins and the loop still vectorizes: llvm.maximum is a recurrence LLVM knows.
            return self.emit(f"call nsz {t} @llvm.{op}imum.f{bits}({t} {before}, {t} {new})")
        return scalar_math.lower_scalar(self, op, [before, new], [dtype, dtype], dtype)

    def _init(self, s: ir.Init) -> None:
        self.write(self.accumulators[s.name], literal(s.value.value, s.dtype), s.dtype)

    def _update(self, s: ir.Update) -> None:
        slot, dtype = self.accumulators[s.name], self.dtypes[s.name]
        new = self.operand(s.value, dtype)
        if s.op == "set":
            self.write(slot, new, dtype)
            return
        self.write(slot, self.combined(s.op, self.read(slot, dtype), new, dtype), dtype)

    def _argupdate(self, s: ir.ArgUpdate) -> None:
        slot, dtype = self.accumulators[s.name], self.dtypes[s.name]
        position, index_dtype = self.accumulators[s.position], self.dtypes[s.position]
        best, t = self.read(slot, dtype), llvm_type(dtype)
        value = self.operand(s.value, dtype)
        # "u" with floats: greater, or one of the two is NaN; then best must not be it.
        kind = {"f": "fcmp u", "i": "icmp s"}.get(dtype.kind, "icmp u")
        better = self.emit(f"{kind}{'gt' if s.op == 'max' else 'lt'} {t} {value}, {best}")
        if dtype.kind == "f":
            old_number = self.emit(f"fcmp ord {t} {best}, {best}")
            better = self.emit(f"and i1 {better}, {old_number}")
        # A new best is rare: a predicted branch takes a fifth of the time of two selects.
        take, skip = self.fresh_label("better"), self.fresh_label("worse")
        self.do(f"br i1 {better}, label %{take}, label %{skip}, !prof !3")
        self.need('!3 = !{!"branch_weights", i32 1, i32 1000000}')
        self.start(take)
        self.write(slot, value, dtype)
        i64 = np.dtype(np.int64)
        here = scalar_math.lower_scalar(self, "convert", [self.affine(s.index)], [i64], index_dtype)
        self.write(position, here, index_dtype)
        self.do(f"br label %{skip}")
        self.start(skip)

    def _checkindex(self, s: ir.CheckIndex) -> None:
        wide = self._index_operand(s.value)
        signed = self.dtypes[s.value].kind == "i"
        wrapped = wide
        if signed:
            negative = self.emit(f"icmp slt i64 {wide}, 0")
            moved = self.emit(f"add i64 {wide}, {self.extent(s.bound)}")
            wrapped = self.emit(f"select i1 {negative}, i64 {moved}, i64 {wide}")
        good = self.emit(f"icmp ult i64 {wrapped}, {self.extent(s.bound)}")
        fine, bad = self.fresh_label("inside"), self.fresh_label("outside")
        self.do(f"br i1 {good}, label %{fine}, label %{bad}, !prof !0")
        self.need('!0 = !{!"branch_weights", i32 1000000, i32 1}')
        self.start(bad)
        second = self.emit("getelementptr i64, ptr %status, i64 1")
        self.do(f"store i64 {wide}, ptr {second}")
        self.do(f"ret i32 {1 + self.checks[s.code]}")
        self.start(fine)
        i64 = np.dtype(np.int64)
        wrapped = scalar_math.lower_scalar(self, "convert", [wrapped], [i64], s.dtype)
        self.define(s.name, wrapped, s.dtype)

    def _loop(self, s: ir.Loop) -> None:
        if s.extent == 0:
            return
        if isinstance(s.extent, int) and (s.extent == 1 or _is_unrolled(s, s.extent)):
            for i in range(s.extent):
                self.variables[s.var] = str(i)
                self.body(s.body)
        elif s.is_shared:
            shared_loops.emit(self, s)
        elif s.is_pairwise:
            shared_loops.emit_sum(self, s, "0", self.extent(s.extent))
        else:
            self.over(s, "0", self.extent(s.extent))

    def _while(self, s: ir.While) -> None:
        head, inside, done = (self.fresh_label(x) for x in ("while", "iterate", "ended"))
        self.do(f"br label %{head}")
        self.start(head)
        self.body(s.test)
        flag = self.operand(s.flag, np.dtype(bool))
        self.do(f"br i1 {flag}, label %{inside}, label %{done}")
        self.start(inside)
        self.body(s.body)
        self.do(f"br label %{head}")
        self.start(done)

    def over(self, s: ir.Loop, begin: str, end: str) -> None:
        """The loop over `begin <= s.var < end`, which has iterations."""
        head, done = self.fresh_label("loop"), self.fresh_label("done")
        before = self.label
        variable = self.variables[s.var] = f"%i.{head}"
        self.do(f"br label %{head}")
        self.start(head)
        at = len(self.lines)
        self.lines.append("")
        self.depth += 1
        self.body(s.body)
        self.depth -= 1
        following = self.emit(f"add nuw nsw i64 {variable}, 1")
        more = self.emit(f"icmp ult i64 {following}, {end}")
        phi = f"phi i64 [ {begin}, %{before} ], [ {following}, %{self.label} ]"
        self.lines[at] = f"  {variable} = {phi}"
        self.do(f"br i1 {more}, label %{head}, label %{done}")
        self.start(done)


def _extent(param: ir.Param) -> str:
    """What LLVM may assume of a pointer: it may read all of the buffer, wherever that helps."""
    nbytes = math.prod(param.shape) * param.dtype.itemsize
    part = part_dtype(param.dtype) if param.dtype.kind == "c" else param.dtype
    readable = f" dereferenceable({nbytes})" if nbytes > 0 else ""
    return f"align {part.itemsize}{readable}"


def _flat(index: Sequence[ir.Affine], shape: tuple[int, ...]) -> ir.Affine:
    """The place of an element in a C-contiguous block, as one index."""
    terms: dict[str, Any] = {}
    offset: Any = 0
    stride = 1
    for extent, affine in zip(reversed(shape), reversed(index), strict=True):
        offset += affine.offset * stride
        for name, coefficient in affine.terms:
            terms[name] = terms.get(name, 0) + coefficient * stride
        stride *= extent
    return ir.Affine(tuple(terms.items()), offset)


def _wrapper(kernel: ir.Kernel, name: str) -> str:
    """The function that the outside calls: it reads its arguments from tables."""
    body = FunctionBody()
    args = [f"ptr {_entry(body, 'ptr', '%buffers', i)}" for i in range(len(kernel.params))]
    for i, (_, dtype) in enumerate(kernel.numbers):
        args.append(f"{llvm_type(dtype)} {_entry(body, llvm_type(dtype), '%numbers', i)}")
    status = body.emit(f"call i32 @{name}.loops({', '.join([*args, 'ptr %status'])})")
    head = f"define i32 @{name}(ptr %buffers, ptr %numbers, ptr %status) nounwind {{"
    return "\n".join([head, "entry:", *body.lines, f"  ret i32 {status}", "}"])


def _entry(body: FunctionBody, t: str, table: str, position: int) -> str:
    place = body.emit(f"getelementptr i64, ptr {table}, i64 {position}")
    return body.emit(f"load {t}, ptr {place}")


def _is_unrolled(loop: ir.Loop, extent: int) -> bool:
    """Short innermost loops are written out, so that the loop around them becomes vectors."""
    size = extent * len(loop.body)
    innermost = not any(isinstance(s, ir.Loop) for s in loop.body)
    return innermost and extent <= UNROLL_EXTENT and size <= UNROLL_STATEMENTS


def _products_of_sums(body: tuple[ir.Stmt, ...]) -> set[str]:
    """Products whose only use is to be added to an accumulator."""
    uses: Counter[str] = Counter()
    products, added = set(), set()
    for s in ir.walk(body):
        operands = s.args if isinstance(s, ir.Let) else ()
        if isinstance(s, ir.Store | ir.StoreReduce | ir.Update | ir.ArgUpdate):
            operands = (s.value,)
        uses.update(x for x in operands if isinstance(x, str))
        if isinstance(s, ir.Let) and s.op == "mul":
            products.add(s.name)
        if isinstance(s, ir.Update) and s.op == "add" and isinstance(s.value, str):
            added.add(s.value)
    return {name for name in products & added if uses[name] == 1}
