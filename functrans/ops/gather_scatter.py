"""`gather` and `scatter`: reading and writing at arrays of indices.

They share one layout. The array is `(*B, n_1..n_k, *R)`: `batch_dims` axes B in
which array and indices go together, k axes that are indexed, and the rest R. Each of the k index
arrays is `(*B, *I)`; what is read or written is `(*B, *I, *R)`:

    out[b, i, r] = x[b, indices_1[b, i], ..., indices_k[b, i], r]

`mode` says what an index out of range does: "error" raises IndexError; "clip" takes the nearest
index; "fill" reads nan (0 in dtypes without nan) and writes nothing; "promise_in_bounds" is the
caller's word that there is none. In "error" and "promise_in_bounds" -1 is the last index; in "clip"
and "fill" negative indices are out of range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans import dtypes
from functrans.core import Primitive, Zero, get_aval
from functrans.ir import ShapedArray
from functrans.ops import axes
from functrans.ops import elementwise as el
from functrans.ops.axes import (
    Shape,
    batched_in_front,
    concrete_zeros,
    filled,
    is_linear,
    moveaxis,
    zero_number,
    zeros,
)
from functrans.ops.structural import iota

MODES = ("error", "clip", "fill", "promise_in_bounds")
_UFUNCS = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}
_INT64 = np.dtype(np.int64)


def _check_indices(
    name: str, x: ShapedArray, indices: Sequence[ShapedArray], batch_dims: int, mode: str
) -> None:
    if mode not in MODES:
        raise ValueError(f"{name} has the modes {', '.join(MODES)}; got {mode!r}.")
    if not indices or any(i.dtype.kind not in "iu" for i in indices):
        raise TypeError(
            f"{name} on {x} needs one or more integer index arrays, got {_shown(indices)}. "
            "functrans.numpy indexing converts boolean masks."
        )
    if any(i.shape != indices[0].shape for i in indices):
        raise ValueError(
            f"{name} needs index arrays of equal shape, got {_shown(indices)}. "
            "functrans.numpy indexing broadcasts them."
        )
    if batch_dims + len(indices) > x.ndim:
        raise IndexError(
            f"{name}: {x} has too few axes for {batch_dims} batch axes and {len(indices)} indices."
        )
    if indices[0].shape[:batch_dims] != x.shape[:batch_dims]:
        raise ValueError(
            f"{name} with batch_dims={batch_dims} needs indices and array to begin with the same "
            f"extents, got {_shown(indices)} for {x}."
        )


def _shown(avals: Sequence[ShapedArray]) -> str:
    return ", ".join(map(str, avals)) or "none"


def _gathered_shape(x: ShapedArray, indices: Sequence[ShapedArray], batch_dims: int) -> Shape:
    return indices[0].shape + x.shape[batch_dims + len(indices) :]


def _resolve(
    indices: Sequence[Any], extents: Shape, mode: str
) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Index arrays within 0..n-1, and, in mode "fill", which of the given ones were."""
    resolved = []
    valid = None
    for axis, (index, n) in enumerate(zip(indices, extents, strict=True)):
        index = np.asarray(index)
        if mode == "clip" and n:
            above = index >= n  # in its own dtype: unsigned ones would wrap in int64
            index = np.where(above, n - 1, index.astype(_INT64, copy=False))
            resolved.append(np.maximum(index, 0))
            continue
        inside = (index >= (0 if mode in ("clip", "fill") else -n)) & (index < n)
        if mode == "fill":
            valid = inside if valid is None else valid & inside
            resolved.append(np.where(inside, index, 0).astype(_INT64, copy=False))
            continue
        if not inside.all():
            raise _out_of_bounds(index[~inside].flat[0], axis, n)
        index = index.astype(_INT64, copy=False)
        resolved.append(np.where(index < 0, index + n, index))
    return resolved, valid


def _out_of_bounds(index: Any, axis: int, size: int) -> IndexError:
    return IndexError(f"index {index} is out of bounds for axis {axis} with size {size}")


def _numpy_would_do(indices: Sequence[Any], mode: str) -> bool:
    """Whether NumPy's own indexing has this mode. It would wrap unsigned 64-bit indices."""
    return mode in ("error", "promise_in_bounds") and all(i.dtype != np.uint64 for i in indices)


def _batch_indices(index_shape: Shape, batch_dims: int) -> list[np.ndarray]:
    ndim = len(index_shape)
    return [
        np.arange(index_shape[i]).reshape([-1 if j == i else 1 for j in range(ndim)])
        for i in range(batch_dims)
    ]


# ---------------------------------------------------------------------------- gather


