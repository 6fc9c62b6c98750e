"""Primitives over the axes of one array: broadcast, reshape, permute, reverse, sum.

All are linear, so the tangent of the result is the operation applied to the tangent.
`broadcast_in_dim` and `reduce_sum` are each other's transposes; `reshape`, `permute` and `rev` are
transposed by their inverses. Below them are the functions in which other rules speak of axes.

Results may be views of the operand, as NumPy's are. `broadcast_in_dim` gives a read-only array.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans import dtypes
from functrans.core import Linear, Primitive, Zero, get_aval
from functrans.ir import ShapedArray

Shape = tuple[int, ...]

# Up to this many elements a copy is made sooner than `np.broadcast_to` makes a view.
_SMALL_COPY = 4096


def value(x: np.ndarray) -> Any:
    """A 0-d array as the NumPy scalar that NumPy's own functions return."""
    return x if x.ndim else x[()]


def shifted(axes: Sequence[int], dim: int) -> Shape:
    """Where `axes` are once a batch axis was put in at `dim`."""
    return tuple(a + (a >= dim) for a in axes)


def inserted(entries: Sequence[Any], dim: int, entry: Any) -> tuple[Any, ...]:
    """`entries` with `entry` put in before position `dim`."""
    return (*entries[:dim], entry, *entries[dim:])


def check_axes(name: str, x: ShapedArray, axes: Sequence[int]) -> None:
    """Refuse axes that are out of range, negative, or given twice."""
    if len(set(axes)) != len(axes) or any(not 0 <= a < x.ndim for a in axes):
        raise ValueError(
            f"{name} of {x} needs distinct axes within 0..{x.ndim - 1}, got {tuple(axes)}. "
            f"ops.{name} takes no negative axes; functrans.numpy does."
        )


class Structural(Primitive):
    """A primitive that is linear in its one array."""

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
        out = self(*primals, **params)
        t = tangents[0] if tangents else None
        if t is None or type(t) is Zero:
            return out, Zero(get_aval(out).tangent_aval())
        return out, self(t, **params)


def without(shape: Shape, axis: int) -> Shape:
    """`shape` less the extent of one axis."""
    return shape[:axis] + shape[axis + 1 :]


# ---------------------------------------------------------------------------- broadcast, reshape


class BroadcastInDim(Structural):
    """Axis i of `x` becomes axis `broadcast_dimensions[i]` of the result; the others repeat it."""

    def abstract_eval(
        self, x: ShapedArray, *, shape: Shape, broadcast_dimensions: Shape
    ) -> ShapedArray:
        dims = broadcast_dimensions
        increasing = all(a < b for a, b in itertools.pairwise(dims))
        in_range = all(0 <= d < len(shape) for d in dims)
        if len(dims) != x.ndim or not increasing or not in_range:
            raise ValueError(
                f"broadcast_in_dim of {x} to shape {shape} needs {x.ndim} increasing "
                f"broadcast_dimensions within 0..{len(shape) - 1}, one per axis of the operand; "
                f"got {dims}."
            )
        if any(n not in (1, shape[d]) for n, d in zip(x.shape, dims, strict=True)):
            raise ValueError(
                f"broadcast_in_dim cannot broadcast {x} to shape {shape} with "
                f"broadcast_dimensions={dims}: an extent must be 1 or equal that of the result."
            )
        return ShapedArray(shape, x.dtype)

    def impl(self, x: Any, *, shape: Shape, broadcast_dimensions: Shape) -> Any:
        x = np.asarray(x)
        if x.shape == shape and len(shape) == len(broadcast_dimensions):
            return value(x)
        if len(broadcast_dimensions) != x.ndim:
            self.abstract_eval(get_aval(x), shape=shape, broadcast_dimensions=broadcast_dimensions)
        if x.ndim:
            aligned = [1] * len(shape)
            for n, d in zip(x.shape, broadcast_dimensions, strict=True):
                aligned[d] = n
            x = x.reshape(aligned)
        if math.prod(shape) > _SMALL_COPY:
            return np.broadcast_to(x, shape)
        out = np.empty(shape, x.dtype)
        out[...] = x
        out.flags.writeable = False  # as the views for larger arrays are
        return out

    def transpose(self, ct: Any, x: Any, *, shape: Shape, broadcast_dimensions: Shape) -> list[Any]:
        kept = {d for n, d in zip(x.shape, broadcast_dimensions, strict=True) if n == shape[d]}
        axes = tuple(d for d in range(len(shape)) if d not in kept)
        return [_reshaped(reduce_sum(ct, axes=axes) if axes else ct, x.shape)]

    def batch(
        self,
        size: int,
        args: Sequence[Any],
        dims: Sequence[Any],
        *,
        shape: Shape,
        broadcast_dimensions: Shape,
    ) -> Any:
        # The batch axis goes right behind the axis it followed, so nothing is permuted.
        d = dims[0]
        at = broadcast_dimensions[d - 1] + 1 if d else 0
        after = tuple(b + 1 for b in broadcast_dimensions[d:])
        out = self(
            args[0],
            shape=inserted(shape, at, size),
            broadcast_dimensions=(*broadcast_dimensions[:d], at, *after),
        )
        return out, at


