"""Object files put in their places without LLVM, on Linux with x86-64.

A process that finds all its code on disk would load 180 MB of LLVM, 6 ms, only to link a few pages.
What LLVM makes of our texts is simple: code, constants, and five kinds of references, which are
filled in here. Anything else, and any other platform, is for LLVM's linker: see `codegen`.

The memory is written, then made executable, and stays until the process ends.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any

# ELF-64 for x86-64: https://gitlab.com/x86-psABIs/x86-64-ABI, tables 4.9 and 4.10.
_HEADER, _RELOCATABLE, _X86_64 = b"\x7fELF\x02\x01\x01", 1, 62
_SYMBOLS, _RELOCATIONS, _NOBITS, _PROGBITS, _UNWINDING = 2, 4, 8, 1, 0x70000001
_WRITABLE, _IN_MEMORY, _CODE, _OF_THREADS = 1, 2, 4, 0x400
_ABSOLUTE, _RELATIVE, _CALL, _BY_TABLE = 1, 2, 4, frozenset((9, 41, 42))
_KNOWN = _BY_TABLE | {_ABSOLUTE, _RELATIVE, _CALL}
_NO_SECTION, _SPECIAL_SECTIONS = 0, 0xFF00
_SECTION, _SYMBOL, _REFERENCE = (struct.Struct(x) for x in ("<IIQQQQIIQQ", "<IBBHQQ", "<QQq"))
_NUMBER, _DISTANCE = struct.Struct("<Q"), struct.Struct("<i")
_JUMP = b"\xff\x25"  # to the address in the table, which follows
_STUB_BYTES = 8
_PAGE = 4096
_READ, _WRITE, _EXECUTE = 1, 2, 4
_PRIVATE_ANONYMOUS = 0x22

SUPPORTED = sys.platform == "linux" and platform.machine() == "x86_64"


class UnsupportedObject(Exception):
    """An object file that has more than is known here."""


class _Object:
    """The tables of an object file."""

    def __init__(self, data: bytes):
        kind, machine = struct.unpack_from("<HH", data, 16)
        if not data.startswith(_HEADER) or (kind, machine) != (_RELOCATABLE, _X86_64):
            raise UnsupportedObject("not an object file of x86-64")
        self.data = data
        (at,) = struct.unpack_from("<Q", data, 40)
        size, count = struct.unpack_from("<HH", data, 58)
        self.sections = [_SECTION.unpack_from(data, at + i * size) for i in range(count)]
        table = next(s for s in self.sections if s[1] == _SYMBOLS)
        names = self.sections[table[6]][4]
        self.symbols = []
        for offset in range(table[4], table[4] + table[5], _SYMBOL.size):
            name, info, _, section, value, _ = _SYMBOL.unpack_from(data, offset)
            end = data.index(b"\0", names + name)
            self.symbols.append((data[names + name : end].decode(), info & 15, section, value))

    def placed(self) -> list[tuple[int, int, int, int, int]]:
        """The sections that are wanted in memory: number, flags, offset, size, alignment."""
        found = []
        for i, (_, kind, flags, _, offset, size, _, _, alignment, _) in enumerate(self.sections):
            if not flags & _IN_MEMORY or kind == _UNWINDING or not size:
                continue
            if kind not in (_PROGBITS, _NOBITS) or flags & _OF_THREADS:
                raise UnsupportedObject(f"a section of kind {kind}")
            found.append((i, flags, -1 if kind == _NOBITS else offset, size, max(alignment, 1)))
        return found

    def references(self, placed: set[int]) -> list[tuple[int, int, int, int, int]]:
        """What is to be filled in: section, offset, kind, symbol, addend."""
        out = []
        for _, kind, _, _, offset, size, _, section, _, _ in self.sections:
            if kind == _RELOCATIONS and section in placed:  # those of unwinding are not
                for at in range(offset, offset + size, _REFERENCE.size):
                    place, info, addend = _REFERENCE.unpack_from(self.data, at)
                    out.append((section, place, info & 0xFFFFFFFF, info >> 32, addend))
        return out


class _Image:
    """Memory under construction: stubs and code, constants, variables, the table of addresses."""

    def __init__(self, files: Sequence[_Object], address_of: Callable[[str], int]):
        self.files, self.address_of = files, address_of
        placed = [file.placed() for file in files]
        self.references = [
            file.references({s[0] for s in sections})
            for file, sections in zip(files, placed, strict=True)
        ]
        self.entries: dict[Any, int] = {}  # of the table: names from outside, symbols of a file
        for k, references in enumerate(self.references):
            for _, _, kind, symbol, _ in references:
                self._enter(k, kind, symbol)
        self.places: dict[tuple[int, int], int] = {}
        self.ends = self._lay_out(placed)
        self.table = self.ends[-1]
        self.size = _rounded(self.table + 8 * len(self.entries), _PAGE)
        self.bytes = bytearray(self.size)
        for k, sections in enumerate(placed):
            for i, _, offset, size, _ in sections:
                if offset >= 0:
                    at = self.places[k, i]
                    self.bytes[at : at + size] = files[k].data[offset : offset + size]

    def _enter(self, k: int, kind: int, symbol: int) -> None:
        name, _, section, _ = self.files[k].symbols[symbol]
        if kind not in _KNOWN or section >= _SPECIAL_SECTIONS:
            raise UnsupportedObject(f"a reference of kind {kind} to {name}")
        if section == _NO_SECTION:
            if kind == _RELATIVE:
                raise UnsupportedObject(f"a near reference to {name}, which may be far")
            self.entries.setdefault(name, len(self.entries))
        elif kind in _BY_TABLE:
            self.entries.setdefault((k, symbol), len(self.entries))

    def _lay_out(self, placed: Sequence[Sequence[tuple[int, int, int, int, int]]]) -> list[int]:
        """Code, constants and variables one after another; returns where each of them ends."""
        at, ends = _STUB_BYTES * len(self.entries), []
        for wanted in (_CODE, 0, _WRITABLE):
            for k, sections in enumerate(placed):
                for i, flags, _, size, alignment in sections:
                    if flags & (_CODE | _WRITABLE) == wanted:
                        at = self.places[k, i] = _rounded(at, alignment)
                        at += size
            at = _rounded(at, _PAGE)
            ends.append(at)
        return ends

    def link(self, base: int) -> dict[str, int]:
        """Fill in everything for memory at `base`; returns where symbols are."""
        defined: dict[str, int] = {}
        for k, file in enumerate(self.files):
            where = [
                base + self.places[k, section] + value if (k, section) in self.places else 0
                for _, _, section, value in file.symbols
            ]
            names = (name for name, _, _, _ in file.symbols)
            defined.update(pair for pair in zip(names, where, strict=True) if pair[1])
            for key, entry in self.entries.items():
                if isinstance(key, tuple) and key[0] == k:
                    self._tabulate(entry, where[key[1]])
            for section, offset, kind, symbol, addend in self.references[k]:
                at = self.places[k, section] + offset
                target = where[symbol] or self.address_of(file.symbols[symbol][0])
                if kind == _ABSOLUTE:
                    _NUMBER.pack_into(self.bytes, at, target + addend)
                    continue
                if kind in _BY_TABLE:
                    name = file.symbols[symbol][0]
                    target = base + self.table + 8 * self._entry(k, symbol, name)
                elif not where[symbol]:
                    target = base + _STUB_BYTES * self.entries[file.symbols[symbol][0]]
                _DISTANCE.pack_into(self.bytes, at, target + addend - (base + at))
        for key, entry in self.entries.items():
            if isinstance(key, str):
                self._tabulate(entry, self.address_of(key))
        return defined

    def _entry(self, k: int, symbol: int, name: str) -> int:
        found = self.entries.get((k, symbol))
        return self.entries[name] if found is None else found

    def _tabulate(self, entry: int, address: int) -> None:
        """An address goes into the table, and a jump to it among the stubs."""
        place, stub = self.table + 8 * entry, _STUB_BYTES * entry
        _NUMBER.pack_into(self.bytes, place, address)
        self.bytes[stub : stub + 2] = _JUMP
        _DISTANCE.pack_into(self.bytes, stub + 2, place - (stub + 6))


def _rounded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def load(
    objects: Sequence[bytes], exports: Sequence[str], address_of: Callable[[str], int]
) -> dict[str, int]:
    """Give object files their places in memory, for good; returns where the exports are.

    Raises UnsupportedObject, having done nothing, for what LLVM should link.
    """
    image = _Image([_Object(data) for data in objects], address_of)
    base = _memory(image.size)
    defined = image.link(base)
    ctypes.memmove(base, bytes(image.bytes), image.size)
    code, constants, variables = image.ends
    _protect(base, code, _READ | _EXECUTE)
    _protect(base + code, constants - code, _READ)
    _protect(base + variables, image.size - variables, _READ)
    return {name: defined[name] for name in exports}


# ---------------------------------------------------------------------------- memory


@functools.cache
def _system() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    library.mmap.restype = pointer
    library.mmap.argtypes = (pointer, size, number, number, number, ctypes.c_long)
    library.mprotect.argtypes = (pointer, size, number)
    return library


def _memory(size: int) -> int:
    at = _system().mmap(None, size, _READ | _WRITE, _PRIVATE_ANONYMOUS, -1, 0)
    if at in (None, ctypes.c_void_p(-1).value):
        raise UnsupportedObject("no memory for code")
    return at


def _protect(at: int, size: int, how: int) -> None:
    if size and _system().mprotect(at, size, how):
        raise UnsupportedObject("code may not be made executable here")