class Gather(Primitive):
    """Read at indices; see the module for the layout."""

    def abstract_eval(
        self, x: ShapedArray, *indices: ShapedArray, batch_dims: int = 0, mode: str = "error"
    ) -> ShapedArray:
        _check_indices("gather", x, indices, batch_dims, mode)
        return ShapedArray(_gathered_shape(x, indices, batch_dims), x.dtype)

    def impl(self, x: Any, *indices: Any, batch_dims: int = 0, mode: str = "error") -> Any:
        k = len(indices)
        integers = all(i.dtype.kind in "iu" for i in indices)
        if not k or batch_dims + k > x.ndim or not integers or mode not in MODES:
            self.abstract_eval(*map(get_aval, (x, *indices)), batch_dims=batch_dims, mode=mode)
        if _numpy_would_do(indices, mode):
            try:
                # `take` would copy all of a strided array.
                if k == 1 and not batch_dims and x.flags.c_contiguous:
                    return x.take(indices[0], axis=0)
                return x[(*_batch_indices(indices[0].shape, batch_dims), *indices)]
            except IndexError:
                pass  # `_resolve` says which index it is
        extents = x.shape[batch_dims : batch_dims + k]
        if mode == "fill" and 0 in extents:
            shape = indices[0].shape + x.shape[batch_dims + k :]
            return axes.value(np.full(shape, _fill_value(x.dtype), x.dtype))
        resolved, valid = _resolve(indices, extents, mode)
        out = x[(*_batch_indices(resolved[0].shape, batch_dims), *resolved)]
        if valid is None or valid.all():
            return out
        rest = (1,) * (x.ndim - batch_dims - k)
        return axes.value(np.where(valid.reshape(valid.shape + rest), out, _fill_value(x.dtype)))

    def jvp(
        self,
        primals: Sequence[Any],
        tangents: Sequence[Any],
        *,
        batch_dims: int = 0,
        mode: str = "error",
    ) -> Any:
        x, *indices = primals
        out = self(x, *indices, batch_dims=batch_dims, mode=mode)
        t = tangents[0]
        if type(t) is Zero:
            return out, Zero(get_aval(out).tangent_aval())
        return out, read(t, indices, batch_dims, mode)

    def transpose(
        self, ct: Any, x: Any, *indices: Any, batch_dims: int = 0, mode: str = "error"
    ) -> list[Any]:
        ct_x = scatter(zeros(x.aval), ct, *indices, op="add", batch_dims=batch_dims, mode=mode)
        return [ct_x, *(None for _ in indices)]

    def batch(
        self,
        size: int,
        args: Sequence[Any],
        dims: Sequence[Any],
        *,
        batch_dims: int = 0,
        mode: str = "error",
    ) -> Any:
        x, *indices = args
        d, *index_dims = dims
        first_rest = batch_dims + len(indices)
        if all(i is None for i in index_dims):
            # The new axis is one of the rest: no index is repeated.
            at = max(d - 1, first_rest) if d > first_rest else first_rest
            x = moveaxis(x, d, at)
            out = self(x, *indices, batch_dims=batch_dims, mode=mode)
            return out, at - len(indices) - batch_dims + len(indices[0].shape)
        indices = [batched_in_front(i, n, size) for i, n in zip(indices, index_dims, strict=True)]
        if d is not None:
            x = moveaxis(x, d, 0)
            return self(x, *indices, batch_dims=batch_dims + 1, mode=mode), 0
        indices = [moveaxis(i, 0, batch_dims) for i in indices]
        return self(x, *indices, batch_dims=batch_dims, mode=mode), batch_dims


def _fill_value(dtype: np.dtype) -> Any:
    return dtype.type(np.nan) if dtypes.is_inexact(dtype) else dtype.type(0)


def read(x: Any, indices: Sequence[Any], batch_dims: int, mode: str) -> Any:
    """`gather`, but linear in `x` in every mode: what is out of range reads as 0, not nan."""
    if mode != "fill":
        return gather(x, *indices, batch_dims=batch_dims, mode=mode)
    extents = x.shape[batch_dims : batch_dims + len(indices)]
    shape = tuple(indices[0].shape) + x.shape[batch_dims + len(indices) :]
    if 0 in extents:
        return filled(zero_number(x), shape)
    valid = None
    for index, n in zip(indices, extents, strict=True):
        # In the index's own dtype; an n that does not fit there is above all its values.
        inside = el.ge(index, zero_number(index))
        if n <= np.iinfo(index.dtype).max:
            inside = el.and_(inside, el.lt(index, index.dtype.type(n)))
        valid = inside if valid is None else el.and_(valid, inside)
    out = gather(x, *indices, batch_dims=batch_dims, mode="clip")
    return el.select(_over_rest(valid, shape), out, zero_number(x))


def _over_rest(mask: Any, shape: Shape) -> Any:
    """A mask of shape (*B, *I) repeated to (*B, *I, *R)."""
    if mask.shape == shape:
        return mask
    leading = tuple(range(len(mask.shape)))
    return axes.broadcast_in_dim(mask, shape=shape, broadcast_dimensions=leading)


