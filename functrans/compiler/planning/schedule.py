"""Which steps run together: those that are independent, and each too small to be shared.

The gradients of a layer with respect to its weights and to its input are two products of the same
cotangent; the queries, keys and values of attention three of the same input. A step moves up to one
that neither it nor any step between depends on, if both have enough to do. Which steps are together
depends on their sizes alone, and each is computed as it would be by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from functrans.compiler.code.steps import is_shared, work_of
from functrans.compiler.planning.memory import buffers_of
from functrans.loop_ir import KernelCall, MatMul, Program, Step, Tiled, Together

LEAST = 1 << 14  # statements of a step, about 3 us: what threads cost is 1 us
WINDOW = 12  # steps that one may move past, so that memory is not taken long before it is needed
MOST = 8  # steps together


def schedule(program: Program) -> Program:
    """The program with independent steps together."""
    groups: list[list[Step]] = []
    for step in program.steps:
        at = _place(groups, step) if _is_candidate(step) else None
        if at is None:
            groups.append([step])
        else:
            groups[at].append(step)
    steps = tuple(g[0] if len(g) == 1 else Together(tuple(g)) for g in groups)
    return replace(program, steps=steps)


def _is_candidate(step: Step) -> bool:
    if not isinstance(step, KernelCall | MatMul) or (isinstance(step, KernelCall) and step.checks):
        return False
    return work_of(step) >= LEAST and not is_shared(step)


def _place(groups: Sequence[list[Step]], step: Step) -> int | None:
    """The earliest group, not far up, that the step may join."""
    found = None
    for at in range(len(groups) - 1, max(-1, len(groups) - 1 - WINDOW), -1):
        group = groups[at]
        if any(_conflict(step, other) for other in group):
            break
        if len(group) < MOST and all(map(_is_candidate, group)):
            found = at
    return found


def _conflict(a: Step, b: Step) -> bool:
    """Whether one writes what the other reads or writes."""
    return not (_written(a).isdisjoint(buffers_of(b)) and _written(b).isdisjoint(buffers_of(a)))


def _written(step: Step) -> set[str]:
    if isinstance(step, KernelCall):
        params = zip(step.buffers, step.kernel.params, strict=True)
        return {name for name, p in params if p.role != "in"}
    if isinstance(step, MatMul):
        return {step.out}
    if isinstance(step, Together | Tiled):
        return {name for s in step.steps for name in _written(s)}
    return set(buffers_of(step))  # a host step could write anything; nothing moves past it
