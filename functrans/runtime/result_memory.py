"""Memory of large results, kept for the next call.

A loop `y = f(x)` asks for as much memory as it frees. glibc gives what is free at the end of its
heap back to the system, which hands it out again page by page, each cleared: for 8 MB that takes a
millisecond, where a layernorm takes a quarter of one. So native entries make large outputs under a
memory handler of our own (NEP 49). It gets blocks from NumPy's default handler, and keeps those
that are freed for the next request of about their size.

What is kept is bounded, and a block that many requests have passed by goes back. A thread that
finds another one inside does without: NumPy's calls come under the interpreter's lock, where there
is one.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from functrans import loop_ir as ir
from functrans.runtime import codegen, python_objects
from functrans.runtime.codegen import Unit
from functrans.runtime.record import ALIGNMENT, declared, read

LARGE = 128 << 10  # outputs of a call: glibc keeps less at the end of its heap (M_TRIM_THRESHOLD)
# A request searches the kept blocks, which takes 5 ns for each: small ones are not worth it.
_LEAST_BYTES = 16 << 10
_KEPT_BLOCKS = 64
KEPT_BYTES = 64 << 20  # as much as glibc keeps after frees of 32 MiB, the greatest threshold it has
_PATIENCE = 1000  # requests that may pass by a block: a second of calls of a millisecond

# The state: the default handler's allocator, whether a thread is inside, requests so far, bytes
# and number of kept blocks, and these from the first to the last that was freed.
_STATE = ("allocator", "busy", "clock", "kept", "count", "blocks")
_STATE_WORDS = len(_STATE) - 1 + _KEPT_BLOCKS
# Before the data are the pointer that the default handler gave, and the size: that of the array
# when it dies may be another. A kept block begins with the time when it was freed.
_RAW, _SIZE = -16, -8
_HEAD = -_RAW + ALIGNMENT


def _word(name: str) -> str:
    """Text that reads a word of the state."""
    return read(f"%{name}", "i64", "%state", 8 * _STATE.index(name))


_FROM_DEFAULT = f"""
define internal ptr @ft_memory.obtain(ptr %state, i64 %size) nounwind {{
entry:
  %allocator = load ptr, ptr %state
  %context = load ptr, ptr %allocator
{read("%malloc", "ptr", "%allocator", 8)}
  %total = add i64 %size, {_HEAD}
  %raw = call ptr %malloc(ptr %context, i64 %total)
  %failed = icmp eq ptr %raw, null
  br i1 %failed, label %none, label %some
some:
  %start = ptrtoint ptr %raw to i64
  %raised = add i64 %start, {_HEAD - 1}
  %aligned = and i64 %raised, {-ALIGNMENT}
  %block = inttoptr i64 %aligned to ptr
  %raw.at = getelementptr i8, ptr %block, i64 {_RAW}
  store ptr %raw, ptr %raw.at
  %size.at = getelementptr i8, ptr %block, i64 {_SIZE}
  store i64 %size, ptr %size.at
  ret ptr %block
none:
  ret ptr null
}}

define internal void @ft_memory.give_back(ptr %state, ptr %block) nounwind {{
entry:
  %allocator = load ptr, ptr %state
  %context = load ptr, ptr %allocator
{read("%free", "ptr", "%allocator", 32)}
{read("%raw", "ptr", "%block", _RAW)}
{read("%size", "i64", "%block", _SIZE)}
  %total = add i64 %size, {_HEAD}
  call void %free(ptr %context, ptr %raw, i64 %total)
  ret void
}}"""

# Whether blocks of this size are kept, and no other thread is inside; who enters must leave.
_ENTER = f"""
define internal i1 @ft_memory.enter(ptr %state, i64 %size) nounwind {{
entry:
  %above = sub i64 %size, {_LEAST_BYTES}
  %is.kept = icmp ule i64 %above, {KEPT_BYTES - _LEAST_BYTES}
  br i1 %is.kept, label %try, label %done
try:
  %busy.at = getelementptr i8, ptr %state, i64 {8 * _STATE.index("busy")}
  %busy = atomicrmw xchg ptr %busy.at, i64 1 seq_cst
  %first = icmp eq i64 %busy, 0
  br label %done
done:
  %entered = phi i1 [ false, %entry ], [ %first, %try ]
  ret i1 %entered
}}

define internal void @ft_memory.leave(ptr %state) nounwind {{
entry:
  %busy.at = getelementptr i8, ptr %state, i64 {8 * _STATE.index("busy")}
  store atomic i64 0, ptr %busy.at seq_cst, align 8
  ret void
}}"""

# Take a block out of those kept, by its place; the last that fits, by size; the first, to go back.
_TAKE = f"""
define internal ptr @ft_memory.take(ptr %state, i64 %place) nounwind {{
entry:
{_word("kept")}
{_word("count")}
  %blocks = getelementptr i8, ptr %state, i64 {8 * _STATE.index("blocks")}
  %block.at = getelementptr ptr, ptr %blocks, i64 %place
  %block = load ptr, ptr %block.at
  %following.at = getelementptr ptr, ptr %block.at, i64 1
  %rest = sub i64 %count, %place
  %bytes = mul i64 %rest, 8
  %moved = sub i64 %bytes, 8
  call void @llvm.memmove.p0.p0.i64(ptr %block.at, ptr %following.at, i64 %moved, i1 false)
{read("%size", "i64", "%block", _SIZE)}
  %less = sub i64 %kept, %size
  store i64 %less, ptr %kept.at
  %fewer = sub i64 %count, 1
  store i64 %fewer, ptr %count.at
  ret ptr %block
}}

