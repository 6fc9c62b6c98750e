"""Hares and lynxes: an integrator that chooses its steps, fitted to data by reverse mode.

How many steps a solution takes is known when it is there: the integrator is a `while_loop`, and the
gradient goes back through it. The method is Bogacki and Shampine's of order 3(2).

    python examples/adaptive_steps.py
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

import functrans as ft
from functrans import lax

TRUE = np.array([1.1, 0.4, 0.1, 0.4])  # growth, being eaten, growing by eating, starving
TIMES = np.linspace(1, 15, 15)
START = np.array([10.0, 5.0])
TOLERANCE = 1e-6


class Outcome(NamedTuple):
    """Parameters found, their errors before, the steps of each interval, evaluations."""

    parameters: np.ndarray
    gradient_error: float
    steps: np.ndarray
    evaluations: int


def velocity(y, p):
    """Return how fast prey and predators change."""
    prey, predators = y
    return np.stack(
        [p[0] * prey - p[1] * prey * predators, p[2] * prey * predators - p[3] * predators]
    )


def integrate(y, size, span, p):
    """Return the state after `span`, the size that the next step should have, and the steps."""

    def step(state):
        t, size, y, count = state
        h = np.minimum(size, span - t)
        a = velocity(y, p)
        b = velocity(y + h / 2 * a, p)
        c = velocity(y + h * 3 / 4 * b, p)
        new = y + h / 9 * (2 * a + 3 * b + 4 * c)
        d = velocity(new, p)
        error = h * np.max(np.abs(-5 * a + 6 * b + 8 * c - 9 * d)) / 72 / TOLERANCE
        accepted = error <= 1
        # The choice of sizes is no part of the solution: no derivative flows through it.
        factor = lax.stop_gradient(np.clip(0.9 * np.maximum(error, 1e-9) ** (-1 / 3), 0.2, 5))
        t, y = np.where(accepted, t + h, t), np.where(accepted, new, y)
        return t, lax.stop_gradient(h) * factor, y, count + 1

    _, size, y, count = lax.while_loop(lambda s: s[0] < span, step, (0.0, size, y, 0))
    return y, size, count


def trajectory(p):
    """Return the state at each time, and the steps in between."""

    def interval(state, _):
        y, size = state
        y, size, count = integrate(y, size, 1.0, p)
        return (y, np.maximum(size, 1e-3)), (y, count)

    return lax.scan(interval, (START, 0.1), length=len(TIMES))[1]


def main() -> Outcome:
    """Fit the parameters to a solution by SciPy, from a wrong beginning."""
    data = solve_ivp(
        lambda _, y: velocity(y, TRUE), (0, 15), START, t_eval=TIMES, rtol=1e-10, atol=1e-10
    ).y.T
    loss = ft.jit(
        ft.value_and_grad(lambda p: np.mean((np.log(trajectory(p)[0]) - np.log(data)) ** 2))
    )
    start = TRUE * np.array([0.95, 1.1, 1.1, 0.95])
    differences = [(loss(start + e)[0] - loss(start - e)[0]) / 2e-4 for e in 1e-4 * np.eye(4)]
    wrong = np.max(np.abs(loss(start)[1] - differences)) / np.max(np.abs(differences))
    fit = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-7})
    steps = ft.jit(trajectory)(fit.x)[1]
    print("gradient against differences, relative:", wrong)
    print(f"parameters {fit.x} after {fit.nfev} evaluations; the data were made with {TRUE}")
    print("steps per unit of time:", steps)
    np.testing.assert_allclose(fit.x, TRUE, rtol=1e-3)
    return Outcome(fit.x, float(wrong), steps, fit.nfev)


if __name__ == "__main__":
    main()
