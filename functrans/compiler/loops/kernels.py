"""From a group of nodes to a kernel: every stored node and every sum makes its loops.

`KernelBuilder` pulls elements; here is what is done with them: stored, summed in a register, summed
in memory (sums over leading axes keep the memory order that way), or written by the writers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from functrans.compiler.loops.fusion import Group, is_trailing, rank, reduces_by_strides
from functrans.compiler.loops.kernel_builder import (
    BOOL,
    KernelBuilder,
    Scope,
    clamped_start,
    resolved_indices,
)
from functrans.compiler.lowering import nodes
from functrans.compiler.lowering.affine import ZERO, Index, constant, flat, plus, scaled, variable
from functrans.compiler.lowering.nodes import Node
from functrans.loop_ir import (
    Affine,
    ArgUpdate,
    Const,
    Load,
    Operand,
    Store,
    StoreReduce,
    Update,
    identity,
)


def build(group: Group, memory: Callable[[Node], str | None]) -> KernelBuilder:
    """The statements of a group's kernel. `memory` names the buffers of nodes to be read."""
    k = KernelBuilder(memory)
    for node in group.members:
        if isinstance(node, nodes.Writer):
            if node.size:
                _WRITERS[type(node)](k, node)
        elif isinstance(node, nodes.Reduce):
            if is_trailing(node):
                _reduce_in_register(k, node)
            elif reduces_by_strides(node):
                _reduce_by_strides(k, node)
            else:
                _reduce_in_memory(k, node)
        elif node.stored and node.size:
            scopes, index = k.loops_over(node.shape, node.loop_time)
            store(k, node, scopes[-1], index, k.element(node, index))
            if rank(node.shape):
                k.written[node] = node_buffer(node)  # loops of a later stage read it back
    return k


def store(
    k: KernelBuilder, node: Node, scope: Scope, index: Index, value: Operand, level: int = 0
) -> None:
    """`node[index] = value` in `scope`."""
    buffer = node_buffer(node)
    k.use(buffer, node)
    at = flat(index, node.shape) if index else ZERO
    names = [value] if isinstance(value, str) else []
    names += [n for n, _ in at.terms]
    k.effect(scope, names, Store(buffer, (at,), value), level)


def node_buffer(node: Node) -> str:
    """The buffer that a stored node is written to."""
    return f"#{node.order}"


# ---------------------------------------------------------------------------- sums


def _reduce_in_register(k: KernelBuilder, node: nodes.Reduce) -> None:
    time = node.loop_time
    scopes, index = k.loops_over(node.space, time)
    kept = node.kept(index)
    depth = rank(node.shape)
    stage = time[depth] if depth < len(time) else 0
    total = _accumulate(k, node, scopes, depth, stage, index)
    k.remember(node, kept, total)
    if node.stored:
        store(k, node, scopes[depth], kept, total, stage + 1)


def _accumulate(
    k: KernelBuilder, node: nodes.Reduce, scopes: list[Scope], depth: int, stage: int, index: Index
) -> str:
    first = identity(node.op, node.operand.dtype)
    total = k.accumulator(scopes[depth], stage, first)
    value = k.element(node.operand, index)
    names = [value] if isinstance(value, str) else []
    if isinstance(node, nodes.ArgReduce):
        position = k.accumulator(scopes[depth], stage, np.int64(0))
        stmt = ArgUpdate(total, position, node.op, value, index[node.axes[0]])
        k.effect(scopes[-1], names, stmt)
        return position
    k.effect(scopes[-1], names, Update(total, node.op, value))
    return total


def _reduce_by_strides(k: KernelBuilder, node: nodes.Reduce) -> None:
    """Loops over the result outside, loops over the reduced axes inside."""
    order = [i for i in range(len(node.space)) if i not in node.axes] + list(node.axes)
    shape = tuple(node.space[i] for i in order)
    scopes, permuted = k.loops_over(shape, fresh=True)
    index = tuple(permuted[order.index(i)] for i in range(len(order)))
    depth = rank(node.shape)
    total = _accumulate(k, node, scopes, depth, 0, index)
    store(k, node, scopes[depth], node.kept(index), total, 1)


