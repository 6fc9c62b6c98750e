"""Results that take the memory of operands nobody needs any more.

    tmp1 = tanh(tmp0)            tmp0 = tanh(tmp0)
    out0 = tmp1 * 2              out0 = tmp1 * 2       (then tmp0 is out0 from the beginning)

A kernel may write a buffer where it reads another, if the other is read for the last time there and
every element is read before anything is written over it. Then the two are one buffer: less memory,
and a scatter or an update of a slice no longer copies the array it begins with. Arguments that were
donated to the call are such operands, too.

The proof is about indices. A read and a write are in loops that they share and loops of their own.
In one iteration of the shared loops the read must come first; and no iteration may write what
another reads: the index of both must be the same in the shared loops' variables, each of which
moves on by more than all that is inside it reaches.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from functrans.compiler.planning.memory import buffers_of
from functrans.loop_ir import (
    Affine,
    HostStep,
    Kernel,
    KernelCall,
    Load,
    Loop,
    MatMul,
    NativeStep,
    Program,
    Step,
    Stmt,
    Store,
    StoreReduce,
)

Path = tuple[tuple[int, Loop | None], ...]  # places in bodies, from outside: position, the loop


def in_place(program: Program, donated: Sequence[int] | Mapping[int, int] = ()) -> Program:
    """The program with results in the place of operands; `donated` are positions of inputs.

    A mapping says which output may be in the place of each.
    """
    planner = _Planner(program, donated)
    for i in range(len(program.steps)):
        planner.visit(i)
    return planner.program()


class _Planner:
    """Steps while buffers become one.

    `lives` are the first and last steps that name a buffer, `users` all of them.
    """

    def __init__(self, program: Program, donated: Sequence[int] | Mapping[int, int]):
        self.given = program
        self.steps: list[Step] = list(program.steps)
        self.names: dict[str, str] = {}  # buffers that are gone, and what they became
        self.donations: list[tuple[int, int]] = []
        self.outputs = {b.name: i for i, b in enumerate(program.outputs)}
        self.donated = {program.inputs[i].name: i for i in donated}
        chosen = donated.items() if isinstance(donated, Mapping) else ()
        self.chosen = {program.inputs[i].name: program.outputs[o].name for i, o in chosen}
        self.buffers = {b.name: b for b in (*program.inputs, *program.outputs, *program.temps)}
        self.temps = {b.name for b in program.temps}
        # Calls on whole arrays see shapes, not only memory.
        calls = [s for s in program.steps if isinstance(s, HostStep | NativeStep)]
        self.shaped = {name for step in calls for name in buffers_of(step)}
        self.lives: dict[str, tuple[int, int]] = {}
        self.users: dict[str, set[int]] = {}
        for i, step in enumerate(program.steps):
            for name in buffers_of(step):
                self.lives[name] = (self.lives.get(name, (i, i))[0], i)
                self.users.setdefault(name, set()).add(i)
        for _, source in program.copies:
            self.lives[source] = (self.lives.get(source, (0, 0))[0], len(program.steps))

    def visit(self, i: int) -> None:
        """Let the kernel of a step write over what it reads, as often as it can."""
        while isinstance(step := self.steps[i], KernelCall):
            found = next(self._pairs(i, step), None)
            if found is None:
                return
            old, new = found
            self.steps[i] = _merged(step, old, new)
            self._unite(i, step.buffers[old], step.buffers[new])

    def _pairs(self, i: int, step: KernelCall) -> Iterator[tuple[int, int]]:
        """Positions of an operand and a result that may be one buffer."""
        values = dict(zip((name for name, _ in step.kernel.numbers), step.numbers, strict=True))
        for new, target in enumerate(step.kernel.params):
            name = step.buffers[new]
            if target.role == "in" or not self._begins_here(name, i):
                continue
            for old, source in enumerate(step.kernel.params):
                other = step.buffers[old]
                if source.role != "in" or not self._ends_here(other, i):
                    continue
                if self._fit(name, other) and may_overwrite(
                    step.kernel, source.name, target.name, values
                ):
                    yield old, new

    def _begins_here(self, name: str, i: int) -> bool:
        return (name in self.temps or name in self.outputs) and self.lives[name][0] == i

    def _ends_here(self, name: str, i: int) -> bool:
        return (name in self.temps or name in self.donated) and self.lives[name][1] == i

    def _fit(self, a: str, b: str) -> bool:
        x, y = self.buffers[a], self.buffers[b]
        if b in self.donated and (a in self.temps or x.shape != y.shape or not x.shape):
            return False  # the array itself is returned: it must be just the result
        if self.chosen.get(b, a) != a:
            return False
        if x.shape != y.shape and not self.shaped.isdisjoint((a, b)):
            return False
        return (x.dtype, x.size) == (y.dtype, y.size)

    def _unite(self, i: int, old: str, new: str) -> None:
        """Make two buffers one: an output keeps its name, and a donated input its own."""
        if old in self.donated:
            self.donations.append((self.outputs.pop(new), self.donated.pop(old)))
            gone, kept = new, old
        elif new in self.outputs:
            gone, kept = old, new
        else:
            gone, kept = new, old
        first, last = self.lives[old][0], self.lives[new][1]
        self.lives[kept] = (first, last)
        self.names[gone] = kept
        if gone in self.shaped:
            self.shaped.add(kept)
        self.temps.discard(gone)
        users = self.users.pop(gone)
        self.users[kept] |= users
        for at in users:
            self.steps[at] = _renamed(self.steps[at], {gone: kept})

    def program(self) -> Program:
        """The program as it is now."""
        copies = tuple((out, self._final(source)) for out, source in self.given.copies)
        temps = tuple(b for b in self.given.temps if b.name in self.temps)
        steps = tuple(s for s in self.steps if not isinstance(s, KernelCall) or s.kernel.body)
        return replace(
            self.given, steps=steps, temps=temps, copies=copies, donations=tuple(self.donations)
        )

    def _final(self, name: str) -> str:
        while name in self.names:
            name = self.names[name]
        return name


# ---------------------------------------------------------------------------- steps


def _renamed(step: Step, names: Mapping[str, str]) -> Step:
    def new(buffers: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.get(b, b) for b in buffers)

    if isinstance(step, KernelCall):
        return replace(step, buffers=new(step.buffers))
    if isinstance(step, MatMul):
        out, lhs, rhs = new((step.out, step.lhs, step.rhs))
        return replace(step, out=out, lhs=lhs, rhs=rhs)
    assert isinstance(step, HostStep | NativeStep)
    return replace(step, inputs=new(step.inputs), outputs=new(step.outputs))


def _merged(step: KernelCall, old: int, new: int) -> KernelCall:
    """The call with one buffer for two: the operand's parameter serves for the result."""
    buffers = (*step.buffers[:new], *step.buffers[new + 1 :])
    return replace(step, kernel=_with_one_parameter(step.kernel, old, new), buffers=buffers)


