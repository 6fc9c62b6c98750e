"""Large extents become numbers given at run time, so that another batch size is the same kernel.

    for i0 in range(100352):  # map            for i0 in range(n0):  # map
        t0 = a0[i0]                                t0 = a0[i0]
        t1 = t0 / np.float32(100352.0)             t1 = t0 / n1

What is small stays: LLVM unrolls and vectorizes loops of a known short extent better, and a layer's
width changes less often than a batch. Every loop has a number of its own, so that a batch as large
as a layer is wide is no other kernel; strides and literals of equal value are one number.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from functrans.loop_ir import (
    Affine,
    ArgUpdate,
    CheckIndex,
    Const,
    Extent,
    IndexValue,
    Kernel,
    Let,
    Load,
    Loop,
    Operand,
    Stmt,
    Store,
    StoreReduce,
    Update,
    While,
)

SMALL = 64  # what innermost loops, strides and bounds may be to stay in the code
SMALL_OUTER = 4  # what loops around others, literals and sizes of buffers may be
_INT64 = np.dtype(np.int64)
_LEAST = 2.0**-62  # what the inverse of an extent is larger than


def generalize(kernel: Kernel) -> tuple[Kernel, tuple[np.generic, ...]]:
    """The kernel with numbers for what is large, and their values here."""
    numbers = _Numbers()
    body = tuple(numbers.stmt(s) for s in kernel.body)
    params = tuple(
        replace(p, shape=(-1,)) if math.prod(p.shape) > SMALL_OUTER else p for p in kernel.params
    )
    names = tuple((name, value.dtype) for name, value in numbers.values.items())
    return replace(kernel, params=params, body=body, numbers=names), tuple(numbers.values.values())


class _Numbers:
    """The numbers found so far."""

    def __init__(self) -> None:
        self.values: dict[str, np.generic] = {}
        self._names: dict[_Value, str] = {}

    def new(self, value: np.generic) -> str:
        name = f"n{len(self.values)}"
        self.values[name] = value
        return name

    def name(self, value: np.generic) -> str:
        key = _Value(value)
        if key not in self._names:
            self._names[key] = self.new(value)
        return self._names[key]

    def extent(self, value: Extent, small: int) -> Extent:
        """The extent of a loop."""
        if isinstance(value, str) or abs(value) <= small:
            return value
        return self.new(np.int64(value))

    def size(self, value: Extent) -> Extent:
        """A stride, position or bound."""
        if isinstance(value, str) or abs(value) <= SMALL:
            return value
        return self.name(np.int64(value))

    def affine(self, a: Affine) -> Affine:
        terms = tuple((name, self.size(c)) for name, c in a.terms)
        return Affine(terms, self.size(a.offset))

    def operand(self, x: Operand) -> Operand:
        return self.name(x.value) if isinstance(x, Const) and _may_be_extent(x.value) else x

    def stmt(self, s: Stmt) -> Stmt:
        if isinstance(s, Loop):
            is_innermost = not any(isinstance(x, Loop) for x in s.body)
            extent = self.extent(s.extent, SMALL if is_innermost else SMALL_OUTER)
            return replace(s, extent=extent, body=tuple(self.stmt(x) for x in s.body))
        if isinstance(s, While):
            test, body = (tuple(self.stmt(x) for x in block) for block in (s.test, s.body))
            return replace(s, test=test, body=body)
        if isinstance(s, Let):
            return replace(s, args=tuple(self.operand(x) for x in s.args))
        if isinstance(s, Load):
            return replace(s, index=(self.affine(s.index[0]),))
        if isinstance(s, Store | StoreReduce):
            index = (self.affine(s.index[0]),)
            return replace(s, index=index, value=self.operand(s.value))
        if isinstance(s, Update):
            return replace(s, value=self.operand(s.value))
        if isinstance(s, ArgUpdate):
            return replace(s, index=self.affine(s.index), value=self.operand(s.value))
        if isinstance(s, IndexValue):
            return replace(s, index=self.affine(s.index))
        if isinstance(s, CheckIndex):
            return replace(s, bound=self.size(s.bound))
        return s


class _Value:
    """A number as a key: the same dtype and bits are the same number."""

    __slots__ = ("bits", "dtype")

    def __init__(self, value: np.generic):
        self.dtype, self.bits = value.dtype, value.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Value) and (self.dtype, self.bits) == (other.dtype, other.bits)

    def __hash__(self) -> int:
        return hash((self.dtype, self.bits))


def _may_be_extent(value: np.generic) -> bool:
    """Whether a literal may come from a shape: a large count, or the inverse of one."""
    if value.dtype == _INT64:
        return abs(int(value)) > SMALL_OUTER
    if value.dtype.kind != "f" or value.dtype.itemsize < 4 or not np.isfinite(value):
        return False
    size = abs(float(value))  # type: ignore[arg-type]
    if size < _LEAST:
        return False
    if size < 1 / SMALL_OUTER:
        size = 1 / size
        return abs(size - round(size)) <= size * float(np.finfo(value.dtype.char).eps)
    return size > SMALL_OUTER and size == round(size)
