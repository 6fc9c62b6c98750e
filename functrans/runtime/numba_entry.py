"""The entry of programs for functions of Numba's `njit`: a function that they can call.

It is itself compiled by `njit`, from a few lines made for the program:

    def gradient(a0):
        accept((a0,))  # refuses other types while it is compiled
        if a0.shape != (3,):
            raise Failed(7, -3, a0.shape)
        o0 = np.empty((3,), f0)
        status = call((a0,), (o0,))
        if status[0] != 0:
            raise Failed(7, status[1], status[2])
        return o0

`call` stores the pointers and calls `c_entry.call_program`. `Failed` makes the exception when it
reaches Python, so a `try` in compiled code works as with exceptions of its own. The machine code of
whoever calls it keeps the program alive.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans.runtime import c_entry
from functrans.runtime.c_entry import Described
from functrans.runtime.numba_bridge import numba, scalar_type


class Failed(Exception):
    """Stands in compiled code for what a call of a program raises: making it gives that."""

    def __new__(cls, serial: int, check: int, detail: Any) -> Any:
        """The exception of program `serial` for what its status words say."""
        return c_entry.error_of(serial, check, detail)


def dispatcher(described: Described, names: Sequence[str], *, single: bool) -> Any:
    """The program as an `njit` function of arrays and numbers, which returns fresh ones."""
    program = described.program
    given = [f"a{i}" for i in range(len(program.inputs))]
    # Numba never forgets an intrinsic, so those know the program by a weak reference.
    known: dict[str, Any] = {"np": np, "Failed": Failed, "program": described}
    known["call"] = _call(weakref.ref(described))
    known["accept"] = _accept(weakref.ref(described), names)
    lines = [f"def exported({', '.join(given)}):", f"    accept({_tuple(given)})"]
    for i, b in enumerate(program.inputs):
        if b.shape:
            failed = f"Failed({described.serial}, {c_entry.WRONG_SHAPE - i}, a{i}.shape)"
            lines += [f"    if a{i}.shape != {b.shape}:", f"        raise {failed}"]
    made, numbers = [], itertools.count(3)
    results = []
    for i, b in enumerate(program.outputs):
        if b.shape:
            known[f"f{i}"] = scalar_type(b.dtype)
            lines.append(f"    o{i} = np.empty({b.shape}, f{i})")
            made.append(f"o{i}")
        results.append(f"o{i}" if b.shape else f"status[{next(numbers)}]")
    failed = f"Failed({described.serial}, status[1], status[2])"
    lines += [f"    status = call({_tuple(given)}, {_tuple(made)})"]
    lines += ["    if status[0] != 0:", f"        raise {failed}"]
    lines.append(f"    return {results[0] if single else _tuple(results)}")
    exec("\n".join(lines), known)
    function = known["exported"]
    function.__name__ = function.__qualname__ = program.name
    return numba().njit(nogil=True)(function)


def _tuple(names: Sequence[str]) -> str:
    return f"({', '.join(names)}{',' * (len(names) == 1)})"


# ---------------------------------------------------------------------------- types


def _accept(described: Callable[[], Any], names: Sequence[str]) -> Any:
    """`accept(arguments)`: nothing, where their types are those of the program's inputs."""
    nb = numba()

    @nb.extending.intrinsic
    def accept(typingctx: Any, arguments: Any) -> Any:
        program = described().program
        for name, buffer, given in zip(names, program.inputs, arguments.types, strict=True):
            wrong = _refusal(typingctx, buffer, given)
            if wrong:
                raise nb.TypingError(f"argument {name} of {program.name} {wrong}")
        return nb.types.none(arguments), lambda context, *_: context.get_dummy_value()

    return accept


def _refusal(typingctx: Any, buffer: Any, given: Any) -> str:
    """Why a value of a type cannot be an input; empty if it can."""
    types, element = numba().types, scalar_type(buffer.dtype)
    if not buffer.shape:
        is_scalar = isinstance(given, types.Number | types.Boolean)
        if is_scalar and _casts(given, buffer.dtype):
            return ""
        return f"must be a number that is safe as {element}, got {given}."
    wanted = f"must be a C-contiguous array({element}, {len(buffer.shape)}d)"
    if not isinstance(given, types.Array) or given.ndim != len(buffer.shape):
        return f"{wanted}, got {given}."
    if given.dtype != element:
        return f"{wanted}, got {given}: convert it, .astype(np.{buffer.dtype})."
    if given.layout != "C" or not given.aligned:
        return f"{wanted}, got {given}: copy it, np.ascontiguousarray(...)."
    return ""


