"""Matrix products: BLAS for large ones, loops over whole vectors for small ones.

Which of the two is a question of sizes and strides; `blas_products` and `inline_products` have
their texts. Either text serves all sizes of its kind: extents and strides are numbers it is given.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from functrans import loop_ir as ir
from functrans.compiler.code import blas_products, inline_products
from functrans.runtime.codegen import Unit

# m * n * k up to which loops take no longer than a call of BLAS limited to one thread (OpenBLAS
# 0.3.30, AVX-512). At 64^3 the two are level, and loops take 0.7 of its time where the right
# operand is contiguous along k. With 2 to 7 columns they are level at 3,000 to 16,000.
INLINE_WORK = 300_000
INLINE_RIGHT, INLINE_ROWS_WORK = 4096, 2_000_000  # the same for a rhs that stays in the cache
INLINE_NARROW_WORK = 3_000


def routine(step: ir.MatMul) -> tuple[Unit, tuple[int, ...]]:
    """The native function of a product of (lhs, rhs, out), and its numbers."""
    strides = step.lhs_strides, step.rhs_strides, step.out_strides
    return _routine(step.sizes, *strides, step.outer, step.dtype)


def is_shared(step: ir.MatMul) -> bool:
    """Whether threads share the product by itself."""
    step = _by_rows(step)
    work, part = step.outer[0] * math.prod(step.sizes), blas_products.PART
    return work >= 2 * part or (work > part and step.sizes[0] * step.outer[0] > 1)


@functools.lru_cache(maxsize=1024)
def _routine(sizes: Any, lhs: Any, rhs: Any, out: Any, outer: Any, dtype: np.dtype) -> Any:
    step = _by_rows(ir.MatMul("c", "a", "b", sizes, lhs, rhs, out, dtype, outer))
    order = (1, 0, 2) if step.lhs == "b" else (0, 1, 2)
    layout = blas_products.layout(step) if math.prod(sizes[1:]) > _inline_work(step) else None
    if layout is not None:
        return blas_products.routine(step, layout, order)
    return inline_products.routine(step, order)


def _inline_work(step: ir.MatMul) -> int:
    """What a product may have to do so that loops serve it best."""
    _, m, n, k = step.sizes
    if 1 in (m, n):
        return INLINE_WORK
    is_packed = step.rhs_strides[2] != 1
    # Packing pays for many rows; few columns leave most of a vector unused.
    if n < 8 or (m < 8 and is_packed):
        return INLINE_NARROW_WORK
    return INLINE_ROWS_WORK if n * k <= INLINE_RIGHT else INLINE_WORK


def _by_rows(step: ir.MatMul) -> ir.MatMul:
    """The step, or its transpose `out.T = rhs.T @ lhs.T` where that is the better form.

    A result of several columns is written along rows. Of a product with a vector, the matrix is
    the right operand where its columns are contiguous, and else the left one.
    """
    _, m, n, _ = step.sizes
    if n == 1:
        turned = m > 1 and step.lhs_strides[1] == 1 and step.out_strides[1] == 1
    elif m == 1:
        turned = step.rhs_strides[1] == 1 and step.rhs_strides[2] != 1
    else:
        turned = step.out_strides[1] == 1 and step.out_strides[2] != 1
    return _transposed(step) if turned else step


def _transposed(step: ir.MatMul) -> ir.MatMul:
    def turned(strides: tuple[int, int, int]) -> tuple[int, int, int]:
        return strides[0], strides[2], strides[1]

    b, m, n, k = step.sizes
    outer, lhs, rhs, out = step.outer
    return ir.MatMul(
        step.out, step.rhs, step.lhs, (b, n, m, k), turned(step.rhs_strides),
        turned(step.lhs_strides), turned(step.out_strides), step.dtype, (outer, rhs, lhs, out),
    )  # fmt: skip
