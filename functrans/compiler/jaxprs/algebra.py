"""Rewriting equations: constants are folded, and algebra that changes no bit is applied.

A rule looks at one equation and at the definitions of its operands, and answers with what the
result is (an atom that exists already), with a simpler equation, or with None. `Rewriter` walks
the program once, applies rules, and substitutes what they found in all later equations.

Rules hold for every value, nan, infinities and signed zeros included: `x - 0.0` is x but
`x + 0.0` is not, for x = -0.0. There are two freedoms: which of several nans is the result, and
the sign of the zero that `masked_mul` gives where a tangent is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.core import Primitive
from functrans.interpreters.rematerialize import name_primitive
from functrans.ir import Atom, ClosedJaxpr, JaxprEqn, Literal, ShapedArray, Var
from functrans.ops.base import Elementwise
from functrans.source_info import Source

Rule = Callable[["Rewriter", JaxprEqn], Atom | JaxprEqn | None]

# ---------------------------------------------------------------------------- the walk


class Rewriter:
    """The program being written: its equations, and what became of the variables of the old one.

    `rules` gives the rules to try for a primitive, in order.
    """

    def __init__(self, rules: Callable[[Primitive], Sequence[Rule]]):
        self.rules = rules
        self.eqns: list[JaxprEqn] = []
        self.replaced: dict[Var, Atom] = {}
        self.definitions: dict[Var, JaxprEqn] = {}
        self.nonnegative: set[Var] = set()
        self.positive: set[Var] = set()
        self.changed = False

    def current(self, atom: Atom) -> Atom:
        """What stands for an atom of the old program in the new one."""
        return self.replaced.get(atom, atom) if type(atom) is Var else atom

    def definition(self, atom: Atom, primitive: Primitive) -> JaxprEqn | None:
        """The equation that computes `atom`, if it is one of `primitive`."""
        eqn = self.definitions.get(atom) if type(atom) is Var else None
        return eqn if eqn is not None and eqn.primitive is primitive else None

    def add(self, eqn: JaxprEqn) -> None:
        """Write an equation, or what the rules make of it."""
        if self.replaced and not self.replaced.keys().isdisjoint(eqn.invars):
            eqn = eqn.replace(invars=[self.current(a) for a in eqn.invars])
            self.changed = True
        while (result := self._rewritten(eqn)) is not None:
            self.changed = True
            if type(result) is not JaxprEqn:
                self.replaced[eqn.outvars[0]] = result
                return
            eqn = result
        self.eqns.append(eqn)
        if len(eqn.outvars) == 1:
            self.definitions[eqn.outvars[0]] = eqn
            _note_sign(self, eqn)

    def _rewritten(self, eqn: JaxprEqn) -> Any:
        for rule in self.rules(eqn.primitive):
            result = rule(self, eqn)
            if result is not None:
                return result
        return None

    def emit(
        self, primitive: Primitive, operands: Sequence[Atom], params: dict[str, Any],
        source: Source | None,
    ) -> Atom:  # fmt: skip
        """Write a new equation; the atom that is its result, a literal if that is known."""
        aval = primitive.abstract_eval(*[a.aval for a in operands], **params)
        eqn = JaxprEqn(operands, [Var(aval)], primitive, params, source)
        literal = fold(self, eqn)
        if literal is not None:
            return literal
        self.add(eqn)
        return self.current(eqn.outvars[0])


def rewrite(closed: ClosedJaxpr, rules: Callable[[Primitive], Sequence[Rule]]) -> ClosedJaxpr:
    """The program after one walk with `rules`; the same object where none applied."""
    rewriter = Rewriter(rules)
    for eqn in closed.jaxpr.eqns:
        rewriter.add(eqn)
    if not rewriter.changed:
        return closed
    outvars = [rewriter.current(a) for a in closed.jaxpr.outvars]
    return ClosedJaxpr(closed.jaxpr.replace(eqns=rewriter.eqns, outvars=outvars), closed.consts)


# ---------------------------------------------------------------------------- constants


def fold(_: Rewriter, eqn: JaxprEqn) -> Literal | None:
    """The value of an elementwise equation whose operands are all literals.

    Arrays are not folded: constants are held by reference, and may change between calls. What
    NumPy refuses (an integer to a negative power) is left to be refused when the program runs.
    """
    if not isinstance(eqn.primitive, Elementwise):
        return None
    for atom in eqn.invars:
        if type(atom) is not Literal:
            return None
    try:
        with np.errstate(all="ignore"):
            out = eqn.primitive.impl(*[a.val for a in eqn.invars], **eqn.params)  # type: ignore[union-attr]
    except (ArithmeticError, ValueError):
        return None
    out = np.asarray(out)
    aval = eqn.outvars[0].aval
    if ShapedArray(out.shape, out.dtype) != aval or aval.shape:
        return None
    return Literal(out[()], aval)


def fold_constants(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Compute now the elementwise equations all of whose operands are literals."""
    return rewrite(closed, lambda primitive: (fold,))


