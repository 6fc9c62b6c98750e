"""A compiled program, called on NumPy arrays.

The native driver is given the array objects themselves and reads their data pointers, so that a
call does no work per argument in Python but one check. Outputs are fresh arrays; temporaries live
in an arena that is kept for the next call. Several threads may call at once: each takes an arena
of its own from the free list.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans import loop_ir as ir
from functrans.compiler import emission
from functrans.runtime import codegen

_GIL_WORK = 20_000  # elements touched from which releasing the GIL (0.1 us) is worth it
ALIGNMENT = 64

_probe = np.empty(1)
if ctypes.c_void_p.from_address(id(_probe) + emission.DATA_OFFSET).value != _probe.ctypes.data:
    raise ImportError(
        "this build of NumPy or Python keeps array data pointers at another place than expected; "
        "functrans needs CPython with the global interpreter lock and NumPy 2."
    )


def compile_program(program: ir.Program) -> Executable:
    """Machine code for a loop program."""
    return Executable(program)


class Executable:
    """Call with one value per input of the program; returns a list of fresh outputs."""

    def __init__(self, program: ir.Program):
        self.program = program
        self._segments = _segments(program.steps)
        native = [s for s in self._segments if not isinstance(s, ir.HostStep)]
        text, names = emission.emit_program(program, native)
        self._code = codegen.compile_llvm(text, program.name) if native else None
        count = len(program.inputs) + len(program.consts) + len(program.outputs)
        work = sum(b.size for b in (*program.inputs, *program.outputs, *program.temps))
        release = work > _GIL_WORK or any(isinstance(s, ir.MatMul) for s in program.steps)
        make = codegen.prototype(count, release_gil=release)
        self._drivers = [make(self._code.address(f"{self._code.prefix}_{n}")) for n in names]  # type: ignore[union-attr]
        self._consts = [x for _, x in program.consts]
        self._specs = [(b.shape, b.dtype) for b in program.inputs]
        self._const_specs = [(b.shape, b.dtype) for b, _ in program.consts]
        self._outs = [(b.shape, b.dtype) for b in program.outputs]
        self._scalar_outs = [i for i, b in enumerate(program.outputs) if not b.shape]
        self._arenas: list[tuple[np.ndarray, int, np.ndarray, int]] = []
        self._simple = len(self._drivers) == 1 and len(self._segments) == 1 and not program.copies

    def __call__(self, args: Sequence[Any]) -> list[Any]:
        objects = self._inputs(args)
        consts = [_as_input(x, *s) for x, s in zip(self._consts, self._const_specs, strict=True)]
        outs = [np.empty(shape, dtype) for shape, dtype in self._outs]
        try:
            arena = self._arenas.pop()
        except IndexError:
            arena = _new_arena(self.program.arena_bytes)
        if self._simple:
            failed = self._drivers[0](*objects, *consts, *outs, arena[1], arena[3])
            if failed:
                raise self._index_error(arena[2])
        else:
            self._run_segments(objects, consts, outs, arena)
        self._arenas.append(arena)
        for i in self._scalar_outs:
            outs[i] = outs[i][()]
        return outs

    def _inputs(self, args: Sequence[Any]) -> list[np.ndarray]:
        objects = []
        for x, (shape, dtype) in zip(args, self._specs, strict=True):
            if type(x) is np.ndarray and x.dtype is dtype and x.flags.c_contiguous and x.flags.aligned:
                objects.append(x)
            else:
                objects.append(_as_input(x, shape, dtype))
        return objects

    def _run_segments(self, objects: Any, consts: Any, outs: Any, arena: Any) -> None:
        program = self.program
        named = [*program.inputs, *(b for b, _ in program.consts), *program.outputs]
        views = dict(zip((b.name for b in named), [*objects, *consts, *outs], strict=True))
        offsets = dict(program.offsets)
        start = arena[1] - arena[0].ctypes.data
        for b in program.temps:
            at = start + offsets[b.name]
            views[b.name] = arena[0][at : at + b.nbytes].view(b.dtype).reshape(b.shape)
        drivers = iter(self._drivers)
        for segment in self._segments:
            if isinstance(segment, ir.HostStep):
                results = segment.function(*[views[n] for n in segment.inputs])
                for name, y in zip(segment.outputs, results, strict=True):
                    views[name][...] = y
            elif next(drivers)(*objects, *consts, *outs, arena[1], arena[3]):
                raise self._index_error(arena[2])
        for out, source in program.copies:
            views[out][...] = views[source].reshape(views[out].shape)

    def _index_error(self, status: np.ndarray) -> IndexError:
        check = self.program.checks[int(status[0])]
        error = IndexError(
            f"index {int(status[1])} is out of bounds for axis {check.axis} with size {check.bound}"
        )
        error.add_note(f"in {check.primitive}, traced at {check.source}")
        return error

    @property
    def llvm(self) -> str:
        """The optimized LLVM module."""
        return self._code.llvm if self._code else ""

    @property
    def asm(self) -> str:
        """The machine code as text."""
        return self._code.asm if self._code else ""


def _segments(steps: Sequence[ir.Step]) -> list[Any]:
    """Stretches of native steps (lists), and host steps, in order."""
    out: list[Any] = []
    for step in steps:
        if isinstance(step, ir.HostStep):
            out.append(step)
        elif out and isinstance(out[-1], list):
            out[-1].append(step)
        else:
            out.append([step])
    return out


def _new_arena(nbytes: int) -> tuple[np.ndarray, int, np.ndarray, int]:
    block = np.empty(nbytes + ALIGNMENT, np.uint8)
    address = block.ctypes.data
    status = np.zeros(2, np.int64)
    return block, address + (-address) % ALIGNMENT, status, status.ctypes.data


def _as_input(x: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """`x` as an aligned C-contiguous array of native byte order."""
    if type(x) is np.ndarray and x.dtype is dtype and x.flags.c_contiguous and x.flags.aligned:
        return x
    array = np.require(x, dtype, ["C", "A"])
    if type(array) is not np.ndarray:
        array = array.view(np.ndarray)
    if array.shape != shape:
        array = array.reshape(shape)
    return array
