"""How factorizations and solves lower: calls of LAPACK between ordinary nodes.

LAPACK stores matrices by columns, so it sees the transpose of a matrix in memory. Where a routine
can be told so (the other triangle, the other side, LQ for QR) nothing is transposed; elsewhere the
operand is a permuted view, which the copy that LAPACK needs anyway writes in its order, and the
result is a view in turn. Triangles and conjugates are expressions, fused with what makes or uses
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from functrans.compiler.lowering import nodes
from functrans.compiler.lowering.affine import Shape, merged_stride
from functrans.compiler.lowering.lowering import NodeBuilder
from functrans.compiler.lowering.nodes import Node
from functrans.compiler.lowering.rules import RULES, rule
from functrans.ops import lapack_values
from functrans.runtime import cholesky_reverse, lapack
from functrans.runtime.lapack import INFO, ONE, Argument, Call, Integer, Letter, Matrices

LinAlgError = np.linalg.LinAlgError
_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)
_NOT_FINITE = (LinAlgError, "Array must not contain infs or NaNs")
_SINGULAR = (LinAlgError, "Singular matrix")

PART = 1 << 17  # work of a part of the right-hand sides of one matrix, at least

# ---------------------------------------------------------------------------- pieces


def permuted(b: NodeBuilder, x: Node) -> Node:
    """`x.mT`, a view."""
    n = len(x.shape)
    return RULES["permute"](b, x, permutation=(*range(n - 2), n - 1, n - 2))


def conjugate(b: NodeBuilder, x: Node) -> Node:
    """`conj(x)`; real values as they are."""
    return b.elementwise("conj", x) if x.dtype.kind == "c" else x


def product(b: NodeBuilder, x: Node, y: Node) -> Node:
    """`x @ y`."""
    n = len(x.shape) - 2
    numbers = (((n + 1,), (n,)), (tuple(range(n)), tuple(range(n))))
    return RULES["dot_general"](b, x, y, dimension_numbers=numbers)


def below(b: NodeBuilder, shape: Shape, k: int) -> Node:
    """Where column - row <= k."""
    row, column = (
        RULES["iota"](b, dtype=_INT64, shape=shape, dimension=len(shape) - i) for i in (2, 1)
    )
    if k:
        row = b.elementwise("add", row, b.number(k, row))
    return b.elementwise("ge", row, column)


def masked(b: NodeBuilder, x: Node, k: int, *, lower: bool) -> Node:
    """`x` where column - row <= k (`lower`), or where not; 0 elsewhere."""
    zero = b.number(0, x)
    return b.elementwise("select", below(b, x.shape, k), *((x, zero) if lower else (zero, x)))


def diagonal(b: NodeBuilder, x: Node) -> Node:
    """The diagonals of matrices, a view."""
    k = min(x.shape[-2:])
    return b.view(x, (*x.shape[:-2], k), lambda index: (*index, index[-1]))


def batch_of(x: Node) -> tuple[Shape, int]:
    """The axes in front of matrices, and how many matrices there are."""
    return x.shape[:-2], math.prod(x.shape[:-2])


def each(buffer: int, x: Node | Shape, dtype: np.dtype | None = None, axes: int = 2) -> Matrices:
    """The argument that is a matrix (or a vector: `axes=1`) of each of a C-contiguous stack."""
    shape, kind = (x.shape, x.dtype) if isinstance(x, Node) else (x, dtype or np.dtype(float))
    return Matrices(buffer, math.prod(shape[-axes:]) * kind.itemsize)


def call_lapack(
    b: NodeBuilder,
    routine: str,
    function: Callable[..., list[Any]],
    operands: Sequence[Node],
    results: Sequence[tuple[Shape, np.dtype]],
    arguments: Sequence[Argument],
    *,
    batch: int,
    in_place: Sequence[tuple[int, int]] = (),
    failure: tuple[type[Exception], str] | None = None,
    guard: int | None = None,
    work: int = 0,
) -> list[Node]:
    """The step that runs a routine on each matrix of a batch.

    `in_place` has pairs (result, operand): the operand is copied into the result, on which the
    routine works. `guard` is the operand that says whether all numbers are finite.
    """
    dtype = results[0][1]
    k = len(operands)
    copies = tuple(
        (k + to, source, operands[source].size * operands[source].dtype.itemsize)
        for to, source in in_place
    )
    call = Call(routine, dtype, batch, tuple(arguments), copies, failure is not None, guard, work)
    failures = [failure, _NOT_FINITE] if guard is not None else [failure]
    return b.native(
        lapack.routine_name(routine, dtype.char.lower(), dtype.kind == "c"),
        call.unit,
        function,
        operands,
        results,
        numbers=call.numbers(),
        failures=[f for f in failures if f is not None],
        work=work * batch,
    )


# ---------------------------------------------------------------------------- Cholesky


@rule("cholesky")
def cholesky(b: NodeBuilder, a: Node) -> Node:
    if not a.size:
        return a
    n = a.shape[-1]
    lower = masked(b, a, 0, lower=True)  # potrf leaves the other triangle as it is: zero
    (factor,) = call_lapack(
        b,
        "potrf",
        lambda x: [np.linalg.cholesky(x)],
        [lower],
        [(a.shape, a.dtype)],
        # The transpose of L, which is upper triangular, is what LAPACK sees.
        [Letter("U"), Integer(n), each(1, a), Integer(n), INFO],
        batch=batch_of(a)[1],
        in_place=[(0, 0)],
        failure=(LinAlgError, "Matrix is not positive definite"),
        work=n**3 // 24,
    )
    return factor


def _hermitian(b: NodeBuilder, x: Node) -> Node:
    total = b.elementwise("add", x, conjugate(b, permuted(b, x)))
    return b.elementwise("mul", total, b.number(0.5, x))


def _half_lower(b: NodeBuilder, x: Node) -> Node:
    """Murray's Phi: the lower triangle with the diagonal halved."""
    half = b.elementwise("mul", x, b.number(0.5, x))
    return b.elementwise("add", *(masked(b, half, k, lower=True) for k in (0, -1)))