define internal ptr @ft_memory.find(ptr %state, i64 %size) nounwind {{
entry:
{_word("count")}
  %blocks = getelementptr i8, ptr %state, i64 {8 * _STATE.index("blocks")}
  %waste = lshr i64 %size, 3
  br label %loop
loop:
  %i = phi i64 [ %count, %entry ], [ %place, %look ]
  %at.end = icmp eq i64 %i, 0
  br i1 %at.end, label %none, label %look
look:
  %place = sub i64 %i, 1
  %block.at = getelementptr ptr, ptr %blocks, i64 %place
  %block = load ptr, ptr %block.at
{read("%block.size", "i64", "%block", _SIZE)}
  %excess = sub i64 %block.size, %size
  %fits = icmp ule i64 %excess, %waste
  br i1 %fits, label %some, label %loop
some:
  %taken = call ptr @ft_memory.take(ptr %state, i64 %place)
  ret ptr %taken
none:
  ret ptr null
}}

define internal void @ft_memory.drop_first(ptr %state) nounwind {{
entry:
  %first = call ptr @ft_memory.take(ptr %state, i64 0)
  call void @ft_memory.give_back(ptr %state, ptr %first)
  ret void
}}"""

# Time passes: requests have passed by what was freed long ago.
_AGE = f"""
define internal void @ft_memory.age(ptr %state) nounwind {{
entry:
{_word("clock")}
{_word("count")}
  %now = add i64 %clock, 1
  store i64 %now, ptr %clock.at
  %none = icmp eq i64 %count, 0
  br i1 %none, label %done, label %look
look:
{read("%first", "ptr", "%state", 8 * _STATE.index("blocks"))}
  %freed = load i64, ptr %first
  %age = sub i64 %now, %freed
  %is.old = icmp ugt i64 %age, {_PATIENCE}
  br i1 %is.old, label %drop, label %done
drop:
  call void @ft_memory.drop_first(ptr %state)
  br label %done
done:
  ret void
}}"""

_KEEP = f"""
define internal void @ft_memory.keep(ptr %state, ptr %block, i64 %size) nounwind {{
entry:
{_word("clock")}
  store i64 %clock, ptr %block
  br label %look
look:
{_word("kept")}
{_word("count")}
  %more = add i64 %kept, %size
  %too.large = icmp ugt i64 %more, {KEPT_BYTES}
  %too.many = icmp eq i64 %count, {_KEPT_BLOCKS}
  %is.full = or i1 %too.large, %too.many
  br i1 %is.full, label %drop, label %append
drop:
  call void @ft_memory.drop_first(ptr %state)
  br label %look
append:
  store i64 %more, ptr %kept.at
  %blocks = getelementptr i8, ptr %state, i64 {8 * _STATE.index("blocks")}
  %block.at = getelementptr ptr, ptr %blocks, i64 %count
  store ptr %block, ptr %block.at
  %count.next = add i64 %count, 1
  store i64 %count.next, ptr %count.at
  ret void
}}"""

# The four functions of a PyDataMemAllocator.
_ALLOCATOR = f"""
define internal ptr @ft_memory.malloc(ptr %state, i64 %size) {{
entry:
  %entered = call i1 @ft_memory.enter(ptr %state, i64 %size)
  br i1 %entered, label %look, label %new
look:
  %kept = call ptr @ft_memory.find(ptr %state, i64 %size)
  call void @ft_memory.age(ptr %state)
  call void @ft_memory.leave(ptr %state)
  %none = icmp eq ptr %kept, null
  br i1 %none, label %new, label %done
new:
  %made = call ptr @ft_memory.obtain(ptr %state, i64 %size)
  br label %done
done:
  %block = phi ptr [ %kept, %look ], [ %made, %new ]
  ret ptr %block
}}

define internal ptr @ft_memory.calloc(ptr %state, i64 %count, i64 %size) {{
entry:
  %product = call {{i64, i1}} @llvm.umul.with.overflow.i64(i64 %count, i64 %size)
  %total = extractvalue {{i64, i1}} %product, 0
  %is.too.much = extractvalue {{i64, i1}} %product, 1
  br i1 %is.too.much, label %refuse, label %make
make:
  %block = call ptr @ft_memory.malloc(ptr %state, i64 %total)
  %failed = icmp eq ptr %block, null
  br i1 %failed, label %refuse, label %clear
clear:
  call void @llvm.memset.p0.i64(ptr %block, i8 0, i64 %total, i1 false)
  ret ptr %block
refuse:
  ret ptr null
}}

