"""A recurrent network learns to say what it heard four steps ago.

The network is a `scan` over time, its batch a `vmap`, a step of Adam one compiled program. To
recall a bit it must carry the last four along: the gradient has to come back through time.

    python examples/rnn.py
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import functrans as ft
from functrans import lax

DELAY, LENGTH, BATCH, WIDTH = 4, 24, 32, 24


class Outcome(NamedTuple):
    """Losses along the way, in bits, and the share of bits that are recalled at the end."""

    losses: list[float]
    accuracy: float


def init(rng):
    """Return the weights of a small network."""
    return {
        "hear": rng.normal(size=WIDTH),
        "recur": rng.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH),
        "bias": np.zeros(WIDTH),
        "say": rng.normal(size=WIDTH) / np.sqrt(WIDTH),
    }


def scores(params, bits):
    """Return a score per step, positive for the answer 1."""

    def step(h, bit):
        h = np.tanh(h @ params["recur"] + (2 * bit - 1) * params["hear"] + params["bias"])
        return h, h @ params["say"]

    return lax.scan(step, np.zeros(WIDTH), bits)[1]


def loss(params, batch):
    """Return the cross-entropy per bit, in bits, once there is something to recall."""
    said, wanted = ft.vmap(scores, in_axes=(None, 0))(params, batch)[:, DELAY:], batch[:, :-DELAY]
    return np.mean(np.logaddexp(0, said) - wanted * said) / np.log(2)


@ft.jit
def adam(params, first, second, i, batch):
    """Return the loss, and parameters and moments after a step (Kingma and Ba 2015)."""
    value, g = ft.value_and_grad(loss)(params, batch)
    first = ft.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, g)
    second = ft.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, g)
    rate = 0.01 * np.sqrt(1 - 0.999**i) / (1 - 0.9**i)
    new = ft.tree.map(lambda p, m, v: p - rate * m / (np.sqrt(v) + 1e-8), params, first, second)
    return value, new, first, second


def main() -> Outcome:
    """Train on random bits, and test on others."""
    rng = np.random.default_rng(0)

    def draw():
        return rng.integers(0, 2, size=(BATCH, LENGTH)).astype(float)

    params = init(rng)
    first = second = ft.tree.map(np.zeros_like, params)
    losses = []
    for i in range(1, 401):
        value, params, first, second = adam(params, first, second, float(i), draw())
        if i % 50 == 1 or i == 400:
            losses.append(float(value))
            print(f"step {i:4}: {value:.4f} bits per bit")
    bits = draw()
    said = ft.vmap(scores, in_axes=(None, 0))(params, bits)[:, DELAY:] > 0
    accuracy = float(np.mean(said == bits[:, :-DELAY]))
    print(f"recalled {100 * accuracy:.1f}% of new bits")
    assert accuracy > 0.99
    return Outcome(losses, accuracy)


if __name__ == "__main__":
    main()