@rule("cholesky_tangent")
def cholesky_tangent(b: NodeBuilder, factor: Node, s: Node) -> Node:
    inner = triangular_solve(b, factor, _hermitian(b, s), lower=True)
    inner = triangular_solve(
        b, factor, inner, left_side=False, lower=True, transpose_a=True, conjugate_a=True
    )
    return product(b, factor, _half_lower(b, inner))


@rule("cholesky_cotangent")
def cholesky_cotangent(b: NodeBuilder, factor: Node, ct: Node) -> Node:
    if factor.dtype.kind == "c":
        inner = _half_lower(b, product(b, permuted(b, factor), ct))
        inner = triangular_solve(b, factor, inner, lower=True, transpose_a=True)
        inner = triangular_solve(b, factor, inner, left_side=False, lower=True, conjugate_a=True)
        return _hermitian(b, inner)
    n, count = factor.shape[-1], batch_of(factor)[1]
    if not factor.size:
        return factor
    (twice,) = b.native(
        "cholesky_reverse",
        lambda: cholesky_reverse.unit_of(factor.dtype.char),
        lambda x, y: [2 * lapack_values.cholesky_cotangent(x, y)],
        [factor, ct],
        [(factor.shape, factor.dtype)],
        numbers=[count, n],
        work=count * n**3 // 12,
    )
    mask = below(b, factor.shape, 0)
    both = b.elementwise("select", mask, twice, permuted(b, twice))
    return b.elementwise("mul", both, b.number(0.5, both))


# ---------------------------------------------------------------------------- triangular solves


@dataclass(frozen=True, slots=True)
class Layout:
    """A stack of matrices in memory: bytes from one to the next, elements between rows or columns.

    With `by_columns` the elements of a column are neighbours.
    """

    by_columns: bool
    leading: int
    stride: int


def layout_of(x: Node) -> Layout | None:
    """How a stored node lies in memory, if as LAPACK can read it."""
    *batch, row, column = nodes.memory_strides(x)
    between = merged_stride(list(zip(x.shape[:-2], batch, strict=True)))
    m, n = x.shape[-2:]
    if between is None or min((row, column, *batch), default=0) < 0 or nodes.memory_offset(x):
        return None
    stride = between * x.dtype.itemsize
    if (column == 1 or n == 1) and (row >= n or m == 1):
        return Layout(False, max(row, n), stride)
    if (row == 1 or m == 1) and (column >= m or n == 1):
        return Layout(True, max(column, m), stride)
    return None


