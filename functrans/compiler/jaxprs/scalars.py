"""A program of small arrays as one of scalars: every element is a variable.

    { lambda ; a:f64[2]. let b:f64[2] = sin a in (b,) }
    { lambda ; a:f64[] b:f64[]. let c:f64[] = sin a; d:f64[] = sin b in (c, d) }

The body of a loop over a state of a few numbers becomes straight-line code, which can stay in
registers from iteration to iteration. Operations that only move elements cost nothing: their own
NumPy code moves the variables.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import ops
from functrans.compiler.jaxprs.simplify import inline_calls, simplify
from functrans.interpreters.staging import trace_to_jaxpr
from functrans.ir import Atom, ClosedJaxpr, JaxprEqn, Literal, ShapedArray, Var
from functrans.ops.axes import BroadcastInDim, Permute, Reshape, Rev
from functrans.ops.structural import Concatenate, Iota, Slice

MOST_ELEMENTS = 32  # of an array
MOST_EQUATIONS = 1500  # of scalars
MOST_IN_BRANCHES = 200  # of a conditional of which all branches are computed
_MOVES = BroadcastInDim, Reshape, Permute, Rev, Slice, Concatenate
_REDUCTIONS = {"reduce_sum": ops.add, "reduce_prod": ops.mul, "reduce_max": ops.max,
               "reduce_min": ops.min, "reduce_or": ops.or_, "reduce_and": ops.and_}  # fmt: skip


def scalarized(closed: ClosedJaxpr) -> ClosedJaxpr | None:
    """The program from elements of inputs to elements of outputs; None if it is too large."""
    closed = inline_calls(closed)
    if not _is_small(closed) or _count(closed) > MOST_EQUATIONS:
        return None
    avals = [ShapedArray((), a.dtype) for a in closed.in_avals for _ in range(a.size)]
    return simplify(trace_to_jaxpr(functools.partial(_run, closed), avals, what="scalars"))


def _is_small(closed: ClosedJaxpr) -> bool:
    """Whether all arrays are, and all operations are known here."""
    atoms = [*closed.jaxpr.invars, *closed.jaxpr.constvars]
    atoms += [v for eqn in closed.eqns for v in eqn.outvars]
    fits = all(a.aval.size <= MOST_ELEMENTS for a in atoms)
    return fits and all(map(_is_supported, closed.eqns))


def _is_supported(eqn: JaxprEqn) -> bool:
    primitive = eqn.primitive
    if primitive.name == "cond":
        branches = [inline_calls(b) for b in eqn.params["branches"]]
        return all(map(_is_small, branches)) and sum(map(_count, branches)) <= MOST_IN_BRANCHES
    if primitive.name in _REDUCTIONS or primitive.name == "dot_general":
        return all(a.aval.size for a in eqn.invars)  # else sums of nothing
    return bool(getattr(primitive, "scalar", None)) or isinstance(primitive, (*_MOVES, Iota))


def _count(closed: ClosedJaxpr) -> int:
    """About how many equations there will be."""
    total = 0
    for eqn in closed.eqns:
        size = sum(v.aval.size for v in eqn.outvars)
        if eqn.primitive.name == "cond":
            size += sum(_count(inline_calls(b)) for b in eqn.params["branches"])
        if eqn.primitive.name == "dot_general":
            (axes, _), _ = eqn.params["dimension_numbers"]
            size *= 2 * math.prod(eqn.invars[0].aval.shape[i] for i in axes)
        total += eqn.invars[0].aval.size if eqn.primitive.name in _REDUCTIONS else size
    return total


def _run(closed: ClosedJaxpr, *args: Any) -> list[Any]:
    env: dict[Var, np.ndarray] = {}
    elements = iter(args)
    for var in closed.jaxpr.invars:
        env[var] = _array(list(itertools.islice(elements, var.aval.size)), var.aval.shape)
    for var, x in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        env[var] = _array([np.asarray(x)[i] for i in np.ndindex(var.aval.shape)], var.aval.shape)

    def value(a: Atom) -> np.ndarray:
        if type(a) is Literal:
            return _array([a.val] * a.aval.size, a.aval.shape)
        return env[a]  # type: ignore[index]

    for eqn in closed.eqns:
        operands = [value(a) for a in eqn.invars]
        if eqn.primitive.name == "cond":
            env.update(zip(eqn.outvars, _selected(eqn, *operands), strict=True))
        else:
            env[eqn.outvars[0]] = _equation(eqn, operands)
    return [x for a in closed.jaxpr.outvars for x in value(a).ravel()]


def _array(elements: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray:
    out = np.empty(len(elements), object)
    for i, x in enumerate(elements):  # one by one: NumPy would look for arrays in a list
        out[i] = x
    return out.reshape(shape)


def _equation(eqn: JaxprEqn, operands: list[np.ndarray]) -> np.ndarray:
    primitive, shape = eqn.primitive, eqn.outvars[0].aval.shape
    if isinstance(primitive, _MOVES):
        return _moved(primitive, operands, eqn.params)
    if isinstance(primitive, Iota):
        values = np.asarray(primitive.impl(**eqn.params))
        return _array([values[i] for i in np.ndindex(shape)], shape)
    if primitive.name == "dot_general":
        lhs, rhs = operands
        return _product(lhs, rhs, eqn.params["dimension_numbers"]).reshape(shape)
    if primitive.name in _REDUCTIONS:
        combine = _REDUCTIONS[primitive.name]
        return _reduced(combine, operands[0], eqn.params["axes"]).reshape(shape)
    rows = [np.broadcast_to(x, shape).ravel() for x in operands]
    results = [primitive(*scalars, **eqn.params) for scalars in zip(*rows, strict=True)]
    return _array(results, shape)


def _selected(eqn: JaxprEqn, index: np.ndarray, *operands: np.ndarray) -> list[np.ndarray]:
    """The results of all branches, of which the index chooses: a branch costs more."""
    elements = [x for operand in operands for x in operand.ravel()]
    cases = [_run(inline_calls(b), *elements) for b in eqn.params["branches"]]
    chosen = cases[0]
    for i, case in enumerate(cases[1:], 1):
        is_this = ops.eq(index[()], np.int64(i))
        chosen = [ops.select(is_this, a, b) for a, b in zip(case, chosen, strict=True)]
    rest = iter(chosen)
    return [_array(list(itertools.islice(rest, v.aval.size)), v.aval.shape) for v in eqn.outvars]


def _moved(primitive: Any, operands: list[np.ndarray], params: dict[str, Any]) -> np.ndarray:
    """What NumPy does with the numbers of the elements, it does with the elements."""
    elements = [x for operand in operands for x in operand.ravel()]
    begins = itertools.accumulate((x.size for x in operands), initial=0)
    numbers = [
        np.arange(begin, begin + x.size).reshape(x.shape)
        for begin, x in zip(begins, operands, strict=False)
    ]
    places = np.asarray(primitive.impl(*numbers, **params))
    return _array([elements[i] for i in places.ravel()], places.shape)


def _reduced(combine: Callable[..., Any], x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    kept = [i for i in range(x.ndim) if i not in axes]
    rows = x.transpose([*kept, *axes]).reshape([x.shape[i] for i in kept] + [-1])
    shape = rows.shape[:-1]
    return _array([functools.reduce(combine, rows[i]) for i in np.ndindex(shape)], shape)


def _product(lhs: np.ndarray, rhs: np.ndarray, numbers: Any) -> np.ndarray:
    """Sums of products, in the order of the contracted axes."""
    (l_sum, r_sum), (l_batch, r_batch) = numbers
    l_free = [i for i in range(lhs.ndim) if i not in (*l_sum, *l_batch)]
    r_free = [i for i in range(rhs.ndim) if i not in (*r_sum, *r_batch)]
    batch = int(np.prod([lhs.shape[i] for i in l_batch], dtype=int))
    count = int(np.prod([lhs.shape[i] for i in l_sum], dtype=int))
    a = lhs.transpose([*l_batch, *l_free, *l_sum]).reshape(batch, -1, count)
    b = rhs.transpose([*r_batch, *r_free, *r_sum]).reshape(batch, -1, count)
    out = []
    for i, j, k in itertools.product(range(batch), range(a.shape[1]), range(b.shape[1])):
        terms = [ops.mul(x, y) for x, y in zip(a[i, j], b[i, k], strict=True)]
        out.append(functools.reduce(ops.add, terms))
    return _array(out, (len(out),))
