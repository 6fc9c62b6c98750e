"""A function whose loop ends when a value is large enough, compiled, with its gradient.

The case "gradients and Python control flow" of https://d2l.ai/chapter_preliminaries/autograd.html:
f is linear on each interval where the loop runs equally often, so its gradient is f(a) / a.

    python examples/d2l_control_flow.py
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import functrans as ft
from functrans import lax


class Outcome(NamedTuple):
    """Where the function was looked at, its values and gradients."""

    a: np.ndarray
    values: np.ndarray
    gradients: np.ndarray


def f(a):
    """Return a times a power of 2 such that the result is 1000 or more, or 100 times as much."""
    b = lax.while_loop(lambda b: np.linalg.norm(b) < 1000, lambda b: 2 * b, 2 * a)
    return lax.cond(np.sum(b) > 0, lambda b: b, lambda b: 100 * b, b)


def main() -> Outcome:
    """Differentiate at random numbers, one by one and all at once."""
    a = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.arange(-2, 3).repeat(200)
    slope = ft.jit(ft.grad(f))
    print("f(0.3), and its gradient:", f(0.3), slope(0.3))
    values, gradients = ft.jit(ft.vmap(ft.value_and_grad(f)))(a)
    np.testing.assert_allclose(gradients, values / a, rtol=1e-14)
    np.testing.assert_array_equal(gradients[::100], [slope(x) for x in a[::100]])
    print(f"the gradient is f(a) / a at all of {len(a)} random numbers")
    return Outcome(a, values, gradients)


if __name__ == "__main__":
    main()
