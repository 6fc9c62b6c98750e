"""Random bits as a function: `random_bits(key, count)`.

Threefry-2x32 with 20 rounds, a block cipher without its cryptographic strength (Salmon, Moraes,
Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Each element depends on its
key and its count alone, so that loops over elements fuse and become vectors. The two 32-bit words
of a key, a count and a result are the halves of a uint64, the first one high.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from functrans.ir import ShapedArray
from functrans.ops.base import Elementwise

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # table 4 of the paper
_PARITY = 0x1BD11BDA  # SKEIN_KS_PARITY32
_U32, _U64 = np.dtype(np.uint32), np.dtype(np.uint64)
Words = tuple[Any, Any]


def rounds(key: Words, x: Words, word: Callable[..., Any], number: Callable[[int], Any]) -> Words:
    """The cipher on pairs of uint32, with arithmetic by name: `word("add", x, y)`."""
    schedule = (*key, word("xor", word("xor", *key), number(_PARITY)))
    a, b = (word("add", part, k) for part, k in zip(x, schedule, strict=False))
    for i in range(5):
        for distance in _ROTATIONS[i % 2]:
            a = word("add", a, b)
            left = word("shift_left", b, number(distance))
            right = word("shift_right", b, number(32 - distance))
            b = word("xor", a, word("or", left, right))
        a = word("add", a, schedule[(i + 1) % 3])
        b = word("add", b, word("add", schedule[(i + 2) % 3], number(i + 1)))
    return a, b


_NUMPY = {
    "add": np.add,
    "xor": np.bitwise_xor,
    "or": np.bitwise_or,
    "shift_left": np.left_shift,
    "shift_right": np.right_shift,
}


_BLOCK = 1 << 15  # elements: their words fit a cache of 1 MiB, and calls cost a tenth


def _cipher(key: Any, count: Any) -> Any:
    halves = [
        ((x >> np.uint64(32)).astype(_U32), x.astype(_U32)) for x in map(np.asarray, (key, count))
    ]
    with np.errstate(over="ignore"):
        high, low = rounds(halves[0], halves[1], lambda name, *xs: _NUMPY[name](*xs), np.uint32)
    return (high.astype(_U64) << np.uint64(32)) | low.astype(_U64)


class RandomBits(Elementwise):
    """`random_bits(key, count)`: 64 bits that look random, for each pair of uint64."""

    def __init__(self) -> None:
        super().__init__("random_bits", self._value, kinds="u", arity=2, scalar="")

    def abstract_eval(self, *avals: ShapedArray, **params: Any) -> ShapedArray:
        out = super().abstract_eval(*avals, **params)
        if out.dtype != _U64:
            raise TypeError(f"random_bits does not accept {out.dtype}; keys and counts are uint64.")
        return out

    def _value(self, key: Any, count: Any) -> Any:
        if np.size(count) <= _BLOCK:
            return _cipher(key, count)
        out = np.empty(count.shape, _U64)
        keys, counts, flat = (np.reshape(x, -1) for x in (key, count, out))
        for i in range(0, out.size, _BLOCK):
            part = slice(i, i + _BLOCK)
            flat[part] = _cipher(keys[part] if np.ndim(key) else key, counts[part])
        return out

    def lower(self, b: Any, key: Any, count: Any) -> Any:
        halves = [
            (b.convert(b.elementwise("shift_right", x, b.number(32, x)), _U32), b.convert(x, _U32))
            for x in (key, count)
        ]
        pair = rounds(halves[0], halves[1], b.elementwise, lambda n: b.number(n, halves[0][0]))
        high, low = (b.convert(x, _U64) for x in pair)
        return b.elementwise("or", b.elementwise("shift_left", high, b.number(32, high)), low)


random_bits = RandomBits()

__all__ = ["random_bits"]
