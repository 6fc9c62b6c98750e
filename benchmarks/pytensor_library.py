"""PyTensor behind NumPy's names: a jitted function is built on symbols at its first call."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.libraries import ABSENT, Library, tree_leaves, tree_map

# From an environment of its own: not a dependency, so checked by nobody.
pytensor: Any = importlib.import_module("pytensor")
pt: Any = importlib.import_module("pytensor.tensor")


class PyTensorNumpy:
    """`pytensor.tensor`, with NumPy's meaning of the names that differ."""

    linalg = pt.linalg

    def __getattr__(self, name: str) -> Any:
        return getattr(pt, name)

    @staticmethod
    def diagonal(x: Any) -> Any:
        return pt.diag(x)

    @staticmethod
    def zeros(shape: Any, dtype: Any) -> Any:
        return pt.zeros((shape,), dtype=dtype)


def _symbol(x: Any) -> Any:
    x = np.asarray(x)
    return pt.tensor(dtype=x.dtype.name, shape=x.shape)


def _like(tree: Any, leaves: list[Any]) -> Any:
    """Return a tree with these leaves, in the order of `tree_leaves`."""
    if isinstance(tree, dict):
        filled = {k: _like(tree[k], leaves) for k in sorted(tree)}
        return {k: filled[k] for k in tree}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_like(part, leaves) for part in tree)
    return leaves.pop(0)


def jit(function: Any) -> Any:
    """Return a function that is compiled for the structure and shapes of its arguments."""
    compiled: dict[Any, Any] = {}

    def call(*args: Any) -> Any:
        leaves = tree_leaves(args)
        key = tuple(np.shape(x) for x in leaves)
        if key not in compiled:
            symbols = tree_map(_symbol, args)
            result = function(*symbols)
            native = pytensor.function(
                tree_leaves(symbols), tree_leaves(result), on_unused_input="ignore"
            )
            native.trust_input = True
            compiled[key] = native, result
        native, structure = compiled[key]
        return _like(structure, native(*leaves))

    return call


def value_and_grad(function: Any) -> Any:
    """Return symbols of the value and its gradient for the first argument."""

    def transformed(x: Any, *rest: Any) -> Any:
        value = function(x, *rest)
        return value, _like(x, pytensor.grad(value, tree_leaves(x)))

    return transformed


def _jvp(function: Any, primals: Any, tangents: Any) -> Any:
    value = function(*primals)
    return value, pytensor.gradient.Rop(value, list(primals), list(tangents))


def library(dtype: str) -> Library:
    """Return the library for one dtype."""
    pytensor.config.floatX = dtype

    def asarray(x: Any) -> Any:
        return np.asarray(x, dtype) if isinstance(x, float) else x

    return Library(
        np_=PyTensorNumpy(),
        grad=lambda function: lambda *args: value_and_grad(function)(*args)[1],
        value_and_grad=value_and_grad,
        jit=jit,
        tree_map=tree_map,
        vmap=ABSENT,
        jvp=_jvp,
        hessian=lambda f: lambda x: pytensor.gradient.hessian(f(x), x),
        add_at=lambda x, i, v: pt.inc_subtensor(x[i], v),
        scipy=SimpleNamespace(
            special=SimpleNamespace(logsumexp=lambda x, axis: pt.logsumexp(x, axis=axis)),
            linalg=SimpleNamespace(
                solve_triangular=lambda a, b, lower: pt.linalg.solve_triangular(a, b, lower=lower)
            ),
        ),
        asarray=asarray,
    )
