"""Functions compiled by Numba as native routines of programs: no Python between the two.

A kernel takes input arrays and then the arrays to fill. For the dtypes and numbers of axes of one
call it becomes a routine with the signature of all native routines (see `machine`): Numba compiles

    def lanes(b, n):  # addresses of buffers; sizes, strides and shapes
        for i0 in range(n[0]):
            kernel(in0(b[0] + i0 * n[1], (n[2],)), in1(b[1] + i0 * n[3], ()), out0(...))

whose views are arrays over memory that is there, and a C function around it that keeps what the
kernel raises: the exception itself travels as the number of the failure. Shapes are numbers, so
arrays of other sizes are the same code.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from functrans.runtime import codegen
from functrans.runtime.numba_bridge import array_type, numba

_serial = itertools.count()
_lock = threading.Lock()
_ROUTINE = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 3)


@dataclass(frozen=True)
class Operand:
    """An array that a kernel gets at each lane: its dtype, its number of axes, and its use."""

    dtype: np.dtype
    ndim: int
    is_output: bool


class Routine:
    """A kernel for certain operands, inside `depth` loops over lanes; compiled when first used."""

    def __init__(self, kernel: Any, operands: tuple[Operand, ...], static: Any, depth: int):
        self.kernel, self.operands, self.static, self.depth = kernel, operands, static, depth
        self._symbol = f"ft_numba_{next(_serial)}"

    @functools.cached_property
    def _compiled(self) -> Any:
        with _lock:
            try:
                return _c_function(_lanes(self))
            except numba().core.errors.NumbaError as error:
                given = ", ".join(map(_described, self.operands))
                error.add_note(f"while compiling {self.kernel.__name__} for ({given})")
                raise

    def provide(self) -> str:
        """Make the routine known to programs; returns its symbol."""
        codegen.use_symbol(self._symbol, self._compiled.address)
        return self._symbol

    def numbers(
        self, sizes: Sequence[int], flags: Sequence[Sequence[bool]], shapes: Sequence[Any]
    ) -> list[int]:
        """Sizes of the loops; per operand its stride in bytes in each of them, and its shape.

        `flags` say per loop which operands have its axis; `shapes` are those within a lane.
        """
        out = list(sizes)
        for i, (operand, shape) in enumerate(zip(self.operands, shapes, strict=True)):
            step = operand.dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            strides = []
            for size, has_axis in zip(reversed(sizes), reversed(flags), strict=True):
                strides.append(step if has_axis[i] else 0)
                step *= size if has_axis[i] else 1
            out += [*reversed(strides), *shape]
        return out

    def run(self, arrays: Sequence[np.ndarray], numbers: Sequence[int]) -> None:
        """Run on C-contiguous arrays, outputs last; raises what the kernel raises."""
        run = _ROUTINE(self._compiled.address)
        buffers = np.array([x.ctypes.data for x in arrays], np.uintp)
        words, status = np.array(numbers, np.int64), np.zeros(2, np.int64)
        if run(buffers.ctypes.data, words.ctypes.data, status.ctypes.data):
            raise raised(str(status[1]))


def routine(kernel: Any, operands: tuple[Operand, ...], static: Any, depth: int) -> Routine:
    """The routine of a kernel for these operands, one for all who ask; the kernel keeps it."""
    made: dict[Any, Routine] = kernel.__dict__.setdefault("_functrans_routines", {})
    key = operands, static, depth
    return made.get(key) or made.setdefault(key, Routine(kernel, operands, static, depth))


def takes_readonly(kernel: Any) -> bool:
    """Whether inputs can be given read-only: not if the kernel was declared for certain types."""
    return kernel._can_compile


def raised(address: str) -> BaseException:
    """The exception at an address, whose reference is given up."""
    exception: BaseException = ctypes.cast(int(address), ctypes.py_object).value
    ctypes.pythonapi.Py_DecRef(ctypes.py_object(exception))
    return exception


def _described(operand: Operand) -> str:
    shape = f"[{','.join(':' * operand.ndim)}]" if operand.ndim or operand.is_output else ""
    return f"{operand.dtype}{shape}"


# ---------------------------------------------------------------------------- what Numba compiles


def _lanes(r: Routine) -> Callable[..., None]:
    """`lanes(buffers, numbers)`: the kernel in its loops."""
    names: dict[str, Any] = {"kernel": r.kernel}
    lines = ["def lanes(b, n):"]
    for level in range(r.depth):
        lines.append(f"{'    ' * (level + 1)}for i{level} in range(n[{level}]):")
    at, given = r.depth, []
    for i, operand in enumerate(r.operands):
        readonly = not operand.is_output and takes_readonly(r.kernel)
        names[f"view{i}"] = _view(array_type(operand.dtype, operand.ndim, readonly=readonly))
        steps = "".join(f" + i{level} * n[{at + level}]" for level in range(r.depth))
        at += r.depth
        shape = "".join(f"n[{at + axis}], " for axis in range(operand.ndim))
        at += operand.ndim
        is_number = operand.ndim == 0 and not operand.is_output
        given.append(f"view{i}(b[{i}]{steps}, ({shape})){'[()]' if is_number else ''}")
    for name, _, value in r.static:
        names[f"static_{name}"] = value
        given.append(f"{name}=static_{name}")
    lines.append(f"{'    ' * (r.depth + 1)}kernel({', '.join(given)})")
    exec("\n".join(lines), names)
    return names["lanes"]


def _view(array: Any) -> Any:
    """`view(address, shape)` in compiled code: an array over memory that is there."""
    nb = numba()
    cgutils = nb.core.cgutils

    def codegen(context: Any, builder: Any, _: Any, args: Any) -> Any:
        element = context.get_data_type(array.dtype)
        data = builder.inttoptr(args[0], element.as_pointer())
        dims = cgutils.unpack_tuple(builder, args[1]) if array.ndim else []
        itemsize = context.get_constant(nb.types.intp, context.get_abi_sizeof(element))
        strides = [itemsize] * len(dims)
        for axis in reversed(range(len(dims) - 1)):
            strides[axis] = builder.mul(strides[axis + 1], dims[axis + 1])
        view = nb.np.arrayobj.make_array(array)(context, builder)
        nb.np.arrayobj.populate_array(view, data, dims, strides, itemsize, meminfo=None)
        return view._getvalue()

    @nb.extending.intrinsic
    def view(typingctx: Any, address: Any, shape: Any) -> Any:
        return array(address, shape), codegen

    return view


def _c_function(lanes: Callable[..., None]) -> Any:
    """A C function `int32 f(void **buffers, const int64 *numbers, int64 *status)` of `lanes`."""
    nb = numba()
    words = nb.types.CPointer(nb.types.int64)
    # The code is copied where it is called. Numba never forgets an intrinsic, and a dispatcher only
    # when it is gone: nothing keeps either of the two from letting go of the kernel.
    known = [nb.njit((words, words), nogil=True)(lanes).overloads[words, words]]

    def codegen(context: Any, builder: Any, _: Any, args: Any) -> Any:
        compiled = known[0]
        context.active_code_library.add_linking_library(compiled.library)
        status, _ = context.call_internal_no_propagate(
            builder, compiled.fndesc, compiled.signature, args[:2]
        )
        with builder.if_then(status.is_error, likely=False):
            _keep_exception(context, builder, status, args[2])
        return builder.zext(status.is_error, context.get_value_type(nb.types.int32))

    @nb.extending.intrinsic
    def guarded(typingctx: Any, buffers: Any, numbers: Any, status: Any) -> Any:
        return nb.types.int32(buffers, numbers, status), codegen

    def routine(buffers: Any, numbers: Any, status: Any) -> Any:
        return guarded(buffers, numbers, status)

    function = nb.cfunc(nb.types.int32(words, words, words))(routine)
    known.clear()
    return function


def _keep_exception(context: Any, builder: Any, status: Any, words: Any) -> None:
    """Write the address of what was raised to `words[1]`, with a reference to it."""
    nb = numba()
    cgutils, ir = nb.core.cgutils, nb.core.cgutils.ir
    api = context.get_python_api(builder)
    lock = api.gil_ensure()
    context.call_conv.raise_error(builder, api, status)
    kind, value, traceback = (cgutils.alloca_once(builder, cgutils.voidptr_t) for _ in range(3))
    signature = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t.as_pointer()] * 3)
    for name in ("PyErr_Fetch", "PyErr_NormalizeException"):
        builder.call(api._get_function(signature, name), [kind, value, traceback])
    for slot in (kind, traceback):
        found = builder.load(slot)
        with builder.if_then(cgutils.is_not_null(builder, found)):
            api.decref(found)
    api.gil_release(lock)
    number = builder.gep(words, [context.get_constant(nb.types.intp, 1)])
    builder.store(
        builder.ptrtoint(builder.load(value), context.get_value_type(nb.types.int64)), number
    )
