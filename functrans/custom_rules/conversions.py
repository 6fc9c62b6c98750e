"""Functions about rules: `closure_convert`, `custom_gradient`, `linear_call`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from functrans.arguments import concrete_scalar, flatten_outputs, function_name
from functrans.core import Tracer, Zero, current_trace, eval_trace, get_aval, is_weak
from functrans.core import instantiate as dense
from functrans.custom_rules.functions import CustomFunction, custom_vjp
from functrans.custom_rules.linear_maps import LinearMap, linear_call_primitive
from functrans.custom_rules.matching import cotangents_of, leaf_paths, pair, rule_name
from functrans.interpreters.staging import (
    eval_jaxpr,
    hoist_consts,
    jaxpr_as_fun,
    trace_to_jaxpr,
)
from functrans.ir import ClosedJaxpr, Jaxpr
from functrans.pytree import tree_flatten, tree_leaves, tree_structure, tree_unflatten


def _staged(fun: Callable[..., Any], args: Any, what: str) -> tuple[ClosedJaxpr, list[Any], Any]:
    """The program of a function of trees, the traced values it closes over, its output tree."""
    leaves, in_tree = tree_flatten(tuple(args))
    trees: list[Any] = []

    def flat(*tracers: Any) -> list[Any]:
        outs, tree = flatten_outputs(fun(*tree_unflatten(in_tree, tracers)), what)
        trees.append(tree)
        return outs

    avals = [get_aval(x) for x in leaves]
    closed = trace_to_jaxpr(flat, avals, weak=[is_weak(x) for x in leaves], what=what)
    closed, hoisted = hoist_consts(closed, lambda c: isinstance(c, Tracer))
    return closed, hoisted, trees[0]


def closure_convert(fun: Callable[..., Any], *example_args: Any) -> tuple[Any, list[Any]]:
    """`(converted, consts)`: `converted(*args, *consts)` is `fun(*args)`.

    `consts` are the traced values that `fun` closes over, which a function with rules of its own
    has to take as arguments. `fun` is traced on arguments like `example_args`.
    """
    what = f"closure_convert of {function_name(fun)}"
    in_tree = tree_structure(tuple(example_args))
    closed, hoisted, out_tree = _staged(fun, example_args, what)
    hoisted_avals = [get_aval(x) for x in hoisted]

    @functools.wraps(fun)
    def converted(*args_and_consts: Any) -> Any:
        split = len(args_and_consts) - len(hoisted_avals)
        args, consts = args_and_consts[: max(split, 0)], args_and_consts[max(split, 0) :]
        leaves, tree = tree_flatten(args)
        if tree != in_tree or [get_aval(x) for x in consts] != hoisted_avals:
            raise TypeError(
                f"{what}: the converted function takes arguments of the structure {in_tree} and "
                f"then constants of types {hoisted_avals}, got {len(args_and_consts)} arguments "
                f"of the structure {tree_structure(args_and_consts)}."
            )
        return out_tree.unflatten(eval_jaxpr(closed.jaxpr, closed.consts, *consts, *leaves))

    return converted, hoisted


def custom_gradient(fun: Callable[..., Any]) -> CustomFunction[..., Any]:
    """A function that returns its value together with its pullback: `fun(x) -> (y, pullback)`.

    `pullback(ct)` gives a cotangent for each argument, a tuple where there are several.

    >>> import functrans as ft
    >>> f = custom_gradient(lambda x: (x**2, lambda ct: 5 * ct))
    >>> f(3.0), ft.grad(f)(3.0)
    (9.0, np.float64(5.0))
    """
    what = f"custom_gradient of {function_name(fun)}"

    @functools.wraps(fun)
    def value(*args: Any) -> Any:
        return pair(fun(*args), what, "(outputs, pullback)")[0]

    def fwd(*args: Any) -> tuple[Any, Any]:
        out, pullback = pair(fun(*args), what, "(outputs, pullback)")
        leaves, tree = flatten_outputs(out, what)
        cts = [dense(Zero(get_aval(y).tangent_aval())) for y in leaves]
        closed, hoisted, ct_tree = _staged(pullback, [tree_unflatten(tree, cts)], what)
        # All that the pullback closes over is a residual, so that it can be copied and batched.
        invars = [*closed.jaxpr.constvars, *closed.jaxpr.invars]
        program = closed.jaxpr.replace(constvars=[], invars=invars)
        single = len(args) == 1 and ct_tree != tree_structure(args)
        return out, ([*closed.consts, *hoisted], functools.partial(_pull, program, ct_tree, single))

    def bwd(residuals: Any, ct: Any) -> Any:
        constants, pull = residuals
        return pull(constants, ct)

    function = custom_vjp(value)
    function.defvjp(fwd, bwd)
    return function


def _pull(program: Jaxpr, tree: Any, single: bool, constants: list[Any], ct: Any) -> Any:
    cts = tree.unflatten(eval_jaxpr(program, [], *constants, *tree_leaves(ct)))
    return (cts,) if single else cts


def linear_call(
    fun: Callable[..., Any], fun_transpose: Callable[..., Any], residual_args: Any, linear_args: Any
) -> Any:
    """`fun(residual_args, linear_args)`, linear in the second, with a transpose of its own.

    `fun_transpose(residual_args, ct)` gives the cotangent of `linear_args`; reverse mode runs it.

    >>> import functrans as ft
    >>> halve = lambda r, x: x / r
    >>> ft.grad(lambda x: linear_call(halve, halve, 2.0, x))(1.0)
    np.float64(0.5)
    """
    if current_trace() is eval_trace:
        return fun(residual_args, linear_args)
    what = f"linear_call of {function_name(fun)}"
    closed, hoisted, out_tree = _staged(fun, (residual_args, linear_args), what)
    known, residual_tree = tree_flatten(residual_args)
    leaves, linear_tree = tree_flatten(linear_args)
    avals = [get_aval(x) for x in leaves]
    weak = [is_weak(x) for x in leaves]
    skipped = len(hoisted)

    def pull(residuals: Sequence[Any], cts: Sequence[Any]) -> list[Any]:
        given = residual_tree.unflatten(residuals[skipped:])
        ct = out_tree.unflatten([dense(c) for c in cts])
        rule = rule_name("fun_transpose", fun_transpose, what)
        names = leaf_paths(linear_tree, "linear_args")
        found = (fun_transpose(given, ct),)
        return cotangents_of(found, [linear_tree], avals, names, rule, weak)

    push = jaxpr_as_fun(closed)
    linear_map = LinearMap(what, push, pull, skipped + len(known), closed.out_avals)
    operands = [concrete_scalar(x) for x in [*hoisted, *known, *leaves]]
    return out_tree.unflatten(linear_call_primitive(*operands, linear_map=linear_map))
