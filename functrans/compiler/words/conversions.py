"""Conversion between real, integer and boolean scalars in LLVM, with the results of `astype`."""

from __future__ import annotations

import numpy as np

from functrans.compiler.words.scalar_types import Body, literal, llvm_type


def convert(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    """The word "convert": the operand, of dtype `d`, as an `out`."""
    x, s, t = a[0], llvm_type(d), llvm_type(out)
    if d == out:
        return x
    if out.kind == "b":
        how = f"fcmp une {s} {x}, {literal(0, d)}" if d.kind == "f" else f"icmp ne {s} {x}, 0"
        return body.emit(how)
    if d.kind == "b":
        return body.emit(f"{'uitofp' if out.kind == 'f' else 'zext'} i1 {x} to {t}")
    if d.kind == "f" and out.kind == "f":
        if d.itemsize == out.itemsize:
            return x
        if d.itemsize == 8 and out.itemsize == 2:
            d, s, x = np.dtype(np.float32), "float", _rounded_to_odd(body, x)
        return body.emit(f"{'fptrunc' if out.itemsize < d.itemsize else 'fpext'} {s} {x} to {t}")
    if d.kind == "f":
        return _float_to_integer(body, x, d, out)
    if out.kind == "f":
        return body.emit(f"{'sitofp' if d.kind == 'i' else 'uitofp'} {s} {x} to {t}")
    if out.itemsize == d.itemsize:
        return x
    how = "trunc" if out.itemsize < d.itemsize else "sext" if d.kind == "i" else "zext"
    return body.emit(f"{how} {s} {x} to {t}")


def _rounded_to_odd(body: Body, x: str) -> str:
    """A double as a float whose last bit says whether it is inexact.

    Rounding that to half is rounding the double once (Boldo and Melquiond, IEEE Trans. Comput.
    57(4), 2008); x86 has no instruction for it, and LLVM would call a function that is not there.
    """
    bits = body.emit(f"bitcast double {x} to i64")
    low = body.emit(f"and i64 {bits}, {2**29 - 1}")
    inexact = body.emit(f"icmp ne i64 {low}, 0")
    kept = body.emit(f"and i64 {bits}, {-(2**29)}")
    sticky = body.emit(f"select i1 {inexact}, i64 {2**29}, i64 0")
    odd = body.emit(f"or i64 {kept}, {sticky}")
    return body.emit(f"fptrunc double {body.emit(f'bitcast i64 {odd} to double')} to float")


def _float_to_integer(body: Body, x: str, d: np.dtype, out: np.dtype) -> str:
    """As NumPy's C on x86: through i32 or i64, where what does not fit is the lowest number."""
    if d.itemsize == 2:  # float16 has no bounds to compare with
        d, x = np.dtype(np.float32), body.emit(f"fpext half {x} to float")
    s, t = llvm_type(d), llvm_type(out)
    if out.kind == "u" and out.itemsize == 8:
        # 2**63 and above are converted less 2**63, which is then set as the highest bit.
        big = body.emit(f"fcmp oge {s} {x}, {literal(2.0**63, d)}")
        lowered = body.emit(f"fsub {s} {x}, {literal(2.0**63, d)}")
        low = _in_range(body, x, d, 64)
        high = body.emit(f"xor i64 {_in_range(body, lowered, d, 64)}, {-(2**63)}")
        return body.emit(f"select i1 {big}, i64 {high}, i64 {low}")
    bits = 64 if out.itemsize == 8 or out == np.dtype(np.uint32) else 32
    value = _in_range(body, x, d, bits)
    return value if bits == 8 * out.itemsize else body.emit(f"trunc i{bits} {value} to {t}")


def _in_range(body: Body, x: str, d: np.dtype, bits: int) -> str:
    s, bound = llvm_type(d), 2.0 ** (bits - 1)
    # -2**31 - 0.5 truncates into range, but -2**63 - 0.5 and f32 below -2**31 do not exist.
    lowest = -bound - 1 if (bits, d.itemsize) == (32, 8) else -bound
    how = "ogt" if lowest < -bound else "oge"
    above = body.emit(f"fcmp {how} {s} {x}, {literal(lowest, d)}")
    below = body.emit(f"fcmp olt {s} {x}, {literal(bound, d)}")
    fits = body.emit(f"and i1 {above}, {below}")
    value = body.emit(f"fptosi {s} {x} to i{bits}")
    return body.emit(f"select i1 {fits}, i{bits} {value}, i{bits} {-(2 ** (bits - 1))}")
