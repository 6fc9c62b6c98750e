"""Primitives that put elements in order, or find their places in an order.

The order is NumPy's: ascending, nan last, -0.0 equal to 0.0, complex numbers by their real part,
then by the imaginary one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans.core import Primitive, Zero, get_aval
from functrans.ir import ShapedArray
from functrans.ops import axes as ax
from functrans.ops.axes import batched_in_front, moveaxis
from functrans.ops.indexing import take_along

_INT64 = np.dtype(np.int64)


def _no_tangent(out: Any) -> Any:
    return out, Zero(get_aval(out).tangent_aval())


class Sort(Primitive):
    """`x` in ascending order along `axis`. Which of -0.0 and 0.0 comes first is not said."""

    def abstract_eval(self, x: ShapedArray, *, axis: int) -> ShapedArray:
        ax.check_axes(self.name, x, (axis,))
        return x

    def impl(self, x: Any, *, axis: int) -> Any:
        return np.sort(x, axis=axis)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], *, axis: int) -> Any:
        x, t = primals[0], tangents[0]
        if type(t) is Zero:
            return _no_tangent(self(x, axis=axis))
        order = argsort(x, axis=axis)
        return take_along(x, order, axis), take_along(t, order, axis)

    def batch(self, size: int, args: Sequence[Any], dims: Sequence[Any], *, axis: int) -> Any:
        d = dims[0]
        return self(args[0], axis=axis + (axis >= d)), d


class Argsort(Sort):
    """The order in which `sort` takes the elements along `axis`; equal ones keep their order."""

    def abstract_eval(self, x: ShapedArray, *, axis: int) -> ShapedArray:
        return super().abstract_eval(x, axis=axis).update(dtype=_INT64)

    def impl(self, x: Any, *, axis: int) -> Any:
        return np.argsort(x, axis=axis, kind="stable")

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], *, axis: int) -> Any:
        return _no_tangent(self(primals[0], axis=axis))


class ArgTopK(Primitive):
    """The positions along the last axis of the `k` largest elements, largest first.

    It is `sort`'s order from its end: nan comes first. Of equal elements the first comes first.
    """

    def abstract_eval(self, x: ShapedArray, *, k: int) -> ShapedArray:
        if not x.shape or not 0 <= k <= x.shape[-1]:
            raise ValueError(
                f"{self.name} with k={k} of {x}: k must be between 0 and the extent of the last "
                "axis."
            )
        if x.dtype.kind == "c":
            raise TypeError(f"{self.name} does not accept {x}. Take it of x.real or abs(x).")
        return ShapedArray((*x.shape[:-1], k), _INT64)

    def impl(self, x: Any, *, k: int) -> Any:
        self.abstract_eval(get_aval(x), k=k)
        n = x.shape[-1]
        return n - 1 - np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1][..., :k]

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], *, k: int) -> Any:
        return _no_tangent(self(primals[0], k=k))

    def batch(self, size: int, args: Sequence[Any], dims: Sequence[Any], *, k: int) -> Any:
        return self(moveaxis(args[0], dims[0], 0), k=k), 0


class SearchSorted(Primitive):
    """How many elements of each ascending row of `rows` are before each of `values`.

    `rows` is (*B, n), `values` (*B, *Q). With `side` "left" those are before a value that are less
    than it, with "right" also those equal to it.
    """

    def abstract_eval(self, rows: ShapedArray, values: ShapedArray, *, side: str) -> ShapedArray:
        if side not in ("left", "right"):
            raise ValueError(f"{self.name} has the sides 'left' and 'right', got {side!r}.")
        if not rows.shape or values.shape[: rows.ndim - 1] != rows.shape[:-1]:
            raise ValueError(
                f"{self.name} needs values whose shape begins with that of the rows, got "
                f"rows {rows} and values {values}."
            )
        if rows.dtype != values.dtype:
            raise TypeError(
                f"{self.name} needs operands of equal dtype, got {rows} and {values}. "
                "functrans.numpy.searchsorted promotes."
            )
        return ShapedArray(values.shape, _INT64)

    def impl(self, rows: Any, values: Any, *, side: Any) -> Any:
        self.abstract_eval(get_aval(rows), get_aval(values), side=side)
        if rows.ndim == 1:
            return np.searchsorted(rows, values, side)
        out = np.empty(values.shape, _INT64)
        for i in np.ndindex(rows.shape[:-1]):
            out[i] = np.searchsorted(rows[i], values[i], side)
        return out

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], *, side: str) -> Any:
        return _no_tangent(self(*primals, side=side))

    def batch(self, size: int, args: Sequence[Any], dims: Sequence[Any], *, side: str) -> Any:
        rows, values = args
        d_rows, d_values = dims
        if d_rows is None:
            at = len(rows.shape) - 1
            return self(rows, moveaxis(values, d_values, at), side=side), at
        rows, values = (batched_in_front(x, d, size) for x, d in zip(args, dims, strict=True))
        return self(rows, values, side=side), 0


sort = Sort("sort")
argsort = Argsort("argsort")
argtop_k = ArgTopK("argtop_k")
searchsorted = SearchSorted("searchsorted")


def sort_together(keys: Sequence[Any], axis: int) -> Any:
    """The order along `axis` by the first of `keys`, where equal by the second, and so on."""
    order = None
    for key in reversed(keys):
        if order is None:
            order = argsort(key, axis=axis)
        else:
            finer = argsort(take_along(key, order, axis), axis=axis)
            order = take_along(order, finer, axis)
    return order


__all__ = ["argsort", "argtop_k", "searchsorted", "sort", "sort_together"]
