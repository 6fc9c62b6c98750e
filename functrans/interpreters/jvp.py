"""Forward-mode differentiation.

A `JVPTrace` carries (primal, tangent) pairs. For each primitive it makes its parent trace current
and runs the primitive's `jvp` rule, so traces nest and higher orders are free. A value that does
not move (its tangent is a symbolic zero) is passed on as itself. `linearize` runs this trace over
a recording one; see linearize.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans.core import (
    Primitive,
    Trace,
    Tracer,
    Zero,
    _state,
    current,
    current_trace,
    get_aval,
    instantiate,
)
from functrans.interpreters.staging import jaxpr_as_fun, trace_to_jaxpr, watching_leaks
from functrans.ir import ClosedJaxpr, ShapedArray


class JVPTracer(Tracer):
    """A value and its tangent, which is never a symbolic zero."""

    __slots__ = ("primal", "tangent")

    def __init__(self, trace: JVPTrace, primal: Any, tangent: Any, weak_type: bool = False):
        self._trace = trace
        self.primal = primal
        self.tangent = tangent
        self.weak_type = weak_type

    @property
    def aval(self) -> ShapedArray:  # type: ignore[override]
        return get_aval(self.primal)

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.primal)

    @property
    def dtype(self) -> np.dtype:
        return self.primal.dtype

    @property
    def ndim(self) -> int:
        return len(np.shape(self.primal))

    def concrete(self) -> Any:
        primal = self.primal
        return primal.concrete() if isinstance(primal, Tracer) else primal

    def origin(self) -> str:
        return " under differentiation"


class JVPTrace(Trace):
    """Runs each operation on primals and, by its `jvp` rule, on tangents, both in `parent`.

    With `copies_operands` the rules get copies of plain arrays: what they keep for later is then
    safe from a function that goes on to write into its own buffers.
    """

    def __init__(self, parent: Trace, copies_operands: bool = False):
        self.parent = parent
        self.copies_operands = copies_operands

    def process(self, primitive: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        primals = []
        tangents = []
        moving = False
        for x in args:
            if type(x) is JVPTracer and x._trace is self:
                primals.append(x.primal)
                tangents.append(x.tangent)
                moving = True
            else:
                primals.append(x)
                tangents.append(None)
        before = _state.trace
        _state.trace = self.parent  # `swap_trace`, spelled out: this runs per operation
        try:
            if not moving:
                return primitive(*primals, **params)
            for i, t in enumerate(tangents):
                if t is None:
                    if self.copies_operands and type(primals[i]) is np.ndarray:
                        primals[i] = primals[i].copy()
                    tangents[i] = Zero(get_aval(primals[i]).tangent_aval())
            out, tangent = primitive.jvp(primals, tangents, **params)
        finally:
            _state.trace = before
        if primitive.multiple_results:
            return [self.pair(y, t) for y, t in zip(out, tangent, strict=True)]
        return self.pair(out, tangent)

    def pair(self, primal: Any, tangent: Any, weak_type: bool = False) -> Any:
        """A tracer, or the primal itself where the tangent is a symbolic zero."""
        return primal if type(tangent) is Zero else JVPTracer(self, primal, tangent, weak_type)

    def unpair(self, x: Any) -> tuple[Any, Any]:
        """The primal and tangent of a value of this trace."""
        if type(x) is JVPTracer and x._trace is self:
            return x.primal, x.tangent
        return x, Zero(get_aval(x).tangent_aval())


def jvp_flat(
    f: Callable[..., Sequence[Any]],
    primals: Sequence[Any],
    tangents: Sequence[Any],
    weak: Sequence[bool] | None = None,
) -> tuple[list[Any], list[Any]]:
    """Values and tangents of `f`, a function of flat arguments. Tangents may be `Zero`."""
    trace = JVPTrace(current_trace())
    weak = weak or [False] * len(primals)
    with watching_leaks(trace), current(trace):
        args = [trace.pair(x, t, w) for x, t, w in zip(primals, tangents, weak, strict=True)]
        outs = [trace.unpair(y) for y in f(*args)]
        del args
    return [y for y, _ in outs], [t for _, t in outs]


def jvp_jaxpr(
    closed: ClosedJaxpr, moving: tuple[bool, ...], wanted: tuple[bool, ...] = ()
) -> tuple[ClosedJaxpr, tuple[bool, ...]]:
    """The program of values and tangents: inputs, moving tangents -> outputs, moving tangents.

    Returns it with which outputs move; made once per program and set of moving inputs. `wanted`
    outputs count as moving: their tangent may be an array of zeros.
    """
    key = ("jvp", moving, wanted)
    if key not in closed.derived:
        closed.derived[key] = _jvp_jaxpr(closed, moving, wanted)
    return closed.derived[key]


def _jvp_jaxpr(
    closed: ClosedJaxpr, moving: tuple[bool, ...], wanted: tuple[bool, ...]
) -> tuple[ClosedJaxpr, tuple[bool, ...]]:
    avals = closed.in_avals
    out_moving: list[bool] = []

    def both(*args: Any) -> list[Any]:
        primals, rest = args[: len(avals)], iter(args[len(avals) :])
        tangents = [
            next(rest) if m else Zero(a.tangent_aval()) for a, m in zip(avals, moving, strict=True)
        ]
        outs, out_tangents = jvp_flat(jaxpr_as_fun(closed), primals, tangents)
        if wanted:
            pairs = zip(out_tangents, wanted, strict=True)
            out_tangents = [instantiate(t) if w else t for t, w in pairs]
        out_moving.extend(type(t) is not Zero for t in out_tangents)
        return outs + [t for t in out_tangents if type(t) is not Zero]

    moving_avals = [a.tangent_aval() for a, m in zip(avals, moving, strict=True) if m]
    program = trace_to_jaxpr(both, [*avals, *moving_avals], what="jvp")
    return program, tuple(out_moving)