class Reshape(Structural):
    """The same elements, in row-major order, in another shape."""

    def abstract_eval(self, x: ShapedArray, *, shape: Shape) -> ShapedArray:
        if any(n < 0 for n in shape) or math.prod(shape) != x.size:
            raise ValueError(
                f"cannot reshape {x}, which has {x.size} elements, into shape {tuple(shape)}. "
                "ops.reshape infers no extent; functrans.numpy.reshape takes one -1."
            )
        return ShapedArray(shape, x.dtype)

    def impl(self, x: Any, *, shape: Shape) -> Any:
        return value(x.reshape(shape)) if shape else x.reshape(shape)[()]

    def transpose(self, ct: Any, x: Any, *, shape: Shape) -> list[Any]:
        return [self(ct, shape=x.shape)]

    def batch(self, size: int, args: Sequence[Any], dims: Sequence[Any], *, shape: Shape) -> Any:
        return self(moveaxis(args[0], dims[0], 0), shape=(size, *shape)), 0


class Permute(Structural):
    """Axis i of the result is axis `permutation[i]` of `x`."""

    def abstract_eval(self, x: ShapedArray, *, permutation: Shape) -> ShapedArray:
        if sorted(permutation) != list(range(x.ndim)):
            raise ValueError(
                f"permute of {x} needs each of its axes 0..{x.ndim - 1} once, got {permutation}."
            )
        return ShapedArray(tuple(x.shape[p] for p in permutation), x.dtype)

    def impl(self, x: Any, *, permutation: Shape) -> Any:
        return x.transpose(permutation)

    def transpose(self, ct: Any, x: Any, *, permutation: Shape) -> list[Any]:
        inverse = [0] * len(permutation)
        for i, p in enumerate(permutation):
            inverse[p] = i
        return [self(ct, permutation=tuple(inverse))]

    def batch(
        self, size: int, args: Sequence[Any], dims: Sequence[Any], *, permutation: Shape
    ) -> Any:
        return self(args[0], permutation=(dims[0], *shifted(permutation, dims[0]))), 0


# ---------------------------------------------------------------------------- reverse, sum


class Rev(Structural):
    """`x` with the order of elements reversed along `dimensions`."""

    def abstract_eval(self, x: ShapedArray, *, dimensions: Shape) -> ShapedArray:
        check_axes("rev", x, dimensions)
        return x

    def impl(self, x: Any, *, dimensions: Shape) -> Any:
        backwards = slice(None, None, -1)
        everything = slice(None)
        return x[tuple(backwards if i in dimensions else everything for i in range(x.ndim))]

    def transpose(self, ct: Any, x: Any, *, dimensions: Shape) -> list[Any]:
        return [self(ct, dimensions=dimensions)]

    def batch(
        self, size: int, args: Sequence[Any], dims: Sequence[Any], *, dimensions: Shape
    ) -> Any:
        return self(args[0], dimensions=shifted(dimensions, dims[0])), dims[0]


