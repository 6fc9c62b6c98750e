"""The way back as a value: a pullback is a pytree of what it keeps.

So it may be a residual of a user's rule, or what a jitted or batched function returns. Its
structure is its tape without values, in which each literal has the number of its leaf instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from functrans.core import Zero
from functrans.interpreters.linearize import Tape
from functrans.ir import Literal
from functrans.pytree import register_pytree_node


class Pullback:
    """From a cotangent of the outputs to those of the inputs: `run(tape, ct)`."""

    __slots__ = ("form", "run", "tape")

    def __init__(self, run: Callable[[Tape, Any], Any], tape: Tape, form: _Form | None = None):
        self.run = run
        self.tape = tape
        self.form = form

    def __call__(self, ct: Any) -> Any:
        return self.run(self.tape, ct)


class _Form:
    """A tape without values; compared by identity."""

    def __init__(self, tape: Tape):
        numbers: dict[int, int] = {}
        at = [numbers.setdefault(id(x.val), len(numbers)) for x in tape.literals()]
        self.first = [at.index(i) for i in range(len(numbers))]
        rest = iter(at)
        self.tape = _with_values(tape, lambda _: next(rest))

    def leaves(self, tape: Tape) -> list[Any]:
        literals = tape.literals()
        return [literals[i].val for i in self.first]

    def filled(self, leaves: list[Any]) -> Tape:
        return _with_values(self.tape, leaves.__getitem__)


def _with_values(tape: Tape, value_of: Callable[[Any], Any]) -> Tape:
    eqns = [
        eqn.replace(
            invars=[
                Literal(value_of(a.val), a.aval) if type(a) is Literal else a for a in eqn.invars
            ]
        )
        for eqn in tape.eqns
    ]
    # The way back does not ask for tangents that are known.
    outs = [Zero(a.aval) if type(a) is Literal else a for a in tape.outs]
    return Tape(tape.invars, eqns, outs)


def _flatten(pullback: Pullback) -> tuple[list[Any], Any]:
    if pullback.form is None:
        pullback.form = _Form(pullback.tape)
    return pullback.form.leaves(pullback.tape), (pullback.run, pullback.form)


def _unflatten(aux: Any, leaves: Iterable[Any]) -> Pullback:
    run, form = aux
    return Pullback(run, form.filled(list(leaves)), form)


register_pytree_node(Pullback, _flatten, _unflatten)
