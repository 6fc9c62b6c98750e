"""`numpy.fft`: transforms of any axes, padded or cropped to any lengths.

Each is one `ops.fft` over the last axes, where the transformed ones are brought, and a factor for
`norm`. float16 is computed in single precision, with factors that NumPy rounds to float16.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from functrans import dtypes, ops
from functrans.numpy import manipulation
from functrans.numpy.dispatch import TRACED, implements_fft
from functrans.numpy.promotion import array, cast, inexact, normalize_axis
from functrans.numpy.ufuncs import conjugate, multiply
from functrans.ops.axes import inserted
from functrans.ops.fourier import INDEX, FftType, half

FFT, IFFT, RFFT, IRFFT = FftType
HALVES = (RFFT, IRFFT)
_OPPOSITE = {None: "forward", "backward": "forward", "ortho": "ortho", "forward": "backward"}

# ---------------------------------------------------------------------------- one transform


def transform_operand(x: Any, kind: FftType) -> Any:
    """An array-like in the dtype that is transformed: complex, for RFFT real."""
    x = inexact(x)
    if kind is not RFFT:
        return cast(x, dtypes.complex_dtype(x.dtype))
    if x.dtype.kind == "c":
        raise TypeError(
            f"rfft takes real numbers, got {dtypes.short_name(x.dtype)}: take fft, or x.real."
        )
    return cast(x, np.result_type(x.dtype, np.float32))


def _fitted(x: Any, axis: int, n: int) -> Any:
    """`x` with n elements along an axis: cropped, or padded with zeros at the end."""
    extent = x.shape[axis]
    if n <= extent:
        return ops.slice_axis(x, axis, 0, n)
    config = inserted(((0, 0, 0),) * (x.ndim - 1), axis, (0, n - extent, 0))
    return ops.pad(x, x.dtype.type(0), config=config)


def _factor(kind: FftType, points: int, norm: Any) -> float:
    """What the transform, which is that of norm="backward", is multiplied by."""
    if norm is None or norm == "backward":
        return 1
    if norm not in ("ortho", "forward"):
        raise ValueError(f'Invalid norm value {norm}; should be "backward", "ortho" or "forward".')
    size = float(points) if norm == "forward" else math.sqrt(points)
    return 1 / size if kind in (FFT, RFFT) else size


def _transform(
    a: Any, kind: FftType, lengths: Sequence[int], axes: Sequence[int], norm: Any
) -> Any:
    """The transform over distinct axes, brought to the end; lengths are those of the signal."""
    x, result = transform_operand(a, kind), inexact(a).dtype
    for n in lengths:
        if n < 1:
            raise ValueError(f"Invalid number of FFT data points ({n}) specified.")
    factor = _factor(kind, math.prod(lengths), norm)
    for axis, n in zip(axes, half(tuple(lengths)) if kind is IRFFT else lengths, strict=True):
        x = _fitted(x, axis, n)
    rest = [i for i in range(x.ndim) if i not in axes]
    # In any order but for the axis of half a spectrum: so in theirs, to permute as few as possible.
    size_of = dict(zip(axes, lengths, strict=True))
    places = sorted(axes, key=lambda i: (kind in HALVES and i == axes[-1], i))
    order, sizes = [*rest, *places], tuple(size_of[i] for i in places)
    y = ops.fft(manipulation.permute(x, order), fft_type=kind, fft_lengths=sizes)
    if factor != 1:
        y = ops.mul(y, y.dtype.type(factor))
    y = manipulation.permute(y, [order.index(i) for i in range(x.ndim)])
    return cast(y, dtypes.real_dtype(result)) if kind is IRFFT else y


def _transforms(
    a: Any, kind: FftType, lengths: Sequence[int], axes: Sequence[int], norm: Any
) -> Any:
    """The transform over any axes; over repeated ones several times, in NumPy's order."""
    if len(set(axes)) == len(axes):
        return _transform(a, kind, lengths, axes, norm)
    *rest, last = zip(lengths, axes, strict=True)
    if kind is IRFFT:
        steps = [*((IFFT, *row) for row in rest), (IRFFT, *last)]
    else:
        steps = [(kind, *last), *((FFT if kind is RFFT else kind, *row) for row in rest[::-1])]
    for step, n, axis in steps:
        a = _transform(a, step, [n], [axis], norm)
    return a


# ---------------------------------------------------------------------------- arguments


def _refuse_out(name: str, out: Any) -> None:
    if out is not None:
        raise TypeError(f"{name}(..., out=...) cannot be traced: use the result.")


def _along(a: Any, kind: FftType, n: Any, axis: Any, norm: Any) -> Any:
    x = array(a)
    if n is None:
        n = x.shape[axis]
        n = (n - 1) * 2 if kind is IRFFT else n
    return _transform(x, kind, [operator.index(n)], [normalize_axis(axis, x.ndim)], norm)


def _deprecated(what: str) -> None:
    warnings.warn(f"{what} (Deprecated in NumPy 2.0).", DeprecationWarning, stacklevel=5)


