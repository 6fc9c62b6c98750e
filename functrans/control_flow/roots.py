"""`custom_root`: a root found by the user's function, differentiated by the implicit function.

Where f(x, u) = 0 for all u, df/dx dx + df/du du = 0. So the tangents of a root are the solution of
one linear equation at the root, whatever `solve` did to find it; reverse mode transposes that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from functrans import dtypes, ops, pytree
from functrans.arguments import concrete_scalar, leaf_names
from functrans.control_flow.bodies import Body, arguments_of, trace_body, what_of
from functrans.control_flow.linear_solves import Solver, check_same, groups, trace_solver
from functrans.core import Zero, get_aval
from functrans.interpreters.batching import batch_jaxpr, move_to
from functrans.interpreters.jvp import jvp_jaxpr
from functrans.interpreters.linearize import linearize_flat
from functrans.interpreters.staging import eval_jaxpr
from functrans.ir import ClosedJaxpr


class Root(Solver):
    """`f(x) = 0`. Programs: `f` of x; `solve` of a guess, to (x, aux).

    `tangent_solve` maps (x, y) to the t whose image under the tangent map of `f` at x is y.
    """

    def jvp(self, primals: Any, tangents: Any, **params: Any) -> Any:  # type: ignore[override]
        f, tangent_solve = params["f"], params["tangent_solve"]
        of_f, _, of_tangents, guess = groups(primals, params["sizes"])
        found = self(*primals, **params)
        xs = found[: len(guess)]
        all_tangents = groups(tangents, params["sizes"])[0]
        moving = tuple(type(t) is not Zero for t in all_tangents)
        no_tangents = [Zero(get_aval(y).tangent_aval()) for y in found]
        still = (False,) * len(xs)
        if not any(jvp_jaxpr(f, (*moving, *still))[1]):
            return found, no_tangents
        both, _ = jvp_jaxpr(f, (*moving, *still), (True,) * len(xs))
        given = [t for t in all_tangents if type(t) is not Zero]
        right = eval_jaxpr(both.jaxpr, both.consts, *of_f, *xs, *given)[len(xs) :]
        program = tangent_solve
        moved = eval_jaxpr(program.jaxpr, program.consts, *of_tangents, *xs, *right)
        return found, [*map(ops.neg, moved), *no_tangents[len(xs) :]]

    def batch_named(self, size: int, args: Any, dims: Any, axis_name: Any, **params: Any) -> Any:  # type: ignore[override]
        first = sum(params["sizes"])
        of_f, of_solve, of_tangents, guess = groups([d is not None for d in dims], params["sizes"])
        every = (True,) * len(guess)
        aux = (False,) * (len(params["solve"].out_avals) - len(every))

        def over_lanes(program: ClosedJaxpr, flags: Any, wanted: Any) -> Any:
            return batch_jaxpr(program, size, flags, axis_name, wanted)

        solve, out_batched = over_lanes(params["solve"], (*of_solve, *every), (*every, *aux))
        batched = {
            **params, "solve": solve, "f": over_lanes(params["f"], (*of_f, *every), every)[0],
            "tangent_solve": over_lanes(
                params["tangent_solve"], (*of_tangents, *every, *every), every
            )[0],
        }  # fmt: skip
        moved = [
            x if d is None and i < first else move_to(x, d, 0, size)
            for i, (x, d) in enumerate(zip(args, dims, strict=True))
        ]
        return self(*moved, **batched), [0 if b else None for b in out_batched]


root_primitive = Root("custom_root")


def custom_root(
    f: Callable[[Any], Any],
    initial_guess: Any,
    solve: Callable[[Callable[[Any], Any], Any], Any],
    tangent_solve: Callable[[Callable[[Any], Any], Any], Any],
    has_aux: bool = False,
) -> Any:
    """`solve(f, initial_guess)`, taken as an exact root of `f` by all derivatives.

    `f` maps pytrees like `initial_guess` to such, and the root depends on what it closes over.
    `tangent_solve(g, y)` solves `g(t) = y` for a linear `g`, and is linear in y: for one number
    `lambda g, y: y / g(1.0)`, else a dense solve of the Jacobian of `g`, or `custom_linear_solve`.
    With `has_aux`, `solve` returns `(x, aux)`, and so does this; `aux` has no derivative, nor has
    `initial_guess`.

    >>> import numpy as np
    >>> from functrans.lax import fori_loop
    >>> newton = lambda f, x: fori_loop(0, 9, lambda _, x: x - f(x) / (2 * x), x)
    >>> root = lambda a: custom_root(lambda x: x**2 - a, 1.0, newton, lambda g, y: y / g(1.0))
    >>> root(4.0)
    np.float64(2.0)

    Raises TypeError for results of another structure, shape or dtype than the guess.
    """
    what = what_of("custom_root", f)
    leaves, tree = arguments_of(what, "initial_guess", initial_guess)
    leaves = [concrete_scalar(x) for x in leaves]
    avals = [get_aval(x) for x in leaves]
    for name, aval in zip(leaf_names("initial_guess", initial_guess), avals, strict=True):
        if not dtypes.is_inexact(aval.dtype):
            raise TypeError(
                f"{what}: {name} is {aval}, and a root is of floats.\n  Convert it: "
                "x.astype(float), 1.0 instead of 1."
            )
    bodies, aux_tree = _programs(what, f, solve, tangent_solve, tree, avals, has_aux=has_aux)
    residual, solver, tangents = bodies
    outs = root_primitive(
        *(c for body in bodies for c in body.consts), *leaves, f=residual.jaxpr,
        solve=solver.jaxpr, tangent_solve=tangents.jaxpr,
        sizes=tuple(len(body.consts) for body in bodies),
    )  # fmt: skip
    x = tree.unflatten(outs[: len(leaves)])
    return (x, aux_tree.unflatten(outs[len(leaves) :])) if has_aux else x


def _programs(
    what: str, f: Any, solve: Any, tangent_solve: Any, tree: Any, avals: Any, *, has_aux: bool
) -> tuple[tuple[Body, Body, Body], Any]:
    """The programs of the equation, the solver and the tangents; the structure of `aux`."""
    one, two = pytree.treedef_tuple([tree]), pytree.treedef_tuple([tree, tree])
    residual = trace_body(f, one, avals, [False] * len(avals), what)
    check_same(what, "the function", (residual.tree, residual.jaxpr.out_avals), tree, avals)
    solver, aux_tree = trace_solver(
        lambda x: solve(f, x), one, avals, what, "solve", has_aux=has_aux
    )
    outs_tree = pytree.treedef_children(solver.tree)[0] if has_aux else solver.tree
    found = outs_tree, solver.jaxpr.out_avals[: len(avals)]
    check_same(what, "solve", found, tree, avals)
    tangents = trace_body(
        lambda x, y: tangent_solve(_tangent_map(f, x, what), y), two, [*avals, *avals],
        [False] * (2 * len(avals)), f"{what}, tangent_solve",
    )  # fmt: skip
    check_same(what, "tangent_solve", (tangents.tree, tangents.jaxpr.out_avals), tree, avals)
    return (residual, solver, tangents), aux_tree


def _tangent_map(f: Callable[[Any], Any], x: Any, what: str) -> Callable[[Any], Any]:
    """The tangent map of `f` at `x`, linearized once."""
    leaves, tree = pytree.tree_flatten(x)
    _, tape = linearize_flat(lambda *xs: pytree.tree_leaves(f(tree.unflatten(xs))), leaves)
    program = tape.to_jaxpr()

    def tangent_map(t: Any) -> Any:
        ts, _ = arguments_of(what, "the argument of the tangent map", t)
        return tree.unflatten(eval_jaxpr(program.jaxpr, program.consts, *ts))

    return tangent_map


__all__ = ["Root", "custom_root", "root_primitive"]
