"""Calls that choose between compiled programs, without a look at Python.

A jitted function has a program per signature. Its dispatcher is a builtin that tries the *ways* of
the last few signatures: each is a native entry, or a Python function written for one structure of
the arguments, and returns NotImplemented for arguments of another signature. Then, and while any
thread is inside a transformation, it calls the general function.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from functrans.runtime import codegen, entry
from functrans.runtime import python_objects as objects
from functrans.runtime.codegen import Unit
from functrans.runtime.record import read

WAYS = 8
WAY_WORDS = 3  # callable, number of positional arguments, whether there are keywords

# Its record: the dict, the general function, then per way: the function, and what it takes.
_TEXT = f"""
@ft.not_implemented = external global i8
declare i64 @PyDict_Size(ptr)
declare ptr @PyObject_Vectorcall(ptr, ptr, i64, ptr)
declare void @Py_IncRef(ptr)
declare void @Py_DecRef(ptr)
define ptr @ft_entry_dispatch(ptr %self, ptr %args, i64 %count, ptr %names) {{
entry:
{read("%record", "ptr", "%self", objects.DATA_OFFSET)}
{read("%unusual", "ptr", "%record", 0)}
{read("%general", "ptr", "%record", 8)}
  %ways = getelementptr i64, ptr %record, i64 2
  %no.names = icmp eq ptr %names, null
  %keywords = select i1 %no.names, i64 0, i64 1
  %threads = call i64 @PyDict_Size(ptr %unusual)
  %usual = icmp eq i64 %threads, 0
  br i1 %usual, label %loop, label %call.general
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %following ]
  %at.end = icmp eq i64 %i, {WAYS}
  br i1 %at.end, label %call.general, label %look
look:
  %spec = getelementptr [{WAY_WORDS} x i64], ptr %ways, i64 %i
{read("%way", "ptr", "%spec", 0)}
{read("%wanted.count", "i64", "%spec", 8)}
{read("%wanted.keywords", "i64", "%spec", 16)}
  %is.none = icmp eq ptr %way, null
  br i1 %is.none, label %call.general, label %compare
compare:
  %count.ok = icmp eq i64 %count, %wanted.count
  %keywords.ok = icmp eq i64 %keywords, %wanted.keywords
  %fits = and i1 %count.ok, %keywords.ok
  br i1 %fits, label %try, label %following
try:
  call void @Py_IncRef(ptr %way)
  %result = call ptr @PyObject_Vectorcall(ptr %way, ptr %args, i64 %count, ptr %names)
  call void @Py_DecRef(ptr %way)
  %refused = icmp eq ptr %result, @ft.not_implemented
  br i1 %refused, label %drop, label %return
return:
  ret ptr %result
drop:
  call void @Py_DecRef(ptr %result)
  br label %following
following:
  %i.next = add i64 %i, 1
  br label %loop
call.general:
  %other = call ptr @PyObject_Vectorcall(ptr %general, ptr %args, i64 %count, ptr %names)
  ret ptr %other
}}"""

_DISPATCH = Unit(
    _TEXT, lambda name: [_TEXT.replace("@ft_entry_dispatch(", f"@{name}(")], is_optimized=False
)


class Dispatcher:
    """Calls of one function: `function` is a builtin that tries the preferred ways in turn.

    It calls `general` when they all refuse, and always while `unusual` is not empty.
    """

    def __init__(self, name: str, general: Callable[..., Any], unusual: dict[Any, Any]):
        self._kept: dict[int, Callable[..., Any]] = {}  # the words hold no references
        self._lock = threading.Lock()
        self._misses = 0
        self._words = np.zeros(2 + WAYS * WAY_WORDS, np.int64)
        self._words[:2] = id(unusual), id(general)
        record = self._words.view(entry.Record)
        record.keep = (general, unusual)
        address = codegen.addresses([_DISPATCH])[0]
        self.function = objects.builtin_function(address, name, record, takes_keywords=True)

    def prefer(self, way: Callable[..., Any], positional: int, *, keywords: bool) -> None:
        """Try `way` too from now on, with this number of arguments, with keywords or without.

        It takes the place of the last one; not at once, since where more signatures take turns
        than there are places, changing all of them at every call helps none.
        """
        words = self._words
        self._misses += 1
        if len(self._kept) >= WAYS and self._misses % WAYS:
            return
        with self._lock:
            if id(way) in words[2::WAY_WORDS].tolist():
                return
            self._kept[id(way)] = way
            words[2 + WAY_WORDS :] = words[2:-WAY_WORDS]
            words[2 : 2 + WAY_WORDS] = id(way), positional, keywords

    def ways(self) -> list[Callable[..., Any]]:
        """What it tries, in order."""
        with self._lock:
            return [self._kept[i] for i in self._words[2::WAY_WORDS].tolist() if i]

    def clear(self) -> None:
        """Forget all but the general way."""
        with self._lock:
            self._words[2:] = 0
            self._kept = {}
