"""Which residuals are cheaper to restore than to keep.

    m = exp z; n = reduce_sum m; p = broadcast n; q = div m p; r = div 1 p     (a row-wise softmax)

Reverse mode wants `m`, `q` and `r`, three arrays. `m` costs too much to compute again. The others
are a few divisions of `m` and of `n`, which is a column: `m` and `n` are kept instead.
"""

from __future__ import annotations

from collections.abc import Iterable

from functrans import ops
from functrans.ir import Atom, Jaxpr, JaxprEqn, Var

_REARRANGING = frozenset(
    (ops.broadcast_in_dim, ops.reshape, ops.permute, ops.iota, ops.convert_element_type)
)
_ARITHMETIC = frozenset(
    (
        ops.add, ops.sub, ops.mul, ops.masked_mul, ops.div, ops.neg, ops.square, ops.reciprocal,
        ops.abs, ops.sign, ops.max, ops.min, ops.select, ops.stop_gradient, ops.copy, ops.real,
        ops.imag, ops.conj, ops.complex, ops.eq, ops.ne, ops.lt, ops.le, ops.gt, ops.ge, ops.and_,
        ops.or_, ops.not_,
    )
)  # fmt: skip
_LONGEST = 12  # equations: about what one transcendental function costs


def restorable(jaxpr: Jaxpr, wanted: Iterable[Atom]) -> set[Var]:
    """The values that need not be kept for `wanted`, residuals of the program.

    Restoring one takes cheap equations, and values that are kept anyway or take less memory.
    """
    defined = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
    residuals = {a for a in wanted if type(a) is Var}
    cheap = [v for v, eqn in defined.items() if v in residuals and _is_cheap(eqn)]
    there = residuals.difference(cheap)
    restored: set[Var] = set()
    for var in cheap:
        inner, missing = _expression(var, defined, there)
        saved = _nbytes(var) - sum(map(_nbytes, missing))
        is_free = all(defined[v].primitive in _REARRANGING for v in inner)
        if len(inner) <= _LONGEST and (saved > 0 or (saved == 0 and is_free)):
            restored |= inner
            there |= missing
        else:
            there.add(var)
    return restored


def _is_cheap(eqn: JaxprEqn) -> bool:
    return eqn.primitive in _REARRANGING or eqn.primitive in _ARITHMETIC


def _nbytes(var: Var) -> int:
    return var.aval.size * var.aval.dtype.itemsize


def _expression(
    var: Var, defined: dict[Var, JaxprEqn], there: set[Var]
) -> tuple[set[Var], set[Var]]:
    """The values that cheap equations compute on the way to `var`, and what else they read."""
    inner, missing = {var}, set()
    stack = [var]
    while stack and len(inner) <= _LONGEST:
        for a in defined[stack.pop()].invars:
            if type(a) is not Var or a in there or a in inner:
                continue
            if a in defined and _is_cheap(defined[a]):
                inner.add(a)
                stack.append(a)
            else:
                missing.add(a)
    return inner, missing
