"""What loops and branches have in common: their functions as programs without constants.

Everything that a function closes over becomes an operand, so that a program in a parameter is code
alone. A carry that comes back as another type than it went in is refused, with its name.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from functrans import pytree
from functrans.arguments import check_leaves, flatten_outputs, function_name, leaf_names
from functrans.compiler.jaxprs.simplify import inline_calls
from functrans.core import Primitive, Tracer, axis_environment, get_aval, is_weak
from functrans.interpreters.staging import hoist_consts, trace_to_jaxpr
from functrans.ir import ClosedJaxpr, Jaxpr, ShapedArray
from functrans.jit import jit_primitive
from functrans.stages import executable_of


class Body(NamedTuple):
    """A traced function: its program over (consts, arguments), the operands for the consts."""

    jaxpr: ClosedJaxpr
    consts: list[Any]
    tree: Any  # of what it returns
    weak: list[bool]  # which results stand for Python scalars


# Bodies by the user's function that they come from: a loop that is called again is not traced
# again, as a jitted function is not. Of a function made anew at each call nothing is found here.
_bodies: weakref.WeakKeyDictionary[Any, dict[Any, Body]] = weakref.WeakKeyDictionary()


def trace_body(
    fun: Callable[..., Any],
    tree: Any,
    avals: Sequence[ShapedArray],
    weak: Sequence[bool],
    what: str,
    *,
    owner: Sequence[Any] = (),
) -> Body:
    """Trace `fun` for arguments, a tuple of structure `tree`.

    `owner` is the user's function that `fun` calls, and what else `fun` depends on.
    """
    user, *rest = owner or (fun,)
    try:
        known = _bodies.setdefault(user, {})
    except TypeError:  # an object without weak references, or without a hash
        return _trace_body(fun, tree, avals, weak, what)
    key = (tree, tuple(avals), tuple(weak), *rest, axis_environment())
    if key not in known:
        body = _trace_body(fun, tree, avals, weak, what)
        if any(isinstance(c, Tracer) for c in body.consts):
            return body
        known[key] = body
    return known[key]


def _trace_body(
    fun: Callable[..., Any],
    tree: Any,
    avals: Sequence[ShapedArray],
    weak: Sequence[bool],
    what: str,
) -> Body:
    found: list[Any] = []

    def flat(*leaves: Any) -> list[Any]:
        result = fun(*pytree.tree_unflatten(tree, leaves))
        outs, structure = flatten_outputs(result, what)
        found.extend([structure, [is_weak(y) for y in outs]])
        return outs

    closed = trace_to_jaxpr(flat, avals, weak=weak, what=what)
    if _calls_hold_arrays(closed):
        closed = inline_calls(closed)
    closed, consts = hoist_consts(closed, lambda _: True)
    return Body(closed, consts, *found)


def _calls_hold_arrays(closed: ClosedJaxpr) -> bool:
    """Whether a jitted function that is called closes over arrays."""
    called = [eqn.params["jaxpr"] for eqn in closed.eqns if eqn.primitive.name == "jit"]
    return any(c.consts or _calls_hold_arrays(c) for c in called)


def arguments_of(what: str, root: str, tree: Any) -> tuple[list[Any], Any]:
    """Leaves and structure of an argument. Raises TypeError for one that is not of arrays."""
    leaves, structure = pytree.tree_flatten(tree)
    check_leaves(leaves, lambda: leaf_names(root, tree), what)
    return leaves, structure


# ---------------------------------------------------------------------------- carries


def fixed_carry(
    what: str, trace: Callable[[list[Any]], tuple[Body, Any]], init: list[Any], init_tree: Any
) -> tuple[Body, list[Any]]:
    """The body and the initial carry for which it returns what it takes.

    `trace(init)` gives the body and the structure of the carry it returns. Python scalars in `init`
    take the dtype that the body makes of them.
    """
    for _ in range(3):
        body, out_tree = trace(init)
        if out_tree != init_tree:
            raise TypeError(
                f"{what}: the carry has the structure\n    {init_tree}\n  but the body returns\n"
                f"    {out_tree}\n  Return a carry of the structure of the initial one."
            )
        outs = body.jaxpr.out_avals[: len(init)]
        settled = list(map(_settled, init, outs, body.weak))
        if all(a is b for a, b in zip(settled, init, strict=True)):
            break
        init = settled
    _check_carry(what, init, outs, init_tree)
    return body, init


def _settled(x: Any, aval: ShapedArray, weak: bool) -> Any:
    """A Python scalar as the NumPy scalar that the body makes of it."""
    if not is_weak(x) or (weak and get_aval(x).dtype == aval.dtype) or get_aval(x).shape:
        return x
    if not np.can_cast(get_aval(x).dtype, aval.dtype, "same_kind"):
        return x
    return (
        aval.dtype.type(x) if isinstance(x, (bool, int, float, complex)) else x.astype(aval.dtype)
    )


def _check_carry(what: str, init: Sequence[Any], outs: Sequence[ShapedArray], tree: Any) -> None:
    avals = [get_aval(x) for x in init]
    names = leaf_names("carry", pytree.tree_unflatten(tree, [0.0] * len(init)))
    wrong = [
        f"    {name}: {a} goes in, {b} comes out"
        for name, a, b in zip(names, avals, outs, strict=True)
        if a != b
    ]
    if wrong:
        lines = "\n".join(wrong)
        raise TypeError(
            f"{what}: the body changes the type of the carry, which every iteration must keep:\n"
            f"{lines}\n  Begin with the type that comes out, np.zeros(shape, dtype), or convert in "
            "the body: x.astype(dtype), x.reshape(shape)."
        )


# ---------------------------------------------------------------------------- programs


def reordered(
    closed: ClosedJaxpr, inputs: Sequence[int], outputs: Sequence[int] | None = None
) -> ClosedJaxpr:
    """The program that takes its inputs in another order: input i is the old input `inputs[i]`.

    Its outputs are those at `outputs`, all of them where that is None.
    """
    key = ("reordered", tuple(inputs), outputs if outputs is None else tuple(outputs))
    if key not in closed.derived:
        jaxpr = closed.jaxpr
        invars = [jaxpr.invars[i] for i in inputs]
        outvars = jaxpr.outvars if outputs is None else [jaxpr.outvars[i] for i in outputs]
        new = Jaxpr(jaxpr.constvars, invars, outvars, jaxpr.eqns)
        closed.derived[key] = ClosedJaxpr(new, closed.consts)
    return closed.derived[key]


def run_compiled(closed: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    """The results of a program on arrays; under `debug_nans` it is looked into."""
    return jit_primitive(*args, jaxpr=closed)


class ControlFlow(Primitive):
    """A primitive whose parameters hold programs: evaluated, it is a compiled program of one."""

    multiple_results = True

    def impl(self, *args: Any, **params: Any) -> list[Any]:  # type: ignore[override]
        return executable_of(self._program(args, params))(args)

    def _program(self, args: Sequence[Any], params: dict[str, Any]) -> ClosedJaxpr:
        avals = tuple(get_aval(x) for x in args)
        derived = next(_programs(params)).derived
        key = (self.name, avals, tuple((k, v) for k, v in params.items()))
        if key not in derived:
            bind = functools.partial(self, **params)
            derived[key] = trace_to_jaxpr(bind, avals, what=self.name)
        return derived[key]

    def host_impl(self, *args: Any, **params: Any) -> list[Any]:
        """The value where the programs inside have host steps: the loop is Python's."""
        raise self.missing("host_impl", "a body with a host step")

    def batch(self, size: int, args: Any, dims: Any, **params: Any) -> Any:
        return self.batch_named(size, args, dims, None, **params)

    def batch_named(self, size: int, args: Any, dims: Any, axis_name: Any, **params: Any) -> Any:
        """The rule under a vmap that names its axis: collectives inside refer to it."""
        raise self.missing("batch_named", "vmap")


def _programs(params: dict[str, Any]) -> Any:
    for value in params.values():
        if isinstance(value, ClosedJaxpr):
            yield value
        elif isinstance(value, tuple) and value and isinstance(value[0], ClosedJaxpr):
            yield from value


def what_of(kind: str, fun: Callable[..., Any]) -> str:
    """How a loop is called in messages: "scan of step"."""
    return f"{kind} of {function_name(fun)}"
