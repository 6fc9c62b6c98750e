"""Hamiltonian Monte Carlo on a logistic posterior: gradients inside loops inside compiled code.

A sample is the end of a path of leapfrog steps (a `fori_loop`) that is accepted or not; samples are
a `scan`, chains a `vmap`. The posterior has two dimensions, so a fine grid gives the exact means.

    python examples/hmc.py
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import functrans as ft
from functrans import lax, random

# Hours of study of twenty students, and who passed (as in scipy_minimize.py), centred.
HOURS = np.array([
    0.5, 0.75, 1, 1.25, 1.5, 1.75, 1.75, 2, 2.25, 2.5,
    2.75, 3, 3.25, 3.5, 4, 4.25, 4.5, 4.75, 5, 5.5,
]) - 2.8  # fmt: skip
PASSED = np.array([0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1, 1, 1, 1.0])
STEPS, SIZE = 12, 0.25


class Outcome(NamedTuple):
    """Means and standard deviations by sampling and by the grid; the rate of acceptance."""

    mean: np.ndarray
    deviation: np.ndarray
    exact_mean: np.ndarray
    exact_deviation: np.ndarray
    accepted: float


def energy(w):
    """Return minus the log-density: logistic likelihood, normal prior of deviation 2."""
    score = w[0] + w[1] * HOURS
    return np.sum(np.logaddexp(0, score) - PASSED * score) + np.sum(w**2) / 8


def leapfrog(w, momentum):
    """Return the end of a path along which energy and kinetic energy keep their sum, nearly."""
    slope = ft.grad(energy)

    def step(_, state):
        w, p = state
        p = p - SIZE / 2 * slope(w)
        w = w + SIZE * p
        return w, p - SIZE / 2 * slope(w)

    return lax.fori_loop(0, STEPS, step, (w, momentum))


def chain(key, count):
    """Return the samples of one chain, and how many of the paths were accepted."""

    def sample(w, key):
        first, second = random.split(key)
        momentum = random.normal(first, (2,), float)
        new, end = leapfrog(w, momentum)
        gain = energy(w) - energy(new) + (momentum @ momentum - end @ end) / 2
        accepted = np.log(random.uniform(second, (), float)) < gain
        w = np.where(accepted, new, w)
        return w, (w, accepted)

    _, (samples, accepted) = lax.scan(sample, np.zeros(2), random.split(key, count))
    return samples[100:], np.mean(accepted)


def on_grid():
    """Return means and deviations by summing over a grid."""
    points = np.stack(np.meshgrid(np.linspace(-5, 5, 401), np.linspace(-3, 6, 401)), -1)
    points = points.reshape(-1, 2)
    logs = -ft.jit(ft.vmap(energy))(points)
    weights = np.exp(logs - logs.max())
    mean = np.average(points, axis=0, weights=weights)
    return mean, np.sqrt(np.average((points - mean) ** 2, axis=0, weights=weights))


def main() -> Outcome:
    """Sample from eight chains, and compare."""
    keys = random.split(random.key(0), 8)
    run = ft.jit(ft.vmap(lambda key: chain(key, 4000)))
    samples, accepted = run(keys)
    samples = samples.reshape(-1, 2)
    exact_mean, exact_deviation = on_grid()
    mean, deviation = samples.mean(axis=0), samples.std(axis=0)
    print(f"accepted {np.mean(accepted):.3f} of {len(samples)} paths of {STEPS} steps")
    print("sampled: mean", mean, "deviation", deviation)
    print("exact:   mean", exact_mean, "deviation", exact_deviation)
    np.testing.assert_allclose(mean, exact_mean, atol=0.05)
    np.testing.assert_allclose(deviation, exact_deviation, rtol=0.05)
    return Outcome(mean, deviation, exact_mean, exact_deviation, float(np.mean(accepted)))


if __name__ == "__main__":
    main()