def _lengths_and_axes(x: Any, kind: FftType, s: Any, axes: Any) -> tuple[list[int], list[int]]:
    """The arguments of a transform over several axes, as NumPy completes them."""
    given = None if s is None else list(s)
    if axes is None:
        axes = range(-(x.ndim if given is None else len(given)), 0)
        if given is not None:
            _deprecated("`axes` should not be `None` if `s` is not `None`")
    extents = [x.shape[i] for i in axes]
    if kind in HALVES and not extents:
        raise IndexError("rfftn and irfftn need at least one axis.")
    defaults = extents.copy()
    if kind is IRFFT:
        defaults[-1] = (extents[-1] - 1) * 2
    if given is None:
        given = defaults
    elif len(given) != len(extents):
        raise ValueError("Shape and axes have different lengths.")
    elif None in given:
        _deprecated("`s` should hold no `None`")
        given = [d if n is None else n for n, d in zip(given, defaults, strict=True)]
    lengths = [operator.index(n) for n in given]
    lengths = [m if n == -1 else n for n, m in zip(lengths, extents, strict=True)]
    return lengths, [normalize_axis(i, x.ndim) for i in axes]


# ---------------------------------------------------------------------------- functions


def _over_axis(name: str, kind: FftType) -> Callable[..., Any]:
    def function(a: Any, n: Any = None, axis: int = -1, norm: Any = None, out: Any = None) -> Any:
        _refuse_out(name, out)
        return _along(a, kind, n, axis, norm)

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`numpy.fft.{name}`: n points along an axis."
    return implements_fft(name)(function)


def _over_axes(name: str, kind: FftType, default: Any) -> Callable[..., Any]:
    def function(
        a: Any, s: Any = None, axes: Any = default, norm: Any = None, out: Any = None
    ) -> Any:
        _refuse_out(name, out)
        x = array(a)
        lengths, places = _lengths_and_axes(x, kind, s, axes)
        return _transforms(x, kind, lengths, places, norm) if places else x

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`numpy.fft.{name}`: `s` points over `axes`."
    return implements_fft(name)(function)


fft = _over_axis("fft", FFT)
ifft = _over_axis("ifft", IFFT)
rfft = _over_axis("rfft", RFFT)
irfft = _over_axis("irfft", IRFFT)
fft2 = _over_axes("fft2", FFT, (-2, -1))
ifft2 = _over_axes("ifft2", IFFT, (-2, -1))
rfft2 = _over_axes("rfft2", RFFT, (-2, -1))
irfft2 = _over_axes("irfft2", IRFFT, (-2, -1))
fftn = _over_axes("fftn", FFT, None)
ifftn = _over_axes("ifftn", IFFT, None)
rfftn = _over_axes("rfftn", RFFT, None)
irfftn = _over_axes("irfftn", IRFFT, None)


@implements_fft("hfft")
def hfft(a: Any, n: Any = None, axis: int = -1, norm: Any = None, out: Any = None) -> Any:
    """`numpy.fft.hfft`: the real spectrum of a signal that is given by half."""
    _refuse_out("hfft", out)
    return _along(conjugate.traced(a), IRFFT, n, axis, _OPPOSITE.get(norm, norm))


@implements_fft("ihfft")
def ihfft(a: Any, n: Any = None, axis: int = -1, norm: Any = None, out: Any = None) -> Any:
    """`numpy.fft.ihfft`: the inverse of `hfft`."""
    _refuse_out("ihfft", out)
    return ops.conj(_along(a, RFFT, n, axis, _OPPOSITE.get(norm, norm)))


# ---------------------------------------------------------------------------- frequencies


def _spacing(n: Any, d: Any, device: Any) -> Any:
    """The difference of neighbouring frequencies: of n samples, d apart."""
    if not isinstance(n, (int, np.integer)):
        raise ValueError(f"n should be an integer, got {n!r}")
    if device not in (None, "cpu"):
        raise ValueError(f'Device not understood. Only "cpu" is allowed, but received: {device}')
    return 1.0 / (n * d)


@implements_fft("fftfreq")
def fftfreq(n: int, d: Any = 1.0, device: Any = None) -> Any:
    """`numpy.fft.fftfreq`; the distance of samples may be traced."""
    spacing = _spacing(n, d, device)
    if n < 0:
        raise ValueError(f"fftfreq needs a positive number of samples, got {n}.")
    k = ops.iota(dtype=INDEX, shape=(int(n),), dimension=0)
    is_positive = ops.lt(k, INDEX.type((n - 1) // 2 + 1))
    return multiply.traced(ops.select(is_positive, k, ops.sub(k, INDEX.type(n))), spacing)


@implements_fft("rfftfreq")
def rfftfreq(n: int, d: Any = 1.0, device: Any = None) -> Any:
    """`numpy.fft.rfftfreq`; the distance of samples may be traced."""
    spacing = _spacing(n, d, device)
    count = max(0, int(n) // 2 + 1)
    return multiply.traced(ops.iota(dtype=INDEX, shape=(count,), dimension=0), spacing)


def _rolled(a: Any, axes: Any, direction: int) -> Any:
    x = array(a)
    if axes is None:
        axes = range(x.ndim)
    elif isinstance(axes, (int, np.integer)):
        axes = (axes,)
    axes = tuple(axes)
    return TRACED[np.roll](x, tuple(direction * (x.shape[i] // 2) for i in axes), axes)


@implements_fft("fftshift")
def fftshift(x: Any, axes: Any = None) -> Any:
    """`numpy.fft.fftshift`: the frequency 0 in the middle."""
    return _rolled(x, axes, 1)


@implements_fft("ifftshift")
def ifftshift(x: Any, axes: Any = None) -> Any:
    """`numpy.fft.ifftshift`: the inverse of `fftshift`."""
    return _rolled(x, axes, -1)


__all__ = [
    "fft", "fft2", "fftfreq", "fftn", "fftshift", "hfft", "ifft", "ifft2", "ifftn", "ifftshift",
    "ihfft", "irfft", "irfft2", "irfftn", "rfft", "rfft2", "rfftfreq", "rfftn",
]  # fmt: skip
