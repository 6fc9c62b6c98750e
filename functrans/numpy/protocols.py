"""NumPy's functions on tracers: `__array_ufunc__`, `__array_function__`, `__array_namespace__`.

NumPy hands a call over to the tracer among its arguments, and the tables of this package say what
it means. What they lack raises a TypeError that names it and what comes near; nothing falls
through to code that would need the values.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from functrans.core import Tracer
from functrans.numpy.dispatch import NAMES, TRACED
from functrans.numpy.ufuncs import UFUNCS, UNSUPPORTED

SPECIAL: dict[str, Callable[..., Any]] = {}
"""What the ufuncs of scipy.special do on tracers, by name."""

_IN_PLACE = {
    "copyto": "np.where(mask, new, old)",
    "put": "functrans.numpy.at(x, indices).set(values)",
    "place": "np.where(mask, value, x)",
    "putmask": "np.where(mask, value, x)",
    "put_along_axis": "functrans.numpy.at(x, indices).set(values)",
    "fill_diagonal": "functrans.numpy.at(x, (i, i)).set(values) with i = np.arange(n)",
}


def array_ufunc(self: Tracer, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
    """`Tracer.__array_ufunc__`: any NumPy or SciPy ufunc, and the methods of ufuncs."""
    row = UFUNCS.get(ufunc)
    if row is not None:
        _refuse_in_place(ufunc, inputs, options)
        return (
            row.traced(*inputs, **options)
            if method == "__call__"
            else _method(row, method)(*inputs, **options)
        )
    function = TRACED.get(ufunc) or SPECIAL.get(ufunc.__name__)
    if function is not None and method == "__call__":
        _refuse_in_place(ufunc, inputs, options)
        return function(*inputs, **options)
    name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
    remedy = UNSUPPORTED.get(ufunc) or _nearest(ufunc.__name__, [*NAMES, *SPECIAL])
    raise TypeError(f"{name} is not supported on traced arrays; {remedy}.")


def _method(row: Any, method: str) -> Callable[..., Any]:
    return getattr(row, method)


def _refuse_in_place(ufunc: np.ufunc, inputs: Any, options: dict[str, Any]) -> None:
    out = options.get("out")
    if out is None:
        return
    if any(o is x for o in out for x in inputs):
        name = ufunc.__name__
        raise TypeError(
            f"an array cannot be changed in place by a traced value (numpy.{name} with out=, as in "
            f"`a += x`).\n  Write `a = a + x` (here: a = np.{name}(a, x)), or for a part of an "
            "array `a = functrans.numpy.at(a, i).add(x)`."
        )


def array_function(
    self: Tracer, function: Callable[..., Any], types: Any, args: Any, kwargs: Any
) -> Any:
    """`Tracer.__array_function__`: any other NumPy function."""
    traced = TRACED.get(function)
    if traced is not None:
        return traced(*args, **kwargs)
    module = getattr(function, "__module__", None) or "numpy"
    name = function.__name__
    remedy = _IN_PLACE.get(name)
    remedy = f"write {remedy}" if remedy else _nearest(name, list(NAMES))
    raise TypeError(f"{module}.{name} is not supported on traced arrays; {remedy}.")


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"near it is {' or '.join(near)}"
    return "express it with functions of functrans.numpy, or compute it before tracing"


def array_namespace(self: Tracer, /, *, api_version: str | None = None) -> Any:
    """`Tracer.__array_namespace__`: `functrans.numpy`."""
    return sys.modules["functrans.numpy"]
