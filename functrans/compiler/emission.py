"""Kernels as LLVM text: one function per distinct loop nest.

A kernel takes raw, non-overlapping pointers and has its extents built in. It returns 0, or 1 after
it wrote (check, offending index) to the status words. `drivers` has what calls kernels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from functrans import loop_ir as ir
from functrans.compiler import complex_math, scalar_math
from functrans.compiler.scalar_types import literal, llvm_type, memory_type, part_dtype

# Only accumulators may be reordered, and a product may go into one unrounded; see loop_ir.Update.
# Neither nnan nor ninf: reductions see infinities and NaNs.
UNROLL_EXTENT = 7  # sums of 6 columns take 6 times longer rolled, of 8 a third
UNROLL_STATEMENTS = 64
_REDUCE_FLAGS = "reassoc nsz contract"


class Module:
    """The text of one LLVM module: needed declarations and functions, each once."""

    def __init__(self) -> None:
        self.parts: dict[str, None] = {}
        self.kernels: dict[ir.Kernel, str] = {}

    def need(self, text: str) -> None:
        """Make sure the module contains `text`."""
        self.parts[text] = None

    def kernel(self, kernel: ir.Kernel) -> str:
        """The name of the function for a kernel, written once."""
        if kernel not in self.kernels:
            name = self.kernels[kernel] = f"kernel_{len(self.kernels)}"
            self.need(_KernelText(self, kernel, name).text())
        return self.kernels[kernel]

    def text(self) -> str:
        """The module."""
        return "\n\n".join([*self.parts, *self._kept()])

    def _kept(self) -> list[str]:
        """Vector versions of functions: LLVM would drop them before the vectorizer wants them."""
        vectors = [p for p in self.parts if p.startswith("define internal <")]
        names = ", ".join(f"ptr @{p.split('@')[1].split('(')[0]}" for p in vectors)
        used = f"@llvm.compiler.used = appending global [{len(vectors)} x ptr] [{names}]"
        return [f'{used}, section "llvm.metadata"'] if vectors else []


class FunctionBody:
    """Instructions of one function, with fresh names and labels."""

    def __init__(self, module: Module):
        self.module = module
        self.lines: list[str] = []
        self.count = 0
        self.label = "entry"

    def need(self, declaration: str) -> None:
        """Make sure the module has this declaration or function."""
        self.module.need(declaration)

    def emit(self, text: str) -> str:
        """Append `name = text`; returns the name."""
        self.count += 1
        name = f"%t{self.count}"
        self.lines.append(f"  {name} = {text}")
        return name

    def do(self, text: str) -> None:
        """Append an instruction without a result."""
        self.lines.append(f"  {text}")

    def fresh_label(self, hint: str) -> str:
        """A new block label."""
        self.count += 1
        return f"{hint}{self.count}"

    def start(self, label: str) -> None:
        """Begin a block."""
        self.lines.append(f"{label}:")
        self.label = label


class _KernelText(FunctionBody):
    def __init__(self, module: Module, kernel: ir.Kernel, name: str):
        super().__init__(module)
        self.kernel = kernel
        self.name = name
        self.params = {p.name: p for p in kernel.params}
        self.values: dict[str, str] = {}  # scalar name -> LLVM operand
        self.dtypes: dict[str, np.dtype] = {}
        self.variables: dict[str, str] = {}  # loop variable -> LLVM operand
        self.accumulators: dict[str, str] = {}  # accumulator -> its stack slot
        self.checks = {code: i for i, code in enumerate(kernel.checks)}
        self.products = _products_of_sums(kernel.body)

    def text(self) -> str:
        pointers = [f"ptr noalias {_extent(p)} %{p.name}" for p in self.kernel.params]
        checks = [f"i64 %check{i}" for i in range(len(self.kernel.checks))]
        status = ["ptr %status"] if checks else []
        for acc in (s for s in ir.walk(self.kernel.body) if isinstance(s, ir.Init)):
            slot = self.accumulators[acc.name] = f"%slot.{acc.name}"
            self.lines.append(f"  {slot} = alloca {memory_type(acc.dtype)}")
            self.dtypes[acc.name] = acc.dtype
        self.body(self.kernel.body)
        head = ", ".join([*pointers, *checks, *status])
        # Constants of long formulas go to the stack, whole cache lines each.
        attributes = 'noinline nounwind alignstack(64) "prefer-vector-width"="512"'
        return "\n".join(
            [f"define internal i32 @{self.name}({head}) {attributes} {{", "entry:", *self.lines,
             "  ret i32 0", "}"]
        )  # fmt: skip

    def body(self, statements: Iterable[ir.Stmt]) -> None:
        for stmt in statements:
            getattr(self, "_" + type(stmt).__name__.lower())(stmt)

    # ------------------------------------------------------------------ operands and places

    def operand(self, x: ir.Operand, dtype: np.dtype) -> str:
        if isinstance(x, ir.Const):
            return literal(x.value, dtype)
        if x in self.accumulators:
            return self._read(self.accumulators[x], self.dtypes[x])
        return self.values[x]

    def dtype_of(self, x: ir.Operand) -> np.dtype:
        return x.value.dtype if isinstance(x, ir.Const) else self.dtypes[x]

    def affine(self, index: ir.Affine) -> str:
        total = str(index.offset) if index.offset or not index.terms else None
        for name, coefficient in index.terms:
            term = self._index_operand(name)
            if coefficient != 1:
                term = self.emit(f"mul nsw i64 {term}, {coefficient}")
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
        terms: dict[str, int] = {}
        offset, stride = 0, 1
        for extent, affine in zip(reversed(param.shape), reversed(index), strict=True):
            offset += affine.offset * stride
            for name, coefficient in affine.terms:
                terms[name] = terms.get(name, 0) + coefficient * stride
            stride *= extent
        flat = self.affine(ir.Affine(tuple(terms.items()), offset))
        t = memory_type(param.dtype)
        return self.emit(f"getelementptr inbounds {t}, ptr %{buffer}, i64 {flat}")

    def _read(self, pointer: str, dtype: np.dtype) -> str:
        value = self.emit(f"load {memory_type(dtype)}, ptr {pointer}")
        return self.emit(f"icmp ne i8 {value}, 0") if dtype.kind == "b" else value

    def _write(self, pointer: str, value: str, dtype: np.dtype) -> None:
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
            self.define(s.name, self._read(pointer, s.dtype), s.dtype)
            return
        if 0 in self.params[s.buffer].shape:
            self.define(s.name, self.other(s), s.dtype)
            return
        # The first element stands in for a place outside.
        guard = self.values[s.guard]
        pointer = self.emit(f"select i1 {guard}, ptr {pointer}, ptr %{s.buffer}")
        choice = [guard, self._read(pointer, s.dtype), self.other(s)]
        dtypes = [np.dtype(bool), s.dtype, s.dtype]
        value = scalar_math.lower_scalar(self, "select", choice, dtypes, s.dtype)
        self.define(s.name, value, s.dtype)

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
        self._write(self.place(s.buffer, s.index), value, dtype)

    def _storereduce(self, s: ir.StoreReduce) -> None:
        dtype = self.params[s.buffer].dtype
        pointer = self.place(s.buffer, s.index)
        self._write(
            pointer, self._combined(s.op, self._read(pointer, dtype), s.value, dtype), dtype
        )

    def _combined(self, op: str, before: str, value: ir.Operand, dtype: np.dtype) -> str:
        new = self.operand(value, dtype)
        if dtype.kind == "c" and op == "add":
            pairs = zip(
                complex_math.parts(self, before, dtype),
                complex_math.parts(self, new, dtype),
                strict=True,
            )
            t = llvm_type(part_dtype(dtype))
            sums = [self.emit(f"fadd {_REDUCE_FLAGS} {t} {x}, {y}") for x, y in pairs]
            return complex_math.pack(self, sums[0], sums[1], dtype)
        if dtype.kind == "f" and dtype.itemsize > 2:
            t, bits = llvm_type(dtype), 8 * dtype.itemsize
            if op in ("add", "mul"):
                return self.emit(f"f{op} {_REDUCE_FLAGS} {t} {before}, {new}")
            # NaN wins and the loop still vectorizes: llvm.maximum is a recurrence LLVM knows.
            return self.emit(f"call nsz {t} @llvm.{op}imum.f{bits}({t} {before}, {t} {new})")
        return scalar_math.lower_scalar(self, op, [before, new], [dtype, dtype], dtype)

    def _init(self, s: ir.Init) -> None:
        self._write(self.accumulators[s.name], literal(s.value.value, s.dtype), s.dtype)

    def _update(self, s: ir.Update) -> None:
        slot, dtype = self.accumulators[s.name], self.dtypes[s.name]
        self._write(slot, self._combined(s.op, self._read(slot, dtype), s.value, dtype), dtype)

    def _argupdate(self, s: ir.ArgUpdate) -> None:
        slot, dtype = self.accumulators[s.name], self.dtypes[s.name]
        position, index_dtype = self.accumulators[s.position], self.dtypes[s.position]
        best, t = self._read(slot, dtype), llvm_type(dtype)
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
        self.module.need('!3 = !{!"branch_weights", i32 1, i32 1000000}')
        self.start(take)
        self._write(slot, value, dtype)
        i64 = np.dtype(np.int64)
        here = scalar_math.lower_scalar(self, "convert", [self.affine(s.index)], [i64], index_dtype)
        self._write(position, here, index_dtype)
        self.do(f"br label %{skip}")
        self.start(skip)

    def _checkindex(self, s: ir.CheckIndex) -> None:
        wide = self._index_operand(s.value)
        signed = self.dtypes[s.value].kind == "i"
        wrapped = wide
        if signed:
            negative = self.emit(f"icmp slt i64 {wide}, 0")
            moved = self.emit(f"add i64 {wide}, {s.bound}")
            wrapped = self.emit(f"select i1 {negative}, i64 {moved}, i64 {wide}")
        good = self.emit(f"icmp ult i64 {wrapped}, {s.bound}")
        fine, bad = self.fresh_label("inside"), self.fresh_label("outside")
        self.do(f"br i1 {good}, label %{fine}, label %{bad}, !prof !0")
        self.module.need('!0 = !{!"branch_weights", i32 1000000, i32 1}')
        self.start(bad)
        self.do(f"store i64 %check{self.checks[s.code]}, ptr %status")
        second = self.emit("getelementptr i64, ptr %status, i64 1")
        self.do(f"store i64 {wide}, ptr {second}")
        self.do("ret i32 1")
        self.start(fine)
        i64 = np.dtype(np.int64)
        wrapped = scalar_math.lower_scalar(self, "convert", [wrapped], [i64], s.dtype)
        self.define(s.name, wrapped, s.dtype)

    def _loop(self, s: ir.Loop) -> None:
        if s.extent == 0:
            return
        if s.extent == 1 or _is_unrolled(s):
            for i in range(s.extent):
                self.variables[s.var] = str(i)
                self.body(s.body)
            return
        head, done = self.fresh_label("loop"), self.fresh_label("done")
        before = self.label
        variable = f"%i.{head}"
        self.do(f"br label %{head}")
        self.start(head)
        at = len(self.lines)
        self.lines.append("")
        self.variables[s.var] = variable
        self.body(s.body)
        following = self.emit(f"add nuw nsw i64 {variable}, 1")
        more = self.emit(f"icmp ult i64 {following}, {s.extent}")
        self.lines[at] = f"  {variable} = phi i64 [ 0, %{before} ], [ {following}, %{self.label} ]"
        self.do(f"br i1 {more}, label %{head}, label %{done}")
        self.start(done)


def _extent(param: ir.Param) -> str:
    """What LLVM may assume of a pointer: it may read all of the buffer, wherever that helps."""
    nbytes = math.prod(param.shape) * param.dtype.itemsize
    part = part_dtype(param.dtype) if param.dtype.kind == "c" else param.dtype
    readable = f" dereferenceable({nbytes})" if nbytes else ""
    return f"align {part.itemsize}{readable}"


def _is_unrolled(loop: ir.Loop) -> bool:
    """Short innermost loops are written out, so that the loop around them becomes vectors."""
    size = loop.extent * len(loop.body)
    innermost = not any(isinstance(s, ir.Loop) for s in loop.body)
    return innermost and loop.extent <= UNROLL_EXTENT and size <= UNROLL_STATEMENTS


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
