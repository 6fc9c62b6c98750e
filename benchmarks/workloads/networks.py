"""Neural networks: train steps and gradients of fully connected, convolutional and attention."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from benchmarks.libraries import Library
from benchmarks.workloads.elementwise import cross_entropy, layernorm, one_hot
from benchmarks.workloads.workload import Workload

FEATURES, HEADS = 64, 4  # of the transformer block


def dense_params(rng: np.random.Generator, sizes) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return weights and biases of a fully connected network."""
    return [
        (rng.normal(0, 1 / math.sqrt(n), size=(n, m)), np.zeros(m))
        for n, m in itertools.pairwise(sizes)
    ]


def dense(np_: Any, activation: Any, params: Any, x: Any) -> Any:
    """Return the outputs of a fully connected network."""
    *hidden, (w, b) = params
    for v, c in hidden:
        x = activation(np_.dot(x, v) + c)
    return np_.dot(x, w) + b


def regression_loss(library: Library):
    """Return the mean squared error of a network with tanh."""
    np_ = library.np_
    return lambda params, x, y: np_.mean((dense(np_, np_.tanh, params, x) - y) ** 2)


def classification_loss(library: Library):
    """Return the cross-entropy of a network with relu."""
    np_ = library.np_
    relu = lambda v: np_.maximum(v, 0)  # noqa: E731
    return lambda params, x, y: cross_entropy(np_, dense(np_, relu, params, x), y)


def train_step(loss_of):
    """Return the program of a jitted step: forward, backward and update."""

    def program(library: Library):
        value_and_grad = library.value_and_grad(loss_of(library))

        def step(params, *data):
            value, grads = value_and_grad(params, *data)
            return value, library.tree_map(lambda p, g: p - 0.05 * g, params, grads)

        return library.jit(step)

    return program


def jitted_gradient(loss_of):
    """Return the program of a jitted value and gradient."""
    return lambda library: library.jit(library.value_and_grad(loss_of(library)))


def eager_gradient(library: Library):
    """Return the gradient of a small network's loss, without jit."""
    return library.value_and_grad(regression_loss(library))


def _regression(sizes, batch: int):
    return lambda rng: (
        dense_params(rng, sizes),
        rng.normal(size=(batch, sizes[0])),
        rng.normal(size=(batch, sizes[-1])),
    )


def _classification(sizes, batch: int):
    return lambda rng: (
        dense_params(rng, sizes),
        rng.normal(size=(batch, sizes[0])),
        one_hot(rng, batch, sizes[-1]),
    )


def per_example_gradients(library: Library):
    """Return the gradient of every example's loss."""
    gradient = library.grad(regression_loss(library))
    return library.jit(library.vmap(gradient, in_axes=(None, 0, 0)))


# ---------------------------------------------------------------------------- convolutions


