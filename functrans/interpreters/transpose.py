"""Transposition: a linear program run backwards.

Each equation of a linear program is visited once, last first. Its cotangent is complete by then:
all users of its result came later in the program. The `transpose` rule of its primitive turns it
into cotangents of the operands, which add up per variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from functrans import ops
from functrans.core import Linear, Zero, swap_source
from functrans.interpreters.linearize import Tape
from functrans.interpreters.staging import trace_to_jaxpr
from functrans.ir import Atom, ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var


def transpose_tape(tape: Tape, cts: Sequence[Any]) -> list[Any]:
    """Cotangents of the tape's inputs from those of its outputs; `Zero` where nothing flows.

    The entry of an input that carries no tangent is None.
    """
    ct_of = seed(tape.outs, cts)
    backward_pass(tape.eqns, {}, ct_of)
    return [None if v is None else ct_of.get(v, Zero(v.aval)) for v in tape.invars]


def seed(outs: Sequence[Atom | Zero], cts: Sequence[Any]) -> dict[Var, Any]:
    """The cotangents of the variables among `outs`."""
    ct_of: dict[Var, Any] = {}
    for out, ct in zip(outs, cts, strict=True):
        if type(out) is Var and type(ct) is not Zero:
            accumulate(ct_of, out, ct)
    return ct_of


def accumulate(ct_of: dict[Var, Any], var: Var, ct: Any) -> None:
    """Add `ct` to what is known of the cotangent of `var`."""
    before = ct_of.get(var)
    ct_of[var] = ct if before is None else ops.add(before, ct)


def backward_pass(eqns: Sequence[JaxprEqn], known: dict[Var, Any], ct_of: dict[Var, Any]) -> None:
    """Push the cotangents in `ct_of` through `eqns`, last to first.

    Operands that are literals or in `known` are values; the program is linear in the others.
    """
    before = swap_source(None)
    eqn = None
    try:
        for eqn in reversed(eqns):
            if eqn.primitive.multiple_results:
                found = [ct_of.pop(v, None) for v in eqn.outvars]
                if all(ct is None for ct in found):
                    continue
                pairs = zip(found, eqn.outvars, strict=True)
                ct: Any = [Zero(v.aval) if ct is None else ct for ct, v in pairs]
            else:
                ct = ct_of.pop(eqn.outvars[0], None)
                if ct is None:
                    continue
            if eqn.source is not None:
                swap_source(eqn.source)
            _transpose_eqn(eqn, ct, known, ct_of)
    except Exception as error:
        if eqn is not None:
            where = f", traced at {eqn.source}" if eqn.source is not None else ""
            error.add_note(f"while transposing {eqn.primitive.name}{where}")
        raise
    finally:
        swap_source(before)


def _transpose_eqn(eqn: JaxprEqn, ct: Any, known: dict[Var, Any], ct_of: dict[Var, Any]) -> None:
    operands = []
    for a in eqn.invars:
        if type(a) is Literal:
            operands.append(a.val)
        else:
            value = known.get(a)  # type: ignore[arg-type]
            operands.append(Linear(a.aval) if value is None else value)
    in_cts = eqn.primitive.transpose(ct, *operands, **eqn.params)
    for a, operand, in_ct in zip(eqn.invars, operands, in_cts, strict=True):
        if type(operand) is Linear and in_ct is not None and type(in_ct) is not Zero:
            accumulate(ct_of, a, in_ct)  # type: ignore[arg-type]


def transpose_jaxpr(
    closed: ClosedJaxpr, linear: tuple[bool, ...], ct_given: tuple[bool, ...]
) -> tuple[ClosedJaxpr, tuple[bool, ...]]:
    """The program from known inputs and given cotangents to cotangents of the linear inputs.

    Returns it with, per linear input, whether a cotangent reaches it (only those are outputs).
    """
    key = ("transpose", linear, ct_given)
    if key not in closed.derived:
        closed.derived[key] = _transpose_jaxpr(closed, linear, ct_given)
    return closed.derived[key]


def _transpose_jaxpr(
    closed: ClosedJaxpr, linear: tuple[bool, ...], ct_given: tuple[bool, ...]
) -> tuple[ClosedJaxpr, tuple[bool, ...]]:
    jaxpr = closed.jaxpr
    known_vars = [v for v, is_linear in zip(jaxpr.invars, linear, strict=True) if not is_linear]
    linear_vars = [v for v, is_linear in zip(jaxpr.invars, linear, strict=True) if is_linear]
    reached: list[bool] = []

    def backward(*args: Any) -> list[Any]:
        known = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        known.update(zip(known_vars, args[: len(known_vars)], strict=True))
        cts = iter(args[len(known_vars) :])
        out_cts = [
            next(cts) if given else Zero(v.aval)
            for v, given in zip(jaxpr.outvars, ct_given, strict=True)
        ]
        ct_of = seed(jaxpr.outvars, out_cts)
        backward_pass(_computed(jaxpr, known, linear_vars), known, ct_of)
        reached.extend(v in ct_of for v in linear_vars)
        return [ct_of[v] for v in linear_vars if v in ct_of]

    ct_avals = [v.aval for v, given in zip(jaxpr.outvars, ct_given, strict=True) if given]
    program = trace_to_jaxpr(backward, [*(v.aval for v in known_vars), *ct_avals], what="transpose")
    return program, tuple(reached)


def _computed(jaxpr: Jaxpr, known: dict[Var, Any], linear_vars: Sequence[Var]) -> list[JaxprEqn]:
    """Compute into `known` what depends on known inputs alone; return the equations of the rest."""
    unknown = set(linear_vars)
    rest = []
    before = swap_source(None)
    try:
        for eqn in jaxpr.eqns:
            if not unknown.isdisjoint(eqn.invars):
                unknown.update(eqn.outvars)
                rest.append(eqn)
                continue
            swap_source(eqn.source)
            operands = [a.val if type(a) is Literal else known[a] for a in eqn.invars]  # type: ignore[index]
            out = eqn.primitive(*operands, **eqn.params)
            results = out if eqn.primitive.multiple_results else [out]
            known.update(zip(eqn.outvars, results, strict=True))
    finally:
        swap_source(before)
    return rest
