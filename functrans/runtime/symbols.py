"""Addresses of C functions that compiled code calls by name: those of the C math library.

LLVM's JIT finds them by itself where the process exports them; registering them makes sure.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools

_UNARY = ("sin cos tan asin acos atan sinh cosh asinh acosh atanh exp2 log2 log10 cbrt erf erfc "
          "lgamma").split()  # fmt: skip
_BINARY = "atan2 hypot pow nextafter fmod".split()


@functools.cache
def register() -> None:
    """Tell LLVM where the math library is; once per process."""
    import llvmlite.binding  # noqa: PLC0415  (wanted only when something compiles)

    library = ctypes.CDLL(ctypes.util.find_library("m"))
    for name in (*_UNARY, *_BINARY):
        for symbol in (name, name + "f"):
            function = getattr(library, symbol, None)
            if function is not None:
                address = ctypes.cast(function, ctypes.c_void_p).value
                llvmlite.binding.add_symbol(symbol, address)
