"""Arguments of a jitted function that are static, seen by it as they are, or donated."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans.arguments import function_name
from functrans.pytree import PyTreeDef


class Static:
    """The static arguments of a call."""

    __slots__ = ("by_name", "by_position")

    def __init__(self, by_position: dict[int, Any], by_name: dict[str, Any]):
        self.by_position = by_position
        self.by_name = by_name

    def key(self) -> Any:
        """What tells them from those of other calls."""
        places = (*self.by_position.items(), *sorted(self.by_name.items()))
        return tuple((place, _static_key(value, place)) for place, value in places)

    def rest(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments that are traced."""
        if not self.by_position and not self.by_name:
            return args, kwargs
        dynamic = tuple(x for i, x in enumerate(args) if i not in self.by_position)
        return dynamic, {k: v for k, v in kwargs.items() if k not in self.by_name}

    def merged(self, traced: Sequence[Any]) -> list[Any]:
        """The positional arguments, with traced ones in place of those that are traced."""
        full = list(traced)
        for n in sorted(self.by_position):
            full.insert(n, self.by_position[n])
        return full


NONE_STATIC = Static({}, {})
Places = tuple[tuple[int, ...], tuple[str, ...]]  # positions and names of arguments
NOWHERE: Places = ((), ())


class _ArrayByContent:
    """A static ndarray argument: equal contents are the same program."""

    def __init__(self, x: np.ndarray):
        self.key = (x.shape, x.dtype.str, x.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ArrayByContent) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _static_key(value: Any, place: int | str) -> Any:
    if isinstance(value, np.ndarray):
        return _ArrayByContent(value)
    try:
        hash(value)
    except TypeError:
        raise ValueError(
            f"the static argument {place!r} = {value!r} of type {type(value).__name__} is not "
            "hashable, so calls cannot be told apart by it.\n  Pass a tuple instead of a list, or "
            "a frozen dataclass."
        ) from None
    return type(value), value


def complete_places(
    fun: Callable[..., Any], argnums: tuple[int, ...], argnames: tuple[str, ...], what: str
) -> Places:
    """Complete positions by names and names by positions, as far as the signature tells.

    `what` is the word in the names of the options, for errors: "static" or "donate".
    """
    if not argnums and not argnames:
        return (), ()
    try:
        parameters = list(inspect.signature(fun).parameters.values())
    except (ValueError, TypeError):
        return tuple(sorted(argnums)), argnames
    positional = [
        p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    accepts_more = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    nums = {n + len(positional) if n < 0 else n for n in argnums}
    for n in nums:
        if n >= len(positional) and not accepts_more:
            raise ValueError(
                f"jit of {function_name(fun)}: {what}_argnums has {n}, but the function takes "
                f"{len(positional)} positional argument(s) ({', '.join(positional)})."
            )
    known = {p.name for p in parameters}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in argnames:
        if name not in known and not open_ended:
            raise ValueError(
                f"jit of {function_name(fun)}: {what}_argnames has {name!r}, which is not a "
                f"parameter ({', '.join(p.name for p in parameters)})."
            )
    names = set(argnames) | {positional[n] for n in nums if n < len(positional)}
    nums |= {i for i, name in enumerate(positional) if name in names}
    return tuple(sorted(nums)), tuple(sorted(names))


def donated_leaves(tree: PyTreeDef, places: Places, static: Static) -> tuple[int, ...]:
    """Which leaves of the traced arguments, of structure `tree`, are in donated ones."""
    args, kwargs = tree.kids
    count = len(args.kids) + len(static.by_position)
    positions = [i for i in range(count) if i not in static.by_position]
    names = kwargs.aux.ordered if kwargs.kids else ()
    donated = [i in places[0] for i in positions] + [name in places[1] for name in names]
    leaves, at = [], 0
    for kid, is_donated in zip((*args.kids, *kwargs.kids), donated, strict=True):
        if is_donated:
            leaves.extend(range(at, at + kid.num_leaves))
        at += kid.num_leaves
    return tuple(leaves)
