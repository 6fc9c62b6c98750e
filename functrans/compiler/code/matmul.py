"""Matrix products: BLAS for large ones, loops over whole vectors for small ones.

A small product keeps a block of `ROWS` rows and all (up to 4) vectors of the output's columns in
registers while it runs over k: the right operand is read by vectors, the left one by scalars. A
right operand that is contiguous along k instead of along its columns is packed first.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from functrans import loop_ir as ir
from functrans.compiler.loops.kernel_numbers import SMALL
from functrans.compiler.words import scalar_math
from functrans.compiler.words.scalar_types import literal, llvm_type, memory_type
from functrans.runtime import blas, threads
from functrans.runtime.codegen import Unit

# m * n * k up to which loops take no longer than a call of BLAS (OpenBLAS 0.3.30, AVX-512): at 32^3
# the two are level, and BLAS keeps its lead for narrow products from 8^3 on.
INLINE_WORK = 40_000
INLINE_NARROW_WORK = 600
SHARED_WORK = 1 << 19  # of a batch that threads share: about 15 us
ROWS = 4
VECTOR_BITS = 512
PACK_LIMIT = 1 << 14  # elements of a packed operand, which is on the stack
UNROLL = """!1 = distinct !{!1, !2}
!2 = !{!"llvm.loop.unroll.count", i32 4}"""
_GEMM = {"f4": "s", "f8": "d", "c8": "c", "c16": "z"}


def routine(step: ir.MatMul) -> tuple[Unit, tuple[int, ...]]:
    """The native function of a product of (lhs, rhs, out), and its numbers."""
    strides = step.lhs_strides, step.rhs_strides, step.out_strides
    return _routine(step.sizes, *strides, step.outer, step.dtype)


def is_shared(step: ir.MatMul) -> bool:
    """Whether threads share the product by itself."""
    step = _by_rows(step)
    work = step.outer[0] * math.prod(step.sizes)
    return work >= 2 * PART or (work > PART and step.sizes[0] * step.outer[0] > 1)


@functools.lru_cache(maxsize=1024)
def _routine(sizes: Any, lhs: Any, rhs: Any, out: Any, outer: Any, dtype: np.dtype) -> Any:
    step = _by_rows(ir.MatMul("c", "a", "b", sizes, lhs, rhs, out, dtype, outer))
    _, m, n, k = step.sizes
    packed = step.rhs_strides[2] != 1
    # Packing pays for many rows; few columns leave most of a vector unused.
    limit = INLINE_WORK if n >= 8 and (m >= 8 or not packed) else INLINE_NARROW_WORK
    gemm = _gemm_layout(step) if m * n * k > limit and dtype.str[1:] in _GEMM else None
    if gemm is not None:
        return _blas(step, gemm)
    is_real = dtype.kind in "iu" or (dtype.kind == "f" and dtype.itemsize > 2)
    if is_real and n > 1 and step.out_strides[2] == 1 and not (packed and k * n > PACK_LIMIT):
        text = _blocked_text(step)
    else:
        text = _loop_text(step)
    order = (1, 0, 2) if step.lhs == "b" else (0, 1, 2)
    lines, numbers = "\n".join(text.lines), tuple(text.numbers)
    key = f"product {order} {dtype.str} {len(numbers)} {text.tasks}\n{lines}"
    return Unit(key, lambda name: [UNROLL, *text.functions(name, order)]), numbers


def _by_rows(step: ir.MatMul) -> ir.MatMul:
    """The step, or its transpose `out.T = rhs.T @ lhs.T` where that writes along rows."""
    b, m, n, k = step.sizes
    along_columns = step.out_strides[1] == 1 and step.out_strides[2] != 1
    if not along_columns or n == 1:
        return step

    def transposed(strides: tuple[int, int, int]) -> tuple[int, int, int]:
        return strides[0], strides[2], strides[1]

    return ir.MatMul(
        step.out, step.rhs, step.lhs, (b, n, m, k), transposed(step.rhs_strides),
        transposed(step.lhs_strides), transposed(step.out_strides), step.dtype,
        (step.outer[0], step.outer[2], step.outer[1], step.outer[3]),
    )  # fmt: skip


# ---------------------------------------------------------------------------- BLAS


def _leading(rows: int, cols: int, row_stride: int, col_stride: int) -> tuple[int, int] | None:
    """(transposed?, leading dimension) of a view for row-major BLAS, or None."""
    if (col_stride == 1 or cols == 1) and row_stride >= max(cols, 1):
        return 111, row_stride
    if (row_stride == 1 or rows == 1) and col_stride >= max(rows, 1):
        return 112, col_stride
    if rows == 1 and col_stride == 1:
        return 111, cols
    if cols == 1 and row_stride == 1:
        return 112, rows
    return None


def _gemm_layout(step: ir.MatMul) -> tuple[tuple[int, int], tuple[int, int], int] | None:
    _, m, n, k = step.sizes
    lhs = _leading(m, k, step.lhs_strides[1], step.lhs_strides[2])
    rhs = _leading(k, n, step.rhs_strides[1], step.rhs_strides[2])
    out = _leading(m, n, step.out_strides[1], step.out_strides[2])
    if lhs is None or rhs is None or out is None or out[0] != 111 or k == 0:
        return None
    return lhs, rhs, out[1]


# Multiplications that a part of a large product has at least, and how many parts there are at most.
# Parts depend on the sizes alone, so results do not depend on the number of threads.
PART = 1 << 21
NARROW, NARROW_PART = 16, 1 << 18  # with so few rows or columns memory is what takes time
PARTS = 8
_NUMBERS = """batch m n k ta tb lda ldb ldc sa sb sc parts am bn a_step b_step c_step
outer oa ob oc size""".split()


def _blas(step: ir.MatMul, layout: Any) -> tuple[Unit, tuple[int, ...]]:
    """A batch of calls of `gemm`: one function for all products of a dtype."""
    (ta, lda), (tb, ldb), ldc = layout
    strides = (step.lhs_strides[0], step.rhs_strides[0], step.out_strides[0])
    order = (1, 0, 2) if step.lhs == "b" else (0, 1, 2)
    kind = _GEMM[step.dtype.str[1:]]
    # A unit found on disk is linked with these, so they are made known here, not in its text.
    wanted = blas.gemm_symbol(kind), *blas.thread_symbols(), blas.integer_bits()
    key = f"batched product {wanted} {order}"
    unit = Unit(key, lambda name: _blas_text(step.dtype, name, order))
    parts = _parts(step, 1 if ta == 112 else lda, ldb if tb == 112 else 1, ldc)
    return unit, (*step.sizes, ta, tb, lda, ldb, ldc, *strides, *parts, *step.outer, _piece(step))


def _parts(step: ir.MatMul, row: int, column: int, out_row: int) -> tuple[int, ...]:
    """How a product is cut: the number of parts, the rows or columns of one, steps of pointers.

    The longer side of the result is cut, into multiples of 16 rows or columns.
    """
    _, m, n, k = step.sizes
    count = max(1, min(PARTS, m * n * k // _part_work(step)))
    size = -(-max(m, n) // count)
    size = -(-size // 16) * 16
    count = -(-max(m, n) // size)
    if m >= n:
        return count, size, 0, size * row, 0, size * out_row
    return count, 0, size, 0, size * column, size


def _part_work(step: ir.MatMul) -> int:
    _, m, n, _ = step.sizes
    return NARROW_PART if min(m, n) <= NARROW else PART


def _piece(step: ir.MatMul) -> int:
    """How many products of a batch a thread takes at once, so that it has a part's work to do."""
    _, m, n, k = step.sizes
    return max(1, _part_work(step) // 4 // (m * n * k))


def _blas_text(dtype: np.dtype, name: str, order: tuple[int, ...]) -> list[str]:
    """`f(buffers, numbers, status)`: parts of all products of the batch, shared if there are many.

    OpenBLAS's own threads wait for each other, which takes long where cores are not free; the pool
    does not wait for a thread that has not come. So OpenBLAS is limited to one while a product is
    computed; who found it unlimited lifts the limit.
    """
    get, limit = blas.thread_symbols()
    a, b, c = order
    shared = _SHARED_PRODUCT.format(
        name=name, a=a, b=b, c=c, share=threads.SHARE, get=get, set=limit,
        parts=_NUMBERS.index("parts"), outer=_NUMBERS.index("outer"), size=_NUMBERS.index("size"),
    )  # fmt: skip
    declared = ["@ft.pool = external global i64", f"declare i32 @{get}()"]
    declared.append(f"declare void @{limit}(i32)")
    return [*declared, *_gemm_declared(dtype), _blas_piece(dtype, name), shared]


def _gemm_declared(dtype: np.dtype) -> list[str]:
    t, i = llvm_type(dtype), f"i{blas.integer_bits()}"
    s = "ptr" if dtype.kind == "c" else t  # how alpha and beta are passed
    symbol = blas.gemm_symbol(_GEMM[dtype.str[1:]])
    types = f"i32, i32, i32, {i}, {i}, {i}, {s}, ptr, {i}, ptr, {i}, {s}, ptr, {i}"
    lines = [f"declare void @{symbol}({types})"]
    if s == "ptr":
        for name, value in (("one", 1), ("zero", 0)):
            number = literal(dtype.type(value), dtype)
            lines.append(f"@{name}.{dtype.char} = private constant {t} {number}")
    return lines


def _blas_piece(dtype: np.dtype, name: str) -> str:
    """Tasks `begin <= i < end`: part `i % parts` of product `i // parts` of all batches."""
    t, i = llvm_type(dtype), f"i{blas.integer_bits()}"
    symbol = blas.gemm_symbol(_GEMM[dtype.str[1:]])
    one, zero = (literal(dtype.type(x), dtype) for x in (1, 0))
    s = t
    if dtype.kind == "c":
        s, one, zero = "ptr", f"@one.{dtype.char}", f"@zero.{dtype.char}"
    reads = []
    for at, x in enumerate(_NUMBERS):
        reads.append(f"  %{x}.at = getelementptr i64, ptr %numbers, i64 {at}")
        reads.append(f"  %{x} = load i64, ptr %{x}.at")
    for at, x in enumerate("abc", 1):
        reads.append(f"  %{x}.at = getelementptr ptr, ptr %env, i64 {at}")
        reads.append(f"  %{x} = load ptr, ptr %{x}.at")
    reads += [f"  %{x}.int = trunc i64 %{x} to i32" for x in ("ta", "tb")]
    how = "trunc i64 {} to i32" if i == "i32" else "add i64 {}, 0"
    reads += [f"  %{x}.int = {how.format('%' + x)}" for x in ("k", "lda", "ldb", "ldc")]
    here = [f"  %{x}.int = {how.format('%' + x + '.here')}" for x in ("m", "n")]
    for x in "abc":
        here.append(f"  %{x}.offset = mul i64 %product, %s{x}")
        here.append(f"  %{x}.outside = mul i64 %batch.number, %o{x}")
        here.append(f"  %{x}.inside = mul i64 %part, %{x}_step")
        here.append(f"  %{x}.start = add i64 %{x}.offset, %{x}.outside")
        here.append(f"  %{x}.place = add i64 %{x}.start, %{x}.inside")
        here.append(f"  %p{x} = getelementptr {t}, ptr %{x}, i64 %{x}.place")
    return f"""define internal void @{name}.piece(ptr %env, i64 %begin, i64 %end) nounwind {{
entry:
  %numbers = load ptr, ptr %env
{chr(10).join(reads)}
  br label %task
task:
  %i = phi i64 [ %begin, %entry ], [ %next, %task ]
  %number = udiv i64 %i, %parts
  %part = urem i64 %i, %parts
  %batch.number = udiv i64 %number, %batch
  %product = urem i64 %number, %batch
  %rows.before = mul i64 %part, %am
  %rows.left = sub i64 %m, %rows.before
  %cut.rows = icmp ne i64 %am, 0
  %rows.most = select i1 %cut.rows, i64 %am, i64 %m
  %m.here = call i64 @llvm.umin.i64(i64 %rows.most, i64 %rows.left)
  %columns.before = mul i64 %part, %bn
  %columns.left = sub i64 %n, %columns.before
  %cut.columns = icmp ne i64 %bn, 0
  %columns.most = select i1 %cut.columns, i64 %bn, i64 %n
  %n.here = call i64 @llvm.umin.i64(i64 %columns.most, i64 %columns.left)
{chr(10).join(here)}
  call void @{symbol}(i32 101, i32 %ta.int, i32 %tb.int, {i} %m.int, {i} %n.int, {i} %k.int,
    {s} {one}, ptr %pa, {i} %lda.int, ptr %pb, {i} %ldb.int, {s} {zero}, ptr %pc, {i} %ldc.int)
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %end
  br i1 %more, label %task, label %done
done:
  ret void
}}"""


_SHARED_PRODUCT = """define i32 @{name}(ptr %buffers, ptr %numbers, ptr %status) nounwind {{
entry:
  %env = alloca [4 x ptr]
  store ptr %numbers, ptr %env
  %a.from = getelementptr ptr, ptr %buffers, i64 {a}
  %a = load ptr, ptr %a.from
  %a.to = getelementptr ptr, ptr %env, i64 1
  store ptr %a, ptr %a.to
  %b.from = getelementptr ptr, ptr %buffers, i64 {b}
  %b = load ptr, ptr %b.from
  %b.to = getelementptr ptr, ptr %env, i64 2
  store ptr %b, ptr %b.to
  %c.from = getelementptr ptr, ptr %buffers, i64 {c}
  %c = load ptr, ptr %c.from
  %c.to = getelementptr ptr, ptr %env, i64 3
  store ptr %c, ptr %c.to
  %batch = load i64, ptr %numbers
  %parts.at = getelementptr i64, ptr %numbers, i64 {parts}
  %parts = load i64, ptr %parts.at
  %outer.at = getelementptr i64, ptr %numbers, i64 {outer}
  %outer = load i64, ptr %outer.at
  %products = mul i64 %batch, %outer
  %tasks = mul i64 %products, %parts
  %before = call i32 @{get}()
  %unlimited = icmp sgt i32 %before, 1
  br i1 %unlimited, label %limit, label %run
limit:
  call void @{set}(i32 1)
  br label %run
run:
  %share.at = getelementptr i64, ptr @ft.pool, i64 {share}
  %share = load ptr, ptr %share.at
  %ready = icmp ne ptr %share, null
  %size.at = getelementptr i64, ptr %numbers, i64 {size}
  %size = load i64, ptr %size.at
  %several = icmp ugt i64 %tasks, %size
  %shared = and i1 %ready, %several
  br i1 %shared, label %together, label %alone
together:
  call void %share(ptr @{name}.piece, ptr %env, i64 %tasks, i64 %size)
  br label %finish
alone:
  call void @{name}.piece(ptr %env, i64 0, i64 %tasks)
  br label %finish
finish:
  br i1 %unlimited, label %lift, label %done
lift:
  call void @{set}(i32 %before)
  br label %done
done:
  ret i32 0
}}"""


# ---------------------------------------------------------------------------- loops


class _Text:
    """Lines of one function. Large extents and strides are its parameters; see kernel_numbers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.numbers: dict[int, str] = {}
        self.tasks: tuple[str, str] | None = None  # that threads share, and how many are a piece
        self.count = 0
        self.label = "entry"

    def need(self, declaration: str) -> None:
        """Products and sums need nothing but instructions; see `scalar_math.Body`."""
        raise TypeError(f"a matrix product cannot declare {declaration}")

    def emit(self, text: str) -> str:
        self.count += 1
        self.lines.append(f"  %t{self.count} = {text}")
        return f"%t{self.count}"

    def do(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def number(self, value: int | str) -> str:
        """An extent, stride or position as an operand."""
        if isinstance(value, str):
            return value
        if abs(value) <= SMALL:
            return str(value)
        return self.numbers.setdefault(value, f"%n{len(self.numbers)}")

    def loop(
        self,
        extent: int | str,
        run: Any,
        carried: list[tuple[str, str]] | None = None,
        note: str = "",
        begin: str = "0",
    ) -> list[str]:
        """`for i in range(begin, extent): carried = run(i, carried)`; returns what is carried."""
        self.count += 1
        head, done, before = f"loop{self.count}", f"done{self.count}", self.label
        self.do(f"br label %{head}")
        self.lines.append(f"{head}:")
        self.label = head
        at = len(self.lines)
        variable = f"%i.{head}"
        names = [f"%c{j}.{head}" for j in range(len(carried or []))]
        results = run(variable, names) or []
        following = self.emit(f"add nuw nsw i64 {variable}, 1")
        phis = [f"  {variable} = phi i64 [ {begin}, %{before} ], [ {following}, %{self.label} ]"]
        for name, (t, first), result in zip(names, carried or [], results, strict=True):
            phis.append(f"  {name} = phi {t} [ {first}, %{before} ], [ {result}, %{self.label} ]")
        self.lines[at:at] = phis
        more = self.emit(f"icmp ult i64 {following}, {self.number(extent)}")
        self.do(f"br i1 {more}, label %{head}, label %{done}{note}")
        self.lines.append(f"{done}:")
        self.label = done
        return results

    def at(self, t: str, base: str, *terms: tuple[str, int]) -> str:
        """The pointer `base + sum(index * stride)`, in elements of type `t`."""
        offset = "0"
        for index, stride in terms:
            if stride == 0 or index == "0":
                continue
            term = (
                index if stride == 1 else self.emit(f"mul nsw i64 {index}, {self.number(stride)}")
            )
            offset = term if offset == "0" else self.emit(f"add nsw i64 {offset}, {term}")
        return (
            base
            if offset == "0"
            else self.emit(f"getelementptr inbounds {t}, ptr {base}, i64 {offset}")
        )

    def functions(self, name: str, order: Sequence[int]) -> list[str]:
        """The function of these lines, and the one that reads its arguments from tables."""
        types = ["ptr"] * 3 + ["i64"] * len(self.numbers)
        names = [f"%p{i}" for i in range(3)] + list(self.numbers.values())
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


class _Arithmetic:
    """Multiply and add as NumPy's own products do: half precision is summed in single."""

    def __init__(self, f: _Text, dtype: np.dtype):
        self.f = f
        self.dtype = dtype
        half = dtype.kind == "f" and dtype.itemsize == 2
        self.sum_dtype = np.dtype(np.float32) if half else dtype

    def load(self, pointer: str) -> str:
        value = self.f.emit(f"load {memory_type(self.dtype)}, ptr {pointer}")
        if self.dtype.kind == "b":
            value = self.f.emit(f"icmp ne i8 {value}, 0")
        return self._convert(value, self.dtype, self.sum_dtype)

    def store(self, value: str, pointer: str) -> None:
        value = self._convert(value, self.sum_dtype, self.dtype)
        if self.dtype.kind == "b":
            value = self.f.emit(f"zext i1 {value} to i8")
        self.f.do(f"store {memory_type(self.dtype)} {value}, ptr {pointer}")

    def add_product(self, total: str, x: str, y: str) -> str:
        d = self.sum_dtype
        if d.kind == "f":
            product = self.f.emit(f"fmul contract {llvm_type(d)} {x}, {y}")
            return self.f.emit(f"fadd reassoc nsz contract {llvm_type(d)} {total}, {product}")
        product = scalar_math.lower_scalar(self.f, "mul", [x, y], [d, d], d)
        return scalar_math.lower_scalar(self.f, "add", [total, product], [d, d], d)

    def _convert(self, value: str, source: np.dtype, out: np.dtype) -> str:
        return scalar_math.lower_scalar(self.f, "convert", [value], [source], out)


class _Batch(NamedTuple):
    """Which product of the batches: variables of the loops, and how far the outer one moves."""

    outer: str
    inner: str
    steps: tuple[int, int, int, int]

    def at(self, operand: int, strides: Sequence[int]) -> tuple[tuple[str, int], ...]:
        """Terms of the place of lhs (1), rhs (2) or the result (3)."""
        return (self.outer, self.steps[operand]), (self.inner, strides[0])


def _for_each_product(f: _Text, step: ir.MatMul, run: Any) -> None:
    """Run over the batches; over a part of them, `begin <= i < end`, where threads share them."""
    count, (batch, *sizes) = step.outer[0], step.sizes
    work = math.prod(sizes)

    def inside(outer: str) -> None:
        f.loop(batch, lambda inner, _: run(_Batch(outer, inner, step.outer)) and None)

    def product(i: str) -> None:
        if count == 1:
            run(_Batch("0", i, step.outer))
            return
        outer, inner = (f.emit(f"{op} i64 {i}, {f.number(batch)}") for op in ("udiv", "urem"))
        run(_Batch(outer, inner, step.outer))

    if count * batch > 1 and count * batch * work > SHARED_WORK:
        f.tasks = f.number(count * batch), f.number(max(1, SHARED_WORK // 4 // max(work, 1)))
        f.loop("%end", lambda i, _: product(i), begin="%begin")
    elif count == 1:
        inside("0")
    else:
        f.loop(count, lambda outer, _: inside(outer))


def _loop_text(step: ir.MatMul) -> _Text:
    """Any strides, any dtype: bool is the or of ands, integers wrap."""
    f, (_, m, n, k) = _Text(), step.sizes
    number, t = _Arithmetic(f, step.dtype), memory_type(step.dtype)
    sum_type = llvm_type(number.sum_dtype)
    zero = literal(number.sum_dtype.type(0), number.sum_dtype)

    def column(b: _Batch, i: str, j: str) -> None:
        def dot(p: str, acc: list[str]) -> list[str]:
            sa, sb = step.lhs_strides, step.rhs_strides
            x = number.load(f.at(t, "%a", *b.at(1, sa), (i, sa[1]), (p, sa[2])))
            y = number.load(f.at(t, "%b", *b.at(2, sb), (p, sb[1]), (j, sb[2])))
            return [number.add_product(acc[0], x, y)]

        total = f.loop(k, dot, [(sum_type, zero)])[0] if k else zero
        so = step.out_strides
        number.store(total, f.at(t, "%c", *b.at(3, so), (i, so[1]), (j, so[2])))

    def row(b: _Batch, i: str) -> None:
        f.loop(n, lambda j, _: column(b, i, j))

    _for_each_product(f, step, lambda b: f.loop(m, lambda i, _: row(b, i)))
    return f


def _blocks(n: int, lanes: int) -> list[tuple[int, int]]:
    """Columns cut into (start, width) with widths full vectors, then powers of two."""
    out, start = [], 0
    while start < n:
        width = lanes
        while width > n - start:
            width //= 2
        out.append((start, width))
        start += width
    return out


def _blocked_text(step: ir.MatMul) -> _Text:
    f, (_, m, n, k) = _Text(), step.sizes
    t = llvm_type(step.dtype)
    sb = step.rhs_strides
    packed = sb[2] != 1 and n > 1
    pack = f.emit(f"alloca [{max(k * n, 1)} x {t}], align 64") if packed else ""
    groups = _grouped(_blocks(n, VECTOR_BITS // (8 * step.dtype.itemsize)))

    def one(b: _Batch) -> None:
        base, rows = ("%b", sb[1]) if not packed else (pack, n)
        if packed:
            _pack(f, step, t, b, pack)
        else:
            base = f.at(t, "%b", *b.at(2, sb))
        for group in groups:
            whole, rest = divmod(m, ROWS)
            if whole:
                f.loop(
                    whole, lambda i, _, g=group: _tile(f, step, t, (b, i, ROWS, 0), base, rows, g)
                )
            if rest:
                _tile(f, step, t, (b, "0", rest, whole * ROWS), base, rows, group)

    _for_each_product(f, step, one)
    return f


def _grouped(blocks: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    return [blocks[i : i + 4] for i in range(0, len(blocks), 4)]


def _pack(f: _Text, step: ir.MatMul, t: str, b: _Batch, pack: str) -> None:
    _, _, n, k = step.sizes
    sb = step.rhs_strides

    def element(p: str, j: str) -> None:
        x = f.emit(f"load {t}, ptr {f.at(t, '%b', *b.at(2, sb), (p, sb[1]), (j, sb[2]))}")
        f.do(f"store {t} {x}, ptr {f.at(t, pack, (p, n), (j, 1))}")

    if k:
        f.loop(k, lambda p, _: f.loop(n, lambda j, _: element(p, j)) and None)


def _tile(
    f: _Text,
    step: ir.MatMul,
    t: str,
    tile: tuple[_Batch, str, int, int],
    base: str,
    rows: int,
    group: Any,
) -> None:
    """`count` rows by the columns of `group`, accumulated in registers over k."""
    b, i, count, first = tile
    sa, so, k = step.lhs_strides, step.out_strides, step.sizes[3]
    vectors = [f"<{w} x {t}>" for _, w in group]
    lhs = [
        f.at(t, f.at(t, "%a", *b.at(1, sa), (i, ROWS * sa[1])), (f.number(first + r), sa[1]))
        for r in range(count)
    ]
    out = [
        f.at(t, f.at(t, "%c", *b.at(3, so), (i, ROWS * so[1])), (f.number(first + r), so[1]))
        for r in range(count)
    ]
    zeros = [(v, "zeroinitializer") for _ in range(count) for v in vectors]

    def step_k(p: str, acc: list[str]) -> list[str]:
        start = f.at(t, base, (p, rows))
        row = [
            f.emit(f"load {v}, ptr {f.at(t, start, (str(s), 1))}, align {step.dtype.itemsize}")
            for v, (s, _) in zip(vectors, group, strict=True)
        ]
        results = []
        for r in range(count):
            x = f.emit(f"load {t}, ptr {f.at(t, lhs[r], (p, sa[2]))}")
            for j, (_, w) in enumerate(group):
                before = acc[r * len(group) + j]
                results.append(_add_product(f, step.dtype, w, before, x, row[j]))
        return results

    totals = f.loop(k, step_k, zeros, ", !llvm.loop !1") if k else [z for _, z in zeros]
    for r in range(count):
        for j, (v, (s, _)) in enumerate(zip(vectors, group, strict=True)):
            place = f.at(t, out[r], (str(s), 1))
            total = totals[r * len(group) + j]
            f.do(f"store {v} {total}, ptr {place}, align {step.dtype.itemsize}")


def _add_product(f: _Text, dtype: np.dtype, width: int, total: str, x: str, row: str) -> str:
    """`total + x * row` for a scalar x and vectors."""
    t = llvm_type(dtype)
    v = f"<{width} x {t}>"
    one = f.emit(f"insertelement {v} poison, {t} {x}, i64 0")
    splat = f.emit(f"shufflevector {v} {one}, {v} poison, <{width} x i32> zeroinitializer")
    if dtype.kind in "iu":
        return f.emit(f"add {v} {total}, {f.emit(f'mul {v} {splat}, {row}')}")
    # A product and its sum are one rounding here, as in BLAS.
    fma = f"@llvm.fma.v{width}f{8 * dtype.itemsize}"
    return f.emit(f"call {v} {fma}({v} {splat}, {v} {row}, {v} {total})")
