"""Primitives that read and write at indices known only when the program runs.

`gather` and `scatter`, at arrays of indices, are in `gather_scatter` and named here too. This file
has `dynamic_slice` and `dynamic_update_slice`, which read and write one block; its start is moved
into range so that the block fits, as in JAX.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans.core import Primitive, Zero, get_aval
from functrans.ir import ShapedArray
from functrans.ops import elementwise as el
from functrans.ops.axes import (
    Shape,
    batched_in_front,
    broadcast_in_dim,
    concrete_zeros,
    inserted,
    is_linear,
    moveaxis,
    permute,
    value,
    zeros,
)
from functrans.ops.gather_scatter import gather, scatter
from functrans.ops.structural import iota

_INT64 = np.dtype(np.int64)


def _check_block(name: str, x: ShapedArray, starts: Sequence[ShapedArray], sizes: Shape) -> None:
    if len(starts) != x.ndim or any(s.shape or s.dtype.kind not in "iu" for s in starts):
        raise TypeError(
            f"{name} of {x} needs {x.ndim} integer starts of shape (), one per axis, "
            f"got {', '.join(map(str, starts)) or 'none'}."
        )
    if len(sizes) != x.ndim or any(not 0 <= m <= n for m, n in zip(sizes, x.shape, strict=True)):
        raise ValueError(f"{name}: a block of shape {tuple(sizes)} does not fit into {x}.")


def _block(starts: Sequence[Any], sizes: Shape, shape: Shape) -> tuple[builtins.slice, ...]:
    begins = (
        min(max(int(start), 0), n - m) for start, m, n in zip(starts, sizes, shape, strict=True)
    )
    return tuple(builtins.slice(b, b + m) for b, m in zip(begins, sizes, strict=True))


class DynamicSlice(Primitive):
    """The block of shape `slice_sizes` of `x` that begins at `starts`."""

    def abstract_eval(
        self, x: ShapedArray, *starts: ShapedArray, slice_sizes: Shape
    ) -> ShapedArray:
        _check_block("dynamic_slice", x, starts, slice_sizes)
        return ShapedArray(tuple(slice_sizes), x.dtype)

    def impl(self, x: Any, *starts: Any, slice_sizes: Shape) -> Any:
        _check_block("dynamic_slice", get_aval(x), [get_aval(s) for s in starts], slice_sizes)
        return x[_block(starts, slice_sizes, x.shape)]

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], *, slice_sizes: Shape) -> Any:
        x, *starts = primals
        out = self(x, *starts, slice_sizes=slice_sizes)
        if type(tangents[0]) is Zero:
            return out, Zero(get_aval(out).tangent_aval())
        return out, self(tangents[0], *starts, slice_sizes=slice_sizes)

    def transpose(self, ct: Any, x: Any, *starts: Any, slice_sizes: Shape) -> list[Any]:
        return [dynamic_update_slice(zeros(x.aval), ct, *starts), *(None for _ in starts)]

    def batch(
        self, size: int, args: Sequence[Any], dims: Sequence[Any], *, slice_sizes: Shape
    ) -> Any:
        x, *starts = args
        d, *start_dims = dims
        if all(s is None for s in start_dims):
            starts = inserted(starts, d, np.int64(0))
            return self(x, *starts, slice_sizes=inserted(slice_sizes, d, size)), d
        # The axes whose start differs from example to example are gathered, the others sliced.
        x_front = 0 if d is None else 1
        x = x if d is None else moveaxis(x, d, 0)
        differing = tuple(i for i, s in enumerate(start_dims) if s is not None)
        shape = x.shape[x_front:]
        if len(differing) < len(starts):
            common = [np.int64(0) if i in differing else s for i, s in enumerate(starts)]
            sizes = tuple(shape[i] if i in differing else m for i, m in enumerate(slice_sizes))
            lead = ([np.int64(0)], (size,)) if x_front else ([], ())
            x = self(x, *lead[0], *common, slice_sizes=(*lead[1], *sizes))
        order = (*differing, *(i for i in range(len(starts)) if i not in differing))
        x = permute(x, permutation=(*range(x_front), *(i + x_front for i in order)))
        indices = _block_indices(
            [starts[i] for i in differing],
            [slice_sizes[i] for i in differing],
            [shape[i] for i in differing],
        )
        out = gather(x, *indices, batch_dims=x_front, mode="promise_in_bounds")
        back = sorted(range(len(order)), key=order.__getitem__)
        return permute(out, permutation=(0, *(i + 1 for i in back))), 0


class DynamicUpdateSlice(Primitive):
    """`x` with the block that begins at `starts` replaced by `update`."""

    def abstract_eval(
        self, x: ShapedArray, update: ShapedArray, *starts: ShapedArray
    ) -> ShapedArray:
        if update.dtype != x.dtype:
            raise TypeError(
                f"dynamic_update_slice needs operands of equal dtype, got {x} and {update}. "
                "Convert the update with .astype(...)."
            )
        _check_block("dynamic_update_slice", x, starts, update.shape)
        return x

    def impl(self, x: Any, update: Any, *starts: Any) -> Any:
        self.abstract_eval(*map(get_aval, (x, update, *starts)))
        out = np.array(x)
        out[_block(starts, update.shape, out.shape)] = update
        return value(out)

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        out = self(*primals)
        t, t_update = tangents[:2]
        if type(t) is Zero and type(t_update) is Zero:
            return out, Zero(get_aval(out).tangent_aval())
        return out, self(concrete_zeros(t), concrete_zeros(t_update), *primals[2:])

    def transpose(self, ct: Any, x: Any, update: Any, *starts: Any) -> list[Any]:
        ct_x = self(ct, zeros(get_aval(update)), *starts) if is_linear(x) else None
        ct_update = None
        if is_linear(update):
            ct_update = dynamic_slice(ct, *starts, slice_sizes=update.shape)
        return [ct_x, ct_update, *(None for _ in starts)]

    def batch(self, size: int, args: Sequence[Any], dims: Sequence[Any]) -> Any:
        x, update = (batched_in_front(a, d, size) for a, d in zip(args[:2], dims[:2], strict=True))
        starts = args[2:]
        if all(s is None for s in dims[2:]):
            return self(x, update, np.int64(0), *starts), 0
        # Only where the block is smaller than the array does the start matter.
        moving = tuple(i for i in range(len(starts)) if x.shape[i + 1] != update.shape[i + 1])
        if not moving:
            return update, 0
        order = (*moving, *(i for i in range(len(starts)) if i not in moving))
        forth = (0, *(i + 1 for i in order))
        back = (0, *(i + 1 for i in sorted(range(len(order)), key=order.__getitem__)))
        starts_in_full = [batched_in_front(starts[i], dims[i + 2], size) for i in moving]
        indices = _block_indices(
            starts_in_full,
            [update.shape[i + 1] for i in moving],
            [x.shape[i + 1] for i in moving],
        )
        out = scatter(
            permute(x, permutation=forth),
            permute(update, permutation=forth),
            *indices,
            op="set",
            batch_dims=1,
            mode="promise_in_bounds",
            unique=True,
        )
        return permute(out, permutation=back), 0


def _block_indices(
    starts: Sequence[Any], sizes: Sequence[int], extents: Sequence[int]
) -> list[Any]:
    """Index arrays (batch, *sizes) of the blocks that begin at `starts`, each of shape (batch,)."""
    shape = (starts[0].shape[0], *sizes)
    indices = []
    for axis, (start, m, n) in enumerate(zip(starts, sizes, extents, strict=True)):
        start = el.convert_element_type(start, dtype=_INT64)
        begin = el.min(el.max(start, np.int64(0)), np.int64(n - m))
        begin = broadcast_in_dim(begin, shape=shape, broadcast_dimensions=(0,))
        indices.append(el.add(begin, iota(dtype=_INT64, shape=shape, dimension=axis + 1)))
    return indices


def take_along(x: Any, indices: Any, axis: int) -> Any:
    """`x[..., indices[..., i, ...], ...]`: an index along one axis for each place on the others.

    The indices must be in bounds, as those of `argsort` are.
    """
    last = len(x.shape) - 1
    out = gather(
        moveaxis(x, axis, last),
        moveaxis(indices, axis, last),
        batch_dims=last,
        mode="promise_in_bounds",
    )
    return moveaxis(out, last, axis)


dynamic_slice = DynamicSlice("dynamic_slice")
dynamic_update_slice = DynamicUpdateSlice("dynamic_update_slice")

__all__ = ["dynamic_slice", "dynamic_update_slice", "gather", "scatter", "take_along"]
