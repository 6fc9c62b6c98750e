"""Python functions called from traced code, also from compiled programs.

    scale = pure_callback(read_scale, ShapeDtypeStruct((), float), x)
    { lambda ; a:f64[3]. let b:f64[] = pure_callback[call=read_scale ...] a in (b,) }

A call is one equation, and a host step of a compiled program: Python runs between native stretches.
What it calls, how its arguments are put together and what must come back are its parameter `call`.
`vmap` calls once per lane: the equation carries the sizes of its loops over lanes and says which
operands have their axes. `pure_callback` computes: it may be dropped, merged, or given a whole
batch. `io_callback` and the functions of `functrans.debug` have effects: each call runs, in order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import dtypes
from functrans.arguments import argument_names, check_leaves, concrete_scalar, function_name
from functrans.compiler.lowering.lowering import NotNative
from functrans.core import (
    Primitive,
    Tracer,
    Zero,
    current,
    eval_trace,
    get_aval,
    is_array,
    is_weak,
    source_text,
)
from functrans.errors import MissingRule
from functrans.interpreters.batching import move_to
from functrans.ir import ShapedArray
from functrans.kernel_calls import Loops, brief, with_lanes
from functrans.pytree import PyTreeDef, tree_flatten, tree_unflatten
from functrans.source_info import Source, current_source

# ---------------------------------------------------------------------------- what is called


@dataclasses.dataclass(frozen=True)
class Call:
    """A Python function, the structure of its arguments, and the type of its results.

    `fixed` are leaves that are no arrays, with their places. `out_tree` is None where what the
    function returns is not looked at. Calls from two lines are equal, so that they can be merged.
    """

    function: Callable[..., Any]
    what: str
    in_tree: PyTreeDef
    fixed: tuple[tuple[int, Any], ...] = ()
    outs: tuple[ShapedArray, ...] = ()
    out_tree: PyTreeDef | None = None
    source: Source | None = dataclasses.field(default=None, compare=False)

    def run(self, operands: Sequence[Any]) -> list[Any]:
        """Call the function outside of every transformation; the leaves of what it returns.

        It gets copies, which it may keep and write to: compiled programs use their memory again.
        """
        leaves = [np.array(x)[()] for x in operands]
        for place, value in self.fixed:
            leaves.insert(place, value)
        args, kwargs = tree_unflatten(self.in_tree, leaves)
        try:
            with current(eval_trace):
                return self._leaves(self.function(*args, **kwargs))
        except Exception as error:
            error.add_note(f"in {self.described}")
            raise

    def _leaves(self, result: Any) -> list[Any]:
        if self.out_tree is None:
            return []
        leaves, tree = tree_flatten(result)
        if tree != self.out_tree:
            raise TypeError(
                f"{self.what} returned the structure {tree}, but result_shape_dtypes has "
                f"{self.out_tree}.\n  Return that structure, or describe what is returned."
            )
        return [self._checked(x, aval) for x, aval in zip(leaves, self.outs, strict=True)]

    def _checked(self, x: Any, aval: ShapedArray) -> Any:
        if is_array(x) and not isinstance(x, Tracer):
            actual = get_aval(x)
            number = is_weak(x) and np.can_cast(actual.dtype, aval.dtype, "same_kind")
            if actual == aval or (number and not aval.shape):
                return np.array(x, aval.dtype)[()]
        raise TypeError(
            f"{self.what} returned {brief(x)}, but result_shape_dtypes has {aval}.\n  Convert what "
            f"is returned, np.asarray(y, np.{aval.dtype}) of shape {aval.shape}, or describe it as "
            "it is by a functrans.ShapeDtypeStruct(shape, dtype)."
        )

    @property
    def described(self) -> str:
        """The call and its place, for messages."""
        return f"{self.what} at {source_text(self.source)}"

    def __repr__(self) -> str:
        return self.what


# ---------------------------------------------------------------------------- equations


class Callback(Primitive):
    """Call a Python function. Parameters: `call`, and `loops` over lanes, whose axes come first."""

    multiple_results = True

    def abstract_eval(self, *avals: ShapedArray, call: Call, loops: Loops, **_: Any) -> Any:  # type: ignore[override]
        return [with_lanes(aval, loops) for aval in call.outs]

    def impl(self, *args: Any, call: Call, loops: Loops, **params: Any) -> list[Any]:  # type: ignore[override]
        if not loops:
            return call.run(args)
        (size, flags), *rest = loops
        outs = [np.empty(a.shape, a.dtype) for a in self.abstract_eval(call=call, loops=loops)]
        for i in range(size):
            lane = [x[i] if has_axis else x for x, has_axis in zip(args, flags, strict=True)]
            try:
                results = self.impl(*lane, call=call, loops=tuple(rest), **params)
            except Exception as error:
                error.add_note(f"for example {i} of {size} under vmap")
                raise
            for out, result in zip(outs, results, strict=True):
                out[i] = result
        return outs

    def lower(self, b: Any, *operands: Any, call: Call, **_: Any) -> Any:
        """Always a host step."""
        raise NotNative(call.what)

    def jvp(self, primals: Any, tangents: Any, *, call: Call, **params: Any) -> Any:  # type: ignore[override]
        if any(dtypes.is_inexact(aval.dtype) for aval in call.outs):
            raise MissingRule(
                f"{call.described} has no derivative: what a Python function does is not known.\n"
                "  Give the function around it a rule (functrans.custom_jvp or custom_vjp), or let "
                "no derivative flow through it, by functrans.lax.stop_gradient(x)."
            )
        outs = self(*primals, call=call, **params)
        return outs, [Zero(get_aval(y).tangent_aval()) for y in outs]

    def transpose(self, ct: Any, *args: Any, call: Call, **_: Any) -> Any:  # type: ignore[override]
        raise MissingRule(
            f"{call.described} is applied to a tangent, in the rule of a derivative, so that "
            "reverse mode would have to run it backwards.\n  Write the tangent with NumPy "
            "functions, or give a rule for reverse mode (functrans.custom_vjp)."
        )

    def batch(self, size: int, args: Any, dims: Any, *, loops: Loops, **params: Any) -> Any:  # type: ignore[override]
        flags = tuple(d is not None for d in dims)
        moved = _in_front(size, args, dims)
        outs = self(*moved, loops=((size, flags), *loops), **params)
        return outs, [0] * len(outs)


def _in_front(size: int, args: Sequence[Any], dims: Sequence[int | None]) -> list[Any]:
    """The operands with the axes that they have in front."""
    return [x if d is None else move_to(x, d, 0, size) for x, d in zip(args, dims, strict=True)]


class EffectfulCallback(Callback):
    """A call that is there for what it does."""

    has_effects = True


class IoCallback(EffectfulCallback):
    """As above, with results. Parameter `ordered`: whether the calls have an order to keep."""

    def batch(self, size: int, args: Any, dims: Any, *, ordered: bool, **params: Any) -> Any:  # type: ignore[override]
        if ordered:
            raise MissingRule(
                f"{params['call'].described} is ordered, and the examples of a vmap have no order."
                "\n  Pass ordered=False to call it for one after the other, or call it outside of "
                "vmap."
            )
        return super().batch(size, args, dims, ordered=ordered, **params)


VMAP_METHODS = (
    "sequential", "sequential_unrolled", "expand_dims", "broadcast_all", "legacy_vectorized", None
)  # fmt: skip


class PureCallback(Callback):
    """A call for its value. Parameter `vmap_method`: what vmap does, see `pure_callback`."""

    def batch(self, size: int, args: Any, dims: Any, *, vmap_method: Any, **params: Any) -> Any:  # type: ignore[override]
        call: Call = params["call"]
        if vmap_method is None:
            raise MissingRule(
                f"{call.described} does not say what vmap is to do.\n  Pass "
                "vmap_method='sequential' to call it once per example; 'expand_dims' or "
                "'broadcast_all' if it takes arguments with one more axis in front."
            )
        params = {"vmap_method": vmap_method, **params}
        if vmap_method.startswith("sequential"):
            return super().batch(size, args, dims, **params)
        moved = _in_front(size, args, dims)
        if vmap_method != "legacy_vectorized":
            count = size if vmap_method == "broadcast_all" else 1
            moved = [
                move_to(x, None, 0, count) if d is None else x
                for x, d in zip(moved, dims, strict=True)
            ]
        outs = tuple(with_lanes(aval, ((size, ()),)) for aval in call.outs)
        results = self(*moved, **params | {"call": dataclasses.replace(call, outs=outs)})
        return results, [0] * len(results)


debug_callback_primitive = EffectfulCallback("debug_callback")
io_callback_primitive = IoCallback("io_callback")
pure_callback_primitive = PureCallback("pure_callback")

# ---------------------------------------------------------------------------- as users call them


def pure_callback(
    callback: Callable[..., Any],
    result_shape_dtypes: Any,
    *args: Any,
    vmap_method: str | None = None,
    **kwargs: Any,
) -> Any:
    """Call a Python function without side effects on the values of `args` and `kwargs`.

    `result_shape_dtypes` is a tree of ShapeDtypeStructs, of the structure that `callback` returns,
    which is checked. Compiled programs call it as often as they need its value, perhaps never.
    `vmap_method` says what `vmap` does: "sequential" calls it once per example; with "expand_dims"
    and "broadcast_all" it is given the batch as an axis in front of all arguments, of extent 1 or
    repeated for those that all examples share, with "legacy_vectorized" in front of the others
    alone. Results that are not floating-point have derivative 0; others are not differentiated.

    >>> import numpy as np
    >>> import functrans as ft
    >>> result = ft.ShapeDtypeStruct((), float)
    >>> ft.jit(lambda x: 2 * pure_callback(np.median, result, x))(np.array([1.0, 9.0, 2.0]))
    np.float64(4.0)
    """
    if vmap_method not in VMAP_METHODS:
        raise ValueError(f"vmap_method is one of {VMAP_METHODS}, got {vmap_method!r}.")
    what = f"pure_callback of {_name(callback, 'pure_callback')}"
    call, operands = _call(callback, what, result_shape_dtypes, args, kwargs)
    outs = pure_callback_primitive(*operands, call=call, loops=(), vmap_method=vmap_method)
    return tree_unflatten(call.out_tree, outs)  # type: ignore[arg-type]


def io_callback(
    callback: Callable[..., Any],
    result_shape_dtypes: Any,
    *args: Any,
    ordered: bool = False,
    **kwargs: Any,
) -> Any:
    """Call a Python function for what it does, exactly once wherever the program comes by.

    `result_shape_dtypes` is as in `pure_callback`; None for a function that returns None. Calls run
    in the order of the program. `vmap` calls once per example, which `ordered=True` refuses.

    >>> import numpy as np
    >>> import functrans as ft
    >>> seen = []
    >>> ft.jit(lambda x: io_callback(seen.append, None, x * 2))(3.0)
    >>> seen
    [np.float64(6.0)]
    """
    what = f"io_callback of {_name(callback, 'io_callback')}"
    call, operands = _call(callback, what, result_shape_dtypes, args, kwargs)
    outs = io_callback_primitive(*operands, call=call, loops=(), ordered=ordered)
    return tree_unflatten(call.out_tree, outs)  # type: ignore[arg-type]


def call_for_effect(function: Callable[..., Any], what: str, args: Any, kwargs: Any) -> None:
    """Call a function on values; arguments that are no arrays are handed on as they are."""
    leaves, in_tree = tree_flatten((args, kwargs))
    fixed = tuple((i, x) for i, x in enumerate(leaves) if not _is_operand(x))
    operands = [concrete_scalar(x) for x in leaves if _is_operand(x)]
    call = Call(function, what, in_tree, fixed, source=current_source())
    debug_callback_primitive(*operands, call=call, loops=())


def _is_operand(x: Any) -> bool:
    try:
        get_aval(x)
    except TypeError:
        return False
    return True


def _call(
    callback: Callable[..., Any], what: str, results: Any, args: Any, kwargs: Any
) -> tuple[Call, list[Any]]:
    """The call, whose arguments must be arrays, and its operands."""
    leaves, in_tree = tree_flatten((args, kwargs))
    check_leaves(leaves, lambda: argument_names(callback, args, kwargs), what)
    described, out_tree = tree_flatten(results)
    for x in described:
        if not hasattr(x, "shape") or not hasattr(x, "dtype"):
            raise TypeError(
                f"{what}: result_shape_dtypes has {brief(x)} in it; a result is described by "
                "functrans.ShapeDtypeStruct(shape, dtype)."
            )
    outs = tuple(ShapedArray(tuple(map(int, x.shape)), np.dtype(x.dtype)) for x in described)
    call = Call(callback, what, in_tree, (), outs, out_tree, current_source())
    return call, [concrete_scalar(x) for x in leaves]


def _name(callback: Any, what: str) -> str:
    if not callable(callback):
        raise TypeError(f"{what} takes a function, got {callback!r} of type {type(callback)}.")
    return function_name(callback)
