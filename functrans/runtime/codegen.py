"""LLVM text to machine code: optimized by one pipeline, linked into the process, kept on disk.

A `Unit` is a function that compiled programs call: a kernel, a product, a piece of the runtime. Its
name is made from what it computes, so equal units are one: within a program, between programs, and
between processes, through `cache`. What a program lacks is compiled as a few LLVM modules, one a
thread, object files are made of them, and a JIT linker of LLVM gives those their places in memory.
A process that finds everything on disk only links.

Numba's own code generator would need Numba imported, 0.2 s, and runs two pipelines; `llvm` has all
that straight-line code without reference counts wants.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from functrans.runtime import cache, llvm, loader, symbols

Parts = tuple[str, ...]
_lock = threading.RLock()
_serial = itertools.count()
_addresses: dict[str, int] = {}  # of units, by name
# Characters of LLVM text from which a module is worth a thread of its own: 20 ms, where starting
# a pipeline of passes takes 2.
_ENOUGH_TEXT = 8_000
COLD = "nounwind noinline optnone"  # of a function that compiles quickly and runs seldom

# A fork waits for what is being compiled: the child would wait for ever for this lock, and LLVM's.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


@dataclass(frozen=True)
class Unit:
    """A native function. `parts(name)` gives the LLVM texts that define `@name` and what it uses.

    Parts are declarations and functions; equal ones of several units are one in a module. A text
    that is written as LLVM's passes would leave it does without (`runs_passes`), which takes half
    of the time. What is not optimized at all compiles in a tenth. Where there are no loops, vector
    versions of functions are left out.
    """

    key: str
    parts: Callable[[str], Iterable[str]]
    is_optimized: bool = True
    runs_passes: bool = True
    has_loops: bool = True
    name: str = field(init=False, compare=False)  # the symbol: the same in every process

    def __post_init__(self) -> None:
        # Not a cached property: before Python 3.12 that has a lock, which a fork may leave locked.
        digest = hashlib.sha256(self.key.encode()).hexdigest()
        object.__setattr__(self, "name", f"ft_{digest[:32]}")

    def text(self) -> Parts:
        """The parts that a module needs for this unit."""
        parts = tuple(self.parts(self.name))
        return parts if self.has_loops else tuple(p for p in parts if not _is_vector(p))


def addresses(units: Sequence[Unit]) -> list[int]:
    """Where the functions are; those not yet in this process are loaded or compiled."""
    names = [u.name for u in units]
    if not all(name in _addresses for name in names):
        with _lock:
            _bring_in({u.name: u for u in units if u.name not in _addresses})
    return [_addresses[name] for name in names]


def _bring_in(missing: dict[str, Unit]) -> None:
    _link(cache.find(missing))
    rest = [u for u in missing.values() if u.name not in _addresses]
    made = _made(_groups({u: u.text() for u in rest}))
    for entry in made:
        cache.store(entry)
    _link(made)


def _groups(units: dict[Unit, Parts]) -> list[dict[Unit, Parts]]:
    """Units that are compiled, and then found, together.

    One that calls what only some programs make known (`use_symbol`) is alone: the others are to be
    linked without it.
    """
    together: dict[tuple[bool, bool], dict[Unit, Parts]] = {}
    alone = []
    for unit, parts in units.items():
        if any(_CALLS_PROVIDED.search(part) for part in parts):
            alone.append({unit: parts})
        else:
            together.setdefault((unit.is_optimized, unit.runs_passes), {})[unit] = parts
    return [shared for group in together.values() for shared in _shares(group)] + alone


_CALLS_PROVIDED = re.compile(r"^\s*declare .*@ft[_.]", re.MULTILINE)


def _shares(units: dict[Unit, Parts]) -> list[dict[Unit, Parts]]:
    """Cut a group for the threads that compile it; units that share functions stay together."""
    total = sum(len(p) for p in {p for parts in units.values() for p in parts})
    count = min(llvm.threads(), len(units), total // _ENOUGH_TEXT)
    if count < 2:
        return [units]
    shares: list[dict[Unit, Parts]] = [{} for _ in range(count)]
    texts: list[dict[str, int]] = [{} for _ in range(count)]
    by_size = sorted(units.items(), key=lambda item: -sum(map(len, item[1])))
    for unit, parts in by_size:
        sizes = [sum((text | {p: len(p) for p in parts}).values()) for text in texts]
        least = sizes.index(min(sizes))
        shares[least][unit] = parts
        texts[least] |= {p: len(p) for p in parts}
    return shares


# ---------------------------------------------------------------------------- compiling


def _made(groups: list[dict[Unit, Parts]]) -> list[cache.Entry]:
    """The object files of groups, compiled by as many threads as the process has processors."""
    # The longest first, so that all threads end at about the same time.
    waiting, made, failures = sorted(groups, key=_effort), [], []

    def work() -> None:
        while not failures:
            try:
                group = waiting.pop()
            except IndexError:  # another thread took the last
                return
            try:
                made.append(_compiled(group))
            except BaseException as error:
                failures.append(error)

    others = min(len(groups), llvm.threads()) - 1
    helpers = [threading.Thread(target=work, daemon=True) for _ in range(others)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if failures:
        raise failures[0]
    return made


def _effort(units: dict[Unit, Parts]) -> int:
    """About how long a module takes to compile: 4 us for each character if it is 20."""
    first, length = next(iter(units)), sum(len(p) for parts in units.values() for p in parts)
    return length * (1 if not first.is_optimized else 20 if first.runs_passes else 6)


def module_text(units: Iterable[Unit]) -> str:
    """The LLVM module that defines some units."""
    return _joined([u.text() for u in units])


# LLVM knows them; it takes a declaration that comes after a use for a second one.
_INTRINSICS = re.compile(r"^declare [^\n]*@llvm\.[^\n]*$", re.MULTILINE)


def _joined(parts_of_units: Iterable[Iterable[str]]) -> str:
    parts = dict.fromkeys(part for parts in parts_of_units for part in parts)
    vectors = {_defined(p) for p in parts if _is_vector(p)}
    text = "\n\n".join([*(_without_others(p, vectors) for p in parts), *_kept(vectors)])
    return _INTRINSICS.sub("", text)


def _is_vector(part: str) -> bool:
    """Whether this is a vector version of a function."""
    return part.startswith("define internal <")


def _defined(part: str) -> str:
    return part.split("@", 1)[1].split("(", 1)[0]


_VARIANTS = re.compile(r' "vector-function-abi-variant"="[^"]*"')


def _without_others(part: str, vectors: set[str]) -> str:
    """A function without mention of vector versions that the module does not have."""
    found = _VARIANTS.search(part)
    if found is None or any(f"({name})" in found.group() for name in vectors):
        return part
    return part.replace(found.group(), "")


def _kept(vectors: Iterable[str]) -> list[str]:
    """LLVM would drop vector versions of functions before the vectorizer wants them."""
    names = [f"ptr @{name}" for name in vectors]
    used = f"@llvm.compiler.used = appending global [{len(names)} x ptr] [{', '.join(names)}]"
    return [f'{used}, section "llvm.metadata"'] if names else []


_LEVEL = 3  # of LLVM's optimizations


def optimized(text: str) -> str:
    """The module of a text after LLVM's passes."""
    with llvm.machine(_LEVEL) as machine, llvm.module(text) as module:
        llvm.optimize(module, machine, _LEVEL)
        return llvm.printed(module)


