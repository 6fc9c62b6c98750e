"""From a loop program to the table of its steps, which `runtime/machine` runs.

A step is a native function, the buffers it works on and the numbers it is given. Shapes are only in
the numbers, so programs of other shapes are other tables over the same machine code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from functrans import loop_ir as ir
from functrans.compiler import emission, matmul
from functrans.runtime import codegen, machine
from functrans.runtime.codegen import Unit


@dataclass(frozen=True)
class NativeCall:
    """One step: a unit, or the symbol of a routine; names of buffers, numbers, check codes."""

    function: Unit | str
    buffers: tuple[str, ...]
    numbers: tuple[np.generic | int, ...] = ()
    checks: tuple[int, ...] = ()


def native_calls(
    program: ir.Program, steps: Sequence[ir.Step], copies: Sequence[tuple[str, str]]
) -> list[NativeCall]:
    """The native functions that do some steps, and then copies of buffers."""
    calls = []
    for step in steps:
        if isinstance(step, ir.KernelCall):
            unit = emission.kernel_unit(step.kernel)
            calls.append(NativeCall(unit, step.buffers, step.numbers, step.checks))
        elif isinstance(step, ir.MatMul):
            if 0 not in (*step.sizes[:3], step.outer[0]):
                unit, numbers = matmul.routine(step)
                calls.append(NativeCall(unit, (step.lhs, step.rhs, step.out), numbers))
        elif isinstance(step, ir.NativeStep):
            buffers = (*step.inputs, *step.outputs)
            calls.append(NativeCall(step.provide(), buffers, step.numbers, step.checks))
    sizes = {b.name: b.nbytes for b in program.outputs}
    for out, source in copies:
        calls.append(NativeCall(machine.COPY, (out, source), (sizes[out],)))
    return calls


def units_of(calls: Sequence[NativeCall]) -> list[Unit]:
    """The units that calls need, each once."""
    units = (c.function for c in calls)
    return list({u.name: u for u in units if isinstance(u, Unit)}.values())


def table_of(program: ir.Program, calls: Sequence[NativeCall]) -> np.ndarray:
    """The table of calls: what they need is compiled or loaded now."""
    named = [*program.inputs, *(b for b, _ in program.consts), *program.outputs]
    places = {b.name: i for i, b in enumerate(named)}
    places |= {name: ~offset for name, offset in program.offsets}
    units = units_of(calls)
    where = dict(zip((u.name for u in units), codegen.addresses(units), strict=True))
    records = []
    for call in calls:
        unit = call.function
        address = where[unit.name] if isinstance(unit, Unit) else codegen.address_of(unit)
        buffers = [places[b] for b in call.buffers]
        records.append(machine.Record(address, buffers, call.numbers, call.checks))
    return machine.table(records)