def convolution_loss(library: Library):
    """Return the loss of two 3x3 convolutions, each with relu and 2x2 max pooling, and softmax."""
    np_ = library.np_

    def layer(x, w, b):
        x = library.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = np_.maximum(x + b, 0)
        n, height, width, channels = x.shape
        blocks = np_.reshape(x, (n, height // 2, 2, width // 2, 2, channels))
        return np_.max(blocks, axis=(2, 4))

    def loss(params, x, targets):
        *layers, (w, b) = params
        for v, c in layers:
            x = layer(x, v, c)
        features = np_.reshape(x, (x.shape[0], 7 * 7 * 32))
        return cross_entropy(np_, np_.dot(features, w) + b, targets)

    return loss


def _images(rng):
    shapes = (3, 3, 1, 16), (3, 3, 16, 32), (7 * 7 * 32, 10)
    params = [
        (rng.normal(0, 1 / math.sqrt(math.prod(shape[:-1])), size=shape), np.zeros(shape[-1]))
        for shape in shapes
    ]
    return params, rng.normal(size=(32, 28, 28, 1)), one_hot(rng, 32, 10)


# ---------------------------------------------------------------------------- attention


def gelu(np_: Any, x: Any) -> Any:
    """Return x times the normal distribution function, approximately (Hendrycks, Gimpel 2016)."""
    return 0.5 * x * (1 + np_.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def attention(np_: Any, params: Any, x: Any, mask: Any) -> Any:
    """Return multi-head self-attention of x: (batch, time, features)."""
    batch, time, width = x.shape[0], x.shape[1], FEATURES // HEADS
    q, k, v = (np_.reshape(x @ params[name], (batch, time, HEADS, width)) for name in "qkv")
    scores = np_.einsum("bthd,bshd->bhts", q, k) / math.sqrt(width) + mask
    weights = np_.exp(scores - np_.max(scores, axis=-1, keepdims=True))
    weights = weights / np_.sum(weights, axis=-1, keepdims=True)
    mixed = np_.einsum("bhts,bshd->bthd", weights, v)
    return np_.reshape(mixed, (batch, time, FEATURES)) @ params["out"]


def block(np_: Any, params: Any, x: Any, mask: Any) -> Any:
    """Return a transformer block of x, with normalization in front of its two halves."""
    x = x + attention(np_, params, layernorm(np_, x, *params["norm1"]), mask)
    hidden = gelu(np_, layernorm(np_, x, *params["norm2"]) @ params["up"])
    return x + hidden @ params["down"]


def transformer_forward(library: Library):
    """Return a jitted transformer block."""
    return library.jit(lambda params, x, mask: block(library.np_, params, x, mask))


def transformer_loss(library: Library):
    """Return the mean square of a transformer block's result."""
    np_ = library.np_
    return lambda params, x, mask: np_.mean(block(np_, params, x, mask) ** 2)


def _sequences(rng, batch: int = 4, time: int = 64):
    shapes = {name: (FEATURES, FEATURES) for name in ("q", "k", "v", "out")}
    shapes |= {"up": (FEATURES, 4 * FEATURES), "down": (4 * FEATURES, FEATURES)}
    params: dict[str, Any] = {
        name: rng.normal(0, 1 / math.sqrt(shape[0]), size=shape) for name, shape in shapes.items()
    }
    params |= {name: (np.ones(FEATURES), np.zeros(FEATURES)) for name in ("norm1", "norm2")}
    mask = np.where(np.tril(np.ones((time, time), bool)), 0.0, -1e9)
    return params, rng.normal(size=(batch, time, FEATURES)), mask


_SMALL, _DEEP, _LARGE = (16, 32, 32, 1), (8,) * 21, (784, 512, 10)

WORKLOADS = {
    "mlp_small": Workload(
        "train step, MLP 16-32-32-1, batch 16",
        _regression(_SMALL, 16),
        train_step(regression_loss),
        is_loop=True,
        other_inputs=_regression(_SMALL, 24),
    ),
    "mlp_deep": Workload(
        "train step, MLP of 20 layers 8 wide, batch 8",
        _regression(_DEEP, 8),
        train_step(regression_loss),
        is_loop=True,
        other_inputs=_regression(_DEEP, 12),
    ),
    "mlp_large": Workload(
        "train step, MLP 784-512-10, batch 128",
        _classification(_LARGE, 128),
        train_step(classification_loss),
        "large",
        is_loop=True,
        other_inputs=_classification(_LARGE, 96),
    ),
    "eager": Workload(
        "eager value and gradient, MLP 16-32-32-1, batch 16",
        _regression(_SMALL, 16),
        eager_gradient,
        libraries=("functrans", "functrans on numpy", "autograd"),
    ),
    "per_example_small": Workload(
        "per-example gradients, MLP 8-16-1, 64 examples",
        _regression((8, 16, 1), 64),
        per_example_gradients,
    ),
    "per_example_large": Workload(
        "per-example gradients, MLP 64-128-10, 256 examples",
        _regression((64, 128, 10), 256),
        per_example_gradients,
        "large",
    ),
    "cnn": Workload(
        "train step, CNN 28x28, 16 and 32 channels, batch 32",
        _images,
        train_step(convolution_loss),
        "large",
        is_loop=True,
    ),
    "transformer": Workload(
        "transformer block, 4x64x64, 4 heads", _sequences, transformer_forward, "large"
    ),
    "transformer_grad": Workload(
        "gradient of a transformer block, 4x64x64, 4 heads",
        _sequences,
        jitted_gradient(transformer_loss),
        "large",
    ),
}
