"""Rematerialization: values that the way back computes again, instead of having kept them.

    known:   x -> y, z, r      z = exp x; r = mul z z; y = ...
    linear:  r, t -> ...

Linearization splits a program into what is known now and a linear program, which takes residuals
`r` of the first. `recomputing` walks the known program backwards from them. A value that a policy
saves, or that is an argument, is kept; the equation of any other is repeated in the linear
program. With the policy that saves `z` that is `known: x -> y, z` and `linear: z, t -> (r = ...)`.

Calls (`jit`, `checkpoint`) are looked into: they are split in the same way. Without a policy, what
is restored from the rest by a few cheap operations is not kept: see `restorable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from typing import Any, NamedTuple

from functrans.core import Primitive
from functrans.interpreters.restorable import restorable
from functrans.ir import Atom, ClosedJaxpr, Jaxpr, JaxprEqn, ShapedArray, Var

Policy = Callable[..., bool]  # (primitive, *avals, **params) -> whether its results are kept
Flags = tuple[bool, ...]
CALLS = frozenset(("jit", "checkpoint"))


class Name(Primitive):
    """`x` itself, under a name that policies know it by; its tangent has no name."""

    def abstract_eval(self, x: ShapedArray, *, name: str) -> ShapedArray:  # type: ignore[override]
        return x

    def impl(self, x: Any, *, name: str) -> Any:  # type: ignore[override]
        return x

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any], *, name: str) -> Any:  # type: ignore[override]
        return self(*primals, name=name), tangents[0]

    def transpose(self, ct: Any, x: Any, *, name: str) -> list[Any]:  # type: ignore[override]
        return [ct]

    def batch(self, size: int, args: Any, dims: Any, *, name: str) -> Any:  # type: ignore[override]
        return self(*args, name=name), dims[0]

    def lower(self, builder: Any, x: Any, *, name: str) -> Any:  # type: ignore[override]
        return x


name_primitive = Name("name")


def is_call(eqn: JaxprEqn) -> bool:
    """Whether an equation runs the program `jaxpr` once, on its operands."""
    return eqn.primitive.name in CALLS and isinstance(eqn.params.get("jaxpr"), ClosedJaxpr)


# ---------------------------------------------------------------------------- the walk


class Repeated(NamedTuple):
    """A program cut in two.

    `forward`: inputs -> outputs, kept values. `again`: the inputs at the positions `used`, kept
    values -> residuals.
    """

    forward: ClosedJaxpr
    again: ClosedJaxpr
    used: tuple[int, ...]


def recomputing(
    known: ClosedJaxpr, linear: ClosedJaxpr, count: int, policy: Policy | None
) -> tuple[ClosedJaxpr, ClosedJaxpr]:
    """Let `linear` compute again what `policy` does not save.

    `known` gives `count` outputs, then residuals, which `linear` takes before its other inputs.
    So do the programs that are returned.
    """
    residuals = len(known.jaxpr.outvars) - count
    given = (True,) * count + (False,) * residuals
    forward, again, used = repeat(known, given, tuple(not g for g in given), policy)
    inputs = [forward.jaxpr.invars[i] for i in used]
    outvars = forward.jaxpr.outvars
    forward = ClosedJaxpr(
        forward.jaxpr.replace(outvars=[*outvars[:count], *inputs, *outvars[count:]]), forward.consts
    )
    invars = linear.jaxpr.invars
    renamed: dict[Atom, Atom] = dict(zip(invars[:residuals], again.jaxpr.outvars, strict=True))
    program = Jaxpr(
        linear.jaxpr.constvars,
        [*again.jaxpr.invars, *invars[residuals:]],
        [renamed.get(a, a) for a in linear.jaxpr.outvars],
        [*again.eqns, *_renamed(linear.eqns, renamed)],
    )
    return forward, ClosedJaxpr(program, linear.consts)


def _renamed(eqns: Iterable[JaxprEqn], names: dict[Atom, Atom]) -> list[JaxprEqn]:
    return [e.replace(invars=[names.get(a, a) for a in e.invars]) for e in eqns]


def repeat(closed: ClosedJaxpr, outs: Flags, residuals: Flags, policy: Policy | None) -> Repeated:
    """Cut a program: `outs` says which of its outputs are wanted now, `residuals` which later."""
    key = ("repeat", outs, residuals, policy)
    if key not in closed.derived:
        closed.derived[key] = _repeat(closed, outs, residuals, policy)
    return closed.derived[key]


def _repeat(closed: ClosedJaxpr, outs: Flags, residuals: Flags, policy: Policy | None) -> Repeated:
    jaxpr = closed.jaxpr
    given = list(compress(jaxpr.outvars, outs))
    wanted = list(compress(jaxpr.outvars, residuals))
    walk = _Walk(policy, given, wanted)
    if policy is None:
        walk.restored = restorable(jaxpr, wanted)
    for eqn in reversed(jaxpr.eqns):
        walk.visit(eqn)
    used = tuple(i for i, v in enumerate(jaxpr.invars) if v in walk.needed)
    kept = [*(v for v in jaxpr.constvars if v in walk.needed), *reversed(walk.kept)]
    walk.live.update(kept)
    is_live = [v in walk.live for v in jaxpr.constvars]
    forward = jaxpr.replace(
        constvars=list(compress(jaxpr.constvars, is_live)),
        outvars=[*given, *kept],
        eqns=walk.forward[::-1],
    )
    eqns = [e.replace(invars=[walk.current(a) for a in e.invars]) for e in reversed(walk.again)]
    inputs = [*(jaxpr.invars[i] for i in used), *kept]
    again = Jaxpr([], inputs, [walk.current(a) for a in wanted], eqns)
    consts = list(compress(closed.consts, is_live))
    return Repeated(ClosedJaxpr(forward, consts), ClosedJaxpr(again), used)


class _Walk:
    """Equations from the last to the first, so that all who read a value were visited before.

    `needed` are the values that `again` reads and `live` those that `forward` does; both lists of
    equations are in the order of the walk. `same` are values known under another name, `restored`
    those that are not kept although there is no policy.
    """

    def __init__(self, policy: Policy | None, given: Iterable[Atom], wanted: Iterable[Atom]):
        self.policy = policy
        self.needed = {a for a in wanted if type(a) is Var}
        self.live = {a for a in given if type(a) is Var}
        self.kept: dict[Var, None] = {}
        self.same: dict[Atom, Atom] = {}
        self.restored: set[Var] = set()
        self.again: list[JaxprEqn] = []
        self.forward: list[JaxprEqn] = []

    def current(self, atom: Atom) -> Atom:
        """What stands for a value in `again`."""
        while atom in self.same:
            atom = self.same[atom]
        return atom

    def visit(self, eqn: JaxprEqn) -> None:
        """Put an equation where its results are wanted."""
        is_for_effect = not eqn.outvars or eqn.has_effects
        wanted = [v for v in eqn.outvars if v in self.needed]
        if is_call(eqn):
            if wanted or self._is_partly_live(eqn):
                eqn = self._split_call(eqn)
        elif eqn.primitive is name_primitive and self._is_saved(eqn):
            self._keep_named(eqn)
        elif wanted and self._is_saved(eqn):
            self._keep(wanted)
        elif wanted:
            self._repeat(eqn)
        if is_for_effect or not self.live.isdisjoint(eqn.outvars):
            self.forward.append(eqn)
            self.live.update(a for a in eqn.invars if type(a) is Var)

    def _is_partly_live(self, eqn: JaxprEqn) -> bool:
        return len({v in self.live for v in eqn.outvars}) == 2

    def _is_saved(self, eqn: JaxprEqn) -> bool:
        if self.policy is None:
            return self.restored.isdisjoint(eqn.outvars)
        return self.policy(eqn.primitive, *[a.aval for a in eqn.invars], **eqn.params)

    def _need(self, atoms: Iterable[Atom]) -> None:
        self.needed.update(a for a in map(self.current, atoms) if type(a) is Var)

    def _keep(self, values: Sequence[Var]) -> None:
        self.kept.update(dict.fromkeys(reversed(values)))
        self.live.update(values)

    def _repeat(self, eqn: JaxprEqn) -> None:
        self.again.append(eqn)
        self._need(eqn.invars)

    def _keep_named(self, eqn: JaxprEqn) -> None:
        """A named value that is kept serves also those who read it before it got the name."""
        (x,), (y,) = eqn.invars, eqn.outvars
        if y in self.needed or x in self.needed:
            self._keep([y])
            self.needed.discard(x)  # type: ignore[arg-type]
            self.same[x] = y

    def _split_call(self, eqn: JaxprEqn) -> JaxprEqn:
        """Add what is repeated of a call; return what of it runs forward."""
        live = tuple(v in self.live for v in eqn.outvars)
        wanted = tuple(v in self.needed for v in eqn.outvars)
        forward, again, used = repeat(eqn.params["jaxpr"], live, wanted, self.policy)
        kept = [Var(a) for a in forward.out_avals[sum(live) :]]
        self._keep(kept)
        operands = [*(eqn.invars[i] for i in used), *kept]
        results = list(compress(eqn.outvars, wanted))
        if again.eqns:
            params = _params_of(eqn, again, used)
            self._repeat(eqn.replace(invars=operands, outvars=results, params=params))
        else:
            names: dict[Atom, Atom] = dict(zip(again.jaxpr.invars, operands, strict=True))
            for var, atom in zip(results, again.jaxpr.outvars, strict=True):
                self.needed.discard(var)
                self.same[var] = names.get(atom, atom)
            self._need(results)
        outvars = [*compress(eqn.outvars, live), *kept]
        return eqn.replace(outvars=outvars, params=_params_of(eqn, forward, range(len(eqn.invars))))


def _params_of(eqn: JaxprEqn, program: ClosedJaxpr, used: Iterable[int]) -> dict[str, Any]:
    """Parameters of a call of `program` with operands `used` of those of `eqn`, and others."""
    params = {**eqn.params, "jaxpr": program}
    if "residuals" in params:
        params["residuals"] = sum(i < eqn.params["residuals"] for i in used)
    return params
