"""Linearization: values now, a linear program of the tangents for later.

A `JVPTrace` runs over a `LinearTrace`, which records exactly the operations that touch a tangent
and passes the others to the trace below. What is recorded is linear in the tangents by
construction, so `transpose` can run it backwards: that is reverse mode.

The record (a `Tape`) is a list of equations whose known operands are literals of any shape: the
residuals. `Tape.to_jaxpr` makes an ordinary program of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans.core import (
    Primitive,
    Trace,
    Tracer,
    Zero,
    current,
    current_trace,
    eqn_source,
    eval_trace,
    get_aval,
    instantiate,
    swap_trace,
)
from functrans.interpreters.jvp import JVPTrace, JVPTracer
from functrans.interpreters.rematerialize import Policy, recomputing
from functrans.interpreters.staging import (
    JaxprTrace,
    jaxpr_as_fun,
    trace_to_jaxpr,
    watching_leaks,
)
from functrans.ir import Atom, ClosedJaxpr, Jaxpr, JaxprEqn, Literal, ShapedArray, Var


class LinearTracer(Tracer):
    """A tangent whose value is not known yet: a variable of the tape."""

    __slots__ = ("var",)

    def __init__(self, trace: LinearTrace, var: Var):
        self._trace = trace
        self.var = var
        self.aval = var.aval
        self.weak_type = False

    def origin(self) -> str:
        return ", an input of a linear program (linearize, vjp, linear_transpose)"


class LinearTrace(Trace):
    """Records operations on its tracers; everything else happens in `parent`."""

    def __init__(self, parent: Trace, *, keep_sources: bool = True):
        self.parent = parent
        self.eqns: list[JaxprEqn] = []
        self.keep_sources = keep_sources

    def input(self, aval: ShapedArray) -> LinearTracer:
        """A tracer for a new unknown."""
        return LinearTracer(self, Var(aval))

    def is_unknown(self, x: Any) -> bool:
        """Whether `x` is a tracer of this trace."""
        return type(x) is LinearTracer and x._trace is self

    def process(self, primitive: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        plain = True
        for x in args:
            if isinstance(x, Tracer):
                if type(x) is LinearTracer and x._trace is self:
                    break
                plain = False
        else:
            if plain and self.parent is eval_trace:
                # The common case of eager reverse mode, with nothing in between.
                return primitive.impl(*args, **params)
            before = swap_trace(self.parent)
            try:
                return primitive(*args, **params)
            finally:
                swap_trace(before)
        if primitive.partial_eval is not None:
            return primitive.partial_eval(self, args, params)
        atoms = [self.atom(x) for x in args]
        aval = primitive.abstract_eval(*[a.aval for a in atoms], **params)
        if primitive.multiple_results:
            return self.record(primitive, atoms, params, aval)
        return self.record(primitive, atoms, params, [aval])[0]

    def atom(self, x: Any) -> Atom:
        """A variable for a tracer of this trace; for known values a literal of any shape."""
        if type(x) is LinearTracer and x._trace is self:
            return x.var
        return Literal(x, get_aval(x))

    def record(
        self, primitive: Primitive, atoms: Sequence[Atom], params: dict[str, Any], avals: Any
    ) -> list[LinearTracer]:
        """Append an equation; returns the tracers of its results."""
        outvars = [Var(aval) for aval in avals]
        source = eqn_source() if self.keep_sources else None
        self.eqns.append(JaxprEqn(atoms, outvars, primitive, params, source))
        return [LinearTracer(self, v) for v in outvars]


class Tape:
    """A linear program with its residuals in place.

    `invars`: the unknowns, one per input, None for inputs that carry no tangent. `outs`: per output
    a variable, a known tangent (literal), or a `Zero`.
    """

    __slots__ = ("eqns", "invars", "outs")

    def __init__(self, invars: list[Var | None], eqns: list[JaxprEqn], outs: list[Atom | Zero]):
        self.invars = invars
        self.eqns = eqns
        self.outs = outs

    def literals(self) -> list[Literal]:
        """The operands with a value: the residuals and the numbers."""
        return [a for eqn in self.eqns for a in eqn.invars if type(a) is Literal]

    def protect(self) -> None:
        """Copy each residual array that anybody outside this tape could still change.

        An array that owns its data and that nothing but the tape refers to is safe as it is.
        """
        literals = self.literals()
        uses: dict[int, int] = {}
        for literal in literals:
            uses[id(literal.val)] = uses.get(id(literal.val), 0) + 1
        copies: dict[int, np.ndarray] = {}
        for literal in literals:
            if type(literal.val) is not np.ndarray:
                continue
            key = id(literal.val)
            if key not in copies:
                # getrefcount counts its own argument; the rest are the literals of this tape.
                private = literal.val.base is None and sys.getrefcount(literal.val) <= uses[key] + 1
                if private:
                    continue
                copies[key] = literal.val.copy()
                uses[id(copies[key])] = uses[key] + 1
            literal.val = copies[key]

    def to_jaxpr(self) -> ClosedJaxpr:
        """The tangent map as a program: unknowns in, a tangent per output out."""
        constvars: dict[int, Var] = {}
        consts: list[Any] = []

        def atom(a: Atom) -> Atom:
            if type(a) is Literal and (a.aval.shape or isinstance(a.val, (Tracer, np.ndarray))):
                if id(a.val) not in constvars:
                    constvars[id(a.val)] = Var(a.aval)
                    consts.append(a.val)
                return constvars[id(a.val)]
            return a

        def out_atom(a: Atom | Zero) -> Atom:
            return atom(Literal(instantiate(a), a.aval)) if type(a) is Zero else atom(a)  # type: ignore[arg-type]

        eqns = [e.replace(invars=[atom(a) for a in e.invars]) for e in self.eqns]
        outvars = [out_atom(a) for a in self.outs]
        invars = [v for v in self.invars if v is not None]
        return ClosedJaxpr(Jaxpr(list(constvars.values()), invars, outvars, eqns), consts)


def linearize_flat(
    f: Callable[..., Sequence[Any]],
    primals: Sequence[Any],
    weak: Sequence[bool] | None = None,
    *,
    keep_sources: bool = True,
) -> tuple[list[Any], Tape]:
    """Values of `f`, a function of flat arguments, at `primals`, and the tape of its tangents.

    Sources are for tapes that are printed or traced again; finding them costs a few us an equation.
    """
    linear = LinearTrace(current_trace(), keep_sources=keep_sources)
    trace = JVPTrace(linear, copies_operands=_runs_now(linear.parent))
    weak = weak or [False] * len(primals)
    with watching_leaks(trace, linear), current(trace):
        invars: list[Var | None] = []
        args = []
        for x, w in zip(primals, weak, strict=True):
            aval = get_aval(x)
            if aval.tangent_aval() is not aval:
                invars.append(None)
                args.append(x)
            else:
                tangent = linear.input(aval)
                invars.append(tangent.var)
                args.append(JVPTracer(trace, x, tangent, w))
        outs = [trace.unpair(y) for y in f(*args)]
        tape = Tape(invars, linear.eqns, [_tape_out(linear, t) for _, t in outs])
        values = [y for y, _ in outs]
        del args, outs
        if invars:
            tangent = None
    return values, tape


def _runs_now(trace: Trace) -> bool:
    """Whether operations end in NumPy calls, not in a program that is being staged."""
    while trace is not eval_trace and not isinstance(trace, JaxprTrace):
        trace = trace.parent
    return trace is eval_trace


def _tape_out(linear: LinearTrace, tangent: Any) -> Atom | Zero:
    return tangent if type(tangent) is Zero else linear.atom(tangent)


Split = tuple[ClosedJaxpr, ClosedJaxpr, tuple[bool, ...]]


def partial_eval_jaxpr(
    closed: ClosedJaxpr,
    unknown: tuple[bool, ...],
    policy: Policy | None = None,
    wanted: tuple[bool, ...] = (),
) -> Split:
    """Split a program by what depends on its unknown inputs.

    Returns (known, linear, out_unknown): `known` maps the known inputs to the known outputs
    followed by the residuals; `linear` maps residuals and unknown inputs to the unknown outputs.
    It computes again from the residuals what `policy` does not save; without a policy, what is
    cheap (see `restorable`). A residual may be an input of `known` or one of its outputs; see
    `forwarding`. `wanted` outputs count as unknown, also where they are known.
    """
    key = ("partial_eval", unknown, policy, wanted)
    if key not in closed.derived:
        known, linear, out_unknown = _partial_eval_jaxpr(closed, unknown, wanted)
        count = sum(not u for u in out_unknown)
        closed.derived[key] = (*recomputing(known, linear, count, policy), out_unknown)
    return closed.derived[key]


def _partial_eval_jaxpr(
    closed: ClosedJaxpr, unknown: tuple[bool, ...], wanted: tuple[bool, ...]
) -> Split:
    avals = closed.in_avals
    parts: list[Any] = []

    def run_known(*known: Any) -> list[Any]:
        linear = LinearTrace(current_trace())
        rest = iter(known)
        args = [linear.input(a) if u else next(rest) for a, u in zip(avals, unknown, strict=True)]
        invars = [x.var for x, u in zip(args, unknown, strict=True) if u]
        with watching_leaks(linear), current(linear):
            outs = jaxpr_as_fun(closed)(*args)
            forced = wanted or (False,) * len(outs)
            pairs = zip(outs, forced, strict=True)
            out_unknown = tuple(linear.is_unknown(y) or f for y, f in pairs)
            flags = list(zip(outs, out_unknown, strict=True))
            tape = Tape(invars, linear.eqns, [linear.atom(y) for y, u in flags if u])
            known_outs = [y for y, u in flags if not u]
            del flags, pairs  # a zip holds the last pair that it made
            del args, outs
        program = tape.to_jaxpr()
        parts.extend([program.jaxpr, out_unknown])
        return known_outs + program.consts

    known_avals = [a for a, u in zip(avals, unknown, strict=True) if not u]
    known = trace_to_jaxpr(run_known, known_avals, what="partial evaluation")
    linear_jaxpr, out_unknown = parts
    residual_first = linear_jaxpr.replace(
        constvars=[], invars=linear_jaxpr.constvars + linear_jaxpr.invars
    )
    return known, ClosedJaxpr(residual_first), out_unknown


def forwarding(known: ClosedJaxpr, count: int) -> tuple[ClosedJaxpr, tuple[int, ...]]:
    """Drop residuals, the outputs from `count` on, that are there already.

    Returns the program, and where each residual is among its inputs followed by its outputs.
    """
    key = ("forwarding", count)
    if key not in known.derived:
        jaxpr = known.jaxpr
        outvars = jaxpr.outvars[:count]
        places = {a: i for i, a in reversed(list(enumerate([*jaxpr.invars, *outvars])))}
        for a in jaxpr.outvars[count:]:
            if a not in places:
                places[a] = len(jaxpr.invars) + len(outvars)
                outvars.append(a)
        found = tuple(places[a] for a in jaxpr.outvars[count:])
        program = ClosedJaxpr(jaxpr.replace(outvars=outvars), known.consts)
        known.derived[key] = program, found
    return known.derived[key]


def run_split(
    trace: LinearTrace, primitive: Primitive, args: Sequence[Any], split: Split,
    known_params: dict[str, Any], linear_params: dict[str, Any],
) -> list[Any]:  # fmt: skip
    """The `partial_eval` of a call: run the known program, record the linear one."""
    known, linear, out_unknown = split
    count = sum(not u for u in out_unknown)
    known, places = forwarding(known, count)
    known_args = [x for x in args if not trace.is_unknown(x)]
    with current(trace.parent):
        results = primitive(*known_args, jaxpr=known, **known_params)
    there = [*known_args, *results]
    atoms = [trace.atom(there[i]) for i in places]
    atoms += [trace.atom(x) for x in args if trace.is_unknown(x)]
    recorded = trace.record(primitive, atoms, {"jaxpr": linear, **linear_params}, linear.out_avals)
    tracers, knowns = iter(recorded), iter(results[:count])
    return [next(tracers) if u else next(knowns) for u in out_unknown]