define internal ptr @ft_memory.realloc(ptr %state, ptr %block, i64 %size) {{
entry:
  %new = call ptr @ft_memory.malloc(ptr %state, i64 %size)
  %failed = icmp eq ptr %new, null
  %none = icmp eq ptr %block, null
  %done = or i1 %failed, %none
  br i1 %done, label %return, label %move
move:
{read("%old.size", "i64", "%block", _SIZE)}
  %shared = call i64 @llvm.umin.i64(i64 %old.size, i64 %size)
  call void @llvm.memcpy.p0.p0.i64(ptr %new, ptr %block, i64 %shared, i1 false)
  call void @ft_memory.free(ptr %state, ptr %block, i64 %old.size)
  br label %return
return:
  ret ptr %new
}}

define internal void @ft_memory.free(ptr %state, ptr %block, i64 %size.now) {{
entry:
  %none = icmp eq ptr %block, null
  br i1 %none, label %done, label %some
some:
{read("%size", "i64", "%block", _SIZE)}
  %entered = call i1 @ft_memory.enter(ptr %state, i64 %size)
  br i1 %entered, label %keep, label %give.back
keep:
  call void @ft_memory.keep(ptr %state, ptr %block, i64 %size)
  call void @ft_memory.leave(ptr %state)
  br label %done
give.back:
  call void @ft_memory.give_back(ptr %state, ptr %block)
  br label %done
done:
  ret void
}}

define void @ft_memory(ptr %functions) nounwind {{
entry:
  store ptr @ft_memory.malloc, ptr %functions
  %calloc.at = getelementptr ptr, ptr %functions, i64 1
  store ptr @ft_memory.calloc, ptr %calloc.at
  %realloc.at = getelementptr ptr, ptr %functions, i64 2
  store ptr @ft_memory.realloc, ptr %realloc.at
  %free.at = getelementptr ptr, ptr %functions, i64 3
  store ptr @ft_memory.free, ptr %free.at
  ret void
}}"""

_TEXT = "\n".join(
    (_FROM_DEFAULT, _ENTER, _TAKE, _AGE, _KEEP, _ALLOCATOR, declared("""
    void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
    void @llvm.memmove.p0.p0.i64(ptr, ptr, i64, i1)
    void @llvm.memset.p0.i64(ptr, i8, i64, i1)
    {i64, i1} @llvm.umul.with.overflow.i64(i64, i64)
    i64 @llvm.umin.i64(i64, i64)
"""))
)  # fmt: skip
# Fills in the functions. Optimized, it would take longer to compile and save no time that counts.
ALLOCATOR = Unit(_TEXT, lambda name: [_TEXT.replace("@ft_memory", f"@{name}")], is_optimized=False)


class _Allocator(ctypes.Structure):
    """PyDataMemAllocator of NumPy's ndarraytypes.h: malloc, calloc, realloc, free."""

    _fields_ = (("context", ctypes.c_void_p), ("functions", ctypes.c_void_p * 4))


class _Handler(ctypes.Structure):
    """PyDataMem_Handler, and the state behind it."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("allocator", _Allocator),
        ("state", ctypes.c_size_t * _STATE_WORDS),
    )


_VERSION = 1
_CAPSULE_NAME = b"mem_handler"


def are_large(outputs: Sequence[ir.Buffer]) -> bool:
    """Whether the outputs of a call are worth the 0.2 us that the handler takes."""
    return sum(b.nbytes for b in outputs) >= LARGE


@functools.cache
def handler() -> int:
    """The capsule of the handler, which lives for ever; 0 where NumPy has none as it is known."""
    default = _default_handler()
    if default is None:
        return 0
    ours = _Handler(b"functrans", _VERSION)
    ours.allocator.context = ctypes.addressof(ours) + _Handler.state.offset
    ours.state[0] = ctypes.addressof(default) + _Handler.allocator.offset
    fill = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(codegen.addresses([ALLOCATOR])[0])
    fill(ctypes.addressof(ours.allocator) + _Allocator.functions.offset)
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype = ctypes.py_object
    new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    capsule = new_capsule(ctypes.addressof(ours), _CAPSULE_NAME, None)
    for immortal in (ours, _CAPSULE_NAME, capsule):  # arrays may outlive the modules
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(immortal))
    return id(capsule) if _gets_arrays(capsule) else 0


def _default_handler() -> _Handler | None:
    """NumPy's own, if it is as it is known."""
    capsule = ctypes.c_void_p(python_objects.default_handler())
    if not capsule or not python_objects.verify_numpy_functions()["SetHandler"]:
        return None
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    capsule = ctypes.cast(capsule, ctypes.py_object).value
    found = _Handler.from_address(get_pointer(capsule, _CAPSULE_NAME))
    return found if (found.name, found.version) == (b"default_allocator", _VERSION) else None


def _gets_arrays(capsule: Any) -> bool:
    """Whether arrays that are made under the handler have its memory."""
    place = python_objects.verify_numpy_functions()["SetHandler"]
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(place)
    before = set_handler(capsule)
    array = np.empty(1000, np.uint8)
    current = set_handler(before)
    size = ctypes.c_ssize_t.from_address(array.ctypes.data + _SIZE)
    return current is capsule and array.ctypes.data % ALIGNMENT == 0 and size.value == array.nbytes
