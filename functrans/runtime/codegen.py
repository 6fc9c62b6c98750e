"""LLVM text to machine code: optimized by one pipeline, linked into the process, kept on disk.

A `Unit` is a function that compiled programs call: a kernel, a product, a piece of the runtime. Its
name is made from what it computes, so equal units are one: within a program, between programs, and
between processes, through `cache`. What a program lacks is compiled as one LLVM module, an object
file is made of that, and a JIT linker of LLVM gives the object its place in memory. A process that
finds everything on disk only links.

Numba's own code generator would need Numba imported, 0.2 s, and runs two pipelines; llvmlite has
all that straight-line code without reference counts wants.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from functrans.runtime import cache, symbols

_CODE_MODEL = {"reloc": "pic", "codemodel": "small"}
Parts = tuple[str, ...]
_lock = threading.RLock()
_serial = itertools.count()
_addresses: dict[str, int] = {}  # of units, by name
_libraries: list[Any] = []  # what the linker returned: it unlinks what nobody holds

# A fork waits for what is being compiled: the child would wait for ever for this lock, and LLVM's.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


@dataclass(frozen=True)
class Unit:
    """A native function. `parts(name)` gives the LLVM texts that define `@name` and what it uses.

    Parts are declarations and functions; equal ones of several units are one in a module. What
    is not optimized compiles in a third of the time.
    """

    key: str
    parts: Callable[[str], Iterable[str]]
    is_optimized: bool = True
    name: str = field(init=False, compare=False)  # the symbol: the same in every process

    def __post_init__(self) -> None:
        # Not a cached property: before Python 3.12 that has a lock, which a fork may leave locked.
        digest = hashlib.sha256(self.key.encode()).hexdigest()
        object.__setattr__(self, "name", f"ft_{digest[:32]}")


def addresses(units: Sequence[Unit]) -> list[int]:
    """Where the functions are; those not yet in this process are loaded or compiled."""
    names = [u.name for u in units]
    if not all(name in _addresses for name in names):
        with _lock:
            _bring_in({u.name: u for u in units if u.name not in _addresses})
    return [_addresses[name] for name in names]


def _bring_in(missing: dict[str, Unit]) -> None:
    for found in cache.find(missing):
        _link(found)
    rest = [u for u in missing.values() if u.name not in _addresses]
    for group in _groups({u: tuple(u.parts(u.name)) for u in rest}):
        made = _compiled(group)
        cache.store(made)
        _link(made)


def _groups(units: dict[Unit, Parts]) -> list[dict[Unit, Parts]]:
    """Units that are compiled, and then found, together.

    One that calls what only some programs make known (`use_symbol`) is alone: the others are to be
    linked without it.
    """
    together: dict[bool, dict[Unit, Parts]] = {}
    alone = []
    for unit, parts in units.items():
        if any(_CALLS_PROVIDED.search(part) for part in parts):
            alone.append({unit: parts})
        else:
            together.setdefault(unit.is_optimized, {})[unit] = parts
    return [*together.values(), *alone]


_CALLS_PROVIDED = re.compile(r"^\s*declare .*@ft[_.]", re.MULTILINE)

# ---------------------------------------------------------------------------- compiling


def module_text(units: Iterable[Unit]) -> str:
    """The LLVM module that defines some units."""
    return _joined([u.parts(u.name) for u in units])


def _joined(parts_of_units: Iterable[Iterable[str]]) -> str:
    parts = dict.fromkeys(part for parts in parts_of_units for part in parts)
    return "\n\n".join([*parts, *_kept(parts)])


def _kept(parts: Iterable[str]) -> list[str]:
    """Vector versions of functions: LLVM would drop them before the vectorizer wants them."""
    vectors = [p for p in parts if p.startswith("define internal <")]
    names = ", ".join(f"ptr @{p.split('@')[1].split('(')[0]}" for p in vectors)
    used = f"@llvm.compiler.used = appending global [{len(vectors)} x ptr] [{names}]"
    return [f'{used}, section "llvm.metadata"'] if vectors else []


def optimized(text: str) -> Any:
    """The module of a text after LLVM's passes."""
    llvm, machine = symbols.llvm(), _machine()
    module = llvm.parse_assembly(text)
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    tuning.loop_vectorization = True
    # Unrolling doubles compile time, and a loop unrolled whole is no longer vectorized.
    # Emission writes out the short loops that gain from it.
    tuning.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(module, builder)
    return module


def assembly(text: str) -> str:
    """The machine code of a module, as text."""
    return _machine().emit_assembly(optimized(text))


def _compiled(units: dict[Unit, Parts]) -> cache.Entry:
    text, is_optimized = _joined(units.values()), next(iter(units)).is_optimized
    module = optimized(text) if is_optimized else symbols.llvm().parse_assembly(text)
    wanted = [
        value.name
        for value in itertools.chain(module.functions, module.global_variables)
        if value.is_declaration and not value.name.startswith("llvm.")
    ]
    level = 3 if is_optimized else 0
    names = tuple(u.name for u in units)
    return cache.Entry(names, tuple(wanted), _machine(level).emit_object(module))


@functools.cache
def _machine(level: int = 3) -> Any:
    llvm = symbols.llvm()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=level, jit=True, **_CODE_MODEL
    )


# ---------------------------------------------------------------------------- linking


@functools.cache
def _linker() -> Any:
    return symbols.llvm().create_lljit_compiler(_machine(), use_jit_link=True)


def _link(entry: cache.Entry) -> None:
    # The process itself has what LLVM calls of its own accord: memset and its like.
    builder = symbols.llvm().JITLibraryBuilder().add_object_img(entry.code).add_current_process()
    for name in entry.wanted:
        builder.import_symbol(name, address_of(name))
    for name in entry.units:
        builder.export_symbol(name)
    library = builder.link(_linker(), f"functrans_{next(_serial)}")
    _libraries.append(library)
    _addresses.update((name, library[name]) for name in entry.units)


def provide(name: str, text: str) -> None:
    """Compile `@ft_entry_<name>` of `text` for the process: other units call it `@ft_<name>`."""
    symbol = f"ft_{name}"
    if symbol not in _addresses:
        _addresses[symbol] = addresses([_provided(name, text)])[0]


def _provided(name: str, text: str) -> Unit:
    return Unit(text, lambda unique: [text.replace(f"@ft_entry_{name}(", f"@{unique}(")])


def address_of(symbol: str) -> int:
    """Where a provided function is, or one of the platform."""
    return _addresses.get(symbol) or symbols.resolve(symbol)


def use_symbol(name: str, address: int) -> None:
    """Make a C function known to units under a name."""
    _addresses[name] = address
