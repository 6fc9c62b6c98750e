"""Elementwise chains, normalizations and losses, with their gradients: fusion and reductions."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.libraries import Library
from benchmarks.workloads.workload import Workload, in_float64, normal


def chain(np_: Any, x: Any) -> Any:
    """Return the sum of a chain of elementwise functions."""
    return np_.sum(np_.tanh(x) * np_.exp(-x * x) + np_.log1p(x * x))


def chain_gradient(library: Library):
    """Return the gradient of `chain`."""
    return library.jit(library.grad(lambda x: chain(library.np_, x)))


def eager_chain_gradient(library: Library):
    """Return the gradient of `chain`, without jit."""
    return library.grad(lambda x: chain(library.np_, x))


def chain_gradient_by_hand():
    """Return the gradient of `chain` as a loop over all cores."""
    numba = importlib.import_module("numba")

    @numba.njit(parallel=True, fastmath=True, error_model="numpy")
    def gradient(x):
        result = np.empty_like(x)
        one, two = x.dtype.type(1), x.dtype.type(2)  # an int64 would make all float64
        for i in numba.prange(x.size):
            a = x[i]
            t, e = math.tanh(a), math.exp(-a * a)
            result[i] = (one - t * t) * e + two * a * (one / (one + a * a) - t * e)
        return result

    return gradient


def layernorm(np_: Any, x: Any, scale: Any, shift: Any) -> Any:
    """Return rows of mean 0 and variance 1, scaled and shifted."""
    centred = x - np_.mean(x, axis=-1, keepdims=True)
    variance = np_.mean(centred * centred, axis=-1, keepdims=True)
    return centred / np_.sqrt(variance + 1e-5) * scale + shift


def cross_entropy(np_: Any, logits: Any, targets: Any) -> Any:
    """Return the mean cross-entropy to one-hot targets."""
    shifted = logits - np_.max(logits, axis=1, keepdims=True)
    log_total = np_.log(np_.sum(np_.exp(shifted), axis=1))
    return np_.mean(log_total - np_.sum(shifted * targets, axis=1))


def one_hot(rng: np.random.Generator, n: int, classes: int) -> np.ndarray:
    """Return random one-hot rows."""
    return np.eye(classes)[rng.integers(classes, size=n)]


def layernorm_forward(library: Library):
    """Return layernorm; the last argument is for its gradient."""
    return library.jit(lambda x, scale, shift, weights: layernorm(library.np_, x, scale, shift))


def layernorm_gradient(library: Library):
    """Return value and gradients of a weighted sum of layernorm."""
    np_ = library.np_

    def loss(params, weights):
        return np_.mean(layernorm(np_, *params) * weights)

    gradient = library.value_and_grad(loss)
    return library.jit(lambda x, scale, shift, weights: gradient((x, scale, shift), weights))


def softmax_forward(library: Library):
    """Return the cross-entropy of logits."""
    return library.jit(lambda logits, targets: cross_entropy(library.np_, logits, targets))


def softmax_gradient(library: Library):
    """Return the cross-entropy of logits and its gradient."""
    loss = lambda logits, targets: cross_entropy(library.np_, logits, targets)  # noqa: E731
    return library.jit(library.value_and_grad(loss))


def logsumexp_forward(library: Library):
    """Return the logsumexp of each row."""
    return library.jit(lambda x: library.scipy.special.logsumexp(x, axis=1))


def logsumexp_gradient(library: Library):
    """Return the gradient of the sum of the rows' logsumexp."""
    np_ = library.np_
    return library.jit(library.grad(lambda x: np_.sum(library.scipy.special.logsumexp(x, axis=1))))


def _layernorm_inputs(n: int, m: int) -> Callable[..., tuple]:
    return lambda rng: (rng.normal(size=(n, m)), *rng.normal(size=(2, m)), rng.normal(size=(n, m)))


def _softmax_inputs(n: int, m: int) -> Callable[..., tuple]:
    return lambda rng: (2 * rng.normal(size=(n, m)), one_hot(rng, n, m))


# name -> (title, inputs of a shape, program)
_ROWS = {
    "layernorm": ("layernorm", _layernorm_inputs, layernorm_forward),
    "layernorm_grad": ("gradient of layernorm", _layernorm_inputs, layernorm_gradient),
    "softmax": ("softmax cross-entropy", _softmax_inputs, softmax_forward),
    "softmax_grad": ("gradient of softmax cross-entropy", _softmax_inputs, softmax_gradient),
    "logsumexp": ("logsumexp", normal, logsumexp_forward),
    "logsumexp_grad": ("gradient of logsumexp", normal, logsumexp_gradient),
}


def _of_rows() -> dict[str, Workload]:
    workloads = {}
    for name, (title, inputs, program) in _ROWS.items():
        small = Workload(f"{title}, 32x64", inputs(32, 64), program, other_inputs=inputs(48, 64))
        large = Workload(f"{title}, 1024x1024", inputs(1024, 1024), program, "large")
        workloads[f"{name}_small"] = small
        workloads[f"{name}_large"] = large
        workloads[f"{name}_large_f64"] = in_float64(large)
    return workloads


_CHAIN = "gradient of sum(tanh(x) exp(-x^2) + log1p(x^2))"
_SMALL = Workload(f"{_CHAIN}, n=1e3", normal(1000), chain_gradient)
_LARGE = Workload(
    f"{_CHAIN}, n=1e6", normal(10**6), chain_gradient, "large", by_hand=chain_gradient_by_hand
)
_EAGER = ("functrans", "functrans on numpy", "autograd")

WORKLOADS = {
    "chain_small": _SMALL,
    "chain_small_f64": in_float64(_SMALL),
    "chain_large": _LARGE,
    "chain_large_f64": in_float64(_LARGE),
    "eager_chain": Workload(
        f"eager {_CHAIN}, n=1e6", normal(10**6), eager_chain_gradient, "large", libraries=_EAGER
    ),
    **_of_rows(),
}