def _reduce_in_memory(k: KernelBuilder, node: nodes.Reduce) -> None:
    """`out[j] += x[i, j]` with the loops of the operand, after `out` was filled."""
    scopes, index = k.loops_over(node.space, node.loop_time)
    loops = [i for i, n in enumerate(node.space) if n != 1]
    before = next(d for d, i in enumerate(loops) if i in node.axes)
    filled = _fill_loops(k, node, scopes[before], index[: loops[before]])
    k.use(node_buffer(node), node)
    start = Const(identity(node.op, node.dtype))
    filled[0].levels.setdefault(0, []).append(
        Store(node_buffer(node), (flat(filled[1], node.shape),), start)
    )
    value = k.element(node.operand, index)
    names = [value] if isinstance(value, str) else []
    at = flat(node.kept(index), node.shape)
    k.effect(scopes[-1], names, StoreReduce(node_buffer(node), (at,), node.op, value))


def _fill_loops(
    k: KernelBuilder, node: nodes.Reduce, scope: Scope, outer: Index
) -> tuple[Scope, Index]:
    """Loops at the beginning of `scope` over the axes of the result that are inside it."""
    index = [a for i, a in enumerate(outer) if i not in node.axes]
    outermost = scope
    for n in node.shape[len(index) :]:
        if n == 1:
            index.append(ZERO)
            continue
        inner = k.detached(scope.depth + 1, n)
        if scope is outermost:
            scope.first.append(inner)
        else:
            scope.loops.setdefault(0, []).append(inner)
        scope = inner
        index.append(variable(inner.var))
    return scope, tuple(index)


# ---------------------------------------------------------------------------- writers


def _concatenate(k: KernelBuilder, node: nodes.Concatenate) -> None:
    start = 0
    for part in node.parts:
        scopes, index = k.loops_over(part.shape, fresh=True)
        value = k.element(part, index)
        at = list(index)
        at[node.dimension] = scaled(at[node.dimension], 1, start)
        store(k, node, scopes[-1], tuple(at), value)
        start += part.shape[node.dimension]


def _fill_from(k: KernelBuilder, node: Node, base: Node) -> None:
    scopes, index = k.loops_over(node.shape, fresh=True)
    store(k, node, scopes[-1], index, k.element(base, index))


def _later_loops(k: KernelBuilder, shape: Any, *, serial: bool) -> tuple[list[Scope], Index]:
    """Loops that run after those that filled the result."""
    scopes, index = k.loops_over(shape, (1,), fresh=True)
    if len(scopes) > 1:
        for scope in scopes[1:]:
            scope.is_serial = serial
    return scopes, index


def _update_slice(k: KernelBuilder, node: nodes.UpdateSlice) -> None:
    _fill_from(k, node, node.base)
    scopes, index = _later_loops(k, node.update.shape, serial=False)
    value = k.element(node.update, index)
    at = []
    for a, start, n, m in zip(index, node.starts, node.shape, node.update.shape, strict=True):
        if n != m:
            begin = clamped_start(k, k.element(start, ()), start.dtype, n - m)
            a = plus(a, k.as_index(begin))
        at.append(a)
    store(k, node, scopes[-1], tuple(at), value, 1 if len(scopes) == 1 else 0)


def _scatter(k: KernelBuilder, node: nodes.Scatter) -> None:
    _fill_from(k, node, node.base)
    if not node.updates.size:
        return
    scopes, index = _later_loops(k, node.updates.shape, serial=True)
    level = 1 if len(scopes) == 1 else 0
    ndim = len(node.indices[0].shape)
    args = [k.element(i, index[:ndim]) for i in node.indices]
    at, valid = resolved_indices(k, node, args)
    place = flat((*index[: node.batch_dims], *at, *index[ndim:]), node.shape)
    value = k.element(node.updates, index)
    buffer = node_buffer(node)
    if valid is not None:
        value = _where_valid(k, node, scopes[-1], place, valid, value, level)
    names = [n for n in (value, *(n for n, _ in place.terms)) if isinstance(n, str)]
    op = {"add": "max", "mul": "min"}.get(node.op, node.op) if node.dtype == BOOL else node.op
    if op == "set":
        k.effect(scopes[-1], names, Store(buffer, (place,), value), level)
    else:
        k.effect(scopes[-1], names, StoreReduce(buffer, (place,), op, value), level)


