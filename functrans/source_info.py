"""Where in the user's own file an operation came from.

An equation keeps the code object and instruction offset of the innermost frame outside this
package (and outside NumPy and SciPy, which call back into tracers); the line is looked up only
when somebody asks. Cost: a short walk up the stack per traced operation.
"""

from __future__ import annotations

import os
import sys
from types import CodeType
from typing import NamedTuple

import numpy as np

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_NUMPY = os.path.dirname(os.path.abspath(np.__file__)) + os.sep
_SCIPY = os.sep + "scipy" + os.sep
_internal: dict[CodeType, bool] = {}


class Source(NamedTuple):
    """A place in a user's file: a code object and an instruction offset in it."""

    code: CodeType
    instruction: int

    @property
    def line(self) -> int:
        """The line number, counted from 1."""
        positions = list(self.code.co_positions())
        line = positions[self.instruction // 2][0] if positions else None
        return line or self.code.co_firstlineno

    def __str__(self) -> str:
        name = self.code.co_name
        return f"{self.code.co_filename}:{self.line} ({name})"


def _is_internal(code: CodeType) -> bool:
    known = _internal.get(code)
    if known is None:
        file = code.co_filename
        known = file.startswith((_HERE, _NUMPY, "<__array_function__")) or _SCIPY in file
        _internal[code] = known
    return known


def current_source() -> Source | None:
    """The innermost user frame, or None when there is none (an embedded interpreter)."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        internal = _internal.get(code)
        if internal is None:
            internal = _is_internal(code)
        if not internal:
            return Source(code, frame.f_lasti)
        frame = frame.f_back
    return None
