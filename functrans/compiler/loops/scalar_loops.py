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
from dataclasses import replace
from typing import Any

import numpy as np

from functrans.compiler.jaxprs.scalars import scalarized
from functrans.compiler.loops.kernel_numbers import generalize
from functrans.compiler.loops.loop_sizes import ENOUGH, work
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

# Of one number of a block of lanes: several vectors hide the time until a result is ready.
LANES_BYTES = (128, 64, 32)
LEAST_LANES_TO_SHARE = 1024  # whose iterations are not known
# The kernel, its numbers, and the scratch memory it takes after the results.
Found = tuple[Kernel, tuple[np.generic, ...], list[ShapedArray]]
Rules = dict[str, Callable[..., Any]]


def scan_kernel(closed: ClosedJaxpr, params: dict[str, Any], rules: Rules) -> Found | None:
    """The kernel of a scan and its numbers; None where the body is not of scalars."""
    body = scalarized(closed)
    if body is None:
        return None if "lanes" not in closed.derived else _lanes_kernel(closed, params, rules)
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
    return *generalize(k.kernel()), []


def while_kernel(
    test: ClosedJaxpr, closed: ClosedJaxpr, params: dict[str, Any], rules: Rules
) -> Found | None:
    """The same for a while loop."""
    if "lanes" in closed.derived:
        return _while_lanes_kernel(closed, rules)
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
    return *generalize(k.kernel()), []


# ---------------------------------------------------------------------------- lanes


