"""From a jaxpr to nodes: each equation by its rule, calls inlined, the rest as host steps.

`NodeBuilder` is what rules are written with, those of third parties too:

    def lower(self, builder, x, y, *, scale):
        total = builder.elementwise("add", x, y)
        return builder.elementwise("mul", total, builder.number(scale, total))
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from functrans.compiler.lowering import nodes
from functrans.compiler.lowering.affine import ZERO, Index, IndexMap, Shape
from functrans.compiler.lowering.nodes import Node
from functrans.compiler.words.scalar_math import is_native
from functrans.ir import ClosedJaxpr, JaxprEqn, Literal, Var
from functrans.loop_ir import Failure, Program
from functrans.runtime.codegen import Unit
from functrans.source_info import Source

_BOOL = np.dtype(bool)
_TO_BOOL = frozenset("eq ne lt le gt ge is_finite isnan isinf signbit".split())
_TO_REAL = frozenset(("real", "imag", "abs"))
_HALF, _SINGLE = np.dtype(np.float16), np.dtype(np.float32)


class NotNative(Exception):
    """Raised by a rule for operands that it has no native form for; never leaves this package."""


class HostStepError(TypeError):
    """`jit(..., host_steps="error")` met an operation that would run in Python."""


class NodeBuilder:
    """Makes nodes; `nodes` has them in the order of the program, operands first.

    `subprogram(closed, in_place)` lowers a program that an equation has as a parameter; `in_place`
    maps positions of inputs to those of the outputs that may take their memory.
    """

    def __init__(self, subprogram: Callable[..., Program] | None = None) -> None:
        self.nodes: list[Node] = []
        self.subprogram = subprogram
        self.source: Source | None = None
        self.single_use: set[Node] = set()  # results of equations that one other equation reads

    def add(self, node: Node) -> Any:
        """Enter a node into the program."""
        node.order = len(self.nodes)
        self.nodes.append(node)
        return node

    def number(self, value: Any, like: Node) -> Node:
        """A literal in the dtype of `like`."""
        return self.add(nodes.Number((), like.dtype, like.dtype.type(value)))

    def elementwise(self, op: str, *operands: Node) -> Node:
        """`op` (a word of the scalar vocabulary) of operands of one shape, or of shape ()."""
        dtype = operands[1].dtype if op == "select" else operands[0].dtype
        if op in _TO_BOOL:
            dtype = _BOOL
        elif op in _TO_REAL and dtype.kind == "c":
            dtype = np.dtype(f"f{dtype.itemsize // 2}")
        elif op == "complex":
            if dtype == _HALF:
                operands, dtype = tuple(self.convert(x, _SINGLE) for x in operands), _SINGLE
            dtype = np.dtype(f"c{dtype.itemsize * 2}")
        shape = next((x.shape for x in operands if x.shape), ())
        return self.add(nodes.Pointwise(shape, dtype, op, operands))

    def convert(self, x: Node, dtype: np.dtype) -> Node:
        """`x` in another dtype."""
        if x.dtype == dtype:
            return x
        return self.add(nodes.Pointwise(x.shape, dtype, "convert", (x,)))

    def copy(self, x: Node) -> Node:
        """A node that, stored, holds the elements of `x` in order."""
        return self.add(nodes.Pointwise(x.shape, x.dtype, "copy", (x,)))

    def view(self, x: Node, shape: Shape, index_map: IndexMap) -> Node:
        """The elements of `x` at mapped indices: costs nothing."""
        return self.add(nodes.View(shape, x.dtype, x, index_map))

    def broadcast(self, x: Node, shape: Shape, dimensions: Shape) -> Node:
        """`x` repeated: its axis i becomes axis `dimensions[i]` of the result."""
        axes = tuple(-1 if n == 1 else axis for n, axis in zip(x.shape, dimensions, strict=True))

        def index_map(index: Index) -> Index:
            return tuple(ZERO if axis < 0 else index[axis] for axis in axes)

        return self.view(x, tuple(shape), index_map)

    def permute(self, x: Node, permutation: Shape) -> Node:
        """`x` with its axes in the order of `permutation`."""
        inverse = sorted(range(len(permutation)), key=permutation.__getitem__)

        def index_map(index: Index) -> Index:
            return tuple(index[i] for i in inverse)

        shape = tuple(x.shape[i] for i in permutation)
        return self.add(nodes.View(shape, x.dtype, x, index_map, tuple(permutation)))

    def after(self, x: Node, others: Sequence[Node]) -> Node:
        """`x`, in memory; what reads it from there runs no earlier than `others` are computed."""
        base = nodes.base_of(x)
        if isinstance(base, (nodes.Number, nodes.Iota)):
            return x
        self.stored(x)
        memory, before = (base.base, base.after) if type(base) is nodes.Alias else (base, ())
        held = self.add(nodes.Alias(base.shape, base.dtype, memory, (*before, *others)))
        if base is x:
            return held
        permutation = x.permutation if isinstance(x, nodes.View) and x.base is base else None
        index_map = functools.partial(_index_behind, x)
        return self.add(nodes.View(x.shape, x.dtype, held, index_map, permutation))

    def is_only_used_here(self, x: Node) -> bool:
        """Whether the equation being lowered is the only one that reads `x`, the result of one."""
        return x in self.single_use

    def reduce(self, op: str, x: Node, axes: Shape) -> Node:
        """`x` combined over `axes` by add, mul, max, min, and, or; float16 in float32, as NumPy."""
        if x.dtype == _HALF:
            return self.convert(self.reduce(op, self.convert(x, _SINGLE), axes), _HALF)
        if x.dtype == _BOOL:
            op = {"add": "or", "mul": "and", "max": "or", "min": "and"}.get(op, op)
        if all(x.shape[i] == 1 for i in axes):
            return self._without(x, axes)
        if isinstance(x, nodes.View) and x.permutation is not None:
            return self._reduce_permuted(op, x, axes)
        shape = tuple(n for i, n in enumerate(x.shape) if i not in axes)
        return self.add(nodes.Reduce(shape, x.dtype, op, x, axes))

    def _without(self, x: Node, axes: Shape) -> Node:
        """`x` without axes of extent 1."""
        kept = [i for i in range(len(x.shape)) if i not in axes]
        places = [kept.index(i) if i in kept else -1 for i in range(len(x.shape))]

        def index_map(index: Index) -> Index:
            return tuple(ZERO if at < 0 else index[at] for at in places)

        return self.view(x, tuple(x.shape[i] for i in kept), index_map) if axes else x

    def _reduce_permuted(self, op: str, x: nodes.View, axes: Shape) -> Node:
        """Reduce what was permuted instead, in the order of its memory."""
        order = x.permutation or ()
        reduced = tuple(sorted(order[i] for i in axes))
        kept = [i for i in range(len(order)) if i not in reduced]
        result = self.reduce(op, x.base, reduced)
        wanted = [kept.index(order[i]) for i in range(len(order)) if i not in axes]
        if wanted == sorted(wanted):
            return result
        inverse = sorted(range(len(wanted)), key=wanted.__getitem__)
        shape = tuple(result.shape[i] for i in wanted)
        return self.view(result, shape, lambda index: tuple(index[i] for i in inverse))

    def native(
        self,
        text: str,
        routine: Callable[[], Unit | str],
        function: Callable[..., list[Any]],
        operands: Sequence[Node],
        results: Sequence[tuple[Shape, np.dtype]],
        *,
        numbers: Sequence[int] = (),
        failures: Sequence[tuple[Callable[[str], BaseException], str]] = (),
        work: int = 0,
        is_shared: bool = True,
        programs: Sequence[Program] = (),
    ) -> list[Node]:
        """A call of a native routine on whole C-contiguous arrays; see `loop_ir.NativeStep`.

        `results` are shapes and dtypes; scratch memory is a result that nobody reads.
        """
        source = str(self.source) if self.source is not None else ""
        name = text.split()[0]
        errors = (
            *(Failure(kind, message, name, source) for kind, message in failures),
            *(check for program in programs for check in program.checks),
        )
        call = nodes.Native(
            (), _BOOL, text, function, self.whole(operands), provide=routine,
            numbers=tuple(map(int, numbers)), failures=errors, work=work,
            is_shared=is_shared, programs=tuple(programs),
        )  # fmt: skip
        return self.results_of(call, results)

    def whole(self, operands: Sequence[Node]) -> tuple[Node, ...]:
        """Operands in memory in their own order: views are copied."""
        out = []
        for x in operands:
            base = nodes.base_of(x)
            if base is not x or isinstance(x, nodes.Number):
                x = self.copy(x)
            out.append(self.stored(x))
        return tuple(out)

    def results_of(self, call: nodes.Host, results: Sequence[tuple[Shape, np.dtype]]) -> list[Node]:
        """Enter a call on whole arrays into the program, and give its results."""
        self.add(call)
        for shape, dtype in results:
            result = self.add(nodes.HostResult(_plain(shape), np.dtype(dtype), call))
            result.needed_whole = True
            call.results.append(result)
        return list(call.results)

    def stored(self, x: Node) -> Node:
        """`x`, or a copy of it, whose base is in memory when it is read."""
        base = nodes.base_of(x)
        if isinstance(base, (nodes.Number, nodes.Iota)):
            x = base = self.copy(x)
        if not isinstance(base, nodes.IN_MEMORY):
            base.needed_whole = True
        return x


def _index_behind(view: Node, index: Index) -> Index:
    return nodes.resolve(view, index)[1]


# ---------------------------------------------------------------------------- equations


class Lowered:
    """A program as nodes: arguments, constants with their arrays, results, steps with effects."""

    def __init__(self, subprogram: Callable[..., Program] | None = None) -> None:
        self.builder = NodeBuilder(subprogram)
        self.inputs: list[nodes.Leaf] = []
        self.consts: list[tuple[nodes.Leaf, np.ndarray]] = []
        self.outputs: list[Node] = []
        self.effects: list[Node] = []


def to_nodes(
    closed: ClosedJaxpr,
    rules: dict[str, Callable[..., Any]],
    host_steps: str = "allow",
    subprogram: Callable[..., Program] | None = None,
) -> Lowered:
    """Lower every equation of a program; programs inside by `subprogram`."""
    lowered = Lowered(subprogram)
    env: dict[Var, Node] = {}
    b = lowered.builder
    for i, var in enumerate(closed.jaxpr.invars):
        env[var] = leaf = b.add(nodes.Leaf(var.aval.shape, var.aval.dtype, f"in{i}"))
        lowered.inputs.append(leaf)
    _bind_consts(closed, env, lowered)
    uses = Counter(x for eqn in closed.eqns for x in eqn.invars if isinstance(x, Var))
    uses.update(x for x in closed.jaxpr.outvars if isinstance(x, Var))
    for eqn, scope in _flat_equations(closed, env, lowered):
        operands = [_node(b, scope, x) for x in eqn.invars]
        b.source = eqn.source
        before = len(b.nodes)
        results = _lower_equation(b, eqn, operands, rules, host_steps)
        for var, node in zip(eqn.outvars, results, strict=True):
            scope[var] = node
            if uses[var] == 1 and node.order >= before:
                b.single_use.add(node)
            else:  # perhaps an operand under another name, which may have more readers
                b.single_use.discard(node)
        if eqn.has_effects:
            for step in b.nodes[before:]:
                if isinstance(step, nodes.Host):
                    step.has_effects = True
                    lowered.effects.append(step)
    lowered.outputs = [_node(b, env, x) for x in closed.jaxpr.outvars]
    return lowered


def _bind_consts(closed: ClosedJaxpr, env: dict[Var, Node], lowered: Lowered) -> None:
    b = lowered.builder
    for var, value in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        if isinstance(value, np.ndarray):
            leaf = b.add(nodes.Leaf(var.aval.shape, var.aval.dtype, f"const{len(lowered.consts)}"))
            lowered.consts.append((leaf, value))
            env[var] = leaf
        else:
            env[var] = b.add(nodes.Number((), var.aval.dtype, var.aval.dtype.type(value)))


def _flat_equations(
    closed: ClosedJaxpr, env: dict[Var, Node], lowered: Lowered
) -> Iterator[tuple[JaxprEqn, dict[Var, Node]]]:
    """The equations in order, those of called programs in place, with their environments."""
    stack = [(iter(closed.eqns), env, None)]
    while stack:
        eqns, scope, call = stack[-1]
        eqn = next(eqns, None)
        if eqn is None:
            stack.pop()
            if call is not None:
                outer = stack[-1][1]
                inner = call.params["jaxpr"].jaxpr
                for var, atom in zip(call.outvars, inner.outvars, strict=True):
                    outer[var] = _node(lowered.builder, scope, atom)
        elif eqn.primitive.name == "jit":
            called: ClosedJaxpr = eqn.params["jaxpr"]
            operands = [_node(lowered.builder, scope, x) for x in eqn.invars]
            lowered.builder.single_use.difference_update(operands)
            inner_scope = dict(zip(called.jaxpr.invars, operands, strict=True))
            _bind_consts(called, inner_scope, lowered)
            stack.append((iter(called.eqns), inner_scope, eqn))  # type: ignore[arg-type]
        else:
            yield eqn, scope


def _node(b: NodeBuilder, scope: dict[Var, Node], atom: Var | Literal) -> Node:
    if isinstance(atom, Var):
        return scope[atom]
    dtype = atom.aval.dtype
    number = b.add(nodes.Number((), dtype, dtype.type(atom.val)))
    if not atom.aval.shape:
        return number
    return b.view(number, atom.aval.shape, lambda index: ())


def _lower_equation(
    b: NodeBuilder,
    eqn: JaxprEqn,
    operands: list[Node],
    rules: dict[str, Callable[..., Any]],
    host_steps: str,
) -> list[Node]:
    primitive = eqn.primitive
    lower = primitive.lower
    rule = rules.get(primitive.name) if lower is None else None
    word = getattr(primitive, "scalar", None)
    count = len(b.nodes)
    params = {key: _plain(value) for key, value in eqn.params.items()}
    try:
        if lower is not None:
            result = lower(b, *operands, **params)
        elif rule is not None:
            result = rule(b, *operands, **params)
        elif word:
            if not is_native(word, [x.aval.dtype for x in (*eqn.invars, *eqn.outvars)]):
                raise NotNative(f"{word} of {eqn.invars[-1].aval.dtype}")
            result = b.elementwise(word, *operands)
        else:
            raise NotNative(f"{primitive.name}")
    except NotNative as reason:
        del b.nodes[count:]
        if host_steps == "error":
            raise _refused(eqn, reason) from None
        return _host_step(b, eqn, operands)
    return list(result) if primitive.multiple_results else [result]  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    """A parameter with Python integers for NumPy's: they become text in machine code."""
    if type(value) is tuple:
        return tuple(map(_plain, value))
    return int(value) if isinstance(value, np.integer) else value


