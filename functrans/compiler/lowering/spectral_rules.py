"""How QR, eigenvalues and singular values lower: see `linalg_rules`.

Eigen- and singular vectors are unique but for signs. LAPACK is given just what NumPy gives it, by
columns, so that compiled programs have NumPy's signs; the copies are nothing beside the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans.compiler.lowering.affine import Shape
from functrans.compiler.lowering.linalg_rules import (
    LinAlgError,
    batch_of,
    call_lapack,
    conjugate,
    each,
    masked,
    permuted,
    product,
)
from functrans.compiler.lowering.lowering import NodeBuilder
from functrans.compiler.lowering.nodes import Node
from functrans.compiler.lowering.rules import RULES, rule
from functrans.runtime import lapack
from functrans.runtime.lapack import INFO, Argument, Integer, Letter, Matrices, Scratch

_QUERY = Integer(-1)
Results = list[tuple[Shape, np.dtype]]


Sizes = Sequence[tuple[np.dtype, int | None]]


def _with_workspace(
    b: NodeBuilder,
    routine: str,
    function: Callable[..., list[Any]],
    operands: Sequence[Node],
    results: Results,
    arguments: Sequence[Argument],
    scratch: Sizes,
    *,
    batch: int,
    work: int,
    **options: Any,
) -> list[Node]:
    """`call_lapack` with scratch arrays, and where the routine reports, behind the arguments.

    `scratch` has the dtype of each, and its size; or None where the routine is asked for the best
    one, which it then takes as its next argument. Each chunk of the batch has its own.
    """
    first, chunks = len(operands) + len(results), lapack.chunk_count(batch, work)
    query, answers = list(arguments), []
    for dtype, size in scratch:
        if size is None:
            answers.append((len(query), dtype))
        query += [Matrices(first)] if size else [Matrices(first), _QUERY]
    best = iter(lapack.workspace(routine, results[0][1], [*query, INFO], answers))
    given, blocks = list(arguments), list[tuple[Shape, np.dtype]]()
    for i, (dtype, size) in enumerate(scratch):
        known = next(best) if size is None else size
        given.append(Scratch(first + i, known * dtype.itemsize))
        if size is None:
            given.append(Integer(known))
        blocks.append(((chunks * known,), dtype))

    def with_blocks(*arrays: Any) -> list[Any]:
        return [*function(*arrays), *(np.zeros(shape, dtype) for shape, dtype in blocks)]

    out = call_lapack(
        b, routine, with_blocks, operands, [*results, *blocks], [*given, INFO],
        batch=batch, work=work, **options,
    )  # fmt: skip
    return out[: len(results)]


# ---------------------------------------------------------------------------- QR


@rule("qr")
def qr(b: NodeBuilder, a: Node, *, full_matrices: bool) -> list[Node]:
    batch, count = batch_of(a)
    m, n = a.shape[-2:]
    k, width = min(m, n), m if full_matrices else min(m, n)
    if not a.size:
        one = masked(
            b, masked(b, _filled(b, a, (*batch, m, width), 1), 0, lower=True), -1, lower=False
        )
        return [one, _filled(b, a, (*batch, width, n), 0)]

    def factored(x: Any) -> list[Any]:
        h, tau = np.linalg.qr(x, mode="raw")
        return [np.swapaxes(h, -1, -2), tau]

    # The transpose of a = q r is r^T q^T: LAPACK makes an LQ factorization of what it sees.
    reflectors, tau = _with_workspace(
        b, "gelqf", factored, [a], [(a.shape, a.dtype), ((*batch, k), a.dtype)],
        [Integer(n), Integer(m), each(1, a), Integer(n), each(2, (k,), a.dtype, 1)],
        [(a.dtype, None)], batch=count, in_place=[(0, 0)], work=m * n * k // 6,
    )  # fmt: skip
    r = masked(b, _resized(b, reflectors, width, n), -1, lower=False)
    start = _resized(b, reflectors, m, width)

    def unfolded(x: Any, tau: Any) -> list[Any]:
        return [_q_of_reflectors(x, tau)]

    (q,) = _with_workspace(
        b, "orglq", unfolded, [start, tau], [(start.shape, a.dtype)],
        [Integer(width), Integer(m), Integer(k), each(2, start), Integer(width),
         each(1, (k,), a.dtype, 1)],
        [(a.dtype, None)], batch=count, in_place=[(0, 0)], work=m * width * k // 6,
    )  # fmt: skip
    return [q, r]


def _filled(b: NodeBuilder, like: Node, shape: Shape, value: float) -> Node:
    return b.view(b.number(value, like), shape, lambda index: ())


def _resized(b: NodeBuilder, x: Node, rows: int, columns: int) -> Node:
    """The leading block of matrices, with zeros where it is larger."""
    m, n = x.shape[-2:]
    if (rows, columns) == (m, n):
        return x
    config = ((0, 0, 0),) * (len(x.shape) - 2) + (
        (0, max(rows - m, 0), 0),
        (0, max(columns - n, 0), 0),
    )
    limits = (*x.shape[:-2], min(rows, m), min(columns, n))
    x = RULES["slice"](
        b, x, start_indices=(0,) * len(limits), limit_indices=limits, strides=(1,) * len(limits)
    )
    return (
        RULES["pad"](b, x, b.number(0, x), config=config) if x.shape[-2:] != (rows, columns) else x
    )


def _q_of_reflectors(x: Any, tau: Any) -> Any:
    """The product of Householder reflectors stored below the diagonal, as NumPy's raw mode."""
    m, width = x.shape[-2:]
    q = np.zeros_like(x)
    q[...] = np.eye(m, width)
    for i in reversed(range(tau.shape[-1])):
        v = np.where(np.arange(m) > i, x[..., :, i], np.arange(m) == i)
        along = np.einsum("...i,...ij->...j", np.conj(v), q)
        q -= tau[..., i, None, None] * v[..., :, None] * along[..., None, :]
    return q


