"""The entry of programs for native code: what C, and Numba's compiled code, call instead of Python.

A *description* of a program is a few words: the loop over steps and its table (see `machine`), its
constants, how many buffers there are, the size of its arena. `call_program` takes one, with the
pointers to inputs and outputs, and gives the call an arena of its own: on the stack where it is
small, else by malloc. So calls may come from any thread, and from within each other.

A C function has nowhere to take a description from but its own code: each is a few instructions
compiled for one program, which name the description as a symbol.
"""

from __future__ import annotations

import ctypes
import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans.runtime import codegen, entry, machine
from functrans.runtime.codegen import Unit
from functrans.runtime.entry_code import ALIGNMENT

WORDS = ("run", "table", "inputs", "consts", "outputs", "const_data", "arena_bytes")
STACK_BYTES = 16 << 10  # an arena up to this size is on the stack: threads may have 128 KiB of it
NO_MEMORY, WRONG_COUNT, WRONG_SHAPE = -1, -2, -3  # in place of the position of a check

_CALL_PROGRAM = f"""
declare ptr @malloc(i64)
declare void @free(ptr)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define i32 @ft_entry_call_program(ptr %program, ptr %given, ptr %status) nounwind {{
entry:
  %run = load ptr, ptr %program
  %table.at = getelementptr i64, ptr %program, i64 1
  %table = load ptr, ptr %table.at
  %inputs.at = getelementptr i64, ptr %program, i64 2
  %inputs = load i64, ptr %inputs.at
  %consts.at = getelementptr i64, ptr %program, i64 3
  %consts = load i64, ptr %consts.at
  %outputs.at = getelementptr i64, ptr %program, i64 4
  %outputs = load i64, ptr %outputs.at
  %const.data.at = getelementptr i64, ptr %program, i64 5
  %const.data = load ptr, ptr %const.data.at
  %arena.bytes.at = getelementptr i64, ptr %program, i64 6
  %arena.bytes = load i64, ptr %arena.bytes.at
  %complete = icmp eq i64 %consts, 0
  br i1 %complete, label %place, label %gather
gather:
  %with.consts = add i64 %inputs, %consts
  %count = add i64 %with.consts, %outputs
  %all = alloca ptr, i64 %count
  %input.bytes = shl i64 %inputs, 3
  call void @llvm.memcpy.p0.p0.i64(ptr %all, ptr %given, i64 %input.bytes, i1 false)
  %consts.to = getelementptr ptr, ptr %all, i64 %inputs
  %const.bytes = shl i64 %consts, 3
  call void @llvm.memcpy.p0.p0.i64(ptr %consts.to, ptr %const.data, i64 %const.bytes, i1 false)
  %outputs.to = getelementptr ptr, ptr %all, i64 %with.consts
  %outputs.from = getelementptr ptr, ptr %given, i64 %inputs
  %output.bytes = shl i64 %outputs, 3
  call void @llvm.memcpy.p0.p0.i64(ptr %outputs.to, ptr %outputs.from, i64 %output.bytes, i1 false)
  br label %place
place:
  %buffers = phi ptr [ %given, %entry ], [ %all, %gather ]
  %small = icmp ule i64 %arena.bytes, {STACK_BYTES}
  br i1 %small, label %stack, label %heap
stack:
  %near = alloca i8, i64 %arena.bytes, align {ALIGNMENT}
  %near.result = call i32 %run(ptr %table, ptr %buffers, ptr %near, ptr %status)
  ret i32 %near.result
heap:
  %bytes = add i64 %arena.bytes, {ALIGNMENT}
  %block = call ptr @malloc(i64 %bytes)
  %none = icmp eq ptr %block, null
  br i1 %none, label %full, label %far
full:
  store i64 {NO_MEMORY}, ptr %status
  ret i32 1
far:
  %start = ptrtoint ptr %block to i64
  %past = add i64 %start, {ALIGNMENT - 1}
  %aligned = and i64 %past, -{ALIGNMENT}
  %arena = inttoptr i64 %aligned to ptr
  %far.result = call i32 %run(ptr %table, ptr %buffers, ptr %arena, ptr %status)
  call void @free(ptr %block)
  ret i32 %far.result
}}"""


class Described:
    """A program that native code can call, while this object is alive. `address`: see above."""

    def __init__(self, program: entry.Program):
        self.program = program
        self.serial = next(_serials)
        const_data = np.array([x.ctypes.data for x in program.consts], np.uintp)
        words = {
            "run": codegen.addresses([machine.RUN])[0],
            "table": program.steps.ctypes.data,
            "inputs": len(program.inputs),
            "consts": len(program.consts),
            "outputs": len(program.outputs),
            "const_data": const_data.ctypes.data,
            "arena_bytes": program.arena_bytes,
        }
        self._words = np.array([words[name] for name in WORDS], np.int64)
        self._keep = const_data
        self.reported: set[int] = set()  # checks whose failure has been shown
        self.address: int = self._words.ctypes.data
        _alive[self.serial] = self

    def error(self, check: int, detail: Any) -> BaseException:
        """The exception for what a call left in its status words."""
        name = self.program.name
        if check == NO_MEMORY:
            return MemoryError(f"{name} needs {self.program.arena_bytes} bytes for temporaries.")
        if check == WRONG_COUNT:
            return TypeError(
                f"{name} takes {self.arity} numbers, and was called with {detail}. Pass those "
                "beyond the variable of integration by `args`."
            )
        if check <= WRONG_SHAPE:
            i = WRONG_SHAPE - check
            wanted = self.program.inputs[i].shape
            return ValueError(
                f"argument {i} of {name} has the shape {tuple(map(int, detail))}; {name} was "
                f"compiled for the shape {wanted}. Export it for that shape too."
            )
        try:
            self.program.fail(check, detail)
        except BaseException as error:
            return error
        raise AssertionError("a failure must raise")

    @property
    def arity(self) -> int:
        """How many numbers a function of numbers takes."""
        inputs = self.program.inputs
        first_is_vector = inputs and inputs[0].shape
        return inputs[0].size if first_is_vector else sum(not b.shape for b in inputs)


