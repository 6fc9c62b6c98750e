"""LLVM, by the C functions of llvmlite's library: parse, optimize, emit, link.

These are the functions that `llvmlite.binding` wraps. Importing that package takes four times what
loading its library does, and its calls take turns under one lock and in one context. Here every
module has a context of its own, so that threads compile at the same time.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.machinery
import os
import platform
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

_POINTER, _TEXT, _INT, _BOOL = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_bool
_SIZE, _OUT = ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p)
# Result, and arguments, of `LLVMPY_<name>`.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "DisposeString": (None, _POINTER),
    "InitializeNativeTarget": (_INT,),
    "InitializeNativeAsmPrinter": (_INT,),
    "GetDefaultTargetTriple": (None, _OUT),
    "GetHostCPUName": (None, _OUT),
    "GetHostCPUFeatures": (_INT, _OUT),
    "GetTargetFromTriple": (_POINTER, _TEXT, _OUT),
    "CreateTargetMachine": (
        _POINTER, _POINTER, _TEXT, _TEXT, _TEXT, _INT, _TEXT, _TEXT, _INT, _INT, _TEXT,
    ),
    "DisposeTargetMachine": (None, _POINTER),
    "ContextCreate": (_POINTER,),
    "ContextDispose": (None, _POINTER),
    "ParseAssembly": (_POINTER, _POINTER, _TEXT, _OUT),
    "DisposeModule": (None, _POINTER),
    "PrintModuleToString": (None, _POINTER, _OUT),
    "ModuleFunctionsIter": (_POINTER, _POINTER),
    "FunctionsIterNext": (_POINTER, _POINTER),
    "DisposeFunctionsIter": (None, _POINTER),
    "ModuleGlobalsIter": (_POINTER, _POINTER),
    "GlobalsIterNext": (_POINTER, _POINTER),
    "DisposeGlobalsIter": (None, _POINTER),
    "IsDeclaration": (_INT, _POINTER),
    "GetValueName": (_TEXT, _POINTER),
    "CreatePipelineTuningOptions": (_POINTER,),
    "PTOSetLoopVectorization": (None, _POINTER, _BOOL),
    "PTOSetLoopUnrolling": (None, _POINTER, _BOOL),
    "DisposePipelineTuningOptions": (None, _POINTER),
    "CreatePassBuilder": (_POINTER, _POINTER, _POINTER),
    "DisposePassBuilder": (None, _POINTER),
    "buildPerModuleDefaultPipeline": (_POINTER, _POINTER, _INT),
    "RunNewModulePassManager": (None, _POINTER, _POINTER, _POINTER),
    "DisposeNewModulePassManger": (None, _POINTER),
    "TargetMachineEmitToMemory": (_POINTER, _POINTER, _POINTER, _INT, _OUT),
    "GetBufferStart": (_POINTER, _POINTER),
    "GetBufferSize": (_SIZE, _POINTER),
    "DisposeMemoryBuffer": (None, _POINTER),
    "CreateLLJITCompiler": (_POINTER, _POINTER, _BOOL, _BOOL, _OUT),
    "LLJIT_Link": (
        _POINTER, _POINTER, _TEXT, _POINTER, _SIZE, _POINTER, _SIZE, _POINTER, _SIZE, _OUT,
    ),
}  # fmt: skip
_PROC_FLAGS = sys.platform == "linux" and platform.machine() == "x86_64"
_lock = threading.Lock()


class LLVMError(RuntimeError):
    """What LLVM says about a text or an object it refuses."""


class _Library:
    """The functions of `_SIGNATURES` as attributes."""

    def __init__(self, path: str):
        try:
            handle = ctypes.CDLL(path)
            for name, (result, *arguments) in _SIGNATURES.items():
                function = handle[f"LLVMPY_{name}"]
                function.restype, function.argtypes = result, arguments
                setattr(self, name, function)
        except (OSError, AttributeError) as error:
            error.add_note(f"functrans compiles with llvmlite, whose library it loads from {path}.")
            raise

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no LLVM function {name}")


@functools.cache
def _path() -> str:
    """Where the library of llvmlite is, found without importing the package."""
    spec = importlib.machinery.PathFinder.find_spec("llvmlite")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("compiling needs llvmlite, which is not installed.")
    name = {"darwin": "libllvmlite.dylib", "win32": "llvmlite.dll"}.get(
        sys.platform, "libllvmlite.so"
    )
    return os.path.join(next(iter(spec.submodule_search_locations)), "binding", name)


@functools.cache
def library() -> Any:
    """The library, which takes 6 ms to load: only to compile."""
    return _Library(_path())


def _string(place: ctypes.c_void_p) -> str:
    """The text that LLVM put there."""
    try:
        return ctypes.string_at(place.value or 0).decode() if place else ""
    finally:
        library().DisposeString(place)


def _asked(name: str) -> str:
    place = ctypes.c_void_p()
    getattr(library(), name)(ctypes.byref(place))
    return _string(place)


def version() -> str:
    """What tells one LLVM from another."""
    found = os.stat(_path())
    return f"{found.st_size} {found.st_mtime_ns}"


# The lines of /proc/cpuinfo that say what a processor is, and not how busy.
_LASTING = ("vendor_id", "cpu family", "model", "stepping", "flags")
_CPU_BYTES = 1 << 14  # enough for the first processor


@functools.cache
def host() -> str:
    """What tells one processor from another, asked of the system where it knows."""
    if _PROC_FLAGS:
        return "\n".join(x for x in _first_processor() if x.startswith(_LASTING))
    return f"{host_name()} {host_features()}"


@functools.cache
def _first_processor() -> list[str]:
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
        return f.read(_CPU_BYTES).split("\n\n")[0].splitlines()


@functools.cache
def _flags() -> frozenset[str]:
    line = next((x for x in _first_processor() if x.startswith("flags")), "")
    return frozenset(line.split(":")[-1].split())


@functools.cache
def host_name() -> str:
    """LLVM's name of this processor."""
    return _asked("GetHostCPUName")


