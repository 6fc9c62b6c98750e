"""The libraries compared, behind the few names that workloads are written against."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Library:
    """What a workload may use; `block` waits until a result is computed."""

    np_: Any
    value_and_grad: Callable[..., Any]
    grad: Callable[..., Any]
    jit: Callable[..., Any]
    tree_map: Callable[..., Any]
    asarray: Callable[..., Any]
    block: Callable[[Any], Any]


def _as_it_is(value: Any) -> Any:
    return value


def _functrans(namespace: str) -> Library:
    ft = importlib.import_module("functrans")
    np_ = importlib.import_module(namespace)
    return Library(np_, ft.value_and_grad, ft.grad, ft.jit, ft.tree.map, _as_it_is, block=_as_it_is)


def _jax() -> Library:
    jax = importlib.import_module("jax")
    jnp = importlib.import_module("jax.numpy")
    return Library(
        jnp, jax.value_and_grad, jax.grad, jax.jit, jax.tree.map, jnp.asarray, jax.block_until_ready
    )


def _autograd() -> Library:
    autograd = importlib.import_module("autograd")
    anp = importlib.import_module("autograd.numpy")

    def absent(*args: Any) -> Any:
        raise TypeError("autograd has neither jit nor tree_map; give it eager workloads only.")

    return Library(
        anp, autograd.value_and_grad, autograd.grad, absent, absent, _as_it_is, block=_as_it_is
    )


# name -> (the package it needs, how it is loaded)
LIBRARIES: dict[str, tuple[str, Callable[[], Library]]] = {
    "functrans": ("functrans", lambda: _functrans("functrans.numpy")),
    "functrans on numpy": ("functrans", lambda: _functrans("numpy")),
    "jax": ("jax", _jax),
    "autograd": ("autograd", _autograd),
}
