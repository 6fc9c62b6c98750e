"""The libraries compared, behind the few names that workloads are written against.

A loader returns a `Library` and may raise ImportError. What a library lacks raises AttributeError
of a module, or `Unavailable`; `measure.py` reports such a row as not available, and does not fail.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np


class Unavailable(Exception):
    """The library has no such function."""


class Absent:
    """Stands for what a library does not have: any use of it says so."""

    def __getattr__(self, name: str) -> Any:
        raise Unavailable(f"no {name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise Unavailable("no such transformation")


ABSENT: Any = Absent()


def _as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Library:
    """What a workload may use; `block` waits until a result is computed.

    `add_at(x, indices, values)` is `x` with values added at these rows, repeated ones too.
    """

    np_: Any
    grad: Callable[..., Any]
    value_and_grad: Callable[..., Any]
    jit: Callable[..., Any] = _as_it_is
    tree_map: Callable[..., Any] = ABSENT
    vmap: Callable[..., Any] = ABSENT
    jvp: Callable[..., Any] = ABSENT
    jacfwd: Callable[..., Any] = ABSENT
    hessian: Callable[..., Any] = ABSENT
    add_at: Callable[..., Any] = ABSENT
    lax: Any = ABSENT
    scipy: Any = ABSENT
    asarray: Callable[..., Any] = _as_it_is
    block: Callable[[Any], Any] = _as_it_is


def _functrans(namespace: str, dtype: str) -> Library:
    ft = importlib.import_module("functrans")
    np_ = importlib.import_module(namespace)
    return Library(
        np_, ft.grad, ft.value_and_grad, ft.jit, ft.tree.map, ft.vmap, ft.jvp, ft.jacfwd,
        ft.hessian, lambda x, i, v: ft.numpy.at(x, i).add(v), ft.lax, ft.scipy,
    )  # fmt: skip


def _jax(dtype: str) -> Library:
    jax = importlib.import_module("jax")
    importlib.import_module("jax.scipy.linalg")
    importlib.import_module("jax.scipy.special")
    jax.config.update("jax_enable_x64", dtype == "float64")
    return Library(
        jax.numpy, jax.grad, jax.value_and_grad, jax.jit, jax.tree.map, jax.vmap, jax.jvp,
        jax.jacfwd, jax.hessian, lambda x, i, v: x.at[i].add(v), jax.lax, jax.scipy,
        jax.numpy.asarray, jax.block_until_ready,
    )  # fmt: skip


def _autograd(dtype: str) -> Library:
    autograd = importlib.import_module("autograd")
    anp = importlib.import_module("autograd.numpy")
    return Library(anp, autograd.grad, autograd.value_and_grad)


def _numba(dtype: str) -> Library:
    importlib.import_module("numba")
    return Library(ABSENT, ABSENT, ABSENT)


def _torch(dtype: str, *, is_compiled: bool) -> Library:
    module = importlib.import_module("benchmarks.torch_library")
    return module.library(dtype, is_compiled=is_compiled)


def _pytensor(dtype: str) -> Library:
    return importlib.import_module("benchmarks.pytensor_library").library(dtype)


@dataclass(frozen=True)
class Entry:
    """How a library is found, and loaded for a dtype; `cache` names its on-disk cache's variable.

    `plain` and `warm` are the environments without and with an on-disk cache; "{}" stands for a
    fresh folder.
    """

    package: str
    load: Callable[[str], Library]
    plain: dict[str, str]
    warm: dict[str, str]


_FUNCTRANS = ({"FUNCTRANS_CACHE": "off"}, {"FUNCTRANS_CACHE": "{}"})
_JAX_WARM = {
    "JAX_COMPILATION_CACHE_DIR": "{}",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
_TORCH = {"TORCHINDUCTOR_CACHE_DIR": "{}"}

LIBRARIES: dict[str, Entry] = {
    "functrans": Entry("functrans", partial(_functrans, "functrans.numpy"), *_FUNCTRANS),
    "functrans on numpy": Entry("functrans", partial(_functrans, "numpy"), *_FUNCTRANS),
    "jax": Entry("jax", _jax, {}, _JAX_WARM),
    "torch": Entry("torch", partial(_torch, is_compiled=False), {}, {}),
    "torch compiled": Entry("torch", partial(_torch, is_compiled=True), _TORCH, {}),
    "pytensor": Entry("pytensor", _pytensor, {"PYTENSOR_FLAGS": "base_compiledir={}"}, {}),
    "autograd": Entry("autograd", _autograd, {}, {}),
    "numba": Entry("numba", _numba, {}, {}),
}


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Map over dicts, lists and tuples; for libraries that have no pytrees."""
    if isinstance(tree, dict):
        return {k: tree_map(function, v, *(o[k] for o in others)) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(tree_map(function, *vs) for vs in zip(tree, *others, strict=True))
    return function(tree, *others)


def tree_leaves(tree: Any) -> list[Any]:
    """Return the leaves of dicts (by sorted key), lists and tuples."""
    if isinstance(tree, dict):
        tree = [tree[k] for k in sorted(tree)]
    if isinstance(tree, (list, tuple)):
        return [leaf for part in tree for leaf in tree_leaves(part)]
    return [tree]


def with_dtype(args: Any, dtype: str) -> Any:
    """Return the NumPy arrays among the arguments in a float dtype; integers stay."""

    def convert(x: Any) -> Any:
        return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x

    return tree_map(convert, args)
