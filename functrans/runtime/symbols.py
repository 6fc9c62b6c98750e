"""Addresses of C functions that compiled code calls by name.

The C math library, the few special functions that only SciPy has, and the interpreter.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

from functrans.runtime import python_objects


@functools.cache
def llvm() -> Any:
    """The module `llvmlite.binding`; importing it takes 40 ms, which only compiled programs pay."""
    import llvmlite.binding  # noqa: PLC0415

    return llvmlite.binding


@functools.cache
def resolve(name: str) -> int:
    """The address of a C function or object that compiled code names.

    Raises RuntimeError for a C function that this platform lacks.
    """
    found = python_objects.addresses().get(name)
    if found is None and name.startswith(_VECTOR_PREFIX):
        found = _address_in(_vector_library(), name)
    if found is None and name in _SPECIAL:
        found = _special(name)
    if found is None:
        found = _address_in(_math_library(), name)
    if found is None:
        raise RuntimeError(
            f"compiled code needs the C function {name}, which this platform's libraries lack. "
            "Leave the part that uses it uncompiled."
        )
    return found


def _address_in(library: ctypes.CDLL | None, name: str) -> int | None:
    function = getattr(library, name, None)
    return None if function is None else address(function)


def _math_library() -> ctypes.CDLL:
    # Where there is no global symbol table, Microsoft's C runtime has the same functions.
    return ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)


# How the x86-64 vector function ABI names its instruction sets, and their vectors in bytes.
_VECTOR_PREFIX = "_ZGV"
_VECTOR_SETS = (("avx512f", "e", 64), ("avx2", "d", 32), ("sse4.2", "b", 16))


@functools.cache
def vector_variants(name: str, arguments: int, itemsize: int) -> tuple[tuple[int, str], ...]:
    """Vector versions of a function of the C math library: (lanes, symbol), widest first.

    They are those of the GNU C library (libmvec), with errors of at most 4 ulps; elsewhere there
    are none, and loops call the function once per element.
    """
    library, found = _vector_library(), []
    features = llvm().get_host_cpu_features() if library else {}
    for feature, letter, width in _VECTOR_SETS:
        symbol = f"{_VECTOR_PREFIX}{letter}N{width // itemsize}{'v' * arguments}_{name}"
        if features.get(feature) and hasattr(library, symbol):
            found.append((width // itemsize, symbol))
    return tuple(found)


@functools.cache
def _vector_library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libmvec.so.1")
    except OSError:
        return None


_SPECIAL = {"ft_digamma": "__pyx_fuse_1psi"}


def _special(name: str) -> int:
    """SciPy's `double f(double, int)`; SciPy is imported when a program first wants it."""
    from scipy.special import cython_special  # noqa: PLC0415  (0.2 s, for one function)

    return scipy_function(cython_special, _SPECIAL[name], "double (double, int")


def address(function: Any) -> int:
    """Where a ctypes function is."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def scipy_function(module: Any, name: str, signature: str) -> int:
    """The address of a C function of a Cython module, whose signature must begin as given."""
    capsule = module.__pyx_capi__[name]
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, (ctypes.py_object,)
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    text = get_name(capsule)
    if not text.decode().startswith(signature):
        raise ImportError(
            f"{module.__name__} has {name} as {text.decode()}, functrans calls it as {signature}"
            "...): this version of SciPy is not supported."
        )
    return get_pointer(capsule, text)


def low_level_callable(function: Any, user_data: Any) -> Any:
    """SciPy's object for a ctypes function that its routines call."""
    from scipy import LowLevelCallable  # noqa: PLC0415  (0.2 s, for who integrates with it)

    return LowLevelCallable(function, user_data)
