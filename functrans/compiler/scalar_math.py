"""What each word of the loop program's scalar vocabulary is in LLVM.

`lower_scalar(body, op, args, dtypes, out)` appends the instructions for one `Let` to a function
body and returns the name of the result. The words themselves are in `real_math` and `complex_math`;
float16 is computed in float32 and rounded, as NumPy does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from functrans.compiler import complex_math, real_math
from functrans.compiler.scalar_types import Body

_F32 = np.dtype(np.float32)
_NOT_IN_HALF = frozenset(("nextafter",))  # the neighbour in f32 is another number
_ON_ANY_BITS = frozenset(("copy", "select", "convert", "signbit"))


def is_native(op: str, dtypes: Sequence[np.dtype]) -> bool:
    """Whether `op` on these dtypes (operands and result) has a native form."""
    kinds = {d.kind for d in dtypes}
    if any(d.kind not in "biufc" or d.char in "gG" for d in dtypes):
        return False
    if "c" in kinds:
        return op in complex_math.WORDS
    half = any(d.kind == "f" and d.itemsize == 2 for d in dtypes)
    return op in real_math.WORDS and not (half and op in _NOT_IN_HALF)


def lower_scalar(
    body: Body, op: str, args: Sequence[str], in_dtypes: Sequence[np.dtype], out: np.dtype
) -> str:
    """Append the instructions of `op`; returns the result's name."""
    # The dtype that decides is that of the last operand: a select's first is the condition.
    dtype = in_dtypes[-1] if in_dtypes else out
    if dtype.kind == "c" or out.kind == "c":
        return complex_math.WORDS[op](body, list(args), dtype, out)
    if dtype.kind == "f" and dtype.itemsize == 2 and op not in _ON_ANY_BITS:
        wide = [real_math.call_to(body, "convert", [a], dtype, _F32) for a in args]
        result = real_math.WORDS[op](body, wide, _F32, _F32 if out == dtype else out)
        return real_math.call_to(body, "convert", [result], _F32, dtype) if out == dtype else result
    return real_math.WORDS[op](body, list(args), dtype, out)
