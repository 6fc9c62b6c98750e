"""`implicit_function`: derivatives of what any solver finds, from the equation that it solves.

The solver runs on plain arrays and may be anything: `scipy.optimize`, a loop in Python, a program
in another language. It is one operation, `host_solver`, inside a `custom_root`; a `vmap` calls it
once per lane, compiled code as a host step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from functrans import ops, pytree
from functrans.arguments import concrete_scalar, flatten_outputs, leaf_names
from functrans.control_flow.bodies import arguments_of, what_of
from functrans.control_flow.linear_solves import custom_linear_solve
from functrans.control_flow.roots import custom_root
from functrans.core import Primitive, current, eval_trace, get_aval
from functrans.interpreters.batching import batch_flat, move_to
from functrans.ir import ShapedArray
from functrans.ops import factorizations

Solver = Callable[..., Any]
Lanes = tuple[tuple[int, tuple[bool, ...]], ...]

# ---------------------------------------------------------------------------- the operation


class Call(NamedTuple):
    """A solver, the structure of its arguments, and how its result is checked."""

    solver: Solver
    residual: Callable[..., Any]
    tree: Any
    outs: tuple[ShapedArray, ...]
    check: float | None
    what: str

    def run(self, operands: Sequence[Any]) -> list[Any]:
        """The leaves of what the solver returns, in the dtypes of the guess."""
        # Copies, which the solver may keep and write to.
        args = self.tree.unflatten([np.array(x)[()] for x in operands])
        try:
            with current(eval_trace):
                found = self.solver(*args)
                leaves = self._typed(found, args[0])
                if self.check is not None:
                    guess = pytree.tree_structure(args[0])
                    self._check(guess.unflatten(leaves), args[1:])
        except Exception as error:
            error.add_note(
                f"in {self.what}, whose solver runs on plain arrays: what is traced goes in as an "
                "argument, not by a closure."
            )
            raise
        return leaves

    def _typed(self, found: Any, guess: Any) -> list[Any]:
        leaves, tree = flatten_outputs(found, self.what)
        if tree != pytree.tree_structure(guess):
            raise TypeError(
                f"{self.what}: the solver returned the structure\n    {tree}\n  for a guess of\n"
                f"    {pytree.tree_structure(guess)}\n  Return the structure of the guess."
            )
        for name, x, aval in zip(leaf_names("result", found), leaves, self.outs, strict=True):
            given = get_aval(x)
            if given.shape != aval.shape or not np.can_cast(given.dtype, aval.dtype, "same_kind"):
                raise TypeError(
                    f"{self.what}: {name} of the solver is {given}, where the guess is {aval}.\n"
                    "  Give a guess of the shape and dtype of the solution."
                )
        return [np.asarray(x, a.dtype)[()] for x, a in zip(leaves, self.outs, strict=True)]

    def _check(self, x: Any, args: Any) -> None:
        residual = self.residual(x, *args)
        for name, r in zip(leaf_names("residual", residual), pytree.tree_leaves(residual),
                           strict=True):  # fmt: skip
            most = np.max(np.abs(r), initial=0.0)
            if not most <= self.check:  # nan is no solution either
                raise ValueError(
                    f"{self.what}: what the solver returned is no solution: {name} is up to "
                    f"{most:.3g} there, check={self.check:g}.\n  Derivatives would be of another "
                    "function. Let the solver go on to a smaller tolerance or from a better guess; "
                    "look whether it solves the equation of the residual; or raise check."
                )


class HostSolver(Primitive):
    """Call a solver. `lanes` are the loops of vmaps, outermost first: sizes, which operands."""

    multiple_results = True

    def abstract_eval(self, *avals: ShapedArray, call: Call, lanes: Lanes) -> list[ShapedArray]:  # type: ignore[override]
        sizes = tuple(size for size, _ in lanes)
        return [a.update(shape=(*sizes, *a.shape)) for a in call.outs]

    def impl(self, *args: Any, call: Call, lanes: Lanes) -> list[Any]:  # type: ignore[override]
        if not lanes:
            return call.run(args)
        (size, flags), inner = lanes[0], lanes[1:]
        outs = [np.empty(a.shape, a.dtype) for a in self.abstract_eval(call=call, lanes=lanes)]
        for i in range(size):
            row = [x[i] if f else x for x, f in zip(args, flags, strict=True)]
            for out, y in zip(outs, self.impl(*row, call=call, lanes=inner), strict=True):
                out[i] = y
        return outs

    def batch(self, size: int, args: Any, dims: Any, *, call: Call, lanes: Lanes) -> Any:  # type: ignore[override]
        flags = tuple(d is not None for d in dims)
        moved = [move_to(x, d, 0, size) if f else x
                 for x, d, f in zip(args, dims, flags, strict=True)]  # fmt: skip
        outs = self(*moved, call=call, lanes=((size, flags), *lanes))
        return outs, [0] * len(outs)


host_solver = HostSolver("host_solver")


# ---------------------------------------------------------------------------- the function


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
        what = what_of("implicit_function", solver)

        @functools.wraps(solver)
        def solved(guess: Any, *args: Any) -> Any:
            solve = functools.partial(_on_host, solver, residual, check, what) if host else solver

            @functools.wraps(residual)  # its name is in messages
            def equation(x: Any) -> Any:
                return residual(x, *args)

            return custom_root(equation, guess, lambda _, x: solve(x, *args), tangent_solve)

        return solved

    return decorate


def _on_host(
    solver: Solver, residual: Any, check: float | None, what: str, guess: Any, *args: Any
) -> Any:
    leaves, tree = arguments_of(what, "(guess, *args)", (guess, *args))
    outs, structure = pytree.tree_flatten(guess)
    call = Call(solver, residual, tree, tuple(map(get_aval, outs)), check, what)
    return structure.unflatten(host_solver(*map(concrete_scalar, leaves), call=call, lanes=()))


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


__all__ = ["HostSolver", "by_matrix", "host_solver", "implicit_function"]
