"""Reading `x[index]`, and `take` and its kin; writing is in `index_update.py`."""

from __future__ import annotations

from typing import Any

import numpy as np

from functrans import ops
from functrans.core import Tracer
from functrans.errors import ConcretizationTypeError
from functrans.numpy import promotion
from functrans.numpy.dispatch import TRACED, implements
from functrans.numpy.index_plan import IndexPlan, plan_index, static_key, static_plan
from functrans.numpy.manipulation import permute, reshaped
from functrans.numpy.promotion import array, normalize_axis

_INT64 = np.dtype(np.int64)


def getitem(x: Any, index: Any) -> Any:
    """`x[index]` in all of NumPy's forms, but for boolean masks that are traced."""
    key = static_key(index)
    plan = plan_index(index, x.shape) if key is None else static_plan(key, x.shape)
    return read(x, plan, "error")


TRACED["getitem"] = getitem


def read(x: Any, plan: IndexPlan, mode: str) -> Any:
    """The elements that a plan chooses."""
    x = basic(x, plan)
    if not plan.arrays:
        return reshaped(x, plan.result_shape())
    x = permute(x, _arrays_first(x.ndim, plan))
    indices = [promotion.broadcast_to(i, plan.gathered_shape) for i in index_operands(plan)]
    mode = "promise_in_bounds" if plan.known_in_bounds else mode
    return arranged(ops.gather(x, *indices, mode=mode), plan)


def basic(x: Any, plan: IndexPlan) -> Any:
    """The first step: one slice of every axis, backward ones reversed, integers' axes dropped."""
    full = all(
        (s.start, s.count, s.step) == (0, n, 1) for s, n in zip(plan.spans, x.shape, strict=True)
    )
    if not full:
        x = _sliced(x, plan)
    return reshaped(x, plan.basic_shape())


def _sliced(x: Any, plan: IndexPlan) -> Any:
    starts, limits, strides, backward = [], [], [], []
    for axis, span in enumerate(plan.spans):
        last = span.start + (span.count - 1) * span.step
        low, high = min(span.start, last), max(span.start, last)
        starts.append(low if span.count else 0)
        limits.append(high + 1 if span.count else 0)
        strides.append(abs(span.step))
        if span.step < 0 and span.count > 1:
            backward.append(axis)
    if limits != list(x.shape) or any(starts) or any(s != 1 for s in strides):
        x = ops.slice(
            x,
            start_indices=tuple(starts),
            limit_indices=tuple(limits),
            strides=tuple(strides),
        )
    return ops.rev(x, dimensions=tuple(backward)) if backward else x


def _arrays_first(ndim: int, plan: IndexPlan) -> list[int]:
    return [*plan.array_axes, *(i for i in range(ndim) if i not in plan.array_axes)]


def index_operands(plan: IndexPlan) -> list[Any]:
    """The index arrays in one integer dtype that keeps their values."""
    return [
        i if promotion.dtype_of(i) == _INT64 else promotion.cast(i, _INT64) for i in plan.arrays
    ]


def gathered_order(plan: IndexPlan) -> list[int]:
    """Where each axis of the result (but new ones) is in the gather's `(*gathered, *kept)`."""
    kept = [i for i in range(len(plan.basic_shape())) if i not in plan.array_axes]
    n = len(plan.gathered_shape)
    return [
        i if kind == "gathered" else n + kept.index(i) for kind, i in plan.layout if kind != "new"
    ]


def arranged(y: Any, plan: IndexPlan) -> Any:
    """A gather's result with its axes where NumPy puts them, and the new axes."""
    return reshaped(permute(y, gathered_order(plan)), plan.result_shape())


def gather_axis(x: Any, indices: Any, axis: int, mode: str = "error") -> Any:
    """x[:, ..., indices, ..., :] with the indices at `axis`; their shape takes its place."""
    if not isinstance(indices, Tracer):
        mode = "promise_in_bounds" if mode == "error" else mode
    indices = promotion.cast(indices, _INT64)
    front = permute(x, [axis, *(i for i in range(x.ndim) if i != axis)])
    y = ops.gather(front, indices, mode=mode)
    n = indices.ndim
    order = [*range(n, n + axis), *range(n), *range(n + axis, y.ndim)]
    return permute(y, order)


# ---------------------------------------------------------------------------- take


