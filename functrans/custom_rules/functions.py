"""`custom_jvp`, `custom_vjp` and `custom_vmap`: functions with rules of their own.

All three make a `CustomFunction`, which may be given every kind of rule; they differ in what is
missed when none is given.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, overload

from functrans import control_flow, ops
from functrans.arguments import flatten_outputs, function_name
from functrans.core import Zero, current_trace, eval_trace, get_aval, is_weak
from functrans.core import instantiate as dense
from functrans.custom_rules.invocation import CustomVJPPrimal, Invocation, Rules
from functrans.custom_rules.matching import rule_name, tangents_of
from functrans.pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

P = ParamSpec("P")
R = TypeVar("R")
Rule = TypeVar("Rule", bound=Callable[..., Any])

SymbolicZero = Zero
_POSITIONAL = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
)


class CustomFunction(Generic[P, R]):
    """A function with rules of its own; see `custom_jvp`, `custom_vjp`, `custom_vmap`.

    A function may have several kinds: then forward mode runs the rule of `defjvp`, reverse mode
    those of `defvjp`, `vmap` that of `def_vmap`. Outside of transformations it is the function.
    """

    def __init__(
        self,
        fun: Callable[P, R],
        nondiff_argnums: int | Sequence[int] = (),
        nondiff_argnames: str | Sequence[str] = (),
        *,
        kind: str,
    ):
        if not callable(fun):
            raise TypeError(f"{kind} takes a function, got {fun!r} of type {type(fun).__name__}.")
        functools.update_wrapper(self, fun)
        self.fun = fun
        self.kind = kind
        self._name = function_name(fun)
        self._rules = Rules()
        try:
            self._signature = inspect.signature(fun)
        except (ValueError, TypeError):
            self._signature = None
        nums = (nondiff_argnums,) if isinstance(nondiff_argnums, int) else tuple(nondiff_argnums)
        names = (nondiff_argnames,) if isinstance(nondiff_argnames, str) else nondiff_argnames
        self.nondiff_argnums = tuple(sorted({*nums, *map(self._place_of, names)}))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if current_trace() is eval_trace:
            return self.fun(*args, **kwargs)
        full = self.positional(args, kwargs)
        fixed = {n % len(full) for n in self.nondiff_argnums if -len(full) <= n < len(full)}
        call = Invocation(self._name, self.fun, self._rules, full, fixed)
        return call.bind(full, needs_rule=self.kind != "custom_vmap")

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self) -> str:
        return f"{self.kind}({self._name})"

    # ------------------------------------------------------------------------ rules

    def defjvp(self, jvp: Rule, symbolic_zeros: bool = False) -> Rule:
        """Set the derivative for forward mode, and for reverse mode where there is no `defvjp`.

        `jvp(*nondiff, primals, tangents) -> (outputs, tangents of the outputs)`, with a tuple of
        the differentiable arguments and one of their tangents; the result must be linear in these.
        With `symbolic_zeros` a tangent that is known to be zero is a
        `custom_derivatives.SymbolicZero`, else an array of zeros. Usable as a decorator.
        """
        self._rules.jvp, self._rules.jvp_symbolic = _function(jvp, "defjvp"), symbolic_zeros
        return jvp

    def defjvps(self, *jvps: Callable[..., Any] | None) -> None:
        """Set the derivative as a sum: a term for each argument, None for zero.

        A term is `jvp(tangent, output, *args)`.
        """
        if self.nondiff_argnums:
            raise TypeError(
                f"defjvps of {self._name} has no place for nondiff_argnums; write one rule for all "
                "arguments and give it to defjvp."
            )
        self.defjvp(functools.partial(_sum_of_terms, self, jvps), symbolic_zeros=True)

    def defvjp(
        self, fwd: Callable[..., Any], bwd: Callable[..., Any], symbolic_zeros: bool = False
    ) -> None:
        """Set the derivative for reverse mode, and for forward mode where there is no `defjvp`.

        `fwd(*args) -> (outputs, residuals)`; `bwd(*nondiff, residuals, cotangents) -> a tuple with
        a cotangent for each differentiable argument`, None for zero. Forward mode transposes `bwd`,
        which then has to be linear in the cotangents. With `symbolic_zeros` the differentiable
        leaves that `fwd` gets are `CustomVJPPrimal(value, perturbed)`, and cotangents that are
        known to be zero are `SymbolicZero`s.
        """
        self._rules.fwd, self._rules.bwd = _function(fwd, "defvjp"), _function(bwd, "defvjp")
        self._rules.vjp_symbolic = symbolic_zeros

    def def_vmap(self, vmap_rule: Rule) -> Rule:
        """Set what `vmap` does instead of batching the function.

        `vmap_rule(axis_size, in_batched, *args) -> (outputs, out_batched)`: a bool for each leaf
        says whether it has the batch axis, which is in front. Usable as a decorator.
        """
        self._rules.batch = _function(vmap_rule, "def_vmap")
        return vmap_rule

    # ------------------------------------------------------------------------ arguments

    def _place_of(self, name: str) -> int:
        names = list(self._signature.parameters) if self._signature else []
        if name not in names:
            raise ValueError(
                f"{self.kind} of {self._name}: nondiff_argnames has {name!r}, but the parameters "
                f"are {names}."
            )
        return names.index(name)

    def positional(self, args: Any, kwargs: Any) -> tuple[Any, ...]:
        """The arguments by position, defaults included: so the rules get them."""
        if self._signature is None and not kwargs:
            return args
        if self._signature is None:
            raise TypeError(
                f"{self._name} has no signature by which {sorted(kwargs)} could be given positions."
            )
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        nameless = sorted(set(kwargs) & set(bound.kwargs))
        if nameless:
            raise TypeError(
                f"{self._name} has rules that take arguments by position, but {nameless} can be "
                "given by keyword alone.\n  Drop the * from the signature, or fix such arguments "
                "with functools.partial before adding rules."
            )
        return bound.args


def _function(rule: Any, what: str) -> Callable[..., Any]:
    if not callable(rule):
        raise TypeError(f"{what} takes functions, got {rule!r} of type {type(rule).__name__}.")
    return rule


def _sum_of_terms(
    fun: CustomFunction[..., Any], jvps: Sequence[Any], primals: Any, tangents: Any
) -> tuple[Any, Any]:
    """The rule for all arguments of rules for one each."""
    if len(jvps) != len(primals):
        raise TypeError(
            f"defjvps of {fun._name} was given {len(jvps)} rules for {len(primals)} arguments: one "
            "for each, None where the derivative is zero."
        )
    out = fun(*primals)
    outs, tree = flatten_outputs(out, fun._name)
    weak = [is_weak(y) for y in outs]
    total: list[Any] = [Zero(get_aval(y).tangent_aval()) for y in outs]
    for jvp, tangent in zip(jvps, tangents, strict=True):
        if jvp is None or all(type(t) is Zero for t in tree_leaves(tangent)):
            continue
        term = jvp(tree_map(dense, tangent), out, *primals)
        what = rule_name("defjvps", jvp, fun._name)
        total = list(map(_add, total, tangents_of(term, outs, tree, what, weak)))
    return out, tree_unflatten(tree, total)


def _add(x: Any, y: Any) -> Any:
    if type(x) is Zero or type(y) is Zero:
        return y if type(x) is Zero else x
    return ops.add(x, y)


# ---------------------------------------------------------------------------- declaring


@overload
def custom_jvp(
    fun: Callable[P, R],
    nondiff_argnums: int | Sequence[int] = ...,
    nondiff_argnames: str | Sequence[str] = ...,
) -> CustomFunction[P, R]: ...


@overload
def custom_jvp(
    fun: None = None,
    nondiff_argnums: int | Sequence[int] = ...,
    nondiff_argnames: str | Sequence[str] = ...,
) -> Callable[[Callable[P, R]], CustomFunction[P, R]]: ...


def custom_jvp(
    fun: Callable[..., Any] | None = None,
    nondiff_argnums: int | Sequence[int] = (),
    nondiff_argnames: str | Sequence[str] = (),
) -> Any:
    """A function whose derivative is a rule for forward mode, which serves both modes.

    >>> import numpy as np
    >>> import functrans as ft
    >>> @custom_jvp
    ... def log1pexp(x):
    ...     return np.log(1 + np.exp(x))
    >>> @log1pexp.defjvp
    ... def rule(primals, tangents):
    ...     (x,), (t,) = primals, tangents
    ...     return log1pexp(x), t * (1 - 1 / (1 + np.exp(x)))
    >>> ft.grad(log1pexp)(0.0)
    np.float64(0.5)

    Arguments in `nondiff_argnums` or `nondiff_argnames` may be any objects; the rule gets them
    first. The function and its rules are called with all arguments by position.
    """
    if fun is None:
        return functools.partial(
            custom_jvp, nondiff_argnums=nondiff_argnums, nondiff_argnames=nondiff_argnames
        )
    return CustomFunction(fun, nondiff_argnums, nondiff_argnames, kind="custom_jvp")


@overload
def custom_vjp(
    fun: Callable[P, R],
    nondiff_argnums: int | Sequence[int] = ...,
    nondiff_argnames: str | Sequence[str] = ...,
) -> CustomFunction[P, R]: ...


@overload
def custom_vjp(
    fun: None = None,
    nondiff_argnums: int | Sequence[int] = ...,
    nondiff_argnames: str | Sequence[str] = ...,
) -> Callable[[Callable[P, R]], CustomFunction[P, R]]: ...


def custom_vjp(
    fun: Callable[..., Any] | None = None,
    nondiff_argnums: int | Sequence[int] = (),
    nondiff_argnames: str | Sequence[str] = (),
) -> Any:
    """A function whose derivative is a pair of rules for reverse mode.

    >>> import numpy as np
    >>> import functrans as ft
    >>> @custom_vjp
    ... def clip_gradient(x):
    ...     return x
    >>> clip_gradient.defvjp(lambda x: (x, None), lambda _, ct: (np.clip(ct, -1, 1),))
    >>> ft.grad(lambda x: 5 * clip_gradient(x))(0.0)
    np.float64(1.0)

    Forward mode works where `bwd` is linear in the cotangent. The rest is as in `custom_jvp`.
    """
    if fun is None:
        return functools.partial(
            custom_vjp, nondiff_argnums=nondiff_argnums, nondiff_argnames=nondiff_argnames
        )
    return CustomFunction(fun, nondiff_argnums, nondiff_argnames, kind="custom_vjp")


def custom_vmap(fun: Callable[P, R]) -> CustomFunction[P, R]:
    """A function with a rule of its own for `vmap`, by its `def_vmap`.

    Derivatives are those of the function, or of the rule where the function was batched first.
    """
    return CustomFunction(fun, kind="custom_vmap")


def sequential_vmap(fun: Callable[P, R]) -> CustomFunction[P, R]:
    """A function that `vmap` applies to one example after the other, by a `lax.map`."""
    mapped = custom_vmap(fun)

    def one_by_one(size: int, in_batched: Any, *args: Any) -> Any:
        leaves, tree = tree_flatten(args)
        batched = tree_leaves(tuple(in_batched))

        def one(rows: list[Any]) -> Any:
            rest = iter(rows)
            values = [next(rest) if b else x for x, b in zip(leaves, batched, strict=True)]
            return fun(*tree_unflatten(tree, values))  # type: ignore[call-arg]

        out = control_flow.map(one, [x for x, b in zip(leaves, batched, strict=True) if b])
        return out, tree_map(lambda _: True, out)

    mapped.def_vmap(one_by_one)
    return mapped


# ---------------------------------------------------------------------------- symbolic zeros


def zero_from_primal(primal: Any, symbolic_zeros: bool = False) -> Any:
    """A zero tangent for each leaf: an array, or with `symbolic_zeros` a `SymbolicZero`."""
    zeros = tree_map(lambda x: Zero(get_aval(x).tangent_aval()), primal)
    return zeros if symbolic_zeros else tree_map(dense, zeros)


def custom_vjp_primal_tree_values(tree: Any) -> Any:
    """The values of a tree of `CustomVJPPrimal`s."""
    return tree_map(lambda x: x.value if isinstance(x, CustomVJPPrimal) else x, tree)