def _where_valid(
    k: KernelBuilder, node: Any, scope: Scope, at: Affine, valid: str, value: Operand, level: int
) -> Operand:
    """The update, or, where the index is out of range, what changes nothing."""
    if node.op != "set":
        nothing: Operand = Const(_unchanging(node.op, node.dtype))
    else:
        nothing = k.name()
        # Where the index is out of range `at` stands for the first element, which exists.
        load = Load(nothing, node_buffer(node), (at,), node.dtype)
        k.declare(nothing, scope, level)
        k.effect(scope, [n for n, _ in at.terms], load, level)
    return k.let("select", node.dtype, valid, value, nothing)


def _unchanging(op: str, dtype: np.dtype) -> np.generic:
    # x + 0.0 would turn -0.0 into 0.0.
    return -dtype.type(0) if op == "add" and dtype.kind in "fc" else identity(op, dtype)


def _cumulative(k: KernelBuilder, node: nodes.Cumulative) -> None:
    row = math.prod(node.shape[node.axis + 1 :])
    if row > 1 and node.shape[node.axis] > 1:
        _cumulative_in_memory(k, node)
    else:
        _cumulative_in_register(k, node)


def _scalar_op(op: str, dtype: np.dtype) -> str:
    return {"add": "or", "mul": "and", "max": "or", "min": "and"}[op] if dtype == BOOL else op


def _cumulative_in_memory(k: KernelBuilder, node: nodes.Cumulative) -> None:
    """`out[i] = op(out[i - 1], x[i])`, a row at a time: along rows memory is contiguous."""
    axis, n = node.axis, node.shape[node.axis]
    first = (*node.shape[:axis], 1, *node.shape[axis + 1 :])
    scopes, index = k.loops_over(first, fresh=True)
    index = _with_entry(index, axis, constant(n - 1 if node.reverse else 0))
    store(k, node, scopes[-1], index, k.element(node.operand, index))
    rest = (*node.shape[:axis], n - 1, *node.shape[axis + 1 :])
    scopes, index = k.loops_over(rest, (1,), fresh=True)
    step = index[axis]
    before = _with_entry(index, axis, scaled(step, -1, n - 1) if node.reverse else step)
    here = _with_entry(index, axis, scaled(step, -1, n - 2) if node.reverse else scaled(step, 1, 1))
    if n > 2:
        scopes[rank(node.shape[:axis]) + 1].is_serial = True
    value = k.element(node.operand, here)
    total = k.let(_scalar_op(node.op, node.dtype), node.dtype, _load_back(k, node, before), value)
    store(k, node, scopes[-1], here, total)


def _with_entry(index: Index, axis: int, entry: Affine) -> Index:
    return (*index[:axis], entry, *index[axis + 1 :])


def _load_back(k: KernelBuilder, node: Node, index: Index) -> str:
    """An element of the result, written by an earlier iteration."""
    at = flat(index, node.shape)
    names = [name for name, _ in at.terms]
    buffer = node_buffer(node)
    return k.emit(("back", buffer, at), names, lambda name: Load(name, buffer, (at,), node.dtype))


def _cumulative_in_register(k: KernelBuilder, node: nodes.Cumulative) -> None:
    n = node.shape[node.axis]
    scopes, index = k.loops_over(node.shape, fresh=True)
    if node.reverse and n != 1:
        index = _with_entry(index, node.axis, scaled(index[node.axis], -1, n - 1))
    value = k.element(node.operand, index)
    if n == 1:
        store(k, node, scopes[-1], index, value)
        return
    scopes[-1].is_serial = True
    op = _scalar_op(node.op, node.dtype)
    total = k.accumulator(scopes[-2], 0, identity(op, node.dtype))
    names = [value] if isinstance(value, str) else []
    k.effect(scopes[-1], names, Update(total, op, value))
    store(k, node, scopes[-1], index, total, max(scopes[-1].levels))


_WRITERS: dict[type, Callable[[KernelBuilder, Any], None]] = {
    nodes.Concatenate: _concatenate,
    nodes.UpdateSlice: _update_slice,
    nodes.Scatter: _scatter,
    nodes.Cumulative: _cumulative,
}
