"""Writing to a part of an array: `x.at[index].set(v)` and its kin give a changed copy.

`functrans.numpy.at(x, index).add(v)` does the same on plain arrays. A basic index (integers and
slices) is read, changed and put back as one block; integer arrays go through `ops.scatter`, which
applies every occurrence of an index given twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.core import Tracer
from functrans.numpy import promotion
from functrans.numpy.dispatch import TRACED, public
from functrans.numpy.index_plan import IndexPlan, Span, plan_index
from functrans.numpy.indexing import basic, gathered_order, index_operands, read
from functrans.numpy.manipulation import permute, reshaped
from functrans.numpy.promotion import array, cast, dtype_of, full, scalar_like
from functrans.numpy.ufuncs import divide, power

_MODES = {
    None: "error",
    "error": "error",
    "clip": "clip",
    "fill": "fill",
    "drop": "fill",
    "promise_in_bounds": "promise_in_bounds",
}
_MISSING: Any = object()


class IndexedUpdates:
    """`x.at`: index it to name the part that changes."""

    __slots__ = ("array",)

    def __init__(self, array: Any):
        self.array = array

    def __getitem__(self, index: Any) -> IndexedUpdate:
        return IndexedUpdate(self.array, index)

    def __repr__(self) -> str:
        return f"<.at of {self.array!r}>"


class IndexedUpdate:
    """`x.at[index]`: its methods give a copy of `x` in which `x[index]` is changed.

    `mode` says what an index out of range does: "error" (the default) raises IndexError, "drop" or
    "fill" ignores it (`get` gives nan, or 0 for integers, or `fill_value`), "clip" takes the
    nearest, "promise_in_bounds" does not look.
    """

    __slots__ = ("array", "index")

    def __init__(self, array: Any, index: Any):
        self.array = array
        self.index = index

    def set(self, values: Any, *, mode: str | None = None, unique_indices: bool = False,
            indices_are_sorted: bool = False) -> Any:  # fmt: skip
        """`x[index] = values`. Of an index given twice, the last value stays."""
        return self._scatter("set", values, mode, unique_indices)

    def add(self, values: Any, *, mode: str | None = None, unique_indices: bool = False,
            indices_are_sorted: bool = False) -> Any:  # fmt: skip
        """`x[index] += values`; an index given twice adds twice."""
        return self._scatter("add", values, mode, unique_indices)

    def subtract(self, values: Any, *, mode: str | None = None, unique_indices: bool = False,
                 indices_are_sorted: bool = False) -> Any:  # fmt: skip
        """`x[index] -= values`."""
        x = array(self.array)
        v = ops.neg(_cast_update(values, x.dtype, "subtract"))
        return self._scatter("add", v, mode, unique_indices)

    def multiply(self, values: Any, *, mode: str | None = None, unique_indices: bool = False,
                 indices_are_sorted: bool = False) -> Any:  # fmt: skip
        """`x[index] *= values`; an index given twice multiplies twice."""
        return self._scatter("mul", values, mode, unique_indices)

    mul = multiply

    def min(self, values: Any, *, mode: str | None = None, unique_indices: bool = False,
            indices_are_sorted: bool = False) -> Any:  # fmt: skip
        """`x[index] = minimum(x[index], values)`."""
        return self._scatter("min", values, mode, unique_indices)

    def max(self, values: Any, *, mode: str | None = None, unique_indices: bool = False,
            indices_are_sorted: bool = False) -> Any:  # fmt: skip
        """`x[index] = maximum(x[index], values)`."""
        return self._scatter("max", values, mode, unique_indices)

    def divide(self, values: Any, *, mode: str | None = None, unique_indices: bool = False,
               indices_are_sorted: bool = False) -> Any:  # fmt: skip
        """`x[index] /= values`."""
        return self._with_ones(divide.traced, values, mode)

    def power(self, values: Any, *, mode: str | None = None, unique_indices: bool = False,
              indices_are_sorted: bool = False) -> Any:  # fmt: skip
        """`x[index] **= values`."""
        return self._with_ones(power.traced, values, mode)

    def apply(self, function: Callable[[Any], Any], *, mode: str | None = None) -> Any:
        """`x[index] = function(x[index])`; once, for an index given twice."""
        return self.set(function(self.get(mode=mode)), mode=mode)

    def get(self, *, mode: str | None = None, fill_value: Any = None, unique_indices: bool = False,
            indices_are_sorted: bool = False) -> Any:  # fmt: skip
        """`x[index]`, with a choice of what an index out of range gives."""
        x, plan, mode = self._plan(mode)
        y = read(x, plan, mode)
        if fill_value is None or mode != "fill":
            return y
        inside = read(full(x.shape, True, dtypes.bool_), plan, "fill")
        return ops.select(inside, y, cast(fill_value, x.dtype))

    def _plan(self, mode: str | None) -> tuple[Any, IndexPlan, str]:
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {[m for m in _MODES if m]}, got {mode!r}.")
        x = array(self.array)
        gather_mode = _MODES[mode]
        return x, plan_index(self.index, x.shape, checked=gather_mode == "error"), gather_mode

    def _scatter(self, op: str, values: Any, mode: str | None, unique: bool) -> Any:
        x, plan, mode = self._plan(mode)
        v = _shaped_update(_cast_update(values, x.dtype, op), plan)
        return write(x, plan, v, op, mode, unique)

    def _with_ones(self, combine: Callable[[Any, Any], Any], values: Any, mode: Any) -> Any:
        x = array(self.array)
        if combine == divide.traced and not dtypes.is_inexact(x.dtype):
            raise TypeError(
                f"x.at[...].divide on {x.dtype} would make it float: convert x with "
                "x.astype(float)."
            )
        ones = full(x.shape, 1, x.dtype)
        return combine(x, IndexedUpdate(ones, self.index).multiply(values, mode=mode))


@public
def at(x: Any, index: Any = _MISSING) -> Any:
    """`at(x, index).set(v)`: a copy of `x` in which `x[index]` is changed; `x` may be any array.

    >>> import numpy as np
    >>> at(np.zeros(3), 1).set(5.0)
    array([0., 5., 0.])
    """
    updates = IndexedUpdates(x)
    return updates if index is _MISSING else updates[index]


TRACED["at"] = IndexedUpdates


def _cast_update(values: Any, dtype: np.dtype, op: str) -> Any:
    v = promotion.operand(values)
    if not np.can_cast(dtype_of(v), dtype, "same_kind") and not (
        op == "set" and dtype_of(v).kind != "c"
    ):
        if not isinstance(v, Tracer) and promotion.result_type(v, np.empty(0, dtype)) == dtype:
            return cast(v, dtype)
        raise TypeError(
            f"x.at[...].{op}: values of dtype {dtype_of(v)} do not go into an array of {dtype} "
            f"without loss. Convert one of them: values.astype({dtype.name!r})."
        )
    return cast(v, dtype)


def _shaped_update(v: Any, plan: IndexPlan) -> Any:
    """Values broadcast to the shape of `x[index]`, then with the axes the plan's steps have."""
    shape = plan.result_shape()
    extra = v.ndim - len(shape)
    if extra > 0 and all(n == 1 for n in v.shape[:extra]):
        v = reshaped(v, v.shape[extra:])
    if not _fits(v.shape, shape):
        raise ValueError(f"could not broadcast input array from shape {v.shape} into shape {shape}")
    v = promotion.broadcast_to(v, shape)
    squeezed = tuple(n for n, (kind, _) in zip(shape, plan.layout, strict=True) if kind != "new")
    v = reshaped(v, squeezed)
    if not plan.arrays:
        return v
    order = gathered_order(plan)
    return permute(v, [order.index(i) for i in range(len(order))])


