"""LAPACK and BLAS routines, called for each matrix of a batch.

The routines are those of the OpenBLAS that NumPy brings along (see `blas`), by their Fortran names;
where it does not export them, SciPy's, which are offered to Cython. They take every argument by
address. A *thunk* is a few lines of LLVM text that walk over a batch: the addresses of matrices
move on, those of integers point into the step's own numbers. It is compiled once per process for
each routine and form of call.

Integers are 64 bits wide in memory. A library with 32-bit integers reads their lower halves, so
only arrays of integers, such as pivots, must have its width (`integer_dtype`).
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from functrans.runtime import blas, codegen, symbols

_BLAS = frozenset(("trsm", "trsv", "gemm", "symm"))
_COMPLEX_NAMES = {"orglq": "unglq", "syevd": "heevd"}
_FORTRAN = (("scipy_", "_64_", 64), ("", "_64_", 64), ("scipy_", "_", 32), ("", "_", 32))


@dataclass(frozen=True, slots=True)
class Matrices:
    """An argument: a buffer of the step, of which each call takes the next `stride` bytes."""

    buffer: int
    stride: int = 0


@dataclass(frozen=True, slots=True)
class Letter:
    """An argument: one character."""

    value: str


@dataclass(frozen=True, slots=True)
class Integer:
    """An argument: an integer, kept among the numbers of the step."""

    value: int


@dataclass(frozen=True, slots=True)
class One:
    """An argument: the number 1 in the routine's dtype."""


@dataclass(frozen=True, slots=True)
class Info:
    """An argument: where the routine reports failure."""


Argument = Matrices | Letter | Integer | One | Info
INFO = Info()
ONE = One()


@dataclass(frozen=True, slots=True)
class Call:
    """A routine for every matrix of a batch.

    `copies` lists (to, from, bytes): buffers copied first, as LAPACK works in place. With `stops`
    the first failure ends the step; without, failures are left to the numbers that come out.
    `guard` is a buffer that holds one bool: where it is false the step has its second failure.
    """

    routine: str
    dtype: np.dtype
    batch: int
    arguments: tuple[Argument, ...]
    copies: tuple[tuple[int, int, int], ...] = ()
    stops: bool = False
    guard: int | None = None

    def numbers(self) -> list[int]:
        """What the thunk reads: batch, bytes to copy, then a number per matrix and integer."""
        out = [self.batch, *(nbytes for _, _, nbytes in self.copies)]
        for a in self.arguments:
            if isinstance(a, Matrices):
                out.append(a.stride)
            elif isinstance(a, Integer):
                out.append(a.value)
        return out

    def provide(self) -> str:
        """Make the thunk known to LLVM; returns its symbol."""
        symbol = routine_symbol(self.routine, self.dtype.char.lower(), self.dtype.kind == "c")
        form = "".join(_form(a) for a in self.arguments)
        moves = "".join(f"_{to}from{source}" for to, source, _ in self.copies)
        name = f"{symbol[3:]}_{form}{moves}{'_stops' * self.stops}"
        name += "" if self.guard is None else f"_guard{self.guard}"
        codegen.provide(name, _thunk_text(self, name, symbol))
        return f"ft_{name}"


def _form(a: Argument) -> str:
    if isinstance(a, Letter):
        return a.value
    return f"b{a.buffer}" if isinstance(a, Matrices) else type(a).__name__[0].lower()


# ---------------------------------------------------------------------------- routines


@functools.cache
def _library() -> tuple[ctypes.CDLL, str, str, int] | None:
    for path in blas.libraries():
        library = ctypes.CDLL(str(path))
        for prefix, suffix, bits in _FORTRAN:
            if all(hasattr(library, f"{prefix}{name}{suffix}") for name in ("dpotrf", "dgesdd")):
                return library, prefix, suffix, bits
    return None


def integer_dtype() -> np.dtype:
    """The dtype of arrays of integers that routines read and write."""
    found = _library()
    return np.dtype(np.int64 if found and found[3] == 64 else np.int32)


@functools.cache
def _address(name: str) -> int:
    found = _library()
    if found is not None and hasattr(found[0], f"{found[1]}{name}{found[2]}"):
        return symbols.address(getattr(found[0], f"{found[1]}{name}{found[2]}"))
    module = "cython_blas" if name[1:] in _BLAS else "cython_lapack"
    # Takes 0.3 s, and is wanted only where there is no other way.
    return symbols.scipy_function(importlib.import_module(f"scipy.linalg.{module}"), name, "void (")


def routine_name(routine: str, char: str, is_complex: bool) -> str:
    """The name in LAPACK: the letter of the dtype, and "un" for "or" in complex ones."""
    letter = {"f": "c", "d": "z"}[char] if is_complex else {"f": "s", "d": "d"}[char]
    return letter + (_COMPLEX_NAMES.get(routine, routine) if is_complex else routine)


@functools.cache
def routine_symbol(routine: str, char: str, is_complex: bool) -> str:
    """The name under which units call a routine; registers its address."""
    name = routine_name(routine, char, is_complex)
    codegen.use_symbol(f"ft_{name}", _address(name))
    return f"ft_{name}"


