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
import json
import os
import platform
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from functrans.runtime import symbols

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
        header = json.dumps([self.units, self.wanted, fingerprint()]).encode()
        body = len(header).to_bytes(8, "little") + header + self.code
        return _CHECKSUM(body).digest() + body

    @staticmethod
    def unpacked(data: bytes) -> Entry | None:
        """The entry of a file; None where it is damaged, or made for something else."""
        body = data[_DIGEST:]
        if len(body) < 8 or _CHECKSUM(body).digest() != data[:_DIGEST]:
            return None
        end = 8 + int.from_bytes(body[:8], "little")
        units, wanted, made_for = json.loads(body[8:end])
        if made_for != fingerprint():
            return None
        return Entry(tuple(units), tuple(wanted), body[end:])


@functools.cache
def fingerprint() -> str:
    """What compiled code depends on besides its text: this machine, these versions."""
    llvm = symbols.llvm()
    parts = [
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
        platform.machine(),
        sys.platform,
        sys.implementation.cache_tag,
        np.__version__,
        ".".join(map(str, llvm.llvm_version_info)),
        *_own_sources(),
    ]
    return _CHECKSUM("\n".join(map(str, parts)).encode()).hexdigest()


def _own_sources() -> Iterator[str]:
    """The state of the files that decide what code a unit's key leads to."""
    package = Path(__file__).parents[1]
    for file in sorted([*package.glob("compiler/*.py"), *package.glob("runtime/*.py")]):
        found = file.stat()
        yield f"{file.name} {found.st_size} {found.st_mtime_ns}"


# ---------------------------------------------------------------------------- the folder


def folder() -> Path | None:
    """Where entries are kept; None where nothing is."""
    return _folder(os.environ.get(SWITCH, ""))


@functools.cache
def _folder(setting: str) -> Path | None:
    if setting.lower() in _OFF:
        return None
    try:
        path = Path(setting) if setting else _system_folder() / "functrans"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path if _is_private(path) else None
    except (OSError, RuntimeError):
        return None  # no home, or one that cannot be written to: compile every time


def _system_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _is_private(path: Path) -> bool:
    """Whether only this user can put code there."""
    if not hasattr(os, "getuid"):
        return True
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


# ---------------------------------------------------------------------------- reading, writing


def find(names: Iterable[str]) -> list[Entry]:
    """The entries that define units of these names, each once."""
    home = folder()
    if home is None:
        return []
    files = dict.fromkeys(filter(None, (_pointer(home, name) for name in names)))
    return [entry for file in files if (entry := _read(home / file)) is not None]


def _unit_file(name: str) -> str:
    made_for = _CHECKSUM(f"{fingerprint()} {name}".encode()).hexdigest()[:40]
    return f"{made_for}.unit"


def _pointer(home: Path, name: str) -> str | None:
    try:
        text = (home / _unit_file(name)).read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return text if text.endswith(".entry") and "/" not in text and os.sep not in text else None


def _read(path: Path) -> Entry | None:
    try:
        entry = Entry.unpacked(path.read_bytes())
    except (OSError, ValueError, TypeError):
        return None
    return entry


def store(entry: Entry) -> None:
    """Keep an entry. A full or unwritable disk is no error: the next process compiles again."""
    home = folder()
    if home is None:
        return
    data = entry.packed()
    file = f"{_CHECKSUM(data).hexdigest()[:40]}.entry"
    with contextlib.suppress(OSError):
        _write(home / file, data)
        for name in entry.units:
            _write(home / _unit_file(name), file.encode())
        _trim(home)


def _write(path: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _trim(home: Path) -> None:
    """Keep the folder below its limit; looked at about once in fifty times."""
    if os.urandom(1)[0] >= 5:
        return
    found = sorted((f.stat().st_mtime, f.stat().st_size, f) for f in home.glob("*.entry"))
    total = sum(size for _, size, _ in found)
    for _, size, file in found:
        if total <= LIMIT_BYTES:
            break
        file.unlink(missing_ok=True)
        total -= size


# ---------------------------------------------------------------------------- for users


def info() -> dict[str, Any]:
    """Where compiled code is kept, and how much: `folder`, `entries`, `units`, `bytes`."""
    home = folder()
    files = _files(home)
    sizes = [_size(f) for f in files if f.suffix == ".entry"]
    return {
        "folder": None if home is None else str(home),
        "entries": len(sizes),
        "units": sum(f.suffix == ".unit" for f in files),
        "bytes": sum(sizes),
    }


def clear() -> None:
    """Delete all compiled code on disk; what this process has loaded stays."""
    for file in _files(folder()):
        if file.suffix in (".entry", ".unit", ".part"):
            file.unlink(missing_ok=True)


def _files(home: Path | None) -> list[Path]:
    """What is in the folder, which may be deleted at any time."""
    try:
        return [] if home is None else list(home.iterdir())
    except FileNotFoundError:
        return []


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


__all__ = ["clear", "info"]