# ---------------------------------------------------------------------------- Hermitian


@rule("eigh")
def eigh(b: NodeBuilder, a: Node, *, lower: bool, vectors: bool) -> list[Node]:
    batch, count = batch_of(a)
    n = a.shape[-1]
    real = np.dtype(a.dtype.char.lower())
    if not a.size:
        w = _filled(b, b.elementwise("abs", a), (*batch, n), 0)
        return [w, a] if vectors else [w]

    def function(x: Any) -> list[Any]:
        w, v = np.linalg.eigh(np.swapaxes(x, -1, -2), "L" if lower else "U")
        return [np.swapaxes(v, -1, -2), w]

    scratch = [(a.dtype, None), *([(real, None)] if a.dtype.kind == "c" else [])]
    v, w = _with_workspace(
        b, "syevd", function, [permuted(b, a)], [(a.shape, a.dtype), ((*batch, n), real)],
        [Letter("V" if vectors else "N"), Letter("L" if lower else "U"), Integer(n), each(1, a),
         Integer(n), each(2, (n,), real, 1)],
        [*scratch, (lapack.integer_dtype(), None)], batch=count, in_place=[(0, 0)],
        failure=(LinAlgError, "Eigenvalues did not converge"), work=n**3,
    )  # fmt: skip
    return [w, permuted(b, v)] if vectors else [w]


# ---------------------------------------------------------------------------- singular values


@rule("svd")
def svd(b: NodeBuilder, a: Node, *, full_matrices: bool, compute_uv: bool) -> list[Node]:
    batch, count = batch_of(a)
    m, n = a.shape[-2:]
    k = min(m, n)
    real = np.dtype(a.dtype.char.lower())
    rows, columns = (m, n) if full_matrices else (k, k)
    if not compute_uv:
        rows = columns = 0
    if not a.size:
        return _empty_svd(b, a, rows, columns, compute_uv)

    def function(x: Any) -> list[Any]:
        found = np.linalg.svd(np.swapaxes(x, -1, -2), full_matrices=full_matrices)
        vectors = (np.swapaxes(y, -1, -2) for y in (found.U, found.Vh))
        return [x, found.S, *(vectors if compute_uv else ())]

    job = "N" if not compute_uv else "A" if full_matrices else "S"
    u_shape, vh_shape = (*batch, rows, m), (*batch, n, columns)
    results: Results = [((*batch, n, m), a.dtype), ((*batch, k), real)]
    if compute_uv:
        results += [(u_shape, a.dtype), (vh_shape, a.dtype)]
    found = _with_workspace(
        b, "gesdd", function, [permuted(b, a)], results,
        [Letter(job), Integer(m), Integer(n), each(1, a), Integer(m), each(2, (k,), real, 1),
         each(3, u_shape, a.dtype) if compute_uv else Matrices(1), Integer(m),
         each(4, vh_shape, a.dtype) if compute_uv else Matrices(1), Integer(max(columns, 1))],
        _svd_scratch(a.dtype, m, n, compute_uv), batch=count, in_place=[(0, 0)],
        failure=(LinAlgError, "SVD did not converge"), work=2 * m * n * k,
    )  # fmt: skip
    if not compute_uv:
        return [found[1]]
    return [permuted(b, found[2]), found[1], permuted(b, found[3])]


def _svd_scratch(dtype: np.dtype, m: int, n: int, compute_uv: bool) -> Sizes:
    small, large = sorted((m, n))
    scratch: list[tuple[np.dtype, int | None]] = [(dtype, None)]
    if dtype.kind == "c":  # the sizes that the documentation of zgesdd asks for
        size = small * max(5 * small + 7, 2 * large + 2 * small + 1) if compute_uv else 7 * small
        scratch.append((np.dtype(dtype.char.lower()), size))
    return [*scratch, (lapack.integer_dtype(), 8 * small)]