@functools.lru_cache(maxsize=1024)
def _with_one_parameter(kernel: Kernel, old: int, new: int) -> Kernel:
    source, target = kernel.params[old].name, kernel.params[new].name
    params = [replace(p, role="inout") if p.name == source else p for p in kernel.params]
    del params[new]
    body = tuple(_with_buffers(s, {target: source}) for s in kernel.body)
    body = tuple(s for s in body if not _is_copy(s, source, source))
    # Names count the parameters again, so that kernels of equal structure stay equal.
    names = {p.name: f"a{i}" for i, p in enumerate(params)}
    params = [replace(p, name=names[p.name]) for p in params]
    body = tuple(_with_buffers(s, names) for s in body)
    return replace(kernel, params=tuple(params), body=body)


def _with_buffers(s: Stmt, names: Mapping[str, str]) -> Stmt:
    if isinstance(s, Loop):
        return replace(s, body=tuple(_with_buffers(x, names) for x in s.body))
    if isinstance(s, Load | Store | StoreReduce) and s.buffer in names:
        return replace(s, buffer=names[s.buffer])
    return s


def _is_copy(s: Stmt, source: str, target: str) -> bool:
    """Whether loops only put every element of one buffer into the same place of another."""
    while isinstance(s, Loop) and len(s.body) == 1:
        s = s.body[0]
    if not isinstance(s, Loop) or len(s.body) != 2:
        return False
    load, store = s.body
    return (
        isinstance(load, Load)
        and isinstance(store, Store)
        and load.guard is None
        and (load.buffer, store.buffer) == (source, target)
        and (load.index, load.name) == (store.index, store.value)
    )


