"""A compiled program, called on NumPy arrays.

The native entry is a builtin function of inputs, outputs and arena. It checks the inputs itself
and reads their data pointers, so a call does nothing per input in Python. Inputs it refuses (lists,
non-contiguous or byte-swapped arrays, ...) are made canonical and given again.

Outputs are fresh arrays, or fresh NumPy scalars that the native code fills in. Temporaries live in
an arena that is kept for the next call. Several threads may call at once: each takes an arena of
its own from the free list.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import loop_ir as ir
from functrans.compiler import steps
from functrans.runtime import codegen, machine

_GIL_WORK = 20_000  # scalar statements from which releasing the GIL (50 ns) is worth it
ALIGNMENT = 64  # of the arena: a cache line, and the widest vector


def compile_program(program: ir.Program) -> Executable:
    """Machine code for a loop program."""
    return Executable(program)


class Executable:
    """Call with one value per input of the program; returns a list of fresh outputs."""

    def __init__(self, program: ir.Program):
        self.program = program
        self._segments = _segments(program)
        self._calls = []
        self._tables = []
        for i, segment in enumerate(self._segments):
            if not isinstance(segment, ir.HostStep):
                copies = program.copies if i == len(self._segments) - 1 else ()
                calls = steps.native_calls(program, segment, copies)
                self._calls += calls
                self._tables.append(steps.table_of(program, calls))
        # Constants are read at every call; one in another layout is copied at every call.
        self._consts = [_canonical(x, b) for b, x in program.consts]
        pairs = zip(self._consts, (x for _, x in program.consts), strict=True)
        self._refreshed = [(a, x) for a, x in pairs if not np.may_share_memory(a, x)]
        self._arena_bytes = status_offset(program) + machine.STATUS_BYTES
        self._arenas: list[np.ndarray] = []
        run = codegen.addresses([machine.RUN])[0]
        self._run = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 4)(run)
        self.call = self._refreshing(self._call_segments) if self._refreshed else self._call_segments

    def __call__(self, args: Sequence[Any]) -> list[Any]:
        return self.call(args)

    @property
    def llvm(self) -> str:
        """The optimized LLVM module."""
        return str(codegen.optimized(self._text))

    @property
    def asm(self) -> str:
        """The machine code as text."""
        return codegen.assembly(self._text)

    @property
    def _text(self) -> str:
        return codegen.module_text(steps.units_of(self._calls))

    # ------------------------------------------------------------------ a call

    def _refreshing(self, call: Callable[..., Any]) -> Callable[[Sequence[Any]], list[Any]]:
        """`call`, after constants in another layout were copied to where native code reads them."""

        def refresh_and_call(args: Sequence[Any]) -> list[Any]:
            for private, original in self._refreshed:
                np.copyto(private, original)
            return call(args)

        return refresh_and_call

    def _call_segments(self, args: Sequence[Any]) -> list[Any]:
        """A call of a program with host steps: native stretches and Python in turn."""
        inputs = self._canonical(args)
        outs = [np.empty(b.shape, b.dtype) for b in self.program.outputs]
        arena = self._take_arena()
        views = self._views(inputs, outs, arena)
        tables = iter(self._tables)
        pointers = np.array([x.ctypes.data for x in (*inputs, *self._consts, *outs)], np.uintp)
        base = arena.ctypes.data
        status = base + status_offset(self.program)
        for segment in self._segments:
            if isinstance(segment, ir.HostStep):
                _run_host_step(segment, views)
            else:
                table = next(tables)
                failed = self._run(table.ctypes.data, pointers.ctypes.data, base, status)
                self._raise_if_failed(failed, arena)
        self._arenas.append(arena)
        return [out if out.shape else out[()] for out in outs]

    def _views(self, inputs: Sequence[Any], outs: Sequence[Any], arena: Any) -> dict[str, Any]:
        program = self.program
        named = [*program.inputs, *(b for b, _ in program.consts), *program.outputs]
        views = dict(zip((b.name for b in named), [*inputs, *self._consts, *outs], strict=True))
        offsets = dict(program.offsets)
        for b in program.temps:
            views[b.name] = np.ndarray(b.shape, b.dtype, arena, offsets[b.name])
        return views

    # ------------------------------------------------------------------ parts of a call

    def _take_arena(self) -> np.ndarray:
        try:
            return self._arenas.pop()
        except IndexError:
            return _aligned(self._arena_bytes)

    def _canonical(self, args: Sequence[Any]) -> list[np.ndarray]:
        if len(args) != len(self.program.inputs):
            raise TypeError(
                f"{self.program.name} was compiled for {len(self.program.inputs)} arguments, got "
                f"{len(args)}."
            )
        return [_canonical(x, b) for x, b in zip(args, self.program.inputs, strict=True)]

    def _raise_if_failed(self, status: int, arena: np.ndarray) -> None:
        if status == machine.DONE:
            return
        self._arenas.append(arena)
        words = arena[status_offset(self.program) :].view(np.int64)
        raise self.program.checks[int(words[0])].error(int(words[1]))


def status_offset(program: ir.Program) -> int:
    """Where the status words are, in bytes from the start of the arena."""
    return -(-program.arena_bytes // 8) * 8


def _segments(program: ir.Program) -> list[Any]:
    """Stretches of native steps (lists), and host steps, in order; copies need a native end."""
    out: list[Any] = [[]]
    for step in program.steps:
        if isinstance(step, ir.HostStep):
            out += [step, []]
        else:
            out[-1].append(step)
    last = len(out) - 1
    ends = len(out) == 1 or bool(program.copies)
    return [s for i, s in enumerate(out) if s or (i == last and ends)]


def _work(program: ir.Program) -> int:
    """About how many scalar statements a run executes."""
    total = 0
    for step in program.steps:
        if isinstance(step, ir.KernelCall):
            total += _body_work(step.kernel.body)
        elif isinstance(step, ir.MatMul):
            total += math.prod(step.sizes) // 8
        elif isinstance(step, ir.NativeStep):
            total += step.work
    return total


def _body_work(body: tuple[ir.Stmt, ...]) -> int:
    return sum(s.extent * _body_work(s.body) if isinstance(s, ir.Loop) else 1 for s in body)


def _aligned(nbytes: int) -> np.ndarray:
    block = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -block.ctypes.data % ALIGNMENT
    return block[start : start + nbytes]


def _run_host_step(step: ir.HostStep, views: dict[str, np.ndarray]) -> None:
    results = step.function(*[views[name] for name in step.inputs])
    for name, result in zip(step.outputs, results, strict=True):
        out, given = views[name], np.asarray(result)
        if given.shape != out.shape or given.dtype != out.dtype:
            raise ValueError(
                f"{step.text} returned {given.dtype}{list(given.shape)} where the program expects "
                f"{out.dtype}{list(out.shape)}: its abstract_eval and impl disagree."
            )
        np.copyto(out, given)


def _canonical(x: Any, buffer: ir.Buffer) -> np.ndarray:
    """`x` as an aligned C-contiguous array of native byte order."""
    dtype = np.dtype(buffer.dtype.char)  # the one object that native code compares with
    array = np.array(x, dtype) if isinstance(x, (int, float, complex)) else np.asarray(x)
    if array.shape != buffer.shape or array.dtype.newbyteorder("=") != dtype:
        raise TypeError(
            f"argument {buffer.name} of a compiled function must be {dtype}{list(buffer.shape)}, "
            f"got {array.dtype}{list(array.shape)}. Convert it, or call the function that `jit` "
            "returned, which compiles for each shape and dtype."
        )
    array = np.asarray(array, dtype, order="C")
    if not array.flags.aligned:
        array = array.copy()
    return array if array.dtype is dtype else array.view(dtype)
