"""The loop program: what a compiled function does, as data that prints as Python.

A `Program` is a straight list of steps over named buffers. A step is a call of a loop nest
(`KernelCall`), a matrix product (`MatMul`), a native routine (`NativeStep`) or a visible call back
into Python (`HostStep`).
A `Kernel` is a loop nest over formal buffers: equal nests are one kernel, called many times.

Kernel bodies are trees of a few statements. Scalars are in SSA form: every name is assigned once,
except accumulators, which only `Update` changes. Names are plain strings, so that the printed
program, which runs (see `printing_loops`), is the program.

`compiler/loops` builds programs, `compiler/code` turns them into LLVM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Buffer:
    """A C-contiguous block of elements. Two buffers of a program never overlap."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


# An int, built into the code; in finished kernels also the name of a number given at every call.
Extent = Any


@dataclass(frozen=True, slots=True)
class Affine:
    """`offset + sum(coefficient * loop variable) + sum(coefficient * integer scalar)`.

    `terms` is sorted by name; a name is a loop variable or an integer scalar of the kernel.
    """

    terms: tuple[tuple[str, Extent], ...] = ()
    offset: Extent = 0


@dataclass(frozen=True, slots=True, eq=False)
class Const:
    """A literal scalar operand. Equal means the same dtype and bits: 0.0 and -0.0 differ."""

    value: np.generic

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Const):
            return NotImplemented
        a, b = self.value, other.value
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()

    def __hash__(self) -> int:
        return hash((self.value.dtype, self.value.tobytes()))


Operand = str | Const


@dataclass(frozen=True, slots=True)
class Load:
    """`name = buffer[index]`; where `guard` (the name of a bool scalar) is false, `other`.

    A guarded-off load must not touch memory out of the buffer.
    """

    name: str
    buffer: str
    index: tuple[Affine, ...]
    dtype: np.dtype
    guard: str | None = None
    other: Const | None = None


@dataclass(frozen=True, slots=True)
class Let:
    """`name = op(*args)`; `op` is a word of `compiler/words`, `dtype` that of the result."""

    name: str
    op: str
    args: tuple[Operand, ...]
    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class IndexValue:
    """`name = index` as an integer scalar (iota, comparisons of positions)."""

    name: str
    index: Affine
    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class Store:
    """`buffer[index] = value`."""

    buffer: str
    index: tuple[Affine, ...]
    value: Operand


@dataclass(frozen=True, slots=True)
class StoreReduce:
    """`buffer[index] = op(buffer[index], value)`: a scatter's body. `op`: add, mul, min, max."""

    buffer: str
    index: tuple[Affine, ...]
    op: str
    value: Operand


@dataclass(frozen=True, slots=True)
class Init:
    """Declare the accumulator `name` with its first value."""

    name: str
    value: Const
    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class Update:
    """`name = op(name, value)`; `op`: add, mul, min, max, and, or, xor, logaddexp.

    May be reassociated.

    For min and max NaN wins, as in NumPy.
    """

    name: str
    op: str
    value: Operand


@dataclass(frozen=True, slots=True)
class ArgUpdate:
    """`if better(value, name): name = value; position = index`: argmin and argmax (first wins).

    `name` and `position` are accumulators; a NaN value is better than any number, the first wins.
    """

    name: str
    position: str
    op: str  # "min" | "max"
    value: Operand
    index: Affine


@dataclass(frozen=True, slots=True)
class CheckIndex:
    """`name = value + bound if value < 0 else value`; leave the program with `code` if outside.

    The status carries `code` (an index into `Program.checks`) and the offending value.
    """

    name: str
    value: str
    bound: Extent
    code: str  # formal name of the check, an entry of KernelCall.checks
    dtype: np.dtype


@dataclass(frozen=True, slots=True)
class Loop:
    """`for var in range(extent): body`. `kind` "reduce" says that only accumulators carry over.

    "map" says iterations are independent (no two store to one place); "sums" that accumulators and
    what `StoreReduce` adds up carry over, which nothing else reads; "serial" promises nothing.
    Of a large loop, threads may share the iterations (`is_shared`), and float sums are added up
    as a tree (`is_pairwise`).
    """

    var: str
    extent: Extent
    body: tuple[Stmt, ...]
    kind: str = "map"
    is_shared: bool = False
    is_pairwise: bool = False


@dataclass(frozen=True, slots=True)
class While:
    """`while True: test; if not flag: break; body`. Accumulators carry over."""

    test: tuple[Stmt, ...]
    flag: Operand
    body: tuple[Stmt, ...]


