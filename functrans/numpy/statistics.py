"""Sorting, medians and quantiles, and the reductions that leave nan out."""

from __future__ import annotations

from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.numpy import promotion
from functrans.numpy.composites import choose
from functrans.numpy.dispatch import TRACED, implements
from functrans.numpy.indexing import gather_axis
from functrans.numpy.manipulation import join, permute, reshaped, slice_axis
from functrans.numpy.promotion import (
    array,
    cast,
    insert_axes,
    normalize_axes,
    normalize_axis,
    scalar_like,
)
from functrans.numpy.reductions import root_of_sum, sum_dtype
from functrans.numpy.ufuncs import conjugate, logical_and

# ---------------------------------------------------------------------------- order


def _along(a: Any, axis: Any) -> tuple[Any, int]:
    x = array(a)
    if axis is None:
        return reshaped(x, (x.size,)), 0
    return x, normalize_axis(axis, x.ndim)


@implements(np.sort)
def sort(a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *,
         stable: Any = None) -> Any:  # fmt: skip
    """`numpy.sort`."""
    x, axis = _along(a, axis)
    return ops.sort(x, axis=axis)


@implements(np.argsort)
def argsort(a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *,
            stable: Any = None) -> Any:  # fmt: skip
    """`numpy.argsort`, always stable."""
    x, axis = _along(a, axis)
    return ops.argsort(x, axis=axis)


@implements(np.lexsort)
def lexsort(keys: Any, axis: Any = -1) -> Any:
    """`numpy.lexsort`: the order by the last key, where equal by the one before it, and so on."""
    if promotion.holds_tracer(keys) and not isinstance(keys, (list, tuple)):
        keys = TRACED[np.unstack](keys)
    keys = [array(key) for key in keys]
    if not keys:
        raise TypeError("need sequence of keys with len > 0 in lexsort")
    if any(key.shape != keys[0].shape for key in keys):
        raise ValueError("all keys need to be the same shape")
    if not keys[0].ndim:
        return np.int64(0)
    return ops.sort_together(keys[::-1], normalize_axis(axis, keys[0].ndim))


@implements(np.searchsorted)
def searchsorted(a: Any, v: Any, side: Any = "left", sorter: Any = None) -> Any:
    """`numpy.searchsorted`."""
    if side not in ("left", "right"):
        raise ValueError(f"search side must be 'left' or 'right' (got {side!r})")
    rows, values = promotion.promote(array(a), array(v))
    if rows.ndim != 1:
        raise ValueError("object too deep for desired array")
    if sorter is not None:
        sorter = array(sorter)
        if sorter.dtype.kind not in "iu":
            raise TypeError("sorter must only contain integers")
        if sorter.shape != rows.shape:
            raise ValueError("sorter.size must equal len(a)")
        rows = gather_axis(rows, sorter, 0)
    return ops.searchsorted(rows, values, side=side)


@implements(np.digitize)
def digitize(x: Any, bins: Any, right: Any = False) -> Any:
    """`numpy.digitize`; traced `bins` must be monotonic, which nobody checks."""
    if not promotion.holds_tracer(bins):
        difference = np.diff(bins)
        if not ((difference >= 0).all() or (difference <= 0).all()):
            raise ValueError("bins must be monotonically increasing or decreasing")
    x, bins = array(x), array(bins)
    if x.dtype.kind == "c":
        raise TypeError("x may not be complex")
    side, n = "left" if right else "right", bins.shape[0]
    rising = TRACED[np.searchsorted](bins, x, side)
    if n < 2:
        return rising
    turned = ops.rev(bins, dimensions=(0,))
    falling = ops.sub(np.int64(n), TRACED[np.searchsorted](turned, x, side))
    return choose(ops.le(bins[0], bins[n - 1]), rising, falling)


def _together(x: Any, axis: Any, keepdims: Any) -> tuple[Any, Any]:
    """The reduced axes as one last axis, and a function that puts back kept ones."""
    axes = normalize_axes(axis, x.ndim)
    rest = [i for i in range(x.ndim) if i not in axes]
    lead = tuple(x.shape[i] for i in rest)
    size = 1
    for i in axes:
        size *= x.shape[i]
    flat = reshaped(permute(x, [*rest, *axes]), (*lead, size))
    return flat, lambda y: insert_axes(y, axes) if keepdims else y


@implements(np.median)
def median(a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False,
           keepdims: bool = False) -> Any:  # fmt: skip
    """`numpy.median`."""
    x = promotion.inexact(a)
    flat, keep = _together(x, axis, keepdims)
    n = flat.shape[-1]
    if not n:
        return TRACED[np.mean](x, axis=axis, keepdims=keepdims)
    ordered = ops.sort(flat, axis=flat.ndim - 1)
    low, high = (n - 1) // 2, n // 2
    middle = slice_axis(ordered, low, high + 1, flat.ndim - 1)
    y = TRACED[np.mean](middle, axis=-1)
    last = reshaped(slice_axis(ordered, n - 1, n, flat.ndim - 1), flat.shape[:-1])
    return keep(choose(ops.isnan(last), last, y))  # nan is sorted to the end


