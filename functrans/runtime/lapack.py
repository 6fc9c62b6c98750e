"""LAPACK and BLAS routines, called for each matrix of a batch.

The routines are those of the OpenBLAS that NumPy brings along (see `blas`), by their Fortran names;
where it does not export them, SciPy's, which are offered to Cython. They take every argument by
address. A *thunk* is a few lines of LLVM text that walk over a batch: the addresses of matrices
move on, those of integers point into the step's own numbers. It is compiled once per process for
each routine and form of call. Threads share the batch by chunks, each with scratch of its own.

OpenBLAS's threads wait for each other, which takes a hundred times longer where a core is not free,
so it is limited to one while a thunk runs; a single matrix of much work is left to all of them.

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

from functrans.runtime import blas, codegen, symbols, threads
from functrans.runtime.codegen import Unit

_BLAS = frozenset(("trsm", "trsv", "gemm", "symm"))
_COMPLEX_NAMES = {"orglq": "unglq", "syevd": "heevd"}
# Work of a chunk at least, in the units of `Call.work`, about 3 ns, and the least of a matrix.
CHUNK, LEAST_WORK = 1 << 13, 100
CHUNKS = 8  # at most: each costs scratch memory
OWN_THREADS = 1 << 28  # work of a single matrix from which OpenBLAS uses its own threads
_FORTRAN = (("scipy_", "_64_", 64), ("", "_64_", 64), ("scipy_", "_", 32), ("", "_", 32))


@dataclass(frozen=True, slots=True)
class Matrices:
    """An argument: a buffer of the step, of which each call takes the next `stride` bytes."""

    buffer: int
    stride: int = 0


@dataclass(frozen=True, slots=True)
class Scratch:
    """An argument: a buffer of the step, of which each chunk takes `stride` bytes to work in."""

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


Argument = Matrices | Scratch | Letter | Integer | One | Info
INFO = Info()
ONE = One()


def chunk_count(batch: int, work: int) -> int:
    """In how many chunks threads share a batch: its size decides, not the number of threads."""
    wanted = max(1, min(CHUNKS, batch, batch * max(work, LEAST_WORK) // CHUNK))
    return -(-batch // -(-batch // wanted)) if batch else 1


@dataclass(frozen=True, slots=True)
class Call:
    """A routine for every matrix of a batch.

    `copies` lists (to, from, bytes): buffers copied first, as LAPACK works in place. With `stops`
    the first failure ends the step; without, failures are left to the numbers that come out.
    `guard` is a buffer that holds one bool: where it is false the step has its second failure.
    `work` is about how much there is to do for a matrix.
    """

    routine: str
    dtype: np.dtype
    batch: int
    arguments: tuple[Argument, ...]
    copies: tuple[tuple[int, int, int], ...] = ()
    stops: bool = False
    guard: int | None = None
    work: int = 0

    def numbers(self) -> list[int]:
        """What the thunk reads.

        The batch, how many matrices are a chunk, whether OpenBLAS is limited to one thread, bytes
        to copy, then a number per matrix, scratch array and integer.
        """
        size = -(-self.batch // chunk_count(self.batch, self.work))
        is_limited = self.batch > 1 or self.work < OWN_THREADS
        out = [self.batch, size, int(is_limited), *(nbytes for _, _, nbytes in self.copies)]
        for a in self.arguments:
            if isinstance(a, Matrices | Scratch):
                out.append(a.stride)
            elif isinstance(a, Integer):
                out.append(a.value)
        return out

    def unit(self) -> Unit:
        """The thunk."""
        symbol = routine_symbol(self.routine, self.dtype.char.lower(), self.dtype.kind == "c")
        form = "".join(_form(a) for a in self.arguments)
        moves = "".join(f"_{to}from{source}" for to, source, _ in self.copies)
        name = f"{symbol[3:]}_{form}{moves}{'_stops' * self.stops}"
        name += "" if self.guard is None else f"_guard{self.guard}"
        return codegen.routine(name, _thunk_text(self, name, symbol), runs_passes=False)


def _form(a: Argument) -> str:
    if isinstance(a, Letter):
        return a.value
    if isinstance(a, Matrices | Scratch):
        return f"{'b' if isinstance(a, Matrices) else 's'}{a.buffer}"
    return type(a).__name__[0].lower()


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


_HEADER = 3  # numbers in front of those of copies


def _thunk_text(call: Call, name: str, symbol: str) -> str:
    """`i32 thunk(buffers, numbers, status)`: copies, then the routine for each of the batch."""
    before = []
    if call.guard is not None:
        before += [*_loaded("guard", "ptr", "buffers", call.guard), _GUARD]
    for i, (to, source, _) in enumerate(call.copies):
        for k, buffer in (("to", to), ("from", source)):
            before += _loaded(f"copy{i}.{k}", "ptr", "buffers", buffer)
        before += _loaded(f"copy{i}.size", "i64", "numbers", _HEADER + i)
        before.append(
            f"call void @llvm.memcpy.p0.p0.i64(ptr %copy{i}.to, ptr %copy{i}.from, "
            f"i64 %copy{i}.size, i1 false)"
        )
    whole = _THUNK.format(name=name, before="\n  ".join(before))
    declared = [_DECLARED, threads.POOL, threads.SHARED, *blas.holding_parts()]
    return "\n".join([*declared, _piece_text(call, name, symbol), whole])


def _piece_text(call: Call, name: str, symbol: str) -> str:
    """The routine for each matrix of some chunks."""
    lines, in_chunk, body, given, letters = [], [], [], [], []
    number = _HEADER + len(call.copies)
    for i, a in enumerate(call.arguments):
        if isinstance(a, Matrices | Scratch):
            lines += [*_loaded(f"a{i}", "ptr", "buffers", a.buffer)]
            lines += [*_loaded(f"step{i}", "i64", "numbers", number)]
            of, where = ("i", body) if isinstance(a, Matrices) else ("chunk", in_chunk)
            where.append(f"%at{i} = mul i64 %{of}, %step{i}")
            where.append(f"%x{i} = getelementptr i8, ptr %a{i}, i64 %at{i}")
        elif isinstance(a, Integer):
            lines.append(f"%x{i} = getelementptr i64, ptr %numbers, i64 {number}")
        elif isinstance(a, Letter):
            lines.append(f"%x{i} = alloca i8\n  store i8 {ord(a.value)}, ptr %x{i}")
            letters.append("i64 1")
        elif isinstance(a, One):
            lines += _one(f"x{i}", call.dtype)
        number += isinstance(a, Matrices | Scratch | Integer)
        given.append("ptr %info" if isinstance(a, Info) else f"ptr %x{i}")
    types = ", ".join(x.split()[0] for x in (*given, *letters))
    return f"declare void @{symbol}({types})" + _PIECE.format(
        name=name,
        before="\n  ".join(lines),
        in_chunk="\n  ".join(in_chunk),
        body="\n  ".join(body),
        call=f"call void @{symbol}({', '.join([*given, *letters])})",
        wrong="icmp ne i32 %code, 0" if call.stops else "icmp ne i32 0, 0",
    )


_DECLARED = """declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare i64 @llvm.umin.i64(i64, i64)"""
_GUARD = """%allow = load i8, ptr %guard
  %refused = icmp eq i8 %allow, 0
  br i1 %refused, label %refuse, label %allowed
