"""Loop nests under construction, and which of them become one.

A `Nest` covers some extents and stores or reduces any number of values over them. A new value
joins an earlier nest of the same extents if everything it reads was stored before that nest, or is
computed in it at the same index. So chains of elementwise operations, the reductions over them and
the several results of one pass share their loads and their loops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import loop_ir as ir

STATEMENT_LIMIT = 400  # per nest: keeps compile time linear in the length of a program

WINDOW = 12  # how many steps back a nest may still be joined

IDENTITY = {"add": 0, "mul": 1, "and": True, "or": False}


def identity(op: str, dtype: np.dtype) -> np.generic:
    """The value that `op` starts from."""
    if op in IDENTITY:
        return dtype.type(IDENTITY[op])
    if dtype.kind == "f":
        return dtype.type(-np.inf if op == "max" else np.inf)
    if dtype.kind == "b":
        return np.bool_(op == "min")
    limits = np.iinfo(dtype)
    return dtype.type(limits.min if op == "max" else limits.max)


class Scope:
    """A straight run of scalar statements with what was computed in it."""

    def __init__(self, nest: Nest):
        self.nest = nest
        self.statements: list[ir.Stmt] = []
        self.memo: dict[Any, ir.Operand] = {}
        self.writing: set[Any] = set()

    def _name(self) -> str:
        self.nest.names += 1
        return f"v{self.nest.names}"

    def load(self, buffer: ir.Buffer, index: Any, guard: str | None = None) -> str:
        """`buffer[index]`."""
        name = self._name()
        param = self.nest.param(buffer, "in")
        other = ir.Const(buffer.dtype.type(0)) if guard else None
        self.statements.append(ir.Load(name, param, tuple(index), buffer.dtype, guard, other))
        return name

    def let(self, op: str, args: Sequence[ir.Operand], dtype: np.dtype) -> str:
        """`op(*args)`."""
        name = self._name()
        self.statements.append(ir.Let(name, op, tuple(args), dtype))
        return name

    def index_value(self, index: ir.Affine, dtype: np.dtype) -> str:
        """An index as a scalar."""
        name = self._name()
        self.statements.append(ir.IndexValue(name, index, dtype))
        return name

    def store(self, buffer: ir.Buffer, index: Any, value: ir.Operand) -> None:
        """`buffer[index] = value`."""
        self.statements.append(ir.Store(self.nest.param(buffer, "out"), tuple(index), value))


class Nest:
    """Loops over `extents` with one body, what comes before and after the innermost loop."""

    def __init__(self, extents: tuple[int, ...]):
        self.extents = extents
        self.names = 0
        self.params: dict[Any, tuple[ir.Buffer, str]] = {}
        self.formal: dict[Any, str] = {}
        self.before_all: list[ir.Stmt] = []
        self.before_inner: list[ir.Stmt] = []
        self.after_inner: list[ir.Stmt] = []
        self.scope = Scope(self)
        self.has_reduction = False

    @property
    def index(self) -> tuple[ir.Affine, ...]:
        """The index of the current element."""
        return tuple(ir.Affine(((f"i{a}", 1),)) for a in range(len(self.extents)))

    def param(self, buffer: ir.Buffer, role: str) -> str:
        """The formal name of a buffer in this nest."""
        key = (buffer.name, buffer.shape)  # one block of memory may be read in several shapes
        if key not in self.formal:
            self.formal[key] = f"p{len(self.formal)}"
            self.params[key] = (buffer, role)
        elif self.params[key][1] != role:
            self.params[key] = (buffer, "inout")
        return self.formal[key]

    def reduce(self, op: str, out: ir.Buffer, axes: tuple[int, ...], value: ir.Operand) -> None:
        """`out[kept axes] op= value`, in a register over the innermost axis where that is reduced."""
        self.has_reduction = True
        kept = [i for i in range(len(self.extents)) if i not in axes]
        index = tuple(self.index[i] for i in kept)
        target = self.param(out, "inout")
        first = ir.Const(identity(op, out.dtype))
        if not self.extents or len(self.extents) - 1 not in axes:
            self._fill(out, target, first)
            self.scope.statements.append(ir.StoreReduce(target, index, op, value))
            return
        self.names += 1
        acc = f"a{self.names}"
        self.before_inner.append(ir.Init(acc, first, out.dtype))
        self.scope.statements.append(ir.Update(acc, op, value))
        if len(axes) == 1:
            self.after_inner.append(ir.Store(target, index, acc))
        else:
            self._fill(out, target, first)
            self.after_inner.append(ir.StoreReduce(target, index, op, acc))

    def _fill(self, out: ir.Buffer, target: str, value: ir.Const) -> None:
        index = tuple(ir.Affine(((f"f{a}", 1),)) for a in range(len(out.shape)))
        body: tuple[ir.Stmt, ...] = (ir.Store(target, index, value),)
        for axis in reversed(range(len(out.shape))):
            body = (ir.Loop(f"f{axis}", out.shape[axis], body),)
        self.before_all.extend(body)

    def call(self) -> ir.KernelCall:
        """The nest as a call of a kernel."""
        body: tuple[ir.Stmt, ...] = tuple(self.scope.statements)
        kind = "reduce" if self.has_reduction else "map"
        for axis in reversed(range(len(self.extents))):
            body = (ir.Loop(f"i{axis}", self.extents[axis], body, kind),)
            if axis == len(self.extents) - 1:
                body = (*self.before_inner, *body, *self.after_inner)
        buffers = [b for b, _ in self.params.values()]
        params = tuple(
            ir.Param(self.formal[k], b.shape, b.dtype, role) for k, (b, role) in self.params.items()
        )
        kernel = flattened(ir.Kernel(params, (*self.before_all, *body)))
        return ir.KernelCall(kernel, tuple(b.name for b in buffers))


def flattened(kernel: ir.Kernel) -> ir.Kernel:
    """One loop instead of several where every access runs through whole buffers in order."""
    loops: list[ir.Loop] = []
    body = kernel.body
    while len(body) == 1 and isinstance(body[0], ir.Loop):
        loops.append(body[0])
        body = body[0].body
    if len(loops) < 2 or any(isinstance(s, ir.Loop | ir.IndexValue | ir.StoreReduce) for s in body):
        return kernel
    shape = tuple(loop.extent for loop in loops)
    whole = tuple(ir.Affine(((loop.var, 1),)) for loop in loops)
    shapes = {p.name: p.shape for p in kernel.params}
    accesses = [s for s in body if isinstance(s, ir.Load | ir.Store)]
    for s in accesses:
        constant = not any(a.terms for a in s.index)
        if not constant and (s.index != whole or shapes[s.buffer] != shape):
            return kernel
    size = int(np.prod(shape))
    flat = (ir.Affine((("i0", 1),)),)
    new_body = tuple(
        _with_index(s, flat) if isinstance(s, ir.Load | ir.Store) and s.index == whole else s
        for s in body
    )
    params = tuple(
        ir.Param(p.name, (size,), p.dtype, p.role) if p.shape == shape else p for p in kernel.params
    )
    return ir.Kernel(params, (ir.Loop("i0", size, new_body),), kernel.checks)


def _with_index(s: ir.Load | ir.Store, index: Any) -> ir.Stmt:
    if isinstance(s, ir.Load):
        return ir.Load(s.name, s.buffer, index, s.dtype, s.guard, s.other)
    return ir.Store(s.buffer, index, s.value)


class Nests:
    """The steps of a program in order, the recent nests still open to be joined."""

    def __init__(self) -> None:
        self.steps: list[Nest | ir.Step] = []
        self.writer: dict[str, int] = {}  # buffer -> position of the step that stores it

    def append(self, step: ir.Step, writes: Sequence[str]) -> None:
        """A step that is no nest."""
        for name in writes:
            self.writer[name] = len(self.steps)
        self.steps.append(step)

    def join(
        self,
        extents: tuple[int, ...],
        fill: Callable[[Nest], None],
        reads: tuple[set[str], set[str]],
        writes: Sequence[str],
    ) -> None:
        """Let `fill` add to a nest over `extents`: an open one where that is allowed, or a new one.

        `reads` are the buffers loaded at any index, and those only at the index of the current
        element.
        """
        anywhere, here = reads
        first = max((self.writer.get(b, -1) for b in anywhere), default=-1) + 1
        first = max([first, *(self.writer.get(b, -1) for b in here)])
        for position in range(len(self.steps) - 1, max(first, len(self.steps) - WINDOW) - 1, -1):
            nest = self.steps[position]
            if (
                isinstance(nest, Nest)
                and nest.extents == extents
                and len(nest.scope.statements) < STATEMENT_LIMIT
            ):
                break
        else:
            position, nest = len(self.steps), Nest(extents)
            self.steps.append(nest)
        fill(nest)
        for name in writes:
            self.writer[name] = max(position, self.writer.get(name, -1))

    def finish(self) -> list[ir.Step]:
        """All steps, nests as kernel calls."""
        return [s.call() if isinstance(s, Nest) else s for s in self.steps]
