"""Arguments of a user's function: flattening, names for messages, and what may be one.

Every leaf of an argument has a name made of the parameter's name and its path in the pytree:
`params['w'][0]`. Errors use it, and jaxprs can print it.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from functrans import dtypes
from functrans.core import Tracer, get_aval, is_array
from functrans.ir import ShapedArray
from functrans.pytree import keystr, tree_flatten, tree_flatten_with_path


def function_name(f: Callable[..., Any]) -> str:
    """How a function is called in messages."""
    while isinstance(f, functools.partial):
        f = f.func
    return getattr(f, "__name__", None) or type(f).__name__


def argument_names(f: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> list[str]:
    """A name per leaf of `(args, kwargs)`."""
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (ValueError, TypeError):
        parameters = []
    names: list[str] = []
    variadic, first = "", 0
    for i, arg in enumerate(args):
        p = parameters[i] if i < len(parameters) else None
        if p is not None and p.kind is p.VAR_POSITIONAL:
            variadic = p.name
            first = i
        plain = p is not None and not variadic
        root = p.name if plain else f"{variadic or 'args'}[{i - first}]"  # type: ignore[union-attr]
        names.extend(leaf_names(root, arg))
    for key in sorted(kwargs):
        names.extend(leaf_names(key, kwargs[key]))
    return names


def chosen_names(
    fun: Callable[..., Any], args: Any, kwargs: Any, argnums: Sequence[int], keys: Sequence[str]
) -> list[str]:
    """A name per leaf of the chosen positional and keyword arguments, kwargs sorted by key."""
    roots = argument_names(fun, [0.0] * len(args), {})
    names: list[str] = []
    for i in argnums:
        names.extend(leaf_names(roots[i], args[i]))
    for key in sorted(keys):
        names.extend(leaf_names(key, kwargs[key]))
    return names


def leaf_names(root: str, tree: Any) -> list[str]:
    """A name per leaf of one argument."""
    if is_array(tree):
        return [root]
    return [root + keystr(path) for path, _ in tree_flatten_with_path(tree)[0]]


def check_leaves(leaves: Iterable[Any], names: Callable[[], list[str]], what: str) -> None:
    """Raise TypeError, naming the argument, for a leaf that is not an array or a number."""
    for i, x in enumerate(leaves):
        if not is_array(x) or (isinstance(x, np.ndarray | np.generic) and not _numeric(x.dtype)):
            kind = f"dtype {x.dtype}" if isinstance(x, np.ndarray) else f"type {type(x).__name__}"
            raise TypeError(
                f"{what}: the argument {names()[i]} = {_short(x)} of {kind} is not an array or a "
                "number.\n  Pass such values as static arguments (jit: static_argnums or "
                "static_argnames), or close over them; lists and dicts of arrays are fine, "
                "other containers after functrans.tree_util.register_pytree_node."
            )


def _numeric(dtype: np.dtype) -> bool:
    return dtypes.is_supported(dtype) or dtype == dtypes.float0


def _short(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 60 else text[:57] + "..."


class ShapeDtypeStruct:
    """The shape and dtype of an array without its values, as `eval_shape` takes and returns."""

    __slots__ = ("dtype", "shape")

    def __init__(self, shape: Sequence[int], dtype: Any):
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, ShapeDtypeStruct)
        return same and (self.shape, self.dtype) == (other.shape, other.dtype)  # type: ignore[union-attr]

    def __hash__(self) -> int:
        return hash((self.shape, self.dtype))

    def __repr__(self) -> str:
        return f"ShapeDtypeStruct(shape={self.shape}, dtype={self.dtype})"


def abstract(x: Any) -> ShapedArray:
    """The aval of a leaf, which may be a ShapeDtypeStruct."""
    if isinstance(x, ShapeDtypeStruct):
        return ShapedArray(x.shape, x.dtype)
    return get_aval(x)


def normalize_argnums(argnums: int | Sequence[int], count: int, what: str) -> tuple[int, ...]:
    """`argnums` as positions from 0. Raises ValueError for positions that were not passed."""
    nums = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    out = tuple(n + count if n < 0 else n for n in nums)
    for n, given in zip(out, nums, strict=True):
        if not 0 <= n < count:
            raise ValueError(
                f"{what} was asked to differentiate positional argument {given}, but the call has "
                f"{count} positional argument(s). Keyword arguments go by argnames."
            )
    if len(set(out)) != len(out):
        raise ValueError(f"{what} was asked to differentiate an argument twice: argnums={argnums}.")
    return out


def concrete_scalar(x: Any) -> Any:
    """A Python scalar as the NumPy scalar that stands for it; other values as they are."""
    return dtypes.scalar_dtype(x).type(x) if type(x) in dtypes.PYTHON_SCALARS else x


def flatten_outputs(tree: Any, what: str) -> tuple[list[Any], Any]:
    """Leaves and structure of what a user's function returned; TypeError for a non-array leaf."""
    leaves, treedef = tree_flatten(tree)
    for i, y in enumerate(leaves):
        if not is_array(y):
            path = keystr(tree_flatten_with_path(tree)[0][i][0])
            raise TypeError(
                f"{what}: the function returned {_short(y)} of type {type(y).__name__} at output"
                f"{path or ' (the whole result)'}, which is not an array or a number.\n  Return "
                "arrays; for other results use has_aux where there is one, or return them "
                "from another function."
            )
    return leaves, treedef


def describe(x: Any) -> str:
    """`x` for a message: its aval, and its value when it is a small number."""
    if isinstance(x, Tracer):
        return str(x.aval)
    return f"{x!r}" if np.ndim(x) == 0 else str(get_aval(x))
