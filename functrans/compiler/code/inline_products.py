"""Small matrix products as loops over whole vectors.

A tile of some rows and up to `_VECTORS` vectors of the output's columns is kept in registers while
k runs: the right operand is read by vectors, the left one by scalars. A right operand that is
contiguous along k instead of along its columns is packed first.

Extents and strides are numbers, so one text serves all sizes that are cut into tiles of one form.
What is left over at the edges takes no text of its own: the last tile, and the last vector of a
row, end at the edge, and compute some elements a second time.

What no tile fits - vectors contiguous along k, booleans, half precision, complex numbers - is a sum
for each element of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from functrans import loop_ir as ir
from functrans.compiler.code.function_text import FunctionBody
from functrans.compiler.words import scalar_math
from functrans.compiler.words.scalar_types import literal, llvm_type, memory_type
from functrans.runtime import symbols, threads
from functrans.runtime.codegen import Unit

SHARED_WORK = 1 << 19  # of a batch that threads share: about 15 us
PACK_LIMIT = 1 << 14  # elements of a packed operand, which is on the stack
_ROWS = 4  # of a tile, where there are so many
_SQUARE = 4  # rows of what is packed at once; 8 take a tenth less time, and twice that to compile
SHORT = 64  # sums of up to so many products have their number in the text


def routine(step: ir.MatMul, order: Sequence[int]) -> tuple[Unit, tuple[int, ...]]:
    """The native function of a product whose (lhs, rhs, out) are buffers in an order."""
    text = _Tiles(step) if _has_tiles(step) else _Elements(step)
    text.write()
    lines, numbers = "\n".join(text.lines), tuple(text.numbers.values())
    key = f"product {tuple(order)} {step.dtype.str} {[*text.numbers]} {text.tasks}\n{lines}"
    parts = lambda name: [*text.parts, *text.functions(name, order)]  # noqa: E731
    return Unit(key, parts, runs_passes=text.runs_passes), numbers


def _has_tiles(step: ir.MatMul) -> bool:
    _, _, n, k = step.sizes
    dtype = step.dtype
    is_vectorized = dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize > 2)
    is_packed = step.rhs_strides[2] != 1
    along_rows = n > 1 and step.out_strides[2] == 1
    return is_vectorized and along_rows and not (is_packed and k * n > PACK_LIMIT)


class _Product(NamedTuple):
    """Where the matrices of one product of the batches begin."""

    lhs: str
    rhs: str
    out: str


class _Text(FunctionBody):
    """The loops over the batches. Numbers are parameters of the function, by name."""

    runs_passes = True

    def __init__(self, step: ir.MatMul) -> None:
        super().__init__()
        self.step = step
        self.numbers: dict[str, int] = {}
        self.tasks: tuple[str, str] | None = None  # that threads share, and how many are a piece

    def number(self, name: str, value: int) -> str:
        """A number that is given at run time."""
        self.numbers[name] = value
        return f"%{name}"

    def stride(self, name: str, value: int) -> str:
        """A stride: what is 0 or 1 is so for a layout, whatever the sizes."""
        return str(value) if value in (0, 1) else self.number(name, value)

    def loop(
        self,
        extent: str,
        run: Callable[[str, list[str]], Sequence[str] | None],
        carried: Sequence[tuple[str, str]] = (),
        begin: str = "0",
    ) -> Sequence[str]:
        """`for i in range(begin, extent): carried = run(i, carried)`; returns what is carried."""
        head, done, before = self.fresh_label("loop"), self.fresh_label("done"), self.label
        self.do(f"br label %{head}")
        self.start(head)
        at, variable = len(self.lines), f"%i.{head}"
        names = [f"%c{j}.{head}" for j in range(len(carried))]
        results = run(variable, names) or []
        following = self.emit(f"add nuw nsw i64 {variable}, 1")
        phis = [f"  {variable} = phi i64 [ {begin}, %{before} ], [ {following}, %{self.label} ]"]
        for name, (t, first), result in zip(names, carried, results, strict=True):
            phis.append(f"  {name} = phi {t} [ {first}, %{before} ], [ {result}, %{self.label} ]")
        self.lines[at:at] = phis
        more = self.emit(f"icmp ult i64 {following}, {extent}")
        self.do(f"br i1 {more}, label %{head}, label %{done}")
        self.start(done)
        return results

    def at(self, t: str, base: str, *terms: tuple[str, str]) -> str:
        """The pointer `base + sum(index * stride)`, in elements of type `t`."""
        offset = "0"
        for index, stride in terms:
            if "0" in (index, stride):
                continue
            if stride == "1" or index == "1":
                term = index if stride == "1" else stride
            else:
                term = self.emit(f"mul nsw i64 {index}, {stride}")
            offset = term if offset == "0" else self.emit(f"add nsw i64 {offset}, {term}")
        if offset == "0":
            return base
        return self.emit(f"getelementptr inbounds {t}, ptr {base}, i64 {offset}")

    def least(self, x: str, y: str) -> str:
        """The smaller of two numbers."""
        return self.emit(f"call i64 @llvm.umin.i64(i64 {x}, i64 {y})")

    # ------------------------------------------------------------------ batches

    def write(self) -> None:
        """Run over the batches; over a part of them, `begin <= i < end`, where threads share."""
        step = self.step
        count, batch = step.outer[0], step.sizes[0]
        work = math.prod(step.sizes[1:])
        if count * batch == 1:
            self.product(_Product("%a", "%b", "%c"))
        elif count * batch * work > SHARED_WORK:
            piece = max(1, SHARED_WORK // 4 // max(work, 1))
            self.tasks = self.number("tasks", count * batch), self.number("piece", piece)
            self.loop("%end", lambda i, _: self._task(i), begin="%begin")
        else:
            self.loop(self.number("tasks", count * batch), lambda i, _: self._task(i))

    def _task(self, i: str) -> None:
        step, outer = self.step, ""
        if step.outer[0] > 1:
            batch = self.number("batch", step.sizes[0])
            outer, i = (self.emit(f"{op} i64 {i}, {batch}") for op in ("udiv", "urem"))
        places = []
        strides = step.lhs_strides[0], step.rhs_strides[0], step.out_strides[0]
        for x, inner, far in zip("abc", strides, step.outer[1:], strict=True):
            terms = [(i, self.stride(f"{x}.batch", inner))]
            if outer:
                terms.append((outer, self.stride(f"{x}.outer", far)))
            places.append(self.at(memory_type(step.dtype), f"%{x}", *terms))
        self.product(_Product(*places))

    def product(self, here: _Product) -> None:
        """One product."""
        raise NotImplementedError

    # ------------------------------------------------------------------ functions

    def functions(self, name: str, order: Sequence[int]) -> list[str]:
        """The function of these lines, and the one that reads its arguments from tables."""
        types = ["ptr"] * 3 + ["i64"] * len(self.numbers)
        names = [f"%p{i}" for i in range(3)] + [f"%{x}" for x in self.numbers]
        arguments = ", ".join(map(" ".join, zip(types, names, strict=True)))
        span = ", i64 %begin, i64 %end" if self.tasks else ""
        params = ", ".join([f"ptr noalias %{x}" for x in "abc"] + arguments.split(", ")[3:])
        head = (
            f"define internal void @{name}.loops({params}{span})"
            ' noinline nounwind "prefer-vector-width"="512" {'
        )
        places = [("buffers", i) for i in order] + [
            ("numbers", i) for i in range(len(self.numbers))
        ]
        entry = []
        for t, x, (table, at) in zip(types, names, places, strict=True):
            entry.append(f"  {x}.at = getelementptr i64, ptr %{table}, i64 {at}")
            entry.append(f"  {x} = load {t}, ptr {x}.at")
        wrapper = f"define i32 @{name}(ptr %buffers, ptr %numbers, ptr %status) nounwind {{"
        loops = "\n".join([head, "entry:", *self.lines, "  ret void", "}"])
        if not self.tasks:
            call = f"  call void @{name}.loops({arguments})"
            return [loops, "\n".join([wrapper, "entry:", *entry, call, "  ret i32 0", "}"])]
        entry.append(f"  %env = alloca [{len(names)} x i64]")
        read = []
        for i, (t, x) in enumerate(zip(types, names, strict=True)):
            place = f"  {x}.env = getelementptr i64, ptr %env, i64 {i}"
            entry += [place, f"  store {t} {x}, ptr {x}.env"]
            read += [place, f"  {x} = load {t}, ptr {x}.env"]
        tasks, size = self.tasks
        piece = f"define internal void @{name}.piece(ptr %env, i64 %begin, i64 %end) nounwind {{"
        call = f"  call void @{name}.loops({arguments}{span})"
        share = f"  call void @ft_shared(ptr @{name}.piece, ptr %env, i64 {tasks}, i64 {size})"
        return [
            threads.POOL, threads.SHARED, loops,
            "\n".join([piece, "entry:", *read, call, "  ret void", "}"]),
            "\n".join([wrapper, "entry:", *entry, share, "  ret i32 0", "}"]),
        ]  # fmt: skip


# ---------------------------------------------------------------------------- tiles


class _Form(NamedTuple):
    """How the result is cut: tiles of `rows` by `vectors` of `width` columns."""

    rows: int
    width: int
    vectors: int
    panels: int  # tiles in a row


def _form(m: int, n: int, itemsize: int) -> _Form:
    register = symbols.vector_bytes()
    # Sums fill the registers but for those of an operand's vectors and one scalar: 16 of 32 or, on
    # AVX2, 8 of 16.
    most = 2 if register == 32 else 4
    width = register // itemsize
    while width > n:
        width //= 2
    count = -(-n // width)
    panels = -(-count // most)
    vectors = -(-count // panels)
    # A sum is ready after four cycles, in which eight others can begin.
    rows = 2 * _ROWS if vectors == 1 and m >= 2 * _ROWS else _ROWS
    return _Form(min(m, rows), width, vectors, panels)


class _Tiles(_Text):
    """Tile after tile, each summed over k in registers.

    LLVM's passes, and unrolling the loop over k, take longer than all the rest, and gain nothing.
    """

    runs_passes = False

    def __init__(self, step: ir.MatMul) -> None:
        super().__init__(step)
        _, m, n, _ = step.sizes
        self.form = _form(m, n, step.dtype.itemsize)
        self.type = llvm_type(step.dtype)
        self.packed = step.rhs_strides[2] != 1
        if self.packed:
            size = self.emit(f"mul i64 {self.n}, {self.k}") if self.step.sizes[3] else "1"
            self.pack = self.emit(f"alloca {self.type}, i64 {size}, align 64")

    @property
    def n(self) -> str:
        return self.number("n", self.step.sizes[2])

    @property
    def k(self) -> str:
        return self.number("k", self.step.sizes[3])

    def product(self, here: _Product) -> None:
        step, (rows, _, _, panels) = self.step, self.form
        if self.packed:
            self._pack(here.rhs)
            here = here._replace(rhs=self.pack)
        if rows < _ROWS:
            self._row_of_tiles(here, "0", panels)
        else:
            self._cut("m", step.sizes[1], rows, lambda row: self._row_of_tiles(here, row, panels))

    def _row_of_tiles(self, here: _Product, row: str, panels: int) -> None:
        if panels == 1:
            self._tile(here, row, "0")
        else:
            count = self.number("panels", panels)
            self.loop(count, lambda p, _: self._tile(here, row, p))

    def _columns(self, panel: str) -> list[str]:
        """Where the vectors of a panel begin; the last of all ends at the edge."""
        _, width, vectors, panels = self.form
        n = self.step.sizes[2]
        if n == width * vectors:
            return [str(width * j) for j in range(vectors)]
        last = self.number("n.last", n - width)
        if panels == 1:
            return [*(str(width * j) for j in range(vectors - 1)), last]
        start = self.emit(f"mul nuw nsw i64 {panel}, {width * vectors}")
        return [
            self.least(self.emit(f"add nuw nsw i64 {start}, {width * j}"), last)
            for j in range(vectors)
        ]

    def _cut(self, axis: str, extent: int, size: int, run: Callable[[str], None]) -> None:
        """`run(first)` for blocks of an axis; the last of them ends at the edge."""
        if extent == size and axis != "m":  # other extents change less often than a batch
            run("0")
            return
        last = self.number(f"{axis}.last", extent - size)

        def block(i: str, _: Any) -> None:
            run(self.least(self.emit(f"mul nuw nsw i64 {i}, {size}"), last))

        self.loop(self.number(f"{axis}.blocks", -(-extent // size)), block)

    def _pack(self, rhs: str) -> None:
        """Copy the right operand, by squares that are turned in registers."""
        step, t = self.step, self.type
        _, _, n, k = step.sizes
        along_k, along_n = (
            self.stride(f"b.{x}", s) for x, s in zip("kn", step.rhs_strides[1:], strict=True)
        )
        size = _SQUARE if along_k == "1" else 1
        while size > min(n, k):
            size //= 2
        vector, align = f"<{size} x {t}>", step.dtype.itemsize

        def square(j: str, p: str) -> None:
            rows = []
            at = self.at(t, rhs, (j, along_n), (p, along_k))
            for i in range(size):
                at = self.at(t, at, ("1", along_n)) if i else at
                rows.append(self.emit(f"load {vector}, ptr {at}, align {align}"))
            at = self.at(t, self.pack, (p, self.n), (j, "1"))
            for i, row in enumerate(self._turned(rows, vector)):
                at = self.at(t, at, ("1", self.n)) if i else at
                self.do(f"store {vector} {row}, ptr {at}, align {align}")

        if k:
            self._cut(
                "pack.n", n, size, lambda j: self._cut("pack.k", k, size, lambda p: square(j, p))
            )

    def _turned(self, rows: list[str], vector: str) -> list[str]:
        """The columns of a square: its halves are interleaved until all elements are apart."""
        size = len(rows)
        half = size // 2
        pairs = [i + far for i in range(size) for far in (0, size)]
        masks = [", ".join(f"i32 {i}" for i in part) for part in (pairs[:size], pairs[size:])]
        for _ in range(size.bit_length() - 1):
            rows = [
                self.emit(f"shufflevector {vector} {x}, {vector} {y}, <{size} x i32> <{mask}>")
                for x, y in zip(rows[:half], rows[half:], strict=True)
                for mask in masks
            ]
        return rows

    def _tile(self, here: _Product, row: str, panel: str) -> None:
        """`rows` rows by the vectors of a panel, accumulated in registers over k."""
        step, t, (rows, width, vectors, _) = self.step, self.type, self.form
        columns = self._columns(panel)
        along_row, along_k = (
            self.stride(name, s)
            for name, s in zip(("a.m", "a.k"), step.lhs_strides[1:], strict=True)
        )
        starts = [self.at(t, here.lhs, (row, along_row))]
        for _ in range(rows - 1):
            starts.append(self.at(t, starts[-1], ("1", along_row)))
        rhs_row = self.n if self.packed else self.stride("b.k", step.rhs_strides[1])
        vector, align = f"<{width} x {t}>", step.dtype.itemsize

        def add(p: str, sums: list[str]) -> list[str]:
            base = self.at(t, here.rhs, (p, rhs_row))
            right = [
                self.emit(f"load {vector}, ptr {self.at(t, base, (c, '1'))}, align {align}")
                for c in columns
            ]
            out = []
            for r, start in enumerate(starts):
                x = self._splat(self.emit(f"load {t}, ptr {self.at(t, start, (p, along_k))}"))
                of_row = sums[r * vectors : (r + 1) * vectors]
                out += [self._add_product(*xy, x) for xy in zip(of_row, right, strict=True)]
            return out

        zeros = [(vector, "zeroinitializer")] * (rows * vectors)
        has_terms = step.sizes[3] > 0
        totals = self.loop(self.k, add, zeros) if has_terms else [z for _, z in zeros]
        self._store(here.out, row, columns, totals)

    def _store(self, out: str, row: str, columns: list[str], totals: Sequence[str]) -> None:
        t, align = self.type, self.step.dtype.itemsize
        vector = f"<{self.form.width} x {t}>"
        along_row = self.stride("c.m", self.step.out_strides[1])
        start = self.at(t, out, (row, along_row))
        for r in range(self.form.rows):
            if r:
                start = self.at(t, start, ("1", along_row))
            for j, column in enumerate(columns):
                place = self.at(t, start, (column, "1"))
                total = totals[r * len(columns) + j]
                self.do(f"store {vector} {total}, ptr {place}, align {align}")

    def _splat(self, x: str) -> str:
        v = f"<{self.form.width} x {self.type}>"
        one = self.emit(f"insertelement {v} poison, {self.type} {x}, i64 0")
        zeros = f"<{self.form.width} x i32> zeroinitializer"
        return self.emit(f"shufflevector {v} {one}, {v} poison, {zeros}")

    def _add_product(self, total: str, row: str, x: str) -> str:
        width, dtype = self.form.width, self.step.dtype
        v = f"<{width} x {self.type}>"
        if dtype.kind in "iu":
            return self.emit(f"add {v} {total}, {self.emit(f'mul {v} {x}, {row}')}")
        # A product and its sum are one rounding here, as in BLAS.
        fma = f"@llvm.fma.v{width}f{8 * dtype.itemsize}"
        return self.emit(f"call {v} {fma}({v} {x}, {v} {row}, {v} {total})")


# ---------------------------------------------------------------------------- elements


class _Elements(_Text):
    """Any strides, any dtype: bool is the or of ands, integers wrap, halves are summed as singles.

    Products and sums are those of NumPy's own products.
    """

    def __init__(self, step: ir.MatMul) -> None:
        super().__init__(step)
        dtype = step.dtype
        half = dtype.kind == "f" and dtype.itemsize == 2
        self.sum_dtype = np.dtype(np.float32) if half else dtype

    def product(self, here: _Product) -> None:
        _, m, n, _ = self.step.sizes

        def row(i: str) -> None:
            if n == 1:
                self._element(here, i, "0")
            else:
                self.loop(self.number("n", n), lambda j, _: self._element(here, i, j))

        self.loop(self.number("m", m), lambda i, _: row(i))

    def _element(self, here: _Product, i: str, j: str) -> None:
        step, t = self.step, memory_type(self.step.dtype)
        (_, ai, ak), (_, bk, bj), (_, ci, cj) = (
            [self.stride(f"{x}{axis}", s) for axis, s in enumerate(strides)]
            for x, strides in zip(
                "abc", (step.lhs_strides, step.rhs_strides, step.out_strides), strict=True
            )
        )
        lhs = self.at(t, here.lhs, (i, ai))
        rhs = self.at(t, here.rhs, (j, bj))

        def add(p: str, total: list[str]) -> list[str]:
            x = self._load(self.at(t, lhs, (p, ak)))
            y = self._load(self.at(t, rhs, (p, bk)))
            return [self._add_product(total[0], x, y)]

        k, d = step.sizes[3], self.sum_dtype
        zero = literal(d.type(0), d)
        extent = str(k) if k <= SHORT else self.number("k", k)
        total = self.loop(extent, add, [(llvm_type(d), zero)])[0] if k else zero
        self._store(total, self.at(t, here.out, (i, ci), (j, cj)))

    def _load(self, pointer: str) -> str:
        dtype = self.step.dtype
        value = self.emit(f"load {memory_type(dtype)}, ptr {pointer}")
        if dtype.kind == "b":
            value = self.emit(f"icmp ne i8 {value}, 0")
        return self._convert(value, dtype, self.sum_dtype)

    def _store(self, value: str, pointer: str) -> None:
        dtype = self.step.dtype
        value = self._convert(value, self.sum_dtype, dtype)
        if dtype.kind == "b":
            value = self.emit(f"zext i1 {value} to i8")
        self.do(f"store {memory_type(dtype)} {value}, ptr {pointer}")

    def _add_product(self, total: str, x: str, y: str) -> str:
        d = self.sum_dtype
        if d.kind == "f":
            product = self.emit(f"fmul contract {llvm_type(d)} {x}, {y}")
            return self.emit(f"fadd reassoc nsz contract {llvm_type(d)} {total}, {product}")
        product = scalar_math.lower_scalar(self, "mul", [x, y], [d, d], d)
        return scalar_math.lower_scalar(self, "add", [total, product], [d, d], d)

    def _convert(self, value: str, source: np.dtype, out: np.dtype) -> str:
        return scalar_math.lower_scalar(self, "convert", [value], [source], out)
