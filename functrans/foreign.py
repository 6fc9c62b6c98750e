"""Other people's compiled code in traced programs: functions of Numba's `njit`, and C functions.

Both fill arrays that are given to them, and are called by pointer from compiled programs. What a
call of a Numba kernel is as an operation, with its rules, is in `kernel_calls`; how it becomes a
native routine, in `runtime/numba_kernels`.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans.arguments import ShapeDtypeStruct, concrete_scalar
from functrans.core import Primitive, get_aval, is_array
from functrans.errors import MissingRule
from functrans.ir import ShapedArray
from functrans.kernel_calls import Call, Rules, brief, numba_call_primitive, plain_array
from functrans.pytree import tree_flatten, tree_unflatten
from functrans.runtime import codegen
from functrans.runtime.codegen import Unit
from functrans.runtime.numba_bridge import is_kernel, numba


def numba_call(kernel: Any, out_shapes: Any, *args: Any, **static: Any) -> Any:
    """Call a function compiled by Numba's `njit`, eagerly or inside any transformed function.

    `kernel(*args, *outs, **static)` gets C-contiguous arrays, which it must not write to (numbers
    for inputs without axes), and fills the arrays `outs`, which start uninitialized and are what
    is returned: a pytree like `out_shapes`, of ShapeDtypeStructs. `static` are constants in the
    kernel's machine code. Under `jit` the kernel is called by pointer, without Python; what it
    raises arrives as the exception it is. Under `vmap` it is called for each lane, from native
    code. It has no derivative: see `numba_kernel`.

    Raises TypeError for functions that are not `njit`'s, and where the kernel takes another number
    of arguments.
    """
    return _call(kernel, None, out_shapes, args, static)


def _call(kernel: Any, rules: Rules | None, outs: Any, args: Any, static: Any) -> Any:
    if not is_kernel(kernel):
        raise TypeError(
            f"numba_call takes a function compiled by numba.njit, got {brief(kernel)}.\n  "
            "Decorate it with numba.njit; a C function goes by functrans.native_call."
        )
    what = f"numba_call of {kernel.__name__}"
    avals, out_tree = _out_avals(outs, what)
    operands = _operands(args, what)
    _check_signature(kernel, len(args), len(avals), static, what)
    fixed = tuple((name, type(value), value) for name, value in sorted(static.items()))
    call = Call(kernel, rules, avals, out_tree, fixed)
    try:
        hash(call)
    except TypeError:
        raise TypeError(
            f"{what}: the keyword arguments {sorted(static)} are constants of the kernel and must "
            "be hashable. Pass arrays by position, tuples instead of lists."
        ) from None
    return tree_unflatten(out_tree, numba_call_primitive(*operands, call=call, loops=()))


def _operands(args: Sequence[Any], what: str) -> list[Any]:
    for i, x in enumerate(args):
        if not is_array(x):
            raise TypeError(
                f"{what}: argument {i} is {brief(x)}; arrays and numbers go by position, one "
                "each, constants of the kernel by keyword."
            )
        get_aval(x)  # refuses dtypes that are not numeric
    return [concrete_scalar(x) for x in args]


def _out_avals(outs: Any, what: str) -> tuple[tuple[ShapedArray, ...], Any]:
    leaves, tree = tree_flatten(outs)
    for x in leaves:
        if not hasattr(x, "shape") or not hasattr(x, "dtype"):
            raise TypeError(
                f"{what}: an output is described by functrans.ShapeDtypeStruct(shape, dtype), got "
                f"{brief(x)}."
            )
    avals = tuple(ShapedArray(tuple(map(int, x.shape)), np.dtype(x.dtype)) for x in leaves)
    if not avals:
        raise TypeError(f"{what} needs at least one output to fill.")
    return avals, tree


def _check_signature(kernel: Any, ins: int, outs: int, static: Any, what: str) -> None:
    signature = inspect.signature(kernel.py_func)
    try:
        signature.bind(*range(ins + outs), **static)
    except TypeError as error:
        fixed = f", and {sorted(static)} by keyword" if static else ""
        raise TypeError(
            f"{what}: the kernel takes {signature}, and gets {ins} input(s) and {outs} output "
            f"array(s) to fill{fixed}: {error}."
        ) from None


class NumbaKernel:
    """A kernel as an operation of its own; see `numba_kernel`."""

    def __init__(self, kernel: Any, out: Any):
        self.kernel = kernel if is_kernel(kernel) else numba().njit(kernel)
        self.out = out
        self._rules = Rules()
        functools.update_wrapper(self, self.kernel.py_func)

    def __call__(self, *args: Any, **static: Any) -> Any:
        outs = self.out
        if callable(outs):
            what = f"numba_call of {self.kernel.__name__}"
            avals = [get_aval(x) for x in _operands(args, what)]
            outs = outs(*[ShapeDtypeStruct(a.shape, a.dtype) for a in avals], **static)
        return _call(self.kernel, self._rules, outs, args, static)

    def defjvp(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Set the derivative: `rule(primals, tangents) -> (outputs, tangents of the outputs)`.

        It serves both modes, so it must be linear in the tangents, written with NumPy functions.
        """
        self._only_one()
        self._rules.jvp = rule
        return rule

    def defvjp(self, fwd: Callable[..., Any], bwd: Callable[..., Any]) -> None:
        """Set the derivative for reverse mode.

        `fwd(*args) -> (outputs, residuals)`, `bwd(residuals, cotangents) -> a cotangent per input`
        (None for zero). Both may call kernels.
        """
        self._only_one()
        self._rules.fwd, self._rules.bwd = fwd, bwd

    def defvmap(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Set what `vmap` does instead of calling the kernel for each lane.

        `rule(size, batched, *args) -> (outputs, batched outputs)`; the axis is in front of those
        arguments and outputs that `batched` says have it.
        """
        self._rules.batch = rule
        return rule

    def _only_one(self) -> None:
        if self._rules.jvp is not None or self._rules.fwd is not None:
            raise ValueError(
                f"{self.kernel.__name__} has a derivative already: give a kernel either defjvp, "
                "for both modes, or defvjp, for reverse mode, once."
            )

    def __repr__(self) -> str:
        return f"numba_kernel({self.kernel.__name__})"


def numba_kernel(kernel: Any = None, *, out: Any) -> Any:
    """Make an operation of a Numba kernel: callable in any transformed function, with rules.

    Usable as a decorator, of an `njit` function or a plain one, which is then compiled by `njit`.
    `out` gives the outputs as ShapeDtypeStructs, or is a function from those of the inputs (and the
    static keyword arguments) to them. `.defjvp`, `.defvjp` and `.defvmap` set rules; the rest is as
    in `numba_call`.

    >>> import numpy as np
    >>> import functrans as ft
    >>> @numba_kernel(out=lambda x: x)
    ... def cumulative_max(x, out):
    ...     best = x[0]
    ...     for i in range(len(x)):
    ...         best = max(best, x[i])
    ...         out[i] = best
    >>> ft.jit(cumulative_max)(np.array([1.0, 3.0, 2.0]))
    array([1., 3., 3.])
    """
    if kernel is None:
        return functools.partial(NumbaKernel, out=out)
    return NumbaKernel(kernel, out)


# ---------------------------------------------------------------------------- C functions


class NativeCall(Primitive):
    """Call a C function. Parameters: `function` (which is kept), its name, outputs, numbers."""

    multiple_results = True

    def abstract_eval(self, *avals: ShapedArray, outs: tuple[ShapedArray, ...], **_: Any) -> Any:  # type: ignore[override]
        return list(outs)

    def impl(self, *args: Any, function: Any, name: str, outs: Any, numbers: Any) -> list[Any]:  # type: ignore[override]
        results = [np.empty(aval.shape, aval.dtype) for aval in outs]
        arrays = [*map(plain_array, args), *results]
        buffers = np.array([x.ctypes.data for x in arrays], np.uintp)
        words, status = np.array(numbers, np.int64), np.zeros(2, np.int64)
        call = _C_FUNCTION(_address(function))
        code = call(buffers.ctypes.data, words.ctypes.data, status.ctypes.data)
        if code:
            raise RuntimeError(_failed(name).format(code))
        return [x if x.shape else x[()] for x in results]

    def lower(self, b: Any, *operands: Any, function: Any, name: str, outs: Any, numbers: Any):
        """A native step."""

        return b.native(
            f"{self.name} {name}",
            _call_checked,
            lambda *xs: self.impl(*xs, function=function, name=name, outs=outs, numbers=numbers),
            operands,
            [(aval.shape, aval.dtype) for aval in outs],
            numbers=[_address(function), *numbers],
            failures=[(RuntimeError, _failed(name))],
        )

    def jvp(self, primals: Any, tangents: Any, *, name: str, **_: Any) -> Any:  # type: ignore[override]
        raise MissingRule(
            f"native_call of {name} has no derivative.\n  Call it from the rules of a "
            "functrans.numba_kernel, or keep it out of differentiation with "
            "functrans.lax.stop_gradient."
        )

    def batch(self, size: int, args: Any, dims: Any, *, name: str, **_: Any) -> Any:  # type: ignore[override]
        raise MissingRule(
            f"native_call of {name} has no rule for vmap: give the C function the whole batch, or "
            "call it from a functrans.numba_kernel, which vmap calls for each lane."
        )


native_call_primitive = NativeCall("native_call")
_C_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 3)

# The first number is the function to call. Whatever it returns but 0 is the one failure that the
# step has; the code is the number of the failure.
_CHECKED = """
define i32 @{name}(ptr %buffers, ptr %numbers, ptr %status) nounwind {{
  %function = load ptr, ptr %numbers
  %its.numbers = getelementptr i64, ptr %numbers, i64 1
  %code = call i32 %function(ptr %buffers, ptr %its.numbers, ptr %status)
  %number = sext i32 %code to i64
  %number.at = getelementptr i64, ptr %status, i64 1
  store i64 %number, ptr %number.at
  %failed = icmp ne i32 %code, 0
  %result = zext i1 %failed to i32
  ret i32 %result
}}"""
_UNIT = Unit(_CHECKED, lambda name: [_CHECKED.format(name=name)])


def _failed(name: str) -> str:
    return f"the C function {name} returned the error code {{}}."


def _call_checked() -> str:
    codegen.addresses([_UNIT])
    return _UNIT.name


def _address(function: Any) -> int:
    if isinstance(function, int):
        return function
    if isinstance(function, ctypes._CFuncPtr):  # type: ignore[attr-defined]
        return ctypes.cast(function, ctypes.c_void_p).value or 0
    return function.address


def native_call(
    function: Any, out_shapes: Any, *args: Any, numbers: Sequence[int] = (), name: str = ""
) -> Any:
    """Call a C function on arrays, eagerly or inside `jit`, where no Python is involved.

    `function` is `int32 f(void **buffers, const int64 *numbers, int64 *status)`: a function of
    ctypes, anything with an `address` (Numba's `cfunc`), or the address itself, which must stay
    valid. `buffers` point to C-contiguous inputs, not to be written to, then to outputs to fill,
    a pytree like `out_shapes`, of ShapeDtypeStructs. `status` are two words for it to use. Any
    result but 0 raises RuntimeError, which names it. There are no rules for `vmap` and
    derivatives.
    """
    is_c = isinstance(function, int | ctypes._CFuncPtr) or hasattr(function, "address")  # type: ignore[attr-defined]
    if not is_c or isinstance(function, bool):
        raise TypeError(
            "native_call takes a ctypes function, an object with an address, or an address, got "
            f"{brief(function)}.\n  A function compiled by numba.njit goes by numba_call."
        )
    name = name or getattr(function, "__name__", "") or "f"
    what = f"native_call of {name}"
    avals, out_tree = _out_avals(out_shapes, what)
    params = {"function": function, "name": name, "outs": avals, "numbers": tuple(numbers)}
    return tree_unflatten(out_tree, native_call_primitive(*_operands(args, what), **params))
