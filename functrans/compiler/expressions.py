"""Values as expressions: what one element is, as a function of an index.

Every variable of a jaxpr is either *stored* in a buffer or an *expression*. Broadcasts,
permutations, slices and their like only change the index and cost nothing; elementwise operations
emit one scalar instruction; whoever stores a value pulls its expression into a loop nest.
`choose_stored` decides which variables are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import loop_ir as ir
from functrans.compiler import scalar_math
from functrans.compiler.open_nests import Scope
from functrans.ir import Atom, ClosedJaxpr, JaxprEqn, Literal, Var
from functrans.ops.base import Elementwise

EXPENSIVE = frozenset(
    "exp exp2 expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh "
    "arccosh arctanh logistic erf erfc lgamma pow atan2 hypot cbrt div sqrt rsqrt mod fmod "
    "floor_divide reciprocal".split()
)
EXPRESSION_LIMIT = 40  # operations pulled into one expression before a value is stored

Index = tuple[ir.Affine, ...]


# ---------------------------------------------------------------------------- index maps

IndexMap = Callable[[JaxprEqn, Index], Index]


def _broadcast(eqn: JaxprEqn, index: Index) -> Index:
    dims = eqn.params["broadcast_dimensions"]
    shape = eqn.invars[0].aval.shape
    zero = ir.Affine()
    return tuple(zero if n == 1 else index[d] for n, d in zip(shape, dims, strict=True))


def _permute(eqn: JaxprEqn, index: Index) -> Index:
    out: list[Any] = [None] * len(index)
    for i, axis in enumerate(eqn.params["permutation"]):
        out[axis] = index[i]
    return tuple(out)


def _scaled(a: ir.Affine, factor: int, offset: int) -> ir.Affine:
    terms = tuple((n, c * factor) for n, c in a.terms)
    return ir.Affine(terms, a.offset * factor + offset)


def _slice(eqn: JaxprEqn, index: Index) -> Index:
    strides = eqn.params["strides"] or (1,) * len(index)
    starts = eqn.params["start_indices"]
    return tuple(_scaled(a, s, o) for a, s, o in zip(index, strides, starts, strict=True))


def _rev(eqn: JaxprEqn, index: Index) -> Index:
    shape, dims = eqn.invars[0].aval.shape, eqn.params["dimensions"]
    return tuple(_scaled(a, -1, shape[i] - 1) if i in dims else a for i, a in enumerate(index))


def _unit_reshape(eqn: JaxprEqn, index: Index) -> Index:
    """A reshape that only adds or drops extents of 1."""
    source, target = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    kept = iter([a for a, n in zip(index, target, strict=True) if n != 1])
    return tuple(next(kept) if n != 1 else ir.Affine() for n in source)


def is_unit_reshape(eqn: JaxprEqn) -> bool:
    """Whether a reshape is an index map."""
    shapes = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    source, target = ([n for n in s if n != 1] for s in shapes)
    return source == target


INDEX_MAPS: dict[str, IndexMap] = {
    "broadcast_in_dim": _broadcast,
    "permute": _permute,
    "slice": _slice,
    "rev": _rev,
    "reshape": _unit_reshape,
}


def is_index_map(eqn: JaxprEqn) -> bool:
    """Whether the equation only says where its elements come from."""
    name = eqn.primitive.name
    return name in INDEX_MAPS and (name != "reshape" or is_unit_reshape(eqn))


def is_elementwise(eqn: JaxprEqn) -> bool:
    """Whether the equation is one scalar instruction per element, on native dtypes."""
    p = eqn.primitive
    return isinstance(p, Elementwise) and eqn_is_native(eqn) and scalar_word(p) is not None


def scalar_word(primitive: Elementwise) -> str | None:
    """The word of the scalar vocabulary for a primitive; `_element` spells out "square"."""
    if primitive.name == "square":
        return "square"
    word = primitive.scalar
    return word if word and scalar_math.is_native(word, [np.dtype(np.float64)]) else None


def eqn_is_native(eqn: JaxprEqn) -> bool:
    """Whether all values of an equation are of dtypes that loops handle."""
    return all(is_native_dtype(a.aval.dtype) for a in [*eqn.invars, *eqn.outvars])


def is_native_dtype(dtype: np.dtype) -> bool:
    """Booleans, integers, f32 and f64."""
    return dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize in (4, 8))


# ---------------------------------------------------------------------------- elements


class Expressions:
    """What is known of each variable while a program is built."""

    def __init__(self, closed: ClosedJaxpr):
        self.closed = closed
        self.defined_by: dict[Var, JaxprEqn] = {}
        for eqn in closed.eqns:
            self.defined_by.update(dict.fromkeys(eqn.outvars, eqn))
        self.buffers: dict[Var, ir.Buffer] = {}
        self.stored = choose_stored(closed)
        self.count = 0

    def buffer(self, var: Var, hint: str = "t") -> ir.Buffer:
        """The buffer of a stored variable, made when first asked for."""
        if var not in self.buffers:
            self.count += 1
            name = f"{hint}{self.count}"
            self.buffers[var] = ir.Buffer(name, var.aval.shape, var.aval.dtype)
        return self.buffers[var]

    def element(self, scope: Scope, atom: Atom, index: Index) -> ir.Operand:
        """The scalar that is `atom[index]`, emitted into `scope` if it is not there yet."""
        if type(atom) is Literal:
            return ir.Const(np.asarray(atom.val, atom.aval.dtype)[()])
        key = (atom, index)
        found = scope.memo.get(key)
        if found is None:
            found = scope.memo[key] = self._element(scope, atom, index)  # type: ignore[arg-type]
        return found

    def _element(self, scope: Scope, var: Var, index: Index) -> ir.Operand:
        if var in self.buffers and var not in scope.writing:
            return scope.load(self.buffers[var], index)
        eqn = self.defined_by[var]
        name = eqn.primitive.name
        if is_index_map(eqn):
            return self.element(scope, eqn.invars[0], INDEX_MAPS[name](eqn, index))
        if name == "iota":
            return scope.index_value(index[eqn.params["dimension"]], var.aval.dtype)
        if name == "pad":
            return self._pad(scope, eqn, index)
        args = [self.element(scope, a, index if a.aval.shape else ()) for a in eqn.invars]
        if name == "square":
            return scope.let("mul", [args[0], args[0]], var.aval.dtype)
        return scope.let(scalar_word(eqn.primitive), args, var.aval.dtype)  # type: ignore[arg-type]

    def _pad(self, scope: Scope, eqn: JaxprEqn, index: Index) -> ir.Operand:
        """`x` inside, the padding value outside: a load that is guarded, then a choice."""
        x, value = eqn.invars
        inside: str | None = None
        place = []
        i64, boolean = np.dtype(np.int64), np.dtype(bool)
        for a, (low, high, _), n in zip(index, eqn.params["config"], x.aval.shape, strict=True):
            moved = _scaled(a, 1, -low)
            place.append(moved)
            at = scope.index_value(moved, i64)
            for op, bound in [("ge", 0)] * (low > 0) + [("lt", n)] * (high > 0):
                test = scope.let(op, [at, ir.Const(np.int64(bound))], boolean)
                inside = test if inside is None else scope.let("and", [inside, test], boolean)
        if inside is None:
            return self.element(scope, x, tuple(place))
        loaded = scope.load(self.buffers[x], tuple(place), guard=inside)  # type: ignore[index]
        padding = self.element(scope, value, ())
        return scope.let("select", [inside, loaded, padding], x.aval.dtype)


# ---------------------------------------------------------------------------- what is stored


def choose_stored(closed: ClosedJaxpr) -> set[Var]:
    """The variables that get a buffer: outputs, what only buffers can serve, what is worth keeping.

    Everything that is not an expression is stored; so are operands of what reads whole buffers,
    expensive values with several users, and expressions that have grown too long.
    """
    uses: dict[Var, int] = {}
    for eqn in closed.eqns:
        for a in {a for a in eqn.invars if type(a) is Var}:
            uses[a] = uses.get(a, 0) + 1
    stored = {a for a in closed.jaxpr.outvars if type(a) is Var}
    stored.update(closed.jaxpr.invars, closed.jaxpr.constvars)
    for eqn in closed.eqns:
        if not is_expression(eqn):
            stored.update(eqn.outvars)
            stored.update(a for a in whole_operands(eqn) if type(a) is Var)
    _store_costly(closed, uses, stored)
    return stored


def _store_costly(closed: ClosedJaxpr, uses: dict[Var, int], stored: set[Var]) -> None:
    length: dict[Var, int] = {}
    costly: dict[Var, bool] = {}
    for eqn in closed.eqns:
        if not is_expression(eqn):
            continue
        var, name = eqn.outvars[0], eqn.primitive.name
        operands = [a for a in eqn.invars if type(a) is Var]
        if name == "pad":
            stored.update(operands[:1])
        inner = [a for a in operands if a not in stored]
        if name == "broadcast_in_dim" and any(
            costly.get(a, False) and a.aval.size < var.aval.size for a in inner
        ):
            # Computed once, not once per copy.
            stored.update(inner)
            inner = []
        length[var] = 1 + sum(length.get(a, 0) for a in inner)
        is_costly = any(costly.get(a, False) for a in inner) or name in EXPENSIVE
        if (uses.get(var, 0) > 1 and is_costly) or length[var] > EXPRESSION_LIMIT:
            stored.add(var)
        costly[var] = is_costly and var not in stored


def is_expression(eqn: JaxprEqn) -> bool:
    """Whether one element of the result is computed from elements of the operands."""
    name = eqn.primitive.name
    if name == "pad":
        return _is_plain_pad(eqn)
    native = eqn_is_native(eqn)
    return is_elementwise(eqn) or (native and (is_index_map(eqn) or name == "iota"))


def _is_plain_pad(eqn: JaxprEqn) -> bool:
    x = eqn.invars[0]
    plain = all(interior == 0 for _, _, interior in eqn.params["config"])
    return plain and type(x) is Var and x.aval.size > 0 and eqn_is_native(eqn)


def whole_operands(eqn: JaxprEqn) -> Sequence[Atom]:
    """The operands an equation reads as buffers, not element by element."""
    name = eqn.primitive.name
    if eqn_is_native(eqn) and (name.startswith("reduce_") or name == "concatenate"):
        return ()
    return eqn.invars
