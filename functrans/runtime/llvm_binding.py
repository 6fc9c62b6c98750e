"""LLVM by `llvmlite.binding`, as llvmlite documents it: slower than `llvm_library`, always right.

One context and one lock serve all modules, so they are compiled one after another.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any


@functools.cache
def _binding() -> Any:
    import llvmlite.binding as llvm  # noqa: PLC0415  (40 ms, which only compiled programs pay)

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


def version() -> str:
    """The version of LLVM."""
    return ".".join(map(str, _binding().llvm_version_info))


def host() -> str:
    """What tells one processor from another."""
    return f"{host_name()} {host_features()}"


@functools.cache
def host_name() -> str:
    """LLVM's name of this processor."""
    return _binding().get_host_cpu_name()


@functools.cache
def host_features() -> str:
    """The instruction sets of this processor: "+avx2,-avx512f,...", in order."""
    return _binding().get_host_cpu_features().flatten()


@functools.cache
def has_feature(name: str) -> bool:
    """Whether this processor has an instruction set."""
    return bool(_binding().get_host_cpu_features().get(name))


def _new_machine(level: int) -> Any:
    return _binding().Target.from_default_triple().create_target_machine(
        cpu=host_name(), features=host_features(), opt=level, reloc="pic", codemodel="small",
        jit=True,
    )  # fmt: skip


@contextlib.contextmanager
def machine(level: int) -> Iterator[Any]:
    """A code generator for this machine."""
    yield _new_machine(level)


@contextlib.contextmanager
def module(text: str) -> Iterator[Any]:
    """The module of a text."""
    with _binding().parse_assembly(text) as parsed:
        yield parsed


def optimize(parsed: Any, generator: Any, level: int) -> None:
    """Run LLVM's passes over a module; see `llvm_library.optimize` for why loops stay rolled."""
    tuning = _binding().create_pipeline_tuning_options(speed_level=level)
    tuning.loop_vectorization = True
    tuning.loop_unrolling = False
    builder = _binding().create_pass_builder(generator, tuning)
    builder.getModulePassManager().run(parsed, builder)


def printed(parsed: Any) -> str:
    """The text of a module."""
    return str(parsed)


def emitted(parsed: Any, generator: Any, *, as_object: bool) -> bytes:
    """The machine code of a module: an object file, or assembly."""
    if as_object:
        return generator.emit_object(parsed)
    return generator.emit_assembly(parsed).encode()


def declared(parsed: Any) -> list[str]:
    """The functions and variables that a module uses and does not define."""
    values = itertools.chain(parsed.functions, parsed.global_variables)
    names = [value.name for value in values if value.is_declaration]
    return [name for name in names if not name.startswith("llvm.")]


@functools.cache
def _linker() -> Any:
    return _binding().create_lljit_compiler(_new_machine(0), use_jit_link=True)


_linked: list[Any] = []  # what the linker returned: it unlinks what nobody holds


def link(
    name: str, objects: Sequence[bytes], imports: dict[str, int], exports: Sequence[str]
) -> dict[str, int]:
    """Give object files their places in memory, for good; returns where the exports are."""
    builder = _binding().JITLibraryBuilder().add_current_process()
    for code in objects:
        builder.add_object_img(code)
    for symbol, address in imports.items():
        builder.import_symbol(symbol, address)
    for symbol in exports:
        builder.export_symbol(symbol)
    library = builder.link(_linker(), name)
    _linked.append(library)
    return {symbol: library[symbol] for symbol in exports}


def threads() -> int:
    """How many modules are compiled at the same time."""
    return 1