# ---------------------------------------------------------------------------- scatter


class Scatter(Primitive):
    """`x` with `updates` written at indices, or added, multiplied, min or max with what is there.

    Where an index occurs twice, "set" keeps the last, the others combine all. `unique` is the
    caller's word that none occurs twice.
    """

    def abstract_eval(
        self,
        x: ShapedArray,
        updates: ShapedArray,
        *indices: ShapedArray,
        op: str = "set",
        batch_dims: int = 0,
        mode: str = "error",
        unique: bool = False,
    ) -> ShapedArray:
        if op != "set" and op not in _UFUNCS:
            raise ValueError(f"scatter has the ops set, {', '.join(_UFUNCS)}; got {op!r}.")
        _check_indices("scatter", x, indices, batch_dims, mode)
        expected = _gathered_shape(x, indices, batch_dims)
        if updates.shape != expected or updates.dtype != x.dtype:
            raise TypeError(
                f"scatter into {x} at indices of shape {indices[0].shape} needs updates "
                f"{ShapedArray(expected, x.dtype)}, got {updates}. functrans.numpy.at broadcasts "
                "and converts."
            )
        return x

    def impl(
        self,
        x: Any,
        updates: Any,
        *indices: Any,
        op: str = "set",
        batch_dims: int = 0,
        mode: str = "error",
        unique: bool = False,
    ) -> Any:
        avals = map(get_aval, (x, updates, *indices))
        self.abstract_eval(*avals, op=op, batch_dims=batch_dims, mode=mode)
        out = np.array(x, order="C")
        k = len(indices)
        once = unique and mode != "clip"
        if (op == "set" or once or indices[0].size <= 1) and _numpy_would_do(indices, mode):
            positions = (*_batch_indices(indices[0].shape, batch_dims), *indices)
            try:
                out[positions] = updates if op == "set" else _UFUNCS[op](out[positions], updates)
                return out
            except IndexError:
                pass  # `_resolve` says which index it is
        extents = out.shape[batch_dims : batch_dims + k]
        if mode == "fill" and 0 in extents:
            return out
        resolved, valid = _resolve(indices, extents, mode)
        index_shape = resolved[0].shape
        row = np.zeros((), _INT64)
        positions = (*_batch_indices(index_shape, batch_dims), *resolved)
        for position, n in zip(positions, out.shape[: batch_dims + k], strict=True):
            row = row * n + position
        rest = math.prod(out.shape[batch_dims + k :])
        rows = np.broadcast_to(row, index_shape).reshape(-1)
        values = updates.reshape((rows.size, rest))
        if valid is not None:
            rows, values = rows[valid.reshape(-1)], values[valid.reshape(-1)]
        _write(
            out.reshape((math.prod(out.shape[: batch_dims + k]), rest)),
            rows,
            values,
            op,
            once,
        )
        return out

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], **params: Any) -> Any:
        x, updates, *indices = primals
        t_x, t_updates = tangents[:2]
        out = self(x, updates, *indices, **params)
        if type(t_x) is Zero and type(t_updates) is Zero:
            return out, Zero(get_aval(out).tangent_aval())
        op = params.get("op", "set")
        if op in ("set", "add"):
            tangent = self(concrete_zeros(t_x), concrete_zeros(t_updates), *indices, **params)
        elif op == "mul":
            tangent = self._product_tangent(primals, t_x, t_updates, params)
        else:
            tangent = self._extremum_tangent(out, primals, t_x, t_updates, params)
        return out, tangent

    def _product_tangent(
        self, primals: Sequence[Any], t_x: Any, t_updates: Any, params: dict[str, Any]
    ) -> Any:
        x, updates, *indices = primals
        terms = []
        if type(t_x) is not Zero:
            terms.append(self(t_x, updates, *indices, **params))
        if type(t_updates) is not Zero:
            if not _no_repeats(x, indices, params):
                raise _repeats_in_product()
            where = _where(params)
            term = el.mul(t_updates, read(x, indices, **where))
            terms.append(self(zeros(get_aval(x)), term, *indices, **{**params, "op": "add"}))
        return terms[0] if len(terms) == 1 else el.add(*terms)

    def _extremum_tangent(
        self, out: Any, primals: Sequence[Any], t_x: Any, t_updates: Any, params: dict[str, Any]
    ) -> Any:
        """Elements that attain the extremum share the derivative evenly."""
        x, updates, *indices = primals
        zero = zero_number(x)
        add = {**params, "op": "add"}
        from_x = attains(x, out)
        from_updates = attains(updates, read(out, indices, **_where(params)))
        count = self(_ones(from_x, x), _ones(from_updates, x), *indices, **add)
        total = self(
            el.select(from_x, concrete_zeros(t_x), zero),
            el.select(from_updates, concrete_zeros(t_updates), zero),
            *indices,
            **add,
        )
        return el.mul(total, el.reciprocal(count))

    def transpose(self, ct: Any, x: Any, updates: Any, *indices: Any, **params: Any) -> list[Any]:
        op = params.get("op", "set")
        if op in ("min", "max") or (op == "mul" and is_linear(x) and is_linear(updates)):
            raise TypeError(
                f"scatter with op={op!r} is not linear in {x}, {updates}; linear_transpose needs "
                "a linear function."
            )
        ct_x = ct_updates = None
        if is_linear(x):
            ct_x = ct
            if op == "set":
                ct_x = self(ct, zeros(get_aval(updates)), *indices, **params)
            elif op == "mul":
                ct_x = self(ct, updates, *indices, **params)
        if is_linear(updates):
            ct_updates = read(ct, indices, **_where(params))
            if op == "set" and not _no_repeats(x, indices, params):
                kept = _over_rest(self._last_writers(x, indices, params), ct_updates.shape)
                ct_updates = el.select(kept, ct_updates, zero_number(ct))
            elif op == "mul":
                if not _no_repeats(x, indices, params):
                    raise _repeats_in_product()
                ct_updates = el.mul(ct_updates, read(x, indices, **_where(params)))
        return [ct_x, ct_updates, *(None for _ in indices)]

    def _last_writers(self, x: Any, indices: Sequence[Any], params: dict[str, Any]) -> Any:
        """Which of the writers to one place was the last: each writes its number to find out."""
        index_shape = indices[0].shape
        extents = x.shape[: params.get("batch_dims", 0) + len(indices)]
        writers = iota(dtype=_INT64, shape=(math.prod(index_shape),), dimension=0)
        writers = axes.reshape(writers, shape=index_shape)
        nobody = filled(np.int64(-1), extents)
        written = self(nobody, writers, *indices, **params)
        return el.eq(read(written, indices, **_where(params)), writers)

    def batch(self, size: int, args: Sequence[Any], dims: Sequence[Any], **params: Any) -> Any:
        if all(d is None for d in dims[2:]):
            # The new axis is the first of the rest: no index is repeated.
            x, updates = (
                batched_in_front(a, d, size) for a, d in zip(args[:2], dims[:2], strict=True)
            )
            at = params.get("batch_dims", 0) + len(args) - 2
            x = moveaxis(x, 0, at)
            updates = moveaxis(updates, 0, len(args[2].shape))
            return self(x, updates, *args[2:], **params), at
        front = [batched_in_front(a, d, size) for a, d in zip(args, dims, strict=True)]
        return self(*front, **{**params, "batch_dims": params.get("batch_dims", 0) + 1}), 0