def _refused(eqn: JaxprEqn, reason: NotNative) -> HostStepError:
    where = f" at {eqn.source}" if eqn.source is not None else ""
    detail = "" if str(reason) == eqn.primitive.name else f" ({reason})"
    return HostStepError(
        f"{eqn.primitive.name}{detail}{where} has no native form and would run in Python, which "
        'jit(..., host_steps="error") refuses.\n  Leave host_steps at "allow", or express it with '
        "other operations."
    )


def _host_step(b: NodeBuilder, eqn: JaxprEqn, operands: list[Node]) -> list[Node]:
    primitive, params = eqn.primitive, eqn.params
    run = getattr(primitive, "host_impl", primitive.impl)
    shown = " ".join(f"{k}={v}" for k, v in params.items() if not isinstance(v, ClosedJaxpr))
    avals = [x.aval for x in eqn.invars]
    out_avals = [v.aval for v in eqn.outvars]

    def function(*arrays: np.ndarray) -> list[np.ndarray]:
        args = [
            x.reshape(a.shape) if a.shape else x.reshape(())[()]
            for x, a in zip(arrays, avals, strict=True)
        ]
        results = run(*args, **params)
        if not primitive.multiple_results:
            results = [results]
        return [np.asarray(r, a.dtype) for r, a in zip(results, out_avals, strict=True)]

    text = f"host {primitive.name} {shown}".rstrip()
    step = nodes.Host((), _BOOL, text, function, b.whole(operands))
    return b.results_of(step, [(a.shape, a.dtype) for a in out_avals])


__all__ = [
    "HostStepError",
    "Lowered",
    "NodeBuilder",
    "NotNative",
    "to_nodes",
]
