"""Simplify a jaxpr before it is lowered: a list of passes, each a function of a program.

    { lambda ; a:f64[]. let b = mul a 1.0; c = exp b; d = exp a; e = add c d in (e,) }
    { lambda ; a:f64[]. let b = exp a; c = add b b in (c,) }

A pass returns a new program (or the same, where nothing was to be done) and never changes the one
it is given. All take time linear in the number of equations, and walk them without recursion.
Equations keep the `source` they came with.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import numpy as np

from functrans import ops
from functrans.compiler.jaxprs.algebra import fold_constants, simplify_algebra
from functrans.compiler.jaxprs.barriers import barrier
from functrans.interpreters.rematerialize import is_call
from functrans.ir import Atom, ClosedJaxpr, Jaxpr, JaxprEqn, Var

# ---------------------------------------------------------------------------- calls


class _Call:
    """A call being inlined: the rest of its equations, and what its variables are outside."""

    def __init__(self, closed: ClosedJaxpr, env: dict[Var, Atom], eqn: JaxprEqn | None):
        self.rest: Iterator[JaxprEqn] = iter(closed.jaxpr.eqns)
        self.outvars = closed.jaxpr.outvars
        self.env = env
        self.eqn = eqn

    def atom(self, atom: Atom) -> Atom:
        return self.env[atom] if type(atom) is Var else atom


def inline_calls(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Replace calls by the equations of the programs called; their constants become ours.

    An array that several programs hold is one constant of the result.
    """
    if not any(_is_call(eqn) for eqn in closed.jaxpr.eqns):
        return closed
    constants: dict[int, tuple[Var, Any]] = {}
    eqns: list[JaxprEqn] = []
    outer = _Call(closed, {v: v for v in closed.jaxpr.invars}, None)
    _bind_constants(outer, closed, constants)
    stack = [outer]
    while stack:
        call = stack[-1]
        eqn = next(call.rest, None)
        if eqn is None:
            stack.pop()
            if call.eqn is not None:
                results = [call.atom(a) for a in call.outvars]
                stack[-1].env.update(zip(call.eqn.outvars, results, strict=True))
        elif _is_call(eqn):
            callee = _callee(eqn)
            operands = _held_back(eqn, [call.atom(a) for a in eqn.invars], eqns)
            inner = _Call(callee, dict(zip(callee.jaxpr.invars, operands, strict=True)), eqn)
            _bind_constants(inner, callee, constants)
            stack.append(inner)
        else:
            eqns.append(_renamed(eqn, call))
    outvars = [outer.atom(a) for a in closed.jaxpr.outvars]
    constvars = [var for var, _ in constants.values()]
    jaxpr = Jaxpr(constvars, closed.jaxpr.invars, outvars, eqns)
    return ClosedJaxpr(jaxpr, [value for _, value in constants.values()])


def _is_call(eqn: JaxprEqn) -> bool:
    return is_call(eqn) or eqn.primitive.callee is not None


def _callee(eqn: JaxprEqn) -> ClosedJaxpr:
    if is_call(eqn):
        return eqn.params["jaxpr"]
    return eqn.primitive.callee(*[a.aval for a in eqn.invars], **eqn.params)


def _held_back(eqn: JaxprEqn, operands: list[Atom], eqns: list[JaxprEqn]) -> list[Atom]:
    """Operands such that a recomputation is none of what was computed before: see `barrier`."""
    count = eqn.params.get("residuals", 0)
    held: list[Atom] = []
    for x in operands[:count]:
        if type(x) is Var:
            var = Var(x.aval, x.name)
            eqns.append(JaxprEqn([x, *operands[count:]], [var], barrier, {}, eqn.source))
            x = var
        held.append(x)
    return held + operands[count:]


def _bind_constants(
    call: _Call, closed: ClosedJaxpr, constants: dict[int, tuple[Var, Any]]
) -> None:
    for var, value in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        call.env[var] = constants.setdefault(id(value), (Var(var.aval, var.name), value))[0]


def _renamed(eqn: JaxprEqn, call: _Call) -> JaxprEqn:
    """A copy of `eqn` with variables of its own: a program may be called more than once."""
    invars = [call.atom(a) for a in eqn.invars]
    outvars = [Var(v.aval, v.name) for v in eqn.outvars]
    call.env.update(zip(eqn.outvars, outvars, strict=True))
    source = eqn.source
    if source is None and call.eqn is not None:
        source = call.eqn.source
    return JaxprEqn(invars, outvars, eqn.primitive, eqn.params, source)


