"""What the rules of a user return, checked against what it belongs to.

A rule is named with its place in the user's file, a value by the argument or output it is for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.arguments import concrete_scalar, function_name
from functrans.core import Tracer, Zero, get_aval, is_array, is_weak
from functrans.ir import ShapedArray
from functrans.pytree import (
    PyTreeDef,
    broadcast_prefix,
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_unflatten,
)


def rule_name(kind: str, rule: Callable[..., Any], function: str) -> str:
    """How a rule is called in messages: `the defjvp rule r of f (file:line)`."""
    code = getattr(inspect.unwrap(rule), "__code__", None)
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    return f"the {kind} rule {function_name(rule)} of {function}{place}"


def pair(result: Any, what: str, wanted: str) -> tuple[Any, Any]:
    """The two parts of what a rule returned; TypeError where it is no pair."""
    if isinstance(result, tuple | list) and len(result) == 2:
        return result[0], result[1]
    raise TypeError(f"{what} must return a pair, {wanted}, got {brief(result)}.")


def leaf_paths(tree: PyTreeDef, root: str) -> list[str]:
    """A name per leaf of a structure."""
    example = tree_unflatten(tree, [0] * tree.num_leaves)
    return [root + keystr(path) for path, _ in tree_flatten_with_path(example)[0]]


def output_paths(tree: PyTreeDef) -> list[str]:
    """A name per leaf of an output: `the output`, or `output['a'][0]`."""
    names = leaf_paths(tree, "output")
    return ["the output"] if names == ["output"] else names


def same_outputs(
    outs: Sequence[Any], tree: PyTreeDef, expected_tree: PyTreeDef, avals: Any, what: str
) -> list[Any]:
    """The outputs of a rule, checked against those of the function."""
    if tree != expected_tree:
        raise TypeError(
            f"{what} returned outputs of the structure {tree}, but the function returns "
            f"{expected_tree}.\n  The outputs of a rule are those of the function."
        )
    names = output_paths(tree)
    return [
        conform(x, aval, f"{what} returned {{}} as {name}, where the function returns {aval}")
        for x, aval, name in zip(outs, avals, names, strict=True)
    ]


def tangents_of(
    tangents: Any, outs: Sequence[Any], tree: PyTreeDef, what: str, weak: Sequence[bool]
) -> list[Any]:
    """The tangents that a rule returned, one per output; None and symbolic zeros are `Zero`."""
    leaves = spread(tangents, tree)
    if leaves is None:
        raise TypeError(
            f"{what} returned tangents of the structure {tree_flatten(tangents)[1]} for outputs of "
            f"the structure {tree}.\n  Return a tangent for each output, or None for zero."
        )
    out = []
    for x, y, w, name in zip(leaves, outs, weak, output_paths(tree), strict=True):
        aval = get_aval(y).tangent_aval()
        message = f"{what} returned {{}} as the tangent of {name}, which is {get_aval(y)}"
        out.append(derivative(x, aval, message, w))
    return out


def cotangents_of(
    cts: Any,
    trees: Sequence[PyTreeDef],
    avals: Sequence[ShapedArray],
    names: Sequence[str],
    what: str,
    weak: Sequence[bool],
) -> list[Any]:
    """The cotangents that a rule returned, one per leaf of the arguments; zeros are `Zero`."""
    if not isinstance(cts, tuple | list) or len(cts) != len(trees):
        raise TypeError(
            f"{what} must return a tuple with a cotangent for each of the {len(trees)} "
            f"differentiable argument(s) (None for zero), got {brief(cts)}."
        )
    out: list[Any] = []
    for place, (ct, tree) in enumerate(zip(cts, trees, strict=True)):
        leaves = spread(ct, tree)
        if leaves is None:
            raise TypeError(
                f"{what} returned for differentiable argument {place} a cotangent of the structure "
                f"{tree_flatten(ct)[1]}; the argument has {tree}.\n  Return a cotangent for each "
                "leaf of the argument, or None for zero."
            )
        for x in leaves:
            i = len(out)
            message = f"{what} returned {{}} as the cotangent of {names[i]}, which is {avals[i]}"
            out.append(derivative(x, avals[i].tangent_aval(), message, weak[i]))
    return out


def spread(tree: Any, expected: PyTreeDef) -> list[Any] | None:
    """The leaves of `tree` in the structure `expected`, or None where it has another one.

    None stands for a subtree of zeros.
    """
    leaves, found = tree_flatten(tree)
    if found == expected:
        return leaves
    is_none = lambda x: x is None  # noqa: E731
    if not any(x is None for x in tree_flatten(tree, is_none)[0]):
        return None
    example = tree_unflatten(expected, range(expected.num_leaves))
    try:
        return broadcast_prefix(tree, example, is_leaf=is_none)
    except ValueError:
        return None


def derivative(x: Any, aval: ShapedArray, message: str, is_weak_target: bool) -> Any:
    """A tangent or cotangent of type `aval`. Integers carry none, whatever is given for them.

    What belongs to a Python number may have any precision.
    """
    if x is None or type(x) is Zero or aval.dtype == dtypes.float0:
        return Zero(aval)
    if is_weak_target and is_array(x) and get_aval(x).shape == aval.shape:
        return _converted(x, aval)
    return conform(x, aval, message, zero="; for zero return None")


def conform(x: Any, aval: ShapedArray, message: str, *, zero: str = "") -> Any:
    """`x`, which must be of type `aval`, or a Python number; else TypeError with `message`."""
    if not is_array(x):
        raise TypeError(message.format(brief(x)) + ".")
    actual = get_aval(x)
    if actual == aval:
        return concrete_scalar(x)
    same_shape = actual.shape == aval.shape
    if same_shape and is_weak(x) and np.can_cast(actual.dtype, aval.dtype, "same_kind"):
        return _converted(x, aval)
    if same_shape:
        remedy = f"Convert it: .astype({str(aval.dtype)!r})."
    elif len(actual.shape) > len(aval.shape):
        remedy = f"Sum it over the axes that broadcasting added, to the shape {aval.shape}{zero}."
    else:
        remedy = f"It must have the shape {aval.shape}{zero}."
    raise TypeError(f"{message.format(brief(x))}.\n  {remedy}")


def _converted(x: Any, aval: ShapedArray) -> Any:
    if get_aval(x) == aval:
        return concrete_scalar(x)
    if isinstance(x, Tracer):
        return ops.convert_element_type(x, dtype=aval.dtype)
    return np.asarray(x).astype(aval.dtype)[()]


def brief(x: Any) -> str:
    """`x` for a message about what it should have been."""
    if isinstance(x, tuple | list):
        return f"a {type(x).__name__} of length {len(x)}"
    if not is_array(x):
        return f"{x!r} of type {type(x).__name__}"
    aval = get_aval(x)
    return str(aval) if aval.shape or isinstance(x, Tracer) else f"{x} of type {aval}"