def _fits(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    tail = target[len(target) - len(shape) :]
    return len(shape) <= len(target) and all(n in (1, m) for n, m in zip(shape, tail, strict=True))


def write(x: Any, plan: IndexPlan, v: Any, op: str, mode: str, unique: bool) -> Any:
    """`x` with the chosen elements combined with `v` by `op`."""
    if not plan.arrays:
        block = v if op == "set" else _COMBINE[op](basic(x, plan), v)
        return _put_back(x, plan, block)
    part = basic(x, plan)
    order = [*plan.array_axes, *(i for i in range(part.ndim) if i not in plan.array_axes)]
    indices = [promotion.broadcast_to(i, plan.gathered_shape) for i in index_operands(plan)]
    mode = "promise_in_bounds" if plan.known_in_bounds else mode
    changed = ops.scatter(permute(part, order), v, *indices, op=op, mode=mode, unique=unique)
    changed = permute(changed, [order.index(i) for i in range(part.ndim)])
    return _put_back(x, plan, changed)


_COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: ops.add(a, b),
    "mul": lambda a, b: ops.mul(a, b),
    "min": lambda a, b: ops.min(a, b),
    "max": lambda a, b: ops.max(a, b),
}


def _put_back(x: Any, plan: IndexPlan, block: Any) -> Any:
    """`x` with what `basic` took from it replaced by `block`."""
    spans = plan.spans
    block = reshaped(block, tuple(s.count for s in spans))
    if not block.size:
        return x
    backward = tuple(i for i, s in enumerate(spans) if s.step < 0 and s.count > 1)
    if backward:
        block = ops.rev(block, dimensions=backward)
    if block.shape == x.shape:
        return block
    if all(abs(s.step) == 1 or s.count == 1 for s in spans):
        starts = [np.int64(_low(s)) for s in spans]
        return ops.dynamic_update_slice(x, block, *starts)
    config = tuple(
        (_low(s), n - _low(s) - (s.count - 1) * abs(s.step) - 1, abs(s.step) - 1)
        for s, n in zip(spans, x.shape, strict=True)
    )
    chosen = ops.pad(full(block.shape, True, dtypes.bool_), np.False_, config=config)
    return ops.select(chosen, ops.pad(block, scalar_like(0, x), config=config), x)


def _low(span: Span) -> int:
    return span.start if span.step > 0 else span.start + (span.count - 1) * span.step
