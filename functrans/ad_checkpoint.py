"""What goes with `checkpoint`: names for policies, and a list of what reverse mode keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from functrans import checkpoint_policies, pytree
from functrans.arguments import (
    abstract,
    argument_names,
    check_leaves,
    flatten_outputs,
    function_name,
)
from functrans.core import Tracer, is_weak, source_text
from functrans.interpreters.linearize import linearize_flat
from functrans.interpreters.rematerialize import is_call, name_primitive
from functrans.interpreters.staging import trace_to_jaxpr
from functrans.ir import Atom, ClosedJaxpr, Jaxpr, JaxprEqn, Literal, ShapedArray


def checkpoint_name(x: Any, name: str) -> Any:
    """`x`, a pytree, whose leaves policies know by `name`; see `save_only_these_names`."""
    return pytree.tree_map(lambda leaf: name_primitive(leaf, name=name), x)


def print_saved_residuals(f: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Print each value that reverse mode of `f` keeps at these arguments, and its origin.

    >>> import numpy as np
    >>> print_saved_residuals(lambda x, y: np.sum(x * y), np.ones(3), np.ones(3))
    f64[3] from the argument x
    f64[3] from the argument y
    """
    for aval, origin in saved_residuals(f, *args, **kwargs):
        print(aval, origin)


def saved_residuals(
    f: Callable[..., Any], *args: Any, **kwargs: Any
) -> list[tuple[ShapedArray, str]]:
    """What `print_saved_residuals` prints, as pairs of a type and an origin."""
    what = f"saved_residuals of {function_name(f)}"
    leaves, tree = pytree.tree_flatten((args, kwargs))
    names = argument_names(f, args, kwargs)
    check_leaves(leaves, lambda: names, what)
    weak = [is_weak(x) for x in leaves]

    def flat(*tracers: Any) -> list[Any]:
        traced_args, traced_kwargs = pytree.tree_unflatten(tree, tracers)
        return flatten_outputs(f(*traced_args, **traced_kwargs), what)[0]

    def residuals(*tracers: Any) -> list[Any]:
        _, tape = linearize_flat(flat, tracers, weak)
        return [a.val for a in tape.literals() if isinstance(a.val, Tracer | np.ndarray)]

    avals = [abstract(x) for x in leaves]
    closed = trace_to_jaxpr(residuals, avals, names=names, weak=weak, what=what)
    jaxpr = closed.jaxpr
    defined = [*jaxpr.invars, *jaxpr.constvars, *(v for eqn in jaxpr.eqns for v in eqn.outvars)]
    kept = set(jaxpr.outvars)
    return [(v.aval, _origin(v, jaxpr)) for v in defined if v in kept]


def _origin(atom: Atom, jaxpr: Jaxpr) -> str:
    """Where a value of a program comes from, in words; what calls return, from inside of them."""
    eqn = _definition(atom, jaxpr)
    while eqn is not None and is_call(eqn):
        called: ClosedJaxpr = eqn.params["jaxpr"]
        inside = called.jaxpr.outvars[eqn.outvars.index(atom)]  # type: ignore[arg-type]
        if inside in called.jaxpr.invars:
            atom = eqn.invars[called.jaxpr.invars.index(inside)]  # type: ignore[arg-type]
        else:
            atom, jaxpr = inside, called.jaxpr
        eqn = _definition(atom, jaxpr)
    if eqn is not None:
        is_named = eqn.primitive is name_primitive
        how = f"named {eqn.params['name']!r}" if is_named else f"output of {eqn.primitive.name}"
        return f"{how} from {source_text(eqn.source)}"
    if type(atom) is Literal:
        return "from a literal"
    if atom in jaxpr.constvars:
        return "from a constant"
    return f"from the argument {atom.name}"  # type: ignore[union-attr]


def _definition(atom: Atom, jaxpr: Jaxpr) -> JaxprEqn | None:
    return next((eqn for eqn in jaxpr.eqns if atom in eqn.outvars), None)


__all__ = ["checkpoint_name", "checkpoint_policies", "print_saved_residuals", "saved_residuals"]
