"""What each word of the loop program's scalar vocabulary is in LLVM.

`lower_scalar(body, op, args, dtypes, out)` appends the instructions for one `Let` to a function
body and returns the name of the result. The words themselves are in `real_math` and `complex_math`;
float16 is computed in float32 and rounded, as NumPy does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from functrans.compiler.words import complex_math, real_math
from functrans.compiler.words.scalar_types import Body

_F32 = np.dtype(np.float32)
_ON_ANY_BITS = frozenset(("copy", "select", "convert", "signbit"))


def is_native(op: str, dtypes: Sequence[np.dtype]) -> bool:
    """Whether `op` on these dtypes (operands and result) has a native form."""
    kinds = {d.kind for d in dtypes}
    if any(d.kind not in "biufc" or d.char in "gG" for d in dtypes):
        return False
    if "c" in kinds:
        return op in complex_math.WORDS
    return op in real_math.WORDS


def lower_scalar(
    body: Body, op: str, args: Sequence[str], in_dtypes: Sequence[np.dtype], out: np.dtype
) -> str:
    """Append the instructions of `op`; returns the result's name."""
    # The dtype that decides is that of the last operand: a select's first is the condition.
    dtype = in_dtypes[-1] if in_dtypes else out
    if dtype.kind == "c" or out.kind == "c":
        return complex_math.WORDS[op](body, list(args), dtype, out)
    if dtype.kind == "f" and dtype.itemsize == 2 and op not in _ON_ANY_BITS:
        if op == "nextafter":
            return _next_half(body, args[0], args[1])
        wide = [real_math.call_to(body, "convert", [a], dtype, _F32) for a in args]
        result = real_math.WORDS[op](body, wide, _F32, _F32 if out == dtype else out)
        return real_math.call_to(body, "convert", [result], _F32, dtype) if out == dtype else result
    return real_math.WORDS[op](body, list(args), dtype, out)


def _next_half(body: Body, x: str, y: str) -> str:
    """The float16 next to x on the way to y (npy_half_nextafter): its bits count the numbers."""
    bits = body.emit(f"bitcast half {x} to i16")
    outwards = body.emit(f"fcmp olt half {x}, {y}")
    negative = body.emit(f"icmp slt i16 {bits}, 0")
    down = body.emit(f"icmp eq i1 {outwards}, {negative}")
    moved = body.emit(f"add i16 {bits}, {body.emit(f'select i1 {down}, i16 -1, i16 1')}")
    sign = body.emit(f"and i16 {body.emit(f'bitcast half {y} to i16')}, {-(1 << 15)}")
    smallest = body.emit(f"or i16 {sign}, 1")
    zero = body.emit(f"fcmp oeq half {x}, 0xH0000")
    moved = body.emit(f"select i1 {zero}, i16 {smallest}, i16 {moved}")
    value = body.emit(f"bitcast i16 {moved} to half")
    same = body.emit(f"fcmp oeq half {x}, {y}")
    value = body.emit(f"select i1 {same}, half {x}, half {value}")
    unordered = body.emit(f"fcmp uno half {x}, {y}")
    return body.emit(f"select i1 {unordered}, half 0xH7E00, half {value}")
