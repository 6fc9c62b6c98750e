"""How each primitive lowers: a table from its name to what one element of it is.

A rule has the primitive's own signature behind a builder: `rule(builder, *operands, **params)`, and
returns a node. Elementwise primitives need no rule: they carry the word of the operation. A
primitive from elsewhere may bring a method `lower` of the same signature, which wins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from functrans.compiler import nodes, sorting, zeta
from functrans.compiler.affine import ZERO, Index, Shape, reshape_map, scaled
from functrans.compiler.lowering import (
    NodeBuilder,
    dot_strides,
    memory_offset,
    merged_stride,
)
from functrans.compiler.nodes import Node
from functrans.loop_ir import Check

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}


def rule(name: str) -> Callable[[Rule], Rule]:
    """Enter a function in the table."""

    def enter(function: Rule) -> Rule:
        RULES[name] = function
        return function

    return enter


# ---------------------------------------------------------------------------- elementwise


@rule("square")
def square(b: NodeBuilder, x: Node) -> Node:
    return b.elementwise("mul", x, x)


def _ignoring_nan(word: str) -> Rule:
    def lower(b: NodeBuilder, x: Node, y: Node) -> Node:
        best = b.elementwise(word, x, y)
        if x.dtype.kind != "f":
            return best
        best = b.elementwise("select", b.elementwise("isnan", y), x, best)
        return b.elementwise("select", b.elementwise("isnan", x), y, best)

    return lower


RULES["fmax"] = _ignoring_nan("max")
RULES["fmin"] = _ignoring_nan("min")
RULES["trigamma"] = zeta.trigamma
RULES["minus_two_zeta3"] = zeta.minus_two_zeta3


@rule("convert_element_type")
def convert_element_type(b: NodeBuilder, x: Node, *, dtype: np.dtype) -> Node:
    return b.convert(x, np.dtype(dtype))


@rule("stop_gradient")
def stop_gradient(b: NodeBuilder, x: Node) -> Node:
    return x


@rule("copy")
def copy(b: NodeBuilder, x: Node) -> Node:
    return x  # values have no identity: each output of a program is memory of its own


# ---------------------------------------------------------------------------- views


@rule("broadcast_in_dim")
def broadcast_in_dim(b: NodeBuilder, x: Node, *, shape: Shape, broadcast_dimensions: Shape) -> Node:
    axes = tuple(
        -1 if n == 1 else axis for n, axis in zip(x.shape, broadcast_dimensions, strict=True)
    )

    def index_map(index: Index) -> Index:
        return tuple(ZERO if axis < 0 else index[axis] for axis in axes)

    return b.view(x, tuple(shape), index_map)


@rule("permute")
def permute(b: NodeBuilder, x: Node, *, permutation: Shape) -> Node:
    inverse = sorted(range(len(permutation)), key=permutation.__getitem__)

    def index_map(index: Index) -> Index:
        return tuple(index[i] for i in inverse)

    shape = tuple(x.shape[i] for i in permutation)
    return b.add(nodes.View(shape, x.dtype, x, index_map, tuple(permutation)))


@rule("slice")
def slice_(
    b: NodeBuilder, x: Node, *, start_indices: Shape, limit_indices: Shape, strides: Shape
) -> Node:
    def index_map(index: Index) -> Index:
        return tuple(map(scaled, index, strides, start_indices))

    rows = zip(start_indices, limit_indices, strides, strict=True)
    return b.view(x, tuple(-(-(limit - start) // step) for start, limit, step in rows), index_map)


@rule("rev")
def rev(b: NodeBuilder, x: Node, *, dimensions: Shape) -> Node:
    def index_map(index: Index) -> Index:
        return tuple(
            scaled(a, -1, n - 1) if axis in dimensions else a
            for axis, (a, n) in enumerate(zip(index, x.shape, strict=True))
        )

    return b.view(x, x.shape, index_map)


@rule("reshape")
def reshape(b: NodeBuilder, x: Node, *, shape: Shape, **_: Any) -> Node:
    shape = tuple(shape)
    if shape == x.shape:
        return x
    index_map = reshape_map(x.shape, shape)
    if index_map is not None:
        return b.view(x, shape, index_map)
    base = nodes.base_of(x)
    if isinstance(base, nodes.Number):
        return b.view(base, shape, lambda index: ())
    if type(x) is nodes.Alias:
        x = x.base
    elif base is not x or isinstance(x, nodes.Iota):
        x = b.copy(x)
    b.stored(x)
    return b.add(nodes.Alias(shape, x.dtype, x))


@rule("iota")
def iota(b: NodeBuilder, *, dtype: np.dtype, shape: Shape, dimension: int) -> Node:
    count = b.add(nodes.Iota(tuple(shape), np.dtype(np.int64), dimension))
    return b.convert(count, np.dtype(dtype))


@rule("pad")
def pad(b: NodeBuilder, x: Node, value: Node, *, config: Any) -> Node:
    shape = tuple(
        low + high + n + max(n - 1, 0) * interior
        for n, (low, high, interior) in zip(x.shape, config, strict=True)
    )
    return b.add(nodes.Pad(shape, x.dtype, b.stored(x), value, tuple(config)))


@rule("concatenate")
def concatenate(b: NodeBuilder, *xs: Node, dimension: int) -> Node:
    shape = list(xs[0].shape)
    shape[dimension] = sum(x.shape[dimension] for x in xs)
    parts = tuple(x for x in xs if x.size)
    if len(parts) == 1:
        return parts[0]
    return b.add(nodes.Concatenate(tuple(shape), xs[0].dtype, parts or xs, dimension))


# ---------------------------------------------------------------------------- reductions


def _reduction(word: str) -> Rule:
    def lower(b: NodeBuilder, x: Node, *, axes: Shape) -> Node:
        return b.reduce(word, x, tuple(axes))

    return lower


for _name, _word in [
    ("reduce_sum", "add"),
    ("reduce_prod", "mul"),
    ("reduce_max", "max"),
    ("reduce_min", "min"),
    ("reduce_and", "and"),
    ("reduce_or", "or"),
]:
    RULES[_name] = _reduction(_word)


def _position(word: str) -> Rule:
    def lower(b: NodeBuilder, x: Node, *, axis: int, index_dtype: np.dtype) -> Node:
        if x.dtype.kind == "c":
            x = _attains(b, x, b.reduce(word, x, (axis,)), axis)
            word_here = "max"  # the first true one
        else:
            x, word_here = _single(b, x), word
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        found = b.add(nodes.ArgReduce(shape, np.dtype(np.int64), word_here, x, (axis,)))
        return b.convert(found, np.dtype(index_dtype))

    return lower


def _attains(b: NodeBuilder, x: Node, best: Node, axis: int) -> Node:
    """Where `x` is its extremum along an axis; if that is nan, where it is nan."""
    others = tuple(i for i in range(len(x.shape)) if i != axis)
    best = broadcast_in_dim(b, best, shape=x.shape, broadcast_dimensions=others)
    return b.elementwise("or", b.elementwise("eq", x, best), b.elementwise("isnan", x))


def _single(b: NodeBuilder, x: Node) -> Node:
    """float16 as float32, which holds all its numbers."""
    return b.convert(x, np.dtype(np.float32)) if x.dtype == np.float16 else x


RULES["argmax"] = _position("max")
RULES["argmin"] = _position("min")


def _running(word: str) -> Rule:
    def lower(b: NodeBuilder, x: Node, *, axis: int, reverse: bool = False) -> Node:
        return b.add(nodes.Cumulative(x.shape, x.dtype, word, x, axis, reverse))

    return lower


for _name, _word in [
    ("cumsum", "add"),
    ("cumprod", "mul"),
    ("cummax", "max"),
    ("cummin", "min"),
    ("cumlogsumexp", "logaddexp"),
]:
    RULES[_name] = _running(_word)

# ---------------------------------------------------------------------------- order


def _along_rows(function: Callable[[NodeBuilder, Node], Node]) -> Rule:
    """A rule that has the axis moved to the end, where it is contiguous."""

    def lower(b: NodeBuilder, x: Node, *, axis: int) -> Node:
        last = len(x.shape) - 1
        if axis == last:
            return function(b, x)
        forth = (*(i for i in range(last + 1) if i != axis), axis)
        back = (*range(axis), last, *range(axis, last))
        return permute(b, function(b, permute(b, x, permutation=forth)), permutation=back)

    return lower


RULES["sort"] = _along_rows(sorting.sort_rows)
RULES["argsort"] = _along_rows(sorting.argsort_rows)


@rule("argtop_k")
def argtop_k(b: NodeBuilder, x: Node, *, k: int) -> Node:
    return sorting.top_k_rows(b, x, k)


@rule("searchsorted")
def searchsorted(b: NodeBuilder, rows: Node, values: Node, *, side: str) -> Node:
    return sorting.search_rows(b, rows, values, side)


# ---------------------------------------------------------------------------- indexing


def _checks(b: NodeBuilder, primitive: str, x: Node, first: int, k: int) -> tuple[Check, ...]:
    source = str(b.source) if b.source is not None else ""
    return tuple(Check(x.shape[first + i], i, primitive, source) for i in range(k))


@rule("gather")
def gather(
    b: NodeBuilder, x: Node, *indices: Node, batch_dims: int = 0, mode: str = "error"
) -> Node:
    shape = indices[0].shape + x.shape[batch_dims + len(indices) :]
    checks = _checks(b, "gather", x, batch_dims, len(indices))
    return b.add(nodes.Gather(shape, x.dtype, b.stored(x), indices, batch_dims, mode, checks))


@rule("scatter")
def scatter(
    b: NodeBuilder,
    x: Node,
    updates: Node,
    *indices: Node,
    op: str = "set",
    batch_dims: int = 0,
    mode: str = "error",
    unique: bool = False,
) -> Node:
    checks = _checks(b, "scatter", x, batch_dims, len(indices))
    return b.add(nodes.Scatter(x.shape, x.dtype, x, updates, indices, op, batch_dims, mode, checks))


@rule("dynamic_slice")
def dynamic_slice(b: NodeBuilder, x: Node, *starts: Node, slice_sizes: Shape) -> Node:
    return b.add(nodes.DynamicSlice(tuple(slice_sizes), x.dtype, b.stored(x), starts))


@rule("dynamic_update_slice")
def dynamic_update_slice(b: NodeBuilder, x: Node, update: Node, *starts: Node) -> Node:
    if not update.size:
        return x
    return b.add(nodes.UpdateSlice(x.shape, x.dtype, x, update, starts))


# ---------------------------------------------------------------------------- products


@rule("dot_general")
def dot_general(b: NodeBuilder, lhs: Node, rhs: Node, *, dimension_numbers: Any) -> Node:
    if lhs.dtype == np.float16:  # NumPy adds up in float32
        wide = [_single(b, x) for x in (lhs, rhs)]
        return b.convert(dot_general(b, *wide, dimension_numbers=dimension_numbers), lhs.dtype)
    (l_contract, r_contract), (l_batch, r_batch) = dimension_numbers
    l_free = [i for i in range(len(lhs.shape)) if i not in (*l_contract, *l_batch)]
    r_free = [i for i in range(len(rhs.shape)) if i not in (*r_contract, *r_batch)]
    l_axes = (list(l_batch), l_free, list(l_contract))
    r_axes = (list(r_batch), list(r_contract), r_free)
    batch, m = _extents(lhs, l_batch), _extents(lhs, l_free)
    n, k = _extents(rhs, r_free), _extents(lhs, l_contract)
    shape = (*batch, *m, *n)
    sizes = tuple(int(np.prod(e, dtype=np.int64)) for e in (batch, m, n, k))
    is_elementwise = sizes[1:3] == (1, 1) or sizes[3] == 1  # inner and outer products
    if lhs.dtype.kind not in "fc" or is_elementwise:
        return _as_reduction(b, lhs, rhs, (l_axes, r_axes), (batch, m, n, k))
    lhs, l_strides = _matrix(b, lhs, l_axes)
    rhs, r_strides = _matrix(b, rhs, r_axes)
    return b.add(nodes.Dot(shape, lhs.dtype, lhs, rhs, sizes, l_strides, r_strides))  # type: ignore[arg-type]


def _extents(x: Node, axes: Any) -> Shape:
    return tuple(x.shape[i] for i in axes)


def _matrix(b: NodeBuilder, x: Node, axes: Any) -> tuple[Node, tuple[int, int, int]]:
    """The operand in memory, and its strides along (batch, rows, columns)."""
    x = b.stored(x)
    strides = dot_strides(x)
    merged = [merged_stride([(x.shape[i], strides[i]) for i in group]) for group in axes]
    if None in merged or memory_offset(x) or min(strides, default=0) < 0:
        order = tuple(i for group in axes for i in group)
        x = b.stored(b.copy(permute(b, x, permutation=order)))
        return _matrix(b, x, _consecutive([len(group) for group in axes]))
    return x, tuple(merged)  # type: ignore[return-value]


def _consecutive(counts: list[int]) -> list[list[int]]:
    out, at = [], 0
    for count in counts:
        out.append(list(range(at, at + count)))
        at += count
    return out


def _as_reduction(b: NodeBuilder, lhs: Node, rhs: Node, axes: Any, extents: Any) -> Node:
    """A product as loops: multiply, then sum over the last axes."""
    (l_batch, l_free, l_contract), (r_batch, r_contract, r_free) = axes
    batch, m, n, k = extents
    space = (*batch, *m, *n, *k)
    at_m = len(batch)
    at_n = at_m + len(m)
    at_k = at_n + len(n)

    def placed(x: Node, order: list[int], places: list[int]) -> Node:
        x = permute(b, x, permutation=tuple(order))
        return broadcast_in_dim(b, x, shape=space, broadcast_dimensions=tuple(places))

    front, inner = list(range(at_m)), list(range(at_k, len(space)))
    left = placed(lhs, [*l_batch, *l_free, *l_contract], [*front, *range(at_m, at_n), *inner])
    right = placed(rhs, [*r_batch, *r_free, *r_contract], [*front, *range(at_n, at_k), *inner])
    is_bool = lhs.dtype.kind == "b"
    product = b.elementwise("and" if is_bool else "mul", left, right)
    return b.reduce("or" if is_bool else "add", product, tuple(inner))


__all__ = ["RULES", "rule"]