_serials = itertools.count()
_alive: weakref.WeakValueDictionary[int, Described] = weakref.WeakValueDictionary()


def error_of(serial: int, check: int, detail: Any) -> BaseException:
    """The exception of a program that is alive because its code just ran."""
    return _alive[serial].error(check, detail)


def call_program_address() -> int:
    """`i32 call_program(description, buffers, status)`; it returns 0, or 1 with the status set."""
    codegen.provide("call_program", _CALL_PROGRAM)
    return codegen.address_of("ft_call_program")


# ---------------------------------------------------------------------------- C functions

# %code of a call of the program with %buffers, after having reported what went wrong.
_RUN = """
  %status = alloca [2 x i64]
  %code = call i32 @ft_call_program(ptr @ft_described_{serial}, ptr %buffers, ptr %status)
  %failed = icmp ne i32 %code, 0
  br i1 %failed, label %report, label %done
report:
  %check = load i64, ptr %status
  %number.at = getelementptr i64, ptr %status, i64 1
  %number = load i64, ptr %number.at
  call void @ft_report(i64 {serial}, i64 %check, i64 %number)"""

_DECLARED = """
@ft_described_{serial} = external global i64
declare i32 @ft_call_program(ptr, ptr, ptr)
declare void @ft_report(i64, i64, i64)"""

_WITH_BUFFERS = (
    _DECLARED
    + """
define i32 @{name}(ptr %buffers) nounwind {{"""
    + _RUN
    + """
  ret i32 1
done:
  ret i32 0
}}"""
)

_NUMBER = """
  %buffers = alloca ptr, i64 {buffers}
  %out = alloca double
  {pointers}"""

_RESULT = """
  br label %end
done:
  %value = load double, ptr %out
  br label %end
end:
  %result = phi double [ 0x7FF8000000000000, %report ], [ %value, %done ]{wrong}
  ret double %result
}}"""

_OF_NUMBERS = (
    _DECLARED
    + """
define double @{name}({parameters}) nounwind {{"""
    + _NUMBER
    + _RUN
    + _RESULT
)

_OF_VECTOR = (
    _DECLARED
    + """
define double @{name}({parameters}) nounwind {{
entry:
  %right = icmp eq i32 %n, {arity}
  br i1 %right, label %run, label %wrong
wrong:
  %n.wide = sext i32 %n to i64
  call void @ft_report(i64 {serial}, i64 {wrong_count}, i64 %n.wide)
  br label %end
run:"""
    + _NUMBER
    + _RUN
    + _RESULT
)


def _store_pointers(pointers: Sequence[str]) -> str:
    lines = []
    for i, pointer in enumerate((*pointers, "%out")):
        lines.append(f"%to.{i} = getelementptr ptr, ptr %buffers, i64 {i}")
        lines.append(f"store ptr {pointer}, ptr %to.{i}")
    return "\n  ".join(lines)


def with_buffers(described: Described) -> int:
    """The address of `int32 f(void **buffers)`: inputs, then outputs."""
    return _function(_WITH_BUFFERS, described)


def of_numbers(described: Described) -> int:
    """The address of `double f(double, ...)`, for programs of numbers."""
    count = described.arity
    spills = [
        f"%x{i}.at = alloca double\n  store double %x{i}, ptr %x{i}.at\n  " for i in range(count)
    ]
    return _function(
        _OF_NUMBERS,
        described,
        parameters=", ".join(f"double %x{i}" for i in range(count)),
        buffers=count + 1,
        pointers="".join(spills) + _store_pointers([f"%x{i}.at" for i in range(count)]),
        wrong="",
    )


def of_vector(described: Described, *, user_data: bool, packed: bool) -> int:
    """The address of `double f(int n, double *x, void *user_data)`; without the last, if so said.

    The inputs of the program are the elements of `x`, or `x` itself (`packed`); then `user_data`.
    """
    count = described.arity
    own = ["%x"] if packed else [f"%x{i}" for i in range(count)]
    places = [] if packed else [
        f"%x{i} = getelementptr double, ptr %x, i64 {i}\n  " for i in range(count)
    ]  # fmt: skip
    return _function(
        _OF_VECTOR,
        described,
        parameters="i32 %n, ptr %x" + (", ptr %user" if user_data else ""),
        arity=count,
        wrong_count=WRONG_COUNT,
        buffers=len(own) + user_data + 1,
        pointers="".join(places) + _store_pointers([*own, *["%user"] * user_data]),
        wrong=", [ 0x7FF8000000000000, %wrong ]",
    )


def _function(text: str, described: Described, **parts: Any) -> int:
    call_program_address()
    codegen.use_symbol("ft_report", ctypes.cast(_report, ctypes.c_void_p).value or 0)
    codegen.use_symbol(f"ft_described_{described.serial}", described.address)
    filled = text.replace("{name}", "{{name}}").format(serial=described.serial, **parts)
    unit = Unit(filled, lambda name: [filled.replace("{name}", name)])
    return codegen.addresses([unit])[0]


@ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)
def _report(serial: int, check: int, number: int) -> None:
    """Show what a C caller cannot be told, once: ctypes hands it to `sys.unraisablehook`."""
    error, reported = error_of(serial, check, number), _alive[serial].reported
    if check not in reported:
        reported.add(check)
        raise error
