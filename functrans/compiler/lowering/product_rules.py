"""How matrix products lower: views become strides, and transposes are written, not copied.

The axes of an operand are merged to (batch, rows, columns) where memory allows it; the batch may be
two axes, so that attention over (batch, head) reads and writes (batch, time, head, ...) arrays as
they are. What cannot be merged is copied first. A result that is only permuted is written in the
order that is wanted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from functrans.compiler.lowering import nodes
from functrans.compiler.lowering.affine import Axes, Shape, merged_stride, strides_of
from functrans.compiler.lowering.lowering import NodeBuilder
from functrans.compiler.lowering.nodes import Node

# Elements of a matrix from which loops multiply it with a vector: they are shared among threads and
# as fast as memory, where OpenBLAS's gemm takes up to three times longer.
LARGE = 1 << 18


def dot_general(b: NodeBuilder, lhs: Node, rhs: Node, *, dimension_numbers: Any) -> Node:
    """The rule of `dot_general`."""
    if lhs.dtype == np.float16:  # NumPy adds up in float32
        wide = (b.convert(x, np.dtype(np.float32)) for x in (lhs, rhs))
        return b.convert(dot_general(b, *wide, dimension_numbers=dimension_numbers), lhs.dtype)
    (l_contract, r_contract), (l_batch, r_batch) = dimension_numbers
    l_free = [i for i in range(len(lhs.shape)) if i not in (*l_contract, *l_batch)]
    r_free = [i for i in range(len(rhs.shape)) if i not in (*r_contract, *r_batch)]
    l_axes = (list(l_batch), l_free, list(l_contract))
    r_axes = (list(r_batch), list(r_contract), r_free)
    batch, m = _extents(lhs, l_batch), _extents(lhs, l_free)
    n, k = _extents(rhs, r_free), _extents(lhs, l_contract)
    sizes = math.prod(batch), math.prod(m), math.prod(n), math.prod(k)
    is_elementwise = sizes[1:3] == (1, 1) or sizes[3] == 1  # inner and outer products
    if lhs.dtype.kind not in "fc" or is_elementwise:
        return _as_reduction(b, lhs, rhs, (l_axes, r_axes), (batch, m, n, k))
    if lhs.dtype.kind == "f" and sizes[0] == 1 and 1 in sizes[1:3] and math.prod(sizes) > LARGE:
        lhs, rhs = b.stored(lhs), b.stored(rhs)
        matrix, axes = (lhs, l_axes[2]) if sizes[2] == 1 else (rhs, r_axes[1])
        by_rows = nodes.memory_strides(matrix)[axes[-1]] != 1
        return _as_reduction(b, lhs, rhs, (l_axes, r_axes), (batch, m, n, k), by_rows=by_rows)
    left, right = _Operand(b, lhs, l_axes), _Operand(b, rhs, r_axes)
    shape = (*batch, *m, *n)
    out_batch = list(zip(batch, strides_of(shape), strict=False))
    if _merged_batches(left.batch, right.batch, out_batch) is None:
        left.copy(b)
        right.copy(b)
    dot = nodes.Dot(
        shape, lhs.dtype, left.node, right.node, sizes, (left.strides, right.strides, (0, 0, 0)),
        (1, 0, 0, 0), (batch, m, n), (left.batch, right.batch),
    )  # type: ignore[arg-type]  # fmt: skip
    _write_in_order(dot, tuple(range(len(shape))))
    return b.add(dot)


def permute(dot: nodes.Dot, permutation: Shape) -> bool:
    """Make a product write its result permuted; False where it had to be copied after all."""
    return _write_in_order(dot, permutation)


def _extents(x: Node, axes: Any) -> Shape:
    return tuple(x.shape[i] for i in axes)


# ---------------------------------------------------------------------------- strides


class _Operand:
    """An operand in memory: its strides along (batch, rows, columns), and the axes of the batch."""

    def __init__(self, b: NodeBuilder, x: Node, axes: Sequence[Sequence[int]]):
        self.node = b.stored(x)
        self.axes = axes
        strides = nodes.memory_strides(self.node)
        groups = [[(self.node.shape[i], strides[i]) for i in group] for group in axes]
        rows, columns = merged_stride(groups[1]), merged_stride(groups[2])
        self.batch: Axes = groups[0]
        self.strides = (0, rows or 0, columns or 0)
        is_plain = not nodes.memory_offset(self.node) and min(strides, default=0) >= 0
        if rows is None or columns is None or not is_plain:
            self.copy(b)

    def copy(self, b: NodeBuilder) -> None:
        """Bring the axes into the order (batch, rows, columns), one after another in memory."""
        order = tuple(i for group in self.axes for i in group)
        x = b.copy(b.permute(self.node, order))
        self.__init__(b, x, list(_consecutive([len(group) for group in self.axes])))


def _merged_batches(*batches: Axes) -> tuple[int, list[int], int, list[int]] | None:
    """The axes of the batch as one or two: (extent, strides) outside, (extent, strides) inside."""
    extents = [n for n, _ in batches[0]]
    for cut in range(max(len(extents), 1)):
        outside = [merged_stride(axes[:cut]) for axes in batches]
        inside = [merged_stride(axes[cut:]) for axes in batches]
        if None not in (*outside, *inside):
            return math.prod(extents[:cut]), outside, math.prod(extents[cut:]), inside  # type: ignore[return-value]
    return None


def _write_in_order(dot: nodes.Dot, permutation: Shape) -> bool:
    """Give the result the shape and the strides of its axes permuted, if they merge then."""
    batch, m, n = dot.extents
    natural = (*batch, *m, *n)
    shape = tuple(natural[i] for i in permutation)
    place = dict(zip(permutation, strides_of(shape), strict=True))
    axes = [(extent, place[i]) for i, extent in enumerate(natural)]
    rows = merged_stride(axes[len(batch) : len(batch) + len(m)])
    columns = merged_stride(axes[len(batch) + len(m) :])
    merged = _merged_batches(*dot.batches, axes[: len(batch)])
    _, size_m, size_n, size_k = dot.sizes
    along = (rows == 1 or size_m == 1) or (columns == 1 or size_n == 1)
    if rows is None or columns is None or merged is None or not along:
        return False
    count, outside, inner, inside = merged
    dot.shape = shape
    dot.sizes = (inner, size_m, size_n, size_k)
    dot.outer = (count, *outside)  # type: ignore[assignment]
    ends = [s[1:] for s in dot.strides[:2]] + [(rows, columns)]
    dot.strides = tuple((s, *end) for s, end in zip(inside, ends, strict=True))  # type: ignore[assignment]
    return True


def _consecutive(counts: Sequence[int]) -> Iterator[list[int]]:
    at = 0
    for count in counts:
        yield list(range(at, at + count))
        at += count


# ---------------------------------------------------------------------------- loops


def _as_reduction(
    b: NodeBuilder, lhs: Node, rhs: Node, axes: Any, extents: Any, *, by_rows: bool = False
) -> Node:
    """A product as loops: multiply, then sum over the last axes; `by_rows` over the first ones."""
    (l_batch, l_free, l_contract), (r_batch, r_contract, r_free) = axes
    batch, m, n, k = extents
    order = [batch, k, m, n] if by_rows else [batch, m, n, k]
    space = tuple(itertools.chain(*order))
    starts = itertools.accumulate(map(len, order), initial=0)
    spans = [list(range(i, i + len(part))) for i, part in zip(starts, order, strict=False)]
    front, of_m, of_n, inner = (spans[i] for i in ((0, 2, 3, 1) if by_rows else (0, 1, 2, 3)))

    def placed(x: Node, order: list[int], places: list[int]) -> Node:
        x = b.permute(x, tuple(i for _, i in sorted(zip(places, order, strict=True))))
        return b.broadcast(x, space, tuple(sorted(places)))

    left = placed(lhs, [*l_batch, *l_free, *l_contract], [*front, *of_m, *inner])
    right = placed(rhs, [*r_batch, *r_free, *r_contract], [*front, *of_n, *inner])
    is_bool = lhs.dtype.kind == "b"
    product = b.elementwise("and" if is_bool else "mul", left, right)
    return b.reduce("or" if is_bool else "add", product, tuple(inner))
