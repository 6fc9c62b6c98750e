"""`fft`: discrete Fourier transforms over the last axes of an array.

With w = exp(-2 pi i / n), for one axis of n points:

    FFT    X[k] = sum over j of x[j] w**(j k)
    IFFT   x[j] = (1 / n) sum over k of X[k] w**(-j k)
    RFFT   the first n // 2 + 1 elements of the FFT of real x; the rest mirror them
    IRFFT  the real x that has this half of a spectrum; imaginary parts of X[0], and of X[n / 2]
           for even n, are not read

Several axes are transformed one after another; of RFFT the last is the one that is cut in half, of
IRFFT the one that is completed. All are linear, IRFFT and RFFT over the reals.

Values are NumPy's: pocketfft, in the precision of the operand. Compiled programs call it too, as a
host step: it has passes written out for each small factor, and a transform for lengths that are
large primes. The return to Python costs about 50 us, as much as some thousand points.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans import dtypes
from functrans.core import get_aval
from functrans.ir import ShapedArray
from functrans.ops import axes, structural
from functrans.ops import elementwise as el
from functrans.ops.axes import Shape

INDEX = np.dtype(np.int64)


class FftType(enum.Enum):
    """Which of the four transforms; named as JAX's are."""

    FFT = 0
    IFFT = 1
    RFFT = 2
    IRFFT = 3

    def __str__(self) -> str:
        return self.name


_NUMPY = {
    FftType.FFT: (np.fft.fft, np.fft.fftn),
    FftType.IFFT: (np.fft.ifft, np.fft.ifftn),
    FftType.RFFT: (np.fft.rfft, np.fft.rfftn),
    FftType.IRFFT: (np.fft.irfft, np.fft.irfftn),
}


def half(lengths: Shape) -> Shape:
    """The extents of a spectrum of which the last axis is cut in half."""
    return (*lengths[:-1], lengths[-1] // 2 + 1)


def _check(x: ShapedArray, fft_type: FftType, lengths: Shape) -> None:
    if not isinstance(fft_type, FftType):
        raise TypeError(f"fft of {x}: fft_type must be a lax.FftType, got {fft_type!r}.")
    is_real = fft_type is FftType.RFFT
    if x.dtype.char not in ("fd" if is_real else "FD"):
        taken = "float32 and float64" if is_real else "complex64 and complex128"
        raise TypeError(
            f"fft with fft_type={fft_type} does not accept {x}: it takes {taken}. Convert with "
            "x.astype(...)."
        )
    what = f"fft of {x} with fft_type={fft_type}, fft_lengths={lengths}"
    if not 1 <= len(lengths) <= x.ndim:
        raise ValueError(
            f"{what}: fft_lengths has from 1 to {x.ndim} entries, one for each of the last axes, "
            "which are transformed."
        )
    if any(n < 1 for n in lengths):
        raise ValueError(f"{what}: a transform has at least one point along each axis.")
    needed = half(lengths) if fft_type is FftType.IRFFT else lengths
    if x.shape[-len(lengths) :] != needed:
        raise ValueError(
            f"{what}: the last extents must be {needed}. functrans.numpy.fft pads and crops; "
            "lax.fft does not."
        )


class Fft(axes.Structural):
    """The transform `fft_type` over the last axes, of `fft_lengths` points each."""

    def abstract_eval(
        self, x: ShapedArray, *, fft_type: FftType, fft_lengths: Shape
    ) -> ShapedArray:
        _check(x, fft_type, fft_lengths)
        lead = x.shape[: -len(fft_lengths)]
        if fft_type is FftType.RFFT:
            return ShapedArray((*lead, *half(fft_lengths)), dtypes.complex_dtype(x.dtype))
        is_real = fft_type is FftType.IRFFT
        dtype = dtypes.real_dtype(x.dtype) if is_real else x.dtype
        return ShapedArray((*lead, *fft_lengths), dtype)

    def impl(self, x: Any, *, fft_type: FftType, fft_lengths: Shape) -> Any:
        x = np.asarray(x)
        _check(get_aval(x), fft_type, fft_lengths)
        over_one, over_several = _NUMPY[fft_type]
        if len(fft_lengths) == 1:
            return over_one(x, fft_lengths[0])
        return over_several(x, fft_lengths, range(-len(fft_lengths), 0))

    # The rules of jax/_src/lax/fft.py. The matrix of the FFT, w**(j k), is symmetric.
    def transpose(self, ct: Any, x: Any, *, fft_type: FftType, fft_lengths: Shape) -> list[Any]:
        if fft_type is FftType.RFFT:
            return [_transpose_rfft(ct, fft_lengths)]
        if fft_type is FftType.IRFFT:
            return [_transpose_irfft(ct, fft_lengths)]
        return [self(ct, fft_type=fft_type, fft_lengths=fft_lengths)]

    def batch(
        self, size: int, args: Sequence[Any], dims: Sequence[Any], *, fft_lengths: Shape, **params
    ) -> Any:
        x, d = args[0], dims[0]
        if d >= len(x.shape) - len(fft_lengths):  # among the axes that are transformed
            x, d = axes.moveaxis(x, d, 0), 0
        return self(x, fft_lengths=fft_lengths, **params), d


fft = Fft("fft")


def _transpose_rfft(ct: Any, lengths: Shape) -> Any:
    """Re(sum over k of ct[k] w**(j k)): an IRFFT, which counts twice what has a mirror image."""
    points = math.prod(lengths)
    weights = _weights(ct.shape, lengths[-1], ct.dtype, alone=points, mirrored=points / 2)
    return fft(el.mul(el.conj(ct), weights), fft_type=FftType.IRFFT, fft_lengths=lengths)


def _transpose_irfft(ct: Any, lengths: Shape) -> Any:
    """(1 / n) sum over j of ct[j] w**(-j k), twice where k has a mirror image."""
    points = math.prod(lengths)
    out = fft(ct, fft_type=FftType.RFFT, fft_lengths=lengths)
    weights = _weights(out.shape, lengths[-1], out.dtype, alone=1 / points, mirrored=2 / points)
    return el.conj(el.mul(out, weights))


def _weights(shape: Shape, n: int, dtype: np.dtype, *, alone: float, mirrored: float) -> Any:
    """A number per element of half a spectrum: is k, or n - k, the same place of the whole one?"""
    k = structural.iota(dtype=INDEX, shape=shape, dimension=len(shape) - 1)
    is_alone = el.or_(el.eq(k, INDEX.type(0)), el.eq(el.add(k, k), INDEX.type(n)))
    return el.select(is_alone, axes.filled(dtype.type(alone), shape), dtype.type(mirrored))


__all__ = ["FftType", "fft"]