@implements(np.take)
def take(a: Any, indices: Any, axis: Any = None, out: Any = None, mode: str = "raise") -> Any:
    """`numpy.take`; modes raise, wrap and clip."""
    if out is not None:
        raise TypeError("take(..., out=...) cannot be traced: use the result.")
    x, i = array(a), array(indices)
    if i.dtype.kind not in "biu":
        raise TypeError(f"Cannot cast array data from {i.dtype!r} to dtype('int64') according to "
                        "the rule 'safe'")  # fmt: skip
    if axis is None:
        x, axis = reshaped(x, (x.size,)), 0
    axis = normalize_axis(axis, x.ndim)
    n = x.shape[axis]
    if mode == "wrap":
        i = i % n
    elif mode == "clip":
        i = TRACED[np.clip](i, 0, n - 1)
    elif mode != "raise":
        raise ValueError(f"clipmode must be one of 'clip', 'raise', or 'wrap' (got {mode!r})")
    if mode == "raise" and not isinstance(i, Tracer):
        return getitem(x, (slice(None),) * axis + (np.asarray(i),))
    return gather_axis(x, i, axis, "error" if mode == "raise" else "promise_in_bounds")


@implements(np.take_along_axis)
def take_along_axis(arr: Any, indices: Any, axis: Any = -1) -> Any:
    """`numpy.take_along_axis`: y[.., k, ..] = x[.., i[.., k, ..], ..]."""
    x, i = array(arr), array(indices)
    if i.dtype.kind not in "iu":
        raise IndexError("`indices` must be an integer array")
    if axis is None:
        x, axis = reshaped(x, (x.size,)), 0
    if x.ndim != i.ndim:
        raise ValueError("`indices` and `arr` must have the same number of dimensions")
    axis = normalize_axis(axis, x.ndim)
    order = [*(d for d in range(x.ndim) if d != axis), axis]
    x, i = permute(x, order), permute(promotion.cast(i, _INT64), order)
    batch = promotion.broadcast_shapes(x.shape[:-1], i.shape[:-1])
    x = promotion.broadcast_to(x, (*batch, x.shape[-1]))
    i = promotion.broadcast_to(i, (*batch, i.shape[-1]))
    y = ops.gather(x, i, batch_dims=len(batch), mode="error")
    return permute(y, [order.index(d) for d in range(y.ndim)])


@implements(np.compress)
def compress(condition: Any, a: Any, axis: Any = None, out: Any = None) -> Any:
    """`numpy.compress`; the condition must be known while tracing."""
    x = array(a)
    if axis is None:
        x, axis = reshaped(x, (x.size,)), 0
    places = np.flatnonzero(_known(condition, "compress"))
    return getitem(x, (slice(None),) * normalize_axis(axis, x.ndim) + (places,))


# ---------------------------------------------------------------------------- positions


def _known(a: Any, name: str) -> Any:
    x = array(a)
    if not isinstance(x, Tracer):
        return x
    value = x.concrete()
    if value is None:
        raise ConcretizationTypeError(
            f"numpy.{name} of a traced array {x.aval}{x.origin()}: the shape of the result depends "
            "on the values. Use np.where(condition, x, y), np.sum(where=...) or np.argsort instead."
        )
    return value


@implements(np.nonzero)
def nonzero(a: Any) -> tuple[Any, ...]:
    """`numpy.nonzero`, of values that are known while tracing."""
    return np.nonzero(_known(a, "nonzero"))


@implements(np.flatnonzero)
def flatnonzero(a: Any) -> Any:
    """`numpy.flatnonzero`, of values that are known while tracing."""
    return np.flatnonzero(_known(a, "flatnonzero"))


@implements(np.argwhere)
def argwhere(a: Any) -> Any:
    """`numpy.argwhere`, of values that are known while tracing."""
    return np.argwhere(_known(a, "argwhere"))


@implements(np.extract)
def extract(condition: Any, arr: Any) -> Any:
    """`numpy.extract`; the condition must be known while tracing."""
    x = array(arr)
    places = np.flatnonzero(_known(condition, "extract"))
    return getitem(reshaped(x, (x.size,)), places)


@implements(np.diagonal)
def diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """`numpy.diagonal`: a strided slice of the two axes laid end to end."""
    x = array(a)
    if x.ndim < 2:
        raise ValueError("diag requires an array of at least two dimensions")
    i, j = normalize_axis(axis1, x.ndim), normalize_axis(axis2, x.ndim)
    if i == j:
        raise ValueError("axis1 and axis2 cannot be the same")
    x = permute(x, [*(d for d in range(x.ndim) if d not in (i, j)), i, j])
    *rest, n, m = x.shape
    count = max(min(n, m - offset) if offset >= 0 else min(n + offset, m), 0)
    if not count:
        return promotion.full((*rest, 0), 0, x.dtype)
    start = offset if offset >= 0 else -offset * m
    flat = ops.reshape(x, shape=(*rest, n * m))
    lead = (0,) * len(rest)
    return ops.slice(
        flat,
        start_indices=(*lead, start),
        limit_indices=(*rest, start + (count - 1) * (m + 1) + 1),
        strides=(*(1,) * len(rest), m + 1),
    )