# ---------------------------------------------------------------------------- common equations

_COMMUTATIVE = {ops.add, ops.mul, ops.and_, ops.or_, ops.xor, ops.eq, ops.ne}


def eliminate_common_subexpressions(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Compute equal equations once: the same primitive, parameters and operands."""
    replaced: dict[Var, Atom] = {}
    seen: dict[Hashable, JaxprEqn] = {}
    eqns: list[JaxprEqn] = []

    def current(atom: Atom) -> Atom:
        return replaced.get(atom, atom) if type(atom) is Var else atom

    for eqn in closed.jaxpr.eqns:
        invars = [current(a) for a in eqn.invars]
        if any(a is not b for a, b in zip(invars, eqn.invars, strict=True)):
            eqn = eqn.replace(invars=invars)
        key = _key(eqn)
        first = seen.get(key) if key is not None else None
        if first is not None:
            replaced.update(zip(eqn.outvars, first.outvars, strict=True))
            continue
        if key is not None:
            seen[key] = eqn
        eqns.append(eqn)
    if not replaced:
        return closed
    outvars = [current(a) for a in closed.jaxpr.outvars]
    return ClosedJaxpr(closed.jaxpr.replace(eqns=eqns, outvars=outvars), closed.consts)


def _key(eqn: JaxprEqn) -> Hashable | None:
    """What an equation computes; None where that cannot be compared, or is not all it does."""
    if not eqn.outvars or eqn.has_effects:
        return None
    operands: Any = tuple(map(atom_key, eqn.invars))
    if eqn.primitive in _COMMUTATIVE and eqn.outvars[0].aval.dtype.kind != "c":
        operands = frozenset(operands)
    key = (eqn.primitive, operands, exact(tuple(sorted(eqn.params.items()))))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def atom_key(atom: Atom) -> Hashable:
    """What tells an operand from others: a variable itself, a number by its bits."""
    if isinstance(atom, Var):
        return atom
    return atom.aval.dtype, np.asarray(atom.val).tobytes()


def exact(value: Any) -> Any:
    """`value` such that only the same parameters compare equal: not 0.0 and -0.0, 1 and True."""
    if type(value) is tuple:
        return tuple(map(exact, value))
    if isinstance(value, float | complex | np.generic):
        return type(value), np.asarray(value).tobytes()
    return type(value), value


# ---------------------------------------------------------------------------- dead code


def eliminate_dead_code(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Drop equations and constants that no output and no effect needs; inputs stay."""
    jaxpr = closed.jaxpr
    live = {a for a in jaxpr.outvars if type(a) is Var}
    kept: list[JaxprEqn] = []
    for eqn in reversed(jaxpr.eqns):
        if not live.isdisjoint(eqn.outvars) or eqn.has_effects:
            kept.append(eqn)
            live.update(a for a in eqn.invars if type(a) is Var)
    needed = [v in live for v in jaxpr.constvars]
    if len(kept) == len(jaxpr.eqns) and all(needed):
        return closed
    constvars = list(itertools.compress(jaxpr.constvars, needed))
    consts = list(itertools.compress(closed.consts, needed))
    return ClosedJaxpr(jaxpr.replace(constvars=constvars, eqns=kept[::-1]), consts)


# ---------------------------------------------------------------------------- the list

Pass = Callable[[ClosedJaxpr], ClosedJaxpr]

ROUND: list[tuple[str, Pass]] = [
    ("fold constants", fold_constants),
    ("simplify algebra", simplify_algebra),
    ("eliminate common subexpressions", eliminate_common_subexpressions),
    ("eliminate dead code", eliminate_dead_code),
]

# Equations found to be equal make more algebra apply; a third round has found little to do.
PASSES: list[tuple[str, Pass]] = [("inline calls", inline_calls), *ROUND, *ROUND]


def simplify(closed: ClosedJaxpr) -> ClosedJaxpr:
    """The program after all passes; it computes the same."""
    for _, run in PASSES:
        closed = run(closed)
    return closed
