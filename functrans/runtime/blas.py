"""Where the matrix products come from: the OpenBLAS that NumPy's wheel brings along.

It is loaded already, and its C interface takes 64-bit sizes. Where NumPy was built otherwise, the
OpenBLAS of SciPy's wheel is taken, or the Fortran interface that every SciPy offers to Cython,
behind a few instructions that give it the form of the C interface.

Its own threads wait for each other, which takes long where cores are not free. So what calls it
*holds* it to one thread meanwhile, and the last of those that do, of all programs that run at the
same time, gives back what was allowed.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import Any

from functrans.runtime import codegen, symbols

_PREFIXES = (
    ("scipy_cblas_", "64_", 64),
    ("cblas_", "64_", 64),
    ("scipy_cblas_", "", 32),
    ("cblas_", "", 32),
)
# Words of the block `ft.blas`: a lock, how many hold, and how many threads are given back to it.
_LOCK, _HOLDERS, _OWED = range(3)
_holds = (ctypes.c_int64 * 3)()
codegen.use_symbol("ft.blas", ctypes.addressof(_holds))
_SCALARS = {"s": "float", "d": "double", "c": "ptr", "z": "ptr"}  # how C passes alpha and beta


def integer_bits() -> int:
    """The width of BLAS integers: 64, or 32."""
    found = _c_interface()
    return found[3] if found else 32


@functools.cache
def gemm_symbol(kind: str) -> str:
    """The name under which units call `cblas_<kind>gemm`; makes it known to them."""
    found, name = _c_interface(), f"{kind}gemm"
    if found is None:
        function = symbols.scipy_function(_cython_blas(), name, "void (char *, char *, int *,")
        codegen.use_symbol(f"ft_fortran_{name}", function)
        codegen.provide(f"rows_{name}", _fortran_text(kind))
        return f"ft_rows_{name}"
    library, prefix, suffix, _ = found
    function = symbols.address(getattr(library, f"{prefix}{name}{suffix}"))
    codegen.use_symbol(f"ft_cblas_{name}", function)
    return f"ft_cblas_{name}"


def allowed_threads() -> int | None:
    """How many threads OpenBLAS may use; None if that is unknown."""
    found = _thread_functions()
    return None if found is None else found[0]()


def limit_threads(n: int) -> int | None:
    """Let OpenBLAS use at most `n` threads, once nobody holds it to one.

    Returns what was allowed, None if that is unknown.
    """
    return None if _thread_functions() is None else _limit()(n)


@functools.cache
def _limit() -> Callable[[int], int]:
    text = "\n".join([*holding_parts(), _LIMIT])
    unit = codegen.routine("blas_limit", text, runs_passes=False)
    return ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32)(codegen.addresses([unit])[0])


def _let_go() -> None:
    """In a forked child there are none of those that held.

    Where one was about to set a number, OpenBLAS may have been copied with its own lock taken, and
    would wait for ever to be given threads: so it stays held.
    """
    was_changing, holders, owed = _holds[_LOCK], _holds[_HOLDERS], _holds[_OWED]
    _holds[_LOCK], _holds[_HOLDERS] = 0, was_changing
    if holders and not was_changing and (found := _thread_functions()) is not None:
        found[1](ctypes.c_int(owed))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def holding_parts() -> list[str]:
    """What a module needs to call `@ft_blas_hold()` before products, `@ft_blas_release()` after."""
    get, limit = thread_symbols()
    declared = [_BLOCK, _YIELD, f"declare i32 @{get}()", f"declare void @{limit}(i32)"]
    return [*declared, _HOLD, _RELEASE]


@functools.cache
def thread_symbols() -> tuple[str, str]:
    """Names under which units ask for the number of OpenBLAS's threads, and change it."""
    found = _thread_functions()
    if found is None:
        codegen.provide("blas_get_threads", _GET_ONE)
        codegen.provide("blas_set_threads", _SET_NOTHING)
    else:
        codegen.use_symbol("ft_blas_get_threads", symbols.address(found[0]))
        codegen.use_symbol("ft_blas_set_threads", symbols.address(found[1]))
    return "ft_blas_get_threads", "ft_blas_set_threads"


_BLOCK = "@ft.blas = external global i64"
_HAS_YIELD = sys.platform != "win32"
_YIELD = "declare i32 @sched_yield()" if _HAS_YIELD else ""
# The lock is held for as long as OpenBLAS takes to set a number.
_LOCKED = f"""entry:
  %holders.at = getelementptr i64, ptr @ft.blas, i64 {_HOLDERS}
  %owed.at = getelementptr i64, ptr @ft.blas, i64 {_OWED}
  br label %lock
lock:
  %taken = atomicrmw xchg ptr @ft.blas, i64 1 seq_cst
  %is.free = icmp eq i64 %taken, 0
  br i1 %is.free, label %locked, label %wait
wait:
  {"%yielded = call i32 @sched_yield()" if _HAS_YIELD else ""}
  br label %lock
locked:
  %holders = load i64, ptr %holders.at"""
