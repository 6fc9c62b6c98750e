"""A linear function with a transpose of its own, as an equation: `linear_call`.

This is what the tangents of a function with `defvjp` are: the map itself is known by its
transpose alone, the rule `bwd`, which reverse mode runs as it stands. Forward mode wants the map:
`bwd` transposed, since it is linear in the cotangent. So the equation stays whole until it is
known which of both is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import ops
from functrans.core import Linear, Primitive, Tracer, Zero, current, current_trace, get_aval
from functrans.core import instantiate as dense
from functrans.custom_rules.lanes import Lanes
from functrans.errors import MissingRule
from functrans.interpreters.jvp import jvp_flat
from functrans.interpreters.linearize import LinearTrace, Tape
from functrans.interpreters.staging import trace_to_jaxpr, watching_leaks
from functrans.interpreters.transpose import transpose_tape
from functrans.ir import ClosedJaxpr, ShapedArray


class LinearMap:
    """What is called: `push(*residuals, *xs) -> ys`, linear in xs, and its transpose.

    `pull(residuals, cts) -> cotangents of xs`; both may have symbolic zeros.
    """

    def __init__(
        self,
        name: str,
        push: Callable[..., list[Any]],
        pull: Callable[[Sequence[Any], Sequence[Any]], list[Any]],
        residual_count: int,
        out_avals: Sequence[ShapedArray],
    ):
        self.name = name
        self.push = push
        self.pull = pull
        self.residual_count = residual_count
        self.out_avals = list(out_avals)

    def __repr__(self) -> str:
        return self.name


class LinearCall(Primitive):
    """Call a linear map on residuals and what it is linear in. Parameter: `linear_map`."""

    multiple_results = True

    def abstract_eval(self, *avals: ShapedArray, linear_map: LinearMap) -> list[ShapedArray]:  # type: ignore[override]
        return linear_map.out_avals

    def impl(self, *args: Any, linear_map: LinearMap) -> list[Any]:  # type: ignore[override]
        return linear_map.push(*args)

    def callee(self, *avals: ShapedArray, linear_map: LinearMap) -> ClosedJaxpr:
        """The program of the map, for compiled code that asks for its values."""
        return trace_to_jaxpr(linear_map.push, avals, what=linear_map.name)

    def jvp(self, primals: Any, tangents: Any, *, linear_map: LinearMap) -> Any:  # type: ignore[override]
        n = linear_map.residual_count
        along_residuals = [*tangents[:n], *map(_zero_like, tangents[n:])]
        if all(type(t) is Zero for t in tangents[:n]):
            outs = self(*primals, linear_map=linear_map)
            dots: list[Any] = [Zero(a) for a in linear_map.out_avals]
        else:
            outs, dots = jvp_flat(linear_map.push, primals, along_residuals)
        if all(type(t) is Zero for t in tangents[n:]):
            return outs, dots
        moved = self(*primals[:n], *[dense(t) for t in tangents[n:]], linear_map=linear_map)
        pairs = zip(moved, dots, strict=True)
        return outs, [m if type(d) is Zero else ops.add(m, d) for m, d in pairs]

    def transpose(self, ct: Any, *args: Any, linear_map: LinearMap) -> list[Any]:  # type: ignore[override]
        n = linear_map.residual_count
        if any(type(r) is Linear for r in args[:n]):
            raise TypeError(f"{linear_map.name} is not linear in its residuals, only in the rest.")
        found = linear_map.pull(args[:n], ct)
        pairs = zip(args[n:], found, strict=True)
        return [None] * n + [c if type(x) is Linear else None for x, c in pairs]

    def batch(self, size: int, args: Any, dims: Any, *, linear_map: LinearMap) -> Any:  # type: ignore[override]
        return self.batch_named(size, args, dims, None, linear_map=linear_map)

    def batch_named(
        self, size: int, args: Any, dims: Any, axis_name: Any, *, linear_map: LinearMap
    ) -> Any:
        """The rule under a vmap that names its axis: the map inside may refer to it."""
        lanes = Lanes(size, axis_name, dims)
        lanes.per_lane = True
        n = linear_map.residual_count
        lane_avals = [a.update(shape=(size, *a.shape)) for a in linear_map.out_avals]
        batched = LinearMap(
            linear_map.name,
            lambda *xs: lanes.settled(lanes.over(linear_map.push, xs, dims)),
            lambda residuals, cts: lanes.pull(linear_map.pull, dims[:n], dims[n:], residuals, cts),
            n,
            lane_avals,
        )
        return self(*args, linear_map=batched), [0] * len(lane_avals)


linear_call_primitive = LinearCall("linear_call")


def _zero_like(tangent: Any) -> Zero:
    return tangent if type(tangent) is Zero else Zero(get_aval(tangent))


def transposed(
    pull: Callable[[Sequence[Any], Sequence[Any]], list[Any]],
    residuals: Sequence[Any],
    xs: Sequence[Any],
    ct_avals: Sequence[ShapedArray],
    name: str,
) -> list[Any]:
    """The map that `pull` is the transpose of, at `xs`: `pull` transposed."""
    linear = LinearTrace(current_trace())
    try:
        with watching_leaks(linear), current(linear):
            cts = [linear.input(aval) for aval in ct_avals]
            found = pull(residuals, cts)
            outs = [_linear_atom(linear, c) for c in found]
            tape = Tape([c.var for c in cts], linear.eqns, outs)
            del cts, found
        return [dense(y) for y in transpose_tape(tape, xs)]
    except (TypeError, MissingRule) as error:
        error.add_note(
            f"Forward mode transposes {name}, which then must be linear in the cotangent and made "
            "of operations that can be transposed. Give the function a rule for forward mode, by "
            "its defjvp, or use reverse mode (grad, vjp, jacrev)."
        )
        raise


def _linear_atom(linear: LinearTrace, ct: Any) -> Any:
    if linear.is_unknown(ct):
        return ct.var
    if type(ct) is not Zero and not isinstance(ct, Tracer) and np.any(ct):
        raise TypeError("a cotangent that it returns does not depend on its cotangents, nor is 0.")
    return Zero(get_aval(ct))