# ---------------------------------------------------------------------------- what is known


def _is(atom: Atom, number: int) -> bool:
    """Whether `atom` is the literal `number`, which is not 0: zeros have a sign."""
    return type(atom) is Literal and bool(atom.val == number)


def _is_float(atom: Atom) -> bool:
    return atom.aval.dtype.kind == "f"


def _is_nonnegative(program: Rewriter, atom: Atom) -> bool:
    """Whether a float is known to be >= 0 (a zero of either sign) or nan."""
    if type(atom) is Literal:
        return bool(atom.val >= 0)
    return atom in program.nonnegative


def _is_positive(program: Rewriter, atom: Atom) -> bool:
    """Whether a float is known to be > 0 or nan."""
    if type(atom) is Literal:
        return bool(atom.val > 0)
    return atom in program.positive


_NEVER_NEGATIVE = {ops.exp, ops.exp2, ops.square, ops.abs, ops.logistic, ops.sqrt, ops.cosh}
_KEEP_SIGN = {ops.broadcast_in_dim, ops.reshape, ops.permute}
_SIGN_OF_OPERANDS = {ops.add, ops.mul, ops.pow, *_KEEP_SIGN}


def _note_sign(program: Rewriter, eqn: JaxprEqn) -> None:
    """Note that a float result is never negative, or is positive: see `_masked_mul`."""
    out = eqn.outvars[0]
    if out.aval.dtype.kind != "f":
        return
    primitive, operands = eqn.primitive, eqn.invars
    if primitive in _NEVER_NEGATIVE:
        program.nonnegative.add(out)
    if primitive not in _SIGN_OF_OPERANDS:
        return
    positive = [_is_positive(program, a) for a in operands]
    at_least_zero = [_is_nonnegative(program, a) for a in operands]
    if primitive in _KEEP_SIGN:
        is_positive, is_nonnegative = positive[0], at_least_zero[0]
    elif primitive is ops.add:
        # The rounded sum of such numbers is not below either of them.
        is_positive, is_nonnegative = any(positive) and all(at_least_zero), all(at_least_zero)
    elif primitive is ops.mul:
        is_positive = False  # a product can underflow to 0
        is_nonnegative = all(at_least_zero) or operands[0] is operands[1]
    else:
        is_positive, is_nonnegative = False, positive[0]  # (-0.0) ** -1 is -inf
    if is_positive:
        program.positive.add(out)
    if is_positive or is_nonnegative:
        program.nonnegative.add(out)


# ---------------------------------------------------------------------------- broadcast numbers


def _broadcast_number(program: Rewriter, atom: Atom) -> Atom | None:
    """The number that `atom` repeats, if it does."""
    eqn = program.definition(atom, ops.broadcast_in_dim)
    return eqn.invars[0] if eqn is not None and not eqn.invars[0].aval.shape else None


def _broadcast(atom: Atom, eqn: JaxprEqn) -> Atom | JaxprEqn:
    """`atom` as the result of `eqn`: repeated if it is a number and the result is an array."""
    shape = eqn.outvars[0].aval.shape
    if atom.aval.shape == shape:
        return atom
    params = {"shape": shape, "broadcast_dimensions": ()}
    return eqn.replace(primitive=ops.broadcast_in_dim, invars=[atom], params=params)


def _numbers_stay_numbers(program: Rewriter, eqn: JaxprEqn) -> Any:
    """An operation on repeated numbers takes the numbers; if there are only such, once for all."""
    if not eqn.outvars[0].aval.shape:
        return None
    numbers = [_broadcast_number(program, a) for a in eqn.invars]
    if all(n is None for n in numbers):
        return None
    operands = [a if n is None else n for a, n in zip(eqn.invars, numbers, strict=True)]
    if any(a.aval.shape for a in operands):
        return eqn.replace(invars=operands)
    return _broadcast(program.emit(eqn.primitive, operands, eqn.params, eqn.source), eqn)


