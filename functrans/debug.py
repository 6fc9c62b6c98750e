"""Looking inside of traced and compiled code: print, call back, stop, check.

    @functrans.jit
    def step(x):
        functrans.debug.print("x = {:.3f}", x)
        functrans.debug.check(x > 0, "x must be positive, got {}", x)
        return np.log(x)

Each of these is an equation of the program with an effect (see `callbacks`): it runs as often as
the program comes by, in the order of the program, whether the program is compiled or not. Under
`vmap` it runs once per example; derivatives see values, not tangents, and run it once.
"""

from __future__ import annotations

import builtins
import code
import functools
import re
import string
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from functrans.arguments import function_name
from functrans.callbacks import call_for_effect
from functrans.core import get_aval, is_array
from functrans.errors import CheckError
from functrans.kernel_calls import brief
from functrans.pytree import tree_leaves


def print(fmt: str, *args: Any, ordered: bool = True, **kwargs: Any) -> None:
    """Print `fmt.format(*args, **kwargs)` with the values that traced arguments have at run time.

    What is printed always comes in the order of the program; `ordered` is for JAX's sake.

    >>> import functrans as ft
    >>> f = lambda x: ft.debug.print("x = {x:.2f}", x=x) or x * x
    >>> ft.jit(ft.grad(f))(3.0)
    x = 3.00
    np.float64(6.0)

    Raises ValueError for arguments that `fmt` does not use, as under an f-string.
    """
    _check_format(fmt, args, kwargs, "debug.print")
    call_for_effect(functools.partial(_print, fmt), "debug.print", args, kwargs)


def _print(fmt: str, /, *args: Any, **kwargs: Any) -> None:
    builtins.print(fmt.format(*args, **kwargs))


def callback(
    callback: Callable[..., Any], *args: Any, ordered: bool = False, **kwargs: Any
) -> None:
    """Call a Python function with the values that traced arguments have at run time.

    What it returns is ignored. Arguments that are no arrays are handed on as they are. Calls always
    come in the order of the program; `ordered` is for JAX's sake.
    """
    if not callable(callback):
        raise TypeError(f"debug.callback takes a function, got {brief(callback)}.")
    call_for_effect(callback, f"debug.callback of {function_name(callback)}", args, kwargs)


def check(predicate: Any, message: str, *args: Any, **kwargs: Any) -> None:
    """Raise CheckError, a ValueError, where `predicate` is false at run time, also in a part of it.

    The error's message is `message.format(*args, **kwargs)`, with the values of traced arguments.

    >>> import functrans as ft
    >>> f = ft.jit(lambda x: ft.debug.check(x > 0, "x must be positive, got {}", x))
    >>> try:
    ...     f(-1.0)
    ... except ValueError as error:
    ...     str(error)
    'x must be positive, got -1.0'
    """
    if not is_array(predicate) or get_aval(predicate).dtype != np.dtype(bool):
        raise TypeError(
            f"debug.check takes a bool that must hold, or an array of them, got {brief(predicate)}."
            "\n  Write a comparison: debug.check(x > 0, 'x must be positive, got {}', x)."
        )
    _check_format(message, args, kwargs, "debug.check")
    function = functools.partial(_raise_unless, message)
    call_for_effect(function, "debug.check", (predicate, *args), kwargs)


def _raise_unless(message: str, holds: Any, /, *args: Any, **kwargs: Any) -> None:
    if not np.all(holds):
        raise CheckError(message.format(*args, **kwargs))


def breakpoint() -> None:
    """Stop at run time in a Python prompt that knows the caller's local variables.

    Those are known that are trees of arrays, by the values they have then. Ctrl-D goes on.
    """
    frame = sys._getframe(1)
    known = {k: v for k, v in frame.f_locals.items() if all(map(is_array, tree_leaves(v)))}
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    call_for_effect(functools.partial(_prompt, where), "debug.breakpoint", (known,), {})


def _prompt(where: str, variables: dict[str, Any]) -> None:
    banner = f"functrans.debug.breakpoint at {where}: {', '.join(variables) or 'no variables'}"
    code.interact(banner, local={"np": np, **variables}, exitmsg="")


class _Fields(string.Formatter):
    """Walks a format and notes which arguments it uses, without their values."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        first = re.split(r"[.\[]", field_name, maxsplit=1)[0]
        key = int(first) if first.isdigit() else first
        return self.get_value(key, args, kwargs), key

    def format_field(self, value: Any, format_spec: str) -> str:
        return ""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return value

    def check_unused_args(self, used_args: Any, args: Any, kwargs: Any) -> None:
        names = [*range(len(args)), *kwargs]
        unused = [name for name in names if name not in used_args]
        if unused:
            raise ValueError(f"arguments {unused} have no place in it")


def _check_format(fmt: Any, args: Any, kwargs: dict[str, Any], what: str) -> None:
    """Raise now what formatting would raise at run time, and ValueError for unused arguments."""
    if not isinstance(fmt, str):
        raise TypeError(f"{what} takes a format string first, got {brief(fmt)}.")
    try:
        _Fields().vformat(fmt, args, kwargs)
    except (ValueError, IndexError, KeyError) as error:
        error.add_note(
            f"in the format {fmt!r} of {what}: write '{{}}' or '{{name}}' where a value goes, and "
            "pass the value as an argument (not in an f-string)."
        )
        raise


__all__ = ["breakpoint", "callback", "check", "print"]
