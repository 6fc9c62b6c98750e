"""Functions of one example run over a batch, where the functions are rules of a call.

A call under `vmap` becomes a call of the batched function with batched rules, so that what lies
below the `vmap` (differentiation, staging) still sees a call. Its outputs either all have the batch
axis, in front, or none has; residuals keep what they have, so that weights are not repeated.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

from functrans import ops
from functrans.core import Zero, current, current_trace, named_axis
from functrans.interpreters.batching import BatchTrace, batch_flat, move_to
from functrans.ir import ShapedArray

Dims = Sequence[int | None]


class Lanes:
    """The batch that a call is under: its trace, and the batch axes of the operands."""

    def __init__(self, size: int, axis_name: Any, dims: Dims, trace: BatchTrace | None = None):
        self.size = size
        self.axis_name = axis_name
        self.dims = list(dims)
        # Weak: a call in a program must not keep the traces below alive, with all they recorded.
        self._trace = weakref.ref(trace) if trace is not None else lambda: None
        # Whether outputs have the batch axis. Not known before the first run where no operand
        # has it: the function may close over values that do.
        self.per_lane = any(d is not None for d in dims)

    def over(self, f: Callable[..., Sequence[Any]], args: Sequence[Any], dims: Dims) -> Any:
        """`f` over the batch: arrays and their batch axes.

        While the trace of the `vmap` lives, it is entered again, above the current trace: values
        of it that `f` closes over are then values like others.
        """
        trace = self._trace()
        if trace is None or not trace.alive:
            return batch_flat(f, args, dims, self.size, self.axis_name)
        before = trace.parent
        trace.parent = current_trace()
        try:
            with current(trace):
                tracers = [trace.tracer(x, d) for x, d in zip(args, dims, strict=True)]
                if self.axis_name is None:
                    outs = f(*tracers)
                else:
                    with named_axis(self.axis_name, self.size):
                        outs = f(*tracers)
                pairs = [trace.split(y) for y in outs]
        finally:
            trace.parent = before
        return [y for y, _ in pairs], [d for _, d in pairs]

    def settled(self, outs_and_dims: tuple[list[Any], Dims]) -> list[Any]:
        """Outputs that all have the batch axis in front, or that all have none."""
        outs, dims = outs_and_dims
        self.per_lane = self.per_lane or any(d is not None for d in dims)
        if not self.per_lane:
            return outs
        return [move_to(y, d, 0, self.size) for y, d in zip(outs, dims, strict=True)]

    @property
    def out_dim(self) -> int | None:
        """The batch axis of every output."""
        return 0 if self.per_lane else None

    def lane_zero(self, zero: Zero, dim: int | None) -> Zero:
        """A symbolic zero of one example."""
        shape = zero.aval.shape
        inner = shape if dim is None else shape[:dim] + shape[dim + 1 :]
        return Zero(ShapedArray(inner, zero.aval.dtype))

    def dense_part(
        self, f: Callable[..., Any], xs: Sequence[Any], dims: Dims
    ) -> tuple[Callable[..., Any], list[Any], list[int | None]]:
        """`f`, a function of a list, as one of its entries that are no symbolic zeros."""
        zeros = [
            self.lane_zero(x, d) if type(x) is Zero else None for x, d in zip(xs, dims, strict=True)
        ]

        def of_dense(*given: Any) -> Any:
            rest = iter(given)
            return f([next(rest) if z is None else z for z in zeros])

        kept = [(x, d) for x, d in zip(xs, dims, strict=True) if type(x) is not Zero]
        return of_dense, [x for x, _ in kept], [d for _, d in kept]

    def pull(
        self,
        pull: Callable[[Sequence[Any], Sequence[Any]], list[Any]],
        residual_dims: Dims,
        in_dims: Dims,
        residuals: Sequence[Any],
        cts: Sequence[Any],
    ) -> list[Any]:
        """`pull` over the batch; cotangents of what all examples share are summed."""
        n = len(residuals)
        zeros: list[Zero | None] = []

        def flat(xs: Sequence[Any]) -> list[Any]:
            found = pull(xs[:n], xs[n:])
            zeros.extend(c if type(c) is Zero else None for c in found)
            return [c for c in found if type(c) is not Zero]

        all_dims = [*residual_dims, *[self.out_dim] * len(cts)]
        f, given, given_dims = self.dense_part(flat, [*residuals, *cts], all_dims)
        outs, dims = self.over(f, given, given_dims)
        found = iter(zip(outs, dims, strict=True))
        return [
            self.whole_zero(zero, d) if zero is not None else self._shared(*next(found), d)
            for zero, d in zip(zeros, in_dims, strict=True)
        ]

    def whole_zero(self, zero: Zero, dim: int | None) -> Zero:
        """A symbolic zero of the whole batch."""
        shape = zero.aval.shape
        full = shape if dim is None else (*shape[:dim], self.size, *shape[dim:])
        return Zero(ShapedArray(full, zero.aval.dtype))

    def _shared(self, ct: Any, ct_dim: int | None, dim: int | None) -> Any:
        if dim is not None:
            return move_to(ct, ct_dim, dim, self.size)
        if not self.per_lane:
            return ct
        return ops.reduce_sum(move_to(ct, ct_dim, 0, self.size), axes=(0,))
