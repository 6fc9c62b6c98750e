"""The programs that are timed, each written once for every library.

A workload builds a function and its arguments. `is_loop` says that the function is a train step:
it returns `(value, params)`, and the next call is given these params.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.libraries import Library


@dataclass(frozen=True)
class Workload:
    """A row of the table: `build(library)` returns the function and its arguments."""

    title: str
    build: Callable[[Library], tuple[Callable[..., Any], tuple[Any, ...]]]
    libraries: tuple[str, ...] = ("functrans", "jax")
    is_loop: bool = False


def mlp(np_, activation, params, x):
    """Return the outputs of a fully connected network."""
    *hidden, (w, b) = params
    for v, c in hidden:
        x = activation(np_.dot(x, v) + c)
    return np_.dot(x, w) + b


def mean_squared_error(np_, outputs, targets):
    """Return the mean of the squared differences."""
    return np_.mean((outputs - targets) ** 2)


def cross_entropy(np_, logits, targets):
    """Return the mean cross-entropy to one-hot targets."""
    shifted = logits - np_.max(logits, axis=1, keepdims=True)
    log_total = np_.log(np_.sum(np_.exp(shifted), axis=1))
    return np_.mean(log_total - np_.sum(shifted * targets, axis=1))


def network(library: Library, sizes, batch: int, *, is_classifier: bool = False):
    """Return `(loss, params, x, targets)`, in float32, the same numbers for every library."""
    np_ = library.np_
    rng = np.random.default_rng(0)
    params = [
        (
            rng.normal(0, 1 / np.sqrt(n), size=(n, m)).astype(np.float32),
            np.zeros(m, np.float32),
        )
        for n, m in itertools.pairwise(sizes)
    ]
    x = rng.normal(size=(batch, sizes[0])).astype(np.float32)
    if is_classifier:
        targets = np.eye(sizes[-1], dtype=np.float32)[rng.integers(sizes[-1], size=batch)]
        activation, distance = (lambda v: np_.maximum(v, 0)), cross_entropy
    else:
        targets = rng.normal(size=(batch, sizes[-1])).astype(np.float32)
        activation, distance = np_.tanh, mean_squared_error

    def loss(params, x, targets):
        return distance(np_, mlp(np_, activation, params, x), targets)

    asarray = library.asarray
    arrays = [(asarray(w), asarray(b)) for w, b in params]
    return loss, arrays, asarray(x), asarray(targets)


def train_step(sizes, batch: int, *, is_classifier: bool = False):
    """Return the builder of a jitted step: forward, backward and update."""

    def build(library: Library):
        loss, *args = network(library, sizes, batch, is_classifier=is_classifier)

        def step(params, x, targets):
            value, grads = library.value_and_grad(loss)(params, x, targets)
            return value, library.tree_map(lambda p, g: p - 0.05 * g, params, grads)

        return library.jit(step), tuple(args)

    return build


def eager_gradient(library: Library):
    """Return the gradient of a small network's loss, without jit."""
    loss, *args = network(library, (16, 32, 32, 1), 16)
    return library.value_and_grad(loss), tuple(args)


def scalar_call(library: Library):
    """Return the jitted derivative of x^2 sin(x), at a Python float."""
    np_ = library.np_
    return library.jit(library.grad(lambda x: x**2 * np_.sin(x))), (1.5,)


WORKLOADS = {
    "mlp_small": Workload(
        "train step, MLP 16-32-32-1, batch 16", train_step((16, 32, 32, 1), 16), is_loop=True
    ),
    "mlp_deep": Workload(
        "train step, MLP of 20 layers 8 wide, batch 8", train_step((8,) * 21, 8), is_loop=True
    ),
    "mlp_large": Workload(
        "train step, MLP 784-512-10, batch 128",
        train_step((784, 512, 10), 128, is_classifier=True),
        is_loop=True,
    ),
    "scalar": Workload("jitted derivative of x^2 sin(x), one scalar", scalar_call),
    "eager": Workload(
        "eager value and gradient, MLP 16-32-32-1, batch 16",
        eager_gradient,
        libraries=("functrans", "functrans on numpy", "autograd"),
    ),
}
