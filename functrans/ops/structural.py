"""Structural primitives: they move elements about, and `reduce_sum` adds them up.

Those over the axes of one array (`broadcast_in_dim`, `reshape`, `permute`, `rev`, `reduce_sum`)
are in `axes`, and named here too; this file has those that cut arrays up and put them together.
All are linear in the arrays they take; `slice` and `pad` are each other's transposes.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans import dtypes
from functrans.core import Primitive, Zero, get_aval
from functrans.ir import ShapedArray
from functrans.ops.axes import (
    Shape,
    Structural,
    batched_in_front,
    broadcast_in_dim,
    check_axes,
    concrete_zeros,
    expand_dims,
    filled,
    inserted,
    is_linear,
    moveaxis,
    permute,
    reduce_sum,
    reshape,
    rev,
    spread,
    squeeze,
    unspread,
    value,
    without,
    zero_number,
    zeros,
)

PadConfig = tuple[tuple[int, int, int], ...]

# ---------------------------------------------------------------------------- slice, pad


class Slice(Structural):
    """`x[start:limit:stride]` along every axis; strides are positive."""

    def abstract_eval(
        self, x: ShapedArray, *, start_indices: Shape, limit_indices: Shape, strides: Shape
    ) -> ShapedArray:
        rows = (start_indices, limit_indices, strides)
        if any(len(row) != x.ndim for row in rows):
            raise ValueError(f"slice of {x} needs {x.ndim} starts, limits and strides, got {rows}.")
        for axis, (n, start, limit, stride) in enumerate(zip(x.shape, *rows, strict=True)):
            if not 0 <= start <= limit <= n or stride < 1:
                raise ValueError(
                    f"slice of {x} along axis {axis} needs 0 <= start <= limit <= {n} and a "
                    f"positive stride, got {start}:{limit}:{stride}."
                )
        shape = tuple(-(-(b - a) // s) for a, b, s in zip(*rows, strict=True))
        return ShapedArray(shape, x.dtype)

    def impl(self, x: Any, *, start_indices: Shape, limit_indices: Shape, strides: Shape) -> Any:
        return x[tuple(map(builtins.slice, start_indices, limit_indices, strides))]

    def transpose(
        self, ct: Any, x: Any, *, start_indices: Shape, limit_indices: Shape, strides: Shape
    ) -> list[Any]:
        config = []
        for n, m, start, stride in zip(x.shape, ct.shape, start_indices, strides, strict=True):
            covered = (m - 1) * stride + 1 if m else 0
            config.append((start, n - start - covered, stride - 1))
        return [pad(ct, zero_number(ct), config=tuple(config))]

    def batch(
        self,
        size: int,
        args: Sequence[Any],
        dims: Sequence[Any],
        *,
        start_indices: Shape,
        limit_indices: Shape,
        strides: Shape,
    ) -> Any:
        d = dims[0]
        out = self(
            args[0],
            start_indices=inserted(start_indices, d, 0),
            limit_indices=inserted(limit_indices, d, size),
            strides=inserted(strides, d, 1),
        )
        return out, d


class Pad(Primitive):
    """`x` with `padding_value` put before, behind and between its elements.

    `config` has `(low, high, interior)` per axis; a negative low or high removes elements, after
    the interior padding was put in.
    """

    def abstract_eval(
        self, x: ShapedArray, padding_value: ShapedArray, *, config: PadConfig
    ) -> ShapedArray:
        if padding_value.shape or padding_value.dtype != x.dtype:
            raise TypeError(
                f"pad of {x} needs a padding value of shape () and the same dtype, "
                f"got {padding_value}."
            )
        if len(config) != x.ndim or any(interior < 0 for _, _, interior in config):
            raise ValueError(
                f"pad of {x} needs {x.ndim} entries (low, high, interior >= 0), got {config}."
            )
        shape = _padded_shape(x.shape, config)
        if any(n < 0 for n in shape):
            raise ValueError(f"pad of {x} with {config} would give the negative extent in {shape}.")
        return ShapedArray(shape, x.dtype)

    def impl(self, x: Any, padding_value: Any, *, config: PadConfig) -> Any:
        shape = _padded_shape(x.shape, config)
        out = np.full(shape, padding_value, x.dtype)
        source = []
        target = []
        for n, m, (low, _, interior) in zip(x.shape, shape, config, strict=True):
            step = interior + 1
            first = max(0, -(low // step))  # the first element that is not cut off: ceil(-low/step)
            last = max(first, min(n, -(-(m - low) // step)))
            source.append(builtins.slice(first, last))
            begin = low + first * step
            target.append(builtins.slice(begin, begin + (last - first) * step, step))
        out[tuple(target)] = x[tuple(source)]
        return value(out)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], *, config: PadConfig) -> Any:
        out = self(*primals, config=config)
        t, t_padding = tangents
        if type(t) is Zero and type(t_padding) is Zero:
            return out, Zero(get_aval(out).tangent_aval())
        return out, self(concrete_zeros(t), concrete_zeros(t_padding), config=config)

    def transpose(self, ct: Any, x: Any, padding_value: Any, *, config: PadConfig) -> list[Any]:
        return [
            self._of_operand(ct, x, config) if is_linear(x) else None,
            self._of_padding(ct, x, config) if is_linear(padding_value) else None,
        ]

    def _of_operand(self, ct: Any, x: Any, config: PadConfig) -> Any:
        uncut = tuple((-low, -high, 0) for low, high, _ in config)
        ct = self(ct, zero_number(ct), config=uncut)
        return slice(
            ct,
            start_indices=(0,) * len(config),
            limit_indices=ct.shape,
            strides=tuple(interior + 1 for _, _, interior in config),
        )

    def _of_padding(self, ct: Any, x: Any, config: PadConfig) -> Any:
        one = np.ones((), x.dtype)[()]
        is_padding = self(filled(zero_number(x), x.shape), one, config=config)
        return reduce_sum(ct * is_padding, axes=tuple(range(len(config))))

    def batch(
        self, size: int, args: Sequence[Any], dims: Sequence[Any], *, config: PadConfig
    ) -> Any:
        x, padding_value = args
        d, d_padding = dims
        if d_padding is None:
            return self(x, padding_value, config=inserted(config, d, (0, 0, 0))), d
        x = batched_in_front(x, d, size)
        for axis, entry in enumerate(config):
            x = _padded_by_concatenation(x, padding_value, axis + 1, *entry)
        return x, 0


def _padded_shape(shape: Shape, config: PadConfig) -> Shape:
    return tuple(
        low + high + n + max(n - 1, 0) * interior
        for n, (low, high, interior) in zip(shape, config, strict=True)
    )


def _padded_by_concatenation(
    x: Any, values: Any, axis: int, low: int, high: int, interior: int
) -> Any:
    """Pad one axis of `x`, whose axis 0 is a batch, with a value per example."""

    def block(extent: int, shape: Shape, at: int) -> Any:
        full = (*shape[:at], extent, *shape[at + 1 :])
        return broadcast_in_dim(values, shape=full, broadcast_dimensions=(0,))

    n = x.shape[axis]
    if interior and n:
        wide = expand_dims(x, (axis + 1,))
        wide = concatenate(wide, block(interior, wide.shape, axis + 1), dimension=axis + 1)
        x = reshape(wide, shape=inserted(without(x.shape, axis), axis, n * (interior + 1)))
        high -= interior  # what was put behind the last element is not between elements
    parts = [block(low, x.shape, axis)] if low > 0 else []
    parts.append(x)
    if high > 0:
        parts.append(block(high, x.shape, axis))
    x = concatenate(*parts, dimension=axis) if len(parts) > 1 else x
    start = max(0, -low)
    return slice_axis(x, axis, start, x.shape[axis] - max(0, -high))


# ---------------------------------------------------------------------------- concatenate, iota


class Concatenate(Primitive):
    """The operands one after another along the axis `dimension`."""

    def abstract_eval(self, *xs: ShapedArray, dimension: int) -> ShapedArray:
        if not xs:
            raise ValueError("concatenate needs at least one array.")
        check_axes("concatenate", xs[0], (dimension,))
        if all(x == xs[0] for x in xs[1:]):
            extent = len(xs) * xs[0].shape[dimension]
            return xs[0].update(shape=inserted(without(xs[0].shape, dimension), dimension, extent))
        shown = ", ".join(map(str, xs))
        if any(x.dtype != xs[0].dtype for x in xs):
            raise TypeError(
                f"concatenate needs operands of equal dtype, got {shown}. "
                "functrans.numpy.concatenate promotes; ops.concatenate does not."
            )
        rest = without(xs[0].shape, dimension)
        if any(x.ndim != xs[0].ndim or without(x.shape, dimension) != rest for x in xs):
            raise ValueError(
                f"concatenate along axis {dimension} needs equal extents along the other axes, "
                f"got {shown}."
            )
        extent = sum(x.shape[dimension] for x in xs)
        return ShapedArray(inserted(rest, dimension, extent), xs[0].dtype)

    def impl(self, *xs: Any, dimension: int) -> Any:
        if any(x.dtype != xs[0].dtype for x in xs):
            self.abstract_eval(*map(get_aval, xs), dimension=dimension)
        return np.concatenate(xs, dimension)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], *, dimension: int) -> Any:
        out = self(*primals, dimension=dimension)
        if all(type(t) is Zero for t in tangents):
            return out, Zero(get_aval(out).tangent_aval())
        return out, self(*map(concrete_zeros, tangents), dimension=dimension)

    def transpose(self, ct: Any, *xs: Any, dimension: int) -> list[Any]:
        cts: list[Any] = []
        start = 0
        for x in xs:
            limit = start + x.shape[dimension]
            cts.append(slice_axis(ct, dimension, start, limit) if is_linear(x) else None)
            start = limit
        return cts

    def batch(self, size: int, args: Sequence[Any], dims: Sequence[Any], *, dimension: int) -> Any:
        front = [batched_in_front(x, d, size) for x, d in zip(args, dims, strict=True)]
        return self(*front, dimension=dimension + 1), 0


class Iota(Structural):
    """0, 1, 2, ... along one axis, repeated along the others."""

    def abstract_eval(self, *, dtype: np.dtype, shape: Shape, dimension: int) -> ShapedArray:
        aval = ShapedArray(shape, np.dtype(dtype))
        check_axes("iota", aval, (dimension,))
        if aval.dtype == dtypes.bool_:
            raise TypeError("iota counts in a numeric dtype, got bool. Convert the result instead.")
        return aval

    def impl(self, *, dtype: np.dtype, shape: Shape, dimension: int) -> Any:
        count = np.arange(shape[dimension]).astype(dtype, copy=False)
        if len(shape) == 1:
            return count
        return broadcast_in_dim.impl(count, shape=shape, broadcast_dimensions=(dimension,))


slice = Slice("slice")  # the primitive; Python's own is builtins.slice here
pad = Pad("pad")
concatenate = Concatenate("concatenate")
iota = Iota("iota")


def slice_axis(x: Any, axis: int, start: int, limit: int, stride: int = 1) -> Any:
    """`x[start:limit:stride]` along one axis; `x` itself where that is all of it."""
    shape = x.shape
    if (start, limit, stride) == (0, shape[axis], 1):
        return x
    ndim = len(shape)
    return slice(
        x,
        start_indices=inserted((0,) * (ndim - 1), axis, start),
        limit_indices=inserted(without(shape, axis), axis, limit),
        strides=inserted((1,) * (ndim - 1), axis, stride),
    )


__all__ = [
    "broadcast_in_dim",
    "concatenate",
    "expand_dims",
    "filled",
    "iota",
    "moveaxis",
    "pad",
    "permute",
    "reduce_sum",
    "reshape",
    "rev",
    "slice",
    "slice_axis",
    "spread",
    "squeeze",
    "unspread",
    "zeros",
]
