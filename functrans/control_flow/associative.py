"""`associative_scan`: running results of an associative function, in logarithmic depth.

    elems           a    b    c    d    e
    pairs                ab        cd            fn of neighbours: half as many
    scanned              ab        abcd          the same problem again
    between         a         ab·c      abcd·e   what lies between two of those

About 2n applications in all, and each level is one call of `fn` on arrays. It is made of slices and
concatenations, so every transformation goes through it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from functrans import ops
from functrans.arguments import flatten_outputs, leaf_names
from functrans.control_flow.bodies import arguments_of, what_of
from functrans.core import get_aval
from functrans.ops.structural import slice_axis


def associative_scan(
    fn: Callable[[Any, Any], Any], elems: Any, reverse: bool = False, axis: int = 0
) -> Any:
    """`elems[0]`, `fn(elems[0], elems[1])`, `fn(fn(elems[0], elems[1]), elems[2])`, ...

    `fn` is associative and takes two pytrees like `elems` of any extent along `axis`: it works
    element by element there. With `reverse` the scan begins at the end.

    >>> import numpy as np
    >>> associative_scan(np.multiply, np.arange(1.0, 6.0))
    array([  1.,   2.,   6.,  24., 120.])

    Raises ValueError for leaves without that axis or of different extents, TypeError where `fn`
    returns another structure, shape or dtype.
    """
    what = what_of("associative_scan", fn)
    leaves, tree = arguments_of(what, "elems", elems)
    if not leaves:
        return elems
    at, count = _axis_and_extent(what, leaf_names("elems", elems), leaves, axis)

    def combine(left: list[Any], right: list[Any]) -> list[Any]:
        result, structure = flatten_outputs(fn(tree.unflatten(left), tree.unflatten(right)), what)
        if structure != tree:
            raise TypeError(
                f"{what}: the elements have the structure\n    {tree}\n  but the function "
                f"returns\n    {structure}\n  Return the structure of one element."
            )
        _check_types(what, leaf_names("result", tree.unflatten([0.0] * len(left))), left, result)
        return result

    if reverse:
        leaves = [ops.rev(x, dimensions=(at,)) for x in leaves]
    found = _scanned(combine, leaves, at, count)
    if reverse:
        found = [ops.rev(x, dimensions=(at,)) for x in found]
    return tree.unflatten(found)


def _scanned(
    combine: Callable[[list[Any], list[Any]], list[Any]], xs: list[Any], axis: int, n: int
) -> list[Any]:
    if n < 2:
        return xs

    def part(values: list[Any], start: int, limit: int, stride: int = 1) -> list[Any]:
        return [slice_axis(x, axis, start, limit, stride) for x in values]

    pairs = combine(part(xs, 0, n - 1, 2), part(xs, 1, n, 2))
    odd = _scanned(combine, pairs, axis, n // 2)
    first = part(xs, 0, 1)
    if n == 2:
        return [ops.concatenate(a, b, dimension=axis) for a, b in zip(first, odd, strict=True)]
    between = combine(part(odd, 0, (n - 1) // 2), part(xs, 2, n, 2))
    even = [ops.concatenate(a, b, dimension=axis) for a, b in zip(first, between, strict=True)]
    return [_interleaved(a, b, axis) for a, b in zip(even, odd, strict=True)]


def _interleaved(even: Any, odd: Any, axis: int) -> Any:
    """`even[0], odd[0], even[1], ...`; `even` may have one more."""
    n, m = get_aval(even).shape[axis], get_aval(odd).shape[axis]
    shape = get_aval(odd).shape
    apart = (*shape[: axis + 1], 1, *shape[axis + 1 :])
    rows = [ops.reshape(x, shape=apart) for x in (slice_axis(even, axis, 0, m), odd)]
    both = ops.concatenate(*rows, dimension=axis + 1)
    both = ops.reshape(both, shape=(*shape[:axis], 2 * m, *shape[axis + 1 :]))
    if n == m:
        return both
    return ops.concatenate(both, slice_axis(even, axis, m, n), dimension=axis)


def _axis_and_extent(what: str, names: list[str], leaves: list[Any], axis: int) -> tuple[int, int]:
    ndim = len(get_aval(leaves[0]).shape)
    at = axis + ndim if axis < 0 else axis
    for name, x in zip(names, leaves, strict=True):
        aval = get_aval(x)
        if not 0 <= at < len(aval.shape):
            raise ValueError(
                f"{what}: {name} is {aval} and has no axis {axis} to run over.\n  Give arrays that "
                "have that axis, all of one extent; repeat numbers with np.full."
            )
    extents = [get_aval(x).shape[at] for x in leaves]
    if len(set(extents)) != 1:
        pairs = ", ".join(f"{name} {n}" for name, n in zip(names, extents, strict=True))
        raise ValueError(f"{what}: the extents along axis {axis} differ: {pairs}.")
    return at, extents[0]


def _check_types(what: str, names: list[str], given: list[Any], result: list[Any]) -> None:
    for name, x, y in zip(names, given, result, strict=True):
        if get_aval(x) != get_aval(y):
            raise TypeError(
                f"{what}: {name} is {get_aval(y)}, of operands {get_aval(x)}.\n  The function must "
                "return what it takes, for any extent along the axis: convert the elements before, "
                "x.astype(dtype)."
            )


__all__ = ["associative_scan"]
