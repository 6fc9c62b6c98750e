"""What each word of the loop program's scalar vocabulary is in LLVM.

`lower_scalar(body, op, args, dtypes, out)` appends the instructions for one `Let` to a function
body and returns the name of the result. Booleans are `i1` in registers and `i8` in memory.
Arithmetic carries no fast-math flags: every operation rounds as NumPy's does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from functrans.compiler import vector_math

LIBM = {
    "exp2", "log2", "log10", "sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh",
    "arcsinh", "arccosh", "arctanh", "cbrt", "erf", "erfc", "lgamma",
}  # fmt: skip
LIBM2 = {"atan2", "hypot", "pow", "nextafter", "fmod"}
_LIBM_NAMES = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh",
               "arccosh": "acosh", "arctanh": "atanh"}  # fmt: skip
_INTRINSICS = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "rint", "sqrt": "sqrt",
               "abs": "fabs"}  # fmt: skip


class Body(Protocol):
    """The function body that instructions are appended to (`emission.FunctionBody`)."""

    def emit(self, text: str) -> str:
        """Append `name = text`; returns the name."""
        ...

    def need(self, declaration: str) -> None:
        """Make sure the module has this declaration or function."""
        ...


def llvm_type(dtype: np.dtype) -> str:
    """The type of a scalar of `dtype` in a register."""
    if dtype.kind == "b":
        return "i1"
    if dtype.kind == "f":
        return {4: "float", 8: "double"}[dtype.itemsize]
    return f"i{8 * dtype.itemsize}"


def literal(value: Any, dtype: np.dtype) -> str:
    """A scalar constant as an LLVM operand."""
    if dtype.kind == "b":
        return "true" if value else "false"
    if dtype.kind == "f":
        return vector_math.constant(float(value))
    return str(int(value))


def is_native(op: str, dtypes: Sequence[np.dtype]) -> bool:
    """Whether `op` on these dtypes (operands and result) has a native form."""
    known = op in _WORDS or op in LIBM or op in LIBM2 or op in vector_math.NAMES
    return known and all(d.kind in "biu" or (d.kind == "f" and d.itemsize in (4, 8)) for d in dtypes)


def lower_scalar(
    body: Body, op: str, args: Sequence[str], in_dtypes: Sequence[np.dtype], out: np.dtype
) -> str:
    """Append the instructions of `op`; returns the result's name."""
    t = llvm_type(out)
    if op in vector_math.NAMES and out.kind == "f":
        bits = 8 * out.itemsize
        body.need(vector_math.function(op, bits))
        return body.emit(f"call {t} @ft_{op}_f{bits}({t} {args[0]})")
    if (op in LIBM or (op in LIBM2 and out.kind == "f")) and op not in _WORDS:
        name = _LIBM_NAMES.get(op, op) + ("f" if out.itemsize == 4 else "")
        types = ", ".join([t] * len(args))
        body.need(f"declare {t} @{name}({types})")
        operands = ", ".join(f"{t} {a}" for a in args)
        return body.emit(f"call {t} @{name}({operands})")
    return _WORDS[op](body, list(args), in_dtypes[-1] if in_dtypes else out, out)


Word = Callable[[Body, list[str], np.dtype, np.dtype], str]


def _arithmetic(integer: str, floating: str) -> Word:
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        name = floating if d.kind == "f" else integer
        if d.kind == "b":
            name = "or" if integer == "add" else "and"
        return body.emit(f"{name} {llvm_type(d)} {a[0]}, {a[1]}")

    return word


def _intrinsic(name: str) -> Word:
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        if d.kind != "f":
            return a[0]
        t = llvm_type(d)
        return body.emit(f"call {t} @llvm.{name}.f{8 * d.itemsize}({t} {a[0]})")

    return word