_UNLOCK = "store atomic i64 0, ptr @ft.blas seq_cst, align 8"
# What a fork copies is right at any point: who holds is counted before the limit is set, and still
# counted when it is lifted.
_HOLD = f"""define internal void @ft_blas_hold() {codegen.COLD} {{
{_LOCKED}
  %is.first = icmp eq i64 %holders, 0
  %more = add i64 %holders, 1
  br i1 %is.first, label %first, label %count
first:
  %allowed = call i32 @ft_blas_get_threads()
  %owed = sext i32 %allowed to i64
  store i64 %owed, ptr %owed.at
  store i64 %more, ptr %holders.at
  %several = icmp sgt i32 %allowed, 1
  br i1 %several, label %limit, label %done
limit:
  call void @ft_blas_set_threads(i32 1)
  br label %done
count:
  store i64 %more, ptr %holders.at
  br label %done
done:
  {_UNLOCK}
  ret void
}}"""
_RELEASE = f"""define internal void @ft_blas_release() {codegen.COLD} {{
{_LOCKED}
  %fewer = sub i64 %holders, 1
  %is.last = icmp eq i64 %fewer, 0
  %owed = load i64, ptr %owed.at
  %several = icmp sgt i64 %owed, 1
  %lifts = and i1 %is.last, %several
  br i1 %lifts, label %lift, label %done
lift:
  %allowed = trunc i64 %owed to i32
  call void @ft_blas_set_threads(i32 %allowed)
  br label %done
done:
  store i64 %fewer, ptr %holders.at
  {_UNLOCK}
  ret void
}}"""
_LIMIT = f"""define i32 @ft_entry_blas_limit(i32 %n) nounwind {{
{_LOCKED}
  %is.held = icmp ne i64 %holders, 0
  br i1 %is.held, label %later, label %now
later:
  %owed = load i64, ptr %owed.at
  %before.later = trunc i64 %owed to i32
  %owed.next = sext i32 %n to i64
  store i64 %owed.next, ptr %owed.at
  br label %done
now:
  %before.now = call i32 @ft_blas_get_threads()
  call void @ft_blas_set_threads(i32 %n)
  br label %done
done:
  %before = phi i32 [ %before.later, %later ], [ %before.now, %now ]
  {_UNLOCK}
  ret i32 %before
}}"""
_GET_ONE = "define i32 @ft_entry_blas_get_threads() {\n  ret i32 1\n}"
_SET_NOTHING = "define void @ft_entry_blas_set_threads(i32 %n) {\n  ret void\n}"


@functools.cache
def _thread_functions() -> tuple[Any, Any] | None:
    found = _c_interface()
    if found is None:
        return None
    library, prefix, suffix, _ = found
    stem = prefix.removesuffix("cblas_") + "openblas"
    get = getattr(library, f"{stem}_get_num_threads{suffix}", None)
    limit = getattr(library, f"{stem}_set_num_threads{suffix}", None)
    return None if get is None or limit is None else (get, limit)


def libraries() -> list[str]:
    """The files of OpenBLAS that NumPy's and SciPy's wheels bring along."""
    found: list[str] = []
    for package in ("numpy", "scipy"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        home = os.path.dirname(spec.origin)
        for folder in (f"{home}.libs", os.path.join(home, ".dylibs"), os.path.join(home, "_core")):
            names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
            found.extend(os.path.join(folder, name) for name in names if "openblas" in name)
    return found


@functools.cache
def _c_interface() -> tuple[ctypes.CDLL, str, str, int] | None:
    for path in libraries():
        library = ctypes.CDLL(str(path))
        for prefix, suffix, bits in _PREFIXES:
            if hasattr(library, f"{prefix}dgemm{suffix}"):
                return library, prefix, suffix, bits
    return None


def _cython_blas() -> Any:
    # Takes 0.3 s, and is wanted only where there is no other way.
    return importlib.import_module("scipy.linalg.cython_blas")


def _fortran_text(kind: str) -> str:
    """`cblas_<kind>gemm` for rows by Fortran's for columns: out.T = rhs.T @ lhs.T."""
    scalar = _SCALARS[kind]
    by_value = scalar != "ptr"
    integers = ("m", "n", "k", "lda", "ldb", "ldc")
    lines = [f"  %{x}.at = alloca i32\n  store i32 %{x}, ptr %{x}.at" for x in integers]
    for x in ("ta", "tb"):
        lines.append(f"  %{x}.is = icmp eq i32 %{x}, 112")  # CblasTrans
        lines.append(f"  %{x}.char = select i1 %{x}.is, i8 {ord('T')}, i8 {ord('N')}")
        lines.append(f"  %{x}.at = alloca i8\n  store i8 %{x}.char, ptr %{x}.at")
    if by_value:
        for x in ("alpha", "beta"):
            lines.append(f"  %{x}.at = alloca {scalar}\n  store {scalar} %{x}, ptr %{x}.at")
    at = ".at" if by_value else ""
    given = f"tb.at ta.at n.at m.at k.at alpha{at} b ldb.at a lda.at beta{at} c ldc.at".split()
    lines.append(f"  call void @ft_fortran_{kind}gemm({', '.join(f'ptr %{x}' for x in given)})")
    return "\n".join(
        [
            f"declare void @ft_fortran_{kind}gemm({', '.join(['ptr'] * 13)})",
            f"define void @ft_entry_rows_{kind}gemm(i32 %order, i32 %ta, i32 %tb, i32 %m, i32 %n, "
            f"i32 %k, {scalar} %alpha, ptr %a, i32 %lda, ptr %b, i32 %ldb, {scalar} %beta, "
            "ptr %c, i32 %ldc) {",
            *lines,
            "  ret void\n}",
        ]
    )
