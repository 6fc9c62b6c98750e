"""`checkpoint`: reverse mode that keeps less, and computes the rest again on the way back.

`checkpoint` is a call, as `jit` is: a primitive whose parameter is the traced program. It differs
where a program is split: the linear part takes what the policy keeps, and begins with a
recomputation of the rest (`interpreters.rematerialize`). The parameter `residuals` says how many of
its operands that part recomputes from; compiled code holds these back (`compiler.jaxprs.barriers`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, overload

from functrans import pytree
from functrans.arguments import (
    abstract,
    check_leaves,
    chosen_names,
    flatten_outputs,
    function_name,
)
from functrans.checkpoint_policies import nothing_saveable
from functrans.compiler.jaxprs.simplify import atom_key, exact
from functrans.core import Linear, current_trace, eval_trace, is_weak
from functrans.interpreters.linearize import LinearTrace, partial_eval_jaxpr, run_split
from functrans.interpreters.rematerialize import Policy
from functrans.interpreters.staging import eval_jaxpr, trace_to_jaxpr
from functrans.ir import Atom, ClosedJaxpr, Jaxpr, sub_jaxprs
from functrans.jit import JitPrimitive

P = ParamSpec("P")
R = TypeVar("R")

# ---------------------------------------------------------------------------- the primitive


class CheckpointPrimitive(JitPrimitive):
    """Call a program whose derivatives in reverse mode keep what `policy` says."""

    def impl(self, *args: Any, jaxpr: ClosedJaxpr, **_: Any) -> list[Any]:
        return eval_jaxpr(jaxpr.jaxpr, jaxpr.consts, *args)

    def transpose(self, ct: Any, *args: Any, residuals: int, **params: Any) -> list[Any]:
        known = sum(type(x) is not Linear for x in args)
        residuals = known if params["prevent_cse"] else 0
        return super().transpose(ct, *args, residuals=residuals, **params)

    def partial_eval(self, trace: LinearTrace, args: Any, params: dict[str, Any]) -> list[Any]:
        options = {k: v for k, v in params.items() if k != "jaxpr"}
        unknown = tuple(trace.is_unknown(x) for x in args)
        policy = params["policy"] or nothing_saveable
        split = partial_eval_jaxpr(params["jaxpr"], unknown, policy)
        taken = len(split[1].jaxpr.invars) - sum(unknown)
        forward = {**options, "residuals": unknown[: params["residuals"]].count(False)}
        back = {**options, "residuals": taken if params["prevent_cse"] else 0}
        return run_split(trace, self, args, split, forward, back)


checkpoint_primitive = CheckpointPrimitive("checkpoint")


# ---------------------------------------------------------------------------- the transformation


@overload
def checkpoint(
    fun: Callable[P, R],
    *,
    prevent_cse: bool = True,
    policy: Policy | None = None,
    static_argnums: int | Sequence[int] = (),
) -> Callable[P, R]: ...


@overload
def checkpoint(
    fun: None = None,
    *,
    prevent_cse: bool = True,
    policy: Policy | None = None,
    static_argnums: int | Sequence[int] = (),
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def checkpoint(
    fun: Callable[..., Any] | None = None,
    *,
    prevent_cse: bool = True,
    policy: Policy | None = None,
    static_argnums: int | Sequence[int] = (),
) -> Any:
    """`fun`, of which reverse mode keeps the arguments and computes the rest again.

    `policy` says what else is kept: see `functrans.checkpoint_policies`. Static arguments are seen
    by `fun` as they are. `prevent_cse=False` lets compiled code share the computation of both ways,
    and so keep its values after all. Usable as a decorator, with or without options.

    >>> import numpy as np
    >>> from functrans.api import grad
    >>> block = checkpoint(lambda x: np.sin(np.sin(x)))
    >>> grad(lambda x: np.sum(block(x)))(np.zeros(2))
    array([1., 1.])

    Under a transformation `fun` is traced at every call, as for `jit`: a Python `if` on an
    argument needs `static_argnums`.
    """
    options = {"prevent_cse": prevent_cse, "policy": policy}
    if fun is None:
        return functools.partial(checkpoint, static_argnums=static_argnums, **options)
    if not callable(fun):
        raise TypeError(f"checkpoint takes a function, got {fun!r} of type {type(fun).__name__}.")
    if policy is not None and not callable(policy):
        raise TypeError(
            f"checkpoint of {function_name(fun)}: policy is a function (primitive, *avals, "
            f"**params) -> bool, got {policy!r}.\n  functrans.checkpoint_policies has some."
        )
    static = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)

    @functools.wraps(fun)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if current_trace() is eval_trace:
            return fun(*args, **kwargs)
        closed, operands, out_tree = _traced(fun, args, kwargs, static)
        outs = checkpoint_primitive(*operands, jaxpr=closed, residuals=0, **options)
        return pytree.tree_unflatten(out_tree, outs)

    return checkpointed


remat = checkpoint


def _traced(
    fun: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], static: tuple[int, ...]
) -> tuple[ClosedJaxpr, list[Any], Any]:
    """The program of a call, its operands, and the structure of its results."""
    what = f"checkpoint of {function_name(fun)}"
    fixed = _static_positions(static, len(args), what)
    positions = [i for i in range(len(args)) if i not in fixed]
    leaves, tree = pytree.tree_flatten(([args[i] for i in positions], kwargs))

    def names() -> list[str]:
        return chosen_names(fun, args, kwargs, positions, list(kwargs))

    check_leaves(leaves, names, what)
    out_trees: list[Any] = []

    def flat(*tracers: Any) -> list[Any]:
        moving, traced_kwargs = pytree.tree_unflatten(tree, tracers)
        full = list(args)
        for i, x in zip(positions, moving, strict=True):
            full[i] = x
        outs, structure = flatten_outputs(fun(*full, **traced_kwargs), what)
        out_trees.append(structure)
        return outs

    avals = [abstract(x) for x in leaves]
    weak = [is_weak(x) for x in leaves]
    closed = trace_to_jaxpr(flat, avals, names=names(), weak=weak, what=what)
    # What the function closes over is an operand like others: a constant may be a tracer of an
    # enclosing transformation, or an array that is written to before the way back.
    jaxpr = closed.jaxpr.replace(
        constvars=[], invars=[*closed.jaxpr.constvars, *closed.jaxpr.invars]
    )
    return _seen(jaxpr), [*closed.consts, *leaves], out_trees[0]


def _static_positions(static: tuple[int, ...], count: int, what: str) -> set[int]:
    for n in static:
        if not -count <= n < count:
            raise ValueError(
                f"{what}: static_argnums has {n}, but the call has {count} positional argument(s)."
                "\n  Keyword arguments are traced; close over what is static among them."
            )
    return {n % count for n in static}


# ---------------------------------------------------------------------------- equal programs


class _Traced:
    """A traced program, equal to others that do the same at the same lines."""

    __slots__ = ("key", "program")

    def __init__(self, jaxpr: Jaxpr):
        self.program = ClosedJaxpr(jaxpr)
        numbers: dict[Atom, int] = {v: i for i, v in enumerate(jaxpr.invars)}
        rows: list[Any] = [(v.aval, v.name) for v in jaxpr.invars]
        for eqn in jaxpr.eqns:
            operands = [numbers[a] if a in numbers else atom_key(a) for a in eqn.invars]
            rows.append((eqn.primitive, exact(tuple(eqn.params.items())), *operands, eqn.source))
            for v in eqn.outvars:
                numbers[v] = len(numbers)
        rows.extend(numbers[a] if a in numbers else atom_key(a) for a in jaxpr.outvars)
        self.key = tuple(rows)

    def __eq__(self, other: object) -> bool:
        return type(other) is _Traced and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@functools.lru_cache(maxsize=256)
def _first_like(traced: _Traced) -> ClosedJaxpr:
    return traced.program


def _seen(jaxpr: Jaxpr) -> ClosedJaxpr:
    """The program, or one seen before that is equal: what was derived from that serves again."""
    if _holds_arrays(jaxpr):
        return ClosedJaxpr(jaxpr)  # to be kept no longer than the user keeps them
    traced = _Traced(jaxpr)
    try:
        return _first_like(traced)
    except TypeError:  # a parameter that cannot be hashed
        return traced.program


def _holds_arrays(jaxpr: Jaxpr) -> bool:
    subs = [sub for eqn in jaxpr.eqns for _, sub in sub_jaxprs(eqn.params)]
    return any(sub.consts or _holds_arrays(sub.jaxpr) for sub in subs)