Stmt = (
    Load | Let | IndexValue | Store | StoreReduce | Init | Update | ArgUpdate | CheckIndex | Loop
    | While
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Param:
    """A formal buffer of a kernel. `role` is "in", "out" (only written) or "inout".

    The shape `(-1,)` says: flat, of any size but 0.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    role: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """A loop nest over formal buffers. Equal kernels (by value) are the same machine code.

    `params` are buffers that do not overlap; `checks` the formal names of index checks; `numbers`
    the names and dtypes of scalars given at every call: extents, strides, literals made of them.
    `fastmath` lets LLVM reorder and contract the user's own operations.
    """

    params: tuple[Param, ...]
    body: tuple[Stmt, ...]
    checks: tuple[str, ...] = ()
    numbers: tuple[tuple[str, np.dtype], ...] = ()
    fastmath: bool = False


@dataclass(frozen=True, slots=True)
class KernelCall:
    """Run `kernel` with actual buffers (names), check codes (indices into Program.checks), and
    numbers."""

    kernel: Kernel
    buffers: tuple[str, ...]
    checks: tuple[int, ...] = ()
    numbers: tuple[np.generic, ...] = ()


@dataclass(frozen=True, slots=True)
class MatMul:
    """`out[b, m, n] = sum_k lhs[b, m, k] * rhs[b, k, n]` over views of buffers.

    Every operand is a 3-d strided view of its buffer, given in elements: `*_strides[i]` belongs to
    the axes (b, m, k), (b, k, n), (b, m, n), with an offset. A batch stride of 0 is allowed on the
    operands. `sizes` = (b, m, n, k). k = 0 gives zeros. `out` never overlaps the operands.

    All this may be done several times: `outer` is how often, and how far lhs, rhs and out move on.
    """

    out: str
    lhs: str
    rhs: str
    sizes: tuple[int, int, int, int]
    lhs_strides: tuple[int, int, int]
    rhs_strides: tuple[int, int, int]
    out_strides: tuple[int, int, int]
    dtype: np.dtype
    outer: tuple[int, int, int, int] = (1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class HostStep:
    """Call `function(*inputs) -> list of outputs` in Python: an operation with no native lowering.

    `text` is how the step is shown, e.g. "host solve lower=True".
    """

    text: str
    function: Callable[..., list[np.ndarray]] = field(compare=False)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NativeStep:
    """Run a native routine on whole buffers: LAPACK, sorting, a user's own kernel.

    The routine is `int32 symbol(void **buffers, const int64 *numbers, int64 *status)`; `buffers`
    are those of `inputs`, then of `outputs` (scratch memory among them). It returns 0, or 1 + the
    position in `checks` of what went wrong, having written a number for the message to status[1].
    `provide()` gives its unit (see `runtime/codegen`), or the symbol under which LLVM knows it;
    `function` is the same in Python: `function(*inputs) -> list of outputs`. `work` is about how
    many operations it does, of which threads take a part if it `is_shared`. `programs` are run by
    it: see `compiler/code/control_text`. What their checks find are the last of its `checks`.
    """

    text: str
    provide: Callable[[], Any] = field(compare=False)
    function: Callable[..., list[np.ndarray]] = field(compare=False)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    checks: tuple[int, ...] = ()  # indices into Program.checks
    work: int = 0
    is_shared: bool = True
    programs: tuple[Program, ...] = ()


@dataclass(frozen=True, slots=True)
class Together:
    """Steps that are independent of each other, and may run at the same time."""

    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Tiled:
    """Steps over rows that are done for the rows of one tile, then of the next, in any order.

    `steps` are over all rows, `first` over those of a tile, `last` over those of the last one.
    `advances` has, for each step, the bytes by which its buffers move on from tile to tile: those
    of a product in the order lhs, rhs, out.
    """

    steps: tuple[KernelCall | MatMul, ...]
    first: tuple[KernelCall | MatMul, ...]
    last: tuple[KernelCall | MatMul, ...]
    advances: tuple[tuple[int, ...], ...]
    tiles: int


Step = KernelCall | MatMul | HostStep | NativeStep | Together | Tiled


@dataclass(frozen=True, slots=True)
class Check:
    """What a failed index check means to the user: the error, and the line it came from."""

    bound: int
    axis: int
    primitive: str
    source: str

    def error(self, index: int) -> Exception:
        """What to raise for an index out of bounds."""
        error = IndexError(
            f"index {index} is out of bounds for axis {self.axis} with size {self.bound}"
        )
        error.add_note(f"in {self.primitive}, at {self.source}")
        return error


@dataclass(frozen=True, slots=True)
class Failure:
    """What the failure of a native routine means to the user. `{}` in `message` is its number.

    `kind` makes the exception of the message: a type of exceptions, or any function.
    """

    kind: Callable[[str], BaseException]
    message: str
    primitive: str
    source: str

    def error(self, number: int) -> BaseException:
        """What to raise."""
        error = self.kind(self.message.format(number))
        error.add_note(f"in {self.primitive}, at {self.source}")
        return error


@dataclass(frozen=True, slots=True)
class Program:
    """A whole compiled function.

    `inputs`, `consts` (arrays held by reference, read at every call), `outputs`, `temps`: buffers
    by role. `offsets` places each temp in one arena of `arena_bytes` bytes (64-byte aligned): temps
    that are never alive together may share memory. `outputs` name buffers; an output that is also
    an input, a constant or another output is listed in `copies` as (output, source) instead of
    being written by a step. `donations` are pairs (position of an output, position of an input):
    the output is the input's memory, written over.
    """

    name: str
    inputs: tuple[Buffer, ...]
    consts: tuple[tuple[Buffer, np.ndarray], ...]
    outputs: tuple[Buffer, ...]
    temps: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    checks: tuple[Check | Failure, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()
    offsets: tuple[tuple[str, int], ...] = ()
    arena_bytes: int = 0
    donations: tuple[tuple[int, int], ...] = ()


def walk(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    """Every statement of a kernel body, outer ones first."""
    for stmt in body:
        yield stmt
        if isinstance(stmt, While):
            yield from walk(stmt.test)
        if isinstance(stmt, Loop | While):
            yield from walk(stmt.body)


def identity(op: str, dtype: np.dtype) -> np.generic:
    """What `op` leaves other values unchanged with."""
    if op == "logaddexp":
        return dtype.type(-np.inf)
    if op in ("max", "min"):
        if dtype.kind in "fc":
            worst = -np.inf if op == "max" else np.inf
            return dtype.type(complex(worst, worst) if dtype.kind == "c" else worst)
        if dtype.kind == "b":
            return np.bool_(op == "min")
        info = np.iinfo(dtype)
        return dtype.type(info.min if op == "max" else info.max)
    return dtype.type(op in ("mul", "and"))


def single_steps(program: Program) -> Iterator[Step]:
    """The steps in order, those together one after another, tiled ones over all rows."""
    for step in program.steps:
        yield from step.steps if isinstance(step, Together | Tiled) else (step,)
