"""A custom interpreter: the bounds of a function over an interval, from its jaxpr.

A jaxpr is plain data. Walking `eqns` with one rule per primitive gives it a new meaning; here
every value is an interval [low, high], and the result holds for all inputs of the given ones.

    python examples/custom_interpreter.py
"""

from __future__ import annotations

import numpy as np

import functrans as ft


def multiply(x, y):
    """Return the bounds of a product: they are among the products of the bounds."""
    corners = [a * b for a in x for b in y]
    return min(corners), max(corners)


RULES = {
    "add": lambda x, y: (x[0] + y[0], x[1] + y[1]),
    "sub": lambda x, y: (x[0] - y[1], x[1] - y[0]),
    "neg": lambda x: (-x[1], -x[0]),
    "mul": multiply,
    "exp": lambda x: (np.exp(x[0]), np.exp(x[1])),
    "tanh": lambda x: (np.tanh(x[0]), np.tanh(x[1])),
}


def bounds(f, *intervals):
    """Return (low, high) of the scalar function `f` over the given intervals."""
    jaxpr = ft.make_jaxpr(f)(*(low for low, _ in intervals)).jaxpr
    known = dict(zip(jaxpr.invars, intervals, strict=True))

    def read(atom):
        return known[atom] if atom in known else (atom.val, atom.val)

    for eqn in jaxpr.eqns:
        rule = RULES.get(eqn.primitive.name)
        if rule is None:
            raise TypeError(f"no interval rule for {eqn.primitive.name}; add one to RULES")
        (out,) = eqn.outvars
        known[out] = rule(*map(read, eqn.invars))
    return read(jaxpr.outvars[0])


def f(x, y):
    """Return an example expression."""
    return np.tanh(x) * np.exp(-y) + 2 * x - y


def main() -> tuple[float, float]:
    """Print the jaxpr and what the interpreter finds."""
    print(ft.make_jaxpr(f)(0.0, 0.0))
    low, high = bounds(f, (-1.0, 2.0), (0.0, 1.0))
    print(f"for x in [-1, 2] and y in [0, 1]: {low:.6f} <= f(x, y) <= {high:.6f}")
    return low, high


if __name__ == "__main__":
    main()
