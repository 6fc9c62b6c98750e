"""Which operation made a nan?

A `NanTrace` handles plain values, as `EvalTrace` does: it runs each operation in the trace below
and looks at the results. Nan from operands without nan is an error that names the operation and the
user's line. A jitted program, loop or branch runs compiled; where it gives nan, it runs again,
operation by operation. With effects it runs only so: what it does must not be done twice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from functrans.config import checking_nans, switches
from functrans.core import (
    Primitive,
    Trace,
    Tracer,
    current,
    current_trace,
    eqn_source,
    get_aval,
    source_text,
)
from functrans.interpreters.staging import eval_jaxpr
from functrans.ir import ClosedJaxpr, sub_jaxprs


class NanTrace(Trace):
    """Runs operations in `parent` and raises FloatingPointError for those that make a nan."""

    def __init__(self, parent: Trace):
        self.parent = parent

    def process(self, primitive: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        if not switches.check_nans:
            return self._below(primitive, args, params)
        by_parts = _by_parts(primitive, args, params)
        if by_parts is not None:
            return self._run_program(primitive, args, params, by_parts)
        outs = self._below(primitive, args, params)
        results = outs if primitive.multiple_results else [outs]
        if _any_nan(results) and not _any_nan(args):
            raise _made_nan(primitive, args, results)
        return outs

    def _below(self, primitive: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        with current(self.parent), np.errstate(invalid="ignore"):
            return primitive(*args, **params)

    def _run_program(
        self,
        primitive: Primitive,
        args: Sequence[Any],
        params: dict[str, Any],
        by_parts: Callable[[], list[Any]],
    ) -> list[Any]:
        outs = None
        if not any(sub.has_effects for _, sub in sub_jaxprs(params)):
            outs = self._below(primitive, args, params)
            if not _any_nan(outs):
                return outs
        with np.errstate(all="ignore"):  # as compiled code does
            again = by_parts()
        if outs is None:
            # Results of programs are fresh: nobody else's array is among them.
            return [y.copy() if type(y) is np.ndarray else y for y in again]
        if not _any_nan(again):
            raise FloatingPointError(
                f"{params.get('name', primitive.name)}, compiled, gave nan at "
                f"{source_text(eqn_source())}, but its operations one by one give none.\n"
                "  Overflow that rounds otherwise can do that; look at intermediate values with "
                "functrans.debug.print."
            )
        return outs


def _by_parts(
    primitive: Primitive, args: Sequence[Any], params: dict[str, Any]
) -> Callable[[], list[Any]] | None:
    """How to run the program that an operation holds operation by operation, where that is known.

    Loops and branches (`host_impl`) run in Python, which takes arrays.
    """
    if primitive.name == "jit":
        closed: ClosedJaxpr = params["jaxpr"]
        return functools.partial(eval_jaxpr, closed.jaxpr, closed.consts, *args)
    if primitive.name == "custom_call":
        return functools.partial(primitive.impl, *args, **params)
    in_python = getattr(primitive, "host_impl", None)
    if in_python is None or any(isinstance(x, Tracer) for x in args):
        return None
    return functools.partial(in_python, *args, **params)


def _any_nan(values: Sequence[Any]) -> bool:
    return any(map(_has_nan, values))


def _has_nan(x: Any) -> bool:
    value = np.asarray(x.concrete() if isinstance(x, Tracer) else x)
    return value.dtype.kind in "fc" and bool(np.isnan(value).any())


def _made_nan(
    primitive: Primitive, args: Sequence[Any], results: Sequence[Any]
) -> FloatingPointError:
    made = next(y for y in results if _has_nan(y))
    value = np.asarray(made.concrete() if isinstance(made, Tracer) else made)
    places = np.argwhere(np.isnan(value))
    where = f", first at index {tuple(map(int, places[0]))}" if value.ndim else ""
    operands = ", ".join(map(_shown, args))
    return FloatingPointError(
        f"{primitive.name} made nan: {len(places)} of {value.size} in its result "
        f"{get_aval(made)}{where}, from operands without nan: ({operands}), at "
        f"{source_text(eqn_source())}.\n  Keep its operands where it is defined, e.g. "
        "np.log(np.where(x > 0, x, 1)): a np.where around the result comes too late. Where nan is "
        "meant, write `with functrans.debug_nans(False):`."
    )


def _shown(x: Any) -> str:
    """An operand: a number by its value, an array by its type and the range of its values."""
    value = np.asarray(x.concrete() if isinstance(x, Tracer) else x)
    if value.ndim == 0:
        return str(value)
    if value.dtype.kind == "c" or not value.size:
        return str(get_aval(x))
    return f"{get_aval(x)} in [{value.min()}, {value.max()}]"


@contextmanager
def debug_nans(enable: bool = True) -> Iterator[None]:
    """Raise FloatingPointError, inside the block, where an operation makes a nan.

    That is nan in a result while no operand has any. It is looked for in what is traced and in
    functions of `functrans.numpy`; NumPy's own raise what `np.errstate(invalid="raise")` does. Of
    jitted functions the results are looked at, and the operations where nan is among these; the
    block goes around the call, not into the function. `debug_nans(False)` inside allows nan again.

    >>> import numpy as np
    >>> import functrans as ft
    >>> with ft.debug_nans():
    ...     try:
    ...         ft.jit(lambda x: np.log(x) + 1)(-1.0)
    ...     except FloatingPointError as error:
    ...         print(str(error).split(":")[0])
    log made nan
    """
    below = current_trace()
    invalid = "raise" if enable else "warn"
    with checking_nans(enable), np.errstate(invalid=invalid):
        with current(NanTrace(below) if enable else below):
            yield
