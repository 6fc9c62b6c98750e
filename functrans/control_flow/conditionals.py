"""`cond` and `switch`: one of several programs, chosen at run time.

All branches take the same operands and return the same types. In reverse mode each branch keeps
values of its own; they share slots of equal types, so what is kept is that of the largest branch.
Where the choice differs along a `vmap`, all branches run and the results are selected.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import core, ops, pytree
from functrans.arguments import leaf_names
from functrans.config import switches
from functrans.control_flow.bodies import (
    Body,
    ControlFlow,
    arguments_of,
    run_compiled,
    trace_body,
    what_of,
)
from functrans.core import Linear, Tracer, Zero, get_aval, instantiate, is_weak
from functrans.interpreters.batching import batch_jaxpr, move_to
from functrans.interpreters.jvp import jvp_jaxpr
from functrans.interpreters.linearize import LinearTrace, partial_eval_jaxpr
from functrans.interpreters.staging import eval_jaxpr, trace_to_jaxpr
from functrans.interpreters.transpose import transpose_jaxpr
from functrans.ir import ClosedJaxpr, ShapedArray

_INDEX = np.dtype(np.int64)
Branches = tuple[ClosedJaxpr, ...]


class Cond(ControlFlow):
    """`branches[index](*operands)` for an int64 index, which is in range."""

    def abstract_eval(  # type: ignore[override]
        self, index: ShapedArray, *avals: ShapedArray, branches: Branches
    ) -> list[ShapedArray]:
        return branches[0].out_avals

    def host_impl(self, index: Any, *args: Any, branches: Branches) -> list[Any]:  # type: ignore[override]
        return run_compiled(branches[int(index)], args)

    def jvp(self, primals: Any, tangents: Any, *, branches: Branches) -> Any:  # type: ignore[override]
        index, *rest = primals
        moving = tuple(type(t) is not Zero for t in tangents[1:])
        wanted = _any_of(jvp_jaxpr(b, moving)[1] for b in branches)
        both = tuple(jvp_jaxpr(b, moving, wanted)[0] for b in branches)
        given = [t for t in tangents[1:] if type(t) is not Zero]
        found = self(index, *rest, *given, branches=both)
        n, moved = len(wanted), iter(found[len(wanted) :])
        return found[:n], [
            next(moved) if w else Zero(a.tangent_aval())
            for w, a in zip(wanted, branches[0].out_avals, strict=True)
        ]

    def batch_named(  # type: ignore[override]
        self, size: int, args: Any, dims: Any, axis_name: Any, *, branches: Branches
    ) -> Any:
        (index, *rest), (index_dim, *rest_dims) = args, dims
        batched = tuple(d is not None for d in rest_dims)
        moved = [move_to(x, d, 0, size) if b else x
                 for x, d, b in zip(rest, rest_dims, batched, strict=True)]  # fmt: skip
        wanted = _any_of(batch_jaxpr(b, size, batched, axis_name)[1] for b in branches)
        if index_dim is None:
            programs = [batch_jaxpr(b, size, batched, axis_name, wanted)[0] for b in branches]
            outs = self(index, *moved, branches=tuple(programs))
            return outs, [0 if w else None for w in wanted]
        wanted = (True,) * len(wanted)
        programs = [batch_jaxpr(b, size, batched, axis_name, wanted)[0] for b in branches]
        index = move_to(index, index_dim, 0, size)
        cases = [eval_jaxpr(p.jaxpr, p.consts, *moved) for p in programs]
        outs = [_selected(index, list(ys)) for ys in zip(*cases, strict=True)]
        return outs, [0] * len(outs)

    # ------------------------------------------------------------------ reverse mode

    def partial_eval(self, trace: LinearTrace, args: Any, params: dict[str, Any]) -> list[Any]:  # type: ignore[override]
        """Run what is known of the branch now, record the linear rest of it."""
        branches: Branches = params["branches"]
        index, *rest = args
        unknown = tuple(trace.is_unknown(x) for x in rest)
        wanted = _any_of(partial_eval_jaxpr(b, unknown)[2] for b in branches)
        splits = [partial_eval_jaxpr(b, unknown, wanted=wanted) for b in branches]
        num_known = sum(not u for u in wanted)
        known, linear = _with_slots(splits, num_known)
        known_args = [x for x, u in zip(rest, unknown, strict=True) if not u]
        with core.current(trace.parent):
            found = self(index, *known_args, branches=known)
        residuals = [trace.atom(r) for r in found[num_known:]]
        atoms = [trace.atom(x) for x, u in zip(rest, unknown, strict=True) if u]
        operands = [trace.atom(index), *residuals, *atoms]
        tracers = iter(trace.record(self, operands, {"branches": linear}, linear[0].out_avals))
        knowns = iter(found[:num_known])
        return [next(tracers) if u else next(knowns) for u in wanted]

    def transpose(self, ct: Any, index: Any, *args: Any, branches: Branches) -> list[Any]:  # type: ignore[override]
        linear = tuple(type(x) is Linear for x in args)
        given = tuple(type(c) is not Zero for c in ct)
        backward = tuple(_transposed(b, linear, given) for b in branches)
        known = [x for x in args if type(x) is not Linear]
        found = self(index, *known, *[c for c in ct if type(c) is not Zero], branches=backward)
        cts = iter(found)
        return [None, *(next(cts) if is_linear else None for is_linear in linear)]


cond_primitive = Cond("cond")


def _any_of(flags: Any) -> tuple[bool, ...]:
    return tuple(any(column) for column in zip(*flags, strict=True))


def _selected(index: Any, cases: list[Any]) -> Any:
    """For each row of a batch the case that its index names."""
    result = cases[0]
    shape = get_aval(result).shape
    for i, case in enumerate(cases[1:], 1):
        chosen = ops.eq(index, np.int64(i))
        if len(shape) > 1:
            chosen = ops.broadcast_in_dim(chosen, shape=shape, broadcast_dimensions=(0,))
        result = ops.select(chosen, case, result)
    return result


def _with_slots(
    splits: Sequence[tuple[ClosedJaxpr, ClosedJaxpr, Any]], num_known: int
) -> tuple[Branches, Branches]:
    """Known programs that return residuals in slots common to all, and linear ones that take them.

    A slot that a branch does not use is an array of zeros.
    """
    counts: Counter[ShapedArray] = Counter()
    for known, _, _ in splits:
        counts |= Counter(known.out_avals[num_known:])
    slots = list(counts.elements())
    knowns, linears = [], []
    for known, linear, _ in splits:
        avals = known.out_avals[num_known:]
        free = {a: [i for i, s in enumerate(slots) if s == a] for a in counts}
        places = [free[a].pop(0) for a in avals]
        knowns.append(_known_in_slots(known, num_known, places, slots))
        linears.append(_linear_from_slots(linear, places, slots))
    return tuple(knowns), tuple(linears)


def _known_in_slots(
    known: ClosedJaxpr, num_known: int, places: Sequence[int], slots: Sequence[ShapedArray]
) -> ClosedJaxpr:
    def run(*args: Any) -> list[Any]:
        found = eval_jaxpr(known.jaxpr, known.consts, *args)
        at = dict(zip(places, found[num_known:], strict=True))
        filled = [at[i] if i in at else np.zeros(s.shape, s.dtype) for i, s in enumerate(slots)]
        return [*found[:num_known], *filled]

    return trace_to_jaxpr(run, known.in_avals, what="a branch of cond")


def _linear_from_slots(
    linear: ClosedJaxpr, places: Sequence[int], slots: Sequence[ShapedArray]
) -> ClosedJaxpr:
    count = len(places)

    def run(*args: Any) -> list[Any]:
        residuals = [args[i] for i in places]
        return eval_jaxpr(linear.jaxpr, linear.consts, *residuals, *args[len(slots) :])

    return trace_to_jaxpr(run, [*slots, *linear.in_avals[count:]], what="a branch of cond")


def _transposed(
    closed: ClosedJaxpr, linear: tuple[bool, ...], given: tuple[bool, ...]
) -> ClosedJaxpr:
    """The transposed branch with a cotangent of every linear operand, zeros where none flows."""
    key = ("transposed branch", linear, given)
    if key not in closed.derived:
        backward, reached = transpose_jaxpr(closed, linear, given)
        avals = [a for a, is_linear in zip(closed.in_avals, linear, strict=True) if is_linear]

        def run(*args: Any) -> list[Any]:
            found = iter(eval_jaxpr(backward.jaxpr, backward.consts, *args))
            return [
                next(found) if r else instantiate(Zero(a))
                for a, r in zip(avals, reached, strict=True)
            ]

        program = trace_to_jaxpr(run, backward.in_avals, what="transpose of cond")
        closed.derived[key] = program
    return closed.derived[key]


# ---------------------------------------------------------------------------- the functions


def switch(index: Any, branches: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """`branches[index](*operands)`; an index out of range means the first or the last branch.

    >>> import numpy as np
    >>> switch(np.int64(1), [np.sin, np.square], 3.0)
    np.float64(9.0)

    Raises TypeError for branches that return different types, naming the first difference.
    """
    if not branches:
        raise ValueError("switch needs at least one branch.")
    aval = get_aval(index)
    if aval.shape or aval.dtype.kind not in "iu":
        raise TypeError(f"switch: the index must be an integer scalar, got {aval}.")
    last = len(branches) - 1
    if switches.jit_disabled and not isinstance(index, Tracer):
        return branches[min(max(int(index), 0), last)](*operands)
    index = _array(index)
    if aval.dtype == np.uint64:  # may be more than an int64 holds
        index = ops.min(index, np.uint64(last))
    index = ops.convert_element_type(index, dtype=_INDEX)
    index = ops.min(ops.max(index, np.int64(0)), np.int64(last))
    return _branch("switch", index, branches, operands)


def cond(pred: Any, true_fun: Any, false_fun: Any, *operands: Any, operand: Any = None) -> Any:
    """`true_fun(*operands) if pred else false_fun(*operands)` for a traced `pred`.

    Also `cond(pred, true_operand, true_fun, false_operand, false_fun)`.

    >>> import numpy as np
    >>> cond(np.bool(False), np.sin, np.square, 3.0)
    np.float64(9.0)

    Raises TypeError for branches that return different types, naming the first difference.
    """
    if not callable(true_fun) and len(operands) == 2 and callable(false_fun):
        x, f, (y, g) = true_fun, false_fun, operands
        true_fun, false_fun, operands = (lambda a, b: f(a)), (lambda a, b: g(b)), (x, y)
    if operand is not None:
        operands = (operand,)
    aval = get_aval(pred)
    if aval.shape or aval.dtype.kind not in "biu":
        raise TypeError(
            f"cond: the predicate must be a boolean scalar, got {aval}.\n  Reduce it: np.all(p), "
            "np.any(p); to choose element by element use functrans.numpy.where."
        )
    if switches.jit_disabled and not isinstance(pred, Tracer):
        return (true_fun if pred else false_fun)(*operands)
    if aval.dtype.kind != "b":
        pred = ops.ne(_array(pred), aval.dtype.type(0))
    index = ops.convert_element_type(_array(pred), dtype=_INDEX)
    return _branch("cond", index, (false_fun, true_fun), operands)


def _array(x: Any) -> Any:
    return get_aval(x).dtype.type(x) if isinstance(x, (bool, int)) else x


def _branch(
    kind: str, index: Any, functions: Sequence[Callable[..., Any]], operands: Sequence[Any]
) -> Any:
    leaves, tree = arguments_of(kind, "operands", tuple(operands))
    avals, weak = [get_aval(x) for x in leaves], [is_weak(x) for x in leaves]
    bodies = [trace_body(f, tree, avals, weak, what_of(f"{kind} with", f)) for f in functions]
    _check_branches(kind, functions, bodies)
    dtypes = [
        np.result_type(*(_promoted_as(b.jaxpr.out_avals[i].dtype, b.weak[i]) for b in bodies))
        for i in range(len(bodies[0].weak))
    ]
    consts = [c for b in bodies for c in b.consts]
    before = 0
    programs = []
    for b in bodies:
        programs.append(_with_all_consts(b, before, consts, avals, dtypes))
        before += len(b.consts)
    outs = cond_primitive(index, *consts, *leaves, branches=tuple(programs))
    return bodies[0].tree.unflatten(outs)


def _promoted_as(dtype: np.dtype, weak: bool) -> Any:
    """What stands for a result in NumPy's promotion: a Python number where it is weak."""
    return dtype.type(0).item() if weak else dtype


