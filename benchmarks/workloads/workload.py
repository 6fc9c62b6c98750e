"""What a row of the table is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.libraries import Library

Program = Callable[..., Any]
COMPILED = ("functrans", "jax", "torch", "torch compiled", "pytensor")


@dataclass(frozen=True)
class Workload:
    """A program, written once for all libraries, and what it is called with.

    `inputs(rng)` returns the arguments, made by NumPy in float64; floats are converted to `dtype`.
    `program(library)` returns the function that is called. `is_loop` says that it is a train step:
    it returns `(value, params)`, and the next call is given these params. `other_inputs` have
    another batch size: how long does the first call at a second shape take? `by_hand` returns the
    same function in Numba's explicit loops.
    """

    title: str
    inputs: Callable[[np.random.Generator], tuple[Any, ...]]
    program: Callable[[Library], Program]
    group: str = "small"
    dtype: str = "float32"
    libraries: tuple[str, ...] = COMPILED
    is_loop: bool = False
    other_inputs: Callable[[np.random.Generator], tuple[Any, ...]] | None = None
    by_hand: Callable[[], Program] | None = None
    tolerance: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The libraries that run it."""
        return self.libraries if self.by_hand is None else (*self.libraries, "numba")


def in_float64(workload: Workload) -> Workload:
    """Return the same row in float64."""
    return replace(workload, title=f"{workload.title}, f64", dtype="float64")


def normal(*shape: int) -> Callable[[np.random.Generator], tuple[Any, ...]]:
    """Return the inputs of a function of one array of normal numbers."""
    return lambda rng: (rng.normal(size=shape),)
