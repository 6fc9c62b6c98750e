"""One expression, from Python to its adjoint program, with the value of every step.

`(e**x + 1) * e**x` is the running example of the CMU course "Deep Learning Systems"; its
derivative is `2 e**2x + e**x`.

    python examples/dlsys_expression.py
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import functrans as ft


class Outcome(NamedTuple):
    """The value, the derivative, and the length of the adjoint program."""

    value: float
    derivative: float
    equations: int


def f(x):
    """Return `(e**x + 1) * e**x`."""
    return (np.exp(x) + 1) * np.exp(x)


def print_steps(closed, *args) -> list:
    """Evaluate a jaxpr, printing each equation with its value; return the outputs."""
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values |= zip(jaxpr.invars, args, strict=True)
    names = {}

    def read(atom):
        return values[atom] if atom in values else atom.val

    def name(atom):
        if atom not in values:
            return str(atom.val)
        return names.setdefault(atom, chr(ord("a") + len(names)))

    for var, value in values.items():
        print(f"  {name(var)} = {value}")
    for eqn in jaxpr.eqns:
        operands = " ".join(map(name, eqn.invars))
        (out,) = eqn.outvars
        values[out] = eqn.primitive(*map(read, eqn.invars), **eqn.params)
        print(f"  {name(out)} = {eqn.primitive.name} {operands}".ljust(24), f"= {values[out]}")
    return [read(atom) for atom in jaxpr.outvars]


def main(x: float = 1.0) -> Outcome:
    """Print the forward program, the adjoint program and every value on the way."""
    print(f"f(x) = (e**x + 1) * e**x at x = {x}")
    (value,) = print_steps(ft.make_jaxpr(f)(x), x)
    print("its adjoint program, as traced:")
    print(ft.make_jaxpr(ft.grad(f))(x))
    adjoint = ft.jit(ft.grad(f)).lower(x).simplified
    print("and simplified, step by step:")
    (derivative,) = print_steps(adjoint, x)
    print(f"f = {value}, f' = {derivative}; by hand: {2 * np.exp(2 * x) + np.exp(x)}")
    return Outcome(float(value), float(derivative), len(adjoint.eqns))


if __name__ == "__main__":
    main()
