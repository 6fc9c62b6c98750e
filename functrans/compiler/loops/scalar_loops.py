"""Loops over a state of a few numbers as one kernel, the state in registers.

t0 = a0[0]                                   # the carry
for i in range(n0):  # serial
    t1 = a1[i]                               # a slice of xs
    t0 = tanh(0.9 * t0 + t1)
    a2[i] = 2.0 * t0                         # a slice of ys
a3[0] = t0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from functrans.compiler.jaxprs.scalars import scalarized
from functrans.compiler.loops.kernel_numbers import generalize
from functrans.compiler.lowering import nodes
from functrans.compiler.lowering.lowering import NotNative, to_nodes
from functrans.ir import ClosedJaxpr, ShapedArray
from functrans.loop_ir import (
    Affine,
    Const,
    Init,
    Kernel,
    Let,
    Load,
    Loop,
    Operand,
    Param,
    Stmt,
    Store,
    Update,
    While,
)

Found = tuple[Kernel, tuple[np.generic, ...]]
Rules = dict[str, Callable[..., Any]]


def scan_kernel(closed: ClosedJaxpr, params: dict[str, Any], rules: Rules) -> Found | None:
    """The kernel of a scan and its numbers; None where the body is not of scalars."""
    body = scalarized(closed)
    if body is None:
        return None
    nk, nc, length = params["num_consts"], params["num_carry"], params["length"]
    k = _Builder()
    avals, outs = closed.in_avals, closed.out_avals
    consts = [k.buffer("in", a) for a in avals[:nk]]
    begins = [k.buffer("in", a) for a in avals[nk : nk + nc]]
    xs = [k.buffer("in", a, length) for a in avals[nk + nc :]]
    ends = [k.buffer("out", a) for a in outs[:nc]]
    ys = [k.buffer("out", a, length) for a in outs[nc:]]
    given = [x for buffer in consts for x in k.loads(buffer)]
    carry = [x for buffer in begins for x in k.carries(buffer)]
    k.open()
    rows = [x for buffer in xs for x in k.loads(buffer, length, reverse=params["reverse"])]
    found = k.program(body, [*given, *carry, *rows], rules)
    if found is None:
        return None
    stores = iter(found[len(carry) :])
    for buffer in ys:
        k.stores(buffer, stores, length, reverse=params["reverse"])
    k.set(carry, found[: len(carry)])
    inside = k.close()
    k.add(Loop("i0", length, inside, "serial"))
    state = iter(carry)
    for buffer in ends:
        k.stores(buffer, state)
    return generalize(k.kernel())


def while_kernel(
    test: ClosedJaxpr, closed: ClosedJaxpr, params: dict[str, Any], rules: Rules
) -> Found | None:
    """The same for a while loop."""
    condition, body = scalarized(test), scalarized(closed)
    if condition is None or body is None:
        return None
    nc, nb = params["cond_nconsts"], params["body_nconsts"]
    k = _Builder()
    test_consts = [k.buffer("in", a) for a in test.in_avals[:nc]]
    consts = [k.buffer("in", a) for a in closed.in_avals[:nb]]
    begins = [k.buffer("in", a) for a in closed.in_avals[nb:]]
    ends = [k.buffer("out", a) for a in closed.out_avals]
    test_given = [x for buffer in test_consts for x in k.loads(buffer)]
    given = [x for buffer in consts for x in k.loads(buffer)]
    carry = [x for buffer in begins for x in k.carries(buffer)]
    k.open()
    flag = k.program(condition, [*test_given, *carry], rules)
    before = k.close()
    k.open()
    found = k.program(body, [*given, *carry], rules)
    if flag is None or found is None:
        return None
    k.set(carry, found)
    k.add(While(before, flag[0], k.close()))
    state = iter(carry)
    for buffer in ends:
        k.stores(buffer, state)
    return generalize(k.kernel())


class _Builder:
    """Statements of a kernel; names of buffers, scalars and accumulators."""

    def __init__(self) -> None:
        self.params: list[Param] = []
        self.avals: dict[str, ShapedArray] = {}
        self.blocks: list[list[Stmt]] = [[]]
        self.count = 0

    def buffer(self, role: str, aval: ShapedArray, length: int = 1) -> str:
        """The next buffer: of the elements of an aval, `length` times."""
        name = f"a{len(self.params)}"
        self.params.append(Param(name, (length * aval.size,), aval.dtype, role))
        self.avals[name] = aval
        return name

    def add(self, stmt: Stmt) -> None:
        self.blocks[-1].append(stmt)

    def name(self) -> str:
        self.count += 1
        return f"t{self.count - 1}"

    def open(self) -> None:
        """Begin the statements of a loop."""
        self.blocks.append([])

    def close(self) -> tuple[Stmt, ...]:
        """The statements of the loop."""
        return tuple(self.blocks.pop())

    def _places(self, buffer: str, length: int | None, *, reverse: bool) -> Iterator[Affine]:
        size = self.avals[buffer].size
        for j in range(size):
            if length is None:
                yield Affine((), j)
            elif reverse:
                yield Affine((("i0", -size),), (length - 1) * size + j)
            else:
                yield Affine((("i0", size),), j)

    def loads(self, buffer: str, length: int | None = None, *, reverse: bool = False) -> list[str]:
        """The elements of a buffer, or of a slice of it."""
        dtype, names = self.avals[buffer].dtype, []
        for at in self._places(buffer, length, reverse=reverse):
            names.append(self.name())
            self.add(Load(names[-1], buffer, (at,), dtype))
        return names

    def stores(
        self, buffer: str, values: Iterator[Operand], length: int | None = None, *,
        reverse: bool = False,
    ) -> None:  # fmt: skip
        """Put the next values into a buffer, or into a slice of it."""
        for at in self._places(buffer, length, reverse=reverse):
            self.add(Store(buffer, (at,), next(values)))

    def carries(self, buffer: str) -> list[str]:
        """Accumulators that begin with the elements of a buffer."""
        dtype, names = self.avals[buffer].dtype, []
        for value in self.loads(buffer):
            names.append(self.name())
            self.add(Init(names[-1], Const(dtype.type(0)), dtype))
            self.add(Update(names[-1], "set", value))
        return names

    def set(self, carry: Sequence[str], values: Sequence[Operand]) -> None:
        """Give accumulators their next values: all are read before any is set."""
        held = set(carry)
        kept = []
        for name, value in zip(carry, values, strict=True):
            if value in held and value != name:
                dtype = self._dtype_of(str(value))
                copy = self.name()
                self.add(Let(copy, "copy", (value,), dtype))
                value = copy
            kept.append(value)
        for name, value in zip(carry, kept, strict=True):
            if value != name:
                self.add(Update(name, "set", value))

    def _dtype_of(self, name: str) -> np.dtype:
        inits = (s for block in self.blocks for s in block if isinstance(s, Init))
        return next(s.dtype for s in inits if s.name == name)

    def program(
        self, closed: ClosedJaxpr, inputs: Sequence[Operand], rules: Rules
    ) -> list[Operand] | None:
        """The statements of a program of scalars; what its results are called."""
        try:
            lowered = to_nodes(closed, rules, "error")
        except (NotNative, TypeError):
            return None
        found: dict[nodes.Node, Operand] = dict(zip(lowered.inputs, inputs, strict=True))
        for node in lowered.builder.nodes:
            if isinstance(node, nodes.Number):
                found[node] = Const(node.dtype.type(node.value))
            elif isinstance(node, nodes.Pointwise) and not node.shape:
                found[node] = self.name()
                args = tuple(found[x] for x in node.operands)
                self.add(Let(str(found[node]), node.op, args, node.dtype))
            elif node not in found:
                return None
        return [found[x] for x in lowered.outputs]

    def kernel(self) -> Kernel:
        """The kernel of all statements."""
        return Kernel(tuple(self.params), tuple(self.blocks[0]))
