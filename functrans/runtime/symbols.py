"""Addresses of C functions that compiled code calls by name.

The C math library, the few special functions that only SciPy has, and the interpreter.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

from functrans.runtime import python_objects

_UNARY = (
    "sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh exp exp2 expm1 log log2 log10 "
    "log1p cbrt erf erfc lgamma tgamma"
).split()
_BINARY = "atan2 hypot pow nextafter fmod".split()
_COMPLEX = (
    "cexp clog csin ccos ctan casin cacos catan csinh ccosh ctanh casinh cacosh catanh csqrt cpow"
).split()


@functools.cache
def llvm() -> Any:
    """The module `llvmlite.binding`; importing it takes 40 ms, which only compiled programs pay."""
    import llvmlite.binding  # noqa: PLC0415

    return llvmlite.binding


@functools.cache
def register() -> None:
    """Tell LLVM the addresses; once per process."""
    found = dict(python_objects.addresses())
    library = _math_library()
    for name in (*_UNARY, *_BINARY, *_COMPLEX):
        for symbol in (name, name + "f") if name not in _COMPLEX else (name,):
            function = getattr(library, symbol, None)
            if function is not None:
                found[symbol] = address(function)
    for symbol, place in found.items():
        llvm().add_symbol(symbol, place)


def _math_library() -> ctypes.CDLL:
    # Where there is no global symbol table, Microsoft's C runtime has the same functions.
    return ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)


# How the x86-64 vector function ABI names its instruction sets, and their vectors in bytes.
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
        symbol = f"_ZGV{letter}N{width // itemsize}{'v' * arguments}_{name}"
        function = getattr(library, symbol, None) if features.get(feature) else None
        if function is not None:
            llvm().add_symbol(symbol, address(function))
            found.append((width // itemsize, symbol))
    return tuple(found)


@functools.cache
def _vector_library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libmvec.so.1")
    except OSError:
        return None


_SPECIAL = {"digamma": "__pyx_fuse_1psi"}


@functools.cache
def special(name: str) -> str:
    """The symbol of SciPy's `double f(double, int)` for "digamma".

    SciPy is imported when a program first wants it.
    """
    from scipy.special import cython_special  # noqa: PLC0415  (0.2 s, for one function)

    function = scipy_function(cython_special, _SPECIAL[name], "double (double, int")
    llvm().add_symbol(f"ft_{name}", function)
    return f"ft_{name}"


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
