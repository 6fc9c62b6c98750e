"""Scientific programs: Gaussian processes, unrolled integrators, a statistical model."""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np

from benchmarks.libraries import Library
from benchmarks.workloads.networks import train_step
from benchmarks.workloads.workload import Workload

STEPS = 200


# ---------------------------------------------------------------------------- Gaussian process


def log_marginal_likelihood(library: Library):
    """Return log p(y) of a Gaussian process with an RBF kernel (Rasmussen, Williams, eq. 2.30)."""
    np_ = library.np_

    def value(hyper, x, y):
        n = y.shape[0]
        length, amplitude, noise = (np_.exp(hyper[i]) for i in range(3))
        scaled = x / length
        squares = np_.sum(scaled * scaled, axis=1)
        distances = squares[:, None] + squares[None, :] - 2 * (scaled @ scaled.T)
        covariance = amplitude * np_.exp(-0.5 * distances) + noise * np_.eye(n, dtype=y.dtype)
        factor = np_.linalg.cholesky(covariance)
        z = library.scipy.linalg.solve_triangular(factor, y, lower=True)
        log_determinant = 2 * np_.sum(np_.log(np_.diagonal(factor)))
        return -0.5 * (np_.sum(z * z) + log_determinant + n * math.log(2 * math.pi))

    return library.jit(library.value_and_grad(value))


def _observations(n: int):
    def inputs(rng):
        x = rng.uniform(-3, 3, size=(n, 2))
        return np.array([0.1, 0.2, -2.0]), x, np.sin(x).sum(axis=1) + 0.3 * rng.normal(size=n)

    return inputs


# ---------------------------------------------------------------------------- integrators


def pendulum(library: Library):
    """Return the mean energy after leapfrog steps of many pendulums, and its gradient."""
    np_ = library.np_

    def energy(state, dt):
        q, p = state
        for _ in range(STEPS):
            p = p - 0.5 * dt * np_.sin(q)
            q = q + dt * p
            p = p - 0.5 * dt * np_.sin(q)
        return np_.mean(0.5 * p * p - np_.cos(q) + q)

    return library.jit(library.value_and_grad(energy))


def two_bodies(library: Library):
    """Return the distance after leapfrog steps of a Kepler orbit, and its gradient."""
    np_ = library.np_

    def acceleration(q: Any) -> Any:
        return -q / np_.sum(q * q) ** 1.5

    def distance(state, target):
        q, p = state
        for _ in range(STEPS):
            p = p + 0.005 * acceleration(q)
            q = q + 0.01 * p
            p = p + 0.005 * acceleration(q)
        return np_.sum((q - target) ** 2)

    return library.jit(library.value_and_grad(distance))


# ---------------------------------------------------------------------------- logistic regression


def logistic_loss(library: Library):
    """Return the mean log loss, labels -1 and 1."""
    np_ = library.np_
    return lambda w, x, y: np_.mean(np_.log1p(np_.exp(-y * np_.dot(x, w))))


def logistic_step_by_hand():
    """Return the step of `train_step(logistic_loss)` as loops."""
    numba = importlib.import_module("numba")

    @numba.njit(fastmath=True, error_model="numpy")
    def step(w, x, y):
        n, d = x.shape
        one, rate = x.dtype.type(1), x.dtype.type(0.05 / n)
        total, grad = 0.0, np.zeros_like(w)
        for i in range(n):
            margin = x.dtype.type(0)
            for j in range(d):
                margin += x[i, j] * w[j]
            e = math.exp(-y[i] * margin)
            total += math.log1p(e)
            slope = -y[i] * e / (one + e)
            for j in range(d):
                grad[j] += slope * x[i, j]
        return total / n, w - rate * grad

    return step


def _labelled(rng, n: int = 1000, d: int = 20):
    x = rng.normal(size=(n, d))
    labels = np.where(x @ rng.normal(size=d) + rng.normal(size=n) > 0, 1.0, -1.0)
    return np.zeros(d), x, labels


WORKLOADS = {
    "gp_100": Workload(
        "Gaussian process, likelihood and gradient, n=100, f64",
        _observations(100),
        log_marginal_likelihood,
        dtype="float64",
        tolerance=1e-7,
    ),
    "gp_500": Workload(
        "Gaussian process, likelihood and gradient, n=500, f64",
        _observations(500),
        log_marginal_likelihood,
        "large",
        dtype="float64",
        tolerance=1e-7,
    ),
    "pendulum": Workload(
        "gradient of 200 leapfrog steps, 64 pendulums",
        lambda rng: (tuple(0.5 * rng.normal(size=(2, 64))), 0.01),
        pendulum,
    ),
    "two_bodies": Workload(
        "gradient of 200 leapfrog steps, Kepler orbit",
        lambda rng: ((np.array([1.0, 0.0]), np.array([0.0, 0.9])), np.array([0.0, 1.0])),
        two_bodies,
        tolerance=1e-3,
    ),
    "logistic": Workload(
        "step of logistic regression, 1000x20",
        _labelled,
        train_step(logistic_loss),
        is_loop=True,
        by_hand=logistic_step_by_hand,
    ),
}
