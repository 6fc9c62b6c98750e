"""Reductions other than the sum, and running reductions.

The derivatives have to be right where the obvious formula divides by zero, so products are
differentiated by repeated halving or doubling with the product rule, never by `y / x`; the running
log of a sum of exponentials likewise, with `logaddexp` in place of the product.
Maxima and minima share their derivative evenly among the elements that attain them; running ones
give it to the first that does. A nan is maximum and minimum of what it is among.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans import dtypes
from functrans.core import Primitive, Zero, get_aval
from functrans.ir import ShapedArray
from functrans.ops import axes as ax
from functrans.ops import elementwise as el
from functrans.ops import structural
from functrans.ops.axes import Shape, Structural, shifted, zero_number
from functrans.ops.gather_scatter import attains
from functrans.ops.indexing import take_along

_INT64 = np.dtype(np.int64)


def _check_kind(name: str, x: ShapedArray, kinds: str) -> None:
    if x.dtype.kind not in kinds:
        remedy = "functrans.numpy converts first." if x.dtype.kind == "b" else "Convert it first."
        raise TypeError(f"{name} does not accept {x}. {remedy}")


def _no_tangent(out: Any) -> Any:
    return out, Zero(get_aval(out).tangent_aval())


# ---------------------------------------------------------------------------- reductions


class Reduction(Primitive):
    """`ufunc` folded over `axes`, which the result does not have. By itself it has no tangent."""

    def __init__(self, name: str, ufunc: np.ufunc, *, kinds: str):
        super().__init__(name)
        self.ufunc = ufunc
        self.kinds = kinds

    def abstract_eval(self, x: ShapedArray, *, axes: Shape) -> ShapedArray:
        ax.check_axes(self.name, x, axes)
        _check_kind(self.name, x, self.kinds)
        if self.ufunc.identity is None and any(x.shape[a] == 0 for a in axes):
            raise ValueError(
                f"{self.name} of {x} over axes {tuple(axes)}: there are no elements, and no "
                "identity to give instead. Give functrans.numpy's function initial=..."
            )
        return ShapedArray(tuple(n for i, n in enumerate(x.shape) if i not in axes), x.dtype)

    def impl(self, x: Any, *, axes: Shape) -> Any:
        dtype = x.dtype
        if dtype.kind not in self.kinds or 0 in x.shape:
            self.abstract_eval(get_aval(x), axes=axes)
        return self.ufunc.reduce(x, axis=axes, dtype=dtype)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], *, axes: Shape) -> Any:
        out = self(primals[0], axes=axes)
        if type(tangents[0]) is Zero:
            return _no_tangent(out)
        return out, self.tangent(tangents[0], out, primals[0], axes)

    def tangent(self, t: Any, y: Any, x: Any, axes: Shape) -> Any:
        """The tangent of the result `y`."""
        raise self.missing("tangent", "differentiation")

    def batch(self, size: int, args: Sequence[Any], dims: Sequence[Any], *, axes: Shape) -> Any:
        d = dims[0]
        axes = shifted(axes, d)
        return self(args[0], axes=axes), d - sum(a < d for a in axes)


class Extremum(Reduction):
    """The largest or smallest element."""

    def tangent(self, t: Any, y: Any, x: Any, axes: Shape) -> Any:
        kept = tuple(i for i in range(len(x.shape)) if i not in axes)
        y = structural.broadcast_in_dim(y, shape=x.shape, broadcast_dimensions=kept)
        found = attains(x, y)
        count = structural.reduce_sum(el.convert_element_type(found, dtype=x.dtype), axes=axes)
        total = structural.reduce_sum(el.select(found, t, zero_number(x)), axes=axes)
        return el.mul(total, el.reciprocal(count))


class Product(Reduction):
    """The product."""

    def tangent(self, t: Any, y: Any, x: Any, axes: Shape) -> Any:
        if not axes:
            return t
        x, t = _merged(x, axes), _merged(t, axes)
        axis = len(x.shape) - 1
        n = x.shape[axis]
        if n == 0:
            return structural.zeros(get_aval(y))
        # Multiply the first half by the second until one element is left.
        whole = 1 << (n - 1).bit_length()
        x = _padded_behind(x, axis, whole - n, el.one_like(x))
        t = _padded_behind(t, axis, whole - n, zero_number(t))
        while whole > 1:
            half = whole // 2
            x_halves = [structural.slice_axis(x, axis, i, i + half) for i in (0, half)]
            t_halves = [structural.slice_axis(t, axis, i, i + half) for i in (0, half)]
            x, t = el.mul.jvp(x_halves, t_halves)
            whole = half
        return structural.squeeze(t, (axis,))


def _merged(x: Any, axes: Shape) -> Any:
    """`x` with `axes` merged into one, which is the last."""
    kept = tuple(i for i in range(len(x.shape)) if i not in axes)
    order = (*kept, *axes)
    if order != tuple(range(len(order))):
        x = structural.permute(x, permutation=order)
    if len(axes) == 1:
        return x
    extent = 1
    for n in x.shape[len(kept) :]:
        extent *= n
    return structural.reshape(x, shape=(*x.shape[: len(kept)], extent))


def _padded_behind(x: Any, axis: int, count: int, number: Any) -> Any:
    if not count:
        return x
    config = ax.inserted(((0, 0, 0),) * (len(x.shape) - 1), axis, (0, count, 0))
    return structural.pad(x, number, config=config)


# ---------------------------------------------------------------------------- running reductions


class Cumulative(Primitive):
    """`ufunc` folded over each element and those before it (behind it, if `reverse`) on an axis."""

    def __init__(self, name: str, ufunc: np.ufunc, *, kinds: str):
        super().__init__(name)
        self.ufunc = ufunc
        self.kinds = kinds

    def abstract_eval(self, x: ShapedArray, *, axis: int, reverse: bool = False) -> ShapedArray:
        ax.check_axes(self.name, x, (axis,))
        _check_kind(self.name, x, self.kinds)
        return x

    def impl(self, x: Any, *, axis: int, reverse: bool = False) -> Any:
        dtype = x.dtype
        if dtype.kind not in self.kinds:
            self.abstract_eval(get_aval(x), axis=axis)
        if not reverse:
            return self.ufunc.accumulate(x, axis=axis, dtype=dtype)
        return np.flip(self.ufunc.accumulate(np.flip(x, axis), axis=axis, dtype=dtype), axis)

    def jvp(
        self, primals: Sequence[Any], tangents: Sequence[Any], *, axis: int, reverse: bool = False
    ) -> Any:
        x, t = primals[0], tangents[0]
        out = self(x, axis=axis, reverse=reverse)
        if type(t) is Zero:
            return _no_tangent(out)
        if x.shape[axis] <= 1:
            return out, t
        if not reverse:
            return out, self.tangent(t, out, x, axis)
        t, y, x = (structural.rev(a, dimensions=(axis,)) for a in (t, out, x))
        return out, structural.rev(self.tangent(t, y, x, axis), dimensions=(axis,))

    def tangent(self, t: Any, y: Any, x: Any, axis: int) -> Any:
        """The tangent of the result `y`, not reversed; at least two elements on the axis."""
        raise self.missing("tangent", "differentiation")

    def batch(
        self,
        size: int,
        args: Sequence[Any],
        dims: Sequence[Any],
        *,
        axis: int,
        reverse: bool = False,
    ) -> Any:
        d = dims[0]
        return self(args[0], axis=axis + (axis >= d), reverse=reverse), d


class CumulativeSum(Cumulative):
    """The running sum, which is linear."""

    jvp = Structural.jvp  # type: ignore[assignment]

    def transpose(self, ct: Any, x: Any, *, axis: int, reverse: bool = False) -> list[Any]:
        return [self(ct, axis=axis, reverse=not reverse)]


class Doubling(Cumulative):
    """A running reduction differentiated by that of its binary operation.

    In round r each element is combined with the one 2**r before it, which makes it the reduction
    of the 2**(r + 1) elements up to it (Hillis and Steele, 1986).
    """

    def __init__(self, name: str, combine: el.Elementwise, identity: float, *, kinds: str):
        super().__init__(name, combine.impl, kinds=kinds)  # type: ignore[arg-type]
        self.combine = combine
        self.identity = identity

    def tangent(self, t: Any, y: Any, x: Any, axis: int) -> Any:
        n = x.shape[axis]
        identity = np.asarray(self.identity, x.dtype)[()]
        distance = 1
        while distance < n:
            before = _moved_on(x, axis, distance, identity)
            t_before = _moved_on(t, axis, distance, zero_number(t))
            x, t = self.combine.jvp((before, x), (t_before, t))
            distance *= 2
        return t


class RunningExtremum(Cumulative):
    """The largest or smallest element so far."""

    def tangent(self, t: Any, y: Any, x: Any, axis: int) -> Any:
        n = y.shape[axis]
        earlier = structural.slice_axis(y, axis, 0, n - 1)
        later = structural.slice_axis(y, axis, 1, n)
        is_record = el.ne(later, earlier)
        if dtypes.is_inexact(y.dtype):  # once a nan is the extremum it stays the same one
            is_record = el.and_(is_record, el.eq(earlier, earlier))
        position = structural.iota(dtype=_INT64, shape=y.shape, dimension=axis)
        is_record = _padded_in_front(is_record, axis, 1, np.bool_(True))
        holder = cummax(el.select(is_record, position, np.int64(0)), axis=axis)
        return take_along(t, holder, axis)


def _moved_on(x: Any, axis: int, distance: int, number: Any) -> Any:
    """`x` moved `distance` places on along an axis, with `number` put in front."""
    kept = structural.slice_axis(x, axis, 0, x.shape[axis] - distance)
    return _padded_in_front(kept, axis, distance, number)


def _padded_in_front(x: Any, axis: int, count: int, number: Any) -> Any:
    config = ax.inserted(((0, 0, 0),) * (len(x.shape) - 1), axis, (count, 0, 0))
    return structural.pad(x, number, config=config)


# ---------------------------------------------------------------------------- positions


class ArgExtremum(Primitive):
    """The position along `axis` of the first largest or smallest element, or of the first nan."""

    def __init__(self, name: str, function: Any):
        super().__init__(name)
        self.function = function

    def abstract_eval(self, x: ShapedArray, *, axis: int, index_dtype: np.dtype) -> ShapedArray:
        ax.check_axes(self.name, x, (axis,))
        if x.shape[axis] == 0:
            raise ValueError(f"{self.name} of {x} along axis {axis}: there are no elements.")
        if np.dtype(index_dtype).kind not in "iu":
            raise TypeError(f"{self.name} needs an integer index_dtype, got {index_dtype}.")
        return ShapedArray(ax.without(x.shape, axis), np.dtype(index_dtype))

    def impl(self, x: Any, *, axis: int, index_dtype: np.dtype) -> Any:
        if 0 in x.shape:
            self.abstract_eval(get_aval(x), axis=axis, index_dtype=index_dtype)
        return self.function(x, axis=axis).astype(index_dtype, copy=False)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
        return _no_tangent(self(*primals, **params))

    def batch(
        self,
        size: int,
        args: Sequence[Any],
        dims: Sequence[Any],
        *,
        axis: int,
        index_dtype: np.dtype,
    ) -> Any:
        d = dims[0]
        out = self(args[0], axis=axis + (axis >= d), index_dtype=index_dtype)
        return out, d - (axis < d)


reduce_prod = Product("reduce_prod", np.multiply, kinds="iufc")
reduce_max = Extremum("reduce_max", np.maximum, kinds="biufc")
reduce_min = Extremum("reduce_min", np.minimum, kinds="biufc")
reduce_and = Reduction("reduce_and", np.logical_and, kinds="b")
reduce_or = Reduction("reduce_or", np.logical_or, kinds="b")
cumsum = CumulativeSum("cumsum", np.add, kinds="iufc")
cumprod = Doubling("cumprod", el.mul, 1.0, kinds="iufc")
cumlogsumexp = Doubling("cumlogsumexp", el.logaddexp, -np.inf, kinds="f")
cummax = RunningExtremum("cummax", np.maximum, kinds="biufc")
cummin = RunningExtremum("cummin", np.minimum, kinds="biufc")
argmax = ArgExtremum("argmax", np.argmax)
argmin = ArgExtremum("argmin", np.argmin)

__all__ = [
    "argmax",
    "argmin",
    "cumlogsumexp",
    "cummax",
    "cummin",
    "cumprod",
    "cumsum",
    "reduce_and",
    "reduce_max",
    "reduce_min",
    "reduce_or",
    "reduce_prod",
]
