"""A product and what is done with its rows, a tile of rows after the other.

    tmp0 = x @ w                      for each tile of rows:
    tmp0 = tanh(tmp0 + b)                 tmp0 = x @ w
                                          tmp0 = tanh(tmp0 + b)

So a product's result is still in the cache when its epilogue comes, which may go on with further
products. A step is part of it if iteration by iteration, row by row, it works on rows of its
buffers, and reads others whole that none of the steps writes. Then the tiles are independent:
threads share them. A tile is the same machine code as all rows: pointers move on, and the number of
rows is a number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from functrans.loop_ir import (
    Affine,
    ArgUpdate,
    IndexValue,
    KernelCall,
    Load,
    Loop,
    MatMul,
    Program,
    Step,
    Store,
    StoreReduce,
    Tiled,
    walk,
)

TILE_BYTES = 1 << 18  # of rows of all buffers: half of a second-level cache
LEAST_BYTES = 1 << 20  # of a result, from which it is not in the cache as it is
LEAST_ROWS, ALIGN_ROWS = 64, 16  # of a tile: BLAS brings rhs into its order for each tile anew
EVEN_TILES = 8  # their number is a multiple of it where it can be: threads end together
MOST_TERMS = 64  # of a sum; with more of them memory takes little of the time, and tiles 1.1 times


def tiled(program: Program) -> Program:
    """The program with products and what follows on their rows tile by tile."""
    sizes = {b.name: b.dtype.itemsize for b in (*program.inputs, *program.outputs, *program.temps)}
    sizes |= {b.name: b.dtype.itemsize for b, _ in program.consts}
    steps: list[Step] = []
    at = 0
    while at < len(program.steps):
        chain = _chain(program.steps[at:], sizes)
        steps.append(chain.step() if chain else program.steps[at])
        at += len(chain.parts) if chain else 1
    return replace(program, steps=tuple(steps))


# ---------------------------------------------------------------------------- rows of a step


@dataclass(frozen=True)
class _Part:
    """A step; how many iterations it has; how far each buffer moves on from one to the next."""

    step: KernelCall | MatMul
    iterations: int
    strides: tuple[tuple[str, int], ...]

    def over(self, iterations: int) -> KernelCall | MatMul:
        """The step for fewer iterations."""
        step = self.step
        if isinstance(step, MatMul):
            _, _, n, k = step.sizes
            return replace(step, sizes=(1, iterations, n, k))
        loop = step.kernel.body[0]
        assert isinstance(loop, Loop)
        names = [name for name, _ in step.kernel.numbers]
        numbers = list(step.numbers)
        numbers[names.index(str(loop.extent))] = np.int64(iterations)
        return replace(step, numbers=tuple(numbers))


def _part(step: Step) -> _Part | None:
    if isinstance(step, MatMul):
        return _of_product(step)
    return _of_kernel(step) if isinstance(step, KernelCall) else None


def _of_product(step: MatMul) -> _Part | None:
    b, m, n, k = step.sizes
    (_, row, along_k), (_, out_row, along_n) = step.lhs_strides, step.out_strides
    is_single = b == 1 and step.outer[0] == 1 and k > 0
    in_rows = (k - 1) * along_k < row and (n - 1) * along_n < out_row
    if not (is_single and in_rows and k <= MOST_TERMS):
        return None
    return _Part(step, m, ((step.lhs, row), (step.rhs, 0), (step.out, out_row)))


def _of_kernel(step: KernelCall) -> _Part | None:
    kernel = step.kernel
    loop = kernel.body[0] if len(kernel.body) == 1 else None
    if not isinstance(loop, Loop) or loop.kind != "map" or not isinstance(loop.extent, str):
        return None
    values = dict(zip((name for name, _ in kernel.numbers), step.numbers, strict=True))
    if kernel.checks or any(_names_position(s, loop.var) for s in walk(loop.body)):
        return None
    strides = [_stride(p.name, loop, values) for p in kernel.params]
    if None in strides:
        return None
    pairs = tuple(zip(step.buffers, strides, strict=True))
    return _Part(step, int(values[loop.extent]), pairs)  # type: ignore[arg-type]


def _names_position(s: Any, var: str) -> bool:
    """Whether a statement has the position itself as a value, which differs from tile to tile."""
    return isinstance(s, IndexValue | ArgUpdate) and var in dict(s.index.terms)


def _stride(buffer: str, loop: Loop, values: Mapping[str, Any]) -> int | None:
    """How far a buffer moves on in an iteration, if that has it from there to the next place."""
    extents = {s.var: _number(s.extent, values) for s in walk(loop.body) if isinstance(s, Loop)}
    strides = set()
    for index in _indices(loop, buffer):
        terms = {name: _number(c, values) for name, c in index.terms}
        stride = terms.pop(loop.var, 0)
        strides.add(stride)
        if stride == 0:
            continue
        if stride < 0 or not terms.keys() <= extents.keys():
            return None
        reach = [c * (extents[name] - 1) for name, c in terms.items()]
        offset = _number(index.offset, values)
        low = offset + sum(r for r in reach if r < 0)
        high = offset + sum(r for r in reach if r > 0)
        if low < 0 or high >= stride:
            return None
    return strides.pop() if len(strides) == 1 else None


def _indices(loop: Loop, buffer: str) -> Iterator[Affine]:
    for s in walk(loop.body):
        if isinstance(s, Load | Store | StoreReduce) and s.buffer == buffer:
            yield s.index[0]


def _number(value: Any, values: Mapping[str, Any]) -> int:
    return int(values[value]) if isinstance(value, str) else value


# ---------------------------------------------------------------------------- chains


class _Chain:
    """Parts over the same rows; `rows` says how many elements of a buffer belong to one."""

    def __init__(self, first: _Part, itemsizes: Mapping[str, int]) -> None:
        self.count = first.iterations
        self.itemsizes = itemsizes
        self.parts: list[_Part] = []
        self.rows: dict[str, int] = {}
        self.add(first)

    def add(self, part: _Part | None) -> bool:
        """Append a part, if it goes with the others."""
        if part is None or part.iterations % self.count:
            return False
        each = part.iterations // self.count
        rows = dict(self.rows)
        for name, stride in part.strides:
            if rows.setdefault(name, stride * each) != stride * each:
                return False
        written = {x for p in (*self.parts, part) for x in _written(p.step)}
        if any(rows[name] == 0 for name in written):
            return False
        self.parts.append(part)
        self.rows = rows
        return True

    def step(self) -> Tiled:
        """The tiles."""
        nbytes = sum(size * self.itemsizes[name] for name, size in self.rows.items())
        size, count, rest = _cut(self.count, nbytes)
        advances = []
        for part in self.parts:
            order = _order(part.step)
            advances.append(tuple(self.rows[x] * self.itemsizes[x] * size for x in order))
        each = [p.iterations // self.count for p in self.parts]
        pairs = list(zip(self.parts, each, strict=True))
        return Tiled(
            tuple(p.step for p in self.parts),
            first=tuple(p.over(size * e) for p, e in pairs),
            last=tuple(p.over(rest * e) for p, e in pairs),
            advances=tuple(advances),
            tiles=count,
        )


def _cut(rows: int, nbytes: int) -> tuple[int, int, int]:
    """The rows of a tile, how many tiles there are, and the rows of the last one.

    That depends on sizes alone, so results do not depend on the number of threads.
    """
    count = -(-rows // max(LEAST_ROWS, TILE_BYTES // nbytes))
    count = -(-count // EVEN_TILES) * EVEN_TILES
    size = -(-rows // (count * ALIGN_ROWS)) * ALIGN_ROWS
    size = max(LEAST_ROWS, size)
    count = -(-rows // size)
    return size, count, rows - size * (count - 1)


def _order(step: KernelCall | MatMul) -> tuple[str, ...]:
    return (step.lhs, step.rhs, step.out) if isinstance(step, MatMul) else step.buffers


def _written(step: KernelCall | MatMul) -> set[str]:
    if isinstance(step, MatMul):
        return {step.out}
    params = zip(step.buffers, step.kernel.params, strict=True)
    return {name for name, p in params if p.role != "in"}


def _chain(steps: Sequence[Step], itemsizes: Mapping[str, int]) -> _Chain | None:
    """The longest chain that begins with the first step, a product with an epilogue."""
    product = steps[0]
    first = _of_product(product) if isinstance(product, MatMul) else None
    if first is None or not isinstance(product, MatMul):
        return None
    nbytes = first.iterations * product.out_strides[1] * itemsizes[product.out]
    if nbytes < LEAST_BYTES or first.iterations < 2 * LEAST_ROWS:
        return None
    chain = _Chain(first, itemsizes)
    for step in steps[1:]:
        if not chain.add(_part(step)):
            break
    return chain if any(isinstance(p.step, KernelCall) for p in chain.parts) else None
