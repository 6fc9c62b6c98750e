"""LLVM text to machine code, through Numba's code generator.

Numba's own libraries optimize each function, then the module cheaply, then fully, which suits
code with reference counts. Ours has none: `LeanLibrary` runs the full pipeline once. Numba is
imported here only, when the first program compiles.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import threading
from typing import Any

from functrans.runtime import symbols

_serial = itertools.count()
_lock = threading.RLock()


class NativeCode:
    """A compiled module: addresses of its functions, and its text."""

    def __init__(self, library: Any, text: str):
        self._library = library
        self.llvm_input = text

    def address(self, name: str) -> int:
        """The address of a function."""
        return self._library.get_pointer_to_function(name)

    @property
    def llvm(self) -> str:
        """The optimized module."""
        return self._library.get_llvm_str()

    @property
    def asm(self) -> str:
        """The machine code as text."""
        return self._library.get_asm_str()


@functools.cache
def _codegen() -> Any:
    import numba.core.codegen as numba_codegen  # noqa: PLC0415  (0.2 s: see the module docstring)

    class LeanLibrary(numba_codegen.JITCodeLibrary):
        def _optimize_functions(self, ll_module: Any) -> None:
            ll_module.data_layout = self._codegen._data_layout

        def _optimize_final_module(self) -> None:
            manager, builder = self._codegen._module_pass_manager()
            manager.run(self._final_module, builder)
            self._final_module.verify()

    class LeanCodegen(numba_codegen.JITCPUCodegen):
        _library_class = LeanLibrary

    return LeanCodegen("functrans")


def compile_llvm(text: str, name: str) -> NativeCode:
    """Optimize and compile a module."""
    import llvmlite.binding as llvm  # noqa: PLC0415  (as above)
    from numba.core.compiler_lock import global_compiler_lock  # noqa: PLC0415

    symbols.register()
    codegen = _codegen()
    with _lock, global_compiler_lock:
        unique = "".join(c if c.isalnum() else "_" for c in name) + f"_{next(_serial)}"
        # All modules share one symbol table: drivers get names of their own.
        module = llvm.parse_assembly(text.replace("@driver_", f"@{unique}_driver_"))
        module.name = unique
        library = codegen.create_library(unique)
        library.add_llvm_module(module)
        library.finalize()
        code = NativeCode(library, text)
    code.prefix = unique  # type: ignore[attr-defined]
    return code


def prototype(count: int, *, release_gil: bool) -> Any:
    """The ctypes type of a driver of `count` array objects, an arena and a status address."""
    make = ctypes.CFUNCTYPE if release_gil else ctypes.PYFUNCTYPE
    return make(ctypes.c_int, *[ctypes.py_object] * count, ctypes.c_void_p, ctypes.c_void_p)
