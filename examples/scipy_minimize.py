"""NumPy and SciPy code that was never written for this library, differentiated for an optimizer.

`value_and_grad(f)` has the form that `scipy.optimize.minimize(..., jac=True)` asks for.

    python examples/scipy_minimize.py
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

import functrans as ft

# Hours of study of twenty students, and who passed: the example of Wikipedia's article on logistic
# regression, which gives the maximum of the likelihood as -4.0777 + 1.5046 hours.
HOURS = np.fromstring(
    "0.5 0.75 1 1.25 1.5 1.75 1.75 2 2.25 2.5 2.75 3 3.25 3.5 4 4.25 4.5 4.75 5 5.5", sep=" "
)
PASSED = np.array([0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1, 1, 1, 1])


class Outcome(NamedTuple):
    """The minima found, and how many evaluations the first took."""

    rosenbrock: np.ndarray
    newton: np.ndarray
    logistic: np.ndarray
    evaluations: int


def rosenbrock(x):
    """Return the banana-shaped valley's height; its minimum is 0 at all ones."""
    return np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def negative_log_likelihood(coefficients):
    """Return how unlikely the passes and failures are under a logistic model."""
    chance = expit(coefficients[0] + coefficients[1] * HOURS)
    return -np.sum(np.log(np.where(PASSED == 1, chance, 1 - chance)))


def main() -> Outcome:
    """Minimize both functions."""
    start = np.array([1.3, 0.7, 0.8, 1.9, 1.2])
    valley = minimize(ft.value_and_grad(rosenbrock), start, jac=True, method="BFGS")
    print(f"Rosenbrock, BFGS: {valley.x}, {valley.nfev} evaluations, {valley.message}")
    newton = minimize(
        ft.jit(ft.value_and_grad(rosenbrock)),
        start,
        jac=True,
        hess=ft.jit(ft.hessian(rosenbrock)),
        method="trust-exact",
    )
    print(f"Rosenbrock, trust region with Hessian, jitted: {newton.x}, {newton.nfev} evaluations")
    fit = minimize(ft.value_and_grad(negative_log_likelihood), np.zeros(2), jac=True)
    print(f"logistic regression: chance of passing = expit({fit.x[0]:.4f} + {fit.x[1]:.4f} hours)")
    return Outcome(valley.x, newton.x, fit.x, valley.nfev)


if __name__ == "__main__":
    main()
