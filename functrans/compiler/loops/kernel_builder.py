"""Building one kernel: a tree of loops into which elements are pulled.

A `Scope` is the body of a loop (the outermost one: of the kernel). A statement goes into the
outermost scope that knows its operands, so whatever does not change in a loop is computed before
it, and equal statements of a scope are one. Within a scope, *levels* alternate with loops: the
statements of level `s` come before the loops of stage `s`, whose sums the statements of level
`s + 1` may use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans.compiler.lowering import nodes
from functrans.compiler.lowering.affine import (
    ZERO,
    Index,
    Shape,
    bounds,
    flat,
    plus,
    scaled,
    variable,
)
from functrans.compiler.lowering.nodes import Node, resolve
from functrans.loop_ir import (
    Affine,
    CheckIndex,
    Const,
    IndexValue,
    Init,
    Let,
    Load,
    Operand,
    Stmt,
)

INT64 = np.dtype(np.int64)
BOOL = np.dtype(bool)


class Scope:
    """The body of a loop while it is built."""

    __slots__ = ("depth", "equal", "extent", "first", "is_serial", "levels", "loops", "var")

    def __init__(self, depth: int, var: str = "", extent: int = 1):
        self.depth = depth
        self.var = var
        self.extent = extent
        self.first: list[Stmt | Scope] = []  # before everything else: filling of sums in memory
        self.levels: dict[int, list[Stmt]] = {}
        self.loops: dict[int, list[Scope]] = {}
        self.equal: dict[Any, str] = {}
        self.is_serial = False

    def items(self) -> list[Stmt | Scope]:
        """Statements and loops in the order they run."""
        out: list[Stmt | Scope] = [*self.first]
        for stage in sorted({*self.levels, *self.loops}):
            out.extend(self.levels.get(stage, ()))
            out.extend(self.loops.get(stage, ()))
        return out


class KernelBuilder:
    """Collects the statements of one kernel. `memory(node)` is the buffer of a node read from
    memory, or None for those computed here."""

    def __init__(self, memory: Callable[[Node], str | None]):
        self.written: dict[Node, str] = {}
        self._memory = memory
        self.top = Scope(0)
        self.sizes: dict[str, tuple[int, np.dtype]] = {}
        self.checks: list[Any] = []
        self.extents: dict[str, int] = {}
        self._scopes: dict[str, Scope] = {}
        self._level: dict[str, int] = {}
        self._known: dict[tuple[Node, Index], Operand] = {}
        self._count = 0

    def memory(self, node: Node) -> str | None:
        """The buffer to read a node from, or None where its elements are computed here."""
        return self.written.get(node) or self._memory(node)

    # ------------------------------------------------------------------ loops

    def child(self, scope: Scope, extent: int, stage: int = 0, *, fresh: bool = False) -> Scope:
        """The loop of this extent at this stage of a scope, shared unless it must be `fresh`."""
        loops = scope.loops.setdefault(stage, [])
        if not fresh:
            for loop in loops:
                if loop.extent == extent and not loop.is_serial:
                    return loop
        loop = self.detached(scope.depth + 1, extent)
        loops.append(loop)
        return loop

    def detached(self, depth: int, extent: int) -> Scope:
        """A loop that is not in any scope yet."""
        loop = Scope(depth, f"i{len(self.extents)}", extent)
        self._scopes[loop.var] = loop
        self.extents[loop.var] = extent
        return loop

    def loops_over(
        self, shape: Shape, time: Sequence[int] = (), *, fresh: bool = False
    ) -> tuple[list[Scope], Index]:
        """The scopes from the top to the body of loops over `shape`, and the index there."""
        scopes = [self.top]
        index = []
        for n in shape:
            if n == 1:
                index.append(ZERO)
                continue
            depth = len(scopes) - 1
            stage = time[depth] if depth < len(time) else 0
            scopes.append(self.child(scopes[-1], n, stage, fresh=fresh))
            index.append(variable(scopes[-1].var))
        return scopes, tuple(index)

    # ------------------------------------------------------------------ statements

    def name(self) -> str:
        """A new name for a scalar."""
        self._count += 1
        return f"v{self._count}"

    def place(self, names: Sequence[str]) -> tuple[Scope, int]:
        """The outermost scope and level where all names are known."""
        scope, level = self.top, 0
        for name in names:
            home = self._scopes[name]
            at = self._level.get(name, 0)
            if home.depth > scope.depth:
                scope, level = home, at
            elif home is scope and at > level:
                level = at
        return scope, level

    def emit(self, key: tuple[Any, ...], names: Sequence[str], make: Callable[[str], Stmt]) -> str:
        """The name of a scalar; the statement is made unless an equal one is there."""
        scope, level = self.place(names)
        found = scope.equal.get(key)
        if found is None:
            found = scope.equal[key] = self.name()
            self.declare(found, scope, level)
            scope.levels.setdefault(level, []).append(make(found))
        return found

    def declare(self, name: str, scope: Scope, level: int) -> None:
        """Say where a name is known."""
        self._scopes[name] = scope
        self._level[name] = level

    def effect(self, scope: Scope, names: Sequence[str], stmt: Stmt, level: int = 0) -> None:
        """A statement without a result, in `scope`, once its operands are known."""
        home, at = self.place(names)
        level = max(level, at) if home is scope else level
        scope.levels.setdefault(level, []).append(stmt)

    def let(self, op: str, dtype: np.dtype, *args: Operand) -> Operand:
        """`op(*args)`."""
        if op == "copy":
            return args[0]
        names = [a for a in args if type(a) is str]
        key = (op, dtype, tuple(_key(a) for a in args))
        return self.emit(key, names, lambda name: Let(name, op, args, dtype))

    def position(self, index: Affine, dtype: np.dtype = INT64) -> Operand:
        """An index as an integer scalar."""
        if not index.terms:
            return Const(dtype.type(index.offset))
        names = [n for n, _ in index.terms]
        if dtype == INT64 and index.terms == ((names[0], 1),) and not index.offset:
            if names[0] not in self.extents:
                return names[0]
        return self.emit((index, dtype), names, lambda name: IndexValue(name, index, dtype))

    def load(
        self, node: Node, index: Index, guard: str | None = None, other: Const | None = None
    ) -> Operand:
        """An element from memory."""
        node, index = resolve(node, index)
        buffer = self.memory(node)
        assert buffer is not None, f"{node} is read before it is stored"
        at = flat(index, node.shape) if index else ZERO
        self.use(buffer, node)
        names = [n for n, _ in at.terms]
        if guard is not None:
            names.append(guard)
        key = ("load", buffer, at, guard, None if other is None else _key(other))
        return self.emit(
            key, names, lambda name: Load(name, buffer, (at,), node.dtype, guard, other)
        )

    def use(self, buffer: str, node: Node) -> None:
        """Make a buffer a parameter of the kernel."""
        self.sizes.setdefault(buffer, (node.size, node.dtype))

    def check_index(self, value: Operand, bound: int, check: Any) -> str:
        """An index made non-negative, having been checked."""
        if not isinstance(value, str):
            value = self.named(value)
        key = ("check", value, bound)
        return self.emit(key, [value], lambda name: self._check(name, value, bound, check))

    def _check(self, name: str, value: str, bound: int, check: Any) -> CheckIndex:
        self.checks.append(check)
        return CheckIndex(name, value, bound, f"c{len(self.checks) - 1}", INT64)

    def named(self, value: Const) -> str:
        """A literal as a named scalar."""
        dtype = value.value.dtype
        key = ("named", _key(value))
        return self.emit(key, [], lambda name: Let(name, "copy", (value,), dtype))

    def accumulator(self, scope: Scope, stage: int, value: np.generic) -> str:
        """A scalar that the loops of `stage` in `scope` update; known from the next level on."""
        name = self.name()
        scope.levels.setdefault(stage, []).append(Init(name, Const(value), value.dtype))
        self.declare(name, scope, stage + 1)
        return name

    def remember(self, node: Node, index: Index, value: Operand) -> None:
        """The element of `node` at `index` is this scalar."""
        self._known[node, index] = value

    # ------------------------------------------------------------------ elements

    def element(self, node: Node, index: Index) -> Operand:
        """The element of `node` at `index`. Works off a stack: programs can be deep."""
        root = resolve(node, index)
        known = self._known
        stack = [root]
        while stack:
            entry = stack[-1]
            if entry in known:
                stack.pop()
                continue
            node, index = entry
            if isinstance(node, nodes.Number):
                known[entry] = Const(node.value)
            elif self.memory(node) is not None:
                known[entry] = self.load(node, index)
            else:
                reads = [resolve(x, i) for x, i in node.reads(index)]
                missing = [r for r in reads if r not in known]
                if missing:
                    stack.extend(missing)
                    continue
                known[entry] = _ELEMENT[type(node)](self, node, index, [known[r] for r in reads])
            stack.pop()
        return known[root]

    def index_scalar(self, value: Operand, dtype: np.dtype, bound: int) -> Operand:
        """An index operand as int64. Unsigned ones beyond int64 become `bound`: out of range."""
        if dtype == np.dtype(np.uint64):
            value = self.let("min", dtype, value, Const(np.uint64(bound)))
        return value if dtype == INT64 else self.let("convert", INT64, value)

    def as_index(self, value: Operand) -> Affine:
        """An integer scalar as an index."""
        return variable(value) if isinstance(value, str) else Affine((), int(value.value))


def _key(operand: Operand) -> Any:
    if isinstance(operand, str):
        return operand
    return operand.value.dtype, operand.value.tobytes()


def _i64(value: int) -> Const:
    return Const(np.int64(value))


# ---------------------------------------------------------------------------- one element


def _pointwise(k: KernelBuilder, node: Any, index: Index, args: list[Operand]) -> Operand:
    return k.let(node.op, node.dtype, *args)


def _iota(k: KernelBuilder, node: Any, index: Index, args: list[Operand]) -> Operand:
    return k.position(index[node.dimension])


def clamped_start(k: KernelBuilder, value: Operand, dtype: np.dtype, last: int) -> Operand:
    """The start of a block, moved into 0..last."""
    if isinstance(value, Const):
        return _i64(min(max(int(value.value), 0), last))
    start = k.index_scalar(value, dtype, last)
    start = k.let("max", INT64, start, _i64(0))
    return k.let("min", INT64, start, _i64(last))


def _dynamic_slice(k: KernelBuilder, node: Any, index: Index, args: list[Operand]) -> Operand:
    at = []
    for a, start, x, n, m in zip(
        index, args, node.starts, node.base.shape, node.shape, strict=True
    ):
        at.append(plus(a, k.as_index(clamped_start(k, start, x.dtype, n - m))) if n != m else a)
    return k.load(node.base, tuple(at))


def resolved_indices(
    k: KernelBuilder, node: Any, args: Sequence[Operand]
) -> tuple[list[Affine], str | None]:
    """The places that index operands mean, and, in mode "fill", the name of: all are in range."""
    at: list[Affine] = []
    valid: Operand | None = None
    extents = node.base.shape[node.batch_dims :]
    for value, x, n, check in zip(args, node.indices, extents, node.checks, strict=False):
        i = k.index_scalar(value, x.dtype, n)
        if node.mode == "error" or (node.mode == "clip" and not n):
            i = k.check_index(i, n, check)
        elif node.mode == "clip":
            i = k.let("min", INT64, k.let("max", INT64, i, _i64(0)), _i64(n - 1))
        elif node.mode == "fill":
            inside = k.let(
                "and", BOOL, k.let("ge", BOOL, i, _i64(0)), k.let("lt", BOOL, i, _i64(n))
            )
            valid = inside if valid is None else k.let("and", BOOL, valid, inside)
            i = k.let("select", INT64, inside, i, _i64(0))
        else:
            wrapped = k.let("add", INT64, i, _i64(n))
            i = k.let("select", INT64, k.let("lt", BOOL, i, _i64(0)), wrapped, i)
        at.append(k.as_index(i))
    return at, valid if valid is None or isinstance(valid, str) else k.named(valid)


def _gather(k: KernelBuilder, node: Any, index: Index, args: list[Operand]) -> Operand:
    at, valid = resolved_indices(k, node, args)
    rest = index[len(node.indices[0].shape) :]
    place = (*index[: node.batch_dims], *at, *rest)
    if valid is None:
        return k.load(node.base, place)
    fill = node.dtype.type(np.nan if node.dtype.kind in "fc" else 0)
    return k.load(node.base, place, valid, Const(fill))


def _pad(k: KernelBuilder, node: Any, index: Index, args: list[Operand]) -> Operand:
    value = args[0]
    inside: Operand | None = None
    at = []
    for a, n, (low, _, interior) in zip(index, node.base.shape, node.config, strict=True):
        place = scaled(a, 1, -low)
        tests = []
        if interior:
            p = k.position(place)
            tests = [(k.let("mod", INT64, p, _i64(interior + 1)), "eq", 0)]
            place = k.as_index(k.let("floor_divide", INT64, p, _i64(interior + 1)))
        within = bounds(place, k.extents)
        if within is None or within[0] < 0:
            tests.append((k.position(place), "ge", 0))
        if within is None or within[1] >= n:
            tests.append((k.position(place), "lt", n))
        for scalar, op, limit in tests:
            test = k.let(op, BOOL, scalar, _i64(limit))
            inside = test if inside is None else k.let("and", BOOL, inside, test)
        at.append(place)
    if inside is None:
        return k.element(node.base, tuple(at)) if node.sources else k.load(node.base, tuple(at))
    guard = inside if isinstance(inside, str) else k.named(inside)
    if node.sources:
        inner = _guarded(k, node, node.base, tuple(at), guard)
        return k.let("select", node.dtype, guard, inner, value)
    if isinstance(value, Const):
        return k.load(node.base, tuple(at), guard, value)
    zero = Const(node.dtype.type(0))
    return k.let("select", node.dtype, guard, k.load(node.base, tuple(at), guard, zero), value)


def _guarded(k: KernelBuilder, pad: Any, node: Node, index: Index, guard: str) -> Operand:
    """An element of what is padded, where the guard holds; elsewhere of zeros."""
    node, index = resolve(node, index)
    if isinstance(node, nodes.Number):
        return Const(node.value)
    if node in pad.sources:
        return k.load(node, index, guard, Const(node.dtype.type(0)))
    args = [_guarded(k, pad, x, i, guard) for x, i in node.reads(index)]
    return k.let(node.op, node.dtype, *args)  # type: ignore[attr-defined]


def _unexpected(k: KernelBuilder, node: Any, index: Index, args: list[Operand]) -> Operand:
    raise AssertionError(f"{type(node).__name__} is used at an index where it is not known")


_ELEMENT: dict[type, Callable[..., Operand]] = {
    nodes.Pointwise: _pointwise,
    nodes.Iota: _iota,
    nodes.DynamicSlice: _dynamic_slice,
    nodes.Gather: _gather,
    nodes.Pad: _pad,
    nodes.Reduce: _unexpected,
    nodes.ArgReduce: _unexpected,
}
