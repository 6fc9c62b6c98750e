"""Derivatives and batching of your own for a function: a solver, a softplus, a clipped gradient.

- `cube_root` calls SciPy, which cannot be traced: its derivative is that of an implicit function.
- `softplus` would overflow; its rule says what the derivative is, in a form that does not.
- `clipped` changes the gradient that flows back and nothing else.
- `length` has a rule for `vmap`, which makes one product of many.

    python examples/custom_rules.py
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq

import functrans as ft
from functrans.custom_batching import custom_vmap
from functrans.test_util import check_custom_rule


@ft.custom_vjp
def cube_root(a):
    """The x with x**3 = a."""
    return brentq(lambda x: x**3 - a, 0, 10)


# The forward rule returns the result, and what the backward rule wants to know: the result.
cube_root.defvjp(lambda a: (cube_root(a),) * 2, lambda x, ct: (ct / (3 * x**2),))


@ft.custom_jvp
def softplus(x):
    """log(1 + exp(x)), also where exp(x) overflows."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@softplus.defjvp
def _(primals, tangents):
    (x,), (t,) = primals, tangents
    return softplus(x), t * (0.5 + 0.5 * np.tanh(x / 2))


@ft.custom_vjp
def clipped(x, limit):
    """`x`, with gradients of at most `limit`."""
    return x


clipped.defvjp(lambda x, limit: (x, limit), lambda limit, ct: (np.clip(ct, -limit, limit), None))


METRIC = np.array([[2.0, 0.0], [0.0, 1.0]])


@custom_vmap
def length(x):
    """The length of a vector in a metric."""
    return np.sqrt(np.sum((METRIC @ x) ** 2))


@length.def_vmap
def _(size, in_batched, xs):
    return np.sqrt(np.sum((xs @ METRIC.T) ** 2, axis=1)), True  # one product for all of them


class Outcome(NamedTuple):
    """The derivatives found."""

    root: tuple[Any, Any, Any]
    slope: np.ndarray
    clipped: float
    lengths: np.ndarray


def main() -> Outcome:
    """Use each of the functions under transformations, and check its rules."""
    root = cube_root(8.0), ft.grad(cube_root)(8.0), ft.grad(ft.grad(cube_root))(8.0)
    print("cube root of 8, its first and second derivative:", *root)
    x = np.array([-1000.0, 0.0, 1000.0])
    slope = ft.jit(ft.vmap(ft.grad(softplus)))(x)
    print("slopes of softplus:", slope)
    small = ft.grad(lambda x: 100 * clipped(x, 1.0))(3.0)
    print("a gradient of 100, clipped:", small)
    vectors = np.array([[1.5, 4.0], [0.0, 1.0]])
    lengths = ft.vmap(length)(vectors)
    print("lengths:", lengths)
    check_custom_rule(softplus, (np.array([0.5, -2.0]),), order=2)
    check_custom_rule(length, (vectors[0],))
    print(ft.make_jaxpr(ft.vmap(softplus))(x))
    return Outcome(root, slope, small, lengths)


if __name__ == "__main__":
    main()
