"""From a loop program to the table of its steps, which `runtime/machine` runs.

A step is a native function, the buffers it works on and the numbers it is given. Shapes are only in
the numbers, so programs of other shapes are other tables over the same machine code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from functrans import loop_ir as ir
from functrans.compiler.code import emission, matmul
from functrans.compiler.loops import loop_sizes
from functrans.runtime import codegen, machine
from functrans.runtime.codegen import Unit


@dataclass(frozen=True)
class NativeCall:
    """One step: a unit, or the symbol of a routine; names of buffers, numbers, check codes.

    `together` has the calls of a step that consists of several: of one that is tiled those of a
    tile and then those of the last tile, with the `advances` of their buffers.
    """

    function: Unit | str
    buffers: tuple[str, ...]
    numbers: tuple[np.generic | int, ...] = ()
    checks: tuple[int, ...] = ()
    together: tuple[NativeCall, ...] = ()
    advances: tuple[tuple[int, ...], ...] = ()
    programs: tuple[tuple[ir.Program, list[NativeCall]], ...] = ()


def native_calls(
    program: ir.Program, steps: Sequence[ir.Step], copies: Sequence[tuple[str, str]]
) -> list[NativeCall]:
    """The native functions that do some steps, and then copies of buffers."""
    calls = [*_calls_of(steps)]
    sizes = {b.name: b.nbytes for b in program.outputs}
    for out, source in copies:
        calls.append(NativeCall(machine.COPY, (out, source), (sizes[out],)))
    return calls


def _calls_of(steps: Sequence[ir.Step]) -> tuple[NativeCall, ...]:
    """The calls that do steps; a product without elements needs none."""
    return tuple(call for step in steps if (call := _native_call(step)) is not None)


def _native_call(step: ir.Step) -> NativeCall | None:
    if isinstance(step, ir.KernelCall):
        unit = emission.kernel_unit(step.kernel)
        return NativeCall(unit, step.buffers, step.numbers, step.checks)
    if isinstance(step, ir.MatMul):
        if 0 in (*step.sizes[:3], step.outer[0]):
            return None
        unit, numbers = matmul.routine(step)
        return NativeCall(unit, (step.lhs, step.rhs, step.out), numbers)
    if isinstance(step, ir.Together):
        parts = _calls_of(step.steps)
        buffers = tuple(b for c in parts for b in c.buffers)
        return NativeCall(machine.TOGETHER, buffers, together=parts)
    if isinstance(step, ir.Tiled):
        calls = _calls_of((*step.first, *step.last))
        buffers = tuple(b for c in calls[: len(step.first)] for b in c.buffers)
        return NativeCall(
            machine.TILED, buffers, (step.tiles,), together=calls, advances=step.advances
        )
    assert isinstance(step, ir.NativeStep)
    buffers = (*step.inputs, *step.outputs)
    programs = tuple((p, native_calls(p, p.steps, p.copies)) for p in step.programs)
    return NativeCall(step.provide(), buffers, step.numbers, step.checks, programs=programs)


def units_of(calls: Sequence[NativeCall]) -> list[Unit]:
    """The units that calls need, each once."""
    found: dict[str, Unit] = {}
    for call in calls:
        if isinstance(call.function, Unit):
            found[call.function.name] = call.function
        found |= {u.name: u for u in units_of(call.together)}
        for _, inner in call.programs:
            found |= {u.name: u for u in [machine.RUN, *units_of(inner)]}
    return list(found.values())


def table_of(program: ir.Program, calls: Sequence[NativeCall]) -> np.ndarray:
    """The table of calls: what they need is compiled or loaded now. It keeps those inside."""
    kept: list[np.ndarray] = []
    named = [*program.inputs, *(b for b, _ in program.consts), *program.outputs]
    places = {b.name: i for i, b in enumerate(named)}
    places |= {name: ~offset for name, offset in program.offsets}
    units = units_of(calls)
    where = dict(zip((u.name for u in units), codegen.addresses(units), strict=True))

    def record(call: NativeCall) -> machine.Record:
        unit = call.function
        address = where[unit.name] if isinstance(unit, Unit) else codegen.address_of(unit)
        buffers = [places[b] for b in call.buffers]
        numbers = call.numbers
        if call.advances:
            parts = [record(c) for c in call.together]
            numbers = machine.numbers_of_tiled(int(numbers[0]), parts, call.advances)
        elif call.together:
            numbers = machine.numbers_of_together([record(c) for c in call.together])
        first_check = 0
        for inner, inner_calls in call.programs:
            arrays = [
                table_of(inner, inner_calls),
                *(np.ascontiguousarray(c) for _, c in inner.consts),
            ]
            kept.extend(arrays)
            run = codegen.addresses([machine.RUN])[0]
            places_of = [x.ctypes.data for x in arrays]
            numbers = (*numbers, run, first_check, places_of[0], len(arrays) - 1, *places_of[1:])
            first_check += len(inner.checks)
        return machine.Record(address, buffers, numbers, call.checks)

    return machine.table([record(call) for call in calls], kept)


# ---------------------------------------------------------------------------- work


def work_of(step: ir.Step) -> int:
    """About how many scalar statements a step executes."""
    if isinstance(step, ir.KernelCall):
        names = (name for name, _ in step.kernel.numbers)
        return loop_sizes.work(step.kernel.body, dict(zip(names, step.numbers, strict=True)))
    if isinstance(step, ir.MatMul):
        return step.outer[0] * math.prod(step.sizes) // 8
    if isinstance(step, ir.Together | ir.Tiled):
        return sum(map(work_of, step.steps))
    return step.work if isinstance(step, ir.NativeStep) else 0


def shared_work_of(step: ir.Step) -> int:
    """As much of it as threads may share."""
    is_alone = isinstance(step, ir.NativeStep) and not step.is_shared
    return 0 if is_alone else work_of(step)


def is_shared(step: ir.KernelCall | ir.MatMul) -> bool:
    """Whether threads share a step by itself."""
    if isinstance(step, ir.MatMul):
        return 0 in (*step.sizes[:3], step.outer[0]) or matmul.is_shared(step)
    return work_of(step) > loop_sizes.ENOUGH
