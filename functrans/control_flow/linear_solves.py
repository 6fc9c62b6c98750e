"""`custom_linear_solve`: a linear equation solved by the user's function, differentiated by theory.

Of A x = b the tangents satisfy A dx = db - dA x, so the derivative is one more solve of the same
equation, and reverse mode a solve with the transpose of A; what `solve` does inside is never
differentiated. The primitive holds the programs of `matvec`, `solve` and `transpose_solve`; the
transpose of `matvec` is made from its program when it is wanted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from functrans import ops, pytree
from functrans.arguments import concrete_scalar, leaf_names
from functrans.control_flow.bodies import (
    Body,
    ControlFlow,
    arguments_of,
    reordered,
    run_compiled,
    trace_body,
    what_of,
)
from functrans.core import Linear, Zero, get_aval, instantiate
from functrans.interpreters.batching import batch_jaxpr, move_to
from functrans.interpreters.jvp import jvp_jaxpr
from functrans.interpreters.linearize import partial_eval_jaxpr
from functrans.interpreters.staging import eval_jaxpr, trace_to_jaxpr
from functrans.interpreters.transpose import transpose_jaxpr
from functrans.ir import ClosedJaxpr, ShapedArray, Var

# ---------------------------------------------------------------------------- what runs


class Solver(ControlFlow):
    """What is computed by its program `solve`; the other programs are for transformations.

    Operands are the consts of each program, `sizes` of them, then what `solve` takes beside its
    own, the second group.
    """

    def abstract_eval(self, *avals: ShapedArray, solve: ClosedJaxpr, **_: Any) -> list[ShapedArray]:  # type: ignore[override]
        return solve.out_avals

    def callee(
        self, *avals: ShapedArray, solve: ClosedJaxpr, sizes: tuple[int, ...], **_: Any
    ) -> ClosedJaxpr:
        """The program that compiled code has in the place of the operation."""
        key = ("callee", avals, sizes)
        if key not in solve.derived:
            invars: list[Var] = list(map(Var, avals))
            begin, end, rest = sizes[0], sum(sizes[:2]), sum(sizes)
            own = solve.jaxpr.invars
            invars[begin:end], invars[rest:] = own[: sizes[1]], own[sizes[1] :]
            solve.derived[key] = ClosedJaxpr(solve.jaxpr.replace(invars=invars), solve.consts)
        return solve.derived[key]

    def impl(self, *args: Any, **params: Any) -> list[Any]:  # type: ignore[override]
        return run_compiled(self.callee(*map(get_aval, args), **params), args)

    host_impl = impl


def groups(values: Sequence[Any], sizes: Sequence[int]) -> list[tuple[Any, ...]]:
    """The operands of each program, and those behind them."""
    rest = iter(values)
    return [*(tuple(itertools.islice(rest, n)) for n in sizes), tuple(rest)]


def check_same(
    what: str, subject: str, found: tuple[Any, Sequence[ShapedArray]], tree: Any, avals: Any
) -> None:
    """Raise TypeError where the result of `subject` has not the types of what it stands for."""
    remedy = "Return the structure, shapes and dtypes of the unknown."
    if found[0] != tree:
        raise TypeError(
            f"{what}: {subject} returns the structure\n    {found[0]}\n  where the unknown has\n"
            f"    {tree}\n  {remedy}"
        )
    names = leaf_names("result", pytree.tree_unflatten(tree, [0.0] * len(avals)))
    for name, a, b in zip(names, found[1], avals, strict=True):
        if a != b:
            raise TypeError(
                f"{what}: {name} of {subject} is {a}, where the unknown is {b}.\n  {remedy} "
                "Convert with x.astype(dtype); give float arrays, not integers, to begin with."
            )


# ---------------------------------------------------------------------------- linear equations


class LinearSolve(Solver):
    """`matvec(x) = b`. Programs `(own consts, b) -> (x, aux)`, and `matvec` from x to b.

    `transpose_solve` is None where it was not given.
    """

    def jvp(self, primals: Any, tangents: Any, **params: Any) -> Any:  # type: ignore[override]
        matvec, solve, sizes = params["matvec"], params["solve"], params["sizes"]
        n = len(matvec.out_avals)
        found = self(*primals, **params)
        right = list(groups(tangents, sizes)[-1])
        turned = _turned(matvec, groups(primals, sizes)[0], groups(tangents, sizes)[0], found[:n])
        for i, t in enumerate(turned):
            if type(t) is not Zero:
                right[i] = ops.neg(t) if type(right[i]) is Zero else ops.sub(right[i], t)
        no_tangents = [Zero(a.tangent_aval()) for a in solve.out_avals]
        if all(type(t) is Zero for t in right):
            return found, no_tangents
        params = {**params, "solve": _without_aux(solve, n)}
        moved = self(*primals[: sum(sizes)], *map(instantiate, right), **params)
        return found, [*moved, *no_tangents[n:]]

    def transpose(self, ct: Any, *args: Any, **params: Any) -> list[Any]:  # type: ignore[override]
        matvec, solve, sizes = params["matvec"], params["solve"], params["sizes"]
        back = params["transpose_solve"]
        if back is None:
            raise TypeError(
                "reverse mode through custom_linear_solve needs a solver of the transposed "
                "equation.\n  Give transpose_solve(vecmat, b), or symmetric=True where the matrix "
                "is its own transpose; forward mode (jvp, jacfwd) works as it is."
            )
        first, n = sum(sizes), len(matvec.out_avals)
        if any(type(x) is Linear for x in args[:first]):
            raise TypeError("custom_linear_solve is not linear in what `matvec` closes over.")
        of_matvec, of_solve, of_back, _ = groups(args, sizes)
        if not params["symmetric"]:
            matvec = transposed_map(matvec, sizes[0])
        swapped = {
            **params, "matvec": matvec, "solve": back, "transpose_solve": _without_aux(solve, n),
            "sizes": (sizes[0], sizes[2], sizes[1]),
        }  # fmt: skip
        found = self(*of_matvec, *of_back, *of_solve, *map(instantiate, ct[:n]), **swapped)
        pairs = zip(args[first:], found, strict=True)
        return [*[None] * first, *(c if type(x) is Linear else None for x, c in pairs)]

    def batch_named(self, size: int, args: Any, dims: Any, axis_name: Any, **params: Any) -> Any:  # type: ignore[override]
        sizes, first = params["sizes"], sum(params["sizes"])
        of_matvec, of_solve, of_back, unknown = groups([d is not None for d in dims], sizes)
        every = (True,) * len(unknown)
        aux = (False,) * (len(params["solve"].out_avals) - len(every))

        def over_lanes(program: ClosedJaxpr, flags: Any, rest: Any = ()) -> Any:
            return batch_jaxpr(program, size, (*flags, *every), axis_name, (*every, *rest))

        solve, out_batched = over_lanes(params["solve"], of_solve, aux)
        batched = {**params, "matvec": over_lanes(params["matvec"], of_matvec)[0], "solve": solve}
        if params["transpose_solve"] is not None:
            batched["transpose_solve"] = over_lanes(params["transpose_solve"], of_back)[0]
        moved = [
            x if d is None and i < first else move_to(x, d, 0, size)
            for i, (x, d) in enumerate(zip(args, dims, strict=True))
        ]
        return self(*moved, **batched), [0 if b else None for b in out_batched]


linear_solve_primitive = LinearSolve("custom_linear_solve")


def _turned(matvec: ClosedJaxpr, consts: Any, tangents: Any, xs: Any) -> list[Any]:
    """`dA x`: what the tangents of the consts of `matvec` do to its value at `xs`."""
    moving = tuple(type(t) is not Zero for t in tangents)
    both, out_moving = jvp_jaxpr(matvec, (*moving, *(False,) * len(xs)))
    given = [t for t in tangents if type(t) is not Zero]
    found = iter(eval_jaxpr(both.jaxpr, both.consts, *consts, *xs, *given)[len(xs) :])
    avals = matvec.out_avals
    return [next(found) if m else Zero(a) for m, a in zip(out_moving, avals, strict=True)]


def _without_aux(solve: ClosedJaxpr, count: int) -> ClosedJaxpr:
    if len(solve.out_avals) == count:
        return solve
    return reordered(solve, range(len(solve.in_avals)), range(count))


def transposed_map(closed: ClosedJaxpr, num_consts: int) -> ClosedJaxpr:
    """(consts, ct) -> the transposed map of ct, for a program linear in all but its consts.

    Raises TypeError where the program is not linear.
    """
    key = ("transposed map", num_consts)
    if key not in closed.derived:
        avals, outs = closed.in_avals[num_consts:], closed.out_avals
        unknown = (*(False,) * num_consts, *(True,) * len(avals))
        known, linear, _ = partial_eval_jaxpr(closed, unknown, wanted=(True,) * len(outs))
        flags = (*(False,) * len(known.out_avals), *(True,) * len(avals))
        try:
            back, reached = transpose_jaxpr(linear, flags, (True,) * len(outs))
        except TypeError as error:
            error.add_note(
                "custom_linear_solve transposes `matvec`, which must be linear in its argument."
            )
            raise

        def run(*args: Any) -> list[Any]:
            kept = eval_jaxpr(known.jaxpr, known.consts, *args[:num_consts])
            found = iter(eval_jaxpr(back.jaxpr, back.consts, *kept, *args[num_consts:]))
            pairs = zip(avals, reached, strict=True)
            return [next(found) if r else instantiate(Zero(a)) for a, r in pairs]

        inputs = [*closed.in_avals[:num_consts], *outs]
        closed.derived[key] = trace_to_jaxpr(run, inputs, what="the transpose of matvec")
    return closed.derived[key]


# ---------------------------------------------------------------------------- the function


def custom_linear_solve(
    matvec: Callable[[Any], Any],
    b: Any,
    solve: Callable[[Callable[[Any], Any], Any], Any],
    transpose_solve: Callable[[Callable[[Any], Any], Any], Any] | None = None,
    symmetric: bool = False,
    has_aux: bool = False,
) -> Any:
    """`solve(matvec, b)`, taken as the exact solution of `matvec(x) = b` by all derivatives.

    `matvec` is linear and maps pytrees like `b` to such. Derivatives are solves too: forward mode
    by `solve`, reverse mode by `transpose_solve(vecmat, b)`, where `vecmat` is the transpose of
    `matvec`, or by `solve` where `symmetric`. With `has_aux` solvers return `(x, aux)`, and so does
    this; `aux` has no derivative.

    >>> import numpy as np
    >>> a = np.diag([2.0, 4.0])
    >>> custom_linear_solve(lambda x: a @ x, np.ones(2), lambda f, b: b / f(np.ones(2)))
    array([0.5 , 0.25])

    Raises TypeError for results of another structure, shape or dtype than `b`, and in reverse mode
    without `transpose_solve`.
    """
    what = what_of("custom_linear_solve", matvec)
    leaves, tree = arguments_of(what, "b", b)
    leaves = [concrete_scalar(x) for x in leaves]
    avals = [get_aval(x) for x in leaves]
    linear, solver, back, aux_tree = _programs(
        what, matvec, solve, None if symmetric else transpose_solve, tree, avals, has_aux=has_aux
    )
    back = solver if symmetric else back
    bodies = [linear, solver, *([] if back is None else [back])]
    outs = linear_solve_primitive(
        *itertools.chain(*(body.consts for body in bodies)), *leaves, matvec=linear.jaxpr,
        solve=solver.jaxpr, symmetric=symmetric,
        transpose_solve=None if back is None else _without_aux(back.jaxpr, len(leaves)),
        sizes=(len(linear.consts), len(solver.consts), 0 if back is None else len(back.consts)),
    )  # fmt: skip
    x = tree.unflatten(outs[: len(leaves)])
    return (x, aux_tree.unflatten(outs[len(leaves) :])) if has_aux else x


def _programs(
    what: str, matvec: Any, solve: Any, transpose_solve: Any, tree: Any, avals: Any, *,
    has_aux: bool,
) -> tuple[Body, Body, Body | None, Any]:  # fmt: skip
    """The programs of the map and of its solvers; the structure of `aux`."""
    one = pytree.treedef_tuple([tree])

    def trace(f: Callable[..., Any], subject: str, *, aux: bool) -> tuple[Body, Any]:
        body, aux_tree = trace_solver(f, one, avals, what, subject, has_aux=aux)
        found = body.tree if not aux else pytree.treedef_children(body.tree)[0]
        check_same(what, subject, (found, body.jaxpr.out_avals[: len(avals)]), tree, avals)
        return body, aux_tree

    linear, _ = trace(matvec, "matvec", aux=False)
    solver, aux_tree = trace(lambda y: solve(matvec, y), "solve", aux=has_aux)
    if transpose_solve is None:
        return linear, solver, None, aux_tree

    def vecmat(y: Any) -> Any:
        program = transposed_map(linear.jaxpr, len(linear.consts))
        ys, _ = arguments_of(what, "the argument of vecmat", y)
        return tree.unflatten(eval_jaxpr(program.jaxpr, program.consts, *linear.consts, *ys))

    back, _ = trace(lambda y: transpose_solve(vecmat, y), "transpose_solve", aux=has_aux)
    return linear, solver, back, aux_tree


def trace_solver(
    f: Callable[..., Any], tree: Any, avals: Any, what: str, subject: str, *, has_aux: bool
) -> tuple[Body, Any]:
    """The program of a solver, and the structure of its `aux`."""

    def checked(*args: Any) -> Any:
        result = f(*args)
        if has_aux and not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(
                f"{what}: with has_aux=True {subject} must return (x, aux), got "
                f"{type(result).__name__}.\n  Return a pair, or leave has_aux away."
            )
        return result

    body = trace_body(checked, tree, avals, [False] * len(avals), f"{what}, {subject}")
    return body, pytree.treedef_children(body.tree)[1] if has_aux else None


__all__ = [
    "Solver",
    "check_same",
    "custom_linear_solve",
    "groups",
    "trace_solver",
    "transposed_map",
]