@rule("triangular_solve")
def triangular_solve(
    b: NodeBuilder,
    a: Node,
    y: Node,
    *,
    left_side: bool = True,
    lower: bool = False,
    transpose_a: bool = False,
    conjugate_a: bool = False,
    unit_diagonal: bool = False,
) -> Node:
    if not y.size:
        return y
    sides = {"left_side": left_side, "lower": lower, "unit_diagonal": unit_diagonal}
    conjugate_a = conjugate_a and a.dtype.kind == "c"
    if conjugate_a and not transpose_a:
        a, conjugate_a = conjugate(b, a), False
    a, layout = _readable(b, a)
    if layout.by_columns and conjugate_a:  # LAPACK has no conjugate without a transpose
        a, conjugate_a = conjugate(b, a), False
        a, layout = _readable(b, a)

    def function(matrix: Any, right: Any) -> list[Any]:
        view = np.ndarray(a.shape, a.dtype, matrix, strides=_bytes_between(a))
        options = {"transpose_a": transpose_a, "conjugate_a": conjugate_a, **sides}
        return [lapack_values.triangular_solve(view, right, **options)]

    trans = "C" if conjugate_a else "T" if transpose_a != layout.by_columns else "N"
    count = batch_of(y)[1]
    work = y.size * a.shape[-1] // count // 8
    parts = _parts(y, work, left_side=left_side) if count == 1 else 1
    routine, arguments = _triangular_arguments(layout, y, trans, parts, **sides)
    (x,) = call_lapack(
        b,
        routine,
        function,
        [nodes.base_of(a), y],
        [(y.shape, y.dtype)],
        arguments,
        batch=count * parts,
        in_place=[(0, 1)],
        work=work // parts,
    )
    return x