refuse:
  ret i32 2
allowed:"""
# A chunk ends with its first failure; of all failures the first of the batch is reported.
_PIECE = """
define internal void @{name}.piece(ptr %env, i64 %begin, i64 %end) nounwind {{
entry:
  %buffers = load ptr, ptr %env
  %numbers.at = getelementptr ptr, ptr %env, i64 1
  %numbers = load ptr, ptr %numbers.at
  %failed = getelementptr ptr, ptr %env, i64 2
  %info = alloca i64
  %batch = load i64, ptr %numbers
  %size.at = getelementptr i64, ptr %numbers, i64 1
  %size = load i64, ptr %size.at
  {before}
  br label %start
start:
  %chunk = phi i64 [ %begin, %entry ], [ %chunk.next, %finished ]
  {in_chunk}
  %first = mul i64 %chunk, %size
  %beyond = add i64 %first, %size
  %last = call i64 @llvm.umin.i64(i64 %beyond, i64 %batch)
  br label %head
head:
  %i = phi i64 [ %first, %start ], [ %next, %fine ]
  %more = icmp slt i64 %i, %last
  br i1 %more, label %body, label %finished
body:
  store i64 0, ptr %info
  {body}
  {call}
  %code = load i32, ptr %info
  %wrong = {wrong}
  br i1 %wrong, label %report, label %fine
fine:
  %next = add i64 %i, 1
  br label %head
report:
  %reported = atomicrmw umin ptr %failed, i64 %i seq_cst
  br label %finished
finished:
  %chunk.next = add i64 %chunk, 1
  %some = icmp ult i64 %chunk.next, %end
  br i1 %some, label %start, label %done
done:
  ret void
}}"""
_THUNK = """
define i32 @ft_entry_{name}(ptr %buffers, ptr %numbers, ptr %status) nounwind {{
entry:
  %env = alloca [3 x ptr]
  store ptr %buffers, ptr %env
  %numbers.at = getelementptr ptr, ptr %env, i64 1
  store ptr %numbers, ptr %numbers.at
  %failed = getelementptr ptr, ptr %env, i64 2
  store i64 -1, ptr %failed
  %batch = load i64, ptr %numbers
  %size.at = getelementptr i64, ptr %numbers, i64 1
  %size = load i64, ptr %size.at
  %limited.at = getelementptr i64, ptr %numbers, i64 2
  %limited = load i64, ptr %limited.at
  {before}
  %all = add i64 %batch, %size
  %beyond = sub i64 %all, 1
  %chunks = udiv i64 %beyond, %size
  %holds = icmp ne i64 %limited, 0
  br i1 %holds, label %hold, label %run
hold:
  call void @ft_blas_hold()
  br label %run
run:
  call void @ft_shared(ptr @{name}.piece, ptr %env, i64 %chunks, i64 1)
  br i1 %holds, label %release, label %look
release:
  call void @ft_blas_release()
  br label %look
look:
  %first = load i64, ptr %failed
  %fine = icmp eq i64 %first, -1
  br i1 %fine, label %done, label %fail
fail:
  %number = getelementptr i64, ptr %status, i64 1
  store i64 %first, ptr %number
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
