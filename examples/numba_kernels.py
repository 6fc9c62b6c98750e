"""Numba code that calls a derivative, and is itself differentiated: Kepler's equation.

Newton's method is a Numba kernel, which calls `grad` of the equation; it has a derivative of its
own, that of an implicit function. So it is batched, differentiated, compiled and integrated by
SciPy, all without Python inside.

    python examples/numba_kernels.py
"""

from typing import NamedTuple

import numba
import numpy as np
from scipy.integrate import quad

import functrans as ft


def kepler(anomaly, e, mean):
    """Zero for the eccentric anomaly of a planet with eccentricity e, at a mean anomaly."""
    return anomaly - e * np.sin(anomaly) - mean


residual_and_slope = ft.export.numba(ft.value_and_grad(kepler), 1.0, 0.1, 1.0)


@ft.numba_kernel(out=lambda e, mean: mean)
@numba.njit
def solve(e, mean, out):
    """Solve Kepler's equation; as every kernel, into the last argument."""
    anomaly = mean
    for _ in range(20):
        residual, slope = residual_and_slope(anomaly, e, mean)
        anomaly -= residual / slope
    out[()] = anomaly


@solve.defjvp
def _(primals, tangents):
    anomaly = solve(*primals)
    _, moved = ft.jvp(lambda *p: kepler(anomaly, *p), primals, tangents)
    return anomaly, -moved / ft.grad(kepler)(anomaly, *primals)


class Outcome(NamedTuple):
    """Where four planets are, how fast they move, and the mean distance from their sun."""

    anomaly: np.ndarray
    speed: np.ndarray
    distance: float


def main(e: float = 0.6) -> Outcome:
    """Solve for four planets at once, and integrate along the orbit."""
    orbit = ft.jit(ft.vmap(ft.value_and_grad(solve, 1), (None, 0)), host_steps="error")
    anomaly, speed = orbit(e, np.array([0.5, 1.0, 2.0, 3.0]))
    distance = ft.export.low_level_callable(lambda m, e: 1 - e * np.cos(solve(e, m)), 1.0, e)
    mean = quad(distance, 0, np.pi, args=(e,))[0] / np.pi
    print(f"{anomaly = }\n{speed = }\n{mean = } (exactly: {1 + e * e / 2})")
    return Outcome(anomaly, speed, mean)


if __name__ == "__main__":
    main()
