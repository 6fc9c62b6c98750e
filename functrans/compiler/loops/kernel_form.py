"""The finished form of a kernel: loops as data, merged where they can be, names made canonical.

Two nested loops over axes that every access walks as one block become one loop, so an operation on
a (128, 784) array is a loop of 100352. Buffers are flat in kernels. Names are numbered in the order
of appearance, so that kernels of equal structure are equal values.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from functrans.compiler.loops import loop_sizes
from functrans.compiler.loops.kernel_builder import KernelBuilder, Scope
from functrans.compiler.loops.kernel_numbers import generalize
from functrans.loop_ir import (
    Affine,
    ArgUpdate,
    CheckIndex,
    IndexValue,
    Init,
    Kernel,
    Let,
    Load,
    Loop,
    Param,
    Stmt,
    Store,
    StoreReduce,
    Update,
    walk,
)

_ACCESSES = (Load, Store, StoreReduce)
_POSITIONS = (IndexValue, ArgUpdate)


def finish(k: KernelBuilder) -> tuple[Kernel, tuple[str, ...], tuple[Any, ...], list[Any]]:
    """The kernel of a builder, the buffers and numbers it is called with, and its index checks."""
    body = tuple(_loop(x) if isinstance(x, Scope) else x for x in k.top.items())
    renaming = _Renaming()
    body = tuple(renaming.stmt(s) for s in body)
    sizes = tuple((new, *k.sizes[old]) for old, new in renaming.buffers.items())
    checks = [k.checks[int(old[1:])] for old in renaming.checks]
    kernel, numbers = _finished(body, sizes, tuple(renaming.checks.values()))
    return kernel, tuple(renaming.buffers), numbers, checks


@functools.lru_cache(maxsize=1024)  # programs of many layers have the same kernel many times
def _finished(
    body: tuple[Stmt, ...], sizes: tuple[tuple[str, int, Any], ...], checks: tuple[str, ...]
) -> tuple[Kernel, tuple[Any, ...]]:
    body = loop_sizes.marked(body)
    roles = _roles(body)
    params = tuple(Param(name, (size,), dtype, roles[name]) for name, size, dtype in sizes)
    return generalize(Kernel(params, body, checks))


# ---------------------------------------------------------------------------- loops


def _loop(scope: Scope) -> Loop:
    body = tuple(_loop(x) if isinstance(x, Scope) else x for x in scope.items())
    loop = Loop(scope.var, scope.extent, body, _kind(scope, body))
    inner = body[0] if len(body) == 1 else None
    if isinstance(inner, Loop) and inner.kind == loop.kind:
        return _merged(loop, inner) or loop
    return loop


def _kind(scope: Scope, body: tuple[Stmt, ...]) -> str:
    """What is known of the iterations: they are independent, share sums, or neither."""
    if scope.is_serial:
        return "serial"
    own = set()
    changed = set()
    summed = set()
    for s in walk(body):
        if isinstance(s, Init):
            own.add(s.name)
        elif isinstance(s, Update):
            changed.add(s.name)
        elif isinstance(s, ArgUpdate):
            changed |= {s.name, s.position}
        elif isinstance(s, StoreReduce) and scope.var not in dict(s.index[0].terms):
            summed.add(s.buffer)
    if any(isinstance(s, Load | Store) and s.buffer in summed for s in walk(body)):
        return "serial"
    return "sums" if summed else "reduce" if changed - own else "map"


def _merged(outer: Loop, inner: Loop) -> Loop | None:
    """Two loops as one, if every index walks both as one block."""
    for a in _indices(inner.body):
        terms = dict(a.terms)
        if terms.get(outer.var, 0) != terms.get(inner.var, 0) * inner.extent:
            return None
    drop = outer.var

    def without(a: Affine) -> Affine:
        return Affine(tuple(t for t in a.terms if t[0] != drop), a.offset)

    body = tuple(_map_indices(s, without) for s in inner.body)
    return Loop(inner.var, outer.extent * inner.extent, body, inner.kind)


def _indices(body: tuple[Stmt, ...]) -> Iterator[Affine]:
    for s in walk(body):
        if isinstance(s, _ACCESSES):
            yield s.index[0]
        elif isinstance(s, _POSITIONS):
            yield s.index


def _map_indices(s: Stmt, f: Any) -> Stmt:
    if isinstance(s, Loop):
        return replace(s, body=tuple(_map_indices(x, f) for x in s.body))
    if isinstance(s, _ACCESSES):
        return replace(s, index=(f(s.index[0]),))
    if isinstance(s, _POSITIONS):
        return replace(s, index=f(s.index))
    return s


# ---------------------------------------------------------------------------- names


def _roles(body: tuple[Stmt, ...]) -> dict[str, str]:
    read, written = set(), set()
    for s in walk(body):
        if isinstance(s, Load):
            read.add(s.buffer)
        elif isinstance(s, Store):
            written.add(s.buffer)
        elif isinstance(s, StoreReduce):
            read.add(s.buffer)
            written.add(s.buffer)
    return {
        name: ("inout" if name in read else "out") if name in written else "in"
        for name in read | written
    }


class _Renaming:
    """Canonical names: buffers a, b.., loops i, scalars t, checks c, numbered by appearance."""

    def __init__(self) -> None:
        self.buffers: dict[str, str] = {}
        self.checks: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._loops = 0
        self._indices: dict[Affine, Affine] = {}

    def stmt(self, s: Stmt) -> Stmt:
        return _RENAME[type(s)](self, s)

    def loop(self, s: Loop) -> Loop:
        self._names[s.var] = f"i{self._loops}"
        self._loops += 1
        return Loop(self._names[s.var], s.extent, tuple(self.stmt(x) for x in s.body), s.kind)

    def new(self, name: str) -> str:
        return self._names.setdefault(name, f"t{len(self._names) - self._loops}")

    def buffer(self, name: str) -> str:
        return self.buffers.setdefault(name, f"a{len(self.buffers)}")

    def operand(self, x: Any) -> Any:
        return self._names[x] if isinstance(x, str) else x

    def index(self, a: Affine) -> Affine:
        if not a.terms:
            return a
        found = self._indices.get(a)
        if found is None:
            terms = tuple(sorted((self._names[n], c) for n, c in a.terms))
            found = self._indices[a] = Affine(terms, a.offset)
        return found

    def load(self, s: Load) -> Load:
        index = (self.index(s.index[0]),)
        guard = None if s.guard is None else self._names[s.guard]
        return Load(self.new(s.name), self.buffer(s.buffer), index, s.dtype, guard, s.other)

    def let(self, s: Let) -> Let:
        args = tuple(self.operand(x) for x in s.args)
        return Let(self.new(s.name), s.op, args, s.dtype)

    def position(self, s: IndexValue) -> IndexValue:
        return IndexValue(self.new(s.name), self.index(s.index), s.dtype)

    def store(self, s: Store) -> Store:
        value = self.operand(s.value)
        return Store(self.buffer(s.buffer), (self.index(s.index[0]),), value)

    def store_reduce(self, s: StoreReduce) -> StoreReduce:
        value = self.operand(s.value)
        return StoreReduce(self.buffer(s.buffer), (self.index(s.index[0]),), s.op, value)

    def init(self, s: Init) -> Init:
        return Init(self.new(s.name), s.value, s.dtype)

    def update(self, s: Update) -> Update:
        return Update(self._names[s.name], s.op, self.operand(s.value))

    def arg_update(self, s: ArgUpdate) -> ArgUpdate:
        name, position = self._names[s.name], self._names[s.position]
        return ArgUpdate(name, position, s.op, self.operand(s.value), self.index(s.index))

    def check(self, s: CheckIndex) -> CheckIndex:
        value = self._names[s.value]
        code = self.checks.setdefault(s.code, f"c{len(self.checks)}")
        return CheckIndex(self.new(s.name), value, s.bound, code, s.dtype)


_RENAME = {
    Loop: _Renaming.loop,
    Load: _Renaming.load,
    Let: _Renaming.let,
    IndexValue: _Renaming.position,
    Store: _Renaming.store,
    StoreReduce: _Renaming.store_reduce,
    Init: _Renaming.init,
    Update: _Renaming.update,
    ArgUpdate: _Renaming.arg_update,
    CheckIndex: _Renaming.check,
}
