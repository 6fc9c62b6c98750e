"""Transformed functions for other people's compiled code: `njit` functions, C function pointers.

The other direction of `foreign`. A function is traced for the types of example arguments and
compiled; what comes out is called without Python, from any thread, and from within itself. So the
program must be native throughout. Arrays that the function closes over are read at every call,
those in another memory layout were copied when it was exported.

>>> import numba, numpy as np, functrans as ft
>>> slope = ft.export.numba(ft.grad(lambda x: np.sin(x) * x), 1.0)
>>> @numba.njit
... def newton(x):
...     for _ in range(9):
...         x -= slope(x)  # no Python here
...     return x
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from functrans import pytree
from functrans.arguments import chosen_names, describe, function_name
from functrans.compiler.lowering.lowering import HostStepError
from functrans.core import is_array
from functrans.jit import executable_of, jit
from functrans.runtime import c_entry, numba_entry, symbols
from functrans.runtime.c_entry import Described

_FLOAT64 = np.dtype(np.float64)


@dataclass(frozen=True)
class _Exported:
    """A function compiled for the types of example arguments."""

    described: Described
    names: list[str]
    single: bool

    @property
    def name(self) -> str:
        return self.described.program.name


def _exported(fun: Callable[..., Any], args: Sequence[Any], door: str) -> _Exported:
    what = f"export.{door} of {function_name(fun)}"
    for i, x in enumerate(args):
        if not is_array(x) and not (hasattr(x, "shape") and hasattr(x, "dtype")):
            raise TypeError(
                f"{what}: argument {i} is {x!r} of type {type(x).__name__}. Compiled code passes "
                "arrays and numbers, one for each argument: export a function of those, "
                "lambda w, b: f({'w': w, 'b': b})."
            )
    try:
        traced = jit(fun, host_steps="error").trace(*args)
        executable = executable_of(traced.jaxpr, name=function_name(fun), host_steps="error")
    except HostStepError as error:
        error.add_note(f"{what}: compiled code cannot go back to Python, so there is no other way.")
        raise
    single = pytree.treedef_is_leaf(traced.out_tree)
    flat = pytree.tree_structure((0,) * traced.out_tree.num_leaves)
    if not single and traced.out_tree != flat:
        raise TypeError(
            f"{what}: the result has the structure {traced.out_tree}. Compiled code returns one "
            "array or number, or a flat tuple of them: return such a tuple."
        )
    names = chosen_names(fun, args, {}, range(len(args)), [])
    return _Exported(Described(executable.described()), names, single)


# ---------------------------------------------------------------------------- Numba


def numba(fun: Callable[..., Any], *args: Any) -> Any:
    """`fun`, compiled for arguments like `args`, as a function to call from `njit` functions.

    `args` are arrays, numbers or ShapeDtypeStructs. In nopython code the result takes C-contiguous
    arrays of exactly these dtypes and shapes, numbers for arguments without axes, and returns fresh
    arrays and numbers; a tuple where `fun` does. Called from Python, it is an `njit` function too.

    Another shape raises ValueError with both shapes; another type Numba's TypingError, when the
    calling function is compiled. Raises TypeError for arguments and results that are other trees,
    HostStepError for operations that run in Python.
    """
    made = _exported(fun, args, "numba")
    return numba_entry.dispatcher(made.described, made.names, single=made.single)


# ---------------------------------------------------------------------------- C


@dataclass(frozen=True)
class CFunction:
    """A compiled function for C callers, valid while this object or its `ctypes` is alive."""

    name: str
    signature: str
    address: int
    ctypes: Any = field(repr=False)

    def __post_init__(self) -> None:
        self.ctypes.__name__ = self.name


def cfunc(fun: Callable[..., Any], *args: Any, numbers: bool = False) -> CFunction:
    """`fun`, compiled for arguments like `args`, as a C function: `.address`, `.ctypes`.

    It is `int32_t f(void **buffers)`, where `buffers` point to the inputs, then to the outputs,
    C-contiguous and aligned to their elements; outputs must not overlap anything. With `numbers`,
    for float64 numbers in and one out, it is `double f(double, ...)`. It may be called from any
    thread, with or without Python's lock. Where a call fails the result is 1, or nan, and
    `sys.unraisablehook` shows the first error of each kind.

    Raises TypeError for other arguments and results, HostStepError for operations that run in
    Python.
    """
    made = _exported(fun, args, "cfunc")
    if not numbers:
        address, kind = c_entry.with_buffers(made.described), (ctypes.c_int32, ctypes.c_void_p)
        return _c_function(made, address, kind, "int32_t f(void **buffers)")
    _require_numbers(made, made.described.program.inputs, "cfunc with numbers=True")
    count = len(args)
    kind = (ctypes.c_double,) * (count + 1)
    signature = f"double f({', '.join(['double'] * count)})"
    return _c_function(made, c_entry.of_numbers(made.described), kind, signature)


def low_level_callable(fun: Callable[..., Any], *args: Any, user_data: Any = None) -> Any:
    """`fun` as a `scipy.LowLevelCallable`, which `scipy.integrate.quad`, `nquad` and others call.

    `fun` takes float64 numbers, or one float64 vector, and returns a float64 number; `args` are
    examples. The C function is `double f(int n, double *x)`: `quad` gives the variable, then its
    own `args`. `user_data`, an array, is one more argument of `fun`, read where it is at every
    call; the function is then `double f(int n, double *x, void *user_data)`.

    Where a call fails the value is nan, and `sys.unraisablehook` shows the first error of each
    kind. Raises TypeError for other arguments and results, HostStepError for operations that run
    in Python.
    """
    extra = () if user_data is None else (user_data,)
    made = _exported(fun, (*args, *extra), "low_level_callable")
    inputs = made.described.program.inputs[: len(args)]
    packed = len(inputs) == 1 and len(inputs[0].shape) == 1
    if not packed or inputs[0].dtype != _FLOAT64:
        _require_numbers(made, inputs, "low_level_callable")
    kind: tuple[Any, ...] = (ctypes.c_double, ctypes.c_int, ctypes.POINTER(ctypes.c_double))
    signature = "double f(int n, double *x)"
    if extra:
        _require_data(made.name, user_data)
        kind, signature = (*kind, ctypes.c_void_p), "double f(int n, double *x, void *user_data)"
    address = c_entry.of_vector(made.described, user_data=bool(extra), packed=packed)
    function: Any = _c_function(made, address, kind, signature).ctypes
    pointer = None if user_data is None else ctypes.c_void_p(user_data.ctypes.data)
    function.keep = (*function.keep, user_data)
    return symbols.low_level_callable(function, pointer)


def _c_function(made: _Exported, address: int, kind: Sequence[Any], signature: str) -> CFunction:
    function = ctypes.CFUNCTYPE(*kind)(address)
    function.keep = (made.described,)  # type: ignore[attr-defined]
    return CFunction(made.name, signature, address, function)


def _require_numbers(made: _Exported, inputs: Sequence[Any], door: str) -> None:
    outputs = made.described.program.outputs
    for name, b in [*zip(made.names, inputs, strict=False), *(("the result", b) for b in outputs)]:
        if b.shape or b.dtype != _FLOAT64 or not made.single:
            given = f"{b.dtype}{list(b.shape)}" if made.single else "a tuple"
            raise TypeError(
                f"export.{door} needs float64 numbers in and one out, but {name} of {made.name} is "
                f"{given}.\n  Use export.cfunc, which takes any arrays, or wrap the function."
            )


def _require_data(name: str, data: Any) -> None:
    flags = data.flags if isinstance(data, np.ndarray) else None
    if flags is None or not data.ndim or not flags.c_contiguous or not flags.aligned:
        raise TypeError(
            f"export.low_level_callable of {name}: user_data is read where it is, so it must be an "
            f"aligned C-contiguous array with an axis, got {describe(data)}.\n  Pass "
            "np.ascontiguousarray(user_data), or np.array([number])."
        )
