"""Addresses of C functions that compiled code calls by name.

The C math library, the few special functions that only SciPy has, and the interpreter.
"""

from __future__ import annotations

import ctypes
import functools
import sys

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
def register() -> None:
    """Tell LLVM the addresses; once per process."""
    import llvmlite.binding  # noqa: PLC0415  (wanted only when something compiles)

    found = dict(python_objects.addresses())
    library = _math_library()
    for name in (*_UNARY, *_BINARY, *_COMPLEX):
        for symbol in (name, name + "f") if name not in _COMPLEX else (name,):
            function = getattr(library, symbol, None)
            if function is not None:
                found[symbol] = ctypes.cast(function, ctypes.c_void_p).value or 0
    for symbol, address in found.items():
        llvmlite.binding.add_symbol(symbol, address)


def _math_library() -> ctypes.CDLL:
    # Where there is no global symbol table, Microsoft's C runtime has the same functions.
    return ctypes.CDLL("ucrtbase" if sys.platform == "win32" else None)


_SPECIAL = {"erf_inv": "__pyx_fuse_0erfinv", "digamma": "__pyx_fuse_1psi"}


@functools.cache
def special(name: str) -> str:
    """The symbol of SciPy's `double f(double, int)` for `erf_inv` and `digamma`.

    SciPy is imported when a program first wants one.
    """
    import llvmlite.binding  # noqa: PLC0415  (as above)
    from scipy.special import cython_special  # noqa: PLC0415  (0.2 s, for two functions)

    capsule = cython_special.__pyx_capi__[_SPECIAL[name]]
    signature = ctypes.pythonapi.PyCapsule_GetName
    signature.restype, signature.argtypes = ctypes.c_char_p, (ctypes.py_object,)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    text = signature(capsule)
    if not text.startswith(b"double (double, int"):
        raise ImportError(f"scipy.special.cython_special has {name} as {text.decode()}")
    llvmlite.binding.add_symbol(f"ft_{name}", pointer(capsule, text))
    return f"ft_{name}"
