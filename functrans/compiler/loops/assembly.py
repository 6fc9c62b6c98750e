"""From groups of nodes to a `loop_ir.Program`: buffers get names, groups become steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from functrans.compiler.loops import kernel_form, kernels
from functrans.compiler.loops.fusion import Group
from functrans.compiler.lowering import nodes
from functrans.compiler.lowering.lowering import Lowered
from functrans.compiler.lowering.nodes import Node, base_of
from functrans.loop_ir import (
    Buffer,
    Check,
    Failure,
    HostStep,
    Kernel,
    KernelCall,
    MatMul,
    NativeStep,
    Program,
    Step,
)

Names = tuple[str, ...]


def bind_outputs(lowered: Lowered) -> tuple[dict[Node, int], list[tuple[int, Node]]]:
    """Which stored node each output is, and the outputs that are copies of other memory.

    Outputs that are views or literals become nodes that copy them.
    """
    b = lowered.builder
    owners: dict[Node, int] = {}
    copies: list[tuple[int, Node]] = []
    for i, out in enumerate(lowered.outputs):
        node = out
        if type(node) is nodes.Alias and type(node.base) is not nodes.Leaf:
            node = node.base
        if type(node) is nodes.Leaf or (node in owners and node.shape == out.shape):
            copies.append((i, node))
            continue
        if base_of(node) is not node or node in owners:
            node = b.copy(out)
        elif isinstance(node, (nodes.Number, nodes.Alias)):
            node = b.copy(node)
        node.needed_whole = True
        owners[node] = i
    return owners, copies


def reachable(lowered: Lowered, roots: Sequence[Node]) -> list[Node]:
    """The nodes that outputs and effects depend on, in the order of the program."""
    wanted = set(roots)
    kept = []
    for node in reversed(lowered.builder.nodes):
        if node in wanted:
            kept.append(node)
            wanted.update(_operands(node))
    kept.reverse()
    return kept


def _operands(node: Node) -> Sequence[Node]:
    if isinstance(node, nodes.View):
        return (node.base,)
    if isinstance(node, nodes.Pointwise):
        return node.operands
    if isinstance(node, nodes.Writer):
        return node.sources
    return [*node.wholes, *(x for x, _ in node.reads(nodes.symbolic_index(node.space)))]


class Assembly:
    """Names of buffers, and steps as they are made."""

    def __init__(self, lowered: Lowered, owners: dict[Node, int], *, fastmath: bool):
        self.lowered = lowered
        self.fastmath = fastmath
        self.checks: list[Check | Failure] = []
        self.steps: list[Step] = []
        self.temps: list[Buffer] = []
        self._names = {node: f"out{i}" for node, i in owners.items()}
        self._kernels: dict[Kernel, Kernel] = {}
        self._outputs = [Buffer(f"out{i}", x.shape, x.dtype) for i, x in enumerate(lowered.outputs)]

    def storage(self, node: Node) -> str:
        """The buffer of a node in memory; named when it is first asked for."""
        if type(node) is nodes.Alias:
            node = node.base
        if type(node) is nodes.Leaf:
            return node.buffer
        name = self._names.get(node)
        if name is None:
            name = self._names[node] = f"tmp{len(self.temps)}"
            self.temps.append(Buffer(name, node.shape, node.dtype))
        return name

    def add(self, group: Group) -> None:
        """Append the step of a group, if it has anything to do."""
        node = group.members[0]
        if isinstance(node, nodes.Dot):
            if node.size:
                self.steps.append(self._matmul(node))
        elif isinstance(node, nodes.Host):
            inputs = tuple(self.storage(base_of(x)) for x in node.operands)
            outputs = tuple(self.storage(x) for x in node.results)
            self.steps.append(self._call(node, inputs, outputs))
        else:
            self._add_kernel(group)

    def _add_kernel(self, group: Group) -> None:
        written = {kernels.node_buffer(n): n for n in group.members if n.stored}

        def memory(node: Node) -> str | None:
            if isinstance(node, nodes.IN_MEMORY):
                return self.storage(node)
            return self.storage(node) if node.stored and node.group != group.index else None

        builder = kernels.build(group, memory)
        if not builder.sizes:
            return
        kernel, buffers, numbers, checks = kernel_form.finish(builder)
        kernel = replace(kernel, fastmath=self.fastmath)
        kernel = self._kernels.setdefault(kernel, kernel)
        actual = tuple(self.storage(written[b]) if b in written else b for b in buffers)
        codes = tuple(range(len(self.checks), len(self.checks) + len(checks)))
        self.checks.extend(checks)
        self.steps.append(KernelCall(kernel, actual, codes, numbers))

    def _call(self, node: nodes.Host, inputs: Names, outputs: Names) -> Step:
        function = self._in_shapes_of_buffers(node, inputs, outputs)
        if not isinstance(node, nodes.Native):
            return HostStep(node.text, function, inputs, outputs)
        codes = tuple(range(len(self.checks), len(self.checks) + len(node.failures)))
        self.checks.extend(node.failures)
        return NativeStep(
            node.text, node.provide, function, inputs, outputs, node.numbers, codes, node.work,
            node.is_shared, node.programs,
        )  # fmt: skip

    def _in_shapes_of_buffers(self, node: nodes.Host, inputs: Names, outputs: Names) -> Any:
        """The function of a step for buffers that hold its arrays under other shapes."""
        taken = [x.shape for x in node.operands]
        made = [x.shape for x in node.results]
        given = [self._shape(name, x) for name, x in zip(inputs, node.operands, strict=True)]
        wanted = [self._shape(name, x) for name, x in zip(outputs, node.results, strict=True)]
        if (given, made) == (taken, wanted):
            return node.function

        def function(*arrays: np.ndarray) -> list[np.ndarray]:
            args = [x.reshape(shape) for x, shape in zip(arrays, taken, strict=True)]
            rows = zip(node.function(*args), made, wanted, strict=True)
            return [np.reshape(r, b) if np.shape(r) == a else r for r, a, b in rows]

        return function

    def _shape(self, name: str, node: Node) -> tuple[int, ...]:
        """The shape of the buffer that a node is in."""
        if name.startswith("out"):
            return self.lowered.outputs[int(name[3:])].shape
        base = base_of(node)
        return base.base.shape if isinstance(base, nodes.Alias) else node.shape

    def _matmul(self, node: nodes.Dot) -> MatMul:
        lhs, rhs, out = node.strides
        operands = self.storage(base_of(node.lhs)), self.storage(base_of(node.rhs))
        return MatMul(
            self.storage(node), *operands, node.sizes, lhs, rhs, out, node.dtype, node.outer
        )

    def program(self, name: str, copies: Sequence[tuple[int, Node]]) -> Program:
        """The program of the steps so far."""
        lowered = self.lowered
        return Program(
            name,
            inputs=tuple(Buffer(x.buffer, x.shape, x.dtype) for x in lowered.inputs),
            consts=tuple((Buffer(x.buffer, x.shape, x.dtype), c) for x, c in lowered.consts),
            outputs=tuple(self._outputs),
            temps=tuple(self.temps),
            steps=tuple(self.steps),
            checks=tuple(self.checks),
            copies=tuple((f"out{i}", self.storage(x)) for i, x in copies),
        )


def assemble(
    lowered: Lowered,
    groups: Sequence[Group],
    owners: dict[Node, int],
    copies: Sequence[tuple[int, Node]],
    name: str,
    *,
    fastmath: bool = False,
) -> Program:
    """The program of groups in order."""
    assembly = Assembly(lowered, owners, fastmath=fastmath)
    for group in groups:
        if group.members:
            assembly.add(group)
    return assembly.program(name, copies)
