"""Linear regression by gradient descent, on data made from known weights.

The step is jitted; the data and the true weights are those of "Dive into Deep Learning", 3.4.

    python examples/linear_regression.py
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import functrans as ft

TRUE_W = np.array([2.0, -3.4])
TRUE_B = 4.2


class Params(NamedTuple):
    """The model `x @ w + b`; a namedtuple is a pytree, so gradients come back as one."""

    w: np.ndarray
    b: np.ndarray | float


def loss(params: Params, x, y):
    """Return half the mean squared error."""
    return np.mean((x @ params.w + params.b - y) ** 2) / 2


@ft.jit
def step(params: Params, x, y):
    """Return the loss and the parameters after one step of gradient descent."""
    value, grads = ft.value_and_grad(loss)(params, x, y)
    return value, ft.tree.map(lambda p, g: p - 0.1 * g, params, grads)


def main(steps: int = 200) -> Params:
    """Recover the weights from 1000 noisy samples."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 2))
    y = x @ TRUE_W + TRUE_B + rng.normal(0, 0.01, size=1000)
    params = Params(w=np.zeros(2), b=np.float64(0))
    for i in range(steps):
        value, params = step(params, x, y)
        if i % 40 == 0:
            print(f"step {i:3}  loss {value:.6f}  w {params.w}  b {params.b:.4f}")
    print(f"found w {params.w} and b {params.b:.4f}; the data was made with {TRUE_W} and {TRUE_B}")
    return params


if __name__ == "__main__":
    main()
