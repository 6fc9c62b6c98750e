"""One call of a function with rules: its trees, between the user's functions and flat operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.arguments import chosen_names, concrete_scalar, flatten_outputs
from functrans.core import Tracer, Zero, get_aval, is_array, is_weak
from functrans.core import instantiate as dense
from functrans.custom_rules.calls import Call, custom_call
from functrans.custom_rules.matching import (
    cotangents_of,
    leaf_paths,
    pair,
    rule_name,
    same_outputs,
    tangents_of,
)
from functrans.ir import ShapedArray
from functrans.pytree import (
    tree_flatten,
    tree_leaves,
    tree_structure,
    tree_unflatten,
    treedef_children,
)


@dataclass
class Rules:
    """What the user gave; a `symbolic` rule sees which tangents and cotangents are zero."""

    jvp: Callable[..., Any] | None = None
    jvp_symbolic: bool = False
    fwd: Callable[..., Any] | None = None
    bwd: Callable[..., Any] | None = None
    vjp_symbolic: bool = False
    batch: Callable[..., Any] | None = None


@dataclass(frozen=True)
class CustomVJPPrimal:
    """An argument of a forward rule with `symbolic_zeros`: its value, and whether it moves."""

    value: Any
    perturbed: bool


class Invocation:
    """A call with its arguments. Holds no traced value: those are operands.

    Operands are the leaves of the differentiable arguments, then the traced leaves of the others.
    """

    def __init__(self, name: str, fun: Callable[..., Any], rules: Rules, args: Any, fixed: Any):
        self.name, self.fun, self.rules = name, fun, rules
        self.count = len(args)
        self.fixed_at = sorted(fixed)
        self.moving_at = [i for i in range(len(args)) if i not in fixed]
        leaves, self.tree = tree_flatten(tuple(args[i] for i in self.moving_at))
        self._check(leaves)
        self.leaf_count = len(leaves)
        self.weak = [is_weak(x) for x in leaves]
        static, self.fixed_tree = tree_flatten(tuple(args[i] for i in self.fixed_at))
        self.static = [_HOLE if isinstance(x, Tracer) else x for x in static]
        self.avals = [get_aval(x) for x in leaves]
        self.outputs: tuple[Any, list[ShapedArray], list[bool]] | None = None

    def bind(self, args: Any, *, needs_rule: bool) -> Any:
        """Make the call, in the current trace, with the arguments that this was made for."""
        rules = self.rules
        leaves = tree_leaves(tuple(args[i] for i in self.moving_at))
        fixed = tree_leaves(tuple(args[i] for i in self.fixed_at))
        operands = [*map(concrete_scalar, leaves), *[x for x in fixed if isinstance(x, Tracer)]]
        call = Call(
            self.name,
            self.run,
            self.jvp if rules.jvp else None,
            self.vjp if rules.fwd else None,
            self.batch if rules.batch else None,
            (*self.weak, *[False] * (len(operands) - self.leaf_count)),
            needs_rule,
        )
        outs = custom_call(*operands, call=call)
        assert self.outputs is not None
        tree, _, weak = self.outputs
        return tree_unflatten(
            tree, [_keep_weak(y) if w else y for y, w in zip(outs, weak, strict=True)]
        )

    # ------------------------------------------------------------------------ arguments

    def names(self) -> list[str]:
        """A name per leaf of the differentiable arguments."""
        roots = chosen_names(self.fun, [0.0] * self.count, {}, self.moving_at, ())
        children = treedef_children(self.tree)
        return [
            n for root, tree in zip(roots, children, strict=True) for n in leaf_paths(tree, root)
        ]

    def _check(self, leaves: Sequence[Any]) -> None:
        for i, x in enumerate(leaves):
            if not is_array(x):
                raise TypeError(
                    f"{self.name}: the argument {self.names()[i]} = {x!r} of type "
                    f"{type(x).__name__} is not an array or a number.\n  Name what is not to be "
                    "differentiated in nondiff_argnums or nondiff_argnames."
                )
            get_aval(x)  # refuses dtypes that are not numeric

    def _split(self, operands: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The leaves of the differentiable arguments, and the other arguments."""
        leaves = _weak_where(operands[: self.leaf_count], self.weak)
        traced = iter(operands[self.leaf_count :])
        static = [next(traced) if x is _HOLE else x for x in self.static]
        return leaves, list(tree_unflatten(self.fixed_tree, static))

    def _merged(self, leaves: Sequence[Any], fixed: Sequence[Any]) -> list[Any]:
        """All arguments, in the order of the signature."""
        moving = tree_unflatten(self.tree, leaves)
        by_place = dict(zip(self.moving_at, moving, strict=True))
        by_place.update(zip(self.fixed_at, fixed, strict=True))
        return [by_place[i] for i in range(self.count)]

    def _refuse_fixed(self, moving: Sequence[bool]) -> None:
        if any(moving[self.leaf_count :]):
            roots = chosen_names(self.fun, [0.0] * self.count, {}, self.fixed_at, ())
            raise TypeError(
                f"{self.name}: a derivative in an argument of nondiff_argnums ({', '.join(roots)}) "
                "is asked for.\n  Let the rules take it as a differentiable argument, or pass "
                "functrans.lax.stop_gradient(...) of it."
            )

    # ------------------------------------------------------------------------ flat functions

    def run(self, *operands: Any) -> list[Any]:
        """The function."""
        leaves, fixed = self._split(operands)
        return self._outputs(self.fun(*self._merged(leaves, fixed)), self.name)

    def _outputs(self, out: Any, what: str) -> list[Any]:
        """The leaves of an output, the same as in other runs of this call."""
        leaves, tree = flatten_outputs(out, what)
        if self.outputs is not None:
            return same_outputs(leaves, tree, *self.outputs[:2], what)
        self.outputs = tree, [get_aval(y) for y in leaves], [is_weak(y) for y in leaves]
        return [concrete_scalar(y) for y in leaves]

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The rule for forward mode."""
        rules = self.rules
        assert rules.jvp is not None
        self._refuse_fixed([type(t) is not Zero for t in tangents])
        leaves, fixed = self._split(primals)
        moving = tangents[: self.leaf_count]
        given = list(moving) if rules.jvp_symbolic else [dense(t) for t in moving]
        given = _weak_where(given, self.weak)
        what = rule_name("defjvp", rules.jvp, self.name)
        trees = tree_unflatten(self.tree, leaves), tree_unflatten(self.tree, given)
        result = rules.jvp(*fixed, *trees)
        out, dots = pair(result, what, "(outputs, tangents of the outputs)")
        outs = self._outputs(out, what)
        weak = [is_weak(y) for y in tree_leaves(out)]
        return outs, tangents_of(dots, outs, tree_structure(out), what, weak)

    def vjp(self, operands: Sequence[Any], moving: Sequence[bool]) -> Any:
        """The forward rule: outputs, residuals, and the backward rule for them."""
        rules = self.rules
        assert rules.fwd is not None
        self._refuse_fixed(moving)
        leaves, fixed = self._split(operands)
        if rules.vjp_symbolic:
            leaves = [CustomVJPPrimal(x, m) for x, m in zip(leaves, moving, strict=False)]
        what = rule_name("defvjp forward", rules.fwd, self.name)
        result = rules.fwd(*self._merged(leaves, fixed))
        out, kept = pair(result, what, "(outputs, residuals)")
        outs = self._outputs(out, what)
        parts, tree = tree_flatten(kept)
        static = [_HOLE if is_array(x) else x for x in parts]
        arrays = [concrete_scalar(x) for x in parts if is_array(x)]
        weak = [is_weak(x) for x in parts if is_array(x)]
        extra = len(operands) - self.leaf_count

        def pull(known: Sequence[Any], cts: Sequence[Any]) -> list[Any]:
            given = iter(_weak_where(known[: len(weak)], weak))
            residuals = tree_unflatten(tree, [next(given) if x is _HOLE else x for x in static])
            traced = known[len(known) - extra :]
            return self._pull(residuals, traced, cts, moving)

        return outs, [*arrays, *operands[self.leaf_count :]], pull

    def _pull(self, residuals: Any, traced: Sequence[Any], cts: Any, moving: Any) -> list[Any]:
        """The backward rule: a cotangent per operand."""
        rules = self.rules
        assert rules.bwd is not None
        assert self.outputs is not None
        rest = iter(traced)
        static = [next(rest) if x is _HOLE else x for x in self.static]
        fixed = tree_unflatten(self.fixed_tree, static)
        given = list(cts) if rules.vjp_symbolic else [dense(c) for c in cts]
        tree, _, weak = self.outputs
        what = rule_name("defvjp backward", rules.bwd, self.name)
        result = rules.bwd(*fixed, residuals, tree_unflatten(tree, _weak_where(given, weak)))
        trees = treedef_children(self.tree)
        found = cotangents_of(result, trees, self.avals, self.names(), what, self.weak)
        pairs = zip(found, moving, strict=False)
        return [
            *[c if m else Zero(get_aval(c)) for c, m in pairs],
            *[Zero(get_aval(x).tangent_aval()) for x in traced],
        ]

    def batch(self, size: int, batched: Sequence[bool], *operands: Any) -> Any:
        """The rule for `vmap`."""
        rules = self.rules
        assert rules.batch is not None
        leaves, fixed = self._split(operands)
        flags = iter(batched[self.leaf_count :])
        on = [next(flags) if x is _HOLE else False for x in self.static]
        in_batched = self._merged(
            batched[: self.leaf_count], list(tree_unflatten(self.fixed_tree, on))
        )
        what = rule_name("def_vmap", rules.batch, self.name)
        result = rules.batch(size, in_batched, *self._merged(leaves, fixed))
        out, out_batched = pair(result, what, "(outputs, which of them are batched)")
        outs, tree = flatten_outputs(out, what)
        which, which_tree = tree_flatten(out_batched)
        if which_tree != tree or not all(isinstance(b, bool | np.bool_) for b in which):
            raise TypeError(
                f"{what} must say of each output whether it is batched, by a bool: outputs of the "
                f"structure {tree} came with {out_batched!r}."
            )
        self._check_batch(outs, which, tree, size, what)
        return [concrete_scalar(y) for y in outs], [bool(b) for b in which]

    def _check_batch(self, outs: Any, which: Any, tree: Any, size: int, what: str) -> None:
        avals = []
        for y, is_batched in zip(outs, which, strict=True):
            aval = get_aval(y)
            if is_batched and aval.shape[:1] != (size,):
                raise TypeError(
                    f"{what} returned {aval} as a batched output for a batch of {size}: the batch "
                    "axis of an output comes first."
                )
            avals.append(aval.update(shape=aval.shape[1:]) if is_batched else aval)
        if self.outputs is None:
            self.outputs = tree, avals, [False] * len(avals)
        elif (tree, avals) != self.outputs[:2]:
            raise TypeError(
                f"{what} returned, of one example, {tree} of {avals}; the function returns "
                f"{self.outputs[0]} of {self.outputs[1]}."
            )


_HOLE = object()  # where a traced value or an array goes


def _weak_where(xs: Sequence[Any], weak: Sequence[bool]) -> list[Any]:
    """Values with those marked that stand for Python scalars."""
    return [_as_weak(x) if w else x for x, w in zip(xs, weak, strict=True)]


def _as_weak(x: Any) -> Any:
    if type(x) is Zero or np.ndim(x) or get_aval(x).dtype == dtypes.float0:
        return x
    if not isinstance(x, Tracer):
        return x.item() if isinstance(x, np.generic | np.ndarray) else x
    if x.weak_type:
        return x
    return _keep_weak(ops.convert_element_type(x, dtype=x.dtype))


def _keep_weak(x: Any) -> Any:
    if isinstance(x, Tracer):
        x.weak_type = True
        return x
    return x.item() if isinstance(x, np.generic) else x
