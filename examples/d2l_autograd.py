"""The cases of the chapter on automatic differentiation in "Dive into Deep Learning".

https://d2l.ai/chapter_preliminaries/autograd.html - written as plain NumPy functions.

    python examples/d2l_autograd.py
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import functrans as ft
from functrans import lax


class Outcome(NamedTuple):
    """The gradient of each case."""

    of_two_dots: np.ndarray
    of_sum: np.ndarray
    of_squares: np.ndarray
    of_detached: np.ndarray
    of_loop: dict[float, float]


def two_dots(x):
    """Return 2 x.x, whose gradient is 4 x."""
    return 2 * np.dot(x, x)


def squares(x):
    """Return an array: its pullback is asked for one cotangent per element."""
    return x * x


def detached(x):
    """Return the sum of `u * x`, where no derivative flows through `u = x * x`."""
    u = lax.stop_gradient(x * x)
    return np.sum(u * x)


def loop(a):
    """Return a times a factor that Python's `while` and `if` find from the value of `a`."""
    b = 2 * a
    while np.linalg.norm(b) < 1000:
        b = 2 * b
    return b if b.sum() > 0 else 100 * b


def main() -> Outcome:
    """Differentiate each case and print it."""
    x = np.arange(4.0)
    y, pullback = ft.vjp(squares, x)
    (of_squares,) = pullback(np.ones_like(y))
    of_loop = {a: float(ft.grad(loop)(a)) for a in (1.0, -1.0, 0.3, 500.0, -0.001)}
    outcome = Outcome(
        ft.grad(two_dots)(x), ft.grad(np.sum)(x), of_squares, ft.grad(detached)(x), of_loop
    )
    print("x                          ", x)
    print("gradient of 2 x.x          ", outcome.of_two_dots)
    print("gradient of sum(x)         ", outcome.of_sum)
    print("pullback of x*x on ones    ", outcome.of_squares)
    print("gradient of sum(detach(x*x) * x)", outcome.of_detached)
    for a, slope in of_loop.items():
        print(f"loop: a = {a}, f(a) = {loop(np.float64(a))}, gradient {slope} = f(a)/a")
    return outcome


if __name__ == "__main__":
    main()