def _with_all_consts(
    body: Body, before: int, consts: Sequence[Any], avals: Sequence[ShapedArray], out: Any
) -> ClosedJaxpr:
    """The branch as a program of all branches' consts and the operands."""

    def run(*args: Any) -> list[Any]:
        own = args[before : before + len(body.consts)]
        found = eval_jaxpr(body.jaxpr.jaxpr, [], *own, *args[len(consts) :])
        return [
            y if get_aval(y).dtype == d
            else d.type(y.item()) if isinstance(y, np.generic)  # refuses what does not fit
            else ops.convert_element_type(y, dtype=d)
            for y, d in zip(found, out, strict=True)
        ]  # fmt: skip

    return trace_to_jaxpr(run, [*map(get_aval, consts), *avals], what="a branch")


def _check_branches(kind: str, functions: Sequence[Any], bodies: Sequence[Body]) -> None:
    first = bodies[0]
    names = leaf_names("result", pytree.tree_unflatten(first.tree, [0.0] * len(first.weak)))
    for f, body in zip(functions[1:], bodies[1:], strict=True):
        pair = f"{what_of(kind, functions[0])} and {f.__name__ if hasattr(f, '__name__') else f}"
        if body.tree != first.tree:
            raise TypeError(
                f"{pair}: the branches return different structures:\n    {first.tree}\n    "
                f"{body.tree}\n  Every branch must return the same structure."
            )
        rows = zip(names, first.jaxpr.out_avals, body.jaxpr.out_avals, first.weak, body.weak,
                   strict=True)  # fmt: skip
        for name, a, b, a_weak, b_weak in rows:
            same = a.shape == b.shape and (a.dtype == b.dtype or a_weak or b_weak)
            if not same:
                raise TypeError(
                    f"{pair}: {name} is {a} in one branch and {b} in the other.\n  Every branch "
                    "must return the same shapes and dtypes: convert with x.astype(dtype)."
                )


__all__ = ["cond", "cond_primitive", "switch"]