@implements(np.quantile)
def quantile(a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False,
             method: str = "linear", keepdims: bool = False, *,
             weights: Any = None) -> Any:  # fmt: skip
    """`numpy.quantile` with method "linear"; `q` must be known while tracing."""
    return _quantile(a, q, 1, axis, method, keepdims, weights)


@implements(np.percentile)
def percentile(a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False,
               method: str = "linear", keepdims: bool = False, *,
             weights: Any = None) -> Any:  # fmt: skip
    """`numpy.percentile` with method "linear"; `q` must be known while tracing."""
    return _quantile(a, q, 100, axis, method, keepdims, weights)


def _quantile(a: Any, q: Any, whole: int, axis: Any, method: str, keepdims: bool,
              weights: Any) -> Any:  # fmt: skip
    if method != "linear" or weights is not None:
        raise TypeError(
            f"quantiles of traced values know method='linear' without weights only, got {method!r}."
        )
    if promotion.dtype_of(promotion.operand(a)).kind in "bc":
        raise TypeError("quantiles are of real numbers; convert with a.astype(float).")
    if promotion.holds_tracer(q):
        raise TypeError("quantiles of traced values need a q that is known while tracing.")
    q = np.asarray(q, float) / whole
    if not ((q >= 0) & (q <= 1)).all():
        raise ValueError(
            "Percentiles must be in the range [0, 100]" if whole == 100
            else "Quantiles must be in the range [0, 1]"
        )  # fmt: skip
    x = promotion.inexact(a)
    flat, keep = _together(x, axis, keepdims)
    n, last = flat.shape[-1], flat.ndim - 1
    ordered = ops.sort(flat, axis=last)
    position = q.ravel() * (n - 1)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, n - 1)
    weight = cast((position - low).reshape(-1), x.dtype)
    below, above = gather_axis(ordered, low, last), gather_axis(ordered, high, last)
    y = below + (above - below) * weight
    greatest = slice_axis(ordered, n - 1, n, last)
    y = choose(ops.isnan(greatest), greatest, y)
    parts = [keep(reshaped(slice_axis(y, i, i + 1, last), flat.shape[:-1])) for i in range(q.size)]
    if not q.ndim:
        return parts[0]
    stacked = join([insert_axes(p, (0,)) for p in parts], 0)
    return reshaped(stacked, (*q.shape, *parts[0].shape))


# ---------------------------------------------------------------------------- without nan


def _present(x: Any) -> Any:
    return True if not dtypes.is_inexact(x.dtype) else ops.not_(ops.isnan(x))


def _leaving_out_nan(function: Any, a: Any, options: dict[str, Any]) -> Any:
    x = array(a)
    mask = _present(x)
    where = options.pop("where", True)
    if where is not True and where is not np._NoValue:  # type: ignore[attr-defined]
        mask = logical_and.traced(mask, where)
    return TRACED[function](x, where=mask, **options)


@implements(np.nansum)
def nansum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False,
           initial: Any = None, where: Any = True) -> Any:  # fmt: skip
    """`numpy.nansum`."""
    return _leaving_out_nan(np.sum, a, {"axis": axis, "dtype": dtype, "out": out,
                            "keepdims": keepdims, "initial": initial, "where": where})  # fmt: skip


@implements(np.nanprod)
def nanprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False,
            initial: Any = None, where: Any = True) -> Any:  # fmt: skip
    """`numpy.nanprod`."""
    return _leaving_out_nan(np.prod, a, {"axis": axis, "dtype": dtype, "out": out,
                            "keepdims": keepdims, "initial": initial, "where": where})  # fmt: skip


@implements(np.nanmean)
def nanmean(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False,
            *, where: Any = True) -> Any:  # fmt: skip
    """`numpy.nanmean`."""
    return _leaving_out_nan(np.mean, a, {"axis": axis, "dtype": dtype, "out": out,
                            "keepdims": keepdims, "where": where})  # fmt: skip


@implements(np.nanvar)
def nanvar(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0,
           keepdims: Any = False, *, where: Any = True, mean: Any = None,
           correction: Any = None) -> Any:  # fmt: skip
    """`numpy.nanvar`."""
    y = _leaving_out_nan(np.var, a, {"axis": axis, "dtype": dtype, "out": out, "ddof": ddof,
                         "keepdims": keepdims, "where": where, "mean": mean,
                         "correction": correction})  # fmt: skip
    ddof = ddof if correction is None else correction
    return y if not ddof else _nan_without_freedom(y, a, axis, keepdims, ddof)


