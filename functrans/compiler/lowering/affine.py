"""Arithmetic on `loop_ir.Affine`: the indices that views are made of.

A view maps the index of an element of its result to the index of an element of its operand. While
such maps are affine they cost nothing: they disappear into the addresses of loads and stores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from functrans.loop_ir import Affine

Index = tuple[Affine, ...]
IndexMap = Callable[[Index], Index]
Shape = tuple[int, ...]
Axes = Sequence[tuple[int, int]]  # (extent, stride) of each

ZERO = Affine()


def variable(name: str) -> Affine:
    """The index that is one loop variable or integer scalar."""
    return Affine(((name, 1),))


def constant(offset: int) -> Affine:
    """The index that is one number."""
    return Affine((), offset) if offset else ZERO


def scaled(a: Affine, factor: int, offset: int = 0) -> Affine:
    """`factor * a + offset`."""
    if factor == 1:
        return Affine(a.terms, a.offset + offset) if offset else a
    if factor == 0:
        return constant(offset)
    return Affine(tuple((n, c * factor) for n, c in a.terms), a.offset * factor + offset)


def plus(a: Affine, b: Affine) -> Affine:
    """`a + b`."""
    if not a.terms:
        return scaled(b, 1, a.offset)
    if not b.terms:
        return scaled(a, 1, b.offset)
    return combined([*a.terms, *b.terms], a.offset + b.offset)


def combined(terms: Sequence[tuple[str, int]], offset: int) -> Affine:
    """The sum of terms, in which a name may occur more than once."""
    total: dict[str, int] = {}
    for name, coefficient in terms:
        total[name] = total.get(name, 0) + coefficient
    return Affine(tuple(sorted((n, c) for n, c in total.items() if c)), offset)


def strides_of(shape: Shape) -> Shape:
    """The distance in elements between neighbours along each axis of a C-contiguous block."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def merged_stride(axes: Axes) -> int | None:
    """The stride of axes taken as one; None if they have none."""
    merged: tuple[int, int] | None = None
    for n, stride in axes:
        if n == 1:
            continue
        if merged is not None and merged[1] != n * stride:
            return None
        merged = (n, stride)
    return merged[1] if merged else 0


def flat(index: Index, shape: Shape) -> Affine:
    """The place of an element in a C-contiguous block."""
    if len(index) == 1:
        return index[0]
    terms: list[tuple[str, int]] = []
    offset = 0
    for a, n, stride in zip(index, shape, strides_of(shape), strict=True):
        if n != 1:
            offset += a.offset * stride
            terms.extend((name, c * stride) for name, c in a.terms)
    return combined(terms, offset)


def bounds(a: Affine, extents: Mapping[str, int]) -> tuple[int, int] | None:
    """The least and greatest value of `a`; None where a name is not a loop variable."""
    low = high = a.offset
    for name, c in a.terms:
        n = extents.get(name)
        if n is None:
            return None
        reach = c * max(n - 1, 0)
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high


def reshape_map(shape: Shape, new_shape: Shape) -> IndexMap | None:
    """The map of a reshape from `shape` to `new_shape`, or None where it is not affine.

    Both shapes are cut into blocks of equal size. A block is affine where it has one axis of
    `shape` besides axes of extent 1: an axis may be split, but not merged with another.
    """
    blocks: list[tuple[int, list[int]]] = []
    old = [i for i, n in enumerate(shape) if n != 1]
    new = [i for i, n in enumerate(new_shape) if n != 1]
    at = 0
    for axis in old:
        size, members = 1, []
        while at < len(new) and size < shape[axis]:
            size *= new_shape[new[at]]
            members.append(new[at])
            at += 1
        if size != shape[axis]:
            return None
        blocks.append((axis, members))
    if at != len(new):
        return None
    return _block_map(len(shape), new_shape, blocks)


def _block_map(ndim: int, new_shape: Shape, blocks: list[tuple[int, list[int]]]) -> IndexMap:
    def index_map(index: Index) -> Index:
        out = [ZERO] * ndim
        for axis, members in blocks:
            sizes = tuple(new_shape[i] for i in members)
            out[axis] = flat(tuple(index[i] for i in members), sizes)
        return tuple(out)

    return index_map
