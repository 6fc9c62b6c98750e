"""Products by BLAS: one function for all products of a dtype, in parts that threads share.

Sizes, strides and parts are numbers that it is given.
"""

from __future__ import annotations

import numpy as np

from functrans import loop_ir as ir
from functrans.compiler.words.scalar_types import literal, llvm_type
from functrans.runtime import blas, threads
from functrans.runtime.codegen import Unit

_GEMM = {"f4": "s", "f8": "d", "c8": "c", "c16": "z"}
# (transposed?, leading dimension) of lhs and rhs, leading dimension of the result
Layout = tuple[tuple[int, int], tuple[int, int], int]


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


def layout(step: ir.MatMul) -> Layout | None:
    """How BLAS is told where operands are; None where it cannot be told, or lacks the dtype."""
    _, m, n, k = step.sizes
    if step.dtype.str[1:] not in _GEMM:
        return None
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


def routine(
    step: ir.MatMul, layout: Layout, order: tuple[int, ...]
) -> tuple[Unit, tuple[int, ...]]:
    """A batch of calls of `gemm`: one function for all products of a dtype."""
    (ta, lda), (tb, ldb), ldc = layout
    strides = (step.lhs_strides[0], step.rhs_strides[0], step.out_strides[0])
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
    does not wait for a thread that has not come. So OpenBLAS is held to one meanwhile.
    """
    a, b, c = order
    shared = _SHARED_PRODUCT.format(
        name=name, a=a, b=b, c=c, share=threads.SHARE,
        parts=_NUMBERS.index("parts"), outer=_NUMBERS.index("outer"), size=_NUMBERS.index("size"),
    )  # fmt: skip
    declared = ["@ft.pool = external global i64", *blas.holding_parts()]
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
  call void @ft_blas_hold()
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
  call void @ft_blas_release()
  ret i32 0
}}"""
