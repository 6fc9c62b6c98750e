"""Is this jaxpr well formed? Run after every pass under test, and on any program by a user.

A program is well formed if every variable is assigned once, before it is used, every equation's
result types are what its primitive computes from its operand types, and constants match their
variables.
"""

from __future__ import annotations

import numpy as np

from functrans.errors import JaxprError
from functrans.ir import Atom, ClosedJaxpr, Jaxpr, JaxprEqn, Literal, ShapedArray, Var, sub_jaxprs


def check_jaxpr(program: ClosedJaxpr | Jaxpr, after: str = "") -> None:
    """Raise JaxprError, naming the equation, if `program` is not well formed."""
    where = f" after {after}" if after else ""
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    if isinstance(program, ClosedJaxpr):
        _check_consts(program, where)
    known: set[Var] = set()
    for var in [*jaxpr.constvars, *jaxpr.invars]:
        _define(var, known, "an input", where)
    for eqn in jaxpr.eqns:
        for atom in eqn.invars:
            _check_use(atom, known, f"{eqn}", where)
        _check_types(eqn, where)
        for var in eqn.outvars:
            _define(var, known, f"{eqn}", where)
        for _, sub in sub_jaxprs(eqn.params):
            check_jaxpr(sub, after)
    for atom in jaxpr.outvars:
        _check_use(atom, known, "the outputs", where)


def _check_consts(closed: ClosedJaxpr, where: str) -> None:
    if len(closed.consts) != len(closed.jaxpr.constvars):
        raise JaxprError(
            f"{len(closed.jaxpr.constvars)} constant variables but {len(closed.consts)} constant "
            f"values{where}."
        )
    for var, value in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        aval = getattr(value, "aval", None) or ShapedArray(np.shape(value), np.asarray(value).dtype)
        if aval != var.aval:
            raise JaxprError(f"a constant {aval} is bound to a variable {var.aval}{where}.")


def _define(var: Var, known: set[Var], by: str, where: str) -> None:
    if var in known:
        raise JaxprError(f"{var} is assigned twice{where}, the second time by {by}.")
    known.add(var)


def _check_use(atom: Atom, known: set[Var], by: str, where: str) -> None:
    if type(atom) is Var and atom not in known:
        raise JaxprError(f"{by} uses {atom}, which is not defined before it{where}.")
    if type(atom) is Literal and np.shape(atom.val) != atom.aval.shape:
        raise JaxprError(f"{by} has the literal {atom.val!r} typed {atom.aval}{where}.")


def _check_types(eqn: JaxprEqn, where: str) -> None:
    avals = eqn.primitive.abstract_eval(*[a.aval for a in eqn.invars], **eqn.params)
    computed = list(avals) if eqn.primitive.multiple_results else [avals]
    declared = [v.aval for v in eqn.outvars]
    if computed != declared:
        raise JaxprError(f"{eqn} declares {declared}, its primitive computes {computed}{where}.")
