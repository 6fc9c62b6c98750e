"""Vectorization: a function of single examples applied to a batch.

A `BatchTracer` is an array with one axis hidden. For each primitive the `batch` rule of the
primitive works on whole arrays and says where the axis went. Values without the axis stay without
it: weights shared by all examples are never copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import ops
from functrans.core import (
    Primitive,
    Trace,
    Tracer,
    current,
    current_trace,
    get_aval,
    named_axis,
    swap_trace,
)
from functrans.interpreters.staging import jaxpr_as_fun, trace_to_jaxpr, watching_leaks
from functrans.ir import ClosedJaxpr, ShapedArray


class BatchTracer(Tracer):
    """An array `val` whose axis `dim` is hidden."""

    __slots__ = ("dim", "val")

    def __init__(self, trace: BatchTrace, val: Any, dim: int, weak_type: bool = False):
        self._trace = trace
        self.val = val
        self.dim = dim
        self.weak_type = weak_type

    @property
    def aval(self) -> ShapedArray:  # type: ignore[override]
        aval = get_aval(self.val)
        return aval.update(shape=aval.shape[: self.dim] + aval.shape[self.dim + 1 :])

    @property
    def shape(self) -> tuple[int, ...]:
        return self.aval.shape

    def origin(self) -> str:
        return " under vmap"


class BatchTrace(Trace):
    """Runs the `batch` rules of primitives in `parent`."""

    def __init__(self, parent: Trace, size: int, axis_name: Any = None):
        self.parent = parent
        self.size = size
        self.axis_name = axis_name

    def process(self, primitive: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        vals = []
        dims = []
        for x in args:
            if type(x) is BatchTracer and x._trace is self:
                vals.append(x.val)
                dims.append(x.dim)
            else:
                vals.append(x)
                dims.append(None)
        mine = self.axis_name is not None and params.get("axis_name") == self.axis_name
        before = swap_trace(self.parent)
        try:
            if mine:
                out, dim = primitive.batch_axis(self.size, vals, dims, **params)  # type: ignore[attr-defined]
            elif self.axis_name is not None and hasattr(primitive, "batch_named"):
                # A program inside may use the axis even where no argument has it.
                out, dim = primitive.batch_named(  # type: ignore[attr-defined]
                    self.size, vals, dims, self.axis_name, **params
                )
            elif all(d is None for d in dims):
                return primitive(*vals, **params)
            else:
                out, dim = primitive.batch(self.size, vals, dims, **params)
        finally:
            swap_trace(before)
        if primitive.multiple_results:
            return [self.tracer(y, d) for y, d in zip(out, dim, strict=True)]
        return self.tracer(out, dim)

    def tracer(self, val: Any, dim: int | None, weak_type: bool = False) -> Any:
        """A tracer, or the value itself where it has no batch axis."""
        return val if dim is None else BatchTracer(self, val, dim, weak_type)

    def split(self, x: Any) -> tuple[Any, int | None]:
        """The array and batch axis of a value of this trace."""
        if type(x) is BatchTracer and x._trace is self:
            return x.val, x.dim
        return x, None


def batch_flat(
    f: Callable[..., Sequence[Any]],
    args: Sequence[Any],
    dims: Sequence[int | None],
    size: int,
    axis_name: Any = None,
) -> tuple[list[Any], list[int | None]]:
    """Run `f`, a function of flat arguments, over a batch; returns arrays and their batch axes."""
    trace = BatchTrace(current_trace(), size, axis_name)
    with watching_leaks(trace), current(trace):
        tracers = [trace.tracer(x, d) for x, d in zip(args, dims, strict=True)]
        if axis_name is None:
            outs = f(*tracers)
        else:
            with named_axis(axis_name, size):
                outs = f(*tracers)
        pairs = [trace.split(y) for y in outs]
        del tracers, outs
    return [y for y, _ in pairs], [d for _, d in pairs]


def move_to(x: Any, dim: int | None, destination: int, size: int) -> Any:
    """`x` with its batch axis at `destination`; repeated `size` times if it has none."""
    if dim is None:
        shape = np.shape(x)
        at = destination if destination >= 0 else destination + len(shape) + 1
        axes = tuple(i if i < at else i + 1 for i in range(len(shape)))
        full = (*shape[:at], size, *shape[at:])
        return ops.broadcast_in_dim(x, shape=full, broadcast_dimensions=axes)
    return ops.moveaxis(x, dim, destination % np.ndim(x))


def batch_jaxpr(
    closed: ClosedJaxpr,
    size: int,
    batched: tuple[bool, ...],
    axis_name: Any = None,
    wanted: tuple[bool, ...] = (),
) -> tuple[ClosedJaxpr, tuple[bool, ...]]:
    """The program over a batch, axes in front; returns it with which outputs are batched.

    `wanted` outputs are: those that are not are repeated.
    """
    key = ("batch", size, batched, axis_name, wanted)
    if key not in closed.derived:
        closed.derived[key] = _batch_jaxpr(closed, size, batched, axis_name, wanted)
    return closed.derived[key]


def _batch_jaxpr(
    closed: ClosedJaxpr,
    size: int,
    batched: tuple[bool, ...],
    axis_name: Any,
    wanted: tuple[bool, ...],
) -> tuple[ClosedJaxpr, tuple[bool, ...]]:
    out_batched: list[bool] = []

    def run(*args: Any) -> list[Any]:
        dims = [0 if b else None for b in batched]
        outs, out_dims = batch_flat(jaxpr_as_fun(closed), args, dims, size, axis_name)
        found = [d is not None for d in out_dims]
        if wanted:
            found = [f or w for f, w in zip(found, wanted, strict=True)]
        out_batched.extend(found)
        return [
            move_to(y, d, 0, size) if f else y
            for y, d, f in zip(outs, out_dims, found, strict=True)
        ]

    avals = [
        a.update(shape=(size, *a.shape)) if b else a
        for a, b in zip(closed.in_avals, batched, strict=True)
    ]
    return trace_to_jaxpr(run, avals, what="vmap"), tuple(out_batched)