def _casts(given: Any, dtype: np.dtype) -> bool:
    numba_name = str(given if not hasattr(given, "literal_type") else given.literal_type)
    name = {"boolean": "bool"}.get(numba_name, numba_name)
    return name in np.sctypeDict and np.can_cast(np.dtype(name), dtype, "safe")


# ---------------------------------------------------------------------------- the call


def _call(described: Callable[[], Any]) -> Any:
    """`call(arguments, arrays to fill)` -> (failed, status, status, a number per 0-d output)."""
    nb, int64 = numba(), numba().types.int64
    numbers = [scalar_type(b.dtype) for b in described().program.outputs if not b.shape]
    result = nb.types.Tuple([nb.types.int32, int64, int64, *numbers])

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # Whatever is linked with this code keeps its library, and so the program.
        context.active_code_library.functrans_program = described()
        program = described().program
        outs = iter(_pointers(context, builder, signature.args[1].types, args[1], None))
        slots = [
            next(outs) if b.shape else _slot(context, builder, scalar_type(b.dtype))
            for b in program.outputs
        ]
        wanted = [None if b.shape else scalar_type(b.dtype) for b in program.inputs]
        pointers = _pointers(context, builder, signature.args[0].types, args[0], wanted)
        code, status = _invoke(context, builder, described(), [*pointers, *slots])
        values = [code, *status]
        for b, slot in zip(program.outputs, slots, strict=True):
            if not b.shape:
                model = context.data_model_manager[scalar_type(b.dtype)]
                values.append(model.from_data(builder, builder.load(slot)))
        return context.make_tuple(builder, result, values)

    @nb.extending.intrinsic
    def call(typingctx: Any, arguments: Any, outputs: Any) -> Any:
        return result(arguments, outputs), codegen

    return call


def _slot(context: Any, builder: Any, scalar: Any) -> Any:
    return numba().core.cgutils.alloca_once(builder, context.get_data_type(scalar))


def _pointers(context: Any, builder: Any, types: Any, packed: Any, scalars: Any) -> list[Any]:
    """Where the values of a tuple are: the data of arrays, numbers on the stack as `scalars`."""
    nb = numba()
    values = nb.core.cgutils.unpack_tuple(builder, packed, len(types))
    out = []
    for i, (kind, value) in enumerate(zip(types, values, strict=True)):
        if scalars is None or scalars[i] is None:
            out.append(nb.np.arrayobj.make_array(kind)(context, builder, value).data)
            continue
        slot = _slot(context, builder, scalars[i])
        number = context.cast(builder, value, kind, scalars[i])
        model = context.data_model_manager[scalars[i]]
        builder.store(model.as_data(builder, number), slot)
        out.append(slot)
    return out


def _invoke(context: Any, builder: Any, described: Described, pointers: Any) -> Any:
    """Call the program; the code it returns, and its two status words."""
    cgutils = numba().core.cgutils
    pointer, int64 = cgutils.voidptr_t, context.get_value_type(numba().types.int64)
    buffers = cgutils.alloca_once(builder, pointer, size=max(len(pointers), 1))
    for i, p in enumerate(pointers):
        builder.store(builder.bitcast(p, pointer), cgutils.gep_inbounds(builder, buffers, i))
    status = cgutils.alloca_once(builder, int64, size=2)
    # Addresses of this process: Numba does not put code that has some into its cache.
    function = context.add_dynamic_addr(
        builder, c_entry.call_program_address(), info="functrans call_program"
    )
    description = context.add_dynamic_addr(builder, described.address, info=described.program.name)
    kinds = [pointer, buffers.type, status.type]
    signature = cgutils.ir.FunctionType(cgutils.int32_t, kinds)
    callee = builder.bitcast(function, signature.as_pointer())
    code = builder.call(callee, [description, buffers, status])
    return code, [builder.load(cgutils.gep_inbounds(builder, status, i)) for i in range(2)]