@functools.cache
def host_features() -> str:
    """The instruction sets of this processor: "+avx2,-avx512f,...", in order."""
    return ",".join(sorted(_asked("GetHostCPUFeatures").split(","), key=lambda x: x[1:]))


@functools.cache
def has_feature(name: str) -> bool:
    """Whether this processor has an instruction set."""
    if _PROC_FLAGS:  # where the names are the same
        return name in _flags()
    return f"+{name}" in host_features().split(",")


# ---------------------------------------------------------------------------- machines


@functools.cache
def _target() -> tuple[int, bytes]:
    """This machine's target, and its triple."""
    with _lock:
        library().InitializeNativeTarget()
        library().InitializeNativeAsmPrinter()
    triple, error = _asked("GetDefaultTargetTriple").encode(), ctypes.c_void_p()
    found = library().GetTargetFromTriple(triple, ctypes.byref(error))
    if not found:
        raise LLVMError(_string(error))
    return found, triple


def _new_machine(level: int) -> int:
    target, triple = _target()
    cpu, features = host_name().encode(), host_features().encode()
    return library().CreateTargetMachine(
        target, triple, cpu, features, level, b"pic", b"small", 0, 1, b""
    )


@contextlib.contextmanager
def machine(level: int) -> Iterator[int]:
    """A code generator for this machine; one thread uses it at a time."""
    made = _new_machine(level)
    try:
        yield made
    finally:
        library().DisposeTargetMachine(made)


# ---------------------------------------------------------------------------- modules


@contextlib.contextmanager
def module(text: str) -> Iterator[int]:
    """The module of a text."""
    context, error = library().ContextCreate(), ctypes.c_void_p()
    try:
        parsed = library().ParseAssembly(context, text.encode(), ctypes.byref(error))
        if not parsed:
            raise LLVMError(_string(error))
        try:
            yield parsed
        finally:
            library().DisposeModule(parsed)
    finally:
        library().ContextDispose(context)


