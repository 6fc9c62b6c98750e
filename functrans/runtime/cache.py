"""Compiled code on disk, so that a new process links instead of compiling.

An entry is an object file with the units it defines and the symbols it wants. It is one file, named
by its content; for each unit there is another small file that names the entry. Files are written
under a name of their own and then renamed, so that readers never see half of one and writers need
no lock. An entry says its checksum, and for which machine and which version of the compiler it was
made: whatever does not agree is passed over, and written anew.

The folder is `$FUNCTRANS_CACHE`, or `functrans` where the system keeps caches; with
`FUNCTRANS_CACHE=off` nothing is kept. Code is only loaded from a folder that no other user can
write to.

>>> from functrans.runtime import cache
>>> sorted(cache.info())
['bytes', 'entries', 'folder', 'units']
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from functrans.runtime import llvm

SWITCH = "FUNCTRANS_CACHE"
_OFF = frozenset(("off", "0", "no", "false"))
_CHECKSUM = hashlib.sha256
_DIGEST = 32  # bytes of a checksum, in front of every entry
# Deleted, the least recently used first, when there are more bytes than this.
LIMIT_BYTES = 512 << 20


@dataclass(frozen=True)
class Entry:
    """An object file: the functions it defines, the symbols it is linked with, its bytes."""

    units: tuple[str, ...]
    wanted: tuple[str, ...]
    code: bytes

    def packed(self) -> bytes:
        """The file: checksum, length of the header, header, object."""
        fields = (" ".join(self.units), " ".join(self.wanted), fingerprint())
        header = "\n".join(fields).encode()
        body = len(header).to_bytes(8, "little") + header + self.code
        return _CHECKSUM(body).digest() + body

    @staticmethod
    def unpacked(data: bytes) -> Entry | None:
        """The entry of a file; None where it is damaged, or made for something else."""
        body = data[_DIGEST:]
        if len(body) < 8 or _CHECKSUM(body).digest() != data[:_DIGEST]:
            return None
        end = 8 + int.from_bytes(body[:8], "little")
        units, wanted, made_for = body[8:end].decode().split("\n")
        if made_for != fingerprint():
            return None
        return Entry(tuple(units.split()), tuple(wanted.split()), body[end:])


@functools.cache
def fingerprint() -> str:
    """What compiled code depends on besides its text: this machine, these versions."""
    parts = [
        llvm.host(),
        platform.machine(),
        sys.platform,
        sys.implementation.cache_tag,
        np.__version__,
        llvm.version(),
        *_own_sources(),
    ]
    return _CHECKSUM("\n".join(map(str, parts)).encode()).hexdigest()


def _own_sources() -> Iterator[str]:
    """The state of the files that decide what code a unit's key leads to."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for folder in ("compiler", "runtime"):
        for base, _, names in sorted(os.walk(os.path.join(package, folder))):
            for name in sorted(n for n in names if n.endswith(".py")):
                state = os.stat(os.path.join(base, name))
                yield f"{name} {state.st_size} {state.st_mtime_ns}"


# ---------------------------------------------------------------------------- the folder


def folder() -> str | None:
    """Where entries are kept; None where nothing is."""
    return _folder(os.environ.get(SWITCH, ""))


@functools.cache
def _folder(setting: str) -> str | None:
    if setting.lower() in _OFF:
        return None
    path = setting or os.path.join(_system_folder(), "functrans")
    try:
        if not os.path.isabs(path) and not setting:
            return None  # no home
        os.makedirs(path, mode=0o700, exist_ok=True)
        return path if _is_private(path) else None
    except OSError:
        return None  # it cannot be written to: compile every time


def _system_folder() -> str:
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        return os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    if sys.platform == "darwin":
        return os.path.join(home, "Library", "Caches")
    return os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")


def _is_private(path: str) -> bool:
    """Whether only this user can put code there."""
    if not hasattr(os, "getuid"):
        return True
    found = os.stat(path)
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


# ---------------------------------------------------------------------------- reading, writing


def find(names: Iterable[str]) -> list[Entry]:
    """The entries that define units of these names, each once."""
    home = folder()
    if home is None:
        return []
    files = dict.fromkeys(filter(None, (_pointer(home, name) for name in names)))
    return [entry for file in files if (entry := _read(os.path.join(home, file))) is not None]


def _unit_file(name: str) -> str:
    made_for = _CHECKSUM(f"{fingerprint()} {name}".encode()).hexdigest()[:40]
    return f"{made_for}.unit"


def _pointer(home: str, name: str) -> str | None:
    try:
        with open(os.path.join(home, _unit_file(name)), encoding="ascii") as f:
            text = f.read()
    except (OSError, UnicodeDecodeError):
        return None
    return text if text.endswith(".entry") and "/" not in text and os.sep not in text else None


def _read(path: str) -> Entry | None:
    try:
        with open(path, "rb") as f:
            return Entry.unpacked(f.read())
    except (OSError, ValueError):
        return None


def store(entry: Entry) -> None:
    """Keep an entry. A full or unwritable disk is no error: the next process compiles again."""
    home = folder()
    if home is None:
        return
    data = entry.packed()
    file = f"{_CHECKSUM(data).hexdigest()[:40]}.entry"
    with contextlib.suppress(OSError):
        _write(os.path.join(home, file), data)
        for name in entry.units:
            _write(os.path.join(home, _unit_file(name)), file.encode())
        _trim(home)


def _write(path: str, data: bytes) -> None:
    temporary = os.path.join(os.path.dirname(path), f"{os.urandom(16).hex()}.part")
    is_new = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    handle = os.open(temporary, is_new, 0o600)
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _files(home: str | None) -> list[os.DirEntry[str]]:
    """What is in the folder, which may be deleted at any time."""
    if home is None:
        return []
    try:
        with os.scandir(home) as found:
            return list(found)
    except FileNotFoundError:
        return []


def _size(file: os.DirEntry[str]) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _trim(home: str) -> None:
    """Keep the folder below its limit; looked at about once in fifty times."""
    if os.urandom(1)[0] >= 5:
        return
    states = ((f.stat(), f.path) for f in _files(home) if f.name.endswith(".entry"))
    found = sorted((state.st_mtime, state.st_size, path) for state, path in states)
    total = sum(size for _, size, _ in found)
    for _, size, path in found:
        if total <= LIMIT_BYTES:
            break
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        total -= size


# ---------------------------------------------------------------------------- for users


def info() -> dict[str, Any]:
    """Where compiled code is kept, and how much: `folder`, `entries`, `units`, `bytes`."""
    home = folder()
    files = _files(home)
    entries = [f for f in files if f.name.endswith(".entry")]
    return {
        "folder": home,
        "entries": len(entries),
        "units": sum(f.name.endswith(".unit") for f in files),
        "bytes": sum(map(_size, entries)),
    }


def clear() -> None:
    """Delete all compiled code on disk; what this process has loaded stays."""
    for file in _files(folder()):
        if file.name.endswith((".entry", ".unit", ".part")):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.path)


__all__ = ["clear", "info"]