def assembly(text: str) -> str:
    """The machine code of a module, as text."""
    with llvm.machine(_LEVEL) as machine, llvm.module(text) as module:
        llvm.optimize(module, machine, _LEVEL)
        return llvm.emitted(module, machine, as_object=False).decode()


def _compiled(units: dict[Unit, Parts]) -> cache.Entry:
    first, text = next(iter(units)), _joined(units.values())
    level = _LEVEL if first.is_optimized else 0
    with llvm.machine(level) as machine, llvm.module(text) as module:
        if first.is_optimized and first.runs_passes:
            llvm.optimize(module, machine, level)
        wanted = tuple(llvm.declared(module))
        code = llvm.emitted(module, machine, as_object=True)
    return cache.Entry(tuple(u.name for u in units), wanted, code)


# ---------------------------------------------------------------------------- linking


def _link(entries: list[cache.Entry]) -> None:
    """Link object files, as one library where no function is in two of them."""
    names = [name for entry in entries for name in entry.units]
    together = [entries] if len(set(names)) == len(names) else [[entry] for entry in entries]
    for group in filter(None, together):
        _addresses.update(_linked(group))


def _linked(entries: list[cache.Entry]) -> dict[str, int]:
    """The addresses of the functions of some object files, linked as one library."""
    code = [entry.code for entry in entries]
    exports = [name for entry in entries for name in entry.units]
    if loader.SUPPORTED:
        with contextlib.suppress(loader.UnsupportedObject):
            return loader.load(code, exports, address_of)
    imports = {name: address_of(name) for entry in entries for name in entry.wanted}
    return llvm.link(f"functrans_{next(_serial)}", code, imports, exports)


def provide(name: str, text: str) -> None:
    """Compile `@ft_entry_<name>` of `text` for the process: other units call it `@ft_<name>`."""
    symbol = f"ft_{name}"
    if symbol not in _addresses:
        _addresses[symbol] = addresses([routine(name, text)])[0]


# A declaration or variable is a line.
_PARTS = re.compile(r"^(?:define (?:.*\n)+?\}|[@!].*|declare .*)$", re.MULTILINE)


def routine(name: str, text: str, *, runs_passes: bool = True) -> Unit:
    """The unit of a text that defines `@ft_entry_<name>`.

    What else it defines has a name of its own, or is the same in every text that has that name.
    """

    def parts(unique: str) -> list[str]:
        return _PARTS.findall(text.replace(f"@ft_entry_{name}(", f"@{unique}("))

    return Unit(text, parts, runs_passes=runs_passes)


def address_of(symbol: str) -> int:
    """Where a provided function is, or one of the platform."""
    return _addresses.get(symbol) or symbols.resolve(symbol)


def use_symbol(name: str, address: int) -> None:
    """Make a C function known to units under a name."""
    _addresses[name] = address