def _write(out: np.ndarray, rows: np.ndarray, values: np.ndarray, op: str, unique: bool) -> None:
    """Combine the rows `values` into the rows of `out` with the given numbers, in place."""
    if op == "set":
        out[rows] = values
    elif unique or rows.size <= 1:
        out[rows] = _UFUNCS[op](out[rows], values)
    else:
        # One flat index per element: `ufunc.at` has its fast loop for one-dimensional operands.
        rest = out.shape[1]
        flat = (rows[:, None] * rest + np.arange(rest)).reshape(-1)
        # `maximum.at` warns of nan where `maximum` does not.
        with np.errstate(invalid="ignore" if op in ("min", "max") else None):
            _UFUNCS[op].at(out.reshape(-1), flat, values.reshape(-1))


def _where(params: dict[str, Any]) -> dict[str, Any]:
    return {"batch_dims": params.get("batch_dims", 0), "mode": params.get("mode", "error")}


def _no_repeats(x: Any, indices: Sequence[Any], params: dict[str, Any]) -> bool:
    """Whether no place is written twice, as far as is known without looking at the indices."""
    single = math.prod(indices[0].shape[params.get("batch_dims", 0) :]) <= 1
    # Distinct indices that are out of range are clipped to the same one.
    return single or (params.get("unique", False) and params.get("mode", "error") != "clip")


def _repeats_in_product() -> TypeError:
    return TypeError(
        "the derivative of scatter with op='mul' with respect to the updates is known only where "
        "no index occurs twice. If none does, say so: unique=True (unique_indices=True in "
        "x.at[...].multiply), with a mode other than 'clip'. Else multiply by one factor after "
        "the other."
    )


def attains(x: Any, extremum: Any) -> Any:
    """Where `x` equals its maximum or minimum; a nan is the extremum of what it is among."""
    found = el.eq(x, extremum)
    return el.or_(found, el.isnan(x)) if dtypes.is_inexact(x.dtype) else found


def _ones(mask: Any, like: Any) -> Any:
    return el.convert_element_type(mask, dtype=like.dtype)


gather = Gather("gather")
scatter = Scatter("scatter")