def _parts(y: Node, work: int, *, left_side: bool) -> int:
    """How many equal parts the right-hand sides of one matrix make, a batch that threads share."""
    sides = y.shape[-1 if left_side else -2]
    most = max(1, min(lapack.CHUNKS, work // PART))
    return max(n for n in range(1, most + 1) if sides % n == 0)


def _triangular_arguments(
    layout: Layout,
    y: Node,
    trans: str,
    parts: int,
    *,
    left_side: bool,
    lower: bool,
    unit_diagonal: bool,
) -> tuple[str, list[Argument]]:
    """The routine and its arguments; `trans` is what trsm is to do with `a` as LAPACK sees it.

    Of a right-hand side in memory it sees the transpose, so that is solved from the other side. A
    row, or a column, is a vector: solved from the left again, by the transpose from the right.
    """
    uplo = Letter("L" if lower == layout.by_columns else "U")
    diag = Letter("U" if unit_diagonal else "N")
    matrix, leading = Matrices(0, layout.stride), Integer(layout.leading)
    rows, columns = y.shape[-1], y.shape[-2]
    n, k = (columns, rows) if left_side else (rows, columns)
    if k == 1 and trans != "C":
        turned = "NT"[(trans == "N") == left_side]
        return "trsv", [uplo, Letter(turned), diag, Integer(n), matrix, leading, each(2, y),
                        Integer(1)]  # fmt: skip
    right, m, n = each(2, y), rows, columns
    if parts > 1:  # each is a "matrix" that begins behind the one before
        between = rows // parts if left_side else rows * (columns // parts)
        right = Matrices(2, between * y.dtype.itemsize)
        m, n = (rows // parts, columns) if left_side else (rows, columns // parts)
        matrix = Matrices(0)
    return "trsm", [
        Letter("R" if left_side else "L"), uplo, Letter(trans), diag, Integer(m),
        Integer(n), ONE, matrix, leading, right, Integer(rows),
    ]  # fmt: skip


def _readable(b: NodeBuilder, a: Node) -> tuple[Node, Layout]:
    """A matrix operand in memory, copied only if it lies there as LAPACK cannot read it."""
    a = b.stored(a)
    layout = layout_of(a)
    if layout is None:
        a = b.stored(b.copy(a))
        layout = layout_of(a)
    if layout is None:
        raise AssertionError(f"a copy of {a.shape} is contiguous")
    return a, layout


def _bytes_between(x: Node) -> tuple[int, ...]:
    return tuple(s * x.dtype.itemsize for s in nodes.memory_strides(x))


# ---------------------------------------------------------------------------- LU


@rule("lu")
def lu(b: NodeBuilder, a: Node, *, check_singular: bool = False) -> list[Node]:
    batch, count = batch_of(a)
    m, n = a.shape[-2:]
    k = min(m, n)
    if not a.size:
        zero = b.add(nodes.Number((), _INT32, _INT32.type(0)))
        pivots = b.view(zero, (*batch, k), lambda index: ())
        return [a, pivots, pivots_to_order(b, pivots, size=m)]
    kind = lapack.integer_dtype()

    def function(x: Any) -> list[Any]:
        factors, pivots, _ = lapack_values.lu(np.swapaxes(x, -1, -2), check_singular=check_singular)
        return [np.swapaxes(factors, -1, -2), pivots + 1]

    factors, swaps = call_lapack(
        b,
        "getrf",
        function,
        [permuted(b, a)],
        [((*batch, n, m), a.dtype), ((*batch, k), kind)],
        [Integer(m), Integer(n), each(1, a), Integer(m), each(2, (k,), kind, 1), INFO],
        batch=count,
        in_place=[(0, 0)],
        failure=_SINGULAR if check_singular else None,
        work=m * n * k // 12,
    )
    pivots = b.convert(b.elementwise("sub", swaps, b.number(1, swaps)), _INT32)
    return [permuted(b, factors), pivots, _order_of_rows(b, swaps, m)]


@rule("pivots_to_order")
def pivots_to_order(b: NodeBuilder, pivots: Node, *, size: int) -> Node:
    swaps = b.convert(pivots, lapack.integer_dtype())
    return _order_of_rows(b, b.elementwise("add", swaps, b.number(1, swaps)), size)


def _order_of_rows(b: NodeBuilder, swaps: Node, m: int) -> Node:
    """Where rows go: the swaps applied to the numbers of the rows, as float64 to suit LAPACK."""
    batch, k = swaps.shape[:-1], swaps.shape[-1]
    rows = RULES["iota"](b, dtype=np.dtype(float), shape=(*batch, m), dimension=len(batch))
    if not swaps.size:
        return b.convert(rows, _INT32)
    one = Integer(1)
    (order,) = call_lapack(
        b,
        "laswp",
        lambda _, pivots: [lapack_values.order_of_rows(pivots - 1, m).astype(float)],
        [rows, swaps],
        [(rows.shape, rows.dtype)],
        [one, each(2, rows, axes=1), Integer(m), one, Integer(k), each(1, swaps, axes=1), one],
        batch=math.prod(batch),
        in_place=[(0, 0)],
        work=k,
    )
    return b.convert(order, _INT32)


@rule("solve_factored")
def solve_factored(
    b: NodeBuilder, a: Node, factors: Node, order: Node, y: Node, *, transpose_a: bool
) -> Node:
    options = {"batch_dims": len(order.shape) - 1, "mode": "promise_in_bounds"}
    if not y.size:
        return y
    if not transpose_a:
        y = RULES["gather"](b, y, order, **options)
        y = triangular_solve(b, factors, y, lower=True, unit_diagonal=True)
        return triangular_solve(b, factors, y)
    y = triangular_solve(b, factors, y, transpose_a=True)
    y = triangular_solve(b, factors, y, transpose_a=True, lower=True, unit_diagonal=True)
    return RULES["scatter"](b, y, y, order, unique=True, **options)


@rule("log_determinant")
def log_determinant(
    b: NodeBuilder, a: Node, factors: Node, pivots: Node, order: Node
) -> list[Node]:
    pivot = diagonal(b, factors)
    size = b.elementwise("abs", pivot)
    last = (len(pivot.shape) - 1,)
    turn = b.reduce("mul", _direction(b, pivot, size), last)
    return [
        b.elementwise("mul", turn, _parity(b, pivots, turn)),
        b.reduce("add", b.elementwise("log", size), last),
    ]


def _direction(b: NodeBuilder, x: Node, size: Node) -> Node:
    """x / |x|, and 0 of 0."""
    if x.dtype.kind != "c":
        return b.elementwise("sign", x)
    quotient = b.elementwise("div", x, b.convert(size, x.dtype))
    is_zero = b.elementwise("eq", size, b.number(0, size))
    return b.elementwise("select", is_zero, b.number(0, x), quotient)


@rule("determinant")
def determinant(b: NodeBuilder, a: Node, factors: Node, pivots: Node, order: Node) -> Node:
    pivot = diagonal(b, factors)
    size = b.reduce("mul", pivot, (len(pivot.shape) - 1,))
    return b.elementwise("mul", size, _parity(b, pivots, size))


def _parity(b: NodeBuilder, pivots: Node, like: Node) -> Node:
    """-1 to the number of rows that were swapped."""
    place = RULES["iota"](b, dtype=_INT32, shape=pivots.shape, dimension=len(pivots.shape) - 1)
    signs = b.elementwise(
        "select", b.elementwise("ne", pivots, place), b.number(-1, like), b.number(1, like)
    )
    return b.reduce("mul", signs, (len(pivots.shape) - 1,))


__all__ = ["RULES"]