def _lanes_kernel(closed: ClosedJaxpr, params: dict[str, Any], rules: Rules) -> Found | None:
    """The kernel of a scan under vmap: a block of lanes after the other, each in one vector.

    Threads share the blocks. The state is in memory of its own, lane beside lane.
    """
    one, size, batched, out_batched = closed.derived["lanes"]
    nk, nc, length = params["num_consts"], params["num_carry"], params["length"]
    body = scalarized(one)
    lanes = _lanes_of_block(one.in_avals, size)
    if body is None or not lanes or not (nc and all(batched[nk : nk + nc]) and all(out_batched)):
        return None
    k = _Builder()
    ins = [k.buffer("in", a) for a in closed.in_avals[: nk + nc]]
    ins += [k.buffer("in", a, length) for a in closed.in_avals[nk + nc :]]
    outs = [k.buffer("out", a) for a in closed.out_avals[:nc]]
    outs += [k.buffer("out", a, length) for a in closed.out_avals[nc:]]
    states = [k.buffer("out", a) for a in closed.out_avals[:nc]]
    counts = [a.size for a in one.in_avals]
    y_counts = [a.size for a in one.out_avals[nc:]]

    def lane_places(count: int, lane: Lane, row: int = 0) -> list[Affine]:
        first, row = ((length - 1) * row, -row) if params["reverse"] else (0, row)
        terms = [*((v, c * count) for v, c in lane), ("i1", row)]
        return [_affine(terms, first + j) for j in range(count)]

    def state_places(count: int) -> list[Affine]:  # block by block, so that distances are known
        return [_affine([("i0", lanes * count), ("i2", 1)], j * lanes) for j in range(count)]

    def for_each_lane() -> None:
        k.add(Loop("i0", size // lanes, (Loop("i2", lanes, k.close()),)))

    here = [("i0", lanes), ("i2", 1)]
    k.open()  # into the state
    for begin, state, count in zip(ins[nk:], states, counts[nk:], strict=False):
        k.move(begin, lane_places(count, here), state, state_places(count))
    for_each_lane()
    k.open()
    given = []
    for i, (buffer, count) in enumerate(zip(ins, counts, strict=True)):
        row = 0 if i < nk + nc else count * (size if batched[i] else 1)
        if nk <= i < nk + nc:
            given += k.load(states[i - nk], state_places(count))
        else:
            given += k.load(buffer, lane_places(count, here if batched[i] else [], row))
    found = k.program(body, given, rules)
    if found is None:
        return None
    values = iter(found)
    for state, count in zip(states, counts[nk:], strict=False):
        k.store(state, state_places(count), values)
    for y, count in zip(outs[nc:], y_counts, strict=True):
        k.store(y, lane_places(count, here, count * size), values)
    steps = Loop("i1", length, (Loop("i2", lanes, k.close()),), "serial")
    blocks = Loop("i0", size // lanes, (steps,))
    k.add(replace(blocks, is_shared=work((blocks,)) > ENOUGH))
    k.open()  # out of the state
    for end, state, count in zip(outs, states, counts[nk:], strict=False):
        k.move(state, state_places(count), end, lane_places(count, here))
    for_each_lane()
    return *generalize(k.kernel()), closed.out_avals[:nc]


def _while_lanes_kernel(closed: ClosedJaxpr, rules: Rules) -> Found | None:
    """The kernel of a while loop under vmap: each block of lanes until the last of it ends."""
    test, one, size, test_batched, batched = closed.derived["lanes"]
    condition, body = scalarized(test), scalarized(one)
    avals = one.out_avals
    lanes = _lanes_of_block(avals, size)
    if condition is None or body is None or not lanes or not avals:
        return None
    nc, nb = len(test_batched), len(batched)
    k = _Builder()
    ins = [k.buffer("in", a) for a in closed.in_avals]
    outs = [k.buffer("out", a) for a in closed.out_avals]
    flags, *states = (k.buffer("out", a) for a in closed.out_avals)
    here = [("i0", lanes), ("i2", 1)]
    test_avals, const_avals = test.in_avals[:nc], one.in_avals[:nb]
    any_goes_on = k.name()

    def places(count: int, lane: Lane) -> list[Affine]:
        return [_affine([(v, c * count) for v, c in lane], j) for j in range(count)]

    def state_places(count: int) -> list[Affine]:
        return [_affine([("i0", lanes * count), ("i2", 1)], j * lanes) for j in range(count)]

    def consts(buffers: Sequence[str], avals: Sequence[ShapedArray], by_lane: Any) -> list[str]:
        rows = zip(buffers, avals, by_lane, strict=True)
        return [
            x for c, a, is_own in rows for x in k.load(c, places(a.size, here if is_own else []))
        ]

    def test_of(carry: Sequence[Operand]) -> Operand:
        found = k.program(condition, [*consts(ins[:nc], test_avals, test_batched), *carry], rules)
        if found is None:
            raise NotNative("a condition")
        return found[0]

    def put(values: Sequence[Operand], flag: Operand) -> None:
        rest = iter(values)
        for state, a in zip(states, avals, strict=True):
            k.store(state, state_places(a.size), rest)
        k.store(flags, state_places(1), iter([flag]))
        k.add(Update(any_goes_on, "or", flag))

    def lanes_loop() -> None:
        k.add(Loop("i2", lanes, k.close(), "reduce"))

    try:
        k.open()  # a block
        k.add(Init(any_goes_on, Const(np.bool_(False)), np.dtype(bool)))
        k.open()
        begins = zip(ins[nc + nb + 1 :], avals, strict=True)
        start = [x for c, a in begins for x in k.load(c, places(a.size, here))]
        put(start, test_of(start))
        lanes_loop()
        k.open()  # an iteration of it
        k.add(Update(any_goes_on, "set", Const(np.bool_(False))))
        k.open()
        (active,) = k.load(flags, state_places(1))
        pairs = zip(states, avals, strict=True)
        carry = [x for state, a in pairs for x in k.load(state, state_places(a.size))]
        given = [*consts(ins[nc : nc + nb], const_avals, batched), *carry]
        found = k.program(body, given, rules)
        if found is None:
            return None
        dtypes = [a.dtype for a in avals for _ in range(a.size)]
        new = [
            k.let("select", (active, x, y), d) for x, y, d in zip(found, carry, dtypes, strict=True)
        ]
        put(new, k.let("and", (active, test_of(new)), np.dtype(bool)))
        lanes_loop()
        k.add(While((), any_goes_on, k.close()))
    except NotNative:
        return None
    k.open()  # out of the state
    for out, state, a in zip(outs[1:], states, avals, strict=True):
        k.move(state, state_places(a.size), out, places(a.size, here))
    k.move(flags, state_places(1), outs[0], places(1, here))
    k.add(Loop("i2", lanes, k.close()))
    blocks = Loop("i0", size // lanes, k.close())
    k.add(replace(blocks, is_shared=size >= LEAST_LANES_TO_SHARE))
    return *generalize(k.kernel()), closed.out_avals


def _lanes_of_block(avals: Sequence[ShapedArray], size: int) -> int:
    """How many lanes are a block: whole vectors of the widest numbers; 0 where they are not."""
    itemsize = max((a.dtype.itemsize for a in avals), default=1)
    fitting = (n // itemsize for n in LANES_BYTES if size % (n // itemsize) == 0)
    return next(fitting, 0)


Lane = Sequence[tuple[str, int]]


def _affine(terms: Sequence[tuple[str, int]], offset: int) -> Affine:
    return Affine(tuple(sorted((v, c) for v, c in terms if c)), offset)


# ---------------------------------------------------------------------------- statements


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

    def load(self, buffer: str, places: Sequence[Affine]) -> list[str]:
        """The elements of a buffer at some places."""
        dtype, names = self.avals[buffer].dtype, []
        for at in places:
            names.append(self.name())
            self.add(Load(names[-1], buffer, (at,), dtype))
        return names

    def store(self, buffer: str, places: Sequence[Affine], values: Iterator[Operand]) -> None:
        """Put the next values into some places of a buffer."""
        for at in places:
            self.add(Store(buffer, (at,), next(values)))

    def move(
        self, source: str, places: Sequence[Affine], to: str, others: Sequence[Affine]
    ) -> None:
        """Copy elements from one buffer to another."""
        self.store(to, others, iter(self.load(source, places)))

    def loads(self, buffer: str, length: int | None = None, *, reverse: bool = False) -> list[str]:
        """The elements of a buffer, or of a slice of it."""
        return self.load(buffer, list(self._places(buffer, length, reverse=reverse)))

    def stores(
        self, buffer: str, values: Iterator[Operand], length: int | None = None, *,
        reverse: bool = False,
    ) -> None:  # fmt: skip
        """Put the next values into a buffer, or into a slice of it."""
        self.store(buffer, list(self._places(buffer, length, reverse=reverse)), values)

    def carries(self, buffer: str) -> list[str]:
        """Accumulators that begin with the elements of a buffer."""
        dtype, names = self.avals[buffer].dtype, []
        for value in self.loads(buffer):
            names.append(self.name())
            self.add(Init(names[-1], Const(dtype.type(0)), dtype))
            self.add(Update(names[-1], "set", value))
        return names

    def let(self, op: str, args: tuple[Operand, ...], dtype: np.dtype) -> str:
        """The result of an operation."""
        name = self.name()
        self.add(Let(name, op, args, dtype))
        return name

    def set(self, carry: Sequence[str], values: Sequence[Operand]) -> None:
        """Give accumulators their next values: all are read before any is set."""
        held = set(carry)
        kept = []
        for name, value in zip(carry, values, strict=True):
            if value in held and value != name:
                value = self.let("copy", (value,), self._dtype_of(str(value)))
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
                args = tuple(found[x] for x in node.operands)
                found[node] = self.let(node.op, args, node.dtype)
            elif node not in found:
                return None
        return [found[x] for x in lowered.outputs]

    def kernel(self) -> Kernel:
        """The kernel of all statements."""
        return Kernel(tuple(self.params), tuple(self.blocks[0]))
