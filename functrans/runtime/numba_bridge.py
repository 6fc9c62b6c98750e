"""Numba, imported when somebody first hands over a kernel or wants one, and the types it speaks in.

Importing it takes longer than everything else here together, so only this module does, late.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np


@functools.cache
def numba() -> Any:
    """The package, with its extension API loaded."""
    import numba  # noqa: PLC0415  (0.5 s, which only those who use it pay)
    import numba.core.cgutils  # noqa: PLC0415
    import numba.extending  # noqa: PLC0415
    import numba.np.arrayobj  # noqa: PLC0415

    return numba


def is_kernel(x: Any) -> bool:
    """Whether `x` is a function compiled by Numba's `njit`. Imports nothing."""
    dispatcher = sys.modules.get("numba.core.dispatcher")
    return dispatcher is not None and isinstance(x, dispatcher.Dispatcher)


@functools.cache
def scalar_type(dtype: np.dtype) -> Any:
    """Numba's type of the elements of an array. Raises TypeError where it has none."""
    if dtype.char == "e":
        raise TypeError(
            "Numba computes nothing with float16 on a CPU: convert, x.astype(np.float32), before "
            "and after."
        )
    return numba().from_dtype(dtype)


def array_type(dtype: np.dtype, ndim: int, *, readonly: bool = False) -> Any:
    """Numba's type of C-contiguous arrays."""
    return numba().types.Array(scalar_type(dtype), ndim, "C", readonly=readonly)