def _neg(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t = llvm_type(d)
    return body.emit(f"fneg {t} {a[0]}" if d.kind == "f" else f"sub {t} 0, {a[0]}")


def _abs(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    if d.kind == "f":
        return _intrinsic("fabs")(body, a, d, out)
    if d.kind in "bu":
        return a[0]
    t = llvm_type(d)
    return body.emit(f"call {t} @llvm.abs.{t}({t} {a[0]}, i1 false)")


def _sign(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t, zero, one = llvm_type(d), literal(0, d), literal(1, d)
    if d.kind == "u":
        nonzero = body.emit(f"icmp ne {t} {a[0]}, 0")
        return body.emit(f"zext i1 {nonzero} to {t}")
    how = ("fcmp ogt", "fcmp olt") if d.kind == "f" else ("icmp sgt", "icmp slt")
    above = body.emit(f"{how[0]} {t} {a[0]}, {zero}")
    below = body.emit(f"{how[1]} {t} {a[0]}, {zero}")
    # What is neither above nor below is 0 (sign +0, as NumPy) or nan.
    rest = zero
    if d.kind == "f":
        unordered = body.emit(f"fcmp uno {t} {a[0]}, {a[0]}")
        rest = body.emit(f"select i1 {unordered}, {t} {a[0]}, {t} {zero}")
    low = body.emit(f"select i1 {below}, {t} {literal(-1, d)}, {t} {rest}")
    return body.emit(f"select i1 {above}, {t} {one}, {t} {low}")


def _compare(floating: str, signed: str, unsigned: str) -> Word:
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        how = {"f": f"fcmp {floating}", "i": f"icmp {signed}"}.get(d.kind, f"icmp {unsigned}")
        return body.emit(f"{how} {llvm_type(d)} {a[0]}, {a[1]}")

    return word


def _extremum(name: str, floating: str) -> Word:
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        t = llvm_type(d)
        if d.kind == "f":
            # Not llvm.maximum: NumPy keeps the first of two equal zeros, as this does.
            wins = body.emit(f"fcmp {floating} {t} {a[0]}, {a[1]}")
            is_nan = body.emit(f"fcmp uno {t} {a[0]}, {a[0]}")
            first = body.emit(f"or i1 {wins}, {is_nan}")
            return body.emit(f"select i1 {first}, {t} {a[0]}, {t} {a[1]}")
        if d.kind == "b":
            return body.emit(f"{'or' if name == 'max' else 'and'} i1 {a[0]}, {a[1]}")
        prefix = "s" if d.kind == "i" else "u"
        return body.emit(f"call {t} @llvm.{prefix}{name}.{t}({t} {a[0]}, {t} {a[1]})")

    return word


def _masked_mul(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t = llvm_type(d)
    product = body.emit(f"fmul {t} {a[0]}, {a[1]}")
    zero = body.emit(f"fcmp oeq {t} {a[0]}, {literal(0, d)}")
    return body.emit(f"select i1 {zero}, {t} {literal(0, d)}, {t} {product}")


def _select(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t = llvm_type(d)
    return body.emit(f"select i1 {a[0]}, {t} {a[1]}, {t} {a[2]}")


def _reciprocal(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    return body.emit(f"fdiv {llvm_type(d)} {literal(1, d)}, {a[0]}")


def _rsqrt(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    return _reciprocal(body, [_intrinsic("sqrt")(body, a, d, out)], d, out)


def _safe_divisor(body: Body, a: list[str], d: np.dtype) -> tuple[str, str]:
    """Whether an integer division is not to be done, and a divisor that may be divided by."""
    t = llvm_type(d)
    bad = body.emit(f"icmp eq {t} {a[1]}, 0")
    if d.kind == "i":
        lowest = body.emit(f"icmp eq {t} {a[0]}, {np.iinfo(d).min}")
        minus = body.emit(f"icmp eq {t} {a[1]}, -1")
        overflow = body.emit(f"and i1 {lowest}, {minus}")
        unsafe = body.emit(f"or i1 {bad}, {overflow}")
    else:
        unsafe = bad
    return bad, body.emit(f"select i1 {unsafe}, {t} 1, {t} {a[1]}")


def _floor_divide(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t = llvm_type(d)
    if d.kind == "f":
        # NumPy's npy_floor_divide: from the remainder, snapped to the nearest integer.
        r = lower_scalar(body, "mod", a, [d, d], d)
        exact = body.emit(f"fdiv {t} {body.emit(f'fsub {t} {a[0]}, {r}')}, {a[1]}")
        floored = _intrinsic("floor")(body, [exact], d, d)
        gap = body.emit(f"fsub {t} {exact}, {floored}")
        up = body.emit(f"fcmp ogt {t} {gap}, {literal(0.5, d)}")
        one = body.emit(f"fadd {t} {floored}, {literal(1, d)}")
        snapped = body.emit(f"select i1 {up}, {t} {one}, {t} {floored}")
        quotient = body.emit(f"fdiv {t} {a[0]}, {a[1]}")
        zero = body.emit(f"fcmp oeq {t} {exact}, {literal(0, d)}")
        signed_zero = body.emit(
            f"call {t} @llvm.copysign.f{8 * d.itemsize}({t} {literal(0, d)}, {t} {quotient})"
        )
        value = body.emit(f"select i1 {zero}, {t} {signed_zero}, {t} {snapped}")
        by_zero = body.emit(f"fcmp oeq {t} {a[1]}, {literal(0, d)}")
        return body.emit(f"select i1 {by_zero}, {t} {quotient}, {t} {value}")
    bad, divisor = _safe_divisor(body, a, d)
    if d.kind == "u":
        q = body.emit(f"udiv {t} {a[0]}, {divisor}")
    else:
        q0 = body.emit(f"sdiv {t} {a[0]}, {divisor}")
        r = body.emit(f"srem {t} {a[0]}, {divisor}")
        inexact = body.emit(f"icmp ne {t} {r}, 0")
        opposite = body.emit(f"icmp slt {t} {body.emit(f'xor {t} {r}, {divisor}')}, 0")
        lower = body.emit(f"and i1 {inexact}, {opposite}")
        # INT_MIN // -1 wraps to INT_MIN, which is INT_MIN divided by the stand-in divisor 1.
        q = body.emit(f"sub {t} {q0}, {body.emit(f'zext i1 {lower} to {t}')}")
    return body.emit(f"select i1 {bad}, {t} 0, {t} {q}")


def _mod(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t = llvm_type(d)
    if d.kind == "f":
        r = lower_scalar(body, "fmod", a, [d, d], d)
        nonzero = body.emit(f"fcmp une {t} {r}, {literal(0, d)}")
        negative = body.emit(f"fcmp olt {t} {r}, {literal(0, d)}")
        below = body.emit(f"fcmp olt {t} {a[1]}, {literal(0, d)}")
        differ = body.emit(f"xor i1 {negative}, {below}")
        fix = body.emit(f"and i1 {nonzero}, {differ}")
        moved = body.emit(f"fadd {t} {r}, {a[1]}")
        value = body.emit(f"select i1 {fix}, {t} {moved}, {t} {r}")
        zero = body.emit(f"call {t} @llvm.copysign.f{8 * d.itemsize}({t} {literal(0, d)}, {t} {a[1]})")
        is_zero = body.emit(f"fcmp oeq {t} {r}, {literal(0, d)}")
        return body.emit(f"select i1 {is_zero}, {t} {zero}, {t} {value}")
    bad, divisor = _safe_divisor(body, a, d)
    if d.kind == "u":
        r = body.emit(f"urem {t} {a[0]}, {divisor}")
    else:
        r0 = body.emit(f"srem {t} {a[0]}, {divisor}")
        inexact = body.emit(f"icmp ne {t} {r0}, 0")
        opposite = body.emit(f"icmp slt {t} {body.emit(f'xor {t} {r0}, {divisor}')}, 0")
        fix = body.emit(f"and i1 {inexact}, {opposite}")
        r = body.emit(f"select i1 {fix}, {t} {body.emit(f'add {t} {r0}, {divisor}')}, {t} {r0}")
    return body.emit(f"select i1 {bad}, {t} 0, {t} {r}")


def _fmod(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t = llvm_type(d)
    if d.kind == "f":
        name = "fmod" if d.itemsize == 8 else "fmodf"
        body.need(f"declare {t} @{name}({t}, {t})")
        return body.emit(f"call {t} @{name}({t} {a[0]}, {t} {a[1]})")
    bad, divisor = _safe_divisor(body, a, d)
    r = body.emit(f"{'srem' if d.kind == 'i' else 'urem'} {t} {a[0]}, {divisor}")
    return body.emit(f"select i1 {bad}, {t} 0, {t} {r}")


def _bitwise(name: str) -> Word:
    return lambda body, a, d, out: body.emit(f"{name} {llvm_type(d)} {a[0]}, {a[1]}")


def _not(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    return body.emit(f"xor {llvm_type(d)} {a[0]}, -1" if d.kind != "b" else f"xor i1 {a[0]}, true")


def _shift(left: bool) -> Word:  # noqa: FBT001
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        t, bits = llvm_type(d), 8 * d.itemsize
        wide = body.emit(f"icmp uge {t} {a[1]}, {bits}")
        amount = body.emit(f"select i1 {wide}, {t} {bits - 1}, {t} {a[1]}")
        if not left and d.kind == "i":
            return body.emit(f"ashr {t} {a[0]}, {amount}")
        moved = body.emit(f"{'shl' if left else 'lshr'} {t} {a[0]}, {amount}")
        return body.emit(f"select i1 {wide}, {t} 0, {t} {moved}")

    return word


def _classify(kind: str) -> Word:
    def word(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
        if d.kind != "f":
            return "true" if kind == "finite" else "false"
        t = llvm_type(d)
        if kind == "nan":
            return body.emit(f"fcmp uno {t} {a[0]}, {a[0]}")
        size = _intrinsic("fabs")(body, a, d, d)
        how = "olt" if kind == "finite" else "oeq"
        return body.emit(f"fcmp {how} {t} {size}, {literal(math.inf, d)}")

    return word


def _signbit(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t, i = llvm_type(d), f"i{8 * d.itemsize}"
    return body.emit(f"icmp slt {i} {body.emit(f'bitcast {t} {a[0]} to {i}')}, 0")


def _population_count(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t = llvm_type(d)
    return body.emit(f"call {t} @llvm.ctpop.{t}({t} {a[0]})")


def _copysign(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    t = llvm_type(d)
    return body.emit(f"call {t} @llvm.copysign.f{8 * d.itemsize}({t} {a[0]}, {t} {a[1]})")


def _integer_pow(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    name, t = f"ft_pow_{d.kind}{8 * d.itemsize}", llvm_type(d)
    body.need(_POW_TEXT.format(name=name, t=t))
    return body.emit(f"call {t} @{name}({t} {a[0]}, {t} {a[1]})")


# Binary powers; overflow wraps as in NumPy.
_POW_TEXT = """define internal {t} @{name}({t} %base, {t} %exponent) {{
entry:
  br label %head
head:
  %b = phi {t} [ %base, %entry ], [ %bb, %step ]
  %e = phi {t} [ %exponent, %entry ], [ %ee, %step ]
  %r = phi {t} [ 1, %entry ], [ %rr, %step ]
  %more = icmp ne {t} %e, 0
  br i1 %more, label %step, label %done
step:
  %odd = trunc {t} %e to i1
  %rb = mul {t} %r, %b
  %rr = select i1 %odd, {t} %rb, {t} %r
  %bb = mul {t} %b, %b
  %ee = lshr {t} %e, 1
  br label %head
done:
  ret {t} %r
}}"""


def _pow(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    if d.kind != "f":
        return _integer_pow(body, a, d, out)
    t, name = llvm_type(d), "pow" if d.itemsize == 8 else "powf"
    body.need(f"declare {t} @{name}({t}, {t})")
    return body.emit(f"call {t} @{name}({t} {a[0]}, {t} {a[1]})")


def _copy(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    return a[0]


def _convert(body: Body, a: list[str], d: np.dtype, out: np.dtype) -> str:
    x, s, t = a[0], llvm_type(d), llvm_type(out)
    if d == out:
        return x
    if out.kind == "b":
        how = f"fcmp une {s} {x}, {literal(0, d)}" if d.kind == "f" else f"icmp ne {s} {x}, 0"
        return body.emit(how)
    if d.kind == "b":
        return body.emit(f"{'uitofp' if out.kind == 'f' else 'zext'} i1 {x} to {t}")
    if d.kind == "f" and out.kind == "f":
        return body.emit(f"{'fptrunc' if out.itemsize < d.itemsize else 'fpext'} {s} {x} to {t}")
    if d.kind == "f":
        # As C compilers do on x86: through a 64-bit integer, then wrapped.
        wide = body.emit(f"call i64 @llvm.fptosi.sat.i64.f{8 * d.itemsize}({s} {x})")
        if out.kind == "u" and out.itemsize == 8:
            big = body.emit(f"fcmp oge {s} {x}, {literal(2.0**63, d)}")
            unsigned = body.emit(f"call i64 @llvm.fptoui.sat.i64.f{8 * d.itemsize}({s} {x})")
            return body.emit(f"select i1 {big}, i64 {unsigned}, i64 {wide}")
        return wide if out.itemsize == 8 else body.emit(f"trunc i64 {wide} to {t}")
    if out.kind == "f":
        return body.emit(f"{'sitofp' if d.kind == 'i' else 'uitofp'} {s} {x} to {t}")
    if out.itemsize == d.itemsize:
        return x
    how = "trunc" if out.itemsize < d.itemsize else "sext" if d.kind == "i" else "zext"
    return body.emit(f"{how} {s} {x} to {t}")


_WORDS: dict[str, Word] = {
    "add": _arithmetic("add", "fadd"),
    "sub": _arithmetic("sub", "fsub"),
    "mul": _arithmetic("mul", "fmul"),
    "div": _arithmetic("sdiv", "fdiv"),
    "neg": _neg,
    "abs": _abs,
    "sign": _sign,
    "floor": _intrinsic("floor"),
    "ceil": _intrinsic("ceil"),
    "trunc": _intrinsic("trunc"),
    "round": _intrinsic("rint"),
    "sqrt": _intrinsic("sqrt"),
    "rsqrt": _rsqrt,
    "reciprocal": _reciprocal,
    "max": _extremum("max", "oge"),
    "min": _extremum("min", "ole"),
    "masked_mul": _masked_mul,
    "select": _select,
    "floor_divide": _floor_divide,
    "mod": _mod,
    "fmod": _fmod,
    "pow": _pow,
    "copysign": _copysign,
    "eq": _compare("oeq", "eq", "eq"),
    "ne": _compare("une", "ne", "ne"),
    "lt": _compare("olt", "slt", "ult"),
    "le": _compare("ole", "sle", "ule"),
    "gt": _compare("ogt", "sgt", "ugt"),
    "ge": _compare("oge", "sge", "uge"),
    "and": _bitwise("and"),
    "or": _bitwise("or"),
    "xor": _bitwise("xor"),
    "not": _not,
    "shift_left": _shift(left=True),
    "shift_right": _shift(left=False),
    "is_finite": _classify("finite"),
    "isnan": _classify("nan"),
    "isinf": _classify("inf"),
    "signbit": _signbit,
    "population_count": _population_count,
    "convert": _convert,
    "copy": _copy,
}