# ---------------------------------------------------------------------------- the proof


@dataclass(frozen=True)
class _Access:
    index: Affine
    path: Path


def may_overwrite(kernel: Kernel, source: str, target: str, values: Mapping[str, Any]) -> bool:
    """Whether every element of `source` is read before `target` is written over it."""
    body = _without_first_copies(kernel.body, source, target)
    reads = list(_accesses(body, source, Load))
    writes = [*_accesses(body, target, Store), *_accesses(body, target, StoreReduce)]
    return all(_comes_first(r, w, values) for r in reads for w in writes)


def _without_first_copies(body: tuple[Stmt, ...], source: str, target: str) -> tuple[Stmt, ...]:
    """A copy of one to the other has nothing left to do, if nothing was written there before."""
    kept: list[Stmt] = []
    for s in body:
        written = any(
            next(_accesses(tuple(kept), target, kind), None) for kind in (Store, StoreReduce)
        )
        if written or not _is_copy(s, source, target):
            kept.append(s)
    return tuple(kept)


def _accesses(
    body: tuple[Stmt, ...], buffer: str, kind: type, path: Path = ()
) -> Iterator[_Access]:
    for position, s in enumerate(body):
        if isinstance(s, Loop):
            yield from _accesses(s.body, buffer, kind, (*path, (position, s)))
        elif isinstance(s, kind) and s.buffer == buffer:  # type: ignore[attr-defined]
            yield _Access(s.index[0], (*path, (position, None)))  # type: ignore[attr-defined]


def _comes_first(read: _Access, write: _Access, values: Mapping[str, Any]) -> bool:
    depth = 0
    while read.path[depth] == write.path[depth]:
        depth += 1
    if read.path[depth][0] > write.path[depth][0]:
        return False
    shared = [loop for _, loop in read.path[:depth] if loop is not None]
    if not shared:
        return True
    inside = [_extents(a.path[depth:], values) for a in (read, write)]
    return _are_disjoint(read.index, write.index, _loop_extents(shared, values), inside, values)


def _extents(path: Path, values: Mapping[str, Any]) -> dict[str, int]:
    return _loop_extents([loop for _, loop in path if loop is not None], values)


def _loop_extents(loops: Sequence[Loop], values: Mapping[str, Any]) -> dict[str, int]:
    return {loop.var: _number(loop.extent, values) for loop in loops}


def _number(value: Any, values: Mapping[str, Any]) -> int:
    return int(values[value]) if isinstance(value, str) else value


def _are_disjoint(
    read: Affine,
    write: Affine,
    shared: dict[str, int],
    inside: Sequence[dict[str, int]],
    values: Mapping[str, Any],
) -> bool:
    """Whether what one iteration of the shared loops writes, no other one reads."""
    steps = [{n: _number(c, values) for n, c in a.terms} for a in (read, write)]
    if any(steps[0].get(v, 0) != steps[1].get(v, 0) for v in shared):
        return False
    low, high = [], []
    for a, terms, own in zip((read, write), steps, inside, strict=True):
        rest = {n: c for n, c in terms.items() if n not in shared}
        if any(n not in own or c < 0 for n, c in rest.items()):
            return False
        low.append(_number(a.offset, values))
        high.append(low[-1] + sum(c * (own[n] - 1) for n, c in rest.items()))
    reach = max(high) - min(low) + 1
    moves = sorted((steps[0].get(v, 0), n) for v, n in shared.items() if n > 1)
    for step, extent in moves:
        if step < reach:
            return False
        reach += step * (extent - 1)
    return True
