"""`implicit_function`: derivatives of what any solver finds, from the equation that it solves.

The solver runs on plain arrays and may be anything: `scipy.optimize`, a loop in Python, a program
in another language. It is a `pure_callback` inside a `custom_root`, so a `vmap` calls it once per
lane, and compiled code as a host step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import ops, pytree
from functrans.arguments import ShapeDtypeStruct, flatten_outputs, leaf_names
from functrans.callbacks import call_for_effect, pure_callback
from functrans.control_flow import custom_linear_solve, custom_root
from functrans.control_flow.bodies import what_of
from functrans.core import get_aval
from functrans.interpreters.batching import batch_flat, move_to
from functrans.ops import factorizations

Solver = Callable[..., Any]


def implicit_function(
    residual: Callable[..., Any],
    *,
    linear_solve: Callable[[Callable[[Any], Any], Any], Any] | None = None,
    check: float | None = None,
    host: bool = True,
) -> Callable[[Solver], Solver]:
    """Give a solver the derivatives of what it solves: `residual(x, *args) == 0`.

    Decorates `solver(guess, *args)`, which returns x, a pytree like `guess`, and runs on plain
    arrays; with `host=False` it is traced, and compiled under `jit`. Derivatives, of any order and
    in both modes, are in `args`. They solve a linear equation with the Jacobian of the residual:
    by its matrix, or by `linear_solve(matvec, b)`, which is used for the transposed map too. With
    `check`, a result where the residual is larger raises ValueError.

    >>> import numpy as np
    >>> from functrans import grad
    >>> @implicit_function(lambda x, a: x**3 - a, check=1e-9)
    ... def cube_root(x, a):
    ...     while abs(x**3 - a) > 1e-12:
    ...         x = x - (x**3 - a) / (3 * x**2)
    ...     return x
    >>> grad(cube_root, argnums=1)(1.0, 8.0)
    np.float64(0.0833333...)
    """
    if linear_solve is None:
        tangent_solve = by_matrix
    else:
        tangent_solve = functools.partial(_by, linear_solve)

    def decorate(solver: Solver) -> Solver:
        solve = (_on_host if host else _traced)(solver, residual, check)

        @functools.wraps(solver)
        def solved(guess: Any, *args: Any) -> Any:

            @functools.wraps(residual)  # its name is in messages
            def equation(x: Any) -> Any:
                return residual(x, *args)

            return custom_root(equation, guess, lambda _, x: solve(x, *args), tangent_solve)

        return solved

    return decorate


# ---------------------------------------------------------------------------- the solver


def _on_host(solver: Solver, residual: Callable[..., Any], check: float | None) -> Solver:
    """The solver as a callback; its result has the types of the guess."""
    what = what_of("implicit_function", solver)

    @functools.wraps(solver)
    def on_arrays(guess: Any, *args: Any) -> Any:
        try:
            x = _typed(what, solver(guess, *args), guess)
            if check is not None:
                _check(what, residual(x, *args), check)
        except Exception as error:
            error.add_note(
                f"in {what}, whose solver runs on plain arrays: what is traced goes in as an "
                "argument, not by a closure."
            )
            raise
        return x

    def call(guess: Any, *args: Any) -> Any:
        result = pytree.tree_map(
            lambda x: ShapeDtypeStruct(get_aval(x).shape, get_aval(x).dtype), guess
        )
        return pure_callback(on_arrays, result, guess, *args, vmap_method="sequential")

    return call


def _traced(solver: Solver, residual: Callable[..., Any], check: float | None) -> Solver:
    """The solver as it is, with a check at run time."""
    what = what_of("implicit_function", solver)
    if check is None:
        return solver

    @functools.wraps(solver)
    def checked(guess: Any, *args: Any) -> Any:
        x = solver(guess, *args)
        call_for_effect(lambda r: _check(what, r, check), what, (residual(x, *args),), {})
        return x

    return checked


def _typed(what: str, found: Any, guess: Any) -> Any:
    """What the solver returned, in the dtypes of the guess."""
    leaves, tree = flatten_outputs(found, what)
    expected, structure = pytree.tree_flatten(guess)
    if tree != structure:
        raise TypeError(
            f"{what}: the solver returned the structure\n    {tree}\n  for a guess of\n"
            f"    {structure}\n  Return the structure of the guess."
        )
    avals = [get_aval(x) for x in expected]
    for name, x, aval in zip(leaf_names("result", found), leaves, avals, strict=True):
        given = get_aval(x)
        if given.shape != aval.shape or not np.can_cast(given.dtype, aval.dtype, "same_kind"):
            raise TypeError(
                f"{what}: {name} of the solver is {given}, where the guess is {aval}.\n"
                "  Give a guess of the shape and dtype of the solution."
            )
    return tree.unflatten(np.asarray(x, a.dtype)[()] for x, a in zip(leaves, avals, strict=True))


def _check(what: str, residual: Any, check: float) -> None:
    names = leaf_names("residual", residual)
    for name, r in zip(names, pytree.tree_leaves(residual), strict=True):
        most = np.max(np.abs(r), initial=0.0)
        if not most <= check:  # nan is no solution either
            raise ValueError(
                f"{what}: what the solver returned is no solution: {name} is up to {most:.3g} "
                f"there, check={check:g}.\n  Derivatives would be of another function. Let the "
                "solver go on to a smaller tolerance or from a better guess; look whether it "
                "solves the equation of the residual; or raise check."
            )


# ---------------------------------------------------------------------------- its tangents


def _by(linear_solve: Callable[..., Any], matvec: Callable[[Any], Any], b: Any) -> Any:
    return custom_linear_solve(matvec, b, linear_solve, transpose_solve=linear_solve)


def by_matrix(matvec: Callable[[Any], Any], b: Any) -> Any:
    """The solution of `matvec(x) = b` by the matrix of the map, of all leaves together."""
    leaves, tree = pytree.tree_flatten(b)
    avals = [get_aval(x) for x in leaves]
    dtype = np.result_type(*(a.dtype for a in avals))
    ends = np.cumsum([a.size for a in avals])
    n = int(ends[-1])

    def apart(flat: Any, shape: tuple[int, ...]) -> list[Any]:
        """Along the last axis of extent n, the leaves."""
        lead = len(shape)
        parts = []
        for a, end in zip(avals, ends, strict=True):
            x = ops.slice(flat, start_indices=(*(0,) * lead, int(end) - a.size),
                          limit_indices=(*shape, int(end)), strides=(1,) * (lead + 1))  # fmt: skip
            x = ops.reshape(x, shape=(*shape, *a.shape))
            parts.append(ops.convert_element_type(x, dtype=a.dtype))
        return parts

    def joined(xs: Sequence[Any], shape: tuple[int, ...]) -> Any:
        rows = [
            ops.convert_element_type(ops.reshape(x, shape=(*shape, a.size)), dtype=dtype)
            for x, a in zip(xs, avals, strict=True)
        ]
        return ops.concatenate(*rows, dimension=len(shape))

    def flat(*xs: Any) -> list[Any]:
        return pytree.tree_leaves(matvec(tree.unflatten(xs)))

    units = apart(np.eye(n, dtype=dtype), (n,))
    columns, dims = batch_flat(flat, units, [0] * len(units), n)
    columns = [move_to(y, d, 0, n) for y, d in zip(columns, dims, strict=True)]
    matrix = ops.permute(joined(columns, (n,)), permutation=(1, 0))
    right = ops.reshape(joined(leaves, ()), shape=(n, 1))
    x = ops.reshape(factorizations.solve(matrix, right), shape=(n,))
    return tree.unflatten(apart(x, ()))


__all__ = ["by_matrix", "implicit_function"]