def workspace(
    routine: str,
    dtype: np.dtype,
    arguments: Sequence[Argument],
    answers: Sequence[tuple[int, np.dtype]],
) -> list[int]:
    """The best sizes of scratch arrays, asked of the routine itself.

    `arguments` are those of a call with -1 for each size of an array in question; the answers come
    in the first elements of the arguments at these positions, of these dtypes.
    """
    name = routine_name(routine, dtype.char.lower(), dtype.kind == "c")
    cells: list[Any] = []
    for a in arguments:
        if isinstance(a, Letter):
            cells.append(ctypes.create_string_buffer(a.value.encode()))
        else:
            cells.append((ctypes.c_int64 * 4)(a.value if isinstance(a, Integer) else 0))
    lengths = [ctypes.c_size_t(1) for a in arguments if isinstance(a, Letter)]
    call = ctypes.CFUNCTYPE(None)(_address(name))
    call(*[ctypes.cast(c, ctypes.c_void_p) for c in cells], *lengths)
    found = [np.frombuffer(bytes(cells[i]), kind)[0] for i, kind in answers]
    return [max(1, int(np.real(x) * (1 + 1e-6))) for x in found]  # f32 rounds large sizes


# ---------------------------------------------------------------------------- thunks


def _thunk_text(call: Call, name: str, symbol: str) -> str:
    """`i32 thunk(buffers, numbers, status)`: copies, then the routine for each of the batch."""
    lines = ["%info = alloca i64", "%batch = load i64, ptr %numbers"]
    for i, (to, source, _) in enumerate(call.copies):
        for k, buffer in (("to", to), ("from", source)):
            lines += _loaded(f"copy{i}.{k}", "ptr", "buffers", buffer)
        lines += _loaded(f"copy{i}.size", "i64", "numbers", 1 + i)
        lines.append(
            f"call void @llvm.memcpy.p0.p0.i64(ptr %copy{i}.to, ptr %copy{i}.from, "
            f"i64 %copy{i}.size, i1 false)"
        )
    body, given, letters = [], [], []
    number = 1 + len(call.copies)
    for i, a in enumerate(call.arguments):
        if isinstance(a, Matrices):
            lines += [*_loaded(f"a{i}", "ptr", "buffers", a.buffer)]
            lines += [*_loaded(f"step{i}", "i64", "numbers", number)]
            body.append(f"%at{i} = mul i64 %i, %step{i}")
            body.append(f"%x{i} = getelementptr i8, ptr %a{i}, i64 %at{i}")
        elif isinstance(a, Integer):
            lines.append(f"%x{i} = getelementptr i64, ptr %numbers, i64 {number}")
        elif isinstance(a, Letter):
            lines.append(f"%x{i} = alloca i8\n  store i8 {ord(a.value)}, ptr %x{i}")
            letters.append("i64 1")
        elif isinstance(a, One):
            lines += _one(f"x{i}", call.dtype)
        number += isinstance(a, (Matrices, Integer))
        given.append("ptr %info" if isinstance(a, Info) else f"ptr %x{i}")
    types = ", ".join(x.split()[0] for x in (*given, *letters))
    if call.guard is not None:
        lines += [*_loaded("guard", "ptr", "buffers", call.guard), _GUARD]
    return _LOOP.format(
        start="entry" if call.guard is None else "allowed",
        declared=f"declare void @{symbol}({types})",
        name=name,
        before="\n  ".join(lines),
        body="\n  ".join(body),
        call=f"call void @{symbol}({', '.join([*given, *letters])})",
        stops="%wrong = icmp ne i32 %code, 0" if call.stops else "%wrong = icmp ne i32 0, 0",
    )


_GUARD = """%allow = load i8, ptr %guard
  %refused = icmp eq i8 %allow, 0
  br i1 %refused, label %refuse, label %allowed
refuse:
  ret i32 2
allowed:"""
_LOOP = """declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
{declared}
define i32 @ft_entry_{name}(ptr %buffers, ptr %numbers, ptr %status) {{
entry:
  {before}
  br label %head
head:
  %i = phi i64 [ 0, %{start} ], [ %next, %fine ]
  %more = icmp slt i64 %i, %batch
  br i1 %more, label %body, label %done
body:
  store i64 0, ptr %info
  {body}
  {call}
  %code = load i32, ptr %info
  {stops}
  br i1 %wrong, label %failed, label %fine
fine:
  %next = add i64 %i, 1
  br label %head
failed:
  %number = getelementptr i64, ptr %status, i64 1
  store i64 %i, ptr %number
  ret i32 1
done:
  ret i32 0
}}"""


def _loaded(name: str, kind: str, table: str, position: int) -> list[str]:
    place = f"%{name}.place = getelementptr {kind}, ptr %{table}, i64 {position}"
    return [place, f"%{name} = load {kind}, ptr %{name}.place"]


def _one(name: str, dtype: np.dtype) -> list[str]:
    """The number 1 in memory, as a pair if it is complex."""
    part = "float" if dtype.char in "fF" else "double"
    lines = [f"%{name} = alloca [2 x {part}]", f"store {part} 1.0, ptr %{name}"]
    if dtype.kind == "c":
        lines.append(f"%{name}.im = getelementptr {part}, ptr %{name}, i64 1")
        lines.append(f"store {part} 0.0, ptr %{name}.im")
    return lines
