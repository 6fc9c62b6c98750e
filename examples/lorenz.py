"""The Lorenz equations by Runge and Kutta's method, and how they forget where they began.

The integrator is a `scan`; its derivative is taken backwards with respect to the initial state, and
forwards, step by step, for the rate at which neighbours part: the largest Lyapunov exponent, which
is 0.9056 (Viswanath, "Lyapunov exponents from random Fibonacci sequences to the Lorenz equations",
1998).

    python examples/lorenz.py
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import functrans as ft
from functrans import lax

STEP = 0.01


class Outcome(NamedTuple):
    """Gradients of the last height, in both modes and by differences; and the exponent."""

    reverse: np.ndarray
    forward: np.ndarray
    differences: np.ndarray
    exponent: float


def velocity(state):
    """Return the right-hand side at the classical parameters 10, 28, 8/3."""
    x, y, z = state
    return np.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])


def runge_kutta(state):
    """Return the state one step later."""
    a = velocity(state)
    b = velocity(state + STEP / 2 * a)
    c = velocity(state + STEP / 2 * b)
    d = velocity(state + STEP * c)
    return state + STEP / 6 * (a + 2 * b + 2 * c + d)


def last_height(start):
    """Return z after two units of time."""
    return lax.scan(lambda state, _: (runge_kutta(state), None), start, length=200)[0][2]


def exponent(start, steps):
    """Return the mean rate of growth of a tangent that is scaled back to 1 after each step."""

    def step(carry, _):
        state, tangent = carry
        state, tangent = ft.jvp(runge_kutta, (state,), (tangent,))
        size = np.linalg.norm(tangent)
        return (state, tangent / size), np.log(size)

    carry = start, np.array([1.0, 0.0, 0.0])
    carry, _ = lax.scan(step, carry, length=2000)  # onto the attractor
    _, growth = lax.scan(step, carry, length=steps)
    return np.mean(growth) / STEP


def main() -> Outcome:
    """Differentiate a trajectory, and measure its exponent."""
    start = np.array([1.0, 1.0, 1.0])
    reverse = ft.jit(ft.grad(last_height))(start)
    forward = ft.jit(ft.jacfwd(last_height))(start)
    height = ft.jit(last_height)
    differences = np.array(
        [(height(start + e) - height(start - e)) / 2e-6 for e in 1e-6 * np.eye(3)]
    )
    rate = float(ft.jit(exponent, static_argnums=1)(start, 200_000))
    print("gradient of z(2), reverse mode", reverse)
    print("                  forward mode", forward)
    print("                   differences", differences)
    print(f"largest Lyapunov exponent      {rate:.4f}")
    np.testing.assert_allclose(reverse, forward, rtol=1e-9)
    np.testing.assert_allclose(reverse, differences, rtol=1e-6)
    return Outcome(reverse, forward, differences, rate)


if __name__ == "__main__":
    main()
