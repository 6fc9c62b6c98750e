"""Kepler's equation E - e sin E = M solved in five ways: gradients of a solution, not of a solver.

Fixed points and Newton's method, with the derivative of the loop itself or of the equation that it
solves; and a solver of SciPy's, which knows of no derivative. By hand the gradient is
dE/de = sin E / (1 - e cos E).

    python examples/implicit_gradients.py
"""

from __future__ import annotations

import numpy as np
from scipy import optimize

import functrans as ft
from functrans import lax

ECCENTRICITY, MEAN_ANOMALY = 0.8, 0.6


def equation(x, e, m):
    """Return 0 where x is the eccentric anomaly."""
    return x - e * np.sin(x) - m


def fixed_point(x, e, m):
    """Return the limit of x = m + e sin x: each iteration is right by e cos x more."""

    def step(state):
        return m + e * np.sin(state[0]), state[0]

    return lax.while_loop(lambda s: np.abs(s[0] - s[1]) > 1e-8, step, (x, x + 1))[0]


def newton(x, e, m):
    """Return the root by Newton's method."""

    def step(x):
        return x - equation(x, e, m) / (1 - e * np.cos(x))

    return lax.while_loop(lambda x: np.abs(equation(x, e, m)) > 1e-12, step, x)


@ft.implicit_function(equation, check=1e-9)
def by_scipy(x, e, m):
    """Return the root that Brent's method finds on plain numbers."""
    return optimize.root_scalar(equation, (e, m), bracket=(0, 2 * np.pi), xtol=1e-14).root


SOLVERS = {
    "fixed point, unrolled": fixed_point,
    "fixed point, implicit": ft.implicit_function(equation, host=False)(fixed_point),
    "Newton, unrolled": newton,
    "Newton, implicit": ft.implicit_function(equation, host=False)(newton),
    "SciPy, implicit": by_scipy,
}


def main() -> dict[str, float]:
    """Return how wrong the gradient of each way is."""
    e, m = ECCENTRICITY, MEAN_ANOMALY
    root = by_scipy(1.0, e, m)
    slope = np.sin(root) / (1 - e * np.cos(root))
    errors = {}
    for name, solver in SOLVERS.items():
        gradient = ft.jit(ft.grad(lambda e, solver=solver: solver(1.0, e, m)))(e)
        errors[name] = float(abs(gradient - slope))
        print(f"{name:22} dE/de = {gradient:.12f}, wrong by {errors[name]:.1e}")
    second = ft.grad(ft.grad(lambda e: by_scipy(1.0, e, m)))(e)
    print(f"second derivative through SciPy's solver: {second:.8f}")
    assert max(errors.values()) < 1e-6
    assert all(errors[name] < 1e-7 for name in errors if "implicit" in name)
    return errors


if __name__ == "__main__":
    main()
