"""Where temporaries live: one arena, in which those never alive together share memory.

Steps run in order, so a temporary is alive from the first step that names it to the last. Places
are given in order of size, largest first, each at the lowest offset where it meets no other that is
alive with it.
"""

from __future__ import annotations

import bisect
from dataclasses import replace

from functrans.loop_ir import HostStep, KernelCall, MatMul, Program, Step

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


def buffers_of(step: Step) -> tuple[str, ...]:
    """The buffers that a step reads or writes."""
    if isinstance(step, KernelCall):
        return step.buffers
    if isinstance(step, MatMul):
        return (step.out, step.lhs, step.rhs)
    assert isinstance(step, HostStep)
    return (*step.inputs, *step.outputs)


def lifetimes(program: Program) -> dict[str, tuple[int, int]]:
    """For each temporary the first and the last step that names it."""
    temps = {t.name for t in program.temps}
    alive: dict[str, tuple[int, int]] = {}
    for i, step in enumerate(program.steps):
        for name in buffers_of(step):
            if name in temps:
                alive[name] = (alive.get(name, (i, i))[0], i)
    return alive


def plan_memory(program: Program) -> Program:
    """The program with its temporaries placed in an arena; those never used are dropped."""
    alive = lifetimes(program)
    temps = tuple(t for t in program.temps if t.name in alive)
    offsets: dict[str, int] = {}
    total = 0
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first step, last step; sorted
    for buffer in sorted(temps, key=lambda t: (-t.nbytes, alive[t.name])):
        first, last = alive[buffer.name]
        size = -(-max(buffer.nbytes, 1) // ALIGNMENT) * ALIGNMENT
        offset = 0
        for begin, end, other_first, other_last in placed:
            if other_first > last or other_last < first:
                continue
            if begin >= offset + size:
                break
            offset = max(offset, end)
        offsets[buffer.name] = offset
        bisect.insort(placed, (offset, offset + size, first, last))
        total = max(total, offset + size)
    return replace(
        program,
        temps=temps,
        offsets=tuple((t.name, offsets[t.name]) for t in temps),
        arena_bytes=total,
    )
