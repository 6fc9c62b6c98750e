"""Where the matrix products come from: the OpenBLAS that NumPy's wheel brings along.

It is loaded already, and its C interface takes 64-bit sizes. Where NumPy was built otherwise, the
Fortran-free `cblas` of SciPy's wheel is used; where there is none, products are loops.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from pathlib import Path

from functrans.runtime import symbols

_PREFIXES = (
    ("scipy_cblas_", "64_", 64),
    ("cblas_", "64_", 64),
    ("scipy_cblas_", "", 32),
    ("cblas_", "", 32),
)


class NoBlas(RuntimeError):
    """No BLAS library with a C interface was found beside NumPy or SciPy."""


def _libraries() -> list[Path]:
    found: list[Path] = []
    for package in ("numpy", "scipy"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        home = Path(spec.origin).parent
        for folder in (home.parent / f"{package}.libs", home / ".dylibs", home / "_core"):
            found.extend(sorted(folder.glob("*openblas*")))
    return found


@functools.cache
def _interface() -> tuple[ctypes.CDLL, str, str, int]:
    for path in _libraries():
        library = ctypes.CDLL(str(path))
        for prefix, suffix, bits in _PREFIXES:
            if hasattr(library, f"{prefix}dgemm{suffix}"):
                return library, prefix, suffix, bits
    raise NoBlas("no OpenBLAS with a C interface was found in the NumPy or SciPy wheels.")


def integer_bits() -> int:
    """The width of BLAS integers: 64, or 32."""
    return _interface()[3]


@functools.cache
def gemm_symbol(kind: str) -> str:
    """The name under which `cblas_<kind>gemm` is known to LLVM; registers its address."""
    library, prefix, suffix, _ = _interface()
    function = getattr(library, f"{prefix}{kind}gemm{suffix}")
    name = f"ft_cblas_{kind}gemm"
    symbols.llvm().add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
    return name


def available() -> bool:
    """Whether a BLAS was found."""
    try:
        _interface()
    except NoBlas:
        return False
    return True
