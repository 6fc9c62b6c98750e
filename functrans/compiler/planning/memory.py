"""Where temporaries live: one arena, in which those never alive together share memory.

Steps run in order, so a temporary is alive from the first step that names it to the last. The large
ones are placed first, each at the lowest offset where it meets no other that is alive with it: that
packs well, in time quadratic in their number. Behind them, the many small ones of a long program
take and release blocks as the steps go by.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import replace

from functrans.loop_ir import KernelCall, MatMul, Program, Step, Tiled, Together

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
LARGEST = 512  # temporaries placed by size: a few milliseconds


def buffers_of(step: Step) -> tuple[str, ...]:
    """The buffers that a step reads or writes."""
    if isinstance(step, KernelCall):
        return step.buffers
    if isinstance(step, MatMul):
        return (step.out, step.lhs, step.rhs)
    if isinstance(step, Together | Tiled):
        return tuple(name for s in step.steps for name in buffers_of(s))
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


def place_by_size(
    names: Sequence[str], sizes: dict[str, int], alive: dict[str, tuple[int, int]]
) -> tuple[dict[str, int], int]:
    """Offsets of temporaries, the largest placed first, and where the last ends."""
    offsets: dict[str, int] = {}
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first and last step; in order
    for name in names:
        first, last = alive[name]
        offset = 0
        for begin, end, other_first, other_last in placed:
            if other_first > last or other_last < first:
                continue
            if begin >= offset + sizes[name]:
                break
            offset = max(offset, end)
        offsets[name] = offset
        bisect.insort(placed, (offset, offset + sizes[name], first, last))
    return offsets, max((end for _, end, _, _ in placed), default=0)


class Arena:
    """Blocks of one piece of memory; `free` are the gaps, as (offset, end), in order."""

    def __init__(self, end: int) -> None:
        self.free: list[tuple[int, int]] = []
        self.end = end

    def take(self, nbytes: int) -> int:
        """The offset of a block of its own."""
        fitting = [(end - start, start) for start, end in self.free if end - start >= nbytes]
        if fitting:
            size, start = min(fitting)
            self.free.remove((start, start + size))
            if size > nbytes:
                bisect.insort(self.free, (start + nbytes, start + size))
            return start
        start = self.end
        if self.free and self.free[-1][1] == self.end:
            start = self.free.pop()[0]  # the last gap grows
        self.end = start + nbytes
        return start

    def release(self, start: int, nbytes: int) -> None:
        """Give a block back; it joins the gaps beside it."""
        end = start + nbytes
        at = bisect.bisect(self.free, (start, end))
        if at < len(self.free) and self.free[at][0] == end:
            end = self.free.pop(at)[1]
        if at and self.free[at - 1][1] == start:
            start = self.free.pop(at - 1)[0]
        bisect.insort(self.free, (start, end))


def place_by_step(
    names: Sequence[str], sizes: dict[str, int], alive: dict[str, tuple[int, int]], arena: Arena
) -> dict[str, int]:
    """Offsets of temporaries, placed in the order of the program."""
    ending: dict[int, list[str]] = {}
    offsets: dict[str, int] = {}
    released = 0
    for name in sorted(names, key=lambda n: alive[n]):
        first, last = alive[name]
        while released < first:
            for other in ending.pop(released, ()):
                arena.release(offsets[other], sizes[other])
            released += 1
        offsets[name] = arena.take(sizes[name])
        ending.setdefault(last, []).append(name)
    return offsets


def plan_memory(program: Program) -> Program:
    """The program with its temporaries placed in an arena; those never used are dropped."""
    alive = lifetimes(program)
    temps = tuple(t for t in program.temps if t.name in alive)
    sizes = {t.name: -(-max(t.nbytes, 1) // ALIGNMENT) * ALIGNMENT for t in temps}
    names = sorted(sizes, key=lambda n: (-sizes[n], alive[n]))
    offsets, end = place_by_size(names[:LARGEST], sizes, alive)
    arena = Arena(end)
    offsets |= place_by_step(names[LARGEST:], sizes, alive, arena)
    return replace(
        program,
        temps=temps,
        offsets=tuple((t.name, offsets[t.name]) for t in temps),
        arena_bytes=arena.end,
    )
