"""Activation functions for networks, under the names of `jax.nn`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.numpy import composites, promotion, scipy_special
from functrans.numpy.promotion import array, cast, inexact, scalar_like
from functrans.numpy.ufuncs import logaddexp, multiply

logsumexp = scipy_special.logsumexp


def softmax(x: Any, axis: Any = -1) -> Any:
    """exp(x) / sum(exp(x)) along an axis, without overflow."""
    return scipy_special.softmax(x, axis)


def log_softmax(x: Any, axis: Any = -1) -> Any:
    """log(softmax(x)) along an axis."""
    return scipy_special.log_softmax(x, axis)


def relu(x: Any) -> Any:
    """max(x, 0); its derivative at 0 is 0."""
    x = array(x)
    zero = scalar_like(0, x)
    return ops.select(ops.gt(x, zero), x, zero)


def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    return ops.logistic(inexact(x))


def softplus(x: Any) -> Any:
    """log(1 + exp(x)), without overflow."""
    return logaddexp.traced(x, 0)


def silu(x: Any) -> Any:
    """x * sigmoid(x), also called swish."""
    x = inexact(x)
    return ops.mul(x, ops.logistic(x))


swish = silu


def gelu(x: Any, approximate: bool = True) -> Any:
    """x times the normal distribution function of x; approximated with tanh, as in JAX."""
    x = inexact(x)
    if approximate:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))
        return x * (0.5 * (1 + ops.tanh(inner)))
    return 0.5 * x * ops.erfc(-x * scalar_like(math.sqrt(0.5), x))


def one_hot(x: Any, num_classes: int, *, dtype: Any = float, axis: int = -1) -> Any:
    """A new axis that is 1 at position `x` and 0 elsewhere; all 0 for `x` out of range."""
    x = array(x)
    axis = promotion.normalize_axis(axis, x.ndim + 1)
    wide = promotion.insert_axes(x, (axis,))
    shape = (*x.shape[:axis], num_classes, *x.shape[axis:])
    classes = ops.iota(dtype=x.dtype, shape=shape, dimension=axis)
    return cast(ops.eq(promotion.broadcast_to(wide, shape), classes), np.dtype(dtype))


def leaky_relu(x: Any, negative_slope: Any = 0.01) -> Any:
    """x where positive, else negative_slope * x."""
    x = inexact(x)
    return composites.choose(x >= 0, x, multiply.traced(negative_slope, x))


def elu(x: Any, alpha: Any = 1.0) -> Any:
    """x where positive, else alpha * (exp(x) - 1)."""
    x = inexact(x)
    positive = x > 0
    safe = ops.select(positive, scalar_like(0, x), x)
    return composites.choose(positive, x, multiply.traced(alpha, ops.expm1(safe)))


def log_sigmoid(x: Any) -> Any:
    """log(sigmoid(x)), without underflow."""
    x = inexact(x)
    return -softplus(-x)


def relu6(x: Any) -> Any:
    """min(max(x, 0), 6)."""
    x = array(x)
    return ops.min(relu(x), scalar_like(6, x))


def standardize(x: Any, axis: Any = -1, epsilon: Any = 1e-5) -> Any:
    """(x - mean) / sqrt(variance + epsilon) along an axis."""
    x = inexact(x)
    mean = np.mean(x, axis=axis, keepdims=True)
    variance = np.mean(np.square(x - mean), axis=axis, keepdims=True)
    return (x - mean) * ops.rsqrt(cast(variance + epsilon, dtypes.real_dtype(x.dtype)))


__all__ = [
    "elu",
    "gelu",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "one_hot",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "standardize",
    "swish",
]
