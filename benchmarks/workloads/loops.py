"""Programs that live in loops: training, simulation, filters, samplers, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.libraries import Library
from benchmarks.workloads.workload import Workload, in_float64

_LIBRARIES = ("functrans", "jax")
LORENZ_STEPS, LORENZ_DT = 10_000, 1e-3


# ---------------------------------------------------------------------------- training


def descent(library: Library):
    """Return 100 steps of gradient descent on a logistic regression, in a fori_loop."""
    np_ = library.np_

    def loss(w, x, y):
        return np_.mean(np_.logaddexp(0.0, -y * (x @ w)))

    gradient = library.grad(loss)

    def run(w, x, y):
        return library.lax.fori_loop(0, 100, lambda i, w: w - 0.1 * gradient(w, x, y), w)

    return library.jit(run)


def _labelled(rng: np.random.Generator) -> tuple[Any, ...]:
    x = rng.normal(size=(1000, 20))
    return np.zeros(20), x, np.sign(x @ rng.normal(size=20))


def gru_gradient(library: Library):
    """Return value and gradient of the loss of a gated recurrent unit."""
    np_ = library.np_

    def sigmoid(v):
        return 1 / (1 + np_.exp(-v))

    def loss(params, xs, target):
        w, u, b = params
        n = u.shape[0]

        def step(h, x):
            a, r = x @ w + b, h @ u[:, : 2 * n]
            z, q = sigmoid(a[:, :n] + r[:, :n]), sigmoid(a[:, n : 2 * n] + r[:, n:])
            c = np_.tanh(a[:, 2 * n :] + (q * h) @ u[:, 2 * n :])
            h = (1 - z) * h + z * c
            return h, None

        h, _ = library.lax.scan(step, np_.zeros((xs.shape[1], n), xs.dtype), xs)
        return np_.mean((h - target) ** 2)

    return library.jit(library.value_and_grad(loss))


def _sequences(rng: np.random.Generator) -> tuple[Any, ...]:
    t, b, d, h = 100, 16, 8, 32
    params = rng.normal(size=(d, 3 * h)) / 3, rng.normal(size=(h, 3 * h)) / 6, np.zeros(3 * h)
    return params, rng.normal(size=(t, b, d)), rng.normal(size=(b, h))


# ---------------------------------------------------------------------------- simulation


def _lorenz_run(library: Library, start: Any, steps: int) -> Any:
    np_ = library.np_

    def field(s):
        x, y, z = s[0], s[1], s[2]
        return np_.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])

    def step(s, _):
        a = field(s)
        b = field(s + LORENZ_DT / 2 * a)
        c = field(s + LORENZ_DT / 2 * b)
        d = field(s + LORENZ_DT * c)
        return s + LORENZ_DT / 6 * (a + 2 * b + 2 * c + d), None

    return library.lax.scan(step, start, None, length=steps)[0]


def lorenz(library: Library):
    """Return the state after 10^4 Runge-Kutta steps of the Lorenz system."""
    return library.jit(lambda s: _lorenz_run(library, s, LORENZ_STEPS))


def lorenz_gradient(library: Library):
    """Return the gradient of a coordinate after 1000 steps with respect to the start."""
    return library.jit(library.grad(lambda s: _lorenz_run(library, s, 1000)[0]))


def lorenz_starts(library: Library):
    """Return the states after 1000 steps from many starts."""
    return library.jit(library.vmap(lambda s: _lorenz_run(library, s, 1000)))


def _start(rng: np.random.Generator) -> tuple[Any, ...]:
    return (np.array([1.0, 2.0, 20.0]),)


def _starts(rng: np.random.Generator) -> tuple[Any, ...]:
    return (np.array([1.0, 2.0, 20.0]) + rng.normal(size=(256, 3)),)


def heat(library: Library):
    """Return the temperatures after 100 steps of a five-point stencil."""
    np_ = library.np_

    def step(u, _):
        inside = (
            u[1:-1, 1:-1]
            + 0.1 * (u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4 * u[1:-1, 1:-1])
        )  # fmt: skip
        return np_.pad(inside, 1), None

    return lambda u: library.lax.scan(step, u, None, length=100)[0]


def heat_forward(library: Library):
    """Return the jitted stencil."""
    return library.jit(heat(library))


def heat_gradient(library: Library):
    """Return the gradient of a norm of the last temperatures with respect to the first."""
    np_, run = library.np_, heat(library)
    return library.jit(library.grad(lambda u: np_.sum(run(u) ** 2)))


def mandelbrot(library: Library):
    """Return the iterations until escape of each point: a while_loop under vmap."""
    np_ = library.np_

    def point(c):
        def go_on(s):
            return (s[0] < 100) & (s[1] * s[1] + s[2] * s[2] < 4)

        def step(s):
            i, x, y = s
            return i + 1, x * x - y * y + c[0], 2 * x * y + c[1]

        return library.lax.while_loop(go_on, step, (0, 0 * c[0], 0 * c[1]))[0]

    return library.jit(lambda c: library.vmap(point)(c) * np_.ones((), c.dtype))


def _points(rng: np.random.Generator) -> tuple[Any, ...]:
    x, y = np.meshgrid(np.linspace(-2, 0.5, 100), np.linspace(-1.2, 1.2, 100))
    return (np.stack([x.ravel(), y.ravel()], axis=1),)


# ---------------------------------------------------------------------------- statistics


def hamiltonian_sampler(library: Library):
    """Return 50 leapfrog trajectories of 10 steps on a Gaussian posterior."""
    np_ = library.np_

    def run(x, precision, momenta):
        gradient = library.grad(lambda x: -0.5 * x @ (precision @ x))

        def leap(state, _):
            x, p = state
            p = p + 0.05 * gradient(x)
            x = x + 0.1 * p
            return (x, p + 0.05 * gradient(x)), None

        def trajectory(x, p):
            before = x @ (precision @ x) + p @ p
            (y, q), _ = library.lax.scan(leap, (x, p), None, length=10)
            after = y @ (precision @ y) + q @ q
            x = np_.where(after - before < 1.0, y, x)
            return x, x

        return library.lax.scan(trajectory, x, momenta)[1]

    return library.jit(run)


def _posterior(rng: np.random.Generator) -> tuple[Any, ...]:
    a = rng.normal(size=(10, 10))
    return np.zeros(10), a @ a.T / 10 + np.eye(10), rng.normal(size=(50, 10))


def kalman_gradient(library: Library):
    """Return the gradient of the likelihood of a Kalman filter of 4 states and 1 measurement."""
    np_ = library.np_

    def loss(f, h, ys):
        q, r = 0.1 * np_.eye(4, dtype=ys.dtype), 0.5

        def step(state, y):
            m, p = state
            m, p = f @ m, f @ p @ f.T + q
            s = h @ p @ h + r
            k = (p @ h) / s
            e = y - h @ m
            return (m + k * e, p - np_.outer(k, h @ p)), np_.log(s) + e * e / s

        start = np_.zeros(4, ys.dtype), np_.eye(4, dtype=ys.dtype)
        return np_.sum(library.lax.scan(step, start, ys)[1])

    return library.jit(library.grad(loss, argnums=(0, 1)))


def _measurements(rng: np.random.Generator) -> tuple[Any, ...]:
    f = 0.9 * np.eye(4) + 0.05 * rng.normal(size=(4, 4))
    return f, rng.normal(size=4), rng.normal(size=500)


def _row(title: str, inputs: Any, program: Any, group: str = "small", **fields: Any) -> Workload:
    return Workload(title, inputs, program, group, libraries=_LIBRARIES, **fields)


WORKLOADS = {
    "descent": _row("logistic regression, 100 steps in fori_loop", _labelled, descent),
    "gru": _row("gradient of a GRU, T100 H32 B16", _sequences, gru_gradient, tolerance=1e-3),
    "lorenz": in_float64(_row("Lorenz, 10^4 Runge-Kutta steps", _start, lorenz, tolerance=1e-3)),
    "lorenz_grad": in_float64(_row("gradient of Lorenz, 1000 steps", _start, lorenz_gradient)),
    "lorenz_starts": in_float64(
        _row("Lorenz, 1000 steps of 256 starts", _starts, lorenz_starts, "large")
    ),
    "heat": _row("heat stencil 200x200, 100 steps", lambda r: (r.normal(size=(200, 200)),),
                 heat_forward, "large"),
    "heat_grad": _row("gradient of the heat stencil 200x200, 100 steps",
                      lambda r: (r.normal(size=(200, 200)),), heat_gradient, "large"),
    "mandelbrot": _row("Mandelbrot, while_loop of 10^4 points", _points, mandelbrot, "large",
                       tolerance=1e-2),
    "sampler": _row("Hamiltonian Monte Carlo, 50x10 leaps", _posterior, hamiltonian_sampler,
                    tolerance=1e-2),
    "kalman_grad": in_float64(
        _row("gradient of a Kalman filter, 4 states, T500", _measurements, kalman_gradient)
    ),
}  # fmt: skip
