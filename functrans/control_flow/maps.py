"""`map`: a function of each slice of arrays, one after another or some at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from functrans import ops, pytree
from functrans.arguments import flatten_outputs
from functrans.control_flow.bodies import arguments_of, what_of
from functrans.control_flow.scans import leading_extent, scan
from functrans.core import get_aval
from functrans.interpreters.batching import batch_flat, move_to
from functrans.ops.structural import slice_axis


def map(f: Callable[[Any], Any], xs: Any, *, batch_size: int | None = None) -> Any:
    """`f` of each slice of `xs`, stacked: a loop, where `vmap` works on all slices at once.

    With `batch_size`, that many slices at once.

    >>> import numpy as np
    >>> map(lambda x: x**2, np.arange(3.0))
    array([0., 1., 4.])
    """
    if batch_size is None:
        return scan(lambda _, x: ((), f(x)), (), xs)[1]
    if batch_size < 1:
        raise ValueError(f"{what_of('map', f)}: batch_size is {batch_size}; give at least 1.")
    leaves, tree = arguments_of(what_of("map", f), "xs", xs)
    length = leading_extent(what_of("map", f), xs, leaves, None)
    rows, size = length // batch_size * batch_size, batch_size

    def whole(x: Any) -> Any:
        shape = get_aval(x).shape
        part = slice_axis(x, 0, 0, rows)
        return ops.reshape(part, shape=(rows // size, size, *shape[1:]))

    ys = scan(lambda _, x: ((), _batched(f, x, size)), (), pytree.tree_map(whole, xs))[1]
    ys = pytree.tree_map(lambda y: ops.reshape(y, shape=(rows, *get_aval(y).shape[2:])), ys)
    if rows == length:
        return ys
    last = tree.unflatten([slice_axis(x, 0, rows, length) for x in leaves])
    rest = _batched(f, last, length - rows)
    return pytree.tree_map(lambda a, b: ops.concatenate(a, b, dimension=0), ys, rest)


def _batched(f: Callable[[Any], Any], xs: Any, size: int) -> Any:
    leaves, tree = pytree.tree_flatten(xs)
    found: list[Any] = []

    def flat(*rows: Any) -> list[Any]:
        outs, structure = flatten_outputs(f(tree.unflatten(rows)), what_of("map", f))
        found.append(structure)
        return outs

    outs, dims = batch_flat(flat, leaves, [0] * len(leaves), size)
    return found[0].unflatten(move_to(y, d, 0, size) for y, d in zip(outs, dims, strict=True))


__all__ = ["map"]