class ReduceSum(Structural):
    """The sum over `axes`, in the dtype of the operand: integers wrap around."""

    def abstract_eval(self, x: ShapedArray, *, axes: Shape) -> ShapedArray:
        check_axes("reduce_sum", x, axes)
        if x.dtype == dtypes.bool_:
            raise TypeError(
                f"reduce_sum does not accept {x}. Convert it first, x.astype(int); "
                "functrans.numpy.sum does."
            )
        return ShapedArray(tuple(n for i, n in enumerate(x.shape) if i not in axes), x.dtype)

    def impl(self, x: Any, *, axes: Shape) -> Any:
        dtype = x.dtype
        if dtype == dtypes.bool_:
            self.abstract_eval(get_aval(x), axes=axes)
        return np.add.reduce(x, axis=axes, dtype=dtype)

    def transpose(self, ct: Any, x: Any, *, axes: Shape) -> list[Any]:
        kept = tuple(i for i in range(len(x.shape)) if i not in axes)
        return [broadcast_in_dim(ct, shape=x.shape, broadcast_dimensions=kept)]

    def batch(self, size: int, args: Sequence[Any], dims: Sequence[Any], *, axes: Shape) -> Any:
        d = dims[0]
        axes = shifted(axes, d)
        return self(args[0], axes=axes), d - sum(a < d for a in axes)


broadcast_in_dim = BroadcastInDim("broadcast_in_dim")
reshape = Reshape("reshape")
permute = Permute("permute")
rev = Rev("rev")
reduce_sum = ReduceSum("reduce_sum")

# ---------------------------------------------------------------------------- in terms of these


def expand_dims(x: Any, axes: Sequence[int]) -> Any:
    """`x` with axes of extent 1 put in, at the positions `axes` of the result."""
    ndim = len(x.shape) + len(axes)
    at = {a % ndim for a in axes}
    rest = iter(x.shape)
    return reshape(x, shape=tuple(1 if i in at else next(rest) for i in range(ndim)))


def squeeze(x: Any, axes: Sequence[int]) -> Any:
    """`x` without the axes `axes`, which have extent 1."""
    gone = {a % len(x.shape) for a in axes}
    if any(x.shape[a] != 1 for a in gone):
        raise ValueError(f"cannot squeeze {get_aval(x)} along {tuple(axes)}: an extent is not 1.")
    return reshape(x, shape=tuple(n for i, n in enumerate(x.shape) if i not in gone))


def moveaxis(x: Any, source: int, destination: int) -> Any:
    """`x` with one axis moved to the position `destination`; `x` itself where it is there."""
    ndim = len(x.shape)
    source %= ndim
    destination %= ndim
    if source == destination:
        return x
    order = [i for i in range(ndim) if i != source]
    order.insert(destination, source)
    return permute(x, permutation=tuple(order))


def filled(number: Any, shape: Shape) -> Any:
    """An array of the given shape that is `number` everywhere."""
    return broadcast_in_dim(number, shape=shape, broadcast_dimensions=()) if shape else number


def zeros(aval: ShapedArray) -> Any:
    """An array of zeros with the given shape and dtype."""
    return filled(np.zeros((), aval.dtype)[()], aval.shape)


def concrete_zeros(t: Any) -> Any:
    """A symbolic zero as an array; other tangents as they are."""
    return zeros(t.aval) if type(t) is Zero else t


def spread(x: Any, shape: Shape) -> Any:
    """The number `x` repeated to an array of the given shape; an array of that shape as it is."""
    return x if x.shape == shape else filled(x, shape)


def unspread(ct: Any, shape: Shape) -> Any:
    """The cotangent of a value of the given shape, () or the full one, that was spread to ct's."""
    if ct.shape == shape:
        return ct
    return filled(ct, shape) if shape else reduce_sum(ct, axes=tuple(range(len(ct.shape))))


def batched_in_front(x: Any, dim: int | None, size: int) -> Any:
    """`x` with its batch axis first; repeated `size` times if it has none."""
    if dim is not None:
        return moveaxis(x, dim, 0)
    rest = tuple(range(1, len(x.shape) + 1))
    return broadcast_in_dim(x, shape=(size, *x.shape), broadcast_dimensions=rest)


def is_linear(x: Any) -> bool:
    """Whether a transpose rule owes this operand a cotangent."""
    return type(x) is Linear


def zero_number(x: Any) -> Any:
    """The number 0 in the dtype of `x`."""
    return np.zeros((), x.dtype)[()]


def _reshaped(x: Any, shape: Shape) -> Any:
    return x if x.shape == shape else reshape(x, shape=shape)
