"""A compiled program, called on NumPy arrays.

The native entry (see `entry`) is a builtin function of the inputs that returns the outputs: it
checks the inputs itself, so a call does nothing per array in Python. Inputs it refuses (lists,
non-contiguous or byte-swapped arrays, ...) are made canonical and given again.

A program with host steps runs its native stretches and Python in turn. So does one that may write
over donated arguments, which Python looks at first.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import loop_ir as ir
from functrans.compiler.code import steps
from functrans.compiler.loops import loop_sizes
from functrans.runtime import codegen, entry, machine, threads

_GIL_WORK = 20_000  # scalar statements from which releasing the GIL (50 ns) is worth it
_RUN = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 4)


def compile_program(program: ir.Program) -> Executable:
    """Machine code for a loop program."""
    return Executable(program)


class Executable:
    """Call with one value per input of the program; returns a list of fresh outputs."""

    def __init__(self, program: ir.Program):
        self.program = program
        self._segments = _segments(program)
        last = len(self._segments) - 1
        self._calls = [
            steps.native_calls(program, segment, program.copies if i == last else ())
            for i, segment in enumerate(self._segments)
            if not isinstance(segment, ir.HostStep)
        ]
        self.is_native = len(self._segments) == len(self._calls) and not program.donations
        self._work = sum(map(steps.work_of, program.steps))
        work = sum(map(steps.shared_work_of, program.steps))
        is_shared = work > loop_sizes.ENOUGH or any(
            isinstance(step, ir.Together | ir.Tiled) for step in program.steps
        )
        # At once, so that they are compiled side by side, and linked together.
        codegen.addresses(
            [
                *steps.units_of([c for calls in self._calls for c in calls]),
                machine.RUN,
                *(entry.units(program.outputs) if self.is_native else []),
                *(threads.units() if is_shared else []),
            ]
        )
        self._tables = [steps.table_of(program, calls) for calls in self._calls]
        if is_shared:
            threads.prepare()
        # Constants are read at every call; one in another layout is copied at every call.
        self._consts = [_canonical(x, b) for b, x in program.consts]
        pairs = zip(self._consts, (x for _, x in program.consts), strict=True)
        self._refreshed = [(a, x) for a, x in pairs if not np.may_share_memory(a, x)]
        if self.is_native:
            self._native = self.entry(["any"] * len(program.inputs), results="list")
            self.call = self._call_native
        else:
            self._run = _RUN(codegen.addresses([machine.RUN])[0])
            self._arenas: list[np.ndarray] = []
            self.call = self._call_segments

    def __call__(self, args: Sequence[Any]) -> list[Any]:
        return self.call(args)

    def entry(self, kinds: Sequence[str], *, results: str) -> Callable[..., Any]:
        """A native entry of a program without host steps; see `entry.bind`."""
        return entry.bind(self.described(), kinds=kinds, results=results)

    def described(self) -> entry.Program:
        """What an entry must know of a program without host steps."""
        program = self.program
        return entry.Program(
            name=program.name,
            steps=self._tables[0],
            inputs=program.inputs,
            consts=self._consts,
            outputs=program.outputs,
            arena_bytes=program.arena_bytes,
            fail=functools.partial(_fail, program.checks),
            refresh=functools.partial(_refresh, self._refreshed) if self._refreshed else None,
            release_gil=self._work > _GIL_WORK,
        )

    @property
    def llvm(self) -> str:
        """The optimized LLVM module."""
        return codegen.optimized(self._text)

    @property
    def asm(self) -> str:
        """The machine code as text."""
        return codegen.assembly(self._text)

    @property
    def _text(self) -> str:
        return codegen.module_text(steps.units_of([c for calls in self._calls for c in calls]))

    # ------------------------------------------------------------------ a call

    def _call_native(self, args: Sequence[Any]) -> list[Any]:
        outs = self._native(*args)
        return self._native(*self._canonical(args)) if outs is NotImplemented else outs

    def _call_segments(self, args: Sequence[Any]) -> list[Any]:
        inputs = self._canonical(args)
        _refresh(self._refreshed)
        outs = self._outputs(args, inputs)
        arena = self._arenas.pop() if self._arenas else self._new_arena()
        table = np.array([x.ctypes.data for x in (*inputs, *self._consts, *outs)], np.uintp)
        status = arena[_status_offset(self.program) :].view(np.int64)
        given = table.ctypes.data, arena.ctypes.data, status.ctypes.data
        views = self._views(inputs, outs, arena)
        tables = iter(self._tables)
        try:
            for segment in self._segments:
                if isinstance(segment, ir.HostStep):
                    _run_host_step(segment, views)
                elif self._run(next(tables).ctypes.data, *given) != machine.DONE:
                    _fail(self.program.checks, int(status[0]), int(status[1]))
        finally:
            self._arenas.append(arena)
        return [out if out.shape else out[()] for out in outs]

    def _outputs(self, args: Sequence[Any], inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Fresh arrays, and donated ones, or copies of these, which are then inputs, too."""
        donations = dict(self.program.donations)
        outs = []
        for i, buffer in enumerate(self.program.outputs):
            source = donations.get(i)
            if source is None:
                outs.append(np.empty(buffer.shape, buffer.dtype))
                continue
            x = inputs[source]
            others = (y for j, y in enumerate(inputs) if j != source)
            is_alone = not any(np.may_share_memory(x, y) for y in (*others, *self._consts))
            if x is not args[source] or not x.flags.writeable or not is_alone:
                x = inputs[source] = x.copy()
            outs.append(x)
        return outs

    def _views(self, inputs: Sequence[Any], outs: Sequence[Any], arena: Any) -> dict[str, Any]:
        program = self.program
        named = [*program.inputs, *(b for b, _ in program.consts), *program.outputs]
        views = dict(zip((b.name for b in named), [*inputs, *self._consts, *outs], strict=True))
        offsets = dict(program.offsets)
        for b in program.temps:
            views[b.name] = np.ndarray(b.shape, b.dtype, arena, offsets[b.name])
        return views

    # ------------------------------------------------------------------ parts of a call

    def _new_arena(self) -> np.ndarray:
        return _aligned(_status_offset(self.program) + machine.STATUS_BYTES)

    def _canonical(self, args: Sequence[Any]) -> list[np.ndarray]:
        if len(args) != len(self.program.inputs):
            raise TypeError(
                f"{self.program.name} was compiled for {len(self.program.inputs)} arguments, got "
                f"{len(args)}."
            )
        return [_canonical(x, b) for x, b in zip(args, self.program.inputs, strict=True)]


def _fail(checks: Sequence[Any], check: int, number: int) -> None:
    """Raise what a step found."""
    raise checks[check].error(number)


def _refresh(copies: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Copy constants in another layout to where native code reads them."""
    for private, original in copies:
        np.copyto(private, original)


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


def _status_offset(program: ir.Program) -> int:
    """Where the status words are, in bytes from the start of the arena."""
    return -(-program.arena_bytes // 8) * 8


def _aligned(nbytes: int) -> np.ndarray:
    block = np.empty(nbytes + entry.ALIGNMENT, np.uint8)
    start = -block.ctypes.data % entry.ALIGNMENT
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
