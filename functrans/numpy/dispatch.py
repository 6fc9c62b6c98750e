"""One name, two meanings: NumPy's own function on plain arrays, ours while something is traced.

`@implements(np.foo)` above a function written with ops makes it both the public
`functrans.numpy.foo` and what `np.foo` does on tracers (`Tracer.__array_function__`). Called with
no transformation under way, the public function *is* NumPy's, at the price of one comparison: so
eager values, dtypes, views and errors are NumPy's. Otherwise the function below the decorator
runs, on tracers and arrays alike, and what it does is traced.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from functrans.core import current_trace, eval_trace

F = TypeVar("F", bound=Callable[..., Any])

TRACED: dict[Any, Callable[..., Any]] = {}
"""What each NumPy function does on tracers."""

NAMES: dict[str, Any] = {}
"""The public functions by name; `functrans.numpy` publishes them."""


def implements(*numpy_functions: Any, public: bool = True) -> Callable[[F], F]:
    """Make a function, written with ops, the traced meaning of `numpy_functions`.

    The first of them is what the public function calls when nothing is being traced.
    """

    def decorate(traced: F) -> F:
        for function in numpy_functions:
            TRACED[function] = traced
        wrapper = eager_or_traced(numpy_functions[0], traced)
        if public:
            NAMES[traced.__name__] = wrapper
        return wrapper

    return decorate


def implements_linalg(name: str) -> Callable[[F], F]:
    """`implements` for a function of `numpy.linalg`."""
    return _implements_in(np.linalg, name)


def implements_fft(name: str) -> Callable[[F], F]:
    """`implements` for a function of `numpy.fft`."""
    return _implements_in(np.fft, name)


def _implements_in(module: Any, name: str) -> Callable[[F], F]:
    def decorate(traced: F) -> F:
        eager = getattr(module, name)
        TRACED[eager] = traced
        return eager_or_traced(eager, traced)

    return decorate


def eager_or_traced(eager: Callable[..., Any], traced: F) -> F:
    """A function that calls `eager` when nothing is being traced, else `traced`."""

    @functools.wraps(traced)
    def function(*args: Any, **kwargs: Any) -> Any:
        if current_trace() is eval_trace:
            return eager(*args, **kwargs)
        return traced(*args, **kwargs)

    return cast(F, function)


def public(traced: F) -> F:
    """Publish a function that has no counterpart in NumPy, or is the same traced and eager."""
    NAMES[traced.__name__] = traced
    return traced
