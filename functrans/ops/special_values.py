"""NumPy implementations of the elementwise primitives that are not a NumPy ufunc as they stand.

SciPy is imported here only, and when a function that needs it first runs: `import scipy.special`
costs more than the rest of this package.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from functrans.core import Tracer


def scalar_or_array(x: Any) -> Any:
    """A 0-d array as the NumPy scalar that NumPy's ufuncs return; other values as they are."""
    return x[()] if type(x) is np.ndarray and x.ndim == 0 else x


def masked_mul(t: Any, d: Any) -> Any:
    """t * d, and t (a zero) wherever t is exactly zero."""
    with np.errstate(all="ignore"):
        y = t * d
        total = np.add.reduce(y, axis=None)
        if total == total:  # no nan anywhere: nothing to mask
            return y
        return scalar_or_array(np.where(t == 0, np.zeros_like(t), y))


def may_vanish(b: Any) -> bool:
    """Whether a divisor can be zero: true for traced values, else looked up."""
    return True if isinstance(b, Tracer) else not np.all(b)


def rsqrt(x: Any) -> Any:
    """1 / sqrt(x)."""
    return 1 / np.sqrt(x)


def logistic(x: Any) -> Any:
    """1 / (1 + exp(-x)), without overflow: exp only sees the non-positive of x and -x."""
    if np.iscomplexobj(x):
        return 1 / (1 + np.exp(-x))
    small = np.exp(-np.abs(x))
    return scalar_or_array(np.where(np.signbit(x), small, np.ones_like(small)) / (1 + small))


def special(name: str) -> Any:
    """The function of `scipy.special` of this name."""
    import scipy.special  # noqa: PLC0415

    return getattr(scipy.special, name)


def _special_in_dtype(name: str, x: Any) -> Any:
    """A function of SciPy's, whose results of float16 have a wider dtype."""
    return special(name)(x).astype(np.result_type(x), copy=False)


def erf(x: Any) -> Any:
    """The error function."""
    return _special_in_dtype("erf", x)


def erfc(x: Any) -> Any:
    """1 - erf(x), accurate where erf is near 1."""
    return _special_in_dtype("erfc", x)


def erf_inv(x: Any) -> Any:
    """The inverse of erf."""
    return _special_in_dtype("erfinv", x)


def lgamma(x: Any) -> Any:
    """log |gamma(x)|."""
    return _special_in_dtype("gammaln", x)


def digamma(x: Any) -> Any:
    """The derivative of lgamma."""
    return _special_in_dtype("psi", x)


def trigamma(x: Any) -> Any:
    """The derivative of digamma; by reflection for x <= 0 (DLMF 5.15.6)."""
    zeta, dtype = special("zeta"), np.result_type(x)
    x = np.asarray(x, np.float64)  # near the poles pi needs all its digits
    positive = np.where(x > 0, x, 1 - x)
    tail = zeta(2, positive)
    with np.errstate(all="ignore"):
        reflected = np.square(np.pi / np.sin(np.pi * x)) - tail
    return scalar_or_array(np.where(x > 0, tail, reflected).astype(dtype, copy=False))


def minus_two_zeta3(x: Any) -> Any:
    """The derivative of trigamma for x > 0: -2 zeta(3, x) (DLMF 25.11.17); nan elsewhere."""
    with np.errstate(all="ignore"):
        out = np.where(x > 0, -2 * special("zeta")(3, x), np.nan)
    return scalar_or_array(out.astype(np.result_type(x), copy=False))


def make_complex(re: Any, im: Any) -> Any:
    """re + i im, without the arithmetic that would turn inf into nan."""
    out = np.empty(
        np.broadcast_shapes(np.shape(re), np.shape(im)), np.result_type(re, np.complex64)
    )
    out.real = re
    out.imag = im
    return scalar_or_array(out)


def select(pred: Any, x: Any, y: Any) -> Any:
    """x where pred else y."""
    return scalar_or_array(np.where(pred, x, y))


def population_count(x: Any) -> Any:
    """The number of set bits, in the dtype of x (two's complement: NumPy counts those of |x|)."""
    bits = np.asarray(x).view(f"u{np.asarray(x).dtype.itemsize}")
    return scalar_or_array(np.bitwise_count(bits).astype(np.result_type(x)))


def convert(x: Any, *, dtype: np.dtype) -> Any:
    """x.astype(dtype); the cast from complex to real is meant, so it does not warn."""
    x = np.asarray(x)
    if x.dtype == dtype:
        return scalar_or_array(x)
    if x.dtype.kind == "c" and dtype.kind not in "cb":
        x = x.real
    return scalar_or_array(x.astype(dtype))


def identity(x: Any) -> Any:
    """x."""
    return x
