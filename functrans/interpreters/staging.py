"""Staging: run a function on tracers that know only shapes and dtypes, and keep what it did.

A `JaxprTrace` turns each operation into an equation. Arrays that the function closes over become
constants, held by reference; NumPy scalars become literals. `eval_jaxpr` goes the other way: it
runs the equations under whatever trace is current, which is how every other transformation is
applied to a jaxpr.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from functrans import dtypes
from functrans.config import switches
from functrans.core import (
    Primitive,
    Trace,
    Tracer,
    current,
    current_trace,
    eqn_source,
    eval_trace,
    get_aval,
    leaked,
    swap_source,
)
from functrans.errors import UnexpectedTracerError
from functrans.ir import Atom, ClosedJaxpr, Jaxpr, JaxprEqn, Literal, ShapedArray, Var


class JaxprTracer(Tracer):
    """A value of a program being staged: its variable."""

    __slots__ = ("var",)

    def __init__(self, trace: JaxprTrace, var: Var, weak_type: bool = False):
        self._trace = trace
        self.var = var
        self.aval = var.aval
        self.weak_type = weak_type

    def origin(self) -> str:
        return self._trace.origin_of(self.var)  # type: ignore[attr-defined]


class JaxprTrace(Trace):
    """Records every operation as an equation of one program.

    `what` names the transformation and the function for messages: "jit of loss".
    """

    def __init__(self, parent: Trace, what: str = "make_jaxpr"):
        self.parent = parent
        self.what = what
        self.invars: list[Var] = []
        self.eqns: list[JaxprEqn] = []
        self.constvars: dict[int, Var] = {}
        self.consts: list[Any] = []
        self.snapshots: dict[int, np.ndarray] = {}

    def input(self, aval: ShapedArray, name: str | None = None, weak: bool = False) -> JaxprTracer:
        """A tracer for the next argument."""
        var = Var(aval, name)
        self.invars.append(var)
        return JaxprTracer(self, var, weak)

    def atom(self, x: Any) -> Atom:
        """The operand that stands for `x` in an equation."""
        if isinstance(x, Tracer):
            if x._trace is self:
                return x.var  # type: ignore[attr-defined]
            if not x._trace.alive:
                raise leaked(x)
            return self._constant(x)
        if isinstance(x, np.ndarray):
            return self._constant(x)
        aval = get_aval(x)
        return Literal(x if isinstance(x, np.generic) else aval.dtype.type(x), aval)

    def _constant(self, x: Any) -> Var:
        var = self.constvars.get(id(x))
        if var is None:
            var = self.constvars[id(x)] = Var(get_aval(x))
            self.consts.append(x)
            if type(x) is np.ndarray and x.flags.writeable:
                self.snapshots[id(x)] = x.copy()
        elif id(x) in self.snapshots:
            self._check_unchanged(x)
        return var

    def _check_unchanged(self, x: np.ndarray) -> None:
        """Raise ValueError for a constant that the function wrote to after it had used it."""
        # Bit for bit, so that nan equals itself; without a copy where x is contiguous.
        now = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
        if not np.array_equal(now, self.snapshots[id(x)].reshape(-1).view(np.uint8)):
            raise ValueError(
                f"{self.what}: an array {get_aval(x)} was written to after a traced operation had "
                "used it, but a program keeps one value of each constant.\n  Use a new array for "
                "each value (buf = buf + 1 instead of buf += 1), or functrans.numpy.at(buf, i)."
                "set(x)."
            )

    def process(self, primitive: Primitive, args: Sequence[Any], params: dict[str, Any]) -> Any:
        atoms = [self.atom(x) for x in args]
        out_aval = primitive.abstract_eval(*[a.aval for a in atoms], **params)
        if primitive.multiple_results:
            outvars = [Var(aval) for aval in out_aval]
            self.eqns.append(JaxprEqn(atoms, outvars, primitive, params, eqn_source()))
            return [JaxprTracer(self, v) for v in outvars]
        var = Var(out_aval)
        self.eqns.append(JaxprEqn(atoms, (var,), primitive, params, eqn_source()))
        return JaxprTracer(self, var)

    def finish(self, outs: Sequence[Any]) -> ClosedJaxpr:
        """The program that computes `outs`; the trace accepts no more operations."""
        outvars = [self.atom(x) for x in outs]
        for x in self.consts:
            if id(x) in self.snapshots:
                self._check_unchanged(x)
        self.snapshots.clear()
        self.alive = False
        constvars = list(self.constvars.values())
        return ClosedJaxpr(Jaxpr(constvars, self.invars, outvars, self.eqns), self.consts)

    def origin_of(self, var: Var) -> str:
        """Where a value of this program comes from, in words."""
        where = f" in {self.what}"
        if var in self.invars:
            return f", the argument {var.name or self.invars.index(var)}{where}"
        for eqn in self.eqns:
            if var in eqn.outvars:
                return f", the result of {eqn.primitive.name} at {eqn.source}{where}"
        return where


def trace_to_jaxpr(
    f: Callable[..., Sequence[Any]],
    avals: Sequence[ShapedArray],
    *,
    names: Sequence[str | None] | None = None,
    weak: Sequence[bool] | None = None,
    what: str = "make_jaxpr",
) -> ClosedJaxpr:
    """Stage `f`, a function of flat arguments that returns a list, on arguments of these avals."""
    trace = JaxprTrace(current_trace(), what)
    names = names or [None] * len(avals)
    weak = weak or [False] * len(avals)
    tracers = [trace.input(a, n, w) for a, n, w in zip(avals, names, weak, strict=True)]
    with watching_leaks(trace), current(trace):
        outs = f(*tracers)
        closed = trace.finish(outs)
        del tracers, outs
    return closed


def hoist_consts(
    closed: ClosedJaxpr, is_hoisted: Callable[[Any], bool]
) -> tuple[ClosedJaxpr, list[Any]]:
    """Turn some constants into arguments, which come first; returns them as well."""
    pairs = list(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    hoisted = [(v, c) for v, c in pairs if is_hoisted(c)]
    if not hoisted:
        return closed, []
    kept = [(v, c) for v, c in pairs if not is_hoisted(c)]
    jaxpr = closed.jaxpr.replace(
        constvars=[v for v, _ in kept], invars=[*(v for v, _ in hoisted), *closed.jaxpr.invars]
    )
    return ClosedJaxpr(jaxpr, [c for _, c in kept]), [c for _, c in hoisted]


@contextmanager
def watching_leaks(*traces: Trace) -> Iterator[None]:
    """End the life of `traces` with the block; under `checking_leaks`, look for leaked tracers."""
    try:
        yield
    finally:
        for trace in traces:
            trace.alive = False
    if not switches.check_leaks:
        return
    gc.collect()
    for trace in traces:
        tracers = [r for r in gc.get_referrers(trace) if isinstance(r, Tracer)]
        if tracers:
            raise UnexpectedTracerError(
                f"checking_leaks: {len(tracers)} traced value(s) outlived the transformation that "
                f"made them; the first is {tracers[0].aval}{tracers[0].origin()}.\n  Something "
                "outside of the function still holds it: a global, an attribute, a list."
            )


def eval_jaxpr(jaxpr: Jaxpr, consts: Sequence[Any], *args: Any) -> list[Any]:
    """Run a program under the current trace; on plain arrays, that is with NumPy.

    `consts` are the values of `jaxpr.constvars`, `args` of `jaxpr.invars`.
    """
    if len(args) != len(jaxpr.invars) or len(consts) != len(jaxpr.constvars):
        raise TypeError(
            f"this jaxpr takes {len(jaxpr.constvars)} constants and {len(jaxpr.invars)} arguments, "
            f"got {len(consts)} and {len(args)}."
        )
    env: dict[Var, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    for var, x in zip(jaxpr.invars, args, strict=True):
        if type(x) in dtypes.PYTHON_SCALARS:
            x = np.asarray(x).astype(var.aval.dtype, casting="same_kind")[()]
        env[var] = x
    ending = _last_uses(jaxpr) if current_trace() is eval_trace else {}
    before = swap_source(None)
    eqn = None
    try:
        for eqn in jaxpr.eqns:
            if eqn.source is not None:
                swap_source(eqn.source)
            operands = [a.val if type(a) is Literal else env[a] for a in eqn.invars]  # type: ignore[index]
            out = eqn.primitive(*operands, **eqn.params)
            if eqn.primitive.multiple_results:
                env.update(zip(eqn.outvars, out, strict=True))
            else:
                env[eqn.outvars[0]] = out
            for var in ending.get(eqn, ()):
                del env[var]
    except Exception as error:
        if eqn is not None and eqn.source is not None:
            error.add_note(f"in {eqn.primitive.name}, traced at {eqn.source}")
        raise
    finally:
        swap_source(before)
    return [a.val if type(a) is Literal else env[a] for a in jaxpr.outvars]  # type: ignore[index]


def _last_uses(jaxpr: Jaxpr) -> dict[JaxprEqn, list[Var]]:
    """The variables that nobody reads after an equation, so that their memory is free then."""
    read: set[Atom] = set(jaxpr.outvars)
    ending = {}
    for eqn in reversed(jaxpr.eqns):
        last = {a for a in (*eqn.invars, *eqn.outvars) if type(a) is Var and a not in read}
        read |= last
        ending[eqn] = list(last)
    return ending


def jaxpr_as_fun(closed: ClosedJaxpr) -> Callable[..., list[Any]]:
    """The program as a function of flat arguments that returns a list."""
    return lambda *args: eval_jaxpr(closed.jaxpr, closed.consts, *args)