# ---------------------------------------------------------------------------- arithmetic


def _forward(x: Atom, eqn: JaxprEqn) -> Any:
    """`x` where it is of the type of the result."""
    return x if x.aval == eqn.outvars[0].aval else None


def _mul(_: Rewriter, eqn: JaxprEqn) -> Any:
    x, y = eqn.invars
    if x.aval.dtype.kind == "c":  # (a + bi) * (1 + 0i) has a - b * 0 in it
        return None
    if _is(y, 1):
        return _forward(x, eqn)
    return _forward(y, eqn) if _is(x, 1) else None


def _is_neutral_zero(atom: Atom, *, negative: bool) -> bool:
    """Whether x + atom (negative: -0.0) or x - atom (0.0) is x, for every x."""
    if type(atom) is not Literal or atom.val != 0:
        return False
    if atom.aval.dtype.kind not in "fc":
        return True
    parts = [atom.val] if _is_float(atom) else [atom.val.real, atom.val.imag]
    return all(bool(np.signbit(part)) is negative for part in parts)


def _add(_: Rewriter, eqn: JaxprEqn) -> Any:
    x, y = eqn.invars
    if _is_neutral_zero(y, negative=True):
        return _forward(x, eqn)
    return _forward(y, eqn) if _is_neutral_zero(x, negative=True) else None


def _sub(_: Rewriter, eqn: JaxprEqn) -> Any:
    x, y = eqn.invars
    return _forward(x, eqn) if _is_neutral_zero(y, negative=False) else None


def _div(_: Rewriter, eqn: JaxprEqn) -> Any:
    x, y = eqn.invars
    return _forward(x, eqn) if _is_float(x) and _is(y, 1) else None


def _masked_mul(program: Rewriter, eqn: JaxprEqn) -> Any:
    """`t * d`, where no infinite or undefined `d` can meet a `t` that is zero."""
    t, d = eqn.invars
    product = eqn.replace(primitive=ops.mul)
    if type(t) is Literal and t.val != 0:
        return product
    if type(d) is Literal and np.isfinite(d.val):
        return product
    if _is_float(t) and (t is d or _is_positive(program, t)):
        return product
    return None


def _pow(_: Rewriter, eqn: JaxprEqn) -> Any:
    # NumPy computes f16 and complex powers otherwise, with other bits.
    x, exponent = eqn.invars
    if x.aval.dtype.kind == "c" or x.aval.dtype == np.float16:
        return None
    if _is(exponent, 1):
        return _forward(x, eqn)
    if _is(exponent, 2) and x.aval == eqn.outvars[0].aval:
        return eqn.replace(primitive=ops.square, invars=[x])
    return None


def _select(_: Rewriter, eqn: JaxprEqn) -> Any:
    pred, x, y = eqn.invars
    if type(pred) is Literal:
        return _broadcast(x if pred.val else y, eqn)
    return _forward(x, eqn) if x is y else None


def _first_operand(_: Rewriter, eqn: JaxprEqn) -> Any:
    return eqn.invars[0]


def _same_type(_: Rewriter, eqn: JaxprEqn) -> Any:
    """For primitives that do nothing if they change neither shape nor dtype."""
    return _forward(eqn.invars[0], eqn)


def _involution(program: Rewriter, eqn: JaxprEqn) -> Any:
    """f(f(x)) is x."""
    inner = program.definition(eqn.invars[0], eqn.primitive)
    return inner.invars[0] if inner is not None and inner.params == eqn.params else None


def _part_of_complex(position: int) -> Rule:
    def rule(program: Rewriter, eqn: JaxprEqn) -> Any:
        whole = program.definition(eqn.invars[0], ops.complex)
        return None if whole is None else _broadcast(whole.invars[position], eqn)

    return rule


# ---------------------------------------------------------------------------- structure


def _broadcast_in_dim(program: Rewriter, eqn: JaxprEqn) -> Any:
    x = eqn.invars[0]
    dims = eqn.params["broadcast_dimensions"]
    if x.aval.shape == eqn.params["shape"]:
        return x  # the dimensions increase, so they are all of them in order
    inner = program.definition(x, ops.broadcast_in_dim)
    if inner is None:
        return None
    through = tuple(dims[d] for d in inner.params["broadcast_dimensions"])
    return eqn.replace(invars=inner.invars, params={**eqn.params, "broadcast_dimensions": through})


