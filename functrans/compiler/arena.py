"""The memory plan: every temporary at a place in one arena, reused when its value is dead."""

from __future__ import annotations

import dataclasses

from functrans import loop_ir as ir

ALIGNMENT = 64  # a cache line, and the widest vector


def plan(program: ir.Program) -> ir.Program:
    """The program with `offsets` and `arena_bytes`; buffers that are alive together never overlap."""
    life = _lifetimes(program)
    sizes = {b.name: max(ALIGNMENT, -(-b.nbytes // ALIGNMENT) * ALIGNMENT) for b in program.temps}
    starts: dict[int, list[str]] = {}
    ends: dict[int, list[str]] = {}
    for name in sizes:
        first, last = life.get(name, (0, 0))
        starts.setdefault(first, []).append(name)
        ends.setdefault(last, []).append(name)
    free: list[tuple[int, int]] = []  # (offset, size), disjoint, sorted
    offsets: dict[str, int] = {}
    top = 0
    for step in range(len(program.steps) + 1):
        for name in starts.get(step, ()):
            offsets[name], top = _take(free, sizes[name], top)
        for name in ends.get(step, ()):
            _give(free, offsets[name], sizes[name])
    return dataclasses.replace(program, offsets=tuple(offsets.items()), arena_bytes=top)


def _lifetimes(program: ir.Program) -> dict[str, tuple[int, int]]:
    life: dict[str, tuple[int, int]] = {}
    for position, step in enumerate(program.steps):
        for name in buffers_of(step):
            life[name] = (life.get(name, (position, 0))[0], position)
    for _, source in program.copies:
        if source in life:
            life[source] = (life[source][0], len(program.steps))
    return life


def buffers_of(step: ir.Step) -> tuple[str, ...]:
    """The buffers a step touches."""
    if isinstance(step, ir.KernelCall):
        return step.buffers
    if isinstance(step, ir.MatMul):
        return step.out, step.lhs, step.rhs
    return (*step.inputs, *step.outputs)


def _take(free: list[tuple[int, int]], size: int, top: int) -> tuple[int, int]:
    """A place of `size` bytes: the tightest free one, or new memory at the top."""
    fitting = [(s, o) for o, s in free if s >= size]
    if not fitting:
        return top, top + size
    s, offset = min(fitting)
    free.remove((offset, s))
    if s > size:
        free.append((offset + size, s - size))
        free.sort()
    return offset, top


def _give(free: list[tuple[int, int]], offset: int, size: int) -> None:
    free.append((offset, size))
    free.sort()
    merged: list[tuple[int, int]] = []
    for o, s in free:
        if merged and merged[-1][0] + merged[-1][1] == o:
            merged[-1] = (merged[-1][0], merged[-1][1] + s)
        else:
            merged.append((o, s))
    free[:] = merged
