"""Which nodes share a loop nest, and which are stored.

Nodes are visited in the order of the program, and each joins the group of its latest operand if it
can be computed there *at the same index*: then the operand is in a register. Groups run in the
order of their creation, and a node joins a group only if the rest of its operands come from earlier
ones, so there are no cycles.

Within a group loops nest by axis, in the order of the axes. `node.loop_time` says which loop:
entry `d` is the stage of the loop at depth `d` among its siblings, so that a row's maximum, sum and
quotient are three inner loops, at stages 0, 1, 2, of one outer loop:

    for i: (max over j) (sum of exp over j) (write j)

`node.time` says when the value is known. A sum over trailing axes is known one stage later in the
loop around; other sums are known when the kernel has ended. `node.branch` is the part of `time`
that a consumer must share, because the node depends on a sum that is known in those loops only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from functrans.compiler.lowering import nodes
from functrans.compiler.lowering.affine import Index, Shape
from functrans.compiler.lowering.nodes import EXPRESSIONS, Node, base_of, resolve, symbolic_index

# Compile time of a kernel grows faster than its length; long chains are cut.
GROUP_LIMIT = 300
# A value used by several kernels is computed again in each if it takes no more statements...
CHEAP = 6
# ... or, for numbers, which are computed once per kernel, no more than this.
CHEAP_NUMBER = 24
# What a row needs again in a later loop over it is computed again, up to this many statements.
AGAIN = 64
_COSTLY = frozenset(
    """pow exp exp2 expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan sinh cosh tanh
    arcsinh arccosh arctanh logistic erf erfc erf_inv lgamma digamma atan2 logaddexp logaddexp2
    cbrt mod fmod floor_divide hypot""".split()
)
_COSTLY_STATEMENTS = 8
_OFF = 1 << 30
# A sum over leading axes is not fused if its rows are shorter: they would make short inner loops.
SHORT_ROW = 8
FEW_ELEMENTS = 4096  # where the length of loops does not matter

_NO_STEP = (nodes.Leaf, nodes.Number, nodes.View)
_STEPS = (nodes.Dot, nodes.Host)
_RECOMPUTABLE = (nodes.Pointwise, nodes.Iota)
_ALWAYS_STORED = (nodes.Writer, nodes.Dot, nodes.HostResult)


@dataclass(slots=True)
class Group:
    """A step of the program. `members` are in the order of the program."""

    index: int
    members: list[Node] = field(default_factory=list)
    is_loops: bool = True
    has_loops: bool = False
    is_closed: bool = False  # no other node joins by choice

    @property
    def is_full(self) -> bool:
        return len(self.members) >= GROUP_LIMIT


class Fusion:
    """Groups being formed."""

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self._reader: dict[tuple[Node, Shape], int] = {}
        self._numbers = -1  # the group that collects values of shape () without operands in loops
        self._continued: dict[Shape, int] = {}  # where nodes go that a full group could not take
        self.last_effect = -1  # the group of the last step with effects

    def visit(self, node: Node) -> None:
        """Give a node its group."""
        if isinstance(node, _NO_STEP):
            return
        if isinstance(node, nodes.Alias):
            earliest = [base_of(x).group - 1 for x in node.after]
            node.group = max([node.base.group, *earliest])
        elif isinstance(node, nodes.HostResult):
            node.group = node.host.group
        elif isinstance(node, _STEPS):
            group = self._open(node)
            group.is_loops = False
            if getattr(node, "has_effects", False):
                self.last_effect = group.index
        elif isinstance(node, nodes.Writer):
            self._open(node).is_closed = True
        else:
            self._join(node)

    def _open(self, node: Node) -> Group:
        group = Group(len(self.groups))
        self.groups.append(group)
        self._enter(group, node)
        return group

    def _enter(self, group: Group, node: Node) -> None:
        node.group = group.index
        group.members.append(node)
        if rank(node.space):
            group.has_loops = True

    def _join(self, node: Node) -> None:
        index = symbolic_index(node.space)
        reads = [resolve(x, i) for x, i in node.reads(index)]
        first = max((base_of(x).group + 1 for x in node.wholes), default=0)
        if can_fail(node):  # what is printed before an error is seen
            first = max(first, self.last_effect + 1)
        near = -1
        for x, at in reads:
            if x.group < 0:
                continue
            if self._is_ready_inside(x) and is_aligned(x, at, node.space):
                near = max(near, x.group)
            else:
                first = max(first, x.group + 1)
        alone = needs_own_loops(node)
        group = None
        if not alone:
            group = self._candidate(node, [x for x, _ in reads], near, max(first, near))
        if group is None:
            group = self._open(node)
            group.is_closed = alone
            if near >= 0 and self.groups[near].is_full:
                self._continued[node.space] = group.index
        else:
            self._enter(group, node)
        set_time(node, [x for x, _ in reads if x.group == node.group])
        for x, _ in reads:
            self._reader[x, node.space] = group.index
        if not group.has_loops:
            self._numbers = group.index

    def _is_ready_inside(self, x: Node) -> bool:
        """Whether a later node of the same kernel can use the value from a register."""
        return isinstance(x, EXPRESSIONS) or (isinstance(x, nodes.Reduce) and is_trailing(x))

    def _candidate(self, node: Node, bases: list[Node], near: int, first: int) -> Group | None:
        choices = [near] if near >= first else []
        choices += [self._reader.get((x, node.space), -1) for x in bases]
        if not rank(node.space):
            choices.append(self._numbers)
        if near >= 0 and self.groups[near].is_full:
            choices.append(self._continued.get(node.space, -1))
        for choice in choices:
            if choice < first:
                continue
            group = self.groups[choice]
            inside = [x for x in bases if x.group == choice]
            if (
                group.is_loops
                and not group.is_full
                and not group.is_closed
                and self._fits(node, inside)
            ):
                return group
        return None

    def _fits(self, node: Node, inside: list[Node]) -> bool:
        if not rank(node.space):
            return True
        if any(not rank(x.shape) and x.time != (0,) for x in inside):
            return False  # a sum over everything: what follows is a loop nest of its own
        time = time_of(node, inside)
        for x in inside:
            if time[: len(x.branch)] != x.branch:
                return False
            again = time[: rank(x.shape)] != x.time[:-1]
            if again and x.weight > AGAIN and not x.needed_whole:
                return False
        return True


@lru_cache(maxsize=4096)
def rank(shape: Shape) -> int:
    """The number of loops over a shape: axes of extent 1 have none."""
    return sum(n != 1 for n in shape)


def is_trailing(node: nodes.Reduce) -> bool:
    """Whether the reduced axes are the innermost loops, so that a register can accumulate."""
    loops = [i for i, n in enumerate(node.space) if n != 1]
    reduced = [i in node.axes for i in loops]
    return all(reduced[reduced.index(True) :]) if True in reduced else True


def can_fail(node: Node) -> bool:
    """Whether computing it may raise an error, which stays in order with effects."""
    return bool(getattr(node, "checks", ()))


def needs_own_loops(node: Node) -> bool:
    """Whether a sum over leading axes would spoil the loops that compute its operand."""
    if not isinstance(node, nodes.Reduce) or is_trailing(node):
        return False
    row = 1
    for i in reversed(range(len(node.space))):
        if i in node.axes:
            break
        row *= node.space[i]
    return reduces_by_strides(node) or (row < SHORT_ROW and node.operand.size > FEW_ELEMENTS)


def reduces_by_strides(node: nodes.Reduce) -> bool:
    """Whether a sum over leading axes cannot be kept in memory: its loops are reordered then."""
    return isinstance(node, nodes.ArgReduce) or node.op in ("and", "or")


def is_aligned(x: Node, at: Index, space: Shape) -> bool:
    """Whether the index of `x` is the outermost loops of `space`, in order."""
    if at == () or (x.shape == space and at == symbolic_index(space)):
        return True
    loops = [i for i, n in enumerate(space) if n != 1]
    axes = [a for a, n in zip(at, x.shape, strict=True) if n != 1]
    if len(axes) > len(loops):
        return False
    extents = [n for n in x.shape if n != 1]
    return all(
        a.terms == ((f"d{i}", 1),) and not a.offset and space[i] == n
        for a, i, n in zip(axes, loops, extents, strict=False)
    )


def time_of(node: Node, inside: Iterable[Node]) -> tuple[int, ...]:
    """The stages of the loops over the space of `node`; the last entry is its place in them."""
    n = rank(node.space) + 1
    latest = (0,) * n
    for x in inside:
        latest = max(latest, x.time + (0,) * (n - len(x.time)))
    return latest


def set_time(node: Node, inside: Sequence[Node]) -> None:
    """Fill in `time` and `branch` from the operands in the same group."""
    time = time_of(node, inside)
    node.loop_time = time
    node.branch = max((x.branch for x in inside), key=len, default=())
    if isinstance(node, nodes.Reduce):
        kept = rank(node.shape)
        if rank(node.space) > kept and is_trailing(node):
            node.branch = time[:kept]
            time = (*time[:kept], time[kept] + 1)
        else:
            time = time[: kept + 1]
    node.time = time
    node.weight = _weight(node, inside)


def _weight(node: Node, inside: Iterable[Node]) -> int:
    """How many statements compute an element from what is in memory or summed already."""
    if isinstance(node, nodes.Reduce):
        return 0
    total = _COSTLY_STATEMENTS if getattr(node, "op", "") in _COSTLY else 1
    return min(total + sum(x.weight for x in set(inside)), _OFF)


# ---------------------------------------------------------------------------- users


def users_of(program: Sequence[Node]) -> dict[Node, list[tuple[Node, bool]]]:
    """For each node behind views its users, and whether they read it at their own index."""
    users: dict[Node, list[tuple[Node, bool]]] = {}
    for node in program:
        for x, at, space in element_reads(node):
            users.setdefault(x, []).append((node, is_aligned(x, at, space)))
        for x in node.wholes:
            users.setdefault(base_of(x), []).append((node, False))
    return users


def element_reads(node: Node) -> list[tuple[Node, Index, Shape]]:
    """What a node reads element by element: the node behind views, the index, the space."""
    if isinstance(node, nodes.Writer):
        out = []
        for x in node.sources:
            out.append((*resolve(x, symbolic_index(x.shape)), x.shape))
        return out
    if isinstance(node, _NO_STEP):
        return []
    index = symbolic_index(node.space)
    return [(*resolve(x, i), node.space) for x, i in node.reads(index)]


def sink(
    fusion: Fusion, program: Sequence[Node], users: dict[Node, list[tuple[Node, bool]]]
) -> None:
    """Move what is computed early and used in one later kernel into that kernel."""
    moved = False
    for node in reversed(program):
        if not isinstance(node, EXPRESSIONS) or node.needed_whole:
            continue
        if can_fail(node) and fusion.last_effect > node.group:
            continue
        targets = {user.group for user, _ in users.get(node, ())}
        if len(targets) != 1:
            continue
        target = targets.pop()
        group = fusion.groups[target]
        if target == node.group or not group.is_loops or group.is_full:
            continue
        if not all(aligned for _, aligned in users[node]) or not _is_free_to_move(node):
            continue
        fusion.groups[node.group].members.remove(node)
        node.group = target
        node.time = node.loop_time = (0,) * (rank(node.shape) + 1)
        node.branch = ()
        group.members.append(node)
        moved = True
    if moved:
        for group in fusion.groups:
            group.members.sort(key=lambda n: n.order)


def _is_free_to_move(node: Node) -> bool:
    """Whether no more values have to be stored for it: at most one operand is in a register now."""
    inside = {
        x
        for x, _, _ in element_reads(node)
        if x.group == node.group and x.group >= 0 and not x.needed_whole
    }
    return len(inside) <= 1 and not any(isinstance(x, nodes.Reduce) or x.branch for x in inside)


# ---------------------------------------------------------------------------- storage


def decide_storage(program: Sequence[Node], users: dict[Node, list[tuple[Node, bool]]]) -> None:
    """Store what other kernels use, unless it is cheap to compute again from what is stored."""
    cost: dict[Node, int] = {}
    for node in program:
        if isinstance(node, (*_NO_STEP, nodes.Alias)):
            continue
        node.stored = node.needed_whole
        if not isinstance(node, _RECOMPUTABLE):
            cost[node] = _OFF
            node.stored |= isinstance(node, _ALWAYS_STORED)
        else:
            cost[node] = _statements(node, cost)
        if not node.stored:
            elsewhere = any(user.group != node.group for user, _ in users.get(node, ()))
            limit = CHEAP if node.shape else CHEAP_NUMBER
            node.stored = elsewhere and cost[node] > limit


def _statements(node: Node, cost: dict[Node, int]) -> int:
    op = getattr(node, "op", "")
    total = _COSTLY_STATEMENTS if op in _COSTLY else 1
    for x, _, _ in element_reads(node):
        if isinstance(x, nodes.IN_MEMORY) or x.needed_whole or x.stored:
            total += 1
        elif not isinstance(x, nodes.Number):
            total += cost.get(x, _OFF)
    return min(total, _OFF)


def fuse(program: Sequence[Node]) -> list[Group]:
    """Group the nodes of a program, which are in order, into the steps that compute them."""
    fusion = Fusion()
    for node in program:
        fusion.visit(node)
    users = users_of(program)
    sink(fusion, program, users)
    decide_storage(program, users)
    return fusion.groups
