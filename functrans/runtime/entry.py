"""The native entry: what Python calls when it calls a compiled program.

One machine-code function serves all programs. It is a builtin (`METH_FASTCALL`) bound to a
*record*, an array that describes one program: the inputs it takes, its outputs, and the table of
its steps, which `machine.RUN` runs over a table of the data pointers of inputs, constants and
outputs, in this order. The entry

1. takes a *block* from the record's free list: the table, scratch memory for scalars, the arena;
2. checks each input and puts its data pointer into the table;
3. makes the outputs, large ones as `result_memory` says, runs the steps, and returns the outputs.

It returns NotImplemented, having done nothing, if an input is not just what the record says
(another type, dtype or shape, not contiguous, ...). An index out of bounds raises, as the record's
`fail` says. Several threads may call at once, each with a block of its
own; everything but the steps runs under the interpreter's lock, which guards the free list.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from functrans import loop_ir as ir
from functrans.runtime import codegen, machine, result_memory
from functrans.runtime import python_objects as objects
from functrans.runtime.codegen import Unit
from functrans.runtime.entry_code import TEXT
from functrans.runtime.record import (
    ALIGNMENT,
    BLOCK_HEADER,
    INPUT_WORDS,
    LIST,
    NUMBER_AS_STORED,
    NUMBER_FROM_BOOL,
    NUMBER_FROM_INT,
    OUTPUT_WORDS,
    SINGLE,
    TUPLE,
    WORDS,
)

RESULTS = {"single": SINGLE, "tuple": TUPLE, "list": LIST}
# Optimized it would take 60 ms instead of 22 to compile, and a call 43 ns instead of 48.
ENTRY = Unit(TEXT, lambda name: [TEXT.replace("@ft_entry_call(", f"@{name}(")], is_optimized=False)


class Program(NamedTuple):
    """What the entry must know of a program. Constants are arrays that stay where they are."""

    name: str
    steps: np.ndarray  # the table of `machine`
    inputs: Sequence[ir.Buffer]
    consts: Sequence[np.ndarray]
    outputs: Sequence[ir.Buffer]
    arena_bytes: int
    fail: Callable[[int, int], Any]  # raises what the two status words mean
    refresh: Callable[[], Any] | None = None  # run before the steps
    release_gil: bool = False


class Record(np.ndarray):
    """The words of a record; its attributes keep alive what they point to."""

    keep: Any


def units(outputs: Sequence[ir.Buffer]) -> list[Unit]:
    """What binding a program of these outputs needs."""
    return [ENTRY, result_memory.ALLOCATOR] if result_memory.are_large(outputs) else [ENTRY]


def bind(program: Program, *, kinds: Sequence[str], results: str) -> Callable[..., Any]:
    """A builtin that takes the inputs and returns the outputs, or NotImplemented.

    A 0-d input of kind "weak" is a Python number, one of kind "strong" an array or NumPy scalar,
    one of kind "any" either. `results` is "list", "tuple", or "single": the only output itself.
    """
    objects.verify_numpy_functions()
    pool = _Pool()
    words: dict[str, int] = dict.fromkeys(WORDS, 0)
    words |= {"run": codegen.addresses([machine.RUN])[0], "table": program.steps.ctypes.data}
    words["release_gil"] = int(program.release_gil)
    words |= {"results": RESULTS[results], "fail": id(program.fail)}
    words["refresh"] = id(program.refresh) if program.refresh is not None else 0
    for name in ("inputs", "consts", "outputs"):
        words[name] = len(getattr(program, name))
    words["const_data"] = pool.address(tuple(x.ctypes.data for x in program.consts))
    specs = [_input(pool, b, k) for b, k in zip(program.inputs, kinds, strict=True)]
    words["input_specs"] = pool.address(tuple(w for spec in specs for w in spec))
    specs = [_output(pool, b) for b in program.outputs]
    words["output_specs"] = pool.address(tuple(w for spec in specs for w in spec))
    if result_memory.are_large(program.outputs):
        words["memory"] = result_memory.handler()
    _lay_out_block(words, program.arena_bytes)
    plain = np.array([words[name] for name in WORDS], np.int64)
    record = plain.view(Record)
    record.keep = (program, pool)
    weakref.finalize(record, _free_blocks, plain).atexit = False
    return objects.builtin_function(codegen.addresses([ENTRY])[0], program.name, record)


class _Pool:
    """Arrays of words that a record points to; equal ones, such as shapes, are one."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._known: dict[tuple[int, ...], int] = {}

    def address(self, words: tuple[int, ...]) -> int:
        found = self._known.get(words)
        if found is None:
            self._arrays.append(np.array(words, np.int64))
            found = self._known[words] = self._arrays[-1].ctypes.data
        return found


def _dtype(buffer: ir.Buffer) -> np.dtype:
    """The one object of this dtype that arrays usually have."""
    return np.dtype(buffer.dtype.char) if buffer.dtype.kind != "V" else buffer.dtype


def _input(pool: _Pool, buffer: ir.Buffer, kind: str) -> Sequence[int]:
    dtype = _dtype(buffer)
    python = objects.python_scalar(dtype) if not buffer.shape and kind != "strong" else None
    number = {bool: NUMBER_FROM_BOOL, int: NUMBER_FROM_INT}.get(python, NUMBER_AS_STORED)  # type: ignore[arg-type]
    scalar = 0 if buffer.shape else id(dtype.type)
    taken = (id(dtype), scalar) if kind != "weak" else (0, 0)
    shape = len(buffer.shape), pool.address(buffer.shape)
    return (*taken, id(python) if python else 0, number, *shape)


def _output(pool: _Pool, buffer: ir.Buffer) -> Sequence[int]:
    return id(_dtype(buffer)), len(buffer.shape), pool.address(buffer.shape)


assert len(_input(_Pool(), ir.Buffer("x", (), np.dtype(float)), "any")) == INPUT_WORDS
assert len(_output(_Pool(), ir.Buffer("x", (), np.dtype(float)))) == OUTPUT_WORDS


def _lay_out_block(words: dict[str, int], arena_bytes: int) -> None:
    """Where in a block of memory the parts of a call are."""
    tables = BLOCK_HEADER + 8 * (words["inputs"] + words["consts"] + words["outputs"])
    words["objects_at"] = tables
    words["scratch_at"] = _rounded(tables + 8 * words["outputs"], 16)
    scratch = 16 * (words["inputs"] + words["outputs"])
    words["arena_at"] = _rounded(words["scratch_at"] + scratch, ALIGNMENT)
    words["status_at"] = words["arena_at"] + _rounded(arena_bytes, 8)
    words["block_bytes"] = words["status_at"] + machine.STATUS_BYTES + ALIGNMENT


def _rounded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _free_blocks(words: np.ndarray) -> None:
    """Give back the blocks of a record that is no longer used: each is memory of an array."""
    at = int(words[WORDS.index("free")])
    while at:
        following, owner = (ctypes.c_ssize_t * 2).from_address(at)
        ctypes.pythonapi.Py_DecRef(ctypes.c_void_p(owner))
        at = following