def _nan_without_freedom(y: Any, a: Any, axis: Any, keepdims: Any, ddof: Any) -> Any:
    x = array(a)
    mask = promotion.full(x.shape, True, dtypes.bool_) if _present(x) is True else _present(x)
    count = TRACED[np.sum](mask, axis=axis, keepdims=keepdims)
    return choose(count - ddof > 0, y, scalar_like(np.nan, y))


@implements(np.nanstd)
def nanstd(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0,
           keepdims: Any = False, *, where: Any = True, mean: Any = None,
           correction: Any = None) -> Any:  # fmt: skip
    """`numpy.nanstd`."""
    options = {"where": where, "mean": mean, "correction": correction}
    return root_of_sum(TRACED[np.nanvar](a, axis, dtype, out, ddof, keepdims, **options))


def _nan_extremum(function: Any, worst: float, a: Any, axis: Any, options: Any) -> Any:
    x = array(a)
    if x.dtype.kind != "f":
        return TRACED[function](x, axis=axis, **options)
    missing = ops.isnan(x)
    y = TRACED[function](choose(missing, scalar_like(worst, x), x), axis=axis, **options)
    keepdims = options.get("keepdims", False)
    empty = TRACED[np.all](missing, axis=axis, keepdims=keepdims)
    return choose(empty, scalar_like(np.nan, x), y)


@implements(np.nanmax)
def nanmax(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, initial: Any = None,
           where: Any = True) -> Any:  # fmt: skip
    """`numpy.nanmax`; nan where all elements are nan."""
    options = {"keepdims": keepdims, "initial": initial, "where": where, "out": out}
    return _nan_extremum(np.max, -np.inf, a, axis, options)


@implements(np.nanmin)
def nanmin(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, initial: Any = None,
           where: Any = True) -> Any:  # fmt: skip
    """`numpy.nanmin`; nan where all elements are nan."""
    options = {"keepdims": keepdims, "initial": initial, "where": where, "out": out}
    return _nan_extremum(np.min, np.inf, a, axis, options)


@implements(np.nancumsum)
def nancumsum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
    """`numpy.nancumsum`."""
    x = array(a)
    if dtypes.is_inexact(x.dtype):
        x = choose(ops.isnan(x), scalar_like(0, x), x)
    return TRACED[np.cumsum](x, axis, dtype, out)


# ---------------------------------------------------------------------------- cumulative, cov


@implements(np.cumulative_sum)
def cumulative_sum(x: Any, /, *, axis: Any = None, dtype: Any = None, out: Any = None,
                   include_initial: bool = False) -> Any:  # fmt: skip
    """`numpy.cumulative_sum`."""
    return _cumulative(np.cumsum, 0, x, axis, dtype, out, include_initial)


@implements(np.cumulative_prod)
def cumulative_prod(x: Any, /, *, axis: Any = None, dtype: Any = None, out: Any = None,
                    include_initial: bool = False) -> Any:  # fmt: skip
    """`numpy.cumulative_prod`."""
    return _cumulative(np.cumprod, 1, x, axis, dtype, out, include_initial)


def _cumulative(function: Any, first: int, x: Any, axis: Any, dtype: Any, out: Any,
                include_initial: bool) -> Any:  # fmt: skip
    x = array(x)
    if axis is None:
        if x.ndim > 1:
            raise ValueError("For arrays which have more than one dimension ``axis`` argument is "
                             "required.")  # fmt: skip
        axis = 0
    x = TRACED[np.atleast_1d](x)
    y = TRACED[function](x, axis, sum_dtype(x.dtype) if dtype is None else dtype, out)
    if not include_initial:
        return y
    axis = normalize_axis(axis, y.ndim)
    shape = (*y.shape[:axis], 1, *y.shape[axis + 1 :])
    return join([promotion.full(shape, first, y.dtype), y], axis)


@implements(np.cov)
def cov(m: Any, y: Any = None, rowvar: bool = True, bias: bool = False, ddof: Any = None,
        fweights: Any = None, aweights: Any = None, *, dtype: Any = None) -> Any:  # fmt: skip
    """`numpy.cov` without weights."""
    if fweights is not None or aweights is not None:
        raise TypeError("np.cov of traced values does not take weights.")
    parts = [TRACED[np.atleast_2d](promotion.inexact(p)) for p in (m, y) if p is not None]
    rows = [p if rowvar or p.shape[0] == 1 else TRACED[np.transpose](p) for p in parts]
    x = rows[0] if len(rows) == 1 else join(rows, 0)
    x = cast(x, np.result_type(x.dtype, np.float64) if dtype is None else np.dtype(dtype))
    free = (0 if bias else 1) if ddof is None else ddof
    centered = x - TRACED[np.mean](x, axis=1, keepdims=True)
    products = TRACED[np.matmul](centered, conjugate.traced(TRACED[np.transpose](centered)))
    return TRACED[np.squeeze](products / scalar_like(max(x.shape[1] - free, 0), products))
