"""Where the matrix products come from: the OpenBLAS that NumPy's wheel brings along.

It is loaded already, and its C interface takes 64-bit sizes. Where NumPy was built otherwise, the
OpenBLAS of SciPy's wheel is taken, or the Fortran interface that every SciPy offers to Cython,
behind a few instructions that give it the form of the C interface.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
from typing import Any

from functrans.runtime import codegen, symbols

_PREFIXES = (
    ("scipy_cblas_", "64_", 64),
    ("cblas_", "64_", 64),
    ("scipy_cblas_", "", 32),
    ("cblas_", "", 32),
)
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


def limit_threads(n: int) -> int | None:
    """Let OpenBLAS use at most `n` threads; returns what was allowed, None if that is unknown."""
    found = _thread_functions()
    if found is None:
        return None
    get, limit = found
    before = get()
    limit(ctypes.c_int(n))
    return before


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
