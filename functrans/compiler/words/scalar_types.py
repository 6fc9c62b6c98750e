"""Scalars in LLVM text: their types, literals, and what instructions are appended to.

Booleans are `i1` in registers and `i8` in memory; complex numbers are pairs `{re, im}`, which LLVM
takes apart before it optimizes; float16 is computed in float32.
"""

from __future__ import annotations

import struct
from typing import Any, Protocol

import numpy as np

_FLOATS = {2: "half", 4: "float", 8: "double"}


class Body(Protocol):
    """The function body that instructions are appended to (`emission.FunctionBody`)."""

    def emit(self, text: str) -> str:
        """Append `name = text`; returns the name."""
        ...

    def need(self, declaration: str) -> None:
        """Make sure the module has this declaration or function."""
        ...


def llvm_type(dtype: np.dtype) -> str:
    """The type of a scalar of `dtype` in a register."""
    if dtype.kind == "b":
        return "i1"
    if dtype.kind == "f":
        return _FLOATS[dtype.itemsize]
    if dtype.kind == "c":
        part = _FLOATS[dtype.itemsize // 2]
        return f"{{{part}, {part}}}"
    return f"i{8 * dtype.itemsize}"


def memory_type(dtype: np.dtype) -> str:
    """The type of an element in memory: booleans take a byte."""
    return "i8" if dtype.kind == "b" else llvm_type(dtype)


def part_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype of the real and imaginary part of a complex dtype."""
    return np.dtype(f"f{dtype.itemsize // 2}")


def float_literal(value: float) -> str:
    """A float or double constant: the bits of the double in hexadecimal."""
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def literal(value: Any, dtype: np.dtype) -> str:
    """A scalar constant as an LLVM operand."""
    if dtype.kind == "b":
        return "true" if value else "false"
    if dtype.kind == "c":
        part = part_dtype(dtype)
        parts = (value.real, value.imag)
        return "{" + ", ".join(f"{llvm_type(part)} {literal(x, part)}" for x in parts) + "}"
    if dtype.kind == "f" and dtype.itemsize == 2:
        return f"0xH{np.float16(value).view(np.uint16):04X}"
    if dtype.kind == "f":
        return float_literal(float(dtype.type(value)))
    return str(int(value))
