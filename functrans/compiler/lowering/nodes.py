"""What lowering turns a jaxpr into first: nodes that know what one element of them is.

A node is a value of the program. Pulling an element of it at an index pulls elements of its
operands; whether it is ever stored is decided later, by `fusion`. Kinds:

- `Leaf` (an argument or constant array), `Number` (a literal): they are there already;
- `View`: another node, at an index mapped by an affine map; `Alias`: the memory of a stored node
  under another shape;
- `Pointwise`, `Iota`, `Gather`, `DynamicSlice`, `Pad`: an element needs a few statements;
- `Reduce`, `ArgReduce`: an element needs a loop;
- writers (`Concatenate`, `UpdateSlice`, `Scatter`, `Cumulative`): they fill their result in their
  own order;
- `Dot`, `Host`, `Native`: steps of the program by themselves; `HostResult` is a result of the last
  two.

`reads(index)` lists the elements needed for the element (of the iteration space) at `index`;
`wholes` are operands read at places known only when the program runs, so they must be stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from functrans.compiler.lowering.affine import ZERO, Index, IndexMap, Shape, flat, variable
from functrans.loop_ir import Check, Failure


@dataclass(eq=False, slots=True)
class Node:
    """A value. The fields from `group` on are filled in by `fusion`, which explains them."""

    shape: Shape
    dtype: np.dtype
    order: int = field(default=-1, kw_only=True)
    group: int = field(default=-1, kw_only=True)
    time: tuple[int, ...] = field(default=(), kw_only=True)
    loop_time: tuple[int, ...] = field(default=(), kw_only=True)
    branch: tuple[int, ...] = field(default=(), kw_only=True)
    weight: int = field(default=0, kw_only=True)
    stored: bool = field(default=False, kw_only=True)
    needed_whole: bool = field(default=False, kw_only=True)

    @property
    def space(self) -> Shape:
        """The shape of the loops that compute it."""
        return self.shape

    @property
    def wholes(self) -> Sequence[Node]:
        """Operands that must be in memory."""
        return ()

    def reads(self, index: Index) -> list[tuple[Node, Index]]:
        """The elements that the element at `index` is computed from."""
        return []

    @property
    def size(self) -> int:
        n = 1
        for extent in self.shape:
            n *= extent
        return n


@dataclass(eq=False, slots=True)
class Leaf(Node):
    """An argument or a constant: `buffer` is its name."""

    buffer: str = ""


@dataclass(eq=False, slots=True)
class Number(Node):
    """A literal."""

    value: Any = None


@dataclass(eq=False, slots=True)
class View(Node):
    """`base` at `index_map(index)`. `root` is what is behind all views.

    `permutation` is given where the view only permutes axes.
    """

    base: Node
    index_map: IndexMap
    permutation: tuple[int, ...] | None = None
    root: Node = field(init=False)

    def __post_init__(self) -> None:
        self.root = base_of(self.base)


@dataclass(eq=False, slots=True)
class Alias(Node):
    """The elements of `base`, which is stored, in the same order under another shape.

    What reads it runs no earlier than the kernels that compute the nodes in `after`.
    """

    base: Node
    after: tuple[Node, ...] = ()

    @property
    def wholes(self) -> Sequence[Node]:
        return (self.base,)


@dataclass(eq=False, slots=True)
class Pointwise(Node):
    """`op(*operands)`, element by element; operands of shape () go with any shape."""

    op: str
    operands: tuple[Node, ...]

    def reads(self, index: Index) -> list[tuple[Node, Index]]:
        return [(x, index if x.shape else ()) for x in self.operands]


@dataclass(eq=False, slots=True)
class Iota(Node):
    """The position along one axis."""

    dimension: int


@dataclass(eq=False, slots=True)
class Gather(Node):
    """Elements of `base` at positions read from `indices` (see ops/gather_scatter)."""

    base: Node
    indices: tuple[Node, ...]
    batch_dims: int
    mode: str
    checks: tuple[Check, ...] = ()

    @property
    def wholes(self) -> Sequence[Node]:
        return (self.base,)

    def reads(self, index: Index) -> list[tuple[Node, Index]]:
        return [(i, index[: len(i.shape)]) for i in self.indices]


@dataclass(eq=False, slots=True)
class DynamicSlice(Node):
    """The block of `base` that begins at `starts`."""

    base: Node
    starts: tuple[Node, ...]

    @property
    def wholes(self) -> Sequence[Node]:
        return (self.base,)

    def reads(self, index: Index) -> list[tuple[Node, Index]]:
        return [(s, ()) for s in self.starts]


@dataclass(eq=False, slots=True)
class Pad(Node):
    """`base` where an index falls on an element of it, `value` elsewhere.

    A base that is cheap to compute from `sources`, which are in memory, is computed here.
    """

    base: Node
    value: Node
    config: tuple[tuple[int, int, int], ...]
    sources: tuple[Node, ...] = ()

    @property
    def wholes(self) -> Sequence[Node]:
        return self.sources or (self.base,)

    def reads(self, index: Index) -> list[tuple[Node, Index]]:
        return [(self.value, ())]


@dataclass(eq=False, slots=True)
class Reduce(Node):
    """`operand` combined over `axes` by add, mul, max, min, and, or."""

    op: str
    operand: Node
    axes: tuple[int, ...]

    @property
    def space(self) -> Shape:
        return self.operand.shape

    def reads(self, index: Index) -> list[tuple[Node, Index]]:
        return [(self.operand, index)]

    def kept(self, index: Index) -> Index:
        """The index of the result that the element at `index` belongs to."""
        return tuple(a for i, a in enumerate(index) if i not in self.axes)


@dataclass(eq=False, slots=True)
class ArgReduce(Reduce):
    """The position of the greatest or least element along the one axis in `axes`."""


@dataclass(eq=False, slots=True)
class Writer(Node):
    """Fills its result in an order of its own; later kernels read it from memory."""

    @property
    def sources(self) -> Sequence[Node]:
        """Operands that it reads once each, in the order of their own elements."""
        return ()


@dataclass(eq=False, slots=True)
class Concatenate(Writer):
    """`parts` one after another along `dimension`."""

    parts: tuple[Node, ...]
    dimension: int

    @property
    def sources(self) -> Sequence[Node]:
        return self.parts


@dataclass(eq=False, slots=True)
class UpdateSlice(Writer):
    """`base` with the block at `starts` replaced by `update`."""

    base: Node
    update: Node
    starts: tuple[Node, ...]

    @property
    def sources(self) -> Sequence[Node]:
        return (self.base, self.update, *self.starts)


@dataclass(eq=False, slots=True)
class Scatter(Writer):
    """`base` with `updates` combined into it at `indices`."""

    base: Node
    updates: Node
    indices: tuple[Node, ...]
    op: str
    batch_dims: int
    mode: str
    checks: tuple[Check, ...] = ()

    @property
    def sources(self) -> Sequence[Node]:
        return (self.base, self.updates, *self.indices)


@dataclass(eq=False, slots=True)
class Cumulative(Writer):
    """Running sums and their like along `axis`."""

    op: str
    operand: Node
    axis: int
    reverse: bool

    @property
    def sources(self) -> Sequence[Node]:
        return (self.operand,)


@dataclass(eq=False, slots=True)
class Dot(Node):
    """A batch of matrix products, as `loop_ir.MatMul` says; see `product_rules`.

    `strides` are those of lhs, rhs and the result. `extents` are those of the axes that were merged
    to the batch, the rows and the columns; `batches` the (extent, stride) of the axes of the batch
    in lhs and rhs.
    """

    lhs: Node
    rhs: Node
    sizes: tuple[int, int, int, int]
    strides: tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
    outer: tuple[int, int, int, int]
    extents: tuple[Shape, Shape, Shape]
    batches: tuple[Any, Any]

    @property
    def wholes(self) -> Sequence[Node]:
        return (self.lhs, self.rhs)


@dataclass(eq=False, slots=True)
class Host(Node):
    """A call of `function` on whole arrays. One that `has_effects` runs, and in order."""

    text: str
    function: Any
    operands: tuple[Node, ...]
    results: list[HostResult] = field(default_factory=list)
    has_effects: bool = field(default=False, kw_only=True)

    @property
    def wholes(self) -> Sequence[Node]:
        return self.operands


@dataclass(eq=False, slots=True)
class Native(Host):
    """A call of a native routine on whole arrays; see `loop_ir.NativeStep`."""

    provide: Any = None
    numbers: tuple[int, ...] = ()
    failures: tuple[Failure | Check, ...] = ()
    work: int = 0
    is_shared: bool = True
    programs: tuple[Any, ...] = ()


@dataclass(eq=False, slots=True)
class HostResult(Node):
    """One result of a `Host` step."""

    host: Host

    @property
    def wholes(self) -> Sequence[Node]:
        return (self.host,)


IN_MEMORY = (Leaf, Alias)
EXPRESSIONS = (Pointwise, Iota, Gather, DynamicSlice, Pad)


def resolve(node: Node, index: Index) -> tuple[Node, Index]:
    """The node behind views, and the index there."""
    while type(node) is View:
        index = node.index_map(index)
        node = node.base
    return node, index


def base_of(node: Node) -> Node:
    """The node behind views."""
    return node.root if type(node) is View else node


@lru_cache(maxsize=4096)
def symbolic_index(shape: Shape) -> Index:
    """An index whose entries are the variables `d0, d1, ...`, and 0 along axes of extent 1."""
    return tuple(ZERO if n == 1 else _AXIS[i] for i, n in enumerate(shape))


_AXIS = [variable(f"d{i}") for i in range(64)]


def memory_strides(x: Node) -> list[int]:
    """The distance in memory, in elements, of neighbours along each axis of a stored node."""
    base, index = resolve(x, symbolic_index(x.shape))
    terms = dict(flat(index, base.shape).terms)
    return [terms.get(f"d{i}", 0) for i in range(len(x.shape))]  # type: ignore[misc]


def memory_offset(x: Node) -> int:
    """Where the first element of a stored node is in its memory."""
    base, index = resolve(x, (ZERO,) * len(x.shape))
    return flat(index, base.shape).offset  # type: ignore[return-value]
