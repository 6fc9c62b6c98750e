"""LLVM, through llvmlite: parse, optimize, emit, link.

There are two doors. `llvm_library` calls the C functions of llvmlite's library, which is quicker
and lets threads compile at the same time; but what arguments these take is llvmlite's own affair,
and changes. So it is used with the versions it was tested with, and `llvm_binding`, which is what
llvmlite documents, with all others. Both define the functions that the rest of `runtime` calls on
this module.
"""

from __future__ import annotations

import functools
import importlib.machinery
import os
import re
from typing import Any

from functrans.runtime import llvm_binding, llvm_library

KNOWN = ("0.48", "0.49", "0.50")  # the versions of llvmlite whose C functions are as declared


@functools.cache
def door() -> Any:
    """The module that does it."""
    return llvm_library if _version() in KNOWN else llvm_binding


def _version() -> str:
    """The major and minor version of llvmlite, which is not imported for that."""
    spec = importlib.machinery.PathFinder.find_spec("llvmlite")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("compiling needs llvmlite, which is not installed.")
    file = os.path.join(next(iter(spec.submodule_search_locations)), "_version.py")
    with open(file, encoding="utf-8") as f:
        text = f.read()
    found = re.search(r"\"version\": \"(\d+\.\d+)\.|version = '(\d+\.\d+)\.", text)
    return next(filter(None, found.groups())) if found else ""


def __getattr__(name: str) -> Any:
    return getattr(door(), name)
