"""How each primitive lowers: a table from its name to what one element of it is.

A rule has the primitive's own signature behind a builder: `rule(builder, *operands, **params)`, and
returns a node. Elementwise primitives need no rule: they carry the word of the operation. A
primitive from elsewhere may bring a method `lower` of the same signature, which wins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from functrans.compiler.lowering import convolution, nodes, product_rules, sorting, zeta
from functrans.compiler.lowering.affine import Index, Shape, reshape_map, scaled
from functrans.compiler.lowering.lowering import NodeBuilder
from functrans.compiler.lowering.nodes import Node
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
    return b.broadcast(x, shape, broadcast_dimensions)


@rule("permute")
def permute(b: NodeBuilder, x: Node, *, permutation: Shape) -> Node:
    if (
        isinstance(x, nodes.Dot)
        and b.is_only_used_here(x)
        and product_rules.permute(x, permutation)
    ):
        return x
    return b.permute(x, permutation)


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
    after = x.after if type(x) is nodes.Alias else ()
    if type(x) is nodes.Alias:
        x = x.base
    elif base is not x or isinstance(x, nodes.Iota):
        x = b.copy(x)
    b.stored(x)
    return b.add(nodes.Alias(shape, x.dtype, x, after))


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
    if all(low <= 0 and high <= 0 and not interior for low, high, interior in config):
        lows = [low for low, _, _ in config]
        return b.view(
            x, shape, lambda i: tuple(scaled(a, 1, -low) for a, low in zip(i, lows, strict=True))
        )
    sources = _cheap_sources(x)
    if not sources:
        return b.add(nodes.Pad(shape, x.dtype, b.stored(x), value, tuple(config)))
    for source in sources:
        b.stored(source)
    return b.add(nodes.Pad(shape, x.dtype, x, value, tuple(config), tuple(sources)))


_CHEAP = frozenset("add sub mul neg copy convert select abs max min".split())
MOST_COMPUTED = 16  # operations of what is padded, up to which it is not stored first


def _cheap_sources(x: Node) -> list[Node]:
    """The nodes in memory that `x` is computed from in a few cheap operations; else none."""
    found: dict[Node, None] = {}
    seen: set[Node] = set()
    stack = [x]
    while stack:
        node = nodes.base_of(stack.pop())
        if node in seen or isinstance(node, nodes.Number):
            continue
        seen.add(node)
        if isinstance(node, nodes.IN_MEMORY) or node.needed_whole:
            found[node] = None
        elif isinstance(node, nodes.Pointwise) and node.op in _CHEAP:
            stack.extend(node.operands)
        else:
            return []
    computed = len(seen) - len(found)
    return list(found) if 0 < computed <= MOST_COMPUTED else []


@rule("concatenate")
def concatenate(b: NodeBuilder, *xs: Node, dimension: int) -> Node:
    shape = list(xs[0].shape)
    shape[dimension] = sum(x.shape[dimension] for x in xs)
    parts = tuple(x for x in xs if x.size)
    if len(parts) == 1:
        return parts[0]
    return b.add(nodes.Concatenate(tuple(shape), xs[0].dtype, parts or xs, dimension))


RULES["dot_general"] = product_rules.dot_general
RULES["conv_general_dilated"] = convolution.convolve


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
    def lower(b: NodeBuilder, x: Node, *, axis: int, index_dtype: Any) -> Node:
        index_dtype = np.dtype(index_dtype)
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        if x.shape[axis] == 1:
            zero = b.add(nodes.Number((), index_dtype, index_dtype.type(0)))
            return b.view(zero, shape, lambda index: ())
        if x.dtype.kind == "c":
            x = _attains(b, x, b.reduce(word, x, (axis,)), axis)
            word_here = "max"  # the first true one
        else:
            x, word_here = _single(b, x), word
        found = b.add(nodes.ArgReduce(shape, np.dtype(np.int64), word_here, x, (axis,)))
        return b.convert(found, index_dtype)

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


__all__ = ["RULES", "rule"]