def _broadcast_of_reshape(program: Rewriter, eqn: JaxprEqn) -> Any:
    """Axes of extent 1 need not be put in before a broadcast."""
    inner = program.definition(eqn.invars[0], ops.reshape)
    if inner is None:
        return None
    x, y = inner.invars[0].aval, inner.outvars[0].aval
    axes = [axis for axis, n in enumerate(y.shape) if n != 1]
    if x.shape != tuple(y.shape[axis] for axis in axes):
        return None
    dims = tuple(eqn.params["broadcast_dimensions"][axis] for axis in axes)
    return eqn.replace(invars=inner.invars, params={**eqn.params, "broadcast_dimensions": dims})


def _repeated(program: Rewriter, eqn: JaxprEqn) -> Any:
    """A number that is repeated, and then moved about, is repeated."""
    number = _broadcast_number(program, eqn.invars[0])
    return None if number is None else _broadcast(number, eqn)


def _reshape(program: Rewriter, eqn: JaxprEqn) -> Any:
    inner = program.definition(eqn.invars[0], ops.reshape)
    return None if inner is None else eqn.replace(invars=inner.invars)


def _permute(program: Rewriter, eqn: JaxprEqn) -> Any:
    x = eqn.invars[0]
    permutation = eqn.params["permutation"]
    if permutation == tuple(range(len(permutation))):
        return x
    inner = program.definition(x, ops.permute)
    if inner is None:
        return None
    both = tuple(inner.params["permutation"][p] for p in permutation)
    return eqn.replace(invars=inner.invars, params={"permutation": both})


def _slice(_: Rewriter, eqn: JaxprEqn) -> Any:
    # Only a slice of everything has as many elements as the operand.
    return _forward(eqn.invars[0], eqn)


def _pad(_: Rewriter, eqn: JaxprEqn) -> Any:
    x = eqn.invars[0]
    return x if all(entry == (0, 0, 0) for entry in eqn.params["config"]) else None


def _concatenate(_: Rewriter, eqn: JaxprEqn) -> Any:
    return eqn.invars[0] if len(eqn.invars) == 1 else None


def _reduce_sum(_: Rewriter, eqn: JaxprEqn) -> Any:
    if eqn.params["axes"]:
        return None
    x = eqn.invars[0]
    if not dtypes.is_inexact(x.aval.dtype):
        return x
    # Sums start at 0.0, so the sum of one -0.0 is 0.0.
    zero = Literal(np.zeros((), x.aval.dtype)[()], ShapedArray((), x.aval.dtype))
    return eqn.replace(primitive=ops.add, invars=[x, zero], params={})


# ---------------------------------------------------------------------------- the table

ALGEBRA: dict[Primitive, tuple[Rule, ...]] = {
    ops.mul: (_mul,),
    ops.add: (_add,),
    ops.sub: (_sub,),
    ops.div: (_div,),
    ops.masked_mul: (_masked_mul,),
    ops.pow: (_pow,),
    ops.neg: (_involution,),
    ops.not_: (_involution,),
    ops.conj: (_involution,),
    ops.real: (_part_of_complex(0),),
    ops.imag: (_part_of_complex(1),),
    ops.select: (_select,),
    ops.copy: (_first_operand,),
    ops.stop_gradient: (_first_operand,),
    name_primitive: (_first_operand,),
    ops.convert_element_type: (_same_type,),
    ops.broadcast_in_dim: (_broadcast_in_dim, _broadcast_of_reshape),
    ops.reshape: (_same_type, _reshape, _repeated),
    ops.permute: (_permute, _repeated),
    ops.rev: (_involution, _repeated),
    ops.slice: (_slice, _repeated),
    ops.pad: (_pad,),
    ops.concatenate: (_concatenate,),
    ops.reduce_sum: (_reduce_sum,),
}


def _rules_of(primitive: Primitive) -> tuple[Rule, ...]:
    rules = ALGEBRA.get(primitive, ())
    return (*rules, _numbers_stay_numbers) if isinstance(primitive, Elementwise) else rules


def simplify_algebra(closed: ClosedJaxpr) -> ClosedJaxpr:
    """Apply the rules of the table above to every equation."""
    return rewrite(closed, _rules_of)