def optimize(parsed: int, generator: int, level: int) -> None:
    """Run LLVM's passes over a module."""
    functions = library()
    tuning = functions.CreatePipelineTuningOptions()
    functions.PTOSetLoopVectorization(tuning, True)
    # Unrolling doubles compile time, and a loop unrolled whole is no longer vectorized.
    # Emission writes out the short loops that gain from it.
    functions.PTOSetLoopUnrolling(tuning, False)
    builder = functions.CreatePassBuilder(generator, tuning)
    passes = functions.buildPerModuleDefaultPipeline(builder, level)
    functions.RunNewModulePassManager(passes, parsed, builder)
    functions.DisposeNewModulePassManger(passes)
    functions.DisposePassBuilder(builder)
    functions.DisposePipelineTuningOptions(tuning)


def printed(parsed: int) -> str:
    """The text of a module."""
    place = ctypes.c_void_p()
    library().PrintModuleToString(parsed, ctypes.byref(place))
    return _string(place)


def emitted(parsed: int, generator: int, *, as_object: bool) -> bytes:
    """The machine code of a module: an object file, or assembly."""
    functions, error = library(), ctypes.c_void_p()
    buffer = functions.TargetMachineEmitToMemory(
        generator, parsed, int(as_object), ctypes.byref(error)
    )
    if not buffer:
        raise LLVMError(_string(error))
    try:
        return ctypes.string_at(functions.GetBufferStart(buffer), functions.GetBufferSize(buffer))
    finally:
        functions.DisposeMemoryBuffer(buffer)


def declared(parsed: int) -> list[str]:
    """The functions and variables that a module uses and does not define."""
    functions = library()
    return [
        name
        for kind in ("Functions", "Globals")
        for value in _values(parsed, kind)
        if functions.IsDeclaration(value)
        and not (name := functions.GetValueName(value).decode()).startswith("llvm.")
    ]


def _values(parsed: int, kind: str) -> Iterator[int]:
    functions = library()
    iterator = getattr(functions, f"Module{kind}Iter")(parsed)
    following = getattr(functions, f"{kind}IterNext")
    while value := following(iterator):
        yield value
    getattr(functions, f"Dispose{kind}Iter")(iterator)


# ---------------------------------------------------------------------------- linking


class _Element(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_uint8), ("value", _TEXT), ("length", _SIZE))


class _Symbol(ctypes.Structure):
    _fields_ = (("name", _TEXT), ("address", ctypes.c_uint64))


_OBJECT, _LIBRARY = 2, 3


@functools.cache
def _linker() -> int:
    """A JIT linker, and the machine it was made for: both live as long as the process."""
    error = ctypes.c_void_p()
    made = library().CreateLLJITCompiler(_new_machine(0), False, True, ctypes.byref(error))
    if not made:
        raise LLVMError(_string(error))
    return made


def link(
    name: str, objects: Sequence[bytes], imports: dict[str, int], exports: Sequence[str]
) -> dict[str, int]:
    """Give object files their places in memory, for good; returns where the exports are.

    The process itself has what LLVM calls of its own accord: memset and its like.
    """
    elements = [_Element(_OBJECT, code, len(code)) for code in objects]
    elements.append(_Element(_LIBRARY, b"", 0))
    given = [_Symbol(symbol.encode(), address) for symbol, address in imports.items()]
    wanted = (_Symbol * len(exports))(*[_Symbol(symbol.encode(), 0) for symbol in exports])
    error = ctypes.c_void_p()
    tracker = library().LLJIT_Link(
        _linker(), name.encode(),
        (_Element * len(elements))(*elements), len(elements),
        (_Symbol * len(given))(*given), len(given),
        wanted, len(wanted), ctypes.byref(error),
    )  # fmt: skip
    if not tracker:
        raise LLVMError(_string(error))
    return {symbol: found.address for symbol, found in zip(exports, wanted, strict=True)}


def threads() -> int:
    """How many modules are compiled at the same time."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