def _empty_svd(b: NodeBuilder, a: Node, rows: int, columns: int, compute_uv: bool) -> list[Node]:
    batch, (m, n) = a.shape[:-2], a.shape[-2:]
    s = _filled(b, b.elementwise("abs", b.number(0, a)), (*batch, min(m, n)), 0)
    if not compute_uv:
        return [s]
    unit = [
        masked(b, masked(b, _filled(b, a, (*batch, *shape), 1), 0, lower=True), -1, lower=False)
        for shape in ((m, rows), (columns, n))
    ]
    return [unit[0], s, unit[1]]


@rule("pseudo_inverse")
def pseudo_inverse(b: NodeBuilder, a: Node, *, rtol: float) -> Node:
    if not a.size:
        return permuted(b, a)
    u, s, vh = svd(b, a, full_matrices=False, compute_uv=True)
    largest = b.reduce("max", s, (len(s.shape) - 1,))
    axes = tuple(range(len(s.shape) - 1))
    bound = RULES["broadcast_in_dim"](b, largest, shape=s.shape, broadcast_dimensions=axes)
    bound = b.elementwise("mul", bound, b.number(rtol, s))
    inverse = b.elementwise(
        "select", b.elementwise("gt", s, bound), b.elementwise("reciprocal", s), b.number(0, s)
    )
    columns = (*range(len(axes)), len(axes))
    scale = RULES["broadcast_in_dim"](
        b, b.convert(inverse, a.dtype), shape=vh.shape, broadcast_dimensions=columns
    )
    right = b.elementwise("mul", conjugate(b, vh), scale)
    return product(b, permuted(b, right), permuted(b, conjugate(b, u)))


# ---------------------------------------------------------------------------- general


@rule("eig")
def eig(b: NodeBuilder, a: Node, *, vectors: bool) -> list[Node]:
    batch, count = batch_of(a)
    n = a.shape[-1]
    kind = np.dtype(a.dtype.char.upper())
    if not a.size:
        w = _filled(b, b.convert(b.number(0, a), kind), (*batch, n), 0)
        return [w, b.convert(a, kind)] if vectors else [w]
    is_complex = a.dtype.kind == "c"
    finite = b.reduce("and", b.elementwise("is_finite", a), tuple(range(len(a.shape))))

    def function(x: Any, _: Any) -> list[Any]:
        w, v = np.linalg.eig(np.swapaxes(x, -1, -2))
        if is_complex:
            return [x, w, np.swapaxes(v, -1, -2)]
        packed = np.where((np.imag(w) < 0)[..., None, :], -np.imag(v), np.real(v))
        return [x, np.real(w), np.imag(w), np.swapaxes(packed, -1, -2)]

    values = [each(3 + i, (n,), a.dtype, 1) for i in range(1 if is_complex else 2)]
    last = 3 + len(values)
    results: Results = [(a.shape, a.dtype), *[((*batch, n), a.dtype)] * len(values)]
    if vectors:
        results.append((a.shape, a.dtype))
    scratch: Sizes = [(a.dtype, None)]
    if is_complex:
        scratch = [*scratch, (np.dtype(a.dtype.char.lower()), 2 * n)]
    _, *found = _with_workspace(
        b, "geev", function, [permuted(b, a), finite], results,
        [Letter("N"), Letter("V" if vectors else "N"), Integer(n), each(2, a), Integer(n),
         *values, Matrices(2), Integer(1),
         each(last, a) if vectors else Matrices(2), Integer(n)],
        scratch, batch=count, in_place=[(0, 0)], guard=1,
        failure=(LinAlgError, "Eigenvalues did not converge"), work=8 * n**3,
    )  # fmt: skip
    w = found[0] if is_complex else b.elementwise("complex", found[0], found[1])
    if not vectors:
        return [w]
    v = permuted(b, found[-1])
    return [w, v if is_complex else _unpacked_vectors(b, v, found[1])]


def _unpacked_vectors(b: NodeBuilder, v: Node, im: Node) -> Node:
    """Of a pair of conjugate eigenvalues, LAPACK gives the real and the imaginary part of the
    vector of the first, the one with the positive imaginary part.
    """
    axis = len(v.shape) - 1
    columns = (*range(axis - 1), axis)
    im = RULES["broadcast_in_dim"](b, im, shape=v.shape, broadcast_dimensions=columns)
    zero = b.number(0, v)
    first, second = (b.elementwise(word, im, zero) for word in ("gt", "lt"))
    before, behind = (_moved(b, v, axis, by) for by in (1, -1))
    real = b.elementwise("select", second, before, v)
    own = b.elementwise("select", second, b.elementwise("neg", v), zero)
    return b.elementwise("complex", real, b.elementwise("select", first, behind, own))


def _moved(b: NodeBuilder, x: Node, axis: int, by: int) -> Node:
    """Column j is column j - `by`, and 0 where there is none."""
    config = [(0, 0, 0)] * len(x.shape)
    config[axis] = (by, -by, 0)
    return RULES["pad"](b, x, b.number(0, x), config=tuple(config))


__all__ = ["RULES"]
