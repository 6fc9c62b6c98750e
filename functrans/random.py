"""Random numbers under the names of `jax.random`, and the same ones.

    key = random.key(0)
    key, subkey = random.split(key)
    x = random.normal(subkey, (3,))

There is no hidden state: a function of the same key gives the same numbers, eager, compiled or
under `vmap`, so a key is used once and `split` makes new ones. Keys are arrays uint32[2], the
words that `jax.random.key_data` gives; there is no key dtype. Bits, and what is made of them by
exact arithmetic, equal those of JAX's default generator (threefry2x32, partitionable) with
`jax_enable_x64`; see `ops/threefry.py`. Defaults are float64, int64 and uint64.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans import lax, ops
from functrans.core import is_weak
from functrans.numpy import promotion
from functrans.numpy.indexing import take
from functrans.numpy.promotion import array, as_shape, cast, normalize_axis, scalar_like

_U32, _U64, _F64 = np.dtype(np.uint32), np.dtype(np.uint64), np.dtype(np.float64)
Shape = int | Sequence[int]

# ---------------------------------------------------------------------------- keys


def key(seed: Any) -> Any:
    """The key of an integer seed; a Python int must fit 64 bits."""
    seed = np.int64(seed) if type(seed) is int else array(seed)
    if seed.shape or seed.dtype.kind not in "iu":
        raise TypeError(
            f"a seed is one integer, got {seed.dtype}{list(seed.shape)}. For several keys: "
            "split(key(seed), n), or vmap(key)."
        )
    return _as_key(cast(cast(seed, np.dtype(f"u{seed.dtype.itemsize}")), _U64))


PRNGKey = key


def key_data(keys: Any) -> Any:
    """The words of a key: the key itself."""
    _number_of(keys)
    return array(keys)


def split(key: Any, num: Shape = 2) -> Any:
    """`num` (an int, or a shape) new keys; they are along the first axes of the result."""
    return _as_key(_words(key, as_shape(num)))


def fold_in(key: Any, data: Any) -> Any:
    """A new key of a key and an integer, such as the number of a step; taken modulo 2**32."""
    data = array(data)
    if data.shape or data.dtype.kind not in "iu":
        raise TypeError(f"fold_in takes one integer, got {data.dtype}{list(data.shape)}.")
    return _as_key(ops.random_bits(_number_of(key), cast(cast(data, _U32), _U64)))


def _number_of(key: Any) -> Any:
    """A key as one uint64."""
    key = array(key)
    if key.shape != (2,) or key.dtype != _U32:
        raise TypeError(
            f"a key is uint32[2], got {key.dtype}{list(key.shape)}. Make one with "
            "random.key(seed); for an array of keys use vmap."
        )
    high, low = (
        cast(ops.reshape(ops.slice_axis(key, 0, i, i + 1), shape=()), _U64) for i in (0, 1)
    )
    return ops.or_(ops.shift_left(high, np.uint64(32)), low)


def _as_key(words: Any) -> Any:
    """uint64 as pairs of uint32 along a new last axis."""
    words = ops.reshape(words, shape=(*np.shape(words), 1))
    high = cast(ops.shift_right(words, np.uint64(32)), _U32)
    return ops.concatenate(high, cast(words, _U32), dimension=len(np.shape(words)) - 1)


# ---------------------------------------------------------------------------- bits


def _words(key: Any, shape: tuple[int, ...]) -> Any:
    """64 bits for each element: the cipher of its position."""
    counts = ops.iota(dtype=_U64, shape=(math.prod(shape),), dimension=0)
    return ops.random_bits(_number_of(key), ops.reshape(counts, shape=shape))


def bits(key: Any, shape: Shape = (), dtype: Any = np.uint64) -> Any:
    """Unsigned integers whose bits are random."""
    dtype = np.dtype(dtype)
    if dtype.kind != "u":
        raise TypeError(f"bits are of an unsigned integer dtype, got {dtype}.")
    words = _words(key, as_shape(shape))
    if dtype == _U64:
        return words
    return cast(
        ops.xor(cast(ops.shift_right(words, np.uint64(32)), _U32), cast(words, _U32)), dtype
    )


def uniform(key: Any, shape: Shape = (), dtype: Any = np.float64, minval: Any = 0.0,
            maxval: Any = 1.0) -> Any:  # fmt: skip
    """Numbers in [minval, maxval), evenly spread."""
    shape, dtype = as_shape(shape), _float_dtype("uniform", dtype)
    mantissa = np.finfo(dtype).nmant
    unsigned = np.dtype(f"u{dtype.itemsize}")
    kept = ops.shift_right(bits(key, shape, unsigned), unsigned.type(8 * dtype.itemsize - mantissa))
    # Below 2**mantissa: both the conversion and the product are exact.
    unit = ops.mul(cast(kept, dtype), dtype.type(2.0**-mantissa))
    if is_weak(minval) and is_weak(maxval) and (minval, maxval) == (0, 1):
        return unit
    low, high = (_like("uniform", x, shape, dtype) for x in (minval, maxval))
    return ops.max(low, ops.add(ops.mul(unit, ops.sub(high, low)), low))


def randint(key: Any, shape: Shape, minval: Any, maxval: Any, dtype: Any = np.int64) -> Any:
    """Integers in [minval, maxval); `minval` where there are none.

    They are remainders of twice the bits of the dtype, so that none is noticeably favoured.
    """
    shape, dtype = as_shape(shape), np.dtype(dtype)
    if dtype.kind not in "iu":
        raise TypeError(f"randint is of an integer dtype, got {dtype}.")
    bounds = [_integer(x) for x in (minval, maxval)]
    if dtype.itemsize < 4:  # drawn with 32 bits: the bias is as large as the interval is wide
        info, i32 = np.iinfo(dtype), np.dtype(np.int32)
        highest = (int(info.max), int(info.max) + 1)
        low, high = (
            _clipped(cast(x, i32), int(info.min), top)
            for x, top in zip(bounds, highest, strict=True)
        )
        return cast(randint(key, shape, low, high, i32), dtype)
    top = np.iinfo(dtype).max
    beyond = ops.gt(bounds[1], scalar_like(min(top, np.iinfo(bounds[1].dtype).max), bounds[1]))
    first, last = (
        _like("randint", _clipped(x, np.iinfo(dtype).min, top), shape, dtype) for x in bounds
    )
    span = _span(first, last, _like("randint", beyond, shape, np.dtype(bool)))
    unsigned = span.dtype
    high, low = (bits(k, shape, unsigned) for k in split(key))
    half = unsigned.type(1 << (4 * dtype.itemsize))
    factor = _remainder(half, span)
    factor = _remainder(ops.mul(factor, factor), span)  # 2**bits modulo the span
    offset = ops.add(ops.mul(_remainder(high, span), factor), _remainder(low, span))
    return ops.add(first, cast(_remainder(offset, span), dtype))


def _span(first: Any, last: Any, beyond: Any) -> Any:
    """How many integers to draw from, unsigned: 1 if there are none, 0 for all there are."""
    unsigned = np.dtype(f"u{first.dtype.itemsize}")
    empty = ops.le(last, first)
    with np.errstate(over="ignore"):
        width = cast(ops.sub(last, first), unsigned)
        span = ops.select(empty, unsigned.type(1), width)
        # A maxval above the dtype is 1 more than what it was clipped to.
        return ops.add(span, cast(ops.and_(beyond, ops.not_(empty)), unsigned))


def _remainder(x: Any, span: Any) -> Any:
    """x modulo the span; x itself for the span 0, which stands for all of them."""
    zero = ops.eq(span, scalar_like(0, span))
    return ops.select(zero, x, ops.fmod(x, ops.select(zero, ops.one_like(span), span)))


def _integer(x: Any) -> Any:
    x = array(x)
    return x if x.dtype.kind in "iu" else cast(x, np.dtype(np.int64))


def _clipped(x: Any, low: int, high: int) -> Any:
    """An integer moved into a range, of which it holds what its dtype holds."""
    own = np.iinfo(x.dtype)
    low, high = max(own.min, low), min(own.max, high)
    return ops.min(ops.max(x, scalar_like(low, x)), scalar_like(high, x))


def _float_dtype(name: str, dtype: Any) -> np.dtype:
    dtype = np.dtype(dtype)
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise TypeError(f"{name} is of a float dtype of up to 64 bits, got {dtype}.")
    return dtype


def _like(name: str, x: Any, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """A parameter of a distribution: a number, or an array that broadcasts to the shape."""
    x = cast(array(x), dtype)
    if not x.shape:
        return x
    if not _broadcasts(x.shape, shape):
        raise ValueError(f"{name} of shape {shape} has a parameter of shape {x.shape}.")
    return promotion.broadcast_to(x, shape)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    ends = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(m in (1, n) for m, n in ends)


# ---------------------------------------------------------------------------- distributions


def normal(key: Any, shape: Shape = (), dtype: Any = np.float64) -> Any:
    """Standard normal numbers; complex ones have the variance 1 in all."""
    shape, dtype = as_shape(shape), np.dtype(dtype)
    if dtype.kind == "c":
        part = np.dtype(f"f{dtype.itemsize // 2}")
        re, im = (normal(k, shape, part) for k in split(key))
        return ops.div(ops.complex(re, im), dtype.type(math.sqrt(2)))
    dtype = _float_dtype("normal", dtype)
    u = uniform(key, shape, dtype, np.nextafter(dtype.type(-1), dtype.type(0)), dtype.type(1))
    return ops.mul(dtype.type(math.sqrt(2)), ops.erf_inv(u))


def truncated_normal(key: Any, lower: Any, upper: Any, shape: Any = None,
                     dtype: Any = np.float64) -> Any:  # fmt: skip
    """Normal numbers given that they are in the open interval (lower, upper)."""
    dtype = _float_dtype("truncated_normal", dtype)
    given = promotion.broadcast_shapes(np.shape(lower), np.shape(upper))
    shape = given if shape is None else as_shape(shape)
    low, high = (_like("truncated_normal", x, shape, dtype) for x in (lower, upper))
    root = dtype.type(math.sqrt(2))
    u = uniform(key, shape, dtype, *(ops.erf(ops.div(x, root)) for x in (low, high)))
    y = ops.mul(root, ops.erf_inv(u))
    # Rounding could put it at, or out of, the ends.
    low, high = (lax.stop_gradient(x) for x in (low, high))
    y = ops.max(y, ops.nextafter(low, dtype.type(np.inf)))
    return ops.min(y, ops.nextafter(high, dtype.type(-np.inf)))


def exponential(key: Any, shape: Shape = (), dtype: Any = np.float64) -> Any:
    """Exponential numbers of mean 1."""
    u = uniform(key, shape, _float_dtype("exponential", dtype))
    return ops.neg(ops.log1p(ops.neg(u)))


def gumbel(key: Any, shape: Shape = (), dtype: Any = np.float64) -> Any:
    """Gumbel numbers: -log of exponential ones."""
    dtype = _float_dtype("gumbel", dtype)
    u = uniform(key, shape, dtype, np.finfo(dtype).tiny, 1.0)
    return ops.neg(ops.log(ops.neg(ops.log(u))))


def bernoulli(key: Any, p: Any = 0.5, shape: Any = None) -> Any:
    """True with probability `p`."""
    p = array(p)
    dtype = _float_dtype("bernoulli", p.dtype)
    shape = p.shape if shape is None else as_shape(shape)
    return ops.lt(uniform(key, shape, dtype), _like("bernoulli", p, shape, dtype))


def categorical(key: Any, logits: Any, axis: int = -1, shape: Any = None,
                replace: bool = True) -> Any:  # fmt: skip
    """Positions along `axis` with the probabilities softmax(logits).

    `shape` ends with that of the logits without the axis; what comes before are repetitions. The
    largest of logits to which Gumbel numbers are added is such a position; without replacement,
    the largest ones are (Kool, van Hoof and Welling, ICML 2019).
    """
    logits = array(logits)
    axis = normalize_axis(axis, logits.ndim)
    rest = (*logits.shape[:axis], *logits.shape[axis + 1 :])
    shape = rest if shape is None else as_shape(shape)
    count = len(shape) - len(rest)
    if count < 0 or not _broadcasts(rest, shape[count:]):
        raise ValueError(
            f"categorical: shape {shape} must end with {rest}, or what it broadcasts to."
        )
    repeats, rest = shape[:count], shape[count:]
    if not replace:
        rows = ops.moveaxis(
            ops.add(logits, gumbel(key, logits.shape, logits.dtype)), axis, -1 % logits.ndim
        )
        _, places = lax.top_k(rows, math.prod(repeats))
        places = ops.moveaxis(places, places.ndim - 1, 0)
        return ops.reshape(places, shape=shape)
    full = (*repeats, *rest[:axis], logits.shape[axis], *rest[axis:])
    noisy = ops.add(gumbel(key, full, logits.dtype), promotion.broadcast_to(logits, full))
    return ops.argmax(noisy, axis=count + axis, index_dtype=np.dtype(np.int64))


# ---------------------------------------------------------------------------- choices


def permutation(key: Any, x: Any, axis: int = 0, independent: bool = False) -> Any:
    """`x` shuffled along an axis, or range(x) shuffled; rows together unless `independent`."""
    x = array(x)
    if not x.shape:
        n = x.__index__()
        return _shuffled(key, ops.iota(dtype=np.dtype(np.int64), shape=(n,), dimension=0), 0)
    axis = normalize_axis(axis, x.ndim)
    if independent or x.ndim == 1:
        return _shuffled(key, x, axis)
    order = ops.iota(dtype=np.dtype(np.int64), shape=(x.shape[axis],), dimension=0)
    return take(x, _shuffled(key, order, 0), axis)


def _shuffled(key: Any, x: Any, axis: int) -> Any:
    """Sorted by random 32-bit keys, as often as makes equal ones improbable (as in JAX)."""
    size = max(1, x.size)
    for _ in range(math.ceil(3 * math.log(size) / math.log(2**32 - 1))):
        key, subkey = split(key)
        _, x = lax.sort((bits(subkey, x.shape, _U32), x), axis)
    return x


def choice(key: Any, a: Any, shape: Shape = (), replace: bool = True, p: Any = None,
           axis: int = 0) -> Any:  # fmt: skip
    """Elements of `a` along an axis, or integers below `a`; with probabilities `p`, if given."""
    shape, a = as_shape(shape), array(a)
    axis = normalize_axis(axis, a.ndim) if a.shape else 0
    n = a.shape[axis] if a.shape else a.__index__()
    draws = math.prod(shape)
    if draws and (n <= 0 or (not replace and draws > n)):
        raise ValueError(f"choice: {draws} draws of {n}. Draw fewer, or with replace=True.")
    if p is None and not replace:
        found = permutation(key, a if a.shape else n, axis)
        found = ops.slice_axis(found, axis, 0, draws)
    else:
        places = _choice_of(key, n, shape, replace, p)
        found = take(a, places, axis) if a.shape else places
    if not a.shape:
        return ops.reshape(found, shape=shape)
    return ops.reshape(found, shape=(*a.shape[:axis], *shape, *a.shape[axis + 1 :]))


def _choice_of(key: Any, n: int, shape: tuple[int, ...], replace: bool, p: Any) -> Any:
    """Positions below n."""
    if p is None:
        return randint(key, shape, 0, n)
    p = promotion.inexact(p)
    if p.shape != (n,):
        raise ValueError(f"choice: p has shape {p.shape}, for {n} elements it needs ({n},).")
    if replace:
        total = ops.cumsum(p, axis=0)
        last = ops.reshape(ops.slice_axis(total, 0, n - 1, n), shape=())
        u = ops.sub(p.dtype.type(1), uniform(key, shape, p.dtype))
        return ops.searchsorted(total, ops.mul(last, u), side="left")
    with np.errstate(divide="ignore"):
        noisy = ops.add(gumbel(key, (n,), p.dtype), ops.log(p))
    return ops.argtop_k(noisy, k=builtins.min(math.prod(shape), n))


__all__ = [
    "PRNGKey", "bernoulli", "bits", "categorical", "choice", "exponential", "fold_in", "gumbel",
    "key", "key_data", "normal", "permutation", "randint", "split", "truncated_normal", "uniform",
]  # fmt: skip
