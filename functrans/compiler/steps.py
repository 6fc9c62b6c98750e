"""Equation by equation to the steps of a loop program.

Expressions wait until somebody stores them (see `expressions`); this module decides what each stored
variable is: a value of a nest, a reduction, a matrix product, a view, or a host step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from functrans import dtypes
from functrans import loop_ir as ir
from functrans.compiler import arena
from functrans.compiler.expressions import (
    Expressions,

    eqn_is_native,
    is_expression,
    is_index_map,
)
from functrans.compiler.open_nests import Nest, Nests
from functrans.ir import Atom, ClosedJaxpr, JaxprEqn, Literal, Var

REDUCTIONS = {
    "reduce_sum": "add",
    "reduce_prod": "mul",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_and": "and",
    "reduce_or": "or",
}


def build_program(closed: ClosedJaxpr, name: str, *, host_steps: str = "allow") -> ir.Program:
    """The loop program of a simplified jaxpr. Raises NoLowering under `host_steps="error"`."""
    return _ProgramBuilder(closed, name, host_steps).build()


class NoLowering(TypeError):  # noqa: N818  (named for what is missing)
    """An operation has no native form and host steps were refused."""


class _ProgramBuilder(Expressions):
    def __init__(self, closed: ClosedJaxpr, name: str, host_steps: str):
        super().__init__(closed)
        self.name = name
        self.host_steps = host_steps
        self.nests = Nests()
        self.copies: list[tuple[str, str]] = []
        self.aliases: set[Var] = set()

    def build(self) -> ir.Program:
        jaxpr = self.closed.jaxpr
        inputs = tuple(self.buffer(v, "x") for v in jaxpr.invars)
        consts = tuple(
            (self.buffer(v, "c"), x) for v, x in zip(jaxpr.constvars, self.closed.consts, strict=True)
        )
        given = {*jaxpr.invars, *jaxpr.constvars}
        outputs = self._outputs(given)
        for eqn in self.closed.eqns:
            self._eqn(eqn)
        for out, atom in self._late:
            self._copy_out(out, atom)
        named = {b.name for b in (*inputs, *outputs)} | {b.name for b, _ in consts}
        temps = tuple({b.name: b for b in self._real_buffers() if b.name not in named}.values())
        program = ir.Program(
            self.name, inputs, consts, outputs, temps, tuple(self.nests.finish()),
            copies=tuple(self.copies),
        )  # fmt: skip
        return arena.plan(program)

    def _real_buffers(self) -> list[ir.Buffer]:
        return [b for v, b in self.buffers.items() if v not in self.aliases]

    def _outputs(self, given: set[Var]) -> tuple[ir.Buffer, ...]:
        """Buffers of the outputs; a variable computed here is computed right into its output."""
        self._late: list[tuple[ir.Buffer, Atom]] = []
        outputs = []
        for i, atom in enumerate(self.closed.jaxpr.outvars):
            buffer = ir.Buffer(f"out{i}", atom.aval.shape, atom.aval.dtype)
            outputs.append(buffer)
            direct = type(atom) is Var and atom not in given and atom not in self.buffers
            if direct and not self._is_view(self.defined_by[atom]):  # type: ignore[index]
                self.buffers[atom] = buffer  # type: ignore[index]
            else:
                self._late.append((buffer, atom))
        return tuple(outputs)

    def _is_view(self, eqn: JaxprEqn) -> bool:
        return eqn.primitive.name == "reshape" and not is_expression(eqn)

    def _copy_out(self, out: ir.Buffer, atom: Atom) -> None:
        if type(atom) is Var:
            self.copies.append((out.name, self.buffers[atom].name))
            return
        value = ir.Const(np.asarray(atom.val, atom.aval.dtype)[()])  # type: ignore[union-attr]
        if value.value.dtype.kind == "c" or value.value.dtype == np.float16:
            self.nests.append(
                ir.HostStep(f"host constant {value.value}", lambda: [value.value], (), (out.name,)),
                [out.name],
            )
            return
        self.nests.join(
            (), lambda nest: nest.scope.store(out, (), value), (set(), set()), [out.name]
        )

    # ------------------------------------------------------------------ equations

    def _eqn(self, eqn: JaxprEqn) -> None:
        name = eqn.primitive.name
        if is_expression(eqn):
            if eqn.outvars[0] in self.stored:
                self._store(eqn.outvars[0])
        elif name == "reshape":
            self._view(eqn)
        elif name in REDUCTIONS and eqn_is_native(eqn) and type(eqn.invars[0]) is Var:
            self._reduce(eqn, REDUCTIONS[name])
        elif name == "dot_general" and self._matmul(eqn):
            return
        elif name == "concatenate" and eqn_is_native(eqn):
            self._concatenate(eqn)
        else:
            self._host(eqn)

    def _store(self, var: Var) -> None:
        out = self.buffer(var)
        reads = self._reads(var, out.shape)

        def fill(nest: Nest) -> None:
            scope = nest.scope
            scope.writing.add(var)
            scope.store(out, nest.index, self.element(scope, var, nest.index))

        self.nests.join(out.shape, fill, reads, [out.name])

    def _reads(self, root: Atom, extents: tuple[int, ...]) -> tuple[set[str], set[str]]:
        """The buffers that the expression of `root` loads: at any index, at the current one."""
        anywhere: set[str] = set()
        here: set[str] = set()
        pending = [(root, True, True)]
        seen = set()
        while pending:
            atom, same, is_root = pending.pop()
            if type(atom) is Literal or (atom, same) in seen:
                continue
            seen.add((atom, same))
            var: Var = atom  # type: ignore[assignment]
            if var in self.buffers and not (is_root and var in self.stored and same and self._own(var)):
                (here if same and var.aval.shape == extents else anywhere).add(self.buffers[var].name)
                continue
            eqn = self.defined_by[var]
            keeps = same and not is_index_map(eqn) and eqn.primitive.name != "pad"
            pending.extend((a, keeps, False) for a in eqn.invars)
        return anywhere, here

    def _own(self, var: Var) -> bool:
        return self.buffers[var].name not in self.nests.writer and var in self.defined_by

    def _view(self, eqn: JaxprEqn) -> None:
        var, (source,) = eqn.outvars[0], eqn.invars
        buffer = self._whole(source)
        self.buffers[var] = ir.Buffer(buffer.name, var.aval.shape, var.aval.dtype)
        self.aliases.add(var)

    def _whole(self, atom: Atom) -> ir.Buffer:
        """The buffer that holds all of an operand."""
        if type(atom) is Var:
            return self.buffers[atom]
        self.count += 1
        buffer = ir.Buffer(f"k{self.count}", atom.aval.shape, atom.aval.dtype)
        var = Var(atom.aval)
        self.buffers[var] = buffer
        self._copy_out(buffer, atom)
        return buffer

    def _reduce(self, eqn: JaxprEqn, op: str) -> None:
        (x,), out = eqn.invars, self.buffer(eqn.outvars[0])
        extents = x.aval.shape
        axes = tuple(eqn.params["axes"])
        if out.dtype.kind == "b":
            op = {"max": "or", "min": "and"}.get(op, op)

        def fill(nest: Nest) -> None:
            nest.reduce(op, out, axes, self.element(nest.scope, x, nest.index))

        self.nests.join(extents, fill, self._reads(x, extents), [out.name])

    def _concatenate(self, eqn: JaxprEqn) -> None:
        out, axis = self.buffer(eqn.outvars[0]), eqn.params["dimension"]
        offset = 0
        for x in eqn.invars:
            extents = x.aval.shape

            def fill(nest: Nest, x: Atom = x, offset: int = offset) -> None:
                index = list(nest.index)
                index[axis] = ir.Affine(index[axis].terms, offset)
                nest.scope.store(out, index, self.element(nest.scope, x, nest.index))

            if x.aval.size:
                self.nests.join(extents, fill, self._reads(x, extents), [out.name])
            offset += extents[axis]

    # ------------------------------------------------------------------ products

    def _matmul(self, eqn: JaxprEqn) -> bool:
        out_var = eqn.outvars[0]
        if not eqn_is_native(eqn) or any(type(a) is Literal for a in eqn.invars):
            return False
        (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = eqn.params["dimension_numbers"]
        lhs, rhs = eqn.invars
        sides = [
            self._side(lhs, tuple(lhs_batch), tuple(lhs_contract)),  # type: ignore[arg-type]
            self._side(rhs, tuple(rhs_batch), tuple(rhs_contract)),  # type: ignore[arg-type]
        ]
        if any(s is None for s in sides):
            return False
        (a, (batch, m, k), (sb, sm, sk)), (b, (_, n, _), (tb, tn, tk)) = sides  # type: ignore[misc]
        out = self.buffer(out_var)
        step = ir.MatMul(
            out.name, a, b, (batch, m, n, k), (sb, sm, sk), (tb, tk, tn), (m * n, n, 1), out.dtype
        )
        self.nests.append(step, [out.name])
        return True

    def _side(self, var: Var, batch: tuple[int, ...], contract: tuple[int, ...]) -> Any:
        """(buffer, sizes, strides) of an operand as (batch, free, contract), or None."""
        buffer, strides = self._strided(var)
        shape = var.aval.shape
        free = tuple(i for i in range(len(shape)) if i not in batch and i not in contract)
        groups = [_merged([(shape[i], strides[i]) for i in axes]) for axes in (batch, free, contract)]
        if any(g is None for g in groups):
            return None
        return buffer.name, [g[0] for g in groups], [g[1] for g in groups]  # type: ignore[index]

    def _strided(self, var: Var) -> tuple[ir.Buffer, list[int]]:
        buffer = self.buffers[var]
        strides, step = [], 1
        for n in reversed(buffer.shape):
            strides.insert(0, step)
            step *= n
        return buffer, strides

    # ------------------------------------------------------------------ host steps

    def _host(self, eqn: JaxprEqn) -> None:
        text = _host_text(eqn)
        if self.host_steps == "error":
            raise NoLowering(
                f"{eqn.primitive.name} has no native form for "
                f"{', '.join(str(a.aval) for a in eqn.invars)} (traced at {eqn.source}), and "
                'host_steps="error" refuses to run it in Python.'
            )
        literals = {i: a.val for i, a in enumerate(eqn.invars) if type(a) is Literal}
        names = [self.buffers[a].name for a in eqn.invars if type(a) is Var]
        views = [self.buffers[a] for a in eqn.invars if type(a) is Var]
        outs = [self.buffer(v).name for v in eqn.outvars]
        primitive, params = eqn.primitive, eqn.params

        def run(*arrays: np.ndarray) -> list[Any]:
            # Copies: an implementation may keep or return its operands, which live in the arena.
            rest = iter(zip(arrays, views, strict=True))
            args = [
                literals[i] if i in literals else _operand(*next(rest))
                for i in range(len(eqn.invars))
            ]
            y = primitive.impl(*args, **params)
            return list(y) if primitive.multiple_results else [y]

        self.nests.append(ir.HostStep(text, run, tuple(names), tuple(outs)), outs)


def _operand(array: np.ndarray, view: ir.Buffer) -> Any:
    return array.reshape(view.shape)[()] if not view.shape else array.reshape(view.shape)


def _host_text(eqn: JaxprEqn) -> str:
    params = " ".join(
        f"{k}={dtypes.short_name(v) if isinstance(v, np.dtype) else v}" for k, v in eqn.params.items()
    )
    return f"host {eqn.primitive.name} {params}".rstrip()


def _merged(dims: list[tuple[int, int]]) -> tuple[int, int] | None:
    """Several (extent, stride) as one, where the memory allows it."""
    size, stride = 1, 0
    for n, s in reversed(dims):
        if n == 1:
            continue
        if size == 1:
            size, stride = n, s
        elif s == size * stride:
            size *= n
        else:
            return None
    if any(n == 0 for n, _ in dims):
        return 0, 0
    return size, stride if size > 1 else 0
