"""LLVM text to machine code, through Numba's code generator.

Numba's own libraries optimize each function, then the module cheaply, then fully, which suits
code with reference counts. Ours has none: `LeanLibrary` runs one full pipeline. Numba is
imported here only, when the first program compiles.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

from functrans.runtime import symbols

ENTRY_PREFIX = "@ft_entry_"
_serial = itertools.count()


class NativeCode:
    """A compiled module: addresses of its entries, and its text."""

    def __init__(self, library: Any, prefix: str):
        self._library = library
        self._prefix = prefix

    def address(self, entry: str) -> int:
        """The address of the function that was `@ft_entry_...` in the text."""
        return self._library.get_pointer_to_function(self._prefix + entry)

    @property
    def llvm(self) -> str:
        """The optimized module."""
        return self._library.get_llvm_str()

    @property
    def asm(self) -> str:
        """The machine code as text."""
        return self._library.get_asm_str()


@functools.cache
def _numba() -> tuple[Any, Any]:
    """Numba's code generator with our pipeline, and the lock that all its users hold."""
    import numba.core.codegen as numba_codegen  # noqa: PLC0415  (0.2 s: see the module docstring)
    from numba.core.compiler_lock import global_compiler_lock  # noqa: PLC0415

    llvm = symbols.llvm()

    class LeanLibrary(numba_codegen.JITCodeLibrary):
        optimized = True

        def _optimize_functions(self, ll_module: Any) -> None:
            ll_module.data_layout = self._codegen._data_layout

        def _optimize_final_module(self) -> None:
            if not self.optimized:
                return
            tuning = llvm.create_pipeline_tuning_options(speed_level=3)
            tuning.loop_vectorization = True
            # Unrolling doubles compile time, and a loop unrolled whole is no longer vectorized.
            # Emission writes out the short loops that gain from it.
            tuning.loop_unrolling = False
            builder = llvm.create_pass_builder(self._codegen._tm, tuning)
            builder.getModulePassManager().run(self._final_module, builder)
            _refuse_unknown_symbols(self._final_module)

    class LeanCodegen(numba_codegen.JITCPUCodegen):
        _library_class = LeanLibrary

        def _check_llvm_bugs(self) -> None:
            """Numba asks after a bug in reading decimal numbers; ours are hexadecimal."""

    return LeanCodegen("functrans"), global_compiler_lock


def _refuse_unknown_symbols(module: Any) -> None:
    """Raise for a C function that this platform lacks: LLVM would end the process."""
    for function in module.functions:
        name = function.name
        known = not function.is_declaration or name.startswith("llvm.")
        if not known and symbols.llvm().address_of_symbol(name) is None:
            raise RuntimeError(
                f"compiled code needs the C function {name}, which this platform's libraries lack. "
                "Leave the part that uses it uncompiled."
            )


def compile_llvm(text: str, *, optimized: bool = True) -> NativeCode:
    """Compile a module; `optimized=False` is for text that gains little from it."""
    codegen, lock = _numba()
    with lock:
        symbols.register()
        # All modules share one symbol table: entries get names of their own.
        unique = f"functrans_{next(_serial)}"
        module = symbols.llvm().parse_assembly(
            text.replace(ENTRY_PREFIX, f"@{unique}_{ENTRY_PREFIX[1:]}")
        )
        module.name = unique
        library = codegen.create_library(unique)
        library.optimized = optimized
        library.add_llvm_module(module)
        library.finalize()
    return NativeCode(library, f"{unique}_")


@functools.cache
def provide(name: str, text: str) -> None:
    """Compile `@ft_entry_<name>` of `text` for the process: other modules call it `@ft_<name>`."""
    address = compile_llvm(text).address(f"{ENTRY_PREFIX[1:]}{name}")
    symbols.llvm().add_symbol(f"ft_{name}", address)
